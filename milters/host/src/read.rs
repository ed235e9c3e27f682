//! Keys, certificates and the directory of providers, from the files that parameters name.
//!
//! Promise: what does not do is one line with the parameter, the file and what is wrong with it. A file that
//! holds a secret is refused while every user of this machine may open it.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use pec_core::clock::Moment;
use pec_core::directory::Directory;
use pec_core::notices::service_address;
use pec_core::smime::certificates_from_pem;
use pec_core::smime::encrypt::Reader;
use pec_core::smime::own::{KeyError, OwnCertificate};
use pec_core::smime::pem::{PemSigner, private_key_from_pem};
use pec_core::smime::verify::TrustedCas;

use crate::files::beside;
use crate::maillog;
use crate::parameters::{ParameterError, Settings};

fn unusable(name: &'static str, file: &Path, trouble: impl ToString) -> ParameterError {
    ParameterError::File { name, path: file.display().to_string(), trouble: trouble.to_string() }
}

/// Our certificate (`pec_certificate_file`), one to sign with at `now`.
pub fn own_certificate(settings: &Settings, now: Moment) -> Result<OwnCertificate, KeyError> {
    let address = service_address(&settings.service_domain);
    certificate(&settings.certificate_file, &address, &settings.provider_name, now)
}

/// The certificate in `file`, one to sign with for `address` and the provider of this name.
pub fn certificate(
    file: &Path,
    address: &str,
    provider_name: &str,
    now: Moment,
) -> Result<OwnCertificate, KeyError> {
    let pem = fs::read(file).map_err(|e| KeyError::of_certificate(file, e.to_string()))?;
    OwnCertificate::from_pem(file, &pem, address, provider_name, now)
}

/// Warns in the log if the administrator should know at `now` how many days our certificate has left.
pub fn warn_of_end(certificate: &OwnCertificate, now: Moment) {
    if let Some(days) = certificate.ends_soon(now) {
        maillog::certificate_ends(days, certificate.identity().not_after, certificate.file());
    }
}

/// The certificate's key (`pec_signing_key`), which lies in a file.
pub fn signer(certificate: OwnCertificate, file: &Path) -> Result<PemSigner, KeyError> {
    let error = |trouble: String| KeyError::of_key(file.display(), trouble);
    let key = private_key(file).map_err(error)?;
    closed_to_others(file).map_err(error)?;
    PemSigner::new(certificate, key, file)
}

/// The private key in a PEM file without passphrase. The error does not name the file.
pub fn private_key(file: &Path) -> Result<PKey<Private>, String> {
    private_key_from_pem(&fs::read(file).map_err(|e| e.to_string())?)
}

/// All certificates of the PEM file that the parameter `name` names.
pub fn certificates(name: &'static str, file: &Path) -> Result<Vec<X509>, ParameterError> {
    let read = fs::read(file).map_err(|e| e.to_string()).and_then(|pem| certificates_from_pem(&pem));
    read.map_err(|trouble| unusable(name, file, trouble))
}

/// The CAs that may vouch for other providers (`pec_ca_file`). Certificates that can be revoked are not known
/// to be good until [`TrustedCas::asking`] says where the lists lie.
pub fn trusted_cas(file: &Path) -> Result<TrustedCas, ParameterError> {
    let name = "pec_ca_file";
    let cas = TrustedCas::of(certificates(name, file)?);
    cas.check().map_err(|trouble| unusable(name, file, trouble))?;
    Ok(cas)
}

/// The one for whom messages with viruses are encrypted (`pec_infected_certificate_file`).
pub fn auditor(file: &Path) -> Result<Reader, ParameterError> {
    let read = fs::read(file).map_err(|e| e.to_string()).and_then(|pem| Reader::from_pem(&pem));
    read.map_err(|trouble| unusable("pec_infected_certificate_file", file, trouble))
}

/// The directory of providers (`pec_directory_file`, LDIF). A record with bad values has its last good ones
/// of the file beside it whose name ends in `.good`.
pub fn directory(file: &Path) -> Result<Directory, ParameterError> {
    let read = |file: &Path| Directory::read(BufReader::new(File::open(file).map_err(|e| e.to_string())?));
    let usable = || -> Result<Directory, String> {
        let mut directory = read(file)?;
        if directory.spoiled().next().is_some()
            && let Ok(good) = read(&beside(file, "good"))
        {
            directory.keep(&good)?;
        }
        Ok(directory)
    };
    usable().map_err(|trouble| unusable("pec_directory_file", file, trouble))
}

/// A secret's file, a key or a PIN, is not for every user of this machine. The error does not name the file.
pub fn closed_to_others(file: &Path) -> Result<(), String> {
    let mode = fs::metadata(file).map_err(|e| e.to_string())?.mode();
    if mode & 0o007 != 0 {
        return Err(format!(
            "every user of this machine may open it (mode {:o}); chmod 600 is needed",
            mode & 0o777
        ));
    }
    Ok(())
}
