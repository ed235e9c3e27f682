//! Files that several programs read while one of them writes.
//!
//! Promise: whoever reads finds the old content or the new one, whole, also after a crash.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// By what a file is known not to have changed: device, inode, time of change in seconds and nanoseconds,
/// size.
pub type Stamp = (u64, u64, i64, i64, u64);

/// The stamp of a file with this metadata.
pub fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len())
}

/// The path of a file's companion, `what` being how its name goes on.
pub fn beside(file: &Path, what: &str) -> PathBuf {
    let mut name = file.to_owned().into_os_string();
    name.push(".");
    name.push(what);
    name.into()
}

/// Puts what `write` writes in the place of `file`, once all of it is on disk. That the name survives a crash
/// is the caller's to see to, by syncing the directory.
pub fn replace(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temporary = beside(file, "new");
    // A crash may have left one, of another user at that.
    let _ = fs::remove_file(&temporary);
    let mut new = File::create_new(&temporary)?;
    write(&mut new)?;
    new.sync_all()?;
    fs::rename(&temporary, file)
}
