//! Putting back what differs from the ledger.

use super::Disk;
use super::error::DiskError;

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepairReport {
    /// Relative to `/etc/kubernetes`, in the order of the work.
    pub restored: Vec<String>,
}

impl Disk {
    /// Puts every file that drifted back from the verified copy, without the network.
    ///
    /// # Errors
    /// [`DiskError::CopyDamaged`] where the copy can't be used, or the first failure after everything was tried.
    pub fn repair(&mut self) -> Result<RepairReport, DiskError> {
        todo!()
    }
}
