//! The group's slot, under which membership is changed: one change at a time, and never beside a rollout's transition. A
//! halt or a pause stops adoption only, and a node that is unavailable is what a replacement is for.

use crate::bundle::TimeSpan;
use crate::documents::{Holder, HolderWork, RolloutDocument};
use crate::names::ReleaseNumber;
use crate::rollout::{NodeFacts, Stamp, clear_stale, forget_silent};

/// Whether a node may change the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotAnswer {
    /// It has the slot.
    Holds,
    /// Yes, once this is written over the document that was read.
    Take(Box<RolloutDocument>),
    /// Another node, or this node's own adoption of a release, comes first.
    Wait(String),
}

/// Decides. `document` is none where there is no rollout yet.
#[must_use]
pub fn take_slot(
    document: Option<&RolloutDocument>,
    facts: NodeFacts<'_>,
    release: ReleaseNumber,
    deadline: TimeSpan,
    stamp: Stamp,
) -> SlotAnswer {
    let empty = RolloutDocument::empty();
    let document = document.unwrap_or(&empty);
    let now = stamp.now;
    let mut next = document.next(stamp.nonce, now);
    clear_stale(&mut next, now);
    forget_silent(&mut next, now);
    match next.holder(facts.node).map(|h| h.work) {
        Some(HolderWork::Membership) => return SlotAnswer::Holds,
        Some(HolderWork::Release) => {
            return SlotAnswer::Wait("this node adopts a release".to_owned());
        }
        None => {}
    }
    // Who is gone ends nothing any more; its slot would stand in the way for twice its deadline.
    let is_gone = |h: &Holder| {
        let mut forgotten = document.forgotten.iter();
        forgotten.any(|f| f.node == h.node && f.at >= h.since)
    };
    next.holders.retain(|h| !is_gone(h));
    if let Some(other) = next.holders.first() {
        return SlotAnswer::Wait(format!("{} is in transition", other.node));
    }
    next.unavailable.retain(|u| u.node != *facts.node);
    next.holders.push(Holder {
        node: facts.node.clone(),
        release,
        zone: facts.zone.map(str::to_owned),
        nonce: next.nonce.clone(),
        since: now,
        deadline,
        work: HolderWork::Membership,
    });
    SlotAnswer::Take(Box::new(next))
}

/// The document without this node's slot for membership; none where it holds none.
#[must_use]
pub fn give_back_slot(
    document: &RolloutDocument,
    facts: NodeFacts<'_>,
    stamp: Stamp,
) -> Option<RolloutDocument> {
    let is_own = |h: &Holder| h.node == *facts.node && h.work == HolderWork::Membership;
    document.holders.iter().any(is_own).then(|| {
        let mut next = document.next(stamp.nonce, stamp.now);
        next.holders.retain(|h| !is_own(h));
        next
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::documents::{Forgotten, Halt, Nonce, Pause};
    use crate::names::NodeId;

    fn stamp(second: i64) -> Stamp {
        Stamp {
            nonce: Nonce::of(u128::try_from(second).unwrap()),
            now: Timestamp::from_second(second).unwrap(),
        }
    }

    fn facts(node: &NodeId) -> NodeFacts<'_> {
        NodeFacts {
            node,
            zone: None,
            on_disk: ReleaseNumber::new(3),
        }
    }

    #[test]
    fn one_at_a_time_and_neither_halt_nor_pause_stops_it() {
        let (a, b): (NodeId, NodeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let release = ReleaseNumber::new(3).unwrap();
        let deadline = TimeSpan::from_secs(60);
        let mut document = RolloutDocument::empty();
        let since = stamp(1).now;
        document.halted = Some(Halt {
            release,
            by: a.clone(),
            reason: "x".to_owned(),
            at: since,
        });
        document.paused = Some(Pause {
            by: "x".to_owned(),
            reason: "x".to_owned(),
            since,
            until: None,
        });
        let taken = take_slot(Some(&document), facts(&a), release, deadline, stamp(10));
        let SlotAnswer::Take(held) = taken else {
            panic!("{taken:?}");
        };
        let again = take_slot(Some(&held), facts(&a), release, deadline, stamp(11));
        assert_eq!(again, SlotAnswer::Holds);
        let other = take_slot(Some(&held), facts(&b), release, deadline, stamp(12));
        assert!(matches!(other, SlotAnswer::Wait(_)), "{other:?}");
        // Twice its deadline later it is taken to be gone.
        let late = take_slot(Some(&held), facts(&b), release, deadline, stamp(131));
        assert!(matches!(late, SlotAnswer::Take(_)), "{late:?}");
        let back = give_back_slot(&held, facts(&a), stamp(13)).unwrap();
        assert!(back.holders.is_empty());
        assert_eq!(give_back_slot(&back, facts(&a), stamp(14)), None);
        assert_eq!(give_back_slot(&held, facts(&b), stamp(14)), None);
    }

    #[test]
    fn a_holder_that_is_gone_is_not_waited_for() {
        let (a, b): (NodeId, NodeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let release = ReleaseNumber::new(3).unwrap();
        let deadline = TimeSpan::from_secs(900);
        let taken = take_slot(None, facts(&a), release, deadline, stamp(10));
        let SlotAnswer::Take(mut held) = taken else {
            panic!("{taken:?}");
        };
        held.holders[0].work = HolderWork::Release;
        let mut said = |at| {
            held.forgotten = vec![Forgotten {
                node: a.clone(),
                by: "ec2".to_owned(),
                at: stamp(at).now,
            }];
            take_slot(Some(&held), facts(&b), release, deadline, stamp(30))
        };
        let earlier = said(9);
        assert!(matches!(earlier, SlotAnswer::Wait(_)), "{earlier:?}");
        let SlotAnswer::Take(next) = said(20) else {
            panic!("it waits for the dead");
        };
        let holders: Vec<&NodeId> = next.holders.iter().map(|h| &h.node).collect();
        assert_eq!(holders, [&b]);
    }

    #[test]
    fn a_rollouts_transition_comes_first() {
        let a: NodeId = "a".parse().unwrap();
        let release = ReleaseNumber::new(3).unwrap();
        let deadline = TimeSpan::from_secs(60);
        let taken = take_slot(None, facts(&a), release, deadline, stamp(10));
        let SlotAnswer::Take(mut held) = taken else {
            panic!("{taken:?}");
        };
        held.holders[0].work = HolderWork::Release;
        let own = take_slot(Some(&held), facts(&a), release, deadline, stamp(11));
        assert!(matches!(own, SlotAnswer::Wait(_)), "{own:?}");
        assert_eq!(give_back_slot(&held, facts(&a), stamp(12)), None);
    }
}
