//! A provider's key in a PEM file, for trying out: an accredited provider keeps it in an HSM (RFC 6109 s. 5.1).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign;

use super::own::{KeyError, OwnCertificate};
use super::sign::{Identity, SignError, Signer};

/// A private key read from a file, with its certificate and chain.
pub struct PemSigner {
    key: PKey<Private>,
    certificate: OwnCertificate,
}

impl PemSigner {
    /// Reads `key_file` (without passphrase, closed to other users) and makes sure that it is the certificate's key.
    pub fn read(certificate: OwnCertificate, key_file: &Path) -> Result<Self, KeyError> {
        let error = |trouble: String| KeyError::of_key(key_file.display(), trouble);
        let pem = fs::read(key_file).map_err(|e| error(e.to_string()))?;
        // An empty passphrase, so that OpenSSL does not ask for one on the terminal.
        let key =
            PKey::private_key_from_pem_passphrase(&pem, b"").map_err(|_| error("holds no readable PEM private key without passphrase".into()))?;
        let mode = fs::metadata(key_file).map_err(|e| error(e.to_string()))?.mode();
        if mode & 0o007 != 0 {
            return Err(error(format!("every user of this machine may open it (mode {:o}); chmod 600 is needed", mode & 0o777)));
        }
        if !certificate.public_key().public_eq(&key) {
            return Err(error(format!("is not the key of the certificate in {}", certificate.file().display())));
        }
        Ok(Self { key, certificate })
    }
}

impl Signer for PemSigner {
    fn identity(&self) -> &Identity {
        self.certificate.identity()
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = sign::Signer::new(MessageDigest::sha256(), &self.key).and_then(|mut signer| signer.sign_oneshot_to_vec(data));
        signed.map_err(|e| SignError::Key(e.to_string()))
    }
}
