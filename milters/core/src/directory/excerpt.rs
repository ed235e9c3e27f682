//! A part of the directory, as text: the records that serve some domains, with those domains alone.
//!
//! Promise: [`Directory::parse`] reads what was written, and of its domains it says what the whole said. So
//! who served somebody at a time is asked as who serves him now.

use super::{Directory, Provider, ldif};

impl Directory {
    /// The records that serve any of `domains` (lower case, each once), with these alone; empty where none
    /// does.
    pub fn excerpt<'a>(&self, domains: impl IntoIterator<Item = &'a str>) -> String {
        let mut served = vec![Vec::new(); self.providers.len()];
        for domain in domains {
            self.domains.get(domain).into_iter().for_each(|i| served[i].push(domain));
        }
        let mut text = String::new();
        for (provider, domains) in
            self.providers.iter().zip(served).filter(|(_, domains)| !domains.is_empty())
        {
            write(&mut text, provider, domains);
        }
        text
    }

    /// The records with bad values, with what of them counts all the same; empty where there are none.
    pub fn of_spoiled_records(&self) -> String {
        let mut served = vec![Vec::new(); self.providers.len()];
        for domain in self.domains.text.lines() {
            let places = self.domains.get(domain).into_iter();
            places.filter(|&i| !self.providers[i].spoiled.is_empty()).for_each(|i| served[i].push(domain));
        }
        let mut text = String::new();
        for (provider, domains) in self.providers.iter().zip(served).filter(|(p, _)| !p.spoiled.is_empty()) {
            write(&mut text, provider, domains);
        }
        text
    }
}

/// What counts no longer: each pair of a domain, or of a certificate's hash, and a record of `before` that had
/// it and has no successor in `after`; the record as LDIF, of its domains with that one alone. For a domain a
/// record of the same name, or with one of its certificates, is a successor: it may still speak for it.
pub fn no_longer(before: &Directory, after: &Directory) -> Vec<(String, String)> {
    let is_successor = |new: &Provider, old: &Provider| {
        new.name == old.name || new.certificates.iter().any(|hash| old.certificates.contains(hash))
    };
    let mut gone = Vec::new();
    for (domain, old) in before.domains() {
        if !after.domains.get(domain).into_iter().any(|i| is_successor(&after.providers[i], old)) {
            gone.push((domain.to_owned(), written(old, vec![domain])));
        }
    }
    for (hash, old) in before.certificates() {
        if !after.by_certificate.contains_key(hash) {
            gone.push((hash.to_owned(), written(old, Vec::new())));
        }
    }
    gone
}

fn written(provider: &Provider, domains: Vec<&str>) -> String {
    let mut text = String::new();
    write(&mut text, provider, domains);
    text
}

fn write(text: &mut String, provider: &Provider, domains: Vec<&str>) {
    if !text.is_empty() {
        text.push('\n');
    }
    ldif::write(text, "dn", &provider.dn);
    ldif::write(text, "objectclass", "provider");
    ldif::write(text, "providerName", &provider.name);
    if let Some(unit) = &provider.unit {
        ldif::write(text, "providerUnit", unit);
    }
    for hash in &provider.certificates {
        ldif::write(text, "providerCertificateHash", hash);
    }
    if let Some(address) = &provider.mail_receipt {
        ldif::write(text, "mailReceipt", address.as_str());
    }
    for domain in domains {
        ldif::write(text, "managedDomains", domain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LDIF: &str = "dn: providerName=Alfa\nobjectclass: provider\nproviderName: Alfa\n\
        providerCertificateHash: 7E7AEF1059AE0F454F2643A95F69EC3556009239\nmailReceipt: r@alfa.test\n\
        managedDomains: A.alfa.test\nmanagedDomains: b.alfa.test\n\n\
        dn: providerName=Beta\nobjectclass: provider\nproviderName:: QmV0w6A=\n\
        providerCertificateHash: E00FDD9D88BE0E2CC766B893315CAF93D5701A6A\nmailReceipt: r@beta.test\n\
        managedDomains: b.alfa.test\nmanagedDomains: beta.test\n";

    #[test]
    fn an_excerpt_says_what_the_whole_says_of_its_domains() {
        let whole = Directory::parse(LDIF).unwrap();
        assert_eq!(whole.excerpt(["unknown.example"]), "");
        for domain in ["a.alfa.test", "b.alfa.test", "beta.test"] {
            let part = Directory::parse(&whole.excerpt([domain])).unwrap();
            assert_eq!(part.size().1, 1);
            assert_eq!(part.records_of_domain(domain), whole.records_of_domain(domain));
        }
        let part = Directory::parse(&whole.excerpt(["a.alfa.test", "beta.test"])).unwrap();
        assert_eq!(part.size(), (2, 2));
    }

    #[test]
    fn what_moved_away_counts_no_longer_and_what_changed_its_name_does() {
        let before = Directory::parse(LDIF).unwrap();
        assert!(no_longer(&before, &before).is_empty());
        let renamed = LDIF.replace("providerName: Alfa", "providerName: ALFA");
        assert!(no_longer(&before, &Directory::parse(&renamed).unwrap()).is_empty());
        let moved = LDIF.replace("managedDomains: A.alfa.test\n", "");
        let [(domain, record)] = &no_longer(&before, &Directory::parse(&moved).unwrap())[..] else {
            panic!("one domain went")
        };
        assert_eq!(domain, "a.alfa.test");
        let then = Directory::parse(record).unwrap();
        assert_eq!(then.records_of_domain(domain), before.records_of_domain(domain));
    }

    #[test]
    fn a_certificate_that_left_counts_no_longer_and_its_record_is_known_by_it() {
        let before = Directory::parse(LDIF).unwrap();
        let other_key = Directory::parse(&LDIF.replace("7E7AEF", "000000")).unwrap();
        let [(hash, record)] = &no_longer(&before, &other_key)[..] else { panic!("one certificate went") };
        assert_eq!(hash, "7e7aef1059ae0f454f2643a95f69ec3556009239");
        let then = Directory::parse(record).unwrap();
        assert_eq!(then.records_of_certificate(hash), before.records_of_certificate(hash));
        assert_eq!(then.size().1, 0);
    }
}
