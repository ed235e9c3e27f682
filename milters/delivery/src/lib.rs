//! Delivery Point (RFC 6109 s. 3.3), and the making of every notice that follows from a message in Postfix's
//! queue.
//!
//! Promise: a receipt says what the mailbox itself has said, in the second in which it said so, about the
//! very bytes that a program of ours had signed or let in. Postfix holds a message until all that follows
//! from it is in somebody's custody; then it hears 250. Made again, a notice is the same bytes under the same
//! Message-ID.
//! - A message for a mailbox is handed over to it ([`handing_over`]): avvenuta consegna, mancata consegna.
//! - A *trigger* is a copy that Postfix's queue manager sends round because it holds the message
//!   ([`triggers`]): accettazione, presa in carico, and the notices of facts that others have written.
//! - A *report* is Postfix's own word about what it could not deliver or send ([`reports`]).
//!
//! Each of them leads to a fact, and a fact to its notice ([`notices`]), in the words of `pec_core::notices`.
//!
//! On any doubt: 451, the message stays in Postfix's queue and comes again.

pub mod doors;
mod handing_over;
mod notices;
mod reports;
mod triggers;

use std::sync::Arc;
use std::time::Duration;

use pec_core::header::Header;
use pec_lmtp::{Options, Pool, Protocol};
use pec_milter::{Connection, KeepBody, Point, Recipient, Reply, Transaction, Verdict};
use pec_program::mailbox::peer;
use pec_program::turns::Share;
use pec_program::world::World;
use tokio::sync::Semaphore;

/// Bytes of messages that one permit stands for.
const PERMIT: u64 = 1024;

/// Connections to Postfix's smtpd at once: below the process limit that master.cf gives it, so that none
/// waits for another one that is idle.
const OUTGOING: usize = 8;

/// How long a notice waits for its turn there.
const TURN: Duration = Duration::from_secs(60);

/// The Delivery Point.
pub struct DeliveryPoint {
    world: World,
    /// Postfix's smtpd for notices to other providers.
    outgoing: Pool,
    /// `pec_delivery_memory_limit`, in units of [`PERMIT`].
    memory: Arc<Semaphore>,
    permits: u32,
}

impl DeliveryPoint {
    /// The Delivery Point in this world.
    pub fn new(world: World) -> Self {
        let permits = u32::try_from(world.settings.delivery_memory_limit / PERMIT)
            .unwrap_or(u32::MAX)
            .min(u32::MAX / 8);
        let options = Options { connections: OUTGOING, turn: TURN, ..Options::default() };
        let outgoing = Pool::new(
            peer(&world.settings.outgoing_smtpd),
            Protocol::Smtp,
            world.settings.hostname.clone(),
            options,
        );
        Self { world, outgoing, memory: Arc::new(Semaphore::new(permits as usize)), permits }
    }
}

/// The milter of `non_smtpd_milters`: reports.
impl Point for DeliveryPoint {
    type Door = ();

    fn share(&self, (): (), _: &Header) -> Share {
        Share::Certified
    }

    fn keep_body(&self, (): (), _: &Header) -> KeepBody {
        KeepBody::Whole(u64::MAX)
    }

    fn mail(&self, (): (), _: &Connection, _: &Transaction) -> Result<(), Reply> {
        Ok(())
    }

    fn rcpt(&self, (): (), _: &Transaction, _: &Recipient) -> Result<(), Reply> {
        // Mail from the queue must not be refused at RCPT: it would stay there without anybody knowing why.
        Ok(())
    }

    async fn end_of_message(&self, (): (), _: &Connection, transaction: Transaction) -> Verdict {
        self.report(transaction).await.unwrap_or_else(|e| Verdict::Wait(format!("{e:#}")))
    }
}
