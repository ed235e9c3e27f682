//! The parameters themselves, and the [`Settings`] that are made of them.
//!
//! Promise: an entry here is all that a parameter needs: `NAME: TYPE = UNSET, KIND, "meaning"`, NAME being
//! its name in main.cf without `pec_`. The field of [`Settings`], the reading and checking of the value, and
//! its line in docs/configuration.md (`pecctl parameters --markdown`) follow from it.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use pec_core::smime::verify::TooOld;

use super::ParameterError;
use super::postfix::{Keys, MainCf, table_keys};
use super::values::{
    Addresses, Bytes, Count, Domain, Domains, Extensions, HttpsUrl, Key, Kind, ListenAt, OPTIONAL, Or,
    OrdinaryMail, Path, Peer, Pkcs11, REQUIRED, SigningKey, Socket, Text, Time, UnixSocket, Unset,
    WaitOrBelieve, WebUrl, Witness, Witnesses, YesNo,
};

/// The 30 MB that a provider must carry at least: message size times recipients (DM 2/11/2005 art. 12).
pub const GUARANTEED_SIZE: u64 = 30 * 1024 * 1024;

/// What an envelope, or a receipt, adds around the original at most, in bytes (texts and daticert.xml of
/// 1,000 recipients, signature).
pub const WRAPPING_ALLOWANCE: u64 = 1024 * 1024;

/// By how much `message_size_limit` must stand above `pec_message_size_limit`: an envelope of the largest
/// original passes, and so does a receipt with the original of the largest envelope that passes.
pub const ENVELOPE_ALLOWANCE: u64 = 2 * WRAPPING_ALLOWANCE;

/// One parameter, for people.
#[derive(Debug)]
pub struct Parameter {
    /// As it stands in main.cf.
    pub name: &'static str,
    /// What it may be.
    pub allowed: String,
    /// Whether the programs do not start without it.
    pub required: bool,
    /// The value that holds where it is not set; empty: an empty list; nothing: what it is about is not used.
    pub default: Option<&'static str>,
    /// What it means.
    pub meaning: &'static str,
}

/// Makes [`Settings`], their reading and [`table`] of the entries: first the parameters, then what follows
/// from them and from what Postfix knows (`main_cf`, `keys`).
macro_rules! settings {
    (
        parameters {$($name:ident: $type:ty = $unset:expr, $kind:expr, $meaning:literal;)*}
        following($main_cf:ident, $keys:ident) {$($(#[$doc:meta])* $field:ident: $field_type:ty = $made:expr;)*}
    ) => {
        /// The configuration in force, as the programs use it.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $(
                #[doc = concat!("`pec_", stringify!($name), "`. ", $meaning)]
                pub $name: $type,
            )*
            $($(#[$doc])* pub $field: $field_type,)*
        }

        impl Settings {
            /// Reads all values and checks them, each alone and against each other.
            pub(super) fn of($main_cf: &MainCf, $keys: Keys<'_>) -> Result<Self, ParameterError> {
                $(let $name = $main_cf.get(concat!("pec_", stringify!($name)), $unset, &$kind)?;)*
                $(let $field = $made;)*
                let settings = Self { $($name,)* $($field,)* };
                settings.check($main_cf)?;
                Ok(settings)
            }
        }

        /// All parameters, in the order of docs/configuration.md.
        pub fn table() -> Vec<Parameter> {
            vec![$(Parameter {
                name: concat!("pec_", stringify!($name)),
                allowed: $kind.allowed(),
                required: $unset.is_required(),
                default: $unset.default(),
                meaning: $meaning,
            },)*]
        }
    };
}

settings! {
    parameters {
        service_domain: String = REQUIRED, Domain,
            "The provider's own domain (not its customers'). Envelopes and receipts come from \
            posta-certificata@ this domain, identifiers end in it, and the certificate must be for that \
            address.";

        provider_name: String = REQUIRED, Text,
            "The provider's name as the directory of providers has it (`providerName`). It stands in every \
            receipt as `gestore-emittente`.";

        provider_unit: Option<String> = OPTIONAL, Text,
            "Which operating environment of the provider this is, as the directory has it (`providerUnit`); \
            not set for the main one. Certificate, domains and service mailbox are those of its own record.";

        certificate_file: PathBuf = REQUIRED, Path,
            "PEM file with the certificate that signs, followed by the certificates above it. It must be of \
            the profile of RFC 6109 section 5.5, for posta-certificata@`pec_service_domain`, with \
            `pec_provider_name` as O or CN, and in our record of the directory. A root certificate may stand \
            there; it is not sent along.";

        signing_key: SigningKey = REQUIRED, Key,
            "That certificate's private key, RSA of 2048 to 4096 bits. On a token (HSM): a URI such as \
            `pkcs11:token=alfa;object=pec` (RFC 7512; token or serial, and object or id). For trying out: a \
            PEM file without passphrase, readable by the user of the milters alone. See keys.md.";

        pkcs11_module: Option<PathBuf> = OPTIONAL, Path,
            "The PKCS#11 library of the token's vendor, such as `/usr/lib/softhsm/libsofthsm2.so`. Needed \
            where `pec_signing_key` is on a token.";

        pkcs11_pin_file: Option<PathBuf> = OPTIONAL, Path,
            "File whose first line is the token's user PIN; closed to other users. Needed where \
            `pec_signing_key` is on a token.";

        pkcs11_time_limit: Duration = Or("10s"), Time,
            "How long the token may take to sign, or to be opened. One that takes longer is given up for that \
            moment: mail waits, and it is opened anew.";

        ca_file: PathBuf = REQUIRED, Path,
            "PEM file with the CAs that may vouch for other providers' certificates. No other CA is believed, \
            the system's own store included. A CA that stands here is itself never asked about: to have an \
            issuing CA revoked by its root, name the root alone.";

        crl_directory: PathBuf = Or("/var/lib/pec/crl"), Path,
            "Directory in which the CAs' revocation lists (CRLs) lie, one file for each address that \
            certificates name. pec-clock fetches them, pec-incoming those of a new CA. Writable by the user \
            of the milters.";

        crl_refresh: Duration = Or("1h"), Time,
            "How often CRLs are fetched. What fails is tried again after five minutes.";

        crl_too_old: TooOld = Or("wait"), WaitOrBelieve,
            "What becomes of certified mail whose CA has not renewed its CRL in time. `wait`: it waits (451), \
            and the log names the CRL. `believe`: the old CRL counts on, with a warning. Without any CRL \
            mail always waits.";

        directory_file: PathBuf = REQUIRED, Path,
            "The directory of providers as an LDIF file (RFC 6109 section 4.5): who signs with which \
            certificate, which domains are certified, where a presa in carico goes. Our own record must be \
            in it. The programs notice when it changes. Where `pec_directory_url` is set, what was fetched \
            is kept here: its directory must be writable by the user of the milters.";

        directory_url: Option<String> = OPTIONAL, HttpsUrl,
            "Where the signed directory of providers (`.p7m`) is fetched. Not set: nothing is fetched, and \
            the administrator puts `pec_directory_file` to its place.";

        directory_signer_file: Option<PathBuf> = OPTIONAL, Path,
            "PEM file with the certificates that may sign the directory: AgID's, each of them by itself; no \
            CA can vouch for another. Needed with `pec_directory_url`.";

        directory_client_certificate_file: Option<PathBuf> = OPTIONAL, Path,
            "PEM file with the certificate, followed by those above it, by which the directory's server knows \
            us. Needed with `pec_directory_url`.";

        directory_client_key_file: Option<PathBuf> = OPTIONAL, Path,
            "That certificate's private key: a PEM file without passphrase, readable by the user of the \
            milters alone. Needed with `pec_directory_url`.";

        directory_ca_file: PathBuf = Or("/etc/ssl/certs/ca-certificates.crt"), Path,
            "PEM file with the CAs that may vouch for the directory's server. What it brings must be signed \
            besides.";

        directory_refresh: Duration = Or("12h"), Time,
            "How often the directory is fetched, by pec-clock on each host. What fails is tried again after \
            five minutes.";

        database: String = REQUIRED, Text,
            "How to reach PostgreSQL, as libpq writes it: `host=127.0.0.1 dbname=pec user=pec`. No password \
            here.";

        database_password_file: Option<PathBuf> = OPTIONAL, Path,
            "File whose first line is the password of the user in `pec_database`.";

        register: PathBuf = Or("/var/lib/pec/register"), Path,
            "Directory of what proves the retained log: the tree's tiles and checkpoint (C2SP tlog-tiles), \
            each day's file with signature and timestamp. It may be served over HTTP but for `days`, whose \
            files have the rows. Writable by the user of pec-clock; on another disk than the database.";

        register_key: SigningKey = REQUIRED, Key,
            "The Ed25519 key that signs the register's checkpoints: a PEM file without passphrase, readable \
            by the user of pec-clock alone, made by `pecctl key log`; or on a token, as `pec_signing_key`.";

        register_database: String = REQUIRED, Text,
            "How pec-clock and pecctl reach PostgreSQL to seal the retained log: as `pec_database`, with \
            another user, who has the role `pec_registrar`. The milters' user can seal nothing.";

        register_password_file: Option<PathBuf> = OPTIONAL, Path,
            "File whose first line is the password of the user in `pec_register_database`.";

        tsa_url: Option<String> = OPTIONAL, WebUrl,
            "Where the timestamping authority (TSA, RFC 3161) answers. It says when the retained log's days \
            were closed. Not set: nothing is timestamped, which the rules do not allow a provider, and each \
            start of pec-clock warns of it.";

        tsa_ca_file: Option<PathBuf> = OPTIONAL, Path,
            "PEM file with the CAs that may vouch for the TSA's certificate. Needed with `pec_tsa_url`.";

        witnesses: Vec<Witness> = Or(""), Witnesses,
            "To whom the register's checkpoints are sent, so that not even we can write another past: mail \
            addresses, and addresses of C2SP witnesses (tlog-witness), each with the witness's public key \
            behind `#`: `https://witness.example/#witness.example+1a2b3c4d+BASE64`. See register.md.";

        witness_interval: Duration = Or("1h"), Time,
            "How often the newest checkpoint is sent to `pec_witnesses`, if it is a new one.";

        metrics_file: Option<PathBuf> = OPTIONAL, Path,
            "File in which pec-clock writes every ten minutes, for Prometheus' node_exporter (textfile \
            collector), how far the register is sealed and which rules of certified mail are broken.";

        log_months: u32 = Or("30"), Count(30, 1200),
            "For how many months rows of the retained log stay in the database (DPR 68/2005 art. 11: thirty \
            at least). `pecctl log retire` has older months leave; nothing leaves by itself.";

        access_milter: Socket = Or("unix:pec/access"), ListenAt,
            "Where pec-access listens for submission (587, 465). Whoever can connect to a milter's socket can \
            have things signed: a unix socket in a directory that only postfix may enter is the safe choice.";

        incoming_milter: Socket = Or("unix:pec/incoming"), ListenAt, "Where pec-incoming listens for port 25.";

        local_milter: Socket = Or("unix:pec/local"), ListenAt,
            "Where pec-incoming listens for what programs of this host put into the queue (`sendmail`, cron).";

        delivery_lmtp: Socket = REQUIRED, UnixSocket,
            "Where pec-delivery listens for mail to mailboxes of ours: the socket that Postfix's \
            `virtual_transport` names.";

        triggers_lmtp: Socket = REQUIRED, UnixSocket,
            "Where pec-delivery listens for triggers, the copies that Postfix's queue manager sends round \
            (`transport_maps`), and those that pec-clock brings.";

        reports_milter: Socket = Or("unix:pec/reports"), ListenAt,
            "Where pec-delivery listens for the failures that Postfix itself reports (`non_smtpd_milters`).";

        mailbox_lmtp: Socket = REQUIRED, ListenAt,
            "Where the mailbox server's LMTP listens. Its 250 must mean that the message is stored and \
            visible in the mailbox: a receipt certifies that.";

        mailbox_lmtp_no_quota: Socket = REQUIRED, ListenAt,
            "Where the mailbox server's second LMTP listener is, which knows no quota: receipts and notices \
            reach a full mailbox too.";

        outgoing_smtpd: Socket = REQUIRED, UnixSocket,
            "Postfix's own smtpd to which pec-delivery gives receipts and notices for other providers. It \
            asks no milter, so nobody but the milters' user may reach it.";

        row_keys_file: PathBuf = REQUIRED, Path,
            "File with the keys that authenticate the database's rows, the same on all hosts, for the \
            milters' user alone: 64 hexadecimal digits a line. The first makes, all are believed. `pecctl \
            key rows` prints one.";

        message_size_limit: u64 = Or("31457280"), Bytes(GUARANTEED_SIZE, 2 * 1024 * 1024 * 1024),
            "The largest original in bytes; what is larger is refused while it is being sent. Postfix's \
            `message_size_limit` must stand at least 2097152 bytes above it, since it caps envelopes and \
            receipts too.";

        total_size_limit: u64 = Or("104857600"), Bytes(GUARANTEED_SIZE, 1024 * 1024 * 1024 * 1024),
            "The most that size of the original times number of recipients may be, in bytes. The law \
            guarantees users 30 MB (DM 2/11/2005 art. 12).";

        recipient_limit: usize = Or("500"), Count(50, 100_000),
            "The most recipients that an original may have; the law guarantees users 50 (DM 2/11/2005 art. \
            12). Postfix's `smtpd_recipient_limit` must not stand below it.";

        refuse_ordinary_mail: OrdinaryMail = Or(""), Addresses,
            "Domains and mailboxes of ours, or `all`, that take certified mail only: ordinary mail to them is \
            refused with an SMTP error instead of being delivered in a busta di anomalia. What a provider of \
            the directory has signed is never refused by this.";

        require_tls: bool = Or("no"), YesNo,
            "Whether certified mail of other providers must come encrypted. `no`: what comes in clear text is \
            taken, with a warning in the log that names the provider. `yes`: it waits (451) until it comes \
            over TLS. Ordinary mail is not concerned.";

        mx_hosts: HashSet<String> = Or(""), Domains,
            "Further names under which the DNS may send mail for the certified domains here, besides \
            `myhostname`: an MX record with another one is foreign, and `pecctl check` names it.";

        delivery_memory_limit: u64 = Or("268435456"), Bytes(16 * 1024 * 1024, 1024 * 1024 * 1024 * 1024),
            "How many bytes of messages pec-delivery holds at once, receipts in the making included; further \
            ones wait their turn. A message larger than this is held alone.";

        clamd: Option<Socket> = REQUIRED, Peer,
            "Where clamd listens, the virus scanner: a unix socket that our programs alone may use, since whoever \
            connects may end it; `pecctl check` warns of a port. While it does not answer, mail waits. `none` \
            is for trying out: nothing is scanned, and each start warns of it.";

        clamd_max_age: Duration = Or("6h"), Time,
            "How old clamd's signatures may be before the log warns of it and the retained log gets a row, \
            once for each version of them. They are looked at every hour. ClamAV's public ones come about \
            once a day; who has no others sets `36h`.";

        infected_store: PathBuf = REQUIRED, Path,
            "Directory in which messages with viruses are kept, for thirty months (RFC 6109 section 2.2.4); \
            nothing is ever deleted there. Writable by the user of the milters alone, and out of reach of \
            any scanner that removes files.";

        infected_certificate_file: PathBuf = REQUIRED, Path,
            "PEM file with the certificate (RSA) of the auditor. What goes into `pec_infected_store` is \
            encrypted for it, and the key to it, which does not belong on this host, opens it: `pecctl \
            infected show`.";

        blocked_attachments: HashSet<String> = Or(""), Extensions,
            "Kinds of attachments that are not accepted at submission, by their file name extensions; found \
            also when renamed, in zip archives and in attached messages. `postfix-conf/main.cf` sets the \
            list that Italian providers publish.";
    }
    following(main_cf, keys) {
        /// How tokens are reached.
        pkcs11: Pkcs11 = Pkcs11 {
            module: pkcs11_module.clone(),
            pin_file: pkcs11_pin_file.clone(),
            time_limit: pkcs11_time_limit,
            program: std::env::current_exe().unwrap_or_default().with_file_name("pec-token"),
            main_cf: main_cf.file.clone(),
        };

        /// `pec_directory_url` and what it needs; nothing where it is not set.
        directory_source: Option<DirectorySource> = match directory_url.clone() {
            Some(url) => {
                let needed = |name, file: &Option<PathBuf>| {
                    main_cf.needed(name, file.clone(), &Path, "pec_directory_url")
                };
                Some(DirectorySource {
                    url,
                    signer_file: needed("pec_directory_signer_file", &directory_signer_file)?,
                    certificate_file: needed(
                        "pec_directory_client_certificate_file",
                        &directory_client_certificate_file,
                    )?,
                    key_file: needed("pec_directory_client_key_file", &directory_client_key_file)?,
                    ca_file: directory_ca_file.clone(),
                })
            }
            None => None,
        };

        /// `pec_tsa_url` and what it needs; nothing where it is not set.
        timestamps: Option<Timestamps> = match tsa_url.clone() {
            Some(url) => {
                let ca_file = main_cf.needed("pec_tsa_ca_file", tsa_ca_file.clone(), &Path, "pec_tsa_url")?;
                Some(Timestamps { url, ca_file })
            }
            None => None,
        };

        /// What is set, and what of Postfix's the milters go by, as it stands in main.cf; of secrets nothing.
        values: BTreeMap<String, String> = main_cf.shown();

        /// The largest message that port 25 takes, in bytes: Postfix's `message_size_limit` less what a
        /// receipt adds.
        envelope_size_limit: u64 = match main_cf.text("message_size_limit").parse::<u64>() {
            Ok(0) | Err(_) => u64::MAX,
            Ok(limit) => limit.saturating_sub(WRAPPING_ALLOWANCE),
        };

        /// Postfix's `myhostname`.
        hostname: String = main_cf.text("myhostname").to_owned();

        /// Postfix's `virtual_mailbox_domains`, tables resolved, in lower case: our domains, the service
        /// domain included.
        local_domains: HashSet<String> = main_cf.local_domains(keys)?;
    }
}

/// The timestamping authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamps {
    /// `pec_tsa_url`.
    pub url: String,
    /// `pec_tsa_ca_file`.
    pub ca_file: PathBuf,
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

impl Settings {
    /// Reads main.cf in `config_directory` through Postfix's own `postconf`.
    pub fn read(config_directory: &FilePath) -> Result<Self, ParameterError> {
        let main_cf = MainCf::read(config_directory, &names())?;
        Self::of(&main_cf, &|table| table_keys(config_directory, table))
    }

    /// The same of lines `NAME = VALUE`, without Postfix; for tests. Tables have no keys.
    pub fn of_lines(file: &FilePath, lines: &str) -> Result<Self, ParameterError> {
        Self::of(&MainCf::of_lines(file, lines), &|_| Ok(Vec::new()))
    }

    /// The first line of a secret's file.
    pub fn secret(name: &'static str, file: &FilePath) -> Result<String, ParameterError> {
        let error =
            |trouble: String| ParameterError::File { name, path: file.display().to_string(), trouble };
        let text = std::fs::read_to_string(file).map_err(|e| error(e.to_string()))?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(line.to_owned()),
            _ => Err(error("is empty".to_owned())),
        }
    }
}

fn names() -> Vec<&'static str> {
    table().into_iter().map(|parameter| parameter.name).collect()
}

/// The parameters of ours that main.cf sets, in the order of the table.
pub fn names_set(config_directory: &FilePath) -> Result<Vec<&'static str>, ParameterError> {
    let main_cf = MainCf::read(config_directory, &names())?;
    Ok(names().into_iter().filter(|name| main_cf.values.contains_key(*name)).collect())
}

impl Settings {
    /// What two parameters must be to each other.
    fn check(&self, main_cf: &MainCf) -> Result<(), ParameterError> {
        for key in [&self.signing_key, &self.register_key] {
            if let SigningKey::Token(uri) = key {
                self.pkcs11.token(uri)?;
            }
        }
        let refused = |name: &str, allowed: String| {
            let value = main_cf.text(name).to_owned();
            Err(ParameterError::Value { name: name.to_owned(), value, allowed })
        };
        let name = "message_size_limit";
        let needed = self.message_size_limit + ENVELOPE_ALLOWANCE;
        if !main_cf.text(name).parse::<u64>().is_ok_and(|limit| limit == 0 || limit >= needed) {
            let adds = format!("{ENVELOPE_ALLOWANCE} for what envelope and receipt add");
            return refused(name, format!("at least {needed}: pec_message_size_limit and {adds}"));
        }
        let name = "smtpd_recipient_limit";
        if !main_cf.text(name).parse::<usize>().is_ok_and(|limit| limit >= self.recipient_limit) {
            return refused(name, format!("at least pec_recipient_limit ({})", self.recipient_limit));
        }
        if !self.local_domains.contains(&self.service_domain) {
            let domain = &self.service_domain;
            let allowed = format!(
                "a list that names pec_service_domain ({domain}) too: the service mailbox lies there"
            );
            return refused("virtual_mailbox_domains", allowed);
        }
        Ok(())
    }
}

/// docs/configuration.md's table.
pub fn markdown() -> String {
    let mut out = String::from("| parameter | value | if not set | meaning |\n| --- | --- | --- | --- |\n");
    for p in table() {
        let unset = match p.default {
            _ if p.required => "required".to_owned(),
            None | Some("") => "not used".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let _ = writeln!(out, "| `{}` | {} | {unset} | {} |", p.name, p.allowed, p.meaning);
    }
    out
}

#[cfg(test)]
mod tests {
    use pec_core::address::Address;

    use super::*;

    const MAIN_CF: &str = "
        pec_service_domain = Gestore.Alfa.test
        pec_provider_name = Alfa PEC S.p.A.
        pec_certificate_file = /p/cert.pem
        pec_signing_key = /p/key.pem
        pec_ca_file = /p/ca.pem
        pec_directory_file = /p/igpec.ldif
        pec_database = host=127.0.0.1 dbname=pec
        pec_register_key = /p/log.pem
        pec_register_database = host=127.0.0.1 dbname=pec user=registrar
        pec_access_milter = unix:pec/access
        pec_incoming_milter = unix:/run/pec/incoming
        pec_delivery_lmtp = unix:pec/delivery
        pec_triggers_lmtp = unix:pec/triggers
        pec_reports_milter = unix:pec/reports
        pec_clamd = unix:/run/clamav/clamd.ctl
        pec_infected_store = /i
        pec_infected_certificate_file = /i.pem
        pec_blocked_attachments = .EXE, js
        pec_mailbox_lmtp = unix:pec/dovecot-lmtp
        pec_mailbox_lmtp_no_quota = inet:10.0.0.7:24
        pec_outgoing_smtpd = unix:public/pecoutgoing
        pec_row_keys_file = /p/rows
        myhostname = mail.gestore.alfa.test
        queue_directory = /q
        virtual_mailbox_domains = gestore.alfa.test, PEC.alfa.test inline:{a.test=1, b.test=2}
        message_size_limit = 33554432
        smtpd_recipient_limit = 1000";

    fn main_cf() -> MainCf {
        MainCf::of_lines(std::path::Path::new("/etc/postfix/main.cf"), MAIN_CF)
    }

    fn settings(main_cf: &MainCf) -> Result<Settings, String> {
        let keys = |table: &str| {
            if table.starts_with("inline:") {
                Ok(vec!["a.test".into(), "b.test".into()])
            } else {
                Err(ParameterError::Postconf("no".into()))
            }
        };
        Settings::of(main_cf, &keys).map_err(|e| e.to_string())
    }

    fn with(name: &str, value: &str) -> MainCf {
        let mut main_cf = main_cf();
        main_cf.values.insert(name.to_owned(), value.to_owned());
        main_cf
    }

    #[test]
    fn values_tables_and_defaults() {
        let settings = settings(&main_cf()).unwrap();
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
        assert_eq!(settings(&main_cf()).unwrap().signing_key, SigningKey::File("/p/key.pem".into()));
        let mut main_cf = with("pec_signing_key", "pkcs11:token=alfa;object=pec");
        main_cf.values.insert("pec_pkcs11_module".into(), "/m.so".into());
        assert!(settings(&main_cf).unwrap_err().starts_with("pec_pkcs11_pin_file is not set"));
        main_cf.values.insert("pec_pkcs11_pin_file".into(), "/pin".into());
        let settings = settings(&main_cf).unwrap();
        let SigningKey::Token(uri) = &settings.signing_key else { panic!("on a token") };
        let token = settings.pkcs11.token(uri).unwrap();
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
        assert_eq!(settings.witnesses, [Witness::Mail(Address::parse("Notaio@studio.test").unwrap()), web]);
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
    fn names_are_ours_and_meanings_fit_into_the_table() {
        for parameter in table() {
            assert!(parameter.name.starts_with("pec_") && !parameter.meaning.contains('|'), "{parameter:?}");
        }
    }
}
