//! Who answers for an address, and for as long as it was true: shared, moved and renamed records of the
//! directory, and receipts of providers that may not speak of what they tell.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Errore, Tipo};
use pec_core::header::Header;
use pec_core::notices::accettazione::accettazione;
use pec_core::notices::avvenuta_consegna::avvenuta_consegna;
use pec_core::notices::mancata_consegna::{Causa, mancata_consegna, virus_status};
use pec_core::notices::non_accettazione::non_accettazione;
use pec_core::notices::preavviso::{Termine, preavviso};
use pec_core::notices::presa_in_carico::presa_in_carico;
use pec_core::notices::rilevazione_virus::rilevazione_virus;
use pec_core::notices::{Issuer, Notice};
use pec_host::parameters::SigningKey;
use pec_incoming::{Door, IncomingPoint};
use pec_program::directories::InForce;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::rows::Sent;
use pec_test_support::network::{Host, LETTER, Network, arriving, column, daticert_of, envelope, sent};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::{Mail, start};

const ANNA: &str = "anna@pec.alfa.test";
const BRUNO: &str = "bruno@pec.beta.test";
const CARLA: &str = "carla@pec.gamma.test";
const DAY: i64 = 86_400;

/// Three providers; what `incoming` is of has its directory under `in_force`.
struct Scene {
    network: Network,
    gamma: Host,
    in_force: Arc<InForce>,
    incoming: SocketAddr,
}

/// A third provider, of which only the key and the domains matter.
fn gamma(network: &Network) -> Host {
    let keys = network.pki.provider("Gamma S.p.A.", "posta-certificata@gestore.gamma.test");
    let mut settings = network.beta.settings.clone();
    settings.provider_name = "Gamma S.p.A.".to_owned();
    settings.service_domain = "gestore.gamma.test".to_owned();
    settings.local_domains = HashSet::from(["gestore.gamma.test", "pec.gamma.test"].map(str::to_owned));
    settings.certificate_file.clone_from(&keys.certificate_file);
    settings.signing_key = SigningKey::File(keys.key_file.clone());
    Host { settings, keys, ..network.beta.clone() }
}

impl Scene {
    /// The Incoming Point of the provider that `whose` chooses.
    async fn of(whose: impl Fn(&Network) -> &Host) -> Self {
        let network = Network::new().await;
        let gamma = gamma(&network);
        network.write_directory(&[&network.alfa, &network.beta, &gamma]);
        let world = network.world(whose(&network)).await;
        let in_force = Arc::clone(&world.directory);
        let incoming = start(IncomingPoint::new(world), Door::Port25).await;
        Self { network, gamma, in_force, incoming }
    }

    async fn of_alfa() -> Self {
        Self::of(|network| &network.alfa).await
    }

    async fn of_beta() -> Self {
        Self::of(|network| &network.beta).await
    }

    /// Another directory, made of the one that these three stand in.
    async fn directory(&self, change: impl FnOnce(String) -> String) {
        let Network { alfa, beta, .. } = &self.network;
        let file = &alfa.settings.directory_file;
        let ldif = change(self.network.directory_of(&[alfa, beta, &self.gamma]));
        // Another file, as far as anybody can see.
        fs::remove_file(file).unwrap();
        fs::write(file, ldif).unwrap();
        self.in_force.look().await;
    }

    /// The domain of Bruno goes from Beta to Gamma.
    async fn beta_loses_its_domain_to_gamma(&self) {
        self.directory(|ldif| moved(&ldif, "pec.beta.test", "managedDomains: pec.gamma.test")).await;
    }

    /// An envelope of Anna's to Bruno, as the Access Point writes it down.
    async fn sent_to_bruno(&self) -> Daticert {
        let header = Header::parse(b"Subject: Prova\r\nMessage-ID: <1@client.test>\r\n").unwrap();
        let daticert = daticert_of(&self.network.alfa, &[BRUNO], &header);
        let served = Some(self.in_force.now().excerpt(["pec.beta.test"]));
        let row = Sent { served, ..sent("11", "1111", &daticert, &[0; 32]) };
        let log = Entry::new(Event::Accesso, &daticert, daticert.data, "4j");
        let database = Database::connect(&self.network.alfa.settings, "test").await.unwrap();
        database.insert_sent(database.authentic(row).unwrap(), log, None).await.unwrap();
        daticert
    }

    async fn alfas(&self, sql: &str) -> Vec<String> {
        column(&self.network.alfa.settings.database, sql).await
    }

    async fn is_anomaly(&self, mail: Mail) -> bool {
        let header = mail.give_to(self.incoming).await.queued().mail.header;
        header.text("X-Trasporto").as_deref() == Some("errore")
    }
}

/// `ldif` with a domain's line taken out, and put behind the line `behind`.
fn moved(ldif: &str, domain: &str, behind: &str) -> String {
    let line = format!("managedDomains: {domain}\n");
    let without = ldif.replace(&line, "");
    assert_ne!(without, ldif);
    let with = without.replace(&format!("{behind}\n"), &format!("{behind}\n{line}"));
    assert_ne!(with, without);
    with
}

fn issued(network: &Network, by: &Host, make: impl FnOnce(Issuer<'_>) -> Notice, to: &str) -> Mail {
    let signer = network.signer(by);
    let issuer = Issuer {
        provider_name: &by.settings.provider_name,
        service_domain: &by.settings.service_domain,
        signer: &signer,
    };
    arriving(make(issuer), &issuer.address(), &[to])
}

/// What the receipts certify happened then.
fn at() -> Moment {
    Moment::from_unix(NOW - 30)
}

/// Each kind of receipt and notice, as `by` signs it, about what `busta` says of `consegna`.
fn each_kind(
    network: &Network,
    by: &Host,
    busta: &Daticert,
    consegna: &str,
    to: &str,
) -> Vec<(String, Mail)> {
    let id = "pec.1.x@gestore.test";
    let causa = Causa::from_status("5.1.1");
    let virus = Causa::from_status(&virus_status("Virus-Di-Prova"));
    let mut refused = busta.about_same_message(Tipo::NonAccettazione, &by.settings.provider_name, at());
    refused.errore = Errore::Altro;
    refused.errore_esteso = Some("prova".to_owned());
    let one = [consegna.to_owned()];
    let mut all: Vec<(&str, Mail)> = Vec::new();
    let mut add = |what, make: &dyn Fn(Issuer<'_>) -> Notice| {
        all.push((what, issued(network, by, make, to)));
    };
    add("accettazione", &|i| accettazione(i, busta, id).unwrap());
    add("non-accettazione", &|i| non_accettazione(i, &refused, "a test", id).unwrap());
    add("presa-in-carico", &|i| presa_in_carico(i, busta, "r@gestore.test", &one, at(), id).unwrap());
    add("avvenuta-consegna", &|i| avvenuta_consegna(i, busta, consegna, at(), None, id).unwrap());
    add("errore-consegna", &|i| mancata_consegna(i, busta, consegna, &causa, at(), id).unwrap());
    add("errore-consegna per virus", &|i| mancata_consegna(i, busta, consegna, &virus, at(), id).unwrap());
    add("preavviso-12", &|i| preavviso(i, busta, consegna, Termine::DodiciOre, at(), id).unwrap());
    add("preavviso-24", &|i| preavviso(i, busta, consegna, Termine::VentiquattroOre, at(), id).unwrap());
    add("rilevazione-virus", &|i| {
        rilevazione_virus(i, busta, "r@gestore.test", consegna, "Virus-Di-Prova", at(), id).unwrap()
    });
    all.into_iter().map(|(what, mail)| (what.to_owned(), mail)).collect()
}

fn delivered(scene: &Scene, by: &Host, busta: &Daticert, consegna: &str) -> Mail {
    let make =
        |i: Issuer<'_>| avvenuta_consegna(i, busta, consegna, at(), None, "pec.9.x@gestore.test").unwrap();
    issued(&scene.network, by, make, ANNA)
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_4_5_10_one_certificate_signs_for_the_main_and_the_secondary_record() {
    let scene = Scene::of_beta().await;
    let Network { alfa, .. } = &scene.network;
    for unit in
        ["providerName: Alfa PEC S.p.A.\nproviderUnit: Due", "providerName: ALFA Seconda\nproviderUnit: Due"]
    {
        scene
            .directory(|ldif| {
                ldif.replace("managedDomains: pec.alfa.test\n", "")
                    + &format!(
                        "\ndn: providerUnit=Due,o=postacert\nobjectclass: provider\n{unit}\n\
                        providerCertificateHash: {}\nmailReceipt: ricevute@due.alfa.test\nmanagedDomains: \
                        pec.alfa.test\n",
                        alfa.keys.sha1
                    )
            })
            .await;
        let mail = envelope(&scene.network, alfa, &[BRUNO], LETTER);
        mail.give_to(scene.incoming).await.queued().recipient("presa-in-carico+");
    }
    let custody = "SELECT provider || ' ' || mail_receipt FROM custody ORDER BY taken_at, provider";
    let mut rows = column(&scene.network.beta.settings.database, custody).await;
    rows.sort();
    assert_eq!(
        rows,
        ["ALFA Seconda ricevute@due.alfa.test", "Alfa PEC S.p.A. ricevute@due.alfa.test"],
        "the record that serves the sender says where the presa in carico goes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_4_5_10_with_our_own_secondary_record_the_programs_start() {
    let network = Network::new().await;
    let Network { alfa, beta, .. } = &network;
    let record = |unit: &str, receipt: &str| {
        format!(
            "\ndn: providerUnit={unit},o=postacert\nobjectclass: provider\nproviderName: Beta Posta \
            S.r.l.\nproviderUnit: {unit}\nproviderCertificateHash: {}\nmailReceipt: {receipt}\n\
            managedDomains: {unit}.example\n",
            beta.keys.sha1
        )
    };
    // The secondary record comes first.
    let ldif = network.directory_of(&[alfa, beta]);
    let (head, records) = ldif.split_once("o: postacert\n").unwrap();
    let ldif = format!("{head}o: postacert\n{}{records}", record("due", "r@due.beta.test"));
    fs::write(&beta.settings.directory_file, ldif).unwrap();
    let world = network.world(beta).await;
    assert_eq!(world.own_record().unwrap().mail_receipt_text(), "ricevute@gestore.beta.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_domain_is_in_two_records_either_may_sign_for_it() {
    let scene = Scene::of_beta().await;
    scene
        .directory(|ldif| {
            ldif.replace(
                "managedDomains: pec.gamma.test",
                "managedDomains: pec.gamma.test\nmanagedDomains: pec.alfa.test",
            )
        })
        .await;
    for host in [&scene.network.alfa, &scene.gamma] {
        let mail = envelope(&scene.network, host, &[BRUNO], LETTER);
        mail.give_to(scene.incoming).await.queued().recipient("presa-in-carico+");
    }
    // Who is in neither record is nobody.
    assert!(scene.is_anomaly(envelope(&scene.network, &scene.network.beta, &[BRUNO], LETTER)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_was_made_before_its_domain_moved_is_correct_as_long_as_it_may_be_under_way() {
    let scene = Scene::of_beta().await;
    let Network { alfa, clock, .. } = &scene.network;
    let mail = || envelope(&scene.network, alfa, &[BRUNO], LETTER);
    let (early, late) = (mail(), mail());
    scene.directory(|ldif| moved(&ldif, "pec.alfa.test", "managedDomains: pec.gamma.test")).await;
    early.give_to(scene.incoming).await.queued().recipient("presa-in-carico+");
    // Its date says that the domain was Alfa's; nothing is under way for so long.
    clock.set(Moment::from_unix(NOW + 6 * DAY));
    assert!(scene.is_anomaly(late).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_made_after_its_domain_moved_is_an_anomaly() {
    let scene = Scene::of_beta().await;
    let Network { alfa, clock, .. } = &scene.network;
    // The directory changed a minute before the envelope was made.
    clock.set(Moment::from_unix(NOW - 120));
    scene.directory(|ldif| moved(&ldif, "pec.alfa.test", "managedDomains: pec.gamma.test")).await;
    clock.set(Moment::from_unix(NOW));
    assert!(scene.is_anomaly(envelope(&scene.network, alfa, &[BRUNO], LETTER)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_counts_of_who_served_the_recipient_at_acceptance() {
    let scene = Scene::of_alfa().await;
    let busta = scene.sent_to_bruno().await;
    scene.beta_loses_its_domain_to_gamma().await;
    // A restart, and nothing that was written down when the directory changed: the row of the envelope says it.
    pec_test_support::network::run(&scene.network.alfa.settings.database, "DELETE FROM formerly").await;
    let incoming =
        start(IncomingPoint::new(scene.network.world(&scene.network.alfa).await), Door::Port25).await;
    delivered(&scene, &scene.network.beta, &busta, BRUNO).give_to(incoming).await.queued();
    assert_eq!(
        scene.alfas("SELECT kind || ' ' || recipient || ' ' || provider FROM ricevuta").await,
        [format!("avvenuta-consegna {BRUNO} Beta Posta S.r.l.")]
    );
    assert_eq!(
        scene.alfas("SELECT event FROM log WHERE event LIKE 'ricevuta%'").await,
        ["ricevuta-avvenuta-consegna"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_counts_of_who_serves_the_recipient_now() {
    let scene = Scene::of_alfa().await;
    let busta = scene.sent_to_bruno().await;
    scene.beta_loses_its_domain_to_gamma().await;
    delivered(&scene, &scene.gamma, &busta, BRUNO).give_to(scene.incoming).await.queued();
    assert_eq!(scene.alfas("SELECT provider FROM ricevuta").await, ["Gamma S.p.A."]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_counts_of_who_served_the_recipient_at_any_time_since() {
    let scene = Scene::of_alfa().await;
    let busta = scene.sent_to_bruno().await;
    scene.beta_loses_its_domain_to_gamma().await;
    // And back, or on to nobody.
    scene.directory(|ldif| ldif.replace("managedDomains: pec.beta.test\n", "")).await;
    delivered(&scene, &scene.gamma, &busta, BRUNO).give_to(scene.incoming).await.queued();
    assert_eq!(scene.alfas("SELECT provider FROM ricevuta").await, ["Gamma S.p.A."]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_served_the_recipient_before_we_accepted_the_message_says_nothing_that_counts() {
    let scene = Scene::of_alfa().await;
    let clock = &scene.network.clock;
    clock.set(Moment::from_unix(NOW - DAY));
    scene.beta_loses_its_domain_to_gamma().await;
    clock.set(Moment::from_unix(NOW));
    let busta = scene.sent_to_bruno().await;
    delivered(&scene, &scene.network.beta, &busta, BRUNO).give_to(scene.incoming).await.queued();
    assert!(scene.alfas("SELECT provider FROM ricevuta").await.is_empty());
    assert_eq!(
        scene.alfas("SELECT event || ': ' || error FROM log WHERE event LIKE 'ricevuta%'").await,
        [format!(
            "ricevuta-estranea-avvenuta-consegna: il gestore Beta Posta S.r.l. non può emettere \
            avvenuta-consegna per conto di {BRUNO}: non ne è il gestore"
        )]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_has_another_name_and_certificate_by_now_still_speaks_for_its_domains() {
    let scene = Scene::of_alfa().await;
    let busta = scene.sent_to_bruno().await;
    let Network { beta, .. } = &scene.network;
    // The new certificate is Gamma's key here; nothing of the old record is left but the domains.
    scene
        .directory(|ldif| {
            let renamed = ldif.split("\ndn: providerName=Gamma").next().unwrap().to_owned();
            renamed
                .replace("providerName: Beta Posta S.r.l.", "providerName: BETA Group")
                .replace(&beta.keys.sha1, &scene.gamma.keys.sha1)
        })
        .await;
    delivered(&scene, &scene.gamma, &busta, BRUNO).give_to(scene.incoming).await.queued();
    assert_eq!(scene.alfas("SELECT provider FROM ricevuta").await, ["BETA Group"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_while_its_certificate_was_in_the_directory_counts_and_what_was_signed_later_does_not()
 {
    let scene = Scene::of_alfa().await;
    let busta = scene.sent_to_bruno().await;
    let Network { beta, clock, .. } = &scene.network;
    let receipt = || delivered(&scene, beta, &busta, BRUNO);
    let other = "0".repeat(40);
    let renewed = |ldif: String| ldif.replace(&beta.keys.sha1, &other);
    // It left before the time that the receipt certifies, and then after it.
    clock.set(Moment::from_unix(NOW - 31));
    scene.directory(renewed).await;
    clock.set(Moment::from_unix(NOW));
    assert!(scene.is_anomaly(receipt()).await);
    assert!(scene.alfas("SELECT provider FROM ricevuta").await.is_empty());
    scene.directory(|ldif| ldif).await;
    clock.set(Moment::from_unix(NOW + 3600));
    scene.directory(renewed).await;
    receipt().give_to(scene.incoming).await.queued();
    assert_eq!(scene.alfas("SELECT provider FROM ricevuta").await, ["Beta Posta S.r.l."]);
    clock.set(Moment::from_unix(NOW + 6 * DAY));
    assert!(scene.is_anomaly(receipt()).await, "nothing is under way for so long");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_signed_with_a_certificate_that_left_since_is_correct() {
    let scene = Scene::of_beta().await;
    let Network { alfa, .. } = &scene.network;
    let mail = envelope(&scene.network, alfa, &[BRUNO], LETTER);
    scene.directory(|ldif| ldif.replace(&alfa.keys.sha1, &"0".repeat(40))).await;
    mail.give_to(scene.incoming).await.queued().recipient("presa-in-carico+");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_receipt_counts_from_those_alone_who_may_speak() {
    for (by_gamma, counts) in [
        (false, &["presa-in-carico", "avvenuta-consegna", "errore-consegna", "rilevazione-virus"][..]),
        (true, &[]),
    ] {
        let scene = Scene::of_alfa().await;
        let busta = scene.sent_to_bruno().await;
        let by = if by_gamma { &scene.gamma } else { &scene.network.beta };
        for (what, mail) in each_kind(&scene.network, by, &busta, BRUNO, ANNA) {
            let before = scene.alfas("SELECT kind FROM ricevuta").await.len();
            mail.give_to(scene.incoming).await.queued();
            let rows = scene.alfas("SELECT kind FROM ricevuta").await;
            let is_counted = rows.len() > before;
            assert_eq!(
                is_counted,
                counts.contains(&what.as_str()),
                "{what} of {}: {rows:?}",
                by.settings.provider_name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_in_our_own_place_is_wrapped_and_counts_for_nothing() {
    let scene = Scene::of_alfa().await;
    // Another provider about our own user to our own user, whatever it says.
    let mut busta = scene.sent_to_bruno().await;
    busta.destinatari[0].indirizzo = "aldo@pec.alfa.test".to_owned();
    busta.identificativo = "pec.7.x@gestore.alfa.test".to_owned();
    for (what, mail) in each_kind(&scene.network, &scene.network.beta, &busta, "aldo@pec.alfa.test", ANNA) {
        assert!(scene.is_anomaly(mail).await, "{what}");
    }
    assert_eq!(
        scene.alfas("SELECT DISTINCT event FROM log WHERE event <> 'accesso'").await,
        ["anomalia"],
        "an error row each"
    );
    assert_eq!(
        scene
            .alfas("SELECT count(*)::text FROM log WHERE error LIKE '%Beta Posta S.r.l. non può emettere%'")
            .await,
        ["9"]
    );
    for table in ["ricevuta", "fact"] {
        assert!(scene.alfas(&format!("SELECT kind FROM {table}")).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_in_the_place_of_our_users_provider_is_wrapped_also_where_the_message_is_ours() {
    let scene = Scene::of_alfa().await;
    let busta = scene.sent_to_bruno().await;
    // Beta is Bruno's provider, and not Anna's; Gamma is neither's.
    for (by, wrapped) in [
        (
            &scene.network.beta,
            &[
                "accettazione",
                "non-accettazione",
                "errore-consegna per virus",
                "preavviso-12",
                "preavviso-24",
            ][..],
        ),
        (
            &scene.gamma,
            &[
                "accettazione",
                "non-accettazione",
                "errore-consegna",
                "errore-consegna per virus",
                "preavviso-12",
                "preavviso-24",
            ],
        ),
    ] {
        for (what, mail) in each_kind(&scene.network, by, &busta, BRUNO, ANNA) {
            let is_anomaly = scene.is_anomaly(mail).await;
            assert_eq!(
                is_anomaly,
                wrapped.contains(&what.as_str()),
                "{what} of {}",
                by.settings.provider_name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_others_about_others_are_delivered_unchanged() {
    let scene = Scene::of_alfa().await;
    // Carla at Gamma wrote to Bruno at Beta, and sends Anna what she got.
    let header = Header::parse(b"Subject: Prova\r\n").unwrap();
    let mut busta = daticert_of(&scene.gamma, &[BRUNO], &header);
    busta.mittente = CARLA.to_owned();
    for by in [&scene.gamma, &scene.network.beta] {
        for (what, mail) in each_kind(&scene.network, by, &busta, BRUNO, ANNA) {
            let queued = mail.clone().give_to(scene.incoming).await.queued();
            assert_eq!((&queued.mail.header, &queued.mail.body), (&mail.header, &mail.body), "{what}");
        }
    }
    // Of a domain that the directory does not know yet, anybody may be the provider.
    busta.destinatari[0].indirizzo = "nuovo@nuovo.example".to_owned();
    let make = |i: Issuer<'_>| {
        mancata_consegna(
            i,
            &busta,
            "nuovo@nuovo.example",
            &Causa::from_status("5.1.1"),
            at(),
            "pec.3.x@x.test",
        )
        .unwrap()
    };
    let mail = issued(&scene.network, &scene.gamma, make, ANNA);
    assert!(!scene.is_anomaly(mail).await);
    assert!(scene.alfas("SELECT kind FROM ricevuta").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_daticert_is_no_cause_for_anything() {
    const NAMES: [&str; 2] = ["BETA POSTA S.R.L.", "Tutt'altro nome"];
    for name in NAMES {
        let scene = Scene::of_alfa().await;
        let busta = scene.sent_to_bruno().await;
        let signer = scene.network.signer(&scene.network.beta);
        let issuer = Issuer { provider_name: name, service_domain: "gestore.beta.test", signer: &signer };
        let notice = avvenuta_consegna(issuer, &busta, BRUNO, at(), None, "pec.9.x@gestore.test").unwrap();
        let receipt = arriving(notice, &issuer.address(), &[ANNA]);
        receipt.give_to(scene.incoming).await.queued();
        assert_eq!(scene.alfas("SELECT provider FROM ricevuta").await, ["Beta Posta S.r.l."], "{name}");
    }
    for name in NAMES {
        let scene = Scene::of_beta().await;
        let Network { alfa, .. } = &scene.network;
        let mut called = gamma(&scene.network);
        (called.settings, called.keys) = (alfa.settings.clone(), alfa.keys.clone());
        called.settings.provider_name = name.to_owned();
        let mail = envelope(&scene.network, &called, &[BRUNO], LETTER);
        mail.give_to(scene.incoming).await.queued().recipient("presa-in-carico+");
        let beta = &scene.network.beta.settings.database;
        assert_eq!(
            column(beta, "SELECT provider FROM custody").await,
            ["Alfa PEC S.p.A."],
            "the directory's"
        );
        assert_eq!(column(beta, "SELECT gestore FROM log WHERE event = 'ricezione'").await, [name]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_4_5_mail_waits_for_a_value_that_never_was_good_and_goes_on_with_the_last_good_one() {
    let scene = Scene::of_beta().await;
    let Network { alfa, beta, .. } = &scene.network;
    let mail = || envelope(&scene.network, alfa, &[BRUNO], LETTER);
    for (from, to) in [
        ("mailReceipt: ricevute@gestore.alfa.test", "mailReceipt: ricevute"),
        ("managedDomains: pec.alfa.test", "managedDomains: pec alfa test"),
        (&*format!("providerCertificateHash: {}", alfa.keys.sha1), "providerCertificateHash: 00"),
    ] {
        // All three programs' file before had the good value.
        scene.directory(|ldif| ldif).await;
        scene.directory(|ldif| ldif.replace(from, to)).await;
        mail().give_to(scene.incoming).await.queued().recipient("presa-in-carico+");
        // A program that starts has the same, since the value was put beside the file.
        let started = start(IncomingPoint::new(scene.network.world(beta).await), Door::Port25).await;
        mail().give_to(started).await.queued().recipient("presa-in-carico+");
        // One that never had it lets the mail wait, and says why; others' mail goes on.
        fs::remove_file(beta.settings.directory_file.with_extension("ldif.good")).unwrap();
        let started = start(IncomingPoint::new(scene.network.world(beta).await), Door::Port25).await;
        let waits = mail().give_to(started).await.deferred();
        assert!(waits.starts_with("451 "), "{waits}");
    }
    let alarms = "SELECT error FROM log WHERE event = 'indice-gestori' ORDER BY seq";
    let rows = column(&beta.settings.database, alarms).await;
    assert!(
        rows.len() == 3 && rows.iter().all(|row| row.starts_with("bad value: Alfa PEC S.p.A.: ")),
        "{rows:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_waits_where_a_bad_value_hides_whether_its_provider_serves_the_recipient() {
    let network = Network::new().await;
    let gamma = gamma(&network);
    let ldif = network.directory_of(&[&network.alfa, &network.beta, &gamma]);
    fs::write(
        &network.alfa.settings.directory_file,
        ldif.replace("managedDomains: pec.beta.test", "managedDomains: pec beta test"),
    )
    .unwrap();
    let world = network.world(&network.alfa).await;
    let in_force = Arc::clone(&world.directory);
    let incoming = start(IncomingPoint::new(world), Door::Port25).await;
    let scene = Scene { network, gamma, in_force, incoming };
    let busta = scene.sent_to_bruno().await;
    let waits = delivered(&scene, &scene.network.beta, &busta, BRUNO).give_to(incoming).await.deferred();
    assert!(waits.starts_with("451 "), "{waits}");
    scene.directory(|ldif| ldif).await;
    delivered(&scene, &scene.network.beta, &busta, BRUNO).give_to(incoming).await.queued();
    assert_eq!(scene.alfas("SELECT provider FROM ricevuta").await, ["Beta Posta S.r.l."]);
}
