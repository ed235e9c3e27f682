//! The table `not_accepted`: submissions that the Access Point did not accept.
//!
//! Promise: a row is written with the fact of it and with its log row, or nothing is. What is read is
//! believed, or an alarm.

use crate::authentic::{Authentic, Content, Row};
use crate::database::Database;
use crate::fact::{Fact, MadeNotice};
use crate::log::Entry;
use crate::pool::DatabaseError;
use crate::sql::{Insert, Sql, columns};
use crate::{fact, log};

/// A submission that the Access Point did not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAccepted {
    /// [`Fact::source`] of the notice about it.
    pub id: String,
    /// Our own name at that time.
    pub provider: String,
    /// The notice's daticert.xml; the cause in Italian is its `errore-esteso`.
    pub daticert: String,
    /// The cause in English.
    pub inglese: String,
}

impl Row for NotAccepted {
    const TABLE: &'static str = "not_accepted";

    fn write(&self, content: &mut Content) {
        content.text(&self.id).text(&self.provider).text(&self.daticert).text(&self.inglese);
    }

    fn key(&self) -> &str {
        &self.id
    }
}

const COLUMNS: &str = columns!("not_accepted": "id", "provider", "daticert", "inglese", "mac");

/// The insertion of a row.
fn insert(refused: &Authentic<NotAccepted>) -> Sql<'_> {
    Insert::into("not_accepted")
        .column("id", &refused.id)
        .column("provider", &refused.provider)
        .column("daticert", &refused.daticert)
        .column("inglese", &refused.inglese)
        .column("mac", refused.mac().column())
        .sql()
}

impl Database {
    /// Writes that a submission was not accepted: what its notice is about, the fact, its log row.
    pub async fn insert_not_accepted(
        &self,
        refused: &Authentic<NotAccepted>,
        fact: Fact,
        made: &MadeNotice,
        log: &Entry,
    ) -> Result<(), DatabaseError> {
        let fact = self.authentic(fact)?;
        let notice = self.notice_of(&fact, made)?;
        let sql = Sql::with("refused", insert(refused))
            .and_with("fact", fact::insert(&fact, Some(&notice)))
            .then(log::insert(log));
        self.execute(sql).await?;
        Ok(())
    }

    /// The submission that a notice of non-acceptance is about.
    pub async fn not_accepted(&self, id: &str) -> Result<Option<Authentic<NotAccepted>>, DatabaseError> {
        let sql = Sql::select(&[COLUMNS]).text(" FROM not_accepted").value(" WHERE id = ", id);
        let Some(r) = self.query_opt(sql).await? else { return Ok(None) };
        let refused = NotAccepted {
            id: r.get("not_accepted.id"),
            provider: r.get("not_accepted.provider"),
            daticert: r.get("not_accepted.daticert"),
            inglese: r.get("not_accepted.inglese"),
        };
        self.believed(refused, r.get("not_accepted.mac")).map(Some)
    }
}
