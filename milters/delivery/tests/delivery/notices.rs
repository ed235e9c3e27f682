//! From a fact to its notice, and the notice into somebody's custody.

use openssl::sha::sha256;
use pec_core::clock::Moment;
use pec_core::identifier::hex;
use pec_state::authentic::Authentic;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::rows::{Custody, Fact, FactKind, MadeNotice, TimeSource};
use pec_state::trigger::Trigger;
use pec_test_support::log::Log;
use pec_test_support::network::{LETTER, Network, envelope};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::Mail;

use crate::scene::{ANNA, BRUNO, Delivery, ENVID, daticert_in, notice, only, to};

const SERVICE: &str = "posta-certificata@gestore.alfa.test";

/// A fact about an envelope in custody that is written and has no notice yet; the message that comes round
/// for it.
pub(crate) async fn held(
    delivery: &Delivery,
    custody: &Authentic<Custody>,
    kind: FactKind,
    recipient: &str,
    status: &str,
) -> (Fact, Mail) {
    let fact = Fact {
        recipient: recipient.to_owned(),
        time_source: TimeSource::Report,
        status: status.to_owned(),
        ..Fact::new(kind, custody, Moment::from_unix(NOW), "gestore.test").unwrap()
    };
    delivery.database.insert_fact_without_notice(&fact).await.unwrap();
    let trigger = Trigger::notice(kind, &fact.id);
    let name = trigger.name();
    let mail = Mail::submitted(
        "",
        &[&format!("{name}@notices.pec.internal")],
        b"From: x@y.test\nSubject: x\n\nwords\n",
    );
    delivery.database.insert_trigger_bodies(&[trigger], &openssl::sha::sha256(&mail.body)).await.unwrap();
    (fact, mail)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_whose_addressee_is_gone_lies_in_the_service_mailbox() {
    let log = Log::start();
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let trigger = alfa.signed(&mail, "aa11", ENVID).await;
    alfa.no_quota.answer_recipient(ANNA, Some("550 5.1.1 no such user"));
    let why = alfa.not_triggered(&trigger).await;
    assert!(why.contains("asked again"), "once is not believed: {why}");
    network.clock.set(Moment::from_unix(NOW + 60));
    // Neither of them takes it: it stays with Postfix.
    alfa.no_quota.answer_message(SERVICE, Some("550 5.7.1 nor here"));
    let why = alfa.not_triggered(&trigger).await;
    assert!(why.contains("neither") && why.contains(ANNA), "{why}");
    alfa.nobody_got_anything();
    alfa.no_quota.answer_message(SERVICE, None);
    alfa.triggered(&trigger).await;
    let kept = alfa.notice_in_mailbox();
    assert_eq!(kept.recipient, SERVICE);
    notice(&network, &kept, "accettazione");
    let message_id = kept.mail().header.text("Message-ID").unwrap();
    let said = log.lines(&[
        "ERROR",
        "a notice has no addressee any more",
        message_id.trim_matches(['<', '>']),
        "5.1.1",
    ]);
    assert_eq!(said.len(), 1, "the administrator is told");
    alfa.triggered(&trigger).await;
    alfa.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_that_a_mailbox_may_have_and_whose_owner_is_gone_lies_in_the_service_mailbox() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let trigger = alfa.signed(&mail, "aa11", ENVID).await;
    alfa.no_quota.lose_answers(1);
    alfa.not_triggered(&trigger).await;
    only(alfa.no_quota.taken());
    alfa.no_quota.answer_recipient(ANNA, Some("550 5.1.1 no such user"));
    alfa.not_triggered(&trigger).await;
    network.clock.set(Moment::from_unix(NOW + 60));
    alfa.triggered(&trigger).await;
    assert_eq!(alfa.notice_in_mailbox().recipient, SERVICE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_a_second_notice_of_the_same_bytes() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let trigger = alfa.signed(&mail, "aa11", ENVID).await;
    alfa.no_quota.lose_answers(1);
    alfa.not_triggered(&trigger).await;
    let first = alfa.notice_in_mailbox();
    network.clock.set(Moment::from_unix(NOW + 600));
    alfa.triggered(&trigger).await;
    assert_eq!(alfa.notice_in_mailbox().data, first.data);
    // The mailbox's second is kept, and nobody has anything to do with it any more.
    let taken = "SELECT (extract(epoch FROM answered_at)::int8)::text FROM handover WHERE what = 'taken'";
    assert_eq!(alfa.rows(taken).await, [(NOW + 600).to_string()]);
    assert_eq!(alfa.rows("SELECT handed_over::text FROM fact").await, ["true"]);
    alfa.triggered(&trigger).await;
    alfa.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postfix_does_not_take_is_not_given_up() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let trigger = beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let receipts = "ricevute@gestore.alfa.test";
    for answer in ["554 5.7.1 Relay access denied", "451 4.3.0 queue file write error", "552 5.3.4 too large"]
    {
        beta.outgoing.answer_recipient(receipts, Some(answer));
        let why = beta.not_triggered(&trigger).await;
        assert!(why.contains(answer), "{why}");
    }
    assert_eq!(beta.rows("SELECT handed_over::text FROM fact").await, ["false"]);
    beta.outgoing.answer_recipient(receipts, None);
    beta.outgoing.lose_messages(1);
    beta.not_triggered(&trigger).await;
    beta.triggered(&trigger).await;
    beta.sent_out();
    beta.triggered(&trigger).await;
    beta.nobody_got_anything();
    assert_eq!(
        beta.rows("SELECT event FROM log WHERE event <> 'ricezione'").await,
        ["presa-in-carico"],
        "one row for one notice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_that_would_differ_without_reason_is_held_back() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let custody = beta.database.custody("bb11").await.unwrap().unwrap();
    let (fact, trigger) = held(&beta, &custody, FactKind::ErroreConsegna, BRUNO, "5.2.2").await;
    let known = beta.database.fact_with_id(&fact.id).await.unwrap().unwrap();
    let other = MadeNotice { sha256: vec![0; 32], with: network.world(&network.beta).await.made_with() };
    let log =
        Entry::new(Event::Notice(FactKind::ErroreConsegna), &daticert_in(&mail), fact.happened_at, "4j");
    assert!(beta.database.insert_made(&known, &other, &log, ANNA).await.unwrap().is_some());
    let why = beta.not_triggered(&trigger).await;
    assert!(why.contains("differently than the first time, and nothing explains it"), "{why}");
    beta.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_explains_other_bytes() {
    let log = Log::start();
    let mut network = Network::new().await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let before = Delivery::start(&network, &network.alfa).await;
    let trigger = before.signed(&mail, "aa11", ENVID).await;
    before.no_quota.lose_answers(1);
    before.not_triggered(&trigger).await;
    let first = before.notice_in_mailbox();
    network.certify_alfa(&[]);
    network.write_directory(&[&network.alfa, &network.beta]);
    let after = Delivery::start(&network, &network.alfa).await;
    after.triggered(&trigger).await;
    let second = after.notice_in_mailbox();
    assert_eq!(
        notice(&network, &second, "accettazione"),
        notice(&network, &first, "accettazione"),
        "it says the same"
    );
    assert_ne!(second.data, first.data);
    let message_id = first.mail().header.text("Message-ID").unwrap();
    assert_eq!(second.mail().header.text("Message-ID").as_ref(), Some(&message_id));
    assert_eq!(
        log.lines(&["WARN", "notice made again with other bytes", message_id.trim_matches(['<', '>'])]).len(),
        1
    );
    // A row for each that was made; what comes back of the one that was handed over last is known.
    let hashes = [&first, &second].map(|taken| hex(&sha256(&taken.mail().body)));
    assert_eq!(
        after
            .rows("SELECT encode(message_sha256, 'hex') FROM log WHERE event = 'accettazione' ORDER BY seq")
            .await,
        hashes
    );
    assert_eq!(after.rows("SELECT encode(notice_sha256, 'hex') FROM fact").await, hashes[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_over_is_not_made_again_where_it_could_not_be() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let (trigger, other) =
        (alfa.signed(&mail, "aa11", ENVID).await, envelope(&network, &network.alfa, &[BRUNO], LETTER));
    let other = alfa.signed(&other, "aa22", "other").await;
    alfa.triggered(&trigger).await;
    alfa.notice_in_mailbox();
    // Our certificate is over.
    network.clock.set(Moment::from_unix(NOW + 20 * 365 * 86_400));
    let why = alfa.not_triggered(&other).await;
    assert!(why.contains("our certificate has expired"), "{why}");
    alfa.triggered(&trigger).await;
    alfa.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mailbox_said_is_a_fact_though_no_receipt_can_be_signed_now() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let (then, now) = (Moment::from_unix(NOW + 20 * 365 * 86_400), Moment::from_unix(NOW));
    network.clock.set(then);
    beta.waits(&mail, ENVID).await;
    only(beta.mailboxes.taken());
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
    // With another certificate, say.
    network.clock.set(now);
    beta.delivered(&mail, ENVID).await;
    assert_eq!(notice(&network, &beta.sent_out(), "avvenuta-consegna").data, then);
    assert!(beta.mailboxes.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_of_a_message_from_nobody_here_waits() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let custody = beta.database.custody("bb11").await.unwrap().unwrap();
    // No such notice is made of what came from another provider.
    let (_, trigger) = held(&beta, &custody, FactKind::Preavviso12, BRUNO, "").await;
    let why = beta.not_triggered(&trigger).await;
    assert!(why.contains("which no row has"), "{why}");
    let (_, trigger) = held(&beta, &custody, FactKind::AvvenutaConsegna, BRUNO, "").await;
    let why = beta.not_triggered(&trigger).await;
    assert!(why.contains("made of its envelope"), "without the original there is no receipt: {why}");
    beta.nobody_got_anything();
    beta.delivered(&to(&mail, BRUNO), ENVID).await;
    assert!(beta.mailboxes.taken().is_empty(), "that he has it is a fact");
    notice(&network, &beta.sent_out(), "avvenuta-consegna");
}
