//! Carrying a plan out, so that a crash between any two steps is finished later.
//!
//! The order: the verified copy, the ledger with all that old and new own, secret directories, host files, take-overs,
//! manifests, removals, the ledger with the new only, and at last what no manifest names. From the second step on
//! [`Disk::recover`] finishes the release by itself; before it nothing that anyone reads has changed.

use std::collections::BTreeSet;

use shared::digest::Sha256Digest;
use shared::durable;
use shared::names::ReleaseNumber;

use super::Disk;
use super::check::CheckedRelease;
use super::copy;
use super::error::DiskError;
use super::ledger::Committed;
use super::plan::Plan;
use super::work::{FileOutcome, Outcome, Work, remove_secret_directory};

/// The names of the fail points, in the order in which they are passed; those of single files once a file.
pub const FAIL_POINTS: &[&str] = &[
    "apply::copy.before",
    "apply::copy.after",
    "apply::ledger.before",
    "apply::ledger.after",
    "apply::secret-directory.before",
    "apply::secret-directory.filled",
    "apply::secret-directory.after",
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
    "apply::clean.before",
    "apply::clean.directory",
    "apply::clean.after",
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
        self.carry_out(checked, to, plan)
    }

    /// As [`Disk::apply`], for a release whose copy is there.
    pub(crate) fn carry_out(
        &mut self,
        checked: &CheckedRelease,
        to: Committed,
        plan: &Plan,
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
        let mut files = self.change(checked, plan)?;
        (self.at_step)("apply::commit.before")?;
        let committed = self.ledger.committed(to, checked.wanted());
        if committed != self.ledger {
            committed.save(&self.paths)?;
            self.ledger = committed;
        }
        (self.at_step)("apply::commit.after")?;
        for directory in self.clean()? {
            let path = format!("secrets/{directory}");
            files.push(FileOutcome {
                path,
                outcome: Outcome::Removed,
            });
        }
        files.extend(plan.unchanged.iter().map(|path| FileOutcome {
            path: path.to_string(),
            outcome: Outcome::Unchanged,
        }));
        Ok(ApplyReport {
            release: to.release,
            files,
        })
    }

    fn change(&self, checked: &CheckedRelease, plan: &Plan) -> Result<Vec<FileOutcome>, DiskError> {
        let mut work = self.work(checked);
        work.secret_directories(&plan.create_secret_directories)?;
        work.host_files(&plan.write_host)?;
        for take_over in &plan.take_over {
            work.take_over(take_over)?;
        }
        work.manifests(&plan.write_manifests)?;
        work.remove(&plan.remove_files)?;
        Ok(work.outcomes)
    }

    pub(crate) fn work<'a>(&'a self, checked: &'a CheckedRelease) -> Work<'a> {
        Work {
            paths: &self.paths,
            checked,
            pod_end: self.pod_end.as_ref(),
            at_step: &self.at_step,
            outcomes: Vec::new(),
        }
    }

    /// Removes the secret directories that no manifest names, and the copies of other releases.
    pub(crate) fn clean(&mut self) -> Result<Vec<super::SecretDirectory>, DiskError> {
        (self.at_step)("apply::clean.before")?;
        let unused = self.ledger.unused_directories();
        for directory in &unused {
            remove_secret_directory(&self.paths, directory)?;
            (self.at_step)("apply::clean.directory")?;
        }
        // Gone for good before the ledger forgets them.
        let pods: BTreeSet<&str> = unused.iter().map(|d| d.pod.as_str()).collect();
        for pod in pods {
            let at = self.paths.secrets().join(pod);
            let at = if at.is_dir() {
                at
            } else {
                self.paths.secrets()
            };
            durable::sync_directory(&at)?;
        }
        if let Some(committed) = self.ledger.release {
            copy::remove_others(&self.paths, committed.release)?;
        }
        if !unused.is_empty() {
            let mut cleaned = self.ledger.clone();
            cleaned
                .secret_directories
                .retain(|owned| !unused.contains(owned));
            cleaned.save(&self.paths)?;
            self.ledger = cleaned;
        }
        (self.at_step)("apply::clean.after")?;
        Ok(unused)
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
