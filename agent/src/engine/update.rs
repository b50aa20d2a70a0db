//! The agent's update of itself, between Verify and Fetch (§6.10).

use shared::digest::Sha256Digest;
use shared::documents::Phase;
use shared::store::deadline_for;
use shared::trust::AgentTarget;

use super::Agent;
use super::failure::{EngineError, Failure, Stop};
use super::state::State;
use crate::disk::DiskError;
use crate::trouble::{Source, chain};
use crate::update::Choice;

impl Agent {
    fn agent_choice(&self) -> Choice {
        let wanted = self.wanted_agent.as_ref();
        let choice = self.updater.as_ref().map(|u| u.choose(wanted));
        choice.unwrap_or(Choice::Current)
    }

    /// The agent that the verified release names, if it was tried here and put back.
    pub(super) fn rejected_update(&self) -> Option<Sha256Digest> {
        match self.agent_choice() {
            Choice::Rejected => self.wanted_agent.as_ref().map(|w| w.sha256),
            Choice::Current | Choice::Install => None,
        }
    }

    /// A verified release names this agent, or none.
    pub(super) fn consider_update(&mut self, named: Option<AgentTarget>) {
        if self.wanted_agent != named {
            self.update_patience.reset();
        }
        self.wanted_agent = named;
        match (self.agent_choice(), &self.wanted_agent) {
            (Choice::Rejected, Some(wanted)) => {
                let error = EngineError::UpdateRejected {
                    version: wanted.version.clone(),
                    sha256: wanted.sha256,
                };
                let message = error.to_string();
                self.trouble(Source::Update, Phase::Update, "update_rejected", message);
            }
            (Choice::Install, _) => {}
            _ => {
                self.troubles.clear(Source::Update);
            }
        }
    }

    /// `next`, or the update before it.
    pub(super) fn update_before(&self, next: State) -> State {
        let is_due = self.agent_choice() == Choice::Install && self.update_patience.is_over();
        match is_due && self.hold.is_none() {
            true => State::Update(Box::new(next)),
            false => next,
        }
    }

    /// Replaces the agent. What keeps it from that keeps no release from being adopted: it is said, and tried again later.
    pub(super) async fn update(&mut self, then: State) -> Result<State, Stop> {
        if let Some(why) = self.update_waits().await? {
            tracing::info!(why, "the agent is not updated yet");
            self.update_patience.reset();
            self.update_patience.failed(self.poll_interval);
            return Ok(then);
        }
        match self.try_update().await {
            Ok(()) => Err(Stop::Updated),
            Err(Stop::Failed(failure)) => {
                let message = chain(failure.error.as_ref());
                self.trouble(Source::Update, Phase::Update, failure.kind, message);
                self.update_patience.failed(self.poll_interval);
                Ok(then)
            }
            Err(stop) => Err(stop),
        }
    }

    /// Why an agent that has a release already is not to be replaced for now. The update takes no slot; a pause and a halt hold
    /// it up. Where what the group agrees on cannot be read, the newer agent may be the one that can.
    async fn update_waits(&mut self) -> Result<Option<String>, Stop> {
        if self.release().is_none() {
            return Ok(None);
        }
        let read = match self.read_rollout().await {
            Ok(read) => read,
            Err(Stop::Failed(_)) => return Ok(None),
            Err(stop) => return Err(stop),
        };
        let Some(document) = read.document else {
            return Ok(None);
        };
        if let Some(pause) = document.pause_at(read.now) {
            let (by, reason) = (&pause.by, &pause.reason);
            return Ok(Some(format!("the group is paused: {by}: {reason}")));
        }
        let halted = self
            .published
            .filter(|release| document.is_halted(*release));
        Ok(halted.map(|release| format!("the rollout of release {release} is halted")))
    }

    async fn try_update(&mut self) -> Result<(), Stop> {
        let (Some(wanted), Some(updater)) = (self.wanted_agent.clone(), self.updater.as_ref())
        else {
            return Ok(());
        };
        let phase = Phase::Update;
        tracing::warn!(version = wanted.version, sha256 = %wanted.sha256, "updating this agent");
        let fetching = updater.fetching(&wanted);
        let (store, group) = (self.store.clone(), self.identity.group.clone());
        let limit = deadline_for(wanted.bytes);
        let fetch = async move { fetching.fetch(store, &group).await };
        let fetched = self
            .network(
                phase,
                || format!("reading the agent {}", wanted.target),
                limit,
                fetch,
            )
            .await?
            .map_err(|e| Failure::artifact(phase, e))?;
        let installed = self.updater.as_ref().map(|u| u.install(&fetched, &wanted));
        installed
            .unwrap_or(Ok(()))
            .map_err(|e| Failure::disk(phase, e))?;
        tracing::warn!(
            version = wanted.version,
            "the new agent is in place: ending, to be started as it"
        );
        Ok(())
    }

    /// A pass has ended, well or in `failed`: what that says of a binary that is new, or was put back.
    pub(super) fn judge_binary(&mut self, failed: Option<Phase>) {
        let polled = !matches!(failed, Some(Phase::Idle | Phase::Verify));
        let disk = self.recovered && (self.disk_matches || self.release().is_none());
        let Some(updater) = self.updater.as_mut() else {
            return;
        };
        let judged: Result<(), DiskError> = if polled && self.verified_at.is_some() && disk {
            updater.confirmed()
        } else if !polled {
            updater.poll_failed()
        } else {
            Ok(())
        };
        if let Err(error) = judged {
            self.trouble(Source::Update, Phase::Update, error.kind(), chain(&error));
        }
    }
}
