//! Dovecot's LMTP listeners: which program answers there, who may connect, which of them knows no quota.

use std::collections::BTreeSet;
use std::path::Path;

use pec_host::parameters::Socket;

use crate::check::finding::Finding;
use crate::check::judge::dovecot::storing;
use crate::check::look::Seen;
use crate::check::look::dovecot::{Dovecot, Setting};
use crate::check::look::ours::Ours;

/// Who may connect where nothing is written: Dovecot's own listener is for everybody.
const DEFAULT_MODES: (&str, u32) = ("lmtp", 0o666);

pub(crate) fn listeners(seen: &Seen, dovecot: &Dovecot) -> Vec<Finding> {
    let Ok(ours) = &seen.ours else { return Vec::new() };
    let mut out = no_quota(dovecot, ours).into_iter().collect::<Vec<_>>();
    for service in services(dovecot, ours) {
        out.extend(program(dovecot, &service));
        out.extend(open(dovecot, &service, ours));
    }
    out
}

/// The services that speak LMTP, or that stand where the parameters say that LMTP is spoken.
fn services(dovecot: &Dovecot, ours: &Ours) -> BTreeSet<String> {
    let speaks_lmtp = |s: &&Setting| {
        (s.path.ends_with("/protocol") && s.value == "lmtp")
            || (s.path.ends_with("/executable") && is_lmtp(&s.value))
    };
    let written = dovecot.written.iter().filter(|s| s.path.starts_with("service "));
    let named = written.filter(speaks_lmtp).filter_map(|s| s.path.split('/').next());
    let used = our_paths(ours).into_iter().filter_map(|path| dovecot.service_of(path));
    named.chain(used).chain(["service lmtp"]).map(str::to_owned).collect()
}

fn our_paths(ours: &Ours) -> Vec<&Path> {
    let mut paths = Vec::new();
    for socket in [&ours.mailbox_lmtp, &ours.mailbox_lmtp_no_quota] {
        if let Socket::Unix(path) = socket {
            paths.push(path.as_path());
        }
    }
    paths
}

/// The listener that receipts come by knows no quota.
fn no_quota(dovecot: &Dovecot, ours: &Ours) -> Option<Finding> {
    let Socket::Unix(path) = &ours.mailbox_lmtp_no_quota else { return None };
    let service = dovecot.service_of(path).filter(|_| dovecot.plugins().contains(&"quota"))?;
    let value = dovecot.written(&format!("{service}/executable")).unwrap_or("lmtp");
    if !is_lmtp(value) {
        // Said by itself.
        return None;
    }
    let good = value.split_whitespace().any(|w| {
        w == "mail_plugins/quota=no" || w.strip_prefix("mail_plugins=").is_some_and(|v| !v.contains("quota"))
    });
    (!good).then(|| {
        let what = format!("Dovecot: executable of the service with {}", path.display());
        let allowed =
            "a command that leaves the quota plugin out: receipts and notices reach a full mailbox too";
        Finding::wrong(what, value, allowed, "take service lmtp-no-quota over from dovecot-conf")
    })
}

fn is_lmtp(command: &str) -> bool {
    command.split_whitespace().next().is_some_and(|program| program.rsplit('/').next() == Some("lmtp"))
}

/// Dovecot's lmtp, with no options but those of its plugins.
fn program(dovecot: &Dovecot, service: &str) -> Vec<Finding> {
    let what = format!("Dovecot: executable of {service}");
    let Some(command) = dovecot.written(&format!("{service}/executable")) else { return Vec::new() };
    if !is_lmtp(command) {
        let allowed = "lmtp, Dovecot's own: another program may say 250 and store nothing";
        return vec![Finding::wrong(
            what,
            command,
            allowed,
            format!("take {service} over from dovecot-conf"),
        )];
    }
    let mut out = Vec::new();
    for option in command.split_whitespace().skip(1).filter(|word| *word != "-o") {
        let plugins: Vec<&str> = match option.split_once('=') {
            Some((name, "yes")) if name.starts_with("mail_plugins/") => vec![&name["mail_plugins/".len()..]],
            Some((name, "no")) if name.starts_with("mail_plugins/") => Vec::new(),
            Some(("mail_plugins", list)) => list.split([',', ' ']).filter(|name| !name.is_empty()).collect(),
            _ => {
                let allowed =
                    "without it: what is set in dovecot.conf holds for delivery, and is what was looked at";
                out.push(Finding::wrong(
                    &what,
                    option,
                    allowed,
                    format!("take {service} over from dovecot-conf"),
                ));
                continue;
            }
        };
        out.extend(plugins.into_iter().filter_map(|plugin| {
            storing::judge_plugin(&format!("executable of {service}"), plugin, "from it")
        }));
    }
    out
}

/// Listeners by which others than the milters' user put something into mailboxes. Those that our parameters
/// name are looked at where they are, in the file system.
fn open(dovecot: &Dovecot, service: &str, ours: &Ours) -> Vec<Finding> {
    let mend = format!("take {service} over from dovecot-conf");
    let mut out = Vec::new();
    let of_service = |kind: &str| {
        let prefix = format!("{service}/{kind} ");
        dovecot
            .written
            .iter()
            .filter_map(move |s| Some((s.path.strip_prefix(&prefix)?.rsplit_once('/')?, s.value.as_str())))
            .collect::<Vec<_>>()
    };
    let unix = of_service("unix_listener");
    let mut paths: BTreeSet<&str> = unix.iter().map(|((path, _), _)| *path).collect();
    if service == "service lmtp" {
        paths.insert(DEFAULT_MODES.0);
    }
    for path in paths.into_iter().filter(|path| !our_paths(ours).contains(&Path::new(path))) {
        let written =
            unix.iter().find(|((p, name), _)| *p == path && *name == "mode").map(|(_, value)| *value);
        let mode = match written {
            Some(mode) => u32::from_str_radix(mode, 8).unwrap_or(0o777),
            None if path == DEFAULT_MODES.0 => DEFAULT_MODES.1,
            None => 0o600,
        };
        if mode & 0o022 != 0 {
            let allowed =
                "mode 0, or 0600: whoever connects puts into a certified mailbox what nobody certified";
            out.push(Finding::wrong(
                format!("Dovecot: {service}/unix_listener {path}"),
                format!("mode {mode:04o}"),
                allowed,
                &mend,
            ));
        }
    }
    let by_port =
        matches!(ours.mailbox_lmtp, Socket::Inet(_)) || matches!(ours.mailbox_lmtp_no_quota, Socket::Inet(_));
    let ports =
        of_service("inet_listener").into_iter().filter(|((_, name), value)| *name == "port" && *value != "0");
    // Who may connect to a port is said where the parameters name one.
    for ((name, _), port) in ports.filter(|_| !by_port) {
        let allowed = "absent: whoever connects puts into a certified mailbox what nobody certified";
        out.push(Finding::wrong(
            format!("Dovecot: {service}/inet_listener {name}"),
            format!("port {port}"),
            allowed,
            &mend,
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::check::judge::dovecot::tests::found;
    use crate::check::sample::{changed, put};

    #[test]
    fn the_listener_for_receipts_knows_no_quota() {
        for (version, with) in [("2.3", "lmtp -o mail_plugins="), ("2.4", "lmtp -o mail_plugins/quota=no")] {
            for to in ["lmtp", "lmtp -o mail_plugins=quota"] {
                let found = found(changed(version, |_, _, text| {
                    put(text, &format!("executable = {with}\n"), &format!("executable = {to}\n"))
                }));
                let says = format!(
                    "wrong: Dovecot: executable of the service with \
                    /var/spool/postfix/pec/dovecot-lmtp-no-quota = {to}: it must be a command that leaves"
                );
                assert!(found.len() == 1 && found[0].starts_with(&says), "{found:?}");
            }
        }
        let without = found(changed("2.4", |lmtp, imap, text| {
            put(lmtp, "quota = yes", "quota = no");
            put(imap, "quota = yes", "quota = no");
            put(text, "executable = lmtp -o mail_plugins/quota=no\n", "executable = lmtp\n");
        }));
        assert!(without.is_empty(), "nobody's mailbox is ever full: {without:?}");
    }

    #[test]
    fn another_program_or_another_configuration_behind_a_listener_is_named() {
        for (to, says) in [
            (
                "/usr/local/bin/spool",
                "executable of service lmtp-no-quota = /usr/local/bin/spool: it must be lmtp, Dovecot's \
                own",
            ),
            (
                "lmtp -o mail_plugins/quota=no -o mail_plugins/sieve=yes",
                "executable of service lmtp-no-quota = sieve: it must be without sieve",
            ),
            (
                "lmtp -o mail_plugins=sieve",
                "executable of service lmtp-no-quota = sieve: it must be without sieve",
            ),
            (
                "lmtp -o mail_plugins/quota=no -o lmtp_proxy=yes",
                "executable of service lmtp-no-quota = lmtp_proxy=yes: it must be without it",
            ),
            (
                "lmtp -o mail_plugins/quota=no -c /etc/dovecot/other.conf",
                "executable of service lmtp-no-quota = -c: it must be without it",
            ),
        ] {
            let found = found(changed("2.4", |_, _, text| put(text, "lmtp -o mail_plugins/quota=no", to)));
            assert!(found.iter().any(|line| line.contains(says)), "{found:?}");
        }
        for good in ["/usr/lib/dovecot/lmtp -o mail_plugins/quota=no", "lmtp -o mail_plugins=zlib"] {
            assert!(
                found(changed("2.4", |_, _, text| put(text, "lmtp -o mail_plugins/quota=no", good)))
                    .is_empty(),
                "{good}"
            );
        }
    }

    #[test]
    fn a_listener_by_which_others_reach_mailboxes_is_named() {
        let own = "  unix_listener lmtp {\n    mode = 0\n  }\n";
        for (from, to, says) in [
            (own, "", "service lmtp/unix_listener lmtp = mode 0666: it must be mode 0, or 0600"),
            (
                own,
                "  unix_listener lmtp {\n    user = pec\n  }\n",
                "service lmtp/unix_listener lmtp = mode 0666",
            ),
            (
                own,
                "  unix_listener lmtp {\n    mode = 0\n  }\n  unix_listener x {\n    mode = 0660\n  }\n",
                "service lmtp/unix_listener x = mode 0660",
            ),
            (
                own,
                "  unix_listener lmtp {\n    mode = 0\n  }\n  inet_listener lmtp {\n    port = 24\n  }\n",
                "service lmtp/inet_listener lmtp = port 24",
            ),
        ] {
            let found = found(changed("2.4", |_, _, text| put(text, from, to)));
            assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        }
        let harmless =
            "  unix_listener lmtp {\n    mode = 0600\n  }\n  inet_listener lmtp {\n    port = 0\n  }\n";
        assert!(found(changed("2.4", |_, _, text| put(text, own, harmless))).is_empty());
    }
}
