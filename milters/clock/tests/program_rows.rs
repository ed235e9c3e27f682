//! What happens beside messages, in the retained log.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pec_core::clock::Moment;
use pec_host::outages::Thing;
use pec_program::program_rows::ProgramRows;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_test_support::network::{Network, column, eventually, run};
use pec_test_support::pki::NOW;

#[tokio::test]
async fn rfc6109_2_3_starts_changes_and_outages_are_rows() {
    let network = Network::new().await;
    let mut settings = network.alfa.settings.clone();
    let database = Database::connect(&settings, "test").await.unwrap();
    std::fs::write(network.directory.path().join("main.cf"), "").unwrap();
    let (facts, waiting) = ProgramRows::of("pec-test", &settings, network.clock.clone());
    let outages = facts.outages();
    let configured = |settings: &_| facts.configured(settings, network.directory.path(), &database);

    waiting.begin(&facts, "1.0", database.clone());
    configured(&settings);
    facts.signs_with("aa", Moment::from_unix(NOW));
    // A reload without a change.
    configured(&settings);
    facts.signs_with("aa", Moment::from_unix(NOW));
    settings.values.insert("pec_provider_name".to_owned(), "Alfa".to_owned());
    configured(&settings);
    facts.signs_with("bb", Moment::from_unix(NOW));
    for _ in 0..2 {
        outages.down(Thing::Token, "pulled out");
        facts.note_once(Event::ListaRevoche, "http://ca.test/crl 2026".to_owned(), "a list");
    }
    outages.up(Thing::Token);
    // While nothing can be written, rows wait.
    run(&settings.database, "ALTER TABLE log RENAME TO log_away").await;
    facts.note(Event::Orologio, "synchronised");
    run(&settings.database, "ALTER TABLE log_away RENAME TO log").await;
    let begun = Instant::now();
    facts.end().await;
    // It waits for its last row, on a busy machine not long enough; who writes goes on.
    let last =
        async || column(&settings.database, "SELECT event FROM log WHERE event = 'arresto'").await.pop();
    assert!(begun.elapsed() > Duration::from_secs(4) || last().await.is_some());
    eventually(last).await;

    let rows = column(
        &settings.database,
        "SELECT concat_ws('|', event, identificativo, queue_id, error) FROM log ORDER BY seq",
    )
    .await;
    let place = "pec-test@mail.gestore.alfa.test|NOQUEUE";
    let until = Moment::from_unix(NOW);
    let told: Vec<_> = rows.iter().filter(|row| !row.starts_with("configurazione")).cloned().collect();
    assert_eq!(
        told,
        [
            format!("avvio|{place}|version 1.0"),
            format!("certificato-gestore|{place}|signs with the certificate of SHA-256 aa, until {until}"),
            format!("certificato-gestore|{place}|signs with the certificate of SHA-256 bb, until {until}"),
            format!("interruzione|{place}|token: does not answer: pulled out"),
            "lista-revoche|http://ca.test/crl 2026|NOQUEUE|a list".to_owned(),
            format!("ripristino|{place}|token: answers again"),
            format!("orologio|{place}|synchronised"),
            format!("arresto|{place}|ends"),
        ]
    );
    let configurations: Vec<_> = rows.iter().filter(|row| row.starts_with("configurazione")).collect();
    assert_eq!(configurations.len(), 2, "{configurations:?}");
    assert!(
        configurations[0].contains("main.cf was changed at ")
            && configurations[0].contains("its owner is uid "),
        "{configurations:?}"
    );
    assert!(
        configurations[1].contains("\npec_provider_name: \"Alfa\" (before: not set)\nall: {"),
        "{configurations:?}"
    );
}
