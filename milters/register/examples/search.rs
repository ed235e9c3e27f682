//! How long each search of the log takes, on a database that tests/bench/register has filled.
//!
//! Takes: a connection string. Each search is made three times with values taken from the rows themselves:
//! the first is of what PostgreSQL has in memory or not, as it comes.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use anyhow::Context as _;
use jiff::Timestamp;
use pec_register::row::Row;
use pec_register::search::{Search, newest};
use tokio_postgres::{Client, NoTls};

/// Rows asked for.
const LIMIT: usize = 1000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let database = std::env::args().nth(1).context("a connection string")?;
    let (client, connection) = tokio_postgres::connect(&database, NoTls).await?;
    tokio::spawn(connection);
    let count = client
        .query_one(
            "SELECT sum(reltuples)::int8, sum(pg_table_size(oid))::int8, \
        sum(pg_indexes_size(oid))::int8 FROM pg_class WHERE relname ~ '^log_[0-9]{4}' AND relkind = 'r'",
            &[],
        )
        .await?;
    let (rows, table, indexes): (i64, i64, i64) = (count.get(0), count.get(1), count.get(2));
    println!("{rows} rows, {} MB, indexes {} MB", table >> 20, indexes >> 20);
    println!("| search | rows found | first, ms | then, ms |");
    println!("| --- | ---: | ---: | ---: |");
    for (name, search) in searches(&client).await? {
        let mut times = Vec::new();
        let mut found = 0;
        for _ in 0..3 {
            let start = Instant::now();
            found = newest(&client, &search, LIMIT).await?.len();
            times.push(start.elapsed().as_millis());
        }
        println!("| {name} | {found} | {} | {} |", times[0], times[1].min(times[2]));
    }
    Ok(())
}

/// What is asked for, with values from a row in the middle of the log.
async fn searches(client: &Client) -> anyhow::Result<Vec<(&'static str, Search)>> {
    let middle: i64 = client.query_one("SELECT (min(seq) + max(seq)) / 2 FROM log", &[]).await?.get(0);
    let mut lines = Vec::new();
    for condition in
        ["event = 'accesso' AND destinatari[1] LIKE 'utente%'", "log_error_code(error) IS NOT NULL"]
    {
        let condition = format!("WHERE seq >= {middle} AND {condition} ORDER BY seq LIMIT 1");
        pec_register::rows::each_row(client, &condition, |read| lines.push(read.line.to_owned())).await?;
    }
    let row = Row::from_line(lines.first().context("no row")?)?;
    let failed = Row::from_line(lines.get(1).context("no failure")?)?;
    let at: Timestamp = row.happened_at.parse()?;
    let to = Timestamp::from_second(at.as_second() + 86_400)?;
    let of = |f: fn(&mut Search, String), value: &str| {
        let mut search = Search::default();
        f(&mut search, value.to_owned());
        search
    };
    let of_kind = |event: &str| anyhow::Ok(Search { kind: Some(event.parse()?), ..Search::default() });
    let busy = "protocollo@comune1.example";
    Ok(vec![
        ("the newest", Search::default()),
        ("--msgid, the PEC identifier", of(|s, v| s.msgid = Some(v), &row.identificativo)),
        ("--msgid, the sender's", of(|s, v| s.msgid = Some(v), row.msgid.as_deref().unwrap_or_default())),
        (
            "--msgid, a receipt's",
            of(|s, v| s.msgid = Some(v), failed.message_id.as_deref().unwrap_or_default()),
        ),
        ("--account", of(|s, v| s.account = Some(v), row.account.as_deref().unwrap_or_default())),
        (
            "--address, of few rows",
            of(|s, v| s.address = Some(v), row.destinatari[0].split(' ').next().unwrap_or_default()),
        ),
        ("--address, in one row of twenty", of(|s, v| s.address = Some(v), busy)),
        ("--address, in no row", of(|s, v| s.address = Some(v), "nessuno@pec.beta.test")),
        ("--from --to, a day long ago", Search { from: Some(at), to: Some(to), ..Search::default() }),
        ("--to, long ago", Search { to: Some(at), ..Search::default() }),
        ("--kind, common", of_kind("accettazione")?),
        ("--kind, rare", of_kind("firme-antivirus")?),
        ("--queue-id", of(|s, v| s.queue_id = Some(v), &row.queue_id)),
        ("--error, common", of(|s, v| s.error = Some(v), "5.1.1")),
        ("--error, rare", of(|s, v| s.error = Some(v), "5.7.1")),
        ("--address --kind", Search { address: Some(busy.to_owned()), ..of_kind("avvenuta-consegna")? }),
        (
            "--account --from --to",
            Search {
                from: Some(at),
                to: Some(to),
                ..of(|s, v| s.account = Some(v), row.account.as_deref().unwrap_or_default())
            },
        ),
        ("--kind --from --to", Search { from: Some(at), to: Some(to), ..of_kind("accettazione")? }),
    ])
}
