//! One pass, its end, and its first two steps: asking and verifying.

use std::time::Duration;

use jiff::Timestamp;
use shared::documents::Phase;
use shared::limits;
use shared::store::{Fetched, deadline_for, keys};
use shared::trust::{StoreTransport, Trusted, metadata_url, refresh, targets_url};
use tokio::time::Instant;

use super::choose::{Choice, choose};
use super::failure::{EngineError, Failure, Retry, Stop};
use super::state::{Adoption, Seen, State};
use super::wait::GaveUp;
use super::{Agent, Handled, Outcome};
use crate::clock::{ClockVerdict, judge};
use crate::trouble::{Source, chain};

/// How often the metadata is refreshed though its timestamp has not changed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3600);
/// How long a refresh may take: each of its documents has a deadline of its own.
const REFRESH_DEADLINE: Duration = Duration::from_secs(60);

impl Agent {
    /// Looks after the disk, asks, and adopts what is new.
    pub(super) async fn pass(&mut self) -> Outcome {
        self.watch();
        self.hold = self.hold_file.in_force(self.clock.now());
        if !self.recovered {
            self.care_for_disk().await;
        } else if self.look_is_due() {
            self.look_after_disk().await;
        } else {
            self.finish_up().await;
        }
        self.look_after_host().await;
        self.look_after_backups().await;
        self.look_after_rewriting().await;
        if self.hold.is_none() && std::mem::take(&mut self.held_back) {
            self.handled = None;
        }
        self.adopted = None;
        let mut state = self.first_state();
        let mut ends_slot = matches!(state, State::GiveBack | State::Revert);
        let stop = loop {
            match self.step(state).await {
                Ok(State::Idle) => break None,
                Ok(next) => {
                    ends_slot = matches!(next, State::GiveBack | State::Revert) && ends_slot;
                    state = next;
                }
                // A slot that cannot be ended is no reason not to hear of the release that mends it.
                Err(Stop::Failed(failure)) if ends_slot => {
                    ends_slot = false;
                    let message = chain(failure.error.as_ref());
                    self.trouble(Source::Rollout, failure.phase, failure.kind, message);
                    state = State::Poll;
                }
                Err(stop) => break Some(stop),
            }
        };
        self.service_manager.feed();
        let stop = match stop {
            None => self.look_at_first_probes().await.err(),
            stop => stop,
        };
        let stop = match stop {
            Some(stop @ (Stop::Shutdown | Stop::Updated)) => Some(stop),
            // Also where the store does not answer: a member's configuration is sealed without it.
            stop => match self.look_after_etcd().await {
                Ok(()) => stop,
                Err(shutdown) => Some(shutdown),
            },
        };
        let outcome = self.conclude(stop);
        self.handling = None;
        outcome
    }

    /// Watches for drift. What cannot be watched is counted at each pass, and logged when it is new.
    fn watch(&mut self) {
        let mut unwatched = Vec::new();
        for error in self.drift.ensure() {
            self.metrics.failed("watch", "inotify");
            if !self.unwatched.contains(&error.path) {
                tracing::warn!(error = chain(&error), "not watching");
            }
            unwatched.push(error.path);
        }
        self.unwatched = unwatched;
    }

    fn conclude(&mut self, stop: Option<Stop>) -> Outcome {
        match stop {
            Some(Stop::Shutdown) => return Outcome::Interrupted,
            Some(Stop::Updated) => return Outcome::Updated,
            Some(Stop::Failed(failure)) => {
                self.judge_binary(Some(failure.phase));
                self.failed(*failure);
                return Outcome::Failed;
            }
            None => {
                self.transient_failures = 0;
                self.judge_binary(None);
            }
        }
        let (result, outcome) = match self.adopted {
            Some(release) => ("adopted", Outcome::Adopted(release)),
            // A hold may have come while the pass was under way.
            None if self.hold.is_some() || self.held_back => ("held", Outcome::Held),
            None if self.troubles.worst().is_some() => ("unchanged", Outcome::Failed),
            None if self.waits_for().is_some() => ("waiting", Outcome::Waiting),
            None => ("unchanged", Outcome::Unchanged),
        };
        self.metrics.polled(result);
        outcome
    }

    /// Everything that a failed step changes: the files stay, the error is named, and when to try again is settled.
    fn failed(&mut self, failure: Failure) {
        self.metrics.polled("failed");
        let phase = failure.phase;
        let source = if phase == Phase::Idle {
            Source::Poll
        } else {
            Source::Adoption
        };
        self.transient_failures = match failure.retry {
            Retry::Soon => self.transient_failures.saturating_add(1),
            Retry::NextPoll | Retry::OnChange => 0,
        };
        let message = chain(failure.error.as_ref());
        self.trouble(source, phase, failure.kind, message);
        // What waited before a poll or a look at the metadata failed waits still: the next 304 is to find it.
        if !matches!(phase, Phase::Idle | Phase::Verify) || failure.resume.is_some() {
            self.resume = failure.resume;
        }
        match failure.retry {
            Retry::OnChange => {
                let refused = self.troubles.of(Source::Adoption).cloned();
                self.dealt_with(refused);
            }
            // The release must be tried again at the next poll: the store is to send its timestamp again. A timestamp
            // that could not be verified is no reason to forget the one before it.
            Retry::Soon | Retry::NextPoll => {
                if !matches!(phase, Phase::Idle | Phase::Verify) {
                    self.handled = None;
                }
            }
        }
    }

    /// Counts, logs (loudly when it is new) and keeps a trouble for the status.
    pub(super) fn trouble(
        &mut self,
        source: Source,
        phase: Phase,
        kind: &'static str,
        message: String,
    ) {
        self.metrics.failed(&phase.to_string(), kind);
        let now = self.clock.now();
        if self
            .troubles
            .note(source, phase, kind, message.clone(), now)
        {
            tracing::error!(%phase, kind, error = message, "failed; the files on disk stay as they are");
        } else {
            tracing::debug!(%phase, kind, error = message, "still failing");
        }
    }

    /// The timestamp of this pass need not come again; `handling` is what it began with.
    pub(super) fn dealt_with(&mut self, refused: Option<shared::documents::StatusError>) {
        if let Some(etag) = self.handling.take() {
            self.handled = Some(Handled { etag, refused });
        }
    }

    async fn step(&mut self, state: State) -> Result<State, Stop> {
        if *self.shutdown.borrow() {
            return Err(Stop::Shutdown);
        }
        self.service_manager.feed();
        tracing::debug!(phase = %state.phase(), "step");
        match state {
            State::Poll => self.poll().await,
            State::Verify(seen) => self.verify(seen).await,
            State::Update(then) => self.update(*then).await,
            State::Fetch(adoption) => self.fetch(adoption).await,
            State::Decrypt(adoption, sealed) => self.decrypt(adoption, sealed).await,
            State::Check(adoption, release) => self.check(adoption, release).await,
            State::Stage(adoption, checked) => self.stage(adoption, checked).await,
            State::Baseline(adoption, checked) => self.baseline(adoption, checked).await,
            State::Plan(adoption, checked) => self.plan(adoption, checked).await,
            State::Slot(adoption, checked, plan) => {
                Box::pin(self.slot(adoption, checked, plan)).await
            }
            State::Apply(adoption, checked, plan) => self.apply(adoption, checked, plan).await,
            State::Commit(adoption, report) => self.commit(adoption, &report).await,
            State::Probe => self.probe().await,
            State::Revert => self.revert().await,
            State::GiveBack => self.give_back().await,
            State::Idle => Ok(State::Idle),
        }
    }

    /// Awaits `work` on the network, at most `limit`. `what` names it where time runs out: "reading" and a key, for example.
    pub(super) async fn network<F: Future>(
        &mut self,
        phase: Phase,
        what: impl FnOnce() -> String,
        limit: Duration,
        work: F,
    ) -> Result<F::Output, Stop> {
        match self.during(limit, work).await {
            Ok(done) => Ok(done),
            Err(GaveUp::Shutdown) => Err(Stop::Shutdown),
            Err(GaveUp::Deadline) => Err(Failure::deadline(phase, what(), limit).into()),
        }
    }

    /// The one request of a poll at rest.
    async fn poll(&mut self) -> Result<State, Stop> {
        let store = self.store.clone();
        let key = keys::timestamp(&self.identity.group);
        let known = self.handled.as_ref().map(|h| h.etag.clone());
        let limit = deadline_for(limits::METADATA_BYTES);
        let name = key.clone();
        let get = async move {
            store
                .get(&name, limits::METADATA_BYTES, known.as_ref())
                .await
        };
        let answer = self
            .network(Phase::Idle, || format!("reading {key}"), limit, get)
            .await?
            .map_err(|e| Failure::store(Phase::Idle, e))?;
        self.metrics.succeeded(self.clock.now().as_second());
        if self.troubles.clear(Source::Poll) {
            tracing::info!("the store answers again");
        }
        match answer {
            Fetched::Object { bytes, etag } => Ok(State::Verify(Seen::New { bytes, etag })),
            Fetched::NotModified => Ok(self.not_modified()),
        }
    }

    fn not_modified(&mut self) -> State {
        let due = self
            .verified_at
            .is_none_or(|at| at.elapsed() >= REFRESH_INTERVAL);
        if due {
            return State::Verify(Seen::Unchanged);
        }
        // What the store has now is what was dealt with: whatever it had in between is over.
        match self.handled.as_ref().and_then(|h| h.refused.clone()) {
            Some(e) => {
                let since = e.since;
                self.troubles
                    .note(Source::Adoption, e.phase, &e.kind, e.message, since);
            }
            None => {
                self.troubles.clear(Source::Adoption);
            }
        }
        self.check_expiry();
        // A release that waits for its slot asks again.
        let next = match self.resume.take_if(|s| matches!(s, State::Slot(..))) {
            Some(waiting) if !self.held_back => waiting,
            _ => State::Idle,
        };
        self.update_before(next)
    }

    /// Expiry is an alarm: nothing that runs is touched.
    fn check_expiry(&mut self) {
        let now = self.clock.now();
        match self.expires.filter(|e| *e <= now) {
            Some(expired) => {
                let error = EngineError::Expired(expired);
                self.trouble(Source::Expiry, Phase::Verify, "expired", error.to_string());
            }
            None => {
                self.troubles.clear(Source::Expiry);
            }
        }
    }

    async fn verify(&mut self, seen: Seen) -> Result<State, Stop> {
        fail::fail_point!("engine::verify");
        let began = Instant::now();
        self.worked = true;
        self.check_clock()?;
        let trusted = self.refresh().await?;
        self.verified_at = Some(Instant::now());
        self.published = trusted.current().map(shared::trust::ReleaseTarget::release);
        self.expires = Some(trusted.expiry().earliest());
        self.check_expiry();
        let hourly = matches!(seen, Seen::Unchanged);
        self.handling = match seen {
            Seen::Unchanged => self.handled.as_ref().map(|h| h.etag.clone()),
            // Only if the refresh saw the same document as the poll: else the next poll is to look again.
            Seen::New { bytes, etag } => {
                let verified = self.trust.document("timestamp.json").ok().flatten();
                (verified.as_deref() == Some(&bytes[..])).then_some(etag)
            }
        };
        let on_disk = self.with_disk(|disk| disk.release().zip(disk.bundle_digest()));
        let (environment, group) = (&self.identity.environment, &self.identity.group);
        let choice =
            choose(trusted.current(), on_disk, environment, group).map_err(Failure::choice)?;
        let named = trusted.current().and_then(|t| t.custom.agent.clone());
        self.consider_update(named);
        let choice = match (choice, trusted.current()) {
            (Choice::UpToDate, Some(target)) if self.copy_is_lost => {
                Choice::Adopt(Box::new(target.clone()))
            }
            (choice, _) => choice,
        };
        match choice {
            Choice::NothingPublished | Choice::UpToDate => {
                self.resume = None;
                self.troubles.clear(Source::Adoption);
                self.dealt_with(None);
                if hourly {
                    self.look_at_rollout().await?;
                }
                Ok(self.update_before(State::Idle))
            }
            Choice::Adopt(target) => {
                let next = self.begin(Adoption {
                    target: *target,
                    good: trusted.good().cloned(),
                    artifacts: trusted.artifacts().to_vec(),
                    began,
                });
                Ok(self.update_before(next))
            }
        }
    }

    /// What fails here is no trouble: it is looked at again in an hour.
    async fn look_at_rollout(&mut self) -> Result<(), Stop> {
        match self.conclude_rollout().await {
            Err(Stop::Failed(failure)) => {
                tracing::debug!(error = chain(failure.error.as_ref()), "not concluded");
                Ok(())
            }
            other => other,
        }
    }

    /// A release is to be adopted: from its beginning, from where it failed, or after the hold.
    fn begin(&mut self, adoption: Adoption) -> State {
        let release = adoption.target.release();
        if let Some(hold) = self.hold_file.in_force(self.clock.now()) {
            tracing::info!(%release, reason = hold.reason, "held: the release waits");
            self.hold = Some(hold);
            self.held_back = true;
            self.dealt_with(None);
            return State::Idle;
        }
        match self.resume.take() {
            Some(state)
                if state
                    .adoption()
                    .is_some_and(|a| a.target == adoption.target) =>
            {
                state
            }
            _ => {
                tracing::info!(%release, "adopting");
                State::Fetch(adoption)
            }
        }
    }

    async fn refresh(&mut self) -> Result<Trusted, Stop> {
        let store = self.store.clone();
        let transport = StoreTransport::new(store, format!("groups/{}", self.identity.group));
        let bug = |error: Box<dyn std::error::Error + Send + Sync>| {
            let error = EngineError::Address(error);
            Failure::new(Phase::Verify, "internal", Retry::NextPoll, error)
        };
        let metadata = metadata_url().map_err(|e| bug(Box::new(e)))?;
        let targets = targets_url().map_err(|e| bug(Box::new(e)))?;
        let trust = self.trust.clone();
        let work = self.with_disk(|disk| disk.paths().state().to_owned());
        let refreshing = async move { refresh(&trust, transport, metadata, targets, &work).await };
        let group = self.identity.group.clone();
        let what = || format!("refreshing the metadata of group {group}");
        let refreshed = self
            .network(Phase::Verify, what, REFRESH_DEADLINE, refreshing)
            .await?;
        Ok(refreshed.map_err(|e| Failure::trust(&group, e))?)
    }

    /// A clock that stepped back could make old metadata valid again.
    fn check_clock(&mut self) -> Result<(), Stop> {
        let now: Timestamp = self.clock.now();
        let failed = |e| Failure::time_memory(Phase::Verify, e);
        let remembered = self.time_memory.recall().map_err(failed)?;
        match judge(now, remembered, self.store.server_time()) {
            ClockVerdict::Plausible => Ok(()),
            ClockVerdict::MemoryIsWrong { remembered } => {
                tracing::warn!(
                    %now, %remembered,
                    "the remembered time lies in the future, but the store agrees with the clock: forgetting it"
                );
                self.metrics.failed("verify", "clock_memory_dropped");
                self.time_memory.forget().map_err(failed)?;
                Ok(())
            }
            ClockVerdict::SteppedBack { remembered } => {
                let error = EngineError::ClockSteppedBack { now, remembered };
                Err(Failure::new(Phase::Verify, "clock", Retry::NextPoll, error).into())
            }
        }
    }
}
