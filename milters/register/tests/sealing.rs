//! Rows become leaves: none is skipped, none sealed twice, no checkpoint contradicts another, whatever dies
//! in between.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use pec_core::clock::Moment;
use pec_host::parameters::Settings;
use pec_register::checkpoint::{Checkpoint, LogKey};
use pec_register::error::RegisterError;
use pec_register::ranges::Ranges;
use pec_register::sealer::{Sealer, last_seal, recover};
use pec_register::tree::{EMPTY, Edge, Tiles};
use pec_register::{row, rows};
use pec_state::pool::connect_registrar;
use pec_test_support::network::{Network, column, eventually, run};
use pec_test_support::pki::NOW;
use tokio_postgres::NoTls;

fn now() -> Moment {
    Moment::from_unix(NOW)
}

/// SQL that adds rows, as a milter does.
fn rows_sql(count: u32) -> String {
    format!(
        "INSERT INTO log (happened_at, event, identificativo, msgid, mittente, destinatari, gestore, \
        certified_by, recipients, message_sha256, queue_id, time_source, error) \
         SELECT now(), 'accesso', 'pec.' || n || '@x.test', NULL, 'anna@pec.alfa.test', \
        ARRAY['bruno@pec.beta.test (certificato)'], 'Alfa', 'Alfa', ARRAY[]::text[], \
         sha256(n::text::bytea), 'Q' || n, 'clock', E'due \"righe\"\\n\\\\' FROM generate_series(1, \
        {count}) AS n"
    )
}

/// The lock of one that is gone may be held a moment longer.
async fn sealer(settings: &Settings) -> Sealer {
    eventually(async || Sealer::open(settings, "test").await.unwrap()).await
}

/// All that a reader can check: every seal follows from the one before and from its rows, and its checkpoint
/// says its root.
async fn check_everything(settings: &Settings) -> u64 {
    let client = connect_registrar(settings, "test").await.unwrap();
    let public = LogKey::read(settings).unwrap().public();
    let mut edge = Edge::default();
    let mut seen = Ranges::default();
    for seal in pec_register::sealer::seals(&client, "true").await.unwrap() {
        assert_eq!(seal.first, edge.size());
        assert_eq!(seen.without(&seal.seqs), seen, "no row has two leaves");
        seen = seen.with(&seal.seqs);
        rows::each_row(&client, &rows::numbered(&seal.seqs), |read| {
            edge.push(row::leaf(&row::entry(read.line)))
        })
        .await
        .unwrap();
        assert_eq!((seal.size, seal.root), (edge.size(), edge.root()));
        let checkpoint = Checkpoint::open(&seal.checkpoint, &public).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (seal.size, seal.root));
    }
    let tiles = Tiles::new(&settings.register);
    let published = tiles
        .checkpoint()
        .unwrap()
        .map_or((0, EMPTY), |text| Checkpoint::open(&text, &public).map(|c| (c.size, c.root)).unwrap());
    assert_eq!(published, (edge.size(), edge.root()));
    assert_eq!(tiles.root(edge.size()).unwrap(), edge.root());
    edge.size()
}

#[tokio::test]
async fn every_row_is_sealed_once_in_the_order_of_its_number() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    let mut sealer = sealer(settings).await;
    assert_eq!(sealer.seal(now()).await.unwrap(), None, "nothing is there to be sealed");
    for count in [1, 254, 1, 1, 300, 700] {
        run(&settings.database, &rows_sql(count)).await;
        let seal = sealer.seal(now()).await.unwrap().unwrap();
        assert_eq!(seal.seqs.count(), u64::from(count));
        check_everything(settings).await;
    }
    assert_eq!(check_everything(settings).await, 1257);
    assert_eq!(sealer.seal(now()).await.unwrap(), None);

    // Inclusion and consistency, as the library for C2SP's formats checks them.
    let (tiles, seal) = (sealer.tiles(), sealer.last().unwrap());
    let first = tiles.leaves(0, 1).unwrap()[0];
    tlog_tiles::check_record(&tiles.proof(0, seal.size, seal.root).unwrap(), seal.size, seal.root, 0, first)
        .unwrap();
    let old = tiles.root(256).unwrap();
    tlog_tiles::check_tree(
        &tiles.consistency(256, seal.size, seal.root).unwrap(),
        seal.size,
        seal.root,
        256,
        old,
    )
    .unwrap();
}

#[tokio::test]
async fn a_row_that_commits_late_is_sealed_later() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    let (mut slow, connection) = tokio_postgres::connect(&settings.database, NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut sealer = sealer(settings).await;
    let late = slow.transaction().await.unwrap();
    late.batch_execute(&rows_sql(2)).await.unwrap();
    run(&settings.database, &rows_sql(3)).await;
    let seal = sealer.seal(now()).await.unwrap().unwrap();
    assert_eq!((seal.seqs.to_string().as_str(), seal.gaps.to_string().as_str()), ("{[3,6)}", "{[1,3)}"));
    // However long it takes: its transaction is under way.
    let later = Moment::from_unix(NOW + 100_000);
    run(&settings.database, &rows_sql(1)).await;
    assert_eq!(sealer.seal(later).await.unwrap().unwrap().gaps.to_string(), "{[1,3)}");
    late.commit().await.unwrap();
    let seal = sealer.seal(later).await.unwrap().unwrap();
    assert_eq!((seal.seqs.to_string().as_str(), seal.gaps.to_string().as_str()), ("{[1,3)}", "{}"));
    assert_eq!(check_everything(settings).await, 6);
}

#[tokio::test]
async fn a_number_whose_transaction_failed_is_given_up_after_an_hour() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    let mut sealer = sealer(settings).await;
    run(&settings.database, &format!("BEGIN; {}; ROLLBACK; {}", rows_sql(2), rows_sql(1))).await;
    assert_eq!(sealer.seal(now()).await.unwrap().unwrap().gaps.to_string(), "{[1,3)}");
    let mut gaps_after = async |seconds| {
        run(&settings.database, &rows_sql(1)).await;
        sealer.seal(Moment::from_unix(NOW + seconds)).await.unwrap().unwrap().gaps.to_string()
    };
    assert_eq!(gaps_after(0).await, "{[1,3)}");
    assert_eq!(gaps_after(3599).await, "{[1,3)}");
    // The transactions of other tests on this server are waited for, too.
    let given_up = async { while gaps_after(3600).await != "{}" {} };
    tokio::time::timeout(std::time::Duration::from_secs(60), given_up).await.unwrap();
    check_everything(settings).await;
}

#[tokio::test]
async fn rows_of_two_days_are_in_two_seals_and_none_enters_a_day_whose_file_is_written() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    let mut sealer = sealer(settings).await;
    let on = |day: &str| {
        format!("ALTER TABLE log ALTER recorded_at SET DEFAULT '{day} 12:00:00+00'; {}", rows_sql(1))
    };
    run(&settings.database, "SELECT log_month('2026-11-01'), log_month('2026-12-01')").await;
    for day in ["2026-11-20", "2026-11-21", "2026-11-20"] {
        run(&settings.database, &on(day)).await;
    }
    let day = |date: &str| {
        date.parse::<jiff::civil::Date>().unwrap().duration_since(jiff::civil::date(1970, 1, 1)).as_hours()
            / 24
    };
    let seal = sealer.seal(now()).await.unwrap().unwrap();
    assert_eq!((seal.seqs.to_string().as_str(), seal.day), ("{[1,2),[3,4)}", day("2026-11-20")));
    let seal = sealer.seal(now()).await.unwrap().unwrap();
    assert_eq!((seal.seqs.to_string().as_str(), seal.day), ("{[2,3)}", day("2026-11-21")));
    run(
        &settings.database,
        &format!("{}; INSERT INTO day_file VALUES ('2026-11-22', 3, 3, '', now())", on("2026-11-20")),
    )
    .await;
    assert_eq!(sealer.seal(now()).await.unwrap().unwrap().day, day("2026-11-23"));
    assert_eq!(check_everything(settings).await, 4);
}

#[tokio::test]
async fn two_sealers_never_contradict_each_other() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    let mut first = sealer(settings).await;
    assert!(Sealer::open(settings, "test").await.unwrap().is_none(), "one holds the lock");
    // Its connection breaks, which it does not know; the lock goes to the other.
    let this = "database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    run(
        &settings.database,
        &format!(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = \
        'advisory' AND granted AND {this}"
        ),
    )
    .await;
    run(&settings.database, &rows_sql(5)).await;
    let mut second = sealer(settings).await;
    second.seal(now()).await.unwrap().unwrap();
    assert!(first.seal(now()).await.is_err());
    assert_eq!(check_everything(settings).await, 5);
}

#[tokio::test]
async fn a_seal_in_another_ones_place_is_refused() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    let mut first = sealer(settings).await;
    run(&settings.database, &rows_sql(5)).await;
    let seal = first.seal(now()).await.unwrap().unwrap();
    let again = format!(
        "INSERT INTO seal SELECT number + 1, first_leaf, size + 1, seqs, high, gaps, day, root, checkpoint, \
        lost, sealed_at FROM seal WHERE number = {}",
        seal.number
    );
    let (client, connection) = tokio_postgres::connect(&settings.database, NoTls).await.unwrap();
    tokio::spawn(connection);
    assert!(client.batch_execute(&again).await.is_err(), "leaves have one seal");
}

#[tokio::test]
async fn files_that_a_crash_left_out_are_made_up_from_the_rows() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    let directory = &settings.register;
    for count in [300, 20, 600] {
        // Killed after the seal's commit: nothing of it is on disk.
        let kept = tempfile::tempdir().unwrap();
        let copied =
            std::process::Command::new("cp").arg("-a").arg(directory).arg(kept.path()).status().unwrap();
        assert!(copied.success());
        run(&settings.database, &rows_sql(count)).await;
        sealer(settings).await.seal(now()).await.unwrap().unwrap();
        std::fs::remove_dir_all(directory).unwrap();
        std::fs::rename(kept.path().join(directory.file_name().unwrap()), directory).unwrap();
        sealer(settings).await;
        check_everything(settings).await;
    }
    // All of it lost, and a tile spoilt.
    std::fs::remove_dir_all(directory).unwrap();
    std::fs::create_dir(directory).unwrap();
    // Opening it brings the files up.
    sealer(settings).await;
    assert_eq!(check_everything(settings).await, 920);
    std::fs::write(directory.join("tile/0/003.p/152"), "").unwrap();
    sealer(settings).await;
    assert_eq!(check_everything(settings).await, 920);
}

#[tokio::test]
async fn rows_that_are_not_those_that_were_sealed_stop_the_making_up() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    run(&settings.database, &rows_sql(3)).await;
    sealer(settings).await.seal(now()).await.unwrap().unwrap();
    run(
        &settings.database,
        "ALTER TABLE log DISABLE TRIGGER USER; SET session_replication_role = replica; UPDATE log SET \
        oggetto = 'x' WHERE seq = 2",
    )
    .await;
    std::fs::remove_dir_all(&settings.register).unwrap();
    std::fs::create_dir(&settings.register).unwrap();
    let error = loop {
        match Sealer::open(settings, "test").await {
            Ok(None) => {}
            Ok(Some(_)) => panic!("it goes on"),
            Err(e) => break e,
        }
    };
    assert!(matches!(error, RegisterError::SealAltered { number: 0, first: 0, end: 3 }), "{error}");
}

#[tokio::test]
async fn an_older_database_is_noticed_and_goes_on_after_recover_without_a_contradiction() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    run(&settings.database, &rows_sql(300)).await;
    sealer(settings).await.seal(now()).await.unwrap().unwrap();
    let backup = format!("{}_backup", column(&settings.database, "SELECT current_database()").await[0]);
    copy_database(settings, &backup).await;
    run(&settings.database, &rows_sql(40)).await;
    let sealed = sealer(settings).await.seal(now()).await.unwrap().unwrap();
    let name = column(&settings.database, "SELECT current_database()").await[0].clone();
    let restored = Settings {
        database: settings.database.replace(&name, &backup),
        register_database: settings.register_database.replace(&name, &backup),
        ..settings.clone()
    };
    // Yesterday's database, today's files.
    let error = Sealer::open(&restored, "test").await.err().expect("it stops");
    assert!(matches!(error, RegisterError::Restored { database: 300, disk: 340, .. }), "{error}");
    let recover = async || {
        let free = async || match recover(&restored, "test", now()).await {
            Err(RegisterError::Overtaken) => None,
            done => Some(done.unwrap()),
        };
        eventually(free).await
    };
    let recovered = recover().await.unwrap();
    assert_eq!((recovered.first, recovered.end), (300, 340));
    assert_eq!(recover().await, None, "once");
    run(&restored.database, &rows_sql(5)).await;
    let seal = sealer(&restored).await.seal(now()).await.unwrap().unwrap();
    assert_eq!((seal.first, seal.size, seal.number), (340, 345, 2));
    assert!(seal.seqs.iter().next().unwrap().0 > sealed.high, "no number comes twice");
    // The checkpoint that was published before is the beginning of the tree of today.
    let tiles = Tiles::new(&settings.register);
    assert_eq!(tiles.root(340).unwrap(), sealed.root);
    let client = connect_registrar(&restored, "test").await.unwrap();
    assert_eq!(last_seal(&client).await.unwrap().unwrap().size, 345);
    tlog_tiles::check_tree(
        &tiles.consistency(340, 345, seal.root).unwrap(),
        345,
        seal.root,
        340,
        sealed.root,
    )
    .unwrap();
}

async fn copy_database(settings: &Settings, name: &str) {
    let own = column(&settings.database, "SELECT current_database()").await[0].clone();
    let other = settings.database.replace(&own, "postgres");
    run(&other, &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{own}'"))
        .await;
    // It may take a moment until the last session is gone.
    let (client, connection) = tokio_postgres::connect(&other, NoTls).await.unwrap();
    tokio::spawn(connection);
    while client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {own}")).await.is_err() {}
}

#[tokio::test]
async fn another_history_is_noticed() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    run(&settings.database, &rows_sql(3)).await;
    sealer(settings).await.seal(now()).await.unwrap().unwrap();
    let checkpoint = LogKey::read(settings).unwrap().checkpoint(3, EMPTY, now()).unwrap();
    Tiles::new(&settings.register).set_checkpoint(&checkpoint).unwrap();
    let error = loop {
        match Sealer::open(settings, "test").await {
            Ok(None) => {}
            Ok(Some(_)) => panic!("it goes on"),
            Err(e) => break e,
        }
    };
    assert!(matches!(error, RegisterError::Forked { size: 3, .. }), "{error}");
}
