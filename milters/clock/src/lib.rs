//! What no message starts: notices for deadlines that passed, triggers that did not come round.
//!
//! Promise: every minute one round, by one process for each database, however many run.
//! - A deadline that is over leads to a fact, and the fact to its notice ([`deadlines`], RFC 6109 s. 3.1.6).
//!   A fact is there once; its notice is started until it is in a mailbox, and made again it is the same
//!   bytes. So a crash, a restart or a second pec-clock lose nothing and change nothing. While no notice
//!   could be made, no fact is written: more may be certified by then.
//! - pec-clock makes no notice itself and writes to nobody: it brings a trigger to pec-delivery, by LMTP,
//!   which makes the notice and hands it over.
//! - Rows of the retained log are sealed, and what proves them to others is made, both beside the rounds
//!   ([`sealing`], [`proving`]).
//! - Every day our certificate is looked at, and the log says from 60 days before its end on that it ends.
//! - The CAs' revocation lists and the directory of providers are fetched on each host, also by a pec-clock
//!   that does not act otherwise.
//!
//! What does not work in one round is logged and done in the next. Time comes from the injected clock alone.

pub mod auditing;
pub mod deadlines;
pub mod proving;
pub mod sealing;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openssl::sha::sha256;
use pec_core::clock::Moment;
use pec_core::daticert::Daticert;
use pec_core::notices::service_address;
use pec_host::NO_QUEUE_ID;
use pec_host::crl_directory::CrlDirectory;
use pec_host::kernel_clock::{KernelClock, kernel_clock};
use pec_host::maillog;
use pec_host::parameters::Settings;
use pec_host::read;
use pec_lmtp::{Options, Outgoing, Pool, Protocol};
use pec_program::crls::Crls;
use pec_program::directories::Directories;
use pec_program::life::Process;
use pec_program::mailbox::peer;
use pec_register::tsa::TsaCas;
use pec_state::database::Database;
use pec_state::deadlines::{Deadline, Lock, ToStart};
use pec_state::event::Event;
use pec_state::pool::DatabaseError;
use pec_state::rows::Fact;
use pec_state::trigger::{NOTICES_DOMAIN, Trigger};

use crate::deadlines::{STAGES, Stage, is_due, is_over, reached};

/// The body of every trigger that pec-clock brings. It becomes the notice; only its hash matters.
const BODY: &str = "This becomes the notice that the address names.\r\n";

/// For how long a fact of the other programs may be without its notice until its trigger counts as lost, in
/// seconds. What still waits in Postfix's queue after that finds the notice handed over when it comes.
const LOST_AFTER: i64 = 600;

/// A trigger that nobody sends: whether pec-delivery would take one.
const READY: &str = "pronto";

/// What pec-clock does each minute, and what it remembers from one round to the next.
pub struct Clockwork {
    settings: Settings,
    process: Process,
    database: Database,
    /// pec-delivery.
    delivery: Pool,
    crls: Crls,
    directories: Option<Directories>,
    lock: Option<Lock>,
    stands_by: bool,
    /// Facts without a notice, and since when they are known.
    without_notice: HashMap<String, Moment>,
    /// The day (UTC) on which our certificate was looked at last.
    certificate_seen: Option<i64>,
}

impl Clockwork {
    /// The work under these settings.
    pub fn new(settings: Settings, process: Process, database: Database) -> anyhow::Result<Self> {
        let options = Options { connections: 1, ..Options::default() };
        let delivery =
            Pool::new(peer(&settings.triggers_lmtp), Protocol::Lmtp, settings.hostname.clone(), options);
        if let Some(timestamps) = &settings.timestamps {
            TsaCas::read(&timestamps.ca_file)?;
        }
        let crls = Crls::new(Arc::new(CrlDirectory::new(&settings.crl_directory)), process.rows.clone());
        let directories = Directories::new(&settings, database.clone())?;
        Ok(Self {
            settings,
            process,
            database,
            delivery,
            crls,
            directories,
            lock: None,
            stands_by: false,
            without_notice: HashMap::new(),
            certificate_seen: None,
        })
    }

    /// The parameters.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// What outlives a configuration.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Goes on where `before` stood, which had other settings.
    pub fn in_place_of(self, before: Self) -> Self {
        if self.settings.database == before.settings.database {
            Self {
                lock: before.lock,
                stands_by: before.stands_by,
                without_notice: before.without_notice,
                ..self
            }
        } else {
            self
        }
    }

    /// One round, if no other process acts. `stopped`, once set, ends it after what is in hand.
    pub async fn round(&mut self, stopped: &AtomicBool) -> anyhow::Result<()> {
        // Each host has its own.
        self.see_to_certificate(self.process.clock.now());
        if let Err(e) = self.crls.refresh_due(self.settings.crl_refresh, self.process.clock.now()).await {
            maillog::crl_warning(&e.to_string());
        }
        if let Some(directories) = &self.directories {
            directories.refresh_due(self.settings.directory_refresh, self.process.clock.now()).await;
        }
        if !self.acts_alone().await? {
            return Ok(());
        }
        let now = self.process.clock.now();
        self.see_to_deadlines(now, stopped).await?;
        self.start_lost(now, stopped).await
    }

    /// Says once a day what an administrator should know of our certificate, and what the kernel says of its
    /// clock. The milters say it when they start, which may be long ago.
    fn see_to_certificate(&mut self, now: Moment) {
        let today = now.unix().div_euclid(86_400);
        if self.certificate_seen.replace(today) == Some(today) {
            return;
        }
        match kernel_clock() {
            Ok(KernelClock { synchronised, estimated_error }) => {
                let synchronised = if synchronised { "synchronised" } else { "not synchronised" };
                self.process.rows.note(
                    Event::Orologio,
                    &format!("{synchronised}, estimated error {estimated_error} microseconds"),
                );
            }
            Err(why) => self.process.rows.note(Event::Orologio, &format!("cannot be asked: {why}")),
        }
        match read::own_certificate(&self.settings, now) {
            Ok(certificate) => read::warn_of_end(&certificate, now),
            Err(e) => maillog::certificate_bad(&e.to_string()),
        }
    }

    /// Whether this process is the one that acts. Two that did, because a connection broke, would do the same
    /// twice and nothing worse.
    async fn acts_alone(&mut self) -> anyhow::Result<bool> {
        if let Some(lock) = &self.lock
            && lock.is_held().await
        {
            return Ok(true);
        }
        self.lock = None;
        self.lock = self.database.act_alone().await?;
        match &self.lock {
            Some(_) => maillog::acting(),
            None if !self.stands_by => maillog::standing_by(),
            None => {}
        }
        self.stands_by = self.lock.is_none();
        Ok(!self.stands_by)
    }

    /// Writes the facts of deadlines that are over.
    async fn see_to_deadlines(&self, now: Moment, stopped: &AtomicBool) -> anyhow::Result<()> {
        let mut ready = None;
        for (seen, stage) in (0..).zip(&STAGES) {
            let until = Moment::from_unix(now.unix() - stage.due);
            let mut last = None;
            loop {
                let (page, end) = self.database.deadlines(seen, until, last.as_ref()).await?;
                for deadline in &page {
                    if stopped.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    match self.see_to(deadline, now, &mut ready).await {
                        // The alarm is given. Nobody else's notice waits for that.
                        Err(e) if matches!(e.downcast_ref(), Some(DatabaseError::Forged { .. })) => {}
                        seen => seen?,
                    }
                }
                match end {
                    Some(end) => last = Some(end),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// One envelope: the facts first, then the mark that it has been seen to. A crash in between does it
    /// again, and every fact is there already. `ready` is what this round knows of pec-delivery.
    async fn see_to(&self, deadline: &Deadline, now: Moment, ready: &mut Option<bool>) -> anyhow::Result<()> {
        let busta = match Daticert::parse(deadline.sent.daticert.as_bytes()) {
            Ok(busta) => busta,
            Err(e) => {
                maillog::waits(
                    NO_QUEUE_ID,
                    &format!("the deadlines of {}: {e}", deadline.sent.identificativo),
                );
                return Ok(());
            }
        };
        let stages = reached(now.unix() - deadline.fact.happened_at.unix());
        let mut all_over = true;
        for destinatario in &busta.destinatari {
            let key = destinatario.indirizzo.to_ascii_lowercase();
            let certified =
                deadline.certified.iter().filter(|(_, recipient)| *recipient == key).map(|(tipo, _)| *tipo);
            for stage in stages.iter().filter(|stage| is_due(stage, destinatario.tipo, certified.clone())) {
                if !self.is_ready(ready).await {
                    return Ok(());
                }
                let fact = Fact::new(stage.kind, &deadline.sent, now, &self.settings.service_domain)?;
                self.database.insert_fact_without_notice(&Fact { recipient: key.clone(), ..fact }).await?;
            }
            all_over &= is_over(destinatario.tipo, certified);
        }
        let seen = if all_over { STAGES.len() } else { stages.len() };
        Ok(self.database.set_deadlines_seen(&deadline.fact.id, i16::try_from(seen)?).await?)
    }

    /// Whether notices can be made; asked once a round.
    async fn is_ready(&self, known: &mut Option<bool>) -> bool {
        if known.is_none() {
            let answer = self.delivery.ask(&format!("{READY}@{NOTICES_DOMAIN}")).await;
            let trouble = match answer {
                Ok(reply) if reply.is_yes() => None,
                Ok(reply) => Some(reply.to_string()),
                Err(e) => Some(e.to_string()),
            };
            if let Some(trouble) = &trouble {
                maillog::waits(
                    NO_QUEUE_ID,
                    &format!("the notices of deadlines that are over: pec-delivery: {trouble}"),
                );
            }
            *known = Some(trouble.is_none());
        }
        *known == Some(true)
    }

    /// Starts the notices that nobody has started: those of deadlines at once, others when their own trigger
    /// counts as lost.
    async fn start_lost(&mut self, now: Moment, stopped: &AtomicBool) -> anyhow::Result<()> {
        let pending = self.database.to_start().await?;
        // Since when a fact is one says nothing about when it was written: a report can come days late.
        let mut known_since = std::mem::take(&mut self.without_notice);
        for to_start in &pending {
            let id = &to_start.known.fact.id;
            let since = known_since.remove(id).unwrap_or(now);
            self.without_notice.insert(id.clone(), since);
        }
        for to_start in pending {
            let fact = &to_start.known.fact;
            let stage = STAGES.iter().find(|stage| stage.kind == fact.kind);
            let since = self.without_notice.get(&fact.id).copied().unwrap_or(now);
            if stage.is_none() && now.unix() - since.unix() < LOST_AFTER {
                continue;
            }
            if stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            match self.start(&to_start, stage).await? {
                Started::Yes => {}
                Started::No(why) => {
                    maillog::waits(NO_QUEUE_ID, &format!("the notice {}: {why}", fact.message_id))
                }
                // The next one fares no better.
                Started::NobodyThere(why) => {
                    maillog::waits(NO_QUEUE_ID, &format!("the notice {}: {why}", fact.message_id));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Brings one trigger to pec-delivery, whose yes means that the notice is handed over. A yes that is lost
    /// on the way here changes nothing: it knows so the next time.
    async fn start(&self, to_start: &ToStart, stage: Option<&Stage>) -> anyhow::Result<Started> {
        let fact = &to_start.known.fact;
        let trigger = Trigger::notice(fact.kind, &fact.id);
        self.database.insert_trigger_bodies(std::slice::from_ref(&trigger), &sha256(BODY.as_bytes())).await?;
        let sender = service_address(&self.settings.service_domain);
        let pieces = [Bytes::from(format!("From: {sender}\r\nSubject: {}\r\n\r\n{BODY}", trigger.name()))];
        let recipient = trigger.address();
        let outgoing = Outgoing {
            sender: &sender,
            recipient: &recipient,
            envid: None,
            ret: None,
            notify: None,
            ident: None,
            pieces: &pieces,
        };
        match self.delivery.give(outgoing).await {
            Ok(answer) if answer.reply.is_yes() => {}
            Ok(answer) => return Ok(Started::No(answer.reply.to_string())),
            Err(e) => return Ok(Started::NobodyThere(e.to_string())),
        }
        let (kind, sent) = (fact.kind.as_str(), self.process.clock.now());
        match stage {
            Some(_) => maillog::notice_started(kind, &fact.identificativo, &fact.recipient, &fact.message_id),
            None => maillog::started_again(kind, &fact.identificativo, &fact.recipient, &fact.message_id),
        }
        if let (Some(stage), Some(accepted)) = (stage, to_start.accepted_at)
            && sent.unix() - accepted.unix() >= stage.late
        {
            maillog::late(kind, &fact.identificativo, &fact.recipient, accepted, sent);
        }
        Ok(Started::Yes)
    }
}

/// Whether a notice was started.
enum Started {
    Yes,
    /// pec-delivery says no, about this one.
    No(String),
    NobodyThere(String),
}
