//! Lists fetched for messages that wait: a CA that does not answer is waited for by those alone who need it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use pec_core::clock::Moment;
use pec_core::smime::crl::Place;
use pec_host::crl_directory::CrlDirectory;
use pec_program::crls::Crls;
use pec_program::program_rows::ProgramRows;
use pec_test_support::file_server::FileServer;
use pec_test_support::pki::{Ca, NOW, Revoked};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_does_not_answer_holds_up_no_message_that_hangs_on_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let crls = Crls::new(Arc::new(CrlDirectory::new(folder.path())), ProgramRows::default());
    let (ca, now) = (Ca::root("CA"), Moment::from_unix(NOW));
    let place = |url: String| Place { url, also: Vec::new(), issuer: ca.certificate.clone() };
    let good = FileServer::start();
    good.put("ca.crl", ca.crl(&Revoked::NOBODY));
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_url = format!("http://{}/ca.crl", dead.local_addr().unwrap());

    // Two messages that wait for the same, and the connection of the one that asks.
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (crls, wanted) = (crls.clone(), vec![vec![place(dead_url.clone())]]);
            tokio::spawn(async move { crls.fetch_wanted(&wanted, now).await })
        })
        .collect();
    let asked = dead.accept().await.unwrap();

    // A third one needs another list, and comes by it; a fourth one needs both.
    let wanted = vec![place(good.url("ca.crl"))];
    crls.fetch_wanted(std::slice::from_ref(&wanted), now).await;
    assert!(crls.directory().lists().unwrap().get(&wanted[0]).is_some());
    assert!(waiting.iter().all(|message| !message.is_finished()));
    let other = place(good.url("other.crl"));
    good.put("other.crl", ca.crl(&Revoked::NOBODY));
    let both = vec![vec![place(dead_url.clone())], vec![other.clone()]];
    let fourth = tokio::spawn({
        let crls = crls.clone();
        async move { crls.fetch_wanted(&both, now).await }
    });
    while crls.directory().lists().unwrap().get(&other).is_none() {
        assert!(!fourth.is_finished(), "it waits for both");
        tokio::task::yield_now().await;
    }

    // The dead one hangs up: all who waited for it have asked once.
    drop(dead);
    drop(asked);
    for message in waiting {
        message.await.unwrap();
    }
    fourth.await.unwrap();
    assert_eq!(good.asked(), 2);
}
