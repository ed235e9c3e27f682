//! What is delivered without being certified: put into a busta di anomalia, and written down (RFC 6109 s.
//! 3.2.2); and what a milter lets pass as it is.
//!
//! Promise: what goes on to a mailbox of ours from here has a row by which pec-delivery knows it.

use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::identifier::{fresh, pec_identifier};
use pec_core::message::Body;
use pec_core::notices::anomalia::{Errore, anomalia};
use pec_core::notices::{Issuer, Notice, service_address};
use pec_host::maillog;
use pec_program::world::World;
use pec_state::authentic::Authentic;
use pec_state::log::Entry;
use pec_state::rows::{Passed, PassedKind};

use crate::{Connection, Edits, Transaction};

/// Something that is delivered and not certified.
#[derive(Clone, Copy)]
pub struct Anomaly<'a> {
    /// Who brought it; nobody, where Postfix wrote it.
    pub connection: Option<&'a Connection>,
    /// The message.
    pub transaction: &'a Transaction,
    /// Why it is not certified.
    pub errore: &'a Errore,
    /// The provider that signed it all the same.
    pub provider: Option<&'a str>,
}

impl Anomaly<'_> {
    /// The message with this `body` becomes a busta di anomalia around itself, for those to whom it goes, and
    /// that is written down; with the hash of the envelope's body.
    pub async fn wrap(
        self,
        world: &World,
        kind: PassedKind,
        body: Body,
    ) -> anyhow::Result<(Edits, [u8; 32])> {
        let (now, id) = (world.clock.now(), fresh()?);
        let bytes = body.len();
        let Self { transaction, errore, .. } = self;
        let make = |issuer: Issuer<'_>| {
            let reverse_path = transaction.reverse_path();
            let envelope = anomalia(issuer, &transaction.header, body, reverse_path, errore, now, &id)?;
            let body_sha256 = envelope.body.sha256();
            Ok((envelope, body_sha256))
        };
        let (envelope, body_sha256): (Notice, _) = world.write(bytes, make).await?;
        let edits = self.delivered(world, kind, &body_sha256, now, &id).await?;
        Ok((edits.become_notice(&transaction.header, envelope), body_sha256))
    }

    async fn delivered(
        self,
        world: &World,
        kind: PassedKind,
        body_sha256: &[u8],
        now: Moment,
        id: &str,
    ) -> anyhow::Result<Edits> {
        let Self { connection, transaction, errore, provider } = self;
        let recipients: Vec<Address> =
            transaction.recipients.iter().filter_map(|r| r.address.clone()).collect();
        let identificativo = pec_identifier(now, id, &world.settings.service_domain);
        let reverse_path = transaction.reverse_path();
        let arrival = transaction.arrival(connection);
        let mut log =
            Entry::of_anomaly(&transaction.header, identificativo, reverse_path, &recipients, now, arrival);
        log.certified_by = world.settings.provider_name.clone();
        log.message_sha256 = Some(body_sha256.to_vec());
        log.error = Some(errore.italiano.clone());
        let edits = let_pass(world, transaction, kind, body_sha256, Some(log)).await?;
        maillog::anomalia(
            transaction.queue_id(),
            transaction.reverse_path(),
            recipients.len(),
            provider,
            &errore.inglese,
        );
        Ok(edits)
    }
}

/// Writes that the message, whose body has this hash when it goes on, may reach those of its recipients who
/// have a mailbox here, with its log row; and has it carry the ENVID by which pec-delivery finds that.
pub async fn let_pass(
    world: &World,
    transaction: &Transaction,
    kind: PassedKind,
    body_sha256: &[u8],
    log: Option<Entry>,
) -> anyhow::Result<Edits> {
    let passed = passed(world, transaction, kind, body_sha256, &fresh()?)?;
    let log = log.map(|log| Entry { envid: Some(passed.envid.clone()), ..log });
    world.database.insert_passed(&passed, log.as_ref()).await?;
    Ok(Edits::default().envelope_id(transaction, &passed.envid))
}

/// The row that says that the message may reach those of its recipients who have a mailbox here.
pub fn passed(
    world: &World,
    transaction: &Transaction,
    kind: PassedKind,
    body_sha256: &[u8],
    envid: &str,
) -> anyhow::Result<Authentic<Passed>> {
    let ours = transaction
        .recipients
        .iter()
        .filter_map(|r| r.address.as_ref())
        .filter(|r| world.is_local(&r.domain()));
    let mut recipients: Vec<String> = ours.map(Address::key).collect();
    // Milters see an address before its alias: root's and the postmaster's lead to the service mailbox
    // (main.cf).
    let service = service_address(&world.settings.service_domain);
    if matches!(kind, PassedKind::Locale | PassedKind::Rapporto) && !recipients.contains(&service) {
        recipients.push(service);
    }
    Ok(world.database.authentic(Passed {
        envid: envid.to_owned(),
        kind,
        body_sha256: body_sha256.to_vec(),
        recipients,
    })?)
}
