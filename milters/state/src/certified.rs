//! What is certified about recipients of our envelopes: by us (facts), by their providers (ricevute).
//!
//! Promise: a row that is not believed counts for nothing, and is an alarm.

use std::collections::HashMap;

use pec_core::daticert::Tipo;

use crate::database::Database;
use crate::pool::DatabaseError;
use crate::sql::{Sql, columns};
use crate::{fact, ricevuta};

/// For each identifier of an envelope kinds and keys of recipients.
type Certified = HashMap<String, Vec<(Tipo, String)>>;

impl Database {
    /// What we, or their providers, have certified about recipients of our envelopes with these identifiers.
    pub(crate) async fn certified(&self, identificativi: &[&str]) -> Result<Certified, DatabaseError> {
        let mut certified = Certified::new();
        // What another provider sends under our identifier is another envelope.
        let facts = Sql::select(&[fact::COLUMNS])
            .value(" FROM fact WHERE identificativo = ANY(", identificativi)
            .text(") AND provider = (SELECT provider FROM sent")
            .text(" WHERE sent.identificativo = fact.identificativo)");
        for row in self.query(facts).await? {
            let Ok(fact) = self.fact_row(&row) else { continue };
            let about = fact
                .recipient
                .split(' ')
                .filter(|key| !key.is_empty())
                .map(|key| (fact.kind.tipo(), key.to_owned()));
            certified.entry(fact.identificativo.clone()).or_default().extend(about);
        }
        let ricevute = Sql::select(&[ricevuta::COLUMNS, columns!("sent": "mac")])
            .text(" FROM ricevuta JOIN sent ON sent.identificativo = ricevuta.identificativo")
            .value(" WHERE ricevuta.identificativo = ANY(", identificativi)
            .text(")");
        for row in self.query(ricevute).await? {
            let Ok(ricevuta) = self.ricevuta_row(&row) else { continue };
            let about = ricevuta.recipients.into_iter().map(|key| (ricevuta.kind, key));
            certified.entry(ricevuta.identificativo).or_default().extend(about);
        }
        Ok(certified)
    }

    /// Whether our envelope `identificativo` is certified as delivered to `recipient` (a key), by its
    /// provider or by us.
    pub async fn is_delivered(&self, identificativo: &str, recipient: &str) -> Result<bool, DatabaseError> {
        self.is_certified(identificativo, recipient, |tipo| tipo == Tipo::AvvenutaConsegna).await
    }

    /// Whether it is certified that somebody has our envelope `identificativo` for `recipient` (a key): it
    /// was taken in charge, and whatever became of it then, which may be told first.
    pub async fn is_in_other_hands(
        &self,
        identificativo: &str,
        recipient: &str,
    ) -> Result<bool, DatabaseError> {
        let counts = |tipo: Tipo| tipo == Tipo::PresaInCarico || tipo.is_outcome();
        self.is_certified(identificativo, recipient, counts).await
    }

    async fn is_certified(
        &self,
        identificativo: &str,
        recipient: &str,
        counts: impl Fn(Tipo) -> bool,
    ) -> Result<bool, DatabaseError> {
        let certified = self.certified(&[identificativo]).await?;
        Ok(certified.values().flatten().any(|(tipo, key)| key == recipient && counts(*tipo)))
    }
}
