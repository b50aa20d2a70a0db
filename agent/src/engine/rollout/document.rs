//! The document that a group agrees in: read, believed, written over what was read; and the group as its statuses show it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use rand::Rng as _;
use shared::documents::{
    GroupKey, NodeObjectError, NodeStatus, Nonce, Phase, RolloutDocument, open_node_object,
};
use shared::limits;
use shared::names::{NodeId, ReleaseNumber};
use shared::rollout::{GroupView, NodeFacts, NodeSeen, Stamp};
use shared::store::{ETag, Fetched, PutCondition, StoreError, keys};

use super::{RolloutError, refused};
use crate::engine::Agent;
use crate::engine::failure::{Failure, Stop};
use crate::rollout::BootTime;
use crate::trouble::chain;

/// How long one request about the document may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long reading the group's status objects may take.
const VIEW_DEADLINE: Duration = Duration::from_secs(60);
/// Status objects that are read at once.
const PARALLEL: usize = 16;

/// The document as it was read.
pub(in crate::engine) struct Read {
    pub(in crate::engine) document: Option<RolloutDocument>,
    pub(super) tag: Option<ETag>,
    /// The store's time at the answer.
    pub(in crate::engine) now: Timestamp,
    /// The time on the clock of deadlines when it was asked for.
    pub(super) asked: BootTime,
}

/// What this node is, for the decisions.
pub(super) struct OwnFacts {
    node: NodeId,
    zone: Option<String>,
    on_disk: Option<ReleaseNumber>,
}

impl OwnFacts {
    pub(super) fn facts(&self) -> NodeFacts<'_> {
        NodeFacts {
            node: &self.node,
            zone: self.zone.as_deref(),
            on_disk: self.on_disk,
        }
    }
}

fn store_failure(error: StoreError) -> Failure {
    Failure::store(Phase::Slot, error)
}

impl Agent {
    pub(super) fn own_facts(&self) -> OwnFacts {
        OwnFacts {
            node: self.identity.node.clone(),
            zone: self.rollouts.report.zone.clone(),
            on_disk: self.release(),
        }
    }

    pub(super) fn stamp(&self, now: Timestamp) -> Stamp {
        let nonce = Nonce::random();
        Stamp { nonce, now }
    }

    /// The store's time at its last answer. The machine's own clock is no stand-in for it: slots are cleared by this.
    fn store_time(&self) -> Option<Timestamp> {
        self.store.server_time().map(|told| told.server)
    }

    pub(in crate::engine) async fn read_rollout(&mut self) -> Result<Read, Stop> {
        let key = self.with_disk(|disk| disk.group_key()).ok().flatten();
        let key = key.ok_or_else(|| refused(RolloutError::Key))?;
        self.read_rollout_with(&key).await
    }

    pub(super) async fn read_rollout_with(&mut self, group_key: &GroupKey) -> Result<Read, Stop> {
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
        let answer = self
            .network(
                Phase::Slot,
                || format!("reading {key}"),
                REQUEST_DEADLINE,
                get,
            )
            .await?;
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
                self.saw_revision(document.revision);
                self.rollouts.cached = Some((etag.clone(), document.clone()));
                (Some(document), Some(etag))
            }
            // A document that is there all the same is not written over: the write that follows only ever makes one. One that was
            // seen here holds halts, pauses and slots, and nobody but an operator forgets those.
            Err(error) if error.kind.may_be_absent() => {
                self.rollouts.cached = None;
                let own = self.clock.now();
                if self.rollouts.seen > 0 {
                    return Err(refused(RolloutError::Missing(self.rollouts.seen)).into());
                }
                // Where nobody has a slot there is none to clear: any clock does.
                return Ok(Read {
                    document: None,
                    tag: None,
                    now: self.store_time().unwrap_or(own),
                    asked,
                });
            }
            Err(error) => return Err(store_failure(error).into()),
        };
        let now = self
            .store_time()
            .ok_or_else(|| refused(RolloutError::NoTime))?;
        Ok(Read {
            document,
            tag,
            now,
            asked,
        })
    }

    /// Writes over what was read; a failure of the kind [`CONFLICT`] where somebody else was faster.
    pub(super) async fn write_rollout(
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
        let sealed = next.seal(&bound, &group_key);
        let sealed = sealed.map_err(|e| refused(RolloutError::Seal(e)))?;
        let condition = tag.map_or(PutCondition::Absent, PutCondition::Matches);
        let store = self.store.clone();
        let named = key.clone();
        let put = async move { store.put(&key, sealed.into(), condition).await };
        let put = self
            .network(
                Phase::Slot,
                || format!("writing {named}"),
                REQUEST_DEADLINE,
                put,
            )
            .await?;
        let tag = put.map_err(store_failure)?;
        self.saw_revision(next.revision);
        self.rollouts.cached = Some((tag, next));
        Ok(())
    }

    /// What can't be remembered is not noticed after a restart.
    fn saw_revision(&mut self, revision: u64) {
        if revision == self.rollouts.seen {
            return;
        }
        self.rollouts.seen = revision;
        if let Err(error) = self.rollouts.file.remember_revision(revision) {
            tracing::warn!(
                error = chain(&error),
                "the rollout's revision is not remembered"
            );
        }
    }

    /// Somebody else was faster: a short while, of a length unlike theirs, before the next try.
    pub(super) async fn step_aside(&mut self) -> Result<(), Stop> {
        let pause = Duration::from_millis(rand::rng().random_range(20..400));
        let sleep = self.clock.sleep(pause);
        self.network(
            Phase::Slot,
            || "stepping aside".to_owned(),
            REQUEST_DEADLINE,
            sleep,
        )
        .await
    }

    /// The group as its status objects show it; none where this node may not look.
    pub(super) async fn view(&mut self) -> Result<Option<GroupView>, Stop> {
        let statuses = self.statuses().await?;
        Ok(statuses.map(|statuses| GroupView {
            nodes: statuses.iter().map(NodeSeen::of).collect(),
            unread: self.rollouts.unread_nodes.iter().cloned().collect(),
        }))
    }

    /// The group's status objects; none where this node may not look. What is not authentic does not count, and is named.
    pub(in crate::engine) async fn statuses(&mut self) -> Result<Option<Vec<NodeStatus>>, Stop> {
        let group_key = self.with_disk(|disk| disk.group_key()).ok().flatten();
        let Some(group_key) = group_key else {
            return Ok(None);
        };
        let store = self.store.clone();
        let prefix = keys::nodes_prefix(&self.identity.group);
        let named = prefix.clone();
        let environment = self.identity.environment.clone();
        let reading = async move {
            let names = store.list(&prefix).await?;
            let reads = names.into_iter().map(|key| {
                let (store, environment) = (store.clone(), environment.clone());
                let group_key = group_key.clone();
                async move {
                    let fetched = store.get(&key, limits::NODE_OBJECT_BYTES, None).await?;
                    let Fetched::Object { bytes, .. } = fetched else {
                        return Ok((key, Err("it was not given".to_owned())));
                    };
                    let name = keys::bound_name(&environment, &key);
                    let opened = open_node_object::<NodeStatus>(&bytes, &name, &group_key);
                    let own = |s: &NodeStatus| key.ends_with(&format!("/{}.json", s.node));
                    let opened = match opened {
                        Ok(status) if own(&status) => Ok(Some(status)),
                        Ok(status) => Err(format!("it is of {}", status.node)),
                        // It has no release yet, and so no key.
                        Err(NodeObjectError::Unauthenticated(_)) => Ok(None),
                        Err(error) => Err(chain(&error)),
                    };
                    Ok::<_, StoreError>((key, opened))
                }
            });
            let seen: Vec<_> = stream::iter(reads).buffered(PARALLEL).collect().await;
            let seen: Result<Vec<_>, StoreError> = seen.into_iter().collect();
            seen
        };
        match self
            .network(
                Phase::Slot,
                || format!("reading {named}"),
                VIEW_DEADLINE,
                reading,
            )
            .await?
        {
            Ok(read) => Ok(Some(self.believed(read))),
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

    /// Those of the status objects that can be believed; the others are named, once.
    fn believed(
        &mut self,
        read: Vec<(String, Result<Option<NodeStatus>, String>)>,
    ) -> Vec<NodeStatus> {
        let mut statuses = Vec::new();
        let mut unread = BTreeSet::new();
        for (key, opened) in read {
            let name = key.rsplit('/').next().and_then(|n| n.strip_suffix(".json"));
            let node: Option<NodeId> = name.and_then(|name| name.parse().ok());
            match (opened, node) {
                (Ok(status), _) => statuses.extend(status),
                (Err(why), Some(node)) => {
                    if !self.rollouts.unread_nodes.contains(&node)
                        && let Some(release) = self.release()
                    {
                        tracing::warn!(object = key, why, "a status object is not believed");
                        let digest = self.with_disk(|disk| disk.bundle_digest());
                        let what =
                            "ignores a status object: no rollout is complete while it is there";
                        self.decided(what, release, digest, key, &why);
                    }
                    unread.insert(node);
                }
                (Err(why), None) => {
                    tracing::warn!(
                        object = key,
                        why,
                        "a status object of nobody is not believed"
                    );
                }
            }
        }
        self.rollouts.unread_nodes = unread;
        statuses
    }
}
