//! Whether Postfix is configured so that mail could pass by this program.
//!
//! Promise: while it is, the program takes nothing: to each message it says 451, and the log names the parameter and
//! the mend. To stop would open the door. Once it is mended mail goes on by itself. What Postfix does is asked again
//! when main.cf or master.cf has changed, never for a message.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use pec_host::files::{Stamp, stamp};
use pec_host::maillog;
use pec_host::parameters::table;
use pec_host::postfix::Postfix;
use tokio::sync::Mutex;

/// How often it looks whether the files have changed.
const LOOK: Duration = Duration::from_secs(5);

/// Knows why nothing is to be taken now, if so. The default one never does.
#[derive(Debug, Clone, Default)]
pub struct Guard(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    closed: ArcSwapOption<String>,
    program: &'static str,
    directory: PathBuf,
    /// As main.cf and master.cf were when they were read last. One at a time reads.
    seen: Mutex<Option<[Option<Stamp>; 2]>>,
}

impl Guard {
    /// Why nothing is to be taken now. What was mended just before is seen at once.
    pub async fn why(&self) -> Option<Arc<String>> {
        let inner = self.0.as_ref()?;
        if inner.closed.load().is_some() {
            inner.look().await;
        }
        inner.closed.load_full()
    }

    /// Looks at the Postfix of this directory before anything is taken, and from time to time as long as anybody
    /// has a copy.
    pub(crate) async fn begin(program: &'static str, config_directory: &Path) -> Self {
        let (closed, directory) = (ArcSwapOption::default(), config_directory.to_owned());
        let inner = Arc::new(Inner { closed, program, directory, seen: Mutex::default() });
        inner.look().await;
        let held = Arc::downgrade(&inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(inner) = held.upgrade() else { return };
                inner.look().await;
            }
        });
        Self(Some(inner))
    }
}

impl Inner {
    async fn look(&self) {
        let mut seen = self.seen.lock().await;
        let stamp_of = |name| std::fs::metadata(self.directory.join(name)).ok().map(|m| stamp(&m));
        let now = ["main.cf", "master.cf"].map(stamp_of);
        if *seen == Some(now) {
            return;
        }
        let directory = self.directory.clone();
        let read = move || Postfix::read(&directory, table().iter().map(|p| p.name));
        let Ok(read) = tokio::task::spawn_blocking(read).await else { return };
        let postfix = match read {
            Ok(postfix) => postfix,
            // Half written, or no postconf: what was known holds, and it is asked again.
            Err(why) => return maillog::postfix_not_read(&why),
        };
        *seen = Some(now);
        let ways: Vec<String> = postfix
            .ways_past()
            .into_iter()
            .filter(|way| way.program == self.program)
            .map(|way| {
                let value = if way.value.is_empty() { "empty".to_owned() } else { way.value };
                format!("{} is {value}; mend: {}", way.what, way.mend)
            })
            .collect();
        let was_closed = self.closed.load().is_some();
        if ways.is_empty() {
            if was_closed {
                maillog::no_way_past(self.program);
            }
            self.closed.store(None);
        } else {
            ways.iter().for_each(|way| maillog::way_past(self.program, way));
            self.closed.store(Some(Arc::new(ways.join("; "))));
        }
    }
}
