//! Everything that `status` shows, as it is at one moment.

use jiff::Timestamp;
use serde_json::{Value, json};
use shared::backup::BackupName;
use shared::names::{GroupName, ReleaseNumber};
use shared::trust::ReleaseTarget;

use super::silent::{is_late, silent_machines};
use super::{NodeReport, read_group};
use crate::context::Context;
use crate::expiry::{Expiry, expiries};
use crate::instances::Instance;
use crate::keyring::Keyring;
use crate::publish::read_published;
use crate::rollouts::{self, RolloutUnreadable, RolloutView};

/// One group.
#[derive(Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupName,
    /// The current release.
    pub published: Option<ReleaseNumber>,
    /// The good release.
    pub good: Option<ReleaseNumber>,
    /// When the first of the signatures expires.
    pub expires: Option<Timestamp>,
    /// The signing keys are half changed.
    pub handover: bool,
    /// What the nodes say.
    pub nodes: Vec<NodeReport>,
    /// How the rollout goes.
    pub rollout: RolloutView,
}

/// All groups that were asked about.
#[derive(Debug)]
pub struct Snapshot {
    /// Them.
    pub groups: Vec<GroupStatus>,
    /// Machines that EC2 runs and that have never reported.
    pub never_reported: Vec<Instance>,
    /// What runs out, the first first.
    pub expiries: Vec<Expiry>,
    /// When it was taken.
    pub at: Timestamp,
}

/// Reads one group.
///
/// # Errors
/// Metadata that is not acceptable, or a store that fails. A rollout document that cannot be read is part of what is shown.
pub async fn read_group_status(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
) -> anyhow::Result<(GroupStatus, Option<shared::trust::Expiry>)> {
    let published = read_published(context, keyring, group).await?;
    if let Some(current) = published.current() {
        keyring.check_against(current)?;
    }
    let keys = keyring.group(group)?;
    let nodes = read_group(context, keys, group).await?;
    let document = match rollouts::read(context, keys, group).await {
        // A store that fails says nothing of the document.
        Err(failed @ RolloutUnreadable::Store { .. }) => return Err(failed.into()),
        read => read,
    };
    let document = match &document {
        Ok(found) => Ok(found.as_ref()),
        Err(e) => Err(chain(e)),
    };
    let current = published.current().map(ReleaseTarget::release);
    let status = GroupStatus {
        rollout: RolloutView::of(current, document, &nodes, context.store_now()),
        handover: keys.handover,
        nodes,
        published: current,
        good: published.good().map(ReleaseTarget::release),
        expires: published.expires(),
        group: group.clone(),
    };
    Ok((status, published.expiry()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

impl GroupStatus {
    /// The newest good backup of etcd that one of its nodes knows of.
    #[must_use]
    pub fn newest_backup(&self) -> Option<&BackupName> {
        let nodes = self.nodes.iter().filter_map(|n| n.status.as_ref().ok());
        nodes
            .filter_map(|s| Some(&s.backup.as_ref()?.last.as_ref()?.name))
            .max()
    }
}

impl Snapshot {
    /// Takes one.
    ///
    /// # Errors
    /// As [`read_group_status`].
    pub async fn take(
        context: &Context,
        keyring: &Keyring,
        groups: &[GroupName],
    ) -> anyhow::Result<Self> {
        let (mut all, mut metadata) = (Vec::new(), Vec::new());
        for group in groups {
            let (status, expiry) = read_group_status(context, keyring, group).await?;
            metadata.extend(expiry.map(|e| (group.clone(), e)));
            all.push(status);
        }
        let at = context.store_now();
        Ok(Self {
            never_reported: silent_machines(context, &all, at).await,
            groups: all,
            expiries: expiries(&keyring.content, &metadata),
            at,
        })
    }

    /// Whether something is not as it should be: a node, a rollout, or something that runs out soon.
    #[must_use]
    pub fn differs(&self) -> bool {
        let of_group = |g: &GroupStatus| {
            let objects = |n: &NodeReport| n.objection(g.published, self.at).is_some();
            g.nodes.iter().any(objects) || g.rollout.needs_somebody() || g.handover
        };
        let lost = |machine: &Instance| is_late(machine, self.at);
        self.groups.iter().any(of_group)
            || self.never_reported.iter().any(lost)
            || self.expiries.iter().any(|e| e.is_soon(self.at))
    }

    /// For programs.
    #[must_use]
    pub fn as_json(&self) -> Value {
        let now = self.at;
        let group = |g: &GroupStatus| {
            let node = |n: &NodeReport| {
                json!({
                    "node": n.node,
                    "status": n.status.as_ref().ok(),
                    "age_seconds": n.age_seconds(now),
                    "objection": n.objection(g.published, now),
                })
            };
            json!({
                "group": g.group,
                "published": g.published,
                "good": g.good,
                "metadata_expires": g.expires,
                "signing_keys_half_changed": g.handover,
                "rollout": g.rollout,
                "newest_backup": g.newest_backup(),
                "nodes": g.nodes.iter().map(node).collect::<Vec<Value>>(),
            })
        };
        let expiry = |e: &Expiry| json!({"what": e.what, "at": e.at, "soon": e.is_soon(now)});
        let groups: Vec<Value> = self.groups.iter().map(group).collect();
        let expiries: Vec<Value> = self.expiries.iter().map(expiry).collect();
        let silent = |i: &Instance| {
            json!({
                "id": i.id, "name": i.name, "group": i.group, "launched": i.launched, "late": is_late(i, now),
            })
        };
        let silent: Vec<Value> = self.never_reported.iter().map(silent).collect();
        json!({"at": now, "groups": groups, "never_reported": silent, "expires": expiries})
    }
}
