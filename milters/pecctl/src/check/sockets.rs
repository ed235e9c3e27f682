//! The sockets by which mail passes: who may connect to them, and whether somebody answers.
//!
//! Promise: whoever can have something signed, put something into a certified mailbox or send a notice by
//! connecting is named, unless he is root, the milters' user or, where it must be so, Postfix.

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pec_host::parameters::{Settings, Socket};

use super::Finding;
use super::seen::{Known, Seen, output, words};

/// How long a neighbour may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who listens, and so who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// One of our programs, for Postfix.
    Ours,
    /// The mailbox server, for our programs.
    Mailboxes,
    /// Postfix's smtpd for notices, for pec-delivery.
    Outgoing,
}

/// Mode, owner and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Rights {
    fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|m| Self { mode: m.mode(), uid: m.uid(), gid: m.gid() })
    }

    /// Whether a process may do what `bit` says (1: enter a directory; 2: connect to a socket).
    fn let_in(self, process: &Process, bit: u32) -> bool {
        let bits = match () {
            () if process.uid == 0 => return true,
            () if process.uid == self.uid => self.mode >> 6,
            () if process.groups.contains(&self.gid) => self.mode >> 3,
            () => self.mode,
        };
        bits & bit != 0
    }
}

/// What a server says when somebody connects, and what to LHLO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) greeting: String,
    pub(super) lhlo: String,
}

/// A socket that a parameter of ours names.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) parameter: &'static str,
    pub(super) side: Side,
    pub(super) socket: Socket,
    /// Of the directory that it lies in, and its own. Nothing of a port, or where nothing is.
    pub(super) rights: Option<(Rights, Rights)>,
    pub(super) said: Known<Said>,
}

/// A process that listens, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) uid: u32,
    pub(super) groups: Vec<u32>,
}

/// A group, and the users that are in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) users: Vec<String>,
}

/// All sockets, as they are now.
pub(super) fn read(settings: &Settings) -> Vec<Door> {
    // A milter waits for the first word; the others speak first.
    let milter = |socket: &Socket| connect(socket).map(|_| Said::default());
    let of = |parameter, side, socket: &Socket, said: Known<Said>| {
        let rights = match socket {
            Socket::Unix(path) => path.parent().and_then(Rights::of).zip(Rights::of(path)),
            Socket::Inet(_) => None,
        };
        Door { parameter, side, socket: socket.clone(), rights, said }
    };
    vec![
        of("pec_access_milter", Side::Ours, &settings.access_milter, milter(&settings.access_milter)),
        of("pec_incoming_milter", Side::Ours, &settings.incoming_milter, milter(&settings.incoming_milter)),
        of("pec_local_milter", Side::Ours, &settings.local_milter, milter(&settings.local_milter)),
        of("pec_reports_milter", Side::Ours, &settings.reports_milter, milter(&settings.reports_milter)),
        of("pec_delivery_lmtp", Side::Ours, &settings.delivery_lmtp, said(&settings.delivery_lmtp)),
        of("pec_triggers_lmtp", Side::Ours, &settings.triggers_lmtp, said(&settings.triggers_lmtp)),
        of("pec_mailbox_lmtp", Side::Mailboxes, &settings.mailbox_lmtp, said(&settings.mailbox_lmtp)),
        of(
            "pec_mailbox_lmtp_no_quota",
            Side::Mailboxes,
            &settings.mailbox_lmtp_no_quota,
            said(&settings.mailbox_lmtp_no_quota),
        ),
        of("pec_outgoing_smtpd", Side::Outgoing, &settings.outgoing_smtpd, said(&settings.outgoing_smtpd)),
    ]
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(socket: &Socket) -> Known<Box<dyn Stream>> {
    match socket {
        Socket::Unix(path) => {
            let stream = UnixStream::connect(path).map_err(words)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
            Ok(Box::new(stream))
        }
        Socket::Inet(address) => {
            let address: SocketAddr = address.to_socket_addrs().map_err(words)?.next().ok_or("no address")?;
            let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(words)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
            Ok(Box::new(stream))
        }
    }
}

/// The first line of what a server says, and of what it says to LHLO.
fn said(socket: &Socket) -> Known<Said> {
    let mut stream = BufReader::new(connect(socket)?);
    let line = |stream: &mut BufReader<Box<dyn Stream>>| -> Known<String> {
        let mut line = String::new();
        stream.take(1000).read_line(&mut line).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock => format!("it says nothing within {} s", PATIENCE.as_secs()),
            _ => words(e),
        })?;
        if line.is_empty() { Err("it hangs up".to_owned()) } else { Ok(line.trim().to_owned()) }
    };
    let greeting = line(&mut stream)?;
    stream.get_mut().write_all(b"LHLO localhost\r\n").map_err(words)?;
    let lhlo = line(&mut stream)?;
    let _ = stream.get_mut().write_all(b"QUIT\r\n");
    Ok(Said { greeting, lhlo })
}

/// Who listens at a unix socket. Asked of the kernel, since a unit file gives a process groups that its user
/// is not in.
pub(super) fn listener(socket: &Socket) -> Known<Process> {
    let Socket::Unix(path) = socket else { return Err("it listens at a port".to_owned()) };
    let stream = UnixStream::connect(path).map_err(words)?;
    stream.set_nonblocking(true).map_err(words)?;
    let peer =
        tokio::net::UnixStream::from_std(stream).and_then(|stream| stream.peer_cred()).map_err(words)?;
    let pid = peer.pid().filter(|pid| *pid > 0).ok_or("its process is in another container")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(words)?;
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    let groups = groups.split_whitespace().filter_map(|gid| gid.parse().ok()).chain([peer.gid()]).collect();
    Ok(Process { uid: peer.uid(), groups })
}

/// The users of a group; those that may enter anyway, by their numbers or names, left out.
pub(super) fn group(gid: u32, but: &[u32], but_named: &str) -> Known<Group> {
    let line = output(Command::new("getent").args(["group", &gid.to_string()]))?;
    Ok(group_of(&line, &output(Command::new("getent").arg("passwd"))?, gid, but, but_named))
}

fn group_of(group: &str, passwd: &str, gid: u32, but: &[u32], but_named: &str) -> Group {
    let fields: Vec<&str> = group.trim().split(':').collect();
    let accounts: Vec<(&str, Option<u32>, Option<u32>)> = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter_map(|f| Some((*f.first()?, f.get(2)?.parse().ok(), f.get(3)?.parse().ok())))
        .collect();
    let named = fields.get(3).map_or("", |members| *members).split(',').filter(|name| !name.is_empty());
    let by_login = accounts.iter().filter(|(.., primary)| *primary == Some(gid)).map(|(name, ..)| *name);
    let may_enter = |name: &str| {
        name == but_named
            || accounts.iter().any(|(n, uid, _)| *n == name && uid.is_some_and(|uid| but.contains(&uid)))
    };
    let mut users: Vec<String> =
        named.chain(by_login).filter(|name| !may_enter(name)).map(str::to_owned).collect();
    users.sort_unstable();
    users.dedup();
    Group { name: fields.first().map_or_else(|| gid.to_string(), |name| (*name).to_owned()), users }
}

/// Who may connect, and whether somebody answers.
pub(super) fn sockets(seen: &Seen) -> Vec<Finding> {
    let mut out = Vec::new();
    for door in &seen.doors {
        out.extend(match door.side {
            Side::Ours => ours(door).into_iter().collect(),
            Side::Mailboxes => mailboxes(seen, door),
            Side::Outgoing => outgoing(seen, door),
        });
        if let Err(why) = &door.said {
            let mend = match door.side {
                Side::Ours => format!(
                    "start {}, or see why its log says that it does not start",
                    program(door.parameter)
                ),
                Side::Mailboxes => {
                    format!("start the mailbox server, or set {} to where its LMTP listens", door.parameter)
                }
                Side::Outgoing => "start Postfix; its service is in postfix-conf/master.cf".to_owned(),
            };
            let value = format!("{}, where nobody answers ({why})", door.socket);
            out.push(Finding::wrong(door.parameter, value, "answered: mail waits until it is", mend));
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

pub(super) fn is_loopback(address: &str) -> bool {
    ["127.", "[::1]", "localhost:"].iter().any(|start| address.starts_with(start))
}

fn in_directory(socket: &Socket, directory: Rights) -> String {
    format!("{socket} in a directory of mode {:o}", directory.mode & 0o7777)
}

/// Postfix enters, and nobody else.
fn ours(door: &Door) -> Option<Finding> {
    match (&door.socket, door.rights) {
        (Socket::Inet(address), _) if !is_loopback(address) => {
            let allowed = "unix:path or a loopback address: whoever connects can have things signed";
            let mend = format!("postconf -X {}, then postfix-conf/apply", door.parameter);
            Some(Finding::wrong(door.parameter, door.socket.to_string(), allowed, mend))
        }
        (Socket::Unix(path), Some((directory, _))) if directory.mode & 0o007 != 0 => {
            let allowed = "in a directory that only the milters and Postfix enter: whoever connects can \
                have things signed";
            let mend = format!("chmod 2750 {}", path.parent().unwrap_or(path).display());
            Some(Finding::wrong(door.parameter, in_directory(&door.socket, directory), allowed, mend))
        }
        _ => None,
    }
}

/// The milters' user connects, and nobody else, Postfix included.
fn mailboxes(seen: &Seen, door: &Door) -> Vec<Finding> {
    let (path, (directory, file)) = match (&door.socket, door.rights) {
        (Socket::Inet(address), _) => {
            let where_ = if is_loopback(address) { "a port of this host" } else { "on another host" };
            let why = format!(
                "{}, {where_}: who else can connect to it, and so put something into a certified mailbox",
                door.socket
            );
            return vec![Finding::not_seen(
                door.parameter,
                why,
                "if it can be, a unix socket as in dovecot-conf",
            )];
        }
        (Socket::Unix(path), Some(rights))
            if super::mailboxes::somebody_else(seen, &door.socket).is_none() =>
        {
            (path.display(), rights)
        }
        (Socket::Unix(_), _) => return Vec::new(),
    };
    let mut out = Vec::new();
    let allowed =
        "for the milters' user alone: whoever connects puts into a certified mailbox what nobody certified";
    if file.mode & 0o022 != 0 && directory.mode & 0o011 != 0 {
        let value = format!("{}, mode {:o}", door.socket, file.mode & 0o777);
        let mend = format!("mode = 0600 of the listener {path} in dovecot.conf");
        out.push(Finding::wrong(door.parameter, value, allowed, mend));
    }
    if let Some(user) = seen.milters_user().filter(|user| *user != file.uid) {
        let value = format!("{}, owner {}", door.socket, file.uid);
        let mend = format!("user = {user} of the listener {path} in dovecot.conf");
        out.push(Finding::wrong(
            door.parameter,
            value,
            format!("owned by the milters' user ({user}), who alone connects"),
            mend,
        ));
    }
    out
}

/// pec-delivery enters, and no other user.
fn outgoing(seen: &Seen, door: &Door) -> Vec<Finding> {
    let (Socket::Unix(path), Some((directory, file))) = (&door.socket, door.rights) else {
        return Vec::new();
    };
    let of = path.parent().unwrap_or(path).display();
    let mut out = Vec::new();
    if directory.mode & 0o007 != 0 && file.mode & 0o002 != 0 {
        let allowed =
            "in a directory that only Postfix and pec-delivery enter: no milter looks at what comes by it";
        out.push(Finding::wrong(
            door.parameter,
            in_directory(&door.socket, directory),
            allowed,
            format!("chmod o= {of}"),
        ));
    }
    match &seen.outgoing_group {
        Some(Ok(group)) if !group.users.is_empty() && directory.mode & 0o010 != 0 => {
            let value = format!(
                "{}, open to the group {}, in which are {}",
                door.socket,
                group.name,
                group.users.join(", ")
            );
            let allowed = "open to a group in which no user is: no milter looks at what comes by it";
            let mend = format!("gpasswd -d {} {}", group.users[0], group.name);
            out.push(Finding::wrong(door.parameter, value, allowed, mend));
        }
        Some(Err(why)) => out.push(Finding::not_seen(format!("which users enter {of}"), why, "")),
        _ => {}
    }
    match &seen.delivery {
        Some(Ok(process)) if !(directory.let_in(process, 1) && file.let_in(process, 2)) => {
            let value = format!("{}, where pec-delivery may not enter", door.socket);
            let group = match &seen.outgoing_group {
                Some(Ok(group)) => group.name.clone(),
                _ => directory.gid.to_string(),
            };
            let mend =
                format!("SupplementaryGroups={group} in the unit of pec-delivery, of no other program");
            out.push(Finding::wrong(
                door.parameter,
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
    use std::os::unix::net::UnixListener;

    use super::super::postfix::tests::shipped_postfix;
    use super::super::seen::tests::seen;
    use super::*;

    fn found(parameter: &str, change: impl FnOnce(&mut Door)) -> Vec<String> {
        let mut seen = seen(shipped_postfix());
        change(seen.doors.iter_mut().find(|door| door.parameter == parameter).unwrap());
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
            let outside = found(parameter, |door| door.socket = Socket::Inet("192.0.2.1:9000".into()));
            assert!(
                outside.len() == 1
                    && outside[0].starts_with(&format!("wrong: {parameter} = inet:192.0.2.1:9000")),
                "{outside:?}"
            );
            assert!(found(parameter, |door| door.socket = Socket::Inet("127.0.0.1:9000".into())).is_empty());
            let open = found(parameter, |door| door.rights.as_mut().unwrap().0.mode = 0o40_755);
            assert!(
                open.len() == 1
                    && open[0].contains("in a directory of mode 755")
                    && open[0].ends_with("Mend: chmod 2750 /var/spool/postfix/pec"),
                "{open:?}"
            );
            let silent = found(parameter, |door| door.said = Err("refused".into()));
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
                let open = found(parameter, |door| door.rights.as_mut().unwrap().1.mode = mode);
                let says = format!(", mode {:o}: it must be for the milters' user alone", mode & 0o777);
                assert!(
                    open.len() == 1
                        && open[0].starts_with(&format!("wrong: {parameter} = unix:/var/spool/postfix/pec/"))
                        && open[0].contains(&says),
                    "{open:?}"
                );
            }
            let closed = |door: &mut Door| {
                door.rights = door
                    .rights
                    .map(|(d, f)| (Rights { mode: 0o40_700, ..d }, Rights { mode: 0o140_666, ..f }))
            };
            assert!(found(parameter, closed).is_empty());
            let owner = found(parameter, |door| door.rights.as_mut().unwrap().1.uid = 0);
            assert!(owner[0].contains("owner 0: it must be owned by the milters' user (100)"), "{owner:?}");
            let silent = found(parameter, |door| door.said = Err("refused".into()));
            assert!(silent[0].contains("Mend: start the mailbox server, or set"), "{silent:?}");
            for (address, says) in
                [("10.0.0.7:24", "on another host"), ("127.0.0.1:24", "a port of this host")]
            {
                let port = found(parameter, |door| {
                    (door.socket, door.rights) = (Socket::Inet(address.into()), None)
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
        let open = found("pec_outgoing_smtpd", |door| door.rights.as_mut().unwrap().0.mode = 0o40_711);
        assert!(
            open[0].contains(
                "in a directory of mode 711: it must be in a directory that only Postfix \
            and pec-delivery enter"
            ),
            "{open:?}"
        );
        let mut others = seen(shipped_postfix());
        others.outgoing_group =
            Some(Ok(Group { name: "postdrop".into(), users: vec!["anna".into(), "bruno".into()] }));
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
            found("pec_outgoing_smtpd", |door| door.said = Err("refused".into()))[0]
                .contains("Mend: start Postfix")
        );
    }

    #[test]
    fn members_of_a_group_are_those_named_and_those_who_log_in_with_it() {
        let passwd = "root:x:0:0:::\npostfix:x:101:103:::\npec:x:100:100:::\nanna:x:1000:104:::\nbruno:x:1001:1001:::\n";
        let group = |line| group_of(line, passwd, 104, &[0, 100], "postfix");
        assert_eq!(group("postdrop:x:104:"), Group { name: "postdrop".into(), users: vec!["anna".into()] });
        assert_eq!(group("postdrop:x:104:pec,postfix,root,bruno,anna\n").users, ["anna", "bruno"]);
        assert_eq!(group("").name, "");
    }

    #[tokio::test]
    async fn a_server_is_asked_what_it_is_and_the_kernel_who() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lmtp");
        let listener_ = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            for hangs_up in [false, true] {
                let (mut stream, _) = listener_.accept().unwrap();
                if hangs_up {
                    continue;
                }
                stream.write_all(b"220 mail Dovecot ready.\r\n").unwrap();
                let mut line = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                reader.read_line(&mut line).unwrap();
                assert_eq!(line, "LHLO localhost\r\n");
                stream.write_all(b"250-mail\r\n250 PIPELINING\r\n").unwrap();
                line.clear();
                reader.read_line(&mut line).unwrap();
                assert_eq!(line, "QUIT\r\n");
            }
            listener_
        });
        let socket = Socket::Unix(path);
        assert_eq!(
            said(&socket),
            Ok(Said { greeting: "220 mail Dovecot ready.".into(), lhlo: "250-mail".into() })
        );
        assert_eq!(said(&socket), Err("it hangs up".to_owned()));
        let kept = server.join().unwrap();
        let process = listener(&socket).unwrap();
        assert_eq!(process.uid, rustix::process::getuid().as_raw());
        assert!(process.groups.contains(&rustix::process::getgid().as_raw()));
        drop(kept);
        assert!(listener(&socket).is_err() && said(&socket).is_err());
    }
}
