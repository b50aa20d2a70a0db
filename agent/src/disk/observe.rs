//! Reading the disk: what is there, without changing or trusting it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shared::secret::SecretBytes;

use super::check::Wanted;
use super::error::DiskError;
use super::ledger::Ledger;
use super::paths::NodePaths;

#[derive(Debug, Default)]
pub(crate) struct Observed;

pub(crate) type Fingerprints = BTreeMap<PathBuf, ()>;

pub(crate) fn read(_path: &Path) -> Result<Option<SecretBytes>, DiskError> {
    todo!()
}

pub(crate) fn observe(_: &NodePaths, _: &Ledger, _: &Wanted) -> Result<Observed, DiskError> {
    todo!()
}
