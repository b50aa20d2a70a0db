//! What a node says about itself: a report, not a proof.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::report::{BackupReport, RolloutReport};
use crate::digest::Sha256Digest;
use crate::etcd::EtcdReport;
use crate::names::{EnvironmentName, GroupName, NodeId, ReleaseNumber};
use crate::rewrite::RewriteReport;

/// Format number of the status document.
pub const STATUS_FORMAT: u32 = 1;

/// Where the agent's loop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Started, and nothing adopted yet.
    Starting,
    /// Nothing to do.
    Idle,
    /// Verifying the signed metadata.
    Verify,
    /// Replacing the agent by the one that the release names.
    Update,
    /// Fetching the bundle.
    Fetch,
    /// Unwrapping its identity and decrypting it.
    Decrypt,
    /// Checking what it holds.
    Check,
    /// Fetching the artifacts that are missing.
    Install,
    /// Running the probes of a release before it is applied.
    Baseline,
    /// Working out what to write and remove.
    Plan,
    /// Waiting for its turn in a rollout, or giving its slot back.
    Slot,
    /// Writing and removing.
    Apply,
    /// Running the probes of a release that was applied.
    Probe,
    /// Going back to the release before.
    Revert,
    /// Recording what is now owned, and removing what no manifest names.
    Commit,
    /// A person holds the node.
    Held,
    /// The last attempt failed; the node stays as it was and tries again.
    Failed,
}

/// What last went wrong and has not gone right since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusError {
    /// In which phase.
    pub phase: Phase,
    /// A word that metrics use too.
    pub kind: String,
    /// The whole chain of causes, outermost first.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
}

/// A person suspended repair and adoption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; none means until it is lifted.
    pub until: Option<Timestamp>,
}

/// A node's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// See [`STATUS_FORMAT`].
    pub format: u32,
    /// The node's environment.
    pub environment: EnvironmentName,
    /// The node's group.
    pub group: GroupName,
    /// The node.
    pub node: NodeId,
    /// Version of its agent.
    pub agent_version: String,
    /// Digest of its agent's binary, where the agent replaces itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_sha256: Option<Sha256Digest>,
    /// The agent that its release names and that did not work here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_rejected: Option<Sha256Digest>,
    /// The release that is on its disk and recorded in its ledger.
    pub release: Option<ReleaseNumber>,
    /// The newest release it has verified as published.
    pub published: Option<ReleaseNumber>,
    /// Where its loop is.
    pub phase: Phase,
    /// What is wrong, if anything.
    pub error: Option<StatusError>,
    /// Whether a person holds it.
    pub hold: Option<Hold>,
    /// Files put back since the agent started.
    pub drift_repaired: u64,
    /// Files in the manifest directory that the agent does not own: never touched, only reported.
    pub foreign: Vec<String>,
    /// How far its clock is ahead of the store's, in seconds.
    pub clock_skew_seconds: Option<i64>,
    /// When the first of its trusted metadata expires.
    pub metadata_expires: Option<Timestamp>,
    /// Its part in a rollout.
    #[serde(default, skip_serializing_if = "RolloutReport::is_empty")]
    pub rollout: RolloutReport,
    /// What it knows about etcd's backups, where its release is of machines that run etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupReport>,
    /// What it is to etcd, where its release runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdReport>,
    /// What it has done about an order to rewrite what is stored, where it leads etcd and its release has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteReport>,
    /// When this was written.
    pub written_at: Timestamp,
}

// === impl Phase ===

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Verify => "verify",
            Self::Update => "update",
            Self::Fetch => "fetch",
            Self::Decrypt => "decrypt",
            Self::Check => "check",
            Self::Install => "install",
            Self::Baseline => "baseline",
            Self::Plan => "plan",
            Self::Slot => "slot",
            Self::Apply => "apply",
            Self::Probe => "probe",
            Self::Revert => "revert",
            Self::Commit => "commit",
            Self::Held => "held",
            Self::Failed => "failed",
        })
    }
}

// === impl NodeStatus ===

impl NodeStatus {
    /// Whether the two say the same but for the time of writing: one error is the same while its phase, its kind and its
    /// beginning are, whatever its text (which may count, or name what is tried at the moment).
    #[must_use]
    pub fn same_report(&self, other: &Self) -> bool {
        let undated = |s: &Self| Self {
            written_at: Timestamp::UNIX_EPOCH,
            clock_skew_seconds: s.clock_skew_seconds.map(|s| s / 30),
            error: s.error.clone().map(|e| StatusError {
                message: String::new(),
                ..e
            }),
            // It moves all the time.
            etcd: s.etcd.clone().map(|e| EtcdReport {
                revision: None,
                ..e
            }),
            ..s.clone()
        };
        undated(self) == undated(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(message: &str, since: i64) -> NodeStatus {
        let since = Timestamp::from_second(since).unwrap();
        NodeStatus {
            format: STATUS_FORMAT,
            environment: "dev".parse().unwrap(),
            group: "secure".parse().unwrap(),
            node: "i-1".parse().unwrap(),
            agent_version: String::new(),
            agent_sha256: None,
            update_rejected: None,
            release: None,
            published: None,
            phase: Phase::Failed,
            error: Some(StatusError {
                phase: Phase::Apply,
                kind: "no_space".to_owned(),
                message: message.to_owned(),
                since,
            }),
            hold: None,
            drift_repaired: 0,
            foreign: Vec::new(),
            clock_skew_seconds: None,
            etcd: None,
            metadata_expires: None,
            rollout: RolloutReport::default(),
            backup: None,
            rewrite: None,
            written_at: since,
        }
    }

    #[test]
    fn an_error_that_only_words_itself_otherwise_is_no_news() {
        assert!(status("attempt 1", 1).same_report(&status("attempt 2", 1)));
        assert!(!status("attempt 1", 1).same_report(&status("attempt 1", 2)));
    }
}
