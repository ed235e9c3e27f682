//! The virus scanner looked at from outside: at the start, and the age of its signatures every hour.
//!
//! Promise: signatures older than `pec_clamd_max_age` are a warning in the log and a row of the retained log,
//! once for each version of them, however many programs look and however often they start.

use std::sync::Arc;
use std::time::Duration;

use pec_core::clock::Clock;
use pec_host::maillog;
use pec_state::database::Database;
use pec_state::log::Entry;

use crate::scanner::{Examination, Scanner};

/// How often the age of the signatures is looked at.
const EVERY: Duration = Duration::from_secs(3600);

/// Looks at the scanner, and writes down what an administrator should know.
#[derive(Debug)]
pub struct ScannerWatch {
    pub(crate) scanner: Scanner,
    pub(crate) max_age: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) database: Database,
    pub(crate) provider_name: String,
}

impl ScannerWatch {
    /// Looks as long as there is a scanner.
    pub(crate) async fn keep_looking(self, largest: u64) {
        self.begin(largest).await;
        while self.scanner.is_there() {
            tokio::time::sleep(EVERY).await;
            // One that does not answer is named by every message that waits for it.
            if let Ok(examination) = self.scanner.version().await {
                self.judge_age(&examination).await;
            }
        }
    }

    /// The look at the start, with messages of up to `largest` bytes.
    pub async fn begin(&self, largest: u64) {
        let Some(examination) = self.scanner.check(largest).await else { return };
        if examination.signatures.is_none() {
            maillog::signatures_old("of no known date", self.max_age);
        }
        self.judge_age(&examination).await;
    }

    async fn judge_age(&self, examination: &Examination) {
        let now = self.clock.now();
        let Some(date) = examination.signatures.filter(|_| !examination.is_fresh(now, self.max_age)) else {
            return;
        };
        let age = format!("of {date}");
        let row = Entry::of_old_signatures(&examination.version, &age, &self.provider_name, now);
        // Where nothing can be written down, rather a warning too many.
        if !matches!(self.database.insert_log_once(&row).await, Ok(false)) {
            maillog::signatures_old(&age, self.max_age);
        }
    }
}
