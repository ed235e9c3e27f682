//! Verification: everything from the rows to the checkpoints, computed again.
//!
//! Promise: a row of a sealed part that was changed, removed or inserted is named, and so are a seal, a tile,
//! a checkpoint that do not belong to the rest. What is said to be right was computed from the rows
//! themselves, with the columns that people are shown. Rows that wait for their seal are counted as such, and
//! nothing is said of them.
//!
//! The rows are read in parts, several at a time; the parts come together in order, where the tree is built
//! from them. Where the rows do not give a seal's root, the tiles tell which of them are wrong, if they give
//! it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pec_core::clock::Moment;
use pec_host::parameters::Settings;
use pec_state::pool::connect_registrar;
use tlog_tiles::Hash;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::checkpoint::Checkpoint;
use crate::error::RegisterError;
use crate::ranges::Ranges;
use crate::row::{entry, leaf};
use crate::rows::{each_row, numbered};
use crate::sealer::{Seal, last_seal, seals};
use crate::tree::{EMPTY, Edge, Tiles, WIDTH};

/// Rows of one part.
const PART: u64 = 100_000;

/// Parts that are read at the same time.
const AT_ONCE: usize = 3;

/// More rows than any seal has: those of a batch, and late ones.
const LARGEST_SEAL: u64 = 1_000_000;

/// A seal's files are written after it, the largest one's 160 each with a sync. After this time what is there
/// is judged.
const FILES_COME_WITHIN: Duration = Duration::from_secs(20);

/// Findings that are told one by one; more are only counted.
pub const TOLD: usize = 50;

/// Something that is not as it was sealed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A row with another content.
    Changed {
        /// Its number.
        seq: i64,
        /// Its leaf.
        leaf: u64,
    },
    /// A row that is gone.
    Missing {
        /// Its number.
        seq: i64,
        /// Its leaf.
        leaf: u64,
    },
    /// A row that was not there when its neighbours were sealed.
    Inserted {
        /// Its number.
        seq: i64,
    },
    /// Two rows with one number.
    Twice {
        /// The number.
        seq: i64,
    },
    /// A seal that is not what it was, or does not follow from the one before.
    Seal {
        /// Its number.
        number: i64,
        /// What is wrong.
        what: String,
    },
    /// A tile that is not what the rows and the seals say.
    Tile {
        /// Its number, of the lowest level.
        n: u64,
    },
    /// A checkpoint, on disk or given, that is not of this history.
    Checkpoint {
        /// Which.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A month that left the database in another way than by `pecctl log retire`.
    Retired {
        /// The month.
        month: String,
        /// What is wrong.
        what: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { seq, leaf } => {
                write!(f, "row {seq} (leaf {leaf}) was changed after it was sealed")
            }
            Self::Missing { seq, leaf } => write!(f, "row {seq} (leaf {leaf}) is missing"),
            Self::Inserted { seq } => {
                write!(f, "row {seq} was inserted among rows that were sealed without it")
            }
            Self::Twice { seq } => write!(f, "row {seq} is there twice"),
            Self::Seal { number, what } => write!(f, "seal {number}: {what}"),
            Self::Tile { n } => write!(f, "the tile tile/0/{n} is not what was sealed"),
            Self::Checkpoint { name, what } => write!(f, "{name}: {what}"),
            Self::Retired { month, what } => write!(f, "the month {month}: {what}"),
        }
    }
}

/// A checkpoint that must be of this history, from outside of the database.
#[derive(Debug, Clone)]
pub struct Witnessed {
    /// What it is called in a finding: its file, whose it is.
    pub name: String,
    /// What it says.
    pub checkpoint: Checkpoint,
}

/// What a verification goes by besides the database.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The public keys with which seals may be signed ([`crate::checkpoint::LogKey::public`]).
    pub keys: Vec<String>,
    /// Checkpoints that must be of this history.
    pub checkpoints: Vec<Witnessed>,
    /// Only what came after this one is computed.
    pub since: Option<Witnessed>,
}

/// What a verification has found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows that were computed.
    pub rows: u64,
    /// Seals that were looked at.
    pub seals: u64,
    /// The size of the tree.
    pub size: u64,
    /// Its root.
    pub root: Option<Hash>,
    /// The checkpoint of the last seal that was looked at, as it was signed.
    pub checkpoint: Option<String>,
    /// Leaves whose rows are known to be lost: first, and the one after the last.
    pub lost: Vec<(u64, u64)>,
    /// Rows that left the database after their time.
    pub retired: u64,
    /// Rows that wait for their seal.
    pub unsealed: u64,
    /// The largest size that a checkpoint from outside vouches for.
    pub vouched: u64,
    /// What is wrong, the first [`TOLD`], in the order of the register.
    pub findings: Vec<Finding>,
    /// How many there are.
    pub wrong: u64,
}

impl Outcome {
    fn found(&mut self, finding: Finding) {
        self.wrong += 1;
        if self.findings.len() < TOLD {
            self.findings.push(finding);
        }
    }
}

/// A month that left the database.
struct Retired {
    month: String,
    first: i64,
    last: i64,
    rows: u64,
    early: bool,
}

/// A part: seals that follow each other.
struct Part {
    seals: Vec<Seal>,
    /// The largest number that the seals before it have.
    before: i64,
}

/// The rows of a part.
struct Leaves {
    seals: Vec<Seal>,
    /// By their place after the first leaf of the part.
    leaves: Vec<Option<Hash>>,
    twice: Vec<i64>,
    /// Rows in between that are in no seal of this part.
    others: Vec<i64>,
}

/// Computes the register again, as of `now`. `progress` hears how many rows are done, of how many.
pub async fn verify(
    settings: &Settings,
    wanted: &Wanted,
    now: Moment,
    mut progress: impl FnMut(u64, u64),
) -> Result<Outcome, RegisterError> {
    let client = connect_registrar(settings, "pecctl").await?;
    let tiles = Tiles::new(&settings.register);
    let mut outcome = Outcome::default();
    let retired = retired(&client, now, &mut outcome).await?;
    // What is sealed meanwhile waits for the next time.
    let (last, total) = match last_seal(&client).await? {
        Some(seal) => (seal.number, seal.size),
        None => (-1, 0),
    };
    let newest: i64 = client.query_one("SELECT coalesce(max(seq), 0) FROM log", &[]).await?.get(0);
    let until = Instant::now() + FILES_COME_WITHIN;
    // What is further behind than a seal has rows does not come.
    while (1..=LARGEST_SEAL).contains(&total.saturating_sub(tiles.published()?)) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let mut walk = Walk {
        tiles: &tiles,
        edge: Edge::default(),
        last: None,
        at: HashMap::new(),
        others: HashSet::new(),
        tile: None,
    };
    for witnessed in wanted.checkpoints.iter().chain(&wanted.since) {
        walk.at.insert(witnessed.checkpoint.size, None);
    }
    if let Some(since) = &wanted.since {
        walk.begin(&client, since, &mut outcome).await?;
    }
    let begun = walk.edge.size();

    // Parts are read ahead, and taken in order.
    let mut reading: VecDeque<JoinHandle<Result<Leaves, RegisterError>>> = VecDeque::new();
    let clients = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let (mut next, mut high) = walk.last.as_ref().map_or((0, i64::MIN), |seal| (seal.number + 1, seal.high));
    let mut pending: VecDeque<Seal> = VecDeque::new();
    let mut more = true;
    loop {
        while more && reading.len() < AT_ONCE {
            if pending.is_empty() {
                pending = seals(
                    &client,
                    &format!("number >= {next} AND number < {next} + 5000 AND number <= {last}"),
                )
                .await?
                .into();
                if pending.is_empty() {
                    // Seals behind a hole.
                    let row = client
                        .query_one(
                            "SELECT min(number) FROM seal WHERE number BETWEEN $1 AND $2",
                            &[&next, &last],
                        )
                        .await?;
                    match row.get::<_, Option<i64>>(0) {
                        Some(number) => next = number,
                        None => more = false,
                    }
                    continue;
                }
            }
            let mut part = Part { seals: Vec::new(), before: high };
            let mut rows = 0;
            while rows < PART
                && let Some(seal) = pending.pop_front()
            {
                rows = seal.seqs.count().saturating_add(rows);
                next = seal.number + 1;
                high = high.max(seal.high);
                part.seals.push(seal);
            }
            reading.push_back(tokio::spawn(read(settings.clone(), Arc::clone(&clients), part)));
        }
        let Some(part) = reading.pop_front() else { break };
        let part = part.await.map_err(|e| RegisterError::Reader(e.to_string()))??;
        walk.take(part, &wanted.keys, &retired, &mut outcome);
        progress(walk.edge.size() - begun.min(walk.edge.size()), total - begun.min(total));
    }
    walk.finish(&client, wanted, newest, &mut outcome).await?;
    // A row among those that left may be gone in another way: then there are more than were written down.
    let written = retired.iter().filter(|month| !month.early).map(|month| month.rows).sum::<u64>();
    if let Some(last) = retired.last()
        && wanted.since.is_none()
        && outcome.retired != written
    {
        let what = format!(
            "of the months up to this one {} rows are gone, and {written} were written down when they left",
            outcome.retired
        );
        outcome.found(Finding::Retired { month: last.month.clone(), what });
    }
    Ok(outcome)
}

/// The months that left, by `pecctl log retire`; never before thirty months are over.
async fn retired(client: &Client, now: Moment, outcome: &mut Outcome) -> Result<Vec<Retired>, RegisterError> {
    let sql = "
        SELECT month::text, first_seq, last_seq, rows,
               month + interval '1 month' + interval '30 months' > to_timestamp($1::int8) AT TIME ZONE 'UTC'
        FROM retired
        ORDER BY month";
    let retired: Vec<Retired> = client
        .query(sql, &[&now.unix()])
        .await?
        .iter()
        .map(|row| Retired {
            month: row.get(0),
            first: row.get(1),
            last: row.get(2),
            rows: row.get::<_, i64>(3).unsigned_abs(),
            early: row.get(4),
        })
        .collect();
    for month in retired.iter().filter(|month| month.early) {
        outcome.found(Finding::Retired {
            month: month.month.clone(),
            what: "it left the database before its thirty months were over".to_owned(),
        });
    }
    Ok(retired)
}

/// Reads the rows of a part.
async fn read(
    settings: Settings,
    clients: Arc<tokio::sync::Mutex<Vec<Client>>>,
    part: Part,
) -> Result<Leaves, RegisterError> {
    let idle = clients.lock().await.pop();
    let client = match idle {
        Some(client) => client,
        None => {
            let client = connect_registrar(&settings, "pecctl").await?;
            // The index gives the rows in order; sorting a month would take its time and a disk.
            client.batch_execute("SET enable_sort = off; SET max_parallel_workers_per_gather = 0").await?;
            client
        }
    };
    let first = part.seals.first().map_or(0, |seal| seal.first);
    let end = part.seals.last().map_or(first, |seal| seal.size.max(first));
    let mut leaves = Leaves { seals: Vec::new(), leaves: Vec::new(), twice: Vec::new(), others: Vec::new() };
    // Sizes that make no sense are a finding, not an allocation.
    let sensible = || part.seals.iter().filter(|seal| !is_absurd(seal));
    let count = sensible()
        .map(|seal| if seal.lost { seal.size.saturating_sub(seal.first) } else { seal.seqs.count() })
        .fold(0, u64::saturating_add);
    leaves.leaves = vec![None; usize::try_from((end - first).min(count)).unwrap_or(0)];

    // Where the numbers have their leaves.
    let mut places: Vec<(i64, i64, u64)> = Vec::new();
    for seal in sensible() {
        let mut leaf = seal.first;
        for (from, to) in seal.seqs.iter() {
            places.push((from, to, leaf - first.min(leaf)));
            leaf += to.abs_diff(from);
        }
    }
    places.sort_unstable();
    let high = part.seals.iter().map(|seal| seal.high).max().unwrap_or(part.before);
    let mut take = |row: &crate::row::Read<'_>| {
        let after = places.partition_point(|(from, ..)| *from <= row.seq);
        let place = after.checked_sub(1).and_then(|i| places.get(i)).filter(|(_, to, _)| row.seq < *to);
        let slot = place
            .and_then(|(from, _, leaf)| usize::try_from(leaf + row.seq.abs_diff(*from)).ok())
            .and_then(|i| leaves.leaves.get_mut(i));
        match slot {
            None => leaves.others.push(row.seq),
            Some(slot @ None) => *slot = Some(leaf(&entry(row.line))),
            Some(_) => leaves.twice.push(row.seq),
        }
    };
    // Late rows first: their numbers lie in the parts before.
    let later = Ranges::of(part.before.saturating_add(1), i64::MAX);
    let late = part.seals.iter().fold(Ranges::default(), |late, seal| late.with(&seal.seqs.without(&later)));
    if !late.is_empty() {
        each_row(&client, &numbered(&late), &mut take).await?;
    }
    each_row(
        &client,
        &format!("WHERE log.seq > {} AND log.seq <= {high} ORDER BY log.seq", part.before),
        &mut take,
    )
    .await?;
    leaves.seals = part.seals;
    clients.lock().await.push(client);
    Ok(leaves)
}

/// Whether it claims rows that nobody could have sealed at once.
fn is_absurd(seal: &Seal) -> bool {
    !seal.lost && seal.seqs.count() > LARGEST_SEAL
}

/// The way along the seals.
struct Walk<'a> {
    tiles: &'a Tiles,
    edge: Edge,
    last: Option<Seal>,
    /// Roots at the sizes that somebody asks for.
    at: HashMap<u64, Option<Hash>>,
    /// Rows that were seen between those of other seals, and in no seal so far.
    others: HashSet<i64>,
    /// The last tile that was read, by its number.
    tile: Option<(u64, Vec<Hash>)>,
}

impl Walk<'_> {
    /// Begins after a checkpoint that somebody has kept.
    async fn begin(
        &mut self,
        client: &Client,
        since: &Witnessed,
        outcome: &mut Outcome,
    ) -> Result<(), RegisterError> {
        let Checkpoint { size, root, .. } = since.checkpoint;
        let found = seals(client, &format!("size = {size}")).await?;
        let Some(seal) = found.into_iter().next() else {
            outcome.found(Finding::Checkpoint {
                name: since.name.clone(),
                what: format!("the database has no seal of {size} rows"),
            });
            return Ok(());
        };
        if seal.root != root {
            outcome.found(Finding::Checkpoint {
                name: since.name.clone(),
                what: format!("the first {size} rows have another root now"),
            });
        }
        match self.tiles.edge(size) {
            Ok(edge) if edge.root() == root => {
                self.at.insert(size, Some(root));
                self.edge = edge;
                self.last = Some(seal);
            }
            // Without it, everything is computed.
            _ => outcome.found(Finding::Checkpoint {
                name: since.name.clone(),
                what: format!(
                    "the tiles in {} do not give its root; everything was computed from the rows",
                    self.tiles.directory().display()
                ),
            }),
        }
        Ok(())
    }

    fn take(&mut self, part: Leaves, keys: &[String], retired: &[Retired], outcome: &mut Outcome) {
        self.others.extend(part.others);
        part.twice.into_iter().for_each(|seq| outcome.found(Finding::Twice { seq }));
        let first = part.seals.first().map_or(0, |seal| seal.first);
        for seal in part.seals {
            self.follows(&seal, keys, outcome);
            if seal.lost {
                self.lost(&seal, outcome);
            } else if is_absurd(&seal) {
                let what =
                    format!("it claims {} rows, and no seal has more than {LARGEST_SEAL}", seal.seqs.count());
                outcome.found(Finding::Seal { number: seal.number, what });
            } else {
                let from = usize::try_from(seal.first.saturating_sub(first)).unwrap_or(0);
                let count = usize::try_from(seal.seqs.count()).unwrap_or(0);
                let leaves = part.leaves.get(from..(from + count).min(part.leaves.len())).unwrap_or_default();
                self.rows(&seal, leaves, retired, outcome);
            }
            outcome.seals += 1;
            if let Some(root) = self.at.get_mut(&seal.size) {
                *root = Some(self.edge.root());
            }
            self.others.retain(|seq| seal.seqs.place(*seq).is_none());
            self.last = Some(seal);
        }
    }

    /// What a seal says of itself and of the one before.
    fn follows(&mut self, seal: &Seal, keys: &[String], outcome: &mut Outcome) {
        let mut wrong = |what: String| outcome.found(Finding::Seal { number: seal.number, what });
        let (number, size, day, high) = self
            .last
            .as_ref()
            .map_or((-1, 0, i64::MIN, i64::MIN), |last| (last.number, last.size, last.day, last.high));
        if seal.number != number + 1 {
            wrong(format!("the {} before it are missing", seal.number - number - 1));
        }
        if seal.first != size || seal.size <= seal.first {
            wrong(format!("it has leaves {} to {}, the one before ends at {size}", seal.first, seal.size));
        }
        if !seal.lost && seal.size - seal.first.min(seal.size) != seal.seqs.count() {
            wrong(format!(
                "it has {} leaves and {} rows",
                seal.size - seal.first.min(seal.size),
                seal.seqs.count()
            ));
        }
        if seal.day < day || seal.high < high {
            wrong("its day or its numbers lie before those of the one before".to_owned());
        }
        let opened: Vec<_> = keys.iter().map(|key| Checkpoint::open(&seal.checkpoint, key)).collect();
        match opened.iter().find_map(|opened| opened.as_ref().ok()) {
            Some(checkpoint) if checkpoint.size != seal.size || checkpoint.root != seal.root => {
                wrong(format!("its checkpoint is of {} rows, or of another root", checkpoint.size));
            }
            Some(_) => {}
            None => wrong(format!(
                "its checkpoint {}",
                opened.into_iter().find_map(Result::err).map_or("has no key".to_owned(), |e| e.to_string())
            )),
        }
    }

    /// Leaves without rows: the tiles must give the root.
    fn lost(&mut self, seal: &Seal, outcome: &mut Outcome) {
        outcome.lost.push((seal.first, seal.size));
        match self.tiles.edge(seal.size) {
            Ok(edge) if edge.root() == seal.root => self.edge = edge,
            _ => outcome.found(Finding::Seal {
                number: seal.number,
                what: "the tiles of its lost rows do not give its root".to_owned(),
            }),
        }
    }

    fn rows(&mut self, seal: &Seal, leaves: &[Option<Hash>], retired: &[Retired], outcome: &mut Outcome) {
        let before = self.edge.clone();
        let complete = leaves.iter().all(Option::is_some) && leaves.len() as u64 == seal.seqs.count();
        if complete {
            leaves.iter().flatten().for_each(|leaf| self.edge.push(*leaf));
            outcome.rows += leaves.len() as u64;
            if self.edge.root() == seal.root {
                self.compare_tiles(seal, leaves, outcome);
                return;
            }
        }
        // The tiles, if they give the seal's root, tell which rows do not.
        let tiles: Vec<Option<Hash>> = (seal.first..seal.size.min(seal.first + seal.seqs.count()))
            .map(|leaf| self.tile_leaf(leaf, seal.size))
            .collect();
        let mut by_tiles = before;
        tiles.iter().flatten().for_each(|leaf| by_tiles.push(*leaf));
        let tiles_are_right = tiles.iter().all(Option::is_some) && by_tiles.root() == seal.root;
        let mut named = false;
        for ((place, seq), leaf) in
            seal.seqs.numbers().enumerate().zip(leaves.iter().chain(std::iter::repeat(&None)))
        {
            let at = seal.first + place as u64;
            let known = tiles.get(place).copied().flatten();
            match leaf {
                None if tiles_are_right
                    && retired
                        .iter()
                        .any(|month| !month.early && (month.first..=month.last).contains(&seq)) =>
                {
                    outcome.retired += 1;
                    named = true;
                }
                None => {
                    outcome.found(Finding::Missing { seq, leaf: at });
                    named = true;
                }
                Some(leaf) if tiles_are_right && known != Some(*leaf) => {
                    outcome.found(Finding::Changed { seq, leaf: at });
                    named = true;
                }
                Some(_) => {}
            }
        }
        if tiles_are_right {
            self.edge = by_tiles;
        } else if !named || complete {
            let what = format!("rows {} do not give its root, nor do the tiles", seal.seqs);
            outcome.found(Finding::Seal { number: seal.number, what });
        }
        if !tiles_are_right && !complete {
            // Going on needs leaves: those that are there, in the place of what was.
            leaves
                .iter()
                .zip(&tiles)
                .filter_map(|(leaf, tile)| leaf.or(*tile))
                .for_each(|leaf| self.edge.push(leaf));
        }
    }

    /// The rows are right: are the tiles what they give?
    fn compare_tiles(&mut self, seal: &Seal, leaves: &[Option<Hash>], outcome: &mut Outcome) {
        let mut told = None;
        for (leaf, at) in leaves.iter().zip(seal.first..) {
            let n = at / WIDTH;
            if told != Some(n) && self.tile_leaf(at, seal.size) != *leaf {
                outcome.found(Finding::Tile { n });
                told = Some(n);
            }
        }
    }

    /// A leaf as the tiles have it.
    fn tile_leaf(&mut self, leaf: u64, size: u64) -> Option<Hash> {
        let n = leaf / WIDTH;
        let place = usize::try_from(leaf % WIDTH).ok()?;
        if self.tile.as_ref().is_none_or(|(known, leaves)| *known != n || leaves.len() <= place) {
            // As much of it as there is: the seals after this one need it too.
            let whole = self
                .tiles
                .leaves(n, (n + 1) * WIDTH)
                .or_else(|_| self.tiles.leaves(n, size))
                .unwrap_or_default();
            self.tile = Some((n, whole));
        }
        self.tile.as_ref().and_then(|(_, leaves)| leaves.get(place)).copied()
    }

    /// What remains: rows in no seal, checkpoints that must be of this history.
    async fn finish(
        self,
        client: &Client,
        wanted: &Wanted,
        newest: i64,
        outcome: &mut Outcome,
    ) -> Result<(), RegisterError> {
        let (size, root, high, gaps) =
            self.last.as_ref().map_or((0, EMPTY, i64::MIN, Ranges::default()), |seal| {
                (seal.size, seal.root, seal.high, seal.gaps.clone())
            });
        (outcome.size, outcome.root) = (size, Some(root));
        outcome.checkpoint = self.last.as_ref().map(|seal| seal.checkpoint.clone());
        let mut others: Vec<i64> = self.others.into_iter().collect();
        others.sort_unstable();
        for seq in others {
            if gaps.place(seq).is_some() {
                outcome.unsealed += 1
            } else {
                outcome.found(Finding::Inserted { seq })
            }
        }
        let tail: i64 = client
            .query_one("SELECT count(*) FROM log WHERE seq > $1 AND seq <= $2", &[&high, &newest])
            .await?
            .get(0);
        outcome.unsealed += tail.unsigned_abs();

        let published = match self.tiles.checkpoint()? {
            Some(text) => match Checkpoint::read(&text) {
                Ok(checkpoint) => Some(checkpoint),
                Err(e) => {
                    outcome.found(Finding::Checkpoint {
                        name: "the checkpoint on disk".to_owned(),
                        what: e.to_string(),
                    });
                    None
                }
            },
            None => None,
        };
        if let Some(checkpoint) = published {
            let name = || format!("the checkpoint in {}", self.tiles.directory().display());
            let number = i64::try_from(checkpoint.size).unwrap_or(i64::MAX);
            // One that this did not come by must have been sealed since: a number out of the way is none.
            let sql = "SELECT root FROM seal WHERE size = $1 AND (size <= $2 OR number > $3)";
            let (size_here, last) =
                (i64::try_from(size).unwrap_or(i64::MAX), self.last.as_ref().map_or(-1, |seal| seal.number));
            let known: Option<Vec<u8>> =
                client.query_opt(sql, &[&number, &size_here, &last]).await?.map(|row| row.get(0));
            match known {
                // Also when it is larger: it was sealed while this computed, and the next one computes it.
                Some(root) if root == checkpoint.root.0 => {}
                None if checkpoint.size > size => {
                    let what = format!(
                        "it is of {} rows, the database has {size} sealed ones: an older backup was \
                        restored, or rows and seals were removed",
                        checkpoint.size
                    );
                    outcome.found(Finding::Checkpoint { name: name(), what });
                }
                _ => outcome.found(Finding::Checkpoint {
                    name: name(),
                    what: "it is of another history than the database's seals".to_owned(),
                }),
            }
        }
        for Witnessed { name, checkpoint } in &wanted.checkpoints {
            let name = name.clone();
            match self.at.get(&checkpoint.size).copied().flatten() {
                Some(root) if root == checkpoint.root => {
                    outcome.vouched = outcome.vouched.max(checkpoint.size)
                }
                Some(_) => outcome.found(Finding::Checkpoint {
                    name,
                    what: format!("the first {} rows are not those that it vouches for", checkpoint.size),
                }),
                // Older than where this began: that one vouches for it.
                None if wanted
                    .since
                    .as_ref()
                    .is_some_and(|since| checkpoint.size < since.checkpoint.size) => {}
                None if checkpoint.size > size => {
                    let what = format!(
                        "it vouches for {} rows, the database has {size} sealed ones",
                        checkpoint.size
                    );
                    outcome.found(Finding::Checkpoint { name, what });
                }
                None => outcome.found(Finding::Checkpoint {
                    name,
                    what: format!("the database has no seal of its {} rows", checkpoint.size),
                }),
            }
        }
        Ok(())
    }
}
