//! Viruses at the Incoming Point (RFC 6109 s. 2.2.2, 3.2.3, 3.2.4).
//!
//! Promise: an envelope with a virus is taken in charge, kept in the infected store, and delivered to nobody;
//! the sender's provider gets an avviso di rilevazione virus for each recipient. One that another provider
//! found in an envelope of ours becomes an avviso di mancata consegna per virus. Ordinary mail with a virus
//! is refused. A receipt goes on whatever its provider signed: to lose one is worse, and what it carries is
//! what our own user sent. A virus around what a provider signed is refused, whatever it is.

use std::ops::Range;

use pec_core::daticert::Daticert;
use pec_core::message::Body;
use pec_core::mime::part;
use pec_core::notices::mancata_consegna::virus_status;
use pec_host::maillog;
use pec_milter::{Edits, Reply, Transaction, Verdict};
use pec_program::scanner::Scan;
use pec_program::turns::{Share, Turn};
use pec_state::authentic::Authentic;
use pec_state::rows::{Custody, FactKind, Sent};
use pec_state::trigger::Trigger;

use crate::session::{IncomingPoint, Mail};

/// What the scanner says of an arrival.
pub(crate) enum Scanned {
    Clean,
    /// In ordinary mail, or in what a provider signed.
    Infected(Infected),
    /// Around what a provider signed.
    Around(String),
    /// Beyond this limit of the scanner's: waiting would not help.
    Beyond(String),
}

/// A message with a virus.
pub(crate) struct Infected {
    /// The scanner's name for it.
    pub(crate) virus: String,
    /// The body as it came.
    pub(crate) body: Body,
}

impl Scanned {
    /// Why a message that can be refused is not let in. A virus in what a provider signed is for the caller.
    pub(crate) fn refusal(&self, queue_id: &str) -> Option<Reply> {
        match self {
            Self::Clean | Self::Infected(_) => None,
            Self::Around(virus) => Some(around(virus)),
            Self::Beyond(why) => {
                maillog::not_scanned(queue_id, why);
                Some(Reply::refuse(
                    "552",
                    "5.3.4",
                    "the message is too large or too complex to be scanned for viruses",
                ))
            }
        }
    }

    /// The same for a receipt: as long as nobody has put anything around it, it goes on.
    pub(crate) fn refusal_of_receipt(&self, queue_id: &str, provider: &str) -> Option<Reply> {
        match self {
            Self::Clean => {}
            Self::Around(virus) => return Some(around(virus)),
            Self::Infected(infected) => maillog::virus_in_receipt(queue_id, provider, &infected.virus),
            Self::Beyond(why) => maillog::receipt_not_scanned(queue_id, provider, why),
        }
        None
    }
}

fn around(virus: &str) -> Reply {
    Reply::refuse("554", "5.7.1", format!("a virus outside of what the provider signed: {virus}"))
}

impl IncomingPoint {
    /// Scans a message that arrives, in this turn.
    pub(crate) async fn scanned(&self, turn: &Turn, mail: &Mail<'_>) -> anyhow::Result<Scanned> {
        Ok(match self.world.scanner.scan(turn, &mail.transaction.header, &mail.body).await? {
            Scan::Clean => Scanned::Clean,
            Scan::Found(virus) => Scanned::Infected(Infected { virus, body: mail.body.clone() }),
            Scan::NotScanned(why) => Scanned::Beyond(why),
        })
    }

    /// Scans what a provider signed. Only that can be held against it: what surrounds it, header, preamble
    /// and epilogue, is anybody's who has the message.
    pub(crate) async fn scanned_signed(
        &self,
        mail: &Mail<'_>,
        content: Range<usize>,
    ) -> anyhow::Result<Scanned> {
        let turn = self.world.turns.wait(Share::Certified).await?;
        let infected = match self.scanned(&turn, mail).await? {
            Scanned::Infected(infected) => infected,
            other => return Ok(other),
        };
        let whole = mail.body.clone().into_bytes();
        let signed = part(&whole, content)?;
        let body = Body::from_bytes(whole.slice(signed.body));
        Ok(match self.world.scanner.scan(&turn, &signed.header, &body).await? {
            Scan::Found(_) => Scanned::Infected(infected),
            Scan::Clean => Scanned::Around(infected.virus),
            Scan::NotScanned(why) => Scanned::Beyond(why),
        })
    }

    /// An envelope in custody becomes the triggers of its notices: presa in carico, and a rilevazione virus
    /// for each recipient.
    pub(crate) async fn become_virus_notices(
        &self,
        transaction: &Transaction,
        custody: &Authentic<Custody>,
        virus: &str,
    ) -> anyhow::Result<Verdict> {
        let triggers =
            self.triggers_about(custody, FactKind::RilevazioneVirus, &custody.recipients, virus).await?;
        let edits = Edits::default()
            .envelope_id(transaction, &custody.envid)
            .delete_recipients(&transaction.recipients);
        Ok(Verdict::Change(triggers.iter().fold(edits, Edits::add_trigger)))
    }

    /// Another provider found a virus in an envelope of ours: the names of the triggers of the notices to its
    /// sender.
    pub(crate) async fn virus_not_delivered(
        &self,
        queue_id: &str,
        sent: &Authentic<Sent>,
        rilevazione: &Daticert,
        recipients: &[String],
        provider: &str,
        body_sha256: &[u8],
    ) -> anyhow::Result<Vec<Trigger>> {
        let virus = rilevazione.errore_esteso.as_deref().unwrap_or("virus");
        let mut triggers = Vec::new();
        for recipient in recipients {
            if self.world.database.is_delivered(&sent.identificativo, &recipient.to_ascii_lowercase()).await?
            {
                maillog::failure_contradicted(queue_id, &sent.identificativo, recipient);
                continue;
            }
            let status = virus_status(virus);
            let fact = self.fact(FactKind::ErroreConsegna, sent, recipient, &status)?;
            let held = self.world.database.insert_fact_without_notice(&fact).await?;
            // The sender knows: who brings the receipt again, or comes after another cause, tells nothing
            // new.
            if held.made.is_none() {
                maillog::virus_missed(queue_id, rilevazione, provider, recipient, virus);
                triggers.push(Trigger::notice(held.fact.kind, &held.fact.id));
            }
        }
        self.world.database.insert_trigger_bodies(&triggers, body_sha256).await?;
        Ok(triggers)
    }
}
