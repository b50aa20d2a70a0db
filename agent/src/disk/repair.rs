//! Putting back what differs from the ledger (§6.8).

use std::slice;

use super::Disk;
use super::check::CheckedRelease;
use super::copy;
use super::error::DiskError;
use super::plan::plan_around;
use super::work::{FileOutcome, HOST_STEPS, MANIFEST_STEPS, Outcome};

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepairReport {
    /// Relative to `/etc/kubernetes` (`agent/…` for the agent's own files), in the order of the work.
    pub restored: Vec<String>,
    /// The verified copy is missing or damaged: nothing else was wrong, and the next drift could not be repaired.
    pub copy_lost: bool,
}

impl Disk {
    /// Puts everything that drifted back from the verified copy, without the network: only what the ledger names, and
    /// nothing is removed but what is held back, and what does not belong into a secret directory. Where a release is half applied, that is
    /// finished instead.
    ///
    /// # Errors
    /// [`DiskError::CopyDamaged`] where the copy can't be used, [`DiskError::Foreign`] where something is in the way of
    /// a file; the first failure, after everything was tried.
    pub fn repair(&mut self) -> Result<RepairReport, DiskError> {
        if self.ledger.applying.is_some() {
            let finished = self.recover()?.finished;
            let outcomes = finished.map(|report| report.files).unwrap_or_default();
            return Ok(restored(outcomes));
        }
        let Some(committed) = self.ledger.release else {
            return Ok(RepairReport::default());
        };
        let seen = self.verify()?;
        if seen.drift.is_empty() {
            return Ok(RepairReport {
                copy_lost: !seen.copy_intact,
                ..RepairReport::default()
            });
        }
        let release = copy::read(&self.paths, &self.ledger, &committed)?;
        let checked = CheckedRelease::kept(release);
        let observed = self.observe(&checked)?;
        let (plan, obstacles) = plan_around(&self.ledger, &observed, checked.wanted());
        self.fingerprints = None;

        let mut work = self.work(&checked);
        let mut failures = Vec::new();
        // One by one: what cannot be mended must not keep the rest from it.
        for directory in &plan.create_secret_directories {
            failures.extend(work.secret_directories(slice::from_ref(directory)).err());
        }
        for entry in &plan.write_host {
            failures.extend(work.files(slice::from_ref(entry), HOST_STEPS).err());
        }
        for entry in &plan.write_manifests {
            failures.extend(work.files(slice::from_ref(entry), MANIFEST_STEPS).err());
        }
        // The ledger names all that is there: what is to go is held back.
        failures.extend(work.remove(&plan.remove_files).err());
        let report = restored(work.outcomes);
        if !obstacles.is_empty() {
            failures.push(DiskError::Foreign(obstacles));
        }
        match failures.into_iter().next() {
            None => Ok(report),
            Some(failure) => {
                tracing::warn!(restored = ?report.restored, "repaired in part");
                Err(failure)
            }
        }
    }
}

fn restored(outcomes: Vec<FileOutcome>) -> RepairReport {
    let written = outcomes
        .into_iter()
        .filter(|file| file.outcome == Outcome::Written);
    RepairReport {
        restored: written.map(|file| file.path).collect(),
        copy_lost: false,
    }
}
