//! What mail hangs on beside Postfix, and whether it answers.
//!
//! Promise: whoever listens hears of each change once: from answering to not answering, and back. Who finds
//! out says it here, beside the line in the log; where nobody listens (tests, pecctl) nothing happens.

use std::sync::OnceLock;
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

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// A bit for each thing that does not answer.
static DOWN: AtomicU8 = AtomicU8::new(0);

/// Has `listener` called with each change: why the thing does not answer; nothing: it answers again. The
/// first one holds.
pub fn listen(listener: impl Fn(Thing, Option<&str>) + Send + Sync + 'static) {
    let _ = LISTENER.set(Box::new(listener));
}

/// It does not answer, because of `why`.
pub fn down(thing: Thing, why: &str) {
    if DOWN.fetch_or(thing.bit(), Ordering::Relaxed) & thing.bit() == 0
        && let Some(listener) = LISTENER.get()
    {
        listener(thing, Some(why));
    }
}

/// It answers.
pub fn up(thing: Thing) {
    // Said with every statement and every scan: it costs no more than this look.
    if DOWN.load(Ordering::Relaxed) & thing.bit() != 0
        && DOWN.fetch_and(!thing.bit(), Ordering::Relaxed) & thing.bit() != 0
        && let Some(listener) = LISTENER.get()
    {
        listener(thing, None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn each_change_is_heard_once() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let writes = Arc::clone(&heard);
        listen(move |thing, why| writes.lock().unwrap().push((thing.name(), why.map(str::to_owned))));
        up(Thing::Token);
        down(Thing::Token, "pulled out");
        down(Thing::Token, "still out");
        down(Thing::Database, "gone");
        up(Thing::Token);
        up(Thing::Token);
        let expected = [
            ("token", Some("pulled out".to_owned())),
            ("database", Some("gone".to_owned())),
            ("token", None),
        ];
        assert_eq!(*heard.lock().unwrap(), expected);
    }
}
