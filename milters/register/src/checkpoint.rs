//! Checkpoints: what the log key says of the tree (C2SP signed-note, tlog-checkpoint).
//!
//! Promise: a checkpoint names the register, the size of the tree, its root and the time. Any tool that knows
//! C2SP's formats reads and verifies it; `time ...` is an extension line that those tools pass over.

use std::path::Path;

use openssl::base64::encode_block;
use openssl::pkey::{Id, PKey, Private};
use pec_core::clock::Moment;
use pec_core::smime::sign::SignError;
use pec_host::parameters::{ParameterError, Settings, SigningKey};
use pec_host::read::{closed_to_others, private_key};
use pec_token::TokenLogKey;
use signed_note::{Note, StandardVerifier, Verifier, VerifierList};
use tlog_tiles::Hash;

use crate::error::RegisterError;

/// What a public key of a note begins with: the algorithm Ed25519.
const ED25519: u8 = 1;

/// Something that holds the log key.
pub trait SignsCheckpoints: Send + Sync {
    /// The public half.
    fn public_key(&self) -> [u8; 32];

    /// Ed25519 (RFC 8032) over `data`: 64 bytes.
    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// The key that signs checkpoints, with the register's name.
pub struct LogKey {
    name: String,
    key: Box<dyn SignsCheckpoints>,
}

impl LogKey {
    /// The key of `pec_register_key`.
    pub fn read(settings: &Settings) -> Result<Self, RegisterError> {
        match &settings.register_key {
            SigningKey::File(file) => Ok(Self::new(settings, Box::new(InFile::read(file)?))),
            SigningKey::Token(uri) => {
                // The words name parameter and key.
                let error = |e: SignError| match e {
                    SignError::Key(words) | SignError::Away(words) => RegisterError::LogKey(words),
                    SignError::Encoding(_) => e.into(),
                };
                let key = TokenLogKey::open(settings.pkcs11.token(uri)?).map_err(error)?;
                let public = key.public_key().map_err(error)?;
                Ok(Self::new(settings, Box::new(OnToken { key, public })))
            }
        }
    }

    /// That key under the name of this provider's register.
    pub fn new(settings: &Settings, key: Box<dyn SignsCheckpoints>) -> Self {
        Self { name: origin(settings), key }
    }

    /// The public key as C2SP's tools write it: `gestore.example/register+1a2b3c4d+AZ...`.
    pub fn public(&self) -> String {
        let key = [&[ED25519][..], &self.key.public_key()].concat();
        format!("{}+{:08x}+{}", self.name, signed_note::key_id(&self.name, &key), encode_block(&key))
    }

    /// The checkpoint of a tree of this size and root, as of `moment`.
    pub fn checkpoint(&self, size: u64, root: Hash, moment: Moment) -> Result<String, SignError> {
        let error = |e: &dyn std::fmt::Display| SignError::Key(format!("the checkpoint: {e}"));
        let checkpoint = tlog_tiles::Checkpoint::new(&self.name, size, root, &format!("time {moment}\n"))
            .map_err(|e| error(&e))?;
        let text = checkpoint.to_bytes();
        let signature = self.key.sign(&text)?;
        let key = [&[ED25519][..], &self.key.public_key()].concat();
        let signature =
            signed_note::Signature::new(self.name.clone(), signed_note::key_id(&self.name, &key), signature)
                .map_err(|e| error(&e))?;
        let note = Note::new(&text, &[signature]).map_err(|e| error(&e))?;
        String::from_utf8(note.to_bytes()).map_err(|e| error(&e))
    }
}

/// The name of a provider's register.
pub fn origin(settings: &Settings) -> String {
    format!("{}/register", settings.service_domain)
}

struct InFile(PKey<Private>);

impl InFile {
    fn read(file: &Path) -> Result<Self, ParameterError> {
        let error = |trouble: String| ParameterError::File {
            name: "pec_register_key",
            path: file.display().to_string(),
            trouble,
        };
        let key = private_key(file).map_err(error)?;
        closed_to_others(file).map_err(error)?;
        if key.id() != Id::ED25519 {
            return Err(error("is no Ed25519 key".to_owned()));
        }
        Ok(Self(key))
    }
}

impl SignsCheckpoints for InFile {
    fn public_key(&self) -> [u8; 32] {
        // An Ed25519 key has one, of that length.
        self.0.raw_public_key().ok().and_then(|key| key.try_into().ok()).unwrap_or_default()
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = openssl::sign::Signer::new_without_digest(&self.0)
            .and_then(|mut signer| signer.sign_oneshot_to_vec(data));
        signed.map_err(|e| SignError::Key(e.to_string()))
    }
}

struct OnToken {
    key: TokenLogKey,
    public: [u8; 32],
}

impl SignsCheckpoints for OnToken {
    fn public_key(&self) -> [u8; 32] {
        self.public
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        self.key.sign(data)
    }
}

/// A checkpoint that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Whose register.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// When it was signed, if it says so.
    pub time: Option<Moment>,
}

/// It is no checkpoint of this register.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Not the format.
    #[error("is no checkpoint (C2SP tlog-checkpoint)")]
    Form,
    /// Not signed by the key, or not as it stands.
    #[error("is not signed by the log key: {0}")]
    Signature(String),
    /// Of another register.
    #[error("is of the register {0}")]
    Origin(String),
    /// The key given is none.
    #[error("{0}: is no public key of a log (NAME+ID+KEY)")]
    Key(String),
}

impl Checkpoint {
    /// Reads a checkpoint without asking who signed it.
    pub fn read(text: &str) -> Result<Self, CheckpointError> {
        let note = Note::from_bytes(text.as_bytes()).map_err(|_| CheckpointError::Form)?;
        let inside = tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|_| CheckpointError::Form)?;
        let time = inside.extension().lines().find_map(|line| line.strip_prefix("time ")).and_then(moment);
        Ok(Self { origin: inside.origin().to_owned(), size: inside.size(), root: *inside.hash(), time })
    }

    /// Reads one that the log with this public key ([`LogKey::public`]) has signed.
    pub fn open(text: &str, public: &str) -> Result<Self, CheckpointError> {
        let verifier = StandardVerifier::new(public).map_err(|_| CheckpointError::Key(public.to_owned()))?;
        let name = verifier.name().to_owned();
        let checkpoint = Self::read(text)?;
        if checkpoint.origin != name {
            return Err(CheckpointError::Origin(checkpoint.origin));
        }
        let note = Note::from_bytes(text.as_bytes()).map_err(|_| CheckpointError::Form)?;
        note.verify(&VerifierList::new(vec![Box::new(verifier)]))
            .map_err(|e| CheckpointError::Signature(e.to_string()))?;
        Ok(checkpoint)
    }
}

fn moment(text: &str) -> Option<Moment> {
    Some(Moment::from_unix(text.parse::<jiff::Timestamp>().ok()?.as_second()))
}
