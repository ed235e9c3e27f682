//! Fetches the CAs' revocation lists. What lies in `pec_crl_directory` and what counts is pec-core's
//! (`smime::crl`).
//!
//! Promise: no answer, however slow, large or wrong, does more than a line in the log; the list from before
//! stays in force. A CA that does not answer holds up nobody who does not ask it, and of those who do each for
//! [`MAIL_PATIENCE`] at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pec_core::clock::Moment;
use pec_core::smime::crl::{Known, Place};
use pec_host::crl_directory::{CrlDirectory, CrlError, ListTaken};
use pec_host::http::{Http, Limits};
use pec_host::maillog;
use pec_state::event::Event;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::program_rows::ProgramRows;

/// How long a CA's server may take, from the connection to the last byte.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a message waits for what it needs. What takes longer goes on, for those to come.
const MAIL_PATIENCE: Duration = Duration::from_secs(30);

/// How many lists are fetched at once, by each program.
const AT_ONCE: usize = 16;

/// The largest list that is read, in bytes. It comes unencrypted and is taken apart before its signature can
/// be checked: this bounds the memory that anybody on the way can make that cost. Lists of the CAs of PEC
/// providers have some kB.
const LARGEST: u64 = 8 * 1024 * 1024;

/// How many times a server may send us elsewhere.
const REDIRECTS: u32 = 3;

/// For how long what failed is not tried again: by a message that waits for it, and on schedule. In seconds.
const RETRY_FOR_MAIL: i64 = 60;
const RETRY: i64 = 300;

/// Fetches lists into the directory.
#[derive(Clone)]
pub struct Crls {
    http: Http,
    rows: ProgramRows,
    directory: Arc<CrlDirectory>,
    /// What became of each place (its key).
    asked: Arc<Mutex<HashMap<String, Arc<Asked>>>>,
    free: Arc<Semaphore>,
}

/// When a place was asked last, and whether it had a list that counts. Held while it is asked: who waits for
/// the same takes what comes.
type Asked = tokio::sync::Mutex<Option<(Moment, bool)>>;

impl Crls {
    /// Who fetches into `directory`; each new list is noted in `rows`.
    pub fn new(directory: Arc<CrlDirectory>, rows: ProgramRows) -> Self {
        let limits = Limits { patience: PATIENCE, redirects: REDIRECTS, largest: LARGEST };
        Self {
            http: Http::new(limits),
            directory,
            asked: Arc::default(),
            free: Arc::new(Semaphore::new(AT_ONCE)),
            rows,
        }
    }

    /// Where they lie.
    pub fn directory(&self) -> &Arc<CrlDirectory> {
        &self.directory
    }

    /// Fetches what a message that came at `now` waits for: of each entry the first list that counts. Who
    /// waits meanwhile for the same finds it there; what has just failed is not tried again.
    pub async fn fetch_wanted(&self, wanted: &[Vec<Place>], now: Moment) {
        let fetching = wanted.iter().cloned().map(|places| {
            let this = self.clone();
            tokio::spawn(async move {
                let is_recent = |at: Moment| (0..RETRY_FOR_MAIL).contains(&(now.unix() - at.unix()));
                for place in places {
                    if this.ask(&place, now, |at, _| is_recent(at)).await {
                        break;
                    }
                }
            })
        });
        let fetching: Vec<_> = fetching.collect();
        let all = async {
            for task in fetching {
                // What happened is in the log.
                let _ = task.await;
            }
        };
        let _ = timeout(MAIL_PATIENCE, all).await;
    }

    /// Fetches, of all places that are known, those whose turn has come at `now`: after `every`, or sooner
    /// where it failed.
    pub async fn refresh_due(&self, every: Duration, now: Moment) -> Result<(), CrlError> {
        let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
        let mut tasks = JoinSet::new();
        for known in self.directory.lists()?.all() {
            let this = self.clone();
            tasks.spawn(async move {
                let after = |is_there: bool| match is_there {
                    true if is_too_old(&known, now) => every.min(RETRY),
                    true => every,
                    false => RETRY,
                };
                this.ask(&known.place, now, |at, is_there| now.unix() - at.unix() < after(is_there)).await
            });
        }
        tasks.join_all().await;
        Ok(())
    }

    /// Whether a place has a list that counts: as it was found last if that `still_holds`, fetched otherwise.
    async fn ask(&self, place: &Place, now: Moment, still_holds: impl Fn(Moment, bool) -> bool) -> bool {
        let asked = {
            let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(place.key()).or_default())
        };
        let mut last = asked.lock().await;
        if let Some((at, is_there)) = *last
            && still_holds(at, is_there)
        {
            return is_there;
        }
        let is_there = self.refresh(place, now).await.is_ok();
        *last = Some((now, is_there));
        is_there
    }

    /// Fetches lists, all at once. Each place with whether it had one that counts.
    pub async fn refresh_all(&self, known: Vec<Known>, now: Moment) -> Vec<(Place, bool)> {
        let mut tasks = JoinSet::new();
        for Known { place, .. } in known {
            let this = self.clone();
            tasks.spawn(async move {
                let is_there = this.refresh(&place, now).await.is_ok();
                (place, is_there)
            });
        }
        tasks.join_all().await
    }

    /// Fetches one list and puts it in force if it counts. What happened is in the log; the error says it
    /// too.
    pub async fn refresh(&self, place: &Place, now: Moment) -> Result<ListTaken, String> {
        let _free = self.free.acquire().await.map_err(|e| e.to_string())?;
        let (this, place_of_task) = (self.clone(), place.clone());
        let taken = tokio::task::spawn_blocking(move || {
            // Known first: where it cannot be fetched now, the schedule tries on.
            this.directory.note(&place_of_task).map_err(|e| e.to_string())?;
            let bytes = this.http.get(&place_of_task.url)?.body;
            this.directory.take(&place_of_task, &bytes, now).map_err(|e| e.to_string())
        });
        let taken = taken.await.unwrap_or_else(|e| Err(e.to_string()));
        match &taken {
            Ok(ListTaken::New(crl)) => {
                maillog::crl_new(&place.url, crl.this_update, crl.next_update, crl.len());
                let words = format!(
                    "{}: made at {}, good until {}, revoked certificates: {}",
                    place.url,
                    crl.this_update,
                    crl.next_update,
                    crl.len()
                );
                self.rows.note_once(
                    Event::ListaRevoche,
                    format!("{} {}", place.url, crl.this_update),
                    &words,
                );
            }
            Ok(ListTaken::Same(_)) => {}
            Err(why) => {
                let in_force =
                    self.directory.lists().ok().and_then(|lists| lists.get(place).map(|crl| crl.next_update));
                maillog::crl_refused(&place.url, why, in_force);
            }
        }
        taken
    }
}

fn is_too_old(known: &Known, now: Moment) -> bool {
    known.crl.as_ref().is_none_or(|crl| crl.next_update < now)
}
