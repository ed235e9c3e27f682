//! Messages as files: those with viruses, which are kept.
//!
//! Promise: after [`Store::put_pieces`] the bytes are on disk, file and directory entry, or there is an
//! error.

use std::path::Path;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutPayload};
use pec_core::identifier::fresh;

/// The directory is not usable.
#[derive(Debug, thiserror::Error)]
#[error("{parameter} = {path}: {trouble}")]
pub struct OpenError {
    parameter: &'static str,
    path: String,
    trouble: String,
}

/// The store does not do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is kept under this id.
    #[error("the store holds no message {0}")]
    Missing(String),
    /// The disk, mostly.
    #[error("the store: {0}")]
    Failed(#[from] object_store::Error),
}

/// A directory of messages.
#[derive(Debug)]
pub struct Store(LocalFileSystem);

impl Store {
    /// Opens the directory that `parameter` names, which must exist and take files.
    pub fn open(parameter: &'static str, directory: &Path) -> Result<Self, OpenError> {
        let error = |trouble: String| OpenError { parameter, path: directory.display().to_string(), trouble };
        // Each milter tries for itself, in a container of its own perhaps, where process ids are alike.
        let probe = directory.join(format!(".probe.{}", fresh().map_err(|e| error(e.to_string()))?));
        std::fs::write(&probe, b"")
            .and_then(|()| std::fs::remove_file(&probe))
            .map_err(|e| error(format!("cannot be written to: {e}")))?;
        let files = LocalFileSystem::new_with_prefix(directory).map_err(|e| error(e.to_string()))?;
        Ok(Self(files.with_fsync(true)))
    }

    /// KeepBody what `pieces` are together under `id`, without joining them. Encrypted: its name ends in `.p7m`.
    pub async fn put_pieces(&self, id: &str, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        self.0.put(&key(id), pieces.into_iter().collect::<PutPayload>()).await?;
        Ok(())
    }

    /// What [`Store::put_pieces`] has kept under `id`.
    pub async fn get_pieces(&self, id: &str) -> Result<Bytes, StoreError> {
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
    Key::from(format!("{}/{id}.p7m", id.get(..2).unwrap_or("_")))
}
