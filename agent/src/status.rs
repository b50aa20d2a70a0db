//! When and how the node's status object is written.

use std::time::Duration;

use bytes::Bytes;
use shared::documents::{GroupKey, NodeStatus, seal_node_object};
use shared::names::{EnvironmentName, GroupName, NodeId};
use shared::store::keys;
use tokio::time::Instant;

/// How often an unchanged status is written again.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(300);
/// How often it is while the node holds a slot.
pub const SLOT_INTERVAL: Duration = Duration::from_secs(15);
/// Most foreign files that are named; the object has a limit.
const FOREIGN_NAMED: usize = 50;
/// Longest name of a foreign file that is written whole, in characters.
const FOREIGN_CHARACTERS: usize = 100;
/// A skew that moves by less is the same skew: the store's Date has whole seconds only.
const SKEW_SECONDS: i64 = 5;

/// Who reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Its environment.
    pub environment: EnvironmentName,
    /// Its group.
    pub group: GroupName,
    /// Its name.
    pub node: NodeId,
}

/// Decides when to write, and remembers what was written.
#[derive(Debug, Default)]
pub struct Reporter {
    written: Option<(NodeStatus, Instant)>,
    /// Of what kind the failure to write is at the moment.
    unwritten: Option<&'static str>,
    skew: Option<i64>,
    /// How often an unchanged status is written now; none where it is at rest.
    interval: Option<Duration>,
}

impl NodeIdentity {
    /// The key of the node's status object.
    #[must_use]
    pub fn status_key(&self) -> String {
        keys::node_status(&self.group, &self.node)
    }

    /// The bytes of the node's status object.
    ///
    /// # Errors
    /// serde's own, never for a status.
    pub fn seal(
        &self,
        status: &NodeStatus,
        key: Option<&GroupKey>,
    ) -> Result<Bytes, serde_json::Error> {
        let name = keys::bound_name(&self.environment, &self.status_key());
        seal_node_object(status, &name, key).map(Bytes::from)
    }
}

impl Reporter {
    /// Whether `status` is to be written: it says something else than what was written last, or that was long ago.
    #[must_use]
    pub fn is_due(&self, status: &NodeStatus) -> bool {
        match &self.written {
            None => true,
            Some((last, at)) => {
                !last.same_report(status) || at.elapsed() >= self.interval.unwrap_or(IDLE_INTERVAL)
            }
        }
    }

    /// From now on an unchanged status is written this often.
    pub fn every(&mut self, interval: Duration) {
        self.interval = Some(interval);
    }

    /// It was written.
    pub fn written(&mut self, status: NodeStatus) {
        self.written = Some((status, Instant::now()));
        self.unwritten = None;
    }

    /// It could not be written. Returns whether that is new.
    pub fn unwritten(&mut self, kind: &'static str) -> bool {
        self.unwritten.replace(kind) != Some(kind)
    }

    /// The skew to report: the one reported before, while it is about the same.
    pub fn steady_skew(&mut self, measured: Option<i64>) -> Option<i64> {
        let moved = match (self.skew, measured) {
            (Some(old), Some(new)) => old.abs_diff(new) > SKEW_SECONDS.unsigned_abs(),
            _ => true,
        };
        if moved {
            self.skew = measured;
        }
        self.skew
    }
}

/// The names of foreign files, as many and as long as the object has room for.
#[must_use]
pub fn named(foreign: &[String]) -> Vec<String> {
    let mut names: Vec<String> = foreign
        .iter()
        .take(FOREIGN_NAMED)
        .map(|n| n.chars().take(FOREIGN_CHARACTERS).collect())
        .collect();
    if let Some(more) = foreign.len().checked_sub(FOREIGN_NAMED).filter(|n| *n > 0) {
        names.push(format!("… and {more} more"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use shared::documents::{Phase, RolloutReport, STATUS_FORMAT, StatusError};

    fn status() -> NodeStatus {
        NodeStatus {
            format: STATUS_FORMAT,
            environment: "dev".parse().unwrap(),
            group: "secure".parse().unwrap(),
            node: "r:i-1".parse().unwrap(),
            agent_version: "1".into(),
            agent_sha256: None,
            update_rejected: None,
            release: None,
            published: None,
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
            written_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn due_on_change_and_every_five_minutes() {
        let mut reporter = Reporter::default();
        assert!(reporter.is_due(&status()));
        reporter.written(status());
        let later = NodeStatus {
            rollout: RolloutReport::default(),
            written_at: Timestamp::from_second(9).unwrap(),
            ..status()
        };
        assert!(!reporter.is_due(&later));
        let repaired = NodeStatus {
            drift_repaired: 1,
            ..status()
        };
        assert!(reporter.is_due(&repaired));
        tokio::time::advance(IDLE_INTERVAL).await;
        assert!(reporter.is_due(&later));
    }

    #[tokio::test]
    async fn a_failure_to_write_is_new_once_for_each_kind() {
        let mut reporter = Reporter::default();
        assert!(reporter.unwritten("timeout"));
        assert!(!reporter.unwritten("timeout"));
        assert!(reporter.unwritten("forbidden"));
        reporter.written(status());
        assert!(reporter.unwritten("forbidden"));
    }

    #[test]
    fn a_wobbling_skew_is_one_skew() {
        let mut reporter = Reporter::default();
        assert_eq!(reporter.steady_skew(Some(29)), Some(29));
        assert_eq!(reporter.steady_skew(Some(31)), Some(29));
        assert_eq!(reporter.steady_skew(Some(60)), Some(60));
        assert_eq!(reporter.steady_skew(None), None);
    }

    #[test]
    fn the_worst_status_fits_its_object() {
        let foreign: Vec<String> = (0..5000)
            .map(|n| format!("{n}{}", "é".repeat(255)))
            .collect();
        let error = StatusError {
            phase: Phase::Apply,
            kind: "x".into(),
            message: "\u{1}".repeat(2000),
            since: Timestamp::UNIX_EPOCH,
        };
        let full = NodeStatus {
            foreign: named(&foreign),
            error: Some(error),
            ..status()
        };
        let identity = NodeIdentity {
            environment: full.environment.clone(),
            group: full.group.clone(),
            node: full.node.clone(),
        };
        let sealed = identity.seal(&full, Some(&GroupKey::generate())).unwrap();
        assert!((sealed.len() as u64) < shared::limits::NODE_OBJECT_BYTES);
        assert!(full.foreign.last().unwrap().contains("4950 more"));
    }
}
