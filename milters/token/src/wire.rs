//! How a program of ours and its pec-token speak: frames on a socket, one question and one answer at a time.
//!
//! A frame is a letter, the length in four bytes (big-endian), and so many bytes.

use std::io::{self, Read, Write};

/// A question: sign this.
pub const SIGN: u8 = b'S';
/// An answer: what was asked for. The first one, unasked, says that the token is open and holds the DER of
/// the public key.
pub const DONE: u8 = b'D';
/// An answer: the token does not answer, for this reason. It may by itself, later.
pub const AWAY: u8 = b'A';
/// An answer: something is wrong that only a person can change.
pub const WRONG: u8 = b'W';
/// An answer: the token does not take the PIN.
pub const PIN_REFUSED: u8 = b'P';

/// Far more than a question or an answer has.
const MOST: usize = 64 * 1024;

/// Writes a frame.
pub fn write(mut to: impl Write, letter: u8, bytes: &[u8]) -> io::Result<()> {
    let length =
        u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= MOST).ok_or(io::ErrorKind::InvalidInput)?;
    to.write_all(&[&[letter][..], &length.to_be_bytes(), bytes].concat())
}

/// Reads a frame.
pub fn read(mut from: impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [letter, length @ ..] = head;
    let length = usize::try_from(u32::from_be_bytes(length))
        .ok()
        .filter(|&l| l <= MOST)
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok((letter, bytes))
}
