//! `pecctl log extract`: what the log has about a message or a mailbox, as a page that its holder can take to
//! a lawyer.
//!
//! Promise: one HTML file that needs nothing else, in Italian and English, with the rows as they are sealed,
//! and beside it the provider's signature over its very bytes. A file that is there already is not replaced.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use pec_core::clock::Moment;
use pec_core::identifier::hex;
use pec_core::showable::showable;
use pec_core::smime::sign::Signer;
use pec_host::files::create;
use pec_register::prover::{Prover, signature_of};
use pec_register::row::entry;
use pec_register::sealer::{Seal, last_seal};
use pec_register::search::of_address;
use pec_state::event::Words;
use postgres_protocol::escape::escape_literal;
use quick_xml::escape::partial_escape;
use tokio_postgres::Client;

use super::story::{legal_time, story};
use super::times::Period;
use super::{Shown, shown};

/// Rows that one page has at most: beyond, no browser prints it.
const MOST: usize = 20_000;

#[derive(Debug, clap::Args)]
#[group(id = "extract")]
pub(crate) struct Arguments {
    /// The PEC identifier, the sender's Message-ID, or the identifier of a receipt: all about that message.
    #[arg(required_unless_present = "account", conflicts_with_all = ["account", "from", "to"])]
    msgid: Option<String>,

    /// All about this mailbox: what it sent and what was for it.
    #[arg(long, value_name = "ADDRESS")]
    account: Option<String>,

    #[command(flatten)]
    period: Period,

    /// The page; its signature gets the same name with .p7s.
    #[arg(long, value_name = "FILE")]
    pub(super) output: PathBuf,
}

/// Writes page and signature; gives back how many rows.
pub(super) async fn run(
    client: &Client,
    arguments: &Arguments,
    provider: &str,
    signer: &dyn Signer,
    now: Moment,
) -> anyhow::Result<usize> {
    let output = &arguments.output;
    let signature = signature_of(output);
    for path in [output, &signature] {
        if path.exists() {
            bail!("{}: is there already", path.display());
        }
    }
    let rows = match &arguments.msgid {
        Some(msgid) => story(client, msgid).await?,
        None => of_mailbox(client, arguments).await?,
    };
    match rows.len() {
        0 => bail!("the log has no row about that"),
        n if n > MOST => bail!("more than {MOST} rows: a shorter time is needed (--from, --to)"),
        _ => {}
    }
    let seal = last_seal(client).await?;
    write(output, &page(&rows, &asked(arguments), provider, seal.as_ref(), now))?;
    // The signature is made here and now, whoever may have put a file there meanwhile.
    Prover { signer, tsa: None, now }.complete(output)?;
    Ok(rows.len())
}

fn write(output: &Path, page: &str) -> anyhow::Result<()> {
    create(output, 0o666, |new| new.write_all(page.as_bytes())).with_context(|| output.display().to_string())
}

async fn of_mailbox(client: &Client, arguments: &Arguments) -> anyhow::Result<Vec<Shown>> {
    let account = arguments.account.as_deref().unwrap_or_default();
    let mut condition = format!("WHERE (account = {} OR {})", escape_literal(account), of_address(account));
    for (sign, time) in [(">=", arguments.period.from), ("<", arguments.period.to)] {
        if let Some(time) = time {
            condition += &format!(" AND happened_at {sign} '{time}'");
        }
    }
    shown(client, &format!("{condition} ORDER BY happened_at, seq LIMIT {}", MOST + 1)).await
}

/// What the page is about: in Italian, in English.
fn asked(arguments: &Arguments) -> (String, String) {
    if let Some(msgid) = &arguments.msgid {
        return (format!("il messaggio {msgid}"), format!("the message {msgid}"));
    }
    let account = arguments.account.as_deref().unwrap_or_default();
    let (mut italian, mut english) = (format!("la casella {account}"), format!("the mailbox {account}"));
    for (da, from, time) in
        [("dal", "from", arguments.period.from), ("fino al", "until", arguments.period.to)]
    {
        if let Some(time) = time {
            let time = legal_time(&time.to_string());
            italian += &format!(", {da} {time}");
            english += &format!(", {from} {time}");
        }
    }
    (italian, english)
}

const STYLE: &str = "body{font:11pt/1.4 serif;max-width:60em;margin:2em auto;padding:0 \
    1em;color:#000;background:#fff}\
h1{font-size:16pt}h2{font-size:13pt;margin-top:2em}em{color:#444}\
table{border-collapse:collapse;width:100%;font-size:9.5pt}th,td{border:1px solid #999;padding:.3em \
    .5em;text-align:left;vertical-align:top;overflow-wrap:anywhere}\
thead{display:table-header-group}tr,pre{page-break-inside:avoid}td.when{white-space:nowrap}\
pre,code{font:8.5pt/1.3 monospace;white-space:pre-wrap;overflow-wrap:anywhere}pre{border:1px solid \
    #999;padding:.5em}\
@media print{body{margin:0;max-width:none}@page{margin:18mm}}";

fn page(
    rows: &[Shown],
    asked: &(String, String),
    provider: &str,
    seal: Option<&Seal>,
    now: Moment,
) -> String {
    let made = legal_time(&now.to_string());
    let (provider, italian, english) = (escape(provider), escape(&asked.0), escape(&asked.1));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"it\"><head><meta charset=\"utf-8\"><title>Estratto del registro: \
        {italian}</title><style>{STYLE}</style></head><body>\n\
         <h1>Estratto del registro di posta elettronica certificata<br><em lang=\"en\">Extract of the log \
        of certified mail</em></h1>\n\
         <p>Gestore: <strong>{provider}</strong>. Oggetto: {italian}. Prodotto il {made} (ora legale \
        italiana). Righe: {n}.<br>\n\
         <em lang=\"en\">Provider: {provider}. About: {english}. Made on {made} (Italian legal time). Rows: \
        {n}.</em></p>\n",
        n = rows.len(),
    );
    out += "<h2>Che cosa è avvenuto <em lang=\"en\">What \
        happened</em></h2>\n<table><thead><tr><th>N.</th><th>Quando<br><em>When</em></th><th>Che \
        cosa<br><em>What</em></th>\
            <th>Chi<br><em>Who</em></th><th>Identificativi<br><em>Identifiers</em></th></tr></thead><tbody>\n";
    for (n, shown) in (1..).zip(rows) {
        row_of_table(&mut out, n, shown);
    }
    out += "</tbody></table>\n";
    out += "<h2>Le righe come sono sigillate <em lang=\"en\">The rows as they are sealed</em></h2>\n\
            <p>Ogni riga del registro è una riga di testo JSON; la sua impronta SHA-256 è una foglia \
        dell'albero di cui il gestore firma la radice (sigillo).<br>\n\
            <em lang=\"en\">Each row of the log is a line of JSON; its SHA-256 is a leaf of the tree whose \
        root the provider signs (seal).</em></p>\n";
    for (n, Shown { line, row }) in (1..).zip(rows) {
        let state = match seal {
            Some(seal) if is_sealed(seal, row.seq) => "",
            _ => " — non ancora sigillata / <em>not sealed yet</em>",
        };
        let _ = writeln!(
            out,
            "<p>{n}. SHA-256: <code>{}</code>{state}</p>\n<pre>{}</pre>",
            hex(&entry(line)),
            escape(line)
        );
    }
    out += "<h2>Il sigillo <em lang=\"en\">The seal</em></h2>\n";
    match seal {
        Some(seal) => {
            let _ = writeln!(
                out,
                "<p>L'ultimo sigillo, che comprende tutte le righe qui sopra non indicate altrimenti: n. \
                {}, {} righe in tutto.<br>\n\
                 <em lang=\"en\">The last seal, which covers all rows above that are not marked otherwise: \
                no. {}, {} rows in all.</em></p>\n<pre>{}</pre>",
                seal.number,
                seal.size,
                seal.number,
                seal.size,
                escape(&seal.checkpoint),
            );
        }
        None => out += "<p>Non c'è ancora alcun sigillo. <em lang=\"en\">There is no seal yet.</em></p>\n",
    }
    out += "<h2>Come si verifica <em lang=\"en\">How to check</em></h2>\n\
            <p>La firma del gestore su questo file è nel file con lo stesso nome e .p7s; ogni impronta si \
        ricalcola dalla sua riga.<br>\n\
            <em lang=\"en\">The provider's signature over this file is in the file of the same name with \
        .p7s; each hash can be computed from its line.</em></p>\n\
            <pre>openssl cms -verify -binary -inform DER -in FILE.html.p7s -content FILE.html -CAfile \
        CA.pem -purpose any -out /dev/null\n\
            printf %s 'RIGA / LINE' | openssl sha256</pre>\n</body></html>\n";
    out
}

fn row_of_table(out: &mut String, n: usize, Shown { row, .. }: &Shown) {
    let Words { italiano, inglese } = Words::of(&row.event);
    let about = if row.recipients.is_empty() { &row.destinatari } else { &row.recipients };
    let mut who = String::new();
    for (what, value) in [
        ("da / <em>from</em> ", row.mittente.as_str()),
        ("a / <em>to</em> ", &about.join(", ")),
        ("certifica / <em>certified by</em> ", &row.certified_by),
    ] {
        if !value.is_empty() {
            let _ = write!(who, "{what}{}<br>", escape(showable(value)));
        }
    }
    let mut ids = String::new();
    for (what, value) in [
        ("identificativo", Some(&row.identificativo)),
        ("Message-ID", row.msgid.as_ref()),
        ("messaggio / <em>message</em>", row.message_id.as_ref()),
        ("SHA-256", row.message_sha256.as_ref()),
    ] {
        if let Some(value) = value {
            let _ = write!(ids, "{what} <code>{}</code><br>", escape(showable(value)));
        }
    }
    let mut what = format!(
        "<strong>{}</strong><br>{italiano}.<br><em lang=\"en\">{inglese}.</em>",
        escape(showable(&row.event))
    );
    for (name, value) in
        [("Oggetto / <em>subject</em>", &row.oggetto), ("Errore / <em>error</em>", &row.error)]
    {
        if let Some(value) = value {
            let _ = write!(what, "<br>{name}: {}", escape(showable(value)));
        }
    }
    let when = escape(legal_time(&row.happened_at)).replacen(' ', "<br>", 1);
    let _ = writeln!(
        out,
        "<tr><td>{n}</td><td class=\"when\">{when}</td><td>{what}</td><td>{who}</td><td>{ids}</td></tr>"
    );
}

/// Whether the row is in the tree of this seal.
fn is_sealed(seal: &Seal, seq: i64) -> bool {
    seq <= seal.high && seal.gaps.place(seq).is_none()
}

/// As text of the page, and as the value of an attribute in double quotes. What is not in the way stays as it
/// is: who takes a line out of the page has its bytes.
fn escape(text: impl AsRef<str>) -> String {
    partial_escape(text.as_ref()).replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use pec_core::header::Header;
    use pec_register::sealer::Sealer;
    use pec_state::database::Database;
    use pec_state::event::Event;
    use pec_state::log::Entry;
    use pec_state::pool::connect_reader;
    use pec_state::rows::FactKind;
    use pec_test_support::network::{Network, daticert_of};
    use pec_test_support::pki::NOW;

    use super::*;

    #[tokio::test]
    async fn the_page_says_what_happened_and_openssl_verifies_its_signature() {
        let network = Network::new().await;
        let settings = &network.alfa.settings;
        let database = Database::connect(settings, "test").await.unwrap();
        let header = Header::parse(b"Subject: Disdetta <b>\r\nMessage-ID: <1@client.test>\r\n").unwrap();
        let daticert = daticert_of(&network.alfa, &["Bruno@pec.beta.test"], &header);
        database.insert_log(&Entry::new(Event::Accesso, &daticert, daticert.data, "4jA")).await.unwrap();
        Sealer::open(settings, "test")
            .await
            .unwrap()
            .unwrap()
            .seal(Moment::from_unix(NOW))
            .await
            .unwrap()
            .unwrap();
        database
            .insert_log(&Entry::new(Event::Notice(FactKind::Accettazione), &daticert, daticert.data, "4jB"))
            .await
            .unwrap();

        let client = connect_reader(settings, "test").await.unwrap();
        let signer = network.signer(&network.alfa);
        let file = |name: &str| network.directory.path().join(name);
        let of = |msgid: Option<&str>, account: Option<&str>, output| Arguments {
            msgid: msgid.map(str::to_owned),
            account: account.map(str::to_owned),
            period: Period::default(),
            output: file(output),
        };
        let make = async |arguments: &Arguments| {
            run(&client, arguments, &settings.provider_name, &signer, Moment::from_unix(NOW)).await
        };
        assert_eq!(make(&of(Some("1@client.test"), None, "message.html")).await.unwrap(), 2);
        assert_eq!(make(&of(None, Some("bruno@PEC.beta.test"), "mailbox.html")).await.unwrap(), 2);
        let refused = make(&of(None, Some("nessuno@pec.beta.test"), "none.html")).await.unwrap_err();
        assert_eq!(refused.to_string(), "the log has no row about that");
        let refused = make(&of(Some("1@client.test"), None, "message.html")).await.unwrap_err();
        assert!(refused.to_string().ends_with("message.html: is there already"), "{refused}");

        let page = fs::read_to_string(file("message.html")).unwrap();
        for part in [
            "Il gestore ha accettato il messaggio e lo ha inoltrato",
            "The provider accepted the message and sent it on",
            "Disdetta &lt;b&gt;",
            "+0100</td>",
            "<pre>gestore.alfa.test/",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert_eq!(page.matches("not sealed yet").count(), 1, "the second row is younger than the seal");
        for Shown { line, .. } in story(&client, "1@client.test").await.unwrap() {
            assert!(page.contains(&escape(&line)) && page.contains(&hex(&entry(&line))), "{line}");
        }

        let verifies = |name: &str| {
            let mut openssl = Command::new("openssl");
            openssl.args([
                "cms",
                "-verify",
                "-binary",
                "-inform",
                "DER",
                "-purpose",
                "any",
                "-attime",
                &NOW.to_string(),
                "-out",
                "/dev/null",
                "-in",
            ]);
            openssl
                .arg(file(&format!("{name}.p7s")))
                .arg("-content")
                .arg(file(name))
                .arg("-CAfile")
                .arg(network.pki.ca_file());
            openssl.output().unwrap().status.success()
        };
        assert!(verifies("message.html") && verifies("mailbox.html"));
        fs::write(file("message.html"), page.replace("Bruno", "Bruna")).unwrap();
        assert!(!verifies("message.html"));
    }
}
