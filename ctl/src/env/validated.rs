//! Stage three: an [`Environment`], whose every value is valid and agrees with the others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::cidr::Cidr;
use super::values::{
    Account, BucketName, DnsName, EtcdVersion, InstanceType, KmsKeyId, KubernetesVersion,
    MachineImage, Name, Profile, RecoveryRecipient, Region, Zone,
};

/// The group of etcd and the control plane.
pub const SECURE: &str = "secure";
/// The group of the workers.
pub const COMPUTE: &str = "compute";

/// One environment. It comes from [`load`](super::load) only, so what it holds is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Environment {
    /// Its name, equal to the stem of its file.
    pub name: Name,
    /// The platform's name.
    pub platform: Name,
    /// The AWS region that requests are signed for.
    pub region: Region,
    /// The AWS account; none without AWS.
    pub account: Option<Account>,
    /// The operator's AWS profile; none leaves the choice to the SDK.
    pub profile: Option<Profile>,
    /// The bucket of the releases.
    pub secrets_bucket: BucketName,
    /// The bucket of Terraform's state; none without AWS.
    pub terraform_bucket: Option<BucketName>,
    /// What wraps a release's key.
    pub key_wrap: KeyWrap,
    /// Where S3 and KMS are, if not at AWS's own addresses.
    pub endpoint_url: Option<Url>,
    /// Each group by its name.
    pub groups: BTreeMap<String, GroupSize>,
    /// The image of every machine; none without AWS.
    pub image: Option<MachineImage>,
    /// The zones that machines are spread over, each once; none for the first three of the region.
    pub zones: Vec<Zone>,
    /// Who may reach the machines from outside.
    pub access: AccessLists,
    /// The zone of the platform's names.
    pub dns_zone: DnsName,
    /// What runs.
    pub versions: Versions,
    /// The three networks; none overlaps another.
    pub networks: Networks,
    /// The DNS domain inside the cluster.
    pub cluster_domain: DnsName,
    /// The time between two looks of a node at its group's metadata.
    pub poll_interval: Duration,
    /// Where the agent serves metrics.
    pub metrics_listen: SocketAddr,
    /// Offline age recipients that open the keyring and backups too.
    pub recovery_recipients: Vec<RecoveryRecipient>,
}

/// What wraps the age identity of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyWrap {
    /// AWS KMS.
    Kms {
        /// The key.
        key_id: KmsKeyId,
    },
    /// A key file of the operator's machine.
    LocalFile {
        /// Its path; a relative one starts at the working directory.
        path: PathBuf,
    },
}

/// How many machines a group has, and of what kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSize {
    /// The fewest machines. In the secure group the number of etcd members: 1, 3, 5 or 7.
    pub min: u32,
    /// The most machines; at least `min`.
    pub max: u32,
    /// The instance type; none without AWS.
    pub flavor: Option<InstanceType>,
    /// How long the auto-scaling group waits before it judges a new machine, where the environment says so.
    pub grace_period: Option<Duration>,
    /// The disk of a machine, in GiB.
    pub volume_gb: u32,
}

/// Networks that may reach the platform from outside; empty lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessLists {
    /// To the API server.
    pub kubeapi: Vec<Cidr>,
    /// To ssh.
    pub ssh: Vec<Cidr>,
}

/// The versions that run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// Kubernetes.
    pub kubernetes: KubernetesVersion,
    /// The etcd image's tag.
    pub etcd: EtcdVersion,
}

/// The three networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    /// Of the machines.
    pub vpc: Cidr,
    /// Of Kubernetes services.
    pub service: Cidr,
    /// Of pods.
    pub pod: Cidr,
}

impl Environment {
    /// The KMS key, where KMS wraps keys.
    pub fn kms_key_id(&self) -> Option<&KmsKeyId> {
        match &self.key_wrap {
            KeyWrap::Kms { key_id } => Some(key_id),
            KeyWrap::LocalFile { .. } => None,
        }
    }

    /// Whether the environment is on AWS, as opposed to the embedded default.
    pub fn on_aws(&self) -> bool {
        self.kms_key_id().is_some()
    }
}
