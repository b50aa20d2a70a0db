//! Every key of an environment file, with its meaning and its default: the one table that reading, "did you mean" and
//! the documentation share.

/// The Kubernetes minor that this release of the platform runs; another is refused by name.
pub const SUPPORTED_KUBERNETES_MINOR: &str = "1.36";
/// Default of `kubernetes_version`: the newest patch that the platform was tested with.
pub const DEFAULT_KUBERNETES_VERSION: &str = "1.36.3";
/// Default of `etcd_version`: what Kubernetes 1.36 ships with, as the tag of its image.
pub const DEFAULT_ETCD_VERSION: &str = "3.6.8-0";
/// Default of `vpc_cidr`.
pub const DEFAULT_VPC_CIDR: &str = "10.100.0.0/16";
/// Default of `service_cidr`: beside the VPC, so that a service is never mistaken for a machine.
pub const DEFAULT_SERVICE_CIDR: &str = "10.101.0.0/16";
/// Default of `pod_cidr`: each node takes a /24 of it, so 256 nodes.
pub const DEFAULT_POD_CIDR: &str = "10.102.0.0/16";
/// Default of `cluster_domain`.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
/// Default of `poll_interval_seconds`.
pub const DEFAULT_POLL_INTERVAL_SECONDS: &str = "10";
/// Default of `metrics_listen`: loopback, since metrics name releases and errors.
pub const DEFAULT_METRICS_LISTEN: &str = "127.0.0.1:9102";
/// Default of `key_wrap`.
pub const DEFAULT_KEY_WRAP: &str = "kms";
/// Default of `local_key_file`, below the working directory.
pub const DEFAULT_LOCAL_KEY_FILE: &str = ".platform/local/wrap.key";
/// Default of `secure_asg_grace_period`: a machine has booted by then.
pub const DEFAULT_SECURE_GRACE_PERIOD: &str = "300";
/// Default of `secure_volume_gb` and `compute_volume_gb`.
pub const DEFAULT_VOLUME_GB: &str = "50";
/// `aws_region` without KMS: requests to the embedded store are signed too, and a signature names a region.
pub const LOCAL_AWS_REGION: &str = "us-east-1";
/// `dns_zone_name` without KMS: RFC 6761 keeps `.test` out of the public DNS.
pub const LOCAL_DNS_ZONE_NAME: &str = "platform.test";

/// What kind of value a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number, quoted or not.
    Number,
    /// A comma-separated string, or an HCL list of strings.
    List,
}

/// Whether a key must be there, and what stands in when it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Required in every environment.
    Always,
    /// Required where `key_wrap` is `"kms"`, that is on AWS; elsewhere `otherwise` stands in.
    OnAws {
        /// The value without AWS, if there is a sensible one.
        otherwise: Option<&'static str>,
    },
    /// Optional.
    Optional {
        /// The default, if there is one.
        default: Option<&'static str>,
    },
}

/// One key of an environment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The key as it is written.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether it is required.
    pub need: Need,
    /// What it means, in a sentence.
    pub doc: &'static str,
    /// A value that is valid in form.
    pub example: &'static str,
    /// Whether templates see it. A fact of the operator's own machine must not change what is rendered.
    pub in_templates: bool,
}

impl Key {
    /// The default that applies on AWS (`on_aws`) or with the local key file.
    pub fn default(&self, on_aws: bool) -> Option<&'static str> {
        match self.need {
            Need::Always => None,
            Need::OnAws { otherwise } => otherwise.filter(|_| !on_aws),
            Need::Optional { default } => default,
        }
    }

    /// Whether the key must be in the file.
    pub fn required(&self, on_aws: bool) -> bool {
        match self.need {
            Need::Always => true,
            Need::OnAws { .. } => on_aws,
            Need::Optional { .. } => false,
        }
    }
}

const fn key(
    name: &'static str,
    kind: Kind,
    need: Need,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        kind,
        need,
        doc,
        example,
        in_templates: true,
    }
}

const fn operators_own(mut key: Key) -> Key {
    key.in_templates = false;
    key
}

const fn on_aws() -> Need {
    Need::OnAws { otherwise: None }
}

const fn optional(default: &'static str) -> Need {
    Need::Optional {
        default: Some(default),
    }
}

const UNSET: Need = Need::Optional { default: None };

use Kind::{List, Number, Text};

/// Every key, in the order of the documentation: those of `env.tfvars.sample`, then the optional ones.
#[rustfmt::skip]
static KEYS: &[Key] = &[
    key("aws_account", Text, on_aws(), "123456789012", "The AWS account: its 12 digits or its alias."),
    key("aws_region", Text, Need::OnAws { otherwise: Some(LOCAL_AWS_REGION) }, "eu-west-1", "The AWS region."),
    operators_own(key("aws_profile", Text, UNSET, "dev", "The profile of the operator's AWS configuration; without it the SDK's own order applies.")),
    key("compute_asg_grace_period", Number, on_aws(), "10", "Seconds before the auto-scaling group judges a new compute machine."),
    key("compute_asg_max", Number, Need::Always, "5", "The most machines the compute group may have."),
    key("compute_asg_min", Number, Need::Always, "1", "The fewest machines the compute group may have."),
    key("compute_flavor", Text, on_aws(), "t3.medium", "The instance type of the compute group."),
    key("coreos_image", Text, on_aws(), "ami-0123456789abcdef0", "The Flatcar image: its id or its name."),
    key("dns_zone_name", Text, Need::OnAws { otherwise: Some(LOCAL_DNS_ZONE_NAME) }, "example.com", "The DNS zone of the platform's names."),
    key("environment", Text, Need::Always, "dev", "The environment's name, equal to the file's name without .tfvars."),
    key("etcd_flavor", Text, on_aws(), "t3.medium", "The instance type of the secure group, which runs etcd and the control plane."),
    key("kms_master_id", Text, on_aws(), "alias/platform-dev", "The KMS key that wraps each release's key: id, ARN or alias/NAME."),
    key("kubeapi_access_list", List, on_aws(), "192.0.2.0/24", "IPv4 addresses or CIDR blocks that may reach the API server."),
    key("platform", Text, Need::Always, "kube", "The platform's name, part of the names of what is made in the account."),
    key("secrets_bucket_name", Text, Need::Always, "example-dev-secrets", "The bucket of the signed, encrypted releases."),
    key("secure_asg_max", Number, Need::Always, "4", "The most machines the secure group may have; those above secure_asg_min are spares."),
    key("secure_asg_min", Number, Need::Always, "3", "The machines of the secure group that are etcd members: 1, 3, 5 or 7."),
    key("ssh_access_list", List, on_aws(), "192.0.2.10", "IPv4 addresses or CIDR blocks that may reach ssh on the machines."),
    key("terraform_bucket_name", Text, on_aws(), "example-dev-terraform", "The bucket of Terraform's state."),

    key("kubernetes_version", Text, optional(DEFAULT_KUBERNETES_VERSION), "1.36.3", "The Kubernetes version; its minor is the platform's."),
    key("etcd_version", Text, optional(DEFAULT_ETCD_VERSION), "3.6.8-0", "The etcd version, as the tag of its image."),
    key("vpc_cidr", Text, optional(DEFAULT_VPC_CIDR), "10.100.0.0/16", "The network of the machines: /16 to /24."),
    key("availability_zones", List, UNSET, "eu-west-1a", "The zones that machines are spread over; by default the first three of the region."),
    key("secure_asg_grace_period", Number, optional(DEFAULT_SECURE_GRACE_PERIOD), "300", "Seconds before the auto-scaling group judges a new secure machine."),
    key("secure_volume_gb", Number, optional(DEFAULT_VOLUME_GB), "50", "The disk of a secure machine in GiB: 10 to 16384."),
    key("compute_volume_gb", Number, optional(DEFAULT_VOLUME_GB), "50", "The disk of a compute machine in GiB: 10 to 16384."),
    key("service_cidr", Text, optional(DEFAULT_SERVICE_CIDR), "10.101.0.0/16", "The network of Kubernetes services: /12 to /28."),
    key("pod_cidr", Text, optional(DEFAULT_POD_CIDR), "10.102.0.0/16", "The network of pods: /8 to /24, a /24 for each node."),
    key("cluster_domain", Text, optional(DEFAULT_CLUSTER_DOMAIN), "cluster.local", "The DNS domain inside the cluster."),
    key("aws_endpoint_url", Text, UNSET, "http://127.0.0.1:9191", "Where S3 and KMS are, instead of AWS."),
    key("poll_interval_seconds", Number, optional(DEFAULT_POLL_INTERVAL_SECONDS), "10", "Seconds between two looks of a node at its group's metadata: 1 to 3600."),
    key("metrics_listen", Text, optional(DEFAULT_METRICS_LISTEN), "127.0.0.1:9102", "Where the agent serves metrics and /healthz."),
    key("recovery_recipients", List, UNSET, "age1…", "Offline age recipients that can open the keyring and backups when KMS is gone."),
    key("key_wrap", Text, optional(DEFAULT_KEY_WRAP), "kms", "What wraps a release's key: \"kms\", or \"local\" for a key file."),
    operators_own(key("local_key_file", Text, optional(DEFAULT_LOCAL_KEY_FILE), ".platform/local/wrap.key", "The key file of key_wrap = \"local\", below the working directory.")),
];

/// Every key of an environment file, in the order in which to document them.
pub fn documented_keys() -> &'static [Key] {
    KEYS
}

/// The key of that name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
