//! Files that our parameters name: who may read them, whose certificates are in them, how much room is left
//! where they lie.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::x509::X509;
use pec_core::clock::Moment;
use pec_host::parameters::{Settings, SigningKey};

use crate::check::look::ask::{Known, reason};

/// A file or directory for the milters' user alone.
#[derive(Debug, Clone)]
pub(crate) struct PrivateFile {
    pub(crate) parameter: &'static str,
    pub(crate) path: PathBuf,
    /// Mode and owner.
    pub(crate) state: Known<(u32, u32)>,
}

/// A certificate in a file.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) parameter: String,
    /// The file, and the name in the subject.
    pub(crate) whose: String,
    pub(crate) end: Moment,
}

/// The disk that a directory lies on.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) parameter: &'static str,
    pub(crate) path: PathBuf,
    /// Bytes.
    pub(crate) free: Known<u64>,
}

/// The files for the milters' user alone, as they are.
pub(crate) fn private(settings: &Settings) -> Vec<PrivateFile> {
    let secret = settings.database_password_file.as_ref().map(|f| ("pec_database_password_file", f));
    // The PIN is as good as the key; the token guards itself.
    let key = match &settings.signing_key {
        SigningKey::File(file) => Some(("pec_signing_key", file)),
        SigningKey::Token(_) => settings.pkcs11.pin_file.as_ref().map(|f| ("pec_pkcs11_pin_file", f)),
    };
    let files =
        [("pec_row_keys_file", &settings.row_keys_file), ("pec_infected_store", &settings.infected_store)];
    key.into_iter()
        .chain(files)
        .chain(secret)
        .map(|(parameter, path)| {
            let state = std::fs::metadata(path).map(|m| (m.mode(), m.uid())).map_err(reason);
            PrivateFile { parameter, path: path.clone(), state }
        })
        .collect()
}

/// The certificates in a file. One that cannot be read has none here; the milters' start says it.
pub(crate) fn certificates(parameter: &str, file: &Path) -> Vec<Certificate> {
    let read = std::fs::read(file).ok().and_then(|pem| X509::stack_from_pem(&pem).ok()).unwrap_or_default();
    read.iter()
        .filter_map(|certificate| {
            let names = certificate.subject_name().entries().filter_map(|e| e.data().to_string().ok());
            let name = names.last().unwrap_or_default();
            let since = Asn1Time::from_unix(0).ok()?.diff(certificate.not_after()).ok()?;
            let end = i64::from(since.days) * 86_400 + i64::from(since.secs);
            Some(Certificate {
                parameter: parameter.to_owned(),
                whose: format!("{} ({name})", file.display()),
                end: Moment::from_unix(end),
            })
        })
        .collect()
}

/// The disk of a directory.
pub(crate) fn disk(parameter: &'static str, path: &Path) -> Disk {
    let free = rustix::fs::statvfs(path).map(|s| s.f_bavail.saturating_mul(s.f_frsize)).map_err(reason);
    Disk { parameter, path: path.to_owned(), free }
}
