//! Dovecot as `doveconf` tells it. Versions 2.3 and 2.4 differ in names; what one does not know is not looked
//! at there.

mod listeners;
mod storing;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Finding;
use super::seen::{Known, Seen, output};

/// A setting: the path of its block, with `/` between, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) path: String,
    pub(super) value: String,
    /// Which of the outermost blocks it stands in; two `passdb` are two.
    block: usize,
}

/// What the lines of a file of users say besides the passwords: user, field.
type Accounts = Vec<(String, String)>;

/// What is in force in a Dovecot.
#[derive(Debug, Clone, Default)]
pub(super) struct Dovecot {
    /// Settings as delivery by LMTP sees them.
    lmtp: Vec<Setting>,
    /// Settings as a user sees them who reads by IMAP.
    imap: Vec<Setting>,
    /// The configuration as it is written.
    pub(super) written: Vec<Setting>,
    /// Files of users.
    accounts: Vec<(PathBuf, Known<Accounts>)>,
}

impl Dovecot {
    pub(super) fn read() -> Known<Self> {
        let doveconf = |arguments: &[&str]| output(Command::new("doveconf").args(arguments));
        let lmtp = doveconf(&["-a", "-f", "protocol=lmtp"])?;
        let mut dovecot = Self::parse(&lmtp, &doveconf(&["-a", "-f", "protocol=imap"])?, &doveconf(&["-n"])?);
        dovecot.accounts =
            dovecot.account_files().into_iter().map(|file| (file.clone(), accounts(&file))).collect();
        Ok(dovecot)
    }

    /// Reads the output of `doveconf -a -f protocol=lmtp`, the same of imap, and of `doveconf -n`.
    fn parse(lmtp: &str, imap: &str, written: &str) -> Self {
        Self { lmtp: flat(lmtp), imap: flat(imap), written: flat(written), accounts: Vec::new() }
    }

    fn value(&self, name: &str) -> Option<&str> {
        value(&self.lmtp, name)
    }

    /// The plugins of delivery. 2.3: `mail_plugins = quota sieve`; 2.4: `mail_plugins { sieve = yes }`.
    fn plugins(&self) -> Vec<&str> {
        let list = self.value("mail_plugins").unwrap_or_default().split_whitespace();
        let block = self
            .lmtp
            .iter()
            .filter(|s| s.value == "yes")
            .filter_map(|s| s.path.strip_prefix("mail_plugins/"));
        list.chain(block).collect()
    }

    /// What is written in these outermost blocks, block by block: `passdb`, `passdb passwd-file`.
    fn blocks(&self, kind: &str) -> Vec<Vec<&Setting>> {
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
    pub(super) fn has_listener(&self, path: &Path) -> bool {
        self.service_of(path).is_some()
    }

    /// The service that listens at this unix socket: `service lmtp`.
    fn service_of(&self, path: &Path) -> Option<&str> {
        let listener = format!("/unix_listener {}/", path.display());
        self.written.iter().find_map(|setting| setting.path.split_once(&listener).map(|(service, _)| service))
    }

    fn written(&self, path: &str) -> Option<&str> {
        value(&self.written, path)
    }
}

fn value<'a>(settings: &'a [Setting], name: &str) -> Option<&'a str> {
    settings.iter().find(|setting| setting.path == name).map(|setting| setting.value.as_str())
}

/// The value of a setting of a block, its outermost name left out.
fn in_block<'a>(block: &[&'a Setting], name: &str) -> Option<&'a str> {
    block
        .iter()
        .find(|s| s.path.split_once('/').is_some_and(|(_, rest)| rest == name))
        .map(|s| s.value.as_str())
}

/// What a `passdb` or `userdb` asks. In 2.4 it is its name where nothing else is said.
fn driver_of<'a>(block: &[&'a Setting]) -> &'a str {
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

/// Settings and what they must be.
const SETTINGS: &[(&str, &[&str], &str)] = &[
    ("recipient_delimiter", &[""], "user+extension is another address, which no certified mailbox has"),
    ("lmtp_proxy", &["no"], "this Dovecot itself says that it has the message"),
    ("director_servers", &[""], "this Dovecot itself says that it has the message"),
    (
        "lmtp_save_to_detail_mailbox",
        &["no"],
        "user+extension is another address, which no certified mailbox has",
    ),
    ("lmtp_rcpt_check_quota", &["no"], "who asks whether a mailbox exists would wait while it is locked"),
    ("mail_fsync", &["always"], "delivered is what is on disk; set it in protocol lmtp"),
    (
        "auth_username_format",
        &["%Lu", "%u", "%{user | lower}", "%{user|lower}", "%{user}"],
        "an account is one address, its domain included",
    ),
    ("ssl", &["required"], "no password and no mail without TLS"),
    ("disable_plaintext_auth", &["yes"], "no password without TLS"),
    ("auth_allow_cleartext", &["no"], "no password without TLS"),
];

pub(super) fn dovecot(seen: &Seen) -> Vec<Finding> {
    let dovecot = match &seen.dovecot {
        Ok(dovecot) => dovecot,
        Err(why) => return vec![Finding::not_seen("Dovecot", why, "run this where Dovecot is")],
    };
    let mut out = Vec::new();
    for (name, good, why) in SETTINGS {
        if let Some(value) = dovecot.value(name).filter(|v| !good.contains(v)) {
            let allowed = if good[0].is_empty() {
                format!("empty: {why}")
            } else {
                format!("{}: {why}", good.join(" or "))
            };
            out.push(Finding::wrong(
                format!("Dovecot: {name}"),
                value,
                allowed,
                format!("{name} = {} in dovecot.conf", good[0]),
            ));
        }
    }
    out.extend(storing::storing(dovecot));
    out.extend(listeners::listeners(seen, dovecot));
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::postfix::tests::shipped_postfix;
    use super::super::seen::tests::seen;
    use super::*;

    const LMTP_24: &str = "auth_allow_cleartext = no\nauth_username_format = %{user | lower}\nlmtp_proxy = \
        no\nlmtp_rcpt_check_quota = no\n\
        lmtp_save_to_detail_mailbox = no\nmail_driver = sdbox\nmail_fsync = always\nmail_path = \
        ~/sdbox\nmail_plugins {\n  quota = yes\n}\n\
        recipient_delimiter = \nssl = required\n";
    const LMTP_23: &str = "auth_username_format = %Lu\ndirector_servers = \ndisable_plaintext_auth = \
        yes\nlmtp_proxy = no\n\
        lmtp_rcpt_check_quota = no\nlmtp_save_to_detail_mailbox = no\nmail_fsync = always\nmail_location = \
        sdbox:~/sdbox\n\
        mail_plugins = \" quota\"\nrecipient_delimiter = \nssl = required\n";
    /// What is written, which `doveconf -n` tells in the same form.
    const WRITTEN_24: &str = include_str!("../../../../../dovecot-conf/2.4/dovecot.conf");
    const WRITTEN_23: &str = include_str!("../../../../../dovecot-conf/2.3/dovecot.conf");

    /// A Dovecot with dovecot-conf, quota included, as far as it matters here.
    pub(in super::super) fn shipped_dovecot(version: &str) -> Dovecot {
        changed(version, |_, _, _| {})
    }

    /// The same with changes to what delivery and what IMAP go by, and to what is written.
    pub(super) fn changed(
        version: &str,
        change: impl FnOnce(&mut String, &mut String, &mut String),
    ) -> Dovecot {
        let (lmtp, written) = if version == "2.3" { (LMTP_23, WRITTEN_23) } else { (LMTP_24, WRITTEN_24) };
        let (mut lmtp, mut imap, mut written) = (lmtp.to_owned(), lmtp.to_owned(), written.to_owned());
        change(&mut lmtp, &mut imap, &mut written);
        Dovecot::parse(&lmtp, &imap, &written)
    }

    /// A Dovecot in which nothing but this is written.
    pub(in super::super) fn with_written(written: &str) -> Dovecot {
        Dovecot::parse("", "", written)
    }

    /// What is found in a Dovecot.
    pub(super) fn found(dovecot_: Dovecot) -> Vec<String> {
        let mut seen = seen(shipped_postfix());
        seen.dovecot = Ok(dovecot_);
        dovecot(&seen).iter().map(ToString::to_string).collect()
    }

    /// `from` becomes `to`, which must be there.
    pub(super) fn put(text: &mut String, from: &str, to: &str) {
        assert!(text.contains(from), "{from} is not in {text}");
        *text = text.replacen(from, to, 1);
    }

    #[test]
    fn the_shipped_configuration_is_good() {
        for version in ["2.3", "2.4"] {
            assert_eq!(found(shipped_dovecot(version)), Vec::<String>::new(), "{version}");
        }
    }

    #[test]
    fn a_setting_that_makes_a_mailbox_something_else_is_named() {
        for (from, to, says) in [
            (
                "recipient_delimiter = ",
                "recipient_delimiter = +",
                "wrong: Dovecot: recipient_delimiter = +: it must be empty",
            ),
            (
                "lmtp_proxy = no",
                "lmtp_proxy = yes",
                "lmtp_proxy = yes: it must be no: this Dovecot itself says",
            ),
            (
                "lmtp_rcpt_check_quota = no",
                "lmtp_rcpt_check_quota = yes",
                "lmtp_rcpt_check_quota = yes: it must be no",
            ),
            (
                "detail_mailbox = no",
                "detail_mailbox = yes",
                "lmtp_save_to_detail_mailbox = yes: it must be no",
            ),
            ("mail_fsync = always", "mail_fsync = optimized", "mail_fsync = optimized: it must be always"),
            ("%{user | lower}", "%{user | username}", "its domain included"),
            ("ssl = required", "ssl = yes", "ssl = yes: it must be required"),
            ("auth_allow_cleartext = no", "auth_allow_cleartext = yes", "no password without TLS"),
        ] {
            let found = found(changed("2.4", |lmtp, _, _| put(lmtp, from, to)));
            assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        }
        let director = found(changed("2.3", |lmtp, _, _| {
            put(lmtp, "director_servers = ", "director_servers = 10.0.0.7")
        }));
        assert!(
            director.len() == 1 && director[0].contains("director_servers = 10.0.0.7: it must be empty"),
            "{director:?}"
        );
    }

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

    #[test]
    fn a_dovecot_that_is_elsewhere_is_said() {
        let found = dovecot(&seen(shipped_postfix()));
        assert_eq!(
            found[0].to_string(),
            "not seen: Dovecot: doveconf: not here. Mend: run this where Dovecot is"
        );
    }
}
