//! Postfix, as `postconf` and `postmap` tell it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;

use pec_host::parameters::{split_list, table};
pub(crate) use pec_host::postfix::{Postfix, Service};

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

/// Asks `postconf` for everything that is in force.
pub(crate) fn read(config_directory: &Path) -> Known<Postfix> {
    Postfix::read(config_directory, table().iter().map(|p| p.name).chain(FORMER_PARAMETERS.iter().copied()))
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
