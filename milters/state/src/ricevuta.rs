//! The table `ricevuta`: receipts and notices of other providers about envelopes of ours, a row for each
//! recipient that one is about.
//!
//! Promise: one that came before is written no second time, and has no second log row; that it is let pass is
//! written with it. A row counts for the envelope that it came for, and no other.

use pec_core::clock::Moment;
use pec_core::daticert::Tipo;
use tokio_postgres::Row as Columns;

use crate::authentic::{Authentic, Content, Mac, Row};
use crate::database::{Database, spelled};
use crate::log::Entry;
use crate::passed::Passed;
use crate::pool::DatabaseError;
use crate::sql::{Insert, Sql, Time, columns};
use crate::{log, passed};

/// A receipt or notice of another provider about an envelope of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ricevuta {
    /// The PEC identifier of our envelope.
    pub identificativo: String,
    /// Which receipt it is.
    pub kind: Tipo,
    /// The recipients that it is about.
    pub recipients: Vec<String>,
    /// Who signed it.
    pub provider: String,
    /// Its own identifier.
    pub message_id: String,
    /// The time that it certifies.
    pub happened_at: Moment,
    /// SHA-256 of what its provider signed.
    pub content_sha256: Vec<u8>,
    /// The MAC of the row of our envelope.
    pub sent_mac: Mac,
}

/// The row about one recipient of a [`Ricevuta`].
#[derive(Debug)]
struct AboutOne<'a> {
    ricevuta: &'a Ricevuta,
    recipient: &'a str,
}

impl Row for AboutOne<'_> {
    const TABLE: &'static str = "ricevuta";

    fn write(&self, content: &mut Content) {
        let of = self.ricevuta;
        content
            .text(&of.identificativo)
            .text(of.kind.as_str())
            .text(self.recipient)
            .text(&of.provider)
            .text(&of.message_id)
            .number(of.happened_at.unix())
            .bytes(&of.content_sha256)
            .mac(&of.sent_mac);
    }

    fn key(&self) -> &str {
        &self.ricevuta.message_id
    }
}

/// What [`Database::ricevuta_row`] reads, besides the MAC of our envelope's row.
pub(crate) const COLUMNS: &str = columns!(
    "ricevuta": "identificativo", "kind", "recipient", "provider", "message_id", "happened_at",
    "content_sha256", "mac"
);

/// The insertion of the rows, each recipient's with its MAC.
fn insert(ricevuta: &Ricevuta, macs: Vec<Vec<u8>>) -> Sql<'_> {
    Insert::into("ricevuta")
        .column("identificativo", &ricevuta.identificativo)
        .column("kind", ricevuta.kind.as_str())
        .term("recipient", Sql::new("of_one.recipient"))
        .column("provider", &ricevuta.provider)
        .column("message_id", &ricevuta.message_id)
        .column("happened_at", Time(ricevuta.happened_at))
        .column("content_sha256", &ricevuta.content_sha256)
        .term("mac", Sql::new("of_one.mac"))
        .sql()
        .value(" FROM unnest(", &ricevuta.recipients)
        .value("::text[], ", macs)
        .text("::bytea[]) AS of_one (recipient, mac)")
}

impl Database {
    /// Writes that a receipt about an envelope of ours came, with its log row; one that came before is left
    /// alone. And writes that it is let pass: as `new`, or, where it came before, as `again`, which have one
    /// ENVID. `true`: it is new.
    pub async fn insert_ricevuta(
        &self,
        ricevuta: &Ricevuta,
        log: &Entry,
        (new, again): (&Authentic<Passed>, &Authentic<Passed>),
    ) -> Result<bool, DatabaseError> {
        let mac = |recipient| Ok(self.authentic(AboutOne { ricevuta, recipient })?.mac().column().clone());
        let macs = ricevuta.recipients.iter().map(|recipient| mac(recipient)).collect::<Result<_, _>>()?;
        let sql = Sql::with("ricevuta", insert(ricevuta, macs).text(" ON CONFLICT DO NOTHING RETURNING 1"))
            .and_with("is_new", Sql::new("SELECT EXISTS (SELECT FROM ricevuta) AS yes"))
            .and_with("passed", passed::insert_one_of(new, again))
            .and_with("log", log::insert(log).text(" WHERE (SELECT yes FROM is_new)"))
            .then(Sql::new("SELECT yes FROM is_new"));
        Ok(self.query_opt(sql).await?.is_some_and(|row| row.get("yes")))
    }

    /// The receipt in a row with [`COLUMNS`] and `sent.mac`, about the one recipient of that row.
    pub(crate) fn ricevuta_row(&self, r: &Columns) -> Result<Ricevuta, DatabaseError> {
        let message_id: String = r.get("ricevuta.message_id");
        let recipient: String = r.get("ricevuta.recipient");
        let Time(happened_at) = r.get("ricevuta.happened_at");
        let ricevuta = Ricevuta {
            identificativo: r.get("ricevuta.identificativo"),
            kind: spelled(r, "ricevuta.kind", AboutOne::TABLE, &message_id)?,
            recipients: vec![recipient.clone()],
            provider: r.get("ricevuta.provider"),
            message_id,
            happened_at,
            content_sha256: r.get("ricevuta.content_sha256"),
            sent_mac: Mac::from_column(r.get("sent.mac")),
        };
        self.believed(AboutOne { ricevuta: &ricevuta, recipient: &recipient }, r.get("ricevuta.mac"))?;
        Ok(ricevuta)
    }
}
