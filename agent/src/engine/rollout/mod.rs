//! A node's part in a rollout (§6.11): the slot that it takes, holds and gives back, around the decisions of
//! [`shared::rollout`].

mod back;
mod baseline;
mod document;
mod membership;
mod take;
mod unfinished;

pub(super) use membership::SlotTaken;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shared::bundle::RolloutPolicy;
use shared::digest::Sha256Digest;
use shared::documents::{
    Decision, NodeObjectError, Phase, RolloutDocument, RolloutDocumentError, RolloutReport,
    RolloutSealError, SlotReport, Waiting,
};
use shared::names::{NodeId, ReleaseNumber};
use shared::rollout::{Resume, Stage, Window, resume};
use shared::store::{ETag, StoreErrorKind, keys};
use shared::trust::bundle_name;

use super::Agent;
use super::failure::{Failure, Retry, Stop};
use super::state::State;
use crate::clock::Clock;
use crate::disk::Committed;
use crate::rollout::{FailedHere, Prober, Slot, SlotError, SlotFile};
use crate::trouble::{Source, chain};

/// Writes that are tried in one pass while others write too.
const TRIES: u32 = 5;
/// How old a look at the probes may be when the first file is written.
const BASELINE_AGE: Duration = Duration::from_secs(30);
/// The kind of failure where somebody else wrote the document first.
const CONFLICT: &str = StoreErrorKind::Conflict.label();
/// The kind of failure where the document cannot be gone by.
const UNREADABLE: &str = "rollout_document";

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
    /// The release that failed here last: a document that was removed or put back does not make it forgotten.
    failed: Option<FailedHere>,
    /// The nodes whose status was not believed at the last look.
    unread_nodes: BTreeSet<NodeId>,
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
    #[error(
        "the rollout document is gone, though revision {0} of it was seen here: restore its newest version (the bucket keeps \
         versions); `platformctl pause` and `platformctl resume` begin a new one, which forgets who holds a slot"
    )]
    Missing(u64),
    #[error("the store does not say what time it is, and slots are counted by its clock")]
    NoTime,
    #[error("the rollout document changes faster than this node can write it")]
    Contended,
    #[error("the rollout document cannot be written")]
    Seal(#[source] RolloutSealError),
}

/// Until when files of a slot's release may be written.
#[derive(Clone, Debug)]
pub(super) struct ForwardLimit {
    clock: Arc<dyn Clock>,
    slot: Option<Slot>,
}

impl ForwardLimit {
    /// Whether there is still time; always, without a slot.
    pub(super) fn may_write(&self) -> bool {
        let window = |slot: &Slot| slot.window(&self.clock.boot_time(), self.clock.now());
        self.slot
            .as_ref()
            .is_none_or(|slot| window(slot) == Window::Forward)
    }

    /// What to go back to where there is none.
    pub(super) fn previous(&self) -> Option<Committed> {
        self.slot.as_ref().map(|slot| slot.previous)
    }
}

impl Rollouts {
    pub(super) fn in_directory(state: &std::path::Path, zone: Option<String>) -> Self {
        Self {
            file: SlotFile::in_directory(state),
            slot: None,
            unread: true,
            cached: None,
            seen: 0,
            failed: None,
            unread_nodes: BTreeSet::new(),
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

impl Rollouts {
    /// Remembers, here and on the disk, that a release failed on this node.
    pub(super) fn remember_failed(&mut self, failed: FailedHere) -> Result<(), SlotError> {
        if self.failed.as_ref() == Some(&failed) {
            return Ok(());
        }
        let done = self.file.remember_failed(&failed);
        self.failed = Some(failed);
        done
    }
}

fn refused(error: RolloutError) -> Failure {
    Failure::new(Phase::Slot, UNREADABLE, Retry::NextPoll, error)
}

impl Agent {
    /// Reads the slot from the state directory, once.
    pub(super) fn recall_slot(&mut self) {
        if !self.rollouts.unread {
            return;
        }
        let file = &self.rollouts.file;
        let recalled = file.load().and_then(|slot| {
            let (seen, failed) = (file.revision()?, file.failed()?);
            Ok((slot, seen, failed))
        });
        match recalled {
            Ok((slot, seen, failed)) => {
                self.rollouts.seen = seen;
                self.rollouts.failed = failed;
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

    /// Until when files of the slot's release may be written, for work beside the loop.
    pub(super) fn forward_limit(&self) -> ForwardLimit {
        ForwardLimit {
            clock: Arc::clone(&self.clock),
            slot: self.rollouts.slot.clone(),
        }
    }

    /// The key of a release's bundle, for a decision about it.
    pub(super) fn bundle_object(
        &self,
        release: ReleaseNumber,
        digest: Option<Sha256Digest>,
    ) -> String {
        let name = bundle_name(release);
        match digest {
            Some(digest) => keys::target(&self.identity.group, &digest, &name),
            None => name,
        }
    }

    /// A decision about the slot, which is in the rollout document.
    pub(super) fn decided_slot(
        &mut self,
        what: &str,
        release: ReleaseNumber,
        digest: Option<Sha256Digest>,
        result: &str,
    ) {
        let object = keys::rollout(&self.identity.group);
        self.decided(what, release, digest, object, result);
    }

    /// Remembers a decision for `explain`: about which object, and with which bundle of the release.
    pub(super) fn decided(
        &mut self,
        what: &str,
        release: ReleaseNumber,
        digest: Option<Sha256Digest>,
        object: String,
        result: &str,
    ) {
        tracing::info!(%release, object, result, "{what}");
        let at = self.clock.now();
        self.rollouts.report.decided(Decision {
            at,
            what: what.to_owned(),
            release: Some(release),
            object: Some(object),
            digest,
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
