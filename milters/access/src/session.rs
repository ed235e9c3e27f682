//! One submission, from MAIL FROM to the envelope.
//!
//! Promise: an accepted message is signed and its row written before Postfix has it, and its accettazione
//! follows from Postfix's own queue. One that is not accepted becomes the notice of that, to its sender
//! alone.

use std::collections::{BTreeSet, HashSet};

use anyhow::Context as _;
use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Destinatario, Errore, Tipo, TipoDestinatario, TipoRicevuta};
use pec_core::directory::Directory;
use pec_core::header::{Field, Header};
use pec_core::identifier::{fresh, pec_identifier};
use pec_core::notices::busta::busta;
use pec_core::notices::non_accettazione::non_accettazione;
use pec_core::notices::{Issuer, Notice};
use pec_host::maillog;
use pec_milter::{Connection, Edits, KeepBody, Point, Recipient, Reply, Transaction, Verdict};
use pec_program::sized;
use pec_program::turns::Share;
use pec_program::world::World;
use pec_state::event::Event;
use pec_state::log::{Arrival, Entry};
use pec_state::rows::{About, Custody, Fact, FactKind, MadeNotice, NotAccepted, Sent};
use pec_state::trigger::{Trigger, is_internal_domain};

use crate::checks::{Eccezione, Limits, described, formal_exceptions, is_message_id};
use crate::contents::Carries;

/// The Access Point.
pub struct AccessPoint {
    pub(crate) world: World,
}

impl AccessPoint {
    /// The Access Point in this world.
    pub fn new(world: World) -> Self {
        world.check_scanner(world.settings.message_size_limit);
        Self { world }
    }

    /// Every recipient once, with what the directory says of its domain (RFC 6109 s. 2.2.1).
    fn classify(&self, recipients: &[Recipient]) -> Vec<Destinatario> {
        let mut seen = HashSet::new();
        let addresses = recipients.iter().filter_map(|r| r.address.as_ref()).filter(|a| seen.insert(a.key()));
        let directory = self.world.directory.now();
        addresses
            .map(|a| Destinatario { indirizzo: a.to_string(), tipo: self.type_of(&directory, &a.domain()) })
            .collect()
    }

    fn type_of(&self, directory: &Directory, domain: &str) -> TipoDestinatario {
        if self.world.is_local(domain) || directory.has_domain(domain) {
            TipoDestinatario::Certificato
        } else {
            TipoDestinatario::Esterno
        }
    }

    /// Who serves the recipients of other providers, as the directory says now: their receipts are weighed by
    /// that.
    fn served(&self, recipients: &[Recipient]) -> Option<String> {
        let domains: BTreeSet<String> =
            recipients.iter().filter_map(|r| r.address.as_ref()).map(Address::domain).collect();
        let others = domains.iter().map(String::as_str).filter(|domain| !self.world.is_local(domain));
        Some(self.world.directory.now().excerpt(others)).filter(|served| !served.is_empty())
    }

    /// The certification data of a message that was submitted at `now`; `id` makes its identifier.
    fn daticert(&self, transaction: &Transaction, sender: &Address, now: Moment, id: &str) -> Daticert {
        let settings = &self.world.settings;
        Daticert {
            tipo: Tipo::PostaCertificata,
            errore: Errore::Nessuno,
            mittente: sender.to_string(),
            destinatari: self.classify(&transaction.recipients),
            risposte: reply_to(transaction).unwrap_or_else(|| sender.to_string()),
            oggetto: transaction.header.subject(),
            gestore_emittente: settings.provider_name.clone(),
            data: now,
            identificativo: pec_identifier(now, id, &settings.service_domain),
            msgid: transaction.header.text("Message-ID").filter(|text| is_message_id(text)),
            ricevuta: Some(wished_receipt(transaction)),
            consegna: None,
            ricezione: Vec::new(),
            errore_esteso: None,
        }
    }

    /// An envelope, if neither its form nor what it carries speaks against it. All causes stand in one
    /// notice.
    async fn decide(
        &self,
        connection: &Connection,
        transaction: Transaction,
        sender: Address,
        mut exceptions: Vec<Eccezione>,
    ) -> anyhow::Result<Verdict> {
        let (errore, cause) = match self.carries(&transaction).await? {
            Carries::Virus(virus) => (Errore::Virus, (virus.clone(), virus)),
            Carries::NotScanned(reply) if exceptions.is_empty() => return Ok(Verdict::Refuse(reply)),
            Carries::Nothing if exceptions.is_empty() => {
                return Ok(Verdict::Change(self.accept(connection, transaction, sender).await?));
            }
            carries => {
                if let Carries::NotAccepted(exception) = carries {
                    exceptions.push(exception);
                }
                (Errore::Altro, described(&exceptions))
            }
        };
        Ok(Verdict::Change(self.refuse(connection, &transaction, &sender, errore, cause).await?))
    }

    /// A message that is not accepted: it becomes the notice of that, to its sender, and goes nowhere else
    /// (RFC 6109 s. 3.1.2, 3.1.3). `cause` in Italian and in English; for a virus, its name. One with a virus
    /// is kept (s. 2.2.4).
    async fn refuse(
        &self,
        connection: &Connection,
        transaction: &Transaction,
        sender: &Address,
        errore: Errore,
        (italiano, inglese): (String, String),
    ) -> anyhow::Result<Edits> {
        let world = &self.world;
        let now = world.clock.now();
        let id = fresh()?;
        let about = self.daticert(transaction, sender, now, &id);
        let mut daticert =
            about.about_same_message(Tipo::NonAccettazione, &world.settings.provider_name, now);
        daticert.errore = errore;
        daticert.errore_esteso = Some(italiano);
        let refused = NotAccepted {
            id,
            provider: world.settings.provider_name.clone(),
            daticert: daticert.to_xml(),
            inglese,
        };
        let refused = world.database.authentic(refused)?;
        let of_refused = About {
            provider: &refused.provider,
            identificativo: &daticert.identificativo,
            source: &refused.id,
            source_mac: refused.mac(),
        };
        let fact = Fact::new(FactKind::NonAccettazione, of_refused, now, &world.settings.service_domain)?;
        let (fact_id, message_id) = (fact.id.clone(), fact.message_id.clone());
        let notice = world
            .write(0, |issuer| Ok(non_accettazione(issuer, &daticert, &refused.inglese, &message_id)?))
            .await?;
        let made = MadeNotice { sha256: notice.body.sha256().to_vec(), with: world.made_with() };

        let mut log = Entry::of_arrival(
            Event::Notice(FactKind::NonAccettazione),
            &daticert,
            now,
            transaction.arrival(Some(connection)),
        );
        log.arrival.account = transaction.account.clone();
        log.message_id = Some(message_id.clone());
        log.message_sha256 = Some(made.sha256.clone());
        log.envid = Some(fact_id.clone());
        log.error = daticert.errore_esteso.clone();
        if errore == Errore::Virus {
            // A crash after this leaves a file that no row names; the client submits again.
            world.infected.put_message(&refused.id, &transaction.header, &transaction.body).await?;
            maillog::virus_in_submission(
                transaction.queue_id(),
                sender.as_str(),
                &refused.inglese,
                &refused.id,
            );
        }
        // A crash from here on leaves a refusal that the client does not hear of: it submits again and is
        // refused again.
        world.database.insert_not_accepted(&refused, fact, &made, &log).await?;
        maillog::non_accettazione(transaction.queue_id(), &daticert, &message_id);

        let edits = Edits::default().become_notice(&transaction.header, notice);
        // By the fact's id pec-delivery knows it, and hands it to a full mailbox too.
        let edits = edits.sender(world.service_path(), Some(format!("RET=HDRS ENVID={fact_id}")));
        Ok(edits.only_to(&transaction.recipients, &daticert.mittente))
    }

    /// Everything after the checks: the one story of a message that is accepted.
    async fn accept(
        &self,
        connection: &Connection,
        mut transaction: Transaction,
        sender: Address,
    ) -> anyhow::Result<Edits> {
        let world = &self.world;
        let now = world.clock.now();
        let queue_id = transaction.queue_id().to_owned();
        let (id, envid) = (fresh()?, fresh()?);
        let header = &transaction.header;
        let daticert = self.daticert(&transaction, &sender, now, &id);
        let size = transaction.size();
        let received = received(connection, &transaction, &world.settings.hostname, now);
        let original = std::mem::take(&mut transaction.body);
        let make = |issuer: Issuer<'_>| {
            let envelope = busta(issuer, &daticert, header, original, received)?;
            let body_sha256 = envelope.body.sha256();
            Ok((envelope, body_sha256))
        };
        let bytes = usize::try_from(size).unwrap_or(usize::MAX);
        let (envelope, body_sha256) = world.write(bytes, make).await?;

        let sent = Sent {
            id: id.clone(),
            envid: envid.clone(),
            provider: world.settings.provider_name.clone(),
            identificativo: daticert.identificativo.clone(),
            daticert: daticert.to_xml(),
            body_sha256: body_sha256.to_vec(),
            signed_at: now,
            served: self.served(&transaction.recipients),
        };
        let custody = self.custody_of_own(&sent, &daticert, &envelope, &transaction.recipients)?;
        let sent = world.database.authentic(sent)?;
        let mut log =
            Entry::of_arrival(Event::Accesso, &daticert, now, transaction.arrival(Some(connection)));
        log.arrival.account = transaction.account.clone();
        log.message_id = Some(daticert.identificativo.clone());
        log.message_sha256 = Some(body_sha256.to_vec());
        log.envid = Some(envid.clone());
        let presa_in_carico =
            custody.as_ref().map(|custody| Trigger::notice(FactKind::PresaInCarico, &custody.id));
        let ours = custody.as_ref().map_or(0, |custody| custody.recipients.len());
        let custody = custody
            .map(|custody| (ricezione(&custody, &log), custody))
            .map(|(log, custody)| Ok::<_, anyhow::Error>((world.database.authentic(custody)?, log)));
        // A crash from here on leaves rows that say "signed" and that no trigger ever asks for: no receipt,
        // no message.
        world.database.insert_sent(sent, log, custody.transpose()?).await?;
        maillog::busta(&queue_id, &daticert, ours, bytes);

        let edits = Edits::default().become_notice(header, envelope).envelope_id(&transaction, &envid);
        let edits = edits.add_trigger(&Trigger::notice(FactKind::Accettazione, &id));
        Ok(presa_in_carico.iter().fold(edits, |edits, trigger| edits.add_trigger(trigger)))
    }

    /// What those of its recipients who are ours have of an envelope: nobody needs to take it in charge but
    /// us, who signed it.
    fn custody_of_own(
        &self,
        sent: &Sent,
        daticert: &Daticert,
        envelope: &Notice,
        recipients: &[Recipient],
    ) -> anyhow::Result<Option<Custody>> {
        let mut seen = HashSet::new();
        let ours = recipients
            .iter()
            .filter_map(|r| r.address.as_ref())
            .filter(|a| self.world.is_local(&a.domain()) && seen.insert(a.key()));
        let recipients: Vec<String> = ours.map(ToString::to_string).collect();
        if recipients.is_empty() {
            return Ok(None);
        }
        Ok(Some(Custody {
            id: fresh()?,
            envid: sent.envid.clone(),
            provider: sent.provider.clone(),
            mail_receipt: own_mail_receipt(&self.world)?,
            identificativo: sent.identificativo.clone(),
            daticert: daticert.to_xml(),
            recipients,
            body_sha256: sent.body_sha256.clone(),
            content_sha256: envelope.content_sha256.to_vec(),
            taken_at: sent.signed_at,
        }))
    }
}

/// Our own service mailbox, as the directory has it.
fn own_mail_receipt(world: &World) -> anyhow::Result<String> {
    let own = world.own_record()?;
    let address = own.mail_receipt.as_ref().with_context(|| {
        format!("the record of {} in pec_directory_file has no good mailReceipt", own.title())
    })?;
    Ok(address.to_string())
}

impl Point for AccessPoint {
    type Door = ();

    fn share(&self, (): (), _: &Header) -> Share {
        Share::Users
    }

    fn keep_body(&self, (): (), _: &Header) -> KeepBody {
        // In one piece, for the search for attachments.
        KeepBody::Whole(self.world.settings.message_size_limit)
    }

    fn mail(&self, (): (), _: &Connection, transaction: &Transaction) -> Result<(), Reply> {
        let Some(account) = &transaction.account else {
            return Err(Reply::refuse("530", "5.7.0", "authentication is required"));
        };
        match &transaction.sender {
            Some(sender) if sender.as_str().eq_ignore_ascii_case(account) => Ok(()),
            _ => Err(Reply::refuse(
                "553",
                "5.7.1",
                format!(
                    "{}: the sender must be the account's own address, {account}",
                    transaction.sender_path
                ),
            )),
        }
    }

    fn rcpt(&self, (): (), _: &Transaction, recipient: &Recipient) -> Result<(), Reply> {
        match &recipient.address {
            None => Err(Reply::refuse("553", "5.1.3", format!("{}: is no mail address", recipient.path))),
            Some(address) if is_internal_domain(&address.domain()) => {
                Err(Reply::refuse("550", "5.1.1", format!("{address}: no such mailbox")))
            }
            Some(address) if address.domain() == self.world.settings.service_domain => {
                Err(Reply::automatic_mailbox(address))
            }
            Some(_) => Ok(()),
        }
    }

    async fn end_of_message(&self, (): (), connection: &Connection, transaction: Transaction) -> Verdict {
        let Some(sender) = transaction.sender.clone() else {
            return Verdict::Wait("a message without sender reached its end".to_owned());
        };
        let settings = &self.world.settings;
        if transaction.too_large {
            return Verdict::Refuse(Reply::refuse(
                "552",
                "5.3.4",
                format!(
                    "the message is larger than the {} bytes that are allowed",
                    settings.message_size_limit
                ),
            ));
        }
        if let Some(why) = transaction.header_refused {
            return Verdict::Refuse(Reply::refuse("554", "5.6.0", why.to_string()));
        }
        let limits = Limits { total_size: settings.total_size_limit, recipients: settings.recipient_limit };
        let exceptions = sized(transaction.body.len(), || formal_exceptions(&transaction, &sender, limits));
        let decided = self.decide(connection, transaction, sender, exceptions).await;
        decided.unwrap_or_else(|e| Verdict::Wait(format!("{e:#}")))
    }
}

/// The row of the retained log that says who of ours is to have an envelope of ours; `accesso` is the row of
/// its acceptance.
fn ricezione(custody: &Custody, accesso: &Entry) -> Entry {
    Entry {
        event: Event::Ricezione,
        recipients: custody.recipients.clone(),
        // Nobody brought it here.
        arrival: Arrival::default(),
        ..accesso.clone()
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

/// The Access Point's `Received:` field, as Postfix writes it on top of the envelope; milters are not shown
/// that one.
fn received(connection: &Connection, transaction: &Transaction, hostname: &str, now: Moment) -> Field {
    let tls = transaction.tls.as_ref().map(|tls| {
        format!(
            "\r\n\t(using {} with cipher {} ({} bits))",
            comment(&tls.version),
            comment(&tls.cipher),
            comment(&tls.bits)
        )
    });
    let protocol = if tls.is_some() { "ESMTPSA" } else { "ESMTPA" };
    Field::written(
        "Received",
        &format!(
            "from {} ({} [{}]){}\r\n\tby {hostname} (Postfix) with {protocol} id {};\r\n\t{}",
            comment(&connection.helo),
            if connection.client_name.starts_with('[') {
                "unknown".to_owned()
            } else {
                comment(&connection.client_name)
            },
            comment(&connection.client_address),
            tls.unwrap_or_default(),
            transaction.queue_id(),
            now.rfc5322(),
        ),
    )
}

/// What the client said of itself must not end the comment, the line or the field.
fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '(' | ')' | '\\' | ';') { c } else { '?' })
        .collect()
}
