//! The `pec_` parameters, which stand in Postfix's own main.cf.
//!
//! Promise: one [`TABLE`] says what there is; the programs read by it and docs/configuration.md is printed
//! from it. An unknown `pec_` parameter, a missing one or a value that is not allowed is one line with name,
//! value and what is allowed. What Postfix knows already (`virtual_mailbox_domains`, `message_size_limit`
//! ...) is asked of Postfix, never set twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pec_core::address::{Address, is_domain};
use pec_core::smime::pkcs11::Pkcs11Uri;
use pec_core::smime::verify::TooOld;

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A mail domain.
    Domain,
    /// Any text.
    Text,
    /// An absolute path.
    Path,
    /// A private key: an absolute path, or a `pkcs11:` URI.
    Key,
    /// Where a milter listens: `unix:path` (below Postfix's queue_directory unless absolute) or
    /// `inet:host:port`.
    Socket,
    /// A number of bytes, at least the first and at most the second.
    Bytes(u64, u64),
    /// A number, at least the first and at most the second.
    Count(u64, u64),
    /// Mail domains and mail addresses, separated by blanks or commas, or the word `all`.
    Addresses,
    /// Names of hosts or domains, separated by blanks or commas.
    Domains,
    /// An `https://` address.
    HttpsUrl,
    /// An `http://` or `https://` address.
    WebUrl,
    /// Mail addresses, and `http://` or `https://` addresses with a public key behind `#`, separated by
    /// blanks or commas.
    Witnesses,
    /// A socket that the file system guards: `unix:path`, as [`Kind::Socket`].
    UnixSocket,
    /// Where another program listens, as [`Kind::Socket`], or `none`.
    Peer,
    /// A time as Postfix writes it: a number and a unit.
    Time,
    /// A list of file name extensions.
    Extensions,
    /// `yes` or `no`.
    YesNo,
    /// One of two words.
    Word(&'static str, &'static str),
}

impl Kind {
    fn allowed(self) -> String {
        match self {
            Self::Domain => "a mail domain".to_owned(),
            Self::Text => "a text that is not empty".to_owned(),
            Self::Path => "an absolute path".to_owned(),
            Self::Key => "an absolute path or a pkcs11: URI".to_owned(),
            Self::Socket => "unix:path or inet:host:port".to_owned(),
            Self::Bytes(least, most) => format!("a number of bytes from {least} to {most}"),
            Self::Count(least, most) => format!("a number from {least} to {most}"),
            Self::Addresses => "mail domains and addresses, or all".to_owned(),
            Self::Domains => "a list of host names".to_owned(),
            Self::HttpsUrl => "an https:// address".to_owned(),
            Self::WebUrl => "an http:// or https:// address".to_owned(),
            Self::Witnesses => "a list of mail addresses and of http:// or https:// addresses, each of \
                these with #NAME+ID+KEY behind it"
                .to_owned(),
            Self::UnixSocket => "unix:path".to_owned(),
            Self::Peer => "unix:path, inet:host:port or none".to_owned(),
            Self::Time => "a time such as 45s, 30m, 6h or 2d".to_owned(),
            Self::Extensions => "a list of file name extensions such as exe, js".to_owned(),
            Self::YesNo => "yes or no".to_owned(),
            Self::Word(one, other) => format!("{one} or {other}"),
        }
    }

    fn admits(self, value: &str) -> bool {
        match self {
            Self::Domain => is_domain(value) && value.contains('.'),
            Self::Text => !value.is_empty(),
            Self::Path => value.starts_with('/'),
            Self::Key => value.starts_with('/') || value.parse::<Pkcs11Uri>().is_ok(),
            Self::Socket => Socket::parse(value, Path::new("/")).is_some(),
            Self::Addresses => {
                value == "all"
                    || split_list(value).iter().all(|e| is_domain(e) || Address::parse(e).is_some())
            }
            Self::Bytes(least, most) | Self::Count(least, most) => {
                value.parse().is_ok_and(|n| (least..=most).contains(&n))
            }
            Self::Domains => split_list(value).iter().all(|e| is_domain(e)),
            Self::HttpsUrl => {
                value.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.contains(' '))
            }
            Self::WebUrl => is_web_url(value),
            Self::Witnesses => split_list(value).iter().all(|e| Witness::parse(e).is_some()),
            Self::UnixSocket => value.starts_with("unix:") && Socket::parse(value, Path::new("/")).is_some(),
            Self::Peer => value == "none" || Socket::parse(value, Path::new("/")).is_some(),
            Self::Time => seconds(value).is_some(),
            Self::YesNo => matches!(value, "yes" | "no"),
            Self::Word(one, other) => value == one || value == other,
            Self::Extensions => extensions(value)
                .iter()
                .all(|e| !e.is_empty() && e.bytes().all(|b| b.is_ascii_alphanumeric())),
        }
    }
}

impl Kind {
    /// An error where the value is not allowed, which names it and says what is.
    fn check(self, name: &str, value: &str) -> Result<(), ParameterError> {
        if self.admits(value) {
            return Ok(());
        }
        let (mut allowed, mut shown) = (self.allowed(), value.to_owned());
        if self == Self::Key
            && value.starts_with("pkcs11:")
            && let Err(why) = value.parse::<Pkcs11Uri>()
        {
            allowed = format!("{allowed} (RFC 7512), and {why}");
            // Whoever writes a PIN into the URI shall not find it in the log besides.
            if let Some(pin) = shown.find("pin") {
                shown.truncate(pin);
                shown.push_str("...");
            }
        }
        Err(ParameterError::Value { name: name.to_owned(), value: shown, allowed })
    }
}

fn is_web_url(value: &str) -> bool {
    let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(' '))
}

/// A value without the password or PIN that somebody wrote into it instead of a file of its own.
fn without_secrets(value: &str) -> String {
    let secret = ["password", "pin-value"].iter().filter_map(|word| value.find(word)).min();
    secret.map_or_else(|| value.to_owned(), |at| format!("{}...", &value[..at]))
}

/// A time in seconds.
fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|&s| s > 0)
}

/// File name extensions in lower case, without the dots that some write.
fn extensions(text: &str) -> Vec<String> {
    split_list(text).iter().map(|e| e.trim_start_matches('.').to_ascii_lowercase()).collect()
}

/// What holds where a parameter is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unset {
    /// The programs do not start.
    Required,
    /// This value.
    Default(&'static str),
    /// Nothing: the thing is not used.
    Nothing,
}

/// One parameter.
#[derive(Debug)]
pub struct Parameter {
    /// As it stands in main.cf.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What holds otherwise.
    pub unset: Unset,
    /// What it means, for docs/configuration.md.
    pub meaning: &'static str,
}

/// The 30 MB that a provider must carry at least: message size times recipients (DM 2/11/2005 art. 12).
pub const GUARANTEED_SIZE: u64 = 30 * 1024 * 1024;

/// What an envelope, or a receipt, adds around the original at most, in bytes (texts and daticert.xml of
/// 1,000 recipients, signature).
pub const WRAPPING_ALLOWANCE: u64 = 1024 * 1024;

/// By how much `message_size_limit` must stand above `pec_message_size_limit`: an envelope of the largest
/// original passes, and so does a receipt with the original of the largest envelope that passes.
pub const ENVELOPE_ALLOWANCE: u64 = 2 * WRAPPING_ALLOWANCE;

/// All parameters.
pub const TABLE: &[Parameter] = &[
    Parameter {
        name: "pec_service_domain",
        kind: Kind::Domain,
        unset: Unset::Required,
        meaning: "The provider's own domain (not its customers'). Envelopes and receipts come from \
            posta-certificata@ this domain, identifiers end in it, and the certificate must be for that \
            address.",
    },
    Parameter {
        name: "pec_provider_name",
        kind: Kind::Text,
        unset: Unset::Required,
        meaning: "The provider's name as the directory of providers has it (`providerName`). It stands in \
            every receipt as `gestore-emittente`.",
    },
    Parameter {
        name: "pec_provider_unit",
        kind: Kind::Text,
        unset: Unset::Nothing,
        meaning: "Which operating environment of the provider this is, as the directory has it \
            (`providerUnit`); not set for the main one. Certificate, domains and service mailbox are those \
            of its own record.",
    },
    Parameter {
        name: "pec_certificate_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "PEM file with the certificate that signs, followed by the certificates above it. It must \
            be of the profile of RFC 6109 section 5.5, for posta-certificata@`pec_service_domain`, with \
            `pec_provider_name` as O or CN, and in our record of the directory. A root certificate may \
            stand there; it is not sent along.",
    },
    Parameter {
        name: "pec_signing_key",
        kind: Kind::Key,
        unset: Unset::Required,
        meaning: "That certificate's private key, RSA of 2048 to 4096 bits. On a token (HSM): a URI such as \
            `pkcs11:token=alfa;object=pec` (RFC 7512; token or serial, and object or id). For trying out: a \
            PEM file without passphrase, readable by the user of the milters alone. See keys.md.",
    },
    Parameter {
        name: "pec_pkcs11_module",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "The PKCS#11 library of the token's vendor, such as `/usr/lib/softhsm/libsofthsm2.so`. \
            Needed where `pec_signing_key` is on a token.",
    },
    Parameter {
        name: "pec_pkcs11_pin_file",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "File whose first line is the token's user PIN; closed to other users. Needed where \
            `pec_signing_key` is on a token.",
    },
    Parameter {
        name: "pec_pkcs11_time_limit",
        kind: Kind::Time,
        unset: Unset::Default("10s"),
        meaning: "How long the token may take to sign, or to be opened. One that takes longer is given up \
            for that moment: mail waits, and it is opened anew.",
    },
    Parameter {
        name: "pec_ca_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "PEM file with the CAs that may vouch for other providers' certificates. No other CA is \
            believed, the system's own store included. A CA that stands here is itself never asked about: \
            to have an issuing CA revoked by its root, name the root alone.",
    },
    Parameter {
        name: "pec_crl_directory",
        kind: Kind::Path,
        unset: Unset::Default("/var/lib/pec/crl"),
        meaning: "Directory in which the CAs' revocation lists (CRLs) lie, one file for each address that \
            certificates name. pec-clock fetches them, pec-incoming those of a new CA. Writable by the user \
            of the milters.",
    },
    Parameter {
        name: "pec_crl_refresh",
        kind: Kind::Time,
        unset: Unset::Default("1h"),
        meaning: "How often CRLs are fetched. What fails is tried again after five minutes.",
    },
    Parameter {
        name: "pec_crl_too_old",
        kind: Kind::Word("wait", "believe"),
        unset: Unset::Default("wait"),
        meaning: "What becomes of certified mail whose CA has not renewed its CRL in time. `wait`: it waits \
            (451), and the log names the CRL. `believe`: the old CRL counts on, with a warning. Without any \
            CRL mail always waits.",
    },
    Parameter {
        name: "pec_directory_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "The directory of providers as an LDIF file (RFC 6109 section 4.5): who signs with which \
            certificate, which domains are certified, where a presa in carico goes. Our own record must be \
            in it. The programs notice when it changes. Where `pec_directory_url` is set, what was fetched \
            is kept here: its directory must be writable by the user of the milters.",
    },
    Parameter {
        name: "pec_directory_url",
        kind: Kind::HttpsUrl,
        unset: Unset::Nothing,
        meaning: "Where the signed directory of providers (`.p7m`) is fetched. Not set: nothing is fetched, \
            and the administrator puts `pec_directory_file` to its place.",
    },
    Parameter {
        name: "pec_directory_signer_file",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "PEM file with the certificates that may sign the directory: AgID's, each of them by \
            itself; no CA can vouch for another. Needed with `pec_directory_url`.",
    },
    Parameter {
        name: "pec_directory_client_certificate_file",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "PEM file with the certificate, followed by those above it, by which the directory's \
            server knows us. Needed with `pec_directory_url`.",
    },
    Parameter {
        name: "pec_directory_client_key_file",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "That certificate's private key: a PEM file without passphrase, readable by the user of \
            the milters alone. Needed with `pec_directory_url`.",
    },
    Parameter {
        name: "pec_directory_ca_file",
        kind: Kind::Path,
        unset: Unset::Default("/etc/ssl/certs/ca-certificates.crt"),
        meaning: "PEM file with the CAs that may vouch for the directory's server. What it brings must be \
            signed besides.",
    },
    Parameter {
        name: "pec_directory_refresh",
        kind: Kind::Time,
        unset: Unset::Default("12h"),
        meaning: "How often the directory is fetched, by pec-clock on each host. What fails is tried again \
            after five minutes.",
    },
    Parameter {
        name: "pec_database",
        kind: Kind::Text,
        unset: Unset::Required,
        meaning: "How to reach PostgreSQL, as libpq writes it: `host=127.0.0.1 dbname=pec user=pec`. No \
            password here.",
    },
    Parameter {
        name: "pec_database_password_file",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "File whose first line is the password of the user in `pec_database`.",
    },
    Parameter {
        name: "pec_register",
        kind: Kind::Path,
        unset: Unset::Default("/var/lib/pec/register"),
        meaning: "Directory of what proves the retained log: the tree's tiles and checkpoint (C2SP \
            tlog-tiles), each day's file with signature and timestamp. It may be served over HTTP but for \
            `days`, whose files have the rows. Writable by the user of pec-clock; on another disk than the \
            database.",
    },
    Parameter {
        name: "pec_register_key",
        kind: Kind::Key,
        unset: Unset::Required,
        meaning: "The Ed25519 key that signs the register's checkpoints: a PEM file without passphrase, \
            readable by the user of pec-clock alone, made by `pecctl key log`; or on a token, as \
            `pec_signing_key`.",
    },
    Parameter {
        name: "pec_register_database",
        kind: Kind::Text,
        unset: Unset::Required,
        meaning: "How pec-clock and pecctl reach PostgreSQL to seal the retained log: as `pec_database`, \
            with another user, who has the role `pec_registrar`. The milters' user can seal nothing.",
    },
    Parameter {
        name: "pec_register_password_file",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "File whose first line is the password of the user in `pec_register_database`.",
    },
    Parameter {
        name: "pec_tsa_url",
        kind: Kind::WebUrl,
        unset: Unset::Nothing,
        meaning: "Where the timestamping authority (TSA, RFC 3161) answers. It says when the retained log's \
            days were closed. Not set: nothing is timestamped, which the rules do not allow a provider, and \
            each start of pec-clock warns of it.",
    },
    Parameter {
        name: "pec_tsa_ca_file",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "PEM file with the CAs that may vouch for the TSA's certificate. Needed with \
            `pec_tsa_url`.",
    },
    Parameter {
        name: "pec_witnesses",
        kind: Kind::Witnesses,
        unset: Unset::Nothing,
        meaning: "To whom the register's checkpoints are sent, so that not even we can write another past: \
            mail addresses, and addresses of C2SP witnesses (tlog-witness), each with the witness's public \
            key behind `#`: `https://witness.example/#witness.example+1a2b3c4d+BASE64`. See register.md.",
    },
    Parameter {
        name: "pec_witness_interval",
        kind: Kind::Time,
        unset: Unset::Default("1h"),
        meaning: "How often the newest checkpoint is sent to `pec_witnesses`, if it is a new one.",
    },
    Parameter {
        name: "pec_metrics_file",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "File in which pec-clock writes every ten minutes, for Prometheus' node_exporter (textfile \
            collector), how far the register is sealed and which rules of certified mail are broken.",
    },
    Parameter {
        name: "pec_log_months",
        kind: Kind::Count(30, 1200),
        unset: Unset::Default("30"),
        meaning: "For how many months rows of the retained log stay in the database (DPR 68/2005 art. 11: \
            thirty at least). `pecctl log retire` has older months leave; nothing leaves by itself.",
    },
    Parameter {
        name: "pec_access_milter",
        kind: Kind::Socket,
        unset: Unset::Required,
        meaning: "Where pec-access listens for submission (587, 465). Whoever can connect to a milter's \
            socket can have things signed: a unix socket in a directory that only postfix may enter is the \
            safe choice.",
    },
    Parameter {
        name: "pec_incoming_milter",
        kind: Kind::Socket,
        unset: Unset::Required,
        meaning: "Where pec-incoming listens for port 25.",
    },
    Parameter {
        name: "pec_local_milter",
        kind: Kind::Socket,
        unset: Unset::Default("unix:pec/local"),
        meaning: "Where pec-incoming listens for what programs of this host put into the queue (`sendmail`, \
            cron).",
    },
    Parameter {
        name: "pec_delivery_lmtp",
        kind: Kind::UnixSocket,
        unset: Unset::Required,
        meaning: "Where pec-delivery listens for mail to mailboxes of ours: the socket that Postfix's \
            `virtual_transport` names.",
    },
    Parameter {
        name: "pec_triggers_lmtp",
        kind: Kind::UnixSocket,
        unset: Unset::Required,
        meaning: "Where pec-delivery listens for triggers, the copies that Postfix's queue manager sends \
            round (`transport_maps`), and those that pec-clock brings.",
    },
    Parameter {
        name: "pec_reports_milter",
        kind: Kind::Socket,
        unset: Unset::Required,
        meaning: "Where pec-delivery listens for the failures that Postfix itself reports \
            (`non_smtpd_milters`).",
    },
    Parameter {
        name: "pec_mailbox_lmtp",
        kind: Kind::Socket,
        unset: Unset::Required,
        meaning: "Where the mailbox server's LMTP listens. Its 250 must mean that the message is stored and \
            visible in the mailbox: a receipt certifies that.",
    },
    Parameter {
        name: "pec_mailbox_lmtp_no_quota",
        kind: Kind::Socket,
        unset: Unset::Required,
        meaning: "Where the mailbox server's second LMTP listener is, which knows no quota: receipts and \
            notices reach a full mailbox too.",
    },
    Parameter {
        name: "pec_outgoing_smtpd",
        kind: Kind::UnixSocket,
        unset: Unset::Required,
        meaning: "Postfix's own smtpd to which pec-delivery gives receipts and notices for other providers. \
            It asks no milter, so nobody but the milters' user may reach it.",
    },
    Parameter {
        name: "pec_row_keys_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "File with the keys that authenticate the database's rows, the same on all hosts, for the \
            milters' user alone: 64 hexadecimal digits a line. The first makes, all are believed. `pecctl \
            key rows` prints one.",
    },
    Parameter {
        name: "pec_message_size_limit",
        kind: Kind::Bytes(GUARANTEED_SIZE, 2 * 1024 * 1024 * 1024),
        unset: Unset::Default("31457280"),
        meaning: "The largest original in bytes; what is larger is refused while it is being sent. \
            Postfix's `message_size_limit` must stand at least 2097152 bytes above it, since it caps \
            envelopes and receipts too.",
    },
    Parameter {
        name: "pec_total_size_limit",
        kind: Kind::Bytes(GUARANTEED_SIZE, 1024 * 1024 * 1024 * 1024),
        unset: Unset::Default("104857600"),
        meaning: "The most that size of the original times number of recipients may be, in bytes. The law \
            guarantees users 30 MB (DM 2/11/2005 art. 12).",
    },
    Parameter {
        name: "pec_recipient_limit",
        kind: Kind::Count(50, 100_000),
        unset: Unset::Default("500"),
        meaning: "The most recipients that an original may have; the law guarantees users 50 (DM 2/11/2005 \
            art. 12). Postfix's `smtpd_recipient_limit` must not stand below it.",
    },
    Parameter {
        name: "pec_refuse_ordinary_mail",
        kind: Kind::Addresses,
        unset: Unset::Nothing,
        meaning: "Domains and mailboxes of ours, or `all`, that take certified mail only: ordinary mail to \
            them is refused with an SMTP error instead of being delivered in a busta di anomalia. What a \
            provider of the directory has signed is never refused by this.",
    },
    Parameter {
        name: "pec_require_tls",
        kind: Kind::YesNo,
        unset: Unset::Default("no"),
        meaning: "Whether certified mail of other providers must come encrypted. `no`: what comes in clear \
            text is taken, with a warning in the log that names the provider. `yes`: it waits (451) until \
            it comes over TLS. Ordinary mail is not concerned.",
    },
    Parameter {
        name: "pec_mx_hosts",
        kind: Kind::Domains,
        unset: Unset::Nothing,
        meaning: "Further names under which the DNS may send mail for the certified domains here, besides \
            `myhostname`: an MX record with another one is foreign, and `pecctl check` names it.",
    },
    Parameter {
        name: "pec_delivery_memory_limit",
        kind: Kind::Bytes(16 * 1024 * 1024, 1024 * 1024 * 1024 * 1024),
        unset: Unset::Default("268435456"),
        meaning: "How many bytes of messages pec-delivery holds at once, receipts in the making included; \
            further ones wait their turn. A message larger than this is held alone.",
    },
    Parameter {
        name: "pec_clamd",
        kind: Kind::Peer,
        unset: Unset::Required,
        meaning: "Where clamd listens, the virus scanner. While it does not answer, mail waits. `none` is \
            for trying out: nothing is scanned, and each start warns of it.",
    },
    Parameter {
        name: "pec_clamd_max_age",
        kind: Kind::Time,
        unset: Unset::Default("6h"),
        meaning: "How old clamd's signatures may be before the log warns of it and the retained log gets a \
            row, once for each version of them. They are looked at every hour. ClamAV's public ones come \
            about once a day; who has no others sets `36h`.",
    },
    Parameter {
        name: "pec_infected_store",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "Directory in which messages with viruses are kept, for thirty months (RFC 6109 section \
            2.2.4); nothing is ever deleted there. Writable by the user of the milters alone, and out of \
            reach of any scanner that removes files.",
    },
    Parameter {
        name: "pec_infected_certificate_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "PEM file with the certificate (RSA) of the auditor. What goes into `pec_infected_store` \
            is encrypted for it, and the key to it, which does not belong on this host, opens it: `pecctl \
            infected show`.",
    },
    Parameter {
        name: "pec_blocked_attachments",
        kind: Kind::Extensions,
        unset: Unset::Nothing,
        meaning: "Kinds of attachments that are not accepted at submission, by their file name extensions; \
            found also when renamed, in zip archives and in attached messages. `postfix-conf/main.cf` sets \
            the list that Italian providers publish.",
    },
];

/// What is wrong with the configuration, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ParameterError {
    /// `postconf` does not run or fails.
    #[error("postconf: {0}")]
    Postconf(String),
    /// `pec_...` that is none of ours.
    #[error("{0}: unknown parameter; see docs/configuration.md for those that exist")]
    Unknown(String),
    /// A required one is missing.
    #[error("{name} is not set in {main_cf}; it must be {allowed}")]
    Missing {
        /// The parameter.
        name: &'static str,
        /// The file.
        main_cf: String,
        /// What it may be.
        allowed: String,
    },
    /// A value that is not allowed.
    #[error("{name} = {value}: not allowed; it must be {allowed}")]
    Value {
        /// The parameter.
        name: String,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// A file that a parameter names cannot be read.
    #[error("{name} = {path}: {trouble}")]
    File {
        /// The parameter.
        name: &'static str,
        /// Its value.
        path: String,
        /// What happened.
        trouble: String,
    },
}

/// Where a milter listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Inet(String),
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inet(address) => write!(f, "inet:{address}"),
        }
    }
}

impl Socket {
    /// Reads Postfix's spelling; a relative path is one below `queue_directory`, as Postfix's own processes
    /// see it.
    fn parse(text: &str, queue_directory: &Path) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(queue_directory.join(path)));
        }
        let address = text.strip_prefix("inet:")?;
        let (host, port) = address.rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)).then(|| Self::Inet(address.to_owned()))
    }
}

/// Where our private key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKey {
    /// In a PEM file.
    File(PathBuf),
    /// On a token.
    Token(Box<Token>),
}

/// What the retained log is sealed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// `pec_register`.
    pub directory: PathBuf,
    /// `pec_register_key`.
    pub key: SigningKey,
    /// `pec_register_database`.
    pub database: String,
    /// `pec_register_password_file`.
    pub password_file: Option<PathBuf>,
    /// `pec_metrics_file`.
    pub metrics_file: Option<PathBuf>,
    /// Who says when; nothing where `pec_tsa_url` is not set.
    pub timestamps: Option<Timestamps>,
    /// `pec_witnesses`.
    pub witnesses: Vec<Witness>,
    /// `pec_witness_interval`.
    pub witness_interval: Duration,
}

/// The timestamping authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamps {
    /// `pec_tsa_url`.
    pub url: String,
    /// `pec_tsa_ca_file`.
    pub ca_file: PathBuf,
}

/// Somebody to whom checkpoints are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Witness {
    /// By mail.
    Mail(Address),
    /// A program that speaks C2SP tlog-witness.
    Web {
        /// Where, without what comes behind `#`, and without `/` at its end.
        url: String,
        /// Its public key (C2SP signed-note: `NAME+ID+KEY`).
        key: String,
    },
}

impl Witness {
    /// Reads an entry of `pec_witnesses`.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.contains("://") {
            return Address::parse(text).map(Self::Mail);
        }
        let (url, key) = text.split_once('#')?;
        let [name, id, bytes] = key.splitn(3, '+').collect::<Vec<_>>()[..] else { return None };
        let is_key = !name.is_empty()
            && id.len() == 8
            && id.bytes().all(|b| b.is_ascii_hexdigit())
            && !bytes.is_empty();
        (is_web_url(url) && is_key)
            .then(|| Self::Web { url: url.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }
}

/// A token with our key, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Which token, which key.
    pub uri: Pkcs11Uri,
    /// The vendor's library.
    pub module: PathBuf,
    /// The file with the PIN.
    pub pin_file: PathBuf,
    /// How long opening or one signature may take.
    pub time_limit: Duration,
    /// The program that talks to the library: pec-token, which lies beside the others.
    pub program: PathBuf,
}

/// How tokens are reached, whichever key of theirs is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pkcs11 {
    /// `pec_pkcs11_module`.
    pub module: Option<PathBuf>,
    /// `pec_pkcs11_pin_file`.
    pub pin_file: Option<PathBuf>,
    /// `pec_pkcs11_time_limit`.
    pub time_limit: Duration,
    /// See [`Token::program`].
    pub program: PathBuf,
    /// Where this is set.
    pub main_cf: String,
}

impl Pkcs11 {
    /// The key that `value` names, spelled as `pec_signing_key`.
    pub fn key(&self, value: &str) -> Result<SigningKey, ParameterError> {
        Kind::Key.check("pec_signing_key", value)?;
        let Ok(uri) = value.parse::<Pkcs11Uri>() else { return Ok(SigningKey::File(value.into())) };
        let needed = |name: &'static str, path: &Option<PathBuf>| {
            let allowed = format!("{}, since the key is on a token", Kind::Path.allowed());
            path.clone().ok_or_else(|| ParameterError::Missing {
                name,
                main_cf: self.main_cf.clone(),
                allowed,
            })
        };
        Ok(SigningKey::Token(Box::new(Token {
            uri,
            module: needed("pec_pkcs11_module", &self.module)?,
            pin_file: needed("pec_pkcs11_pin_file", &self.pin_file)?,
            time_limit: self.time_limit,
            program: self.program.clone(),
        })))
    }
}

/// Who takes no ordinary mail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrdinaryMail {
    all: bool,
    /// Domains and addresses in lower case.
    entries: HashSet<String>,
}

impl OrdinaryMail {
    /// Reads the value of `pec_refuse_ordinary_mail`.
    pub fn parse(value: &str) -> Self {
        Self {
            all: value == "all",
            entries: split_list(value).into_iter().map(|e| e.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether ordinary mail to `recipient` is refused.
    pub fn is_refused(&self, recipient: &Address) -> bool {
        self.all || self.entries.contains(&recipient.domain()) || self.entries.contains(&recipient.key())
    }
}

/// Where the directory of providers is fetched, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySource {
    /// `pec_directory_url`.
    pub url: String,
    /// `pec_directory_signer_file`.
    pub signer_file: PathBuf,
    /// `pec_directory_client_certificate_file`.
    pub certificate_file: PathBuf,
    /// `pec_directory_client_key_file`.
    pub key_file: PathBuf,
    /// `pec_directory_ca_file`.
    pub ca_file: PathBuf,
}

/// The configuration in force, as the programs use it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `pec_service_domain`, in lower case.
    pub service_domain: String,
    /// `pec_provider_name`.
    pub provider_name: String,
    /// `pec_provider_unit`.
    pub provider_unit: Option<String>,
    /// `pec_certificate_file`.
    pub certificate_file: PathBuf,
    /// `pec_signing_key`.
    pub signing_key: SigningKey,
    /// `pec_pkcs11_module`, `pec_pkcs11_pin_file`, `pec_pkcs11_time_limit`.
    pub pkcs11: Pkcs11,
    /// `pec_ca_file`.
    pub ca_file: PathBuf,
    /// `pec_crl_directory`.
    pub crl_directory: PathBuf,
    /// `pec_crl_refresh`.
    pub crl_refresh: Duration,
    /// `pec_crl_too_old`.
    pub crl_too_old: TooOld,
    /// `pec_directory_file`.
    pub directory_file: PathBuf,
    /// `pec_directory_url` and what it needs; nothing where it is not set.
    pub directory_source: Option<DirectorySource>,
    /// `pec_directory_refresh`.
    pub directory_refresh: Duration,
    /// `pec_database`.
    pub database: String,
    /// `pec_database_password_file`.
    pub database_password_file: Option<PathBuf>,
    /// The parameters of the register.
    pub register: Register,
    /// `pec_log_months`.
    pub log_months: u32,
    /// `pec_access_milter`.
    pub access_milter: Socket,
    /// `pec_incoming_milter`.
    pub incoming_milter: Socket,
    /// `pec_local_milter`.
    pub local_milter: Socket,
    /// `pec_delivery_lmtp`.
    pub delivery_lmtp: Socket,
    /// `pec_triggers_lmtp`.
    pub triggers_lmtp: Socket,
    /// `pec_reports_milter`.
    pub reports_milter: Socket,
    /// `pec_mailbox_lmtp`.
    pub mailbox_lmtp: Socket,
    /// `pec_mailbox_lmtp_no_quota`.
    pub mailbox_lmtp_no_quota: Socket,
    /// `pec_outgoing_smtpd`.
    pub outgoing_smtpd: Socket,
    /// `pec_row_keys_file`.
    pub row_keys_file: PathBuf,
    /// `pec_message_size_limit`, bytes.
    pub message_size_limit: u64,
    /// `pec_total_size_limit`, bytes.
    pub total_size_limit: u64,
    /// `pec_recipient_limit`.
    pub recipient_limit: usize,
    /// `pec_refuse_ordinary_mail`.
    pub refuse_ordinary_mail: OrdinaryMail,
    /// `pec_require_tls`.
    pub require_tls: bool,
    /// `pec_mx_hosts`, in lower case.
    pub mx_hosts: HashSet<String>,
    /// `pec_delivery_memory_limit`, bytes.
    pub delivery_memory_limit: u64,
    /// `pec_clamd`; nothing for `none`.
    pub clamd: Option<Socket>,
    /// `pec_clamd_max_age`.
    pub clamd_max_age: Duration,
    /// `pec_infected_store`.
    pub infected_store: PathBuf,
    /// `pec_infected_certificate_file`.
    pub infected_certificate_file: PathBuf,
    /// What is set, and what of Postfix's the milters go by, as it stands in main.cf; of secrets nothing.
    pub values: BTreeMap<String, String>,
    /// `pec_blocked_attachments`, in lower case, without dots.
    pub blocked_attachments: HashSet<String>,
    /// The largest message that port 25 takes, in bytes: Postfix's `message_size_limit` less what a receipt
    /// adds.
    pub envelope_size_limit: u64,
    /// Postfix's `myhostname`.
    pub hostname: String,
    /// Postfix's `virtual_mailbox_domains`, tables resolved, in lower case: our domains, the service domain
    /// included.
    pub local_domains: HashSet<String>,
}

impl Settings {
    /// Reads main.cf in `config_directory` through Postfix's own `postconf`.
    pub fn read(config_directory: &Path) -> Result<Self, ParameterError> {
        let raw = Raw::read(config_directory)?;
        raw.settings(|table| table_keys(config_directory, table))
    }

    /// The first line of a secret's file.
    pub fn secret(name: &'static str, file: &Path) -> Result<String, ParameterError> {
        let error =
            |trouble: String| ParameterError::File { name, path: file.display().to_string(), trouble };
        let text = std::fs::read_to_string(file).map_err(|e| error(e.to_string()))?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(line.to_owned()),
            _ => Err(error("is empty".to_owned())),
        }
    }
}

/// Parameters of Postfix that the milters go by.
const FROM_POSTFIX: [&str; 5] = [
    "myhostname",
    "queue_directory",
    "virtual_mailbox_domains",
    "message_size_limit",
    "smtpd_recipient_limit",
];

/// Values as `postconf` gives them.
#[derive(Debug)]
struct Raw {
    main_cf: String,
    values: HashMap<String, String>,
}

impl Raw {
    fn read(config_directory: &Path) -> Result<Self, ParameterError> {
        // postconf knows a parameter that is not Postfix's own only if another one names it. So that reading
        // does not hang on the line that the administrator has for this, all are named here, for this one
        // call.
        let named: String = TABLE.iter().map(|p| format!("${{{}?}}", p.name)).collect();
        let output = Command::new("postconf")
            .arg("-c")
            .arg(config_directory)
            .args(["-o", &format!("milter_macro_defaults={named}"), "-x"])
            .args(TABLE.iter().map(|p| p.name))
            .args(FROM_POSTFIX)
            .output()
            .map_err(|e| ParameterError::Postconf(e.to_string()))?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let why = complaints.lines().last().unwrap_or_default();
            return Err(ParameterError::Postconf(why.strip_prefix("postconf: ").unwrap_or(why).to_owned()));
        }
        if let Some(unknown) = complaints
            .lines()
            .find_map(|line| line.split_once("unused parameter: pec_"))
            .map(|(_, rest)| rest)
        {
            return Err(ParameterError::Unknown(format!(
                "pec_{}",
                unknown.split('=').next().unwrap_or_default()
            )));
        }
        let main_cf = config_directory.join("main.cf").display().to_string();
        let lines = String::from_utf8_lossy(&output.stdout);
        let values = lines
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        Ok(Self { main_cf, values: values.collect() })
    }

    /// The value in force, checked against the table.
    fn value(&self, parameter: &Parameter) -> Result<Option<String>, ParameterError> {
        let value = match (self.values.get(parameter.name).filter(|v| !v.is_empty()), parameter.unset) {
            (Some(value), _) => value.clone(),
            (None, Unset::Default(default)) => default.to_owned(),
            (None, Unset::Nothing) => return Ok(None),
            (None, Unset::Required) => {
                return Err(ParameterError::Missing {
                    name: parameter.name,
                    main_cf: self.main_cf.clone(),
                    allowed: parameter.kind.allowed(),
                });
            }
        };
        parameter.kind.check(parameter.name, &value)?;
        Ok(Some(value))
    }

    fn settings(
        &self,
        keys: impl Fn(&str) -> Result<Vec<String>, ParameterError>,
    ) -> Result<Settings, ParameterError> {
        let mut checked = HashMap::new();
        for parameter in TABLE {
            checked.insert(parameter.name, self.value(parameter)?);
        }
        let optional = |name: &str| checked.get(name).cloned().flatten();
        let text = |name: &str| optional(name).unwrap_or_default();
        let number = |name: &str| text(name).parse::<u64>().unwrap_or_default();
        let path = |name: &str| PathBuf::from(text(name));
        let queue_directory = PathBuf::from(self.postfix("queue_directory"));
        let socket =
            |name: &str| Socket::parse(&text(name), &queue_directory).unwrap_or(Socket::Inet(String::new()));

        let pkcs11 = Pkcs11 {
            module: optional("pec_pkcs11_module").map(PathBuf::from),
            pin_file: optional("pec_pkcs11_pin_file").map(PathBuf::from),
            time_limit: Duration::from_secs(seconds(&text("pec_pkcs11_time_limit")).unwrap_or_default()),
            program: std::env::current_exe().unwrap_or_default().with_file_name("pec-token"),
            main_cf: self.main_cf.clone(),
        };
        let register_key = pkcs11.key(&text("pec_register_key"))?;

        let directory_source = optional("pec_directory_url").map(|url| {
            let needed = |name: &'static str| {
                let allowed = format!("{}, since pec_directory_url is set", Kind::Path.allowed());
                optional(name).map(PathBuf::from).ok_or_else(|| ParameterError::Missing {
                    name,
                    main_cf: self.main_cf.clone(),
                    allowed,
                })
            };
            Ok::<_, ParameterError>(DirectorySource {
                url,
                signer_file: needed("pec_directory_signer_file")?,
                certificate_file: needed("pec_directory_client_certificate_file")?,
                key_file: needed("pec_directory_client_key_file")?,
                ca_file: path("pec_directory_ca_file"),
            })
        });

        let timestamps = optional("pec_tsa_url").map(|url| {
            let allowed = format!("{}, since pec_tsa_url is set", Kind::Path.allowed());
            let missing = || ParameterError::Missing {
                name: "pec_tsa_ca_file",
                main_cf: self.main_cf.clone(),
                allowed,
            };
            Ok::<_, ParameterError>(Timestamps {
                url,
                ca_file: optional("pec_tsa_ca_file").map(PathBuf::from).ok_or_else(missing)?,
            })
        });

        let settings = Settings {
            service_domain: text("pec_service_domain").to_ascii_lowercase(),
            provider_name: text("pec_provider_name"),
            provider_unit: optional("pec_provider_unit"),
            certificate_file: path("pec_certificate_file"),
            signing_key: pkcs11.key(&text("pec_signing_key"))?,
            pkcs11,
            ca_file: path("pec_ca_file"),
            crl_directory: path("pec_crl_directory"),
            crl_refresh: Duration::from_secs(seconds(&text("pec_crl_refresh")).unwrap_or_default()),
            crl_too_old: if text("pec_crl_too_old") == "believe" { TooOld::Believe } else { TooOld::Wait },
            directory_file: path("pec_directory_file"),
            directory_source: directory_source.transpose()?,
            directory_refresh: Duration::from_secs(
                seconds(&text("pec_directory_refresh")).unwrap_or_default(),
            ),
            database: text("pec_database"),
            database_password_file: optional("pec_database_password_file").map(PathBuf::from),
            register: Register {
                directory: path("pec_register"),
                key: register_key,
                database: text("pec_register_database"),
                password_file: optional("pec_register_password_file").map(PathBuf::from),
                metrics_file: optional("pec_metrics_file").map(PathBuf::from),
                timestamps: timestamps.transpose()?,
                witnesses: split_list(&text("pec_witnesses"))
                    .iter()
                    .filter_map(|e| Witness::parse(e))
                    .collect(),
                witness_interval: Duration::from_secs(
                    seconds(&text("pec_witness_interval")).unwrap_or_default(),
                ),
            },
            log_months: text("pec_log_months").parse().unwrap_or(30),
            access_milter: socket("pec_access_milter"),
            incoming_milter: socket("pec_incoming_milter"),
            local_milter: socket("pec_local_milter"),
            delivery_lmtp: socket("pec_delivery_lmtp"),
            triggers_lmtp: socket("pec_triggers_lmtp"),
            reports_milter: socket("pec_reports_milter"),
            mailbox_lmtp: socket("pec_mailbox_lmtp"),
            mailbox_lmtp_no_quota: socket("pec_mailbox_lmtp_no_quota"),
            outgoing_smtpd: socket("pec_outgoing_smtpd"),
            row_keys_file: path("pec_row_keys_file"),
            message_size_limit: number("pec_message_size_limit"),
            total_size_limit: number("pec_total_size_limit"),
            recipient_limit: usize::try_from(number("pec_recipient_limit")).unwrap_or(usize::MAX),
            refuse_ordinary_mail: OrdinaryMail::parse(&text("pec_refuse_ordinary_mail")),
            require_tls: text("pec_require_tls") == "yes",
            mx_hosts: split_list(&text("pec_mx_hosts")).into_iter().map(|e| e.to_ascii_lowercase()).collect(),
            delivery_memory_limit: number("pec_delivery_memory_limit"),
            clamd: Socket::parse(&text("pec_clamd"), &queue_directory),
            clamd_max_age: Duration::from_secs(seconds(&text("pec_clamd_max_age")).unwrap_or_default()),
            infected_store: path("pec_infected_store"),
            infected_certificate_file: path("pec_infected_certificate_file"),
            values: self
                .values
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (name.clone(), without_secrets(value)))
                .collect(),
            blocked_attachments: extensions(&text("pec_blocked_attachments")).into_iter().collect(),
            envelope_size_limit: match self.postfix("message_size_limit").parse::<u64>() {
                Ok(0) | Err(_) => u64::MAX,
                Ok(limit) => limit.saturating_sub(WRAPPING_ALLOWANCE),
            },
            hostname: self.postfix("myhostname").to_owned(),
            local_domains: self.local_domains(keys)?,
        };
        self.check(&settings)?;
        Ok(settings)
    }

    /// What two parameters must be to each other.
    fn check(&self, settings: &Settings) -> Result<(), ParameterError> {
        let postfix_limit = self.postfix("message_size_limit");
        let needed = settings.message_size_limit + ENVELOPE_ALLOWANCE;
        if !postfix_limit.parse::<u64>().is_ok_and(|limit| limit == 0 || limit >= needed) {
            return Err(ParameterError::Value {
                name: "message_size_limit".to_owned(),
                value: postfix_limit.to_owned(),
                allowed: format!(
                    "at least {needed}: pec_message_size_limit and {ENVELOPE_ALLOWANCE} for what envelope \
                    and receipt add"
                ),
            });
        }
        let postfix_limit = self.postfix("smtpd_recipient_limit");
        if !postfix_limit.parse::<usize>().is_ok_and(|limit| limit >= settings.recipient_limit) {
            return Err(ParameterError::Value {
                name: "smtpd_recipient_limit".to_owned(),
                value: postfix_limit.to_owned(),
                allowed: format!("at least pec_recipient_limit ({})", settings.recipient_limit),
            });
        }
        if !settings.local_domains.contains(&settings.service_domain) {
            return Err(ParameterError::Value {
                name: "virtual_mailbox_domains".to_owned(),
                value: self.postfix("virtual_mailbox_domains").to_owned(),
                allowed: format!(
                    "a list that names pec_service_domain ({}) too: the service mailbox lies there",
                    settings.service_domain
                ),
            });
        }
        Ok(())
    }

    fn postfix(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    fn local_domains(
        &self,
        keys: impl Fn(&str) -> Result<Vec<String>, ParameterError>,
    ) -> Result<HashSet<String>, ParameterError> {
        let mut domains = HashSet::new();
        for entry in split_list(self.postfix("virtual_mailbox_domains")) {
            let names = if entry.contains(':') { keys(&entry)? } else { vec![entry] };
            for name in names {
                if !is_domain(&name) {
                    return Err(ParameterError::Value {
                        name: "virtual_mailbox_domains".to_owned(),
                        value: name,
                        allowed: "a list of domains and of tables whose keys can be listed (hash:, btree:, \
                            lmdb:, cdb:, texthash:, inline:)"
                            .to_owned(),
                    });
                }
                domains.insert(name.to_ascii_lowercase());
            }
        }
        Ok(domains)
    }
}

/// The parameters of ours that main.cf sets, in the order of the [`TABLE`].
pub fn names_set(config_directory: &Path) -> Result<Vec<&'static str>, ParameterError> {
    let raw = Raw::read(config_directory)?;
    Ok(TABLE.iter().map(|p| p.name).filter(|name| raw.values.contains_key(*name)).collect())
}

/// A Postfix list: separated by commas and blanks, `{...}` kept together.
pub fn split_list(text: &str) -> Vec<String> {
    let (mut entries, mut current, mut depth) = (Vec::new(), String::new(), 0_usize);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == ',' || c.is_whitespace()) {
            entries.push(std::mem::take(&mut current));
        } else {
            current.push(c);
        }
    }
    entries.push(current);
    entries.retain(|e| !e.is_empty());
    entries
}

/// All keys of a lookup table, through `postmap -s`.
fn table_keys(config_directory: &Path, table: &str) -> Result<Vec<String>, ParameterError> {
    let unlistable = |why: &str| ParameterError::Value {
        name: "virtual_mailbox_domains".to_owned(),
        value: table.to_owned(),
        allowed: format!(
            "a table whose keys can be listed (hash:, btree:, lmdb:, cdb:, texthash:, inline:); postmap \
            says: {why}"
        ),
    };
    let output = Command::new("postmap")
        .arg("-c")
        .arg(config_directory)
        .arg("-s")
        .arg(table)
        .output()
        .map_err(|e| unlistable(&e.to_string()))?;
    if !output.status.success() {
        return Err(unlistable(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default()));
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split('\t').next())
        .map(str::to_owned)
        .collect())
}

/// docs/configuration.md's table.
pub fn markdown() -> String {
    let mut out = String::from("| parameter | value | if not set | meaning |\n| --- | --- | --- | --- |\n");
    for p in TABLE {
        let unset = match p.unset {
            Unset::Required => "required".to_owned(),
            Unset::Default(value) => format!("`{value}`"),
            Unset::Nothing => "not used".to_owned(),
        };
        let _ = writeln!(out, "| `{}` | {} | {unset} | {} |", p.name, p.kind.allowed(), p.meaning);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> Raw {
        let text = "pec_service_domain = Gestore.Alfa.test\npec_provider_name = Alfa PEC \
            S.p.A.\npec_certificate_file = /p/cert.pem\npec_signing_key = /p/key.pem\n\
            pec_ca_file = /p/ca.pem\npec_directory_file = /p/igpec.ldif\npec_database = host=127.0.0.1 \
            dbname=pec\npec_register_key = /p/log.pem\npec_register_database = host=127.0.0.1 dbname=pec \
            user=registrar\npec_access_milter = unix:pec/access\n\
            pec_incoming_milter = unix:/run/pec/incoming\npec_delivery_lmtp = \
            unix:pec/delivery\npec_triggers_lmtp = unix:pec/triggers\npec_reports_milter = unix:pec/reports\n\
            pec_clamd = unix:/run/clamav/clamd.ctl\npec_infected_store = /i\npec_infected_certificate_file \
            = /i.pem\npec_blocked_attachments = .EXE, js\n\
            pec_mailbox_lmtp = unix:pec/dovecot-lmtp\npec_mailbox_lmtp_no_quota = \
            inet:10.0.0.7:24\npec_outgoing_smtpd = unix:public/pecoutgoing\npec_row_keys_file = \
            /p/rows\nmyhostname = mail.gestore.alfa.test\nqueue_directory = /q\n\
            virtual_mailbox_domains = gestore.alfa.test, PEC.alfa.test inline:{a.test=1, \
            b.test=2}\nmessage_size_limit = 33554432\nsmtpd_recipient_limit = 1000\n";
        let values =
            text.lines().filter_map(|l| l.split_once(" = ")).map(|(n, v)| (n.to_owned(), v.to_owned()));
        Raw { main_cf: "/etc/postfix/main.cf".into(), values: values.collect() }
    }

    fn settings(raw: &Raw) -> Result<Settings, String> {
        raw.settings(|table| {
            if table.starts_with("inline:") {
                Ok(vec!["a.test".into(), "b.test".into()])
            } else {
                Err(ParameterError::Postconf("no".into()))
            }
        })
        .map_err(|e| e.to_string())
    }

    fn with(name: &str, value: &str) -> Raw {
        let mut raw = raw();
        raw.values.insert(name.to_owned(), value.to_owned());
        raw
    }

    #[test]
    fn values_tables_and_defaults() {
        let settings = settings(&raw()).unwrap();
        assert_eq!(settings.service_domain, "gestore.alfa.test");
        assert_eq!(settings.access_milter, Socket::Unix("/q/pec/access".into()));
        assert_eq!(settings.incoming_milter, Socket::Unix("/run/pec/incoming".into()));
        assert_eq!(
            (settings.delivery_lmtp, settings.mailbox_lmtp_no_quota),
            (Socket::Unix("/q/pec/delivery".into()), Socket::Inet("10.0.0.7:24".into()))
        );
        assert_eq!((settings.message_size_limit, settings.envelope_size_limit), (31_457_280, 32_505_856));
        assert_eq!(settings.database_password_file, None);
        assert_eq!(
            (settings.crl_directory.to_str(), settings.crl_too_old),
            (Some("/var/lib/pec/crl"), TooOld::Wait)
        );
        assert_eq!(settings.clamd, Some(Socket::Unix("/run/clamav/clamd.ctl".into())));
        assert_eq!(settings.clamd_max_age, Duration::from_secs(6 * 3600));
        assert_eq!(settings.blocked_attachments, ["exe", "js"].map(str::to_owned).into());
        let mut domains: Vec<_> = settings.local_domains.into_iter().collect();
        domains.sort();
        assert_eq!(domains, ["a.test", "b.test", "gestore.alfa.test", "pec.alfa.test"]);
    }

    #[test]
    fn dm_2_11_2005_art_14_mailboxes_may_take_certified_mail_only() {
        let refused = |value: &str, recipient: &str| {
            OrdinaryMail::parse(value).is_refused(&Address::parse(recipient).unwrap())
        };
        assert!(
            refused("all", "a@x.test")
                && refused("y.test, X.test", "a@x.TEST")
                && refused("A@x.test", "a@X.test")
        );
        assert!(
            !refused("", "a@x.test") && !refused("x.test", "a@y.test") && !refused("a@x.test", "b@x.test")
        );
    }

    #[test]
    fn errors_name_parameter_value_and_what_is_allowed() {
        for (name, value, says) in [
            (
                "pec_service_domain",
                "alfa",
                "pec_service_domain = alfa: not allowed; it must be a mail domain",
            ),
            (
                "pec_signing_key",
                "key.pem",
                "pec_signing_key = key.pem: not allowed; it must be an absolute path or a pkcs11: URI",
            ),
            ("pec_signing_key", "pkcs11:object=pec", "and it names no token (token or serial)"),
            (
                "pec_signing_key",
                "pkcs11:token=a;object=b",
                "pec_pkcs11_module is not set in /etc/postfix/main.cf; it must be an absolute path, since",
            ),
            (
                "pec_pkcs11_module",
                "softhsm2.so",
                "pec_pkcs11_module = softhsm2.so: not allowed; it must be an absolute path",
            ),
            ("pec_access_milter", "inet:9001", "it must be unix:path or inet:host:port"),
            ("pec_total_size_limit", "1000000", "from 31457280 to"),
            ("pec_message_size_limit", "30M", "pec_message_size_limit = 30M: not allowed"),
            (
                "message_size_limit",
                "31457280",
                "message_size_limit = 31457280: not allowed; it must be at least 33554432",
            ),
            ("virtual_mailbox_domains", "pec.alfa.test", "names pec_service_domain (gestore.alfa.test) too"),
            ("virtual_mailbox_domains", "gestore.alfa.test *", "virtual_mailbox_domains = *: not allowed"),
            ("pec_recipient_limit", "49", "a number from 50 to"),
            (
                "smtpd_recipient_limit",
                "499",
                "smtpd_recipient_limit = 499: not allowed; it must be at least pec_recipient_limit (500)",
            ),
            ("pec_refuse_ordinary_mail", "pec.alfa.test *", "mail domains and addresses, or all"),
            ("pec_require_tls", "true", "pec_require_tls = true: not allowed; it must be yes or no"),
            (
                "pec_crl_too_old",
                "ignore",
                "pec_crl_too_old = ignore: not allowed; it must be wait or believe",
            ),
            (
                "pec_crl_refresh",
                "often",
                "pec_crl_refresh = often: not allowed; it must be a time such as 45s",
            ),
            (
                "pec_crl_directory",
                "crl",
                "pec_crl_directory = crl: not allowed; it must be an absolute \
                path",
            ),
            (
                "pec_mx_hosts",
                "mx1.alfa.test *",
                "pec_mx_hosts = mx1.alfa.test *: not allowed; it must be a list of host names",
            ),
            (
                "pec_tsa_url",
                "tsa.test",
                "pec_tsa_url = tsa.test: not allowed; it must be an http:// or https:// address",
            ),
            (
                "pec_tsa_url",
                "http://tsa.test",
                "pec_tsa_ca_file is not set in /etc/postfix/main.cf; it must be an absolute path, since \
                pec_tsa_url is set",
            ),
            ("pec_witnesses", "https://witness.test/", "each of these with #NAME+ID+KEY behind it"),
            ("pec_witness_interval", "hourly", "a time such as 45s"),
            (
                "pec_outgoing_smtpd",
                "inet:127.0.0.1:2525",
                "pec_outgoing_smtpd = inet:127.0.0.1:2525: not allowed; it must be unix:path",
            ),
            (
                "pec_delivery_lmtp",
                "pec/delivery",
                "pec_delivery_lmtp = pec/delivery: not allowed; it must be unix:path",
            ),
            (
                "pec_clamd",
                "",
                "pec_clamd is not set in /etc/postfix/main.cf; it must be unix:path, inet:host:port or \
                none",
            ),
            (
                "pec_clamd",
                "off",
                "pec_clamd = off: not allowed; it must be unix:path, inet:host:port or none",
            ),
            ("pec_clamd_max_age", "6", "pec_clamd_max_age = 6: not allowed; it must be a time such as 45s"),
            ("pec_blocked_attachments", "exe *.js", "pec_blocked_attachments = exe *.js: not allowed"),
            (
                "pec_row_keys_file",
                "",
                "pec_row_keys_file is not set in /etc/postfix/main.cf; it must be an absolute path",
            ),
        ] {
            let error = settings(&with(name, value)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_key_is_in_a_file_or_on_a_token() {
        assert_eq!(settings(&raw()).unwrap().signing_key, SigningKey::File("/p/key.pem".into()));
        let mut raw = with("pec_signing_key", "pkcs11:token=alfa;object=pec");
        raw.values.insert("pec_pkcs11_module".into(), "/m.so".into());
        assert!(settings(&raw).unwrap_err().starts_with("pec_pkcs11_pin_file is not set"));
        raw.values.insert("pec_pkcs11_pin_file".into(), "/pin".into());
        let SigningKey::Token(token) = settings(&raw).unwrap().signing_key else { panic!("on a token") };
        assert_eq!((token.uri.token.as_deref(), token.uri.object.as_deref()), (Some("alfa"), Some("pec")));
        assert_eq!(
            (token.module, token.pin_file, token.time_limit),
            ("/m.so".into(), "/pin".into(), Duration::from_secs(10))
        );
    }

    #[test]
    fn a_pin_in_the_wrong_place_is_not_repeated() {
        for uri in ["pkcs11:token=a;object=b?pin-value=4711", "pkcs11:token=a;pin-value=4711;object=b"] {
            let error = settings(&with("pec_signing_key", uri)).unwrap_err();
            assert!(
                error.starts_with("pec_signing_key = pkcs11:token=a") && !error.contains("4711"),
                "{error}"
            );
        }
    }

    #[test]
    fn witnesses_are_mailboxes_and_web_addresses_with_a_key() {
        let settings = settings(&with(
            "pec_witnesses",
            "Notaio@studio.test, https://w.test/log/#w.test/x+1a2b3c4d+BAb+/=",
        ))
        .unwrap();
        let web =
            Witness::Web { url: "https://w.test/log".to_owned(), key: "w.test/x+1a2b3c4d+BAb+/=".to_owned() };
        assert_eq!(
            settings.register.witnesses,
            [Witness::Mail(Address::parse("Notaio@studio.test").unwrap()), web]
        );
    }

    #[test]
    fn that_nothing_is_scanned_is_said_by_none() {
        assert_eq!(settings(&with("pec_clamd", "none")).unwrap().clamd, None);
    }

    #[test]
    fn the_documentation_has_this_table() {
        let documentation =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md"))
                .unwrap();
        assert!(
            documentation.ends_with(&markdown()),
            "docs/configuration.md ends in what `pecctl parameters --markdown` prints"
        );
    }

    #[test]
    fn the_table_is_consistent() {
        let names: HashSet<_> = TABLE.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for parameter in TABLE {
            assert!(
                parameter.name.starts_with("pec_") && !parameter.meaning.contains('|'),
                "{}",
                parameter.name
            );
            if let Unset::Default(value) = parameter.unset {
                assert!(parameter.kind.admits(value), "{}", parameter.name);
            }
        }
    }
}
