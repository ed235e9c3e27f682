//! Whoever writes in the database, without the key that lies on the hosts, has nothing signed and nothing
//! delivered.

use openssl::sha::sha256;
use pec_core::clock::Moment;
use pec_core::daticert::Tipo;
use pec_core::identifier::{fresh, hex};
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::rows::{FactKind, PassedKind, Ricevuta};
use pec_test_support::log::Log;
use pec_test_support::network::{Network, envelope, insert_ricevuta, sent};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::{Mail, Outcome, report};
use pec_test_support::tampering::{alterations, while_altered};

use crate::notices::held;
use crate::passing::not_accepted;
use crate::scene::{
    ANNA, BRUNO, CARLO, Delivery, ENVID, LETTER, OTHER_ENVID, custody, daticert_in, notice, only, to,
};

/// While each column of the table is another, nothing is delivered, told or written; each time there is an
/// alarm about `row`.
async fn holds(delivery: &Delivery, table: &str, row: &str, tried: impl AsyncFn() -> Vec<String>) {
    let log = Log::start();
    let database = &delivery.settings.database;
    // What is not found under its id any more is a trigger of nobody's.
    let alarms = || {
        log.lines(&["ERROR", "alarm", row]).len()
            + log.lines(&["ERROR", "the trigger is not believed", row]).len()
    };
    let facts = delivery.facts().await;
    let mut changes = alterations(database, table).await;
    changes.push(("mac, which is missing".to_owned(), format!("UPDATE {table} SET mac = '\\x'")));
    changes.push((
        "mac, by a key of nobody's".to_owned(),
        format!("UPDATE {table} SET mac = sha256(mac) || '\\x00000000'"),
    ));
    for (column, change) in changes {
        let before = alarms();
        let answers = while_altered(database, table, &change, &tried).await;
        for answer in &answers {
            assert!(answer.starts_with("451"), "{table}.{column}: {answer}");
        }
        assert!(alarms() > before, "{table}.{column}: no alarm");
        delivery.nobody_got_anything();
        assert_eq!(delivery.facts().await, facts, "{table}.{column}");
    }
}

async fn reported(delivery: &Delivery, report: &Mail) -> String {
    match report.give_to(delivery.reports).await {
        Outcome::Deferred(text) => text,
        // The row is found by another value now: somebody's failure, about which nothing is certified.
        Outcome::Queued(queued) if queued.added.is_empty() => "451 as it is".to_owned(),
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_of_custody_is_no_envelope() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let id = fresh().unwrap();
    let mail = Mail { queue_id: format!("4j{id}"), ..envelope(&network, &network.alfa, &[BRUNO], LETTER) };
    let trigger = beta.in_custody(&mail, &[BRUNO], &id, ENVID).await;
    let failed = report(Some(ENVID), &mail, &[(BRUNO, "failed", "4.4.1")], NOW + 86_400);
    holds(&beta, "custody", &id, async || {
        vec![beta.brought(&mail, ENVID).await, beta.round(&trigger).await, reported(&beta, &failed).await]
    })
    .await;
    // As it was, it is one.
    beta.delivered(&mail, ENVID).await;
    beta.triggered(&trigger).await;
    assert_eq!(beta.facts().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_of_what_a_milter_let_pass_is_none() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let envid = fresh().unwrap();
    let mail = Mail { queue_id: format!("4j{envid}"), ..envelope(&network, &network.alfa, &[BRUNO], LETTER) };
    beta.passes(&mail, PassedKind::Anomalia, &[BRUNO], &envid).await;
    holds(&beta, "passed", &envid, async || vec![beta.brought(&mail, &envid).await]).await;
    beta.delivered(&mail, &envid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_of_what_was_sent_is_no_acceptance_and_no_failure() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let id = fresh().unwrap();
    let mail = Mail { queue_id: format!("4j{id}"), ..envelope(&network, &network.alfa, &[BRUNO], LETTER) };
    let trigger = alfa.signed(&mail, &id, ENVID).await;
    let failed = report(Some(ENVID), &mail, &[(BRUNO, "failed", "4.4.1")], NOW + 86_400);
    holds(&alfa, "sent", &id, async || vec![alfa.round(&trigger).await, reported(&alfa, &failed).await])
        .await;
    alfa.triggered(&trigger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_of_what_was_not_accepted_is_no_notice() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let (mail, fact) = not_accepted(&network, &alfa).await;
    let id = alfa.rows("SELECT id FROM not_accepted").await.remove(0);
    // Under another id it is not found, which is no alarm: the fact is about nothing.
    let changed = format!("UPDATE not_accepted SET id = '{}'", fresh().unwrap());
    while_altered(&alfa.settings.database, "not_accepted", &changed, async || alfa.waits(&mail, &fact).await)
        .await;
    let others = alterations(&alfa.settings.database, "not_accepted").await;
    let log = Log::start();
    for (column, change) in others.iter().filter(|(column, _)| column != "id") {
        let before = log.lines(&["ERROR", "alarm", &id]).len();
        while_altered(&alfa.settings.database, "not_accepted", change, async || {
            alfa.waits(&mail, &fact).await
        })
        .await;
        assert_eq!(log.lines(&["ERROR", "alarm", &id]).len(), before + 1, "{column}");
    }
    alfa.nobody_got_anything();
    alfa.delivered(&mail, &fact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_fact_has_no_notice() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    // Made, and not sent.
    beta.outgoing.answer_message(ANNA, Some("451 4.3.0 not now"));
    let row = beta.database.custody("bb11").await.unwrap().unwrap();
    let (fact, trigger) = held(&beta, &row, FactKind::ErroreConsegna, BRUNO, "5.2.2").await;
    let trigger = Mail { queue_id: format!("4j{}", fact.id), ..trigger };
    beta.not_triggered(&trigger).await;
    beta.outgoing.answer_message(ANNA, None);
    holds(&beta, "fact", &fact.id, async || vec![beta.round(&trigger).await]).await;
    beta.triggered(&trigger).await;
    assert_eq!(notice(&network, &beta.sent_out(), "errore-consegna").consegna.as_deref(), Some(BRUNO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_is_about_the_row_that_it_was_written_about() {
    let log = Log::start();
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let row = beta.database.custody("bb11").await.unwrap().unwrap();
    let (fact, trigger) = held(&beta, &row, FactKind::ErroreConsegna, BRUNO, "5.2.2").await;
    // A row that is ours, under the id of another: put there from a backup, say.
    let other = envelope(&network, &network.alfa, &[BRUNO], &LETTER.replace("Ciao", "Addio"));
    beta.sql("DELETE FROM custody").await;
    beta.insert(custody(&other, &[BRUNO], "bb11", OTHER_ENVID)).await;
    let why = beta.not_triggered(&trigger).await;
    assert!(why.contains("about another row than the one that has the id bb11 now"), "{why}");
    assert_eq!(log.lines(&["ERROR", "alarm", "table=fact", &fact.id]).len(), 1);
    beta.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_another_hand_adds_lead_to_nothing() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let row = beta.database.custody("bb11").await.unwrap().unwrap();
    let (fact, trigger) = held(&beta, &row, FactKind::ErroreConsegna, BRUNO, "5.2.2").await;
    // A copy of each, MAC and all, under another id; what else comes round is written down for it.
    beta.sql(&format!(
        "INSERT INTO custody SELECT 'forged', 'forged', provider, mail_receipt, identificativo, daticert, \
        recipients, body_sha256, content_sha256, taken_at, mac FROM custody; \
         INSERT INTO fact (id, provider, identificativo, kind, recipient, source, source_mac, happened_at, \
        time_source, status, message_id, mac) \
         SELECT 'forged', provider, identificativo, 'avvenuta-consegna', recipient, source, source_mac, \
        happened_at, 'mailbox', '', message_id, mac FROM fact; \
         INSERT INTO trigger_body SELECT kind || '+forged', '\\x{}' FROM \
        unnest('{{avvenuta-consegna,errore-consegna}}'::text[]) AS kind",
        hex(&sha256(&trigger.body)),
    ))
    .await;
    for name in ["presa-in-carico", "avvenuta-consegna", "errore-consegna"] {
        beta.not_triggered(&to(&trigger, &format!("{name}+forged@notices.pec.internal"))).await;
    }
    // A trigger under another name: of a kind that the fact is not.
    beta.sql(&format!(
        "INSERT INTO trigger_body SELECT 'rilevazione-virus+{0}', body_sha256 FROM trigger_body WHERE \
        trigger_name = 'errore-consegna+{0}'",
        fact.id
    ))
    .await;
    beta.not_triggered(&to(&trigger, &format!("rilevazione-virus+{}@notices.pec.internal", fact.id))).await;
    beta.waits(&mail, "forged").await;
    // The envelope itself waits too: what became of it is a row that is not believed.
    beta.waits(&mail, ENVID).await;
    beta.nobody_got_anything();
    beta.sql("DELETE FROM fact WHERE id = 'forged'").await;
    beta.triggered(&trigger).await;
    assert_eq!(notice(&network, &beta.sent_out(), "errore-consegna").identificativo, fact.identificativo);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_says_that_something_was_handed_over() {
    let log = Log::start();
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let (id, envid) = (fresh().unwrap(), fresh().unwrap());
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let trigger = alfa.signed(&mail, &id, ENVID).await;
    alfa.passes(&mail, PassedKind::Ricevuta, &[ANNA], &envid).await;
    alfa.no_quota.answer_message(ANNA, Some("451 4.2.0 locked"));
    alfa.not_triggered(&trigger).await;
    alfa.no_quota.answer_message(ANNA, None);
    let fact = alfa.rows("SELECT id FROM fact").await.remove(0);
    for what in ["begun", "no", "no-mailbox", "taken", "other"] {
        for mac in [
            "'\\x'",
            "(SELECT mac FROM sent LIMIT 1)",
            "(SELECT mac FROM handover WHERE what = 'no' LIMIT 1)",
        ] {
            for message in [&fact, &envid] {
                alfa.sql(&format!(
                    "INSERT INTO handover VALUES ('{message}', '{ANNA}', 'forged', '{what}', now(), {mac})"
                ))
                .await;
            }
            alfa.not_triggered(&trigger).await;
            alfa.waits(&to(&mail, ANNA), &envid).await;
            alfa.sql("DELETE FROM handover WHERE attempt = 'forged'").await;
        }
    }
    for message in [&fact, &envid] {
        assert_eq!(log.lines(&["ERROR", "alarm", "table=handover", message]).len(), 15);
    }
    alfa.nobody_got_anything();
    alfa.triggered(&trigger).await;
    alfa.delivered(&to(&mail, ANNA), &envid).await;
    only(alfa.no_quota.taken());
    // Of which handing over it was said, and when.
    let changed = alterations(&alfa.settings.database, "handover").await;
    for (column, change) in changed
        .iter()
        .filter(|(column, _)| ["attempt", "what", "answered_at", "mac"].contains(&column.as_str()))
    {
        while_altered(&alfa.settings.database, "handover", change, async || {
            alfa.not_triggered(&trigger).await;
            alfa.waits(&to(&mail, ANNA), &envid).await;
        })
        .await;
        assert!(log.lines(&["ERROR", "alarm", "table=handover", &fact]).len() > 15, "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_another_hand_wrote_does_not_stop_a_notice_of_failure() {
    let log = Log::start();
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let daticert = daticert_in(&mail);
    let row = alfa.database.authentic(sent("aa11", ENVID, &daticert, &sha256(&mail.body))).unwrap();
    alfa.database
        .insert_sent(row.clone(), Entry::new(Event::Accesso, &daticert, daticert.data, "4j"), None)
        .await
        .unwrap();
    let message_id = fresh().unwrap();
    let ricevuta = Ricevuta {
        identificativo: daticert.identificativo.clone(),
        kind: Tipo::PresaInCarico,
        recipients: vec![CARLO.to_owned()],
        provider: "Beta Posta S.r.l.".to_owned(),
        message_id: message_id.clone(),
        happened_at: Moment::from_unix(NOW),
        content_sha256: vec![0; 32],
        sent_mac: row.mac().clone(),
    };
    let log_row = Entry::new(Event::Ricevuta(Tipo::PresaInCarico), &daticert, ricevuta.happened_at, "4j");
    insert_ricevuta(&alfa.database, &ricevuta, &log_row).await;
    // What was said of Carlo is made to speak of Bruno.
    alfa.sql(&format!("UPDATE ricevuta SET recipient = '{BRUNO}'")).await;
    let failed = report(Some(ENVID), &mail, &[(BRUNO, "failed", "4.4.1")], NOW + 86_400);
    let queued = failed.give_to(alfa.reports).await.queued();
    assert!(queued.recipient("errore-consegna+").starts_with("errore-consegna+"));
    assert!(!log.lines(&["ERROR", "alarm", "table=ricevuta", &message_id]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_key_that_was_replaced_are_believed_as_long_as_the_file_has_it() {
    let log = Log::start();
    let network = Network::new().await;
    let before = Delivery::start(&network, &network.beta).await;
    let id = fresh().unwrap();
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let trigger = before.in_custody(&mail, &[BRUNO], &id, ENVID).await;
    let file = &network.beta.settings.row_keys_file;
    let (old, new) = (std::fs::read_to_string(file).unwrap(), format!("{}\n", "5e".repeat(32)));

    std::fs::write(file, format!("{new}{old}")).unwrap();
    let both = Delivery::start(&network, &network.beta).await;
    both.delivered(&mail, ENVID).await;
    only(both.mailboxes.taken());
    both.sent_out();
    // Who has not heard of the new key yet waits.
    before.waits(&mail, ENVID).await;

    std::fs::write(file, &new).unwrap();
    let after = Delivery::start(&network, &network.beta).await;
    let why = after.not_triggered(&trigger).await;
    assert!(why.contains("carries no MAC of a key in pec_row_keys_file"), "{why}");
    assert!(
        !log.lines(&["ERROR", "alarm", "table=custody", &id, "put it back below the first line"]).is_empty()
    );
    after.nobody_got_anything();

    std::fs::write(file, format!("{new}{old}")).unwrap();
    Database::connect(&network.beta.settings, "test").await.unwrap().custody(&id).await.unwrap().unwrap();
    Delivery::start(&network, &network.beta).await.triggered(&trigger).await;
}
