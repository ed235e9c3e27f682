//! pec-clock keeps the directory of providers fresh.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::atomic::AtomicBool;

use pec_clock::Clockwork;
use pec_core::clock::Moment;
use pec_core::smime::sign::enclosing;
use pec_host::parameters::DirectorySource;
use pec_host::read;
use pec_program::life::Process;
use pec_state::database::Database;
use pec_test_support::file_server::FileServer;
use pec_test_support::network::Network;
use pec_test_support::pki::NOW;

const HALF_A_DAY: i64 = 12 * 3600;

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_4_5_the_directory_is_fetched_twice_a_day_on_each_host() {
    let mut network = Network::new().await;
    let mut server = FileServer::start_https(&network.pki.root);
    let agid = network.pki.provider("AgID", "indice@agid.test");
    network.alfa.settings.directory_source = Some(DirectorySource {
        url: server.url("igpec.p7m"),
        signer_file: agid.certificate_file.clone(),
        certificate_file: network.alfa.keys.certificate_file.clone(),
        key_file: network.alfa.keys.key_file.clone(),
        ca_file: network.pki.ca_file(),
    });
    let settings = &network.alfa.settings;
    network.write_directory(&[&network.alfa]);
    let signed = |ldif: &str, at: i64| {
        server.put(
            "igpec.p7m",
            enclosing(&agid.signer("indice@agid.test", NOW).unwrap(), ldif.as_bytes(), Moment::from_unix(at))
                .unwrap(),
        );
    };
    let clockwork = async || {
        Clockwork::new(
            settings.clone(),
            Process::quiet(network.clock.clone()),
            Database::connect(settings, "pec-clock").await.unwrap(),
        )
        .unwrap()
    };
    let (mut acts, mut stands_by) = (clockwork().await, clockwork().await);
    let round = async |clockwork: &mut Clockwork, now| {
        network.clock.set(Moment::from_unix(now));
        clockwork.round(&AtomicBool::new(false)).await.unwrap();
        read::directory(&settings.directory_file).unwrap().size().1
    };

    // Nothing is there: it is tried again after five minutes, also by a process that does not act otherwise.
    assert_eq!((round(&mut acts, NOW).await, server.asked()), (3, 1));
    signed(&network.directory_of(&[&network.alfa, &network.beta]), NOW);
    assert_eq!((round(&mut acts, NOW + 299).await, server.asked()), (3, 1));
    assert_eq!((round(&mut stands_by, NOW + 300).await, server.asked()), (6, 2));
    // Twice a day, whoever of this host does it, and also one that has just been started.
    let more = network.directory_of(&[&network.alfa, &network.beta]) + "managedDomains: altro.example\n";
    signed(&more, NOW + 600);
    assert_eq!((round(&mut acts, NOW + 300 + HALF_A_DAY - 1).await, server.asked()), (6, 2));
    assert_eq!((round(&mut clockwork().await, NOW + 300 + HALF_A_DAY).await, server.asked()), (7, 3));
    // One that is older, and a server that is away.
    signed(&network.directory_of(&[&network.alfa, &network.beta]), NOW);
    let now = NOW + 300 + 2 * HALF_A_DAY;
    assert_eq!((round(&mut acts, now).await, server.asked()), (7, 4));
    server.stop();
    assert_eq!(round(&mut acts, now + 300).await, 7);
    server.come_back();
    assert_eq!(
        fs::read_to_string(&settings.directory_file).unwrap().lines().next().unwrap().split(' ').nth(5),
        Some((NOW + 600).to_string().as_str())
    );
    assert_eq!((round(&mut acts, now + 600).await, server.asked()), (7, 5));
}
