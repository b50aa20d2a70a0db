//! The release: a table and bytes that agree with it (§3.1).

use std::collections::{BTreeMap, BTreeSet};

use super::file::FileEntry;
use super::index::{Index, IndexProblem};
use crate::check::secret_dir::Attributes;
use crate::digest::Sha256Digest;
use crate::names::{EntryPath, Place};
use crate::secret::SecretBytes;

/// An index and the bytes of all its files, in agreement. Only [`Release::new`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    index: Index,
    contents: BTreeMap<EntryPath, SecretBytes>,
}

// === impl Release ===

impl Release {
    /// Joins an index and its files.
    ///
    /// # Errors
    /// Everything in which the two disagree, or in which the index breaks a limit.
    pub fn new(
        index: Index,
        contents: BTreeMap<EntryPath, SecretBytes>,
    ) -> Result<Self, Vec<IndexProblem>> {
        let mut problems = index.problems();
        for file in &index.files {
            match contents.get(&file.path) {
                None => problems.push(IndexProblem::Missing(file.path.clone())),
                Some(bytes) => {
                    let same = bytes.len() as u64 == file.bytes
                        && Sha256Digest::of(bytes.expose()) == file.sha256;
                    if !same {
                        problems.push(IndexProblem::Digest(file.path.clone()));
                    }
                }
            }
        }
        let listed: BTreeSet<&EntryPath> = index.files.iter().map(|f| &f.path).collect();
        for path in contents.keys() {
            if !listed.contains(path) {
                problems.push(IndexProblem::Unlisted(path.clone()));
            }
        }
        if problems.is_empty() {
            Ok(Self { index, contents })
        } else {
            Err(problems)
        }
    }

    /// The table.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The bytes of one file.
    #[must_use]
    pub fn bytes(&self, path: &EntryPath) -> Option<&SecretBytes> {
        self.contents.get(path)
    }

    /// Every file with its bytes, in the order of writing.
    pub fn files(&self) -> impl Iterator<Item = (&FileEntry, &SecretBytes)> {
        self.index
            .files
            .iter()
            .filter_map(|f| Some((f, self.contents.get(&f.path)?)))
    }

    /// The files of each pod's secret directory: pod → file name → (mode and owner, bytes).
    #[must_use]
    pub fn secret_directories(&self) -> BTreeMap<&str, BTreeMap<&str, (Attributes, &[u8])>> {
        let mut pods: BTreeMap<&str, BTreeMap<&str, (Attributes, &[u8])>> = BTreeMap::new();
        for (entry, bytes) in self.files() {
            if let Place::Secret { pod, name } = entry.path.place() {
                pods.entry(pod)
                    .or_default()
                    .insert(name, (entry.attributes(), bytes.expose()));
            }
        }
        pods
    }
}
