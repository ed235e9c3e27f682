//! The evidence file: one zip that proves to a third party what the register says of a message (`pecctl
//! evidence`).
//!
//! Promise: whoever has the file needs nothing of ours, neither to read it nor to check it. Its `README.txt`
//! says how to with `sh` and `openssl` alone ([`readme`]); [`verify`] does the same, offline, and names each
//! member that is not what it was. What is not in the file is said in it, with the reason.
//!
//! What vouches for what: a CA for the provider's certificate, that for the log key (`log.key.p7s`), the log
//! key for the `checkpoint`, and its root, by way of `proofs/`, for each line of `log.jsonl`.
//! `checkpoint.tsr` says by when all that was so. `manifest` has the SHA-256 of every other member, and
//! `manifest.p7s` is the provider's signature under it.

pub mod archive;
pub mod collect;
mod proof;
mod readme;
pub mod verify;

use std::collections::BTreeMap;

use openssl::hash::MessageDigest;
use openssl::x509::{X509, X509Ref};
use pec_core::smime::{certificate_hash, common_name};

/// The members of an evidence file, by name.
pub type Members = BTreeMap<String, Vec<u8>>;

pub(crate) const README: &str = "README.txt";
pub(crate) const MANIFEST: &str = "manifest";
pub(crate) const MANIFEST_SIGNATURE: &str = "manifest.p7s";
pub(crate) const LOG: &str = "log.jsonl";
pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const KEY: &str = "log.key";
pub(crate) const CA: &str = "certificates/ca.pem";
pub(crate) const TSA_CA: &str = "certificates/tsa-ca.pem";
pub(crate) const SIGNERS: &str = "certificates/signers.pem";

/// The member with the proof of a row.
pub(crate) fn proof_of(seq: i64) -> String {
    format!("proofs/{seq}.txt")
}

/// The member with the signature, or the timestamp, of another one.
pub(crate) fn beside(name: &str, what: &str) -> String {
    format!("{name}.{what}")
}

/// A CA by its name and SHA-256 fingerprint, as `openssl x509 -fingerprint` writes it.
pub(crate) fn named(certificate: &X509Ref) -> String {
    let hash = certificate_hash(certificate, MessageDigest::sha256()).to_uppercase();
    let pairs: Vec<&str> = (0..hash.len()).step_by(2).filter_map(|i| hash.get(i..i + 2)).collect();
    format!("{} (SHA-256 {})", common_name(certificate), pairs.join(":"))
}

/// Certificates in PEM.
pub(crate) fn to_pem(certificates: &[X509]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.to_pem().unwrap_or_default()).collect()
}
