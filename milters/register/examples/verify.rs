//! How fast a register is verified: makes one of so many rows in a database of its own, seals it, and
//! computes it again.
//!
//!     PEC_TEST_DATABASE='host=... user=postgres dbname=postgres' cargo run --release -p pec-register --example verify -- 1000000
//!
//! Below the 300,000 rows a second that are promised it fails.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use pec_core::clock::Moment;
use pec_register::checkpoint::LogKey;
use pec_register::sealer::Sealer;
use pec_register::verify::{Wanted, verify};
use pec_test_support::network::{Network, run};
use pec_test_support::pki::NOW;

/// Rows a second, at least.
const LEAST: f64 = 300_000.0;

#[tokio::main]
async fn main() {
    let rows: u64 = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().expect("a number of rows"));
    let network = Network::new().await;
    let (settings, now) = (&network.alfa.settings, Moment::from_unix(NOW));
    println!("{rows} rows: made like those of a message that went to one recipient");
    let sql = format!(
        "INSERT INTO log (happened_at, event, identificativo, msgid, mittente, destinatari, oggetto, \
        gestore, certified_by, recipients, message_id, message_sha256, queue_id, \
             envid, account, client_address, tls, time_source) \
         SELECT now(), (ARRAY['accesso', 'accettazione', 'ricezione', 'presa-in-carico', \
        'avvenuta-consegna'])[1 + n % 5], \
             'pec.20261126140000.' || md5((n / 5)::text) || '@gestore.alfa.test', '<' || md5((n / 5)::text) \
        || '@client.test>', 'utente' || n % 1000 || '@pec.alfa.test', \
             ARRAY['destinatario' || n % 977 || '@pec.beta.test (certificato)'], 'Oggetto del messaggio \
        numero ' || n / 5, 'Alfa PEC S.p.A.', 'Alfa PEC S.p.A.', \
             ARRAY['destinatario' || n % 977 || '@pec.beta.test'], 'pec.20261126140000.' || md5(n::text) || \
        '@gestore.alfa.test', sha256(n::text::bytea), '4h' || to_hex(n), \
             md5(n::text), 'utente' || n % 1000 || '@pec.alfa.test', '192.0.2.' || n % 250, 'TLSv1.3 \
        TLS_AES_256_GCM_SHA384', 'clock' FROM generate_series(1, {rows}) AS n"
    );
    let begun = Instant::now();
    run(&settings.database, &sql).await;
    run(&settings.database, "VACUUM ANALYZE log").await;
    println!("inserted in {:.1} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let mut sealer = Sealer::open(settings, "example").await.unwrap().expect("nobody else seals");
    while sealer.seal(now).await.unwrap().is_some() {}
    let sealing = begun.elapsed().as_secs_f64();
    println!("sealed in {sealing:.1} s, {:.0} rows a second", rows as f64 / sealing);
    let wanted = Wanted { keys: vec![LogKey::read(settings).unwrap().public()], ..Wanted::default() };
    let mut best = 0_f64;
    for _ in 0..3 {
        let begun = Instant::now();
        let outcome = verify(settings, &wanted, now, |_, _| ()).await.unwrap();
        assert_eq!((outcome.wrong, outcome.rows), (0, rows));
        let speed = rows as f64 / begun.elapsed().as_secs_f64();
        println!("verified in {:.2} s, {speed:.0} rows a second", begun.elapsed().as_secs_f64());
        best = best.max(speed);
    }
    assert!(best >= LEAST, "{best:.0} rows a second are fewer than the {LEAST:.0} that are promised");
}
