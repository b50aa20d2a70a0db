//! Which step may follow: decided from the keyring and what the nodes report, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use shared::documents::{Pki, Step, StepMark};
use shared::names::{GroupName, ReleaseNumber};
use shared::rewrite::RewriteReport;

use super::subject::{Action, Subject};
use crate::status::STALE_AFTER_SECONDS;

/// What is known of each group.
pub type Evidence = BTreeMap<GroupName, GroupEvidence>;

/// What is known of a group: signed facts, and what its nodes say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupEvidence {
    /// The releases that are listed, each with the version of the keyring that it was made with.
    pub releases: Vec<(ReleaseNumber, u64)>,
    /// The nodes that have ever reported and were not forgotten.
    pub nodes: Vec<NodeEvidence>,
    /// What the nodes agree on about rollouts; none where there never was one.
    pub rollout: Option<RolloutEvidence>,
    /// What nodes say about an order to rewrite what is stored, each with its name.
    pub rewrites: Vec<(String, RewriteReport)>,
    /// The generation of etcd.
    pub generation: u32,
}

/// How far the group's rollouts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolloutEvidence {
    /// The newest release whose rollout is complete: each node has it, and its probes succeeded.
    pub good: Option<ReleaseNumber>,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvidence {
    /// Its name.
    pub node: String,
    /// What it says.
    pub said: Said,
}

/// A node's report: not a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It reports.
    Runs {
        /// The release that is on its disk.
        release: Option<ReleaseNumber>,
        /// How old the report is.
        age_seconds: i64,
    },
    /// Its report cannot be used, and why.
    Unusable(String),
}

/// Why a step may not be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The keyring does not say since when the rotation is where it is.
    Unrecorded,
    /// No listed release of the group was made with the step before.
    NotPublished(GroupName),
    /// No node of the group has ever reported.
    NoNode(GroupName),
    /// A node reports another release.
    Behind {
        /// Its group.
        group: GroupName,
        /// The node.
        node: String,
        /// What it reports.
        release: Option<ReleaseNumber>,
        /// What it must have at least.
        wanted: ReleaseNumber,
    },
    /// A node has not reported for too long.
    Unheard {
        /// Its group.
        group: GroupName,
        /// The node.
        node: String,
        /// The age of its report.
        age_seconds: i64,
    },
    /// A node's report cannot be used.
    Unusable {
        /// Its group.
        group: GroupName,
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// The files are there, and the pods may not have been restarted yet.
    NotComplete {
        /// The group.
        group: GroupName,
        /// The release.
        wanted: ReleaseNumber,
    },
    /// No node says that nothing is left under the predecessor.
    NotRewritten {
        /// What they say, a line each.
        said: Vec<String>,
    },
    /// What the predecessor has issued may still be in use.
    TooSoon {
        /// Until when.
        until: Timestamp,
    },
}

/// Everything that stands against taking `action` now; none where it may be taken. Whether it follows the step before
/// it at all is [`shared::documents::Rotating`]'s affair.
///
/// A step waits for the one before it: each node of each group whose files that one changed must report a release that
/// was made with it. Versions of the keyring never fall from one release to the next, so every release from the first
/// listed one with the step on has it.
#[must_use]
pub fn obstacles(
    subject: Subject,
    action: Action,
    pki: &Pki,
    evidence: &Evidence,
    now: Timestamp,
) -> Vec<Obstacle> {
    if subject.step(pki) == Some(Step::Steady) {
        return Vec::new();
    }
    let Some(mark) = pki.rotations.get(subject.as_str()) else {
        return vec![Obstacle::Unrecorded];
    };
    let mut found = not_adopted(mark, evidence);
    if subject == Subject::Encryption {
        found.extend(not_complete(mark, evidence));
        if action == Action::Retire {
            found.extend(not_rewritten(pki, evidence));
        }
    }
    let until = mark.at + subject.outlives();
    if action == Action::Retire && now < until {
        found.push(Obstacle::TooSoon { until });
    }
    found
}

/// The first listed release of a group that was made with the step.
fn first_with(mark: &StepMark, known: Option<&GroupEvidence>) -> Option<ReleaseNumber> {
    let releases = known.into_iter().flat_map(|g| &g.releases);
    let with_it = releases.filter(|(_, keyring)| *keyring >= mark.keyring);
    with_it.map(|(release, _)| *release).min()
}

/// Every node that may not have what the step delivers.
pub(super) fn not_adopted(mark: &StepMark, evidence: &Evidence) -> Vec<Obstacle> {
    let mut found = Vec::new();
    for group in &mark.groups {
        let known = evidence.get(group);
        let Some(wanted) = first_with(mark, known) else {
            found.push(Obstacle::NotPublished(group.clone()));
            continue;
        };
        let nodes = known.map_or(&[][..], |g| &g.nodes);
        if nodes.is_empty() {
            found.push(Obstacle::NoNode(group.clone()));
        }
        found.extend(nodes.iter().filter_map(|n| of_node(group, n, wanted)));
    }
    found
}

/// A node that has the files still runs the old pods for a while, and what those write is under the old key: the release
/// that brought the step must have been rolled out to its end. A group without any rollout has no probes to wait for.
fn not_complete(mark: &StepMark, evidence: &Evidence) -> Vec<Obstacle> {
    let of_group = |group: &GroupName| {
        let known = evidence.get(group)?;
        let wanted = first_with(mark, Some(known))?;
        let rollout = known.rollout?;
        (rollout.good < Some(wanted)).then(|| Obstacle::NotComplete {
            group: group.clone(),
            wanted,
        })
    };
    mark.groups.iter().filter_map(of_group).collect()
}

/// Whether no node has gone through everything that is stored, for this order and in this generation of etcd, and found
/// nothing under another key. One such word is enough: since the order was given only when every API server wrote with the
/// new key, nothing comes back.
fn not_rewritten(pki: &Pki, evidence: &Evidence) -> Option<Obstacle> {
    let none = |said| Some(Obstacle::NotRewritten { said });
    let Some(order) = &pki.at_rest.rewrite else {
        return none(Vec::new());
    };
    let key = &pki.encryption.current.name;
    let mut said = Vec::new();
    for group in evidence.values() {
        for (node, report) in &group.rewrites {
            if !report.is_of(order.number, group.generation, key) {
                continue;
            }
            if report.is_done() {
                return None;
            }
            said.push(progress(node, report));
        }
    }
    none(said)
}

fn progress(node: &str, report: &RewriteReport) -> String {
    let mut text = format!("{node}: {} rewritten", report.rewritten);
    if let Some(scan) = &report.scan {
        let left: Vec<String> = scan
            .others
            .iter()
            .map(|(key, count)| format!("{count} under {key}"))
            .collect();
        text.push_str(&format!(", {} were left", left.join(", ")));
    }
    if let Some(failed) = &report.failed {
        text.push_str(&format!("; {}", failed.message));
    }
    text
}

fn of_node(group: &GroupName, evidence: &NodeEvidence, wanted: ReleaseNumber) -> Option<Obstacle> {
    let (group, node) = (group.clone(), evidence.node.clone());
    match &evidence.said {
        Said::Unusable(why) => Some(Obstacle::Unusable {
            group,
            node,
            why: why.clone(),
        }),
        Said::Runs { age_seconds, .. } if *age_seconds > STALE_AFTER_SECONDS => {
            Some(Obstacle::Unheard {
                group,
                node,
                age_seconds: *age_seconds,
            })
        }
        Said::Runs { release, .. } if release.is_none_or(|r| r < wanted) => {
            Some(Obstacle::Behind {
                group,
                node,
                release: *release,
                wanted,
            })
        }
        Said::Runs { .. } => None,
    }
}

impl Obstacle {
    /// Whether the operator has taken it upon themselves: a node, or a group without any, that was named.
    #[must_use]
    pub fn is_waived(&self, without: &BTreeSet<String>, without_waiting: bool) -> bool {
        match self {
            Self::Unrecorded | Self::NotPublished(_) | Self::NotRewritten { .. } => false,
            Self::NoNode(group) | Self::NotComplete { group, .. } => {
                without.contains(group.as_str())
            }
            Self::Behind { node, .. }
            | Self::Unheard { node, .. }
            | Self::Unusable { node, .. } => without.contains(node),
            Self::TooSoon { .. } => without_waiting,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unrecorded => f.write_str(
                "the keyring does not say when the step before was taken: it was not taken by platformctl rotate",
            ),
            Self::NotPublished(group) => write!(
                f,
                "group {group}: the step before is not published yet: `platformctl publish` first"
            ),
            Self::NoNode(group) => write!(
                f,
                "group {group}: no node has ever reported (if it has none: --without {group})"
            ),
            Self::Behind {
                group,
                node,
                release: Some(release),
                wanted,
            } => write!(
                f,
                "{group}/{node} reports release {release}, and the step before came with release {wanted}"
            ),
            Self::Behind { group, node, .. } => {
                write!(f, "{group}/{node} has adopted nothing yet")
            }
            Self::Unheard {
                group,
                node,
                age_seconds,
            } => write!(
                f,
                "{group}/{node} has not reported for {} minutes (if it is gone: --without {node})",
                age_seconds / 60
            ),
            Self::Unusable { group, node, why } => {
                write!(f, "{group}/{node}: its report {why}")
            }
            Self::NotComplete { group, wanted } => write!(
                f,
                "group {group}: the rollout of release {wanted} is not complete, so pods may not have been restarted yet: \
                 `platformctl status` says what it waits for (after a restore: `platformctl etcd restore --finish`)"
            ),
            Self::NotRewritten { said } if said.is_empty() => f.write_str(
                "no node has said yet that everything stored is under the new key: the leader of etcd does it, within a minute \
                 or so (again, with a new certificate: `platformctl rotate encryption rewrite`)",
            ),
            Self::NotRewritten { said } => write!(
                f,
                "not everything stored is under the new key yet: {}",
                said.join("; ")
            ),
            Self::TooSoon { until } => write!(
                f,
                "what the predecessor has issued may be in use until {until:.0} (if you know better: --without-waiting)"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
