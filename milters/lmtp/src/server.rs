//! The server: LMTP (RFC 2033) on a unix socket, for Postfix's `lmtp` client.
//!
//! Promise: a recipient gets 2xx after DATA only where the [`Receiver`] gave that reply for him; a panic, or
//! fewer replies than recipients, is 451 for those that have none. 354 comes only when [`Receiver::room`]
//! said yes. A message whose end did not come is not shown to the receiver; one that it has is never taken
//! from it again, and where the client does not wait for the answers, a line in the log says which are lost.
//! Nothing here says no for good because a message is too large.
//!
//! Memory of one connection before DATA: recipients times the line limit, and a buffer.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Reply;
use crate::dots::Unstuff;
use crate::grammar::{self, Command, Mail, Recipient, Unframed};
use crate::io::Stream;

/// How many commands that are none a connection may say.
const MOST_FAULTS: u32 = 20;

/// How much more than announced a message may be before more room is asked for. Postfix counts the queue
/// file, and adds fields as it delivers.
const MORE_THAN_ANNOUNCED: usize = 16 * 1024;

/// The least that is then asked for; of a large message an eighth of what has come.
const MORE_ROOM: usize = 64 * 1024;

/// How long no connection is taken after one could not be: there are no file descriptors, say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A message as the client gave it: one DATA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The queue id that Postfix gives with XFORWARD.
    pub ident: Option<String>,
    /// The sender's path without brackets; empty for the null sender.
    pub sender: String,
    /// The envelope id, decoded.
    pub envid: Option<String>,
    /// `FULL` or `HDRS`.
    pub ret: Option<String>,
    /// Those that were not refused, in the order in which they came.
    pub recipients: Vec<Recipient>,
    /// Header, empty line, body, in CRLF lines; without the dots of SMTP.
    pub data: Bytes,
}

/// What is done with messages.
pub trait Receiver: Send + Sync + 'static {
    /// What is held for a message from before it is sent until its answers are written: a share of the
    /// memory.
    type Room: Send + 'static;

    /// At RCPT TO; the error refuses the recipient. (A panic ends the connection.)
    fn recipient(&self, recipient: &Recipient, sender: &str) -> Result<(), Reply>;

    /// Before the 354 to DATA: room for as many bytes as were announced, or for the server's limit. For a
    /// message that turns out longer it is asked again, for more of them. The error refuses the message; the
    /// client waits as long as this takes.
    fn room(&self, size: u64) -> impl Future<Output = Result<Self::Room, Reply>> + Send;

    /// At the end of DATA: one reply for each recipient, in their order. Never cancelled.
    fn message(&self, message: Received) -> impl Future<Output = Vec<Reply>> + Send;
}

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest message, in bytes.
    pub message_size: u64,
    /// The most recipients of one message; the others are told to come again.
    pub recipients: usize,
    /// The longest command line. With DSN they are longer than those of RFC 5321.
    pub command_line: usize,
    /// How long the client may take for a command, for reading replies, or between two pieces of a message.
    pub idle: Duration,
    /// The most connections. One more waits until another ends.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 100 << 20,
            recipients: 1000,
            command_line: 2048,
            idle: Duration::from_secs(300),
            connections: 100,
        }
    }
}

/// Serves until `stop` resolves. Then no connection and no message is taken any more, those that wait for a
/// command get 421, and messages that have begun are finished, if that takes no longer than `grace`.
pub async fn serve<R: Receiver>(
    listener: UnixListener,
    hostname: String,
    limits: Limits,
    receiver: Arc<R>,
    stop: impl Future<Output = ()>,
    grace: Duration,
) {
    let (stopping, stopped) = watch::channel(false);
    let world = Arc::new(World { hostname, limits, receiver });
    let turns = Arc::new(Semaphore::new(world.limits.connections));
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! { biased;
            () = &mut stop => break,
            Some(ended) = connections.join_next() => note(ended),
            accepted = accept(&listener, &turns) => match accepted {
                Ok((stream, turn)) => {
                    let session = Session::new(stream, world.clone(), stopped.clone());
                    connections.spawn(async move {
                        session.run().await;
                        drop(turn);
                    });
                }
                Err(e) => {
                    tracing::error!("no LMTP connection can be taken: {e}");
                    sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    };
    if timeout(grace, all).await.is_err() {
        tracing::warn!(
            "the end does not wait for {} messages in hand: their answers are lost",
            connections.len()
        );
    }
}

async fn accept(
    listener: &UnixListener,
    turns: &Arc<Semaphore>,
) -> std::io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let turn = turns.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((listener.accept().await?.0, turn))
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended {
        tracing::error!("an LMTP connection ended by itself: {e}");
    }
}

/// What all connections share.
struct World<R> {
    hostname: String,
    limits: Limits,
    receiver: Arc<R>,
}

/// Why a connection ends.
enum End {
    /// With this as the last word.
    Said(Reply),
    /// The client is gone, or does not read.
    Gone,
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl From<Unframed> for End {
    fn from(error: Unframed) -> Self {
        Self::Said(Reply::new(500, "5.5.2", format!("Not a command: {error}")))
    }
}

fn stopping() -> End {
    End::Said(Reply::new(421, "4.3.2", "The server ends, come again"))
}

/// One connection.
struct Session<R> {
    world: Arc<World<R>>,
    stopped: watch::Receiver<bool>,
    stream: Stream,
    input: BytesMut,
    output: String,
    greeted: bool,
    faults: u32,
    ident: Option<String>,
    mail: Option<Mail>,
    recipients: Vec<Recipient>,
}

impl<R: Receiver> Session<R> {
    fn new(stream: UnixStream, world: Arc<World<R>>, stopped: watch::Receiver<bool>) -> Self {
        Self {
            world,
            stopped,
            stream: Stream::Unix(stream),
            input: BytesMut::new(),
            output: String::new(),
            greeted: false,
            faults: 0,
            ident: None,
            mail: None,
            recipients: Vec::new(),
        }
    }

    async fn run(mut self) {
        self.output = format!("220 {} LMTP\r\n", self.world.hostname);
        loop {
            if let Err(end) = self.command().await {
                if let End::Said(reply) = end {
                    self.say(&reply);
                    let _ = self.flush().await;
                }
                return;
            }
        }
    }

    /// Reads one command and answers it.
    async fn command(&mut self) -> Result<(), End> {
        let line = self.line().await?;
        match grammar::command(&line) {
            Ok(command)
                if self.greeted
                    || matches!(command, Command::Lhlo | Command::Noop | Command::Rset | Command::Quit) =>
            {
                match command {
                    Command::Lhlo => self.lhlo(),
                    Command::Xforward(_) if self.mail.is_some() => {
                        self.out_of_order("XFORWARD within a transaction")?
                    }
                    Command::Xforward(ident) => {
                        self.ident = ident.unwrap_or_else(|| self.ident.take());
                        self.say(&Reply::new(250, "2.0.0", "Ok"));
                    }
                    Command::Mail(_) if self.mail.is_some() => {
                        self.out_of_order("MAIL within a transaction")?
                    }
                    Command::Mail(mail) => self.mail(mail),
                    Command::Rcpt(recipient) => self.rcpt(recipient)?,
                    Command::Data => self.data().await?,
                    Command::Rset => {
                        self.reset();
                        self.say(&Reply::new(250, "2.0.0", "Ok"));
                    }
                    Command::Noop => self.say(&Reply::new(250, "2.0.0", "Ok")),
                    Command::Vrfy => self.say(&Reply::new(252, "2.5.0", "RCPT TO says more")),
                    Command::Quit => return Err(End::Said(Reply::new(221, "2.0.0", "Bye"))),
                }
            }
            Ok(_) => self.out_of_order("LHLO comes first")?,
            Err(reply) => self.fault(&reply)?,
        }
        Ok(())
    }

    /// Waits for a command line. What was said before goes out when there is no line to be answered with it.
    async fn line(&mut self) -> Result<BytesMut, End> {
        let idle = self.world.limits.idle;
        let more = async {
            loop {
                if let Some(length) = grammar::line(&self.input, self.world.limits.command_line)? {
                    let mut line = self.input.split_to(length + 2);
                    line.truncate(length);
                    return Ok(line);
                }
                self.flush().await?;
                tokio::select! { biased;
                    _ = self.stopped.wait_for(|stopped| *stopped) => return Err(stopping()),
                    read = self.stream.read(&mut self.input) => if !read? { return Err(End::Gone) },
                }
            }
        };
        timeout(idle, more)
            .await
            .unwrap_or_else(|_| Err(End::Said(Reply::new(421, "4.4.2", "No command within the time"))))
    }

    fn say(&mut self, reply: &Reply) {
        self.output.push_str(&reply.line());
    }

    async fn flush(&mut self) -> Result<(), End> {
        if !self.output.is_empty() {
            timeout(self.world.limits.idle, self.stream.write(self.output.as_bytes()))
                .await
                .map_err(|_| End::Gone)??;
            self.output.clear();
        }
        Ok(())
    }

    /// Refuses a command that is none, and the connection after too many.
    fn fault(&mut self, reply: &Reply) -> Result<(), End> {
        self.say(reply);
        self.faults += 1;
        if self.faults >= MOST_FAULTS {
            return Err(End::Said(Reply::new(421, "4.7.0", "Too many errors")));
        }
        Ok(())
    }

    fn out_of_order(&mut self, text: &str) -> Result<(), End> {
        self.fault(&Reply::new(503, "5.5.1", text))
    }

    fn reset(&mut self) {
        self.ident = None;
        self.mail = None;
        self.recipients = Vec::new();
    }

    fn lhlo(&mut self) {
        self.reset();
        self.greeted = true;
        let size = self.world.limits.message_size;
        let offers = ["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", &format!("SIZE {size}"), "DSN"];
        self.output.push_str(&format!("250-{}\r\n", self.world.hostname));
        self.output.extend(offers.iter().map(|offer| format!("250-{offer}\r\n")));
        self.output.push_str("250 XFORWARD IDENT\r\n");
    }

    fn mail(&mut self, mail: Mail) {
        if mail.size.is_some_and(|size| size > self.world.limits.message_size) {
            return self.say(&too_large());
        }
        self.mail = Some(mail);
        self.say(&Reply::new(250, "2.1.0", "Ok"));
    }

    fn rcpt(&mut self, recipient: Recipient) -> Result<(), End> {
        let Some(mail) = &self.mail else { return self.out_of_order("RCPT without MAIL") };
        if self.recipients.len() >= self.world.limits.recipients {
            self.say(&Reply::new(452, "4.5.3", "Too many recipients"));
        } else if let Err(reply) = self.world.receiver.recipient(&recipient, &mail.sender) {
            self.say(&honest(reply));
        } else {
            self.recipients.push(recipient);
            self.say(&Reply::new(250, "2.1.5", "Ok"));
        }
        Ok(())
    }

    /// DATA, from the command to the answers.
    async fn data(&mut self) -> Result<(), End> {
        let Some(mail) = self.mail.take().filter(|_| !self.recipients.is_empty()) else {
            self.reset();
            self.say(&Reply::new(503, "5.5.1", "No valid recipients"));
            return Ok(());
        };
        if !self.input.is_empty() {
            // A message sent on chance: refused, its lines would be read as commands.
            return Err(End::Said(Reply::new(421, "4.5.0", "DATA is the last command before its answer")));
        }
        self.flush().await?;
        let message_size = self.world.limits.message_size;
        let size = mail.size.filter(|size| *size > 0).unwrap_or(message_size);
        let room = tokio::select! { biased;
            _ = self.stopped.wait_for(|stopped| *stopped) => return Err(stopping()),
            room = self.world.receiver.room(size) => room,
        };
        let mut hold = match room {
            Ok(room) => Hold { rooms: vec![room], bytes: to_usize(size), data: Vec::new(), refused: None },
            Err(reply) => {
                self.reset();
                self.say(&honest(reply));
                return Ok(());
            }
        };
        // Bounded: MAIL with more than the limit was refused. It takes memory only as it is filled.
        hold.data.reserve(to_usize(mail.size.unwrap_or(0)).saturating_add(MORE_THAN_ANNOUNCED));
        self.say(&Reply::new(354, None, "End data with <CR><LF>.<CR><LF>"));
        self.flush().await?;
        self.body(&mut hold).await?;
        let ident = self.ident.take();
        let recipients = std::mem::take(&mut self.recipients);
        let count = recipients.len();
        let (answers, _rooms) = match hold.refused {
            Some(reply) => (vec![reply; count], hold.rooms),
            None => {
                let data = Bytes::from(hold.data);
                let message = Received {
                    ident: ident.clone(),
                    sender: mail.sender,
                    envid: mail.envid,
                    ret: mail.ret,
                    recipients,
                    data,
                };
                self.give(message, hold.rooms).await
            }
        };
        self.reset();
        answers.iter().for_each(|reply| self.say(reply));
        self.flush().await.inspect_err(|_| {
            let answers: Vec<_> = answers.iter().map(Reply::to_string).collect();
            tracing::warn!(
                "{}: the client does not wait for its answers: {}",
                ident.as_deref().unwrap_or("NOQUEUE"),
                answers.join(", ")
            );
        })
    }

    /// Reads up to the dot.
    async fn body(&mut self, hold: &mut Hold<R::Room>) -> Result<(), End> {
        let mut dots = Unstuff::default();
        let limit = to_usize(self.world.limits.message_size);
        loop {
            let data = &mut hold.data;
            let keep = hold.refused.is_none();
            let end = dots.push(&self.input, |piece| {
                if keep {
                    data.extend_from_slice(piece)
                }
            });
            match end {
                Some(read) => drop(self.input.split_to(read)),
                None => self.input.clear(),
            }
            hold.look(limit, &*self.world.receiver).await;
            if end.is_some() {
                return Ok(());
            }
            let read = timeout(self.world.limits.idle, self.stream.read(&mut self.input)).await;
            let read = read
                .map_err(|_| End::Said(Reply::new(421, "4.4.2", "Nothing of the message within the time")))?;
            if !read? {
                return Err(End::Gone);
            }
        }
    }

    /// Gives the message to the receiver, who has it to the end even if this is not waited for; the room with
    /// it.
    async fn give(&self, message: Received, rooms: Vec<R::Room>) -> (Vec<Reply>, Vec<R::Room>) {
        let (count, ident) =
            (message.recipients.len(), message.ident.clone().unwrap_or_else(|| "NOQUEUE".to_owned()));
        let receiver = self.world.receiver.clone();
        let work = tokio::spawn(async move { (receiver.message(message).await, rooms) });
        let (mut answers, rooms) = work.await.unwrap_or_else(|e| {
            tracing::error!("{ident}: delivery broke off: {e}");
            (Vec::new(), Vec::new())
        });
        if answers.len() != count {
            tracing::error!("{ident}: {} answers for {count} recipients", answers.len());
        }
        answers.resize_with(count, || Reply::new(451, "4.3.0", "Local error, come again"));
        (answers.into_iter().map(honest).collect(), rooms)
    }
}

/// What a message takes.
struct Hold<T> {
    rooms: Vec<T>,
    /// For how many bytes there is room.
    bytes: usize,
    data: Vec<u8>,
    /// Why no more of it is kept.
    refused: Option<Reply>,
}

impl<T> Hold<T> {
    /// Whether what came is within the limit and the room. Where there is no more room, the message is let
    /// go.
    async fn look<R: Receiver<Room = T>>(&mut self, limit: usize, receiver: &R) {
        if self.data.len() > limit {
            self.refused = Some(too_large());
        } else if self.data.len() > self.bytes.saturating_add(MORE_THAN_ANNOUNCED) {
            let more = self.data.len() - self.bytes + (self.data.len() / 8).max(MORE_ROOM);
            match receiver.room(more as u64).await {
                Ok(room) => {
                    self.rooms.push(room);
                    self.bytes += more;
                    self.data.reserve_exact(self.bytes + MORE_THAN_ANNOUNCED - self.data.len());
                }
                Err(reply) => self.refused = Some(honest(reply)),
            }
        }
        if self.refused.is_some() {
            self.data = Vec::new();
            self.rooms.clear();
        }
    }
}

/// Postfix would send the message back for 552, and it is not the recipient's fault.
fn too_large() -> Reply {
    Reply::new(452, "4.3.1", "The message is larger than this server takes")
}

/// A reply that ends a command: any other becomes 451.
fn honest(reply: Reply) -> Reply {
    match reply.code {
        200..=299 | 400..=599 => reply,
        code => {
            tracing::error!("{code} is no answer to a message");
            Reply::new(451, "4.3.0", "Local error, come again")
        }
    }
}

fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
