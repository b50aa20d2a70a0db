//! The states of one pass.

use bytes::Bytes;
use shared::bundle::Release;
use shared::documents::Phase;
use shared::store::ETag;
use shared::trust::{ArtifactTarget, ReleaseTarget};
use tokio::time::Instant;

use crate::disk::{ApplyReport, CheckedRelease, Plan};

/// Where a pass stands; each state has what the next step needs, and a step gives the state after it:
///
/// ```text
/// Poll → (new timestamp, or an hour gone) → Verify → [Update] → Fetch → Decrypt → Check → Stage → Baseline → Plan → [Slot]
///   └────────────── 304 ───────────────────────┴ up to date, or held: Idle               → Apply → Commit → Probe → GiveBack
///                                                                                                              └→ Revert ↗
/// ```
#[derive(Debug)]
pub(crate) enum State {
    /// Ask for the timestamp.
    Poll,
    /// Bring the trusted metadata up to date and choose a release.
    Verify(Seen),
    /// Replace the agent first; the state to go on with where that does not work.
    Update(Box<State>),
    /// Read the release's bundle.
    Fetch(Adoption),
    /// Open it: what the store gave.
    Decrypt(Adoption, Bytes),
    /// Check what it holds.
    Check(Adoption, Release),
    /// Fetch the artifacts that are missing.
    Stage(Adoption, CheckedRelease),
    /// Try the probes of its policy before anything is changed.
    Baseline(Adoption, CheckedRelease),
    /// Compare it with the disk.
    Plan(Adoption, CheckedRelease),
    /// Take a slot, or wait for it.
    Slot(Adoption, CheckedRelease, Plan),
    /// Write and remove.
    Apply(Adoption, CheckedRelease, Plan),
    /// Remember that it is done.
    Commit(Adoption, ApplyReport),
    /// The slot's release is on the disk: see whether it is healthy.
    Probe,
    /// Put the slot's release before on the disk again.
    Revert,
    /// Give the slot back.
    GiveBack,
    /// Nothing more to do in this pass.
    Idle,
}

/// The timestamp document that a pass began with.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The store gave it.
    New {
        /// Its bytes.
        bytes: Bytes,
        /// Its tag.
        etag: ETag,
    },
    /// The store said that it has not changed; the refresh is the hourly one.
    Unchanged,
}

/// A release on its way to the disk.
#[derive(Debug)]
pub(crate) struct Adoption {
    /// What was signed about it.
    pub(crate) target: ReleaseTarget,
    /// The release that is known to be good, if another is signed beside it.
    pub(crate) good: Option<ReleaseTarget>,
    /// The other targets that were signed with it.
    pub(crate) artifacts: Vec<ArtifactTarget>,
    /// When the timestamp that brought it was seen.
    pub(crate) began: Instant,
}

impl State {
    /// What the state is called in status, logs and metrics.
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::Poll | Self::Idle => Phase::Idle,
            Self::Verify(_) => Phase::Verify,
            Self::Update(_) => Phase::Update,
            Self::Fetch(_) => Phase::Fetch,
            Self::Decrypt(..) => Phase::Decrypt,
            Self::Check(..) => Phase::Check,
            Self::Stage(..) => Phase::Install,
            Self::Baseline(..) => Phase::Baseline,
            Self::Plan(..) => Phase::Plan,
            Self::Slot(..) | Self::GiveBack => Phase::Slot,
            Self::Probe => Phase::Probe,
            Self::Revert => Phase::Revert,
            Self::Apply(..) => Phase::Apply,
            Self::Commit(..) => Phase::Commit,
        }
    }

    /// The release on its way, if there is one.
    pub(crate) fn adoption(&self) -> Option<&Adoption> {
        match self {
            Self::Poll
            | Self::Verify(_)
            | Self::Update(_)
            | Self::Probe
            | Self::Revert
            | Self::GiveBack
            | Self::Idle => None,
            Self::Fetch(a)
            | Self::Decrypt(a, _)
            | Self::Check(a, _)
            | Self::Stage(a, _)
            | Self::Baseline(a, _)
            | Self::Plan(a, _)
            | Self::Slot(a, ..)
            | Self::Apply(a, ..)
            | Self::Commit(a, _) => Some(a),
        }
    }
}
