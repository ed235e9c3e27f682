//! What is delivered without being certified: put into a busta di anomalia, and written down (RFC 6109 s. 3.2.2).

use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::identifier::{fresh, pec_identifier};
use pec_core::maillog;
use pec_core::message::Body;
use pec_core::notices::anomalia::{Errore, anomalia};
use pec_core::notices::{Issuer, Notice};
use pec_state::log::Entry;

use crate::world::World;
use crate::{Connection, LARGE, Transaction};

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

impl World {
    /// Puts the message with this `body` into a busta di anomalia, and writes that down; with the hash of the envelope's body.
    pub async fn wrap(&self, anomaly: Anomaly<'_>, body: Body) -> anyhow::Result<(Notice, [u8; 32])> {
        let (now, id) = (self.clock.now(), fresh()?);
        let large = body.len() >= LARGE;
        let (header, errore) = (&anomaly.transaction.header, anomaly.errore);
        let make = |issuer: Issuer<'_>| {
            let envelope = anomalia(issuer, header, body, reverse_path(anomaly.transaction), errore, now, &id)?;
            let body_sha256 = envelope.body.sha256();
            Ok((envelope, body_sha256))
        };
        let (envelope, body_sha256) = self.write(large, make).await?;
        self.write_down(anomaly, &body_sha256, now, &id).await?;
        Ok((envelope, body_sha256))
    }

    /// Writes down what is delivered as it came.
    pub async fn write_down_unwrapped(&self, anomaly: Anomaly<'_>, body_sha256: &[u8]) -> anyhow::Result<()> {
        self.write_down(anomaly, body_sha256, self.clock.now(), &fresh()?).await
    }

    async fn write_down(&self, anomaly: Anomaly<'_>, body_sha256: &[u8], now: Moment, id: &str) -> anyhow::Result<()> {
        let Anomaly { connection, transaction, errore, provider } = anomaly;
        let recipients: Vec<Address> = transaction.recipients.iter().filter_map(|r| r.address.clone()).collect();
        let identificativo = pec_identifier(now, id, &self.settings.service_domain);
        let mut log = Entry::of_anomaly(&transaction.header, identificativo, reverse_path(transaction), &recipients, now, transaction.queue_id());
        log.certified_by = self.settings.provider_name.clone();
        log.message_sha256 = Some(body_sha256.to_vec());
        log.client_address = connection.map(|c| c.client_address.clone());
        log.tls = transaction.tls.as_ref().map(ToString::to_string);
        log.error = Some(errore.italiano.clone());
        self.database.insert_log(&log).await?;
        maillog::anomalia(transaction.queue_id(), reverse_path(transaction), recipients.len(), provider, &errore.inglese);
        Ok(())
    }
}

/// MAIL FROM without brackets. What is no address for us (a local part with blanks, an address literal) may be one.
fn reverse_path(transaction: &Transaction) -> &str {
    transaction.sender_path.trim_start_matches('<').trim_end_matches('>')
}
