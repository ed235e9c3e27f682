//! LDIF (RFC 2849), as far as the directory of providers uses it.
//!
//! Promise: reading: one record after the other, never the whole file in memory. What is wrong is named with
//! its line. What is wrong in a line of a record spoils that record; only what leaves it open where a record
//! begins or ends is an error.

use std::io::BufRead;

use super::{Attribute, Spoiled, add_spoiled};

/// How long a line is before it is folded.
const WIDTH: usize = 76;

/// How many characters of a line that is no attribute are shown.
const MOST_SHOWN: usize = 80;

/// Adds a line `attribute: value`, in base64 where the value wants that (RFC 2849 SAFE-STRING), folded.
pub fn write(ldif: &mut String, attribute: &str, value: &str) {
    let is_first = |b: u8| !matches!(b, b' ' | b':' | b'<');
    let is_safe = |b: u8| (1..=127).contains(&b) && !matches!(b, b'\n' | b'\r');
    if value.bytes().all(is_safe) && value.bytes().next().is_none_or(is_first) && !value.ends_with(' ') {
        fold(ldif, &format!("{attribute}: {value}"));
    } else {
        write_binary(ldif, attribute, value.as_bytes());
    }
}

/// The same for bytes.
pub fn write_binary(ldif: &mut String, attribute: &str, value: &[u8]) {
    fold(ldif, &format!("{attribute}:: {}", encodify::base64::STANDARD.encode(value)));
}

/// Writes a line, folded as LDIF has it. `line` is ASCII.
fn fold(ldif: &mut String, line: &str) {
    let mut width = WIDTH;
    let mut rest = line;
    while let Some((begin, more)) = rest.split_at_checked(width).filter(|(_, more)| !more.is_empty()) {
        ldif.push_str(begin);
        ldif.push_str("\n ");
        rest = more;
        // The blank counts.
        width = WIDTH - 1;
    }
    ldif.push_str(rest);
    ldif.push('\n');
}

/// What the directory needs of a record. Values that are not text (certificates) are left out.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) dn: String,
    /// Whether it is of the class `provider`.
    pub(super) is_provider: bool,
    pub(super) name: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) mail_receipt: Option<String>,
    pub(super) hashes: Vec<String>,
    pub(super) domains: Vec<String>,
    pub(super) location: Option<String>,
    /// Values that cannot be read.
    pub(super) spoiled: Vec<Spoiled>,
}

impl Record {
    fn add(&mut self, attribute: &str, value: String) {
        let is = |name: &str| attribute.eq_ignore_ascii_case(name);
        if is("managedDomains") {
            self.domains.push(value);
        } else if is("objectClass") {
            self.is_provider |= value.eq_ignore_ascii_case("provider");
        } else if is("providerName") {
            self.name.get_or_insert(value);
        } else if is("providerUnit") {
            self.unit.get_or_insert(value);
        } else if is("mailReceipt") {
            self.mail_receipt.get_or_insert(value);
        } else if is("providerCertificateHash") {
            self.hashes.push(value);
        } else if is("LDIFLocationURL") {
            self.location.get_or_insert(value);
        }
    }

    /// A value of `attribute` that cannot be read. Of what decides nothing it matters to nobody.
    fn spoil(&mut self, attribute: &str, why: String) {
        let is = |name: &str| attribute.eq_ignore_ascii_case(name);
        let attribute = if is("managedDomains") {
            Attribute::Domain
        } else if is("providerName") {
            Attribute::Name
        } else if is("providerUnit") {
            Attribute::Unit
        } else if is("mailReceipt") {
            Attribute::MailReceipt
        } else if is("providerCertificateHash") {
            Attribute::Certificate
        } else if attribute.is_empty() || is("dn") || is("objectClass") {
            Attribute::Unknown
        } else {
            return;
        };
        add_spoiled(&mut self.spoiled, attribute, why);
    }
}

/// What stands in a line.
struct Line {
    /// The attribute without its options; empty where there is none.
    attribute: String,
    /// `None`: bytes, which nobody here wants.
    value: Result<Option<String>, String>,
}

impl Line {
    fn read(line: &[u8], number: usize) -> Self {
        let Some(colon) = line.iter().position(|&b| b == b':') else {
            let shown: String = String::from_utf8_lossy(line).chars().take(MOST_SHOWN).collect();
            let why = format!("line {number}: {shown:?} is no attribute");
            return Self { attribute: String::new(), value: Err(why) };
        };
        let (name, rest) = (String::from_utf8_lossy(&line[..colon]), &line[colon + 1..]);
        let (attribute, options) = name.split_once(';').unwrap_or((&name, ""));
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|_| format!("line {number}: {attribute} is not UTF-8"))
        };
        let value = match rest.strip_prefix(b":") {
            Some(_) if options.eq_ignore_ascii_case("binary") => Ok(None),
            Some(encoded) => {
                let decoded = encodify::base64::STANDARD.decode(encoded.trim_ascii());
                decoded
                    .map_err(|_| format!("line {number}: {attribute} is not base64"))
                    .and_then(text)
                    .map(Some)
            }
            None => text(rest.trim_ascii().to_vec()).map(Some),
        };
        // Names are written into logs and errors of one line.
        let one_line = |value: String| {
            if value.contains(char::is_control) { value.replace(char::is_control, " ") } else { value }
        };
        Self { attribute: attribute.to_owned(), value: value.map(|value| value.map(one_line)) }
    }
}

/// Gives each record to `take`.
pub(super) fn records(
    ldif: impl BufRead,
    mut take: impl FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    let mut lines = Lines { ldif, number: 0, ahead: Vec::new() };
    let mut open: Option<Record> = None;
    let mut line = Vec::new();
    while let Some(number) = lines.next(&mut line)? {
        if line.is_empty() {
            open.take().map_or(Ok(()), &mut take)?;
            continue;
        }
        if line.starts_with(b"#") {
            continue;
        }
        let Line { attribute, value } = Line::read(&line, number);
        let is_dn = attribute.eq_ignore_ascii_case("dn");
        match (&mut open, value) {
            (None, Ok(Some(dn))) if is_dn => open = Some(Record { dn, ..Record::default() }),
            (None, Err(why)) if is_dn => {
                let mut record = Record { dn: format!("the record of line {number}"), ..Record::default() };
                record.spoil(&attribute, why);
                open = Some(record);
            }
            (None, _) if attribute.eq_ignore_ascii_case("version") => {}
            (None, Err(why)) => return Err(why),
            (None, _) => return Err(format!("line {number}: {attribute:?} stands before any dn")),
            (Some(_), _) if is_dn => {
                return Err(format!("line {number}: a record begins without an empty line before it"));
            }
            (Some(record), Ok(Some(value))) => record.add(&attribute, value),
            (Some(_), Ok(None)) => {}
            (Some(record), Err(why)) => record.spoil(&attribute, why),
        }
    }
    open.map_or(Ok(()), take)
}

/// Lines, unfolded.
struct Lines<R> {
    ldif: R,
    number: usize,
    /// The line that was read to see that it continues nothing, with its end; empty at the beginning.
    ahead: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Puts the next one into `line`, without its end, and gives its number. `None`: there is no more.
    fn next(&mut self, line: &mut Vec<u8>) -> Result<Option<usize>, String> {
        line.clear();
        if self.ahead.is_empty() {
            self.read()?;
        }
        if self.ahead.is_empty() {
            return Ok(None);
        }
        let number = self.number;
        if self.ahead.starts_with(b" ") {
            return Err(format!("line {number}: continues nothing"));
        }
        line.extend_from_slice(without_end(&self.ahead));
        self.read()?;
        while !line.is_empty() && self.ahead.starts_with(b" ") {
            line.extend_from_slice(&without_end(&self.ahead)[1..]);
            self.read()?;
        }
        Ok(Some(number))
    }

    fn read(&mut self) -> Result<(), String> {
        self.ahead.clear();
        self.ldif.read_until(b'\n', &mut self.ahead).map_err(|e| e.to_string())?;
        self.number += 1;
        Ok(())
    }
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
