//! What a node's status says about rollouts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backup::BackupName;
use crate::bundle::TimeSpan;
use crate::digest::Sha256Digest;
use crate::names::{NodeId, ReleaseNumber};

/// Most decisions that a status holds; older ones go first.
pub const DECISIONS_KEPT: usize = 20;

/// What a node knows about etcd's backups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The newest one whose manifest it could believe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastBackup>,
    /// Why its last attempt to take one, or to look for one, did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<BackupFailed>,
}

/// A backup, as a node's status names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// The generation of the cluster that it is of.
    pub generation: u32,
    /// Its name.
    pub name: BackupName,
    /// Its length once opened, in bytes.
    pub bytes: u64,
    /// Which node took it.
    pub node: NodeId,
}

/// An attempt that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFailed {
    /// A word that metrics use too.
    pub kind: String,
    /// The whole chain of causes.
    pub message: String,
    /// Since when it has been so.
    pub since: Timestamp,
}

/// What a node says about its part in a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutReport {
    /// Its zone, where it knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The slot that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotReport>,
    /// A release that it does not adopt for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The last result of each probe of the release that it adopted last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeReport>,
    /// The last release that it reverted, or tried to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<RevertReport>,
    /// Its last decisions, oldest first; at most [`DECISIONS_KEPT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
}

/// Where a node in transition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// It has the slot, and has not changed a file.
    Granted,
    /// It writes the release.
    Applying,
    /// The release is on its disk, and its probes run.
    Probing,
    /// The release is there to stay; the slot is being given back.
    Committed,
    /// It goes back to the release before.
    Reverting,
    /// It is back on the release before; the slot is being given back.
    Reverted,
    /// It could not go back, and keeps trying: somebody has to look.
    RevertFailed,
}

/// A slot, as its holder sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// The release that it adopts.
    pub release: ReleaseNumber,
    /// The release that it goes back to.
    #[serde(default)]
    pub previous: Option<ReleaseNumber>,
    /// Since when, by the store's clock.
    pub since: Timestamp,
    /// How long it has.
    pub deadline: TimeSpan,
    /// Where it stands.
    pub transition: Transition,
}

/// A release that waits, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which release.
    pub release: ReleaseNumber,
    /// A word: `turn`, `capacity`, `canary`, `halted`, `paused`, `etcd`, `failed_here`, `superseded` or `unreadable`.
    pub kind: String,
    /// For what, in one line.
    pub why: String,
}

/// The last result of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The probe's name.
    pub name: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// Whether it had failed before the release was applied: then it can only warn.
    pub only_warns: bool,
    /// What it saw last, in one line.
    pub saw: String,
}

/// A release that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevertReport {
    /// Which release.
    pub release: ReleaseNumber,
    /// The release that it went back to.
    pub to: ReleaseNumber,
    /// Why, in one line.
    pub why: String,
    /// The last lines of what the probe saw.
    #[serde(default)]
    pub lines: Vec<String>,
    /// Whether it is back, and healthy again.
    pub healthy: bool,
    /// When, by the node's clock.
    pub at: Timestamp,
}

/// Something that a node decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When, by the node's clock.
    pub at: Timestamp,
    /// What it decided, in one line: the object, and what was done with it or why not.
    pub what: String,
    /// The release that it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseNumber>,
    /// The object that it was about: its key in the bucket, or a path of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The digest of the release's bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Sha256Digest>,
    /// How it went, in a word or a line.
    pub result: String,
}

// === impl RolloutReport ===

impl RolloutReport {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Remembers a decision; one that is as the last was, but for its time, is the same decision.
    pub fn decided(&mut self, decision: Decision) {
        let same = |last: &Decision| {
            (&last.what, last.release, &last.result)
                == (&decision.what, decision.release, &decision.result)
        };
        if self.decisions.last().is_some_and(same) {
            return;
        }
        self.decisions.push(decision);
        let extra = self.decisions.len().saturating_sub(DECISIONS_KEPT);
        self.decisions.drain(..extra);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_few_and_not_repeated() {
        let mut report = RolloutReport::default();
        assert!(report.is_empty());
        for n in 0..50_i64 {
            let decision = Decision {
                at: Timestamp::from_second(n).unwrap(),
                what: format!("slot {}", n / 2),
                release: ReleaseNumber::new(3),
                object: None,
                digest: None,
                result: "waits".to_owned(),
            };
            report.decided(decision);
        }
        assert_eq!(report.decisions.len(), DECISIONS_KEPT);
        assert_eq!(report.decisions.last().unwrap().what, "slot 24");
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(
            serde_json::from_str::<RolloutReport>(&text).unwrap(),
            report
        );
        assert!(
            serde_json::from_str::<RolloutReport>("{}")
                .unwrap()
                .is_empty()
        );
    }
}
