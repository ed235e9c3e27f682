//! The infected store (RFC 6109 s. 2.2.4): messages with viruses, kept for thirty months.
//!
//! Promise: what lies there can be read by nobody but the holder of the key to
//! `pec_infected_certificate_file`; not even by the milters that wrote it.

use bytes::Bytes;
use pec_core::header::Header;
use pec_core::message::Body;
use pec_core::smime::encrypt::Reader;
use pec_host::parameters::Settings;
use pec_host::read;
use pec_state::store::Store;

use crate::sized;

/// The infected store.
#[derive(Debug)]
pub struct InfectedStore {
    store: Store,
    auditor: Reader,
}

impl InfectedStore {
    /// Opens it.
    pub fn open(settings: &Settings) -> anyhow::Result<Self> {
        let auditor = read::auditor(&settings.infected_certificate_file)?;
        Ok(Self { store: Store::open("pec_infected_store", &settings.infected_store)?, auditor })
    }

    /// Keeps a message under `id`, encrypted.
    pub async fn put_message(&self, id: &str, header: &Header, body: &Body) -> anyhow::Result<()> {
        let mut head = header.to_bytes();
        head.extend_from_slice(b"\r\n");
        let mut pieces = vec![Bytes::from(head)];
        pieces.extend(body.pieces().iter().cloned());
        let encrypted = sized(body.len(), || self.auditor.encrypt(&pieces))?;
        Ok(self.store.put_pieces(id, encrypted).await?)
    }
}
