//! What is installed: which files of the node are whose, and with which digest.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::bundle::{Artifact, Mode, Unpack};
use shared::digest::Sha256Digest;
use shared::durable::{self, Attributes};
use shared::names::ReleaseNumber;

use crate::disk::DiskError;

/// Format number of this ledger.
const FORMAT: u32 = 1;

/// A file that an artifact is, or holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstalledFile {
    /// Absolute, as the index says it: without the root directory.
    pub(crate) path: String,
    pub(crate) sha256: Sha256Digest,
    pub(crate) bytes: u64,
}

/// An artifact on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Installed {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) sha256: Sha256Digest,
    pub(crate) bytes: u64,
    pub(crate) path: String,
    pub(crate) mode: Mode,
    pub(crate) unpack: Unpack,
    /// Whether all its files are in place; while it is not, `files` are those of the old and of the new one.
    pub(crate) complete: bool,
    /// The release that does not list it any more: its files go once that release is on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) orphaned_by: Option<ReleaseNumber>,
    pub(crate) files: Vec<InstalledFile>,
}

/// All that is installed, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ArtifactLedger {
    pub(crate) installed: BTreeMap<String, Installed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    /// Over the compact JSON of `installed`: no damage passes for a memory.
    sha256: Sha256Digest,
    installed: Vec<Installed>,
}

// === impl Installed ===

impl Installed {
    pub(crate) fn is(&self, wanted: &Artifact) -> bool {
        self.complete
            && self.sha256 == wanted.sha256
            && self.bytes == wanted.bytes
            && self.path == wanted.path
            && self.mode == wanted.mode
            && self.unpack == wanted.unpack
    }

    /// What was signed of it, for putting it back.
    pub(crate) fn as_artifact(&self) -> Artifact {
        Artifact {
            name: self.name.clone(),
            target: self.target.clone(),
            sha256: self.sha256,
            bytes: self.bytes,
            path: self.path.clone(),
            mode: self.mode,
            unpack: self.unpack,
            restart: None,
        }
    }
}

// === impl ArtifactLedger ===

impl ArtifactLedger {
    /// Reads the ledger; an empty one where there is none.
    ///
    /// # Errors
    /// [`DiskError::LedgerDamaged`], or [`DiskError::Io`].
    pub(crate) fn load(path: &Path) -> Result<Self, DiskError> {
        let damaged = |why: String| DiskError::LedgerDamaged {
            path: path.to_owned(),
            why,
        };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(DiskError::io("read", path)(e)),
        };
        let document: Document = serde_json::from_slice(&bytes)
            .map_err(|e| damaged(format!("is cut off or changed ({e})")))?;
        if document.format != FORMAT || digest(&document.installed) != document.sha256 {
            return Err(damaged(
                "has another format, or not its own digest".to_owned(),
            ));
        }
        let named = document.installed.into_iter().map(|i| (i.name.clone(), i));
        Ok(Self {
            installed: named.collect(),
        })
    }

    /// Puts the ledger on the disk, durably.
    ///
    /// # Errors
    /// [`DiskError::Io`]; the old one stays then.
    pub(crate) fn save(&self, path: &Path) -> Result<(), DiskError> {
        let installed: Vec<Installed> = self.installed.values().cloned().collect();
        let document = Document {
            format: FORMAT,
            sha256: digest(&installed),
            installed,
        };
        let bytes = serde_json::to_vec_pretty(&document)
            .map_err(|e| DiskError::io("encode", path)(e.into()))?;
        Ok(durable::write_file(path, &bytes, Attributes::mode(0o600))?)
    }

    /// Whose a path is.
    pub(crate) fn owner(&self, path: &str) -> Option<&Installed> {
        let owns = |i: &&Installed| i.files.iter().any(|f| f.path == path);
        self.installed.values().find(owns)
    }
}

fn digest(installed: &[Installed]) -> Sha256Digest {
    // serde_json cannot fail on this type.
    Sha256Digest::of(&serde_json::to_vec(installed).unwrap_or_default())
}

/// Where a path of the index lies below the root directory.
pub(crate) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}
