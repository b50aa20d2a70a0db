//! The keys of the bucket's objects (§1).

use crate::backup::BackupName;
use crate::digest::Sha256Digest;
use crate::etcd::Generation;
use crate::names::{EnvironmentName, GroupName, NodeId};

/// The keyring: operators only.
pub const KEYRING: &str = "operator/keyring.json";

/// Who is collecting what no release needs: operators only.
pub const COLLECTION: &str = "operator/collection.json";

/// What user data installs by its digest: an agent; never overwritten, never collected.
#[must_use]
pub fn bootstrap_agent(digest: &Sha256Digest) -> String {
    format!("bootstrap/{digest}.platform-agent")
}

/// The prefix of a group's TUF metadata, with the slash.
#[must_use]
pub fn metadata_prefix(group: &GroupName) -> String {
    format!("groups/{group}/metadata/")
}

/// The prefix of a group's targets, with the slash.
#[must_use]
pub fn targets_prefix(group: &GroupName) -> String {
    format!("groups/{group}/targets/")
}

/// The one mutable metadata object of a group.
#[must_use]
pub fn timestamp(group: &GroupName) -> String {
    format!("groups/{group}/metadata/timestamp.json")
}

/// A target under its consistent-snapshot name.
#[must_use]
pub fn target(group: &GroupName, digest: &Sha256Digest, name: &str) -> String {
    format!("groups/{group}/targets/{digest}.{name}")
}

/// The prefix of a group's status objects, with the slash.
#[must_use]
pub fn nodes_prefix(group: &GroupName) -> String {
    format!("nodes/{group}/")
}

/// A node's status object.
#[must_use]
pub fn node_status(group: &GroupName, node: &NodeId) -> String {
    format!("nodes/{group}/{node}.json")
}

/// What a group's nodes agree on about rollouts.
#[must_use]
pub fn rollout(group: &GroupName) -> String {
    format!("rollouts/{group}.json")
}

/// The prefix of all that is kept of etcd, with the slash.
pub const ETCD_PREFIX: &str = "etcd/";

/// The prefix of the manifests of a generation's backups, with the slash.
#[must_use]
pub fn backups_prefix(generation: u32) -> String {
    format!("etcd/{generation}/backups/")
}

/// The manifest of a backup.
#[must_use]
pub fn backup_manifest(generation: u32, name: &BackupName) -> String {
    format!("etcd/{generation}/backups/{name}.json")
}

/// The backup whose manifest has this key, and its generation; none where the key is of something else.
#[must_use]
pub fn backup_of(key: &str) -> Option<(u32, BackupName)> {
    let (generation, rest) = key.strip_prefix(ETCD_PREFIX)?.split_once('/')?;
    let name = rest.strip_prefix("backups/")?.strip_suffix(".json")?;
    let found = (generation.parse().ok()?, name.parse().ok()?);
    (backup_manifest(found.0, &found.1) == key).then_some(found)
}

/// A part of a backup's snapshot, counted from 0.
#[must_use]
pub fn snapshot_part(generation: u32, name: &BackupName, part: usize) -> String {
    format!("etcd/{generation}/snapshots/{name}/{part:04}.age")
}

/// The prefix of everything about one generation of etcd, with the slash.
#[must_use]
pub fn etcd_prefix(generation: Generation) -> String {
    format!("etcd/{generation}/")
}

/// Who forms a generation of etcd; create-only.
#[must_use]
pub fn etcd_fence(generation: Generation) -> String {
    format!("etcd/{generation}/cluster.json")
}

/// That a node has begun with a generation of etcd; create-only.
#[must_use]
pub fn etcd_ticket(generation: Generation, node: &NodeId) -> String {
    format!("etcd/{generation}/started/{node}.json")
}

/// The name a node-written object is bound to: its key within the environment, so that one can't pass for another.
#[must_use]
pub fn bound_name(environment: &EnvironmentName, key: &str) -> String {
    format!("{environment}/{key}")
}
