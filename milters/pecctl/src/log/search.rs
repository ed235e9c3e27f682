//! `pecctl log search`: the newest rows that are as the options say.

use pec_core::showable::showable;
use pec_register::search::{Search, newest};
use pec_state::event::Event;
use tokio_postgres::Client;

use super::story::legal_time;
use super::times::Period;
use super::{Shown, read};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// PEC identifier, the sender's Message-ID, or identifier of a receipt.
    #[arg(long, visible_alias = "message-id", value_name = "ID")]
    msgid: Option<String>,

    /// The account that submitted; of a reading of the log, who read.
    #[arg(long)]
    account: Option<String>,

    /// The sender or a recipient, in upper or lower case.
    #[arg(long)]
    address: Option<String>,

    #[command(flatten)]
    period: Period,

    /// The event: accettazione, avvenuta-consegna ... (docs/register-people.md).
    #[arg(long, value_name = "EVENT")]
    kind: Option<Event>,

    /// Postfix's queue id.
    #[arg(long)]
    queue_id: Option<String>,

    /// The enhanced status code with which the error begins, such as 5.1.1.
    #[arg(long, value_name = "CODE")]
    error: Option<String>,

    /// So many rows at most.
    #[arg(long, default_value_t = 1000, value_name = "ROWS")]
    pub(super) limit: usize,

    /// One JSON object a line: the row as it is sealed.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// For standard output.
    pub(super) text: String,
    /// There is more than `--limit` allows.
    pub(super) more: bool,
}

pub(super) async fn run(client: &Client, arguments: &Arguments) -> anyhow::Result<Found> {
    let Arguments { msgid, account, address, period, kind, queue_id, error, limit, json } = arguments.clone();
    let search = Search { msgid, account, address, from: period.from, to: period.to, kind, queue_id, error };
    let mut lines = newest(client, &search, limit.saturating_add(1)).await?;
    let more = lines.len() > limit;
    lines.truncate(limit);
    let text =
        if json { lines.iter().map(|line| format!("{line}\n")).collect() } else { table(&read(lines)?) };
    Ok(Found { text, more })
}

/// A line for what happened and to whom, one for where to look further.
fn table(rows: &[Shown]) -> String {
    let mut out = String::new();
    for of in rows {
        let row = &of.row;
        let about = if row.recipients.is_empty() { &row.destinatari } else { &row.recipients };
        let (first, others) = (about.first().map_or("", String::as_str), about.len().saturating_sub(1));
        let others = if others == 0 { String::new() } else { format!(" and {others} more") };
        let arrow = if row.mittente.is_empty() && first.is_empty() { "" } else { " -> " };
        out += &format!(
            "{}  {:<28} {}{arrow}{}{others}\n",
            legal_time(&row.happened_at),
            showable(&row.event),
            showable(&row.mittente),
            showable(first)
        );
        out += &format!("{:<28}{} {}\n", "", showable(&row.queue_id), showable(&row.identificativo));
        for words in of.unknown().into_iter().chain(row.error.as_deref()) {
            out += &format!("{:<28}{}\n", "", showable(words));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};
    use pec_core::clock::Moment;
    use pec_core::header::Header;
    use pec_register::row::Row;
    use pec_state::database::Database;
    use pec_state::log::Entry;
    use pec_state::pool::connect_reader;
    use pec_state::rows::FactKind;
    use pec_test_support::network::{Network, column, daticert_of, run as sql};

    use super::*;

    fn parsed(text: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("search").chain(text.split(' ').filter(|word| !word.is_empty()));
        let command = Arguments::augment_args(Command::new("search"));
        Arguments::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    fn arguments(text: &str) -> Arguments {
        parsed(text).unwrap()
    }

    #[test]
    fn every_event_can_be_asked_for_and_another_name_is_told_which_there_are() {
        for event in Event::all() {
            assert_eq!(arguments(&format!("--kind {event}")).kind, Some(event));
        }
        let refused = parsed("--kind consegna").unwrap_err().to_string();
        let line = refused.lines().next().unwrap();
        for part in ["'consegna'", "no event has this name", "avvenuta-consegna", "registro-ritirato"] {
            assert!(line.contains(part), "{part}: {refused}");
        }
    }

    /// Three messages, each with two rows, an hour after the one before; then three months into the past.
    async fn scene() -> (Network, Client) {
        let network = Network::new().await;
        let settings = &network.alfa.settings;
        let database = Database::connect(settings, "test").await.unwrap();
        for (n, to) in (1..=3).zip(["bruno@pec.beta.test", "Carla@PEC.beta.test", "d'amico@pec.beta.test"]) {
            let header =
                Header::parse(format!("Subject: Prova\r\nMessage-ID: <{n}@client.test>\r\n").as_bytes())
                    .unwrap();
            let daticert = daticert_of(&network.alfa, &[to, "tutti@pec.beta.test"], &header);
            let at = Moment::from_unix(daticert.data.unix() + n * 3600);
            let mut first = Entry::new(Event::Accesso, &daticert, at, &format!("4jA{n}"));
            first.arrival.account = Some("anna@pec.alfa.test".to_owned());
            database.insert_log(&first).await.unwrap();
            let mut second =
                Entry::new(Event::Notice(FactKind::ErroreConsegna), &daticert, at, &format!("4jB{n}"));
            second.message_id = Some(format!("receipt{n}@gestore.alfa.test"));
            second.recipients = vec![to.to_owned()];
            second.error = Some(format!("5.1.{n} no such mailbox"));
            database.insert_log(&second).await.unwrap();
        }
        let client = connect_reader(settings, "test").await.unwrap();
        (network, client)
    }

    async fn found(client: &Client, text: &str) -> Vec<String> {
        let lines = run(client, &arguments(&format!("--json {text}"))).await.unwrap().text;
        lines.lines().map(|line| Row::from_line(line).unwrap().queue_id).collect()
    }

    #[tokio::test]
    async fn each_option_finds_its_rows_the_newest_first() {
        let (network, client) = scene().await;
        for (options, queue_ids) in [
            ("", &["4jB3", "4jA3", "4jB2", "4jA2", "4jB1", "4jA1"][..]),
            ("--limit 3", &["4jB3", "4jA3", "4jB2"]),
            ("--msgid 2@client.test", &["4jB2", "4jA2"]),
            ("--message-id <receipt3@gestore.alfa.test>", &["4jB3"]),
            ("--account anna@pec.alfa.test", &["4jA3", "4jA2", "4jA1"]),
            ("--address ANNA@pec.alfa.test --limit 2", &["4jB3", "4jA3"]),
            ("--address carla@pec.beta.test", &["4jB2", "4jA2"]),
            ("--address d'amico@pec.beta.test", &["4jB3", "4jA3"]),
            // Whom the whole message is about is no party to what became of it at another's mailbox.
            ("--address tutti@pec.beta.test", &["4jA3", "4jA2", "4jA1"]),
            ("--kind accesso --limit 1", &["4jA3"]),
            ("--queue-id 4jB1", &["4jB1"]),
            ("--error 5.1.2", &["4jB2"]),
            ("--error 5.1", &[]),
            ("--from 2026-11-18T14:00:00+01:00 --to 2026-11-18T14:00:01+01:00", &[]),
            ("--address anna@pec.alfa.test --kind errore-consegna --error 5.1.1", &["4jB1"]),
        ] {
            assert_eq!(found(&client, options).await, queue_ids, "{options}");
        }
        let second = column(
            &network.alfa.settings.database,
            "SELECT to_char(happened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM log \
            ORDER BY seq OFFSET 2 LIMIT 1",
        )
        .await
        .remove(0);
        assert_eq!(found(&client, &format!("--from {second}")).await, ["4jB3", "4jA3", "4jB2", "4jA2"]);
        assert_eq!(found(&client, &format!("--to {second}")).await, ["4jB1", "4jA1"]);
        let table = run(&client, &arguments("--limit 1")).await.unwrap();
        assert!(
            table.more
                && table.text.contains("errore-consegna")
                && table.text.contains("anna@pec.alfa.test -> d'amico@pec.beta.test"),
            "{table:?}"
        );
    }

    #[tokio::test]
    async fn months_are_searched_one_by_one_the_newest_first() {
        let (network, client) = scene().await;
        let database = &network.alfa.settings.database;
        // As if they had been written then; a fact of long ago that was written down just now comes with this
        // month's.
        sql(
            database,
            "SELECT log_month((now() - interval '1 month')::date), log_month((now() - interval '24 months')::date);
             INSERT INTO log (recorded_at, happened_at, event, identificativo, mittente, destinatari, gestore, certified_by, recipients, queue_id, time_source)
             SELECT now() - make_interval(months => m), '2020-01-01Z'::timestamptz - make_interval(days => m), 'accesso', 'x', '', '{}', '', '', '{}', 'before' || m, 'clock'
             FROM unnest('{24,0,1}'::int[]) AS m",
        )
        .await;
        assert_eq!(
            found(&client, "--kind accesso").await,
            ["4jA3", "4jA2", "4jA1", "before0", "before1", "before24"]
        );
        assert_eq!(found(&client, "--kind accesso --limit 5").await.last().unwrap(), "before1");
    }
}
