//! What every program of ours does around its work: arguments, configuration, the wait for the database,
//! signals.
//!
//! Promise: what is wrong at the start is one line on standard error and exit status 1; a database that is
//! not there yet is waited for, and so is the token with the key. SIGHUP takes a new configuration or keeps
//! the old one and says why.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use pec_core::clock::{Clock, SystemClock};
use pec_core::smime::sign::SignError;
use pec_host::maillog;
use pec_host::outages::Outages;
use pec_host::parameters::Settings;
use pec_host::read;
use pec_state::database::Database;
use pec_state::pool::ConnectError;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::program_rows::ProgramRows;

/// How long a start waits for the database, and for the token, before it gives up and leaves the next try to
/// systemd or Docker.
const START_WAIT: Duration = Duration::from_secs(120);

/// How long an end waits for threads that nobody waits for any more: a timestamp that does not come, say.
/// What they write counts once it is whole.
const LAST_THREADS: Duration = Duration::from_secs(2);

/// How often it tries meanwhile.
const RETRY: Duration = Duration::from_secs(1);

/// The arguments of every program.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory of the main.cf that holds the pec_ parameters.
    #[arg(short = 'c', long, value_name = "DIR", default_value = "/etc/postfix")]
    config_directory: PathBuf,

    /// Check the configuration, as at a start, and exit.
    #[arg(long)]
    check: bool,
}

/// What a program has from start to end, whatever configuration is in force.
#[derive(Debug, Clone)]
pub struct Process {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who writes down what happens in it.
    pub rows: ProgramRows,
    /// What does not answer.
    pub outages: Outages,
}

impl Process {
    /// One of which nothing is written down.
    pub fn quiet(clock: Arc<dyn Clock>) -> Self {
        Self { clock, rows: ProgramRows::default(), outages: Outages::default() }
    }
}

/// How the work `W` is made from a configuration, at start and at each reload.
type Make<W> = Box<dyn Fn(Settings, Process, Database) -> anyhow::Result<W>>;

/// A program that runs.
pub struct Life<W> {
    /// Its name.
    pub program: &'static str,
    config_directory: PathBuf,
    process: Process,
    make: Make<W>,
    terminated: Signal,
    interrupted: Signal,
    hangup: Signal,
}

/// What somebody wants of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// SIGTERM, SIGINT.
    End,
    /// SIGHUP.
    Reload,
}

/// Runs a program from start to end: `make` makes its work, `live` does it until the end.
pub fn run<W>(
    program: &'static str,
    make: impl Fn(Settings, Process, Database) -> anyhow::Result<W> + 'static,
    live: impl AsyncFnOnce(Life<W>, Settings, W) -> anyhow::Result<()>,
) -> ExitCode {
    // The name is that of the program, not of this library.
    let matches = Arguments::command().name(program).get_matches();
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(e) => e.exit(),
    };
    maillog::start();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => return fail(program, &e.into()),
    };
    let ended = runtime.block_on(start(program, arguments, Box::new(make), live));
    runtime.shutdown_timeout(LAST_THREADS);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(program, &e),
    }
}

#[allow(clippy::print_stderr)]
fn fail(program: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{program}: {error:#}");
    ExitCode::FAILURE
}

async fn start<W>(
    program: &'static str,
    arguments: Arguments,
    make: Make<W>,
    live: impl AsyncFnOnce(Life<W>, Settings, W) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut life = Life {
        program,
        config_directory: arguments.config_directory,
        process: Process::quiet(Arc::new(SystemClock)),
        make,
        // From the first moment on, so that a signal during a long wait for the database is not the end.
        terminated: signal(SignalKind::terminate())?,
        interrupted: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
    };
    let settings = Settings::read(&life.config_directory)?;
    let database = if arguments.check {
        Database::connect(&settings, program).await?
    } else {
        tokio::select! {
            database = wait_for_database(program, &settings) => database?,
            _ = life.terminated.recv() => return Ok(()),
            _ = life.interrupted.recv() => return Ok(()),
        }
    };
    if arguments.check {
        (life.make)(settings, life.process, database)?;
        return Ok(());
    }
    let (rows, waiting) = ProgramRows::of(program, &settings, Arc::clone(&life.process.clock));
    life.process.outages = rows.outages();
    life.process.rows = rows.clone();
    let database = database.telling(&life.process.outages);
    let Some(work) = life.first(&settings, &database).await? else { return Ok(()) };
    waiting.begin(&rows, env!("CARGO_PKG_VERSION"), database.clone());
    life.in_force(&settings, &database);
    let lived = live(life, settings, work).await;
    rows.end().await;
    lived
}

impl<W> Life<W> {
    /// The directory of main.cf.
    pub fn config_directory(&self) -> &Path {
        &self.config_directory
    }

    /// Makes the work at the start. A token that does not answer yet is waited for. Nothing: a signal came
    /// first.
    async fn first(&mut self, settings: &Settings, database: &Database) -> anyhow::Result<Option<W>> {
        let started = tokio::time::Instant::now();
        let mut said = false;
        loop {
            match (self.make)(settings.clone(), self.process.clone(), database.clone()) {
                Err(e)
                    if matches!(e.downcast_ref(), Some(SignError::Away(_)))
                        && started.elapsed() < START_WAIT =>
                {
                    if !said {
                        maillog::waiting_for_token(&e.to_string());
                        said = true;
                    }
                }
                made => return made.map(Some),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = self.terminated.recv() => return Ok(None),
                _ = self.interrupted.recv() => return Ok(None),
            }
        }
    }

    /// Says in the retained log what this program goes by from now on.
    fn in_force(&self, settings: &Settings, database: &Database) {
        self.process.rows.configured(settings, &self.config_directory, database);
        // It has just been read; pec-clock, which signs for no message, may do without.
        if let Ok(own) = read::own_certificate(settings, self.process.clock.now()) {
            self.process.rows.signs_with(&own.hashes()[0], own.identity().not_after);
        }
    }

    /// Waits for a signal. None is lost if the wait is broken off.
    pub async fn sign(&mut self) -> Sign {
        tokio::select! {
            _ = self.terminated.recv() => Sign::End,
            _ = self.interrupted.recv() => Sign::End,
            _ = self.hangup.recv() => Sign::Reload,
        }
    }

    /// Reads the configuration again and makes the work anew. `None`: it is wrong, which the log says.
    pub async fn reload(&self) -> Option<(Settings, W)> {
        let read = async {
            let settings = Settings::read(&self.config_directory)?;
            let database = Database::connect(&settings, self.program).await?.telling(&self.process.outages);
            let work = (self.make)(settings.clone(), self.process.clone(), database.clone())?;
            self.in_force(&settings, &database);
            anyhow::Ok((settings, work))
        };
        read.await.inspect_err(|e| maillog::not_reloaded(self.program, &format!("{e:#}"))).ok()
    }
}

async fn wait_for_database(program: &str, settings: &Settings) -> anyhow::Result<Database> {
    let started = tokio::time::Instant::now();
    let mut said = false;
    loop {
        match Database::connect(settings, program).await {
            Ok(database) => return Ok(database),
            Err(e @ ConnectError::Unreachable { .. }) if started.elapsed() < START_WAIT => {
                if !said {
                    maillog::waiting_for_database(&e.to_string());
                    said = true;
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}
