//! What a step does.

use std::time::Duration;

use shared::bundle::TimeSpan;
use shared::documents::{Phase, seal_node_object};
use shared::etcd::{EtcdRole, Form, Membership, Own, Step};
use shared::store::{PutCondition, StoreErrorKind, keys};
use tokio::time::Instant;

use super::{Ended, Pass};
use crate::engine::Agent;
use crate::engine::failure::{Failure, Stop};
use crate::engine::rollout::SlotTaken;
use crate::etcd::{EtcdError, EtcdErrorKind};
use crate::trouble::chain;

/// How long writing one object may take.
const OBJECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long one change may take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(30);
/// How long one replacement may hold the slot where the release has no rollout policy.
pub(super) const SLOT_DEADLINE: TimeSpan = TimeSpan::from_secs(15 * 60);

/// What the node is for now, and why, where a step does not go on.
type Rest = Option<(EtcdRole, String)>;

impl Agent {
    pub(super) async fn act(
        &mut self,
        pass: &mut Pass,
        own: &Own,
        step: Step,
    ) -> Result<Rest, Ended> {
        let generation = pass.generation();
        match step {
            Step::WriteFence(fence) => {
                let nodes: Vec<&str> = fence.members.iter().map(|m| m.name.as_str()).collect();
                tracing::info!(%generation, ?nodes, "writing who forms the cluster");
                fail::fail_point!("etcd::fence", |_| Err(Ended::Stop(Stop::Shutdown)));
                self.create(keys::etcd_fence(generation), &fence).await?;
            }
            Step::TakeTicket(ticket) => {
                let key = keys::etcd_ticket(generation, &self.identity.node);
                self.create(key, &ticket).await?;
            }
            Step::Remember(memory) => {
                if memory.form != Form::Sealed && !own.has_data {
                    pass.place.put_aside(generation)?;
                }
                pass.write(&memory)?;
            }
            Step::StandDown => {
                tracing::warn!(%generation, "the cluster does not list this node: standing down");
                self.hold_back_for(Some(&pass.section), None).await?;
                pass.place.put_aside(generation)?;
                pass.place.forget()?;
            }
            Step::Change(change) => return self.change(pass, own, change).await,
            Step::Rest(role, why) => return Ok(Some((role, why))),
            Step::LookAtFence | Step::LookAtTicket | Step::LookAtGroup | Step::LookAtCluster => {}
        }
        Ok(None)
    }

    /// Writes an object that must not be there. Who was faster, or whether the answer was lost, is seen when it is read.
    async fn create<T: serde::Serialize>(&mut self, key: String, what: &T) -> Result<(), Ended> {
        let bound = keys::bound_name(&self.identity.environment, &key);
        let group_key = self.with_disk(|disk| disk.group_key())?;
        let Some(group_key) = group_key else {
            let why = "the group's key cannot be read".to_owned();
            return Err(Ended::Trouble("group_key", why));
        };
        let sealed = seal_node_object(what, &bound, Some(&group_key))
            .map_err(|e| Ended::Trouble("internal", chain(&e)))?;
        let store = self.store.clone();
        let named = key.clone();
        let put = async move { store.put(&key, sealed.into(), PutCondition::Absent).await };
        match self
            .network(
                Phase::Idle,
                || format!("writing {named}"),
                OBJECT_DEADLINE,
                put,
            )
            .await?
        {
            Ok(_) => Ok(()),
            Err(e) if e.kind == StoreErrorKind::Conflict => Ok(()),
            Err(e) => Err(Stop::from(Failure::store(Phase::Idle, e)).into()),
        }
    }

    /// A change of the membership, under the group's slot.
    async fn change(
        &mut self,
        pass: &mut Pass,
        own: &Own,
        change: Membership,
    ) -> Result<Rest, Ended> {
        let role = match own.has_data {
            true => EtcdRole::Learner,
            false => EtcdRole::Waiting,
        };
        let policy = self.membership_deadline().await.unwrap_or(SLOT_DEADLINE);
        match self.take_membership(pass.known.release, policy).await? {
            SlotTaken::Held => {
                self.etcd.holds_slot.get_or_insert_with(Instant::now);
            }
            // What was seen of the members may be old by now.
            SlotTaken::Now => {
                self.etcd.holds_slot = Some(Instant::now());
                return Ok(None);
            }
            SlotTaken::Not(why) => {
                self.etcd.holds_slot = None;
                return Ok(Some((role, why)));
            }
        }
        let Some(client) = pass.asked.clone() else {
            return Ok(Some((role, "no member answers".to_owned())));
        };
        let peer_url = own.facts.peer_url.clone();
        tracing::warn!(
            ?change,
            through = client.endpoint(),
            "changing etcd's membership"
        );
        let asked = change.clone();
        let asking = async move {
            match asked {
                Membership::Remove { id, .. } => client.member_remove(id).await.map(drop),
                Membership::AddLearner => client.member_add_learner(&peer_url).await.map(drop),
                Membership::Promote { id } => client.member_promote(id).await.map(drop),
            }
        };
        let done: Result<(), EtcdError> = self
            .network(
                Phase::Idle,
                || format!("changing etcd's membership ({change:?})"),
                CHANGE_DEADLINE,
                asking,
            )
            .await?;
        match done {
            Ok(()) => {
                let digest = self.with_disk(|disk| disk.bundle_digest());
                let object = "etcd's members".to_owned();
                let release = pass.known.release;
                self.decided(&told(&change), release, digest, object, "done");
                Ok(None)
            }
            Err(e) if e.kind == EtcdErrorKind::NotInSync => {
                Ok(Some((EtcdRole::Learner, "it catches up".to_owned())))
            }
            // It was done before, and the answer was lost: the next look shows it.
            Err(e)
                if matches!(
                    e.kind,
                    EtcdErrorKind::MemberNotFound
                        | EtcdErrorKind::AlreadyMember
                        | EtcdErrorKind::NotLearner
                ) =>
            {
                Ok(Some((role, chain(&e))))
            }
            Err(e) => {
                let why = chain(&e);
                tracing::warn!(?change, error = why, "etcd's membership is not changed");
                Ok(Some((role, why)))
            }
        }
    }

    async fn membership_deadline(&mut self) -> Option<TimeSpan> {
        let committed = self.on_disk(|disk| disk.committed()).await;
        let release = committed.ok()?.ok()??;
        Some(release.index().rollout.as_ref()?.deadline)
    }
}

fn told(change: &Membership) -> String {
    match change {
        Membership::Remove { name, why, .. } => format!("removes etcd member {name}, {why}"),
        Membership::AddLearner => "joins etcd as a learner".to_owned(),
        Membership::Promote { .. } => "gets its vote in etcd".to_owned(),
    }
}
