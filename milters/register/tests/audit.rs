//! Each rule of certified mail, kept by an honest history and broken by one statement.

use pec_core::clock::Moment;
use pec_register::audit::{RULES, Violation, audit, row_before};
use pec_state::pool::connect_reader;
use pec_test_support::network::{Network, run};
use pec_test_support::pki::NOW;

/// A message to Bruno, accepted an hour ago, taken in charge and delivered at the other provider, whose
/// tables these are as well: as if one provider were both. And one that was refused, of which its client did
/// not hear.
const HONEST: &str = "
    INSERT INTO sent VALUES ('s', 'e', 'Alfa', 'pec.1@x', '', 'h', to_timestamp(NOW - 3600), 'm');
    INSERT INTO custody VALUES ('c', 'f', 'Alfa', 'r@x', 'pec.1@x', '', '{bruno@pec.beta.test}', 'h', 'h', to_timestamp(NOW - 3590), 'm');
    INSERT INTO fact (id, provider, identificativo, kind, recipient, source, source_mac, happened_at, time_source, status, message_id, mac, notice_sha256, made_with, notice_mac, handed_over) VALUES
        ('a', 'Alfa', 'pec.1@x', 'accettazione', '', 's', 'm', to_timestamp(NOW - 3600), 'clock', '', 'a@x', 'm', 'ha', 'v', 'm', true),
        ('p', 'Alfa', 'pec.1@x', 'presa-in-carico', 'bruno@pec.beta.test', 'c', 'm', to_timestamp(NOW - 3590), 'clock', '', 'p@x', 'm', 'hp', 'v', 'm', true),
        ('d', 'Alfa', 'pec.1@x', 'avvenuta-consegna', 'bruno@pec.beta.test', 'c', 'm', to_timestamp(NOW - 3580), 'mailbox', '', 'd@x', 'm', 'hd', 'v', 'm', true),
        ('r', 'Alfa', 'pec.0@x', 'non-accettazione', '', 'q', 'm', to_timestamp(NOW - 90001), 'clock', '', 'r@x', 'm', 'hr', 'v', 'm', false);
    INSERT INTO ricevuta VALUES ('pec.1@x', 'avvenuta-consegna', 'bruno@pec.beta.test', 'Beta', 'd@x', to_timestamp(NOW - 3580), 'h', 'm');
    INSERT INTO log (happened_at, event, identificativo, mittente, destinatari, gestore, certified_by, recipients, message_id, message_sha256, queue_id, time_source) SELECT
        to_timestamp(NOW - 3600), event, 'pec.1@x', 'anna@pec.alfa.test', '{bruno@pec.beta.test (certificato),carla@posta.test (esterno)}', 'Alfa', 'Alfa', '{}', id, sha, 'Q', 'clock'
        FROM (VALUES ('accesso', 'pec.1@x', 'h'::bytea), ('accettazione', 'a@x', 'ha'), ('presa-in-carico', 'p@x', 'hp'), ('avvenuta-consegna', 'd@x', 'hd'), ('ricevuta-avvenuta-consegna', 'd@x', 'h')) AS r (event, id, sha);
    INSERT INTO log (happened_at, event, identificativo, mittente, destinatari, gestore, certified_by, recipients, message_id, message_sha256, queue_id, time_source)
        VALUES (to_timestamp(NOW - 90001), 'non-accettazione', 'pec.0@x', 'anna@pec.alfa.test', '{}', 'Alfa', 'Alfa', '{}', 'r@x', 'hr', 'Q', 'clock');
    INSERT INTO seal VALUES (0, 0, 6, '{[1,7)}', 6, '{}', '2026-11-19', 'r', 'c', false, now());";

/// What breaks each rule, and only that one.
const BREAKS: &[(&str, &str)] = &[
    ("no-receipt-without-fact", "DELETE FROM fact WHERE id = 'p'"),
    ("every-receipt-is-a-row", "UPDATE log SET message_sha256 = 'other' WHERE event = 'avvenuta-consegna'"),
    ("every-receipt-is-a-row", "DELETE FROM log WHERE event = 'presa-in-carico'"),
    (
        "accepted-or-not",
        "INSERT INTO fact SELECT 'n', provider, identificativo, 'non-accettazione', recipient, source, mac, \
        happened_at, time_source, status, 'n@x', mac, 'hn', 'v', mac, true FROM fact WHERE id = 'a'; \
         INSERT INTO log (happened_at, event, identificativo, mittente, destinatari, gestore, certified_by, \
        recipients, message_id, message_sha256, queue_id, time_source) \
         SELECT happened_at, 'non-accettazione', identificativo, mittente, destinatari, gestore, \
        certified_by, recipients, 'n@x', 'hn', queue_id, time_source FROM log WHERE event = 'accesso'",
    ),
    (
        "one-outcome",
        "UPDATE fact SET kind = 'errore-consegna' WHERE id = 'p'; UPDATE log SET event = 'errore-consegna' \
        WHERE event = 'presa-in-carico'",
    ),
    ("times-in-order", "UPDATE fact SET happened_at = to_timestamp(NOW - 3601) WHERE id = 'd'"),
    (
        "every-message-ends",
        "UPDATE log SET happened_at = to_timestamp(NOW - 90001); UPDATE fact SET happened_at = \
        to_timestamp(NOW - 90001); DELETE FROM ricevuta; \
         DELETE FROM fact WHERE id = 'd'; DELETE FROM log WHERE event LIKE '%avvenuta-consegna'",
    ),
    (
        "no-notice-pending",
        "UPDATE fact SET notice_sha256 = NULL, handed_over = false, happened_at = to_timestamp(NOW - 3601) \
        WHERE id = 'd'; UPDATE log SET happened_at = to_timestamp(NOW - 3601) WHERE event = 'accesso'",
    ),
    // Made, and in nobody's custody a day later.
    (
        "no-notice-pending",
        "UPDATE fact SET handed_over = false WHERE id = 'a'; UPDATE fact SET happened_at = to_timestamp(NOW \
        - 90001); UPDATE log SET happened_at = to_timestamp(NOW - 90001)",
    ),
    (
        "no-custody-pending",
        "UPDATE custody SET taken_at = to_timestamp(NOW - 518401), recipients = \
        '{bruno@pec.beta.test,protocollo@comune.example}'",
    ),
    ("receipts-are-rows", "DELETE FROM log WHERE event = 'ricevuta-avvenuta-consegna'"),
    // The row of another recipient's receipt is not this one's.
    ("receipts-are-rows", "UPDATE log SET message_id = 'other@x' WHERE event = 'ricevuta-avvenuta-consegna'"),
    (
        "everything-is-sealed",
        "UPDATE seal SET high = 4; UPDATE log SET recorded_at = to_timestamp(NOW - 121)",
    ),
];

#[tokio::test]
async fn each_rule_is_kept_by_an_honest_history_and_broken_by_one_statement() {
    let now = Moment::from_unix(NOW);
    let network = Network::new().await;
    let database = &network.alfa.settings.database;
    let client = connect_reader(&network.alfa.settings, "test").await.unwrap();
    let sql = |text: &str| text.replace("NOW", &NOW.to_string());
    let honest = async || {
        let tables = "DELETE FROM sent; DELETE FROM custody; DELETE FROM fact; DELETE FROM ricevuta; DELETE \
            FROM log; DELETE FROM seal; ALTER SEQUENCE log_seq RESTART";
        let months = "SELECT log_month(to_timestamp(NOW)::date)";
        run(
            database,
            &sql(&format!(
                "SET session_replication_role = replica; {months}; {tables}; {HONEST}; UPDATE log \
                SET recorded_at = to_timestamp(NOW)"
            )),
        )
        .await;
    };
    let mut broken = Vec::new();
    // What daticert.xml calls the provider is a description: by its case or altogether it may be another name than the
    // directory's, by which facts and envelopes go.
    for name in ["gestore", "upper(gestore)", "'Nome Nuovo S.p.A.'"] {
        for (rule, statement) in BREAKS {
            honest().await;
            let called = format!("SET session_replication_role = replica; UPDATE log SET gestore = {name}");
            run(database, &called).await;
            assert_eq!(audit(&client, i64::MIN, now).await.unwrap(), [], "before {rule}, {name}");
            run(database, &sql(&format!("SET session_replication_role = replica; {statement}"))).await;
            let found: Vec<_> = audit(&client, i64::MIN, now).await.unwrap();
            let rules: Vec<_> = found.iter().map(|Violation { rule, .. }| *rule).collect();
            assert!(rules.contains(rule), "{rule}: {statement}: {name}: {found:?}");
            broken.push(*rule);
        }
    }
    for rule in RULES {
        assert!(broken.contains(&rule.name), "{} is broken by nothing here", rule.name);
    }
}

#[tokio::test]
async fn the_last_days_begin_after_the_last_seal_of_the_day_before() {
    let network = Network::new().await;
    let client = connect_reader(&network.alfa.settings, "test").await.unwrap();
    assert_eq!(row_before(&client, 2, Moment::from_unix(NOW)).await.unwrap(), 0);
    let seals = "INSERT INTO seal SELECT n, n * 10, n * 10 + 10, '{}', n * 10 + 10, '{}', \
        '2026-11-01'::date + n, 'r', 'c', false, now() FROM generate_series(0, 5) AS n";
    run(&network.alfa.settings.database, seals).await;
    let noon = Moment::from_unix(1_793_880_000);
    assert_eq!(noon.to_string(), "2026-11-05T12:00:00Z");
    assert_eq!(row_before(&client, 2, noon).await.unwrap(), 20, "seals of the first and the second");
}
