//! What a step wants to know: the objects below `etcd/`, the group's statuses, the members.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use shared::documents::{NodeStatus, Phase, open_node_object};
use shared::etcd::{
    ClusterView, EtcdRole, FRESH_FOR, Fence, FenceSeen, MemberSeen, Own, Registered, Seen,
    StartTicket, Step, TicketSeen,
};
use shared::limits;
use shared::rollout::NodeSeen;
use shared::store::{Fetched, keys};
use tokio::time::timeout;

use super::sight::{Sight, Sights};
use super::{Ended, ObjectError, Pass};
use crate::engine::Agent;
use crate::engine::failure::{Failure, Stop};
use crate::etcd::{EtcdClient, EtcdIdentity, Member, MemberStatus};
use crate::trouble::chain;

/// How long one object may take.
const OBJECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long one member may take to say how it is.
const MEMBER_DEADLINE: Duration = Duration::from_secs(4);
/// How long asking all of them may take.
const MEMBERS_DEADLINE: Duration = Duration::from_secs(60);

impl Agent {
    /// Looks at what the step asks for.
    pub(super) async fn look(
        &mut self,
        pass: &mut Pass,
        own: &Own,
        step: &Step,
        seen: &mut Seen,
    ) -> Result<(), Ended> {
        match step {
            Step::LookAtFence => {
                let fence = self.fence(pass).await?;
                seen.fence = fence.map_or(FenceSeen::Absent, FenceSeen::There);
            }
            Step::LookAtTicket => {
                let key = keys::etcd_ticket(pass.generation(), &self.identity.node);
                let ticket: Option<StartTicket> = self.object(&key).await?;
                if ticket
                    .as_ref()
                    .is_some_and(|t| t.node != self.identity.node)
                {
                    let error = ObjectError::Ticket(key);
                    return Err(Ended::Trouble("etcd_object", chain(&error)));
                }
                seen.ticket = ticket.map_or(TicketSeen::Absent, TicketSeen::There);
            }
            Step::LookAtGroup => seen.group = Some(self.registered(pass).await?),
            Step::LookAtCluster => seen.cluster = Some(self.cluster(pass, own).await?),
            _ => {}
        }
        Ok(())
    }

    /// The generation's fence. What is once there is never changed, so it is read once.
    pub(super) async fn fence(&mut self, pass: &Pass) -> Result<Option<Fence>, Ended> {
        let generation = pass.generation();
        if let Some(fence) = &self.etcd.fence
            && fence.generation == generation
        {
            return Ok(Some(fence.clone()));
        }
        let key = keys::etcd_fence(generation);
        let fence: Option<Fence> = self.object(&key).await?;
        let usable = fence.map(|f| f.usable(&pass.settings.environment, generation));
        let usable = usable.transpose().map_err(|e| {
            let error = ObjectError::Fence(key, e);
            Ended::Trouble("etcd_object", chain(&error))
        })?;
        self.etcd.fence.clone_from(&usable);
        Ok(usable)
    }

    /// An authentic object; none where it is not there.
    async fn object<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, Ended> {
        let group_key = self.with_disk(|disk| disk.group_key())?;
        let Some(group_key) = group_key else {
            let why = "the group's key cannot be read".to_owned();
            return Err(Ended::Trouble("group_key", why));
        };
        let (store, name) = (self.store.clone(), key.to_owned());
        let get = async move { store.get(&name, limits::NODE_OBJECT_BYTES, None).await };
        match self
            .network(
                Phase::Idle,
                || format!("reading {key}"),
                OBJECT_DEADLINE,
                get,
            )
            .await?
        {
            Ok(Fetched::Object { bytes, .. }) => {
                let bound = keys::bound_name(&self.identity.environment, key);
                let opened = open_node_object(&bytes, &bound, &group_key);
                let opened = opened.map_err(|e| Ended::Trouble("etcd_object", chain(&e)))?;
                Ok(Some(opened))
            }
            Ok(Fetched::NotModified) => Ok(None),
            Err(e) if e.kind.may_be_absent() => Ok(None),
            Err(e) => Err(Stop::from(Failure::store(Phase::Idle, e)).into()),
        }
    }

    /// The group's other nodes.
    async fn registered(&mut self, pass: &Pass) -> Result<Vec<Registered>, Ended> {
        let now = self.store_now();
        let generation = pass.generation();
        let statuses = self.needed_statuses().await?;
        let of = |status: NodeStatus| {
            let age = now.duration_since(NodeSeen::of(&status).written_at);
            let etcd = status.etcd?;
            let of_this = etcd.generation == generation;
            Some(Registered {
                waits: of_this && etcd.role == EtcdRole::Waiting && age <= FRESH_FOR,
                had_data: etcd.generation >= generation && etcd.had_data,
                facts: etcd.facts,
            })
        };
        Ok(statuses.into_iter().filter_map(of).collect())
    }

    async fn needed_statuses(&mut self) -> Result<Vec<NodeStatus>, Ended> {
        let statuses = self.statuses().await?;
        statuses.ok_or_else(|| {
            let why = "this node may not look at its group's status objects, and needs to";
            Ended::Trouble("etcd_group", why.to_owned())
        })
    }

    /// The cluster, with a quorum behind the answer; none where nobody answers so.
    pub(super) async fn cluster(
        &mut self,
        pass: &mut Pass,
        own: &Own,
    ) -> Result<Option<ClusterView>, Ended> {
        let Some(identity) = pass.known.identity.clone() else {
            let why = "the release has no certificates to ask etcd with".to_owned();
            return Err(Ended::Trouble("etcd_identity", why));
        };
        let Some(fence) = self.fence(pass).await? else {
            return Ok(None);
        };
        let cluster_id = fence.cluster_id();
        let mut statuses = None;
        let mut list = None;
        if own.has_data {
            let url = vec![own.facts.client_url.clone()];
            list = self.member_list(pass, &identity, cluster_id, url).await?;
        }
        if list.is_none() {
            let all = self.needed_statuses().await?;
            let mut urls: Vec<String> = fence.members.into_iter().map(|m| m.client_url).collect();
            let of_statuses = all.iter().filter_map(|s| s.etcd.as_ref());
            urls.extend(of_statuses.map(|e| e.facts.client_url.clone()));
            urls.sort();
            urls.dedup();
            urls.retain(|url| *url != own.facts.client_url);
            list = self.member_list(pass, &identity, cluster_id, urls).await?;
            statuses = Some(all);
        }
        let Some(list) = list else {
            (pass.reaches, pass.leader, pass.healthy) = (Vec::new(), None, None);
            return Ok(None);
        };
        let health = self.health(&identity, &list).await?;
        pass.reaches = list
            .iter()
            .zip(&health)
            .filter(|(m, h)| h.is_some() && !m.name.is_empty())
            .map(|(m, _)| m.name.clone())
            .collect();
        pass.reaches.sort();
        let leader = health.iter().flatten().find_map(|h| h.leader);
        let led = list.iter().find(|m| Some(m.id) == leader);
        pass.leader = led.map(|m| m.name.clone());
        let mut both = list.iter().zip(&health);
        if let Some((_, health)) = both.find(|(m, _)| m.name == own.facts.name) {
            pass.healthy = Some(is_healthy(health.as_ref()));
            pass.revision = health.as_ref().map(|h| h.revision);
        }
        // Whoever has data decides about itself alone, unless there are too many.
        let voters = list.iter().filter(|m| !m.is_learner).count();
        if statuses.is_none() && voters > pass.settings.voters as usize {
            statuses = Some(self.needed_statuses().await?);
        }
        let sights = match statuses {
            None => None,
            Some(statuses) => Some(Sights {
                statuses,
                forgotten: self.gone_nodes().await?,
                now: self.store_now(),
                gone_after: pass.section.gone_after.get(),
            }),
        };
        let members = list.iter().zip(&health).map(|(member, health)| {
            let alive = Sight {
                gone: false,
                reached_by_peer: true,
                unreached_by: 0,
            };
            let unheard = self.etcd.suspects.unheard(member.id);
            let sight = sights
                .as_ref()
                .map_or(alive, |sights| sights.of(member, &list, unheard));
            MemberSeen {
                id: member.id,
                name: member.name.clone(),
                peer_urls: member.peer_urls.clone(),
                learner: member.is_learner,
                healthy: is_healthy(health.as_ref()),
                gone: sight.gone,
                reached_by_peer: sight.reached_by_peer,
                unreached_by: sight.unreached_by,
                confirmed: false,
            }
        });
        let view = ClusterView {
            cluster_id,
            members: members.collect(),
        };
        let Some(sights) = sights else {
            return Ok(Some(view));
        };
        let never_heard = |id: &u64| {
            let member = list.iter().find(|m| m.id == *id);
            member.is_some_and(|m| sights.statuses_of(m).next().is_none())
        };
        Ok(Some(self.etcd.suspects.look(view, never_heard)))
    }

    /// The first answer of these members that has a quorum of this cluster behind it.
    async fn member_list(
        &mut self,
        pass: &mut Pass,
        identity: &EtcdIdentity,
        cluster_id: u64,
        urls: Vec<String>,
    ) -> Result<Option<Vec<Member>>, Ended> {
        let identity = identity.clone();
        let asking = async move {
            for url in urls {
                let Ok(client) = EtcdClient::new(&identity, &url) else {
                    continue;
                };
                match timeout(MEMBER_DEADLINE * 2, client.cluster()).await {
                    Ok(Ok((of, list))) if of == cluster_id => return Some((client, list)),
                    Ok(Ok((of, _))) => {
                        tracing::warn!(
                            url,
                            of = format!("{of:x}"),
                            "a member of another cluster answers"
                        );
                    }
                    Ok(Err(error)) => tracing::debug!(error = chain(&error), "no answer"),
                    Err(_) => tracing::debug!(url, "no answer in time"),
                }
            }
            None
        };
        let answer = self
            .network(
                Phase::Idle,
                || "asking etcd for its members".to_owned(),
                MEMBERS_DEADLINE,
                asking,
            )
            .await?;
        Ok(answer.map(|(client, list)| {
            pass.asked = Some(client);
            list
        }))
    }

    async fn health(
        &mut self,
        identity: &EtcdIdentity,
        list: &[Member],
    ) -> Result<Vec<Option<MemberStatus>>, Ended> {
        let asks = list.iter().map(|member| {
            let client = member.client_urls.first();
            let client = client.and_then(|url| EtcdClient::new(identity, url).ok());
            let id = member.id;
            async move {
                let status = timeout(MEMBER_DEADLINE, client?.status()).await;
                status.ok()?.ok().filter(|s| s.member_id == id)
            }
        });
        let asks = join_all(asks.collect::<Vec<_>>());
        Ok(self
            .network(
                Phase::Idle,
                || "asking etcd's members how they are".to_owned(),
                MEMBERS_DEADLINE,
                asks,
            )
            .await?)
    }

    fn store_now(&self) -> Timestamp {
        let told = self.store.server_time();
        told.map_or_else(|| self.clock.now(), |told| told.server)
    }
}

fn is_healthy(status: Option<&MemberStatus>) -> bool {
    status.is_some_and(|s| s.leader.is_some())
}
