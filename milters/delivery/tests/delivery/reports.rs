//! Postfix's own reports: what it could not deliver, hand on or send.

use openssl::sha::sha256;
use pec_core::clock::Moment;
use pec_core::daticert::{Errore, Tipo};
use pec_core::identifier::hex;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::rows::{FactKind, Ricevuta};
use pec_test_support::judges::openssl_verify;
use pec_test_support::network::{Network, envelope, insert_ricevuta, sent};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::{Mail, Outcome, Queued, bounce, report};

use crate::notices::held;
use crate::scene::{
    ALDO, ANNA, BRUNO, CARLO, Delivery, ENVID, LETTER, OTHER_ENVID, custody, daticert_in, notice, only, to,
};

const DAY: i64 = 86_400;
const CARLA: &str = "carla@posta.test";

/// Postfix's own report lies entire in an anomaly envelope.
fn is_wrapped(network: &Network, report: &Mail, wrapped: &Mail) {
    let header = &wrapped.header;
    assert_eq!((header.text("X-Trasporto").as_deref(), header.first("X-Ricevuta")), (Some("errore"), None));
    assert!(header.text("Subject").unwrap().starts_with("ANOMALIA MESSAGGIO: "), "{header:?}");
    openssl_verify(&wrapped.to_bytes(), &network.pki.ca_file()).unwrap();
    let inside = report.to_bytes();
    assert!(wrapped.body.windows(inside.len()).any(|w| w == inside));
}

/// The envelope id that a message has got here.
#[track_caller]
fn envid_of(queued: &Queued) -> String {
    queued.sender_parameters.as_ref().and_then(|p| p.strip_prefix("RET=HDRS ENVID=")).unwrap().to_owned()
}

impl Delivery {
    /// The report comes round as triggers alone; their copies.
    async fn becomes_triggers(&self, report: &Mail) -> Vec<Mail> {
        let queued = report.give_to(self.reports).await.queued();
        assert_eq!(
            (&queued.mail.body, queued.mail.sender.as_str()),
            (&report.body, format!("<posta-certificata@{}>", self.settings.service_domain).as_str())
        );
        assert_eq!(queued.mail.recipients.len(), queued.added.len(), "nobody else gets it");
        assert!(
            queued.added.iter().all(|(_, parameters)| parameters.as_deref() == Some("NOTIFY=FAILURE")),
            "{:?}",
            queued.added
        );
        queued.mail.recipients.iter().map(|r| queued.copy_for(r.trim_matches(['<', '>']))).collect()
    }

    async fn becomes_trigger(&self, report: &Mail) -> Mail {
        let mut triggers = self.becomes_triggers(report).await;
        assert_eq!(triggers.len(), 1);
        triggers.remove(0)
    }

    async fn drops(&self, report: &Mail, what: &str) {
        assert!(matches!(report.give_to(self.reports).await, Outcome::Discarded), "{what}");
    }

    async fn keep_body(&self, report: &Mail, what: &str) {
        assert!(
            matches!(report.give_to(self.reports).await, Outcome::Deferred(text) if text.starts_with("451")),
            "{what}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_2_2_an_envelope_that_cannot_be_sent_on_becomes_the_notice_of_failure() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLA], LETTER);
    let mut row = sent("aa11", ENVID, &daticert_in(&mail), &sha256(&mail.body));
    row.daticert = row.daticert.replace("\"certificato\">carla", "\"esterno\">carla");
    let log = Entry::new(Event::Accesso, &daticert_in(&mail), row.signed_at, "4j");
    alfa.database.insert_sent(alfa.database.authentic(row).unwrap(), log, None).await.unwrap();

    let failed = report(Some(ENVID), &mail, &[(BRUNO, "failed", "5.4.4")], NOW + 9);
    let trigger = alfa.becomes_trigger(&failed).await;
    assert_eq!(
        alfa.rows("SELECT event FROM log").await,
        ["accesso"],
        "the log row comes with the notice and its hash"
    );
    alfa.triggered(&trigger).await;
    let taken = alfa.notice_in_mailbox();
    let daticert = notice(&network, &taken, "errore-consegna");
    assert_eq!(
        (daticert.consegna.as_deref(), daticert.gestore_emittente.as_str()),
        (Some(BRUNO), "Alfa PEC S.p.A.")
    );
    assert_eq!(
        (daticert.errore, daticert.data, taken.recipient.as_str()),
        (Errore::NoDominio, Moment::from_unix(NOW + 9), ANNA)
    );
    assert_eq!(alfa.facts().await, [format!("errore-consegna {BRUNO} report")]);
    // The report comes again: the same trigger, and nothing follows from it.
    assert_eq!(alfa.becomes_trigger(&failed).await.recipients, trigger.recipients);
    alfa.triggered(&trigger).await;
    alfa.nobody_got_anything();

    // Of an ordinary recipient PEC certifies nothing: Postfix's own words reach the sender, in an envelope
    // that says so; a full mailbox takes it.
    let raw = report(Some(ENVID), &mail, &[(CARLA, "failed", "5.1.1")], NOW + 9);
    let wrapped = raw.give_to(alfa.reports).await.queued();
    is_wrapped(&network, &raw, &wrapped.mail);
    assert_eq!((wrapped.mail.sender.as_str(), &wrapped.mail.recipients), ("<>", &raw.recipients));
    alfa.delivered(&wrapped.copy_for(ANNA), &envid_of(&wrapped)).await;
    assert_eq!(only(alfa.no_quota.taken()).data, wrapped.copy_for(ANNA).to_bytes());

    // Both in one report: the words for one, a trigger for the other, which works with the bytes that go
    // round.
    let other = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    let both =
        report(Some(ENVID), &other, &[(CARLA, "failed", "5.1.1"), (BRUNO, "failed", "5.4.4")], NOW + 9);
    alfa.sql("DELETE FROM fact; DELETE FROM handover").await;
    let both = both.give_to(alfa.reports).await.queued();
    assert_eq!(
        (both.mail.recipients.len(), both.mail.recipients[0].as_str(), both.added.len()),
        (2, ANNA, 1)
    );
    assert_eq!(
        both.mail.sender, "<posta-certificata@gestore.alfa.test>",
        "a trigger never has the null path"
    );
    alfa.triggered(&both.copy_for(&both.recipient("errore-consegna+"))).await;
    assert_eq!(
        notice(&network, &alfa.notice_in_mailbox(), "errore-consegna").consegna.as_deref(),
        Some(BRUNO)
    );
    alfa.delivered(&both.copy_for(ANNA), &envid_of(&both)).await;
    assert_eq!(alfa.notice_in_mailbox().mail().header.text("X-Trasporto").as_deref(), Some("errore"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_2_3_a_report_in_an_anomaly_envelope_is_in_the_log() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[CARLA], LETTER);
    alfa.signed(&mail, "aa11", ENVID).await;
    let raw = report(None, &mail, &[(CARLA, "failed", "5.1.1")], NOW + 9);
    let wrapped = raw.give_to(alfa.reports).await.queued();
    is_wrapped(&network, &raw, &wrapped.mail);
    let sha256 = hex(&sha256(&wrapped.mail.body));
    let row = "concat_ws('|', msgid, oggetto, array_to_string(recipients, ','), certified_by, \
        encode(message_sha256, 'hex'), envid)";
    let expected = format!(
        "<20261119.4jYY@mail.gestore.beta.test>|Delivery report|{ANNA}|Alfa PEC S.p.A.|{sha256}|{}",
        envid_of(&wrapped)
    );
    assert_eq!(alfa.rows(&format!("SELECT {row} FROM log WHERE event = 'anomalia'")).await, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_is_certified_without_the_envelope_id_that_our_programs_give() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    alfa.signed(&mail, "aa11", ENVID).await;
    // Somebody's message under the Message-ID of the envelope: its failure is its own.
    for envid in [None, Some("ffff")] {
        let raw = report(envid, &mail, &[(BRUNO, "failed", "5.1.1")], NOW + 9);
        is_wrapped(&network, &raw, &raw.give_to(alfa.reports).await.queued().mail);
    }
    assert!(alfa.facts().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_it_is_about_is_what_postfix_says_and_not_what_a_client_called_him() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], LETTER);
    beta.in_custody(&mail, &[BRUNO, CARLO], "bb11", ENVID).await;
    let mut failed = report(Some(ENVID), &mail, &[(BRUNO, "failed", "4.4.1")], NOW + DAY);
    let body = String::from_utf8(failed.body).unwrap();
    failed.body = body
        .replace(
            "Original-Recipient: rfc822;bruno@pec.beta.test",
            "Original-Recipient: rfc822;carlo@comune.example",
        )
        .into_bytes();
    beta.triggered(&beta.becomes_trigger(&failed).await).await;
    assert_eq!(beta.facts().await, [format!("errore-consegna {BRUNO} report")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_3_3_an_envelope_that_was_not_delivered_in_its_time_becomes_the_notice_of_failure() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.mailboxes.answer_message(BRUNO, Some("451 4.2.0 locked"));
    beta.waits(&mail, ENVID).await;
    let failed = report(Some(ENVID), &mail, &[(BRUNO, "failed", "4.2.0")], NOW + DAY);
    let trigger = beta.becomes_trigger(&failed).await;
    beta.triggered(&trigger).await;
    let sent = beta.sent_out();
    let daticert = notice(&network, &sent, "errore-consegna");
    assert_eq!(
        (daticert.data, daticert.consegna.as_deref(), sent.recipient.as_str()),
        (Moment::from_unix(NOW + DAY), Some(BRUNO), ANNA)
    );
    assert!(
        daticert.errore_esteso.unwrap().starts_with("5.4.1 - Beta Posta S.r.l. - "),
        "the time is over: what was wrong last is not the cause"
    );
    assert_eq!(beta.facts().await, [format!("errore-consegna {BRUNO} report")]);
    // It comes again.
    assert_eq!(beta.becomes_trigger(&failed).await.recipients, trigger.recipients);
    // Of another copy of the envelope the sender is told nothing else.
    beta.in_custody(&mail, &[BRUNO], "bb22", OTHER_ENVID).await;
    let failed = report(Some(OTHER_ENVID), &mail, &[(BRUNO, "failed", "4.4.1")], NOW + DAY + 60);
    assert_eq!(beta.becomes_trigger(&failed).await.recipients, trigger.recipients);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_is_certified_while_the_mailbox_may_have_the_message() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.in_custody(&mail, &[BRUNO], "bb22", OTHER_ENVID).await;
    beta.mailboxes.lose_answers(1);
    beta.waits(&mail, ENVID).await;
    // Nor of another copy: it is the same message.
    for envid in [ENVID, OTHER_ENVID] {
        let failed = report(Some(envid), &mail, &[(BRUNO, "failed", "4.2.0")], NOW + DAY);
        beta.keep_body(&failed, envid).await;
    }
    assert!(beta.facts().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_stays_in_the_queue_until_its_receipt_is_handed_over() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.outgoing.answer_message(ANNA, Some("451 4.3.0 not now"));
    beta.waits(&mail, ENVID).await;
    let failed = report(Some(ENVID), &mail, &[(BRUNO, "failed", "4.3.0")], NOW + DAY);
    beta.keep_body(&failed, "the receipt carries the original, which the queue alone has").await;
    beta.outgoing.answer_message(ANNA, None);
    beta.delivered(&mail, ENVID).await;
    notice(&network, &beta.sent_out(), "avvenuta-consegna");
    // Postfix did not hear that.
    beta.drops(&failed, "it is delivered, and certified").await;
    assert_eq!(beta.facts().await, [format!("avvenuta-consegna {BRUNO} mailbox")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_about_several_recipients_becomes_a_trigger_for_each() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], LETTER);
    beta.in_custody(&mail, &[BRUNO, CARLO], "bb11", ENVID).await;
    let failed = report(
        Some(ENVID),
        &mail,
        &[(BRUNO, "failed", "4.4.1"), (CARLO, "failed", "4.2.2"), (BRUNO, "failed", "4.4.1")],
        NOW + DAY,
    );
    let triggers = beta.becomes_triggers(&failed).await;
    assert_eq!(triggers.len(), 2, "each recipient once");
    let mut about = Vec::new();
    for trigger in &triggers {
        beta.not_triggered(&Mail { body: b"other\r\n".to_vec(), ..trigger.clone() }).await;
        beta.triggered(trigger).await;
        about.extend(notice(&network, &beta.sent_out(), "errore-consegna").consegna);
        beta.triggered(trigger).await;
        beta.nobody_got_anything();
    }
    about.sort();
    assert_eq!(about, [BRUNO, CARLO]);
    // If of one of them nothing may be said now, the report waits, for all.
    beta.in_custody(&mail, &["a@pec.beta.test", "b@pec.beta.test"], "bb22", OTHER_ENVID).await;
    beta.database.begin_handover(OTHER_ENVID, "b@pec.beta.test").await.unwrap();
    let failed = report(
        Some(OTHER_ENVID),
        &mail,
        &[("a@pec.beta.test", "failed", "4.4.1"), ("b@pec.beta.test", "failed", "4.4.1")],
        NOW + DAY,
    );
    beta.keep_body(&failed, "one of them may have it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_envelope_to_here_and_elsewhere_each_recipient_has_the_failure_that_is_his() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO, ALDO], LETTER);
    alfa.signed(&mail, "aa11", ENVID).await;
    alfa.in_custody(&mail, &[ALDO], "bb11", ENVID).await;
    let failed =
        report(Some(ENVID), &mail, &[(ALDO, "failed", "4.2.0"), (BRUNO, "failed", "4.4.1")], NOW + DAY);
    for trigger in alfa.becomes_triggers(&failed).await {
        alfa.triggered(&trigger).await;
    }
    let sources = "SELECT concat_ws(' ', recipient, kind, time_source, source) FROM fact ORDER BY \
        recipient";
    assert_eq!(
        alfa.rows(sources).await,
        [format!("{ALDO} errore-consegna report bb11"), format!("{BRUNO} errore-consegna report aa11")]
    );
    let taken = alfa.no_quota.taken();
    assert!(taken.len() == 2 && taken.iter().all(|taken| taken.recipient == ANNA));
    // One whom the mailbox refused before has his notice already.
    alfa.sql("DELETE FROM fact; DELETE FROM handover").await;
    alfa.mailboxes.answer_recipient(ALDO, Some("552 5.2.2 full"));
    alfa.delivered(&to(&mail, ALDO), ENVID).await;
    notice(&network, &alfa.notice_in_mailbox(), "errore-consegna");
    let failed = report(Some(ENVID), &mail, &[(ALDO, "failed", "4.2.0")], NOW + DAY);
    alfa.triggered(&alfa.becomes_trigger(&failed).await).await;
    alfa.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_is_certified_where_the_other_provider_has_the_message() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    // Receipts come in any order: whatever it certifies, it has the message.
    for (n, kind) in
        [Tipo::PresaInCarico, Tipo::AvvenutaConsegna, Tipo::ErroreConsegna, Tipo::RilevazioneVirus]
            .into_iter()
            .enumerate()
    {
        let mail = envelope(&network, &network.alfa, &[BRUNO, CARLO], LETTER);
        let (id, envid, daticert) = (format!("aa{n}"), format!("envid-{n}"), daticert_in(&mail));
        alfa.signed(&mail, &id, &envid).await;
        let ricevuta = Ricevuta {
            identificativo: daticert.identificativo.clone(),
            kind,
            recipients: vec![BRUNO.to_owned()],
            provider: "Beta Posta S.r.l.".to_owned(),
            message_id: "1@x".to_owned(),
            happened_at: Moment::from_unix(NOW),
            content_sha256: vec![0; 32],
            sent_mac: alfa.database.sent(&id).await.unwrap().unwrap().mac().clone(),
        };
        let log = Entry::new(Event::Ricevuta(kind), &daticert, ricevuta.happened_at, "4j");
        assert!(insert_ricevuta(&alfa.database, &ricevuta, &log).await);
        alfa.drops(&report(Some(&envid), &mail, &[(BRUNO, "failed", "4.4.1")], NOW + DAY), kind.as_str())
            .await;
        assert!(alfa.rows(&format!("SELECT id FROM fact WHERE source = '{id}'")).await.is_empty(), "{kind}");
        // Of somebody else it has said nothing.
        alfa.becomes_trigger(&report(Some(&envid), &mail, &[(CARLO, "failed", "4.4.1")], NOW + DAY)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_that_found_nobody_at_home_goes_out_again_for_five_days_from_what_came_back() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], &LETTER.replace("Ciao", "Perché no?"));
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.delivered(&mail, ENVID).await;
    beta.mailboxes.taken();
    let sent = beta.sent_out();
    let envid = sent.sender.rsplit_once(" ENVID=").unwrap().1.to_owned();
    let came_back =
        |status, after| bounce(Some(&envid), &sent.mail(), &[(ANNA, "failed", status)], NOW + after);
    network.clock.set(Moment::from_unix(NOW + DAY));
    let trigger = beta.becomes_trigger(&came_back("4.4.1", DAY)).await;
    assert!(trigger.recipients[0].starts_with("<rispedizione+"), "{:?}", trigger.recipients);
    beta.outgoing.answer_message(ANNA, Some("451 4.3.0 not now"));
    beta.not_triggered(&trigger).await;
    beta.outgoing.answer_message(ANNA, None);
    beta.triggered(&trigger).await;
    let again = beta.sent_out();
    assert_eq!(
        (&again.data, &again.recipient, &again.sender, &again.parameters),
        (&sent.data, &sent.recipient, &sent.sender, &sent.parameters)
    );
    assert!(beta.mailboxes.taken().is_empty());
    assert_eq!(beta.rows("SELECT count(*)::text FROM log WHERE event = 'avvenuta-consegna'").await, ["1"]);
    // Once more, the day after.
    network.clock.set(Moment::from_unix(NOW + 2 * DAY));
    beta.triggered(&beta.becomes_trigger(&came_back("4.4.1", 2 * DAY)).await).await;
    assert_eq!(beta.sent_out().data, sent.data);
    // Afterwards, or where the refusal is for good, a person has to look: the report stays a report. One that
    // has waited is no younger for that.
    for (status, after, now) in [("4.4.1", 5 * DAY, 5 * DAY), ("4.4.1", DAY, 6 * DAY), ("5.1.1", 60, 60)] {
        network.clock.set(Moment::from_unix(NOW + now));
        let report = came_back(status, after);
        let kept = report.give_to(beta.reports).await.queued();
        assert_eq!(
            (&kept.mail.body, &kept.mail.recipients),
            (&report.body, &report.recipients),
            "{status} {after} {now}"
        );
        assert!(kept.added.is_empty());
        // It is in the service mailbox then.
        let service = "posta-certificata@gestore.beta.test";
        beta.delivered(&kept.copy_for(service), &envid_of(&kept)).await;
        assert_eq!(only(beta.no_quota.taken()).recipient, service);
    }
    beta.nobody_got_anything();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_back_otherwise_than_it_was_signed_is_not_sent() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    beta.delivered(&mail, ENVID).await;
    let sent = beta.sent_out();
    let envid = sent.sender.rsplit_once(" ENVID=").unwrap().1.to_owned();
    let failed = [(ANNA, "failed", "4.4.1")];
    let whole = sent.mail();
    let cut = Mail { body: whole.body[..whole.body.len() / 2].to_vec(), ..whole.clone() };
    let longer = Mail { body: [&whole.body[..], b"x\r\n"].concat(), ..whole.clone() };
    for (what, came_back, says) in [
        (
            "its header alone",
            report(Some(&envid), &whole, &failed, NOW + DAY),
            "bounce_size_limit must stand above message_size_limit",
        ),
        ("cut off", bounce(Some(&envid), &cut, &failed, NOW + DAY), "is not the notice"),
        ("longer", bounce(Some(&envid), &longer, &failed, NOW + DAY), "is not the notice"),
        ("another message", bounce(Some(&envid), &mail, &failed, NOW + DAY), "is not the notice"),
    ] {
        let trigger = beta.becomes_trigger(&came_back).await;
        let why = beta.not_triggered(&trigger).await;
        assert!(why.contains(says), "{what}: {why}");
    }
    // The words of one report under the name of another's trigger.
    let trigger = beta.becomes_trigger(&bounce(Some(&envid), &whole, &failed, NOW + DAY)).await;
    beta.not_triggered(&Mail { body: mail.body.clone(), ..trigger }).await;
    assert!(beta.outgoing.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_to_pec_delivery_is_never_given_up() {
    let network = Network::new().await;
    let alfa = Delivery::start(&network, &network.alfa).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    alfa.signed(&mail, "aa11", ENVID).await;
    // The queue alone has it: as long as the report is not taken, Postfix keeps it and tries again.
    let trigger = "accettazione+aa11@notices.pec.internal";
    for (what, recipients) in [
        ("a trigger", &[(trigger, "failed", "4.4.1")][..]),
        ("beside another one's failure", &[(BRUNO, "failed", "4.4.1"), (trigger, "failed", "4.4.1")]),
    ] {
        for envid in [Some(ENVID), None] {
            alfa.keep_body(&report(envid, &mail, recipients, NOW + DAY), what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_about_nothing_of_ours_lead_to_nothing() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.in_custody(&mail, &[BRUNO], "bb11", ENVID).await;
    for (what, written) in [
        (
            "a recipient whom the envelope was not for",
            report(Some(ENVID), &mail, &[(CARLO, "failed", "5.1.1")], NOW),
        ),
        ("not the end", report(Some(ENVID), &mail, &[(BRUNO, "delayed", "4.0.0")], NOW)),
        ("what nobody asks for", report(Some(ENVID), &mail, &[(BRUNO, "relayed", "2.0.0")], NOW)),
        ("what nobody asks for", report(Some(ENVID), &mail, &[(BRUNO, "delivered", "2.0.0")], NOW)),
        ("of nobody's message", report(None, &mail, &[(BRUNO, "expanded", "2.0.0")], NOW)),
    ] {
        beta.drops(&written, what).await;
    }
    assert!(beta.facts().await.is_empty());
    // What cannot be read to its end waits: nobody knows what it says.
    let mut nobody = report(Some(ENVID), &mail, &[(BRUNO, "failed", "5.1.1")], NOW);
    nobody.body =
        String::from_utf8(nobody.body).unwrap().replace("Final-Recipient", "X-Recipient").into_bytes();
    beta.keep_body(&nobody, "about nobody").await;
    // What is no delivery report goes on as it is, to a service mailbox.
    let service = "postmaster@gestore.beta.test";
    let other =
        Mail::submitted("double-bounce@mail.gestore.beta.test", &[service], b"From: x@y\nSubject: x\n\nx\n");
    let queued = other.give_to(beta.reports).await.queued();
    assert_eq!((&queued.mail.to_bytes(), &queued.mail.recipients), (&other.to_bytes(), &other.recipients));
    beta.delivered(&queued.copy_for(service), &envid_of(&queued)).await;
    assert_eq!(only(beta.no_quota.taken()).recipient, service);
    // Or in an envelope that says what it is.
    let other = Mail { recipients: vec![format!("<{BRUNO}>")], ..other };
    let queued = other.give_to(beta.reports).await.queued();
    is_wrapped(&network, &other, &queued.mail);
    beta.delivered(&queued.copy_for(BRUNO), &envid_of(&queued)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_a_virus_was_found_is_not_another_outcome() {
    let network = Network::new().await;
    let beta = Delivery::start(&network, &network.beta).await;
    let mail = envelope(&network, &network.alfa, &[BRUNO], LETTER);
    beta.insert(custody(&mail, &[BRUNO], "bb11", ENVID)).await;
    let row = beta.database.custody("bb11").await.unwrap().unwrap();
    let (fact, _) = held(&beta, &row, FactKind::RilevazioneVirus, BRUNO, "Eicar").await;
    let trigger =
        beta.becomes_trigger(&report(Some(ENVID), &mail, &[(BRUNO, "failed", "4.4.1")], NOW + DAY)).await;
    assert_eq!(trigger.recipients, [format!("<rilevazione-virus+{}@notices.pec.internal>", fact.id)]);
    beta.triggered(&trigger).await;
    notice(&network, &beta.sent_out(), "rilevazione-virus");
    assert_eq!(beta.facts().await, [format!("rilevazione-virus {BRUNO} report")]);
}
