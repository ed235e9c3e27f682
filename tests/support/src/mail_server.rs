//! A mail server on a unix socket that answers what a test tells it to: the mailbox server (LMTP), or
//! Postfix's smtpd for notices to other providers (SMTP). The real ones have their turn in tests/scenarios.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pec_core::header::Header;
use pec_core::mime::header_end;
use pec_host::parameters::Socket;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::postfix::Mail;

/// A message that it took.
#[derive(Debug, Clone)]
pub struct Taken {
    /// What followed `MAIL FROM:`, ESMTP parameters included.
    pub sender: String,
    /// The recipient, without brackets.
    pub recipient: String,
    /// What followed the recipient.
    pub parameters: String,
    /// The queue id that the client gave with it (XFORWARD).
    pub ident: Option<String>,
    /// Header and body.
    pub data: Bytes,
}

impl Taken {
    /// As Postfix would have it.
    pub fn mail(&self) -> Mail {
        let (end, start) = header_end(&self.data).unwrap();
        Mail {
            sender: self.sender.split(' ').next().unwrap().to_owned(),
            recipients: vec![format!("<{}>", self.recipient)],
            header: Header::parse(&self.data[..end]).unwrap(),
            body: self.data[start..].to_vec(),
            ..Mail::submitted("", &[], b"X: x\n\n")
        }
    }
}

#[derive(Default)]
struct State {
    taken: Vec<Taken>,
    /// Answers to RCPT TO, and to the message, by recipient.
    at_recipient: HashMap<String, String>,
    at_message: HashMap<String, String>,
    lose_answers: usize,
    lose_messages: usize,
    asked: Vec<String>,
    /// Recipients whose messages are not answered now, and those for whom one has come that is not.
    locked: HashSet<String>,
    waiting: Vec<String>,
}

/// A mail server whose answers can be set.
#[derive(Clone)]
pub struct MailServer {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

impl MailServer {
    /// Begins to listen below `directory`, under this name. It takes everything.
    pub fn start(directory: &Path, name: &str) -> Self {
        let server = Self { path: directory.join(name), state: Arc::default() };
        let listener = UnixListener::bind(&server.path).unwrap();
        let state = Arc::clone(&server.state);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&state)));
            }
        });
        server
    }

    /// As a parameter names it.
    pub fn socket(&self) -> Socket {
        Socket::Unix(self.path.clone())
    }

    /// From now on RCPT TO for this recipient is answered so; nothing: 250.
    pub fn answer_recipient(&self, recipient: &str, answer: Option<&str>) {
        set(&mut self.state.lock().unwrap().at_recipient, recipient, answer);
    }

    /// The same for the end of a message. What begins with 2 is taken.
    pub fn answer_message(&self, recipient: &str, answer: Option<&str>) {
        set(&mut self.state.lock().unwrap().at_message, recipient, answer);
    }

    /// The next so many messages are taken, and the connection breaks before the client is told.
    pub fn lose_answers(&self, answers: usize) {
        self.state.lock().unwrap().lose_answers = answers;
    }

    /// The next so many messages are lost with their connection.
    pub fn lose_messages(&self, messages: usize) {
        self.state.lock().unwrap().lose_messages = messages;
    }

    /// From now on a message for this recipient is neither taken nor answered, until he is unlocked.
    pub fn lock(&self, recipient: &str) {
        self.state.lock().unwrap().locked.insert(recipient.to_owned());
    }

    /// Those that waited are taken and answered.
    pub fn unlock(&self, recipient: &str) {
        self.state.lock().unwrap().locked.remove(recipient);
    }

    /// Returns when so many messages for this recipient wait because he is locked.
    pub async fn waiting(&self, recipient: &str, messages: usize) {
        while self.state.lock().unwrap().waiting.iter().filter(|r| *r == recipient).count() != messages {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What was taken since the last time that this was asked.
    pub fn taken(&self) -> Vec<Taken> {
        std::mem::take(&mut self.state.lock().unwrap().taken)
    }

    /// The recipients of every RCPT TO since the last time that this was asked.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

fn set(answers: &mut HashMap<String, String>, recipient: &str, answer: Option<&str>) {
    match answer {
        Some(answer) => answers.insert(recipient.to_owned(), answer.to_owned()),
        None => answers.remove(recipient),
    };
}

async fn serve(stream: UnixStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let (mut sender, mut recipient, mut ident) = (String::new(), None, None);
    stream.write_all(b"220 mail.test\r\n").await.ok()?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        let reply = match line.split_once(' ').map_or(line, |(verb, _)| verb) {
            "LHLO" | "EHLO" => "250-mail.test\r\n250-8BITMIME\r\n250-SIZE\r\n250-DSN\r\n250-XFORWARD \
                IDENT\r\n250 ENHANCEDSTATUSCODES"
                .to_owned(),
            "XFORWARD" => {
                ident = line.strip_prefix("XFORWARD IDENT=").map(str::to_owned);
                "250 2.0.0 ok".to_owned()
            }
            "MAIL" => {
                sender = line.strip_prefix("MAIL FROM:").unwrap().to_owned();
                "250 2.1.0 ok".to_owned()
            }
            "RCPT" => {
                let (path, parameters) = line.strip_prefix("RCPT TO:<").unwrap().split_once('>').unwrap();
                let mut state = state.lock().unwrap();
                state.asked.push(path.to_owned());
                let answer =
                    state.at_recipient.get(path).cloned().unwrap_or_else(|| "250 2.1.5 ok".to_owned());
                recipient = answer.starts_with('2').then(|| (path.to_owned(), parameters.trim().to_owned()));
                answer
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                let data = message(&mut stream).await?;
                let (recipient, parameters) = recipient.take()?;
                unlocked(&state, &recipient).await;
                let mut state = state.lock().unwrap();
                if state.lose_messages > 0 {
                    state.lose_messages -= 1;
                    return None;
                }
                let answer = state
                    .at_message
                    .get(&recipient)
                    .cloned()
                    .unwrap_or_else(|| "250 2.0.0 stored".to_owned());
                if answer.starts_with('2') {
                    state.taken.push(Taken {
                        sender: sender.clone(),
                        recipient,
                        parameters,
                        ident: ident.take(),
                        data: data.into(),
                    });
                    if state.lose_answers > 0 {
                        state.lose_answers -= 1;
                        return None;
                    }
                }
                answer
            }
            "RSET" | "NOOP" => "250 2.0.0 ok".to_owned(),
            "QUIT" => "221 2.0.0 bye".to_owned(),
            _ => "500 5.5.2 what".to_owned(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
}

/// Returns when the recipient is not locked.
async fn unlocked(state: &Mutex<State>, recipient: &str) {
    state.lock().unwrap().waiting.push(recipient.to_owned());
    while state.lock().unwrap().locked.contains(recipient) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = &mut state.lock().unwrap().waiting;
    waiting.swap_remove(waiting.iter().position(|r| r == recipient).unwrap());
}

async fn message(stream: &mut BufReader<UnixStream>) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let mut line = Vec::new();
        stream.read_until(b'\n', &mut line).await.ok().filter(|&n| n > 0)?;
        match &line[..] {
            b".\r\n" => return Some(text),
            [b'.', rest @ ..] => text.extend_from_slice(rest),
            line => text.extend_from_slice(line),
        }
    }
}
