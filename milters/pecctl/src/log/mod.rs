//! `pecctl log`: what people do with the retained log. One file for each verb; without a verb it is the story
//! of a message.
//!
//! Promise: what is shown is what is sealed: every verb reads rows as the lines of which the tree is made.
//! Who reads what other people wrote is in the log himself before he sees it.

mod audit;
mod extract;
pub(crate) mod reading;
mod recover;
mod retire;
mod search;
pub(crate) mod story;
pub(crate) mod times;
mod verify;

use std::path::Path;

use anyhow::Context as _;
use pec_core::clock::{Clock as _, SystemClock};
use pec_host::outages::Outages;
use pec_host::parameters::Settings;
use pec_program::world::own_signer;
use pec_register::prover::signature_of;
use pec_register::row::Row;
use pec_register::rows::each_row;
use pec_state::event::{Event, Words};
use pec_state::pool::connect_reader;
use tokio_postgres::Client;

use crate::status::Status;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,

    #[command(flatten)]
    story: Option<story::Arguments>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Ask whether the rules of certified mail were kept: every accepted message has its end, every receipt
    /// its fact. Exit status 0: they were; 1: one was not.
    Audit(audit::Arguments),
    /// Go on after an older backup of the database was restored, and write down which rows are lost.
    Recover,
    /// Write what the log has about a message or a mailbox as a signed page, for its holder.
    Extract(extract::Arguments),
    /// Have months that are older than pec_log_months leave the database, once the days' files are proved to
    /// have all of them.
    Retire(retire::Arguments),
    /// Print the newest rows that are as the options say, the newest first.
    Search(search::Arguments),
    /// Compute the register again, from every row to the timestamps, and name what is not as it was sealed.
    /// Exit status 0: all is; 1: something is not.
    Verify(verify::Arguments),
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<Status> {
    let settings = Settings::read(config_directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    runtime.block_on(async {
        match (&arguments.verb, &arguments.story) {
            (Some(Verb::Audit(audit)), _) => {
                return audit::run(&connect_reader(&settings, "pecctl").await?, audit).await;
            }
            (Some(Verb::Retire(retire)), _) => return retire::run(&settings, retire).await,
            (Some(Verb::Recover), _) => return recover::run(&settings).await,
            (Some(Verb::Verify(verify)), _) => return verify::run(&settings, verify).await,
            (Some(Verb::Search(search)), _) => {
                let found = search::run(&reading::begin(&settings).await?, search).await?;
                print!("{}", found.text);
                if found.more {
                    eprintln!("pecctl: these are the newest {}, there are more: --limit, --to", search.limit);
                }
            }
            (Some(Verb::Extract(extract)), _) => {
                let now = SystemClock.now();
                let signer = own_signer(&settings, now, &Outages::default())?;
                let rows = extract::run(
                    &reading::begin(&settings).await?,
                    extract,
                    &settings.provider_name,
                    &*signer,
                    now,
                )
                .await?;
                println!(
                    "{}: {rows} rows, signed in {}",
                    extract.output.display(),
                    signature_of(&extract.output).display()
                );
            }
            (None, Some(story)) => print!("{}", story::run(&reading::begin(&settings).await?, story).await?),
            // clap has said what is missing.
            (None, None) => return Ok(Status::Usage),
        }
        Ok(Status::Good)
    })
}

/// A row with the line that it was read from.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The line.
    pub(crate) line: String,
    /// What it says.
    pub(crate) row: Row,
}

impl Shown {
    /// What is said of a row whose event nobody here knows: a newer program wrote it, or somebody forged it.
    fn unknown(&self) -> Option<&'static str> {
        self.row.event.parse::<Event>().err().map(|_| Words::UNKNOWN.inglese)
    }
}

/// The rows that `condition` selects (SQL, what comes from outside in it
/// as `postgres_protocol::escape::escape_literal` writes it).
pub(crate) async fn shown(client: &Client, condition: &str) -> anyhow::Result<Vec<Shown>> {
    let mut lines = Vec::new();
    each_row(client, condition, |read| lines.push(read.line.to_owned())).await?;
    read(lines)
}

fn read(lines: Vec<String>) -> anyhow::Result<Vec<Shown>> {
    lines.into_iter().map(|line| Ok(Shown { row: Row::from_line(&line)?, line })).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pec_core::clock::Moment;
    use pec_core::header::Header;
    use pec_register::audit::audit;
    use pec_state::database::Database;
    use pec_state::log::Entry;
    use pec_test_support::network::{Network, daticert_of, run as sql};
    use pec_test_support::pki::NOW;

    use super::*;

    fn parsed<A: clap::Args>(words: &[&str]) -> A {
        let command = A::augment_args(clap::Command::new("log")).no_binary_name(true);
        A::from_arg_matches(&command.get_matches_from(words)).unwrap()
    }

    /// A row of each event, and one of an event that nobody here knows, each about a message of its own.
    #[tokio::test]
    async fn every_event_is_told_in_both_languages_and_one_that_is_none_is_called_so() {
        const UNKNOWN: &str = "evento<b>nuovo";
        let network = Network::new().await;
        let settings = &network.alfa.settings;
        let database = Database::connect(settings, "test").await.unwrap();
        let mut daticert = daticert_of(&network.alfa, &["bruno@pec.beta.test"], &Header::parse(b"").unwrap());
        let mut names: Vec<_> = Event::all().into_iter().map(Event::name).collect();
        for event in Event::all() {
            daticert.identificativo = event.name();
            database.insert_log(&Entry::new(event, &daticert, daticert.data, "4j")).await.unwrap();
        }
        sql(
            &settings.database,
            &format!(
                "INSERT INTO log (happened_at, event, identificativo, mittente, destinatari, gestore,
                                  certified_by, recipients, queue_id, time_source)
                 SELECT happened_at, '{UNKNOWN}', '{UNKNOWN}', mittente, destinatari, gestore,
                        certified_by, recipients, queue_id, time_source
                 FROM log LIMIT 1"
            ),
        )
        .await;
        names.push(UNKNOWN.to_owned());

        let client = connect_reader(settings, "test").await.unwrap();
        let signer = network.signer(&network.alfa);
        let now = Moment::from_unix(NOW);
        for (n, name) in names.iter().enumerate() {
            let file = network.directory.path().join(format!("{n}.html"));
            let arguments = parsed(&[name, "--output", file.to_str().unwrap()]);
            let rows = extract::run(&client, &arguments, &settings.provider_name, &signer, now).await;
            assert_eq!(rows.unwrap(), 1, "{name}");
            let page = fs::read_to_string(file).unwrap();
            let Words { italiano, inglese } = Words::of(name);
            let told = format!(
                "<strong>{}</strong><br>{italiano}.<br><em lang=\"en\">{inglese}.</em>",
                quick_xml::escape::escape(name)
            );
            assert!(!italiano.is_empty() && !inglese.is_empty() && page.contains(&told), "{told}: {page}");
            assert_eq!(Words::of(name) == Words::UNKNOWN, name == UNKNOWN, "{name}");

            let story = story::run(&client, &parsed(&[name])).await.unwrap();
            let found = search::run(&client, &parsed(&["--msgid", name])).await.unwrap().text;
            for table in [story, found] {
                assert!(table.contains(&format!("  {name} ")), "{table}");
                assert_eq!(table.contains(Words::UNKNOWN.inglese), name == UNKNOWN, "{table}");
            }
        }
        assert_eq!(
            search::run(&client, &parsed(&[])).await.unwrap().text.matches("4j ").count(),
            names.len()
        );
        audit(&client, i64::MIN, now).await.unwrap();
    }
}
