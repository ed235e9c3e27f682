//! What pec-clock asks and writes: deadlines that are over, notices to start.

use deadpool_postgres::{ClientWrapper, Object};
use pec_core::clock::Moment;
use pec_host::maillog;

use crate::authentic::Authentic;
use crate::database::{Database, FACT, FACT_COLUMNS, Known, SENT};
use crate::pool::{Connections, DatabaseError};
use crate::rows::{Fact, Sent};

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
    pub certified: Vec<(String, String)>,
}

/// Where a page of deadlines ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageEnd(i64, String);

/// A notice to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToRaise {
    /// The fact, and whether its notice was made.
    pub known: Known,
    /// When the envelope was signed, if it is one of ours; for a line in the log.
    pub accepted_at: Option<Moment>,
}

/// The right to act alone, as long as its connection lives.
pub struct Lock {
    client: ClientWrapper,
    connections: Connections,
}

impl Lock {
    /// Whether the connection still lives, and with it the lock.
    pub async fn is_held(&self) -> bool {
        self.connections.patiently(self.client.simple_query("SELECT 1")).await.is_ok()
    }
}

impl Database {
    /// The right to act alone. `None`: another process has it.
    pub async fn act_alone(&self) -> Result<Option<Lock>, DatabaseError> {
        // Out of the pool: given back, the connection would keep the lock.
        let client = Object::take(self.connections.get().await?);
        let asked = client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]);
        let is_ours: bool = self.connections.patiently(asked).await?.get(0);
        let connections = self.connections.clone();
        Ok(is_ours.then_some(Lock { client, connections }))
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
            after.map_or((0, String::new()), |PageEnd(at, fact)| (*at, fact.clone()));
        // The constants are those of the partial index.
        let sql = format!(
            "SELECT f.*, s.* FROM (SELECT {FACT} FROM fact \
                 WHERE kind = 'accettazione' AND deadlines_seen < 2 AND deadlines_seen = $1 AND happened_at \
            <= to_timestamp($2::int8) \
                   AND (happened_at, id) > (to_timestamp($3::int8), $4) ORDER BY happened_at, id LIMIT $5) \
            AS f \
             JOIN (SELECT {SENT} FROM sent) AS s ON s.id = f.source ORDER BY 8, 1"
        );
        let rows = self.query(&sql, &[&seen, &until.unix(), &after_at, &after_fact, &PAGE]).await?;
        let end = rows.last().map(|r| PageEnd(r.get(7), r.get(0)));
        let mut deadlines: Vec<Deadline> = Vec::new();
        for r in &rows {
            let (Ok(fact), Ok(sent)) = (self.fact_row(r, 0), self.sent_row(r, FACT_COLUMNS)) else {
                continue;
            };
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
        self.execute("UPDATE fact SET deadlines_seen = $2 WHERE id = $1", &[&fact, &seen]).await?;
        Ok(())
    }

    /// Facts whose notice nobody is known to have handed over, and which need no message that Postfix still
    /// holds: deadlines first, which have a time limit. A rilevazione virus counts once its envelope is known
    /// to be in the queue: another copy may have come and be clean. (Accettazione, presa in carico and
    /// avvenuta consegna come with their envelope, which Postfix holds until their notice is handed over.) A
    /// row that is not believed is left out, with its alarm.
    pub async fn to_raise(&self) -> Result<Vec<ToRaise>, DatabaseError> {
        let accepted_at =
            "(SELECT extract(epoch FROM signed_at)::int8 FROM sent WHERE sent.id = fact.source)";
        let condition = "NOT handed_over AND kind IN ('preavviso-12', 'preavviso-24', 'errore-consegna', \
            'rilevazione-virus') \
             AND (kind <> 'rilevazione-virus' OR EXISTS (SELECT FROM fact p WHERE p.kind = \
            'presa-in-carico' AND p.source = fact.source))";
        let rows = self
            .query(
                &format!(
                    "SELECT {FACT}, {accepted_at} FROM fact WHERE {condition} ORDER BY \
            kind NOT IN ('preavviso-12', 'preavviso-24'), happened_at, kind, id"
                ),
                &[],
            )
            .await?;
        let to_raise = |r: &tokio_postgres::Row| {
            let known = self.known(r, 0).ok()?;
            Some(ToRaise { known, accepted_at: r.get::<_, Option<i64>>(FACT_COLUMNS).map(Moment::from_unix) })
        };
        Ok(rows.iter().filter_map(to_raise).collect())
    }
}
