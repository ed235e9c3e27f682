//! Facts that are written before their notice, and the triggers that make pec-delivery write it.
//!
//! Promise: a fact is written once, whatever copy of the envelope tells of it; its trigger works with the
//! bytes in hand alone.

use pec_state::authentic::Authentic;
use pec_state::rows::{About, Custody, Fact, FactKind};
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
            let fact = self.fact(kind, custody, recipient, status)?;
            let held = self.world.database.insert_fact_without_notice(&fact).await?.fact;
            triggers.push(Trigger::notice(held.kind, &held.id));
        }
        // A crash after this leaves facts whose triggers nobody sends; the envelope comes again, and finds
        // them.
        if triggers.len() > 1 {
            self.world.database.insert_trigger_bodies(&triggers[1..], &custody.body_sha256).await?;
        }
        Ok(triggers)
    }

    /// A fact of this moment.
    pub(crate) fn fact<'a>(
        &self,
        kind: FactKind,
        about: impl Into<About<'a>>,
        recipient: &str,
        status: &str,
    ) -> anyhow::Result<Fact> {
        let world = &self.world;
        Ok(Fact {
            recipient: recipient.to_ascii_lowercase(),
            status: status.to_owned(),
            ..Fact::new(kind, about, world.clock.now(), &world.settings.service_domain)?
        })
    }
}
