//! The key that signs the register's checkpoints, on a token (`pec_register_key`).
//!
//! Promise: as for the other key, no signature leaves here that its public half does not verify, and what
//! goes wrong ends the process; the next signature starts a new one. Whoever seals opens the key again and
//! again while it fails: a PIN that a token refused is tried again only when its file has changed.

use std::collections::HashMap;
use std::fs;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use openssl::pkey::{PKey, Public};
use openssl::sign::Verifier;
use pec_core::smime::sign::SignError;
use pec_host::files::{self, Stamp};
use pec_host::parameters::Token;

use crate::MAKE_TIME;
use crate::worker::{Failure, Worker};

/// A PIN that was refused.
struct Refusal {
    /// Of its file.
    stamp: Option<Stamp>,
    words: String,
}

/// By the key for which each was given.
static REFUSED: LazyLock<Mutex<HashMap<String, Refusal>>> = LazyLock::new(Mutex::default);

/// An Ed25519 key on a token.
pub struct TokenLogKey {
    token: Token,
    public: PKey<Public>,
    worker: Mutex<Option<Worker>>,
}

impl TokenLogKey {
    /// The key that is there.
    pub fn open(token: Token) -> Result<Self, SignError> {
        Self::start(token, None)
    }

    /// Makes the key. It cannot leave the token. One that has the name already is not touched: that is an
    /// error.
    pub fn make(token: Token) -> Result<Self, SignError> {
        Self::start(token, Some(255))
    }

    fn start(token: Token, make: Option<u32>) -> Result<Self, SignError> {
        let limit = if make.is_some() { MAKE_TIME.max(token.time_limit) } else { token.time_limit };
        let (worker, der) =
            start(&token, make, Instant::now() + limit).map_err(|failure| error(&token, failure))?;
        let public =
            PKey::public_key_from_der(&der).map_err(|e| error(&token, Failure::Wrong(e.to_string())))?;
        Ok(Self { token, public, worker: Mutex::new(Some(worker)) })
    }

    /// Its public half (RFC 8032 s. 5.1.5).
    pub fn public_key(&self) -> Result<[u8; 32], SignError> {
        let raw = self.public.raw_public_key().ok().and_then(|raw| raw.try_into().ok());
        raw.ok_or_else(|| error(&self.token, Failure::Wrong("is no Ed25519 key".to_owned())))
    }

    /// Ed25519 over `data`: 64 bytes.
    pub fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        self.signature(data).map_err(|failure| error(&self.token, failure))
    }

    fn signature(&self, data: &[u8]) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + self.token.time_limit;
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        // A session that is gone is no reason to wait; a new one that fails is.
        if let Some(mut open) = worker.take()
            && let Ok(signature) = open.sign(data, deadline)
        {
            *worker = Some(open);
            return self.verified(data, signature);
        }
        let (mut new, _) = start(&self.token, None, deadline)?;
        let signature = new.sign(data, deadline)?;
        *worker = Some(new);
        self.verified(data, signature)
    }

    fn verified(&self, data: &[u8], signature: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let good = Verifier::new_without_digest(&self.public)
            .and_then(|mut verifier| verifier.verify_oneshot(&signature, data));
        if good.unwrap_or(false) {
            Ok(signature)
        } else {
            Err(Failure::Wrong("what it signs does not verify with its public half".to_owned()))
        }
    }
}

fn start(token: &Token, make: Option<u32>, deadline: Instant) -> Result<(Worker, Vec<u8>), Failure> {
    let key = format!("{} {}", token.module.display(), token.uri);
    let stamp = fs::metadata(&token.pin_file).ok().map(|metadata| files::stamp(&metadata));
    let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(refusal) = refused.get(&key).filter(|refusal| refusal.stamp == stamp) {
        return Err(Failure::PinRefused(refusal.words.clone()));
    }
    let started = Worker::start(token, make, true, deadline);
    match &started {
        Err(Failure::PinRefused(words)) => refused.insert(key, Refusal { stamp, words: words.clone() }),
        _ => refused.remove(&key),
    };
    started
}

fn error(token: &Token, failure: Failure) -> SignError {
    let words = |why: String| format!("pec_register_key = {}: {why}", token.uri);
    match failure {
        Failure::Away(why) => SignError::Away(words(why)),
        Failure::Wrong(why) | Failure::PinRefused(why) => SignError::Key(words(why)),
    }
}
