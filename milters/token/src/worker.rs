//! One process of pec-token, as the program sees it that has things signed.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pec_host::parameters::Token;

use crate::wire;

/// How long a process that is no longer needed may take to close its session.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long one whose socket has closed may take to be gone.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Why there is no signature.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The token does not answer. It may again by itself.
    Away(String),
    /// Somebody must change something.
    Wrong(String),
    /// The token does not take the PIN; trying it again may lock the token.
    PinRefused(String),
}

impl Failure {
    /// Its time is over.
    pub(crate) fn too_slow() -> Self {
        Self::Away("the token did not answer within pec_pkcs11_time_limit".to_owned())
    }
}

/// A process with a session.
pub(crate) struct Worker {
    /// There until the process is left to its end.
    child: Option<Child>,
    socket: UnixStream,
}

impl Worker {
    /// Starts a process and waits until its session is open; with the DER of the key's public half. With
    /// `make` the process makes the key first, of so many bits.
    pub(crate) fn start(
        token: &Token,
        make: Option<u32>,
        ed25519: bool,
        deadline: Instant,
    ) -> Result<(Self, Vec<u8>), Failure> {
        let failed =
            |e: io::Error| Failure::Wrong(format!("{} cannot be started: {e}", token.program.display()));
        let (socket, theirs) = UnixStream::pair().map_err(failed)?;
        let child = Command::new(&token.program)
            .args([&token.module, &token.pin_file])
            .arg(token.uri.to_string())
            .args(make.map(|bits| format!("--make={bits}")))
            .args(ed25519.then_some("--ed25519"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut worker = Self { child: Some(child), socket };
        let public_key = worker.answer(deadline)?;
        Ok((worker, public_key))
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 over `data`.
    pub(crate) fn sign(&mut self, data: &[u8], deadline: Instant) -> Result<Vec<u8>, Failure> {
        match wire::write(&self.socket, wire::SIGN, data) {
            Ok(()) => self.answer(deadline),
            Err(e) => Err(self.ended(&e)),
        }
    }

    fn answer(&mut self, deadline: Instant) -> Result<Vec<u8>, Failure> {
        match wire::read(Until { socket: &self.socket, deadline }) {
            Ok((wire::DONE, bytes)) => Ok(bytes),
            Ok((letter, words)) => {
                let words = String::from_utf8_lossy(&words).into_owned();
                Err(match letter {
                    wire::WRONG => Failure::Wrong(words),
                    wire::PIN_REFUSED => Failure::PinRefused(words),
                    _ => Failure::Away(words),
                })
            }
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                self.kill();
                Err(Failure::too_slow())
            }
            Err(e) => Err(self.ended(&e)),
        }
    }

    /// The process closed its socket with this `error`: how it ended tells a crash of the library from
    /// somebody's kill.
    fn ended(&mut self, error: &io::Error) -> Failure {
        let until = Instant::now() + LAST_BREATH;
        let status = loop {
            match self.child.as_mut().map(Child::try_wait) {
                Some(Ok(Some(status))) => break status.to_string(),
                Some(Ok(None)) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => break error.to_string(),
            }
        };
        Failure::Away(format!("the process with the vendor's library has ended ({status})"))
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            reap(child, Duration::ZERO);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It sees the end of its questions, closes its session and ends.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(child) = self.child.take() {
            reap(child, FAREWELL);
        }
    }
}

/// Waits for a process's end in the background: one that hangs in a driver may take its time even if it is
/// killed.
fn reap(mut child: Child, farewell: Duration) {
    std::thread::spawn(move || {
        let until = Instant::now() + farewell;
        while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    });
}

/// A socket that is read until a moment at the latest.
struct Until<'a> {
    socket: &'a UnixStream,
    deadline: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        let mut socket = self.socket;
        socket.read(buffer).map_err(|e| {
            if e.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { e }
        })
    }
}
