//! One arrival, from MAIL FROM to custody.
//!
//! Promise: what is a correct envelope is in our custody, and its presa in carico on its way, before anybody
//! hears 250. What is not, is delivered as what it is, or refused while the other side still has it. What
//! cannot be known now waits.

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Tipo};
use pec_core::directory::speaker::Speaker;
use pec_core::directory::{Directory, Provider};
use pec_core::header::Header;
use pec_core::identifier::fresh;
use pec_core::message::Body;
use pec_core::notices::anomalia::Errore;
use pec_host::maillog;
use pec_milter::passing::{Anomaly, let_pass, passed};
use pec_milter::{Connection, Edits, KeepBody, Point, Recipient, Reply, SPAM_FIELD, Transaction, Verdict};
use pec_program::turns::{Share, Turn};
use pec_program::world::World;
use pec_program::{LARGE, sha256, sized};
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::rows::{Custody, FactKind, PassedKind, Ricevuta};
use pec_state::trigger::{Trigger, is_internal_domain};
use tokio::sync::Semaphore;

use crate::decision::{Arrived, Former, Judge, Unknown, may_be_signed};
use crate::standing::Standing;
use crate::virus::{Infected, Scanned};

/// Where a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The world.
    Port25,
    /// A program of this host: `sendmail`, cron.
    Local,
}

/// The Incoming Point.
pub struct IncomingPoint {
    pub(crate) world: World,
    /// Judging takes memory of up to twice the message, and the time of hashing it: of the large ones no more are
    /// judged at once than there are processors.
    large: Semaphore,
}

impl IncomingPoint {
    /// The Incoming Point in this world.
    pub fn new(world: World) -> Self {
        world.check_scanner(world.settings.envelope_size_limit);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { world, large: Semaphore::new(processors) }
    }

    /// What came from outside. What a spam filter before us wrote is read for ordinary mail, and goes no
    /// further with any.
    async fn arrived_at_port25(
        &self,
        connection: &Connection,
        mut transaction: Transaction,
    ) -> anyhow::Result<Verdict> {
        let marks = transaction.header.all(SPAM_FIELD).count();
        transaction.header.fields_mut().retain(|field| !field.is(SPAM_FIELD));
        Ok(match self.arrived(connection, transaction, marks > 0).await? {
            Verdict::Change(edits) => Verdict::Change(edits.remove_fields(SPAM_FIELD, marks)),
            other => other,
        })
    }

    async fn arrived(
        &self,
        connection: &Connection,
        transaction: Transaction,
        is_spam: bool,
    ) -> anyhow::Result<Verdict> {
        if let Some(reply) = self.cannot_be_taken(&transaction) {
            return Ok(Verdict::Refuse(reply));
        }
        let mail = Mail::new(connection, transaction).for_judging();
        let arrived = self.judge(&mail).await?;
        if let Some(why) = self.came_in_clear_text(&mail, &arrived) {
            return Ok(Verdict::Wait(why));
        }
        match arrived {
            Arrived::Busta { daticert, content, provider } => {
                self.busta(mail, daticert, content, provider).await
            }
            Arrived::Ricevuta { daticert, content, speaker } => {
                self.ricevuta(&mail, &daticert, content, &speaker).await
            }
            Arrived::NotKnown(not_known) => Ok(Verdict::Wait(not_known.to_string())),
            Arrived::Anomalous { unknown: Some(Unknown { waits: Some(why), .. }), .. } => {
                Ok(Verdict::Wait(why))
            }
            Arrived::Anomalous { provider: None, .. } if is_spam => {
                let text = "the message looks like spam; certified mail is never refused for that";
                Ok(Verdict::refuse("550", "5.7.1", text))
            }
            Arrived::Anomalous { errore, provider, .. } => {
                self.anomalous(&mail, &errore, provider.as_deref()).await
            }
        }
    }

    /// Why a message cannot be taken, whatever it is.
    fn cannot_be_taken(&self, transaction: &Transaction) -> Option<Reply> {
        if let Some(why) = transaction.header_refused {
            return Some(Reply::refuse("554", "5.6.0", why.to_string()));
        }
        if transaction.too_large {
            let limit = self.world.settings.envelope_size_limit;
            let text = format!("larger than the {limit} bytes for which a receipt can be written");
            return Some(Reply::refuse("552", "5.3.4", text));
        }
        let mut addresses = transaction.recipients.iter().filter_map(|r| r.address.as_ref());
        let stranger = addresses.find(|r| !self.world.is_local(&r.domain()))?;
        Some(Reply::refuse("550", "5.7.1", format!("{stranger}: no recipient of this provider")))
    }

    /// What the message is. A signer may be missing in our directory, then a list of its CA, or that first
    /// and then a domain: each is asked for once. A directory of before may have known them.
    async fn judge(&self, mail: &Mail<'_>) -> anyhow::Result<Arrived> {
        let (world, now) = (&self.world, self.world.clock.now());
        let mut directory = world.directory.now();
        let mut arrived = self.judge_by(&directory, &[], mail, now).await?;
        for _ in 0..2 {
            match &arrived {
                Arrived::NotKnown(not_known) => world.crls.fetch_wanted(&not_known.wanted, now).await,
                Arrived::Anomalous { unknown: Some(_), .. } => {
                    match world.newer_directory(&directory).await {
                        Some(newer) => directory = newer,
                        None => break,
                    }
                }
                _ => break,
            }
            arrived = self.judge_by(&directory, &[], mail, now).await?;
        }
        // The signer may be one of before, and then the domain.
        let (mut formerly, since) = (Vec::new(), self.under_way_since());
        for _ in 0..2 {
            let Arrived::Anomalous { unknown: Some(Unknown { what, .. }), .. } = &arrived else { break };
            let more = self.formerly(what, since).await?;
            if more.is_empty() {
                break;
            }
            formerly.extend(more);
            arrived = self.judge_by(&directory, &formerly, mail, now).await?;
        }
        Ok(arrived)
    }

    async fn judge_by(
        &self,
        directory: &Directory,
        formerly: &[Former],
        mail: &Mail<'_>,
        now: Moment,
    ) -> anyhow::Result<Arrived> {
        let judge = Judge { cas: &self.world.cas, directory, formerly, now };
        let whole = mail.whole();
        let decide = || {
            let sender = mail.transaction.sender.as_ref();
            judge.decide(&mail.transaction.header, &whole, sender, &mail.recipients)
        };
        if whole.len() < LARGE {
            return Ok(decide());
        }
        let _turn = self.large.acquire().await?;
        Ok(tokio::task::block_in_place(decide))
    }

    /// Certified mail that came without TLS: why it waits, if the administrator wants that; a line in the log
    /// otherwise.
    fn came_in_clear_text(&self, mail: &Mail<'_>, arrived: &Arrived) -> Option<String> {
        let name = match arrived {
            Arrived::Busta { provider, .. } => &provider.name,
            Arrived::Ricevuta { speaker, .. } => speaker.name(),
            _ => return None,
        };
        if mail.transaction.tls.is_some() {
            return None;
        }
        if self.world.settings.require_tls {
            let why = "sent certified mail without TLS, which pec_require_tls = yes does not take";
            return Some(format!("{name} {why}"));
        }
        maillog::clear_text(mail.transaction.queue_id(), name);
        None
    }

    /// A correct envelope: taken in charge for those for whom it is not in custody yet.
    async fn busta(
        &self,
        mut mail: Mail<'_>,
        daticert: Daticert,
        content: Range<usize>,
        provider: Provider,
    ) -> anyhow::Result<Verdict> {
        let whole = mail.whole();
        let content_sha256 = sha256(&whole[content.clone()]);
        let identificativo = &daticert.identificativo;
        let taken = self.world.database.taken(&provider.name, identificativo, &content_sha256).await?;
        if taken.other_content {
            let errore = Errore::new(
                "un altro messaggio con lo stesso identificativo è già stato preso in carico",
                "another message with the same identifier has been taken in charge before",
            );
            return self.anomalous(&mail, &errore, Some(&provider.name)).await;
        }
        let Some(mail_receipt) = provider.mail_receipt.clone() else {
            return Ok(Verdict::Wait(format!(
                "the record of {} in pec_directory_file has no good mailReceipt, to which the presa in carico \
                 goes; `pecctl check` names the bad value",
                provider.title()
            )));
        };
        let recipients = std::mem::take(&mut mail.recipients);
        let queue_id = mail.transaction.queue_id();
        let Some(recipients) = not_taken(queue_id, &daticert, &provider, recipients, &taken.recipients)
        else {
            return Ok(Verdict::Consume);
        };
        let scanned = self.scanned_signed(&mail, content).await?;
        if let Some(reply) = scanned.refusal(queue_id) {
            return Ok(Verdict::Refuse(reply));
        }
        let infected = if let Scanned::Infected(infected) = scanned { Some(infected) } else { None };
        let body_sha256 = sha256(&whole);
        let provider = provider.name;
        let envelope =
            Envelope { daticert, body_sha256, content_sha256, recipients, provider, mail_receipt, infected };
        self.take_in_charge(mail.connection, &mail.transaction, envelope).await
    }

    /// A correct receipt or notice of a provider.
    async fn ricevuta(
        &self,
        mail: &Mail<'_>,
        daticert: &Daticert,
        content: Range<usize>,
        speaker: &Speaker,
    ) -> anyhow::Result<Verdict> {
        let standing = match self.standing(daticert, speaker).await? {
            Standing::InOurPlace(errore) => return self.anomalous(mail, &errore, Some(speaker.name())).await,
            Standing::NotKnown(why) => return Ok(Verdict::Wait(why)),
            standing => standing,
        };
        if let Some(reply) = self.no_such_mailbox(&mail.recipients, true).await? {
            return Ok(Verdict::Refuse(reply));
        }
        let scanned = self.scanned_signed(mail, content.clone()).await?;
        if let Some(reply) = scanned.refusal_of_receipt(mail.transaction.queue_id(), speaker.name()) {
            return Ok(Verdict::Refuse(reply));
        }
        let whole = mail.whole();
        let hashes = Hashes { body: sha256(&whole), content: sha256(&whole[content]) };
        self.pass_receipt(mail, daticert, speaker, standing, hashes).await
    }

    /// What a program of this host put into the queue: to a certified mailbox it comes in a busta di
    /// anomalia, whatever it is; to anybody else, and to the service mailboxes, as it is. A refusal goes back
    /// to the program's user as a report.
    async fn arrived_locally(
        &self,
        connection: &Connection,
        transaction: Transaction,
    ) -> anyhow::Result<Verdict> {
        let world = &self.world;
        let is_certified =
            |r: &Address| world.is_local(&r.domain()) && r.domain() != world.settings.service_domain;
        let recipients: Vec<Address> =
            transaction.recipients.iter().filter_map(|r| r.address.clone()).collect();
        if let Some(internal) = recipients.iter().find(|r| is_internal_domain(&r.domain())) {
            // Not refused: the report about it would be one about a trigger, which is never given up.
            return Ok(Verdict::Wait(format!(
                "a program of this host writes to {internal}, an internal address; remove it with postsuper \
                -d"
            )));
        }
        if transaction.too_large {
            let is_for_us = recipients.iter().any(|r| world.is_local(&r.domain()));
            return Ok(if is_for_us {
                Verdict::refuse("552", "5.3.4", "too large for a mailbox here")
            } else {
                Verdict::pass()
            });
        }
        if !recipients.iter().any(is_certified) {
            // Also what seems to be for nobody here: root's alias leads to the service mailbox.
            let body_sha256 = sized(transaction.body.len(), || transaction.body.sha256());
            return Ok(Verdict::Change(
                let_pass(world, &transaction, PassedKind::Locale, &body_sha256, None).await?,
            ));
        }
        if !recipients.iter().all(is_certified) {
            let text = "a program's message to certified and to ordinary mailboxes at once; send it to each \
                kind apart";
            return Ok(Verdict::refuse("554", "5.7.1", text));
        }
        if let Some(why) = transaction.header_refused {
            return Ok(Verdict::refuse("554", "5.6.0", why.to_string()));
        }
        let errore = Errore::new(
            "il messaggio è stato immesso da un programma del sistema e non proviene da un gestore di posta \
            certificata",
            "the message was submitted by a program of this host and does not come from a certified mail \
            provider",
        );
        self.anomalous(&Mail::new(connection, transaction), &errore, None).await
    }

    /// What is no correct certified mail, if it is let in: delivered in an envelope that says so (RFC 6109 s.
    /// 3.2.2). `provider`: who has signed it all the same.
    async fn anomalous(
        &self,
        mail: &Mail<'_>,
        errore: &Errore,
        provider: Option<&str>,
    ) -> anyhow::Result<Verdict> {
        let _turn = match self.admitted(mail, provider).await? {
            Ok(turn) => turn,
            Err(reply) => return Ok(Verdict::Refuse(reply)),
        };
        let anomaly = mail.anomaly(errore, provider);
        Ok(Verdict::Change(anomaly.wrap(&self.world, PassedKind::Anomalia, mail.body.clone()).await?.0))
    }

    /// What is no correct certified mail is let in in this turn, or refused. Anybody can break what a provider
    /// signed: it takes strangers' turns all the same.
    async fn admitted(&self, mail: &Mail<'_>, provider: Option<&str>) -> anyhow::Result<Result<Turn, Reply>> {
        if provider.is_none()
            && let Some(reply) = self.refuses_ordinary_mail(&mail.transaction, &mail.recipients)
        {
            return Ok(Err(reply));
        }
        if let Some(reply) = self.no_such_mailbox(&mail.recipients, provider.is_some()).await? {
            return Ok(Err(reply));
        }
        let turn = self.world.turns.wait(Share::Strangers).await?;
        let refusal = match self.scanned(&turn, mail).await? {
            Scanned::Infected(infected) => {
                let text = format!("the message carries a virus: {}", infected.virus);
                Some(Reply::refuse("554", "5.7.1", text))
            }
            scanned => scanned.refusal(mail.transaction.queue_id()),
        };
        Ok(refusal.map_or(Ok(turn), Err))
    }

    /// Once in the queue, mail for nobody would be bounced to whoever it says it is from. What a provider
    /// signed has a sender who may hear of a missing mailbox by Postfix's report, and those who are there
    /// must not miss it.
    async fn no_such_mailbox(&self, recipients: &[Address], signed: bool) -> anyhow::Result<Option<Reply>> {
        let missing = self.world.mailboxes.missing(recipients).await?;
        let refused = if signed { missing.len() == recipients.len() } else { !missing.is_empty() };
        let first = missing.first().filter(|_| refused);
        Ok(first.map(|recipient| Reply::refuse("550", "5.1.1", format!("{recipient}: no such mailbox"))))
    }

    /// Why ordinary mail is not taken for these recipients, if it is not.
    fn refuses_ordinary_mail(&self, transaction: &Transaction, recipients: &[Address]) -> Option<Reply> {
        let settings = &self.world.settings;
        if let Some(closed) = recipients.iter().find(|r| settings.refuse_ordinary_mail.is_refused(r)) {
            return Some(Reply::refuse(
                "550",
                "5.7.1",
                format!("{closed}: takes certified mail only, and the message is none"),
            ));
        }
        // Ours submit with their password; who says to be one of them here is not.
        if self.world.is_local(&transaction.sender_domain()) {
            let sender = &transaction.sender_path;
            return Some(Reply::refuse(
                "550",
                "5.7.1",
                format!("{sender}: sends through the submission service only"),
            ));
        }
        // Nobody reads there (RFC 6109 s. 2.2.5); what comes back of our own notices is kept for the
        // administrator.
        if !transaction.is_null_path()
            && let Some(service) = recipients.iter().find(|r| r.domain() == settings.service_domain)
        {
            return Some(Reply::automatic_mailbox(service));
        }
        None
    }

    /// A correct envelope: the one story of custody.
    async fn take_in_charge(
        &self,
        connection: &Connection,
        transaction: &Transaction,
        envelope: Envelope,
    ) -> anyhow::Result<Verdict> {
        let world = &self.world;
        let queue_id = transaction.queue_id();
        let Envelope {
            mut daticert,
            body_sha256,
            content_sha256,
            recipients,
            provider,
            mail_receipt,
            infected,
        } = envelope;
        // The header says which receipt is asked for (RFC 6109 s. 3.3.2); what is signed counts more, and may
        // be silent.
        daticert.ricevuta = daticert
            .ricevuta
            .or_else(|| transaction.header.text("X-TipoRicevuta")?.to_ascii_lowercase().parse().ok());

        let now = world.clock.now();
        let (id, envid) = (fresh()?, fresh()?);
        if let Some(infected) = &infected {
            // A crash after this leaves a file that no row names; the other side sends the envelope again.
            world.infected.put_message(&id, &transaction.header, &infected.body).await?;
        }
        let custody = world.database.authentic(Custody {
            id,
            envid,
            provider: provider.clone(),
            mail_receipt: mail_receipt.to_string(),
            identificativo: daticert.identificativo.clone(),
            daticert: daticert.to_xml(),
            recipients: recipients.iter().map(ToString::to_string).collect(),
            body_sha256: body_sha256.to_vec(),
            content_sha256: content_sha256.to_vec(),
            taken_at: now,
        })?;
        let mut log =
            Entry::of_arrival(Event::Ricezione, &daticert, now, transaction.arrival(Some(connection)));
        log.recipients = custody.recipients.clone();
        log.certified_by = world.settings.provider_name.clone();
        log.message_id = Some(daticert.identificativo.clone());
        log.message_sha256 = Some(custody.body_sha256.clone());
        log.envid = Some(custody.envid.clone());
        log.error = infected.as_ref().map(|infected| infected.virus.clone());
        // A crash after this leaves a row about a copy that is in no queue: no trigger asks for it, nobody
        // hands it over.
        world.database.insert_custody(&custody, &log).await?;
        maillog::ricezione(queue_id, &daticert, &provider, recipients.len());
        if let Some(infected) = infected {
            maillog::virus_in_envelope(queue_id, &daticert, &provider, &infected.virus, &custody.id);
            return self.become_virus_notices(transaction, &custody, &infected.virus).await;
        }

        let mut edits = Edits::default().envelope_id(transaction, &custody.envid);
        // Those for whom it is in custody already.
        let is_left_out =
            |r: &&Recipient| r.address.as_ref().is_some_and(|address| !recipients.contains(address));
        for recipient in transaction.recipients.iter().filter(is_left_out) {
            edits = edits.delete_recipient(&recipient.path);
        }
        Ok(Verdict::Change(edits.add_trigger(&Trigger::notice(FactKind::PresaInCarico, &custody.id))))
    }

    /// A correct receipt or notice: written down if it counts for an envelope of ours, and delivered as it
    /// came.
    async fn pass_receipt(
        &self,
        mail: &Mail<'_>,
        daticert: &Daticert,
        speaker: &Speaker,
        standing: Standing,
        hashes: Hashes,
    ) -> anyhow::Result<Verdict> {
        let world = &self.world;
        let (connection, transaction) = (mail.connection, &mail.transaction);
        let queue_id = transaction.queue_id();
        let (sent, about, provider, why) = match standing {
            Standing::Counts { sent, about, left_out, provider } => {
                if left_out > 0 {
                    maillog::ricevuta_in_part(queue_id, daticert, &provider, left_out);
                }
                (Some(sent), about, provider, None)
            }
            Standing::ForNothing { about, why } => (None, about, speaker.name().to_owned(), why),
            Standing::InOurPlace(_) | Standing::NotKnown(_) => anyhow::bail!("it is no receipt to be passed"),
        };
        let tipo = daticert.tipo;
        let message_id = transaction.header.text("Message-ID").unwrap_or_default();
        let message_id = message_id.trim_start_matches('<').trim_end_matches('>').to_owned();
        let event = if sent.is_some() { Event::Ricevuta(tipo) } else { Event::RicevutaEstranea(tipo) };
        // The event is the arrival, and who certifies is who signed, whatever the XML says of either.
        let mut log =
            Entry::of_arrival(event, daticert, world.clock.now(), transaction.arrival(Some(connection)));
        log.certified_by = provider.clone();
        log.recipients = about.clone();
        log.message_id = Some(message_id.clone());
        log.message_sha256 = Some(hashes.body.to_vec());
        log.error = why.as_ref().map(|why| why.italiano.clone()).or_else(|| daticert.errore_esteso.clone());
        let (mut triggers, envid) = (Vec::new(), fresh()?);
        let passing = |kind| passed(world, transaction, kind, &hashes.body, &envid);
        let again = passing(PassedKind::Ricevuta)?;
        if let Some(sent) = sent {
            log.message.gestore_emittente = world.settings.provider_name.clone();
            log.envid = Some(sent.envid.clone());
            let ricevuta = Ricevuta {
                identificativo: daticert.identificativo.clone(),
                kind: daticert.tipo,
                recipients: about.iter().map(|r| r.to_ascii_lowercase()).collect(),
                provider: provider.clone(),
                message_id,
                happened_at: daticert.data,
                content_sha256: hashes.content.to_vec(),
                sent_mac: sent.mac().clone(),
            };
            // A full mailbox takes it all the same: once, whom it is for. A receipt is anybody's who has it,
            // and can be brought without end.
            let is_for = |r: &Address| {
                r.domain() == world.settings.service_domain
                    || r.as_str().eq_ignore_ascii_case(&daticert.mittente)
            };
            let is_due = transaction.recipients.iter().all(|r| r.address.as_ref().is_some_and(is_for));
            let new = passing(if is_due { PassedKind::RicevutaDovuta } else { PassedKind::Ricevuta })?;
            world.database.insert_ricevuta(&ricevuta, &log, (&new, &again)).await?;
            maillog::ricevuta(queue_id, daticert, &provider);
            if daticert.tipo == Tipo::RilevazioneVirus {
                triggers = self
                    .virus_not_delivered(queue_id, &sent, daticert, &about, &provider, &hashes.body)
                    .await?;
            }
        } else {
            world.database.insert_passed(&again, Some(&log)).await?;
            match why {
                Some(why) => maillog::ricevuta_of_another(queue_id, daticert, &why.inglese),
                None => maillog::ricevuta_of_nothing(queue_id, daticert, &provider),
            }
        }
        let edits = Edits::default().envelope_id(transaction, &envid);
        Ok(Verdict::Change(triggers.iter().fold(edits, Edits::add_trigger)))
    }
}

/// A message that has arrived: from here on its bytes are in one representation.
pub(crate) struct Mail<'a> {
    /// Who brought it.
    pub(crate) connection: &'a Connection,
    /// Its header and SMTP envelope; the body is taken out of it.
    pub(crate) transaction: Transaction,
    /// Those of its recipients that are addresses.
    pub(crate) recipients: Vec<Address>,
    /// The body.
    pub(crate) body: Body,
}

impl<'a> Mail<'a> {
    fn new(connection: &'a Connection, mut transaction: Transaction) -> Self {
        let body = std::mem::take(&mut transaction.body);
        let recipients = transaction.recipients.iter().filter_map(|r| r.address.clone()).collect();
        Self { connection, transaction, recipients, body }
    }

    /// The same, its body in one piece if the message may be signed. (Of what is not, only the header
    /// matters.)
    fn for_judging(mut self) -> Self {
        if may_be_signed(&self.transaction.header) {
            self.body = Body::from_bytes(self.body.into_bytes());
        }
        self
    }

    /// The body of a message [for judging](Self::for_judging) that may be signed.
    fn whole(&self) -> Bytes {
        self.body.pieces().first().cloned().unwrap_or_default()
    }

    fn anomaly<'b>(&'b self, errore: &'b Errore, provider: Option<&'b str>) -> Anomaly<'b> {
        Anomaly { connection: Some(self.connection), transaction: &self.transaction, errore, provider }
    }
}

/// SHA-256 of a receipt.
struct Hashes {
    body: [u8; 32],
    /// Of what the provider signed.
    content: [u8; 32],
}

/// An envelope that may be taken.
struct Envelope {
    daticert: Daticert,
    body_sha256: [u8; 32],
    /// Of what the provider signed.
    content_sha256: [u8; 32],
    /// Each once, and none for whom it is in custody already.
    recipients: Vec<Address>,
    /// The name of who signed it, in the directory.
    provider: String,
    /// Where the presa in carico goes.
    mail_receipt: Address,
    infected: Option<Infected>,
}

impl Point for IncomingPoint {
    type Door = Door;

    fn share(&self, door: Door, header: &Header) -> Share {
        match door {
            Door::Port25 if may_be_signed(header) => Share::Certified,
            Door::Port25 | Door::Local => Share::Strangers,
        }
    }

    fn keep_body(&self, door: Door, header: &Header) -> KeepBody {
        match door {
            Door::Port25 if may_be_signed(header) => KeepBody::Whole(self.world.settings.envelope_size_limit),
            Door::Port25 | Door::Local => KeepBody::Pieces(self.world.settings.envelope_size_limit),
        }
    }

    fn mail(&self, _: Door, _: &Connection, _: &Transaction) -> Result<(), Reply> {
        Ok(())
    }

    fn rcpt(&self, door: Door, _: &Transaction, recipient: &Recipient) -> Result<(), Reply> {
        let domain = recipient.address.as_ref().map(Address::domain);
        match (door, domain) {
            // A refusal here would leave the message in maildrop for ever; at its end it becomes a report.
            (Door::Local, _) => Ok(()),
            (_, None) => {
                Err(Reply::refuse("553", "5.1.3", format!("{}: is no mail address", recipient.path)))
            }
            (Door::Port25, Some(domain)) if is_internal_domain(&domain) => {
                Err(Reply::refuse("550", "5.1.1", format!("{}: no such mailbox", recipient.path)))
            }
            _ => Ok(()),
        }
    }

    async fn end_of_message(&self, door: Door, connection: &Connection, transaction: Transaction) -> Verdict {
        let verdict = match door {
            Door::Port25 => self.arrived_at_port25(connection, transaction).await,
            Door::Local => self.arrived_locally(connection, transaction).await,
        };
        verdict.unwrap_or_else(|e| Verdict::Wait(format!("{e:#}")))
    }
}

/// For whom an envelope is not in custody yet, each once: whoever brings it again, for those in `taken`
/// (keys) nothing happens. `None`: for nobody.
fn not_taken(
    queue_id: &str,
    daticert: &Daticert,
    provider: &Provider,
    recipients: Vec<Address>,
    taken: &HashSet<String>,
) -> Option<Vec<Address>> {
    let recipients: Vec<Address> =
        distinct(recipients).into_iter().filter(|r| !taken.contains(&r.key())).collect();
    if recipients.is_empty() {
        maillog::duplicate(queue_id, daticert, &provider.name);
    }
    (!recipients.is_empty()).then_some(recipients)
}

fn distinct(addresses: Vec<Address>) -> Vec<Address> {
    let mut seen = HashSet::new();
    addresses.into_iter().filter(|a| seen.insert(a.key())).collect()
}
