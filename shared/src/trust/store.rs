//! The metadata that was verified, kept byte for byte as received, under unversioned names (§4.1).

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use crate::durable::{self, Attributes, DurableError, Staged};
use crate::limits;

/// The file of the newest verified root.
pub(super) const ROOT: &str = "root.json";
/// The roles whose last verified documents are kept against rollback.
pub(super) const REMEMBERED: [&str; 3] = ["timestamp.json", "snapshot.json", "targets.json"];

/// A directory with the newest verified root, timestamp, snapshot and targets, and nothing else.
#[derive(Debug, Clone)]
pub struct TrustStore {
    directory: PathBuf,
}

/// The directory cannot be used; nothing is trusted from it then, since forgetting is what a rollback wants.
#[derive(Debug, thiserror::Error)]
pub enum TrustStoreError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A file is cut off or damaged.
    #[error(
        "{path} is damaged; if this machine's disk is to be trusted, remove the directory {directory} to begin again \
         from the root that came with the machine"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The directory to remove.
        directory: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The root is gone, and what it vouched for is there.
    #[error(
        "{root} is missing although {beside} is there: it was taken away, and with it every key rotation so far; if this \
         machine's disk is to be trusted, remove the directory {directory} to begin again from the root that came with the \
         machine"
    )]
    RootLost {
        /// The root's file.
        root: PathBuf,
        /// The name of a document that was verified under it.
        beside: &'static str,
        /// The directory to remove.
        directory: PathBuf,
    },
    /// There is no root, and none was given.
    #[error("there is no trusted root in {0}")]
    NoRoot(PathBuf),
    /// A file cannot be written.
    #[error("cannot keep verified metadata")]
    Write(#[source] DurableError),
}

impl TrustStore {
    /// Opens the directory, making it and putting `baked_root` there where it has nothing yet (§4.1).
    ///
    /// # Errors
    /// [`TrustStoreError`]. A baked root that does not parse is [`TrustStoreError::Damaged`].
    pub fn open(directory: &Path, baked_root: &[u8]) -> Result<Self, TrustStoreError> {
        let store = Self {
            directory: directory.to_owned(),
        };
        std::fs::create_dir_all(directory).map_err(|source| TrustStoreError::Read {
            path: directory.to_owned(),
            source,
        })?;
        durable::sweep_temporaries(directory).map_err(TrustStoreError::Write)?;
        if store.read(ROOT)?.is_none() {
            // The root is always the first to be written and never removed: without it, these were not left by us.
            for beside in REMEMBERED {
                if store.read(beside)?.is_some() {
                    return Err(TrustStoreError::RootLost {
                        root: directory.join(ROOT),
                        beside,
                        directory: directory.to_owned(),
                    });
                }
            }
            store.parse(ROOT, baked_root)?;
            store.replace(ROOT, baked_root)?;
        }
        Ok(store)
    }

    /// Opens a directory that has a root already.
    ///
    /// # Errors
    /// [`TrustStoreError`].
    pub fn open_existing(directory: &Path) -> Result<Self, TrustStoreError> {
        let store = Self {
            directory: directory.to_owned(),
        };
        match store.read(ROOT)? {
            Some(_) => Ok(store),
            None => Err(TrustStoreError::NoRoot(directory.to_owned())),
        }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A stored document, checked to be whole JSON; none where it is not there.
    ///
    /// # Errors
    /// [`TrustStoreError`]; tough would take a damaged document for an absent one and forget its version.
    pub fn document(&self, name: &str) -> Result<Option<Vec<u8>>, TrustStoreError> {
        match self.read(name)? {
            None => Ok(None),
            Some(bytes) => {
                self.parse(name, &bytes)?;
                Ok(Some(bytes))
            }
        }
    }

    /// The newest verified root.
    ///
    /// # Errors
    /// [`TrustStoreError`].
    pub fn root(&self) -> Result<Vec<u8>, TrustStoreError> {
        self.document(ROOT)?
            .ok_or_else(|| TrustStoreError::NoRoot(self.directory.clone()))
    }

    /// The version of a stored document, if it is there.
    ///
    /// # Errors
    /// [`TrustStoreError`].
    pub fn version(&self, name: &str) -> Result<Option<u64>, TrustStoreError> {
        Ok(self.document(name)?.and_then(|b| document_version(&b)))
    }

    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), TrustStoreError> {
        durable::write_file(&self.directory.join(name), bytes, Attributes::mode(0o644))
            .map_err(TrustStoreError::Write)
    }

    /// Replaces documents, in this order.
    pub(super) fn replace_all(&self, documents: &[(&str, Bytes)]) -> Result<(), TrustStoreError> {
        if documents.is_empty() {
            return Ok(());
        }
        let write = || -> Result<(), DurableError> {
            let mode = Attributes::mode(0o644);
            let staged = documents
                .iter()
                .map(|(name, bytes)| Staged::new(&self.directory.join(name), bytes, mode))
                .collect::<Result<Vec<_>, _>>()?;
            staged.iter().try_for_each(Staged::sync)?;
            staged.into_iter().try_for_each(Staged::publish)?;
            durable::sync_directory(&self.directory)
        };
        write().map_err(TrustStoreError::Write)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), TrustStoreError> {
        durable::remove_file(&self.directory.join(name)).map_err(TrustStoreError::Write)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, TrustStoreError> {
        let path = self.directory.join(name);
        let failed = |source| TrustStoreError::Read {
            path: path.clone(),
            source,
        };
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
            Ok(m) if m.len() > limits::TARGETS_BYTES => {
                return Err(failed(io::Error::other(
                    "it is longer than metadata may be",
                )));
            }
            Ok(_) => {}
        }
        std::fs::read(&path).map(Some).map_err(failed)
    }

    fn parse(&self, name: &str, bytes: &[u8]) -> Result<(), TrustStoreError> {
        serde_json::from_slice::<Value>(bytes)
            .map(drop)
            .map_err(|source| TrustStoreError::Damaged {
                path: self.directory.join(name),
                directory: self.directory.clone(),
                source,
            })
    }
}

/// The `signed.version` of a TUF document.
pub(super) fn document_version(bytes: &[u8]) -> Option<u64> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    value.get("signed")?.get("version")?.as_u64()
}
