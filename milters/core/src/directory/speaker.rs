//! Who answers for a domain: the one model for envelopes, receipts and the log.
//!
//! Promise: a provider is known by its certificate alone; what an XML or a header calls it never counts. It
//! signs envelopes for the domains of the records with that certificate. Receipts it also signs for what was
//! its own under another record: providers change their names and certificates, and have several environments.

use super::{Directory, Provider};
use crate::smime::verify::SignedBy;

/// A provider that has signed something: all records of the directory with its certificate.
#[derive(Debug, Clone)]
pub struct Speaker {
    hashes: [String; 2],
    records: Vec<Provider>,
}

impl Speaker {
    /// The provider with the certificate of `signed_by`; `None`: no record has it.
    pub fn new(directory: &Directory, signed_by: &SignedBy) -> Option<Self> {
        let hashes = [signed_by.sha256.to_ascii_lowercase(), signed_by.sha1.to_ascii_lowercase()];
        let mut records = Vec::<Provider>::new();
        for record in hashes.iter().flat_map(|hash| directory.records_of_certificate(hash)) {
            if !records.contains(record) {
                records.push(record.clone());
            }
        }
        (!records.is_empty()).then_some(Self { hashes, records })
    }

    /// Its records, in the directory by which it was judged; never empty.
    pub fn records(&self) -> &[Provider] {
        &self.records
    }

    /// Its name in the directory: that of the first of its records.
    pub fn name(&self) -> &str {
        self.records.first().map_or("", |p| &p.name)
    }

    /// The record of `directory` by which it may sign envelopes of senders of `domain` (RFC 6109 s. 2.2.2).
    pub fn signs_for<'d>(&self, directory: &'d Directory, domain: &str) -> Option<&'d Provider> {
        directory.records_of_domain(domain).into_iter().find(|record| self.has_certificate_of(record))
    }

    /// The record of `directory` by which `domain` is its own: with its certificate, or of its name, or with
    /// its service mailbox's domain.
    pub fn serves<'d>(&self, directory: &'d Directory, domain: &str) -> Option<&'d Provider> {
        let is_its_own = |record: &Provider| {
            self.has_certificate_of(record)
                || self.records.iter().any(|own| own.name == record.name || is_one_service(own, record))
        };
        directory.records_of_domain(domain).into_iter().find(|record| is_its_own(record))
    }

    fn has_certificate_of(&self, record: &Provider) -> bool {
        self.hashes.iter().any(|hash| record.certificates.contains(hash))
    }
}

fn is_one_service(one: &Provider, other: &Provider) -> bool {
    let domain = |p: &Provider| p.mail_receipt.as_ref().map(|address| address.domain());
    domain(one).is_some() && domain(one) == domain(other)
}
