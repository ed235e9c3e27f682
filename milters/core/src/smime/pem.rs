//! A provider's key in a PEM file, for trying out: an accredited provider keeps it in an HSM (RFC 6109 s. 5.1).

use std::fs;
use std::path::Path;

use der::Decode;
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::sha::Sha256;
use openssl::sign;
use openssl::x509::{X509, X509Ref};
use x509_cert::Certificate;

use super::sign::{Identity, SignError, Signer};
use super::{certificate_addresses, certificates_from_pem};
use crate::clock::Moment;
use crate::identifier::hex;

/// A key file, a certificate file or the two together are not usable. One line that names parameter, file and trouble.
#[derive(Debug, thiserror::Error)]
#[error("{parameter} = {path}: {trouble}")]
pub struct KeyError {
    parameter: &'static str,
    path: String,
    trouble: String,
}

/// A private key read from a file, with its certificate and chain.
pub struct PemSigner {
    key: PKey<Private>,
    identity: Identity,
}

impl PemSigner {
    /// Reads `certificate_file` (the provider's certificate, then those above it) and `key_file` (without passphrase), and
    /// makes sure that they can sign for `address` at `now`: an RSA key of at least 2048 bits, the certificate's own, valid
    /// in time, with `address` in the subjectAltName (RFC 6109 s. 2.1 and 5.5.2).
    pub fn read(certificate_file: &Path, key_file: &Path, address: &str, now: Moment) -> Result<Self, KeyError> {
        let of_certificate = |trouble: String| KeyError { parameter: "pec_certificate_file", path: certificate_file.display().to_string(), trouble };
        let of_key = |trouble: String| KeyError { parameter: "pec_key_file", path: key_file.display().to_string(), trouble };

        let pem = fs::read(certificate_file).map_err(|e| of_certificate(e.to_string()))?;
        let mut certificates = certificates_from_pem(&pem).map_err(of_certificate)?;
        let certificate = certificates.remove(0);
        check_validity(&certificate, now).map_err(of_certificate)?;
        let addresses = certificate_addresses(&certificate);
        if !addresses.iter().any(|a| a.eq_ignore_ascii_case(address)) {
            return Err(of_certificate(format!("the certificate is for {}; {address} is needed", describe(&addresses))));
        }

        let pem = fs::read(key_file).map_err(|e| of_key(e.to_string()))?;
        // An empty passphrase, so that OpenSSL does not ask for one on the terminal.
        let key =
            PKey::private_key_from_pem_passphrase(&pem, b"").map_err(|_| of_key("holds no readable PEM private key without passphrase".into()))?;
        if key.id() != Id::RSA || key.bits() < 2048 {
            return Err(of_key(format!("is a key of {} bits that is not allowed; RSA of 2048 bits or more is needed", key.bits())));
        }
        if !certificate.public_key().is_ok_and(|public| public.public_eq(&key)) {
            return Err(of_key(format!("is not the key of the certificate in {}", certificate_file.display())));
        }

        // The root is known to whoever trusts it.
        certificates.retain(|c| c.issued(c) != openssl::x509::X509VerifyResult::OK);
        let mut fingerprint = Sha256::new();
        for each in [&certificate].into_iter().chain(&certificates) {
            fingerprint.update(&each.to_der().map_err(|e| of_certificate(e.to_string()))?);
        }
        let identity = Identity {
            certificate: parsed(&certificate).map_err(of_certificate)?,
            chain: certificates.iter().map(parsed).collect::<Result<_, _>>().map_err(of_certificate)?,
            fingerprint: hex(&fingerprint.finish()),
        };
        Ok(Self { key, identity })
    }
}

impl Signer for PemSigner {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = sign::Signer::new(MessageDigest::sha256(), &self.key).and_then(|mut signer| signer.sign_oneshot_to_vec(data));
        signed.map_err(|e| SignError::Key(e.to_string()))
    }
}

fn check_validity(certificate: &X509Ref, now: Moment) -> Result<(), String> {
    let now = Asn1Time::from_unix(now.unix()).map_err(|e| e.to_string())?;
    if certificate.not_before() > now {
        return Err(format!("the certificate is not valid before {}", certificate.not_before()));
    }
    if certificate.not_after() < now {
        return Err(format!("the certificate has expired on {}", certificate.not_after()));
    }
    Ok(())
}

fn describe(addresses: &[String]) -> String {
    if addresses.is_empty() { "no e-mail address at all".to_owned() } else { addresses.join(", ") }
}

fn parsed(certificate: &X509) -> Result<Certificate, String> {
    let der = certificate.to_der().map_err(|e| e.to_string())?;
    Certificate::from_der(&der).map_err(|e| format!("the certificate of {} cannot be read: {e}", common_name(certificate)))
}

/// The common name of a certificate's subject, to speak of it.
pub fn common_name(certificate: &X509Ref) -> String {
    let entry = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
    entry.and_then(|e| e.data().to_string().ok()).unwrap_or_else(|| "an unnamed subject".to_owned())
}
