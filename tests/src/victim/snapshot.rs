//! What lies below a directory, so that a write is seen even where it changed nothing or was taken back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// All that is below a directory: what each file is, holds and when it was last changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, Seen>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    mode: u32,
    inode: u64,
    modified: (i64, i64),
    content: Vec<u8>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Looks at everything below a directory. A directory's time of change is part of it, so that a file that came and
    /// went is seen too.
    ///
    /// # Errors
    /// Something can't be read.
    pub fn take(directory: &Path) -> io::Result<Self> {
        let mut seen = BTreeMap::new();
        look(directory, &mut seen)?;
        Ok(Self(seen))
    }

    /// The paths at which two differ.
    #[must_use]
    pub fn changes(&self, other: &Self) -> Vec<PathBuf> {
        let paths = self.0.keys().chain(other.0.keys());
        let mut changed: Vec<PathBuf> = paths
            .filter(|path| self.0.get(*path) != other.0.get(*path))
            .cloned()
            .collect();
        changed.sort();
        changed.dedup();
        changed
    }
}

fn look(path: &Path, seen: &mut BTreeMap<PathBuf, Seen>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let content = if metadata.is_symlink() {
        fs::read_link(path)?.as_os_str().as_bytes().to_vec()
    } else if metadata.is_file() {
        fs::read(path)?
    } else {
        Vec::new()
    };
    seen.insert(
        path.to_owned(),
        Seen {
            mode: metadata.mode(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            content,
        },
    );
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            look(&entry?.path(), seen)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_that_came_and_went_or_was_written_again_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/a"), "a").unwrap();
        let before = Snapshot::take(directory.path()).unwrap();
        assert_eq!(before, Snapshot::take(directory.path()).unwrap());
        // A clock tick of the file system later.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(at("d/b"), "").unwrap();
        fs::remove_file(at("d/b")).unwrap();
        let came_and_went = Snapshot::take(directory.path()).unwrap();
        assert_eq!(before.changes(&came_and_went), [at("d")]);
        std::thread::sleep(Duration::from_millis(20));
        fs::write(at("d/a"), "a").unwrap();
        let again = Snapshot::take(directory.path()).unwrap();
        assert_eq!(came_and_went.changes(&again), [at("d/a")]);
    }
}
