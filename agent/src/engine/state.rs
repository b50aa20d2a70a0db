//! The states of one pass.

use bytes::Bytes;
use shared::bundle::Release;
use shared::documents::Phase;
use shared::store::ETag;
use shared::trust::ReleaseTarget;
use tokio::time::Instant;

use crate::disk::{ApplyReport, CheckedRelease, Plan};

/// Where a pass stands; each state has what the next step needs, and a step gives the state after it:
///
/// ```text
/// Poll → (new timestamp, or an hour gone) → Verify → Fetch → Decrypt → Check → Plan → Apply → Commit → Idle
///   └────────────── 304 ───────────────────────┴ up to date, or held ───────────────────────────────↗
/// ```
#[derive(Debug)]
pub(crate) enum State {
    /// Ask for the timestamp.
    Poll,
    /// Bring the trusted metadata up to date and choose a release.
    Verify(Seen),
    /// Read the release's bundle.
    Fetch(Adoption),
    /// Open it: what the store gave.
    Decrypt(Adoption, Bytes),
    /// Check what it holds.
    Check(Adoption, Release),
    /// Compare it with the disk.
    Plan(Adoption, CheckedRelease),
    /// Write and remove.
    Apply(Adoption, CheckedRelease, Plan),
    /// Remember that it is done.
    Commit(Adoption, ApplyReport),
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
    /// When the timestamp that brought it was seen.
    pub(crate) began: Instant,
}

impl State {
    /// What the state is called in status, logs and metrics.
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::Poll | Self::Idle => Phase::Idle,
            Self::Verify(_) => Phase::Verify,
            Self::Fetch(_) => Phase::Fetch,
            Self::Decrypt(..) => Phase::Decrypt,
            Self::Check(..) => Phase::Check,
            Self::Plan(..) => Phase::Plan,
            Self::Apply(..) => Phase::Apply,
            Self::Commit(..) => Phase::Commit,
        }
    }

    /// The release on its way, if there is one.
    pub(crate) fn adoption(&self) -> Option<&Adoption> {
        match self {
            Self::Poll | Self::Verify(_) | Self::Idle => None,
            Self::Fetch(a)
            | Self::Decrypt(a, _)
            | Self::Check(a, _)
            | Self::Plan(a, _)
            | Self::Apply(a, ..)
            | Self::Commit(a, _) => Some(a),
        }
    }
}
