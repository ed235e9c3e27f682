//! A message body in pieces that are never joined, so that a large original is held once, however it is
//! wrapped.

use bytes::Bytes;
use memchr::{memchr, memchr2_iter};
use openssl::sha::Sha256;

/// The longest line that SMTP carries, without its CRLF (RFC 5322 s. 2.1.1).
pub const MAX_LINE_LENGTH: usize = 998;

/// Bytes in order, in pieces.
#[derive(Debug, Clone, Default)]
pub struct Body(Vec<Bytes>);

impl Body {
    /// A body of one piece.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let mut body = Self::default();
        body.push(bytes);
        body
    }

    /// Appends a piece.
    pub fn push(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.0.push(bytes);
        }
    }

    /// Appends the pieces of another body.
    pub fn append(&mut self, other: Body) {
        self.0.extend(other.0);
    }

    /// The pieces in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there is no byte at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// SHA-256 over all bytes.
    pub fn sha256(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for piece in &self.0 {
            digest.update(piece);
        }
        digest.finish()
    }

    /// Whether any byte is above 127.
    pub fn has_8bit(&self) -> bool {
        self.0.iter().any(|piece| !piece.is_ascii())
    }

    /// Whether there is a NUL, or a CR that ends no line: what SMTP forbids (RFC 5321 s. 2.3.8) and some
    /// server on the way would change.
    pub fn has_nul_or_bare_cr(&self) -> bool {
        // A CR at the end of a piece is a line end if the next piece begins with LF.
        let mut after_cr = false;
        for piece in &self.0 {
            if after_cr && piece[0] != b'\n' {
                return true;
            }
            after_cr = piece.ends_with(b"\r");
            let inside = &piece[..piece.len() - usize::from(after_cr)];
            if memchr2_iter(0, b'\r', inside).any(|at| inside.get(at..at + 2) != Some(b"\r\n")) {
                return true;
            }
        }
        after_cr
    }

    /// The length of the longest line, without its CRLF.
    pub fn longest_line(&self) -> usize {
        let (mut longest, mut current) = (0, 0);
        for piece in &self.0 {
            let mut rest = &piece[..];
            while let Some(lf) = memchr(b'\n', rest) {
                // The CR of a line end is no part of the line; it may stand at the end of the piece before.
                longest = longest.max((current + lf).saturating_sub(1));
                current = 0;
                rest = &rest[lf + 1..];
            }
            current += rest.len();
        }
        longest.max(current)
    }

    /// All bytes in one piece. Copies, unless there is one piece already.
    pub fn into_bytes(mut self) -> Bytes {
        match self.0.len() {
            1 => self.0.remove(0),
            _ => self.0.concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_measured_across_pieces() {
        let mut body = Body::default();
        for piece in ["abc", "de\r", "\nf\r\n", "", "ghijklm"] {
            body.push(piece);
        }
        assert_eq!((body.len(), body.longest_line()), (17, 7));
        assert_eq!(Body::from_bytes("a\r\n").longest_line(), 1);
        assert_eq!(Body::from_bytes("\r\n").longest_line(), 0);
        assert_eq!(Body::default().longest_line(), 0);
    }

    #[test]
    fn rfc5321_2_3_8_a_bare_cr_and_a_nul_are_seen_across_pieces() {
        let seen = |pieces: &[&'static str]| {
            let mut body = Body::default();
            pieces.iter().for_each(|&piece| body.push(piece));
            body.has_nul_or_bare_cr()
        };
        assert!(!seen(&["a\r\n", "b\r", "\n", ""]) && !seen(&[]));
        assert!(seen(&["a\r", "b\r\n"]) && seen(&["a\r\r\n"]) && seen(&["a\r"]) && seen(&["a\0b\r\n"]));
    }

    #[test]
    fn the_hash_does_not_see_the_pieces() {
        let mut pieces = Body::default();
        pieces.push("ab");
        pieces.push("c");
        assert_eq!(pieces.sha256(), Body::from_bytes("abc").sha256());
        assert_eq!(&pieces.into_bytes()[..], b"abc");
    }
}
