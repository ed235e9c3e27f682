//! The retained log (RFC 6109 s. 2.3): one row for each fact, never changed.

use pec_core::NO_QUEUE_ID;
use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Destinatario, Errore, Tipo, TipoDestinatario};
use pec_core::header::Header;

use crate::rows::TimeSource;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The Access Point received a message and signed the envelope around it.
    Accesso,
    /// The Incoming Point verified an envelope.
    Ricezione,
    /// A notice of ours was made; the kind of its fact.
    Notice(&'static str),
    /// A receipt or notice of another provider came; daticert's tipo.
    Ricevuta(&'static str),
    /// One that speaks of a message never sent from here.
    RicevutaEstranea(&'static str),
    /// Something that is no correct certified mail was put into a busta di anomalia.
    Anomalia,
    /// The virus scanner's signatures are older than the administrator allows.
    FirmeAntivirus,
}

impl Event {
    /// As the log spells it.
    pub fn name(&self) -> String {
        match self {
            Self::Accesso => "accesso".to_owned(),
            Self::Ricezione => "ricezione".to_owned(),
            Self::Notice(kind) => (*kind).to_owned(),
            Self::Ricevuta(tipo) => format!("ricevuta-{tipo}"),
            Self::RicevutaEstranea(tipo) => format!("ricevuta-estranea-{tipo}"),
            Self::Anomalia => "anomalia".to_owned(),
            Self::FirmeAntivirus => "firme-antivirus".to_owned(),
        }
    }
}

/// A row to be.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// When.
    pub happened_at: Moment,
    /// Who says when.
    pub time_source: TimeSource,
    /// The message's data: identifiers, sender, recipients, subject, sender's provider.
    pub message: Daticert,
    /// The provider that certifies this.
    pub certified_by: String,
    /// The recipients that this event is about.
    pub recipients: Vec<String>,
    /// Identifier of the message generated or received.
    pub message_id: Option<String>,
    /// SHA-256 of its body.
    pub message_sha256: Option<Vec<u8>>,
    /// Postfix's queue id.
    pub queue_id: String,
    /// The SMTP envelope id.
    pub envid: Option<String>,
    /// The account that submitted.
    pub account: Option<String>,
    /// The client's IP address.
    pub client_address: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

impl Entry {
    /// A row about the message of `daticert`, with what every row has; certified by the provider of those data.
    pub fn new(event: Event, daticert: &Daticert, happened_at: Moment, queue_id: &str) -> Self {
        Self {
            certified_by: daticert.gestore_emittente.clone(),
            event,
            happened_at,
            time_source: TimeSource::Clock,
            message: daticert.clone(),
            recipients: Vec::new(),
            message_id: None,
            message_sha256: None,
            queue_id: queue_id.to_owned(),
            envid: None,
            account: None,
            client_address: None,
            error: None,
        }
    }
}

impl Entry {
    /// A row about a message of which nothing is certified: what it says of itself, under an identifier of ours.
    pub fn of_anomaly(
        header: &Header,
        identificativo: String,
        reverse_path: &str,
        recipients: &[Address],
        happened_at: Moment,
        queue_id: &str,
    ) -> Self {
        let recipients: Vec<String> = recipients.iter().map(ToString::to_string).collect();
        let message = Daticert {
            mittente: reverse_path.to_owned(),
            destinatari: recipients.iter().map(|r| Destinatario { indirizzo: r.clone(), tipo: TipoDestinatario::Certificato }).collect(),
            oggetto: header.subject(),
            msgid: header.text("Message-ID"),
            ..uncertified(identificativo, happened_at)
        };
        Self { recipients, ..Self::new(Event::Anomalia, &message, happened_at, queue_id) }
    }

    /// A row about no message: the virus scanner, by its own name for itself, has signatures of this age.
    pub fn of_old_signatures(version: &str, age: &str, provider: &str, happened_at: Moment) -> Self {
        let mut entry = Self::new(Event::FirmeAntivirus, &uncertified(version.to_owned(), happened_at), happened_at, NO_QUEUE_ID);
        entry.certified_by = provider.to_owned();
        entry.error = Some(format!("the virus scanner's signatures are {age}"));
        entry
    }
}

/// What a row is about that is about nothing certified. There is no daticert.xml; of these data only those of the message are
/// used.
fn uncertified(identificativo: String, data: Moment) -> Daticert {
    Daticert {
        tipo: Tipo::PostaCertificata,
        errore: Errore::Altro,
        mittente: String::new(),
        destinatari: Vec::new(),
        risposte: String::new(),
        oggetto: None,
        gestore_emittente: String::new(),
        data,
        identificativo,
        msgid: None,
        ricevuta: None,
        consegna: None,
        ricezione: Vec::new(),
        errore_esteso: None,
    }
}

/// A row as `pecctl log` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Order of recording.
    pub seq: i64,
    /// When it happened.
    pub happened_at: Moment,
    /// What.
    pub event: String,
    /// The PEC identifier.
    pub identificativo: String,
    /// The sender's own Message-ID.
    pub msgid: Option<String>,
    /// The sender.
    pub mittente: String,
    /// All recipients.
    pub destinatari: Vec<String>,
    /// The subject.
    pub oggetto: Option<String>,
    /// The sender's provider.
    pub gestore: String,
    /// The provider that certifies this.
    pub certified_by: String,
    /// The recipients that the event is about.
    pub recipients: Vec<String>,
    /// Identifier of the message generated or received.
    pub message_id: Option<String>,
    /// SHA-256 of its body, hexadecimal.
    pub message_sha256: Option<String>,
    /// Postfix's queue id.
    pub queue_id: String,
    /// Who says when.
    pub time_source: String,
    /// What went wrong.
    pub error: Option<String>,
}
