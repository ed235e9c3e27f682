//! Mailboxes: whether one exists, and handing a message over to one, by the mailbox server's own LMTP.
//!
//! Promise: yes is the mailbox's own word, said just now. A mailbox that does not answer holds up nobody
//! else's mail. One "no such mailbox" is no fact: a server whose list of users is being written says so too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use pec_core::address::Address;
use pec_host::parameters::{Settings, Socket};
use pec_lmtp::{Answer, Failure, Options, Outgoing, Peer, Pool, Protocol, Reply, Step};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Connections of one program to each listener of the mailbox server at once.
const CONNECTIONS: usize = 24;

/// How many messages are handed to one mailbox at once.
const AT_ONCE: usize = 2;

/// How long a mailbox may take for others before a message no longer waits for its turn, and how long one
/// waits for a connection. A mailbox that takes longer is locked or its server is down: then Postfix waits,
/// which holds up nobody else.
const TURN: Duration = Duration::from_secs(5);

/// How long the mailbox server may take after a message. Dovecot waits a minute for a locked mailbox
/// (dovecot-conf), others six; Postfix waits longer for us (`lmtp_data_done_timeout` in master.cf).
const ANSWER: Duration = Duration::from_secs(420);

/// After this a mailbox that is said not to exist is asked for once more.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The mailbox server says neither yes nor no. Temporary: mail waits.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// It does not answer.
    #[error("the mailbox server: {0}")]
    Failed(#[from] Failure),
    /// It answers something else.
    #[error("the mailbox server at {peer} answers, asked for {recipient}: {reply}")]
    Unclear {
        /// Where it listens.
        peer: Peer,
        /// The mailbox.
        recipient: String,
        /// Its words.
        reply: Reply,
    },
}

/// Which of the mailbox server's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// `pec_mailbox_lmtp`: a full mailbox takes nothing.
    Counts,
    /// `pec_mailbox_lmtp_no_quota`.
    CountsNot,
}

/// What became of a message that was handed to a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handed {
    /// The mailbox has it, it says.
    Yes,
    /// It has it not, and may take it later.
    NotYet(String),
    /// There is no such mailbox, it says before it has the message.
    NoMailbox(Reply),
    /// It has it not and will not take it.
    Never(Reply),
    /// No answer came: it may have it.
    NotKnown(String),
}

/// All mailboxes of the provider.
pub struct Mailboxes {
    counts: Pool,
    counts_not: Pool,
    peer: Peer,
    /// Those for which somebody has or waits for a turn.
    turns: Mutex<HashMap<String, Weak<Turns>>>,
}

/// The turns at one mailbox.
struct Turns {
    free: Semaphore,
    /// When the last one ended, or the first one began.
    moved: Mutex<Instant>,
}

/// A turn at a mailbox.
struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.free.add_permits(1);
    }
}

impl Mailboxes {
    /// Those of the server that the settings name.
    pub fn new(settings: &Settings) -> Self {
        let options =
            || Options { connections: CONNECTIONS, turn: TURN, answer: ANSWER, ..Options::default() };
        let pool =
            |socket: &Socket| Pool::new(peer(socket), Protocol::Lmtp, settings.hostname.clone(), options());
        Self {
            counts: pool(&settings.mailbox_lmtp),
            counts_not: pool(&settings.mailbox_lmtp_no_quota),
            peer: peer(&settings.mailbox_lmtp),
            turns: Mutex::default(),
        }
    }

    /// Whether there is this mailbox.
    pub async fn exists(&self, mailbox: &Address) -> Result<bool, MailboxError> {
        Ok(self.missing(std::slice::from_ref(mailbox)).await?.is_empty())
    }

    /// Those of these mailboxes that do not exist, it is said twice.
    pub async fn missing<'a>(&self, mailboxes: &'a [Address]) -> Result<Vec<&'a Address>, MailboxError> {
        let mut missing = Vec::new();
        for mailbox in mailboxes {
            if !self.is_there(mailbox, self.counts.ask(mailbox.as_str()).await?)? {
                missing.push(mailbox);
            }
        }
        if missing.is_empty() {
            return Ok(missing);
        }
        tokio::time::sleep(ASK_AGAIN).await;
        let mut still = Vec::new();
        for mailbox in missing {
            if !self.is_there(mailbox, self.counts.ask_anew(mailbox.as_str()).await?)? {
                still.push(mailbox);
            }
        }
        Ok(still)
    }

    fn is_there(&self, mailbox: &Address, reply: Reply) -> Result<bool, MailboxError> {
        match reply {
            reply if reply.is_yes() || is_about_the_mailbox(&reply) => Ok(true),
            reply if is_no_mailbox(&reply) => Ok(false),
            reply => {
                Err(MailboxError::Unclear { peer: self.peer.clone(), recipient: mailbox.to_string(), reply })
            }
        }
    }

    /// Hands the message that `pieces` are, from `sender` (a path without brackets), to a mailbox. `ident`:
    /// its queue id.
    pub async fn hand(
        &self,
        quota: Quota,
        sender: &str,
        mailbox: &Address,
        ident: Option<&str>,
        pieces: &[Bytes],
    ) -> Handed {
        match self.offer(quota, sender, mailbox, ident, pieces).await {
            Offered::Answered(handed) => handed,
            Offered::Accepted(accepted) => accepted.give().await,
        }
    }

    /// Offers it: the mailbox server says whether it takes a message for this mailbox, and has nothing of it
    /// yet.
    pub async fn offer<'a>(
        &'a self,
        quota: Quota,
        sender: &'a str,
        mailbox: &'a Address,
        ident: Option<&'a str>,
        pieces: &'a [Bytes],
    ) -> Offered<'a> {
        let Some(turn) = self.turn(&mailbox.key()).await else {
            return Offered::Answered(Handed::NotYet(format!(
                "it has not answered for others for {} s",
                TURN.as_secs()
            )));
        };
        let pool = match quota {
            Quota::Counts => &self.counts,
            Quota::CountsNot => &self.counts_not,
        };
        let message = Outgoing {
            sender,
            recipient: mailbox.as_str(),
            envid: None,
            ret: None,
            notify: None,
            ident,
            pieces,
        };
        match pool.offer(message).await {
            Ok(pec_lmtp::Offered::Accepted(message)) => Offered::Accepted(Accepted { message, _turn: turn }),
            Ok(pec_lmtp::Offered::Refused(answer)) => Offered::Answered(handed(Ok(answer))),
            Err(e) => Offered::Answered(handed(Err(e))),
        }
    }

    /// A turn at this mailbox, if one comes in time.
    async fn turn(&self, key: &str) -> Option<Turn> {
        let turns = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            match all.get(key).and_then(Weak::upgrade) {
                Some(turns) => turns,
                None => {
                    all.retain(|_, turns| turns.strong_count() > 0);
                    let turns =
                        Arc::new(Turns { free: Semaphore::new(AT_ONCE), moved: Mutex::new(Instant::now()) });
                    all.insert(key.to_owned(), Arc::downgrade(&turns));
                    turns
                }
            }
        };
        let moved = *turns.moved.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::time::timeout_at(moved + TURN, turns.free.acquire()).await.ok()?.ok()?.forget();
        Some(Turn(turns))
    }
}

/// What a mailbox server says to a message that it has nothing of yet.
pub enum Offered<'a> {
    /// How it ended.
    Answered(Handed),
    /// It takes it.
    Accepted(Accepted<'a>),
}

/// A message that the mailbox server takes. As long as it is not given, it has nothing of it.
pub struct Accepted<'a> {
    message: pec_lmtp::Accepted<'a>,
    _turn: Turn,
}

impl Accepted<'_> {
    /// Hands the message over to the mailbox that has accepted its recipient.
    pub async fn give(self) -> Handed {
        handed(self.message.give().await)
    }
}

fn handed(answer: Result<Answer, Failure>) -> Handed {
    match answer {
        Ok(answer) if answer.reply.is_yes() => Handed::Yes,
        // What is said of the sender, or of mail at all, is nothing that this mailbox says.
        Ok(answer)
            if !answer.reply.is_final_no()
                || !matches!(answer.at, Step::Recipient | Step::Message)
                || is_about_others(&answer.reply) =>
        {
            Handed::NotYet(answer.reply.to_string())
        }
        Ok(answer) if answer.at == Step::Recipient && is_no_mailbox(&answer.reply) => {
            Handed::NoMailbox(answer.reply)
        }
        Ok(answer) => Handed::Never(answer.reply),
        Err(e @ Failure::Unknown { .. }) => Handed::NotKnown(e.to_string()),
        Err(e) => Handed::NotYet(e.to_string()),
    }
}

/// Where a parameter says that somebody listens.
pub fn peer(socket: &Socket) -> Peer {
    match socket {
        Socket::Unix(path) => Peer::Unix(path.clone()),
        Socket::Inet(address) => Peer::Inet(address.clone()),
    }
}

/// Whether a refusal is about a mailbox that is there: full, locked, closed (RFC 3463 s. 3.3).
fn is_about_the_mailbox(reply: &Reply) -> bool {
    reply.status.as_deref().map_or(reply.code == 552, |status| matches!(status.get(1..3), Some(".2")))
}

/// Whether a refusal is about the sender's address (RFC 3463 s. 3.2), or about the conversation.
fn is_about_others(reply: &Reply) -> bool {
    matches!(reply.code, 500..=504) || matches!(reply.status.as_deref(), Some("5.1.7" | "5.1.8"))
}

/// The status (RFC 3463) of a refusal; where the server says none, what its code means (RFC 5321 s. 4.2.3).
pub fn refusal_status(reply: &Reply) -> &str {
    match (&reply.status, reply.code) {
        (Some(status), _) => status,
        (None, 550 | 551 | 553) => "5.1.1",
        (None, 552) => "5.2.2",
        (None, _) => "5.0.0",
    }
}

/// Whether a refusal says that there is no such mailbox (RFC 3463 s. 3.2).
fn is_no_mailbox(reply: &Reply) -> bool {
    reply.is_final_no()
        && reply
            .status
            .as_deref()
            .map_or(matches!(reply.code, 550 | 551 | 553), |status| status.starts_with("5.1."))
}
