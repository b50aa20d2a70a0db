//! What Terraform is told of an environment. Nothing in it is secret: it stays in the state, for all who read that.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Serialize;
use shared::names::GroupName;

use crate::context::Workspace;
use crate::env::{Cidr, Environment, GroupSize};
use crate::exit::mistake;

/// What stands for the image and the public key where everything is about to be destroyed, and nothing is made with it.
const NO_IMAGE: &str = "ami-00000000000000000";
const NO_KEY: &str = "ssh-none";

/// The variables of `terraform/variables.tf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variables {
    platform: String,
    environment: String,
    aws_account: String,
    aws_region: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    aws_endpoint_url: Option<String>,
    availability_zones: Vec<String>,
    vpc_cidr: String,
    kubeapi_access_list: Vec<String>,
    ssh_access_list: Vec<String>,
    secrets_bucket_name: String,
    kms_master_id: String,
    dns_zone_name: String,
    coreos_image: String,
    ssh_public_key: String,
    destroying: bool,
    groups: BTreeMap<String, GroupVariables>,
}

/// Those of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupVariables {
    flavor: String,
    min: u32,
    max: u32,
    grace_period: u64,
    volume_gb: u32,
    user_data: String,
}

/// The variables of a workspace, with the public half of the ssh key and each group's user data.
///
/// # Errors
/// A [`crate::exit::Mistake`] where the environment is not on AWS; a group without user data.
pub fn variables(
    workspace: &Workspace,
    ssh_public: &str,
    user_data: &BTreeMap<GroupName, String>,
) -> anyhow::Result<Variables> {
    let text = |group: &GroupName| {
        user_data
            .get(group)
            .cloned()
            .with_context(|| format!("group {group} has no user data"))
    };
    assemble(workspace, ssh_public.to_owned(), text)
}

/// The variables for a destroy: what a machine boots with does not matter, and the keyring, the image, the KMS key and the DNS
/// zone may be gone.
///
/// # Errors
/// A [`crate::exit::Mistake`] where the environment is not on AWS.
pub fn for_destroy(workspace: &Workspace) -> anyhow::Result<Variables> {
    let variables = assemble(workspace, NO_KEY.to_owned(), |_| Ok(String::new()))?;
    // Nothing is looked up then.
    Ok(Variables {
        coreos_image: NO_IMAGE.to_owned(),
        destroying: true,
        ..variables
    })
}

fn assemble(
    workspace: &Workspace,
    ssh_public_key: String,
    user_data: impl Fn(&GroupName) -> anyhow::Result<String>,
) -> anyhow::Result<Variables> {
    let environment = &workspace.environment;
    let not_on_aws = || {
        mistake(format!(
            "environment {} is not on AWS: it has no infrastructure of its own (`platformctl dev up` runs it on this machine)",
            environment.name
        ))
    };
    let (Some(account), Some(image), Some(key)) = (
        &environment.account,
        &environment.image,
        environment.kms_key_id(),
    ) else {
        return Err(not_on_aws());
    };
    let mut groups = BTreeMap::new();
    for group in &workspace.groups {
        let size = environment
            .groups
            .get(group.as_str())
            .with_context(|| format!("group {group} has no size"))?;
        let made = of_group(size, user_data(group)?).ok_or_else(not_on_aws)?;
        groups.insert(group.to_string(), made);
    }
    Ok(Variables {
        platform: environment.platform.to_string(),
        environment: environment.name.to_string(),
        aws_account: account.to_string(),
        aws_region: environment.region.to_string(),
        aws_endpoint_url: endpoint(environment),
        availability_zones: environment.zones.iter().map(ToString::to_string).collect(),
        vpc_cidr: environment.networks.vpc.to_string(),
        kubeapi_access_list: texts(&environment.access.kubeapi),
        ssh_access_list: texts(&environment.access.ssh),
        secrets_bucket_name: environment.secrets_bucket.to_string(),
        kms_master_id: key.to_string(),
        dns_zone_name: environment.dns_zone.to_string(),
        coreos_image: image.to_string(),
        ssh_public_key,
        destroying: false,
        groups,
    })
}

fn of_group(size: &GroupSize, user_data: String) -> Option<GroupVariables> {
    Some(GroupVariables {
        flavor: size.flavor.as_ref()?.to_string(),
        min: size.min,
        max: size.max,
        grace_period: size.grace_period?.as_secs(),
        volume_gb: size.volume_gb,
        user_data,
    })
}

/// Where AWS's services are instead, without a final slash: the engine appends paths.
pub(super) fn endpoint(environment: &Environment) -> Option<String> {
    let url = environment.endpoint_url.as_ref()?;
    Some(url.as_str().trim_end_matches('/').to_owned())
}

fn texts(networks: &[Cidr]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}
