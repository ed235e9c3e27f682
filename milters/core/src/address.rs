//! Mail addresses as the envelope and the header carry them.

use std::fmt;
use std::hash::{Hash, Hasher};

/// A mail address `local@domain`, kept as it was written; compared without regard to case, as PEC mailboxes
/// are.
#[derive(Debug, Clone)]
pub struct Address(String);

impl Address {
    /// The longest address of SMTP (RFC 5321 s. 4.5.3.1.3 less the angle brackets).
    const MAX_LENGTH: usize = 254;

    /// Reads a bare address. `None` unless it is `dot-atom@domain` or `"quoted"@domain` in ASCII (RFC 5321 s.
    /// 4.1.2), without blanks, by which lists of keys are separated; internationalised domains come as
    /// A-labels.
    pub fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.rsplit_once('@')?;
        (text.len() <= Self::MAX_LENGTH && is_local_part(local) && is_domain(domain))
            .then(|| Self(text.to_owned()))
    }

    /// Reads an SMTP path, with or without its angle brackets, as milters get it.
    pub fn from_path(path: &str) -> Option<Self> {
        Self::parse(path.strip_prefix('<').and_then(|p| p.strip_suffix('>')).unwrap_or(path))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the last `@`, as it was written.
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(local, _)| local)
    }

    /// The domain in lower case.
    pub fn domain(&self) -> String {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain).to_ascii_lowercase()
    }

    /// The form in which addresses are compared and stored as keys.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// With angle brackets, as SMTP and milters want it.
    pub fn path(&self) -> String {
        format!("<{}>", self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// Whether `text` is a domain name of at least one label in letters, digits and hyphens (RFC 1034 s. 3.5).
pub fn is_domain(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn is_local_part(text: &str) -> bool {
    if let Some(quoted) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        let mut escaped = false;
        for b in quoted.bytes() {
            match b {
                _ if !(b'!'..=b'~').contains(&b) => return false,
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return false,
                _ => {}
            }
        }
        return !escaped;
    }
    !text.is_empty()
        && text.split('.').all(|atom| {
            !atom.is_empty()
                && atom.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_strictly() {
        for good in [
            "a@b",
            "mario.rossi@pec.alfa.test",
            "\"a.b\\\"c@d\"@x.test",
            "x+y=z@xn--caf-dma.example",
            "A@B.TEST",
        ] {
            assert!(Address::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "a",
            "\"a b\"@c.test",
            "@b",
            "a@",
            "a b@c.test",
            ".a@b",
            "a.@b",
            "a@b..c",
            "a@-b",
            "\"a@b",
            "\"a\\\"@b",
            "a@b c",
            "é@b.test",
            "a@[1.2.3.4]",
            "@x:a@b",
        ] {
            assert!(Address::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn case_does_not_matter_and_the_writing_stays() {
        let written = Address::from_path("<Mario.Rossi@PEC.Alfa.test>").unwrap();
        assert_eq!(written, Address::parse("mario.rossi@pec.alfa.test").unwrap());
        assert_eq!(written.as_str(), "Mario.Rossi@PEC.Alfa.test");
        assert_eq!((written.local_part(), written.domain().as_str()), ("Mario.Rossi", "pec.alfa.test"));
    }
}
