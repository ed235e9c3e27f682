//! One submission, from MAIL FROM to the envelope.

use std::collections::HashSet;

use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Destinatario, Errore, Tipo, TipoDestinatario, TipoRicevuta};
use pec_core::header::Field;
use pec_core::identifier::{fresh, pec_identifier};
use pec_core::maillog;
use pec_core::notices::busta::busta;
use pec_milter::transaction::HEADER_FIELD_LIMIT;
use pec_milter::world::World;
use pec_milter::{
    Connection, Edits, INTERNAL_DOMAIN, Keeps, NOTICES_DOMAIN, Point, RICEZIONE, Recipient, Reply, Transaction, Verdict, is_internal_domain,
};
use pec_state::log::{Entry, Event};
use pec_state::rows::Sent;

use crate::checks::formal_exceptions;

/// What Postfix may tell about a trigger: its failure, never its success. Never NEVER: a trigger that cannot be delivered
/// would vanish, and all receipts of the message with it.
const TRIGGER_NOTIFY: &str = "NOTIFY=FAILURE";

/// From this size on, hashing an original is work for a thread of its own.
const LARGE: u64 = 1024 * 1024;

/// The Access Point.
pub struct AccessPoint {
    world: World,
}

impl AccessPoint {
    /// The Access Point in this world.
    pub fn new(world: World) -> Self {
        Self { world }
    }

    /// Every recipient once, with what the directory says of its domain (RFC 6109 s. 2.2.1).
    fn classify(&self, recipients: &[Recipient]) -> Vec<Destinatario> {
        let mut seen = HashSet::new();
        let addresses = recipients.iter().filter_map(|r| r.address.as_ref()).filter(|a| seen.insert(a.key()));
        addresses.map(|a| Destinatario { indirizzo: a.to_string(), tipo: self.type_of(&a.domain()) }).collect()
    }

    fn type_of(&self, domain: &str) -> TipoDestinatario {
        if self.world.is_local(domain) || self.world.directory.provider_of_domain(domain).is_some() {
            TipoDestinatario::Certificato
        } else {
            TipoDestinatario::Esterno
        }
    }

    /// Everything after the checks: the one story of a message that is accepted.
    async fn accept(&self, connection: &Connection, transaction: Transaction, sender: Address) -> anyhow::Result<Edits> {
        let world = &self.world;
        let now = world.clock.now();
        let queue_id = transaction.queue_id().to_owned();
        let id = fresh()?;
        let header = &transaction.header;
        let destinatari = self.classify(&transaction.recipients);
        let daticert = Daticert {
            tipo: Tipo::PostaCertificata,
            errore: Errore::Nessuno,
            mittente: sender.to_string(),
            destinatari,
            risposte: reply_to(&transaction).unwrap_or_else(|| sender.to_string()),
            oggetto: header.subject(),
            gestore_emittente: world.settings.provider_name.clone(),
            data: now,
            identificativo: pec_identifier(now, &id, &world.settings.service_domain),
            msgid: header.text("Message-ID"),
            ricevuta: Some(wished_receipt(&transaction)),
            consegna: None,
            ricezione: Vec::new(),
            errore_esteso: None,
        };
        let size = transaction.size();
        let received = received(connection, &transaction, &world.settings.hostname, now);
        let original = transaction.body;
        let make = || -> anyhow::Result<_> {
            let envelope = busta(world.issuer(), &daticert, header, original, received)?;
            let body_sha256 = envelope.body.sha256();
            Ok((envelope, body_sha256))
        };
        let (envelope, body_sha256) = if size >= LARGE { tokio::task::block_in_place(make)? } else { make()? };

        // The recipients of ours go the internal way, through our own Incoming Point: their reports then do not wait for
        // anybody else's server.
        let mut seen = HashSet::new();
        let local: Vec<&Recipient> =
            transaction.recipients.iter().filter(|r| r.address.as_ref().is_some_and(|a| world.is_local(&a.domain()))).collect();
        let local_recipients: Vec<String> =
            local.iter().filter_map(|r| r.address.as_ref()).filter(|a| seen.insert(a.key())).map(ToString::to_string).collect();

        let sent = Sent {
            id: id.clone(),
            identificativo: daticert.identificativo.clone(),
            daticert: daticert.to_xml(),
            body_sha256: body_sha256.to_vec(),
            local_recipients,
            signed_at: now,
        };
        let mut log = Entry::new(Event::Accesso, &daticert, now, &queue_id);
        log.message_id = Some(daticert.identificativo.clone());
        log.message_sha256 = Some(body_sha256.to_vec());
        log.account = transaction.account.clone();
        log.client_address = Some(connection.client_address.clone());
        // A crash from here on leaves a row that says "signed" and that no trigger ever asks for: no receipt, no message.
        world.database.insert_sent(&sent, &log).await?;
        maillog::busta(&queue_id, &daticert, sent.local_recipients.len(), usize::try_from(size).unwrap_or(usize::MAX));

        let mut edits = Edits::default().become_notice(header, envelope);
        for recipient in &local {
            edits = edits.delete_recipient(&recipient.path);
        }
        if !local.is_empty() {
            edits = edits.add_recipient(format!("<{RICEZIONE}+{id}@{INTERNAL_DOMAIN}>"), Some(TRIGGER_NOTIFY));
        }
        Ok(edits.add_recipient(format!("<{}+{id}@{NOTICES_DOMAIN}>", Tipo::Accettazione), Some(TRIGGER_NOTIFY)))
    }
}

impl Point for AccessPoint {
    type Door = ();

    fn keeps(&self, (): ()) -> Keeps {
        Keeps::Body(self.world.settings.message_size_limit)
    }

    fn mail(&self, (): (), _: &Connection, transaction: &Transaction) -> Result<(), Reply> {
        let Some(account) = &transaction.account else {
            return Err(Reply::refuse("530", "5.7.0", "authentication is required"));
        };
        match &transaction.sender {
            Some(sender) if sender.as_str().eq_ignore_ascii_case(account) => Ok(()),
            _ => Err(Reply::refuse("553", "5.7.1", format!("{}: the sender must be the account's own address, {account}", transaction.sender_path))),
        }
    }

    fn rcpt(&self, (): (), _: &Transaction, recipient: &Recipient) -> Result<(), Reply> {
        match &recipient.address {
            None => Err(Reply::refuse("553", "5.1.3", format!("{}: is no mail address", recipient.path))),
            Some(address) if is_internal_domain(&address.domain()) => Err(Reply::refuse("550", "5.1.1", format!("{address}: no such mailbox"))),
            Some(_) => Ok(()),
        }
    }

    async fn end_of_message(&self, (): (), connection: &Connection, transaction: Transaction) -> Verdict {
        let Some(sender) = transaction.sender.clone() else { return Verdict::Wait("a message without sender reached its end".to_owned()) };
        let settings = &self.world.settings;
        if transaction.too_large {
            return Verdict::Refuse(Reply::refuse(
                "552",
                "5.3.4",
                format!("the message is larger than the {} bytes that are allowed", settings.message_size_limit),
            ));
        }
        if transaction.header_cut {
            return Verdict::Refuse(Reply::refuse(
                "554",
                "5.6.0",
                format!("a header field is longer than the {HEADER_FIELD_LIMIT} bytes that are allowed"),
            ));
        }
        let exceptions = formal_exceptions(&transaction, &sender, settings.total_size_limit);
        if !exceptions.is_empty() {
            let causes: Vec<_> = exceptions.iter().map(ToString::to_string).collect();
            return Verdict::Refuse(Reply::refuse("554", "5.6.0", format!("not accepted as certified mail: {}", causes.join("; "))));
        }
        match self.accept(connection, transaction, sender).await {
            Ok(edits) => Verdict::Change(edits),
            Err(e) => Verdict::Wait(format!("{e:#}")),
        }
    }
}

/// The addresses of `Reply-To:`, if there are any.
fn reply_to(transaction: &Transaction) -> Option<String> {
    let addresses = transaction.header.addresses("Reply-To").ok().filter(|a| !a.is_empty())?;
    Some(addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// `X-TipoRicevuta:`: what the sender wishes; anything unknown means the default (RFC 6109 s. 3.3.2.1).
fn wished_receipt(transaction: &Transaction) -> TipoRicevuta {
    let wish = transaction.header.text("X-TipoRicevuta").unwrap_or_default();
    wish.to_ascii_lowercase().parse().unwrap_or(TipoRicevuta::Completa)
}

/// The Access Point's `Received:` field, as Postfix writes it on top of the envelope; milters are not shown that one.
fn received(connection: &Connection, transaction: &Transaction, hostname: &str, now: Moment) -> Field {
    let tls = transaction
        .tls
        .as_ref()
        .map(|tls| format!("\r\n\t(using {} with cipher {} ({} bits))", comment(&tls.version), comment(&tls.cipher), comment(&tls.bits)));
    let protocol = if tls.is_some() { "ESMTPSA" } else { "ESMTPA" };
    Field::written(
        "Received",
        &format!(
            "from {} ({} [{}]){}\r\n\tby {hostname} (Postfix) with {protocol} id {};\r\n\t{}",
            comment(&connection.helo),
            if connection.client_name.starts_with('[') { "unknown".to_owned() } else { comment(&connection.client_name) },
            comment(&connection.client_address),
            tls.unwrap_or_default(),
            transaction.queue_id(),
            now.rfc5322(),
        ),
    )
}

/// What the client said of itself must not end the comment, the line or the field.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() && !matches!(c, '(' | ')' | '\\' | ';') { c } else { '?' }).collect()
}
