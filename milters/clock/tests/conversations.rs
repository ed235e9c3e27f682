//! Whole conversations between two providers, out of order and again and again: one notice for each fact.
//!
//! The points, pec-clock and PostgreSQL are the real ones, spoken to in the milter protocol and by SMTP. What is played is what
//! makes them repeat: Postfix's queues, whose deliveries happen in any order, lose the 250 on either side of the commit, are
//! tried again, split, given up after a day, brought again by strangers; mailboxes that have what they say they refuse; hours
//! that pass; rounds of the clock that die half-way. After each run what was true ([`Truth`]) is held against what the
//! providers wrote down and sent.
//!
//! A run is decided by its seed alone. `PEC_TEST_SEED=N` plays one, `PEC_TEST_CONVERSATIONS=N` that many (default: as many as
//! CI has time for); a failure prints its seed and what happened.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use bytes::Bytes;
use openssl::sha::sha256;
use pec_access::AccessPoint;
use pec_clock::Clockwork;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, TipoDestinatario};
use pec_core::envelope::{claimed_type, contents, signed_parts};
use pec_core::identifier::hex;
use pec_incoming::IncomingPoint;
use pec_notices::NoticesPoint;
use pec_register::audit::audit;
use pec_state::database::Database;
use pec_test_support::clamd::{self, VIRUS};
use pec_test_support::doveadm::Doveadm;
use pec_test_support::judges::openssl_verify;
use pec_test_support::network::{Host, Network, column};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::{Mail, Outcome, Queued, report, start, start_shared};
use pec_test_support::smtpd::Smtpd;

const ANNA: &str = "anna@pec.alfa.test";
const ALDO: &str = "aldo@studio.example";
const BRUNO: &str = "bruno@pec.beta.test";
const PROTOCOLLO: &str = "protocollo@comune.example";
const NESSUNO: &str = "nessuno@pec.beta.test";
const CARLA: &str = "carla@posta.test";
/// Whom the ordinary server does not know.
const IGNOTO: &str = "ignoto@posta.test";
/// A provider that takes envelopes and says nothing.
const MUTO: &str = "muto@pec.muto.test";
/// A provider that nobody answers for.
const SPENTO: &str = "spento@pec.spento.test";
/// Every mailbox of Alfa and Beta.
const MAILBOXES: [&str; 8] = [
    ANNA,
    ALDO,
    BRUNO,
    PROTOCOLLO,
    "ricevute@gestore.alfa.test",
    "ricevute@gestore.beta.test",
    "posta-certificata@gestore.alfa.test",
    "posta-certificata@gestore.beta.test",
];

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// How often something is played that should not happen.
const MISHAPS: usize = 40;

/// Chance, from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

/// The two providers.
const ALFA: usize = 0;
const BETA: usize = 1;

/// A provider: where its milters listen, and its clock.
struct Provider {
    name: String,
    database: String,
    access: SocketAddr,
    incoming: SocketAddr,
    internal: SocketAddr,
    triggers: SocketAddr,
    reports: SocketAddr,
    smtpd: Smtpd,
    clockwork: Clockwork,
    settings: pec_core::parameters::Settings,
}

/// A message in a queue.
struct InQueue {
    mail: Queued,
    envid: Option<String>,
    since: i64,
}

/// Where a delivery goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hop {
    Triggers,
    Internal,
    Mailboxes,
    Provider(usize),
    Ordinary,
    Muto,
    Spento,
}

/// What is still to happen.
enum Step {
    /// A client brings a message to the provider's submission.
    Submit { host: usize, mail: Mail },
    /// Somebody brings a message to port 25: an ordinary server, or whoever has a copy.
    Bring { host: usize, mail: Mail },
    /// A queue sends a message to one next hop.
    Deliver { host: usize, message: Arc<InQueue>, recipients: Vec<String>, hop: Hop },
    /// The bounce daemon writes a report: recipient, action, status.
    Report { host: usize, message: Arc<InQueue>, about: Vec<(String, &'static str, &'static str)> },
}

/// How the other side of a conversation hears of what was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    None,
    /// Nobody answers.
    Down,
    /// The milter has decided, and Postfix dies before it commits.
    NotCommitted,
    /// It is done, and the 250 is lost.
    NotTold,
}

/// (provider, kind, identifier, recipients): one fact.
type Key = (usize, String, String, String);

/// An envelope that is in its provider's queue.
struct Letter {
    host: usize,
    daticert: Daticert,
    at: i64,
    infected: bool,
}

/// What is true, whatever the providers think.
#[derive(Default)]
struct Truth {
    letters: BTreeMap<String, Letter>,
    facts: BTreeSet<Key>,
    /// What each notice came out as: Message-ID, header, body.
    notices: BTreeMap<Key, (String, Vec<String>, Vec<u8>)>,
    /// What is certified to a provider about a recipient: (provider, identifier, recipient), presa in carico or an end.
    taken: BTreeSet<(usize, String, String)>,
    over: BTreeSet<(usize, String, String)>,
    /// Another provider has certified anything about it.
    elsewhere: BTreeSet<(usize, String, String)>,
    delivered_elsewhere: BTreeSet<(usize, String, String)>,
    /// (recipient, identifier): when a mailbox saved it.
    saved: BTreeMap<(String, String), Vec<i64>>,
    /// Notices that never left: their submission was not taken.
    unheard: BTreeSet<String>,
    /// Messages in mailboxes: (mailbox, Message-ID, body).
    mail: Vec<(String, String, Vec<u8>)>,
    /// How many extra copies the mishaps can have made of an envelope.
    copies: HashMap<String, usize>,
}

/// (user, mark, second).
type Saved = Arc<Mutex<Vec<(String, String, i64)>>>;

struct Play {
    network: Network,
    hosts: Vec<Provider>,
    chance: Chance,
    now: i64,
    mishaps: usize,
    slow: bool,
    steps: Vec<Step>,
    passed: Vec<(usize, Mail)>,
    mailboxes: Saved,
    truth: Truth,
    story: Arc<Mutex<Vec<String>>>,
}

async fn provider(network: &Network, host: &Host) -> Provider {
    let notices = Arc::new(ArcSwap::from_pointee(NoticesPoint::new(network.world(host).await).unwrap()));
    let triggers = start_shared(Arc::clone(&notices), pec_notices::Door::Triggers).await;
    let incoming = Arc::new(ArcSwap::from_pointee(IncomingPoint::new(network.world(host).await)));
    let smtpd = Smtpd::start().await;
    smtpd.milter(Some(triggers));
    let settings = pec_core::parameters::Settings { notices_smtpd: smtpd.address, ..host.settings.clone() };
    Provider {
        name: settings.provider_name.clone(),
        database: settings.database.clone(),
        access: start(AccessPoint::new(network.world(host).await), ()).await,
        incoming: start_shared(Arc::clone(&incoming), pec_incoming::Door::Port25).await,
        internal: start_shared(incoming, pec_incoming::Door::Internal).await,
        reports: start_shared(notices, pec_notices::Door::Reports).await,
        triggers,
        smtpd,
        clockwork: clockwork(network, &settings).await,
        settings,
    }
}

async fn clockwork(network: &Network, settings: &pec_core::parameters::Settings) -> Clockwork {
    let database = Database::connect(settings, "pec-clock").await.unwrap();
    Clockwork::new(settings.clone(), network.clock.clone(), database).unwrap()
}

fn letter(from: &str, to: &[&str], extra: &str, text: &str) -> Mail {
    let text =
        format!("From: {from}\nTo: {}\nSubject: Prova\nMessage-ID: <{}@client.test>\n{extra}\n{text}\n", to.join(", "), text.replace(' ', "-"));
    Mail::submitted(from, to, text.as_bytes())
}

fn read(mail: &Mail) -> Option<Daticert> {
    let body = Bytes::from(mail.body.clone());
    let parts = signed_parts(&mail.header, &body).ok()?;
    Some(contents(&body, parts.content, claimed_type(&mail.header)?).unwrap().daticert)
}

/// The kind of a notice as the table `fact` spells it.
fn kind_of(daticert: &Daticert) -> String {
    match daticert.tipo.as_str() {
        "preavviso-errore-consegna" if daticert.errore_esteso.as_deref().unwrap().starts_with("5.4.1") => "preavviso-24".to_owned(),
        "preavviso-errore-consegna" => "preavviso-12".to_owned(),
        kind => kind.to_owned(),
    }
}

/// Whom it is about, as the table `fact` has it.
fn about(daticert: &Daticert) -> String {
    let mut about: Vec<String> = daticert.consegna.iter().chain(&daticert.ricezione).map(|r| r.to_ascii_lowercase()).collect();
    about.sort();
    about.join(" ")
}

fn bare(path: &str) -> String {
    path.trim_matches(['<', '>']).to_ascii_lowercase()
}

fn domain(recipient: &str) -> &str {
    recipient.split_once('@').unwrap().1
}

impl Play {
    async fn new(seed: u64, story: Arc<Mutex<Vec<String>>>) -> Self {
        let mut network = Network::new().await;
        let ldif = network.directory.path().join("igpec.ldif");
        let record = format!(
            "\ndn: providerName=Muto PEC,o=postacert\nobjectclass: provider\nproviderName: Muto PEC\nproviderCertificateHash: {}\n\
             mailReceipt: ricevute@gestore.muto.test\nmanagedDomains: pec.muto.test\nmanagedDomains: pec.spento.test\n",
            "1".repeat(40)
        );
        OpenOptions::new().append(true).open(ldif).unwrap().write_all(record.as_bytes()).unwrap();
        let mailboxes = Saved::default();
        let doveadm = Doveadm::start().await;
        let saved = Arc::clone(&mailboxes);
        doveadm.answers_by(move |request| {
            let user = MAILBOXES.iter().find(|user| request.contains(&format!("\"{user}\"")))?;
            Some(saved.lock().unwrap().iter().filter(|(u, mark, _)| u == user && request.contains(mark.as_str())).map(|s| s.2).collect())
        });
        let url = format!("http://{}/doveadm/v1", doveadm.address);
        network.alfa.settings.doveadm_url.clone_from(&url);
        network.beta.settings.doveadm_url = url;
        // Alfa's scanner knows nothing.
        network.beta.settings.clamd = Some(clamd::start().await);
        let hosts = vec![provider(&network, &network.alfa).await, provider(&network, &network.beta).await];
        let mut chance = Chance(seed);
        let slow = chance.below(3) > 0;
        let truth = Truth::default();
        Self { network, hosts, chance, now: NOW, mishaps: MISHAPS, slow, steps: Vec::new(), passed: Vec::new(), mailboxes, truth, story }
    }

    fn tell(&self, what: &str) {
        self.story.lock().unwrap().push(format!("{:>7} {what}", self.now - NOW));
    }

    fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        self.network.clock.set(Moment::from_unix(self.now));
    }

    fn mishap(&mut self) -> Mishap {
        if self.mishaps == 0 {
            return Mishap::None;
        }
        let mishap = match self.chance.below(10) {
            0 => Mishap::Down,
            1 => Mishap::NotCommitted,
            2 | 3 => Mishap::NotTold,
            _ => return Mishap::None,
        };
        self.mishaps -= 1;
        mishap
    }

    /// One step, whichever it may be; time passes.
    async fn step(&mut self) {
        let jump = if self.slow && self.mishaps > 0 && self.chance.below(12) == 0 { self.chance.below(7) as i64 * HOUR } else { 0 };
        let seconds = self.chance.below(90) as i64;
        self.pass(jump + seconds);
        if self.mishaps > 0 {
            match self.chance.below(24) {
                0 | 1 => {
                    let host = self.chance.below(2);
                    self.round(host).await;
                }
                2 if !self.passed.is_empty() => {
                    self.mishaps -= 1;
                    let at = self.chance.below(self.passed.len());
                    let (host, mail) = self.passed[at].clone();
                    self.steps.push(Step::Bring { host, mail });
                }
                _ => {}
            }
        }
        let at = self.chance.below(self.steps.len());
        let step = self.steps.swap_remove(at);
        self.perform(step).await;
    }

    async fn perform(&mut self, step: Step) {
        match step {
            Step::Submit { host, mail } => self.submit(host, mail).await,
            Step::Bring { host, mail } => {
                let mishap = self.mishap();
                if !self.arrive(host, &mail, mishap).await {
                    self.steps.push(Step::Bring { host, mail });
                }
            }
            Step::Deliver { host, message, recipients, hop } => self.deliver(host, message, recipients, hop).await,
            Step::Report { host, message, about } => self.report(host, message, about).await,
        }
    }

    async fn submit(&mut self, host: usize, mail: Mail) {
        let mishap = self.mishap();
        self.tell(&format!("{}: submission for {:?}: {mishap:?}", self.hosts[host].name, mail.recipients));
        if mishap != Mishap::Down {
            let queued = mail.give_to(self.hosts[host].access).await.queued();
            let daticert = read(&queued.mail).unwrap();
            if queued.mail.header.first("X-Ricevuta").is_some() {
                // The fact is the refusal, whether the client hears of it or not; then it comes again, and that is another one.
                let key = (host, "non-accettazione".to_owned(), daticert.identificativo.clone(), String::new());
                assert!(self.truth.facts.insert(key), "a refusal with an identifier that is taken");
                if mishap == Mishap::NotCommitted {
                    self.truth.unheard.insert(daticert.identificativo.clone());
                }
                self.witness(host, &queued);
            } else if mishap != Mishap::NotCommitted {
                let infected = String::from_utf8_lossy(&mail.body).contains(VIRUS);
                let key = (host, "accettazione".to_owned(), daticert.identificativo.clone(), String::new());
                self.truth.facts.insert(key);
                self.truth.letters.insert(daticert.identificativo.clone(), Letter { host, at: daticert.data.unix(), daticert, infected });
            }
            if mishap != Mishap::NotCommitted {
                self.commit(host, queued);
            }
        }
        if mishap != Mishap::None {
            self.steps.push(Step::Submit { host, mail });
        }
    }

    /// A message is in a queue: what its queue manager has to do.
    fn commit(&mut self, host: usize, queued: Queued) {
        let envid = queued.sender_parameters.as_ref().and_then(|p| p.split_once("ENVID=")).map(|(_, id)| id.to_owned());
        let message = Arc::new(InQueue { envid, since: self.now, mail: queued });
        let mut by_domain: Vec<(Hop, Vec<String>)> = Vec::new();
        for path in &message.mail.mail.recipients {
            let recipient = bare(path);
            let hop = match domain(&recipient) {
                "notices.pec.internal" => Hop::Triggers,
                "ricezione.pec.internal" => Hop::Internal,
                "pec.muto.test" | "gestore.muto.test" => Hop::Muto,
                "pec.spento.test" => Hop::Spento,
                domain => match self.hosts.iter().position(|h| h.settings.local_domains.contains(domain)) {
                    Some(other) if other == host => Hop::Mailboxes,
                    Some(other) => Hop::Provider(other),
                    None => Hop::Ordinary,
                },
            };
            // One transaction for each domain, and sometimes for each mailbox.
            let alone = hop == Hop::Triggers || hop == Hop::Mailboxes && self.chance.below(2) == 0;
            let same = |(h, r): &&mut (Hop, Vec<String>)| !alone && *h == hop && (hop == Hop::Mailboxes || domain(&r[0]) == domain(&recipient));
            match by_domain.iter_mut().find(same) {
                Some((_, recipients)) => recipients.push(recipient),
                None => by_domain.push((hop, vec![recipient])),
            }
        }
        for (hop, recipients) in by_domain {
            self.steps.push(Step::Deliver { host, message: Arc::clone(&message), recipients, hop });
        }
    }

    async fn deliver(&mut self, host: usize, message: Arc<InQueue>, recipients: Vec<String>, hop: Hop) {
        let mishap = self.mishap();
        self.tell(&format!("{}: {} to {hop:?} {recipients:?}: {mishap:?}", self.hosts[host].name, said(&message.mail.mail)));
        let mut mail = message.mail.copy_for(&recipients[0]);
        mail.recipients = recipients.iter().map(|r| format!("<{r}>")).collect();
        let mut failed = Vec::new();
        let done = match hop {
            Hop::Triggers => self.bring_round(host, &mail, mishap).await,
            Hop::Internal => self.arrive_internally(host, &mail, mishap).await,
            Hop::Provider(other) => {
                let done = self.arrive(other, &mail, mishap).await;
                if done {
                    self.passed.push((other, mail.clone()));
                }
                done
            }
            Hop::Mailboxes => match self.save(&mail, &recipients, mishap) {
                Some(about) => {
                    self.report_each(host, &message, &about);
                    true
                }
                None => false,
            },
            Hop::Ordinary => {
                let unknown = recipients.iter().filter(|r| *r == IGNOTO).map(|r| (r.clone(), "failed", "5.1.1"));
                failed.extend(unknown);
                mishap != Mishap::Down
            }
            Hop::Muto => mishap != Mishap::Down,
            Hop::Spento => false,
        };
        if !failed.is_empty() && done {
            self.steps.push(Step::Report { host, message, about: failed });
        } else if !done {
            // The end of the queue's patience is seen at an attempt. What goes to a milter is never given up.
            if self.now - message.since >= DAY && !matches!(hop, Hop::Triggers | Hop::Internal) {
                self.tell("given up");
                let about = recipients.into_iter().map(|r| (r, "failed", "4.4.1")).collect();
                self.steps.push(Step::Report { host, message, about });
            } else {
                self.steps.push(Step::Deliver { host, message, recipients, hop });
            }
        }
    }

    /// A copy comes to pec-notices. `true`: its sender knows that it is taken.
    async fn bring_round(&mut self, host: usize, mail: &Mail, mishap: Mishap) -> bool {
        if mishap == Mishap::Down {
            return false;
        }
        match mail.give_to(self.hosts[host].triggers).await {
            Outcome::Queued(queued) => {
                self.witness(host, &queued);
                if mishap == Mishap::NotCommitted {
                    return false;
                }
                self.commit(host, *queued);
            }
            // pec-clock has started it and knows that it is in the queue.
            Outcome::Discarded => {}
            other => panic!("a trigger is not taken: {other:?}"),
        }
        mishap == Mishap::None
    }

    async fn arrive_internally(&mut self, host: usize, mail: &Mail, mishap: Mishap) -> bool {
        if mishap == Mishap::Down {
            return false;
        }
        match mail.give_to(self.hosts[host].internal).await {
            Outcome::Queued(_) if mishap == Mishap::NotCommitted => return false,
            Outcome::Queued(queued) => self.take(host, mail, *queued),
            Outcome::Discarded => {}
            other => panic!("an own envelope is not taken: {other:?}"),
        }
        mishap == Mishap::None
    }

    /// A message comes to port 25. `true`: its sender knows that it is taken.
    async fn arrive(&mut self, host: usize, mail: &Mail, mishap: Mishap) -> bool {
        if mishap == Mishap::Down {
            return false;
        }
        let kind = mail.header.text("X-Ricevuta");
        let outcome = mail.give_to(self.hosts[host].incoming).await;
        if let (Some(kind), Outcome::Queued(_)) = (&kind, &outcome) {
            self.certified_by_another(host, kind, &read(mail).unwrap());
        }
        match outcome {
            Outcome::Queued(_) if mishap == Mishap::NotCommitted => return false,
            Outcome::Queued(queued) if mail.header.text("X-Trasporto").as_deref() == Some("posta-certificata") => self.take(host, mail, *queued),
            Outcome::Queued(queued) => {
                if kind.is_some() {
                    assert_eq!(queued.mail.body, mail.body, "a receipt passes untouched");
                } else {
                    assert_eq!(queued.mail.header.text("X-Trasporto").as_deref(), Some("errore"), "ordinary mail is in an envelope that says so");
                    let whole = mail.to_bytes();
                    assert!(queued.mail.body.windows(whole.len()).any(|w| w == whole), "which has it entire");
                }
                self.commit(host, *queued);
            }
            Outcome::Discarded => {
                assert!(mail.header.text("X-Trasporto").is_some(), "only an envelope that is in custody is dropped");
            }
            other => panic!("{} is not taken: {other:?}", said(mail)),
        }
        mishap == Mishap::None
    }

    /// An envelope is in the queue of its recipients' provider; `mail` as it came.
    fn take(&mut self, host: usize, mail: &Mail, queued: Queued) {
        let id = bare(&mail.header.text("Message-ID").unwrap());
        // Beta's scanner finds what Alfa's does not know; what goes the internal way is not scanned again.
        let infected = host == BETA && self.truth.letters[&id].infected;
        let recipients = if infected { &mail.recipients } else { &queued.mail.recipients };
        let mut keys: Vec<String> = recipients.iter().map(|r| bare(r)).filter(|r| !r.ends_with(".pec.internal")).collect();
        keys.sort();
        *self.truth.copies.entry(id.clone()).or_default() += 1;
        self.truth.facts.insert((host, "presa-in-carico".to_owned(), id.clone(), keys.join(" ")));
        if infected {
            assert!(queued.mail.recipients.iter().all(|r| r.ends_with("@notices.pec.internal>")), "a virus is delivered to nobody");
            for recipient in keys {
                self.truth.facts.insert((host, "rilevazione-virus".to_owned(), id.clone(), recipient));
            }
        }
        self.commit(host, queued);
    }

    /// A receipt of another provider reached this one's Incoming Point.
    fn certified_by_another(&mut self, host: usize, kind: &str, daticert: &Daticert) {
        for recipient in about(daticert).split(' ') {
            let what = (host, daticert.identificativo.clone(), recipient.to_owned());
            let truth = &mut self.truth;
            truth.elsewhere.insert(what.clone());
            match kind {
                "presa-in-carico" => {
                    truth.taken.insert(what);
                }
                "avvenuta-consegna" => {
                    truth.delivered_elsewhere.insert(what.clone());
                    truth.over.insert(what);
                }
                "rilevazione-virus" => {
                    if !truth.delivered_elsewhere.contains(&what) {
                        truth.facts.insert((host, "errore-consegna".to_owned(), what.1.clone(), what.2.clone()));
                    }
                    truth.over.insert(what);
                }
                _ => {
                    truth.over.insert(what);
                }
            }
        }
    }

    /// Dovecot. `None`: its client does not know what became of it.
    fn save(&mut self, mail: &Mail, recipients: &[String], mishap: Mishap) -> Option<Vec<(String, &'static str, &'static str)>> {
        if mishap == Mishap::Down {
            return None;
        }
        let mark = mail.header.text("X-Pec-Custody");
        let mut about = Vec::new();
        for recipient in recipients {
            if !MAILBOXES.contains(&recipient.as_str()) {
                about.push((recipient.clone(), "failed", "5.1.1"));
                continue;
            }
            if let Some(mark) = &mark {
                let before = self.mailboxes.lock().unwrap().iter().any(|(user, m, _)| user == recipient && m == mark);
                // What fills the mailbox is the first copy.
                if before && self.chance.below(2) == 0 {
                    self.tell(&format!("the mailbox of {recipient} is full"));
                    about.push((recipient.clone(), "failed", "5.2.2"));
                    continue;
                }
                self.mailboxes.lock().unwrap().push((recipient.clone(), mark.clone(), self.now));
                let id = bare(&mail.header.text("Message-ID").unwrap());
                self.truth.saved.entry((recipient.clone(), id)).or_default().push(self.now);
            }
            let message_id = mail.header.text("Message-ID").unwrap_or_default().trim_matches(['<', '>']).to_owned();
            self.truth.mail.push((recipient.clone(), message_id, mail.body.clone()));
            about.push((recipient.clone(), "relayed", "2.0.0"));
        }
        if mishap != Mishap::None {
            if let Some(copies) = mail.header.text("Message-ID").and_then(|id| self.truth.copies.get_mut(&bare(&id))) {
                *copies += 1;
            }
            return None;
        }
        Some(about)
    }

    /// Postfix reports on what it was asked to report on: successes in one message, failures in another.
    fn report_each(&mut self, host: usize, message: &Arc<InQueue>, about: &[(String, &'static str, &'static str)]) {
        let notify = |r: &str| message.mail.added.iter().find(|(path, _)| bare(path) == r).and_then(|(_, parameters)| parameters.clone());
        // What comes to port 25 has both (pec-notify-both); what a milter adds has what the milter says.
        let envelope = message.mail.mail.header.first("X-Pec-Custody").is_some();
        for success in [true, false] {
            let wanted = |(r, action, _): &&(String, &str, &str)| {
                (*action == "relayed") == success && (!success || envelope && notify(r).is_none_or(|n| n.contains("SUCCESS")))
            };
            let part: Vec<_> = about.iter().filter(wanted).cloned().collect();
            if !part.is_empty() {
                self.steps.push(Step::Report { host, message: Arc::clone(message), about: part });
            }
        }
    }

    async fn report(&mut self, host: usize, message: Arc<InQueue>, about: Vec<(String, &'static str, &'static str)>) {
        let mishap = self.mishap();
        self.tell(&format!("{}: report on {} {about:?}: {mishap:?}", self.hosts[host].name, said(&message.mail.mail)));
        if mishap == Mishap::Down {
            self.steps.push(Step::Report { host, message, about });
            return;
        }
        let lines: Vec<_> = about.iter().map(|(r, action, status)| (r.as_str(), *action, *status)).collect();
        let written = report(message.envid.as_deref(), &message.mail.mail, &lines, self.now);
        self.what_the_report_means(host, &message, &about);
        match written.give_to(self.hosts[host].reports).await {
            Outcome::Queued(queued) => {
                if queued.mail.header.first("X-Ricevuta").is_some() {
                    self.witness(host, &queued);
                }
                if mishap != Mishap::NotCommitted {
                    self.commit(host, *queued);
                }
            }
            Outcome::Discarded => {}
            other => panic!("a report is not taken: {other:?}"),
        }
        if mishap != Mishap::None {
            self.steps.push(Step::Report { host, message, about });
        }
    }

    /// Which facts there are now.
    fn what_the_report_means(&mut self, host: usize, message: &InQueue, about: &[(String, &'static str, &'static str)]) {
        let mail = &message.mail.mail;
        if mail.header.text("X-Trasporto").as_deref() != Some("posta-certificata") {
            return;
        }
        let id = bare(&mail.header.text("Message-ID").unwrap());
        let in_custody = mail.header.first("X-Pec-Custody").is_some();
        for (recipient, _, _) in about {
            let what = (host, id.clone(), recipient.clone());
            let has_it = self.truth.saved.contains_key(&(recipient.clone(), id.clone()));
            let kind = if in_custody && has_it {
                "avvenuta-consegna"
            } else if in_custody {
                "errore-consegna"
            } else {
                let tipo = self.truth.letters[&id].daticert.destinatari.iter().find(|d| d.indirizzo.eq_ignore_ascii_case(recipient)).unwrap().tipo;
                // The other provider has it: nothing failed. Of ordinary mail PEC certifies nothing.
                if self.truth.elsewhere.contains(&what) || tipo == TipoDestinatario::Esterno {
                    continue;
                }
                "errore-consegna"
            };
            self.truth.facts.insert((host, kind.to_owned(), id.clone(), recipient.clone()));
            if self.truth.letters[&id].host == host {
                self.truth.over.insert(what);
            }
        }
    }

    /// A notice was made: its fact is one, and it is what it was before.
    fn witness(&mut self, host: usize, queued: &Queued) {
        let Some(daticert) = read(&queued.mail) else { panic!("a notice that cannot be read") };
        let key: Key = (host, kind_of(&daticert), daticert.identificativo.clone(), about(&daticert));
        self.tell(&format!("    {key:?}"));
        assert!(self.truth.facts.contains(&key), "a notice without its fact: {key:?}");
        let header = &queued.mail.header;
        let mut fields: Vec<String> = header.fields().iter().map(|f| format!("{}:{}", f.name, String::from_utf8_lossy(&f.value))).collect();
        fields.sort();
        let message_id = bare(&header.text("Message-ID").unwrap());
        if let Some(before) = self.truth.notices.get(&key) {
            assert_eq!((&before.0, &before.1), (&message_id, &fields), "{key:?} again");
            assert!(before.2 == queued.mail.body, "{key:?} again, and other bytes");
            return;
        }
        openssl_verify(&queued.mail.to_bytes(), &self.network.pki.ca_file()).unwrap();
        if key.1 == "errore-consegna" {
            let positive = (key.0, "avvenuta-consegna".to_owned(), key.2.clone(), key.3.clone());
            assert!(!self.truth.notices.contains_key(&positive), "a failure after the delivery: {key:?}");
        }
        if key.1 == "avvenuta-consegna" {
            let times = &self.truth.saved[&(key.3.clone(), key.2.clone())];
            assert!(times.contains(&daticert.data.unix()), "{key:?} at {} and not at {times:?}", daticert.data.unix());
        }
        if self.truth.letters.get(&key.2).is_some_and(|letter| letter.host == host) {
            for recipient in key.3.split(' ') {
                let what = (host, key.2.clone(), recipient.to_owned());
                match key.1.as_str() {
                    "presa-in-carico" => self.truth.taken.insert(what),
                    "avvenuta-consegna" | "errore-consegna" => self.truth.over.insert(what),
                    _ => false,
                };
            }
        }
        self.truth.notices.insert(key, (message_id, fields, queued.mail.body.clone()));
    }

    /// A round of pec-clock: the table of RFC 6109 s. 3.1.6 by what is certified now.
    async fn round(&mut self, host: usize) {
        let mishap = self.mishap();
        self.tell(&format!("{}: pec-clock looks: {mishap:?}", self.hosts[host].name));
        if mishap != Mishap::Down {
            for (id, letter) in
                self.truth.letters.iter().filter(|(id, l)| {
                    l.host == host && self.truth.notices.contains_key(&(host, "accettazione".to_owned(), (*id).clone(), String::new()))
                })
            {
                let elapsed = self.now - letter.at;
                for d in letter.daticert.destinatari.iter().filter(|d| d.tipo == TipoDestinatario::Certificato) {
                    let what = (host, id.clone(), d.indirizzo.to_ascii_lowercase());
                    for (kind, due) in [("preavviso-12", 12 * HOUR), ("preavviso-24", 23 * HOUR)] {
                        let first = kind == "preavviso-12";
                        let is_due = elapsed >= due && !self.truth.over.contains(&what) && !(first && self.truth.taken.contains(&what));
                        if is_due {
                            self.truth.facts.insert((host, kind.to_owned(), what.1.clone(), what.2.clone()));
                        }
                    }
                }
            }
        }
        let provider = &mut self.hosts[host];
        match mishap {
            Mishap::None => {}
            Mishap::Down => provider.smtpd.milter(None),
            Mishap::NotCommitted => provider.smtpd.forget(1),
            Mishap::NotTold => provider.smtpd.lose_answers(1),
        }
        let _ = provider.clockwork.round(&AtomicBool::new(false)).await;
        provider.smtpd.milter(Some(provider.triggers));
        provider.smtpd.forget(0);
        provider.smtpd.lose_answers(0);
        let (queued, forgotten) = (provider.smtpd.queued(), provider.smtpd.forgotten());
        for queued in &forgotten {
            self.witness(host, queued);
        }
        for queued in queued {
            self.witness(host, &queued);
            self.commit(host, queued);
        }
        // Sometimes the program ends after it.
        if mishap != Mishap::None && self.chance.below(2) == 0 {
            let settings = self.hosts[host].settings.clone();
            self.hosts[host].clockwork = clockwork(&self.network, &settings).await;
        }
    }
}

impl Play {
    /// Everything that can still happen happens, and nothing goes wrong any more.
    async fn settle(&mut self) {
        self.mishaps = 0;
        while let Some(at) = self.steps.iter().position(|step| !matches!(step, Step::Deliver { hop: Hop::Spento, .. })) {
            self.pass(1);
            let step = self.steps.remove(at);
            self.perform(step).await;
        }
    }

    /// The day after, and what must be true then.
    async fn finish(&mut self) {
        self.settle().await;
        let last = self.truth.letters.values().map(|letter| letter.at).max().unwrap();
        // Triggers that nobody brings count as lost ten minutes after they were missed.
        for elapsed in [0, HOUR, 2 * HOUR, 12 * HOUR + 60, 23 * HOUR + 60, 24 * HOUR + HOUR] {
            self.pass((last + elapsed - self.now).max(1200));
            for host in [ALFA, BETA] {
                self.round(host).await;
            }
            self.settle().await;
        }
        for step in std::mem::take(&mut self.steps) {
            self.perform(step).await;
        }
        self.settle().await;
        for host in [ALFA, BETA] {
            self.round(host).await;
        }
        self.settle().await;
        assert!(self.steps.is_empty(), "something is still under way");
        self.what_is_written_is_true().await;
        self.no_rule_is_broken().await;
        self.everybody_was_told();
    }

    /// Asked as pec-clock asks; nobody seals here.
    async fn no_rule_is_broken(&self) {
        for provider in &self.hosts {
            let (client, connection) = tokio_postgres::connect(&provider.database, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let mut broken = audit(&client, i64::MIN, Moment::from_unix(self.now)).await.unwrap();
            broken.retain(|violation| violation.rule != "everything-is-sealed");
            assert_eq!(broken, []);
        }
    }

    async fn what_is_written_is_true(&self) {
        let mut written = BTreeSet::new();
        for (host, provider) in self.hosts.iter().enumerate() {
            let sql = "SELECT concat_ws('|', kind, identificativo, recipient, message_id, encode(notice_sha256, 'hex'), \
                       (SELECT count(*) FROM log WHERE log.event = fact.kind AND log.message_id = fact.message_id)) FROM fact";
            for row in column(&provider.database, sql).await {
                let [kind, id, recipient, rest @ ..] = &row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
                let key: Key = (host, (*kind).to_owned(), (*id).to_owned(), (*recipient).to_owned());
                let Some((message_id, _, body)) = self.truth.notices.get(&key) else { panic!("a fact without its notice: {row}") };
                assert_eq!(rest, [message_id.as_str(), hex(&sha256(body)).as_str(), "1"], "{row}");
                written.insert(key);
            }
        }
        let (missing, more): (Vec<_>, Vec<_>) = (self.truth.facts.difference(&written).collect(), written.difference(&self.truth.facts).collect());
        assert!(missing.is_empty() && more.is_empty(), "facts that are not written: {missing:#?}; written, and none: {more:#?}");
    }

    fn everybody_was_told(&self) {
        let truth = &self.truth;
        for key in truth.facts.iter().filter(|key| !truth.unheard.contains(&key.2)) {
            let (message_id, fields, body) = &truth.notices[key];
            let to = fields.iter().find_map(|field| field.strip_prefix("To: ")).unwrap();
            let there = truth.mail.iter().any(|(mailbox, id, b)| mailbox == to && id.eq_ignore_ascii_case(message_id) && b == body);
            assert!(there, "{to} has no {key:?}");
        }
        for (id, letter) in &truth.letters {
            for d in letter.daticert.destinatari.iter().filter(|d| d.tipo == TipoDestinatario::Certificato) {
                let recipient = d.indirizzo.to_ascii_lowercase();
                let is_one = |kind: &str| (ALFA..=BETA).any(|host| truth.facts.contains(&(host, kind.to_owned(), id.clone(), recipient.clone())));
                match recipient.as_str() {
                    MUTO => assert!(is_one("preavviso-12") && is_one("preavviso-24") && !is_one("errore-consegna")),
                    // The queue's end and the second notice: both.
                    SPENTO => assert!(is_one("preavviso-12") && is_one("preavviso-24") && is_one("errore-consegna")),
                    NESSUNO => assert!(is_one("errore-consegna") && !is_one("avvenuta-consegna")),
                    _ if is_one("rilevazione-virus") => assert!(is_one("errore-consegna") && !is_one("avvenuta-consegna")),
                    _ => assert!(is_one("avvenuta-consegna") || is_one("errore-consegna"), "{recipient}: {id} has no end"),
                }
            }
        }
        // A second copy of an envelope is there only where a 250 was lost, or somebody brought it again.
        for ((recipient, id), times) in &truth.saved {
            assert!(times.len() <= truth.copies[id], "{recipient} has {} copies of {id}", times.len());
        }
    }
}

fn said(mail: &Mail) -> String {
    let text = |name| mail.header.text(name).unwrap_or_default();
    format!("{}{} {}", text("X-Ricevuta"), text("X-Trasporto"), text("Message-ID"))
}

/// One run from its seed.
async fn play(seed: u64, story: Arc<Mutex<Vec<String>>>) {
    let mut play = Play::new(seed, story).await;
    let submissions = [
        (ALFA, letter(ANNA, &[BRUNO, NESSUNO, PROTOCOLLO, ALDO, CARLA], "", "several")),
        (ALFA, letter(ANNA, &[PROTOCOLLO, BRUNO], "", VIRUS)),
        (ALFA, letter(ANNA, &[BRUNO], "Bcc: x@y.test\n", "a blind copy")),
        (ALFA, letter(ANNA, &[MUTO, SPENTO, ALDO], "", "no answer")),
        (ALFA, letter(ALDO, &[IGNOTO, ANNA], "", "unknown to an ordinary server")),
        (BETA, letter(BRUNO, &[ANNA], "", VIRUS)),
        (BETA, letter(BRUNO, &[ANNA, PROTOCOLLO], "", "the other way")),
    ];
    play.steps.extend(submissions.map(|(host, mail)| Step::Submit { host, mail }));
    play.steps.push(Step::Bring { host: BETA, mail: Mail { account: None, ..letter(CARLA, &[BRUNO], "", "ordinary") } });
    while play.mishaps > 0 && !play.steps.iter().all(|step| matches!(step, Step::Deliver { hop: Hop::Spento, .. })) {
        play.step().await;
    }
    play.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_notice_for_each_fact_in_whatever_order_and_however_often() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = number("PEC_TEST_SEED").map_or_else(|| 0..number("PEC_TEST_CONVERSATIONS").unwrap_or(3), |seed| seed..seed + 1);
    for seed in seeds {
        let story = Arc::default();
        if let Err(failure) = tokio::spawn(play(seed, Arc::clone(&story))).await {
            story.lock().unwrap().iter().for_each(|line| eprintln!("{line}"));
            panic!("PEC_TEST_SEED={seed}: {failure}");
        }
    }
}

/// Everything at once; what comes of each.
async fn at_once(mails: Vec<Mail>, to: SocketAddr) -> Vec<Queued> {
    let each: Vec<_> = mails.into_iter().map(|mail| tokio::spawn(async move { mail.give_to(to).await.queued() })).collect();
    let mut outcomes = Vec::new();
    for one in each {
        outcomes.push(one.await.unwrap());
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_come_at_the_same_moment_become_one_notice() {
    let network = Network::new().await;
    let (alfa, beta) = (provider(&network, &network.alfa).await, provider(&network, &network.beta).await);
    let busta = letter(ANNA, &[BRUNO], "", "at once").give_to(alfa.access).await.queued();
    let same = |notices: &[Queued]| {
        let message_id = |q: &Queued| q.mail.header.text("Message-ID");
        notices.iter().all(|n| (&n.mail.body, message_id(n)) == (&notices[0].mail.body, message_id(&notices[0])))
    };
    let accettazioni = at_once(vec![busta.copy_for(&busta.recipient("accettazione+")); 6], alfa.triggers).await;
    assert!(same(&accettazioni));
    // Nobody can know yet that they are the same envelope: each is taken, and they have one presa in carico and one delivery.
    let copies = at_once(vec![Mail { account: None, ..busta.copy_for(BRUNO) }; 6], beta.incoming).await;
    let prese = at_once(copies.iter().map(|copy| copy.copy_for(&copy.recipient("presa-in-carico+"))).collect(), beta.triggers).await;
    assert!(same(&prese));
    let delivered = |copy: &Queued| {
        let envid = copy.sender_parameters.as_ref().unwrap().split_once("ENVID=").unwrap().1.to_owned();
        report(Some(&envid), &copy.mail, &[(BRUNO, "relayed", "2.0.0")], NOW + 5)
    };
    let consegne = at_once(copies.iter().map(delivered).collect(), beta.reports).await;
    assert!(same(&consegne));
    for (provider, kinds) in [(&alfa, "accettazione"), (&beta, "avvenuta-consegna presa-in-carico")] {
        for table in [
            "SELECT string_agg(kind, ' ' ORDER BY kind) FROM fact",
            "SELECT string_agg(event, ' ' ORDER BY event) FROM log WHERE event NOT IN ('accesso', 'ricezione')",
        ] {
            assert_eq!(column(&provider.database, table).await, [kinds], "{table}");
        }
    }
}
