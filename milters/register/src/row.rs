//! A row of the log as everybody sees it: one line of JSON.
//!
//! Promise: the line has every column of the table, in one spelling. The leaf of the tree is its SHA-256, the
//! day's file consists of such lines, and what `pecctl log` shows is read from them: what is shown is what is
//! sealed.
//!
//! A column that comes later must stay out of the line where it is NULL, or rows that are sealed have other
//! leaves than their own.
//!
//! Ours: these bytes stay as they are for ever, whatever a serialiser's next version does; and what COPY
//! gives becomes the line without a value for each column in between.

use openssl::sha::sha256;
use serde::{Deserialize, Serialize};
use tlog_tiles::{Hash, record_hash};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Time,
    Text,
    Texts,
    Bytes,
}

/// The columns of the table `log`, in the order of the line.
const COLUMNS: [(&str, Kind); 21] = [
    ("seq", Kind::Number),
    ("recorded_at", Kind::Time),
    ("happened_at", Kind::Time),
    ("event", Kind::Text),
    ("identificativo", Kind::Text),
    ("msgid", Kind::Text),
    ("mittente", Kind::Text),
    ("destinatari", Kind::Texts),
    ("oggetto", Kind::Text),
    ("gestore", Kind::Text),
    ("certified_by", Kind::Text),
    ("recipients", Kind::Texts),
    ("message_id", Kind::Text),
    ("message_sha256", Kind::Bytes),
    ("queue_id", Kind::Text),
    ("envid", Kind::Text),
    ("account", Kind::Text),
    ("client_address", Kind::Text),
    ("tls", Kind::Text),
    ("time_source", Kind::Text),
    ("error", Kind::Text),
];

/// The columns as a SELECT has them, of the table `log` by that name.
pub fn columns() -> String {
    COLUMNS.map(|(name, _)| format!("log.{name}")).join(", ")
}

/// A row, read from its line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Order of insertion.
    pub seq: i64,
    /// When the row came in, by the database's clock (UTC, microseconds).
    pub recorded_at: String,
    /// When it happened (UTC).
    pub happened_at: String,
    /// What.
    pub event: String,
    /// The PEC identifier.
    pub identificativo: String,
    /// The sender's own Message-ID.
    pub msgid: Option<String>,
    /// The sender.
    pub mittente: String,
    /// All recipients, each with its tipo in brackets.
    pub destinatari: Vec<String>,
    /// The subject.
    pub oggetto: Option<String>,
    /// The sender's provider.
    pub gestore: String,
    /// The provider that certifies this.
    pub certified_by: String,
    /// The recipients that the event is about.
    pub recipients: Vec<String>,
    /// Identifier of the message generated or received.
    pub message_id: Option<String>,
    /// SHA-256 of its body, hexadecimal.
    pub message_sha256: Option<String>,
    /// Postfix's queue id.
    pub queue_id: String,
    /// The SMTP envelope id.
    pub envid: Option<String>,
    /// The account that submitted.
    pub account: Option<String>,
    /// The client's IP address.
    pub client_address: Option<String>,
    /// Version and cipher of the TLS with which the message came.
    pub tls: Option<String>,
    /// Who says when.
    pub time_source: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// A line that is none.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Not such JSON.
    #[error("no row of the log: {0}")]
    Json(#[from] serde_json::Error),
    /// PostgreSQL's bytes are not those of the columns.
    #[error("the database's row has another form")]
    Form,
}

impl Row {
    /// Reads a line.
    pub fn from_line(line: &str) -> Result<Self, LineError> {
        Ok(serde_json::from_str(line)?)
    }
}

/// The entry of the tree for a line: its SHA-256. So tiles can be shown to anybody without showing who wrote
/// to whom.
pub fn entry(line: &str) -> [u8; 32] {
    sha256(line.as_bytes())
}

/// The leaf of an entry (RFC 6962).
pub fn leaf(entry: &[u8; 32]) -> Hash {
    record_hash(entry)
}

/// A row as it came from the database.
#[derive(Debug)]
pub struct Read<'a> {
    /// Its number.
    pub seq: i64,
    /// The day (UTC) on which it came in, counted from 1970-01-01.
    pub day: i64,
    /// Its line.
    pub line: &'a str,
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// From 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
const DAYS_TO_2000: i64 = 10_957;

/// Writes the lines of rows that PostgreSQL gives in its binary COPY format.
#[derive(Debug, Default)]
pub struct Lines {
    /// The day that was written last, and its text: rows come in the order of time.
    day: Option<(i64, String)>,
}

/// What COPY begins with: signature, flags, length of nothing else.
const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

impl Lines {
    /// The rows of one message of COPY, one after the other. `line` is where each is written.
    pub fn each(
        &mut self,
        mut bytes: &[u8],
        line: &mut String,
        mut each: impl FnMut(&Read<'_>),
    ) -> Result<(), LineError> {
        bytes = bytes.strip_prefix(COPY_HEAD).unwrap_or(bytes);
        while !bytes.is_empty() {
            let fields = i16::from_be_bytes(take(&mut bytes)?);
            if fields == -1 {
                break;
            }
            if usize::try_from(fields) != Ok(COLUMNS.len()) {
                return Err(LineError::Form);
            }
            line.clear();
            let (seq, day) = self.write(&mut bytes, line)?;
            each(&Read { seq, day, line });
        }
        Ok(())
    }

    fn write(&mut self, bytes: &mut &[u8], line: &mut String) -> Result<(i64, i64), LineError> {
        let (mut seq, mut day) = (0, 0);
        for (i, (name, kind)) in COLUMNS.iter().enumerate() {
            line.push_str(if i == 0 { "{\"" } else { ",\"" });
            line.push_str(name);
            line.push_str("\":");
            let length = i32::from_be_bytes(take(bytes)?);
            let Ok(length) = usize::try_from(length) else {
                line.push_str("null");
                continue;
            };
            let (mut value, rest) = bytes.split_at_checked(length).ok_or(LineError::Form)?;
            *bytes = rest;
            match kind {
                Kind::Number => {
                    seq = i64::from_be_bytes(take(&mut value)?);
                    line.push_str(&seq.to_string());
                }
                Kind::Time => {
                    let time = i64::from_be_bytes(take(&mut value)?);
                    // recorded_at is the first of them.
                    if i == 1 {
                        day = time.div_euclid(DAY) + DAYS_TO_2000;
                    }
                    self.time(time, line);
                }
                Kind::Text => text(value, line)?,
                Kind::Texts => texts(value, line)?,
                Kind::Bytes => {
                    line.push('"');
                    value.iter().for_each(|byte| hex(*byte, line));
                    line.push('"');
                }
            }
        }
        line.push('}');
        Ok((seq, day))
    }

    /// Microseconds since 2000-01-01 00:00 UTC, as PostgreSQL counts them: `"2026-11-26T14:00:00.123456Z"`.
    fn time(&mut self, since_2000: i64, line: &mut String) {
        const MICROSECONDS: i64 = 1_000_000;
        let seconds = since_2000.div_euclid(MICROSECONDS);
        let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        if self.day.as_ref().is_none_or(|(known, _)| *known != day) {
            let date = jiff::civil::date(2000, 1, 1)
                .saturating_add(jiff::Span::new().try_days(day).unwrap_or_default());
            self.day = Some((day, date.to_string()));
        }
        line.push('"');
        line.push_str(self.day.as_ref().map_or("", |(_, text)| text));
        for (mark, value) in [('T', second / 3600), (':', second / 60 % 60), (':', second % 60)] {
            line.push(mark);
            digits(value, 2, line);
        }
        line.push('.');
        digits(since_2000.rem_euclid(MICROSECONDS), 6, line);
        line.push_str("Z\"");
    }
}

fn digits(value: i64, width: u32, line: &mut String) {
    for place in (0..width).rev() {
        let digit = u8::try_from(value / 10_i64.pow(place) % 10).unwrap_or(0);
        line.push(char::from(b'0' + digit));
    }
}

fn hex(byte: u8, line: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    line.push(char::from(DIGITS[usize::from(byte >> 4)]));
    line.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], LineError> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or(LineError::Form)?;
    *bytes = rest;
    Ok(*taken)
}

/// A JSON string: what must be escaped is, and nothing else.
fn text(value: &[u8], line: &mut String) -> Result<(), LineError> {
    let value = std::str::from_utf8(value).map_err(|_| LineError::Form)?;
    line.push('"');
    if value.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        line.push_str(value);
    } else {
        for c in value.chars() {
            match c {
                '"' => line.push_str("\\\""),
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                c if c < ' ' => {
                    line.push_str("\\u00");
                    hex(u8::try_from(c).unwrap_or(0), line);
                }
                c => line.push(c),
            }
        }
    }
    line.push('"');
    Ok(())
}

/// A JSON array of strings, from PostgreSQL's array: dimensions, flags, type, and for each dimension size and
/// lower bound.
fn texts(mut value: &[u8], line: &mut String) -> Result<(), LineError> {
    let dimensions = i32::from_be_bytes(take(&mut value)?);
    let (_flags, _type): ([u8; 4], [u8; 4]) = (take(&mut value)?, take(&mut value)?);
    line.push('[');
    if dimensions > 0 {
        let count = i32::from_be_bytes(take(&mut value)?);
        let bound = i32::from_be_bytes(take(&mut value)?);
        // Nobody of ours writes such an array. It must not look like another, and is named by its row.
        if dimensions > 1 || bound != 1 {
            line.push_str("!]");
            return Ok(());
        }
        for i in 0..count {
            if i > 0 {
                line.push(',');
            }
            let Ok(length) = usize::try_from(i32::from_be_bytes(take(&mut value)?)) else {
                line.push_str("null");
                continue;
            };
            let (element, rest) = value.split_at_checked(length).ok_or(LineError::Form)?;
            value = rest;
            text(element, line)?;
        }
    }
    line.push(']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_microseconds_and_its_own_day() {
        let mut lines = Lines::default();
        let mut line = String::new();
        for (microseconds, shown) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (86_400_000_000 * 60 - 1, "2000-02-29T23:59:59.999999Z"),
            (848_504_096_789_012, "2026-11-20T15:34:56.789012Z"),
        ] {
            line.clear();
            lines.time(microseconds, &mut line);
            assert_eq!(line, format!("\"{shown}\""));
        }
    }

    proptest::proptest! {
        #[test]
        fn text_is_what_a_json_reader_reads(value in ".*") {
            let mut line = String::new();
            text(value.as_bytes(), &mut line).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), value);
        }
    }
}
