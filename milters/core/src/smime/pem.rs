//! A provider's key in a PEM file, for trying out: an accredited provider keeps it in an HSM (RFC 6109 s.
//! 5.1).

use std::path::Path;

use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};

use super::own::{KeyError, OwnCertificate};
use super::sign::{Identity, SignError, Signer};

/// A private key read from a file, with its certificate and chain.
pub struct PemSigner {
    key: PKey<Private>,
    certificate: OwnCertificate,
}

impl PemSigner {
    /// The key that was read from `key_file`; it must be the certificate's.
    pub fn new(certificate: OwnCertificate, key: PKey<Private>, key_file: &Path) -> Result<Self, KeyError> {
        if !certificate.public_key().public_eq(&key) {
            return Err(KeyError::of_key(
                key_file.display(),
                format!("is not the key of the certificate in {}", certificate.file().display()),
            ));
        }
        Ok(Self { key, certificate })
    }
}

impl Signer for PemSigner {
    fn identity(&self) -> &Identity {
        self.certificate.identity()
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        sign(&self.key, data)
    }
}

/// The private key in a PEM text without passphrase.
pub fn private_key_from_pem(pem: &[u8]) -> Result<PKey<Private>, String> {
    // An empty passphrase, so that OpenSSL does not ask for one on the terminal.
    PKey::private_key_from_pem_passphrase(pem, b"")
        .map_err(|_| "holds no readable PEM private key without passphrase".to_owned())
}

/// RSASSA-PKCS1-v1_5 with SHA-256 over `data`.
pub fn sign(key: &PKey<Private>, data: &[u8]) -> Result<Vec<u8>, SignError> {
    let signed = openssl::sign::Signer::new(MessageDigest::sha256(), key)
        .and_then(|mut signer| signer.sign_oneshot_to_vec(data));
    signed.map_err(|e| SignError::Key(e.to_string()))
}
