//! The dishonest administrator: a thousand random alterations of a sealed log, each found and named, and
//! nothing found where nothing was altered. He has all rights in the database and on the disk, and in some
//! cases the log key.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use pec_core::clock::Moment;
use pec_host::parameters::Settings;
use pec_register::checkpoint::{Checkpoint, LogKey};
use pec_register::sealer::Sealer;
use pec_register::verify::{Finding, Outcome, Wanted, Witnessed, verify};
use pec_test_support::network::{Network, column, eventually};
use pec_test_support::pki::NOW;
use tokio_postgres::{Client, NoTls};

/// Rows that are sealed, and some after them that are not.
const SEALED: i64 = 300;
const UNSEALED: i64 = 5;

/// Seals of them, two of each day but one that had a single row.
const SEALS: i64 = 9;

/// Columns with what they are changed to; all of the table but the number, which is changed by moving.
const CHANGES: [(&str, &str); 20] = [
    ("recorded_at", "recorded_at + interval '1 microsecond'"),
    ("happened_at", "happened_at - interval '1 second'"),
    ("event", "'consegna'"),
    ("identificativo", "identificativo || 'x'"),
    ("msgid", "coalesce(msgid, '') || 'x'"),
    ("mittente", "'eva@pec.alfa.test'"),
    ("destinatari", "destinatari || destinatari[1]"),
    ("oggetto", "CASE WHEN oggetto IS NULL THEN '' END"),
    ("gestore", "upper(gestore)"),
    ("certified_by", "'Beta'"),
    ("recipients", "recipients || ''::text"),
    ("message_id", "coalesce(message_id, '') || 'x'"),
    ("message_sha256", "sha256(message_sha256)"),
    ("queue_id", "lower(queue_id)"),
    ("envid", "'0'"),
    ("account", "'eva@pec.alfa.test'"),
    ("client_address", "'192.0.2.7'"),
    ("tls", "'TLSv1'"),
    ("time_source", "'mailbox'"),
    ("error", "CASE WHEN error IS NULL THEN '' END"),
];

struct Scene {
    network: Network,
    /// The administrator: no trigger stands in his way.
    client: Client,
    random: u64,
}

impl Scene {
    async fn new() -> Self {
        let network = Network::new().await;
        let (client, connection) =
            tokio_postgres::connect(&network.alfa.settings.database, NoTls).await.unwrap();
        tokio::spawn(connection);
        let scene = Self { network, client, random: 0x5eed };
        let mut sealer = eventually(async || Sealer::open(scene.settings(), "test").await.unwrap()).await;
        scene.sql("SELECT log_month('2026-09-01'), log_month('2026-10-01'), log_month('2026-11-01')").await;
        // Three months, a late row, a number that never was one, seals of many sizes.
        for (day, rows) in [
            ("2026-09-30", 40),
            ("2026-10-01", 1),
            ("2026-10-31", 100),
            ("2026-11-01", 9),
            ("2026-11-02", 150),
        ] {
            scene.sql(&format!("ALTER TABLE log ALTER recorded_at SET DEFAULT '{day} 12:00:00+00'")).await;
            scene.insert(rows / 3).await;
            sealer.seal(now()).await.unwrap();
            scene.insert(rows - rows / 3).await;
            sealer.seal(now()).await.unwrap().unwrap();
        }
        scene.insert(UNSEALED).await;
        drop(sealer);
        scene
            .sql(
                "CREATE TABLE saved_log AS TABLE log; CREATE TABLE saved_seal AS TABLE seal; SET \
            session_replication_role = replica",
            )
            .await;
        copy(&scene.settings().register, &scene.saved_files());
        scene
    }

    fn settings(&self) -> &Settings {
        &self.network.alfa.settings
    }

    fn saved_files(&self) -> std::path::PathBuf {
        self.network.directory.path().join("saved")
    }

    async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    async fn insert(&self, rows: i64) {
        self.sql(&format!(
            "INSERT INTO log (happened_at, event, identificativo, mittente, destinatari, gestore, \
            certified_by, recipients, message_sha256, queue_id, time_source) \
             SELECT now(), 'accesso', 'pec.' || n, 'anna@pec.alfa.test', ARRAY['bruno@pec.beta.test'], \
            'Alfa', 'Alfa', ARRAY['bruno@pec.beta.test'], \
             sha256(n::text::bytea), 'Q' || n, 'clock' FROM generate_series(1, {rows}) AS n"
        ))
        .await;
    }

    /// A copy of a row, a moment later, under this number.
    async fn insert_copy(&self, seq: i64, number: i64) {
        let columns: Vec<_> = CHANGES.iter().skip(1).map(|(name, _)| *name).collect();
        let columns = columns.join(", ");
        self.sql(&format!(
            "INSERT INTO log (seq, recorded_at, {columns}) SELECT {number}, recorded_at + interval '1 \
            microsecond', {columns} FROM saved_log WHERE seq = {seq}"
        ))
        .await;
    }

    /// These rows as they were sealed, and none that was not there.
    async fn restore_rows(&self, rows: [i64; 2]) {
        let [a, b] = rows;
        self.sql(&format!(
            "DELETE FROM log WHERE seq <= 0 OR seq IN ({a}, {b}); INSERT INTO log SELECT * \
            FROM saved_log WHERE seq IN ({a}, {b})"
        ))
        .await;
    }

    /// Everything as it was sealed.
    async fn restore(&self) {
        self.sql(
            "SELECT log_month('2026-09-01'), log_month('2026-10-01'), log_month('2026-11-01'); DELETE FROM \
            log; DELETE FROM seal; \
             INSERT INTO log SELECT * FROM saved_log; INSERT INTO seal SELECT * FROM saved_seal",
        )
        .await;
    }

    fn restore_files(&self) {
        let directory = &self.settings().register;
        fs::remove_dir_all(directory).unwrap();
        copy(&self.saved_files(), directory);
    }

    fn below(&mut self, end: i64) -> i64 {
        // xorshift64: the same alterations in each run.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % end.unsigned_abs()).cast_signed()
    }

    /// A row that is sealed.
    fn row(&mut self) -> i64 {
        1 + self.below(SEALED)
    }

    async fn verify(&self, wanted: &Wanted) -> Outcome {
        verify(self.settings(), wanted, now(), |_, _| ()).await.unwrap()
    }

    fn wanted(&self) -> Wanted {
        Wanted { keys: vec![LogKey::read(self.settings()).unwrap().public()], ..Wanted::default() }
    }

    async fn leaf(&self, seq: i64) -> u64 {
        let sql = "SELECT first_leaf, seqs::text FROM saved_seal WHERE seqs @> $1::int8";
        let row = self.client.query_one(sql, &[&seq]).await.unwrap();
        let seqs: pec_register::ranges::Ranges = row.get::<_, String>(1).parse().unwrap();
        row.get::<_, i64>(0).unsigned_abs() + seqs.place(seq).unwrap()
    }
}

fn now() -> Moment {
    Moment::from_unix(NOW)
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// A thousand, in four parts that run side by side.
#[tokio::test]
async fn a_thousand_random_alterations_are_found_and_named_first_quarter() {
    random_alterations(1, 250).await;
}

#[tokio::test]
async fn a_thousand_random_alterations_are_found_and_named_second_quarter() {
    random_alterations(2, 250).await;
}

#[tokio::test]
async fn a_thousand_random_alterations_are_found_and_named_third_quarter() {
    random_alterations(3, 250).await;
}

#[tokio::test]
async fn a_thousand_random_alterations_are_found_and_named_fourth_quarter() {
    random_alterations(4, 250).await;
}

async fn random_alterations(seed: u64, count: u32) {
    let mut scene = Scene::new().await;
    scene.random = 0x5eed * seed;
    let wanted = scene.wanted();
    let last = scene.kept("true").await;
    let clean = scene.verify(&wanted).await;
    assert_eq!(
        (clean.findings.as_slice(), clean.rows, clean.unsealed),
        (&[][..], SEALED.unsigned_abs(), UNSEALED.unsigned_abs())
    );

    for n in 0..count {
        let (seq, other) = (scene.row(), scene.row());
        let (leaf, other_leaf) = (scene.leaf(seq).await, scene.leaf(other).await);
        let mut expected = match scene.below(40) {
            0..=18 => {
                let (name, value) = CHANGES[usize::try_from(scene.below(20)).unwrap()];
                scene.sql(&format!("UPDATE log SET {name} = {value} WHERE seq = {seq}")).await;
                vec![Finding::Changed { seq, leaf }]
            }
            19..=23 => {
                scene.sql(&format!("DELETE FROM log WHERE seq = {seq}")).await;
                vec![Finding::Missing { seq, leaf }]
            }
            24..=28 => {
                // One more row, under a number that no row has had, or that one has.
                let number = if n % 2 == 0 { -scene.below(1000) } else { seq };
                scene.insert_copy(seq, number).await;
                if number == seq {
                    vec![Finding::Twice { seq }]
                } else {
                    vec![Finding::Inserted { seq: number }]
                }
            }
            29..=33 => {
                // Two rows in each other's place, or one that moved to another number.
                if seq == other {
                    scene.sql(&format!("UPDATE log SET seq = -{seq} WHERE seq = {seq}")).await;
                    vec![Finding::Missing { seq, leaf }, Finding::Inserted { seq: -seq }]
                } else {
                    scene
                        .sql(&format!(
                            "UPDATE log SET seq = -1 WHERE seq = {seq}; UPDATE log SET seq = \
                            {seq} WHERE seq = {other}; UPDATE log SET seq = {other} WHERE seq = -1"
                        ))
                        .await;
                    vec![Finding::Changed { seq, leaf }, Finding::Changed { seq: other, leaf: other_leaf }]
                }
            }
            34 => {
                // A month: emptied, or taken away.
                let month = ["2026_09", "2026_10", "2026_11"][usize::try_from(scene.below(3)).unwrap()];
                let gone = column(
                    &scene.settings().database,
                    &format!(
                        "SELECT seq::text FROM log_{month} WHERE seq <= {SEALED} ORDER BY log_{month}.seq"
                    ),
                )
                .await;
                let how = if n % 2 == 0 { "TRUNCATE" } else { "DROP TABLE" };
                scene.sql(&format!("{how} log_{month}")).await;
                let outcome = scene.verify(&wanted).await;
                assert_eq!(outcome.wrong, u64::try_from(gone.len()).unwrap(), "{n}: {how} {month}");
                let first: i64 = gone[0].parse().unwrap();
                assert_eq!(
                    outcome.findings[0],
                    Finding::Missing { seq: first, leaf: scene.leaf(first).await }
                );
                scene.restore().await;
                continue;
            }
            35 => {
                // An older backup in its place; or seals put out of the way, so that later rows, one of them
                // altered, look as if they waited for theirs.
                let before = scene.below(SEALS - 1) + 1;
                let sql = if n % 2 == 0 {
                    format!(
                        "DELETE FROM seal WHERE number >= {before}; DELETE FROM log WHERE seq > (SELECT \
                        max(high) FROM seal)"
                    )
                } else {
                    format!(
                        "UPDATE seal SET number = -1 - number WHERE number >= {before}; UPDATE log SET \
                        oggetto = 'altro' WHERE seq = {SEALED}"
                    )
                };
                scene.sql(&sql).await;
                let outcome = scene.verify(&wanted).await;
                assert!(
                    matches!(&outcome.findings[..], [Finding::Checkpoint { what, .. }] if what.starts_with("it is of 300 rows, the database has ")),
                    "{n}: {before}: {:?}",
                    outcome.findings
                );
                scene.restore().await;
                continue;
            }
            36 => {
                // Another history, signed with the stolen log key: whoever kept a checkpoint knows it.
                scene.sql(&format!("UPDATE log SET oggetto = 'altro' WHERE seq = {seq}")).await;
                scene.forge().await;
                let outcome =
                    scene.verify(&Wanted { checkpoints: vec![last.clone()], ..scene.wanted() }).await;
                assert!(
                    matches!(&outcome.findings[..], [Finding::Checkpoint { name, .. }] if *name == last.name),
                    "{n}: {:?}",
                    outcome.findings
                );
                scene.restore().await;
                scene.restore_files();
                continue;
            }
            _ => {
                // A seal.
                let number = scene.below(
                    column(&scene.settings().database, "SELECT number::text FROM seal")
                        .await
                        .len()
                        .try_into()
                        .unwrap(),
                );
                let what = [
                    "root = sha256(root)",
                    "size = size + 1000",
                    "seqs = seqs - int8multirange(int8range(lower(seqs), lower(seqs) + 1))",
                    "checkpoint = replace(checkpoint, 'time', 'tine')",
                    "seqs = int8multirange(int8range(lower(seqs), lower(seqs) + 1000000000000000000)), size \
                    = first_leaf + 1000000000000000000",
                ][usize::try_from(scene.below(5)).unwrap()];
                scene.sql(&format!("UPDATE seal SET {what} WHERE number = {number}")).await;
                let outcome = scene.verify(&wanted).await;
                assert!(
                    outcome
                        .findings
                        .iter()
                        .any(|f| matches!(f, Finding::Seal { number: named, .. } if *named == number)),
                    "{n}: seal {number}: {what}: {:?}",
                    outcome.findings
                );
                scene
                    .sql(&format!(
                        "DELETE FROM seal WHERE number = {number}; INSERT INTO seal SELECT * FROM \
                        saved_seal WHERE number = {number}"
                    ))
                    .await;
                continue;
            }
        };
        let mut found = scene.verify(&wanted).await.findings;
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "alteration {n}");
        scene.restore_rows([seq, other]).await;
    }
    assert_eq!(scene.verify(&wanted).await.findings, []);
}

impl Scene {
    /// The checkpoint of this many rows, as somebody outside keeps it.
    async fn kept(&self, condition: &str) -> Witnessed {
        let sql = format!(
            "SELECT checkpoint FROM saved_seal WHERE {condition} ORDER BY number DESC LIMIT \
            1"
        );
        let text: String = self.client.query_one(&sql, &[]).await.unwrap().get(0);
        Witnessed {
            name: "the auditor's checkpoint".to_owned(),
            checkpoint: Checkpoint::open(&text, &self.wanted().keys[0]).unwrap(),
        }
    }

    /// The history written anew over the rows as they are now, with the log key that was stolen.
    async fn forge(&self) {
        self.sql("DELETE FROM seal").await;
        fs::remove_dir_all(&self.settings().register).unwrap();
        fs::create_dir(&self.settings().register).unwrap();
        let sealed = self.wanted_sizes().await;
        let mut sealer = eventually(async || Sealer::open(self.settings(), "test").await.unwrap()).await;
        // The same seals as before, so that nothing but the roots gives it away.
        for high in sealed {
            self.sql(&format!(
                "CREATE TABLE later AS SELECT * FROM log WHERE seq > {high}; DELETE FROM log \
                WHERE seq > {high}"
            ))
            .await;
            sealer.seal(now()).await.unwrap();
            self.sql("INSERT INTO log SELECT * FROM later; DROP TABLE later").await;
        }
    }

    async fn wanted_sizes(&self) -> Vec<i64> {
        self.client
            .query("SELECT high FROM saved_seal ORDER BY number", &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    }
}

#[tokio::test]
async fn what_is_forged_with_the_stolen_log_key_is_found_by_whoever_kept_a_checkpoint() {
    let mut scene = Scene::new().await;
    let last = scene.kept("true").await;
    for _ in 0..10 {
        let seq = scene.row();
        scene.sql(&format!("UPDATE log SET oggetto = 'altro' WHERE seq = {seq}")).await;
        scene.forge().await;
        assert_eq!(
            scene.verify(&scene.wanted()).await.findings,
            [],
            "without anything from outside it cannot be told"
        );
        for wanted in [
            Wanted { checkpoints: vec![last.clone()], ..scene.wanted() },
            Wanted { since: Some(last.clone()), ..scene.wanted() },
        ] {
            let outcome = scene.verify(&wanted).await;
            assert!(
                matches!(&outcome.findings[0], Finding::Checkpoint { name, .. } if name == "the auditor's checkpoint"),
                "{:?}",
                outcome.findings
            );
        }
        scene.restore().await;
        scene.restore_files();
    }
    let wanted = Wanted { checkpoints: vec![last.clone()], since: Some(last.clone()), ..scene.wanted() };
    assert_eq!(scene.verify(&wanted).await.findings, []);
}

#[tokio::test]
async fn since_a_checkpoint_only_what_came_after_is_computed_and_found() {
    let scene = Scene::new().await;
    let since = scene.kept("size < 150").await;
    let wanted = Wanted { since: Some(since.clone()), ..scene.wanted() };
    let outcome = scene.verify(&wanted).await;
    assert_eq!(
        (outcome.findings.as_slice(), outcome.rows),
        (&[][..], SEALED.unsigned_abs() - since.checkpoint.size)
    );
    scene.sql("UPDATE log SET oggetto = 'altro' WHERE seq IN (1, 290)").await;
    assert_eq!(
        scene.verify(&wanted).await.findings,
        [Finding::Changed { seq: 290, leaf: scene.leaf(290).await }]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_while_it_verifies_is_nothing_wrong() {
    let scene = Scene::new().await;
    let mut sealer = Some(eventually(async || Sealer::open(scene.settings(), "test").await.unwrap()).await);
    let outcome = verify(scene.settings(), &scene.wanted(), now(), |_, _| {
        if let Some(mut sealer) = sealer.take() {
            let sealed = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(sealer.seal(now()))
            });
            assert_eq!(sealed.unwrap().unwrap().size, (SEALED + UNSEALED).unsigned_abs());
        }
    })
    .await
    .unwrap();
    assert!(sealer.is_none());
    assert_eq!((outcome.findings, outcome.size), (Vec::new(), SEALED.unsigned_abs()));
    // What is kept for the next time is what was computed.
    assert_eq!(Checkpoint::read(&outcome.checkpoint.unwrap()).unwrap().size, outcome.size);
}

#[tokio::test]
async fn yesterdays_database_is_told_by_the_checkpoint_on_disk() {
    let scene = Scene::new().await;
    scene.sql("DELETE FROM log WHERE seq > 200; DELETE FROM seal WHERE high > 200").await;
    let outcome = scene.verify(&scene.wanted()).await;
    assert!(
        matches!(&outcome.findings[..], [Finding::Checkpoint { what, .. }] if what.starts_with("it is of 300 rows, the database has ")),
        "{:?}",
        outcome.findings
    );
}

#[tokio::test]
async fn spoilt_files_are_named() {
    let scene = Scene::new().await;
    let directory = scene.settings().register.clone();
    let tile = directory.join("tile/0/000");
    let mut bytes = fs::read(&tile).unwrap();
    bytes[32 * 7 + 3] ^= 1;
    fs::write(&tile, bytes).unwrap();
    assert_eq!(scene.verify(&scene.wanted()).await.findings, [Finding::Tile { n: 0 }]);
    scene.restore_files();
    // Another key has signed it.
    let other = scene.network.beta.settings.clone();
    fs::write(
        directory.join("checkpoint"),
        LogKey::read(&other).unwrap().checkpoint(300, tlog_tiles::EMPTY_HASH, now()).unwrap(),
    )
    .unwrap();
    assert!(matches!(&scene.verify(&scene.wanted()).await.findings[..], [Finding::Checkpoint { .. }]));
    scene.restore_files();
    // Seals that another key has signed, all of them.
    let foreign = Wanted { keys: vec![LogKey::read(&other).unwrap().public()], ..Wanted::default() };
    assert_eq!(scene.verify(&foreign).await.wrong, scene.verify(&scene.wanted()).await.seals);
}
