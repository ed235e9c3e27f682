//! The milter protocol, as pec-access, pec-incoming and pec-delivery speak it.
//!
//! Promise: callbacks carry, points decide. The callbacks ([`callbacks`]) collect Postfix's events into a
//! [`Transaction`] and hand it whole to a [`Point`]; the point answers with a [`Verdict`]; the callbacks
//! carry that back as edits and reply. What goes wrong in between (a panic, a broken connection, a missing
//! database) is 451 or no answer, which Postfix treats as 451: the mail waits.

pub mod callbacks;
mod coalesced;
pub mod edits;
pub mod guard;
pub mod passing;
pub mod serving;
pub mod transaction;

use pec_core::address::Address;
use pec_core::header::Header;
use pec_program::turns::Share;

pub use edits::Edits;
pub use transaction::{Connection, Recipient, Transaction};

/// The field by which a spam filter before pec-incoming marks a message (postfix-conf/rspamd): ordinary mail
/// that has it is refused, certified mail loses it.
pub const SPAM_FIELD: &str = "X-Pec-Spam";

/// What Postfix tells about a recipient of which only the failure matters. Never NEVER: a trigger that cannot
/// be delivered would vanish, and all receipts of the message with it.
pub const NOTIFY_FAILURE: &str = "NOTIFY=FAILURE";

/// What the SMTP client hears instead of 250: `code`, enhanced status code, text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `550`, `554` ...; at RCPT also `452`.
    pub code: &'static str,
    /// `5.7.1` ...
    pub status: &'static str,
    /// What is wrong, for the person who sent it.
    pub text: String,
}

impl Reply {
    /// A permanent refusal.
    pub fn refuse(code: &'static str, status: &'static str, text: impl Into<String>) -> Self {
        Self { code, status, text: text.into() }
    }

    /// To whoever answers a receipt, at `address` of the service domain (RFC 6109 s. 2.2.5): people read
    /// this.
    pub fn automatic_mailbox(address: &Address) -> Self {
        let text = format!(
            "{address}: casella automatica che nessuno legge, scrivere al mittente; an automatic mailbox, \
            which nobody reads"
        );
        Self::refuse("550", "5.7.1", text)
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.code, self.status, self.text)
    }
}

/// What becomes of a message.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on, changed so.
    Change(Edits),
    /// It has done its work: Postfix says 250 and drops it.
    Consume,
    /// Never: 5xx.
    Refuse(Reply),
    /// Not now: 451, and this line in the log.
    Wait(String),
}

impl Verdict {
    /// Never: `code`, enhanced status code, text.
    pub fn refuse(code: &'static str, status: &'static str, text: impl Into<String>) -> Self {
        Self::Refuse(Reply::refuse(code, status, text))
    }

    /// It goes on as it is.
    pub fn pass() -> Self {
        Self::Change(Edits::default())
    }
}

/// One of the points of RFC 6109: where decisions are made.
pub trait Point: Send + Sync + 'static {
    /// By which socket a connection came: the point's kinds of work.
    type Door: Copy + Send + Sync + 'static;

    /// For whom a message is that comes through `door` under this header, as far as that can be told.
    fn share(&self, door: Self::Door, header: &Header) -> Share;

    /// What is kept of a body that comes through `door` under this header.
    fn keep_body(&self, door: Self::Door, header: &Header) -> KeepBody;

    /// At MAIL FROM.
    fn mail(&self, door: Self::Door, connection: &Connection, transaction: &Transaction)
    -> Result<(), Reply>;

    /// At RCPT TO, before `recipient` is added to the transaction.
    fn rcpt(&self, door: Self::Door, transaction: &Transaction, recipient: &Recipient) -> Result<(), Reply>;

    /// At the end of the message. Postfix has committed nothing yet.
    fn end_of_message(
        &self,
        door: Self::Door,
        connection: &Connection,
        transaction: Transaction,
    ) -> impl Future<Output = Verdict> + Send;
}

/// What a point needs of a message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepBody {
    /// All bytes, in the pieces in which they came, as long as the message has at most so many; beyond,
    /// nothing is kept and [`Transaction::too_large`] says so.
    Pieces(u64),
    /// The same, in one piece.
    Whole(u64),
}
