//! What an earlier transition left behind on this node: to be ended before another begins.

use shared::documents::RolloutDocument;
use shared::names::ReleaseNumber;
use shared::rollout::{Stage, Window, record_failure};

use super::document::Read;
use crate::engine::Agent;
use crate::engine::failure::Stop;
use crate::trouble::chain;

/// What an earlier transition leaves to do.
pub(super) enum Unfinished {
    Nothing,
    /// Apply the same release again.
    Apply,
    /// Go back first.
    Revert,
    /// Wait for its own end.
    Other,
}

impl Agent {
    /// Why this very release failed here, also where the document does not say so any more: then it is told again, and halts
    /// again. A retry that was ordered after it began ends that.
    pub(super) async fn failed_here(
        &mut self,
        release: ReleaseNumber,
        read: &Read,
    ) -> Result<Option<String>, Stop> {
        let failed = self.rollouts.failed.clone();
        let Some(failed) = failed.filter(|failed| failed.release == release) else {
            return Ok(None);
        };
        let document = read.document.clone().unwrap_or_else(RolloutDocument::empty);
        let is_retry =
            |retry: &shared::documents::Retry| retry.release == release && retry.at >= failed.since;
        if document.retry.as_ref().is_some_and(is_retry) {
            return Ok(None);
        }
        let own = self.own_facts();
        let stamp = self.stamp(read.now);
        let told = record_failure(&document, own.facts(), release, &failed.why, &[], stamp);
        if let Some(next) = told {
            match self.write_rollout(&next, read.tag.clone()).await {
                Ok(()) => {}
                Err(Stop::Failed(failure)) => {
                    let error = chain(failure.error.as_ref());
                    tracing::warn!(error, "the failure here is not in the document again yet");
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(Some(failed.why))
    }

    /// What an earlier transition leaves to do before `release` may ask for a slot.
    pub(super) fn unfinished(&self, release: ReleaseNumber) -> Unfinished {
        let Some(slot) = &self.rollouts.slot else {
            return Unfinished::Nothing;
        };
        let applying = self.with_disk(|disk| disk.ledger().applying.is_some());
        let is_back = !applying && self.release() == Some(slot.previous.release);
        match slot.stage {
            Stage::Asking | Stage::Granted => Unfinished::Nothing,
            Stage::Applying if slot.release == release && self.window(slot) == Window::Forward => {
                Unfinished::Apply
            }
            Stage::Applying => Unfinished::Revert,
            // The release that mends what this node could not go back from.
            Stage::Reverting if (is_back || self.rollouts.struggles) && release > slot.release => {
                Unfinished::Nothing
            }
            Stage::Probing | Stage::Committed | Stage::Reverting | Stage::Reverted => {
                Unfinished::Other
            }
        }
    }
}
