//! What is different between two directories of providers.
//!
//! Promise: every provider, certificate and domain that came, went or moved is in it; one that moved went
//! from one record and came to the other; a value that went bad is named.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use super::{Directory, Provider};

/// Below this part of what there was, in hundredths, a directory counts as suddenly much smaller. Providers
/// come and go singly, and the largest of some 25 has more domains than a tenth of them only where that is
/// known before: somebody shall look.
const ENOUGH: usize = 90;

/// One difference. `record` is [`Provider::title`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A record came.
    ProviderNew {
        /// Which.
        record: String,
    },
    /// A record went.
    ProviderGone {
        /// Which.
        record: String,
    },
    /// A service mailbox is another one.
    MailReceipt {
        /// Whose.
        record: String,
        /// The old one.
        before: String,
        /// The new one.
        after: String,
    },
    /// A certificate came.
    CertificateNew {
        /// To which record.
        record: String,
        /// Its hash.
        hash: String,
    },
    /// A certificate went.
    CertificateGone {
        /// From which record.
        record: String,
        /// Its hash.
        hash: String,
    },
    /// A value is bad.
    Spoiled {
        /// What and where, with the record.
        what: String,
    },
    /// Domains came.
    DomainsNew {
        /// To which record.
        record: String,
        /// Which.
        domains: Names,
    },
    /// Domains went.
    DomainsGone {
        /// From which record.
        record: String,
        /// Which.
        domains: Names,
    },
}

/// Names, of which the first are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub first: Vec<String>,
}

impl Names {
    fn add(&mut self, name: &str, most: usize) {
        self.count += 1;
        if self.first.len() < most {
            self.first.push(name.to_owned());
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.count, self.first.join(" "))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProviderNew { record } => write!(f, "provider new: {record}"),
            Self::ProviderGone { record } => write!(f, "provider gone: {record}"),
            Self::MailReceipt { record, before, after } => {
                write!(f, "mailReceipt of {record}: {after}, before: {before}")
            }
            Self::Spoiled { what } => write!(f, "bad value: {what}; the last good one stays in force"),
            Self::CertificateNew { record, hash } => write!(f, "certificate new: {hash} ({record})"),
            Self::CertificateGone { record, hash } => write!(f, "certificate gone: {hash} ({record})"),
            Self::DomainsNew { record, domains } => write!(f, "domains new ({record}): {domains}"),
            Self::DomainsGone { record, domains } => write!(f, "domains gone ({record}): {domains}"),
        }
    }
}

/// What is different in `after`; of the domains of a record, that came or went, `most` are named.
pub fn changes(before: &Directory, after: &Directory, most: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    for provider in before.providers() {
        if after.record(&provider.name, provider.unit.as_deref()).is_none() {
            changes.push(Change::ProviderGone { record: provider.title() });
        }
    }
    for provider in after.providers() {
        let record = provider.title();
        match before.record(&provider.name, provider.unit.as_deref()) {
            None => changes.push(Change::ProviderNew { record }),
            Some(old) if old.mail_receipt != provider.mail_receipt => {
                let [before, after] = [old, provider].map(|p| p.mail_receipt_text().to_owned());
                changes.push(Change::MailReceipt { record, before, after });
            }
            Some(_) => {}
        }
    }
    let bad_before: HashSet<String> = before.spoiled().collect();
    let bad = after.spoiled().filter(|what| !bad_before.contains(what));
    changes.extend(bad.map(|what| Change::Spoiled { what }));
    // The same record, whatever else of it has changed.
    let has_same = |records: Vec<&Provider>, one: &Provider| records.iter().any(|p| p.is_same_record(one));
    for (hash, provider) in before.certificates() {
        if !has_same(after.records_of_certificate(hash), provider) {
            changes.push(Change::CertificateGone { record: provider.title(), hash: hash.to_owned() });
        }
    }
    for (hash, provider) in after.certificates() {
        if !has_same(before.records_of_certificate(hash), provider) {
            changes.push(Change::CertificateNew { record: provider.title(), hash: hash.to_owned() });
        }
    }
    let missing = |from: &Directory, to: &Directory| {
        let mut missing = BTreeMap::<String, Names>::new();
        for (domain, provider) in from.domains() {
            if !has_same(to.records_of_domain(domain), provider) {
                missing.entry(provider.title()).or_default().add(domain, most);
            }
        }
        missing
    };
    changes.extend(
        missing(before, after).into_iter().map(|(record, domains)| Change::DomainsGone { record, domains }),
    );
    changes.extend(
        missing(after, before).into_iter().map(|(record, domains)| Change::DomainsNew { record, domains }),
    );
    changes
}

/// What there is suddenly much less of in `after`, in words.
pub fn much_smaller(before: &Directory, after: &Directory) -> Option<String> {
    let counts = |d: &Directory| {
        [("records", d.size().0), ("certificates", d.by_certificate.len()), ("domains", d.size().1)]
    };
    let pairs = counts(before).into_iter().zip(counts(after));
    let fewer = pairs.into_iter().filter(|((_, before), (_, after))| after * 100 < before * ENOUGH);
    let words: Vec<String> =
        fewer.map(|((what, before), (_, after))| format!("{after} {what} instead of {before}")).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// A directory of these providers: name, SHA-1's first digits, service mailbox, domains.
    fn directory(providers: &[(&str, u32, &str, &[&str])]) -> Directory {
        let mut ldif = String::from("version: 1\n");
        for (name, hash, receipt, domains) in providers {
            write!(
                ldif,
                "\ndn: providerName={name},o=postacert\nobjectclass: provider\nproviderName: \
                {name}\nproviderCertificateHash: {hash:040x}\nmailReceipt: {receipt}\n"
            )
            .unwrap();
            domains.iter().for_each(|domain| ldif += &format!("managedDomains: {domain}\n"));
        }
        Directory::parse(&ldif).unwrap()
    }

    fn said(before: &Directory, after: &Directory, most: usize) -> Vec<String> {
        changes(before, after, most).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_change_is_named() {
        let before = directory(&[
            ("Alfa", 1, "r@alfa.test", &["a.test", "b.test"]),
            ("Beta", 2, "r@beta.test", &["c.test"]),
        ]);
        assert!(said(&before, &before, 9).is_empty());
        let after = directory(&[
            ("Alfa", 3, "x@alfa.test", &["a.test", "C.test"]),
            ("Gamma", 2, "r@gamma.test", &["d.test", "e.test", "f.test"]),
        ]);
        let [one, two, three] = [1, 2, 3].map(|n| format!("{n:040x}"));
        assert_eq!(
            said(&before, &after, 2),
            [
                "provider gone: Beta",
                "mailReceipt of Alfa: x@alfa.test, before: r@alfa.test",
                "provider new: Gamma",
                &format!("certificate gone: {one} (Alfa)"),
                &format!("certificate gone: {two} (Beta)"),
                &format!("certificate new: {two} (Gamma)"),
                &format!("certificate new: {three} (Alfa)"),
                "domains gone (Alfa): 1: b.test",
                "domains gone (Beta): 1: c.test",
                "domains new (Alfa): 1: c.test",
                "domains new (Gamma): 3: d.test e.test and 1 more",
            ]
        );
    }

    #[test]
    fn a_tenth_less_is_enough_and_more_than_that_is_not() {
        let names: Vec<String> = (0..10).map(|n| format!("d{n}.test")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let with = |n: usize| directory(&[("Alfa", 1, "r@alfa.test", &names[..n])]);
        assert_eq!(much_smaller(&with(10), &with(9)), None);
        assert_eq!(much_smaller(&with(10), &with(8)).as_deref(), Some("8 domains instead of 10"));
        assert_eq!(much_smaller(&with(8), &with(10)), None);
        let two = directory(&[("Alfa", 1, "r@alfa.test", &["a.test"]), ("Beta", 2, "r@beta.test", &[])]);
        assert_eq!(
            much_smaller(&two, &with(1)).as_deref(),
            Some("1 records instead of 2, 1 certificates instead of 2")
        );
    }
}
