//! What a node in transition may still do, by the time it has spent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bundle::TimeSpan;

/// Part of the deadline D that a node in transition is in, on a clock that counts suspended time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Window {
    /// Before D/2: it may write the release.
    Forward,
    /// Before 3/4 D: it writes nothing forward any more, and may still be found healthy.
    Probe,
    /// From then on: it goes back. A quarter of D is left for that.
    Back,
}

/// How far a node has come with its slot, as it remembers durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// About to write that it takes the slot: it may have it or not.
    Asking,
    /// It has the slot, and has changed nothing.
    Granted,
    /// It may have written some or all of the release.
    Applying,
    /// The release is on the disk, and its probes run.
    Probing,
    /// It is there to stay; the slot is to be given back.
    Committed,
    /// It goes back to the release before, or has tried to.
    Reverting,
    /// It is back; the slot is to be given back.
    Reverted,
}

/// What a node goes on with after a restart, or at its next look at its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Look into the document whether it has the slot.
    Look,
    /// Adopt as if it had just got the slot.
    Adopt,
    /// Finish what was interrupted, and probe.
    FinishAndProbe,
    /// Go back to the release before.
    Revert,
    /// Give the slot back unused.
    GiveBackUnused,
    /// Give the slot back.
    GiveBack,
}

// === impl Window ===

impl Window {
    /// After `elapsed` of `deadline`.
    #[must_use]
    pub fn after(elapsed: Duration, deadline: TimeSpan) -> Self {
        let deadline = deadline.get();
        if elapsed < deadline / 2 {
            Self::Forward
        } else if elapsed < deadline * 3 / 4 {
            Self::Probe
        } else {
            Self::Back
        }
    }
}

/// Decides how to go on. What was begun is finished before half of the deadline, and taken back after it: both leave one
/// whole release on the disk.
#[must_use]
pub const fn resume(stage: Stage, window: Window) -> Resume {
    match (stage, window) {
        (Stage::Asking, _) => Resume::Look,
        (Stage::Granted, Window::Forward) => Resume::Adopt,
        (Stage::Granted, _) => Resume::GiveBackUnused,
        (Stage::Applying, Window::Forward) | (Stage::Probing, Window::Forward | Window::Probe) => {
            Resume::FinishAndProbe
        }
        (Stage::Applying | Stage::Probing | Stage::Reverting, _) => Resume::Revert,
        (Stage::Committed | Stage::Reverted, _) => Resume::GiveBack,
    }
}
