//! Postfix, as `postconf` and `postmap` tell it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use pec_host::parameters::{split_list, table};

use crate::check::look::ask::{Known, look_up, output, reason};

/// Parameters of ours that are no more; `postconf` tells only of those that it is asked for by name.
pub(crate) const FORMER_PARAMETERS: &[&str] = &[
    "pec_doveadm_key_file",
    "pec_doveadm_url",
    "pec_internal_milter",
    "pec_notices_memory_limit",
    "pec_notices_smtpd",
    "pec_store",
    "pec_triggers_milter",
];

/// Files beside main.cf that are read as they are.
pub(crate) const FILES: &[&str] = &["pec-internal-domains"];

/// A lookup table's keys and values.
pub(crate) type Table = Vec<(String, String)>;

/// Parameters of which the lookup tables are read.
pub(crate) const WITH_TABLES: &[&str] = &[
    "mydestination",
    "virtual_alias_domains",
    "relay_domains",
    "transport_maps",
    "virtual_alias_maps",
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
    "smtpd_data_restrictions",
    "smtpd_end_of_data_restrictions",
];

/// What is in force in a Postfix.
#[derive(Debug, Clone, Default)]
pub(crate) struct Postfix {
    /// `postconf -x`: every parameter, expanded.
    main: HashMap<String, String>,
    /// `postconf -F -x` and `postconf -P -x`.
    pub(crate) services: Vec<Service>,
}

impl Postfix {
    /// Reads the output of `postconf -x`, `postconf -F -x */*/command */*/process_limit` and `postconf -P
    /// -x`.
    pub(crate) fn parse(main: &str, fields: &str, options: &str) -> Self {
        let pair = |line: &str| line.split_once('=').map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned()));
        let mut services: Vec<Service> = Vec::new();
        let field = |what: &'static str| {
            let of_service = move |(path, value): (String, String)| {
                let (name, kind) = path.strip_suffix(what)?.rsplit_once('/')?;
                Some((name.to_owned(), kind.to_owned(), value))
            };
            fields.lines().filter_map(pair).filter_map(of_service)
        };
        for (name, kind, command) in field("/command") {
            let program = command.split_whitespace().next().unwrap_or_default().to_owned();
            services.push(Service { name, kind, program, processes: None, options: Vec::new() });
        }
        for (name, kind, processes) in field("/process_limit") {
            if let Some(service) = services.iter_mut().find(|s| s.name == name && s.kind == kind) {
                service.processes = processes.parse().ok();
            }
        }
        for (path, value) in options.lines().filter_map(pair) {
            let mut parts = path.rsplitn(3, '/');
            if let (Some(option), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next())
                && let Some(service) = services.iter_mut().find(|s| s.name == name && s.kind == kind)
            {
                service.options.push((option.to_owned(), value));
            }
        }
        Self { main: main.lines().filter_map(pair).collect(), services }
    }

    /// Whether this Postfix finds other servers by the DNS.
    pub(crate) fn asks_dns(&self) -> bool {
        self.main("smtp_dns_support_level") != "disabled"
    }

    /// The same with another value in main.cf.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.main.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The value in main.cf.
    pub(crate) fn main(&self, name: &str) -> &str {
        self.main.get(name).map_or("", String::as_str)
    }

    /// Whether master.cf has a service of this name and type.
    pub(crate) fn has_service(&self, name: &str, kind: &str) -> bool {
        self.services.iter().any(|s| s.name == name && s.kind == kind)
    }

    /// The value that a service goes by.
    pub(crate) fn of<'a>(&'a self, service: &'a Service, name: &str) -> &'a str {
        service.option(name).unwrap_or_else(|| self.main(name))
    }

    /// What every process of Postfix goes by: (value, the service that says so or none).
    pub(crate) fn everywhere(&self, name: &str) -> Vec<(&str, Option<&Service>)> {
        let options = self.services.iter().filter_map(|s| s.option(name).map(|value| (value, Some(s))));
        std::iter::once((self.main(name), None)).chain(options).collect()
    }

    /// A value of a shipped file with `$name` replaced.
    pub(crate) fn expanded(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
            out += before;
            out += self.main(&after[..end]);
            rest = &after[end..];
        }
        out + rest
    }
}

/// A service of a master.cf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// `smtp`, `127.0.0.1:25`.
    pub(crate) name: String,
    /// `inet`, `unix`, `pass`.
    pub(crate) kind: String,
    /// `smtpd`.
    pub(crate) program: String,
    /// How many processes at most; 0: as many as come. Nothing: Postfix's default.
    pub(crate) processes: Option<u32>,
    /// `-o name=value`.
    pub(crate) options: Vec<(String, String)>,
}

impl Service {
    /// As `postconf -P` names it: `smtp/inet`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.name, self.kind)
    }

    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Asks `postconf` for everything that is in force.
pub(crate) fn read(config_directory: &Path) -> anyhow::Result<Postfix> {
    // Ours are known to postconf only where another parameter names them.
    let named: String = table()
        .iter()
        .map(|p| p.name)
        .chain(FORMER_PARAMETERS.iter().copied())
        .map(|name| format!("${{{name}?}}"))
        .collect();
    let postconf = |arguments: &[&str]| {
        let mut command = Command::new("postconf");
        command
            .arg("-c")
            .arg(config_directory)
            .args(["-o", &format!("milter_macro_defaults={named}"), "-x"])
            .args(arguments);
        output(&mut command).map_err(anyhow::Error::msg).context("postconf")
    };
    let postfix = Postfix::parse(
        &postconf(&[])?,
        &postconf(&["-F", "*/*/command", "*/*/process_limit"])?,
        &postconf(&["-P"])?,
    );
    // Just after a change postconf may tell the default.
    Ok(postfix.with("config_directory", &config_directory.display().to_string()))
}

/// Reads the files beside main.cf.
pub(crate) fn read_files(config_directory: &Path) -> HashMap<&'static str, Known<String>> {
    let read = |name| std::fs::read_to_string(config_directory.join(name)).map_err(reason);
    FILES.iter().map(|name| (*name, read(name))).collect()
}

/// Reads the tables in routes, lists of domains and restrictions.
pub(crate) fn read_tables(config_directory: &Path, postfix: &Postfix) -> HashMap<String, Known<Table>> {
    WITH_TABLES
        .iter()
        .flat_map(|name| postfix.everywhere(name))
        .flat_map(|(value, _)| split_list(value))
        .filter(|word| is_table(word))
        .map(|table| (table.clone(), table_of(config_directory, &table)))
        .collect()
}

/// Whether a word of a list is a lookup table: `type:name`.
pub(crate) fn is_table(word: &str) -> bool {
    word.split_once(':').is_some_and(|(kind, name)| {
        !name.is_empty() && !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase())
    }) && !["inet", "unix", "smtp", "lmtp", "error"].iter().any(|kind| word.starts_with(&format!("{kind}:")))
}

fn table_of(config_directory: &Path, table: &str) -> Known<Table> {
    let (kind, name) = table.split_once(':').unwrap_or_default();
    if matches!(kind, "regexp" | "pcre" | "cidr") {
        let text = if name.starts_with('{') {
            name.replace(['{', '}'], "\n")
        } else {
            std::fs::read_to_string(name).map_err(reason)?
        };
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        return Ok(lines
            .map(|line| line.split_once(char::is_whitespace).unwrap_or((line, "")))
            .map(pair)
            .collect());
    }
    let text = output(Command::new("postmap").arg("-c").arg(config_directory).args(["-s", table]))?;
    Ok(text.lines().filter_map(|line| line.split_once('\t')).map(pair).collect())
}

fn pair((key, value): (&str, &str)) -> (String, String) {
    (key.trim().to_owned(), value.trim().to_owned())
}

/// Reads what `smtp_tls_policy_maps` says of each of these domains: the TLS levels, one of each table that
/// knows the domain. Nothing where there are no tables.
pub(crate) fn read_tls_levels(
    postfix: &Postfix,
    domains: BTreeSet<String>,
) -> Known<BTreeMap<String, Vec<String>>> {
    let tables = split_list(postfix.main("smtp_tls_policy_maps"));
    if tables.is_empty() {
        return Ok(BTreeMap::new());
    }
    let keys: String = domains.iter().map(|domain| format!("{domain}\n")).collect();
    let mut levels: BTreeMap<String, Vec<String>> =
        domains.into_iter().map(|domain| (domain, Vec::new())).collect();
    for table in tables {
        let mut postmap = Command::new("postmap");
        postmap.args(["-c", postfix.main("config_directory"), "-q", "-", &table]);
        let found = look_up(&mut postmap, &keys)?;
        for (domain, policy) in found.lines().filter_map(|line| line.split_once(char::is_whitespace)) {
            if let Some(levels) = levels.get_mut(domain) {
                levels.push(policy.split_whitespace().next().unwrap_or_default().to_owned());
            }
        }
    }
    Ok(levels)
}

/// For tests: the same Postfix with something else.
#[cfg(test)]
impl Postfix {
    pub(crate) fn with_option(mut self, service: &str, name: &str, value: Option<&str>) -> Self {
        let service = self.services.iter_mut().find(|s| s.id() == service).unwrap();
        service.options.retain(|(n, _)| n != name);
        service.options.extend(value.map(|v| (name.to_owned(), v.to_owned())));
        self
    }

    pub(crate) fn with_service(mut self, name: &str, program: &str) -> Self {
        self.services.push(Service {
            name: name.into(),
            kind: "inet".into(),
            program: program.into(),
            processes: None,
            options: Vec::new(),
        });
        self
    }

    pub(crate) fn with_processes(mut self, name: &str, processes: Option<u32>) -> Self {
        self.services.iter_mut().find(|s| s.name == name).unwrap().processes = processes;
        self
    }

    pub(crate) fn without_service(mut self, name: &str) -> Self {
        self.services.retain(|s| s.name != name);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_told_from_domains_and_transports() {
        for table in ["hash:/etc/postfix/x", "inline:{a=b}", "regexp:/x", "texthash:/x", "proxy:mysql:/x"] {
            assert!(is_table(table), "{table}");
        }
        for word in ["pec.alfa.test", "check_recipient_access", "inet:127.0.0.1:10031", "[::1]:25", "reject"]
        {
            assert!(!is_table(word), "{word}");
        }
    }
}
