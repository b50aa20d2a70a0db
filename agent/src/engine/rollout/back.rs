//! Giving a slot back, noting a failure, and what a node does about a rollout without a slot of its own.

use shared::rollout::{
    Ending, FirstRelease, Stage, conclude, first_release, give_back, needs_view, record_failure,
};

use super::{CONFLICT, RolloutError, TRIES, refused};
use crate::engine::Agent;
use crate::engine::failure::Stop;
use crate::engine::state::{Adoption, State};
use crate::rollout::Slot;
use crate::trouble::{Source, chain};

impl Agent {
    /// Gives the slot back: the status first, then the document.
    pub(in crate::engine) async fn give_back(&mut self) -> Result<State, Stop> {
        let Some(slot) = self.rollouts.slot.clone() else {
            return Ok(State::Poll);
        };
        fail::fail_point!("rollout::give-back");
        if let (Stage::Asking | Stage::Granted, Some(before)) = (slot.stage, slot.mends) {
            // Nothing came of the release that was to mend it: it goes on going back, and counts all the while.
            self.remember_slot(Some(*before))?;
            return Ok(State::Poll);
        }
        let ending = match slot.stage {
            Stage::Committed => Ending::Committed,
            // Said before; told again after a retry, it would halt again.
            Stage::Reverted | Stage::Reverting if slot.noted => Ending::Unused,
            Stage::Reverted | Stage::Reverting => Ending::Failed {
                why: slot.why.clone().unwrap_or_default(),
                lines: slot.lines.clone(),
            },
            _ => Ending::Unused,
        };
        self.report().await;
        let mut tries = 0;
        loop {
            let read = self.read_rollout().await?;
            let Some(document) = read.document else {
                break;
            };
            // Nobody else is under way: whose turn it is next, and whether all have it.
            let view = match needs_view(&document, &self.identity.node) {
                true => self.view().await?,
                false => None,
            };
            let own = self.own_facts();
            let facts = own.facts();
            let stamp = self.stamp(read.now);
            let release = slot.release;
            let next = give_back(&document, facts, release, &ending, view.as_ref(), stamp);
            let Some(next) = next else {
                break;
            };
            match self.write_rollout(&next, read.tag).await {
                Ok(()) => break,
                Err(Stop::Failed(failure)) if failure.kind == CONFLICT => self.step_aside().await?,
                Err(stop) => return Err(stop),
            }
            tries += 1;
            if tries == TRIES {
                return Err(refused(RolloutError::Contended).into());
            }
        }
        self.decided_slot(
            "gives the slot back",
            slot.release,
            slot.bundle,
            match slot.stage {
                Stage::Committed => "committed",
                Stage::Reverted | Stage::Reverting => "failed",
                _ => "unused",
            },
        );
        self.remember_slot(None)?;
        self.rollouts.struggles = false;
        self.troubles.clear(Source::Rollout);
        self.keep_leftovers();
        // A release that failed is not tried again, and one that came meanwhile is to be seen.
        self.resume = None;
        Ok(State::Poll)
    }

    /// Notes in the document that a release failed here, before going back: nobody begins with it meanwhile. Whether it is
    /// noted; where not, the next pass tries again, and giving the slot back does it too.
    pub(in crate::engine) async fn note_failure(&mut self, slot: &Slot) -> Result<bool, Stop> {
        for _ in 0..TRIES {
            match self.write_failure(slot).await {
                Ok(()) => return Ok(true),
                Err(Stop::Failed(failure)) if failure.kind == CONFLICT => self.step_aside().await?,
                Err(Stop::Failed(failure)) => {
                    tracing::warn!(
                        error = chain(failure.error.as_ref()),
                        "the halt is not written yet"
                    );
                    return Ok(false);
                }
                Err(stop) => return Err(stop),
            }
        }
        tracing::warn!(
            "the halt is not written yet: others write the rollout document all the time"
        );
        Ok(false)
    }

    async fn write_failure(&mut self, slot: &Slot) -> Result<(), Stop> {
        let read = self.read_rollout().await?;
        let own = self.own_facts();
        let facts = own.facts();
        let why = slot.why.clone().unwrap_or_default();
        let stamp = self.stamp(read.now);
        let noted = read.document.as_ref().and_then(|document| {
            record_failure(document, facts, slot.release, &why, &slot.lines, stamp)
        });
        match noted {
            Some(next) => self.write_rollout(&next, read.tag).await,
            None => Ok(()),
        }
    }

    /// Whether a new node begins with the good release instead of the one that it has opened.
    pub(in crate::engine) async fn begins_with_good(
        &mut self,
        adoption: &Adoption,
        release: &shared::bundle::Release,
    ) -> Result<bool, Stop> {
        let good = adoption.good.as_ref().map(|good| good.release());
        let current = adoption.target.release();
        let asks = release.index().rollout.is_some() && good.is_some_and(|good| good < current);
        if self.release().is_some() || !asks {
            return Ok(false);
        }
        let key = "agent/group.key".parse().ok();
        let key = key.and_then(|path| release.bytes(&path));
        let key = key.and_then(|bytes| std::str::from_utf8(bytes.expose()).ok()?.parse().ok());
        let document = match key {
            None => None,
            Some(key) => match self.read_rollout_with(&key).await {
                Ok(read) => read.document,
                Err(Stop::Failed(failure)) => {
                    let error = chain(failure.error.as_ref());
                    tracing::warn!(error, "beginning with the good release");
                    None
                }
                Err(stop) => return Err(stop),
            },
        };
        Ok(first_release(current, good, document.as_ref()) == FirstRelease::Good)
    }

    /// Once in a while, at rest: whether the rollout is complete, and nothing of this node's is left in the document.
    pub(in crate::engine) async fn conclude_rollout(&mut self) -> Result<(), Stop> {
        if self.has_slot()
            || self.etcd.holds_slot.is_some()
            || self.hold.is_some()
            || self.release().is_none()
        {
            return Ok(());
        }
        let read = self.read_rollout().await?;
        let Some(document) = read.document else {
            return Ok(());
        };
        let Some(view) = self.view().await? else {
            return Ok(());
        };
        let own = self.own_facts();
        let facts = own.facts();
        match conclude(&document, facts, &view, self.stamp(read.now)) {
            Some(next) => self.write_rollout(&next, read.tag).await,
            None => Ok(()),
        }
    }
}
