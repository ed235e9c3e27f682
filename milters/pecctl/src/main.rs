//! pecctl: the administrator's command. One file for each verb.
//!
//! Output is for people; `--json` is for programs. Exit status 0: done; 1: not found or not possible, one line says why. `check` has
//! its own.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod check;
mod key;
mod log;
mod parameters;
mod schema;

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
    /// Look at Postfix, Dovecot and what else certified mail hangs on, and name what breaks it. Run it as root, on the host.
    Check(check::Arguments),
    /// Make a key and the request for its certificate.
    #[command(subcommand)]
    Key(key::Verb),
    /// Print the story of a message: every row of the retained log about it, in order.
    Log(log::Arguments),
    /// Print the pec_ parameters: what there is, or what is set.
    Parameters(parameters::Arguments),
    /// Print the SQL that makes the database's tables; the database's owner applies it with psql.
    Schema,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_check = matches!(arguments.verb, Verb::Check(_));
    let done = match arguments.verb {
        Verb::Check(check) => check::run(&arguments.config_directory, &check),
        Verb::Key(verb) => key::run(&arguments.config_directory, &verb).map(|()| ExitCode::SUCCESS),
        Verb::Log(log) => log::run(&arguments.config_directory, &log).map(|()| ExitCode::SUCCESS),
        Verb::Parameters(parameters) => parameters::run(&arguments.config_directory, &parameters).map(|()| ExitCode::SUCCESS),
        Verb::Schema => schema::run().map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("pecctl: {e:#}");
            // What could not be looked at is not what was found wrong.
            ExitCode::from(if is_check { 2 } else { 1 })
        }
    }
}
