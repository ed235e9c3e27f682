//! Turns: for whom a program works, and how much of it at once.
//!
//! Promise: what strangers send never takes the last of what submission and certified mail need. Each has
//! turns of its own: at the virus scanner, and for what follows it, signing and rows in the database. Who has
//! none within the time waits in Postfix's queue, or in that of the other side.

use std::sync::Arc;
use std::time::Duration;

use pec_core::mime::MOST_PARTS;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// For whom a program works: by which door a message came, and what it proved to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Our users, who submit with their password.
    Users,
    /// What another provider signed, or we.
    Certified,
    /// Anybody else: the world, and the programs of this host.
    Strangers,
}

impl Share {
    /// How many messages are in work at once, in each program. All together are as many as clamd has threads
    /// as shipped (`MaxThreads` 10).
    const fn at_once(self) -> usize {
        match self {
            Self::Users | Self::Certified => 4,
            Self::Strangers => 2,
        }
    }

    /// How long one waits for its turn. A stranger who waits holds a process of Postfix's that certified mail
    /// comes by, too.
    const fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::Users | Self::Certified => 120,
            Self::Strangers => 20,
        })
    }

    /// How many MIME parts a message may have to be scanned: each takes clamd about 2 ms, however small.
    pub const fn most_parts(self) -> usize {
        match self {
            Self::Users | Self::Certified => MOST_PARTS,
            Self::Strangers => 1_000,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Certified => "certified mail",
            Self::Strangers => "strangers",
        }
    }
}

/// No turn came within the time: mail waits.
#[derive(Debug, thiserror::Error)]
#[error("too much to do for {}: no turn within {} s, {} messages are in work at once", .0.name(),
    .0.patience().as_secs(), .0.at_once())]
pub struct NoTurn(Share);

/// A turn: the right to have a message scanned, and what follows done.
#[derive(Debug)]
pub struct Turn {
    share: Share,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Whose it is.
    pub fn share(&self) -> Share {
        self.share
    }
}

/// The turns of a program.
#[derive(Debug)]
pub struct Turns {
    users: Arc<Semaphore>,
    certified: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let turns = |share: Share| Arc::new(Semaphore::new(share.at_once()));
        Self {
            users: turns(Share::Users),
            certified: turns(Share::Certified),
            strangers: turns(Share::Strangers),
        }
    }
}

impl Turns {
    /// Waits for a turn. Nobody waits for a second one while he has one.
    pub async fn wait(&self, share: Share) -> Result<Turn, NoTurn> {
        self.wait_for(share, share.patience()).await
    }

    async fn wait_for(&self, share: Share, patience: Duration) -> Result<Turn, NoTurn> {
        let turns = match share {
            Share::Users => &self.users,
            Share::Certified => &self.certified,
            Share::Strangers => &self.strangers,
        };
        match timeout(patience, Arc::clone(turns).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn { share, _permit: permit }),
            _ => Err(NoTurn(share)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_no_turn_within_the_time_is_told_and_others_do_not_notice() {
        let turns = Turns::default();
        let mut taken = Vec::new();
        for _ in 0..Share::Strangers.at_once() {
            taken.push(turns.wait(Share::Strangers).await.unwrap());
        }
        let error = turns.wait_for(Share::Strangers, Duration::ZERO).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "too much to do for strangers: no turn within 20 s, 2 messages are in work at once"
        );
        assert_eq!(turns.wait(Share::Users).await.unwrap().share(), Share::Users);
        assert_eq!(turns.wait(Share::Certified).await.unwrap().share(), Share::Certified);
        taken.pop();
        turns.wait(Share::Strangers).await.unwrap();
    }
}
