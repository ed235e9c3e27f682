//! Triggers: a copy that comes round because Postfix has the envelope (or a report) in its queue.
//!
//! A trigger proves nothing by itself: it is the id of a row, and the bytes that come round must be those that the row says
//! we signed or accepted. Otherwise there is no notice, and an alarm. Never 5xx: a trigger that is lost is a lost receipt.

use pec_core::maillog;
use pec_milter::{Transaction, Verdict};
use pec_state::rows::{FactKind, TimeSource, trigger_name};

use crate::NoticesPoint;
use crate::facts::{Due, Happened, Source};

/// The name of a trigger, the part of its address before the `@`: `KIND+ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trigger {
    pub(crate) kind: FactKind,
    pub(crate) id: String,
}

impl Trigger {
    /// Reads the local part of a trigger's address.
    pub(crate) fn parse(local_part: &str) -> Option<Self> {
        let (kind, id) = local_part.split_once('+')?;
        Some(Self { kind: kind.to_ascii_lowercase().parse().ok()?, id: id.to_owned() })
    }

    /// As the address and the table `trigger_body` have it.
    pub(crate) fn name(&self) -> String {
        trigger_name(self.kind, &self.id)
    }
}

impl NoticesPoint {
    /// A trigger came round.
    pub(crate) async fn trigger(&self, transaction: Transaction) -> anyhow::Result<Verdict> {
        let [recipient] = &transaction.recipients[..] else { return Ok(Verdict::Wait("a trigger has one recipient".to_owned())) };
        let not_believed = |why: &str| {
            maillog::false_trigger(transaction.queue_id(), &recipient.path, why);
            Ok(Verdict::Wait(format!("{}: {why}", recipient.path)))
        };
        let Some(trigger) = recipient.address.as_ref().and_then(|a| Trigger::parse(a.local_part())) else {
            return not_believed("no such kind of trigger");
        };
        let Some(body_sha256) = transaction.body_sha256 else { return Ok(Verdict::Wait("the body was not hashed".to_owned())) };
        let database = &self.world.database;
        const NO_ROW: &str = "no row has this id";
        const OTHER_BYTES: &str = "these are not the bytes that it was made for";

        match trigger.kind {
            FactKind::Accettazione => {
                let Some(sent) = database.sent(&trigger.id).await? else { return not_believed(NO_ROW) };
                if body_sha256[..] != sent.body_sha256[..] {
                    return not_believed(OTHER_BYTES);
                }
                let happened = Happened {
                    kind: FactKind::Accettazione,
                    recipient: String::new(),
                    at: sent.signed_at,
                    time_source: TimeSource::Clock,
                    status: String::new(),
                };
                self.fact_of_trigger(&transaction, Source::Sent(sent), happened).await
            }
            FactKind::PresaInCarico => {
                let Some(custody) = database.custody(&trigger.id).await? else { return not_believed(NO_ROW) };
                if body_sha256[..] != custody.body_sha256[..] {
                    return not_believed(OTHER_BYTES);
                }
                let mut keys: Vec<_> = custody.recipients.iter().map(|r| r.to_ascii_lowercase()).collect();
                keys.sort();
                let happened = Happened {
                    kind: FactKind::PresaInCarico,
                    recipient: keys.join(" "),
                    at: custody.taken_at,
                    time_source: TimeSource::Clock,
                    status: String::new(),
                };
                self.fact_of_trigger(&transaction, Source::Custody(custody), happened).await
            }
            _ => {
                let Some(known) = database.fact_with_id(&trigger.id).await? else { return not_believed(NO_ROW) };
                if known.fact.kind != trigger.kind || !database.is_trigger_body(&trigger.name(), &body_sha256).await? {
                    return not_believed(OTHER_BYTES);
                }
                if known.raised {
                    maillog::trigger_repeated(transaction.queue_id(), &known.fact.message_id);
                    return Ok(Verdict::Consume);
                }
                if self.is_past(transaction.queue_id(), &known).await? {
                    return Ok(Verdict::Consume);
                }
                let source = self.source_of(&known.fact).await?;
                Ok(Verdict::Change(self.become_notice(&transaction, source, Due::Written(known)).await?))
            }
        }
    }

    /// The envelope is in the queue: that is the fact.
    async fn fact_of_trigger(&self, transaction: &Transaction, source: Source, happened: Happened) -> anyhow::Result<Verdict> {
        let identificativo = source.daticert()?.identificativo;
        let known = self.world.database.fact(source.provider(), &identificativo, happened.kind.as_str(), &happened.recipient).await?;
        let (source, due) = match known {
            Some(known) => (self.source_of(&known.fact).await?, Due::Written(known)),
            None => {
                let fact = self.new_fact(&source, &identificativo, happened)?;
                (source, Due::New(fact))
            }
        };
        Ok(Verdict::Change(self.become_notice(transaction, source, due).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_names() {
        let trigger = Trigger::parse("presa-in-carico+00ff").unwrap();
        assert_eq!((trigger.kind, trigger.id.as_str(), trigger.name().as_str()), (FactKind::PresaInCarico, "00ff", "presa-in-carico+00ff"));
        assert_eq!(Trigger::parse("altro+00ff"), None);
        assert_eq!(Trigger::parse("accettazione"), None);
    }
}
