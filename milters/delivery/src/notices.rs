//! From a fact to its notice: the same fact gives the same bytes.

use pec_core::address::Address;
use pec_core::breve::breve;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, TipoRicevuta};
use pec_core::header::Field;
use pec_core::identifier::{fresh, pec_identifier};
use pec_core::maillog;
use pec_core::message::Body;
use pec_core::notices::accettazione::accettazione;
use pec_core::notices::avvenuta_consegna::avvenuta_consegna;
use pec_core::notices::mancata_consegna::{Causa, mancata_consegna};
use pec_core::notices::non_accettazione::non_accettazione;
use pec_core::notices::preavviso::{Termine, preavviso};
use pec_core::notices::presa_in_carico::presa_in_carico;
use pec_core::notices::rilevazione_virus::rilevazione_virus;
use pec_core::notices::{Issuer, Notice};
use pec_milter::{Edits, NOTICE_FIELD, Transaction};
use pec_state::database::Known;
use pec_state::log::{Entry, Event};
use pec_state::rows::{Custody, Fact, FactKind, Made, NotAccepted, Sent, TimeSource};
use tokio::sync::OwnedSemaphorePermit;

use crate::{NoticesPoint, PERMIT};

/// The row behind a fact: what its notice is about.
pub(crate) enum Source {
    /// Our own envelope.
    Sent(Sent),
    /// An envelope in our custody.
    Custody(Custody),
    /// A submission that was not accepted.
    NotAccepted(NotAccepted),
}

impl Source {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Sent(sent) => &sent.id,
            Self::Custody(custody) => &custody.id,
            Self::NotAccepted(refused) => &refused.id,
        }
    }

    pub(crate) fn daticert(&self) -> anyhow::Result<Daticert> {
        let xml = match self {
            Self::Sent(sent) => &sent.daticert,
            Self::Custody(custody) => &custody.daticert,
            Self::NotAccepted(refused) => &refused.daticert,
        };
        Ok(Daticert::parse(xml.as_bytes())?)
    }

    /// The provider of the envelope's sender.
    pub(crate) fn provider(&self) -> &str {
        match self {
            Self::Sent(sent) => &sent.provider,
            Self::Custody(custody) => &custody.provider,
            Self::NotAccepted(refused) => &refused.provider,
        }
    }
}

/// What a fact says, besides being one.
pub(crate) struct Happened {
    pub(crate) kind: FactKind,
    /// Key of the recipient, see [`Fact::recipient`].
    pub(crate) recipient: String,
    pub(crate) at: Moment,
    pub(crate) time_source: TimeSource,
    pub(crate) status: String,
}

/// A fact that there is to be a notice about.
pub(crate) enum Due {
    /// It is written already.
    Written(Known),
    /// It is written together with its notice.
    New(Fact),
}

impl Due {
    pub(crate) fn fact(&self) -> &Fact {
        match self {
            Self::Written(known) => &known.fact,
            Self::New(fact) => fact,
        }
    }
}

/// A notice and, as long as it is in memory, the leave to hold its original.
struct Finished {
    notice: Notice,
    made: Made,
    memory: Option<OwnedSemaphorePermit>,
}

impl NoticesPoint {
    /// A fact that is about to be written.
    pub(crate) fn new_fact(&self, source: &Source, identificativo: &str, happened: Happened) -> anyhow::Result<Fact> {
        let id = fresh()?;
        let message_id = pec_identifier(happened.at, &id, &self.world.settings.service_domain);
        Ok(Fact {
            id,
            provider: source.provider().to_owned(),
            identificativo: identificativo.to_owned(),
            kind: happened.kind,
            recipient: happened.recipient,
            source: source.id().to_owned(),
            happened_at: happened.at,
            time_source: happened.time_source,
            status: happened.status,
            message_id,
        })
    }

    /// The row behind a fact that is written already.
    pub(crate) async fn source_of(&self, fact: &Fact) -> anyhow::Result<Source> {
        let database = &self.world.database;
        if let Some(custody) = database.custody(&fact.source).await? {
            return Ok(Source::Custody(custody));
        }
        if let Some(sent) = database.sent(&fact.source).await? {
            return Ok(Source::Sent(sent));
        }
        match database.not_accepted(&fact.source).await? {
            Some(refused) => Ok(Source::NotAccepted(refused)),
            None => anyhow::bail!("the fact {} comes from {}, which no row has", fact.id, fact.source),
        }
    }

    /// Turns the message in hand into the notice of a fact. A new fact is written here, together with the notice's hash and
    /// its log row.
    pub(crate) async fn become_notice(&self, transaction: &Transaction, mut source: Source, mut due: Due) -> anyhow::Result<Edits> {
        loop {
            let daticert = source.daticert()?;
            let fact = due.fact();
            let finished = self.write_notice(&source, &daticert, fact).await?;
            let log = self.log_entry(transaction, &daticert, fact, &source, &finished.made);
            match &due {
                Due::Written(Known { made: Some(before), fact, .. }) => self.compare(transaction, fact, before, &finished.made)?,
                Due::Written(Known { made: None, fact, .. }) => self.world.database.insert_made(&fact.id, &finished.made, &log).await?,
                Due::New(fact) => {
                    if !self.world.database.insert_fact(fact, &finished.made, &log).await? {
                        // Another copy was quicker. Its fact holds, and the notice is about that one.
                        let winner = self.world.database.fact(&fact.provider, &fact.identificativo, fact.kind.as_str(), &fact.recipient).await?;
                        let Some(winner) = winner else { anyhow::bail!("a fact was neither written nor found") };
                        source = self.source_of(&winner.fact).await?;
                        due = Due::Written(winner);
                        continue;
                    }
                }
            }
            maillog::notice(transaction.queue_id(), fact.kind.as_str(), &fact.identificativo, &fact.recipient, fact.happened_at, &fact.message_id);
            let to = match (&source, fact.kind) {
                (Source::Custody(custody), FactKind::PresaInCarico | FactKind::RilevazioneVirus) => custody.mail_receipt.clone(),
                _ => daticert.mittente.clone(),
            };
            // Under the fact's id Postfix reports if the notice does not arrive.
            let parameters = Some(format!("RET=HDRS ENVID={}", fact.id));
            let edits = Edits::default().become_notice(&transaction.header, finished.notice).holding(finished.memory);
            let mut edits = edits.sender(self.world.service_path(), parameters);
            // A full mailbox takes it all the same.
            if Address::parse(&to).is_some_and(|to| self.world.is_local(&to.domain())) {
                edits = edits.add_field(Field::written(NOTICE_FIELD, fact.kind.as_str()));
            }
            return Ok(edits.only_to(&transaction.recipients, &to));
        }
    }

    /// Whether the receipt of a fact was made and cannot be any more: pec-clock has deleted the original that it carries, five days
    /// after the last receipt about that copy. What asks for it so late (a report that Postfix kept, an envelope that its
    /// provider brings once more) would wait for ever.
    pub(crate) async fn is_past(&self, queue_id: &str, known: &Known) -> anyhow::Result<bool> {
        let fact = &known.fact;
        if fact.kind != FactKind::AvvenutaConsegna || known.made.is_none() || !self.world.database.is_original_deleted(&fact.source).await? {
            return Ok(false);
        }
        // Without an original it is made as ever.
        let is_concise = matches!(self.source_of(fact).await?, Source::Custody(custody) if custody.concise.contains(&fact.recipient));
        if !is_concise {
            maillog::original_is_gone(queue_id, &fact.message_id);
        }
        Ok(!is_concise)
    }

    /// Writes and signs the notice of a fact.
    async fn write_notice(&self, source: &Source, busta: &Daticert, fact: &Fact) -> anyhow::Result<Finished> {
        let (id, at) = (&fact.message_id, fact.happened_at);
        let (mut memory, mut original) = (None, None);
        if let (FactKind::AvvenutaConsegna, Source::Custody(custody)) = (fact.kind, source)
            && !custody.concise.contains(&fact.recipient)
        {
            let size = self.world.store.size(&custody.id).await?;
            memory = Some(self.memory_for(size).await?);
            original = Some(self.world.store.get(&custody.id).await?);
        }
        let make = |issuer: Issuer<'_>| match (fact.kind, source) {
            (FactKind::Accettazione, Source::Sent(_)) => Ok(accettazione(issuer, busta, id)?),
            (FactKind::PresaInCarico, Source::Custody(custody)) => {
                Ok(presa_in_carico(issuer, busta, &custody.mail_receipt, &custody.recipients, at, id)?)
            }
            (FactKind::AvvenutaConsegna, Source::Custody(custody)) => {
                let consegna = as_written(&custody.recipients, &fact.recipient);
                let original = original.map(|original| match busta.ricevuta {
                    Some(TipoRicevuta::Breve) => breve(&original),
                    _ => Body::from_bytes(original),
                });
                Ok(avvenuta_consegna(issuer, busta, &consegna, at, original, id)?)
            }
            (FactKind::RilevazioneVirus, Source::Custody(custody)) => {
                let consegna = as_written(&custody.recipients, &fact.recipient);
                Ok(rilevazione_virus(issuer, busta, &custody.mail_receipt, &consegna, &fact.status, at, id)?)
            }
            (FactKind::ErroreConsegna, Source::Custody(custody)) => {
                let consegna = as_written(&custody.recipients, &fact.recipient);
                Ok(mancata_consegna(issuer, busta, &consegna, &Causa::from_status(&fact.status), at, id)?)
            }
            (FactKind::ErroreConsegna, Source::Sent(_)) => {
                Ok(mancata_consegna(issuer, busta, &as_the_sender_wrote(busta, fact), &Causa::from_status(&fact.status), at, id)?)
            }
            (FactKind::Preavviso12, Source::Sent(_)) => Ok(preavviso(issuer, busta, &as_the_sender_wrote(busta, fact), Termine::DodiciOre, at, id)?),
            (FactKind::Preavviso24, Source::Sent(_)) => {
                Ok(preavviso(issuer, busta, &as_the_sender_wrote(busta, fact), Termine::VentiquattroOre, at, id)?)
            }
            (FactKind::NonAccettazione, Source::NotAccepted(refused)) => Ok(non_accettazione(issuer, busta, &refused.inglese, id)?),
            (kind, _) => anyhow::bail!("the fact {} is a {kind} of {}, about which there is no notice", fact.id, fact.source),
        };
        let notice = self.world.write(memory.is_some(), make).await?;
        let made = Made { sha256: notice.body.sha256().to_vec(), with: self.world.made_with() };
        Ok(Finished { notice, made, memory })
    }

    /// Waits until an original of `size` bytes may be held; one that is larger than the limit is held alone.
    async fn memory_for(&self, size: u64) -> anyhow::Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(size.div_ceil(PERMIT)).unwrap_or(u32::MAX).min(self.permits);
        Ok(self.memory.clone().acquire_many_owned(permits).await?)
    }

    /// A notice that was made before must come out the same. If it does not and nothing explains it, it stays here.
    fn compare(&self, transaction: &Transaction, fact: &Fact, before: &Made, now: &Made) -> anyhow::Result<()> {
        if before.sha256 == now.sha256 {
            return Ok(());
        }
        if before.with == now.with {
            anyhow::bail!("the notice {} came out differently than the first time, and nothing explains it: it is held back", fact.message_id);
        }
        maillog::notice_differs(transaction.queue_id(), &fact.message_id, "the certificate or the program version is another one");
        Ok(())
    }

    fn log_entry(&self, transaction: &Transaction, busta: &Daticert, fact: &Fact, source: &Source, made: &Made) -> Entry {
        let mut entry = Entry::new(Event::Notice(fact.kind.as_str()), busta, fact.happened_at, transaction.queue_id());
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
            _ => None,
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
