//! Multiparts as slices of the bytes that arrived (RFC 2046 s. 5.1.1).
//!
//! Promise: one level at a time and never into `message/rfc822`, so that the daticert.xml of a forwarded PEC is never taken
//! for the message's own; memory is a few offsets for each part, and the caller says how many parts are too many.

use std::ops::Range;

use crate::header::{Header, line_end};

/// What is wrong with a multipart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MimeError {
    /// No delimiter line of this boundary.
    #[error("no part begins with the boundary {0:?}")]
    NoParts(String),
    /// The closing delimiter is missing.
    #[error("the boundary {0:?} is never closed")]
    NotClosed(String),
    /// More parts than the caller takes.
    #[error("more than {0} parts")]
    TooManyParts(usize),
    /// A part without the empty line that ends its header, or with a line in it that is no header field.
    #[error("a part's header is malformed")]
    BadHeader,
    /// A transfer encoding that is not what it says.
    #[error("a part is not valid {0}")]
    BadEncoding(&'static str),
}

/// A body part: its header, read, and where its body lies.
#[derive(Debug, Clone)]
pub struct Part {
    /// The part's header.
    pub header: Header,
    /// The part's body as offsets into the bytes that were split.
    pub body: Range<usize>,
}

/// The ranges of the parts of the multipart `body`, each with its header, without the CRLF before the next delimiter, which
/// belongs to the delimiter: these are the bytes that a signature covers (RFC 1847 s. 2.1).
pub fn split(body: &[u8], boundary: &str, most_parts: usize) -> Result<Vec<Range<usize>>, MimeError> {
    let delimiter = [b"--", boundary.as_bytes()].concat();
    let mut parts = Vec::new();
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
                    return if open.is_some() { Ok(parts) } else { Err(MimeError::NoParts(boundary.to_owned())) };
                }
                open = Some(end);
            }
        }
        at = end;
    }
    Err(if open.is_some() { MimeError::NotClosed(boundary.to_owned()) } else { MimeError::NoParts(boundary.to_owned()) })
}

/// Reads the header of the part at `range` of `bytes`.
pub fn part(bytes: &[u8], range: Range<usize>) -> Result<Part, MimeError> {
    let body = header_end(&bytes[range.clone()]).ok_or(MimeError::BadHeader)?;
    let section = &bytes[range.start..range.start + body.0];
    let header = Header::parse(section).map_err(|_| MimeError::BadHeader)?;
    Ok(Part { header, body: range.start + body.1..range.end })
}

/// The decoded content of a part: `base64`, `quoted-printable`, or as it stands.
pub fn decoded(part: &Part, bytes: &[u8]) -> Result<Vec<u8>, MimeError> {
    let raw = &bytes[part.body.clone()];
    match part.header.text("Content-Transfer-Encoding").unwrap_or_default().to_ascii_lowercase().as_str() {
        "base64" => encodify::base64::MIME.decode(raw).map_err(|_| MimeError::BadEncoding("base64")),
        "quoted-printable" => {
            encodify::qp::BODY.decode(raw).map(|decoded| decoded.into_owned()).map_err(|_| MimeError::BadEncoding("quoted-printable"))
        }
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

fn before_line_break(bytes: &[u8], at: usize) -> usize {
    let bytes = &bytes[..at];
    bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(bytes).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"preamble\r\n--b\r\nA: 1\r\n\r\none\r\n\r\n--b  \r\n\r\ntwo\r\n--bc\r\n--b--\r\nepilogue\r\n";

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
}
