//! The DNS zone: hosted in this account, public, and only once.

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
    vec![judge(wanted, &zones)]
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
}
