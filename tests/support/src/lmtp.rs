//! The part of Postfix's lmtp client: it brings a message to an LMTP server on a unix socket.

use std::path::Path;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::postfix::Mail;

/// Brings the message, under this envelope id, to all its recipients in one transaction; gives back the
/// answer for each, in their order: that to RCPT TO where it is a refusal, otherwise that to the message.
pub async fn bring(socket: &Path, mail: &Mail, envid: Option<&str>) -> Vec<String> {
    let mut client = Client::connect(socket).await;
    let data = mail.to_bytes();
    let refused = client.envelope(mail, envid, data.len()).await;
    if refused.iter().any(Option::is_none) {
        client.ask("DATA", "354").await;
        client.message(&data).await;
    }
    let mut answers = Vec::new();
    for refusal in refused {
        answers.push(match refusal {
            Some(refusal) => refusal,
            None => client.hear().await.expect("no answer to the message"),
        });
    }
    answers
}

/// The same to its one recipient.
pub async fn bring_one(socket: &Path, mail: &Mail, envid: Option<&str>) -> String {
    assert_eq!(mail.recipients.len(), 1);
    bring(socket, mail, envid).await.remove(0)
}

/// One connection.
pub struct Client(BufReader<UnixStream>);

impl Client {
    /// Connects, and says LHLO.
    pub async fn connect(socket: &Path) -> Self {
        let mut client = Self(BufReader::new(UnixStream::connect(socket).await.unwrap()));
        assert_eq!(client.hear().await.as_deref().map(|greeting| &greeting[..4]), Some("220 "));
        client.ask("LHLO mail.test", "250").await;
        client
    }

    /// Says of whom and for whom a message of `size` bytes is; gives back which recipients are refused.
    pub async fn envelope(&mut self, mail: &Mail, envid: Option<&str>, size: usize) -> Vec<Option<String>> {
        self.ask(&format!("XFORWARD IDENT={}", mail.queue_id), "250").await;
        let sender = mail.sender.trim_matches(['<', '>']);
        let envid = envid.map(|envid| format!(" RET=HDRS ENVID={envid}")).unwrap_or_default();
        self.ask(&format!("MAIL FROM:<{sender}> SIZE={size}{envid}"), "250").await;
        let mut refused = Vec::new();
        for recipient in &mail.recipients {
            self.say(&format!("RCPT TO:{recipient} NOTIFY=FAILURE\r\n")).await;
            refused.push(
                Some(self.hear().await.expect("no answer to RCPT TO"))
                    .filter(|answer| !answer.starts_with('2')),
            );
        }
        refused
    }

    /// Says a command that is answered with this code.
    #[track_caller]
    pub fn ask(&mut self, command: &str, code: &str) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            self.say(&format!("{command}\r\n")).await;
            let answer = self.hear().await;
            assert!(
                answer.as_ref().is_some_and(|answer| answer.starts_with(code)),
                "{at}: {command}: {answer:?}"
            );
        }
    }

    /// Says a message, and that it is over.
    pub async fn message(&mut self, data: &[u8]) {
        let mut stuffed = Vec::with_capacity(data.len() + 1024);
        for line in data.split_inclusive(|&b| b == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        assert!(stuffed.ends_with(b"\r\n"), "Postfix ends the last line");
        stuffed.extend_from_slice(b".\r\n");
        // A server that ends meanwhile has said its last word.
        let _ = self.0.write_all(&stuffed).await;
    }

    /// Says anything.
    pub async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer, its last line; `None`: the server has closed the connection.
    pub async fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await.unwrap_or(0) == 0 {
                return None;
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line.trim_end().to_owned());
            }
        }
    }
}
