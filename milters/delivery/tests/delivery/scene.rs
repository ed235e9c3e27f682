//! pec-delivery of one provider, with what stands around it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use openssl::sha::sha256;
use pec_core::clock::Moment;
use pec_core::daticert::Daticert;
use pec_core::envelope::{Contents, claimed_type, contents, signed_parts};
use pec_core::identifier::fresh;
use pec_delivery::DeliveryPoint;
use pec_delivery::doors::{Door, serve};
use pec_host::parameters::Settings;
use pec_program::world::World;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::pool::CONNECTIONS;
use pec_state::rows::{Custody, Passed, PassedKind};
use pec_test_support::judges::{openssl_verify, xmllint_valid};
use pec_test_support::lmtp::{bring, bring_one};
use pec_test_support::mail_server::{MailServer, Taken};
use pec_test_support::network::{Host, Network, column, run, sent};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::{Mail, start_shared};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) const ANNA: &str = "anna@pec.alfa.test";
/// A colleague of Anna's: a mailbox of the same provider.
pub(crate) const ALDO: &str = "aldo@studio.example";
pub(crate) const BRUNO: &str = "bruno@pec.beta.test";
pub(crate) const CARLO: &str = "carlo@comune.example";
pub(crate) const LETTER: &str = "From: anna@pec.alfa.test\nTo: bruno@pec.beta.test\nSubject: \
    Citt=\nMessage-ID: <1@client.test>\n\nCiao\n";
/// Under it Postfix has an envelope that came, and one of our own.
pub(crate) const ENVID: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const OTHER_ENVID: &str = "fedcba98fedcba98fedcba98fedcba98";

/// pec-delivery of one provider.
pub(crate) struct Delivery {
    pub(crate) mailboxes: MailServer,
    pub(crate) no_quota: MailServer,
    pub(crate) outgoing: MailServer,
    pub(crate) database: Database,
    pub(crate) settings: Settings,
    pub(crate) to_mailboxes: PathBuf,
    to_triggers: PathBuf,
    pub(crate) reports: SocketAddr,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) serving: JoinSet<()>,
}

impl Delivery {
    pub(crate) async fn start(network: &Network, host: &Host) -> Self {
        Self::start_in(network, host, network.world(host).await).await
    }

    /// In a world that the test has changed.
    pub(crate) async fn start_in(network: &Network, host: &Host, world: World) -> Self {
        let (settings, database) = (world.settings.clone(), world.database.clone());
        let point = Arc::new(ArcSwap::from_pointee(DeliveryPoint::new(world)));
        let (stop, stopped) = watch::channel(false);
        let mut serving = JoinSet::new();
        let mut listen = |door: Door| {
            let path = network.directory.path().join(fresh().unwrap());
            serving.spawn(serve(
                door,
                UnixListener::bind(&path).unwrap(),
                Arc::clone(&point),
                stopped.clone(),
            ));
            path
        };
        let (to_mailboxes, to_triggers) = (listen(Door::Mailboxes), listen(Door::Triggers));
        Self {
            mailboxes: host.mailboxes.clone(),
            no_quota: host.mailboxes_no_quota.clone(),
            outgoing: host.outgoing.clone(),
            database,
            settings,
            to_mailboxes,
            to_triggers,
            reports: start_shared(point, ()).await,
            stop,
            serving,
        }
    }

    /// Postfix brings a message for a mailbox.
    pub(crate) async fn brought(&self, mail: &Mail, envid: &str) -> String {
        bring_one(&self.to_mailboxes, mail, Some(envid)).await
    }

    /// The same, and all that follows is done.
    #[track_caller]
    pub(crate) fn delivered(&self, mail: &Mail, envid: &str) -> impl Future<Output = ()> {
        is_done(self.brought(mail, envid))
    }

    /// The same, and it waits; gives back why.
    #[track_caller]
    pub(crate) fn waits(&self, mail: &Mail, envid: &str) -> impl Future<Output = String> {
        is_waiting(self.brought(mail, envid))
    }

    /// Postfix's queue manager sends a copy round for a trigger.
    pub(crate) async fn round(&self, mail: &Mail) -> String {
        bring_one(&self.to_triggers, mail, None).await
    }

    /// The same, and all that follows is done.
    #[track_caller]
    pub(crate) fn triggered(&self, mail: &Mail) -> impl Future<Output = ()> {
        is_done(self.round(mail))
    }

    /// The same, and it waits; gives back why.
    #[track_caller]
    pub(crate) fn not_triggered(&self, mail: &Mail) -> impl Future<Output = String> {
        is_waiting(self.round(mail))
    }

    /// Postfix brings a message for several mailboxes in one transaction.
    pub(crate) async fn brought_to_all(&self, mail: &Mail, envid: &str) -> Vec<String> {
        bring(&self.to_mailboxes, mail, Some(envid)).await
    }

    pub(crate) async fn rows(&self, sql: &str) -> Vec<String> {
        column(&self.settings.database, sql).await
    }

    /// To whom something is being handed over of which nobody knows how it ended, or was.
    pub(crate) async fn open_handovers(&self) -> Vec<String> {
        let ended = "EXISTS (SELECT FROM handover AS e WHERE e.attempt = b.attempt AND e.what <> 'begun')";
        self.rows(&format!(
            "SELECT message || ' ' || recipient FROM handover AS b WHERE what = 'begun' AND NOT {ended}"
        ))
        .await
    }

    pub(crate) async fn sql(&self, sql: &str) {
        run(&self.settings.database, sql).await;
    }

    /// The database can be read and not written, or both again.
    pub(crate) async fn read_only(&self, is: bool) {
        let name = self.settings.database.split(' ').find_map(|part| part.strip_prefix("dbname=")).unwrap();
        let server = std::env::var("PEC_TEST_DATABASE").unwrap();
        run(&server, &format!("ALTER DATABASE {name} SET default_transaction_read_only = {is}")).await;
        // That holds for new connections.
        run(
            &server,
            &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
        )
        .await;
        while !column(&server, &format!("SELECT usename FROM pg_stat_activity WHERE datname = '{name}'"))
            .await
            .is_empty()
        {}
        let mut found_broken = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let database = self.database.clone();
            found_broken.spawn(async move { drop(database.sent("x").await) });
        }
        found_broken.join_all().await;
        self.database.sent("x").await.unwrap();
    }

    /// What is a fact: kind, recipient, and whose time it has.
    pub(crate) async fn facts(&self) -> Vec<String> {
        self.rows("SELECT concat_ws(' ', kind, recipient, time_source) FROM fact ORDER BY kind, recipient")
            .await
    }

    /// The one message that was given to Postfix for another provider.
    #[track_caller]
    pub(crate) fn sent_out(&self) -> Taken {
        only(self.outgoing.taken())
    }

    /// The one notice that a mailbox of ours got.
    #[track_caller]
    pub(crate) fn notice_in_mailbox(&self) -> Taken {
        only(self.no_quota.taken())
    }

    /// Nobody got anything.
    #[track_caller]
    pub(crate) fn nobody_got_anything(&self) {
        for server in [&self.mailboxes, &self.no_quota, &self.outgoing] {
            let taken = server.taken();
            assert!(taken.is_empty(), "{taken:?}");
        }
    }

    /// An envelope is signed here; the copy that comes round for its acceptance.
    pub(crate) async fn signed(&self, mail: &Mail, id: &str, envid: &str) -> Mail {
        let daticert = daticert_in(mail);
        let sent = self.database.authentic(sent(id, envid, &daticert, &sha256(&mail.body))).unwrap();
        self.database
            .insert_sent(sent, Entry::new(Event::Accesso, &daticert, daticert.data, "4j"), None)
            .await
            .unwrap();
        to(mail, &format!("accettazione+{id}@notices.pec.internal"))
    }

    /// An envelope is taken in charge here for these recipients; the copy that comes round for its presa in
    /// carico.
    pub(crate) async fn in_custody(&self, mail: &Mail, recipients: &[&str], id: &str, envid: &str) -> Mail {
        self.insert(custody(mail, recipients, id, envid)).await;
        to(mail, &format!("presa-in-carico+{id}@notices.pec.internal"))
    }

    pub(crate) async fn insert(&self, custody: Custody) {
        let log = Entry::new(
            Event::Ricezione,
            &Daticert::parse(custody.daticert.as_bytes()).unwrap(),
            custody.taken_at,
            "4j",
        );
        self.database.insert_custody(&self.database.authentic(custody).unwrap(), &log).await.unwrap();
    }

    /// A milter lets a message pass.
    pub(crate) async fn passes(&self, mail: &Mail, kind: PassedKind, recipients: &[&str], envid: &str) {
        let recipients = recipients.iter().map(|r| r.to_ascii_lowercase()).collect();
        let passed =
            Passed { envid: envid.to_owned(), kind, body_sha256: sha256(&mail.body).to_vec(), recipients };
        self.database.insert_passed(&self.database.authentic(passed).unwrap(), None).await.unwrap();
    }
}

#[track_caller]
fn is_done(answer: impl Future<Output = String>) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let answer = answer.await;
        assert!(answer.starts_with("250 "), "{at}: {answer}");
    }
}

#[track_caller]
fn is_waiting(answer: impl Future<Output = String>) -> impl Future<Output = String> {
    let at = std::panic::Location::caller();
    async move {
        let answer = answer.await;
        assert!(answer.starts_with("451 4.3.0 "), "{at}: {answer}");
        answer
    }
}

/// The row of an envelope from Anna that was taken in charge.
pub(crate) fn custody(mail: &Mail, recipients: &[&str], id: &str, envid: &str) -> Custody {
    let daticert = daticert_in(mail);
    let body = Bytes::from(mail.body.clone());
    Custody {
        id: id.to_owned(),
        envid: envid.to_owned(),
        provider: daticert.gestore_emittente.clone(),
        mail_receipt: "ricevute@gestore.alfa.test".to_owned(),
        identificativo: daticert.identificativo.clone(),
        daticert: daticert.to_xml(),
        recipients: recipients.iter().map(|r| (*r).to_owned()).collect(),
        body_sha256: sha256(&mail.body).to_vec(),
        content_sha256: sha256(&body[signed_parts(&mail.header, &body).unwrap().content]).to_vec(),
        taken_at: Moment::from_unix(NOW),
    }
}

#[track_caller]
pub(crate) fn only(mut taken: Vec<Taken>) -> Taken {
    assert_eq!(taken.len(), 1, "{:?}", taken.iter().map(|t| &t.recipient).collect::<Vec<_>>());
    taken.remove(0)
}

/// The copy of a message that goes to one recipient.
pub(crate) fn to(mail: &Mail, recipient: &str) -> Mail {
    to_all(mail, &[recipient])
}

pub(crate) fn to_all(mail: &Mail, recipients: &[&str]) -> Mail {
    Mail { recipients: recipients.iter().map(|r| format!("<{r}>")).collect(), ..mail.clone() }
}

pub(crate) fn open(mail: &Mail) -> Contents {
    let body = Bytes::from(mail.body.clone());
    let parts = signed_parts(&mail.header, &body).unwrap();
    contents(&body, parts.content, claimed_type(&mail.header).unwrap()).unwrap()
}

pub(crate) fn daticert_in(mail: &Mail) -> Daticert {
    open(mail).daticert
}

/// That this is a signed notice of that kind, with nothing of Postfix's ways in it; its data.
pub(crate) fn notice(network: &Network, taken: &Taken, kind: &str) -> Daticert {
    let mail = taken.mail();
    let header = &mail.header;
    assert_eq!(header.text("X-Ricevuta").as_deref(), Some(kind));
    assert_eq!(
        (header.first("X-Trasporto"), header.first("Received"), header.first("Return-Path")),
        (None, None, None)
    );
    for once in ["From", "To", "Subject", "Date", "Message-ID"] {
        assert_eq!(header.all(once).count(), 1, "{once}");
    }
    let daticert = daticert_in(&mail);
    assert_eq!(daticert.tipo.as_str(), kind);
    assert_eq!(header.text("Date").unwrap(), daticert.data.rfc5322());
    assert_eq!(header.text("X-Riferimento-Message-ID"), daticert.msgid);
    xmllint_valid(&daticert.to_xml()).unwrap();
    openssl_verify(&taken.data, &network.pki.ca_file()).unwrap();
    daticert
}
