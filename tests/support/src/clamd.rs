//! A stand-in for clamd that knows two words. The real one has its turn in tests/scenarios.

use pec_host::parameters::Socket;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A message with this word has a virus.
pub const VIRUS: &str = "virus-di-prova";

/// A message with this word is one that clamd does not scan to its end.
pub const ENDLESS: &str = "archivio-senza-fine";

/// Starts it; gives back where it listens.
pub async fn start() -> Socket {
    start_as("ClamAV 0").await
}

/// Starts one of this version.
pub async fn start_as(version: &'static str) -> Socket {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = Socket::Inet(listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(connection, version));
        }
    });
    socket
}

async fn answer(mut connection: TcpStream, version: &str) {
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
