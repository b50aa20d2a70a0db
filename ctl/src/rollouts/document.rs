//! `rollouts/<group>.json`, read and changed (§7.1).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use shared::documents::{
    GroupKeys, NodeObjectError, Nonce, RolloutDocument, RolloutDocumentError, open_node_object,
};
use shared::durable::{self, Attributes};
use shared::limits;
use shared::names::GroupName;
use shared::store::{
    Backoff, ETag, Fetched, PutCondition, StoreError, StoreErrorKind, keys, with_retries,
};

use crate::context::Context;

/// How often a lost race is tried again: nodes write it too.
const RACES: u32 = 16;

/// A rollout document that nobody can go by: nodes stay as they are until it is mended.
#[derive(Debug, thiserror::Error)]
pub enum RolloutUnreadable {
    /// The store failed.
    #[error("{key} cannot be read")]
    Store {
        /// The object.
        key: String,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// It is not authentic.
    #[error(
        "{key} is not believed, and the nodes begin nothing while it is so: restore its newest good version (the bucket keeps \
         versions), or remove it and begin a new one with pause and resume, which forgets its pauses and slots"
    )]
    Object {
        /// The object.
        key: String,
        /// Why.
        #[source]
        source: NodeObjectError,
    },
    /// It is authentic, and of no use.
    #[error(
        "{key} cannot be gone by, and the nodes begin nothing while it is so: restore its newest version (the bucket keeps \
         versions), or remove it and begin a new one with pause and resume, which forgets its pauses and slots; this machine remembers the newest revision that it saw \
         in {remembered}"
    )]
    Document {
        /// The object.
        key: String,
        /// Where this machine remembers.
        remembered: String,
        /// Why.
        #[source]
        source: RolloutDocumentError,
    },
}

/// Reads what a group's nodes agree on; none where there was no rollout yet.
///
/// # Errors
/// [`RolloutUnreadable`].
pub async fn read(
    context: &Context,
    keys: &GroupKeys,
    group: &GroupName,
) -> Result<Option<RolloutDocument>, RolloutUnreadable> {
    Ok(read_tagged(context, keys, group)
        .await?
        .map(|(document, _)| document))
}

async fn read_tagged(
    context: &Context,
    group_keys: &GroupKeys,
    group: &GroupName,
) -> Result<Option<(RolloutDocument, ETag)>, RolloutUnreadable> {
    let key = keys::rollout(group);
    // Before the object is read: another platformctl here may see a newer one at the same moment.
    let remembered = remembered(context, group);
    let seen = revision_in(&remembered);
    let get = || context.store.get(&key, limits::NODE_OBJECT_BYTES, None);
    let failed = |source| RolloutUnreadable::Store {
        key: key.clone(),
        source,
    };
    let (bytes, etag) = match with_retries(Backoff::INTERACTIVE, get).await {
        Ok(Fetched::Object { bytes, etag }) => (bytes, etag),
        Ok(Fetched::NotModified) => {
            return Err(failed(StoreError {
                operation: "get",
                key: key.clone(),
                kind: StoreErrorKind::Other,
                source: None,
            }));
        }
        Err(e) if e.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let name = keys::bound_name(&context.workspace.name, &key);
    let document: RolloutDocument = open_node_object(&bytes, &name, &group_keys.group_key)
        .map_err(|source| RolloutUnreadable::Object {
            key: key.clone(),
            source,
        })?;
    let document = document
        .usable(seen)
        .map_err(|source| RolloutUnreadable::Document {
            key: key.clone(),
            remembered: remembered.display().to_string(),
            source,
        })?;
    remember(&remembered, document.revision);
    Ok(Some((document, etag)))
}

fn remembered(context: &Context, group: &GroupName) -> PathBuf {
    let state = context.workspace.state_directory();
    state.join("rollouts").join(group.as_str())
}

fn revision_in(path: &Path) -> u64 {
    let text = std::fs::read_to_string(path).ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// What can't be remembered is not noticed later.
fn remember(path: &Path, revision: u64) {
    if revision <= revision_in(path) {
        return;
    }
    let made = path
        .parent()
        .is_some_and(|p| std::fs::create_dir_all(p).is_ok());
    let text = format!("{revision}\n");
    if !made || durable::write_file(path, text.as_bytes(), Attributes::mode(0o600)).is_err() {
        tracing::debug!(path = %path.display(), "a rollout's revision was not remembered");
    }
}

/// Changes what a group's nodes agree on: `change` is called on what was read, again after each lost race, and says whether
/// it changed anything. Its times are the store's (`written_at` of what it is given). Gives the document as it is afterwards.
///
/// # Errors
/// [`RolloutUnreadable`]: what can't be read is not written over; those of `change`, with which nothing is written; a race
/// lost again and again.
pub async fn change(
    context: &Context,
    group_keys: &GroupKeys,
    group: &GroupName,
    mut change: impl FnMut(&mut RolloutDocument) -> anyhow::Result<bool>,
) -> anyhow::Result<RolloutDocument> {
    let key = keys::rollout(group);
    let name = keys::bound_name(&context.workspace.name, &key);
    let mut ours: Option<Nonce> = None;
    for attempt in 1..=RACES {
        let found = read_tagged(context, group_keys, group).await?;
        let (document, condition) = match found {
            Some((document, etag)) => (document, PutCondition::Matches(etag)),
            None => (RolloutDocument::empty(), PutCondition::Absent),
        };
        // An answer that was lost: the write had happened.
        if ours.as_ref() == Some(&document.nonce) {
            return Ok(document);
        }
        let nonce = Nonce::random();
        let mut next = document.next(nonce.clone(), context.store_now());
        let remembered = remembered(context, group);
        // A document that was removed does not begin again below what was seen.
        next.revision = next
            .revision
            .max(revision_in(&remembered).saturating_add(1));
        if !change(&mut next)? {
            return Ok(document);
        }
        let sealed = next.seal(&name, &group_keys.group_key)?;
        match context
            .store
            .put(&key, Bytes::from(sealed), condition)
            .await
        {
            Ok(_) => {
                remember(&remembered, next.revision);
                return Ok(next);
            }
            Err(e) if e.kind == StoreErrorKind::Conflict || e.kind.is_transient() => {
                ours = Some(nonce);
                tokio::time::sleep(Backoff::INTERACTIVE.pause(attempt.min(4))).await;
            }
            Err(e) => return Err(e).with_context(|| format!("cannot write {key}")),
        }
    }
    Err(anyhow!(
        "{key} was changed by others {RACES} times in a row; nothing was written: try again"
    ))
}
