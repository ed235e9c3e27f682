//! Originals that delivery receipts still need, as files.
//!
//! Promise: after [`Store::put`] the bytes are on disk, file and directory entry, or there is an error.

use std::path::Path;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutPayload};

/// `pec_store` is not usable.
#[derive(Debug, thiserror::Error)]
#[error("pec_store = {path}: {trouble}")]
pub struct OpenError {
    path: String,
    trouble: String,
}

/// The store does not do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is kept under this id.
    #[error("the store holds no original {0}")]
    Missing(String),
    /// The disk, mostly.
    #[error("the store: {0}")]
    Failed(#[from] object_store::Error),
}

/// A directory of originals, one file for each [`Custody`](crate::rows::Custody).
#[derive(Debug)]
pub struct Store(LocalFileSystem);

impl Store {
    /// Opens the directory `pec_store`, which must exist and take files.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let error = |trouble: String| OpenError { path: directory.display().to_string(), trouble };
        let probe = directory.join(format!(".probe.{}", std::process::id()));
        std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)).map_err(|e| error(format!("cannot be written to: {e}")))?;
        let files = LocalFileSystem::new_with_prefix(directory).map_err(|e| error(e.to_string()))?;
        Ok(Self(files.with_fsync(true)))
    }

    /// Keeps `original` under `id`.
    pub async fn put(&self, id: &str, original: Bytes) -> Result<(), StoreError> {
        self.0.put(&key(id), PutPayload::from_bytes(original)).await?;
        Ok(())
    }

    /// How many bytes are kept under `id`.
    pub async fn size(&self, id: &str) -> Result<u64, StoreError> {
        self.0.head(&key(id)).await.map(|meta| meta.size).map_err(|e| error(id, e))
    }

    /// What is kept under `id`.
    pub async fn get(&self, id: &str) -> Result<Bytes, StoreError> {
        Ok(self.0.get(&key(id)).await.map_err(|e| error(id, e))?.bytes().await?)
    }
}

fn error(id: &str, error: object_store::Error) -> StoreError {
    match error {
        object_store::Error::NotFound { .. } => StoreError::Missing(id.to_owned()),
        error => StoreError::Failed(error),
    }
}

/// Files lie in 256 directories, so that none grows too long.
fn key(id: &str) -> Key {
    Key::from(format!("{}/{id}.eml", id.get(..2).unwrap_or("_")))
}
