//! pec-delivery's LMTP sockets, where a test has it begin and end as an administrator does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use pec_delivery::DeliveryPoint;
use pec_delivery::doors::{Door, serve};
use pec_host::parameters::{Settings, Socket};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A pec-delivery that runs or does not.
pub(crate) struct Delivery {
    directory: PathBuf,
    running: Option<(watch::Sender<bool>, JoinSet<()>)>,
}

impl Delivery {
    /// One whose sockets lie below `directory`; it does not run yet.
    pub(crate) fn new(directory: &Path) -> Self {
        std::fs::create_dir(directory).unwrap();
        Self { directory: directory.to_owned(), running: None }
    }

    /// The settings with its sockets.
    pub(crate) fn settings(&self, settings: &Settings) -> Settings {
        let socket = |door| Socket::Unix(self.path(door));
        Settings {
            delivery_lmtp: socket(Door::Mailboxes),
            triggers_lmtp: socket(Door::Triggers),
            ..settings.clone()
        }
    }

    /// Where it listens.
    pub(crate) fn path(&self, door: Door) -> PathBuf {
        self.directory.join(format!("{door:?}"))
    }

    /// It listens.
    pub(crate) fn start(&mut self, point: &Arc<ArcSwap<DeliveryPoint>>) {
        assert!(self.running.is_none());
        let (stop, _) = watch::channel(false);
        let mut serving = JoinSet::new();
        for door in [Door::Mailboxes, Door::Triggers] {
            let _ = std::fs::remove_file(self.path(door));
            serving.spawn(serve(
                door,
                UnixListener::bind(self.path(door)).unwrap(),
                Arc::clone(point),
                stop.subscribe(),
            ));
        }
        self.running = Some((stop, serving));
    }

    /// It has finished what it had in hand, and is not there any more.
    pub(crate) async fn stop(&mut self) {
        let (stop, serving) = self.running.take().unwrap();
        stop.send_replace(true);
        serving.join_all().await;
    }
}
