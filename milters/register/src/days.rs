//! The daily files (RFC 6109 s. 2.3: the log is saved and timestamped at least every 24 hours):
//! `days/YYYY-MM-DD.jsonl.gz`.
//!
//! Promise: each day (00 to 24 UTC) from the register's first to yesterday has its file, also one on which
//! nothing happened. Its first line, the [`Header`], names the day before and its hash, and has what is
//! needed to compute the root of the tree from the lines alone; every other line is a leaf, in order: a row
//! ([`crate::row`]), or, where a restored backup lost the row, `{"entry":"..."}`. A file is signed and
//! timestamped ([`crate::prover`]).
//!
//! A day is closed when it has been over for ten minutes and none of its rows waits to be sealed. The order
//! in which it is, whatever dies in between:
//! 1. The lines are written to `DAY.jsonl.gz.new`. Their leaves must give the root of the day's last seal; a
//!    day whose rows are others has no file. Nobody has seen it yet.
//! 2. The day is inserted into `day_file` with the hash of its lines. This commit is the decision: there is
//!    one row for a day, and from now on the database takes no seal of that day or an earlier one (a row that
//!    comes later goes into a later file), as before it took no `day_file` of a day that seals had since gone
//!    on with.
//! 3. The file gets its name.
//! 4. The signature, and 5. the timestamp, each in a file of its own.
//!
//! A crash before 2 leaves nothing that counts. After it the day is written again from the same rows, and
//! must come out with the same hash; lines and compressed bytes have nothing in them that depends on when
//! they are written. 4 and 5 are made up by themselves. The file of a day whose rows have left the database
//! (`retired`) cannot be made again, and is asked for.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use openssl::sha::Sha256;
use pec_core::clock::Moment;
use pec_core::identifier::hex;
use pec_host::files::{Draft, beside, make_directory};
use serde::{Deserialize, Serialize};
use tlog_tiles::Hash;
use tokio_postgres::Client;

use crate::error::RegisterError;
use crate::prover::{Prover, named};
use crate::ranges::Ranges;
use crate::row::{entry, leaf};
use crate::rows::{each_row, numbered};
use crate::sealer::{Seal, last_seal, seals};
use crate::tree::{EMPTY, Edge, Tiles, WIDTH};

/// How long a day must be over, in seconds: what was under way at its end is sealed by then.
const OVER_FOR: i64 = 600;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// What the header's `format` is.
pub const FORMAT: &str = "pec-register-day/1";

/// How a day's file is called after its date.
pub const END: &str = ".jsonl.gz";

/// Rows that are asked for at once, more or less.
const BATCH: u64 = 20_000;

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// Whose register.
    pub register: String,
    /// The day, `YYYY-MM-DD`.
    pub day: String,
    /// The file before; none before the first.
    pub previous: Option<Previous>,
    /// The number of the first line's leaf: how large the tree was.
    pub first_leaf: u64,
    /// How large it is after the last line.
    pub size: u64,
    /// The hashes (hexadecimal) of the whole subtrees of the tree before, from left to right.
    pub edge: Vec<String>,
    /// Leaves whose rows are lost: the first, and the one after the last, of each gap.
    pub lost: Vec<(u64, u64)>,
    /// The checkpoint of the tree after the last line.
    pub checkpoint: String,
}

/// How the day before is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// `YYYY-MM-DD`.
    pub day: String,
    /// SHA-256 (hexadecimal) of its lines, uncompressed, the header among them.
    pub sha256: String,
}

/// A line whose row is lost.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostLine {
    /// The entry of the tree (hexadecimal): the SHA-256 of the row's line.
    pub entry: String,
}

/// A day that was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// `YYYY-MM-DD`.
    pub day: String,
    /// How many rows.
    pub rows: u64,
    /// SHA-256 of its lines, hexadecimal.
    pub sha256: String,
}

/// Where the files lie.
pub fn directory(register: &Path) -> PathBuf {
    register.join("days")
}

/// The file of a day (`YYYY-MM-DD`).
pub fn file_of(register: &Path, day: &str) -> PathBuf {
    directory(register).join(format!("{day}{END}"))
}

/// `YYYY-MM-DD`, of a number of days since 1970-01-01.
pub fn date(day: i64) -> String {
    jiff::civil::date(1970, 1, 1)
        .saturating_add(jiff::Span::new().try_days(day).unwrap_or_default())
        .to_string()
}

/// Closes the first day that is not closed and can be; called again it may find another. `origin` is the
/// register's name.
pub async fn close_next(
    client: &Client,
    tiles: &Tiles,
    origin: &str,
    now: Moment,
) -> Result<Option<Closed>, RegisterError> {
    let Some(last) = last_seal(client).await? else { return Ok(None) };
    let next = "
        SELECT coalesce((SELECT max(day) + 1 FROM day_file), (SELECT min(day) FROM seal))
               - date '1970-01-01'";
    let Some(day) = client.query_one(next, &[]).await?.get::<_, Option<i32>>(0) else { return Ok(None) };
    let end = (i64::from(day) + 1) * DAY;
    if now.unix() < end + OVER_FOR || is_awaited(client, &last, end).await? {
        return Ok(None);
    }
    let closing = Closing::of(client, tiles, origin, day).await?;
    let file = file_of(tiles.directory(), &closing.header.day);
    let (new, sha256) = closing.write(client, tiles, &file).await?;
    let sql = "
        INSERT INTO day_file (day, first_leaf, size, sha256, made_at)
        VALUES (date '1970-01-01' + $1::int4, $2, $3, $4, to_timestamp($5::int8))";
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    client
        .execute(
            sql,
            &[
                &day,
                &number(closing.header.first_leaf),
                &number(closing.header.size),
                &&sha256[..],
                &now.unix(),
            ],
        )
        .await?;
    new.publish().map_err(RegisterError::file(&file))?;
    let rows = closing.seals.iter().filter(|seal| !seal.lost).map(|seal| seal.size - seal.first).sum();
    Ok(Some(Closed { day: closing.header.day, rows, sha256: hex(&sha256) }))
}

/// Writes again the files of closed days that are not here: after a crash, or on a host that seals now in
/// place of another.
pub async fn restore(client: &Client, tiles: &Tiles, origin: &str) -> Result<(), RegisterError> {
    let days = client.query("SELECT day - date '1970-01-01', sha256 FROM day_file ORDER BY day", &[]).await?;
    for row in days {
        let (day, known): (i32, Vec<u8>) = (row.get(0), row.get(1));
        let name = date(i64::from(day));
        let file = file_of(tiles.directory(), &name);
        if file.exists() {
            continue;
        }
        let is_retired = "
            SELECT EXISTS (
                SELECT FROM retired
                WHERE month = date_trunc('month', date '1970-01-01' + $1::int4)::date)";
        if client.query_one(is_retired, &[&day]).await?.get(0) {
            return Err(RegisterError::DayRetired(name));
        }
        let (new, sha256) =
            Closing::of(client, tiles, origin, day).await?.write(client, tiles, &file).await?;
        if known != sha256 {
            return Err(RegisterError::DayDiffers(name));
        }
        new.publish().map_err(RegisterError::file(&file))?;
    }
    Ok(())
}

/// Signs and timestamps what is not yet, the oldest first.
pub fn complete(register: &Path, prover: &Prover<'_>) -> Result<(), RegisterError> {
    prover.complete_all(&named(&directory(register), END)?)
}

/// Whether a row that came in before `end` is not sealed yet.
async fn is_awaited(client: &Client, last: &Seal, end: i64) -> Result<bool, RegisterError> {
    let before = format!("log.recorded_at < to_timestamp({end})");
    let newer = format!("SELECT EXISTS (SELECT FROM log WHERE log.seq > {} AND {before})", last.high);
    if client.query_one(&newer, &[]).await?.get(0) {
        return Ok(true);
    }
    if last.gaps.is_empty() {
        return Ok(false);
    }
    let late = format!(
        "SELECT EXISTS (
            SELECT FROM log
            WHERE log.seq <@ '{}'::int8multirange AND log.seq <= {} AND {before})",
        last.gaps, last.high
    );
    Ok(client.query_one(&late, &[]).await?.get(0))
}

/// What goes into a day's file.
struct Closing {
    header: Header,
    seals: Vec<Seal>,
    edge: Edge,
    root: Hash,
}

impl Closing {
    async fn of(client: &Client, tiles: &Tiles, origin: &str, day: i32) -> Result<Self, RegisterError> {
        let name = date(i64::from(day));
        let before = |day: i32| {
            format!("number = (SELECT max(number) FROM seal WHERE day < date '1970-01-01' + {day})")
        };
        let earlier = seals(client, &before(day)).await?.pop();
        let seals = seals(client, &format!("day = date '1970-01-01' + {day}")).await?;
        let (first_leaf, root_before) = earlier.as_ref().map_or((0, EMPTY), |seal| (seal.size, seal.root));
        // The seals of the first day, at least, are there.
        let Some(last) = seals.last().or(earlier.as_ref()) else {
            return Err(RegisterError::DayAltered(name));
        };
        let edge = tiles.edge(first_leaf)?;
        if edge.root() != root_before {
            return Err(RegisterError::Tiles(tiles.directory().display().to_string()));
        }
        let previous = client
            .query_opt("SELECT sha256 FROM day_file WHERE day = date '1970-01-01' + $1::int4", &[&(day - 1)])
            .await?;
        let header = Header {
            format: FORMAT.to_owned(),
            register: origin.to_owned(),
            previous: previous.map(|row| Previous { day: date(i64::from(day) - 1), sha256: hex(row.get(0)) }),
            day: name,
            first_leaf,
            size: last.size,
            edge: edge.hashes().map(|hash| hex(&hash.0)).collect(),
            lost: seals.iter().filter(|seal| seal.lost).map(|seal| (seal.first, seal.size)).collect(),
            checkpoint: last.checkpoint.clone(),
        };
        let root = last.root;
        Ok(Self { header, seals, edge, root })
    }

    /// Writes the lines for `file`, which waits for its name then; with their hash.
    async fn write(
        &self,
        client: &Client,
        tiles: &Tiles,
        file: &Path,
    ) -> Result<(Draft, [u8; 32]), RegisterError> {
        let altered = || RegisterError::DayAltered(self.header.day.clone());
        let new = beside(file, "new");
        let error = RegisterError::file(&new);
        // Who wrote to whom is nobody's business who may read the tree.
        make_directory(&directory(tiles.directory()), 0o700).map_err(&error)?;
        let mut lines = Lines::new(Draft::of(file).map_err(&error)?, self.edge.clone());
        lines.line(&serde_json::to_string(&self.header).map_err(|e| error(e.into()))?).map_err(&error)?;
        let mut together = Ranges::default();
        let mut expected = self.header.first_leaf;
        for seal in &self.seals {
            if seal.first != expected {
                return Err(altered());
            }
            // Rows of several seals are asked for at once, as long as their numbers go on as the leaves do.
            let goes_on = seal
                .seqs
                .iter()
                .next()
                .is_some_and(|(first, _)| together.iter().last().is_some_and(|(_, end)| first >= end));
            if seal.lost || !goes_on || together.count() >= BATCH {
                write_rows(client, &together, &mut lines).await?.map_err(&error)?;
                together = Ranges::default();
            }
            if seal.lost {
                write_lost(tiles, seal, &mut lines)?.map_err(&error)?;
            } else {
                together = together.with(&seal.seqs);
            }
            expected = seal.size;
        }
        write_rows(client, &together, &mut lines).await?.map_err(&error)?;
        if lines.edge.size() != self.header.size || lines.edge.root() != self.root {
            return Err(altered());
        }
        lines.finish().map_err(error)
    }
}

async fn write_rows(
    client: &Client,
    seqs: &Ranges,
    lines: &mut Lines,
) -> Result<io::Result<()>, RegisterError> {
    let mut written = Ok(());
    if !seqs.is_empty() {
        each_row(client, &numbered(seqs), |row| {
            if written.is_ok() {
                written = lines.leaf(row.line, &entry(row.line));
            }
        })
        .await?;
    }
    Ok(written)
}

fn write_lost(tiles: &Tiles, seal: &Seal, lines: &mut Lines) -> Result<io::Result<()>, RegisterError> {
    for leaf in seal.first..seal.size {
        // The bundle is small, and lost rows are few.
        let entries = tiles.entries(leaf / WIDTH, seal.size)?;
        let place = usize::try_from(leaf % WIDTH).unwrap_or(0);
        let Some(entry) = entries.get(place) else {
            return Err(RegisterError::Tiles(tiles.directory().display().to_string()));
        };
        let line = serde_json::to_string(&LostLine { entry: hex(entry) });
        let written = line.map_err(io::Error::from).and_then(|line| lines.leaf(&line, entry));
        if written.is_err() {
            return Ok(written);
        }
    }
    Ok(Ok(()))
}

/// Lines on their way into the file.
struct Lines {
    out: GzEncoder<BufWriter<Draft>>,
    hash: Sha256,
    edge: Edge,
}

impl Lines {
    fn new(file: Draft, edge: Edge) -> Self {
        // Neither name nor time: the same lines are the same bytes.
        Self {
            out: GzBuilder::new().write(BufWriter::new(file), Compression::default()),
            hash: Sha256::new(),
            edge,
        }
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        for part in [line, "\n"] {
            self.hash.update(part.as_bytes());
            self.out.write_all(part.as_bytes())?;
        }
        Ok(())
    }

    fn leaf(&mut self, line: &str, entry: &[u8; 32]) -> io::Result<()> {
        self.edge.push(leaf(entry));
        self.line(line)
    }

    /// All of it is on disk.
    fn finish(self) -> io::Result<(Draft, [u8; 32])> {
        let draft = self.out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        draft.sync()?;
        Ok((draft, self.hash.finish()))
    }
}
