//! The group as its status objects show it: whose turn it is next, and when a rollout is complete.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::admit::{NodeFacts, Stamp};
use crate::documents::{NodeStatus, RolloutDocument, Unavailable, UnavailableWhy};
use crate::names::{NodeId, ReleaseNumber};

/// A node that has written no status for this long is silent: twice the period at rest, and a bit.
pub const SILENT_AFTER: SignedDuration = SignedDuration::from_secs(660);
/// A node that has been silent for this long is taken to be gone, unless its slot was cleared.
pub const GONE_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// What a node's status says, as far as a rollout is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Which node.
    pub node: NodeId,
    /// Its zone, if it has one.
    pub zone: Option<String>,
    /// The release on its disk.
    pub release: Option<ReleaseNumber>,
    /// When it was written, by the store's clock.
    pub written_at: Timestamp,
    /// Whether somebody holds it: it adopts nothing for now.
    pub held: bool,
}

/// The status objects of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupView {
    /// The nodes whose status could be read and is authentic.
    pub nodes: Vec<NodeSeen>,
    /// The nodes whose status is there and is not believed: nobody knows what they run.
    pub unread: Vec<NodeId>,
}

// === impl NodeSeen ===

impl NodeSeen {
    /// Of a status. A node's clock is set right by the skew that it reports.
    #[must_use]
    pub fn of(status: &NodeStatus) -> Self {
        let skew = SignedDuration::from_secs(status.clock_skew_seconds.unwrap_or(0));
        let written_at = status.written_at.checked_sub(skew);
        Self {
            node: status.node.clone(),
            zone: status.rollout.zone.clone(),
            release: status.release,
            written_at: written_at.unwrap_or(status.written_at),
            held: status.hold.is_some(),
        }
    }
}

// === impl GroupView ===

impl GroupView {
    /// The nodes that count, and for how long each has been silent: those that are not forgotten and not gone.
    fn counted<'a>(
        &'a self,
        document: &'a RolloutDocument,
        now: Timestamp,
    ) -> impl Iterator<Item = (&'a NodeSeen, SignedDuration)> {
        let is_forgotten = |seen: &NodeSeen| {
            let mut forgotten = document.forgotten.iter();
            forgotten.any(|f| f.node == seen.node && f.at >= seen.written_at)
        };
        let aged = self
            .nodes
            .iter()
            .map(move |seen| (seen, now.duration_since(seen.written_at)));
        aged.filter(move |(seen, age)| *age <= GONE_AFTER && !is_forgotten(seen))
    }
}

/// Whether every node that reports has `release` or a newer one, and none is in transition or missing.
#[must_use]
pub fn is_complete(
    document: &RolloutDocument,
    view: &GroupView,
    release: ReleaseNumber,
    now: Timestamp,
) -> bool {
    let mut some = false;
    let all = view
        .counted(document, now)
        .filter(|(_, age)| *age <= SILENT_AFTER)
        .all(|(seen, _)| {
            some = true;
            seen.release.is_some_and(|has| has >= release)
        });
    // Whoever was forgotten counts no more, whatever its status says; `forget` is how an operator ends this.
    let is_forgotten = |node: &NodeId| document.forgotten.iter().any(|f| f.node == *node);
    some && all
        && view.unread.iter().all(is_forgotten)
        && document.holders.is_empty()
        && document.unavailable.is_empty()
        && !document.is_halted(release)
}

/// Settles in the next document what the view shows; `facts` are those of the node that looks, whose own status may be
/// older than they are.
pub(super) fn take_stock(
    next: &mut RolloutDocument,
    facts: NodeFacts<'_>,
    view: &GroupView,
    now: Timestamp,
) {
    let mut view = view.clone();
    view.nodes.retain(|seen| seen.node != *facts.node);
    view.nodes.push(NodeSeen {
        node: facts.node.clone(),
        zone: facts.zone.map(str::to_owned),
        release: facts.on_disk,
        written_at: now,
        held: false,
    });
    let counted: Vec<(NodeSeen, SignedDuration)> = view
        .counted(next, now)
        .map(|(seen, age)| (seen.clone(), age))
        .collect();
    next.size = u32::try_from(counted.len()).unwrap_or(u32::MAX);
    let silent: BTreeSet<&NodeId> = counted
        .iter()
        .filter(|(_, age)| *age > SILENT_AFTER)
        .map(|(seen, _)| &seen.node)
        .collect();
    note_silent(next, &silent, now);
    let Some(release) = next.release else {
        return;
    };
    if is_complete(next, &view, release, now) && next.good < Some(release) {
        next.good = Some(release);
    }
    if next.holders.iter().any(|h| h.release == release) {
        return;
    }
    let waits = |seen: &&NodeSeen| {
        seen.release < Some(release)
            && !seen.held
            && !silent.contains(&seen.node)
            && next.failure(&seen.node, release).is_none()
    };
    let zones: BTreeSet<Option<&String>> = counted
        .iter()
        .map(|(seen, _)| seen)
        .filter(waits)
        .map(|seen| seen.zone.as_ref())
        .collect();
    if !zones.contains(&next.zone.as_ref()) {
        next.zone = zones.into_iter().next().flatten().cloned();
    }
}

/// The silent nodes are unavailable, and those that were silent and are not any more are not. A slot that was cleared is
/// another matter: only its node can say that it is well again.
fn note_silent(next: &mut RolloutDocument, silent: &BTreeSet<&NodeId>, now: Timestamp) {
    next.unavailable
        .retain(|u| u.why == UnavailableWhy::Cleared || silent.contains(&u.node));
    let most = crate::limits::ROLLOUT_HOLDERS as usize;
    for node in silent {
        let is_there = next.unavailable.iter().any(|u| u.node == **node)
            || next.holders.iter().any(|h| h.node == **node);
        if !is_there && next.unavailable.len() < most {
            next.unavailable.push(Unavailable {
                node: (*node).clone(),
                why: UnavailableWhy::Silent,
                release: None,
                since: now,
            });
        }
    }
}

/// What a node at rest writes once in a while: its own traces removed where it is in no transition, and what the view
/// shows. None where nothing is to be written.
#[must_use]
pub fn conclude(
    document: &RolloutDocument,
    facts: NodeFacts<'_>,
    view: &GroupView,
    stamp: Stamp,
) -> Option<RolloutDocument> {
    let now = stamp.now;
    let mut next = without_own_traces(document, facts.node, stamp)
        .unwrap_or_else(|(document, stamp)| document.next(stamp.nonce, stamp.now));
    take_stock(&mut next, facts, view, now);
    let marked = RolloutDocument {
        revision: next.revision,
        nonce: next.nonce.clone(),
        written_at: next.written_at,
        ..document.clone()
    };
    (marked != next).then_some(next)
}

/// The document without slot and absence of a node that is there and in no transition.
///
/// # Errors
/// Document and stamp again, where there is nothing of the node in it.
pub fn without_own_traces<'a>(
    document: &'a RolloutDocument,
    node: &NodeId,
    stamp: Stamp,
) -> Result<RolloutDocument, (&'a RolloutDocument, Stamp)> {
    let absent = document.unavailable.iter().any(|u| u.node == *node);
    if !absent && document.holder(node).is_none() {
        return Err((document, stamp));
    }
    let mut next = document.next(stamp.nonce, stamp.now);
    next.holders.retain(|h| h.node != *node);
    next.unavailable.retain(|u| u.node != *node);
    Ok(next)
}
