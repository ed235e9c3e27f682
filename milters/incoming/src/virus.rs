//! Viruses at the Incoming Point (RFC 6109 s. 2.2.2, 3.2.3, 3.2.4).
//!
//! Promise: an envelope with a virus is taken in charge, kept in the infected store, and delivered to nobody; the sender's
//! provider gets an avviso di rilevazione virus for each recipient. One that another provider found in an envelope of ours
//! becomes an avviso di mancata consegna per virus. Ordinary mail with a virus is refused. Receipts are not scanned: to lose
//! one is worse, and what they carry is what our own user sent.

use std::ops::Range;

use pec_core::daticert::Daticert;
use pec_core::directory::Provider;
use pec_core::header::{Field, Header};
use pec_core::identifier::{fresh, pec_identifier};
use pec_core::maillog;
use pec_core::message::Body;
use pec_core::mime::part;
use pec_core::notices::mancata_consegna::virus_status;
use pec_milter::clamd::Scan;
use pec_milter::{Edits, Reply, Transaction, Verdict};
use pec_state::rows::{Custody, Fact, FactKind, Sent, TimeSource, trigger_name};

use crate::session::IncomingPoint;

/// What the scanner says of an arrival.
pub(crate) enum Scanned {
    Clean,
    Infected(Infected),
    /// The scanner's limits are too low for it: waiting would not help.
    Refuse(Reply),
}

/// A message with a virus.
pub(crate) struct Infected {
    /// The scanner's name for it.
    pub(crate) virus: String,
    /// The body as it came.
    pub(crate) body: Body,
}

impl IncomingPoint {
    /// Scans a message that arrives.
    pub(crate) async fn scanned(&self, transaction: &Transaction, body: &Body) -> anyhow::Result<Scanned> {
        Ok(match self.world.scanner.scan(&transaction.header, body).await? {
            Scan::Clean => Scanned::Clean,
            Scan::Found(virus) => Scanned::Infected(Infected { virus, body: body.clone() }),
            Scan::NotScanned(why) => {
                maillog::not_scanned(transaction.queue_id(), &why);
                Scanned::Refuse(Reply::refuse("552", "5.3.4", "the message is too large or too complex to be scanned for viruses"))
            }
        })
    }

    /// Scans an envelope. Only what its provider signed can be held against it: what surrounds that, header, preamble and
    /// epilogue, is anybody's who has the envelope.
    pub(crate) async fn scanned_envelope(&self, transaction: &Transaction, body: &Body, content: Range<usize>) -> anyhow::Result<Scanned> {
        let infected = match self.scanned(transaction, body).await? {
            Scanned::Infected(infected) => infected,
            other => return Ok(other),
        };
        let whole = body.clone().into_bytes();
        let signed = part(&whole, content)?;
        let mut header = Header::default();
        header.push(Field::written("Subject", "signed content"));
        signed.header.fields().iter().for_each(|field| header.push(field.clone()));
        Ok(match self.world.scanner.scan(&header, &Body::from_bytes(whole.slice(signed.body))).await? {
            Scan::Found(_) => Scanned::Infected(infected),
            Scan::Clean | Scan::NotScanned(_) => {
                let text = format!("a virus outside of what the provider signed: {}", infected.virus);
                Scanned::Refuse(Reply::refuse("554", "5.7.1", text))
            }
        })
    }

    /// An envelope in custody becomes the triggers of its notices: presa in carico, and a rilevazione virus for each recipient.
    pub(crate) async fn become_virus_notices(&self, transaction: &Transaction, custody: &Custody, virus: &str) -> anyhow::Result<Verdict> {
        let mut triggers = vec![trigger_name(FactKind::PresaInCarico, &custody.id)];
        for recipient in &custody.recipients {
            let fact = self.fact(FactKind::RilevazioneVirus, &custody.provider, &custody.identificativo, recipient, &custody.id, virus)?;
            triggers.push(self.trigger_of(fact).await?);
        }
        // A crash after this leaves facts whose triggers nobody sends; the envelope comes again, and finds them.
        self.world.database.insert_trigger_bodies(&triggers[1..], &custody.body_sha256).await?;
        let edits = Edits::default().sender(transaction.sender_path.clone(), Some(format!("RET=HDRS ENVID={}", custody.envid)));
        let edits = edits.delete_recipients(&transaction.recipients);
        Ok(Verdict::Change(triggers.iter().fold(edits, |edits, trigger| edits.add_trigger(trigger))))
    }

    /// Another provider found a virus in an envelope of ours: the names of the triggers of the notices to its sender.
    pub(crate) async fn virus_not_delivered(
        &self,
        queue_id: &str,
        sent: &Sent,
        rilevazione: &Daticert,
        recipients: &[String],
        provider: &Provider,
        body_sha256: &[u8],
    ) -> anyhow::Result<Vec<String>> {
        let virus = rilevazione.errore_esteso.as_deref().unwrap_or("virus");
        let mut triggers = Vec::new();
        for recipient in recipients {
            if self.world.database.is_delivered(&sent.identificativo, &recipient.to_ascii_lowercase()).await? {
                maillog::failure_contradicted(queue_id, &sent.identificativo, recipient);
                continue;
            }
            maillog::virus_missed(queue_id, rilevazione, &provider.name, recipient, virus);
            let status = virus_status(virus);
            let fact = self.fact(FactKind::ErroreConsegna, &sent.provider, &sent.identificativo, recipient, &sent.id, &status)?;
            triggers.push(self.trigger_of(fact).await?);
        }
        self.world.database.insert_trigger_bodies(&triggers, body_sha256).await?;
        Ok(triggers)
    }

    fn fact(&self, kind: FactKind, provider: &str, identificativo: &str, recipient: &str, source: &str, status: &str) -> anyhow::Result<Fact> {
        let (id, now) = (fresh()?, self.world.clock.now());
        Ok(Fact {
            message_id: pec_identifier(now, &id, &self.world.settings.service_domain),
            id,
            provider: provider.to_owned(),
            identificativo: identificativo.to_owned(),
            kind,
            recipient: recipient.to_ascii_lowercase(),
            source: source.to_owned(),
            happened_at: now,
            time_source: TimeSource::Clock,
            status: status.to_owned(),
        })
    }

    /// Writes a fact before its notice. If it was written before, the first holds, and the trigger is that one's.
    async fn trigger_of(&self, fact: Fact) -> anyhow::Result<String> {
        let held = self.world.database.hold_fact(&fact).await?;
        Ok(trigger_name(held.kind, &held.id))
    }
}
