//! The Incoming Point and a directory of providers that is fetched over HTTPS with our certificate: what
//! comes from a provider that is new to us, and what a bad directory does not change.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use pec_core::clock::Moment;
use pec_core::directory::signed;
use pec_core::smime::sign::enclosing;
use pec_host::parameters::DirectorySource;
use pec_incoming::{Door, IncomingPoint};
use pec_program::directories::{Directories, InForce, Refreshed};
use pec_state::database::Database;
use pec_test_support::file_server::FileServer;
use pec_test_support::network::{Host, LETTER, Network, column, envelope};
use pec_test_support::pki::{Keys, NOW, Revoked, crl_at};
use pec_test_support::postfix::{Outcome, start};

const BRUNO: &str = "bruno@pec.beta.test";
const DAY: i64 = 86_400;

/// Beta fetches the directory, which `agid` signs.
struct Scene {
    network: Network,
    server: FileServer,
    agid: Keys,
}

impl Scene {
    /// Only Beta stands in the directory so far.
    async fn new() -> Self {
        let mut network = Network::new().await;
        let server = FileServer::start_https(&network.pki.root);
        let agid = network.pki.provider("AgID", "indice@agid.test");
        let files = network.directory.path();
        fs::write(files.join("agid.pem"), agid.certificate().to_pem().unwrap()).unwrap();
        network.beta.settings.directory_source = Some(DirectorySource {
            url: server.url("igpec.p7m"),
            signer_file: files.join("agid.pem"),
            certificate_file: network.beta.keys.certificate_file.clone(),
            key_file: network.beta.keys.key_file.clone(),
            ca_file: network.pki.ca_file(),
        });
        network.write_directory(&[&network.beta]);
        Self { network, server, agid }
    }

    fn at(&self, now: i64) {
        self.network.clock.set(Moment::from_unix(now));
    }

    fn signed(&self, by: &Keys, ldif: &str, at: i64) -> Vec<u8> {
        let address =
            if by.name == "AgID" { "indice@agid.test" } else { "posta-certificata@gestore.alfa.test" };
        enclosing(&by.signer(address, NOW).unwrap(), ldif.as_bytes(), Moment::from_unix(at)).unwrap()
    }

    /// AgID lays down a directory of these, signed at this moment.
    fn publish(&self, hosts: &[&Host], at: i64) {
        self.server.put("igpec.p7m", self.signed(&self.agid, &self.network.directory_of(hosts), at));
    }

    async fn directories(&self) -> Directories {
        let settings = &self.network.beta.settings;
        Directories::new(settings, Database::connect(settings, "test").await.unwrap()).unwrap().unwrap()
    }

    async fn refresh(&self) -> Result<Refreshed, String> {
        self.directories().await.refresh(false, Moment::from_unix(NOW)).await
    }

    async fn incoming(&self) -> SocketAddr {
        start(IncomingPoint::new(self.network.world(&self.network.beta).await), Door::Port25).await
    }

    async fn arrives(&self, incoming: SocketAddr) -> Outcome {
        envelope(&self.network, &self.network.alfa, &[BRUNO], LETTER).give_to(incoming).await
    }

    async fn is_anomaly(&self, incoming: SocketAddr) -> bool {
        self.arrives(incoming).await.queued().mail.header.text("X-Trasporto").as_deref() == Some("errore")
    }

    async fn log(&self) -> Vec<String> {
        let sql = "SELECT error FROM log WHERE event = 'indice-gestori' ORDER BY seq";
        column(&self.network.beta.settings.database, sql).await
    }

    fn in_force(&self) -> String {
        fs::read_to_string(&self.network.beta.settings.directory_file).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_5_6_the_directory_is_fetched_with_our_certificate_and_taken_up_without_a_restart() {
    let scene = Scene::new().await;
    let (alfa, beta) = (&scene.network.alfa, &scene.network.beta);
    scene.publish(&[alfa, beta], NOW - DAY);
    let world = scene.network.world(beta).await;
    let before = world.directory.now();
    let Refreshed::New { size, changes } = scene.refresh().await.unwrap() else { panic!() };
    assert_eq!((size, changes.len()), ((2, 6), 3));
    world.directory.look().await;
    assert!(!before.has_domain("studio.example"));
    assert_eq!(
        world.directory.now().records_of_domain("studio.example").first().map(|p| p.name.as_str()),
        Some("Alfa PEC S.p.A.")
    );
    let domains = "domains new (Alfa PEC S.p.A.): 3: gestore.alfa.test pec.alfa.test studio.example";
    let log = scene.log().await;
    assert_eq!(
        log,
        [
            "the directory has changed: 2 records, 6 domains, 3 changes",
            "provider new: Alfa PEC S.p.A.",
            &format!("certificate new: {} (Alfa PEC S.p.A.)", alfa.keys.sha1),
            domains
        ]
    );
    // Nothing new: nothing happens, also on another host.
    assert!(matches!(scene.refresh().await, Ok(Refreshed::Same)));
    scene.network.write_directory(&[beta]);
    scene.refresh().await.unwrap();
    assert_eq!(scene.log().await, log);
    // Another CA vouches for the server; who has no certificate gets no answer.
    let mut settings = beta.settings.clone();
    let other = pec_test_support::pki::Ca::root("Altra CA");
    let ca_file = scene.network.directory.path().join("other.pem");
    fs::write(&ca_file, other.certificate.to_pem().unwrap()).unwrap();
    settings.directory_source.as_mut().unwrap().ca_file = ca_file;
    let database = Database::connect(&settings, "test").await.unwrap();
    let why = Directories::new(&settings, database)
        .unwrap()
        .unwrap()
        .refresh(false, Moment::from_unix(NOW))
        .await
        .unwrap_err();
    assert!(why.contains("certificate verify failed"), "{why}");
    let strangers =
        other.provider(scene.network.directory.path(), "Alfa", "posta-certificata@gestore.alfa.test", &[]);
    let mut settings = beta.settings.clone();
    let source = settings.directory_source.as_mut().unwrap();
    (source.certificate_file, source.key_file) = (strangers.certificate_file, strangers.key_file);
    let database = Database::connect(&settings, "test").await.unwrap();
    assert!(
        Directories::new(&settings, database)
            .unwrap()
            .unwrap()
            .refresh(false, Moment::from_unix(NOW))
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_4_5_what_must_not_count_leaves_the_directory_in_force() {
    let scene = Scene::new().await;
    let Network { alfa, beta, .. } = &scene.network;
    scene.publish(&[alfa, beta], NOW - DAY);
    scene.refresh().await.unwrap();
    let (in_force, log) = (scene.in_force(), scene.log().await);
    let ldif = scene.network.directory_of(&[alfa, beta]);
    let good = scene.signed(&scene.agid, &ldif, NOW);
    let mut forged = good.clone();
    let place = forged.windows(8).position(|w| w == b"pec.alfa").unwrap();
    forged[place] = b'x';
    let more = ldif.replace(
        "managedDomains: studio.example",
        "managedDomains: studio.example\nmanagedDomains: altro.example",
    );
    let by_openssl = |arguments: &[&str]| {
        let file = scene.network.directory.path().join("more.ldif");
        fs::write(&file, &more).unwrap();
        let output = std::process::Command::new("openssl")
            .args(["smime", "-binary", "-outform", "DER", "-in"])
            .arg(&file)
            .args(arguments)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let [agid, agids_key, other, others_key] = [
        &scene.agid.certificate_file,
        &scene.agid.key_file,
        &alfa.keys.certificate_file,
        &alfa.keys.key_file,
    ]
    .map(|file| file.to_str().unwrap());
    let by_agid = ["-sign", "-nodetach", "-signer", agid, "-inkey", agids_key];
    for (bytes, says) in [
        (by_openssl(&["-encrypt", agid]), "it is PKCS#7, but not signed"),
        (
            by_openssl(&[&by_agid[..], &["-noattr"]].concat()),
            "it does not say of when it is, and the one in force is of",
        ),
        (
            by_openssl(&[&by_agid[..], &["-signer", other, "-inkey", others_key]].concat()),
            "nobody of pec_directory_signer_file has signed it",
        ),
        (
            scene.signed(&scene.agid, &more, NOW - 2 * 365 * DAY),
            "the certificate of Posta Certificata was not valid on",
        ),
        (ldif.clone().into_bytes(), "it is no whole PKCS#7 file in DER, PEM or S/MIME"),
        (good[..good.len() / 2].to_vec(), "it is no whole PKCS#7 file in DER, PEM or S/MIME"),
        (forged, "the signature does not verify"),
        (scene.signed(&alfa.keys, &ldif, NOW), "nobody of pec_directory_signer_file has signed it"),
        (scene.signed(&scene.agid, &more, NOW - DAY - 1), "and the one in force is of"),
        (scene.signed(&scene.agid, &more, NOW + 2 * DAY), "which has not come yet"),
        (
            scene.signed(&scene.agid, &scene.network.directory_of(&[alfa]), NOW),
            "it has no record of ours: pec_provider_name = Beta Posta S.r.l.",
        ),
        (
            scene.signed(&scene.agid, &scene.network.directory_of(&[beta]), NOW),
            "suddenly much smaller: 1 records instead of 2",
        ),
        (scene.signed(&scene.agid, "", NOW), "holds no provider"),
    ] {
        scene.server.put("igpec.p7m", bytes);
        let why = scene.refresh().await.unwrap_err();
        assert!(why.contains(says), "{why}, and not {says}");
        assert_eq!((scene.in_force(), scene.log().await), (in_force.clone(), log.clone()), "{says}");
    }
    // Somebody has looked.
    scene.publish(&[beta], NOW);
    assert!(matches!(
        scene.directories().await.refresh(true, Moment::from_unix(NOW)).await,
        Ok(Refreshed::New { size: (1, 3), .. })
    ));
    assert_eq!(
        fs::read_to_string(scene.network.directory.path().join("igpec.ldif.before")).unwrap(),
        in_force
    );
}

/// In a debug build a million would take a minute; pec-core's `examples/directory.rs` measures that.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_grows_suddenly_is_taken_with_a_row_that_counts_what_came() {
    let scene = Scene::new().await;
    let Network { alfa, beta, .. } = &scene.network;
    scene.publish(&[alfa, beta], NOW - DAY);
    scene.refresh().await.unwrap();
    let world = scene.network.world(beta).await;
    // Alfa's record is the first, Beta's the last.
    let more: String = (0..100_000).map(|n| format!("managedDomains: d{n}.example\n")).collect();
    scene.server.put(
        "igpec.p7m",
        scene.signed(&scene.agid, &(scene.network.directory_of(&[alfa, beta]) + &more), NOW),
    );
    let Refreshed::New { size, changes } = scene.refresh().await.unwrap() else { panic!() };
    assert_eq!((size, changes.len()), ((2, 100_006), 1));
    let log = scene.log().await;
    let row = log.last().unwrap();
    assert!(
        row.starts_with("domains new (Beta Posta S.r.l.): 100000: d0.example d1.example ")
            && row.ends_with(" d99.example and 99900 more")
    );
    world.directory.look().await;
    assert_eq!(
        world.directory.now().records_of_domain("D99999.example").first().map(|p| p.name.as_str()),
        Some("Beta Posta S.r.l.")
    );
    // And what is suddenly gone again stays.
    scene.publish(&[alfa, beta], NOW);
    assert!(
        scene.refresh().await.unwrap_err().contains("suddenly much smaller: 6 domains instead of 100006")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_before_an_unknown_signer_is_an_anomaly_the_directory_is_fetched_once() {
    let scene = Scene::new().await;
    let Network { alfa, beta, .. } = &scene.network;
    let incoming = scene.incoming().await;
    scene.publish(&[beta], NOW);
    assert!(scene.is_anomaly(incoming).await, "nobody knows Alfa");
    scene.publish(&[alfa, beta], NOW);
    scene.at(NOW + 299);
    assert!(scene.is_anomaly(incoming).await, "that was asked just before");
    assert_eq!(scene.server.asked(), 1);
    scene.at(NOW + 300);
    scene.arrives(incoming).await.queued().recipient("presa-in-carico+");
    assert_eq!(scene.server.asked(), 2);
    // Ordinary mail asks nobody.
    scene.at(NOW + 900);
    let letter =
        pec_test_support::postfix::Mail::submitted("a@elsewhere.example", &[BRUNO], LETTER.as_bytes());
    letter.give_to(incoming).await.queued();
    assert_eq!(scene.server.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_before_an_unknown_domain_is_an_anomaly_the_directory_is_fetched_once() {
    let mut scene = Scene::new().await;
    scene.network.alfa.settings.local_domains.remove("pec.alfa.test");
    scene.network.write_directory(&[&scene.network.alfa, &scene.network.beta]);
    let incoming = scene.incoming().await;
    scene.server.stop();
    assert!(
        scene.is_anomaly(incoming).await,
        "the server does not answer, and the mail does not wait for it"
    );
    scene.server.come_back();
    scene.network.alfa.settings.local_domains.insert("pec.alfa.test".to_owned());
    scene.publish(&[&scene.network.alfa, &scene.network.beta], NOW);
    scene.at(NOW + 300);
    scene.arrives(incoming).await.queued().recipient("presa-in-carico+");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_put_there_by_hand_is_taken_up_and_a_bad_one_is_not() {
    let scene = Scene::new().await;
    let file = &scene.network.beta.settings.directory_file;
    let settings = &scene.network.beta.settings;
    let database = Database::connect(settings, "test").await.unwrap();
    let in_force = Arc::new(InForce::read(settings, database, scene.network.clock.clone()).unwrap());
    let before = in_force.now();
    in_force.look().await;
    assert!(Arc::ptr_eq(&before, &in_force.now()));
    for bad in ["", "nonsense", &scene.network.directory_of(&[&scene.network.alfa])] {
        fs::write(file, bad).unwrap();
        in_force.look().await;
        assert!(Arc::ptr_eq(&before, &in_force.now()), "{bad}");
    }
    scene.network.write_directory(&[&scene.network.alfa, &scene.network.beta]);
    in_force.look().await;
    assert_eq!(in_force.now().size(), (2, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_do_not_do_are_named_at_the_start() {
    let scene = Scene::new().await;
    let database = Database::connect(&scene.network.beta.settings, "test").await.unwrap();
    let said = |change: &dyn Fn(&mut DirectorySource)| {
        let mut settings = scene.network.beta.settings.clone();
        change(settings.directory_source.as_mut().unwrap());
        Directories::new(&settings, database.clone()).map(drop).unwrap_err().to_string()
    };
    let nothing = scene.network.directory.path().join("nothing");
    assert!(said(&|s| s.signer_file = nothing.clone()).starts_with("pec_directory_signer_file = /"));
    assert!(said(&|s| s.ca_file = s.key_file.clone()).ends_with("holds no certificate"));
    assert!(
        said(&|s| s.certificate_file = nothing.clone())
            .starts_with("pec_directory_client_certificate_file = /")
    );
    assert!(said(&|s| s.key_file = s.ca_file.clone()).starts_with("pec_directory_client_key_file = /"));
    let open = scene.network.directory.path().join("open.key");
    fs::copy(&scene.network.beta.keys.key_file, &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(said(&|s| s.key_file = open.clone()).contains("chmod 600"));
}

/// What OpenSSL's own tool signs is read, with the certificate inside and the time of signing, in each of its
/// forms.
#[test]
fn rfc6109_4_5_a_file_signed_by_openssl_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let keys = pec_test_support::pki::Pki::new(directory.path()).provider("AgID", "indice@agid.test");
    let [ldif, p7m] = ["a.ldif", "a.p7m"].map(|name| directory.path().join(name));
    fs::write(&ldif, "version: 1\n").unwrap();
    let sign = |options: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        command.args(["smime", "-sign", "-binary"]).args(options);
        command
            .arg("-in")
            .arg(&ldif)
            .arg("-out")
            .arg(&p7m)
            .arg("-signer")
            .arg(&keys.certificate_file)
            .arg("-inkey")
            .arg(&keys.key_file);
        assert!(command.status().unwrap().success());
        signed::open(fs::read(&p7m).unwrap(), &[keys.certificate()], Moment::from_unix(NOW))
    };
    for form in ["DER", "PEM", "SMIME"] {
        for stream in [&[][..], &["-stream"]] {
            let signed = sign(&[&["-nodetach", "-outform", form], stream].concat()).unwrap();
            assert_eq!(signed.ldif, b"version: 1\n", "{form}");
            assert!(signed.at.unwrap().unix() > NOW - DAY);
        }
        // A signature that stands beside the file, or beside nothing.
        sign(&["-outform", form]).unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_a_new_provider_whose_ca_has_a_list_that_is_new_too_does_not_wait() {
    let mut scene = Scene::new().await;
    let lists = FileServer::start();
    lists.put("ca.crl", scene.network.pki.issuing.crl(&Revoked::NOBODY));
    scene.network.certify_alfa(&[crl_at(&[&lists.url("ca.crl")])]);
    scene.publish(&[&scene.network.alfa, &scene.network.beta], NOW - DAY);
    let incoming = scene.incoming().await;
    scene.arrives(incoming).await.queued().recipient("presa-in-carico+");
}
