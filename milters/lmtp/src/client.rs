//! The client: gives one message to one recipient, by LMTP to a mailbox server or by SMTP to Postfix.
//!
//! Promise: `Ok` is the server's own word about this recipient. An error says that there was none, and one of
//! two things beside: [`Failure::NotGiven`], the server cannot have the message, since its last line was not
//! sent; or [`Failure::Unknown`], it may have it. Nothing is sent that the envelope's words do not mean: what
//! has CR, LF or other bytes of no path in it is refused before. Messages go as they are: dots are doubled,
//! and a last line without CRLF gets one; a bare LF, which some servers take for the end of a line, is
//! refused.
//!
//! Never are more than `connections` open, kept ones among them, and whoever has waited longest is next.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout};

use crate::connection::{Broken, Connection, Shape, Work};
use crate::grammar::{self, is_notify, is_path, is_printable, is_word};
use crate::{Peer, Reply};

/// The longest path that is sent (RFC 5321 s. 4.5.3.1: 64 octets, `@`, 255 octets).
const MOST_PATH: usize = 320;

/// LMTP or SMTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// LHLO, and one answer after the dot for each recipient that was taken.
    Lmtp,
    /// EHLO, and one answer after the dot.
    Smtp,
}

/// The bounds of a client.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many connections are open at most; fewer than the server takes.
    pub connections: usize,
    /// How long one waits for one's turn.
    pub turn: Duration,
    /// How long connecting, the greeting and LHLO may take together.
    pub greeting: Duration,
    /// How long the answer to each command before the message may take.
    pub command: Duration,
    /// How long each write of a piece of the message may take.
    pub data: Duration,
    /// How long the answer to the message may take. A mailbox may be locked.
    pub answer: Duration,
    /// How long a connection is kept that nobody uses.
    pub idle: Duration,
    /// How old a connection may be when it is used again.
    pub age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connections: 10,
            turn: seconds(60),
            greeting: seconds(30),
            command: seconds(200),
            data: seconds(60),
            answer: seconds(480),
            idle: seconds(10),
            age: seconds(60),
        }
    }
}

/// A message and its envelope.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The sender's path without brackets; empty for the null sender.
    pub sender: &'a str,
    /// The recipient's.
    pub recipient: &'a str,
    /// `ENVID=`, not encoded. This and the next two go where the server offers DSN.
    pub envid: Option<&'a str>,
    /// `RET=`: `FULL` or `HDRS`.
    pub ret: Option<&'a str>,
    /// `NOTIFY=`: `NEVER`, or words separated by commas.
    pub notify: Option<&'a str>,
    /// `IDENT=` of XFORWARD, where the server offers it.
    pub ident: Option<&'a str>,
    /// The message, in order: CRLF lines.
    pub pieces: &'a [Bytes],
}

/// Which command was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// MAIL FROM, or XFORWARD before it, if the server ends there.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA.
    Data,
    /// The message.
    Message,
}

/// The server's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it said: 2xx, which is to the message; or 4xx or 5xx.
    pub reply: Reply,
    /// To what.
    pub at: Step,
}

/// Why there is no word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// All connections were in use; nothing was sent.
    #[error("{peer}: all connections were in use for {} s", .turn.as_secs_f32())]
    Busy {
        /// The server.
        peer: Peer,
        /// How long that was waited for.
        turn: Duration,
    },
    /// The server does not have the message.
    #[error("{peer}: {trouble}")]
    NotGiven {
        /// The server.
        peer: Peer,
        /// What happened.
        trouble: String,
    },
    /// The server may have the message: no answer to its last line came, or 421, by which servers end.
    #[error("{peer}, which may have taken the message: {trouble}")]
    Unknown {
        /// The server.
        peer: Peer,
        /// What happened.
        trouble: String,
    },
}

impl Failure {
    /// Whether the server may have the message all the same.
    pub fn may_have_it(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// A server, and the connections to it.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    peer: Peer,
    protocol: Protocol,
    hostname: String,
    options: Options,
    turns: Semaphore,
    kept: Mutex<Kept>,
}

/// The connections that nobody uses, the last used last.
#[derive(Default)]
struct Kept {
    connections: VecDeque<(Instant, Connection)>,
    /// Whether a task closes those that are kept long enough.
    is_watched: bool,
}

impl Pool {
    /// No connection is made yet. `hostname` is what LHLO or EHLO says.
    pub fn new(peer: Peer, protocol: Protocol, hostname: String, options: Options) -> Self {
        let turns = Semaphore::new(options.connections);
        Self(Arc::new(Shared { peer, protocol, hostname, options, turns, kept: Mutex::default() }))
    }

    /// Gives a message to its recipient. If this is not waited for to its end, nothing is known, as in
    /// [`Failure::Unknown`].
    pub async fn give(&self, message: Outgoing<'_>) -> Result<Answer, Failure> {
        match self.offer(message).await? {
            Offered::Refused(answer) => Ok(answer),
            Offered::Accepted(accepted) => accepted.give().await,
        }
    }

    /// Offers a message to its recipient: all but the message is said.
    pub async fn offer<'a>(&'a self, message: Outgoing<'a>) -> Result<Offered<'a>, Failure> {
        let (under_way, answer, in_step) =
            self.begin(Work::Give(&message, self.shape(&message)?), false).await?;
        Ok(if answer.reply.is_yes() {
            Offered::Accepted(Accepted { under_way, message })
        } else {
            Offered::Refused(under_way.end(answer, in_step).await)
        })
    }

    /// Whether a message from the null sender to this recipient would be taken: the answer to RCPT TO.
    pub async fn ask(&self, recipient: &str) -> Result<Reply, Failure> {
        self.ask_on(recipient, false).await
    }

    /// The same, on a connection of its own: what one process of the server has wrong, another may have
    /// right.
    pub async fn ask_anew(&self, recipient: &str) -> Result<Reply, Failure> {
        self.ask_on(recipient, true).await
    }

    async fn ask_on(&self, recipient: &str, anew: bool) -> Result<Reply, Failure> {
        if !is_sendable(recipient) || recipient.is_empty() {
            return Err(self.not_given(format!("{recipient:?} is no recipient")));
        }
        let (under_way, answer, in_step) = self.begin(Work::Ask(recipient), anew).await?;
        match under_way.end(answer, in_step).await {
            Answer { reply, at: Step::Recipient } => Ok(reply),
            // That says nothing of the recipient.
            Answer { reply, .. } => Err(self.not_given(format!("answers MAIL FROM:<>: {reply}"))),
        }
    }

    /// Looks through what is to be sent, before anything is.
    fn shape(&self, message: &Outgoing<'_>) -> Result<Shape, Failure> {
        let is_each = |word: Option<&str>, is: &dyn Fn(&str) -> bool| word.is_none_or(is);
        let wrong = match message {
            m if !is_sendable(m.sender) => format!("{:?} is no sender", m.sender),
            m if !is_sendable(m.recipient) || m.recipient.is_empty() => {
                format!("{:?} is no recipient", m.recipient)
            }
            m if !is_each(m.envid, &|e| is_printable(e) && (1..=grammar::MOST_ENVID).contains(&e.len())) => {
                format!("{:?} is no ENVID", m.envid)
            }
            m if !is_each(m.ret, &|r| matches!(r, "FULL" | "HDRS")) => format!("{:?} is no RET", m.ret),
            m if !is_each(m.notify, &is_notify) => format!("{:?} is no NOTIFY", m.notify),
            m if !is_each(m.ident, &|i| is_word(i) && i.len() <= MOST_PATH) => {
                format!("{:?} is no IDENT", m.ident)
            }
            m => match Shape::of(m.pieces) {
                Some(shape) => return Ok(shape),
                None => "the message has a bare LF in it".to_owned(),
            },
        };
        Err(self.not_given(wrong))
    }

    fn not_given(&self, trouble: String) -> Failure {
        Failure::NotGiven { peer: self.0.peer.clone(), trouble }
    }

    /// Says the envelope; with the answer, and whether all that was said is answered.
    async fn begin(&self, work: Work<'_>, anew: bool) -> Result<(UnderWay<'_>, Answer, bool), Failure> {
        let Shared { peer, protocol, hostname, options, turns, .. } = &*self.0;
        let Ok(Ok(turn)) = timeout(options.turn, turns.acquire()).await else {
            return Err(Failure::Busy { peer: peer.clone(), turn: options.turn });
        };
        if let Some(mut connection) = self.take(anew) {
            match connection.envelope(&work, options, true).await {
                // Nothing was given yet, and servers may close what is idle.
                Err(Broken::Dead(trouble)) => {
                    tracing::debug!("{peer}: a kept connection was closed: {trouble}")
                }
                said => {
                    let (answer, in_step) = said.map_err(|broken| self.failure(broken))?;
                    return Ok((UnderWay { pool: self, connection, _turn: turn }, answer, in_step));
                }
            }
        }
        let open = Connection::open(peer, *protocol, hostname, options);
        let connection = timeout(options.greeting, open)
            .await
            .unwrap_or_else(|_| Err("no greeting within the time".to_owned()));
        let mut connection = connection.map_err(|trouble| self.not_given(trouble))?;
        let (answer, in_step) =
            connection.envelope(&work, options, false).await.map_err(|broken| self.failure(broken))?;
        Ok((UnderWay { pool: self, connection, _turn: turn }, answer, in_step))
    }

    /// A kept connection that may be used. With `anew` there is none, and one less is open.
    fn take(&self, anew: bool) -> Option<Connection> {
        let mut kept = self.0.kept();
        if anew {
            if let Some((_, connection)) = kept.connections.pop_front() {
                connection.quit();
            }
            return None;
        }
        while let Some((since, mut connection)) = kept.connections.pop_back() {
            if since.elapsed() < self.0.options.idle
                && connection.made.elapsed() < self.0.options.age
                && !connection.has_news()
            {
                return Some(connection);
            }
            connection.quit();
        }
        None
    }

    fn failure(&self, broken: Broken) -> Failure {
        match broken {
            Broken::Dead(trouble) | Broken::Before(trouble) => self.not_given(trouble),
            Broken::After(trouble) => Failure::Unknown { peer: self.0.peer.clone(), trouble },
        }
    }

    /// Keeps a connection, if it is as it was at its beginning.
    fn keep(&self, connection: Connection, fresh: bool) {
        if fresh && connection.is_silent() {
            let mut kept = self.0.kept();
            kept.connections.push_back((Instant::now(), connection));
            if !std::mem::replace(&mut kept.is_watched, true) {
                tokio::spawn(watch(self.0.clone()));
            }
        }
    }
}

/// A connection in the middle of a transaction. Dropped, it is closed.
struct UnderWay<'a> {
    pool: &'a Pool,
    connection: Connection,
    _turn: SemaphorePermit<'a>,
}

impl UnderWay<'_> {
    /// There is no message, or none any more.
    async fn end(mut self, answer: Answer, in_step: bool) -> Answer {
        let (answer, fresh) =
            if in_step { self.connection.reset(answer, &self.pool.0.options).await } else { (answer, false) };
        self.pool.keep(self.connection, fresh);
        answer
    }
}

/// What the server says to an envelope.
pub enum Offered<'a> {
    /// 4xx or 5xx, to one of its commands.
    Refused(Answer),
    /// It waits for the message.
    Accepted(Accepted<'a>),
}

/// A message for a recipient whom the server takes. As long as it is not given, the server has nothing of it;
/// dropped, that stays so.
pub struct Accepted<'a> {
    under_way: UnderWay<'a>,
    message: Outgoing<'a>,
}

impl Accepted<'_> {
    /// Gives the message. If this is not waited for to its end, nothing is known, as in [`Failure::Unknown`].
    pub async fn give(self) -> Result<Answer, Failure> {
        // What is bound last is dropped first: the connection, and then somebody else has the turn.
        let UnderWay { pool, _turn, mut connection } = self.under_way;
        let (answer, fresh) = connection
            .message(&self.message, &pool.0.options)
            .await
            .map_err(|broken| pool.failure(broken))?;
        pool.keep(connection, fresh);
        Ok(answer)
    }
}

/// Closes connections that nobody used for long enough.
async fn watch(shared: Arc<Shared>) {
    loop {
        let next = {
            let mut kept = shared.kept();
            let idle = shared.options.idle;
            while let Some((_, connection)) =
                kept.connections.pop_front_if(|(since, _)| since.elapsed() >= idle)
            {
                connection.quit();
            }
            match kept.connections.front() {
                Some((since, _)) => *since + idle,
                None => {
                    kept.is_watched = false;
                    return;
                }
            }
        };
        sleep_until(next).await;
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_sendable(path: &str) -> bool {
    path.len() <= MOST_PATH && is_path(path)
}
