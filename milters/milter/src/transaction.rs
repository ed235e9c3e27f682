//! A message as Postfix tells it, event by event.
//!
//! Promise: its bytes are kept as they came, in bounds; what does not fit is said, never cut.

use std::fmt;

use bytes::Bytes;
use pec_core::address::Address;
use pec_core::header::{Field, Header};
use pec_core::message::Body;
use pec_host::NO_QUEUE_ID;
use pec_state::log::Arrival;

use crate::KeepBody;

/// Postfix cuts a header field at this many bytes, silently, before a milter sees it (KLUDGE_HEADER_LIMIT).
pub const HEADER_FIELD_LIMIT: usize = 60_000;

/// More fields than any mail has. Each costs us more memory than the line that made it.
pub const MOST_FIELDS: usize = 1000;

/// `Received:` fields that a message may arrive with. Postfix's own limit (`hopcount_limit`) stands well
/// above: what we took still passes it a few times.
pub const MOST_HOPS: usize = 50;

/// A header larger than this, in bytes, is none of a mail: the addresses in it would take hundreds of times
/// as much memory.
pub const HEADER_LIMIT: usize = 1024 * 1024;

/// Why a header cannot be taken: for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRefused {
    /// A field that did not come whole.
    #[error("a header field is longer than the {HEADER_FIELD_LIMIT} bytes that are allowed")]
    FieldTooLong,
    /// Too large.
    #[error("the header is larger than the {HEADER_LIMIT} bytes that are allowed")]
    TooLarge,
    /// Too many fields.
    #[error("the header has more than the {MOST_FIELDS} fields that are allowed")]
    TooManyFields,
    /// It goes round in circles.
    #[error("too many hops: the header has more than {MOST_HOPS} Received: fields")]
    TooManyHops,
}

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

/// As the retained log has it: `TLSv1.3 TLS_AES_256_GCM_SHA384`.
impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version, self.cipher)
    }
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
    /// Header and body are larger than what is kept.
    pub too_large: bool,
    /// Something in the header that cannot be taken.
    pub header_refused: Option<HeaderRefused>,
    keeps: KeepBody,
    whole: Vec<u8>,
    size: u64,
}

impl Transaction {
    /// By whom the message was brought, for the retained log, with its queue id; over no connection where
    /// Postfix wrote it. Who submits has an account besides.
    pub fn arrival(&self, connection: Option<&Connection>) -> (&str, Arrival) {
        let arrival = Arrival {
            account: None,
            client_address: connection.map(|connection| connection.client_address.clone()),
            tls: self.tls.as_ref().map(ToString::to_string),
        };
        (self.queue_id(), arrival)
    }

    /// A message that begins, of which everything is kept so far.
    pub fn new(sender_path: &str) -> Self {
        Self {
            queue_id: None,
            sender_path: sender_path.to_owned(),
            sender: Address::from_path(sender_path),
            account: None,
            tls: None,
            recipients: Vec::new(),
            header: Header::default(),
            body: Body::default(),
            too_large: false,
            header_refused: None,
            keeps: KeepBody::Pieces(u64::MAX),
            whole: Vec::new(),
            size: 0,
        }
    }

    /// Whether MAIL FROM is the null path.
    pub fn is_null_path(&self) -> bool {
        matches!(self.sender_path.as_str(), "" | "<>")
    }

    /// MAIL FROM without brackets, which Postfix gives with them (SMTP) or without (its own mail).
    pub fn reverse_path(&self) -> &str {
        self.sender_path.trim_start_matches('<').trim_end_matches('>')
    }

    /// The domain of MAIL FROM as Postfix understands it, in lower case, also where the rest is no address
    /// for us. Empty: none.
    pub fn sender_domain(&self) -> String {
        let path = self.sender_path.trim_end_matches('>');
        path.rsplit_once('@').map_or("", |(_, domain)| domain.trim_end_matches('.')).to_ascii_lowercase()
    }

    /// For log lines.
    pub fn queue_id(&self) -> &str {
        self.queue_id.as_deref().unwrap_or(NO_QUEUE_ID)
    }

    /// Bytes of header and body together, with the empty line between them.
    pub fn size(&self) -> u64 {
        self.size + 2
    }

    /// Takes a header field. `value` has its leading blank, and LF where the field was folded: a CR before it
    /// is one that the client wrote.
    pub fn push_field(&mut self, name: &[u8], value: &[u8]) {
        let mut with_crlf = Vec::with_capacity(value.len() + 8);
        for &b in value {
            if b == b'\n' {
                with_crlf.push(b'\r');
            }
            with_crlf.push(b);
        }
        let field = Field { name: String::from_utf8_lossy(name).into_owned(), value: with_crlf };
        self.count(field.size());
        if name.len() + 1 + value.len() >= HEADER_FIELD_LIMIT {
            self.header_refused = Some(HeaderRefused::FieldTooLong);
        } else if self.size > HEADER_LIMIT as u64 {
            self.header_refused = Some(HeaderRefused::TooLarge);
        } else if self.header.fields().len() >= MOST_FIELDS {
            self.header_refused = Some(HeaderRefused::TooManyFields);
        } else if field.is("Received") && self.header.all("Received").count() >= MOST_HOPS {
            self.header_refused = Some(HeaderRefused::TooManyHops);
        }
        // Bounded wherever it comes from: Postfix's own reports are refused by nobody.
        if !self.too_large && self.header.fields().len() < 2 * MOST_FIELDS {
            self.header.push(field);
        }
    }

    /// The header is complete: of the body this is kept.
    pub fn keep(&mut self, keeps: KeepBody) {
        self.keeps = keeps;
        self.count(0);
    }

    /// Takes a piece of the body.
    pub fn push_body(&mut self, piece: Bytes) {
        self.count(piece.len());
        match self.keeps {
            _ if self.too_large => {}
            // One buffer that grows, not pieces that are joined later: a large message is in memory once.
            KeepBody::Whole(_) => self.whole.extend_from_slice(&piece),
            KeepBody::Pieces(_) => self.body.push(piece),
        }
    }

    /// The message is complete.
    pub fn finish(&mut self) {
        self.body.push(std::mem::take(&mut self.whole));
    }

    /// Nothing of the body is kept.
    pub fn forget_body(&mut self) {
        self.body = Body::default();
        self.whole = Vec::new();
    }

    fn count(&mut self, bytes: usize) {
        self.size += bytes as u64;
        let (KeepBody::Pieces(limit) | KeepBody::Whole(limit)) = self.keeps;
        if self.size > limit {
            self.too_large = true;
            self.forget_body();
            self.header = Header::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_were() {
        let mut transaction = Transaction::new("<a@x.test>");
        transaction.push_field(b"X", b"a");
        transaction.push_field(b"Subject", b" caf\xe9\n\tfolded");
        transaction.push_body(Bytes::from_static(b"1\r\n"));
        transaction.push_field(b"X", b" a\rb\r\n c\r");
        assert_eq!(
            transaction.header.to_bytes(),
            b"X:a\r\nSubject: caf\xe9\r\n\tfolded\r\nX: a\rb\r\r\n c\r\r\n"
        );
        assert_eq!(transaction.size(), transaction.header.size() as u64 + 2 + 3);
        assert!(!transaction.too_large);
    }

    #[test]
    fn what_is_too_large_is_not_held() {
        let mut transaction = Transaction::new("<>");
        transaction.keep(KeepBody::Pieces(10));
        transaction.push_body(Bytes::from_static(b"0123456789"));
        assert!(!transaction.too_large);
        transaction.push_body(Bytes::from_static(b"0"));
        assert!(transaction.too_large && transaction.body.is_empty());
    }

    #[test]
    fn a_whole_body_is_one_piece() {
        let mut transaction = Transaction::new("<a@x.test>");
        transaction.keep(KeepBody::Whole(10));
        for piece in ["ab", "c"] {
            transaction.push_body(Bytes::from_static(piece.as_bytes()));
        }
        transaction.finish();
        assert_eq!(transaction.body.pieces(), [Bytes::from_static(b"abc")]);
    }

    #[test]
    fn fields_that_postfix_cuts_are_noticed() {
        let mut transaction = Transaction::new("<a@x.test>");
        transaction.push_field(b"X", &[b'a'; HEADER_FIELD_LIMIT - 3]);
        assert_eq!(transaction.header_refused, None);
        transaction.push_field(b"X", &[b'a'; HEADER_FIELD_LIMIT - 2]);
        assert_eq!(transaction.header_refused, Some(HeaderRefused::FieldTooLong));
    }

    #[test]
    fn a_header_beyond_measure_is_noticed() {
        let mut transaction = Transaction::new("<a@x.test>");
        (0..20).for_each(|_| transaction.push_field(b"To", &[b'a'; 50_000]));
        assert_eq!(transaction.header_refused, None);
        transaction.push_field(b"To", &[b'a'; 50_000]);
        assert_eq!(transaction.header_refused, Some(HeaderRefused::TooLarge));
    }

    #[test]
    fn fields_and_hops_are_counted() {
        for (name, most, refused) in [
            ("X", MOST_FIELDS, HeaderRefused::TooManyFields),
            ("received", MOST_HOPS, HeaderRefused::TooManyHops),
        ] {
            let mut transaction = Transaction::new("<a@x.test>");
            (0..most).for_each(|_| transaction.push_field(name.as_bytes(), b" x"));
            assert_eq!(transaction.header_refused, None);
            transaction.push_field(name.as_bytes(), b" x");
            assert_eq!(
                (transaction.header_refused, transaction.header.fields().len()),
                (Some(refused), most + 1),
                "refused, and still whole"
            );
            (0..3 * MOST_FIELDS).for_each(|_| transaction.push_field(name.as_bytes(), b" x"));
            assert_eq!(transaction.header.fields().len(), 2 * MOST_FIELDS, "not without end");
        }
    }
}
