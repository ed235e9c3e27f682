//! The table `passed`: what a milter let pass to mailboxes of ours besides envelopes.
//!
//! Promise: pec-delivery hands over what has a row here or in `custody` or `fact`, and nothing else. What is
//! read is believed, or an alarm.

use tokio_postgres::Row as Columns;

use crate::authentic::{Authentic, Content, Row};
use crate::database::{Database, spelled};
use crate::log;
use crate::log::Entry;
use crate::pool::DatabaseError;
use crate::sql::{Insert, Sql, columns};

pec_core::spelled! {
    /// What a milter let pass to mailboxes of ours besides envelopes.
    PassedKind {
        /// A receipt or notice of a provider about a message of ours, for whom it is: a full mailbox takes
        /// it.
        RicevutaDovuta = "ricevuta-dovuta",
        /// Any other receipt or notice of a provider.
        Ricevuta = "ricevuta",
        /// What is no certified mail, in its busta di anomalia.
        Anomalia = "anomalia",
        /// Postfix's own words about what it could not deliver: a full mailbox takes them.
        Rapporto = "rapporto",
        /// A message of a program of this host to a service mailbox.
        Locale = "locale",
    }
}

impl PassedKind {
    /// Whether a full mailbox takes it all the same.
    pub fn passes_quota(self) -> bool {
        matches!(self, Self::RicevutaDovuta | Self::Rapporto)
    }
}

/// A message that a milter let pass to mailboxes of ours: pec-delivery hands over what has such a row, and
/// nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The SMTP envelope id under which Postfix hands it to pec-delivery.
    pub envid: String,
    /// What it is.
    pub kind: PassedKind,
    /// SHA-256 of its body.
    pub body_sha256: Vec<u8>,
    /// For whom (keys).
    pub recipients: Vec<String>,
}

impl Row for Passed {
    const TABLE: &'static str = "passed";

    fn write(&self, content: &mut Content) {
        content.text(&self.envid).text(self.kind.as_str()).bytes(&self.body_sha256).texts(&self.recipients);
    }

    fn key(&self) -> &str {
        &self.envid
    }
}

/// What [`Database::passed_row`] reads.
pub(crate) const COLUMNS: &str = columns!("passed": "envid", "kind", "body_sha256", "recipients", "mac");

/// The insertion of a row.
fn insert(passed: &Authentic<Passed>) -> Sql<'_> {
    Insert::into("passed")
        .column("envid", &passed.envid)
        .column("kind", passed.kind.as_str())
        .column("body_sha256", &passed.body_sha256)
        .column("recipients", &passed.recipients)
        .column("mac", passed.mac().column())
        .sql()
}

/// The insertion of `new` or of `again`, which differ in kind and MAC alone: of `new` where the column `yes`
/// of `is_new` is true.
pub(crate) fn insert_one_of<'a>(new: &'a Authentic<Passed>, again: &'a Authentic<Passed>) -> Sql<'a> {
    // An expression of parameters alone has no type of its own.
    let kind = Sql::new("CASE WHEN yes")
        .value(" THEN ", new.kind.as_str())
        .value("::text ELSE ", again.kind.as_str())
        .text("::text END");
    let mac = Sql::new("CASE WHEN yes")
        .value(" THEN ", new.mac().column())
        .value("::bytea ELSE ", again.mac().column())
        .text("::bytea END");
    Insert::into("passed")
        .column("envid", &new.envid)
        .term("kind", kind)
        .column("body_sha256", &new.body_sha256)
        .column("recipients", &new.recipients)
        .term("mac", mac)
        .sql()
        .text(" FROM is_new")
}

impl Database {
    /// Writes what is let pass to mailboxes of ours, with its log row if it has one.
    pub async fn insert_passed(
        &self,
        passed: &Authentic<Passed>,
        log: Option<&Entry>,
    ) -> Result<(), DatabaseError> {
        let passed = insert(passed);
        self.execute(match log {
            Some(log) => Sql::with("passed", passed).then(log::insert(log)),
            None => passed,
        })
        .await?;
        Ok(())
    }

    /// What was let pass, in a row with [`COLUMNS`].
    pub(crate) fn passed_row(&self, r: &Columns) -> Result<Authentic<Passed>, DatabaseError> {
        let envid: String = r.get("passed.envid");
        let passed = Passed {
            kind: spelled(r, "passed.kind", Passed::TABLE, &envid)?,
            body_sha256: r.get("passed.body_sha256"),
            recipients: r.get("passed.recipients"),
            envid,
        };
        self.believed(passed, r.get("passed.mac"))
    }
}
