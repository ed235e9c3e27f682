//! What can be checked without the database: the days' files, their signatures and timestamps, signed
//! checkpoints, the log key.
//!
//! Promise: a day's file is good if its lines are those of which the tree was made that its checkpoint names,
//! if it goes on from the day before, if the provider's certificate has signed it, and the timestamp is over
//! that signature. What is not so is named by file and line. Where the tree's tiles are at hand, the first
//! line that is wrong, missing, inserted or moved is named; the files alone say only that one is.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use openssl::sha::Sha256;
use pec_core::clock::Moment;
use pec_core::identifier::hex;
use pec_core::notices::service_address;
use pec_core::smime::signing_time::signed_at;
use pec_core::smime::verify::TrustedCas;
use pec_host::parameters::Witness;
use tlog_tiles::Hash;

use crate::attest::{attested, log_keys};
use crate::checkpoint::Checkpoint;
use crate::days::{self, END, FORMAT, Header, LostLine};
use crate::error::RegisterError;
use crate::prover::{named, signature_of, timestamp_of};
use crate::row::{Row, entry, leaf};
use crate::tree::{Edge, Tiles, WIDTH};
use crate::tsa::{Timestamp, TsaCas};
use crate::verify;
use crate::witness::witnessed;

/// A timestamp that is later than this after what it is about is named as a gap, in seconds.
const LATE: i64 = 86_400;

/// A line is never longer: an original has a thousand recipients at most.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Who is believed.
pub struct Trust<'a> {
    /// Those who may vouch for the provider's certificate.
    pub cas: &'a TrustedCas,
    /// Those who may vouch for the TSA's. Without them timestamps are not looked at.
    pub tsa: Option<&'a TsaCas>,
    /// The log's public keys; checkpoints in files must be signed by one of them, if there is one.
    pub log_keys: &'a [String],
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which file.
    pub file: PathBuf,
    /// In which line, counted from 1, the header's.
    pub line: Option<u64>,
    /// What.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}: {}", self.file.display(), self.what),
            None => write!(f, "{}: {}", self.file.display(), self.what),
        }
    }
}

/// A day's file that was looked at.
#[derive(Debug, Clone)]
pub struct Day {
    /// `YYYY-MM-DD`.
    pub day: String,
    /// Rows in it.
    pub rows: u64,
    /// Leaves whose rows are lost.
    pub lost: u64,
    /// What the timestamp says, if there is a good one.
    pub timestamp: Option<Timestamp>,
}

/// What a verification of files has found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The days, in order.
    pub days: Vec<Day>,
    /// What is wrong, the first of each file.
    pub faults: Vec<Fault>,
    /// What is not proved by a timestamp, or late.
    pub gaps: Vec<Fault>,
}

/// Checks days' files, in whatever order they are given. `tiles`: the tree, to name lines by.
pub fn verify_files(files: &[PathBuf], trust: &Trust<'_>, tiles: Option<&Tiles>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut known = Vec::new();
    for file in files {
        match header(file) {
            Ok(header) => known.push((header.day.clone(), file)),
            Err(fault) => outcome.faults.push(fault),
        }
    }
    known.sort();
    let mut before: Option<Read> = None;
    for (_, file) in known {
        let read = match read(file, trust, tiles) {
            Ok(read) => read,
            Err(fault) => {
                outcome.faults.push(fault);
                before = None;
                continue;
            }
        };
        let day_over = end_of(&read.header.day);
        let timestamp =
            proofs_of(file, &read.header.register, day_over, trust, &mut outcome.faults, &mut outcome.gaps);
        outcome.faults.extend(read.faults.iter().cloned());
        if let Some(before) = &before
            && let Some(what) = breaks_chain(before, &read.header)
        {
            outcome.faults.push(Fault { file: file.clone(), line: Some(1), what });
        }
        outcome.days.push(Day { day: read.header.day.clone(), rows: read.rows, lost: read.lost, timestamp });
        before = Some(read);
    }
    outcome
}

/// A file that could be read.
struct Read {
    header: Header,
    sha256: String,
    rows: u64,
    lost: u64,
    edge: Edge,
    faults: Vec<Fault>,
}

fn header(file: &Path) -> Result<Header, Fault> {
    let (mut lines, fault) =
        (open(file)?, |what: String| Fault { file: file.to_owned(), line: Some(1), what });
    let mut line = String::new();
    (&mut lines).take(LONGEST).read_line(&mut line).map_err(|e| fault(format!("cannot be read: {e}")))?;
    let header: Header =
        serde_json::from_str(&line).map_err(|e| fault(format!("is no header of a day's file: {e}")))?;
    if header.format != FORMAT {
        return Err(fault(format!("is of another format: {}", header.format)));
    }
    Ok(header)
}

fn open(file: &Path) -> Result<BufReader<GzDecoder<BufReader<File>>>, Fault> {
    let opened =
        File::open(file).map_err(|e| Fault { file: file.to_owned(), line: None, what: e.to_string() })?;
    Ok(BufReader::new(GzDecoder::new(BufReader::new(opened))))
}

/// Reads a file as it is: its header, the SHA-256 of its lines. `each` hears every line after the first, with
/// its entry of the tree.
pub(crate) fn each_line(
    file: &Path,
    mut each: impl FnMut(&str, &[u8; 32]),
) -> Result<(Header, [u8; 32]), Fault> {
    let header = header(file)?;
    let (mut hash, mut lines, mut text, mut number) = (Sha256::new(), open(file)?, String::new(), 0);
    loop {
        text.clear();
        number += 1;
        let fault = |e: std::io::Error| Fault {
            file: file.to_owned(),
            line: Some(number),
            what: format!("cannot be read: {e}"),
        };
        if (&mut lines).take(LONGEST).read_line(&mut text).map_err(fault)? == 0 {
            return Ok((header, hash.finish()));
        }
        hash.update(text.as_bytes());
        if number > 1 {
            let line = text.trim_end_matches('\n');
            let lost = serde_json::from_str::<LostLine>(line).ok().and_then(|lost| from_hex(&lost.entry));
            each(line, &lost.unwrap_or_else(|| entry(line)));
        }
    }
}

/// Reads a file whose header can be read.
fn read(file: &Path, trust: &Trust<'_>, tiles: Option<&Tiles>) -> Result<Read, Fault> {
    let header = header(file)?;
    let fault = |line: Option<u64>, what: String| Fault { file: file.to_owned(), line, what };
    let mut faults = Vec::new();
    let checkpoint = match opened(&header.checkpoint, trust) {
        Ok(checkpoint) => Some(checkpoint),
        Err(why) => {
            faults.push(fault(Some(1), format!("its checkpoint {why}")));
            None
        }
    };
    if let Some(checkpoint) = &checkpoint
        && (checkpoint.size, &checkpoint.origin) != (header.size, &header.register)
    {
        faults.push(fault(
            Some(1),
            format!(
                "its checkpoint is of {} rows of {}, the header of {} of {}",
                checkpoint.size, checkpoint.origin, header.size, header.register
            ),
        ));
    }
    let hashes: Option<Vec<Hash>> = header.edge.iter().map(|hash| Some(Hash(from_hex(hash)?))).collect();
    let Some(mut edge) = hashes.and_then(|hashes| Edge::of(header.first_leaf, &hashes)) else {
        return Err(fault(Some(1), "its edge is none of a tree of first_leaf leaves".to_owned()));
    };
    let mut expected = checkpoint.as_ref().and_then(|checkpoint| Expected::of(tiles?, &header, checkpoint));
    let mut named_line = false;
    let (mut hash, mut lines, mut text) = (Sha256::new(), open(file)?, String::new());
    let (mut number, mut rows, mut lost) = (0, 0, 0);
    loop {
        text.clear();
        let length = (&mut lines)
            .take(LONGEST)
            .read_line(&mut text)
            .map_err(|e| fault(Some(number + 1), format!("cannot be read: {e}")))?;
        if length == 0 {
            break;
        }
        number += 1;
        hash.update(text.as_bytes());
        let Some(line) = text.strip_suffix('\n') else {
            faults.push(fault(Some(number), "the file is cut off here".to_owned()));
            break;
        };
        if number == 1 {
            continue;
        }
        let at = header.first_leaf + number - 2;
        let its_entry = match Row::from_line(line) {
            Ok(row) => {
                rows += 1;
                if row.recorded_at.get(..10).is_none_or(|day| day > header.day.as_str()) && !named_line {
                    named_line = true;
                    faults.push(fault(Some(number), format!("row {} is of a later day", row.seq)));
                }
                entry(line)
            }
            Err(e) => {
                match serde_json::from_str::<LostLine>(line).ok().and_then(|lost| from_hex(&lost.entry)) {
                    Some(entry) if header.lost.iter().any(|(first, end)| (*first..*end).contains(&at)) => {
                        lost += 1;
                        entry
                    }
                    _ => {
                        if !named_line {
                            named_line = true;
                            faults.push(fault(Some(number), e.to_string()));
                        }
                        entry(line)
                    }
                }
            }
        };
        if let Some(expected) = &mut expected {
            expected.line(its_entry);
        }
        edge.push(leaf(&its_entry));
    }
    let root = checkpoint.as_ref().map(|checkpoint| checkpoint.root);
    if root.is_some_and(|root| edge.size() != header.size || edge.root() != root) {
        match expected.and_then(Expected::first_wrong) {
            Some((leaf, what)) => faults.insert(0, fault(Some(leaf - header.first_leaf + 2), what)),
            None if edge.size() != header.size => {
                faults.push(fault(
                    None,
                    format!(
                        "has {} leaves, its header says {}",
                        edge.size().saturating_sub(header.first_leaf),
                        header.size.saturating_sub(header.first_leaf)
                    ),
                ));
            }
            None if !named_line => faults.push(fault(
                None,
                "its rows do not give the root of its checkpoint: one of them is not what was sealed"
                    .to_owned(),
            )),
            None => {}
        }
    }
    Ok(Read { header, sha256: hex(&hash.finish()), rows, lost, edge, faults })
}

/// The checkpoint, if one of the log's keys has signed it, or none is known.
fn opened(text: &str, trust: &Trust<'_>) -> Result<Checkpoint, String> {
    let mut why = None;
    for key in trust.log_keys {
        match Checkpoint::open(text, key) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(e) => why = Some(e.to_string()),
        }
    }
    match why {
        Some(why) => Err(why),
        None => Checkpoint::read(text).map_err(|e| e.to_string()),
    }
}

/// Why a header does not go on from the file before, if it does not.
fn breaks_chain(before: &Read, header: &Header) -> Option<String> {
    let name = &before.header.day;
    if before.header.register != header.register {
        return Some(format!(
            "is of the register {}, the day before of {}",
            header.register, before.header.register
        ));
    }
    if header.day == *name {
        return Some(format!("is of the same day as another file, {name}"));
    }
    let next =
        name.parse::<jiff::civil::Date>().ok().and_then(|day| day.tomorrow().ok()).map(|day| day.to_string());
    if next.as_deref() != Some(header.day.as_str()) {
        return Some(format!("the file of {} is missing before it", next.unwrap_or_default()));
    }
    match &header.previous {
        Some(previous) if previous.day == *name && previous.sha256 == before.sha256 => {}
        Some(previous) => {
            return Some(format!(
                "names {} with SHA-256 {} as the day before; the file of {name} has {}",
                previous.day, previous.sha256, before.sha256
            ));
        }
        None => return Some(format!("names no day before it; there is the file of {name}")),
    }
    let goes_on = header.first_leaf == before.header.size
        && before.edge.hashes().map(|hash| hex(&hash.0)).eq(header.edge.iter().cloned());
    (!goes_on).then(|| format!("does not begin with the tree with which {name} ends"))
}

/// The entries that the tree has for a day, against the lines of its file.
struct Expected {
    first: u64,
    entries: Vec<[u8; 32]>,
    lines: Vec<[u8; 32]>,
}

impl Expected {
    /// From the tiles, if they are those of the checkpoint.
    fn of(tiles: &Tiles, header: &Header, checkpoint: &Checkpoint) -> Option<Self> {
        if checkpoint.size != header.size || header.first_leaf > header.size {
            return None;
        }
        let mut edge = tiles.edge(header.first_leaf).ok()?;
        let mut entries = Vec::new();
        for n in header.first_leaf / WIDTH..header.size.div_ceil(WIDTH) {
            let skipped = usize::try_from(header.first_leaf.saturating_sub(n * WIDTH)).ok()?;
            entries.extend(tiles.entries(n, header.size).ok()?.into_iter().skip(skipped));
        }
        entries.iter().for_each(|entry| edge.push(leaf(entry)));
        (edge.size() == header.size && edge.root() == checkpoint.root).then(|| Self {
            first: header.first_leaf,
            entries,
            lines: Vec::new(),
        })
    }

    fn line(&mut self, entry: [u8; 32]) {
        self.lines.push(entry);
    }

    /// The first leaf where the lines are others than the tree has them, and in what way.
    fn first_wrong(self) -> Option<(u64, String)> {
        let at = (0..self.entries.len().max(self.lines.len()))
            .find(|at| self.entries.get(*at) != self.lines.get(*at))?;
        let known: HashSet<&[u8; 32]> = self.entries.iter().collect();
        let there: HashSet<&[u8; 32]> = self.lines.iter().collect();
        let (entry, line) = (self.entries.get(at), self.lines.get(at));
        let is_gone = entry.is_some_and(|entry| !there.contains(entry));
        let is_strange = line.is_some_and(|line| !known.contains(line));
        let leaf = self.first + u64::try_from(at).ok()?;
        let what = match (is_gone, is_strange) {
            (true, true) => "the row was changed",
            (true, false) => "a row is missing here",
            (false, true) => "the row was inserted",
            (false, false) if self.lines.len() > self.entries.len() => "the row is there twice",
            (false, false) => "the row was moved",
        };
        Some((leaf, format!("{what} (leaf {leaf})")))
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let bytes: Option<Vec<u8>> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect();
    bytes.filter(|_| text.len() == 64)?.try_into().ok()
}

/// The first moment after a day; far away if it is none.
fn end_of(day: &str) -> Moment {
    let end = day
        .parse::<jiff::civil::Date>()
        .ok()
        .and_then(|day| day.tomorrow().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok());
    Moment::from_unix(end.map_or(i64::MAX, |end| end.timestamp().as_second()))
}

/// Checks the signature and the timestamp of a file of this register, which is about something of `of`.
fn proofs_of(
    file: &Path,
    register: &str,
    of: Moment,
    trust: &Trust<'_>,
    faults: &mut Vec<Fault>,
    gaps: &mut Vec<Fault>,
) -> Option<Timestamp> {
    let fault = |what: String| Fault { file: file.to_owned(), line: None, what };
    let signature = match fs::read(signature_of(file)) {
        Ok(signature) => signature,
        Err(e) => {
            faults.push(fault(format!("has no signature: {}: {e}", signature_of(file).display())));
            return None;
        }
    };
    let timestamp = match (trust.tsa, fs::read(timestamp_of(file))) {
        (None, _) => None,
        (Some(_), Err(e)) => {
            gaps.push(fault(format!("has no timestamp: {}: {e}", timestamp_of(file).display())));
            None
        }
        (Some(tsa), Ok(response)) => match tsa.verify(&signature, &response) {
            Ok(timestamp) => Some(timestamp),
            Err(e) => {
                faults.push(fault(e.to_string()));
                None
            }
        },
    };
    if let Some(timestamp) = &timestamp
        && timestamp.at.unix().saturating_sub(of.unix()) > LATE
    {
        gaps.push(fault(format!("was timestamped late, at {}", timestamp.at)));
    }
    let at = timestamp.as_ref().map(|timestamp| timestamp.at).or_else(|| signed_at(&signature));
    let content = match fs::read(file) {
        Ok(content) => content,
        Err(e) => {
            faults.push(fault(e.to_string()));
            return None;
        }
    };
    match trust.cas.signed_by(&content, &signature, at.unwrap_or(of)) {
        Ok(signed_by) => {
            let address = service_address(register.split('/').next().unwrap_or_default());
            if !signed_by.addresses.contains(&address) {
                faults.push(fault(format!(
                    "is signed by {}, not by {address}",
                    signed_by.addresses.join(", ")
                )));
            }
        }
        Err(e) => faults.push(fault(e.to_string())),
    }
    timestamp
}

/// What lies in `pec_register` besides the tree and proves it.
#[derive(Debug, Default)]
pub struct Proofs {
    /// The log's public keys that the provider has signed.
    pub keys: Vec<String>,
    /// Checkpoints that must be of the register's history: signed ones, those of the days, those that
    /// witnesses have.
    pub checkpoints: Vec<verify::Witnessed>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// What is not proved by a timestamp, or late.
    pub gaps: Vec<Fault>,
}

/// Checks all of it but the contents of the days' files, of which [`verify_files`] checks those it is given.
/// `trust.log_keys` are believed besides those that the provider has signed.
pub fn proofs(
    register: &Path,
    origin: &str,
    trust: &Trust<'_>,
    witnesses: &[Witness],
) -> Result<Proofs, RegisterError> {
    let mut proofs = Proofs { keys: trust.log_keys.to_vec(), ..Proofs::default() };
    for (file, key) in log_keys(register)? {
        let faults = proofs.faults.len();
        let of = fs::read(signature_of(&file))
            .ok()
            .and_then(|signature| signed_at(&signature))
            .unwrap_or(Moment::from_unix(i64::MAX));
        proofs_of(&file, origin, of, trust, &mut proofs.faults, &mut proofs.gaps);
        if proofs.faults.len() == faults && !proofs.keys.contains(&key) {
            proofs.keys.push(key);
        }
    }
    if proofs.keys.is_empty() {
        let what =
            "is no log key that the provider has signed: whose the checkpoints are is not known".to_owned();
        proofs.gaps.push(Fault { file: register.join("log.key"), line: None, what });
    }
    let keys = proofs.keys.clone();
    let trust = Trust { log_keys: &keys, ..*trust };
    let took = |proofs: &mut Proofs, file: &Path, text: &str, name: String| match opened(text, &trust) {
        Ok(checkpoint) if checkpoint.origin == origin => {
            proofs.checkpoints.push(verify::Witnessed { name, checkpoint })
        }
        Ok(checkpoint) => proofs.faults.push(Fault {
            file: file.to_owned(),
            line: None,
            what: format!("is of the register {}", checkpoint.origin),
        }),
        Err(what) => proofs.faults.push(Fault { file: file.to_owned(), line: None, what }),
    };
    for (_, file) in attested(register)? {
        let text = fs::read_to_string(&file).map_err(RegisterError::file(&file))?;
        let of = Checkpoint::read(&text)
            .ok()
            .and_then(|checkpoint| checkpoint.time)
            .unwrap_or(Moment::from_unix(i64::MAX));
        let timestamp = proofs_of(&file, origin, of, &trust, &mut proofs.faults, &mut proofs.gaps);
        let when = timestamp.map_or_else(String::new, |timestamp| {
            format!(" (timestamped at {} by {})", timestamp.at, timestamp.by)
        });
        took(&mut proofs, &file, &text, format!("{}{when}", file.display()));
    }
    for file in named(&days::directory(register), END)? {
        match header(&file) {
            Ok(header) => took(&mut proofs, &file, &header.checkpoint, file.display().to_string()),
            Err(fault) => proofs.faults.push(fault),
        }
        let missing = |of: &Path| {
            (!of.exists()).then(|| Fault {
                file: file.clone(),
                line: None,
                what: format!("lacks {}", of.display()),
            })
        };
        proofs.gaps.extend(missing(&signature_of(&file)));
        proofs.gaps.extend(trust.tsa.and_then(|_| missing(&timestamp_of(&file))));
    }
    for witnessed in witnessed(register, witnesses)? {
        match witnessed {
            Ok(witnessed) => {
                let text =
                    fs::read_to_string(&witnessed.file).map_err(RegisterError::file(&witnessed.file))?;
                took(
                    &mut proofs,
                    &witnessed.file,
                    &text,
                    format!("{} (cosigned by {})", witnessed.file.display(), witnessed.witness),
                );
            }
            Err(e) => {
                proofs.faults.push(Fault { file: register.join("witness"), line: None, what: e.to_string() })
            }
        }
    }
    Ok(proofs)
}
