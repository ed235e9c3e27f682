//! What the provider says of the register with its own certificate: that a checkpoint is its, and that the
//! log key is.
//!
//! Promise: at least once a day the newest checkpoint lies in `attest/SIZE.checkpoint`, signed and
//! timestamped ([`crate::prover`]). Whoever steals the log key, or has it, cannot write another past before
//! the last of these timestamps. `log.key` has the log key's public half as C2SP's tools read it, signed and
//! timestamped in the same way, and is made anew when the key or the certificate is another one; those from
//! before stay as `log.key.YYYY-MM-DD` (the day on which they were replaced), since checkpoints of their time
//! are theirs.
//!
//! A name is there before what it is signed with; what is missing is made up in the next round. Nothing here
//! is read to go on with: it can be lost without harm to the register, and then only its days are proved less
//! well.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::stack::Stack;
use pec_core::clock::Moment;
use pec_host::files::beside;

use crate::checkpoint::Checkpoint;
use crate::error::RegisterError;
use crate::prover::{Prover, make_directory, named, signature_of, timestamp_of, write};

/// How often a checkpoint is signed at least, in seconds.
const EVERY: i64 = 86_400;

/// Where signed checkpoints lie.
pub fn directory(register: &Path) -> PathBuf {
    register.join("attest")
}

/// The signed checkpoints that there are, in the order of their sizes.
pub fn attested(register: &Path) -> Result<Vec<(u64, PathBuf)>, RegisterError> {
    let size = |file: &PathBuf| file.file_stem()?.to_str()?.parse::<u64>().ok();
    let mut files: Vec<_> = named(&directory(register), ".checkpoint")?
        .into_iter()
        .filter_map(|file| Some((size(&file)?, file)))
        .collect();
    files.sort();
    Ok(files)
}

/// Puts `checkpoint` (the text of the published one) among those that are signed, if a day is over since the
/// last one or `at_once`. Gives back its size if it did. Signing is [`complete`]'s.
pub fn take(
    register: &Path,
    checkpoint: &str,
    at_once: bool,
    now: Moment,
) -> Result<Option<u64>, RegisterError> {
    // What is no checkpoint is for the sealer to say.
    let Ok(read) = Checkpoint::read(checkpoint) else { return Ok(None) };
    let last = attested(register)?.pop();
    if let Some((size, file)) = last {
        let text = fs::read_to_string(&file).map_err(RegisterError::file(&file))?;
        let time = Checkpoint::read(&text).ok().and_then(|last| last.time).map_or(0, Moment::unix);
        if read.size <= size || !(at_once || now.unix() - time >= EVERY) {
            return Ok(None);
        }
    }
    let directory = directory(register);
    make_directory(&directory)?;
    write(&directory.join(format!("{}.checkpoint", read.size)), checkpoint.as_bytes())?;
    Ok(Some(read.size))
}

/// Signs and timestamps what is not yet, the oldest first.
pub fn complete(register: &Path, prover: &Prover<'_>) -> Result<(), RegisterError> {
    prover.complete_all(&attested(register)?.into_iter().map(|(_, file)| file).collect::<Vec<_>>())
}

/// Sees to it that `log.key` names this public key (`LogKey::public`) and is signed by the certificate of
/// today. Gives back whether it is a new one.
pub fn endorse(register: &Path, public: &str, prover: &Prover<'_>) -> Result<bool, RegisterError> {
    let file = register.join("log.key");
    let error = RegisterError::file(&file);
    let text = format!("{public}\n");
    let known = match fs::read_to_string(&file) {
        Ok(known) => Some(known),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(error(e)),
    };
    let is_current = known.as_ref() == Some(&text);
    // Without a signature it was made just now, or the one from before is put away already.
    let is_ours = !signature_of(&file).exists() || is_by(&signature_of(&file), prover)?;
    if !(is_current && is_ours) {
        if known.is_some() {
            put_away(&file, prover.now)?;
        }
        write(&file, text.as_bytes())?;
    }
    prover.complete(&file)?;
    Ok(!(is_current && is_ours))
}

/// Whether a signature is by the certificate of today.
fn is_by(signature: &Path, prover: &Prover<'_>) -> Result<bool, RegisterError> {
    use der::Encode as _;
    let bytes = fs::read(signature).map_err(RegisterError::file(signature))?;
    let ours = prover.signer.identity().certificate.to_der().unwrap_or_default();
    let by = || -> Result<bool, openssl::error::ErrorStack> {
        let pkcs7 = Pkcs7::from_der(&bytes)?;
        let none = Stack::new()?;
        let signers = pkcs7.signers(&none, Pkcs7Flags::empty())?;
        Ok(signers.iter().any(|signer| signer.to_der().is_ok_and(|der| der == ours)))
    };
    Ok(by().unwrap_or(false))
}

/// Moves the key of before, with what proves it, to a name with today's date. What a crash left half done is
/// gone on with: a copy of each is there before any of them goes, and the key's own name stays until the new
/// one takes it.
fn put_away(file: &Path, now: Moment) -> Result<(), RegisterError> {
    let day = now.to_string().chars().take(10).collect::<String>();
    let of = |name: &Path| [name.to_owned(), signature_of(name), timestamp_of(name)];
    let same = |name: &Path| fs::read(name).ok() == fs::read(file).ok();
    let free = (1..)
        .map(|n| beside(file, &if n == 1 { day.clone() } else { format!("{day}-{n}") }))
        .find(|name| !name.exists() || same(name));
    let Some(name) = free else { return Ok(()) };
    for (from, to) in of(file).iter().zip(of(&name)) {
        match fs::read(from) {
            Ok(content) => write(&to, &content)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(RegisterError::file(from)(e)),
        }
    }
    for gone in [timestamp_of(file), signature_of(file)] {
        match fs::remove_file(&gone) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(RegisterError::file(&gone)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// The public keys of the log that lie here, today's first: `log.key`, and those of before.
pub fn log_keys(register: &Path) -> Result<Vec<(PathBuf, String)>, RegisterError> {
    let mut keys = Vec::new();
    let is_key = |file: &PathBuf| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        name == "log.key"
            || name
                .strip_prefix("log.key.")
                .is_some_and(|day| day.starts_with(|c: char| c.is_ascii_digit()) && !day.contains('.'))
    };
    for file in named(register, "")?.into_iter().filter(is_key) {
        let text = fs::read_to_string(&file).map_err(RegisterError::file(&file))?;
        keys.push((file, text.trim_end().to_owned()));
    }
    Ok(keys)
}
