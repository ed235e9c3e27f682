//! A stand-in for Postfix's internal smtpd: takes a message by SMTP, asks the milter behind it, and keeps what would be queued.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::postfix::{Mail, Outcome, Queued};

/// The server; clones are the same one.
#[derive(Clone)]
pub struct Smtpd {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    milter: Option<SocketAddr>,
    lose_answers: usize,
    forget: usize,
    commands: Vec<String>,
    queued: Vec<Queued>,
    forgotten: Vec<Queued>,
}

impl Smtpd {
    /// Starts one whose milter is not there yet.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&server.state);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&state)));
            }
        });
        server
    }

    /// From now on this milter is asked; `None`: it is down.
    pub fn milter(&self, milter: Option<SocketAddr>) {
        self.state.lock().unwrap().milter = milter;
    }

    /// The next so many messages are queued and the connection breaks before the client is told.
    pub fn lose_answers(&self, answers: usize) {
        self.state.lock().unwrap().lose_answers = answers;
    }

    /// Of the next so many messages the milter hears, and then smtpd dies: nothing is queued, nobody is told.
    pub fn forget(&self, messages: usize) {
        self.state.lock().unwrap().forget = messages;
    }

    /// What was queued since the last time that this was asked.
    pub fn queued(&self) -> Vec<Queued> {
        std::mem::take(&mut self.state.lock().unwrap().queued)
    }

    /// What was made and forgotten since the last time that this was asked.
    pub fn forgotten(&self) -> Vec<Queued> {
        std::mem::take(&mut self.state.lock().unwrap().forgotten)
    }

    /// Every command since the last time that this was asked.
    pub fn commands(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().commands)
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let (mut sender, mut recipients) = (String::new(), Vec::new());
    stream.write_all(b"220 mail.test ESMTP\r\n").await.ok()?;
    loop {
        let line = line(&mut stream).await?;
        state.lock().unwrap().commands.push(line.clone());
        let milter = state.lock().unwrap().milter;
        let reply = match line.split_once(' ').map_or(line.as_str(), |(verb, _)| verb) {
            "EHLO" => "250-mail.test\r\n250-SIZE\r\n250 DSN".to_owned(),
            "MAIL" if milter.is_none() => "451 4.7.1 Service unavailable - try again later".to_owned(),
            "MAIL" => {
                sender = path(&line);
                "250 2.1.0 Ok".to_owned()
            }
            "RCPT" => {
                recipients.push(path(&line));
                "250 2.1.5 Ok".to_owned()
            }
            "DATA" => {
                stream.write_all(b"354 End data\r\n").await.ok()?;
                let text = message(&mut stream).await?;
                let mail =
                    Mail { account: None, sender: sender.clone(), recipients: std::mem::take(&mut recipients), ..Mail::submitted("", &[], &text) };
                let outcome = mail.give_to(milter?).await;
                let mut state = state.lock().unwrap();
                match outcome {
                    Outcome::Queued(queued) if state.forget > 0 => {
                        state.forget -= 1;
                        state.forgotten.push(*queued);
                        return None;
                    }
                    Outcome::Queued(queued) => {
                        state.queued.push(*queued);
                        if state.lose_answers > 0 {
                            state.lose_answers -= 1;
                            return None;
                        }
                        "250 2.0.0 Ok: queued".to_owned()
                    }
                    Outcome::Discarded => "250 2.0.0 Ok: queued".to_owned(),
                    Outcome::Rejected(text) | Outcome::Deferred(text) => text,
                }
            }
            _ => return None, // QUIT
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    (stream.read_line(&mut line).await.ok()? > 0).then(|| line.trim_end().to_owned())
}

async fn message(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let mut line = Vec::new();
        stream.read_until(b'\n', &mut line).await.ok().filter(|&n| n > 0)?;
        if line == b".\r\n" {
            return Some(text);
        }
        text.extend_from_slice(&line);
    }
}

fn path(line: &str) -> String {
    let (from, to) = (line.find('<').unwrap(), line.find('>').unwrap());
    line[from..=to].to_owned()
}
