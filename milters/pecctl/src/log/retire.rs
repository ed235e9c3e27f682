//! `pecctl log retire`: months whose time is over leave the database.

use anyhow::Context as _;
use pec_core::clock::{Clock as _, SystemClock};
use pec_host::parameters::Settings;
use pec_register::retire::{due, retire};
use tokio_postgres::NoTls;

use crate::status::Status;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How the database's owner reaches it, as libpq writes it: nobody else can remove anything.
    #[arg(
        long,
        value_name = "CONNECTION",
        default_value = "host=/var/run/postgresql dbname=pec user=postgres"
    )]
    database: String,

    /// This month alone; without it every month whose time is over, the oldest first.
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<String>,
}

pub(super) async fn run(settings: &Settings, arguments: &Arguments) -> anyhow::Result<Status> {
    let now = SystemClock.now();
    let (client, connection) = tokio_postgres::connect(&arguments.database, NoTls)
        .await
        .with_context(|| arguments.database.clone())?;
    // What ends the connection is what the next statement fails with.
    tokio::spawn(connection);
    let months = match &arguments.month {
        Some(month) => vec![month.clone()],
        None => due(&client, settings.log_months, now).await?,
    };
    if months.is_empty() {
        println!("no month in the database is older than pec_log_months = {}", settings.log_months);
    }
    for month in months {
        let left = retire(settings, &client, &month, now).await?;
        println!(
            "{}: {} rows have left the database; they are in {} days' files, which verified",
            left.month, left.rows, left.files
        );
    }
    Ok(Status::Good)
}
