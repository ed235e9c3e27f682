//! clamd, the virus scanner, asked once for each message.
//!
//! Promise: a message counts as clean only if clamd has had it to its last byte and has then said OK. What
//! clamd will never scan, because its own limits are too low, is said apart, and so is what has more parts than
//! it is asked to take apart, which it never sees: waiting would not help. Nobody asks it without a turn. Whatever
//! else happens (nobody listens, no answer in time, an answer that nobody knows) is an error, and the mail
//! waits.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use encodify::base64;
use memchr::memchr;
use pec_core::clock::Moment;
use pec_core::header::{Field, Header};
use pec_core::message::Body;
use pec_core::mime::{self, MimeError};
use pec_host::maillog;
use pec_host::outages::{Outages, Thing};
use pec_host::parameters::Socket;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::sized;
use crate::turns::Turn;

/// How long one message may take, from connecting to the answer. Below Postfix's patience with a milter
/// (`milter_content_timeout`, 300 s).
const PATIENCE: Duration = Duration::from_secs(240);

/// The longest answer that is read, in bytes. Names of viruses are shorter.
const MOST_ANSWER: u64 = 4096;

/// What stands before each message. clamd tells mail by its first bytes, and the sender may begin his as he
/// likes: by a long field of no known name he would hide what is attached.
const BEGINNING: &[u8] = b"Received: by pec\r\n";

/// How often a clamd that does not answer at the start is asked again, and how many times: it reads its
/// signatures for half a minute before it listens.
const CHECK_AGAIN: (Duration, u32) = (Duration::from_secs(5), 60);

/// What clamd says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scan {
    /// Nothing was found.
    Clean,
    /// A virus, by its name.
    Found(String),
    /// A limit, of clamd or ours, kept it from scanning all, this one.
    NotScanned(String),
}

/// clamd could not be asked, or what it said cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("the virus scanner (clamd, {address}): {trouble}")]
pub struct ScanError {
    address: String,
    trouble: String,
}

/// The virus scanner, or none.
#[derive(Debug, Clone)]
pub struct Scanner {
    clamd: Option<Socket>,
    patience: Duration,
    outages: Outages,
}

impl Scanner {
    /// The one that listens there; `None` where the administrator has said `pec_clamd = none`.
    pub fn new(clamd: Option<Socket>) -> Self {
        Self { clamd, patience: PATIENCE, outages: Outages::default() }
    }

    /// The same; when it does not answer, `outages` hears of it.
    pub fn telling(self, outages: &Outages) -> Self {
        Self { outages: outages.clone(), ..self }
    }

    /// Scans a message in this turn.
    pub async fn scan(&self, turn: &Turn, header: &Header, body: &Body) -> Result<Scan, ScanError> {
        let is_there = self.is_there() && has_parts(header);
        if is_there && let Err(why) = sized(body.len(), || within(header, body, turn.share().most_parts())) {
            return Ok(Scan::NotScanned(format!("it is not given to it: {why}")));
        }
        self.stream(header, body).await
    }

    /// Streams a message to clamd. Nothing of it is copied but the header.
    async fn stream(&self, header: &Header, body: &Body) -> Result<Scan, ScanError> {
        let Some(socket) = &self.clamd else { return Ok(Scan::Clean) };
        let mut header = header.to_bytes();
        header.extend_from_slice(b"\r\n");
        let mut pieces = vec![Bytes::from_static(BEGINNING), Bytes::from(header)];
        pieces.extend(body.pieces().iter().cloned());
        let answer = self.ask(socket, b"zINSTREAM\0", Some(&pieces)).await?;
        judged(&answer).ok_or_else(|| self.error(socket, format!("it answered {answer:?}")))
    }

    async fn ask(
        &self,
        socket: &Socket,
        command: &[u8],
        stream: Option<&[Bytes]>,
    ) -> Result<Answer, ScanError> {
        let asking = async {
            match socket {
                Socket::Unix(path) => converse(UnixStream::connect(path).await?, command, stream).await,
                Socket::Inet(address) => {
                    let connection = TcpStream::connect(address.as_str()).await?;
                    connection.set_nodelay(true)?;
                    converse(connection, command, stream).await
                }
            }
        };
        let answered = match timeout(self.patience, asking).await {
            Ok(answered) => answered.map_err(|e| self.error(socket, e.to_string())),
            Err(_) => Err(self.error(socket, format!("no answer in {} seconds", self.patience.as_secs()))),
        };
        match &answered {
            Ok(_) => self.outages.up(Thing::Scanner),
            Err(e) => self.outages.down(Thing::Scanner, &e.to_string()),
        }
        answered
    }

    fn error(&self, socket: &Socket, trouble: String) -> ScanError {
        ScanError { address: socket.to_string(), trouble }
    }

    /// Whether there is a scanner at all.
    pub fn is_there(&self) -> bool {
        self.clamd.is_some()
    }

    /// Looks at the scanner from time to time until it answers, and writes into the log what an administrator
    /// should know. `None`: there is none, or it did not answer for so long that its messages say it.
    pub async fn check(&self, largest: u64) -> Option<Examination> {
        if !self.is_there() {
            maillog::no_scanner();
            return None;
        }
        let mut said = false;
        for _ in 0..CHECK_AGAIN.1 {
            match self.examine(largest).await {
                Ok(examination) => {
                    maillog::scanner(&examination.version);
                    if let Some((size, what)) = &examination.blind {
                        maillog::scanner_blind(*size, what);
                    }
                    return Some(examination);
                }
                Err(e) if !said => {
                    maillog::scanner_down(&e.to_string());
                    said = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(CHECK_AGAIN.0).await;
        }
        None
    }

    /// Asks the scanner for its version alone.
    pub async fn version(&self) -> Result<Examination, ScanError> {
        let Some(socket) = &self.clamd else { return Ok(Examination::default()) };
        let version = self.ask(socket, b"zVERSION\0", None).await?.text;
        Ok(Examination { signatures: signatures_of(&version), version, blind: None })
    }

    /// Asks the scanner for its version, how old its signatures are, and whether it finds a virus in messages
    /// of `largest` bytes. That is tried, with the EICAR test file: the limits that matter
    /// (`StreamMaxLength`, `MaxScanSize`, `MaxFileSize`) lie in clamd's configuration, on another host
    /// perhaps, and what exceeds the latter two counts as clean there.
    pub async fn examine(&self, largest: u64) -> Result<Examination, ScanError> {
        let mut examination = self.version().await?;
        for size in [0, largest] {
            let (header, body) = test_message(size);
            examination.blind = match self.stream(&header, &body).await? {
                Scan::Found(_) => continue,
                Scan::Clean => Some((body.len(), "finds no virus: the EICAR test file passes".to_owned())),
                Scan::NotScanned(why) => Some((body.len(), format!("does not scan: {why}"))),
            };
            break;
        }
        Ok(examination)
    }
}

/// What became of a look at the scanner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examination {
    /// As it calls itself, its signatures included.
    pub version: String,
    /// When its signatures were made; none if it has no official ones.
    pub signatures: Option<Moment>,
    /// A size of message in bytes, which is allowed, in which it does not find a virus, and what it does
    /// instead.
    pub blind: Option<(usize, String)>,
}

impl Examination {
    /// Whether the signatures are at most `max_age` old.
    pub fn is_fresh(&self, now: Moment, max_age: Duration) -> bool {
        let most = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
        self.signatures.is_some_and(|date| now.unix() - date.unix() <= most)
    }
}

/// Whether there is anything to take apart. (A clamd that finds parts in a text is bounded by turns alone.)
fn has_parts(header: &Header) -> bool {
    let is_composed = |essence: &str| essence.starts_with("multipart/") || essence == "message/rfc822";
    header.content_type().is_some_and(|media| is_composed(&media.essence))
}

/// [`mime::within`], of a body in pieces.
fn within(header: &Header, body: &Body, most: usize) -> Result<(), MimeError> {
    mime::within(header, &body.clone().into_bytes(), most)
}

/// What clamd said, and whether it had had everything by then.
#[derive(Debug)]
struct Answer {
    text: String,
    complete: bool,
}

/// One command and its answer (clamd(8), COMMANDS).
async fn converse(
    connection: impl AsyncRead + AsyncWrite,
    command: &[u8],
    stream: Option<&[Bytes]>,
) -> io::Result<Answer> {
    let (reader, mut writer) = tokio::io::split(connection);
    let mut answer = std::pin::pin!(answer(reader));
    let sending = async {
        writer.write_all(command).await?;
        for piece in stream.unwrap_or_default() {
            let length =
                u32::try_from(piece.len()).map_err(|_| io::Error::other("a piece of more than 4 GB"))?;
            writer.write_all(&length.to_be_bytes()).await?;
            writer.write_all(piece).await?;
        }
        if stream.is_some() {
            writer.write_all(&0_u32.to_be_bytes()).await?;
        }
        writer.flush().await
    };
    // clamd answers before the end where the stream is too long for it, and hangs up.
    tokio::select! {
        biased;
        sent = sending => match sent {
            Ok(()) => answer.await.map(|text| Answer { text, complete: true }),
            Err(e) => answer.await.map(|text| Answer { text, complete: false }).map_err(|_| e),
        },
        text = &mut answer => text.map(|text| Answer { text, complete: false }),
    }
}

/// An answer ends with NUL, and what happens to the connection after it is nothing to it: clamd hangs up on
/// a stream that is too long for it with bytes unread, which resets the connection. One without NUL is cut,
/// and none.
async fn answer(reader: impl AsyncRead + Unpin) -> io::Result<String> {
    let (mut reader, mut bytes) = (reader.take(MOST_ANSWER), Vec::new());
    loop {
        let before = bytes.len();
        let read = reader.read_buf(&mut bytes).await?;
        if let Some(length) = memchr(0, &bytes[before..]) {
            return Ok(String::from_utf8_lossy(&bytes[..before + length]).into_owned());
        }
        if read == 0 {
            let what = if bytes.is_empty() { "it hung up without an answer" } else { "its answer is cut" };
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
    }
}

/// What an answer to INSTREAM means; `None` if nobody knows.
fn judged(answer: &Answer) -> Option<Scan> {
    const LIMITS: &str = "Heuristics.Limits.Exceeded";
    if answer.text == "INSTREAM size limit exceeded. ERROR" {
        return Some(Scan::NotScanned("larger than its StreamMaxLength".to_owned()));
    }
    let result = answer.text.strip_prefix("stream: ").filter(|_| answer.complete)?;
    if result == "OK" {
        return Some(Scan::Clean);
    }
    let name = result.strip_suffix(" FOUND").filter(|name| !name.is_empty())?;
    let name: String = name.chars().filter(|c| c.is_ascii_graphic()).take(200).collect();
    Some(if name.starts_with(LIMITS) {
        Scan::NotScanned(format!("beyond its limits ({name})"))
    } else {
        Scan::Found(name)
    })
}

/// The date in `ClamAV 1.4.3/27456/Sat Nov 21 10:31:05 2026`; without official signatures there is none.
fn signatures_of(version: &str) -> Option<Moment> {
    Moment::from_ctime(version.split('/').nth(2)?)
}

/// A message of at least `size` bytes with the EICAR test file attached at its end.
fn test_message(size: u64) -> (Header, Body) {
    // Never as it stands: the scanners on the way of this very file would find it.
    let eicar = [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD", "ANTIVIRUS-TEST-FILE!$H+H*"].join("-");
    let mut header = Header::default();
    for (name, value) in [
        ("From", "<scanner@test.invalid>"),
        ("Subject", "Self-test of the virus scanner"),
        ("MIME-Version", "1.0"),
        ("Content-Type", "multipart/mixed; boundary=\"test\""),
    ] {
        header.push(Field::written(name, value));
    }
    let mut body = Body::from_bytes(&b"--test\r\nContent-Type: text/plain\r\n\r\n"[..]);
    // One block, many times: nothing of this size is ever in memory.
    let block = Bytes::from("a text that is long enough and means nothing\r\n".repeat(1400));
    while (body.len() as u64) < size {
        body.push(block.clone());
    }
    body.push(format!(
        "\r\n--test\r\nContent-Type: application/octet-stream; name=\"test\"\r\nContent-Transfer-Encoding: \
        base64\r\n\r\n{}\r\n--test--\r\n",
        base64::MIME.encode(eicar.as_bytes()).trim_end()
    ));
    (header, body)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncBufReadExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::Mutex;

    use super::*;
    use crate::turns::{Share, Turns};

    /// What a false clamd does with a connection.
    #[derive(Clone, Copy)]
    enum Does {
        /// Reads all of the stream, then says so.
        Say(&'static str),
        /// Says so at once and hangs up, whatever comes.
        SayAtOnce(&'static str),
        Nothing,
    }

    /// A scanner whose clamd does so; what was streamed to it is in the second.
    async fn scanner(does: Does) -> (Scanner, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = Socket::Inet(listener.local_addr().unwrap().to_string());
        let streamed = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&streamed);
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let (reader, mut writer) = connection.into_split();
                let mut reader = tokio::io::BufReader::new(reader);
                let mut command = Vec::new();
                match does {
                    Does::Say(what) => {
                        reader.read_until(0, &mut command).await.unwrap();
                        assert_eq!(command, b"zINSTREAM\0");
                        loop {
                            let mut piece = vec![0; reader.read_u32().await.unwrap() as usize];
                            if piece.is_empty() {
                                break;
                            }
                            reader.read_exact(&mut piece).await.unwrap();
                            copy.lock().await.extend(piece);
                        }
                        writer.write_all(what.as_bytes()).await.unwrap();
                    }
                    Does::SayAtOnce(what) => writer.write_all(what.as_bytes()).await.unwrap(),
                    Does::Nothing => {
                        tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.unwrap();
                    }
                }
            }
        });
        (Scanner { patience: Duration::from_secs(3), ..Scanner::new(Some(socket)) }, streamed)
    }

    fn message(size: usize) -> (Header, Body) {
        let mut body = Body::from_bytes("one\r\n");
        body.push("two\r\n");
        while body.len() < size {
            body.push(vec![b'a'; 60_000]);
        }
        (Header::parse(b"Subject: x\r\n folded\r\n").unwrap(), body)
    }

    async fn scan(does: Does, size: usize) -> Result<Scan, String> {
        let (header, body) = message(size);
        scanner(does).await.0.stream(&header, &body).await.map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn the_message_is_streamed_whole() {
        let (scanner, streamed) = scanner(Does::Say("stream: OK\0")).await;
        let (header, body) = message(0);
        assert_eq!(scanner.stream(&header, &body).await.unwrap(), Scan::Clean);
        assert_eq!(
            *streamed.lock().await,
            b"Received: by pec\r\nSubject: x\r\n folded\r\n\r\none\r\ntwo\r\n"
        );
    }

    #[tokio::test]
    async fn what_clamd_says_is_understood() {
        let found = Scan::Found("Eicar-Test-Signature".into());
        assert_eq!(scan(Does::Say("stream: Eicar-Test-Signature FOUND\0"), 0).await, Ok(found));
        let limits = scan(Does::Say("stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND\0"), 0).await;
        assert_eq!(
            limits,
            Ok(Scan::NotScanned("beyond its limits (Heuristics.Limits.Exceeded.MaxFileSize)".into()))
        );
        let too_large = Ok(Scan::NotScanned("larger than its StreamMaxLength".into()));
        assert_eq!(scan(Does::Say("INSTREAM size limit exceeded. ERROR\0"), 0).await, too_large);
        assert_eq!(
            scan(Does::SayAtOnce("INSTREAM size limit exceeded. ERROR\0"), 8_000_000).await,
            too_large
        );
    }

    #[tokio::test]
    async fn whatever_else_it_says_is_an_error() {
        for said in [
            "stream: OK",
            "",
            "\0",
            "OK\0",
            "stream: \0",
            "stream:  FOUND\0",
            "stream: ok\0",
            "stream: Can't allocate memory ERROR\0",
            "COMMAND READ TIMED OUT\0",
            "UNKNOWN COMMAND\0",
        ] {
            let scanned = scan(Does::Say(said), 0).await;
            assert!(scanned.is_err(), "{said:?}: {scanned:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_before_the_end_clears_nobody() {
        for said in ["stream: OK\0", "stream: X FOUND\0", ""] {
            let scanned = scan(Does::SayAtOnce(said), 8_000_000).await;
            assert!(scanned.is_err(), "{said:?}: {scanned:?}");
        }
    }

    #[tokio::test]
    async fn a_scanner_that_resets_the_connection_after_its_answer_has_answered() {
        // It reads a little of a long stream, answers, and hangs up with the rest unread: the kernel resets
        // the connection.
        for over in ["tcp", "unix"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("clamd.ctl");
            let said = b"INSTREAM size limit exceeded. ERROR\0";
            let socket = if over == "tcp" {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::spawn(async move {
                    let (mut connection, _) = listener.accept().await.unwrap();
                    connection.read_exact(&mut [0; 100]).await.unwrap();
                    connection.write_all(said).await.unwrap();
                });
                Socket::Inet(address.to_string())
            } else {
                let listener = tokio::net::UnixListener::bind(&path).unwrap();
                tokio::spawn(async move {
                    let (mut connection, _) = listener.accept().await.unwrap();
                    connection.read_exact(&mut [0; 100]).await.unwrap();
                    connection.write_all(said).await.unwrap();
                });
                Socket::Unix(path)
            };
            let (header, body) = message(8_000_000);
            let scanned = Scanner::new(Some(socket)).stream(&header, &body).await;
            let too_large = Scan::NotScanned("larger than its StreamMaxLength".to_owned());
            assert_eq!(scanned.unwrap(), too_large, "over {over}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_has_too_many_parts_never_reaches_it() {
        let header = Header::parse(b"Content-Type: multipart/mixed; boundary=b\r\n").unwrap();
        let parts = |n: usize| Body::from_bytes("--b\r\n\r\nx\r\n".repeat(n));
        let turns = Turns::default();
        for (share, most) in [(Share::Strangers, 1_000), (Share::Users, 10_000), (Share::Certified, 10_000)] {
            let (scanner, streamed) = scanner(Does::Say("stream: OK\0")).await;
            let turn = turns.wait(share).await.unwrap();
            let why = format!("it is not given to it: more than {most} parts");
            let scanned = scanner.scan(&turn, &header, &parts(most + 2)).await.unwrap();
            assert_eq!(scanned, Scan::NotScanned(why));
            assert!(streamed.lock().await.is_empty(), "{share:?}");
            assert_eq!(scanner.scan(&turn, &header, &parts(most)).await.unwrap(), Scan::Clean, "{share:?}");
        }
    }

    #[tokio::test]
    async fn silence_and_a_closed_door_are_errors() {
        let error = scan(Does::Nothing, 0).await.unwrap_err();
        assert!(error.ends_with("no answer in 3 seconds"), "{error}");
        let (header, body) = message(0);
        for nobody in [Socket::Inet("127.0.0.1:1".into()), Socket::Unix("/nowhere/clamd.ctl".into())] {
            assert!(Scanner::new(Some(nobody)).stream(&header, &body).await.is_err());
        }
        assert_eq!(
            Scanner::new(None).stream(&header, &body).await.unwrap(),
            Scan::Clean,
            "deliberately none"
        );
    }

    #[test]
    fn rfc6109_5_4_the_date_of_the_signatures() {
        assert!(signatures_of("ClamAV 1.4.3/27456/Sat Nov 21 10:31:05 2026").is_some());
        assert!(signatures_of("ClamAV 1.4.3/27456/Sun Nov  1 10:31:05 2026").is_some());
        assert_eq!(signatures_of("ClamAV 1.4.3"), None);
    }

    #[test]
    fn the_test_message_is_as_large_as_wanted() {
        for size in [0, 100_000, 5_000_000] {
            let (_, body) = test_message(size);
            assert!((size..size + 70_000).contains(&(body.len() as u64)));
        }
    }
}
