//! The sockets by which mail passes: who may connect to them, and whether somebody answers.
//!
//! Promise: whoever can have something signed, put something into a certified mailbox or send a notice by
//! connecting is named, unless he is root, the milters' user or, where it must be so, Postfix.

use pec_host::parameters::Socket;

use crate::check::finding::Finding;
use crate::check::look::Seen;
use crate::check::look::sockets::{Endpoint, Group, Listener, Permissions, Process};

/// Who may connect, and whether somebody answers.
pub(crate) fn sockets(seen: &Seen) -> Vec<Finding> {
    let mut out = Vec::new();
    for endpoint in &seen.endpoints {
        out.extend(match endpoint.listener {
            Listener::OurProgram => ours(endpoint).into_iter().collect(),
            Listener::MailboxServer => mailboxes(seen, endpoint),
            Listener::OutgoingSmtpd => outgoing(seen, endpoint),
        });
        if let Err(why) = &endpoint.answer {
            let mend = match endpoint.listener {
                Listener::OurProgram => format!(
                    "start {}, or see why its log says that it does not start",
                    program(endpoint.parameter)
                ),
                Listener::MailboxServer => {
                    format!(
                        "start the mailbox server, or set {} to where its LMTP listens",
                        endpoint.parameter
                    )
                }
                Listener::OutgoingSmtpd => {
                    "start Postfix; its service is in postfix-conf/master.cf".to_owned()
                }
            };
            let value = format!("{}, where nobody answers ({why})", endpoint.socket);
            out.push(Finding::wrong(endpoint.parameter, value, "answered: mail waits until it is", mend));
        }
    }
    out
}

fn program(parameter: &str) -> &'static str {
    match parameter {
        "pec_access_milter" => "pec-access",
        "pec_incoming_milter" | "pec_local_milter" => "pec-incoming",
        _ => "pec-delivery",
    }
}

pub(crate) fn is_loopback(address: &str) -> bool {
    ["127.", "[::1]", "localhost:"].iter().any(|start| address.starts_with(start))
}

fn in_directory(socket: &Socket, directory: Permissions) -> String {
    format!("{socket} in a directory of mode {:o}", directory.mode & 0o7777)
}

/// Postfix enters, and nobody else.
fn ours(endpoint: &Endpoint) -> Option<Finding> {
    match (&endpoint.socket, endpoint.permissions) {
        (Socket::Inet(address), _) if !is_loopback(address) => {
            let allowed = "unix:path or a loopback address: whoever connects can have things signed";
            let mend = format!("postconf -X {}, then postfix-conf/apply", endpoint.parameter);
            Some(Finding::wrong(endpoint.parameter, endpoint.socket.to_string(), allowed, mend))
        }
        (Socket::Unix(path), Some((directory, _))) if directory.mode & 0o007 != 0 => {
            let allowed = "in a directory that only the milters and Postfix enter: whoever connects can \
                have things signed";
            let mend = format!("chmod 2750 {}", path.parent().unwrap_or(path).display());
            Some(Finding::wrong(endpoint.parameter, in_directory(&endpoint.socket, directory), allowed, mend))
        }
        _ => None,
    }
}

/// The milters' user connects, and nobody else, Postfix included.
fn mailboxes(seen: &Seen, endpoint: &Endpoint) -> Vec<Finding> {
    let (path, (directory, file)) = match (&endpoint.socket, endpoint.permissions) {
        (Socket::Inet(address), _) => {
            let where_ = if is_loopback(address) { "a port of this host" } else { "on another host" };
            let why = format!(
                "{}, {where_}: who else can connect to it, and so put something into a certified mailbox",
                endpoint.socket
            );
            return vec![Finding::not_seen(
                endpoint.parameter,
                why,
                "if it can be, a unix socket as in dovecot-conf",
            )];
        }
        (Socket::Unix(path), Some(permissions)) if somebody_else(seen, &endpoint.socket).is_none() => {
            (path.display(), permissions)
        }
        (Socket::Unix(_), _) => return Vec::new(),
    };
    let mut out = Vec::new();
    let allowed =
        "for the milters' user alone: whoever connects puts into a certified mailbox what nobody certified";
    if file.mode & 0o022 != 0 && directory.mode & 0o011 != 0 {
        let value = format!("{}, mode {:o}", endpoint.socket, file.mode & 0o777);
        let mend = format!("mode = 0600 of the listener {path} in dovecot.conf");
        out.push(Finding::wrong(endpoint.parameter, value, allowed, mend));
    }
    if let Some(user) = seen.milters_user().filter(|user| *user != file.uid) {
        let value = format!("{}, owner {}", endpoint.socket, file.uid);
        let mend = format!("user = {user} of the listener {path} in dovecot.conf");
        out.push(Finding::wrong(
            endpoint.parameter,
            value,
            format!("owned by the milters' user ({user}), who alone connects"),
            mend,
        ));
    }
    out
}

/// Whether a process may do what `bit` says (1: enter a directory; 2: connect to a socket).
fn allows(permissions: Permissions, process: &Process, bit: u32) -> bool {
    let bits = match () {
        () if process.uid == 0 => return true,
        () if process.uid == permissions.uid => permissions.mode >> 6,
        () if process.groups.contains(&permissions.gid) => permissions.mode >> 3,
        () => permissions.mode,
    };
    bits & bit != 0
}

/// The users who enter by a group, root, the milters' user and Postfix left out.
fn strangers<'a>(seen: &Seen, group: &'a Group) -> Vec<&'a str> {
    let may_enter = |name: &str, uid: Option<u32>| {
        name == seen.postfix.main("mail_owner")
            || uid == Some(0)
            || (uid.is_some() && uid == seen.milters_user())
    };
    let members = group.members.iter().filter(|member| !may_enter(&member.name, member.uid));
    members.map(|member| member.name.as_str()).collect()
}

/// Who else than a mailbox server this socket belongs to, as far as the configuration says.
pub(crate) fn somebody_else(seen: &Seen, socket: &Socket) -> Option<String> {
    if let Some(other) = seen
        .endpoints
        .iter()
        .find(|other| other.listener != Listener::MailboxServer && other.socket == *socket)
    {
        return Some(other.parameter.to_owned());
    }
    // `private/NAME` and `public/NAME` are sockets of Postfix's own, where master.cf has such a service.
    let Socket::Unix(path) = socket else { return None };
    let below = path.strip_prefix(seen.postfix.main("queue_directory")).ok()?.to_str()?;
    let name = below.strip_prefix("private/").or_else(|| below.strip_prefix("public/"))?;
    seen.postfix.has_service(name, "unix").then(|| format!("the service {name}/unix of Postfix"))
}

/// pec-delivery enters, and no other user.
fn outgoing(seen: &Seen, endpoint: &Endpoint) -> Vec<Finding> {
    let (Socket::Unix(path), Some((directory, file))) = (&endpoint.socket, endpoint.permissions) else {
        return Vec::new();
    };
    let of = path.parent().unwrap_or(path).display();
    let mut out = Vec::new();
    if directory.mode & 0o007 != 0 && file.mode & 0o002 != 0 {
        let allowed =
            "in a directory that only Postfix and pec-delivery enter: no milter looks at what comes by it";
        out.push(Finding::wrong(
            endpoint.parameter,
            in_directory(&endpoint.socket, directory),
            allowed,
            format!("chmod o= {of}"),
        ));
    }
    match &seen.outgoing_group {
        Some(Ok(group)) if !strangers(seen, group).is_empty() && directory.mode & 0o010 != 0 => {
            let users = strangers(seen, group);
            let value = format!(
                "{}, open to the group {}, in which are {}",
                endpoint.socket,
                group.name,
                users.join(", ")
            );
            let allowed = "open to a group in which no user is: no milter looks at what comes by it";
            let mend = format!("gpasswd -d {} {}", users[0], group.name);
            out.push(Finding::wrong(endpoint.parameter, value, allowed, mend));
        }
        Some(Err(why)) => out.push(Finding::not_seen(format!("which users enter {of}"), why, "")),
        _ => {}
    }
    match &seen.delivery {
        Some(Ok(process)) if !(allows(directory, process, 1) && allows(file, process, 2)) => {
            let value = format!("{}, where pec-delivery may not enter", endpoint.socket);
            let group = match &seen.outgoing_group {
                Some(Ok(group)) => group.name.clone(),
                _ => directory.gid.to_string(),
            };
            let mend =
                format!("SupplementaryGroups={group} in the unit of pec-delivery, of no other program");
            out.push(Finding::wrong(
                endpoint.parameter,
                value,
                "open to pec-delivery: notices to other providers wait until it is",
                mend,
            ));
        }
        Some(Err(why)) => out.push(Finding::not_seen(
            format!("whether pec-delivery may enter {of}"),
            why,
            "run this on the host itself",
        )),
        _ => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::look::sockets::Member;
    use crate::check::sample::{seen, shipped_postfix};

    fn found(parameter: &str, change: impl FnOnce(&mut Endpoint)) -> Vec<String> {
        let mut seen = seen(shipped_postfix());
        change(seen.endpoints.iter_mut().find(|endpoint| endpoint.parameter == parameter).unwrap());
        said_of(&seen)
    }

    fn said_of(seen: &Seen) -> Vec<String> {
        sockets(seen).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn where_all_is_well_nothing_is_found() {
        assert_eq!(said_of(&seen(shipped_postfix())), Vec::<String>::new());
    }

    #[test]
    fn a_program_of_ours_that_anybody_reaches_or_nobody_answers_for_is_named() {
        for (parameter, program) in [
            ("pec_access_milter", "pec-access"),
            ("pec_incoming_milter", "pec-incoming"),
            ("pec_local_milter", "pec-incoming"),
            ("pec_reports_milter", "pec-delivery"),
            ("pec_delivery_lmtp", "pec-delivery"),
            ("pec_triggers_lmtp", "pec-delivery"),
        ] {
            let outside =
                found(parameter, |endpoint| endpoint.socket = Socket::Inet("192.0.2.1:9000".into()));
            assert!(
                outside.len() == 1
                    && outside[0].starts_with(&format!("wrong: {parameter} = inet:192.0.2.1:9000")),
                "{outside:?}"
            );
            assert!(
                found(parameter, |endpoint| endpoint.socket = Socket::Inet("127.0.0.1:9000".into()))
                    .is_empty()
            );
            let open = found(parameter, |endpoint| endpoint.permissions.as_mut().unwrap().0.mode = 0o40_755);
            assert!(
                open.len() == 1
                    && open[0].contains("in a directory of mode 755")
                    && open[0].ends_with("Mend: chmod 2750 /var/spool/postfix/pec"),
                "{open:?}"
            );
            let silent = found(parameter, |endpoint| endpoint.answer = Err("refused".into()));
            assert!(
                silent[0].contains("where nobody answers (refused)")
                    && silent[0].contains(&format!("start {program},")),
                "{silent:?}"
            );
        }
    }

    #[test]
    fn a_mailbox_listener_that_others_reach_is_named() {
        for parameter in ["pec_mailbox_lmtp", "pec_mailbox_lmtp_no_quota"] {
            for mode in [0o140_660, 0o140_602, 0o140_666] {
                let open = found(parameter, |endpoint| endpoint.permissions.as_mut().unwrap().1.mode = mode);
                let says = format!(", mode {:o}: it must be for the milters' user alone", mode & 0o777);
                assert!(
                    open.len() == 1
                        && open[0].starts_with(&format!("wrong: {parameter} = unix:/var/spool/postfix/pec/"))
                        && open[0].contains(&says),
                    "{open:?}"
                );
            }
            let closed = |endpoint: &mut Endpoint| {
                endpoint.permissions = endpoint
                    .permissions
                    .map(|(d, f)| (Permissions { mode: 0o40_700, ..d }, Permissions { mode: 0o140_666, ..f }))
            };
            assert!(found(parameter, closed).is_empty());
            let owner = found(parameter, |endpoint| endpoint.permissions.as_mut().unwrap().1.uid = 0);
            assert!(owner[0].contains("owner 0: it must be owned by the milters' user (100)"), "{owner:?}");
            let silent = found(parameter, |endpoint| endpoint.answer = Err("refused".into()));
            assert!(silent[0].contains("Mend: start the mailbox server, or set"), "{silent:?}");
            for (address, says) in
                [("10.0.0.7:24", "on another host"), ("127.0.0.1:24", "a port of this host")]
            {
                let port = found(parameter, |endpoint| {
                    (endpoint.socket, endpoint.permissions) = (Socket::Inet(address.into()), None)
                });
                assert!(
                    port.len() == 1
                        && port[0]
                            .starts_with(&format!("not seen: {parameter}: inet:{address}, {says}: who else")),
                    "{port:?}"
                );
            }
        }
    }

    #[test]
    fn a_way_out_that_others_have_or_pec_delivery_has_not_is_named() {
        let open =
            found("pec_outgoing_smtpd", |endpoint| endpoint.permissions.as_mut().unwrap().0.mode = 0o40_711);
        assert!(
            open[0].contains(
                "in a directory of mode 711: it must be in a directory that only Postfix \
            and pec-delivery enter"
            ),
            "{open:?}"
        );
        let mut others = seen(shipped_postfix());
        others.postfix = others.postfix.with("mail_owner", "postfix");
        let users = [("anna", 1000), ("bruno", 1001), ("pec", 100), ("postfix", 101), ("root", 0)];
        let members = users.map(|(name, uid)| Member { name: name.into(), uid: Some(uid) }).to_vec();
        others.outgoing_group = Some(Ok(Group { name: "postdrop".into(), members }));
        let lines = said_of(&others);
        assert!(
            lines[0].contains("open to the group postdrop, in which are anna, bruno: it must be")
                && lines[0].ends_with("gpasswd -d anna postdrop")
        );
        let mut outside = seen(shipped_postfix());
        outside.delivery = Some(Ok(Process { uid: 100, groups: vec![100] }));
        let lines = said_of(&outside);
        assert!(
            lines[0].contains("where pec-delivery may not enter")
                && lines[0].contains("SupplementaryGroups=postdrop"),
            "{lines:?}"
        );
        outside.delivery = Some(Err("its process is in another container".into()));
        assert!(
            said_of(&outside)[0].starts_with(
                "not seen: whether pec-delivery may enter /var/spool/postfix/public: its process"
            )
        );
        assert!(
            found("pec_outgoing_smtpd", |endpoint| endpoint.answer = Err("refused".into()))[0]
                .contains("Mend: start Postfix")
        );
    }
}
