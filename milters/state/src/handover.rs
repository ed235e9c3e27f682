//! What is being handed over: to a mailbox, or a notice to Postfix.
//!
//! Promise: a row says so before the first byte goes, and what was taken is never handed over again. A handing over that a crash cut off, or
//! whose answer was lost, stays open for ever: the message may be there.

use pec_core::clock::Moment;
use tokio_postgres::types::ToSql;

use crate::authentic::{Content, Row};
use crate::database::{Database, DatabaseError};
use crate::rows::Custody;

/// What is known when a handing over begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It may go.
    Now {
        /// It was handed over before, and how that ended is not known: the message may be there.
        again: bool,
    },
    /// It was taken at that moment.
    Taken(Moment),
}

/// Message and recipient are $1 and $2.
const BEGIN: &str = "INSERT INTO handover AS h (message, recipient, open) VALUES ($1, $2, 1) ON CONFLICT (message, recipient) \
     DO UPDATE SET open = h.open + 1 RETURNING open, extract(epoch FROM stored_at)::int8, mac";

/// The copies of an envelope ($3 and $4: its provider and identifier) that the recipient $2 may have.
const OPEN_COPIES: &str = "SELECT 1 FROM custody AS c JOIN handover AS h ON h.message = c.envid \
     WHERE c.provider = $3 AND c.identificativo = $4 AND h.recipient = $2 AND h.open > 0";

/// That a message was taken: the row's MAC is over this.
struct TakenAt<'a> {
    message: &'a str,
    recipient: &'a str,
    at: Moment,
}

impl Row for TakenAt<'_> {
    const TABLE: &'static str = "handover";

    fn write(&self, content: &mut Content) {
        content.text(self.message).text(self.recipient).number(self.at.unix());
    }

    fn key(&self) -> &str {
        self.message
    }
}

impl Database {
    /// Begins to hand the message with this ENVID over to `recipient` (a key).
    pub async fn begin_handover(&self, message: &str, recipient: &str) -> Result<Begun, DatabaseError> {
        let row = self.query_opt(&format!("{BEGIN}, false"), &[&message, &recipient]).await?;
        self.begun(row, message, recipient)
    }

    /// The same of an envelope, any copy of which `recipient` may have: its provider brings it again where it did not hear that we
    /// have it.
    pub async fn begin_handover_of(&self, custody: &Custody, recipient: &str) -> Result<Begun, DatabaseError> {
        let other_copy = format!("EXISTS ({OPEN_COPIES} AND h.message <> $1)");
        let values: [&(dyn ToSql + Sync); 4] = [&custody.envid, &recipient, &custody.provider, &custody.identificativo];
        let row = self.query_opt(&format!("{BEGIN}, {other_copy}"), &values).await?;
        self.begun(row, &custody.envid, recipient)
    }

    /// The columns of [`BEGIN`], and whether there is another copy.
    fn begun(&self, row: Option<tokio_postgres::Row>, message: &str, recipient: &str) -> Result<Begun, DatabaseError> {
        let row = row.ok_or_else(|| DatabaseError::Content("a handing over was neither written nor found".to_owned()))?;
        let (open, taken, other_copy): (i32, Option<i64>, bool) = (row.get(0), row.get(1), row.get(3));
        let Some(taken) = taken else { return Ok(Begun::Now { again: open > 1 || other_copy }) };
        let at = Moment::from_unix(taken);
        self.believed(TakenAt { message, recipient, at }, row.get::<_, Option<Vec<u8>>>(2).unwrap_or_default())?;
        Ok(Begun::Taken(at))
    }

    /// When the message with this ENVID was taken from us for `recipient` (a key), if it was.
    pub async fn taken_at(&self, message: &str, recipient: &str) -> Result<Option<Moment>, DatabaseError> {
        let sql = "SELECT extract(epoch FROM stored_at)::int8, mac FROM handover WHERE message = $1 AND recipient = $2 AND stored_at IS NOT NULL";
        let Some(row) = self.query_opt(sql, &[&message, &recipient]).await? else { return Ok(None) };
        let at = Moment::from_unix(row.get(0));
        self.believed(TakenAt { message, recipient, at }, row.get::<_, Option<Vec<u8>>>(1).unwrap_or_default())?;
        Ok(Some(at))
    }

    /// One that began was answered no, or nothing was given: it is not open. Where the answer is that there is no such mailbox
    /// (`no_mailbox`), gives back since when nothing else was answered.
    pub async fn end_handover(&self, message: &str, recipient: &str, no_mailbox: Option<Moment>) -> Result<Option<Moment>, DatabaseError> {
        let sql = "UPDATE handover SET open = greatest(open - 1, 0), \
                   no_mailbox_at = CASE WHEN $3::int8 IS NOT NULL THEN coalesce(no_mailbox_at, to_timestamp($3::int8)) END \
                   WHERE message = $1 AND recipient = $2 RETURNING extract(epoch FROM no_mailbox_at)::int8";
        let row = self.query_opt(sql, &[&message, &recipient, &no_mailbox.map(Moment::unix)]).await?;
        Ok(row.and_then(|row| row.get::<_, Option<i64>>(0)).map(Moment::from_unix))
    }

    /// One that began was answered yes at `at`. Of a notice of ours (`message` is its fact) nobody has anything to do any more.
    pub async fn take_handover(&self, message: &str, recipient: &str, at: Moment) -> Result<(), DatabaseError> {
        let taken = self.authentic(TakenAt { message, recipient, at })?;
        let sql = "WITH handover AS (UPDATE handover SET open = 0, stored_at = to_timestamp($3::int8), mac = $4 WHERE message = $1 AND recipient = $2) \
                   UPDATE fact SET handed_over = true WHERE id = $1";
        self.execute(sql, &[&message, &recipient, &at.unix(), taken.mac().column()]).await?;
        Ok(())
    }

    /// Whether `recipient` (a key) may have a copy of this envelope, though nobody here heard yes.
    pub async fn is_handover_open(&self, custody: &Custody, recipient: &str) -> Result<bool, DatabaseError> {
        let sql = format!("{OPEN_COPIES} AND $1::text IS NOT NULL LIMIT 1");
        let values: [&(dyn ToSql + Sync); 4] = [&custody.envid, &recipient, &custody.provider, &custody.identificativo];
        Ok(self.query_opt(&sql, &values).await?.is_some())
    }
}
