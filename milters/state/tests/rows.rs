//! Rows are believed as these programs wrote them, and no other way; what was being handed over is known to
//! its end.
#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use openssl::sha::sha256;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Tipo};
use pec_core::header::Header;
use pec_core::identifier::fresh;
use pec_host::parameters::Settings;
use pec_state::authentic::Authentic;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::handover::{Attempt, Begun};
use pec_state::log::Entry;
use pec_state::pool::{ConnectError, DatabaseError};
use pec_state::rows::{
    About, Custody, Fact, FactKind, MadeNotice, NotAccepted, Passed, PassedKind, Ricevuta, Sent,
};
use pec_test_support::log::Log;
use pec_test_support::network::{Network, column, daticert_of, insert_ricevuta, run, sent};
use pec_test_support::pki::NOW;
use pec_test_support::tampering::{alterations, while_altered};

const BRUNO: &str = "bruno@pec.beta.test";
const CARLO: &str = "carlo@comune.example";
/// The columns of a fact that say what its notice came out as.
const OF_NOTICE: [&str; 3] = ["notice_sha256", "made_with", "notice_mac"];

/// A handing over that begins.
async fn begun(database: &Database, message: &str, recipient: &str) -> Attempt {
    match database.begin_handover(message, recipient).await.unwrap() {
        Begun::Now { attempt, .. } => attempt,
        Begun::Taken(at) => panic!("it was taken at {at}"),
    }
}

/// One row of each table, about one envelope.
struct Rows {
    network: Network,
    database: Database,
    url: String,
    daticert: Daticert,
    sent: Authentic<Sent>,
    custody: Authentic<Custody>,
    fact: Fact,
}

impl Rows {
    async fn new() -> Self {
        let network = Network::new().await;
        let database = Database::connect(&network.alfa.settings, "test").await.unwrap();
        let daticert = daticert_of(&network.alfa, &[BRUNO, CARLO], &Header::default());
        let log = |event| Entry::new(event, &daticert, daticert.data, "4j");
        let sent = database.authentic(sent(&fresh().unwrap(), "envid", &daticert, &sha256(b"x"))).unwrap();
        let custody = database.authentic(custody(&sent, &fresh().unwrap(), "envid")).unwrap();
        database
            .insert_sent(sent.clone(), log(Event::Accesso), Some((custody.clone(), log(Event::Ricezione))))
            .await
            .unwrap();

        let refused = NotAccepted {
            id: fresh().unwrap(),
            provider: "Alfa".into(),
            daticert: daticert.to_xml(),
            inglese: "because".into(),
        };
        let refused = database.authentic(refused).unwrap();
        let mut of_refused = fact(FactKind::NonAccettazione, "", (&refused.id, &refused));
        of_refused.identificativo = "other@gestore.alfa.test".into();
        database
            .insert_not_accepted(
                &refused,
                of_refused,
                &made(),
                &log(Event::Notice(FactKind::NonAccettazione)),
            )
            .await
            .unwrap();

        let passed = Passed {
            envid: "passed".into(),
            kind: PassedKind::Ricevuta,
            body_sha256: vec![2; 32],
            recipients: vec![BRUNO.into()],
        };
        database.insert_passed(&database.authentic(passed).unwrap(), None).await.unwrap();

        let fact = fact(FactKind::Accettazione, "", (&sent.id, &sent));
        let fact = Fact { identificativo: sent.identificativo.clone(), ..fact };
        assert!(
            database
                .insert_fact(
                    &fact,
                    &made(),
                    &log(Event::Notice(FactKind::Accettazione)),
                    "anna@pec.alfa.test"
                )
                .await
                .unwrap()
                .is_some()
        );
        let ricevuta = Ricevuta {
            identificativo: sent.identificativo.clone(),
            kind: Tipo::AvvenutaConsegna,
            recipients: vec![BRUNO.into()],
            provider: "Beta".into(),
            message_id: fresh().unwrap(),
            happened_at: Moment::from_unix(NOW),
            content_sha256: vec![3; 32],
            sent_mac: sent.mac().clone(),
        };
        assert!(insert_ricevuta(&database, &ricevuta, &log(Event::Ricevuta(Tipo::AvvenutaConsegna))).await);
        database
            .take_handover(&begun(&database, "passed", BRUNO).await, Moment::from_unix(NOW))
            .await
            .unwrap();
        Self { url: network.alfa.settings.database.clone(), network, database, daticert, sent, custody, fact }
    }

    async fn id(&self, table: &str) -> String {
        column(&self.url, &format!("SELECT id FROM {table}")).await.remove(0)
    }

    /// While each column of the table is another, what is read by a value of it is forged, or not found; each
    /// forged row is an alarm.
    async fn is_believed_only_as_written<T: Debug>(
        &self,
        table: &'static str,
        key: &str,
        read: impl AsyncFn() -> Result<Option<T>, DatabaseError>,
    ) {
        let log = Log::start();
        assert!(read().await.unwrap().is_some());
        let mut changes = alterations(&self.url, table).await;
        changes.push(("no MAC".into(), format!("UPDATE {table} SET mac = '\\x'")));
        changes.push((
            "another row's MAC".into(),
            format!("UPDATE {table} SET mac = '\\x{}'", hex_of(&self.another_rows_mac(table).await)),
        ));
        let mut found = 0;
        for (what, change) in &changes {
            let alarms =
                || log.lines(&["ERROR", "alarm: a row was not written by these programs", key]).len();
            let before = alarms();
            match while_altered(&self.url, table, change, &read).await {
                Ok(None) => {}
                Err(DatabaseError::Forged { .. }) => {
                    found += 1;
                    assert_eq!(alarms(), before + 1, "{table}: {what}");
                }
                other => panic!("{table}: {what}: {other:?}"),
            }
        }
        // Only what it is looked for by hides it.
        assert!(found + 1 >= changes.len(), "{table}: {found} of {} changes", changes.len());
        assert!(read().await.unwrap().is_some());
    }

    /// A MAC that these programs made, over a row of the same table.
    async fn another_rows_mac(&self, table: &str) -> String {
        let database = &self.database;
        match table {
            "sent" => mac(&database.authentic(sent("other", "other", &self.daticert, b"")).unwrap()),
            "custody" => mac(&database.authentic(custody(&self.sent, "other", "other")).unwrap()),
            "not_accepted" => mac(&database
                .authentic(NotAccepted {
                    id: "o".into(),
                    provider: "".into(),
                    daticert: "".into(),
                    inglese: "".into(),
                })
                .unwrap()),
            "passed" => {
                let row = Passed {
                    envid: "other".into(),
                    kind: PassedKind::Locale,
                    body_sha256: vec![],
                    recipients: vec![],
                };
                mac(&database.authentic(row).unwrap())
            }
            _ => mac(&database.authentic(fact(FactKind::Accettazione, "", ("other", &self.sent))).unwrap()),
        }
    }
}

fn mac<T>(row: &Authentic<T>) -> String {
    format!("{:?}", row.mac())
}

/// A MAC is shown as SQL has it.
fn hex_of(mac: &str) -> &str {
    assert!(mac.len() == 72 && mac.bytes().all(|b| b.is_ascii_hexdigit()), "{mac}");
    mac
}

fn custody(sent: &Sent, id: &str, envid: &str) -> Custody {
    Custody {
        id: id.to_owned(),
        envid: envid.to_owned(),
        provider: sent.provider.clone(),
        mail_receipt: "ricevute@gestore.alfa.test".to_owned(),
        identificativo: sent.identificativo.clone(),
        daticert: sent.daticert.clone(),
        recipients: vec![BRUNO.to_owned()],
        body_sha256: vec![1; 32],
        content_sha256: vec![2; 32],
        taken_at: Moment::from_unix(NOW),
    }
}

fn fact<T>(kind: FactKind, recipient: &str, (source, row): (&str, &Authentic<T>)) -> Fact {
    let about = About {
        provider: "Alfa PEC S.p.A.",
        identificativo: "1@gestore.alfa.test",
        source,
        source_mac: row.mac(),
    };
    let fact = Fact::new(kind, about, Moment::from_unix(NOW - 60), "gestore.alfa.test").unwrap();
    Fact { recipient: recipient.into(), ..fact }
}

fn made() -> MadeNotice {
    MadeNotice { sha256: vec![5; 32], with: "0/x".into() }
}

#[tokio::test]
async fn a_row_is_believed_only_as_it_was_written() {
    let rows = Rows::new().await;
    let database = &rows.database;
    let sent = &rows.sent;
    rows.is_believed_only_as_written("sent", &sent.id, async || database.sent(&sent.id).await).await;
    rows.is_believed_only_as_written("sent", &sent.id, async || database.sent_with_envid("envid").await)
        .await;
    rows.is_believed_only_as_written("sent", &sent.id, async || {
        database.sent_with_identifier(&sent.identificativo).await
    })
    .await;
    rows.is_believed_only_as_written("custody", &rows.custody.id, async || {
        database.custody(&rows.custody.id).await
    })
    .await;
    rows.is_believed_only_as_written("custody", &rows.custody.id, async || {
        database.custody_with_envid("envid").await
    })
    .await;
    rows.is_believed_only_as_written("passed", "passed", async || database.in_queue("passed").await).await;
    let refused = rows.id("not_accepted").await;
    rows.is_believed_only_as_written("not_accepted", &refused, async || {
        database.not_accepted(&refused).await
    })
    .await;
}

#[tokio::test]
async fn a_fact_is_believed_only_as_it_was_written_and_its_notice_only_as_it_was_made() {
    let rows = Rows::new().await;
    let (database, fact) = (&rows.database, &rows.fact);
    run(&rows.url, &format!("DELETE FROM fact WHERE id <> '{}'", fact.id)).await;
    rows.is_believed_only_as_written("fact", &fact.id, async || database.fact_with_id(&fact.id).await).await;
    // Of that: what it came out as.
    for change in [
        "notice_sha256 = '\\x00'",
        "notice_sha256 = NULL",
        "made_with = 'x'",
        "made_with = NULL",
        "notice_mac = NULL",
        "notice_mac = mac",
    ] {
        let known = while_altered(&rows.url, "fact", &format!("UPDATE fact SET {change}"), async || {
            database.fact_with_id(&fact.id).await
        })
        .await;
        assert!(
            matches!(known, Err(DatabaseError::Forged { table: "fact.notice", .. })),
            "{change}: {known:?}"
        );
    }
    // By its envelope it is found by four values.
    let columns = alterations(&rows.url, "fact").await;
    let keys = ["provider", "identificativo", "kind", "recipient"];
    for (column, change) in columns.iter().filter(|(column, _)| !keys.contains(&column.as_str())) {
        let read = async || database.fact(&fact.provider, &fact.identificativo, fact.kind, "").await;
        assert!(
            matches!(while_altered(&rows.url, "fact", change, read).await, Err(DatabaseError::Forged { .. })),
            "{column}"
        );
    }
}

#[tokio::test]
async fn one_facts_notice_is_not_anothers() {
    let rows = Rows::new().await;
    let (database, log) = (
        &rows.database,
        Entry::new(Event::Notice(FactKind::PresaInCarico), &rows.daticert, rows.daticert.data, "4j"),
    );
    let other = Fact {
        identificativo: rows.fact.identificativo.clone(),
        ..fact(FactKind::PresaInCarico, BRUNO, (&rows.custody.id, &rows.custody))
    };
    database
        .insert_fact(&other, &MadeNotice { sha256: vec![6; 32], with: "0/x".into() }, &log, "x")
        .await
        .unwrap();
    let swap = "UPDATE fact AS f SET notice_sha256 = o.notice_sha256, made_with = o.made_with, notice_mac = \
        o.notice_mac FROM fact AS o WHERE o.id <> f.id";
    let read = async || (database.fact_with_id(&rows.fact.id).await, database.fact_with_id(&other.id).await);
    let (one, two) = while_altered(&rows.url, "fact", swap, read).await;
    assert!(one.is_err() && two.is_err());
}

#[tokio::test]
async fn a_receipt_counts_only_as_it_was_written_and_only_about_the_envelope_that_it_came_for() {
    let rows = Rows::new().await;
    let (database, identificativo) = (&rows.database, &rows.sent.identificativo);
    let log = Log::start();
    let message_id = column(&rows.url, "SELECT message_id FROM ricevuta").await.remove(0);
    assert!(database.is_delivered(identificativo, BRUNO).await.unwrap());
    assert!(database.is_in_other_hands(identificativo, BRUNO).await.unwrap());
    for (what, change) in alterations(&rows.url, "ricevuta").await {
        let before = log.lines(&["ERROR", "alarm", "table=ricevuta", &message_id]).len();
        let counts = async || database.is_in_other_hands(identificativo, BRUNO).await.unwrap();
        assert!(!while_altered(&rows.url, "ricevuta", &change, counts).await, "{what}");
        assert!(
            what == "identificativo"
                || log.lines(&["ERROR", "alarm", "table=ricevuta", &message_id]).len() > before,
            "{what}"
        );
    }
    // Another envelope of ours under the same identifier: what came for the first says nothing of it.
    let other = database.authentic(sent(&fresh().unwrap(), "other", &rows.daticert, b"other")).unwrap();
    run(&rows.url, "DELETE FROM sent").await;
    database
        .insert_sent(other, Entry::new(Event::Accesso, &rows.daticert, rows.daticert.data, "4j"), None)
        .await
        .unwrap();
    assert!(!database.is_delivered(identificativo, BRUNO).await.unwrap());
}

#[tokio::test]
async fn a_copy_that_was_taken_counts_only_as_it_was_written() {
    let rows = Rows::new().await;
    let log = Entry::new(Event::Notice(FactKind::PresaInCarico), &rows.daticert, rows.daticert.data, "4j");
    let (custody, database) = (&rows.custody, &rows.database);
    let presa = Fact {
        identificativo: custody.identificativo.clone(),
        ..fact(FactKind::PresaInCarico, BRUNO, (&custody.id, custody))
    };
    let presa = Fact { provider: custody.provider.clone(), ..presa };
    database.insert_fact(&presa, &made(), &log, "x").await.unwrap();
    let taken =
        async || database.taken(&custody.provider, &custody.identificativo, &custody.content_sha256).await;
    assert!(taken().await.unwrap().recipients.contains(BRUNO));
    for table in ["custody", "fact"] {
        for (column, change) in alterations(&rows.url, table).await {
            match while_altered(&rows.url, table, &change, &taken).await {
                Err(DatabaseError::Forged { .. }) => {}
                Ok(taken) => assert!(
                    taken.recipients.is_empty() && !taken.other_content,
                    "{table}.{column}: {taken:?}"
                ),
                other => panic!("{table}.{column}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn rows_of_another_hand_hide_no_deadline_and_have_an_end() {
    let rows = Rows::new().await;
    // More than a page, before the row of ours, within one second, about nothing.
    let forged = format!(
        "INSERT INTO fact SELECT (forged).* FROM (
           SELECT jsonb_populate_record(fact, jsonb_build_object('id', 'forged' || n, 'recipient', 'r' || n,
                    'source', 'none', 'happened_at', happened_at - interval '1 hour' + n * interval '1 ms')) AS forged
           FROM fact, generate_series(1, 250) AS n WHERE id = '{}') AS them",
        rows.fact.id
    );
    run(&rows.url, &forged).await;
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..10 {
        let (page, end) = rows.database.deadlines(0, Moment::from_unix(NOW), after.as_ref()).await.unwrap();
        found.extend(page.into_iter().map(|deadline| deadline.fact.id.clone()));
        if end.is_none() {
            assert_eq!(found, [rows.fact.id]);
            return;
        }
        after = end;
    }
    panic!("the pages have no end");
}

#[tokio::test]
async fn a_deadline_is_that_of_a_row_of_ours() {
    let rows = Rows::new().await;
    let (database, log) = (&rows.database, Log::start());
    let due = async || {
        let (page, end) = database.deadlines(0, Moment::from_unix(NOW), None).await.unwrap();
        assert!(end.is_some(), "a row that is not believed ends no page");
        page
    };
    let page = due().await;
    assert_eq!(
        page.iter().map(|d| (&d.fact.id, &d.sent.id)).collect::<Vec<_>>(),
        [(&rows.fact.id, &rows.sent.id)]
    );
    assert_eq!(
        page[0]
            .certified
            .iter()
            .filter(|(_, key)| key == BRUNO)
            .map(|(tipo, _)| tipo.as_str())
            .collect::<Vec<_>>(),
        ["avvenuta-consegna"]
    );
    run(&rows.url, &format!("DELETE FROM fact WHERE id <> '{}'", rows.fact.id)).await;
    // What is another kind of fact is no accettazione; that ends the page too. What its notice came out as is
    // nothing that a deadline follows from.
    let not_found = ["fact.kind"];
    for table in ["fact", "sent"] {
        for (column, change) in alterations(&rows.url, table).await {
            if !not_found.contains(&format!("{table}.{column}").as_str())
                && !OF_NOTICE.contains(&column.as_str())
            {
                assert!(while_altered(&rows.url, table, &change, &due).await.is_empty(), "{table}.{column}");
            }
        }
    }
    assert!(!log.lines(&["ERROR", "alarm", "table=fact", &rows.fact.id]).is_empty());
    // The envelope is another row of ours than the one that was accepted.
    let other = database.authentic(sent(&rows.sent.id, "other", &rows.daticert, b"other")).unwrap();
    run(&rows.url, "DELETE FROM sent").await;
    database
        .insert_sent(other, Entry::new(Event::Accesso, &rows.daticert, rows.daticert.data, "4j"), None)
        .await
        .unwrap();
    assert!(due().await.is_empty());
}

#[tokio::test]
async fn what_is_to_be_raised_is_a_fact_of_ours() {
    let rows = Rows::new().await;
    let preavviso = Fact {
        kind: FactKind::Preavviso12,
        recipient: BRUNO.into(),
        id: fresh().unwrap(),
        ..rows.fact.clone()
    };
    rows.database.insert_fact_without_notice(&preavviso).await.unwrap();
    let raised = async || {
        rows.database
            .to_start()
            .await
            .unwrap()
            .into_iter()
            .map(|r| r.known.fact.id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(raised().await, std::slice::from_ref(&preavviso.id));
    run(&rows.url, &format!("DELETE FROM fact WHERE id <> '{}'", preavviso.id)).await;
    for (column, change) in alterations(&rows.url, "fact")
        .await
        .iter()
        .filter(|(column, _)| !OF_NOTICE.contains(&column.as_str()))
    {
        assert!(while_altered(&rows.url, "fact", change, &raised).await.is_empty(), "{column}");
    }
    // Once it is handed over, nobody has anything to do.
    let attempt = begun(&rows.database, &preavviso.id, "anna@pec.alfa.test").await;
    rows.database.take_handover(&attempt, Moment::from_unix(NOW)).await.unwrap();
    assert!(raised().await.is_empty());
}

#[tokio::test]
async fn the_first_fact_holds_and_a_notice_is_made_once() {
    let rows = Rows::new().await;
    let (database, log) = (
        &rows.database,
        Entry::new(Event::Notice(FactKind::ErroreConsegna), &rows.daticert, rows.daticert.data, "4j"),
    );
    let first = fact(FactKind::ErroreConsegna, BRUNO, (&rows.custody.id, &rows.custody));
    let second = Fact {
        id: fresh().unwrap(),
        status: "5.1.1".into(),
        happened_at: Moment::from_unix(NOW),
        ..first.clone()
    };
    assert_eq!(*database.insert_fact_without_notice(&first).await.unwrap().fact, first);
    let held = database.insert_fact_without_notice(&second).await.unwrap();
    assert_eq!((&*held.fact, &held.made), (&first, &None));
    assert_eq!(database.insert_fact(&second, &made(), &log, "x").await.unwrap(), None);
    assert!(database.insert_made(&held, &made(), &log, "x").await.unwrap().is_some());
    let other = MadeNotice { sha256: vec![9; 32], with: "other".into() };
    assert_eq!(
        database.insert_made(&held, &other, &log, "x").await.unwrap(),
        None,
        "something was written meanwhile"
    );
    assert_eq!(database.fact_with_id(&first.id).await.unwrap().unwrap().made, Some(made()));
    assert_eq!(
        column(&rows.url, "SELECT count(*)::text FROM log WHERE event = 'errore-consegna'").await,
        ["1"]
    );
    assert_eq!(
        column(&rows.url, &format!("SELECT what FROM handover WHERE message = '{}'", first.id)).await,
        ["begun"],
        "it is being handed over"
    );
    // Over what was made with another certificate there may be something else.
    let known = database.fact_with_id(&first.id).await.unwrap().unwrap();
    assert!(database.insert_made(&known, &other, &log, "x").await.unwrap().is_some());
    let known = database.fact_with_id(&first.id).await.unwrap().unwrap();
    assert_eq!(known.made, Some(other.clone()));
    // What was taken is not made again.
    database.take_handover(&begun(database, &first.id, "x").await, Moment::from_unix(NOW)).await.unwrap();
    assert_eq!(database.insert_made(&known, &made(), &log, "x").await.unwrap(), None);
}

#[tokio::test]
async fn a_handing_over_is_open_until_its_answer_is_known() {
    let rows = Rows::new().await;
    let (database, at) = (&rows.database, Moment::from_unix);
    let begin = async || match database.begin_handover("m", BRUNO).await.unwrap() {
        Begun::Now { attempt, again } => (attempt, again),
        taken => panic!("{taken:?}"),
    };
    let (first, again) = begin().await;
    assert!(!again);
    // Each no ends one that began.
    database.end_handover(&first, at(NOW)).await.unwrap();
    let (lost, again) = begin().await;
    assert!(!again);
    // One whose answer was lost stays, whatever comes after it.
    for _ in 0..2 {
        let (attempt, again) = begin().await;
        assert!(again);
        database.end_handover(&attempt, at(NOW)).await.unwrap();
    }
    // To somebody else it is another one.
    assert!(matches!(database.begin_handover("m", CARLO).await.unwrap(), Begun::Now { again: false, .. }));
    database.end_handover(&lost, at(NOW)).await.unwrap();
    // What was taken is known for good.
    assert_eq!(database.taken_at("m", BRUNO).await.unwrap(), None);
    let (attempt, again) = begin().await;
    assert!(!again);
    database.take_handover(&attempt, at(NOW + 90)).await.unwrap();
    assert_eq!(database.begin_handover("m", BRUNO).await.unwrap(), Begun::Taken(at(NOW + 90)));
    assert_eq!(database.taken_at("m", BRUNO).await.unwrap(), Some(at(NOW + 90)));
    assert_eq!(database.taken_at("m", CARLO).await.unwrap(), None);
}

#[tokio::test]
async fn that_there_is_no_mailbox_counts_since_nothing_else_was_answered() {
    let rows = Rows::new().await;
    let (database, at) = (&rows.database, Moment::from_unix);
    let none = async |seconds| {
        let attempt = begun(database, "m", BRUNO).await;
        database.end_without_mailbox(&attempt, at(NOW + seconds)).await.unwrap().unix() - NOW
    };
    assert_eq!((none(0).await, none(60).await), (0, 0));
    // An answer that was lost is none.
    begun(database, "m", BRUNO).await;
    assert_eq!(none(120).await, 0);
    let attempt = begun(database, "m", BRUNO).await;
    database.end_handover(&attempt, at(NOW + 180)).await.unwrap();
    assert_eq!(
        (none(180).await, none(181).await, none(240).await),
        (180, 181, 181),
        "of one second, the other answer is the later one"
    );
}

#[tokio::test]
async fn of_an_envelope_each_copy_counts() {
    let rows = Rows::new().await;
    let (database, first) = (&rows.database, &rows.custody);
    let other = database.authentic(custody(&rows.sent, "other", "other")).unwrap();
    let log = Entry::new(Event::Ricezione, &rows.daticert, rows.daticert.data, "4j");
    database.insert_custody(&other, &log).await.unwrap();
    let stranger = Custody {
        identificativo: "2@gestore.alfa.test".into(),
        ..custody(&rows.sent, "stranger", "stranger")
    };
    let stranger = database.authentic(stranger).unwrap();
    database.insert_custody(&stranger, &log).await.unwrap();

    let begin = async |custody: &Custody, recipient| {
        let attempt = Attempt::new(&custody.envid, recipient).unwrap();
        match database.begin_handover_of(custody, &attempt).await.unwrap() {
            Begun::Now { again, .. } => (attempt, again),
            taken => panic!("{taken:?}"),
        }
    };
    let (of_first, again) = begin(first, BRUNO).await;
    assert!(!again);
    for (custody, is_open) in [(first, true), (&other, true), (&stranger, false)] {
        assert_eq!(database.is_handover_open(custody, BRUNO).await.unwrap(), is_open, "{}", custody.id);
        assert!(!database.is_handover_open(custody, CARLO).await.unwrap());
    }
    let (of_other, again) = begin(&other, BRUNO).await;
    assert!(again && !begin(&other, CARLO).await.1 && !begin(&stranger, BRUNO).await.1);
    for attempt in [of_other, of_first] {
        assert!(database.is_handover_open(&other, BRUNO).await.unwrap());
        database.end_handover(&attempt, Moment::from_unix(NOW)).await.unwrap();
    }
    assert!(!database.is_handover_open(&other, BRUNO).await.unwrap());
    assert!(!begin(&other, BRUNO).await.1);
}

#[tokio::test]
async fn that_something_was_taken_is_believed_only_as_it_was_written() {
    let rows = Rows::new().await;
    let log = Log::start();
    let (database, at) = (&rows.database, Moment::from_unix(NOW));
    let message = fresh().unwrap();
    run(&rows.url, "DELETE FROM handover").await;
    for message in [&message, "other"] {
        database.take_handover(&begun(database, message, BRUNO).await, at).await.unwrap();
    }
    for change in [
        "SET answered_at = answered_at - interval '1 day' WHERE what = 'taken'".to_owned(),
        "SET attempt = attempt || 'x'".to_owned(),
        "SET mac = '\\x'".to_owned(),
        format!(
            "SET mac = o.mac FROM handover AS o WHERE o.message = 'other' AND h.message = '{message}' AND \
            o.what = h.what"
        ),
        format!("SET message = '{message}', recipient = '{CARLO}' WHERE message = 'other'"),
    ] {
        let about = if change.contains(CARLO) { CARLO } else { BRUNO };
        let read = async || {
            (database.taken_at(&message, about).await, database.begin_handover(&message, about).await)
        };
        let (taken, begun) =
            while_altered(&rows.url, "handover", &format!("UPDATE handover AS h {change}"), read).await;
        assert!(
            matches!(
                (&taken, &begun),
                (Err(DatabaseError::Forged { .. }), Err(DatabaseError::Forged { .. }))
            ),
            "{change}: {taken:?} {begun:?}"
        );
    }
    // One that is open stays open: nobody else ends it.
    begun(database, &message, CARLO).await;
    let answer = format!(
        "INSERT INTO handover SELECT message, recipient, attempt, 'no', now(), mac FROM handover WHERE \
        recipient = '{CARLO}'"
    );
    let again = while_altered(&rows.url, "handover", &answer, async || {
        database.begin_handover(&message, CARLO).await
    })
    .await;
    assert!(matches!(again, Err(DatabaseError::Forged { .. })), "{again:?}");
    assert!(log.lines(&["ERROR", "alarm", "table=handover", &message]).len() > 10);
    assert_eq!(database.taken_at(&message, BRUNO).await.unwrap(), Some(at));
}

#[tokio::test]
async fn keys_roll_over() {
    let rows = Rows::new().await;
    let settings = &rows.network.alfa.settings;
    let file = &settings.row_keys_file;
    let (old, new) = (std::fs::read_to_string(file).unwrap(), format!("{}\n", "5e".repeat(32)));
    let with = async |keys: &str| {
        std::fs::write(file, keys).unwrap();
        Database::connect(settings, "test").await.unwrap()
    };
    // Both are believed, and the first one writes.
    let both = with(&format!("{new}{old}")).await;
    assert!(both.sent(&rows.sent.id).await.unwrap().is_some());
    both.take_handover(&begun(&both, "m", BRUNO).await, Moment::from_unix(NOW)).await.unwrap();
    let before = with(&old).await;
    assert!(
        matches!(before.taken_at("m", BRUNO).await, Err(DatabaseError::Forged { .. })),
        "a host that has not heard of the new key"
    );
    let only_new = with(&new).await;
    assert!(only_new.taken_at("m", BRUNO).await.unwrap().is_some());
    assert!(matches!(only_new.sent(&rows.sent.id).await, Err(DatabaseError::Forged { .. })));
}

#[tokio::test]
async fn without_a_key_there_is_no_start() {
    let network = Network::new().await;
    for keys in [None, Some(""), Some("# nothing\n"), Some("abc\n")] {
        let row_keys_file = network.directory.path().join("keys");
        let _ = std::fs::remove_file(&row_keys_file);
        if let Some(keys) = keys {
            std::fs::write(&row_keys_file, keys).unwrap();
        }
        let error = Database::connect(&Settings { row_keys_file, ..network.alfa.settings.clone() }, "test")
            .await
            .unwrap_err();
        assert!(
            matches!(error, ConnectError::File(_)) && error.to_string().starts_with("pec_row_keys_file = "),
            "{keys:?}: {error}"
        );
    }
}

#[tokio::test]
async fn the_role_of_the_programs_changes_nothing_from_which_anything_follows() {
    let network = Network::new().await;
    let url = &network.alfa.settings.database;
    let may = async |what: &str| column(url, &format!("SELECT {what}")).await.remove(0);
    for table in
        ["sent", "not_accepted", "custody", "passed", "fact", "handover", "trigger_body", "ricevuta", "log"]
    {
        for privilege in ["DELETE", "TRUNCATE", "UPDATE", "REFERENCES", "TRIGGER"] {
            assert_eq!(
                may(&format!("has_table_privilege('pec_milter', '{table}', '{privilege}')::text")).await,
                "false",
                "{table} {privilege}"
            );
        }
    }
    let columns = "SELECT table_name || '.' || column_name FROM information_schema.column_privileges \
                   WHERE grantee = 'pec_milter' AND privilege_type = 'UPDATE' ORDER BY 1";
    assert_eq!(
        column(url, columns).await,
        [
            "fact.deadlines_seen",
            "fact.handed_over",
            "fact.made_with",
            "fact.notice_mac",
            "fact.notice_sha256",
        ]
    );
}
