//! Postfix's own reports: what it could not deliver, hand on or send.
//!
//! Promise: a report reaches this socket from Postfix's bounce daemon alone (`non_smtpd_milters`; mail of
//! local users takes another way, see postfix-conf/master.cf). What binds it to a message of ours is the
//! envelope id, which our programs give and no client can; whom it is about is Postfix's own
//! `Final-Recipient`. It is believed where it says that something failed:
//! - an envelope that this provider answers for, of whose end nobody has heard from the mailbox
//!   ([`DeliveryPoint::not_delivered`]);
//! - an envelope of ours that did not leave ([`DeliveryPoint::failed_to_leave`]);
//! - a notice of ours that did not arrive ([`DeliveryPoint::notice_came_back`]).
//!
//! What follows comes round as a trigger, when Postfix holds the report.

use std::collections::HashSet;

use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::TipoDestinatario;
use pec_core::dsn::{RecipientReport, Report, is_report};
use pec_core::message::Body;
use pec_core::notices::anomalia::Errore;
use pec_host::maillog;
use pec_milter::passing::{Anomaly, let_pass};
use pec_milter::{Edits, Transaction, Verdict};
use pec_program::sha256;
use pec_state::authentic::Authentic;
use pec_state::rows::{About, Custody, Fact, FactKind, Known, PassedKind, Sent, TimeSource};
use pec_state::trigger::{Trigger, is_internal_domain};

use crate::DeliveryPoint;
use crate::notices::Source;

/// How long a notice that its recipient's server does not take is sent again, in seconds from the moment that
/// it certifies. Each time it has Postfix's queue lifetime (`maximal_queue_lifetime`, a day).
const NOTICE_LIFETIME: i64 = 5 * 86_400;

/// What a report says about one recipient, for us.
enum Outcome {
    /// The trigger of this name is to come round.
    Trigger(Trigger),
    /// Something that somebody has to be told in Postfix's own words.
    AsItIs,
    /// Nothing that leads to anything.
    Nothing(&'static str),
}

/// What a report is about: an envelope of ours may be in our own custody too.
struct Subject {
    custody: Option<Authentic<Custody>>,
    sent: Option<Authentic<Sent>>,
    notice: Option<Known>,
}

impl DeliveryPoint {
    /// Mail that did not come by SMTP.
    pub(crate) async fn report(&self, mut transaction: Transaction) -> anyhow::Result<Verdict> {
        let queue_id = transaction.queue_id().to_owned();
        let body = std::mem::take(&mut transaction.body).into_bytes();
        if !is_report(&transaction.header) {
            return Ok(Verdict::Change(self.as_it_goes_on(&transaction, &body).await?.0));
        }
        let report = Report::parse(&transaction.header, &body)?;
        let written = report.date.unwrap_or_else(|| self.world.clock.now());
        let subject = self.subject(report.envelope_id.as_deref()).await?;

        let (mut triggers, mut goes_on, mut why_nothing) = (Vec::new(), false, None);
        let mut seen = HashSet::new();
        for recipient in report.recipients.iter().filter(|r| seen.insert(r.recipient.key())) {
            // What goes to pec-delivery is a notice in the making, and Postfix's queue alone has it. As long
            // as this report is not taken it stays there and is tried again.
            if is_internal_domain(&recipient.recipient.domain()) {
                return Ok(Verdict::Wait(format!(
                    "{} cannot be delivered ({}) and must not be given up",
                    recipient.recipient, recipient.diagnostic
                )));
            }
            match self.outcome(&queue_id, &subject, recipient, written).await? {
                Outcome::Trigger(trigger) => triggers.push(trigger),
                Outcome::AsItIs => {
                    maillog::report_passed(&queue_id, "a message that could not be sent on");
                    goes_on = true;
                }
                Outcome::Nothing(why) => why_nothing = Some(why),
            }
        }
        if triggers.is_empty() && !goes_on {
            maillog::report_dropped(&queue_id, why_nothing.unwrap_or("it says nothing about anybody"));
            return Ok(Verdict::Consume);
        }
        let (mut edits, body_sha256) = if goes_on {
            self.as_it_goes_on(&transaction, &body).await?
        } else {
            (Edits::default(), sha256(&body))
        };
        if triggers.is_empty() {
            return Ok(Verdict::Change(edits));
        }
        self.world.database.insert_trigger_bodies(&triggers, &body_sha256).await?;
        // From the service address: Postfix would give up mail of the null path without telling anybody.
        edits = edits.sent_by(self.world.service_path());
        if !goes_on {
            edits = edits.delete_recipients(&transaction.recipients);
        }
        Ok(Verdict::Change(triggers.iter().fold(edits, Edits::add_trigger)))
    }

    async fn subject(&self, envelope_id: Option<&str>) -> anyhow::Result<Subject> {
        let database = &self.world.database;
        let Some(envid) = envelope_id else { return Ok(Subject { custody: None, sent: None, notice: None }) };
        Ok(Subject {
            custody: database.custody_with_envid(envid).await?,
            sent: database.sent_with_envid(envid).await?,
            notice: database.fact_with_id(envid).await?,
        })
    }

    async fn outcome(
        &self,
        queue_id: &str,
        subject: &Subject,
        report: &RecipientReport,
        written: Moment,
    ) -> anyhow::Result<Outcome> {
        if !report.has_failed {
            return Ok(Outcome::Nothing("about no failure"));
        }
        if let Some(custody) = &subject.custody
            && custody.recipients.iter().any(|r| r.eq_ignore_ascii_case(report.recipient.as_str()))
        {
            return self.not_delivered(custody, report, written).await;
        }
        if let Some(sent) = &subject.sent {
            return self.failed_to_leave(queue_id, sent, report, written).await;
        }
        if let Some(known) = &subject.notice {
            return Ok(self.notice_came_back(queue_id, known, report));
        }
        if subject.custody.is_some() {
            return Ok(Outcome::Nothing("about nobody whom the envelope was for"));
        }
        Ok(Outcome::AsItIs)
    }

    /// The report as it is delivered, and the hash of that body. Postfix's own words are no certified mail:
    /// to a mailbox of ours they come in a busta di anomalia; to the service mailbox, and to others, as they
    /// are.
    async fn as_it_goes_on(
        &self,
        transaction: &Transaction,
        body: &[u8],
    ) -> anyhow::Result<(Edits, [u8; 32])> {
        let is_certified =
            |domain: &str| self.world.is_local(domain) && domain != self.world.settings.service_domain;
        let mut domains =
            transaction.recipients.iter().filter_map(|r| r.address.as_ref()).map(Address::domain);
        if !domains.any(|domain| is_certified(&domain)) {
            let body_sha256 = sha256(body);
            return Ok((
                let_pass(&self.world, transaction, PassedKind::Rapporto, &body_sha256, None).await?,
                body_sha256,
            ));
        }
        let errore = Errore::new(
            "il messaggio è un avviso del sistema di posta e non proviene da un gestore di posta \
            certificata",
            "the message is a report of the mail system and does not come from a certified mail provider",
        );
        let anomaly = Anomaly { connection: None, transaction, errore: &errore, provider: None };
        anomaly.wrap(&self.world, PassedKind::Rapporto, Body::from_bytes(body.to_vec())).await
    }

    /// An envelope that this provider answers for: Postfix's time for it is over. Where the mailbox may have
    /// it all the same, that is not said.
    async fn not_delivered(
        &self,
        custody: &Authentic<Custody>,
        report: &RecipientReport,
        written: Moment,
    ) -> anyhow::Result<Outcome> {
        let (database, key) = (&self.world.database, report.recipient.key());
        let outcomes = database.outcomes(&custody.provider, &custody.identificativo, &key).await?;
        let source = Source::Custody(custody.clone());
        if let Some(known) = outcomes.iter().find(|known| known.fact.kind == FactKind::AvvenutaConsegna) {
            let addressee = self.addressee(&source, known.fact.kind)?.to_ascii_lowercase();
            if database.taken_at(&known.fact.id, &addressee).await?.is_none() {
                anyhow::bail!(
                    "the mailbox of {} has the message, and its receipt is not handed over yet: the \
                    envelope must stay in the queue",
                    report.recipient
                );
            }
            return Ok(Outcome::Nothing("the mailbox has it, which was certified"));
        }
        if let Some(known) = outcomes.into_iter().next() {
            return Ok(Outcome::Trigger(Trigger::notice(known.fact.kind, &known.fact.id)));
        }
        if database.is_handover_open(custody, &key).await? {
            anyhow::bail!(
                "whether the mailbox of {} has {} is not known, since an answer was lost: nothing is \
                certified. Look into the mailbox; \
                 `postsuper -d` of the envelope ends the wait",
                report.recipient,
                custody.identificativo
            );
        }
        let held = database.insert_fact_without_notice(&self.failure(custody, report, written)?).await?.fact;
        Ok(Outcome::Trigger(Trigger::notice(held.kind, &held.id)))
    }

    /// An envelope of ours, a recipient elsewhere whom our own Postfix could not reach.
    async fn failed_to_leave(
        &self,
        queue_id: &str,
        sent: &Authentic<Sent>,
        report: &RecipientReport,
        written: Moment,
    ) -> anyhow::Result<Outcome> {
        let daticert = Source::Sent(sent.clone()).daticert()?;
        let (kind, key) = (FactKind::ErroreConsegna, report.recipient.key());
        let recipient = daticert.destinatari.iter().find(|d| d.indirizzo.eq_ignore_ascii_case(&key));
        if recipient.is_none_or(|d| d.tipo == TipoDestinatario::Esterno) {
            return Ok(Outcome::AsItIs);
        }
        let database = &self.world.database;
        if let Some(known) = database.fact(&sent.provider, &sent.identificativo, kind, &key).await? {
            return Ok(Outcome::Trigger(Trigger::notice(kind, &known.fact.id)));
        }
        // The other side has it, its 250 was lost, and what came after failed.
        if database.is_in_other_hands(&sent.identificativo, &key).await? {
            maillog::failure_contradicted(queue_id, &sent.identificativo, &key);
            return Ok(Outcome::Nothing("the recipient's provider has certified that it has the message"));
        }
        let held = database.insert_fact_without_notice(&self.failure(sent, report, written)?).await?.fact;
        Ok(Outcome::Trigger(Trigger::notice(kind, &held.id)))
    }

    /// The fact that Postfix's report says.
    fn failure<'a>(
        &self,
        about: impl Into<About<'a>>,
        report: &RecipientReport,
        written: Moment,
    ) -> anyhow::Result<Fact> {
        let service_domain = &self.world.settings.service_domain;
        Ok(Fact {
            recipient: report.recipient.key(),
            time_source: TimeSource::Report,
            status: report.status.clone(),
            ..Fact::new(FactKind::ErroreConsegna, about, written, service_domain)?
        })
    }

    /// A notice of ours that could not be delivered. One that found nobody at home goes out again, the same
    /// bytes.
    fn notice_came_back(&self, queue_id: &str, known: &Known, report: &RecipientReport) -> Outcome {
        // By our clock, not by the report's date: the report may have waited.
        let age = self.world.clock.now().unix() - known.fact.happened_at.unix();
        let goes_again = report.status.starts_with('4') && age < NOTICE_LIFETIME;
        maillog::notice_came_back(
            queue_id,
            &known.fact.message_id,
            report.recipient.as_str(),
            &report.diagnostic,
            goes_again,
        );
        match known.fact.kind {
            _ if !goes_again => Outcome::AsItIs,
            // It waited for a mailbox of ours, came back without its body, and is made again from its row.
            FactKind::NonAccettazione => Outcome::Trigger(Trigger::notice(known.fact.kind, &known.fact.id)),
            _ => Outcome::Trigger(Trigger::again(&known.fact.id)),
        }
    }
}
