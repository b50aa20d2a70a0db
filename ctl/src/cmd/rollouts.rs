//! `platformctl pause`, `resume`, `retry` and `forget`: an operator's hand in what the nodes agree on.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::names::{GroupName, NodeId};
use shared::store::{Backoff, keys, with_retries};

use super::EnvironmentArg;
use super::gc::duration;
use crate::context::Context;
use crate::exit::{Mistake, Outcome, mistake};
use crate::keyring::{self, Keyring};
use crate::output::{self, Format};
use crate::publish::operator;
use crate::rollouts::{self, NothingHalted};
use crate::status::{STALE_AFTER_SECONDS, find_node};

/// Pauses groups: no node begins to adopt anything. What has begun is ended.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    target: Target,
    /// Why: whoever looks at the status reads it.
    #[arg(short, long)]
    reason: String,
    /// For how long: `90m`, `2h`; without it until `resume`.
    #[arg(long = "for", value_name = "TIME")]
    time: Option<String>,
}

/// Lifts a pause. A halted rollout stays halted: `retry`, or publish what mends it.
#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    target: Target,
}

/// Has a halted release tried again, also by the nodes on which it failed.
#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    target: Target,
}

/// Takes a node for gone: its slot is free, it counts no more, and its report is removed.
///
/// A node that is there after all reports again, and counts again.
#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The node, as `status` names it; the part after the last colon is enough.
    node: String,
    /// Also one that has reported within the last minutes.
    #[arg(long)]
    force: bool,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups; by default all.
    groups: Vec<String>,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

struct Opened {
    context: Context,
    keyring: Keyring,
    groups: Vec<GroupName>,
}

impl Target {
    async fn open(&self, directory: &Path) -> anyhow::Result<Opened> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let groups = context.workspace.select(&self.groups)?;
        let keyring = keyring::read_required(&context).await?;
        Ok(Opened {
            context,
            keyring,
            groups,
        })
    }
}

fn show(format: Format, lines: &[String], all: Vec<Value>) -> anyhow::Result<()> {
    match format {
        Format::Text => lines.iter().for_each(output::line),
        Format::Json => output::line(serde_json::to_string_pretty(&all)?),
    }
    Ok(())
}

impl PauseArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        if self.reason.trim().is_empty() {
            return Err(mistake(
                "--reason: say why, for whoever finds the group paused",
            ));
        }
        let time = self.time.as_deref();
        let time = time.map(|text| duration("--for", text)).transpose()?;
        let time = time.map(SignedDuration::try_from).transpose();
        let time = time.map_err(|_| mistake("--for: too long"))?;
        let opened = self.target.open(directory).await?;
        let (mut lines, mut all) = (Vec::new(), Vec::new());
        for group in &opened.groups {
            let keys = opened.keyring.group(group)?;
            let mut before = None;
            let done = rollouts::change(&opened.context, keys, group, |document| {
                before = document.pause_at(document.written_at).cloned();
                let until = time
                    .map(|time| later(document.written_at, time))
                    .transpose()?;
                rollouts::pause(document, &operator(), &self.reason, until);
                Ok(true)
            });
            let done = done
                .await
                .with_context(|| format!("group {group} was not paused"))?;
            let until = done.paused.as_ref().and_then(|p| p.until);
            let until =
                until.map_or_else(|| "until `resume`".to_owned(), |t| format!("until {t:.0}"));
            let before = before.map_or_else(String::new, |pause| {
                format!(
                    " (in the place of the pause by {}: {})",
                    pause.by, pause.reason
                )
            });
            lines.push(format!("{group}: paused {until}{before}"));
            all.push(json!({"group": group, "paused": done.paused}));
        }
        show(self.target.output, &lines, all)?;
        Ok(Outcome::Done)
    }
}

fn later(now: Timestamp, time: SignedDuration) -> anyhow::Result<Timestamp> {
    now.checked_add(time)
        .map_err(|_| mistake("--for: too long"))
}

impl ResumeArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let opened = self.target.open(directory).await?;
        let (mut lines, mut all) = (Vec::new(), Vec::new());
        for group in &opened.groups {
            let keys = opened.keyring.group(group)?;
            let mut lifted = None;
            let done = rollouts::change(&opened.context, keys, group, |document| {
                lifted = rollouts::resume(document);
                Ok(lifted.is_some())
            });
            let done = done
                .await
                .with_context(|| format!("group {group} was not resumed"))?;
            lines.push(match &lifted {
                Some(pause) => format!(
                    "{group}: resumed (paused by {}: {})",
                    pause.by, pause.reason
                ),
                None => format!("{group}: was not paused"),
            });
            if let Some(halt) = &done.halted {
                lines.push(format!(
                    "  the rollout of release {} is halted by {} all the same: `platformctl retry`, or publish what mends it",
                    halt.release, halt.by
                ));
            }
            all.push(json!({"group": group, "lifted": lifted, "halted": done.halted}));
        }
        show(self.target.output, &lines, all)?;
        Ok(Outcome::Done)
    }
}

impl RetryArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let opened = self.target.open(directory).await?;
        let (mut lines, mut all) = (Vec::new(), Vec::new());
        let mut some = false;
        for group in &opened.groups {
            let keys = opened.keyring.group(group)?;
            let mut retried = None;
            let done = rollouts::change(&opened.context, keys, group, |document| {
                retried = rollouts::retry(document, &operator()).ok();
                Ok(retried.is_some())
            });
            let done = done
                .await
                .with_context(|| format!("group {group}: nothing is tried again"))?;
            some |= retried.is_some();
            lines.push(match retried {
                Some(release) => format!("{group}: release {release} is tried again"),
                None => format!("{group}: {NothingHalted}"),
            });
            if let Some(pause) = done.pause_at(opened.context.store_now()) {
                lines.push(format!(
                    "  it is paused by {} all the same: `platformctl resume`",
                    pause.by
                ));
            }
            all.push(json!({"group": group, "release": retried}));
        }
        show(self.target.output, &lines, all)?;
        match some {
            true => Ok(Outcome::Done),
            false => Err(mistake("there is nothing to try again")),
        }
    }
}

impl ForgetArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let keyring = keyring::read_required(&context).await?;
        let (node, group, age) = locate(&context, &keyring, &self.node).await?;
        if let Some(age) = age.filter(|age| *age <= STALE_AFTER_SECONDS && !self.force) {
            return Err(mistake(format!(
                "{node} of group {group} has reported {age} s ago, so it is there: end it first, or --force (it counts again \
                 with its next report)"
            )));
        }
        let keys = keyring.group(&group)?;
        let id = NodeId::new(node.clone())?;
        let mut held = None;
        let done = rollouts::change(&context, keys, &group, |document| {
            held = document.holder(&id).map(|holder| holder.release);
            rollouts::forget(document, &id, &operator());
            Ok(true)
        });
        done.await
            .with_context(|| format!("{node} was not forgotten"))?;
        remove_report(&context, &group, &id).await?;
        let slot = held.map_or_else(String::new, |release| {
            format!("; its slot for release {release} is free")
        });
        let lines = [format!("{group}: {node} is forgotten{slot}")];
        let all = json!({"group": group, "node": node, "slot_freed": held});
        show(self.output, &lines, vec![all])?;
        Ok(Outcome::Done)
    }
}

/// A node by its report, with the report's age; or, where it has none any more, by what the groups' rollouts say of it.
async fn locate(
    context: &Context,
    keyring: &Keyring,
    name: &str,
) -> anyhow::Result<(String, GroupName, Option<i64>)> {
    let unknown = match find_node(context, keyring, name).await {
        Ok(report) => {
            let age = report.age_seconds(context.store_now());
            return Ok((report.node, report.group, age));
        }
        Err(e) if e.is::<Mistake>() => e,
        Err(e) => return Err(e),
    };
    for (group, keys) in &keyring.content.groups {
        let document = rollouts::read(context, keys, group).await?.into_iter();
        let mut named = document.flat_map(|d| {
            let holders = d.holders.into_iter().map(|h| h.node);
            holders.chain(d.unavailable.into_iter().map(|u| u.node))
        });
        let is_it =
            |node: &NodeId| node.as_str() == name || node.as_str().rsplit(':').next() == Some(name);
        if let Some(node) = named.find(is_it) {
            return Ok((node.to_string(), group.clone(), None));
        }
    }
    Err(unknown)
}

/// The report of a node that is gone would be shown for ever.
async fn remove_report(context: &Context, group: &GroupName, node: &NodeId) -> anyhow::Result<()> {
    let key = keys::node_status(group, node);
    let delete = || context.store.delete(&key);
    let done = with_retries(Backoff::INTERACTIVE, delete).await;
    done.with_context(|| format!("{node} is forgotten, but its report {key} is still there"))
}
