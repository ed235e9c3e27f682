//! Triggers: a copy that comes round because Postfix holds a message, or because pec-clock brings it.
//!
//! Promise: a trigger proves nothing by itself. It is the id of a row, and the bytes that come round must be
//! those that the row says we signed or accepted. Otherwise there is no notice, and an alarm. Never 5xx: a
//! trigger that is lost is a lost receipt.

use anyhow::Context as _;
use bytes::Bytes;
use pec_core::address::Address;
use pec_core::dsn::Report;
use pec_core::header::Header;
use pec_core::mime::header_end;
use pec_host::maillog;
use pec_program::sha256;
use pec_state::rows::{Fact, FactKind, Known};
use pec_state::trigger::{Trigger, Wanted};

use crate::DeliveryPoint;
use crate::doors::InHand;
use crate::notices::{DueNotice, Source};

impl DeliveryPoint {
    /// A trigger came round. An error waits.
    pub(crate) async fn trigger(&self, hand: &InHand<'_>, path: &str) -> anyhow::Result<()> {
        const NO_ROW: &str = "no row has this id";
        const OTHER_BYTES: &str = "these are not the bytes that it was made for";
        let not_believed = |why: &str| {
            maillog::false_trigger(hand.queue_id, path, why);
            anyhow::bail!("{path}: {why}")
        };
        let Some(trigger) = Address::parse(path).as_ref().and_then(|a| Trigger::parse(a.local_part())) else {
            return not_believed("no such kind of trigger");
        };
        let (database, service_domain) = (&self.world.database, &self.world.settings.service_domain);
        match trigger.wanted {
            Wanted::Notice(FactKind::Accettazione) => {
                let Some(sent) = database.sent(&trigger.id).await? else { return not_believed(NO_ROW) };
                if hand.body_sha256[..] != sent.body_sha256[..] {
                    return not_believed(OTHER_BYTES);
                }
                let fact = Fact::new(FactKind::Accettazione, &sent, sent.signed_at, service_domain)?;
                self.fact_of_trigger(hand, Source::Sent(sent), fact).await
            }
            Wanted::Notice(FactKind::PresaInCarico) => {
                let Some(custody) = database.custody(&trigger.id).await? else { return not_believed(NO_ROW) };
                if hand.body_sha256[..] != custody.body_sha256[..] {
                    return not_believed(OTHER_BYTES);
                }
                let mut keys: Vec<_> = custody.recipients.iter().map(|r| r.to_ascii_lowercase()).collect();
                keys.sort();
                let fact = Fact {
                    recipient: keys.join(" "),
                    ..Fact::new(FactKind::PresaInCarico, &custody, custody.taken_at, service_domain)?
                };
                self.fact_of_trigger(hand, Source::Custody(custody), fact).await
            }
            Wanted::Notice(kind) => {
                let Some(known) = database.fact_with_id(&trigger.id).await? else {
                    return not_believed(NO_ROW);
                };
                if known.fact.kind != kind
                    || !database.is_trigger_body(&trigger.name(), &hand.body_sha256).await?
                {
                    return not_believed(OTHER_BYTES);
                }
                let source = self.source_of(&known.fact).await?;
                self.see_to_notice(hand, source, DueNotice::Written(known), None).await
            }
            Wanted::Again => {
                let Some(known) = database.fact_with_id(&trigger.id).await? else {
                    return not_believed(NO_ROW);
                };
                if !database.is_trigger_body(&trigger.name(), &hand.body_sha256).await? {
                    return not_believed(OTHER_BYTES);
                }
                self.send_again(hand, &known).await
            }
        }
    }

    /// The message is in the queue: that is the fact.
    async fn fact_of_trigger(&self, hand: &InHand<'_>, source: Source, fact: Fact) -> anyhow::Result<()> {
        let known = self
            .world
            .database
            .fact(&fact.provider, &fact.identificativo, fact.kind, &fact.recipient)
            .await?;
        let (source, due) = match known {
            Some(known) => (self.source_of(&known.fact).await?, DueNotice::Written(known)),
            None => (source, DueNotice::New(fact)),
        };
        self.see_to_notice(hand, source, due, None).await
    }

    /// A notice for another provider came back inside Postfix's report: the same bytes go out once more.
    async fn send_again(&self, hand: &InHand<'_>, known: &Known) -> anyhow::Result<()> {
        let fact = &known.fact;
        let source = self.source_of(fact).await?;
        let to = self.addressee(&source, fact.kind)?;
        let to = Address::parse(&to).with_context(|| format!("{to:?} is no mail address"))?;
        let (header, body) = returned(hand).with_context(|| {
            format!(
                "the notice {} came back without its body, and cannot be sent again; bounce_size_limit must \
                stand above message_size_limit",
                fact.message_id
            )
        })?;
        if known.made.as_ref().is_none_or(|made| made.sha256[..] != sha256(&body)[..]) {
            anyhow::bail!("what came back is not the notice {} as we signed it", fact.message_id);
        }
        self.send(hand, fact, &to, &[Bytes::from([&header.to_bytes()[..], b"\r\n"].concat()), body]).await
    }
}

/// The message that a report brings back: its header as it was before Postfix had it, and its body.
fn returned(hand: &InHand<'_>) -> Option<(Header, Bytes)> {
    let report = Report::parse(&hand.header(), &hand.body).ok()?;
    let message = hand.body.slice(report.returned?);
    let (end, start) = header_end(&message)?;
    let mut header = Header::parse(&message[..end]).ok()?;
    header.fields_mut().retain(|field| !field.is("Received") && !field.is("Return-Path"));
    Some((header, message.slice(start..)))
}
