//! Encrypting for one certificate: CMS EnvelopedData (RFC 5652 s. 6) with AES-256-CBC and RSA key transport,
//! as `openssl cms -decrypt` opens it.
//!
//! Promise: what is encrypted is held once more, as its ciphertext in pieces, and never joined.

use bytes::Bytes;
use der::{Decode as _, Encode as _};
use openssl::pkey::Public;
use openssl::rand::rand_bytes;
use openssl::rsa::{Padding, Rsa};
use openssl::symm::{Cipher, Crypter, Mode};
use openssl::x509::X509;
use x509_cert::Certificate;

/// Something could not be encrypted.
#[derive(Debug, thiserror::Error)]
#[error("encrypting: {0}")]
pub struct EncryptError(String);

impl From<openssl::error::ErrorStack> for EncryptError {
    fn from(e: openssl::error::ErrorStack) -> Self {
        Self(e.to_string())
    }
}

/// The one who can read what is encrypted for him.
#[derive(Debug)]
pub struct Reader {
    key: Rsa<Public>,
    /// IssuerAndSerialNumber, DER.
    name: Vec<u8>,
}

// DER tags, and the DER of what is always the same.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTET_STRING: u8 = 0x04;
const CONTENT: u8 = 0xa0;
const CIPHERTEXT: u8 = 0x80;
const VERSION_0: &[u8] = &[0x02, 0x01, 0x00];
const ENVELOPED_DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03];
const DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const RSA_ENCRYPTION: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const AES_256_CBC: &[u8] = &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];

/// Bytes of a block of AES.
const BLOCK: usize = 16;

impl Reader {
    /// The holder of the key to this certificate (PEM).
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let certificate = X509::from_pem(pem).map_err(|_| "is no certificate in PEM")?;
        let key = certificate
            .public_key()
            .and_then(|key| key.rsa())
            .map_err(|_| "the certificate's key is not RSA")?;
        let name = || {
            let parsed = Certificate::from_der(&certificate.to_der().ok()?).ok()?.tbs_certificate;
            Some(wrap(SEQUENCE, &[&parsed.issuer.to_der().ok()?, &parsed.serial_number.to_der().ok()?]))
        };
        let name = name().ok_or("the certificate names no issuer")?;
        Ok(Self { key, name })
    }

    /// Encrypts the bytes of `pieces`, in their order.
    pub fn encrypt(&self, pieces: &[Bytes]) -> Result<Vec<Bytes>, EncryptError> {
        let (mut key, mut iv) = ([0; 32], [0; BLOCK]);
        rand_bytes(&mut key)?;
        rand_bytes(&mut iv)?;
        let mut wrapped = vec![0; self.key.size() as usize];
        self.key.public_encrypt(&key, &mut wrapped, Padding::PKCS1)?;

        let mut aes = Crypter::new(Cipher::aes_256_cbc(), Mode::Encrypt, &key, Some(&iv))?;
        let mut encrypted = vec![Bytes::new()];
        for piece in pieces {
            let mut out = vec![0; piece.len() + BLOCK];
            let length = aes.update(piece, &mut out)?;
            out.truncate(length);
            encrypted.push(out.into());
        }
        let mut out = vec![0; BLOCK];
        let length = aes.finalize(&mut out)?;
        out.truncate(length);
        encrypted.push(out.into());

        let recipient =
            wrap(SEQUENCE, &[VERSION_0, &self.name, RSA_ENCRYPTION, &wrap(OCTET_STRING, &[&wrapped])]);
        let cipher = wrap(SEQUENCE, &[AES_256_CBC, &wrap(OCTET_STRING, &[&iv])]);
        // From the inside out: each head is followed by what is inside, the ciphertext last, which is not
        // copied for this.
        let ciphertext: usize = encrypted.iter().map(Bytes::len).sum();
        let mut head = open(CIPHERTEXT, &[], ciphertext);
        for (tag, before) in [
            (SEQUENCE, [DATA, &cipher].concat()),
            (SEQUENCE, [VERSION_0, &wrap(SET, &[&recipient])].concat()),
            (CONTENT, Vec::new()),
            (SEQUENCE, ENVELOPED_DATA.to_vec()),
        ] {
            head = open(tag, &[before, head].concat(), ciphertext);
        }
        encrypted[0] = head.into();
        Ok(encrypted)
    }
}

/// A whole DER element.
fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    open(tag, &parts.concat(), 0)
}

/// A DER element of which the last `missing` bytes are still to come.
fn open(tag: u8, content: &[u8], missing: usize) -> Vec<u8> {
    let length = content.len() + missing;
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | bytes.len().to_le_bytes()[0]);
            out.extend(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use pec_test_support::pki::Pki;

    use super::*;

    #[test]
    fn openssl_opens_it_whatever_its_size_and_its_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path());
        let reader = Reader::from_pem(&std::fs::read(pki.auditor_file()).unwrap()).unwrap();
        for pieces in [&[][..], &[1], &[15, 1], &[16, 0, 17], &[100], &[40_000, 3, 70_001]] {
            let pieces: Vec<Bytes> = pieces.iter().map(|&length| Bytes::from(vec![b'x'; length])).collect();
            let encrypted = reader.encrypt(&pieces).unwrap().concat();
            assert_eq!(pki.opened(&encrypted), pieces.concat());
        }
        assert_eq!(Reader::from_pem(b"nothing").unwrap_err(), "is no certificate in PEM");
    }
}
