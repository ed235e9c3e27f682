//! A header section as the bytes that arrived: field names and raw values, order kept, nothing normalised.
//!
//! Promise: [`Header::to_bytes`] gives back exactly what was put in, but for a field that ended in LF alone:
//! it ends in CRLF then. Reading (addresses, subject, media types) works on copies.

use mail_parser::parsers::MessageStream;
use mail_parser::{Address as ParsedAddress, HeaderValue};
use memchr::memchr;
use memchr::memchr_iter;

use crate::address::Address;
use crate::literal::is_odd_multipart;
use crate::message::Body;

/// A media type or disposition longer than this (bytes) is none.
const MEDIA_FIELD_MAX_BYTES: usize = 8192;

/// One with more parameters than this is none.
const MEDIA_FIELD_MAX_PARAMETERS: usize = 100;

/// One header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The field's name as it was written.
    pub name: String,
    /// All that follows the colon, its leading blank and its folding (CRLF and blank) included, without the
    /// final CRLF.
    pub value: Vec<u8>,
}

impl Field {
    /// A field as a program writes it: one blank after the colon.
    pub fn written(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), value: format!(" {value}").into_bytes() }
    }

    /// Whether this is the field `name`, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value on one line, without the blanks around it. Bytes that are not UTF-8 become U+FFFD.
    pub fn text(&self) -> String {
        let unfolded: Vec<u8> = self.value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        String::from_utf8_lossy(&unfolded).trim().to_owned()
    }

    /// Bytes that this field takes in a message, the final CRLF included.
    pub fn size(&self) -> usize {
        self.name.len() + 1 + self.value.len() + 2
    }

    fn stream_input(&self) -> Vec<u8> {
        [&self.value[..], b"\r\n"].concat()
    }
}

/// A header section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header(Vec<Field>);

impl Header {
    /// Reads the fields of a header section, up to but without the empty line. A line that is no field (RFC
    /// 5322 s. 2.2) is an error: the offset at which it begins.
    pub fn parse(section: &[u8]) -> Result<Self, usize> {
        let mut header = Self::default();
        let mut at = 0;
        while at < section.len() {
            let mut end = line_end(section, at);
            while section.get(end).is_some_and(|b| matches!(b, b' ' | b'\t')) {
                end = line_end(section, end);
            }
            let line = &section[at..before_line_break(section, end)];
            let colon = line.iter().position(|&b| b == b':').ok_or(at)?;
            let name = std::str::from_utf8(&line[..colon]).map_err(|_| at)?;
            if name.is_empty() || !name.bytes().all(|b| (b'!'..=b'~').contains(&b)) {
                return Err(at);
            }
            header.push(Field { name: name.to_owned(), value: line[colon + 1..].to_vec() });
            at = end;
        }
        Ok(header)
    }

    /// Appends a field.
    pub fn push(&mut self, field: Field) {
        self.0.push(field);
    }

    /// All fields in order.
    pub fn fields(&self) -> &[Field] {
        &self.0
    }

    /// Mutable access to the fields in order.
    pub fn fields_mut(&mut self) -> &mut Vec<Field> {
        &mut self.0
    }

    /// The fields called `name`, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Field> {
        self.0.iter().filter(move |f| f.is(name))
    }

    /// The first field called `name`.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a Field> {
        self.all(name).next()
    }

    /// The unfolded value of the first field called `name`; `None` also where it is empty.
    pub fn text(&self, name: &str) -> Option<String> {
        self.first(name).map(Field::text).filter(|t| !t.is_empty())
    }

    /// The addresses in all fields called `name`, or the text of the first that is none (RFC 5322 s. 3.4).
    /// Groups count as their members.
    pub fn addresses(&self, name: &str) -> Result<Vec<Address>, String> {
        let mut found = Vec::new();
        for field in self.all(name) {
            let input = field.stream_input();
            if !is_closed(&input) {
                return Err(field.text());
            }
            let parsed = MessageStream::new(&input).parse_address();
            let entries = match parsed {
                HeaderValue::Address(ParsedAddress::List(list)) => list,
                HeaderValue::Address(ParsedAddress::Group(groups)) => {
                    groups.into_iter().flat_map(|g| g.addresses).collect()
                }
                _ => Vec::new(),
            };
            for entry in entries {
                let text = entry.address.as_deref().unwrap_or_default();
                found.push(
                    Address::parse(text)
                        .ok_or_else(|| entry.address.or(entry.name).unwrap_or_default().into_owned())?,
                );
            }
        }
        Ok(found)
    }

    /// The name before the first address in the first field called `name`, encoded words decoded.
    pub fn display_name(&self, name: &str) -> Option<String> {
        let input = self.first(name)?.stream_input();
        match MessageStream::new(&input).parse_address() {
            HeaderValue::Address(ParsedAddress::List(list)) => {
                Some(list.into_iter().next()?.name?.into_owned())
            }
            _ => None,
        }
    }

    /// The subject in Unicode, encoded words decoded (RFC 2047), control characters as blanks; `None` where
    /// there is no field. Bytes beyond ASCII that no encoded word explains are UTF-8, or else ISO 8859-1, in
    /// which old programs write Italian.
    pub fn subject(&self) -> Option<String> {
        let input = self.first("Subject")?.stream_input();
        Some(match str::from_utf8(&input) {
            Ok(_) => unstructured(&input),
            Err(_) => unstructured(input.iter().copied().map(char::from).collect::<String>().as_bytes()),
        })
    }

    /// The media type; `None` where the field is missing or is no media type.
    pub fn content_type(&self) -> Option<ContentType> {
        self.media_field("Content-Type")
    }

    /// The `Content-Disposition` in the same form: `inline`, `attachment`, with its file name as an
    /// attribute.
    pub fn content_disposition(&self) -> Option<ContentType> {
        self.media_field("Content-Disposition")
    }

    /// How a body is encoded, in lower case, comments left out (RFC 2045 s. 6.1); empty where nothing says
    /// so.
    pub fn transfer_encoding(&self) -> String {
        let (mut token, mut comments) = (String::new(), 0_usize);
        for c in self.text("Content-Transfer-Encoding").unwrap_or_default().chars() {
            match c {
                '(' => comments += 1,
                ')' => comments = comments.saturating_sub(1),
                _ if comments > 0 || c.is_whitespace() || c == '"' => {}
                _ => token.push(c.to_ascii_lowercase()),
            }
        }
        token
    }

    /// Whether a field holds a NUL, or a CR that ends no line.
    pub fn has_nul_or_bare_cr(&self) -> bool {
        self.0.iter().any(|field| Body::from_bytes(field.value.clone()).has_nul_or_bare_cr())
    }

    /// What is wrong with the fields that say how a body is to be read, if anything: programs that read it in
    /// different ways see different messages.
    pub fn ambiguous(&self) -> Option<&'static str> {
        const STAND_ONCE: [&str; 3] = ["Content-Type", "Content-Transfer-Encoding", "MIME-Version"];
        if let Some(name) = STAND_ONCE.into_iter().find(|name| self.all(name).nth(1).is_some()) {
            return Some(name);
        }
        self.ambiguous_multipart()
    }

    /// The same of the field alone that says how a body is taken apart.
    pub fn ambiguous_multipart(&self) -> Option<&'static str> {
        let field = self.first("Content-Type")?;
        (is_beyond_measure(&field.value) || is_odd_multipart(field)).then_some("Content-Type")
    }

    fn media_field(&self, name: &str) -> Option<ContentType> {
        let input = self.first(name)?.stream_input();
        if is_beyond_measure(&input) {
            return None;
        }
        let HeaderValue::ContentType(parsed) = MessageStream::new(&input).parse_content_type() else {
            return None;
        };
        let essence = match parsed.subtype() {
            Some(subtype) => format!("{}/{subtype}", parsed.ctype()),
            None => parsed.ctype().to_owned(),
        };
        let attributes = parsed.attributes().unwrap_or_default();
        Some(ContentType {
            essence: essence.to_ascii_lowercase(),
            attributes: attributes
                .iter()
                .map(|a| (a.name.to_ascii_lowercase(), a.value.clone().into_owned()))
                .collect(),
        })
    }

    /// The section as bytes, each field with its CRLF, without the empty line that ends it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        for field in &self.0 {
            out.extend_from_slice(field.name.as_bytes());
            out.push(b':');
            out.extend_from_slice(&field.value);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// How many bytes [`Header::to_bytes`] gives.
    pub fn size(&self) -> usize {
        self.0.iter().map(Field::size).sum()
    }
}

/// A media type or a disposition with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentType {
    /// `type/subtype` (or the disposition) in lower case.
    pub essence: String,
    attributes: Vec<(String, String)>,
}

impl ContentType {
    /// The parameter `name` (given in lower case).
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All parameters, names in lower case.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Reading parameters takes time with the square of their number.
fn is_beyond_measure(field: &[u8]) -> bool {
    field.len() > MEDIA_FIELD_MAX_BYTES || memchr_iter(b';', field).count() > MEDIA_FIELD_MAX_PARAMETERS
}

/// Whether the quotes, comments, brackets and groups of an address list (RFC 5322 s. 3.4) open and close
/// where they may. Parsers read what never closes as if it did, each in its own way.
fn is_closed(list: &[u8]) -> bool {
    let (mut comments, mut quoted, mut bracket, mut group, mut behind_bracket) =
        (0, false, false, false, false);
    let mut bytes = list.iter();
    while let Some(b) = bytes.next() {
        match b {
            b'\\' if quoted || comments > 0 => {
                bytes.next();
            }
            b'"' if comments == 0 && !behind_bracket => quoted = !quoted,
            _ if quoted => {}
            b'(' => comments += 1,
            b')' if comments > 0 => comments -= 1,
            _ if comments > 0 => {}
            b'<' if !bracket && !behind_bracket => bracket = true,
            b'>' if bracket => (bracket, behind_bracket) = (false, true),
            _ if bracket => {}
            b':' if !group && !behind_bracket => group = true,
            b';' if group => (group, behind_bracket) = (false, false),
            b',' => behind_bracket = false,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b')' | b'<' | b'>' | b':' | b';' => return false,
            _ if behind_bracket => return false,
            _ => {}
        }
    }
    comments == 0 && !quoted && !bracket && !group
}

/// A text with its encoded words decoded (RFC 2047), control characters as blanks.
pub(crate) fn decoded_words(text: &str) -> String {
    unstructured(format!(" {text}\r\n").as_bytes())
}

fn unstructured(input: &[u8]) -> String {
    let parsed = MessageStream::new(input).parse_unstructured();
    parsed
        .as_text()
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

/// Where the line that begins at `from` ends: after its LF, or at the end of `bytes`.
pub(crate) fn line_end(bytes: &[u8], from: usize) -> usize {
    memchr(b'\n', &bytes[from..]).map_or(bytes.len(), |lf| from + lf + 1)
}

/// Where the line that ends at `at` ends without its CRLF or LF.
pub(crate) fn before_line_break(bytes: &[u8], at: usize) -> usize {
    let bytes = &bytes[..at];
    bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(bytes).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Header {
        Header::parse(text.replace('\n', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let odd = b"X:a\r\nX: a\r\nX:\t a\r\n  folded \r\n\tagain\r\nEmpty:\r\nSubject: caf\xe9 \r\n";
        assert_eq!(Header::parse(odd).unwrap().to_bytes(), odd);
    }

    #[test]
    fn a_field_that_ends_in_lf_alone_does_not_end_the_header() {
        let header = Header::parse(b"A: 1\nB: 2\n folded\nC: 3\r\n").unwrap();
        assert_eq!(header.to_bytes(), b"A: 1\r\nB: 2\n folded\r\nC: 3\r\n");
    }

    #[test]
    fn lines_that_are_no_fields_are_named() {
        assert_eq!(Header::parse(b"A: b\r\nno field\r\n"), Err(6));
        assert_eq!(Header::parse(b"A b: c\r\n"), Err(0));
        assert_eq!(Header::parse(b": c\r\n"), Err(0));
    }

    #[test]
    fn addresses_of_all_fields_groups_and_comments() {
        let header = header(
            "To: Anna <a@x.test>,\n  \"Rossi, B.\" <b@x.test>\nTo: friends: c@x.test, d@x.test;\nCc: \
            =?utf-8?Q?=C3=A8?= <e@x.test> (note)\n",
        );
        let list = |name| header.addresses(name).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(list("to"), ["a@x.test", "b@x.test", "c@x.test", "d@x.test"]);
        assert_eq!(list("CC"), ["e@x.test"]);
        assert!(list("bcc").is_empty());
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        assert!(header("To: undisclosed\n").addresses("To").is_err());
        assert!(header("To: a@x.test, nobody\n").addresses("To").is_err());
    }

    #[test]
    fn display_names_are_read() {
        let name = |from: &str| header(&format!("From: {from}\n")).display_name("from");
        assert_eq!(name("\"Per conto di: a@x.test\" <b@x.test>").as_deref(), Some("Per conto di: a@x.test"));
        assert_eq!(
            name("\"Per conto di: \\\"a\\\"@x.test\"\n <b@x.test>").as_deref(),
            Some("Per conto di: \"a\"@x.test")
        );
        assert_eq!(
            name("=?utf-8?q?Per_conto_di=3A_a=40x.test?= <b@x.test>").as_deref(),
            Some("Per conto di: a@x.test")
        );
        assert_eq!(
            (name("b@x.test"), name("<b@x.test>"), Header::default().display_name("From")),
            (None, None, None)
        );
    }

    #[test]
    fn subjects_are_decoded() {
        assert_eq!(
            header("Subject: =?iso-8859-1?Q?citt=E0?= e\n  altro\n").subject().as_deref(),
            Some("città e altro")
        );
        assert_eq!(
            header("Subject: città =?utf-8?q?perch=C3=A9?=\n").subject().as_deref(),
            Some("città perché")
        );
        let latin = Header::parse(b"Subject: citt\xe0 \x9b =?utf-8?q?perch=C3=A9?=\r\n").unwrap();
        assert_eq!(latin.subject().as_deref(), Some("città   perché"));
        assert_eq!(header("Subject:\n").subject().as_deref(), Some(""));
        assert_eq!(header("From: a@b\n").subject(), None);
    }

    #[test]
    fn a_media_type_beyond_measure_is_none() {
        let with = |parameters: usize| {
            header(&format!("Content-Type: a/b{}\n", ";x=y".repeat(parameters))).content_type()
        };
        assert!(with(100).is_some() && with(101).is_none());
        assert!(header(&format!("Content-Type: a/b; name={}\n", "x".repeat(8192))).content_type().is_none());
    }

    #[test]
    fn media_types_are_read_quoted_or_not() {
        let header = header(
            "Content-Type: Multipart/Signed; protocol=\"application/x-pkcs7-signature\"; micalg=sha-256; \
            \n\tboundary=\"--=_a b\"\nContent-Disposition: inline; filename=daticert.xml\n",
        );
        let media = header.content_type().unwrap();
        assert_eq!(
            (media.essence.as_str(), media.attribute("boundary"), media.attribute("micalg")),
            ("multipart/signed", Some("--=_a b"), Some("sha-256"))
        );
        assert_eq!(header.content_disposition().unwrap().attribute("filename"), Some("daticert.xml"));
    }
}
