//! S/MIME signatures: made ([`sign`]) under our certificate ([`own`], [`profile`]) by a key that lies in a
//! file ([`pem`]) or on a token (named by a [`pkcs11`] URI, reached through the crate pec-token), and checked
//! ([`verify`], with the CAs' revocation lists, [`crl`]). A certificate begins as a [`request`].
//!
//! Promise: for the same content, moment and certificate the signature is the same bytes (RSASSA-PKCS1-v1_5
//! has no random part), which is what makes a notice that is made twice one notice.

pub mod crl;
pub mod encrypt;
pub mod own;
pub mod pem;
pub mod pkcs11;
pub mod profile;
pub mod request;
pub mod sign;
pub mod signing_time;
pub mod verify;
pub mod walk;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::x509::{X509, X509Ref};

use crate::clock::Moment;
use crate::identifier::hex;

/// The media type of the signature part, as every OpenPEC provider writes it.
pub const SIGNATURE_TYPE: &str = "application/x-pkcs7-signature";

/// The e-mail addresses (rfc822Name) in a certificate's subjectAltName (RFC 6109 s. 5.5.2), in lower case.
/// What has control characters in it is no address.
pub fn certificate_addresses(certificate: &X509Ref) -> Vec<String> {
    let names = certificate.subject_alt_names();
    let addresses = names.iter().flatten().filter_map(|name| name.email());
    addresses
        .filter(|address| !address.contains(|c: char| c.is_control()))
        .map(str::to_ascii_lowercase)
        .collect()
}

/// The certificate's hash in lower-case hexadecimal, as `providerCertificateHash` has it (RFC 6109 s. 4.5.1).
/// Empty only if OpenSSL cannot hash, and then equal to nothing in a directory.
pub fn certificate_hash(certificate: &X509Ref, digest: MessageDigest) -> String {
    certificate.digest(digest).map(|d| hex(&d)).unwrap_or_default()
}

/// Reads all certificates of a PEM text; an empty list is an error too.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<X509>, String> {
    match X509::stack_from_pem(pem) {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(e) => Err(format!("holds no readable PEM certificate: {e}")),
    }
}

/// Characters that a common name has at most (RFC 5280, ub-common-name).
const LONGEST_COMMON_NAME: usize = 64;

/// The common name of a certificate's subject, to speak of it: on one line, cut where it is longer than
/// allowed. Anybody can make a certificate, and what it says of itself comes into texts that we sign.
pub fn common_name(certificate: &X509Ref) -> String {
    let entry = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
    let name =
        entry.and_then(|e| e.data().to_string().ok()).unwrap_or_else(|| "an unnamed subject".to_owned());
    name.chars().take(LONGEST_COMMON_NAME).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A time in a certificate or a revocation list.
pub(crate) fn moment(time: &Asn1TimeRef) -> Result<Moment, String> {
    let epoch = Asn1Time::from_unix(0).map_err(|e| e.to_string())?;
    let since = epoch.diff(time).map_err(|e| e.to_string())?;
    Ok(Moment::from_unix(i64::from(since.days) * 86_400 + i64::from(since.secs)))
}
