//! A month leaves the database: only when its time is over, only what is proved to be in the days' files, all
//! of it or nothing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use pec_core::clock::Moment;
use pec_register::attest;
use pec_register::checkpoint::{LogKey, origin};
use pec_register::days;
use pec_register::evidence;
use pec_register::evidence::archive::Unpacked;
use pec_register::evidence::collect::{Sources, collect};
use pec_register::prover::{Prover, signature_of, timestamp_of};
use pec_register::retire::{due, lines_that_left, retire};
use pec_register::sealer::Sealer;
use pec_register::tree::Tiles;
use pec_register::tsa::Tsa;
use pec_register::verify::{Finding, Outcome, Wanted, verify};
use pec_state::pool::connect_registrar;
use pec_test_support::network::{Network, column};
use pec_test_support::pki::NOW;
use pec_test_support::tsa::Tsa as TsaServer;
use tokio_postgres::{Client, NoTls};

/// 2029-05-01, when thirty months have passed since the end of October 2026.
const FREE: i64 = 1_872_288_000;

/// A register that began on 30 October 2026 and has closed its days up to 2 November.
struct Scene {
    network: Network,
    _server: TsaServer,
    /// The database's owner.
    owner: Client,
}

impl Scene {
    async fn new() -> Self {
        let mut network = Network::new().await;
        let server = TsaServer::start();
        network.alfa.settings.timestamps = Some(server.settings());
        let (owner, connection) =
            tokio_postgres::connect(&network.alfa.settings.database, NoTls).await.unwrap();
        tokio::spawn(connection);
        let scene = Self { network, _server: server, owner };
        scene.sql("SELECT log_month('2026-10-01'), log_month('2026-11-01'), log_month('2026-12-01')").await;
        let settings = &scene.network.alfa.settings;
        let mut sealer = Sealer::open(settings, "test").await.unwrap().unwrap();
        for (time, rows) in [
            ("2026-10-30 12:00", 3),
            ("2026-10-31 23:59", 270),
            ("2026-11-01 00:01", 1),
            ("2026-11-02 12:00", 20),
        ] {
            scene.rows(time, rows).await;
            while sealer.seal(Moment::from_unix(NOW)).await.unwrap().is_some() {}
            if time == "2026-11-01 00:01" {
                // Late: it came in on the last of October, and is in the file of November's first.
                scene.rows("2026-10-31 23:59:59", 1).await;
                sealer.seal(Moment::from_unix(NOW)).await.unwrap().unwrap();
            }
        }
        drop(sealer);
        let client = connect_registrar(settings, "test").await.unwrap();
        while days::close_next(&client, &scene.tiles(), &origin(settings), Moment::from_unix(NOW))
            .await
            .unwrap()
            .is_some()
        {}
        scene.complete();
        scene
    }

    fn tiles(&self) -> Tiles {
        Tiles::new(self.directory())
    }

    fn directory(&self) -> &Path {
        &self.network.alfa.settings.register
    }

    fn file(&self, day: &str) -> PathBuf {
        days::file_of(self.directory(), day)
    }

    /// What is not signed and timestamped gets it.
    fn complete(&self) {
        let settings = &self.network.alfa.settings;
        let signer = self.network.signer(&self.network.alfa);
        let tsa = Tsa::new(settings.timestamps.as_ref().unwrap()).unwrap();
        let prover = Prover { signer: &signer, tsa: Some(&tsa), now: Moment::from_unix(NOW) };
        days::complete(self.directory(), &prover).unwrap();
        attest::endorse(self.directory(), &LogKey::read(settings).unwrap().public(), &prover).unwrap();
    }

    async fn sql(&self, sql: &str) {
        self.owner.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    async fn rows(&self, time: &str, count: i64) {
        self.sql(&format!(
            "INSERT INTO log (recorded_at, happened_at, event, identificativo, mittente, destinatari, \
            gestore, certified_by, recipients, queue_id, time_source) \
             SELECT '{time}+00', '{time}+00', 'accettazione', 'opec1.' || n, 'anna@pec.alfa.test', '{{}}', \
            'Alfa', 'Alfa', '{{}}', 'Q' || n, 'clock' \
             FROM generate_series(1, {count}) AS n"
        ))
        .await;
    }

    async fn retire(&self, month: &str, now: i64) -> Result<(u64, usize), String> {
        let left = retire(&self.network.alfa.settings, &self.owner, month, Moment::from_unix(now))
            .await
            .map_err(|e| e.to_string())?;
        Ok((left.rows, left.files))
    }

    async fn verify(&self) -> Outcome {
        let settings = &self.network.alfa.settings;
        let wanted = Wanted { keys: vec![LogKey::read(settings).unwrap().public()], ..Wanted::default() };
        verify(settings, &wanted, Moment::from_unix(FREE), |_, _| ()).await.unwrap()
    }

    /// Rows in the log and months that left, in one word each.
    async fn state(&self) -> Vec<String> {
        column(
            &self.network.alfa.settings.database,
            "SELECT (SELECT count(*) FROM log) || ' ' || (SELECT count(*) FROM retired)",
        )
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_whose_time_is_over_leaves_and_the_register_verifies_on() {
    let scene = Scene::new().await;
    assert_eq!(due(&scene.owner, 30, Moment::from_unix(FREE - 1)).await.unwrap(), Vec::<String>::new());
    assert_eq!(due(&scene.owner, 30, Moment::from_unix(FREE)).await.unwrap(), ["2026-10"]);
    let young = scene.retire("2026-10", FREE - 1).await;
    assert_eq!(
        young,
        Err("the month 2026-10 stays: pec_log_months = 30, so that it may leave from 2029-05-01 on"
            .to_owned())
    );
    assert_eq!(
        scene.retire("2024-01", FREE).await,
        Err("the month 2024-01 is not in the database".to_owned())
    );
    assert_eq!(scene.retire("soon", FREE).await, Err("soon: is no month (YYYY-MM)".to_owned()));
    assert_eq!(scene.state().await, ["295 0"]);

    assert_eq!(scene.retire("2026-10", FREE).await, Ok((274, 3)));
    assert_eq!(
        scene.retire("2026-10", FREE).await,
        Err("the month 2026-10 is not in the database".to_owned())
    );
    let outcome = scene.verify().await;
    assert_eq!(outcome.findings, []);
    // 21 of November are there, and the row that says what left; that waits for its seal.
    assert_eq!((outcome.size, outcome.retired, outcome.unsealed), (295, 274, 1));
    let said = column(
        &scene.network.alfa.settings.database,
        "SELECT error FROM log WHERE event = 'registro-ritirato'",
    )
    .await;
    assert_eq!(
        said,
        ["274 rows of 2026-10 have left the database; they are in 3 days' files, which verified"]
    );
    // What left is read from the files.
    let settings = &scene.network.alfa.settings;
    let words = ["opec1.270".to_owned()];
    let lines = lines_that_left(settings, &scene.owner, &words, |row| row.identificativo == "opec1.270")
        .await
        .unwrap();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("\"recorded_at\":\"2026-10-31T23:59:00.000000Z\""), "{lines:?}");
    fs::remove_file(scene.file("2026-10-31")).unwrap();
    let error = lines_that_left(settings, &scene.owner, &words, |_| true).await.unwrap_err().to_string();
    assert!(
        error.contains("2026-10-31.jsonl.gz") && error.ends_with("bring it back from a backup"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_left_the_database_is_evidence_all_the_same() {
    let scene = Scene::new().await;
    scene.retire("2026-10", FREE).await.unwrap();
    let settings = &scene.network.alfa.settings;
    let words = ["opec1.270".to_owned()];
    let lines = lines_that_left(settings, &scene.owner, &words, |row| row.identificativo == "opec1.270")
        .await
        .unwrap();
    let signer = scene.network.signer(&scene.network.alfa);
    let prover = Prover { signer: &signer, tsa: None, now: Moment::from_unix(NOW) };
    let sources = Sources { settings, client: &scene.owner, prover: &prover };
    let members = collect(&sources, "opec1.270", lines).await.unwrap().members;
    assert!(members.contains_key("proofs/273.txt"), "{:?}", members.keys());
    let verdict = evidence::verify::verify(&Unpacked { members, broken: Vec::new() }, None);
    assert_eq!(verdict.findings, []);
    assert!(verdict.found.contains(&"1 rows are in its tree".to_owned()), "{:?}", verdict.found);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_that_the_files_do_not_prove_and_nothing_is_written() {
    let scene = Scene::new().await;
    for day in ["2026-10-31", "2026-11-01"] {
        for file in [scene.file(day), signature_of(&scene.file(day)), timestamp_of(&scene.file(day))] {
            let whole = fs::read(&file).unwrap();
            fs::remove_file(&file).unwrap();
            let error = scene.retire("2026-10", FREE).await.unwrap_err();
            assert!(
                error.starts_with("the month 2026-10 stays: ") && error.contains(day),
                "{}: {error}",
                file.display()
            );
            let mut altered = whole.clone();
            *altered.last_mut().unwrap() ^= 1;
            fs::write(&file, altered).unwrap();
            let error = scene.retire("2026-10", FREE).await.unwrap_err();
            assert!(
                error.starts_with("the month 2026-10 stays: ") && error.contains(day),
                "{}: {error}",
                file.display()
            );
            fs::write(&file, whole).unwrap();
            assert_eq!(scene.state().await, ["295 0"]);
        }
    }
    // Rows that are others than in the files, more, or fewer.
    for (alteration, back, words) in [
        (
            "UPDATE log SET mittente = 'eva@pec.alfa.test' WHERE seq = 2",
            "UPDATE log SET mittente = 'anna@pec.alfa.test' WHERE seq = 2",
            "row 2 is not in ",
        ),
        (
            "UPDATE log SET seq = 9000 WHERE seq = 3",
            "UPDATE log SET seq = 3 WHERE seq = 9000",
            "1 rows that are in ",
        ),
    ] {
        scene.sql(&format!("SET session_replication_role = replica; {alteration}")).await;
        let error = scene.retire("2026-10", FREE).await.unwrap_err();
        assert!(error.contains(words), "{alteration}: {error}");
        scene.sql(back).await;
    }
    scene.sql("SET session_replication_role = origin").await;
    scene.rows("2026-10-15 12:00", 1).await;
    let error = scene.retire("2026-10", FREE).await.unwrap_err();
    assert_eq!(
        error,
        "the month 2026-10 stays: the database has 275 rows of it, the days' files have 274 of them"
    );
    assert_eq!(scene.state().await, ["296 0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_fails_at_its_end_has_done_nothing() {
    let scene = Scene::new().await;
    // The drop itself fails: something hangs on the partition.
    scene.sql("CREATE VIEW hangs AS SELECT seq FROM log_2026_10").await;
    let error = scene.retire("2026-10", FREE).await.unwrap_err();
    assert!(error.starts_with("the database: "), "{error}");
    assert_eq!(scene.state().await, ["295 0"]);
    assert_eq!(scene.verify().await.findings, []);
    scene.sql("DROP VIEW hangs").await;
    assert_eq!(scene.retire("2026-10", FREE).await, Ok((274, 3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_removes_from_among_those_that_left_is_found_by_the_count() {
    let scene = Scene::new().await;
    scene.retire("2026-10", FREE).await.unwrap();
    // 275 is the late row's number, 274 that of November's first, between October's.
    scene.sql("SET session_replication_role = replica; DELETE FROM log WHERE seq = 274").await;
    let outcome = scene.verify().await;
    let what =
        "of the months up to this one 275 rows are gone, and 274 were written down when they left".to_owned();
    assert_eq!(outcome.findings, [Finding::Retired { month: "2026-10-01".to_owned(), what }]);
}
