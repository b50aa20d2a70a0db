//! What has to be done, decided without touching anything.

use shared::check::manifest::PodSummary;
use shared::names::{EntryPath, ReleaseNumber};

use super::check::Wanted;
use super::error::Obstacle;
use super::ledger::Ledger;
use super::observe::Observed;
use super::paths::{OwnedPath, SecretDirectory};

/// A manifest whose pod must have ended before others are written: they take over its name or a host port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeOver {
    /// The manifest to remove first. It may be among those written afterwards.
    pub path: OwnedPath,
    /// The pod that ends.
    pub pod: PodSummary,
}

/// The way from what is on the disk to a release. The order of the fields is the order of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The release.
    pub release: ReleaseNumber,
    /// Secret directories to make or to mend.
    pub create_secret_directories: Vec<SecretDirectory>,
    /// Host files, addons and the agent's own to write, in the order of the index.
    pub write_host: Vec<EntryPath>,
    /// Manifests to remove, and pods to wait for, before any manifest is written.
    pub take_over: Vec<TakeOver>,
    /// Manifests to write, in the order of the index.
    pub write_manifests: Vec<EntryPath>,
    /// Files to remove: owned, and absent from the signed release.
    pub remove_files: Vec<OwnedPath>,
    /// Secret directories that no manifest will name any more.
    pub remove_secret_directories: Vec<SecretDirectory>,
    /// Files that are already as they have to be.
    pub unchanged: Vec<OwnedPath>,
}

impl Plan {
    /// Whether the disk already holds the release (the ledger may still name another).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.create_secret_directories.is_empty()
            && self.write_host.is_empty()
            && self.take_over.is_empty()
            && self.write_manifests.is_empty()
            && self.remove_files.is_empty()
            && self.remove_secret_directories.is_empty()
    }
}

/// Plans.
pub(crate) fn plan(
    _ledger: &Ledger,
    _observed: &Observed,
    _wanted: &Wanted,
) -> Result<Plan, Vec<Obstacle>> {
    todo!()
}
