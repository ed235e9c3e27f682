//! pecctl: the administrator's command. One file for each verb.
//!
//! Promise: output is for people, `--json` for programs. What cannot be done is one line on standard error.
//! The exit status means the same for all verbs ([`Status`]). docs/commands.md lists them.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod check;
mod crl;
mod directory;
mod edited;
mod evidence;
mod infected;
mod key;
mod log;
mod parameters;
mod report;
mod schema;
mod status;
mod user;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::status::Status;

#[derive(Debug, Parser)]
#[command(version, about = "Administers a PEC provider", after_help = Status::help())]
struct Arguments {
    /// Directory of the main.cf that holds the pec_ parameters.
    #[arg(short = 'c', long, value_name = "DIR", default_value = "/etc/postfix", global = true)]
    config_directory: PathBuf,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Look at Postfix, Dovecot and what else certified mail hangs on, and name what breaks it. Run it as
    /// root, on the host.
    Check(check::Arguments),
    /// Print which of the CAs' revocation lists (CRLs) are in force, or fetch them.
    Crl(crl::Arguments),
    /// Print the directory of providers that is in force, fetch it, ask it, or write our own record for it.
    Directory(directory::Arguments),
    /// Put everything that proves a message to a court into one zip file, which needs nothing of ours to be
    /// checked; or check one.
    Evidence(evidence::Arguments),
    /// List the messages with viruses that are kept, or show one; who looks is in the retained log.
    #[command(subcommand)]
    Infected(infected::Verb),
    /// Make a key: that of a certificate, with the request for it; the register's; that of the database's
    /// rows.
    #[command(subcommand)]
    Key(key::Verb),
    /// Print the story of a message, every row of the retained log about it in order; or do what the verb
    /// says with the log.
    Log(log::Arguments),
    /// Print the pec_ parameters: what there is, or what is set.
    Parameters(parameters::Arguments),
    /// Print what the authority asks for every four months: mailboxes, messages, availability, times.
    Report(report::Arguments),
    /// Print the SQL that makes the database's tables; the database's owner applies it with psql.
    Schema(schema::Arguments),
    /// Add an account, or change its password.
    #[command(subcommand)]
    User(user::Verb),
    /// Tell of a message in a file whether it is a PEC message that verifies, who signed it and what it says.
    Verify(verify::Arguments),
}

fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let Arguments { config_directory, verb } =
        Arguments::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let ended = run(&config_directory, &verb).unwrap_or_else(|e| {
        eprintln!("pecctl: {e:#}");
        Status::of_failure(&path_of(&matches), &e)
    });
    ended.into()
}

fn run(config_directory: &Path, verb: &Verb) -> anyhow::Result<Status> {
    let good = |()| Status::Good;
    Ok(match verb {
        Verb::Check(check) => check::run(config_directory, check)?,
        Verb::Crl(crl) => crl::run(config_directory, crl)?,
        Verb::Directory(directory) => directory::run(config_directory, directory)?,
        Verb::Evidence(evidence) => evidence::run(config_directory, evidence)?,
        Verb::Infected(verb) => infected::run(config_directory, verb).map(good)?,
        Verb::Key(verb) => key::run(config_directory, verb).map(good)?,
        Verb::Log(log) => log::run(config_directory, log)?,
        Verb::Parameters(parameters) => parameters::run(config_directory, parameters).map(good)?,
        Verb::Report(report) => report::run(config_directory, report).map(good)?,
        Verb::Schema(schema) => schema::run(schema).map(good)?,
        Verb::User(verb) => user::run(config_directory, verb).map(good)?,
        Verb::Verify(verify) => verify::run(config_directory, verify)?,
    })
}

/// The verb with the verbs below it: `log verify`.
fn path_of(matches: &ArgMatches) -> String {
    let (mut path, mut matches) = (Vec::new(), matches);
    while let Some((verb, below)) = matches.subcommand() {
        path.push(verb);
        matches = below;
    }
    path.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
        for right in [
            &["log", "<1@client.test>"][..],
            &["log", "--json", "1@client.test"],
            &["log", "search", "--from", "2026-11-26"],
            &["report", "--year", "2026", "--period", "1", "--json"],
            &["log", "extract", "1@client.test", "--output", "x"],
            &["evidence", "1@client.test"],
            &["evidence", "verify", "evidence.zip", "--ca", "ca.pem"],
            &["key", "rows"],
            &["key", "rows", "--add", "row.keys"],
            &["log", "extract", "--account", "a@pec.test", "--to", "2026-11-26", "--output", "x"],
        ] {
            Arguments::try_parse_from([&["pecctl"], right].concat()).unwrap();
        }
        for wrong in [
            &["evidence"][..],
            &["log"],
            &["log", "--json"],
            &["log", "extract", "--output", "x"],
            &["log", "extract", "1@client.test"],
        ] {
            assert!(Arguments::try_parse_from([&["pecctl"], wrong].concat()).is_err(), "{wrong:?}");
        }
    }
}
