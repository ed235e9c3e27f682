//! From a fact to its notice, and the notice into somebody's custody.
//!
//! Promise: the same fact gives the same bytes. What is returned as done is in a mailbox of ours, or in
//! Postfix's queue on its way to another provider; asked for again, it is neither made nor handed over again.

use anyhow::Context as _;
use bytes::Bytes;
use pec_core::address::Address;
use pec_core::breve::breve;
use pec_core::daticert::{Daticert, TipoRicevuta};
use pec_core::header::Header;
use pec_core::message::Body;
use pec_core::mime::header_end;
use pec_core::notices::accettazione::accettazione;
use pec_core::notices::avvenuta_consegna::avvenuta_consegna;
use pec_core::notices::mancata_consegna::{Causa, mancata_consegna};
use pec_core::notices::non_accettazione::non_accettazione;
use pec_core::notices::preavviso::{Termine, preavviso};
use pec_core::notices::presa_in_carico::presa_in_carico;
use pec_core::notices::rilevazione_virus::rilevazione_virus;
use pec_core::notices::{Issuer, Notice, service_address};
use pec_host::maillog;
use pec_lmtp::Outgoing;
use pec_program::mailbox::{Handed, Quota};
use pec_program::sized;
use pec_state::authentic::{Authentic, Mac};
use pec_state::event::Event;
use pec_state::handover::{Attempt, Begun};
use pec_state::log::Entry;
use pec_state::rows::{Custody, Fact, FactKind, Known, MadeNotice, NotAccepted, Sent};

use crate::DeliveryPoint;
use crate::doors::InHand;
use crate::handing_over::Ended;

/// The row behind a fact: what its notice is about.
pub(crate) enum Source {
    /// Our own envelope.
    Sent(Authentic<Sent>),
    /// An envelope in our custody.
    Custody(Authentic<Custody>),
    /// A submission that was not accepted.
    NotAccepted(Authentic<NotAccepted>),
}

impl Source {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Sent(sent) => &sent.id,
            Self::Custody(custody) => &custody.id,
            Self::NotAccepted(refused) => &refused.id,
        }
    }

    fn mac(&self) -> &Mac {
        match self {
            Self::Sent(sent) => sent.mac(),
            Self::Custody(custody) => custody.mac(),
            Self::NotAccepted(refused) => refused.mac(),
        }
    }

    fn sent(&self) -> Option<&Authentic<Sent>> {
        if let Self::Sent(sent) = self { Some(sent) } else { None }
    }

    fn custody(&self) -> Option<&Authentic<Custody>> {
        if let Self::Custody(custody) = self { Some(custody) } else { None }
    }

    fn not_accepted(&self) -> Option<&Authentic<NotAccepted>> {
        if let Self::NotAccepted(refused) = self { Some(refused) } else { None }
    }

    pub(crate) fn daticert(&self) -> anyhow::Result<Daticert> {
        let xml = match self {
            Self::Sent(sent) => &sent.daticert,
            Self::Custody(custody) => &custody.daticert,
            Self::NotAccepted(refused) => &refused.daticert,
        };
        Ok(Daticert::parse(xml.as_bytes())?)
    }
}

/// A fact that there is to be a notice about.
pub(crate) enum DueNotice {
    /// It is written already.
    Written(Known),
    /// It is written together with its notice: whatever made it a fact is still there if no notice can be
    /// made now.
    New(Fact),
}

impl DueNotice {
    fn fact(&self) -> &Fact {
        match self {
            Self::Written(known) => &known.fact,
            Self::New(fact) => fact,
        }
    }
}

impl DeliveryPoint {
    /// The row behind a fact that is written already.
    pub(crate) async fn source_of(&self, fact: &Fact) -> anyhow::Result<Source> {
        let (database, id) = (&self.world.database, &fact.source);
        let source = match fact.kind {
            FactKind::Accettazione | FactKind::Preavviso12 | FactKind::Preavviso24 => {
                database.sent(id).await?.map(Source::Sent)
            }
            FactKind::NonAccettazione => database.not_accepted(id).await?.map(Source::NotAccepted),
            FactKind::PresaInCarico | FactKind::AvvenutaConsegna | FactKind::RilevazioneVirus => {
                database.custody(id).await?.map(Source::Custody)
            }
            // Of a delivery here, or of an envelope of ours that did not reach another provider.
            FactKind::ErroreConsegna => match database.custody(id).await? {
                Some(custody) => Some(Source::Custody(custody)),
                None => database.sent(id).await?.map(Source::Sent),
            },
        };
        let source =
            source.with_context(|| format!("the fact {} comes from {id}, which no row has", fact.id))?;
        if *source.mac() != fact.source_mac {
            maillog::forged_row("fact", &fact.id);
            anyhow::bail!("the fact {} is about another row than the one that has the id {id} now", fact.id);
        }
        Ok(source)
    }

    /// To whom the notice of a fact of this kind goes.
    pub(crate) fn addressee(&self, source: &Source, kind: FactKind) -> anyhow::Result<String> {
        Ok(match kind {
            FactKind::PresaInCarico | FactKind::RilevazioneVirus => {
                let custody = source.custody();
                custody.with_context(|| format!("no {kind} is about {}", source.id()))?.mail_receipt.clone()
            }
            FactKind::Accettazione
            | FactKind::NonAccettazione
            | FactKind::AvvenutaConsegna
            | FactKind::ErroreConsegna
            | FactKind::Preavviso12
            | FactKind::Preavviso24 => source.daticert()?.mittente,
        })
    }

    /// Sees to it that the notice of a fact is in its addressee's custody. A new fact is written here,
    /// together with what its notice came out as. `original`: what a delivery receipt carries, if it carries
    /// it.
    pub(crate) async fn see_to_notice(
        &self,
        hand: &InHand<'_>,
        mut source: Source,
        mut due: DueNotice,
        original: Option<Bytes>,
    ) -> anyhow::Result<()> {
        let database = &self.world.database;
        loop {
            let daticert = source.daticert()?;
            let fact = due.fact();
            let to = self.addressee(&source, fact.kind)?;
            let to = Address::parse(&to).with_context(|| {
                format!("{to:?}, to whom the notice {} goes, is no mail address", fact.message_id)
            })?;
            let key = to.key();
            if matches!(due, DueNotice::Written(Known { made: Some(_), .. }))
                && database.taken_at(&fact.id, &key).await?.is_some()
            {
                maillog::handed_over_before(hand.queue_id, &fact.message_id);
                return Ok(());
            }
            let notice = self.write_notice(&source, &daticert, fact, original.clone()).await?;
            let sha256 = sized(notice.body.len(), || notice.body.sha256()).to_vec();
            let made = MadeNotice { sha256, with: self.world.made_with() };
            let log = self.log_entry(hand, &daticert, fact, &source, &made);
            let attempt = match &due {
                DueNotice::Written(Known { made: Some(before), fact }) if before.sha256 == made.sha256 => {
                    match database.begin_handover(&fact.id, &key).await? {
                        Begun::Now { attempt, .. } => attempt,
                        Begun::Taken(_) => return Ok(()),
                    }
                }
                DueNotice::Written(known) => {
                    if let Some(before) = &known.made {
                        self.explain(hand, &known.fact, before, &made)?;
                    }
                    let Some(attempt) = database.insert_made(known, &made, &log, &key).await? else {
                        // Another copy was quicker: it was taken, or its notice is another one.
                        if database.taken_at(&fact.id, &key).await?.is_some() {
                            return Ok(());
                        }
                        let now = database
                            .fact_with_id(&fact.id)
                            .await?
                            .context("a fact that was written is not there")?;
                        anyhow::ensure!(
                            now.made != known.made,
                            "what the notice {} came out as cannot be written down",
                            fact.message_id
                        );
                        due = DueNotice::Written(now);
                        continue;
                    };
                    attempt
                }
                DueNotice::New(fact) => {
                    let Some(attempt) = database.insert_fact(fact, &made, &log, &key).await? else {
                        // Another copy was quicker. Its fact holds, and the notice is about that one.
                        let winner = database
                            .fact(&fact.provider, &fact.identificativo, fact.kind, &fact.recipient)
                            .await?;
                        let winner = winner.context("a fact was neither written nor found")?;
                        source = self.source_of(&winner.fact).await?;
                        due = DueNotice::Written(winner);
                        continue;
                    };
                    attempt
                }
            };
            maillog::notice(
                hand.queue_id,
                fact.kind.as_str(),
                &fact.identificativo,
                &fact.recipient,
                fact.happened_at,
                &fact.message_id,
            );
            let mut pieces = vec![Bytes::from([&notice.header.to_bytes()[..], b"\r\n"].concat())];
            pieces.extend_from_slice(notice.body.pieces());
            return self.give_notice(hand, fact, &to, &attempt, &pieces).await;
        }
    }

    /// Gives a notice to its addressee: into a mailbox of ours, full or not; to Postfix, where another
    /// provider has it. An error waits.
    pub(crate) async fn give_notice(
        &self,
        hand: &InHand<'_>,
        fact: &Fact,
        to: &Address,
        attempt: &Attempt,
        pieces: &[Bytes],
    ) -> anyhow::Result<()> {
        let database = &self.world.database;
        let sender = service_address(&self.world.settings.service_domain);
        if !self.world.is_local(&to.domain()) {
            self.send(hand, fact, to, pieces).await?;
            return Ok(database.take_handover(attempt, self.world.clock.now()).await?);
        }
        let taken = match self.hand_over(hand, attempt, (Quota::CountsNot, to), &sender, pieces).await? {
            Ended::Taken(at) => at,
            // The addressee is gone. The service mailbox keeps it for the administrator.
            Ended::Refused(reply) | Ended::NoMailbox(reply) => {
                let service = Address::parse(&sender).filter(|service| service != to);
                let service = service.with_context(|| {
                    format!("the service mailbox does not take the notice {}: {reply}", fact.message_id)
                })?;
                match self.world.mailboxes.hand(Quota::CountsNot, &sender, &service, hand.ident, pieces).await
                {
                    Handed::Yes => maillog::notice_without_addressee(
                        hand.queue_id,
                        &fact.message_id,
                        to.as_str(),
                        service.as_str(),
                        &reply.to_string(),
                    ),
                    other => anyhow::bail!(
                        "neither {to} ({reply}) nor the service mailbox takes the notice {}: {other:?}",
                        fact.message_id
                    ),
                }
                self.world.clock.now()
            }
        };
        Ok(database.take_handover(attempt, taken).await?)
    }

    /// Gives a notice for another provider to Postfix's smtpd: yes means that it is in the queue. It comes
    /// back whole if it cannot be delivered.
    pub(crate) async fn send(
        &self,
        hand: &InHand<'_>,
        fact: &Fact,
        to: &Address,
        pieces: &[Bytes],
    ) -> anyhow::Result<()> {
        let sender = service_address(&self.world.settings.service_domain);
        let (ret, notify) = (Some("FULL"), Some("FAILURE"));
        let message = Outgoing {
            sender: &sender,
            recipient: to.as_str(),
            envid: Some(&fact.id),
            ret,
            notify,
            ident: hand.ident,
            pieces,
        };
        let answer = self
            .outgoing
            .give(message)
            .await
            .with_context(|| format!("the notice {} for {to} is not sent", fact.message_id))?;
        if !answer.reply.is_yes() {
            anyhow::bail!(
                "pec_outgoing_smtpd does not take the notice {} for {to}: {}",
                fact.message_id,
                answer.reply
            );
        }
        Ok(())
    }

    /// Writes and signs the notice of a fact.
    async fn write_notice(
        &self,
        source: &Source,
        busta: &Daticert,
        fact: &Fact,
        original: Option<Bytes>,
    ) -> anyhow::Result<Notice> {
        let (id, at) = (&fact.message_id, fact.happened_at);
        let bytes = original.as_ref().map_or(0, Bytes::len);
        let no = || {
            format!(
                "the fact {} is a {} of {}, about which there is no notice",
                fact.id, fact.kind, fact.source
            )
        };
        let make = |issuer: Issuer<'_>| -> anyhow::Result<Notice> {
            Ok(match fact.kind {
                FactKind::Accettazione => {
                    source.sent().with_context(no)?;
                    accettazione(issuer, busta, id)?
                }
                FactKind::NonAccettazione => {
                    let refused = source.not_accepted().with_context(no)?;
                    non_accettazione(issuer, busta, &refused.inglese, id)?
                }
                FactKind::PresaInCarico => {
                    let custody = source.custody().with_context(no)?;
                    presa_in_carico(issuer, busta, &custody.mail_receipt, &custody.recipients, at, id)?
                }
                FactKind::AvvenutaConsegna => {
                    let custody = source.custody().with_context(no)?;
                    let original = original.context(
                        "a delivery receipt is made of its envelope, which comes again with Postfix's next \
                        attempt",
                    )?;
                    let carried = || match busta.ricevuta {
                        Some(TipoRicevuta::Breve) => breve(&original),
                        _ => Body::from_bytes(original.clone()),
                    };
                    let carried = (!is_concise(busta, &original, &fact.recipient)).then(carried);
                    let consegna = as_written(&custody.recipients, &fact.recipient);
                    avvenuta_consegna(issuer, busta, &consegna, at, carried, id)?
                }
                FactKind::RilevazioneVirus => {
                    let custody = source.custody().with_context(no)?;
                    let consegna = as_written(&custody.recipients, &fact.recipient);
                    rilevazione_virus(issuer, busta, &custody.mail_receipt, &consegna, &fact.status, at, id)?
                }
                FactKind::ErroreConsegna => {
                    let consegna = match source {
                        Source::Custody(custody) => as_written(&custody.recipients, &fact.recipient),
                        Source::Sent(_) => as_the_sender_wrote(busta, fact),
                        Source::NotAccepted(_) => anyhow::bail!(no()),
                    };
                    mancata_consegna(issuer, busta, &consegna, &Causa::from_status(&fact.status), at, id)?
                }
                FactKind::Preavviso12 | FactKind::Preavviso24 => {
                    source.sent().with_context(no)?;
                    let is_first = fact.kind == FactKind::Preavviso12;
                    let termine = if is_first { Termine::DodiciOre } else { Termine::VentiquattroOre };
                    preavviso(issuer, busta, &as_the_sender_wrote(busta, fact), termine, at, id)?
                }
            })
        };
        self.world.write(bytes, make).await
    }

    /// A notice that was made before comes out differently. If nothing explains that, it stays here.
    fn explain(
        &self,
        hand: &InHand<'_>,
        fact: &Fact,
        before: &MadeNotice,
        now: &MadeNotice,
    ) -> anyhow::Result<()> {
        if before.with == now.with {
            anyhow::bail!(
                "the notice {} came out differently than the first time, and nothing explains it: it is \
                held back",
                fact.message_id
            );
        }
        maillog::notice_differs(
            hand.queue_id,
            &fact.message_id,
            "the certificate or the program version is another one",
        );
        Ok(())
    }

    fn log_entry(
        &self,
        hand: &InHand<'_>,
        busta: &Daticert,
        fact: &Fact,
        source: &Source,
        made: &MadeNotice,
    ) -> Entry {
        let mut entry = Entry::new(Event::Notice(fact.kind), busta, fact.happened_at, hand.queue_id);
        entry.certified_by = self.world.settings.provider_name.clone();
        entry.time_source = fact.time_source;
        entry.recipients = fact.recipient.split(' ').filter(|r| !r.is_empty()).map(str::to_owned).collect();
        entry.message_id = Some(fact.message_id.clone());
        entry.message_sha256 = Some(made.sha256.clone());
        entry.envid = match source {
            Source::Sent(sent) => Some(sent.envid.clone()),
            Source::Custody(custody) => Some(custody.envid.clone()),
            // The message went nowhere, and had none.
            Source::NotAccepted(_) => None,
        };
        let gestore = &self.world.settings.provider_name;
        entry.error = match fact.kind {
            FactKind::ErroreConsegna => Some(Causa::from_status(&fact.status).errore_esteso(gestore)),
            FactKind::Preavviso12 => Some(Termine::DodiciOre.errore_esteso(gestore)),
            FactKind::Preavviso24 => Some(Termine::VentiquattroOre.errore_esteso(gestore)),
            FactKind::RilevazioneVirus => Some(fact.status.clone()),
            FactKind::Accettazione
            | FactKind::NonAccettazione
            | FactKind::PresaInCarico
            | FactKind::AvvenutaConsegna => None,
        };
        entry
    }
}

/// The fact's recipient as the envelope has it.
fn as_the_sender_wrote(busta: &Daticert, fact: &Fact) -> String {
    let recipients: Vec<_> = busta.destinatari.iter().map(|d| d.indirizzo.clone()).collect();
    as_written(&recipients, &fact.recipient)
}

/// The recipient with this key as the sender wrote it.
fn as_written(recipients: &[String], key: &str) -> String {
    recipients.iter().find(|r| r.eq_ignore_ascii_case(key)).cloned().unwrap_or_else(|| key.to_owned())
}

/// Whether the delivery receipt about this recipient (a key) carries no original: the sender asked so of all,
/// or the recipient stands in Cc alone. In both To and Cc, in neither, or where the fields cannot be read, he
/// counts as in To (RFC 6109 s. 3.3.2.1, 3.3.2.3).
fn is_concise(busta: &Daticert, original: &[u8], recipient: &str) -> bool {
    if busta.ricevuta == Some(TipoRicevuta::Sintetica) {
        return true;
    }
    let header =
        header_end(original).and_then(|(end, _)| Header::parse(&original[..end]).ok()).unwrap_or_default();
    let stands_in = |field: &str| {
        header.addresses(field).ok().map(|addresses| addresses.iter().any(|a| a.key() == recipient))
    };
    stands_in("To") == Some(false) && stands_in("Cc") == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pec_core::clock::Moment;
    use pec_core::daticert::{Destinatario, Errore, Tipo, TipoDestinatario};

    fn concise(original: &str, ricevuta: TipoRicevuta) -> Vec<&'static str> {
        let busta = Daticert {
            tipo: Tipo::PostaCertificata,
            errore: Errore::Nessuno,
            mittente: "a@x.test".into(),
            destinatari: vec![Destinatario {
                indirizzo: "b@y.test".into(),
                tipo: TipoDestinatario::Certificato,
            }],
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
        let original = original.replace('\n', "\r\n");
        ["b@y.test", "c@y.test"]
            .into_iter()
            .filter(|key| is_concise(&busta, original.as_bytes(), key))
            .collect()
    }

    #[test]
    fn rfc6109_3_3_2_1_copies_get_concise_receipts() {
        assert_eq!(concise("To: B@y.test\nCc: C@y.test\n\nx", TipoRicevuta::Completa), ["c@y.test"]);
        assert_eq!(concise("To: b@y.test, c@y.test\nCc: c@y.test\n\nx", TipoRicevuta::Completa), [""; 0]);
        assert_eq!(concise("To: somebody@else.test\n\nx", TipoRicevuta::Completa), [""; 0]);
        assert_eq!(concise("To: nonsense\nCc: c@y.test\n\nx", TipoRicevuta::Completa), [""; 0]);
        assert_eq!(concise("no header", TipoRicevuta::Completa), [""; 0]);
    }

    #[test]
    fn rfc6109_3_3_2_3_everybody_gets_a_concise_receipt_where_the_sender_asks_so() {
        assert_eq!(concise("To: b@y.test, c@y.test\n\nx", TipoRicevuta::Sintetica), ["b@y.test", "c@y.test"]);
    }
}
