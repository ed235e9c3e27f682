//! What the fuzz targets share. A target is a program in `src/bin`: libFuzzer calls it with bytes, and it
//! panics where what the module promises does not hold.

use pec_core::header::Header;
use pec_core::mime::header_end;

/// A message's header and body, if its header can be read: as a milter gets it.
pub fn message(input: &[u8]) -> Option<(Header, &[u8])> {
    let (end, body) = header_end(input)?;
    Some((Header::parse(&input[..end]).ok()?, &input[body..]))
}

/// Whether every line of `bytes` ends in CRLF, as all lines do that come through SMTP.
pub fn has_crlf_lines(bytes: &[u8]) -> bool {
    bytes.is_empty()
        || (bytes.ends_with(b"\r\n")
            && bytes.split_inclusive(|&b| b == b'\n').all(|line| line.ends_with(b"\r\n")))
}

/// Whether all of `text` stands in `bytes`, in this order; what else stands there may be comments and folds.
pub fn is_drawn_from(text: &str, bytes: &[u8]) -> bool {
    let mut bytes = bytes.iter();
    text.bytes().all(|b| bytes.any(|&found| found == b))
}
