//! Signing with a key on a token: SoftHSM2, reached by the path of its library as any vendor's, in good and
//! in bad hours.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pec_access::AccessPoint;
use pec_core::clock::Moment;
use pec_core::envelope::signed_parts;
use pec_core::smime::own::OwnCertificate;
use pec_core::smime::request::{Subject, request};
use pec_core::smime::sign::{SignError, Signer, detached};
use pec_host::maillog;
use pec_host::parameters::{SigningKey, Token};
use pec_host::read;
use pec_test_support::judges::openssl_verify;
use pec_test_support::network::{LETTER, Network};
use pec_test_support::pki::{Keys, NOW, Pki};
use pec_test_support::postfix::{Mail, Outcome, start};
use pec_test_support::softhsm::{PIN, SoftHsm, reached};
use pec_token::{TokenKey, TokenSigner};
use tempfile::TempDir;

const ADDRESS: &str = "posta-certificata@gestore.alfa.test";
const KEY: &str = "pkcs11:token=alfa;object=pec";
const ANNA: &str = "anna@pec.alfa.test";
const BRUNO: &str = "bruno@pec.beta.test";

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pec-token"))
}

/// A provider whose key is in a file and on the token "alfa", called "pec".
struct Alfa {
    directory: TempDir,
    pki: Pki,
    keys: Keys,
    hsm: SoftHsm,
}

impl Alfa {
    fn new() -> Self {
        Self::of_bits(2048)
    }

    fn of_bits(bits: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path());
        let keys = pki.provider_of_bits("Alfa PEC S.p.A.", ADDRESS, bits);
        let hsm = SoftHsm::new(directory.path());
        hsm.new_token("alfa");
        hsm.import(&keys, "alfa", "pec", "01");
        Self { directory, pki, keys, hsm }
    }

    fn token(&self) -> Token {
        self.hsm.token(program(), KEY)
    }

    fn open(&self, token: Token) -> Result<TokenSigner, SignError> {
        TokenSigner::open(certificate(&self.keys), token)
    }

    /// SoftHSM behind a library that hangs and counts as it is told.
    fn tapped(&self) -> Token {
        Token { module: tapped_library(self.directory.path()), ..self.token() }
    }
}

fn certificate(keys: &Keys) -> OwnCertificate {
    read::certificate(&keys.certificate_file, ADDRESS, &keys.name, Moment::from_unix(NOW)).unwrap()
}

fn tapped_library(directory: &Path) -> PathBuf {
    let library = directory.join("tapped.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tapped.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status()
        .unwrap();
    assert!(compiled.success());
    library
}

/// The processes that this one has started and that still run.
fn workers() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<String> =
        children.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    let is_worker = |pid: &String| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(9).any(|w| w == b"pec-token"))
    };
    children.into_iter().filter(is_worker).collect()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn rfc6109_5_1_a_key_on_a_token_signs_the_same_bytes_as_one_in_a_file() {
    for bits in [2048, 4096] {
        let alfa = Alfa::of_bits(bits);
        let token = alfa.open(alfa.token()).unwrap();
        let file = alfa.keys.signer(ADDRESS, NOW).unwrap();
        for content in ["", "Content-Type: text/plain\r\n\r\nCiao\r\n"] {
            let digest = openssl::sha::sha256(content.as_bytes());
            let [by_token, by_file] =
                [&token as &dyn Signer, &file].map(|s| detached(s, &digest, Moment::from_unix(NOW)).unwrap());
            assert_eq!(by_token, by_file);
        }
        // And openssl finds it good.
        let content = "Content-Type: text/plain\r\n\r\nCiao\r\n";
        let signature =
            detached(&token, &openssl::sha::sha256(content.as_bytes()), Moment::from_unix(NOW)).unwrap();
        let message = format!(
            "MIME-Version: 1.0\r\nContent-Type: multipart/signed; \
            protocol=\"application/x-pkcs7-signature\"; micalg=\"sha-256\"; boundary=\"limit\"\r\n\r\n\
             --limit\r\n{content}\r\n--limit\r\nContent-Type: application/x-pkcs7-signature; \
            name=\"smime.p7s\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--limit--\r\n",
            openssl::base64::encode_block(&signature)
                .as_bytes()
                .chunks(76)
                .map(|line| std::str::from_utf8(line).unwrap())
                .collect::<Vec<_>>()
                .join("\r\n")
        );
        openssl_verify(message.as_bytes(), &alfa.pki.ca_file()).unwrap();
    }
}

#[test]
fn the_pin_is_in_no_argument_and_no_environment() {
    let alfa = Alfa::new();
    let signer = alfa.open(alfa.token()).unwrap();
    let workers = workers();
    assert_eq!(workers.len(), 1, "one process keeps its session");
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", workers[0])).unwrap();
        assert!(!bytes.is_empty() && !bytes.windows(PIN.len()).any(|w| w == PIN.as_bytes()));
    }
    drop(signer);
    eventually("the process ends with its signer", || self::workers().is_empty());
}

#[test]
fn what_is_wrong_is_named_and_only_an_absent_token_is_waited_for() {
    let alfa = Alfa::new();
    let other = alfa.pki.provider("Other", ADDRESS);
    alfa.hsm.new_token("beta");
    alfa.hsm.import(&other, "beta", "pec", "01");
    alfa.hsm.import(&alfa.pki.provider("Another", ADDRESS), "beta", "pec", "02");
    let absent = alfa.directory.path().join("absent");
    let (empty, open) = (alfa.directory.path().join("empty"), alfa.directory.path().join("open"));
    fs::write(&empty, "\n").unwrap();
    fs::write(&open, PIN).unwrap();
    for (file, mode) in [(&empty, 0o600), (&open, 0o644)] {
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }

    let token = || alfa.token();
    let of = |uri| alfa.hsm.token(program(), uri);
    for (token, waits, says) in [
        (Token { module: absent.clone(), ..token() }, false, "pec_pkcs11_module = "),
        (
            Token { module: "/usr/lib/x86_64-linux-gnu/libc.so.6".into(), ..token() },
            false,
            "cannot be loaded",
        ),
        (Token { pin_file: absent.clone(), ..token() }, false, "No such file"),
        (Token { pin_file: empty, ..token() }, false, "is empty"),
        (Token { pin_file: open, ..token() }, false, "every user of this machine may open it (mode 644)"),
        (Token { program: absent, ..token() }, false, "cannot be started"),
        (of("pkcs11:token=gamma;object=pec"), true, "this token is not there; there are \""),
        (of("pkcs11:token=alfa;object=cep"), false, "holds no RSA private key of this name"),
        (of("pkcs11:token=beta;object=pec"), false, "holds 2 RSA private keys of this name"),
        (of("pkcs11:token=beta;object=pec;id=%01"), false, "does not verify with the certificate in"),
    ] {
        let error = alfa.open(token).err().unwrap();
        assert_eq!(matches!(error, SignError::Away(_)), waits, "{error}");
        let error = error.to_string();
        assert!(
            error.contains(says) && error.contains("pec_signing_key = pkcs11:") && !error.contains('\n'),
            "{error}"
        );
    }
    assert!(alfa.open(of("pkcs11:token=alfa;id=%01")).is_ok());
}

#[test]
fn a_pin_that_the_token_refused_is_not_tried_again() {
    let alfa = Alfa::new();
    let signer = alfa.open(alfa.tapped()).unwrap();
    let logins = || fs::read(alfa.hsm.tap("logins")).unwrap().len();
    assert_eq!(logins(), 1);
    alfa.hsm.set_pin("0000");
    kill(&workers());
    for _ in 0..5 {
        let error = signer.sign(b"x").unwrap_err().to_string();
        assert!(
            error.contains("does not take the PIN")
                && error.contains("CKR_PIN_INCORRECT")
                && !error.contains("0000"),
            "{error}"
        );
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(logins(), 2, "the token would lock itself");
    // A reload, as SIGHUP does it.
    alfa.hsm.set_pin(PIN);
    assert!(alfa.open(alfa.tapped()).is_ok());
}

/// The sessions are gone and the PIN in the file is wrong, when eight messages want a signature.
#[test]
fn of_many_messages_one_tries_the_pin() {
    let alfa = Alfa::new();
    let signer = alfa.open(alfa.tapped()).unwrap();
    let logins = || fs::read(alfa.hsm.tap("logins")).unwrap().len();
    let at_once = || {
        std::thread::scope(|scope| {
            let signers: Vec<_> = (0..8).map(|_| scope.spawn(|| signer.sign(b"x"))).collect();
            signers.into_iter().map(|signer| signer.join().unwrap()).collect::<Vec<_>>()
        })
    };
    (0..20).for_each(|_| drop(signer.sign(b"x").unwrap()));
    assert_eq!(logins(), 1, "a session is kept");
    // So that all are there before the first has its answer.
    fs::write(alfa.hsm.tap("slow"), "").unwrap();
    // A good PIN is not taken for a bad one, however many come.
    assert!(at_once().iter().all(Result::is_ok));
    let before = logins();
    alfa.hsm.set_pin("0000");
    kill(&workers());
    for error in at_once().into_iter().map(Result::unwrap_err) {
        assert!(error.to_string().contains("does not take the PIN"), "{error}");
    }
    assert_eq!(logins() - before, 1);
}

fn kill(pids: &[String]) {
    assert!(!pids.is_empty());
    assert!(Command::new("kill").arg("-KILL").args(pids).status().unwrap().success());
}

#[test]
fn a_crash_of_the_vendors_library_costs_nothing() {
    let alfa = Alfa::new();
    let signer = alfa.open(alfa.token()).unwrap();
    let before = workers();
    kill(&before);
    signer.sign(b"x").unwrap();
    assert_ne!(workers(), before);
}

#[test]
fn a_library_that_crashes_each_time_is_named_once_with_how_it_ended_and_so_is_its_recovery() {
    let alfa = Alfa::new();
    let signer = alfa.open(alfa.tapped()).unwrap();
    let log = maillog::captured(false, || {
        signer.sign(b"x").unwrap();
        fs::write(alfa.hsm.tap("crash"), "").unwrap();
        for _ in 0..3 {
            let error = signer.sign(b"x").unwrap_err();
            assert!(matches!(error, SignError::Away(_)), "{error}");
        }
        fs::remove_file(alfa.hsm.tap("crash")).unwrap();
        eventually("it signs again by itself", || signer.sign(b"x").is_ok());
    });
    let [down, up] = log.lines().collect::<Vec<_>>()[..] else { panic!("{log}") };
    assert!(
        down.starts_with("NOQUEUE: error: messages wait until the token with the signing key signs again: "),
        "{down}"
    );
    assert!(down.contains("the process with the vendor's library has ended (signal: 6 (SIGABRT)"), "{down}");
    assert_eq!(up, "NOQUEUE: the token with the signing key signs again");
}

#[test]
fn a_library_that_hangs_is_left_after_the_time_limit_and_opened_anew() {
    let alfa = Alfa::new();
    let signer = alfa.open(Token { time_limit: Duration::from_secs(5), ..alfa.tapped() }).unwrap();
    let hung = workers();
    fs::write(alfa.hsm.tap("hang"), "").unwrap();
    let error = signer.sign(b"x").unwrap_err();
    assert!(
        matches!(&error, SignError::Away(why) if why.contains("did not answer within pec_pkcs11_time_limit")),
        "{error}"
    );
    fs::remove_file(alfa.hsm.tap("hang")).unwrap();
    eventually("it signs again", || signer.sign(b"x").is_ok());
    eventually("the process that hung is gone", || !workers().contains(&hung[0]));
}

#[test]
fn a_key_is_made_on_the_token_never_twice_and_requests_its_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let hsm = SoftHsm::new(directory.path());
    hsm.new_token("alfa");
    let token = hsm.token(program(), "pkcs11:token=alfa;object=pec%202027");
    assert!(
        TokenKey::open(token.clone())
            .err()
            .unwrap()
            .to_string()
            .contains("holds no RSA private key of this name")
    );
    let mut key = TokenKey::make(token.clone(), 2048).unwrap();
    let public_key = key.public_key().clone();
    let subject = Subject {
        provider_name: "Società Alfa S.p.A.",
        state: Some("Ancona"),
        locality: None,
        common_name: "Posta Certificata",
        address: ADDRESS,
    };
    let der = request(&subject, &public_key, |data| key.sign(data)).unwrap();

    let file = directory.path().join("request.der");
    fs::write(&file, der).unwrap();
    let openssl = Command::new("openssl")
        .args([
            "req",
            "-inform",
            "DER",
            "-verify",
            "-noout",
            "-text",
            "-nameopt",
            "utf8,sep_comma_plus",
            "-in",
        ])
        .arg(&file)
        .output();
    let output = openssl.unwrap();
    let text = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stderr).contains("verify OK"),
        "{text}"
    );
    for part in [
        "Subject: C=IT,ST=Ancona,O=Società Alfa S.p.A.,CN=Posta Certificata",
        "Public-Key: (2048 bit)",
        "X509v3 Key Usage: critical Digital Signature X509v3",
        "X509v3 Subject Alternative Name: email:posta-certificata@gestore.alfa.test ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    for uri in ["pkcs11:token=alfa;object=pec%202027", "pkcs11:token=alfa;object=pec%202027;id=%01"] {
        let again = TokenKey::make(hsm.token(program(), uri), 2048).err().unwrap().to_string();
        assert!(again.contains("already, which is not touched"), "{again}");
    }
    assert!(
        TokenKey::open(token).unwrap().public_key().public_eq(&public_key),
        "the key is the one from before"
    );
}

/// The certificate is refused before the token is asked; a request for such a key, by what the token says of
/// it.
#[test]
fn a_key_on_the_token_that_is_too_short_or_too_long_is_refused() {
    for bits in [1024, 4104] {
        let alfa = Alfa::of_bits(bits);
        let says = format!("has {bits} bits; RSA of 2048 to 4096 bits is needed");
        let read =
            read::certificate(&alfa.keys.certificate_file, ADDRESS, &alfa.keys.name, Moment::from_unix(NOW));
        assert!(read.unwrap_err().to_string().ends_with(&says));
        let mut key = TokenKey::open(alfa.token()).unwrap();
        let public_key = key.public_key().clone();
        let subject = Subject {
            provider_name: "Alfa",
            state: None,
            locality: None,
            common_name: "Posta Certificata",
            address: ADDRESS,
        };
        assert!(
            request(&subject, &public_key, |data| key.sign(data)).unwrap_err().to_string().ends_with(&says)
        );
    }
}

/// Alfa's Access Point with its key on a token, which has `time_limit` to answer.
async fn access(network: &mut Network, time_limit: Duration) -> (SoftHsm, std::net::SocketAddr) {
    let hsm = SoftHsm::new(network.directory.path());
    hsm.new_token("alfa");
    hsm.import(&network.alfa.keys, "alfa", "pec", "01");
    let token =
        Token { module: tapped_library(network.directory.path()), time_limit, ..hsm.token(program(), KEY) };
    network.alfa.settings.signing_key = SigningKey::Token(token.uri.clone());
    network.alfa.settings.pkcs11 = reached(token);
    let point = AccessPoint::new(network.world(&network.alfa).await);
    (hsm, start(point, ()).await)
}

fn letter(n: usize) -> Mail {
    Mail::submitted(ANNA, &[BRUNO], LETTER.replace("<1@", &format!("<{n}@")).as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_library_hangs_mail_waits_and_goes_on_by_itself() {
    let mut network = Network::new().await;
    let (hsm, access) = access(&mut network, Duration::from_secs(6)).await;
    fs::write(hsm.tap("hang"), "").unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    (0..6).for_each(|n| drop(waiting.spawn(async move { letter(n).give_to(access).await })));
    for outcome in waiting.join_all().await {
        outcome.deferred();
    }
    fs::remove_file(hsm.tap("hang")).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < until, "it does not go on");
        match letter(6).give_to(access).await {
            Outcome::Queued(_) => break,
            Outcome::Deferred(_) => {}
            other => panic!("neither taken nor to come again: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_token_is_away_mail_waits_and_goes_on_by_itself() {
    let mut network = Network::new().await;
    let (hsm, access) = access(&mut network, Duration::from_secs(30)).await;
    let pulled = hsm.tokens().with_file_name("pulled");

    // Two hundred messages, twenty at a time. The sixtieth pulls the token; when twenty have had to wait it
    // is put back.
    let (pull, put_back) = ((hsm.tokens(), pulled.clone()), (pulled, hsm.tokens()));
    let (begun, deferred) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..20 {
        let (pull, put_back, begun, deferred) =
            (pull.clone(), put_back.clone(), begun.clone(), deferred.clone());
        senders.spawn(async move {
            let mut taken = Vec::new();
            for n in 0..10 {
                if begun.fetch_add(1, Ordering::SeqCst) + 1 == 60 {
                    fs::rename(&pull.0, &pull.1).unwrap();
                }
                loop {
                    match letter(sender * 10 + n).give_to(access).await {
                        Outcome::Queued(queued) => break taken.push(queued),
                        Outcome::Deferred(reply) => {
                            assert!(reply.contains("temporarily unavailable"), "{reply}")
                        }
                        other => panic!("neither taken nor to come again: {other:?}"),
                    }
                    if deferred.fetch_add(1, Ordering::SeqCst) + 1 == 20 {
                        fs::rename(&put_back.0, &put_back.1).unwrap();
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            taken
        });
    }
    let taken: Vec<_> = senders.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), 200, "every message goes out");
    assert!(deferred.load(Ordering::SeqCst) >= 20);
    eventually("no more than four processes", || workers().len() <= 4);
    let cas = read::trusted_cas(&network.pki.ca_file()).unwrap();
    for (n, queued) in taken.iter().enumerate() {
        let body = &queued.mail.body;
        let parts = signed_parts(&queued.mail.header, body).unwrap();
        cas.verify(&body[parts.content], &parts.signature, Moment::from_unix(NOW)).unwrap();
        if n % 50 == 0 {
            openssl_verify(&queued.mail.to_bytes(), &network.pki.ca_file()).unwrap();
        }
    }
}
