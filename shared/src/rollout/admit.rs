//! Whether a node may begin its transition.

use jiff::{SignedDuration, Timestamp};

use super::view::{GONE_AFTER, GroupView, take_stock};
use crate::bundle::RolloutPolicy;
use crate::documents::{Holder, HolderWork, Nonce, RolloutDocument, Unavailable, UnavailableWhy};
use crate::names::{NodeId, ReleaseNumber};

/// Nodes of another zone than the one whose turn it is wait until nothing was written for this long.
pub const ZONE_PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// A group that is known to be larger is not read whole for each node that would begin a rollout: its canary goes without, and
/// whoever comes after it has the canary's look.
pub const STOCK_MOST: u32 = 50;

/// What whoever asks for a slot knows of the group beside the document.
#[derive(Clone, Copy, Debug)]
pub enum Stock<'a> {
    /// It has not looked.
    NotTaken,
    /// It may not look.
    Unknown,
    /// The group as its status objects show it.
    Seen(&'a GroupView),
}

/// What a node knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// Which node it is.
    pub node: &'a NodeId,
    /// Its zone, if it has one.
    pub zone: Option<&'a str>,
    /// The release on its disk.
    pub on_disk: Option<ReleaseNumber>,
}

/// What a node wants to adopt.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The release.
    pub release: ReleaseNumber,
    /// Its policy.
    pub policy: &'a RolloutPolicy,
}

/// What marks a write of the document.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// A fresh nonce.
    pub nonce: Nonce,
    /// The store's `Date` when the document was read.
    pub now: Timestamp,
}

/// Why a node does not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A newer release is being rolled out; this node has not seen it yet.
    Superseded(ReleaseNumber),
    /// This node tried it, and it failed.
    FailedHere(String),
    /// Its rollout is halted.
    Halted(String),
    /// The group is paused.
    Paused(String),
    /// As many nodes as may be are in transition or unavailable.
    Capacity(String),
    /// The first node to adopt it has not come through yet.
    Canary(NodeId),
    /// It is another zone's turn.
    Turn(String),
}

/// Whether a node may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It has the slot already.
    Holds,
    /// Yes, once this is written over the document that was read.
    Take(Box<RolloutDocument>),
    /// It would be the first of its rollout: it is to look at the group, and to ask again.
    TakeStock,
    /// Not now; what is to be written all the same, if anything.
    Wait(Wait, Option<Box<RolloutDocument>>),
}

// === impl Wait ===

impl Wait {
    /// A word for the status and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Superseded(_) => "superseded",
            Self::FailedHere(_) => "failed_here",
            Self::Halted(_) => "halted",
            Self::Paused(_) => "paused",
            Self::Capacity(_) => "capacity",
            Self::Canary(_) => "canary",
            Self::Turn(_) => "turn",
        }
    }

    /// In one line.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::Superseded(newer) => format!("release {newer} is being rolled out already"),
            Self::FailedHere(why) => format!("it failed on this node: {why}"),
            Self::Halted(why) => format!("its rollout is halted: {why}"),
            Self::Paused(why) => format!("the group is paused: {why}"),
            Self::Capacity(why) => why.clone(),
            Self::Canary(node) => format!("{node} tries it first"),
            Self::Turn(zone) => format!("it is the turn of zone {zone}"),
        }
    }
}

/// Decides (§6.11). `known` is the nonce with which this node asked last, if it did; it calls this only while no
/// transition of its own is under way, so a slot of its own that it does not know is one to drop.
#[must_use]
pub fn admit(
    document: &RolloutDocument,
    facts: NodeFacts<'_>,
    wish: Wish<'_>,
    known: Option<&Nonce>,
    stock: Stock<'_>,
    stamp: Stamp,
) -> Admission {
    let is_known = |holder: &Holder| {
        holder.work == HolderWork::Release
            && Some(&holder.nonce) == known
            && holder.release == wish.release
    };
    let now = stamp.now;
    // Whoever has changed nothing yet stops at a halt and a pause like everybody else.
    let goes_on = !document.is_halted(wish.release) && document.pause_at(now).is_none();
    if goes_on && document.holder(facts.node).is_some_and(is_known) {
        return Admission::Holds;
    }
    let mut next = document.next(stamp.nonce, now);
    next.holders.retain(|holder| holder.node != *facts.node);
    // Whoever asks is there.
    next.unavailable.retain(|other| other.node != *facts.node);
    clear_stale(&mut next, now);
    forget_silent(&mut next, now);
    // The document tells of the nodes that were in transition. Whether the others are there at all, nobody has looked since the
    // last rollout.
    let first = next.release < Some(wish.release);
    if let (true, Stock::Seen(view)) = (first, stock) {
        take_stock(&mut next, facts, view, now);
    }
    let changed = next.holders != document.holders
        || next.unavailable != document.unavailable
        || next.size != document.size;
    let wait =
        |why: Wait, next: RolloutDocument| Admission::Wait(why, changed.then(|| Box::new(next)));
    if let Some(newer) = next.release.filter(|newer| *newer > wish.release) {
        return wait(Wait::Superseded(newer), next);
    }
    if let Some(failure) = next.failure(facts.node, wish.release) {
        return wait(Wait::FailedHere(failure.why.clone()), next);
    }
    if let Some(halt) = next.halted.as_ref().filter(|h| h.release == wish.release) {
        let why = format!("{}: {}", halt.by, halt.reason);
        return wait(Wait::Halted(why), next);
    }
    if let Some(pause) = next.pause_at(now) {
        let why = format!("{}: {}", pause.by, pause.reason);
        return wait(Wait::Paused(why), next);
    }
    let most = wish.policy.max_unavailable.of(next.size);
    if next.busy() >= most {
        let why = format!(
            "{} of at most {most} node(s) are in transition or unavailable: {}",
            next.busy(),
            names(&next)
        );
        return wait(Wait::Capacity(why), next);
    }
    if first && matches!(stock, Stock::NotTaken) && next.size <= STOCK_MOST {
        return Admission::TakeStock;
    }
    if next.release == Some(wish.release) {
        if let Some(why) = out_of_turn(document, &mut next, facts, wish.release, now) {
            return wait(why, next);
        }
    } else {
        next.release = Some(wish.release);
        next.began_at = Some(now);
        next.committed = 0;
        next.halted = None;
        next.zone = facts.zone.map(str::to_owned);
    }
    next.holders.push(Holder {
        node: facts.node.clone(),
        release: wish.release,
        zone: facts.zone.map(str::to_owned),
        nonce: next.nonce.clone(),
        since: now,
        deadline: wish.policy.deadline,
        work: HolderWork::Release,
    });
    Admission::Take(Box::new(next))
}

/// The canary alone, then one zone at a time. Where nobody of the zone whose turn it is has done anything for a while, the
/// turn is this node's.
fn out_of_turn(
    document: &RolloutDocument,
    next: &mut RolloutDocument,
    facts: NodeFacts<'_>,
    release: ReleaseNumber,
    now: Timestamp,
) -> Option<Wait> {
    let adopts = |h: &&Holder| h.release == release && h.work == HolderWork::Release;
    let mut under_way = next.holders.iter().filter(adopts);
    if next.committed == 0
        && let Some(canary) = under_way.next()
    {
        return Some(Wait::Canary(canary.node.clone()));
    }
    let own = facts.zone;
    let other = next.zone.as_deref().filter(|zone| Some(*zone) != own);
    if let Some(zone) = other {
        let idle = now.duration_since(document.written_at) >= ZONE_PATIENCE;
        if !idle || next.holders.iter().any(|h| h.release == release) {
            return Some(Wait::Turn(zone.to_owned()));
        }
        next.zone = own.map(str::to_owned);
    }
    None
}

/// Whoever has held a slot for twice its deadline, by the store's clock, has gone back or is gone: its slot is free, and it
/// counts as unavailable instead.
pub(crate) fn clear_stale(next: &mut RolloutDocument, now: Timestamp) {
    let is_stale = |holder: &Holder| {
        let limit = holder.deadline.get().saturating_mul(2);
        SignedDuration::try_from(limit).is_ok_and(|limit| now.duration_since(holder.since) > limit)
    };
    let (stale, held): (Vec<Holder>, Vec<Holder>) = std::mem::take(&mut next.holders)
        .into_iter()
        .partition(is_stale);
    next.holders = held;
    for holder in stale {
        next.unavailable.retain(|other| other.node != holder.node);
        next.unavailable.push(Unavailable {
            node: holder.node,
            why: UnavailableWhy::Cleared,
            release: Some(holder.release),
            since: now,
        });
    }
}

/// A node that only does not report stands in the way for as long as the group would count it, and no longer: where nobody is
/// up to date, nobody else takes stock.
pub(crate) fn forget_silent(next: &mut RolloutDocument, now: Timestamp) {
    next.unavailable.retain(|other| {
        other.why == UnavailableWhy::Cleared || now.duration_since(other.since) <= GONE_AFTER
    });
}

fn names(document: &RolloutDocument) -> String {
    let holders = document.holders.iter().map(|h| h.node.as_str());
    let unavailable = document.unavailable.iter().map(|u| u.node.as_str());
    let mut all: Vec<&str> = holders.chain(unavailable).take(5).collect();
    all.sort_unstable();
    all.dedup();
    all.join(", ")
}
