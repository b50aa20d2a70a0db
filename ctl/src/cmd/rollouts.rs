//! `platformctl pause`, `resume`, `retry` and `forget`: an operator's hand in what the nodes agree on.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::documents::Pause;
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
use crate::status::{STALE_AFTER_SECONDS, find_node, printable};

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

/// What was done so far: told also where a later group fails.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    all: Vec<Value>,
}

impl Told {
    fn show(&self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Text => self.lines.iter().for_each(output::line),
            Format::Json => output::line(serde_json::to_string_pretty(&self.all)?),
        }
        Ok(())
    }

    /// Shows what was done, and then the failure that ended it.
    fn end(self, format: Format, ended: anyhow::Result<()>) -> anyhow::Result<()> {
        if ended.is_ok() || !self.all.is_empty() {
            self.show(format)?;
        }
        ended
    }
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
        if time.is_some_and(|time| time.is_zero()) {
            return Err(mistake("--for: a pause of no length pauses nothing"));
        }
        let opened = self.target.open(directory).await?;
        let mut told = Told::default();
        let mut ended = Ok(());
        for group in &opened.groups {
            ended = self.pause(&opened, group, time, &mut told).await;
            if ended.is_err() {
                break;
            }
        }
        told.end(self.target.output, ended)?;
        Ok(Outcome::Done)
    }

    async fn pause(
        &self,
        opened: &Opened,
        group: &GroupName,
        time: Option<SignedDuration>,
        told: &mut Told,
    ) -> anyhow::Result<()> {
        let keys = opened.keyring.group(group)?;
        // Of the first look: a later one may see what we wrote ourselves.
        let mut before: Option<Option<Pause>> = None;
        let done = rollouts::change(&opened.context, keys, group, |document| {
            before.get_or_insert_with(|| document.pause_at(document.written_at).cloned());
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
        let until = until.map_or_else(|| "until `resume`".to_owned(), |t| format!("until {t:.0}"));
        let before = before.flatten().map_or_else(String::new, |pause| {
            format!(" (in the place of the pause by {})", by_whom(&pause))
        });
        told.lines.push(format!("{group}: paused {until}{before}"));
        told.all
            .push(json!({"group": group, "paused": done.paused}));
        Ok(())
    }
}

/// Who paused it, and why; a node may have written it.
fn by_whom(pause: &Pause) -> String {
    format!("{}: {}", printable(&pause.by), printable(&pause.reason))
}

fn later(now: Timestamp, time: SignedDuration) -> anyhow::Result<Timestamp> {
    now.checked_add(time)
        .map_err(|_| mistake("--for: too long"))
}

impl ResumeArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let opened = self.target.open(directory).await?;
        let mut told = Told::default();
        let mut ended = Ok(());
        for group in &opened.groups {
            ended = resume(&opened, group, &mut told).await;
            if ended.is_err() {
                break;
            }
        }
        told.end(self.target.output, ended)?;
        Ok(Outcome::Done)
    }
}

async fn resume(opened: &Opened, group: &GroupName, told: &mut Told) -> anyhow::Result<()> {
    let keys = opened.keyring.group(group)?;
    let mut lifted = None;
    let done = rollouts::change(&opened.context, keys, group, |document| {
        let now = rollouts::resume(document);
        let changed = now.is_some();
        // Lifted by us in a write whose answer was lost, with somebody else's write on top: it is lifted all the same.
        lifted = now.or(lifted.take());
        Ok(changed)
    });
    let done = done
        .await
        .with_context(|| format!("group {group} was not resumed"))?;
    told.lines.push(match &lifted {
        Some(pause) => format!("{group}: resumed (paused by {})", by_whom(pause)),
        None => format!("{group}: was not paused"),
    });
    if let Some(halt) = &done.halted {
        told.lines.push(format!(
            "  the rollout of release {} is halted by {} all the same: `platformctl retry`, or publish what mends it",
            halt.release, halt.by
        ));
    }
    told.all
        .push(json!({"group": group, "lifted": lifted, "halted": done.halted}));
    Ok(())
}

impl RetryArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let opened = self.target.open(directory).await?;
        let mut told = Told::default();
        let mut some = false;
        let mut ended = Ok(());
        for group in &opened.groups {
            match retry(&opened, group, &mut told).await {
                Ok(retried) => some |= retried,
                Err(e) => {
                    ended = Err(e);
                    break;
                }
            }
        }
        told.end(self.target.output, ended)?;
        match some {
            true => Ok(Outcome::Done),
            false => Err(mistake("there is nothing to try again")),
        }
    }
}

async fn retry(opened: &Opened, group: &GroupName, told: &mut Told) -> anyhow::Result<bool> {
    let keys = opened.keyring.group(group)?;
    let mut retried = None;
    let done = rollouts::change(&opened.context, keys, group, |document| {
        let now = rollouts::retry(document, &operator()).ok();
        // As with a resume: what a lost answer did is done.
        retried = now.or(retried);
        Ok(now.is_some())
    });
    let done = done
        .await
        .with_context(|| format!("group {group}: nothing is tried again"))?;
    told.lines.push(match retried {
        Some(release) => format!("{group}: release {release} is tried again"),
        None => format!("{group}: {NothingHalted}"),
    });
    if let Some(pause) = done.pause_at(opened.context.store_now()) {
        told.lines.push(format!(
            "  it is paused by {} all the same: `platformctl resume`",
            printable(&pause.by)
        ));
    }
    told.all.push(json!({"group": group, "release": retried}));
    Ok(retried.is_some())
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
        let told = Told {
            lines: vec![format!("{group}: {node} is forgotten{slot}")],
            all: vec![json!({"group": group, "node": node, "slot_freed": held})],
        };
        told.show(self.output)?;
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
