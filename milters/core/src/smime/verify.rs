//! Checking a detached CMS signature (RFC 6109 s. 2.2.2, "signature validity").
//!
//! Promise: the content is the bytes as they were received; the chain must end at one of the configured CAs and nowhere else
//! (OpenSSL's own store is never asked); DER and BER, SHA-1 and SHA-256 are read.

use std::fs;
use std::path::Path;

use openssl::hash::MessageDigest;
use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509PurposeId};

use super::{certificate_addresses, certificate_hash, certificates_from_pem, common_name};
use crate::clock::Moment;

/// The CAs that are believed.
pub struct TrustedCas {
    certificates: Vec<X509>,
}

/// `pec_ca_file` is not usable.
#[derive(Debug, thiserror::Error)]
#[error("pec_ca_file = {path}: {trouble}")]
pub struct CaError {
    path: String,
    trouble: String,
}

/// What is known of who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// SHA-1 of the certificate, lower-case hexadecimal.
    pub sha1: String,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub sha256: String,
    /// The addresses in the certificate.
    pub addresses: Vec<String>,
    /// The certificate's common name.
    pub common_name: String,
}

/// Why a signature is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The bytes are no CMS signature, or one without exactly one signer.
    #[error("the signature part is no CMS signature by one signer")]
    NotASignature,
    /// The content was changed, or the certificate does not lead to a CA that is believed, or it was not valid then.
    #[error("the signature does not verify: {0}")]
    NotVerified(String),
}

impl TrustedCas {
    /// Reads the PEM file of the CAs.
    pub fn read(file: &Path) -> Result<Self, CaError> {
        let error = |trouble: String| CaError { path: file.display().to_string(), trouble };
        let pem = fs::read(file).map_err(|e| error(e.to_string()))?;
        let cas = Self { certificates: certificates_from_pem(&pem).map_err(error)? };
        cas.store(Moment::from_unix(0)).map_err(|e| error(e.to_string()))?;
        Ok(cas)
    }

    /// Checks that `signature` is one over exactly `content` by a certificate that one of the CAs vouches for as of `at`.
    pub fn verify(&self, content: &[u8], signature: &[u8], at: Moment) -> Result<SignedBy, VerifyError> {
        let pkcs7 = Pkcs7::from_der(signature).map_err(|_| VerifyError::NotASignature)?;
        if pkcs7.signed().is_none() {
            return Err(VerifyError::NotASignature);
        }
        let none = Stack::new().map_err(|e| VerifyError::NotVerified(reason(&e)))?;
        let signers = pkcs7.signers(&none, Pkcs7Flags::empty()).map_err(|_| VerifyError::NotASignature)?;
        let [signer] = &signers.iter().collect::<Vec<_>>()[..] else { return Err(VerifyError::NotASignature) };

        let store = self.store(at).map_err(|e| VerifyError::NotVerified(reason(&e)))?;
        pkcs7
            .verify(&none, &store, Some(content), None, Pkcs7Flags::BINARY | Pkcs7Flags::DETACHED)
            .map_err(|e| VerifyError::NotVerified(reason(&e)))?;
        Ok(SignedBy {
            sha1: certificate_hash(signer, MessageDigest::sha1()),
            sha256: certificate_hash(signer, MessageDigest::sha256()),
            addresses: certificate_addresses(signer),
            common_name: common_name(signer),
        })
    }

    fn store(&self, at: Moment) -> Result<X509Store, openssl::error::ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for certificate in &self.certificates {
            store.add_cert(certificate.clone())?;
        }
        store.set_purpose(X509PurposeId::SMIME_SIGN)?;
        // An issuing CA may be configured without the root above it.
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        let mut at_that_time = openssl::x509::verify::X509VerifyParam::new()?;
        at_that_time.set_time(at.unix());
        // No keys of 512 bits, no certificates signed with MD5 or SHA-1.
        at_that_time.set_auth_level(1);
        store.set_param(&at_that_time)?;
        Ok(store.build())
    }
}

/// OpenSSL's own words, the first that say why.
fn reason(errors: &openssl::error::ErrorStack) -> String {
    let words = errors.errors().iter().rev().map(|e| match (e.reason(), e.data()) {
        (Some(reason), Some(data)) if !data.is_empty() => format!("{reason} ({data})"),
        (Some(reason), _) => reason.to_owned(),
        _ => "unknown error".to_owned(),
    });
    words.into_iter().next().unwrap_or_else(|| "unknown error".to_owned())
}
