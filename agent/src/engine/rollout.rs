//! A node's part in a rollout (§6.11): the slot that it takes, holds and gives back, around the decisions of
//! [`shared::rollout`].

use std::time::Duration;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use rand::Rng as _;
use shared::bundle::RolloutPolicy;
use shared::documents::{
    Decision, NodeObjectError, NodeStatus, Nonce, Phase, RolloutDocument, RolloutDocumentError,
    RolloutReport, SlotReport, Waiting, open_node_object, seal_node_object,
};
use shared::limits;
use shared::names::ReleaseNumber;
use shared::rollout::{
    Admission, Ending, FirstRelease, GroupView, NodeFacts, NodeSeen, Resume, Stage, Stamp, Window,
    Wish, admit, conclude, first_release, give_back, needs_view, record_failure, resume,
};
use shared::store::{ETag, Fetched, PutCondition, StoreError, StoreErrorKind, keys};

use super::Agent;
use super::failure::{Failure, Retry, Stop};
use super::state::{Adoption, State};
use crate::disk::{CheckedRelease, Plan};
use crate::rollout::{BootTime, Prober, Slot, SlotFile};
use crate::trouble::{Source, chain};

/// How long one request about the document may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long reading the group's status objects may take.
const VIEW_DEADLINE: Duration = Duration::from_secs(60);
/// Status objects that are read at once.
const PARALLEL: usize = 16;
/// Writes that are tried in one pass while others write too.
const TRIES: u32 = 5;
/// How old a look at the probes may be when the first file is written.
const BASELINE_AGE: Duration = Duration::from_secs(30);

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
    /// The newest revision seen.
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

/// The document as it was read.
struct Read {
    document: Option<RolloutDocument>,
    tag: Option<ETag>,
    /// The store's time at the answer.
    now: Timestamp,
    /// The time on the clock of deadlines when it was asked for.
    asked: BootTime,
}

/// What an earlier transition leaves to do.
enum Unfinished {
    Nothing,
    /// Apply the same release again.
    Apply,
    /// Go back first.
    Revert,
    /// Wait for its own end.
    Other,
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
            seen: 0,
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

    /// Whether a release is adopted without a slot: it asks for none, or is this node's first, or is here already.
    fn needs_no_slot(&self, checked: &CheckedRelease) -> bool {
        let on_disk = self.release();
        let index = checked.release().index();
        index.rollout.is_none() || on_disk.is_none() || on_disk == Some(index.release)
    }

    /// Before the plan: which probes fail already.
    pub(super) async fn baseline(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
    ) -> Result<State, Stop> {
        let release = checked.number();
        if !self.needs_no_slot(&checked)
            && let Some(policy) = checked.release().index().rollout.clone()
        {
            let prober = Prober::new(&policy.probes, checked.release());
            let sights = self
                .try_probes(&prober, policy.probes.iter().collect())
                .await?;
            let failing = sights.iter().filter(|(_, sight)| !sight.ok);
            let failed_before: std::collections::BTreeSet<String> =
                failing.map(|(name, _)| name.clone()).collect();
            if !failed_before.is_empty() {
                tracing::warn!(%release, probes = ?failed_before, "these fail already, and can only warn");
            }
            self.rollouts.baseline = Some((release, tokio::time::Instant::now(), failed_before));
        }
        Ok(State::Plan(adoption, checked))
    }

    /// Takes a slot, or waits for one (§6.11).
    pub(super) async fn slot(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
        plan: Plan,
    ) -> Result<State, Stop> {
        let policy = checked.release().index().rollout.clone();
        if let Some(policy) = policy.clone().filter(|_| self.release().is_none()) {
            let prober = Prober::new(&policy.probes, checked.release());
            self.rollouts.first = Some((policy, prober, tokio::time::Instant::now()));
        }
        let Some(policy) = policy.filter(|_| !self.needs_no_slot(&checked)) else {
            return Ok(State::Apply(adoption, checked, plan));
        };
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
        for _ in 0..TRIES {
            let read = match self.read_rollout().await {
                Ok(read) => read,
                Err(Stop::Failed(failure)) => {
                    let later = State::Slot(adoption, checked, plan);
                    return Err(failure.resume_at(later).into());
                }
                Err(stop) => return Err(stop),
            };
            let document = read.document.clone().unwrap_or_else(RolloutDocument::empty);
            let known = self.rollouts.slot.as_ref().map(|slot| slot.nonce.clone());
            let stamp = self.stamp(read.now);
            let zone = self.rollouts.report.zone.clone();
            let node = self.identity.node.clone();
            let facts = NodeFacts {
                node: &node,
                zone: zone.as_deref(),
                on_disk: self.release(),
            };
            let wish = Wish {
                release,
                policy: &policy,
            };
            match admit(&document, facts, wish, known.as_ref(), stamp) {
                Admission::Holds => {
                    self.decided("takes the slot", release, "granted");
                    self.reach(Stage::Granted)?;
                    return self.granted(adoption, checked, plan);
                }
                Admission::Take(next) => {
                    let Some(previous) = self.with_disk(|disk| disk.ledger().release) else {
                        return Ok(State::Apply(adoption, checked, plan));
                    };
                    // Remembered before it is asked for: an agent that is killed now looks again.
                    self.remember_slot(Some(Slot {
                        release,
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
                    }))?;
                    match self.write_rollout(&next, read.tag).await {
                        Ok(()) => {
                            self.decided("takes the slot", release, "granted");
                            self.reach(Stage::Granted)?;
                            return self.granted(adoption, checked, plan);
                        }
                        Err(Stop::Failed(failure)) if failure.kind == CONFLICT => {
                            self.remember_slot(None)?;
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
                    let struggles = self.rollouts.struggles;
                    if !struggles && self.rollouts.slot.is_some() {
                        self.remember_slot(None)?;
                    }
                    if let Some(next) = next.filter(|_| !struggles) {
                        // Somebody else does it where this fails.
                        let _ = self.write_rollout(&next, read.tag).await;
                    }
                    self.decided("waits", release, &why.why());
                    self.rollouts.report.waiting = Some(Waiting {
                        release,
                        kind: why.kind().to_owned(),
                        why: why.why(),
                    });
                    self.troubles.clear(Source::Adoption);
                    self.resume = Some(State::Slot(adoption, checked, plan));
                    self.dealt_with(None);
                    return Ok(State::Idle);
                }
            }
        }
        let later = State::Slot(adoption, checked, plan);
        Err(refused(RolloutError::Contended).resume_at(later).into())
    }

    /// What an earlier transition leaves to do before `release` may ask for a slot.
    fn unfinished(&self, release: ReleaseNumber) -> Unfinished {
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
            Stage::Reverting if is_back && release > slot.release => Unfinished::Nothing,
            Stage::Probing | Stage::Committed | Stage::Reverting | Stage::Reverted => {
                Unfinished::Other
            }
        }
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
    pub(super) fn may_go_forward(&mut self) -> Result<bool, Stop> {
        let Some(slot) = self.rollouts.slot.clone() else {
            return Ok(true);
        };
        if self.window(&slot) != Window::Forward {
            return Ok(false);
        }
        self.reach(Stage::Applying)?;
        Ok(true)
    }

    /// Gives the slot back: the status first, then the document.
    pub(super) async fn give_back(&mut self) -> Result<State, Stop> {
        let Some(slot) = self.rollouts.slot.clone() else {
            return Ok(State::Poll);
        };
        fail::fail_point!("rollout::give-back");
        let ending = match slot.stage {
            Stage::Committed => Ending::Committed,
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
            let (node, zone) = (
                self.identity.node.clone(),
                self.rollouts.report.zone.clone(),
            );
            let facts = NodeFacts {
                node: &node,
                zone: zone.as_deref(),
                on_disk: self.release(),
            };
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
        self.decided(
            "gives the slot back",
            slot.release,
            match ending {
                Ending::Unused => "unused",
                Ending::Committed => "committed",
                Ending::Failed { .. } => "failed",
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

    /// Notes in the document that a release failed here, before going back: nobody begins with it meanwhile. Where that
    /// does not succeed, giving the slot back does it.
    pub(super) async fn note_failure(&mut self, slot: &Slot) -> Result<(), Stop> {
        let noted: Result<(), Stop> = async {
            let read = self.read_rollout().await?;
            let (node, zone) = (
                self.identity.node.clone(),
                self.rollouts.report.zone.clone(),
            );
            let facts = NodeFacts {
                node: &node,
                zone: zone.as_deref(),
                on_disk: self.release(),
            };
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
        .await;
        match noted {
            Ok(()) => Ok(()),
            Err(Stop::Failed(failure)) => {
                tracing::warn!(
                    error = chain(failure.error.as_ref()),
                    "the halt is not written yet"
                );
                Ok(())
            }
            Err(stop) => Err(stop),
        }
    }

    /// Whether a new node begins with the good release instead of the one that it has opened.
    pub(super) async fn begins_with_good(
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
    pub(super) async fn conclude_rollout(&mut self) -> Result<(), Stop> {
        if self.has_slot() || self.hold.is_some() || self.release().is_none() {
            return Ok(());
        }
        let read = self.read_rollout().await?;
        let Some(document) = read.document else {
            return Ok(());
        };
        let Some(view) = self.view().await? else {
            return Ok(());
        };
        let (node, zone) = (
            self.identity.node.clone(),
            self.rollouts.report.zone.clone(),
        );
        let facts = NodeFacts {
            node: &node,
            zone: zone.as_deref(),
            on_disk: self.release(),
        };
        match conclude(&document, facts, &view, self.stamp(read.now)) {
            Some(next) => self.write_rollout(&next, read.tag).await,
            None => Ok(()),
        }
    }

    /// Somebody else was faster: a short while, of a length unlike theirs, before the next try.
    async fn step_aside(&mut self) -> Result<(), Stop> {
        let pause = Duration::from_millis(rand::rng().random_range(20..400));
        let sleep = self.clock.sleep(pause);
        self.network(Phase::Slot, REQUEST_DEADLINE, sleep).await
    }

    fn stamp(&self, now: Timestamp) -> Stamp {
        let nonce = Nonce::random();
        Stamp { nonce, now }
    }

    /// The store's time at its last answer.
    fn store_time(&self) -> Timestamp {
        let told = self.store.server_time();
        told.map_or_else(|| self.clock.now(), |told| told.server)
    }

    async fn read_rollout(&mut self) -> Result<Read, Stop> {
        let key = self.with_disk(|disk| disk.group_key()).ok().flatten();
        let key = key.ok_or_else(|| refused(RolloutError::Key))?;
        self.read_rollout_with(&key).await
    }

    async fn read_rollout_with(
        &mut self,
        group_key: &shared::documents::GroupKey,
    ) -> Result<Read, Stop> {
        let asked = self.clock.boot_time();
        let key = keys::rollout(&self.identity.group);
        let store = self.store.clone();
        let known = self.rollouts.cached.as_ref().map(|(tag, _)| tag.clone());
        let name = key.clone();
        let get = async move {
            store
                .get(&name, limits::NODE_OBJECT_BYTES, known.as_ref())
                .await
        };
        let answer = self.network(Phase::Slot, REQUEST_DEADLINE, get).await?;
        let now = self.store_time();
        let (document, tag) = match answer {
            Ok(Fetched::NotModified) => match self.rollouts.cached.clone() {
                Some((tag, document)) => (Some(document), Some(tag)),
                None => (None, None),
            },
            Ok(Fetched::Object { bytes, etag }) => {
                let bound = keys::bound_name(&self.identity.environment, &key);
                let document: RolloutDocument = open_node_object(&bytes, &bound, group_key)
                    .map_err(|e| refused(RolloutError::Object(e)))?;
                let usable = document.usable(self.rollouts.seen);
                let document = usable.map_err(|e| refused(RolloutError::Document(e)))?;
                self.rollouts.seen = document.revision;
                self.rollouts.cached = Some((etag.clone(), document.clone()));
                (Some(document), Some(etag))
            }
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                self.rollouts.cached = None;
                (None, None)
            }
            Err(error) => return Err(store_failure(error).into()),
        };
        Ok(Read {
            document,
            tag,
            now,
            asked,
        })
    }

    /// Writes over what was read; a failure of the kind [`CONFLICT`] where somebody else was faster.
    async fn write_rollout(
        &mut self,
        next: &RolloutDocument,
        tag: Option<ETag>,
    ) -> Result<(), Stop> {
        fail::fail_point!("rollout::write");
        let key = keys::rollout(&self.identity.group);
        let bound = keys::bound_name(&self.identity.environment, &key);
        let group_key = self.with_disk(|disk| disk.group_key()).ok().flatten();
        let group_key = group_key.ok_or_else(|| refused(RolloutError::Key))?;
        let mut next = next.clone();
        // A document that was removed does not begin again below what was seen.
        next.revision = next.revision.max(self.rollouts.seen.saturating_add(1));
        let sealed = seal_node_object(&next, &bound, Some(&group_key))
            .map_err(|e| refused(RolloutError::Encode(e)))?;
        let condition = tag.map_or(PutCondition::Absent, PutCondition::Matches);
        let store = self.store.clone();
        let put = async move { store.put(&key, sealed.into(), condition).await };
        let put = self.network(Phase::Slot, REQUEST_DEADLINE, put).await?;
        let tag = put.map_err(store_failure)?;
        self.rollouts.seen = next.revision;
        self.rollouts.cached = Some((tag, next));
        Ok(())
    }

    /// The group as its status objects show it; none where this node may not look. What is not authentic does not count.
    async fn view(&mut self) -> Result<Option<GroupView>, Stop> {
        let group_key = self.with_disk(|disk| disk.group_key()).ok().flatten();
        let Some(group_key) = group_key else {
            return Ok(None);
        };
        let store = self.store.clone();
        let prefix = keys::nodes_prefix(&self.identity.group);
        let environment = self.identity.environment.clone();
        let reading = async move {
            let names = store.list(&prefix).await?;
            let reads = names.into_iter().map(|key| {
                let (store, environment) = (store.clone(), environment.clone());
                let group_key = group_key.clone();
                async move {
                    let fetched = store.get(&key, limits::NODE_OBJECT_BYTES, None).await?;
                    let Fetched::Object { bytes, .. } = fetched else {
                        return Ok(None);
                    };
                    let name = keys::bound_name(&environment, &key);
                    let opened = open_node_object::<NodeStatus>(&bytes, &name, &group_key);
                    let own = |s: &NodeStatus| key.ends_with(&format!("/{}.json", s.node));
                    Ok::<_, StoreError>(opened.ok().filter(own).map(|s| NodeSeen::of(&s)))
                }
            });
            let seen: Vec<_> = stream::iter(reads).buffered(PARALLEL).collect().await;
            let seen: Result<Vec<_>, StoreError> = seen.into_iter().collect();
            Ok::<_, StoreError>(seen?.into_iter().flatten().collect())
        };
        match self.network(Phase::Slot, VIEW_DEADLINE, reading).await? {
            Ok(nodes) => Ok(Some(GroupView { nodes })),
            Err(error) if error.kind.is_transient() => Err(store_failure(error).into()),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "cannot look at the group's status objects"
                );
                Ok(None)
            }
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

/// The kind of failure where somebody else wrote the document first.
const CONFLICT: &str = StoreErrorKind::Conflict.label();

fn store_failure(error: StoreError) -> Failure {
    Failure::store(Phase::Slot, error)
}
