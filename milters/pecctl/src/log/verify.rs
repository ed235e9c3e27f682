//! `pecctl log verify`: is the register what it was when it was sealed?
//!
//! With files it is about days' files alone, and needs no database.
//!
//! Promise: exit status 0 only when everything that was looked at is right. What is not is named, the first
//! ones one by one.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use pec_core::clock::{Clock as _, SystemClock};
use pec_host::crl_directory::CrlDirectory;
use pec_host::parameters::Settings;
use pec_host::read;
use pec_register::checkpoint::origin;
use pec_register::checkpoint::{Checkpoint, LogKey};
use pec_register::tree::Tiles;
use pec_register::tsa::TsaCas;
use pec_register::verify::{Outcome, TOLD, Wanted, Witnessed, verify};
use pec_register::verify_files::{Proofs, Trust, proofs, verify_files};
use serde_json::json;

use crate::status::{Answer, Status};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Days' files (`days/YYYY-MM-DD.jsonl.gz`): checked without the database.
    #[arg(conflicts_with_all = ["since", "checkpoints", "keep"])]
    files: Vec<PathBuf>,

    /// Compute only what came after this checkpoint, a file that you have kept: for every day's run. What
    /// came before is held against it as a whole.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,

    /// Checkpoints that others keep (witnesses, an auditor): each must be of this history.
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,

    /// When all is right, keep the checkpoint of what was looked at in this file, for --since.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,

    /// One JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(settings: &Settings, arguments: &Arguments) -> anyhow::Result<Status> {
    let crls = Arc::new(CrlDirectory::new(&settings.crl_directory));
    let cas = read::trusted_cas(&settings.ca_file)?.asking(crls, settings.crl_too_old).looking_back();
    let tsa = settings.timestamps.as_ref().map(|timestamps| TsaCas::read(&timestamps.ca_file)).transpose()?;
    // Who has not the key itself, an auditor, goes by what the provider has signed of it (log.key).
    let own: Vec<_> = LogKey::read(settings).iter().map(LogKey::public).collect();
    let trust = Trust { cas: &cas, tsa: tsa.as_ref(), log_keys: &own };
    let kept = proofs(&settings.register, &origin(settings), &trust, &settings.witnesses)?;
    if !arguments.files.is_empty() {
        let trust = Trust { log_keys: &kept.keys, ..trust };
        return Ok(files(arguments, &trust, &Tiles::new(&settings.register)));
    }
    if kept.keys.is_empty() {
        anyhow::bail!(
            "whose the checkpoints are is not known: pec_register_key cannot be read, and {} has no log.key \
            that the provider has signed",
            settings.register.display()
        );
    }
    let mut wanted = Wanted { keys: kept.keys.clone(), checkpoints: kept.checkpoints.clone(), since: None };
    let given = |file: &PathBuf| {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let opened: Vec<_> = kept.keys.iter().map(|key| Checkpoint::open(&text, key)).collect();
        let opened = opened.into_iter().reduce(Result::or).context("no key")?;
        let checkpoint = opened.map_err(|e| Answer(format!("{}: {e}", file.display())))?;
        anyhow::Ok(Witnessed { name: file.display().to_string(), checkpoint })
    };
    let others: Vec<_> = arguments.checkpoints.iter().map(given).collect::<Result<_, _>>()?;
    let since = arguments.since.as_ref().map(given).transpose()?;
    wanted.checkpoints.extend(others);
    wanted.since = since;

    let begun = Instant::now();
    let show = std::io::stderr().is_terminal() && !arguments.json;
    let mut shown = Instant::now();
    let outcome = verify(settings, &wanted, SystemClock.now(), |done, total| {
        if show && shown.elapsed().as_millis() > 200 {
            eprint!("\r{done} of {total} rows");
            let _ = std::io::stderr().flush();
            shown = Instant::now();
        }
    })
    .await?;
    if show {
        eprint!("\r{:40}\r", "");
    }
    let wrong = outcome.wrong + u64::try_from(kept.faults.len())?;
    if arguments.json {
        println!("{}", json_of(&outcome, &kept));
    } else {
        print!("{}", table(settings, &outcome, &kept, begun.elapsed().as_secs_f64()));
    }
    if wrong > 0 {
        return Ok(Status::Bad);
    }
    // Not the published one, which may have grown since.
    if let Some(file) = &arguments.keep {
        let checkpoint =
            outcome.checkpoint.context("nothing is sealed yet: there is no checkpoint to keep")?;
        fs::write(file, checkpoint).with_context(|| file.display().to_string())?;
    }
    Ok(Status::Good)
}

fn table(settings: &Settings, outcome: &Outcome, kept: &Proofs, seconds: f64) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for finding in &outcome.findings {
        let _ = writeln!(out, "WRONG  {finding}");
    }
    if outcome.wrong > TOLD as u64 {
        let _ = writeln!(out, "WRONG  and {} more", outcome.wrong - TOLD as u64);
    }
    for what in &kept.faults {
        let _ = writeln!(out, "WRONG  {what}");
    }
    for (first, end) in &outcome.lost {
        let _ = writeln!(
            out,
            "LOST   the rows of leaves {first} to {end}, when an older backup was restored (pecctl log \
            recover)"
        );
    }
    for gap in &kept.gaps {
        let _ = writeln!(out, "OPEN   {gap}");
    }
    if settings.timestamps.is_none() {
        let _ = writeln!(out, "OPEN   pec_tsa_url is not set: nothing is timestamped");
    }
    let root = outcome.root.map_or_else(String::new, |root| root.to_string());
    let _ = writeln!(out, "{} rows in {} seals computed in {seconds:.1} s", outcome.rows, outcome.seals);
    let _ = writeln!(out, "the register has {} leaves, root {root}", outcome.size);
    let _ = writeln!(
        out,
        "checkpoints that are signed, timestamped or kept elsewhere vouch for the first {}",
        outcome.vouched
    );
    if outcome.retired > 0 {
        let _ = writeln!(out, "{} rows have left the database after their time", outcome.retired);
    }
    let _ = writeln!(out, "{} rows wait for their seal", outcome.unsealed);
    let wrong = outcome.wrong + kept.faults.len() as u64;
    let _ = writeln!(
        out,
        "{}",
        if wrong == 0 {
            "all of it is as it was sealed".to_owned()
        } else {
            format!("{wrong} things are WRONG")
        }
    );
    out
}

fn json_of(outcome: &Outcome, kept: &Proofs) -> serde_json::Value {
    let findings: Vec<_> = outcome
        .findings
        .iter()
        .map(ToString::to_string)
        .chain(kept.faults.iter().map(ToString::to_string))
        .collect();
    json!({
        "wrong": outcome.wrong + kept.faults.len() as u64,
        "findings": findings,
        "rows": outcome.rows,
        "seals": outcome.seals,
        "size": outcome.size,
        "root": outcome.root.map(|root| root.to_string()),
        "lost": outcome.lost,
        "retired": outcome.retired,
        "unsealed": outcome.unsealed,
        "vouched": outcome.vouched,
        "gaps": kept.gaps.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// The days' files alone.
fn files(arguments: &Arguments, trust: &Trust<'_>, tiles: &Tiles) -> Status {
    let outcome = verify_files(&arguments.files, trust, Some(tiles));
    let days: Vec<_> =
        outcome.days.iter().map(|day| (&day.day, day.rows, day.lost, day.timestamp.as_ref())).collect();
    if arguments.json {
        let days: Vec<_> = days
            .iter()
            .map(|(day, rows, lost, stamp)| json!({ "day": day, "rows": rows, "lost": lost, "timestamp": stamp.map(|stamp| stamp.at.to_string()) }))
            .collect();
        let words = |faults: &[pec_register::verify_files::Fault]| {
            faults.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        println!(
            "{}",
            json!({ "days": days, "findings": words(&outcome.faults), "gaps": words(&outcome.gaps) })
        );
    } else {
        for (day, rows, lost, stamp) in days {
            let lost = if lost == 0 { String::new() } else { format!(", {lost} rows lost") };
            let stamp = stamp.map_or_else(
                || "no timestamp".to_owned(),
                |stamp| format!("timestamped at {} by {}", stamp.at, stamp.by),
            );
            println!("{day}  {rows} rows{lost}, {stamp}");
        }
        outcome.gaps.iter().for_each(|gap| println!("OPEN   {gap}"));
        outcome.faults.iter().for_each(|fault| println!("WRONG  {fault}"));
        println!(
            "{}",
            if outcome.faults.is_empty() {
                "all of it is as it was signed".to_owned()
            } else {
                format!("{} files are WRONG", outcome.faults.len())
            }
        );
    }
    if outcome.faults.is_empty() { Status::Good } else { Status::Bad }
}
