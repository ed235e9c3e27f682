//! A milter's life: arguments, start, reload, end.
//!
//! Promise: what is wrong at the start is one line on standard error and exit status 1; a database that is not there yet is
//! waited for. SIGHUP takes a new configuration or keeps the old one and says why. SIGTERM lets messages in hand finish.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use clap::Parser;
use indymilter::{EitherListener, Listener};
use pec_core::clock::{Clock, SystemClock};
use pec_core::maillog;
use pec_core::parameters::{Settings, Socket};
use pec_state::database::{ConnectError, Database};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::Point;
use crate::callbacks::{InHand, serve};
use crate::world::{VERSION, World};

/// How long a start waits for the database before it gives up and leaves the next try to systemd or Docker.
const DATABASE_WAIT: Duration = Duration::from_secs(120);

/// How often it tries meanwhile.
const DATABASE_RETRY: Duration = Duration::from_secs(1);

/// How long SIGTERM waits for messages in hand; what is still there then gets 451.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(60);

/// A unix socket is for its owner and for the group that the directory gives it (Postfix).
const SOCKET_MODE: u32 = 0o660;

/// The arguments of every milter.
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

/// Runs a milter from start to end. `doors` says where each kind of work is listened for; `point` makes the point from a
/// world, at start and at each reload.
pub fn run<P: Point>(
    program: &'static str,
    doors: impl Fn(&Settings) -> Vec<(P::Door, &'static str, Socket)>,
    point: impl Fn(World) -> anyhow::Result<P>,
) -> ExitCode {
    let arguments = Arguments::parse();
    maillog::start();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => return fail(program, &e.into()),
    };
    match runtime.block_on(live(program, &arguments, doors, point)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(program, &e),
    }
}

#[allow(clippy::print_stderr)]
fn fail(program: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{program}: {error:#}");
    ExitCode::FAILURE
}

async fn live<P: Point>(
    program: &'static str,
    arguments: &Arguments,
    doors: impl Fn(&Settings) -> Vec<(P::Door, &'static str, Socket)>,
    point: impl Fn(World) -> anyhow::Result<P>,
) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let settings = Settings::read(&arguments.config_directory)?;
    let database = wait_for_database(program, &settings).await?;
    let shared = Arc::new(ArcSwap::from_pointee(point(World::new(settings.clone(), Arc::clone(&clock), database)?)?));
    if arguments.check {
        return Ok(());
    }

    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let in_hand = InHand::default();
    let (stop_accepting, _) = watch::channel(false);
    let (stop, _) = watch::channel(false);
    let mut serving = tokio::task::JoinSet::new();
    for (door, parameter, socket) in doors(&settings) {
        let listener = Closable {
            inner: Some(listen(&socket).with_context(|| format!("{parameter} = {}", describe(&socket)))?),
            closed: stop_accepting.subscribe(),
        };
        let (point, in_hand, mut stopped) = (Arc::clone(&shared), in_hand.clone(), stop.subscribe());
        maillog::started(program, VERSION, &describe(&socket));
        serving.spawn(async move { serve(listener, door, point, in_hand, async move { stopped.wait_for(|s| *s).await.map(|_| ()) }).await });
    }

    let mut in_force = settings;
    loop {
        tokio::select! {
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
            Some(ended) = serving.join_next() => {
                ended.context("a milter task ended")?.context("listening")?;
            }
            _ = hangup.recv() => match reload(program, arguments, &clock, &point).await {
                Ok((settings, point)) => {
                    for ((_, parameter, old), (_, _, new)) in doors(&in_force).into_iter().zip(doors(&settings)) {
                        if old != new {
                            maillog::needs_restart(program, parameter);
                        }
                    }
                    in_force = settings;
                    shared.store(Arc::new(point));
                    maillog::reloaded(program);
                }
                Err(e) => maillog::not_reloaded(program, &format!("{e:#}")),
            },
        }
    }

    stop_accepting.send_replace(true);
    let _ = tokio::time::timeout(SHUTDOWN_WAIT, in_hand.none()).await;
    stop.send_replace(true);
    while serving.join_next().await.is_some() {}
    maillog::stopped(program);
    Ok(())
}

async fn reload<P: Point>(
    program: &str,
    arguments: &Arguments,
    clock: &Arc<dyn Clock>,
    point: &impl Fn(World) -> anyhow::Result<P>,
) -> anyhow::Result<(Settings, P)> {
    let settings = Settings::read(&arguments.config_directory)?;
    let database = Database::connect(&settings, program).await?;
    let point = point(World::new(settings.clone(), Arc::clone(clock), database)?)?;
    Ok((settings, point))
}

async fn wait_for_database(program: &str, settings: &Settings) -> anyhow::Result<Database> {
    let started = tokio::time::Instant::now();
    let mut said = false;
    loop {
        match Database::connect(settings, program).await {
            Ok(database) => return Ok(database),
            Err(e @ ConnectError::Unreachable { .. }) if started.elapsed() < DATABASE_WAIT => {
                if !said {
                    maillog::waiting_for_database(&e.to_string());
                    said = true;
                }
                tokio::time::sleep(DATABASE_RETRY).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

type AnyListener = EitherListener<NoDelay, UnixListener>;

fn listen(socket: &Socket) -> io::Result<AnyListener> {
    match socket {
        Socket::Inet(address) => {
            let listener = std::net::TcpListener::bind(address.as_str())?;
            listener.set_nonblocking(true)?;
            Ok(EitherListener::Tcp(NoDelay(TcpListener::from_std(listener)?)))
        }
        Socket::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
            Ok(EitherListener::Unix(listener))
        }
    }
}

/// A socket that a process left behind when it was killed. One that somebody still answers on is not touched.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket lies there")),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"))
        }
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn describe(socket: &Socket) -> String {
    match socket {
        Socket::Unix(path) => format!("unix:{}", path.display()),
        Socket::Inet(address) => format!("inet:{address}"),
    }
}

/// TCP without Nagle's delay: a milter writes many small packets that nobody answers.
struct NoDelay(TcpListener);

impl Listener for NoDelay {
    type Io = TcpStream;

    fn poll_accept(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<Self::Io>> {
        self.0.poll_accept(context).map_ok(|(stream, _)| {
            // Slower without it, no worse.
            let _ = stream.set_nodelay(true);
            stream
        })
    }
}

/// A listener that stops taking connections while those it has go on.
struct Closable {
    inner: Option<AnyListener>,
    closed: watch::Receiver<bool>,
}

impl Listener for Closable {
    type Io = <AnyListener as Listener>::Io;

    fn poll_accept(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<Self::Io>> {
        if *self.closed.borrow() {
            // Whoever connects now is turned away at once instead of waiting for an answer.
            self.inner = None;
        }
        self.inner.as_mut().map_or(std::task::Poll::Pending, |inner| inner.poll_accept(context))
    }
}
