//! What programs of this host write (cron, `sendmail`), and what Postfix tells its postmaster: none of it
//! reaches a certified mailbox as it is, and none is lost.
#![allow(clippy::unwrap_used)]

mod queue;

use std::net::SocketAddr;

use openssl::sha::sha256;
use pec_delivery::DeliveryPoint;
use pec_incoming::{Door, IncomingPoint};
use pec_state::database::{Database, InQueue};
use pec_state::rows::PassedKind;
use pec_test_support::judges::openssl_verify;
use pec_test_support::network::{Network, column, run};
use pec_test_support::postfix::{Mail, Outcome, Queued, report, start};
use queue::{DONE, Delivery, envid};

const ANNA: &str = "anna@pec.alfa.test";
const ALDO: &str = "aldo@studio.example";
const CARLA: &str = "carla@posta.test";
const SERVICE: &str = "posta-certificata@gestore.alfa.test";

/// As the milter sees whom Postfix completes to an address of the host (`myorigin`); the alias of main.cf
/// leads to [`SERVICE`].
const ROOT: &str = "root@mail.gestore.alfa.test";
const POSTMASTER: &str = "postmaster@mail.gestore.alfa.test";

struct Scene {
    network: Network,
    local: SocketAddr,
    delivery: Delivery,
}

async fn alfa() -> Scene {
    let network = Network::new().await;
    let local = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Local).await;
    let delivery = Delivery::start(&network, &network.alfa).await;
    Scene { network, local, delivery }
}

/// What root's cron writes.
fn written(recipients: &[&str]) -> Mail {
    let text = format!(
        "From: root\nTo: {}\nSubject: Cron\n\nLa copia di riserva non riesce.\n",
        recipients.join(", ")
    );
    Mail { account: None, tls: false, ..Mail::submitted(ROOT, recipients, text.as_bytes()) }
}

impl Scene {
    async fn gives(&self, mail: &Mail) -> Outcome {
        mail.give_to(self.local).await
    }

    /// The row by which pec-delivery knows the message in the queue.
    async fn let_pass(&self, queued: &Queued) -> (PassedKind, Vec<String>) {
        let database = Database::connect(&self.network.alfa.settings, "test").await.unwrap();
        let Ok(Some(InQueue::Passed(passed))) = database.in_queue(envid(queued).unwrap()).await else {
            panic!("it was not let pass")
        };
        assert_eq!(passed.body_sha256, sha256(&queued.mail.body), "these bytes, and no others");
        (passed.kind, passed.recipients.clone())
    }

    async fn events(&self) -> Vec<String> {
        column(&self.network.alfa.settings.database, "SELECT event FROM log ORDER BY seq").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certified_mailbox_gets_it_in_a_busta_di_anomalia() {
    let scene = alfa().await;
    let mail = written(&[ANNA, ALDO]);
    let queued = scene.gives(&mail).await.queued();
    assert_eq!(queued.mail.header.text("X-Trasporto").as_deref(), Some("errore"));
    openssl_verify(&queued.mail.to_bytes(), &scene.network.pki.ca_file()).unwrap();
    assert!(String::from_utf8_lossy(&queued.mail.body).contains("La copia di riserva non riesce."));
    assert_eq!(
        (&queued.mail.sender, &queued.mail.recipients, queued.added.len()),
        (&mail.sender, &mail.recipients, 0)
    );
    assert_eq!(scene.let_pass(&queued).await, (PassedKind::Anomalia, vec![ANNA.to_owned(), ALDO.to_owned()]));
    assert_eq!(scene.events().await, ["anomalia"]);
    assert_eq!(scene.delivery.bring_all(&queued).await, [DONE; 2]);
    let delivered = scene.network.alfa.mailboxes.taken();
    assert!(delivered.len() == 2 && delivered.iter().all(|copy| copy.mail().body == queued.mail.body));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_tells_root_lies_in_the_service_mailbox() {
    let scene = alfa().await;
    for to in [ROOT, POSTMASTER, "root@localhost", SERVICE] {
        let mail = written(&[to]);
        let queued = scene.gives(&mail).await.queued();
        assert_eq!(
            (&queued.mail.header, &queued.mail.body, queued.edits),
            (&mail.header, &mail.body, 1),
            "{to}: as it is"
        );
        assert_eq!(scene.let_pass(&queued).await, (PassedKind::Locale, vec![SERVICE.to_owned()]), "{to}");
        // Cleanup has put the alias's address in its place.
        assert_eq!(scene.delivery.bring(&queued, SERVICE).await, DONE, "{to}");
        assert_eq!(scene.network.alfa.mailboxes.taken().len(), 1, "{to}");
    }
    let both = scene.gives(&written(&["ricevute@gestore.alfa.test", ROOT])).await.queued();
    assert_eq!(scene.let_pass(&both).await.1, ["ricevute@gestore.alfa.test", SERVICE]);
    // Whatever an alias says: of certified addresses there is none.
    let aliased = scene.gives(&written(&[ROOT])).await.queued();
    assert!(scene.delivery.bring(&aliased, ANNA).await.starts_with("451 "));
    assert!(scene.network.alfa.mailboxes.taken().is_empty() && scene.events().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postfix_tells_its_postmaster_lies_in_the_service_mailbox_full_or_not() {
    let scene = alfa().await;
    scene.network.alfa.mailboxes.answer_recipient(SERVICE, Some("552 5.2.2 full"));
    let reports = start(DeliveryPoint::new(scene.network.world(&scene.network.alfa).await), ()).await;
    // A copy of a report (class "bounce" of notify_classes) comes from double-bounce; the report on what root
    // wrote from nobody.
    let told = Mail { sender: "double-bounce@mail.gestore.alfa.test".to_owned(), ..written(&[POSTMASTER]) };
    let of_root = Mail {
        recipients: vec![ROOT.to_owned()],
        ..report(None, &written(&[CARLA]), &[(CARLA, "failed", "5.1.1")], 0)
    };
    for mail in [told, of_root] {
        let queued = mail.give_to(reports).await.queued();
        assert_eq!((&queued.mail.header, &queued.mail.body), (&mail.header, &mail.body), "as it is");
        assert_eq!(scene.let_pass(&queued).await, (PassedKind::Rapporto, vec![SERVICE.to_owned()]));
        assert_eq!(scene.delivery.bring(&queued, SERVICE).await, DONE);
        assert_eq!(scene.network.alfa.mailboxes_no_quota.taken().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_address_elsewhere_gets_it_as_it_is() {
    let scene = alfa().await;
    let mail = written(&[CARLA]);
    let queued = scene.gives(&mail).await.queued();
    assert_eq!(
        (&queued.mail.header, &queued.mail.body, &queued.mail.recipients),
        (&mail.header, &mail.body, &mail.recipients)
    );
    assert_eq!((queued.added.len(), scene.events().await.len()), (0, 0));
    // Too large for a mailbox here, which is nothing to those elsewhere.
    let large = Mail { body: b"0123456789abcdef\r\n".repeat(1_200_000), ..mail };
    assert_eq!(scene.gives(&large).await.queued().edits, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_says_why() {
    let scene = alfa().await;
    scene.network.alfa.mailboxes.answer_recipient("nessuno@pec.alfa.test", Some("550 5.1.1 no such user"));
    let large = |to| Mail { body: b"0123456789abcdef\r\n".repeat(1_200_000), ..written(&[to]) };
    let circling = (0..60).fold(written(&[ANNA]), |mut mail, _| {
        mail.header.push(pec_core::header::Field::written("Received", "x"));
        mail
    });
    for (mail, code, says) in [
        (written(&[ANNA, CARLA]), "554 5.7.1", "send it to each kind apart"),
        (written(&[ANNA, SERVICE]), "554 5.7.1", "send it to each kind apart"),
        (written(&["nessuno@pec.alfa.test"]), "550 5.1.1", "no such mailbox"),
        (Mail { sender: format!("<{ANNA}>"), ..written(&[ALDO]) }, "550 5.7.1", "submission service only"),
        (large(ANNA), "552 5.3.4", "too large"),
        (large(SERVICE), "552 5.3.4", "too large"),
        (circling, "554 5.6.0", "too many hops"),
    ] {
        let refused = scene.gives(&mail).await.rejected();
        assert!(refused.starts_with(code) && refused.contains(says), "{refused}");
    }
    assert!(column(&scene.network.alfa.settings.database, "SELECT envid FROM passed").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_here_starts_a_trigger() {
    let scene = alfa().await;
    for recipients in
        [&["accettazione+00@notices.pec.internal"][..], &[CARLA, "presa-in-carico+00@NOTICES.pec.internal"]]
    {
        let deferred = scene.gives(&written(recipients)).await.deferred();
        assert!(deferred.starts_with("451 "), "{deferred}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_takes_no_rows_it_waits() {
    let scene = alfa().await;
    let database = &scene.network.alfa.settings.database;
    let name = database.rsplit('=').next().unwrap();
    run(database, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let local = start(IncomingPoint::new(scene.network.world(&scene.network.alfa).await), Door::Local).await;
    for to in [ANNA, ROOT, SERVICE] {
        let deferred = written(&[to]).give_to(local).await.deferred();
        assert!(deferred.starts_with("451 4.3.0"), "{to}: {deferred}");
    }
}
