//! Facts that are written before their notice, and the triggers that make pec-delivery write it.
//!
//! Promise: a fact is written once, whatever copy of the envelope tells of it; its trigger works with the
//! bytes in hand alone.

use pec_core::identifier::{fresh, pec_identifier};
use pec_state::authentic::{Authentic, Mac};
use pec_state::rows::{Custody, Fact, FactKind, TimeSource};
use pec_state::trigger::Trigger;

use crate::session::IncomingPoint;

impl IncomingPoint {
    /// The triggers of the notices about an envelope in custody: presa in carico, and one of this kind for
    /// each of these recipients.
    pub(crate) async fn triggers_about(
        &self,
        custody: &Authentic<Custody>,
        kind: FactKind,
        recipients: &[String],
        status: &str,
    ) -> anyhow::Result<Vec<Trigger>> {
        let mut triggers = vec![Trigger::notice(FactKind::PresaInCarico, &custody.id)];
        for recipient in recipients {
            let fact = self.fact(
                kind,
                &custody.provider,
                &custody.identificativo,
                recipient,
                (&custody.id, custody.mac()),
                status,
            )?;
            let held = self.world.database.hold_fact(&fact).await?.fact;
            triggers.push(Trigger::notice(held.kind, &held.id));
        }
        // A crash after this leaves facts whose triggers nobody sends; the envelope comes again, and finds
        // them.
        if triggers.len() > 1 {
            self.world.database.insert_trigger_bodies(&triggers[1..], &custody.body_sha256).await?;
        }
        Ok(triggers)
    }

    /// A fact of this moment; `source` is the id and the MAC of the row that it is about.
    pub(crate) fn fact(
        &self,
        kind: FactKind,
        provider: &str,
        identificativo: &str,
        recipient: &str,
        (source, source_mac): (&str, &Mac),
        status: &str,
    ) -> anyhow::Result<Fact> {
        let (id, now) = (fresh()?, self.world.clock.now());
        Ok(Fact {
            message_id: pec_identifier(now, &id, &self.world.settings.service_domain),
            id,
            provider: provider.to_owned(),
            identificativo: identificativo.to_owned(),
            kind,
            recipient: recipient.to_ascii_lowercase(),
            source: source.to_owned(),
            source_mac: source_mac.clone(),
            happened_at: now,
            time_source: TimeSource::Clock,
            status: status.to_owned(),
        })
    }
}
