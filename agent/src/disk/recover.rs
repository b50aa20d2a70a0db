//! Finishing what a crash interrupted (§6.8).

use std::fs;
use std::io;
use std::path::Path;

use shared::durable;

use super::Disk;
use super::apply::ApplyReport;
use super::check::CheckedRelease;
use super::copy;
use super::error::DiskError;
use super::ledger::Committed;
use super::paths::NodePaths;

/// What there was to finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Temporaries of a killed process that opening the disk removed.
    pub swept: usize,
    /// The release that was being applied, now committed; none where nothing was.
    pub finished: Option<ApplyReport>,
}

impl Disk {
    /// Finishes a release whose application was interrupted, from its verified copy. Call it once after
    /// [`Disk::open`], and whenever [`Disk::apply`] failed and no newer release is there.
    ///
    /// # Errors
    /// [`DiskError::CopyDamaged`] where the copy can't be used: everything is kept as it is.
    pub fn recover(&mut self) -> Result<Recovery, DiskError> {
        self.recover_while(&|| true)
    }

    /// As [`Disk::recover`], as long as it may go on.
    ///
    /// # Errors
    /// [`DiskError::OutOfTime`] where it may not; else as [`Disk::recover`].
    pub fn recover_while(&mut self, may_write: &dyn Fn() -> bool) -> Result<Recovery, DiskError> {
        let swept = std::mem::take(&mut self.swept);
        let Some(to) = self.ledger.applying else {
            let finished = None;
            return Ok(Recovery { swept, finished });
        };
        let checked = CheckedRelease::kept(copy::read(&self.paths, &self.ledger, &to)?);
        let plan = self.plan(&checked)?;
        let finished = Some(self.carry_out(&checked, to, &plan, may_write)?);
        Ok(Recovery { swept, finished })
    }
}

impl Disk {
    /// The release of a verified copy that is still kept.
    ///
    /// # Errors
    /// [`DiskError::CopyDamaged`] where it can't be used.
    pub fn kept(&self, release: &Committed) -> Result<CheckedRelease, DiskError> {
        let kept = copy::read(&self.paths, &self.ledger, release)?;
        Ok(CheckedRelease::kept(kept))
    }

    /// Puts a release that is still kept on the disk again, whatever was being applied: byte for byte, in the order and
    /// with the safety of [`Disk::apply`]. Where it is there already, nothing is done.
    ///
    /// # Errors
    /// [`DiskError`] of the step that failed; calling it again, or [`Disk::recover`], goes on.
    pub fn go_back(&mut self, to: &Committed) -> Result<Option<ApplyReport>, DiskError> {
        self.swept = 0;
        if self.ledger.applying.is_none() && self.ledger.release.as_ref() == Some(to) {
            return Ok(None);
        }
        let checked = self.kept(to)?;
        let plan = self.plan(&checked)?;
        self.carry_out(&checked, *to, &plan, &|| true).map(Some)
    }
}

/// Removes the temporaries of a killed process everywhere the agent writes; gives their number.
pub(crate) fn sweep(paths: &NodePaths) -> Result<usize, DiskError> {
    let mut swept = 0;
    for directory in [
        paths.state().to_owned(),
        paths.releases(),
        paths.trust(),
        paths.manifests(),
    ] {
        swept += durable::sweep_temporaries(&directory)?;
    }
    for directory in [paths.secrets(), paths.host(), paths.addons()] {
        swept += sweep_below(&directory)?;
    }
    Ok(swept)
}

fn sweep_below(directory: &Path) -> Result<usize, DiskError> {
    let mut swept = durable::sweep_temporaries(directory)?;
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(DiskError::io("list", directory)(e)),
    };
    for entry in entries {
        let entry = entry.map_err(DiskError::io("list", directory))?;
        // Never through a link.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            swept += sweep_below(&entry.path())?;
        }
    }
    Ok(swept)
}
