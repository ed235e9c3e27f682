//! Bytes from and to the other side, whichever kind of socket it is.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;

use crate::Peer;

/// How many bytes are read at once.
pub(crate) const READ: usize = 16 * 1024;

/// How soon a unix socket is tried again whose queue is full: nothing tells when it no longer is.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);

/// A connection.
pub(crate) enum Stream {
    Unix(UnixStream),
    Inet(TcpStream),
}

impl Stream {
    pub(crate) async fn connect(peer: &Peer) -> io::Result<Self> {
        match peer {
            Peer::Unix(path) => loop {
                match UnixStream::connect(path).await {
                    // Its queue of connections is full.
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => sleep(CONNECT_AGAIN).await,
                    connected => return connected.map(Self::Unix),
                }
            },
            Peer::Inet(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Inet(stream))
            }
        }
    }

    /// Adds what comes next to `input`. `Ok(false)`: the other side has closed. Nothing is lost if it is not
    /// waited for.
    pub(crate) async fn read(&mut self, input: &mut BytesMut) -> io::Result<bool> {
        input.reserve(READ);
        let read = match self {
            Self::Unix(stream) => stream.read_buf(input).await,
            Self::Inet(stream) => stream.read_buf(input).await,
        };
        Ok(read? > 0)
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes).await,
            Self::Inet(stream) => stream.write_all(bytes).await,
        }
    }

    /// Writes what can be written without waiting.
    pub(crate) fn write_now(&self, bytes: &[u8]) {
        // It is said out of politeness: nothing hangs on it.
        let _ = match self {
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Inet(stream) => stream.try_write(bytes),
        };
    }

    /// Adds what has come already to `input`, up to a buffer's length. Whether the other side is known to
    /// have closed.
    pub(crate) fn read_now(&self, input: &mut BytesMut) -> bool {
        input.reserve(READ);
        let read = match self {
            Self::Unix(stream) => stream.try_read_buf(input),
            Self::Inet(stream) => stream.try_read_buf(input),
        };
        !matches!(read, Ok(1..)) && !matches!(read, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}
