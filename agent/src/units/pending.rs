//! Restarts that are due and not asked for yet, in the state directory.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::durable::{self, Attributes};
use shared::names::{ReleaseNumber, UnitName};

use crate::disk::DiskError;

/// Units to restart once a release is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restarts {
    /// The release.
    pub release: ReleaseNumber,
    /// The units.
    pub units: BTreeSet<UnitName>,
}

/// The memory of [`Restarts`].
#[derive(Debug)]
pub struct PendingRestarts {
    path: PathBuf,
    restarts: Option<Restarts>,
}

impl PendingRestarts {
    /// Reads what is kept in `state`. A file that cannot be read is said loudly and forgotten: a restart that is missed is
    /// better than an agent that does not run.
    ///
    /// # Errors
    /// [`DiskError::Io`] where the operating system refuses.
    pub fn open(state: &Path) -> Result<Self, DiskError> {
        let path = state.join("restarts.json");
        let restarts = match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(DiskError::io("read", &path)(e)),
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(restarts) => Some(restarts),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "damaged: a unit restart may be missed");
                    None
                }
            },
        };
        Ok(Self { path, restarts })
    }

    /// Notes units for `release`, beside those that are noted already.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn add(
        &mut self,
        release: ReleaseNumber,
        units: BTreeSet<UnitName>,
    ) -> Result<(), DiskError> {
        let mut next = Restarts { release, units };
        if let Some(known) = &self.restarts {
            next.units.extend(known.units.iter().cloned());
        }
        if next.units.is_empty() || self.restarts.as_ref() == Some(&next) {
            return Ok(());
        }
        // serde_json cannot fail on this type.
        let bytes = serde_json::to_vec(&next).unwrap_or_default();
        durable::write_file(&self.path, &bytes, Attributes::mode(0o600))?;
        self.restarts = Some(next);
        Ok(())
    }

    /// The units to restart now that `on_disk` is the release on the disk.
    #[must_use]
    pub fn due(&self, on_disk: Option<ReleaseNumber>) -> Vec<UnitName> {
        let due = self.restarts.iter().filter(|r| Some(r.release) <= on_disk);
        due.flat_map(|r| r.units.iter().cloned()).collect()
    }

    /// A unit was restarted.
    ///
    /// # Errors
    /// [`DiskError::Io`]; it is restarted once more then.
    pub fn done(&mut self, unit: &UnitName) -> Result<(), DiskError> {
        let Some(mut next) = self.restarts.clone() else {
            return Ok(());
        };
        next.units.remove(unit);
        if next.units.is_empty() {
            durable::remove_file(&self.path)?;
            self.restarts = None;
            return Ok(());
        }
        let bytes = serde_json::to_vec(&next).unwrap_or_default();
        durable::write_file(&self.path, &bytes, Attributes::mode(0o600))?;
        self.restarts = Some(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_until_done_and_due_only_once_the_release_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let number = |n| ReleaseNumber::new(n).unwrap();
        let unit = |n: &str| -> UnitName { n.parse().unwrap() };
        let mut pending = PendingRestarts::open(dir.path()).unwrap();
        pending.add(number(3), BTreeSet::new()).unwrap();
        assert!(!dir.path().join("restarts.json").exists(), "nothing to say");
        pending.add(number(3), [unit("a.service")].into()).unwrap();
        assert!(pending.due(None).is_empty());
        assert!(pending.due(Some(number(2))).is_empty());
        // The next release came before it was done.
        let mut pending = PendingRestarts::open(dir.path()).unwrap();
        pending.add(number(4), [unit("b.service")].into()).unwrap();
        assert!(pending.due(Some(number(3))).is_empty());
        let mut pending = PendingRestarts::open(dir.path()).unwrap();
        let due = pending.due(Some(number(4)));
        assert_eq!(due, [unit("a.service"), unit("b.service")]);
        pending.done(&unit("a.service")).unwrap();
        let mut pending = PendingRestarts::open(dir.path()).unwrap();
        assert_eq!(pending.due(Some(number(4))), [unit("b.service")]);
        pending.done(&unit("b.service")).unwrap();
        assert!(!dir.path().join("restarts.json").exists());
    }
}
