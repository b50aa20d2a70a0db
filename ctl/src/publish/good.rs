//! Which release is known to be good: one whose rollout completed, or that every node that reports has adopted.

use jiff::Timestamp;
use shared::documents::{RolloutDocument, open_node_object};
use shared::limits;
use shared::names::GroupName;
use shared::store::{Backoff, Fetched, StoreErrorKind, keys, with_retries};
use shared::trust::ReleaseTarget;

use super::Published;
use crate::context::Context;
use crate::keyring::Keyring;
use crate::status::{NodeReport, ReportError, STALE_AFTER_SECONDS, read_group};

/// The release to list as good beside the next one: the current one if the nodes' rollout document says that it completed,
/// or if it names nobody under way and no halt, all nodes that still report have it and none shows an error. Else the one
/// that was good before; also where the document is there and cannot be read.
pub(super) async fn good_release(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    published: &Published,
) -> anyhow::Result<Option<ReleaseTarget>> {
    let Some(current) = published.current() else {
        return Ok(None);
    };
    let document = match rollout_document(context, keyring, group).await {
        Ok(document) => document,
        Err(error) => {
            tracing::warn!("keeping the release that was good before: {error:#}");
            return Ok(published.good().cloned());
        }
    };
    let release = current.release();
    let completed = document
        .as_ref()
        .is_some_and(|d| d.good >= Some(release) && !d.is_halted(release));
    let under_way = document.as_ref().is_some_and(|d| {
        d.is_halted(release) || !d.holders.is_empty() || !d.unavailable.is_empty()
    });
    let reports = match completed || under_way {
        true => Vec::new(),
        false => read_group(context, keyring.group(group)?, group).await?,
    };
    let chosen = if completed || is_good(current, &reports, context.store_now()) {
        Some(current)
    } else {
        published.good()
    };
    Ok(chosen.cloned())
}

/// What the nodes agree on; none where they never had a rollout.
async fn rollout_document(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
) -> anyhow::Result<Option<RolloutDocument>> {
    let key = keys::rollout(group);
    let fetch = || context.store.get(&key, limits::NODE_OBJECT_BYTES, None);
    let bytes = match with_retries(Backoff::INTERACTIVE, fetch).await {
        Ok(Fetched::Object { bytes, .. }) => bytes,
        Ok(Fetched::NotModified) => return Ok(None),
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let name = keys::bound_name(&context.workspace.name, &key);
    let document: RolloutDocument =
        open_node_object(&bytes, &name, &keyring.group(group)?.group_key)?;
    Ok(Some(document.usable(0)?))
}

/// At least one node must have reported: a release that nobody runs is not known to be good.
fn is_good(current: &ReleaseTarget, reports: &[NodeReport], now: Timestamp) -> bool {
    // A report that is there and cannot be read could say anything.
    let unread = |r: &NodeReport| matches!(r.status, Err(ReportError::Store(_)));
    if reports.iter().any(unread) {
        return false;
    }
    // A machine that is gone says nothing any more, and must not keep what it last ran for ever.
    let mut heard = reports
        .iter()
        .filter(|r| {
            r.age_seconds(now)
                .is_some_and(|age| age <= STALE_AFTER_SECONDS)
        })
        .filter_map(|r| r.status.as_ref().ok())
        .peekable();
    heard.peek().is_some()
        && heard.all(|s| s.release == Some(current.release()) && s.error.is_none())
}
