//! Rounds of pec-clock with a real PostgreSQL and the real pec-delivery, whose mailbox server answers what a
//! test tells it to.
#![allow(clippy::unwrap_used)]

mod delivery;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use bytes::Bytes;
use openssl::sha::sha256;
use pec_clock::Clockwork;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Errore, Tipo, TipoDestinatario};
use pec_core::envelope::{contents, signed_parts};
use pec_core::header::Header;
use pec_core::identifier::hex;
use pec_core::notices::preavviso::Termine;
use pec_delivery::DeliveryPoint;
use pec_delivery::doors::Door;
use pec_host::maillog;
use pec_host::parameters::Settings;
use pec_lmtp::{Options, Outgoing, Peer, Pool, Protocol};
use pec_program::life::Process;
use pec_state::authentic::Mac;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::rows::{About, Fact, FactKind, MadeNotice, Ricevuta};
use pec_state::trigger::Trigger;
use pec_test_support::judges::{openssl_verify, xmllint_valid};
use pec_test_support::mail_server::Taken;
use pec_test_support::network::{Network, column, daticert_of, insert_ricevuta, run, sent};
use pec_test_support::pki::NOW;

use crate::delivery::Delivery;

const ANNA: &str = "anna@pec.alfa.test";
const ALDO: &str = "aldo@studio.example";
const BRUNO: &str = "bruno@pec.beta.test";
const CARLO: &str = "Carlo@comune.example";
const CARLA: &str = "carla@posta.test";
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// When the envelopes of these tests were accepted.
const ACCEPTED: i64 = NOW - 60;

/// Alfa, as pec-clock sees it.
struct Alfa {
    network: Network,
    delivery: Delivery,
    point: Arc<ArcSwap<DeliveryPoint>>,
    database: Database,
    settings: Settings,
}

impl Alfa {
    async fn new() -> Self {
        let network = Network::new().await;
        let mut delivery = Delivery::new(&network.directory.path().join("pec"));
        let settings = delivery.settings(&network.alfa.settings);
        let point = Arc::new(ArcSwap::from_pointee(DeliveryPoint::new(network.world(&network.alfa).await)));
        delivery.start(&point);
        Self {
            delivery,
            point,
            database: Database::connect(&settings, "test").await.unwrap(),
            settings,
            network,
        }
    }

    async fn clockwork(&self) -> Clockwork {
        let database = Database::connect(&self.settings, "pec-clock").await.unwrap();
        Clockwork::new(self.settings.clone(), Process::quiet(self.network.clock.clone()), database).unwrap()
    }

    /// It is so many seconds after the acceptance.
    fn at(&self, elapsed: i64) {
        self.network.clock.set(Moment::from_unix(ACCEPTED + elapsed));
    }

    /// A round at that moment, and what it brought into mailboxes: all of it past their quota.
    async fn round(&self, clockwork: &mut Clockwork, elapsed: i64) -> Vec<Taken> {
        self.at(elapsed);
        clockwork.round(&AtomicBool::new(false)).await.unwrap();
        assert!(
            self.network.alfa.mailboxes.taken().is_empty() && self.network.alfa.outgoing.taken().is_empty()
        );
        self.network.alfa.mailboxes_no_quota.taken()
    }

    /// Rounds at that moment until something comes: PostgreSQL takes its moment to see that a connection, and
    /// the lock of whoever had it, is gone.
    async fn rounds(&self, clockwork: &mut Clockwork, elapsed: i64) -> Vec<Taken> {
        loop {
            let taken = self.round(clockwork, elapsed).await;
            if !taken.is_empty() {
                return taken;
            }
        }
    }

    /// An envelope from Anna was signed, and its copy came round if `accepted`.
    async fn sent(&self, id: &str, recipients: &[&str], accepted: bool) -> Daticert {
        self.sent_by(ANNA, id, recipients, accepted).await
    }

    async fn sent_by(&self, sender: &str, id: &str, recipients: &[&str], accepted: bool) -> Daticert {
        let header = Header::parse(b"Subject: Prova\r\nMessage-ID: <1@client.test>\r\n").unwrap();
        let mut daticert =
            Daticert { mittente: sender.to_owned(), ..daticert_of(&self.network.alfa, recipients, &header) };
        for d in daticert.destinatari.iter_mut().filter(|d| d.indirizzo == CARLA) {
            d.tipo = TipoDestinatario::Esterno;
        }
        let sent = self.database.authentic(sent(id, &format!("envid-{id}"), &daticert, &[0; 32])).unwrap();
        self.database
            .insert_sent(sent, Entry::new(Event::Accesso, &daticert, daticert.data, "4j"), None)
            .await
            .unwrap();
        if accepted {
            self.fact(&daticert, FactKind::Accettazione, "", id, 0, true).await;
        }
        daticert
    }

    /// A fact of the other programs, `elapsed` seconds after the acceptance; `told`: its notice is where it
    /// has to go.
    async fn fact(
        &self,
        daticert: &Daticert,
        kind: FactKind,
        recipient: &str,
        source: &str,
        elapsed: i64,
        told: bool,
    ) {
        let at = Moment::from_unix(ACCEPTED + elapsed);
        let source_mac =
            self.database.sent(source).await.unwrap().map_or_else(Mac::default, |sent| sent.mac().clone());
        let about = About {
            provider: &daticert.gestore_emittente,
            identificativo: &daticert.identificativo,
            source,
            source_mac: &source_mac,
        };
        let fact = Fact {
            id: fact_id(kind, recipient, source),
            recipient: recipient.to_owned(),
            status: "5.1.1".into(),
            message_id: format!("{kind}.{source}@gestore.alfa.test"),
            ..Fact::new(kind, about, at, "gestore.alfa.test").unwrap()
        };
        if told {
            let log = Entry::new(Event::Notice(kind), daticert, at, "4j");
            let begun = self
                .database
                .insert_fact(&fact, &MadeNotice { sha256: vec![0], with: "test".into() }, &log, ANNA)
                .await
                .unwrap();
            self.database.take_handover(&begun.unwrap(), at).await.unwrap();
        } else {
            self.database.insert_fact_without_notice(&fact).await.unwrap();
        }
    }

    /// A receipt of another provider came.
    async fn ricevuta(&self, daticert: &Daticert, kind: Tipo, recipient: &str) {
        let ricevuta = Ricevuta {
            identificativo: daticert.identificativo.clone(),
            kind,
            recipients: vec![recipient.to_ascii_lowercase()],
            provider: "Beta Posta S.r.l.".into(),
            message_id: "1@gestore.beta.test".into(),
            happened_at: daticert.data,
            content_sha256: vec![0],
            sent_mac: self
                .database
                .sent_with_identifier(&daticert.identificativo)
                .await
                .unwrap()
                .unwrap()
                .mac()
                .clone(),
        };
        let log = Entry::new(Event::Ricevuta(kind), daticert, daticert.data, "4j");
        insert_ricevuta(&self.database, &ricevuta, &log).await;
    }

    async fn rows(&self, sql: &str) -> Vec<String> {
        column(&self.settings.database, sql).await
    }

    /// A trigger with this body comes to pec-delivery as Postfix brings it; what it answers.
    async fn trigger(&self, name: &str, body: &str) -> String {
        let pool = Pool::new(
            Peer::Unix(self.delivery.path(Door::Triggers)),
            Protocol::Lmtp,
            "mail.test".to_owned(),
            Options::default(),
        );
        let (recipient, pieces) =
            (format!("{name}@notices.pec.internal"), [format!("From: x@y.test\r\n\r\n{body}").into()]);
        let trigger = Outgoing {
            sender: "",
            recipient: &recipient,
            envid: None,
            ret: None,
            notify: None,
            ident: None,
            pieces: &pieces,
        };
        pool.give(trigger).await.unwrap().reply.to_string()
    }

    /// What Anna's mailbox took is a signed and valid preavviso; its recipient and which one it is.
    fn preavviso(&self, taken: &Taken) -> (String, Termine) {
        let mail = taken.mail();
        let header_text = |name| mail.header.text(name).unwrap_or_default();
        assert_eq!(
            (taken.sender.split(' ').next(), taken.recipient.as_str()),
            (Some("<posta-certificata@gestore.alfa.test>"), ANNA)
        );
        assert_eq!(
            (header_text("From").as_str(), header_text("To").as_str()),
            ("posta-certificata@gestore.alfa.test", ANNA)
        );
        assert_eq!(header_text("X-Ricevuta"), "preavviso-errore-consegna");
        assert_eq!(header_text("Subject"), "AVVISO DI MANCATA CONSEGNA PER SUP. TEMPO MASSIMO: Prova");
        assert_eq!(header_text("X-Riferimento-Message-ID"), "<1@client.test>");
        openssl_verify(&taken.data, &self.network.pki.ca_file()).unwrap();
        let daticert = daticert_in(taken);
        xmllint_valid(&daticert.to_xml()).unwrap();
        assert_eq!((daticert.tipo, daticert.errore), (Tipo::PreavvisoErroreConsegna, Errore::Altro));
        assert_eq!((daticert.ricevuta, header_text("Date")), (None, daticert.data.rfc5322()));
        let errore_esteso = daticert.errore_esteso.unwrap();
        let termine = if errore_esteso.starts_with("5.4.1 - Alfa PEC S.p.A. - ") {
            Termine::VentiquattroOre
        } else {
            Termine::DodiciOre
        };
        assert_eq!(errore_esteso, termine.errore_esteso("Alfa PEC S.p.A."));
        (daticert.consegna.unwrap(), termine)
    }

    fn preavvisi(&self, taken: &[Taken]) -> Vec<(String, Termine)> {
        taken.iter().map(|t| self.preavviso(t)).collect()
    }
}

fn fact_id(kind: FactKind, recipient: &str, source: &str) -> String {
    hex(&sha256(format!("{kind} {recipient} {source}").as_bytes())[..16])
}

fn daticert_in(taken: &Taken) -> Daticert {
    let mail = taken.mail();
    let body = mail.body.clone().into();
    contents(&body, signed_parts(&mail.header, &body).unwrap().content, Tipo::PreavvisoErroreConsegna)
        .unwrap()
        .daticert
}

fn preavviso(recipient: &str, termine: Termine) -> (String, Termine) {
    (recipient.to_owned(), termine)
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_without_any_certificate_both_notices_leave_each_once() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    alfa.sent("aa11", &[CARLO, CARLA], true).await;

    assert!(alfa.round(&mut clockwork, 12 * HOUR - 1).await.is_empty());
    let first = alfa.round(&mut clockwork, 12 * HOUR).await;
    assert_eq!(alfa.preavvisi(&first), [preavviso(CARLO, Termine::DodiciOre)]);
    let data = daticert_in(&first[0]).data;
    assert_eq!(data, Moment::from_unix(ACCEPTED + 12 * HOUR));
    for elapsed in [12 * HOUR + 60, 18 * HOUR, 23 * HOUR - 1] {
        assert!(alfa.round(&mut clockwork, elapsed).await.is_empty());
    }
    let second = alfa.round(&mut clockwork, 23 * HOUR).await;
    assert_eq!(alfa.preavvisi(&second), [preavviso(CARLO, Termine::VentiquattroOre)]);
    for elapsed in [23 * HOUR + 60, 30 * HOUR, 30 * DAY] {
        assert!(alfa.round(&mut clockwork, elapsed).await.is_empty());
    }

    let log = alfa
        .rows(
            "SELECT concat_ws('|', event, recipients, certified_by, error) FROM log WHERE event \
        LIKE 'preavviso%' ORDER BY seq",
        )
        .await;
    assert_eq!(
        log,
        [
            "preavviso-12|{carlo@comune.example}|Alfa PEC S.p.A.|il messaggio non è stato consegnato nelle \
            prime dodici ore dal suo invio",
            "preavviso-24|{carlo@comune.example}|Alfa PEC S.p.A.|5.4.1 - Alfa PEC S.p.A. - il messaggio non \
            è stato consegnato nelle prime ventiquattro ore dal suo invio",
        ]
    );
    let hash = hex(&sha256(&second[0].mail().body));
    assert_eq!(
        alfa.rows("SELECT encode(message_sha256, 'hex') FROM log WHERE event = 'preavviso-24'").await,
        [hash]
    );
    assert_eq!(alfa.rows("SELECT kind FROM fact WHERE NOT handed_over").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_the_certificates_of_others_decide() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let both = [BRUNO, CARLO];
    let taken = alfa.sent("aa11", &both, true).await;
    alfa.ricevuta(&taken, Tipo::PresaInCarico, BRUNO).await;
    let delivered = alfa.sent("aa22", &both, true).await;
    alfa.ricevuta(&delivered, Tipo::AvvenutaConsegna, BRUNO).await;
    let failed = alfa.sent("aa33", &both, true).await;
    alfa.ricevuta(&failed, Tipo::ErroreConsegna, BRUNO).await;
    let virus = alfa.sent("aa44", &both, true).await;
    alfa.ricevuta(&virus, Tipo::RilevazioneVirus, BRUNO).await;
    let gone = alfa.sent("aa55", &both, true).await;
    alfa.fact(&gone, FactKind::ErroreConsegna, BRUNO, "aa55", 60, true).await;
    // A receipt about another envelope says nothing about this one.
    alfa.sent("aa66", &[BRUNO], true).await;

    let first = alfa.preavvisi(&alfa.round(&mut clockwork, 12 * HOUR).await);
    let [carlo, bruno] =
        [CARLO, BRUNO].map(|r| first.iter().filter(|p| **p == preavviso(r, Termine::DodiciOre)).count());
    assert_eq!((carlo, bruno, first.len()), (5, 1, 6));

    // Receipts that come in between.
    for busta in [&delivered, &failed, &virus, &gone] {
        alfa.ricevuta(busta, Tipo::AvvenutaConsegna, CARLO).await;
    }
    let mut second = alfa.preavvisi(&alfa.round(&mut clockwork, 23 * HOUR).await);
    second.sort_by(|a, b| a.0.cmp(&b.0));
    let due = [CARLO, BRUNO, BRUNO].map(|r| preavviso(r, Termine::VentiquattroOre));
    assert_eq!(second, due, "taken in charge and no more; and the envelope about which nothing came");

    // What comes after the second notice still counts, and changes nothing.
    alfa.ricevuta(&taken, Tipo::AvvenutaConsegna, BRUNO).await;
    assert!(alfa.round(&mut clockwork, 25 * HOUR).await.is_empty());
    assert_eq!(
        alfa.rows("SELECT count(*)::text FROM ricevuta WHERE kind = 'avvenuta-consegna'").await,
        ["6"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_the_providers_own_recipients_are_watched_by_its_own_facts() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    alfa.sent("aa11", &[ALDO], true).await;
    let taken = alfa.sent("aa22", &[ALDO, "altra@studio.example"], true).await;
    alfa.fact(&taken, FactKind::PresaInCarico, "aldo@studio.example altra@studio.example", "bb22", 5, true)
        .await;
    let delivered = alfa.sent("aa33", &[ALDO], true).await;
    alfa.fact(&delivered, FactKind::AvvenutaConsegna, ALDO, "bb33", 5, true).await;
    let failed = alfa.sent("aa44", &[ALDO], true).await;
    alfa.fact(&failed, FactKind::ErroreConsegna, ALDO, "bb44", 5, true).await;
    // Another provider can use our identifier; what we certify to it is not about our envelope.
    let abused = alfa.sent("aa55", &[ALDO], true).await;
    let theirs = Daticert { gestore_emittente: "Beta Posta S.r.l.".into(), ..abused };
    alfa.fact(&theirs, FactKind::AvvenutaConsegna, ALDO, "bb55", 5, true).await;

    let dodici = preavviso(ALDO, Termine::DodiciOre);
    assert_eq!(alfa.preavvisi(&alfa.round(&mut clockwork, 12 * HOUR).await), [dodici.clone(), dodici]);
    let mut second = alfa.preavvisi(&alfa.round(&mut clockwork, 23 * HOUR).await);
    second.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        second,
        [ALDO, ALDO, ALDO, "altra@studio.example"].map(|r| preavviso(r, Termine::VentiquattroOre))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_only_what_was_accepted_has_deadlines() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let busta = alfa.sent("aa11", &[BRUNO], false).await;
    alfa.sent("aa22", &[CARLA], true).await;
    assert!(
        alfa.round(&mut clockwork, 24 * HOUR).await.is_empty(),
        "signed and never queued; ordinary mail alone"
    );
    // Its acceptance was only late.
    alfa.fact(&busta, FactKind::Accettazione, "", "aa11", 0, true).await;
    let both = [Termine::DodiciOre, Termine::VentiquattroOre].map(|t| preavviso(BRUNO, t));
    assert_eq!(alfa.preavvisi(&alfa.round(&mut clockwork, 24 * HOUR + 60).await), both);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_after_an_outage_what_is_still_true_leaves_at_once() {
    let alfa = Alfa::new().await;
    let nothing = alfa.sent("aa11", &[BRUNO], true).await;
    let taken = alfa.sent("aa22", &[CARLO], true).await;
    alfa.ricevuta(&taken, Tipo::PresaInCarico, CARLO).await;
    let delivered = alfa.sent("aa33", &[BRUNO], true).await;
    alfa.ricevuta(&delivered, Tipo::AvvenutaConsegna, BRUNO).await;
    let mut clockwork = alfa.clockwork().await;
    let mut all = alfa.preavvisi(&alfa.round(&mut clockwork, 3 * DAY).await);
    all.sort_by_key(|(recipient, _)| recipient.to_ascii_lowercase());
    assert_eq!(
        all,
        [
            preavviso(BRUNO, Termine::DodiciOre),
            preavviso(BRUNO, Termine::VentiquattroOre),
            preavviso(CARLO, Termine::VentiquattroOre)
        ]
    );
    assert!(alfa.round(&mut clockwork, 3 * DAY + 60).await.is_empty());
    let at = Moment::from_unix(ACCEPTED + 3 * DAY).unix();
    let times = format!(
        "SELECT DISTINCT extract(epoch FROM happened_at)::int8::text FROM fact WHERE identificativo = '{}' \
        AND kind LIKE 'preavviso%'",
        nothing.identificativo
    );
    assert_eq!(alfa.rows(&times).await, [at.to_string()], "a notice has the time at which it was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_while_no_notice_can_leave_none_is_decided() {
    let mut alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let busta = alfa.sent("aa11", &[BRUNO, CARLO], true).await;
    alfa.delivery.stop().await;
    assert!(alfa.round(&mut clockwork, 12 * HOUR).await.is_empty());
    assert_eq!(alfa.rows("SELECT kind FROM fact").await, ["accettazione"]);
    // Meanwhile one receipt comes.
    alfa.ricevuta(&busta, Tipo::AvvenutaConsegna, BRUNO).await;
    alfa.delivery.start(&alfa.point);
    assert_eq!(
        alfa.preavvisi(&alfa.round(&mut clockwork, 13 * HOUR).await),
        [preavviso(CARLO, Termine::DodiciOre)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_a_restart_at_any_point_changes_nothing() {
    let alfa = Alfa::new().await;
    alfa.sent("aa11", &[BRUNO, CARLO], true).await;
    let mailboxes = &alfa.network.alfa.mailboxes_no_quota;
    let not_known = "SELECT recipient FROM fact WHERE kind = 'preavviso-12' AND NOT handed_over ORDER BY 1";
    // The facts are written, and neither notice is taken.
    mailboxes.answer_recipient(ANNA, Some("451 4.2.0 locked"));
    let mut first = alfa.clockwork().await;
    assert!(alfa.round(&mut first, 12 * HOUR).await.is_empty());
    assert_eq!(alfa.rows(not_known).await, [BRUNO, "carlo@comune.example"]);
    drop(first);
    mailboxes.answer_recipient(ANNA, None);
    // The answer about both is lost: they are in the mailbox, and nobody here knows. Nor was the envelope
    // marked as seen to.
    run(&alfa.settings.database, "UPDATE fact SET deadlines_seen = 0").await;
    mailboxes.lose_answers(2);
    let mut second = alfa.clockwork().await;
    let before = alfa.rounds(&mut second, 12 * HOUR + 60).await;
    assert_eq!((before.len(), alfa.rows(not_known).await.len()), (2, 2));
    drop(second);
    run(&alfa.settings.database, "UPDATE fact SET deadlines_seen = 0").await;
    let mut restarted = alfa.clockwork().await;
    let after = alfa.rounds(&mut restarted, 12 * HOUR + 120).await;
    let in_order = |taken: &[Taken]| {
        let mut all: Vec<_> = taken.iter().map(|t| t.data.clone()).collect();
        all.sort();
        all
    };
    assert_eq!((in_order(&after), after.len()), (in_order(&before), 2), "the same messages");
    assert!(alfa.round(&mut restarted, 12 * HOUR + 180).await.is_empty());
    assert_eq!(
        alfa.rows(
            "SELECT DISTINCT extract(epoch FROM happened_at)::int8::text FROM fact WHERE kind \
        = 'preavviso-12'"
        )
        .await
        .len(),
        1
    );
    assert_eq!(alfa.rows("SELECT count(*)::text FROM log WHERE event = 'preavviso-12'").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_one_acts_until_it_is_gone() {
    let alfa = Alfa::new().await;
    alfa.sent("aa11", &[BRUNO], true).await;
    let (mut first, mut second) = (alfa.clockwork().await, alfa.clockwork().await);
    assert!(alfa.round(&mut first, HOUR).await.is_empty());
    for _ in 0..3 {
        assert!(alfa.round(&mut second, 12 * HOUR).await.is_empty());
    }
    assert_eq!(alfa.round(&mut first, 12 * HOUR).await.len(), 1);
    // Its connection breaks: it is the first again, or the other one; never neither for long, and nothing
    // twice.
    run(
        &alfa.settings.database,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = \
        'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .await;
    let taken = alfa.rounds(&mut second, 23 * HOUR).await;
    assert_eq!(alfa.preavvisi(&taken), [preavviso(BRUNO, Termine::VentiquattroOre)]);
    assert!(alfa.round(&mut first, 23 * HOUR).await.is_empty());
    drop(second);
    alfa.sent("aa22", &[BRUNO], true).await;
    assert_eq!(alfa.rounds(&mut first, 25 * HOUR).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_the_right_to_act() {
    let alfa = Alfa::new().await;
    alfa.sent("aa11", &[BRUNO], true).await;
    let mut before = alfa.clockwork().await;
    alfa.round(&mut before, HOUR).await;
    let mut after = alfa.clockwork().await.in_place_of(before);
    assert_eq!(alfa.round(&mut after, 12 * HOUR).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_never_came_round_is_started_again_and_a_straggler_finds_its_work_done() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let busta = alfa.sent("aa11", &[BRUNO], true).await;
    // pec-delivery wrote the fact and its trigger was lost; it certifies a moment hours ago.
    alfa.fact(&busta, FactKind::ErroreConsegna, BRUNO, "aa11", 60, false).await;
    let trigger =
        Trigger::notice(FactKind::ErroreConsegna, &fact_id(FactKind::ErroreConsegna, BRUNO, "aa11"));
    let name = trigger.name();
    alfa.database
        .insert_trigger_bodies(std::slice::from_ref(&trigger), &sha256(b"the report\r\n"))
        .await
        .unwrap();

    assert!(alfa.round(&mut clockwork, 5 * HOUR).await.is_empty());
    assert!(alfa.round(&mut clockwork, 5 * HOUR + 599).await.is_empty(), "it may be on its way");
    let taken = alfa.round(&mut clockwork, 5 * HOUR + 600).await;
    assert_eq!(
        taken.iter().map(|t| t.mail().header.text("X-Ricevuta").unwrap()).collect::<Vec<_>>(),
        ["errore-consegna"]
    );
    assert!(alfa.round(&mut clockwork, 6 * HOUR).await.is_empty());
    assert_eq!(alfa.rows("SELECT event FROM log WHERE event = 'errore-consegna'").await.len(), 1);

    // The first one was only slow.
    assert_eq!(alfa.trigger(&name, "the report\r\n").await, "250 2.0.0 done");
    assert!(alfa.network.alfa.mailboxes_no_quota.taken().is_empty(), "the mailbox has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pec_clock_starts_it_starts_until_the_mailbox_has_it() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let busta = alfa.sent("aa11", &[BRUNO], true).await;
    alfa.fact(&busta, FactKind::ErroreConsegna, BRUNO, "aa11", 60, false).await;
    assert!(alfa.round(&mut clockwork, HOUR).await.is_empty());
    // Its own trigger is lost; and when the notice is made, the mailbox is locked.
    let mailboxes = &alfa.network.alfa.mailboxes_no_quota;
    mailboxes.answer_message(ANNA, Some("451 4.2.0 locked"));
    assert!(alfa.round(&mut clockwork, HOUR + 600).await.is_empty());
    let made = "SELECT encode(notice_sha256, 'hex') FROM fact WHERE kind = 'errore-consegna'";
    let first = alfa.rows(made).await;
    // Nor does the next pec-clock forget it, which knows nothing of when the first one saw it.
    drop(clockwork);
    let mut restarted = alfa.clockwork().await;
    mailboxes.answer_message(ANNA, None);
    let mut taken = Vec::new();
    for minute in 0..30 {
        taken.extend(alfa.round(&mut restarted, 2 * HOUR + 60 * minute).await);
    }
    assert_eq!(taken.iter().map(|t| hex(&sha256(&t.mail().body))).collect::<Vec<_>>(), first);
    assert_eq!(alfa.rows(made).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_takes_no_notice_holds_up_no_other() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    alfa.sent("aa11", &[BRUNO, CARLO], true).await;
    alfa.sent_by(ALDO, "aa22", &[BRUNO], true).await;
    let mailboxes = &alfa.network.alfa.mailboxes_no_quota;
    mailboxes.answer_recipient(ANNA, Some("451 4.2.0 locked"));
    let recipients = |taken: &[Taken]| taken.iter().map(|t| t.recipient.clone()).collect::<Vec<_>>();
    assert_eq!(recipients(&alfa.round(&mut clockwork, 12 * HOUR).await), [ALDO]);
    assert!(alfa.round(&mut clockwork, 12 * HOUR + 60).await.is_empty());
    mailboxes.answer_recipient(ANNA, None);
    assert_eq!(recipients(&alfa.round(&mut clockwork, 12 * HOUR + 120).await), [ANNA, ANNA]);
}

/// The columns of a fact that its MAC is about, but for its id.
const FACT: &str = "provider, identificativo, kind, recipient, source, source_mac, happened_at, \
    time_source, status, message_id, mac";

/// What a hand that has the database and not the keys of its rows can try, on the envelope whose id is `aa`
/// and the fact `bb`, its acceptance being `cc`; and which notices its sender gets all the same after 24
/// hours.
const FORGERIES: [(&str, &str, &[&str]); 21] = [
    ("nothing", "SELECT 1", &["errore-consegna"]),
    ("whom a failure is about", "UPDATE fact SET recipient = 'altra@pec.beta.test' WHERE id = 'bb'", BOTH),
    (
        "when it happened",
        "UPDATE fact SET happened_at = happened_at - interval '1 day' WHERE id = 'bb'",
        BOTH,
    ),
    ("why", "UPDATE fact SET status = '5.2.2' WHERE id = 'bb'", BOTH),
    ("whether it failed", "UPDATE fact SET kind = 'rilevazione-virus' WHERE id = 'bb'", BOTH),
    ("a kind that is none", "UPDATE fact SET kind = 'altro' WHERE id = 'bb'", BOTH),
    ("who says so", "UPDATE fact SET time_source = 'mailbox' WHERE id = 'bb'", BOTH),
    ("what its notice is called", "UPDATE fact SET message_id = 'x@gestore.alfa.test' WHERE id = 'bb'", BOTH),
    ("its row's own name", "UPDATE fact SET id = 'bb0' WHERE id = 'bb'", BOTH),
    (
        "its envelope",
        "UPDATE fact SET (source, source_mac) = (SELECT id, mac FROM sent WHERE id = 'honest') WHERE id = \
        'bb'",
        BOTH,
    ),
    ("no MAC", "UPDATE fact SET mac = '' WHERE id = 'bb'", BOTH),
    (
        "another row's MAC",
        "UPDATE fact SET mac = (SELECT mac FROM fact WHERE id = 'cc') WHERE id = 'bb'",
        BOTH,
    ),
    (
        "one more failure, by a copy",
        "INSERT INTO fact (id, FACT) SELECT 'bb0', REPLACED FROM fact WHERE id = 'bb'",
        &["errore-consegna"],
    ),
    (
        "a delivery in place of the failure",
        "INSERT INTO fact (id, FACT) SELECT 'bb0', DELIVERED FROM fact WHERE id = 'bb'; UPDATE fact SET mac \
        = '' WHERE id = 'bb'",
        BOTH,
    ),
    (
        "the notice of 24 hours, before its time",
        "INSERT INTO fact (id, FACT) SELECT 'bb0', DELAYED FROM fact WHERE id = 'bb'; UPDATE fact SET mac = \
        '' WHERE id = 'bb'",
        &["preavviso-12"],
    ),
    (
        "when the envelope was accepted",
        "UPDATE fact SET happened_at = happened_at - interval '1 day' WHERE id = 'cc'",
        &["errore-consegna"],
    ),
    (
        "for whom the envelope was",
        "UPDATE sent SET daticert = replace(daticert, 'bruno@', 'altra@') WHERE id = 'aa'",
        &[],
    ),
    // The failure is one, whatever is said of its notice.
    (
        "what the notice came out as",
        "UPDATE fact SET notice_sha256 = '\\x00', made_with = 'x', notice_mac = '' WHERE id = 'bb'",
        &[],
    ),
    ("a receipt that nobody signed", "DELETE FROM fact WHERE id = 'bb'; INSERT INTO ricevuta RECEIVED", BOTH),
    (
        "a receipt of a kind that is none",
        "DELETE FROM fact WHERE id = 'bb'; INSERT INTO ricevuta RECEIVED; UPDATE ricevuta SET kind = \
        'altro'",
        BOTH,
    ),
    ("who wrote it", "UPDATE sent SET daticert = replace(daticert, 'anna@', 'aldo@') WHERE id = 'aa'", &[]),
];

const BOTH: &[&str] = &["preavviso-12", "preavviso-24"];

#[tokio::test(flavor = "multi_thread")]
async fn what_another_hand_writes_into_the_database_is_an_alarm_and_never_a_notice() {
    let alfa = Alfa::new().await;
    let honest = alfa.sent("honest", &[CARLO], true).await;
    let mut expected = vec![(honest.identificativo, BOTH.to_vec())];
    for (number, (_, sql, notices)) in FORGERIES.iter().enumerate() {
        let id = format!("aa{number:02}");
        let busta = alfa.sent(&id, &[BRUNO], true).await;
        alfa.fact(&busta, FactKind::ErroreConsegna, BRUNO, &id, 60, false).await;
        let with = |column: &str, value: &str| FACT.replacen(column, value, 1);
        let received = format!(
            "SELECT identificativo, 'avvenuta-consegna', '{BRUNO}', 'Beta Posta S.r.l.', '{id}0', now(), \
            '\\x00', '\\x00' FROM sent WHERE id = '{id}'"
        );
        let sql = sql
            .replace("RECEIVED", &received)
            .replace("REPLACED", &with("recipient", "'altra@pec.beta.test'"));
        let sql = sql
            .replace("DELIVERED", &with("kind", "'avvenuta-consegna'"))
            .replace("DELAYED", &with("kind", "'preavviso-24'"))
            .replace("FACT", FACT);
        let named = [("bb", FactKind::ErroreConsegna, BRUNO), ("cc", FactKind::Accettazione, "")];
        let sql = named.iter().fold(sql.replace("'aa'", &format!("'{id}'")), |sql, (name, kind, about)| {
            sql.replace(&format!("'{name}'"), &format!("'{}'", fact_id(*kind, about, &id)))
                .replace(&format!("'{name}0'"), &format!("'{id}0'"))
        });
        run(&alfa.settings.database, &sql).await;
        expected.push((busta.identificativo, notices.to_vec()));
    }
    let mut clockwork = alfa.clockwork().await;
    let mut taken = Vec::new();
    let said = logged(async {
        for minute in [0, 1, 11, 12, 30] {
            taken.extend(alfa.round(&mut clockwork, 23 * HOUR + 60 * minute).await);
        }
    });
    let mut told: Vec<(String, Vec<&str>)> =
        expected.iter().map(|(id, _)| (id.clone(), Vec::new())).collect();
    for taken in &taken {
        let (id, kind) = about(taken);
        told.iter_mut().find(|(i, _)| *i == id).unwrap().1.push(kind);
    }
    told.iter_mut().for_each(|(_, kinds)| kinds.sort_unstable());
    for ((what, ..), (told, expected)) in
        [("beside them", "", &[][..])].iter().chain(&FORGERIES).zip(told.iter().zip(&expected))
    {
        assert_eq!(told, expected, "{what}");
    }
    let alarm = |key: &str| said.contains(&format!(" key={key}; nothing follows from it"));
    for (number, (what, ..)) in FORGERIES.iter().enumerate().skip(1) {
        let id = format!("aa{number:02}");
        let keys = [
            fact_id(FactKind::ErroreConsegna, BRUNO, &id),
            fact_id(FactKind::Accettazione, "", &id),
            format!("{id}0"),
            id,
        ];
        assert!(keys.iter().any(|key| alarm(key)), "{what}: no alarm about any of {keys:?}");
    }
}

/// What is logged in this thread meanwhile.
fn logged(work: impl Future<Output = ()>) -> String {
    maillog::captured(false, || {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
    })
}

/// Of what a notice is one, and about which envelope.
fn about(taken: &Taken) -> (String, &'static str) {
    let mail = taken.mail();
    let (kind, body) = (mail.header.text("X-Ricevuta").unwrap(), Bytes::from(mail.body.clone()));
    let content = signed_parts(&mail.header, &body).unwrap().content;
    let daticert = contents(&body, content, kind.parse().unwrap()).unwrap().daticert;
    let second = daticert.errore_esteso.is_some_and(|text| text.starts_with("5.4.1"));
    (
        daticert.identificativo,
        if kind == "errore-consegna" {
            "errore-consegna"
        } else if second {
            "preavviso-24"
        } else {
            "preavviso-12"
        },
    )
}
