//! What is left of a world that is exchanged for another one.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;

use pec_host::parameters::Socket;
use pec_test_support::network::{Network, column, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_world_that_is_no_longer_in_force_keeps_no_connections_to_the_database() {
    let mut network = Network::new().await;
    // A scanner that takes what it is asked, and does not answer.
    let scanner = TcpListener::bind("127.0.0.1:0").unwrap();
    network.beta.settings.clamd = Some(Socket::Inet(scanner.local_addr().unwrap().to_string()));
    let world = network.world(&network.beta).await;
    world.check_scanner(0);
    let asked =
        tokio::task::spawn_blocking(move || scanner.accept().map(|_| scanner)).await.unwrap().unwrap();
    let url = &network.beta.settings.database;
    let connections = "SELECT pid::text FROM pg_stat_activity WHERE application_name = 'test' AND datname = \
        current_database()";
    assert!(!column(url, connections).await.is_empty());
    drop(world);
    eventually(async || column(url, connections).await.is_empty().then_some(())).await;
    drop(asked);
}
