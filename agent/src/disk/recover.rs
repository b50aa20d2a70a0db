//! Finishing what a crash interrupted.

use super::Disk;
use super::apply::ApplyReport;
use super::error::DiskError;
use super::paths::NodePaths;

/// What there was to finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Temporaries of a killed process that were removed.
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
        todo!()
    }
}

pub(crate) fn sweep(_paths: &NodePaths) -> Result<usize, DiskError> {
    Ok(0)
}
