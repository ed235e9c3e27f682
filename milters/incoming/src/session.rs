//! One arrival, from MAIL FROM to custody.

use std::collections::HashSet;

use bytes::Bytes;
use openssl::sha::sha256;
use pec_core::address::Address;
use pec_core::daticert::{Daticert, Tipo, TipoRicevuta};
use pec_core::directory::Provider;
use pec_core::envelope::{contents, signed_parts};
use pec_core::header::Header;
use pec_core::identifier::fresh;
use pec_core::maillog;
use pec_core::mime::header_end;
use pec_milter::world::World;
use pec_milter::{
    Connection, Edits, INTERNAL_DOMAIN, Keeps, NOTICES_DOMAIN, Point, RICEZIONE, Recipient, Reply, Transaction, Verdict, is_internal_domain,
};
use pec_state::log::{Entry, Event};
use pec_state::rows::{Custody, Ricevuta};

use crate::decision::{Arrived, decide};

/// Postfix tells of a trigger's failure; see pec-access.
const TRIGGER_NOTIFY: &str = "NOTIFY=FAILURE";

/// What Postfix tells about a recipient in custody: both ends, each of which is a receipt.
const CUSTODY_NOTIFY: &str = "NOTIFY=SUCCESS,FAILURE";

/// From this size on, verifying is work for a thread of its own.
const LARGE: usize = 1024 * 1024;

/// Where a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The world.
    Port25,
    /// Our own Access Point, for recipients of ours.
    Internal,
}

/// The Incoming Point.
pub struct IncomingPoint {
    world: World,
}

impl IncomingPoint {
    /// The Incoming Point in this world.
    pub fn new(world: World) -> Self {
        Self { world }
    }

    async fn arrived_at_port25(&self, connection: &Connection, mut transaction: Transaction) -> anyhow::Result<Verdict> {
        let world = &self.world;
        let body = std::mem::take(&mut transaction.body).into_bytes();
        let judge = || decide(&world.cas, &world.directory, &transaction.header, &body, transaction.sender.as_ref(), world.clock.now());
        let arrived = match if body.len() >= LARGE { tokio::task::block_in_place(judge) } else { judge() } {
            Ok(arrived) => arrived,
            Err(reply) => return Ok(Verdict::Refuse(reply)),
        };
        if let Some(stranger) = transaction.recipients.iter().find(|r| !r.address.as_ref().is_some_and(|a| world.is_local(&a.domain()))) {
            return Ok(Verdict::Refuse(Reply::refuse("550", "5.7.1", format!("{}: no recipient of this provider", stranger.path))));
        }
        match arrived {
            Arrived::Busta { daticert, postacert, provider } => {
                let recipients = transaction.recipients.iter().filter_map(|r| r.address.clone()).collect();
                let envelope = Envelope { daticert, postacert, body_sha256: sha256(&body), recipients, provider };
                self.take_in_charge(connection, &transaction, envelope).await
            }
            Arrived::Ricevuta { daticert, provider } => self.pass_receipt(connection, &transaction, &daticert, &provider, &sha256(&body)).await,
        }
    }

    /// The envelope comes back from our own queue for recipients of ours: it is what we signed, byte for byte, or nothing.
    async fn arrived_internally(&self, connection: &Connection, mut transaction: Transaction) -> anyhow::Result<Verdict> {
        let [trigger] = &transaction.recipients[..] else { return Ok(Verdict::Wait("an internal message has one recipient".to_owned())) };
        let trigger = trigger.path.clone();
        let body = std::mem::take(&mut transaction.body).into_bytes();
        let not_believed = |why: &str| {
            maillog::false_trigger(transaction.queue_id(), &trigger, why);
            Ok(Verdict::Wait(format!("{trigger}: {why}")))
        };
        let Some(id) = internal_id(&trigger) else { return not_believed("the address has no id") };
        let Some(sent) = self.world.database.sent(&id).await? else { return not_believed("no envelope has this id") };
        let body_sha256 = sha256(&body);
        if body_sha256[..] != sent.body_sha256[..] {
            return not_believed("these are not the bytes that were signed");
        }
        let Some(provider) = self.world.directory.provider_named(&self.world.settings.provider_name) else {
            return Ok(Verdict::Wait("our own record is not in the directory of providers".to_owned()));
        };
        let parts = signed_parts(&transaction.header, &body)?;
        let contents = contents(&body, parts.content, Tipo::PostaCertificata)?;
        let envelope = Envelope {
            daticert: contents.daticert,
            postacert: contents.postacert.unwrap_or_default(),
            body_sha256,
            recipients: sent.local_recipients.iter().filter_map(|r| Address::parse(r)).collect(),
            provider: provider.clone(),
        };
        self.take_in_charge(connection, &transaction, envelope).await
    }

    /// A correct envelope: the one story of custody.
    async fn take_in_charge(&self, connection: &Connection, transaction: &Transaction, envelope: Envelope) -> anyhow::Result<Verdict> {
        let world = &self.world;
        let queue_id = transaction.queue_id();
        let Envelope { daticert, postacert, body_sha256, recipients, provider } = envelope;
        let recipients = distinct(recipients);
        let mut keys: Vec<String> = recipients.iter().map(Address::key).collect();
        keys.sort();
        if world.database.is_in_custody(&provider.name, &daticert.identificativo, &body_sha256, &keys).await? {
            maillog::duplicate(queue_id, &daticert, &provider.name);
            return Ok(Verdict::Consume);
        }

        let now = world.clock.now();
        let (id, envid) = (fresh()?, fresh()?);
        let concise = concise_recipients(&daticert, &postacert, &recipients);
        // A crash after this leaves a file that no row names; the other side sends the envelope again.
        if concise.len() < recipients.len() {
            world.store.put(&id, postacert).await?;
        }
        let custody = Custody {
            id,
            envid,
            provider: provider.name.clone(),
            mail_receipt: provider.mail_receipt.to_string(),
            identificativo: daticert.identificativo.clone(),
            daticert: daticert.to_xml(),
            recipients: recipients.iter().map(ToString::to_string).collect(),
            concise,
            body_sha256: body_sha256.to_vec(),
            taken_at: now,
        };
        let mut log = Entry::new(Event::Ricezione, &daticert, now, queue_id);
        log.recipients = custody.recipients.clone();
        log.certified_by = world.settings.provider_name.clone();
        log.message_id = Some(daticert.identificativo.clone());
        log.message_sha256 = Some(custody.body_sha256.clone());
        log.envid = Some(custody.envid.clone());
        log.client_address = Some(connection.client_address.clone());
        // A crash after this leaves a row about a copy that is in no queue: no trigger asks for it, no report speaks of it.
        world.database.insert_custody(&custody, &log).await?;
        maillog::ricezione(queue_id, &daticert, &provider.name, recipients.len());

        let mut edits = Edits::default().sender(transaction.sender_path.clone(), Some(format!("RET=HDRS ENVID={}", custody.envid)));
        if transaction.recipients.iter().any(|r| r.address.as_ref().is_some_and(|a| a.domain() == INTERNAL_DOMAIN)) {
            for trigger in &transaction.recipients {
                edits = edits.delete_recipient(&trigger.path);
            }
            for recipient in &recipients {
                edits = edits.add_recipient(recipient.path(), Some(CUSTODY_NOTIFY));
            }
        }
        Ok(Verdict::Change(edits.add_recipient(format!("<{}+{}@{NOTICES_DOMAIN}>", Tipo::PresaInCarico, custody.id), Some(TRIGGER_NOTIFY))))
    }

    /// A correct receipt or notice: written down if it is about an envelope of ours, and delivered as it came.
    async fn pass_receipt(
        &self,
        connection: &Connection,
        transaction: &Transaction,
        daticert: &Daticert,
        provider: &Provider,
        body_sha256: &[u8],
    ) -> anyhow::Result<Verdict> {
        let world = &self.world;
        let queue_id = transaction.queue_id();
        let about: Vec<String> = daticert.consegna.iter().chain(&daticert.ricezione).cloned().collect();
        let sent = world.database.sent_with_identifier(&daticert.identificativo).await?;
        let is_ours = sent.is_some_and(|sent| self.may_speak_of(&sent.daticert, &about, provider));

        let tipo = daticert.tipo.as_str();
        let message_id = transaction.header.text("Message-ID").unwrap_or_default();
        let message_id = message_id.trim_start_matches('<').trim_end_matches('>').to_owned();
        let event = if is_ours { Event::Ricevuta(tipo) } else { Event::RicevutaEstranea(tipo) };
        let mut log = Entry::new(event, daticert, daticert.data, queue_id);
        log.recipients = about.clone();
        log.message_id = Some(message_id.clone());
        log.message_sha256 = Some(body_sha256.to_vec());
        log.client_address = Some(connection.client_address.clone());
        log.error = daticert.errore_esteso.clone();
        if is_ours {
            log.message.gestore_emittente = world.settings.provider_name.clone();
            let ricevuta = Ricevuta {
                identificativo: daticert.identificativo.clone(),
                kind: daticert.tipo,
                recipients: about.iter().map(|r| r.to_ascii_lowercase()).collect(),
                provider: provider.name.clone(),
                message_id,
                happened_at: daticert.data,
            };
            world.database.insert_ricevuta(&ricevuta, &log).await?;
            maillog::ricevuta(queue_id, daticert, &provider.name);
        } else {
            world.database.insert_log(&log).await?;
            maillog::ricevuta_of_nothing(queue_id, daticert, &provider.name);
        }

        // Receipts are about deliveries; about theirs there is none.
        let mut edits = Edits::default();
        for recipient in &transaction.recipients {
            edits = edits.delete_recipient(&recipient.path);
        }
        for recipient in distinct(transaction.recipients.iter().filter_map(|r| r.address.clone()).collect()) {
            edits = edits.add_recipient(recipient.path(), Some(TRIGGER_NOTIFY));
        }
        Ok(Verdict::Change(edits))
    }

    /// Whether a receipt about `recipients` of the envelope with this daticert.xml may come from `provider`: they are
    /// recipients of it, and of domains that the provider serves.
    fn may_speak_of(&self, sent_daticert: &str, recipients: &[String], provider: &Provider) -> bool {
        let Ok(sent) = Daticert::parse(sent_daticert.as_bytes()) else { return false };
        let is_served = |r: &Address| {
            sent.destinatari.iter().any(|d| d.indirizzo.eq_ignore_ascii_case(r.as_str()))
                && self.world.directory.provider_of_domain(&r.domain()) == Some(provider)
        };
        !recipients.is_empty() && recipients.iter().all(|r| Address::parse(r).is_some_and(|r| is_served(&r)))
    }
}

/// An envelope that may be taken.
struct Envelope {
    daticert: Daticert,
    postacert: Bytes,
    body_sha256: [u8; 32],
    recipients: Vec<Address>,
    provider: Provider,
}

impl Point for IncomingPoint {
    type Door = Door;

    fn keeps(&self, _: Door) -> Keeps {
        // Postfix's message_size_limit is the bound.
        Keeps::Body(u64::MAX)
    }

    fn mail(&self, _: Door, _: &Connection, _: &Transaction) -> Result<(), Reply> {
        Ok(())
    }

    fn rcpt(&self, door: Door, _: &Transaction, recipient: &Recipient) -> Result<(), Reply> {
        let domain = recipient.address.as_ref().map(Address::domain);
        match (door, domain) {
            (_, None) => Err(Reply::refuse("553", "5.1.3", format!("{}: is no mail address", recipient.path))),
            (Door::Port25, Some(domain)) if is_internal_domain(&domain) => {
                Err(Reply::refuse("550", "5.1.1", format!("{}: no such mailbox", recipient.path)))
            }
            (Door::Internal, Some(domain)) if domain != INTERNAL_DOMAIN => {
                Err(Reply::refuse("550", "5.7.1", format!("{}: not on this way", recipient.path)))
            }
            _ => Ok(()),
        }
    }

    async fn end_of_message(&self, door: Door, connection: &Connection, transaction: Transaction) -> Verdict {
        let verdict = match door {
            Door::Port25 => self.arrived_at_port25(connection, transaction).await,
            Door::Internal => self.arrived_internally(connection, transaction).await,
        };
        verdict.unwrap_or_else(|e| Verdict::Wait(format!("{e:#}")))
    }
}

/// The id in `ricezione+ID@...`.
fn internal_id(path: &str) -> Option<String> {
    let address = Address::from_path(path)?;
    let (name, id) = address.local_part().split_once('+')?;
    (name.eq_ignore_ascii_case(RICEZIONE) && !id.is_empty()).then(|| id.to_owned())
}

fn distinct(addresses: Vec<Address>) -> Vec<Address> {
    let mut seen = HashSet::new();
    addresses.into_iter().filter(|a| seen.insert(a.key())).collect()
}

/// Who of `recipients` gets a delivery receipt without the original, as sorted keys: everybody if the sender asked so, and
/// those in Cc. In both To and Cc, in neither, or where the fields cannot be read, a recipient counts as in To
/// (RFC 6109 s. 3.3.2.1).
fn concise_recipients(daticert: &Daticert, postacert: &[u8], recipients: &[Address]) -> Vec<String> {
    let header = header_end(postacert).and_then(|(end, _)| Header::parse(&postacert[..end]).ok()).unwrap_or_default();
    let (to, cc) = (header.addresses("To").ok(), header.addresses("Cc").ok());
    let only_in_cc = |r: &Address| to.as_ref().is_some_and(|to| !to.contains(r)) && cc.as_ref().is_some_and(|cc| cc.contains(r));
    let mut concise: Vec<String> =
        recipients.iter().filter(|r| daticert.ricevuta == Some(TipoRicevuta::Sintetica) || only_in_cc(r)).map(Address::key).collect();
    concise.sort();
    concise
}

#[cfg(test)]
mod tests {
    use super::*;
    use pec_core::clock::Moment;
    use pec_core::daticert::{Destinatario, Errore, TipoDestinatario};

    fn concise(postacert: &str, ricevuta: TipoRicevuta) -> Vec<String> {
        let daticert = Daticert {
            tipo: Tipo::PostaCertificata,
            errore: Errore::Nessuno,
            mittente: "a@x.test".into(),
            destinatari: vec![Destinatario { indirizzo: "b@y.test".into(), tipo: TipoDestinatario::Certificato }],
            risposte: String::new(),
            oggetto: None,
            gestore_emittente: "X".into(),
            data: Moment::from_unix(0),
            identificativo: "1@x".into(),
            msgid: None,
            ricevuta: Some(ricevuta),
            consegna: None,
            ricezione: vec![],
            errore_esteso: None,
        };
        let recipients: Vec<_> = ["B@y.test", "c@y.test"].iter().filter_map(|r| Address::parse(r)).collect();
        concise_recipients(&daticert, postacert.replace('\n', "\r\n").as_bytes(), &recipients)
    }

    #[test]
    fn rfc6109_3_3_2_1_copies_get_concise_receipts() {
        assert_eq!(concise("To: b@y.test\nCc: C@y.test\n\nx", TipoRicevuta::Completa), ["c@y.test"]);
        assert_eq!(concise("To: b@y.test, c@y.test\nCc: c@y.test\n\nx", TipoRicevuta::Completa), [""; 0]);
        assert_eq!(concise("To: somebody@else.test\n\nx", TipoRicevuta::Completa), [""; 0]);
        assert_eq!(concise("To: nonsense\nCc: c@y.test\n\nx", TipoRicevuta::Completa), [""; 0]);
        assert_eq!(concise("no header", TipoRicevuta::Completa), [""; 0]);
    }

    #[test]
    fn rfc6109_3_3_2_3_everybody_gets_a_concise_receipt_where_the_sender_asks_so() {
        assert_eq!(concise("To: b@y.test, c@y.test\n\nx", TipoRicevuta::Sintetica), ["b@y.test", "c@y.test"]);
    }

    #[test]
    fn the_id_of_the_internal_way() {
        assert_eq!(internal_id("<ricezione+00ff@ricezione.pec.internal>").as_deref(), Some("00ff"));
        assert_eq!(internal_id("<ricezione@ricezione.pec.internal>"), None);
        assert_eq!(internal_id("<accettazione+1@ricezione.pec.internal>"), None);
    }
}
