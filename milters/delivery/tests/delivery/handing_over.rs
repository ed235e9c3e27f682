//! An envelope is handed to its mailbox, and the answer becomes a fact (RFC 6109 s. 3.3).

use pec_core::clock::Moment;
use pec_core::daticert::Errore;
use pec_core::identifier::{fresh, hex};
use pec_host::parameters::{Settings, Socket};
use pec_program::LARGE;
use pec_program::mailbox::Mailboxes;
use pec_state::handover::Begun;
use pec_state::rows::PassedKind;
use pec_test_support::lmtp::bring_one;
use pec_test_support::log::Log;
use pec_test_support::network::{Network, envelope};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::Mail;

use crate::scene::{
    ALDO, ANNA, BRUNO, CARLO, Delivery, ENVID, LETTER, OTHER_ENVID, custody, notice, only, open, to, to_all,
};

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_1_the_mailboxs_yes_becomes_the_receipt_with_its_second_and_the_original() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    network.clock.set(Moment::from_unix(NOW + 5));
    // The message comes in one second, and the mailbox says yes in another.
    beta.mailboxes.lock(BRUNO);
    let said_yes = async {
        beta.mailboxes.waiting(BRUNO, 1).await;
        assert_eq!(beta.open_handovers().await, [format!("{ENVID} {BRUNO}")]);
        assert!(beta.facts().await.is_empty(), "no fact before the mailbox says so");
        network.clock.set(Moment::from_unix(NOW + 7));
        beta.mailboxes.unlock(BRUNO);
    };
    tokio::join!(beta.delivered(&mail, ENVID), said_yes);

    let delivered = only(beta.mailboxes.taken());
    assert_eq!(
        (&delivered.data[..], delivered.recipient.as_str()),
        (&mail.to_bytes()[..], BRUNO),
        "untouched"
    );
    assert!(delivered.sender.starts_with(&mail.sender), "{}", delivered.sender);
    assert_eq!(
        delivered.ident.as_deref(),
        Some("4jTESTqueueid"),
        "the mailbox server's log names the \
        cause"
    );

    let sent = beta.sent_out();
    let daticert = notice(&network, &sent, "avvenuta-consegna");
    assert_eq!((daticert.consegna.as_deref(), daticert.data), (Some(BRUNO), Moment::from_unix(NOW + 7)));
    assert_eq!(daticert.ricevuta.map(|r| r.as_str()), Some("completa"));
    assert_eq!(sent.mail().header.text("Subject").as_deref(), Some("CONSEGNA: Citt="));
    assert_eq!(open(&sent.mail()).postacert, open(&mail).postacert);
    // Whole, if it comes back; and its failure alone is told.
    let fact = beta.rows("SELECT id FROM fact").await.remove(0);
    assert!(sent.sender.starts_with("<posta-certificata@gestore.beta.test> "), "{}", sent.sender);
    assert!(
        sent.sender.contains(" RET=FULL ") && sent.sender.ends_with(&format!(" ENVID={fact}")),
        "{}",
        sent.sender
    );
    assert_eq!(
        (sent.recipient.as_str(), sent.parameters.as_str(), sent.ident.as_deref()),
        (ANNA, "NOTIFY=FAILURE", Some("4jTESTqueueid"))
    );
    assert_ne!(fact, ENVID, "the other provider's server is not told under what we know the envelope");

    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
    let row = "concat_ws('|', time_source, envid, extract(epoch FROM happened_at)::int8, message_id, \
        encode(message_sha256, 'hex'), certified_by)";
    let message_id = sent.mail().header.text("Message-ID").unwrap();
    let sha256 = hex(&openssl::sha::sha256(&sent.mail().body));
    let expected = format!(
        "mailbox|{ENVID}|{}|{}|{sha256}|Beta Posta S.r.l.",
        NOW + 7,
        message_id.trim_matches(['<', '>'])
    );
    assert_eq!(
        beta.rows(&format!("SELECT {row} FROM log WHERE event = 'avvenuta-consegna'")).await,
        [expected]
    );
    beta.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn once_there_is_a_fact_the_mailbox_gets_nothing_more_and_the_sender_nothing_else() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    // The receipt cannot be sent now: the fact is written, Postfix keeps the message.
    beta.outgoing.answer_message(ANNA, Some("451 4.3.0 queue file write error"));
    let why = beta.waits(&mail, ENVID).await;
    assert!(why.contains("queue file write error"), "{why}");
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
    only(beta.mailboxes.taken());
    // Nor is its answer heard.
    beta.outgoing.answer_message(ANNA, None);
    beta.outgoing.lose_answers(1);
    network.clock.set(Moment::from_unix(NOW + 86_400));
    beta.waits(&mail, ENVID).await;
    let first = beta.sent_out();
    assert_eq!(
        notice(&network, &first, "avvenuta-consegna").data,
        Moment::from_unix(NOW),
        "the second of the mailbox's yes"
    );
    // Once more: the same bytes.
    beta.delivered(&mail, ENVID).await;
    let second = beta.sent_out();
    assert_eq!((&first.data, &first.sender), (&second.data, &second.sender));
    // And when that is known, nothing.
    beta.delivered(&mail, ENVID).await;
    beta.nobody_got_anything();
    assert_eq!(beta.rows("SELECT event FROM log WHERE event <> 'ricezione'").await, ["avvenuta-consegna"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_3_a_concise_receipt_carries_no_original() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(
        &network,
        &network.alfa,
        &[BRUNO, CARLO],
        &LETTER.replace("Subject:", "Cc: carlo@comune.example\nSubject:"),
    );
    beta.in_custody(&mail, &[BRUNO, CARLO], "bb11", ENVID).await;
    beta.delivered(&to(&mail, BRUNO), ENVID).await;
    assert_eq!(open(&beta.sent_out().mail()).postacert, open(&mail).postacert, "he stands in To");
    beta.delivered(&to(&mail, CARLO), ENVID).await;
    let receipt = beta.sent_out();
    assert_eq!(notice(&network, &receipt, "avvenuta-consegna").consegna.as_deref(), Some(CARLO));
    assert_eq!(open(&receipt.mail()).postacert, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_2_a_brief_receipt_carries_hashes_in_place_of_attachments() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let attachment =
        "Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\nJVBERi0K\n";
    let letter = LETTER.replace("Subject:", "Cc: carlo@comune.example\nSubject:");
    let letter = letter.replace(
        "\n\nCiao\n",
        &format!("\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nCiao\n--b\n{attachment}--b--\n"),
    );
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], &letter);
    let mut row = custody(&mail, &[BRUNO, CARLO], "bb11", ENVID);
    row.daticert = row.daticert.replace("\"completa\"", "\"breve\"");
    beta.insert(row).await;

    // The first answer about it is lost: it is made twice.
    beta.outgoing.lose_answers(1);
    beta.waits(&to(&mail, BRUNO), ENVID).await;
    let receipt = beta.sent_out();
    let daticert = notice(&network, &receipt, "avvenuta-consegna");
    let original = String::from_utf8(open(&receipt.mail()).postacert.unwrap().to_vec()).unwrap();
    let hash = hex(&openssl::sha::sha1(b"JVBERi0K"));
    assert!(original.ends_with(&format!("filename=\"a.pdf.hash\"\r\n\r\n{hash}\r\n--b--\r\n")), "{original}");
    assert!(original.contains("--b\r\n\r\nCiao\r\n--b\r\n") && !original.contains("JVBERi0K"), "{original}");
    assert_eq!(daticert.ricevuta.map(|r| r.as_str()), Some("breve"));
    assert!(String::from_utf8_lossy(&receipt.data).contains("Ricevuta breve di avvenuta consegna"));
    beta.delivered(&to(&mail, BRUNO), ENVID).await;
    assert_eq!(beta.sent_out().data, receipt.data, "again: the same bytes");

    // In Cc: without the original, and it says what was asked for.
    beta.delivered(&to(&mail, CARLO), ENVID).await;
    let receipt = beta.sent_out();
    let daticert = notice(&network, &receipt, "avvenuta-consegna");
    assert_eq!(
        (daticert.ricevuta.map(|r| r.as_str()), open(&receipt.mail()).postacert),
        (Some("breve"), None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_3_a_mailbox_that_does_not_exist_becomes_the_notice_of_failure() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &["Nessuno@pec.beta.test"], LETTER);
    beta.in_custody(&mail, &["Nessuno@pec.beta.test"], "bb11", ENVID).await;
    let mail = to(&mail, "nessuno@pec.beta.test");
    beta.mailboxes.answer_recipient(
        "nessuno@pec.beta.test",
        Some("550 5.1.1 <nessuno@pec.beta.test> User doesn't exist"),
    );
    // Once is no fact: a list of users that is being written says so too. Nor is a second time at once.
    for second in [0, 4] {
        network.clock.set(Moment::from_unix(NOW + second));
        let why = beta.waits(&mail, ENVID).await;
        assert!(
            why.contains("there is no mailbox nessuno@pec.beta.test") && why.contains("asked again"),
            "{why}"
        );
        assert!(beta.facts().await.is_empty());
    }
    network.clock.set(Moment::from_unix(NOW + 5));
    beta.delivered(&mail, ENVID).await;
    let sent = beta.sent_out();
    let daticert = notice(&network, &sent, "errore-consegna");
    assert_eq!(sent.mail().header.text("Subject").as_deref(), Some("AVVISO DI MANCATA CONSEGNA: Citt="));
    assert_eq!(
        (daticert.errore, daticert.consegna.as_deref()),
        (Errore::NoDest, Some("Nessuno@pec.beta.test"))
    );
    assert_eq!(daticert.errore_esteso.as_deref(), Some("5.1.1 - Beta Posta S.r.l. - indirizzo non valido"));
    assert_eq!(
        (daticert.ricevuta, open(&sent.mail()).postacert, daticert.data),
        (None, None, Moment::from_unix(NOW + 5))
    );
    assert_eq!(beta.facts().await, ["errore-consegna nessuno@pec.beta.test mailbox"]);
    assert_eq!(
        beta.rows("SELECT error FROM log WHERE event = 'errore-consegna'").await,
        ["5.1.1 - Beta Posta S.r.l. - indirizzo non valido"]
    );
    // It comes again, and now there is one: the sender was told no.
    beta.mailboxes.answer_recipient("nessuno@pec.beta.test", None);
    beta.delivered(&mail, ENVID).await;
    beta.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_was_missing_once_and_is_there_the_second_time_gets_its_message() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.mailboxes.answer_recipient(BRUNO, Some("550 5.1.1 no such user"));
    beta.waits(&mail, ENVID).await;
    network.clock.set(Moment::from_unix(NOW + 600));
    beta.mailboxes.answer_recipient(BRUNO, None);
    beta.delivered(&mail, ENVID).await;
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_3_what_a_mailbox_refuses_for_good_is_said_with_its_code() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    for (n, (at_recipient, answer, says)) in [
        (true, "552 5.2.2 mailbox full", "5.2.2 - Beta Posta S.r.l. - casella piena"),
        (false, "552 5.2.2 quota exceeded", "5.2.2 - Beta Posta S.r.l. - casella piena"),
        (false, "552 5.2.3 too large", "5.2.3 - Beta Posta S.r.l. - messaggio troppo grande per la casella"),
        (
            false,
            "554 5.7.0 no",
            "5.7.0 - Beta Posta S.r.l. - si sono verificati dei problemi consegnando il messaggio",
        ),
        (true, "552 words without a code", "5.2.2 - Beta Posta S.r.l. - casella piena"),
        (
            false,
            "554 words without a code",
            "5.0.0 - Beta Posta S.r.l. - si sono verificati dei problemi consegnando il messaggio",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
        let envid = format!("envid-{n}");
        beta.in_custody(&mail, &[BRUNO], &format!("bb{n}"), &envid).await;
        beta.mailboxes.answer_recipient(BRUNO, Some(answer).filter(|_| at_recipient));
        beta.mailboxes.answer_message(BRUNO, Some(answer).filter(|_| !at_recipient));
        beta.delivered(&mail, &envid).await;
        assert_eq!(
            notice(&network, &beta.sent_out(), "errore-consegna").errore_esteso.as_deref(),
            Some(says),
            "{answer}"
        );
        assert!(beta.mailboxes.taken().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_5_a_service_mailbox_takes_no_letters_and_the_sender_hears_so() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let service = "posta-certificata@gestore.beta.test";
    let mail = envelope(&network, &network.alfa, &[service], LETTER);
    beta.in_custody(&mail, &[service], "bb11", ENVID).await;
    beta.delivered(&mail, ENVID).await;
    let daticert = notice(&network, &beta.sent_out(), "errore-consegna");
    assert_eq!(
        daticert.errore_esteso.as_deref(),
        Some("5.2.1 - Beta Posta S.r.l. - casella disattivata o che non accetta messaggi")
    );
    assert!(beta.mailboxes.taken().is_empty() && beta.mailboxes.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_mailbox_does_not_answer_the_message_waits() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    for answer in [
        "451 4.2.0 Mailbox is locked",
        "452 4.2.2 full just now",
        "421 4.3.2 going down",
        "450 4.1.1 not now",
        "450 no code",
    ] {
        beta.mailboxes.answer_recipient(BRUNO, Some(answer));
        let why = beta.waits(&mail, ENVID).await;
        assert!(why.contains(answer), "{why}");
        beta.mailboxes.answer_recipient(BRUNO, None);
        // 421 after the message is no answer to it: another test.
        if !answer.starts_with("421") {
            beta.mailboxes.answer_message(BRUNO, Some(answer));
            beta.waits(&mail, ENVID).await;
            beta.mailboxes.answer_message(BRUNO, None);
        }
    }
    assert_eq!(beta.open_handovers().await, [""; 0], "each of them is an answer");
    assert!(beta.facts().await.is_empty());
    beta.nobody_got_anything();
    beta.delivered(&mail, ENVID).await;
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_server_that_is_not_there_makes_mail_wait() {
    let network = Network::new().await;
    let mut world = network.world(&network.beta).await;
    world.mailboxes = Mailboxes::new(&Settings {
        mailbox_lmtp: Socket::Unix(network.directory.path().join("nobody")),
        ..world.settings.clone()
    });
    let beta = Delivery::start_in(&network, &network.beta, world).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let why = beta.waits(&mail, ENVID).await;
    assert!(why.contains("does not take it now") && why.contains("nobody"), "{why}");
    assert_eq!(beta.open_handovers().await, [""; 0], "it was given nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_costs_a_second_copy_and_the_one_receipt_says_so() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.mailboxes.lose_answers(1);
    let why = beta.waits(&mail, ENVID).await;
    assert!(why.contains("is not known"), "{why}");
    assert!(beta.facts().await.is_empty());
    network.clock.set(Moment::from_unix(NOW + 300));
    beta.delivered(&mail, ENVID).await;
    assert_eq!(beta.mailboxes.taken().len(), 2);
    assert_eq!(notice(&network, &beta.sent_out(), "avvenuta-consegna").data, Moment::from_unix(NOW + 300));
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox-again")]);
    assert_eq!(
        beta.rows("SELECT time_source FROM log WHERE event = 'avvenuta-consegna'").await,
        ["mailbox-again"],
        "the register says it too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_was_killed_before_it_heard_the_answer_leaves_the_same() {
    let network = Network::new().await;
    let killed = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    killed.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    // All that is left of it: the row.
    killed.database.begin_handover(ENVID, BRUNO).await.unwrap();
    let beta = Delivery::start(&network, &network.beta).await;
    beta.delivered(&mail, ENVID).await;
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox-again")]);
}

/// Bruno's mailbox has an envelope, and pec-delivery has not heard so.
async fn after_a_lost_answer(network: &Network) -> (Delivery, Mail) {
    let beta = Delivery::start(network, &network.beta).await;
    let mail = envelope(network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.mailboxes.lose_answers(1);
    beta.waits(&mail, ENVID).await;
    only(beta.mailboxes.taken());
    (beta, mail)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_certified_of_a_mailbox_that_may_have_the_message_and_now_says_no() {
    for no in ["552 5.2.2 full, of this very message", "554 5.7.0 no", "550 5.1.1 no such user any more"] {
        let network = Network::new().await;
        let (beta, mail) = after_a_lost_answer(&network).await;
        beta.mailboxes.answer_message(BRUNO, Some(no));
        for second in [60, 600, 86_000] {
            network.clock.set(Moment::from_unix(NOW + second));
            let why = beta.waits(&mail, ENVID).await;
            assert!(second == 60 || why.contains("its answer was lost"), "{no}: {why}");
        }
        assert_eq!((beta.facts().await, beta.outgoing.taken().len()), (vec![], 0), "{no}");
        // It was not full for good.
        beta.mailboxes.answer_message(BRUNO, None);
        beta.delivered(&mail, ENVID).await;
        assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox-again")], "{no}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_may_have_the_message_and_is_then_gone_is_no_failure() {
    let network = Network::new().await;
    let (beta, mail) = after_a_lost_answer(&network).await;
    beta.mailboxes.answer_recipient(BRUNO, Some("550 5.1.1 no such user"));
    for second in [60, 120, 86_000] {
        network.clock.set(Moment::from_unix(NOW + second));
        let why = beta.waits(&mail, ENVID).await;
        assert!(second == 60 || why.contains("its answer was lost"), "{why}");
    }
    assert_eq!((beta.facts().await, beta.outgoing.taken().len()), (vec![], 0));
    beta.mailboxes.answer_recipient(BRUNO, None);
    beta.delivered(&mail, ENVID).await;
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox-again")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mailbox_server_does_not_take_is_not_being_handed_over() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    // A program that is killed here leaves no row by which the mailbox might have the message.
    beta.mailboxes.answer_recipient(BRUNO, Some("550 5.1.1 no such user"));
    beta.waits(&mail, ENVID).await;
    assert_eq!(beta.rows("SELECT what FROM handover").await, ["no-mailbox"]);
    // And one that cannot write that it goes gives nothing.
    beta.mailboxes.answer_recipient(BRUNO, None);
    beta.sql("ALTER TABLE handover ADD CONSTRAINT nothing_begins CHECK (what <> 'begun')").await;
    beta.waits(&mail, ENVID).await;
    assert!(beta.mailboxes.taken().is_empty());
    beta.sql("ALTER TABLE handover DROP CONSTRAINT nothing_begins").await;
    beta.delivered(&mail, ENVID).await;
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_certified_where_the_mailbox_may_have_another_copy() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    // The other provider did not hear that we have it, and brought it twice.
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.in_custody(&mail, &[BRUNO], "bb22", OTHER_ENVID).await;
    beta.mailboxes.lose_answers(1);
    beta.waits(&mail, ENVID).await;
    beta.mailboxes.answer_message(BRUNO, Some("552 5.2.2 full, of the first copy"));
    beta.waits(&mail, OTHER_ENVID).await;
    assert!(beta.facts().await.is_empty());
    beta.mailboxes.answer_message(BRUNO, None);
    beta.delivered(&mail, OTHER_ENVID).await;
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox-again")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_certified_while_another_copy_is_under_way() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.in_custody(&mail, &[BRUNO], "bb22", OTHER_ENVID).await;
    beta.mailboxes.answer_message(BRUNO, Some("552 5.2.2 full, of the other copy"));
    beta.mailboxes.lock(BRUNO);
    let other_copy = async {
        beta.mailboxes.waiting(BRUNO, 1).await;
        let Begun::Now { attempt, .. } = beta.database.begin_handover(OTHER_ENVID, BRUNO).await.unwrap()
        else {
            panic!("it was not taken")
        };
        beta.mailboxes.unlock(BRUNO);
        attempt
    };
    let (why, other_copy) = tokio::join!(beta.waits(&mail, ENVID), other_copy);
    assert!(why.contains("Nothing is certified"), "{why}");
    // That one was refused too: now it is certain.
    beta.database.end_handover(&other_copy, Moment::from_unix(NOW)).await.unwrap();
    beta.delivered(&mail, ENVID).await;
    assert_eq!(beta.facts().await, [format!("errore-consegna {BRUNO} mailbox")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_an_envelope_reach_the_mailbox_once_and_have_one_receipt() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.in_custody(&mail, &[BRUNO], "bb22", OTHER_ENVID).await;
    // The first one's receipt is not sent yet.
    beta.outgoing.answer_message(ANNA, Some("451 4.3.0 not now"));
    beta.waits(&mail, ENVID).await;
    beta.outgoing.answer_message(ANNA, None);
    network.clock.set(Moment::from_unix(NOW + 900));
    beta.delivered(&mail, OTHER_ENVID).await;
    only(beta.mailboxes.taken());
    assert_eq!(notice(&network, &beta.sent_out(), "avvenuta-consegna").data, Moment::from_unix(NOW));
    beta.delivered(&mail, ENVID).await;
    beta.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_comes_after_another_was_refused_may_still_be_delivered() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.in_custody(&mail, &[BRUNO], "bb22", OTHER_ENVID).await;
    beta.mailboxes.answer_recipient(BRUNO, Some("552 5.2.2 full"));
    beta.delivered(&mail, ENVID).await;
    notice(&network, &beta.sent_out(), "errore-consegna");
    // Refused like the first: that was said.
    beta.delivered(&mail, OTHER_ENVID).await;
    beta.nobody_got_anything();
    beta.mailboxes.answer_recipient(BRUNO, None);
    beta.delivered(&mail, OTHER_ENVID).await;
    notice(&network, &beta.sent_out(), "avvenuta-consegna");
    assert_eq!(
        beta.facts().await,
        [format!("avvenuta-consegna {BRUNO} mailbox"), format!("errore-consegna {BRUNO} mailbox")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_message_under_an_identifier_that_has_its_outcome_is_kept() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.delivered(&mail, ENVID).await;
    let other = envelope(&network, &network.alfa, &[BRUNO], &LETTER.replace("Ciao", "Addio"));
    let mut row = custody(&other, &[BRUNO], "bb22", OTHER_ENVID);
    row.identificativo = custody(&mail, &[BRUNO], "", "").identificativo;
    beta.insert(row).await;
    let why = beta.waits(&other, OTHER_ENVID).await;
    assert!(why.contains("another message has this identifier"), "{why}");
    only(beta.mailboxes.taken());
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_2_1_each_of_several_recipients_has_his_own_outcome() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let names = ["bruno", "piena", "nessuno", "lenta", "persa", "estranea"]
        .map(|name| format!("{name}@pec.beta.test"));
    let [bruno, piena, nessuno, lenta, persa, estranea] = names.each_ref().map(String::as_str);
    let mail = envelope(&network, &network.alfa, &[bruno, piena, nessuno, lenta, persa], LETTER);
    beta.in_custody(&mail, &[bruno, piena, nessuno, lenta, persa], "bb11", ENVID).await;
    beta.mailboxes.answer_message(piena, Some("552 5.2.2 full"));
    beta.mailboxes.answer_recipient(nessuno, Some("550 5.1.1 no such user"));
    beta.mailboxes.answer_message(lenta, Some("451 4.2.0 locked"));
    beta.database.begin_handover(ENVID, persa).await.unwrap();

    // All in one transaction.
    let all = to_all(&mail, &[bruno, piena, nessuno, lenta, persa, estranea]);
    let codes =
        |answers: Vec<String>| answers.iter().map(|answer| answer[..3].to_owned()).collect::<Vec<_>>();
    assert_eq!(codes(beta.brought_to_all(&all, ENVID).await), ["250", "250", "451", "451", "250", "451"]);
    network.clock.set(Moment::from_unix(NOW + 60));
    beta.mailboxes.answer_message(lenta, None);
    assert_eq!(codes(beta.brought_to_all(&to_all(&mail, &[nessuno, lenta]), ENVID).await), ["250", "250"]);

    let fact =
        "split_part(recipient, '@', 1), kind, time_source, 'second', extract(epoch FROM happened_at)::int8";
    assert_eq!(
        beta.rows(&format!("SELECT concat_ws(' ', {fact} - {NOW}) FROM fact ORDER BY recipient")).await,
        [
            "bruno avvenuta-consegna mailbox second 0",
            "lenta avvenuta-consegna mailbox second 60",
            "nessuno errore-consegna mailbox second 60",
            "persa avvenuta-consegna mailbox-again second 0",
            "piena errore-consegna mailbox second 0",
        ]
    );
    let mut told: Vec<_> =
        beta.outgoing.taken().iter().filter_map(|taken| open(&taken.mail()).daticert.consegna).collect();
    told.sort();
    assert_eq!(told, [bruno, lenta, nessuno, persa, piena]);
    assert_eq!(beta.mailboxes.taken().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_program_of_ours_let_in_is_not_delivered_and_raises_an_alarm() {
    let log = Log::start();
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mut mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    mail.queue_id = fresh().unwrap();
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let other_bytes = Mail { body: [&mail.body[..], b"x\r\n"].concat(), ..mail.clone() };
    for (what, mail, envid) in [
        ("no envelope id", &mail, None),
        ("an envelope id of nobody's", &mail, Some(OTHER_ENVID)),
        ("other bytes", &other_bytes, Some(ENVID)),
        ("another recipient", &to(&mail, CARLO), Some(ENVID)),
    ] {
        let alarms = || {
            log.lines(&["ERROR", "alarm: a message that no milter let in is not delivered", &mail.queue_id])
                .len()
        };
        let before = alarms();
        let answer = bring_one(&beta.to_mailboxes, mail, envid).await;
        assert!(answer.starts_with("451 4.3.0 not delivered to "), "{what}: {answer}");
        assert_eq!(alarms(), before + 1, "{what}");
    }
    beta.nobody_got_anything();
    assert_eq!((beta.mailboxes.asked().len(), beta.facts().await.len()), (0, 0));
    assert_eq!(beta.rows("SELECT message FROM handover").await, [""; 0]);
    // It is for him, however his address is written.
    beta.delivered(&to(&mail, "Bruno@PEC.Beta.Test"), ENVID).await;
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_rows_makes_no_copies() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let presa_in_carico = beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    let passed = Mail { queue_id: "4jOther".to_owned(), ..mail.clone() };
    beta.passes(&passed, PassedKind::Anomalia, &[BRUNO], "passed").await;
    beta.read_only(true).await;
    for _ in 0..10 {
        let why = beta.waits(&mail, ENVID).await;
        assert!(why.contains("read-only"), "{why}");
        beta.waits(&passed, "passed").await;
        beta.not_triggered(&presa_in_carico).await;
    }
    beta.nobody_got_anything();
    beta.read_only(false).await;
    beta.delivered(&mail, ENVID).await;
    beta.delivered(&mail, ENVID).await;
    only(beta.mailboxes.taken());
    notice(&network, &beta.sent_out(), "avvenuta-consegna");
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_that_cannot_be_written_after_the_mailboxs_yes_costs_one_more_copy() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.mailboxes.lock(BRUNO);
    let goes = async {
        beta.mailboxes.waiting(BRUNO, 1).await;
        beta.read_only(true).await;
        beta.mailboxes.unlock(BRUNO);
    };
    tokio::join!(async { beta.waits(&mail, ENVID).await }, goes);
    assert!(beta.facts().await.is_empty());
    beta.read_only(false).await;
    beta.delivered(&mail, ENVID).await;
    assert_eq!(beta.mailboxes.taken().len(), 2);
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox-again")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_to_a_colleague_has_all_its_receipts_from_the_one_copy() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, ALDO], LETTER);
    // One row says what was signed, another one what Aldo has of it; Postfix has both under one envelope id.
    let accettazione = alfa.signed(&mail, "aa11", ENVID).await;
    let presa_in_carico = alfa.in_custody(&mail, &[ALDO], "bb11", ENVID).await;
    alfa.triggered(&accettazione).await;
    let receipt = alfa.notice_in_mailbox();
    assert_eq!(
        (notice(&network, &receipt, "accettazione").destinatari.len(), receipt.recipient.as_str()),
        (2, ANNA)
    );
    alfa.triggered(&presa_in_carico).await;
    let receipt = alfa.notice_in_mailbox();
    assert_eq!(
        (notice(&network, &receipt, "presa-in-carico").ricezione, receipt.recipient.as_str()),
        (vec![ALDO.to_owned()], "ricevute@gestore.alfa.test")
    );
    alfa.delivered(&to(&mail, ALDO), ENVID).await;
    assert_eq!(only(alfa.mailboxes.taken()).recipient, ALDO);
    let receipt = alfa.notice_in_mailbox();
    assert_eq!(
        (notice(&network, &receipt, "avvenuta-consegna").consegna.as_deref(), receipt.recipient.as_str()),
        (Some(ALDO), ANNA)
    );
    alfa.nobody_got_anything();
    assert_eq!(
        alfa.facts().await,
        [
            "accettazione  clock",
            &format!("avvenuta-consegna {ALDO} mailbox"),
            &format!("presa-in-carico {ALDO} clock")
        ]
    );
    // Bruno is nobody whom we deliver to.
    alfa.waits(&to(&mail, BRUNO), ENVID).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_cannot_be_taken_apart_is_not_handed_over() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let nonsense = Mail { body: b"nonsense\r\n".to_vec(), ..mail.clone() };
    let mut row = custody(&mail, &[BRUNO], "bb11", ENVID);
    row.body_sha256 = openssl::sha::sha256(&nonsense.body).to_vec();
    beta.insert(row).await;
    beta.waits(&nonsense, ENVID).await;
    assert!(beta.mailboxes.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_envelope_and_its_receipt_are_whole() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let line = "0123456789 Tanto va la gatta al lardo\n.che ci lascia lo zampino\n";
    let letter = LETTER.replace("Ciao\n", &line.repeat(3 * LARGE / line.len()));
    let mail = envelope(&network, &network.alfa, &[BRUNO], &letter);
    assert!(mail.body.len() > 2 * LARGE);
    let trigger = beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.delivered(&mail, ENVID).await;
    assert_eq!(only(beta.mailboxes.taken()).data, mail.to_bytes());
    let receipt = beta.sent_out();
    notice(&network, &receipt, "avvenuta-consegna");
    assert_eq!(open(&receipt.mail()).postacert, open(&mail).postacert);
    beta.triggered(&trigger).await;
    notice(&network, &beta.sent_out(), "presa-in-carico");
}
