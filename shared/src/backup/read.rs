//! Reading a manifest that must be authentic, and the parts that it names.

use crate::documents::{GroupKey, NodeObjectError, open_node_object};
use crate::limits;
use crate::names::{EnvironmentName, GroupName};
use crate::store::{Backoff, Fetched, ObjectStore, StoreError, StoreErrorKind, keys, with_retries};

use super::{BackupManifest, BackupName, ManifestProblem};

/// A manifest that cannot be gone by.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The store did not give it.
    #[error("the manifest of backup cannot be read")]
    Store(#[source] StoreError),
    /// It is not authentic.
    #[error("the manifest of the backup is not to be believed")]
    Object(#[source] NodeObjectError),
    /// It does not say what it must.
    #[error("the manifest of the backup cannot be used")]
    Problem(#[source] ManifestProblem),
}

/// Reads the manifest of a backup.
///
/// # Errors
/// [`ManifestError`].
pub async fn read_manifest(
    store: &dyn ObjectStore,
    environment: &EnvironmentName,
    group: &GroupName,
    generation: u32,
    name: &BackupName,
    group_key: &GroupKey,
) -> Result<BackupManifest, ManifestError> {
    let key = keys::backup_manifest(generation, name);
    let get = || store.get(&key, limits::NODE_OBJECT_BYTES, None);
    let bytes = match with_retries(Backoff::INTERACTIVE, get).await {
        Ok(Fetched::Object { bytes, .. }) => bytes,
        Ok(Fetched::NotModified) => {
            return Err(ManifestError::Store(StoreError {
                operation: "get",
                key,
                kind: StoreErrorKind::Other,
                source: None,
            }));
        }
        Err(error) => return Err(ManifestError::Store(error)),
    };
    let bound = keys::bound_name(environment, &key);
    let manifest: BackupManifest =
        open_node_object(&bytes, &bound, group_key).map_err(ManifestError::Object)?;
    manifest
        .usable(environment, group, generation, name)
        .map_err(ManifestError::Problem)
}
