//! `pecctl evidence`: one file that proves to a court what the retained log says of a message.
//!
//! Promise: a file that is there already is not touched, and a new one is for nobody else's eyes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use pec_core::clock::{Clock as _, Moment, SystemClock};
use pec_core::smime::certificates_from_pem;
use pec_core::smime::sign::Signer;
use pec_host::files::create;
use pec_host::outages::Outages;
use pec_host::parameters::Settings;
use pec_program::world::own_signer;
use pec_register::evidence::archive::{pack, unpack};
use pec_register::evidence::collect::{Evidence, Sources, are_sealed, collect};
use pec_register::evidence::verify::{Verdict, verify};
use pec_register::prover::Prover;
use pec_register::retire::lines_that_left;
use pec_register::row::Row;
use pec_register::tsa::Tsa;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::log::reading;
use crate::log::story::story;
use crate::status::Status;

/// For how many seconds rows are waited for that are not sealed yet.
const PATIENCE: u32 = 60;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,

    #[command(flatten)]
    make: Option<Make>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Check an evidence file, without any connection or configuration. Exit status 0: everything in it is
    /// right; 1: each member that is wrong or missing is named.
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
#[group(id = "make")]
struct Make {
    /// The PEC identifier, the sender's Message-ID, or the identifier of a receipt.
    msgid: String,

    /// Where the file goes; without it, `evidence-MSGID.zip` in this directory. A file that is there already
    /// stays.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// One JSON object that says what is in the file.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The evidence file.
    file: PathBuf,

    /// PEM file with the CAs that must vouch for the provider and the TSA. Without it those in the evidence
    /// file count, and are named.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// One JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<Status> {
    match (&arguments.verb, &arguments.make) {
        (Some(Verb::Verify(arguments)), _) => check(arguments),
        (None, Some(arguments)) => {
            let settings = Settings::read(config_directory)?;
            let now = SystemClock.now();
            let signer = own_signer(&settings, now, &Outages::default())?;
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
            runtime.block_on(async {
                let client = reading::begin(&settings).await?;
                let evidence = make(&settings, &client, &*signer, now, &arguments.msgid).await?;
                let file = arguments.output.clone().unwrap_or_else(|| name_of(&arguments.msgid));
                write(&file, &pack(&evidence.members).context("packing")?)?;
                if arguments.json {
                    println!("{}", json_of(&file, &evidence));
                } else {
                    print!("{}", told(&file, &evidence));
                }
                Ok(Status::Good)
            })
        }
        // clap has said what is missing.
        (None, None) => Ok(Status::Usage),
    }
}

async fn make(
    settings: &Settings,
    client: &Client,
    signer: &dyn Signer,
    now: Moment,
    msgid: &str,
) -> anyhow::Result<Evidence> {
    let lines = lines_of(settings, client, msgid).await?;
    if lines.is_empty() {
        bail!("{msgid}: no row of the log has this identifier");
    }
    for _ in 0..PATIENCE * 2 {
        if are_sealed(settings, client, &lines).await? {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let tsa = settings.timestamps.as_ref().map(Tsa::new).transpose()?;
    let prover = Prover { signer, tsa: tsa.as_ref(), now };
    Ok(collect(&Sources { settings, client, prover: &prover }, msgid, lines).await?)
}

/// The rows of the messages that an identifier names, also those that have left the database.
async fn lines_of(settings: &Settings, client: &Client, msgid: &str) -> anyhow::Result<Vec<String>> {
    let bare = msgid.trim().trim_start_matches('<').trim_end_matches('>');
    let bracketed = format!("<{bare}>");
    let is_named = |row: &Row| {
        let is_it = |id: &Option<String>| id.as_deref().is_some_and(|id| id == bare || id == bracketed);
        row.identificativo == bare || is_it(&row.msgid) || is_it(&row.message_id)
    };
    let shown = story(client, msgid).await?;
    let mut identifiers: BTreeSet<String> =
        shown.iter().map(|shown| shown.row.identificativo.clone()).collect();
    let mut lines: Vec<String> = shown.into_iter().map(|shown| shown.line).collect();
    // As the line has it: what JSON escapes is escaped there.
    let word = |text: &str| serde_json::to_string(text).map(|quoted| quoted.trim_matches('"').to_owned());
    for line in lines_that_left(settings, client, &[word(bare)?], is_named).await? {
        let identifier = Row::from_line(&line)?.identificativo;
        if identifiers.insert(identifier.clone()) {
            lines.extend(story(client, &identifier).await?.into_iter().map(|shown| shown.line));
        }
    }
    let words: Vec<String> =
        identifiers.iter().map(|identifier| word(identifier)).collect::<Result<_, _>>()?;
    lines.extend(
        lines_that_left(settings, client, &words, |row| identifiers.contains(&row.identificativo)).await?,
    );
    Ok(lines)
}

/// A file name without anything that a shell or a path could mean something by.
fn name_of(msgid: &str) -> PathBuf {
    let id: String = msgid
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "@.-_".contains(c) { c } else { '_' })
        .collect();
    PathBuf::from(format!("evidence-{}.zip", id.trim_matches('_')))
}

/// It has what people wrote to each other: for nobody else's eyes.
fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    create(file, 0o600, |new| new.write_all(bytes)).with_context(|| file.display().to_string())
}

fn told(file: &Path, evidence: &Evidence) -> String {
    let mut out = format!("{}: {} rows, in a register of {}\n", file.display(), evidence.rows, evidence.size);
    out += &match evidence.timestamp {
        Some(at) => format!("timestamped on {at}\n"),
        None => "without a timestamp: nothing but the provider's word says when it was so\n".to_owned(),
    };
    for seq in &evidence.unsealed {
        out += &format!("not in it, since it is not sealed yet: row {seq}\n");
    }
    out
}

fn json_of(file: &Path, evidence: &Evidence) -> Value {
    json!({
        "file": file.display().to_string(),
        "rows": evidence.rows,
        "size": evidence.size,
        "timestamp": evidence.timestamp.map(|at| at.to_string()),
        "unsealed": evidence.unsealed,
    })
}

fn check(arguments: &Verify) -> anyhow::Result<Status> {
    let read = |file: &Path| fs::read(file).with_context(|| file.display().to_string());
    // A file that was damaged is wrong; one that cannot be read is not known.
    let unpacked = match unpack(&read(&arguments.file)?) {
        Ok(unpacked) => unpacked,
        Err(e) => {
            eprintln!("pecctl: {} is no zip file: {:#}", arguments.file.display(), anyhow::Error::from(e));
            return Ok(Status::Bad);
        }
    };
    let trusted = match &arguments.ca {
        Some(file) => Some(
            certificates_from_pem(&read(file)?).map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))?,
        ),
        None => None,
    };
    let verdict = verify(&unpacked, trusted.as_deref());
    if arguments.json {
        println!("{}", json_of_verdict(&arguments.file, &verdict));
    } else {
        print!("{}", text_of_verdict(&arguments.file, &verdict));
    }
    Ok(if verdict.findings.is_empty() { Status::Good } else { Status::Bad })
}

fn text_of_verdict(file: &Path, verdict: &Verdict) -> String {
    let mut out = String::new();
    verdict.found.iter().for_each(|found| out += &format!("{found}\n"));
    verdict.findings.iter().for_each(|finding| out += &format!("WRONG: {finding}\n"));
    let judged = if verdict.findings.is_empty() { "right" } else { "NOT what it was, or not believed" };
    out + &format!("{}: {judged}\n", file.display())
}

fn json_of_verdict(file: &Path, verdict: &Verdict) -> Value {
    json!({
        "file": file.display().to_string(),
        "wrong": verdict.findings.len(),
        "findings": verdict.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "found": verdict.found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_nothing_but_a_name() {
        for (msgid, name) in [
            ("<1.a@client.test>", "evidence-1.a@client.test.zip"),
            ("../../etc/x y$(z)", "evidence-.._.._etc_x_y__z.zip"),
        ] {
            assert_eq!(name_of(msgid), Path::new(name), "{msgid}");
        }
    }

    #[test]
    fn a_file_that_is_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("evidence.zip");
        write(&file, b"first").unwrap();
        write(&file, b"second").unwrap_err();
        assert_eq!(fs::read(&file).unwrap(), b"first");
    }

    #[test]
    fn a_damaged_file_is_wrong_and_one_that_cannot_be_read_is_not_known() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("evidence.zip");
        let arguments = |file: &Path| Verify { file: file.to_owned(), ca: None, json: true };
        check(&arguments(&file)).unwrap_err();
        fs::write(&file, b"no zip").unwrap();
        assert_eq!(check(&arguments(&file)).unwrap(), Status::Bad);
        let verdict = Verdict { findings: Vec::new(), found: vec!["3 rows".to_owned()] };
        assert_eq!(text_of_verdict(Path::new("x.zip"), &verdict), "3 rows\nx.zip: right\n");
        let expected = json!({"file": "x.zip", "wrong": 0, "findings": [], "found": ["3 rows"]});
        assert_eq!(json_of_verdict(Path::new("x.zip"), &verdict), expected);
    }
}
