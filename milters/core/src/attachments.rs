//! Attachments of kinds that the provider does not carry (`pec_blocked_attachments`): AgID asks providers to
//! block what runs.
//!
//! Promise: a kind is found by every name that the message gives the attachment, by its content where the
//! content says so for certain, in attached messages, and in zip archives. Nothing is unpacked but the
//! beginning of each file and zips in zips, within [`MOST_UNPACKED`] bytes more than the message has and
//! [`MOST_FILES`] files; an archive that needs more is not carried either. Of an encrypted archive the names
//! are read. Other archives (7z, rar, tar) and signed files (.p7m) are not looked into: what is in them is
//! for the virus scanner.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::ControlFlow;

use memchr::memmem;
use miniz_oxide::inflate::decompress_to_vec_with_limit;

use crate::header::{Field, Header, before_line_break, decoded_words, line_end};
use crate::mime::{MimeError, walk, walk_attached};
use crate::showable::is_shown;

/// Bytes of nested archives that are unpacked or read for one message, beyond its own size: archives in
/// archives hardly get smaller.
pub const MOST_UNPACKED: usize = 8 * 1024 * 1024;

/// Files in archives that are looked at for one message.
pub const MOST_FILES: usize = 10_000;

/// Bytes of the names of those files.
const MOST_NAMES: usize = 2 * 1024 * 1024;

/// Archives in archives.
const DEEPEST_ARCHIVE: usize = 8;

/// Messages attached in a way that hides them from [`walk`]: encoded, or as a file with the name of a
/// message.
const DEEPEST_MESSAGE: usize = 8;

/// By so many bytes every content is known.
const BEGINNING: usize = 512;

/// What is read of a packed file to get its beginning.
const PACKED_BEGINNING: usize = 4096;

/// More than anybody wants to read.
const MOST_NAMED: usize = 20;

/// How much of a name is repeated, in characters.
const LONGEST_NAME: usize = 200;

/// An attachment that is not carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Its name; for a file in an archive, the archive's before it.
    pub name: String,
    /// Why.
    pub why: Why,
}

/// Why an attachment is not carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Its name ends so.
    Name(String),
    /// Its content is of this kind, whatever its name says.
    Content(&'static str),
    /// It cannot be looked through: too deep, too many files, too large when unpacked.
    Endless,
    /// A part of another message, or something that lies elsewhere: what it is nobody can see here.
    Elsewhere,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Name(extension) => write!(f, "{:?} (.{extension})", self.name),
            Why::Content(extension) => write!(f, "{:?} (.{extension} by its content)", self.name),
            Why::Endless => write!(f, "{:?} (packed too deep or too large to be examined)", self.name),
            Why::Elsewhere => write!(f, "{:?} (its content is not, or not whole, in the message)", self.name),
        }
    }
}

impl Blocked {
    /// The same in Italian.
    pub fn italiano(&self) -> String {
        match &self.why {
            Why::Name(extension) => format!("{:?} (.{extension})", self.name),
            Why::Content(extension) => format!("{:?} (.{extension} per il suo contenuto)", self.name),
            Why::Endless => {
                format!("{:?} (compresso troppe volte o troppo grande per essere esaminato)", self.name)
            }
            Why::Elsewhere => {
                format!("{:?} (il suo contenuto non è, o non è tutto, nel messaggio)", self.name)
            }
        }
    }
}

/// A kind that content gives away: the extensions under which it runs, the first being its usual one.
struct Content {
    extensions: &'static [&'static str],
    is: fn(&[u8]) -> bool,
}

/// Contents that nothing else begins with.
const CONTENTS: [Content; 6] = [
    // A DOS header. Its last byte belongs to an offset that no mail is long enough for: text has no zero
    // there.
    Content {
        extensions: &["exe", "com", "scr", "cpl", "ocx", "pif", "dll", "sys"],
        is: |b| b.starts_with(b"MZ") && b.get(0x3f) == Some(&0),
    },
    Content {
        extensions: &["lnk"],
        is: |b| b.starts_with(b"\x4c\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46"),
    },
    Content { extensions: &["chm"], is: |b| b.starts_with(b"ITSF\x03\0\0\0") },
    Content { extensions: &["hlp"], is: |b| b.starts_with(b"?_\x03\0") },
    Content { extensions: &["pst"], is: |b| b.starts_with(b"!BDN") },
    // A Mach-O of several architectures begins alike, and then tells how many: fewer than Java's oldest
    // version.
    Content {
        extensions: &["class", "cla"],
        is: |b| b.starts_with(b"\xca\xfe\xba\xbe\0") && b.get(7).is_some_and(|&major| major >= 45),
    },
];

/// The attachments of a message that are of one of the blocked `kinds` (extensions in lower case, without
/// dot), at most twenty; or why the message cannot be taken apart.
pub fn blocked(header: &Header, body: &[u8], kinds: &HashSet<String>) -> Result<Vec<Blocked>, MimeError> {
    let mut search = Search {
        kinds,
        found: Vec::new(),
        bytes: MOST_UNPACKED + body.len(),
        files: MOST_FILES,
        names: MOST_NAMES,
    };
    walk(header, body, |header, range| search.leaf(header, &body[range], 0))?;
    Ok(search.found)
}

struct Search<'a> {
    kinds: &'a HashSet<String>,
    found: Vec<Blocked>,
    /// Bytes that may still be unpacked.
    bytes: usize,
    /// Files in archives that may still be looked at.
    files: usize,
    /// Bytes of their names that may still be read.
    names: usize,
}

impl Search<'_> {
    fn leaf(&mut self, header: &Header, raw: &[u8], depth: usize) {
        let names = names(header);
        let name = names.first().map_or("(no name)", String::as_str);
        for name in &names {
            self.name(name, name);
        }
        let essence = header.content_type().map_or_else(String::new, |media| media.essence);
        if matches!(essence.as_str(), "message/partial" | "message/external-body") {
            self.add(names.first().unwrap_or(&essence), Why::Elsewhere);
        }
        let is_message = essence == "message/rfc822" || names.iter().any(|n| is_called(n, "eml"));
        let is_text = essence.is_empty() || essence.starts_with("text/");
        for encoding in encodings(header) {
            let beginning = encoding.decoded(raw, BEGINNING);
            self.content(name, &beginning);
            if is_zip(&beginning) || names.iter().any(|n| is_called(n, "zip")) {
                self.archive(name, &encoding.decoded(raw, usize::MAX), 0);
            }
            if is_text {
                self.in_text(&encoding.decoded(raw, usize::MAX));
            }
            if is_message {
                let message = encoding.decoded(raw, usize::MAX);
                let walked = if depth == DEEPEST_MESSAGE {
                    Err(MimeError::TooDeep)
                } else {
                    walk_attached(&message, |header, range| self.leaf(header, &message[range], depth + 1))
                };
                if walked.is_err() {
                    self.add(name, Why::Endless);
                }
            }
        }
    }

    /// Files in a text, as uuencode and yEnc write them; many mail programs show them as attachments.
    fn in_text(&mut self, text: &[u8]) {
        let mut at = 0;
        while at < text.len() {
            let end = line_end(text, at);
            let line = &text[at..before_line_break(text, end).max(at)];
            at = end;
            let Some((name, encoding)) = begins(line) else { continue };
            if self.files == 0 {
                return self.add(&name, Why::Endless);
            }
            self.files -= 1;
            self.name(&name, &name);
            let Some(encoding) = encoding else { continue };
            let beginning = encoding.decoded(&text[at..], BEGINNING);
            self.content(&name, &beginning);
            if is_zip(&beginning) || is_called(&name, "zip") {
                let archive = encoding.decoded(&text[at..], self.bytes);
                if archive.len() >= self.bytes {
                    return self.add(&name, Why::Endless);
                }
                self.bytes -= archive.len();
                self.archive(&name, &archive, 0);
            }
        }
    }

    /// A zip archive. Every record that describes a file counts, wherever it stands: programs disagree about
    /// which of them a crafted archive means, and some read what stands before each file alone.
    fn archive(&mut self, name: &str, archive: &[u8], depth: usize) {
        let described =
            memmem::find_iter(archive, ZippedFile::SIGNATURE).map(|at| (true, ZippedFile::read(archive, at)));
        let local = memmem::find_iter(archive, ZippedFile::LOCAL_SIGNATURE)
            .map(|at| (false, ZippedFile::read_local(archive, at)));
        let mut seen = HashSet::new();
        for (is_described, file) in described.chain(local) {
            let Some(file) = file else { continue };
            // What stands before a file says nothing new where the directory leads there.
            let place = (file.packed.start, file.name.clone());
            if is_described {
                seen.insert(place);
            } else if seen.contains(&place) {
                continue;
            }
            // Records may overlap: a small archive can name its files at great length.
            if self.files == 0 || file.described > self.names {
                return self.add(name, Why::Endless);
            }
            self.files -= 1;
            self.names -= file.described;
            let path = format!("{name}/{}", file.name);
            self.name(&path, &file.name);
            if let Some(other) = &file.unicode_name {
                self.name(&path, other);
            }
            let beginning = file.content(archive, PACKED_BEGINNING, BEGINNING);
            self.content(&path, &beginning);
            if (is_zip(&beginning) || is_called(&file.name, "zip"))
                && self.nested(&path, archive, &file, depth).is_break()
            {
                return self.add(&path, Why::Endless);
            }
        }
    }

    fn nested(&mut self, path: &str, archive: &[u8], file: &ZippedFile, depth: usize) -> ControlFlow<()> {
        if depth == DEEPEST_ARCHIVE || file.packed.len() > self.bytes {
            return ControlFlow::Break(());
        }
        self.bytes -= file.packed.len();
        let nested = file.content(archive, usize::MAX, self.bytes);
        if nested.len() >= self.bytes {
            return ControlFlow::Break(());
        }
        self.bytes -= nested.len();
        self.archive(path, &nested, depth + 1);
        ControlFlow::Continue(())
    }

    fn name(&mut self, shown: &str, name: &str) {
        if let Some(extension) = extension(name).filter(|e| self.kinds.contains(e)) {
            self.add(shown, Why::Name(extension));
        }
    }

    fn content(&mut self, name: &str, beginning: &[u8]) {
        let blocked =
            |c: &&Content| c.extensions.iter().any(|e| self.kinds.contains(*e)) && (c.is)(beginning);
        if let Some(content) = CONTENTS.iter().find(blocked) {
            // One that bears the name of its kind has been named already.
            if !content.extensions.iter().any(|e| is_called(name, e) && self.kinds.contains(*e)) {
                self.add(name, Why::Content(content.extensions[0]));
            }
        }
    }

    fn add(&mut self, name: &str, why: Why) {
        // A file in an archive that lies unpacked in another one is met on both ways.
        let file = |name: &str| {
            name.rsplit('/').next().unwrap_or_default().chars().take(LONGEST_NAME).collect::<String>()
        };
        if self.found.len() < MOST_NAMED
            && !self.found.iter().any(|b| b.why == why && file(&b.name) == file(name))
        {
            self.found.push(Blocked { name: name.chars().take(LONGEST_NAME).collect(), why });
        }
    }
}

/// A file as an archive describes it.
struct ZippedFile {
    name: String,
    /// A second name, which some programs prefer (4.6.9).
    unicode_name: Option<String>,
    /// How many bytes describe it.
    described: usize,
    method: u16,
    encrypted: bool,
    /// Where its bytes lie in the archive; nowhere if the record does not lead to them.
    packed: std::ops::Range<usize>,
}

impl ZippedFile {
    const SIGNATURE: &[u8] = b"PK\x01\x02";
    const LOCAL_SIGNATURE: &[u8] = b"PK\x03\x04";

    /// From what stands before its bytes (APPNOTE.TXT 4.3.7). The size there may be missing: all that follows
    /// is read.
    fn read_local(archive: &[u8], at: usize) -> Option<Self> {
        let record = archive.get(at..at + 30)?;
        let u16_at = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
        let name = archive.get(at + 30..at + 30 + usize::from(u16_at(26)))?;
        Some(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            unicode_name: None,
            described: name.len(),
            method: u16_at(8),
            encrypted: u16_at(6) & 1 != 0,
            packed: packed(archive, at as u64, u64::MAX)?,
        })
    }

    /// From the archive's central directory (4.3.12).
    fn read(archive: &[u8], at: usize) -> Option<Self> {
        let record = archive.get(at..at + 46)?;
        let u16_at = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
        let u32_at =
            |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        let (name, extra) = (usize::from(u16_at(28)), usize::from(u16_at(30)));
        let name = archive.get(at + 46..at + 46 + name)?;
        let extra = archive.get(at + 46 + name.len()..at + 46 + name.len() + extra).unwrap_or_default();

        let (mut size, mut offset) = (u64::from(u32_at(20)), u64::from(u32_at(42)));
        if let Some(large) = extra_field(extra, 0x0001) {
            // The 64-bit numbers that do not fit above, in this order: size unpacked, size packed, offset
            // (4.5.3).
            let mut numbers = large
                .chunks_exact(8)
                .map(|n| u64::from_le_bytes([n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]]));
            if u32_at(24) == u32::MAX {
                numbers.next();
            }
            for number in [&mut size, &mut offset] {
                if *number == u64::from(u32::MAX) {
                    *number = numbers.next().unwrap_or(*number);
                }
            }
        }
        Some(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            unicode_name: extra_field(extra, 0x7075)
                .and_then(|f| f.get(5..))
                .map(|n| String::from_utf8_lossy(n).into_owned()),
            described: name.len() + extra.len(),
            method: u16_at(10),
            encrypted: u16_at(8) & 1 != 0,
            packed: packed(archive, offset, size).unwrap_or_default(),
        })
    }

    /// At most `most` bytes of the content, from at most `most_packed` packed ones; what is encrypted or
    /// packed in another way than zip programs mostly do, is empty.
    fn content<'a>(&self, archive: &'a [u8], most_packed: usize, most: usize) -> Cow<'a, [u8]> {
        let packed = &archive[self.packed.clone()];
        let packed = &packed[..packed.len().min(most_packed)];
        match self.method {
            _ if self.encrypted => Cow::default(),
            0 => Cow::Borrowed(&packed[..packed.len().min(most)]),
            // An error has what came before it; so has an end that comes too early.
            8 => decompress_to_vec_with_limit(packed, most).unwrap_or_else(|e| e.output).into(),
            _ => Cow::default(),
        }
    }
}

/// Where the packed bytes lie behind their local header (4.3.7).
fn packed(archive: &[u8], offset: u64, size: u64) -> Option<std::ops::Range<usize>> {
    let (offset, size) = (usize::try_from(offset).ok()?, usize::try_from(size).ok()?);
    let local = archive.get(offset..offset.checked_add(30)?)?;
    let length = |at: usize| usize::from(u16::from_le_bytes([local[at], local[at + 1]]));
    let start = offset + 30 + length(26) + length(28);
    (local.starts_with(ZippedFile::LOCAL_SIGNATURE) && start <= archive.len())
        .then(|| start..start.saturating_add(size).min(archive.len()))
}

fn extra_field(mut extra: &[u8], id: u16) -> Option<&[u8]> {
    while let [a, b, c, d, rest @ ..] = extra {
        let length = usize::from(u16::from_le_bytes([*c, *d])).min(rest.len());
        if u16::from_le_bytes([*a, *b]) == id {
            return Some(&rest[..length]);
        }
        extra = &rest[length..];
    }
    None
}

fn is_zip(beginning: &[u8]) -> bool {
    [b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"].iter().any(|signature| beginning.starts_with(*signature))
}

/// What follows the last dot of a file's name, in lower case. Windows leaves out dots and blanks at the end, and
/// nobody sees what has no width.
fn extension(name: &str) -> Option<String> {
    let name: String = name.chars().filter(|&c| is_shown(c)).collect();
    let at_end = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '"');
    let file = name.rsplit(['/', '\\']).next()?;
    // What follows a colon names a stream of the file (NTFS): `a.js::$DATA` is a.js.
    let file = match file.split_once(':') {
        Some((before, _)) if before.trim_end_matches(at_end).contains('.') => before,
        _ => file,
    };
    file.trim_end_matches(at_end).rsplit_once('.').map(|(_, extension)| extension.to_lowercase())
}

fn is_called(name: &str, extension_wanted: &str) -> bool {
    extension(name).is_some_and(|e| e == extension_wanted)
}

/// Every name that the fields of a part give it. Mail programs choose differently where there are several.
fn names(header: &Header) -> Vec<String> {
    let mut names = Vec::new();
    for field in header.all("Content-Disposition").chain(header.all("Content-Type")) {
        names.extend(names_in(field));
    }
    // A second opinion.
    for media in [header.content_disposition(), header.content_type()].into_iter().flatten() {
        names.extend(
            media
                .attributes()
                .filter(|(name, _)| matches!(*name, "name" | "filename"))
                .map(|(_, value)| decoded_words(value)),
        );
    }
    let mut seen = HashSet::new();
    names.retain(|name| !name.trim().is_empty() && seen.insert(name.clone()));
    names
}

/// The values of `name` and `filename`: as they stand with encoded words decoded, which RFC 2047 forbids
/// there and many write; and RFC 2231's, put together from their pieces.
fn names_in(field: &Field) -> Vec<String> {
    let mut names = Vec::new();
    let mut pieces: Vec<(String, u32, Vec<u8>)> = Vec::new();
    for parameter in parameters(&field.text()) {
        let Some((key, value)) = parameter.split_once('=') else { continue };
        let key = key.trim().to_ascii_lowercase();
        let value = value.trim().replace('"', "");
        let (base, piece) =
            key.split_once('*').map_or((key.as_str(), None), |(base, piece)| (base, Some(piece)));
        if !matches!(base, "name" | "filename") {
            continue;
        }
        let Some(piece) = piece else {
            names.push(decoded_words(&value));
            continue;
        };
        let number = piece.trim_end_matches('*').parse().unwrap_or(0);
        let encoded = piece.is_empty() || piece.ends_with('*');
        // charset'language'text
        let text =
            if encoded && number == 0 { value.splitn(3, '\'').last().unwrap_or_default() } else { &value };
        pieces.push((
            base.to_owned(),
            number,
            if encoded { percent_decoded(text) } else { text.as_bytes().to_vec() },
        ));
    }
    pieces.sort();
    for base in ["name", "filename"] {
        let joined: Vec<u8> =
            pieces.iter().filter(|(b, ..)| b == base).flat_map(|(.., text)| text.clone()).collect();
        names.push(String::from_utf8_lossy(&joined).into_owned());
    }
    names
}

/// The parts of a field between semicolons; one in quotes is none.
fn parameters(text: &str) -> Vec<String> {
    let (mut parameters, mut quoted, mut escaped) = (vec![String::new()], false, false);
    for c in text.chars() {
        let last = parameters.len() - 1;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => {
                escaped = true;
                continue;
            }
            '"' => quoted = !quoted,
            ';' if !quoted => {
                parameters.push(String::new());
                continue;
            }
            _ => {}
        }
        parameters[last].push(c);
    }
    parameters
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(hex_byte) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// How content is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    Base64,
    QuotedPrintable,
    Uuencode,
}

impl Encoding {
    /// At most `most` bytes of a content. What is not properly encoded is decoded as mail programs do it: what
    /// does not belong there is passed over.
    fn decoded(self, raw: &[u8], most: usize) -> Cow<'_, [u8]> {
        match self {
            Self::Plain => Cow::Borrowed(&raw[..raw.len().min(most)]),
            Self::Base64 => base64(raw, most).into(),
            Self::QuotedPrintable => quoted_printable(raw, most).into(),
            Self::Uuencode => uuencoded(raw, most).into(),
        }
    }
}

/// In which ways programs may read a part: of a transfer encoding that is none, they choose each for
/// themselves.
fn encodings(header: &Header) -> &'static [Encoding] {
    let encoding = header.transfer_encoding();
    match encoding.as_str() {
        "" | "7bit" | "8bit" | "binary" => &[Encoding::Plain],
        "base64" => &[Encoding::Base64],
        "quoted-printable" => &[Encoding::QuotedPrintable],
        _ => &[Encoding::Plain, Encoding::Base64, Encoding::QuotedPrintable, Encoding::Uuencode],
    }
}

/// The name of a file that begins behind this line of a text, and how it is written where that can be read.
fn begins(line: &[u8]) -> Option<(String, Option<Encoding>)> {
    let line = line.trim_ascii();
    let named = |name: &[u8]| {
        let name = String::from_utf8_lossy(name).trim().trim_matches('"').to_owned();
        (!name.is_empty()).then_some(name)
    };
    if let Some(rest) = line.strip_prefix(b"=ybegin ") {
        let at = memmem::find(rest, b"name=")?;
        return Some((named(&rest[at + 5..])?, None));
    }
    let (rest, encoding) = match line.strip_prefix(b"begin-base64 ") {
        Some(rest) => (rest, Encoding::Base64),
        None => (line.strip_prefix(b"begin ")?, Encoding::Uuencode),
    };
    let rest = rest.trim_ascii_start();
    let mode = rest.iter().take_while(|b| (b'0'..=b'7').contains(b)).count();
    let name = rest.get(mode..).filter(|name| (3..=6).contains(&mode) && name.starts_with(b" "))?;
    Some((named(name)?, Some(encoding)))
}

/// Lines of uuencode, up to their end or to what is none.
fn uuencoded(raw: &[u8], most: usize) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < raw.len() && decoded.len() < most {
        let end = line_end(raw, at);
        let line = &raw[at..before_line_break(raw, end).max(at)];
        at = end;
        // A line that begins it may stand in the part itself.
        if begins(line).is_some() || (decoded.is_empty() && line.trim_ascii().is_empty()) {
            continue;
        }
        let Some((&length, packed)) = line.split_first() else { break };
        let length = usize::from(length.wrapping_sub(b' ') & 0x3f);
        if length == 0 || line.starts_with(b"end") {
            break;
        }
        let value = |at: usize| packed.get(at).map_or(0, |b| u32::from(b.wrapping_sub(b' ') & 0x3f));
        let before = decoded.len();
        for group in (0..packed.len()).step_by(4) {
            let bits = value(group) << 18 | value(group + 1) << 12 | value(group + 2) << 6 | value(group + 3);
            decoded.extend_from_slice(&bits.to_be_bytes()[1..]);
        }
        decoded.truncate((before + length).min(most));
    }
    decoded
}

fn base64(raw: &[u8], most: usize) -> Vec<u8> {
    let mut decoded = Vec::with_capacity((raw.len() / 4 * 3 + 3).min(most));
    let (mut bits, mut count) = (0_u32, 0);
    for &b in raw.iter().take_while(|&&b| b != b'=') {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            if decoded.len() == most {
                break;
            }
            decoded.push((bits >> count & 0xff) as u8);
        }
    }
    decoded
}

fn quoted_printable(raw: &[u8], most: usize) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(raw.len().min(most));
    let mut at = 0;
    while at < raw.len() && decoded.len() < most {
        let after = &raw[at + 1..];
        if raw[at] != b'=' {
            decoded.push(raw[at]);
            at += 1;
        } else if let Some(byte) = after.get(..2).and_then(hex_byte) {
            decoded.push(byte);
            at += 3;
        } else {
            // A soft line break, or nothing that means anything.
            at += if after.starts_with(b"\r\n") { 3 } else { 2 };
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    const PE: [u8; 128] = {
        let mut bytes = [0; 128];
        bytes[0] = b'M';
        bytes[1] = b'Z';
        bytes[0x3c] = 0x80;
        bytes
    };

    fn search(message: &str, kinds: &str) -> Vec<Blocked> {
        let message = message.replace('\n', "\r\n").into_bytes();
        let (end, start) = crate::mime::header_end(&message).unwrap();
        let kinds = kinds.split(' ').map(str::to_owned).collect();
        blocked(&Header::parse(&message[..end]).unwrap(), &message[start..], &kinds).unwrap()
    }

    fn reasons(message: &str) -> Vec<String> {
        search(message, "exe js lnk class").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_in_a_text_is_found() {
        let uuencoded = "begin 644 a.js\n#0V%T\n`\nend\n";
        for text in [
            format!("Ciao\n\n{uuencoded}"),
            format!("Content-Type: text/plain; charset=utf-8\n\nCiao\n{uuencoded}"),
            "\nbegin-base64 755 a.js\nTVo=\n====\n".to_owned(),
            "\n=ybegin line=128 size=9 name=a.js\nxxx\n=yend\n".to_owned(),
            "Content-Transfer-Encoding: base64\n\nYmVnaW4gNjQ0IGEuanMNCiMwViVUDQpgDQplbmQNCg==\n".to_owned(),
        ] {
            let message = if text.starts_with("Ciao") { format!("Subject: x\n\n{text}") } else { text };
            let message = message.trim_start_matches('\n');
            let message = if message.starts_with("begin") || message.starts_with('=') {
                format!("Subject: x\n\n{message}")
            } else {
                message.to_owned()
            };
            assert_eq!(reasons(&message), ["\"a.js\" (.js)"], "{message}");
        }
        for text in ["begin with a.js", "begin 9 a.js", "begin 644", "beginning 644 a.js"] {
            assert_eq!(reasons(&format!("Subject: x\n\n{text}\n")), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn what_uuencode_holds_is_known_by_its_content() {
        // 45 bytes a line, as uuencode writes them.
        let mut text = String::from("Subject: x\n\nbegin 644 foto.jpg\n");
        for line in PE.chunks(45) {
            text.push(char::from(b' ' + u8::try_from(line.len()).unwrap()));
            for group in line.chunks(3) {
                let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
                let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
                for shift in [18, 12, 6, 0] {
                    let value = u8::try_from(bits >> shift & 0x3f).unwrap();
                    text.push(if value == 0 { '`' } else { char::from(b' ' + value) });
                }
            }
            text.push('\n');
        }
        text += "`\nend\n";
        assert_eq!(reasons(&text), ["\"foto.jpg\" (.exe by its content)"]);
    }

    #[test]
    fn a_transfer_encoding_that_is_none_hides_nothing() {
        let base64 = encodify::base64::MIME.encode(&PE[..]);
        for encoding in ["base64;x", "x-uuencode", "base-64", "BASE64,", "unknown"] {
            let message = format!(
                "Content-Type: application/octet-stream\nContent-Transfer-Encoding: {encoding}\n\n{base64}\n"
            );
            assert_eq!(reasons(&message), ["\"(no name)\" (.exe by its content)"], "{encoding}");
        }
    }

    #[test]
    fn what_lies_elsewhere_is_not_carried() {
        for media in ["message/partial; id=x; number=1; total=2", "message/external-body; access-type=URL"] {
            let message = format!("Content-Type: {media}\n\nx\n");
            let found = reasons(&message);
            assert!(found.len() == 1 && found[0].contains("its content is not"), "{found:?}");
        }
    }

    #[test]
    fn a_name_is_read_as_windows_does() {
        for name in
            ["f.js::$DATA", "f.js:$DATA", "f.js:x.txt", "f.js. .", "f.js\u{200b}", "f.js\u{202e}", "a/b.js "]
        {
            assert_eq!(extension(name).as_deref(), Some("js"), "{name:?}");
        }
        for name in ["Re: f.pdf", "ore 10:30.pdf", "f.js.pdf"] {
            assert_eq!(extension(name).as_deref(), Some("pdf"), "{name:?}");
        }
    }

    /// A message that is this attachment.
    fn attached(fields: &str, content: &[u8]) -> String {
        format!(
            "{fields}\nContent-Transfer-Encoding: base64\n\n{}\n",
            encodify::base64::MIME.encode(content).replace("\r\n", "\n")
        )
    }

    /// A zip archive as zip programs write it.
    fn zip(files: &[(&str, &[u8], bool)]) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for (name, content, deflated) in files {
            let packed =
                if *deflated { miniz_oxide::deflate::compress_to_vec(content, 6) } else { content.to_vec() };
            let offset = out.len() as u32;
            let mut common = vec![20, 0, 0, 0, if *deflated { 8 } else { 0 }, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            common.extend((packed.len() as u32).to_le_bytes());
            common.extend((content.len() as u32).to_le_bytes());
            common.extend((name.len() as u16).to_le_bytes());
            common.extend([0, 0]);
            out.extend(b"PK\x03\x04");
            out.extend(&common);
            out.extend(name.as_bytes());
            out.extend(packed);
            directory.extend(b"PK\x01\x02\x14\0");
            directory.extend(common);
            directory.extend([0; 10]);
            directory.extend(offset.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let (count, start) = (files.len() as u16, out.len() as u32);
        out.extend(&directory);
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
        out.extend((directory.len() as u32).to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend([0, 0]);
        out
    }

    #[test]
    fn names_are_found_however_they_are_written() {
        for field in [
            "Content-Type: application/octet-stream; name=a.exe",
            "Content-Disposition: attachment; filename=\"A.EXE\"",
            "Content-Disposition: attachment; filename=\"a.exe. .\"",
            "Content-Disposition: attachment; filename=\"a b;c.exe\"",
            "Content-Disposition: attachment; filename=\"a\\\".exe\"",
            "Content-Disposition: attachment;\n filename=\n\t\"a.exe\"",
            "Content-Disposition: attachment; filename*=utf-8''%e2%82%ac.e%78e",
            "Content-Disposition: attachment; filename*0=a.; filename*1=exe",
            "Content-Disposition: attachment; filename*1*=%65xe; filename*0*=iso-8859-1'it'a.",
            "Content-Disposition: attachment; filename=a.txt; filename*0=b.e; filename*1=xe",
            "Content-Disposition: attachment; filename=\"=?utf-8?Q?a=2Eexe?=\"",
            "Content-Disposition: attachment; filename==?utf-8?B?YS5leGU=?=",
            "Content-Disposition: attachment; filename=\"=?utf-8?Q?a=2Ee?= =?utf-8?Q?xe?=\"",
            "Content-Type: text/plain; name=a.txt\nContent-Disposition: attachment; filename=a.exe",
            "Content-Disposition: attachment; filename=a.txt\nContent-Disposition: attachment; \
            filename=a.exe",
            "Content-Disposition: attachment; filename=C:\\dir\\a.exe",
        ] {
            let found = search(&attached(field, b"x"), "exe");
            assert!(
                matches!(&found[..], [Blocked { why: Why::Name(e), .. }, ..] if e == "exe"),
                "{field}: {found:?}"
            );
        }
        for field in [
            "Content-Type: text/plain; name=exe",
            "Content-Type: text/plain; name=a.exe.txt",
            "Subject: a.exe",
            "Content-Type: a/b; nome=a.exe",
        ] {
            assert_eq!(search(&attached(field, b"x"), "exe"), [], "{field}");
        }
    }

    #[test]
    fn renamed_programs_are_found_by_their_content() {
        assert_eq!(
            reasons(&attached("Content-Type: image/png; name=foto.png", &PE)),
            ["\"foto.png\" (.exe by its content)"]
        );
        assert_eq!(
            reasons(&attached("Content-Type: text/plain", &PE)),
            ["\"(no name)\" (.exe by its content)"]
        );
        assert_eq!(reasons(&attached("Content-Type: a/b; name=a.exe", &PE)), ["\"a.exe\" (.exe)"], "once");
        assert_eq!(
            reasons(
                "Content-Type: text/plain\n\nMZ is how this text begins, and it goes on for more than \
                sixty-four characters.\n"
            ),
            [""; 0]
        );
        assert_eq!(
            search(&attached("Content-Type: a/b; name=a.dat", &PE), "js"),
            [],
            "what is not blocked is not looked for"
        );
        assert_eq!(search(&attached("Content-Type: a/b", b"\xca\xfe\xba\xbe\0\0\0\x34"), "class").len(), 1);
        assert_eq!(search(&attached("Content-Type: a/b", b"\xca\xfe\xba\xbe\0\0\0\x02"), "class").len(), 0);
    }

    #[test]
    fn odd_encodings_are_decoded_as_mail_programs_do() {
        let encoded = attached("Content-Type: a/b; name=x", &PE).replace("AAAA", "A!A*A A");
        assert_eq!(reasons(&encoded), ["\"x\" (.exe by its content)"]);
        let quoted = format!(
            "Content-Type: a/b; name=x\nContent-Transfer-Encoding: Quoted-Printable\n\nM=5A{}",
            "=00=\n".repeat(70)
        );
        assert_eq!(reasons(&quoted), ["\"x\" (.exe by its content)"]);
    }

    #[test]
    fn archives_are_looked_into() {
        let inner =
            zip(&[("doc/leggimi.txt", b"x", true), ("doc/run.JS", b"x", true), ("foto.jpg", &PE, true)]);
        let expected = ["\"d.zip/doc/run.JS\" (.js)", "\"d.zip/foto.jpg\" (.exe by its content)"];
        assert_eq!(reasons(&attached("Content-Type: a/b; name=d.zip", &inner)), expected);
        let renamed = reasons(&attached("Content-Type: a/b; name=d.txt", &inner));
        assert_eq!(renamed, expected.map(|e| e.replace("d.zip", "d.txt")));
        for deflated in [true, false] {
            let outer = zip(&[("dentro.dat", &inner, deflated)]);
            let found = reasons(&attached("Content-Type: a/b; name=d.zip", &outer));
            assert_eq!(found.len(), 2, "{found:?}");
        }
        let behind = [b"junk in front".as_slice(), &inner].concat();
        assert_eq!(reasons(&attached("Content-Type: a/b; name=d.zip", &behind))[0], expected[0]);
    }

    #[test]
    fn an_archive_that_was_cut_has_what_stands_before_its_files() {
        let whole = zip(&[("doc/run.JS", b"x", true), ("foto.jpg", &PE, true), ("testo.txt", b"x", false)]);
        let without_directory = &whole[..memmem::find(&whole, ZippedFile::SIGNATURE).unwrap()];
        let expected = ["\"d.z01/doc/run.JS\" (.js)", "\"d.z01/foto.jpg\" (.exe by its content)"];
        assert_eq!(reasons(&attached("Content-Type: a/b; name=d.z01", without_directory)), expected);
        let outer = zip(&[("dentro.zip", without_directory, true)]);
        assert_eq!(reasons(&attached("Content-Type: a/b; name=d.zip", &outer)).len(), 2);
    }

    #[test]
    fn a_file_that_the_directory_of_an_archive_does_not_name_is_found() {
        let (hidden, shown) = (zip(&[("run.JS", b"x", true)]), zip(&[("testo.txt", b"x", true)]));
        let local = &hidden[..memmem::find(&hidden, ZippedFile::SIGNATURE).unwrap()];
        assert_eq!(
            reasons(&attached("Content-Type: a/b; name=d.zip", &[local, &shown].concat())),
            ["\"d.zip/run.JS\" (.js)"]
        );
    }

    #[test]
    fn an_encrypted_archive_shows_its_names() {
        let mut archive = zip(&[("a.exe", &PE, false), ("b.txt", &PE, false)]);
        for at in memmem::find_iter(&archive.clone(), ZippedFile::SIGNATURE) {
            archive[at + 8] |= 1;
        }
        for at in memmem::find_iter(&archive.clone(), ZippedFile::LOCAL_SIGNATURE) {
            archive[at + 6] |= 1;
        }
        assert_eq!(reasons(&attached("Content-Type: a/b; name=d.zip", &archive)), ["\"d.zip/a.exe\" (.exe)"]);
    }

    #[test]
    fn attached_messages_are_looked_into() {
        let inner = attached("Content-Type: a/b; name=a.exe", b"x");
        let plain = format!("Content-Type: message/rfc822\n\n{inner}");
        assert_eq!(reasons(&plain), ["\"a.exe\" (.exe)"]);
        let inner = inner.replace('\n', "\r\n");
        assert_eq!(
            reasons(&attached("Content-Type: message/rfc822", inner.as_bytes())),
            ["\"a.exe\" (.exe)"]
        );
        assert_eq!(
            reasons(&attached("Content-Type: application/octet-stream; name=m.eml", inner.as_bytes())),
            ["\"a.exe\" (.exe)"]
        );
    }

    #[test]
    fn bombs_are_not_carried_and_take_no_time() {
        let zeros = zip(&[("zeros", &vec![0; MOST_UNPACKED + 1], true)]);
        assert_eq!(
            reasons(&attached("Content-Type: a/b; name=d.zip", &zeros)),
            [""; 0],
            "nothing in it that is to be unpacked"
        );
        let bomb = zip(&[("b.zip", &vec![0; 2 * MOST_UNPACKED], true)]);
        assert_eq!(
            reasons(&attached("Content-Type: a/b; name=d.zip", &bomb)),
            ["\"d.zip/b.zip\" (packed too deep or too large to be examined)"]
        );
        let mut deep = zip(&[("a.txt", b"x", true)]);
        for _ in 0..=DEEPEST_ARCHIVE {
            deep = zip(&[("d.zip", &deep, true)]);
        }
        assert!(matches!(
            &search(&attached("Content-Type: a/b; name=d.zip", &deep), "exe")[..],
            [Blocked { why: Why::Endless, .. }]
        ));
        let many = zip(&vec![("a", b"".as_slice(), false); MOST_FILES + 1]);
        assert!(matches!(
            &search(&attached("Content-Type: a/b; name=d.zip", &many), "exe")[..],
            [Blocked { why: Why::Endless, .. }]
        ));
    }

    #[test]
    fn an_archive_that_holds_itself_has_an_end() {
        // Every record leads to a file that is the archive from its beginning on, as it stands.
        let mut archive = zip(&vec![("a.zip", b"PK\x03\x04".as_slice(), false); 500]);
        let length = archive.len() as u32;
        for at in memmem::find_iter(&archive.clone(), b"PK\x01\x02") {
            archive[at + 20..at + 24].copy_from_slice(&length.to_le_bytes());
            archive[at + 42..at + 46].copy_from_slice(&[0; 4]);
        }
        let found = search(&attached("Content-Type: a/b; name=d.zip", &archive), "exe");
        assert!(found.iter().all(|b| b.why == Why::Endless) && !found.is_empty(), "{found:?}");
    }

    #[test]
    fn broken_archives_are_no_panic() {
        let archive = zip(&[("a.txt", &PE, true), ("b.txt", b"x", false)]);
        for at in 0..archive.len() {
            let mut broken = archive.clone();
            broken[at] = broken[at].wrapping_add(0x7f);
            search(&attached("Content-Type: a/b; name=d.zip", &broken), "js");
            search(&attached("Content-Type: a/b; name=d.zip", &archive[..at]), "js");
        }
    }
}
