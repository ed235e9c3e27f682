//! Does Dovecot's 250 mean that the message is stored, and that its owner sees it?
//!
//! Promise: what may drop, forward, alter or hide what LMTP took is named: plugins, scripts, another server,
//! another place.

use crate::check::finding::Finding;
use crate::check::judge::dovecot::guesses;
use crate::check::look::dovecot::{Dovecot, Setting, driver_of, in_block, value};

/// Plugins of delivery that may drop, forward, alter or remove messages.
const HARMFUL: &[(&str, &str)] = &[
    ("sieve", "a script could forward, answer or drop what is certified as delivered"),
    ("mail_filter", "a program could change what was signed"),
    ("mail_lua", "a script could change what was signed"),
    ("snarf", "it moves messages from one mailbox to another"),
    ("trash", "it removes messages to make room for others"),
];

/// Plugins that keep what they are given. Those that begin with fts or imap_ do, too.
const HARMLESS: &[&str] = &[
    "acl",
    "apparmor",
    "charset_alias",
    "last_login",
    "lazy_expunge",
    "listescape",
    "mail_compress",
    "mail_crypt",
    "mail_crypt_acl",
    "mail_log",
    "mailbox_alias",
    "notify",
    "notify_status",
    "old_stats",
    "pop3_migration",
    "push_notification",
    "push_notification_lua",
    "quota",
    "quota_clone",
    "replication",
    "stats",
    "var_expand_crypt",
    "virtual",
    "welcome",
    "zlib",
];

/// Drivers that store on this host's disk.
const STORES: &[&str] = &["sdbox", "mdbox", "dbox", "maildir", "mbox"];

/// Where files are gone after a start, or at once.
const FLEETING: &[&str] = &["/dev/", "/tmp/", "/var/tmp/", "/run/", "/var/run/"];

/// Settings that must be the same for who delivers and for who reads.
const PLACE: &[&str] = &["mail_driver", "mail_home", "mail_inbox_path", "mail_location", "mail_path"];

/// Fields of a `passdb` that send a user to another server.
const PROXIES: &[&str] = &["destuser", "host", "hostip", "proxy", "proxy_maybe"];

/// Where accounts are kept that cannot be listed.
const UNLISTED: &[&str] = &["checkpassword", "dict", "ldap", "lua", "sql"];

pub(crate) fn storing(dovecot: &Dovecot) -> Vec<Finding> {
    let mut out = Vec::new();
    for plugin in dovecot.plugins() {
        out.extend(judge_plugin(
            "mail_plugins of protocol lmtp",
            plugin,
            "from mail_plugins in protocol lmtp",
        ));
    }
    out.extend(scripts(dovecot));
    out.extend(elsewhere(dovecot));
    out.extend(place(dovecot));
    out
}

/// What is to be said of a plugin of delivery that `place` names.
pub(crate) fn judge_plugin(place: &str, plugin: &str, from: &str) -> Option<Finding> {
    let what = format!("Dovecot: {place}");
    if let Some((_, why)) = HARMFUL.iter().find(|(name, _)| *name == plugin) {
        return Some(Finding::wrong(
            what,
            plugin,
            format!("without {plugin}: {why}"),
            format!("remove {plugin} {from}"),
        ));
    }
    let known = HARMLESS.contains(&plugin) || plugin.starts_with("fts") || plugin.starts_with("imap_");
    (!known).then(|| {
        Finding::not_seen(
            what,
            format!("{plugin} is not known: whether it keeps what it is given"),
            "make sure that it does",
        )
    })
}

/// Scripts, the administrator's or users' own, and the server by which users bring theirs.
fn scripts(dovecot: &Dovecot) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut wrong = |what: &str, value: &str, mend: String| {
        let allowed = "absent: a script could forward, answer or drop what is certified as delivered";
        out.push(Finding::wrong(format!("Dovecot: {what}"), value, allowed, mend));
    };
    if dovecot
        .value("protocols")
        .or(dovecot.written("protocols"))
        .is_some_and(|v| v.split_whitespace().any(|p| p == "sieve" || p == "managesieve"))
    {
        wrong(
            "protocols",
            "with ManageSieve, by which users bring scripts",
            "remove sieve from protocols".to_owned(),
        );
    }
    let mut named = Vec::new();
    // That the plugin is there is said by itself.
    for Setting { path, value, .. } in dovecot.written.iter().filter(|s| !s.path.contains("mail_plugins/")) {
        let name = path.split('/').find(|part| is_script(part));
        if let Some(name) = name.filter(|name| !named.contains(name)) {
            named.push(name);
            wrong(name, value, format!("remove {name} from dovecot.conf"));
        }
    }
    out
}

/// 2.3: `sieve`, `sieve_before2`, `sieve_dir`; 2.4: `sieve_script personal`. What scripts may do at all is
/// set by others.
fn is_script(name: &str) -> bool {
    let numbered =
        |stem: &str| name.strip_prefix(stem).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    name.starts_with("sieve_script ")
        || name.starts_with("sieve_user_")
        || [
            "sieve",
            "sieve_after",
            "sieve_before",
            "sieve_default",
            "sieve_dir",
            "sieve_discard",
            "sieve_global",
            "sieve_global_dir",
            "sieve_global_path",
        ]
        .iter()
        .any(|stem| numbered(stem))
}

/// Users who are somebody else's, or for whom something else holds.
fn elsewhere(dovecot: &Dovecot) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut wrong = |what: String, field: &str, value: &str, where_: &str| {
        let allowed = match diverts(field) {
            Some(Diverts::ToAnother) => {
                "without it: this Dovecot itself has the mailbox, for who delivers and for who reads"
            }
            Some(Diverts::ByAnotherRule) => "without it: what holds for delivery holds for every mailbox",
            None => return,
        };
        out.push(Finding::wrong(what, value, allowed, format!("remove {field} from {where_}")));
    };
    for kind in ["passdb", "userdb"] {
        for block in dovecot.blocks(kind) {
            // 2.3: words of these three; 2.4: a block, in which `:default` may follow a name.
            for setting in &block {
                let Some((_, name)) = setting.path.split_once('/') else { continue };
                match name.strip_prefix("fields/") {
                    Some(field) => {
                        let field = field.split(':').next().unwrap_or_default();
                        wrong(format!("Dovecot: {}", setting.path), field, &setting.value, "dovecot.conf");
                    }
                    None if matches!(name, "default_fields" | "override_fields")
                        || (name == "args" && driver_of(&block) == "static") =>
                    {
                        setting.value.split_whitespace().for_each(|field| {
                            wrong(format!("Dovecot: {}", setting.path), field, field, "dovecot.conf")
                        });
                    }
                    None => {}
                }
            }
        }
    }
    for (file, accounts) in &dovecot.accounts {
        let Ok(accounts) = accounts else { continue };
        // One of them is enough: there may be as many as there are users.
        if let Some((user, field)) = accounts.iter().find(|(_, field)| diverts(field).is_some()) {
            wrong(
                format!("Dovecot: {}: {user}", file.display()),
                field,
                field,
                "the line, and from those of other users",
            );
        }
    }
    out.extend(catch_all(dovecot));
    out.extend(unlisted(dovecot));
    out
}

/// What a field of a user does.
enum Diverts {
    ToAnother,
    ByAnotherRule,
}

fn diverts(field: &str) -> Option<Diverts> {
    let name = field.split('=').next().unwrap_or_default();
    if PROXIES.contains(&name) {
        return Some(Diverts::ToAnother);
    }
    let name = name.strip_prefix("userdb_").unwrap_or(name);
    let rule = name.contains("sieve")
        || ["lmtp_", "mail_filter", "mail_fsync", "mail_plugins"].iter().any(|start| name.starts_with(start));
    rule.then_some(Diverts::ByAnotherRule)
}

fn catch_all(dovecot: &Dovecot) -> Option<Finding> {
    let is_one = |s: &&Setting| {
        (s.path.contains("allow_all_users") && s.value == "yes") || s.value.contains("allow_all_users=yes")
    };
    let Setting { path, value, .. } = dovecot.written.iter().find(is_one)?;
    let allowed = "without allow_all_users: every address would be a mailbox, and its delivery certified";
    Some(Finding::wrong(format!("Dovecot: {path}"), value, allowed, "use a userdb that knows its users"))
}

/// Accounts that nobody can list here.
fn unlisted(dovecot: &Dovecot) -> Vec<Finding> {
    let why = "what it says of each user, such as another server or plugins of his own";
    let of_file = dovecot
        .accounts
        .iter()
        .filter_map(|(file, accounts)| Some((file.display().to_string(), accounts.as_ref().err()?.clone())));
    let of_driver = ["passdb", "userdb"].into_iter().flat_map(|kind| {
        let drivers = dovecot
            .blocks(kind)
            .into_iter()
            .filter(|block| !guesses::counts(block))
            .map(|block| driver_of(&block))
            .filter(|driver| UNLISTED.contains(driver));
        drivers
            .map(move |driver| (format!("{kind} {driver}"), "it cannot be listed".to_owned()))
            .collect::<Vec<_>>()
    });
    of_file
        .chain(of_driver)
        .map(|(what, trouble)| Finding::not_seen(format!("Dovecot: {what}"), format!("{trouble}: {why}"), ""))
        .collect()
}

/// On disk, and in the same place for who delivers and for who reads.
fn place(dovecot: &Dovecot) -> Vec<Finding> {
    let mut out = Vec::new();
    let (name, driver, path) = match dovecot.value("mail_location").filter(|location| !location.is_empty()) {
        Some(location) => {
            let (driver, path) = location.split_once(':').unwrap_or(("", location));
            ("mail_location", driver, path)
        }
        None => (
            "mail_driver",
            dovecot.value("mail_driver").unwrap_or_default(),
            dovecot.value("mail_path").unwrap_or_default(),
        ),
    };
    let stores = &format!("{}: what stores on this host's disk", STORES.join(", "));
    if !driver.is_empty() && !STORES.contains(&driver) {
        out.push(Finding::wrong(
            format!("Dovecot: {name}"),
            driver,
            stores,
            format!("{name} as in dovecot-conf"),
        ));
    }
    if FLEETING.iter().any(|start| path.starts_with(start)) {
        let name = if name == "mail_driver" { "mail_path" } else { name };
        let allowed = "on a disk, and there after a start: what was certified as delivered must not be \
            gone";
        out.push(Finding::wrong(
            format!("Dovecot: {name}"),
            path,
            allowed,
            format!("{name} as in dovecot-conf"),
        ));
    }
    for name in PLACE {
        let (delivered, read) = (dovecot.value(name), value(&dovecot.imap, name));
        if let Some(read) = read.filter(|read| Some(*read) != delivered) {
            let allowed = format!(
                "{}, as for protocol lmtp: what is delivered must be where its owner looks",
                delivered.unwrap_or("empty")
            );
            out.push(Finding::wrong(
                format!("Dovecot: {name} of protocol imap"),
                read,
                allowed,
                format!("set {name} outside of protocol blocks"),
            ));
        }
    }
    let inbox = |s: &&Setting| {
        (s.path.ends_with("mailbox INBOX/autoexpunge")
            || s.path.ends_with("mailbox INBOX/autoexpunge_max_mails"))
            && s.value != "0"
    };
    if let Some(Setting { path, value, .. }) = dovecot.written.iter().find(inbox) {
        let allowed = "absent: what was certified as delivered is its owner's to remove";
        out.push(Finding::wrong(format!("Dovecot: {path}"), value, allowed, "remove it from dovecot.conf"));
    }
    for block in dovecot.blocks("namespace").iter().filter(|block| in_block(block, "inbox") == Some("yes")) {
        let location = in_block(block, "location")
            .and_then(|location| location.split_once(':'))
            .map(|(driver, _)| driver);
        let driver = in_block(block, "mail_driver").or(location).filter(|driver| !STORES.contains(driver));
        out.extend(driver.map(|driver| {
            Finding::wrong(
                "Dovecot: the namespace with INBOX",
                driver,
                stores,
                "take the namespace over from dovecot-conf",
            )
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::check::judge::dovecot::tests::found;
    use crate::check::sample::{changed, put, shipped_dovecot};

    #[test]
    fn a_plugin_that_may_drop_forward_or_alter_is_named_and_one_that_nobody_knows_is_said() {
        for plugin in ["sieve", "mail_filter", "mail_lua", "snarf", "trash"] {
            for dovecot in [
                changed("2.3", |lmtp, _, _| put(lmtp, " quota", &format!(" quota {plugin}"))),
                changed("2.4", |lmtp, _, _| {
                    put(lmtp, "quota = yes", &format!("quota = yes\n  {plugin} = yes"))
                }),
            ] {
                let found = found(dovecot);
                let says = format!(
                    "wrong: Dovecot: mail_plugins of protocol lmtp = {plugin}: it must be without {plugin}: \
                    "
                );
                assert!(found.len() == 1 && found[0].starts_with(&says), "{found:?}");
            }
        }
        let unknown = found(changed("2.3", |lmtp, _, _| {
            put(lmtp, " quota", " quota acl fts fts_flatcurve notify mail_log ours")
        }));
        let says = "not seen: Dovecot: mail_plugins of protocol lmtp: ours is not known: whether it keeps \
            what it is given";
        assert!(unknown.len() == 1 && unknown[0].starts_with(says), "{unknown:?}");
        assert!(
            found(changed("2.4", |lmtp, _, _| put(lmtp, "quota = yes", "quota = yes\n  sieve = no")))
                .is_empty()
        );
    }

    #[test]
    fn scripts_of_users_and_their_way_in_are_named() {
        for (written, says) in [
            (
                "protocols = imap lmtp sieve\n",
                "wrong: Dovecot: protocols = with ManageSieve, by which users bring scripts: it must be \
                absent",
            ),
            (
                "plugin {\n  sieve = file:~/sieve;active=~/.dovecot.sieve\n}\n",
                "wrong: Dovecot: sieve = file:~/sieve;active=~/.dovecot.sieve",
            ),
            (
                "plugin {\n  sieve_before2 = /etc/dovecot/before\n}\n",
                "wrong: Dovecot: sieve_before2 = /etc/dovecot/before",
            ),
            ("plugin {\n  sieve_user_log = ~/log\n}\n", "wrong: Dovecot: sieve_user_log = ~/log"),
            (
                "sieve_script personal {\n  driver = file\n  path = ~/sieve\n}\n",
                "wrong: Dovecot: sieve_script personal = file",
            ),
        ] {
            let found = found(changed("2.4", |_, _, text| *text = format!("{written}{text}")));
            assert!(found.len() == 1 && found[0].starts_with(says), "{found:?}");
        }
        // What scripts at IMAP may do (imapsieve) is none of delivery's.
        let other = "plugin {\n  sieve_plugins = sieve_imapsieve\n  sieve_global_extensions = \
            +vnd.dovecot.pipe\n  imapsieve_mailbox1_name = Spam\n}\n";
        assert!(found(changed("2.3", |_, _, text| *text = format!("{other}{text}"))).is_empty());
    }

    #[test]
    fn users_who_are_on_another_server_are_named() {
        for (version, from, to, says) in [
            (
                "2.3",
                "driver = passwd-file\n",
                "driver = passwd-file\n  default_fields = proxy=y host=10.0.0.7\n",
                "passdb/default_fields = proxy=y",
            ),
            (
                "2.3",
                "driver = passwd-file\n  args = /etc/dovecot/users\n",
                "driver = static\n  args = nopassword=y proxy=y\n",
                "passdb/args = proxy=y",
            ),
            (
                "2.3",
                "default_fields = uid=vmail",
                "default_fields = mail_plugins=sieve uid=vmail",
                "userdb/default_fields = mail_plugins=sieve",
            ),
            (
                "2.4",
                "passdb passwd-file {\n",
                "passdb passwd-file {\n  fields {\n    proxy = y\n  }\n",
                "passdb passwd-file/fields/proxy = y",
            ),
            (
                "2.4",
                "uid:default = vmail",
                "uid:default = vmail\n    mail_plugins:default = sieve",
                "userdb passwd-file/fields/mail_plugins:default",
            ),
        ] {
            let found = found(changed(version, |_, _, text| put(text, from, to)));
            assert!(
                found.iter().any(|line| line.contains(says) && line.contains(": it must be without it: ")),
                "{found:?}"
            );
        }
        for (field, is_named) in [
            ("proxy", true),
            ("proxy_maybe=y", true),
            ("host=10.0.0.7", true),
            ("userdb_mail_plugins=sieve", true),
            ("userdb_sieve=~/x", true),
            ("userdb_quota_rule=*:storage=20G", false),
            ("userdb_mail=maildir:/archive/x", false),
            ("allow_nets=10.0.0.0/8", false),
        ] {
            let mut dovecot = shipped_dovecot("2.4");
            dovecot.accounts = vec![(
                "/etc/dovecot/users".into(),
                Ok(vec![("anna@x.test".into(), field.into()), ("bruno@x.test".into(), field.into())]),
            )];
            let found = found(dovecot);
            assert_eq!(found.len(), usize::from(is_named), "{field}: {found:?}");
            assert!(found.iter().all(|line| line.starts_with(&format!(
                "wrong: Dovecot: /etc/dovecot/users: anna@x.test = {field}: it must"
            ))));
        }
    }

    #[test]
    fn accounts_that_cannot_be_listed_are_said_and_a_catch_all_is_named() {
        let sql = found(changed("2.3", |_, _, text| {
            put(text, "userdb {\n  driver = passwd-file", "userdb {\n  driver = sql")
        }));
        assert!(
            sql.len() == 1
                && sql[0].starts_with(
                    "not seen: Dovecot: userdb sql: it cannot be listed: what it says of each user"
                ),
            "{sql:?}"
        );
        let ldap = found(changed("2.4", |_, _, text| {
            put(
                text,
                "passdb passwd-file {\n  passwd_file_path = /etc/dovecot/users",
                "passdb ldap {\n  x = y",
            )
        }));
        assert!(ldap.len() == 1 && ldap[0].starts_with("not seen: Dovecot: passdb ldap"), "{ldap:?}");
        let mut unread = shipped_dovecot("2.4");
        unread.accounts = vec![("/etc/dovecot/users".into(), Err("Permission denied".into()))];
        assert!(found(unread)[0].starts_with("not seen: Dovecot: /etc/dovecot/users: Permission denied"));
        for (version, to) in [
            ("2.4", "userdb static {\n  static_allow_all_users = yes"),
            ("2.3", "userdb {\n  args = uid=vmail allow_all_users=yes"),
        ] {
            let from = if version == "2.4" { "userdb passwd-file {" } else { "userdb {" };
            let found = found(changed(version, |_, _, text| put(text, from, to)));
            assert!(found.len() == 1 && found[0].contains("without allow_all_users"), "{found:?}");
        }
    }

    #[test]
    fn a_store_that_is_none_or_that_its_owner_does_not_see_is_named() {
        for (version, from, to, says) in [
            (
                "2.4",
                "mail_driver = sdbox",
                "mail_driver = imapc",
                "Dovecot: mail_driver = imapc: it must be sdbox, mdbox",
            ),
            (
                "2.4",
                "mail_path = ~/sdbox",
                "mail_path = /dev/shm/%{user}",
                "Dovecot: mail_path = /dev/shm/%{user}: it must be on a disk",
            ),
            ("2.3", "sdbox:~/sdbox", "imapc:~/x", "Dovecot: mail_location = imapc: it must be"),
            (
                "2.3",
                "sdbox:~/sdbox",
                "mbox:/tmp/%u",
                "Dovecot: mail_location = /tmp/%u: it must be on a disk",
            ),
        ] {
            let found = found(changed(version, |lmtp, imap, _| {
                put(lmtp, from, to);
                put(imap, from, to);
            }));
            assert!(found.len() == 1 && found[0].starts_with(&format!("wrong: {says}")), "{found:?}");
        }
        for (version, from, to, says) in [
            (
                "2.4",
                "mail_path = ~/sdbox",
                "mail_path = ~/other",
                "mail_path of protocol imap = ~/other: it must be ~/sdbox, as for protocol lmtp",
            ),
            (
                "2.3",
                "sdbox:~/sdbox",
                "maildir:~/Maildir",
                "mail_location of protocol imap = maildir:~/Maildir: it must be sdbox:~/sdbox",
            ),
        ] {
            let found = found(changed(version, |_, imap, _| put(imap, from, to)));
            assert!(
                found.len() == 1 && found[0].starts_with(&format!("wrong: Dovecot: {says}")),
                "{found:?}"
            );
        }
        let expunged = found(changed("2.4", |_, _, text| {
            put(text, "inbox = yes", "inbox = yes\n  mailbox INBOX {\n    autoexpunge = 30d\n  }")
        }));
        assert!(
            expunged.len() == 1
                && expunged[0].contains(
                    "mailbox INBOX/autoexpunge = 30d: it must be \
                absent"
                ),
            "{expunged:?}"
        );
        for (version, to) in [("2.3", "location = imapc:~/x"), ("2.4", "mail_driver = imapc")] {
            let found = found(changed(version, |_, _, text| {
                put(text, "inbox = yes", &format!("inbox = yes\n  {to}"))
            }));
            assert!(
                found.len() == 1
                    && found[0]
                        .starts_with("wrong: Dovecot: the namespace with INBOX = imapc: it must be sdbox"),
                "{found:?}"
            );
        }
    }
}
