//! Taking a slot: the wish, the wait, the grant.

use shared::backup::RESTORE_IDENTITY_FILE;
use shared::documents::{Phase, RolloutDocument, Waiting};
use shared::names::{EntryPath, ReleaseNumber};
use shared::rollout::{Admission, GroupView, Stage, Stock, Wait, Window, Wish, admit};

use super::unfinished::Unfinished;
use super::{BASELINE_AGE, CONFLICT, RolloutError, TRIES, UNREADABLE, refused};
use crate::disk::{CheckedRelease, Plan};
use crate::engine::Agent;
use crate::engine::failure::{EngineError, Failure, Retry, Stop};
use crate::engine::state::{Adoption, State};
use crate::rollout::{Prober, Slot};
use crate::trouble::{Source, chain};

impl Agent {
    /// Takes a slot, or waits for one (§6.11).
    pub(in crate::engine) async fn slot(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
        plan: Plan,
    ) -> Result<State, Stop> {
        if let Some(why) = self.etcd_stays(checked.release()).await {
            let error = EngineError::Etcd(why);
            return Err(Failure::new(Phase::Slot, "etcd", Retry::OnChange, error).into());
        }
        let policy = checked.release().index().rollout.clone();
        if let Some(policy) = policy.clone().filter(|_| self.release().is_none()) {
            let prober = Prober::new(&policy.probes, checked.release());
            self.rollouts.first = Some((policy, prober, tokio::time::Instant::now()));
        }
        if self.hold_file.in_force(self.clock.now()).is_some() {
            self.held_back = true;
            self.resume = Some(State::Plan(adoption, checked));
            self.dealt_with(None);
            return Ok(State::Idle);
        }
        if self.rollouts.unread {
            let later = State::Slot(adoption, checked, plan);
            let error = RolloutError::Slot;
            return Err(refused(error).resume_at(later).into());
        }
        let release = checked.number();
        match self.unfinished(release) {
            Unfinished::Nothing => {}
            Unfinished::Apply => return Ok(State::Apply(adoption, checked, plan)),
            Unfinished::Revert => return Ok(State::Revert),
            Unfinished::Other => {
                self.resume = Some(State::Slot(adoption, checked, plan));
                self.dealt_with(None);
                return Ok(State::Idle);
            }
        }
        let Some(policy) = policy.filter(|_| !self.needs_no_slot(&checked)) else {
            if self.rollouts.slot.is_none() {
                return self.without_slot(adoption, checked, plan).await;
            }
            // The slot of another release would be taken for this one's.
            self.handled = None;
            return Ok(State::GiveBack);
        };
        if self.rollouts.slot.is_none()
            && let Some(waiting) = Box::pin(self.etcd_waits(&checked, &plan)).await?
        {
            return Ok(self.waits(adoption, checked, plan, waiting));
        }
        let bundle = adoption.target.sha256;
        let mut seen: Option<GroupView> = None;
        let mut looked = false;
        for _ in 0..TRIES {
            let read = match self.read_rollout().await {
                Ok(read) => read,
                Err(Stop::Failed(failure)) => {
                    self.cannot_read(release, &failure);
                    let later = State::Slot(adoption, checked, plan);
                    return Err(failure.resume_at(later).into());
                }
                Err(stop) => return Err(stop),
            };
            if let Some(why) = self.failed_here(release, &read).await? {
                let waiting = waiting(release, &Wait::FailedHere(why));
                return Ok(self.waits(adoption, checked, plan, waiting));
            }
            let document = read.document.clone().unwrap_or_else(RolloutDocument::empty);
            let known = self.rollouts.slot.as_ref().map(|slot| slot.nonce.clone());
            let stamp = self.stamp(read.now);
            let own = self.own_facts();
            let facts = own.facts();
            let wish = Wish {
                release,
                policy: &policy,
            };
            let stock = match (&seen, looked) {
                (Some(view), _) => Stock::Seen(view),
                (None, true) => Stock::Unknown,
                (None, false) => Stock::NotTaken,
            };
            match admit(&document, facts, wish, known.as_ref(), stock, stamp) {
                Admission::TakeStock => {
                    seen = match self.view().await {
                        Ok(view) => view,
                        Err(Stop::Failed(failure)) => {
                            let later = State::Slot(adoption, checked, plan);
                            return Err(failure.resume_at(later).into());
                        }
                        Err(stop) => return Err(stop),
                    };
                    looked = true;
                }
                Admission::Holds => {
                    self.decided_slot("takes the slot", release, Some(bundle), "granted");
                    self.reach(Stage::Granted)?;
                    return self.granted(adoption, checked, plan);
                }
                Admission::Take(next) => {
                    let Some(previous) = self.with_disk(|disk| disk.ledger().release) else {
                        return Ok(State::Apply(adoption, checked, plan));
                    };
                    let before = self.rollouts.slot.clone();
                    // Remembered before it is asked for: an agent that is killed now looks again.
                    self.remember_slot(Some(Slot {
                        release,
                        bundle: Some(bundle),
                        previous,
                        nonce: next.nonce.clone(),
                        since: read.now,
                        started: read.asked,
                        started_at: self.clock.now(),
                        policy: policy.clone(),
                        stage: Stage::Asking,
                        failed_before: std::collections::BTreeSet::new(),
                        why: None,
                        lines: Vec::new(),
                        tried: None,
                        noted: false,
                        mends: mends(before.as_ref()),
                    }))?;
                    match self.write_rollout(&next, read.tag).await {
                        Ok(()) => {
                            self.decided_slot("takes the slot", release, Some(bundle), "granted");
                            self.reach(Stage::Granted)?;
                            return self.granted(adoption, checked, plan);
                        }
                        Err(Stop::Failed(failure)) if failure.kind == CONFLICT => {
                            self.remember_slot(mends(before.as_ref()).map(|slot| *slot))?;
                            self.step_aside().await?;
                        }
                        // It may have been written all the same: the next look shows it.
                        Err(Stop::Failed(failure)) => {
                            let later = State::Slot(adoption, checked, plan);
                            return Err(failure.resume_at(later).into());
                        }
                        Err(stop) => return Err(stop),
                    }
                }
                Admission::Wait(why, next) => {
                    // A node that could not go back keeps its slot.
                    let kept = mends(self.rollouts.slot.as_ref());
                    let struggles = self.rollouts.struggles || kept.is_some();
                    if self.rollouts.slot.is_some() {
                        self.remember_slot(kept.map(|slot| *slot))?;
                    }
                    if let Some(next) = next.filter(|_| !struggles) {
                        // Somebody else does it where this fails.
                        let _ = self.write_rollout(&next, read.tag).await;
                    }
                    return Ok(self.waits(adoption, checked, plan, waiting(release, &why)));
                }
            }
        }
        let later = State::Slot(adoption, checked, plan);
        Err(refused(RolloutError::Contended).resume_at(later).into())
    }

    /// The release waits for its turn, and asks again at the next poll.
    fn waits(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
        plan: Plan,
        waiting: Waiting,
    ) -> State {
        let digest = Some(adoption.target.sha256);
        self.decided_slot("waits", waiting.release, digest, &waiting.why);
        self.rollouts.report.waiting = Some(waiting);
        self.troubles.clear(Source::Adoption);
        self.resume = Some(State::Slot(adoption, checked, plan));
        self.dealt_with(None);
        State::Idle
    }

    /// A document that cannot be gone by is what the release waits for, and the failure says what to do about it.
    fn cannot_read(&mut self, release: ReleaseNumber, failure: &Failure) {
        if failure.kind == UNREADABLE {
            self.rollouts.report.waiting = Some(Waiting {
                release,
                kind: "unreadable".to_owned(),
                why: chain(failure.error.as_ref()),
            });
        }
    }

    /// A release without a policy needs no slot. Where the node has another already, a pause and its member of etcd hold it up
    /// all the same; not the release of a restore, whose members form the cluster together.
    async fn without_slot(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
        plan: Plan,
    ) -> Result<State, Stop> {
        let release = checked.number();
        let is_other = self.release().is_some_and(|on_disk| on_disk != release);
        if !is_other {
            self.rollouts.report.waiting = None;
            return Ok(State::Apply(adoption, checked, plan));
        }
        let restores: Option<EntryPath> = RESTORE_IDENTITY_FILE.parse().ok();
        let restores = restores.is_some_and(|path| checked.release().bytes(&path).is_some());
        if !restores {
            let read = match self.read_rollout().await {
                Ok(read) => read,
                Err(Stop::Failed(failure)) => {
                    self.cannot_read(release, &failure);
                    let later = State::Slot(adoption, checked, plan);
                    return Err(failure.resume_at(later).into());
                }
                Err(stop) => return Err(stop),
            };
            let pause = read.document.as_ref().and_then(|d| d.pause_at(read.now));
            if let Some(pause) = pause {
                let why = Wait::Paused(format!("{}: {}", pause.by, pause.reason));
                return Ok(self.waits(adoption, checked, plan, waiting(release, &why)));
            }
        }
        if let Some(waiting) = Box::pin(self.etcd_turn(&checked, &plan)).await? {
            return Ok(self.waits(adoption, checked, plan, waiting));
        }
        self.rollouts.report.waiting = None;
        self.etcd_begins_restart();
        Ok(State::Apply(adoption, checked, plan))
    }

    /// The slot is there. What was seen of the probes and the disk must be fresh.
    fn granted(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
        plan: Plan,
    ) -> Result<State, Stop> {
        self.rollouts.report.waiting = None;
        self.rollouts.report.reverted = None;
        self.rollouts.first = None;
        self.troubles.clear(Source::Probes);
        let release = checked.number();
        let fresh = self
            .rollouts
            .baseline
            .take()
            .filter(|(of, at, _)| *of == release && at.elapsed() <= BASELINE_AGE);
        let Some((_, _, failed_before)) = fresh else {
            return Ok(State::Baseline(adoption, checked));
        };
        if let Some(slot) = self.rollouts.slot.clone() {
            self.remember_slot(Some(Slot {
                failed_before,
                ..slot
            }))?;
        }
        Ok(State::Apply(adoption, checked, plan))
    }

    /// Before the first forward write: whether there is still time for it.
    pub(in crate::engine) fn may_go_forward(&mut self) -> Result<bool, Stop> {
        let Some(slot) = self.rollouts.slot.clone() else {
            return Ok(true);
        };
        if self.window(&slot) != Window::Forward {
            return Ok(false);
        }
        self.remember_slot(Some(Slot {
            stage: Stage::Applying,
            mends: None,
            ..slot
        }))?;
        Ok(true)
    }
}

fn waiting(release: ReleaseNumber, why: &Wait) -> Waiting {
    Waiting {
        release,
        kind: why.kind().to_owned(),
        why: why.why(),
    }
}

/// The slot that a node goes back to where the one with which it would be mended comes to nothing.
fn mends(slot: Option<&Slot>) -> Option<Box<Slot>> {
    let slot = slot?;
    match slot.stage {
        Stage::Reverting => Some(Box::new(Slot {
            mends: None,
            ..slot.clone()
        })),
        _ => slot.mends.clone(),
    }
}
