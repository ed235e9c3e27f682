//! `pec_crl_directory`: the CAs' revocation lists, which all programs of a host share.
//!
//! Promise: what is in force lies in one file for each place, written as a whole; programs see a change with
//! the next message. An older list never takes the place of a newer one.
//!
//! Nothing here speaks to a network: whoever fetches brings the bytes to [`CrlDirectory::take`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use pec_core::clock::Moment;
use pec_core::smime::crl::{Crl, Known, Lists, Place};
use pec_core::smime::verify::{Remark, Revocations};

use crate::files::{Stamp, replace, stamp};
use crate::maillog;

/// A change of the directory younger than this may be followed by another that looks the same: files' times
/// are coarse.
const RECENT: Duration = Duration::from_secs(1);

const SUFFIX: &str = ".pem";

/// Why a list does not count.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// It is none, not the CA's, or one that is not supported.
    #[error("{0}")]
    Refused(String),
    /// `pec_crl_directory` cannot be read or written.
    #[error("pec_crl_directory = {path}: {trouble}")]
    Directory {
        /// Its value.
        path: String,
        /// What happened.
        trouble: io::Error,
    },
}

/// What [`CrlDirectory::take`] did.
#[derive(Debug, Clone)]
pub enum ListTaken {
    /// It is in force now.
    New(Arc<Crl>),
    /// It is the one that is in force.
    Same(Arc<Crl>),
}

/// `pec_crl_directory`: one file for each place, readable by people and by `openssl crl -in FILE`: the
/// address, the CA's certificate, the list.
#[derive(Debug)]
pub struct CrlDirectory {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The directory when it was read; `None`: read it again.
    changed: Option<SystemTime>,
    lists: Arc<Lists>,
    /// By what each file is known not to have changed, and what it held; by the key of its place.
    files: HashMap<String, (Stamp, Known)>,
}

impl CrlDirectory {
    /// The directory at `path`, which need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: Mutex::default() }
    }

    fn error(&self, trouble: io::Error) -> CrlError {
        CrlError::Directory { path: self.path.display().to_string(), trouble }
    }

    /// What is in force now.
    pub fn lists(&self) -> Result<Arc<Lists>, CrlError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.modified().map_err(|e| self.error(e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => SystemTime::UNIX_EPOCH,
            Err(e) => return Err(self.error(e)),
        };
        if seen.changed == Some(changed) {
            return Ok(Arc::clone(&seen.lists));
        }
        let files = self.read_all(&seen.files).map_err(|e| self.error(e))?;
        let is_same = files.len() == seen.files.len()
            && files
                .iter()
                .all(|(key, (stamp, _))| seen.files.get(key).is_some_and(|(before, _)| before == stamp));
        if !is_same {
            let by_key = files.iter().map(|(key, (_, known))| (key.clone(), known.clone())).collect();
            seen.lists = Arc::new(Lists::new(seen.lists.generation + 1, by_key));
            seen.files = files;
        }
        let is_settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > RECENT);
        seen.changed = is_settled.then_some(changed);
        Ok(Arc::clone(&seen.lists))
    }

    fn read_all(
        &self,
        before: &HashMap<String, (Stamp, Known)>,
    ) -> io::Result<HashMap<String, (Stamp, Known)>> {
        let mut all = HashMap::new();
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(all),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
            let stamp = stamp(&entry.metadata()?);
            let known = match before.get(key) {
                Some((same, known)) if *same == stamp => known.clone(),
                _ => {
                    match Known::from_text(&fs::read(entry.path())?).filter(|known| known.place.key() == key)
                    {
                        Some(known) => known,
                        // What somebody else has put there is nobody's list.
                        None => continue,
                    }
                }
            };
            all.insert(key.to_owned(), (stamp, known));
        }
        Ok(all)
    }

    /// Makes a place known, so that it is fetched on schedule from now on.
    pub fn note(&self, place: &Place) -> Result<(), CrlError> {
        if self.lists()?.knows(place) {
            return Ok(());
        }
        self.locked(|| if self.on_disk(place)?.is_none() { self.write(place, None) } else { Ok(()) })
            .map_err(|e| self.error(e))
    }

    /// Puts `bytes`, which were fetched from `place` at `now`, in force, if they are a list that counts and
    /// is not older than the one that is.
    pub fn take(&self, place: &Place, bytes: &[u8], now: Moment) -> Result<ListTaken, CrlError> {
        let crl = Arc::new(Crl::read(bytes, place).map_err(CrlError::Refused)?);
        if let Some(why) = crl.not_come(now) {
            return Err(CrlError::Refused(why));
        }
        let mut refused = None;
        let taken = self.locked(|| {
            if let Some(old) = self.on_disk(place)?.and_then(|known| known.crl) {
                if old.is_same(&crl) {
                    return Ok(ListTaken::Same(old));
                }
                refused = old.stays_before(&crl);
                if refused.is_some() {
                    return Ok(ListTaken::Same(old));
                }
            }
            self.write(place, Some(Arc::clone(&crl)))?;
            Ok(ListTaken::New(Arc::clone(&crl)))
        });
        let taken = taken.map_err(|e| self.error(e))?;
        match refused {
            Some(why) => Err(CrlError::Refused(format!(
                "{why}; to go back all the same, remove the file of {}",
                self.file(place).display()
            ))),
            None => Ok(taken),
        }
    }

    /// Where a place's list lies.
    fn file(&self, place: &Place) -> PathBuf {
        self.path.join(place.key() + SUFFIX)
    }

    fn on_disk(&self, place: &Place) -> io::Result<Option<Known>> {
        match fs::read(self.file(place)) {
            Ok(text) => Ok(Known::from_text(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Several programs write: one at a time compares and replaces.
    fn locked<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.path.exists() {
            // Lost in a crash, it is made and filled anew.
            fs::create_dir(&self.path)?;
            // The administrator's command may be first, and the milters must be able to write here.
            if let Some(owner) = self.path.parent().and_then(|above| fs::metadata(above).ok()) {
                let _ = chown(&self.path, Some(owner.uid()), Some(owner.gid()));
            }
        }
        let directory = File::open(&self.path)?;
        directory.lock()?;
        work()
    }

    fn write(&self, place: &Place, crl: Option<Arc<Crl>>) -> io::Result<()> {
        let text = Known { place: place.clone(), crl }.to_text().map_err(io::Error::other)?;
        replace(&self.file(place), |new| new.write_all(&text))
    }
}

impl Revocations for CrlDirectory {
    fn lists(&self) -> Result<Arc<Lists>, String> {
        CrlDirectory::lists(self).map_err(|e| e.to_string())
    }

    fn remark(&self, remark: &Remark<'_>) {
        match remark {
            Remark::ProfileBroken { provider, sha1, breaches } => {
                maillog::profile_broken(provider, sha1, breaches);
            }
            Remark::Sha1(common_name) => maillog::signed_with_sha1(common_name),
            Remark::PerhapsRevoked(words) => maillog::crl_warning(words),
            Remark::Skipped(url) => maillog::crl_skipped(url),
        }
    }
}
