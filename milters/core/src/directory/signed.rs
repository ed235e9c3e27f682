//! The directory, and our own record for it, as signed files (RFC 6109 s. 4.5): PKCS#7 in DER, `.p7m`, with
//! the LDIF inside. PEM and S/MIME (`application/pkcs7-mime`), the other forms of the same structure, are
//! read too.
//!
//! Promise: a file counts only if every signer of it is one of the certificates that may sign it, named one
//! by one by the administrator; no CA can vouch for another.

use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::stack::Stack;
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;

use crate::clock::Moment;
use crate::smime::signing_time::signing_time;
use crate::smime::walk::walk_signed_file;
use crate::smime::{common_name, moment};

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The LDIF.
    pub ldif: Vec<u8>,
    /// When the signer says that it signed (`signingTime`).
    pub at: Option<Moment>,
}

/// Opens a signed file that one of `signers` must have signed; their certificates must have been valid when
/// they signed, or, if the signature does not say when, at `now`. The error says why it does not count.
pub fn open(p7m: Vec<u8>, signers: &[X509], now: Moment) -> Result<Signed, String> {
    let openssl = |e: openssl::error::ErrorStack| e.to_string();
    let pkcs7 = read(&p7m).ok_or("it is no whole PKCS#7 file in DER, PEM or S/MIME")?;
    drop(p7m);
    if pkcs7.signed().is_none() {
        return Err("it is PKCS#7, but not signed".to_owned());
    }
    // Before OpenSSL verifies it; it was read as BER, PEM or S/MIME.
    walk_signed_file(&pkcs7.to_der().map_err(openssl)?).map_err(|e| e.to_string())?;
    let mut allowed = Stack::new().map_err(openssl)?;
    for signer in signers {
        allowed.push(signer.clone()).map_err(openssl)?;
    }
    // Certificates in the file do not matter: whoever signed is among those that are allowed, or nobody.
    let flags = Pkcs7Flags::BINARY | Pkcs7Flags::NOVERIFY | Pkcs7Flags::NOINTERN;
    let signed_by = pkcs7
        .signers(&allowed, flags)
        .map_err(|_| "nobody of pec_directory_signer_file has signed it".to_owned())?;
    let at = signing_time(&pkcs7)?;
    let no_store = X509StoreBuilder::new().map_err(openssl)?.build();
    let mut ldif = Vec::new();
    pkcs7
        .verify(&allowed, &no_store, None, Some(&mut ldif), flags)
        .map_err(|_| "the signature does not verify".to_owned())?;
    let then = at.unwrap_or(now);
    for signer in &signed_by {
        if !(moment(signer.not_before())?..=moment(signer.not_after())?).contains(&then) {
            return Err(format!(
                "the certificate of {} was not valid on {then}, when it signed",
                common_name(signer)
            ));
        }
    }
    Ok(Signed { ldif, at })
}

fn read(p7m: &[u8]) -> Option<Pkcs7> {
    let read = Pkcs7::from_der(p7m).or_else(|_| Pkcs7::from_pem(p7m));
    read.or_else(|_| Pkcs7::from_smime(p7m).map(|(pkcs7, _)| pkcs7)).ok()
}
