//! The bucket behind a narrow trait; its S3 adapter; the keys of its objects.

mod answers;
mod dns;
pub mod keys;
mod node_sdk;
mod retry;
mod s3;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;

pub use aws_config::SdkConfig;
pub use dns::SystemDns;
pub use node_sdk::node_sdk_config;
pub use retry::{Backoff, put_immutable, with_retries};
pub use s3::{S3Store, aws_config_loader, http_client};

/// An S3 entity tag: opaque, good only for conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ETag(String);

impl ETag {
    /// The tag as the store spells it, quotes included.
    #[must_use]
    pub fn new(tag: impl Into<String>) -> Self {
        Self(tag.into())
    }

    /// The tag as the store spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a read gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The object is still the one of the tag that was given.
    NotModified,
    /// The object.
    Object {
        /// Its bytes, at most the limit that was asked for.
        bytes: Bytes,
        /// Its tag.
        etag: ETag,
    },
}

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When it was written, by the store's clock; none where the store does not say.
    pub written: Option<Timestamp>,
}

/// The bytes of an object as they come, in order; the first failure ends it.
pub type ObjectStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// When a write may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutCondition {
    /// Only where no object of that key exists (`If-None-Match: *`).
    Absent,
    /// Only over the object of this tag (`If-Match`).
    Matches(ETag),
    /// Always: for an object with a single writer.
    Always,
}

/// What kind of failure it was: it drives retries, metrics and exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// No such object.
    NotFound,
    /// The store refused (S3 also answers so for a missing key where the caller may not list).
    Forbidden,
    /// The store refused because the clocks are too far apart.
    ClockSkew,
    /// The condition of a write did not hold, or a concurrent write is under way.
    Conflict,
    /// Slow down.
    Throttled,
    /// The store failed (5xx).
    Unavailable,
    /// No whole answer within the deadline.
    Timeout,
    /// No connection, or it broke.
    Connection,
    /// The object is longer than its limit.
    TooLarge,
    /// Anything else.
    Other,
}

/// A call to the store that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {key}: {kind}")]
pub struct StoreError {
    /// `get`, `put`, `list` or `delete`.
    pub operation: &'static str,
    /// The object's key, or the prefix.
    pub key: String,
    /// What kind of failure.
    pub kind: StoreErrorKind,
    /// What the client said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What the store's clock said, against ours at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerTime {
    /// The `Date` of the answer.
    pub server: Timestamp,
    /// Our clock when the answer came.
    pub local: Timestamp,
}

impl ServerTime {
    /// How far our clock is ahead of the store's (negative: behind), in seconds.
    #[must_use]
    pub fn skew_seconds(&self) -> i64 {
        self.local
            .as_second()
            .saturating_sub(self.server.as_second())
    }
}

/// The bucket.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync {
    /// Reads an object of at most `limit` bytes; with `unless`, answers [`Fetched::NotModified`] for that tag.
    ///
    /// # Errors
    /// [`StoreError`]; an object over the limit is [`StoreErrorKind::TooLarge`], read no further than that.
    async fn get(
        &self,
        key: &str,
        limit: u64,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError>;

    /// Reads an object of at most `limit` bytes piece by piece, for what is too large for memory. Only the beginning has a
    /// deadline here: the caller bounds the whole with [`deadline_for`].
    ///
    /// # Errors
    /// As [`ObjectStore::get`], here or as an item of the stream.
    async fn get_stream(&self, key: &str, limit: u64) -> Result<ObjectStream, StoreError> {
        let bytes = match self.get(key, limit, None).await? {
            Fetched::Object { bytes, .. } => bytes,
            Fetched::NotModified => Bytes::new(),
        };
        Ok(Box::pin(stream::once(std::future::ready(Ok(bytes)))))
    }

    /// Writes an object under a condition and returns its new tag.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreErrorKind::Conflict`] where the condition does not hold. After any other kind the write
    /// may still have happened.
    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: PutCondition,
    ) -> Result<ETag, StoreError>;

    /// The keys under a prefix, all pages, sorted.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// As [`ObjectStore::list`], with what a listing says of each object. A store that says nothing of them gives lengths
    /// of 0 and no times.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list_objects(&self, prefix: &str) -> Result<Vec<ListedObject>, StoreError> {
        let keys = self.list(prefix).await?.into_iter();
        let bare = |key| ListedObject {
            key,
            bytes: 0,
            written: None,
        };
        Ok(keys.map(bare).collect())
    }

    /// Removes an object; one that is not there is fine.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// The store's clock at its last answer, if it has answered.
    fn server_time(&self) -> Option<ServerTime>;
}

/// How long a whole object may take: a fixed part, and its length at 128 KiB/s. A body that trickles is cut off here.
#[must_use]
pub fn deadline_for(length: u64) -> Duration {
    Duration::from_secs(5) + Duration::from_millis(length.saturating_mul(1000) / (128 * 1024))
}

// === impl StoreErrorKind ===

impl StoreErrorKind {
    /// A word for metrics labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::ClockSkew => "clock_skew",
            Self::Conflict => "conflict",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::TooLarge => "too_large",
            Self::Other => "other",
        }
    }

    /// Whether the object may not be there: S3 says 403, and not 404, of one that is absent to who may not list its prefix
    /// (as the nodes may not: GetObject carries no prefix that a policy could allow).
    #[must_use]
    pub const fn may_be_absent(self) -> bool {
        matches!(self, Self::NotFound | Self::Forbidden)
    }

    /// Whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Throttled | Self::Unavailable | Self::Timeout | Self::Connection
        )
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such object",
            Self::Forbidden => "the store refused access",
            Self::ClockSkew => "the store refused: this machine's clock is too far off",
            Self::Conflict => "somebody else wrote it first",
            Self::Throttled => "the store says to slow down",
            Self::Unavailable => "the store failed",
            Self::Timeout => "no whole answer within the deadline",
            Self::Connection => "no connection to the store, or it broke",
            Self::TooLarge => "the object is longer than its limit",
            Self::Other => "the store gave an unexpected answer",
        })
    }
}
