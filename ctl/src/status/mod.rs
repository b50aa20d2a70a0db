//! What the nodes say of themselves, and whether it may be believed.

mod show;
mod silent;
mod snapshot;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use shared::documents::{GroupKeys, NodeObjectError, NodeStatus, open_node_object};
use shared::limits;
use shared::names::{GroupName, ReleaseNumber};
use shared::rollout::NodeSeen;
use shared::store::{Backoff, Fetched, StoreError, StoreErrorKind, keys, with_retries};

use crate::context::Context;
use crate::exit::mistake;
use crate::keyring::Keyring;

pub(crate) use show::etcd_line;
pub use snapshot::{GroupSize, GroupStatus, Snapshot, read_group_status};

/// Reads at once.
const PARALLEL: usize = 16;
/// A node that has not reported for this long is stale: twice the idle report period and a bit.
pub const STALE_AFTER_SECONDS: i64 = 660;

/// One status object.
#[derive(Debug)]
pub struct NodeReport {
    /// The node, as its object's key names it.
    pub node: String,
    /// The group whose prefix it lies under.
    pub group: GroupName,
    /// The status, or why it is not believed.
    pub status: Result<NodeStatus, ReportError>,
}

/// A status object that says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It cannot be read.
    #[error("cannot be read")]
    Store(#[source] StoreError),
    /// It is not authentic.
    #[error("is not believed")]
    Object(#[source] NodeObjectError),
    /// It speaks for another node.
    #[error("speaks for {0}")]
    OtherNode(String),
}

/// Reads the status objects of a group's nodes.
///
/// # Errors
/// The listing that failed; an object that fails is a report with its error.
pub async fn read_group(
    context: &Context,
    group_keys: &GroupKeys,
    group: &GroupName,
) -> anyhow::Result<Vec<NodeReport>> {
    let prefix = keys::nodes_prefix(group);
    let names = with_retries(Backoff::INTERACTIVE, || context.store.list(&prefix)).await?;
    let reads = names.into_iter().map(|key| {
        let node = key
            .strip_prefix(&prefix)
            .unwrap_or(&key)
            .trim_end_matches(".json")
            .to_owned();
        async move {
            let status = read_one(context, group_keys, &key, &node, group).await;
            NodeReport {
                node,
                group: group.clone(),
                status,
            }
        }
    });
    Ok(stream::iter(reads).buffered(PARALLEL).collect().await)
}

/// The report of one node, of whichever group: its whole name, or the part after the last colon (its instance).
///
/// # Errors
/// A [`crate::exit::Mistake`] for a name that no node has, or more than one; a store that fails.
pub async fn find_node(
    context: &Context,
    keyring: &Keyring,
    name: &str,
) -> anyhow::Result<NodeReport> {
    let mut found = Vec::new();
    for group in &context.workspace.groups {
        let Some(keys) = keyring.content.groups.get(group) else {
            continue;
        };
        let is_it = |node: &str| node == name || node.rsplit(':').next() == Some(name);
        let reports = read_group(context, keys, group).await?.into_iter();
        found.extend(reports.filter(|report| is_it(&report.node)));
    }
    match found.len() {
        0 => Err(mistake(format!(
            "no node {name} has ever reported, or it was forgotten (`platformctl status` names those that there are)"
        ))),
        1 => found.pop().ok_or_else(|| mistake("no node")),
        _ => {
            let all = found.iter().map(|r| format!("{}/{}", r.group, r.node));
            let all: Vec<String> = all.collect();
            Err(mistake(format!(
                "{name} is more than one node: {}",
                all.join(", ")
            )))
        }
    }
}

async fn read_one(
    context: &Context,
    group_keys: &GroupKeys,
    key: &str,
    node: &str,
    group: &GroupName,
) -> Result<NodeStatus, ReportError> {
    let fetch = || context.store.get(key, limits::NODE_OBJECT_BYTES, None);
    let bytes = match with_retries(Backoff::INTERACTIVE, fetch).await {
        Ok(Fetched::Object { bytes, .. }) => bytes,
        Ok(Fetched::NotModified) => {
            return Err(ReportError::Store(StoreError {
                operation: "get",
                key: key.to_owned(),
                kind: StoreErrorKind::Other,
                source: None,
            }));
        }
        Err(e) => return Err(ReportError::Store(e)),
    };
    let name = keys::bound_name(&context.workspace.name, key);
    let status: NodeStatus =
        open_node_object(&bytes, &name, &group_keys.group_key).map_err(ReportError::Object)?;
    if status.node.as_str() != node || status.group != *group {
        return Err(ReportError::OtherNode(format!(
            "{}/{}",
            status.group, status.node
        )));
    }
    Ok(status)
}

// === impl NodeReport ===

impl NodeReport {
    /// Seconds since the node wrote its report, by the store's clock.
    #[must_use]
    pub fn age_seconds(&self, now: Timestamp) -> Option<i64> {
        let written = NodeSeen::of(self.status.as_ref().ok()?).written_at;
        Some(now.duration_since(written).as_secs().max(0))
    }

    /// Why the node does not count as being on `published` and well; none where it does.
    #[must_use]
    pub fn objection(&self, published: Option<ReleaseNumber>, now: Timestamp) -> Option<String> {
        let status = match &self.status {
            Ok(status) => status,
            Err(e) => {
                let cause = std::error::Error::source(e).map(|c| format!(": {c}"));
                return Some(format!("{e}{}", cause.unwrap_or_default()));
            }
        };
        if let Some(error) = &status.error {
            return Some(printable(&error.message));
        }
        if status.release != published {
            return Some("not on the published release".to_owned());
        }
        if let Some(hold) = &status.hold {
            return Some(format!("held: {}", printable(&hold.reason)));
        }
        let age = self.age_seconds(now).unwrap_or(0);
        (age > STALE_AFTER_SECONDS).then(|| "no report for too long".to_owned())
    }

    /// What is worth a look though the node is as it should be: files beside the platform's own manifests.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let foreign = &self.status.as_ref().ok()?.foreign;
        (!foreign.is_empty()).then(|| {
            let names: Vec<String> = foreign.iter().map(|name| printable(name)).collect();
            format!("files of somebody else in manifests/: {}", names.join(", "))
        })
    }
}

/// Text that a node wrote, without what would move the cursor or begin a line of its own.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc é"), "a\u{fffd}[2Jb\u{fffd}c é");
    }
}
