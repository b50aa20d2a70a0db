//! `platformctl etcd restore` and `etcd reform`: another generation.

use std::path::Path;

use clap::Args;
use shared::backup::{BackupName, RestoreOrder};

use super::EnvironmentArg;
use super::etcd::{ago, look, secure};
use crate::aws::Aws;
use crate::confirm::confirm_name;
use crate::context::{Context, Workspace};
use crate::env::SECURE;
use crate::etcd::{self, Known};
use crate::exit::{Outcome, mistake};
use crate::instances::{instance_of, read_instances};
use crate::keyring::Keyring;
use crate::output;
use crate::publish::{Choices, Publication, STEPS, plan};
use crate::rollouts;
use crate::status::{NodeReport, printable, read_group};

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Which backup, by its name in `etcd list`; by default the newest that can be restored.
    #[arg(long, value_name = "NAME", conflicts_with = "finish")]
    backup: Option<BackupName>,
    /// The environment's name, for scripts: without it, it is asked for.
    #[arg(long, value_name = "ENVIRONMENT")]
    confirm: Option<String>,
    /// The restore is done: take the key to the backups out of the releases to come. Refused while a member is not well.
    #[arg(long)]
    finish: bool,
    /// A machine that is gone for good, and is not waited for; may be repeated.
    #[arg(long, value_name = "NODE")]
    without: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ReformArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// A machine that is gone for good, though it may have seen a leader after its last word; may be repeated.
    #[arg(long, value_name = "NODE")]
    without: Vec<String>,
    /// The environment's name, for scripts: without it, it is asked for.
    #[arg(long, value_name = "ENVIRONMENT")]
    confirm: Option<String>,
}

/// One under another, without what a terminal would obey.
fn shown(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    lines.join("\n  ")
}

/// Publishes the secure group with what the keyring says now.
async fn tell_nodes(context: &Context) -> anyhow::Result<()> {
    let plans = Box::pin(plan(context, &[secure()?], Choices::default())).await?;
    for planned in plans.groups {
        let bar = output::progress(STEPS, planned.group().as_str());
        let done = planned.publish(context, &plans.keyring, &bar).await;
        bar.finish_and_clear();
        match done? {
            Publication::Released { release, .. } => {
                output::line(format!("release {release} tells the nodes"))
            }
            _ => output::line("the published release tells the nodes so already"),
        }
    }
    Ok(())
}

impl RestoreArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let (context, keyring, backups) = look(&self.environment, directory).await?;
        if self.finish {
            if keyring.content.etcd_restoring {
                let group = secure()?;
                let nodes = read_group(&context, keyring.group(&group)?, &group).await?;
                let size = context.workspace.environment.groups.get(SECURE);
                let voters = size.map_or(1, |s| s.min.max(1)) as usize;
                let now = context.store_now();
                let open = etcd::unfinished(&keyring, &nodes, voters, &self.without, now);
                if !open.is_empty() {
                    return Err(mistake(format!(
                        "the restore is not finished, and a member that has not made its data needs the key for it:\n  {}\nWhere a \
                         machine is gone for good, add --without NODE",
                        shown(&open)
                    )));
                }
            }
            return match etcd::finish(&context).await? {
                true => {
                    tell_nodes(&context).await?;
                    Ok(Outcome::Done)
                }
                false => {
                    output::note("there is no restore to finish");
                    Ok(Outcome::Done)
                }
            };
        }
        let (name, now) = (context.workspace.name.to_string(), context.store_now());
        // One that was ordered and not told yet, for whatever reason, is told, not ordered again.
        let pending = keyring.content.etcd_restore.as_ref();
        let pending = pending.filter(|_| keyring.content.etcd_restoring);
        let again = |o: &&RestoreOrder| self.backup.as_ref().is_none_or(|b| *b == o.backup.name);
        if let Some(order) = pending.filter(again) {
            output::line(format!(
                "the restore of {} into generation {} was ordered at {:.0} by {}: going on with it",
                order.backup.name, order.generation, order.at, order.by
            ));
            tell_nodes(&context).await?;
            return Ok(Outcome::Done);
        }
        let backup = etcd::choose(&backups, self.backup.as_ref())?;
        let bar = output::progress(backup.parts.len() as u64, "reading the backup");
        let verified = etcd::verify_parts(&context, backup, |_| bar.inc(1)).await;
        bar.finish_and_clear();
        verified?;
        output::line(format!(
            "backup {} is whole: {} bytes, etcd {}, revision {}, by {}",
            backup.name,
            backup.plain_bytes,
            printable(&backup.etcd_version),
            backup.name.revision(),
            backup.node
        ));
        let lost = etcd::lost_keys(keyring.content.pki.as_ref(), backup);
        if !lost.is_empty() {
            return Err(mistake(format!(
                "what is in backup {} was encrypted with {}, which the keyring has no more: bring an older version of the keyring \
                 back first",
                backup.name,
                lost.join(" and ")
            )));
        }
        let group = secure()?;
        let nodes = read_group(&context, keyring.group(&group)?, &group).await?;
        let of_now = nodes
            .iter()
            .filter_map(|n| n.status.as_ref().ok()?.etcd.as_ref());
        let of_now = of_now.filter(|e| e.generation == keyring.content.etcd_generation);
        let of_now = of_now.filter(|e| backup.generation == e.generation.get());
        let (against, known) = self.obstacles(&context, &keyring, &nodes).await?;
        for line in known {
            output::note(format!("etcd of before: {}", printable(&line)));
        }
        if !against.is_empty() {
            return Err(mistake(format!(
                "nothing is ordered: too many nodes would not hear of it, and etcd of before would go on beside the restored one:\n  {}",
                shown(&against)
            )));
        }
        if let Some(last) = of_now.filter_map(|e| e.revision).max() {
            let lost = last.saturating_sub(backup.name.revision());
            output::line(format!(
                "the last revision that a node said it has is {last}: about {lost} changes are lost"
            ));
        }
        confirm_name(
            &format!(
                "etcd of {name} is made anew from it: everything written in the {} since is lost, and the control plane stops until it \
                 is done.",
                ago(backup.name.at(), now)
            ),
            &name,
            self.confirm.as_deref(),
        )?;
        let by = crate::publish::operator();
        let generation = etcd::order(&context, backup, &by, now).await?;
        output::line(format!("ordered: generation {generation} begins with it"));
        tell_nodes(&context).await?;
        output::line(format!(
            "`platformctl etcd status -e {name}` shows how it goes. When all is well: `platformctl etcd restore -e {name} --finish`"
        ));
        Ok(Outcome::Done)
    }

    /// What speaks against the order, and what is only to be known.
    async fn obstacles(
        &self,
        context: &Context,
        keyring: &Keyring,
        nodes: &[NodeReport],
    ) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let group = secure()?;
        let workspace = &context.workspace;
        // What is damaged there must not keep a cluster from being restored.
        let document = rollouts::read(context, keyring.group(&group)?, &group).await;
        let document = document.unwrap_or_else(|error| {
            let error = anyhow::Error::new(error);
            output::note(format!("whether {group} is paused is not known: {error:#}"));
            None
        });
        let now = context.store_now();
        let gone = match workspace.environment.on_aws() {
            false => Vec::new(),
            true => gone(workspace, nodes).await,
        };
        let size = workspace.environment.groups.get(SECURE);
        let known = Known {
            without: &self.without,
            gone: &gone,
            paused: document.as_ref().and_then(|d| d.pause_at(now)),
        };
        Ok(etcd::restore_obstacles(
            keyring.content.etcd_generation,
            nodes,
            size.map_or(1, |s| s.min) as usize,
            &known,
            now,
        ))
    }
}

/// The nodes whose machines EC2 does not know any more; where it cannot be asked, none is gone for sure.
async fn gone(workspace: &Workspace, nodes: &[NodeReport]) -> Vec<String> {
    let read = async {
        let aws = Aws::of(workspace).await?;
        anyhow::Ok(read_instances(&aws, &workspace.environment).await?)
    };
    match read.await {
        Err(error) => {
            output::note(format!(
                "EC2 does not say which machines there are, so none counts as gone: {error:#}"
            ));
            Vec::new()
        }
        Ok(instances) => {
            let is_there = |node: &str| instances.iter().any(|i| i.id == instance_of(node));
            let gone = nodes.iter().filter(|n| !is_there(&n.node));
            gone.map(|n| n.node.clone()).collect()
        }
    }
}

impl ReformArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let (context, keyring, backups) = look(&self.environment, directory).await?;
        let (group, name) = (secure()?, context.workspace.name.to_string());
        let nodes = read_group(&context, keyring.group(&group)?, &group).await?;
        let now = context.store_now();
        let against = etcd::reform_obstacles(&keyring, &nodes, &backups, &self.without, now);
        if !against.is_empty() {
            return Err(mistake(format!(
                "etcd is not formed anew: it may hold data that would be left behind:\n  {}",
                shown(&against)
            )));
        }
        let from = keyring.content.etcd_generation;
        confirm_name(
            &format!(
                "no member of generation {from} of {name} ever had a leader, as far as the nodes say: generation {} begins empty.",
                from.next()
            ),
            &name,
            self.confirm.as_deref(),
        )?;
        let generation = etcd::begin_anew(&context, from).await?;
        output::line(format!("generation {generation} begins empty"));
        tell_nodes(&context).await?;
        Ok(Outcome::Done)
    }
}
