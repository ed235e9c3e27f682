//! Whole conversations between two providers, out of order and again and again: one notice for each fact.
//!
//! The points, pec-clock and PostgreSQL are the real ones, spoken to in the milter protocol and by LMTP. What
//! is played is what makes them repeat: Postfix's queues, whose deliveries happen in any order, lose the
//! answer on either side of the commit, are tried again, split, given up after a day, brought again by
//! strangers; mailboxes that are full of what they say they never got, locked, gone for a moment, or silent
//! after they have saved a message; Postfix's smtpd that does the same with notices; hours that pass; and
//! programs that die between any two of their statements, on either side of it (`wire.rs`). After each step
//! what was true (`truth.rs`) is held against what the providers wrote down and sent.
//!
//! A run is decided by its seed. `PEC_TEST_SEED=N` plays one, `PEC_TEST_CONVERSATIONS=N` that many (default:
//! as many as CI has time for); a failure prints its seed and what happened.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod delivery;
#[path = "conversations/truth.rs"]
mod truth;
#[path = "conversations/wire.rs"]
mod wire;

use std::collections::BTreeSet;
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
use pec_delivery::DeliveryPoint;
use pec_delivery::doors::Door;
use pec_host::parameters::Settings;
use pec_incoming::IncomingPoint;
use pec_program::life::Process;
use pec_program::world::World;
use pec_register::audit::audit;
use pec_state::database::Database;
use pec_test_support::clamd::{self, VIRUS};
use pec_test_support::judges::openssl_verify;
use pec_test_support::lmtp::{bring, bring_one};
use pec_test_support::mail_server::{MailServer, Taken};
use pec_test_support::network::{Host, Network, column};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::{Mail, Outcome, Queued, bounce, report, start, start_shared};
use tokio_postgres::{Client, NoTls};

use crate::delivery::Delivery;
use crate::truth::{InMailbox, Key, Letter, Said, Truth};
use crate::wire::Wire;

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
const MISHAPS: usize = 60;

/// A mailbox that is said not to exist is asked for again after so many seconds before that counts.
const ASK_AGAIN: i64 = 5;

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

/// Who takes messages from pec-delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Mailboxes,
    NoQuota,
    Outgoing,
}

const SERVERS: [Server; 3] = [Server::Mailboxes, Server::NoQuota, Server::Outgoing];

/// A provider: its programs, each with its way to the database, and what is played around them.
struct Provider {
    name: String,
    settings: Settings,
    /// What is written, past the programs' own ways.
    database: Client,
    access: SocketAddr,
    incoming: SocketAddr,
    incoming_point: Arc<ArcSwap<IncomingPoint>>,
    incoming_wire: Wire,
    reports: SocketAddr,
    delivery: Delivery,
    delivery_point: Arc<ArcSwap<DeliveryPoint>>,
    delivery_wire: Wire,
    clockwork: Clockwork,
    clock_wire: Wire,
    servers: [MailServer; 3],
}

impl Provider {
    fn server(&self, server: Server) -> &MailServer {
        &self.servers[server as usize]
    }
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
    Mailboxes,
    Provider(usize),
    Ordinary,
    Muto,
    Spento,
}

/// (recipient, action, status): what Postfix says of one recipient.
type About = (String, &'static str, &'static str);

/// What is still to happen.
enum Step {
    /// A client brings a message to the provider's submission.
    Submit { host: usize, mail: Mail },
    /// Somebody brings a message to port 25: an ordinary server, or whoever has a copy.
    Bring { host: usize, mail: Mail },
    /// A queue sends a message to one next hop.
    Deliver { host: usize, message: Arc<InQueue>, recipients: Vec<String>, hop: Hop },
    /// The bounce daemon writes a report. If it is about the end of the queue's patience and is not taken,
    /// they are tried again.
    Report { host: usize, message: Arc<InQueue>, about: Vec<About>, given_up: Option<Hop> },
}

/// What goes wrong with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    None,
    /// Nobody answers.
    Down,
    /// The milter has decided, and Postfix dies before it commits.
    NotCommitted,
    /// It is done, and the 250 is lost.
    NotTold,
    /// The program dies at its statement after so many: before it, or when it is executed and not heard.
    Killed(usize, bool),
    /// It takes nothing now.
    Locked(Server),
    /// It takes a message, and its answer is lost.
    Unheard(Server),
    /// The connection breaks, and the message is lost with it.
    Broken(Server),
}

impl Mishap {
    /// Whether the program itself was disturbed.
    fn disturbs(self) -> bool {
        !matches!(self, Self::None | Self::NotCommitted | Self::NotTold)
    }
}

/// What a mailbox says of a message besides yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Yes,
    /// There is none.
    Absent,
    /// There is one, and its server says that there is none.
    Hidden,
    /// It is full, of the very message that it is handed.
    Full,
}

struct Play {
    network: Network,
    hosts: Vec<Provider>,
    chance: Chance,
    now: i64,
    mishaps: usize,
    slow: bool,
    steps: Vec<Step>,
    passed: Vec<(usize, Mail)>,
    truth: Truth,
    story: Arc<Mutex<Vec<String>>>,
}

/// The world of a program that goes this way to its database.
async fn world(network: &Network, settings: &Settings, wire: &Wire) -> World {
    let settings = Settings { database: wire.database.clone(), ..settings.clone() };
    let database = Database::connect(&settings, "test").await.unwrap();
    World::new(settings, Process::quiet(network.clock.clone()), database).unwrap()
}

async fn clockwork(network: &Network, settings: &Settings, wire: &Wire) -> Clockwork {
    let settings = Settings { database: wire.database.clone(), ..settings.clone() };
    let database = Database::connect(&settings, "pec-clock").await.unwrap();
    Clockwork::new(settings, Process::quiet(network.clock.clone()), database).unwrap()
}

async fn provider(network: &Network, host: &Host) -> Provider {
    let mut delivery =
        Delivery::new(&network.directory.path().join(format!("pec-{}", host.settings.service_domain)));
    let settings = delivery.settings(&host.settings);
    let lay = async || Wire::lay(&settings.database).await;
    let (incoming_wire, delivery_wire, clock_wire) = (lay().await, lay().await, lay().await);
    let incoming_point =
        Arc::new(ArcSwap::from_pointee(IncomingPoint::new(world(network, &settings, &incoming_wire).await)));
    let delivery_point =
        Arc::new(ArcSwap::from_pointee(DeliveryPoint::new(world(network, &settings, &delivery_wire).await)));
    delivery.start(&delivery_point);
    let (database, connection) = tokio_postgres::connect(&settings.database, NoTls).await.unwrap();
    tokio::spawn(connection);
    let servers = [host.mailboxes.clone(), host.mailboxes_no_quota.clone(), host.outgoing.clone()];
    Provider {
        name: settings.provider_name.clone(),
        database,
        access: start(AccessPoint::new(network.world(host).await), ()).await,
        incoming: start_shared(Arc::clone(&incoming_point), pec_incoming::Door::Port25).await,
        incoming_point,
        incoming_wire,
        reports: start_shared(Arc::clone(&delivery_point), ()).await,
        delivery,
        delivery_point,
        delivery_wire,
        clockwork: clockwork(network, &settings, &clock_wire).await,
        clock_wire,
        servers,
        settings,
    }
}

fn letter(from: &str, to: &[&str], extra: &str, text: &str) -> Mail {
    let text = format!(
        "From: {from}\nTo: {}\nSubject: Prova\nMessage-ID: <{}@client.test>\n{extra}\n{text}\n",
        to.join(", "),
        text.replace(' ', "-")
    );
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
        "preavviso-errore-consegna" if daticert.errore_esteso.as_deref().unwrap().starts_with("5.4.1") => {
            "preavviso-24".to_owned()
        }
        "preavviso-errore-consegna" => "preavviso-12".to_owned(),
        kind => kind.to_owned(),
    }
}

/// Whom it is about, as the table `fact` has it.
fn about(daticert: &Daticert) -> String {
    keys(daticert.consegna.iter().chain(&daticert.ricezione).cloned())
}

fn keys(recipients: impl Iterator<Item = String>) -> String {
    let mut keys: Vec<String> = recipients.map(|r| bare(&r)).collect();
    keys.sort();
    keys.join(" ")
}

fn bare(path: &str) -> String {
    path.trim_matches(['<', '>']).to_ascii_lowercase()
}

fn domain(recipient: &str) -> &str {
    recipient.split_once('@').unwrap().1
}

fn message_id(mail: &Mail) -> String {
    bare(&mail.header.text("Message-ID").unwrap_or_default())
}

fn is_envelope(mail: &Mail) -> bool {
    mail.header.text("X-Trasporto").as_deref() == Some("posta-certificata")
}

/// The ENVID among the parameters of MAIL FROM.
fn envid(parameters: &str) -> Option<String> {
    parameters.split(' ').find_map(|parameter| parameter.strip_prefix("ENVID=")).map(str::to_owned)
}

impl Play {
    async fn new(seed: u64, story: Arc<Mutex<Vec<String>>>) -> Self {
        let mut network = Network::new().await;
        let ldif = network.directory.path().join("igpec.ldif");
        let record = format!(
            "\ndn: providerName=Muto PEC,o=postacert\nobjectclass: provider\nproviderName: Muto \
            PEC\nproviderCertificateHash: {}\n\
             mailReceipt: ricevute@gestore.muto.test\nmanagedDomains: pec.muto.test\nmanagedDomains: \
            pec.spento.test\n",
            "1".repeat(40)
        );
        OpenOptions::new().append(true).open(ldif).unwrap().write_all(record.as_bytes()).unwrap();
        // Alfa's scanner knows nothing.
        network.beta.settings.clamd = Some(clamd::start().await);
        let hosts = vec![provider(&network, &network.alfa).await, provider(&network, &network.beta).await];
        let mut chance = Chance(seed);
        let slow = chance.below(3) > 0;
        let truth = Truth::default();
        let play = Self {
            network,
            hosts,
            chance,
            now: NOW,
            mishaps: MISHAPS,
            slow,
            steps: Vec::new(),
            passed: Vec::new(),
            truth,
            story,
        };
        play.calm();
        play
    }

    fn tell(&self, what: &str) {
        self.story.lock().unwrap().push(format!("{:>7} {what}", self.now - NOW));
    }

    fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        self.network.clock.set(Moment::from_unix(self.now));
    }

    fn coin(&mut self) -> bool {
        self.chance.below(2) == 0
    }

    /// What goes wrong with something that a milter is asked.
    fn mishap_of_milter(&mut self, dies: bool) -> Mishap {
        let mishap = match self.chance.below(11) {
            _ if self.mishaps == 0 => Mishap::None,
            0 => Mishap::Down,
            1 => Mishap::NotCommitted,
            2 | 3 => Mishap::NotTold,
            4 if dies => Mishap::Killed(self.chance.below(5), self.coin()),
            _ => Mishap::None,
        };
        self.mishaps -= usize::from(mishap != Mishap::None);
        mishap
    }

    /// What goes wrong with something that pec-delivery is brought.
    fn mishap_of_delivery(&mut self) -> Mishap {
        let server = SERVERS[self.chance.below(3)];
        let mishap = match self.chance.below(20) {
            _ if self.mishaps == 0 => Mishap::None,
            0 => Mishap::Down,
            1 | 2 => Mishap::NotTold,
            3 => Mishap::Locked(server),
            4 | 5 => Mishap::Unheard(server),
            6 => Mishap::Broken(server),
            7 | 8 => Mishap::Killed(self.chance.below(10), self.coin()),
            _ => Mishap::None,
        };
        self.mishaps -= usize::from(mishap != Mishap::None);
        mishap
    }

    /// One step, whichever it may be; time passes.
    async fn step(&mut self) {
        let jump = if self.slow && self.mishaps > 0 && self.chance.below(12) == 0 {
            self.chance.below(7) as i64 * HOUR
        } else {
            0
        };
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
                let mishap = self.mishap_of_milter(true);
                if !self.arrive(host, &mail, mishap).await {
                    self.steps.push(Step::Bring { host, mail });
                }
            }
            Step::Deliver { host, message, recipients, hop } => {
                self.deliver(host, message, recipients, hop).await
            }
            Step::Report { host, message, about, given_up } => {
                self.report(host, message, about, given_up).await
            }
        }
    }

    async fn submit(&mut self, host: usize, mail: Mail) {
        let mishap = self.mishap_of_milter(false);
        self.tell(&format!("{}: submission for {:?}: {mishap:?}", self.hosts[host].name, mail.recipients));
        if mishap != Mishap::Down {
            let queued = mail.give_to(self.hosts[host].access).await.queued();
            let daticert = read(&queued.mail).unwrap();
            let id = daticert.identificativo.clone();
            if queued.mail.header.first("X-Ricevuta").is_some() {
                // The fact is the refusal, whether the client hears of it or not; then it comes again, and
                // that is another one.
                let key = (host, "non-accettazione".to_owned(), id.clone(), String::new());
                self.learn(host, std::slice::from_ref(&key)).await;
                self.witness(host, &queued.mail, false);
                assert!(self.truth.facts.contains(&key));
                if mishap == Mishap::NotCommitted {
                    self.truth.unheard.insert(id);
                }
            } else if mishap != Mishap::NotCommitted {
                let infected = String::from_utf8_lossy(&mail.body).contains(VIRUS);
                let key = (host, "accettazione".to_owned(), id.clone(), String::new());
                self.truth.triggers.insert(queued.recipient("accettazione+"), key.clone());
                self.truth.due.insert(key);
                self.truth
                    .letters
                    .insert(id.clone(), Letter { host, at: daticert.data.unix(), daticert, infected });
                let ours = |r: &String| self.hosts[host].settings.local_domains.contains(domain(&bare(r)));
                let ours = keys(mail.recipients.iter().filter(|r| ours(r)).cloned());
                if !ours.is_empty() {
                    self.in_custody(host, &id, ours, &queued);
                }
            }
            self.learn(host, &[]).await;
            if mishap != Mishap::NotCommitted {
                self.commit(host, queued);
            }
        }
        if mishap != Mishap::None {
            self.steps.push(Step::Submit { host, mail });
        }
    }

    /// An envelope is in the queue for recipients of the provider's own: its presa in carico is due.
    fn in_custody(&mut self, host: usize, id: &str, recipients: String, queued: &Queued) {
        let key = (host, "presa-in-carico".to_owned(), id.to_owned(), recipients);
        self.truth.triggers.insert(queued.recipient("presa-in-carico+"), key.clone());
        self.truth.due.insert(key);
        self.truth.custody.insert(envid(queued.sender_parameters.as_ref().unwrap()).unwrap(), id.to_owned());
    }

    /// A message is in a queue: what its queue manager has to do.
    fn commit(&mut self, host: usize, queued: Queued) {
        let envid = queued.sender_parameters.as_ref().and_then(|parameters| envid(parameters));
        let message = Arc::new(InQueue { envid, since: self.now, mail: queued });
        let mut by_domain: Vec<(Hop, Vec<String>)> = Vec::new();
        for path in &message.mail.mail.recipients {
            let recipient = bare(path);
            let hop = match domain(&recipient) {
                "notices.pec.internal" => Hop::Triggers,
                "pec.muto.test" | "gestore.muto.test" => Hop::Muto,
                "pec.spento.test" => Hop::Spento,
                domain => match self.hosts.iter().position(|h| h.settings.local_domains.contains(domain)) {
                    Some(other) if other == host => Hop::Mailboxes,
                    Some(other) => Hop::Provider(other),
                    None => Hop::Ordinary,
                },
            };
            // One transaction for each domain, and sometimes for each mailbox or trigger, as
            // postfix-conf/main.cf has it.
            let alone = matches!(hop, Hop::Triggers | Hop::Mailboxes) && self.coin();
            let same = |(h, r): &&mut (Hop, Vec<String>)| {
                !alone && *h == hop && (hop == Hop::Mailboxes || domain(&r[0]) == domain(&recipient))
            };
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
        let mishap = match hop {
            Hop::Triggers | Hop::Mailboxes => self.mishap_of_delivery(),
            _ => self.mishap_of_milter(matches!(hop, Hop::Provider(_))),
        };
        self.tell(&format!(
            "{}: {} to {hop:?} {recipients:?}: {mishap:?}",
            self.hosts[host].name,
            said(&message.mail.mail)
        ));
        let mut mail = message.mail.copy_for(&recipients[0]);
        mail.recipients = recipients.iter().map(|r| format!("<{r}>")).collect();
        let all = |done: bool| if done { Vec::new() } else { recipients.clone() };
        let mut refused: Vec<About> = Vec::new();
        let again = match hop {
            Hop::Triggers | Hop::Mailboxes if mishap == Mishap::Down => all(false),
            Hop::Triggers => self.bring_triggers(host, &message, &mail, &recipients, mishap).await,
            Hop::Mailboxes => self.bring_to_mailboxes(host, &message, &mail, &recipients, mishap).await,
            Hop::Provider(other) => {
                let done = self.arrive(other, &mail, mishap).await;
                if done {
                    self.passed.push((other, mail.clone()));
                }
                all(done)
            }
            Hop::Ordinary if mishap != Mishap::Down => {
                refused.extend(
                    recipients.iter().filter(|r| *r == IGNOTO).map(|r| (r.clone(), "failed", "5.1.1")),
                );
                Vec::new()
            }
            Hop::Muto => all(mishap != Mishap::Down),
            Hop::Ordinary | Hop::Spento => all(false),
        };
        if !refused.is_empty() {
            self.steps.push(Step::Report {
                host,
                message: Arc::clone(&message),
                about: refused,
                given_up: None,
            });
        }
        if again.is_empty() {
            return;
        }
        // The end of the queue's patience, which some make shorter, is seen at an attempt. A trigger is never
        // given up.
        let short =
            self.mishaps > 0 && matches!(hop, Hop::Mailboxes | Hop::Provider(_)) && self.chance.below(6) == 0;
        if (short || self.now - message.since >= DAY) && hop != Hop::Triggers {
            self.tell("given up");
            if bare(&message.mail.mail.sender).is_empty() {
                // Nobody is told, but the postmaster.
                self.truth.given_up.insert(message_id(&message.mail.mail));
                return;
            }
            let about = again.into_iter().map(|r| (r, "failed", "4.4.1")).collect();
            self.steps.push(Step::Report { host, message, about, given_up: Some(hop) });
        } else {
            self.steps.push(Step::Deliver { host, message, recipients: again, hop });
        }
    }

    /// Makes something go wrong inside of pec-delivery's next work, or around it.
    fn arrange(&self, host: usize, mishap: Mishap) {
        let provider = &self.hosts[host];
        match mishap {
            Mishap::Killed(statements, unheard) => provider.delivery_wire.cut_after(statements, unheard),
            Mishap::Locked(server) => MAILBOXES.iter().for_each(|mailbox| {
                provider.server(server).answer_message(mailbox, Some("451 4.2.0 locked"));
            }),
            Mishap::Unheard(server) => provider.server(server).lose_answers(1),
            Mishap::Broken(server) => provider.server(server).lose_messages(1),
            Mishap::None | Mishap::Down | Mishap::NotCommitted | Mishap::NotTold => {}
        }
    }

    /// All is well with the mailboxes and with Postfix's smtpd.
    fn calm(&self) {
        for server in self.hosts.iter().flat_map(|provider| &provider.servers) {
            for mailbox in MAILBOXES {
                server.answer_recipient(mailbox, None);
                server.answer_message(mailbox, None);
            }
            server.answer_recipient(NESSUNO, Some("550 5.1.1 no such user"));
            server.lose_answers(0);
            server.lose_messages(0);
        }
    }

    /// The same for pec-delivery, which is another process if it was killed. `true`: it was.
    async fn after_delivery(&mut self, host: usize) -> bool {
        self.calm();
        let was_killed = self.hosts[host].delivery_wire.mend();
        if was_killed {
            self.tell("    killed");
            let provider = &self.hosts[host];
            let world = world(&self.network, &provider.settings, &provider.delivery_wire).await;
            provider.delivery_point.store(Arc::new(DeliveryPoint::new(world)));
        }
        was_killed
    }

    /// What pec-delivery has handed over meanwhile: it is in mailboxes and in Postfix's queue. Gives back how
    /// many messages that were.
    fn handed_over(&mut self, host: usize) -> usize {
        let taken: Vec<(Server, Taken)> = SERVERS
            .iter()
            .flat_map(|server| {
                self.hosts[host].server(*server).taken().into_iter().map(|taken| (*server, taken))
            })
            .collect();
        let number = taken.len();
        for (server, taken) in taken {
            let mail = taken.mail();
            self.tell(&format!("    {server:?} takes {} for {}", said(&mail), taken.recipient));
            let id = message_id(&mail);
            if id.ends_with(&format!("@{}", self.hosts[host].settings.service_domain))
                && mail.header.first("X-Ricevuta").is_some()
            {
                self.witness(host, &mail, true);
                assert_ne!(server, Server::Mailboxes, "a notice of ours goes to a full mailbox too");
            }
            if server == Server::Outgoing {
                let parameters = taken.sender.split_once(' ').unwrap().1.to_owned();
                assert!(parameters.contains("RET=FULL") && taken.parameters == "NOTIFY=FAILURE", "{taken:?}");
                self.commit(
                    host,
                    Queued { mail, sender_parameters: Some(parameters), added: Vec::new(), edits: 0 },
                );
                continue;
            }
            if is_envelope(&mail) {
                assert_eq!(server, Server::Mailboxes, "an envelope counts");
                self.truth.saved.entry((taken.recipient.clone(), id.clone())).or_default().push(self.now);
            }
            self.truth.mail.push(InMailbox { mailbox: taken.recipient, message_id: id, body: mail.body });
        }
        number
    }

    /// Triggers come to pec-delivery. Gives back those that come again.
    async fn bring_triggers(
        &mut self,
        host: usize,
        message: &InQueue,
        mail: &Mail,
        triggers: &[String],
        mishap: Mishap,
    ) -> Vec<String> {
        self.arrange(host, mishap);
        let answers =
            bring(&self.hosts[host].delivery.path(Door::Triggers), mail, message.envid.as_deref()).await;
        self.after_delivery(host).await;
        let makes: Vec<Key> =
            triggers.iter().filter_map(|trigger| self.truth.triggers.get(trigger).cloned()).collect();
        self.learn(host, &makes).await;
        let number = self.handed_over(host);
        let done = |trigger: &String| (trigger.clone(), String::new());
        let is_new = |trigger: &String| {
            trigger.starts_with("rispedizione+") || !self.truth.done.contains(&done(trigger))
        };
        assert!(
            number <= triggers.iter().filter(|trigger| is_new(trigger)).count(),
            "a notice that is handed over is not handed over again"
        );
        for (trigger, answer) in triggers.iter().zip(&answers) {
            assert!(!answer.starts_with('5'), "a trigger is never refused: {answer}");
            assert!(mishap.disturbs() || answer.starts_with("250"), "{trigger}: {answer}");
            if answer.starts_with("250") {
                self.truth.done.insert(done(trigger));
                if let Some(key) = self.truth.triggers.get(trigger) {
                    assert!(self.truth.is_told(key), "yes to {trigger}, and nobody has the notice {key:?}");
                }
            }
        }
        let comes_again = |answer: &String| mishap == Mishap::NotTold || !answer.starts_with("250");
        triggers
            .iter()
            .zip(&answers)
            .filter(|(_, answer)| comes_again(answer))
            .map(|(trigger, _)| trigger.clone())
            .collect()
    }

    /// What the mailbox of this recipient says of a message this time.
    fn says(&mut self, message: &InQueue, recipient: &str) -> Says {
        if !MAILBOXES.contains(&recipient) {
            return Says::Absent;
        }
        let mail = &message.mail.mail;
        if self.mishaps == 0 || !is_envelope(mail) {
            return Says::Yes;
        }
        // What fills the mailbox is the first copy.
        if self.truth.saved.contains_key(&(recipient.to_owned(), message_id(mail))) && self.coin() {
            return Says::Full;
        }
        // Once: two in a row are believed.
        let once = (message_id(mail), recipient.to_owned());
        if self.chance.below(12) == 0 && self.truth.hidden.insert(once) { Says::Hidden } else { Says::Yes }
    }

    /// A message for mailboxes comes to pec-delivery. Gives back those to whom it comes again.
    async fn bring_to_mailboxes(
        &mut self,
        host: usize,
        message: &Arc<InQueue>,
        mail: &Mail,
        recipients: &[String],
        mishap: Mishap,
    ) -> Vec<String> {
        self.arrange(host, mishap);
        let says: Vec<Says> = recipients.iter().map(|recipient| self.says(message, recipient)).collect();
        let (server, early) = (self.hosts[host].server(Server::Mailboxes).clone(), self.coin());
        for (recipient, says) in recipients.iter().zip(&says).filter(|(_, says)| **says != Says::Yes) {
            self.tell(&format!("    the mailbox {recipient}: {says:?}"));
            match says {
                Says::Hidden => server.answer_recipient(recipient, Some("550 5.1.1 no such user")),
                Says::Full if early => server.answer_recipient(recipient, Some("552 5.2.2 full")),
                Says::Full => server.answer_message(recipient, Some("552 5.2.2 full")),
                Says::Absent | Says::Yes => {}
            }
        }
        server.asked();
        let answers =
            bring(&self.hosts[host].delivery.path(Door::Mailboxes), mail, message.envid.as_deref()).await;
        let was_killed = self.after_delivery(host).await;
        let (asked, envid) = (server.asked(), message.envid.clone().unwrap_or_default());
        for (recipient, says) in
            recipients.iter().zip(&says).filter(|(_, says)| matches!(says, Says::Absent | Says::Hidden))
        {
            if asked.contains(recipient) {
                self.truth.absent.entry((envid.clone(), recipient.clone())).or_insert(self.now);
            }
            // Disturbed: it may have to be asked for twice again.
            let since = &mut self.truth.absent_since;
            if mishap.disturbs() || *says == Says::Hidden {
                since.remove(&(envid.clone(), recipient.clone()));
            } else {
                since.entry((envid.clone(), recipient.clone())).or_insert(self.now);
            }
        }
        let before = self.truth.done.clone();
        let number = if is_envelope(mail) {
            let doubtful = was_killed
                || matches!(mishap, Mishap::Unheard(Server::Mailboxes) | Mishap::Broken(Server::Mailboxes));
            let brought = Brought {
                envid: &envid,
                id: message_id(mail),
                recipients,
                says: &says,
                answers: &answers,
                mishap,
                doubtful,
            };
            self.envelope_was_brought(host, brought).await
        } else {
            self.learn(host, &[]).await;
            self.handed_over(host)
        };
        let key = |recipient: &String| (envid.clone(), recipient.clone());
        let is_new = |recipient: &&String| !before.contains(&key(recipient));
        // Of an envelope: it, and its notice.
        assert!(number <= 2 * recipients.iter().filter(is_new).count(), "what is done is done");
        let mut again = Vec::new();
        for (at, (recipient, answer)) in recipients.iter().zip(&answers).enumerate() {
            if answer.starts_with("250") {
                self.truth.done.insert(key(recipient));
                let has_it = self.truth.mail.iter().any(|m| {
                    m.mailbox == *recipient && m.message_id == message_id(mail) && m.body == mail.body
                });
                assert!(has_it || is_envelope(mail), "yes, and {recipient} has not got it");
            } else {
                assert!(answer.starts_with('4'), "nothing is refused: {answer}");
                assert!(mishap.disturbs() || is_envelope(mail), "{recipient}: {answer}");
            }
            if self.mishaps == 0
                && says[at] == Says::Absent
                && answer.ends_with("Nothing is certified as long as that is not known")
            {
                self.tell(
                    "    the administrator looks whether it is there, and takes the envelope out of \
                    the queue",
                );
                self.truth.removed.insert((recipient.clone(), message_id(mail)));
            } else if mishap == Mishap::NotTold || !answer.starts_with("250") {
                again.push(recipient.clone());
            }
        }
        again
    }

    /// What must hold after an envelope came to mailboxes, whatever went wrong. Gives back how many messages
    /// were handed over.
    async fn envelope_was_brought(&mut self, host: usize, brought: Brought<'_>) -> usize {
        let Brought { envid, id, recipients, says, answers, mishap, doubtful } = brought;
        assert_eq!(self.truth.custody.get(envid), Some(&id), "it is what was taken in charge");
        let saved = |truth: &Truth, recipient: &String| {
            truth.saved.get(&(recipient.clone(), id.clone())).map_or(0, Vec::len)
        };
        let before: Vec<(usize, Option<Key>)> =
            recipients.iter().map(|r| (saved(&self.truth, r), self.truth.outcome(host, &id, r))).collect();
        let kinds = ["avvenuta-consegna", "errore-consegna"];
        let possible: Vec<Key> = recipients
            .iter()
            .flat_map(|r| kinds.map(|kind| (host, kind.to_owned(), id.clone(), r.clone())))
            .collect();
        let new = self.learn(host, &possible).await;
        let number = self.handed_over(host);
        for (((recipient, says), answer), (saved_before, outcome_before)) in
            recipients.iter().zip(says).zip(answers).zip(before)
        {
            let with = (recipient.clone(), id.clone());
            let is_saved_now = saved(&self.truth, recipient) > saved_before;
            let was_in_doubt = self.truth.doubts.contains_key(&with);
            if doubtful {
                *self.truth.doubts.entry(with.clone()).or_default() += 1;
            }
            assert!(
                outcome_before.is_none_or(|key| key.1 == "errore-consegna") || !is_saved_now,
                "what the mailbox has, it is not handed again"
            );
            for fact in new.iter().filter(|fact| fact.key.3 == *recipient) {
                assert_eq!(fact.happened_at, self.now, "{:?}", fact.key);
                if fact.key.1 == "avvenuta-consegna" {
                    assert!(
                        is_saved_now && *says == Says::Yes,
                        "a delivery that did not happen: {:?}",
                        fact.key
                    );
                    let first = self.truth.saved[&with][0];
                    assert!(
                        first == self.now || fact.time_source == "mailbox-again",
                        "{:?}: {}, and it was there before",
                        fact.key,
                        fact.time_source
                    );
                    assert!(
                        was_in_doubt || fact.time_source == "mailbox",
                        "{:?}: {}",
                        fact.key,
                        fact.time_source
                    );
                } else {
                    assert_eq!(
                        *says,
                        Says::Absent,
                        "a failure that did not happen: {:?}, the mailbox: {says:?}",
                        fact.key
                    );
                    assert!(
                        !self.truth.saved.contains_key(&with),
                        "a failure, and the mailbox has it: {:?}",
                        fact.key
                    );
                    let first = self.truth.absent[&(envid.to_owned(), recipient.clone())];
                    assert!(
                        self.now - first >= ASK_AGAIN,
                        "one \"no such mailbox\" is no fact: {:?}",
                        fact.key
                    );
                }
            }
            let outcome = self.truth.outcome(host, &id, recipient);
            if answer.starts_with("250") {
                let outcome = outcome.unwrap_or_else(|| panic!("yes about {recipient}, and no outcome"));
                assert!(
                    self.truth.is_told(&outcome),
                    "yes about {recipient}, and nobody has the notice {outcome:?}"
                );
                continue;
            }
            let since = self.truth.absent_since.get(&(envid.to_owned(), recipient.clone()));
            let may_wait = match says {
                Says::Yes => false,
                Says::Absent => was_in_doubt || since.is_none_or(|since| self.now - since < ASK_AGAIN),
                Says::Hidden => true,
                Says::Full => was_in_doubt,
            };
            assert!(mishap.disturbs() || may_wait, "{recipient}, {says:?}: {answer}");
        }
        number
    }

    /// A message comes to port 25. `true`: its sender knows that it is taken.
    async fn arrive(&mut self, host: usize, mail: &Mail, mishap: Mishap) -> bool {
        if mishap == Mishap::Down {
            return false;
        }
        if let Mishap::Killed(statements, unheard) = mishap {
            self.hosts[host].incoming_wire.cut_after(statements, unheard);
        }
        let outcome = mail.give_to(self.hosts[host].incoming).await;
        let was_killed = self.hosts[host].incoming_wire.mend();
        if was_killed {
            self.tell("    killed");
            let provider = &self.hosts[host];
            let world = world(&self.network, &provider.settings, &provider.incoming_wire).await;
            provider.incoming_point.store(Arc::new(IncomingPoint::new(world)));
        }
        let kind = mail.header.text("X-Ricevuta");
        let mut makes = Vec::new();
        if let Some(kind) = &kind {
            let daticert = read(mail).unwrap();
            let about = about(&daticert);
            if kind == "rilevazione-virus" {
                let with = |recipient: &str| (host, daticert.identificativo.clone(), recipient.to_owned());
                let undelivered = about
                    .split(' ')
                    .filter(|recipient| !self.truth.delivered_elsewhere.contains(&with(recipient)));
                makes.extend(undelivered.map(|r| {
                    (host, "errore-consegna".to_owned(), daticert.identificativo.clone(), r.to_owned())
                }));
            }
            let is_written = "SELECT FROM ricevuta WHERE message_id = $1";
            let written = self.hosts[host]
                .database
                .query_opt(&format!("{is_written} LIMIT 1"), &[&message_id(mail)])
                .await
                .unwrap();
            assert!(written.is_some() || was_killed, "a receipt that is not written down");
            if written.is_some() {
                self.truth.received(host, kind, &daticert.identificativo, &about);
            }
        }
        let infected = is_envelope(mail) && host == BETA && self.truth.letters[&message_id(mail)].infected;
        if infected {
            let id = message_id(mail);
            makes.extend(
                mail.recipients.iter().map(|r| (host, "rilevazione-virus".to_owned(), id.clone(), bare(r))),
            );
        }
        self.learn(host, &makes).await;
        match outcome {
            Outcome::Deferred(why) => {
                assert!(was_killed, "{} is not taken: {why}", said(mail));
                return false;
            }
            Outcome::Queued(_) if mishap == Mishap::NotCommitted => return false,
            Outcome::Queued(queued) if is_envelope(mail) => {
                // Beta's scanner finds what Alfa's does not know.
                let recipients = if infected { &mail.recipients } else { &queued.mail.recipients };
                let recipients =
                    keys(recipients.iter().filter(|r| !r.ends_with("@notices.pec.internal>")).cloned());
                assert!(
                    !infected || queued.mail.recipients.iter().all(|r| r.ends_with("@notices.pec.internal>")),
                    "a virus is delivered to nobody"
                );
                assert_eq!(queued.mail.body, mail.body, "an envelope passes untouched");
                self.in_custody(host, &message_id(mail), recipients, &queued);
                self.truth.due.extend(makes);
                self.commit(host, *queued);
            }
            Outcome::Queued(queued) => {
                if kind.is_some() {
                    assert_eq!(queued.mail.body, mail.body, "a receipt passes untouched");
                    self.truth.due.extend(makes);
                } else {
                    assert_eq!(
                        queued.mail.header.text("X-Trasporto").as_deref(),
                        Some("errore"),
                        "ordinary mail is in an envelope that says so"
                    );
                    let whole = mail.to_bytes();
                    assert!(queued.mail.body.windows(whole.len()).any(|w| w == whole), "which has it entire");
                }
                self.commit(host, *queued);
            }
            Outcome::Discarded => {
                assert!(is_envelope(mail), "only an envelope that is in custody is dropped");
            }
            Outcome::Rejected(why) => panic!("{} is refused: {why}", said(mail)),
        }
        mishap != Mishap::NotTold
    }

    async fn report(&mut self, host: usize, message: Arc<InQueue>, about: Vec<About>, given_up: Option<Hop>) {
        let mishap = self.mishap_of_milter(true);
        self.tell(&format!(
            "{}: report on {} {about:?}: {mishap:?}",
            self.hosts[host].name,
            said(&message.mail.mail)
        ));
        let mut is_taken = false;
        if mishap != Mishap::Down {
            let lines: Vec<_> =
                about.iter().map(|(r, action, status)| (r.as_str(), *action, *status)).collect();
            let is_whole = message
                .mail
                .sender_parameters
                .as_ref()
                .is_some_and(|parameters| parameters.contains("RET=FULL"));
            let written = (if is_whole { bounce } else { report })(
                message.envid.as_deref(),
                &message.mail.mail,
                &lines,
                self.now,
            );
            self.arrange(host, mishap);
            let outcome = written.give_to(self.hosts[host].reports).await;
            let was_killed = self.after_delivery(host).await;
            let (possible, may_wait) = self.what_the_report_means(host, &message, &about);
            self.learn(host, &possible).await;
            assert_eq!(self.handed_over(host), 0, "a report leads to nothing before Postfix has it");
            match outcome {
                Outcome::Queued(queued) => {
                    assert!(
                        possible.iter().all(|key| self.truth.facts.contains(key)),
                        "a failure that is not written: {possible:?}"
                    );
                    is_taken = mishap == Mishap::None || mishap.disturbs();
                    if mishap != Mishap::NotCommitted {
                        self.commit(host, *queued);
                    }
                }
                Outcome::Discarded => {
                    assert!(possible.is_empty(), "a report that meant something: {possible:?}");
                    is_taken = mishap != Mishap::NotTold;
                }
                Outcome::Deferred(why) => {
                    assert!(was_killed || may_wait, "a report is not taken: {why}");
                    self.tell("    it waits");
                }
                Outcome::Rejected(why) => panic!("a report is refused: {why}"),
            }
        }
        match given_up {
            _ if is_taken => {
                if given_up == Some(Hop::Mailboxes) {
                    self.truth.given_up.insert(message_id(&message.mail.mail));
                }
            }
            Some(hop) => {
                let recipients = about.into_iter().map(|(recipient, ..)| recipient).collect();
                self.steps.push(Step::Deliver { host, message, recipients, hop });
            }
            None => self.steps.push(Step::Report { host, message, about, given_up }),
        }
    }

    /// Which facts may be written now, and whether the report may have to wait.
    fn what_the_report_means(&self, host: usize, message: &InQueue, about: &[About]) -> (Vec<Key>, bool) {
        let (mail, envid) = (&message.mail.mail, message.envid.clone().unwrap_or_default());
        let (mut possible, mut may_wait) = (Vec::new(), false);
        if !is_envelope(mail) {
            return (possible, may_wait);
        }
        let id = message_id(mail);
        for (recipient, ..) in about {
            let (with, key) = (
                (host, id.clone(), recipient.clone()),
                (host, "errore-consegna".to_owned(), id.clone(), recipient.clone()),
            );
            if self.hosts[host].settings.local_domains.contains(domain(recipient)) {
                let in_mailbox = (recipient.clone(), id.clone());
                match self.truth.outcome(host, &id, recipient) {
                    // Its notice may have to be made again, of this envelope.
                    Some(_) => may_wait |= !self.truth.done.contains(&(envid.clone(), recipient.clone())),
                    None => {
                        may_wait |= self.truth.doubts.contains_key(&in_mailbox);
                        if !self.truth.saved.contains_key(&in_mailbox) {
                            possible.push(key);
                        }
                    }
                }
                continue;
            }
            let tipo = self.truth.letters[&id]
                .daticert
                .destinatari
                .iter()
                .find(|d| d.indirizzo.eq_ignore_ascii_case(recipient))
                .unwrap()
                .tipo;
            // The other provider has it: nothing failed. Of ordinary mail PEC certifies nothing.
            if !self.truth.elsewhere.contains(&with) && tipo != TipoDestinatario::Esterno {
                possible.push(key);
            }
        }
        (possible, may_wait)
    }

    /// A notice was made: its fact is one, and it is what it was before.
    fn witness(&mut self, host: usize, mail: &Mail, is_handed_over: bool) {
        let Some(daticert) = read(mail) else { panic!("a notice that cannot be read") };
        let key: Key = (host, kind_of(&daticert), daticert.identificativo.clone(), about(&daticert));
        self.tell(&format!("    {key:?}"));
        assert!(self.truth.facts.contains(&key), "a notice without its fact: {key:?}");
        // What Postfix and the mailbox server put on top on the way is theirs.
        let ours = mail.header.fields().iter().filter(|f| !f.is("Received") && !f.is("Return-Path"));
        let mut fields: Vec<String> =
            ours.map(|f| format!("{}:{}", f.name, String::from_utf8_lossy(&f.value))).collect();
        fields.sort();
        if let Some(before) = self.truth.notices.get_mut(&key) {
            assert_eq!((&before.message_id, &before.fields), (&message_id(mail), &fields), "{key:?} again");
            assert!(before.body == mail.body, "{key:?} again, and other bytes");
            before.is_handed_over |= is_handed_over;
            return;
        }
        openssl_verify(&mail.to_bytes(), &self.network.pki.ca_file()).unwrap();
        if key.1 == "avvenuta-consegna" {
            let times = &self.truth.saved[&(key.3.clone(), key.2.clone())];
            assert!(
                times.contains(&daticert.data.unix()),
                "{key:?} at {} and not at {times:?}",
                daticert.data.unix()
            );
        }
        let said = Said { message_id: message_id(mail), fields, body: mail.body.clone(), is_handed_over };
        self.truth.notices.insert(key, said);
    }

    /// What a provider has written since, which must be among what was possible.
    async fn learn(&mut self, host: usize, possible: &[Key]) -> Vec<Written> {
        let sql = "SELECT kind, identificativo, recipient, extract(epoch FROM happened_at)::int8, \
            time_source FROM fact ORDER BY happened_at, id";
        let mut new = Vec::new();
        for row in self.hosts[host].database.query(sql, &[]).await.unwrap() {
            let key: Key = (host, row.get(0), row.get(1), row.get(2));
            if self.truth.facts.contains(&key) {
                continue;
            }
            assert!(
                possible.contains(&key),
                "a fact that nothing has led to: {key:?}; possible was {possible:?}"
            );
            self.tell(&format!("    fact {key:?}"));
            self.truth.written(key.clone());
            new.push(Written { key, happened_at: row.get(3), time_source: row.get(4) });
        }
        new
    }

    /// A round of pec-clock: the table of RFC 6109 s. 3.1.6 by what is certified now.
    async fn round(&mut self, host: usize) {
        let mishap = match self.mishap_of_delivery() {
            Mishap::NotTold => Mishap::None,
            mishap => mishap,
        };
        // What dies may be pec-clock itself.
        let dies = matches!(mishap, Mishap::Killed(..)) && self.coin();
        self.tell(&format!(
            "{}: pec-clock looks: {mishap:?}{}",
            self.hosts[host].name,
            if dies { ", itself" } else { "" }
        ));
        let due = if mishap == Mishap::Down { Vec::new() } else { self.truth.deadlines(host, self.now) };
        let provider = &mut self.hosts[host];
        match mishap {
            Mishap::Down => provider.delivery.stop().await,
            Mishap::Killed(statements, unheard) if dies => provider.clock_wire.cut_after(statements, unheard),
            mishap => self.arrange(host, mishap),
        }
        let done = self.hosts[host].clockwork.round(&AtomicBool::new(false)).await;
        if mishap == Mishap::Down {
            let point = Arc::clone(&self.hosts[host].delivery_point);
            self.hosts[host].delivery.start(&point);
        }
        self.after_delivery(host).await;
        let was_killed = self.hosts[host].clock_wire.mend();
        assert!(done.is_ok() || was_killed, "{done:?}");
        let due: Vec<Key> = due.into_iter().filter(|key| !self.truth.facts.contains(key)).collect();
        self.learn(host, &due).await;
        assert!(
            was_killed || due.iter().all(|key| self.truth.facts.contains(key)),
            "notices that are due: {due:?}"
        );
        self.handed_over(host);
        // Sometimes the program ends after it.
        if was_killed || mishap != Mishap::None && self.coin() {
            let provider = &mut self.hosts[host];
            provider.clockwork = clockwork(&self.network, &provider.settings, &provider.clock_wire).await;
            // PostgreSQL takes its moment to see that the first is gone.
            let locks = "SELECT FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = \
                'advisory' AND datname = current_database()";
            while !provider.database.query(locks, &[]).await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// An envelope that came to mailboxes.
struct Brought<'a> {
    envid: &'a str,
    id: String,
    recipients: &'a [String],
    /// What each mailbox said, and pec-delivery then.
    says: &'a [Says],
    answers: &'a [String],
    mishap: Mishap,
    /// It may not be known whether a mailbox has it.
    doubtful: bool,
}

/// A fact that a provider has written.
struct Written {
    key: Key,
    happened_at: i64,
    time_source: String,
}

impl Play {
    /// Everything that can still happen happens, and nothing goes wrong any more.
    async fn settle(&mut self) {
        self.mishaps = 0;
        while let Some(at) =
            self.steps.iter().position(|step| !matches!(step, Step::Deliver { hop: Hop::Spento, .. }))
        {
            self.pass(ASK_AGAIN);
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
            let mut broken = audit(&provider.database, i64::MIN, Moment::from_unix(self.now)).await.unwrap();
            broken.retain(|violation| violation.rule != "everything-is-sealed");
            assert_eq!(broken, []);
        }
    }

    async fn what_is_written_is_true(&self) {
        let mut written = BTreeSet::new();
        for (host, provider) in self.hosts.iter().enumerate() {
            let sql = "SELECT concat_ws('|', kind, identificativo, recipient, message_id, \
                encode(notice_sha256, 'hex'), \
                       (SELECT count(*) FROM log WHERE log.event = fact.kind AND log.message_id = \
                fact.message_id), handed_over) FROM fact";
            for row in column(&provider.settings.database, sql).await {
                let [kind, id, recipient, rest @ ..] = &row.split('|').collect::<Vec<_>>()[..] else {
                    panic!("{row}")
                };
                let key: Key = (host, (*kind).to_owned(), (*id).to_owned(), (*recipient).to_owned());
                let Some(said) = self.truth.notices.get(&key) else {
                    // Of a copy that never got into the queue: another one may come, and be clean.
                    let is_taken = |k: &Key| {
                        (k.0, k.1.as_str(), &k.2) == (host, "presa-in-carico", &key.2)
                            && k.3.split(' ').any(|r| r == key.3)
                    };
                    assert!(
                        key.1 == "rilevazione-virus" && !self.truth.facts.iter().any(is_taken),
                        "a fact without its notice: {row}"
                    );
                    self.tell(&format!("nobody hears of {key:?}"));
                    written.insert(key);
                    continue;
                };
                let is_told = if self.truth.unheard.contains(*id) { "f" } else { "t" };
                assert_eq!(
                    rest,
                    [said.message_id.as_str(), hex(&sha256(&said.body)).as_str(), "1", is_told],
                    "{row}"
                );
                written.insert(key);
            }
        }
        assert_eq!(written, self.truth.facts);
        let missing: Vec<_> = self.truth.due.difference(&written).collect();
        assert!(missing.is_empty(), "facts that are not written: {missing:#?}");
    }

    fn everybody_was_told(&self) {
        let truth = &self.truth;
        for (key, said) in truth.notices.iter().filter(|(key, _)| !truth.unheard.contains(&key.2)) {
            let Said { message_id, fields, body, .. } = said;
            let to = fields.iter().find_map(|field| field.strip_prefix("To: ")).unwrap();
            let there =
                truth.mail.iter().any(|m| m.mailbox == to && m.message_id == *message_id && m.body == *body);
            assert!(there || truth.given_up.contains(message_id), "{to} has no {key:?}");
        }
        for (id, letter) in &truth.letters {
            for d in letter.daticert.destinatari.iter().filter(|d| d.tipo == TipoDestinatario::Certificato) {
                let recipient = d.indirizzo.to_ascii_lowercase();
                let is_one = |kind: &str| {
                    (ALFA..=BETA).any(|host| {
                        truth.facts.contains(&(host, kind.to_owned(), id.clone(), recipient.clone()))
                    })
                };
                match recipient.as_str() {
                    MUTO => {
                        assert!(is_one("errore-consegna") || is_one("preavviso-12") && is_one("preavviso-24"))
                    }
                    SPENTO => assert!(is_one("errore-consegna")),
                    NESSUNO => {
                        let is_removed = truth.removed.contains(&(recipient.clone(), id.clone()));
                        assert!(
                            (is_one("errore-consegna") || is_removed) && !is_one("avvenuta-consegna"),
                            "{id} has no end"
                        );
                    }
                    _ if (ALFA..=BETA).any(|host| {
                        truth.is_told(&(host, "rilevazione-virus".to_owned(), id.clone(), recipient.clone()))
                    }) =>
                    {
                        assert!(is_one("errore-consegna") && !is_one("avvenuta-consegna"))
                    }
                    _ => assert!(
                        is_one("avvenuta-consegna") || is_one("errore-consegna"),
                        "{recipient}: {id} has no end"
                    ),
                }
            }
        }
        // A second copy of an envelope is there only where it could not be known that there was a first.
        for (with, times) in &truth.saved {
            let doubts = truth.doubts.get(with).copied().unwrap_or_default();
            assert!(times.len() <= 1 + doubts, "{with:?}: {} copies, and {doubts} doubts", times.len());
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
    play.steps.push(Step::Bring {
        host: BETA,
        mail: Mail { account: None, ..letter(CARLA, &[BRUNO], "", "ordinary") },
    });
    while play.mishaps > 0
        && !play.steps.iter().all(|step| matches!(step, Step::Deliver { hop: Hop::Spento, .. }))
    {
        play.step().await;
    }
    play.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_notice_for_each_fact_in_whatever_order_and_however_often() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = number("PEC_TEST_SEED")
        .map_or_else(|| 0..number("PEC_TEST_CONVERSATIONS").unwrap_or(3), |seed| seed..seed + 1);
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
    let each: Vec<_> =
        mails.into_iter().map(|mail| tokio::spawn(async move { mail.give_to(to).await.queued() })).collect();
    let mut outcomes = Vec::new();
    for one in each {
        outcomes.push(one.await.unwrap());
    }
    outcomes
}

/// The same for copies that come to pec-delivery, each to one recipient; its answers.
async fn delivered_at_once(
    provider: &Provider,
    door: Door,
    copies: Vec<(Mail, Option<String>)>,
) -> Vec<String> {
    let path = provider.delivery.path(door);
    let each: Vec<_> = copies
        .into_iter()
        .map(|(mail, envid)| {
            let path = path.clone();
            tokio::spawn(async move { bring(&path, &mail, envid.as_deref()).await.remove(0) })
        })
        .collect();
    let mut answers = Vec::new();
    for one in each {
        answers.push(one.await.unwrap());
    }
    answers
}

/// What Postfix hands to pec-delivery of a message that a milter has changed.
fn copy(queued: &Queued, recipient: &str) -> (Mail, Option<String>) {
    (
        queued.copy_for(&queued.recipient(recipient)),
        queued.sender_parameters.as_ref().and_then(|parameters| envid(parameters)),
    )
}

/// Six copies of one envelope for Bruno, none of which is known to be in the queue when the next one comes.
async fn six_copies(alfa: &Provider, beta: &Provider) -> Vec<Queued> {
    let busta = letter(ANNA, &[BRUNO], "", "at once").give_to(alfa.access).await.queued();
    at_once(vec![Mail { account: None, ..busta.copy_for(BRUNO) }; 6], beta.incoming).await
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_come_at_the_same_moment_become_one_notice() {
    let network = Network::new().await;
    let (alfa, beta) = (provider(&network, &network.alfa).await, provider(&network, &network.beta).await);
    let busta = letter(ANNA, &[BRUNO], "", "at once").give_to(alfa.access).await.queued();
    let all =
        |answers: &[String]| assert!(answers.iter().all(|answer| answer.starts_with("250")), "{answers:?}");
    let one_notice = |taken: Vec<Taken>| {
        let (first, fields) = (taken[0].mail(), |mail: &Mail| mail.header.to_bytes());
        assert!(
            taken.iter().all(|t| t.mail().body == first.body && fields(&t.mail()) == fields(&first)),
            "not the same bytes"
        );
    };
    all(&delivered_at_once(&alfa, Door::Triggers, vec![copy(&busta, "accettazione+"); 6]).await);
    one_notice(alfa.server(Server::NoQuota).taken());
    // Nobody can know yet that they are the same envelope: each is taken, and they have one presa in carico
    // and one delivery.
    let copies = at_once(vec![Mail { account: None, ..busta.copy_for(BRUNO) }; 6], beta.incoming).await;
    all(&delivered_at_once(
        &beta,
        Door::Triggers,
        copies.iter().map(|c| copy(c, "presa-in-carico+")).collect(),
    )
    .await);
    one_notice(beta.server(Server::Outgoing).taken());
    all(&delivered_at_once(&beta, Door::Mailboxes, copies.iter().map(|c| copy(c, BRUNO)).collect()).await);
    one_notice(beta.server(Server::Outgoing).taken());
    assert!(!beta.server(Server::Mailboxes).taken().is_empty());
    for (provider, kinds) in [(&alfa, "accettazione"), (&beta, "avvenuta-consegna presa-in-carico")] {
        for table in [
            "SELECT string_agg(kind, ' ' ORDER BY kind) FROM fact",
            "SELECT string_agg(event, ' ' ORDER BY event) FROM log WHERE event NOT IN ('accesso', \
            'ricezione')",
        ] {
            assert_eq!(column(&provider.settings.database, table).await, [kinds], "{table}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_is_full_of_one_copy_has_not_refused_the_others() {
    let network = Network::new().await;
    let (alfa, beta) = (provider(&network, &network.alfa).await, provider(&network, &network.beta).await);
    let (mailboxes, facts) = (beta.server(Server::Mailboxes), "SELECT kind || ' ' || time_source FROM fact");
    let copies = six_copies(&alfa, &beta).await;
    let bring = async |number: usize| {
        delivered_at_once(&beta, Door::Mailboxes, vec![copy(&copies[number], BRUNO)]).await.remove(0)
    };
    // Of the first one the answer is lost; the second one is refused.
    mailboxes.lose_answers(1);
    assert!(bring(0).await.starts_with('4'));
    mailboxes.answer_message(BRUNO, Some("552 5.2.2 full"));
    assert!(bring(1).await.starts_with('4'));
    // While the third one is under way, which nobody knows the end of.
    mailboxes.answer_message(BRUNO, None);
    mailboxes.lock(BRUNO);
    let third = tokio::spawn({
        let (path, (mail, envid)) = (beta.delivery.path(Door::Mailboxes), copy(&copies[2], BRUNO));
        async move { bring_one(&path, &mail, envid.as_deref()).await }
    });
    mailboxes.waiting(BRUNO, 1).await;
    mailboxes.answer_recipient(BRUNO, Some("552 5.2.2 full"));
    assert!(bring(3).await.starts_with('4'));
    assert_eq!(
        column(&beta.settings.database, facts).await,
        [""; 0],
        "nothing is certified that may be false"
    );
    mailboxes.answer_recipient(BRUNO, None);
    mailboxes.unlock(BRUNO);
    assert!(third.await.unwrap().starts_with("250"));
    // The second in which the first one was saved is not known, and the receipt's row says so.
    assert_eq!(column(&beta.settings.database, facts).await, ["avvenuta-consegna mailbox-again"]);
    assert_eq!(mailboxes.taken().len(), 2);
    for number in [0, 1, 3, 4] {
        assert!(bring(number).await.starts_with("250"));
    }
    assert!(mailboxes.taken().is_empty(), "what the mailbox has, it is not handed again");
    assert_eq!(column(&beta.settings.database, facts).await.len(), 1);
    assert_eq!(beta.server(Server::Outgoing).taken().len(), 1);
}
