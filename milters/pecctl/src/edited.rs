//! A file that is changed while programs read it.
//!
//! Promise: it changes as a whole or not at all, keeps its owner, and survives a crash as it was or as it is
//! to be. Of two who change it this way one waits for the other.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use pec_host::files::replace_secret;
use rustix::fs::{FlockOperation, flock};

/// A file that nobody else changes meanwhile.
#[derive(Debug)]
pub(crate) struct Edited {
    path: PathBuf,
    file: File,
    /// What it says.
    pub(crate) text: String,
}

impl Edited {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        loop {
            let file = File::open(path).with_context(|| path.display().to_string())?;
            flock(&file, FlockOperation::LockExclusive).with_context(|| path.display().to_string())?;
            // Somebody may have put another one in its place meanwhile.
            if fs::metadata(path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino())) {
                let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
                return Ok(Self { path: path.to_owned(), file, text });
            }
        }
    }

    /// It says this from now on. `mode`: another one than it has.
    pub(crate) fn write(&self, text: &str, mode: Option<u32>) -> anyhow::Result<()> {
        let of = self.file.metadata()?;
        // Nobody else's to read before it has its owner.
        let written = replace_secret(&self.path, |new| {
            new.write_all(text.as_bytes())?;
            fchown(&*new, Some(of.uid()), Some(of.gid()))?;
            new.set_permissions(mode.map_or_else(|| of.permissions(), fs::Permissions::from_mode))?;
            // Dovecot looks at the time in seconds, and at the size: two changes within one second must
            // differ in the first.
            let after = of.modified()? + Duration::from_secs(1);
            if new.metadata()?.modified()? < after {
                new.set_modified(after)?;
            }
            Ok(())
        });
        written.with_context(|| self.path.display().to_string())
    }
}
