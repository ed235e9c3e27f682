//! A program's life between start ([`life`]) and end: it listens, reloads, finishes.
//!
//! Promise: SIGHUP takes a new configuration for the messages that begin then. SIGTERM lets messages in hand
//! finish.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use indymilter::{EitherListener, Listener};
use pec_host::maillog;
use pec_host::parameters::{Settings, Socket};
use pec_program::life::{self, Life, Sign};
use pec_program::world::{VERSION, World};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;

use crate::Point;
use crate::callbacks::{Underway, serve};
use crate::coalesced::Coalesced;
use crate::guard::Guard;

/// How long SIGTERM waits for messages in hand; what is still there then gets 451.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(60);

/// How long connections may take to close after that.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// A unix socket is for its owner and for the group that the directory gives it (Postfix).
const SOCKET_MODE: u32 = 0o660;

/// Runs a milter from start to end. `doors` says where each kind of work is listened for; `point` makes the
/// point from a world, at start and at each reload.
pub fn run<P: Point>(
    program: &'static str,
    doors: impl Fn(&Settings) -> Vec<(P::Door, &'static str, Socket)>,
    point: impl Fn(World) -> anyhow::Result<P> + 'static,
) -> ExitCode {
    run_with(program, doors, point, |_| Vec::new(), |(), _, _, _| Box::pin(std::future::ready(())))
}

/// A server besides the milter protocol's; it ends by itself after its last receiver says so.
type Server = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The same for a program that is asked in another protocol too: `others` says where, `serve` serves one of
/// these sockets until the watch says that no more is to be taken, and has then finished what is in hand.
pub fn run_with<P: Point, D: Copy>(
    program: &'static str,
    doors: impl Fn(&Settings) -> Vec<(P::Door, &'static str, Socket)>,
    point: impl Fn(World) -> anyhow::Result<P> + 'static,
    others: impl Fn(&Settings) -> Vec<(D, &'static str, Socket)>,
    serve: impl Fn(D, UnixListener, Arc<ArcSwap<P>>, watch::Receiver<bool>) -> Server,
) -> ExitCode {
    let make = move |settings, process, database| point(World::new(settings, process, database)?);
    life::run(program, make, async |life, settings, point| {
        live(life, settings, point, doors, others, serve).await
    })
}

async fn live<P: Point, D: Copy>(
    mut life: Life<P>,
    settings: Settings,
    point: P,
    doors: impl Fn(&Settings) -> Vec<(P::Door, &'static str, Socket)>,
    others: impl Fn(&Settings) -> Vec<(D, &'static str, Socket)>,
    serve_other: impl Fn(D, UnixListener, Arc<ArcSwap<P>>, watch::Receiver<bool>) -> Server,
) -> anyhow::Result<()> {
    let program = life.program;
    let shared = Arc::new(ArcSwap::from_pointee(point));
    let in_hand = Underway::default();
    let guard = Guard::begin(program, life.config_directory()).await;
    let (stop_accepting, _) = watch::channel(false);
    let (stop, _) = watch::channel(false);
    let mut serving = tokio::task::JoinSet::new();
    for (door, parameter, socket) in doors(&settings) {
        let listener = listen(&socket).with_context(|| format!("{parameter} = {socket}"))?;
        let listener = Coalesced(Closable { inner: Some(listener), closed: stop_accepting.subscribe() });
        let (point, in_hand, mut stopped) = (Arc::clone(&shared), in_hand.clone(), stop.subscribe());
        let guard = guard.clone();
        maillog::started(program, VERSION, &socket.to_string());
        serving.spawn(async move {
            let stopped = async move { stopped.wait_for(|s| *s).await.map(|_| ()) };
            serve(listener, door, point, in_hand, guard, stopped).await
        });
    }

    let mut serving_others = tokio::task::JoinSet::new();
    for (door, parameter, socket) in others(&settings) {
        let AnyListener::Unix(listener) =
            listen(&socket).with_context(|| format!("{parameter} = {socket}"))?
        else {
            anyhow::bail!("{parameter} = {socket}: not allowed; it must be unix:path");
        };
        maillog::started(program, VERSION, &socket.to_string());
        serving_others.spawn(serve_other(door, listener, Arc::clone(&shared), stop_accepting.subscribe()));
    }

    let listened_for = |settings: &Settings| -> Vec<(&'static str, Socket)> {
        let milters = doors(settings).into_iter().map(|(_, parameter, socket)| (parameter, socket));
        milters
            .chain(others(settings).into_iter().map(|(_, parameter, socket)| (parameter, socket)))
            .collect()
    };
    let mut in_force = settings;
    loop {
        let sign = tokio::select! {
            sign = life.sign() => sign,
            Some(ended) = serving_others.join_next() => {
                ended.context("a server ended")?;
                continue;
            }
            Some(ended) = serving.join_next() => {
                ended.context("a milter task ended")?.context("listening")?;
                continue;
            }
        };
        if sign == Sign::End {
            break;
        }
        if let Some((settings, point)) = life.reload().await {
            for ((parameter, old), (_, new)) in
                listened_for(&in_force).into_iter().zip(listened_for(&settings))
            {
                if old != new {
                    maillog::needs_restart(program, parameter);
                }
            }
            in_force = settings;
            shared.store(Arc::new(point));
            maillog::reloaded(program);
        }
    }

    stop_accepting.send_replace(true);
    // What is being handed to a mailbox now would be a second copy later; each server knows how long that can
    // take.
    while serving_others.join_next().await.is_some() {}
    let _ = tokio::time::timeout(SHUTDOWN_WAIT, in_hand.none()).await;
    stop.send_replace(true);
    // A Postfix that stands still keeps its connection; that is no reason to stay.
    let _ = tokio::time::timeout(LAST_WAIT, async { while serving.join_next().await.is_some() {} }).await;
    maillog::stopped(program);
    Ok(())
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
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket lies there"))
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"))
        }
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
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
