//! The dots of DATA (RFC 5321 s. 4.5.2).
//!
//! Promise: only CRLF ends a line, so only CRLF, dot, CRLF ends a message; a bare CR or LF is a byte like any
//! other. What [`Stuff`] wrote [`Unstuff`] gives back, however the bytes come in pieces.

use memchr::memchr;

/// Takes the dots out, and finds the end.
#[derive(Debug, Default)]
pub struct Unstuff {
    at: At,
}

/// What was read last.
#[derive(Debug, Default, Clone, Copy)]
enum At {
    /// CRLF, or nothing yet.
    #[default]
    Start,
    /// The dot of a line that begins with one.
    Dot,
    /// That dot and CR.
    DotCr,
    /// CR elsewhere.
    Cr,
    /// Any other byte.
    Text,
}

impl Unstuff {
    /// Reads on, and gives `out` what belongs to the message. If its end is in `input`: how many bytes of it
    /// were read.
    pub fn push(&mut self, input: &[u8], mut out: impl FnMut(&[u8])) -> Option<usize> {
        let mut i = 0;
        while let Some(&b) = input.get(i) {
            i += 1;
            self.at = match (self.at, b) {
                (At::Start, b'.') => At::Dot,
                (At::Dot, b'\r') => At::DotCr,
                (At::DotCr, b'\n') => return Some(i),
                (At::Cr, b'\n') => {
                    out(b"\n");
                    At::Start
                }
                (at, _) => {
                    if matches!(at, At::DotCr) {
                        out(b"\r");
                    }
                    // Up to the next CR all is text.
                    let length = memchr(b'\r', &input[i - 1..]).map_or(input.len() - i + 1, |cr| cr + 1);
                    let text = &input[i - 1..i - 1 + length];
                    i += length - 1;
                    out(text);
                    if text.ends_with(b"\r") { At::Cr } else { At::Text }
                }
            };
        }
        None
    }
}

/// Puts the dots in.
#[derive(Debug)]
pub struct Stuff {
    start: bool,
    cr: bool,
}

impl Default for Stuff {
    fn default() -> Self {
        Self { start: true, cr: false }
    }
}

impl Stuff {
    /// Writes a piece of the message to `out`.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while let Some(first) = piece.first() {
            if self.start && *first == b'.' {
                out.push(b'.');
            }
            let (line, rest) = piece.split_at(memchr(b'\n', piece).map_or(piece.len(), |lf| lf + 1));
            out.extend_from_slice(line);
            self.start = match line {
                [.., b'\r', b'\n'] => true,
                [b'\n'] => self.cr,
                _ => false,
            };
            self.cr = line.ends_with(b"\r");
            piece = rest;
        }
    }

    /// Writes the CRLF that the last line lacks, if it does. The dot comes after it.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if !self.start {
            out.extend_from_slice(b"\r\n");
            self.start = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// What is read of `input`, and how many bytes until the end.
    fn read(input: &[u8], step: usize) -> (Vec<u8>, Option<usize>) {
        let (mut dots, mut data) = (Unstuff::default(), Vec::new());
        for (i, piece) in input.chunks(step).enumerate() {
            if let Some(end) = dots.push(piece, |part| data.extend_from_slice(part)) {
                return (data, Some(i * step + end));
            }
        }
        (data, None)
    }

    fn written(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut dots, mut out) = (Stuff::default(), Vec::new());
        pieces.iter().for_each(|piece| dots.push(piece, &mut out));
        dots.end(&mut out);
        out
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_message() {
        assert_eq!(read(b".\r\n", 9), (vec![], Some(3)));
        assert_eq!(read(b"a\r\n.\r\nQUIT\r\n", 99), (b"a\r\n".to_vec(), Some(6)));
        for none in [
            "a\n.\n",
            "a\n.\r\n",
            "a\r\n.\n",
            "a\r.\r",
            "a\r.\r\n",
            "a\r\n.\r",
            "a\r\n.",
            "\n.\n",
            "a\r\n.x\r\n",
            "a\r\n..\r\n",
            "a\r\r\n\r.\r\n",
        ] {
            assert_eq!(read(none.as_bytes(), 99).1, None, "{none:?}");
        }
    }

    #[test]
    fn rfc5321_4_5_2_a_dot_that_begins_a_line_is_doubled() {
        for (message, on_the_wire) in [
            ("", ""),
            ("a\r\n", "a\r\n"),
            (".\r\n", "..\r\n"),
            ("..a\r\n.b\r\n", "...a\r\n..b\r\n"),
            ("a.\r\n", "a.\r\n"),
            // The last line may lack its end.
            ("a", "a\r\n"),
            (".", "..\r\n"),
            ("a\r\n\r", "a\r\n\r\r\n"),
        ] {
            assert_eq!(written(&[message.as_bytes()]), on_the_wire.as_bytes(), "{message:?}");
        }
    }

    #[test]
    fn a_dot_is_doubled_where_pieces_meet() {
        let expected = b"a\r\n..b\r\n..c\r\n";
        for pieces in [
            ["a\r\n", ".b\r\n", ".c\r\n"],
            ["a\r", "\n.b\r", "\n.c\r\n"],
            ["a", "\r\n.b\r\n", ".c"],
            ["", "a\r\n.b\r\n", ".c\r\n"],
        ] {
            assert_eq!(written(&pieces.map(str::as_bytes)), expected, "{pieces:?}");
        }
        assert_eq!(written(&[b"a", b".b\r\n"]), b"a.b\r\n");
    }

    proptest! {
        #[test]
        fn what_is_written_comes_back(lines in proptest::collection::vec("[.a\r\n]{0,5}", 0..12), cut in 0usize..40, step in 1usize..9) {
            let message = lines.iter().map(|line| format!("{line}\r\n")).collect::<String>();
            let (before, after) = message.as_bytes().split_at(cut.min(message.len()));
            let mut wire = written(&[before, after]);
            let end = wire.len() + 3;
            wire.extend_from_slice(b".\r\nNOOP\r\n");
            prop_assert_eq!(read(&wire, step), (message.into_bytes(), Some(end)));
        }
    }
}
