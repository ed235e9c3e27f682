//! `pecctl log MSGID`: the story of a message.

use std::path::Path;

use anyhow::{Context as _, bail};
use pec_core::parameters::Settings;
use pec_state::database::Database;
use pec_state::log::Row;
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The PEC identifier, the sender's Message-ID, or the identifier of a receipt.
    msgid: String,

    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let settings = Settings::read(config_directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    let rows = runtime.block_on(async { anyhow::Ok(Database::connect(&settings, "pecctl").await?.story(&arguments.msgid).await?) })?;
    if rows.is_empty() {
        bail!("{}: no row of the log has this identifier", arguments.msgid);
    }
    if arguments.json {
        rows.iter().for_each(|row| println!("{}", json_of(row)));
    } else {
        print!("{}", table(&rows));
    }
    Ok(())
}

fn json_of(row: &Row) -> serde_json::Value {
    json!({
        "seq": row.seq,
        "time": row.happened_at.to_string(),
        "time_source": row.time_source,
        "event": row.event,
        "identificativo": row.identificativo,
        "msgid": row.msgid,
        "mittente": row.mittente,
        "destinatari": row.destinatari,
        "oggetto": row.oggetto,
        "gestore": row.gestore,
        "certified_by": row.certified_by,
        "recipients": row.recipients,
        "message_id": row.message_id,
        "message_sha256": row.message_sha256,
        "queue_id": row.queue_id,
        "error": row.error,
    })
}

/// A head for each envelope, then a line for each fact.
fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut shown = None;
    for row in rows {
        if shown != Some(&row.identificativo) {
            if shown.is_some() {
                out += "\n";
            }
            shown = Some(&row.identificativo);
            out += &format!("identificativo  {}\n", row.identificativo);
            out += &format!("msgid           {}\n", row.msgid.as_deref().unwrap_or("none"));
            out += &format!("from            {} ({})\n", row.mittente, row.gestore);
            for (i, d) in row.destinatari.iter().enumerate() {
                out += &format!("{:<15} {d}\n", if i == 0 { "to" } else { "" });
            }
            out += &format!("subject         {}\n\n", row.oggetto.as_deref().unwrap_or_default());
        }
        let at = row.happened_at;
        out += &format!("{} {} {}  {:<28} {}\n", at.giorno(), at.ora(), at.zona(), row.event, row.recipients.join(", "));
        for (what, value) in [("message", &row.message_id), ("sha-256", &row.message_sha256), ("error", &row.error)] {
            if let Some(value) = value {
                out += &format!("{:<28}{what:<9}{value}\n", "");
            }
        }
        if row.certified_by != row.gestore {
            out += &format!("{:<28}by       {}\n", "", row.certified_by);
        }
        out += &format!(
            "{:<28}queue id {}{}\n",
            "",
            row.queue_id,
            if row.time_source == "clock" { String::new() } else { format!(", time by the {}", row.time_source) }
        );
    }
    out
}
