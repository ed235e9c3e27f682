//! Signing with a key on a PKCS#11 token (HSM).
//!
//! Promise: the vendor's library never runs in a milter. Processes of pec-token load it, one for each
//! signature that is made at the same time; each keeps one session. What goes wrong in there (a hang, a
//! crash, a session that the token closed, a token that was pulled) ends that process, and the next signature
//! starts a new one, which is as fresh as a library can be (C_Initialize). So the token is served again as
//! soon as it is back, and a hang lasts no longer than the time limit.
//!
//! No signature leaves here that the certificate's public key does not verify: another key in the same place,
//! a token restored from the wrong backup or a broken one are errors, and mail waits.
//!
//! The PIN is read by pec-token from its file; it is in no argument and no message. A PIN that the token
//! refused is not tried a second time before the next reload, and never by two processes at once: tokens lock
//! themselves after a few wrong ones.

mod log_key;
pub mod wire;
mod worker;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openssl::pkey::{PKey, Public};
use pec_core::smime::own::OwnCertificate;
use pec_core::smime::sign::{Identity, SignError, Signer};
use pec_host::maillog;
use pec_host::outages::{Outages, Thing};
use pec_host::parameters::Token;

pub use crate::log_key::TokenLogKey;
use crate::worker::{Failure, Worker};

/// For how long after a failure no new process is started: the same answer is given instead.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a token may take to make a key.
const MAKE_TIME: Duration = Duration::from_secs(300);

/// What is signed to see whether key and certificate are a pair.
const PROOF: &[u8] = b"Is this the key of the certificate?";

/// The key on a token, with its certificate.
pub struct TokenSigner {
    certificate: OwnCertificate,
    token: Token,
    state: Mutex<State>,
    /// Held while a process logs in.
    opening: Mutex<()>,
    outages: Outages,
}

#[derive(Default)]
struct State {
    /// Processes that wait for work.
    idle: Vec<Worker>,
    /// The last failure to open the token, and when; nothing once it was opened.
    failed: Option<(Failure, Instant)>,
    /// Whether the administrator knows that nothing is signed.
    down: bool,
}

impl TokenSigner {
    /// Opens the token and has it sign something, which the certificate must verify.
    pub fn open(certificate: OwnCertificate, token: Token) -> Result<Self, SignError> {
        let signer = Self {
            certificate,
            token,
            state: Mutex::default(),
            opening: Mutex::default(),
            outages: Outages::default(),
        };
        signer.signature(PROOF).map_err(|failure| error(&signer.token, failure))?;
        Ok(signer)
    }

    /// The same; when it does not sign, `outages` hears of it.
    pub fn telling(self, outages: &Outages) -> Self {
        Self { outages: outages.clone(), ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in there is half done after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By a process that is there, or by a new one.
    fn signature(&self, data: &[u8]) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + self.token.time_limit;
        let idle = self.state().idle.pop();
        if let Some(worker) = idle {
            let done = self.signature_by(worker, data, deadline);
            if done.is_ok() {
                return done;
            }
            // What ended this session has ended the others, too. That alone is no reason to wait.
            let ended = std::mem::take(&mut self.state().idle);
            drop(ended);
            if Instant::now() >= deadline {
                return done;
            }
        }
        let worker = self.start(deadline)?;
        self.signature_by(worker, data, deadline)
    }

    fn signature_by(&self, mut worker: Worker, data: &[u8], deadline: Instant) -> Result<Vec<u8>, Failure> {
        let signature = worker.sign(data, deadline)?;
        if !self.certificate.verifies(data, &signature) {
            return Err(Failure::Wrong(format!(
                "what it signs does not verify with the certificate in {}",
                self.certificate.file().display()
            )));
        }
        self.state().idle.push(worker);
        Ok(signature)
    }

    /// One at a time: of the messages that find all sessions gone one tries the PIN, and the others hear what
    /// it heard. Who waits here does so no longer than the first may take, which is before its own time is
    /// over.
    fn start(&self, deadline: Instant) -> Result<Worker, Failure> {
        let _turn = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        match &state.failed {
            Some((failure @ Failure::PinRefused(_), _)) => return Err(failure.clone()),
            Some((failure, at)) if at.elapsed() < PAUSE => return Err(failure.clone()),
            _ => {}
        }
        // Somebody has opened one and is done with it.
        if let Some(worker) = state.idle.pop() {
            return Ok(worker);
        }
        if Instant::now() >= deadline {
            return Err(Failure::too_slow());
        }
        drop(state);
        let started = Worker::start(&self.token, None, false, deadline);
        self.state().failed = started.as_ref().err().map(|failure| (failure.clone(), Instant::now()));
        started.map(|(worker, _)| worker)
    }
}

fn error(token: &Token, failure: Failure) -> SignError {
    let words = |why: String| format!("pec_signing_key = {}: {why}", token.uri);
    match failure {
        Failure::Away(why) => SignError::Away(words(why)),
        Failure::Wrong(why) | Failure::PinRefused(why) => SignError::Key(words(why)),
    }
}

/// A key on a token for which there is no certificate yet.
pub struct TokenKey {
    worker: Worker,
    token: Token,
    public_key: PKey<Public>,
}

impl TokenKey {
    /// Makes a key of so many bits. It cannot leave the token. One that has the name already is not touched:
    /// that is an error.
    pub fn make(token: Token, bits: u32) -> Result<Self, SignError> {
        let until = Instant::now() + MAKE_TIME.max(token.time_limit);
        Self::start(token, Some(bits), until)
    }

    /// The key that is there.
    pub fn open(token: Token) -> Result<Self, SignError> {
        let until = Instant::now() + token.time_limit;
        Self::start(token, None, until)
    }

    fn start(token: Token, make: Option<u32>, until: Instant) -> Result<Self, SignError> {
        let (worker, der) =
            Worker::start(&token, make, false, until).map_err(|failure| error(&token, failure))?;
        let public_key = PKey::public_key_from_der(&der).map_err(|e| SignError::Key(e.to_string()))?;
        Ok(Self { worker, token, public_key })
    }

    /// Its public half.
    pub fn public_key(&self) -> &PKey<Public> {
        &self.public_key
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 over `data`.
    pub fn sign(&mut self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        self.worker
            .sign(data, Instant::now() + self.token.time_limit)
            .map_err(|failure| error(&self.token, failure))
    }
}

impl Signer for TokenSigner {
    fn identity(&self) -> &Identity {
        self.certificate.identity()
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = self.signature(data).map_err(|failure| error(&self.token, failure));
        let down = signed.is_err();
        if std::mem::replace(&mut self.state().down, down) != down {
            match &signed {
                Ok(_) => {
                    maillog::token_up();
                    self.outages.up(Thing::Token);
                }
                Err(e) => {
                    maillog::token_down(&e.to_string());
                    self.outages.down(Thing::Token, &e.to_string());
                }
            }
        }
        signed
    }

    fn waits(&self) -> bool {
        true
    }
}
