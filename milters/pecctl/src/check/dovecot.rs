//! Dovecot as `doveconf` tells it. Versions 2.3 and 2.4 differ in names; what one does not know is not looked at there.

use std::process::Command;

use super::Finding;
use super::seen::{Known, Seen, lmtp_servers};

/// What is in force in a Dovecot.
#[derive(Debug, Clone, Default)]
pub(super) struct Dovecot {
    /// Settings as delivery by LMTP sees them: (path, value); blocks are joined by `/`.
    lmtp: Vec<(String, String)>,
    /// The blocks of the configuration as it is written.
    written: Vec<(String, String)>,
}

impl Dovecot {
    pub(super) fn read() -> Known<Self> {
        let doveconf = |arguments: &[&str]| {
            let output = Command::new("doveconf").args(arguments).output().map_err(|e| format!("doveconf: {e}"))?;
            let why = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
            if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Err(why) }
        };
        Ok(Self::parse(&doveconf(&["-a", "-f", "protocol=lmtp"])?, &doveconf(&["-n"])?))
    }

    /// Reads the output of `doveconf -a -f protocol=lmtp` and of `doveconf -n`.
    pub(super) fn parse(lmtp: &str, written: &str) -> Self {
        Self { lmtp: flat(lmtp), written: flat(written) }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.lmtp.iter().find(|(path, _)| path == name).map(|(_, value)| value.as_str())
    }

    /// 2.3: `mail_plugins = quota sieve`; 2.4: `mail_plugins { sieve = yes }`.
    fn has_plugin(&self, plugin: &str) -> bool {
        self.value("mail_plugins").is_some_and(|v| v.split_whitespace().any(|w| w == plugin))
            || self.value(&format!("mail_plugins/{plugin}")) == Some("yes")
    }
}

/// `a {` `b = c` `}` becomes (`a/b`, `c`).
fn flat(text: &str) -> Vec<(String, String)> {
    let (mut path, mut out) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
        if let Some(block) = line.strip_suffix('{') {
            path.push(block.trim().to_owned());
        } else if line == "}" {
            path.pop();
        } else if let Some((name, value)) = line.split_once('=') {
            path.push(name.trim().to_owned());
            out.push((path.join("/"), value.trim().trim_matches('"').trim().to_owned()));
            path.pop();
        }
    }
    out
}

/// Settings and what they must be.
const SETTINGS: &[(&str, &[&str], &str)] = &[
    ("recipient_delimiter", &[""], "user+extension is another address, which no certified mailbox has"),
    ("lmtp_proxy", &["no"], "this Dovecot itself says that it has the message"),
    ("lmtp_save_to_detail_mailbox", &["no"], "user+extension is another address, which no certified mailbox has"),
    ("mail_fsync", &["always"], "delivered is what is on disk; set it in protocol lmtp"),
    ("auth_username_format", &["%Lu", "%u", "%{user | lower}", "%{user|lower}", "%{user}"], "an account is one address, its domain included"),
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
            let allowed = if good[0].is_empty() { format!("empty: {why}") } else { format!("{}: {why}", good.join(" or ")) };
            out.push(Finding::wrong(format!("Dovecot: {name}"), value, allowed, format!("{name} = {} in dovecot.conf", good[0])));
        }
    }
    if dovecot.has_plugin("sieve") {
        let allowed = "absent: a script could forward, answer or drop what is certified as delivered";
        out.push(Finding::wrong("Dovecot: mail_plugins of protocol lmtp", "sieve", allowed, "remove sieve from mail_plugins in protocol lmtp"));
    }
    let catch_all =
        dovecot.written.iter().find(|(path, value)| (path.contains("allow_all_users") && value == "yes") || value.contains("allow_all_users=yes"));
    if let Some((path, value)) = catch_all {
        let allowed = "without allow_all_users: every address would be a mailbox, and its delivery certified";
        out.push(Finding::wrong(format!("Dovecot: {path}"), value, allowed, "use a userdb that knows its users"));
    }
    out.extend(notices(seen, dovecot));
    out.extend(doveadm(dovecot));
    out
}

/// The listener that receipts come by knows no quota.
fn notices(seen: &Seen, dovecot: &Dovecot) -> Option<Finding> {
    if !dovecot.has_plugin("quota") {
        return None;
    }
    let (_, socket) = lmtp_servers(&seen.postfix).into_iter().find(|(name, _)| name.starts_with("milter_header_checks"))?;
    let socket = socket.to_string();
    let path = socket.strip_prefix("unix:")?;
    let listener = format!("/unix_listener {path}/");
    let service = dovecot.written.iter().find_map(|(p, _)| p.split_once(&listener).map(|(service, _)| service));
    let executable = format!("{}/executable", service.unwrap_or_default());
    let value = dovecot.written.iter().find(|(p, _)| *p == executable).map_or("", |(_, v)| v.as_str());
    let words: Vec<&str> = value.split_whitespace().collect();
    let good = words.iter().any(|w| *w == "mail_plugins/quota=no" || w.strip_prefix("mail_plugins=").is_some_and(|v| !v.contains("quota")));
    (!good).then(|| {
        let allowed = "a command that leaves the quota plugin out: receipts and notices reach a full mailbox too";
        Finding::wrong(format!("Dovecot: executable of the service with {path}"), value, allowed, "take service lmtp-notices over from dovecot-conf")
    })
}

/// Whoever reaches doveadm reads every mailbox.
fn doveadm(dovecot: &Dovecot) -> Vec<Finding> {
    let mut out = Vec::new();
    for (path, port) in dovecot.written.iter().filter(|(p, v)| p.starts_with("service doveadm/inet_listener ") && p.ends_with("/port") && v != "0") {
        let listener = path.trim_end_matches("/port");
        let address = |name: &str| dovecot.written.iter().find(|(p, _)| *p == format!("{listener}/{name}")).map(|(_, v)| v.as_str());
        let value = address("listen").or(address("address")).unwrap_or("");
        let loopback = |a: &str| a.starts_with("127.") || a == "::1" || a == "localhost";
        if value.is_empty() || !value.split([',', ' ']).filter(|a| !a.is_empty()).all(loopback) {
            let allowed = "a loopback address: who reaches it needs the key alone to read every mailbox";
            let shown = if value.is_empty() { format!("every address, port {port}") } else { value.to_owned() };
            out.push(Finding::wrong(format!("Dovecot: {listener}"), shown, allowed, "take service doveadm over from dovecot-conf"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::postfix::tests::shipped_postfix;
    use super::super::seen::tests::seen;
    use super::*;

    const LMTP_24: &str = "auth_allow_cleartext = no\nauth_username_format = %{user | lower}\nlmtp_proxy = no\nlmtp_save_to_detail_mailbox = no\n\
        mail_fsync = always\nmail_plugins {\n  quota = yes\n}\nrecipient_delimiter = \nssl = required\n";
    const LMTP_23: &str = "auth_username_format = %Lu\ndisable_plaintext_auth = yes\nlmtp_proxy = no\nlmtp_save_to_detail_mailbox = no\n\
        mail_fsync = always\nmail_plugins = \" quota\"\nrecipient_delimiter = \nssl = required\n";
    const WRITTEN: &str = "# 2.4.1\nservice lmtp-notices {\n  executable = lmtp -o mail_plugins/quota=no\n  unix_listener /var/spool/postfix/private/dovecot-lmtp-notices {\n    \
        mode = 0600\n  }\n}\nservice doveadm {\n  inet_listener http {\n    port = 8080\n    listen = 127.0.0.1\n  }\n}\nuserdb passwd-file {\n  passwd_file_path = /etc/dovecot/users\n}\n";

    fn found(lmtp: &str, written: &str) -> Vec<String> {
        let mut seen = seen(shipped_postfix().with("queue_directory", "/var/spool/postfix"));
        seen.dovecot = Ok(Dovecot::parse(lmtp, written));
        dovecot(&seen).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_shipped_configuration_is_good() {
        assert_eq!(found(LMTP_24, WRITTEN), Vec::<String>::new());
        assert_eq!(found(LMTP_23, &WRITTEN.replace("mail_plugins/quota=no", "mail_plugins=").replace("listen =", "address =")), Vec::<String>::new());
    }

    #[test]
    fn what_makes_a_mailbox_something_else_is_named() {
        for (from, to, says) in [
            ("recipient_delimiter = ", "recipient_delimiter = +", "wrong: Dovecot: recipient_delimiter = +: it must be empty"),
            ("lmtp_proxy = no", "lmtp_proxy = yes", "lmtp_proxy = yes"),
            ("mail_fsync = always", "mail_fsync = optimized", "mail_fsync = optimized: it must be always"),
            ("%{user | lower}", "%{user | username}", "its domain included"),
            ("ssl = required", "ssl = yes", "ssl = yes: it must be required"),
            ("auth_allow_cleartext = no", "auth_allow_cleartext = yes", "no password without TLS"),
            ("quota = yes", "quota = yes\n  sieve = yes", "mail_plugins of protocol lmtp = sieve"),
        ] {
            let found = found(&LMTP_24.replace(from, to), WRITTEN);
            assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        }
        assert!(found(&LMTP_23.replace(" quota", " quota sieve"), "").iter().any(|line| line.contains("lmtp = sieve")));
    }

    #[test]
    fn a_catch_all_a_quota_for_receipts_and_an_open_doveadm_are_named() {
        for (from, to, says) in [
            ("userdb passwd-file {", "userdb static {\n  static_allow_all_users = yes", "without allow_all_users"),
            ("userdb passwd-file {", "userdb {\n  args = uid=vmail allow_all_users=yes", "without allow_all_users"),
            ("lmtp -o mail_plugins/quota=no", "lmtp", "executable of the service with /var/spool/postfix/private/dovecot-lmtp-notices = lmtp:"),
            ("private/dovecot-lmtp-notices", "private/other", "is empty: it must be a command that leaves the quota plugin out"),
            ("listen = 127.0.0.1", "listen = 127.0.0.1, 192.0.2.1", "a loopback address"),
            ("    listen = 127.0.0.1\n", "", "every address, port 8080"),
        ] {
            let found = found(LMTP_24, &WRITTEN.replace(from, to));
            assert!(found.len() == 1 && found[0].contains(says), "{from}: {found:?}");
        }
    }

    #[test]
    fn a_dovecot_that_is_elsewhere_is_said() {
        let found = dovecot(&seen(shipped_postfix()));
        assert_eq!(found[0].to_string(), "not seen: Dovecot: doveconf: not here. Mend: run this where Dovecot is");
    }
}
