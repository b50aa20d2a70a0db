//! The writes of a publish, in the order that makes a crash harmless (§5.4 to §5.6).

use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use jiff::Timestamp;
use shared::digest::Sha256Digest;
use shared::documents::GroupKeys;
use shared::limits;
use shared::names::{GroupName, ReleaseNumber};
use shared::store::{
    Backoff, ETag, Fetched, ObjectStore, PutCondition, StoreError, StoreErrorKind, keys,
    put_immutable, with_retries,
};
use shared::trust::sign::{ListedTarget, Lives, SignedDocuments, Versions, sign_documents};
use shared::trust::{
    Expiration, StoreTransport, TrustStore, Trusted, metadata_url, refresh_with, targets_url,
};

use super::Published;
use super::reads::keep_only;
use super::repository::kept as kept_directory;
use crate::context::Context;

/// The encrypted bundle and its place.
#[derive(Debug, Clone)]
pub(super) struct BundleObject {
    pub(super) name: String,
    pub(super) sha256: Sha256Digest,
    pub(super) bytes: Bytes,
}

/// How an upload ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// `timestamp.json` now names it.
    Done,
    /// Another publish has used the number, whether it got to its end or not; nothing is published.
    Burned,
}

/// Somebody else published the group while this publish was under way, and theirs is what is current now.
#[derive(Debug, thiserror::Error)]
#[error(
    "group {group} was published by somebody else meanwhile: {winner}. That is current now, and what this publish \
     holds is not; look at `platformctl diff`, then publish again"
)]
pub struct PublishRace {
    group: GroupName,
    winner: String,
}

/// Writes one group's documents.
#[derive(Debug)]
pub struct Uploader<'a> {
    context: &'a Context,
    keys: &'a GroupKeys,
    group: &'a GroupName,
    base: Option<ETag>,
    first: bool,
    lives: Lives,
}

impl<'a> Uploader<'a> {
    /// An uploader that replaces exactly `published`.
    #[must_use]
    pub fn new(
        context: &'a Context,
        keys: &'a GroupKeys,
        group: &'a GroupName,
        published: &Published,
    ) -> Self {
        Self {
            context,
            keys,
            group,
            base: published.tag().cloned(),
            first: published.current().is_none(),
            lives: Lives::from(Timestamp::now()),
        }
    }

    /// When what this uploader signs expires.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.lives.timestamp
    }

    fn store(&self) -> &dyn ObjectStore {
        self.context.store.as_ref()
    }

    async fn put_new(&self, key: &str, bytes: &Bytes) -> Result<bool, StoreError> {
        match put_immutable(self.store(), Backoff::INTERACTIVE, key, bytes).await {
            Ok(()) => Ok(true),
            Err(e) if e.kind == StoreErrorKind::Conflict => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Signs and writes everything under `number`; `before_last` is called once the number is taken and everything but the
    /// timestamp is there.
    pub(super) async fn upload(
        &self,
        number: ReleaseNumber,
        bundle: Option<&BundleObject>,
        listed: &[ListedTarget],
        before_last: &mut impl AsyncFnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Uploaded> {
        let root = self.keys.roots.last().context("the keyring has no root")?;
        let version = number.version();
        let versions = Versions {
            targets: version,
            snapshot: version,
            timestamp: version,
        };
        let documents = sign_documents(
            root.as_bytes(),
            &self.keys.repository,
            listed,
            versions,
            self.lives,
        )
        .await?;

        // The number is taken first: of two publishes at once, at most one goes on with it.
        let prefix = keys::metadata_prefix(self.group);
        let targets = format!("{prefix}{number}.targets.json");
        if !self.put_new(&targets, &documents.targets).await? {
            return Ok(Uploaded::Burned);
        }
        // §5.5: everything immutable, create-only.
        let snapshot = format!("{prefix}{number}.snapshot.json");
        let (bundle_done, snapshot_free, ()) = tokio::try_join!(
            self.put_bundle(bundle),
            async { Ok(self.put_new(&snapshot, &documents.snapshot).await?) },
            self.put_roots(&prefix),
        )?;
        if !snapshot_free || !bundle_done {
            return Ok(Uploaded::Burned);
        }
        before_last().await?;
        self.put_timestamp(&documents).await?;
        self.put_last_root(&prefix).await?;
        let kept = [
            (format!("{number}.targets.json"), &documents.targets),
            (format!("{number}.snapshot.json"), &documents.snapshot),
        ];
        keep_only(&kept_directory(self.context, self.group), &kept);
        Ok(Uploaded::Done)
    }

    async fn put_bundle(&self, bundle: Option<&BundleObject>) -> anyhow::Result<bool> {
        let Some(bundle) = bundle else {
            return Ok(true);
        };
        let key = keys::target(self.group, &bundle.sha256, &bundle.name);
        Ok(self.put_new(&key, &bundle.bytes).await?)
    }

    /// The roots that what is signed here needs are in the bucket before its timestamp. With one root alone, that one
    /// was put there by the first publish.
    async fn put_roots(&self, prefix: &str) -> anyhow::Result<()> {
        if !self.first && self.keys.roots.len() == 1 {
            return Ok(());
        }
        for (at, root) in self.keys.accepted_roots().iter().enumerate() {
            self.put_root(prefix, at + 1, root).await?;
        }
        Ok(())
    }

    /// While keys change: the root that has the new ones alone comes after the timestamp that they have signed. Nodes
    /// that see it before would refuse the timestamp that is there.
    async fn put_last_root(&self, prefix: &str) -> anyhow::Result<()> {
        match self.keys.roots.last() {
            Some(root) if self.keys.handover => {
                self.put_root(prefix, self.keys.roots.len(), root).await
            }
            _ => Ok(()),
        }
    }

    async fn put_root(&self, prefix: &str, number: usize, root: &str) -> anyhow::Result<()> {
        let key = format!("{prefix}{number}.root.json");
        anyhow::ensure!(
            self.put_new(&key, &Bytes::from(root.to_owned())).await?,
            "{key} holds a root that is not the keyring's: the bucket was used with another keyring. Restore that \
             keyring, or begin with an empty bucket"
        );
        Ok(())
    }

    /// The write that publishes; afterwards it is known whether it did, or said that it is not.
    async fn put_timestamp(&self, documents: &SignedDocuments) -> anyhow::Result<()> {
        let key = keys::timestamp(self.group);
        let condition = match &self.base {
            Some(tag) => PutCondition::Matches(tag.clone()),
            None => PutCondition::Absent,
        };
        let bytes = &documents.timestamp;
        let backoff = Backoff::INTERACTIVE;
        let mut attempt = 1;
        loop {
            let put = || self.store().put(&key, bytes.clone(), condition.clone());
            let Err(error) = with_retries(backoff, put).await else {
                return Ok(());
            };
            // The write may have happened and its answer been lost: what lies there now decides.
            let (there, tag) = match self.look(&key).await {
                Ok(Some((there, tag))) => (Some(there), Some(tag)),
                Ok(None) => (None, None),
                Err(unseen) => {
                    return Err(anyhow::Error::new(unseen).context(format!(
                        "the last write of group {} failed ({error}), and whether it happened could not be seen: look \
                         at `platformctl diff`",
                        self.group
                    )));
                }
            };
            if there.as_ref() == Some(bytes) {
                return Ok(());
            }
            if tag != self.base {
                return Err(self.race().await.into());
            }
            // S3 answers 409 while another write of the key is under way; that one may come to nothing.
            if error.kind == StoreErrorKind::Conflict && attempt < backoff.attempts {
                tokio::time::sleep(backoff.pause(attempt)).await;
                attempt += 1;
                continue;
            }
            let unanswered = matches!(
                error.kind,
                StoreErrorKind::Timeout | StoreErrorKind::Connection
            );
            let outcome = if unanswered {
                "its last write was not answered and is not there; should it still arrive, `platformctl diff` shows it"
            } else {
                "its last write failed, so this group was not published"
            };
            return Err(anyhow::Error::new(error)
                .context(format!("cannot publish group {}: {outcome}", self.group)));
        }
    }

    async fn look(&self, key: &str) -> Result<Option<(Bytes, ETag)>, StoreError> {
        let get = || self.store().get(key, limits::METADATA_BYTES, None);
        match with_retries(Backoff::INTERACTIVE, get).await {
            Ok(Fetched::Object { bytes, etag }) => Ok(Some((bytes, etag))),
            Ok(Fetched::NotModified) => Ok(None),
            Err(e) if e.kind == StoreErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn race(&self) -> PublishRace {
        let winner = match self.winner().await {
            Ok(trusted) => trusted.current().map(|r| {
                let c = &r.custom;
                format!(
                    "release {} by {} at {:.0}",
                    r.release(),
                    c.published_by,
                    c.published_at
                )
            }),
            Err(e) => Some(format!("it could not be read ({e})")),
        };
        PublishRace {
            group: self.group.clone(),
            winner: winner.unwrap_or_else(|| "an empty repository".to_owned()),
        }
    }

    async fn winner(&self) -> anyhow::Result<Trusted> {
        let directory = tempfile::tempdir()?;
        let root = self.keys.accepted_roots().last().context("no root")?;
        let trust = TrustStore::open(&directory.path().join("trust"), root.as_bytes())?;
        let transport = StoreTransport::new(
            Arc::clone(&self.context.store),
            format!("groups/{}", self.group),
        );
        let (metadata, targets) = (metadata_url()?, targets_url()?);
        let work = directory.path();
        Ok(refresh_with(
            &trust,
            transport,
            metadata,
            targets,
            work,
            Expiration::Ignore,
        )
        .await?)
    }
}
