//! Triggers and reports, brought to pec-notices in the milter protocol as Postfix does, with a real PostgreSQL behind it.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Errore, Tipo};
use pec_core::envelope::{Contents, claimed_type, contents, signed_parts};
use pec_core::header::Field;
use pec_core::parameters::Settings;
use pec_milter::mailbox::Mailboxes;
use pec_notices::{Door, NoticesPoint};
use pec_state::database::Database;
use pec_state::log::{Entry, Event};
use pec_state::rows::Custody;
use pec_state::store::Store;
use pec_test_support::doveadm::Doveadm;
use pec_test_support::judges::{openssl_verify, xmllint_valid};
use pec_test_support::network::{Host, Network, column, daticert_of, envelope, run, sent};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::{Mail, Outcome, Queued, report, start_shared};

const ANNA: &str = "anna@pec.alfa.test";
const BRUNO: &str = "bruno@pec.beta.test";
const CARLO: &str = "carlo@comune.example";
const LETTER: &str = "From: anna@pec.alfa.test\nTo: bruno@pec.beta.test\nSubject: Citt=\nMessage-ID: <1@client.test>\n\nCiao\n";
const ENVID: &str = "0123456789abcdef0123456789abcdef";
const SENT_ENVID: &str = "5e47";

/// pec-notices of one provider, with both its doors.
struct Notices {
    triggers: SocketAddr,
    reports: SocketAddr,
    doveadm: Doveadm,
    database: Database,
    settings: Settings,
}

async fn notices(network: &Network, host: &Host) -> Notices {
    let doveadm = Doveadm::start().await;
    let mut world = network.world(host).await;
    world.mailboxes = Mailboxes::new(&format!("http://{}/doveadm/v1", doveadm.address), "secret");
    let point = Arc::new(ArcSwap::from_pointee(NoticesPoint::new(world).unwrap()));
    Notices {
        triggers: start_shared(Arc::clone(&point), Door::Triggers).await,
        reports: start_shared(point, Door::Reports).await,
        doveadm,
        database: Database::connect(&host.settings, "test").await.unwrap(),
        settings: host.settings.clone(),
    }
}

impl Notices {
    async fn rows(&self, sql: &str) -> Vec<String> {
        column(&self.settings.database, sql).await
    }

    /// Alfa's envelope was signed here; the copy that comes round for `trigger`.
    async fn sent(&self, network: &Network, recipients: &[&str]) -> Mail {
        let mail = envelope(network, &network.alfa, recipients, LETTER);
        let daticert = daticert_in(&mail);
        let sent = sent("aa11", SENT_ENVID, &daticert, &openssl::sha::sha256(&mail.body));
        self.database.insert_sent(&sent, &Entry::new(Event::Accesso, &daticert, daticert.data, "4j")).await.unwrap();
        to(&mail, "accettazione+aa11@notices.pec.internal")
    }

    /// Alfa's envelope was taken in charge here, at Beta; the copy that comes round for its presa in carico.
    async fn custody(&self, recipients: &[&str], mail: &Mail, id: &str, envid: &str) -> Mail {
        self.custody_at(NOW, recipients, mail, id, envid).await
    }

    async fn custody_at(&self, taken_at: i64, recipients: &[&str], mail: &Mail, id: &str, envid: &str) -> Mail {
        let daticert = daticert_in(mail);
        let body = Bytes::from(mail.body.clone());
        let postacert = contents(&body, signed_parts(&mail.header, &body).unwrap().content, Tipo::PostaCertificata).unwrap().postacert.unwrap();
        Store::open("pec_store", &self.settings.store).unwrap().put(id, postacert).await.unwrap();
        let custody = Custody {
            id: id.into(),
            envid: envid.into(),
            mark: format!("mark-{envid}"),
            provider: "Alfa PEC S.p.A.".into(),
            mail_receipt: "ricevute@gestore.alfa.test".into(),
            identificativo: daticert.identificativo.clone(),
            daticert: daticert.to_xml(),
            recipients: recipients.iter().map(|r| (*r).to_owned()).collect(),
            concise: vec![],
            body_sha256: openssl::sha::sha256(&mail.body).to_vec(),
            content_sha256: openssl::sha::sha256(&body[signed_parts(&mail.header, &body).unwrap().content]).to_vec(),
            taken_at: Moment::from_unix(taken_at),
        };
        self.database.insert_custody(&custody, &Entry::new(Event::Ricezione, &daticert, custody.taken_at, "4j")).await.unwrap();
        to(mail, &format!("presa-in-carico+{id}@notices.pec.internal"))
    }
}

fn to(mail: &Mail, recipient: &str) -> Mail {
    Mail { recipients: vec![format!("<{recipient}>")], ..mail.clone() }
}

fn open(mail: &Mail) -> Contents {
    let body = Bytes::from(mail.body.clone());
    let parts = signed_parts(&mail.header, &body).unwrap();
    contents(&body, parts.content, claimed_type(&mail.header).unwrap()).unwrap()
}

fn daticert_in(mail: &Mail) -> Daticert {
    open(mail).daticert
}

fn is_signed_notice(network: &Network, queued: &Queued, kind: &str) -> Daticert {
    let header = &queued.mail.header;
    assert_eq!(header.text("X-Ricevuta").as_deref(), Some(kind));
    assert_eq!(header.first("X-Trasporto"), None);
    assert!(header.all("Received").count() == 0, "what the original brought along is gone; Postfix's own is not seen here");
    let daticert = daticert_in(&queued.mail);
    assert_eq!(daticert.tipo.as_str(), kind);
    assert_eq!(header.text("Date").unwrap(), daticert.data.rfc5322());
    assert_eq!(header.text("X-Riferimento-Message-ID"), daticert.msgid);
    xmllint_valid(&daticert.to_xml()).unwrap();
    openssl_verify(&queued.mail.to_bytes(), &network.pki.ca_file()).unwrap();
    daticert
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_4_the_envelope_in_the_queue_becomes_the_acceptance() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = alfa.sent(&network, &[BRUNO, CARLO]).await;
    let queued = mail.give_to(alfa.triggers).await.queued();

    let daticert = is_signed_notice(&network, &queued, "accettazione");
    assert_eq!((queued.mail.sender.as_str(), &queued.mail.recipients[..]), ("<posta-certificata@gestore.alfa.test>", &[format!("<{ANNA}>")][..]));
    let header = |name| queued.mail.header.text(name).unwrap();
    assert_eq!((header("From").as_str(), header("To").as_str()), ("posta-certificata@gestore.alfa.test", ANNA));
    assert_eq!((header("Subject").as_str(), header("X-Pec-Notice").as_str()), ("ACCETTAZIONE: Citt=", "accettazione"));
    assert_eq!(daticert.data, Moment::from_unix(NOW - 60), "the second of the envelope");
    assert_eq!((daticert.destinatari.len(), daticert.ricevuta, open(&queued.mail).postacert), (2, None, None));
    assert_eq!(alfa.rows("SELECT kind FROM fact").await, ["accettazione"]);
    let sha256 = pec_core::identifier::hex(&openssl::sha::sha256(&queued.mail.body));
    let row = "SELECT concat_ws('|', message_id, encode(message_sha256, 'hex'), certified_by, envid) FROM log WHERE event = 'accettazione'";
    assert_eq!(alfa.rows(row).await, [format!("{}|{sha256}|Alfa PEC S.p.A.|{SENT_ENVID}", header("Message-ID").trim_matches(['<', '>']))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_taken_at_the_limit_of_hops_leaves_nothing_behind_in_its_notice() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mut mail = alfa.sent(&network, &[BRUNO]).await;
    let hop = Field::written("Received", "from a.test by b.test; Thu, 19 Nov 2026 00:00:00 +0100");
    mail.header.fields_mut().splice(0..0, std::iter::repeat_n(hop, 55));
    let queued = mail.give_to(alfa.triggers).await.queued();
    is_signed_notice(&network, &queued, "accettazione");
    assert_eq!((queued.mail.header.all("From").count(), queued.mail.header.all("Subject").count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_notice_for_each_fact_a_repeat_is_the_same_bytes_and_no_second_row() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = alfa.sent(&network, &[BRUNO]).await;
    let first = mail.clone().give_to(alfa.triggers).await.queued();
    network.clock.set(Moment::from_unix(NOW + 86_400));
    let second = mail.give_to(alfa.triggers).await.queued();
    assert_eq!(first.mail.body, second.mail.body);
    let sorted = |queued: &Queued| {
        let mut lines: Vec<_> = queued.mail.header.fields().iter().map(|f| (f.name.clone(), f.value.clone())).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&first), sorted(&second));
    assert_eq!(alfa.rows("SELECT event FROM log ORDER BY seq").await, ["accesso", "accettazione"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_that_would_differ_without_reason_is_held_back() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = alfa.sent(&network, &[BRUNO]).await;
    mail.clone().give_to(alfa.triggers).await.queued();
    run(&alfa.settings.database, "UPDATE fact SET notice_sha256 = '\\x00'").await;
    assert!(mail.clone().give_to(alfa.triggers).await.deferred().starts_with("451"));
    // Another certificate or program version explains it.
    run(&alfa.settings.database, "UPDATE fact SET made_with = '0.0.9/other'").await;
    mail.give_to(alfa.triggers).await.queued();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_milters_makes_a_trigger_work() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = alfa.sent(&network, &[BRUNO]).await;
    let other_bytes = Mail { body: [&mail.body[..], b"x\r\n"].concat(), ..mail.clone() };
    for (what, mail) in [
        ("a made-up id", to(&mail, "accettazione+ffff@notices.pec.internal")),
        ("a real id and other bytes", other_bytes),
        ("an id of another kind", to(&mail, "presa-in-carico+aa11@notices.pec.internal")),
        ("a fact that is none", to(&mail, "avvenuta-consegna+aa11@notices.pec.internal")),
        ("no kind at all", to(&mail, "nonsense@notices.pec.internal")),
    ] {
        assert!(mail.give_to(alfa.triggers).await.deferred().starts_with("451"), "{what}");
    }
    assert!(to(&mail, BRUNO).give_to(alfa.triggers).await.rejected().starts_with("550"));
    let two = Mail { recipients: vec![mail.recipients[0].clone(), mail.recipients[0].clone()], ..mail };
    assert!(two.give_to(alfa.triggers).await.deferred().starts_with("452"));
    assert!(alfa.rows("SELECT id FROM fact").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_1_the_envelope_in_the_queue_becomes_the_presa_in_carico() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO, "altro@pec.alfa.test"], LETTER);
    let trigger = beta.custody(&[BRUNO, "nessuno@pec.beta.test"], &mail, "bb11", ENVID).await;
    let queued = trigger.give_to(beta.triggers).await.queued();
    let daticert = is_signed_notice(&network, &queued, "presa-in-carico");
    assert_eq!(queued.mail.recipients, ["<ricevute@gestore.alfa.test>"]);
    assert_eq!(queued.mail.header.text("Subject").as_deref(), Some("PRESA IN CARICO: Citt="));
    assert_eq!(daticert.ricezione, [BRUNO, "nessuno@pec.beta.test"], "those of this copy, unknown ones included");
    assert_eq!((daticert.destinatari.len(), daticert.data, daticert.gestore_emittente.as_str()), (3, Moment::from_unix(NOW), "Beta Posta S.r.l."));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_to_five_hundred_recipients_here_has_one_presa_in_carico() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let random = || pec_core::identifier::fresh().unwrap();
    let recipients: Vec<String> = (0..500).map(|_| format!("{}{}@pec.beta.test", random(), random())).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let mail = envelope(&network, &network.alfa, &recipients, LETTER);
    let first = beta.custody(&recipients, &mail, "bb11", ENVID).await.give_to(beta.triggers).await.queued();
    assert_eq!(is_signed_notice(&network, &first, "presa-in-carico").ricezione, recipients);
    let second = beta.custody(&recipients, &mail, "bb22", "fedcba98").await.give_to(beta.triggers).await.queued();
    assert_eq!(first.mail.body, second.mail.body);
    assert_eq!(beta.rows("SELECT source FROM fact").await, ["bb11"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_an_envelope_get_one_presa_in_carico() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let first = beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    let second = beta.custody(&[BRUNO], &mail, "bb22", "fedcba98").await;
    let first = first.give_to(beta.triggers).await.queued();
    network.clock.set(Moment::from_unix(NOW + 600));
    let second = second.give_to(beta.triggers).await.queued();
    assert_eq!(first.mail.body, second.mail.body);
    assert_eq!(first.mail.header.text("Message-ID"), second.mail.header.text("Message-ID"));
    assert_eq!(beta.rows("SELECT source FROM fact").await, ["bb11"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_1_a_report_of_delivery_becomes_the_receipt_with_the_mailboxs_time_and_the_original() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    // The report is written three hours late, and reaches us a day later; copies with other dates are the user's own doing.
    network.clock.set(Moment::from_unix(NOW + 86_400));
    beta.doveadm.received(&[NOW + 20_000, NOW + 7, NOW - 1, NOW + 9]);
    let written = report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0")], NOW + 10_800);
    let queued = written.give_to(beta.reports).await.queued();

    let daticert = is_signed_notice(&network, &queued, "avvenuta-consegna");
    assert_eq!((queued.mail.sender.as_str(), &queued.mail.recipients[..]), ("<posta-certificata@gestore.beta.test>", &[ANNA.to_owned()][..]));
    assert_eq!(queued.mail.header.text("Subject").as_deref(), Some("CONSEGNA: Citt="));
    assert_eq!(queued.mail.header.first("X-Pec-Notice"), None, "it leaves: Postfix must not hand it to our own mailboxes");
    assert_eq!((daticert.consegna.as_deref(), daticert.data), (Some(BRUNO), Moment::from_unix(NOW + 7)));
    assert_eq!(daticert.ricevuta.map(|r| r.as_str()), Some("completa"));
    assert_eq!(open(&queued.mail).postacert, open(&mail).postacert);
    assert_eq!(beta.rows("SELECT time_source || ' ' || envid FROM log WHERE event = 'avvenuta-consegna'").await, [format!("mailbox {ENVID}")]);
    let asked = beta.doveadm.requests().join("\n");
    assert!(asked.contains("authorization: X-Dovecot-API c2VjcmV0") || asked.contains("Authorization: X-Dovecot-API c2VjcmV0"), "{asked}");
    assert!(asked.contains("\"SINCE\"") && asked.contains(&format!("\"{}\"", NOW - 86_400)), "not the whole of a large mailbox: {asked}");
    assert!(asked.contains(&format!("mark-{ENVID}")) && asked.contains(&format!("\"user\": \"{BRUNO}\"")), "{asked}");

    // The report comes again: the same receipt, and the mailbox is not asked any more.
    let again = report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0")], NOW + 20_000);
    assert_eq!(again.give_to(beta.reports).await.queued().mail.body, queued.mail.body);
    assert_eq!(beta.doveadm.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_3_a_concise_receipt_carries_no_original() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    run(&beta.settings.database, &format!("UPDATE custody SET concise = '{{{BRUNO}}}'")).await;
    let queued = report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0")], NOW + 5).give_to(beta.reports).await.queued();
    is_signed_notice(&network, &queued, "avvenuta-consegna");
    assert_eq!(open(&queued.mail).postacert, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_2_a_brief_receipt_carries_hashes_in_place_of_attachments() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let attachment = "Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\nJVBERi0K\n";
    let letter = LETTER.replace("\n\nCiao\n", &format!("\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nCiao\n--b\n{attachment}--b--\n"));
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], &letter);
    beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    beta.custody(&[CARLO], &mail, "bb22", "fedcba98").await;
    run(&beta.settings.database, "UPDATE custody SET daticert = replace(daticert, '\"completa\"', '\"breve\"')").await;
    run(&beta.settings.database, &format!("UPDATE custody SET concise = '{{{CARLO}}}' WHERE id = 'bb22'")).await;

    let delivered = report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0")], NOW + 5);
    let queued = delivered.clone().give_to(beta.reports).await.queued();
    let daticert = is_signed_notice(&network, &queued, "avvenuta-consegna");
    let original = String::from_utf8(open(&queued.mail).postacert.unwrap().to_vec()).unwrap();
    let hash = pec_core::identifier::hex(&openssl::sha::sha1(b"JVBERi0K"));
    assert!(original.ends_with(&format!("filename=\"a.pdf.hash\"\r\n\r\n{hash}\r\n--b--\r\n")), "{original}");
    assert!(original.contains("--b\r\n\r\nCiao\r\n--b\r\n") && !original.contains("JVBERi0K"), "{original}");
    assert_eq!(daticert.ricevuta.map(|r| r.as_str()), Some("breve"));
    assert!(String::from_utf8_lossy(&queued.mail.body).contains("Ricevuta breve di avvenuta consegna"));
    assert_eq!(delivered.give_to(beta.reports).await.queued().mail.body, queued.mail.body, "again: the same bytes");

    // In Cc: without the original, and it says what was asked for.
    let queued = report(Some("fedcba98"), &mail, &[(CARLO, "relayed", "2.0.0")], NOW + 5).give_to(beta.reports).await.queued();
    let daticert = is_signed_notice(&network, &queued, "avvenuta-consegna");
    assert_eq!((daticert.ricevuta.map(|r| r.as_str()), open(&queued.mail).postacert), (Some("breve"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_user_took_away_is_certified_with_the_reports_time() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    let queued = report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0")], NOW + 42).give_to(beta.reports).await.queued();
    assert_eq!(daticert_in(&queued.mail).data, Moment::from_unix(NOW + 42));
    assert_eq!(beta.rows("SELECT time_source FROM fact").await, ["report"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_mailbox_cannot_be_asked_the_report_waits() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    let delivered = report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0")], NOW + 42);
    for (status, answer) in [(500, ""), (401, ""), (200, "[[\"error\",{\"type\":\"exitCode\",\"exitCode\":75},\"1\"]]"), (200, "nonsense")] {
        beta.doveadm.answers(status, answer);
        assert!(delivered.clone().give_to(beta.reports).await.deferred().starts_with("451"), "{status} {answer}");
    }
    assert!(beta.rows("SELECT id FROM fact").await.is_empty());
    beta.doveadm.received(&[NOW + 1]);
    delivered.give_to(beta.reports).await.queued();
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_3_a_mailbox_that_does_not_exist_becomes_the_notice_of_failure() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &["Nessuno@pec.beta.test"], LETTER);
    beta.custody(&["Nessuno@pec.beta.test"], &mail, "bb11", ENVID).await;
    beta.doveadm.answers(200, "[[\"error\",{\"type\":\"exitCode\",\"exitCode\":67},\"1\"]]");
    let queued = report(Some(ENVID), &mail, &[("nessuno@pec.beta.test", "failed", "5.1.1")], NOW + 3).give_to(beta.reports).await.queued();
    let daticert = is_signed_notice(&network, &queued, "errore-consegna");
    assert_eq!(queued.mail.header.text("Subject").as_deref(), Some("AVVISO DI MANCATA CONSEGNA: Citt="));
    assert_eq!((daticert.errore, daticert.consegna.as_deref()), (Errore::NoDest, Some("Nessuno@pec.beta.test")));
    assert_eq!(daticert.errore_esteso.as_deref(), Some("5.1.1 - Beta Posta S.r.l. - indirizzo non valido"));
    assert_eq!((daticert.ricevuta, open(&queued.mail).postacert), (None, None));
    assert_eq!(beta.rows("SELECT error FROM log WHERE event = 'errore-consegna'").await, ["5.1.1 - Beta Posta S.r.l. - indirizzo non valido"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_is_certified_while_the_mailbox_has_the_message() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    // LMTP's 250 was lost; the second attempt found the mailbox full.
    beta.doveadm.received(&[NOW + 2]);
    let queued = report(Some(ENVID), &mail, &[(BRUNO, "failed", "5.2.2")], NOW + 300).give_to(beta.reports).await.queued();
    assert_eq!(is_signed_notice(&network, &queued, "avvenuta-consegna").data, Moment::from_unix(NOW + 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_came_again_has_the_time_of_the_first_in_the_mailbox() {
    let network = Network::new().await;
    for (action, status) in [("failed", "5.2.2"), ("relayed", "2.0.0")] {
        let beta = notices(&network, &network.beta).await;
        let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
        beta.custody(&[BRUNO], &mail, &format!("bb{action}"), &format!("first-{action}")).await;
        beta.custody_at(NOW + 900, &[BRUNO], &mail, &format!("cc{action}"), &format!("second-{action}")).await;
        // The mailbox got the first copy; its report is still on its way when that of the second one comes.
        beta.doveadm.received(&[NOW + 1]);
        let queued = report(Some(&format!("second-{action}")), &mail, &[(BRUNO, action, status)], NOW + 1000).give_to(beta.reports).await.queued();
        assert_eq!(is_signed_notice(&network, &queued, "avvenuta-consegna").data, Moment::from_unix(NOW + 1), "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_1_a_report_on_several_recipients_becomes_a_trigger_for_each() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], LETTER);
    beta.custody(&[BRUNO, CARLO, "nessuno@pec.beta.test"], &mail, "bb11", ENVID).await;
    beta.doveadm.received(&[NOW + 2]);
    let written = report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0"), (CARLO, "relayed", "2.0.0")], NOW + 5);
    let queued = written.give_to(beta.reports).await.queued();
    assert_eq!(
        (queued.mail.sender.as_str(), queued.mail.recipients.len()),
        ("<posta-certificata@gestore.beta.test>", 2),
        "{:?}",
        queued.mail.recipients
    );
    assert!(queued.added.iter().all(|(r, p)| r.starts_with("<avvenuta-consegna+") && p.as_deref() == Some("NOTIFY=FAILURE")), "{:?}", queued.added);
    assert_eq!(beta.rows("SELECT event FROM log WHERE event <> 'ricezione'").await, [""; 0], "the log row comes with the notice and its hash");

    let mut consegne = Vec::new();
    for recipient in queued.mail.recipients.clone() {
        let copy = queued.copy_for(recipient.trim_matches(['<', '>']));
        let receipt = copy.clone().give_to(beta.triggers).await.queued();
        consegne.extend(is_signed_notice(&network, &receipt, "avvenuta-consegna").consegna);
        assert_eq!(open(&receipt.mail).postacert, open(&mail).postacert);
        assert_eq!(copy.give_to(beta.triggers).await.queued().mail.body, receipt.mail.body, "again: the same bytes");
        let tampered = Mail { body: b"other\r\n".to_vec(), ..queued.copy_for(recipient.trim_matches(['<', '>'])) };
        assert!(tampered.give_to(beta.triggers).await.deferred().starts_with("451"));
    }
    consegne.sort();
    assert_eq!(consegne, [BRUNO, CARLO]);
    assert_eq!(beta.rows("SELECT event FROM log WHERE event <> 'ricezione'").await, ["avvenuta-consegna"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_about_nothing_of_ours_lead_to_nothing() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    for (what, written) in [
        ("another ENVID", report(Some("ffff"), &mail, &[(BRUNO, "relayed", "2.0.0")], NOW)),
        ("no ENVID", report(None, &mail, &[(BRUNO, "relayed", "2.0.0")], NOW)),
        ("a recipient whom the envelope was not for", report(Some(ENVID), &mail, &[(CARLO, "relayed", "2.0.0")], NOW)),
        ("not the end", report(Some(ENVID), &mail, &[(BRUNO, "delayed", "4.0.0")], NOW)),
    ] {
        assert!(matches!(written.give_to(beta.reports).await, Outcome::Discarded), "{what}");
    }
    assert!(beta.rows("SELECT id FROM fact").await.is_empty());
    // What is no delivery report goes on as it is.
    let other = Mail::submitted("double-bounce@mail.gestore.beta.test", &["postmaster@gestore.beta.test"], b"From: x@y\nSubject: x\n\nx\n");
    assert_eq!(other.give_to(beta.reports).await.queued().edits, 0);
}

/// Postfix's own report lies entire in an anomaly envelope.
fn is_wrapped(network: &Network, report: &Mail, wrapped: &Queued) {
    let header = &wrapped.mail.header;
    assert_eq!((header.text("X-Trasporto").as_deref(), header.first("X-Ricevuta")), (Some("errore"), None));
    assert!(header.text("Subject").unwrap().starts_with("ANOMALIA MESSAGGIO: "), "{header:?}");
    openssl_verify(&wrapped.mail.to_bytes(), &network.pki.ca_file()).unwrap();
    let inside = report.to_bytes();
    assert!(wrapped.mail.body.windows(inside.len()).any(|w| w == inside));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_an_envelope_that_cannot_be_sent_on_becomes_the_notice_of_failure() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = alfa.sent(&network, &[BRUNO, "carla@posta.test"]).await;
    run(&alfa.settings.database, "UPDATE sent SET daticert = replace(daticert, '\"certificato\">carla', '\"esterno\">carla')").await;
    let queued = report(Some(SENT_ENVID), &mail, &[(BRUNO, "failed", "5.4.4")], NOW + 9).give_to(alfa.reports).await.queued();
    let daticert = is_signed_notice(&network, &queued, "errore-consegna");
    assert_eq!((daticert.consegna.as_deref(), daticert.gestore_emittente.as_str()), (Some(BRUNO), "Alfa PEC S.p.A."));
    assert_eq!(queued.mail.header.text("X-Pec-Notice").as_deref(), Some("errore-consegna"), "a full mailbox takes it");
    // Of an ordinary recipient PEC certifies nothing: Postfix's own words reach the sender, in an envelope that says so.
    let raw = report(Some(SENT_ENVID), &mail, &[("carla@posta.test", "failed", "5.1.1")], NOW + 9);
    let wrapped = raw.clone().give_to(alfa.reports).await.queued();
    is_wrapped(&network, &raw, &wrapped);
    assert_eq!((&wrapped.mail.sender, &wrapped.mail.recipients), (&raw.sender, &raw.recipients));
    assert_eq!(wrapped.mail.header.text("X-Pec-Notice").as_deref(), Some("rapporto"), "a full mailbox takes it too");
    // Both in one report: the words for one, a trigger for the other, which works with the bytes that go round.
    let both = report(Some(SENT_ENVID), &mail, &[("carla@posta.test", "failed", "5.1.1"), (BRUNO, "failed", "5.4.4")], NOW + 9);
    let both = both.give_to(alfa.reports).await.queued();
    assert_eq!((both.mail.recipients.len(), both.mail.recipients[0].as_str(), both.added.len()), (2, ANNA, 1));
    assert_eq!(both.mail.sender, "<posta-certificata@gestore.alfa.test>", "a trigger never has the null path");
    assert_eq!(both.mail.header.text("X-Trasporto").as_deref(), Some("errore"));
    assert_eq!(both.mail.header.first("X-Pec-Notice"), None, "which would take the trigger along into the mailbox");
    let notice = both.copy_for(&both.recipient("errore-consegna+")).give_to(alfa.triggers).await.queued();
    assert_eq!(is_signed_notice(&network, &notice, "errore-consegna").consegna.as_deref(), Some(BRUNO));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_3_a_report_in_an_anomaly_envelope_is_in_the_log() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = alfa.sent(&network, &["carla@posta.test"]).await;
    let raw = report(None, &mail, &[("carla@posta.test", "failed", "5.1.1")], NOW + 9);
    let wrapped = raw.clone().give_to(alfa.reports).await.queued();
    is_wrapped(&network, &raw, &wrapped);
    let sha256 = pec_core::identifier::hex(&openssl::sha::sha256(&wrapped.mail.body));
    let row = "concat_ws('|', msgid, oggetto, array_to_string(recipients, ','), certified_by, encode(message_sha256, 'hex'))";
    let expected = format!("<20261119.4jYY@mail.gestore.beta.test>|Delivery report|{ANNA}|Alfa PEC S.p.A.|{sha256}");
    assert_eq!(alfa.rows(&format!("SELECT {row} FROM log WHERE event = 'anomalia'")).await, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_is_certified_without_the_envelope_id_that_postfix_alone_knows() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = alfa.sent(&network, &[BRUNO, "aldo@studio.example"]).await;
    run(&alfa.settings.database, "UPDATE sent SET local_recipients = '{aldo@studio.example}'").await;
    // Somebody's message under the Message-ID of the envelope: its failure is its own.
    let raw = report(None, &mail, &[(BRUNO, "failed", "5.1.1")], NOW + 9);
    let wrapped = raw.clone().give_to(alfa.reports).await.queued();
    is_wrapped(&network, &raw, &wrapped);
    // A recipient of ours never leaves by that way.
    let own = report(Some(SENT_ENVID), &mail, &[("aldo@studio.example", "failed", "5.1.1")], NOW + 9);
    assert!(matches!(own.give_to(alfa.reports).await, Outcome::Discarded));
    assert!(alfa.rows("SELECT id FROM fact").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_is_certified_where_the_other_provider_has_the_message() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = alfa.sent(&network, &[BRUNO]).await;
    let identificativo = daticert_in(&mail).identificativo;
    // Receipts come in any order: whatever it certifies, it has the message.
    for kind in ["presa-in-carico", "avvenuta-consegna", "errore-consegna", "rilevazione-virus"] {
        let ricevuta = format!("INSERT INTO ricevuta VALUES ('{identificativo}', '{kind}', '{BRUNO}', 'Beta Posta S.r.l.', '1@x', now(), '')");
        run(&alfa.settings.database, &format!("DELETE FROM ricevuta; {ricevuta}")).await;
        let failed = report(Some(SENT_ENVID), &mail, &[(BRUNO, "failed", "4.4.1")], NOW + 86_400);
        assert!(matches!(failed.give_to(alfa.reports).await, Outcome::Discarded), "{kind}");
        assert!(alfa.rows("SELECT id FROM fact").await.is_empty(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_that_found_nobody_at_home_goes_out_again_for_five_days() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let trigger = beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    let notice = trigger.give_to(beta.triggers).await.queued();
    let parameters = notice.sender_parameters.clone().unwrap();
    let envid = parameters.strip_prefix("RET=HDRS ENVID=").unwrap().to_owned();
    assert_ne!(envid, ENVID, "the other provider's server is not told under what we know the envelope");
    let came_back = |status, after| report(Some(&envid), &notice.mail, &[("ricevute@gestore.alfa.test", "failed", status)], NOW + after);
    network.clock.set(Moment::from_unix(NOW + 86_400));
    let again = came_back("4.4.1", 86_400).give_to(beta.reports).await.queued();
    assert_eq!((&again.mail.body, &again.mail.recipients), (&notice.mail.body, &notice.mail.recipients));
    assert_eq!(again.sender_parameters, notice.sender_parameters);
    // Afterwards, or where the refusal is for good, a person has to look: the report stays a report. One that has waited is no
    // younger for that.
    for (status, after, now) in [("4.4.1", 5 * 86_400, 5 * 86_400), ("4.4.1", 86_400, 6 * 86_400), ("5.1.1", 60, 60)] {
        network.clock.set(Moment::from_unix(NOW + now));
        let kept = came_back(status, after).give_to(beta.reports).await.queued().mail;
        assert_eq!((kept.body, kept.header.first("X-Ricevuta")), (came_back(status, after).body, None), "{status} {after} {now}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_to_a_milter_is_never_given_up() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = alfa.sent(&network, &[BRUNO]).await;
    // The queue alone has it: as long as the report is not taken, Postfix keeps it and tries again.
    for recipient in ["accettazione+aa11@notices.pec.internal", "ricezione+aa11@ricezione.pec.internal"] {
        let failed = report(Some(SENT_ENVID), &mail, &[(recipient, "failed", "4.4.1")], NOW + 86_400);
        assert!(failed.give_to(alfa.reports).await.deferred().starts_with("451"), "{recipient}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_original_in_the_store_the_receipt_waits() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.custody(&[BRUNO], &mail, "bb11", ENVID).await;
    std::fs::remove_file(beta.settings.store.join("bb/bb11.eml")).unwrap();
    assert!(report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0")], NOW).give_to(beta.reports).await.deferred().starts_with("451"));
    assert!(beta.rows("SELECT id FROM fact").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_a_receipt_whose_original_is_deleted_does_not_wait_for_ever() {
    let network = Network::new().await;
    let beta = notices(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], LETTER);
    beta.custody(&[BRUNO, CARLO], &mail, "bb11", ENVID).await;
    run(&beta.settings.database, &format!("UPDATE custody SET concise = '{{{CARLO}}}'")).await;
    let about = |envid, recipient| report(Some(envid), &mail, &[(recipient, "relayed", "2.0.0")], NOW + 5);
    about(ENVID, BRUNO).give_to(beta.reports).await.queued();
    about(ENVID, CARLO).give_to(beta.reports).await.queued();
    let both = report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0"), (CARLO, "relayed", "2.0.0")], NOW + 5);
    let triggers = both.clone().give_to(beta.reports).await.queued();
    assert_eq!(triggers.added.len(), 2);

    // pec-clock has deleted the original, which the receipt about Bruno carries and the one about Carlo does not.
    std::fs::remove_file(beta.settings.store.join("bb/bb11.eml")).unwrap();
    let deleted_at = |at: &str| format!("UPDATE custody SET original_deleted_at = {at} WHERE id = 'bb11'");
    run(&beta.settings.database, &deleted_at("now()")).await;
    // The report that Postfix kept, and the one about a copy that came once more, whose own original is here.
    beta.custody(&[BRUNO], &mail, "cc22", "fedcba98").await;
    for envid in [ENVID, "fedcba98"] {
        assert!(matches!(about(envid, BRUNO).give_to(beta.reports).await, Outcome::Discarded), "{envid}");
    }
    is_signed_notice(&network, &about(ENVID, CARLO).give_to(beta.reports).await.queued(), "avvenuta-consegna");
    assert_eq!(is_signed_notice(&network, &both.give_to(beta.reports).await.queued(), "avvenuta-consegna").consegna.as_deref(), Some(CARLO));
    // A trigger that Postfix kept.
    let mut dropped = 0;
    for recipient in &triggers.mail.recipients {
        dropped += usize::from(matches!(triggers.copy_for(recipient.trim_matches(['<', '>'])).give_to(beta.triggers).await, Outcome::Discarded));
    }
    assert_eq!(dropped, 1);
    assert_eq!(beta.rows("SELECT event FROM log WHERE event <> 'ricezione'").await, ["avvenuta-consegna"; 2]);

    // One that is gone without that: somebody has to look, and it waits.
    run(&beta.settings.database, &deleted_at("NULL")).await;
    assert!(about(ENVID, BRUNO).give_to(beta.reports).await.deferred().starts_with("451"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_1_a_message_without_message_id_gets_none_invented() {
    let network = Network::new().await;
    let alfa = notices(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], &LETTER.replace("Message-ID: <1@client.test>\n", ""));
    assert_eq!(daticert_of(&network.alfa, &[BRUNO], &pec_core::header::Header::default()).msgid, None);
    let daticert = daticert_in(&mail);
    let sent = sent("aa11", SENT_ENVID, &daticert, &openssl::sha::sha256(&mail.body));
    alfa.database.insert_sent(&sent, &Entry::new(Event::Accesso, &daticert, daticert.data, "4j")).await.unwrap();
    let queued = to(&mail, "accettazione+aa11@notices.pec.internal").give_to(alfa.triggers).await.queued();
    assert_eq!(is_signed_notice(&network, &queued, "accettazione").msgid, None);
    assert_eq!(queued.mail.header.first("X-Riferimento-Message-ID"), None);
}
