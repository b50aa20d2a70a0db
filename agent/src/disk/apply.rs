//! Carrying a plan out, so that a crash between any two steps is finished later.

use shared::digest::Sha256Digest;
use shared::names::ReleaseNumber;

use super::Disk;
use super::check::CheckedRelease;
use super::error::DiskError;
use super::plan::Plan;

/// The names of the fail points, in the order in which they are passed.
pub const FAIL_POINTS: &[&str] = &[];

/// What became of one file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written.
    Written,
    /// Removed.
    Removed,
    /// Already right.
    Unchanged,
    /// Its pod was to end first, and did not in time; the work went on.
    PodStillThere,
}

/// One file's or directory's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOutcome {
    /// Relative to `/etc/kubernetes`.
    pub path: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What applying did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyReport {
    /// The release that is now committed.
    pub release: ReleaseNumber,
    /// Every file, in the order of the work.
    pub files: Vec<FileOutcome>,
}

impl ApplyReport {
    /// How many files and directories had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.files.iter().filter(|f| f.outcome == outcome).count()
    }
}

impl Disk {
    /// Carries `plan` out and commits the release. On an error everything already done stays, the ledger says what is
    /// being applied, and either [`Disk::recover`] or applying again (this release or a newer one) finishes it.
    ///
    /// # Errors
    /// [`DiskError`] of the step that failed.
    pub fn apply(
        &mut self,
        _checked: &CheckedRelease,
        _bundle_sha256: Sha256Digest,
        _plan: &Plan,
    ) -> Result<ApplyReport, DiskError> {
        todo!()
    }
}

pub(crate) fn fail_point(_name: &'static str) -> Result<(), DiskError> {
    Ok(())
}
