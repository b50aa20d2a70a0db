//! How tough reads: from the store, and with every metadata byte remembered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tough::{Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

use crate::limits;
use crate::store::{Fetched, ObjectStore, StoreErrorKind};

/// The base address that stands for a group's metadata prefix.
///
/// # Errors
/// Never: the address is a constant.
pub fn metadata_url() -> Result<Url, url::ParseError> {
    Url::parse("store://group/metadata/")
}

/// The base address that stands for a group's targets prefix.
///
/// # Errors
/// Never: the address is a constant.
pub fn targets_url() -> Result<Url, url::ParseError> {
    Url::parse("store://group/targets/")
}

/// Reads a group's repository from the store.
#[derive(Debug, Clone)]
pub struct StoreTransport {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    newest_root: Option<u64>,
}

impl StoreTransport {
    /// Reads below `prefix` (`groups/NAME`, without a slash at its end).
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, prefix: impl Into<String>) -> Self {
        Self {
            store,
            prefix: prefix.into(),
            newest_root: None,
        }
    }

    /// Says that no root newer than `version` exists, which only its signer can know; saves asking the store.
    #[must_use]
    pub fn with_newest_root(mut self, version: u64) -> Self {
        self.newest_root = Some(version);
        self
    }

    fn is_known_absent(&self, name: &str) -> bool {
        let asked = name
            .strip_suffix(".root.json")
            .and_then(|n| n.parse::<u64>().ok());
        matches!((asked, self.newest_root), (Some(asked), Some(newest)) if asked > newest)
    }
}

#[async_trait]
impl Transport for StoreTransport {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let path = url.path().trim_start_matches('/');
        let name = path.rsplit('/').next().unwrap_or_default();
        if self.is_known_absent(name) {
            return Err(TransportError::new(TransportErrorKind::FileNotFound, &url));
        }
        let limit = limit_of(path);
        let key = format!("{}/{path}", self.prefix);
        match self.store.get(&key, limit, None).await {
            Ok(Fetched::Object { bytes, .. }) => {
                Ok(Box::pin(stream::once(std::future::ready(Ok(bytes)))))
            }
            Ok(Fetched::NotModified) => Err(TransportError::new(TransportErrorKind::Other, &url)),
            Err(e) => {
                // S3 answers 403 for a missing key where the role may not list (facts of S3), so for the next root
                // both mean that there is none. Where a document must be there, both are a failure all the same.
                let absent = matches!(e.kind, StoreErrorKind::NotFound | StoreErrorKind::Forbidden);
                let kind = if absent {
                    TransportErrorKind::FileNotFound
                } else {
                    TransportErrorKind::Other
                };
                Err(TransportError::new_with_cause(kind, &url, e))
            }
        }
    }
}

fn limit_of(path: &str) -> u64 {
    if path.starts_with("targets/") {
        limits::BUNDLE_BYTES
    } else if path.ends_with("targets.json") {
        limits::TARGETS_BYTES
    } else {
        limits::METADATA_BYTES
    }
}

/// Remembers the bytes of every metadata document that passes, and keeps tough from taking a fault for "no newer
/// root": tough ends the root walk at *any* error of `fetch`, so every failure but "not there" is handed on as a
/// stream whose first item is the error (§4.3).
#[derive(Clone)]
pub struct Recorder<T> {
    inner: T,
    metadata_base: Url,
    seen: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl<T> Recorder<T> {
    /// Records what `inner` reads below `metadata_base`.
    #[must_use]
    pub fn new(inner: T, metadata_base: Url) -> Self {
        Self {
            inner,
            metadata_base,
            seen: Arc::default(),
        }
    }

    /// The bytes of the document `name`, if it was read.
    #[must_use]
    pub fn seen(&self, name: &str) -> Option<Bytes> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }
}

impl<T> fmt::Debug for Recorder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("metadata_base", &self.metadata_base.as_str())
            .finish_non_exhaustive()
    }
}

fn failing(error: TransportError) -> TransportStream {
    Box::pin(stream::once(std::future::ready(Err(error))))
}

#[async_trait]
impl<T: Transport + Clone> Transport for Recorder<T> {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let stream = match self.inner.fetch(url.clone()).await {
            Ok(stream) => stream,
            Err(e) if e.kind() == TransportErrorKind::FileNotFound => return Err(e),
            Err(e) => return Ok(failing(e)),
        };
        let Some(name) = url.as_str().strip_prefix(self.metadata_base.as_str()) else {
            return Ok(stream);
        };
        let limit = usize::try_from(limit_of(name)).unwrap_or(usize::MAX);
        let mut left = limit;
        // One chunk over the limit is enough for tough's own limit to refuse the document.
        let chunks: Result<Vec<Bytes>, TransportError> = stream
            .scan((), |(), chunk| {
                let go_on = left > 0;
                left = left.saturating_sub(chunk.as_ref().map_or(0, Bytes::len));
                std::future::ready(go_on.then_some(chunk))
            })
            .try_collect()
            .await;
        let bytes = match chunks {
            Ok(chunks) => Bytes::from(chunks.concat()),
            Err(e) if e.kind() == TransportErrorKind::FileNotFound => return Err(e),
            Err(e) => return Ok(failing(e)),
        };
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), bytes.clone());
        Ok(Box::pin(stream::once(std::future::ready(Ok(bytes)))))
    }
}
