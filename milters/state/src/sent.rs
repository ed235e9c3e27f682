//! The table `sent`: envelopes that the Access Point signed.
//!
//! Promise: a row is written with its log row and with what recipients of ours have of the envelope, or
//! nothing is. What is read is believed, or an alarm.

use pec_core::clock::Moment;
use tokio_postgres::Row as Columns;

use crate::authentic::{Authentic, Content, Row};
use crate::custody::Custody;
use crate::database::Database;
use crate::log::Entry;
use crate::pool::DatabaseError;
use crate::sql::{Insert, Sql, Time, columns};

/// An envelope that the Access Point signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Names the triggers about it.
    pub id: String,
    /// The SMTP envelope id under which Postfix reports on it.
    pub envid: String,
    /// Our own name at that time.
    pub provider: String,
    /// The PEC identifier.
    pub identificativo: String,
    /// The envelope's daticert.xml.
    pub daticert: String,
    /// SHA-256 of the signed body.
    pub body_sha256: Vec<u8>,
    /// When it was signed.
    pub signed_at: Moment,
    /// The records of the directory that served its recipients then, as LDIF.
    pub served: Option<String>,
}

impl Row for Sent {
    const TABLE: &'static str = "sent";

    fn write(&self, content: &mut Content) {
        content
            .text(&self.id)
            .text(&self.envid)
            .text(&self.provider)
            .text(&self.identificativo)
            .text(&self.daticert)
            .bytes(&self.body_sha256)
            .number(self.signed_at.unix());
        // Rows from before the column was there have nothing of it under their MAC.
        if let Some(served) = &self.served {
            content.text(served);
        }
    }

    fn key(&self) -> &str {
        &self.id
    }
}

/// What [`Database::sent_row`] reads.
pub(crate) const COLUMNS: &str = columns!(
    "sent": "id", "envid", "provider", "identificativo", "daticert", "body_sha256", "signed_at", "mac",
    "served"
);

/// The insertion of a row.
pub(crate) fn insert(sent: &Authentic<Sent>) -> Sql<'_> {
    Insert::into("sent")
        .column("id", &sent.id)
        .column("envid", &sent.envid)
        .column("provider", &sent.provider)
        .column("identificativo", &sent.identificativo)
        .column("daticert", &sent.daticert)
        .column("body_sha256", &sent.body_sha256)
        .column("signed_at", Time(sent.signed_at))
        .column("mac", sent.mac().column())
        .column("served", &sent.served)
        .sql()
}

impl Database {
    /// Writes that an envelope was signed, with its log row; and, if some of its recipients are ours, that
    /// this provider answers for it to them, with the log row of that.
    pub async fn insert_sent(
        &self,
        sent: Authentic<Sent>,
        log: Entry,
        custody: Option<(Authentic<Custody>, Entry)>,
    ) -> Result<(), DatabaseError> {
        self.envelopes.insert(sent, log, custody).await
    }

    /// The envelope that a trigger speaks of.
    pub async fn sent(&self, id: &str) -> Result<Option<Authentic<Sent>>, DatabaseError> {
        self.sent_where(" WHERE id = ", id).await
    }

    /// The envelope that Postfix reports on under this ENVID.
    pub async fn sent_with_envid(&self, envid: &str) -> Result<Option<Authentic<Sent>>, DatabaseError> {
        self.sent_where(" WHERE envid = ", envid).await
    }

    /// The envelope with this PEC identifier.
    pub async fn sent_with_identifier(
        &self,
        identificativo: &str,
    ) -> Result<Option<Authentic<Sent>>, DatabaseError> {
        self.sent_where(" WHERE identificativo = ", identificativo).await
    }

    async fn sent_where(
        &self,
        condition: &'static str,
        value: &str,
    ) -> Result<Option<Authentic<Sent>>, DatabaseError> {
        let sql = Sql::select(&[COLUMNS]).text(" FROM sent").value(condition, value);
        self.query_opt(sql).await?.map(|r| self.sent_row(&r)).transpose()
    }

    /// The envelope in a row with [`COLUMNS`].
    pub(crate) fn sent_row(&self, r: &Columns) -> Result<Authentic<Sent>, DatabaseError> {
        let Time(signed_at) = r.get("sent.signed_at");
        let sent = Sent {
            id: r.get("sent.id"),
            envid: r.get("sent.envid"),
            provider: r.get("sent.provider"),
            identificativo: r.get("sent.identificativo"),
            daticert: r.get("sent.daticert"),
            body_sha256: r.get("sent.body_sha256"),
            signed_at,
            served: r.get("sent.served"),
        };
        self.believed(sent, r.get("sent.mac"))
    }
}
