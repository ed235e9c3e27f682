//! One connection of the client's: LHLO, envelope, message, and what is heard of them.
//!
//! Promise: a reply is taken for that to one command only, the one whose turn it is. After anything else (a
//! reply too many, too late, or none that can be read) the connection is not used again.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memchr_iter;
use tokio::time::{Instant, timeout};

use crate::client::{Answer, Options, Outgoing, Protocol, Step};
use crate::dots::Stuff;
use crate::grammar::{self, Said, is_word, xtext};
use crate::io::Stream;
use crate::{Peer, Reply};

/// How long the answer to RSET is waited for, before the connection is closed instead of kept.
const RESET: Duration = Duration::from_secs(10);

/// How many bytes of a message are written at once.
const WRITE: usize = 64 * 1024;

/// What a connection is for.
pub(crate) enum Work<'a> {
    Give(&'a Outgoing<'a>, Shape),
    Ask(&'a str),
}

/// What MAIL says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    size: usize,
    is_eight_bit: bool,
}

impl Shape {
    /// None if it has a bare LF.
    pub(crate) fn of(pieces: &[Bytes]) -> Option<Self> {
        let mut shape = Self { size: 0, is_eight_bit: false };
        let mut last = None;
        let mut whole = true;
        for piece in pieces.iter().filter(|p| !p.is_empty()) {
            for lf in memchr_iter(b'\n', piece) {
                let before = if lf == 0 { last } else { piece.get(lf - 1) };
                (before == Some(&b'\r')).then_some(())?;
            }
            last = piece.last();
            whole = last == Some(&b'\n');
            shape.size += piece.len();
            shape.is_eight_bit |= !piece.is_ascii();
        }
        shape.size += if whole { 0 } else { 2 };
        Some(shape)
    }
}

/// How a connection broke.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Before it said anything.
    Dead(String),
    /// Before the message's last line was sent.
    Before(String),
    /// After.
    After(String),
}

/// Why there is no reply.
struct NoReply {
    /// Whether the other side has closed.
    closed: bool,
    trouble: String,
}

impl NoReply {
    fn closed(trouble: String) -> Self {
        Self { closed: true, trouble }
    }

    fn odd(trouble: String) -> Self {
        Self { closed: false, trouble }
    }
}

/// What the server offers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Offers {
    pipelining: bool,
    eight_bit: bool,
    size: bool,
    dsn: bool,
    xforward_ident: bool,
}

impl Offers {
    fn read(said: &Said) -> Self {
        let mut offers = Self::default();
        for line in said.lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => offers.pipelining = true,
                "8BITMIME" => offers.eight_bit = true,
                "SIZE" => offers.size = true,
                "DSN" => offers.dsn = true,
                "XFORWARD" => offers.xforward_ident = words.any(|word| word.eq_ignore_ascii_case("IDENT")),
                _ => {}
            }
        }
        offers
    }
}

/// A connection that has said LHLO.
pub(crate) struct Connection {
    stream: Stream,
    input: BytesMut,
    offers: Offers,
    pub(crate) made: Instant,
}

impl Connection {
    /// Connects and says LHLO or EHLO.
    pub(crate) async fn open(
        peer: &Peer,
        protocol: Protocol,
        hostname: &str,
        options: &Options,
    ) -> Result<Self, String> {
        if !is_word(hostname) {
            return Err(format!("{hostname:?} is no host name"));
        }
        let stream = Stream::connect(peer).await.map_err(|e| format!("no connection: {e}"))?;
        let mut connection =
            Self { stream, input: BytesMut::new(), offers: Offers::default(), made: Instant::now() };
        let verb = match protocol {
            Protocol::Lmtp => "LHLO",
            Protocol::Smtp => "EHLO",
        };
        connection
            .hear("the connection", options.greeting)
            .await
            .map_err(|e| e.trouble)
            .and_then(|said| expect(said, 220, "the connection"))?;
        connection.write(&format!("{verb} {hostname}\r\n"), options.greeting).await.map_err(|e| e.trouble)?;
        let said = connection
            .hear(verb, options.greeting)
            .await
            .map_err(|e| e.trouble)
            .and_then(|said| expect(said, 250, verb))?;
        connection.offers = Offers::read(&said);
        Ok(connection)
    }

    /// The commands of an envelope, and what they are a step of, as far as the server offers their words.
    fn commands(&self, work: &Work<'_>) -> Vec<(Option<Step>, String)> {
        let Offers { eight_bit, size, dsn, xforward_ident, .. } = self.offers;
        let (message, shape) = match work {
            Work::Ask(recipient) => {
                return vec![
                    (Some(Step::Sender), "MAIL FROM:<>\r\n".to_owned()),
                    (Some(Step::Recipient), format!("RCPT TO:<{recipient}>\r\n")),
                ];
            }
            Work::Give(message, shape) => (message, shape),
        };
        let word = |offered: bool, name: &str, value: Option<String>| {
            value.filter(|_| offered).map(|v| format!(" {name}={v}")).unwrap_or_default()
        };
        let owned = str::to_owned;
        let mut mail = format!("MAIL FROM:<{}>", message.sender);
        mail += &word(size, "SIZE", Some(shape.size.to_string()));
        mail += &word(eight_bit, "BODY", shape.is_eight_bit.then(|| owned("8BITMIME")));
        mail += &word(dsn, "RET", message.ret.map(owned));
        mail += &word(dsn, "ENVID", message.envid.map(xtext));
        let rcpt =
            format!("RCPT TO:<{}>{}\r\n", message.recipient, word(dsn, "NOTIFY", message.notify.map(owned)));
        let cause = message
            .ident
            .filter(|_| xforward_ident)
            .map(|ident| (None, format!("XFORWARD IDENT={}\r\n", xtext(ident))));
        cause
            .into_iter()
            .chain([(Some(Step::Sender), mail + "\r\n"), (Some(Step::Recipient), rcpt)])
            .collect()
    }

    /// Says the commands of an envelope, all at once where that is offered. The answer is the first that is
    /// no, or RCPT's; and whether all that was said is answered.
    pub(crate) async fn envelope(
        &mut self,
        work: &Work<'_>,
        options: &Options,
        kept: bool,
    ) -> Result<(Answer, bool), Broken> {
        let commands = &self.commands(work);
        let mut answer: Option<Answer> = None;
        let mut first = kept;
        let broken = |first: bool, e: NoReply| {
            if first && e.closed { Broken::Dead(e.trouble) } else { Broken::Before(e.trouble) }
        };
        let pipelining = self.offers.pipelining;
        if pipelining {
            let all: String = commands.iter().map(|(_, text)| text.as_str()).collect();
            self.write(&all, options.command).await.map_err(|e| broken(first, e))?;
        }
        for (at, text) in commands {
            let name = text.trim_end();
            if let Some(answer) = &answer {
                // Its word is said. What it says to the rest is only waited for, that it is not taken for
                // something else.
                if pipelining && self.hear(name, options.command.min(RESET)).await.is_err() {
                    return Ok((answer.clone(), false));
                }
                continue;
            }
            if !pipelining {
                self.write(text, options.command).await.map_err(|e| broken(first, e))?;
            }
            let reply = Reply::from(self.hear(name, options.command).await.map_err(|e| broken(first, e))?);
            match (reply.code, at) {
                (421, _) if first => return Err(Broken::Dead(format!("answers {name}: {reply}"))),
                // It ends here, whatever it was asked besides.
                (421, _) => return Ok((Answer { reply, at: at.unwrap_or(Step::Sender) }, false)),
                // XFORWARD: which message it comes from is for the server's log only.
                (200..=299 | 400..=599, None) | (200..=299, Some(Step::Sender)) => {}
                (200..=299 | 400..=599, Some(at)) => answer = Some(Answer { reply, at: *at }),
                _ => return Err(Broken::Before(format!("answers {name}: {reply}"))),
            }
            first = false;
        }
        answer.map(|answer| (answer, true)).ok_or_else(|| Broken::Before("no answer".to_owned()))
    }

    /// DATA, the message, what the server says to it, and whether the connection is then as at its beginning.
    pub(crate) async fn message(
        &mut self,
        message: &Outgoing<'_>,
        options: &Options,
    ) -> Result<(Answer, bool), Broken> {
        let before = |e: NoReply| Broken::Before(e.trouble);
        self.write("DATA\r\n", options.command).await.map_err(before)?;
        let reply = Reply::from(self.hear("DATA", options.command).await.map_err(before)?);
        match reply.code {
            354 => {}
            400..=599 => return Ok(self.reset(Answer { reply, at: Step::Data }, options).await),
            _ => return Err(Broken::Before(format!("answers DATA: {reply}"))),
        }
        if let Err(e) = self.body(message.pieces, options).await {
            return self.early().unwrap_or(Err(Broken::Before(e.trouble)));
        }
        if let Some(early) = self.early() {
            return early;
        }
        let after = |e: NoReply| Broken::After(e.trouble);
        self.write(".\r\n", options.data).await.map_err(after)?;
        let reply = Reply::from(self.hear("the message", options.answer).await.map_err(after)?);
        match reply.code {
            // RFC 5321 s. 3.8 has it mean no. Dovecot 2.3 says it at a reload, of messages that it has saved
            // (tried).
            421 => Err(Broken::After(format!("answers the message: {reply}"))),
            200..=299 | 400..=599 => Ok((Answer { reply, at: Step::Message }, true)),
            _ => Err(Broken::After(format!("answers the message: {reply}"))),
        }
    }

    /// Writes all but the last line, the dot.
    async fn body(&mut self, pieces: &[Bytes], options: &Options) -> Result<(), NoReply> {
        let mut stuff = Stuff::default();
        let mut out = Vec::with_capacity(2 * WRITE);
        for chunk in pieces.iter().flat_map(|piece| piece.chunks(WRITE)) {
            stuff.push(chunk, &mut out);
            if out.len() >= WRITE {
                self.write_bytes(&out, options.data).await?;
                out.clear();
            }
        }
        stuff.end(&mut out);
        self.write_bytes(&out, options.data).await
    }

    /// What the server said before it could know the message: a no counts, a yes does not.
    fn early(&mut self) -> Option<Result<(Answer, bool), Broken>> {
        self.stream.read_now(&mut self.input);
        match grammar::reply(&self.input) {
            _ if self.input.is_empty() => None,
            Ok(Some((said, _))) if said.code >= 400 => {
                Some(Ok((Answer { reply: said.into(), at: Step::Message }, false)))
            }
            _ => {
                Some(Err(Broken::Before(format!("speaks within the message: {}", self.input.escape_ascii()))))
            }
        }
    }

    /// Ends a transaction without message. The answer stands, whatever the server says now; and whether the
    /// connection is then as at its beginning.
    pub(crate) async fn reset(&mut self, answer: Answer, options: &Options) -> (Answer, bool) {
        let limit = options.command.min(RESET);
        let fresh = answer.reply.code != 421
            && self.write("RSET\r\n", limit).await.is_ok()
            && self.hear("RSET", limit).await.is_ok_and(|said| said.code == 250);
        (answer, fresh)
    }

    /// Says something to which a reply is due. What is there before cannot be it.
    async fn write(&mut self, text: &str, limit: Duration) -> Result<(), NoReply> {
        if !self.input.is_empty() {
            return Err(NoReply::odd(format!("speaks unasked: {}", self.input.escape_ascii())));
        }
        self.write_bytes(text.as_bytes(), limit).await
    }

    async fn write_bytes(&mut self, bytes: &[u8], limit: Duration) -> Result<(), NoReply> {
        match timeout(limit, self.stream.write(bytes)).await {
            Ok(written) => written.map_err(|e| NoReply::closed(e.to_string())),
            Err(_) => Err(NoReply::odd(format!("does not read within {} s", limit.as_secs_f32()))),
        }
    }

    /// The reply to `what`.
    async fn hear(&mut self, what: &str, limit: Duration) -> Result<Said, NoReply> {
        let whole = async {
            loop {
                if let Some((said, length)) =
                    grammar::reply(&self.input).map_err(|e| NoReply::odd(format!("answers {what}: {e}")))?
                {
                    self.input.advance(length);
                    return Ok(said);
                }
                let closed = match self.stream.read(&mut self.input).await {
                    Ok(true) => continue,
                    Ok(false) => "closed the connection".to_owned(),
                    Err(e) => e.to_string(),
                };
                return Err(NoReply::closed(format!("no answer to {what}: {closed}")));
            }
        };
        timeout(limit, whole).await.unwrap_or_else(|_| {
            Err(NoReply::odd(format!("no answer to {what} within {} s", limit.as_secs_f32())))
        })
    }

    /// Whether the server has closed, or said something unasked.
    pub(crate) fn has_news(&mut self) -> bool {
        self.stream.read_now(&mut self.input) || !self.input.is_empty()
    }

    /// Whether there is nothing that it said and nobody heard.
    pub(crate) fn is_silent(&self) -> bool {
        self.input.is_empty()
    }

    /// Ends it between two transactions.
    pub(crate) fn quit(self) {
        self.stream.write_now(b"QUIT\r\n");
    }
}

/// A reply with this code, or the trouble that it is another.
fn expect(said: Said, code: u16, what: &str) -> Result<Said, String> {
    if said.code == code { Ok(said) } else { Err(format!("answers {what}: {}", Reply::from(said))) }
}
