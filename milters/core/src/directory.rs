//! The index of the PEC providers (RFC 6109 s. 4.5), read from its LDIF file (RFC 2849).
//!
//! Promise: who answers for a certificate or a domain is one look-up in memory, without regard to case. A
//! million domains are some forty megabytes: the names stand behind each other in one text, and a table knows
//! where.

pub mod changes;
pub mod ldif;
pub mod signed;
pub mod signer;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io::BufRead;

use hashbrown::HashTable;
use ldif::Record;

use crate::address::{Address, is_domain};
use crate::identifier::unhex;

/// How many certificates a provider may have at a time, by AgID's rules. Who has more is believed all the
/// same.
pub const MOST_CERTIFICATES: usize = 10;

/// How many conflicts are named; the rest is counted.
const MOST_CONFLICTS: usize = 100;

/// One record: a provider, or one of its operating environments (`providerUnit`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// `providerName`.
    pub name: String,
    /// `providerUnit`, for a secondary environment.
    pub unit: Option<String>,
    /// `mailReceipt`: the service mailbox that takes presa in carico and virus notices.
    pub mail_receipt: Address,
    /// `LDIFLocationURL`: where the provider's own file is to be had.
    pub location: Option<String>,
}

impl Provider {
    /// Names the record to a person.
    pub fn title(&self) -> String {
        self.unit.as_ref().map_or_else(|| self.name.clone(), |unit| format!("{}, {unit}", self.name))
    }
}

/// All providers.
#[derive(Debug, Default)]
pub struct Directory {
    providers: Vec<Provider>,
    by_certificate: HashMap<String, usize>,
    domains: Domains,
    conflicts: Vec<String>,
    more_conflicts: usize,
    location: Option<String>,
}

/// Domains in lower case, each with the place of its provider's record.
#[derive(Debug, Default)]
struct Domains {
    /// One a line.
    text: String,
    table: HashTable<Domain>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Domain {
    begins: u32,
    length: u16,
    provider: u16,
}

impl Domain {
    fn name(self, text: &str) -> &str {
        text.get(self.begins as usize..self.begins as usize + usize::from(self.length)).unwrap_or_default()
    }
}

impl Domains {
    fn get(&self, domain: &str) -> Option<usize> {
        let found = self.table.find(self.hasher.hash_one(domain), |d| d.name(&self.text) == domain)?;
        Some(usize::from(found.provider))
    }

    /// Adds one that is not there yet.
    fn insert(&mut self, domain: &str, provider: usize) -> Result<(), String> {
        let too_much = |_| "holds more than can be kept".to_owned();
        let new = Domain {
            begins: self.text.len().try_into().map_err(too_much)?,
            length: domain.len().try_into().map_err(too_much)?,
            provider: provider.try_into().map_err(too_much)?,
        };
        self.text.push_str(domain);
        self.text.push('\n');
        let Self { text, table, hasher } = self;
        table.insert_unique(hasher.hash_one(domain), new, |d| hasher.hash_one(d.name(text)));
        Ok(())
    }
}

impl Directory {
    /// Reads LDIF text that is in memory; the error names the line or the record.
    pub fn parse(ldif: &(impl AsRef<[u8]> + ?Sized)) -> Result<Self, String> {
        Self::read(ldif.as_ref())
    }

    /// The same of a text that need not be in memory.
    pub fn read(ldif: impl BufRead) -> Result<Self, String> {
        let mut directory = Self::default();
        ldif::records(ldif, |record| directory.add(record))?;
        if directory.providers.is_empty() {
            return Err("holds no provider".to_owned());
        }
        if directory.more_conflicts > 0 {
            directory.conflicts.push(format!("and {} more of this kind", directory.more_conflicts));
        }
        directory.domains.text.shrink_to_fit();
        Ok(directory)
    }

    /// The provider that signs with the certificate of this hash (SHA-1 or SHA-256, hexadecimal).
    pub fn provider_of_certificate(&self, hash: &str) -> Option<&Provider> {
        self.by_certificate.get(&hash.to_ascii_lowercase()).map(|&i| &self.providers[i])
    }

    /// The provider that manages `domain`.
    pub fn provider_of_domain(&self, domain: &str) -> Option<&Provider> {
        self.domains.get(&domain.to_ascii_lowercase()).map(|i| &self.providers[i])
    }

    /// The record of the provider called `name`: of its main environment, or of a secondary one.
    pub fn record(&self, name: &str, unit: Option<&str>) -> Option<&Provider> {
        self.providers.iter().find(|p| p.name == name && p.unit.as_deref() == unit)
    }

    /// All records, in the file's order.
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    /// All certificates by their hashes, in lower case, sorted, each with its record.
    pub fn certificates(&self) -> Vec<(&str, &Provider)> {
        let mut all: Vec<_> =
            self.by_certificate.iter().map(|(hash, &i)| (hash.as_str(), &self.providers[i])).collect();
        all.sort_unstable_by_key(|(hash, _)| *hash);
        all
    }

    /// All domains in lower case, in the file's order, each with its record.
    pub fn domains(&self) -> impl Iterator<Item = (&str, &Provider)> {
        self.domains
            .text
            .lines()
            .filter_map(|domain| Some((domain, &self.providers[self.domains.get(domain)?])))
    }

    /// How many records and how many domains there are.
    pub fn size(&self) -> (usize, usize) {
        (self.providers.len(), self.domains.table.len())
    }

    /// `LDIFLocationURL` of the directory itself: where it says that it is to be had.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Domains and certificates that two records claim (the first keeps them), and records with too many
    /// certificates.
    pub fn conflicts(&self) -> &[String] {
        &self.conflicts
    }

    fn add(&mut self, record: Record) -> Result<(), String> {
        let Record { dn, is_provider, name, unit, mail_receipt, hashes, domains, location } = record;
        if !is_provider {
            self.location = self.location.take().or(location);
            return Ok(());
        }
        let name = name.ok_or_else(|| format!("{dn}: no providerName"))?;
        let mail_receipt = mail_receipt.ok_or_else(|| format!("{dn}: no mailReceipt"))?;
        let mail_receipt = Address::parse(&mail_receipt)
            .ok_or_else(|| format!("{dn}: mailReceipt {mail_receipt:?} is no mail address"))?;
        let index = self.providers.len();

        for hash in &hashes {
            if !unhex(hash).is_some_and(|bytes| matches!(bytes.len(), 20 | 32)) {
                return Err(format!(
                    "{dn}: providerCertificateHash {hash:?} is neither SHA-1 nor SHA-256 in hexadecimal"
                ));
            }
            let hash = hash.to_ascii_lowercase();
            match self.by_certificate.get(&hash) {
                Some(&other) if other != index => self.conflict(format!("{hash}: claimed again by {dn}")),
                Some(_) => {}
                None => {
                    self.by_certificate.insert(hash, index);
                }
            }
        }
        if hashes.is_empty() {
            return Err(format!("{dn}: no providerCertificateHash"));
        }
        if hashes.len() > MOST_CERTIFICATES {
            self.conflict(format!("{dn} has {} certificates, {MOST_CERTIFICATES} are allowed", hashes.len()));
        }
        for mut domain in domains {
            if !is_domain(&domain) {
                return Err(format!("{dn}: managedDomains {domain:?} is no domain"));
            }
            domain.make_ascii_lowercase();
            match self.domains.get(&domain) {
                Some(other) if other != index => self.conflict(format!("{domain}: claimed again by {dn}")),
                Some(_) => {}
                None => self.domains.insert(&domain, index)?,
            }
        }
        self.providers.push(Provider { name, unit, mail_receipt, location });
        Ok(())
    }

    fn conflict(&mut self, words: String) {
        if self.conflicts.len() < MOST_CONFLICTS {
            self.conflicts.push(words);
        } else {
            self.more_conflicts += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LDIF: &str = "version: 1\n# the base\ndn: o=postacert\nobjectclass: top\nobjectClass: \
        LDIFLocationURLObject\no: postacert\n\n\
        dn: providerName=Alfa,o=postacert\nobjectclass: provider\nproviderName: Alfa\n\
        providerCertificateHash:\n 7E7AEF1059AE0F454F2643A9\n \
        5F69EC3556009239\nproviderCertificate;binary::\n MIIDBjCC\n Am+g\n\
        mailReceipt: ricevute@gestore.alfa.test\nmanagedDomains: PEC.alfa.test\nmanagedDomains: \
        studio.example\n\n\
        dn:: cHJvdmlkZXJOYW1lPUJldMOgLG89cG9zdGFjZXJ0\nobjectclass: provider\nproviderName:: QmV0w6A=\n\
        providerCertificateHash: \
        E00FDD9D88BE0E2CC766B893315CAF93D5701A6AE00FDD9D88BE0E2CC766B893\nmailReceipt: \
        r@gestore.beta.test\nmanagedDomains: pec.beta.test\n";

    #[test]
    fn rfc6109_4_5_folding_base64_comments_and_either_case() {
        for text in [LDIF.to_owned(), LDIF.replace('\n', "\r\n")] {
            let directory = Directory::parse(&text).unwrap();
            assert_eq!(directory.size(), (2, 3));
            let alfa = directory.provider_of_certificate("7e7aef1059ae0f454f2643a95f69ec3556009239").unwrap();
            assert_eq!(
                (alfa.name.as_str(), alfa.mail_receipt.as_str()),
                ("Alfa", "ricevute@gestore.alfa.test")
            );
            assert_eq!(directory.provider_of_domain("pec.ALFA.test"), Some(alfa));
            assert_eq!(directory.provider_of_domain("pec.beta.test").map(|p| p.name.as_str()), Some("Betà"));
            assert_eq!(directory.provider_of_domain("alfa.test"), None);
        }
    }

    #[test]
    fn rfc6109_4_5_a_provider_has_several_certificates_while_one_replaces_another() {
        let second =
            "providerCertificateHash: 0123456789abcdef0123456789abcdef01234567\nmailReceipt: ricevute@";
        let directory = Directory::parse(&LDIF.replace("mailReceipt: ricevute@", second)).unwrap();
        for hash in ["7E7AEF1059AE0F454F2643A95F69EC3556009239", "0123456789ABCDEF0123456789abcdef01234567"] {
            assert_eq!(directory.provider_of_certificate(hash).map(|p| p.name.as_str()), Some("Alfa"));
        }
    }

    #[test]
    fn more_than_ten_certificates_are_believed_and_said() {
        let with = |n: usize| {
            let more: String = (0..n).map(|i| format!("providerCertificateHash: {i:040x}\n")).collect();
            LDIF.replacen("mailReceipt: ", &format!("{more}mailReceipt: "), 1)
        };
        assert!(Directory::parse(&with(9)).unwrap().conflicts().is_empty());
        let directory = Directory::parse(&with(10)).unwrap();
        assert_eq!(
            directory.conflicts(),
            ["providerName=Alfa,o=postacert has 11 certificates, 10 are allowed"]
        );
        assert!(directory.provider_of_certificate(&format!("{:040x}", 9)).is_some());
    }

    #[test]
    fn rfc6109_4_5_7_a_secondary_environment_has_its_own_domains_certificates_and_service_mailbox() {
        let secondary = "\ndn: providerUnit=Due,providerName=Alfa,o=postacert\nobjectclass: \
            provider\nproviderName: Alfa\nproviderUnit: Due\n\
            providerCertificateHash: 0123456789abcdef0123456789abcdef01234567\nmailReceipt: \
            ricevute@due.alfa.test\nmanagedDomains: pec.due.test\n";
        for text in [
            format!("{LDIF}{secondary}"),
            LDIF.replacen("\ndn: providerName=Alfa", &format!("{secondary}\ndn: providerName=Alfa"), 1),
        ] {
            let directory = Directory::parse(&text).unwrap();
            let unit = directory.provider_of_domain("pec.due.test").unwrap();
            assert_eq!(
                (unit.unit.as_deref(), unit.mail_receipt.as_str()),
                (Some("Due"), "ricevute@due.alfa.test")
            );
            assert_eq!(
                directory.provider_of_certificate("0123456789abcdef0123456789abcdef01234567"),
                Some(unit)
            );
            assert_eq!(
                directory.record("Alfa", None).unwrap().mail_receipt.as_str(),
                "ricevute@gestore.alfa.test",
                "whatever the order"
            );
            assert_eq!(directory.record("Alfa", Some("Due")), Some(unit));
            assert_eq!(directory.record("Alfa", Some("Tre")), None);
        }
    }

    #[test]
    fn a_domain_claimed_twice_stays_with_the_first_and_is_named() {
        let directory = Directory::parse(
            &LDIF.replace("managedDomains: pec.beta.test", "managedDomains: studio.example"),
        )
        .unwrap();
        assert_eq!(directory.provider_of_domain("studio.example").map(|p| p.name.as_str()), Some("Alfa"));
        assert_eq!(directory.conflicts().len(), 1);
    }

    #[test]
    fn an_error_is_one_line_whatever_the_name_holds() {
        let text = LDIF
            .replace("dn:: cHJvdmlkZXJOYW1lPUJldMOgLG89cG9zdGFjZXJ0", "dn:: YQpi")
            .replace("mailReceipt: r@", "mailReceipt: r");
        assert_eq!(
            Directory::parse(&text).unwrap_err(),
            "a b: mailReceipt \"rgestore.beta.test\" is no mail address"
        );
    }

    #[test]
    fn rfc6109_4_5_what_is_wrong_is_named() {
        for (from, to, says) in [
            ("mailReceipt: r@", "mailReceipt: r", "mailReceipt"),
            ("mailReceipt: ricevute@gestore.alfa.test\n", "", "no mailReceipt"),
            ("providerName: Alfa\n", "", "no providerName"),
            ("providerCertificateHash: E0", "providerCertificateHash: G0", "neither SHA-1 nor SHA-256"),
            ("managedDomains: studio.example", "managedDomains: studio example", "is no domain"),
            ("providerName:: QmV0w6A=", "providerName:: ???", "not base64"),
            ("o: postacert\n\n", "o: postacert\n", "without an empty line"),
            ("objectclass: provider\nproviderName: Alfa", "nonsense", "is no attribute"),
        ] {
            let error = Directory::parse(&LDIF.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(Directory::parse("").unwrap_err().contains("no provider"));
    }
}
