//! Reports as nodes write them, where no node runs.

use jiff::{SignedDuration, Timestamp};
use shared::documents::{NodeStatus, Phase, RolloutReport, STATUS_FORMAT, seal_node_object};
use shared::names::ReleaseNumber;
use shared::store::keys;

use crate::workspace::{Bucket, Operator, group};

/// What a node of the local environment says at rest on `release` (0: on none), `age` seconds ago.
///
/// # Panics
/// On names that are none.
#[must_use]
pub fn idle(group_name: &str, node: &str, release: u64, age: i64) -> NodeStatus {
    NodeStatus {
        format: STATUS_FORMAT,
        environment: "local".parse().expect("an environment's name"),
        group: group(group_name),
        node: node.parse().expect("a node's name"),
        agent_version: "0.1.0".to_owned(),
        agent_sha256: None,
        update_rejected: None,
        release: ReleaseNumber::new(release),
        published: ReleaseNumber::new(1),
        phase: Phase::Idle,
        error: None,
        hold: None,
        drift_repaired: 0,
        foreign: Vec::new(),
        clock_skew_seconds: Some(0),
        etcd: None,
        metadata_expires: None,
        rollout: RolloutReport::default(),
        backup: None,
        rewrite: None,
        written_at: Timestamp::now() - SignedDuration::from_secs(age),
    }
}

/// Puts a report where its node would, sealed as its node would.
///
/// # Errors
/// A group without keys, or a file that cannot be written.
pub async fn write_report(
    bucket: &Bucket,
    operator: &Operator,
    status: &NodeStatus,
) -> anyhow::Result<()> {
    let keyring = operator.keyring().await?;
    let key = keys::node_status(&status.group, &status.node);
    let name = keys::bound_name(&status.environment, &key);
    let group_key = &keyring.group(&status.group)?.group_key;
    let path = bucket.object(&key);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    Ok(std::fs::write(
        path,
        seal_node_object(status, &name, Some(group_key))?,
    )?)
}
