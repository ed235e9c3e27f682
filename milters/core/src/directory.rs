//! The index of the PEC providers (RFC 6109 s. 4.5), read from its LDIF file (RFC 2849).
//!
//! Promise: who answers for a certificate or a domain is one look-up in memory, without regard to case.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::address::{Address, is_domain};
use crate::identifier::unhex;

/// How many certificates a provider may have at a time, by AgID's rules. Who has more is believed all the same.
const MOST_CERTIFICATES: usize = 10;

/// One record: a provider, or one of its operating environments (`providerUnit`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// `providerName`.
    pub name: String,
    /// `providerUnit`, for a secondary environment.
    pub unit: Option<String>,
    /// `mailReceipt`: the service mailbox that takes presa in carico and virus notices.
    pub mail_receipt: Address,
}

/// All providers.
#[derive(Debug, Default)]
pub struct Directory {
    providers: Vec<Provider>,
    by_certificate: HashMap<String, usize>,
    by_domain: HashMap<String, usize>,
    conflicts: Vec<String>,
}

/// The directory file is not usable. One line.
#[derive(Debug, thiserror::Error)]
#[error("pec_directory_file = {path}: {trouble}")]
pub struct DirectoryError {
    path: String,
    trouble: String,
}

impl Directory {
    /// Reads the LDIF file.
    pub fn read(file: &Path) -> Result<Self, DirectoryError> {
        let error = |trouble: String| DirectoryError { path: file.display().to_string(), trouble };
        let text = fs::read_to_string(file).map_err(|e| error(e.to_string()))?;
        Self::parse(&text).map_err(error)
    }

    /// Reads LDIF text; the error names the line or the record.
    pub fn parse(ldif: &str) -> Result<Self, String> {
        let mut directory = Self::default();
        for record in records(ldif)? {
            if record.values("objectClass").any(|class| class.eq_ignore_ascii_case("provider")) {
                directory.add(&record)?;
            }
        }
        if directory.providers.is_empty() {
            return Err("holds no provider".to_owned());
        }
        Ok(directory)
    }

    /// The provider that signs with the certificate of this hash (SHA-1 or SHA-256, hexadecimal).
    pub fn provider_of_certificate(&self, hash: &str) -> Option<&Provider> {
        self.by_certificate.get(&hash.to_ascii_lowercase()).map(|&i| &self.providers[i])
    }

    /// The provider that manages `domain`.
    pub fn provider_of_domain(&self, domain: &str) -> Option<&Provider> {
        self.by_domain.get(&domain.to_ascii_lowercase()).map(|&i| &self.providers[i])
    }

    /// The record of the provider called `name`: of its main environment, or of a secondary one.
    pub fn record(&self, name: &str, unit: Option<&str>) -> Option<&Provider> {
        self.providers.iter().find(|p| p.name == name && p.unit.as_deref() == unit)
    }

    /// How many records and how many domains there are.
    pub fn size(&self) -> (usize, usize) {
        (self.providers.len(), self.by_domain.len())
    }

    /// Domains and certificates that two records claim (the first keeps them), and records with too many certificates.
    pub fn conflicts(&self) -> &[String] {
        &self.conflicts
    }

    fn add(&mut self, record: &Record) -> Result<(), String> {
        let name = record.value("providerName").ok_or_else(|| format!("{}: no providerName", record.dn))?;
        let mail_receipt = record.value("mailReceipt").ok_or_else(|| format!("{}: no mailReceipt", record.dn))?;
        let mail_receipt = Address::parse(mail_receipt).ok_or_else(|| format!("{}: mailReceipt {mail_receipt:?} is no mail address", record.dn))?;
        let index = self.providers.len();

        let mut hashes = 0;
        for hash in record.values("providerCertificateHash") {
            if !unhex(hash).is_some_and(|bytes| matches!(bytes.len(), 20 | 32)) {
                return Err(format!("{}: providerCertificateHash {hash:?} is neither SHA-1 nor SHA-256 in hexadecimal", record.dn));
            }
            Self::claim(&mut self.by_certificate, &mut self.conflicts, hash.to_ascii_lowercase(), index, &record.dn);
            hashes += 1;
        }
        if hashes == 0 {
            return Err(format!("{}: no providerCertificateHash", record.dn));
        }
        if hashes > MOST_CERTIFICATES {
            self.conflicts.push(format!("{} has {hashes} certificates, {MOST_CERTIFICATES} are allowed", record.dn));
        }
        for domain in record.values("managedDomains") {
            if !is_domain(domain) {
                return Err(format!("{}: managedDomains {domain:?} is no domain", record.dn));
            }
            Self::claim(&mut self.by_domain, &mut self.conflicts, domain.to_ascii_lowercase(), index, &record.dn);
        }
        self.providers.push(Provider { name: name.to_owned(), unit: record.value("providerUnit").map(str::to_owned), mail_receipt });
        Ok(())
    }

    fn claim(map: &mut HashMap<String, usize>, conflicts: &mut Vec<String>, key: String, index: usize, dn: &str) {
        match map.get(&key) {
            Some(&other) if other != index => conflicts.push(format!("{key}: claimed again by {dn}")),
            Some(_) => {}
            None => {
                map.insert(key, index);
            }
        }
    }
}

struct Record {
    dn: String,
    attributes: Vec<(String, String)>,
}

impl Record {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.attributes.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn value<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.values(name).next()
    }
}

/// Unfolds the lines, drops comments and options (`;binary`), decodes base64. Values that are not text (certificates) are
/// not needed here and left out.
fn records(ldif: &str) -> Result<Vec<Record>, String> {
    let mut logical: Vec<(usize, String)> = Vec::new();
    for (number, line) in ldif.lines().enumerate() {
        match (line.strip_prefix(' '), logical.last_mut()) {
            (Some(rest), Some((_, last))) if !last.is_empty() => last.push_str(rest),
            (Some(_), _) => return Err(format!("line {}: continues nothing", number + 1)),
            _ => logical.push((number + 1, line.to_owned())),
        }
    }

    let mut records: Vec<Record> = Vec::new();
    let mut open = false;
    for (number, line) in logical {
        if line.is_empty() {
            open = false;
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (name, rest) = line.split_once(':').ok_or_else(|| format!("line {number}: {line:?} is no attribute"))?;
        let (name, options) = name.split_once(';').unwrap_or((name, ""));
        let value = match rest.strip_prefix(':') {
            Some(_) if options.eq_ignore_ascii_case("binary") => continue,
            Some(encoded) => {
                let bytes = encodify::base64::STANDARD.decode(encoded.trim()).map_err(|_| format!("line {number}: not base64"))?;
                String::from_utf8(bytes).map_err(|_| format!("line {number}: not UTF-8"))?
            }
            None => rest.trim().to_owned(),
        };
        if name.eq_ignore_ascii_case("version") && !open {
            continue;
        }
        match (name.eq_ignore_ascii_case("dn"), open) {
            (true, false) => {
                records.push(Record { dn: value, attributes: Vec::new() });
                open = true;
            }
            (true, true) => return Err(format!("line {number}: a record begins without an empty line before it")),
            (false, true) => {
                if let Some(record) = records.last_mut() {
                    record.attributes.push((name.to_owned(), value));
                }
            }
            (false, false) => return Err(format!("line {number}: {name:?} stands before any dn")),
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LDIF: &str = "version: 1\n# the base\ndn: o=postacert\nobjectclass: top\nobjectClass: LDIFLocationURLObject\no: postacert\n\n\
        dn: providerName=Alfa,o=postacert\nobjectclass: provider\nproviderName: Alfa\n\
        providerCertificateHash:\n 7E7AEF1059AE0F454F2643A9\n 5F69EC3556009239\nproviderCertificate;binary::\n MIIDBjCC\n Am+g\n\
        mailReceipt: ricevute@gestore.alfa.test\nmanagedDomains: PEC.alfa.test\nmanagedDomains: studio.example\n\n\
        dn:: cHJvdmlkZXJOYW1lPUJldMOgLG89cG9zdGFjZXJ0\nobjectclass: provider\nproviderName:: QmV0w6A=\n\
        providerCertificateHash: E00FDD9D88BE0E2CC766B893315CAF93D5701A6AE00FDD9D88BE0E2CC766B893\nmailReceipt: r@gestore.beta.test\nmanagedDomains: pec.beta.test\n";

    #[test]
    fn rfc6109_4_5_folding_base64_comments_and_either_case() {
        for text in [LDIF.to_owned(), LDIF.replace('\n', "\r\n")] {
            let directory = Directory::parse(&text).unwrap();
            assert_eq!(directory.size(), (2, 3));
            let alfa = directory.provider_of_certificate("7e7aef1059ae0f454f2643a95f69ec3556009239").unwrap();
            assert_eq!((alfa.name.as_str(), alfa.mail_receipt.as_str()), ("Alfa", "ricevute@gestore.alfa.test"));
            assert_eq!(directory.provider_of_domain("pec.ALFA.test"), Some(alfa));
            assert_eq!(directory.provider_of_domain("pec.beta.test").map(|p| p.name.as_str()), Some("Betà"));
            assert_eq!(directory.provider_of_domain("alfa.test"), None);
        }
    }

    #[test]
    fn rfc6109_4_5_a_provider_has_several_certificates_while_one_replaces_another() {
        let second = "providerCertificateHash: 0123456789abcdef0123456789abcdef01234567\nmailReceipt: ricevute@";
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
        assert_eq!(directory.conflicts(), ["providerName=Alfa,o=postacert has 11 certificates, 10 are allowed"]);
        assert!(directory.provider_of_certificate(&format!("{:040x}", 9)).is_some());
    }

    #[test]
    fn rfc6109_4_5_7_a_secondary_environment_has_its_own_domains_certificates_and_service_mailbox() {
        let secondary = "\ndn: providerUnit=Due,providerName=Alfa,o=postacert\nobjectclass: provider\nproviderName: Alfa\nproviderUnit: Due\n\
            providerCertificateHash: 0123456789abcdef0123456789abcdef01234567\nmailReceipt: ricevute@due.alfa.test\nmanagedDomains: pec.due.test\n";
        for text in [format!("{LDIF}{secondary}"), LDIF.replacen("\ndn: providerName=Alfa", &format!("{secondary}\ndn: providerName=Alfa"), 1)] {
            let directory = Directory::parse(&text).unwrap();
            let unit = directory.provider_of_domain("pec.due.test").unwrap();
            assert_eq!((unit.unit.as_deref(), unit.mail_receipt.as_str()), (Some("Due"), "ricevute@due.alfa.test"));
            assert_eq!(directory.provider_of_certificate("0123456789abcdef0123456789abcdef01234567"), Some(unit));
            assert_eq!(directory.record("Alfa", None).unwrap().mail_receipt.as_str(), "ricevute@gestore.alfa.test", "whatever the order");
            assert_eq!(directory.record("Alfa", Some("Due")), Some(unit));
            assert_eq!(directory.record("Alfa", Some("Tre")), None);
        }
    }

    #[test]
    fn a_domain_claimed_twice_stays_with_the_first_and_is_named() {
        let directory = Directory::parse(&LDIF.replace("managedDomains: pec.beta.test", "managedDomains: studio.example")).unwrap();
        assert_eq!(directory.provider_of_domain("studio.example").map(|p| p.name.as_str()), Some("Alfa"));
        assert_eq!(directory.conflicts().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
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
