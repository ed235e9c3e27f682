//! The sockets by which mail passes: who may connect to each, and what answers there.

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pec_host::parameters::{Settings, Socket};

use crate::check::look::ask::{Known, output, reason};

/// How long a neighbour may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who listens, and so who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// One of our programs, for Postfix.
    OurProgram,
    /// The mailbox server, for our programs.
    MailboxServer,
    /// Postfix's smtpd for notices, for pec-delivery.
    OutgoingSmtpd,
}

/// Mode, owner and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Permissions {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|m| Self { mode: m.mode(), uid: m.uid(), gid: m.gid() })
    }
}

/// What a server says when somebody connects, and what to LHLO. A milter says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) greeting: String,
    pub(crate) lhlo: String,
}

/// A socket that a parameter of ours names.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) parameter: &'static str,
    pub(crate) listener: Listener,
    pub(crate) socket: Socket,
    /// Of the directory that it lies in, and its own. Nothing of a port, or where nothing is.
    pub(crate) permissions: Option<(Permissions, Permissions)>,
    pub(crate) answer: Known<Answer>,
}

impl Endpoint {
    /// Whether a server that speaks LMTP answers where mailboxes are said to be.
    pub(crate) fn is_mailbox_server(&self) -> bool {
        self.parameter == "pec_mailbox_lmtp"
            && self.answer.as_ref().is_ok_and(|answer| answer.lhlo.starts_with("250"))
    }
}

/// A process that listens, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) uid: u32,
    pub(crate) groups: Vec<u32>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// Users that are in it, by name: those named in it, and those who log in with it.
    pub(crate) members: Vec<Member>,
}

/// A user in a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// None: the host has no such user.
    pub(crate) uid: Option<u32>,
}

/// Reads all sockets, as they are now.
pub(crate) fn read(settings: &Settings) -> Vec<Endpoint> {
    // A milter waits for the first word; the others speak first.
    let milter = |socket: &Socket| connect(socket).map(|_| Answer::default());
    let look = |parameter, listener, socket: &Socket, ask: &dyn Fn(&Socket) -> Known<Answer>| {
        let permissions = match socket {
            Socket::Unix(path) => path.parent().and_then(Permissions::of).zip(Permissions::of(path)),
            Socket::Inet(_) => None,
        };
        Endpoint { parameter, listener, socket: socket.clone(), permissions, answer: ask(socket) }
    };
    let (ours, mailboxes) = (Listener::OurProgram, Listener::MailboxServer);
    vec![
        look("pec_access_milter", ours, &settings.access_milter, &milter),
        look("pec_incoming_milter", ours, &settings.incoming_milter, &milter),
        look("pec_local_milter", ours, &settings.local_milter, &milter),
        look("pec_reports_milter", ours, &settings.reports_milter, &milter),
        look("pec_delivery_lmtp", ours, &settings.delivery_lmtp, &answer),
        look("pec_triggers_lmtp", ours, &settings.triggers_lmtp, &answer),
        look("pec_mailbox_lmtp", mailboxes, &settings.mailbox_lmtp, &answer),
        look("pec_mailbox_lmtp_no_quota", mailboxes, &settings.mailbox_lmtp_no_quota, &answer),
        look("pec_outgoing_smtpd", Listener::OutgoingSmtpd, &settings.outgoing_smtpd, &answer),
    ]
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(socket: &Socket) -> Known<Box<dyn Stream>> {
    match socket {
        Socket::Unix(path) => {
            let stream = UnixStream::connect(path).map_err(reason)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(reason)?;
            Ok(Box::new(stream))
        }
        Socket::Inet(address) => {
            let address: SocketAddr =
                address.to_socket_addrs().map_err(reason)?.next().ok_or("no address")?;
            let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(reason)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(reason)?;
            Ok(Box::new(stream))
        }
    }
}

/// The first line of what a server says, and of what it says to LHLO.
fn answer(socket: &Socket) -> Known<Answer> {
    let mut stream = BufReader::new(connect(socket)?);
    let line = |stream: &mut BufReader<Box<dyn Stream>>| -> Known<String> {
        let mut line = String::new();
        stream.take(1000).read_line(&mut line).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock => format!("it says nothing within {} s", PATIENCE.as_secs()),
            _ => reason(e),
        })?;
        if line.is_empty() { Err("it hangs up".to_owned()) } else { Ok(line.trim().to_owned()) }
    };
    let greeting = line(&mut stream)?;
    stream.get_mut().write_all(b"LHLO localhost\r\n").map_err(reason)?;
    let lhlo = line(&mut stream)?;
    let _ = stream.get_mut().write_all(b"QUIT\r\n");
    Ok(Answer { greeting, lhlo })
}

/// The process that listens at a unix socket. Asked of the kernel, since a unit file gives a process groups
/// that its user is not in.
pub(crate) fn process_behind(socket: &Socket) -> Known<Process> {
    let Socket::Unix(path) = socket else { return Err("it listens at a port".to_owned()) };
    let stream = UnixStream::connect(path).map_err(reason)?;
    stream.set_nonblocking(true).map_err(reason)?;
    let peer =
        tokio::net::UnixStream::from_std(stream).and_then(|stream| stream.peer_cred()).map_err(reason)?;
    let pid = peer.pid().filter(|pid| *pid > 0).ok_or("its process is in another container")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(reason)?;
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    let groups = groups.split_whitespace().filter_map(|gid| gid.parse().ok()).chain([peer.gid()]).collect();
    Ok(Process { uid: peer.uid(), groups })
}

/// A group by its number.
pub(crate) fn group(gid: u32) -> Known<Group> {
    let line = output(Command::new("getent").args(["group", &gid.to_string()]))?;
    Ok(group_of(&line, &output(Command::new("getent").arg("passwd"))?, gid))
}

fn group_of(group: &str, passwd: &str, gid: u32) -> Group {
    let fields: Vec<&str> = group.trim().split(':').collect();
    let accounts: Vec<(&str, Option<u32>, Option<u32>)> = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter_map(|f| Some((*f.first()?, f.get(2)?.parse().ok(), f.get(3)?.parse().ok())))
        .collect();
    let named = fields.get(3).map_or("", |members| *members).split(',').filter(|name| !name.is_empty());
    let by_login = accounts.iter().filter(|(.., primary)| *primary == Some(gid)).map(|(name, ..)| *name);
    let member = |name: &str| Member {
        name: name.to_owned(),
        uid: accounts.iter().find(|(n, ..)| *n == name).and_then(|(_, uid, _)| *uid),
    };
    let mut members: Vec<Member> = named.chain(by_login).map(member).collect();
    members.sort_unstable();
    members.dedup();
    Group { name: fields.first().map_or_else(|| gid.to_string(), |name| (*name).to_owned()), members }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn members_of_a_group_are_those_named_and_those_who_log_in_with_it() {
        let passwd = "root:x:0:0:::\npostfix:x:101:103:::\npec:x:100:100:::\nanna:x:1000:104:::\nbruno:x:1001:1001:::\n";
        let group = |line| group_of(line, passwd, 104);
        let anna = Member { name: "anna".into(), uid: Some(1000) };
        assert_eq!(group("postdrop:x:104:"), Group { name: "postdrop".into(), members: vec![anna.clone()] });
        let of_both = group("postdrop:x:104:pec,carla,anna\n").members;
        let (carla, pec) =
            (Member { name: "carla".into(), uid: None }, Member { name: "pec".into(), uid: Some(100) });
        assert_eq!(of_both, [anna, carla, pec]);
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
            answer(&socket),
            Ok(Answer { greeting: "220 mail Dovecot ready.".into(), lhlo: "250-mail".into() })
        );
        assert_eq!(answer(&socket), Err("it hangs up".to_owned()));
        let kept = server.join().unwrap();
        let process = process_behind(&socket).unwrap();
        assert_eq!(process.uid, rustix::process::getuid().as_raw());
        assert!(process.groups.contains(&rustix::process::getgid().as_raw()));
        drop(kept);
        assert!(process_behind(&socket).is_err() && answer(&socket).is_err());
    }
}
