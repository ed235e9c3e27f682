//! The directory of providers (RFC 6109 s. 4.5, 5.6): fetched over HTTPS, kept in `pec_directory_file`, taken
//! up by the programs.
//!
//! Promise: what is not signed as the administrator wants, older than what is in force, cut off, without our
//! own record or suddenly much smaller never takes the place of the directory in force; the log says so. A
//! record with a bad value keeps its last good one, and everybody hears of it. A directory
//! that does has been written into the retained log first, and takes the place at once as a whole. No message
//! waits for a server longer than [`MAIL_PATIENCE`].

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use openssl::pkey::{PKey, Private};
use openssl::sha::Sha256;
use openssl::x509::X509;
use pec_core::clock::{Clock, Moment};
use pec_core::directory::changes::{Change, changes, much_smaller};
use pec_core::directory::excerpt::no_longer;
use pec_core::directory::{Directory, Provider, signed};
use pec_core::identifier::hex;
use pec_host::files::{Stamp, beside, replace, stamp};
use pec_host::http::{Answer, Http, Limits, Tls};
use pec_host::maillog;
use pec_host::parameters::{DirectorySource, Settings};
use pec_host::read;
use pec_state::database::Database;
use pec_state::log::Entry;

/// How long the server may take, from the connection to the last byte.
const PATIENCE: Duration = Duration::from_secs(60);

/// For how long a message, or pec-clock's round, waits for that.
const MAIL_PATIENCE: Duration = Duration::from_secs(30);

/// The largest file that is read, in bytes. A million domains are some forty megabytes.
const LARGEST: u64 = 256 * 1024 * 1024;

/// How many times the server may send us elsewhere.
const REDIRECTS: u32 = 3;

/// For how long nobody asks again: a message that waits for it after any try, the schedule after one that
/// failed. In seconds.
const RETRY: i64 = 300;

/// Seconds.
const DAY: i64 = 86_400;

/// How far ahead the signer's clock may be, in seconds.
const AHEAD: i64 = 3600;

/// How many domains a row of the retained log names at most, for each record; it counts the rest.
const NAMED_DOMAINS: usize = 100;

/// How often a program looks whether the file has changed.
const LOOK: Duration = Duration::from_secs(5);

/// The first line of a file that was fetched goes on with the moment (Unix time) of which it is.
const FETCHED: &str = "# fetched by pec, of ";

/// Our own record of the directory.
pub(crate) fn own_record<'a>(
    name: &str,
    unit: Option<&str>,
    file: &Path,
    directory: &'a Directory,
) -> anyhow::Result<&'a Provider> {
    directory.record(name, unit).ok_or_else(|| {
        let file = file.display();
        match unit {
            None => {
                anyhow::anyhow!(
                    "pec_provider_name = {name}: not allowed; it must be the providerName of a \
                    record in pec_directory_file ({file})"
                )
            }
            Some(unit) => anyhow::anyhow!(
                "pec_provider_unit = {unit}: not allowed; it must be the providerUnit of a record of {name} \
                in pec_directory_file ({file})"
            ),
        }
    })
}

fn stamp_of(file: &Path) -> io::Result<Stamp> {
    fs::metadata(file).map(|metadata| stamp(&metadata))
}

/// `pec_directory_file` as a program has it in memory.
pub struct InForce {
    file: PathBuf,
    name: String,
    unit: Option<String>,
    database: Database,
    clock: Arc<dyn Clock>,
    directory: ArcSwap<Directory>,
    /// The file that was read last. One at a time reads.
    seen: tokio::sync::Mutex<Option<Stamp>>,
}

/// A changed directory, before it is in force.
struct Changed {
    directory: Directory,
    /// What counts no longer.
    gone: Vec<(String, String)>,
}

impl InForce {
    /// Reads it.
    pub fn read(settings: &Settings, database: Database, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let file = settings.directory_file.clone();
        // First, so that a change while it is being read is seen.
        let seen = stamp_of(&file).ok();
        let directory = read::directory(&file)?;
        let (name, unit) = (settings.provider_name.clone(), settings.provider_unit.clone());
        let directory = ArcSwap::from_pointee(directory);
        let this = Self { file, name, unit, database, clock, directory, seen: tokio::sync::Mutex::new(seen) };
        this.own_record(&this.now())?;
        Ok(this)
    }

    /// The directory that counts now.
    pub fn now(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    fn own_record<'a>(&self, directory: &'a Directory) -> anyhow::Result<&'a Provider> {
        own_record(&self.name, self.unit.as_deref(), &self.file, directory)
    }

    /// Takes the file up if it has changed. Takes the time of reading, and for that time the memory of both.
    /// One that is not usable is named in the log, once. What counts no longer is written down first.
    pub async fn look(self: &Arc<Self>) {
        let mut seen = self.seen.lock().await;
        let Ok(now) = stamp_of(&self.file) else { return };
        if *seen == Some(now) {
            return;
        }
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || this.read_changed()).await;
        match read.map_err(anyhow::Error::from).flatten() {
            Ok(Changed { directory, gone }) => {
                if let Err(e) = self.database.insert_formerly(&gone, self.clock.now()).await {
                    maillog::directory_waits(&e.to_string());
                    return;
                }
                log_content(&directory, Some(&self.now()));
                self.directory.store(Arc::new(directory));
                self.write_spoiled_down().await;
            }
            Err(e) => maillog::directory_unreadable(&format!("{e:#}")),
        }
        *seen = Some(now);
    }

    fn read_changed(&self) -> anyhow::Result<Changed> {
        let before = self.now();
        let mut directory = read::directory(&self.file)?;
        // A file that was put there by hand has nothing good beside it.
        if directory.spoiled().next().is_some() && directory.keep(&before).map_err(anyhow::Error::msg)? {
            // Only the next start needs it.
            let _ = keep_good(&self.file, &directory);
        }
        self.own_record(&directory)?;
        let gone = no_longer(&before, &directory);
        Ok(Changed { directory, gone })
    }

    /// An alarm in the register for each bad value, once a day and value.
    async fn write_spoiled_down(&self) {
        let now = self.clock.now();
        for what in self.now().spoiled() {
            let row = of_spoiled(&what, &self.name, now);
            if let Err(e) = self.database.insert_log_once(&row).await {
                maillog::directory_waits(&e.to_string());
                return;
            }
        }
    }

    /// Looks from time to time until nobody needs it any more.
    pub(crate) fn keep_looking(self: &Arc<Self>) {
        let this = Arc::downgrade(self);
        tokio::spawn(async move {
            if let Some(this) = this.upgrade() {
                this.write_spoiled_down().await;
            }
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(this) = this.upgrade() else { return };
                this.look().await;
            }
        });
    }
}

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InForce").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The register's row about a bad value of the directory.
fn of_spoiled(what: &str, provider_name: &str, now: Moment) -> Entry {
    let (hash, day) = (openssl::sha::sha256(what.as_bytes()), now.unix().div_euclid(DAY));
    let words = Change::Spoiled { what: what.to_owned() }.to_string();
    Entry::of_directory(format!("indice guasto {day}-{}", hex(&hash[..8])), &words, provider_name, now)
}

/// Says what a directory holds, and what is odd in it; not again what was odd in the one before.
pub(crate) fn log_content(directory: &Directory, before: Option<&Directory>) {
    let (providers, domains) = directory.size();
    maillog::directory(providers, domains);
    let known = before.map(Directory::conflicts).unwrap_or_default();
    let new = directory.conflicts().iter().filter(|conflict| !known.contains(conflict));
    new.for_each(|conflict| maillog::directory_conflict(conflict));
    directory.spoiled().for_each(|what| maillog::directory_spoiled(&what));
}

/// Puts the last good values of records with bad ones into a file beside the directory, for whoever reads it;
/// takes the file away where there are none.
fn keep_good(file: &Path, directory: &Directory) -> anyhow::Result<()> {
    let good = beside(file, "good");
    let text = directory.of_spoiled_records();
    if text.is_empty() {
        return match fs::remove_file(&good) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| good.display().to_string())
            }
            _ => Ok(()),
        };
    }
    write(&good, &[text.as_bytes()])
}

/// As a whole or not at all.
fn write(file: &Path, parts: &[&[u8]]) -> anyhow::Result<()> {
    let written = replace(file, |new| {
        // Whoever has fetched it, all programs read it.
        new.set_permissions(Permissions::from_mode(0o644))?;
        parts.iter().try_for_each(|part| new.write_all(part))
    });
    written.with_context(|| format!("pec_directory_file: {}", file.display()))
}

/// What a refresh did.
#[derive(Debug)]
pub enum Refreshed {
    /// Another directory is in force now, and this is different. The first one that ever comes has nothing to
    /// differ from.
    New {
        /// How many records and domains it has.
        size: (usize, usize),
        /// The differences; of many domains the first.
        changes: Vec<Change>,
    },
    /// It is the one that is in force.
    Same,
}

/// Fetches the directory.
#[derive(Clone)]
pub struct Directories(Arc<Inner>);

struct Inner {
    source: DirectorySource,
    http: Http,
    signers: Vec<X509>,
    file: PathBuf,
    name: String,
    unit: Option<String>,
    database: Database,
    /// One at a time in this program.
    turn: tokio::sync::Mutex<()>,
}

/// A directory that counts, before it is in force.
struct New {
    /// Held until it is.
    _lock: File,
    head: String,
    ldif: Vec<u8>,
    of: Option<Moment>,
    directory: Directory,
    changes: Vec<Change>,
    /// What counts no longer.
    gone: Vec<(String, String)>,
    /// Names the step from the old one to this one.
    step: String,
}

/// What is known of a file in force besides its records.
#[derive(Default)]
struct Kept {
    of: Option<Moment>,
    /// SHA-256 of the LDIF.
    digest: Option<[u8; 32]>,
}

/// When anybody on this host tried last, and when that went well. Unix times.
#[derive(Clone, Copy, Default)]
struct Tried {
    tried: Option<i64>,
    good: Option<i64>,
}

impl Tried {
    fn is_recent(self, now: Moment) -> bool {
        self.tried.is_some_and(|tried| (0..RETRY).contains(&(now.unix() - tried)))
    }
}

fn client_key(file: &Path) -> anyhow::Result<PKey<Private>> {
    let read = || {
        read::closed_to_others(file)?;
        read::private_key(file)
    };
    read().map_err(|e| anyhow::anyhow!("pec_directory_client_key_file = {}: {e}", file.display()))
}

impl Directories {
    /// Who fetches by these settings; `None` where `pec_directory_url` is not set. `https_proxy` of the
    /// environment holds. The error names the file that does not do.
    pub fn new(settings: &Settings, database: Database) -> anyhow::Result<Option<Self>> {
        let Some(source) = settings.directory_source.clone() else { return Ok(None) };
        let signers = read::certificates("pec_directory_signer_file", &source.signer_file)?;
        let tls = Tls {
            cas: &read::certificates("pec_directory_ca_file", &source.ca_file)?,
            certificates: &read::certificates(
                "pec_directory_client_certificate_file",
                &source.certificate_file,
            )?,
            key: &client_key(&source.key_file)?,
        };
        let limits = Limits { patience: PATIENCE, redirects: REDIRECTS, largest: LARGEST };
        let http = Http::over_tls(&tls, limits).map_err(anyhow::Error::msg)?;
        Ok(Some(Self(Arc::new(Inner {
            source,
            http,
            signers,
            file: settings.directory_file.clone(),
            name: settings.provider_name.clone(),
            unit: settings.provider_unit.clone(),
            database,
            turn: tokio::sync::Mutex::default(),
        }))))
    }

    /// Fetches on schedule: after `every`, or sooner where it failed.
    pub async fn refresh_due(&self, every: Duration, now: Moment) {
        let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
        self.refresh_if(now, move |tried| {
            tried.good.is_none_or(|good| !(0..every).contains(&(now.unix() - good)))
        })
        .await;
    }

    /// Fetches for a message whose signer or domain is unknown, unless somebody on this host has tried just
    /// before.
    pub async fn refresh_for_mail(&self, now: Moment) {
        self.refresh_if(now, |_| true).await;
    }

    async fn refresh_if(&self, now: Moment, is_due: impl FnOnce(Tried) -> bool + Send + 'static) {
        let this = self.clone();
        let task = tokio::spawn(async move {
            let _turn = this.0.turn.lock().await;
            let tried = this.0.tried();
            if !tried.is_recent(now) && is_due(tried) {
                // What happened is in the log.
                let _ = this.refresh_in_turn(false, now).await;
            }
        });
        // What takes longer goes on, for those to come.
        let _ = tokio::time::timeout(MAIL_PATIENCE, task).await;
    }

    /// Fetches now, and puts what counts in force. One that is much smaller counts only if somebody has said
    /// so. What happened is in the log; the error says it too.
    pub async fn refresh(&self, accept_smaller: bool, now: Moment) -> Result<Refreshed, String> {
        let _turn = self.0.turn.lock().await;
        self.refresh_in_turn(accept_smaller, now).await
    }

    async fn refresh_in_turn(&self, accept_smaller: bool, now: Moment) -> Result<Refreshed, String> {
        let refreshed = self.try_refresh(accept_smaller, now).await.map_err(|e| format!("{e:#}"));
        if let Err(why) = &refreshed {
            maillog::directory_refused(&self.0.source.url, why);
        }
        refreshed
    }

    async fn try_refresh(&self, accept_smaller: bool, now: Moment) -> anyhow::Result<Refreshed> {
        let inner = Arc::clone(&self.0);
        let Some(new) = tokio::task::spawn_blocking(move || inner.prepare(accept_smaller, now)).await??
        else {
            return Ok(Refreshed::Same);
        };
        let inner = &self.0;
        let size = new.directory.size();
        let summary = format!(
            "the directory has changed: {} records, {} domains, {} changes",
            size.0,
            size.1,
            new.changes.len()
        );
        // First, so that no change is in force of which nothing is known afterwards.
        let row = |n, words: &str| Entry::of_directory(format!("{}/{n}", new.step), words, &inner.name, now);
        inner.database.insert_log_once(&row(0, &summary)).await?;
        for (n, change) in (1..).zip(&new.changes) {
            let row = match change {
                Change::Spoiled { what } => of_spoiled(what, &inner.name, now),
                change => row(n, &change.to_string()),
            };
            inner.database.insert_log_once(&row).await?;
        }
        inner.database.insert_formerly(&new.gone, now).await?;
        let inner = Arc::clone(&self.0);
        let New { of, changes, .. } =
            tokio::task::spawn_blocking(move || inner.put_in_force(new, now)).await??;
        maillog::directory_new(&self.0.source.url, of, size.0, size.1, changes.len());
        changes.iter().for_each(|change| maillog::directory_change(&change.to_string()));
        Ok(Refreshed::New { size, changes })
    }

    /// Fetches what is there now, and puts nothing in force. It must be signed, and whole.
    pub fn fetch(&self, now: Moment) -> anyhow::Result<Directory> {
        let (ldif, _) = self.0.fetch(now)?;
        Directory::parse(&ldif).map_err(anyhow::Error::msg)
    }
}

impl Inner {
    /// Fetches, and looks at what came. `None`: it is what is in force.
    fn prepare(&self, accept_smaller: bool, now: Moment) -> anyhow::Result<Option<New>> {
        let above = self.file.parent().unwrap_or(Path::new("/"));
        // Several programs of this host come here.
        let lock = File::open(above).with_context(|| above.display().to_string())?;
        lock.lock()?;
        let good = self.tried().good;
        self.set_tried(Tried { tried: Some(now.unix()), good })?;

        let (ldif, of) = self.fetch(now)?;
        let digest = openssl::sha::sha256(&ldif);
        let mut after = Directory::parse(&ldif).map_err(anyhow::Error::msg)?;
        // Whatever lies there otherwise is of no use.
        let before = read::directory(&self.file).ok();
        if let Some(before) = &before {
            after.keep(before).map_err(anyhow::Error::msg)?;
        }
        own_record(&self.name, self.unit.as_deref(), &self.file, &after)
            .context("it has no record of ours")?;
        let kept = self.kept();
        if let Some(before) = kept.of {
            match of {
                Some(of) if of < before => {
                    anyhow::bail!("it is of {of}, and the one in force is of {before}")
                }
                Some(_) => {}
                None => anyhow::bail!("it does not say of when it is, and the one in force is of {before}"),
            }
        }
        if kept.digest == Some(digest) && kept.of == of {
            self.set_tried(Tried { tried: Some(now.unix()), good: Some(now.unix()) })?;
            return Ok(None);
        }
        if let Some(fewer) = before.as_ref().and_then(|before| much_smaller(before, &after))
            && !accept_smaller
        {
            anyhow::bail!(
                "it is suddenly much smaller: {fewer}; if that is right: pecctl directory refresh \
                --accept-smaller"
            );
        }
        // The first that comes has nothing to differ from.
        let (changes, gone) = match &before {
            Some(before) => (changes(before, &after, NAMED_DOMAINS), no_longer(before, &after)),
            None => (after.spoiled().map(|what| Change::Spoiled { what }).collect(), Vec::new()),
        };
        let head = of.map_or_else(String::new, |of| format!("{FETCHED}{} ({of})\n", of.unix()));
        let step = format!("indice {}-{}", hex(&kept.digest.unwrap_or_default()[..8]), hex(&digest[..8]));
        Ok(Some(New { _lock: lock, head, ldif, of, directory: after, changes, gone, step }))
    }

    /// The signed LDIF, and of when it is: when it was signed, or, if that does not stand in it, what the
    /// server says.
    fn fetch(&self, now: Moment) -> anyhow::Result<(Vec<u8>, Option<Moment>)> {
        let Answer { last_modified, body: p7m, .. } =
            self.http.get(&self.source.url).map_err(anyhow::Error::msg)?;
        let modified = last_modified.and_then(|value| Moment::from_rfc5322(&value));
        let signed = signed::open(p7m, &self.signers, now).map_err(anyhow::Error::msg)?;
        let of = signed.at.or(modified);
        if let Some(of) = of.filter(|of| of.unix() > now.unix() + AHEAD) {
            anyhow::bail!("it is of {of}, which has not come yet");
        }
        Ok((signed.ldif, of))
    }

    fn put_in_force(&self, new: New, now: Moment) -> anyhow::Result<New> {
        let before = beside(&self.file, "before");
        let kept = match File::open(&self.file) {
            Ok(mut old) => replace(&before, |new| {
                new.set_permissions(old.metadata()?.permissions())?;
                io::copy(&mut old, new).map(drop)
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let _ = fs::remove_file(&before);
                Ok(())
            }
            Err(e) => Err(e),
        };
        kept.with_context(|| before.display().to_string())?;
        // Before the file that is read with it; of what is good in both, the file's counts.
        if new.directory.spoiled().next().is_some() {
            keep_good(&self.file, &new.directory)?;
        }
        write(&self.file, &[new.head.as_bytes(), &new.ldif])?;
        if new.directory.spoiled().next().is_none() {
            keep_good(&self.file, &new.directory)?;
        }
        self.set_tried(Tried { tried: Some(now.unix()), good: Some(now.unix()) })?;
        Ok(new)
    }

    /// What the file in force says of itself.
    fn kept(&self) -> Kept {
        let read = || -> io::Result<Kept> {
            let mut file = BufReader::new(File::open(&self.file)?);
            let mut first = Vec::new();
            file.read_until(b'\n', &mut first)?;
            let mut hash = Sha256::new();
            let of = str::from_utf8(&first)
                .ok()
                .and_then(|line| line.strip_prefix(FETCHED)?.split(' ').next()?.parse().ok())
                .map(Moment::from_unix);
            if of.is_none() {
                hash.update(&first);
            }
            let mut buffer = [0; 64 * 1024];
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    n => hash.update(&buffer[..n]),
                }
            }
            Ok(Kept { of, digest: Some(hash.finish()) })
        };
        read().unwrap_or_default()
    }

    fn tried(&self) -> Tried {
        let text = fs::read_to_string(beside(&self.file, "tried")).unwrap_or_default();
        let value = |key: &str| text.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok());
        Tried { tried: value("tried="), good: value("good=") }
    }

    fn set_tried(&self, tried: Tried) -> anyhow::Result<()> {
        let word = |key: &str, at: Option<i64>| at.map_or(String::new(), |at| format!("{key}{at} "));
        let text = format!("{}{}\n", word("tried=", tried.tried), word("good=", tried.good));
        write(&beside(&self.file, "tried"), &[text.as_bytes()])
    }
}
