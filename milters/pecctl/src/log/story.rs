//! `pecctl log MSGID`: the story of a message.

use pec_core::clock::Moment;
use pec_core::showable::showable;
use pec_register::search::named;
use pec_state::rows::TimeSource;
use tokio_postgres::Client;

use super::{Shown, shown};
use crate::status::Answer;

#[derive(Debug, clap::Args)]
#[group(id = "story")]
pub(crate) struct Arguments {
    /// The PEC identifier, the sender's Message-ID, or the identifier of a receipt.
    msgid: String,

    /// One JSON object a line: the row as it is sealed.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(client: &Client, arguments: &Arguments) -> anyhow::Result<String> {
    let rows = story(client, &arguments.msgid).await?;
    if rows.is_empty() {
        return Err(Answer(format!("{}: no row of the log has this identifier", arguments.msgid)).into());
    }
    Ok(if arguments.json {
        rows.iter().map(|shown| format!("{}\n", shown.line)).collect()
    } else {
        table(&rows)
    })
}

/// The rows about the message that `id` names: a PEC identifier, the sender's own Message-ID or the
/// identifier of one of its receipts, with or without angle brackets. In order of time, then of recording.
pub(crate) async fn story(client: &Client, id: &str) -> anyhow::Result<Vec<Shown>> {
    shown(
        client,
        &format!(
            "WHERE identificativo IN (SELECT identificativo FROM log WHERE {}) ORDER BY happened_at, seq",
            named(id)
        ),
    )
    .await
}

/// A head for each envelope, then a line for each fact.
fn table(rows: &[Shown]) -> String {
    let mut out = String::new();
    let mut shown = None;
    for of in rows {
        let row = &of.row;
        if shown != Some(&row.identificativo) {
            if shown.is_some() {
                out += "\n";
            }
            shown = Some(&row.identificativo);
            out += &format!("identificativo  {}\n", showable(&row.identificativo));
            out += &format!("msgid           {}\n", showable(row.msgid.as_deref().unwrap_or("none")));
            out += &format!("from            {} ({})\n", showable(&row.mittente), showable(&row.gestore));
            for (i, d) in row.destinatari.iter().enumerate() {
                out += &format!("{:<15} {}\n", if i == 0 { "to" } else { "" }, showable(d));
            }
            out += &format!("subject         {}\n\n", showable(row.oggetto.as_deref().unwrap_or_default()));
        }
        out += &format!(
            "{}  {:<28} {}\n",
            legal_time(&row.happened_at),
            showable(&row.event),
            showable(&row.recipients.join(", "))
        );
        for (what, value) in [
            ("event", of.unknown()),
            ("message", row.message_id.as_deref()),
            ("sha-256", row.message_sha256.as_deref()),
            ("error", row.error.as_deref()),
        ] {
            if let Some(value) = value {
                out += &format!("{:<28}{what:<9}{}\n", "", showable(value));
            }
        }
        if row.certified_by != row.gestore {
            out += &format!("{:<28}by       {}\n", "", showable(&row.certified_by));
        }
        out += &format!(
            "{:<28}queue id {}{}\n",
            "",
            showable(&row.queue_id),
            if row.time_source == TimeSource::Clock.as_str() {
                String::new()
            } else {
                format!(", time by the {}", row.time_source)
            }
        );
    }
    out
}

/// Italian legal time, with its offset.
pub(super) fn legal_time(time: &str) -> String {
    Moment::from_iso8601(time)
        .map_or_else(|| time.to_owned(), |at| format!("{} {} {}", at.giorno(), at.ora(), at.zona()))
}

#[cfg(test)]
mod tests {
    use pec_core::header::Header;
    use pec_register::row::Row;
    use pec_state::database::Database;
    use pec_state::event::Event;
    use pec_state::log::Entry;
    use pec_state::pool::connect_reader;
    use pec_state::rows::FactKind;
    use pec_test_support::network::{Network, daticert_of};

    use super::*;

    #[tokio::test]
    async fn the_story_is_found_by_any_identifier_and_shown_as_it_is_sealed() {
        let network = Network::new().await;
        let settings = &network.alfa.settings;
        let database = Database::connect(settings, "test").await.unwrap();
        let header = Header::parse(b"Subject: Prova\r\nMessage-ID: <it's\\1@client.test>\r\n").unwrap();
        let daticert = daticert_of(&network.alfa, &["bruno@pec.beta.test"], &header);
        let mut later = Entry::new(
            Event::Notice(FactKind::Accettazione),
            &daticert,
            Moment::from_unix(daticert.data.unix() + 1),
            "4jB",
        );
        later.message_id = Some("receipt@gestore.alfa.test".to_owned());
        database.insert_log(&later).await.unwrap();
        database.insert_log(&Entry::new(Event::Accesso, &daticert, daticert.data, "4jA")).await.unwrap();

        let client = connect_reader(settings, "test").await.unwrap();
        for id in [
            &daticert.identificativo,
            r"<it's\1@client.test>",
            r"it's\1@client.test",
            "<receipt@gestore.alfa.test>",
        ] {
            let arguments = |json| Arguments { msgid: id.to_owned(), json };
            let lines = run(&client, &arguments(true)).await.expect(id);
            let events: Vec<_> = lines.lines().map(|line| Row::from_line(line).unwrap().event).collect();
            assert_eq!(events, ["accesso", "accettazione"], "{id}: in the order of time");
            let table = run(&client, &arguments(false)).await.unwrap();
            assert!(table.contains(&format!("identificativo  {}", daticert.identificativo)), "{table}");
            assert!(table.contains("+0100  accesso") && table.contains("queue id 4jB"), "{table}");
        }
        let none = run(&client, &Arguments { msgid: "' OR ''='".to_owned(), json: true }).await;
        assert!(none.unwrap_err().to_string().contains("no row of the log has this identifier"));
    }
}
