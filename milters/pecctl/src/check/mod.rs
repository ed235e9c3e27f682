//! `pecctl check`: does what surrounds the milters keep the promises of PEC?
//!
//! Promise: [`TABLE`] is all that is looked at. Each check is a function of what [`Seen`] has read and
//! changes nothing; each finding is one line that says what, its value, what is allowed and how to mend it.
//! What could not be looked at is said too, and is never taken for good.

mod around;
mod dns;
mod dovecot;
mod leftovers;
mod mail;
mod mailboxes;
mod postfix;
mod seen;
mod shipped;
mod sockets;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use pec_core::clock::{Clock as _, SystemClock};
use seen::Seen;
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// One JSON object a finding.
    #[arg(long)]
    json: bool,

    /// Print the names of all checks, and what each looks at.
    #[arg(long, conflicts_with = "json")]
    list: bool,
}

/// One check.
struct Check {
    name: &'static str,
    looks_at: &'static str,
    run: fn(&Seen) -> Vec<Finding>,
}

/// All checks.
const TABLE: &[Check] = &[
    Check {
        name: "parameters",
        looks_at: "the pec_ parameters and what they must be to Postfix's",
        run: around::parameters,
    },
    Check {
        name: "main.cf",
        looks_at: "what postfix-conf/main.cf sets: aliases, relays, copies, rewriting, times",
        run: postfix::main_cf,
    },
    Check {
        name: "services",
        looks_at: "the services of postfix-conf/master.cf, and options of others that undo main.cf",
        run: postfix::services,
    },
    Check {
        name: "listeners",
        looks_at: "every smtpd: its milter, TLS, passwords, DSN; the one by which notices leave",
        run: postfix::listeners,
    },
    Check {
        name: "tls policy",
        looks_at: "smtp_tls_policy_maps, where the directory of providers is fetched",
        run: postfix::tls_policy,
    },
    Check {
        name: "times",
        looks_at: "Postfix's times and limits that contradict each other",
        run: postfix::times,
    },
    Check {
        name: "domains",
        looks_at: "domains that are certified and ordinary, or not ours in the directory",
        run: mail::domains,
    },
    Check {
        name: "maps",
        looks_at: "routes, catch-alls, and access tables that redirect, copy or drop",
        run: mail::maps,
    },
    Check {
        name: "dovecot",
        looks_at: "what makes Dovecot's 250 something else than stored and visible; catch-alls, quota, \
            listeners, passwords",
        run: dovecot::dovecot,
    },
    Check {
        name: "mailboxes",
        looks_at: "who answers for the mailboxes; the service mailboxes exist, others do not",
        run: mailboxes::mailboxes,
    },
    Check {
        name: "sockets",
        looks_at: "the programs' sockets, the mailbox server's, the way out: who may enter, does somebody \
            answer",
        run: sockets::sockets,
    },
    Check {
        name: "leftovers",
        looks_at: "what an earlier design needed and would do harm now",
        run: leftovers::leftovers,
    },
    Check { name: "database", looks_at: "PostgreSQL and its schema", run: around::database },
    Check { name: "scanner", looks_at: "clamd, its limits, the age of its signatures", run: around::scanner },
    Check {
        name: "keys",
        looks_at: "keys, certificates, directory: readable, fitting, 30 days (ours that signs: 60) from \
            their end",
        run: around::keys,
    },
    Check {
        name: "crls",
        looks_at: "the CAs' revocation lists that are known: there, and not too old",
        run: around::crls,
    },
    Check { name: "disk", looks_at: "room in the queue and the store", run: around::disk },
    Check { name: "clock", looks_at: "the system clock is within a second of UTC", run: around::clock },
    Check { name: "mx", looks_at: "the DNS sends the mail of our domains here", run: mail::mx },
];

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// It breaks a promise of PEC.
    Wrong,
    /// It could not be looked at.
    NotSeen,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    level: Level,
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
    fn wrong(
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

    fn not_seen(what: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::NotSeen,
            what: what.into(),
            value: why.into(),
            allowed: String::new(),
            mend: mend.into(),
        }
    }

    fn json(&self, check: &str) -> serde_json::Value {
        let level = if self.level == Level::Wrong { "wrong" } else { "not seen" };
        json!({"check": check, "level": level, "what": self.what, "value": self.value, "allowed": self.allowed, "mend": self.mend})
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
        f.write_str(&line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>())
    }
}

/// Exit status 0: nothing found; 1: something is wrong; 2: nothing is, and something could not be looked at.
fn status(findings: &[(&str, Finding)]) -> u8 {
    let has = |level| findings.iter().any(|(_, f)| f.level == level);
    if has(Level::Wrong) { 1 } else { u8::from(has(Level::NotSeen)) * 2 }
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.list {
        TABLE.iter().for_each(|check| println!("{:<12}{}", check.name, check.looks_at));
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    let seen = runtime.block_on(Seen::read(config_directory, SystemClock.now()))?;
    let findings: Vec<(&str, Finding)> =
        TABLE.iter().flat_map(|check| (check.run)(&seen).into_iter().map(|f| (check.name, f))).collect();
    for (check, finding) in &findings {
        if arguments.json {
            println!("{}", finding.json(check));
        } else {
            println!("{finding}");
        }
    }
    if findings.is_empty() && !arguments.json {
        println!("nothing found: {} checks", TABLE.len());
    }
    Ok(ExitCode::from(status(&findings)))
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

    #[test]
    fn the_exit_status_never_calls_good_what_was_not_seen() {
        let (wrong, unseen) = (Finding::wrong("a", "b", "c", ""), Finding::not_seen("a", "b", ""));
        assert_eq!(status(&[]), 0);
        assert_eq!(status(&[("x", unseen.clone())]), 2);
        assert_eq!(status(&[("x", unseen), ("y", wrong)]), 1);
    }

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = TABLE.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), TABLE.len());
    }
}
