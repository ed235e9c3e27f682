//! Triggers: copies that Postfix's queue manager sends round, or pec-clock brings.

use pec_core::clock::Moment;
use pec_core::header::Field;
use pec_core::identifier::{fresh, hex};
use pec_state::rows::FactKind;
use pec_state::trigger::Trigger;
use pec_test_support::log::Log;
use pec_test_support::network::{Network, daticert_of, envelope};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::Mail;

use crate::notices::held;
use crate::scene::{ANNA, BRUNO, CARLO, Delivery, ENVID, LETTER, OTHER_ENVID, notice, open, to};

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_4_the_envelope_in_the_queue_becomes_the_acceptance() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], LETTER);
    alfa.triggered(&alfa.signed(&mail, "aa11", ENVID).await).await;

    let taken = alfa.notice_in_mailbox();
    let daticert = notice(&network, &taken, "accettazione");
    assert_eq!(taken.recipient, ANNA);
    assert!(taken.sender.starts_with("<posta-certificata@gestore.alfa.test>"), "{}", taken.sender);
    let header = |name| taken.mail().header.text(name).unwrap();
    assert_eq!(
        (header("From").as_str(), header("To").as_str()),
        ("posta-certificata@gestore.alfa.test", ANNA)
    );
    assert_eq!(header("Subject"), "ACCETTAZIONE: Citt=");
    assert_eq!(daticert.data, Moment::from_unix(NOW - 60), "the second of the envelope");
    assert_eq!(
        (daticert.destinatari.len(), daticert.ricevuta, open(&taken.mail()).postacert),
        (2, None, None)
    );
    assert_eq!(alfa.rows("SELECT kind FROM fact").await, ["accettazione"]);
    let sha256 = hex(&openssl::sha::sha256(&taken.mail().body));
    let row = "SELECT concat_ws('|', message_id, encode(message_sha256, 'hex'), certified_by, envid) FROM \
        log WHERE event = 'accettazione'";
    assert_eq!(
        alfa.rows(row).await,
        [format!("{}|{sha256}|Alfa PEC S.p.A.|{ENVID}", header("Message-ID").trim_matches(['<', '>']))]
    );
    alfa.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_taken_at_the_limit_of_hops_leaves_nothing_behind_in_its_notice() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mut mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let hop = Field::written("Received", "from a.test by b.test; Thu, 19 Nov 2026 00:00:00 +0100");
    mail.header.fields_mut().splice(0..0, std::iter::repeat_n(hop, 55));
    alfa.triggered(&alfa.signed(&mail, "aa11", ENVID).await).await;
    notice(&network, &alfa.notice_in_mailbox(), "accettazione");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_notice_for_each_fact_a_repeat_is_no_second_notice_and_no_second_row() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let trigger = alfa.signed(&mail, "aa11", ENVID).await;
    alfa.triggered(&trigger).await;
    alfa.notice_in_mailbox();
    network.clock.set(Moment::from_unix(NOW + 86_400));
    for _ in 0..3 {
        alfa.triggered(&trigger).await;
    }
    alfa.nobody_got_anything();
    assert_eq!(alfa.rows("SELECT event FROM log ORDER BY seq").await, ["accesso", "accettazione"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_comes_round_several_times_at_once_is_one_fact() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let trigger = alfa.signed(&mail, "aa11", ENVID).await;
    tokio::join!(
        alfa.triggered(&trigger),
        alfa.triggered(&trigger),
        alfa.triggered(&trigger),
        alfa.triggered(&trigger)
    );
    let notices = alfa.no_quota.taken();
    assert!(
        notices.iter().all(|taken| taken.data == notices[0].data),
        "what is made twice is the same bytes"
    );
    assert_eq!(alfa.rows("SELECT event FROM log ORDER BY seq").await, ["accesso", "accettazione"]);
    alfa.triggered(&trigger).await;
    alfa.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_our_programs_makes_a_trigger_work() {
    let log = Log::start();
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = Mail { queue_id: fresh().unwrap(), ..envelope(&network, &network.alfa, &[BRUNO], LETTER) };
    let accettazione = alfa.signed(&mail, "aa11", ENVID).await;
    let presa_in_carico = alfa.in_custody(&mail, &[BRUNO], "bb11", OTHER_ENVID).await;
    let custody = alfa.database.custody("bb11").await.unwrap().unwrap();
    let (fact, errore) = held(&alfa, &custody, FactKind::ErroreConsegna, BRUNO, "5.2.2").await;
    let other_bytes = |mail: &Mail| Mail { body: [&mail.body[..], b"x\r\n"].concat(), ..mail.clone() };
    let of = |name: &str| to(&mail, &format!("{name}@notices.pec.internal"));
    for (what, trigger) in [
        ("a made-up id", of("accettazione+ffff")),
        ("a made-up id of a copy", of("presa-in-carico+ffff")),
        ("a made-up id of a fact", of("errore-consegna+ffff")),
        ("a made-up id of a notice", of("rispedizione+ffff")),
        ("a real id and other bytes", other_bytes(&accettazione)),
        ("a real id of a copy and other bytes", other_bytes(&presa_in_carico)),
        ("a real id of a fact and other bytes", other_bytes(&errore)),
        (
            "a real id of a fact and the envelope's bytes",
            of(&Trigger::notice(FactKind::ErroreConsegna, &fact.id).name()),
        ),
        (
            "a real id of a notice and the bytes of another trigger",
            to(&errore, &format!("rispedizione+{}@notices.pec.internal", fact.id)),
        ),
        (
            "a real id of a fact of another kind",
            to(&errore, &format!("rilevazione-virus+{}@notices.pec.internal", fact.id)),
        ),
        ("an id of another kind", of("presa-in-carico+aa11")),
        ("a fact that is none", of("avvenuta-consegna+aa11")),
        ("no kind at all", of("nonsense+aa11")),
        ("no id", of("accettazione")),
    ] {
        let trigger = Mail { queue_id: fresh().unwrap(), ..trigger };
        alfa.not_triggered(&trigger).await;
        let said = log.lines(&[
            "ERROR",
            "the trigger is not believed",
            &trigger.queue_id,
            trigger.recipients[0].trim_matches(['<', '>']),
        ]);
        assert_eq!(said.len(), 1, "{what}");
    }
    alfa.nobody_got_anything();
    assert_eq!(alfa.rows("SELECT id FROM fact").await, [fact.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_1_the_envelope_in_the_queue_becomes_the_presa_in_carico() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO, "altro@pec.alfa.test"], LETTER);
    beta.triggered(&beta.in_custody(&mail, &[BRUNO, "nessuno@pec.beta.test"], "bb11", ENVID).await).await;
    let sent = beta.sent_out();
    let daticert = notice(&network, &sent, "presa-in-carico");
    assert_eq!(sent.recipient, "ricevute@gestore.alfa.test");
    assert_eq!(sent.mail().header.text("Subject").as_deref(), Some("PRESA IN CARICO: Citt="));
    assert_eq!(
        daticert.ricezione,
        [BRUNO, "nessuno@pec.beta.test"],
        "those of this copy, unknown ones included"
    );
    assert_eq!(
        (daticert.destinatari.len(), daticert.data, daticert.gestore_emittente.as_str()),
        (3, Moment::from_unix(NOW), "Beta Posta S.r.l.")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_to_five_hundred_recipients_here_has_one_presa_in_carico() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let random = || fresh().unwrap();
    let recipients: Vec<String> =
        (0..500).map(|_| format!("{}{}@pec.beta.test", random(), random())).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let mail = envelope(&network, &network.alfa, &recipients, LETTER);
    let (first, second) = (
        beta.in_custody(&mail, &recipients, "bb11", ENVID).await,
        beta.in_custody(&mail, &recipients, "bb22", OTHER_ENVID).await,
    );
    beta.triggered(&first).await;
    assert_eq!(notice(&network, &beta.sent_out(), "presa-in-carico").ricezione, recipients);
    beta.triggered(&second).await;
    beta.nobody_got_anything();
    assert_eq!(beta.rows("SELECT source FROM fact").await, ["bb11"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_an_envelope_get_one_presa_in_carico() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let (first, second) = (
        beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await,
        beta.in_custody(&mail, &[BRUNO], "bb22", OTHER_ENVID).await,
    );
    // What became of the first one's notice is not known: the second copy makes it again.
    beta.outgoing.lose_answers(1);
    beta.not_triggered(&first).await;
    let sent = beta.sent_out();
    network.clock.set(Moment::from_unix(NOW + 600));
    beta.triggered(&second).await;
    assert_eq!(beta.sent_out().data, sent.data);
    beta.triggered(&first).await;
    beta.nobody_got_anything();
    assert_eq!(beta.rows("SELECT source FROM fact").await, ["bb11"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_1_a_message_without_message_id_gets_none_invented() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail =
        envelope(&network, &network.alfa, &[BRUNO], &LETTER.replace("Message-ID: <1@client.test>\n", ""));
    assert_eq!(daticert_of(&network.alfa, &[BRUNO], &pec_core::header::Header::default()).msgid, None);
    alfa.triggered(&alfa.signed(&mail, "aa11", ENVID).await).await;
    let taken = alfa.notice_in_mailbox();
    assert_eq!(notice(&network, &taken, "accettazione").msgid, None);
    assert_eq!(taken.mail().header.first("X-Riferimento-Message-ID"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_3_a_fact_that_another_program_wrote_becomes_its_notice() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let custody = beta.database.custody("bb11").await.unwrap().unwrap();
    let (fact, trigger) =
        held(&beta, &custody, FactKind::RilevazioneVirus, BRUNO, "Eicar-Test-Signature").await;
    beta.triggered(&trigger).await;
    let sent = beta.sent_out();
    let daticert = notice(&network, &sent, "rilevazione-virus");
    assert_eq!(
        (sent.recipient.as_str(), daticert.consegna.as_deref()),
        ("ricevute@gestore.alfa.test", Some(BRUNO))
    );
    assert_eq!(daticert.errore_esteso.as_deref(), Some("Eicar-Test-Signature"));
    assert_eq!(sent.mail().header.text("Message-ID"), Some(format!("<{}>", fact.message_id)));
    assert_eq!(
        beta.rows("SELECT event FROM log WHERE event <> 'ricezione'").await,
        ["rilevazione-virus"],
        "its log row comes with the notice"
    );
}
