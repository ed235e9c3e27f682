//! What is certified about recipients of our envelopes: by us (facts), by their providers (ricevute).
//!
//! Promise: a row that is not believed counts for nothing, and is an alarm.

use std::collections::HashMap;

use crate::database::Database;
use crate::pool::DatabaseError;
use crate::sql::{Sql, columns};
use crate::{fact, ricevuta};

/// For each identifier of an envelope kinds and keys of recipients.
type Certified = HashMap<String, Vec<(String, String)>>;

impl Database {
    /// What we, or their providers, have certified about recipients of our envelopes with these identifiers.
    /// Only kinds that another provider's receipts have too are told.
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
                .map(|key| (fact.kind.as_str().to_owned(), key.to_owned()));
            certified.entry(fact.identificativo.clone()).or_default().extend(about);
        }
        let ricevute = Sql::select(&[ricevuta::COLUMNS, columns!("sent": "mac")])
            .text(" FROM ricevuta JOIN sent ON sent.identificativo = ricevuta.identificativo")
            .value(" WHERE ricevuta.identificativo = ANY(", identificativi)
            .text(")");
        for row in self.query(ricevute).await? {
            let Ok(ricevuta) = self.ricevuta_row(&row) else { continue };
            let kind = ricevuta.kind.as_str();
            let about = ricevuta.recipients.into_iter().map(|key| (kind.to_owned(), key));
            certified.entry(ricevuta.identificativo).or_default().extend(about);
        }
        Ok(certified)
    }

    /// Whether our envelope `identificativo` is certified as delivered to `recipient` (a key), by its
    /// provider or by us.
    pub async fn is_delivered(&self, identificativo: &str, recipient: &str) -> Result<bool, DatabaseError> {
        self.is_certified(identificativo, recipient, &["avvenuta-consegna"]).await
    }

    /// Whether it is certified that somebody has our envelope `identificativo` for `recipient` (a key): it
    /// was taken in charge, and whatever became of it then, which may be told first.
    pub async fn is_in_other_hands(
        &self,
        identificativo: &str,
        recipient: &str,
    ) -> Result<bool, DatabaseError> {
        let kinds = ["presa-in-carico", "avvenuta-consegna", "errore-consegna", "rilevazione-virus"];
        self.is_certified(identificativo, recipient, &kinds).await
    }

    async fn is_certified(
        &self,
        identificativo: &str,
        recipient: &str,
        kinds: &[&str],
    ) -> Result<bool, DatabaseError> {
        let certified = self.certified(&[identificativo]).await?;
        Ok(certified.values().flatten().any(|(kind, key)| key == recipient && kinds.contains(&kind.as_str())))
    }
}
