//! The table `formerly`: domains and certificates that a record of the directory had until a time, and has no
//! longer.
//!
//! Promise: what counts no longer is written before the directory that says so is in force. What is read
//! is believed, or an alarm.

use pec_core::clock::Moment;

use crate::authentic::{Content, Row};
use crate::database::Database;
use crate::pool::DatabaseError;
use crate::sql::{Sql, Time};

/// For how long programs that take up one directory write the same once. In seconds.
const ONE_CHANGE: i64 = 600;

/// How many rows a statement writes.
const AT_ONCE: usize = 5_000;

/// How many records are read for a message.
const MOST: i64 = 50;

/// A domain or certificate that a record had until then.
#[derive(Debug)]
struct Formerly<'a> {
    what: &'a str,
    until: Moment,
    /// The record, of its domains with this one alone, as LDIF.
    record: &'a str,
}

impl Row for Formerly<'_> {
    const TABLE: &'static str = "formerly";

    fn write(&self, content: &mut Content) {
        content.text(self.what).number(self.until.unix()).text(self.record);
    }

    fn key(&self) -> &str {
        self.what
    }
}

impl Database {
    /// Writes that the record (LDIF) beside each of these domains and certificates had it until `until`. What
    /// another program has just written about the same change is not written again.
    pub async fn insert_formerly(
        &self,
        gone: &[(String, String)],
        until: Moment,
    ) -> Result<(), DatabaseError> {
        for some in gone.chunks(AT_ONCE) {
            let mac = |(what, record): &(String, String)| {
                Ok(self.authentic(Formerly { what, until, record })?.mac().column().clone())
            };
            let macs = some.iter().map(mac).collect::<Result<Vec<_>, DatabaseError>>()?;
            let (all, records): (Vec<&str>, Vec<&str>) =
                some.iter().map(|(what, record)| (what.as_str(), record.as_str())).unzip();
            let since = Moment::from_unix(until.unix() - ONE_CHANGE);
            let sql = Sql::new("INSERT INTO formerly (what, until, record, mac)")
                .value(" SELECT new.what, ", Time(until))
                .value(", new.record, new.mac FROM unnest(", all)
                .value("::text[], ", records)
                .value("::text[], ", macs)
                .text("::bytea[]) AS new (what, record, mac) WHERE NOT EXISTS (SELECT FROM formerly AS old")
                .value(
                    " WHERE old.what = new.what AND old.record = new.record AND old.until >= ",
                    Time(since),
                )
                .text(")");
            self.execute(sql).await?;
        }
        Ok(())
    }

    /// The records (LDIF) that had one of `what`, domains or certificates' hashes (in lower case), at some time
    /// since `since` and have it no longer, with their end, the latest first.
    pub async fn formerly(
        &self,
        what: &[String],
        since: Moment,
    ) -> Result<Vec<(Moment, String)>, DatabaseError> {
        let sql = Sql::new("SELECT what, until, record, mac FROM formerly")
            .value(" WHERE what = ANY(", what)
            .value(") AND until >= ", Time(since))
            .value(" ORDER BY until DESC LIMIT ", MOST);
        let read = self.query(sql).await?;
        let believed = read.iter().map(|row| {
            let (Time(until), what, record): (Time, String, String) =
                (row.get("until"), row.get("what"), row.get("record"));
            self.believed(Formerly { what: &what, until, record: &record }, row.get("mac"))?;
            Ok((until, record))
        });
        believed.collect()
    }
}
