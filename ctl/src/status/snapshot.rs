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
    /// How many machines the environment gives it.
    pub size: GroupSize,
}

/// How many machines a group has at the least and at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSize {
    /// The fewest.
    pub least: usize,
    /// The most.
    pub most: usize,
}

/// All groups that were asked about.
#[derive(Debug)]
pub struct Snapshot {
    /// Them.
    pub groups: Vec<GroupStatus>,
    /// Machines that EC2 runs and that have never reported.
    pub never_reported: Vec<Instance>,
    /// Why EC2 could not be asked which machines there are, where it should have been.
    pub machines_unknown: Option<String>,
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
        size: size_of(context, group),
        expires: published.expires(),
        group: group.clone(),
    };
    Ok((status, published.expiry()))
}

/// A group that the environment does not size has no least.
fn size_of(context: &Context, group: &GroupName) -> GroupSize {
    let sizes = &context.workspace.environment.groups;
    let size = sizes.get(group.as_str());
    GroupSize {
        least: size.map_or(0, |s| s.min as usize),
        most: size.map_or(0, |s| s.max as usize),
    }
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
    /// Said where fewer nodes count (`RolloutView::nodes`) than the environment gives the group at the least: a node that
    /// has never come, or went away so long ago that nobody waits for it, has no report that could object.
    #[must_use]
    pub fn shortage(&self) -> Option<String> {
        let (counted, least) = (self.rollout.nodes, self.size.least);
        (counted < least).then(|| {
            format!(
                "{counted} of {least} nodes have reported within the hour ({}_asg_min is {least})",
                self.group
            )
        })
    }

    /// Whether it may have machines beyond those that report.
    fn may_have_more(&self) -> bool {
        self.rollout.nodes < self.size.most
    }

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
        let (never_reported, machines_unknown) = match silent_machines(context, &all, at).await {
            Ok(silent) => (silent, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        Ok(Self {
            never_reported,
            machines_unknown,
            groups: all,
            expiries: expiries(&keyring.content, &metadata),
            at,
        })
    }

    /// Whether something is not as it should be: a node, or one that is missing, a rollout, or something that runs out soon.
    ///
    /// Where EC2 could not be asked, that a machine runs and has never reported cannot be ruled out, unless every group has
    /// all the nodes that it can have: what is unknown is not as it should be.
    #[must_use]
    pub fn differs(&self) -> bool {
        let of_group = |g: &GroupStatus| {
            let objects = |n: &NodeReport| n.objection(g.published, self.at).is_some();
            g.nodes.iter().any(objects)
                || g.rollout.needs_somebody()
                || g.handover
                || g.shortage().is_some()
        };
        let unknown = self.machines_unknown.is_some();
        let lost = |machine: &Instance| is_late(machine, self.at);
        self.groups.iter().any(of_group)
            || self.never_reported.iter().any(lost)
            || (unknown && self.groups.iter().any(GroupStatus::may_have_more))
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
                "least_nodes": g.size.least,
                "shortage": g.shortage(),
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
        json!({"at": now, "groups": groups, "never_reported": silent, "machines_unknown": self.machines_unknown, "expires": expiries})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(least: usize, most: usize) -> GroupStatus {
        let now = Timestamp::UNIX_EPOCH;
        GroupStatus {
            group: "secure".parse().unwrap(),
            published: None,
            good: None,
            expires: None,
            handover: false,
            nodes: Vec::new(),
            rollout: RolloutView::of(None, Ok(None), &[], now),
            size: GroupSize { least, most },
        }
    }

    fn snapshot(groups: Vec<GroupStatus>, machines_unknown: Option<&str>) -> Snapshot {
        Snapshot {
            groups,
            never_reported: Vec::new(),
            machines_unknown: machines_unknown.map(str::to_owned),
            expiries: Vec::new(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn nodes_that_are_not_there_are_missed() {
        assert!(!snapshot(vec![group(0, 3)], None).differs());
        let none = snapshot(vec![group(0, 3), group(3, 3)], None);
        assert!(none.differs());
        let lines = none.lines().join("\n");
        let said = "0 of 3 nodes have reported within the hour (secure_asg_min is 3)";
        assert!(lines.contains(said), "{lines}");
        let mut two = group(3, 3);
        two.rollout.nodes = 2;
        assert!(two.shortage().unwrap().starts_with("2 of 3 "));
        two.rollout.nodes = 3;
        assert_eq!(two.shortage(), None);
    }

    #[test]
    fn what_ec2_did_not_say_is_said_and_counts_where_it_could_hide_a_machine() {
        let unknown = snapshot(vec![group(0, 3)], Some("EC2 is down"));
        assert!(unknown.differs());
        let lines = unknown.lines().join("\n");
        assert!(lines.contains("EC2 is down"), "{lines}");
        let full = snapshot(vec![group(0, 0)], Some("EC2 is down"));
        assert!(!full.differs(), "nothing can be hidden");
        assert!(full.lines().join("\n").contains("EC2 is down"));
    }
}
