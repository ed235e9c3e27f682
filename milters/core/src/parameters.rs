//! The `pec_` parameters, which stand in Postfix's own main.cf.
//!
//! Promise: one [`TABLE`] says what there is; the programs read by it and docs/configuration.md is printed from it. An unknown
//! `pec_` parameter, a missing one or a value that is not allowed is one line with name, value and what is allowed. What
//! Postfix knows already (`virtual_mailbox_domains`, `message_size_limit` ...) is asked of Postfix, never set twice.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::address::is_domain;

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A mail domain.
    Domain,
    /// Any text.
    Text,
    /// An absolute path.
    Path,
    /// Where a milter listens: `unix:path` (below Postfix's queue_directory unless absolute) or `inet:host:port`.
    Socket,
    /// A number of bytes, at least the first and at most the second.
    Bytes(u64, u64),
    /// An `http://` address.
    Url,
}

impl Kind {
    fn allowed(self) -> String {
        match self {
            Self::Domain => "a mail domain".to_owned(),
            Self::Text => "a text that is not empty".to_owned(),
            Self::Path => "an absolute path".to_owned(),
            Self::Socket => "unix:path or inet:host:port".to_owned(),
            Self::Bytes(least, most) => format!("a number of bytes from {least} to {most}"),
            Self::Url => "an http:// address".to_owned(),
        }
    }

    fn admits(self, value: &str) -> bool {
        match self {
            Self::Domain => is_domain(value) && value.contains('.'),
            Self::Text => !value.is_empty(),
            Self::Path => value.starts_with('/'),
            Self::Socket => Socket::parse(value, Path::new("/")).is_some(),
            Self::Bytes(least, most) => value.parse().is_ok_and(|n| (least..=most).contains(&n)),
            Self::Url => value.strip_prefix("http://").is_some_and(|rest| !rest.is_empty()),
        }
    }
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

/// By how much `message_size_limit` must stand above `pec_message_size_limit`: what envelope and receipt add around the
/// original at most (texts and daticert.xml of 1,000 recipients, signature).
pub const ENVELOPE_ALLOWANCE: u64 = 2 * 1024 * 1024;

/// All parameters.
pub const TABLE: &[Parameter] = &[
    Parameter {
        name: "pec_service_domain",
        kind: Kind::Domain,
        unset: Unset::Required,
        meaning: "The provider's own domain (not its customers'). Envelopes and receipts come from posta-certificata@ this domain, identifiers end in it, and the certificate must be for that address.",
    },
    Parameter {
        name: "pec_provider_name",
        kind: Kind::Text,
        unset: Unset::Required,
        meaning: "The provider's name as the directory of providers has it (`providerName`). It stands in every receipt as `gestore-emittente`.",
    },
    Parameter {
        name: "pec_certificate_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "PEM file with the certificate that signs, followed by the certificates above it. Its subjectAltName must hold posta-certificata@`pec_service_domain`. A root certificate may stand there; it is not sent along.",
    },
    Parameter {
        name: "pec_key_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "PEM file with that certificate's private key, RSA of at least 2048 bits, without passphrase; readable by the user of the milters alone.",
    },
    Parameter {
        name: "pec_ca_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "PEM file with the CAs that may vouch for other providers' certificates. No other CA is believed, the system's own store included.",
    },
    Parameter {
        name: "pec_directory_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "The directory of providers as an LDIF file (RFC 6109 section 4.5): who signs with which certificate, which domains are certified, where a presa in carico goes. Our own record must be in it.",
    },
    Parameter {
        name: "pec_database",
        kind: Kind::Text,
        unset: Unset::Required,
        meaning: "How to reach PostgreSQL, as libpq writes it: `host=127.0.0.1 dbname=pec user=pec`. No password here.",
    },
    Parameter {
        name: "pec_database_password_file",
        kind: Kind::Path,
        unset: Unset::Nothing,
        meaning: "File whose first line is the password of the user in `pec_database`.",
    },
    Parameter {
        name: "pec_store",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "Directory in which originals lie until every recipient of ours has its delivery receipt. Writable by the user of the milters alone, on a disk that keeps what it is told to keep.",
    },
    Parameter {
        name: "pec_access_milter",
        kind: Kind::Socket,
        unset: Unset::Required,
        meaning: "Where pec-access listens for submission (587, 465). Whoever can connect to a milter's socket can have things signed: a unix socket in a directory that only postfix may enter is the safe choice.",
    },
    Parameter { name: "pec_incoming_milter", kind: Kind::Socket, unset: Unset::Required, meaning: "Where pec-incoming listens for port 25." },
    Parameter {
        name: "pec_internal_milter",
        kind: Kind::Socket,
        unset: Unset::Required,
        meaning: "Where pec-incoming listens for the internal way, on which envelopes for the provider's own recipients come.",
    },
    Parameter {
        name: "pec_triggers_milter",
        kind: Kind::Socket,
        unset: Unset::Required,
        meaning: "Where pec-notices listens for triggers, the copies that Postfix's queue manager sends round.",
    },
    Parameter {
        name: "pec_reports_milter",
        kind: Kind::Socket,
        unset: Unset::Required,
        meaning: "Where pec-notices listens for the delivery reports that Postfix itself writes (`non_smtpd_milters`).",
    },
    Parameter {
        name: "pec_doveadm_url",
        kind: Kind::Url,
        unset: Unset::Required,
        meaning: "Dovecot's doveadm HTTP API, such as `http://127.0.0.1:8080/doveadm/v1`. It is asked when a mailbox saved a message.",
    },
    Parameter {
        name: "pec_doveadm_key_file",
        kind: Kind::Path,
        unset: Unset::Required,
        meaning: "File whose first line is Dovecot's `doveadm_api_key`.",
    },
    Parameter {
        name: "pec_message_size_limit",
        kind: Kind::Bytes(1024 * 1024, 2 * 1024 * 1024 * 1024),
        unset: Unset::Default("31457280"),
        meaning: "The largest original in bytes. Postfix's `message_size_limit` must stand at least 2097152 bytes above it, since it caps envelopes and receipts too.",
    },
    Parameter {
        name: "pec_total_size_limit",
        kind: Kind::Bytes(GUARANTEED_SIZE, 1024 * 1024 * 1024 * 1024),
        unset: Unset::Default("104857600"),
        meaning: "The most that size of the original times number of recipients may be, in bytes. The law guarantees users 30 MB (DM 2/11/2005 art. 12).",
    },
    Parameter {
        name: "pec_notices_memory_limit",
        kind: Kind::Bytes(16 * 1024 * 1024, 1024 * 1024 * 1024 * 1024),
        unset: Unset::Default("268435456"),
        meaning: "How many bytes of originals pec-notices holds at once while it makes delivery receipts; further receipts wait their turn. An original larger than this is held alone.",
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

impl Socket {
    /// Reads Postfix's spelling; a relative path is one below `queue_directory`, as Postfix's own processes see it.
    fn parse(text: &str, queue_directory: &Path) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(queue_directory.join(path)));
        }
        let address = text.strip_prefix("inet:")?;
        let (host, port) = address.rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)).then(|| Self::Inet(address.to_owned()))
    }
}

/// The configuration in force, as the programs use it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `pec_service_domain`, in lower case.
    pub service_domain: String,
    /// `pec_provider_name`.
    pub provider_name: String,
    /// `pec_certificate_file`.
    pub certificate_file: PathBuf,
    /// `pec_key_file`.
    pub key_file: PathBuf,
    /// `pec_ca_file`.
    pub ca_file: PathBuf,
    /// `pec_directory_file`.
    pub directory_file: PathBuf,
    /// `pec_database`.
    pub database: String,
    /// `pec_database_password_file`.
    pub database_password_file: Option<PathBuf>,
    /// `pec_store`.
    pub store: PathBuf,
    /// `pec_access_milter`.
    pub access_milter: Socket,
    /// `pec_incoming_milter`.
    pub incoming_milter: Socket,
    /// `pec_internal_milter`.
    pub internal_milter: Socket,
    /// `pec_triggers_milter`.
    pub triggers_milter: Socket,
    /// `pec_reports_milter`.
    pub reports_milter: Socket,
    /// `pec_doveadm_url`.
    pub doveadm_url: String,
    /// `pec_doveadm_key_file`.
    pub doveadm_key_file: PathBuf,
    /// `pec_message_size_limit`, bytes.
    pub message_size_limit: u64,
    /// `pec_total_size_limit`, bytes.
    pub total_size_limit: u64,
    /// `pec_notices_memory_limit`, bytes.
    pub notices_memory_limit: u64,
    /// Postfix's `myhostname`.
    pub hostname: String,
    /// Postfix's `virtual_mailbox_domains`, tables resolved, in lower case: our domains, the service domain included.
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
        let error = |trouble: String| ParameterError::File { name, path: file.display().to_string(), trouble };
        let text = std::fs::read_to_string(file).map_err(|e| error(e.to_string()))?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(line.to_owned()),
            _ => Err(error("is empty".to_owned())),
        }
    }
}

/// Parameters of Postfix that the milters go by.
const FROM_POSTFIX: [&str; 4] = ["myhostname", "queue_directory", "virtual_mailbox_domains", "message_size_limit"];

/// Values as `postconf` gives them.
#[derive(Debug)]
struct Raw {
    main_cf: String,
    values: HashMap<String, String>,
}

impl Raw {
    fn read(config_directory: &Path) -> Result<Self, ParameterError> {
        // postconf knows a parameter that is not Postfix's own only if another one names it. So that reading does not hang
        // on the line that the administrator has for this, all are named here, for this one call.
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
        if let Some(unknown) = complaints.lines().find_map(|line| line.split_once("unused parameter: pec_")).map(|(_, rest)| rest) {
            return Err(ParameterError::Unknown(format!("pec_{}", unknown.split('=').next().unwrap_or_default())));
        }
        let main_cf = config_directory.join("main.cf").display().to_string();
        let lines = String::from_utf8_lossy(&output.stdout);
        let values = lines.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        Ok(Self { main_cf, values: values.collect() })
    }

    /// The value in force, checked against the table.
    fn value(&self, parameter: &Parameter) -> Result<Option<String>, ParameterError> {
        let value = match (self.values.get(parameter.name).filter(|v| !v.is_empty()), parameter.unset) {
            (Some(value), _) => value.clone(),
            (None, Unset::Default(default)) => default.to_owned(),
            (None, Unset::Nothing) => return Ok(None),
            (None, Unset::Required) => {
                return Err(ParameterError::Missing { name: parameter.name, main_cf: self.main_cf.clone(), allowed: parameter.kind.allowed() });
            }
        };
        if parameter.kind.admits(&value) {
            Ok(Some(value))
        } else {
            Err(ParameterError::Value { name: parameter.name.to_owned(), value, allowed: parameter.kind.allowed() })
        }
    }

    fn settings(&self, keys: impl Fn(&str) -> Result<Vec<String>, ParameterError>) -> Result<Settings, ParameterError> {
        let mut checked = HashMap::new();
        for parameter in TABLE {
            checked.insert(parameter.name, self.value(parameter)?);
        }
        let optional = |name: &str| checked.get(name).cloned().flatten();
        let text = |name: &str| optional(name).unwrap_or_default();
        let number = |name: &str| text(name).parse().unwrap_or_default();
        let path = |name: &str| PathBuf::from(text(name));
        let queue_directory = PathBuf::from(self.postfix("queue_directory"));
        let socket = |name: &str| Socket::parse(&text(name), &queue_directory).unwrap_or(Socket::Inet(String::new()));

        let settings = Settings {
            service_domain: text("pec_service_domain").to_ascii_lowercase(),
            provider_name: text("pec_provider_name"),
            certificate_file: path("pec_certificate_file"),
            key_file: path("pec_key_file"),
            ca_file: path("pec_ca_file"),
            directory_file: path("pec_directory_file"),
            database: text("pec_database"),
            database_password_file: optional("pec_database_password_file").map(PathBuf::from),
            store: path("pec_store"),
            access_milter: socket("pec_access_milter"),
            incoming_milter: socket("pec_incoming_milter"),
            internal_milter: socket("pec_internal_milter"),
            triggers_milter: socket("pec_triggers_milter"),
            reports_milter: socket("pec_reports_milter"),
            doveadm_url: text("pec_doveadm_url"),
            doveadm_key_file: path("pec_doveadm_key_file"),
            message_size_limit: number("pec_message_size_limit"),
            total_size_limit: number("pec_total_size_limit"),
            notices_memory_limit: number("pec_notices_memory_limit"),
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
                allowed: format!("at least {needed}: pec_message_size_limit and {ENVELOPE_ALLOWANCE} for what envelope and receipt add"),
            });
        }
        if !settings.local_domains.contains(&settings.service_domain) {
            return Err(ParameterError::Value {
                name: "virtual_mailbox_domains".to_owned(),
                value: self.postfix("virtual_mailbox_domains").to_owned(),
                allowed: format!("a list that names pec_service_domain ({}) too: the service mailbox lies there", settings.service_domain),
            });
        }
        Ok(())
    }

    fn postfix(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    fn local_domains(&self, keys: impl Fn(&str) -> Result<Vec<String>, ParameterError>) -> Result<HashSet<String>, ParameterError> {
        let mut domains = HashSet::new();
        for entry in split_list(self.postfix("virtual_mailbox_domains")) {
            let names = if entry.contains(':') { keys(&entry)? } else { vec![entry] };
            for name in names {
                if !is_domain(&name) {
                    return Err(ParameterError::Value {
                        name: "virtual_mailbox_domains".to_owned(),
                        value: name,
                        allowed: "a list of domains and of tables whose keys can be listed (hash:, btree:, lmdb:, cdb:, texthash:, inline:)"
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
fn split_list(text: &str) -> Vec<String> {
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
        allowed: format!("a table whose keys can be listed (hash:, btree:, lmdb:, cdb:, texthash:, inline:); postmap says: {why}"),
    };
    let output = Command::new("postmap").arg("-c").arg(config_directory).arg("-s").arg(table).output().map_err(|e| unlistable(&e.to_string()))?;
    if !output.status.success() {
        return Err(unlistable(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect())
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
        let text = "pec_service_domain = Gestore.Alfa.test\npec_provider_name = Alfa PEC S.p.A.\npec_certificate_file = /p/cert.pem\npec_key_file = /p/key.pem\n\
            pec_ca_file = /p/ca.pem\npec_directory_file = /p/igpec.ldif\npec_database = host=127.0.0.1 dbname=pec\npec_store = /s\npec_access_milter = unix:pec/access\n\
            pec_incoming_milter = unix:/run/pec/incoming\npec_internal_milter = inet:127.0.0.1:9003\npec_triggers_milter = unix:pec/triggers\npec_reports_milter = unix:pec/reports\n\
            pec_doveadm_url = http://127.0.0.1:8080/doveadm/v1\npec_doveadm_key_file = /p/key\nmyhostname = mail.gestore.alfa.test\nqueue_directory = /q\n\
            virtual_mailbox_domains = gestore.alfa.test, PEC.alfa.test inline:{a.test=1, b.test=2}\nmessage_size_limit = 33554432\n";
        let values = text.lines().filter_map(|l| l.split_once(" = ")).map(|(n, v)| (n.to_owned(), v.to_owned()));
        Raw { main_cf: "/etc/postfix/main.cf".into(), values: values.collect() }
    }

    fn settings(raw: &Raw) -> Result<Settings, String> {
        raw.settings(|table| {
            if table.starts_with("inline:") { Ok(vec!["a.test".into(), "b.test".into()]) } else { Err(ParameterError::Postconf("no".into())) }
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
        assert_eq!(settings.internal_milter, Socket::Inet("127.0.0.1:9003".into()));
        assert_eq!((settings.message_size_limit, settings.database_password_file), (31_457_280, None));
        let mut domains: Vec<_> = settings.local_domains.into_iter().collect();
        domains.sort();
        assert_eq!(domains, ["a.test", "b.test", "gestore.alfa.test", "pec.alfa.test"]);
    }

    #[test]
    fn errors_name_parameter_value_and_what_is_allowed() {
        for (name, value, says) in [
            ("pec_service_domain", "alfa", "pec_service_domain = alfa: not allowed; it must be a mail domain"),
            ("pec_key_file", "key.pem", "pec_key_file = key.pem: not allowed; it must be an absolute path"),
            ("pec_access_milter", "inet:9001", "it must be unix:path or inet:host:port"),
            ("pec_total_size_limit", "1000000", "from 31457280 to"),
            ("pec_message_size_limit", "30M", "pec_message_size_limit = 30M: not allowed"),
            ("message_size_limit", "31457280", "message_size_limit = 31457280: not allowed; it must be at least 33554432"),
            ("virtual_mailbox_domains", "pec.alfa.test", "names pec_service_domain (gestore.alfa.test) too"),
            ("virtual_mailbox_domains", "gestore.alfa.test *", "virtual_mailbox_domains = *: not allowed"),
            ("pec_doveadm_url", "https://x", "an http:// address"),
            ("pec_store", "", "pec_store is not set in /etc/postfix/main.cf; it must be an absolute path"),
        ] {
            let error = settings(&with(name, value)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_table_is_consistent() {
        let names: HashSet<_> = TABLE.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for parameter in TABLE {
            assert!(parameter.name.starts_with("pec_") && !parameter.meaning.contains('|'), "{}", parameter.name);
            if let Unset::Default(value) = parameter.unset {
                assert!(parameter.kind.admits(value), "{}", parameter.name);
            }
        }
    }
}
