//! A stand-in for clamd that knows two words. The real one has its turn in tests/scenarios.

use std::sync::Arc;

use pec_host::parameters::Socket;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// A message with this word has a virus.
pub const VIRUS: &str = "virus-di-prova";

/// A message with this word is one that clamd does not scan to its end.
pub const ENDLESS: &str = "archivio-senza-fine";

/// A message with this word is scanned without end.
pub const HELD: &str = "archivio-che-tiene-occupati";

/// Starts it; gives back where it listens.
pub async fn start() -> Socket {
    start_as("ClamAV 0").await
}

/// Starts one of this version.
pub async fn start_as(version: &'static str) -> Socket {
    start_with(version, Semaphore::MAX_PERMITS).await.0
}

/// Starts one that scans so many messages at once; it says how many of them have [`HELD`].
pub async fn start_with_threads(threads: usize) -> (Socket, watch::Receiver<usize>) {
    start_with("ClamAV 0", threads).await
}

async fn start_with(version: &'static str, threads: usize) -> (Socket, watch::Receiver<usize>) {
    let (held, how_many) = watch::channel(0);
    let (held, threads) = (Arc::new(held), Arc::new(Semaphore::new(threads)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = Socket::Inet(listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let (held, threads) = (Arc::clone(&held), Arc::clone(&threads));
            tokio::spawn(async move {
                let _thread = threads.acquire().await.unwrap();
                answer(connection, version, &held).await;
            });
        }
    });
    (socket, how_many)
}

async fn answer(mut connection: TcpStream, version: &str, held: &watch::Sender<usize>) {
    let mut command = Vec::new();
    while command.last() != Some(&0) {
        command.push(connection.read_u8().await.unwrap());
    }
    let named = format!("{version}\0");
    let answer = match &command[..] {
        b"zVERSION\0" => &named,
        b"zINSTREAM\0" => {
            let mut stream = Vec::new();
            loop {
                let length = connection.read_u32().await.unwrap() as usize;
                if length == 0 {
                    break;
                }
                let start = stream.len();
                stream.resize(start + length, 0);
                connection.read_exact(&mut stream[start..]).await.unwrap();
            }
            let stream = String::from_utf8_lossy(&stream);
            if stream.contains(HELD) {
                held.send_modify(|held| *held += 1);
                std::future::pending::<()>().await;
            }
            if stream.contains(VIRUS) {
                "stream: Virus-Di-Prova FOUND\0"
            } else if stream.contains(ENDLESS) {
                "stream: Heuristics.Limits.Exceeded.MaxFiles FOUND\0"
            } else {
                "stream: OK\0"
            }
        }
        _ => "UNKNOWN COMMAND\0",
    };
    connection.write_all(answer.as_bytes()).await.unwrap();
}
