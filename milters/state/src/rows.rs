//! The rows of the tables, as the milters use them.

use pec_core::clock::Moment;
use pec_core::daticert::Tipo;

/// An envelope that the Access Point signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Names the triggers about it.
    pub id: String,
    /// The SMTP envelope id under which Postfix reports on it.
    pub envid: String,
    /// Our own name at that time.
    pub provider: String,
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

/// A submission that the Access Point did not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAccepted {
    /// [`Fact::source`] of the notice about it.
    pub id: String,
    /// Our own name at that time.
    pub provider: String,
    /// The notice's daticert.xml; the cause in Italian is its `errore-esteso`.
    pub daticert: String,
    /// The cause in English.
    pub inglese: String,
}

/// A copy of an envelope that the Incoming Point took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custody {
    /// Names the trigger of its presa in carico, and the original in the store.
    pub id: String,
    /// The SMTP envelope id under which Postfix reports on it.
    pub envid: String,
    /// What the delivered message is found by in the mailbox.
    pub mark: String,
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
    /// SHA-256 of what the provider signed. What surrounds it is anybody's.
    pub content_sha256: Vec<u8>,
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

pec_core::spelled! {
    /// Which notice a fact leads to. An envelope has one fact of a kind for each recipient; the names stand in the tables and
    /// in the addresses of triggers.
    FactKind {
        /// Ricevuta di accettazione.
        Accettazione = "accettazione",
        /// Avviso di non accettazione.
        NonAccettazione = "non-accettazione",
        /// Ricevuta di presa in carico.
        PresaInCarico = "presa-in-carico",
        /// Ricevuta di avvenuta consegna.
        AvvenutaConsegna = "avvenuta-consegna",
        /// Avviso di rilevazione virus.
        RilevazioneVirus = "rilevazione-virus",
        /// Avviso di mancata consegna, for a virus too.
        ErroreConsegna = "errore-consegna",
        /// Avviso di mancata consegna per superamento dei tempi massimi, after 12 hours.
        Preavviso12 = "preavviso-12",
        /// The same, after 24 hours.
        Preavviso24 = "preavviso-24",
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
    pub kind: FactKind,
    /// The key of the recipient (of several: joined by blanks), empty for an acceptance.
    pub recipient: String,
    /// [`Sent::id`], [`Custody::id`] or [`NotAccepted::id`].
    pub source: String,
    /// When it happened.
    pub happened_at: Moment,
    /// Who says so.
    pub time_source: TimeSource,
    /// The enhanced status code, for a failure; the virus's name, where one was found.
    pub status: String,
    /// The identifier of the notice, without angle brackets.
    pub message_id: String,
}

/// The name of the trigger of a notice, the part of its address before the `@`. `id` is that of the fact, or of the row from
/// which the fact comes where the trigger makes it one.
pub fn trigger_name(kind: FactKind, id: &str) -> String {
    format!("{kind}+{id}")
}

/// What a fact's notice came out as, the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// SHA-256 of the notice's body.
    pub sha256: Vec<u8>,
    /// What makes the bytes: certificates, name, program version.
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
    /// SHA-256 of what its provider signed.
    pub content_sha256: Vec<u8>,
}
