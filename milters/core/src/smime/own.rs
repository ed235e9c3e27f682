//! Our own certificate, and what it must be before anything is signed in its name.

use std::path::{Path, PathBuf};

use der::Decode;
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Public};
use openssl::sha::Sha256;
use openssl::sign::Verifier;
use openssl::x509::{X509, X509Ref, X509VerifyResult};
use x509_cert::Certificate;

use super::profile::breaches;
use super::sign::Identity;
use super::{certificate_addresses, certificate_hash, certificates_from_pem, common_name, moment};
use crate::clock::Moment;
use crate::identifier::hex;

/// How long our RSA key may be, in bits.
pub const KEY_BITS: std::ops::RangeInclusive<u32> = 2048..=4096;

/// From so many days before its end on, each start and each day warns of it, and `pecctl check` does. A new
/// certificate takes weeks: request, CA, directory.
pub const WARN_DAYS: i64 = 60;

/// A key, a certificate or the two together are not usable. One line that names parameter, value and trouble.
#[derive(Debug, thiserror::Error)]
#[error("{parameter} = {value}: {trouble}")]
pub struct KeyError {
    parameter: &'static str,
    value: String,
    trouble: String,
}

impl KeyError {
    /// Something is wrong with `pec_signing_key`.
    pub fn of_key(value: impl ToString, trouble: impl Into<String>) -> Self {
        Self { parameter: "pec_signing_key", value: value.to_string(), trouble: trouble.into() }
    }

    /// Something is wrong with `pec_certificate_file`.
    pub fn of_certificate(file: &Path, trouble: impl Into<String>) -> Self {
        Self { parameter: "pec_certificate_file", value: file.display().to_string(), trouble: trouble.into() }
    }
}

/// The certificate that we sign with and those above it, checked.
#[derive(Debug, Clone)]
pub struct OwnCertificate {
    file: PathBuf,
    certificate: X509,
    public_key: PKey<Public>,
    identity: Identity,
}

impl OwnCertificate {
    /// Reads the PEM text of `file` (our certificate, then those above it) and makes sure that it is one to
    /// sign with at `now` for `address` and the provider of this name: of an RSA key of 2048 to 4096 bits,
    /// valid in time, with `address` in the subjectAltName (RFC 6109 s. 2.1), and of the profile of section
    /// 5.5.
    pub fn from_pem(
        file: &Path,
        pem: &[u8],
        address: &str,
        provider_name: &str,
        now: Moment,
    ) -> Result<Self, KeyError> {
        let error = |trouble: String| KeyError::of_certificate(file, trouble);
        let mut certificates = certificates_from_pem(pem).map_err(error)?;
        let certificate = certificates.remove(0);
        check_validity(&certificate, now).map_err(error)?;
        let public_key = certificate
            .public_key()
            .map_err(|e| error(format!("the certificate's key cannot be read: {e}")))?;
        fits(&public_key).map_err(|why| error(format!("the certificate's key {why}")))?;
        let breaches = breaches(&certificate, provider_name).map_err(error)?;
        if !breaches.is_empty() {
            let breaches = breaches.join("; ");
            return Err(error(format!(
                "the certificate breaks the profile of RFC 6109 s. 5.5 for pec_provider_name = \
                {provider_name}: {breaches}"
            )));
        }
        let addresses = certificate_addresses(&certificate);
        if !addresses.iter().any(|a| a.eq_ignore_ascii_case(address)) {
            return Err(error(format!(
                "the certificate is for {}; {address} is needed",
                describe(&addresses)
            )));
        }

        // The root is known to whoever trusts it.
        certificates.retain(|c| c.issued(c) != X509VerifyResult::OK);
        let mut fingerprint = Sha256::new();
        for each in [&certificate].into_iter().chain(&certificates) {
            fingerprint.update(&each.to_der().map_err(|e| error(e.to_string()))?);
        }
        let identity = Identity {
            certificate: parsed(&certificate).map_err(error)?,
            chain: certificates.iter().map(parsed).collect::<Result<_, _>>().map_err(error)?,
            fingerprint: hex(&fingerprint.finish()),
            not_after: moment(certificate.not_after()).map_err(error)?,
        };
        Ok(Self { file: file.to_owned(), certificate, public_key, identity })
    }

    /// As it goes into a signature.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it was read.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Its hashes in lower-case hexadecimal, SHA-256 and SHA-1, by either of which the directory may name it.
    pub fn hashes(&self) -> [String; 2] {
        [MessageDigest::sha256(), MessageDigest::sha1()]
            .map(|digest| certificate_hash(&self.certificate, digest))
    }

    /// How many whole days are left at `now`, if the administrator should know.
    pub fn ends_soon(&self, now: Moment) -> Option<i64> {
        let days = (self.identity.not_after.unix() - now.unix()).div_euclid(86_400);
        (days < WARN_DAYS).then_some(days)
    }

    /// The key whose private half signs.
    pub fn public_key(&self) -> &PKey<Public> {
        &self.public_key
    }

    /// Whether `signature` (RSASSA-PKCS1-v1_5 with SHA-256) over `data` is by this certificate's key.
    pub fn verifies(&self, data: &[u8], signature: &[u8]) -> bool {
        Verifier::new(MessageDigest::sha256(), &self.public_key)
            .and_then(|mut verifier| verifier.verify_oneshot(signature, data))
            .unwrap_or(false)
    }
}

/// Whether a key is of the kind and length to sign with; the error goes on where "the key" begins.
pub fn fits(key: &PKey<Public>) -> Result<(), String> {
    if key.id() != Id::RSA {
        return Err(format!("is not RSA; RSA of {} to {} bits is needed", KEY_BITS.start(), KEY_BITS.end()));
    }
    if !KEY_BITS.contains(&key.bits()) {
        return Err(format!(
            "has {} bits; RSA of {} to {} bits is needed",
            key.bits(),
            KEY_BITS.start(),
            KEY_BITS.end()
        ));
    }
    Ok(())
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
    Certificate::from_der(&der)
        .map_err(|e| format!("the certificate of {} cannot be read: {e}", common_name(certificate)))
}
