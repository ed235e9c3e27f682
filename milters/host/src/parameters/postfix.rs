//! main.cf, read by Postfix's own programs.
//!
//! Promise: a value is what Postfix would use, with its `$names` expanded; which of ours are set does not
//! hang on any line that the administrator has for that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::Command;

use pec_core::address::is_domain;

use super::ParameterError;
use super::values::{Kind, Unset, split_list};

/// Parameters of Postfix that the milters go by.
const OF_POSTFIX: [&str; 5] = [
    "myhostname",
    "queue_directory",
    "virtual_mailbox_domains",
    "message_size_limit",
    "smtpd_recipient_limit",
];

/// Lists all keys of a lookup table.
pub(super) type Keys<'a> = &'a dyn Fn(&str) -> Result<Vec<String>, ParameterError>;

/// Values as `postconf` gives them.
#[derive(Debug, Clone)]
pub(super) struct MainCf {
    /// Its path.
    pub(super) file: String,
    pub(super) values: HashMap<String, String>,
}

impl MainCf {
    /// What it says of the parameters `ours`, and of Postfix's own that the milters go by. A `pec_` parameter that
    /// is none of them is an error.
    pub(super) fn read(config_directory: &Path, ours: &[&'static str]) -> Result<Self, ParameterError> {
        // postconf knows a parameter that is not Postfix's own only if another one names it. So that reading
        // does not hang on the line that the administrator has for this, all are named here, for this one
        // call.
        let named: String = ours.iter().map(|name| format!("${{{name}?}}")).collect();
        let output = Command::new("postconf")
            .arg("-c")
            .arg(config_directory)
            .args(["-o", &format!("milter_macro_defaults={named}"), "-x"])
            .args(ours)
            .args(OF_POSTFIX)
            .output()
            .map_err(|e| ParameterError::Postconf(e.to_string()))?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let why = complaints.lines().last().unwrap_or_default();
            return Err(ParameterError::Postconf(why.strip_prefix("postconf: ").unwrap_or(why).to_owned()));
        }
        let mut unused = complaints.lines().filter_map(|line| line.split_once("unused parameter: pec_"));
        if let Some((_, unknown)) = unused.next() {
            let name = unknown.split('=').next().unwrap_or_default();
            return Err(ParameterError::Unknown(format!("pec_{name}")));
        }
        let file = config_directory.join("main.cf");
        Ok(Self::of_lines(&file, &String::from_utf8_lossy(&output.stdout)))
    }

    /// Of lines `NAME = VALUE`.
    pub(super) fn of_lines(file: &Path, lines: &str) -> Self {
        let values = lines.lines().filter_map(|line| line.split_once('='));
        let values = values.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        Self { file: file.display().to_string(), values: values.collect() }
    }

    /// What stands there; empty where nothing does.
    pub(super) fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// The value in force of the parameter `name`.
    pub(super) fn get<K: Kind, U: Unset>(
        &self,
        name: &'static str,
        unset: U,
        kind: &K,
    ) -> Result<U::Field<K::Value>, ParameterError> {
        let text = Some(self.text(name)).filter(|text| !text.is_empty()).or(unset.default());
        let queue_directory = Path::new(self.text("queue_directory"));
        let value = text.map(|text| kind.value(name, text, queue_directory)).transpose()?;
        unset.field(value).ok_or_else(|| ParameterError::Missing {
            name,
            main_cf: self.file.clone(),
            allowed: kind.allowed(),
        })
    }

    /// The value of a parameter that must be set since `other` is.
    pub(super) fn needed<T>(
        &self,
        name: &'static str,
        value: Option<T>,
        kind: &impl Kind,
        other: &str,
    ) -> Result<T, ParameterError> {
        let allowed = format!("{}, since {other} is set", kind.allowed());
        value.ok_or_else(|| ParameterError::Missing { name, main_cf: self.file.clone(), allowed })
    }

    /// What is set, as it stands there; of secrets nothing.
    pub(super) fn shown(&self) -> BTreeMap<String, String> {
        let set = self.values.iter().filter(|(_, value)| !value.is_empty());
        set.map(|(name, value)| (name.clone(), without_secrets(value))).collect()
    }

    /// `virtual_mailbox_domains`, tables resolved, in lower case.
    pub(super) fn local_domains(&self, keys: Keys<'_>) -> Result<HashSet<String>, ParameterError> {
        let mut domains = HashSet::new();
        for entry in split_list(self.text("virtual_mailbox_domains")) {
            let names = if entry.contains(':') { keys(&entry)? } else { vec![entry] };
            for name in names {
                if !is_domain(&name) {
                    let allowed = "a list of domains and of tables whose keys can be listed (hash:, btree:, \
                        lmdb:, cdb:, texthash:, inline:)";
                    return Err(ParameterError::Value {
                        name: "virtual_mailbox_domains".to_owned(),
                        value: name,
                        allowed: allowed.to_owned(),
                    });
                }
                domains.insert(name.to_ascii_lowercase());
            }
        }
        Ok(domains)
    }
}

/// A value without the password or PIN that somebody wrote into it instead of a file of its own.
fn without_secrets(value: &str) -> String {
    let secret = ["password", "pin-value"].iter().filter_map(|word| value.find(word)).min();
    secret.map_or_else(|| value.to_owned(), |at| format!("{}...", &value[..at]))
}

/// All keys of a lookup table, through `postmap -s`.
pub(super) fn table_keys(config_directory: &Path, table: &str) -> Result<Vec<String>, ParameterError> {
    let unlistable = |why: &str| ParameterError::Value {
        name: "virtual_mailbox_domains".to_owned(),
        value: table.to_owned(),
        allowed: format!(
            "a table whose keys can be listed (hash:, btree:, lmdb:, cdb:, texthash:, inline:); postmap \
            says: {why}"
        ),
    };
    let listed = Command::new("postmap").arg("-c").arg(config_directory).arg("-s").arg(table).output();
    let output = listed.map_err(|e| unlistable(&e.to_string()))?;
    if !output.status.success() {
        return Err(unlistable(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default()));
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    Ok(lines.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect())
}
