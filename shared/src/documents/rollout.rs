//! What the nodes of a group agree on about rollouts: `rollouts/<group>.json` (§7.1).
//!
//! It is written by nodes and operators, always by compare-and-swap on its tag, and authenticated like every object that
//! a node writes. Every time in it is the store's `Date` as its writer last saw it, never a machine's own clock.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bundle::TimeSpan;
use crate::names::{NodeId, ReleaseNumber};

mod seal;

pub use seal::RolloutSealError;

/// Format number of the document that this build writes and the only one it reads.
pub const ROLLOUT_FORMAT: u32 = 1;
/// Most failed adoptions that are kept; older ones go first.
pub const FAILED_KEPT: usize = 20;
/// Most forgotten nodes that are kept; older ones go first.
pub const FORGOTTEN_KEPT: usize = 50;
/// Most lines of what a failed probe saw that are kept, over its last few failures.
pub const PROBE_LINES: usize = 10;
/// Most lines of one answer.
pub const ANSWER_LINES: usize = 5;
/// Longest such line, in characters.
pub const PROBE_LINE_CHARACTERS: usize = 160;
/// Longest reason that a person gives, in characters.
pub const REASON_CHARACTERS: usize = 300;

/// Tells one write of the document from every other: 32 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(String);

/// Text that is no nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a nonce is 32 hex digits")]
pub struct InvalidNonce;

/// What a group's nodes agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutDocument {
    /// See [`ROLLOUT_FORMAT`].
    pub format: u32,
    /// One more with each write.
    pub revision: u64,
    /// Of the last write: whoever lost the answer to its write finds it again by this.
    pub nonce: Nonce,
    /// When it was written last.
    pub written_at: Timestamp,
    /// The newest release whose rollout has begun.
    #[serde(default)]
    pub release: Option<ReleaseNumber>,
    /// When that was.
    #[serde(default)]
    pub began_at: Option<Timestamp>,
    /// How many nodes have taken a slot for `release` and committed it; the first of them is the canary.
    #[serde(default)]
    pub committed: u32,
    /// How many nodes the group had when somebody last counted them; 0 where nobody has.
    #[serde(default)]
    pub size: u32,
    /// The zone whose turn it is.
    #[serde(default)]
    pub zone: Option<String>,
    /// The nodes in transition.
    #[serde(default)]
    pub holders: Vec<Holder>,
    /// Nodes that count as unavailable until they report again, or are forgotten.
    #[serde(default)]
    pub unavailable: Vec<Unavailable>,
    /// Nodes that an operator, or EC2, said are gone: they count no more.
    #[serde(default)]
    pub forgotten: Vec<Forgotten>,
    /// Adoptions that failed, oldest first; at most [`FAILED_KEPT`].
    #[serde(default)]
    pub failed: Vec<FailedAdoption>,
    /// Set while the rollout of a release is halted: nobody begins to adopt that release.
    #[serde(default)]
    pub halted: Option<Halt>,
    /// Set while an operator has paused the group: nobody begins to adopt anything.
    #[serde(default)]
    pub paused: Option<Pause>,
    /// The last time that an operator had a halted release tried again.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// The newest release known to have completed its rollout.
    #[serde(default)]
    pub good: Option<ReleaseNumber>,
}

/// A node in transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Which node.
    pub node: NodeId,
    /// The release that it adopts.
    pub release: ReleaseNumber,
    /// Its zone, if it has one.
    #[serde(default)]
    pub zone: Option<String>,
    /// Of the write that took the slot.
    pub nonce: Nonce,
    /// When the node began to count its deadline; never later than the write.
    pub since: Timestamp,
    /// The deadline of the release's policy. Twice this after `since`, others may clear the slot.
    pub deadline: TimeSpan,
    /// What for.
    #[serde(default, skip_serializing_if = "HolderWork::is_release")]
    pub work: HolderWork,
}

/// What a node holds a slot for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderWork {
    /// It adopts a release.
    #[default]
    Release,
    /// It changes etcd's membership.
    Membership,
}

/// Why a node counts as unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnavailableWhy {
    /// It held a slot for more than twice its deadline.
    Cleared,
    /// It has written no status for a while, though not for so long that it must be gone.
    Silent,
}

/// A node that counts as unavailable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unavailable {
    /// Which node.
    pub node: NodeId,
    /// Why.
    pub why: UnavailableWhy,
    /// The release that it was adopting, if it was.
    #[serde(default)]
    pub release: Option<ReleaseNumber>,
    /// Since when.
    pub since: Timestamp,
}

/// A node that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forgotten {
    /// Which node.
    pub node: NodeId,
    /// Who said so: an operator, or `ec2`.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// An adoption that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedAdoption {
    /// Which node; it does not try this release again.
    pub node: NodeId,
    /// Which release.
    pub release: ReleaseNumber,
    /// Why, in one line.
    pub why: String,
    /// The last lines of what the probe saw; at most [`PROBE_LINES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// When.
    pub at: Timestamp,
}

/// A halted rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halt {
    /// The release that nobody begins to adopt any more.
    pub release: ReleaseNumber,
    /// The node that halted it.
    pub by: NodeId,
    /// Why, in one line.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// A paused group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Who paused it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; none means until it is lifted.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

/// A halted release is to be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Which release.
    pub release: ReleaseNumber,
    /// Who said so.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A rollout document that this build cannot go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolloutDocumentError {
    /// A format this build does not know.
    #[error("rollout document format {0} is not the known format {ROLLOUT_FORMAT}")]
    Format(u32),
    /// It is older than one that was seen before: somebody put it back.
    #[error(
        "its revision {found} is older than {seen}, which was seen before: somebody put an old one back"
    )]
    Older {
        /// The revision found.
        found: u64,
        /// The newest seen.
        seen: u64,
    },
}

// === impl HolderWork ===

impl HolderWork {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_release(&self) -> bool {
        *self == Self::Release
    }
}

// === impl Nonce ===

impl Nonce {
    /// Of these random bits.
    #[must_use]
    pub fn of(bits: u128) -> Self {
        Self(format!("{bits:032x}"))
    }

    /// A fresh one.
    #[must_use]
    pub fn random() -> Self {
        Self::of(rand::random())
    }
}

impl FromStr for Nonce {
    type Err = InvalidNonce;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ok = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match text.len() == 32 && text.bytes().all(ok) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidNonce),
        }
    }
}

impl TryFrom<String> for Nonce {
    type Error = InvalidNonce;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        nonce.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl RolloutDocument ===

impl RolloutDocument {
    /// The document of a group without a rollout yet, of revision 0: what the first writer begins with.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            format: ROLLOUT_FORMAT,
            revision: 0,
            nonce: Nonce::of(0),
            written_at: Timestamp::UNIX_EPOCH,
            release: None,
            began_at: None,
            committed: 0,
            size: 0,
            zone: None,
            holders: Vec::new(),
            unavailable: Vec::new(),
            forgotten: Vec::new(),
            failed: Vec::new(),
            halted: None,
            paused: None,
            retry: None,
            good: None,
        }
    }

    /// Whether this build may go by it; `seen` is the newest revision seen before.
    ///
    /// # Errors
    /// [`RolloutDocumentError`].
    pub fn usable(self, seen: u64) -> Result<Self, RolloutDocumentError> {
        if self.format != ROLLOUT_FORMAT {
            return Err(RolloutDocumentError::Format(self.format));
        }
        if self.revision < seen {
            let found = self.revision;
            return Err(RolloutDocumentError::Older { found, seen });
        }
        Ok(self)
    }

    /// This document as the next write begins with it. `now` is the store's time.
    ///
    /// The first write of all begins its revisions at that time in seconds, so that a document that was removed comes back
    /// above whatever the nodes have seen: nobody writes once a second for long.
    #[must_use]
    pub fn next(&self, nonce: Nonce, now: Timestamp) -> Self {
        let begun = u64::try_from(now.as_second()).unwrap_or(0);
        let revision = match self.revision {
            0 => begun.max(1),
            seen => seen.saturating_add(1),
        };
        let mut next = Self {
            revision,
            nonce,
            written_at: now,
            ..self.clone()
        };
        let drop_oldest = |length: usize, kept: usize| 0..length.saturating_sub(kept);
        next.failed
            .drain(drop_oldest(next.failed.len(), FAILED_KEPT));
        next.forgotten
            .drain(drop_oldest(next.forgotten.len(), FORGOTTEN_KEPT));
        next
    }

    /// The slot that a node holds.
    #[must_use]
    pub fn holder(&self, node: &NodeId) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.node == *node)
    }

    /// How many nodes are in transition or count as unavailable; one that is both counts once.
    #[must_use]
    pub fn busy(&self) -> u32 {
        let holders = self.holders.iter().map(|h| (&h.node, ()));
        let unavailable = self.unavailable.iter().map(|u| (&u.node, ()));
        let all: BTreeMap<&NodeId, ()> = holders.chain(unavailable).collect();
        u32::try_from(all.len()).unwrap_or(u32::MAX)
    }

    /// Whether the rollout of `release` is halted.
    #[must_use]
    pub fn is_halted(&self, release: ReleaseNumber) -> bool {
        self.halted.as_ref().is_some_and(|h| h.release == release)
    }

    /// The pause in force at `now`, the store's time.
    #[must_use]
    pub fn pause_at(&self, now: Timestamp) -> Option<&Pause> {
        let in_force = |pause: &&Pause| pause.until.is_none_or(|until| until > now);
        self.paused.as_ref().filter(in_force)
    }

    /// How the adoption of a release failed on a node, if it did.
    #[must_use]
    pub fn failure(&self, node: &NodeId, release: ReleaseNumber) -> Option<&FailedAdoption> {
        let is_it = |f: &&FailedAdoption| f.node == *node && f.release == release;
        self.failed.iter().rev().find(is_it)
    }
}

/// A line of a probe, or the lines, as long as the document has room for: the last ones.
#[must_use]
pub fn kept_lines(lines: &[String]) -> Vec<String> {
    let first = lines.len().saturating_sub(PROBE_LINES);
    let kept = lines.iter().skip(first);
    kept.map(|line| kept_line(line, PROBE_LINE_CHARACTERS))
        .collect()
}

/// A line without control characters, cut to `characters`.
#[must_use]
pub fn kept_line(line: &str, characters: usize) -> String {
    let plain = line.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(characters).collect()
}

#[cfg(test)]
mod tests;
