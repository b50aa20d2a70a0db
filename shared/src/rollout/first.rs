//! Which release a new node begins with.

use crate::documents::RolloutDocument;
use crate::names::ReleaseNumber;

/// The release for a node that has none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstRelease {
    /// The current one.
    Current,
    /// The one that is known to be good: the current one has not completed its rollout, or is halted.
    Good,
}

/// Decides (§6.11). `good` is the release that the signed targets list beside the current one. So a bad release never meets
/// machines that an auto-scaling group starts.
#[must_use]
pub fn first_release(
    current: ReleaseNumber,
    good: Option<ReleaseNumber>,
    document: Option<&RolloutDocument>,
) -> FirstRelease {
    let is_older = good.is_some_and(|good| good < current);
    let completed = document.is_some_and(|d| d.good >= Some(current) && !d.is_halted(current));
    match is_older && !completed {
        true => FirstRelease::Good,
        false => FirstRelease::Current,
    }
}
