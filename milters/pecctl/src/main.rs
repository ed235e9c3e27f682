//! pecctl: the administrator's command. One file for each verb.
//!
//! Output is for people; `--json` is for programs. Exit status 0: done; 1: not found or not possible, one
//! line says why. `check` and `verify` have their own.
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
mod user;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about = "Administers a PEC provider")]
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
    /// Exit status 0: it verifies; 1: it does not; 2: that cannot be known now.
    Verify(verify::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let has_its_own = matches!(arguments.verb, Verb::Check(_) | Verb::Verify(_));
    let done = match arguments.verb {
        Verb::Check(check) => check::run(&arguments.config_directory, &check),
        Verb::Crl(crl) => crl::run(&arguments.config_directory, &crl),
        Verb::Directory(directory) => directory::run(&arguments.config_directory, &directory),
        Verb::Evidence(evidence) => evidence::run(&arguments.config_directory, &evidence),
        Verb::Infected(verb) => infected::run(&arguments.config_directory, &verb).map(|()| ExitCode::SUCCESS),
        Verb::Key(verb) => key::run(&arguments.config_directory, &verb).map(|()| ExitCode::SUCCESS),
        Verb::Log(log) => log::run(&arguments.config_directory, &log),
        Verb::Parameters(parameters) => {
            parameters::run(&arguments.config_directory, &parameters).map(|()| ExitCode::SUCCESS)
        }
        Verb::Report(report) => report::run(&arguments.config_directory, &report).map(|()| ExitCode::SUCCESS),
        Verb::Schema(schema) => schema::run(&schema).map(|()| ExitCode::SUCCESS),
        Verb::User(verb) => user::run(&arguments.config_directory, &verb).map(|()| ExitCode::SUCCESS),
        Verb::Verify(verify) => verify::run(&arguments.config_directory, &verify),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("pecctl: {e:#}");
            // What could not be looked at is not what was found wrong.
            ExitCode::from(if has_its_own { 2 } else { 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

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
