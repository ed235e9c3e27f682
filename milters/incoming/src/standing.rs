//! Who may speak of whom: what a correct receipt or notice counts for.
//!
//! Promise: a presa in carico, an avvenuta consegna and a rilevazione virus count from the recipient's
//! provider; what the sender hears of his own provider counts from nobody else; a mancata consegna is either's.
//! A provider is who serves the domain in the directory in force, who served it when we accepted the message,
//! or at any time since. What its provider may not say counts for nothing; said in our own place, it reaches
//! nobody as what it says to be.

use std::collections::HashSet;
use std::sync::Arc;

use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Errore as Causa, Tipo};
use pec_core::directory::speaker::Speaker;
use pec_core::directory::{Attribute, Directory};
use pec_core::notices::anomalia::Errore;
use pec_state::authentic::Authentic;
use pec_state::rows::Sent;

use crate::decision::Former;
use crate::session::IncomingPoint;

/// For how long after what it certifies an envelope or a receipt may still be under way, in seconds: as long
/// as Postfix keeps it in the queue.
const UNDER_WAY: i64 = 5 * 86_400;

/// Of how many domains of a receipt it is asked who had them: more than a message has recipients.
const MOST_DOMAINS: usize = 1_000;

/// What a receipt counts for.
pub(crate) enum Standing {
    /// It counts for these recipients of an envelope of ours.
    Counts {
        sent: Authentic<Sent>,
        about: Vec<String>,
        /// How many others it names about whom it does not count.
        left_out: usize,
        /// Whose it is, by the directory.
        provider: String,
    },
    /// It changes nothing here. `why`: it says what its provider may not say.
    ForNothing { about: Vec<String>, why: Option<Errore> },
    /// Its provider says in our place what only we may say.
    InOurPlace(Errore),
    /// Nobody can say now: why.
    NotKnown(String),
}

/// Whose provider may say something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Voice {
    Recipient,
    Sender,
    Either,
}

fn voice(daticert: &Daticert) -> Voice {
    match daticert.tipo {
        Tipo::PresaInCarico | Tipo::AvvenutaConsegna | Tipo::RilevazioneVirus => Voice::Recipient,
        Tipo::ErroreConsegna if daticert.errore != Causa::Virus => Voice::Either,
        Tipo::ErroreConsegna
        | Tipo::Accettazione
        | Tipo::NonAccettazione
        | Tipo::PreavvisoErroreConsegna
        | Tipo::PostaCertificata => Voice::Sender,
    }
}

/// What a receipt says, and of whom.
struct Said<'a> {
    voice: Voice,
    speaker: &'a Speaker,
    sender: Option<Address>,
    /// Each once.
    about: Vec<String>,
    /// The recipients that the message had (keys), if we sent it.
    addressed: Option<HashSet<String>>,
}

impl Said<'_> {
    /// The record of any of `directories` by which the speaker serves that address' domain.
    fn serves<'d>(&self, directories: &'d [Arc<Directory>], address: &Address) -> Option<&'d str> {
        let domain = address.domain();
        directories.iter().find_map(|d| self.speaker.serves(d, &domain)).map(|record| record.name.as_str())
    }

    /// Whether its provider may say it.
    fn is_entitled(&self, directories: &[Arc<Directory>]) -> bool {
        let serves = |address: &Address| self.serves(directories, address).is_some();
        let of_recipient = || self.about.iter().filter_map(|r| Address::parse(r)).any(|r| serves(&r));
        let of_sender = || self.sender.as_ref().is_some_and(serves);
        match self.voice {
            Voice::Recipient => of_recipient(),
            Voice::Sender => of_sender(),
            Voice::Either => of_recipient() || of_sender(),
        }
    }

    /// Whether no other directory could make it count for more.
    fn is_settled(&self, directories: &[Arc<Directory>]) -> bool {
        let serves = |address: &Address| self.serves(directories, address).is_some();
        let of_recipients = || self.about.iter().filter_map(|r| Address::parse(r)).all(|r| serves(&r));
        let of_sender = || self.voice != Voice::Recipient && self.sender.as_ref().is_some_and(serves);
        self.is_entitled(directories) && (of_sender() || of_recipients())
    }

    /// The recipients of a message of ours about whom it counts, and the name of who serves the first.
    fn counts(&self, directories: &[Arc<Directory>]) -> Option<(Vec<String>, String)> {
        let addressed = self.addressed.as_ref().filter(|_| self.voice != Voice::Sender)?;
        let mut provider = None;
        let mut counts = self.about.clone();
        counts.retain(|recipient| {
            let Some(address) = Address::parse(recipient).filter(|a| addressed.contains(&a.key())) else {
                return false;
            };
            let name = self.serves(directories, &address);
            provider = provider.or(name);
            name.is_some()
        });
        Some((counts, provider?.to_owned()))
    }

    /// The domains on which it hangs who may say it.
    fn domains(&self) -> HashSet<String> {
        let recipients = self.about.iter().filter(|_| self.voice != Voice::Sender);
        let sender = self.sender.iter().filter(|_| self.voice != Voice::Recipient);
        recipients.filter_map(|r| Address::parse(r)).chain(sender.cloned()).map(|a| a.domain()).collect()
    }

    fn errore(&self, tipo: Tipo) -> Errore {
        let name = self.speaker.name();
        let of = self.about.iter().filter(|_| self.voice != Voice::Sender).map(String::as_str);
        let of_sender = self.sender.iter().filter(|_| self.voice != Voice::Recipient).map(Address::as_str);
        let whom = of.chain(of_sender).take(3).collect::<Vec<_>>().join(", ");
        let whom = if whom.is_empty() { "-".to_owned() } else { whom };
        Errore::new(
            format!("il gestore {name} non può emettere {tipo} per conto di {whom}: non ne è il gestore"),
            format!("{name} may not issue {tipo} for {whom}: it is not the provider of any of them"),
        )
    }
}

impl IncomingPoint {
    /// What a correct receipt of `speaker` counts for.
    pub(crate) async fn standing(&self, daticert: &Daticert, speaker: &Speaker) -> anyhow::Result<Standing> {
        let world = &self.world;
        let sent = world.database.sent_with_identifier(&daticert.identificativo).await?;
        let of_sent = sent.as_ref().and_then(|sent| Daticert::parse(sent.daticert.as_bytes()).ok());
        let mut seen = HashSet::new();
        let about = daticert.consegna.iter().chain(&daticert.ricezione);
        let said = Said {
            voice: voice(daticert),
            speaker,
            sender: Address::parse(&of_sent.as_ref().unwrap_or(daticert).mittente),
            about: about.filter(|r| seen.insert(r.to_ascii_lowercase())).cloned().collect(),
            addressed: of_sent.as_ref().map(recipients_of),
        };
        let now = world.directory.now();
        let served = sent.as_ref().and_then(|sent| sent.served.as_deref()).and_then(read_excerpt);
        let mut directories: Vec<Arc<Directory>> = std::iter::once(Arc::clone(&now)).chain(served).collect();
        if !said.is_settled(&directories) {
            let since = sent.as_ref().map_or_else(|| self.under_way_since(), |sent| sent.signed_at);
            let domains: Vec<String> = said.domains().into_iter().take(MOST_DOMAINS).collect();
            let formerly = self.formerly(&domains, since).await?;
            directories.extend(formerly.into_iter().map(|former| former.directory));
        }
        if !said.is_settled(&directories)
            && let Some(newer) = world.newer_directory(&now).await
        {
            directories.insert(0, newer);
        }
        Ok(match (said.counts(&directories), sent) {
            (Some((about, provider)), Some(sent)) => {
                let left_out = said.about.len() - about.len();
                Standing::Counts { sent, about, left_out, provider }
            }
            _ if said.is_entitled(&directories) => Standing::ForNothing { about: said.about, why: None },
            _ => self.not_entitled(daticert.tipo, said, &directories),
        })
    }

    fn not_entitled(&self, tipo: Tipo, said: Said<'_>, directories: &[Arc<Directory>]) -> Standing {
        let is_ours = |address: &Address| self.world.is_local(&address.domain());
        let is_known = |domain: &str| directories.iter().any(|d| d.has_domain(domain));
        if said.speaker.records().iter().any(|record| record.lacks(Attribute::Domain))
            && said.domains().iter().any(|domain| !is_known(domain))
        {
            return Standing::NotKnown(lacks_domains(said.speaker.name()));
        }
        let recipients: Vec<Address> = said.about.iter().filter_map(|r| Address::parse(r)).collect();
        let of_ours = recipients.iter().any(is_ours);
        let by_ours = said.sender.as_ref().is_some_and(is_ours);
        let is_our_place = match said.voice {
            Voice::Recipient => of_ours,
            Voice::Sender => by_ours,
            // Of a domain that nobody has it may well be the provider: the domain may be new.
            Voice::Either => of_ours || (by_ours && recipients.iter().any(|r| is_known(&r.domain()))),
        };
        let errore = said.errore(tipo);
        if is_our_place {
            Standing::InOurPlace(errore)
        } else {
            Standing::ForNothing { about: said.about, why: Some(errore) }
        }
    }

    /// What was made before that is under way no longer.
    pub(crate) fn under_way_since(&self) -> Moment {
        Moment::from_unix(self.world.clock.now().unix() - UNDER_WAY)
    }

    /// The parts of former directories by which somebody had one of `what`, domains or certificates' hashes, at
    /// some time since `since`, and has it no longer.
    pub(crate) async fn formerly(&self, what: &[String], since: Moment) -> anyhow::Result<Vec<Former>> {
        let rows = self.world.database.formerly(what, since).await?;
        let read = |(until, record): &(Moment, String)| {
            Some(Former { until: *until, directory: read_excerpt(record)? })
        };
        Ok(rows.iter().filter_map(read).collect())
    }
}

/// Why what hangs on a provider's domains waits.
pub(crate) fn lacks_domains(provider: &str) -> String {
    format!(
        "the record of {provider} in pec_directory_file has a bad value, so whether it serves a domain is not \
         known; `pecctl check` names the value"
    )
}

fn read_excerpt(ldif: &str) -> Option<Arc<Directory>> {
    Directory::parse(ldif).ok().map(Arc::new)
}

fn recipients_of(sent: &Daticert) -> HashSet<String> {
    sent.destinatari.iter().map(|d| d.indirizzo.to_ascii_lowercase()).collect()
}
