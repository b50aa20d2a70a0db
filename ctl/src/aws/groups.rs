//! The auto-scaling groups of an environment, with what each of their machines was launched from.

use std::collections::{BTreeMap, BTreeSet};

use super::{Aws, AwsError, call};
use crate::env::Environment;

/// A launch template in one of its versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TemplateVersion {
    /// The template's id.
    pub template: String,
    /// The version's number, as text; `$Latest` and `$Default` only where they could not be resolved.
    pub version: String,
}

/// A machine, as its auto-scaling group sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `InService`, `Pending`, `Terminating` and so on.
    pub lifecycle: String,
    /// Whether the group calls it healthy.
    pub healthy: bool,
    /// What it was launched from.
    pub template: Option<TemplateVersion>,
}

/// An auto-scaling group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalingGroup {
    /// Its name: `ENV-GROUP`.
    pub name: String,
    /// The fewest machines.
    pub min: u32,
    /// The most machines.
    pub max: u32,
    /// How many it wants now.
    pub desired: u32,
    /// What it launches now.
    pub template: Option<TemplateVersion>,
    /// Its machines, by instance id.
    pub members: BTreeMap<String, Member>,
}

/// The name of a group's auto-scaling group, which its machines have in their tag `Name` too.
#[must_use]
pub fn scaling_group_name(environment: &Environment, group: &str) -> String {
    format!("{}-{group}", environment.name)
}

impl Aws {
    /// The auto-scaling groups of the environment, by the group's name (`secure`, `compute`); those that exist.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn scaling_groups(
        &self,
        environment: &Environment,
    ) -> Result<BTreeMap<String, ScalingGroup>, AwsError> {
        let names: BTreeMap<String, &String> = environment
            .groups
            .keys()
            .map(|group| (scaling_group_name(environment, group), group))
            .collect();
        let shown = names.keys().cloned().collect::<Vec<_>>().join(", ");
        let pages = self
            .autoscaling()
            .describe_auto_scaling_groups()
            .set_auto_scaling_group_names(Some(names.keys().cloned().collect()))
            .into_paginator()
            .items()
            .send();
        let found = call(
            "autoscaling:DescribeAutoScalingGroups",
            shown,
            pages.try_collect(),
        )
        .await?;
        let mut groups: BTreeMap<String, ScalingGroup> = found
            .iter()
            .filter_map(|found| {
                let group = names.get(found.auto_scaling_group_name()?)?;
                Some(((*group).clone(), scaling_group(found)))
            })
            .collect();
        self.resolve_versions(&mut groups).await?;
        Ok(groups)
    }

    /// Puts numbers in the place of `$Latest` and `$Default`.
    async fn resolve_versions(
        &self,
        groups: &mut BTreeMap<String, ScalingGroup>,
    ) -> Result<(), AwsError> {
        let by_name = |t: &&TemplateVersion| t.version.starts_with('$');
        let ids: BTreeSet<String> = groups
            .values()
            .filter_map(|g| g.template.as_ref())
            .filter(by_name)
            .map(|t| t.template.clone())
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let answer = call(
            "ec2:DescribeLaunchTemplates",
            ids.iter().cloned().collect::<Vec<_>>().join(", "),
            self.ec2()
                .describe_launch_templates()
                .set_launch_template_ids(Some(ids.into_iter().collect()))
                .send(),
        )
        .await?;
        for template in groups.values_mut().filter_map(|g| g.template.as_mut()) {
            let described = answer
                .launch_templates()
                .iter()
                .find(|t| t.launch_template_id() == Some(&template.template));
            let number = described.and_then(|t| match template.version.as_str() {
                "$Latest" => t.latest_version_number(),
                "$Default" => t.default_version_number(),
                _ => None,
            });
            if let Some(number) = number {
                template.version = number.to_string();
            }
        }
        Ok(())
    }
}

type Specification = aws_sdk_autoscaling::types::LaunchTemplateSpecification;

fn template_version(specification: &Specification) -> Option<TemplateVersion> {
    Some(TemplateVersion {
        template: specification.launch_template_id()?.to_owned(),
        // A group without a version launches the default one.
        version: specification.version().unwrap_or("$Default").to_owned(),
    })
}

fn scaling_group(found: &aws_sdk_autoscaling::types::AutoScalingGroup) -> ScalingGroup {
    let size = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let mixed = found
        .mixed_instances_policy()
        .and_then(|p| p.launch_template())
        .and_then(|t| t.launch_template_specification());
    let members = found.instances().iter().filter_map(|instance| {
        let member = Member {
            lifecycle: instance
                .lifecycle_state()
                .map_or_else(String::new, |s| s.as_str().to_owned()),
            healthy: instance.health_status() == Some("Healthy"),
            template: instance.launch_template().and_then(template_version),
        };
        Some((instance.instance_id()?.to_owned(), member))
    });
    ScalingGroup {
        name: found
            .auto_scaling_group_name()
            .unwrap_or_default()
            .to_owned(),
        min: size(found.min_size()),
        max: size(found.max_size()),
        desired: size(found.desired_capacity()),
        template: found.launch_template().or(mixed).and_then(template_version),
        members: members.collect(),
    }
}

// === impl ScalingGroup ===

impl ScalingGroup {
    /// Whether the machine was launched from something else than what the group launches now; none where it cannot be
    /// told.
    #[must_use]
    pub fn is_out_of_date(&self, instance: &str) -> Option<bool> {
        let has = self.members.get(instance)?.template.as_ref()?;
        let wants = self.template.as_ref()?;
        let unresolved = [has, wants].iter().any(|t| t.version.starts_with('$'));
        (!unresolved).then(|| has != wants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_an_older_template_is_told_from_one_that_cannot_be_told() {
        let template = |version: &str| {
            Some(TemplateVersion {
                template: "lt-1".to_owned(),
                version: version.to_owned(),
            })
        };
        let member = |version| Member {
            lifecycle: "InService".to_owned(),
            healthy: true,
            template: template(version),
        };
        let mut group = ScalingGroup {
            name: "dev-compute".to_owned(),
            min: 1,
            max: 3,
            desired: 2,
            template: template("3"),
            members: BTreeMap::from([
                ("i-new".to_owned(), member("3")),
                ("i-old".to_owned(), member("2")),
                ("i-odd".to_owned(), member("$Latest")),
            ]),
        };
        assert_eq!(group.is_out_of_date("i-new"), Some(false));
        assert_eq!(group.is_out_of_date("i-old"), Some(true));
        assert_eq!(group.is_out_of_date("i-odd"), None);
        assert_eq!(group.is_out_of_date("i-gone"), None);
        group.template = template("$Latest");
        assert_eq!(group.is_out_of_date("i-new"), None);
    }
}
