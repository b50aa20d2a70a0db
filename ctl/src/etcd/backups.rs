//! The backups that the bucket holds, each with what can be believed about it.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::Serialize;
use shared::backup::{BackupManifest, BackupName, read_manifest};
use shared::documents::GroupKey;
use shared::names::GroupName;
use shared::store::{Backoff, StoreError, keys, with_retries};

use crate::context::Context;

/// Reads at a time.
const PARALLEL: usize = 8;

/// One backup.
#[derive(Debug)]
pub struct Backup {
    /// Its generation.
    pub generation: u32,
    /// Its name.
    pub name: BackupName,
    /// What is written about it, or why that is not to be believed.
    pub manifest: Result<BackupManifest, String>,
    /// What is missing of it; none where all of its parts are there, as long as they should be.
    pub missing: Option<String>,
}

/// For programs and for tables.
#[derive(Debug, Serialize)]
pub struct BackupView<'a> {
    /// Its generation.
    pub generation: u32,
    /// Its name.
    pub name: &'a BackupName,
    /// When it was begun.
    pub at: Timestamp,
    /// The revision that it holds at least.
    pub revision: u64,
    /// Its length once opened, in bytes.
    pub bytes: Option<u64>,
    /// The node that took it.
    pub node: Option<String>,
    /// The version of etcd.
    pub etcd_version: Option<&'a str>,
    /// The release that the node had.
    pub release: Option<u64>,
    /// The keys of encryption at rest that its content needs.
    pub encryption_keys: &'a [String],
    /// Why it cannot be restored.
    pub problem: Option<String>,
}

/// Reads what the bucket holds, the newest first; the parts are looked at by their lengths alone.
///
/// # Errors
/// A store that cannot be listed.
pub async fn list(
    context: &Context,
    group: &GroupName,
    key: &GroupKey,
) -> Result<Vec<Backup>, StoreError> {
    let store = context.store.as_ref();
    let objects = with_retries(Backoff::INTERACTIVE, || {
        store.list_objects(keys::ETCD_PREFIX)
    })
    .await?;
    let lengths: BTreeMap<&str, u64> = objects.iter().map(|o| (o.key.as_str(), o.bytes)).collect();
    let found: Vec<_> = objects.iter().map(|o| keys::backup_of(&o.key)).collect();
    let environment = &context.workspace.name;
    let lengths = &lengths;
    let reads = found
        .into_iter()
        .flatten()
        .map(|(generation, name)| async move {
            let read = read_manifest(store, environment, group, generation, &name, key).await;
            let manifest = read.map_err(|e| format!("{:#}", anyhow::Error::new(e)));
            let missing = manifest.as_ref().ok().and_then(|m| missing(m, lengths));
            Backup {
                generation,
                name,
                manifest,
                missing,
            }
        });
    let mut all: Vec<Backup> = stream::iter(reads).buffered(PARALLEL).collect().await;
    all.sort_by(|a, b| (&b.name, b.generation).cmp(&(&a.name, a.generation)));
    Ok(all)
}

/// A listing of a store that tells no lengths tells only whether a part is there.
fn missing(manifest: &BackupManifest, lengths: &BTreeMap<&str, u64>) -> Option<String> {
    let parts = manifest.parts.len();
    for part in 0..parts {
        let key = keys::snapshot_part(manifest.generation, &manifest.name, part);
        match lengths.get(key.as_str()) {
            None => return Some(format!("part {} of {parts} is gone", part + 1)),
            Some(0) => {}
            Some(length) if *length != manifest.part_bytes(part) => {
                return Some(format!("part {} of {parts} has another length", part + 1));
            }
            Some(_) => {}
        }
    }
    None
}

// === impl Backup ===

impl Backup {
    /// Why it cannot be restored; none where nothing speaks against it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match &self.manifest {
            Err(why) => Some(why.clone()),
            Ok(_) => self.missing.clone(),
        }
    }

    /// For programs and for tables.
    #[must_use]
    pub fn view(&self) -> BackupView<'_> {
        let manifest = self.manifest.as_ref().ok();
        BackupView {
            generation: self.generation,
            name: &self.name,
            at: self.name.at(),
            revision: self.name.revision(),
            bytes: manifest.map(|m| m.plain_bytes),
            node: manifest.map(|m| m.node.to_string()),
            etcd_version: manifest.map(|m| m.etcd_version.as_str()),
            release: manifest.and_then(|m| Some(m.release?.get())),
            encryption_keys: manifest.map_or(&[], |m| &m.encryption_keys),
            problem: self.problem(),
        }
    }
}
