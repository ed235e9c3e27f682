//! What is true, whatever the providers think.

use std::collections::{BTreeMap, BTreeSet};

use pec_core::daticert::{Daticert, TipoDestinatario};

/// (provider, kind, identifier, recipients): one fact.
pub(crate) type Key = (usize, String, String, String);

/// (provider, identifier, recipient): how an envelope stands with one recipient, for a provider.
pub(crate) type With = (usize, String, String);

/// An envelope that is in its provider's queue.
pub(crate) struct Letter {
    pub(crate) host: usize,
    pub(crate) daticert: Daticert,
    pub(crate) at: i64,
    pub(crate) infected: bool,
}

/// What a notice came out as.
pub(crate) struct Said {
    pub(crate) message_id: String,
    pub(crate) fields: Vec<String>,
    pub(crate) body: Vec<u8>,
    /// It is in the mailbox of whom it is for, or in the queue on its way there.
    pub(crate) is_handed_over: bool,
}

/// A message in a mailbox.
pub(crate) struct InMailbox {
    pub(crate) mailbox: String,
    pub(crate) message_id: String,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Truth {
    pub(crate) letters: BTreeMap<String, Letter>,
    /// As the providers have written them, each looked at when it came.
    pub(crate) facts: BTreeSet<Key>,
    /// Those that must be written in the end.
    pub(crate) due: BTreeSet<Key>,
    pub(crate) notices: BTreeMap<Key, Said>,
    /// Envelopes in a provider's queue for mailboxes of its own, by their ENVID: which one.
    pub(crate) custody: BTreeMap<String, String>,
    /// The facts that triggers make, by their recipients.
    pub(crate) triggers: BTreeMap<String, Key>,
    /// What is certified to a provider about a recipient of its envelope: presa in carico, an end.
    pub(crate) taken: BTreeSet<With>,
    pub(crate) over: BTreeSet<With>,
    /// Another provider has certified anything about it.
    pub(crate) elsewhere: BTreeSet<With>,
    pub(crate) delivered_elsewhere: BTreeSet<With>,
    /// (recipient, identifier): when a mailbox saved it.
    pub(crate) saved: BTreeMap<(String, String), Vec<i64>>,
    /// How often it could not be known whether a mailbox saved it.
    pub(crate) doubts: BTreeMap<(String, String), usize>,
    /// (ENVID, recipient): when the mailbox server first said that there is no such mailbox.
    pub(crate) absent: BTreeMap<(String, String), i64>,
    /// The same for what was not disturbed since.
    pub(crate) absent_since: BTreeMap<(String, String), i64>,
    /// Those who were said once not to exist, and do.
    pub(crate) hidden: BTreeSet<(String, String)>,
    /// (ENVID or trigger, recipient): what pec-delivery has said yes to.
    pub(crate) done: BTreeSet<(String, String)>,
    /// Notices that never left: their submission was not taken.
    pub(crate) unheard: BTreeSet<String>,
    /// Messages, by their Message-ID, that Postfix gave up after a day.
    pub(crate) given_up: BTreeSet<String>,
    /// (recipient, identifier): taken out of the queue by an administrator, since nobody could say whether
    /// the mailbox had it.
    pub(crate) removed: BTreeSet<(String, String)>,
    pub(crate) mail: Vec<InMailbox>,
}

impl Truth {
    /// A provider has written a fact.
    pub(crate) fn written(&mut self, key: Key) {
        let (host, kind, id, recipients) = &key;
        if self.letters.get(id).is_some_and(|letter| letter.host == *host) {
            for recipient in recipients.split(' ') {
                let with = (*host, id.clone(), recipient.to_owned());
                match kind.as_str() {
                    "presa-in-carico" => self.taken.insert(with),
                    "avvenuta-consegna" | "errore-consegna" => self.over.insert(with),
                    _ => false,
                };
            }
        }
        self.facts.insert(key);
    }

    /// A provider has written that a receipt of another one came.
    pub(crate) fn received(&mut self, host: usize, kind: &str, id: &str, recipients: &str) {
        for recipient in recipients.split(' ') {
            let with = (host, id.to_owned(), recipient.to_owned());
            self.elsewhere.insert(with.clone());
            if kind == "avvenuta-consegna" {
                self.delivered_elsewhere.insert(with.clone());
            }
            if kind == "presa-in-carico" {
                self.taken.insert(with)
            } else {
                self.over.insert(with)
            };
        }
    }

    /// Whether it is written how it ended for this recipient.
    pub(crate) fn outcome(&self, host: usize, id: &str, recipient: &str) -> Option<Key> {
        let key = |kind: &str| (host, kind.to_owned(), id.to_owned(), recipient.to_owned());
        [key("avvenuta-consegna"), key("errore-consegna")].into_iter().find(|key| self.facts.contains(key))
    }

    /// Whether the notice about a fact is where it has to go.
    pub(crate) fn is_told(&self, key: &Key) -> bool {
        self.notices.get(key).is_some_and(|said| said.is_handed_over)
    }

    /// The table of RFC 6109 s. 3.1.6: notices that are due to senders of `host` at `now`.
    pub(crate) fn deadlines(&self, host: usize, now: i64) -> Vec<Key> {
        let mut due = Vec::new();
        for (id, letter) in self.letters.iter().filter(|(_, letter)| letter.host == host) {
            if !self.facts.contains(&(host, "accettazione".to_owned(), id.clone(), String::new())) {
                continue;
            }
            for d in letter.daticert.destinatari.iter().filter(|d| d.tipo == TipoDestinatario::Certificato) {
                let with = (host, id.clone(), d.indirizzo.to_ascii_lowercase());
                if self.over.contains(&with) {
                    continue;
                }
                let elapsed = now - letter.at;
                if elapsed >= 12 * 3600 && !self.taken.contains(&with) {
                    due.push((host, "preavviso-12".to_owned(), id.clone(), with.2.clone()));
                }
                if elapsed >= 23 * 3600 {
                    due.push((host, "preavviso-24".to_owned(), id.clone(), with.2));
                }
            }
        }
        due
    }
}
