//! Envelopes that come while a commit is under way share the next one, and each hears what became of its own.
#![allow(clippy::unwrap_used)]

use pec_core::header::Header;
use pec_state::authentic::Authentic;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::pool::DatabaseError;
use pec_state::rows::{Custody, Sent};
use pec_test_support::network::{Network, column, daticert_of, run, sent};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

/// What recipients of ours have of an envelope.
type Ours = Option<(Authentic<Custody>, Entry)>;

/// An envelope to Bruno, and to a colleague if it is `ours`.
fn envelope(
    network: &Network,
    database: &Database,
    id: &str,
    envid: &str,
    ours: bool,
) -> (Authentic<Sent>, Entry, Ours) {
    let header = Header::parse(b"Subject: Prova\r\n").unwrap();
    let mut daticert = daticert_of(&network.alfa, &["bruno@pec.beta.test", "aldo@studio.example"], &header);
    daticert.identificativo = format!("{id}@gestore.alfa.test");
    let entry = |event| Entry::new(event, &daticert, daticert.data, id);
    let sent = sent(id, envid, &daticert, &[0; 32]);
    let custody = Custody {
        id: format!("custody-{id}"),
        envid: envid.to_owned(),
        provider: sent.provider.clone(),
        mail_receipt: "ricevute@gestore.alfa.test".to_owned(),
        identificativo: sent.identificativo.clone(),
        daticert: sent.daticert.clone(),
        recipients: vec!["aldo@studio.example".to_owned()],
        body_sha256: sent.body_sha256.clone(),
        content_sha256: vec![1; 32],
        taken_at: sent.signed_at,
    };
    let ours = ours.then(|| (database.authentic(custody).unwrap(), entry(Event::Ricezione)));
    (database.authentic(sent).unwrap(), entry(Event::Accesso), ours)
}

struct Writing {
    network: Network,
    database: Database,
    other: Client,
    outcomes: JoinSet<(String, Result<(), DatabaseError>)>,
}

impl Writing {
    /// One envelope, `first`, whose transaction stands before a lock.
    async fn standing() -> Self {
        let network = Network::new().await;
        let database = Database::connect(&network.alfa.settings, "test").await.unwrap();
        let (other, connection) =
            tokio_postgres::connect(&network.alfa.settings.database, NoTls).await.unwrap();
        tokio::spawn(connection);
        other.batch_execute("BEGIN; LOCK TABLE sent").await.unwrap();
        let mut writing = Self { network, database, other, outcomes: JoinSet::new() };
        writing.insert("first", "envid-first");
        writing.standing_backend("").await;
        writing
    }

    fn insert(&mut self, id: &str, envid: &str) {
        self.insert_with(id, envid, false);
    }

    fn insert_with(&mut self, id: &str, envid: &str, ours: bool) {
        let (database, id, (sent, log, custody)) =
            (self.database.clone(), id.to_owned(), envelope(&self.network, &self.database, id, envid, ours));
        self.outcomes.spawn(async move { (id, database.insert_sent(sent, log, custody).await) });
    }

    /// The process of PostgreSQL that stands before the lock, once it is another than `before`.
    async fn standing_backend(&self, before: &str) -> String {
        let sql = "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND \
            wait_event_type = 'Lock'";
        let standing = async {
            loop {
                match self.ask(sql).await.pop() {
                    Some(pid) if pid != before => break pid,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(8), standing).await.unwrap()
    }

    async fn ask(&self, sql: &str) -> Vec<String> {
        column(&self.network.alfa.settings.database, sql).await
    }

    /// The lock goes; which were not written.
    async fn failed(&mut self) -> Vec<String> {
        self.other.batch_execute("ROLLBACK").await.unwrap();
        let mut failed = Vec::new();
        while let Some(outcome) = self.outcomes.join_next().await {
            let (id, outcome) = outcome.unwrap();
            if outcome.is_err() {
                failed.push(id);
            }
        }
        failed
    }
}

#[tokio::test]
async fn those_that_wait_share_a_commit() {
    let mut writing = Writing::standing().await;
    for n in 0..20 {
        writing.insert(&format!("{n}"), &format!("envid-{n}"));
    }
    assert_eq!(writing.failed().await, [""; 0]);
    assert_eq!(writing.ask("SELECT count(*)::text FROM sent").await, ["21"]);
    assert_eq!(writing.ask("SELECT count(*)::text FROM log WHERE event = 'accesso'").await, ["21"]);
    assert_eq!(writing.ask("SELECT count(DISTINCT xmin::text)::text FROM sent").await, ["2"]);
    // Each with its log row.
    assert_eq!(
        writing
            .ask("SELECT count(*)::text FROM sent s JOIN log l ON l.queue_id = s.id AND l.xmin = s.xmin")
            .await,
        ["21"]
    );
}

#[tokio::test]
async fn what_recipients_of_ours_have_is_written_with_the_envelope_or_neither_is() {
    let mut writing = Writing::standing().await;
    for n in 0..6 {
        writing.insert_with(&format!("{n}"), &format!("envid-{n}"), n % 2 == 0);
    }
    // The envelope could be written, and what they have of it could not.
    run(&writing.network.alfa.settings.database, "ALTER TABLE custody ADD CHECK (id <> 'custody-bad')").await;
    writing.insert_with("bad", "envid-bad", true);
    assert_eq!(writing.failed().await, ["bad"]);
    assert_eq!(writing.ask("SELECT id FROM sent ORDER BY id").await, ["0", "1", "2", "3", "4", "5", "first"]);
    assert_eq!(
        writing.ask("SELECT id FROM custody ORDER BY id").await,
        ["custody-0", "custody-2", "custody-4"]
    );
    let together = "SELECT l.queue_id FROM log l JOIN sent s ON s.id = l.queue_id AND s.xmin = l.xmin LEFT \
        JOIN custody c ON c.envid = s.envid \
                    WHERE CASE l.event WHEN 'ricezione' THEN c.xmin = l.xmin ELSE l.event = 'accesso' END \
        ORDER BY l.queue_id";
    assert_eq!(
        writing.ask(together).await,
        ["0", "0", "1", "2", "2", "3", "4", "4", "5", "first"],
        "each with its log rows"
    );
    // One alone is as whole.
    writing.insert_with("alone", "envid-alone", true);
    assert_eq!(writing.failed().await, [""; 0]);
    writing.insert_with("bad", "envid-bad", true);
    assert_eq!(writing.failed().await, ["bad"]);
    assert_eq!(writing.ask("SELECT id FROM sent WHERE id IN ('alone', 'bad')").await, ["alone"]);
    assert_eq!(
        writing.ask("SELECT event FROM log WHERE queue_id IN ('alone', 'bad') ORDER BY event").await,
        ["accesso", "ricezione"]
    );
    let custody = writing.database.custody_with_envid("envid-alone").await.unwrap().unwrap();
    assert_eq!(custody.recipients, ["aldo@studio.example"]);
}

#[tokio::test]
async fn soon_after_a_commit_the_next_are_waited_for() {
    let mut writing = Writing::standing().await;
    assert_eq!(writing.failed().await, [""; 0]);
    for round in 0..100 {
        // Right after another's commit: one, and once it has been taken, a second one.
        for (n, one) in ["before", "one", "two"].into_iter().enumerate() {
            writing.insert(&format!("{one}-{round}"), &format!("envid-{one}-{round}"));
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            if n == 0 {
                assert_eq!(writing.failed().await, [""; 0]);
            }
        }
        assert_eq!(writing.failed().await, [""; 0]);
        // A machine that is busy elsewhere may take longer than they are waited for.
        if writing
            .ask(
                "SELECT count(*)::text FROM sent s JOIN sent t ON t.xmin = s.xmin WHERE s.id LIKE \
            'one-%' AND t.id LIKE 'two-%'",
            )
            .await
            != ["0"]
        {
            return;
        }
    }
    panic!("no two shared a commit");
}

#[tokio::test]
async fn one_that_is_not_taken_spoils_it_for_no_other() {
    let mut writing = Writing::standing().await;
    for n in 0..5 {
        writing.insert(&format!("{n}"), &format!("envid-{n}"));
    }
    // There is one with this envelope id.
    writing.insert("twice", "envid-first");
    for n in 5..10 {
        writing.insert(&format!("{n}"), &format!("envid-{n}"));
    }
    assert_eq!(writing.failed().await, ["twice"]);
    assert_eq!(writing.ask("SELECT count(*)::text FROM sent").await, ["11"]);
    assert_eq!(writing.ask("SELECT count(*)::text FROM log WHERE event = 'accesso'").await, ["11"]);
}

#[tokio::test]
async fn a_connection_that_breaks_amid_them_is_success_for_none() {
    let mut writing = Writing::standing().await;
    for n in 0..5 {
        writing.insert(&format!("{n}"), &format!("envid-{n}"));
    }
    // That of the first, and then that in which the others stand before the lock together.
    let mut backend = writing.standing_backend("").await;
    for last in [false, true] {
        run(&writing.network.alfa.settings.database, &format!("SELECT pg_terminate_backend({backend})"))
            .await;
        if !last {
            backend = writing.standing_backend(&backend).await;
        }
    }
    assert_eq!(writing.failed().await.len(), 6);
    assert_eq!(writing.ask("SELECT count(*)::text FROM sent").await, ["0"]);
    writing.insert("later", "envid-later");
    assert_eq!(writing.failed().await, [""; 0]);
    assert_eq!(writing.ask("SELECT id FROM sent").await, ["later"]);
}

#[tokio::test]
async fn they_are_written_though_who_does_it_together_has_ended() {
    let network = Network::new().await;
    let settings = network.alfa.settings.clone();
    // What runs on a runtime ends with it.
    let connect = std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(Database::connect(&settings, "test"))
    });
    let database = connect.join().unwrap().unwrap();
    let (sent, log, custody) = envelope(&network, &database, "later", "envid-later", false);
    database.insert_sent(sent, log, custody).await.unwrap();
    assert_eq!(column(&network.alfa.settings.database, "SELECT id FROM sent").await, ["later"]);
}
