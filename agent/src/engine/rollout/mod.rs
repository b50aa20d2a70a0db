//! A node's part in a rollout (§6.11): the slot that it takes, holds and gives back, around the decisions of
//! [`shared::rollout`].

mod back;
mod document;
mod membership;
mod take;

pub(super) use membership::SlotTaken;

use std::time::Duration;

use shared::bundle::RolloutPolicy;
use shared::documents::{
    Decision, NodeObjectError, Phase, RolloutDocument, RolloutDocumentError, RolloutReport,
    SlotReport, Waiting,
};
use shared::names::ReleaseNumber;
use shared::rollout::{Resume, Stage, Window, resume};
use shared::store::{ETag, StoreErrorKind};

use super::Agent;
use super::failure::{Failure, Retry, Stop};
use super::state::State;
use crate::rollout::{Prober, Slot, SlotFile};
use crate::trouble::{Source, chain};

/// Writes that are tried in one pass while others write too.
const TRIES: u32 = 5;
/// How old a look at the probes may be when the first file is written.
const BASELINE_AGE: Duration = Duration::from_secs(30);
/// The kind of failure where somebody else wrote the document first.
const CONFLICT: &str = StoreErrorKind::Conflict.label();

/// What an agent remembers about rollouts.
#[derive(Debug)]
pub(super) struct Rollouts {
    file: SlotFile,
    /// The slot that is held, or may be.
    pub(super) slot: Option<Slot>,
    /// The file could not be read: nothing is adopted until it can be.
    unread: bool,
    /// The document that was read last, with its tag.
    cached: Option<(ETag, RolloutDocument)>,
    /// The newest revision seen, also before a restart: an older document is one that somebody put back.
    seen: u64,
    /// What the status says.
    pub(super) report: RolloutReport,
    /// Going back did not succeed at once.
    pub(super) struggles: bool,
    /// The probes of a node's first release, until they succeed or its deadline is over: they are only reported.
    pub(super) first: Option<(RolloutPolicy, Prober, tokio::time::Instant)>,
    /// Probes that failed before the release, when that was found out, for which release.
    pub(super) baseline: Option<(
        ReleaseNumber,
        tokio::time::Instant,
        std::collections::BTreeSet<String>,
    )>,
}

/// The rollout document cannot be gone by.
#[derive(Debug, thiserror::Error)]
enum RolloutError {
    #[error("the rollout document is not believed")]
    Object(#[source] NodeObjectError),
    #[error("the rollout document is not gone by")]
    Document(#[source] RolloutDocumentError),
    #[error("the group's key, with which the rollout document is verified, cannot be read")]
    Key,
    #[error("what this node remembers of its slot cannot be read, so it begins nothing")]
    Slot,
    #[error("the rollout document changes faster than this node can write it")]
    Contended,
    #[error("the rollout document cannot be encoded: this is a bug")]
    Encode(#[source] serde_json::Error),
}

impl Rollouts {
    pub(super) fn in_directory(state: &std::path::Path, zone: Option<String>) -> Self {
        Self {
            file: SlotFile::in_directory(state),
            slot: None,
            unread: true,
            cached: None,
            seen: SlotFile::in_directory(state).revision(),
            report: RolloutReport {
                zone,
                ..RolloutReport::default()
            },
            struggles: false,
            first: None,
            baseline: None,
        }
    }
}

fn refused(error: RolloutError) -> Failure {
    Failure::new(Phase::Slot, "rollout_document", Retry::NextPoll, error)
}

impl Agent {
    /// Reads the slot from the state directory, once.
    pub(super) fn recall_slot(&mut self) {
        if !self.rollouts.unread {
            return;
        }
        match self.rollouts.file.load() {
            Ok(slot) => {
                if let Some(slot) = &slot {
                    tracing::warn!(release = %slot.release, stage = ?slot.stage, "this node holds a slot");
                }
                self.rollouts.slot = slot;
                self.rollouts.unread = false;
                self.troubles.clear(Source::Slot);
            }
            Err(error) => self.trouble(Source::Slot, Phase::Slot, "slot", chain(&error)),
        }
    }

    /// Remembers the slot durably; what can't be remembered is not done.
    pub(super) fn remember_slot(&mut self, slot: Option<Slot>) -> Result<(), Stop> {
        let failed = |e| Failure::new(Phase::Slot, "slot", Retry::NextPoll, e);
        self.rollouts.file.save(slot.as_ref()).map_err(failed)?;
        self.rollouts.slot = slot;
        Ok(())
    }

    pub(super) fn reach(&mut self, stage: Stage) -> Result<(), Stop> {
        match self.rollouts.slot.clone() {
            None => Ok(()),
            Some(slot) => self.remember_slot(Some(Slot { stage, ..slot })),
        }
    }

    /// The part of its deadline that a slot is in.
    pub(super) fn window(&self, slot: &Slot) -> Window {
        slot.window(&self.clock.boot_time(), self.clock.now())
    }

    pub(super) fn has_slot(&self) -> bool {
        self.rollouts.slot.is_some() || self.rollouts.unread
    }

    /// The release to go back to before anything else, where the slot's time says so.
    pub(super) fn overdue(&self) -> Option<crate::disk::Committed> {
        let slot = self.rollouts.slot.as_ref()?;
        let goes_back = resume(slot.stage, self.window(slot)) == Resume::Revert;
        goes_back.then_some(slot.previous)
    }

    /// Where a pass begins: with the slot, if there is one.
    pub(super) fn first_state(&mut self) -> State {
        self.recall_slot();
        let Some(slot) = self.rollouts.slot.clone() else {
            return State::Poll;
        };
        if !self.recovered {
            return State::Poll;
        }
        match resume(slot.stage, self.window(&slot)) {
            Resume::Look | Resume::Adopt => State::Poll,
            Resume::FinishAndProbe if self.release() == Some(slot.release) => State::Probe,
            // Nothing was written yet.
            Resume::FinishAndProbe => State::Poll,
            Resume::Revert => State::Revert,
            Resume::GiveBackUnused | Resume::GiveBack => State::GiveBack,
        }
    }

    /// Remembers a decision for `explain`.
    pub(super) fn decided(&mut self, what: &str, release: ReleaseNumber, result: &str) {
        tracing::info!(%release, result, "{what}");
        let at = self.clock.now();
        self.rollouts.report.decided(Decision {
            at,
            what: what.to_owned(),
            release: Some(release),
            digest: self.with_disk(|disk| disk.bundle_digest()),
            result: shared::documents::kept_line(result, shared::documents::REASON_CHARACTERS),
        });
    }

    /// What the status says.
    pub(super) fn rollout_report(&self) -> RolloutReport {
        let slot = self.rollouts.slot.as_ref().and_then(|slot| {
            Some(SlotReport {
                release: slot.release,
                previous: Some(slot.previous.release),
                since: slot.since,
                deadline: slot.policy.deadline,
                transition: slot.transition(self.rollouts.struggles)?,
            })
        });
        let mut report = self.rollouts.report.clone();
        // What waited is here by now.
        let waits = |w: &Waiting| self.release() < Some(w.release);
        report.waiting = report.waiting.filter(waits);
        RolloutReport { slot, ..report }
    }
}
