//! The DNS zone: hosted in this account, public, and only once. And the API server's two names in it: free, or this environment's.

use aws_sdk_route53::types::RrType;

use super::Line;
use crate::aws::{Aws, AwsError, call};
use crate::env::Environment;

#[derive(Debug, Clone)]
struct Zone {
    id: String,
    private: bool,
}

pub(super) async fn check(aws: &Aws, environment: &Environment) -> Vec<Line> {
    let wanted = environment.dns_zone.as_str();
    let answer = call(
        "route53:ListHostedZonesByName",
        wanted,
        // Those of this name come first.
        aws.route53()
            .list_hosted_zones_by_name()
            .dns_name(wanted)
            .max_items(100)
            .send(),
    )
    .await;
    let zones = answer.map(|answer| {
        let zones = answer.hosted_zones().iter();
        zones
            .filter(|zone| zone.name().trim_end_matches('.') == wanted)
            .map(|zone| Zone {
                id: zone.id().trim_start_matches("/hostedzone/").to_owned(),
                private: zone.config().is_some_and(|c| c.private_zone()),
            })
            .collect::<Vec<_>>()
    });
    let mut lines = vec![judge(wanted, &zones)];
    let public = zones.ok().into_iter().flatten().find(|zone| !zone.private);
    if let Some(zone) = public {
        lines.push(match records(aws, environment, &zone.id).await {
            Ok(records) => judge_names(environment, &records),
            Err(error) => Line::unseen(NAMES, &error),
        });
    }
    lines
}

/// The check of the API server's names.
const NAMES: &str = "dns names";

/// The address record of one of the API server's names.
#[derive(Debug, Clone)]
struct Record {
    name: String,
    /// The prefix of the load balancer's name that belongs there.
    balancer: &'static str,
    /// What an alias leads to; none where it is no alias.
    leads_to: Option<String>,
}

/// Those that are there.
async fn records(
    aws: &Aws,
    environment: &Environment,
    zone: &str,
) -> Result<Vec<Record>, AwsError> {
    let mut found = Vec::new();
    // The names of `terraform/api.tf`, of records and of load balancers.
    for (label, balancer) in [("kube", "api-"), ("kube-internal", "int-")] {
        let name = format!("{label}.{}", environment.dns_zone);
        let request = aws
            .route53()
            .list_resource_record_sets()
            .hosted_zone_id(zone)
            .start_record_name(&name)
            .start_record_type(RrType::A)
            .max_items(1)
            .send();
        let answer = call("route53:ListResourceRecordSets", &name, request).await?;
        let first = answer.resource_record_sets().first();
        let is_it = |record: &&aws_sdk_route53::types::ResourceRecordSet| {
            record.name().trim_end_matches('.') == name && *record.r#type() == RrType::A
        };
        if let Some(record) = first.filter(is_it) {
            let leads_to = record.alias_target().map(|a| a.dns_name().to_owned());
            found.push(Record {
                name,
                balancer,
                leads_to,
            });
        }
    }
    Ok(found)
}

/// Whether the names are this environment's: two environments in one zone would want the same.
fn judge_names(environment: &Environment, records: &[Record]) -> Line {
    let foreign = |record: &&Record| {
        let Some(target) = &record.leads_to else {
            return true;
        };
        // NAME-DIGITS.…: what a load balancer's own name is made of has a hyphen before its digits, and none in them.
        let target = target.trim_start_matches("dualstack.");
        let ours = format!("{}{}-", record.balancer, environment.name);
        let digits = target
            .strip_prefix(&ours)
            .and_then(|rest| rest.split('.').next());
        digits.is_none_or(|digits| digits.contains('-'))
    };
    let taken: Vec<String> = records
        .iter()
        .filter(foreign)
        .map(|record| {
            let leads_to = record.leads_to.as_deref().unwrap_or("an address");
            format!("{} (it leads to {leads_to})", record.name)
        })
        .collect();
    if !taken.is_empty() {
        return Line::fail(
            NAMES,
            format!("taken already: {}", taken.join(", ")),
            "environments do not share a zone: name another one in dns_zone_name, or remove the record",
        );
    }
    let says = match records {
        [] => "kube and kube-internal are free",
        _ => "kube and kube-internal are this environment's, or free",
    };
    Line::ok(NAMES, format!("{says} in {}", environment.dns_zone))
}

fn judge(wanted: &str, zones: &Result<Vec<Zone>, AwsError>) -> Line {
    let check = "dns zone";
    let zones = match zones {
        Ok(zones) => zones,
        Err(error) => return Line::unseen(check, error),
    };
    let public: Vec<&str> = zones
        .iter()
        .filter(|z| !z.private)
        .map(|z| z.id.as_str())
        .collect();
    match public.as_slice() {
        [id] => Line::ok(check, format!("{wanted} is hosted here ({id})")),
        [] => {
            let only = if zones.is_empty() {
                "not hosted in this account"
            } else {
                "hosted in this account for a VPC only"
            };
            Line::fail(
                check,
                format!("{wanted} is {only}"),
                format!(
                    "make it (`aws route53 create-hosted-zone --name {wanted} --caller-reference NOW`) and have its parent \
                     name its servers, or change dns_zone_name"
                ),
            )
        }
        several => Line::fail(
            check,
            format!(
                "{wanted} is hosted {} times: {}",
                several.len(),
                several.join(", ")
            ),
            "delete all but the one that the parent zone names",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok as Well};
    use super::*;
    use crate::aws::AwsErrorKind;

    #[test]
    fn dns_zone() {
        let zones = |private: &[bool]| {
            let zone = |(n, private): (usize, &bool)| Zone {
                id: format!("Z{n}"),
                private: *private,
            };
            Ok(private.iter().enumerate().map(zone).collect())
        };
        let denied = AwsError::made_up("route53:ListHostedZonesByName", AwsErrorKind::Denied);
        for (zones, verdict, says) in [
            (zones(&[false]), Well, "is hosted here (Z0)"),
            (zones(&[true, false]), Well, "is hosted here (Z1)"),
            (zones(&[]), Fail, "not hosted in this account"),
            (zones(&[true]), Fail, "for a VPC only"),
            (zones(&[false, false]), Fail, "2 times: Z0, Z1"),
            (Err(denied), Fail, "access denied"),
        ] {
            let line = judge("example.com", &zones);
            assert_eq!(line.verdict, verdict, "{line:?}");
            assert!(line.says.contains(says), "{line:?}");
            assert_eq!(line.fix.is_none(), verdict == Well, "{line:?}");
        }
    }

    #[test]
    fn names() {
        let dev = crate::testing::environment("");
        let record = |balancer, target: Option<&str>| Record {
            name: "kube.example.com".to_owned(),
            balancer,
            leads_to: target.map(str::to_owned),
        };
        for (records, verdict) in [
            (vec![], Well),
            (
                vec![record(
                    "api-",
                    Some("api-dev-0a1b2c.elb.eu-west-1.amazonaws.com."),
                )],
                Well,
            ),
            (
                vec![record(
                    "api-",
                    Some("dualstack.api-dev-0a1b2c.elb.eu-west-1.amazonaws.com."),
                )],
                Well,
            ),
            (
                vec![record(
                    "int-",
                    Some("int-dev-0a1b2c.elb.eu-west-1.amazonaws.com"),
                )],
                Well,
            ),
            (
                vec![record(
                    "api-",
                    Some("api-prod-0a1b2c.elb.eu-west-1.amazonaws.com"),
                )],
                Fail,
            ),
            // Of the environment dev-two.
            (
                vec![record(
                    "api-",
                    Some("api-dev-two-0a1b2c.elb.eu-west-1.amazonaws.com"),
                )],
                Fail,
            ),
            (
                vec![record(
                    "int-",
                    Some("api-dev-0a1b2c.elb.eu-west-1.amazonaws.com"),
                )],
                Fail,
            ),
            (vec![record("api-", None)], Fail),
        ] {
            let line = judge_names(&dev, &records);
            assert_eq!(line.verdict, verdict, "{records:?}: {line:?}");
            assert_eq!(line.fix.is_none(), verdict == Well, "{line:?}");
        }
    }
}
