//! The daily files and the checkpoints that are signed: real rows, a real tree, a real TSA, crashes at every
//! step. The judges are not ours: tests/verify/days.py and tiles.py, and openssl.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pec_core::clock::Moment;
use pec_host::read;
use pec_register::attest;
use pec_register::checkpoint::{LogKey, origin};
use pec_register::days::{self, Closed};
use pec_register::error::RegisterError;
use pec_register::prover::{Prover, signature_of, timestamp_of};
use pec_register::sealer::{Sealer, recover};
use pec_register::tree::Tiles;
use pec_register::tsa::{Tsa, TsaCas};
use pec_register::verify_files::{Outcome, Trust, proofs, verify_files};
use pec_state::pool::connect_registrar;
use pec_test_support::judges::{openssl_cms_verify, openssl_ts_verify};
use pec_test_support::network::{Host, Network, column, eventually, run};
use pec_test_support::pki::NOW;
use pec_test_support::tsa::{Manner, Tsa as TsaServer};

const DAY: i64 = 86_400;

/// A register whose rows come in next month: its partition is there, and nothing of ours writes into it by
/// itself.
struct Register {
    network: Network,
    /// The first day, counted from 1970-01-01.
    first: i64,
}

impl Register {
    async fn new() -> Self {
        let network = Network::new().await;
        let next_month = "SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month')::date \
            - date '1970-01-01' || ''";
        let first = column(&network.alfa.settings.database, next_month).await.remove(0).parse().unwrap();
        Self { network, first }
    }

    fn host(&self) -> &Host {
        &self.network.alfa
    }

    fn directory(&self) -> &Path {
        &self.host().settings.register
    }

    fn date(&self, day: i64) -> String {
        days::date(self.first + day)
    }

    fn file(&self, day: i64) -> PathBuf {
        days::file_of(self.directory(), &self.date(day))
    }

    /// So many seconds after the beginning of that day.
    fn at(&self, day: i64, seconds: i64) -> Moment {
        Moment::from_unix((self.first + day) * DAY + seconds)
    }

    async fn sql(&self, sql: &str) {
        run(&self.host().settings.database, sql).await;
    }

    /// So many rows come in, the first at noon, one a second.
    async fn rows(&self, day: i64, count: i64) {
        let noon = self.at(day, DAY / 2).unix();
        self.sql(&format!(
            "INSERT INTO log (recorded_at, happened_at, event, identificativo, mittente, destinatari, \
            oggetto, gestore, certified_by, recipients, queue_id, time_source) \
             SELECT to_timestamp({noon} + n), to_timestamp({noon}), 'accettazione', 'opec1.' || n, \
            'anna@pec.alfa.test', '{{\"bruno@pec.beta.test (certificato)\"}}', 'Però: \"prova\"', \
             'Alfa', 'Alfa', '{{}}', 'Q' || n, 'submission' FROM generate_series(1, {count}) AS n"
        ))
        .await;
    }

    async fn seal(&self) {
        let mut sealer =
            eventually(async || Sealer::open(&self.host().settings, "test").await.unwrap()).await;
        while sealer.seal(Moment::from_unix(NOW)).await.unwrap().is_some() {}
    }

    async fn close(&self, now: Moment) -> Result<Vec<Closed>, String> {
        let settings = &self.host().settings;
        let client = connect_registrar(settings, "test").await.unwrap();
        let tiles = Tiles::new(self.directory());
        days::restore(&client, &tiles, &origin(settings)).await.map_err(|e| e.to_string())?;
        let mut closed = Vec::new();
        while let Some(day) =
            days::close_next(&client, &tiles, &origin(settings), now).await.map_err(|e| e.to_string())?
        {
            closed.push(day);
        }
        Ok(closed)
    }

    /// The rows of three days, sealed; the second is empty, none is closed.
    async fn three_open_days() -> Self {
        let register = Self::new().await;
        register.rows(0, 3).await;
        register.seal().await;
        register.rows(2, 300).await;
        register.seal().await;
        register.rows(2, 7).await;
        register.seal().await;
        register
    }

    /// The same days, closed.
    async fn three_days() -> Self {
        let register = Self::three_open_days().await;
        assert_eq!(register.close(register.at(3, 600)).await.unwrap().len(), 3);
        register
    }

    fn files(&self, days: i64) -> Vec<PathBuf> {
        (0..days).map(|day| self.file(day)).collect()
    }
}

/// What a program of tests/verify says.
fn judge(program: &str, arguments: &[&Path]) -> Result<String, String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/verify").join(program);
    let output = Command::new("python3").arg(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn judge_days(files: &[PathBuf]) -> Result<String, String> {
    judge("days.py", &files.iter().map(PathBuf::as_path).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_3_every_day_has_its_file_also_one_without_rows() {
    let register = Register::three_open_days().await;
    let now = register.at(3, 599);
    let closed = register.close(now).await.unwrap();
    assert_eq!(
        closed.iter().map(|c| (c.day.clone(), c.rows)).collect::<Vec<_>>(),
        [(register.date(0), 3), (register.date(1), 0)]
    );
    let closed = register.close(register.at(3, 600)).await.unwrap();
    assert_eq!(closed.iter().map(|c| (c.day.clone(), c.rows)).collect::<Vec<_>>(), [(register.date(2), 307)]);
    let expected = format!("{} 3\n{} 0\n{} 307", register.date(0), register.date(1), register.date(2));
    assert_eq!(judge_days(&register.files(3)), Ok(expected));
    assert_eq!(register.close(register.at(3, 700)).await, Ok(Vec::new()));
    // They have the rows, which the tree has not.
    assert_eq!(
        fs::metadata(days::directory(register.directory())).unwrap().permissions().mode() & 0o777,
        0o700
    );
    // Another reader of C2SP's formats finds the same tree.
    let public = LogKey::read(&register.host().settings).unwrap().public();
    let read = judge("tiles.py", &[register.directory(), Path::new(&public)]).unwrap();
    assert!(read.starts_with("310 "), "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_waits_for_its_rows_to_be_sealed_and_what_comes_later_is_in_a_later_file() {
    let register = Register::new().await;
    register.rows(0, 2).await;
    register.seal().await;
    register.rows(0, 1).await;
    assert_eq!(register.close(register.at(5, 0)).await, Ok(Vec::new()));
    register.seal().await;
    assert_eq!(register.close(register.at(1, 600)).await.unwrap()[0].rows, 3);
    // A transaction that commits after that.
    register.rows(0, 4).await;
    register.seal().await;
    assert_eq!(register.close(register.at(2, 600)).await.unwrap()[0].rows, 4);
    assert_eq!(judge_days(&register.files(2)), Ok(format!("{} 3\n{} 4", register.date(0), register.date(1))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_takes_no_seal_of_a_closed_day_and_no_file_of_an_open_one() {
    let register = Register::three_days().await;
    let client = connect_registrar(&register.host().settings, "test").await.unwrap();
    let seal = "INSERT INTO seal SELECT number + 1, size, size + 1, seqs, high, gaps, day, root, \
        checkpoint, lost, sealed_at FROM seal ORDER BY number DESC LIMIT 1";
    let error = client.execute(seal, &[]).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().message(), format!("the day {} has its file", register.date(2)));
    let early = "INSERT INTO day_file SELECT max(day) + 1, 310, 300, '', now() FROM day_file";
    let error = client.execute(early, &[]).await.unwrap_err();
    assert_eq!(
        error.as_db_error().unwrap().message(),
        format!("more was sealed of the day {}", register.date(3))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_writes_is_made_up_with_the_same_bytes() {
    let register = Register::three_days().await;
    let (signer, server) = (register.network.signer(register.host()), TsaServer::start());
    let tsa = Tsa::new(&server.settings()).unwrap();
    let prover = Prover { signer: &signer, tsa: Some(&tsa), now: Moment::from_unix(NOW) };
    days::complete(register.directory(), &prover).unwrap();
    let file = register.file(2);
    let all =
        |file: &Path| [file.to_owned(), signature_of(file), timestamp_of(file)].map(|f| fs::read(f).unwrap());
    let before = all(&file);
    // After the timestamp, the signature, the name, the row, in this order.
    for step in 0..3 {
        fs::remove_file(timestamp_of(&file)).unwrap();
        if step > 0 {
            fs::remove_file(signature_of(&file)).unwrap();
        }
        if step > 1 {
            fs::rename(&file, file.with_extension("gz.new")).unwrap();
        }
        register.close(register.at(3, 600)).await.unwrap();
        days::complete(register.directory(), &prover).unwrap();
        let after = all(&file);
        assert!(before[..2] == after[..2], "step {step}");
        assert_eq!(openssl_ts_verify(&after[1], &after[2], &server.ca_file()), Ok(()));
        assert_eq!(openssl_cms_verify(&after[0], &after[1], &register.network.pki.ca_file()), Ok(()));
    }
    // Before the row: half a file lies there.
    register.rows(3, 5).await;
    register.seal().await;
    fs::write(register.file(3).with_extension("gz.new"), b"half a li").unwrap();
    register.close(register.at(4, 600)).await.unwrap();
    assert!(judge_days(&register.files(4)).is_ok());
    assert!(!register.file(3).with_extension("gz.new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_restored_backup_lost_are_leaves_without_rows() {
    let register = Register::new().await;
    register.rows(0, 3).await;
    register.seal().await;
    register.rows(0, 260).await;
    register.seal().await;
    let everybody = "ALTER TABLE seal DISABLE TRIGGER USER; ALTER TABLE log DISABLE TRIGGER USER; DO $$ \
        DECLARE p text; BEGIN FOR p IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = \
        'log'::regclass LOOP EXECUTE 'ALTER TABLE ' || p || ' DISABLE TRIGGER USER'; END LOOP; END $$;";
    register
        .sql(&format!("{everybody} DELETE FROM seal WHERE number = 1; DELETE FROM log WHERE seq > 3"))
        .await;
    let recovered =
        eventually(async || match recover(&register.host().settings, "test", register.at(1, 0)).await {
            Err(RegisterError::Overtaken) => None,
            done => Some(done.unwrap()),
        });
    let lost = recovered.await.unwrap();
    assert_eq!((lost.first, lost.end), (3, 263));
    register.rows(1, 2).await;
    register.seal().await;
    let closed = register.close(register.at(2, 600)).await.unwrap();
    assert_eq!(closed.iter().map(|c| c.rows).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(
        judge_days(&register.files(2)),
        Ok(format!("{} 3\n{} 262", register.date(0), register.date(1)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_whose_rows_were_changed_has_no_file() {
    let register = Register::new().await;
    register.rows(0, 3).await;
    register.seal().await;
    register
        .sql(
            "SET session_replication_role = replica; UPDATE log SET mittente = 'altri@pec.alfa.test' \
        WHERE seq = 2",
        )
        .await;
    let error = register.close(register.at(1, 600)).await.unwrap_err();
    assert!(
        error.starts_with(&format!("the rows of {} are not those that were sealed", register.date(0))),
        "{error}"
    );
    assert!(!register.file(0).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_day_that_is_missing_comes_back_only_as_it_was() {
    let register = Register::three_days().await;
    let before = fs::read(register.file(0)).unwrap();
    fs::remove_file(register.file(0)).unwrap();
    register.close(register.at(3, 600)).await.unwrap();
    assert!(fs::read(register.file(0)).unwrap() == before);
    fs::remove_file(register.file(0)).unwrap();
    register
        .sql(&format!("INSERT INTO retired VALUES ('{}', 1, 3, 3, '{{}}', now())", register.date(0)))
        .await;
    let error = register.close(register.at(3, 600)).await.unwrap_err();
    assert_eq!(
        error,
        format!(
            "the file of {} is missing, and its rows have left the database: bring it back from a backup",
            register.date(0)
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_checkpoint_is_signed_every_day_and_a_tsa_that_was_away_is_asked_again() {
    let register = Register::new().await;
    register.rows(0, 3).await;
    register.seal().await;
    let (signer, server) = (register.network.signer(register.host()), TsaServer::start());
    let tsa = Tsa::new(&server.settings()).unwrap();
    let at = |seconds: i64| Moment::from_unix(NOW + seconds);
    let take = |at_once: bool, now: Moment| {
        let text = Tiles::new(register.directory()).checkpoint().unwrap().unwrap();
        attest::take(register.directory(), &text, at_once, now).unwrap()
    };
    let complete = |now: Moment| {
        attest::complete(register.directory(), &Prover { signer: &signer, tsa: Some(&tsa), now })
    };
    assert_eq!(take(false, at(0)), Some(3));
    server.answers(Manner::Silence);
    let error = complete(at(0)).unwrap_err().to_string();
    assert!(error.contains("3.checkpoint has no timestamp: the TSA http://127.0.0.1:"), "{error}");
    register.rows(0, 2).await;
    register.seal().await;
    assert_eq!(take(false, at(DAY - 1)), None);
    assert_eq!(take(false, at(DAY)), Some(5));
    assert_eq!(take(true, at(DAY)), None);
    server.answers(Manner::Honest);
    complete(at(DAY)).unwrap();
    for (_, file) in attest::attested(register.directory()).unwrap() {
        let [text, p7s, tsr] =
            [file.clone(), signature_of(&file), timestamp_of(&file)].map(|f| fs::read(f).unwrap());
        assert_eq!(openssl_cms_verify(&text, &p7s, &register.network.pki.ca_file()), Ok(()));
        assert_eq!(openssl_ts_verify(&p7s, &tsr, &server.ca_file()), Ok(()));
    }
    assert_eq!(server.asked(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_key_is_signed_anew_when_it_or_the_certificate_changes() {
    let mut register = Register::new().await;
    let endorse = |register: &Register, public: &str, now: i64| {
        let signer = register.network.signer(register.host());
        attest::endorse(
            register.directory(),
            public,
            &Prover { signer: &signer, tsa: None, now: Moment::from_unix(now) },
        )
        .unwrap()
    };
    let public = LogKey::read(&register.host().settings).unwrap().public();
    assert!(endorse(&register, &public, NOW));
    assert!(!endorse(&register, &public, NOW + DAY));
    let key = register.directory().join("log.key");
    let files = |key: &Path| (fs::read(key).unwrap(), fs::read(signature_of(key)).unwrap());
    let first = files(&key);
    assert_eq!(openssl_cms_verify(&first.0, &first.1, &register.network.pki.ca_file()), Ok(()));
    // Another key, then another certificate on the same day.
    assert!(endorse(&register, "gestore.alfa.test/register+00000000+AAAA", NOW + DAY));
    let second = files(&key);
    register.network.certify_alfa(&[]);
    assert!(endorse(&register, "gestore.alfa.test/register+00000000+AAAA", NOW + DAY));
    let third = files(&key);
    assert!(second.0 == third.0 && second.1 != third.1);
    let day = &Moment::from_unix(NOW + DAY).to_string()[..10];
    assert!(files(&register.directory().join(format!("log.key.{day}"))) == first);
    assert!(files(&register.directory().join(format!("log.key.{day}-2"))) == second);
    let keys = attest::log_keys(register.directory()).unwrap();
    assert_eq!(keys.iter().filter(|(_, text)| *text == public).count(), 1);
    assert_eq!(keys.len(), 3);
}

/// Three days with all that proves them, and a register's whole directory.
struct Proved {
    register: Register,
    server: TsaServer,
}

impl Proved {
    async fn new() -> Self {
        let (register, server) = (Register::three_days().await, TsaServer::start());
        let proved = Self { register, server };
        let directory = proved.register.directory();
        let text = Tiles::new(directory).checkpoint().unwrap().unwrap();
        attest::take(directory, &text, true, Moment::from_unix(NOW)).unwrap();
        let public = LogKey::read(&proved.register.host().settings).unwrap().public();
        proved.prove(|prover| attest::endorse(directory, &public, prover).map(|_| ()));
        proved.prove(|prover| attest::complete(directory, prover));
        proved.sign_days();
        proved
    }

    fn prove(&self, how: impl FnOnce(&Prover<'_>) -> Result<(), RegisterError>) {
        let (signer, tsa) =
            (self.register.network.signer(self.register.host()), Tsa::new(&self.server.settings()).unwrap());
        how(&Prover { signer: &signer, tsa: Some(&tsa), now: Moment::from_unix(NOW) }).unwrap();
    }

    fn sign_days(&self) {
        self.prove(|prover| days::complete(self.register.directory(), prover));
    }

    fn trusting<T>(&self, what: impl FnOnce(&Trust<'_>) -> T) -> T {
        let cas = read::trusted_cas(&self.register.network.pki.ca_file()).unwrap();
        let tsa = TsaCas::read(&self.server.ca_file()).unwrap();
        let keys = [LogKey::read(&self.register.host().settings).unwrap().public()];
        what(&Trust { cas: &cas, tsa: Some(&tsa), log_keys: &keys })
    }

    fn verify(&self, files: &[PathBuf], with_tiles: bool) -> Outcome {
        let tiles = Tiles::new(self.register.directory());
        self.trusting(|trust| verify_files(files, trust, with_tiles.then_some(&tiles)))
    }

    /// What is wrong with all three, by day and line.
    fn faults(&self, with_tiles: bool) -> Vec<String> {
        let outcome = self.verify(&self.register.files(3), with_tiles);
        let directory = format!("{}/", days::directory(self.register.directory()).display());
        outcome.faults.iter().map(|fault| fault.to_string().replace(&directory, "")).collect()
    }

    /// Writes a day's lines anew, as `how` changes them.
    fn change(&self, day: i64, how: impl FnOnce(&mut Vec<String>)) {
        let file = self.register.file(day);
        let mut text = String::new();
        flate2::read::GzDecoder::new(fs::File::open(&file).unwrap()).read_to_string(&mut text).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        how(&mut lines);
        let mut out =
            flate2::write::GzEncoder::new(fs::File::create(&file).unwrap(), flate2::Compression::default());
        out.write_all(lines.iter().map(|line| format!("{line}\n")).collect::<String>().as_bytes()).unwrap();
        out.finish().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_nobody_touched_verify_without_the_database() {
    let proved = Proved::new().await;
    for with_tiles in [true, false] {
        let mut files = proved.register.files(3);
        files.reverse();
        let outcome = proved.verify(&files, with_tiles);
        assert_eq!(outcome.faults, []);
        let days: Vec<_> = outcome
            .days
            .iter()
            .map(|day| (day.rows, day.lost, day.timestamp.as_ref().unwrap().by.as_str()))
            .collect();
        assert_eq!(days, [(3, 0, "Prova TSA"), (0, 0, "Prova TSA"), (307, 0, "Prova TSA")]);
    }
    let all = proved.trusting(|trust| {
        let none = Trust { log_keys: &[], ..*trust };
        proofs(proved.register.directory(), "gestore.alfa.test/register", &none, &[]).unwrap()
    });
    assert_eq!(all.faults, []);
    let sizes: Vec<_> = all.checkpoints.iter().map(|witnessed| witnessed.checkpoint.size).collect();
    assert_eq!((sizes, all.keys.len()), (vec![310, 3, 3, 310], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_line_that_is_wrong_missing_inserted_or_moved_is_named() {
    let proved = Proved::new().await;
    let (day, file) = (proved.register.date(2), proved.register.file(2));
    let good = fs::read(&file).unwrap();
    let other = |line: &str| line.replace("anna@", "altri@");
    type Change = fn(&mut Vec<String>, fn(&str) -> String);
    let changes: [(Change, &str); 6] = [
        (|lines, other| lines[9] = other(&lines[9]), "line 10: the row was changed (leaf 11)"),
        (|lines, _| drop(lines.remove(9)), "line 10: a row is missing here (leaf 11)"),
        (|lines, other| lines.insert(9, other(&lines[9])), "line 10: the row was inserted (leaf 11)"),
        (|lines, _| lines.swap(9, 200), "line 10: the row was moved (leaf 11)"),
        (|lines, _| drop(lines.pop()), "line 308: a row is missing here (leaf 309)"),
        (|lines, _| lines.insert(9, lines[9].clone()), "line 11: the row is there twice (leaf 12)"),
    ];
    for (change, says) in changes {
        proved.change(2, |lines| change(lines, |line| line.replace("anna@", "altri@")));
        let faults = proved.faults(true);
        assert!(faults.contains(&format!("{day}.jsonl.gz, {says}")), "{says}: {faults:?}");
        // Without the tiles the day is named; and the signature says so besides.
        let faults = proved.faults(false);
        assert!(
            faults.len() >= 2 && faults.iter().all(|fault| fault.starts_with(&format!("{day}.jsonl.gz"))),
            "{faults:?}"
        );
        fs::write(&file, &good).unwrap();
    }
    // Signed again with the provider's own key it is found all the same.
    proved.change(2, |lines| lines[9] = other(&lines[9]));
    fs::remove_file(signature_of(&file)).unwrap();
    fs::remove_file(timestamp_of(&file)).unwrap();
    proved.sign_days();
    assert_eq!(proved.faults(true), [format!("{day}.jsonl.gz, line 10: the row was changed (leaf 11)")]);
    assert_eq!(
        proved.faults(false),
        [format!(
            "{day}.jsonl.gz: its rows do not give the root of its checkpoint: one of them is not what was \
            sealed"
        )]
    );
    // A line that is none.
    fs::write(&file, &good).unwrap();
    proved.change(2, |lines| lines[4] = "{}".to_owned());
    assert!(
        proved
            .faults(false)
            .iter()
            .any(|fault| fault.starts_with(&format!("{day}.jsonl.gz, line 5: no row of the log")))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_is_missing_or_begins_elsewhere_breaks_the_chain() {
    let proved = Proved::new().await;
    let files = proved.register.files(3);
    let outcome = proved.verify(&[files[0].clone(), files[2].clone()], false);
    assert_eq!(
        outcome.faults[0].to_string(),
        format!(
            "{}, line 1: the file of {} is missing before it",
            files[2].display(),
            proved.register.date(1)
        )
    );
    // An empty day: with a header that was changed, and all signed again, only the chain says so.
    let sign_again = || {
        fs::remove_file(signature_of(&files[1])).unwrap();
        fs::remove_file(timestamp_of(&files[1])).unwrap();
        proved.sign_days();
    };
    let good = fs::read(&files[1]).unwrap();
    for (from, to, says) in [
        ("\"previous\":{", "\"previous\":null,\"x\":{", "is no header"),
        ("\"lost\":[]", "\"lost\":[[7,8]]", "as the day before"),
    ] {
        proved.change(1, |lines| lines[0] = lines[0].replace(from, to));
        sign_again();
        let faults = proved.faults(true);
        assert!(faults.iter().any(|fault| fault.contains(says)), "{faults:?}");
        fs::write(&files[1], &good).unwrap();
        sign_again();
    }
    assert_eq!(proved.faults(true), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn signature_and_timestamp_must_be_the_provider_s_and_of_this_file() {
    let proved = Proved::new().await;
    let files = proved.register.files(3);
    let name = |day: usize| files[day].file_name().unwrap().to_str().unwrap().to_owned();
    let (p7s, tsr) = (signature_of(&files[1]), timestamp_of(&files[1]));
    let good = [&p7s, &tsr].map(|file| fs::read(file).unwrap());
    let restore = || {
        fs::write(&p7s, &good[0]).unwrap();
        fs::write(&tsr, &good[1]).unwrap();
    };
    // Another day's.
    fs::copy(timestamp_of(&files[0]), &tsr).unwrap();
    assert_eq!(
        proved.faults(true),
        [format!("{}: the timestamp is not good: it is over other bytes", name(1))]
    );
    restore();
    fs::copy(signature_of(&files[0]), &p7s).unwrap();
    fs::copy(timestamp_of(&files[0]), &tsr).unwrap();
    assert_eq!(
        proved.faults(true),
        [format!("{}: the signature does not verify: content verify error", name(1))]
    );
    restore();
    // Another provider's.
    let (beta, tsa) = (
        proved.register.network.signer(&proved.register.network.beta),
        Tsa::new(&proved.server.settings()).unwrap(),
    );
    fs::remove_file(&p7s).unwrap();
    fs::remove_file(&tsr).unwrap();
    let prover = Prover { signer: &beta, tsa: Some(&tsa), now: Moment::from_unix(NOW) };
    days::complete(proved.register.directory(), &prover).unwrap();
    let says = "is signed by posta-certificata@gestore.beta.test, not by \
        posta-certificata@gestore.alfa.test";
    assert_eq!(proved.faults(true), [format!("{}: {says}", name(1))]);
    restore();
    // Without a timestamp it is a gap, without a signature it is wrong.
    fs::remove_file(&tsr).unwrap();
    let outcome = proved.verify(&files, true);
    assert_eq!(outcome.faults, []);
    assert!(outcome.gaps[0].to_string().contains("has no timestamp"), "{:?}", outcome.gaps);
    fs::remove_file(&p7s).unwrap();
    assert!(proved.faults(true)[0].starts_with(&format!("{}: has no signature", name(1))));
    restore();
    // Cut off in the middle.
    let bytes = fs::read(&files[2]).unwrap();
    fs::write(&files[2], &bytes[..bytes.len() / 2]).unwrap();
    assert!(proved.faults(true)[0].contains("cannot be read"), "{:?}", proved.faults(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_documentation_say_the_same() {
    let proved = Proved::new().await;
    let register = &proved.register;
    fs::copy(register.network.pki.ca_file(), register.directory().join("ca.pem")).unwrap();
    fs::copy(proved.server.ca_file(), register.directory().join("tsa-ca.pem")).unwrap();
    let page =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/register-proof.md")).unwrap();
    let commands: String =
        page.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect();
    let commands = commands.replace("2026-11-18", &register.date(2)).replace("2026-11-17", &register.date(1));
    let run =
        || Command::new("sh").args(["-ec", &commands]).current_dir(register.directory()).output().unwrap();
    let output = run();
    let (said, complaints) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(
        output.status.success() && said.contains("Verification: OK") && said.contains("Time stamp: "),
        "{said} {complaints}"
    );
    let [.., hash, previous] = &said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!(
        *previous,
        format!("\"previous\":{{\"day\":\"{}\",\"sha256\":\"{}\"}}", register.date(1), &hash[..64])
    );
    // They can fail.
    proved.change(2, |lines| lines.swap(5, 6));
    let output = run();
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
