//! The Incoming Point, spoken to in the milter protocol as Postfix does, with a real PostgreSQL behind it.
#![allow(clippy::unwrap_used)]

mod queue;

use std::net::SocketAddr;
use std::process::Command;

use openssl::sha::sha256;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, TipoRicevuta};
use pec_core::header::Field;
use pec_core::message::Body;
use pec_core::notices::avvenuta_consegna::avvenuta_consegna;
use pec_core::notices::busta::busta;
use pec_core::notices::presa_in_carico::presa_in_carico as notice_of_presa_in_carico;
use pec_core::notices::{Issuer, Notice};
use pec_host::parameters::{OrdinaryMail, Socket};
use pec_incoming::{Door, IncomingPoint};
use pec_state::database::{Database, InQueue};
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::rows::PassedKind;
use pec_test_support::judges::openssl_verify;
use pec_test_support::network::{
    Host, LETTER, Network, arriving, column, daticert_of, envelope, eventually, run, sent,
};
use pec_test_support::pki::{NOW, only_for};
use pec_test_support::postfix::{Mail, Outcome, Queued, start};
use pec_test_support::tampering::while_altered;
use queue::{DONE, Delivery, envid};

const ANNA: &str = "anna@pec.alfa.test";
const BRUNO: &str = "bruno@pec.beta.test";

/// Beta's Incoming Point for port 25.
async fn beta(network: &Network) -> SocketAddr {
    start(IncomingPoint::new(network.world(&network.beta).await), Door::Port25).await
}

fn replaced(mail: &Mail, from: &str, to: &str) -> Mail {
    let body = String::from_utf8(mail.body.clone()).unwrap();
    assert!(body.contains(from), "{from}");
    Mail { body: body.replace(from, to).into_bytes(), ..mail.clone() }
}

fn with_field(mail: &Mail, name: &str, value: &str) -> Mail {
    let mut mail = mail.clone();
    mail.header.fields_mut().retain(|f| !f.is(name));
    mail.header.push(Field::written(name, value));
    mail
}

fn twice(mail: &Mail, name: &str, value: &str) -> Mail {
    let mut mail = mail.clone();
    mail.header.push(Field::written(name, value));
    mail
}

fn circling(mail: &Mail) -> Mail {
    (0..60).fold(mail.clone(), |mail, _| {
        twice(&mail, "Received", "from a.test by b.test; Thu, 19 Nov 2026 00:00:00 +0100")
    })
}

async fn rows(host: &Host, sql: &str) -> Vec<String> {
    column(&host.settings.database, sql).await
}

/// A provider's database as its programs have it: rows that none of them wrote are an error.
async fn programs(host: &Host) -> Database {
    Database::connect(&host.settings, "test").await.unwrap()
}

/// As what the message in the queue was let pass, and for whom (keys): the row by which pec-delivery knows
/// it.
async fn let_pass(host: &Host, queued: &Queued) -> (PassedKind, Vec<String>) {
    let Ok(Some(InQueue::Passed(passed))) = programs(host).await.in_queue(envid(queued).unwrap()).await
    else {
        panic!("it was not let pass")
    };
    assert_eq!(passed.body_sha256, sha256(&queued.mail.body), "these bytes, and no others");
    (passed.kind, passed.recipients.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_1_a_correct_envelope_is_taken_in_charge() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, "nessuno@pec.beta.test"], LETTER);
    let queued = mail.clone().give_to(incoming).await.queued();

    assert_eq!((&queued.mail.header, &queued.mail.body), (&mail.header, &mail.body), "delivered as it came");
    assert_eq!(queued.mail.sender, mail.sender);
    let trigger = queued.recipient("presa-in-carico+");
    assert_eq!(
        queued.mail.recipients,
        [format!("<{BRUNO}>"), "<nessuno@pec.beta.test>".to_owned(), format!("<{trigger}>")]
    );
    assert_eq!(queued.added, [(format!("<{trigger}>"), Some("NOTIFY=FAILURE".to_owned()))]);
    assert_eq!(queued.edits, 2, "each edit costs Postfix a pass over its file");

    let envid = envid(&queued).unwrap();
    assert!(
        envid.len() == 32 && !trigger.contains(envid),
        "who sees a trigger's name does not know the envelope's id"
    );
    let custody = "concat_ws('|', envid, provider, mail_receipt, array_to_string(recipients, ','), \
        encode(body_sha256, 'hex'), extract(epoch from taken_at)::int8)";
    let hash = pec_core::identifier::hex(&sha256(&mail.body));
    let expected = format!(
        "{envid}|Alfa PEC S.p.A.|ricevute@gestore.alfa.test|{BRUNO},nessuno@pec.beta.test|{hash}|{NOW}"
    );
    assert_eq!(rows(&network.beta, &format!("SELECT {custody} FROM custody")).await, [expected]);
    assert_eq!(
        rows(&network.beta, "SELECT event || ' ' || envid FROM log").await,
        [format!("ricezione {envid}")]
    );
    let custody = programs(&network.beta).await.custody_with_envid(envid).await.unwrap().unwrap();
    assert_eq!(trigger, format!("presa-in-carico+{}@notices.pec.internal", custody.id));
    let signed = pec_core::envelope::signed_parts(&mail.header, &mail.body).unwrap().content;
    assert_eq!(
        custody.content_sha256,
        sha256(&mail.body[signed]),
        "whatever surrounds it: that is the envelope"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_5_3_certified_mail_in_clear_text_is_taken_or_waits_as_set() {
    let mut network = Network::new().await;
    let clear = Mail { tls: false, ..envelope(&network, &network.alfa, &[BRUNO], LETTER) };
    clear.give_to(beta(&network).await).await.queued();

    network.beta.settings.require_tls = true;
    let strict = beta(&network).await;
    let another = Mail { tls: false, ..envelope(&network, &network.alfa, &[BRUNO], LETTER) };
    another.give_to(strict).await.deferred();
    assert_eq!(rows(&network.beta, "SELECT count(*)::text FROM custody").await, ["1"]);
    Mail { tls: true, ..another }.give_to(strict).await.queued();
    Mail { tls: false, account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) }
        .give_to(strict)
        .await
        .queued();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_spam_filter_marks_is_refused_unless_a_provider_signed_it() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let marked = |mail: &Mail| twice(&twice(mail, "X-Pec-Spam", "Yes"), "x-pec-spam", "Yes");
    let ordinary = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) };
    assert!(marked(&ordinary).give_to(incoming).await.rejected().starts_with("550 5.7.1"));
    ordinary.clone().give_to(incoming).await.queued();

    let certified = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let taken = marked(&certified).give_to(incoming).await.queued();
    assert!(taken.mail.header.first("X-Pec-Spam").is_none());
    assert_eq!(taken.mail.body, certified.body);
    let damaged = with_field(&envelope(&network, &network.alfa, &[BRUNO], LETTER), "X-Trasporto", "altro");
    let anomaly = marked(&damaged).give_to(incoming).await.queued();
    let whole = [anomaly.mail.header.to_bytes(), anomaly.mail.body].concat();
    assert!(!String::from_utf8_lossy(&whole).to_ascii_lowercase().contains("x-pec-spam"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_the_header_says_which_receipt_where_daticert_is_silent() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let signer = network.signer(&network.alfa);
    let issuer =
        Issuer { provider_name: "Alfa PEC S.p.A.", service_domain: "gestore.alfa.test", signer: &signer };
    let submitted = Mail::submitted(ANNA, &[BRUNO], LETTER.as_bytes());
    for (signed, header, kept) in [
        (None, "breve", Some("breve")),
        (None, "banana", None),
        (Some(TipoRicevuta::Completa), "sintetica", Some("completa")),
    ] {
        let daticert =
            Daticert { ricevuta: signed, ..daticert_of(&network.alfa, &[BRUNO], &submitted.header) };
        let notice = busta(
            issuer,
            &daticert,
            &submitted.header,
            Body::from_bytes(submitted.body.clone()),
            Field::written("Received", "x"),
        )
        .unwrap();
        with_field(&arriving(notice, ANNA, &[BRUNO]), "X-TipoRicevuta", header)
            .give_to(incoming)
            .await
            .queued();
        let taken = rows(
            &network.beta,
            &format!("SELECT daticert FROM custody WHERE identificativo = '{}'", daticert.identificativo),
        )
        .await
        .remove(0);
        assert_eq!(
            Daticert::parse(taken.as_bytes()).unwrap().ricevuta.map(|r| r.as_str()),
            kept,
            "{signed:?} {header}"
        );
    }
}

/// The message lies entire and untouched in an anomaly envelope of Beta's, whose text says why.
async fn anomaly(network: &Network, mail: &Mail, outcome: Outcome, says: &str) -> Queued {
    let queued = outcome.queued();
    let header = &queued.mail.header;
    let text = |name| header.text(name).unwrap_or_default();
    assert_eq!((text("X-Trasporto").as_str(), header.first("X-Ricevuta")), ("errore", None));
    assert!(
        text("Subject").starts_with("ANOMALIA MESSAGGIO:") && text("From").starts_with("\"Per conto di: "),
        "{header:?}"
    );
    assert!(text("From").ends_with("<posta-certificata@gestore.beta.test>"));
    assert_eq!(queued.mail.sender, mail.sender, "the reverse path stays");
    assert_eq!(
        (&queued.mail.recipients, queued.added.len()),
        (&mail.recipients, 0),
        "to whom it was sent, and no trigger"
    );
    let keys = mail.recipients.iter().map(|r| r.trim_matches(['<', '>']).to_ascii_lowercase()).collect();
    assert_eq!(let_pass(&network.beta, &queued).await, (PassedKind::Anomalia, keys));
    for name in ["To", "Cc", "Message-ID", "Received"] {
        assert!(header.all(name).eq(mail.header.all(name)), "{name} is inherited as it is");
    }

    openssl_verify(&queued.mail.to_bytes(), &network.pki.ca_file()).unwrap();
    let parts = pec_core::envelope::signed_parts(header, &queued.mail.body).unwrap();
    let entity = pec_core::mime::part(&queued.mail.body, parts.content).unwrap();
    let boundary = entity.header.content_type().unwrap().attribute("boundary").unwrap().to_owned();
    let inside = &queued.mail.body[entity.body];
    let parts = pec_core::mime::split(inside, &boundary, 10).unwrap();
    let [words, original] = &parts[..] else {
        panic!("{} parts: RFC 6109 s. 3.2.2 allows the text and the message", parts.len())
    };
    let original = pec_core::mime::part(inside, original.clone()).unwrap();
    assert_eq!(original.header.content_type().unwrap().essence, "message/rfc822");
    let arrived = mail.to_bytes();
    assert_eq!(
        String::from_utf8_lossy(&inside[original.body]),
        String::from_utf8_lossy(&arrived),
        "every byte that arrived"
    );
    let words = String::from_utf8_lossy(&inside[words.clone()]).replace("=\r\n", "").replace("=3D", "=");
    assert!(words.contains("Anomalia nel messaggio") && words.contains(says), "{words}");
    queued
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_2_ordinary_mail_comes_in_an_anomaly_envelope() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) };
    let queued =
        anomaly(&network, &mail, mail.clone().give_to(incoming).await, "Firma non presente o non autentica")
            .await;
    assert_eq!(queued.mail.header.text("Subject").unwrap(), "ANOMALIA MESSAGGIO: Prova");
    assert_eq!(
        queued.mail.header.text("From").unwrap(),
        "\"Per conto di: anna@pec.alfa.test\" <posta-certificata@gestore.beta.test>"
    );
    assert_eq!(queued.mail.header.text("Reply-To").unwrap(), ANNA);
    assert_eq!(queued.mail.recipients, [format!("<{BRUNO}>")]);
    assert_eq!(
        rows(&network.beta, "SELECT event || ' ' || msgid FROM log").await,
        ["anomalia <1@client.test>"]
    );
    assert!(rows(&network.beta, "SELECT id FROM custody").await.is_empty(), "nothing is certified");

    let forged =
        Mail { sender: "<altri@comune.example>".into(), ..mail.clone() }.give_to(incoming).await.rejected();
    assert!(forged.starts_with("550 5.7.1") && forged.contains("submission service"), "{forged}");

    // What says that it is an envelope is not one for that.
    let mail = with_field(&mail, "X-Trasporto", "posta-certificata");
    anomaly(&network, &mail, mail.clone().give_to(incoming).await, "Firma non presente").await;
    // Anybody can write that, too.
    let mail = with_field(&mail, "X-Trasporto", "errore");
    anomaly(&network, &mail, mail.clone().give_to(incoming).await, "Firma non presente").await;
    // A report of somebody's mail system, of the null path, in 8 bits, with nothing that a header needs.
    let mail = Mail {
        account: None,
        sender: "<>".into(),
        ..Mail::submitted("", &[BRUNO], "Subject: x\n\ncitt\u{e0}\n".as_bytes())
    };
    let queued = anomaly(&network, &mail, mail.clone().give_to(incoming).await, "MAILER-DAEMON").await;
    assert_eq!(queued.mail.header.first("Reply-To"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_no_mailbox_is_refused_as_it_comes_and_not_bounced_to_whoever_it_says_it_is_from() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mailboxes = &network.beta.mailboxes;
    let mail = Mail {
        account: None,
        ..Mail::submitted("x@posta.test", &[BRUNO, "altro@comune.example"], LETTER.as_bytes())
    };
    let busta = envelope(&network, &network.alfa, &[BRUNO], LETTER);

    mailboxes.answer_recipient(BRUNO, Some("550 5.1.1 no such user"));
    let refused = mail.clone().give_to(incoming).await.rejected();
    assert!(refused.starts_with("550 5.1.1") && refused.contains(BRUNO), "{refused}");
    assert_eq!(
        mailboxes.asked(),
        [BRUNO, "altro@comune.example", BRUNO],
        "one no is no fact: who is missing is asked for once more"
    );
    busta.give_to(incoming).await.queued().recipient("presa-in-carico+");
    assert!(
        mailboxes.asked().is_empty(),
        "nobody is asked about an envelope: the sender gets an avviso di mancata consegna"
    );

    // Only the first time: while the list of users is being written, say.
    let asked_again = tokio::spawn({
        let mail = mail.clone();
        async move { mail.give_to(incoming).await }
    });
    eventually(async || mailboxes.asked().contains(&BRUNO.to_owned()).then_some(())).await;
    mailboxes.answer_recipient(BRUNO, None);
    let queued = anomaly(&network, &mail, asked_again.await.unwrap(), "Firma non presente").await;
    assert_eq!(queued.mail.recipients, mail.recipients);

    // It is there, and takes nothing now: that is told when it is handed over.
    for full in ["552 5.2.2 full", "452 4.2.2 full", "550 5.2.1 closed"] {
        mailboxes.answer_recipient(BRUNO, Some(full));
        anomaly(&network, &mail, mail.clone().give_to(incoming).await, "Firma non presente").await;
    }
    // What says neither yes nor no.
    for unclear in ["451 4.3.0 out of order", "421 4.3.2 going down", "554 5.7.1 not you"] {
        mailboxes.answer_recipient(BRUNO, Some(unclear));
        let deferred = mail.clone().give_to(incoming).await.deferred();
        assert!(deferred.starts_with("451 "), "{unclear}: {deferred}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_refused_where_nobody_would_get_it() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let receipt = delivery_receipt(&network, &network.beta, &sent_by_alfa(&network).await, BRUNO);
    let receipt = Mail { recipients: vec!["<nessuno@pec.alfa.test>".into(), format!("<{ANNA}>")], ..receipt };
    let mailboxes = &network.alfa.mailboxes;
    mailboxes.answer_recipient("nessuno@pec.alfa.test", Some("550 5.1.1 no such user"));
    assert_eq!(
        receipt.give_to(incoming).await.queued().mail.recipients,
        receipt.recipients,
        "who is there gets it"
    );
    mailboxes.answer_recipient(ANNA, Some("550 5.1.1 no such user"));
    let refused = receipt.give_to(incoming).await.rejected();
    assert!(refused.starts_with("550 5.1.1") && refused.contains("nessuno@"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_mailbox_server_is_down_envelopes_are_taken_and_other_mail_waits() {
    let mut network = Network::new().await;
    network.beta.settings.mailbox_lmtp = Socket::Unix(network.directory.path().join("nobody"));
    let incoming = beta(&network).await;
    let ordinary = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) };
    assert!(ordinary.give_to(incoming).await.deferred().starts_with("451 "));
    envelope(&network, &network.alfa, &[BRUNO], LETTER)
        .give_to(incoming)
        .await
        .queued()
        .recipient("presa-in-carico+");
}

#[tokio::test(flavor = "multi_thread")]
async fn dm_2_11_2005_art_14_ordinary_mail_may_be_refused_and_what_a_provider_signed_never() {
    let mut network = Network::new().await;
    network.beta.settings.refuse_ordinary_mail =
        OrdinaryMail::parse("altri.test, Bruno@pec.beta.test").unwrap();
    let incoming = beta(&network).await;
    let ordinary = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) };
    let refused = ordinary.clone().give_to(incoming).await.rejected();
    assert!(refused.starts_with("550 5.7.1") && refused.contains("certified mail only"), "{refused}");
    Mail { recipients: vec!["<altro@pec.beta.test>".into()], ..ordinary }.give_to(incoming).await.queued();
    let damaged = with_field(&envelope(&network, &network.alfa, &[BRUNO], LETTER), "From", ANNA);
    anomaly(&network, &damaged, damaged.clone().give_to(incoming).await, "il campo From").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_5_nobody_writes_to_the_service_mailboxes() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = Mail {
        account: None,
        ..Mail::submitted("x@posta.test", &["posta-certificata@gestore.beta.test"], LETTER.as_bytes())
    };
    let refused = mail.clone().give_to(incoming).await.rejected();
    assert!(refused.starts_with("550 5.7.1") && refused.contains("nobody reads"), "{refused}");
    let bounce = Mail { sender: "<>".into(), ..mail };
    anomaly(&network, &bounce, bounce.clone().give_to(incoming).await, "Firma non presente").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_5_an_envelope_for_a_service_mailbox_has_its_mancata_consegna_and_reaches_the_others() {
    let network = Network::new().await;
    let (incoming, delivery) = (beta(&network).await, Delivery::start(&network, &network.beta).await);
    for others in [&[BRUNO][..], &[]] {
        let to: Vec<&str> = others.iter().copied().chain(["Posta-Certificata@gestore.beta.test"]).collect();
        let queued = envelope(&network, &network.alfa, &to, LETTER).give_to(incoming).await.queued();
        assert_eq!(delivery.bring_all(&queued).await, vec![DONE; to.len() + 1]);

        let delivered: Vec<_> =
            network.beta.mailboxes.taken().into_iter().map(|taken| taken.recipient).collect();
        assert_eq!(delivered, others);
        let mut notices: Vec<_> = network
            .beta
            .outgoing
            .taken()
            .iter()
            .map(|taken| (taken.mail().header.text("X-Ricevuta").unwrap(), taken.clone()))
            .collect();
        notices.sort_by(|(a, _), (b, _)| a.cmp(b));
        let kinds: Vec<_> = notices
            .iter()
            .map(|(kind, _)| kind.as_str())
            .filter(|kind| *kind != "avvenuta-consegna")
            .collect();
        assert_eq!((kinds, notices.len()), (vec!["errore-consegna", "presa-in-carico"], 2 + others.len()));
        let notice = &notices.iter().find(|(kind, _)| kind == "errore-consegna").unwrap().1;
        openssl_verify(&notice.data, &network.pki.ca_file()).unwrap();
        assert_eq!(notice.recipient, ANNA);
    }
    assert!(
        !network
            .beta
            .mailboxes
            .asked()
            .iter()
            .any(|asked| asked.to_ascii_lowercase().starts_with("posta-certificata@")),
        "nobody reads there"
    );
    let said = "5.2.1 - Beta Posta S.r.l. - casella disattivata o che non accetta messaggi";
    assert_eq!(rows(&network.beta, "SELECT error FROM log WHERE event = 'errore-consegna'").await, [said; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_what_comes_from_outside_is_wrapped_also_where_it_is_an_anomaly_envelope_of_ours() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let ordinary = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) };
    let wrapped = ordinary.give_to(incoming).await.queued().mail;
    // Its header is anybody's: who replays it calls it what he likes.
    let replayed = with_field(&wrapped, "Subject", "POSTA CERTIFICATA: atto giudiziario");
    for mail in [&wrapped, &replayed] {
        anomaly(&network, mail, mail.clone().give_to(incoming).await, "neither an envelope nor a receipt")
            .await;
    }
    let changed = replaced(&wrapped, "Ciao", "Caio");
    anomaly(&network, &changed, changed.clone().give_to(incoming).await, "does not verify").await;

    // What we signed is no anomaly envelope because its header, which anybody writes, says so.
    let own = with_field(&envelope(&network, &network.beta, &[BRUNO], LETTER), "X-Trasporto", "errore");
    anomaly(&network, &own, own.clone().give_to(incoming).await, "neither an envelope nor a receipt").await;
    assert_eq!(
        rows(&network.beta, "SELECT count(*)::text FROM log WHERE event = 'anomalia'").await,
        ["5"],
        "each is written down"
    );

    // That of another provider is ordinary mail, as it was there.
    let at_alfa = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let to_anna = Mail { recipients: vec![format!("<{ANNA}>")], ..wrapped };
    let outer = to_anna.clone().give_to(at_alfa).await.queued();
    assert_eq!(outer.mail.header.text("Subject").unwrap(), "ANOMALIA MESSAGGIO: ANOMALIA MESSAGGIO: Prova");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_what_is_wrong_with_an_envelope_is_found_and_it_goes_on_as_an_anomaly() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let good = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let unsigned = String::from_utf8(good.body.clone()).unwrap();
    let certificate_line = unsigned.lines().rev().find(|l| l.starts_with("MII")).unwrap().to_owned();
    for (what, mail, says) in [
        ("a letter of the original", replaced(&good, "Ciao", "Caio"), "does not verify"),
        ("a blank at a line's end", replaced(&good, "Ciao\r\n", "Ciao \r\n"), "does not verify"),
        ("the reverse path is null", Mail { sender: "<>".into(), ..good.clone() }, "it comes from &lt;&gt;"),
        (
            "the reverse path is another",
            Mail { sender: "<altra@pec.alfa.test>".into(), ..good.clone() },
            "it comes from altra@pec.alfa.test",
        ),
        (
            "From is not the signer",
            with_field(&good, "From", "posta-certificata@gestore.beta.test"),
            "is not the address in the certificate",
        ),
        (
            "the header says receipt",
            with_field(&with_field(&good, "X-Trasporto", ""), "X-Ricevuta", "accettazione"),
            "and daticert.xml says",
        ),
        (
            "the header says nothing",
            with_field(&good, "X-Trasporto", ""),
            "neither an envelope nor a receipt",
        ),
        (
            "somebody to whom it was not sent",
            Mail { recipients: vec!["<altro@comune.example>".into()], ..good.clone() },
            "was not sent to altro@",
        ),
        (
            "another Message-ID",
            with_field(&good, "Message-ID", "<altro@gestore.alfa.test>"),
            "is not the identifier in daticert.xml",
        ),
        (
            "a reference to another message",
            with_field(&good, "X-Riferimento-Message-ID", "<2@client.test>"),
            "field says &lt;2@client.test&gt;",
        ),
        (
            "in the name of somebody else",
            with_field(
                &good,
                "From",
                "\"Per conto di: altra@pec.alfa.test\" <posta-certificata@gestore.alfa.test>",
            ),
            "does not name the sender in daticert.xml",
        ),
        (
            "two content types",
            twice(&good, "Content-Type", "text/plain"),
            "Content-Type: field stands more than once",
        ),
        (
            "no second part",
            replaced(&good, "application/x-pkcs7-signature", "text/plain"),
            "no S/MIME signature",
        ),
        (
            "a broken signature",
            replaced(&good, &certificate_line, &certificate_line.to_lowercase()),
            "ignature",
        ),
        (
            "a lost end",
            Mail { body: good.body[..good.body.len() / 2].to_vec(), ..good.clone() },
            "never closed",
        ),
    ] {
        let outcome = mail.clone().give_to(incoming).await;
        println!("{what}");
        anomaly(&network, &mail, outcome, says).await;
    }
    assert!(rows(&network.beta, "SELECT id FROM custody").await.is_empty());
    let refused = circling(&good).give_to(incoming).await.rejected();
    assert!(refused.contains("too many hops"), "{refused}");
    good.give_to(incoming).await.queued();
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_the_signer_is_a_provider_of_the_directory() {
    let network = Network::new().await;
    network.write_directory(&[&network.beta]);
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    anomaly(&network, &mail, mail.clone().give_to(incoming).await, "not in the directory of providers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_7_a_provider_speaks_for_the_domains_that_it_serves() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    // Beta signs correctly, in its own name, an envelope of a user of Alfa's.
    let mail = envelope(&network, &network.beta, &[BRUNO], LETTER);
    anomaly(
        &network,
        &mail,
        mail.clone().give_to(incoming).await,
        "Beta Posta S.r.l. does not serve the sender's domain, pec.alfa.test",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_a_certificate_of_an_unknown_ca_is_not_believed() {
    let mut network = Network::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let pki = pec_test_support::pki::Pki::new(elsewhere.path());
    network.alfa.keys = pki.provider("Alfa PEC S.p.A.", "posta-certificata@gestore.alfa.test");
    network.write_directory(&[&network.alfa, &network.beta]);
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    anomaly(&network, &mail, mail.clone().give_to(incoming).await, "does not verify").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_a_certificate_whose_ca_may_not_vouch_for_its_names_is_not_believed() {
    for (domain, organisation, good) in [
        ("gestore.alfa.test", "Alfa PEC S.p.A.", true),
        ("gestore.beta.test", "Alfa PEC S.p.A.", false),
        ("gestore.alfa.test", "Beta Posta S.r.l.", false),
    ] {
        let mut network = Network::new().await;
        network.pki.issuing = network.pki.root.below("Prova CA 2", &[only_for(domain, organisation)]);
        network.certify_alfa(&[]);
        network.write_directory(&[&network.alfa, &network.beta]);
        let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
        let outcome = mail.give_to(beta(&network).await).await;
        if good {
            outcome.queued().recipient("presa-in-carico+");
        } else {
            anomaly(&network, &mail, outcome, "permitted subtree violation").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_a_certificate_is_believed_in_its_time_only() {
    let mut network = Network::new().await;
    // Alfa's certificate ends; Beta's own does not.
    network.alfa.keys = network.pki.provider_valid(
        "Alfa PEC S.p.A.",
        "posta-certificata@gestore.alfa.test",
        NOW - 86_400,
        NOW + 86_400,
    );
    network.write_directory(&[&network.alfa, &network.beta]);
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    network.clock.set(Moment::from_unix(NOW + 2 * 86_400));
    let queued = mail.clone().give_to(incoming).await.queued();
    assert_eq!(queued.mail.header.text("X-Trasporto").as_deref(), Some("errore"));
    network.clock.set(Moment::from_unix(NOW));
    let queued = mail.give_to(incoming).await.queued();
    assert_eq!(queued.mail.header.text("X-Trasporto").as_deref(), Some("posta-certificata"));
}

/// The same message signed again by openssl, in the form of another engine.
fn signed_by_openssl(
    network: &Network,
    mail: &Mail,
    digest: &str,
    indefinite: bool,
    dialect: (&str, &str),
) -> Mail {
    let directory = tempfile::tempdir().unwrap();
    let (content_file, signature_file) =
        (directory.path().join("content"), directory.path().join("signature"));
    let parts = pec_core::envelope::signed_parts(&mail.header, &mail.body).unwrap();
    let content = &mail.body[parts.content];
    std::fs::write(&content_file, content).unwrap();
    let keys = &network.alfa.keys;
    let chain_file = directory.path().join("chain");
    let pem = std::fs::read_to_string(&keys.certificate_file).unwrap();
    std::fs::write(&chain_file, &pem[pem.rfind("-----BEGIN").unwrap()..]).unwrap();
    let done = Command::new("openssl")
        .args(["cms", "-sign", "-binary", "-outform", "DER", "-md", digest])
        .args([
            std::ffi::OsStr::new("-signer"),
            keys.certificate_file.as_os_str(),
            std::ffi::OsStr::new("-inkey"),
            keys.key_file.as_os_str(),
        ])
        .args([
            std::ffi::OsStr::new("-certfile"),
            chain_file.as_os_str(),
            std::ffi::OsStr::new("-in"),
            content_file.as_os_str(),
        ])
        .args([std::ffi::OsStr::new("-out"), signature_file.as_os_str()])
        .status()
        .unwrap();
    assert!(done.success());
    let mut signature = std::fs::read(&signature_file).unwrap();
    if indefinite {
        // 30 82 LL LL 06 09 ... A0 82 LL LL (content) becomes 30 80 06 09 ... A0 80 (content) 00 00 00 00.
        assert_eq!(
            (&signature[..2], signature[4], signature[15], signature[16]),
            (&[0x30, 0x82][..], 0x06, 0xa0, 0x82)
        );
        signature =
            [&[0x30, 0x80], &signature[4..15], &[0xa0, 0x80], &signature[19..], &[0, 0, 0, 0]].concat();
    }
    let (media_type, micalg) = dialect;
    let mut body = b"This is a S/MIME signed message\r\n\r\n------=_Part_1\r\n".to_vec();
    body.extend_from_slice(content);
    body.extend_from_slice(
        format!(
            "\r\n------=_Part_1\r\nContent-Type: {media_type}; \
            name=smime.p7s\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        )
        .as_bytes(),
    );
    body.extend_from_slice(encodify::base64::MIME.encode(&signature).as_bytes());
    body.extend_from_slice(b"\r\n------=_Part_1--\r\n");
    let mail = with_field(
        mail,
        "Content-Type",
        &format!(
            "multipart/signed; protocol=\"{media_type}\"; micalg={micalg}; \r\n\tboundary=\"----=_Part_1\""
        ),
    );
    Mail { body, ..mail }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dialects_of_the_network_are_understood() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let openpec = ("application/x-pkcs7-signature", "\"sha1\"");
    let jpec = ("application/pkcs7-signature", "sha-256");
    for (digest, indefinite, dialect) in
        [("sha1", false, openpec), ("sha256", true, jpec), ("sha1", true, openpec), ("sha256", false, jpec)]
    {
        let mail = signed_by_openssl(
            &network,
            &envelope(&network, &network.alfa, &[BRUNO], LETTER),
            digest,
            indefinite,
            dialect,
        );
        let queued = mail.clone().give_to(incoming).await.queued();
        assert_eq!(
            queued.mail.header.text("X-Trasporto").as_deref(),
            Some("posta-certificata"),
            "{digest} {indefinite}"
        );
        let changed = replaced(&mail, "Ciao", "Caio").give_to(incoming).await.queued();
        assert_eq!(
            changed.mail.header.text("X-Trasporto").as_deref(),
            Some("errore"),
            "{digest} {indefinite}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_pec_inside_is_content() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let inner = envelope(&network, &network.beta, &["altri@pec.alfa.test"], LETTER);
    let inner = String::from_utf8(inner.to_bytes()).unwrap();
    let outer = format!(
        "From: {ANNA}\nTo: {BRUNO}\nMessage-ID: <2@client.test>\nContent-Type: multipart/mixed; \
        boundary=outside\n\n--outside\nContent-Type: message/rfc822\n\n{inner}\n--outside--\n"
    );
    let mail = envelope(&network, &network.alfa, &[BRUNO], &outer);
    mail.give_to(incoming).await.queued();
    assert_eq!(rows(&network.beta, "SELECT msgid FROM log").await, ["<2@client.test>"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_known_to_be_in_the_queue_is_not_taken_twice() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, "altro@comune.example"], LETTER);
    let first = mail.clone().give_to(incoming).await.queued();
    // Whether the first copy was committed is not known yet: the second is taken too.
    let second = mail.clone().give_to(incoming).await.queued();
    assert_ne!(envid(&first), envid(&second));

    presa_in_carico(&network, &first).await;
    assert!(matches!(mail.clone().give_to(incoming).await, Outcome::Discarded));
    let shuffled =
        Mail { recipients: mail.recipients.iter().rev().map(|r| r.to_uppercase()).collect(), ..mail.clone() };
    assert!(matches!(shuffled.give_to(incoming).await, Outcome::Discarded));
    let for_fewer = Mail { recipients: vec![format!("<{BRUNO}>")], ..mail.clone() };
    assert!(matches!(for_fewer.clone().give_to(incoming).await, Outcome::Discarded));
    // Whoever has the envelope can write around what is signed; it is the same envelope.
    let around = Mail { body: [b"before\r\n", &for_fewer.body[..], b"\r\nafter\r\n"].concat(), ..for_fewer };
    assert!(matches!(with_field(&around, "X-Of-Somebody", "x").give_to(incoming).await, Outcome::Discarded));
    assert_eq!(rows(&network.beta, "SELECT id FROM custody").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_is_taken_for_those_alone_for_whom_it_is_not_in_the_queue() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, "altro@comune.example"], LETTER);
    let for_bruno =
        Mail { recipients: vec![format!("<{BRUNO}>")], ..mail.clone() }.give_to(incoming).await.queued();
    presa_in_carico(&network, &for_bruno).await;

    let queued = mail.give_to(incoming).await.queued();
    let trigger = queued.recipient("presa-in-carico+");
    assert_eq!(queued.mail.recipients, ["<altro@comune.example>".to_owned(), format!("<{trigger}>")]);
    let recipients = "SELECT array_to_string(recipients, ' ') FROM custody ORDER BY taken_at, id";
    assert!(rows(&network.beta, recipients).await.contains(&"altro@comune.example".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_signed_bytes_under_an_identifier_that_is_taken_are_an_anomaly() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let first = mail.clone().give_to(incoming).await.queued();
    let daticert =
        Daticert::parse(rows(&network.beta, "SELECT daticert FROM custody").await[0].as_bytes()).unwrap();
    presa_in_carico(&network, &first).await;

    let signer = network.signer(&network.alfa);
    let issuer =
        Issuer { provider_name: "Alfa PEC S.p.A.", service_domain: "gestore.alfa.test", signer: &signer };
    let submitted = Mail::submitted(ANNA, &[BRUNO], LETTER.replace("Ciao", "Altro").as_bytes());
    let received = Field::written("Received", "from client.test by mail.gestore.alfa.test");
    let notice =
        busta(issuer, &daticert, &submitted.header, Body::from_bytes(submitted.body.clone()), received)
            .unwrap();
    let other =
        Mail { account: None, header: notice.header, body: notice.body.into_bytes().to_vec(), ..submitted };
    anomaly(
        &network,
        &other,
        other.clone().give_to(incoming).await,
        "another message with the same identifier",
    )
    .await;
    assert_eq!(rows(&network.beta, "SELECT id FROM custody").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_too_large_for_its_receipt_is_refused() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let letter = format!("{LETTER}{}", format!("{}\n", "a".repeat(900)).repeat(24_000));
    let refused = envelope(&network, &network.alfa, &[BRUNO], &letter).give_to(incoming).await.rejected();
    assert!(refused.starts_with("552 5.3.4"), "{refused}");
}

/// The copy came round: it is in Beta's queue.
async fn presa_in_carico(network: &Network, queued: &Queued) {
    let delivery = Delivery::start(network, &network.beta).await;
    assert_eq!(delivery.bring(queued, &queued.recipient("presa-in-carico+")).await, DONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_into_the_database_alone_makes_no_envelope_vanish() {
    const ALTRO: &str = "altro@comune.example";
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let database = &network.beta.settings.database;
    let mail = envelope(&network, &network.alfa, &[BRUNO, ALTRO], LETTER);
    let for_altro = Mail { recipients: vec![format!("<{ALTRO}>")], ..mail.clone() };
    let for_bruno = Mail { recipients: vec![format!("<{BRUNO}>")], ..mail }.give_to(incoming).await.queued();
    presa_in_carico(&network, &for_bruno).await;

    // As if it were in custody for Altro too: then it would be dropped with 250 when it comes for him.
    let custody = format!(
        "UPDATE custody SET recipients = recipients || '{ALTRO}'::text; \
         INSERT INTO custody SELECT 'f', 'f', provider, mail_receipt, identificativo, daticert, \
        ARRAY['{ALTRO}'], body_sha256, content_sha256, taken_at, mac FROM custody"
    );
    let added = "INSERT INTO fact (id, provider, identificativo, kind, recipient, source, source_mac, \
        happened_at, time_source, status, message_id, mac) \
                 SELECT 'f', provider, identificativo, kind";
    let rest = "source_mac, happened_at, time_source, status, message_id, mac FROM fact WHERE id <> 'f'";
    let fact = format!("UPDATE fact SET recipient = recipient || ' {ALTRO}'");
    let another = format!("{added}, '{ALTRO}', source, {rest}");
    let another_of_another = format!("{custody}; {added}, '{ALTRO}', 'f', {rest}");
    for (table, statement) in
        [("fact", &fact), ("fact", &another), ("custody", &custody), ("fact", &another_of_another)]
    {
        let given =
            while_altered(database, table, statement, async || for_altro.clone().give_to(incoming).await)
                .await;
        let deferred = given.deferred();
        assert!(deferred.starts_with("451 "), "{statement}: {deferred}");
        run(database, "DELETE FROM custody WHERE id = 'f'").await;
    }
    run(database, &format!("UPDATE custody SET recipients = ARRAY['{BRUNO}']")).await;
    for_altro.give_to(incoming).await.queued().recipient("presa-in-carico+");
}

/// Alfa has sent this envelope to Bruno at Beta.
async fn sent_by_alfa(network: &Network) -> Daticert {
    let header =
        pec_core::header::Header::parse(b"Subject: Prova\r\nMessage-ID: <1@client.test>\r\n").unwrap();
    let daticert = daticert_of(&network.alfa, &[BRUNO], &header);
    let sent = sent("11", "1111", &daticert, &[0; 32]);
    let log = Entry::new(Event::Accesso, &daticert, daticert.data, "4j");
    let database = programs(&network.alfa).await;
    database.insert_sent(database.authentic(sent).unwrap(), log, None).await.unwrap();
    daticert
}

fn delivery_receipt(network: &Network, by: &Host, busta: &Daticert, consegna: &str) -> Mail {
    let signer = network.signer(by);
    let issuer = Issuer {
        provider_name: &by.settings.provider_name,
        service_domain: &by.settings.service_domain,
        signer: &signer,
    };
    let notice: Notice = avvenuta_consegna(
        issuer,
        busta,
        consegna,
        Moment::from_unix(NOW - 30),
        None,
        &format!("pec.1.{}@x", consegna.len()),
    )
    .unwrap();
    arriving(notice, &issuer.address(), &[ANNA])
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_a_correct_receipt_is_delivered_untouched_and_written_down() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    let mail = delivery_receipt(&network, &network.beta, &busta, BRUNO);
    let delivery = Delivery::start(&network, &network.alfa).await;
    network.alfa.mailboxes.answer_recipient(ANNA, Some("552 5.2.2 full"));
    let (due, more) = ((PassedKind::RicevutaDovuta, DONE), (PassedKind::Ricevuta, "552 5.2.2 full"));
    for ((kind, said), how) in
        [(due, "also to a full mailbox"), (more, "again: as other mail, or it could fill the disk")]
    {
        let queued = mail.clone().give_to(incoming).await.queued();
        assert_eq!(
            (&queued.mail.header, &queued.mail.body),
            (&mail.header, &mail.body),
            "delivered as it came"
        );
        assert_eq!((&queued.mail.recipients, queued.added.len(), queued.edits), (&mail.recipients, 0, 1));
        assert_eq!(let_pass(&network.alfa, &queued).await, (kind, vec![ANNA.to_owned()]), "{how}");
        assert_eq!(delivery.bring_all(&queued).await, [said], "{how}");
    }
    let [delivered] = &network.alfa.mailboxes_no_quota.taken()[..] else { panic!("one copy") };
    assert_eq!((&delivered.mail().body, delivered.recipient.as_str()), (&mail.body, ANNA));
    let row = "concat_ws('|', kind, recipient, provider, extract(epoch from happened_at)::int8)";
    let expected = format!("avvenuta-consegna|{BRUNO}|Beta Posta S.r.l.|{}", NOW - 30);
    assert_eq!(rows(&network.alfa, &format!("SELECT {row} FROM ricevuta")).await, [expected]);
    assert_eq!(
        rows(&network.alfa, "SELECT event FROM log ORDER BY seq").await,
        ["accesso", "ricevuta-avvenuta-consegna"],
        "once, however often it comes"
    );
    // The event is the arrival; the time that the receipt certifies is in the table of receipts.
    let row = "concat_ws('|', certified_by, extract(epoch from happened_at)::int8, time_source, envid)";
    assert_eq!(
        rows(&network.alfa, &format!("SELECT {row} FROM log WHERE event LIKE 'ricevuta%'")).await,
        [format!("Beta Posta S.r.l.|{NOW}|clock|1111")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_passes_the_quota_of_the_sender_and_of_the_service_mailbox_alone() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    // Each another receipt about the same envelope, or it would not be new.
    let receipt = |number: u8, to: &[&str]| {
        let signed = delivery_receipt(
            &network,
            &network.beta,
            &Daticert { oggetto: Some(number.to_string()), ..busta.clone() },
            BRUNO,
        );
        Mail { recipients: to.iter().map(|r| format!("<{r}>")).collect(), ..signed }
    };
    let (service, aldo) = ("ricevute@gestore.alfa.test", "aldo@studio.example");
    for (number, to, kind) in [
        (1, &["ANNA@pec.alfa.test"][..], PassedKind::RicevutaDovuta),
        (2, &[ANNA, service], PassedKind::RicevutaDovuta),
        (3, &[aldo], PassedKind::Ricevuta),
        (4, &[ANNA, aldo], PassedKind::Ricevuta),
    ] {
        let queued = receipt(number, to).give_to(incoming).await.queued();
        assert_eq!(let_pass(&network.alfa, &queued).await.0, kind, "{to:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_receipt_about_the_same_is_written_down_too() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    let first = delivery_receipt(&network, &network.beta, &busta, BRUNO);
    let other = delivery_receipt(
        &network,
        &network.beta,
        &Daticert { oggetto: Some("Altro".into()), ..busta },
        BRUNO,
    );
    for mail in [&first, &other, &first, &other, &with_field(&other, "Message-ID", "<of.whom.brings.it@x>")] {
        mail.give_to(incoming).await.queued();
    }
    assert_eq!(
        rows(
            &network.alfa,
            "SELECT oggetto FROM log WHERE event = 'ricevuta-avvenuta-consegna' ORDER BY seq"
        )
        .await,
        ["Prova", "Altro"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_counts_about_those_of_whom_its_provider_may_speak() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    let signer = network.signer(&network.beta);
    let issuer =
        Issuer { provider_name: "Beta Posta S.r.l.", service_domain: "gestore.beta.test", signer: &signer };
    let about = ["altro@pec.beta.test", BRUNO, ANNA, "x@posta.test"].map(str::to_owned);
    let notice = notice_of_presa_in_carico(
        issuer,
        &busta,
        "ricevute@gestore.alfa.test",
        &about,
        Moment::from_unix(NOW),
        "pec.2.x@gestore.beta.test",
    )
    .unwrap();
    arriving(notice, &issuer.address(), &["ricevute@gestore.alfa.test"]).give_to(incoming).await.queued();
    assert_eq!(
        rows(&network.alfa, "SELECT kind || ' ' || recipient FROM ricevuta").await,
        [format!("presa-in-carico {BRUNO}")]
    );
    let row = "SELECT event || ' ' || array_to_string(recipients, ' ') FROM log WHERE event <> 'accesso'";
    assert_eq!(rows(&network.alfa, row).await, [format!("ricevuta-presa-in-carico {BRUNO}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_5_a_presa_in_carico_is_written_down_and_delivered_to_the_service_mailbox() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    let signer = network.signer(&network.beta);
    let issuer =
        Issuer { provider_name: "Beta Posta S.r.l.", service_domain: "gestore.beta.test", signer: &signer };
    let notice = notice_of_presa_in_carico(
        issuer,
        &busta,
        "ricevute@gestore.alfa.test",
        &[BRUNO.to_owned()],
        Moment::from_unix(NOW),
        "pec.2.x@gestore.beta.test",
    )
    .unwrap();
    let queued =
        arriving(notice, &issuer.address(), &["ricevute@gestore.alfa.test"]).give_to(incoming).await.queued();
    assert_eq!(queued.mail.recipients, ["<ricevute@gestore.alfa.test>"]);
    assert_eq!(
        rows(&network.alfa, "SELECT kind || ' ' || recipient FROM ricevuta").await,
        [format!("presa-in-carico {BRUNO}")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_for_a_message_never_sent_is_delivered_and_changes_nothing() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    let mut other = busta.clone();
    other.identificativo = "pec.20260101000000.0@gestore.alfa.test".into();
    for mail in [
        delivery_receipt(&network, &network.beta, &other, BRUNO),
        // A recipient that the message did not have.
        delivery_receipt(&network, &network.beta, &busta, "altro@pec.beta.test"),
        // A recipient that the signer does not serve.
        delivery_receipt(&network, &network.alfa, &busta, BRUNO),
    ] {
        mail.give_to(incoming).await.queued();
    }
    assert!(rows(&network.alfa, "SELECT kind FROM ricevuta").await.is_empty());
    assert_eq!(
        rows(&network.alfa, "SELECT event FROM log WHERE event <> 'accesso'").await,
        ["ricevuta-estranea-avvenuta-consegna"; 3]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn port_25_knows_no_internal_addresses_and_relays_nothing() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    for recipient in
        ["<presa-in-carico+22ff@notices.pec.internal>", "<accettazione+22ff@NOTICES.pec.INTERNAL>"]
    {
        let refused =
            Mail { recipients: vec![recipient.into()], ..mail.clone() }.give_to(incoming).await.rejected();
        assert!(refused.starts_with("550 5.1.1"), "{refused}");
    }
    let refused = Mail { recipients: vec![format!("<{BRUNO}>"), "<carla@posta.test>".into()], ..mail }
        .give_to(incoming)
        .await
        .rejected();
    assert!(refused.contains("no recipient of this provider"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_point_knows_all_that_was_let_in() {
    let network = Network::new().await;
    let (incoming, delivery) = (beta(&network).await, Delivery::start(&network, &network.beta).await);
    let ordinary = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) };
    let wrapped = ordinary.clone().give_to(incoming).await.queued().mail;
    for (what, mail) in [
        ("an envelope", envelope(&network, &network.alfa, &[BRUNO], LETTER)),
        ("ordinary mail", ordinary),
        ("a busta di anomalia of ours", wrapped),
        ("a receipt", delivery_receipt(&network, &network.alfa, &sent_by_alfa(&network).await, BRUNO)),
    ] {
        let queued = Mail { recipients: vec![format!("<{BRUNO}>")], ..mail }.give_to(incoming).await.queued();
        assert_eq!(delivery.bring_all(&queued).await, vec![DONE; queued.mail.recipients.len()], "{what}");
        let delivered = network.beta.mailboxes.taken();
        let [copy] = &delivered[..] else { panic!("{what}: {} copies", delivered.len()) };
        assert_eq!(
            (&copy.mail().body, copy.mail().sender, copy.recipient.as_str()),
            (&queued.mail.body, queued.mail.sender.clone(), BRUNO),
            "{what}"
        );
        // For somebody else it is not.
        let refused = delivery.bring(&queued, "altro@pec.beta.test").await;
        assert!(refused.starts_with("451 "), "{what}: {refused}");
    }
    assert!(network.beta.mailboxes.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_takes_no_rows_nothing_is_taken() {
    let network = Network::new().await;
    let busta = sent_by_alfa(&network).await;
    for host in [&network.alfa, &network.beta] {
        let name = host.settings.database.rsplit('=').next().unwrap();
        run(
            &host.settings.database,
            &format!("ALTER DATABASE {name} SET default_transaction_read_only = on"),
        )
        .await;
    }
    let at_alfa = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let at_beta = beta(&network).await;
    for (what, mail, incoming) in [
        ("an envelope", envelope(&network, &network.alfa, &[BRUNO], LETTER), at_beta),
        ("a receipt", delivery_receipt(&network, &network.beta, &busta, BRUNO), at_alfa),
        (
            "ordinary mail",
            Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) },
            at_beta,
        ),
    ] {
        let deferred = mail.give_to(incoming).await.deferred();
        assert!(deferred.starts_with("451 4.3.0"), "{what}: {deferred}");
    }
}
