//! Rows of the retained log that are about no message: starts and ends, configuration, certificate, outages,
//! CRLs.
//!
//! Promise: mail never waits for such a row. They are written one after the other in the background, each
//! until the database has it; what is not written when the program ends is an error in its log, with its
//! words.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pec_core::clock::{Clock, Moment};
use pec_host::maillog;
use pec_host::outages::Outages;
use pec_host::parameters::Settings;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::pool::DatabaseError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// From one try to write a row to the next.
const RETRY: Duration = Duration::from_secs(1);

/// How long the end of a program waits for its last rows.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Begins the part of a row of `configurazione` that has all values.
const ALL: &str = "all: ";

enum Job {
    Row(Box<Entry>),
    /// Unless there is one of this event under this identifier.
    Once(Box<Entry>),
    /// Unless the last one of this event under this identifier says the same.
    Changed(Box<Entry>),
    /// The values now, and what is known of the file in which they stand.
    Configuration(Box<Entry>, BTreeMap<String, String>),
    /// Another database from now on.
    Database(Database),
    /// Everything before is written.
    Last(oneshot::Sender<()>),
}

impl Job {
    fn words(&self) -> &str {
        match self {
            Self::Row(entry) | Self::Once(entry) | Self::Changed(entry) | Self::Configuration(entry, _) => {
                entry.error.as_deref().unwrap_or_default()
            }
            Self::Database(_) | Self::Last(_) => "",
        }
    }
}

/// Says what happens in this program. One that was not begun ([`ProgramRows::default`]) writes nothing.
#[derive(Clone, Default)]
pub struct ProgramRows(Option<Arc<Writer>>);

struct Writer {
    /// PROGRAM@HOST.
    place: String,
    provider: String,
    clock: Arc<dyn Clock>,
    jobs: UnboundedSender<Job>,
}

/// Rows that nobody writes yet.
pub struct Waiting(UnboundedReceiver<Job>);

impl ProgramRows {
    /// Those of `program`. What is noted waits until [`Waiting::begin`].
    pub fn of(program: &str, settings: &Settings, clock: Arc<dyn Clock>) -> (Self, Waiting) {
        let (jobs, queue) = unbounded_channel();
        let place = format!("{program}@{}", settings.hostname);
        let writer = Writer { place, provider: settings.provider_name.clone(), clock, jobs };
        (Self(Some(Arc::new(writer))), Waiting(queue))
    }

    /// Whatever stops answering, and answers again, becomes a row.
    pub fn outages(&self) -> Outages {
        let rows = self.clone();
        Outages::told_to(move |thing, why| match why {
            Some(why) => {
                rows.note(Event::Interruzione, &format!("{}: does not answer: {why}", thing.name()));
            }
            None => rows.note(Event::Ripristino, &format!("{}: answers again", thing.name())),
        })
    }

    /// What is in force, at the start and at each reload.
    pub fn configured(&self, settings: &Settings, config_directory: &Path, database: &Database) {
        let Some(writer) = &self.0 else { return };
        writer.send(Job::Database(database.clone()));
        let file = config_directory.join("main.cf");
        let entry = writer.entry(Event::Configurazione, writer.place.clone(), &last_writer(&file));
        writer.send(Job::Configuration(Box::new(entry), settings.values.clone()));
    }

    /// The certificate under which this program signs.
    pub fn signs_with(&self, sha256: &str, not_after: Moment) {
        let Some(writer) = &self.0 else { return };
        let words = format!("signs with the certificate of SHA-256 {sha256}, until {not_after}");
        let entry = writer.entry(Event::CertificatoGestore, writer.place.clone(), &words);
        writer.send(Job::Changed(Box::new(entry)));
    }

    /// Something happened in this program.
    pub fn note(&self, event: Event, words: &str) {
        let Some(writer) = &self.0 else { return };
        writer.send(Job::Row(Box::new(writer.entry(event, writer.place.clone(), words))));
    }

    /// Something happened that others may have seen too: the first who writes it down does.
    /// `identificativo` is the same for all.
    pub fn note_once(&self, event: Event, identificativo: String, words: &str) {
        let Some(writer) = &self.0 else { return };
        writer.send(Job::Once(Box::new(writer.entry(event, identificativo, words))));
    }

    /// This program ends. Waits a little for its last rows.
    pub async fn end(&self) {
        let Some(writer) = &self.0 else { return };
        self.note(Event::Arresto, "ends");
        let (done, written) = oneshot::channel();
        writer.send(Job::Last(done));
        if tokio::time::timeout(LAST_WAIT, written).await.is_err() {
            maillog::row_lost("the end of this program, and what happened shortly before");
        }
    }
}

impl Waiting {
    /// The program of these rows takes up its work: from now on they are written.
    pub fn begin(self, rows: &ProgramRows, version: &str, database: Database) {
        tokio::spawn(write_all(self.0, database));
        rows.note(Event::Avvio, &format!("version {version}"));
    }
}

impl Writer {
    fn entry(&self, event: Event, identificativo: String, words: &str) -> Entry {
        Entry::about_no_message(event, identificativo, words.to_owned(), &self.provider, self.clock.now())
    }

    fn send(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            maillog::row_lost("the writer of rows has ended");
        }
    }
}

impl fmt::Debug for ProgramRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProgramRows").field(&self.0.as_ref().map(|writer| &writer.place)).finish()
    }
}

async fn write_all(mut queue: UnboundedReceiver<Job>, mut database: Database) {
    while let Some(job) = queue.recv().await {
        if let Job::Database(other) = job {
            database = other;
            continue;
        }
        if let Job::Last(done) = job {
            let _ = done.send(());
            continue;
        }
        let mut said = false;
        while let Err(e) = write(&job, &database).await {
            if !said {
                maillog::row_waits(job.words(), &e.to_string());
                said = true;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn write(job: &Job, database: &Database) -> Result<(), DatabaseError> {
    match job {
        Job::Row(entry) => database.insert_log(entry).await,
        Job::Once(entry) => database.insert_log_once(entry).await.map(|_| ()),
        Job::Changed(entry) => {
            if database.last_words(&entry.event, &entry.message.identificativo).await? != entry.error {
                database.insert_log(entry).await?;
            }
            Ok(())
        }
        Job::Configuration(entry, values) => {
            let before = database.last_words(&entry.event, &entry.message.identificativo).await?;
            if let Some(words) = changes(before.as_deref(), values) {
                let by = entry.error.as_deref().unwrap_or_default();
                database
                    .insert_log(&Entry { error: Some(format!("{by}\n{words}")), ..Entry::clone(entry) })
                    .await?;
            }
            Ok(())
        }
        Job::Database(_) | Job::Last(_) => Ok(()),
    }
}

/// What is different from the row before, and all values, to which the next row is compared. `None`: nothing
/// is different.
fn changes(before: Option<&str>, now: &BTreeMap<String, String>) -> Option<String> {
    let all = serde_json::to_string(now).unwrap_or_default();
    let before: BTreeMap<String, String> = before
        .and_then(|row| row.lines().find_map(|line| serde_json::from_str(line.strip_prefix(ALL)?).ok()))
        .unwrap_or_default();
    let names: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let shown = |values: &BTreeMap<String, String>, name: &str| {
        values.get(name).map_or("not set".to_owned(), |value| format!("{value:?}"))
    };
    let changed = names.into_iter().filter(|name| before.get(*name) != now.get(*name));
    let lines: Vec<_> = changed
        .map(|name| format!("{name}: {} (before: {})\n", shown(now, name), shown(&before, name)))
        .collect();
    (!lines.is_empty()).then(|| format!("{}{ALL}{all}", lines.concat()))
}

/// When and by whom a file was written, as far as the file system knows.
fn last_writer(file: &Path) -> String {
    match std::fs::metadata(file) {
        Ok(found) => format!(
            "{} was changed at {}, its owner is uid {}",
            file.display(),
            Moment::from_unix(found.mtime()),
            found.uid()
        ),
        Err(e) => format!("{}: {e}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_compared_with_the_row_before() {
        let values = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let first = changes(None, &values(&[("pec_a", "1")])).unwrap();
        assert_eq!(first, "pec_a: \"1\" (before: not set)\nall: {\"pec_a\":\"1\"}");
        let row = format!("main.cf was changed ...\n{first}");
        assert_eq!(changes(Some(&row), &values(&[("pec_a", "1")])), None);
        let second = changes(Some(&row), &values(&[("pec_a", "2\nall: {}"), ("pec_b", "x")])).unwrap();
        assert!(
            second.starts_with(
                "pec_a: \"2\\nall: {}\" (before: \"1\")\npec_b: \"x\" (before: not set)\nall: {"
            ),
            "{second}"
        );
        assert_eq!(changes(Some(&second), &values(&[("pec_a", "2\nall: {}"), ("pec_b", "x")])), None);
        assert!(changes(Some(&second), &values(&[])).unwrap().contains("pec_b: not set (before: \"x\")"));
    }
}
