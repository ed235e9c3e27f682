//! Who judges what was seen.
//!
//! Promise: [`TABLE`] is all that is judged. Each check is a pure function from [`Seen`] to findings: it asks
//! nobody, so its test needs no host. What could not be looked at is said too, and is never taken for good.

mod dns;
mod dovecot;
mod host;
mod keys;
mod leftovers;
mod mail;
mod mailboxes;
mod parameters;
mod postfix;
mod scanner;
pub(crate) mod shipped;
mod sockets;

use crate::check::finding::Finding;
use crate::check::look::Seen;

/// One check.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) looks_at: &'static str,
    judge: fn(&Seen) -> Vec<Finding>,
}

/// All checks.
pub(crate) const TABLE: &[Check] = &[
    Check {
        name: "parameters",
        looks_at: "the pec_ parameters and what they must be to Postfix's",
        judge: parameters::parameters,
    },
    Check {
        name: "main.cf",
        looks_at: "what postfix-conf/main.cf sets: aliases, relays, copies, rewriting, times",
        judge: postfix::main_cf,
    },
    Check {
        name: "services",
        looks_at: "the services of postfix-conf/master.cf, and options of others that undo main.cf",
        judge: postfix::services,
    },
    Check {
        name: "listeners",
        looks_at: "every smtpd: its milter, TLS, passwords, DSN; the one by which notices leave",
        judge: postfix::listeners,
    },
    Check {
        name: "tls policy",
        looks_at: "smtp_tls_policy_maps, where the directory of providers is fetched",
        judge: postfix::tls_policy,
    },
    Check {
        name: "times",
        looks_at: "Postfix's times and limits that contradict each other",
        judge: postfix::times,
    },
    Check {
        name: "domains",
        looks_at: "domains that are certified and ordinary, or not ours in the directory",
        judge: mail::domains,
    },
    Check { name: "directory", looks_at: "bad values in the directory of providers", judge: mail::directory },
    Check {
        name: "maps",
        looks_at: "routes, catch-alls, and access tables that redirect, copy or drop",
        judge: mail::maps,
    },
    Check {
        name: "dovecot",
        looks_at: "what makes Dovecot's 250 something else than stored and visible; catch-alls, quota, \
            listeners, passwords",
        judge: dovecot::dovecot,
    },
    Check {
        name: "mailboxes",
        looks_at: "who answers for the mailboxes; the service mailboxes exist, others do not",
        judge: mailboxes::mailboxes,
    },
    Check {
        name: "sockets",
        looks_at: "the programs' sockets, the mailbox server's, the way out: who may enter, does somebody \
            answer",
        judge: sockets::sockets,
    },
    Check {
        name: "leftovers",
        looks_at: "what an earlier design needed and would do harm now",
        judge: leftovers::leftovers,
    },
    Check { name: "database", looks_at: "PostgreSQL and its schema", judge: host::database },
    Check {
        name: "scanner",
        looks_at: "clamd, its limits, the age of its signatures",
        judge: scanner::scanner,
    },
    Check {
        name: "keys",
        looks_at: "keys, certificates, directory: readable, fitting, 30 days (ours that signs: 60) from \
            their end",
        judge: keys::keys,
    },
    Check {
        name: "crls",
        looks_at: "the CAs' revocation lists that are known: there, and not too old",
        judge: keys::crls,
    },
    Check { name: "disk", looks_at: "room in the queue and the store", judge: host::disk },
    Check { name: "clock", looks_at: "the system clock is within a second of UTC", judge: host::clock },
    Check { name: "mx", looks_at: "the DNS sends the mail of our domains here", judge: dns::mx },
];

/// All findings, each with the name of its check.
pub(crate) fn judge(seen: &Seen) -> Vec<(&'static str, Finding)> {
    TABLE.iter().flat_map(|check| (check.judge)(seen).into_iter().map(|f| (check.name, f))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = TABLE.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), TABLE.len());
    }
}
