//! The node's part in etcd, around the decisions of [`shared::etcd`]: at each pass one look at its own place, and as many
//! steps as can be done at once. What fails is tried again at the next pass; the member that runs is left alone.

mod act;
mod look;
mod release;
mod restore;
mod restored;
mod sight;

use std::time::Duration;

use shared::backup::RestoreOrder;
use shared::bundle::EtcdSection;
use shared::documents::{Nonce, Phase};
use shared::etcd::{
    EtcdReport, EtcdRole, Fence, FenceError, Form, Generation, MemberFacts, Memory, Own, Seen,
    Settings, Step, next_step,
};
use shared::names::{EnvironmentName, ReleaseNumber};
use shared::secret::SecretText;
use tokio::time::Instant;

use super::Agent;
use super::failure::Stop;
use crate::disk::DiskError;
use crate::etcd::{EtcdClient, EtcdIdentity, EtcdPlace, PlaceError};
use crate::trouble::{Source, chain};
use restore::Restoring;
use sight::Suspects;

/// Steps of one pass at most: more than from nothing to a member.
const STEPS: usize = 32;
/// How often a member or a spare at rest looks at the others.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How long the pause between two passes is while etcd starts: until its configuration is sealed, a loss of its data would
/// not be noticed.
const HURRY: Duration = Duration::from_millis(500);

/// What an agent knows of its part in etcd.
#[derive(Debug, Default)]
pub(super) struct Etcd {
    place: Option<EtcdPlace>,
    known: Option<Known>,
    /// What the status says.
    pub(super) report: Option<EtcdReport>,
    /// Since when it holds the group's slot for a change of the membership.
    pub(super) holds_slot: Option<Instant>,
    /// Since when it holds the group's slot for a restart of its own member by a release that has no rollout.
    restarts: Option<Instant>,
    /// Whether it has looked, since the agent's start, for a slot that it held before.
    slot_is_known: bool,
    /// At rest it looks again then.
    look_at: Option<Instant>,
    /// Its place as it was at the last look.
    looked: Option<(Option<Memory>, bool)>,
    /// Since when it has wanted to restart its member for a release.
    restart: Option<(ReleaseNumber, Instant)>,
    /// Making the member's data from a backup.
    restoring: Restoring,
    /// When its restored data was found to differ from another member's, and what was said.
    differs: Option<(Instant, String)>,
    /// The fence of its generation, once it was there.
    fence: Option<Fence>,
    /// Members that may be gone.
    suspects: Suspects,
}

/// What the release on the disk says.
#[derive(Clone, Debug)]
struct Known {
    release: ReleaseNumber,
    section: Option<EtcdSection>,
    base: String,
    identity: Option<EtcdIdentity>,
    /// What its generation begins with, and what opens that.
    restore: Option<(RestoreOrder, Option<SecretText>)>,
}

/// One pass's work.
#[derive(Debug)]
struct Pass {
    place: EtcdPlace,
    known: Known,
    section: EtcdSection,
    settings: Settings,
    token: String,
    /// The member that answered last.
    asked: Option<EtcdClient>,
    reaches: Vec<String>,
    leader: Option<String>,
    /// Whether the node's own member is well; none where it was not looked at.
    healthy: Option<bool>,
    /// The newest revision of the node's own member.
    revision: Option<u64>,
}

/// Why the steps of a pass ended early.
#[derive(Debug)]
enum Ended {
    /// The process is to end, or the like.
    Stop(Stop),
    /// Something to be told.
    Trouble(&'static str, String),
}

/// What is wrong with an object below `etcd/`.
#[derive(Debug, thiserror::Error)]
enum ObjectError {
    #[error("{0} is not gone by")]
    Fence(String, #[source] FenceError),
    #[error("{0} is not of this node")]
    Ticket(String),
}

impl From<Stop> for Ended {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failed(failure) => Self::Trouble(failure.kind, chain(failure.error.as_ref())),
            other => Self::Stop(other),
        }
    }
}

impl From<PlaceError> for Ended {
    fn from(error: PlaceError) -> Self {
        Self::Trouble("etcd_place", chain(&error))
    }
}

impl From<DiskError> for Ended {
    fn from(error: DiskError) -> Self {
        Self::Trouble(error.kind(), chain(&error))
    }
}

fn internal(error: tokio::task::JoinError) -> Ended {
    Ended::Trouble("internal", chain(&error))
}

// === impl Etcd ===

impl Etcd {
    pub(super) fn at(place: Option<EtcdPlace>) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }

    /// Whether the node forms a cluster or joins one: then others wait for what it says.
    pub(super) fn is_under_way(&self) -> bool {
        let role = self.report.as_ref().map(|r| r.role);
        matches!(
            role,
            Some(EtcdRole::Waiting | EtcdRole::Joining | EtcdRole::Learner)
        )
    }

    /// The longest pause until the next pass, where etcd is starting.
    pub(super) fn hurry(&self) -> Option<Duration> {
        let role = self.report.as_ref().map(|r| r.role);
        (role == Some(EtcdRole::Joining)).then_some(HURRY)
    }

    fn rests(&self, own: &Own) -> bool {
        self.restarts.is_none()
            && self.looked == Some((own.memory.clone(), own.has_data))
            && self.look_at.is_some_and(|at| Instant::now() < at)
    }
}

impl Agent {
    /// Looks after the node's part in etcd, at each pass.
    pub(super) async fn look_after_etcd(&mut self) -> Result<(), Stop> {
        if self.hold.is_some() || !self.recovered {
            return Ok(());
        }
        // Boxed: large, and rarely does more than one look.
        match Box::pin(self.steps()).await {
            Ok(()) => {
                self.troubles.clear(Source::Etcd);
                Ok(())
            }
            Err(Ended::Trouble(kind, message)) => {
                self.trouble(Source::Etcd, Phase::Idle, kind, message);
                Ok(())
            }
            Err(Ended::Stop(stop)) => Err(stop),
        }
    }

    async fn steps(&mut self) -> Result<(), Ended> {
        let Some(place) = self.etcd.place.clone() else {
            return Ok(());
        };
        let Some(known) = self.etcd_release().await? else {
            return Ok(());
        };
        let Some(section) = known.section.clone() else {
            self.etcd.report = None;
            return self.hold_back_for(None, None).await;
        };
        let environment = self.identity.environment.clone();
        let mut pass = Pass::new(environment, place, known, section);
        let nonce = Nonce::random();
        let mut seen = Seen::default();
        for _ in 0..STEPS {
            let own = pass.own()?;
            let memory = own.memory.clone();
            let memory = memory.filter(|m| m.generation == pass.settings.generation);
            if let Some(memory) = &memory {
                pass.write(memory)?;
            }
            if let Some((role, why)) = self.restores(&pass, &own).await? {
                // Without its data it would begin with none.
                self.hold_back_for(Some(&pass.section), None).await?;
                self.rest(&pass, &own, role, why);
                return Ok(());
            }
            self.hold_back_for(Some(&pass.section), memory.as_ref())
                .await?;
            let step = next_step(&pass.settings, &own, &seen, &nonce);
            let looks = matches!(
                step,
                Step::LookAtFence | Step::LookAtTicket | Step::LookAtGroup | Step::LookAtCluster
            );
            if looks && self.etcd.rests(&own) {
                return Ok(());
            }
            if let Step::Rest(role, why) = step {
                self.rest(&pass, &own, role, why);
                let left_to_do = self.after_restore(&pass, role).await;
                let is_well = self
                    .etcd
                    .report
                    .as_ref()
                    .is_some_and(|r| r.healthy == Some(true) && r.why.is_empty());
                self.end_restart(is_well).await?;
                let ends = self.etcd.holds_slot.is_some() || !self.etcd.slot_is_known;
                let is_under_way = matches!(role, EtcdRole::Joining | EtcdRole::Learner);
                if ends && !is_under_way && self.etcd.restarts.is_none() {
                    self.give_back_membership().await?;
                    self.etcd.holds_slot = None;
                    self.etcd.slot_is_known = true;
                }
                return left_to_do;
            }
            tracing::debug!(?step, "etcd");
            self.etcd.look_at = None;
            if looks {
                self.look(&mut pass, &own, &step, &mut seen).await?;
            } else {
                let done = self.act(&mut pass, &own, step).await?;
                seen = Seen::default();
                if let Some((role, why)) = done {
                    self.rest(&pass, &own, role, why);
                    return Ok(());
                }
            }
        }
        Err(Ended::Trouble(
            "etcd",
            "no end of steps: this is a bug".to_owned(),
        ))
    }

    /// Nothing more for now: says so.
    fn rest(&mut self, pass: &Pass, own: &Own, role: EtcdRole, why: String) {
        let before = self.etcd.report.as_ref();
        if before.is_none_or(|b| (b.role, &b.why) != (role, &why)) {
            tracing::info!(?role, why, generation = %pass.settings.generation, "etcd");
        }
        // What it remembers of an earlier generation says nothing about this one: a restore begins with it.
        let of_this = |m: &&Memory| m.generation >= pass.settings.generation;
        let memory = own.memory.as_ref().filter(of_this);
        let sealed = memory.is_some_and(|m| m.form == Form::Sealed);
        let is_member = matches!(role, EtcdRole::Member | EtcdRole::Learner);
        // One that has data and does not know says nothing: an older agent wrote its memory.
        let led = match memory {
            Some(memory) if sealed => memory.led,
            _ => Some(false),
        };
        let had_leader = match pass.leader.is_some() {
            true => Some(true),
            false => led,
        };
        let revision = pass.revision.or_else(|| {
            let of_this = before.filter(|b| b.generation == pass.settings.generation)?;
            of_this.revision
        });
        let now = Instant::now();
        let interval = LOOK_INTERVAL.min(pass.section.gone_after.get() / 4);
        let at_rest = matches!(role, EtcdRole::Member | EtcdRole::Spare) && why_is_calm(role, &why);
        self.etcd.look_at = at_rest.then(|| now + interval);
        self.etcd.looked = Some((own.memory.clone(), own.has_data));
        self.etcd.report = Some(EtcdReport {
            generation: pass.settings.generation,
            role,
            why,
            facts: pass.place.facts().clone(),
            had_data: own.has_data || sealed,
            reaches: pass.reaches.clone(),
            leader: pass.leader.clone(),
            healthy: pass.healthy.filter(|_| is_member),
            had_leader,
            revision,
        });
    }
}

/// A member that sees no quorum looks again at each pass.
fn why_is_calm(role: EtcdRole, why: &str) -> bool {
    role == EtcdRole::Spare || why.is_empty()
}

// === impl Pass ===

impl Pass {
    fn new(
        environment: EnvironmentName,
        place: EtcdPlace,
        known: Known,
        section: EtcdSection,
    ) -> Self {
        Self {
            token: Fence::token(&environment, section.generation),
            settings: Settings {
                environment,
                generation: section.generation,
                voters: section.voters,
            },
            place,
            known,
            section,
            asked: None,
            reaches: Vec::new(),
            leader: None,
            healthy: None,
            revision: None,
        }
    }

    fn facts(&self) -> &MemberFacts {
        self.place.facts()
    }

    fn generation(&self) -> Generation {
        self.settings.generation
    }

    fn own(&self) -> Result<Own, Ended> {
        Ok(Own {
            facts: self.facts().clone(),
            memory: self.place.memory()?,
            has_data: self.place.has_data(self.generation())?,
        })
    }

    fn write(&self, memory: &Memory) -> Result<(), Ended> {
        if self.place.write(&self.known.base, &self.token, memory)? {
            let file = self.place.file().display();
            tracing::info!(%file, state = memory.state(), form = ?memory.form, "wrote etcd's configuration");
        }
        Ok(())
    }
}
