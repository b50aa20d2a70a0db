//! Removing from the bucket what nobody needs any more: bundles and documents of old releases, and artifacts that no kept
//! release names.
//!
//! `decide` (pure) says what goes and refuses a listing that cannot be whole; `gather` reads what there is to know; `lease`
//! keeps a collection and a publish from crossing each other. Roots, `timestamp.json`, `bootstrap/` and whatever has a
//! name that is not ours are never touched.

mod decide;
mod gather;
mod lease;

use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use shared::names::GroupName;
use shared::store::{Backoff, keys, with_retries};

use crate::context::Context;
use crate::keyring::Keyring;

pub use decide::{Deletion, Evidence, GcRefused, decide};
pub use gather::gather;
pub use lease::{CollectionWatch, Lease};

/// Releases that are kept for `history` and `rollback` beside those that are needed.
pub const KEEP: usize = 20;
/// What is younger than this is kept whatever it is: a publish may be under way.
pub const YOUNGEST: Duration = Duration::from_secs(24 * 3600);
/// What an artifact that no kept release names must have of age: it may be listed, and in review, without being published.
pub const YOUNGEST_ARTIFACT: Duration = Duration::from_secs(30 * 24 * 3600);
/// A publish collects only where so many documents more than are kept have gathered.
const SLACK: usize = 10;
/// Deletions at once.
const PARALLEL: usize = 8;

/// What an operator decides about a collection.
#[derive(Debug, Clone, Copy)]
pub struct Choices {
    /// Releases to keep; at least two.
    pub keep: usize,
    /// The least age of what is deleted.
    pub youngest: Duration,
    /// The least age of an artifact that is deleted.
    pub youngest_artifact: Duration,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            keep: KEEP,
            youngest: YOUNGEST,
            youngest_artifact: YOUNGEST_ARTIFACT,
        }
    }
}

/// What a collection removes, or would remove, of a group.
#[derive(Debug, Clone, Serialize)]
pub struct Collection {
    /// The group.
    pub group: GroupName,
    /// Each object.
    pub deleted: Vec<Deletion>,
    /// The sum of their lengths.
    pub bytes: u64,
}

impl Collection {
    fn of(group: &GroupName, deleted: Vec<Deletion>) -> Self {
        Self {
            group: group.clone(),
            bytes: deleted.iter().map(|d| d.bytes).sum(),
            deleted,
        }
    }
}

/// What would go; nothing is deleted.
///
/// # Errors
/// [`GcRefused`]; a store that fails, or metadata that is not acceptable.
pub async fn plan(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    choices: Choices,
) -> anyhow::Result<Collection> {
    let evidence = gather(context, keyring, group).await?;
    let now = context.store_now();
    Ok(Collection::of(group, decide(&evidence, choices, now)?))
}

/// Deletes what a group does not need. It is worked out anew under the lease, so what an earlier plan said does not count.
///
/// # Errors
/// As [`plan`]; another collection that is under way; the first object that could not be deleted.
pub async fn collect(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    choices: Choices,
) -> anyhow::Result<Collection> {
    // Without anything to delete nothing is written at all.
    let planned = plan(context, keyring, group, choices).await?;
    if planned.deleted.is_empty() {
        return Ok(planned);
    }
    let lease = Lease::take(context).await?;
    let done = under_lease(context, keyring, group, choices, &lease).await;
    lease.give_back(context).await;
    done
}

async fn under_lease(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    choices: Choices,
    lease: &Lease,
) -> anyhow::Result<Collection> {
    let planned = plan(context, keyring, group, choices).await?;
    // Documents go before what they name: a crash leaves objects that no document names, never the other way round.
    let is_document = |d: &&Deletion| d.key.starts_with(&keys::metadata_prefix(group));
    let (documents, targets): (Vec<_>, Vec<_>) = planned.deleted.iter().partition(is_document);
    for part in [documents, targets] {
        let deletions = part.into_iter().map(|d| delete(context, lease, &d.key));
        let deletions = stream::iter(deletions).buffered(PARALLEL);
        deletions.try_collect::<Vec<()>>().await?;
    }
    Ok(planned)
}

async fn delete(context: &Context, lease: &Lease, key: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        lease.holds(context.store_now()),
        "the collection took too long and ended before {key}; run it again"
    );
    let delete = || context.store.delete(key);
    let done = with_retries(Backoff::INTERACTIVE, delete).await;
    done.with_context(|| format!("cannot delete {key}"))
}

/// Collects after a publish, where enough has gathered; one listing where it has not.
///
/// # Errors
/// As [`collect`].
pub async fn collect_if_due(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
) -> anyhow::Result<Option<Collection>> {
    let prefix = keys::metadata_prefix(group);
    let listed = with_retries(Backoff::INTERACTIVE, || context.store.list(&prefix)).await?;
    let documents = crate::history::document_numbers(&prefix, listed.iter().map(String::as_str));
    if documents.len() <= KEEP + SLACK {
        return Ok(None);
    }
    let done = collect(context, keyring, group, Choices::default()).await?;
    Ok((!done.deleted.is_empty()).then_some(done))
}
