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
use shared::names::GroupName;

use super::EnvironmentArg;
use super::etcd_restore::{ReformArgs, RestoreArgs};
use crate::aws::Aws;
use crate::context::{Context, Workspace};
use crate::env::SECURE;
use crate::etcd::{self, Backup};
use crate::exit::{Outcome, mistake};
use crate::instances::{Instance, read_instances, select};
use crate::keyring::{self, Keyring};
use crate::output::{self, Format};
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

pub(super) fn secure() -> anyhow::Result<GroupName> {
    SECURE.parse().context("the secure group has a name")
}

pub(super) async fn look(
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

pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
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
