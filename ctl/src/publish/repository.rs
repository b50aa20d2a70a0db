//! What is published for a group, verified by the same code as the agent's.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use shared::names::{GroupName, ReleaseNumber};
use shared::store::{ETag, StoreErrorKind, keys};
use shared::trust::{
    ArtifactTarget, Expiration, ReleaseTarget, StoreTransport, TrustError, TrustErrorKind,
    TrustStore, Trusted, metadata_url, refresh_with, targets_url,
};

use super::memory_lock::MemoryLock;
use super::reads::PublisherReads;
use crate::context::Context;
use crate::keyring::Keyring;

/// A group's repository as it is in the bucket.
#[derive(Debug, Clone)]
pub struct Published {
    trusted: Option<Trusted>,
    tag: Option<ETag>,
}

/// What is published cannot be used as a base for more.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The metadata was not accepted.
    #[error(
        "the published metadata of group {group} is not acceptable beside what this machine remembers of it in \
         {remembered} (remove that only if the bucket was made anew on purpose)"
    )]
    Refused {
        /// The group.
        group: GroupName,
        /// Where this machine remembers it.
        remembered: String,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// It was there before, and now it is not.
    #[error(
        "the metadata of group {group} is gone from the bucket, though this machine has seen its version {version}: \
         restore {key} (the bucket keeps versions), or remove {remembered} if the bucket was emptied on purpose"
    )]
    Gone {
        /// The group.
        group: GroupName,
        /// The version seen.
        version: u64,
        /// The missing object.
        key: String,
        /// Where this machine remembers it.
        remembered: String,
    },
}

/// What this machine remembers of a group's repository.
fn remembered(context: &Context, group: &GroupName) -> PathBuf {
    let state = context.workspace.state_directory();
    state.join("published").join(group.as_str())
}

/// Where this machine keeps immutable metadata; see [`PublisherReads`].
pub(super) fn kept(context: &Context, group: &GroupName) -> PathBuf {
    remembered(context, group).join("kept")
}

/// Reads and verifies what is published; in a steady bucket that is one request. Metadata that has expired is as good
/// a base as any: its signer is the one who can renew it, and nodes refuse it by themselves.
///
/// # Errors
/// [`RepositoryError`], or a trust directory that cannot be used.
pub async fn read_published(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
) -> anyhow::Result<Published> {
    let directory = remembered(context, group);
    let _alone = MemoryLock::wait(&directory).await?;
    let group_keys = keyring.group(group)?;
    let roots = group_keys.accepted_roots();
    let root = roots.last().context("the keyring has no root")?;
    let trust = TrustStore::open(&directory.join("trust"), root.as_bytes())?;
    let reads = PublisherReads::new(Arc::clone(&context.store), kept(context, group))
        .with_roots(&keys::metadata_prefix(group), roots);
    let transport = || {
        StoreTransport::new(Arc::new(reads.clone()), format!("groups/{group}"))
            .with_newest_root(roots.len() as u64)
    };
    let (metadata, targets) = (metadata_url()?, targets_url()?);
    let load = || {
        let (metadata, targets) = (metadata.clone(), targets.clone());
        refresh_with(
            &trust,
            transport(),
            metadata,
            targets,
            &directory,
            Expiration::Ignore,
        )
    };
    let mut loaded = load().await;
    if loaded.is_err() && reads.forget() {
        // A kept document that is damaged must not look like a damaged bucket.
        loaded = load().await;
    }
    let timestamp = keys::timestamp(group);
    match loaded {
        Ok(trusted) => Ok(Published {
            trusted: Some(trusted),
            tag: reads.tag(&timestamp),
        }),
        Err(e) if is_empty(&e, &reads, &timestamp) => match trust.version("timestamp.json")? {
            None => Ok(Published {
                trusted: None,
                tag: None,
            }),
            Some(version) => Err(RepositoryError::Gone {
                group: group.clone(),
                version,
                key: timestamp,
                remembered: directory.display().to_string(),
            }
            .into()),
        },
        Err(source) => Err(RepositoryError::Refused {
            group: group.clone(),
            remembered: directory.display().to_string(),
            source,
        }
        .into()),
    }
}

/// Verifies what this machine has just published, and so remembers it: a later loss or an older version is noticed.
pub(super) async fn remember(context: &Context, keyring: &Keyring, group: &GroupName) {
    if let Err(error) = read_published(context, keyring, group).await {
        // It is published all the same; the next look at the bucket says the same again.
        tracing::warn!(%group, "what was published cannot be read back: {error:#}");
    }
}

/// Whether the timestamp itself is what was not found.
fn is_empty(error: &TrustError, reads: &PublisherReads, timestamp: &str) -> bool {
    error.kind() == TrustErrorKind::Store(StoreErrorKind::NotFound)
        && reads.tag(timestamp).is_none()
}

// === impl Published ===

impl Published {
    /// The current release.
    #[must_use]
    pub fn current(&self) -> Option<&ReleaseTarget> {
        self.trusted.as_ref()?.current()
    }

    /// The good release.
    #[must_use]
    pub fn good(&self) -> Option<&ReleaseTarget> {
        self.trusted.as_ref()?.good()
    }

    /// The listed targets that are no releases.
    #[must_use]
    pub fn artifacts(&self) -> &[ArtifactTarget] {
        self.trusted.as_ref().map_or(&[], Trusted::artifacts)
    }

    /// Both, each once.
    pub fn releases(&self) -> impl Iterator<Item = &ReleaseTarget> {
        let good = self.good().filter(|g| Some(*g) != self.current());
        self.current().into_iter().chain(good)
    }

    /// When the first of the three documents expires that a refresh renews.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        let e = self.trusted.as_ref()?.expiry();
        Some(e.targets.min(e.snapshot).min(e.timestamp))
    }

    /// When each role's metadata expires; none where nothing is published.
    #[must_use]
    pub fn expiry(&self) -> Option<shared::trust::Expiry> {
        Some(self.trusted.as_ref()?.expiry())
    }

    /// The version of the published targets document, whether it brought a release or renewed signatures.
    #[must_use]
    pub fn version(&self) -> Option<ReleaseNumber> {
        let targets = self.trusted.as_ref()?.repository().targets();
        Some(ReleaseNumber::from(targets.signed.version))
    }

    /// The tag of `timestamp.json`; none where nothing is published.
    pub(super) fn tag(&self) -> Option<&ETag> {
        self.tag.as_ref()
    }

    /// The first number that may be free.
    pub(super) fn next_number(&self) -> ReleaseNumber {
        let last = self.trusted.as_ref().map_or(0, |t| {
            let r = t.repository();
            let versions = [
                r.targets().signed.version,
                r.snapshot().signed.version,
                r.timestamp().signed.version,
            ];
            versions
                .into_iter()
                .map(std::num::NonZeroU64::get)
                .max()
                .unwrap_or(0)
        });
        ReleaseNumber::new(last.saturating_add(1))
            .unwrap_or(ReleaseNumber::from(std::num::NonZeroU64::MIN))
    }
}
