//! What keeps a collection and a publish from crossing each other (§5.7).
//!
//! A publish that finds an old artifact in the bucket does not upload it again; a collection that runs at the same moment
//! may see that no release names it. So a collection says that it runs, in one object, *before* it looks at which documents
//! there are; and a publish looks at that object before it looks for its artifacts and again after its own document is
//! there. Either the collection saw the document, or the publish sees that there was a collection, waits for its end, and
//! looks for its artifacts once more.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::limits;
use shared::store::{Backoff, ETag, Fetched, PutCondition, StoreErrorKind, keys, with_retries};

use crate::context::Context;
use crate::output;
use crate::publish::operator;
use crate::status::printable;

/// How long a collection may delete.
const LIFE: SignedDuration = SignedDuration::from_secs(120);
/// How often a publish looks whether one has ended.
const GLANCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    format: u32,
    by: String,
    until: Timestamp,
    ended: bool,
    /// Two of them are never the same bytes.
    nonce: u64,
}

/// The right to delete, for a while.
#[derive(Debug)]
pub struct Lease {
    document: Document,
    etag: ETag,
}

impl Lease {
    /// Takes it.
    ///
    /// # Errors
    /// Another collection that is under way; a store that fails.
    pub async fn take(context: &Context) -> anyhow::Result<Self> {
        let found = read(context).await?;
        let now = context.store_now();
        if let Some((there, _)) = &found
            && !there.ended
            && there.until > now
        {
            bail!(
                "{} collects at this moment, until {:.0} at the latest: try again then",
                there.by,
                there.until
            );
        }
        let document = Document {
            format: 1,
            by: operator(),
            until: now.checked_add(LIFE).unwrap_or(now),
            ended: false,
            nonce: rand::random(),
        };
        let condition = found.map_or(PutCondition::Absent, |(_, etag)| {
            PutCondition::Matches(etag)
        });
        match write(context, &document, condition).await {
            Ok(etag) => Ok(Self { document, etag }),
            Err(e) if e.kind == StoreErrorKind::Conflict => {
                bail!("somebody else began to collect at this moment: try again later")
            }
            Err(e) => Err(e).context("cannot say that a collection runs"),
        }
    }

    /// Whether it still holds; with a margin for one call and its retries.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        let left = self.document.until.duration_since(now);
        left > SignedDuration::from_secs(40)
    }

    /// Gives it back. One that could not be given back ends by itself.
    pub(super) async fn give_back(self, context: &Context) {
        let ended = Document {
            ended: true,
            ..self.document
        };
        if let Err(error) = write(context, &ended, PutCondition::Matches(self.etag)).await {
            tracing::warn!("the collection's end was not recorded: {error}");
        }
    }
}

/// What a publish saw before it looked for its artifacts.
#[derive(Debug)]
pub struct CollectionWatch(Option<ETag>);

impl CollectionWatch {
    /// Waits until no collection runs.
    ///
    /// # Errors
    /// A store that fails.
    pub async fn begin(context: &Context) -> anyhow::Result<Self> {
        let mut said = false;
        loop {
            let found = read(context).await?;
            let now = context.store_now();
            match found {
                Some((there, _)) if !there.ended && there.until > now => {
                    if !said {
                        said = true;
                        output::note(format!(
                            "waiting for a collection of old releases by {} (it ends by {:.0} at the latest)",
                            printable(&there.by),
                            there.until
                        ));
                    }
                    tokio::time::sleep(GLANCE).await;
                }
                found => return Ok(Self(found.map(|(_, etag)| etag))),
            }
        }
    }

    /// Whether there was a collection since; waits for its end.
    ///
    /// # Errors
    /// A store that fails.
    pub async fn is_crossed(&mut self, context: &Context) -> anyhow::Result<bool> {
        let Self(now) = Self::begin(context).await?;
        let crossed = now != self.0;
        self.0 = now;
        Ok(crossed)
    }
}

async fn read(context: &Context) -> anyhow::Result<Option<(Document, ETag)>> {
    let key = keys::COLLECTION;
    let get = || context.store.get(key, limits::NODE_OBJECT_BYTES, None);
    match with_retries(Backoff::INTERACTIVE, get).await {
        Ok(Fetched::Object { bytes, etag }) => {
            let document = serde_json::from_slice(&bytes).with_context(|| {
                format!("{key} does not parse: remove it if no collection runs")
            })?;
            Ok(Some((document, etag)))
        }
        Ok(Fetched::NotModified) => bail!("the store answered 304 to a plain read of {key}"),
        Err(e) if e.kind == StoreErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {key}")),
    }
}

async fn write(
    context: &Context,
    document: &Document,
    condition: PutCondition,
) -> Result<ETag, shared::store::StoreError> {
    let bytes = Bytes::from(serde_json::to_vec(document).unwrap_or_default());
    context.store.put(keys::COLLECTION, bytes, condition).await
}
