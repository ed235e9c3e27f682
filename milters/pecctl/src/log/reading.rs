//! Readings of the log are rows of it.
//!
//! Promise: before anything of the log is shown, there is a row that says who asked for what. Where it cannot
//! be written, nothing is shown.

use std::fs;

use anyhow::Context as _;
use pec_core::clock::{Clock as _, SystemClock};
use pec_core::identifier::fresh;
use pec_host::parameters::Settings;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;
use pec_state::pool::connect_reader;
use tokio_postgres::Client;

/// Characters of a command line that are kept.
const LONGEST: usize = 2000;

/// Writes down that this command reads the log, and opens the log for it.
pub(crate) async fn begin(settings: &Settings) -> anyhow::Result<Client> {
    write(settings, Event::LetturaRegistro, &asked()).await?;
    Ok(connect_reader(settings, "pecctl").await?)
}

/// Writes a row about a reading: who, what.
pub(crate) async fn write(settings: &Settings, event: Event, what: &str) -> anyhow::Result<()> {
    let database = Database::connect(settings, "pecctl").await?;
    let id = format!("lettura-{}", fresh().context("a random identifier")?);
    let mut entry =
        Entry::about_no_message(event, id, what.to_owned(), &settings.provider_name, SystemClock.now());
    entry.arrival.account = Some(reader());
    database
        .insert_log(&entry)
        .await
        .context("nothing is shown, since the reading itself cannot be written into the log")
}

/// The command line, as it was typed.
fn asked() -> String {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    format!("pecctl {}", arguments.chars().take(LONGEST).collect::<String>())
}

/// Who reads: the user that this process runs as, and the one who became him with sudo.
fn reader() -> String {
    let uid = rustix::process::getuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    let user = name.map_or_else(|| format!("uid {uid}"), str::to_owned);
    match std::env::var("SUDO_USER") {
        Ok(before) if !before.is_empty() => format!("{user} ({before})"),
        _ => user,
    }
}

#[cfg(test)]
mod tests {
    use pec_test_support::network::{Network, column, run};

    use super::*;

    #[tokio::test]
    async fn who_reads_is_written_down_or_sees_nothing() {
        let network = Network::new().await;
        let settings = &network.alfa.settings;
        begin(settings).await.unwrap();
        let rows = column(
            &settings.database,
            "SELECT concat_ws('|', event, account, error LIKE 'pecctl %') FROM log",
        )
        .await;
        assert_eq!(rows, [format!("lettura-registro|{}|t", reader())]);

        run(
            &settings.database,
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET \
            default_transaction_read_only = on', current_database()); END $$",
        )
        .await;
        let refused = begin(settings).await.err().map(|e| e.to_string());
        assert_eq!(
            refused.as_deref(),
            Some("nothing is shown, since the reading itself cannot be written into the log")
        );
    }
}
