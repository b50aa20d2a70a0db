//! The instance types: for the right processor, and to be had in enough zones.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{Filter, LocationType};

use super::Line;
use super::image::ARCHITECTURE;
use crate::aws::{Aws, AwsError, call};
use crate::env::{Environment, SECURE};

/// How many zones of the region are used where the environment names none (`terraform/network.tf`).
const FIRST_ZONES: usize = 3;
/// In one zone alone, its failure is the group's end.
const ZONES: usize = 2;
/// What etcd's members want, so that one zone's failure leaves a majority.
const ZONES_FOR_QUORUM: usize = 3;

/// What AWS says of the types of an environment.
#[derive(Debug, Clone, Default)]
struct Facts {
    /// The zones that the environment's machines are spread over.
    used: BTreeSet<String>,
    /// The zones that offer a type.
    zones: BTreeMap<String, BTreeSet<String>>,
    /// The processors of a type.
    architectures: BTreeMap<String, Vec<String>>,
}

pub(super) async fn check(aws: &Aws, environment: &Environment) -> Vec<Line> {
    let facts = look(aws, environment).await;
    judge(environment, aws.region(), &facts)
}

fn types_of(environment: &Environment) -> BTreeSet<String> {
    let flavors = environment
        .groups
        .values()
        .filter_map(|g| g.flavor.as_ref());
    flavors.map(ToString::to_string).collect()
}

/// The environment's own, or the first of the region: the same that `terraform/network.tf` takes.
async fn used_zones(aws: &Aws, environment: &Environment) -> Result<BTreeSet<String>, AwsError> {
    if !environment.zones.is_empty() {
        return Ok(environment.zones.iter().map(ToString::to_string).collect());
    }
    let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
    let request = aws
        .ec2()
        .describe_availability_zones()
        .filters(filter("zone-type", "availability-zone"))
        .filters(filter("opt-in-status", "opt-in-not-required"))
        .send();
    let answer = call("ec2:DescribeAvailabilityZones", aws.region(), request).await?;
    let names = answer
        .availability_zones()
        .iter()
        .filter_map(|zone| zone.zone_name().map(str::to_owned));
    let sorted: BTreeSet<String> = names.collect();
    Ok(sorted.into_iter().take(FIRST_ZONES).collect())
}

async fn look(aws: &Aws, environment: &Environment) -> Result<Facts, AwsError> {
    let types = types_of(environment);
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
    let (used, offerings, described) = futures::try_join!(
        used_zones(aws, environment),
        call(
            "ec2:DescribeInstanceTypeOfferings",
            &shown,
            offerings.try_collect()
        ),
        call("ec2:DescribeInstanceTypes", &shown, described.try_collect()),
    )?;
    let mut facts = Facts {
        used,
        ..Facts::default()
    };
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
    let list = |zones: &BTreeSet<String>| zones.iter().cloned().collect::<Vec<_>>().join(", ");
    let offered = facts.zones.get(flavor).unwrap_or(&nowhere);
    let zones = offered & &facts.used;
    let listed = list(&zones);
    let says = |what: &str| format!("{flavor} of group {group} {what}");
    let change = format!("change {key}");
    if offered.is_empty() {
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
    let others = format!(
        "{change}, or name zones in availability_zones that offer it ({})",
        list(offered)
    );
    if zones.is_empty() {
        let what = format!(
            "is offered in none of the zones that are used: {}",
            list(&facts.used)
        );
        return Line::fail(check, says(&what), others);
    }
    // Whoever names one zone alone wants it so.
    if zones.len() < ZONES.min(facts.used.len()) {
        let what = format!(
            "is offered in one zone alone of those that are used ({}): {listed}",
            list(&facts.used)
        );
        return Line::fail(check, says(&what), others);
    }
    if members >= 3 && zones.len() < ZONES_FOR_QUORUM {
        let what =
            format!("can be in {listed} alone: the failure of one zone may take etcd's majority");
        return Line::warn(check, says(&what), others);
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
        // Three zones are used, as long as nothing else is said.
        let used = ["a", "b", "c"].map(str::to_owned).into();
        let both = ["t3.medium", "t3.large"].map(str::to_owned);
        Ok(Facts {
            used,
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
        of(
            facts(&["a"], "x86_64"),
            [Fail, Fail],
            "one zone alone of those that are used (a, b, c): a",
        );
        // Zones that nothing is put into count for nothing.
        of(
            facts(&["a", "d", "e"], "x86_64"),
            [Fail, Fail],
            "one zone alone",
        );
        of(
            facts(&["d", "e", "f"], "x86_64"),
            [Fail, Fail],
            "none of the zones that are used: a, b, c",
        );
        let mut alone = facts(&["a", "b"], "x86_64").unwrap();
        alone.used = ["b".to_owned()].into();
        of(Ok(alone), [Well, Warn], "can be in b alone");
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
