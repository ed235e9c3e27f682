//! The table `custody`: copies of envelopes that this provider answers for.
//!
//! Promise: a row is written with its log row or not at all. What is read is believed, or an alarm.

use std::collections::HashSet;

use pec_core::clock::Moment;
use tokio_postgres::Row as Columns;

use crate::authentic::{Authentic, Content, Row};
use crate::database::Database;
use crate::fact_kind::FactKind;
use crate::log::Entry;
use crate::pool::DatabaseError;
use crate::sql::{Insert, Sql, Time, columns};
use crate::{fact, log};

/// A copy of an envelope that this provider answers for: the Incoming Point took it, or it is our own for
/// recipients of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custody {
    /// Names the trigger of its presa in carico.
    pub id: String,
    /// The SMTP envelope id under which Postfix hands it to pec-delivery, and reports on it. Of our own: that
    /// of [`Sent`](crate::rows::Sent).
    pub envid: String,
    /// The provider that signed.
    pub provider: String,
    /// Where the presa in carico goes.
    pub mail_receipt: String,
    /// The PEC identifier.
    pub identificativo: String,
    /// The envelope's daticert.xml.
    pub daticert: String,
    /// The recipients of this copy.
    pub recipients: Vec<String>,
    /// SHA-256 of the body as it came.
    pub body_sha256: Vec<u8>,
    /// SHA-256 of what the provider signed. What surrounds it is anybody's.
    pub content_sha256: Vec<u8>,
    /// When it was taken.
    pub taken_at: Moment,
}

impl Row for Custody {
    const TABLE: &'static str = "custody";

    fn write(&self, content: &mut Content) {
        content
            .text(&self.id)
            .text(&self.envid)
            .text(&self.provider)
            .text(&self.mail_receipt)
            .text(&self.identificativo)
            .text(&self.daticert)
            .texts(&self.recipients)
            .bytes(&self.body_sha256)
            .bytes(&self.content_sha256)
            .number(self.taken_at.unix());
    }

    fn key(&self) -> &str {
        &self.id
    }
}

/// What is in custody of an envelope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InCustody {
    /// For whom (keys).
    pub recipients: HashSet<String>,
    /// Its provider signed something else under the same identifier, and that is in custody.
    pub other_content: bool,
}

/// What [`Database::custody_row`] reads.
pub(crate) const COLUMNS: &str = columns!(
    "custody": "id", "envid", "provider", "mail_receipt", "identificativo", "daticert", "recipients",
    "body_sha256", "content_sha256", "taken_at", "mac"
);

/// The insertion of a row and of its log row.
pub(crate) fn insert<'a>(custody: &'a Authentic<Custody>, log: &'a Entry) -> Sql<'a> {
    let insert = Insert::into("custody")
        .column("id", &custody.id)
        .column("envid", &custody.envid)
        .column("provider", &custody.provider)
        .column("mail_receipt", &custody.mail_receipt)
        .column("identificativo", &custody.identificativo)
        .column("daticert", &custody.daticert)
        .column("recipients", &custody.recipients)
        .column("body_sha256", &custody.body_sha256)
        .column("content_sha256", &custody.content_sha256)
        .column("taken_at", Time(custody.taken_at))
        .column("mac", custody.mac().column())
        .sql();
    Sql::with("custody", insert).then(log::insert(log))
}

impl Database {
    /// Writes that a copy of an envelope was taken, with its log row.
    pub async fn insert_custody(
        &self,
        custody: &Authentic<Custody>,
        log: &Entry,
    ) -> Result<(), DatabaseError> {
        self.execute(insert(custody, log)).await?;
        Ok(())
    }

    /// The copy that a trigger speaks of.
    pub async fn custody(&self, id: &str) -> Result<Option<Authentic<Custody>>, DatabaseError> {
        self.custody_where(" WHERE id = ", id).await
    }

    /// The copy that Postfix reports on under this ENVID.
    pub async fn custody_with_envid(&self, envid: &str) -> Result<Option<Authentic<Custody>>, DatabaseError> {
        self.custody_where(" WHERE envid = ", envid).await
    }

    async fn custody_where(
        &self,
        condition: &'static str,
        value: &str,
    ) -> Result<Option<Authentic<Custody>>, DatabaseError> {
        let sql = Sql::select(&[COLUMNS]).text(" FROM custody").value(condition, value);
        self.query_opt(sql).await?.map(|r| self.custody_row(&r)).transpose()
    }

    /// The copy in a row with [`COLUMNS`].
    pub(crate) fn custody_row(&self, r: &Columns) -> Result<Authentic<Custody>, DatabaseError> {
        let Time(taken_at) = r.get("custody.taken_at");
        let custody = Custody {
            id: r.get("custody.id"),
            envid: r.get("custody.envid"),
            provider: r.get("custody.provider"),
            mail_receipt: r.get("custody.mail_receipt"),
            identificativo: r.get("custody.identificativo"),
            daticert: r.get("custody.daticert"),
            recipients: r.get("custody.recipients"),
            body_sha256: r.get("custody.body_sha256"),
            content_sha256: r.get("custody.content_sha256"),
            taken_at,
        };
        self.believed(custody, r.get("custody.mac"))
    }

    /// What is known to be in the queue of the envelope `identificativo`, because the trigger of its presa in
    /// carico came round. Identifiers are each provider's own; what one provider signed is the same envelope
    /// also where `provider` has another name by now.
    pub async fn taken(
        &self,
        provider: &str,
        identificativo: &str,
        content_sha256: &[u8],
    ) -> Result<InCustody, DatabaseError> {
        let sql = Sql::select(&[fact::COLUMNS, COLUMNS])
            .text(" FROM fact JOIN custody ON custody.id = fact.source")
            .value(" WHERE fact.identificativo = ", identificativo)
            .text(" AND fact.kind")
            .is(FactKind::PresaInCarico);
        let mut taken = InCustody::default();
        for row in self.query(sql).await? {
            let (known, custody) = (self.known(&row)?, self.custody_row(&row)?);
            if custody.content_sha256 == content_sha256 {
                taken.recipients.extend(known.fact.recipient.split(' ').map(str::to_owned));
            } else if known.fact.provider == provider {
                taken.other_content = true;
            }
        }
        Ok(taken)
    }
}
