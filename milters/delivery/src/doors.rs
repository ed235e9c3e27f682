//! The LMTP sockets by which Postfix, and pec-clock, bring messages.
//!
//! Promise: one answer for each recipient, when all that follows from the message for him is done. 250 and
//! 5xx are the end; whatever is not known is 451 with the reason, which `postqueue -p` shows.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use pec_core::address::Address;
use pec_core::header::Header;
use pec_core::mime::header_end;
use pec_host::NO_QUEUE_ID;
use pec_host::maillog;
use pec_lmtp::{Limits, Received, Receiver, Recipient, Reply};
use pec_program::sha256;
use pec_state::trigger::NOTICES_DOMAIN;
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::{DeliveryPoint, PERMIT};

/// By which socket a message comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Postfix's `virtual_transport`: mail for mailboxes of ours.
    Mailboxes,
    /// Triggers.
    Triggers,
}

/// More connections than Postfix's transports make (master.cf).
const CONNECTIONS: usize = 200;

/// A bound that no message reaches: Postfix has taken it already, whatever its size, and tells the size
/// before it sends.
const LARGEST: u64 = 1 << 40;

/// How long a message waits for memory. Postfix waits 120 s (`lmtp_data_init_timeout`).
const ROOM: Duration = Duration::from_secs(60);

/// How long the end of the program waits for what is being handed over: longer than a mailbox server takes to
/// answer.
const GRACE: Duration = Duration::from_secs(480);

/// How much of a reason stands in the answer to Postfix, in characters.
const REASON: usize = 300;

/// Serves one of the sockets until the watch says that no more is to be taken, and has then finished what is
/// in hand.
pub fn serve(
    door: Door,
    listener: UnixListener,
    point: Arc<ArcSwap<DeliveryPoint>>,
    mut stop: watch::Receiver<bool>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let settings = point.load().world.settings.clone();
    let limits = Limits {
        message_size: LARGEST,
        recipients: settings.recipient_limit,
        connections: CONNECTIONS,
        ..Limits::default()
    };
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    Box::pin(async move {
        pec_lmtp::serve(listener, settings.hostname, limits, Arc::new(Desk { door, point }), stopped, GRACE)
            .await
    })
}

/// Who answers at a socket.
struct Desk {
    door: Door,
    point: Arc<ArcSwap<DeliveryPoint>>,
}

impl Receiver for Desk {
    type Room = OwnedSemaphorePermit;

    fn recipient(&self, recipient: &Recipient, _: &str) -> Result<(), Reply> {
        let is_trigger =
            Address::parse(&recipient.path).is_some_and(|address| address.domain() == NOTICES_DOMAIN);
        if is_trigger == (self.door == Door::Triggers) {
            return Ok(());
        }
        let why = format!(
            "{}: not by this socket; see transport_maps and virtual_transport in postfix-conf/main.cf",
            recipient.path
        );
        maillog::waits(NO_QUEUE_ID, &why);
        Err(Reply::new(450, "4.3.5", why))
    }

    async fn room(&self, size: u64) -> Result<OwnedSemaphorePermit, Reply> {
        let point = self.point.load_full();
        let full = |why: &str| Reply::new(451, "4.3.2", why);
        // The message, and what is made of it.
        let permits =
            u32::try_from(size.saturating_mul(2).div_ceil(PERMIT)).unwrap_or(u32::MAX).min(point.permits);
        let memory = Arc::clone(&point.memory);
        let room = tokio::time::timeout(ROOM, memory.acquire_many_owned(permits)).await;
        room.map_err(|_| full("no memory within the time; see pec_delivery_memory_limit"))?
            .map_err(|_| full("the program ends"))
    }

    async fn message(&self, message: Received) -> Vec<Reply> {
        let point = self.point.load_full();
        let hand = InHand::new(&message);
        let mut replies = Vec::with_capacity(message.recipients.len());
        for recipient in &message.recipients {
            let done = match self.door {
                Door::Mailboxes => point.for_mailbox(&hand, &recipient.path).await,
                Door::Triggers => point.trigger(&hand, &recipient.path).await.map(|()| done()),
            };
            replies.push(done.unwrap_or_else(|e| {
                let why = format!("{e:#}");
                maillog::waits(hand.queue_id, &why);
                Reply::new(451, "4.3.0", why.chars().take(REASON).collect::<String>())
            }));
        }
        replies
    }
}

/// All that follows from the message is done.
pub(crate) fn done() -> Reply {
    Reply::new(250, "2.0.0", "done")
}

/// A message that Postfix brought.
pub(crate) struct InHand<'a> {
    /// Postfix's queue id, for log lines.
    pub(crate) queue_id: &'a str,
    /// The same for whoever the message is handed to.
    pub(crate) ident: Option<&'a str>,
    /// The envelope id that a program of ours gave it.
    pub(crate) envid: Option<&'a str>,
    /// MAIL FROM without brackets.
    pub(crate) sender: &'a str,
    /// Header and body.
    pub(crate) data: &'a Bytes,
    /// The body.
    pub(crate) body: Bytes,
    /// Its SHA-256.
    pub(crate) body_sha256: [u8; 32],
}

impl<'a> InHand<'a> {
    pub(crate) fn new(message: &'a Received) -> Self {
        let ident = message.ident.as_deref().or_else(|| received_as(&message.data));
        let (_, start) = header_end(&message.data).unwrap_or((message.data.len(), message.data.len()));
        let body = message.data.slice(start..);
        let body_sha256 = sha256(&body);
        Self {
            queue_id: ident.unwrap_or(NO_QUEUE_ID),
            ident,
            envid: message.envid.as_deref(),
            sender: &message.sender,
            data: &message.data,
            body,
            body_sha256,
        }
    }

    /// Its header; what follows a line that is no field is none.
    pub(crate) fn header(&self) -> Header {
        let section = header_end(self.data).map_or(&self.data[..], |(end, _)| &self.data[..end]);
        Header::parse(section).or_else(|at| Header::parse(&section[..at])).unwrap_or_default()
    }
}

/// The queue id in Postfix's own `Received:` field: of its reports, and of what programs of this host put
/// into the queue, XFORWARD says none.
fn received_as(data: &[u8]) -> Option<&str> {
    let field = data[..data.len().min(1000)].strip_prefix(b"Received: by ")?;
    let field = std::str::from_utf8(field.split(|b| *b == b';').next()?).ok()?;
    let (_, id) = field.rsplit_once("\r\n\tid ")?;
    id.bytes().all(|b| b.is_ascii_alphanumeric()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_come_by_smtp_has_its_queue_id_in_postfixs_own_field() {
        let by = |field: &str| {
            received_as(
                format!("{field}; Mon, 30 Nov 2026 20:21:23 +0000 (UTC)\r\nSubject: x\r\n\r\n").as_bytes(),
            )
            .map(str::to_owned)
        };
        assert_eq!(
            by("Received: by mail.x.test (Postfix, from userid 0)\r\n\tid 4jdb5H5DFvzGsn1").as_deref(),
            Some("4jdb5H5DFvzGsn1")
        );
        assert_eq!(
            by("Received: by mail.x.test (Postfix)\r\n\tid 4jdb5H5DFvzGsn2").as_deref(),
            Some("4jdb5H5DFvzGsn2")
        );
        assert_eq!(by("Subject: Received: by x\r\n\tid 4jdb5H5DFvzGsn3"), None);
        assert_eq!(by("Received: by mail.x.test\r\n\tid a b"), None);
        assert_eq!(received_as(b""), None);
    }
}
