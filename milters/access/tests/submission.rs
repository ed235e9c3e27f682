//! The Access Point, spoken to in the milter protocol as Postfix does, with a real PostgreSQL behind it.
#![allow(clippy::unwrap_used)]

#[path = "../../incoming/tests/queue/mod.rs"]
mod queue;

use bytes::Bytes;
use openssl::sha::sha256;
use pec_access::AccessPoint;
use pec_core::daticert::{Errore, Tipo, TipoDestinatario, TipoRicevuta};
use pec_core::envelope::{Contents, claimed_type, contents, signed_parts};
use pec_host::parameters::Settings;
use pec_state::database::Database;
use pec_test_support::judges::{openssl_verify, xmllint_valid};
use pec_test_support::network::{Network, column, run};
use pec_test_support::postfix::{Mail, Queued, start};
use queue::{DONE, Delivery, envid};

const ANNA: &str = "anna@pec.alfa.test";
const BRUNO: &str = "bruno@pec.beta.test";

const LETTER: &str = "From: Anna <anna@pec.alfa.test>\nTo: bruno@pec.beta.test\nSubject: Prova\nMessage-ID: \
    <1@client.test>\nMIME-Version: 1.0\nContent-Type: text/plain\nX-Mailer: x\n\nCiao\n";

async fn alfa() -> (Network, std::net::SocketAddr) {
    let network = Network::new().await;
    let point = AccessPoint::new(network.world(&network.alfa).await);
    (network, start(point, ()).await)
}

fn open(queued: &Queued) -> Contents {
    let body = Bytes::from(queued.mail.body.clone());
    let parts = signed_parts(&queued.mail.header, &body).unwrap();
    contents(&body, parts.content, claimed_type(&queued.mail.header).unwrap()).unwrap()
}

/// postacert.eml without what the Access Point adds: its `Received:` on top, the PEC identifier in place of
/// the Message-ID, the sender's Message-ID at the end.
fn as_submitted(postacert: &[u8], queued: &Queued, msgid: Option<&str>) -> Vec<u8> {
    let text = postacert.to_vec();
    let received = text
        .windows(2)
        .enumerate()
        .find(|(i, w)| w == b"\r\n" && !matches!(text.get(i + 2), Some(b' ' | b'\t')))
        .unwrap()
        .0
        + 2;
    assert!(
        text.starts_with(b"Received: from client.test "),
        "{}",
        String::from_utf8_lossy(&text[..received])
    );
    let identifier = format!(
        "Message-ID:{}\r\n",
        String::from_utf8_lossy(&queued.mail.header.first("Message-ID").unwrap().value)
    );
    let reference = msgid.map_or(String::new(), |id| format!("X-Riferimento-Message-ID: {id}\r\n"));
    let original = msgid.map_or(String::new(), |id| format!("Message-ID: {id}\r\n"));
    replace(
        &replace(&text[received..], identifier.as_bytes(), original.as_bytes()),
        reference.as_bytes(),
        b"",
    )
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    if from.is_empty() {
        return text.to_vec();
    }
    let at = text
        .windows(from.len())
        .position(|w| w == from)
        .unwrap_or_else(|| panic!("{:?} is not there", String::from_utf8_lossy(from)));
    [&text[..at], to, &text[at + from.len()..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_5_a_message_becomes_the_signed_envelope() {
    let (network, access) = alfa().await;
    let queued = Mail::submitted(ANNA, &[BRUNO], LETTER.as_bytes()).give_to(access).await.queued();
    let header = &queued.mail.header;
    let text = |name| header.text(name).unwrap();

    assert_eq!(text("X-Trasporto"), "posta-certificata");
    assert_eq!(text("X-TipoRicevuta"), "completa");
    assert_eq!(text("X-Riferimento-Message-ID"), "<1@client.test>");
    assert_eq!(text("From"), "\"Per conto di: anna@pec.alfa.test\" <posta-certificata@gestore.alfa.test>");
    assert_eq!((text("To").as_str(), text("Reply-To").as_str()), (BRUNO, ANNA));
    assert_eq!(text("Subject"), "POSTA CERTIFICATA: Prova");
    assert_eq!((header.first("X-Mailer"), header.all("Content-Type").count()), (None, 1));
    assert_eq!(queued.mail.sender, "<anna@pec.alfa.test>", "the reverse path stays");

    let daticert = open(&queued).daticert;
    assert_eq!(text("Message-ID"), format!("<{}>", daticert.identificativo));
    assert_eq!(
        (daticert.mittente.as_str(), daticert.oggetto.as_deref(), daticert.msgid.as_deref()),
        (ANNA, Some("Prova"), Some("<1@client.test>"))
    );
    assert_eq!(
        (daticert.risposte.as_str(), daticert.gestore_emittente.as_str(), daticert.ricevuta),
        (ANNA, "Alfa PEC S.p.A.", Some(TipoRicevuta::Completa))
    );
    assert_eq!(text("Date"), daticert.data.rfc5322());
    xmllint_valid(&daticert.to_xml()).unwrap();

    let bytes = queued.mail.to_bytes();
    openssl_verify(&bytes, &network.pki.ca_file()).unwrap();
    let changed = replace(&bytes, b"Ciao", b"Caio");
    assert!(
        openssl_verify(&changed, &network.pki.ca_file()).unwrap_err().contains("verification failure"),
        "a change of one letter must show"
    );
}

/// A letter to Bruno at Beta, to Aldo here, and to Carla, who has ordinary mail.
fn to_three() -> Mail {
    let letter = LETTER.replace(
        "To: bruno@pec.beta.test",
        "To: bruno@pec.beta.test, aldo@studio.example, \
            carla@posta.test",
    );
    Mail::submitted(
        ANNA,
        &[BRUNO, "Aldo@Studio.Example", "carla@posta.test", "aldo@studio.example"],
        letter.as_bytes(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_1_recipients_are_certified_or_ordinary() {
    let (_network, access) = alfa().await;
    let queued = to_three().give_to(access).await.queued();
    let destinatari: Vec<_> =
        open(&queued).daticert.destinatari.into_iter().map(|d| (d.indirizzo, d.tipo)).collect();
    let certificato = |a: &str| (a.to_owned(), TipoDestinatario::Certificato);
    assert_eq!(
        destinatari,
        [
            certificato(BRUNO),
            certificato("Aldo@Studio.Example"),
            ("carla@posta.test".to_owned(), TipoDestinatario::Esterno)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_4_the_providers_own_recipients_are_in_custody_too() {
    let (network, access) = alfa().await;
    let mail = to_three();
    let queued = mail.clone().give_to(access).await.queued();
    let database = &network.alfa.settings.database;

    // The envelope stays on its way to everybody; two copies more come round.
    let triggers = [queued.recipient("accettazione+"), queued.recipient("presa-in-carico+")]
        .map(|name| format!("<{name}>"));
    assert!(triggers.iter().all(|trigger| trigger.ends_with("@notices.pec.internal>")), "{triggers:?}");
    assert_eq!(queued.mail.recipients, [&mail.recipients[..], &triggers].concat());
    let parameters = Some("NOTIFY=FAILURE".to_owned());
    assert_eq!(
        queued.added,
        triggers.clone().map(|trigger| (trigger, parameters.clone())),
        "a trigger that is lost is told"
    );

    // One envelope id for both rows, which no trigger tells.
    let envid = envid(&queued).unwrap();
    assert!(envid.len() == 32 && !triggers.iter().any(|trigger| trigger.contains(envid)), "{envid}");
    let programs = Database::connect(&network.alfa.settings, "test").await.unwrap();
    let sent = programs.sent_with_envid(envid).await.unwrap().unwrap();
    let custody = programs.custody_with_envid(envid).await.unwrap().unwrap();
    assert_eq!(
        triggers,
        [
            format!("<accettazione+{}@notices.pec.internal>", sent.id),
            format!("<presa-in-carico+{}@notices.pec.internal>", custody.id)
        ]
    );
    let body = Bytes::from(queued.mail.body.clone());
    let signed = signed_parts(&queued.mail.header, &body).unwrap().content;
    assert_eq!(custody.recipients, ["Aldo@Studio.Example"], "once, as the sender wrote it");
    assert_eq!(
        (custody.provider.as_str(), custody.mail_receipt.as_str()),
        ("Alfa PEC S.p.A.", "ricevute@gestore.alfa.test")
    );
    assert_eq!(
        (&custody.identificativo, &custody.daticert, custody.taken_at),
        (&sent.identificativo, &sent.daticert, sent.signed_at)
    );
    assert_eq!((&custody.body_sha256[..], &sent.body_sha256[..]), (&sha256(&body)[..], &sha256(&body)[..]));
    assert_eq!(custody.content_sha256, sha256(&body[signed]), "whatever surrounds it: that is the envelope");

    let row =
        "concat_ws('|', event, array_to_string(recipients, ','), queue_id, envid, account, client_address)";
    let [accesso, ricezione] = &column(database, &format!("SELECT {row} FROM log ORDER BY event")).await[..]
    else {
        panic!("two rows")
    };
    assert_eq!(accesso, &format!("accesso||4jTESTqueueid|{envid}|{ANNA}|192.0.2.1"));
    assert_eq!(
        ricezione,
        &format!("ricezione|Aldo@Studio.Example|4jTESTqueueid|{envid}"),
        "nobody brought it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_others_only_makes_one_trigger() {
    let (network, access) = alfa().await;
    let queued = Mail::submitted(ANNA, &[BRUNO], LETTER.as_bytes()).give_to(access).await.queued();
    assert_eq!(
        queued.mail.recipients,
        [format!("<{BRUNO}>"), format!("<{}>", queued.recipient("accettazione+"))]
    );
    assert!(queued.recipient("accettazione+").len() > 30);
    assert!(
        column(&network.alfa.settings.database, "SELECT id FROM custody").await.is_empty(),
        "what is Beta's to answer for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_3_the_log_has_the_message_and_the_hash_of_what_was_signed() {
    let (network, access) = alfa().await;
    let queued = Mail::submitted(ANNA, &[BRUNO], LETTER.as_bytes()).give_to(access).await.queued();
    let hash = pec_core::identifier::hex(&sha256(&queued.mail.body));
    let row = "concat_ws('|', event, msgid, mittente, array_to_string(destinatari, ','), oggetto, gestore, \
        queue_id, account, client_address, encode(message_sha256, 'hex'))";
    let rows = column(&network.alfa.settings.database, &format!("SELECT {row} FROM log")).await;
    assert_eq!(
        rows,
        [format!(
            "accesso|<1@client.test>|{ANNA}|{BRUNO} (certificato)|Prova|Alfa PEC \
            S.p.A.|4jTESTqueueid|{ANNA}|192.0.2.1|{hash}"
        )]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_3_the_log_is_never_changed() {
    let (network, access) = alfa().await;
    Mail::submitted(ANNA, &[BRUNO], LETTER.as_bytes()).give_to(access).await.queued();
    let database = &network.alfa.settings.database;
    // Not even by the owner of the database, unless he takes the trigger away.
    for statement in ["UPDATE log SET oggetto = 'x'", "DELETE FROM log", "TRUNCATE log"] {
        let refused = format!(
            "DO $$ BEGIN {statement}; RAISE EXCEPTION 'done'; EXCEPTION WHEN raise_exception THEN \
             IF SQLERRM <> 'the retained log is never changed' THEN RAISE; END IF; END $$"
        );
        run(database, &refused).await;
    }
    assert_eq!(column(database, "SELECT oggetto FROM log").await, ["Prova"]);
    let granted = "SELECT string_agg(privilege_type, ' ' ORDER BY privilege_type) FROM \
        information_schema.role_table_grants \
                   WHERE grantee = 'pec_milter' AND table_name = 'log'";
    assert_eq!(column(database, granted).await, ["SELECT"]);
    // It adds rows, but neither says which number they have nor when they came in.
    let columns = "SELECT string_agg(column_name, ' ' ORDER BY ordinal_position) FROM \
        information_schema.columns c WHERE table_name = 'log' \
                   AND NOT has_column_privilege('pec_milter', 'log', column_name, 'INSERT')";
    assert_eq!(column(database, columns).await, ["seq recorded_at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_5_originals_are_carried_byte_for_byte() {
    let (network, access) = alfa().await;
    let long = "x".repeat(998);
    let parts: String = (0..2000).map(|i| format!("--b\nContent-Type: text/plain\n\n{i}\n")).collect();
    let (from, to) = ("From: anna@pec.alfa.test\n", "To: bruno@pec.beta.test\n");
    let originals: Vec<(&str, Option<&str>, Vec<u8>)> = vec![
        ("plain", Some("<1@client.test>"), LETTER.into()),
        ("no Message-ID", None, format!("{from}{to}Subject: x\n\nx\n").into()),
        ("empty body", Some("<2@x>"), format!("{from}{to}Message-ID: <2@x>\n\n").into()),
        (
            "8-bit body",
            Some("<3@x>"),
            [
                format!("{from}{to}Message-ID: <3@x>\nContent-Transfer-Encoding: 8bit\n\n").as_bytes(),
                b"citt\xe0 \xe8\n",
            ]
            .concat(),
        ),
        (
            "8-bit header",
            Some("<4@x>"),
            [format!("{from}{to}Message-ID: <4@x>\n").as_bytes(), b"Subject: citt\xe0\n\nx\n"].concat(),
        ),
        ("long lines", Some("<5@x>"), format!("{from}{to}Message-ID: <5@x>\n\n{long}\n{long}\n").into()),
        (
            "trailing blanks",
            Some("<6@x>"),
            format!("{from}{to}Message-ID: <6@x>\nX-A: b  \n\na  \nb\t\n  \n").into(),
        ),
        (
            "odd fields",
            Some("<7@x>"),
            format!(
                "{from}X:a\nX: a\nX:\ta\n{to}Message-ID: <7@x>\nY:\n folded\n\tagain\n  and \
                again\nZ:\n\nx\n"
            )
            .into(),
        ),
        ("dots", Some("<8@x>"), format!("{from}{to}Message-ID: <8@x>\n\n.\n..\n.x\n").into()),
        (
            "2,000 parts",
            Some("<9@x>"),
            format!(
                "{from}{to}Message-ID: <9@x>\nContent-Type: multipart/mixed; boundary=b\n\n{parts}--b--\n"
            )
            .into(),
        ),
        ("empty lines", Some("<10@x>"), format!("{from}{to}Message-ID: <10@x>\n\n\n\n\n\n").into()),
        (
            "our own boundary prefix",
            Some("<11@x>"),
            format!("{from}{to}Message-ID: <11@x>\n\n------=_PEC_mixed_0\n------=_PEC_signed_0--\n").into(),
        ),
    ];
    for (what, msgid, original) in originals {
        let mail = Mail::submitted(ANNA, &[BRUNO], &original);
        let queued = mail.clone().give_to(access).await.queued();
        let contents = open(&queued);
        assert_eq!(contents.daticert.msgid.as_deref(), msgid, "{what}");
        assert_eq!(queued.mail.header.text("X-Riferimento-Message-ID").as_deref(), msgid, "{what}");
        let postacert = contents.postacert.unwrap();
        let carried = as_submitted(&postacert, &queued, msgid);
        assert_eq!(String::from_utf8_lossy(&carried), String::from_utf8_lossy(&mail.to_bytes()), "{what}");
        assert_eq!(carried, mail.to_bytes(), "{what}");
        openssl_verify(&queued.mail.to_bytes(), &network.pki.ca_file())
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let encoding = if original.is_ascii() { None } else { Some("8bit".to_owned()) };
        assert_eq!(queued.mail.header.text("Content-Transfer-Encoding"), encoding, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_1_reply_to_stays_as_it_is() {
    let (_network, access) = alfa().await;
    let letter = LETTER.replace("X-Mailer: x", "Reply-To: \"Studio\"\n  <studio@studio.example>");
    let queued = Mail::submitted(ANNA, &[BRUNO], letter.as_bytes()).give_to(access).await.queued();
    assert_eq!(
        queued.mail.header.first("Reply-To").unwrap().value,
        b" \"Studio\"\r\n  <studio@studio.example>"
    );
    assert_eq!(open(&queued).daticert.risposte, "studio@studio.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_the_senders_wish_for_receipts_is_passed_on() {
    let (_network, access) = alfa().await;
    for (wish, tipo) in [
        ("Breve", TipoRicevuta::Breve),
        ("sintetica", TipoRicevuta::Sintetica),
        ("banana", TipoRicevuta::Completa),
    ] {
        let letter = LETTER.replace("X-Mailer: x", &format!("X-TipoRicevuta: {wish}"));
        let queued = Mail::submitted(ANNA, &[BRUNO], letter.as_bytes()).give_to(access).await.queued();
        assert_eq!(queued.mail.header.text("X-TipoRicevuta").as_deref(), Some(tipo.as_str()));
        assert_eq!(open(&queued).daticert.ricevuta, Some(tipo));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_5_2_only_the_accounts_own_address_sends() {
    let (network, access) = alfa().await;
    let mail = Mail::submitted(ANNA, &[BRUNO], LETTER.as_bytes());
    assert!(Mail { account: None, ..mail.clone() }.give_to(access).await.rejected().starts_with("530 5.7.0"));
    for sender in ["<altra@pec.alfa.test>", "<>", "<anna>"] {
        let refused = Mail { sender: sender.to_owned(), ..mail.clone() }.give_to(access).await.rejected();
        assert!(refused.starts_with("553 5.7.1") && refused.contains(sender), "{refused}");
    }
    Mail { sender: "<ANNA@PEC.alfa.test>".to_owned(), ..mail }.give_to(access).await.queued();
    assert_eq!(column(&network.alfa.settings.database, "SELECT 1::text FROM sent").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_submits_a_trigger() {
    let (_network, access) = alfa().await;
    for recipient in ["accettazione+00@notices.pec.internal", "presa-in-carico+00@NOTICES.PEC.internal"] {
        let refused =
            Mail::submitted(ANNA, &[BRUNO, recipient], LETTER.as_bytes()).give_to(access).await.rejected();
        assert!(refused.starts_with("550 5.1.1"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_5_who_answers_a_receipt_hears_that_nobody_reads_it() {
    let (_network, access) = alfa().await;
    for address in ["posta-certificata@gestore.alfa.test", "ricevute@Gestore.Alfa.test"] {
        let refused =
            Mail::submitted(ANNA, &[BRUNO, address], LETTER.as_bytes()).give_to(access).await.rejected();
        assert!(
            refused.starts_with("550 5.7.1")
                && refused.contains(address)
                && refused.contains("casella automatica"),
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_2_what_fails_a_check_becomes_the_notice_of_that_and_goes_nowhere() {
    let (network, access) = alfa().await;
    let letter =
        LETTER.replace("anna@", "altra@").replace("X-Mailer: x", "Bcc: x@y.test\nReceived: from somewhere");
    let queued =
        Mail::submitted(ANNA, &[BRUNO, "carla@posta.test"], letter.as_bytes()).give_to(access).await.queued();
    let header = &queued.mail.header;
    let text = |name| header.text(name).unwrap();

    assert_eq!(
        (text("X-Ricevuta").as_str(), header.first("X-VerificaSicurezza")),
        ("non-accettazione", None)
    );
    assert_eq!(text("Subject"), "AVVISO DI NON ACCETTAZIONE: Prova");
    assert_eq!((text("From").as_str(), text("To").as_str()), ("posta-certificata@gestore.alfa.test", ANNA));
    assert_eq!(text("X-Riferimento-Message-ID"), "<1@client.test>");
    assert_eq!(
        (header.first("Bcc"), header.first("Received"), header.first("X-Trasporto")),
        (None, None, None)
    );
    assert_eq!(
        (queued.mail.sender.as_str(), &queued.mail.recipients[..]),
        ("<posta-certificata@gestore.alfa.test>", &[format!("<{ANNA}>")][..])
    );

    let contents = open(&queued);
    let daticert = contents.daticert;
    assert!(contents.postacert.is_none(), "the original must not be included");
    assert_eq!(
        (daticert.tipo, daticert.errore, daticert.mittente.as_str()),
        (Tipo::NonAccettazione, Errore::Altro, ANNA)
    );
    let causes = "indirizzo nel campo From (altra@pec.alfa.test) diverso da quello del mittente \
        (anna@pec.alfa.test); \
                  destinatari in copia nascosta (campo Bcc) non ammessi; destinatario carla@posta.test non \
        presente nei campi To o Cc";
    assert_eq!(daticert.errore_esteso.as_deref(), Some(causes));
    xmllint_valid(&daticert.to_xml()).unwrap();
    openssl_verify(&queued.mail.to_bytes(), &network.pki.ca_file()).unwrap();
    let body = String::from_utf8_lossy(&queued.mail.body).replace("=\r\n", "").replace("=E8", "è");
    assert!(
        body.contains(&format!(
            "è stato rilevato un problema che ne impedisce l'accettazione\r\na causa di {causes}.\r\nIl \
            messaggio non è stato accettato."
        )),
        "{body}"
    );
    assert!(!body.contains("Ciao"), "{body}");

    // The fact's id is the envelope id by which pec-delivery knows the notice.
    let database = &network.alfa.settings.database;
    let envid = envid(&queued).unwrap();
    let fact = "concat_ws('|', id, kind, message_id, encode(notice_sha256, 'hex'))";
    let hash = pec_core::identifier::hex(&sha256(&queued.mail.body));
    let expected =
        format!("{}|non-accettazione|{}|{hash}", envid, text("Message-ID").trim_matches(['<', '>']));
    assert_eq!(column(database, &format!("SELECT {fact} FROM fact")).await, [expected]);
    assert_eq!(
        column(database, "SELECT concat_ws('|', event, msgid, account, error) FROM log").await,
        [format!("non-accettazione|<1@client.test>|{ANNA}|{causes}")]
    );
    assert!(column(database, "SELECT id FROM sent UNION ALL SELECT id FROM custody").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_2_a_message_to_oneself_is_not_delivered_for_that() {
    let (network, access) = alfa().await;
    let letter = LETTER
        .replace("To: bruno@pec.beta.test", "To: Anna@pec.alfa.test")
        .replace("X-Mailer: x", "X-Trasporto: errore");
    let queued =
        Mail::submitted(ANNA, &["Anna@PEC.alfa.test"], letter.as_bytes()).give_to(access).await.queued();
    assert_eq!(queued.mail.recipients, ["<Anna@PEC.alfa.test>"]);
    assert_eq!(queued.mail.header.text("X-Ricevuta").as_deref(), Some("non-accettazione"));
    assert_eq!(queued.mail.header.first("X-Trasporto"), None);
    assert!(column(&network.alfa.settings.database, "SELECT id FROM custody").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_2_a_message_id_that_is_none_is_not_repeated() {
    let (_network, access) = alfa().await;
    let letter = LETTER.replace("<1@client.test>", "parole sue");
    let queued = Mail::submitted(ANNA, &[BRUNO], letter.as_bytes()).give_to(access).await.queued();
    assert_eq!(queued.mail.header.first("X-Riferimento-Message-ID"), None);
    let daticert = open(&queued).daticert;
    assert_eq!(
        (daticert.msgid, daticert.errore_esteso.as_deref()),
        (None, Some("campo Message-ID non valido (\"parole sue\")"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_2_what_is_too_large_or_cut_by_postfix_is_refused() {
    let mut network = Network::new().await;
    network.alfa.settings = Settings { message_size_limit: 100_000, ..network.alfa.settings.clone() };
    let access = start(AccessPoint::new(network.world(&network.alfa).await), ()).await;
    let large = format!("{LETTER}{}", "0123456789\n".repeat(10_000));
    let refused = Mail::submitted(ANNA, &[BRUNO], large.as_bytes()).give_to(access).await.rejected();
    assert!(refused.starts_with("552 5.3.4") && refused.contains("100000"), "{refused}");
    let cut = LETTER.replace("X-Mailer: x", &format!("X-Mailer: {}", "x ".repeat(30_000)));
    let refused = Mail::submitted(ANNA, &[BRUNO], cut.as_bytes()).give_to(access).await.rejected();
    assert!(refused.starts_with("554 5.6.0") && refused.contains("60000"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_database_nothing_is_accepted() {
    let (network, access) = alfa().await;
    let name = network.alfa.settings.database.rsplit('=').next().unwrap().to_owned();
    run(&std::env::var("PEC_TEST_DATABASE").unwrap(), &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    let deferred = Mail::submitted(ANNA, &[BRUNO], LETTER.as_bytes()).give_to(access).await.deferred();
    assert!(deferred.starts_with("451 4.3.0"), "{deferred}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_takes_no_rows_nothing_is_accepted() {
    let network = Network::new().await;
    let database = &network.alfa.settings.database;
    let name = database.rsplit('=').next().unwrap();
    run(database, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let access = start(AccessPoint::new(network.world(&network.alfa).await), ()).await;
    let wrong = LETTER.replace("From: Anna <anna@pec.alfa.test>\n", "");
    for (mail, what) in
        [(to_three(), "an envelope"), (Mail::submitted(ANNA, &[BRUNO], wrong.as_bytes()), "a notice")]
    {
        let deferred = mail.give_to(access).await.deferred();
        assert!(deferred.starts_with("451 4.3.0"), "{what}: {deferred}");
    }
    let rows = "SELECT id FROM sent UNION ALL SELECT id FROM custody UNION ALL SELECT id FROM fact UNION \
        ALL SELECT event FROM log";
    assert!(column(database, rows).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_messages_on_one_connection_do_not_mix() {
    let (network, access) = alfa().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let queued = Mail::submitted(ANNA, &[BRUNO], LETTER.as_bytes()).give_to(access).await.queued();
        ids.push(open(&queued).daticert.identificativo);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "every message has an identifier of its own");
    assert_eq!(
        column(&network.alfa.settings.database, "SELECT identificativo FROM sent ORDER BY 1").await.len(),
        3
    );
    assert!(ids.iter().all(|id| id.ends_with("@gestore.alfa.test")));
}

/// Alfa's Access Point, and its pec-delivery behind the queue.
async fn alfa_and_its_delivery() -> (Network, std::net::SocketAddr, Delivery) {
    let (network, access) = alfa().await;
    let delivery = Delivery::start(&network, &network.alfa).await;
    (network, access, delivery)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_point_knows_every_copy_of_an_envelope_that_was_accepted() {
    let (network, access, delivery) = alfa_and_its_delivery().await;
    let queued = to_three().give_to(access).await.queued();
    let (acceptance, presa_in_carico) =
        (queued.recipient("accettazione+"), queued.recipient("presa-in-carico+"));
    // "aldo" is "Aldo": whoever is named twice has one copy and one receipt.
    for recipient in ["Aldo@Studio.Example", "aldo@studio.example", &acceptance, &presa_in_carico] {
        assert_eq!(delivery.bring(&queued, recipient).await, DONE, "{recipient}");
    }
    let delivered = network.alfa.mailboxes.taken();
    let [envelope] = &delivered[..] else { panic!("{} deliveries", delivered.len()) };
    assert_eq!(
        (envelope.recipient.as_str(), envelope.mail().sender),
        ("Aldo@Studio.Example", format!("<{ANNA}>"))
    );
    assert_eq!(envelope.mail().body, queued.mail.body);
    let mut notices: Vec<_> = network
        .alfa
        .mailboxes_no_quota
        .taken()
        .iter()
        .map(|n| (n.mail().header.text("X-Ricevuta").unwrap(), n.recipient.clone()))
        .collect();
    notices.sort();
    let notice = |kind: &str, to: &str| (kind.to_owned(), to.to_owned());
    let of_alfa = "ricevute@gestore.alfa.test";
    assert_eq!(
        notices,
        [notice("accettazione", ANNA), notice("avvenuta-consegna", ANNA), notice("presa-in-carico", of_alfa)]
    );
    assert!(network.alfa.outgoing.taken().is_empty());

    // Bruno's copy is for Beta, and for no mailbox here; and no copy is for whom it was not sent to.
    for stranger in [BRUNO, "carla@posta.test", "carlo@studio.example"] {
        let refused = delivery.bring(&queued, stranger).await;
        assert!(refused.starts_with("451 "), "{refused}");
    }
    assert!(network.alfa.mailboxes.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_1_the_notice_of_non_acceptance_reaches_a_full_mailbox() {
    let (network, access, delivery) = alfa_and_its_delivery().await;
    network.alfa.mailboxes.answer_recipient(ANNA, Some("552 5.2.2 full"));
    let letter = LETTER.replace("From: Anna <anna@pec.alfa.test>\n", "");
    let queued = Mail::submitted(ANNA, &[BRUNO], letter.as_bytes()).give_to(access).await.queued();
    assert_eq!(delivery.bring_all(&queued).await, [DONE]);
    assert_eq!(delivery.bring_all(&queued).await, [DONE], "Postfix did not hear it the first time");
    let taken = network.alfa.mailboxes_no_quota.taken();
    let [notice] = &taken[..] else { panic!("{} copies", taken.len()) };
    assert_eq!(
        (notice.recipient.as_str(), notice.mail().sender),
        (ANNA, "<posta-certificata@gestore.alfa.test>".to_owned())
    );
    assert_eq!(notice.mail().body, queued.mail.body);
}
