//! The rows of the tables, as the programs use them.

use pec_core::clock::Moment;
use pec_core::daticert::Tipo;

use crate::authentic::{Content, Mac, Row};

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
    /// When it was signed.
    pub signed_at: Moment,
}

impl Row for Sent {
    const TABLE: &'static str = "sent";

    fn write(&self, content: &mut Content) {
        content
            .text(&self.id)
            .text(&self.envid)
            .text(&self.provider)
            .text(&self.identificativo)
            .text(&self.daticert);
        content.bytes(&self.body_sha256).number(self.signed_at.unix());
    }

    fn key(&self) -> &str {
        &self.id
    }
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

impl Row for NotAccepted {
    const TABLE: &'static str = "not_accepted";

    fn write(&self, content: &mut Content) {
        content.text(&self.id).text(&self.provider).text(&self.daticert).text(&self.inglese);
    }

    fn key(&self) -> &str {
        &self.id
    }
}

/// A copy of an envelope that this provider answers for: the Incoming Point took it, or it is our own for
/// recipients of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custody {
    /// Names the trigger of its presa in carico.
    pub id: String,
    /// The SMTP envelope id under which Postfix hands it to pec-delivery, and reports on it. Of our own: that
    /// of [`Sent`].
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
    /// SHA-256 of the body as it came.
    pub body_sha256: Vec<u8>,
    /// SHA-256 of what the provider signed. What surrounds it is anybody's.
    pub content_sha256: Vec<u8>,
    /// When it was taken.
    pub taken_at: Moment,
}

impl Row for Custody {
    const TABLE: &'static str = "custody";

    fn write(&self, content: &mut Content) {
        content
            .text(&self.id)
            .text(&self.envid)
            .text(&self.provider)
            .text(&self.mail_receipt)
            .text(&self.identificativo)
            .text(&self.daticert);
        content
            .texts(&self.recipients)
            .bytes(&self.body_sha256)
            .bytes(&self.content_sha256)
            .number(self.taken_at.unix());
    }

    fn key(&self) -> &str {
        &self.id
    }
}

pec_core::spelled! {
    /// What a milter let pass to mailboxes of ours besides envelopes.
    PassedKind {
        /// A receipt or notice of a provider about a message of ours, for whom it is: a full mailbox takes
        /// it.
        RicevutaDovuta = "ricevuta-dovuta",
        /// Any other receipt or notice of a provider.
        Ricevuta = "ricevuta",
        /// What is no certified mail, in its busta di anomalia.
        Anomalia = "anomalia",
        /// Postfix's own words about what it could not deliver: a full mailbox takes them.
        Rapporto = "rapporto",
        /// A message of a program of this host to a service mailbox.
        Locale = "locale",
    }
}

impl PassedKind {
    /// Whether a full mailbox takes it all the same.
    pub fn passes_quota(self) -> bool {
        matches!(self, Self::RicevutaDovuta | Self::Rapporto)
    }
}

/// A message that a milter let pass to mailboxes of ours: pec-delivery hands over what has such a row, and
/// nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The SMTP envelope id under which Postfix hands it to pec-delivery.
    pub envid: String,
    /// What it is.
    pub kind: PassedKind,
    /// SHA-256 of its body.
    pub body_sha256: Vec<u8>,
    /// For whom (keys).
    pub recipients: Vec<String>,
}

impl Row for Passed {
    const TABLE: &'static str = "passed";

    fn write(&self, content: &mut Content) {
        content.text(&self.envid).text(self.kind.as_str()).bytes(&self.body_sha256).texts(&self.recipients);
    }

    fn key(&self) -> &str {
        &self.envid
    }
}

pec_core::spelled! {
    /// Where the time of a fact comes from, as the table spells it.
    TimeSource {
        /// Our clock.
        Clock = "clock",
        /// The second in which we heard the mailbox say that it has the message.
        Mailbox = "mailbox",
        /// The same, and the mailbox may have said so earlier: it was handed the message before, and its
        /// answer was lost.
        MailboxAgain = "mailbox-again",
        /// Postfix's report.
        Report = "report",
    }
}

pec_core::spelled! {
    /// Which notice a fact leads to. An envelope has one fact of a kind for each recipient; the names stand
    /// in the tables and in the addresses of triggers.
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

impl FactKind {
    /// Whether it says how a message ended for a recipient.
    pub fn is_outcome(self) -> bool {
        match self {
            Self::AvvenutaConsegna | Self::ErroreConsegna | Self::RilevazioneVirus => true,
            Self::Accettazione
            | Self::NonAccettazione
            | Self::PresaInCarico
            | Self::Preavviso12
            | Self::Preavviso24 => false,
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
    pub kind: FactKind,
    /// The key of the recipient (of several: joined by blanks), empty for an acceptance.
    pub recipient: String,
    /// [`Sent::id`], [`Custody::id`] or [`NotAccepted::id`].
    pub source: String,
    /// The MAC of that row.
    pub source_mac: Mac,
    /// When it happened.
    pub happened_at: Moment,
    /// Who says so.
    pub time_source: TimeSource,
    /// The enhanced status code, for a failure; the virus's name, where one was found.
    pub status: String,
    /// The identifier of the notice, without angle brackets.
    pub message_id: String,
}

impl Row for Fact {
    const TABLE: &'static str = "fact";

    fn write(&self, content: &mut Content) {
        content
            .text(&self.id)
            .text(&self.provider)
            .text(&self.identificativo)
            .text(self.kind.as_str())
            .text(&self.recipient);
        content
            .text(&self.source)
            .mac(&self.source_mac)
            .number(self.happened_at.unix())
            .text(self.time_source.as_str());
        content.text(&self.status).text(&self.message_id);
    }

    fn key(&self) -> &str {
        &self.id
    }
}

/// What a fact's notice came out as, the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// SHA-256 of the notice's body.
    pub sha256: Vec<u8>,
    /// What makes the bytes: certificates, name, program version.
    pub with: String,
}

/// What a fact's notice came out as, under the fact's MAC.
#[derive(Debug)]
pub(crate) struct MadeOf<'a> {
    pub(crate) fact: &'a str,
    pub(crate) fact_mac: &'a Mac,
    pub(crate) made: Made,
}

impl Row for MadeOf<'_> {
    const TABLE: &'static str = "fact.notice";

    fn write(&self, content: &mut Content) {
        content.text(self.fact).mac(self.fact_mac).bytes(&self.made.sha256).text(&self.made.with);
    }

    fn key(&self) -> &str {
        self.fact
    }
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
    /// The MAC of the row of our envelope.
    pub sent_mac: Mac,
}

/// The row about one recipient of a [`Ricevuta`].
#[derive(Debug)]
pub(crate) struct AboutOne<'a> {
    pub(crate) ricevuta: &'a Ricevuta,
    pub(crate) recipient: &'a str,
}

impl Row for AboutOne<'_> {
    const TABLE: &'static str = "ricevuta";

    fn write(&self, content: &mut Content) {
        let of = self.ricevuta;
        content
            .text(&of.identificativo)
            .text(of.kind.as_str())
            .text(self.recipient)
            .text(&of.provider)
            .text(&of.message_id);
        content.number(of.happened_at.unix()).bytes(&of.content_sha256).mac(&of.sent_mac);
    }

    fn key(&self) -> &str {
        &self.ricevuta.message_id
    }
}
