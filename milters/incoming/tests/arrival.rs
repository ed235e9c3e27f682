//! The Incoming Point, spoken to in the milter protocol as Postfix does, with a real PostgreSQL behind it.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::Command;

use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, TipoRicevuta};
use pec_core::header::Field;
use pec_core::message::Body;
use pec_core::notices::avvenuta_consegna::avvenuta_consegna;
use pec_core::notices::busta::busta;
use pec_core::notices::presa_in_carico::presa_in_carico;
use pec_core::notices::{Issuer, Notice};
use pec_core::parameters::OrdinaryMail;
use pec_incoming::{Door, IncomingPoint};
use pec_state::database::Database;
use pec_state::log::{Entry, Event};
use pec_state::rows::{Fact, FactKind, Made, Sent, TimeSource};
use pec_test_support::doveadm::Doveadm;
use pec_test_support::judges::openssl_verify;
use pec_test_support::network::{Host, LETTER, Network, arriving, column, daticert_of, envelope, run, sent};
use pec_test_support::pki::{NOW, only_for};
use pec_test_support::postfix::{Mail, Outcome, Queued, start};

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
    (0..60).fold(mail.clone(), |mail, _| twice(&mail, "Received", "from a.test by b.test; Thu, 19 Nov 2026 00:00:00 +0100"))
}

async fn rows(host: &Host, sql: &str) -> Vec<String> {
    column(&host.settings.database, sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_1_a_correct_envelope_is_taken_in_charge() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, "nessuno@pec.beta.test"], LETTER);
    let queued = mail.clone().give_to(incoming).await.queued();

    let mark = rows(&network.beta, "SELECT mark FROM custody").await.remove(0);
    assert!(mark.len() == 32, "{mark}");
    let marked = with_field(&mail, "X-Pec-Custody", &mark);
    assert_eq!((&queued.mail.header, &queued.mail.body), (&marked.header, &marked.body), "delivered as it came, and marked");
    assert_eq!(queued.mail.sender, mail.sender);
    let trigger = queued.recipient("presa-in-carico+");
    assert_eq!(queued.mail.recipients, [format!("<{BRUNO}>"), "<nessuno@pec.beta.test>".to_owned(), format!("<{trigger}>")]);
    assert_eq!(queued.added, [(format!("<{trigger}>"), Some("NOTIFY=FAILURE".to_owned()))]);

    let parameters = queued.sender_parameters.unwrap();
    let envid = parameters.strip_prefix("RET=HDRS ENVID=").unwrap();
    assert!(envid.len() == 32 && !trigger.contains(envid), "the report's key is not the trigger's");
    let custody = "concat_ws('|', envid, provider, mail_receipt, array_to_string(recipients, ','), encode(body_sha256, 'hex'), extract(epoch from taken_at)::int8)";
    let sha256 = pec_core::identifier::hex(&openssl::sha::sha256(&mail.body));
    let expected = format!("{envid}|Alfa PEC S.p.A.|ricevute@gestore.alfa.test|{BRUNO},nessuno@pec.beta.test|{sha256}|{NOW}");
    assert_eq!(rows(&network.beta, &format!("SELECT {custody} FROM custody")).await, [expected]);
    assert_eq!(rows(&network.beta, "SELECT event FROM log").await, ["ricezione"]);

    let id = trigger.split(['+', '@']).nth(1).unwrap();
    let kept = std::fs::read(network.beta.settings.store.join(&id[..2]).join(format!("{id}.eml"))).unwrap();
    assert!(kept.ends_with(b"\r\n\r\nCiao\r\n") && kept.starts_with(b"Received: "), "{}", String::from_utf8_lossy(&kept));
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
    Mail { tls: false, account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) }.give_to(strict).await.queued();
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
    let issuer = Issuer { provider_name: "Alfa PEC S.p.A.", service_domain: "gestore.alfa.test", signer: &signer };
    let submitted = Mail::submitted(ANNA, &[BRUNO], LETTER.as_bytes());
    for (signed, header, kept) in
        [(None, "breve", Some("breve")), (None, "banana", None), (Some(TipoRicevuta::Completa), "sintetica", Some("completa"))]
    {
        let daticert = Daticert { ricevuta: signed, ..daticert_of(&network.alfa, &[BRUNO], &submitted.header) };
        let notice = busta(issuer, &daticert, &submitted.header, Body::from_bytes(submitted.body.clone()), Field::written("Received", "x")).unwrap();
        with_field(&arriving(notice, ANNA, &[BRUNO]), "X-TipoRicevuta", header).give_to(incoming).await.queued();
        let taken =
            rows(&network.beta, &format!("SELECT daticert FROM custody WHERE identificativo = '{}'", daticert.identificativo)).await.remove(0);
        assert_eq!(Daticert::parse(taken.as_bytes()).unwrap().ricevuta.map(|r| r.as_str()), kept, "{signed:?} {header}");
    }
}

/// The message lies entire and untouched in an anomaly envelope of Beta's, whose text says why.
#[track_caller]
fn anomaly(network: &Network, mail: &Mail, outcome: Outcome, says: &str) -> Queued {
    let queued = outcome.queued();
    let header = &queued.mail.header;
    let text = |name| header.text(name).unwrap_or_default();
    assert_eq!((text("X-Trasporto").as_str(), header.first("X-Ricevuta")), ("errore", None));
    assert!(text("Subject").starts_with("ANOMALIA MESSAGGIO:") && text("From").starts_with("\"Per conto di: "), "{header:?}");
    assert!(text("From").ends_with("<posta-certificata@gestore.beta.test>"));
    assert_eq!(queued.mail.sender, mail.sender, "the reverse path stays");
    assert!(queued.added.iter().all(|(_, parameters)| parameters.as_deref() == Some("NOTIFY=FAILURE")), "{:?}", queued.added);
    for name in ["To", "Cc", "Message-ID", "Received"] {
        assert!(header.all(name).eq(mail.header.all(name)), "{name} is inherited as it is");
    }

    openssl_verify(&queued.mail.to_bytes(), &network.pki.ca_file()).unwrap();
    let parts = pec_core::envelope::signed_parts(header, &queued.mail.body).unwrap();
    let entity = pec_core::mime::part(&queued.mail.body, parts.content).unwrap();
    let boundary = entity.header.content_type().unwrap().attribute("boundary").unwrap().to_owned();
    let inside = &queued.mail.body[entity.body];
    let parts = pec_core::mime::split(inside, &boundary, 10).unwrap();
    let [words, original] = &parts[..] else { panic!("{} parts: RFC 6109 s. 3.2.2 allows the text and the message", parts.len()) };
    let original = pec_core::mime::part(inside, original.clone()).unwrap();
    assert_eq!(original.header.content_type().unwrap().essence, "message/rfc822");
    let arrived = mail.to_bytes();
    assert_eq!(String::from_utf8_lossy(&inside[original.body]), String::from_utf8_lossy(&arrived), "every byte that arrived");
    let words = String::from_utf8_lossy(&inside[words.clone()]).replace("=\r\n", "").replace("=3D", "=");
    assert!(words.contains("Anomalia nel messaggio") && words.contains(says), "{words}");
    queued
}

/// Beta's pec-notices, where its triggers come round.
async fn beta_notices(network: &Network) -> SocketAddr {
    let notices = pec_notices::NoticesPoint::new(network.world(&network.beta).await).unwrap();
    start(notices, pec_notices::Door::Triggers).await
}

/// Beta, whose mailboxes a test can set.
async fn beta_with_mailboxes(network: &mut Network) -> (SocketAddr, Doveadm) {
    let doveadm = Doveadm::start().await;
    network.beta.settings.doveadm_url = format!("http://{}/doveadm/v1", doveadm.address);
    (beta(network).await, doveadm)
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_2_ordinary_mail_comes_in_an_anomaly_envelope() {
    let mut network = Network::new().await;
    let (incoming, doveadm) = beta_with_mailboxes(&mut network).await;
    let mail = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) };
    let queued = anomaly(&network, &mail, mail.clone().give_to(incoming).await, "Firma non presente o non autentica");
    assert_eq!(queued.mail.header.text("Subject").unwrap(), "ANOMALIA MESSAGGIO: Prova");
    assert_eq!(queued.mail.header.text("From").unwrap(), "\"Per conto di: anna@pec.alfa.test\" <posta-certificata@gestore.beta.test>");
    assert_eq!(queued.mail.header.text("Reply-To").unwrap(), ANNA);
    assert_eq!(queued.mail.recipients, [format!("<{BRUNO}>")]);
    assert_eq!(rows(&network.beta, "SELECT event || ' ' || msgid FROM log").await, ["anomalia <1@client.test>"]);
    assert!(rows(&network.beta, "SELECT id FROM custody").await.is_empty(), "nothing is certified");

    let forged = Mail { sender: "<altri@comune.example>".into(), ..mail.clone() }.give_to(incoming).await.rejected();
    assert!(forged.starts_with("550 5.7.1") && forged.contains("submission service"), "{forged}");

    // What says that it is an envelope is not one for that.
    let mail = with_field(&mail, "X-Trasporto", "posta-certificata");
    anomaly(&network, &mail, mail.clone().give_to(incoming).await, "Firma non presente");
    // Anybody can write that, too.
    let mail = with_field(&mail, "X-Trasporto", "errore");
    anomaly(&network, &mail, mail.clone().give_to(incoming).await, "Firma non presente");
    // A report of somebody's mail system, of the null path, in 8 bits, with nothing that a header needs.
    let mail =
        Mail { account: None, sender: "<>".into(), ..Mail::submitted("", &[BRUNO], "Subject: x\nX-Pec-Custody: 1\n\ncitt\u{e0}\n".as_bytes()) };
    let queued = anomaly(&network, &mail, mail.clone().give_to(incoming).await, "MAILER-DAEMON");
    assert_eq!((queued.mail.header.first("Reply-To"), queued.mail.header.first("X-Pec-Custody")), (None, None));

    doveadm.answers(200, r#"[["error",{"type":"exitCode","exitCode":67},"1"]]"#);
    let refused = mail.clone().give_to(incoming).await.rejected();
    assert!(refused.starts_with("550 5.1.1") && refused.contains(BRUNO), "no bounce to whoever the sender says it is: {refused}");
    doveadm.answers(500, "out of order");
    assert!(mail.give_to(incoming).await.deferred().starts_with("451"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dm_2_11_2005_art_14_ordinary_mail_may_be_refused_and_what_a_provider_signed_never() {
    let mut network = Network::new().await;
    network.beta.settings.refuse_ordinary_mail = OrdinaryMail::parse("altri.test, Bruno@pec.beta.test");
    let (incoming, _doveadm) = beta_with_mailboxes(&mut network).await;
    let ordinary = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) };
    let refused = ordinary.clone().give_to(incoming).await.rejected();
    assert!(refused.starts_with("550 5.7.1") && refused.contains("certified mail only"), "{refused}");
    Mail { recipients: vec!["<altro@pec.beta.test>".into()], ..ordinary }.give_to(incoming).await.queued();
    let damaged = with_field(&envelope(&network, &network.alfa, &[BRUNO], LETTER), "From", ANNA);
    anomaly(&network, &damaged, damaged.clone().give_to(incoming).await, "il campo From");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_5_nobody_writes_to_the_service_mailboxes() {
    let mut network = Network::new().await;
    let (incoming, _doveadm) = beta_with_mailboxes(&mut network).await;
    let mail = Mail { account: None, ..Mail::submitted("x@posta.test", &["posta-certificata@gestore.beta.test"], LETTER.as_bytes()) };
    let refused = mail.clone().give_to(incoming).await.rejected();
    assert!(refused.starts_with("550 5.7.1") && refused.contains("nobody reads"), "{refused}");
    let bounce = Mail { sender: "<>".into(), ..mail };
    anomaly(&network, &bounce, bounce.clone().give_to(incoming).await, "Firma non presente");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_5_an_envelope_for_a_service_mailbox_has_its_mancata_consegna_and_reaches_the_others() {
    let network = Network::new().await;
    let (incoming, notices) = (beta(&network).await, beta_notices(&network).await);
    for others in [&[BRUNO][..], &[]] {
        let to: Vec<&str> = others.iter().copied().chain(["Posta-Certificata@gestore.beta.test"]).collect();
        let queued = envelope(&network, &network.alfa, &to, LETTER).give_to(incoming).await.queued();
        let trigger = queued.recipient("errore-consegna+");
        let stay: Vec<_> = queued.mail.recipients.iter().filter(|r| !r.ends_with(".pec.internal>")).map(|r| r.trim_matches(['<', '>'])).collect();
        assert_eq!((stay, queued.added.len()), (others.to_vec(), 2), "and the presa in carico");
        queued.recipient("presa-in-carico+");

        let notice = queued.copy_for(&trigger).give_to(notices).await.queued().mail;
        openssl_verify(&notice.to_bytes(), &network.pki.ca_file()).unwrap();
        assert_eq!((notice.header.text("X-Ricevuta").as_deref(), &notice.recipients[..]), (Some("errore-consegna"), &[format!("<{ANNA}>")][..]));
    }
    let said = "5.2.1 - Beta Posta S.r.l. - casella disattivata o che non accetta messaggi";
    assert_eq!(rows(&network.beta, "SELECT error FROM log WHERE event = 'errore-consegna'").await, [said; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_2_our_own_anomaly_envelope_is_not_wrapped_again() {
    let mut network = Network::new().await;
    let (incoming, _doveadm) = beta_with_mailboxes(&mut network).await;
    let ordinary = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], LETTER.as_bytes()) };
    let wrapped = ordinary.give_to(incoming).await.queued().mail;
    let again = wrapped.clone().give_to(incoming).await.queued();
    assert_eq!((&again.mail.header, &again.mail.body), (&wrapped.header, &wrapped.body));
    let changed = replaced(&wrapped, "Ciao", "Caio");
    anomaly(&network, &changed, changed.clone().give_to(incoming).await, "does not verify");

    // What we signed is no anomaly envelope because its header, which anybody writes, says so.
    let own = with_field(&envelope(&network, &network.beta, &[BRUNO], LETTER), "X-Trasporto", "errore");
    anomaly(&network, &own, own.clone().give_to(incoming).await, "neither an envelope nor a receipt");
    assert_eq!(rows(&network.beta, "SELECT count(*)::text FROM log WHERE event = 'anomalia'").await, ["4"], "each is written down");

    // That of another provider is ordinary mail, as it was there.
    network.alfa.settings.doveadm_url.clone_from(&network.beta.settings.doveadm_url);
    let at_alfa = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let to_anna = Mail { recipients: vec![format!("<{ANNA}>")], ..wrapped };
    let outer = to_anna.clone().give_to(at_alfa).await.queued();
    assert_eq!(outer.mail.header.text("Subject").unwrap(), "ANOMALIA MESSAGGIO: ANOMALIA MESSAGGIO: Prova");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_what_is_wrong_with_an_envelope_is_found_and_it_goes_on_as_an_anomaly() {
    let mut network = Network::new().await;
    let (incoming, _doveadm) = beta_with_mailboxes(&mut network).await;
    let good = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let unsigned = String::from_utf8(good.body.clone()).unwrap();
    let certificate_line = unsigned.lines().rev().find(|l| l.starts_with("MII")).unwrap().to_owned();
    for (what, mail, says) in [
        ("a letter of the original", replaced(&good, "Ciao", "Caio"), "does not verify"),
        ("a blank at a line's end", replaced(&good, "Ciao\r\n", "Ciao \r\n"), "does not verify"),
        ("the reverse path is null", Mail { sender: "<>".into(), ..good.clone() }, "it comes from &lt;&gt;"),
        ("the reverse path is another", Mail { sender: "<altra@pec.alfa.test>".into(), ..good.clone() }, "it comes from altra@pec.alfa.test"),
        ("From is not the signer", with_field(&good, "From", "posta-certificata@gestore.beta.test"), "is not the address in the certificate"),
        ("the header says receipt", with_field(&with_field(&good, "X-Trasporto", ""), "X-Ricevuta", "accettazione"), "and daticert.xml says"),
        ("the header says nothing", with_field(&good, "X-Trasporto", ""), "neither an envelope nor a receipt"),
        ("the mark is not theirs to write", with_field(&good, "X-Pec-Custody", "00"), "written by the provider of the recipient"),
        ("somebody to whom it was not sent", Mail { recipients: vec!["<altro@comune.example>".into()], ..good.clone() }, "was not sent to altro@"),
        ("another Message-ID", with_field(&good, "Message-ID", "<altro@gestore.alfa.test>"), "is not the identifier in daticert.xml"),
        ("a reference to another message", with_field(&good, "X-Riferimento-Message-ID", "<2@client.test>"), "field says &lt;2@client.test&gt;"),
        (
            "in the name of somebody else",
            with_field(&good, "From", "\"Per conto di: altra@pec.alfa.test\" <posta-certificata@gestore.alfa.test>"),
            "does not name the sender in daticert.xml",
        ),
        ("two content types", twice(&good, "Content-Type", "text/plain"), "Content-Type: field stands more than once"),
        ("no second part", replaced(&good, "application/x-pkcs7-signature", "text/plain"), "no S/MIME signature"),
        ("a broken signature", replaced(&good, &certificate_line, &certificate_line.to_lowercase()), "ignature"),
        ("a lost end", Mail { body: good.body[..good.body.len() / 2].to_vec(), ..good.clone() }, "never closed"),
    ] {
        let outcome = mail.clone().give_to(incoming).await;
        println!("{what}");
        anomaly(&network, &mail, outcome, says);
    }
    assert!(rows(&network.beta, "SELECT id FROM custody").await.is_empty());
    let refused = circling(&good).give_to(incoming).await.rejected();
    assert!(refused.contains("too many hops"), "{refused}");
    good.give_to(incoming).await.queued();
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_the_signer_is_a_provider_of_the_directory() {
    let mut network = Network::new().await;
    network.write_directory(&[&network.beta]);
    let (incoming, _doveadm) = beta_with_mailboxes(&mut network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    anomaly(&network, &mail, mail.clone().give_to(incoming).await, "not in the directory of providers");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_7_a_provider_speaks_for_the_domains_that_it_serves() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    // Beta signs correctly, in its own name, an envelope of a user of Alfa's.
    let mail = envelope(&network, &network.beta, &[BRUNO], LETTER);
    anomaly(&network, &mail, mail.clone().give_to(incoming).await, "Beta Posta S.r.l. does not serve the sender's domain, pec.alfa.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_a_certificate_of_an_unknown_ca_is_not_believed() {
    let mut network = Network::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let pki = pec_test_support::pki::Pki::new(elsewhere.path());
    network.alfa.keys = pki.provider("Alfa PEC S.p.A.", "posta-certificata@gestore.alfa.test");
    network.write_directory(&[&network.alfa, &network.beta]);
    let (incoming, _doveadm) = beta_with_mailboxes(&mut network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    anomaly(&network, &mail, mail.clone().give_to(incoming).await, "does not verify");
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
            anomaly(&network, &mail, outcome, "permitted subtree violation");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_a_certificate_is_believed_in_its_time_only() {
    let mut network = Network::new().await;
    // Alfa's certificate ends; Beta's own does not.
    network.alfa.keys = network.pki.provider_valid("Alfa PEC S.p.A.", "posta-certificata@gestore.alfa.test", NOW - 86_400, NOW + 86_400);
    network.write_directory(&[&network.alfa, &network.beta]);
    let (incoming, _doveadm) = beta_with_mailboxes(&mut network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    network.clock.set(Moment::from_unix(NOW + 2 * 86_400));
    let queued = mail.clone().give_to(incoming).await.queued();
    assert_eq!(queued.mail.header.text("X-Trasporto").as_deref(), Some("errore"));
    network.clock.set(Moment::from_unix(NOW));
    let queued = mail.give_to(incoming).await.queued();
    assert_eq!(queued.mail.header.text("X-Trasporto").as_deref(), Some("posta-certificata"));
}

/// The same message signed again by openssl, in the form of another engine.
fn signed_by_openssl(network: &Network, mail: &Mail, digest: &str, indefinite: bool, dialect: (&str, &str)) -> Mail {
    let directory = tempfile::tempdir().unwrap();
    let (content_file, signature_file) = (directory.path().join("content"), directory.path().join("signature"));
    let parts = pec_core::envelope::signed_parts(&mail.header, &mail.body).unwrap();
    let content = &mail.body[parts.content];
    std::fs::write(&content_file, content).unwrap();
    let keys = &network.alfa.keys;
    let chain_file = directory.path().join("chain");
    let pem = std::fs::read_to_string(&keys.certificate_file).unwrap();
    std::fs::write(&chain_file, &pem[pem.rfind("-----BEGIN").unwrap()..]).unwrap();
    let done = Command::new("openssl")
        .args(["cms", "-sign", "-binary", "-outform", "DER", "-md", digest])
        .args([std::ffi::OsStr::new("-signer"), keys.certificate_file.as_os_str(), std::ffi::OsStr::new("-inkey"), keys.key_file.as_os_str()])
        .args([std::ffi::OsStr::new("-certfile"), chain_file.as_os_str(), std::ffi::OsStr::new("-in"), content_file.as_os_str()])
        .args([std::ffi::OsStr::new("-out"), signature_file.as_os_str()])
        .status()
        .unwrap();
    assert!(done.success());
    let mut signature = std::fs::read(&signature_file).unwrap();
    if indefinite {
        // 30 82 LL LL 06 09 ... A0 82 LL LL (content) becomes 30 80 06 09 ... A0 80 (content) 00 00 00 00.
        assert_eq!((&signature[..2], signature[4], signature[15], signature[16]), (&[0x30, 0x82][..], 0x06, 0xa0, 0x82));
        signature = [&[0x30, 0x80], &signature[4..15], &[0xa0, 0x80], &signature[19..], &[0, 0, 0, 0]].concat();
    }
    let (media_type, micalg) = dialect;
    let mut body = b"This is a S/MIME signed message\r\n\r\n------=_Part_1\r\n".to_vec();
    body.extend_from_slice(content);
    body.extend_from_slice(
        format!("\r\n------=_Part_1\r\nContent-Type: {media_type}; name=smime.p7s\r\nContent-Transfer-Encoding: base64\r\n\r\n").as_bytes(),
    );
    body.extend_from_slice(encodify::base64::MIME.encode(&signature).as_bytes());
    body.extend_from_slice(b"\r\n------=_Part_1--\r\n");
    let mail =
        with_field(mail, "Content-Type", &format!("multipart/signed; protocol=\"{media_type}\"; micalg={micalg}; \r\n\tboundary=\"----=_Part_1\""));
    Mail { body, ..mail }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dialects_of_the_network_are_understood() {
    let mut network = Network::new().await;
    let (incoming, _doveadm) = beta_with_mailboxes(&mut network).await;
    let openpec = ("application/x-pkcs7-signature", "\"sha1\"");
    let jpec = ("application/pkcs7-signature", "sha-256");
    for (digest, indefinite, dialect) in [("sha1", false, openpec), ("sha256", true, jpec), ("sha1", true, openpec), ("sha256", false, jpec)] {
        let mail = signed_by_openssl(&network, &envelope(&network, &network.alfa, &[BRUNO], LETTER), digest, indefinite, dialect);
        let queued = mail.clone().give_to(incoming).await.queued();
        assert_eq!(queued.mail.header.text("X-Trasporto").as_deref(), Some("posta-certificata"), "{digest} {indefinite}");
        let changed = replaced(&mail, "Ciao", "Caio").give_to(incoming).await.queued();
        assert_eq!(changed.mail.header.text("X-Trasporto").as_deref(), Some("errore"), "{digest} {indefinite}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_pec_inside_is_content() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let inner = envelope(&network, &network.beta, &["altri@pec.alfa.test"], LETTER);
    let inner = String::from_utf8(inner.to_bytes()).unwrap();
    let outer = format!(
        "From: {ANNA}\nTo: {BRUNO}\nMessage-ID: <2@client.test>\nContent-Type: multipart/mixed; boundary=outside\n\n--outside\nContent-Type: message/rfc822\n\n{inner}\n--outside--\n"
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
    mail.clone().give_to(incoming).await.queued();
    // Whether the first copy was committed is not known yet: the second is taken too.
    mail.clone().give_to(incoming).await.queued();

    let [source, _] = &rows(&network.beta, "SELECT id FROM custody").await[..] else { panic!("two copies") };
    let daticert = Daticert::parse(rows(&network.beta, "SELECT daticert FROM custody LIMIT 1").await[0].as_bytes()).unwrap();
    presa_in_carico_is_a_fact(&network.beta, &daticert, source, "altro@comune.example bruno@pec.beta.test").await;
    assert!(matches!(mail.clone().give_to(incoming).await, Outcome::Discarded));
    let shuffled = Mail { recipients: mail.recipients.iter().rev().map(|r| r.to_uppercase()).collect(), ..mail.clone() };
    assert!(matches!(shuffled.give_to(incoming).await, Outcome::Discarded));
    let for_fewer = Mail { recipients: vec![format!("<{BRUNO}>")], ..mail.clone() };
    assert!(matches!(for_fewer.clone().give_to(incoming).await, Outcome::Discarded));
    // Whoever has the envelope can write around what is signed; it is the same envelope.
    let around = Mail { body: [b"before\r\n", &for_fewer.body[..], b"\r\nafter\r\n"].concat(), ..for_fewer };
    assert!(matches!(with_field(&around, "X-Of-Somebody", "x").give_to(incoming).await, Outcome::Discarded));
    assert_eq!(rows(&network.beta, "SELECT id FROM custody").await.len(), 2);
    assert_eq!(rows(&network.beta, "SELECT DISTINCT mark FROM custody").await.len(), 1, "the same message, however often it comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_is_taken_for_those_alone_for_whom_it_is_not_in_the_queue() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, "altro@comune.example"], LETTER);
    Mail { recipients: vec![format!("<{BRUNO}>")], ..mail.clone() }.give_to(incoming).await.queued();
    let [source] = &rows(&network.beta, "SELECT id FROM custody").await[..] else { panic!("one copy") };
    let daticert = Daticert::parse(rows(&network.beta, "SELECT daticert FROM custody").await[0].as_bytes()).unwrap();
    presa_in_carico_is_a_fact(&network.beta, &daticert, source, BRUNO).await;

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
    mail.clone().give_to(incoming).await.queued();
    let [source] = &rows(&network.beta, "SELECT id FROM custody").await[..] else { panic!("one copy") };
    let daticert = Daticert::parse(rows(&network.beta, "SELECT daticert FROM custody").await[0].as_bytes()).unwrap();
    presa_in_carico_is_a_fact(&network.beta, &daticert, source, BRUNO).await;

    let signer = network.signer(&network.alfa);
    let issuer = Issuer { provider_name: "Alfa PEC S.p.A.", service_domain: "gestore.alfa.test", signer: &signer };
    let submitted = Mail::submitted(ANNA, &[BRUNO], LETTER.replace("Ciao", "Altro").as_bytes());
    let received = Field::written("Received", "from client.test by mail.gestore.alfa.test");
    let notice = busta(issuer, &daticert, &submitted.header, Body::from_bytes(submitted.body.clone()), received).unwrap();
    let other = Mail { account: None, header: notice.header, body: notice.body.into_bytes().to_vec(), ..submitted };
    anomaly(&network, &other, other.clone().give_to(incoming).await, "another message with the same identifier");
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

async fn presa_in_carico_is_a_fact(host: &Host, daticert: &Daticert, source: &str, recipients: &str) {
    let at = Moment::from_unix(NOW);
    let fact = Fact {
        id: "00".into(),
        provider: "Alfa PEC S.p.A.".into(),
        identificativo: daticert.identificativo.clone(),
        kind: FactKind::PresaInCarico,
        recipient: recipients.to_owned(),
        source: source.to_owned(),
        happened_at: at,
        time_source: TimeSource::Clock,
        status: String::new(),
        message_id: "1@x".into(),
    };
    let log = Entry::new(Event::Notice("presa-in-carico"), daticert, at, "4j");
    let database = Database::connect(&host.settings, "test").await.unwrap();
    assert!(database.insert_fact(&fact, &Made { sha256: vec![0], with: "test".into() }, &log).await.unwrap());
}

/// Alfa has sent this envelope to Bruno at Beta.
async fn sent_by_alfa(network: &Network) -> Daticert {
    let header = pec_core::header::Header::parse(b"Subject: Prova\r\nMessage-ID: <1@client.test>\r\n").unwrap();
    let daticert = daticert_of(&network.alfa, &[BRUNO], &header);
    let sent = sent("11", "1111", &daticert, &[0; 32]);
    let log = Entry::new(Event::Accesso, &daticert, daticert.data, "4j");
    Database::connect(&network.alfa.settings, "test").await.unwrap().insert_sent(&sent, &log).await.unwrap();
    daticert
}

fn delivery_receipt(network: &Network, by: &Host, busta: &Daticert, consegna: &str) -> Mail {
    let signer = network.signer(by);
    let issuer = Issuer { provider_name: &by.settings.provider_name, service_domain: &by.settings.service_domain, signer: &signer };
    let notice: Notice =
        avvenuta_consegna(issuer, busta, consegna, Moment::from_unix(NOW - 30), None, &format!("pec.1.{}@x", consegna.len())).unwrap();
    arriving(notice, &issuer.address(), &[ANNA])
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_a_correct_receipt_is_delivered_untouched_and_written_down() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    let mail = delivery_receipt(&network, &network.beta, &busta, BRUNO);
    let marked = with_field(&mail, "X-Pec-Notice", "avvenuta-consegna");
    for (delivered, how) in [(&marked, "delivered as it came, also to a full mailbox"), (&mail, "again: as other mail, or it could fill the disk")] {
        let queued = mail.clone().give_to(incoming).await.queued();
        assert_eq!((&queued.mail.header, &queued.mail.body), (&delivered.header, &delivered.body), "{how}");
        assert_eq!(queued.added, [(format!("<{ANNA}>"), Some("NOTIFY=FAILURE".to_owned()))], "no delivery report about a receipt");
        assert_eq!(queued.mail.recipients, [format!("<{ANNA}>")]);
    }
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
async fn another_receipt_about_the_same_is_written_down_too() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    let first = delivery_receipt(&network, &network.beta, &busta, BRUNO);
    let other = delivery_receipt(&network, &network.beta, &Daticert { oggetto: Some("Altro".into()), ..busta }, BRUNO);
    for mail in [&first, &other, &first, &other, &with_field(&other, "Message-ID", "<of.whom.brings.it@x>")] {
        mail.give_to(incoming).await.queued();
    }
    assert_eq!(rows(&network.alfa, "SELECT oggetto FROM log WHERE event = 'ricevuta-avvenuta-consegna' ORDER BY seq").await, ["Prova", "Altro"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_counts_about_those_of_whom_its_provider_may_speak() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    let signer = network.signer(&network.beta);
    let issuer = Issuer { provider_name: "Beta Posta S.r.l.", service_domain: "gestore.beta.test", signer: &signer };
    let about = ["altro@pec.beta.test", BRUNO, ANNA, "x@posta.test"].map(str::to_owned);
    let notice = presa_in_carico(issuer, &busta, "ricevute@gestore.alfa.test", &about, Moment::from_unix(NOW), "pec.2.x@gestore.beta.test").unwrap();
    arriving(notice, &issuer.address(), &["ricevute@gestore.alfa.test"]).give_to(incoming).await.queued();
    assert_eq!(rows(&network.alfa, "SELECT kind || ' ' || recipient FROM ricevuta").await, [format!("presa-in-carico {BRUNO}")]);
    let row = "SELECT event || ' ' || array_to_string(recipients, ' ') FROM log WHERE event <> 'accesso'";
    assert_eq!(rows(&network.alfa, row).await, [format!("ricevuta-presa-in-carico {BRUNO}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_5_a_presa_in_carico_is_written_down_and_delivered_to_the_service_mailbox() {
    let network = Network::new().await;
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Port25).await;
    let busta = sent_by_alfa(&network).await;
    let signer = network.signer(&network.beta);
    let issuer = Issuer { provider_name: "Beta Posta S.r.l.", service_domain: "gestore.beta.test", signer: &signer };
    let notice =
        presa_in_carico(issuer, &busta, "ricevute@gestore.alfa.test", &[BRUNO.to_owned()], Moment::from_unix(NOW), "pec.2.x@gestore.beta.test")
            .unwrap();
    let queued = arriving(notice, &issuer.address(), &["ricevute@gestore.alfa.test"]).give_to(incoming).await.queued();
    assert_eq!(queued.mail.recipients, ["<ricevute@gestore.alfa.test>"]);
    assert_eq!(rows(&network.alfa, "SELECT kind || ' ' || recipient FROM ricevuta").await, [format!("presa-in-carico {BRUNO}")]);
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
    assert_eq!(rows(&network.alfa, "SELECT event FROM log WHERE event <> 'accesso'").await, ["ricevuta-estranea-avvenuta-consegna"; 3]);
}

/// Alfa's own envelope for Aldo, who is Alfa's too: the message that comes the internal way, and where.
async fn internal(network: &Network) -> (Mail, SocketAddr) {
    let mail = envelope(network, &network.alfa, &["aldo@studio.example"], LETTER);
    let sent = Sent {
        id: "22ff".into(),
        envid: "2222".into(),
        provider: "Alfa PEC S.p.A.".into(),
        identificativo: mail.header.text("Message-ID").unwrap().trim_matches(['<', '>']).to_owned(),
        daticert: daticert_of(&network.alfa, &["aldo@studio.example"], &mail.header).to_xml(),
        body_sha256: openssl::sha::sha256(&mail.body).to_vec(),
        local_recipients: vec!["aldo@studio.example".into(), "Anna@pec.alfa.test".into()],
        signed_at: Moment::from_unix(NOW),
    };
    let log = Entry::new(Event::Accesso, &daticert_of(&network.alfa, &["aldo@studio.example"], &mail.header), sent.signed_at, "4j");
    Database::connect(&network.alfa.settings, "test").await.unwrap().insert_sent(&sent, &log).await.unwrap();
    let incoming = start(IncomingPoint::new(network.world(&network.alfa).await), Door::Internal).await;
    (Mail { recipients: vec!["<ricezione+22ff@ricezione.pec.internal>".into()], ..mail }, incoming)
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_4_the_providers_own_recipients_pass_the_incoming_point_too() {
    let network = Network::new().await;
    let (mail, incoming) = internal(&network).await;
    let queued = mail.give_to(incoming).await.queued();
    let trigger = queued.recipient("presa-in-carico+");
    assert_eq!(queued.mail.recipients, ["<aldo@studio.example>".to_owned(), "<Anna@pec.alfa.test>".to_owned(), format!("<{trigger}>")]);
    assert_eq!(queued.added[0].1.as_deref(), Some("NOTIFY=SUCCESS,FAILURE"));
    assert_eq!(rows(&network.alfa, "SELECT provider || ' ' || mail_receipt FROM custody").await, ["Alfa PEC S.p.A. ricevute@gestore.alfa.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_internal_way_believes_only_the_bytes_that_were_signed() {
    let network = Network::new().await;
    let (mail, incoming) = internal(&network).await;
    assert!(replaced(&mail, "Ciao", "Caio").give_to(incoming).await.deferred().starts_with("451"));
    let made_up = Mail { recipients: vec!["<ricezione+33@ricezione.pec.internal>".into()], ..mail.clone() };
    assert!(made_up.give_to(incoming).await.deferred().starts_with("451"));
    let elsewhere = Mail { recipients: vec!["<aldo@studio.example>".into()], ..mail.clone() };
    assert!(elsewhere.give_to(incoming).await.rejected().starts_with("550"));
    assert!(rows(&network.alfa, "SELECT id FROM custody").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_under_our_former_name_is_taken_under_it() {
    let network = Network::new().await;
    let (mail, incoming) = internal(&network).await;
    // By that name pec-clock finds what is certified about it.
    run(&network.alfa.settings.database, "UPDATE sent SET provider = 'Alfa di prima'").await;
    mail.give_to(incoming).await.queued();
    assert_eq!(rows(&network.alfa, "SELECT provider || ' ' || mail_receipt FROM custody").await, ["Alfa di prima ricevute@gestore.alfa.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn port_25_knows_no_internal_addresses_and_relays_nothing() {
    let network = Network::new().await;
    let incoming = beta(&network).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    for recipient in ["<ricezione+22ff@ricezione.pec.internal>", "<accettazione+22ff@notices.pec.internal>"] {
        let refused = Mail { recipients: vec![recipient.into()], ..mail.clone() }.give_to(incoming).await.rejected();
        assert!(refused.starts_with("550 5.1.1"), "{refused}");
    }
    let refused = Mail { recipients: vec![format!("<{BRUNO}>"), "<carla@posta.test>".into()], ..mail }.give_to(incoming).await.rejected();
    assert!(refused.contains("no recipient of this provider"), "{refused}");
}
