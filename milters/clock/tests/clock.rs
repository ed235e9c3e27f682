//! Rounds of pec-clock with a real PostgreSQL and the real pec-notices behind a stand-in for Postfix's smtpd.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use openssl::sha::sha256;
use pec_clock::Clockwork;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Errore, Tipo, TipoDestinatario};
use pec_core::envelope::{contents, signed_parts};
use pec_core::header::Header;
use pec_core::identifier::hex;
use pec_core::notices::preavviso::Termine;
use pec_core::parameters::Settings;
use pec_notices::{Door, NoticesPoint};
use pec_state::database::Database;
use pec_state::log::{Entry, Event};
use pec_state::rows::{Custody, Fact, FactKind, Made, Ricevuta, Sent, TimeSource};
use pec_state::store::Store;
use pec_test_support::judges::{openssl_verify, xmllint_valid};
use pec_test_support::network::{Network, column, daticert_of, run, sent};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::{Mail, Outcome, Queued, start_shared};
use pec_test_support::smtpd::Smtpd;

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
    smtpd: Smtpd,
    notices: std::net::SocketAddr,
    database: Database,
    settings: Settings,
}

impl Alfa {
    async fn new() -> Self {
        let network = Network::new().await;
        let notices = NoticesPoint::new(network.world(&network.alfa).await).unwrap();
        let notices = start_shared(Arc::new(ArcSwap::from_pointee(notices)), Door::Triggers).await;
        let smtpd = Smtpd::start().await;
        smtpd.milter(Some(notices));
        let settings = Settings { notices_smtpd: smtpd.address, ..network.alfa.settings.clone() };
        Self { smtpd, notices, database: Database::connect(&settings, "test").await.unwrap(), settings, network }
    }

    async fn clockwork(&self) -> Clockwork {
        let database = Database::connect(&self.settings, "pec-clock").await.unwrap();
        Clockwork::new(self.settings.clone(), self.network.clock.clone(), database).unwrap()
    }

    /// It is so many seconds after the acceptance.
    fn at(&self, elapsed: i64) {
        self.network.clock.set(Moment::from_unix(ACCEPTED + elapsed));
    }

    /// A round at that moment, and what it brought into the queue.
    async fn round(&self, clockwork: &mut Clockwork, elapsed: i64) -> Vec<Queued> {
        self.at(elapsed);
        clockwork.round(&AtomicBool::new(false)).await.unwrap();
        self.smtpd.queued()
    }

    /// An envelope from Anna was signed, and its copy came round if `accepted`.
    async fn sent(&self, id: &str, recipients: &[&str], accepted: bool) -> Daticert {
        let header = Header::parse(b"Subject: Prova\r\nMessage-ID: <1@client.test>\r\n").unwrap();
        let mut daticert = daticert_of(&self.network.alfa, recipients, &header);
        for d in daticert.destinatari.iter_mut().filter(|d| d.indirizzo == CARLA) {
            d.tipo = TipoDestinatario::Esterno;
        }
        let local = |r: &&str| r.split_once('@').is_some_and(|(_, domain)| self.settings.local_domains.contains(domain));
        let local_recipients = recipients.iter().copied().filter(local).map(str::to_owned).collect();
        let sent = Sent { local_recipients, ..sent(id, &format!("envid-{id}"), &daticert, &[0; 32]) };
        self.database.insert_sent(&sent, &Entry::new(Event::Accesso, &daticert, daticert.data, "4j")).await.unwrap();
        if accepted {
            self.fact(&daticert, FactKind::Accettazione, "", id, 0, true).await;
        }
        daticert
    }

    /// A fact of the milters, `elapsed` seconds after the acceptance.
    async fn fact(&self, daticert: &Daticert, kind: FactKind, recipient: &str, source: &str, elapsed: i64, made: bool) {
        let at = Moment::from_unix(ACCEPTED + elapsed);
        let fact = Fact {
            id: fact_id(kind, recipient, source),
            provider: daticert.gestore_emittente.clone(),
            identificativo: daticert.identificativo.clone(),
            kind,
            recipient: recipient.to_owned(),
            source: source.to_owned(),
            happened_at: at,
            time_source: TimeSource::Clock,
            status: "5.1.1".into(),
            message_id: format!("{kind}.{source}@gestore.alfa.test"),
        };
        if made {
            let log = Entry::new(Event::Notice(kind.as_str()), daticert, at, "4j");
            assert!(self.database.insert_fact(&fact, &Made { sha256: vec![0], with: "test".into() }, &log).await.unwrap());
        } else {
            self.database.insert_fact_before_notice(&fact).await.unwrap();
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
        };
        let log = Entry::new(Event::Ricevuta(kind.as_str()), daticert, daticert.data, "4j");
        self.database.insert_ricevuta(&ricevuta, &log).await.unwrap();
    }

    async fn rows(&self, sql: &str) -> Vec<String> {
        column(&self.settings.database, sql).await
    }

    /// What the queue holds is a signed and valid preavviso for Anna; its recipient and which one it is.
    fn preavviso(&self, queued: &Queued) -> (String, Termine) {
        let header = &queued.mail.header;
        let header_text = |name| header.text(name).unwrap_or_default();
        assert_eq!((queued.mail.sender.as_str(), &queued.mail.recipients[..]), ("<posta-certificata@gestore.alfa.test>", &[format!("<{ANNA}>")][..]));
        assert_eq!((header_text("From").as_str(), header_text("To").as_str()), ("posta-certificata@gestore.alfa.test", ANNA));
        assert_eq!(header_text("X-Ricevuta"), "preavviso-errore-consegna");
        assert_eq!(header_text("Subject"), "AVVISO DI MANCATA CONSEGNA PER SUP. TEMPO MASSIMO: Prova");
        assert_eq!(header_text("X-Riferimento-Message-ID"), "<1@client.test>");
        openssl_verify(&queued.mail.to_bytes(), &self.network.pki.ca_file()).unwrap();
        let daticert = daticert_in(queued);
        xmllint_valid(&daticert.to_xml()).unwrap();
        assert_eq!((daticert.tipo, daticert.errore), (Tipo::PreavvisoErroreConsegna, Errore::Altro));
        assert_eq!((daticert.ricevuta, header_text("Date")), (None, daticert.data.rfc5322()));
        let errore_esteso = daticert.errore_esteso.unwrap();
        let termine = if errore_esteso.starts_with("5.4.1 - Alfa PEC S.p.A. - ") { Termine::VentiquattroOre } else { Termine::DodiciOre };
        assert_eq!(errore_esteso, termine.errore_esteso("Alfa PEC S.p.A."));
        (daticert.consegna.unwrap(), termine)
    }

    fn preavvisi(&self, queued: &[Queued]) -> Vec<(String, Termine)> {
        queued.iter().map(|q| self.preavviso(q)).collect()
    }
}

fn fact_id(kind: FactKind, recipient: &str, source: &str) -> String {
    hex(&sha256(format!("{kind} {recipient} {source}").as_bytes())[..16])
}

fn daticert_in(queued: &Queued) -> Daticert {
    let body = queued.mail.body.clone().into();
    contents(&body, signed_parts(&queued.mail.header, &body).unwrap().content, Tipo::PreavvisoErroreConsegna).unwrap().daticert
}

fn preavviso(recipient: &str, termine: Termine) -> (String, Termine) {
    (recipient.to_owned(), termine)
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_without_any_certificate_both_notices_leave_each_once() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let busta = alfa.sent("aa11", &[CARLO, CARLA], true).await;

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

    let commands = alfa.smtpd.commands().join("\n");
    assert!(commands.contains("MAIL FROM:<posta-certificata@gestore.alfa.test>"), "{commands}");
    assert!(commands.contains("RCPT TO:<preavviso-24+") && commands.contains("@notices.pec.internal> NOTIFY=FAILURE"), "{commands}");
    let log = alfa.rows("SELECT concat_ws('|', event, recipients, certified_by, error) FROM log WHERE event LIKE 'preavviso%' ORDER BY seq").await;
    assert_eq!(
        log,
        [
            "preavviso-12|{carlo@comune.example}|Alfa PEC S.p.A.|il messaggio non è stato consegnato nelle prime dodici ore dal suo invio",
            "preavviso-24|{carlo@comune.example}|Alfa PEC S.p.A.|5.4.1 - Alfa PEC S.p.A. - il messaggio non è stato consegnato nelle prime ventiquattro ore dal suo invio",
        ]
    );
    let hash = hex(&sha256(&second[0].mail.body));
    assert_eq!(alfa.rows("SELECT encode(message_sha256, 'hex') FROM log WHERE event = 'preavviso-24'").await, [hash]);
    assert_eq!(alfa.rows(&format!("SELECT source FROM fact WHERE identificativo = '{}' AND NOT raised", busta.identificativo)).await, ["aa11"]);
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
    let [carlo, bruno] = [CARLO, BRUNO].map(|r| first.iter().filter(|p| **p == preavviso(r, Termine::DodiciOre)).count());
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
    assert_eq!(alfa.rows("SELECT count(*)::text FROM ricevuta WHERE kind = 'avvenuta-consegna'").await, ["6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_the_providers_own_recipients_are_watched_by_its_own_facts() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    alfa.sent("aa11", &[ALDO], true).await;
    let taken = alfa.sent("aa22", &[ALDO, "altra@studio.example"], true).await;
    alfa.fact(&taken, FactKind::PresaInCarico, "aldo@studio.example altra@studio.example", "bb22", 5, true).await;
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
    assert_eq!(second, [ALDO, ALDO, ALDO, "altra@studio.example"].map(|r| preavviso(r, Termine::VentiquattroOre)));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_only_what_was_accepted_has_deadlines() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let busta = alfa.sent("aa11", &[BRUNO], false).await;
    alfa.sent("aa22", &[CARLA], true).await;
    assert!(alfa.round(&mut clockwork, 24 * HOUR).await.is_empty(), "signed and never queued; ordinary mail alone");
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
    assert_eq!(all, [preavviso(BRUNO, Termine::DodiciOre), preavviso(BRUNO, Termine::VentiquattroOre), preavviso(CARLO, Termine::VentiquattroOre)]);
    assert!(alfa.round(&mut clockwork, 3 * DAY + 60).await.is_empty());
    let at = Moment::from_unix(ACCEPTED + 3 * DAY).unix();
    let times = format!(
        "SELECT DISTINCT extract(epoch FROM happened_at)::int8::text FROM fact WHERE identificativo = '{}' AND kind LIKE 'preavviso%'",
        nothing.identificativo
    );
    assert_eq!(alfa.rows(&times).await, [at.to_string()], "a notice has the time at which it was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_while_no_notice_can_leave_none_is_decided() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let busta = alfa.sent("aa11", &[BRUNO, CARLO], true).await;
    alfa.smtpd.milter(None);
    assert!(alfa.round(&mut clockwork, 12 * HOUR).await.is_empty());
    assert_eq!(alfa.rows("SELECT kind FROM fact").await, ["accettazione"]);
    // Meanwhile one receipt comes.
    alfa.ricevuta(&busta, Tipo::AvvenutaConsegna, BRUNO).await;
    alfa.smtpd.milter(Some(alfa.notices));
    assert_eq!(alfa.preavvisi(&alfa.round(&mut clockwork, 13 * HOUR).await), [preavviso(CARLO, Termine::DodiciOre)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_6_a_restart_at_any_point_changes_nothing() {
    let alfa = Alfa::new().await;
    alfa.sent("aa11", &[BRUNO, CARLO], true).await;
    // The first answer is lost: the notice is in the queue, and nobody here knows. The second one is not even begun.
    alfa.smtpd.lose_answers(1);
    let before = alfa.round(&mut alfa.clockwork().await, 12 * HOUR).await;
    assert_eq!(alfa.rows("SELECT recipient FROM fact WHERE kind = 'preavviso-12' AND NOT raised ORDER BY 1").await, [BRUNO, "carlo@comune.example"]);
    // Nor was the envelope marked as seen to.
    run(&alfa.settings.database, "UPDATE fact SET deadlines_seen = 0").await;
    let mut restarted = alfa.clockwork().await;
    // The lock of the one before goes when the server notices that its connection is gone.
    let mut after = Vec::new();
    while after.is_empty() {
        after = alfa.round(&mut restarted, 12 * HOUR + 120).await;
    }
    assert_eq!((before.len(), after.len()), (1, 2));
    let again = after.iter().find(|q| q.mail.header.text("Message-ID") == before[0].mail.header.text("Message-ID")).unwrap();
    assert_eq!(again.mail.body, before[0].mail.body, "the same message");
    assert!(alfa.round(&mut restarted, 12 * HOUR + 180).await.is_empty());
    assert_eq!(alfa.rows("SELECT DISTINCT extract(epoch FROM happened_at)::int8::text FROM fact WHERE kind = 'preavviso-12'").await.len(), 1);
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
    // Its connection breaks: it is the first again, or the other one; never neither for long, and nothing twice.
    run(&alfa.settings.database, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").await;
    let mut queued = Vec::new();
    while queued.is_empty() {
        queued = alfa.round(&mut second, 23 * HOUR).await;
    }
    assert_eq!(alfa.preavvisi(&queued), [preavviso(BRUNO, Termine::VentiquattroOre)]);
    assert!(alfa.round(&mut first, 23 * HOUR).await.is_empty());
    drop(second);
    alfa.sent("aa22", &[BRUNO], true).await;
    while alfa.round(&mut first, 25 * HOUR).await.len() < 2 {}
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
async fn a_trigger_that_never_came_round_is_started_again_and_a_straggler_is_dropped() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let busta = alfa.sent("aa11", &[BRUNO], true).await;
    // pec-notices wrote the fact and its trigger was lost; it certifies a moment hours ago.
    alfa.fact(&busta, FactKind::ErroreConsegna, BRUNO, "aa11", 60, false).await;
    let id = fact_id(FactKind::ErroreConsegna, BRUNO, "aa11");
    let report = sha256(b"the report\r\n");
    alfa.database.insert_trigger_bodies(&[format!("errore-consegna+{id}")], &report).await.unwrap();

    assert!(alfa.round(&mut clockwork, 5 * HOUR).await.is_empty());
    assert!(alfa.round(&mut clockwork, 5 * HOUR + 599).await.is_empty(), "it may be on its way");
    let queued = alfa.round(&mut clockwork, 5 * HOUR + 600).await;
    assert_eq!(queued.len(), 1);
    assert_eq!(queued[0].mail.header.text("X-Ricevuta").as_deref(), Some("errore-consegna"));
    assert!(alfa.round(&mut clockwork, 6 * HOUR).await.is_empty());
    assert_eq!(alfa.rows("SELECT event FROM log WHERE event = 'errore-consegna'").await.len(), 1);

    // The first one was only slow.
    let straggler = Mail {
        recipients: vec![format!("<errore-consegna+{id}@notices.pec.internal>")],
        ..Mail::submitted("", &[], b"From: x@y.test\n\nthe report\n")
    };
    let outcome = straggler.give_to(alfa.notices).await;
    assert!(matches!(outcome, Outcome::Discarded), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pec_clock_starts_it_starts_until_postfix_has_it() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let busta = alfa.sent("aa11", &[BRUNO], true).await;
    alfa.fact(&busta, FactKind::ErroreConsegna, BRUNO, "aa11", 60, false).await;
    assert!(alfa.round(&mut clockwork, HOUR).await.is_empty());
    // Its own trigger is lost; and when the notice is made, Postfix dies before it has it.
    alfa.smtpd.forget(1);
    assert!(alfa.round(&mut clockwork, HOUR + 600).await.is_empty());
    assert_eq!(alfa.rows("SELECT count(notice_sha256)::text FROM fact WHERE kind = 'errore-consegna'").await, ["1"]);
    let forgotten = alfa.smtpd.forgotten();
    // Nor does the next pec-clock forget it.
    drop(clockwork);
    let mut restarted = alfa.clockwork().await;
    let mut queued = Vec::new();
    for minute in 0..30 {
        queued.extend(alfa.round(&mut restarted, 2 * HOUR + 60 * minute).await);
    }
    assert_eq!((forgotten.len(), queued.len()), (1, 1));
    assert_eq!(queued[0].mail.body, forgotten[0].mail.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_original_stays_until_nobody_can_need_it() {
    let alfa = Alfa::new().await;
    let mut clockwork = alfa.clockwork().await;
    let store = Store::open("pec_store", &alfa.settings.store).unwrap();
    let header = Header::parse(b"Subject: Prova\r\n").unwrap();
    let busta =
        Daticert { gestore_emittente: "Beta Posta S.r.l.".into(), ..daticert_of(&alfa.network.beta, &[ALDO, "Altra@studio.example"], &header) };
    for id in ["bb11", "bb22"] {
        store.put(id, "original".into()).await.unwrap();
        let custody = Custody {
            id: id.into(),
            envid: format!("envid-{id}"),
            mark: "mark".into(),
            provider: "Beta Posta S.r.l.".into(),
            mail_receipt: "ricevute@gestore.beta.test".into(),
            identificativo: if id == "bb11" { busta.identificativo.clone() } else { "other".into() },
            daticert: busta.to_xml(),
            recipients: vec![ALDO.into(), "Altra@studio.example".into()],
            concise: vec![],
            body_sha256: vec![0; 32],
            content_sha256: vec![0; 32],
            taken_at: Moment::from_unix(ACCEPTED),
        };
        alfa.database.insert_custody(&custody, &Entry::new(Event::Ricezione, &busta, custody.taken_at, "4j")).await.unwrap();
    }
    let stands = |id: &str| alfa.settings.store.join(format!("bb/{id}.eml")).exists();
    alfa.fact(&busta, FactKind::PresaInCarico, "aldo@studio.example altra@studio.example", "bb11", 1, true).await;
    alfa.fact(&busta, FactKind::AvvenutaConsegna, ALDO, "bb11", 10, true).await;
    alfa.round(&mut clockwork, 9 * DAY).await;
    assert!(stands("bb11"), "one recipient's end is not known");

    alfa.fact(&busta, FactKind::ErroreConsegna, "altra@studio.example", "bb11", 9 * DAY, false).await;
    alfa.smtpd.milter(None);
    alfa.round(&mut clockwork, 15 * DAY).await;
    assert!(stands("bb11"), "one notice is not made");

    run(&alfa.settings.database, "UPDATE fact SET notice_sha256 = '\\x00', made_with = 'test'").await;
    alfa.round(&mut clockwork, 14 * DAY - 1).await;
    assert!(stands("bb11"), "the last notice may have to be made again");
    run(&alfa.settings.database, "UPDATE fact SET raising = true WHERE kind = 'errore-consegna'").await;
    alfa.round(&mut clockwork, 14 * DAY).await;
    assert!(stands("bb11"), "a notice that is being started may be made again whenever that succeeds");
    run(&alfa.settings.database, "UPDATE fact SET raised = true WHERE raising").await;
    alfa.round(&mut clockwork, 14 * DAY).await;
    assert!(!stands("bb11") && stands("bb22"));
    assert_eq!(alfa.rows("SELECT id FROM custody WHERE original_deleted_at IS NOT NULL").await, ["bb11"]);
    alfa.round(&mut clockwork, 15 * DAY).await;
}
