//! What stands behind Postfix's queue: the copy of a message for each recipient is brought to pec-delivery,
//! as `virtual_transport` and `transport_maps` say (postfix-conf/main.cf).
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pec_core::identifier::fresh;
use pec_delivery::DeliveryPoint;
use pec_delivery::doors::{self, Door};
use pec_test_support::lmtp::bring_one;
use pec_test_support::network::{Host, Network};
use pec_test_support::postfix::Queued;
use tokio::net::UnixListener;
use tokio::sync::watch;

/// What is said about a recipient when all that follows is done.
pub(crate) const DONE: &str = "250 2.0.0 done";

/// A provider's pec-delivery.
pub(crate) struct Delivery {
    mailboxes: PathBuf,
    triggers: PathBuf,
    /// It serves as long as this is there.
    _stop: watch::Sender<bool>,
}

impl Delivery {
    /// Starts it.
    pub(crate) async fn start(network: &Network, host: &Host) -> Self {
        let point = Arc::new(ArcSwap::from_pointee(DeliveryPoint::new(network.world(host).await)));
        let (stop, stopped) = watch::channel(false);
        let open = |door: Door| {
            let path = network.directory.path().join(fresh().unwrap());
            tokio::spawn(doors::serve(
                door,
                UnixListener::bind(&path).unwrap(),
                Arc::clone(&point),
                stopped.clone(),
            ));
            path
        };
        Self { mailboxes: open(Door::Mailboxes), triggers: open(Door::Triggers), _stop: stop }
    }

    /// Brings the copy of a message in the queue for one recipient, without brackets; gives back what is said
    /// about him.
    pub(crate) async fn bring(&self, queued: &Queued, recipient: &str) -> String {
        let is_trigger = recipient.to_ascii_lowercase().ends_with("@notices.pec.internal");
        let door = if is_trigger { &self.triggers } else { &self.mailboxes };
        bring_one(door, &queued.copy_for(recipient), envid(queued)).await
    }

    /// Brings the copy of each recipient; gives back what is said about each, in their order.
    pub(crate) async fn bring_all(&self, queued: &Queued) -> Vec<String> {
        let mut said = Vec::new();
        for path in &queued.mail.recipients {
            said.push(self.bring(queued, path.trim_matches(['<', '>'])).await);
        }
        said
    }
}

/// The envelope id that a milter gave the message, and with it that Postfix reports with the header alone.
pub(crate) fn envid(queued: &Queued) -> Option<&str> {
    queued.sender_parameters.as_deref()?.strip_prefix("RET=HDRS ENVID=")
}
