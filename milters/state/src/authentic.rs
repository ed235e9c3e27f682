//! The MAC of a row: who has the database's password alone can write no row that anything follows from.
//!
//! Promise: a row from which signed bytes or a deadline follow is believed if, and only if, these programs
//! wrote it as it is, under a key that lies on the hosts and not in the database (`pec_row_keys_file`). A row
//! that refers to another one has that one's MAC in its own, so rows cannot be put together anew.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::memcmp;
use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use openssl::sign::Signer;
use pec_core::identifier::{hex, unhex};
use pec_host::parameters::ParameterError;

/// Bytes of a key.
const KEY_LENGTH: usize = 32;

/// Bytes by which a MAC names its key: the first of the key's SHA-256.
const NAME_LENGTH: usize = 4;

/// A MAC with its key's name before it, as the column has it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Mac(Vec<u8>);

impl Mac {
    /// From a column.
    pub(crate) fn from_column(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// For a column.
    pub(crate) fn column(&self) -> &Vec<u8> {
        &self.0
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// A row whose MAC was made or verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentic<T> {
    row: T,
    mac: Mac,
}

impl<T> Authentic<T> {
    /// Its MAC, for the rows that refer to it.
    pub fn mac(&self) -> &Mac {
        &self.mac
    }
}

impl<T> Deref for Authentic<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.row
    }
}

/// A row that carries a MAC.
pub trait Row {
    /// Its table.
    const TABLE: &'static str;
    /// All of it, in an order that never changes, into `content`.
    fn write(&self, content: &mut Content);
    /// By what a person finds it.
    fn key(&self) -> &str;
}

/// What a MAC is computed over: the table's name and the row's values, each with its length, so that none
/// runs into the next.
pub struct Content(Vec<u8>);

impl Content {
    fn of<T: Row>(row: &T) -> Self {
        let mut content = Self(Vec::with_capacity(4096));
        content.text(T::TABLE);
        row.write(&mut content);
        content
    }

    /// A text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// A number.
    pub fn number(&mut self, number: i64) -> &mut Self {
        self.bytes(&number.to_be_bytes())
    }

    /// Texts.
    pub fn texts(&mut self, texts: &[String]) -> &mut Self {
        self.number(i64::try_from(texts.len()).unwrap_or(i64::MAX));
        texts.iter().for_each(|text| {
            self.text(text);
        });
        self
    }

    /// The MAC of a row that this one refers to.
    pub fn mac(&mut self, mac: &Mac) -> &mut Self {
        self.bytes(&mac.0)
    }
}

#[derive(Clone)]
struct Key {
    name: [u8; NAME_LENGTH],
    key: PKey<Private>,
}

impl Key {
    fn mac(&self, content: &[u8]) -> Result<Mac, ErrorStack> {
        let mut mac = self.name.to_vec();
        mac.extend(Signer::new(MessageDigest::sha256(), &self.key)?.sign_oneshot_to_vec(content)?);
        Ok(Mac(mac))
    }
}

/// The keys of `pec_row_keys_file`: the first makes MACs, all are believed.
#[derive(Clone)]
pub struct RowKeys(Arc<Vec<Key>>);

impl fmt::Debug for RowKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl RowKeys {
    /// Reads the file of keys: 64 hexadecimal digits a line, the one in use first; empty lines and what
    /// stands behind `#` do not count.
    pub fn read(file: &Path) -> Result<Self, ParameterError> {
        let error = |trouble: String| ParameterError::File {
            name: "pec_row_keys_file",
            path: file.display().to_string(),
            trouble,
        };
        let text =
            std::fs::read_to_string(file).map_err(|e| error(format!("{e}; `pecctl key rows` prints one")))?;
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let bytes = unhex(line).filter(|key| key.len() == KEY_LENGTH).ok_or_else(|| {
                error(format!("line {number} is not {} hexadecimal digits", 2 * KEY_LENGTH))
            })?;
            let [a, b, c, d, ..] = sha256(&bytes);
            keys.push(Key { name: [a, b, c, d], key: PKey::hmac(&bytes).map_err(|e| error(e.to_string()))? });
        }
        if keys.is_empty() {
            return Err(error("has no key; `pecctl key rows` prints one".to_owned()));
        }
        Ok(Self(Arc::new(keys)))
    }

    /// A row of ours, to be written.
    pub(crate) fn authentic<T: Row>(&self, row: T) -> Result<Authentic<T>, ErrorStack> {
        let mac = self.0[0].mac(&Content::of(&row).0)?;
        Ok(Authentic { row, mac })
    }

    /// A row that was read, if it is ours.
    pub(crate) fn believed<T: Row>(&self, row: T, mac: Mac) -> Option<Authentic<T>> {
        let content = Content::of(&row).0;
        let is_ours = self.0.iter().filter(|key| mac.0.starts_with(&key.name)).any(|key| {
            let ours = key.mac(&content).unwrap_or_default();
            ours.0.len() == mac.0.len() && memcmp::eq(&ours.0, &mac.0)
        });
        is_ours.then_some(Authentic { row, mac })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        const TABLE: &'static str = "pair";

        fn write(&self, content: &mut Content) {
            content.text(self.0).text(self.1);
        }

        fn key(&self) -> &str {
            self.0
        }
    }

    fn keys(text: &str) -> Result<RowKeys, String> {
        let file =
            std::env::temp_dir().join(format!("pec-row-keys-{}", pec_core::identifier::fresh().unwrap()));
        std::fs::write(&file, text).unwrap();
        let keys = RowKeys::read(&file).map_err(|e| e.to_string());
        std::fs::remove_file(&file).unwrap();
        keys
    }

    #[test]
    fn a_row_is_believed_as_it_was_written() {
        let keys = keys(&"ab".repeat(32)).unwrap();
        let mac = keys.authentic(Pair("a", "bc")).unwrap().mac().clone();
        assert!(keys.believed(Pair("a", "bc"), mac.clone()).is_some());
        assert!(keys.believed(Pair("ab", "c"), mac.clone()).is_none(), "no value runs into the next");
        for at in 0..mac.0.len() {
            let mut other = mac.clone();
            other.0[at] ^= 1;
            assert!(keys.believed(Pair("a", "bc"), other).is_none());
        }
        for length in 0..mac.0.len() {
            assert!(keys.believed(Pair("a", "bc"), Mac(mac.0[..length].to_vec())).is_none());
        }
    }

    #[test]
    fn keys_roll_over() {
        let (old, new) = ("0a".repeat(32), "0b".repeat(32));
        let before = keys(&old).unwrap().authentic(Pair("a", "b")).unwrap();
        let both = keys(&format!("# since 2026\n{new}\n\n{old} # until then\n")).unwrap();
        assert!(both.believed(Pair("a", "b"), before.mac().clone()).is_some());
        let after = both.authentic(Pair("a", "b")).unwrap();
        assert_ne!(after.mac(), before.mac());
        assert!(keys(&new).unwrap().believed(Pair("a", "b"), after.mac().clone()).is_some());
        assert!(keys(&new).unwrap().believed(Pair("a", "b"), before.mac().clone()).is_none());
    }

    #[test]
    fn a_file_without_a_key_is_an_error_that_says_what_is_wanted() {
        for (text, says) in [
            ("", "has no key; `pecctl key rows` prints one"),
            ("# \n", "has no key"),
            ("abc", "line 1 is not 64 hexadecimal digits"),
        ] {
            let error = keys(text).unwrap_err();
            assert!(error.starts_with("pec_row_keys_file = ") && error.contains(says), "{error}");
        }
        assert!(keys(&"zz".repeat(32)).is_err() && keys(&"é".repeat(32)).is_err());
    }
}
