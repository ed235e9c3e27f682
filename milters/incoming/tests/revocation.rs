//! The Incoming Point and the CAs' revocation lists, fetched over HTTP: revoked is an anomaly, not known
//! waits.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use openssl::x509::X509;
use pec_core::clock::Moment;
use pec_core::smime::verify::TooOld;
use pec_incoming::{Door, IncomingPoint};
use pec_test_support::file_server::FileServer;
use pec_test_support::network::{LETTER, Network, column, envelope};
use pec_test_support::pki::{NOW, Revoked, crl_at};
use pec_test_support::postfix::{Outcome, start};

const BRUNO: &str = "bruno@pec.beta.test";
const DAY: i64 = 86_400;

/// Alfa has a certificate that can be asked about, and Beta's Incoming Point hears of it for the first time.
struct Scene {
    network: Network,
    server: FileServer,
    incoming: SocketAddr,
}

impl Scene {
    async fn new() -> Self {
        let mut network = Network::new().await;
        let server = FileServer::start();
        network.certify_alfa(&[crl_at(&[&server.url("ca.crl")])]);
        network.write_directory(&[&network.alfa, &network.beta]);
        let incoming = ([0, 0, 0, 0], 0).into();
        let mut scene = Self { network, server, incoming };
        scene.start().await;
        scene
    }

    /// Beta's Incoming Point starts anew.
    async fn start(&mut self) {
        self.incoming =
            start(IncomingPoint::new(self.network.world(&self.network.beta).await), Door::Port25).await;
    }

    fn at(&self, now: i64) {
        self.network.clock.set(Moment::from_unix(now));
    }

    fn publish(&self, list: &Revoked) {
        self.server.put("ca.crl", self.network.pki.issuing.crl(list));
    }

    /// What becomes of an envelope from Alfa.
    async fn arrives(&self) -> Outcome {
        envelope(&self.network, &self.network.alfa, &[BRUNO], LETTER).give_to(self.incoming).await
    }

    /// It is taken in charge.
    async fn is_taken(&self) {
        self.arrives().await.queued().recipient("presa-in-carico+");
    }

    async fn custodies(&self) -> String {
        column(&self.network.beta.settings.database, "SELECT count(*)::text FROM custody").await.remove(0)
    }

    fn alfa(&self) -> X509 {
        self.network.alfa.keys.certificate()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_while_a_new_ca_s_crl_cannot_be_had_mail_waits_and_nothing_is_an_anomaly() {
    let mut scene = Scene::new().await;
    scene.publish(&Revoked::NOBODY);
    scene.server.stop();
    scene.arrives().await.deferred();
    // It is back. What has just failed is not tried again with each message.
    scene.server.come_back();
    scene.at(NOW + 59);
    scene.arrives().await.deferred();
    assert_eq!(scene.server.asked(), 0);
    scene.at(NOW + 60);
    scene.is_taken().await;
    assert_eq!((scene.custodies().await.as_str(), scene.server.asked()), ("1", 1));
    // From now on it is known, also to a process that starts while the server is away.
    scene.server.stop();
    scene.is_taken().await;
    scene.start().await;
    scene.is_taken().await;
    assert_eq!((scene.custodies().await.as_str(), scene.server.asked()), ("3", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_what_a_revoked_certificate_signs_is_an_anomaly() {
    let scene = Scene::new().await;
    let alfa = scene.alfa();
    scene.publish(&Revoked { certificates: &[(&alfa, NOW - DAY)], ..Revoked::NOBODY });
    let anomaly = scene.arrives().await.queued();
    assert_eq!(anomaly.mail.header.text("X-Trasporto").as_deref(), Some("errore"));
    let log = column(&scene.network.beta.settings.database, "SELECT error FROM log").await;
    let url = scene.server.url("ca.crl");
    assert!(
        log[0].contains("il certificato di Posta Certificata è stato revocato il 17/11/2026")
            && log[0].contains(&format!("(CRL {url})")),
        "{log:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_what_another_ca_signed_is_no_crl() {
    let scene = Scene::new().await;
    scene.server.put("ca.crl", scene.network.pki.root.below("Prova CA 1", &[]).crl(&Revoked::NOBODY));
    scene.arrives().await.deferred();
    scene.server.put("ca.crl", b"<html>".to_vec());
    scene.at(NOW + 60);
    scene.arrives().await.deferred();
    assert_eq!(scene.server.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_with_a_crl_that_is_too_old_mail_waits_or_is_believed_as_set() {
    let mut scene = Scene::new().await;
    scene.publish(&Revoked::NOBODY);
    scene.is_taken().await;
    scene.at(NOW + DAY + 1);
    scene.arrives().await.deferred();
    assert_eq!(scene.server.asked(), 2, "there is no newer one");
    scene.network.beta.settings.crl_too_old = TooOld::Believe;
    scene.start().await;
    scene.is_taken().await;
    scene.network.beta.settings.crl_too_old = TooOld::Wait;
    scene.start().await;
    // The CA is late, but not gone.
    scene.publish(&Revoked {
        number: 2,
        this_update: NOW + DAY,
        next_update: NOW + 2 * DAY,
        ..Revoked::NOBODY
    });
    scene.is_taken().await;
    assert_eq!((scene.custodies().await.as_str(), scene.server.asked()), ("3", 3));
}
