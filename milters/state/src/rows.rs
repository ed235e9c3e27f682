//! The rows of the tables, as the milters use them.

use pec_core::clock::Moment;
use pec_core::daticert::Tipo;

/// An envelope that the Access Point signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Names the triggers about it.
    pub id: String,
    /// The PEC identifier.
    pub identificativo: String,
    /// The envelope's daticert.xml.
    pub daticert: String,
    /// SHA-256 of the signed body.
    pub body_sha256: Vec<u8>,
    /// Recipients that go the internal way, as SMTP paths without brackets.
    pub local_recipients: Vec<String>,
    /// When it was signed.
    pub signed_at: Moment,
}

/// A copy of an envelope that the Incoming Point took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custody {
    /// Names the trigger of its presa in carico, and the original in the store.
    pub id: String,
    /// The SMTP envelope id under which Postfix reports on it.
    pub envid: String,
    /// The provider that signed.
    pub provider: String,
    /// Where the presa in carico goes.
    pub mail_receipt: String,
    /// The PEC identifier.
    pub identificativo: String,
    /// The envelope's daticert.xml.
    pub daticert: String,
    /// The recipients of this copy.
    pub recipients: Vec<String>,
    /// Those of them (as keys) whose delivery receipt carries no original (RFC 6109 s. 3.3.2.1, 3.3.2.3).
    pub concise: Vec<String>,
    /// SHA-256 of the body as it came.
    pub body_sha256: Vec<u8>,
    /// When it was taken.
    pub taken_at: Moment,
}

/// Where the time of a fact comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSource {
    /// Our clock.
    Clock,
    /// The mailbox's own record of when it saved the message.
    Mailbox,
    /// The delivery report, because the mailbox no longer had the message.
    Report,
}

impl TimeSource {
    /// As the table spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Mailbox => "mailbox",
            Self::Report => "report",
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "mailbox" => Self::Mailbox,
            "report" => Self::Report,
            _ => Self::Clock,
        }
    }
}

/// Something that is true, about which there is one notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Names its trigger.
    pub id: String,
    /// The provider of the envelope's sender.
    pub provider: String,
    /// The PEC identifier of the envelope.
    pub identificativo: String,
    /// Which notice it leads to.
    pub kind: Tipo,
    /// The key of the recipient (of several: joined by blanks), empty for an acceptance.
    pub recipient: String,
    /// [`Sent::id`] or [`Custody::id`].
    pub source: String,
    /// When it happened.
    pub happened_at: Moment,
    /// Who says so.
    pub time_source: TimeSource,
    /// The enhanced status code, for a failure.
    pub status: String,
    /// The identifier of the notice, without angle brackets.
    pub message_id: String,
}

/// What a fact's notice came out as, the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// SHA-256 of the notice's body.
    pub sha256: Vec<u8>,
    /// Certificate and program version.
    pub with: String,
}

/// A receipt or notice of another provider about an envelope of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ricevuta {
    /// The PEC identifier of our envelope.
    pub identificativo: String,
    /// Which receipt it is.
    pub kind: Tipo,
    /// The recipients that it is about.
    pub recipients: Vec<String>,
    /// Who signed it.
    pub provider: String,
    /// Its own identifier.
    pub message_id: String,
    /// The time that it certifies.
    pub happened_at: Moment,
}
