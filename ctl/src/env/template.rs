//! What templates see of an environment.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cidr::Cidr;
use super::validated::{COMPUTE, Environment, GroupSize, KeyWrap, SECURE};

impl Environment {
    /// The facts that templates may use: the names are the keys of the environment file, numbers are numbers and lists
    /// are lists of strings whichever way they were written, and a key that is not set is null.
    ///
    /// None is secret. Facts of the operator's own machine (`aws_profile`, `local_key_file`) are left out: two
    /// operators who render one environment must get the same bytes.
    pub fn template_values(&self) -> BTreeMap<String, Value> {
        let group = |name: &str, fact: fn(&GroupSize) -> Value| {
            self.groups.get(name).map_or(Value::Null, fact)
        };
        let min = |size: &GroupSize| json!(size.min);
        let max = |size: &GroupSize| json!(size.max);
        let flavor = |size: &GroupSize| json!(size.flavor.as_ref().map(ToString::to_string));
        let grace = |size: &GroupSize| json!(size.grace_period.map(|period| period.as_secs()));
        let volume = |size: &GroupSize| json!(size.volume_gb);
        let zones: Vec<_> = self.zones.iter().map(ToString::to_string).collect();
        let text = |value: Option<String>| json!(value);
        let cidrs = |list: &[Cidr]| json!(list.iter().map(ToString::to_string).collect::<Vec<_>>());
        let wrap = match self.key_wrap {
            KeyWrap::Kms { .. } => "kms",
            KeyWrap::LocalFile { .. } => "local",
        };
        let recipients: Vec<_> = self
            .recovery_recipients
            .iter()
            .map(ToString::to_string)
            .collect();
        [
            (
                "aws_account",
                text(self.account.as_ref().map(ToString::to_string)),
            ),
            ("aws_region", json!(self.region.as_str())),
            ("compute_asg_grace_period", group(COMPUTE, grace)),
            ("compute_asg_max", group(COMPUTE, max)),
            ("compute_asg_min", group(COMPUTE, min)),
            ("compute_flavor", group(COMPUTE, flavor)),
            (
                "coreos_image",
                text(self.image.as_ref().map(ToString::to_string)),
            ),
            ("dns_zone_name", json!(self.dns_zone.as_str())),
            ("environment", json!(self.name.as_str())),
            ("etcd_flavor", group(SECURE, flavor)),
            (
                "kms_master_id",
                text(self.kms_key_id().map(ToString::to_string)),
            ),
            ("kubeapi_access_list", cidrs(&self.access.kubeapi)),
            ("platform", json!(self.platform.as_str())),
            ("secrets_bucket_name", json!(self.secrets_bucket.as_str())),
            ("secure_asg_max", group(SECURE, max)),
            ("secure_asg_min", group(SECURE, min)),
            ("ssh_access_list", cidrs(&self.access.ssh)),
            (
                "terraform_bucket_name",
                text(self.terraform_bucket.as_ref().map(ToString::to_string)),
            ),
            (
                "kubernetes_version",
                json!(self.versions.kubernetes.as_str()),
            ),
            ("etcd_version", json!(self.versions.etcd.as_str())),
            ("vpc_cidr", json!(self.networks.vpc.to_string())),
            ("availability_zones", json!(zones)),
            ("secure_asg_grace_period", group(SECURE, grace)),
            ("secure_volume_gb", group(SECURE, volume)),
            ("compute_volume_gb", group(COMPUTE, volume)),
            ("service_cidr", json!(self.networks.service.to_string())),
            ("pod_cidr", json!(self.networks.pod.to_string())),
            ("cluster_domain", json!(self.cluster_domain.as_str())),
            (
                "aws_endpoint_url",
                text(self.endpoint_url.as_ref().map(ToString::to_string)),
            ),
            ("poll_interval_seconds", json!(self.poll_interval.as_secs())),
            ("metrics_listen", json!(self.metrics_listen.to_string())),
            ("recovery_recipients", json!(recipients)),
            ("key_wrap", json!(wrap)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}
