//! `pecctl report`: what the authority asks a provider for every four months, out of the retained log.
//!
//! Promise: every figure is counted from rows of the log and nothing else, and each can be counted again with
//! `pecctl log search`. Mailboxes are those that sent or received in the time, since the log knows no others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use jiff::civil::date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use pec_core::daticert::Tipo;
use pec_host::parameters::Settings;
use pec_state::event::{Event, Figure};
use pec_state::names::list;
use pec_state::rows::FactKind;
use quick_xml::escape::minimal_escape;
use serde_json::json;
use tokio_postgres::Client;

use crate::log::reading;
use crate::log::times::Period;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The year, with --period.
    #[arg(long, requires = "period", conflicts_with_all = ["from", "to"])]
    year: Option<i16>,

    /// Its first, second or third four months.
    #[arg(long, requires = "year", value_parser = clap::value_parser!(i8).range(1..=3))]
    period: Option<i8>,

    #[command(flatten)]
    between: Period,

    /// One JSON object.
    #[arg(long, conflicts_with_all = ["csv", "html"])]
    json: bool,

    /// Lines of name and value.
    #[arg(long, conflicts_with = "html")]
    csv: bool,

    /// Write a page with plots into this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let settings = Settings::read(config_directory)?;
    let (from, to) = time(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    let report =
        runtime.block_on(async { Report::count(&reading::begin(&settings).await?, from, to).await })?;
    if let Some(file) = &arguments.html {
        return std::fs::write(file, report.html(&settings.provider_name))
            .with_context(|| file.display().to_string());
    }
    if arguments.json {
        println!("{}", report.json());
    } else if arguments.csv {
        report.figures().iter().for_each(|(name, value)| println!("{name},{value}"));
    } else {
        report.figures().iter().for_each(|(name, value)| println!("{name:<44} {value}"));
    }
    Ok(())
}

/// From when until when: months of Italian legal time.
fn time(arguments: &Arguments) -> anyhow::Result<(Timestamp, Timestamp)> {
    let (from, to) = match (arguments.year, arguments.period, arguments.between.from, arguments.between.to) {
        (Some(year), Some(period), ..) => {
            let first = date(year, period * 4 - 3, 1);
            let italy = TimeZone::get("Europe/Rome")?;
            (
                first.to_zoned(italy.clone())?.timestamp(),
                first.checked_add(4.months())?.to_zoned(italy)?.timestamp(),
            )
        }
        (.., Some(from), Some(to)) => (from, to),
        _ => bail!("which time? --year 2026 --period 1, or --from with --to"),
    };
    if from >= to {
        bail!("the time ends before it begins");
    }
    Ok((from, to))
}

/// Seconds that half of the messages, and 99 of 100, took at most.
#[derive(Debug, Default, PartialEq)]
struct Times {
    median: Option<f64>,
    p99: Option<f64>,
}

#[derive(Debug, Default)]
struct Report {
    from: String,
    to: String,
    mailboxes: i64,
    domains: i64,
    /// Rows of each event.
    events: BTreeMap<String, i64>,
    /// For each month: accepted, delivered.
    months: Vec<(String, i64, i64)>,
    to_acceptance: Times,
    to_delivery: Times,
    seconds: i64,
    /// Seconds in which something that mail hangs on did not answer, or a program had ended.
    down: i64,
    /// Starts of a program that had not said that it ended: it was killed, nobody knows when.
    killed: i64,
}

/// The events that are counted as one of these, as a list in SQL.
fn counted_as(figures: &[Figure]) -> String {
    let is_one = |event: &Event| event.figure().is_some_and(|figure| figures.contains(&figure));
    list(Event::all().into_iter().filter(is_one))
}

impl Report {
    async fn count(client: &Client, from: Timestamp, to: Timestamp) -> anyhow::Result<Self> {
        let within = format!("happened_at >= '{from}' AND happened_at < '{to}'");
        let mut report = Self {
            from: from.to_string(),
            to: to.to_string(),
            seconds: to.as_second() - from.as_second(),
            ..Self::default()
        };
        // Our own: who submitted here, and for whom a delivery was certified here.
        let (submitted, accepted, delivered) = (
            counted_as(&[Figure::Submission]),
            counted_as(&[Figure::Acceptance]),
            counted_as(&[Figure::Delivery]),
        );
        let sql = format!(
            "
            WITH ours AS (
                SELECT DISTINCT lower(account) AS address
                FROM log
                WHERE {within} AND account LIKE '%@%' AND event IN ({submitted})
                UNION
                SELECT DISTINCT lower(r)
                FROM log, unnest(recipients) AS r
                WHERE {within} AND event IN ({delivered}))
            SELECT count(*), count(DISTINCT split_part(address, '@', 2)) FROM ours"
        );
        let row = client.query_one(&sql, &[]).await?;
        (report.mailboxes, report.domains) = (row.get(0), row.get(1));
        for row in client
            .query(&format!("SELECT event, count(*) FROM log WHERE {within} GROUP BY event"), &[])
            .await?
        {
            report.events.insert(row.get(0), row.get(1));
        }
        let sql = format!(
            "
            SELECT to_char(happened_at AT TIME ZONE 'Europe/Rome', 'YYYY-MM') AS month,
                   count(*) FILTER (WHERE event IN ({accepted})),
                   count(*) FILTER (WHERE event IN ({delivered}))
            FROM log
            WHERE {within} AND event IN ({accepted}, {delivered})
            GROUP BY month
            ORDER BY month"
        );
        report.months =
            client.query(&sql, &[]).await?.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        report.to_acceptance = times(client, &within, Event::Notice(FactKind::Accettazione)).await?;
        report.to_delivery = times(client, &within, Event::Ricevuta(Tipo::AvvenutaConsegna)).await?;
        report.count_down(client, from, to).await?;
        Ok(report)
    }

    /// Adds up the seconds in which anything was gone; two things gone at once count once.
    async fn count_down(&mut self, client: &Client, from: Timestamp, to: Timestamp) -> anyhow::Result<()> {
        // A program says in the error's first word what it is that does not answer; of itself it says nothing
        // there.
        let sql = format!(
            "
            SELECT identificativo
                       || CASE WHEN event IN ({of_things}) THEN ' ' || split_part(coalesce(error, ''), ':', 1)
                               ELSE '' END,
                   event,
                   extract(epoch FROM happened_at)::int8
            FROM log
            WHERE event IN ({gone_or_back}) AND happened_at < '{to}'
            ORDER BY happened_at, seq",
            of_things = list([Event::Interruzione, Event::Ripristino]),
            gone_or_back = counted_as(&[Figure::Gone, Figure::Back]),
        );
        let (from, to) = (from.as_second(), to.as_second());
        // What is gone, since when; what runs.
        let (mut gone, mut running) = (BTreeMap::<String, i64>::new(), std::collections::BTreeSet::new());
        let mut spans = Vec::new();
        for row in client.query(&sql, &[]).await? {
            let (what, event, at): (String, &str, i64) = (row.get(0), row.get(1), row.get(2));
            let event: Event = event.parse()?;
            if event.figure() == Some(Figure::Gone) {
                running.remove(&what);
                gone.entry(what).or_insert(at);
                continue;
            }
            if event == Event::Avvio && !running.insert(what.clone()) && at >= from {
                self.killed += 1;
            }
            if let Some(since) = gone.remove(&what) {
                spans.push((since, at));
            }
        }
        spans.extend(gone.into_values().map(|since| (since, to)));
        spans.sort_unstable();
        let mut covered = from;
        for (since, until) in spans {
            let (since, until) = (since.max(covered), until.min(to));
            if until > since {
                self.down += until - since;
                covered = until;
            }
        }
        Ok(())
    }

    fn availability(&self) -> String {
        // Hundredths of a percent are enough and exact: a month has 2.6 million seconds.
        let up = (self.seconds - self.down).max(0);
        let hundredths = up * 10_000 / self.seconds.max(1);
        format!("{}.{:02} %", hundredths / 100, hundredths % 100)
    }

    /// Name and value of each figure.
    fn figures(&self) -> Vec<(String, String)> {
        let seconds = |value: Option<f64>| value.map_or("none".to_owned(), |s| format!("{s:.0} s"));
        let mut out = vec![
            ("from".to_owned(), self.from.clone()),
            ("to".to_owned(), self.to.clone()),
            ("mailboxes".to_owned(), self.mailboxes.to_string()),
            ("domains".to_owned(), self.domains.to_string()),
            ("availability".to_owned(), self.availability()),
            ("not available".to_owned(), format!("{} s", self.down)),
            ("programs that were killed".to_owned(), self.killed.to_string()),
            ("time to acceptance, median".to_owned(), seconds(self.to_acceptance.median)),
            ("time to acceptance, 99 of 100".to_owned(), seconds(self.to_acceptance.p99)),
            ("time to delivery, median".to_owned(), seconds(self.to_delivery.median)),
            ("time to delivery, 99 of 100".to_owned(), seconds(self.to_delivery.p99)),
        ];
        out.extend(self.events.iter().map(|(event, count)| (format!("event {event}"), count.to_string())));
        out
    }

    fn json(&self) -> serde_json::Value {
        let month = |(month, accepted, delivered): &(String, i64, i64)| {
            json!({
                "month": month,
                FactKind::Accettazione.as_str(): accepted,
                FactKind::AvvenutaConsegna.as_str(): delivered,
            })
        };
        json!({
            "from": self.from, "to": self.to, "mailboxes": self.mailboxes, "domains": self.domains,
            "seconds": self.seconds, "seconds_not_available": self.down, "programs_killed": self.killed,
            "seconds_to_acceptance": { "median": self.to_acceptance.median, "p99": self.to_acceptance.p99 },
            "seconds_to_delivery": { "median": self.to_delivery.median, "p99": self.to_delivery.p99 },
            "events": self.events,
            "months": self.months.iter().map(month).collect::<Vec<_>>(),
        })
    }

    fn html(&self, provider: &str) -> String {
        let mut out = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}: {1} - \
            {2}</title><style>body{{font:11pt/1.4 sans-serif;max-width:50em;margin:2em auto}}\
             td,th{{padding:.2em 1em .2em 0;text-align:left}}svg text{{font:10px \
            sans-serif}}</style></head><body>\n<h1>{0}</h1>\n<p>{1} - {2}</p>\n<table>\n",
            minimal_escape(provider),
            self.from,
            self.to
        );
        for (name, value) in self.figures() {
            let (name, value) = (minimal_escape(name), minimal_escape(value));
            let _ = writeln!(out, "<tr><th>{name}</th><td>{value}</td></tr>");
        }
        out += "</table>\n<h2>Accepted and delivered, each month</h2>\n";
        let bars = self.months.iter().flat_map(|(month, accepted, delivered)| {
            [
                (format!("{month} {}", FactKind::Accettazione), *accepted),
                (format!("{month} {}", FactKind::AvvenutaConsegna), *delivered),
            ]
        });
        out += &plot(&bars.collect::<Vec<_>>());
        out += "<h2>Rows of each event</h2>\n";
        out += &plot(&self.events.iter().map(|(event, count)| (event.clone(), *count)).collect::<Vec<_>>());
        out + "</body></html>\n"
    }
}

/// Horizontal bars.
fn plot(bars: &[(String, i64)]) -> String {
    const WIDTH: i64 = 400;
    let most = bars.iter().map(|(_, value)| *value).max().unwrap_or(1).max(1);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"{}\" role=\"img\">\n",
        bars.len() * 20
    );
    for (n, (name, value)) in bars.iter().enumerate() {
        let (y, width) = (n * 20, value * WIDTH / most);
        // The name of an event is what a row says it is.
        let name = minimal_escape(name);
        let _ = writeln!(
            out,
            "<text x=\"0\" y=\"{}\">{name}</text><rect x=\"220\" y=\"{}\" width=\"{width}\" height=\"14\" \
            fill=\"#36c\"/><text x=\"{}\" y=\"{}\">{value}</text>",
            y + 14,
            y + 3,
            226 + width,
            y + 14
        );
    }
    out + "</svg>\n"
}

/// From the submission of a message to its event `then`; of several recipients each counts.
async fn times(client: &Client, within: &str, then: Event) -> anyhow::Result<Times> {
    let sql = format!(
        "
        SELECT percentile_disc(ARRAY[0.5, 0.99])
               WITHIN GROUP (ORDER BY extract(epoch FROM ended.happened_at - begun.happened_at)::float8)
        FROM (SELECT identificativo, happened_at FROM log
              WHERE {within} AND event = '{first}') AS begun
        JOIN (SELECT identificativo, happened_at FROM log
              WHERE happened_at >= (SELECT min(happened_at) FROM log WHERE {within})
                AND event = '{then}') AS ended
        USING (identificativo)",
        first = Event::Accesso,
    );
    let both: Option<Vec<Option<f64>>> = client.query_one(&sql, &[]).await?.get(0);
    let both = both.unwrap_or_default();
    Ok(Times { median: both.first().copied().flatten(), p99: both.get(1).copied().flatten() })
}

#[cfg(test)]
mod tests {
    use pec_core::clock::Moment;
    use pec_core::header::Header;
    use pec_state::database::Database;
    use pec_state::log::Entry;
    use pec_state::pool::connect_reader;
    use pec_test_support::network::{Network, daticert_of, run as sql};

    use super::*;

    #[tokio::test]
    async fn the_figures_are_those_of_the_rows() {
        let network = Network::new().await;
        let settings = &network.alfa.settings;
        let database = Database::connect(settings, "test").await.unwrap();
        let begin = 1_793_487_600; // 2026-11-01, Italian legal time
        let at = |seconds: i64| Moment::from_unix(begin + seconds);
        let daticert = |n: i64| {
            let header = Header::parse(format!("Message-ID: <{n}@client.test>\r\n").as_bytes()).unwrap();
            daticert_of(&network.alfa, &["bruno@pec.beta.test"], &header)
        };
        for n in 0..100 {
            let daticert = daticert(n);
            let mut submitted = Entry::new(Event::Accesso, &daticert, at(n * 60), "4j");
            submitted.arrival.account = Some(format!("utente{}@PEC.alfa.test", n % 7));
            database.insert_log(&submitted).await.unwrap();
            database
                .insert_log(&Entry::new(
                    Event::Notice(FactKind::Accettazione),
                    &daticert,
                    at(n * 60 + if n == 0 { 90 } else { 2 }),
                    "4j",
                ))
                .await
                .unwrap();
            database
                .insert_log(&Entry::new(
                    Event::Ricevuta(Tipo::AvvenutaConsegna),
                    &daticert,
                    at(n * 60 + 10),
                    "4j",
                ))
                .await
                .unwrap();
        }
        let mut delivered = Entry::new(Event::Notice(FactKind::AvvenutaConsegna), &daticert(0), at(5), "4j");
        delivered.recipients = vec!["aldo@studio.example".to_owned()];
        database.insert_log(&delivered).await.unwrap();
        let fact = async |event, words: &str, seconds| {
            let place = "pec-access@mail.gestore.alfa.test".to_owned();
            database
                .insert_log(&Entry::about_no_message(event, place, words.to_owned(), "Alfa", at(seconds)))
                .await
                .unwrap();
        };
        fact(Event::Avvio, "version 1", -100).await;
        fact(Event::Arresto, "ends", 1000).await;
        fact(Event::Interruzione, "clamd: does not answer: gone", 1050).await;
        fact(Event::Avvio, "version 1", 1100).await;
        fact(Event::Ripristino, "clamd: answers again", 1200).await;
        fact(Event::Avvio, "version 1", 2000).await;
        // Before and after the time.
        fact(Event::Arresto, "ends", 30 * 86_400 + 5).await;

        let client = connect_reader(settings, "test").await.unwrap();
        let (from, to) =
            (Timestamp::from_second(begin).unwrap(), Timestamp::from_second(begin + 30 * 86_400).unwrap());
        let report = Report::count(&client, from, to).await.unwrap();
        assert_eq!((report.mailboxes, report.domains), (8, 2));
        assert_eq!((report.events["accettazione"], report.events["ricevuta-avvenuta-consegna"]), (100, 100));
        assert_eq!(report.to_acceptance, Times { median: Some(2.0), p99: Some(2.0) });
        assert_eq!(report.to_delivery, Times { median: Some(10.0), p99: Some(10.0) });
        assert_eq!((report.down, report.killed), (200, 1), "what is gone at once counts once");
        assert_eq!(report.availability(), "99.99 %");
        assert_eq!(report.months, [("2026-11".to_owned(), 100, 1)]);
        let page = report.html("Alfa <PEC>");
        assert!(
            page.contains("Alfa &lt;PEC>")
                && page.contains("<rect x=\"220\" y=\"3\" width=\"400\"")
                && !page.contains("<script"),
            "{page}"
        );
        assert_eq!(report.json()["events"]["accesso"], 100);
        assert!(report.figures().contains(&("mailboxes".to_owned(), "8".to_owned())));
    }

    #[tokio::test]
    async fn every_event_is_counted_under_its_name_and_so_is_one_that_is_none() {
        let network = Network::new().await;
        let settings = &network.alfa.settings;
        let database = Database::connect(settings, "test").await.unwrap();
        let daticert = daticert_of(&network.alfa, &["bruno@pec.beta.test"], &Header::parse(b"").unwrap());
        for event in Event::all() {
            database.insert_log(&Entry::new(event, &daticert, daticert.data, "4j")).await.unwrap();
        }
        sql(
            &settings.database,
            "INSERT INTO log (happened_at, event, identificativo, mittente, destinatari, gestore,
                              certified_by, recipients, queue_id, time_source)
             SELECT happened_at, '<b>nuovo', identificativo, mittente, destinatari, gestore,
                    certified_by, recipients, queue_id, time_source
             FROM log LIMIT 1",
        )
        .await;
        let client = connect_reader(settings, "test").await.unwrap();
        let at = daticert.data.unix();
        let (from, to) = (Timestamp::from_second(at).unwrap(), Timestamp::from_second(at + 1).unwrap());
        let report = Report::count(&client, from, to).await.unwrap();
        for event in Event::all() {
            assert_eq!(report.events[&event.name()], 1, "{event}");
        }
        assert_eq!(report.events.len(), Event::all().len() + 1);
        let page = report.html("Alfa");
        assert!(
            page.contains("<th>event &lt;b>nuovo</th>") && page.contains(">&lt;b>nuovo</text>"),
            "{page}"
        );
    }

    #[test]
    fn a_period_is_four_months_of_italian_law() {
        let arguments =
            |year, period, between| Arguments { year, period, between, json: false, csv: false, html: None };
        let (from, to) = time(&arguments(Some(2026), Some(3), Period::default())).unwrap();
        assert_eq!(
            (from.to_string().as_str(), to.to_string().as_str()),
            ("2026-08-31T22:00:00Z", "2026-12-31T23:00:00Z")
        );
        assert!(time(&arguments(None, None, Period { from: Some(from), to: None })).is_err());
        assert!(time(&arguments(None, None, Period { from: Some(to), to: Some(from) })).is_err());
    }
}
