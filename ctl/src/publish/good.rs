//! Which release is known to be good: one that every node that reports has adopted.

use shared::names::GroupName;
use shared::trust::ReleaseTarget;

use super::Published;
use crate::context::Context;
use crate::keyring::Keyring;
use crate::status::{NodeReport, read_group};

/// The release to list as good beside the next one: the current one if all nodes that report have it and none shows
/// an error, else the one that was good before.
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
    let chosen = if is_good(current, &reports) {
        Some(current)
    } else {
        published.good()
    };
    Ok(chosen.cloned())
}

/// At least one node must have reported: a release that nobody runs is not known to be good.
fn is_good(current: &ReleaseTarget, reports: &[NodeReport]) -> bool {
    let mut authentic = reports
        .iter()
        .filter_map(|r| r.status.as_ref().ok())
        .peekable();
    authentic.peek().is_some()
        && authentic.all(|s| s.release == Some(current.release()) && s.error.is_none())
}
