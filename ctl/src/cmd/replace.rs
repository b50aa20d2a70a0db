//! `platformctl replace`.

use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use shared::names::GroupName;

use super::EnvironmentArg;
use super::etcd_guard::{WaiverArgs, before_replace};
use crate::aws::Aws;
use crate::confirm::{confirm, confirm_name};
use crate::context::{Context, Workspace};
use crate::env::SECURE;
use crate::etcd::Gathered;
use crate::exit::{Outcome, mistake};
use crate::instances::{
    Fleet, Instance, objections, read_fleet, read_reports, select, terminate_for_replacement,
};
use crate::keyring;
use crate::output;
use crate::publish::read_published;

#[derive(Debug, Args)]
#[command(
    after_help = "A secure machine is a member of etcd, whose data goes with it: it is replaced only while every other secure \
                  machine is well and on the published release, the other members of etcd reach each other and are a quorum, \
                  nobody is in transition, and a backup of etcd is at most 75 minutes old."
)]
pub(super) struct ReplaceArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The machine: its name, id, address or DNS name.
    node: String,
    /// Do not ask before a compute machine is ended.
    #[arg(long)]
    yes: bool,
    /// The environment's name, instead of typing it: for a secure machine.
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    #[command(flatten)]
    waiver: WaiverArgs,
}

impl ReplaceArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let aws = Aws::of(&workspace).await?;
        aws.require_account(&workspace.environment).await?;
        let fleet = read_fleet(&aws, &workspace.environment).await?;
        let instance = select(&fleet.instances, &self.node).map_err(|e| mistake(e.to_string()))?;
        Box::pin(self.check(&workspace, &fleet, instance)).await?;
        let what = format!(
            "{} is ended, and its group launches another.",
            instance.label()
        );
        if instance.group == SECURE {
            let warning = format!(
                "{what}\nIt is a member of etcd, and its data goes with it. Its successor takes its place among the members by itself; \
                 until then etcd can lose no other."
            );
            confirm_name(&warning, workspace.name.as_str(), self.confirm.as_deref())?;
            // While it was asked, another operator may have replaced another.
            let fleet = read_fleet(&aws, &workspace.environment).await?;
            let instance =
                select(&fleet.instances, &instance.id).map_err(|e| mistake(e.to_string()))?;
            Box::pin(self.check(&workspace, &fleet, instance)).await?;
        } else {
            confirm(&format!("{what} Go on?"), self.yes)?;
        }
        terminate_for_replacement(&aws, instance).await?;
        output::line(format!(
            "{} ends; `platformctl instances -e {}` shows its successor come",
            instance.label(),
            workspace.name
        ));
        Ok(Outcome::Done)
    }

    /// Refuses while anything stands against it.
    async fn check(
        &self,
        workspace: &Workspace,
        fleet: &Fleet,
        instance: &Instance,
    ) -> anyhow::Result<()> {
        let against = against(workspace, fleet, instance).await?;
        if instance.group == SECURE {
            let context = Context::of(workspace.clone()).await?;
            if let Some(gathered) = Box::pin(Gathered::read(&context)).await? {
                let instances = &fleet.instances;
                return before_replace(
                    workspace,
                    &gathered,
                    instances,
                    instance,
                    against,
                    &self.waiver,
                );
            }
        }
        if against.is_empty() {
            return Ok(());
        }
        let lines: String = against.iter().map(|a| format!("\n    {a}")).collect();
        anyhow::bail!("{} is not replaced now:{lines}", instance.label());
    }
}

/// What stands against it. Only a secure machine needs what the nodes report.
async fn against(
    workspace: &Workspace,
    fleet: &Fleet,
    instance: &Instance,
) -> anyhow::Result<Vec<String>> {
    let environment = &workspace.environment;
    let now = Timestamp::now();
    if instance.group != SECURE {
        return Ok(objections(
            environment,
            fleet,
            instance,
            &Default::default(),
            None,
            now,
        ));
    }
    let context = Context::of(workspace.clone()).await?;
    let keyring = keyring::read_required(&context).await?;
    let secure = GroupName::new(SECURE)?;
    let published = read_published(&context, &keyring, &secure).await?;
    let release = published
        .current()
        .map(shared::trust::ReleaseTarget::release);
    let reports = read_reports(&context).await?;
    Ok(objections(
        environment,
        fleet,
        instance,
        &reports,
        release,
        now,
    ))
}
