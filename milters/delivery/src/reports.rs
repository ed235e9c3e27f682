//! Postfix's delivery reports: the fact behind a delivery receipt and behind a failure.
//!
//! They reach this socket from Postfix's bounce daemon alone (`non_smtpd_milters`; mail of local users takes another way, see
//! postfix-conf/master.cf). What binds a report to a message of ours is the envelope id (ENVID): the milters give it, and no
//! client can (postfix-conf/pec-notify-both). A report about
//! - an envelope that we took in charge: the mailbox has it, or will never have it ([`NoticesPoint::delivered_or_failed`]);
//! - an envelope that we sent: it did not leave ([`NoticesPoint::failed_to_leave`]);
//! - a notice of ours: it did not arrive ([`NoticesPoint::notice_came_back`]).

use std::collections::HashSet;

use openssl::sha::sha256;
use pec_core::clock::Moment;
use pec_core::daticert::TipoDestinatario;
use pec_core::dsn::{Action, RecipientReport, Report, is_report};
use pec_core::header::Field;
use pec_core::maillog;
use pec_core::message::Body;
use pec_core::notices::anomalia::Errore;
use pec_milter::anomaly::Anomaly;
use pec_milter::{Edits, NOTICE_FIELD, Transaction, Verdict, is_internal_domain};
use pec_state::database::Known;
use pec_state::rows::{Custody, FactKind, Sent, TimeSource, trigger_name};

use crate::NoticesPoint;
use crate::facts::{Due, Happened, Source};

/// How long a notice that its recipient's server does not take is sent again, in seconds from the moment that it certifies.
/// Each time it has Postfix's queue lifetime (`maximal_queue_lifetime`, a day).
const NOTICE_LIFETIME: i64 = 5 * 86_400;

/// What a report says about one recipient, for us.
enum Outcome {
    /// A fact that there is to be a notice about.
    Fact(Box<Due>),
    /// Something that somebody has to be told in Postfix's own words.
    AsItIs,
    /// Nothing that leads to anything.
    Nothing(&'static str),
}

/// What a report is about.
enum Subject {
    /// An envelope that we took in charge.
    Taken(Custody),
    /// An envelope that we sent.
    Sent(Sent),
    /// A notice of ours.
    Notice(Box<Known>),
    /// Something else.
    Other,
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
        let subject = self.subject(report.envelope_id.as_deref()).await?;

        let mut outcomes = Vec::new();
        let mut seen = HashSet::new();
        for recipient in report.recipients.iter().filter(|r| seen.insert(r.recipient.key())) {
            // What goes to a milter is an envelope or a notice in the making, and Postfix's queue alone has it. As long as this
            // report is not taken it stays there and is tried again.
            if is_internal_domain(&recipient.recipient.domain()) {
                return Ok(Verdict::Wait(format!("{} cannot be delivered ({}) and must not be given up", recipient.recipient, recipient.diagnostic)));
            }
            outcomes.push(match &subject {
                Subject::Taken(custody) => self.delivered_or_failed(&queue_id, custody, recipient, written).await?,
                Subject::Sent(sent) => self.failed_to_leave(&queue_id, sent, recipient, written).await?,
                Subject::Notice(known) => self.notice_came_back(&queue_id, known, recipient),
                Subject::Other if recipient.action == Action::Failed => Outcome::AsItIs,
                Subject::Other => Outcome::Nothing("about nothing of ours"),
            });
        }
        let source = match subject {
            Subject::Taken(custody) => Some(Source::Custody(custody)),
            Subject::Sent(sent) => Some(Source::Sent(sent)),
            Subject::Notice(_) | Subject::Other => None,
        };
        self.turn_into_notices(transaction, &body, outcomes, source).await
    }

    async fn subject(&self, envelope_id: Option<&str>) -> anyhow::Result<Subject> {
        let database = &self.world.database;
        let Some(envid) = envelope_id else { return Ok(Subject::Other) };
        if let Some(custody) = database.custody_with_envid(envid).await? {
            return Ok(Subject::Taken(custody));
        }
        if let Some(sent) = database.sent_with_envid(envid).await? {
            return Ok(Subject::Sent(sent));
        }
        Ok(database.fact_with_id(envid).await?.map_or(Subject::Other, |known| Subject::Notice(Box::new(known))))
    }

    /// The report becomes the notice, if there is one; the triggers of several; nothing.
    async fn turn_into_notices(
        &self,
        transaction: Transaction,
        body: &[u8],
        mut outcomes: Vec<Outcome>,
        source: Option<Source>,
    ) -> anyhow::Result<Verdict> {
        let queue_id = transaction.queue_id().to_owned();
        let why_nothing = outcomes.iter().find_map(|o| if let Outcome::Nothing(why) = o { Some(*why) } else { None });
        outcomes.retain(|o| !matches!(o, Outcome::Nothing(_)));
        if let Some(why) = why_nothing.filter(|_| outcomes.is_empty()) {
            maillog::report_dropped(&queue_id, why);
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
            let Outcome::Fact(due) = outcome else {
                maillog::report_passed(&queue_id, "a message that could not be sent on");
                goes_on = true;
                continue;
            };
            let fact = match *due {
                Due::Written(known) => known.fact,
                Due::New(fact) => self.world.database.hold_fact(&fact).await?.fact,
            };
            names.push(trigger_name(fact.kind, &fact.id));
        }
        let (mut edits, body_sha256) = self.as_it_goes_on(&transaction, body, goes_on).await?;
        if names.is_empty() {
            // A full mailbox takes it too. Not where there are triggers, or strangers: the field moves all recipients.
            let stays_here = transaction.recipients.iter().all(|r| r.address.as_ref().is_some_and(|r| self.world.is_local(&r.domain())));
            return Ok(Verdict::Change(if stays_here { edits.add_field(Field::written(NOTICE_FIELD, "rapporto")) } else { edits }));
        }
        self.world.database.insert_trigger_bodies(&names, &body_sha256).await?;
        // From the service address: Postfix would give up mail of the null path without telling anybody.
        edits = edits.sender(self.world.service_path(), None);
        if !goes_on {
            edits = edits.delete_recipients(&transaction.recipients);
        }
        Ok(Verdict::Change(names.iter().fold(edits, |edits, name| edits.add_trigger(name))))
    }

    /// The report as it is delivered, and the hash of that body. Postfix's own words are no certified mail: to a mailbox of
    /// ours they come in a busta di anomalia; to the service mailbox, and to others, as they are.
    async fn as_it_goes_on(&self, transaction: &Transaction, body: &[u8], goes_on: bool) -> anyhow::Result<(Edits, [u8; 32])> {
        let is_certified = |domain: &str| self.world.is_local(domain) && domain != self.world.settings.service_domain;
        if !goes_on || !transaction.recipients.iter().filter_map(|r| r.address.as_ref()).any(|r| is_certified(&r.domain())) {
            return Ok((Edits::default(), sha256(body)));
        }
        let errore = Errore::new(
            "il messaggio è un avviso del sistema di posta e non proviene da un gestore di posta certificata",
            "the message is a report of the mail system and does not come from a certified mail provider",
        );
        let anomaly = Anomaly { connection: None, transaction, errore: &errore, provider: None };
        let (envelope, body_sha256) = self.world.wrap(anomaly, Body::from_bytes(body.to_vec())).await?;
        Ok((Edits::default().become_notice(&transaction.header, envelope), body_sha256))
    }

    /// Delivery Point: an envelope in our custody, a recipient of ours. Here an avvenuta consegna or a mancata consegna begins.
    async fn delivered_or_failed(&self, queue_id: &str, custody: &Custody, report: &RecipientReport, written: Moment) -> anyhow::Result<Outcome> {
        if !custody.recipients.iter().any(|r| r.eq_ignore_ascii_case(report.recipient.as_str())) {
            return Ok(Outcome::Nothing("about nobody whom the envelope was for"));
        }
        if report.action == Action::Pending {
            return Ok(Outcome::Nothing("not the end yet"));
        }
        let database = &self.world.database;
        let (key, identificativo) = (report.recipient.key(), &custody.identificativo);
        let fact = |kind: FactKind| database.fact(&custody.provider, identificativo, kind.as_str(), &key);
        if let Some(known) = fact(FactKind::AvvenutaConsegna).await? {
            if self.is_past(queue_id, &known).await? {
                return Ok(Outcome::Nothing("its receipt was made long ago"));
            }
            return Ok(Outcome::Fact(Box::new(Due::Written(known))));
        }
        // A user can put a copy with any date into the mailbox; only the time between custody and report counts.
        let first = database.first_custody(&custody.provider, identificativo, &custody.content_sha256).await?;
        let since = first.map_or(custody.taken_at, |(at, _)| at);
        let received = self.world.mailboxes.received(&key, &custody.mark, since).await?;
        let received = received.into_iter().filter(|at| (since..=written).contains(at)).min();
        let (kind, at, time_source) = match (report.action, received) {
            // Also where Postfix says that it failed: the mailbox's 250 was lost on the way, and the next attempt refused.
            (_, Some(at)) => (FactKind::AvvenutaConsegna, at, TimeSource::Mailbox),
            (Action::Delivered, None) => {
                maillog::time_of_report(queue_id, identificativo, &key);
                (FactKind::AvvenutaConsegna, written, TimeSource::Report)
            }
            _ => match fact(FactKind::ErroreConsegna).await? {
                Some(known) => return Ok(Outcome::Fact(Box::new(Due::Written(known)))),
                None => (FactKind::ErroreConsegna, written, TimeSource::Report),
            },
        };
        let happened = Happened { kind, recipient: key, at, time_source, status: report.status.clone() };
        Ok(Outcome::Fact(Box::new(Due::New(self.new_fact(&Source::Custody(custody.clone()), identificativo, happened)?))))
    }

    /// An envelope of ours, a recipient elsewhere whom our own Postfix could not reach.
    async fn failed_to_leave(&self, queue_id: &str, sent: &Sent, report: &RecipientReport, written: Moment) -> anyhow::Result<Outcome> {
        if report.action != Action::Failed {
            return Ok(Outcome::Nothing("sent on; what happens there is for others to certify"));
        }
        let source = Source::Sent(sent.clone());
        let daticert = source.daticert()?;
        let (kind, key) = (FactKind::ErroreConsegna, report.recipient.key());
        let recipient = daticert.destinatari.iter().find(|d| d.indirizzo.eq_ignore_ascii_case(&key));
        if recipient.is_none_or(|d| d.tipo == TipoDestinatario::Esterno) {
            return Ok(Outcome::AsItIs);
        }
        if sent.local_recipients.iter().any(|r| r.eq_ignore_ascii_case(&key)) {
            return Ok(Outcome::Nothing("about a recipient of ours, whom the internal way serves"));
        }
        if let Some(known) = self.world.database.fact(&sent.provider, &sent.identificativo, kind.as_str(), &key).await? {
            return Ok(Outcome::Fact(Box::new(Due::Written(known))));
        }
        // The other side has it, its 250 was lost, and what came after failed.
        if self.world.database.is_in_other_hands(&sent.identificativo, &key).await? {
            maillog::failure_contradicted(queue_id, &sent.identificativo, &key);
            return Ok(Outcome::Nothing("the recipient's provider has certified that it has the message"));
        }
        let happened = Happened { kind, recipient: key, at: written, time_source: TimeSource::Report, status: report.status.clone() };
        Ok(Outcome::Fact(Box::new(Due::New(self.new_fact(&source, &sent.identificativo, happened)?))))
    }

    /// A notice of ours that could not be delivered. One that found nobody at home goes out again, the same bytes.
    fn notice_came_back(&self, queue_id: &str, known: &Known, report: &RecipientReport) -> Outcome {
        if report.action != Action::Failed {
            return Outcome::Nothing("about a notice of ours, which is under way");
        }
        // By our clock, not by the report's date: the report may have waited, and pec-clock deletes the original after five days.
        let age = self.world.clock.now().unix() - known.fact.happened_at.unix();
        let again = report.status.starts_with('4') && age < NOTICE_LIFETIME;
        maillog::notice_came_back(queue_id, &known.fact.message_id, report.recipient.as_str(), &report.diagnostic, again);
        if again { Outcome::Fact(Box::new(Due::Written(known.clone()))) } else { Outcome::AsItIs }
    }
}
