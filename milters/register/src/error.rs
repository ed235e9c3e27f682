//! Why something was not done with the register.
//!
//! Promise: one type for all of the register's work, and each of its kinds says what makes the work go on.
//!
//! Errors of their own have what is said of one thing that was given, and not of the register: a text
//! ([`crate::row::LineError`], [`crate::ranges::RangesError`], [`crate::checkpoint::CheckpointError`]), a
//! timestamp ([`crate::tsa::TsaError`]), a witness's answer ([`crate::witness::WitnessError`]).

use std::io;
use std::path::Path;

use pec_core::smime::sign::SignError;
use pec_host::parameters::ParameterError;
use pec_state::pool::ConnectError;

use crate::checkpoint::CheckpointError;
use crate::ranges::RangesError;
use crate::row::LineError;
use crate::tsa::TsaError;

/// Nobody decides by the kind: pec-clock says each error once and tries again, every second or in its next
/// round, and `pecctl` ends with it. The kind says what comes of the trying:
///
/// - *Temporary*: it goes by itself, and so does the work.
/// - *Permanent*: it fails until an administrator puts right what the error names: a parameter, a file, a
///   key, what was asked for.
/// - *Stop*: rows, seals and files contradict each other, or what proves them is gone. Nothing is done in
///   spite of it, and no program mends it: somebody must find out what happened, and then bring back a backup
///   or use `pecctl log recover`. Mail goes on meanwhile.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Temporary, or permanent where it says so: no connection to the database.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Temporary: the database.
    #[error("the database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// Temporary: a task that reads rows has ended.
    #[error("a reader has ended: {0}")]
    Reader(String),
    /// Temporary: the log key or the provider's does not sign now.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Temporary: the same, for something that is to prove the register.
    #[error("{what} is not signed: {trouble}")]
    Unsigned {
        /// The file, mostly.
        what: String,
        /// Why.
        trouble: SignError,
    },
    /// Temporary, mostly: there is no timestamp.
    #[error("{path} has no timestamp: {trouble}")]
    Unstamped {
        /// The file.
        path: String,
        /// Why.
        trouble: TsaError,
    },
    /// Temporary: somebody sealed under our hands.
    #[error("another process seals at the same time")]
    Overtaken,
    /// Temporary: nothing proves the rows yet.
    #[error(
        "the rows are not sealed yet, so that nothing proves them: is pec-clock running? It seals every second"
    )]
    Unsealed,

    /// Permanent: a parameter, or its file.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// Permanent, or temporary where the token may answer again: `pec_register_key` on a token. The words
    /// name it.
    #[error("{0}")]
    LogKey(String),
    /// Permanent, a full disk aside: the file system says no, or a file is not what it should be.
    #[error("{path}: {trouble}")]
    File {
        /// The file.
        path: String,
        /// Why.
        trouble: io::Error,
    },
    /// Permanent: what is asked for is no month.
    #[error("{0}: is no month (YYYY-MM)")]
    NoMonth(String),
    /// Permanent: there is no such partition, or it has left already.
    #[error("the month {0} is not in the database")]
    NoSuchMonth(String),
    /// Permanent until then: the rules, or the administrator, want it kept.
    #[error("the month {month} stays: pec_log_months = {months}, so that it may leave from {from} on")]
    TooYoung {
        /// Which.
        month: String,
        /// `pec_log_months`.
        months: u32,
        /// When.
        from: String,
    },

    /// Stop: a row that is none.
    #[error(transparent)]
    Line(#[from] LineError),
    /// Stop: a seal's numbers are none.
    #[error("the table seal: {0}")]
    Ranges(#[from] RangesError),
    /// Stop: a tile is not what the tree says.
    #[error("the tiles in {0} are not those of the tree")]
    Tiles(String),
    /// Stop: the tiles of rows that are gone are gone, too.
    #[error(
        "the tiles of leaves {first} to {end} in {directory} are missing, and their rows are lost: bring them \
        back from a backup"
    )]
    LostTiles {
        /// The first leaf.
        first: u64,
        /// The one after the last.
        end: u64,
        /// `pec_register`.
        directory: String,
    },
    /// Stop: the checkpoint on disk is none of this register.
    #[error("{file}: {trouble}")]
    Checkpoint {
        /// The file.
        file: String,
        /// What is wrong.
        trouble: CheckpointError,
    },
    /// Stop: an older backup of the database was restored.
    #[error(
        "the database has the register up to {database} rows, the checkpoint in {directory} up to {disk}: an \
        older backup was restored, or rows were removed. Nothing is sealed until somebody decides: `pecctl log \
        recover` goes on from there and writes down that these rows are lost"
    )]
    Restored {
        /// The size of the last seal.
        database: u64,
        /// That of the checkpoint.
        disk: u64,
        /// `pec_register`.
        directory: String,
    },
    /// Stop: two histories.
    #[error(
        "the checkpoint in {directory} ({size} rows) contradicts the database's seals: this is another history \
        of the register. Nothing is sealed; see docs/register.md"
    )]
    Forked {
        /// `pec_register`.
        directory: String,
        /// The size of the checkpoint.
        size: u64,
    },
    /// Stop: the rows of a seal are not those that were sealed.
    #[error(
        "the rows of seal {number} (leaves {first} to {end}) are not those that were sealed: `pecctl log \
        verify` names them. Nothing is sealed"
    )]
    SealAltered {
        /// The seal.
        number: i64,
        /// Its first leaf.
        first: u64,
        /// The one after its last.
        end: u64,
    },
    /// Stop: the same of a day's rows.
    #[error(
        "the rows of {0} are not those that were sealed: `pecctl log verify` names them. That day has no file, \
        nor has any after it"
    )]
    DayAltered(String),
    /// Stop: the same of one row.
    #[error("row {0} is not the one that was sealed: `pecctl log verify` says more. It is no evidence")]
    RowAltered(i64),
    /// Stop: a day's rows are not those that its file had.
    #[error(
        "the file of {0} is missing, and the rows of that day do not give it again: bring it back from a backup"
    )]
    DayDiffers(String),
    /// Stop: they are in no database any more.
    #[error("the file of {0} is missing, and its rows have left the database: bring it back from a backup")]
    DayRetired(String),
    /// Stop: a file with rows that have left.
    #[error("{0}: bring it back from a backup")]
    RowsThatLeft(String),
    /// Stop: the files do not prove the month that is to leave.
    #[error("the month {month} stays: {why}")]
    NotProved {
        /// Which.
        month: String,
        /// What is missing or wrong, and where.
        why: String,
    },
    /// Stop: no key that is known has signed the checkpoint.
    #[error("the checkpoint of {0} rows is not signed by the log key, nor by one of before (log.key.*)")]
    ForeignCheckpoint(u64),
}

impl RegisterError {
    pub(crate) fn file(path: &Path) -> impl Fn(io::Error) -> Self {
        move |trouble| Self::File { path: path.display().to_string(), trouble }
    }
}
