//! What proves the retained log to others: the days' files, signatures, timestamps, witnesses.
//!
//! Promise: apart from sealing, which it never holds up. Every round does what is due by the injected clock:
//! days that are over get their files ([`pec_register::days`]), the newest checkpoint and the log key are
//! signed ([`pec_register::attest`]), what lacks a signature or a timestamp gets it
//! ([`pec_register::prover`]), witnesses get the newest checkpoint ([`pec_register::witness`]). Each of these
//! fails by itself; the log says so once, and once that it goes on, and the next round tries again. One
//! process for each database does it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pec_core::clock::Moment;
use pec_core::smime::sign::Signer;
use pec_host::maillog;
use pec_host::outages::Outages;
use pec_host::parameters::Settings;
use pec_program::life::Process;
use pec_program::world::own_signer;
use pec_register::checkpoint::{LogKey, origin};
use pec_register::prover::Prover;
use pec_register::tree::Tiles;
use pec_register::tsa::Tsa;
use pec_register::witness::{SENDMAIL, Witnesses};
use pec_register::{attest, days};
use pec_state::pool::connect_registrar;
use tokio::sync::Mutex;
use tokio_postgres::Client;

/// The lock of the one who proves: "pecp".
const LOCK: i64 = 0x7065_6370;

/// Held by who signs and timestamps: what a round began in a thread of its own goes on there when a reload
/// drops the round, and the next one would write the same files.
static SIGNING: Mutex<()> = Mutex::const_new(());

/// The same for witnesses, who may keep one waiting for long.
static WITNESSING: Mutex<()> = Mutex::const_new(());

/// From the end of one round to the next.
const EVERY: Duration = Duration::from_secs(60);

/// To the second try of one that found another process at it.
const SOON: Duration = Duration::from_secs(5);

/// Proves for ever; dropped at any point, nothing is lost.
pub async fn keep_proving(settings: Settings, process: Process) {
    let (mut proving, mut stands_by) = (None, false);
    loop {
        if proving.is_none() {
            match Proving::new(&settings, process.clone()) {
                Ok(new) => proving = Some(new),
                Err(e) => maillog::proof_missing(&e.to_string()),
            }
        }
        let mut acts = true;
        if let Some(proving) = &mut proving {
            acts = proving.round().await;
        }
        // After a reload the lock may still be in the hands of the one before.
        tokio::time::sleep(if acts || stands_by { EVERY } else { SOON }).await;
        stands_by = !acts;
    }
}

/// What proves the register from outside: days' files, signatures, timestamps, witnesses.
pub struct Proving {
    settings: Settings,
    process: Process,
    tiles: Tiles,
    tsa: Option<Arc<Tsa>>,
    signer: Option<Arc<dyn Signer>>,
    /// The log key's public half.
    public: Option<String>,
    /// The connection that holds the lock, once the files of closed days are here.
    client: Option<Client>,
    witnesses: Option<Witnesses>,
    /// What fails, and with which words the log has said so.
    failing: HashMap<String, String>,
}

impl Proving {
    /// The work under these settings. That nothing is timestamped is said here, once.
    pub fn new(settings: &Settings, process: Process) -> anyhow::Result<Self> {
        Self::sending(settings, process, Path::new(SENDMAIL))
    }

    /// The same, with this `sendmail`.
    pub fn sending(settings: &Settings, process: Process, sendmail: &Path) -> anyhow::Result<Self> {
        let tsa = settings.timestamps.as_ref().map(Tsa::new).transpose()?.map(Arc::new);
        if tsa.is_none() {
            maillog::no_timestamps();
        }
        Ok(Self {
            settings: settings.clone(),
            process,
            tiles: Tiles::new(&settings.register),
            tsa,
            signer: None,
            public: None,
            client: None,
            witnesses: Some(Witnesses::new(settings, sendmail)),
            failing: HashMap::new(),
        })
    }

    /// One round. `false`: another process proves.
    pub async fn round(&mut self) -> bool {
        let now = self.process.clock.now();
        let days = self.days(now).await;
        let closed = match days {
            Ok(None) => return false,
            Ok(Some(closed)) => {
                self.note("days", Ok(()));
                closed
            }
            Err(e) => {
                self.note("days", Err(e));
                0
            }
        };
        let attested = self.attest(closed > 0, now);
        self.note("checkpoints", attested);
        let completed = self.complete(now).await;
        self.note("signatures and timestamps", completed);
        self.witness(now).await;
        true
    }

    /// What fails now, in words.
    pub fn failing(&self) -> Vec<&str> {
        self.failing.values().map(String::as_str).collect()
    }

    /// Closes what can be closed; gives back how many days. `None`: another process proves.
    async fn days(&mut self, now: Moment) -> anyhow::Result<Option<usize>> {
        let origin = origin(&self.settings);
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let client = connect_registrar(&self.settings, "pec-clock").await?;
                if !client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?.get::<_, bool>(0) {
                    return Ok(None);
                }
                // Before anything else: what a crash left without its name, or a host that closed days in our
                // place.
                days::restore(&client, &self.tiles, &origin).await?;
                client
            }
        };
        let mut closed = 0;
        while let Some(day) = days::close_next(&client, &self.tiles, &origin, now).await? {
            maillog::day_closed(&day.day, day.rows, &day.sha256);
            closed += 1;
        }
        self.client = Some(client);
        Ok(Some(closed))
    }

    fn attest(&self, at_once: bool, now: Moment) -> anyhow::Result<()> {
        if let Some(text) = self.tiles.checkpoint()?
            && let Some(size) = attest::take(&self.settings.register, &text, at_once, now)?
        {
            maillog::checkpoint_attested(size);
        }
        Ok(())
    }

    /// Signs and timestamps whatever is not yet. Keys and TSA may take their time.
    async fn complete(&mut self, now: Moment) -> anyhow::Result<()> {
        let alone = SIGNING.lock().await;
        let (settings, known, public) = (self.settings.clone(), self.signer.clone(), self.public.clone());
        let (tsa, outages) = (self.tsa.clone(), self.process.outages.clone());
        let work = move || -> (Option<Arc<dyn Signer>>, Option<String>, anyhow::Result<()>) {
            let _alone = alone;
            let signer = match known.map_or_else(|| open(&settings, now, &outages), Ok) {
                Ok(signer) => signer,
                Err(e) => return (None, public, Err(e)),
            };
            let prover = Prover { signer: &*signer, tsa: tsa.as_deref(), now };
            let register = &settings.register;
            let public = public.map_or_else(|| LogKey::read(&settings).map(|key| key.public()), Ok);
            let key = match &public {
                Ok(public) => {
                    attest::endorse(register, public, &prover).map_err(anyhow::Error::from).map(|new| {
                        if new {
                            maillog::log_key_endorsed(public);
                        }
                    })
                }
                Err(e) => Err(anyhow::anyhow!("{e}")),
            };
            // What fails for one kind may go well for another, and each is signed before anything is
            // timestamped.
            let done = [attest::complete(register, &prover), days::complete(register, &prover)];
            let done = done
                .into_iter()
                .map(|done| done.map_err(anyhow::Error::from))
                .fold(key, |first, next| first.and(next));
            (Some(signer), public.ok(), done)
        };
        let (signer, public, done) = tokio::task::spawn_blocking(work).await.context("signing")?;
        (self.signer, self.public) = (signer, public);
        done
    }

    async fn witness(&mut self, now: Moment) {
        let alone = WITNESSING.lock().await;
        let Some(mut witnesses) = self.witnesses.take() else { return };
        let tiles = self.tiles.clone();
        let served = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            let served = witnesses.serve_due(&tiles, now);
            (witnesses, served)
        });
        let served = match served.await {
            Ok((witnesses, served)) => {
                self.witnesses = Some(witnesses);
                served
            }
            // A bug; the next round has nobody to ask, and a reload has.
            Err(_) => return,
        };
        for (name, done) in served {
            let what = format!("the witness {name}");
            if let Ok(size) = &done {
                maillog::witnessed(&name, *size);
            }
            let said = done.map(|_| ()).map_err(|e| anyhow::anyhow!("the witness {name} {e}"));
            self.note(&what, said);
        }
    }

    /// Has the log say once that something fails, and once that it goes on.
    fn note(&mut self, what: &str, done: anyhow::Result<()>) {
        match done {
            Ok(()) => {
                if self.failing.remove(what).is_some() {
                    maillog::proof_made(what);
                }
            }
            Err(e) => {
                let why = format!("{e:#}");
                if self.failing.get(what) != Some(&why) {
                    maillog::proof_missing(&why);
                    self.failing.insert(what.to_owned(), why);
                }
            }
        }
    }
}

fn open(settings: &Settings, now: Moment, outages: &Outages) -> anyhow::Result<Arc<dyn Signer>> {
    Ok(Arc::from(own_signer(settings, now, outages)?))
}
