//! Which release is known to be good: one that every node that reports has adopted.

use jiff::Timestamp;
use shared::names::GroupName;
use shared::trust::ReleaseTarget;

use super::Published;
use crate::context::Context;
use crate::keyring::Keyring;
use crate::status::{NodeReport, ReportError, STALE_AFTER_SECONDS, read_group};

/// The release to list as good beside the next one: the current one if all nodes that still report have it and none
/// shows an error, else the one that was good before.
pub(super) async fn good_release(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    published: &Published,
) -> anyhow::Result<Option<ReleaseTarget>> {
    let Some(current) = published.current() else {
        return Ok(None);
    };
    let reports = read_group(context, keyring.group(group)?, group).await?;
    let chosen = if is_good(current, &reports, Timestamp::now()) {
        Some(current)
    } else {
        published.good()
    };
    Ok(chosen.cloned())
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
