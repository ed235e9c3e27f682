//! PEC identifiers: `pec.YYYYMMDDhhmmss.RANDOM@service-domain` (RFC 6109 s. 2.2.1).

use openssl::sha::sha256;

use crate::clock::Moment;

/// How many hexadecimal digits of an identifier are random: 80 bits.
const RANDOM_DIGITS: usize = 20;

/// Bytes of a fresh secret that nobody can guess.
const SECRET_BYTES: usize = 16;

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random bytes: {0}")]
pub struct NoRandomness(#[from] openssl::error::ErrorStack);

/// A new 128-bit value in hexadecimal: the id of a trigger, of a fact, of an SMTP envelope (ENVID).
pub fn fresh() -> Result<String, NoRandomness> {
    let mut bytes = [0; SECRET_BYTES];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(hex(&bytes))
}

/// The identifier, without angle brackets, of the message about `subject` made at `moment`. The same
/// arguments give the same identifier, so that a notice made twice for one fact is one notice.
pub fn pec_identifier(moment: Moment, subject: &str, service_domain: &str) -> String {
    let digest = hex(&sha256(subject.as_bytes()));
    format!("pec.{}.{}@{service_domain}", moment.compact(), &digest[..RANDOM_DIGITS])
}

/// The longest identifier: half a line, so that every field that repeats it fits on one.
const LONGEST: usize = 499;

/// Whether this is the inside of a Message-ID, `left@right` in printable ASCII without blanks or brackets
/// (RFC 5322 s. 3.6.4), that fits on a line. It goes into every receipt.
pub fn is_identifier(id: &str) -> bool {
    let graphic = id.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>'));
    graphic
        && id.len() < LONGEST
        && id.split_once('@').is_some_and(|(left, right)| !left.is_empty() && !right.is_empty())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads hexadecimal of either case. `None` if it is anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6109_2_2_1_identifier_names_time_and_service_domain() {
        let moment = Moment::from_unix(1_789_825_279);
        let id = pec_identifier(moment, "a", "gestore.alfa.test");
        assert!(id.starts_with("pec.20260919154119.") && id.ends_with("@gestore.alfa.test"), "{id}");
        assert_eq!(id, pec_identifier(moment, "a", "gestore.alfa.test"));
        assert_ne!(id, pec_identifier(moment, "b", "gestore.alfa.test"));
    }

    #[test]
    fn hexadecimal_is_read_in_either_case() {
        assert_eq!(unhex("00fFA0"), Some(vec![0, 255, 160]));
        assert_eq!((unhex("0"), unhex("0g"), unhex("é0")), (None, None, None));
    }
}
