//! The table `log`: the retained log (RFC 6109 s. 2.3).
//!
//! Promise: one row for each event, never changed.

use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Destinatario, Errore, Tipo, TipoDestinatario};
use pec_core::header::Header;
use pec_host::NO_QUEUE_ID;

use crate::database::Database;
use crate::event::Event;
use crate::fact::TimeSource;
use crate::pool::DatabaseError;
use crate::sql::{Insert, Sql, Time};

/// By whom a message was brought.
#[derive(Debug, Clone, Default)]
pub struct Arrival {
    /// The account that submitted.
    pub account: Option<String>,
    /// The client's IP address.
    pub client_address: Option<String>,
    /// Version and cipher of the TLS with which the message came.
    pub tls: Option<String>,
}

/// A row that is to be written.
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
    /// By whom the message was brought; nobody, in a row about none that came just now.
    pub arrival: Arrival,
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
            arrival: Arrival::default(),
            error: None,
        }
    }
}

impl Entry {
    /// A row about a message that came just now, whose data `daticert` has.
    pub fn of_arrival(
        event: Event,
        daticert: &Daticert,
        happened_at: Moment,
        (queue_id, arrival): (&str, Arrival),
    ) -> Self {
        Self { arrival, ..Self::new(event, daticert, happened_at, queue_id) }
    }

    /// A row about a message of which nothing is certified: what it says of itself, under an identifier of
    /// ours.
    pub fn of_anomaly(
        header: &Header,
        identificativo: String,
        reverse_path: &str,
        recipients: &[Address],
        happened_at: Moment,
        arrival: (&str, Arrival),
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
    pub fn about_no_message(
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
        Self::about_no_message(
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
        Self::about_no_message(Event::IndiceGestori, identificativo, change.to_owned(), provider, happened_at)
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

/// Bytes of a Message-ID that the log keeps: it is searched by them, and PostgreSQL's indexes know no longer
/// ones. No mail program writes one that long; who means harm does.
const LONGEST_MESSAGE_ID: usize = 2000;

fn beginning(message_id: &str) -> &str {
    &message_id[..message_id.floor_char_boundary(LONGEST_MESSAGE_ID)]
}

/// The insertion of a row, open for a WHERE. A new column stands in a migration, in [`Entry`], here, and in
/// pec-register's `row.rs`, which shows it.
pub(crate) fn insert(entry: &Entry) -> Sql<'_> {
    let message = &entry.message;
    let destinatari = message.destinatari.iter().map(|d| format!("{} ({})", d.indirizzo, d.tipo));
    Insert::into("log")
        .column("happened_at", Time(entry.happened_at))
        .column("event", entry.event.name())
        .column("identificativo", &message.identificativo)
        .column("msgid", message.msgid.as_deref().map(beginning))
        .column("mittente", &message.mittente)
        .column("destinatari", destinatari.collect::<Vec<_>>())
        .column("oggetto", &message.oggetto)
        .column("gestore", &message.gestore_emittente)
        .column("certified_by", &entry.certified_by)
        .column("recipients", &entry.recipients)
        .column("message_id", entry.message_id.as_deref().map(beginning))
        .column("message_sha256", &entry.message_sha256)
        .column("queue_id", &entry.queue_id)
        .column("envid", &entry.envid)
        .column("account", &entry.arrival.account)
        .column("client_address", &entry.arrival.client_address)
        .column("tls", &entry.arrival.tls)
        .column("time_source", entry.time_source.as_str())
        .column("error", &entry.error)
        .sql()
}

impl Database {
    /// Writes a log row alone.
    pub async fn insert_log(&self, log: &Entry) -> Result<(), DatabaseError> {
        self.execute(insert(log)).await?;
        Ok(())
    }

    /// Writes the row unless there is one of this event under this identifier. `true`: it is written now.
    pub async fn insert_log_once(&self, log: &Entry) -> Result<bool, DatabaseError> {
        let sql = insert(log)
            .value(" WHERE NOT EXISTS (SELECT FROM log WHERE event = ", log.event.name())
            .value(" AND identificativo = ", &log.message.identificativo)
            .text(")");
        Ok(self.execute(sql).await? > 0)
    }

    /// The words of the last row of this event under this identifier.
    pub async fn last_words(
        &self,
        event: &Event,
        identificativo: &str,
    ) -> Result<Option<String>, DatabaseError> {
        let sql = Sql::new("SELECT error FROM log")
            .value(" WHERE event = ", event.name())
            .value(" AND identificativo = ", identificativo)
            .text(" ORDER BY seq DESC LIMIT 1");
        Ok(self.query_opt(sql).await?.and_then(|row| row.get("error")))
    }
}
