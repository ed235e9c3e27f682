//! What pec-clock asks and writes: deadlines that are over, notices to start, originals that nobody needs any more.

use deadpool_postgres::{ClientWrapper, Object};
use pec_core::clock::Moment;

use crate::database::{Database, DatabaseError, FACT, Known, known, patiently};

/// Rows of one question; the next page follows.
const PAGE: i64 = 100;

/// The advisory lock of the one pec-clock that acts on a database: "pec_cloc".
const LOCK: i64 = 0x7065_635f_636c_6f63;

/// An accepted envelope, one of whose deadlines is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadline {
    /// The fact accettazione.
    pub fact: String,
    /// [`Sent::id`](crate::rows::Sent::id).
    pub sent: String,
    /// Our name on it.
    pub provider: String,
    /// The PEC identifier.
    pub identificativo: String,
    /// When it was accepted.
    pub accepted_at: Moment,
    /// The envelope's daticert.xml.
    pub daticert: String,
    /// What is certified about its recipients, by us (facts) or by their providers (ricevute): kind and key.
    pub certified: Vec<(String, String)>,
}

/// A notice to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToRaise {
    /// The fact, and whether its notice was made.
    pub known: Known,
    /// When the envelope was accepted, if it is one of ours.
    pub accepted_at: Option<Moment>,
}

/// The right to act alone, as long as its connection lives.
pub struct Lock(ClientWrapper);

impl Lock {
    /// Whether the connection still lives, and with it the lock.
    pub async fn is_held(&self) -> bool {
        patiently(self.0.simple_query("SELECT 1")).await.is_ok()
    }
}

impl Database {
    /// The right to act alone. `None`: another process has it.
    pub async fn act_alone(&self) -> Result<Option<Lock>, DatabaseError> {
        // Out of the pool: given back, the connection would keep the lock.
        let client = Object::take(self.client().await?);
        let row = patiently(client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])).await?;
        Ok(row.get::<_, bool>(0).then_some(Lock(client)))
    }

    /// Envelopes accepted at or before `until`, of whose deadlines `seen` have been seen to. In order of time, one page after
    /// the last of the page before.
    pub async fn deadlines(&self, seen: i16, until: Moment, after: Option<&Deadline>) -> Result<Vec<Deadline>, DatabaseError> {
        let (after_at, after_fact) = after.map_or((0, String::new()), |last| (last.accepted_at.unix(), last.fact.clone()));
        // The constants are those of the partial index.
        let rows = self
            .query(
                "SELECT fact.id, fact.source, fact.provider, fact.identificativo, extract(epoch FROM fact.happened_at)::int8, sent.daticert, \
                    ARRAY(SELECT f.kind || ' ' || f.recipient FROM fact f WHERE f.provider = fact.provider AND f.identificativo = fact.identificativo \
                          UNION SELECT r.kind || ' ' || r.recipient FROM ricevuta r WHERE r.identificativo = fact.identificativo) \
                 FROM fact JOIN sent ON sent.id = fact.source \
                 WHERE fact.kind = 'accettazione' AND fact.deadlines_seen < 2 AND fact.deadlines_seen = $1 AND fact.happened_at <= to_timestamp($2::int8) \
                   AND (fact.happened_at, fact.id) > (to_timestamp($3::int8), $4) \
                 ORDER BY fact.happened_at, fact.id LIMIT $5",
                &[&seen, &until.unix(), &after_at, &after_fact, &PAGE],
            )
            .await?;
        Ok(rows
            .into_iter()
            .map(|r| Deadline {
                fact: r.get(0),
                sent: r.get(1),
                provider: r.get(2),
                identificativo: r.get(3),
                accepted_at: Moment::from_unix(r.get(4)),
                daticert: r.get(5),
                certified: r.get::<_, Vec<String>>(6).iter().flat_map(|row| about_each(row)).collect(),
            })
            .collect())
    }

    /// Writes how many deadlines of an envelope have been seen to; `fact` is its accettazione.
    pub async fn set_deadlines_seen(&self, fact: &str, seen: i16) -> Result<(), DatabaseError> {
        self.execute("UPDATE fact SET deadlines_seen = $2 WHERE id = $1", &[&fact, &seen]).await?;
        Ok(())
    }

    /// Facts whose notice nobody is known to have started: as long as no notice is made, and what pec-clock has begun to start
    /// until it has heard 250. What has a time limit stands first. A rilevazione virus counts once its envelope is known to be in the
    /// queue: another copy may have come and be clean. (Accettazione and presa in carico are written with their notice; their triggers are the envelope itself.)
    pub async fn to_raise(&self) -> Result<Vec<ToRaise>, DatabaseError> {
        let accepted_at = "(SELECT extract(epoch FROM signed_at)::int8 FROM sent WHERE sent.id = fact.source)";
        let condition = "NOT raised AND (notice_sha256 IS NULL OR raising) AND kind NOT IN ('accettazione', 'presa-in-carico') \
             AND (kind <> 'rilevazione-virus' OR EXISTS (SELECT FROM fact p WHERE p.kind = 'presa-in-carico' AND p.source = fact.source))";
        let rows = self.query(&format!("SELECT {FACT}, {accepted_at} FROM fact WHERE {condition} ORDER BY kind NOT IN ('preavviso-12', 'preavviso-24'), happened_at, kind, id"), &[]).await?;
        rows.iter().map(|r| Ok(ToRaise { known: known(r)?, accepted_at: r.get::<_, Option<i64>>(13).map(Moment::from_unix) })).collect()
    }

    /// Writes that pec-clock starts the notice of a fact, whose trigger `name` may come round with a body of this hash. From
    /// now on it is started until [`Database::set_raised`]: that pec-notices has made it does not say that Postfix has it.
    pub async fn set_raising(&self, fact: &str, name: &str, body_sha256: &[u8]) -> Result<(), DatabaseError> {
        let sql = "WITH fact AS (UPDATE fact SET raising = true WHERE id = $1) \
                   INSERT INTO trigger_body (trigger_name, body_sha256) VALUES ($2, $3) ON CONFLICT DO NOTHING";
        self.execute(sql, &[&fact, &name, &body_sha256]).await?;
        Ok(())
    }

    /// Writes that the notice of a fact is in Postfix's queue.
    pub async fn set_raised(&self, fact: &str) -> Result<(), DatabaseError> {
        self.execute("UPDATE fact SET raised = true WHERE id = $1", &[&fact]).await?;
        Ok(())
    }

    /// Copies in custody whose original nobody needs any more: every recipient has its final fact, each with its notice made and
    /// not about to be started again, and the last of them happened at or before `until`.
    pub async fn originals_to_delete(&self, until: Moment) -> Result<Vec<String>, DatabaseError> {
        let rows = self
            .query(
                "SELECT id FROM custody WHERE original_deleted_at IS NULL AND taken_at <= to_timestamp($1::int8) AND NOT EXISTS ( \
                    SELECT FROM unnest(recipients) AS r (address) LEFT JOIN fact ON fact.provider = custody.provider \
                        AND fact.identificativo = custody.identificativo AND fact.kind IN ('avvenuta-consegna', 'errore-consegna', 'rilevazione-virus') \
                        AND md5(fact.recipient) = md5(lower(r.address)) \
                    WHERE fact.id IS NULL OR fact.notice_sha256 IS NULL OR (fact.raising AND NOT fact.raised) OR fact.happened_at > to_timestamp($1::int8)) \
                 ORDER BY taken_at LIMIT $2",
                &[&until.unix(), &PAGE],
            )
            .await?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }

    /// Whether the original of a copy in custody is no longer in the store because nobody needed it any more.
    pub async fn is_original_deleted(&self, custody: &str) -> Result<bool, DatabaseError> {
        Ok(!self.query("SELECT 1 FROM custody WHERE id = $1 AND original_deleted_at IS NOT NULL", &[&custody]).await?.is_empty())
    }

    /// Writes that the original of a copy in custody is no longer in the store.
    pub async fn set_original_deleted(&self, custody: &str, at: Moment) -> Result<(), DatabaseError> {
        self.execute("UPDATE custody SET original_deleted_at = to_timestamp($2::int8) WHERE id = $1", &[&custody, &at.unix()]).await?;
        Ok(())
    }
}

/// `KIND KEY KEY ...` as pairs: a presa in carico is one fact for all recipients of a copy.
fn about_each(row: &str) -> Vec<(String, String)> {
    let mut words = row.split(' ');
    let kind = words.next().unwrap_or_default();
    words.filter(|key| !key.is_empty()).map(|key| (kind.to_owned(), key.to_owned())).collect()
}
