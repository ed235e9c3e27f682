//! Retention: a month leaves the database once its time is over (DPR 68/2005 art. 11: thirty months).
//!
//! Promise: nothing leaves that is not proved to be elsewhere. Before, every row of the month is found again
//! in the days' files, byte for byte, and those files verify: chain, tree, signature, timestamp. Then one
//! transaction writes the month into `retired` and a row into the log, and drops the partition: all of it or
//! nothing. Seals, tiles and files stay, so that [`crate::verify`] computes the tree on, and what left can
//! still be proved ([`crate::evidence`]).
//!
//! Only the database's owner can do this; the roles of our programs cannot drop anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::ToSpan as _;
use jiff::civil::Date;
use pec_core::clock::Moment;
use pec_core::identifier::hex;
use pec_host::NO_QUEUE_ID;
use pec_host::parameters::Settings;
use pec_host::read;
use pec_state::event::Event;
use pec_state::rows::TimeSource;
use tokio_postgres::Client;

use crate::checkpoint::origin;
use crate::days::{date, directory, file_of};
use crate::error::RegisterError;
use crate::prover::digest;
use crate::ranges::Ranges;
use crate::row::{Row, entry};
use crate::rows::{each_row, joined};
use crate::sealer::{Seal, seals};
use crate::tree::Tiles;
use crate::tsa::TsaCas;
use crate::verify_files::{Fault, Trust, each_line, proofs, verify_files};

/// A month that left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// `YYYY-MM`.
    pub month: String,
    /// How many rows.
    pub rows: u64,
    /// In how many days' files they are.
    pub files: usize,
}

/// The first of a month (`YYYY-MM`).
fn first_of(month: &str) -> Option<Date> {
    (month.len() == 7).then(|| format!("{month}-01").parse().ok())?
}

fn name_of(month: Date) -> String {
    month.strftime("%Y-%m").to_string()
}

fn today(now: Moment) -> Date {
    jiff::Timestamp::from_second(now.unix()).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// From which day on a month may leave: `months` after its end.
fn free_from(month: Date, months: u32) -> Date {
    month.saturating_add(i64::from(months).months()).saturating_add(1.month())
}

/// The months in the database that may leave, the oldest first.
pub async fn due(client: &Client, months: u32, now: Moment) -> Result<Vec<String>, RegisterError> {
    let sql = "
        SELECT c.relname
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'log'::regclass
        ORDER BY c.relname";
    let names = client.query(sql, &[]).await?.into_iter().map(|row| row.get::<_, String>(0));
    let months_there = names.filter_map(|name| first_of(&name.strip_prefix("log_")?.replace('_', "-")));
    Ok(months_there.filter(|month| free_from(*month, months) <= today(now)).map(name_of).collect())
}

/// Has the month (`YYYY-MM`) leave. `client` is the owner's connection.
pub async fn retire(
    settings: &Settings,
    client: &Client,
    month: &str,
    now: Moment,
) -> Result<Retired, RegisterError> {
    let first = first_of(month).ok_or_else(|| RegisterError::NoMonth(month.to_owned()))?;
    let (month, months) = (name_of(first), settings.log_months);
    let from = free_from(first, months);
    if from > today(now) {
        return Err(RegisterError::TooYoung { month, months, from: from.to_string() });
    }
    if client.query_one("SELECT to_regclass($1) IS NULL", &[&partition_of(first)]).await?.get(0) {
        return Err(RegisterError::NoSuchMonth(month));
    }
    client.batch_execute("BEGIN").await?;
    let done = leave(settings, client, first, &month, now).await;
    client.batch_execute(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    done
}

fn partition_of(month: Date) -> String {
    format!("log_{}", month.strftime("%Y_%m"))
}

/// All within one transaction.
async fn leave(
    settings: &Settings,
    client: &Client,
    first: Date,
    month: &str,
    now: Moment,
) -> Result<Retired, RegisterError> {
    let partition = partition_of(first);
    // What is proved of the partition is so until it is gone; it is read meanwhile. Mail waits for a lock of
    // ours no longer than its own statements may take.
    client
        .batch_execute(&format!("SET LOCAL lock_timeout = '5s'; LOCK TABLE {partition} IN SHARE MODE"))
        .await?;
    let proved = prove(settings, client, first, month).await?;

    let files: Vec<String> = proved.files.iter().map(|(name, sha256)| format!("{name} {sha256}")).collect();
    let rows = i64::try_from(proved.rows).unwrap_or(i64::MAX);
    let sql = "
        INSERT INTO retired (month, first_seq, last_seq, rows, files, retired_at)
        VALUES ($1::text::date, $2, $3, $4, $5, to_timestamp($6::int8))";
    client
        .execute(sql, &[&first.to_string(), &proved.first, &proved.last, &rows, &files, &now.unix()])
        .await?;
    let sql = "
        INSERT INTO log (happened_at, event, identificativo, mittente, destinatari, gestore,
                         certified_by, recipients, queue_id, time_source, error)
        VALUES (to_timestamp($1::int8), $2, $3, '', '{}', '', $4, '{}', $5, $6, $7)";
    let words = format!(
        "{rows} rows of {month} have left the database; they are in {} days' files, which verified",
        files.len()
    );
    let (event, time_source) = (Event::RegistroRitirato.name(), TimeSource::Clock.as_str());
    let identificativo = format!("ritiro-{month}");
    client
        .execute(
            sql,
            &[
                &now.unix(),
                &event,
                &identificativo,
                &settings.provider_name,
                &NO_QUEUE_ID,
                &time_source,
                &words,
            ],
        )
        .await?;
    client.batch_execute(&format!("DROP TABLE {partition}")).await?;
    Ok(Retired { month: month.to_owned(), rows: proved.rows, files: files.len() })
}

struct Proved {
    rows: u64,
    first: i64,
    last: i64,
    /// Name and SHA-256 of each.
    files: Vec<(String, String)>,
}

/// Proves that the days' files have all rows of the month as they are in the database, and that these are all
/// that were sealed.
async fn prove(
    settings: &Settings,
    client: &Client,
    first: Date,
    month: &str,
) -> Result<Proved, RegisterError> {
    let not = &|why: String| RegisterError::NotProved { month: month.to_owned(), why };
    let partition = partition_of(first);
    let row = client
        .query_one(
            &format!("SELECT count(*), coalesce(min(seq), 0), coalesce(max(seq), -1) FROM {partition}"),
            &[],
        )
        .await?;
    let (rows, lowest, highest): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));

    // The seals of its rows, by the day in whose file they are. A row that came late is in a later one.
    let mut by_day: BTreeMap<String, Vec<Seal>> = BTreeMap::new();
    for seal in
        seals(client, &format!("seqs && int8multirange(int8range({lowest}, {}))", highest.saturating_add(1)))
            .await?
    {
        by_day.entry(date(seal.day)).or_default().push(seal);
    }
    // And its days, on which perhaps nothing came: the files go on without a gap. The register may have begun
    // in that month.
    let began: Option<String> = client.query_one("SELECT min(day)::text FROM day_file", &[]).await?.get(0);
    let end = first.saturating_add(1.month());
    let its_days = first.series(1.day()).take_while(|day| *day < end).map(|day| day.to_string());
    let mut days: BTreeSet<String> =
        its_days.filter(|day| began.as_ref().is_none_or(|began| day >= began)).collect();
    days.extend(by_day.keys().cloned());
    check_files(settings, &days, not)?;

    let mut proved = Proved { rows: 0, first: lowest, last: highest, files: Vec::new() };
    for day in &days {
        let file = file_of(&settings.register, day);
        let mut entries = Vec::new();
        let (header, sha256) = each_line(&file, |_, entry| entries.push(*entry))
            .map_err(|fault: Fault| not(fault.to_string()))?;
        let known =
            client.query_opt("SELECT sha256 FROM day_file WHERE day = $1::text::date", &[day]).await?;
        if known.is_none_or(|row| row.get::<_, Vec<u8>>(0) != sha256) {
            return Err(not(format!(
                "{} is another file than the one that was made then (day_file)",
                file.display()
            )));
        }
        for seal in by_day.get(day).into_iter().flatten() {
            let from = usize::try_from(seal.first.saturating_sub(header.first_leaf)).unwrap_or(usize::MAX);
            let of_file =
                |seq: i64| entries.get(from.checked_add(usize::try_from(seal.seqs.place(seq)?).ok()?)?);
            let condition = format!(
                "{}
                 WHERE log.recorded_at >= '{first} 00:00:00+00' AND log.recorded_at < '{end} 00:00:00+00'
                 ORDER BY log.seq",
                joined(&seal.seqs)
            );
            let mut other = None;
            each_row(client, &condition, |row| {
                if of_file(row.seq) == Some(&entry(row.line)) {
                    proved.rows += 1;
                } else {
                    other = other.or(Some(row.seq));
                }
            })
            .await?;
            if let Some(seq) = other {
                return Err(not(format!("row {seq} is not in {} as it is in the database", file.display())));
            }
            let gone = count_gone(client, &seal.seqs, lowest, highest).await?;
            if gone > 0 {
                return Err(not(format!(
                    "{gone} rows that are in {} are not in the database: `pecctl log verify` names them",
                    file.display()
                )));
            }
        }
        let name = file.strip_prefix(directory(&settings.register)).unwrap_or(&file).display().to_string();
        proved.files.push((name, hex(&digest(&file).map_err(RegisterError::file(&file))?)));
    }
    if proved.rows != rows.unsigned_abs() {
        return Err(not(format!(
            "the database has {rows} rows of it, the days' files have {} of them",
            proved.rows
        )));
    }
    Ok(proved)
}

/// How many of these rows, as far as their numbers are between those, are in the log no more, in no month of
/// it that has not left.
async fn count_gone(client: &Client, seqs: &Ranges, lowest: i64, highest: i64) -> Result<u64, RegisterError> {
    let beyond = Ranges::of(i64::MIN, lowest).with(&Ranges::of(highest.saturating_add(1), i64::MAX));
    let mut left = seqs.without(&beyond);
    for row in client.query("SELECT first_seq, last_seq FROM retired", &[]).await? {
        left = left.without(&Ranges::of(row.get(0), row.get::<_, i64>(1).saturating_add(1)));
    }
    let sql = format!("SELECT count(*) FROM log {}", joined(&left));
    let here: i64 = client.query_one(&sql, &[]).await?.get(0);
    Ok(left.count().saturating_sub(here.unsigned_abs()))
}

/// The files of these days are all there and verify, each with a timestamp where there is a TSA.
fn check_files(
    settings: &Settings,
    days: &BTreeSet<String>,
    not: impl Fn(String) -> RegisterError,
) -> Result<(), RegisterError> {
    let register = &settings.register;
    let files: Vec<PathBuf> = days.iter().map(|day| file_of(register, day)).collect();
    if let Some(missing) = files.iter().find(|file| !file.exists()) {
        return Err(not(format!("{} is missing", missing.display())));
    }
    let cas = read::trusted_cas(&settings.ca_file)?;
    let tsa = settings.timestamps.as_ref().map(|timestamps| TsaCas::read(&timestamps.ca_file)).transpose()?;
    let trust = Trust { cas: &cas, tsa: tsa.as_ref(), log_keys: &[] };
    let keys = proofs(register, &origin(settings), &trust, &[])?.keys;
    if keys.is_empty() {
        return Err(not(format!(
            "{} is not signed by the provider, nor is any log key of before",
            register.join("log.key").display()
        )));
    }
    let outcome = verify_files(&files, &Trust { log_keys: &keys, ..trust }, Some(&Tiles::new(register)));
    if let Some(fault) = outcome.faults.first() {
        return Err(not(fault.to_string()));
    }
    // One that came late is a timestamp all the same.
    match outcome.days.iter().find(|day| tsa.is_some() && day.timestamp.is_none()) {
        Some(day) => Err(not(format!("{} has no timestamp", file_of(register, &day.day).display()))),
        None => Ok(()),
    }
}

/// The lines of rows that have left the database and about which `is_wanted` says so, from the days' files.
/// Only lines with one of `words` in them are asked about.
pub async fn lines_that_left(
    settings: &Settings,
    client: &Client,
    words: &[String],
    is_wanted: impl Fn(&Row) -> bool,
) -> Result<Vec<String>, RegisterError> {
    let mut files = BTreeSet::new();
    for row in client.query("SELECT files FROM retired", &[]).await? {
        files.extend(
            row.get::<_, Vec<String>>(0)
                .into_iter()
                .filter_map(|file| Some(file.split_once(' ')?.0.to_owned())),
        );
    }
    let mut found = Vec::new();
    for name in files {
        let file = directory(&settings.register).join(name);
        let read = each_line(&file, |line, _| {
            if words.iter().any(|word| line.contains(word.as_str()))
                && Row::from_line(line).is_ok_and(|row| is_wanted(&row))
            {
                found.push(line.to_owned());
            }
        });
        read.map_err(|fault| RegisterError::RowsThatLeft(fault.to_string()))?;
    }
    Ok(found)
}
