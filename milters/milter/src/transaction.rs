//! A message as Postfix tells it, event by event.

use bytes::Bytes;
use openssl::sha::Sha256;
use pec_core::NO_QUEUE_ID;
use pec_core::address::Address;
use pec_core::header::{Field, Header};
use pec_core::message::Body;

use crate::Keeps;

/// Postfix cuts a header field at this many bytes, silently, before a milter sees it (KLUDGE_HEADER_LIMIT).
pub const HEADER_FIELD_LIMIT: usize = 60_000;

/// Who is connected.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The client's name as Postfix found it, or `unknown`.
    pub client_name: String,
    /// The client's IP address, without Postfix's `IPv6:`.
    pub client_address: String,
    /// What it called itself.
    pub helo: String,
}

/// A recipient of the SMTP envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The path as Postfix gave it, for taking it out again.
    pub path: String,
    /// The address, if it is one.
    pub address: Option<Address>,
}

impl Recipient {
    /// From the first argument of RCPT TO.
    pub fn new(path: &str) -> Self {
        Self { path: path.to_owned(), address: Address::from_path(path) }
    }
}

/// TLS as it was negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `TLSv1.3` ...
    pub version: String,
    /// The cipher suite.
    pub cipher: String,
    /// Its strength.
    pub bits: String,
}

/// One message.
pub struct Transaction {
    /// Postfix's queue id, once it has one.
    pub queue_id: Option<String>,
    /// MAIL FROM as it came, brackets included.
    pub sender_path: String,
    /// The sender's address; `None` for the null path or what is no address.
    pub sender: Option<Address>,
    /// The SASL account.
    pub account: Option<String>,
    /// TLS, if any.
    pub tls: Option<Tls>,
    /// The recipients that were accepted.
    pub recipients: Vec<Recipient>,
    /// The header.
    pub header: Header,
    /// The body, where it is kept.
    pub body: Body,
    /// SHA-256 of the body, where only that is kept.
    pub body_sha256: Option<[u8; 32]>,
    /// Header and body are larger than what is kept.
    pub too_large: bool,
    /// A header field was longer than Postfix passes on.
    pub header_cut: bool,
    keeps: Keeps,
    hash: Option<Sha256>,
    size: u64,
}

impl Transaction {
    /// A message that begins.
    pub fn new(sender_path: &str, keeps: Keeps) -> Self {
        Self {
            queue_id: None,
            sender_path: sender_path.to_owned(),
            sender: Address::from_path(sender_path),
            account: None,
            tls: None,
            recipients: Vec::new(),
            header: Header::default(),
            body: Body::default(),
            body_sha256: None,
            too_large: false,
            header_cut: false,
            keeps,
            hash: (keeps == Keeps::Hash).then(Sha256::new),
            size: 0,
        }
    }

    /// For log lines.
    pub fn queue_id(&self) -> &str {
        self.queue_id.as_deref().unwrap_or(NO_QUEUE_ID)
    }

    /// Bytes of header and body together, with the empty line between them.
    pub fn size(&self) -> u64 {
        self.size + 2
    }

    /// Whether MAIL FROM is the null reverse path.
    pub fn is_from_nobody(&self) -> bool {
        matches!(self.sender_path.as_str(), "" | "<>")
    }

    /// Takes a header field. `value` has its leading blank, and LF where the field was folded.
    pub fn push_field(&mut self, name: &[u8], value: &[u8]) {
        let mut unfolded = Vec::with_capacity(value.len() + 8);
        for &b in value {
            if b == b'\n' && unfolded.last() != Some(&b'\r') {
                unfolded.push(b'\r');
            }
            unfolded.push(b);
        }
        let field = Field { name: String::from_utf8_lossy(name).into_owned(), value: unfolded };
        self.header_cut |= name.len() + 1 + value.len() >= HEADER_FIELD_LIMIT;
        self.count(field.size());
        if !self.too_large {
            self.header.push(field);
        }
    }

    /// Takes a piece of the body.
    pub fn push_body(&mut self, piece: Bytes) {
        if let Some(hash) = &mut self.hash {
            hash.update(&piece);
            return;
        }
        self.count(piece.len());
        if !self.too_large {
            self.body.push(piece);
        }
    }

    /// The message is complete.
    pub fn finish(&mut self) {
        self.body_sha256 = self.hash.take().map(Sha256::finish);
    }

    fn count(&mut self, bytes: usize) {
        self.size += bytes as u64;
        let limit = match self.keeps {
            Keeps::Body(limit) => limit,
            Keeps::Hash => u64::MAX,
        };
        if self.size > limit {
            self.too_large = true;
            self.body = Body::default();
            self.header = Header::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_were() {
        let mut transaction = Transaction::new("<a@x.test>", Keeps::Body(1000));
        transaction.push_field(b"X", b"a");
        transaction.push_field(b"Subject", b" caf\xe9\n\tfolded");
        transaction.push_body(Bytes::from_static(b"1\r\n"));
        assert_eq!(transaction.header.to_bytes(), b"X:a\r\nSubject: caf\xe9\r\n\tfolded\r\n");
        assert_eq!(transaction.size(), transaction.header.size() as u64 + 2 + 3);
        assert!(!transaction.too_large && !transaction.is_from_nobody());
    }

    #[test]
    fn what_is_too_large_is_not_held() {
        let mut transaction = Transaction::new("<>", Keeps::Body(10));
        transaction.push_body(Bytes::from_static(b"0123456789"));
        assert!(!transaction.too_large);
        transaction.push_body(Bytes::from_static(b"0"));
        assert!(transaction.too_large && transaction.body.is_empty() && transaction.is_from_nobody());
    }

    #[test]
    fn a_hash_is_kept_instead_of_the_body() {
        let mut transaction = Transaction::new("<a@x.test>", Keeps::Hash);
        for piece in ["ab", "c"] {
            transaction.push_body(Bytes::from_static(piece.as_bytes()));
        }
        transaction.finish();
        assert!(transaction.body.is_empty());
        assert_eq!(transaction.body_sha256, Some(openssl::sha::sha256(b"abc")));
    }

    #[test]
    fn fields_that_postfix_cuts_are_noticed() {
        let mut transaction = Transaction::new("<a@x.test>", Keeps::Body(1_000_000));
        transaction.push_field(b"X", &[b'a'; HEADER_FIELD_LIMIT - 3]);
        assert!(!transaction.header_cut);
        transaction.push_field(b"X", &[b'a'; HEADER_FIELD_LIMIT - 2]);
        assert!(transaction.header_cut);
    }
}
