//! Sealing: rows become leaves, in batches, each with a checkpoint.
//!
//! Promise: there is never a second checkpoint that contradicts an earlier one. The order in which that
//! holds, whatever dies in between:
//! 1. The rows that are there and in no seal yet are read; the tree that has them too is computed on top of
//!    the last seal's.
//! 2. The log key signs its checkpoint. Nobody has seen it yet.
//! 3. It is inserted as the next seal. This commit is the decision: a second sealer, or this one after a lost
//!    answer, cannot insert another seal of that number, that first leaf or that size.
//! 4. The tiles are written, and after them the checkpoint file. What a crash leaves out here is made up at
//!    the next start from the seals and their rows, and every root that comes out must be the one that was
//!    sealed.
//!
//! What does not fit (a database older than the checkpoint on disk, tiles that are others, rows that are
//! others) stops the sealing with an error that says which; mail goes on, and waits to be sealed. `pecctl log
//! recover` is what a person does then.
//!
//! A row is sealed when it can be seen, whatever its number: a transaction that commits late has its rows
//! sealed late (`gaps`). A number whose transaction is over without a row is given up.

use pec_core::clock::Moment;
use pec_host::parameters::Settings;
use pec_state::pool::connect_registrar;
use tlog_tiles::Hash;
use tokio_postgres::{Client, Row as SqlRow};

use crate::checkpoint::{Checkpoint, LogKey};
use crate::error::RegisterError;
use crate::ranges::Ranges;
use crate::row::entry;
use crate::rows::{each_row, numbered};
use crate::tree::{EMPTY, Growth, Tiles};

/// Rows of one seal at most.
const BATCH: u64 = 20_000;

/// For how long a number without a row is asked for, in seconds, once no transaction is under way that could
/// bring it. Statements end after ten seconds.
const GIVEN_UP_AFTER: i64 = 3600;

/// For how many months to come the log has partitions. Without one, no row comes in, and mail waits.
const MONTHS_AHEAD: i32 = 12;

/// The lock of the one who seals: "pecr".
const LOCK: i64 = 0x7065_6372;

/// A seal, as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Seal {
    /// 0, 1, 2 ...
    pub number: i64,
    /// The size of the tree before.
    pub first: u64,
    /// And after.
    pub size: u64,
    /// Its rows.
    pub seqs: Ranges,
    /// The largest number that is sealed.
    pub high: i64,
    /// Those below it that may still come.
    pub gaps: Ranges,
    /// In whose file its rows are: days since 1970-01-01 (UTC).
    pub day: i64,
    /// The tree's root.
    pub root: Hash,
    /// The signed checkpoint.
    pub checkpoint: String,
    /// Its rows are gone.
    pub lost: bool,
}

/// The columns of [`Seal::of`].
const SEAL: &str = "number, first_leaf, size, seqs::text, high, gaps::text, day - date '1970-01-01',
    root, checkpoint, lost";

impl Seal {
    fn of(row: &SqlRow) -> Result<Self, RegisterError> {
        let (first, size): (i64, i64) = (row.get(1), row.get(2));
        let (seqs, gaps): (String, String) = (row.get(3), row.get(5));
        let root: Vec<u8> = row.get(7);
        Ok(Self {
            number: row.get(0),
            first: first.unsigned_abs(),
            size: size.unsigned_abs(),
            seqs: seqs.parse()?,
            high: row.get(4),
            gaps: gaps.parse()?,
            day: i64::from(row.get::<_, i32>(6)),
            // Of another length it is the root of nothing.
            root: root.try_into().map(Hash).unwrap_or(EMPTY),
            checkpoint: row.get(8),
            lost: row.get(9),
        })
    }
}

/// The last seal; before the first one, that of the empty tree.
pub async fn last_seal(client: &Client) -> Result<Option<Seal>, RegisterError> {
    let row = client.query_opt(&format!("SELECT {SEAL} FROM seal ORDER BY number DESC LIMIT 1"), &[]).await?;
    row.as_ref().map(Seal::of).transpose()
}

/// Seals that `condition` (SQL of ours) selects, in order.
pub async fn seals(client: &Client, condition: &str) -> Result<Vec<Seal>, RegisterError> {
    let rows =
        client.query(&format!("SELECT {SEAL} FROM seal WHERE {condition} ORDER BY number"), &[]).await?;
    rows.iter().map(Seal::of).collect()
}

/// Numbers without a row.
struct Waiting {
    seqs: Ranges,
    /// Transactions from this one on had not begun when the numbers were seen to be missing.
    until: i64,
    since: Moment,
}

/// The one process that seals.
pub struct Sealer {
    client: Client,
    tiles: Tiles,
    key: LogKey,
    last: Option<Seal>,
    waiting: Vec<Waiting>,
    /// The day on which the months to come were made.
    months_seen: Option<i64>,
}

impl Sealer {
    /// Takes up where the last seal is, and brings the files up to it. `None`: another process seals.
    pub async fn open(settings: &Settings, program: &str) -> Result<Option<Self>, RegisterError> {
        let key = LogKey::read(settings)?;
        let client = connect_registrar(settings, program).await?;
        if !client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?.get::<_, bool>(0) {
            return Ok(None);
        }
        let tiles = Tiles::new(&settings.register);
        let mut sealer = Self { client, tiles, key, last: None, waiting: Vec::new(), months_seen: None };
        sealer.last = last_seal(&sealer.client).await?;
        sealer.bring_up().await?;
        Ok(Some(sealer))
    }

    /// The connection that seals.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The tree's files.
    pub fn tiles(&self) -> &Tiles {
        &self.tiles
    }

    /// The last seal.
    pub fn last(&self) -> Option<&Seal> {
        self.last.as_ref()
    }

    fn size(&self) -> u64 {
        self.last.as_ref().map_or(0, |seal| seal.size)
    }

    /// Brings tiles and checkpoint file up to the last seal.
    async fn bring_up(&self) -> Result<(), RegisterError> {
        let directory = || self.tiles.directory().display().to_string();
        let mut published = match self.tiles.checkpoint()? {
            None => 0,
            Some(text) => {
                // By whatever key: it may have been another one then. What counts is that it is in the tree.
                let checkpoint = Checkpoint::read(&text).map_err(|trouble| RegisterError::Checkpoint {
                    file: self.tiles.directory().join("checkpoint").display().to_string(),
                    trouble,
                })?;
                if checkpoint.size > self.size() {
                    return Err(RegisterError::Restored {
                        database: self.size(),
                        disk: checkpoint.size,
                        directory: directory(),
                    });
                }
                let size = i64::try_from(checkpoint.size).unwrap_or(i64::MAX);
                let root: Option<Vec<u8>> = self
                    .client
                    .query_opt("SELECT root FROM seal WHERE size = $1", &[&size])
                    .await?
                    .map(|row| row.get(0));
                if root.as_deref() != Some(&checkpoint.root.0[..]) {
                    return Err(RegisterError::Forked { directory: directory(), size: checkpoint.size });
                }
                // Tiles that are gone or spoilt are made anew from the rows.
                if self.tiles.root(checkpoint.size).is_ok_and(|root| root == checkpoint.root) {
                    checkpoint.size
                } else {
                    0
                }
            }
        };
        while published < self.size() {
            let condition = format!("first_leaf >= {published} ORDER BY number LIMIT 200");
            let batch =
                seals(&self.client, &format!("number IN (SELECT number FROM seal WHERE {condition})"))
                    .await?;
            let Some(last) = batch.last().cloned() else { break };
            let root = match self
                .client
                .query_opt(
                    "SELECT root FROM seal WHERE size = $1",
                    &[&i64::try_from(published).unwrap_or(i64::MAX)],
                )
                .await?
            {
                Some(row) => row.get::<_, Vec<u8>>(0).try_into().map(Hash).unwrap_or(EMPTY),
                None => EMPTY,
            };
            let mut growth = Growth::from(&self.tiles, published, root)?;
            for seal in &batch {
                if seal.lost {
                    return Err(RegisterError::LostTiles {
                        first: seal.first,
                        end: seal.size,
                        directory: directory(),
                    });
                }
                let mut pushed = Ok(());
                each_row(&self.client, &numbered(&seal.seqs), |row| {
                    if pushed.is_ok() {
                        pushed = growth.push(entry(row.line));
                    }
                })
                .await?;
                pushed?;
                if growth.size() != seal.size || growth.root() != seal.root {
                    return Err(RegisterError::SealAltered {
                        number: seal.number,
                        first: seal.first,
                        end: seal.size,
                    });
                }
            }
            growth.write()?;
            published = last.size;
            self.tiles.set_checkpoint(&last.checkpoint)?;
        }
        Ok(())
    }

    /// Makes the log's partitions for the months to come, once a day.
    pub async fn make_months(&mut self, now: Moment) -> Result<(), RegisterError> {
        let today = now.unix().div_euclid(86_400);
        if self.months_seen == Some(today) {
            return Ok(());
        }
        let sql = "
            SELECT log_month((to_timestamp($1::int8) AT TIME ZONE 'UTC' + make_interval(months => n))::date)
            FROM generate_series(0, $2::int4) AS n";
        self.client.query(sql, &[&now.unix(), &MONTHS_AHEAD]).await?;
        self.months_seen = Some(today);
        Ok(())
    }

    /// Seals what there is, as of `now`. `None`: nothing new. Called again at once it may find more.
    pub async fn seal(&mut self, now: Moment) -> Result<Option<Seal>, RegisterError> {
        let (high, gaps) =
            self.last.as_ref().map_or((0, Ranges::default()), |seal| (seal.high, seal.gaps.clone()));
        let gaps = gaps.without(&self.given_up(&gaps, now).await?);
        let mut found: Vec<(i64, i64, [u8; 32])> = Vec::new();
        let mut add = |row: &crate::row::Read<'_>| found.push((row.seq, row.day, entry(row.line)));
        if !gaps.is_empty() {
            each_row(&self.client, &numbered(&gaps), &mut add).await?;
        }
        each_row(&self.client, &format!("WHERE log.seq > {high} ORDER BY log.seq LIMIT {BATCH}"), &mut add)
            .await?;
        let Some(earliest) = found.iter().map(|(_, day, _)| *day).min() else { return Ok(None) };

        // A seal's rows are in one day's file. What is of a later day waits for the next seal, what comes
        // after its day's file was written goes into a later one.
        let filed: Option<i32> =
            self.client.query_one("SELECT max(day) - date '1970-01-01' FROM day_file", &[]).await?.get(0);
        let day = earliest
            .max(self.last.as_ref().map_or(i64::MIN, |seal| seal.day))
            .max(filed.map_or(i64::MIN, |day| i64::from(day) + 1));
        let new_high = found.iter().map(|(seq, ..)| *seq).max().unwrap_or(high).max(high);
        found.retain(|(_, its, _)| *its <= day);
        // Late rows stand before the others: both are in order, and all late numbers are below.
        let seqs = Ranges::from_numbers(found.iter().map(|(seq, ..)| *seq).collect());
        let gaps = gaps.with(&Ranges::of(high + 1, new_high + 1)).without(&seqs);

        let before = self.last.as_ref().map_or(EMPTY, |seal| seal.root);
        let mut growth = Growth::from(&self.tiles, self.size(), before)?;
        for (_, _, entry) in &found {
            growth.push(*entry)?;
        }
        let seal = Seal {
            number: self.last.as_ref().map_or(0, |seal| seal.number + 1),
            first: self.size(),
            size: growth.size(),
            seqs,
            high: new_high,
            gaps,
            day,
            root: growth.root(),
            checkpoint: self.key.checkpoint(growth.size(), growth.root(), now)?,
            lost: false,
        };
        insert(&self.client, &seal, now).await?;
        growth.write()?;
        self.tiles.set_checkpoint(&seal.checkpoint)?;
        self.last = Some(seal.clone());
        Ok(Some(seal))
    }

    /// Those of `gaps` that no transaction can bring any more.
    async fn given_up(&mut self, gaps: &Ranges, now: Moment) -> Result<Ranges, RegisterError> {
        self.waiting
            .iter_mut()
            .for_each(|waiting| waiting.seqs = waiting.seqs.without(&waiting.seqs.without(gaps)));
        self.waiting.retain(|waiting| !waiting.seqs.is_empty());
        let known = self.waiting.iter().fold(Ranges::default(), |known, waiting| known.with(&waiting.seqs));
        let new = gaps.without(&known);
        let due = |waiting: &Waiting| now.unix() - waiting.since.unix() >= GIVEN_UP_AFTER;
        if new.is_empty() && !self.waiting.iter().any(due) {
            return Ok(Ranges::default());
        }
        let snapshot = "
            SELECT pg_snapshot_xmin(s)::text::int8, pg_snapshot_xmax(s)::text::int8
            FROM pg_current_snapshot() AS s";
        let row = self.client.query_one(snapshot, &[]).await?;
        let (oldest, next): (i64, i64) = (row.get(0), row.get(1));
        if !new.is_empty() {
            self.waiting.push(Waiting { seqs: new, until: next, since: now });
        }
        let over = self.waiting.iter().filter(|waiting| due(waiting) && oldest >= waiting.until);
        Ok(over.fold(Ranges::default(), |over, waiting| over.with(&waiting.seqs)))
    }
}

/// Writes a seal. Another one in its place: [`RegisterError::Overtaken`].
async fn insert(client: &Client, seal: &Seal, now: Moment) -> Result<(), RegisterError> {
    let sql = "
        INSERT INTO seal
            (number, first_leaf, size, seqs, high, gaps, day, root, checkpoint, lost, sealed_at)
        VALUES
            ($1, $2, $3, $4::text::int8multirange, $5, $6::text::int8multirange,
             date '1970-01-01' + $7::int4, $8, $9, $10, to_timestamp($11::int8))";
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let day = i32::try_from(seal.day).unwrap_or(i32::MAX);
    let done = client
        .execute(
            sql,
            &[
                &seal.number,
                &number(seal.first),
                &number(seal.size),
                &seal.seqs.to_string(),
                &seal.high,
                &seal.gaps.to_string(),
                &day,
                &&seal.root.0[..],
                &seal.checkpoint,
                &seal.lost,
                &now.unix(),
            ],
        )
        .await;
    match done {
        Ok(_) => Ok(()),
        Err(e) if e.code() == Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION) => {
            Err(RegisterError::Overtaken)
        }
        Err(e) => Err(e.into()),
    }
}

/// What [`recover`] has written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The first lost leaf.
    pub first: u64,
    /// The one after the last.
    pub end: u64,
}

/// After an older backup of the database was restored: goes on from the checkpoint on disk. The leaves whose
/// rows the backup does not have become a seal that says so; what comes from now on gets numbers above
/// theirs. `None`: there is nothing to recover from.
pub async fn recover(
    settings: &Settings,
    program: &str,
    now: Moment,
) -> Result<Option<Recovered>, RegisterError> {
    let key = LogKey::read(settings)?;
    let client = connect_registrar(settings, program).await?;
    if !client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?.get::<_, bool>(0) {
        return Err(RegisterError::Overtaken);
    }
    let tiles = Tiles::new(&settings.register);
    let Some(text) = tiles.checkpoint()? else { return Ok(None) };
    let file = || tiles.directory().join("checkpoint").display().to_string();
    // It must be ours: nobody else can make us go on from somewhere.
    let checkpoint = Checkpoint::open(&text, &key.public())
        .map_err(|trouble| RegisterError::Checkpoint { file: file(), trouble })?;
    let last = last_seal(&client).await?;
    let (size, root) = last.as_ref().map_or((0, EMPTY), |seal| (seal.size, seal.root));
    if checkpoint.size <= size {
        return Ok(None);
    }
    // The history that the database has must be the beginning of that on disk.
    if tiles.root(checkpoint.size)? != checkpoint.root || tiles.root(size)? != root {
        return Err(RegisterError::Forked {
            directory: tiles.directory().display().to_string(),
            size: checkpoint.size,
        });
    }
    let lost = checkpoint.size - size;
    // As many numbers as rows are lost, and room for those that never were rows.
    let skipped = i64::try_from(lost.saturating_mul(2).saturating_add(1000)).unwrap_or(i64::MAX);
    let high: i64 = client
        .query_one("SELECT max(nextval('log_seq')) FROM generate_series(1, $1::int8)", &[&skipped])
        .await?
        .get(0);
    // Rows that the backup has and that no seal of it has: they are sealed next, if the lost leaves are not
    // theirs already.
    let kept = last.as_ref().map_or(0, |seal| seal.high);
    let rows: Option<i64> = client.query_one("SELECT max(seq) FROM log", &[]).await?.get(0);
    let seal = Seal {
        number: last.as_ref().map_or(0, |seal| seal.number + 1),
        first: size,
        size: checkpoint.size,
        seqs: Ranges::default(),
        high: high.max(kept),
        gaps: last
            .as_ref()
            .map_or_else(Ranges::default, |seal| seal.gaps.clone())
            .with(&Ranges::of(kept + 1, rows.unwrap_or(kept).max(kept) + 1)),
        day: last.as_ref().map_or(0, |seal| seal.day).max(now.unix().div_euclid(86_400)),
        root: checkpoint.root,
        checkpoint: text,
        lost: true,
    };
    insert(&client, &seal, now).await?;
    Ok(Some(Recovered { first: size, end: checkpoint.size }))
}
