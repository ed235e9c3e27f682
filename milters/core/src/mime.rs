//! Multiparts as slices of the bytes that arrived (RFC 2046 s. 5.1.1).
//!
//! Promise: [`split`] takes one level at a time and never goes into `message/rfc822`, so that the
//! daticert.xml of a forwarded PEC is never taken for the message's own; [`walk`] goes everywhere. Memory is
//! a few offsets for each part, and there is a number of parts that is too many.

use std::ops::Range;

use crate::header::{Header, before_line_break, line_end};

/// How deep multiparts and attached messages may lie in each other. Mail programs stop much earlier.
pub const DEEPEST: usize = 30;

/// How many parts a message may have, over all levels.
pub const MOST_PARTS: usize = 10_000;

/// The longest header of a part or of an attached message, in bytes. Each field costs more memory than the
/// line that made it.
pub const MAX_PART_HEADER: usize = 64 * 1024;

/// What is wrong with a multipart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MimeError {
    /// `multipart/...` that does not say what its parts begin with.
    #[error("a multipart names no boundary")]
    NoBoundary,
    /// No delimiter line of this boundary.
    #[error("no part begins with the boundary {0:?}")]
    NoParts(String),
    /// The closing delimiter is missing.
    #[error("the boundary {0:?} is never closed")]
    NotClosed(String),
    /// More parts than the caller takes.
    #[error("more than {0} parts")]
    TooManyParts(usize),
    /// A line in a part's header that is no header field.
    #[error("a part's header is malformed")]
    BadHeader,
    /// A part's header that is too long to be one.
    #[error("a part's header is longer than {MAX_PART_HEADER} bytes")]
    HeaderTooLong,
    /// Parts in parts without end.
    #[error("parts lie more than {DEEPEST} deep in each other")]
    TooDeep,
    /// A field that says how a body is to be read, and says two things or what cannot be read.
    #[error("the {0}: field can be read in several ways")]
    Ambiguous(&'static str),
    /// A multipart in a transfer encoding, which RFC 2045 s. 6.4 forbids.
    #[error("a multipart must not be encoded, this one is in {0:?}")]
    EncodedMultipart(String),
    /// A transfer encoding that is not what it says.
    #[error("a part is not valid {0}")]
    BadEncoding(&'static str),
}

impl MimeError {
    /// The same in Italian.
    pub fn italiano(&self) -> String {
        match self {
            Self::NoBoundary => "un multipart non indica il boundary".to_owned(),
            Self::NoParts(boundary) => format!("nessuna parte inizia con il boundary {boundary:?}"),
            Self::NotClosed(boundary) => format!("il boundary {boundary:?} non viene mai chiuso"),
            Self::TooManyParts(most) => format!("più di {most} parti"),
            Self::BadHeader => "l'intestazione di una parte non è valida".to_owned(),
            Self::HeaderTooLong => format!("l'intestazione di una parte supera {MAX_PART_HEADER} byte"),
            Self::TooDeep => format!("le parti sono annidate oltre {DEEPEST} livelli"),
            Self::Ambiguous(field) => format!("il campo {field} può essere letto in più modi"),
            Self::EncodedMultipart(encoding) => {
                format!("un multipart non deve essere codificato, questo lo è in {encoding:?}")
            }
            Self::BadEncoding(encoding) => format!("una parte non è correttamente codificata in {encoding}"),
        }
    }
}

/// A body part: its header, read, and where its body lies.
#[derive(Debug, Clone)]
pub struct Part {
    /// The part's header.
    pub header: Header,
    /// The part's body as offsets into the bytes that were split.
    pub body: Range<usize>,
}

/// The ranges of the parts of the multipart `body`, each with its header, without the CRLF before the next
/// delimiter, which belongs to the delimiter: these are the bytes that a signature covers (RFC 1847 s. 2.1).
pub fn split(body: &[u8], boundary: &str, most_parts: usize) -> Result<Vec<Range<usize>>, MimeError> {
    let mut parts = Vec::new();
    split_into(&mut parts, body, boundary, most_parts)?;
    Ok(parts)
}

/// As [`split`]; what was found before an error is in `parts` all the same, what follows the last delimiter
/// too.
fn split_into(
    parts: &mut Vec<Range<usize>>,
    body: &[u8],
    boundary: &str,
    most_parts: usize,
) -> Result<(), MimeError> {
    let delimiter = [b"--", boundary.as_bytes()].concat();
    let mut open: Option<usize> = None;
    let mut at = 0;
    while at < body.len() {
        let end = line_end(body, at);
        if let Some(rest) = body[at..end].strip_prefix(&delimiter[..]) {
            let rest = rest.trim_ascii_end();
            if rest.is_empty() || rest == b"--" {
                if let Some(start) = open {
                    if parts.len() == most_parts {
                        return Err(MimeError::TooManyParts(most_parts));
                    }
                    parts.push(start..before_line_break(body, at).max(start));
                }
                if !rest.is_empty() {
                    return if open.is_some() {
                        Ok(())
                    } else {
                        Err(MimeError::NoParts(boundary.to_owned()))
                    };
                }
                open = Some(end);
            }
        }
        at = end;
    }
    let Some(start) = open else { return Err(MimeError::NoParts(boundary.to_owned())) };
    if parts.len() == most_parts {
        return Err(MimeError::TooManyParts(most_parts));
    }
    parts.push(start..body.len());
    Err(MimeError::NotClosed(boundary.to_owned()))
}

/// Reads the header of the part at `range` of `bytes`. Without an empty line it is all header: a part may
/// have no body (RFC 2046 s. 5.1.1), its empty line being the one that the next delimiter begins with.
pub fn part(bytes: &[u8], range: Range<usize>) -> Result<Part, MimeError> {
    let (header_end, body) = header_end(&bytes[range.clone()]).unwrap_or((range.len(), range.len()));
    if header_end > MAX_PART_HEADER {
        return Err(MimeError::HeaderTooLong);
    }
    let section = &bytes[range.start..range.start + header_end];
    let header = Header::parse(section).map_err(|_| MimeError::BadHeader)?;
    Ok(Part { header, body: range.start + body..range.end })
}

/// Calls `leaf` with header and body (as offsets into `body`) of every part of a message that is neither a
/// multipart nor an attached message, at any depth, in order; of a message without parts, with its own. An
/// attached message that is encoded, which RFC 2046 s. 5.2.1 forbids, is a leaf.
///
/// Multiparts of the message itself must be whole. One in an attached message need not: a bounce cuts what it
/// returns. It ends then where the attached message ends, and what cannot be taken apart there is a leaf.
pub fn walk(header: &Header, body: &[u8], leaf: impl FnMut(&Header, Range<usize>)) -> Result<(), MimeError> {
    Walk { bytes: body, parts: 0, most: MOST_PARTS, is_counted: false, leaf }.entity(
        header,
        0..body.len(),
        0,
        Place::default(),
    )
}

/// As [`walk`], of a message that lies in another one and whose bytes were got out of it.
pub fn walk_attached(message: &[u8], leaf: impl FnMut(&Header, Range<usize>)) -> Result<(), MimeError> {
    Walk { bytes: message, parts: 0, most: MOST_PARTS, is_counted: false, leaf }.message(0..message.len(), 0)
}

/// Whether a message, whoever wrote it and however badly, has at most `most` parts, none too deep, each with a
/// header of bounded length: asked before the work is done that grows with them. Only these are errors here.
pub fn within(header: &Header, body: &[u8], most: usize) -> Result<(), MimeError> {
    let place = Place { attached: true, digest: false };
    Walk { bytes: body, parts: 0, most, is_counted: true, leaf: |_: &Header, _| {} }.entity(
        header,
        0..body.len(),
        0,
        place,
    )
}

struct Walk<'a, F> {
    bytes: &'a [u8],
    parts: usize,
    most: usize,
    /// Only numbers matter: what programs read in several ways is read in one.
    is_counted: bool,
    leaf: F,
}

/// Where a part lies.
#[derive(Clone, Copy, Default)]
struct Place {
    /// In an attached message.
    attached: bool,
    /// Directly in a `multipart/digest`, whose parts are messages if they do not say otherwise (RFC 2046 s.
    /// 5.1.5).
    digest: bool,
}

impl<F: FnMut(&Header, Range<usize>)> Walk<'_, F> {
    fn entity(
        &mut self,
        header: &Header,
        body: Range<usize>,
        depth: usize,
        place: Place,
    ) -> Result<(), MimeError> {
        if depth > DEEPEST {
            return Err(MimeError::TooDeep);
        }
        let media = header.content_type();
        let essence = match &media {
            Some(media) => media.essence.as_str(),
            None if place.digest => "message/rfc822",
            None => "text/plain",
        };
        // An attached message is somebody else's: what is wrong with it is not the sender's fault, but nobody
        // can say what lies in it.
        let ambiguous = if place.attached { header.ambiguous_multipart() } else { header.ambiguous() };
        if let Some(field) = ambiguous.filter(|_| !self.is_counted) {
            return Err(MimeError::Ambiguous(field));
        }
        if essence.starts_with("multipart/") {
            let encoding = header.transfer_encoding();
            if !place.attached && !matches!(encoding.as_str(), "" | "7bit" | "8bit" | "binary") {
                return Err(MimeError::EncodedMultipart(encoding));
            }
            let boundary = media.as_ref().and_then(|m| m.attribute("boundary")).filter(|b| !b.is_empty());
            return match self.multipart(
                boundary,
                body.clone(),
                depth,
                Place { digest: essence == "multipart/digest", ..place },
            ) {
                Err(MimeError::NoBoundary | MimeError::NoParts(_)) if place.attached => {
                    self.leaf(header, body)
                }
                done => done,
            };
        }
        if essence == "message/rfc822" && !is_encoded(header) {
            return self.message(body, depth + 1);
        }
        self.leaf(header, body)
    }

    fn message(&mut self, range: Range<usize>, depth: usize) -> Result<(), MimeError> {
        match part(self.bytes, range.clone()) {
            Ok(message) => {
                self.entity(&message.header, message.body, depth, Place { attached: true, digest: false })
            }
            Err(MimeError::BadHeader) => self.leaf(&Header::default(), range),
            Err(e) => Err(e),
        }
    }

    fn multipart(
        &mut self,
        boundary: Option<&str>,
        body: Range<usize>,
        depth: usize,
        place: Place,
    ) -> Result<(), MimeError> {
        let boundary = boundary.ok_or(MimeError::NoBoundary)?;
        let mut parts = Vec::new();
        match split_into(&mut parts, &self.bytes[body.clone()], boundary, self.most - self.parts) {
            Err(MimeError::NotClosed(_)) if place.attached => {}
            Err(MimeError::TooManyParts(_)) => return Err(MimeError::TooManyParts(self.most)),
            done => done?,
        }
        self.parts = (self.parts + parts.len()).min(self.most);
        for range in parts {
            let range = range.start + body.start..range.end + body.start;
            match part(self.bytes, range.clone()) {
                Ok(part) => self.entity(&part.header, part.body, depth + 1, place)?,
                Err(MimeError::BadHeader) if place.attached => self.leaf(&Header::default(), range)?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn leaf(&mut self, header: &Header, body: Range<usize>) -> Result<(), MimeError> {
        (self.leaf)(header, body);
        Ok(())
    }
}

/// Whether a part's bytes are another spelling of its content.
pub fn is_encoded(header: &Header) -> bool {
    matches!(header.transfer_encoding().as_str(), "base64" | "quoted-printable")
}

/// The decoded content of a part: `base64`, `quoted-printable`, or as it stands.
pub fn decoded(part: &Part, bytes: &[u8]) -> Result<Vec<u8>, MimeError> {
    let raw = &bytes[part.body.clone()];
    match part.header.transfer_encoding().as_str() {
        "base64" => encodify::base64::MIME.decode(raw).map_err(|_| MimeError::BadEncoding("base64")),
        "quoted-printable" => encodify::qp::BODY
            .decode(raw)
            .map(|decoded| decoded.into_owned())
            .map_err(|_| MimeError::BadEncoding("quoted-printable")),
        _ => Ok(raw.to_vec()),
    }
}

/// Where the header section of `bytes` ends and where the body begins. `None` if no empty line ends it.
pub fn header_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    while at < bytes.len() {
        let end = line_end(bytes, at);
        if matches!(&bytes[at..end], b"\r\n" | b"\n") {
            return Some((at, end));
        }
        at = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"preamble\r\n--b\r\nA: 1\r\n\r\none\r\n\r\n--b  \r\n\r\ntwo\r\n--bc\r\n--b--\r\nepilogue\r\n";

    #[test]
    fn parts_end_before_the_line_break_of_the_delimiter() {
        let parts = split(BODY, "b", 9).unwrap();
        let text = |i: usize| std::str::from_utf8(&BODY[parts[i].clone()]).unwrap();
        assert_eq!((parts.len(), text(0), text(1)), (2, "A: 1\r\n\r\none\r\n", "\r\ntwo\r\n--bc"));
        let first = part(BODY, parts[0].clone()).unwrap();
        assert_eq!((first.header.text("a").as_deref(), &BODY[first.body]), (Some("1"), &b"one\r\n"[..]));
        assert_eq!(&BODY[part(BODY, parts[1].clone()).unwrap().body], b"two\r\n--bc");
    }

    #[test]
    fn broken_multiparts_are_errors() {
        assert_eq!(split(BODY, "x", 9), Err(MimeError::NoParts("x".into())));
        assert_eq!(split(BODY, "b", 1), Err(MimeError::TooManyParts(1)));
        assert_eq!(split(b"--b\r\n\r\na\r\n", "b", 9), Err(MimeError::NotClosed("b".into())));
        assert_eq!(split(b"--b--\r\n", "b", 9), Err(MimeError::NoParts("b".into())));
        assert_eq!(split(b"", "b", 9), Err(MimeError::NoParts("b".into())));
        assert!(matches!(part(b"no header", 0..9), Err(MimeError::BadHeader)));
    }

    #[test]
    fn an_empty_part_is_empty() {
        assert_eq!(split(b"--b\r\n--b--\r\n", "b", 9).map(|parts| parts[0].clone()), Ok(5..5));
    }

    /// The leaves of a message: media type and body.
    fn leaves(message: &str) -> Result<Vec<(String, String)>, MimeError> {
        let message = message.replace('\n', "\r\n").into_bytes();
        let (end, start) = header_end(&message).unwrap();
        let (header, body) = (Header::parse(&message[..end]).unwrap(), &message[start..]);
        let mut found = Vec::new();
        walk(&header, body, |header, range| {
            let essence = header.content_type().map_or_else(|| "-".to_owned(), |m| m.essence);
            found.push((essence, String::from_utf8_lossy(&body[range]).into_owned()));
        })?;
        Ok(found)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>, MimeError> {
        Ok(pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
    }

    #[test]
    fn rfc2046_5_1_a_walk_finds_every_leaf_in_order() {
        assert_eq!(leaves("Subject: x\n\nall\n"), pairs(&[("-", "all\r\n")]));
        let nested = "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: \
            multipart/alternative; boundary=\"i i\"\n\n\
            --i i\n\nplain\n--i i\nContent-Type: text/html\n\nhtml\n--i i--\n--o\nContent-Type: \
            message/rfc822\n\n\
            Subject: in\nContent-Type: multipart/mixed; boundary=m\n\n--m\nContent-Type: \
            a/b\n\ninner\n--m--\n--o--\nend\n";
        assert_eq!(leaves(nested), pairs(&[("-", "plain"), ("text/html", "html"), ("a/b", "inner")]));
        let digest = "Content-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: \
            1\n\none\n--d\nContent-Type: text/plain\n\ntwo\n--d--\n";
        assert_eq!(leaves(digest), pairs(&[("-", "one"), ("text/plain", "two")]));
    }

    #[test]
    fn rfc2046_5_2_1_an_encoded_message_is_a_leaf() {
        let encoded = "Content-Type: message/rfc822\nContent-Transfer-Encoding: \
            BASE64\n\nU3ViamVjdDogeA==\n";
        assert_eq!(leaves(encoded), pairs(&[("message/rfc822", "U3ViamVjdDogeA==\r\n")]));
    }

    #[test]
    fn rfc2046_5_1_1_parts_may_have_no_body_and_no_header() {
        let message =
            "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: a/b\n\n--b\n--b\n\n--b--\n";
        assert_eq!(leaves(message), pairs(&[("a/b", ""), ("-", ""), ("-", "")]));
    }

    #[test]
    fn rfc2046_what_a_walk_does_not_take() {
        let of = |parameters: &str, body: &str| {
            leaves(&format!("Content-Type: multipart/mixed{parameters}\n\n{body}"))
        };
        assert_eq!(of("", "x\n"), Err(MimeError::NoBoundary));
        assert_eq!(of("; boundary=b", "x\n"), Err(MimeError::NoParts("b".into())));
        assert_eq!(of("; boundary=b", "--b\n\nx\n"), Err(MimeError::NotClosed("b".into())));
        assert_eq!(of("; boundary=b", "--b\nno field\n\nx\n--b--\n"), Err(MimeError::BadHeader));
        let long = format!("--b\nX: {}\n\nx\n--b--\n", "a".repeat(MAX_PART_HEADER));
        assert_eq!(of("; boundary=b", &long), Err(MimeError::HeaderTooLong));
        let many = |n: usize| format!("{}--b--\n", "--b\n\n\n".repeat(n));
        assert_eq!(of("; boundary=b", &many(MOST_PARTS)).map(|l| l.len()), Ok(MOST_PARTS));
        assert_eq!(of("; boundary=b", &many(MOST_PARTS + 1)), Err(MimeError::TooManyParts(MOST_PARTS)));
    }

    #[test]
    fn parts_are_counted_however_badly_a_message_is_made() {
        let counted = |parameters: &str, body: &str| {
            let header = format!("Content-Type: multipart/mixed{parameters}\r\n");
            let body = body.replace('\n', "\r\n");
            within(&Header::parse(header.as_bytes()).unwrap(), body.as_bytes(), 10)
        };
        let part = "--b\n\n\n";
        let too_many = Err(MimeError::TooManyParts(10));
        assert_eq!(counted("; boundary=b", &format!("{}--b--\n", part.repeat(10))), Ok(()));
        for (what, parameters, body) in [
            ("closed", "; boundary=b", format!("{}--b--\n", part.repeat(11))),
            ("never closed", "; boundary=b", part.repeat(11)),
            ("fields that are none", "; boundary=b", "--b\nno field\n\nx\n".repeat(11)),
            ("encoded", "; boundary=b\r\nContent-Transfer-Encoding: base64", part.repeat(11)),
            (
                "in a part that is never closed, after one without parts",
                "; boundary=a",
                format!(
                    "--a\nContent-Type: multipart/mixed\n\nx\n--a\nContent-Type: multipart/mixed; \
                     boundary=c\n\nx\n--a\nContent-Type: multipart/mixed; boundary=b\n\n{}",
                    part.repeat(11)
                ),
            ),
            (
                "in an attached message",
                "; boundary=a",
                format!(
                    "--a\nContent-Type: message/rfc822\n\nContent-Type: multipart/x; boundary=b\n\n{}",
                    part.repeat(11)
                ),
            ),
        ] {
            assert_eq!(counted(parameters, &body), too_many, "{what}");
        }
        let deep = "Content-Type: message/rfc822\r\n\r\n".repeat(DEEPEST + 1);
        let header = Header::parse(b"Content-Type: message/rfc822\r\n").unwrap();
        assert_eq!(within(&header, deep.as_bytes(), 10), Err(MimeError::TooDeep));
        assert_eq!(counted("", "x\n"), Ok(()), "malformed is for others to say");
    }

    #[test]
    fn depth_has_an_end() {
        let deep =
            |n: usize| format!("{}x\n", "Content-Type: message/rfc822\n\n".repeat(n) + "Subject: x\n\n");
        assert_eq!(leaves(&deep(DEEPEST)), pairs(&[("-", "x\r\n")]));
        assert_eq!(leaves(&deep(DEEPEST + 1)), Err(MimeError::TooDeep));
    }

    #[test]
    fn an_attached_message_may_be_broken() {
        let with = |attached: &str| {
            leaves(&format!(
                "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: \
                message/rfc822\n\n{attached}\n--o--\n"
            ))
        };
        let cut = "Content-Type: multipart/mixed; boundary=i\n\n--i\nContent-Type: \
            a/b\n\nfirst\n--i\nContent-Type: c/d\n\ncut";
        assert_eq!(with(cut), pairs(&[("a/b", "first"), ("c/d", "cut")]));
        assert_eq!(with("From somebody Sat Jan  3 01:05:34 1996\nSubject: x\n\ny").map(|l| l.len()), Ok(1));
        assert_eq!(with("Content-Type: multipart/mixed\n\ny"), pairs(&[("multipart/mixed", "y")]));
        assert_eq!(with("Subject: no body"), pairs(&[("-", "")]));
    }
}
