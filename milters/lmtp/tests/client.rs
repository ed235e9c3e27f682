//! The client against servers that follow a script.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pec_lmtp::{Answer, Failure, Offered, Options, Outgoing, Peer, Pool, Protocol, Reply, Step};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// What every server says first, and what it offers.
const HELLO: &str = "> 220 mail.alfa.test LMTP\n< LHLO mx.alfa.test\n> 250-mail.alfa.test\n> \
    250-PIPELINING\n> 250-ENHANCEDSTATUSCODES\n> 250 SIZE 1000\n";
const ENVELOPE: &str =
    "< MAIL FROM:<a@beta.test> SIZE=3\n< RCPT TO:<b@alfa.test>\n> 250 2.1.0 Ok\n> 250 2.1.5 Ok\n";
const DATA: &str = "< DATA\n> 354 Go on\n< x\n< .\n";
const SAVED: &str = "> 250 2.0.0 Saved\n";
const RSET: &str = "< RSET\n> 250 2.0.0 Ok\n";
const PROBE: &str = "< MAIL FROM:<>\n< RCPT TO:<b@alfa.test>\n> 250 2.1.0 Ok\n";

/// A server. The n-th connection follows the n-th script: `> ` lines are said, `< ` lines must come, `~`
/// waits, `+` counts as an end, `! ` is said without an end of line, and at the end it closes; with `=` it
/// waits for the client to close.
struct Scripted {
    pool: Pool,
    done: Arc<Mutex<Vec<String>>>,
    accepted: Arc<Mutex<usize>>,
    _directory: tempfile::TempDir,
}

impl Scripted {
    fn new(scripts: &[String]) -> Self {
        Self::with(Protocol::Lmtp, Options { turn: LONG, idle: 2 * LONG, ..Options::default() }, scripts)
    }

    fn with(protocol: Protocol, options: Options, scripts: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lmtp");
        let listener = UnixListener::bind(&path).unwrap();
        let mut scripts: VecDeque<String> = scripts.to_vec().into();
        let (done, accepted): (Arc<Mutex<Vec<String>>>, Arc<Mutex<usize>>) = Default::default();
        let (ended, count) = (done.clone(), accepted.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                let script = scripts.pop_front().expect("a script for each connection");
                let ended = ended.clone();
                tokio::spawn(async move {
                    let how = follow(stream, &script, &ended).await;
                    ended.lock().unwrap().push(how);
                });
            }
        });
        Self {
            pool: Pool::new(Peer::Unix(path), protocol, "mx.alfa.test".to_owned(), options),
            done,
            accepted,
            _directory: directory,
        }
    }

    async fn give(&self) -> Result<Answer, Failure> {
        timeout(LONG, self.pool.give(message(&[Bytes::from_static(b"x\r\n")]))).await.expect("an end")
    }

    /// So many connections were made, and each went as its script has it.
    async fn went(&self, connections: usize) {
        self.ended(connections).await;
        assert_eq!(self.accepted(), connections);
    }

    /// So many have ended, each as its script has it.
    async fn ended(&self, connections: usize) {
        timeout(LONG, async {
            while self.done.lock().unwrap().len() < connections {
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .expect("the scripts to end");
        assert_eq!(*self.done.lock().unwrap(), vec!["as it should"; connections]);
    }

    fn accepted(&self) -> usize {
        *self.accepted.lock().unwrap()
    }
}

async fn follow(mut stream: UnixStream, script: &str, done: &Mutex<Vec<String>>) -> String {
    for line in script.lines() {
        let (kind, text) = line.split_at(line.len().min(2));
        match kind {
            "> " => drop(stream.write_all(format!("{text}\r\n").as_bytes()).await),
            "! " => drop(stream.write_all(text.replace("\\r\\n", "\r\n").as_bytes()).await),
            "+" => done.lock().unwrap().push("as it should".to_owned()),
            "~" => sleep(Duration::from_millis(50)).await,
            "< " => {
                let expected = format!("{text}\r\n");
                let mut heard = vec![0; expected.len()];
                let read = stream.read_exact(&mut heard).await;
                if read.is_err() || heard != expected.as_bytes() {
                    return format!("{expected:?} did not come, but {:?}", String::from_utf8_lossy(&heard));
                }
            }
            "=" => {
                let mut rest = String::new();
                let _ = stream.read_to_string(&mut rest).await;
                if !rest.is_empty() && rest != "QUIT\r\n" {
                    return format!("{rest:?} came");
                }
            }
            _ => return format!("{line:?} is no script"),
        }
    }
    "as it should".to_owned()
}

fn message(pieces: &[Bytes]) -> Outgoing<'_> {
    Outgoing {
        sender: "a@beta.test",
        recipient: "b@alfa.test",
        envid: None,
        ret: None,
        notify: None,
        ident: None,
        pieces,
    }
}

fn answer(at: Step, code: u16, status: &str, text: &str) -> Result<Answer, Failure> {
    Ok(Answer { reply: Reply::new(code, status, text), at })
}

fn saved() -> Result<Answer, Failure> {
    answer(Step::Message, 250, "2.0.0", "Saved")
}

fn script(parts: &[&str]) -> String {
    parts.concat()
}

#[tokio::test]
async fn a_message_is_given_and_the_connection_kept() {
    let server = Scripted::new(&[script(&[HELLO, ENVELOPE, DATA, SAVED, ENVELOPE, DATA, SAVED, "="])]);
    assert_eq!(server.give().await, saved());
    assert_eq!(server.give().await, saved());
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn what_is_offered_is_said() {
    let server = Scripted::with(
        Protocol::Smtp,
        Options::default(),
        &[script(&[
            "> 220 mail.alfa.test\n< EHLO mx.alfa.test\n> 250-mail.alfa.test\n> 250-size\n> 250-8bitmime\n> \
            250-DSN\n> 250-XFORWARD NAME ADDR IDENT\n> 250 PIPELINING\n",
            "< XFORWARD IDENT=4gW+2Bx\n< MAIL FROM:<> SIZE=12 BODY=8BITMIME RET=FULL ENVID=a+20b+3Dc\n< \
            RCPT TO:<b@alfa.test> NOTIFY=FAILURE,DELAY\n",
            "> 250 Ok\n> 250 Ok\n> 250 Ok\n< DATA\n> 354 Go on\n< a: b\n< \n< è\n< .\n> 250 2.0.0 Saved\n=",
        ])],
    );
    let pieces = [Bytes::from("a: b\r\n\r\nè\r\n")];
    let all = Outgoing {
        sender: "",
        envid: Some("a b=c"),
        ret: Some("FULL"),
        notify: Some("FAILURE,DELAY"),
        ident: Some("4gW+x"),
        ..message(&pieces)
    };
    assert_eq!(server.pool.give(all).await, saved());
}

#[tokio::test]
async fn what_is_not_offered_is_not_said() {
    // Nor are commands said before the one before is answered.
    let server = Scripted::new(&[script(&[
        "> 220 mail.alfa.test\n< LHLO mx.alfa.test\n> 250 mail.alfa.test\n",
        "< MAIL FROM:<a@beta.test>\n~\n> 250 Ok\n< RCPT TO:<b@alfa.test>\n~\n> 250 Ok\n< DATA\n~\n> 354 Go \
        on\n< è\n< .\n> 250 2.0.0 Saved\n",
        "< MAIL FROM:<a@beta.test>\n> 450 4.0.0 No\n",
        RSET,
        "=",
    ])]);
    let pieces = [Bytes::from("è")];
    let all = Outgoing {
        envid: Some("a"),
        ret: Some("FULL"),
        notify: Some("NEVER"),
        ident: Some("4gWx"),
        ..message(&pieces)
    };
    assert_eq!(server.pool.give(all).await, saved());
    assert_eq!(server.pool.give(all).await, answer(Step::Sender, 450, "4.0.0", "No"));
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn dots_are_doubled_where_pieces_meet() {
    let server = Scripted::new(&[script(&[
        HELLO,
        "< MAIL FROM:<a@beta.test> SIZE=17\n< RCPT TO:<b@alfa.test>\n> 250 Ok\n> 250 Ok\n< DATA\n> 354 Go \
        on\n< ..a\n< ..\n< ..b.\n< ...c\n< .\n",
        SAVED,
        "=",
    ])]);
    let pieces =
        [".a\r", "\n.\r\n", "", ".b.\r\n", ".", ".c"].map(|piece| Bytes::from_static(piece.as_bytes()));
    assert_eq!(server.pool.give(message(&pieces)).await, saved());
}

#[tokio::test]
async fn the_servers_word_counts_at_whichever_step_it_comes() {
    let begin = "< MAIL FROM:<a@beta.test> SIZE=3\n< RCPT TO:<b@alfa.test>\n";
    for (at, parts) in [
        (Step::Sender, [begin, "> 550 5.1.1 No\n> 503 5.5.1 No sender\n", RSET].as_slice()),
        (Step::Recipient, &[begin, "> 250 Ok\n> 550-5.1.1 No\n> 550 5.1.1\n", RSET]),
        (Step::Data, &[ENVELOPE, "< DATA\n> 550 5.1.1 No\n", RSET]),
        (Step::Message, &[ENVELOPE, DATA, "> 550 5.1.1 No\n"]),
    ] {
        let server = Scripted::new(&[script(&[HELLO, &parts.concat(), ENVELOPE, DATA, SAVED, "="])]);
        assert_eq!(server.give().await, answer(at, 550, "5.1.1", "No"), "{at:?}");
        // The connection is as good as before.
        assert_eq!(server.give().await, saved(), "{at:?}");
    }
}

#[tokio::test]
async fn nothing_of_a_message_is_given_before_it_is_said_to() {
    let server =
        Scripted::new(&[script(&[HELLO, ENVELOPE, "="]), script(&[HELLO, ENVELOPE, DATA, SAVED, "="])]);
    let pieces = [Bytes::from_static(b"x\r\n")];
    let Ok(Offered::Accepted(accepted)) = server.pool.offer(message(&pieces)).await else {
        panic!("it was not accepted")
    };
    drop(accepted);
    server.ended(1).await;
    let Ok(Offered::Accepted(accepted)) = server.pool.offer(message(&pieces)).await else {
        panic!("it was not accepted")
    };
    assert_eq!(accepted.give().await, saved());
}

#[tokio::test]
async fn a_connection_that_says_421_is_not_used_again() {
    let begin = "< MAIL FROM:<a@beta.test> SIZE=3\n< RCPT TO:<b@alfa.test>\n";
    for (at, parts) in [
        (Step::Sender, [begin, "> 421 4.3.2 No\n"].as_slice()),
        (Step::Recipient, &[begin, "> 250 Ok\n> 421 4.3.2 No\n"]),
        (Step::Data, &[ENVELOPE, "< DATA\n> 421 4.3.2 No\n"]),
    ] {
        let server = Scripted::new(&[
            script(&[HELLO, &parts.concat(), "="]),
            script(&[HELLO, ENVELOPE, DATA, SAVED, "="]),
        ]);
        assert_eq!(server.give().await, answer(at, 421, "4.3.2", "No"), "{at:?}");
        assert_eq!(server.give().await, saved(), "{at:?}");
    }
}

#[tokio::test]
async fn lost_answers_before_the_dot_mean_not_given_and_after_it_unknown() {
    let before = [
        "",
        "> 554 5.0.0 Go away\n",
        "> 421 4.3.2 Busy\n",
        "> 220 Hello\n< LHLO mx.alfa.test\n",
        "> 220 Hello\n< LHLO mx.alfa.test\n> 500 5.5.1 What?\n=",
        &script(&[HELLO, "! 250 O"]),
        &script(&[HELLO, "< MAIL FROM:<a@beta.test> SIZE=3\n"]),
        &script(&[HELLO, "< MAIL FROM:<a@beta.test> SIZE=3\n< RCPT TO:<b@alfa.test>\n> 250 Ok\n"]),
        &script(&[HELLO, "< MAIL FROM:<a@beta.test> SIZE=3\n> 250 Ok\n> 354 Go on\n="]),
        &script(&[HELLO, ENVELOPE]),
        &script(&[HELLO, ENVELOPE, "< DATA\n"]),
        &script(&[HELLO, ENVELOPE, "< DATA\n> 250 Saved already\n="]),
        &script(&[HELLO, ENVELOPE, "< DATA\n! 35"]),
        // Answers to what was not said yet.
        "> 220 Hello\n< LHLO mx.alfa.test\n! 250 Hello\\r\\n250 Ok\\r\\n250 Ok\\r\\n354 Go on\\r\\n250 \
        Saved\\r\\n\n=",
        &script(&[
            HELLO,
            "< MAIL FROM:<a@beta.test> SIZE=3\n< RCPT TO:<b@alfa.test>\n! 250 Ok\\r\\n250 Ok\\r\\n354 Go \
            on\\r\\n\n=",
        ]),
        &script(&[HELLO, ENVELOPE, "< DATA\n! 354 Go on\\r\\n250 Saved\\r\\n\n="]),
    ];
    for lost in before {
        let server = Scripted::new(&[lost.to_owned()]);
        let failure = server.give().await.unwrap_err();
        assert!(
            matches!(failure, Failure::NotGiven { .. }) && !failure.may_have_it(),
            "{lost:?}: {failure:?}"
        );
        let shown = failure.to_string();
        assert!(shown.starts_with("unix:/") && !shown.contains('\n'), "{shown}");
    }
    // At a reload Dovecot 2.3 says 421 of what it has saved.
    for after in [
        "> 421 4.3.2 Shutting down\n=",
        "",
        "! 250 2.0.0 Sa",
        "> Saved\n=",
        "> 354 Go on\n=",
        "> 250-a\n> 550 b\n=",
        "! 250 Saved\n\n=",
        "> 999 x\n=",
    ] {
        let server = Scripted::new(&[script(&[HELLO, ENVELOPE, DATA, after])]);
        let failure = server.give().await.unwrap_err();
        assert!(
            matches!(failure, Failure::Unknown { .. }) && failure.may_have_it(),
            "{after:?}: {failure:?}"
        );
        assert!(failure.to_string().contains("which may have taken the message: "), "{failure}");
    }
}

#[tokio::test]
async fn a_server_that_closes_within_a_long_message_has_not_got_it() {
    let server = Scripted::new(&[script(&[
        HELLO,
        "< MAIL FROM:<a@beta.test> SIZE=8000000\n< RCPT TO:<b@alfa.test>\n> 250 Ok\n> 250 Ok\n< DATA\n> 354 \
        Go on\n< xx\n",
    ])]);
    let pieces = [Bytes::from("xx\r\n".repeat(2_000_000))];
    assert!(matches!(server.pool.give(message(&pieces)).await, Err(Failure::NotGiven { .. })));
}

#[tokio::test]
async fn a_no_that_comes_before_the_dot_is_heard() {
    let server =
        Scripted::new(&[script(&[HELLO, ENVELOPE, "< DATA\n! 354 Go on\\r\\n452 4.3.1 Full\\r\\n\n< x\n="])]);
    assert_eq!(server.give().await, answer(Step::Message, 452, "4.3.1", "Full"));
    server.went(1).await;
}

#[tokio::test]
async fn each_step_has_its_time() {
    let short = Duration::from_millis(100);
    let silent = "=";
    let before = script(&[HELLO, "< MAIL FROM:<a@beta.test> SIZE=3\n< RCPT TO:<b@alfa.test>\n="]);
    for (options, script, is_unknown) in [
        (Options { greeting: short, ..Options::default() }, silent.to_owned(), false),
        (Options { command: short, ..Options::default() }, before, false),
        (
            Options { answer: short, ..Options::default() },
            script(&[HELLO, ENVELOPE, "< DATA\n> 354 Go on\n< x\n< .\n="]),
            true,
        ),
    ] {
        let server = Scripted::with(Protocol::Lmtp, options, &[script]);
        let failure = server.give().await.unwrap_err();
        assert_eq!(failure.may_have_it(), is_unknown, "{failure}");
        assert!(failure.to_string().contains("within"), "{failure}");
        server.went(1).await;
    }
    // One who does not read.
    let server = Scripted::with(
        Protocol::Lmtp,
        Options { data: short, ..Options::default() },
        &[script(&[
            HELLO,
            "< MAIL FROM:<a@beta.test> SIZE=8000000\n< RCPT TO:<b@alfa.test>\n> 250 Ok\n> 250 Ok\n< DATA\n> \
            354 Go on\n~\n~\n~\n~\n~\n~\n",
        ])],
    );
    let pieces = [Bytes::from("xx\r\n".repeat(2_000_000))];
    assert!(
        server
            .pool
            .give(message(&pieces))
            .await
            .unwrap_err()
            .to_string()
            .ends_with("does not read within 0.1 s")
    );
}

#[tokio::test]
async fn only_its_time_ends_the_wait_for_the_answer_to_the_message() {
    let short = Duration::from_millis(20);
    let options = Options {
        turn: short,
        greeting: short,
        command: short,
        data: short,
        idle: short,
        age: short,
        ..Options::default()
    };
    let server =
        Scripted::with(Protocol::Lmtp, options, &[script(&[HELLO, ENVELOPE, DATA, "~\n~\n~\n", SAVED, "="])]);
    assert_eq!(server.give().await, saved());
}

#[tokio::test]
async fn a_kept_connection_that_is_dead_is_replaced_without_a_word() {
    let good = script(&[HELLO, ENVELOPE, DATA, SAVED]);
    let good_and_waits = script(&[&good, "="]);
    for dead in [
        // Closed long ago, closed at the first command, and with a word.
        "",
        "< MAIL FROM:<a@beta.test> SIZE=3\n",
        "> 421 4.4.2 Idle\n",
        "< MAIL FROM:<a@beta.test> SIZE=3\n> 421 4.3.2 Reload\n",
    ] {
        let server = Scripted::new(&[script(&[&good, dead]), good_and_waits.clone()]);
        assert_eq!(server.give().await, saved());
        sleep(Duration::from_millis(20)).await;
        assert_eq!(server.give().await, saved(), "{dead:?}");
        assert_eq!(server.accepted(), 2);
    }
    // Once: a new one that breaks is a failure.
    let server = Scripted::new(&[good.clone(), HELLO.to_owned()]);
    assert_eq!(server.give().await, saved());
    assert!(matches!(server.give().await, Err(Failure::NotGiven { .. })));
    // And not where something was said already.
    let server = Scripted::new(&[script(&[
        &good,
        "< MAIL FROM:<a@beta.test> SIZE=3\n< RCPT TO:<b@alfa.test>\n> 250 Ok\n",
    ])]);
    assert_eq!(server.give().await, saved());
    assert!(matches!(server.give().await, Err(Failure::NotGiven { .. })));
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn an_answer_too_many_is_not_taken_for_that_of_the_next_message() {
    let server = Scripted::new(&[
        script(&[HELLO, ENVELOPE, DATA, "! 250 2.0.0 Saved\\r\\n250 2.0.0 Saved\\r\\n\n", "="]),
        script(&[HELLO, ENVELOPE, DATA, "> 550 5.1.1 No\n="]),
    ]);
    assert_eq!(server.give().await, saved());
    server.went(1).await;
    assert_eq!(server.give().await, answer(Step::Message, 550, "5.1.1", "No"));
    // Nor one that comes while nobody uses the connection.
    let server = Scripted::new(&[
        script(&[HELLO, ENVELOPE, DATA, SAVED, "~\n", SAVED, "+\n="]),
        script(&[HELLO, ENVELOPE, DATA, "> 550 5.1.1 No\n="]),
    ]);
    assert_eq!(server.give().await, saved());
    server.went(1).await;
    // The runtime hears of it.
    sleep(Duration::from_millis(10)).await;
    assert_eq!(server.give().await, answer(Step::Message, 550, "5.1.1", "No"));
}

#[tokio::test]
async fn a_no_to_the_sender_whose_second_answer_is_late_ends_the_connection() {
    let server = Scripted::with(
        Protocol::Lmtp,
        Options { command: Duration::from_millis(100), ..Options::default() },
        &[
            script(&[
                HELLO,
                "< MAIL FROM:<a@beta.test> SIZE=3\n< RCPT TO:<b@alfa.test>\n> 451 4.3.0 No\n~\n~\n~\n> 250 \
                Ok\n=",
            ]),
            script(&[HELLO, ENVELOPE, DATA, SAVED, "="]),
        ],
    );
    assert_eq!(server.give().await, answer(Step::Sender, 451, "4.3.0", "No"));
    sleep(Duration::from_millis(150)).await;
    assert_eq!(server.give().await, saved());
}

#[tokio::test]
async fn asking_gives_nothing() {
    let server = Scripted::new(&[script(&[
        HELLO,
        PROBE,
        "> 250 2.1.5 Ok\n",
        RSET,
        PROBE,
        "> 552 5.2.2 Full\n",
        RSET,
        "=",
    ])]);
    assert_eq!(server.pool.ask("b@alfa.test").await, Ok(Reply::new(250, "2.1.5", "Ok")));
    assert_eq!(server.pool.ask("b@alfa.test").await, Ok(Reply::new(552, "5.2.2", "Full")));
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_no_to_the_sender_says_nothing_of_the_recipient() {
    let server = Scripted::new(&[script(&[
        HELLO,
        "< MAIL FROM:<>\n< RCPT TO:<b@alfa.test>\n> 550 5.1.1 No\n> 550 5.1.1 No\n",
        RSET,
        "=",
    ])]);
    let failure = server.pool.ask("b@alfa.test").await.unwrap_err();
    assert!(failure.to_string().ends_with("answers MAIL FROM:<>: 550 5.1.1 No"), "{failure}");
}

#[tokio::test]
async fn asking_anew_is_asking_another_process() {
    let server = Scripted::new(&[
        script(&[HELLO, PROBE, "> 550 5.1.1 No\n", RSET, "="]),
        script(&[HELLO, PROBE, "> 250 2.1.5 Ok\n", RSET, ENVELOPE, DATA, SAVED, "="]),
    ]);
    assert!(server.pool.ask("b@alfa.test").await.unwrap().is_final_no());
    assert!(server.pool.ask_anew("b@alfa.test").await.unwrap().is_yes());
    // The kept one made place for it.
    server.ended(1).await;
    assert_eq!(server.give().await, saved());
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn nothing_is_sent_that_the_words_do_not_mean() {
    let server = Scripted::new(&[]);
    let good = [Bytes::from_static(b"x\r\n")];
    let long = format!("{}@alfa.test", "x".repeat(320));
    for bad in [
        "a\r\nRSET",
        "a\nb",
        "a\rb",
        "a\0b",
        "a> NOTIFY=NEVER ORCPT=rfc822;<b",
        "a<b",
        "a b@c.test",
        "è@b.test",
        long.as_str(),
    ] {
        for message in
            [Outgoing { sender: bad, ..message(&good) }, Outgoing { recipient: bad, ..message(&good) }]
        {
            assert!(matches!(server.pool.give(message).await, Err(Failure::NotGiven { .. })), "{bad:?}");
        }
        assert!(matches!(server.pool.ask(bad).await, Err(Failure::NotGiven { .. })), "{bad:?}");
    }
    for bad in [
        Outgoing { recipient: "", ..message(&good) },
        Outgoing { envid: Some(""), ..message(&good) },
        Outgoing { envid: Some("a\r\nb"), ..message(&good) },
        Outgoing { ret: Some("NONE"), ..message(&good) },
        Outgoing { notify: Some("FAILURE ORCPT=rfc822;x"), ..message(&good) },
        Outgoing { ident: Some("a b"), ..message(&good) },
    ] {
        assert!(matches!(server.pool.give(bad).await, Err(Failure::NotGiven { .. })), "{bad:?}");
    }
    for bad in [&["a\n"][..], &["a\r\nb\n.\nc\r\n"], &["a", "\nb\r\n"], &["\n"]] {
        let pieces: Vec<_> = bad.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
        let failure = server.pool.give(message(&pieces)).await.unwrap_err();
        assert!(failure.to_string().ends_with("bare LF in it"), "{failure}");
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn who_has_no_turn_in_time_hears_busy() {
    let options = Options { connections: 1, turn: Duration::from_millis(30), ..Options::default() };
    let server =
        Scripted::with(Protocol::Lmtp, options, &[script(&[HELLO, ENVELOPE, DATA, "~\n~\n~\n", SAVED, "="])]);
    let pool = server.pool.clone();
    let first = tokio::spawn(async move { pool.give(message(&[Bytes::from_static(b"x\r\n")])).await });
    sleep(Duration::from_millis(20)).await;
    let failure = server.give().await.unwrap_err();
    assert!(matches!(failure, Failure::Busy { .. }) && !failure.may_have_it());
    assert!(failure.to_string().ends_with("all connections were in use for 0.03 s"), "{failure}");
    assert_eq!(first.await.unwrap(), saved());
}

#[tokio::test]
async fn kept_connections_do_not_starve_those_who_wait() {
    let transaction = script(&[ENVELOPE, DATA, SAVED]);
    let options = Options { connections: 2, turn: LONG, ..Options::default() };
    // Each could do all of them: however they fall, no third one is made.
    let each = script(&[HELLO, &transaction.repeat(40), "="]);
    let server = Scripted::with(Protocol::Lmtp, options, &[each.clone(), each]);
    let all: Vec<_> = (0..40)
        .map(|_| {
            let pool = server.pool.clone();
            tokio::spawn(async move { pool.give(message(&[Bytes::from_static(b"x\r\n")])).await })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), saved());
    }
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed() {
    let short = Duration::from_millis(50);
    let once = script(&[HELLO, ENVELOPE, DATA, SAVED, "< QUIT\n="]);
    let server = Scripted::with(
        Protocol::Lmtp,
        Options { idle: short, ..Options::default() },
        std::slice::from_ref(&once),
    );
    assert_eq!(server.give().await, saved());
    server.went(1).await;
    // An old one is not used again.
    let server =
        Scripted::with(Protocol::Lmtp, Options { age: short, ..Options::default() }, &[once.clone(), once]);
    assert_eq!(server.give().await, saved());
    sleep(2 * short).await;
    assert_eq!(server.give().await, saved());
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn who_does_not_wait_for_the_end_leaves_no_half_connection_behind() {
    let options = Options { connections: 1, turn: LONG, ..Options::default() };
    let server = Scripted::with(
        Protocol::Lmtp,
        options,
        &[script(&[HELLO, ENVELOPE, DATA, "="]), script(&[HELLO, ENVELOPE, DATA, SAVED, "="])],
    );
    assert!(timeout(Duration::from_millis(50), server.give()).await.is_err());
    assert_eq!(server.give().await, saved());
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn nobody_listens() {
    let directory = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (peer, shown) in [
        (
            Peer::Unix(directory.path().join("none")),
            format!("unix:{}: no connection: ", directory.path().join("none").display()),
        ),
        (Peer::Inet(free.to_string()), format!("inet:{free}: no connection: ")),
    ] {
        let pool = Pool::new(peer, Protocol::Lmtp, "mx.alfa.test".to_owned(), Options::default());
        let failure = pool.ask("b@alfa.test").await.unwrap_err();
        assert!(
            matches!(failure, Failure::NotGiven { .. }) && failure.to_string().starts_with(&shown),
            "{failure}"
        );
    }
}
