//! The client and the server together.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pec_lmtp::{
    Limits, Options, Outgoing, Peer, Pool, Protocol, Received, Receiver, Recipient, Reply, Step, serve,
};
use tokio::net::UnixListener;

/// Answers each recipient by the number in his name.
#[derive(Default)]
struct Desk(Mutex<Vec<Received>>);

impl Receiver for Desk {
    type Room = ();

    fn recipient(&self, _: &Recipient, _: &str) -> Result<(), Reply> {
        Ok(())
    }

    async fn room(&self, _: u64) -> Result<(), Reply> {
        Ok(())
    }

    async fn message(&self, message: Received) -> Vec<Reply> {
        let path = message.recipients[0].path.clone();
        self.0.lock().unwrap().push(message);
        tokio::time::sleep(Duration::from_millis(1)).await;
        vec![match path.contains('7') {
            true => Reply::new(451, "4.2.0", path),
            false => Reply::new(250, "2.0.0", path),
        }]
    }
}

fn start(limits: Limits, options: Options) -> (Arc<Desk>, Pool, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    let listener = UnixListener::bind(&path).unwrap();
    let desk = Arc::new(Desk::default());
    tokio::spawn(serve(
        listener,
        "mail.alfa.test".to_owned(),
        limits,
        desk.clone(),
        std::future::pending(),
        Duration::ZERO,
    ));
    (desk, Pool::new(Peer::Unix(path), Protocol::Lmtp, "mx.alfa.test".to_owned(), options), directory)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_at_once_have_each_the_answer_of_their_own() {
    let (desk, pool, _directory) = start(
        Limits { connections: 4, ..Limits::default() },
        Options { connections: 4, ..Options::default() },
    );
    let all: Vec<_> = (0..500)
        .map(|i| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let (recipient, pieces) =
                    (format!("r{i}@alfa.test"), [Bytes::from(format!("Subject: {i}\r\n\r\n.{i}"))]);
                let message = Outgoing {
                    sender: "",
                    recipient: &recipient,
                    envid: Some(&recipient),
                    ret: None,
                    notify: None,
                    ident: Some("4gWx"),
                    pieces: &pieces,
                };
                (pool.give(message).await.unwrap(), recipient)
            })
        })
        .collect();
    for one in all {
        let (answer, recipient) = one.await.unwrap();
        assert_eq!(
            (answer.at, &answer.reply.text, answer.reply.is_yes()),
            (Step::Message, &recipient, !recipient.contains('7'))
        );
    }
    let received = desk.0.lock().unwrap();
    assert_eq!(received.len(), 500);
    for message in &*received {
        let number = message.recipients[0].path.trim_start_matches('r').trim_end_matches("@alfa.test");
        assert_eq!(message.data, format!("Subject: {number}\r\n\r\n.{number}\r\n"));
        assert_eq!(
            (message.envid.as_ref(), message.ident.as_deref()),
            (Some(&message.recipients[0].path), Some("4gWx"))
        );
    }
}

#[tokio::test]
async fn fifty_megabytes_arrive_as_they_are() {
    let (desk, pool, _directory) = start(Limits::default(), Options::default());
    let line = format!("..{}\r\n.\r\n", "x".repeat(93));
    let body = Bytes::from(line.repeat(500_000));
    let pieces = [Bytes::from_static(b"Subject: x\r\n\r\n"), body.clone()];
    let message = Outgoing {
        sender: "",
        recipient: "a@alfa.test",
        envid: None,
        ret: None,
        notify: None,
        ident: None,
        pieces: &pieces,
    };
    assert!(pool.give(message).await.unwrap().reply.is_yes());
    let received = desk.0.lock().unwrap();
    assert!(received[0].data == pieces.concat());
}
