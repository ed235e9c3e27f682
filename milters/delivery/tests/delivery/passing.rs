//! What a milter let pass besides envelopes: receipts, anomalies, reports, and the notice that a submission
//! became.

use pec_core::clock::Moment;
use pec_core::daticert::{Errore, Tipo};
use pec_core::identifier::fresh;
use pec_core::message::Body;
use pec_core::notices::non_accettazione::non_accettazione;
use pec_core::notices::{Issuer, service_address};
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::rows::{About, Fact, FactKind, MadeNotice, NotAccepted, PassedKind};
use pec_test_support::lmtp::bring_one;
use pec_test_support::log::Log;
use pec_test_support::network::{Network, daticert_of};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::Mail;

use crate::scene::{ALDO, ANNA, Delivery, ENVID, OTHER_ENVID, only, to};

fn a_message() -> Mail {
    Mail::submitted(
        "qualcuno@posta.test",
        &[ANNA],
        b"From: qualcuno@posta.test\nTo: anna@pec.alfa.test\nSubject: x\n\n.un punto\nCiao\n",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_milter_let_pass_reaches_its_mailbox_as_it_is_and_once() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let kinds = [
        (PassedKind::RicevutaDovuta, false),
        (PassedKind::Ricevuta, true),
        (PassedKind::Anomalia, true),
        (PassedKind::Rapporto, false),
        (PassedKind::Locale, true),
    ];
    for (kind, counts_quota) in kinds {
        let (mail, envid) = (a_message(), kind.as_str());
        alfa.passes(&mail, kind, &[ANNA], envid).await;
        let (by, not_by) =
            if counts_quota { (&alfa.mailboxes, &alfa.no_quota) } else { (&alfa.no_quota, &alfa.mailboxes) };
        alfa.delivered(&mail, envid).await;
        let taken = only(by.taken());
        assert_eq!((&taken.data[..], taken.recipient.as_str()), (&mail.to_bytes()[..], ANNA), "{kind:?}");
        assert!(taken.sender.starts_with("<qualcuno@posta.test>"), "{kind:?}: {}", taken.sender);
        // Postfix did not hear it.
        alfa.delivered(&mail, envid).await;
        assert!(by.taken().is_empty() && not_by.asked().is_empty(), "{kind:?}");
        assert_eq!(by.asked(), [ANNA], "{kind:?}: once");
    }
    assert!(alfa.facts().await.is_empty(), "nothing is certified of it");
    assert!(alfa.outgoing.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_goes_back_for_postfix_to_tell_and_anything_else_waits() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = a_message();
    alfa.passes(&mail, PassedKind::Anomalia, &[ANNA], ENVID).await;
    for answer in ["451 4.2.0 locked", "452 4.2.2 full for now"] {
        alfa.mailboxes.answer_message(ANNA, Some(answer));
        let why = alfa.waits(&mail, ENVID).await;
        assert!(why.contains(answer), "{why}");
    }
    alfa.mailboxes.answer_message(ANNA, Some("552 5.2.2 mailbox full"));
    assert_eq!(alfa.brought(&mail, ENVID).await, "552 5.2.2 mailbox full");
    alfa.mailboxes.answer_recipient(ANNA, Some("550 5.1.1 no such user"));
    network.clock.set(Moment::from_unix(NOW + 1));
    alfa.waits(&mail, ENVID).await;
    network.clock.set(Moment::from_unix(NOW + 6));
    assert_eq!(alfa.brought(&mail, ENVID).await, "550 5.1.1 no such user");
    alfa.nobody_got_anything();
    assert!(alfa.facts().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mailbox_says_no_to_what_counts_and_yes_to_what_is_due() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    alfa.mailboxes.answer_recipient(ANNA, Some("552 5.2.2 mailbox full"));
    let mail = a_message();
    alfa.passes(&mail, PassedKind::Ricevuta, &[ANNA], ENVID).await;
    alfa.passes(&mail, PassedKind::RicevutaDovuta, &[ANNA], OTHER_ENVID).await;
    assert_eq!(alfa.brought(&mail, ENVID).await, "552 5.2.2 mailbox full");
    alfa.delivered(&mail, OTHER_ENVID).await;
    only(alfa.no_quota.taken());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_costs_a_second_copy_and_no_refusal_is_believed_after_it() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = a_message();
    alfa.passes(&mail, PassedKind::Anomalia, &[ANNA], ENVID).await;
    alfa.mailboxes.lose_answers(1);
    alfa.waits(&mail, ENVID).await;
    alfa.mailboxes.answer_message(ANNA, Some("552 5.2.2 mailbox full"));
    alfa.waits(&mail, ENVID).await;
    alfa.mailboxes.answer_message(ANNA, None);
    alfa.delivered(&mail, ENVID).await;
    assert_eq!(alfa.mailboxes.taken().len(), 2);
    alfa.delivered(&mail, ENVID).await;
    alfa.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_and_other_recipients_are_not_what_was_let_pass() {
    let log = Log::start();
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = Mail { queue_id: fresh().unwrap(), ..a_message() };
    alfa.passes(&mail, PassedKind::Anomalia, &[ANNA], ENVID).await;
    let other_bytes = Mail { body: [&mail.body[..], b"x\r\n"].concat(), ..mail.clone() };
    for (n, mail) in [other_bytes, to(&mail, ALDO)].iter().enumerate() {
        alfa.waits(mail, ENVID).await;
        let alarms = log.lines(&[
            "ERROR",
            "alarm: a message that no milter let in",
            "not what a milter let pass",
            &mail.queue_id,
        ]);
        assert_eq!(alarms.len(), n + 1);
    }
    alfa.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_3_the_notice_that_a_submission_became_reaches_its_sender_whose_mailbox_is_full() {
    let log = Log::start();
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let (mail, fact) = not_accepted(&network, &alfa).await;
    alfa.mailboxes.answer_recipient(ANNA, Some("552 5.2.2 mailbox full"));
    // Under its envelope id nothing else comes, and to nobody else.
    for mail in [&Mail { body: [&mail.body[..], b"x\r\n"].concat(), ..mail.clone() }, &to(&mail, ALDO)] {
        alfa.waits(mail, &fact).await;
        assert!(
            !log.lines(&[
                "ERROR",
                "alarm: a message that no milter let in",
                "not the notice",
                &mail.queue_id
            ])
            .is_empty()
        );
    }
    alfa.nobody_got_anything();
    alfa.delivered(&mail, &fact).await;
    assert_eq!(alfa.notice_in_mailbox().data, mail.to_bytes());
    alfa.delivered(&mail, &fact).await;
    alfa.nobody_got_anything();
    assert_eq!(
        alfa.rows("SELECT handed_over::text FROM fact").await,
        ["true"],
        "nobody has anything to do with it any more"
    );
}

/// A submission that was not accepted: what it became, and the id of its fact.
pub(crate) async fn not_accepted(network: &Network, alfa: &Delivery) -> (Mail, String) {
    let signer = network.signer(&network.alfa);
    let settings = &network.alfa.settings;
    let issuer = Issuer {
        provider_name: &settings.provider_name,
        service_domain: &settings.service_domain,
        signer: &signer,
    };
    let submitted = Mail { queue_id: fresh().unwrap(), ..a_message() };
    let about = daticert_of(&network.alfa, &["bruno@pec.beta.test"], &submitted.header);
    let mut daticert =
        about.about_same_message(Tipo::NonAccettazione, &settings.provider_name, Moment::from_unix(NOW));
    (daticert.errore, daticert.errore_esteso) = (Errore::Altro, Some("perché no".to_owned()));
    let notice = non_accettazione(issuer, &daticert, "because", "2@gestore.alfa.test").unwrap();

    let refused = NotAccepted {
        id: fresh().unwrap(),
        provider: settings.provider_name.clone(),
        daticert: daticert.to_xml(),
        inglese: "because".into(),
    };
    let refused = alfa.database.authentic(refused).unwrap();
    let about = About {
        provider: &refused.provider,
        identificativo: &daticert.identificativo,
        source: &refused.id,
        source_mac: refused.mac(),
    };
    let fact = Fact {
        message_id: "2@gestore.alfa.test".into(),
        ..Fact::new(FactKind::NonAccettazione, about, Moment::from_unix(NOW), "gestore.alfa.test").unwrap()
    };
    let (id, made) =
        (fact.id.clone(), MadeNotice { sha256: notice.body.sha256().to_vec(), with: "x".into() });
    let log = Entry::new(Event::Notice(FactKind::NonAccettazione), &daticert, fact.happened_at, "4j");
    alfa.database.insert_not_accepted(&refused, fact, &made, &log).await.unwrap();
    let sender = format!("<{}>", service_address(&settings.service_domain));
    let body = Body::into_bytes(notice.body).to_vec();
    (Mail { sender, recipients: vec![format!("<{ANNA}>")], header: notice.header, body, ..submitted }, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn by_each_socket_comes_what_is_meant_for_it() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = a_message();
    alfa.passes(&mail, PassedKind::Anomalia, &[ANNA], ENVID).await;
    // A map that leads astray: nothing is refused for good, nothing is done.
    assert!(alfa.round(&mail).await.starts_with("450 4.3.5 "));
    let trigger = to(&mail, "accettazione+aa11@notices.pec.internal");
    assert!(bring_one(&alfa.to_mailboxes, &trigger, Some(ENVID)).await.starts_with("450 4.3.5 "));
    let why = alfa.waits(&to(&mail, "postmaster"), ENVID).await;
    assert!(why.contains("postmaster: is no mail address"), "{why}");
    alfa.nobody_got_anything();
}
