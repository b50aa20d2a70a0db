//! `platformctl scale`.

use std::path::Path;

use clap::Args;

use super::EnvironmentArg;
use crate::aws::{Aws, ScalingGroup, scaling_group_name};
use crate::confirm::confirm;
use crate::context::Workspace;
use crate::env::{Environment, SECURE};
use crate::exit::{Outcome, mistake};
use crate::instances::set_desired;
use crate::output;

#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The group: compute.
    group: String,
    /// How many machines it shall have, within the environment's bounds.
    count: u32,
    /// Do not ask before machines are ended.
    #[arg(long)]
    yes: bool,
}

impl ScaleArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let environment = &workspace.environment;
        workspace.select(std::slice::from_ref(&self.group))?;
        within_bounds(environment, &self.group, self.count).map_err(mistake)?;
        let aws = Aws::of(&workspace).await?;
        aws.require_account(environment).await?;
        let groups = aws.scaling_groups(environment).await?;
        let group = groups.get(&self.group).ok_or_else(|| {
            mistake(format!(
                "there is no auto-scaling group {} in {}: make it first",
                scaling_group_name(environment, &self.group),
                aws.region()
            ))
        })?;
        within_made(group, self.count).map_err(mistake)?;
        let (from, to) = (group.desired, self.count);
        if from == to {
            output::line(format!(
                "{} wants {to} machines already: nothing to do",
                group.name
            ));
            return Ok(Outcome::Done);
        }
        if to < from {
            let question = format!(
                "{} goes from {from} machines to {to}: AWS chooses {} and ends them. Go on?",
                group.name,
                from - to
            );
            confirm(&question, self.yes)?;
        }
        // While it was asked, somebody else may have set another number.
        let now = aws.scaling_groups(environment).await?;
        let now = now.get(&self.group).map_or(from, |group| group.desired);
        if now != from {
            anyhow::bail!(
                "{} wants {now} machines by now, not {from}: look at it, and run the same again",
                group.name
            );
        }
        set_desired(&aws, &group.name, to).await?;
        output::line(format!(
            "{} wants {to} machines now, {from} before; `platformctl instances -e {}` shows them come and go",
            group.name, workspace.name
        ));
        Ok(Outcome::Done)
    }
}

/// Whether the environment lets the group have that many.
fn within_bounds(environment: &Environment, group: &str, count: u32) -> Result<(), String> {
    if group == SECURE {
        return Err(
            "the secure group is not scaled: each of its machines is a member of etcd, and their number is \
             secure_asg_min of the environment"
                .to_owned(),
        );
    }
    match environment.groups.get(group) {
        Some(size) if (size.min..=size.max).contains(&count) => Ok(()),
        Some(size) => Err(format!(
            "{count} is not within {} and {}, which are {group}_asg_min and {group}_asg_max of environment {}",
            size.min, size.max, environment.name
        )),
        None => Err(format!("there is no group {group}")),
    }
}

/// Whether the group that was made takes that many.
fn within_made(group: &ScalingGroup, count: u32) -> Result<(), String> {
    if (group.min..=group.max).contains(&count) {
        return Ok(());
    }
    Err(format!(
        "{} was made for {} to {} machines: the environment's file has other bounds now, which `platformctl apply` brings \
         there",
        group.name, group.min, group.max
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::environment;

    #[test]
    fn bounds() {
        let dev = environment("");
        let of = |group, count| within_bounds(&dev, group, count);
        assert!(
            [1, 3, 5]
                .map(|n| of("compute", n))
                .iter()
                .all(Result::is_ok)
        );
        for n in [0, 6] {
            assert!(of("compute", n).unwrap_err().contains("within 1 and 5"));
        }
        assert!(of(SECURE, 3).unwrap_err().contains("member of etcd"));
        let made = ScalingGroup {
            name: "dev-compute".to_owned(),
            min: 1,
            max: 3,
            desired: 2,
            template: None,
            members: Default::default(),
        };
        assert!(within_made(&made, 3).is_ok());
        assert!(within_made(&made, 4).unwrap_err().contains("1 to 3"));
    }
}
