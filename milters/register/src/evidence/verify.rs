//! Checking an evidence file, without a connection and without anything of ours but this program.
//!
//! Promise: a member that was changed, removed or added is named, whichever byte it was. What is said to be
//! right was computed from the file itself, and who is believed in the end (the CAs) is said, or given by
//! whoever asks.

use std::collections::HashSet;
use std::fmt;

use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::sha::sha256;
use openssl::stack::Stack;
use openssl::x509::{CrlStatus, X509, X509Crl};
use pec_core::clock::Moment;
use pec_core::identifier::hex;
use pec_core::notices::service_address;
use pec_core::smime::sign::is_our_form;
use pec_core::smime::signing_time::signed_at;
use pec_core::smime::verify::{SignedBy, TrustedCas};
use pec_core::smime::{certificates_from_pem, common_name};
use tlog_tiles::check_record;

use super::archive::Unpacked;
use super::collect::certificates_in;
use super::{
    CA, CHECKPOINT, KEY, LOG, MANIFEST, MANIFEST_SIGNATURE, Members, README, SIGNERS, TSA_CA, beside, named,
    proof, proof_of,
};
use crate::checkpoint::Checkpoint;
use crate::row::{Row, entry, leaf};
use crate::tsa::{Timestamp, TsaCas};

/// A member that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its name.
    pub member: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.member, self.what)
    }
}

/// What the evidence is worth.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong; nothing where the evidence is good.
    pub findings: Vec<Finding>,
    /// What was found, in words, in order.
    pub found: Vec<String>,
}

impl Verdict {
    fn wrong(&mut self, member: &str, what: impl Into<String>) {
        let finding = Finding { member: member.to_owned(), what: what.into() };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

/// Checks what was in a file. `trusted`: the CAs that must vouch for the signers, in place of those in the
/// file.
pub fn verify(unpacked: &Unpacked, trusted: Option<&[X509]>) -> Verdict {
    let mut verdict = Verdict::default();
    for (name, trouble) in &unpacked.broken {
        verdict.wrong(name, trouble);
    }
    let broken: HashSet<&str> = unpacked.broken.iter().map(|(name, _)| name.as_str()).collect();
    let members = &unpacked.members;
    hashes(members, &broken, &mut verdict);
    for name in [
        MANIFEST,
        MANIFEST_SIGNATURE,
        README,
        LOG,
        CHECKPOINT,
        &beside(CHECKPOINT, "p7s"),
        KEY,
        &beside(KEY, "p7s"),
        CA,
        SIGNERS,
    ] {
        if !members.contains_key(name) && !broken.contains(name) {
            verdict.wrong(name, "is missing");
        }
    }

    let mut pem = |name: &str| {
        let read = members.get(name).map(|pem| certificates_from_pem(pem));
        read.and_then(|read| read.map_err(|trouble| verdict.wrong(name, trouble)).ok()).unwrap_or_default()
    };
    let (own_cas, own_tsa_cas, signers) = (pem(CA), pem(TSA_CA), pem(SIGNERS));
    let judge = Judge {
        members,
        cas: TrustedCas::of(trusted.unwrap_or(&own_cas).to_vec()),
        tsa_cas: TsaCas::of(trusted.unwrap_or(&own_tsa_cas).to_vec()),
        signers: &signers,
    };
    let manifest = judge.signed(MANIFEST, &mut verdict);
    if let Some(signature) = members.get(MANIFEST_SIGNATURE)
        && !(is_our_form(signature)
            && certificates_in(signature).iter().all(|certificate| signers.contains(certificate)))
    {
        verdict.wrong(MANIFEST_SIGNATURE, "is not as the provider made it");
    }
    let key = judge.signed(KEY, &mut verdict);
    let seal = judge.signed(CHECKPOINT, &mut verdict);
    let checkpoint = judge.checkpoint(&mut verdict);
    judge.rows(checkpoint.as_ref(), &mut verdict);
    if let Some(checkpoint) = &checkpoint {
        for (name, by) in [(MANIFEST, &manifest), (KEY, &key), (CHECKPOINT, &seal)] {
            let address =
                checkpoint.origin.strip_suffix("/register").map(service_address).unwrap_or_default();
            if by.as_ref().is_some_and(|by| !by.addresses.iter().any(|a| a.eq_ignore_ascii_case(&address))) {
                verdict.wrong(
                    &beside(name, "p7s"),
                    format!("is not by {address}, whose register {} is", checkpoint.origin),
                );
            }
        }
    }
    match trusted {
        Some(_) => verdict.found.push("the CAs given vouch for who signed".to_owned()),
        None => {
            let all = own_cas
                .iter()
                .map(|ca| (ca, "the provider"))
                .chain(own_tsa_cas.iter().map(|ca| (ca, "the TSA")));
            verdict.found.extend(
                all.map(|(ca, whom)| format!("believed as the file has it, for {whom}: {}", named(ca))),
            );
        }
    }
    verdict
}

/// Every member is in the manifest, once, with its hash, and nothing else is.
fn hashes(members: &Members, broken: &HashSet<&str>, verdict: &mut Verdict) {
    let Some(manifest) = members.get(MANIFEST) else { return };
    let text = String::from_utf8_lossy(manifest);
    let mut listed = HashSet::new();
    for line in text.lines() {
        let Some((hash, name)) = line.split_once("  ") else {
            verdict.wrong(MANIFEST, format!("has a line that is none: {line:?}"));
            continue;
        };
        listed.insert(name.to_owned());
        match members.get(name) {
            Some(content) if hex(&sha256(content)) != hash => {
                verdict.wrong(name, "was changed: it is not what the manifest has")
            }
            None if !broken.contains(name) => verdict.wrong(name, "is missing"),
            _ => {}
        }
    }
    for name in members
        .keys()
        .filter(|name| *name != MANIFEST && *name != MANIFEST_SIGNATURE && !listed.contains(*name))
    {
        verdict.wrong(name, "was added: it is not in the manifest");
    }
}

struct Judge<'a> {
    members: &'a Members,
    cas: TrustedCas,
    tsa_cas: TsaCas,
    signers: &'a [X509],
}

impl Judge<'_> {
    /// A member's signature, and its timestamp if there is one. Who signed.
    fn signed(&self, name: &str, verdict: &mut Verdict) -> Option<SignedBy> {
        let (signature_name, stamp_name) = (beside(name, "p7s"), beside(name, "tsr"));
        let (content, signature) = (self.members.get(name)?, self.members.get(&signature_name)?);
        let stamp = self.stamp(signature, &stamp_name, verdict);
        let at = stamp
            .as_ref()
            .map(|stamp| stamp.at)
            .or_else(|| signed_at(signature))
            .unwrap_or(Moment::from_unix(0));
        match self.cas.signed_by(content, signature, at) {
            Ok(by) => {
                let when = match &stamp {
                    Some(stamp) => format!(", and {} has seen it by {}", stamp.by, stamp.at),
                    None => format!(" on {at}, by its own word"),
                };
                verdict.found.push(format!("{name} is signed by {}{when}", by.common_name));
                self.not_revoked(&signature_name, signature, at, verdict);
                Some(by)
            }
            Err(e) => {
                verdict.wrong(&signature_name, format!("does not sign {name} as it is here: {e}"));
                if name == MANIFEST {
                    // No other hash tells which of the two it is.
                    verdict.wrong(name, format!("is not what {signature_name} signs"));
                }
                None
            }
        }
    }

    fn stamp(&self, signature: &[u8], name: &str, verdict: &mut Verdict) -> Option<Timestamp> {
        let stamp = self.members.get(name)?;
        self.tsa_cas.verify(signature, stamp).map_err(|e| verdict.wrong(name, e.to_string())).ok()
    }

    /// The lists in the file do not have the signer's certificate, or only since later.
    fn not_revoked(&self, name: &str, signature: &[u8], at: Moment, verdict: &mut Verdict) {
        let none = Stack::new().ok();
        let Some(signer) = none
            .and_then(|none| Pkcs7::from_der(signature).ok()?.signers(&none, Pkcs7Flags::empty()).ok())
            .and_then(|signers| signers.get(0).map(ToOwned::to_owned))
        else {
            return;
        };
        for (list_name, content) in self.members.iter().filter(|(name, _)| name.starts_with("crl/")) {
            let Ok(list) = X509Crl::from_pem(content) else {
                verdict.wrong(list_name, "is no CRL");
                continue;
            };
            let issuer = certificates_from_pem(content)
                .unwrap_or_default()
                .into_iter()
                .chain(self.signers.iter().cloned());
            let is_theirs =
                |list: &X509Crl| list.issuer_name().to_der().ok() == signer.issuer_name().to_der().ok();
            if !is_theirs(&list) {
                continue;
            }
            if !issuer
                .filter_map(|issuer| issuer.public_key().ok())
                .any(|key| list.verify(&key).unwrap_or(false) && signer.verify(&key).unwrap_or(false))
            {
                verdict.wrong(list_name, format!("is not by the CA of {}", common_name(&signer)));
                continue;
            }
            match list.get_by_cert(&signer) {
                CrlStatus::Revoked(entry) => {
                    let since = openssl::asn1::Asn1Time::from_unix(at.unix())
                        .ok()
                        .and_then(|at| entry.revocation_date().compare(&at).ok());
                    if since.is_none_or(std::cmp::Ordering::is_le) {
                        verdict.wrong(
                            name,
                            format!(
                                "the certificate of {} was revoked by then ({list_name})",
                                common_name(&signer)
                            ),
                        );
                    } else {
                        verdict.found.push(format!(
                            "the certificate of {} was revoked later, on {}",
                            common_name(&signer),
                            entry.revocation_date()
                        ));
                    }
                }
                CrlStatus::NotRevoked | CrlStatus::RemoveFromCrl(_) => {}
            }
        }
    }

    fn checkpoint(&self, verdict: &mut Verdict) -> Option<Checkpoint> {
        let text =
            |name: &str| self.members.get(name).map(|content| String::from_utf8_lossy(content).into_owned());
        let (checkpoint, key) = (text(CHECKPOINT)?, text(KEY)?);
        match Checkpoint::open(&checkpoint, key.trim_end()) {
            Ok(checkpoint) => {
                let time = checkpoint.time.map_or_else(String::new, |time| format!(" of {time}"));
                verdict.found.push(format!(
                    "the checkpoint{time} is of {}, {} rows, signed by its log key",
                    checkpoint.origin, checkpoint.size
                ));
                Some(checkpoint)
            }
            Err(e) => {
                verdict.wrong(CHECKPOINT, e.to_string());
                None
            }
        }
    }

    /// Every row by way of its proof to the root, and no proof of any other row.
    fn rows(&self, checkpoint: Option<&Checkpoint>, verdict: &mut Verdict) {
        let Some(log) = self.members.get(LOG) else { return };
        let mut rows: Vec<i64> = Vec::new();
        for (number, line) in String::from_utf8_lossy(log).lines().enumerate() {
            let row = match Row::from_line(line) {
                Ok(row) => row,
                Err(e) => {
                    verdict.wrong(LOG, format!("line {}: {e}", number + 1));
                    continue;
                }
            };
            rows.push(row.seq);
            let name = proof_of(row.seq);
            let Some(text) = self.members.get(&name) else {
                verdict.wrong(LOG, format!("row {} has no proof", row.seq));
                continue;
            };
            let Some(checkpoint) = checkpoint else { continue };
            let text = String::from_utf8_lossy(text);
            let hash = leaf(&entry(line));
            let proved = proof::read(&text).filter(|(leaf, size, path)| {
                *size == checkpoint.size
                    && check_record(path, *size, checkpoint.root, *leaf, hash).is_ok()
                    && proof::render(*leaf, *size, hash, path).0 == text
            });
            if proved.is_none() {
                verdict
                    .wrong(LOG, format!("row {} is not in the tree of the checkpoint, by {name}", row.seq));
            }
        }
        if rows.is_empty() {
            verdict.wrong(LOG, "has no row");
        } else if checkpoint.is_some() && !verdict.findings.iter().any(|finding| finding.member == LOG) {
            verdict.found.push(format!("{} rows are in its tree", rows.len()));
        }
    }
}
