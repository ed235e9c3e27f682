//! What mail hangs on beside Postfix, and whether it answers.
//!
//! Promise: whoever listens hears of each change once: from answering to not answering, and back. Who finds
//! out says it here, beside the line in the log. A program has one [`Outages`], which all who ask others
//! share; one that nobody listens to (tests, pecctl) is as good.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What may not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// PostgreSQL.
    Database,
    /// The virus scanner.
    Scanner,
    /// The token with the signing key.
    Token,
}

impl Thing {
    /// As the log calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Scanner => "clamd",
            Self::Token => "token",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

type Listener = Box<dyn Fn(Thing, Option<&str>) + Send + Sync>;

/// What does not answer, as one program knows it.
#[derive(Clone, Default)]
pub struct Outages(Arc<Known>);

#[derive(Default)]
struct Known {
    listener: Option<Listener>,
    /// A bit for each thing that does not answer.
    down: AtomicU8,
}

impl Outages {
    /// `listener` is called with each change: why the thing does not answer; nothing: it answers again.
    pub fn told_to(listener: impl Fn(Thing, Option<&str>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Known { listener: Some(Box::new(listener)), down: AtomicU8::default() }))
    }

    /// It does not answer, because of `why`.
    pub fn down(&self, thing: Thing, why: &str) {
        if self.0.down.fetch_or(thing.bit(), Ordering::Relaxed) & thing.bit() == 0 {
            self.tell(thing, Some(why));
        }
    }

    /// It answers.
    pub fn up(&self, thing: Thing) {
        // Said with every statement and every scan: it costs no more than this look.
        if self.0.down.load(Ordering::Relaxed) & thing.bit() != 0
            && self.0.down.fetch_and(!thing.bit(), Ordering::Relaxed) & thing.bit() != 0
        {
            self.tell(thing, None);
        }
    }

    fn tell(&self, thing: Thing, why: Option<&str>) {
        if let Some(listener) = &self.0.listener {
            listener(thing, why);
        }
    }
}

impl fmt::Debug for Outages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outages").field(&self.0.down).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn each_change_is_heard_once() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let writes = Arc::clone(&heard);
        let outages = Outages::told_to(move |thing, why| {
            writes.lock().unwrap().push((thing.name(), why.map(str::to_owned)));
        });
        outages.up(Thing::Token);
        outages.down(Thing::Token, "pulled out");
        outages.clone().down(Thing::Token, "still out");
        outages.down(Thing::Database, "gone");
        outages.up(Thing::Token);
        outages.up(Thing::Token);
        let expected = [
            ("token", Some("pulled out".to_owned())),
            ("database", Some("gone".to_owned())),
            ("token", None),
        ];
        assert_eq!(*heard.lock().unwrap(), expected);
    }
}
