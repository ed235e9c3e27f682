//! What a check found, as a line for people and as JSON.

use std::fmt;

use pec_core::showable::showable;
use serde_json::json;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// It breaks a promise of PEC.
    Wrong,
    /// It could not be looked at.
    NotSeen,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// The thing: a parameter, a service, a file.
    what: String,
    /// What it is.
    value: String,
    /// What it must be, and why.
    allowed: String,
    /// What to do; a command where there is one.
    mend: String,
}

impl Finding {
    /// What is not as it must be.
    pub(crate) fn wrong(
        what: impl Into<String>,
        value: impl Into<String>,
        allowed: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Wrong,
            what: what.into(),
            value: value.into(),
            allowed: allowed.into(),
            mend: mend.into(),
        }
    }

    /// An error that says itself what is wrong and what is allowed.
    pub(crate) fn of_error(error: &str) -> Self {
        Self::wrong(error, "", "", "")
    }

    /// What could not be looked at, and why.
    pub(crate) fn not_seen(what: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::NotSeen,
            what: what.into(),
            value: why.into(),
            allowed: String::new(),
            mend: mend.into(),
        }
    }

    pub(crate) fn json(&self, check: &str) -> serde_json::Value {
        let level = if self.level == Level::Wrong { "wrong" } else { "not seen" };
        json!({
            "check": check,
            "level": level,
            "what": self.what,
            "value": self.value,
            "allowed": self.allowed,
            "mend": self.mend,
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self.level {
            // An error that says it all.
            Level::Wrong if self.allowed.is_empty() => format!("wrong: {}", self.what),
            Level::Wrong if self.value.is_empty() => {
                format!("wrong: {} is empty: it must be {}", self.what, self.allowed)
            }
            Level::Wrong => format!("wrong: {} = {}: it must be {}", self.what, self.value, self.allowed),
            Level::NotSeen => format!("not seen: {}: {}", self.what, self.value),
        };
        let line = if self.mend.is_empty() { line } else { format!("{line}. Mend: {}", self.mend) };
        // What it quotes may hold anything; it stays one line.
        f.write_str(&showable(&line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_that_says_what_its_value_what_is_allowed_and_how_to_mend_it() {
        let finding = Finding::wrong("relayhost", "[relay.test]\nx", "empty", "postconf -e 'relayhost ='");
        assert_eq!(
            finding.to_string(),
            "wrong: relayhost = [relay.test] x: it must be empty. Mend: postconf -e 'relayhost ='"
        );
        let unseen = Finding::not_seen("the MX of pec.alfa.test", "no answer", "");
        assert_eq!(unseen.to_string(), "not seen: the MX of pec.alfa.test: no answer");
    }
}
