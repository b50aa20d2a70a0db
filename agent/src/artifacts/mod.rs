//! Artifacts: large public files that a node needs before its pods can run (kubelet, CNI plugins).
//!
//! First all that are missing are *staged*: streamed to a temporary in the destination's file system, of exactly the
//! signed length and digest, never in memory. Then what each would write is looked at, and only then anything is *placed*,
//! by a rename a file. The ledger names both the old and the new files meanwhile, so that a crash loses none. What a newer
//! release does not list any more is removed once that release is on the disk.

mod ledger;
mod place;
mod stage;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use shared::artifact::ArchiveError;
use shared::bundle::{Artifact, Unpack};
use shared::durable::{self, DurableError};
use shared::store::StoreError;
use shared::trust::ArtifactTarget;

use crate::disk::DiskError;
use ledger::{ArtifactLedger, InstalledFile};

pub use stage::Staging;
pub(crate) use stage::{is_signed, stream_to};

/// Where artifacts may go, if the configuration does not say.
pub const DEFAULT_DIRECTORIES: [&str; 2] = ["/opt/bin", "/opt/cni/bin"];

/// The steps at which a test can stop the process.
pub const FAIL_POINTS: &[&str] = &[
    "artifacts::staged",
    "artifacts::ledger.before",
    "artifacts::file.before",
    "artifacts::file.after",
    "artifacts::complete.before",
    "artifacts::complete.after",
    "artifacts::settle.file",
];

/// The node's artifacts.
#[derive(Debug)]
pub struct Artifacts {
    root: PathBuf,
    allowed: Vec<PathBuf>,
    ledger_path: PathBuf,
    ledger: ArtifactLedger,
    /// Those whose files are not as they were installed.
    drifted: BTreeSet<String>,
    fingerprints: watch::Fingerprints,
    staged: Vec<Staged>,
}

/// An artifact whose bytes are on this node, verified, and not in their place yet.
#[derive(Debug, Clone)]
struct Staged {
    artifact: Artifact,
    at: PathBuf,
    /// What placing it writes.
    files: Vec<InstalledFile>,
}

/// An artifact that is not installed.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The store did not give it.
    #[error("cannot fetch artifact {name}")]
    Store {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// It did not come within its deadline.
    #[error("artifact {name} did not come within {seconds} seconds")]
    Deadline {
        /// Which.
        name: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The bytes are not the signed ones.
    #[error("artifact {name} is not the signed one: {what}")]
    NotTheSigned {
        /// Which.
        name: String,
        /// How they differ.
        what: String,
    },
    /// It is an archive that no node takes.
    #[error("artifact {name} cannot be unpacked")]
    Archive {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: ArchiveError,
    },
    /// Two artifacts want the same file.
    #[error("artifacts {name} and {other} both have {path}")]
    Shared {
        /// One.
        name: String,
        /// The other.
        other: String,
        /// The file.
        path: String,
    },
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a release's artifacts are refused before anything is fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactProblem {
    /// The signed targets do not list it so.
    #[error("artifact {name}: the signed targets do not list {target} with that digest and length")]
    NotListed {
        /// Which.
        name: String,
        /// Its target.
        target: String,
    },
    /// Its destination is outside of the directories allowed.
    #[error("artifact {name}: {path} is not below one of artifact_directories ({allowed})")]
    Place {
        /// Which.
        name: String,
        /// Where it would go.
        path: String,
        /// Where it may go.
        allowed: String,
    },
}

// === impl ArtifactError ===

impl ArtifactError {
    /// A word for metrics and status.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Store { source, .. } => source.kind.label(),
            Self::Deadline { .. } => "timeout",
            Self::NotTheSigned { .. } => "mismatch",
            Self::Archive { source, .. } => match source {
                ArchiveError::File { source, .. } => durable::io_kind(source),
                _ => "artifact",
            },
            Self::Shared { .. } => "artifact",
            Self::Disk(error) => error.kind(),
        }
    }

    /// Whether it may pass without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store { source, .. } => source.kind.is_transient(),
            Self::Deadline { .. } => true,
            _ => false,
        }
    }

    /// Whether the same signed artifact would fail in the same way again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Archive { source, .. } => !matches!(source, ArchiveError::File { .. }),
            Self::Shared { .. } => true,
            _ => false,
        }
    }
}

impl From<DurableError> for ArtifactError {
    fn from(error: DurableError) -> Self {
        Self::Disk(error.into())
    }
}

// === impl Artifacts ===

impl Artifacts {
    /// The artifacts of a node whose file system begins at `root`, remembered in `state`; they may go below `allowed`.
    /// What a killed process left half-fetched is removed.
    ///
    /// # Errors
    /// A [`DiskError`] where the ledger is damaged, or a directory cannot be swept.
    pub fn open(root: &Path, state: &Path, allowed: Vec<PathBuf>) -> Result<Self, DiskError> {
        let ledger_path = state.join("artifacts.json");
        for directory in &allowed {
            durable::sweep_temporaries(
                &root.join(directory.strip_prefix("/").unwrap_or(directory)),
            )?;
        }
        Ok(Self {
            root: root.to_owned(),
            allowed,
            ledger: ArtifactLedger::load(&ledger_path)?,
            ledger_path,
            drifted: BTreeSet::new(),
            fingerprints: watch::Fingerprints::new(),
            staged: Vec::new(),
        })
    }

    /// Everything that keeps these artifacts from being installed here, as far as their signed description tells.
    #[must_use]
    pub fn problems(&self, wanted: &[Artifact], signed: &[ArtifactTarget]) -> Vec<ArtifactProblem> {
        let mut problems = Vec::new();
        for artifact in wanted {
            let listed = signed.iter().any(|t| {
                t.name == artifact.target
                    && t.length == artifact.bytes
                    && t.sha256 == artifact.sha256
            });
            if !listed {
                problems.push(ArtifactProblem::NotListed {
                    name: artifact.name.clone(),
                    target: artifact.target.clone(),
                });
            }
            if !self.may_go_to(artifact) {
                let allowed = self.allowed.iter().map(|d| d.display().to_string());
                problems.push(ArtifactProblem::Place {
                    name: artifact.name.clone(),
                    path: artifact.path.clone(),
                    allowed: allowed.collect::<Vec<_>>().join(", "),
                });
            }
        }
        problems
    }

    fn may_go_to(&self, artifact: &Artifact) -> bool {
        let path = Path::new(&artifact.path);
        // A file lies below a directory; an archive's files lie below its path, which may be the directory itself.
        self.allowed.iter().any(|directory| {
            path.starts_with(directory)
                && (path != directory.as_path() || artifact.unpack == Unpack::TarZst)
        })
    }

    /// Those of `wanted` that are not on this node as they have to be.
    #[must_use]
    pub fn missing(&self, wanted: &[Artifact]) -> Vec<Artifact> {
        let there = |a: &&Artifact| {
            let installed = self.ledger.installed.get(&a.name);
            installed.is_some_and(|i| i.is(a)) && !self.drifted.contains(&a.name)
        };
        wanted.iter().filter(|a| !there(a)).cloned().collect()
    }

    /// Installed artifacts whose files somebody changed or removed, to be put back.
    #[must_use]
    pub fn drifted(&self) -> Vec<Artifact> {
        let installed = self
            .drifted
            .iter()
            .filter_map(|n| self.ledger.installed.get(n));
        installed
            .filter(|i| i.complete && i.orphaned_by.is_none())
            .map(ledger::Installed::as_artifact)
            .collect()
    }

    /// How many are installed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ledger.installed.len()
    }

    /// Where an artifact is staged: beside its place, so that a rename is all that is left.
    fn directory_of(&self, artifact: &Artifact) -> PathBuf {
        let path = ledger::below(&self.root, &artifact.path);
        match artifact.unpack {
            Unpack::TarZst => path,
            Unpack::None => path
                .parent()
                .map_or_else(|| self.root.clone(), Path::to_owned),
        }
    }
}

#[cfg(test)]
mod tests;
