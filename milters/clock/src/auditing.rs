//! Asks the rules of certified mail of what was written down, every ten minutes, beside the rounds.
//!
//! Promise: what breaks a rule becomes a row of the retained log and an error in the log, once, and stays a
//! number in the metrics as long as it is so. `pecctl log audit` asks the same of everything.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pec_core::clock::{Clock, Moment};
use pec_host::files::replace;
use pec_host::maillog;
use pec_host::parameters::Settings;
use pec_register::audit::{EVERYTHING_IS_SEALED, RULES, Violation, audit, row_before};
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::pool::connect_reader;
use tokio_postgres::Client;

/// From one look at the clock to the next; and what whoever seals is given for a row that seems to wait long,
/// since a clock that jumped makes every row look old.
const LOOK: Duration = Duration::from_secs(5);

/// How often the rules are asked, in seconds.
const EVERY: i64 = 600;

/// Of how many days. What is older was asked about in its time.
const DAYS: i64 = 2;

/// Asks the rules every ten minutes, as long as the program runs.
pub async fn keep_auditing(settings: Settings, clock: Arc<dyn Clock>, database: Database) {
    let (mut last, mut known, mut trouble) = (None, HashSet::new(), None);
    loop {
        let now = clock.now();
        if last.is_none_or(|last: Moment| now.unix() - last.unix() >= EVERY) {
            last = Some(now);
            match round(&settings, &database, &mut known, now).await {
                Ok(()) => trouble = None,
                Err(e) => {
                    let why = format!("{e:#}");
                    if trouble.as_ref() != Some(&why) {
                        maillog::not_audited(&why);
                        trouble = Some(why);
                    }
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks once. `known` are the violations that were told before.
pub async fn round(
    settings: &Settings,
    database: &Database,
    known: &mut HashSet<Violation>,
    now: Moment,
) -> anyhow::Result<()> {
    let client = connect_reader(settings, "pec-clock").await?;
    let after = row_before(&client, DAYS, now).await?;
    let mut found = audit(&client, after, now).await?;
    if found.iter().any(|violation| violation.rule == EVERYTHING_IS_SEALED) {
        tokio::time::sleep(LOOK).await;
        found = audit(&client, after, now).await?;
    }
    for violation in &found {
        if known.contains(violation) {
            continue;
        }
        let what = format!("{}: {}", violation.rule, violation.what);
        if !is_written(&client, &violation.identificativo, &what).await? {
            let entry = Entry::about_no_message(
                Event::Violazione,
                violation.identificativo.clone(),
                what.clone(),
                &settings.provider_name,
                now,
            );
            database.insert_log(&entry).await?;
            maillog::audit_violation(violation.rule, &violation.identificativo, &violation.what);
        }
        known.insert(violation.clone());
    }
    known.retain(|violation| found.contains(violation));
    if let Some(file) = &settings.metrics_file {
        write_metrics(file, &client, &found, now).await?;
    }
    Ok(())
}

/// Whether another process, or this one before it was started anew, has written the row.
async fn is_written(
    client: &Client,
    identificativo: &str,
    what: &str,
) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT EXISTS (SELECT FROM log WHERE identificativo = $1 AND event = $2 AND error = $3)";
    let event = Event::Violazione.name();
    Ok(client.query_one(sql, &[&identificativo, &event, &what]).await?.get(0))
}

/// For Prometheus' node_exporter (`--collector.textfile.directory`).
async fn write_metrics(file: &Path, client: &Client, found: &[Violation], now: Moment) -> anyhow::Result<()> {
    let sql = "SELECT coalesce(max(size), 0), coalesce(extract(epoch FROM max(sealed_at))::int8, 0), \
               (SELECT count(*) FROM log WHERE seq > (SELECT coalesce(max(high), 0) FROM seal)) FROM seal";
    let row = client.query_one(sql, &[]).await?;
    let (size, sealed, unsealed): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let mut text = String::new();
    for (name, help, value) in [
        ("pec_register_rows", "Rows of the retained log that are sealed.", size),
        ("pec_register_last_seal_seconds", "When the last of them was sealed (Unix time).", sealed),
        ("pec_register_unsealed_rows", "Rows that wait for their seal.", unsealed),
        ("pec_audit_last_seconds", "When the rules were asked last (Unix time).", now.unix()),
    ] {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    }
    let _ = write!(
        text,
        "# HELP pec_audit_violations What breaks a rule of certified mail in the last two days.\n# TYPE \
        pec_audit_violations gauge\n"
    );
    for rule in RULES {
        let _ = writeln!(
            text,
            "pec_audit_violations{{rule=\"{}\"}} {}",
            rule.name,
            found.iter().filter(|v| v.rule == rule.name).count()
        );
    }
    let trouble = |e: std::io::Error| anyhow::anyhow!("pec_metrics_file = {}: {e}", file.display());
    replace(file, |new| new.write_all(text.as_bytes())).map_err(trouble)
}
