//! What pec-clock asks and writes: deadlines that are over, notices to start.
//!
//! Promise: every envelope whose deadline is over comes, in pages that have an end; a row that is not
//! believed is left out with its alarm, and hides no other.

use std::time::SystemTime;

use deadpool_postgres::{ClientWrapper, Object};
use pec_core::clock::Moment;
use pec_core::daticert::Tipo;
use pec_host::maillog;
use pec_host::outages::Outages;

use crate::authentic::Authentic;
use crate::database::Database;
use crate::fact::{Fact, Known};
use crate::fact_kind::FactKind;
use crate::pool::{DatabaseError, in_time};
use crate::sent::Sent;
use crate::sql::{Sql, Time};
use crate::{fact, sent};

/// Rows of one question; the next page follows.
const PAGE: i64 = 100;

/// The advisory lock of the one pec-clock that acts on a database: "pec_cloc".
const LOCK: i64 = 0x7065_635f_636c_6f63;

/// An accepted envelope, one of whose deadlines is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadline {
    /// The fact accettazione.
    pub fact: Authentic<Fact>,
    /// The envelope.
    pub sent: Authentic<Sent>,
    /// What is certified about its recipients, by us (facts) or by their providers (ricevute): kind and key.
    pub certified: Vec<(Tipo, String)>,
}

/// Where a page of deadlines ended: the time as the row has it, which another hand may have written with
/// fractions of a second, and the fact's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageEnd(SystemTime, String);

/// A notice to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToStart {
    /// The fact, and whether its notice was made.
    pub known: Known,
    /// When the envelope was signed, if it is one of ours; for a line in the log.
    pub accepted_at: Option<Moment>,
}

/// The right to act alone, as long as its connection lives.
pub struct Lock {
    client: ClientWrapper,
    outages: Outages,
}

impl Lock {
    /// Whether the connection still lives, and with it the lock.
    pub async fn is_held(&self) -> bool {
        in_time(&self.outages, self.client.simple_query("SELECT 1")).await.is_ok()
    }
}

impl Database {
    /// The right to act alone. `None`: another process has it.
    pub async fn act_alone(&self) -> Result<Option<Lock>, DatabaseError> {
        // Out of the pool: given back, the connection would keep the lock.
        let client = Object::take(self.connections.get().await?);
        let asked = client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]);
        let outages = self.connections.outages.clone();
        let is_ours: bool = in_time(&outages, asked).await?.get(0);
        Ok(is_ours.then_some(Lock { client, outages }))
    }

    /// Envelopes accepted at or before `until`, of whose deadlines `seen` have been seen to. In order of
    /// time, one page after the end of the page before; `None`: that was the last. A row that is not believed
    /// is left out, with its alarm.
    pub async fn deadlines(
        &self,
        seen: i16,
        until: Moment,
        after: Option<&PageEnd>,
    ) -> Result<(Vec<Deadline>, Option<PageEnd>), DatabaseError> {
        let (after_at, after_fact) =
            after.map_or((SystemTime::UNIX_EPOCH, ""), |PageEnd(at, fact)| (*at, fact.as_str()));
        // The constants are those of the partial index.
        let page = Sql::new("SELECT * FROM fact")
            .text(" WHERE kind")
            .is(FactKind::Accettazione)
            .text(" AND deadlines_seen < 2")
            .value(" AND deadlines_seen = ", seen)
            .value(" AND happened_at <= ", Time(until))
            .value(" AND (happened_at, id) > (", after_at)
            .value(", ", after_fact)
            .value(") ORDER BY happened_at, id LIMIT ", PAGE);
        let sql = Sql::select(&[fact::COLUMNS, sent::COLUMNS])
            .text(" FROM (")
            .then(page)
            // Whatever the source is: a page of facts about nothing is not the last page.
            .text(") AS fact LEFT JOIN sent ON sent.id = fact.source")
            .text(" ORDER BY fact.happened_at, fact.id");
        let rows = self.query(sql).await?;
        let end = rows.last().map(|r| PageEnd(r.get("fact.happened_at"), r.get("fact.id")));
        let mut deadlines: Vec<Deadline> = Vec::new();
        for r in &rows {
            let Ok(fact) = self.fact_row(r) else { continue };
            if r.get::<_, Option<&str>>("sent.id").is_none() {
                maillog::forged_row("fact", &fact.id);
                continue;
            }
            let Ok(sent) = self.sent_row(r) else { continue };
            if fact.source_mac == *sent.mac() {
                deadlines.push(Deadline { fact, sent, certified: Vec::new() });
            } else {
                maillog::forged_row("fact", &fact.id);
            }
        }
        let identificativi: Vec<_> = deadlines.iter().map(|d| d.sent.identificativo.clone()).collect();
        let mut certified =
            self.certified(&identificativi.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        for deadline in &mut deadlines {
            deadline.certified = certified.remove(&deadline.sent.identificativo).unwrap_or_default();
        }
        Ok((deadlines, end))
    }

    /// Writes how many deadlines of an envelope have been seen to; `fact` is its accettazione.
    pub async fn set_deadlines_seen(&self, fact: &str, seen: i16) -> Result<(), DatabaseError> {
        let sql = Sql::new("UPDATE fact").value(" SET deadlines_seen = ", seen).value(" WHERE id = ", fact);
        self.execute(sql).await?;
        Ok(())
    }

    /// Facts whose notice nobody is known to have handed over, and which need no message that Postfix still
    /// holds: deadlines first, which have a time limit. A rilevazione virus counts once its envelope is known
    /// to be in the queue: another copy may have come and be clean. (Accettazione, presa in carico and
    /// avvenuta consegna come with their envelope, which Postfix holds until their notice is handed over.) A
    /// row that is not believed is left out, with its alarm.
    pub async fn to_start(&self) -> Result<Vec<ToStart>, DatabaseError> {
        let sql = Sql::select(&[
            fact::COLUMNS,
            "(SELECT signed_at FROM sent WHERE sent.id = fact.source) AS accepted_at",
        ])
        .text(" FROM fact WHERE NOT handed_over")
        .text(" AND kind")
        .one_of(FactKind::ALL.iter().filter(|kind| kind.is_started_by_clock()))
        .text(" AND (NOT kind")
        .is(FactKind::RilevazioneVirus)
        .text(" OR EXISTS (SELECT FROM fact AS presa WHERE presa.source = fact.source AND presa.kind")
        .is(FactKind::PresaInCarico)
        .text(")) ORDER BY NOT kind")
        .one_of(FactKind::ALL.iter().filter(|kind| kind.has_deadline()))
        .text(", happened_at, kind, id");
        let rows = self.query(sql).await?;
        let to_start = |r: &tokio_postgres::Row| {
            let known = self.known(r).ok()?;
            let accepted_at = r.get::<_, Option<Time>>("accepted_at").map(|Time(at)| at);
            Some(ToStart { known, accepted_at })
        };
        Ok(rows.iter().filter_map(to_start).collect())
    }
}
