//! Carrying a plan out, so that a crash between any two steps is finished later.
//!
//! The order: the verified copy, the ledger with all that old and new own, secret directories, host files, take-overs,
//! manifests, removals, the ledger with the new only. From the second step on [`Disk::recover`] finishes the release by
//! itself; before it nothing that anyone reads has changed. Host files and manifests are all on the disk beside their
//! places before the first of them is put there or taken away: a disk that is full is found out in time. What no
//! manifest names any more goes much later ([`Disk::clean`]).

use shared::digest::Sha256Digest;
use shared::names::ReleaseNumber;

use super::Disk;
use super::check::CheckedRelease;
use super::copy;
use super::error::DiskError;
use super::ledger::Committed;
use super::plan::Plan;
use super::work::{FileOutcome, HOST_STEPS, MANIFEST_STEPS, Outcome, Work};

/// The names of the fail points, in the order in which they are passed; those of single files once a file.
pub const FAIL_POINTS: &[&str] = &[
    "apply::copy.before",
    "apply::copy.after",
    "apply::ledger.before",
    "apply::ledger.after",
    "apply::secret-directory.before",
    "apply::secret-directory.filled",
    "apply::secret-directory.after",
    "apply::host.staged",
    "apply::manifest.staged",
    "apply::host.before",
    "apply::host.after",
    "apply::take-over.before",
    "apply::take-over.removed",
    "apply::take-over.after",
    "apply::manifest.before",
    "apply::manifest.after",
    "apply::remove.before",
    "apply::remove.after",
    "apply::commit.before",
    "apply::commit.after",
    "clean::before",
    "clean::directory",
    "clean::after",
];

/// What applying did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyReport {
    /// The release that is now committed.
    pub release: ReleaseNumber,
    /// Every file, in the order of the work; unchanged ones last.
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
        checked: &CheckedRelease,
        bundle_sha256: Sha256Digest,
        plan: &Plan,
    ) -> Result<ApplyReport, DiskError> {
        self.apply_while(checked, bundle_sha256, plan, &|| true)
    }

    /// As [`Disk::apply`], as long as it may go on: that is asked before each change, since pods may take minutes to end in
    /// between.
    ///
    /// # Errors
    /// [`DiskError::OutOfTime`] where it may not; else as [`Disk::apply`].
    pub fn apply_while(
        &mut self,
        checked: &CheckedRelease,
        bundle_sha256: Sha256Digest,
        plan: &Plan,
        may_write: &dyn Fn() -> bool,
    ) -> Result<ApplyReport, DiskError> {
        let release = checked.number();
        if plan.release != release {
            return Err(DiskError::StalePlan {
                plan: plan.release,
                release,
            });
        }
        let is_same = |c: &Committed| c.release == release && c.bundle_sha256 != bundle_sha256;
        if self.ledger.release.as_ref().is_some_and(is_same) {
            return Err(DiskError::Equivocation { release });
        }
        (self.at_step)("apply::copy.before")?;
        let copy_sha256 = copy::write(&self.paths, checked.release())?;
        (self.at_step)("apply::copy.after")?;
        let to = Committed {
            release,
            bundle_sha256,
            copy_sha256,
        };
        self.carry_out(checked, to, plan, may_write)
    }

    /// As [`Disk::apply`], for a release whose copy is there.
    pub(crate) fn carry_out(
        &mut self,
        checked: &CheckedRelease,
        to: Committed,
        plan: &Plan,
        may_write: &dyn Fn() -> bool,
    ) -> Result<ApplyReport, DiskError> {
        self.fingerprints = None;
        (self.at_step)("apply::ledger.before")?;
        // Without a change of the disk there is no state between the two releases.
        if !plan.is_empty() {
            let applying = self.ledger.applying(to, checked.wanted());
            applying.save(&self.paths)?;
            self.ledger = applying;
        }
        (self.at_step)("apply::ledger.after")?;
        let mut files = self.change(checked, plan, may_write)?;
        (self.at_step)("apply::commit.before")?;
        // §6.7: the new files only.
        let committed = self.ledger.committed(to, checked.wanted());
        if committed != self.ledger {
            committed.save(&self.paths)?;
            self.ledger = committed;
        }
        (self.at_step)("apply::commit.after")?;
        self.leftovers_stay = Some(plan.leftovers_stay);
        files.extend(plan.unchanged.iter().map(|path| FileOutcome {
            path: path.to_string(),
            outcome: Outcome::Unchanged,
        }));
        Ok(ApplyReport {
            release: to.release,
            files,
        })
    }

    fn change(
        &self,
        checked: &CheckedRelease,
        plan: &Plan,
        may_write: &dyn Fn() -> bool,
    ) -> Result<Vec<FileOutcome>, DiskError> {
        let mut work = self.work(checked);
        work.may_write = may_write;
        work.secret_directories(&plan.create_secret_directories)?;
        let host_files = work.stage(&plan.write_host, HOST_STEPS)?;
        let manifests = work.stage(&plan.write_manifests, MANIFEST_STEPS)?;
        work.publish(host_files, HOST_STEPS)?;
        for take_over in &plan.take_over {
            work.take_over(take_over)?;
        }
        for pod in &plan.await_end {
            work.await_end(pod);
        }
        work.publish(manifests, MANIFEST_STEPS)?;
        work.remove(&plan.remove_files)?;
        Ok(work.outcomes)
    }

    pub(crate) fn work<'a>(&'a self, checked: &'a CheckedRelease) -> Work<'a> {
        Work::new(&self.paths, checked, self.pod_end.as_ref(), &self.at_step)
    }
}

/// Stops at a fail point that a test has set to `return`; does nothing in a build without them.
#[allow(
    unused_variables,
    reason = "a build without fail points has no use for the name"
)]
pub(crate) fn fail_point(name: &'static str) -> Result<(), DiskError> {
    fail::fail_point!(name, |_| Err(DiskError::Stopped(name)));
    Ok(())
}
