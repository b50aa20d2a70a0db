//! The update: tough on a working copy, then what it verified made current, byte for byte as received (§4).

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tempfile::TempDir;
use tough::{ExpirationEnforcement, Limits, Repository, RepositoryLoader, Transport};
use url::Url;

use super::error::TrustError;
use super::store::{REMEMBERED, ROOT, TrustStore, TrustStoreError, document_version};
use super::target::{ArtifactTarget, ReleaseTarget, TargetError};
use super::transport::Recorder;
use crate::durable::DurableError;
use crate::limits;
use crate::names::ReleaseNumber;

/// When each role's metadata expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The root's.
    pub root: Timestamp,
    /// The targets'.
    pub targets: Timestamp,
    /// The snapshot's.
    pub snapshot: Timestamp,
    /// The timestamp's.
    pub timestamp: Timestamp,
}

impl Expiry {
    /// The first of them.
    #[must_use]
    pub fn earliest(&self) -> Timestamp {
        self.root
            .min(self.targets)
            .min(self.snapshot)
            .min(self.timestamp)
    }
}

/// Metadata that was verified: the only source of targets.
#[derive(Debug, Clone)]
pub struct Trusted {
    repository: Arc<Repository>,
    releases: Vec<ReleaseTarget>,
    artifacts: Vec<ArtifactTarget>,
    expiry: Expiry,
    /// tough notes the time there at each read of a target, so it must live as long as the repository.
    _work: Arc<TempDir>,
}

impl Trusted {
    /// The release that the group should run: the newest listed.
    #[must_use]
    pub fn current(&self) -> Option<&ReleaseTarget> {
        self.releases.last()
    }

    /// The release that is known to be good: the oldest listed, which may be the current one.
    #[must_use]
    pub fn good(&self) -> Option<&ReleaseTarget> {
        self.releases.first()
    }

    /// The targets that are no bundles.
    #[must_use]
    pub fn artifacts(&self) -> &[ArtifactTarget] {
        &self.artifacts
    }

    /// When the metadata expires.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        self.expiry
    }

    /// The verified repository, for whoever needs the documents themselves.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Version of the trusted timestamp document.
    #[must_use]
    pub fn timestamp_version(&self) -> u64 {
        self.repository.timestamp().signed.version.get()
    }
}

/// What is done about metadata past its expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiration {
    /// It is refused: the freeze protection of every node.
    Enforce,
    /// It is taken. Only for whoever holds the signing keys, who reads in order to sign again: without this an expired
    /// repository could never be renewed. Signatures, digests and versions are checked all the same.
    Ignore,
}

/// Updates the trust store from a repository and gives its targets; metadata past its expiry is refused.
///
/// # Errors
/// As [`refresh_with`].
pub async fn refresh<T>(
    store: &TrustStore,
    transport: T,
    metadata_base: Url,
    targets_base: Url,
    work_directory: &Path,
) -> Result<Trusted, TrustError>
where
    T: Transport + Clone + 'static,
{
    refresh_with(
        store,
        transport,
        metadata_base,
        targets_base,
        work_directory,
        Expiration::Enforce,
    )
    .await
}

/// Updates the trust store from a repository and gives its targets.
///
/// tough works on a copy in a new directory below `work_directory`. What it verified is then made current durably,
/// the root first; a refresh that fails half-way keeps what was verified before the failure (as the TUF specification
/// has it: a timestamp that was accepted stays accepted when its snapshot can't be read), and never anything else.
///
/// # Errors
/// [`TrustError`]; what was trusted before still is.
pub async fn refresh_with<T>(
    store: &TrustStore,
    transport: T,
    metadata_base: Url,
    targets_base: Url,
    work_directory: &Path,
    expiration: Expiration,
) -> Result<Trusted, TrustError>
where
    T: Transport + Clone + 'static,
{
    let root = store.root().map_err(TrustError::Store)?;
    let work = tempfile::Builder::new()
        .prefix(".platform-trust-")
        .tempdir_in(work_directory)
        .map_err(|source| TrustError::WorkingDirectory {
            directory: work_directory.to_owned(),
            source,
        })?;
    let before = lay_out(store, work.path()).map_err(TrustError::Store)?;

    // The recorder and tough must agree on what is below the base, or nothing would be remembered.
    let metadata_base = as_directory(metadata_base);
    let recorder = Recorder::new(transport, metadata_base.clone());
    let loading = RepositoryLoader::new(&root, metadata_base, targets_base)
        .transport(recorder.clone())
        .limits(Limits {
            max_root_size: limits::METADATA_BYTES,
            max_targets_size: limits::TARGETS_BYTES,
            max_timestamp_size: limits::METADATA_BYTES,
            max_snapshot_size: limits::METADATA_BYTES,
            max_root_updates: limits::ROOT_UPDATES,
        })
        .datastore(work.path())
        .expiration_enforcement(match expiration {
            Expiration::Enforce => ExpirationEnforcement::Safe,
            Expiration::Ignore => ExpirationEnforcement::Unsafe,
        })
        .load();
    // Boxed: tough's future is tens of kilobytes, and every caller's would be.
    let loaded = Box::pin(loading).await;

    adopt(store, work.path(), &before, &recorder).map_err(TrustError::Store)?;
    let repository = match loaded {
        Ok(repository) => repository,
        Err(error) => {
            let root = store.version(ROOT).map_err(TrustError::Store)?;
            return Err(TrustError::of(error, root));
        }
    };
    let (releases, artifacts) = releases(&repository).map_err(TrustError::Target)?;
    let expiry = Expiry {
        root: repository.root().signed.expires,
        targets: repository.targets().signed.expires,
        snapshot: repository.snapshot().signed.expires,
        timestamp: repository.timestamp().signed.expires,
    };
    Ok(Trusted {
        repository: Arc::new(repository),
        releases,
        artifacts,
        expiry,
        _work: Arc::new(work),
    })
}

/// A base address names a directory: with a slash at its end, as tough would add it.
fn as_directory(mut base: Url) -> Url {
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    base
}

type Copied = [Option<Vec<u8>>; 3];

/// Copies the remembered documents into tough's working directory; a damaged one fails here (§4.1, §4.2).
fn lay_out(store: &TrustStore, work: &Path) -> Result<Copied, TrustStoreError> {
    let mut copied: Copied = [None, None, None];
    for (name, slot) in REMEMBERED.iter().zip(&mut copied) {
        if let Some(bytes) = store.document(name)? {
            let path = work.join(name);
            #[allow(
                clippy::disallowed_methods,
                reason = "a scratch copy that nothing relies on"
            )]
            std::fs::write(&path, &bytes).map_err(|source| {
                TrustStoreError::Write(DurableError {
                    step: "write",
                    path,
                    source,
                })
            })?;
            *slot = Some(bytes);
        }
    }
    Ok(copied)
}

/// Makes current what tough left in its working directory, in the bytes that were received (§4.5).
fn adopt<T>(
    store: &TrustStore,
    work: &Path,
    before: &Copied,
    recorder: &Recorder<T>,
) -> Result<(), TrustStoreError> {
    let trusted_root = store.version(ROOT)?;
    let newest_root = verified(work, ROOT)?.and_then(|b| document_version(&b));
    if let Some(version) = newest_root.filter(|v| Some(*v) > trusted_root)
        && let Some(bytes) = recorder.seen(&format!("{version}.root.json"))
    {
        store.replace(ROOT, &bytes)?;
    }
    let mut replaced: Vec<(&str, Bytes)> = Vec::new();
    for (name, old) in REMEMBERED.iter().zip(before) {
        match verified(work, name)? {
            // tough removes what signers of rotated keys have signed: recovery from a fast-forward (§4.4).
            None if old.is_some() => store.remove(name)?,
            None => {}
            // Not touched by tough: nothing new was verified.
            Some(now) if old.as_ref() == Some(&now) => {}
            Some(now) => {
                let received = document_version(&now)
                    .and_then(|v| recorder.seen(&format!("{v}.{name}")))
                    .or_else(|| recorder.seen(name));
                if let Some(bytes) = received.filter(|b| old.as_deref() != Some(b)) {
                    replaced.push((name, bytes));
                }
            }
        }
    }
    store.replace_all(&replaced)
}

/// What tough holds for verified; none only where there is no such file. What can't be read was not removed by tough:
/// to take it for that would forget what protects from a rollback.
fn verified(work: &Path, name: &str) -> Result<Option<Vec<u8>>, TrustStoreError> {
    let path = work.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TrustStoreError::Read { path, source }),
    }
}

fn releases(
    repository: &Repository,
) -> Result<(Vec<ReleaseTarget>, Vec<ArtifactTarget>), TargetError> {
    let mut releases = Vec::new();
    let mut artifacts = Vec::new();
    for (name, target) in repository.all_targets() {
        match ReleaseTarget::read(name.raw(), target)? {
            Some(release) => releases.push(release),
            None => artifacts.push(ArtifactTarget::read(name.raw(), target)),
        }
    }
    releases.sort_by_key(ReleaseTarget::release);
    let numbers: Vec<ReleaseNumber> = releases.iter().map(ReleaseTarget::release).collect();
    match numbers.windows(2).find(|w| w.first() == w.last()) {
        Some(twice) => Err(TargetError::Twice(
            twice
                .first()
                .copied()
                .unwrap_or(ReleaseNumber::from(std::num::NonZeroU64::MIN)),
        )),
        None => Ok((releases, artifacts)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absent_document_was_removed() {
        let work = tempfile::tempdir().unwrap();
        assert!(verified(work.path(), "timestamp.json").unwrap().is_none());
        std::fs::create_dir(work.path().join("timestamp.json")).unwrap();
        let error = verified(work.path(), "timestamp.json").unwrap_err();
        assert!(matches!(error, TrustStoreError::Read { .. }), "{error:?}");
    }
}
