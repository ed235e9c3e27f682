//! Fetches the CAs' revocation lists. What lies in `pec_crl_directory` and what counts is pec-core's
//! (`smime::crl`).
//!
//! Promise: no answer, however slow, large or wrong, does more than a line in the log; the list from before
//! stays in force.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pec_core::clock::Moment;
use pec_core::smime::crl::{Known, Place};
use pec_host::crl_directory::{CrlDirectory, CrlError, ListTaken};
use pec_host::http::{Http, Limits};
use pec_host::maillog;
use pec_state::event::Event;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::program_rows::ProgramRows;

/// How long a CA's server may take, from the connection to the last byte.
const PATIENCE: Duration = Duration::from_secs(20);

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
    /// When each place (its key) was asked last, and whether it had a list that counts.
    asked: Arc<Mutex<HashMap<String, (Moment, bool)>>>,
}

impl Crls {
    /// Who fetches into `directory`; each new list is noted in `rows`.
    pub fn new(directory: Arc<CrlDirectory>, rows: ProgramRows) -> Self {
        let limits = Limits { patience: PATIENCE, redirects: REDIRECTS, largest: LARGEST };
        Self { http: Http::new(limits), directory, asked: Arc::default(), rows }
    }

    /// Where they lie.
    pub fn directory(&self) -> &Arc<CrlDirectory> {
        &self.directory
    }

    /// Fetches what a message that came at `now` waits for: of each entry the first list that counts. Who
    /// waits meanwhile for the same finds it there; what has just failed is not tried again.
    pub async fn fetch_wanted(&self, wanted: &[Vec<Place>], now: Moment) {
        let mut asked = self.asked.lock().await;
        for places in wanted {
            for place in places {
                if asked
                    .get(&place.key())
                    .is_some_and(|(last, _)| (0..RETRY_FOR_MAIL).contains(&(now.unix() - last.unix())))
                {
                    continue;
                }
                let is_there = self.refresh(place, now).await.is_ok();
                asked.insert(place.key(), (now, is_there));
                if is_there {
                    break;
                }
            }
        }
    }

    /// Fetches, of all places that are known, those whose turn has come at `now`: after `every`, or sooner
    /// where it failed.
    pub async fn refresh_due(&self, every: Duration, now: Moment) -> Result<(), CrlError> {
        let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
        let is_due = |asked: &HashMap<String, (Moment, bool)>, known: &Known| match asked
            .get(&known.place.key())
        {
            Some((last, true)) => {
                now.unix() - last.unix() >= every.min(if is_too_old(known, now) { RETRY } else { i64::MAX })
            }
            Some((last, false)) => now.unix() - last.unix() >= RETRY,
            None => true,
        };
        let mut asked = self.asked.lock().await;
        let due: Vec<Known> =
            self.directory.lists()?.all().into_iter().filter(|known| is_due(&asked, known)).collect();
        for (place, is_there) in self.refresh_all(due, now).await {
            asked.insert(place.key(), (now, is_there));
        }
        Ok(())
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
