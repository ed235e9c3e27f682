//! Dovecot, as `doveconf` tells it. Versions 2.3 and 2.4 differ in names.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::check::look::ask::{Known, output};

/// A setting: the path of its block, with `/` between, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) path: String,
    pub(crate) value: String,
    /// Which of the outermost blocks it stands in; two `passdb` are two.
    block: usize,
}

/// What the lines of a file of users say besides the passwords: user, field.
pub(crate) type Accounts = Vec<(String, String)>;

/// What is in force in a Dovecot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dovecot {
    /// Settings as delivery by LMTP sees them.
    pub(crate) lmtp: Vec<Setting>,
    /// Settings as a user sees them who reads by IMAP.
    pub(crate) imap: Vec<Setting>,
    /// The configuration as it is written.
    pub(crate) written: Vec<Setting>,
    /// Files of users.
    pub(crate) accounts: Vec<(PathBuf, Known<Accounts>)>,
}

impl Dovecot {
    /// Asks `doveconf`, and reads the files of users.
    pub(crate) fn read() -> Known<Self> {
        let doveconf = |arguments: &[&str]| output(Command::new("doveconf").args(arguments));
        let lmtp = doveconf(&["-a", "-f", "protocol=lmtp"])?;
        let mut dovecot = Self::parse(&lmtp, &doveconf(&["-a", "-f", "protocol=imap"])?, &doveconf(&["-n"])?);
        dovecot.accounts =
            dovecot.account_files().into_iter().map(|file| (file.clone(), accounts(&file))).collect();
        Ok(dovecot)
    }

    /// Reads the output of `doveconf -a -f protocol=lmtp`, the same of imap, and of `doveconf -n`.
    pub(crate) fn parse(lmtp: &str, imap: &str, written: &str) -> Self {
        Self { lmtp: flat(lmtp), imap: flat(imap), written: flat(written), accounts: Vec::new() }
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        value(&self.lmtp, name)
    }

    /// The plugins of delivery. 2.3: `mail_plugins = quota sieve`; 2.4: `mail_plugins { sieve = yes }`.
    pub(crate) fn plugins(&self) -> Vec<&str> {
        let list = self.value("mail_plugins").unwrap_or_default().split_whitespace();
        let block = self
            .lmtp
            .iter()
            .filter(|s| s.value == "yes")
            .filter_map(|s| s.path.strip_prefix("mail_plugins/"));
        list.chain(block).collect()
    }

    /// What is written in these outermost blocks, block by block: `passdb`, `passdb passwd-file`.
    pub(crate) fn blocks(&self, kind: &str) -> Vec<Vec<&Setting>> {
        let is_of = |setting: &&Setting| {
            setting.path.strip_prefix(kind).is_some_and(|rest| rest.starts_with(['/', ' ']))
        };
        let of_kind: Vec<&Setting> = self.written.iter().filter(is_of).collect();
        of_kind.chunk_by(|a, b| a.block == b.block).map(<[_]>::to_vec).collect()
    }

    /// Files of users, as far as one can tell which they are: 2.3: the last word of `args`; 2.4:
    /// `passwd_file_path`.
    fn account_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = ["passdb", "userdb"]
            .iter()
            .flat_map(|kind| self.blocks(kind))
            .filter_map(|block| file_of(&block))
            .collect();
        files.sort();
        files.dedup();
        files
    }

    /// Whether a service of it listens at this unix socket.
    pub(crate) fn has_listener(&self, path: &Path) -> bool {
        self.service_of(path).is_some()
    }

    /// The service that listens at this unix socket: `service lmtp`.
    pub(crate) fn service_of(&self, path: &Path) -> Option<&str> {
        let listener = format!("/unix_listener {}/", path.display());
        self.written.iter().find_map(|setting| setting.path.split_once(&listener).map(|(service, _)| service))
    }

    pub(crate) fn written(&self, path: &str) -> Option<&str> {
        value(&self.written, path)
    }
}

/// The value of a setting by its path.
pub(crate) fn value<'a>(settings: &'a [Setting], name: &str) -> Option<&'a str> {
    settings.iter().find(|setting| setting.path == name).map(|setting| setting.value.as_str())
}

/// The value of a setting of a block, its outermost name left out.
pub(crate) fn in_block<'a>(block: &[&'a Setting], name: &str) -> Option<&'a str> {
    block
        .iter()
        .find(|s| s.path.split_once('/').is_some_and(|(_, rest)| rest == name))
        .map(|s| s.value.as_str())
}

/// What a `passdb` or `userdb` asks. In 2.4 it is its name where nothing else is said.
pub(crate) fn driver_of<'a>(block: &[&'a Setting]) -> &'a str {
    let name = || {
        block
            .first()
            .and_then(|s| s.path.split('/').next())
            .and_then(|outermost| outermost.split_once(' '))
            .map(|(_, name)| name)
    };
    in_block(block, "driver").or_else(name).unwrap_or_default()
}

fn file_of(block: &[&Setting]) -> Option<PathBuf> {
    let last_word = |args: &str| args.split_whitespace().last().map(str::to_owned);
    let path = match in_block(block, "passwd_file_path") {
        Some(path) => path.to_owned(),
        None if driver_of(block) == "passwd-file" => in_block(block, "args").and_then(last_word)?,
        None => return None,
    };
    Some(PathBuf::from(path))
}

/// `a {` `b = c` `}` becomes (`a/b`, `c`).
fn flat(text: &str) -> Vec<Setting> {
    let (mut path, mut out, mut block) = (Vec::new(), Vec::new(), 0);
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
        if let Some(name) = line.strip_suffix('{') {
            block += usize::from(path.is_empty());
            path.push(name.trim().to_owned());
        } else if line == "}" {
            path.pop();
        } else if let Some((name, value)) = line.split_once('=') {
            path.push(name.trim().to_owned());
            out.push(Setting {
                path: path.join("/"),
                value: value.trim().trim_matches('"').trim().to_owned(),
                block,
            });
            path.pop();
        }
    }
    out
}

/// What the lines of a passwd-file say in their last field.
fn accounts(file: &Path) -> Known<Accounts> {
    if file.to_string_lossy().contains('%') {
        return Err("one file for each domain or user".to_owned());
    }
    Ok(fields_of(&std::fs::read_to_string(file).map_err(|e| e.to_string())?))
}

fn fields_of(text: &str) -> Accounts {
    let of_line = |line: &str| {
        let fields: Vec<String> = line.splitn(8, ':').map(str::to_owned).collect();
        let extra = fields.get(7).map(String::as_str).unwrap_or_default();
        extra.split_whitespace().map(|field| (fields[0].clone(), field.to_owned())).collect::<Vec<_>>()
    };
    text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::shipped_dovecot;

    #[test]
    fn files_of_users_are_found_and_their_fields_read() {
        for version in ["2.3", "2.4"] {
            assert_eq!(
                shipped_dovecot(version).account_files(),
                [PathBuf::from("/etc/dovecot/users")],
                "{version}"
            );
        }
        let two = "passdb {\n  driver = pam\n}\npassdb {\n  args = scheme=CRYPT username_format=%u \
            /etc/dovecot/a\n  driver = passwd-file\n}\n\
            userdb {\n  args = /etc/dovecot/sql.conf.ext\n  driver = sql\n}\n";
        assert_eq!(Dovecot::parse("", "", two).account_files(), [PathBuf::from("/etc/dovecot/a")]);
        let text = "# a:b::::::proxy=y\nanna@x.test:{X}y::::::userdb_quota_rule=*:storage=1G \
            proxy=y\nbruno@x.test:{X}y::::::\nshort:x\n";
        let expected = [("anna@x.test", "userdb_quota_rule=*:storage=1G"), ("anna@x.test", "proxy=y")];
        assert_eq!(fields_of(text), expected.map(|(user, field)| (user.to_owned(), field.to_owned())));
        assert!(accounts(Path::new("/etc/dovecot/%d/users")).is_err());
    }
}
