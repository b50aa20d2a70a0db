//! The instance types: for the right processor, and to be had in enough zones.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{Filter, LocationType};

use super::Line;
use super::image::ARCHITECTURE;
use crate::aws::{Aws, AwsError, call};
use crate::env::{Environment, SECURE};

/// In one zone alone, its failure is the group's end.
const ZONES: usize = 2;
/// What etcd's members want, so that one zone's failure leaves a majority.
const ZONES_FOR_QUORUM: usize = 3;

/// What AWS says of the types of an environment.
#[derive(Debug, Clone, Default)]
struct Facts {
    /// The zones that offer a type.
    zones: BTreeMap<String, BTreeSet<String>>,
    /// The processors of a type.
    architectures: BTreeMap<String, Vec<String>>,
}

pub(super) async fn check(aws: &Aws, environment: &Environment) -> Vec<Line> {
    let facts = look(aws, &types_of(environment)).await;
    judge(environment, aws.region(), &facts)
}

/// The zones of the region that offer every instance type of the environment, sorted.
///
/// # Errors
/// [`AwsError`].
pub async fn common_zones(
    aws: &Aws,
    environment: &Environment,
) -> Result<BTreeSet<String>, AwsError> {
    let types = types_of(environment);
    let facts = look(aws, &types).await?;
    let mut sets = types
        .iter()
        .map(|t| facts.zones.get(t).cloned().unwrap_or_default());
    let first = sets.next().unwrap_or_default();
    Ok(sets.fold(first, |common, set| &common & &set))
}

fn types_of(environment: &Environment) -> BTreeSet<String> {
    let flavors = environment
        .groups
        .values()
        .filter_map(|g| g.flavor.as_ref());
    flavors.map(ToString::to_string).collect()
}

async fn look(aws: &Aws, types: &BTreeSet<String>) -> Result<Facts, AwsError> {
    let shown = types.iter().cloned().collect::<Vec<_>>().join(", ");
    // As a filter, and not by name: then a type that does not exist is an empty answer and no error.
    let filter = Filter::builder()
        .name("instance-type")
        .set_values(Some(types.iter().cloned().collect()))
        .build();
    let ec2 = aws.ec2();
    let offerings = ec2
        .describe_instance_type_offerings()
        .location_type(LocationType::AvailabilityZone)
        .filters(filter.clone())
        .into_paginator()
        .items()
        .send();
    let described = ec2
        .describe_instance_types()
        .filters(filter)
        .into_paginator()
        .items()
        .send();
    let (offerings, described) = futures::try_join!(
        call(
            "ec2:DescribeInstanceTypeOfferings",
            &shown,
            offerings.try_collect()
        ),
        call("ec2:DescribeInstanceTypes", &shown, described.try_collect()),
    )?;
    let mut facts = Facts::default();
    for offering in offerings {
        let (Some(kind), Some(zone)) = (offering.instance_type(), offering.location()) else {
            continue;
        };
        let zones = facts.zones.entry(kind.as_str().to_owned()).or_default();
        zones.insert(zone.to_owned());
    }
    for described in described {
        let Some(kind) = described.instance_type() else {
            continue;
        };
        let processors = described.processor_info();
        let architectures = processors.map_or(&[][..], |p| p.supported_architectures());
        facts.architectures.insert(
            kind.as_str().to_owned(),
            architectures
                .iter()
                .map(|a| a.as_str().to_owned())
                .collect(),
        );
    }
    Ok(facts)
}

fn judge(environment: &Environment, region: &str, facts: &Result<Facts, AwsError>) -> Vec<Line> {
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => return vec![Line::unseen("instance types", error)],
    };
    let mut lines = Vec::new();
    for (group, size) in &environment.groups {
        let Some(flavor) = &size.flavor else { continue };
        let members = if group == SECURE { size.min } else { 1 };
        lines.push(judge_one(group, flavor.as_str(), members, region, facts));
    }
    lines
}

fn judge_one(group: &str, flavor: &str, members: u32, region: &str, facts: &Facts) -> Line {
    let check = "instance types";
    let key = if group == SECURE {
        "etcd_flavor"
    } else {
        "compute_flavor"
    };
    let nowhere = BTreeSet::new();
    let zones = facts.zones.get(flavor).unwrap_or(&nowhere);
    let listed = zones.iter().cloned().collect::<Vec<_>>().join(", ");
    let says = |what: &str| format!("{flavor} of group {group} {what}");
    let change = format!("change {key}");
    if zones.is_empty() {
        return Line::fail(
            check,
            says(&format!("is not offered anywhere in {region}")),
            change,
        );
    }
    match facts.architectures.get(flavor) {
        Some(of_type) if !of_type.iter().any(|a| a == ARCHITECTURE) => {
            let what = format!(
                "has a processor of {}, not {ARCHITECTURE}",
                of_type.join(", ")
            );
            return Line::fail(check, says(&what), change);
        }
        _ => {}
    }
    if zones.len() < ZONES {
        let what = format!("is offered in one zone alone: {listed}");
        return Line::fail(check, says(&what), change);
    }
    if members >= 3 && zones.len() < ZONES_FOR_QUORUM {
        let what = format!(
            "is offered in two zones alone ({listed}): the failure of one may take etcd's majority"
        );
        return Line::warn(check, says(&what), change);
    }
    Line::ok(check, says(&format!("is offered in {listed}")))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok as Well, Warn};
    use super::*;
    use crate::aws::AwsErrorKind;
    use crate::testing::environment;

    fn facts(zones: &[&str], architecture: &str) -> Result<Facts, AwsError> {
        let zones: BTreeSet<String> = zones.iter().map(|z| (*z).to_owned()).collect();
        let both = ["t3.medium", "t3.large"].map(str::to_owned);
        Ok(Facts {
            zones: both.iter().map(|t| (t.clone(), zones.clone())).collect(),
            architectures: both
                .iter()
                .map(|t| (t.clone(), vec![architecture.to_owned()]))
                .collect(),
        })
    }

    #[test]
    fn instance_types() {
        let dev = environment("");
        let judged = |facts| {
            let lines = judge(&dev, "eu-west-1", &facts);
            lines
                .iter()
                .map(|l| (l.verdict, l.says.clone()))
                .collect::<Vec<_>>()
        };
        // Compute first: the groups are in the order of their names.
        let of =
            |facts: Result<Facts, AwsError>, verdicts: [super::super::Verdict; 2], says: &str| {
                let lines = judged(facts);
                assert_eq!([lines[0].0, lines[1].0], verdicts, "{lines:?}");
                assert!(lines[1].1.contains(says), "{lines:?}");
            };
        of(
            facts(&["a", "b", "c"], "x86_64"),
            [Well, Well],
            "t3.large of group secure is offered in a, b, c",
        );
        of(
            facts(&["a", "b"], "x86_64"),
            [Well, Warn],
            "etcd's majority",
        );
        of(facts(&["a"], "x86_64"), [Fail, Fail], "one zone alone: a");
        of(
            facts(&["a", "b"], "arm64"),
            [Fail, Fail],
            "of arm64, not x86_64",
        );
        of(Ok(Facts::default()), [Fail, Fail], "not offered anywhere");
        let single = environment("secure_asg_min = \"1\"");
        let lines = judge(&single, "eu-west-1", &facts(&["a", "b"], "x86_64"));
        assert_eq!(lines[1].verdict, Well);
        let denied = AwsError::made_up("ec2:DescribeInstanceTypes", AwsErrorKind::Denied);
        assert_eq!(judge(&dev, "eu-west-1", &Err(denied))[0].verdict, Fail);
    }
}
