//! Postfix's delivery reports: the fact behind a delivery receipt and behind a failure.
//!
//! They reach this socket from Postfix's bounce daemon alone (`non_smtpd_milters`; mail of local users takes another way, see
//! postfix-conf/master.cf). What binds a report to an envelope is the ENVID, which Postfix's queue and our table know and
//! nobody else.

use std::collections::HashSet;

use openssl::sha::sha256;
use pec_core::clock::Moment;
use pec_core::daticert::{Tipo, TipoDestinatario};
use pec_core::dsn::{Action, RecipientReport, Report, is_report};
use pec_core::maillog;
use pec_milter::{Edits, INTERNAL_DOMAIN, NOTICES_DOMAIN, Transaction, Verdict};
use pec_state::rows::{Custody, Sent, TimeSource};

use crate::NoticesPoint;
use crate::facts::{Due, Happened, Source};
use crate::triggers::Trigger;

/// Postfix tells of a trigger's failure; see pec-access.
const TRIGGER_NOTIFY: &str = "NOTIFY=FAILURE";

/// What a report says about one recipient, for us.
enum Outcome {
    /// A fact that there is to be a notice about.
    Fact(Box<Due>),
    /// A trigger that Postfix could not deliver.
    Trigger(Trigger),
    /// Something that the sender has to be told in Postfix's own words.
    AsItIs,
    /// Nothing that leads to anything.
    Nothing(&'static str),
}

impl NoticesPoint {
    /// Mail that did not come by SMTP.
    pub(crate) async fn report(&self, mut transaction: Transaction) -> anyhow::Result<Verdict> {
        if !is_report(&transaction.header) {
            return Ok(Verdict::pass());
        }
        let queue_id = transaction.queue_id().to_owned();
        let body = std::mem::take(&mut transaction.body).into_bytes();
        let report = Report::parse(&transaction.header, &body)?;
        let written = report.date.unwrap_or_else(|| self.world.clock.now());
        let custody = match &report.envelope_id {
            Some(envid) => self.world.database.custody_with_envid(envid).await?,
            None => None,
        };
        let sent = match (&custody, report.original_header.text("Message-ID")) {
            (None, Some(id)) => self.world.database.sent_with_identifier(id.trim_start_matches('<').trim_end_matches('>')).await?,
            _ => None,
        };

        let mut outcomes = Vec::new();
        let mut seen = HashSet::new();
        for recipient in report.recipients.iter().filter(|r| seen.insert(r.recipient.key())) {
            let outcome = match recipient.recipient.domain().as_str() {
                NOTICES_DOMAIN => match Trigger::parse(recipient.recipient.local_part()) {
                    Some(trigger) => Outcome::Trigger(trigger),
                    None => Outcome::Nothing("about an address that is no trigger"),
                },
                // Only the queue has the envelope; it must stay there.
                INTERNAL_DOMAIN => {
                    return Ok(Verdict::Wait(format!(
                        "{} cannot be delivered ({}) and must not be given up",
                        recipient.recipient, recipient.diagnostic
                    )));
                }
                _ => match (&custody, &sent) {
                    (Some(custody), _) => self.in_custody(&queue_id, custody, recipient, written).await?,
                    (None, Some(sent)) => self.on_the_way_out(sent, recipient, written).await?,
                    (None, None) if recipient.action == Action::Failed => Outcome::AsItIs,
                    (None, None) => Outcome::Nothing("about nothing in our custody"),
                },
            };
            outcomes.push(outcome);
        }
        let source = custody.map(Source::Custody).or(sent.map(Source::Sent));
        self.follow(transaction, &body, outcomes, source).await
    }

    /// The report becomes the notice, if there is one; the triggers of several; nothing.
    async fn follow(&self, transaction: Transaction, body: &[u8], mut outcomes: Vec<Outcome>, source: Option<Source>) -> anyhow::Result<Verdict> {
        let queue_id = transaction.queue_id().to_owned();
        let why_nothing = outcomes.iter().find_map(|o| if let Outcome::Nothing(why) = o { Some(*why) } else { None });
        outcomes.retain(|o| !matches!(o, Outcome::Nothing(_)));
        if outcomes.is_empty() {
            maillog::report_dropped(&queue_id, why_nothing.unwrap_or("about nobody"));
            return Ok(Verdict::Consume);
        }
        if let [Outcome::Fact(_)] = &outcomes[..]
            && let Some(Outcome::Fact(due)) = outcomes.pop()
        {
            let source = match (&*due, source) {
                (Due::Written(known), _) => self.source_of(&known.fact).await?,
                (Due::New(_), Some(source)) => source,
                (Due::New(_), None) => anyhow::bail!("a fact without its source"),
            };
            return Ok(Verdict::Change(self.become_notice(&transaction, source, *due).await?));
        }

        let mut names = Vec::new();
        let mut goes_on = false;
        for outcome in outcomes {
            match outcome {
                Outcome::Fact(due) => {
                    let fact = due.fact();
                    if let Due::New(fact) = &*due {
                        self.world.database.insert_fact_before_notice(fact).await?;
                    }
                    // Another copy may have been quicker; the trigger is that of the fact that holds.
                    let held = self.world.database.fact(&fact.provider, &fact.identificativo, fact.kind.as_str(), &fact.recipient).await?;
                    let Some(held) = held else { anyhow::bail!("a fact was neither written nor found") };
                    names.push(Trigger { kind: held.fact.kind, id: held.fact.id }.name());
                }
                Outcome::Trigger(trigger) => {
                    maillog::trigger_again(&queue_id, &trigger.name());
                    names.push(trigger.name());
                }
                Outcome::AsItIs => {
                    maillog::report_passed(&queue_id, "a message that could not be sent on");
                    goes_on = true;
                }
                Outcome::Nothing(_) => {}
            }
        }
        if names.is_empty() {
            return Ok(Verdict::pass());
        }
        self.world.database.insert_trigger_bodies(&names, &sha256(body)).await?;
        let mut edits = Edits::default();
        if !goes_on {
            // From the service address, so that a trigger's own failure is reported like any other.
            edits = edits.sender(self.world.service_path(), None);
            for recipient in &transaction.recipients {
                edits = edits.delete_recipient(&recipient.path);
            }
        }
        for name in names {
            edits = edits.add_recipient(format!("<{name}@{NOTICES_DOMAIN}>"), Some(TRIGGER_NOTIFY));
        }
        Ok(Verdict::Change(edits))
    }

    /// A recipient of ours, of an envelope that we took in charge.
    async fn in_custody(&self, queue_id: &str, custody: &Custody, report: &RecipientReport, written: Moment) -> anyhow::Result<Outcome> {
        if !custody.recipients.iter().any(|r| r.eq_ignore_ascii_case(report.recipient.as_str())) {
            return Ok(Outcome::Nothing("about nobody whom the envelope was for"));
        }
        if report.action == Action::Pending {
            return Ok(Outcome::Nothing("not the end yet"));
        }
        let (key, identificativo) = (report.recipient.key(), &custody.identificativo);
        let fact = |kind: Tipo| self.world.database.fact(&custody.provider, identificativo, kind.as_str(), &key);
        if let Some(known) = fact(Tipo::AvvenutaConsegna).await? {
            return Ok(Outcome::Fact(Box::new(Due::Written(known))));
        }
        // A user can put a copy with any date into the mailbox; only the time between custody and report counts.
        let received = self.mailboxes.received(&key, identificativo).await?.into_iter().filter(|at| (custody.taken_at..=written).contains(at)).min();
        let (kind, at, time_source) = match (report.action, received) {
            // Also where Postfix says that it failed: the mailbox's 250 was lost on the way, and the next attempt refused.
            (_, Some(at)) => (Tipo::AvvenutaConsegna, at, TimeSource::Mailbox),
            (Action::Delivered, None) => {
                maillog::time_of_report(queue_id, identificativo, &key);
                (Tipo::AvvenutaConsegna, written, TimeSource::Report)
            }
            _ => match fact(Tipo::ErroreConsegna).await? {
                Some(known) => return Ok(Outcome::Fact(Box::new(Due::Written(known)))),
                None => (Tipo::ErroreConsegna, written, TimeSource::Report),
            },
        };
        let happened = Happened { kind, recipient: key, at, time_source, status: report.status.clone() };
        Ok(Outcome::Fact(Box::new(Due::New(self.new_fact(&Source::Custody(custody.clone()), identificativo, happened)?))))
    }

    /// A recipient elsewhere whom our own Postfix could not reach with our envelope.
    async fn on_the_way_out(&self, sent: &Sent, report: &RecipientReport, written: Moment) -> anyhow::Result<Outcome> {
        if report.action != Action::Failed {
            return Ok(Outcome::Nothing("sent on; what happens there is for others to certify"));
        }
        let source = Source::Sent(sent.clone());
        let daticert = source.daticert()?;
        let recipient = daticert.destinatari.iter().find(|d| d.indirizzo.eq_ignore_ascii_case(report.recipient.as_str()));
        if recipient.is_none_or(|d| d.tipo == TipoDestinatario::Esterno) {
            return Ok(Outcome::AsItIs);
        }
        let (kind, key) = (Tipo::ErroreConsegna, report.recipient.key());
        let provider = source.provider(&self.world);
        if let Some(known) = self.world.database.fact(provider, &sent.identificativo, kind.as_str(), &key).await? {
            return Ok(Outcome::Fact(Box::new(Due::Written(known))));
        }
        let happened = Happened { kind, recipient: key, at: written, time_source: TimeSource::Report, status: report.status.clone() };
        Ok(Outcome::Fact(Box::new(Due::New(self.new_fact(&source, &sent.identificativo, happened)?))))
    }
}
