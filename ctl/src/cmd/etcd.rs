//! `platformctl etcd`.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde_json::json;
use shared::backup::{BackupName, RestoreOrder};
use shared::names::GroupName;

use super::EnvironmentArg;
use crate::aws::Aws;
use crate::confirm::confirm_name;
use crate::context::{Context, Workspace};
use crate::env::SECURE;
use crate::etcd::{self, Backup};
use crate::exit::{Outcome, mistake};
use crate::instances::{Instance, read_instances, select};
use crate::keyring::{self, Keyring};
use crate::output::{self, Format};
use crate::publish::{Choices, Publication, STEPS, plan};
use crate::ssh::{arguments, home_directory, key_path, write_key};
use crate::status::{printable, read_group};

/// The agent and its configuration on a machine.
const AGENT: [&str; 2] = [
    "/var/lib/platform-agent/bin/platform-agent",
    "/etc/platform-agent/config.toml",
];

/// etcd's members and backups.
///
/// `list` and `status` look at the bucket. `members`, `backup` and `defrag` run `platform-agent etcd …` over ssh on one of the
/// secure machines, since nobody else reaches etcd.
#[derive(Debug, Args)]
pub(super) struct EtcdArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the backups that the bucket holds, the newest first, and which of them can be restored.
    List(LookArgs),
    /// Show what the nodes say about etcd, and the newest backup. Exit code 3 where that is too old, or backing up fails.
    Status(LookArgs),
    /// Show etcd's members, as one of them lists them.
    Members(MachineArgs),
    /// Take a backup now.
    Backup(MachineArgs),
    /// Make etcd's members anew from a backup: everything written since is lost.
    Restore(RestoreArgs),
    /// Begin again with an empty etcd, where no member ever had a leader.
    Reform(ReformArgs),
    /// Have the members rewrite their databases without holes, one at a time, the leader last.
    Defrag(MachineArgs),
}

#[derive(Debug, Args)]
struct LookArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct MachineArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The secure machine to ask: its name, id, address or DNS name; by default the first that runs.
    #[arg(long, value_name = "NODE")]
    machine: Option<String>,
    /// Go to its address in the VPC though it has a public one.
    #[arg(long)]
    private: bool,
}

#[derive(Debug, Args)]
struct RestoreArgs {
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
    /// With --finish: a machine that is gone for good, and is not waited for; may be repeated.
    #[arg(long, value_name = "NODE", requires = "finish")]
    without: Vec<String>,
}

#[derive(Debug, Args)]
struct ReformArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// A machine that is gone for good, though it may have seen a leader after its last word; may be repeated.
    #[arg(long, value_name = "NODE")]
    without: Vec<String>,
    /// The environment's name, for scripts: without it, it is asked for.
    #[arg(long, value_name = "ENVIRONMENT")]
    confirm: Option<String>,
}

impl EtcdArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        match self.verb {
            Verb::List(args) => args.list(directory).await,
            Verb::Status(args) => args.status(directory).await,
            Verb::Restore(args) => Box::pin(args.run(directory)).await,
            Verb::Reform(args) => Box::pin(args.run(directory)).await,
            Verb::Members(args) => args.run(directory, "members").await,
            Verb::Backup(args) => args.run(directory, "backup").await,
            Verb::Defrag(args) => args.run(directory, "defrag").await,
        }
    }
}

fn secure() -> anyhow::Result<GroupName> {
    SECURE.parse().context("the secure group has a name")
}

async fn look(
    environment: &EnvironmentArg,
    directory: &Path,
) -> anyhow::Result<(Context, Keyring, Vec<Backup>)> {
    let context = Context::open(directory, &environment.environment).await?;
    let group = secure()?;
    context.workspace.select(&[group.to_string()])?;
    let keyring = keyring::read_required(&context).await?;
    let key = &keyring.group(&group)?.group_key;
    let backups = etcd::list(&context, &group, key)
        .await
        .context("the backups cannot be listed")?;
    Ok((context, keyring, backups))
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
    async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
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
                        open.iter()
                            .map(|line| printable(line))
                            .collect::<Vec<_>>()
                            .join("\n  ")
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
}

impl ReformArgs {
    async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let (context, keyring, backups) = look(&self.environment, directory).await?;
        let (group, name) = (secure()?, context.workspace.name.to_string());
        let nodes = read_group(&context, keyring.group(&group)?, &group).await?;
        let now = context.store_now();
        let against = etcd::reform_obstacles(&keyring, &nodes, &backups, &self.without, now);
        if !against.is_empty() {
            return Err(mistake(format!(
                "etcd is not formed anew: it may hold data that would be left behind:\n  {}",
                against.join("\n  ")
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

fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0).unsigned_abs();
    output::age(Duration::from_secs(seconds))
}

impl LookArgs {
    async fn open(&self, directory: &Path) -> anyhow::Result<(Context, Keyring, Vec<Backup>)> {
        look(&self.environment, directory).await
    }

    async fn list(self, directory: &Path) -> anyhow::Result<Outcome> {
        let (context, _, backups) = self.open(directory).await?;
        if self.output == Format::Json {
            let views: Vec<_> = backups.iter().map(Backup::view).collect();
            output::line(serde_json::to_string_pretty(&views)?);
            return Ok(Outcome::Done);
        }
        if backups.is_empty() {
            output::note("the bucket holds no backup of etcd");
            return Ok(Outcome::Done);
        }
        let now = context.store_now();
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["NAME", "GENERATION", "AGE", "BYTES", "ETCD", "NODE", "SAYS"]);
        for backup in &backups {
            let view = backup.view();
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            table.add_row([
                view.name.to_string(),
                view.generation.to_string(),
                ago(view.at, now),
                or_dash(view.bytes.map(|b| b.to_string())),
                or_dash(view.etcd_version.map(printable)),
                or_dash(view.node.as_deref().map(printable)),
                view.problem
                    .as_deref()
                    .map(|p| format!("CANNOT BE RESTORED: {}", printable(p)))
                    .unwrap_or_default(),
            ]);
        }
        table.trim_fmt().lines().for_each(output::line);
        Ok(Outcome::Done)
    }

    async fn status(self, directory: &Path) -> anyhow::Result<Outcome> {
        let (context, keyring, backups) = self.open(directory).await?;
        let (group, now) = (secure()?, context.store_now());
        let nodes = read_group(&context, keyring.group(&group)?, &group).await?;
        let good = backups.iter().find(|b| b.problem().is_none());
        let state = etcd::state_of(good.map(|b| b.name.at()), now);
        let failing: Vec<(String, String)> = nodes
            .iter()
            .filter_map(|node| {
                let report = node.status.as_ref().ok()?.backup.as_ref()?;
                let failed = report.failed.as_ref()?;
                Some((node.node.clone(), printable(&failed.message)))
            })
            .collect();
        if self.output == Format::Json {
            let nodes = nodes.iter().filter_map(|n| {
                let status = n.status.as_ref().ok()?;
                Some(json!({"node": n.node, "etcd": status.etcd, "backup": status.backup}))
            });
            let all = json!({
                "newest_good": good.map(Backup::view),
                "backups": backups.len(),
                "late": !state.is_fresh(),
                "nodes": nodes.collect::<Vec<_>>(),
            });
            output::line(serde_json::to_string_pretty(&all)?);
        } else {
            crate::status::etcd_line(&nodes)
                .into_iter()
                .for_each(output::line);
            output::line(format!(
                "backups: {}",
                state.says(good.map(|b| &b.name), now)
            ));
            for (node, why) in &failing {
                output::line(format!("  {node}: {why}"));
            }
        }
        let well = state.is_fresh() && failing.is_empty();
        Ok(match well {
            true => Outcome::Done,
            false => Outcome::Differs,
        })
    }
}

impl MachineArgs {
    async fn run(self, directory: &Path, verb: &str) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let [agent, config] = AGENT;
        if !workspace.environment.on_aws() {
            return Err(mistake(format!(
                "environment {} has no machines: run `platform-agent etcd --config FILE {verb}` where the node is",
                workspace.name
            )));
        }
        let home = home_directory()?;
        let aws = Aws::of(&workspace).await?;
        let instances = read_instances(&aws, &workspace.environment).await?;
        let machine = self.choose(&instances)?;
        let key = key_path(&workspace.environment, &home);
        if !key.exists() {
            let context = Context::of(workspace.clone()).await?;
            let keyring = keyring::read_required(&context).await?;
            let pki = keyring.content.pki.as_ref();
            let pki = pki.context("the keyring holds no ssh key yet: publish first")?;
            write_key(&workspace.environment, &pki.ssh, &home)?;
        }
        let command = ["sudo", agent, "etcd", "--config", config, verb];
        let command: Vec<OsString> = command.iter().map(OsString::from).collect();
        let arguments = arguments(machine, &key, self.private, &command)
            .ok_or_else(|| mistake(format!("{} has no address", machine.label())))?;
        output::note(format!("on {}:", machine.label()));
        let run = tokio::task::spawn_blocking(move || Command::new("ssh").args(arguments).status());
        let status = run.await?.context("ssh cannot be started")?;
        match status.code() {
            Some(0) => Ok(Outcome::Done),
            Some(3) => Ok(Outcome::Differs),
            _ => anyhow::bail!("`platform-agent etcd {verb}` on {} failed", machine.label()),
        }
    }

    fn choose<'a>(&self, instances: &'a [Instance]) -> anyhow::Result<&'a Instance> {
        if let Some(wanted) = &self.machine {
            return select(instances, wanted).map_err(|e| mistake(e.to_string()));
        }
        let mut secure = instances
            .iter()
            .filter(|i| i.group == SECURE && i.state == "running");
        secure
            .next()
            .ok_or_else(|| mistake("no machine of the secure group runs"))
    }
}
