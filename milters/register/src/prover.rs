//! Files that prove something: each is signed by the provider (`.p7s`) and timestamped (`.tsr`).
//!
//! Promise: the signature is a detached CMS signature (DER) over the file's bytes, by the same certificate as
//! receipts are; the timestamp (RFC 3161) is over the signature's bytes, so that it says by when file,
//! signature and certificate were there. Each comes to its name whole, in this order: file, signature,
//! timestamp. What is missing after a crash, or because the key or the TSA did not answer, is made up later;
//! what is there is never made again.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use openssl::sha::Sha256;
use pec_core::clock::Moment;
use pec_core::smime::sign::{Signer, detached};
use pec_host::files::{self, beside, replace};

use crate::error::RegisterError;
use crate::tsa::Tsa;

/// Where a file's signature lies.
pub fn signature_of(file: &Path) -> PathBuf {
    beside(file, "p7s")
}

/// Where its timestamp lies.
pub fn timestamp_of(file: &Path) -> PathBuf {
    beside(file, "tsr")
}

/// Who signs, and who says when.
pub struct Prover<'a> {
    /// The provider.
    pub signer: &'a dyn Signer,
    /// The timestamping authority, if there is one.
    pub tsa: Option<&'a Tsa>,
    /// The present.
    pub now: Moment,
}

impl Prover<'_> {
    /// Signs and timestamps `file`, as far as it is not yet.
    pub fn complete(&self, file: &Path) -> Result<(), RegisterError> {
        self.sign(file)?;
        self.stamp(file)
    }

    /// The same for several: first all signatures, since a TSA that is away is no reason not to sign. The
    /// first that fails ends it; the others would fare no better.
    pub fn complete_all(&self, files: &[PathBuf]) -> Result<(), RegisterError> {
        files.iter().try_for_each(|file| self.sign(file))?;
        files.iter().try_for_each(|file| self.stamp(file))
    }

    fn sign(&self, file: &Path) -> Result<(), RegisterError> {
        let p7s = signature_of(file);
        if p7s.exists() {
            return Ok(());
        }
        let digest = digest(file).map_err(RegisterError::file(file))?;
        let sign = |trouble| RegisterError::Unsigned { what: file.display().to_string(), trouble };
        write(&p7s, &detached(self.signer, &digest, self.now).map_err(sign)?)
    }

    fn stamp(&self, file: &Path) -> Result<(), RegisterError> {
        let (Some(tsa), tsr) = (self.tsa, timestamp_of(file)) else { return Ok(()) };
        if tsr.exists() {
            return Ok(());
        }
        let p7s = signature_of(file);
        let signature = fs::read(&p7s).map_err(RegisterError::file(&p7s))?;
        let stamp = |trouble| RegisterError::Unstamped { path: file.display().to_string(), trouble };
        write(&tsr, &tsa.stamp(&signature).map_err(stamp)?.0)
    }
}

/// Puts a file to its place, to stay.
pub(crate) fn write(file: &Path, content: &[u8]) -> Result<(), RegisterError> {
    replace(file, |new| new.write_all(content)).map_err(RegisterError::file(file))
}

/// Makes the directory in which such files lie.
pub(crate) fn make_directory(directory: &Path) -> Result<(), RegisterError> {
    files::make_directory(directory, 0o777).map_err(RegisterError::file(directory))
}

/// SHA-256 of a file of any size.
pub(crate) fn digest(file: &Path) -> io::Result<[u8; 32]> {
    let (mut file, mut hash) = (File::open(file)?, Sha256::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finish()),
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

/// The files in `directory` whose names end so, in the order of their names; none where there is no such
/// directory.
pub(crate) fn named(directory: &Path, end: &str) -> Result<Vec<PathBuf>, RegisterError> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(RegisterError::file(directory))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(RegisterError::file(directory))?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(end.as_bytes())) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
