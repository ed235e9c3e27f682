//! What a submission carries, at the Access Point. The scanner is a stand-in; PostgreSQL is real.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;

use bytes::Bytes;
use pec_access::AccessPoint;
use pec_core::daticert::{Errore, Tipo};
use pec_core::envelope::{contents, signed_parts};
use pec_host::parameters::Socket;
use pec_test_support::clamd::{self, ENDLESS, VIRUS};
use pec_test_support::judges::{openssl_verify, xmllint_valid};
use pec_test_support::network::{Network, column};
use pec_test_support::postfix::{Mail, Queued, start};

const ANNA: &str = "anna@pec.alfa.test";
const BRUNO: &str = "bruno@pec.beta.test";

fn letter(extra: &str, text: &str) -> Mail {
    let text =
        format!("From: {ANNA}\nTo: {BRUNO}\nSubject: Prova\nMessage-ID: <1@client.test>\n{extra}\n{text}\n");
    Mail::submitted(ANNA, &[BRUNO], text.as_bytes())
}

/// Alfa's Access Point, with this scanner and these attachments blocked.
async fn alfa(network: &mut Network, clamd: Socket, blocked: &str) -> SocketAddr {
    network.alfa.settings.clamd = Some(clamd);
    network.alfa.settings.blocked_attachments = blocked.split_whitespace().map(str::to_owned).collect();
    start(AccessPoint::new(network.world(&network.alfa).await), ()).await
}

/// The message is now the notice to its sender, with nothing wrong with it.
fn not_accepted(network: &Network, queued: &Queued, errore: Errore) -> Mail {
    assert_eq!(queued.mail.recipients, [format!("<{ANNA}>")]);
    openssl_verify(&queued.mail.to_bytes(), &network.pki.ca_file()).unwrap();
    let body = Bytes::from(queued.mail.body.clone());
    let parts = signed_parts(&queued.mail.header, &body).unwrap();
    let contents = contents(&body, parts.content, Tipo::NonAccettazione).unwrap();
    xmllint_valid(&contents.daticert.to_xml()).unwrap();
    assert_eq!((contents.daticert.errore, contents.postacert), (errore, None));
    queued.mail.clone()
}

/// The messages in Alfa's infected store, as the auditor reads them.
fn kept(network: &Network) -> Vec<Vec<u8>> {
    let directories = fs::read_dir(&network.alfa.settings.infected_store).unwrap();
    directories
        .flat_map(|d| fs::read_dir(d.unwrap().path()).unwrap())
        .map(|f| network.pki.opened(&fs::read(f.unwrap().path()).unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_3_a_message_with_a_virus_is_not_accepted_and_rfc6109_2_2_4_kept() {
    let mut network = Network::new().await;
    let access = alfa(&mut network, clamd::start().await, "exe").await;
    let mail = letter("", VIRUS);
    let notice = not_accepted(&network, &mail.give_to(access).await.queued(), Errore::Virus);
    assert_eq!(notice.header.text("X-VerificaSicurezza").as_deref(), Some("errore"));
    assert!(notice.header.subject().unwrap().starts_with("AVVISO DI NON ACCETTAZIONE PER VIRUS: Prova"));
    assert_eq!(kept(&network), [mail.to_bytes()]);
    assert_eq!(column(&network.alfa.settings.database, "SELECT error FROM log").await, ["Virus-Di-Prova"]);
    assert_eq!(
        column(&network.alfa.settings.database, "SELECT id FROM sent UNION ALL SELECT id FROM custody").await,
        [""; 0]
    );
    letter("", "Ciao").give_to(access).await.queued();
}

#[tokio::test(flavor = "multi_thread")]
async fn agid_a_message_with_a_blocked_attachment_is_not_accepted() {
    let mut network = Network::new().await;
    let access = alfa(&mut network, clamd::start().await, "exe js").await;
    let notice = not_accepted(
        &network,
        &letter("Content-Type: a/b; name=A.EXE\n", "x").give_to(access).await.queued(),
        Errore::Altro,
    );
    assert_eq!(notice.header.first("X-VerificaSicurezza"), None);
    assert_eq!(
        column(&network.alfa.settings.database, "SELECT error FROM log").await,
        ["allegati di tipo non ammesso: \"A.EXE\" (.exe)"]
    );
    assert!(kept(&network).is_empty(), "no virus");
    letter("Content-Type: a/b; name=a.pdf\n", "x").give_to(access).await.queued();
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_1_a_malformed_multipart_is_not_accepted_whatever_is_blocked() {
    for kinds in ["exe", ""] {
        let mut network = Network::new().await;
        let access = alfa(&mut network, clamd::start().await, kinds).await;
        let open = letter("Content-Type: multipart/mixed; boundary=b\n", "--b\n\nnever closed");
        not_accepted(&network, &open.give_to(access).await.queued(), Errore::Altro);
        let error = column(&network.alfa.settings.database, "SELECT error FROM log").await.remove(0);
        assert!(error.starts_with("struttura MIME non valida ("), "{error}");
        letter("Content-Type: multipart/mixed; boundary=b\n", "--b\n\nclosed\n--b--")
            .give_to(access)
            .await
            .queued();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clamd_does_not_scan_to_its_end_is_refused_for_good() {
    let mut network = Network::new().await;
    let access = alfa(&mut network, clamd::start().await, "exe").await;
    let refused = letter("", ENDLESS).give_to(access).await.rejected();
    assert!(refused.starts_with("552 5.3.4") && refused.contains("scanned for viruses"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_clamd_does_not_answer_nothing_is_accepted() {
    let mut network = Network::new().await;
    let access = alfa(&mut network, Socket::Inet("127.0.0.1:1".into()), "exe").await;
    let deferred = letter("", "Ciao").give_to(access).await.deferred();
    assert!(deferred.starts_with("451 "), "{deferred}");
    assert_eq!(column(&network.alfa.settings.database, "SELECT id FROM sent").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_too_many_parts_is_answered_before_it_is_scanned() {
    let mut network = Network::new().await;
    // Nobody listens: what comes to the scanner waits.
    let access = alfa(&mut network, Socket::Inet("127.0.0.1:1".into()), "exe").await;
    let mail = |n: usize| {
        letter("Content-Type: multipart/mixed; boundary=b\n", &format!("{}--b--", "--b\n\nx\n".repeat(n)))
    };
    not_accepted(&network, &mail(10_001).give_to(access).await.queued(), Errore::Altro);
    assert_eq!(
        column(&network.alfa.settings.database, "SELECT error FROM log").await,
        ["struttura MIME non valida (più di 10000 parti)"]
    );
    assert!(mail(10_000).give_to(access).await.deferred().starts_with("451 "));
}
