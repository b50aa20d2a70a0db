//! The publisher's reads: the tag of what it will replace, and immutable metadata read once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use shared::durable::{self, Attributes};
use shared::store::{
    Backoff, ETag, Fetched, ListedObject, ObjectStore, PutCondition, ServerTime, StoreError,
    with_retries,
};

/// A store that retries, remembers the tag of each object it read, and keeps `N.snapshot.json` and `N.targets.json`
/// in a directory.
///
/// The kept documents need no trust: tough checks each against the digest in the document above it, and the one at
/// the top, `timestamp.json`, is always read from the store.
#[derive(Debug, Clone)]
pub(super) struct PublisherReads {
    inner: Arc<dyn ObjectStore>,
    kept: PathBuf,
    tags: Arc<Mutex<BTreeMap<String, ETag>>>,
    /// By key.
    roots: Arc<BTreeMap<String, Bytes>>,
}

impl PublisherReads {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, kept: PathBuf) -> Self {
        Self {
            inner,
            kept,
            tags: Arc::default(),
            roots: Arc::default(),
        }
    }

    /// The roots are the keyring's: whoever holds that need not ask the bucket for them, which may not have them yet.
    pub(super) fn with_roots(mut self, prefix: &str, roots: &[String]) -> Self {
        let numbered = (1..).zip(roots);
        let by_key = numbered.map(|(n, root): (u64, _)| {
            (format!("{prefix}{n}.root.json"), Bytes::from(root.clone()))
        });
        self.roots = Arc::new(by_key.collect());
        self
    }

    pub(super) fn tag(&self, key: &str) -> Option<ETag> {
        self.tags
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Forgets the kept documents; for when verification failed and one of them may be damaged.
    pub(super) fn forget(&self) -> bool {
        std::fs::remove_dir_all(&self.kept).is_ok()
    }

    fn kept_path(&self, key: &str) -> Option<PathBuf> {
        let name = key.rsplit('/').next()?;
        let immutable = name.ends_with(".snapshot.json") || name.ends_with(".targets.json");
        immutable.then(|| self.kept.join(name))
    }
}

/// Keeps what this machine has just published in place of what it kept before, so that its next look at the bucket
/// reads the timestamp alone.
pub(super) fn keep_only(kept: &Path, documents: &[(String, &Bytes)]) {
    for entry in std::fs::read_dir(kept).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
    for (name, bytes) in documents {
        keep(&kept.join(name), bytes);
    }
}

/// A document that can't be kept is read again next time.
fn keep(path: &Path, bytes: &[u8]) {
    let made = path
        .parent()
        .is_some_and(|p| std::fs::create_dir_all(p).is_ok());
    let written = durable::write_file(path, bytes, Attributes::mode(0o600));
    if !made || written.is_err() {
        tracing::debug!(path = %path.display(), "metadata was not kept");
    }
}

#[async_trait]
impl ObjectStore for PublisherReads {
    async fn get(
        &self,
        key: &str,
        limit: u64,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        if let Some(root) = self.roots.get(key) {
            return Ok(Fetched::Object {
                bytes: root.clone(),
                etag: ETag::new(""),
            });
        }
        let kept = self.kept_path(key);
        if let Some(bytes) = kept.as_ref().and_then(|p| std::fs::read(p).ok()) {
            return Ok(Fetched::Object {
                bytes: Bytes::from(bytes),
                etag: ETag::new(""),
            });
        }
        let call = || self.inner.get(key, limit, unless);
        let fetched = with_retries(Backoff::INTERACTIVE, call).await?;
        if let Fetched::Object { bytes, etag } = &fetched {
            self.tags
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(key.to_owned(), etag.clone());
            if let Some(path) = kept {
                keep(&path, bytes);
            }
        }
        Ok(fetched)
    }

    async fn put(&self, key: &str, bytes: Bytes, on: PutCondition) -> Result<ETag, StoreError> {
        self.inner.put(key, bytes, on).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ListedObject>, StoreError> {
        self.inner.list_objects(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    fn server_time(&self) -> Option<ServerTime> {
        self.inner.server_time()
    }
}
