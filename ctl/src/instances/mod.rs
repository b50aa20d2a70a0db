//! The machines of an environment, as EC2 and auto-scaling show them, with what their nodes report.

mod change;
mod replace;
mod select;
mod table;

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{Filter, InstanceStateName};
use jiff::Timestamp;

pub use change::{console, set_desired, terminate_for_replacement};
pub use replace::objections;
pub use select::{SelectError, select};
pub use table::{as_json, table};

use crate::aws::{Aws, AwsError, Member, ScalingGroup, call};
use crate::context::Context;
use crate::env::Environment;
use crate::keyring;
use crate::status::{NodeReport, read_group};

/// The states that are shown; what is terminated is listed by EC2 for an hour, and gone.
const STATES: [InstanceStateName; 5] = [
    InstanceStateName::Pending,
    InstanceStateName::Running,
    InstanceStateName::ShuttingDown,
    InstanceStateName::Stopping,
    InstanceStateName::Stopped,
];

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its tag `Name`: `ENV-GROUP`.
    pub name: String,
    /// Its tag `Role`: the group.
    pub group: String,
    /// Its id.
    pub id: String,
    /// Its address in the VPC.
    pub private_ip: Option<String>,
    /// Its address on the internet.
    pub public_ip: Option<String>,
    /// Its DNS name in the VPC.
    pub private_dns: Option<String>,
    /// `pending`, `running`, `shutting-down`, `stopping` or `stopped`.
    pub state: String,
    /// Its availability zone.
    pub zone: String,
    /// When it was launched.
    pub launched: Option<Timestamp>,
    /// What its auto-scaling group says of it; none where it is in none.
    pub member: Option<Member>,
    /// Whether its group launches something else now; none where it cannot be told.
    pub out_of_date: Option<bool>,
}

/// The machines of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// Sorted by name, zone and id.
    pub instances: Vec<Instance>,
    /// The auto-scaling groups that exist, by group.
    pub groups: BTreeMap<String, ScalingGroup>,
}

/// Reads the machines and auto-scaling groups of the environment.
///
/// # Errors
/// [`AwsError`].
pub async fn read_fleet(aws: &Aws, environment: &Environment) -> Result<Fleet, AwsError> {
    let (instances, groups) = futures::try_join!(
        read_instances(aws, environment),
        aws.scaling_groups(environment)
    )?;
    let mut fleet = Fleet { instances, groups };
    fleet.join();
    Ok(fleet)
}

/// Reads the machines alone, in one request: without what their auto-scaling groups say.
///
/// # Errors
/// [`AwsError`].
pub async fn read_instances(
    aws: &Aws,
    environment: &Environment,
) -> Result<Vec<Instance>, AwsError> {
    let filter = |name: &str, values: Vec<String>| {
        Filter::builder()
            .name(name)
            .set_values(Some(values))
            .build()
    };
    let states = STATES.iter().map(|s| s.as_str().to_owned()).collect();
    let pages = aws
        .ec2()
        .describe_instances()
        .filters(filter("tag:Env", vec![environment.name.to_string()]))
        .filters(filter(
            "tag:Platform",
            vec![environment.platform.to_string()],
        ))
        .filters(filter(
            "tag:Role",
            environment.groups.keys().cloned().collect(),
        ))
        .filters(filter("instance-state-name", states))
        .into_paginator()
        .send();
    let pages = call(
        "ec2:DescribeInstances",
        format!("environment {}", environment.name),
        pages.try_collect(),
    )
    .await?;
    let mut instances: Vec<Instance> = pages
        .iter()
        .flat_map(|page| page.reservations())
        .flat_map(|reservation| reservation.instances())
        .filter_map(Instance::of)
        .collect();
    instances.sort_by(|a, b| (&a.name, &a.zone, &a.id).cmp(&(&b.name, &b.zone, &b.id)));
    Ok(instances)
}

/// What the nodes of all groups report, by instance id. On AWS a node's name is `ROLE ID:INSTANCE ID`.
///
/// # Errors
/// A keyring or a listing that cannot be read; nothing where there is no keyring yet.
pub async fn read_reports(context: &Context) -> anyhow::Result<BTreeMap<String, NodeReport>> {
    let Some(keyring) = keyring::read_existing(context).await? else {
        return Ok(BTreeMap::new());
    };
    let mut reports = BTreeMap::new();
    for group in &context.workspace.groups {
        for report in read_group(context, keyring.group(group)?, group).await? {
            reports.insert(instance_of(&report.node).to_owned(), report);
        }
    }
    Ok(reports)
}

/// The instance id in a node's name.
#[must_use]
pub fn instance_of(node: &str) -> &str {
    node.rsplit(':').next().unwrap_or(node)
}

// === impl Instance ===

impl Instance {
    fn of(found: &aws_sdk_ec2::types::Instance) -> Option<Self> {
        let tag = |key: &str| {
            let mut tags = found.tags().iter();
            let tag = tags.find(|t| t.key() == Some(key))?;
            tag.value().map(str::to_owned)
        };
        let filled = |text: Option<&str>| text.filter(|t| !t.is_empty()).map(str::to_owned);
        let state = found.state().and_then(|s| s.name());
        let zone = found.placement().and_then(|p| p.availability_zone());
        Some(Self {
            name: tag("Name").unwrap_or_default(),
            group: tag("Role").unwrap_or_default(),
            id: found.instance_id()?.to_owned(),
            private_ip: filled(found.private_ip_address()),
            public_ip: filled(found.public_ip_address()),
            private_dns: filled(found.private_dns_name()),
            state: state.map_or_else(String::new, |s| s.as_str().to_owned()),
            zone: zone.unwrap_or_default().to_owned(),
            launched: found
                .launch_time()
                .and_then(|t| Timestamp::from_second(t.secs()).ok()),
            member: None,
            out_of_date: None,
        })
    }

    /// Whether EC2 runs it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == InstanceStateName::Running.as_str()
    }

    /// Name, id and zone, for messages.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} {} ({})", self.name, self.id, self.zone)
    }
}

// === impl Fleet ===

impl Fleet {
    /// Gives each machine what its auto-scaling group says of it.
    fn join(&mut self) {
        for instance in &mut self.instances {
            let Some(group) = self.groups.get(&instance.group) else {
                continue;
            };
            instance.member = group.members.get(&instance.id).cloned();
            instance.out_of_date = group.is_out_of_date(&instance.id);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn instance(name: &str, id: &str, n: u8) -> Instance {
        Instance {
            name: name.to_owned(),
            group: name.rsplit('-').next().unwrap().to_owned(),
            id: id.to_owned(),
            private_ip: Some(format!("10.100.2.{n}")),
            public_ip: Some(format!("192.0.2.{n}")),
            private_dns: Some(format!("ip-10-100-2-{n}.eu-west-1.compute.internal")),
            state: "running".to_owned(),
            zone: "eu-west-1c".to_owned(),
            launched: None,
            member: None,
            out_of_date: None,
        }
    }

    #[test]
    fn a_node_names_its_machine() {
        assert_eq!(instance_of("AROAEXAMPLE:i-0abc"), "i-0abc");
        assert_eq!(instance_of("secure-1"), "secure-1");
    }
}
