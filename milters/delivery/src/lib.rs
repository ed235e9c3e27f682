//! Delivery Point (RFC 6109 s. 3.3) and the writing of every notice.
//!
//! Promise: a notice is a message that Postfix already holds, changed into another one; it is written when its fact is one,
//! never before, and made again it is the same bytes under the same Message-ID.
//! - A *trigger* is a copy that Postfix's queue manager sends round because the envelope is in its queue ([`triggers`]).
//! - A *report* is Postfix's own delivery status notification ([`reports`]).
//!
//! avvenuta consegna, mancata consegna: decided in [`reports`]; accettazione, presa in carico: decided in [`triggers`]. All are
//! made into facts and written in [`facts`], in the words of `pec_core::notices`.
//!
//! On any doubt: 451, the trigger or the report stays in Postfix's queue and comes again.

mod facts;
mod reports;
mod triggers;

use std::sync::Arc;

use pec_core::header::Header;
use pec_milter::world::World;
use pec_milter::{Connection, Keeps, NOTICES_DOMAIN, Point, Recipient, Reply, Transaction, Verdict};
use tokio::sync::Semaphore;

/// By which way a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The internal smtpd.
    Triggers,
    /// `non_smtpd_milters`: the bounce daemon.
    Reports,
}

/// Bytes of originals that one permit stands for.
const PERMIT: u64 = 1024;

/// The writer of notices.
pub struct NoticesPoint {
    world: World,
    /// `pec_notices_memory_limit`, in units of [`PERMIT`].
    memory: Arc<Semaphore>,
    permits: u32,
}

impl NoticesPoint {
    /// The writer of notices in this world.
    pub fn new(world: World) -> anyhow::Result<Self> {
        let permits = u32::try_from(world.settings.notices_memory_limit / PERMIT).unwrap_or(u32::MAX).min(u32::MAX / 8);
        Ok(Self { world, memory: Arc::new(Semaphore::new(permits as usize)), permits })
    }
}

impl Point for NoticesPoint {
    type Door = Door;

    fn keeps(&self, door: Door, _: &Header) -> Keeps {
        match door {
            // What comes round is known already; only whether it is the same bytes matters.
            Door::Triggers => Keeps::Hash,
            Door::Reports => Keeps::Whole(u64::MAX),
        }
    }

    fn mail(&self, _: Door, _: &Connection, _: &Transaction) -> Result<(), Reply> {
        Ok(())
    }

    fn rcpt(&self, door: Door, transaction: &Transaction, recipient: &Recipient) -> Result<(), Reply> {
        let is_trigger = recipient.address.as_ref().is_some_and(|a| a.domain() == NOTICES_DOMAIN);
        match door {
            Door::Triggers if !is_trigger => Err(Reply::refuse("550", "5.7.1", format!("{}: not on this way", recipient.path))),
            // The queue manager sends triggers one by one; the second waits for its own turn.
            Door::Triggers if !transaction.recipients.is_empty() => Err(Reply::refuse("452", "4.5.3", "one trigger at a time")),
            // Mail from the queue must not be refused at RCPT: it would stay there without anybody knowing why.
            _ => Ok(()),
        }
    }

    async fn end_of_message(&self, door: Door, _: &Connection, transaction: Transaction) -> Verdict {
        let verdict = match door {
            Door::Triggers => self.trigger(transaction).await,
            Door::Reports => self.report(transaction).await,
        };
        verdict.unwrap_or_else(|e| Verdict::Wait(format!("{e:#}")))
    }
}
