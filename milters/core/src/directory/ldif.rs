//! LDIF (RFC 2849), as far as the directory of providers uses it.
//!
//! Promise: reading: one record after the other, never the whole file in memory. What is wrong is named with
//! its line.

use std::io::BufRead;

/// How long a line is before it is folded.
const WIDTH: usize = 76;

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
        let line = str::from_utf8(&line).map_err(|_| format!("line {number}: not UTF-8"))?;
        if line.is_empty() {
            open.take().map_or(Ok(()), &mut take)?;
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (name, rest) =
            line.split_once(':').ok_or_else(|| format!("line {number}: {line:?} is no attribute"))?;
        let (name, options) = name.split_once(';').unwrap_or((name, ""));
        let value = match rest.strip_prefix(':') {
            Some(_) if options.eq_ignore_ascii_case("binary") => continue,
            Some(encoded) => {
                let bytes = encodify::base64::STANDARD
                    .decode(encoded.trim())
                    .map_err(|_| format!("line {number}: not base64"))?;
                String::from_utf8(bytes).map_err(|_| format!("line {number}: not UTF-8"))?
            }
            None => rest.trim().to_owned(),
        };
        // Names are written into logs and errors of one line.
        let value: String =
            if value.contains(char::is_control) { value.replace(char::is_control, " ") } else { value };
        match (name.eq_ignore_ascii_case("dn"), &mut open) {
            (true, None) => open = Some(Record { dn: value, ..Record::default() }),
            (true, Some(_)) => {
                return Err(format!("line {number}: a record begins without an empty line before it"));
            }
            (false, Some(record)) => record.add(name, value),
            (false, None) if name.eq_ignore_ascii_case("version") => {}
            (false, None) => return Err(format!("line {number}: {name:?} stands before any dn")),
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
