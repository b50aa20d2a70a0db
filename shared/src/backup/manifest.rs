//! What is written about a backup once all its parts are there (§10.2).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BackupName;
use crate::digest::Sha256Digest;
use crate::names::{EnvironmentName, GroupName, NodeId, ReleaseNumber};

/// Format number of the manifest.
pub const BACKUP_FORMAT: u32 = 1;
/// The length of each part but the last, in bytes.
pub const PART_BYTES: u64 = 16 * 1024 * 1024;
/// Most parts: 10 GiB. etcd's quota is 8.
pub const PARTS: usize = 640;

/// `etcd/<generation>/backups/<name>.json`: written last, create-only, authenticated with the group's key like all that
/// nodes write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupManifest {
    /// See [`BACKUP_FORMAT`].
    pub format: u32,
    /// The environment.
    pub environment: EnvironmentName,
    /// The group whose etcd it is.
    pub group: GroupName,
    /// The generation of the cluster that it was taken from.
    pub generation: u32,
    /// Its name.
    pub name: BackupName,
    /// When its last part was there.
    pub finished_at: Timestamp,
    /// The node whose member gave the snapshot.
    pub node: NodeId,
    /// That member's number, in hex.
    pub member_id: String,
    /// The cluster's number, in hex.
    pub cluster_id: String,
    /// The version of etcd that made it.
    pub etcd_version: String,
    /// The snapshot's length, with the digest at its end.
    pub plain_bytes: u64,
    /// The digest of all of it.
    pub plain_sha256: Sha256Digest,
    /// The length of all parts together.
    pub sealed_bytes: u64,
    /// The digest of each part, in order.
    pub parts: Vec<Sha256Digest>,
    /// The age recipients who can open it.
    pub recipients: Vec<String>,
    /// The names of the keys with which the API server encrypted what it stored: the first wrote, all are needed to read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encryption_keys: Vec<String>,
    /// The release on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseNumber>,
}

/// A manifest that is not gone by, though it is authentic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestProblem {
    /// Another format.
    #[error("format {0} is not the known format {BACKUP_FORMAT}")]
    Format(u32),
    /// It speaks of another backup than its name does.
    #[error("it is about {0}")]
    Other(String),
    /// Its numbers do not agree.
    #[error("its {0} does not agree with the rest of it")]
    Numbers(&'static str),
}

// === impl BackupManifest ===

impl BackupManifest {
    /// The manifest, if it is that of `name` in `generation` and can be gone by.
    ///
    /// # Errors
    /// [`ManifestProblem`].
    pub fn usable(
        self,
        environment: &EnvironmentName,
        group: &GroupName,
        generation: u32,
        name: &BackupName,
    ) -> Result<Self, ManifestProblem> {
        if self.format != BACKUP_FORMAT {
            return Err(ManifestProblem::Format(self.format));
        }
        let is_it = self.environment == *environment
            && self.group == *group
            && self.generation == generation
            && self.name == *name;
        if !is_it {
            return Err(ManifestProblem::Other(format!(
                "backup {} of generation {} of {}/{}",
                self.name, self.generation, self.environment, self.group
            )));
        }
        let parts = self.sealed_bytes.div_ceil(PART_BYTES);
        if parts == 0 || parts > PARTS as u64 || parts != self.parts.len() as u64 {
            return Err(ManifestProblem::Numbers("number of parts"));
        }
        // A database of at least a page, and its digest; encrypted it is longer.
        if self.plain_bytes < 32 + 512 || self.plain_bytes >= self.sealed_bytes {
            return Err(ManifestProblem::Numbers("length"));
        }
        Ok(self)
    }

    /// The length of the part at `at`, counted from 0.
    #[must_use]
    pub fn part_bytes(&self, at: usize) -> u64 {
        let before = PART_BYTES.saturating_mul(at as u64);
        self.sealed_bytes.saturating_sub(before).min(PART_BYTES)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn manifest(name: &str) -> BackupManifest {
        let name: BackupName = name.parse().unwrap();
        BackupManifest {
            format: BACKUP_FORMAT,
            environment: "dev".parse().unwrap(),
            group: "secure".parse().unwrap(),
            generation: 1,
            finished_at: name.at(),
            name,
            node: "i-1".parse().unwrap(),
            member_id: "a".to_owned(),
            cluster_id: "b".to_owned(),
            etcd_version: "3.6.8".to_owned(),
            plain_bytes: PART_BYTES,
            plain_sha256: Sha256Digest::of(b""),
            sealed_bytes: PART_BYTES + 4_000,
            parts: vec![Sha256Digest::of(b"1"), Sha256Digest::of(b"2")],
            recipients: vec!["age1x".to_owned()],
            encryption_keys: vec!["key-1".to_owned()],
            release: None,
        }
    }

    #[test]
    fn a_manifest_speaks_of_its_own_name_and_adds_up() {
        let good = manifest("20261123T024942Z-7");
        let (dev, secure) = (good.environment.clone(), good.group.clone());
        let name = good.name.clone();
        let check = |m: BackupManifest| m.usable(&dev, &secure, 1, &name);
        assert_eq!(check(good.clone()), Ok(good.clone()));
        assert_eq!(
            (good.part_bytes(0), good.part_bytes(1)),
            (PART_BYTES, 4_000)
        );
        for change in [
            (|m| m.format = 2) as fn(&mut BackupManifest),
            |m| m.environment = "prod".parse().unwrap(),
            |m| m.group = "compute".parse().unwrap(),
            |m| m.generation = 2,
            |m| m.name = "20261123T024942Z-8".parse().unwrap(),
            |m| m.parts.truncate(1),
            |m| m.parts.clear(),
            |m| m.sealed_bytes = 0,
            |m| m.sealed_bytes = PART_BYTES,
            |m| m.plain_bytes = 10,
        ] {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(check(changed.clone()).is_err(), "{changed:?}");
        }
    }

    #[test]
    fn the_longest_manifest_fits_its_object() {
        let mut long = manifest("20261123T024942Z-7");
        long.parts = vec![Sha256Digest::of(b"1"); PARTS];
        long.recipients = vec!["age1".repeat(20); 20];
        let key = crate::documents::GroupKey::generate();
        let sealed = crate::documents::seal_node_object(&long, "x", Some(&key)).unwrap();
        assert!((sealed.len() as u64) < crate::limits::NODE_OBJECT_BYTES);
    }
}
