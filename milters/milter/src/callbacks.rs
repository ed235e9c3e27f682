//! The milter protocol's events carried to a [`Point`] and its verdict carried back.
//!
//! Promise: nothing is decided here. The configuration that a message began with stays with it to its end.

use std::ffi::{CStr, CString};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use indymilter::{
    Actions, Callbacks, Config, ContextActions as _, EomContext, Listener, Macros, NegotiateContext,
    ProtoOpts, SetErrorReply, SocketInfo, Status,
};
use pec_host::maillog;
use pec_program::turns::Share;
use tokio::sync::watch;

use crate::guard::Guard;
use crate::transaction::{Connection, Recipient, Tls, Transaction};
use crate::{Point, Reply, Verdict};

/// More connections than Postfix's processes can open: 100 smtpd for each service, their cleanup, bounce.
const MAX_CONNECTIONS: usize = 1000;

/// While a point works, Postfix hears so often that it does (its `milter_content_timeout` is 300 s).
const PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// What a client hears while the mail waits. Why is in the log, not for the network.
const WAIT_REPLY: (&str, &str, &str) =
    ("451", "4.3.0", "certified mail service temporarily unavailable, nothing was accepted, try again later");

/// Bytes of messages' bodies in hand at once, in each program: all, and those of strangers.
const ROOM: Room = Room { all: 1024 * 1024 * 1024, strangers: 256 * 1024 * 1024 };

/// How many bytes may be in hand.
#[derive(Debug, Clone, Copy)]
struct Room {
    all: u64,
    strangers: u64,
}

/// The messages in hand, between MAIL and the final reply, over all connections, and their bodies' bytes.
#[derive(Debug, Clone)]
pub struct Underway {
    count: Arc<AtomicUsize>,
    changed: Arc<watch::Sender<()>>,
    room: Room,
    bytes: Arc<AtomicU64>,
    of_strangers: Arc<AtomicU64>,
}

impl Default for Underway {
    fn default() -> Self {
        Self::with(ROOM)
    }
}

impl Underway {
    fn with(room: Room) -> Self {
        let changed = Arc::new(watch::Sender::new(()));
        Self { count: Arc::default(), changed, room, bytes: Arc::default(), of_strangers: Arc::default() }
    }

    fn one_more(&self) -> OneUnderway {
        self.count.fetch_add(1, Ordering::SeqCst);
        OneUnderway { all: self.clone(), bytes: 0, of_strangers: 0 }
    }

    /// Returns when no message is in hand.
    pub async fn none(&self) {
        let mut changed = self.changed.subscribe();
        while self.count.load(Ordering::SeqCst) > 0 {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Counts as long as it lives, also through a panic.
struct OneUnderway {
    all: Underway,
    bytes: u64,
    of_strangers: u64,
}

impl OneUnderway {
    /// Whether there is room for so many bytes more.
    fn hold(&mut self, share: Share, bytes: u64) -> bool {
        let taken = |of: &AtomicU64, most: u64| {
            let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= most);
            of.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
        };
        if share == Share::Strangers {
            if !taken(&self.all.of_strangers, self.all.room.strangers) {
                return false;
            }
            self.of_strangers += bytes;
        }
        let held = taken(&self.all.bytes, self.all.room.all);
        self.bytes += if held { bytes } else { 0 };
        held
    }

    /// Gives back all that it holds.
    fn let_go(&mut self) {
        self.all.bytes.fetch_sub(std::mem::take(&mut self.bytes), Ordering::SeqCst);
        self.all.of_strangers.fetch_sub(std::mem::take(&mut self.of_strangers), Ordering::SeqCst);
    }
}

impl Drop for OneUnderway {
    fn drop(&mut self) {
        self.let_go();
        self.all.count.fetch_sub(1, Ordering::SeqCst);
        self.all.changed.send_replace(());
    }
}

/// One connection's state.
struct Session<P: Point> {
    connection: Connection,
    message: Option<Message<P>>,
}

struct Message<P> {
    point: Arc<P>,
    transaction: Transaction,
    /// Whose it is, known from the end of its header on.
    share: Option<Share>,
    /// There was no room for its body.
    no_room: bool,
    in_hand: OneUnderway,
}

impl<P: Point> Message<P> {
    /// The header is complete, whether Postfix said so or went on: what is kept of the body is settled before
    /// its first byte.
    fn end_header(&mut self, door: P::Door) -> Share {
        if let Some(share) = self.share {
            return share;
        }
        let header = &self.transaction.header;
        let share = self.point.share(door, header);
        self.share = Some(share);
        self.transaction.keep(self.point.keep_body(door, header));
        share
    }

    /// A piece of the body, if there is room for it.
    fn push_body(&mut self, door: P::Door, piece: Bytes) {
        let share = self.end_header(door);
        if !self.no_room && !self.transaction.too_large && !self.in_hand.hold(share, piece.len() as u64) {
            self.no_room = true;
        }
        if !self.no_room {
            self.transaction.push_body(piece);
        }
        if self.no_room || self.transaction.too_large {
            self.transaction.forget_body();
            self.in_hand.let_go();
        }
    }
}

/// Serves `door` on `listener` until `shutdown` completes. `point` may be exchanged at any time; it holds
/// from the next message on.
pub async fn serve<P: Point>(
    listener: impl Listener,
    door: P::Door,
    point: Arc<ArcSwap<P>>,
    in_hand: Underway,
    guard: Guard,
    shutdown: impl Future,
) -> io::Result<()> {
    let config = Config { max_connections: MAX_CONNECTIONS, ..Config::default() };
    indymilter::run(listener, callbacks(door, point, in_hand, guard), config, shutdown).await
}

fn callbacks<P: Point>(
    door: P::Door,
    point: Arc<ArcSwap<P>>,
    in_hand: Underway,
    guard: Guard,
) -> Callbacks<Session<P>> {
    Callbacks::new()
        .on_negotiate(|context, _, offered| Box::pin(async move { negotiate(context, offered) }))
        .on_connect(|context, name, socket| {
            Box::pin(async move {
                context.data = Some(Session { connection: connection(&name, &socket), message: None });
                Status::Noreply
            })
        })
        .on_helo(|context, name| {
            Box::pin(async move {
                if let Some(session) = &mut context.data {
                    session.connection.helo = text(&name);
                }
                Status::Noreply
            })
        })
        .on_mail(move |context, args| {
            let (point, in_hand) = (point.load_full(), in_hand.one_more());
            let guard = guard.clone();
            Box::pin(async move {
                if let Some(why) = guard.why().await {
                    let why = format!("Postfix lets mail pass by this program, so nothing is taken: {why}");
                    return wait(&mut context.reply, pec_host::NO_QUEUE_ID, &why);
                }
                let mut transaction = Transaction::new(&args.first().map(|a| text(a)).unwrap_or_default());
                transaction.queue_id = macro_text(&context.macros, c"i");
                transaction.account = macro_text(&context.macros, c"{auth_authen}");
                transaction.tls = tls(&context.macros);
                let session = context
                    .data
                    .get_or_insert_with(|| Session { connection: Connection::default(), message: None });
                let decision = point.mail(door, &session.connection, &transaction);
                session.message = Some(Message { point, transaction, share: None, no_room: false, in_hand });
                if decision.is_err() {
                    session.message = None;
                }
                answer(&mut context.reply, decision, &args)
            })
        })
        .on_rcpt(move |context, args| {
            Box::pin(async move {
                let Some(message) = context.data.as_mut().and_then(|s| s.message.as_mut()) else {
                    return Status::Tempfail;
                };
                let recipient = Recipient::new(&args.first().map(|a| text(a)).unwrap_or_default());
                let decision = message.point.rcpt(door, &message.transaction, &recipient);
                if decision.is_ok() {
                    message.transaction.recipients.push(recipient);
                }
                answer(&mut context.reply, decision, &args)
            })
        })
        .on_header(|context, name, value| {
            Box::pin(async move {
                if let Some(message) = context.data.as_mut().and_then(|s| s.message.as_mut()) {
                    message.transaction.push_field(name.as_bytes(), value.as_bytes());
                }
                Status::Noreply
            })
        })
        .on_eoh(move |context| {
            Box::pin(async move {
                if let Some(message) = context.data.as_mut().and_then(|s| s.message.as_mut()) {
                    message.end_header(door);
                }
                Status::Noreply
            })
        })
        .on_body(move |context, piece| {
            Box::pin(async move {
                if let Some(message) = context.data.as_mut().and_then(|s| s.message.as_mut()) {
                    message.push_body(door, piece);
                }
                Status::Noreply
            })
        })
        .on_eom(move |context| Box::pin(end_of_message(context, door)))
        .on_abort(|context| {
            Box::pin(async move {
                if let Some(session) = &mut context.data {
                    session.message = None;
                }
                Status::Continue
            })
        })
}

/// Events that need no answer get none, and leading blanks of header values are wanted as they are.
fn negotiate<P: Point>(context: &mut NegotiateContext<Session<P>>, offered: ProtoOpts) -> Status {
    context.requested_actions = Actions::ADD_HEADER
        | Actions::CHANGE_HEADER
        | Actions::REPLACE_BODY
        | Actions::CHANGE_SENDER
        | Actions::ADD_RCPT
        | Actions::ADD_RCPT_EXT
        | Actions::DELETE_RCPT;
    let wanted = ProtoOpts::LEADING_SPACE
        | ProtoOpts::NO_DATA
        | ProtoOpts::NO_UNKNOWN
        | ProtoOpts::NOREPLY_CONNECT
        | ProtoOpts::NOREPLY_HELO
        | ProtoOpts::NOREPLY_HEADER
        | ProtoOpts::NOREPLY_EOH
        | ProtoOpts::NOREPLY_BODY;
    context.requested_opts = wanted & offered;
    Status::Continue
}

async fn end_of_message<P: Point>(context: &mut EomContext<Session<P>>, door: P::Door) -> Status {
    let Some(session) = &mut context.data else { return Status::Tempfail };
    let Some(mut message) = session.message.take() else { return Status::Tempfail };
    message.end_header(door);
    message.transaction.finish();
    if let Some(queue_id) = macro_text(&context.macros, c"i") {
        message.transaction.queue_id = Some(queue_id);
    }
    let queue_id = message.transaction.queue_id().to_owned();
    if message.no_room {
        return wait(&mut context.reply, &queue_id, "no memory: too many large messages are in hand at once");
    }
    let sender = message.transaction.sender_path.clone();

    let mut deciding =
        std::pin::pin!(message.point.end_of_message(door, &session.connection, message.transaction));
    let verdict = loop {
        tokio::select! {
            verdict = &mut deciding => break verdict,
            () = tokio::time::sleep(PROGRESS_EVERY) => {
                // If Postfix has gone, its connection says so at the edits; the decision is carried to its
                // end.
                let _ = context.actions.progress().await;
            }
        }
    };
    match verdict {
        Verdict::Change(edits) => match edits.apply(&context.actions).await {
            Ok(()) => Status::Continue,
            Err(e) => wait(&mut context.reply, &queue_id, &format!("Postfix did not take the changes: {e}")),
        },
        Verdict::Consume => Status::Discard,
        Verdict::Refuse(reply) => {
            maillog::refused(&queue_id, &sender, &reply.to_string());
            set_reply(&mut context.reply, reply.code, reply.status, &reply.text);
            Status::Reject
        }
        Verdict::Wait(why) => wait(&mut context.reply, &queue_id, &why),
    }
}

fn wait(reply: &mut impl SetErrorReply, queue_id: &str, why: &str) -> Status {
    maillog::waits(queue_id, why);
    let (code, status, text) = WAIT_REPLY;
    set_reply(reply, code, status, text);
    Status::Tempfail
}

fn answer(reply: &mut impl SetErrorReply, decision: Result<(), Reply>, args: &[CString]) -> Status {
    match decision {
        Ok(()) => Status::Continue,
        Err(refusal) => {
            maillog::refused(
                pec_host::NO_QUEUE_ID,
                &args.first().map(|a| text(a)).unwrap_or_default(),
                &refusal.to_string(),
            );
            set_reply(reply, refusal.code, refusal.status, &refusal.text);
            // The milter protocol takes a reply's text only with the status of its kind.
            if refusal.code.starts_with('4') { Status::Tempfail } else { Status::Reject }
        }
    }
}

/// Postfix takes a single `%` out of a reply and wants one line of at most 980 bytes.
fn set_reply(reply: &mut impl SetErrorReply, code: &str, status: &str, text: &str) {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().replace('%', "%%");
    while line.len() > 900 {
        line.pop();
    }
    // Cannot fail with codes from this program and a line made so; without it Postfix says its own words.
    let _ = reply.set_error_reply(code, Some(status), [line]);
}

fn connection(name: &CStr, socket: &SocketInfo) -> Connection {
    let client_address = match socket {
        SocketInfo::Inet(address) => address.ip().to_string(),
        _ => String::new(),
    };
    Connection { client_name: text(name), client_address, helo: String::new() }
}

fn tls(macros: &Macros) -> Option<Tls> {
    Some(Tls {
        version: macro_text(macros, c"{tls_version}")?,
        cipher: macro_text(macros, c"{cipher}").unwrap_or_default(),
        bits: macro_text(macros, c"{cipher_bits}").unwrap_or_default(),
    })
}

fn macro_text(macros: &Macros, name: &CStr) -> Option<String> {
    macros.get(name).map(text).filter(|value| !value.is_empty())
}

fn text(bytes: &CStr) -> String {
    bytes.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use indymilter_test::TestConnection;
    use pec_core::header::Header;
    use tokio::net::TcpListener;

    use super::*;
    use crate::KeepBody;

    /// Lets everything pass that was kept as it said.
    struct Keeping;

    impl Point for Keeping {
        type Door = KeepBody;

        fn keep_body(&self, door: KeepBody, _: &Header) -> KeepBody {
            door
        }

        fn share(&self, _: KeepBody, header: &Header) -> Share {
            if header.first("From").is_some() { Share::Users } else { Share::Strangers }
        }

        fn mail(&self, _: KeepBody, _: &Connection, _: &Transaction) -> Result<(), Reply> {
            Ok(())
        }

        fn rcpt(&self, _: KeepBody, _: &Transaction, _: &Recipient) -> Result<(), Reply> {
            Ok(())
        }

        async fn end_of_message(&self, door: KeepBody, _: &Connection, transaction: Transaction) -> Verdict {
            let as_said = match door {
                KeepBody::Pieces(_) => transaction.body.pieces().len() == 2,
                KeepBody::Whole(3) => transaction.body.is_empty() && transaction.too_large,
                KeepBody::Whole(_) => transaction.body.pieces().len() == 1,
            };
            if as_said { Verdict::pass() } else { Verdict::Wait("it was kept in another way".to_owned()) }
        }
    }

    #[tokio::test]
    async fn what_is_kept_of_a_body_does_not_wait_for_the_end_of_the_header() {
        for keeps in [KeepBody::Pieces(12), KeepBody::Whole(12), KeepBody::Whole(3)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(
                listener,
                keeps,
                Arc::new(ArcSwap::from_pointee(Keeping)),
                Underway::default(),
                Guard::default(),
                std::future::pending::<()>(),
            ));
            let mut postfix = TestConnection::open(address).await.unwrap();
            postfix.connect("client.test", [192, 0, 2, 1]).await.unwrap();
            postfix.mail(["<a@x.test>"]).await.unwrap();
            postfix.rcpt(["<b@x.test>"]).await.unwrap();
            postfix.body("Ciao\r\n").await.unwrap();
            postfix.body("Anna\r\n").await.unwrap();
            let (_, status) = postfix.eom().await.unwrap();
            assert_eq!(status, indymilter_test::Status::Continue, "{keeps:?}");
        }
    }

    #[tokio::test]
    async fn what_strangers_send_never_takes_the_last_of_the_memory() {
        let in_hand = Underway::with(Room { all: 20, strangers: 12 });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let point = Arc::new(ArcSwap::from_pointee(Keeping));
        let for_ever = std::future::pending::<()>();
        tokio::spawn(serve(
            listener,
            KeepBody::Pieces(99),
            point,
            in_hand.clone(),
            Guard::default(),
            for_ever,
        ));
        let given = async |field: &'static str| {
            let mut postfix = TestConnection::open(address).await.unwrap();
            postfix.connect("client.test", [192, 0, 2, 1]).await.unwrap();
            postfix.mail(["<a@x.test>"]).await.unwrap();
            postfix.rcpt(["<b@x.test>"]).await.unwrap();
            postfix.header(field, " a@x.test").await.unwrap();
            postfix.eoh().await.unwrap();
            for piece in ["12345678", "12345678"] {
                postfix.body(piece).await.unwrap();
            }
            let (_, status) = postfix.eom().await.unwrap();
            status == indymilter_test::Status::Continue
        };
        assert!(!given("Subject").await, "a stranger's 16 bytes");
        assert!(given("From").await, "as many of a user, while nobody else has any");
        let mut stranger = in_hand.one_more();
        assert!(stranger.hold(Share::Strangers, 8) && !stranger.hold(Share::Strangers, 8));
        assert!(!given("From").await, "together they are too many");
        drop(stranger);
        assert!(given("From").await, "it has gone");
    }
}
