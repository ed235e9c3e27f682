//! A media type and a multipart that every program reads alike.
//!
//! Promise: what is read here is read so by mail programs, mailbox servers and scanners: no comment, no
//! RFC 2231 form, no parameter twice, no quote that stays open, nothing around the parts in which somebody
//! could see another part. What claims to be certified is read by this alone: the header of the message is
//! anybody's, and one boundary for us and another for a mail program would show a stranger's words under a
//! provider's signature.

use std::ops::Range;

use memchr::memmem;

use crate::header::{Field, Header, before_line_break, line_end};

/// The longest field that is read, in bytes.
const MOST_BYTES: usize = 2_000;

/// What may stand before the first part and after the last, in bytes: a sentence.
const MOST_AROUND: usize = 1_024;

/// RFC 2046 s. 5.1.1.
const LONGEST_BOUNDARY: usize = 70;

/// Why something is read in several ways.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLiteral {
    /// A field that has to be there.
    #[error("the {0}: field is missing")]
    Missing(&'static str),
    /// A field that has to stand once.
    #[error("the {0}: field stands more than once")]
    Repeated(&'static str),
    /// A field with another value than programs agree about.
    #[error("the {0}: field is not plain: programs read it in different ways")]
    Field(&'static str),
    /// A parameter that has to stand once.
    #[error("the parameter {0} of Content-Type: is missing or not plain")]
    Parameter(&'static str),
    /// A line before, between or behind the parts that looks like the beginning of one.
    #[error("a line outside of the parts, or in one, looks like the beginning of another part")]
    LooksLikePart,
    /// A byte at which some programs end a line, or a field, and others do not.
    #[error("a NUL, or a CR without LF, stands in the header")]
    Stray,
    /// Too much around the parts.
    #[error("more than {MOST_AROUND} bytes stand before the first part or behind the last")]
    Around,
    /// No part, or no end of the last.
    #[error("the boundary is never closed, or no part begins with it")]
    NotClosed,
    /// More parts than there may be.
    #[error("more than {0} parts")]
    TooManyParts(usize),
}

impl NotLiteral {
    /// The same in Italian.
    pub fn italiano(&self) -> String {
        match self {
            Self::Missing(field) => format!("manca il campo {field}"),
            Self::Repeated(field) => format!("il campo {field} è presente più volte"),
            Self::Field(field) => {
                format!("il campo {field} non è semplice: i programmi lo leggono in modi diversi")
            }
            Self::Parameter(name) => format!("il parametro {name} di Content-Type manca o non è semplice"),
            Self::LooksLikePart => {
                "una riga fuori dalle parti, o al loro interno, sembra l'inizio di un'altra parte".to_owned()
            }
            Self::Stray => "nell'intestazione c'è un NUL, o un CR senza LF".to_owned(),
            Self::Around => {
                format!("più di {MOST_AROUND} byte precedono la prima parte o seguono l'ultima")
            }
            Self::NotClosed => "il boundary non viene mai chiuso, o nessuna parte inizia con esso".to_owned(),
            Self::TooManyParts(most) => format!("più di {most} parti"),
        }
    }
}

/// A media type that every program reads alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// `type/subtype` in lower case.
    pub essence: String,
    parameters: Vec<(String, String)>,
}

impl Media {
    /// Reads the value of a field: `type/subtype`, and parameters that each stand once, in tokens or quotes
    /// without a backslash.
    pub fn read(field: &Field) -> Option<Self> {
        if field.value.len() > MOST_BYTES {
            return None;
        }
        let mut rest = Reader(unfolded(&field.value)?);
        rest.blanks();
        let kind = rest.token()?;
        rest.sign(b'/')?;
        let subtype = rest.token()?;
        let essence = format!("{kind}/{subtype}").to_ascii_lowercase();
        let mut parameters = Vec::<(String, String)>::new();
        loop {
            rest.blanks();
            if rest.0.is_empty() {
                return Some(Self { essence, parameters });
            }
            rest.sign(b';')?;
            rest.blanks();
            // What real providers write may end so.
            if rest.0.is_empty() {
                return Some(Self { essence, parameters });
            }
            let name = rest.token()?.to_ascii_lowercase();
            rest.sign(b'=')?;
            let value = rest.quoted().or_else(|| rest.token())?;
            if name.contains(['*', '%']) || parameters.iter().any(|(known, _)| *known == name) {
                return None;
            }
            parameters.push((name, value));
        }
    }

    /// The one that a header has, which must say it once.
    pub fn of(header: &Header) -> Result<Self, NotLiteral> {
        Self::read(sole(header, "Content-Type")?).ok_or(NotLiteral::Field("Content-Type"))
    }

    /// The parameter `name` (given in lower case).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The boundary of a multipart, as RFC 2046 s. 5.1.1 has it.
    pub fn boundary(&self) -> Result<&str, NotLiteral> {
        let is_one = |b: &&str| {
            (1..=LONGEST_BOUNDARY).contains(&b.len())
                && !b.ends_with(' ')
                && b.bytes().all(|c| c.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&c))
        };
        self.parameter("boundary").filter(is_one).ok_or(NotLiteral::Parameter("boundary"))
    }
}

/// The field of this name, which must stand once.
pub fn sole<'a>(header: &'a Header, name: &'static str) -> Result<&'a Field, NotLiteral> {
    let mut fields = header.all(name);
    let field = fields.next().ok_or(NotLiteral::Missing(name))?;
    if fields.next().is_some() { Err(NotLiteral::Repeated(name)) } else { Ok(field) }
}

/// No NUL, and no CR that ends no line, stands in a header: a program that ends a line there sees other fields.
pub fn without_strays(header: &Header) -> Result<(), NotLiteral> {
    if header.has_nul_or_bare_cr() { Err(NotLiteral::Stray) } else { Ok(()) }
}

/// On one line; `None` where a byte stands that programs read in different ways.
fn unfolded(value: &[u8]) -> Option<&[u8]> {
    let is_plain = |&b: &u8| (b' '..=b'~').contains(&b) || b"\t\r\n".contains(&b);
    value.iter().all(is_plain).then_some(value)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn blanks(&mut self) {
        while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn sign(&mut self, sign: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[sign])?;
        Some(())
    }

    /// RFC 2045 s. 5.1.
    fn token(&mut self) -> Option<String> {
        let is_token = |b: &u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(b);
        let length = self.0.iter().take_while(|b| is_token(b)).count();
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        (length > 0).then(|| String::from_utf8_lossy(token).into_owned())
    }

    fn quoted(&mut self) -> Option<String> {
        let inside = self.0.strip_prefix(b"\"")?;
        let length = inside.iter().position(|&b| b == b'"')?;
        let value = &inside[..length];
        if value.iter().any(|b| b"\\\r\n\t".contains(b)) {
            return None;
        }
        self.0 = &inside[length + 1..];
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// Whether a field that says how a body is to be read makes a multipart of it that programs may read in
/// different ways: it is about one, in whatever spelling, and is not literal.
pub fn is_odd_multipart(field: &Field) -> bool {
    let words: Vec<u8> = without_comments(&field.value).to_ascii_lowercase();
    let has = |word: &[u8]| memmem::find(&words, word).is_some();
    let says_so = has(b"multipart/") || has(b"boundary");
    let is_plain = |media: Media| {
        let boundary = media.parameter("boundary").filter(|_| media.essence.starts_with("multipart/"));
        boundary.is_none_or(|b| !b.is_empty() && !b.ends_with(' '))
    };
    says_so && !Media::read(field).is_some_and(is_plain)
}

/// Without comments, quotes and blanks.
fn without_comments(value: &[u8]) -> Vec<u8> {
    let (mut depth, mut left) = (0_usize, Vec::with_capacity(value.len()));
    for &b in value {
        match b {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\r' | b'\n' | b'"' | b'\\' => {}
            _ if depth == 0 => left.push(b),
            _ => {}
        }
    }
    left
}

/// The ranges of the parts of a multipart that lies at `range` of `bytes`, each without the line break before
/// the next delimiter. No other line may begin as a delimiter does: some programs take the beginning for it.
/// Nor may it stand behind a CR, at which some programs end a line.
pub fn split(
    bytes: &[u8],
    range: Range<usize>,
    boundary: &str,
    most_parts: usize,
) -> Result<Vec<Range<usize>>, NotLiteral> {
    let delimiter = [b"--", boundary.as_bytes()].concat();
    let behind_cr = memmem::Finder::new(b"\r--");
    let delimiter_behind_cr = [b"\r", &delimiter[..]].concat();
    let delimiter_behind_cr = memmem::Finder::new(&delimiter_behind_cr);
    let (mut parts, mut open, mut closed) = (Vec::new(), None::<usize>, None::<usize>);
    let mut first = None::<usize>;
    let (end_of_all, mut at) = (range.end, range.start);
    while at < end_of_all {
        let end = line_end(&bytes[..end_of_all], at);
        let line = &bytes[at..end];
        let is_outside = open.is_none();
        let hidden = if is_outside { &behind_cr } else { &delimiter_behind_cr };
        if hidden.find(line).is_some() {
            return Err(NotLiteral::LooksLikePart);
        }
        if let Some(rest) = line.strip_prefix(&delimiter[..]) {
            let rest = rest.trim_ascii_end();
            if closed.is_some() || !(rest.is_empty() || rest == b"--") {
                return Err(NotLiteral::LooksLikePart);
            }
            first.get_or_insert(at);
            if let Some(start) = open.take() {
                if parts.len() == most_parts {
                    return Err(NotLiteral::TooManyParts(most_parts));
                }
                parts.push(start..before_line_break(&bytes[..at], at).max(start));
            }
            if rest.is_empty() {
                open = Some(end);
            } else {
                closed = Some(end);
            }
        } else if is_outside && line.starts_with(b"--") {
            return Err(NotLiteral::LooksLikePart);
        }
        at = end;
    }
    let (Some(first), Some(closed)) = (first, closed) else { return Err(NotLiteral::NotClosed) };
    if parts.is_empty() {
        return Err(NotLiteral::NotClosed);
    }
    if first - range.start > MOST_AROUND || end_of_all - closed > MOST_AROUND {
        return Err(NotLiteral::Around);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(value: &str) -> Option<Media> {
        Media::read(&Field::written("Content-Type", value))
    }

    #[test]
    fn what_real_providers_write_is_literal() {
        for value in [
            "multipart/signed; protocol=\"application/x-pkcs7-signature\"; micalg=\"sha1\"; \
             boundary=\"----08FC388CE5F459426EC143CACAD35ED7\"",
            "multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256; \r\n\t\
             boundary=\"----=_Part_2464078_1383639991.1789825279869\"",
            "Multipart/Signed; boundary=b;protocol=\"application/pkcs7-signature\";",
        ] {
            let media = media(value).unwrap();
            assert_eq!(media.essence, "multipart/signed");
            media.boundary().unwrap();
            assert!(media.parameter("protocol").unwrap().ends_with("pkcs7-signature"));
        }
    }

    #[test]
    fn what_programs_read_in_different_ways_is_not() {
        for value in [
            "multipart/signed; boundary (c)=\"EVIL\"; boundary=\"real\"",
            "multipart/signed; boundary=(c)\"real\"",
            "multipart/signed (c); boundary=\"real\"",
            "multipart/signed; boundary=\"\"EVIL; boundary2=\"real\"",
            "multipart/signed; boundary=\"EVIL\"; boundary=\"real\"",
            "multipart/signed; boundary=\"real\"; BOUNDARY=\"EVIL\"",
            "multipart/signed; boundary*=us-ascii''EVIL; boundary=\"real\"",
            "multipart/signed; boundary*0=EV; boundary*1=IL; boundary=\"real\"",
            "multipart/signed; boundary=\"real",
            "multipart/signed; boundary=\"re\\al\"",
            "multipart/signed; boundary=\"re\r\n al\"",
            "multipart/signed; boundary=real EVIL",
            "multipart/signed; boundary =\"real\"",
            "multipart/signed; boundary= \"real\"",
            "multipart/signed; boundary=----=real",
            "multipart/signed, boundary=\"real\"",
            "multipart/signed; a((b)c; boundary=EVIL); boundary=\"real\"",
            "multipart/signed;\x0bboundary=\"real\"",
            "multipart/signed; boundary=\"r\u{e8}al\"",
            "multipart/signed; boundary='EVIL'; ; boundary=\"real\"",
        ] {
            assert_eq!(media(value), None, "{value}");
            assert!(is_odd_multipart(&Field::written("Content-Type", value)), "{value}");
        }
        for value in
            ["multipart/signed; boundary=\"\"", "multipart/signed; boundary=\"a \"", "multipart/signed"]
        {
            assert!(media(value).unwrap().boundary().is_err(), "{value}");
        }
    }

    #[test]
    fn a_leaf_may_have_comments() {
        for value in ["text/plain; charset=utf-8 (Unicode)", "application/x; name*=utf-8''a%20b", "nonsense"]
        {
            assert!(!is_odd_multipart(&Field::written("Content-Type", value)), "{value}");
        }
        assert!(is_odd_multipart(&Field::written("Content-Type", "mul(x)tipart/mixed; boundary=b")));
        assert!(!is_odd_multipart(&Field::written("Content-Type", "multipart/mixed; boundary=b")));
    }

    #[test]
    fn a_cr_alone_ends_a_line_for_some_programs() {
        let with = |subject: &str| {
            let mut header = Header::default();
            header.push(Field::written("Subject", subject));
            without_strays(&header)
        };
        assert_eq!(with("POSTA CERTIFICATA: a\r\n b"), Ok(()));
        for subject in ["a\rContent-Type: multipart/mixed; boundary=EVIL", "a\r", "a\r\r\n b", "a\0b"] {
            assert_eq!(with(subject), Err(NotLiteral::Stray), "{subject:?}");
        }
    }

    fn parts(body: &str, boundary: &str) -> Result<Vec<String>, NotLiteral> {
        let found = split(body.as_bytes(), 0..body.len(), boundary, 2)?;
        Ok(found.into_iter().map(|range| body[range].to_owned()).collect())
    }

    #[test]
    fn parts_are_what_stands_between_delimiters() {
        let body = "This is an S/MIME signed message\r\n\r\n--b\r\none\r\n\r\n--b\r\ntwo\r\n--b--\r\n\r\n";
        assert_eq!(parts(body, "b").unwrap(), ["one\r\n", "two"]);
        assert_eq!(parts("--b\r\n\r\n--b\r\n--b--", "b").unwrap(), ["", ""]);
    }

    #[test]
    fn nothing_else_may_look_like_a_part() {
        let long = "x".repeat(MOST_AROUND + 1);
        for (body, error) in [
            ("--EVIL\r\n\r\nx\r\n--EVIL--\r\n--b\r\na\r\n--b\r\nb\r\n--b--\r\n", NotLiteral::LooksLikePart),
            ("--b\r\na\r\n--b\r\nb\r\n--b--\r\n--EVIL\r\n", NotLiteral::LooksLikePart),
            ("--b\r\na\r\n--b\r\nb\r\n--b--\r\n--b\r\nc\r\n--b--\r\n", NotLiteral::LooksLikePart),
            ("--bc\r\nx\r\n--b\r\na\r\n--b\r\nb\r\n--b--\r\n", NotLiteral::LooksLikePart),
            ("--b\r\na\r\n--bc\r\nx\r\n--b\r\nb\r\n--b--\r\n", NotLiteral::LooksLikePart),
            ("x\r--b\r\n\r\nx\r\n--b\r\na\r\n--b\r\nb\r\n--b--\r\n", NotLiteral::LooksLikePart),
            ("x\r--EVIL\r\n--b\r\na\r\n--b\r\nb\r\n--b--\r\n", NotLiteral::LooksLikePart),
            ("--b\r\na\r--b\r\rx\r\n--b\r\nb\r\n--b--\r\n", NotLiteral::LooksLikePart),
            ("--b\r\na\r\n--b\r\nb\r\n--b--\r\nx\r--b", NotLiteral::LooksLikePart),
            ("--b\r\na\r\n--b\r\nb\r\n", NotLiteral::NotClosed),
            ("--b--\r\n", NotLiteral::NotClosed),
            ("", NotLiteral::NotClosed),
            ("--b\r\n--b\r\n--b\r\n--b--", NotLiteral::TooManyParts(2)),
            (&*format!("{long}\r\n--b\r\na\r\n--b\r\nb\r\n--b--\r\n"), NotLiteral::Around),
            (&*format!("--b\r\na\r\n--b\r\nb\r\n--b--\r\n{long}"), NotLiteral::Around),
        ] {
            assert_eq!(parts(body, "b"), Err(error), "{body}");
        }
    }
}
