//! The corpus given to the real milters, in the milter protocol as Postfix does, with a real PostgreSQL
//! behind them.
//!
//! Of each message: no panic, an answer in time, what the table says becomes of it, and no other notice, row
//! or delivery. What the Access Point accepts is brought to the next provider, who has to find a correct
//! envelope. What is in a queue then is brought to pec-delivery: each mailbox gets exactly these bytes, once,
//! and every notice about it is one.
#![allow(clippy::unwrap_used)]

#[path = "../../../milters/incoming/tests/queue/mod.rs"]
mod queue;

use std::fmt::Debug;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pec_access::AccessPoint;
use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Errore, Tipo};
use pec_core::envelope::{contents, signed_parts};
use pec_core::header::Header;
use pec_core::identifier::hex;
use pec_core::mime::{header_end, part, split};
use pec_core::smime::verify::TrustedCas;
use pec_host::read;
use pec_hostile::arrivals::{Arrival, Hands, Incoming, SENT, arrivals};
use pec_hostile::forge::{ANNA, daticert};
use pec_hostile::submissions::{Access, Submission, submissions};
use pec_incoming::{Door, IncomingPoint};
use pec_state::database::{Database, InQueue};
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::rows::PassedKind;
use pec_test_support::clamd;
use pec_test_support::network::{Host, Network, column, sent};
use pec_test_support::pki::NOW;
use pec_test_support::postfix::{Mail, Outcome, Queued, start};
use queue::{DONE, Delivery, envid};

/// What a message may take, in a debug build on a busy machine. Time with the square of a size shows.
const PATIENCE: Duration = Duration::from_secs(30);

type Checked = Result<(), String>;

fn is(what: &str, found: impl Debug, wanted: bool) -> Checked {
    if wanted { Ok(()) } else { Err(format!("{what}: {found:?}")) }
}

/// Gives the message to a milter; a connection that breaks is a panic there.
async fn given(mail: &Mail, milter: SocketAddr) -> Result<Outcome, String> {
    let mail = mail.clone();
    let giving = tokio::spawn(async move { mail.give_to(milter).await });
    match tokio::time::timeout(PATIENCE, giving).await {
        Err(_) => Err(format!("no answer in {PATIENCE:?}")),
        Ok(Err(e)) => Err(format!("the milter went away: {e}")),
        Ok(Ok(outcome)) => Ok(outcome),
    }
}

fn queued(outcome: Outcome) -> Result<Queued, String> {
    match outcome {
        Outcome::Queued(queued) => Ok(*queued),
        other => Err(format!("{other:?}")),
    }
}

fn refused(outcome: Outcome, code: &str) -> Checked {
    match outcome {
        Outcome::Rejected(text) if text.starts_with(code) => Ok(()),
        Outcome::Queued(queued) => {
            Err(format!("not refused but queued: {:?}", queued.mail.header.text("Subject")))
        }
        other => Err(format!("{other:?}")),
    }
}

/// How many rows each table has.
async fn rows(host: &Host) -> [i64; 6] {
    let counts = "SELECT concat_ws(' ', (SELECT count(*) FROM sent), (SELECT count(*) FROM fact), (SELECT \
        count(*) FROM custody), \
                  (SELECT count(*) FROM ricevuta), (SELECT count(*) FROM passed), (SELECT count(*) FROM \
        log))";
    let row = column(&host.settings.database, counts).await.remove(0);
    row.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap()
}

/// What we signed: its signature is good, what we wrote into the header is ASCII, on proper lines, and stands
/// once.
fn signed_by_us(
    mail: &Mail,
    cas: &TrustedCas,
    written: &[&str],
) -> Result<(Bytes, std::ops::Range<usize>), String> {
    for name in written {
        let fields: Vec<_> = mail.header.all(name).collect();
        is(&format!("{name} stands once"), &fields, fields.len() == 1)?;
        let value = &fields[0].value;
        let proper = value.is_ascii() && !value.iter().any(|b| *b < b' ' && !b"\r\n\t".contains(b));
        let folded = value
            .split(|&b| b == b'\n')
            .skip(1)
            .all(|line| line.starts_with(b" ") || line.starts_with(b"\t"));
        let short = value.split(|&b| b == b'\n').all(|line| line.len() <= 990);
        is(&format!("{name} is well-formed"), fields[0].text(), proper && folded && short)?;
    }
    let body = Bytes::from(mail.body.clone());
    let parts = signed_parts(&mail.header, &body).map_err(|e| e.to_string())?;
    cas.verify(&body[parts.content.clone()], &parts.signature, Moment::from_unix(NOW))
        .map_err(|e| e.to_string())?;
    Ok((body, parts.content))
}

/// What the header of a notice has, each once.
const OF_NOTICES: [&str; 8] =
    ["Date", "From", "To", "Message-ID", "Subject", "X-Ricevuta", "MIME-Version", "Content-Type"];

/// Nothing is in the header but what we wrote and what envelopes inherit.
fn nothing_else_is_in(header: &Header, written: &[&str]) -> Checked {
    let inherited = [
        "Received",
        "Return-Path",
        "To",
        "Cc",
        "Reply-To",
        "Message-ID",
        "X-Riferimento-Message-ID",
        "Content-Transfer-Encoding",
    ];
    let other = header.fields().iter().find(|f| !written.iter().chain(&inherited).any(|name| f.is(name)));
    is("nothing else is in the header", other, other.is_none())
}

/// What is in a provider's queue is brought to its pec-delivery. `delivered`: the mailboxes that get it.
async fn handed_over(
    queued: &Queued,
    host: &Host,
    delivery: &Delivery,
    delivered: &[&str],
    cas: &TrustedCas,
) -> Checked {
    let body = &queued.mail.body;
    // Postfix has lines, and a last one.
    if !body.ends_with(b"\r\n")
        || body.iter().enumerate().any(|(at, b)| *b == b'\n' && (at == 0 || body[at - 1] != b'\r'))
    {
        println!(
            "not brought to pec-delivery, since Postfix would end its lines otherwise: {:?}",
            queued.mail.header.text("Subject")
        );
        return Ok(());
    }
    // What an earlier message left, which went wrong.
    for server in [&host.mailboxes, &host.mailboxes_no_quota, &host.outgoing] {
        server.taken();
    }
    let ours =
        |domain: &str| domain.ends_with(".pec.internal") || host.settings.local_domains.contains(domain);
    for path in &queued.mail.recipients {
        let recipient = path.trim_matches(['<', '>']);
        if ours(&recipient.rsplit('@').next().unwrap().to_ascii_lowercase()) {
            let said = delivery.bring(queued, recipient).await;
            is(&format!("pec-delivery, of {recipient}"), &said, said == DONE)?;
        }
    }
    let in_mailboxes = [host.mailboxes.taken(), host.mailboxes_no_quota.taken()].concat();
    let (copies, notices): (Vec<_>, Vec<_>) =
        in_mailboxes.into_iter().partition(|taken| taken.mail().body == *body);
    let mut to: Vec<_> = copies.iter().map(|copy| copy.recipient.to_ascii_lowercase()).collect();
    to.sort();
    is("the mailboxes that get it, each once", &to, to == delivered)?;
    for notice in notices.iter().chain(&host.outgoing.taken()) {
        signed_by_us(&notice.mail(), cas, &OF_NOTICES)?;
    }
    Ok(())
}

/// Those of a message's recipients, each once, who have a mailbox at the provider.
fn mailboxes(mail: &Mail, host: &Host) -> Vec<String> {
    let addresses = mail.recipients.iter().filter_map(|r| Address::from_path(r));
    let mut keys: Vec<String> =
        addresses.filter(|a| host.settings.local_domains.contains(&a.domain())).map(|a| a.key()).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Both providers with a scanner, and small limits.
async fn network() -> Network {
    let mut network = Network::new().await;
    network.alfa.settings.clamd = Some(clamd::start().await);
    network.alfa.settings.blocked_attachments = ["exe", "js", "lnk"].map(str::to_owned).into();
    network.alfa.settings.message_size_limit = 3_000_000;
    network.alfa.settings.total_size_limit = 10_000_000;
    network
}

/// Reports all that went wrong, and what took longest.
fn conclude(kind: &str, mut took: Vec<(Duration, String)>, wrong: &[String]) {
    took.sort();
    let longest: Vec<_> =
        took.iter().rev().take(5).map(|(time, name)| format!("{name} ({} ms)", time.as_millis())).collect();
    println!("{} {kind}; the longest: {}", took.len(), longest.join(", "));
    assert!(wrong.is_empty(), "{} of {} {kind} went wrong:\n{}", wrong.len(), took.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_1_what_users_submit() {
    let network = network().await;
    let access = start(AccessPoint::new(network.world(&network.alfa).await), ()).await;
    let next = Next {
        network: &network,
        alfa: Delivery::start(&network, &network.alfa).await,
        port25: start(IncomingPoint::new(network.world(&network.beta).await), Door::Port25).await,
        beta: Delivery::start(&network, &network.beta).await,
        cas: read::trusted_cas(&network.pki.ca_file()).unwrap(),
    };
    let written = tempfile::tempdir().unwrap();
    let (mut took, mut wrong) = (Vec::new(), Vec::new());
    let mut before = rows(&network.alfa).await;
    for (number, case) in submissions().into_iter().enumerate() {
        let name = format!("{}: {}", case.kind, case.name);
        let started = Instant::now();
        let outcome = given(&case.mail, access).await;
        let after = rows(&network.alfa).await;
        let more: Vec<i64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        let mut checked = match outcome {
            Ok(outcome) => submitted(&case, outcome, &next).await,
            Err(why) => Err(why),
        };
        took.push((started.elapsed(), name.clone()));
        let expected = match case.expect {
            Access::Accepted if mailboxes(&case.mail, &network.alfa).is_empty() => [1, 0, 0, 0, 0, 1],
            Access::Accepted => [1, 0, 1, 0, 0, 2],
            Access::NotAccepted(_) | Access::Virus => [0, 1, 0, 0, 0, 1],
            Access::Refused(_) => [0; 6],
        };
        if checked.is_ok() && more != expected {
            checked = Err(format!("rows in sent, fact, custody, ricevuta, passed, log: {more:?}"));
        }
        if let Ok(Some(xml)) = &checked {
            fs::write(written.path().join(format!("{number}.xml")), xml).unwrap();
        }
        before = rows(&network.alfa).await;
        if let Err(why) = checked {
            wrong.push(format!(
                "{name}: expected {:?}; {}",
                case.expect,
                why.chars().take(1500).collect::<String>()
            ));
        }
    }
    wrong.extend(against_the_dtd(written.path()).err());
    conclude("submissions", took, &wrong);
}

/// Where a submission goes on.
struct Next<'a> {
    network: &'a Network,
    /// Alfa's pec-delivery.
    alfa: Delivery,
    /// Beta's.
    port25: SocketAddr,
    /// Beta's pec-delivery.
    beta: Delivery,
    cas: TrustedCas,
}

/// What became of a submission; the daticert.xml that we wrote, if any.
async fn submitted(case: &Submission, outcome: Outcome, next: &Next<'_>) -> Result<Option<String>, String> {
    let (errore, causes) = match &case.expect {
        Access::Refused(code) => return refused(outcome, code).map(|()| None),
        Access::Accepted => {
            let queued = queued(outcome)?;
            let kind = queued.mail.header.text("X-Trasporto");
            is("it is an envelope", (&kind, causes(&queued)), kind.as_deref() == Some("posta-certificata"))?;
            return accepted(&case.mail, &queued, next).await.map(Some);
        }
        Access::NotAccepted(causes) => (Errore::Altro, &causes[..]),
        Access::Virus => (Errore::Virus, &["Virus-Di-Prova"][..]),
    };
    let queued = queued(outcome)?;
    let xml = not_accepted(&case.mail, &queued, &next.cas, errore, causes)?;
    handed_over(&queued, &next.network.alfa, &next.alfa, &[ANNA], &next.cas).await?;
    Ok(Some(xml))
}

/// `errore-esteso` of a notice of non-acceptance, to say what happened instead.
fn causes(queued: &Queued) -> Option<String> {
    let body = Bytes::from(queued.mail.body.clone());
    let parts = signed_parts(&queued.mail.header, &body).ok()?;
    contents(&body, parts.content, Tipo::NonAccettazione).ok()?.daticert.errore_esteso
}

async fn accepted(mail: &Mail, queued: &Queued, next: &Next<'_>) -> Result<String, String> {
    let written = [
        "Date",
        "From",
        "Message-ID",
        "Subject",
        "X-Trasporto",
        "X-TipoRicevuta",
        "MIME-Version",
        "Content-Type",
    ];
    let (body, content) = signed_by_us(&queued.mail, &next.cas, &written)?;
    nothing_else_is_in(&queued.mail.header, &written)?;
    let contents = contents(&body, content, Tipo::PostaCertificata).map_err(|e| e.to_string())?;
    let (daticert, postacert) = (contents.daticert, contents.postacert.unwrap());
    is("the sender", &daticert.mittente, daticert.mittente == ANNA)?;
    let printable = daticert.oggetto.iter().all(|oggetto| !oggetto.chars().any(char::is_control));
    is("the subject can be shown", &daticert.oggetto, printable)?;

    // Every byte of the original, but for what the Access Point puts in (RFC 6109 s. 2.2.1).
    let (end, start) = header_end(&postacert).ok_or("postacert.eml has no header")?;
    is("the body of the original", postacert.len(), postacert[start..] == mail.body)?;
    let carried = Header::parse(&postacert[..end]).map_err(|at| format!("postacert.eml's header at {at}"))?;
    let ours = |header: &Header, from: usize| -> Vec<_> {
        let others = ["Message-ID", "X-Riferimento-Message-ID"];
        header.fields()[from..].iter().filter(|f| !others.iter().any(|o| f.is(o))).cloned().collect()
    };
    let (found, wanted) = (ours(&carried, 1), ours(&mail.header, 0));
    is("the header of the original", found.iter().zip(&wanted).find(|(a, b)| a != b), found == wanted)?;

    // Whom it goes to: everybody, and the triggers.
    let mut to: Vec<String> = mail.recipients.iter().map(|r| r.to_ascii_lowercase()).collect();
    to.sort();
    to.dedup();
    let mut goes: Vec<String> = queued
        .mail
        .recipients
        .iter()
        .filter(|r| !r.ends_with(".pec.internal>"))
        .map(|r| r.to_ascii_lowercase())
        .collect();
    goes.sort();
    goes.dedup();
    is("the recipients", (&goes, &to), goes == to)?;
    let ours = mailboxes(mail, &next.network.alfa);
    let triggers: Vec<_> = queued.added.iter().map(|(to, _)| to.split('+').next().unwrap()).collect();
    let wanted =
        if ours.is_empty() { &["<accettazione"][..] } else { &["<accettazione", "<presa-in-carico"] };
    is("the triggers", &triggers, triggers == wanted)?;
    let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
    handed_over(queued, &next.network.alfa, &next.alfa, &ours, &next.cas).await?;

    // The next provider finds nothing wrong with it.
    let here: Vec<String> = goes.into_iter().filter(|r| r.ends_with("@pec.beta.test>")).collect();
    let arriving = Mail { account: None, recipients: here, ..queued.mail.clone() };
    if !arriving.recipients.is_empty() {
        let taken = self::queued(given(&arriving, next.port25).await?)?;
        is(
            "the next provider takes it in charge",
            taken.mail.header.text("Subject"),
            taken.added.iter().any(|(to, _)| to.starts_with("<presa-in-carico+")),
        )?;
        let to = mailboxes(&arriving, &next.network.beta);
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        handed_over(&taken, &next.network.beta, &next.beta, &to, &next.cas).await?;
    }
    Ok(daticert.to_xml())
}

fn not_accepted(
    mail: &Mail,
    queued: &Queued,
    cas: &TrustedCas,
    errore: Errore,
    wanted: &[&str],
) -> Result<String, String> {
    is(
        "it is the notice",
        queued.mail.header.text("Subject"),
        queued.mail.header.text("X-Ricevuta").as_deref() == Some("non-accettazione"),
    )?;
    let (body, content) = signed_by_us(&queued.mail, cas, &OF_NOTICES)?;
    is(
        "nothing else is in the header",
        &queued.mail.header,
        queued.mail.header.fields().len() <= OF_NOTICES.len() + 2,
    )?;
    let contents = contents(&body, content, Tipo::NonAccettazione).map_err(|e| e.to_string())?;
    is("the original is not included", mail.body.len(), contents.postacert.is_none())?;
    is(
        "it goes to its sender alone",
        &queued.mail.recipients,
        queued.mail.recipients == [format!("<{ANNA}>")],
    )?;
    is("the size", queued.mail.body.len(), queued.mail.body.len() < 200_000)?;
    let daticert = contents.daticert;
    is("the error", daticert.errore, daticert.errore == errore)?;
    let text = daticert.errore_esteso.clone().unwrap_or_default();
    is("every cause", &text, wanted.iter().all(|cause| text.contains(cause)))?;
    // What is quoted may hold the separator itself.
    let counted = text.split('"').step_by(2).collect::<String>().split("; ").count();
    is("no other cause", &text, text.contains(" problemi") || counted == wanted.len())?;
    Ok(daticert.to_xml())
}

fn against_the_dtd(directory: &Path) -> Checked {
    let dtd = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verify/daticert.dtd");
    let files = fs::read_dir(directory).unwrap().map(|f| f.unwrap().path());
    let output = Command::new("xmllint")
        .args(["--noout", "--dtdvalid"])
        .arg(&dtd)
        .args(files)
        .output()
        .expect("the xmllint command is needed");
    is("valid against the DTD", String::from_utf8_lossy(&output.stderr), output.status.success())
}

/// Beta has sent an envelope to Anna at Alfa.
async fn sent_by_beta(network: &Network) {
    let daticert = Daticert::parse(
        daticert(SENT)
            .replace(ANNA, "beppe@pec.beta.test")
            .replace("bruno@pec.beta.test", ANNA)
            .replace("Alfa PEC S.p.A.", "Beta Posta S.r.l.")
            .as_bytes(),
    )
    .unwrap();
    let sent = sent("11", "1111", &daticert, &[0; 32]);
    let log = Entry::new(Event::Accesso, &daticert, daticert.data, "4j");
    let database = Database::connect(&network.beta.settings, "test").await.unwrap();
    database.insert_sent(database.authentic(sent).unwrap(), log, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6109_3_2_what_arrives_from_outside() {
    let mut network = network().await;
    network.beta.settings.clamd = network.alfa.settings.clamd.clone();
    let hands = Hands::new(&network.pki);
    let hashes: String =
        hands.of_alfa.iter().map(|sha1| format!("providerCertificateHash: {sha1}\n")).collect();
    let file = network.directory.path().join("igpec.ldif");
    let ldif = fs::read_to_string(&file).unwrap().replacen(
        "mailReceipt: ricevute@gestore.alfa.test\n",
        &format!("mailReceipt: ricevute@gestore.alfa.test\n{hashes}"),
        1,
    );
    fs::write(&file, ldif).unwrap();
    sent_by_beta(&network).await;
    let beta = start(IncomingPoint::new(network.world(&network.beta).await), Door::Port25).await;
    let delivery = Delivery::start(&network, &network.beta).await;
    let database = Database::connect(&network.beta.settings, "test").await.unwrap();
    let cas = read::trusted_cas(&network.pki.ca_file()).unwrap();

    let (mut took, mut wrong) = (Vec::new(), Vec::new());
    let mut before = rows(&network.beta).await;
    for case in arrivals(&hands) {
        let name = format!("{}: {}", case.kind, case.name);
        let started = Instant::now();
        let outcome = given(&case.mail, beta).await;
        let after = rows(&network.beta).await;
        let more: Vec<i64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        let checked = async {
            let Some(queued) = arrived(&case, outcome?, &cas)? else { return Ok(()) };
            let_pass(&case, &queued, &database).await?;
            let to = mailboxes(&case.mail, &network.beta);
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            handed_over(&queued, &network.beta, &delivery, &to, &cas).await
        };
        let mut checked = checked.await;
        took.push((started.elapsed(), name.clone()));
        let as_expected = match case.expect {
            Incoming::Taken => more == [0, 0, 1, 0, 0, 1],
            Incoming::Receipt => more == [0, 0, 0, 1, 1, 1],
            // A receipt that came before is not written down again.
            Incoming::Stranger => more == [0, 0, 0, 0, 1, 1] || more == [0, 0, 0, 0, 1, 0],
            Incoming::Anomaly(_) => more == [0, 0, 0, 0, 1, 1],
            Incoming::Refused(_) => more == [0; 6],
        };
        if checked.is_ok() && !as_expected {
            checked = Err(format!("rows in sent, fact, custody, ricevuta, passed, log: {more:?}"));
        }
        before = rows(&network.beta).await;
        if let Err(why) = checked {
            wrong.push(format!(
                "{name}: expected {:?}; {}",
                case.expect,
                why.chars().take(1500).collect::<String>()
            ));
        }
    }
    conclude("arrivals", took, &wrong);
}

/// What is in the queue now, if it is what the table says.
fn arrived(case: &Arrival, outcome: Outcome, cas: &TrustedCas) -> Result<Option<Queued>, String> {
    if let Incoming::Refused(code) = case.expect {
        return refused(outcome, code).map(|()| None);
    }
    let queued = queued(outcome)?;
    let is_anomaly = queued.mail.header.text("X-Trasporto").as_deref() == Some("errore")
        && queued.mail.body != case.mail.body;
    let says = || anomaly_of(&queued).map(|(words, _)| words.chars().skip(150).take(900).collect::<String>());
    is("the reverse path stays", &queued.mail.sender, queued.mail.sender == case.mail.sender)?;
    match case.expect {
        Incoming::Anomaly(wanted) => {
            is("an anomaly envelope", (queued.mail.header.text("Subject"), &queued.added), is_anomaly)?;
            let written = ["Date", "From", "Subject", "X-Trasporto", "MIME-Version", "Content-Type"];
            signed_by_us(&queued.mail, cas, &written)?;
            nothing_else_is_in(&queued.mail.header, &written)?;
            is(
                "no trigger",
                &queued.added,
                queued.added.iter().all(|(to, _)| !to.contains(".pec.internal")),
            )?;
            let (words, original) = anomaly_of(&queued)?;
            is("every byte that arrived", original.len(), original == case.mail.to_bytes())?;
            is("the reason", &words, words.contains(wanted))?;
        }
        Incoming::Taken => {
            is("not an anomaly", says(), !is_anomaly)?;
            is("every byte", queued.mail.body.len(), queued.mail.body == case.mail.body)?;
            is(
                "the trigger",
                &queued.added,
                queued.added.len() == 1 && queued.added[0].0.starts_with("<presa-in-carico+"),
            )?;
        }
        Incoming::Receipt | Incoming::Stranger => {
            is("not an anomaly", says(), !is_anomaly)?;
            is("every byte", queued.mail.body.len(), queued.mail.body == case.mail.body)?;
            let others = queued.added.iter().filter(|(to, _)| !to.starts_with("<errore-consegna+")).count();
            is(
                "to its recipients alone",
                &queued.added,
                others == 0 && queued.mail.recipients.starts_with(&case.mail.recipients),
            )?;
        }
        Incoming::Refused(_) => unreachable!(),
    }
    Ok(Some(queued))
}

/// What is not in custody has a row that says as what it was let in: by it a receipt passes a full mailbox,
/// or not.
async fn let_pass(case: &Arrival, queued: &Queued, database: &Database) -> Checked {
    let found =
        match database.in_queue(envid(queued).ok_or("no envelope id")?).await.map_err(|e| e.to_string())? {
            Some(InQueue::Passed(passed)) => Some(passed.kind),
            _ => None,
        };
    let wanted = match case.expect {
        Incoming::Anomaly(_) => Some(PassedKind::Anomalia),
        Incoming::Receipt => Some(PassedKind::RicevutaDovuta),
        Incoming::Stranger => Some(PassedKind::Ricevuta),
        Incoming::Taken | Incoming::Refused(_) => None,
    };
    is("let pass", found, found == wanted)
}

/// The text and the original in an anomaly envelope.
fn anomaly_of(queued: &Queued) -> Result<(String, Vec<u8>), String> {
    let body = &queued.mail.body;
    let text = |e: &dyn ToString| e.to_string();
    let parts = signed_parts(&queued.mail.header, body).map_err(|e| text(&e))?;
    let entity = part(body, parts.content).map_err(|e| text(&e))?;
    let boundary = entity
        .header
        .content_type()
        .and_then(|m| m.attribute("boundary").map(str::to_owned))
        .ok_or("no boundary")?;
    let inside = &body[entity.body];
    let parts = split(inside, &boundary, 10).map_err(|e| text(&e))?;
    let [words, original] = &parts[..] else { return Err(format!("{} parts", parts.len())) };
    let original = part(inside, original.clone()).map_err(|e| text(&e))?;
    let words = String::from_utf8_lossy(&inside[words.clone()]).replace("=\r\n", "");
    let latin1: Vec<(String, char)> =
        (0xa0..=0xff_u8).map(|b| (format!("={}", hex(&[b]).to_uppercase()), char::from(b))).collect();
    let words = latin1
        .iter()
        .fold(words, |words, (code, letter)| words.replace(code, &letter.to_string()))
        .replace("=3D", "=");
    Ok((words, inside[original.body].to_vec()))
}
