//! A message for a mailbox of ours is handed over to it, and its answer becomes a fact: avvenuta consegna or
//! mancata consegna (RFC 6109 s. 3.3).
//!
//! Promise: a mailbox gets what a program of ours signed or let in, by ENVID, recipient and SHA-256, and
//! nothing else; what is not known waits, with an error that names it. Before the first byte goes a row says
//! so, without which nothing goes: a database that takes no rows makes no copies. What the mailbox has taken
//! is not handed over again. A crash leaves at most one more copy of what was being handed over, and then the
//! row of the receipt says that the mailbox may have had it before (`mailbox-again`).

use bytes::Bytes;
use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::Tipo;
use pec_core::envelope::{EnvelopeError, contents, signed_parts};
use pec_host::maillog;
use pec_lmtp::Reply;
use pec_program::mailbox::{Handed, Offered, Quota, refusal_status};
use pec_program::sized;
use pec_state::authentic::Authentic;
use pec_state::database::InQueue;
use pec_state::handover::{Attempt, Begun};
use pec_state::rows::{Custody, Fact, FactKind, Known, Passed, TimeSource};

use crate::DeliveryPoint;
use crate::doors::{InHand, done};
use crate::notices::{DueNotice, Source};

/// The status (RFC 3463) of a delivery to a mailbox that takes no letters.
const NO_LETTERS: &str = "5.2.1";

/// A mailbox that is said not to exist is asked for again after so many seconds, at Postfix's next attempt,
/// before that is a fact. Whatever else comes of an attempt, it begins anew.
const ASK_AGAIN: i64 = 5;

/// How a handing over ended, where it did.
pub(crate) enum Ended {
    /// The mailbox took it then.
    Taken(Moment),
    /// It never will.
    Refused(Reply),
    /// There is no such mailbox, it was said twice.
    NoMailbox(Reply),
}

impl DeliveryPoint {
    /// A message for a mailbox of ours. The answer is Postfix's to hear; an error waits.
    pub(crate) async fn for_mailbox(&self, hand: &InHand<'_>, path: &str) -> anyhow::Result<Reply> {
        let Some(mailbox) = Address::parse(path) else { anyhow::bail!("{path}: is no mail address") };
        let Some(envid) = hand.envid else {
            return unknown(hand, &mailbox, "it has no envelope id, so no milter of ours has seen it");
        };
        match self.world.database.in_queue(envid).await? {
            Some(InQueue::Envelope(custody)) => {
                if !is_among(&custody.recipients, &mailbox) || hand.body_sha256[..] != custody.body_sha256[..]
                {
                    return unknown(
                        hand,
                        &mailbox,
                        "it is not the envelope that was taken in charge for this recipient",
                    );
                }
                self.envelope(hand, custody, &mailbox).await
            }
            Some(InQueue::Passed(passed)) => {
                if !is_among(&passed.recipients, &mailbox) || hand.body_sha256[..] != passed.body_sha256[..] {
                    return unknown(hand, &mailbox, "it is not what a milter let pass for this recipient");
                }
                self.passed(hand, &passed, &mailbox).await
            }
            Some(InQueue::Notice(known)) => self.notice_in_the_queue(hand, known, &mailbox).await,
            None => unknown(
                hand,
                &mailbox,
                "its envelope id is none of ours, so no milter of ours has let it \
                    in",
            ),
        }
    }

    /// An envelope that this provider answers for: here an avvenuta consegna or a mancata consegna begins.
    async fn envelope(
        &self,
        hand: &InHand<'_>,
        custody: Authentic<Custody>,
        mailbox: &Address,
    ) -> anyhow::Result<Reply> {
        let key = mailbox.key();
        let outcomes = self.world.database.outcomes(&custody.provider, &custody.identificativo, &key).await?;
        let of = |kind: FactKind| outcomes.iter().find(|known| known.fact.kind == kind).cloned();
        let failure = of(FactKind::ErroreConsegna);
        let known = of(FactKind::AvvenutaConsegna)
            .or_else(|| failure.clone().filter(|known| known.fact.source == custody.id));
        // Read before anything goes: what cannot be read must not be handed over again and again.
        let original = self.original(hand)?;
        if let Some(known) = known {
            let source = self.source_of(&known.fact).await?;
            if let Source::Custody(first) = &source
                && first.content_sha256 != custody.content_sha256
            {
                anyhow::bail!(
                    "{}: another message has this identifier, and an outcome; this one is kept",
                    custody.identificativo
                );
            }
            self.see_to_notice(hand, source, DueNotice::Written(known), Some(original)).await?;
            return Ok(done());
        }

        // Nobody reads in the service mailboxes (RFC 6109 s. 2.2.5): the sender hears so.
        let (ended, again) = if mailbox.domain() == self.world.settings.service_domain {
            (Ended::Refused(Reply::new(550, NO_LETTERS, "an automatic mailbox, which nobody reads")), false)
        } else {
            let (handed, attempt, again) = self.offer(hand, &custody, mailbox).await?;
            (self.ended(&attempt, mailbox, handed).await?, again)
        };
        if let Ended::Refused(reply) | Ended::NoMailbox(reply) = &ended {
            // Another copy may be there, or under way at this moment.
            is_certain(mailbox, reply, again || self.world.database.is_handover_open(&custody, &key).await?)?;
        }
        let service_domain = &self.world.settings.service_domain;
        let fact = match &ended {
            Ended::Taken(at) => Fact {
                recipient: key,
                time_source: if again { TimeSource::MailboxAgain } else { TimeSource::Mailbox },
                ..Fact::new(FactKind::AvvenutaConsegna, &custody, *at, service_domain)?
            },
            Ended::Refused(reply) | Ended::NoMailbox(reply) => Fact {
                recipient: key,
                time_source: TimeSource::Mailbox,
                status: refusal_status(reply).to_owned(),
                ..Fact::new(FactKind::ErroreConsegna, &custody, self.world.clock.now(), service_domain)?
            },
        };
        // The fact before its notice: where none can be signed now, what the mailbox said is written all the
        // same.
        let source = Source::Custody(custody);
        let known = match failure {
            // Another copy was refused before, and so is this one: there is one notice of that.
            Some(known) if fact.kind == FactKind::ErroreConsegna => known,
            _ => self.world.database.insert_fact_without_notice(&fact).await?,
        };
        let source =
            if known.fact.source == source.id() { source } else { self.source_of(&known.fact).await? };
        self.see_to_notice(hand, source, DueNotice::Written(known), Some(original)).await?;
        Ok(done())
    }

    /// Hands an envelope to a mailbox. That it goes is written when the mailbox server has said that it takes
    /// it: what it says no to before was not handed over, whatever becomes of us. Besides: whether it may
    /// have had it before.
    async fn offer(
        &self,
        hand: &InHand<'_>,
        custody: &Custody,
        mailbox: &Address,
    ) -> anyhow::Result<(Handed, Attempt, bool)> {
        let (database, attempt) = (&self.world.database, Attempt::new(&custody.envid, &mailbox.key())?);
        let accepted = match self
            .world
            .mailboxes
            .offer(Quota::Counts, hand.sender, mailbox, hand.ident, std::slice::from_ref(hand.data))
            .await
        {
            Offered::Answered(handed) => return Ok((handed, attempt, false)),
            Offered::Accepted(accepted) => accepted,
        };
        match database.begin_handover_of(custody, &attempt).await {
            Ok(Begun::Now { again, .. }) => Ok((accepted.give().await, attempt, again)),
            Ok(Begun::Taken(_)) => anyhow::bail!(
                "{}: the mailbox of {mailbox} has it, and there is no fact that says so",
                custody.identificativo
            ),
            Err(e) => {
                // It may be written all the same, and nothing is given.
                let _ = database.end_handover(&attempt, self.world.clock.now()).await;
                Err(e.into())
            }
        }
    }

    /// What else a milter let in. A refusal is for Postfix to tell the sender.
    async fn passed(&self, hand: &InHand<'_>, passed: &Passed, mailbox: &Address) -> anyhow::Result<Reply> {
        let quota = if passed.kind.passes_quota() { Quota::CountsNot } else { Quota::Counts };
        let Begun::Now { attempt, again } =
            self.world.database.begin_handover(&passed.envid, &mailbox.key()).await?
        else {
            maillog::handed_over_before(hand.queue_id, mailbox.as_str());
            return Ok(done());
        };
        match self
            .hand_over(hand, &attempt, (quota, mailbox), hand.sender, std::slice::from_ref(hand.data))
            .await?
        {
            Ended::Taken(at) => {
                self.world.database.take_handover(&attempt, at).await?;
                maillog::handed_over(hand.queue_id, passed.kind.as_str(), mailbox.as_str());
                Ok(done())
            }
            Ended::Refused(reply) => {
                is_certain(mailbox, &reply, again)?;
                Ok(reply)
            }
            Ended::NoMailbox(reply) => Ok(reply),
        }
    }

    /// A notice of ours that a message became in Postfix's hands: the avviso di non accettazione.
    async fn notice_in_the_queue(
        &self,
        hand: &InHand<'_>,
        known: Known,
        mailbox: &Address,
    ) -> anyhow::Result<Reply> {
        let source = self.source_of(&known.fact).await?;
        let is_it = known.made.as_ref().is_some_and(|made| made.sha256[..] == hand.body_sha256[..]);
        if !is_it || !self.addressee(&source, known.fact.kind)?.eq_ignore_ascii_case(mailbox.as_str()) {
            return unknown(hand, mailbox, "it is not the notice that has this envelope id");
        }
        if let Begun::Now { attempt, .. } =
            self.world.database.begin_handover(&known.fact.id, &mailbox.key()).await?
        {
            self.give_notice(hand, &known.fact, mailbox, &attempt, std::slice::from_ref(hand.data)).await?;
        }
        Ok(done())
    }

    /// Hands a message to a mailbox, which is written. An error waits.
    pub(crate) async fn hand_over(
        &self,
        hand: &InHand<'_>,
        attempt: &Attempt,
        (quota, mailbox): (Quota, &Address),
        sender: &str,
        pieces: &[Bytes],
    ) -> anyhow::Result<Ended> {
        self.ended(
            attempt,
            mailbox,
            self.world.mailboxes.hand(quota, sender, mailbox, hand.ident, pieces).await,
        )
        .await
    }

    /// Writes how a handing over ended, and says so where it did. An error waits.
    async fn ended(&self, attempt: &Attempt, mailbox: &Address, handed: Handed) -> anyhow::Result<Ended> {
        let (database, now) = (&self.world.database, self.world.clock.now());
        match handed {
            Handed::Yes => Ok(Ended::Taken(now)),
            Handed::NotYet(why) => {
                database.end_handover(attempt, now).await?;
                anyhow::bail!("the mailbox of {mailbox} does not take it now: {why}")
            }
            Handed::NoMailbox(reply) => {
                let since = database.end_without_mailbox(attempt, now).await?;
                if now.unix() - since.unix() < ASK_AGAIN {
                    anyhow::bail!(
                        "the mailbox server says that there is no mailbox {mailbox}; it is asked again \
                        before that is believed: {reply}"
                    );
                }
                Ok(Ended::NoMailbox(reply))
            }
            Handed::Never(reply) => {
                database.end_handover(attempt, now).await?;
                Ok(Ended::Refused(reply))
            }
            Handed::NotKnown(why) => {
                anyhow::bail!("whether the mailbox of {mailbox} has it is not known: {why}")
            }
        }
    }

    /// The original inside the envelope in hand.
    fn original(&self, hand: &InHand<'_>) -> anyhow::Result<Bytes> {
        Ok(sized(hand.body.len(), || {
            let parts = signed_parts(&hand.header(), &hand.body)?;
            contents(&hand.body, parts.content, Tipo::PostaCertificata)?
                .postacert
                .ok_or(EnvelopeError::NoPostacert)
        })?)
    }
}

fn is_among(recipients: &[String], mailbox: &Address) -> bool {
    recipients.iter().any(|r| r.eq_ignore_ascii_case(mailbox.as_str()))
}

/// A refusal counts where the mailbox cannot have the message: full it is, say, of this very one.
fn is_certain(mailbox: &Address, reply: &Reply, may_have_it: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        !may_have_it,
        "the mailbox of {mailbox} was handed this before, its answer was lost, and now it says: {reply}; \
        look whether it is there. \
         Nothing is certified as long as that is not known"
    );
    Ok(())
}

/// Closed where a milter is missing: nothing reaches a certified mailbox that no program of ours knows.
fn unknown(hand: &InHand<'_>, mailbox: &Address, why: &str) -> anyhow::Result<Reply> {
    maillog::unknown_message(hand.queue_id, hand.sender, mailbox.as_str(), why);
    anyhow::bail!("not delivered to {mailbox}: {why}")
}
