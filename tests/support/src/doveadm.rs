//! A stand-in for doveadm's HTTP API that answers what a test tells it to. The real one has its turn in tests/scenarios.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What is answered to a request: status, body.
type Answer = Box<dyn Fn(&str) -> (u16, String) + Send>;

/// A server whose answer can be set.
#[derive(Clone)]
pub struct Doveadm {
    /// Where it listens.
    pub address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Doveadm {
    /// Starts with a mailbox that holds nothing.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nothing: Answer = Box::new(|_| (200, rows(&[])));
        let server = Self { address: listener.local_addr().unwrap(), answer: Arc::new(Mutex::new(nothing)), requests: Arc::default() };
        let state = server.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !complete(&request) {
                    let mut piece = [0; 4096];
                    match stream.read(&mut piece).await.unwrap() {
                        0 => break,
                        n => request.extend_from_slice(&piece[..n]),
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let (status, body) = (state.answer.lock().unwrap())(&request);
                state.requests.lock().unwrap().push(request);
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(body.as_bytes()).await.unwrap();
            }
        });
        server
    }

    /// The mailbox holds copies that were received at these moments.
    pub fn received(&self, moments: &[i64]) {
        self.answers(200, &rows(moments));
    }

    /// The next answers are these.
    pub fn answers(&self, status: u16, body: &str) {
        let body = body.to_owned();
        *self.answer.lock().unwrap() = Box::new(move |_| (status, body.clone()));
    }

    /// Every request is answered with the moments that `received` finds for it; `None`: there is no such mailbox.
    pub fn answers_by(&self, received: impl Fn(&str) -> Option<Vec<i64>> + Send + 'static) {
        const NO_USER: &str = "[[\"error\",{\"type\":\"exitCode\",\"exitCode\":67},\"1\"]]";
        *self.answer.lock().unwrap() = Box::new(move |request| (200, received(request).map_or_else(|| NO_USER.to_owned(), |moments| rows(&moments))));
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn rows(moments: &[i64]) -> String {
    let rows: Vec<_> = moments.iter().map(|m| format!("{{\"date.received.unixtime\":\"{m}\"}}")).collect();
    format!("[[\"doveadmResponse\",[{}],\"1\"]]", rows.join(","))
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse::<usize>().unwrap()));
    body.len() >= length.unwrap_or(0)
}
