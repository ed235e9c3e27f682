//! Viruses in what arrives, from the Incoming Point that finds one to the notice that the sender gets. The
//! scanner is a stand-in; PostgreSQL is real.
#![allow(clippy::unwrap_used)]

mod queue;

use std::net::SocketAddr;

use bytes::Bytes;
use pec_core::daticert::{Daticert, Errore};
use pec_core::envelope::{claimed_type, contents, signed_parts};
use pec_core::message::Body;
use pec_core::notices::Issuer;
use pec_core::notices::avvenuta_consegna::avvenuta_consegna;
use pec_host::parameters::Socket;
use pec_incoming::{Door, IncomingPoint};
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_test_support::clamd::{self, ENDLESS, HELD, VIRUS};
use pec_test_support::judges::{openssl_verify, xmllint_valid};
use pec_test_support::network::{Host, Network, arriving, column, envelope, sent};
use pec_test_support::postfix::{Mail, Queued, start};
use queue::{DONE, Delivery, envid};

const ANNA: &str = "anna@pec.alfa.test";
const BRUNO: &str = "bruno@pec.beta.test";
const CARLO: &str = "carlo@comune.example";

fn letter(text: &str) -> String {
    format!("From: {ANNA}\nTo: {BRUNO}, {CARLO}\nSubject: Prova\nMessage-ID: <1@client.test>\n\n{text}\n")
}

/// Port 25 of a provider, and its pec-delivery.
async fn provider(network: &Network, host: &Host) -> (SocketAddr, Delivery) {
    let incoming = start(IncomingPoint::new(network.world(host).await), Door::Port25).await;
    (incoming, Delivery::start(network, host).await)
}

async fn rows(host: &Host, sql: &str) -> Vec<String> {
    column(&host.settings.database, sql).await
}

/// The daticert.xml of a notice with which nothing is wrong.
fn daticert_in(network: &Network, mail: &Mail) -> Daticert {
    openssl_verify(&mail.to_bytes(), &network.pki.ca_file()).unwrap();
    let body = Bytes::from(mail.body.clone());
    let parts = signed_parts(&mail.header, &body).unwrap();
    let daticert = contents(&body, parts.content, claimed_type(&mail.header).unwrap()).unwrap().daticert;
    xmllint_valid(&daticert.to_xml()).unwrap();
    daticert
}

/// Alfa's envelope with a virus that Alfa did not find, as Alfa remembers it.
async fn infected(network: &Network) -> Mail {
    let mail = envelope(network, &network.alfa, &[BRUNO, CARLO], &letter(VIRUS));
    let daticert = daticert_in(network, &mail);
    let sent = sent("11", "1111", &daticert, &openssl::sha::sha256(&mail.body));
    let log = Entry::new(Event::Accesso, &daticert, daticert.data, "4j");
    let database = Database::connect(&network.alfa.settings, "test").await.unwrap();
    database.insert_sent(database.authentic(sent).unwrap(), log, None).await.unwrap();
    mail
}

async fn network() -> Network {
    let mut network = Network::new().await;
    network.beta.settings.clamd = Some(clamd::start().await);
    network
}

/// The names of the triggers for which a message is in the queue.
fn triggers(queued: &Queued) -> Vec<&str> {
    queued
        .mail
        .recipients
        .iter()
        .map(|r| r.trim_matches(['<', '>']))
        .filter(|r| r.ends_with("@notices.pec.internal"))
        .collect()
}

/// What a trigger of Beta's makes: one notice, on its way to Alfa.
async fn to_alfa(network: &Network, delivery: &Delivery, queued: &Queued, trigger: &str) -> Mail {
    assert_eq!(delivery.bring(queued, trigger).await, DONE, "{trigger}");
    let sent = network.beta.outgoing.taken();
    let [notice] = &sent[..] else { panic!("{trigger}: {} notices", sent.len()) };
    assert_eq!(notice.recipient, "ricevute@gestore.alfa.test");
    // Postfix has it as pec-delivery gave it; TLS is between the two providers.
    Mail { tls: true, ..notice.mail() }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_3_an_envelope_with_a_virus_becomes_notices_and_rfc6109_3_2_4_the_sender_hears_of_it() {
    let network = network().await;
    let (alfa, beta) = (provider(&network, &network.alfa).await, provider(&network, &network.beta).await);
    let mail = infected(&network).await;
    let queued = mail.give_to(beta.0).await.queued();

    assert_eq!(queued.mail.body, mail.body);
    let kinds: Vec<_> = queued.mail.recipients.iter().map(|r| r.split('+').next().unwrap()).collect();
    assert_eq!(
        kinds,
        ["<presa-in-carico", "<rilevazione-virus", "<rilevazione-virus"],
        "delivered to nobody"
    );
    let [custody] = &rows(&network.beta, "SELECT id || ' ' || envid FROM custody").await[..] else {
        panic!("one copy")
    };
    let (id, under) = custody.split_once(' ').unwrap();
    assert_eq!(envid(&queued), Some(under));
    let file = network.beta.settings.infected_store.join(&id[..2]).join(format!("{id}.p7m"));
    assert_eq!(
        network.pki.opened(&std::fs::read(file).unwrap()),
        mail.to_bytes(),
        "rfc6109_2_2_4: kept whole"
    );
    assert_eq!(
        rows(&network.beta, "SELECT error FROM log WHERE event = 'ricezione'").await,
        ["Virus-Di-Prova"]
    );

    let mut notices = Vec::new();
    for trigger in triggers(&queued) {
        notices.push(to_alfa(&network, &beta.1, &queued, trigger).await);
        assert_eq!(beta.1.bring(&queued, trigger).await, DONE);
        assert!(network.beta.outgoing.taken().is_empty(), "{trigger}: once, however often it comes round");
    }
    assert!(network.beta.mailboxes.taken().is_empty() && network.beta.mailboxes_no_quota.taken().is_empty());
    assert_eq!(daticert_in(&network, &notices[0]).tipo.as_str(), "presa-in-carico");

    let mut told = Vec::new();
    for notice in &notices[1..] {
        let daticert = daticert_in(&network, notice);
        assert_eq!((daticert.tipo.as_str(), daticert.errore), ("rilevazione-virus", Errore::Virus));
        assert_eq!(daticert.errore_esteso.as_deref(), Some("Virus-Di-Prova"));
        assert_eq!(notice.header.text("X-Mittente").as_deref(), Some(ANNA));
        let first = notice.give_to(alfa.0).await.queued();
        let again = notice.give_to(alfa.0).await.queued();
        assert_eq!(
            first.mail.recipients, again.mail.recipients,
            "as long as the sender was not told, whoever brings it starts the same notice"
        );
        assert_eq!(
            (&first.mail.recipients[0], first.mail.recipients.len()),
            (&"<ricevute@gestore.alfa.test>".to_owned(), 2),
            "it is delivered too"
        );
        assert_eq!(alfa.1.bring_all(&first).await, [DONE; 2]);
        // The first copy is new, and so passes the quota.
        let taken = network.alfa.mailboxes_no_quota.taken();
        let [delivered, mancata] = &taken[..] else { panic!("{} deliveries", taken.len()) };
        assert_eq!(
            (delivered.recipient.as_str(), &delivered.mail().body),
            ("ricevute@gestore.alfa.test", &notice.body)
        );
        let mancata = mancata.mail();
        assert_eq!(alfa.1.bring_all(&again).await, [DONE; 2]);
        assert_eq!(network.alfa.mailboxes.taken().len(), 1, "the second copy");
        assert!(
            network.alfa.mailboxes_no_quota.taken().is_empty(),
            "of the notice to the sender there is one"
        );
        let daticert = daticert_in(&network, &mancata);
        assert_eq!(
            (daticert.tipo.as_str(), daticert.errore, &mancata.recipients[..]),
            ("errore-consegna", Errore::Virus, &[format!("<{ANNA}>")][..])
        );
        assert_eq!(
            daticert.errore_esteso.as_deref(),
            Some("5.5.1 - Alfa PEC S.p.A. - presenza di un virus nel messaggio")
        );
        assert_eq!(mancata.header.text("X-VerificaSicurezza").as_deref(), Some("errore"));
        told.extend(daticert.consegna);
        // Replayed, by whomever: the sender has heard of it.
        assert_eq!(notice.give_to(alfa.0).await.queued().mail.recipients, ["<ricevute@gestore.alfa.test>"]);
    }
    assert_eq!(told, [BRUNO, CARLO]);
    assert_eq!(
        rows(&network.alfa, "SELECT recipient FROM fact WHERE kind = 'errore-consegna' ORDER BY recipient")
            .await,
        [BRUNO, CARLO]
    );
    assert_eq!(
        rows(
            &network.alfa,
            "SELECT recipient FROM ricevuta WHERE kind = 'rilevazione-virus' ORDER BY recipient"
        )
        .await,
        [BRUNO, CARLO]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_4_only_the_recipients_provider_tells_of_a_virus() {
    let mut network = network().await;
    let beta = provider(&network, &network.beta).await;
    let mail = infected(&network).await;
    let queued = mail.give_to(beta.0).await.queued();
    let notice = to_alfa(&network, &beta.1, &queued, triggers(&queued)[1]).await;
    // Beta does not serve the domain, and never did as far as Alfa knows.
    network.beta.settings.local_domains.retain(|domain| domain != "pec.beta.test");
    network.write_directory(&[&network.alfa, &network.beta]);
    let (incoming, _) = provider(&network, &network.alfa).await;
    let arrived = notice.give_to(incoming).await.queued();
    assert_eq!(arrived.mail.recipients, ["<ricevute@gestore.alfa.test>"]);
    assert_eq!(
        rows(&network.alfa, "SELECT event FROM log WHERE event LIKE 'ricevuta%'").await,
        ["ricevuta-estranea-rilevazione-virus"]
    );
    assert!(rows(&network.alfa, "SELECT id FROM fact").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_4_the_sender_hears_of_a_virus_also_if_the_recipients_domain_moved_meanwhile() {
    let mut network = network().await;
    let beta = provider(&network, &network.beta).await;
    let mail = infected(&network).await;
    let queued = mail.give_to(beta.0).await.queued();
    let notice = to_alfa(&network, &beta.1, &queued, triggers(&queued)[1]).await;
    let world = network.world(&network.alfa).await;
    let in_force = std::sync::Arc::clone(&world.directory);
    network.beta.settings.local_domains.retain(|domain| domain != "pec.beta.test");
    network.write_directory(&[&network.alfa, &network.beta]);
    in_force.look().await;
    let (incoming, _) = provider(&network, &network.alfa).await;
    let arrived = notice.give_to(incoming).await.queued();
    assert_eq!(arrived.mail.recipients.len(), 2, "the notice, and the trigger of the mancata consegna");
    assert_eq!(
        rows(&network.alfa, "SELECT kind || ' ' || recipient FROM fact").await,
        [format!("errore-consegna {BRUNO}")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_with_a_virus_that_comes_again_tells_once() {
    let network = network().await;
    let beta = provider(&network, &network.beta).await;
    let mail = infected(&network).await;
    let first = mail.give_to(beta.0).await.queued();
    let second = mail.give_to(beta.0).await.queued();
    assert_eq!(first.mail.recipients[1..], second.mail.recipients[1..], "the same triggers");
    assert_ne!(first.mail.recipients[0], second.mail.recipients[0], "of two copies in custody");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clamd_does_not_scan_to_its_end_is_refused_for_good() {
    let network = network().await;
    let (incoming, _) = provider(&network, &network.beta).await;
    let refused =
        envelope(&network, &network.alfa, &[BRUNO], &letter(ENDLESS)).give_to(incoming).await.rejected();
    assert!(refused.starts_with("552 5.3.4") && refused.contains("scanned for viruses"), "{refused}");
    assert!(rows(&network.beta, "SELECT id FROM custody").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_clamd_does_not_answer_envelopes_wait() {
    let mut network = network().await;
    network.beta.settings.clamd = Some(Socket::Inet("127.0.0.1:1".into()));
    let (incoming, _) = provider(&network, &network.beta).await;
    let deferred =
        envelope(&network, &network.alfa, &[BRUNO], &letter("Ciao")).give_to(incoming).await.deferred();
    assert!(deferred.starts_with("451 "), "{deferred}");
    assert!(rows(&network.beta, "SELECT id FROM custody").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_ordinary_mail_with_a_virus_is_refused_and_not_kept() {
    let network = network().await;
    let (incoming, _) = provider(&network, &network.beta).await;
    let ordinary = |text: &str| Mail::submitted("carla@posta.test", &[BRUNO], letter(text).as_bytes());
    assert_eq!(
        ordinary("Ciao").give_to(incoming).await.queued().mail.header.text("X-Trasporto").as_deref(),
        Some("errore")
    );
    let refused = ordinary(VIRUS).give_to(incoming).await.rejected();
    assert!(refused.starts_with("554 5.7.1") && refused.contains("Virus-Di-Prova"), "{refused}");
    assert!(ordinary(ENDLESS).give_to(incoming).await.rejected().starts_with("552 5.3.4"));
    assert_eq!(std::fs::read_dir(&network.beta.settings.infected_store).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_around_the_signed_content_is_not_held_against_the_envelope() {
    let network = network().await;
    let incoming = provider(&network, &network.beta).await.0;
    let good = envelope(&network, &network.alfa, &[BRUNO], &letter("Ciao"));
    let mut in_header = good.clone();
    in_header.header.push(pec_core::header::Field::written("X-Of-Somebody", VIRUS));
    let before = Mail { body: [VIRUS.as_bytes(), b"\r\n", &good.body].concat(), ..good.clone() };
    let after = Mail { body: [&good.body[..], b"\r\n", VIRUS.as_bytes(), b"\r\n"].concat(), ..good.clone() };
    for mail in [in_header, before, after] {
        let refused = mail.give_to(incoming).await.rejected();
        assert!(
            refused.starts_with("554 5.7.1") && refused.contains("outside of what the provider signed"),
            "{refused}"
        );
    }
    assert!(
        rows(&network.beta, "SELECT id FROM fact").await.is_empty()
            && rows(&network.beta, "SELECT id FROM custody").await.is_empty()
    );
    good.give_to(incoming).await.queued();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_goes_on_whatever_its_provider_signed_and_nothing_comes_along_around_it() {
    let mut network = network().await;
    network.alfa.settings.clamd.clone_from(&network.beta.settings.clamd);
    let incoming = provider(&network, &network.alfa).await.0;
    let mail = infected(&network).await;
    let busta = daticert_in(&network, &mail);
    let signer = network.signer(&network.beta);
    let issuer =
        Issuer { provider_name: "Beta Posta S.r.l.", service_domain: "gestore.beta.test", signer: &signer };
    let receipt = |original: &str, id: &str| {
        let original = Body::from_bytes(format!("Subject: x\r\n\r\n{original}\r\n").into_bytes());
        let notice = avvenuta_consegna(issuer, &busta, BRUNO, busta.data, Some(original), id).unwrap();
        arriving(notice, &issuer.address(), &[ANNA])
    };
    for (what, id) in [("Ciao", "1@x"), (VIRUS, "2@x"), (ENDLESS, "3@x")] {
        receipt(what, id).give_to(incoming).await.queued();
    }
    let clean = receipt("Ciao", "4@x");
    let refused = Mail { body: [&clean.body[..], b"\r\n", VIRUS.as_bytes()].concat(), ..clean.clone() }
        .give_to(incoming)
        .await
        .rejected();
    assert!(
        refused.starts_with("554 5.7.1") && refused.contains("outside of what the provider signed"),
        "{refused}"
    );
    clean.give_to(incoming).await.queued();
    assert_eq!(
        rows(&network.alfa, "SELECT message_id FROM log WHERE event LIKE 'ricevuta%' ORDER BY seq").await,
        ["1@x", "2@x", "3@x", "4@x"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_that_are_too_old_are_written_down_once_for_each_version() {
    const OLD: &str = "ClamAV 1.4.3/27456/Tue Nov 17 10:31:05 2026";
    const FRESH: &str = "ClamAV 1.4.3/27457/Wed Nov 18 10:31:05 2026";
    let mut network = Network::new().await;
    // Four programs that start, with the same signatures; then new ones.
    for version in [OLD, OLD, OLD, OLD, FRESH] {
        network.beta.settings.clamd = Some(clamd::start_as(version).await);
        network.world(&network.beta).await.scanner_watch().begin(0).await;
        let found = rows(
            &network.beta,
            "SELECT identificativo || ': ' || error FROM log WHERE event = 'firme-antivirus'",
        )
        .await;
        assert!(
            found.len() == 1
                && found[0].starts_with(&format!("{OLD}: the virus scanner's signatures are of 2026-11-1")),
            "{version}: {found:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_send_never_takes_the_last_of_the_scanner() {
    let mut network = Network::new().await;
    let (clamd, mut held) = clamd::start_with_threads(3).await;
    network.beta.settings.clamd = Some(clamd);
    let (incoming, _) = provider(&network, &network.beta).await;
    // Ordinary mail, and what says that it is certified.
    let text = format!("Content-Type: multipart/signed; boundary=b; protocol=x\n{}", letter(HELD));
    for text in [letter(HELD), text] {
        for _ in 0..6 {
            let mail = Mail::submitted("carla@posta.test", &[BRUNO], text.as_bytes());
            tokio::spawn(async move { mail.give_to(incoming).await });
        }
    }
    held.wait_for(|held| *held == 2).await.unwrap();
    for n in 0..3 {
        envelope(&network, &network.alfa, &[BRUNO], &letter(&format!("Ciao {n}")))
            .give_to(incoming)
            .await
            .queued();
    }
    assert_eq!(*held.borrow(), 2, "strangers have their two turns, and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_mail_of_too_many_parts_is_refused_before_it_is_scanned() {
    let mut network = Network::new().await;
    // Nobody listens: what comes to the scanner waits.
    network.beta.settings.clamd = Some(Socket::Inet("127.0.0.1:1".into()));
    let (incoming, _) = provider(&network, &network.beta).await;
    let mail = |parts: usize| {
        let parts = "--b\n\nx\n".repeat(parts);
        let text = format!("Content-Type: multipart/mixed; boundary=b\nFrom: c@posta.test\n\n{parts}");
        Mail::submitted("carla@posta.test", &[BRUNO], text.as_bytes())
    };
    let refused = mail(1_001).give_to(incoming).await.rejected();
    assert!(refused.starts_with("552 5.3.4") && refused.contains("too complex"), "{refused}");
    assert!(mail(1_000).give_to(incoming).await.deferred().starts_with("451 "));
}
