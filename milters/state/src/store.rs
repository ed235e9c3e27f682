//! Messages as files: those with viruses, which are kept.
//!
//! Promise: after [`Store::put_pieces`] the bytes are on disk, file and directory entry, or there is an
//! error.
//!
//! Whoever keeps messages knows ids and bytes alone, so that a store that several hosts share (S3) can stand
//! behind the same two calls. The crate object_store has local files, too, but that would be a second way to
//! write a file durably beside [`pec_host::files`]; it is for the day on which there is something else than
//! files.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pec_core::identifier::fresh;
use pec_host::files;

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
    #[error("the store: {file}: {trouble}")]
    Failed {
        /// The file.
        file: String,
        /// What happened.
        trouble: io::Error,
    },
}

/// A directory of messages.
#[derive(Debug)]
pub struct Store(PathBuf);

impl Store {
    /// Opens the directory that `parameter` names, which must exist and take files.
    pub fn open(parameter: &'static str, directory: &Path) -> Result<Self, OpenError> {
        let error = |trouble: String| OpenError { parameter, path: directory.display().to_string(), trouble };
        // Each milter tries for itself, in a container of its own perhaps, where process ids are alike.
        let probe = directory.join(format!(".probe.{}", fresh().map_err(|e| error(e.to_string()))?));
        fs::write(&probe, b"")
            .and_then(|()| fs::remove_file(&probe))
            .map_err(|e| error(format!("cannot be written to: {e}")))?;
        Ok(Self(directory.to_owned()))
    }

    /// Keeps what `pieces` are together under `id`, without joining them. Encrypted: its name ends in `.p7m`.
    pub async fn put_pieces(&self, id: &str, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        let (directory, file) = self.place(id)?;
        in_thread(file, move |file| {
            files::make_directory(&directory, 0o777)?;
            files::replace(file, |new| pieces.iter().try_for_each(|piece| new.write_all(piece)))
        })
        .await
    }

    /// What [`Store::put_pieces`] has kept under `id`.
    pub async fn get_pieces(&self, id: &str) -> Result<Bytes, StoreError> {
        let (_, file) = self.place(id)?;
        match in_thread(file, |file| fs::read(file)).await {
            Err(StoreError::Failed { trouble, .. }) if trouble.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Missing(id.to_owned()))
            }
            read => Ok(read?.into()),
        }
    }

    /// The directory of a message, and its file. Files lie in 256 directories, so that none grows too long.
    fn place(&self, id: &str) -> Result<(PathBuf, PathBuf), StoreError> {
        // An id that somebody has typed leads to no other file.
        if !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(StoreError::Missing(id.to_owned()));
        }
        let directory = self.0.join(id.get(..2).unwrap_or("_"));
        let file = directory.join(format!("{id}.p7m"));
        Ok((directory, file))
    }
}

/// Has a thread of its own do `work` on a file: disks keep one waiting.
async fn in_thread<T: Send + 'static>(
    file: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let name = file.display().to_string();
    let done = tokio::task::spawn_blocking(move || work(&file)).await;
    done.map_err(io::Error::other)
        .and_then(|done| done)
        .map_err(|trouble| StoreError::Failed { file: name, trouble })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_found_again_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("other.p7m"), b"not kept by us").unwrap();
        let store = Store::open("pec_infected_store", directory.path()).unwrap();
        store.put_pieces("abcd", vec!["one, ".into(), "two".into()]).await.unwrap();
        assert_eq!(store.get_pieces("abcd").await.unwrap(), "one, two");
        assert_eq!(fs::read(directory.path().join("ab/abcd.p7m")).unwrap(), b"one, two");
        for id in ["abce", "../other", "..", ""] {
            let error = store.get_pieces(id).await.unwrap_err().to_string();
            assert_eq!(error, format!("the store holds no message {id}"));
        }
    }
}
