//! pec-clock keeps the CAs' revocation lists fresh.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicBool;

use pec_clock::Clockwork;
use pec_core::clock::Moment;
use pec_core::smime::crl::Place;
use pec_host::crl_directory::CrlDirectory;
use pec_program::life::Process;
use pec_state::database::Database;
use pec_test_support::file_server::FileServer;
use pec_test_support::network::Network;
use pec_test_support::pki::{NOW, Revoked};

const HOUR: i64 = 3600;

#[tokio::test(flavor = "multi_thread")]
async fn crls_are_fetched_on_schedule_on_each_host_and_a_bad_one_changes_nothing() {
    let network = Network::new().await;
    let mut server = FileServer::start();
    let settings = &network.alfa.settings;
    let ca = &network.pki.issuing;
    let place = Place { url: server.url("ca.crl"), also: Vec::new(), issuer: ca.certificate.clone() };
    let crls = CrlDirectory::new(&settings.crl_directory);
    let clockwork = async || {
        Clockwork::new(
            settings.clone(),
            Process::quiet(network.clock.clone()),
            Database::connect(settings, "pec-clock").await.unwrap(),
        )
        .unwrap()
    };
    let round = async |clockwork: &mut Clockwork, now| {
        network.clock.set(Moment::from_unix(now));
        clockwork.round(&AtomicBool::new(false)).await.unwrap();
        crls.lists().unwrap().get(&place).map(|crl| (crl.this_update.unix(), crl.len()))
    };
    let certificate = network.alfa.keys.certificate();
    let list = |number, this_update| Revoked {
        number,
        this_update,
        next_update: this_update + 3 * HOUR,
        ..Revoked::NOBODY
    };
    let (mut acts, mut stands_by) = (clockwork().await, clockwork().await);

    // Nothing is known, nothing is asked for.
    assert_eq!((round(&mut acts, NOW).await, server.asked()), (None, 0));
    crls.note(&place).unwrap();
    assert_eq!((round(&mut acts, NOW).await, server.asked()), (None, 1));
    // What fails is tried again after five minutes.
    server.put("ca.crl", ca.crl(&list(1, NOW)));
    assert_eq!((round(&mut acts, NOW + 299).await, server.asked()), (None, 1));
    assert_eq!((round(&mut acts, NOW + 300).await, server.asked()), (Some((NOW, 0)), 2));
    // Every hour, by those too that do not act otherwise.
    server.put("ca.crl", ca.crl(&Revoked { certificates: &[(&certificate, NOW)], ..list(2, NOW + 600) }));
    assert_eq!((round(&mut acts, NOW + 300 + HOUR - 1).await, server.asked()), (Some((NOW, 0)), 2));
    assert_eq!(
        (round(&mut stands_by, NOW + 300 + HOUR - 1).await, server.asked()),
        (Some((NOW + 600, 1)), 3)
    );
    assert_eq!((round(&mut acts, NOW + 300 + HOUR).await, server.asked()), (Some((NOW + 600, 1)), 4));
    // A forged one, an old one, none at all: the good one stays.
    let mut now = NOW + 300 + HOUR;
    for bad in [
        network.pki.root.below("Prova CA 1", &[]).crl(&list(3, NOW + 700)),
        ca.crl(&list(1, NOW)),
        b"<html>".to_vec(),
    ] {
        server.put("ca.crl", bad);
        now += HOUR;
        assert_eq!(round(&mut acts, now).await, Some((NOW + 600, 1)));
    }
    server.stop();
    now += HOUR;
    assert_eq!(round(&mut acts, now).await, Some((NOW + 600, 1)));
    server.come_back();
    server.put("ca.crl", ca.crl(&list(3, NOW + HOUR)));
    assert_eq!(round(&mut acts, now + 300).await, Some((NOW + HOUR, 0)));
    // One that is too old is asked for more often than every hour.
    let asked = server.asked();
    now = NOW + 7 * HOUR;
    for (later, again) in [(0, 1), (299, 1), (300, 2)] {
        round(&mut acts, now + later).await;
        assert_eq!(server.asked() - asked, again, "{later}");
    }
}
