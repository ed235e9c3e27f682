//! One certificate of a provider replaces another: nobody stops, nothing is refused.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pec_core::clock::Moment;
use pec_host::parameters::SigningKey;
use pec_incoming::{Door, IncomingPoint};
use pec_program::life::Process;
use pec_program::world::World;
use pec_state::database::Database;
use pec_test_support::network::{Host, LETTER, Network, column, envelope};
use pec_test_support::pki::{Keys, NOW};
use pec_test_support::postfix::start_shared;

const ADDRESS: &str = "posta-certificata@gestore.alfa.test";
const BRUNO: &str = "bruno@pec.beta.test";

async fn new_world(network: &Network, host: &Host) -> anyhow::Result<World> {
    World::new(
        host.settings.clone(),
        Process::quiet(network.clock.clone()),
        Database::connect(&host.settings, "test").await.unwrap(),
    )
}

/// Alfa, once it signs with these.
async fn with_keys(network: &Network, keys: Keys) -> Host {
    let mut settings = network.alfa.settings.clone();
    settings.certificate_file = keys.certificate_file.clone();
    settings.signing_key = SigningKey::File(keys.key_file.clone());
    Host { settings, keys, ..network.alfa.clone() }
}

/// Puts another certificate into Alfa's record.
fn add_to_directory(network: &Network, sha1: &str, unit: &str) {
    let file = network.directory.path().join("igpec.ldif");
    let ldif = fs::read_to_string(&file).unwrap();
    let record = "providerName: Alfa PEC S.p.A.\n";
    let added = match unit {
        "" => {
            ldif.replacen(record, &format!("{record}providerCertificateHash: {}\n", sha1.to_uppercase()), 1)
        }
        unit => format!(
            "{ldif}\ndn: providerUnit={unit},providerName=Alfa PEC S.p.A.,o=postacert\nobjectclass: \
            provider\n{record}providerUnit: {unit}\n\
             providerCertificateHash: {sha1}\nmailReceipt: ricevute@due.alfa.test\nmanagedDomains: \
            pec.due.test\n"
        ),
    };
    assert_ne!(ldif, added);
    fs::write(&file, added).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_signs_once_it_is_in_the_directory_and_the_old_one_is_still_believed() {
    let network = Network::new().await;
    let point = Arc::new(ArcSwap::from_pointee(IncomingPoint::new(network.world(&network.beta).await)));
    let beta = start_shared(Arc::clone(&point), Door::Port25).await;
    let new = with_keys(&network, network.pki.provider("Alfa PEC S.p.A.", ADDRESS)).await;
    let custodies = async || {
        column(&network.beta.settings.database, "SELECT count(*)::text FROM custody").await.remove(0)
    };

    // Too early: Alfa does not sign with it, and if it did, Beta would not believe it.
    let error = new_world(&network, &new).await.unwrap_err().to_string();
    let file = new.settings.certificate_file.display();
    assert!(
        error.starts_with(&format!(
            "pec_certificate_file = {file}: the certificate (SHA-1 {}) is not in our record",
            new.keys.sha1
        )),
        "{error}"
    );
    let early = envelope(&network, &new, &[BRUNO], LETTER).give_to(beta).await.queued();
    assert_eq!(early.mail.header.text("X-Trasporto").as_deref(), Some("errore"));

    // In the directory, and both are reloaded.
    add_to_directory(&network, &new.keys.sha1, "");
    point.store(Arc::new(IncomingPoint::new(network.world(&network.beta).await)));
    new_world(&network, &new).await.unwrap();
    new_world(&network, &network.alfa).await.unwrap();
    for (host, taken) in [(&network.alfa, "1"), (&new, "2"), (&network.alfa, "3")] {
        envelope(&network, host, &[BRUNO], LETTER).give_to(beta).await.queued();
        assert_eq!(custodies().await, taken);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_4_5_7_a_secondary_environment_signs_with_the_certificate_of_its_own_record() {
    let network = Network::new().await;
    let mut second = with_keys(&network, network.pki.provider("Alfa PEC S.p.A.", ADDRESS)).await;
    second.settings.provider_unit = Some("Due".to_owned());
    let error = new_world(&network, &second).await.unwrap_err().to_string();
    assert!(
        error.starts_with(
            "pec_provider_unit = Due: not allowed; it must be the providerUnit of a record of Alfa PEC \
            S.p.A."
        ),
        "{error}"
    );

    add_to_directory(&network, &second.keys.sha1, "Due");
    let world = new_world(&network, &second).await.unwrap();
    assert_eq!(world.own_record().unwrap().mail_receipt_text(), "ricevute@due.alfa.test");
    // And the main one not with that.
    second.settings.provider_unit = None;
    assert!(new_world(&network, &second).await.unwrap_err().to_string().contains("is not in our record"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_with_a_certificate_that_has_expired_meanwhile() {
    let mut network = Network::new().await;
    let keys = network.pki.provider_valid("Alfa PEC S.p.A.", ADDRESS, NOW - 10, NOW + 10);
    network.alfa = with_keys(&network, keys).await;
    network.write_directory(&[&network.alfa, &network.beta]);
    let world = network.world(&network.alfa).await;
    for (now, signs) in [(NOW + 10, true), (NOW + 11, false)] {
        network.clock.set(Moment::from_unix(now));
        let signed = world.write(0, |issuer| Ok(issuer.signer.sign(b"x")?)).await;
        assert_eq!(signed.is_ok(), signs);
        assert!(signed.err().is_none_or(|e| e.to_string().starts_with("our certificate has expired on ")));
        // And no program starts with it.
        let started = new_world(&network, &network.alfa).await;
        assert_eq!(started.is_ok(), signs);
        assert!(started.err().is_none_or(|e| e.to_string().contains("the certificate has expired on ")));
    }
}
