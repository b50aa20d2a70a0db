//! The rules that hold between the keys of an environment.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use super::{Checks, Placed};
use crate::env::cidr::Cidr;
use crate::env::error::{Problem, closest};
use crate::env::validated::{GroupSize, KeyWrap, Networks, SECURE};
use crate::env::values::{Account, BucketName, KmsArn, KmsKeyId, Name, Refused, Region, Zone};

/// Kubernetes' own limit of nodes in a cluster.
const MOST_MACHINES: u32 = 5000;
/// Sizes for which etcd has a quorum and no member in vain; above seven its writes only become slower.
const ETCD_SIZES: [u32; 4] = [1, 3, 5, 7];
/// What a gp3 volume may have, from what Flatcar and a few images need.
const VOLUME_GB: RangeInclusive<u32> = 10..=16_384;
/// The network that kube-controller-manager gives to each node, by its own default.
const NODE_POD_PREFIX: u8 = 24;

impl Checks<'_> {
    pub(super) fn name(&mut self, stem: &str) -> Option<Name> {
        let name: Placed<Name> = self.parsed("environment")?;
        if name.value.as_str() != stem {
            self.problems.push(
                Problem::new(format!(
                    "`environment` is `{}`, but the file's name says `{stem}`",
                    name.value
                ))
                .at(name.span.as_ref(), "must equal the file's name")
                .help(format!(
                    "write \"{stem}\" here, or rename the file to {}.tfvars",
                    name.value
                )),
            );
        }
        Some(name.value)
    }

    pub(super) fn buckets(&mut self) -> (Option<BucketName>, Option<BucketName>) {
        let secrets: Option<Placed<BucketName>> = self.parsed("secrets_bucket_name");
        let terraform: Option<Placed<BucketName>> = self.parsed("terraform_bucket_name");
        if let (Some(one), Some(two)) = (&secrets, &terraform)
            && one.value == two.value
        {
            self.problems.push(
                Problem::new("`terraform_bucket_name` is the secrets bucket")
                    .at(two.span.as_ref(), "the same bucket")
                    .at(one.span.as_ref(), "named here already")
                    .help("Terraform's state needs a bucket of its own: nodes read the secrets bucket"),
            );
        }
        (secrets.map(|b| b.value), terraform.map(|b| b.value))
    }

    pub(super) fn key_wrap(
        &mut self,
        region: Option<&Placed<Region>>,
        account: Option<&Placed<Account>>,
    ) -> Option<KeyWrap> {
        let wrap = self.parsed_by("key_wrap", |text| match text {
            "kms" | "local" => Ok(text == "kms"),
            _ => Err(Refused {
                reason: "is not a way to wrap keys: \"kms\" or \"local\"".to_owned(),
                help: closest(text, ["kms", "local"])
                    .map(|wrap| format!("did you mean \"{wrap}\"?")),
            }),
        });
        let key: Option<Placed<KmsKeyId>> = self.parsed("kms_master_id");
        let file = self.parsed_by("local_key_file", |text| match text {
            "" => Err(Refused::because("is empty")),
            _ => Ok(PathBuf::from(text)),
        });
        if let Some(key) = &key {
            self.kms_arn_agrees(key, region, account);
        }
        // Two keys that wrap, or one that would silently not be used: which was meant decides who can read secrets.
        let (with, idle) = if wrap?.value {
            (
                "kms",
                file.as_ref().map(|f| ("local_key_file", f.span.clone())),
            )
        } else {
            (
                "local",
                key.as_ref().map(|k| ("kms_master_id", k.span.clone())),
            )
        };
        if let Some((name, Some(span))) = idle {
            let other = if with == "kms" { "local" } else { "kms" };
            self.problems.push(
                Problem::new(format!(
                    "`{name}` has no meaning with key_wrap = \"{with}\""
                ))
                .at(Some(&span), "would not be used")
                .help(format!("take it out, or set key_wrap = \"{other}\"")),
            );
        }
        if with == "kms" {
            Some(KeyWrap::Kms { key_id: key?.value })
        } else {
            Some(KeyWrap::LocalFile { path: file?.value })
        }
    }

    pub(super) fn kms_arn_agrees(
        &mut self,
        key: &Placed<KmsKeyId>,
        region: Option<&Placed<Region>>,
        account: Option<&Placed<Account>>,
    ) {
        let Some(arn) = KmsArn::parse(key.value.as_str()) else {
            return;
        };
        let disagree = |what: &str, theirs: &str, ours: &str, span: &Option<Range<usize>>| {
            Problem::new(format!(
                "`kms_master_id` is a key of {what} {theirs}, but the environment is in {ours}"
            ))
            .at(key.span.as_ref(), "this key")
            .at(span.as_ref(), "does not fit this")
        };
        if let Some(region) = region.filter(|region| region.value.as_str() != arn.region) {
            self.problems.push(disagree(
                "region",
                arn.region,
                region.value.as_str(),
                &region.span,
            ));
        }
        let by_id =
            account.filter(|account| account.value.as_str().bytes().all(|b| b.is_ascii_digit()));
        if let Some(account) = by_id.filter(|account| account.value.as_str() != arn.account) {
            self.problems.push(disagree(
                "account",
                arn.account,
                account.value.as_str(),
                &account.span,
            ));
        }
    }

    pub(super) fn group(&mut self, group: &str, flavor_key: &str) -> Option<GroupSize> {
        let (min_key, max_key) = (format!("{group}_asg_min"), format!("{group}_asg_max"));
        let least = u32::from(group == SECURE);
        let min = self.number(&min_key, least..=MOST_MACHINES);
        let max = self.number(&max_key, least..=MOST_MACHINES);
        let flavor = self.parsed(flavor_key);
        let grace_period = self.number(&format!("{group}_asg_grace_period"), 0..=86_400);
        let volume_gb = self.number(&format!("{group}_volume_gb"), VOLUME_GB);
        if let Some(min) = min
            .as_ref()
            .filter(|min| group == SECURE && !ETCD_SIZES.contains(&min.value))
        {
            self.problems.push(
                Problem::new(format!(
                    "`{min_key}` is {}, but etcd takes 1, 3, 5 or 7 members",
                    min.value
                ))
                .at(min.span.as_ref(), "etcd members")
                .help("an even member adds no failure that etcd survives"),
            );
        }
        if let (Some(min), Some(max)) = (&min, &max)
            && min.value > max.value
        {
            self.problems.push(
                Problem::new(format!(
                    "`{min_key}` ({}) is more than `{max_key}` ({})",
                    min.value, max.value
                ))
                .at(min.span.as_ref(), "the fewest")
                .at(max.span.as_ref(), "the most"),
            );
        }
        Some(GroupSize {
            min: min?.value,
            max: max?.value,
            flavor: flavor.map(|f| f.value),
            grace_period: grace_period.map(|g| Duration::from_secs(g.value.into())),
            volume_gb: volume_gb?.value,
        })
    }

    /// The zones, each once and of the environment's region.
    pub(super) fn zones(&mut self, region: Option<&Placed<Region>>) -> Vec<Zone> {
        let mut zones: Vec<Zone> = Vec::new();
        for zone in self.list::<Zone>("availability_zones") {
            if zones.contains(&zone.value) {
                continue;
            }
            let elsewhere = region.filter(|r| {
                zone.value
                    .as_str()
                    .strip_prefix(r.value.as_str())
                    .is_none_or(|l| l.len() != 1)
            });
            if let Some(region) = elsewhere {
                self.problems.push(
                    Problem::new(format!(
                        "`availability_zones`: {} is not a zone of {}",
                        zone.value, region.value
                    ))
                    .at(zone.span.as_ref(), "this zone")
                    .at(region.span.as_ref(), "the environment's region"),
                );
            }
            zones.push(zone.value);
        }
        zones
    }

    pub(super) fn three_networks(
        &mut self,
        secure: Option<&GroupSize>,
        compute: Option<&GroupSize>,
    ) -> Option<Networks> {
        // Sixteen subnets, of which AWS allows none below a /28.
        let vpc = self.network("vpc_cidr", 16..=24, "terraform/ takes");
        // kube-apiserver refuses more than 20 bits of services; the cluster's DNS has the tenth address.
        let service = self.network("service_cidr", 12..=28, "kube-apiserver allows");
        let pod = self.network(
            "pod_cidr",
            8..=NODE_POD_PREFIX,
            "kube-controller-manager allows",
        );
        let all = [
            ("vpc_cidr", &vpc),
            ("service_cidr", &service),
            ("pod_cidr", &pod),
        ];
        for (at, (name, one)) in all.iter().enumerate() {
            for (other_name, other) in all.iter().skip(at + 1) {
                let (Some(one), Some(other)) = (one, other) else {
                    continue;
                };
                if one.value.overlaps(&other.value) {
                    self.problems.push(
                        Problem::new(format!(
                            "`{other_name}` ({}) overlaps `{name}` ({})",
                            other.value, one.value
                        ))
                        .at(other.span.as_ref(), "this network")
                        .at(one.span.as_ref(), "and this one share addresses")
                        .help(format!(
                            "the three networks must be apart; {name} is {} unless it is set",
                            default_of(name)
                        )),
                    );
                }
            }
        }
        if let (Some(pod), Some(secure), Some(compute)) = (&pod, secure, compute) {
            let nodes = 1_u32
                .checked_shl(u32::from(
                    NODE_POD_PREFIX.saturating_sub(pod.value.prefix()),
                ))
                .unwrap_or(u32::MAX);
            let most = secure.max.saturating_add(compute.max);
            if most > nodes {
                self.problems.push(
                    Problem::new(format!("`pod_cidr` ({}) has networks for {nodes} nodes, but the groups may have {most}", pod.value))
                        .at(pod.span.as_ref(), "too small")
                        .help("each node takes a /24: widen pod_cidr, or lower the groups' maximum"),
                );
            }
        }
        Some(Networks {
            vpc: vpc?.value,
            service: service?.value,
            pod: pod?.value,
        })
    }

    pub(super) fn network(
        &mut self,
        key: &str,
        prefixes: RangeInclusive<u8>,
        who: &str,
    ) -> Option<Placed<Cidr>> {
        self.parsed_by(key, |text| {
            let cidr: Cidr = text.parse().map_err(Refused::from)?;
            let first = cidr.network();
            if !prefixes.contains(&cidr.prefix()) {
                let (most, least) = (prefixes.start(), prefixes.end());
                return Err(Refused::because(format!(
                    "is a /{}; {who} /{most} to /{least}",
                    cidr.prefix()
                )));
            }
            if first.is_loopback()
                || first.is_link_local()
                || first.is_multicast()
                || first.is_unspecified()
            {
                return Err(Refused::because(
                    "is reserved and can't be a network of machines",
                ));
            }
            Ok(cidr)
        })
    }
}

fn default_of(key: &str) -> &'static str {
    crate::env::keys::find(key)
        .and_then(|key| key.default(true))
        .unwrap_or("not set")
}
