//! The server as a client sees it, byte by byte.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::Future;
use std::io::Write;
use std::panic::panic_any;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pec_lmtp::{Limits, Received, Receiver, Recipient, Reply, serve};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

type Replies = Box<dyn Fn(&Received) -> Vec<Reply> + Send + Sync>;

/// A receiver that notes what it gets, and can be made to take long.
struct Desk {
    replies: Replies,
    /// A message waits for one of these.
    go: Semaphore,
    begun: Semaphore,
    received: Mutex<Vec<Received>>,
    rooms: Mutex<Vec<u64>>,
    most_room: u64,
    held: Arc<AtomicUsize>,
}

struct Room(Arc<AtomicUsize>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Desk {
    fn new(replies: impl Fn(&Received) -> Vec<Reply> + Send + Sync + 'static) -> Self {
        Self {
            replies: Box::new(replies),
            go: Semaphore::new(1_000_000),
            begun: Semaphore::new(0),
            received: Mutex::default(),
            rooms: Mutex::default(),
            most_room: u64::MAX,
            held: Arc::default(),
        }
    }

    /// Says yes to everything.
    fn yes() -> Self {
        Self::new(|message| {
            message
                .recipients
                .iter()
                .map(|r| Reply::new(250, "2.0.0", format!("<{}> Saved", r.path)))
                .collect()
        })
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

impl Receiver for Desk {
    type Room = Room;

    fn recipient(&self, recipient: &Recipient, _: &str) -> Result<(), Reply> {
        match recipient.path.as_str() {
            "nobody@alfa.test" => Err(Reply::new(550, "5.1.1", "No such user\r\n250 Ok")),
            _ => Ok(()),
        }
    }

    fn room(&self, size: u64) -> impl Future<Output = Result<Room, Reply>> + Send {
        self.rooms.lock().unwrap().push(size);
        let room = if size > self.most_room {
            Err(Reply::new(451, "4.3.2", "No memory now"))
        } else {
            Ok(Room(self.held.clone()))
        };
        if room.is_ok() {
            self.held.fetch_add(1, Ordering::SeqCst);
        }
        std::future::ready(room)
    }

    async fn message(&self, message: Received) -> Vec<Reply> {
        self.begun.add_permits(1);
        self.go.acquire().await.unwrap().forget();
        let replies = (self.replies)(&message);
        self.received.lock().unwrap().push(message);
        replies
    }
}

struct Server {
    path: PathBuf,
    desk: Arc<Desk>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start(desk: Desk, limits: Limits, grace: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lmtp");
        let listener = UnixListener::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel();
        let desk = Arc::new(desk);
        let stopped = async { drop(stopped.await) };
        let ended =
            tokio::spawn(serve(listener, "mail.alfa.test".to_owned(), limits, desk.clone(), stopped, grace));
        Self { path, desk, stop: Some(stop), ended, _directory: directory }
    }

    fn new(desk: Desk) -> Self {
        Self::start(desk, Limits::default(), LONG)
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// A client that has heard the greeting.
    async fn connect(&self) -> Client {
        let mut client = Client { stream: BufReader::new(UnixStream::connect(&self.path).await.unwrap()) };
        client.hear("220 mail.alfa.test LMTP").await;
        client
    }

    /// A client that has said LHLO.
    async fn client(&self) -> Client {
        let mut client = self.connect().await;
        client.say("LHLO mail.alfa.test\r\n").await;
        client.hear_lines(7).await;
        client
    }
}

struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    async fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(LONG, self.stream.read_line(&mut line)).await.expect("an answer").unwrap();
        line.trim_end_matches("\r\n").to_owned()
    }

    /// The next line is this one.
    async fn hear(&mut self, line: &str) {
        assert_eq!(self.line().await, line);
    }

    async fn hear_lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }

    /// The next lines have these codes.
    async fn hear_codes(&mut self, codes: &str) {
        let lines = self.hear_lines(codes.split(' ').count()).await;
        assert_eq!(
            lines.iter().map(|l| l.get(..3).unwrap_or("end")).collect::<Vec<_>>().join(" "),
            codes,
            "{lines:?}"
        );
    }

    async fn ask(&mut self, command: &str, codes: &str) {
        self.say(&format!("{command}\r\n")).await;
        self.hear_codes(codes).await;
    }

    async fn hear_end(&mut self) {
        let mut rest = String::new();
        timeout(LONG, self.stream.read_to_string(&mut rest)).await.expect("the end").unwrap();
        assert_eq!(rest, "");
    }

    /// An envelope to these, up to the 354.
    async fn begin(&mut self, recipients: &[&str]) {
        self.ask("MAIL FROM:<mario@beta.test>", "250").await;
        for recipient in recipients {
            self.ask(&format!("RCPT TO:<{recipient}>"), "250").await;
        }
        self.ask("DATA", "354").await;
    }
}

async fn until(what: impl Fn() -> bool) {
    timeout(LONG, async {
        while !what() {
            sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("it comes true");
}

#[tokio::test]
async fn a_message_is_received_as_it_was_given() {
    let server = Server::new(Desk::yes());
    let mut client = server.connect().await;
    client.say("LHLO mail.alfa.test\r\n").await;
    assert_eq!(
        client.hear_lines(7).await,
        [
            "250-mail.alfa.test",
            "250-PIPELINING",
            "250-8BITMIME",
            "250-ENHANCEDSTATUSCODES",
            "250-SIZE 104857600",
            "250-DSN",
            "250 XFORWARD IDENT"
        ]
    );
    client.ask("XFORWARD IDENT=4gWxY", "250").await;
    client.ask("MAIL FROM:<mario@beta.test> SIZE=40 BODY=8BITMIME RET=HDRS ENVID=a+2B1", "250").await;
    client.ask("RCPT TO:<anna@alfa.test> ORCPT=rfc822;Anna@alfa.test NOTIFY=FAILURE", "250").await;
    client.ask("DATA", "354").await;
    client.say("Subject: x\r\n\r\n..\r\n...a\r\n.b\r\nè\r\n.\r\n").await;
    client.hear("250 2.0.0 <anna@alfa.test> Saved").await;
    client.ask("QUIT", "221").await;
    client.hear_end().await;
    let owned = |text: &str| Some(text.to_owned());
    let recipient = Recipient {
        path: "anna@alfa.test".to_owned(),
        original: owned("Anna@alfa.test"),
        notify: owned("FAILURE"),
    };
    let expected = Received {
        ident: owned("4gWxY"),
        sender: "mario@beta.test".to_owned(),
        envid: owned("a+1"),
        ret: owned("HDRS"),
        recipients: vec![recipient],
        data: "Subject: x\r\n\r\n.\r\n..a\r\nb\r\nè\r\n".into(),
    };
    assert_eq!(server.desk.received(), [expected]);
}

#[tokio::test]
async fn rfc2033_each_recipient_has_an_answer_of_his_own() {
    let server = Server::new(Desk::new(|_| {
        vec![
            Reply::new(451, "4.2.0", "Locked"),
            Reply::new(250, None, "Ok"),
            Reply::new(552, "5.2.2", "Full"),
        ]
    }));
    let mut client = server.client().await;
    client.ask("MAIL FROM:<>", "250").await;
    client.ask("RCPT TO:<a@alfa.test>", "250").await;
    // What the receiver says is one line, whatever is in it.
    client.say("RCPT TO:<nobody@alfa.test>\r\n").await;
    client.hear("550 5.1.1 No such user??250 Ok").await;
    client.ask("RCPT TO:<b@alfa.test>", "250").await;
    client.ask("RCPT TO:<c@alfa.test>", "250").await;
    client.ask("DATA", "354").await;
    client.say("x\r\n.\r\n").await;
    assert_eq!(client.hear_lines(3).await, ["451 4.2.0 Locked", "250 Ok", "552 5.2.2 Full"]);
    let received = server.desk.received();
    assert_eq!(
        received[0].recipients.iter().map(|r| r.path.as_str()).collect::<Vec<_>>(),
        ["a@alfa.test", "b@alfa.test", "c@alfa.test"]
    );
    assert_eq!((received[0].ident.as_deref(), received[0].sender.as_str()), (None, ""));
}

#[tokio::test]
async fn rfc2033_4_2_no_valid_recipients_no_data() {
    let server = Server::new(Desk::yes());
    let mut client = server.client().await;
    client.say("MAIL FROM:<a@beta.test>\r\nRCPT TO:<nobody@alfa.test>\r\nDATA\r\n").await;
    client.hear_codes("250 550 503").await;
    assert!(server.desk.rooms.lock().unwrap().is_empty());
    client.begin(&["a@alfa.test"]).await;
}

#[tokio::test]
async fn commands_come_in_order() {
    let server = Server::new(Desk::yes());
    let mut client = server.connect().await;
    for early in ["MAIL FROM:<>", "RCPT TO:<a@alfa.test>", "DATA", "XFORWARD IDENT=1", "VRFY a"] {
        client.ask(early, "503").await;
    }
    client.ask("EHLO mail.alfa.test", "500").await;
    client.ask("HELO mail.alfa.test", "500").await;
    client.ask("NOOP", "250").await;
    client.ask("LHLO mail.alfa.test", "250 250 250 250 250 250 250").await;
    client.ask("VRFY a", "252").await;
    client.ask("RCPT TO:<a@alfa.test>", "503").await;
    client.ask("MAIL FROM:<>", "250").await;
    client.ask("MAIL FROM:<>", "503").await;
    client.ask("XFORWARD IDENT=1", "503").await;
    client.ask("RCPT TO:<>", "501").await;
    client.ask("RCPT TO:<a@alfa.test> X=1", "555").await;
    client.ask("RCPT TO:<a@alfa.test>", "250").await;
    client.ask("RSET", "250").await;
    client.ask("DATA", "503").await;
    client.ask("EXPN a", "500").await;
}

#[tokio::test]
async fn issue_13_no_verb_is_found_behind_white_space() {
    let server = Server::new(Desk::yes());
    for white in ["\x0b", "\x0c", "\t", " ", "\x0b\x0c\t "] {
        let mut client = server.client().await;
        client.ask("MAIL FROM:<>", "250").await;
        client.ask(&format!("{white}RCPT TO:<a@alfa.test> ORCPT=rfc822;b@alfa.test"), "500").await;
        client.ask("DATA", "503").await;
    }
    for bare in [
        "\rRCPT TO:<a@alfa.test>\r\n",
        "RCPT TO:<a@alfa.test>\n",
        "NOOP\nRCPT TO:<a@alfa.test>\r\n",
        "NOOP\rRCPT TO:<a@alfa.test>\r\n",
        "NO\0OP\r\n",
    ] {
        let mut client = server.client().await;
        client.ask("MAIL FROM:<>", "250").await;
        client.say(bare).await;
        client.hear_codes("500").await;
        client.hear_end().await;
    }
}

#[tokio::test]
async fn rfc2920_pipelined_commands_are_answered_in_order() {
    let server = Server::new(Desk::yes());
    let mut client = server.client().await;
    client
        .say(
            "XFORWARD IDENT=1\r\nMAIL FROM:<>\r\nRCPT TO:<a@alfa.test>\r\nRCPT \
        TO:<nobody@alfa.test>\r\nNONSENSE\r\nRCPT TO:<b@alfa.test>\r\nDATA\r\n",
        )
        .await;
    client.hear_codes("250 250 250 550 500 250 354").await;
    client.say("x\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@alfa.test>\r\nDATA\r\n").await;
    client.hear_codes("250 250 250 250 354").await;
    client.say(".\r\nQUIT\r\n").await;
    client.hear_codes("250 221").await;
    client.hear_end().await;
    // The queue id is that of one message, or of none.
    let mut client = server.client().await;
    client.say("XFORWARD IDENT=2\r\nRSET\r\n").await;
    client.hear_codes("250 250").await;
    client.begin(&["a@alfa.test"]).await;
    client.ask(".", "250").await;
    assert_eq!(
        server.desk.received().iter().map(|m| (m.ident.as_deref(), &m.data[..])).collect::<Vec<_>>(),
        [(Some("1"), &b"x\r\n"[..]), (None, b""), (None, b"")]
    );
}

#[tokio::test]
async fn lines_of_a_message_are_never_read_as_commands() {
    let server = Server::new(Desk::yes());
    let mut client = server.client().await;
    client.ask("MAIL FROM:<>", "250").await;
    client.ask("RCPT TO:<a@alfa.test>", "250").await;
    client.say("DATA\r\nNOOP\r\n.\r\n").await;
    client.hear_codes("421").await;
    client.hear_end().await;
    let mut client = server.client().await;
    client.begin(&["a@alfa.test"]).await;
    let message = "a\n.\nMAIL FROM:<b@beta.test>\n.\r\nb\r\n.\nc\r.\r\nd\r\n.\re\r\n";
    client.say(&format!("{message}.\r\n")).await;
    client.hear_codes("250").await;
    assert_eq!(server.desk.received().len(), 1);
    // The dot that began a line is taken away, as from any line.
    assert_eq!(server.desk.received()[0].data, message.replace("\r\n.", "\r\n"));
}

#[tokio::test]
async fn a_message_comes_in_any_pieces() {
    let server = Server::new(Desk::yes());
    let mut client = server.client().await;
    client.begin(&["a@alfa.test"]).await;
    for byte in "a\r\n..b\r\n.\r\nRSET\r\n".chars() {
        client.say(&byte.to_string()).await;
        tokio::task::yield_now().await;
    }
    client.hear_codes("250 250").await;
    assert_eq!(server.desk.received()[0].data, "a\r\n.b\r\n");
}

#[tokio::test]
async fn a_command_line_is_bounded() {
    let server = Server::new(Desk::yes());
    let mut client = server.client().await;
    client.ask(&format!("NOOP {}", "x".repeat(2048 - 7)), "250").await;
    client.ask(&format!("NOOP {}", "x".repeat(2048 - 6)), "500").await;
    client.hear_end().await;
    let mut client = server.client().await;
    client.say(&"x".repeat(4096)).await;
    client.hear_codes("500").await;
    client.hear_end().await;
}

#[tokio::test]
async fn five_hundred_recipients_and_the_bound() {
    let server = Server::start(Desk::yes(), Limits { recipients: 500, ..Limits::default() }, LONG);
    let mut client = server.client().await;
    let commands: String = (0..501)
        .map(|i| format!("RCPT TO:<r{i}@alfa.test> ORCPT=rfc822;r{i}@alfa.test NOTIFY=FAILURE\r\n"))
        .collect();
    client.say(&format!("MAIL FROM:<>\r\n{commands}DATA\r\n")).await;
    let replies = client.hear_lines(503).await;
    assert!(replies[..501].iter().all(|line| line.starts_with("250 ")));
    assert_eq!(replies[501], "452 4.5.3 Too many recipients");
    client.say("x\r\n.\r\n").await;
    let answers = client.hear_lines(500).await;
    assert!((0..500).all(|i| answers[i] == format!("250 2.0.0 <r{i}@alfa.test> Saved")));
}

#[tokio::test]
async fn there_is_room_before_354_and_until_the_answers_are_written() {
    let server = Server::new(Desk { go: Semaphore::new(0), ..Desk::yes() });
    let mut client = server.client().await;
    client.ask("MAIL FROM:<> SIZE=100", "250").await;
    client.ask("RCPT TO:<a@alfa.test>", "250").await;
    assert_eq!(server.desk.held.load(Ordering::SeqCst), 0);
    client.ask("DATA", "354").await;
    assert_eq!(server.desk.held.load(Ordering::SeqCst), 1);
    client.say("x\r\n.\r\n").await;
    server.desk.begun.acquire().await.unwrap().forget();
    assert_eq!(server.desk.held.load(Ordering::SeqCst), 1);
    server.desk.go.add_permits(1);
    client.hear_codes("250").await;
    until(|| server.desk.held.load(Ordering::SeqCst) == 0).await;
    // Without SIZE it may be as large as any.
    server.desk.go.add_permits(2);
    for mail in ["MAIL FROM:<>", "MAIL FROM:<> SIZE=0"] {
        client.ask(mail, "250").await;
        client.ask("RCPT TO:<a@alfa.test>", "250").await;
        client.ask("DATA", "354").await;
        client.ask(".", "250").await;
    }
    assert_eq!(*server.desk.rooms.lock().unwrap(), [100, 100 << 20, 100 << 20]);
}

#[tokio::test]
async fn without_room_there_is_no_354() {
    let server = Server::new(Desk { most_room: 1000, ..Desk::yes() });
    let mut client = server.client().await;
    client.ask("MAIL FROM:<> SIZE=1001", "250").await;
    client.ask("RCPT TO:<a@alfa.test>", "250").await;
    client.say("DATA\r\n").await;
    client.hear("451 4.3.2 No memory now").await;
    client.ask("MAIL FROM:<> SIZE=1000", "250").await;
    client.ask("RCPT TO:<a@alfa.test>", "250").await;
    client.ask("DATA", "354").await;
    client.say(".\r\n").await;
    client.hear_codes("250").await;
}

#[tokio::test]
async fn a_message_longer_than_announced_asks_for_more_room() {
    for (most_room, code) in [(1 << 20, "250"), (60_000, "451")] {
        let server = Server::new(Desk { most_room, ..Desk::yes() });
        let mut client = server.client().await;
        client.ask("MAIL FROM:<> SIZE=1000", "250").await;
        client.ask("RCPT TO:<a@alfa.test>", "250").await;
        client.ask("DATA", "354").await;
        let message = format!("{}\r\n", "x".repeat(98)).repeat(3000);
        client.say(&format!("{message}.\r\n")).await;
        client.hear_codes(code).await;
        let rooms = server.desk.rooms.lock().unwrap().clone();
        assert!(rooms.len() >= 2 && rooms[0] == 1000, "{rooms:?}");
        until(|| server.desk.held.load(Ordering::SeqCst) == 0).await;
        let received = server.desk.received();
        assert_eq!(received.first().map(|m| m.data == message), (code == "250").then_some(true));
        if code == "250" {
            assert!(rooms.iter().sum::<u64>() + 16 * 1024 >= message.len() as u64, "{rooms:?}");
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_comes_again_and_is_never_sent_back() {
    let server = Server::start(Desk::yes(), Limits { message_size: 100_000, ..Limits::default() }, LONG);
    let mut client = server.client().await;
    client.ask("MAIL FROM:<> SIZE=100001", "452").await;
    client.begin(&["a@alfa.test", "b@alfa.test"]).await;
    client.say(&"x\r\n".repeat(100_000)).await;
    until(|| server.desk.held.load(Ordering::SeqCst) == 0).await;
    client.say(".\r\n").await;
    assert_eq!(client.hear_lines(2).await, ["452 4.3.1 The message is larger than this server takes"; 2]);
    assert!(server.desk.received().is_empty());
    client.begin(&["a@alfa.test"]).await;
    client.say(&format!("{}\r\n.\r\n", "x".repeat(99_998))).await;
    client.hear_codes("250").await;
}

#[tokio::test]
async fn what_the_receiver_does_not_answer_is_451() {
    let yes = || Reply::new(250, None, "Ok");
    let cases: [(Replies, &str); 5] = [
        (Box::new(|_| panic_any("a panic of the test")), "451 451"),
        (Box::new(|_| vec![]), "451 451"),
        (Box::new(move |_| vec![yes()]), "250 451"),
        (Box::new(move |_| vec![yes(), Reply::new(354, None, "Go on")]), "250 451"),
        (Box::new(move |_| vec![yes(), Reply::new(550, None, "No"), yes()]), "250 550"),
    ];
    for (replies, codes) in cases {
        let server = Server::new(Desk { replies, ..Desk::yes() });
        let mut client = server.client().await;
        client.begin(&["a@alfa.test", "b@alfa.test"]).await;
        client.ask("x\r\n.", codes).await;
        client.ask("NOOP", "250").await;
        assert_eq!(server.desk.held.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_message_whose_end_does_not_come_is_none() {
    let server = Server::new(Desk::yes());
    for part in ["", "x\r\n", "x\r\n.", "x\r\n.\r", "x\r\n.\n"] {
        let mut client = server.client().await;
        client.begin(&["a@alfa.test"]).await;
        client.say(part).await;
        drop(client);
        until(|| server.desk.held.load(Ordering::SeqCst) == 0).await;
    }
    assert!(server.desk.received().is_empty());
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn a_message_in_hand_is_finished_without_its_client_and_the_lost_answers_are_logged() {
    let log = Log::default();
    let writer = log.clone();
    let _guard = tracing::subscriber::set_default(
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish(),
    );
    let server = Server::new(Desk { go: Semaphore::new(0), ..Desk::yes() });
    let mut client = server.client().await;
    client.ask("XFORWARD IDENT=4gWxY", "250").await;
    client.begin(&["a@alfa.test"]).await;
    client.say("x\r\n.\r\n").await;
    server.desk.begun.acquire().await.unwrap().forget();
    drop(client);
    sleep(Duration::from_millis(20)).await;
    assert_eq!((server.desk.received().len(), server.desk.held.load(Ordering::SeqCst)), (0, 1));
    server.desk.go.add_permits(1);
    until(|| {
        log.text().contains(
            "4gWxY: the client does not wait for its answers: 250 2.0.0 <a@alfa.test> \
            Saved",
        )
    })
    .await;
    assert_eq!(server.desk.received().len(), 1);
}

#[tokio::test]
async fn twenty_errors_are_enough() {
    let server = Server::new(Desk::yes());
    let mut client = server.client().await;
    for _ in 0..19 {
        client.ask("NONSENSE", "500").await;
        client.ask("RSET", "250").await;
    }
    client.ask("NONSENSE", "500 421").await;
    client.hear_end().await;
}

#[tokio::test]
async fn who_says_nothing_is_sent_away() {
    let server =
        Server::start(Desk::yes(), Limits { idle: Duration::from_millis(150), ..Limits::default() }, LONG);
    let mut client = server.client().await;
    client.hear("421 4.4.2 No command within the time").await;
    client.hear_end().await;
    // A command must be whole within the time, whatever comes of it.
    let mut client = server.client().await;
    for _ in 0..2 {
        client.say("N").await;
        sleep(Duration::from_millis(60)).await;
    }
    client.hear_codes("421").await;
    let mut client = server.client().await;
    client.begin(&["a@alfa.test"]).await;
    client.hear("421 4.4.2 Nothing of the message within the time").await;
    assert!(server.desk.received().is_empty());
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_waits() {
    let server = Server::start(Desk::yes(), Limits { connections: 1, ..Limits::default() }, LONG);
    let mut first = server.client().await;
    let mut second = Client { stream: BufReader::new(UnixStream::connect(&server.path).await.unwrap()) };
    assert!(timeout(Duration::from_millis(50), second.line()).await.is_err());
    first.ask("QUIT", "221").await;
    second.hear("220 mail.alfa.test LMTP").await;
}

#[tokio::test]
async fn at_the_end_messages_in_hand_are_answered_and_nothing_new_begins() {
    let mut server = Server::new(Desk { go: Semaphore::new(0), ..Desk::yes() });
    let mut idle = server.client().await;
    let mut within = server.client().await;
    within.ask("MAIL FROM:<>", "250").await;
    let mut sending = server.client().await;
    sending.begin(&["a@alfa.test"]).await;
    sending.say("x\r\n").await;
    let mut in_hand = server.client().await;
    in_hand.begin(&["b@alfa.test"]).await;
    in_hand.say("x\r\n.\r\n").await;
    server.desk.begun.acquire().await.unwrap().forget();
    server.stop();
    for client in [&mut idle, &mut within] {
        client.hear("421 4.3.2 The server ends, come again").await;
        client.hear_end().await;
    }
    assert!(UnixStream::connect(&server.path).await.is_err());
    sending.say(".\r\nNOOP\r\n").await;
    sleep(Duration::from_millis(20)).await;
    assert!(!server.ended.is_finished());
    server.desk.go.add_permits(2);
    in_hand.hear_codes("250 421").await;
    in_hand.hear_end().await;
    sending.hear_codes("250 250 421").await;
    timeout(LONG, &mut server.ended).await.unwrap().unwrap();
    assert_eq!(server.desk.received().len(), 2);
}

#[tokio::test]
async fn the_end_does_not_wait_longer_than_its_grace() {
    let mut server = Server::start(
        Desk { go: Semaphore::new(0), ..Desk::yes() },
        Limits::default(),
        Duration::from_millis(50),
    );
    let mut client = server.client().await;
    client.begin(&["a@alfa.test"]).await;
    client.say("x\r\n.\r\n").await;
    server.desk.begun.acquire().await.unwrap().forget();
    server.stop();
    timeout(LONG, &mut server.ended).await.unwrap().unwrap();
    client.hear_end().await;
    // While the program still runs, the message is not broken off.
    server.desk.go.add_permits(1);
    until(|| server.desk.received().len() == 1).await;
}
