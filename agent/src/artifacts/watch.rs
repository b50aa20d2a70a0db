//! Whether installed files are still as they were installed: by digest at the start, and whenever a cheap look at
//! inode, size, times and mode says that something happened.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use shared::digest::Sha256Writer;

use super::Artifacts;
use super::ledger::{Installed, InstalledFile, below};
use crate::disk::DiskError;

/// What a look that reads no file sees of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    mode: u32,
}

/// By the path of the index.
pub(super) type Fingerprints = BTreeMap<String, Fingerprint>;

fn fingerprint(at: &Path) -> Result<Option<Fingerprint>, DiskError> {
    match fs::symlink_metadata(at) {
        Ok(m) if m.is_file() => Ok(Some(Fingerprint {
            inode: m.ino(),
            size: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
            mode: m.mode() & 0o7777,
        })),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(None),
        Err(e) => Err(DiskError::io("look at", at)(e)),
    }
}

impl Artifacts {
    /// Looks at every file that is not as it was at the last look, and gives whether any artifact has drifted. The first
    /// call reads all of them.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn verify(&mut self) -> Result<bool, DiskError> {
        let complete = self.ledger.installed.values().filter(|i| i.complete);
        let installed: Vec<Installed> = complete.cloned().collect();
        for installed in &installed {
            let mut is_right = true;
            for file in &installed.files {
                is_right &= self.is_right(installed, file)?;
            }
            if is_right {
                self.drifted.remove(&installed.name);
            } else if self.drifted.insert(installed.name.clone()) {
                tracing::warn!(
                    artifact = installed.name,
                    "not as it was installed: it is fetched again"
                );
            }
        }
        Ok(!self.drifted.is_empty())
    }

    fn is_right(&mut self, installed: &Installed, file: &InstalledFile) -> Result<bool, DiskError> {
        let at = below(&self.root, &file.path);
        let seen = fingerprint(&at)?;
        if seen.is_some() && self.fingerprints.get(&file.path) == seen.as_ref() {
            return Ok(true);
        }
        self.fingerprints.remove(&file.path);
        let Some(seen) = seen else {
            return Ok(false);
        };
        if seen.size != file.bytes || seen.mode != installed.mode.bits() {
            return Ok(false);
        }
        let read = File::open(&at).and_then(Sha256Writer::of_reader);
        let is_right = read.map_err(DiskError::io("read", &at))? == (file.sha256, file.bytes);
        if is_right {
            self.fingerprints.insert(file.path.clone(), seen);
        }
        Ok(is_right)
    }

    /// Remembers the files of an artifact that was just placed, without reading them again.
    pub(super) fn remember(&mut self, name: &str) {
        let files = self.ledger.installed.get(name).map(|i| i.files.clone());
        for file in files.unwrap_or_default() {
            if let Ok(Some(seen)) = fingerprint(&below(&self.root, &file.path)) {
                self.fingerprints.insert(file.path, seen);
            }
        }
    }
}
