//! The retained log (RFC 6109 s. 2.3): one row for each fact, never changed.

use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Destinatario, Errore, Tipo, TipoDestinatario};
use pec_core::header::Header;
use pec_host::NO_QUEUE_ID;

use crate::event::Event;
use crate::rows::TimeSource;

/// How a message came.
#[derive(Debug, Clone, Default)]
pub struct Arrival {
    /// Postfix's queue id.
    pub queue_id: String,
    /// The account that submitted.
    pub account: Option<String>,
    /// The client's IP address.
    pub client_address: Option<String>,
    /// Version and cipher of the TLS with which the message came.
    pub tls: Option<String>,
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
    /// Version and cipher of the TLS with which the message came.
    pub tls: Option<String>,
    /// What went wrong; of a row about no message, what happened.
    pub error: Option<String>,
}

impl Entry {
    /// A row about the message of `daticert`, with what every row has; certified by the provider of those
    /// data.
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
            tls: None,
            error: None,
        }
    }
}

impl Entry {
    /// A row about a message that came so, whose data `daticert` has.
    pub fn of_arrival(event: Event, daticert: &Daticert, happened_at: Moment, arrival: Arrival) -> Self {
        let Arrival { queue_id, account, client_address, tls } = arrival;
        Self { account, client_address, tls, ..Self::new(event, daticert, happened_at, &queue_id) }
    }

    /// A row about a message of which nothing is certified: what it says of itself, under an identifier of
    /// ours.
    pub fn of_anomaly(
        header: &Header,
        identificativo: String,
        reverse_path: &str,
        recipients: &[Address],
        happened_at: Moment,
        arrival: Arrival,
    ) -> Self {
        let recipients: Vec<String> = recipients.iter().map(ToString::to_string).collect();
        let message = Daticert {
            mittente: reverse_path.to_owned(),
            destinatari: recipients
                .iter()
                .map(|r| Destinatario { indirizzo: r.clone(), tipo: TipoDestinatario::Certificato })
                .collect(),
            oggetto: header.subject(),
            msgid: header.text("Message-ID"),
            ..uncertified(identificativo, happened_at)
        };
        Self { recipients, ..Self::of_arrival(Event::Anomalia, &message, happened_at, arrival) }
    }

    /// A row about no message: `words` say what happened, `identificativo` what it is about.
    pub fn of_fact(
        event: Event,
        identificativo: String,
        words: String,
        provider: &str,
        happened_at: Moment,
    ) -> Self {
        let mut entry = Self::new(event, &uncertified(identificativo, happened_at), happened_at, NO_QUEUE_ID);
        entry.certified_by = provider.to_owned();
        entry.error = Some(words);
        entry
    }

    /// The virus scanner, by its own name for itself, has signatures of this age.
    pub fn of_old_signatures(version: &str, age: &str, provider: &str, happened_at: Moment) -> Self {
        Self::of_fact(
            Event::FirmeAntivirus,
            version.to_owned(),
            format!("the virus scanner's signatures are {age}"),
            provider,
            happened_at,
        )
    }

    /// What has changed in the directory of providers, in words. `identificativo` is the same for the same
    /// change, whoever sees it.
    pub fn of_directory(identificativo: String, change: &str, provider: &str, happened_at: Moment) -> Self {
        Self::of_fact(Event::IndiceGestori, identificativo, change.to_owned(), provider, happened_at)
    }
}

/// What a row is about that is about nothing certified. There is no daticert.xml; of these data only those of
/// the message are used.
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
