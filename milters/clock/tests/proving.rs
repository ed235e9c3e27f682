//! What proves the retained log, round by round: a real TSA that goes away and comes back, a witness that is
//! not of our making (tests/verify/witness.py), a mailbox behind a `sendmail`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pec_clock::proving::Proving;
use pec_core::clock::Moment;
use pec_host::parameters::Witness;
use pec_program::life::Process;
use pec_register::checkpoint::LogKey;
use pec_register::sealer::Sealer;
use pec_register::tree::Tiles;
use pec_register::witness::{Witnessed, witnessed};
use pec_register::{attest, days};
use pec_test_support::network::{Network, column, eventually, run};
use pec_test_support::pki::NOW;
use pec_test_support::tsa::{Manner, Tsa};

const DAY: i64 = 86_400;

/// A provider at the beginning of the day after the one on which [`NOW`] is, as far as the database goes.
struct Provider {
    network: Network,
    tsa: Tsa,
    sendmail: PathBuf,
}

impl Provider {
    async fn new() -> Self {
        let mut network = Network::new().await;
        let tsa = Tsa::start();
        network.alfa.settings.timestamps = Some(tsa.settings());
        let sendmail = network.directory.path().join("sendmail");
        let mail = network.directory.path().join("mail");
        fs::write(
            &sendmail,
            format!(
                "#!/bin/sh\n[ -e {0}.full ] && {{ echo 'queue is full' >&2; exit 75; }}\necho \"$@\" >> \
                {0}\ncat >> {0}\n",
                mail.display()
            ),
        )
        .unwrap();
        fs::set_permissions(&sendmail, fs::Permissions::from_mode(0o755)).unwrap();
        // The rows of a test come in on the day of NOW, whatever month it is meanwhile.
        run(
            &network.alfa.settings.database,
            &format!("SELECT log_month((to_timestamp({NOW}) AT TIME ZONE 'UTC')::date)"),
        )
        .await;
        Self { network, tsa, sendmail }
    }

    fn register(&self) -> &Path {
        &self.network.alfa.settings.register
    }

    fn mail(&self) -> PathBuf {
        self.network.directory.path().join("mail")
    }

    fn proving(&self) -> Proving {
        Proving::sending(
            &self.network.alfa.settings,
            Process::quiet(self.network.clock.clone()),
            &self.sendmail,
        )
        .unwrap()
    }

    fn set_clock(&self, after: i64) {
        self.network.clock.set(Moment::from_unix(NOW + after));
    }

    /// So many rows come in, and are sealed.
    async fn rows(&self, after: i64, count: i64) {
        let settings = &self.network.alfa.settings;
        let insert = format!(
            "INSERT INTO log (recorded_at, happened_at, event, identificativo, mittente, destinatari, \
            gestore, certified_by, recipients, queue_id, time_source) \
             SELECT to_timestamp({NOW} + {after}), now(), 'accettazione', 'opec1.' || n, \
            'anna@pec.alfa.test', '{{}}', 'Alfa', 'Alfa', '{{}}', 'Q', 'submission' FROM generate_series(1, \
            {count}) AS n"
        );
        run(&settings.database, &insert).await;
        let mut sealer = eventually(async || Sealer::open(settings, "test").await.unwrap()).await;
        while sealer.seal(Moment::from_unix(NOW + after)).await.unwrap().is_some() {}
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.register().join(directory)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn witnessed(&self) -> Vec<Witnessed> {
        witnessed(self.register(), &self.network.alfa.settings.witnesses)
            .unwrap()
            .into_iter()
            .map(Result::unwrap)
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_closed_signed_and_timestamped_and_a_tsa_that_is_away_is_asked_again() {
    let provider = Provider::new().await;
    provider.rows(0, 3).await;
    let mut proving = provider.proving();
    proving.round().await;
    assert_eq!(provider.names("days"), [""; 0]);
    assert_eq!(provider.names("attest"), ["3.checkpoint", "3.checkpoint.p7s", "3.checkpoint.tsr"]);
    assert!(provider.register().join("log.key.tsr").exists());
    // The next day the TSA is away; it is as well that signatures do not wait for it.
    provider.rows(DAY, 2).await;
    provider.set_clock(DAY);
    provider.tsa.answers(Manner::Silence);
    proving.round().await;
    let day = days::date(NOW / DAY);
    assert_eq!(provider.names("days"), [format!("{day}.jsonl.gz"), format!("{day}.jsonl.gz.p7s")]);
    assert_eq!(provider.names("attest").len(), 5);
    assert!(
        proving.failing()[0].contains("5.checkpoint has no timestamp: the TSA http://127.0.0.1:"),
        "{:?}",
        proving.failing()
    );
    provider.tsa.answers(Manner::Honest);
    proving.round().await;
    assert_eq!(proving.failing(), [""; 0]);
    assert_eq!((provider.names("days").len(), provider.names("attest").len()), (3, 6));
    // Nothing is asked for twice.
    let asked = provider.tsa.asked();
    proving.round().await;
    assert_eq!(provider.tsa.asked(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_proves_and_another_takes_over() {
    let provider = Provider::new().await;
    provider.rows(0, 3).await;
    let (mut first, mut second) = (provider.proving(), provider.proving());
    first.round().await;
    provider.set_clock(DAY);
    fs::remove_dir_all(attest::directory(provider.register())).unwrap();
    assert!(!second.round().await);
    assert_eq!(provider.names("attest"), [""; 0]);
    drop(first);
    // PostgreSQL takes its moment to see that the first is gone.
    while !column(
        &provider.network.alfa.settings.database,
        "SELECT count(*)::text FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = \
        'advisory' AND datname = current_database()",
    )
    .await[0]
        .eq("0")
    {
        tokio::task::yield_now().await;
    }
    assert!(second.round().await);
    assert_eq!((provider.names("attest").len(), provider.names("days").len()), (3, 3));
}

/// The witness of tests/verify.
struct Independent {
    process: Child,
    directory: tempfile::TempDir,
    witness: Witness,
}

impl Independent {
    fn start(log: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/verify/witness.py");
        let mut command = Command::new("python3");
        command
            .arg(program)
            .args(["witness.example/w1", log])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (key, port) = (lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap());
        let witness = Witness::parse(&format!("http://127.0.0.1:{port}/#{key}")).unwrap();
        Self { process, directory, witness }
    }

    fn behaves(&self, manner: &str, on: bool) {
        let file = self.directory.path().join(manner);
        if on { fs::write(file, "").unwrap() } else { fs::remove_file(file).unwrap() }
    }
}

impl Drop for Independent {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_cosigns_what_goes_on_from_before_and_nothing_else() {
    let mut provider = Provider::new().await;
    let independent = Independent::start(&LogKey::read(&provider.network.alfa.settings).unwrap().public());
    provider.network.alfa.settings.witnesses = vec![independent.witness.clone()];
    provider.rows(0, 3).await;
    let mut proving = provider.proving();
    independent.behaves("away", true);
    proving.round().await;
    assert!(proving.failing()[0].starts_with("the witness witness.example/w1+"), "{:?}", proving.failing());
    assert!(proving.failing()[0].ends_with("does not answer: status 503"), "{:?}", proving.failing());
    independent.behaves("away", false);
    proving.round().await;
    assert_eq!(proving.failing(), [""; 0]);
    // Every hour; and each time from where the witness is, in sizes that make long and short proofs.
    provider.rows(0, 300).await;
    proving.round().await;
    assert_eq!(provider.witnessed().len(), 1);
    for (hour, rows) in (1..).zip([1, 8, 512]) {
        provider.set_clock(hour * 3600);
        provider.rows(hour * 3600, rows).await;
        proving.round().await;
        assert_eq!(proving.failing(), [""; 0]);
    }
    let all = provider.witnessed();
    assert_eq!(all.iter().map(|w| w.size).collect::<Vec<_>>(), [3, 304, 312, 824]);
    let tiles = Tiles::new(provider.register());
    assert!(all.iter().all(|w| w.at.is_some() && tiles.root(w.size).unwrap() == w.root));
    // What we forgot, the witness has not.
    fs::remove_dir_all(provider.register().join("witness")).unwrap();
    provider.rows(4 * 3600, 5).await;
    provider.set_clock(4 * 3600);
    proving.round().await;
    assert_eq!(provider.witnessed().iter().map(|w| w.size).collect::<Vec<_>>(), [829]);
    // An answer that is no cosignature of this checkpoint does not count.
    independent.behaves("lie", true);
    provider.rows(5 * 3600, 1).await;
    provider.set_clock(5 * 3600);
    proving.round().await;
    assert!(
        proving.failing()[0]
            .ends_with("what it answers is no signature of this checkpoint by the key in pec_witnesses"),
        "{:?}",
        proving.failing()
    );
    assert_eq!(provider.witnessed().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_past_is_refused_by_a_witness_whoever_has_the_keys() {
    let mut provider = Provider::new().await;
    let independent = Independent::start(&LogKey::read(&provider.network.alfa.settings).unwrap().public());
    provider.network.alfa.settings.witnesses = vec![independent.witness.clone()];
    provider.rows(0, 3).await;
    provider.proving().round().await;
    // The same key, another database: other rows, more of them, and nothing on disk that remembers.
    let other = Provider::new().await;
    let mut settings = other.network.alfa.settings.clone();
    settings.register_key = provider.network.alfa.settings.register_key.clone();
    settings.witnesses = vec![independent.witness.clone()];
    let insert = "INSERT INTO log (happened_at, event, identificativo, mittente, destinatari, gestore, \
        certified_by, recipients, queue_id, time_source) \
                  SELECT now(), 'accettazione', 'x', 'y', '{}', 'Alfa', 'Alfa', '{}', 'Q', 'submission' \
        FROM generate_series(1, 4)";
    run(&settings.database, insert).await;
    Sealer::open(&settings, "test")
        .await
        .unwrap()
        .unwrap()
        .seal(Moment::from_unix(NOW))
        .await
        .unwrap()
        .unwrap();
    let mut proving =
        Proving::sending(&settings, Process::quiet(other.network.clock.clone()), &other.sendmail).unwrap();
    proving.round().await;
    assert!(
        proving.failing()[0].ends_with("does not cosign: status 422 does not go on from the one before"),
        "{:?}",
        proving.failing()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_gets_checkpoints_and_a_full_queue_is_tried_again() {
    let mut provider = Provider::new().await;
    provider.network.alfa.settings.witnesses = vec![Witness::parse("notaio@studio.test").unwrap()];
    provider.rows(0, 3).await;
    let full = provider.mail().with_extension("full");
    fs::write(&full, "").unwrap();
    let mut proving = provider.proving();
    proving.round().await;
    assert_eq!(
        proving.failing(),
        ["the witness notaio@studio.test sendmail does not take the message: queue is full"]
    );
    fs::remove_file(full).unwrap();
    proving.round().await;
    assert_eq!(proving.failing(), [""; 0]);
    let mail = fs::read_to_string(provider.mail()).unwrap();
    assert!(
        mail.starts_with(
            "-i -f posta-certificata@gestore.alfa.test -- notaio@studio.test\nFrom: \
            posta-certificata@gestore.alfa.test\nTo: notaio@studio.test\n"
        ),
        "{mail}"
    );
    let body: String = mail.split_once("\n\n").unwrap().1.lines().collect();
    let text = openssl::base64::decode_block(&body).unwrap();
    assert_eq!(Tiles::new(provider.register()).checkpoint().unwrap().unwrap().into_bytes(), text);
    assert_eq!(provider.witnessed()[0].at, None);
    proving.round().await;
    assert_eq!(fs::read_to_string(provider.mail()).unwrap(), mail);
}
