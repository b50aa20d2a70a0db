//! What a signed release says about a restore, and the steps of one on a node (§10.4). Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupManifest, ManifestProblem};
use crate::names::{EnvironmentName, GroupName};

/// The file of a release that orders a restore.
pub const RESTORE_FILE: &str = "agent/etcd-restore.json";
/// The file of such a release with the identity that opens the backup: no other release has it.
pub const RESTORE_IDENTITY_FILE: &str = "agent/etcd-restore.key";
/// How far the revisions of a restored cluster are ahead of those of the backup: further than those that were given out
/// since, so that nobody takes a new one for one that it has seen.
pub const BUMP_REVISION: u64 = 1_000_000_000;

/// A restore, ordered by an operator: signed with the release, so what a node restores does not hang on what anybody wrote to
/// the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreOrder {
    /// The generation that begins with it.
    pub generation: u32,
    /// The backup, with the digest of each of its parts.
    pub backup: BackupManifest,
    /// Who ordered it, as far as the publishing machine knows.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// An order that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderProblem {
    /// It does not parse.
    #[error("it does not parse: {0}")]
    Malformed(String),
    /// It orders a backup of this generation, or a later one, into it.
    #[error("it restores a backup of generation {from} into generation {into}")]
    Generation {
        /// The backup's.
        from: u32,
        /// The new one.
        into: u32,
    },
    /// What it says of the backup cannot be.
    #[error("the backup that it names cannot be used")]
    Backup(#[source] ManifestProblem),
}

/// How far a restore has come, by what lies on the disk; each was verified when it was put there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreSeen {
    /// The member's data is in its place.
    pub placed: bool,
    /// It was made, and is beside its place.
    pub made: bool,
    /// The snapshot was opened.
    pub opened: bool,
    /// So many parts, from the first on, are there.
    pub parts: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// Fetch this part.
    Fetch(usize),
    /// Decrypt all parts into the snapshot, and hold it against its digest.
    Open,
    /// Make a member's data from it.
    Make,
    /// Put that into its place.
    Place,
    /// Nothing: remove what is left of it.
    Done,
}

/// Decides. Whatever was done already is not done again, and what is not known to be whole is.
#[must_use]
pub fn restore_step(order: &RestoreOrder, seen: RestoreSeen) -> RestoreStep {
    match seen {
        RestoreSeen { placed: true, .. } => RestoreStep::Done,
        RestoreSeen { made: true, .. } => RestoreStep::Place,
        RestoreSeen { opened: true, .. } => RestoreStep::Make,
        RestoreSeen { parts, .. } if parts < order.backup.parts.len() => RestoreStep::Fetch(parts),
        _ => RestoreStep::Open,
    }
}

// === impl RestoreOrder ===

impl RestoreOrder {
    /// As the file of a release.
    ///
    /// # Errors
    /// serde's own, never for this type.
    pub fn to_file(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// From the file of a release of `group`.
    ///
    /// # Errors
    /// [`OrderProblem`].
    pub fn from_file(
        bytes: &[u8],
        environment: &EnvironmentName,
        group: &GroupName,
    ) -> Result<Self, OrderProblem> {
        let read: Self =
            serde_json::from_slice(bytes).map_err(|e| OrderProblem::Malformed(e.to_string()))?;
        read.check(environment, group)?;
        Ok(read)
    }

    /// Whether it can be carried out.
    ///
    /// # Errors
    /// [`OrderProblem`].
    pub fn check(
        &self,
        environment: &EnvironmentName,
        group: &GroupName,
    ) -> Result<(), OrderProblem> {
        let (from, into) = (self.backup.generation, self.generation);
        if from >= into {
            return Err(OrderProblem::Generation { from, into });
        }
        let (backup, name) = (self.backup.clone(), self.backup.name.clone());
        backup
            .usable(environment, group, from, &name)
            .map_err(OrderProblem::Backup)?;
        Ok(())
    }

    /// What the cluster forgets, in one line.
    #[must_use]
    pub fn loses(&self) -> String {
        format!(
            "what was written after {} (revision {}) is lost",
            self.backup.name.at(),
            self.backup.name.revision()
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::manifest::tests::manifest;
    use super::*;

    fn order() -> RestoreOrder {
        let backup = manifest("20261123T024942Z-7");
        RestoreOrder {
            generation: 2,
            by: "op".to_owned(),
            at: backup.finished_at,
            backup,
        }
    }

    #[test]
    fn an_order_goes_forward_and_names_a_backup_that_can_be() {
        let order = order();
        let (dev, secure) = ("dev".parse().unwrap(), "secure".parse().unwrap());
        let read = RestoreOrder::from_file(&order.to_file().unwrap(), &dev, &secure);
        assert_eq!(read, Ok(order.clone()));
        for change in [
            (|o| o.generation = 1) as fn(&mut RestoreOrder),
            |o| o.backup.generation = 2,
            |o| o.backup.environment = "prod".parse().unwrap(),
            |o| o.backup.parts.clear(),
        ] {
            let mut changed = order.clone();
            change(&mut changed);
            assert!(changed.check(&dev, &secure).is_err(), "{changed:?}");
        }
        assert!(RestoreOrder::from_file(b"{}", &dev, &secure).is_err());
    }

    /// Does what a step says, as far as the plan can tell.
    fn after(step: RestoreStep, seen: RestoreSeen) -> RestoreSeen {
        match step {
            RestoreStep::Fetch(part) => RestoreSeen {
                parts: part + 1,
                ..seen
            },
            RestoreStep::Open => RestoreSeen {
                opened: true,
                ..seen
            },
            RestoreStep::Make => RestoreSeen { made: true, ..seen },
            RestoreStep::Place => RestoreSeen {
                placed: true,
                made: false,
                ..seen
            },
            RestoreStep::Done => RestoreSeen {
                placed: true,
                ..RestoreSeen::default()
            },
        }
    }

    proptest! {
        /// From wherever it was interrupted it comes to its end, and never puts data in place twice.
        #[test]
        fn wherever_it_stopped_it_ends(placed: bool, made: bool, opened: bool, parts in 0_usize..=2) {
            let order = order();
            let mut seen = RestoreSeen { placed, made, opened, parts };
            let mut placements = 0;
            for _ in 0..8 {
                let step = restore_step(&order, seen);
                placements += usize::from(step == RestoreStep::Place);
                seen = after(step, seen);
            }
            prop_assert_eq!(restore_step(&order, seen), RestoreStep::Done);
            prop_assert_eq!(placements, usize::from(!placed));
        }
    }
}
