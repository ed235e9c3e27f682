//! Files that several programs read while one of them writes, and that must outlive a crash.
//!
//! Promise: whoever reads finds the old content or the new one, whole, also after a crash. What is said to be
//! written is on disk, content and name: the content is synced before the file has its name, the directory
//! after. A crash leaves at most `FILE.new`, which nobody reads and the next writer removes. One writes a
//! file at a time; where several may, they hold a lock of their own.
//!
//! Ours: crates that replace a file sync no directory, or nothing can be done between content and name, or
//! each file costs a sync of its directory.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
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

/// The mode of a file for everybody, as far as the process's umask lets it be.
const FOR_ALL: u32 = 0o666;

/// Puts what `write` writes in the place of `file`.
pub fn replace(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut alone = Together::default();
    alone.replace(file, write)?;
    alone.sync()
}

/// The same for a secret: nobody else can open it, from the first moment on; `write` may let others.
pub fn replace_secret(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut alone = Together::default();
    alone.put(Draft::of_mode(file, 0o600)?, write)?;
    alone.sync()
}

/// Writes a file of this mode where nothing may lie: what does is left alone, and that is an error before
/// anything is written. The file is there while it is being written, with this mode from the first moment on;
/// a crash may leave a part of it.
pub fn create(file: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut new = File::options().write(true).create_new(true).mode(mode).open(file)?;
    let written = write(&mut new).and_then(|()| new.sync_all());
    written.inspect_err(|_| {
        let _ = fs::remove_file(file);
    })?;
    sync_above(file)
}

/// Makes a directory, and those above it that are missing, of this mode.
pub fn make_directory(directory: &Path, mode: u32) -> io::Result<()> {
    let mut alone = Together::default();
    alone.make_directory(directory, mode)?;
    alone.sync()
}

/// Files that are written one after the other: a directory is synced once for all that lie in it. Every
/// content is on disk at once; the names are after [`Together::sync`], and until then in no order.
#[derive(Debug, Default)]
pub struct Together {
    /// Those whose entries have changed.
    directories: BTreeSet<PathBuf>,
}

impl Together {
    /// As [`replace`].
    pub fn replace(
        &mut self,
        file: &Path,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.put(Draft::of(file)?, write)
    }

    fn put(&mut self, mut draft: Draft, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let written = write(&mut draft.content).and_then(|()| draft.take_name());
        if written.is_err() {
            let _ = fs::remove_file(beside(&draft.file, "new"));
        }
        written?;
        self.directories.insert(above(&draft.file).to_owned());
        Ok(())
    }

    /// As [`make_directory`].
    pub fn make_directory(&mut self, directory: &Path, mode: u32) -> io::Result<()> {
        if directory.is_dir() {
            return Ok(());
        }
        let above = above(directory);
        self.make_directory(above, mode)?;
        match DirBuilder::new().mode(mode).create(directory) {
            // Somebody else was quicker, and may not have come to its sync.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            made => made?,
        }
        self.directories.insert(above.to_owned());
        Ok(())
    }

    /// Now everything is there after a crash, too.
    pub fn sync(self) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| File::open(directory)?.sync_all())
    }
}

/// A file whose content comes before the decision that it is one: it has its name with [`Draft::publish`].
#[derive(Debug)]
pub struct Draft {
    file: PathBuf,
    content: File,
}

impl Draft {
    /// An empty one, for the place of `file`.
    pub fn of(file: &Path) -> io::Result<Self> {
        Self::of_mode(file, FOR_ALL)
    }

    fn of_mode(file: &Path, mode: u32) -> io::Result<Self> {
        let temporary = beside(file, "new");
        // A crash may have left one, of another user at that.
        let _ = fs::remove_file(&temporary);
        let content = File::options().write(true).create_new(true).mode(mode).open(temporary)?;
        Ok(Self { file: file.to_owned(), content })
    }

    /// Everything that was written is on disk.
    pub fn sync(&self) -> io::Result<()> {
        self.content.sync_all()
    }

    /// It takes the place of what is there.
    pub fn publish(self) -> io::Result<()> {
        self.take_name()?;
        sync_above(&self.file)
    }

    fn take_name(&self) -> io::Result<()> {
        self.sync()?;
        fs::rename(beside(&self.file, "new"), &self.file)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.content.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.content.flush()
    }
}

/// The name of a file is on disk.
fn sync_above(file: &Path) -> io::Result<()> {
    File::open(above(file))?.sync_all()
}

/// The directory in which a file lies.
fn above(file: &Path) -> &Path {
    file.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let fails = |new: &mut File| {
            new.write_all(b"half")?;
            Err(io::Error::other("no more"))
        };
        assert_eq!(create(&file, 0o600, fails).unwrap_err().to_string(), "no more");
        assert!(!file.exists());
        create(&file, 0o600, |new| new.write_all(b"first")).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(replace(&file, fails).unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&file).unwrap(), b"first");
        // What a crash has left is in nobody's way.
        fs::write(beside(&file, "new"), b"half").unwrap();
        replace(&file, |new| new.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"second");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_created_takes_no_other_file_s_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"theirs").unwrap();
        let error = create(&file, 0o600, |_| panic!("nothing is written")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"theirs");
    }

    #[test]
    fn a_draft_is_no_file_before_it_is_published() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a/b/file");
        make_directory(file.parent().unwrap(), 0o700).unwrap();
        make_directory(file.parent().unwrap(), 0o700).unwrap();
        assert_eq!(fs::metadata(directory.path().join("a")).unwrap().mode() & 0o777, 0o700);
        let mut draft = Draft::of(&file).unwrap();
        draft.write_all(b"all of it").unwrap();
        draft.sync().unwrap();
        assert!(!file.exists());
        draft.publish().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"all of it");
    }

    #[test]
    fn a_file_without_a_directory_lies_in_this_one() {
        assert_eq!(above(Path::new("file")), Path::new("."));
        assert_eq!(above(Path::new("/a/file")), Path::new("/a"));
    }
}
