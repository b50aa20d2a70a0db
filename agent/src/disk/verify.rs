//! Comparing the disk with the ledger.

use shared::names::ReleaseNumber;

use super::Disk;
use super::error::DiskError;
use super::paths::NodePaths;

/// How something differs from the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftKind {
    /// It is gone.
    Missing,
    /// Its bytes are others.
    Content,
    /// Its permission bits are others.
    Mode,
    /// Its owner is another.
    Owner,
    /// It is no regular file, or no directory.
    Kind,
    /// It is in a secret directory and does not belong there.
    Extra,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Relative to `/etc/kubernetes` (`agent/…` for the agent's own files).
    pub path: String,
    /// In which way it differs.
    pub kind: DriftKind,
}

/// The disk beside the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The committed release.
    pub release: Option<ReleaseNumber>,
    /// A release that is being applied: files of both may be there.
    pub applying: Option<ReleaseNumber>,
    /// How many files were looked at.
    pub files: usize,
    /// Everything that differs.
    pub drift: Vec<Drift>,
    /// Whether the verified copy is there and whole, so that drift can be repaired without the network.
    pub copy_intact: bool,
    /// Files in the manifest directory that are not the agent's: kubelet runs them too.
    pub foreign: Vec<String>,
}

impl Verification {
    /// Whether every owned file is as the ledger has it, and no release is half applied.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.drift.is_empty() && self.applying.is_none()
    }
}

impl Disk {
    /// Compares every owned file with the ledger: bytes, mode and owner.
    ///
    /// # Errors
    /// [`DiskError::Io`] where reading failed.
    pub fn verify(&self) -> Result<Verification, DiskError> {
        todo!()
    }

    /// Whether all is as recorded, by inode, size, times, mode and owner of each file only, once a full comparison was
    /// clean. Writes nothing.
    ///
    /// # Errors
    /// As [`Disk::verify`].
    pub fn verify_cheaply(&mut self) -> Result<bool, DiskError> {
        todo!()
    }

    /// Files in the manifest directory that are not the agent's.
    ///
    /// # Errors
    /// [`DiskError::Io`] where the directory can't be listed.
    pub fn foreign(&self) -> Result<Vec<String>, DiskError> {
        todo!()
    }
}

/// As [`Disk::verify`], without the lock: for a person beside a running agent.
///
/// # Errors
/// [`DiskError::LedgerDamaged`], or [`DiskError::Io`] where reading failed.
pub fn verify_offline(_paths: &NodePaths) -> Result<Verification, DiskError> {
    todo!()
}
