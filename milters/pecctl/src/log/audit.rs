//! `pecctl log audit`: do the rows and tables keep the rules of certified mail?

use pec_core::clock::{Clock as _, SystemClock};
use pec_core::showable::showable;
use pec_register::audit::{RULES, audit, row_before};
use serde_json::json;
use tokio_postgres::Client;

use crate::status::Status;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only rows of the last so many days, as pec-clock asks; otherwise everything.
    #[arg(long)]
    days: Option<u16>,

    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(client: &Client, arguments: &Arguments) -> anyhow::Result<Status> {
    let now = SystemClock.now();
    let after = match arguments.days {
        Some(days) => row_before(client, i64::from(days), now).await?,
        None => i64::MIN,
    };
    let violations = audit(client, after, now).await?;
    if arguments.json {
        for v in &violations {
            println!("{}", json!({ "rule": v.rule, "identificativo": v.identificativo, "what": v.what }));
        }
    } else {
        for rule in RULES {
            let broken: Vec<_> = violations.iter().filter(|v| v.rule == rule.name).collect();
            println!(
                "{:<24} {:<9} {}",
                rule.name,
                if broken.is_empty() { "kept".to_owned() } else { format!("BROKEN {}", broken.len()) },
                rule.meaning
            );
            broken
                .iter()
                .for_each(|v| println!("    {}  {}", showable(&v.identificativo), showable(&v.what)));
        }
    }
    Ok(if violations.is_empty() { Status::Good } else { Status::Bad })
}
