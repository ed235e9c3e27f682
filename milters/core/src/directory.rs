//! The index of the PEC providers (RFC 6109 s. 4.5), read from its LDIF file (RFC 2849).
//!
//! Promise: which records have a certificate or a domain is one look-up in memory, without regard to case. A
//! bad value spoils its record alone: the rest of the file counts, and the record says what it lost. A million
//! domains are some forty megabytes: the names stand behind each other in one text, and a table knows where.

pub mod changes;
pub mod excerpt;
pub mod ldif;
pub mod signed;
pub mod signer;
pub mod speaker;

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

/// How many bad values of a record are named; of each attribute the first is.
const MOST_SPOILED: usize = 20;

/// An attribute of a record that decides about mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// `providerName`.
    Name,
    /// `providerUnit`.
    Unit,
    /// `providerCertificateHash`.
    Certificate,
    /// `managedDomains`.
    Domain,
    /// `mailReceipt`.
    MailReceipt,
    /// A line that is no attribute: it may have been any.
    Unknown,
}

/// A bad value of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoiled {
    /// Of which attribute.
    pub attribute: Attribute,
    /// What is wrong, with the value.
    pub why: String,
}

/// One record: a provider, or one of its operating environments (`providerUnit`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its distinguished name.
    pub dn: String,
    /// `providerName`; the distinguished name where there is none.
    pub name: String,
    /// `providerUnit`, for a secondary environment.
    pub unit: Option<String>,
    /// `mailReceipt`: the service mailbox that takes presa in carico and virus notices. `None`: there is no
    /// good one, and [`spoiled`](Self::spoiled) says why.
    pub mail_receipt: Option<Address>,
    /// `LDIFLocationURL`: where the provider's own file is to be had.
    pub location: Option<String>,
    /// `providerCertificateHash`: SHA-1 or SHA-256, hexadecimal, in lower case.
    pub certificates: Vec<String>,
    /// What is bad in the record. Its good values count, and the last good ones of before in the place of the
    /// bad ([`Directory::keep`]).
    pub spoiled: Vec<Spoiled>,
}

impl Provider {
    /// Names the record to a person.
    pub fn title(&self) -> String {
        self.unit.as_ref().map_or_else(|| self.name.clone(), |unit| format!("{}, {unit}", self.name))
    }

    /// `mailReceipt` as a person reads it.
    pub fn mail_receipt_text(&self) -> &str {
        self.mail_receipt.as_ref().map_or("none that is good", Address::as_str)
    }

    /// Whether it is the same record as `other`, whatever else of it has changed.
    pub fn is_same_record(&self, other: &Self) -> bool {
        let is_unnamed = |p: &Self| p.lacks(Attribute::Name) || p.lacks(Attribute::Unit);
        (&self.name, &self.unit) == (&other.name, &other.unit)
            || (self.dn == other.dn && (is_unnamed(self) || is_unnamed(other)))
    }

    /// Whether a value of this attribute may be missing, since one is bad.
    pub fn lacks(&self, attribute: Attribute) -> bool {
        self.spoiled.iter().any(|s| s.attribute == attribute || s.attribute == Attribute::Unknown)
    }
}

/// All providers.
#[derive(Debug, Default)]
pub struct Directory {
    providers: Vec<Provider>,
    by_certificate: HashMap<String, Vec<usize>>,
    domains: Domains,
    conflicts: Vec<String>,
    more_conflicts: usize,
    location: Option<String>,
}

/// Domains in lower case, each with the places of the records that have it.
#[derive(Debug, Default)]
struct Domains {
    /// One a line, each once.
    text: String,
    count: usize,
    /// A domain of several records has an entry for each.
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
    fn entries(&self, domain: &str) -> impl Iterator<Item = Domain> {
        let same_hash = self.table.iter_hash(self.hasher.hash_one(domain)).copied();
        same_hash.filter(move |d| d.name(&self.text) == domain)
    }

    /// The places of the records that have it, in the file's order.
    fn get(&self, domain: &str) -> Vec<usize> {
        let mut found: Vec<usize> = self.entries(domain).map(|d| usize::from(d.provider)).collect();
        found.sort_unstable();
        found
    }

    /// Adds one that this record does not have yet.
    fn insert(&mut self, domain: &str, provider: usize) -> Result<(), String> {
        let too_much = |_| "holds more than can be kept".to_owned();
        let provider = provider.try_into().map_err(too_much)?;
        let known = self.entries(domain).next();
        let new = match known {
            Some(known) => Domain { provider, ..known },
            None => Domain {
                begins: self.text.len().try_into().map_err(too_much)?,
                length: domain.len().try_into().map_err(too_much)?,
                provider,
            },
        };
        if known.is_none() {
            self.text.push_str(domain);
            self.text.push('\n');
            self.count += 1;
        }
        let Self { text, table, hasher, .. } = self;
        table.insert_unique(hasher.hash_one(domain), new, |d| hasher.hash_one(d.name(text)));
        Ok(())
    }
}

impl Directory {
    /// Reads LDIF text that is in memory; the error says why the whole is not to be trusted.
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

    /// The records with the certificate of this hash (SHA-1 or SHA-256, hexadecimal), in the file's order. A
    /// provider's main and secondary environments may have one certificate (RFC 6109 s. 4.5.10).
    pub fn records_of_certificate(&self, hash: &str) -> Vec<&Provider> {
        let found = self.by_certificate.get(&hash.to_ascii_lowercase());
        found.into_iter().flatten().map(|&i| &self.providers[i]).collect()
    }

    /// The records that manage `domain`, in the file's order: several while it moves from one provider to
    /// another.
    pub fn records_of_domain(&self, domain: &str) -> Vec<&Provider> {
        self.domains.get(&domain.to_ascii_lowercase()).into_iter().map(|i| &self.providers[i]).collect()
    }

    /// Whether a record manages `domain`.
    pub fn has_domain(&self, domain: &str) -> bool {
        self.domains.entries(&domain.to_ascii_lowercase()).next().is_some()
    }

    /// The record of the provider called `name`: of its main environment, or of a secondary one.
    pub fn record(&self, name: &str, unit: Option<&str>) -> Option<&Provider> {
        self.providers.iter().find(|p| p.name == name && p.unit.as_deref() == unit)
    }

    /// All records, in the file's order.
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    /// All certificates by their hashes, in lower case, sorted, each with each of its records.
    pub fn certificates(&self) -> Vec<(&str, &Provider)> {
        let mut all: Vec<(&str, usize)> = self
            .by_certificate
            .iter()
            .flat_map(|(hash, places)| places.iter().map(move |&i| (hash.as_str(), i)))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(hash, i)| (hash, &self.providers[i])).collect()
    }

    /// All domains in lower case, in the file's order, each with each of its records.
    pub fn domains(&self) -> impl Iterator<Item = (&str, &Provider)> {
        self.domains.text.lines().flat_map(move |domain| {
            self.domains.get(domain).into_iter().map(move |i| (domain, &self.providers[i]))
        })
    }

    /// How many records and how many domains there are.
    pub fn size(&self) -> (usize, usize) {
        (self.providers.len(), self.domains.count)
    }

    /// `LDIFLocationURL` of the directory itself: where it says that it is to be had.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Domains and certificates that two providers claim (both may sign for them), and records with too many
    /// certificates.
    pub fn conflicts(&self) -> &[String] {
        &self.conflicts
    }

    /// What is bad in it, a line for each bad value.
    pub fn spoiled(&self) -> impl Iterator<Item = String> {
        self.providers.iter().flat_map(|p| p.spoiled.iter().map(move |s| format!("{}: {}", p.title(), s.why)))
    }

    /// Gives records with bad values the last good ones of the same record in `before`, where no other record
    /// has them now: a domain that vanished would count as ordinary, and a certificate that vanished as an
    /// anomaly. Gives whether anything was kept.
    pub fn keep(&mut self, before: &Self) -> Result<bool, String> {
        let mut is_kept = false;
        for index in 0..self.providers.len() {
            let now = &self.providers[index];
            let Some(old) = before.providers.iter().position(|old| old.is_same_record(now)) else { continue };
            let lacks = |attribute| now.lacks(attribute);
            let (certificates, domains) = (lacks(Attribute::Certificate), lacks(Attribute::Domain));
            if lacks(Attribute::Name) || lacks(Attribute::Unit) {
                let Provider { name, unit, .. } = before.providers[old].clone();
                (self.providers[index].name, self.providers[index].unit) = (name, unit);
                is_kept = true;
            }
            let now = &self.providers[index];
            if now.mail_receipt.is_none() {
                self.providers[index].mail_receipt.clone_from(&before.providers[old].mail_receipt);
                is_kept |= self.providers[index].mail_receipt.is_some();
            }
            if certificates {
                for hash in &before.providers[old].certificates {
                    if !self.by_certificate.contains_key(hash) {
                        self.add_certificate(index, hash);
                        is_kept = true;
                    }
                }
            }
            if domains {
                let of_old = before.domains.text.lines().filter(|d| before.domains.get(d).contains(&old));
                for domain in of_old {
                    if !self.has_domain(domain) {
                        self.domains.insert(domain, index)?;
                        is_kept = true;
                    }
                }
            }
        }
        Ok(is_kept)
    }

    fn add(&mut self, record: Record) -> Result<(), String> {
        let Record { dn, is_provider, name, unit, mail_receipt, hashes, domains, location, mut spoiled } =
            record;
        if !is_provider {
            self.location = self.location.take().or(location);
            return Ok(());
        }
        let name = name.unwrap_or_else(|| {
            add_spoiled(&mut spoiled, Attribute::Name, "it has no providerName".to_owned());
            dn.clone()
        });
        // Without it, it would pass for the main environment's.
        let unit =
            unit.or_else(|| spoiled.iter().any(|s| s.attribute == Attribute::Unit).then(|| dn.clone()));
        let mut spoil = |attribute, why: String| add_spoiled(&mut spoiled, attribute, why);
        let address = mail_receipt.as_deref().and_then(Address::parse);
        match (&mail_receipt, &address) {
            (None, _) => spoil(Attribute::MailReceipt, "it has no mailReceipt".to_owned()),
            (Some(text), None) => {
                spoil(Attribute::MailReceipt, format!("mailReceipt {text:?} is no mail address"));
            }
            (Some(_), Some(_)) => {}
        }
        if hashes.is_empty() {
            spoil(Attribute::Certificate, "it has no providerCertificateHash".to_owned());
        }
        let index = self.providers.len();
        let (mut good_hashes, mut good_domains) = (Vec::new(), Vec::new());
        for hash in hashes {
            if unhex(&hash).is_some_and(|bytes| matches!(bytes.len(), 20 | 32)) {
                good_hashes.push(hash.to_ascii_lowercase());
            } else {
                let why =
                    format!("providerCertificateHash {hash:?} is neither SHA-1 nor SHA-256 in hexadecimal");
                spoil(Attribute::Certificate, why);
            }
        }
        for mut domain in domains {
            if is_domain(&domain) {
                domain.make_ascii_lowercase();
                good_domains.push(domain);
            } else {
                spoil(Attribute::Domain, format!("managedDomains {domain:?} is no domain"));
            }
        }
        if good_hashes.len() > MOST_CERTIFICATES {
            let count = good_hashes.len();
            self.conflict(format!("{dn} has {count} certificates, {MOST_CERTIFICATES} are allowed"));
        }
        self.providers.push(Provider {
            dn,
            name,
            unit,
            mail_receipt: address,
            location,
            certificates: Vec::new(),
            spoiled,
        });
        for hash in &good_hashes {
            self.add_certificate(index, hash);
        }
        for domain in good_domains {
            let others = self.domains.get(&domain);
            if others.contains(&index) {
                continue;
            }
            self.two_claim(&domain, &others, index);
            self.domains.insert(&domain, index)?;
        }
        Ok(())
    }

    fn add_certificate(&mut self, index: usize, hash: &str) {
        let others = self.by_certificate.get(hash).cloned().unwrap_or_default();
        if others.contains(&index) {
            return;
        }
        self.two_claim(hash, &others, index);
        self.by_certificate.entry(hash.to_owned()).or_default().push(index);
        self.providers[index].certificates.push(hash.to_owned());
    }

    /// Two environments of one provider may have the same; two providers may, too, but that is said.
    fn two_claim(&mut self, what: &str, others: &[usize], index: usize) {
        let name = &self.providers[index].name;
        let Some(other) = others.iter().map(|&i| &self.providers[i]).find(|p| p.name != *name) else {
            return;
        };
        let (one, two) = (other.title(), self.providers[index].title());
        self.conflict(format!("{what} is in the records of {one} and of {two}: either may sign for it"));
    }

    fn conflict(&mut self, words: String) {
        if self.conflicts.len() < MOST_CONFLICTS {
            self.conflicts.push(words);
        } else {
            self.more_conflicts += 1;
        }
    }
}

/// Notes a bad value; of too many the first.
fn add_spoiled(spoiled: &mut Vec<Spoiled>, attribute: Attribute, why: String) {
    if spoiled.len() < MOST_SPOILED || !spoiled.iter().any(|s| s.attribute == attribute) {
        spoiled.push(Spoiled { attribute, why });
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

    fn only(records: Vec<&Provider>) -> &Provider {
        let [one] = records[..] else { panic!("{records:?}") };
        one
    }

    #[test]
    fn rfc6109_4_5_folding_base64_comments_and_either_case() {
        for text in [LDIF.to_owned(), LDIF.replace('\n', "\r\n")] {
            let directory = Directory::parse(&text).unwrap();
            assert_eq!(directory.size(), (2, 3));
            let alfa = only(directory.records_of_certificate("7e7aef1059ae0f454f2643a95f69ec3556009239"));
            assert_eq!(
                (alfa.name.as_str(), alfa.mail_receipt_text()),
                ("Alfa", "ricevute@gestore.alfa.test")
            );
            assert_eq!(directory.records_of_domain("pec.ALFA.test"), [alfa]);
            assert_eq!(only(directory.records_of_domain("pec.beta.test")).name, "Betà");
            assert!(directory.records_of_domain("alfa.test").is_empty());
        }
    }

    #[test]
    fn rfc6109_4_5_a_provider_has_several_certificates_while_one_replaces_another() {
        let second =
            "providerCertificateHash: 0123456789abcdef0123456789abcdef01234567\nmailReceipt: ricevute@";
        let directory = Directory::parse(&LDIF.replace("mailReceipt: ricevute@", second)).unwrap();
        for hash in ["7E7AEF1059AE0F454F2643A95F69EC3556009239", "0123456789ABCDEF0123456789abcdef01234567"] {
            assert_eq!(only(directory.records_of_certificate(hash)).name, "Alfa");
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
        assert!(!directory.records_of_certificate(&format!("{:040x}", 9)).is_empty());
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
            let unit = only(directory.records_of_domain("pec.due.test"));
            assert_eq!(
                (unit.unit.as_deref(), unit.mail_receipt_text()),
                (Some("Due"), "ricevute@due.alfa.test")
            );
            assert_eq!(directory.records_of_certificate("0123456789abcdef0123456789abcdef01234567"), [unit]);
            assert_eq!(
                directory.record("Alfa", None).unwrap().mail_receipt_text(),
                "ricevute@gestore.alfa.test",
                "whatever the order"
            );
            assert_eq!(directory.record("Alfa", Some("Due")), Some(unit));
            assert_eq!(directory.record("Alfa", Some("Tre")), None);
        }
    }

    const DUE: &str = "\ndn: providerUnit=Due,providerName=Alfa,o=postacert\nobjectclass: \
        provider\nproviderName: Alfa\nproviderUnit: Due\nproviderCertificateHash: \
        7e7aef1059ae0f454f2643a95f69ec3556009239\nmailReceipt: ricevute@due.alfa.test\nmanagedDomains: \
        pec.due.test\nmanagedDomains: studio.example\n";

    #[test]
    fn rfc6109_4_5_10_a_certificate_may_stand_in_the_main_and_in_a_secondary_record() {
        let directory = Directory::parse(&format!("{LDIF}{DUE}")).unwrap();
        let titles = |records: Vec<&Provider>| records.iter().map(|p| p.title()).collect::<Vec<_>>();
        let hash = "7E7AEF1059AE0F454F2643A95F69EC3556009239";
        assert_eq!(titles(directory.records_of_certificate(hash)), ["Alfa", "Alfa, Due"]);
        assert_eq!(titles(directory.records_of_domain("studio.example")), ["Alfa", "Alfa, Due"]);
        assert_eq!(titles(directory.records_of_domain("pec.due.test")), ["Alfa, Due"]);
        assert_eq!(directory.size(), (3, 4));
        assert!(directory.conflicts().is_empty(), "one provider: {:?}", directory.conflicts());
    }

    #[test]
    fn a_domain_or_certificate_of_two_providers_is_in_both_and_named() {
        let text = LDIF.replace("managedDomains: pec.beta.test", "managedDomains: studio.example").replace(
            "providerCertificateHash: E0",
            "providerCertificateHash: \
                7E7AEF1059AE0F454F2643A95F69EC3556009239\nproviderCertificateHash: E0",
        );
        let directory = Directory::parse(&text).unwrap();
        let names = |records: Vec<&Provider>| records.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(directory.records_of_domain("studio.example")), ["Alfa", "Betà"]);
        assert_eq!(
            names(directory.records_of_certificate("7e7aef1059ae0f454f2643a95f69ec3556009239")),
            ["Alfa", "Betà"]
        );
        let said = " is in the records of Alfa and of Betà: either may sign for it";
        assert_eq!(
            directory.conflicts(),
            [format!("7e7aef1059ae0f454f2643a95f69ec3556009239{said}"), format!("studio.example{said}")]
        );
    }

    #[test]
    fn rfc6109_4_5_a_bad_value_spoils_its_record_alone_which_keeps_the_last_good_ones() {
        let before = Directory::parse(LDIF).unwrap();
        let alfas = "7e7aef1059ae0f454f2643a95f69ec3556009239";
        for (from, to, says) in [
            ("mailReceipt: ricevute@", "mailReceipt: ricevute", "is no mail address"),
            ("mailReceipt: ricevute@gestore.alfa.test\n", "", "no mailReceipt"),
            ("mailReceipt: ricevute@gestore.alfa.test\n", "mailReceipt:: ???\n", "not base64"),
            ("mailReceipt: ricevute@gestore.alfa.test\n", "mailReceipt:: /w==\n", "not UTF-8"),
            ("providerName: Alfa\n", "", "no providerName"),
            ("providerName: Alfa\n", "providerName:: ???\n", "not base64"),
            ("providerCertificateHash:\n 7E", "providerCertificateHash:\n GE", "neither SHA-1 nor SHA-256"),
            ("providerCertificateHash:\n 7E", "providerCertificateHash:\n 7", "neither SHA-1 nor SHA-256"),
            ("managedDomains: studio.example", "managedDomains: caffè.example", "is no domain"),
            ("managedDomains: studio.example", "managedDomains:: ????", "not base64"),
            ("managedDomains: studio.example", "studio.example", "is no attribute"),
        ] {
            let text = LDIF.replacen(from, to, 1);
            assert_ne!(text, LDIF);
            let mut directory = Directory::parse(&text).unwrap();
            let spoiled: Vec<String> = directory.spoiled().collect();
            assert!(spoiled.iter().any(|what| what.contains(says)), "{says}: {spoiled:?}");
            assert!(
                directory.providers()[1].spoiled.is_empty(),
                "{says}: the other record is as good as before"
            );
            directory.keep(&before).unwrap();
            let alfa = only(directory.records_of_domain("studio.example"));
            assert_eq!(
                (alfa.name.as_str(), alfa.mail_receipt_text()),
                ("Alfa", "ricevute@gestore.alfa.test"),
                "{says}"
            );
            assert_eq!(directory.records_of_certificate(alfas), [alfa], "{says}");
            assert_eq!(directory.spoiled().count(), spoiled.len(), "it is said as long as it is so");
            // And once more, by another bad file.
            let mut next = Directory::parse(&text).unwrap();
            next.keep(&directory).unwrap();
            assert_eq!((next.size(), next.records_of_certificate(alfas).len()), ((2, 3), 1), "{says}");
        }
    }

    #[test]
    fn what_another_record_has_by_now_is_not_kept() {
        let before = Directory::parse(LDIF).unwrap();
        let text = LDIF.replace("managedDomains: studio.example", "managedDomains: studio example").replace(
            "managedDomains: pec.beta.test",
            "managedDomains: pec.beta.test\nmanagedDomains: studio.example",
        );
        let mut directory = Directory::parse(&text).unwrap();
        directory.keep(&before).unwrap();
        assert_eq!(only(directory.records_of_domain("studio.example")).name, "Betà");
    }

    #[test]
    fn what_never_was_good_is_missing_and_the_record_says_so() {
        let directory = Directory::parse(&LDIF.replace("mailReceipt: r@", "mailReceipt: r")).unwrap();
        let beta = only(directory.records_of_domain("pec.beta.test"));
        assert_eq!(beta.mail_receipt, None);
        assert!(beta.lacks(Attribute::MailReceipt) && !beta.lacks(Attribute::Domain));
    }

    #[test]
    fn a_secondary_record_without_its_unit_does_not_pass_for_the_main_one() {
        let text = format!("{}\n{LDIF}", DUE.trim_start().replace("providerUnit: Due", "providerUnit:: ?"));
        let directory = Directory::parse(&text).unwrap();
        let main = directory.record("Alfa", None).unwrap();
        assert_eq!(main.mail_receipt_text(), "ricevute@gestore.alfa.test");
    }

    #[test]
    fn bad_values_are_named_up_to_a_bound() {
        let more: String = (0..1000).map(|i| format!("managedDomains: bad {i}\n")).collect();
        let directory = Directory::parse(&(LDIF.to_owned() + &more)).unwrap();
        assert_eq!(directory.spoiled().count(), MOST_SPOILED);
    }

    #[test]
    fn what_is_said_is_one_line_whatever_the_name_holds() {
        let text = LDIF
            .replace("providerName:: QmV0w6A=", "providerName:: YQpi")
            .replace("mailReceipt: r@", "mailReceipt: r");
        assert_eq!(
            Directory::parse(&text).unwrap().spoiled().collect::<Vec<_>>(),
            ["a b: mailReceipt \"rgestore.beta.test\" is no mail address"]
        );
    }

    #[test]
    fn rfc6109_4_5_what_makes_the_whole_untrustworthy_is_named() {
        for (from, to, says) in [
            ("o: postacert\n\n", "o: postacert\n", "without an empty line"),
            ("dn: providerName=Alfa,o=postacert\n", "", "stands before any dn"),
            ("version: 1", "nonsense", "is no attribute"),
            ("\nobjectclass: provider\n", "\n", "no provider"),
        ] {
            let error = Directory::parse(&LDIF.replace(from, to)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(Directory::parse("").unwrap_err().contains("no provider"));
    }
}
