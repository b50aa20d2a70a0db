//! How a transition ends in the document.

use super::admit::{NodeFacts, Stamp};
use super::view::{GroupView, take_stock};
use crate::documents::{
    FailedAdoption, Halt, Holder, REASON_CHARACTERS, RolloutDocument, kept_line, kept_lines,
};
use crate::names::{NodeId, ReleaseNumber};

/// How a transition ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing was changed.
    Unused,
    /// The release is there to stay.
    Committed,
    /// The node went back.
    Failed {
        /// Why, in one line.
        why: String,
        /// The last lines of what the probe saw.
        lines: Vec<String>,
    },
}

/// Whether a node that gives its slot back is to look at the whole group: nobody else is in transition, so the turn may pass
/// on and the rollout may be complete. Else a large group would be read once for each of its nodes.
#[must_use]
pub fn needs_view(document: &RolloutDocument, node: &NodeId) -> bool {
    document.holders.iter().all(|holder| holder.node == *node)
}

/// The document without this node's slot; none where it says so already. With a view of the group, whose turn it is next
/// and whether the rollout is complete are settled in the same write.
#[must_use]
pub fn give_back(
    document: &RolloutDocument,
    facts: NodeFacts<'_>,
    release: ReleaseNumber,
    ending: &Ending,
    view: Option<&GroupView>,
    stamp: Stamp,
) -> Option<RolloutDocument> {
    let now = stamp.now;
    let mut next = document.next(stamp.nonce, now);
    let (holders, unavailable) = (next.holders.len(), next.unavailable.len());
    next.holders.retain(|h: &Holder| h.node != *facts.node);
    next.unavailable.retain(|u| u.node != *facts.node);
    let was_there = next.holders.len() != holders || next.unavailable.len() != unavailable;
    let recorded = match ending {
        Ending::Unused | Ending::Committed => false,
        Ending::Failed { why, lines } => fail(&mut next, facts, release, why, lines),
    };
    if !was_there && !recorded {
        return None;
    }
    if *ending == Ending::Committed && next.release == Some(release) {
        next.committed = next.committed.saturating_add(1);
    }
    if let Some(view) = view {
        take_stock(&mut next, facts, view, now);
    }
    Some(next)
}

/// The document with the failure in it, the slot still held: so that nobody begins while this node goes back. None where
/// it says so already.
#[must_use]
pub fn record_failure(
    document: &RolloutDocument,
    facts: NodeFacts<'_>,
    release: ReleaseNumber,
    why: &str,
    lines: &[String],
    stamp: Stamp,
) -> Option<RolloutDocument> {
    let mut next = document.next(stamp.nonce, stamp.now);
    fail(&mut next, facts, release, why, lines).then_some(next)
}

/// Notes the failure, and halts the rollout if it is still that release's; false where both are so already. Told twice
/// after a retry, it halts again.
fn fail(
    next: &mut RolloutDocument,
    facts: NodeFacts<'_>,
    release: ReleaseNumber,
    why: &str,
    lines: &[String],
) -> bool {
    let is_noted = next.failure(facts.node, release).is_some();
    let why = kept_line(why, REASON_CHARACTERS);
    if !is_noted {
        next.failed.push(FailedAdoption {
            node: facts.node.clone(),
            release,
            why: why.clone(),
            lines: kept_lines(lines),
            at: next.written_at,
        });
        let extra = next
            .failed
            .len()
            .saturating_sub(crate::documents::FAILED_KEPT);
        next.failed.drain(..extra);
    }
    let halts = next.release == Some(release) && !next.is_halted(release) && !is_noted;
    if halts {
        next.halted = Some(Halt {
            release,
            by: facts.node.clone(),
            reason: why,
            at: next.written_at,
        });
    }
    !is_noted || halts
}
