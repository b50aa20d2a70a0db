//! `platformctl publish`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use shared::names::{GroupName, ReleaseNumber};

use super::EnvironmentArg;
use crate::context::Context;
use crate::dev::nodes::find_agent;
use crate::env::SECURE;
use crate::exit::{Outcome, mistake};
use crate::gc::collect_if_due;
use crate::keyring::Keyring;
use crate::output::{self, Format, Progress};
use crate::publish::{Choices, Planned, Publication, STEPS, plan};
use crate::rollouts::{self, Verdict, Waited, Waiting};
use crate::status::read_group_status;
use crate::userdata::AgentBinary;

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups; by default all, secure first.
    groups: Vec<String>,
    /// Publish even where a group would run nothing: its static pods will all stop.
    #[arg(long)]
    allow_empty: bool,
    /// Whether probes decide: with `off` they only warn, as the signed release says for ever, with the reason.
    #[arg(long, value_enum, default_value_t = Gate::On, requires_if("off", "reason"))]
    gate: Gate,
    /// Why the probes are only to warn.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Also put this platform-agent where user data says that it is (`platformctl build --agent` with the same file).
    /// By default the one beside platformctl or on the PATH, if it is one for machines.
    #[arg(long, value_name = "FILE", env = "PLATFORM_AGENT")]
    agent: Option<PathBuf>,
    /// Leave in the bucket what nobody needs any more (`platformctl gc` removes it).
    #[arg(long)]
    no_gc: bool,
    /// Wait until every node has it: exit code 0. Where the rollout stops before (halted, paused, nodes that do not report or
    /// are held), say why: exit code 3. Where the time is over: exit code 1.
    #[arg(long)]
    wait: bool,
    /// How long to wait: `90s`, `30m`, `2h`.
    #[arg(long, value_name = "TIME", default_value = "1h", requires = "wait")]
    timeout: String,
    /// How to show what was done.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Gate {
    /// A probe that goes from good to bad reverts the node and halts the rollout.
    On,
    /// Probes only warn.
    Off,
}

impl PublishArgs {
    fn waiver(&self) -> anyhow::Result<Option<String>> {
        let reason = self.reason.as_deref().map(str::trim);
        match (self.gate, reason) {
            (Gate::Off, Some(reason)) if !reason.is_empty() => Ok(Some(reason.to_owned())),
            (Gate::Off, _) => Err(mistake(
                "--gate=off needs --reason TEXT: it is signed with the release",
            )),
            (Gate::On, None) => Ok(None),
            (Gate::On, Some(_)) => Err(mistake("--reason goes with --gate=off")),
        }
    }

    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let groups = context.workspace.select(&self.groups)?;
        let timeout = match self.wait {
            true => Some(super::gc::duration("--timeout", &self.timeout)?),
            false => None,
        };
        let choices = Choices {
            allow_empty: self.allow_empty,
            waiver: self.waiver()?,
        };
        let (keyring, all) = publish_groups(
            &context,
            &groups,
            choices,
            self.output,
            !self.no_gc,
            timeout,
        )
        .await?;
        if context.workspace.environment.on_aws() {
            let said = upload_agent(&context, self.agent).await?;
            said.into_iter().for_each(match self.output {
                Format::Text => output::line,
                Format::Json => output::note,
            });
        }
        let groups: Vec<(GroupName, ReleaseNumber)> = all
            .iter()
            .map(|(group, done)| (group.clone(), done.release()))
            .collect();
        let waited = match timeout {
            Some(patience) => Some(self::wait(&context, &keyring, &groups, patience).await?),
            None => None,
        };
        self::show(self.output, &all, waited.as_ref())
    }
}

/// Waits with progress on standard error: in place on a terminal, else a line for each change.
async fn wait(
    context: &Context,
    keyring: &Keyring,
    groups: &[(GroupName, ReleaseNumber)],
    patience: Duration,
) -> anyhow::Result<(Waiting, Vec<Waited>)> {
    let mut progress = Progress::new();
    let waited = rollouts::wait(context, keyring, groups, patience, |all| {
        let of = |w: &Waited| {
            let lines = w.rollout.lines();
            lines
                .into_iter()
                .map(|line| format!("{}: {line}", w.group))
                .collect::<Vec<_>>()
        };
        progress.show(&all.iter().flat_map(of).collect::<Vec<String>>());
    })
    .await;
    progress.clear();
    waited.context("everything was published, and its rollout could not be watched")
}

fn show(
    format: Format,
    all: &[(GroupName, Publication)],
    waited: Option<&(Waiting, Vec<Waited>)>,
) -> anyhow::Result<Outcome> {
    if format == Format::Json {
        let publications = all.iter().map(|(group, done)| {
            let what = match done {
                Publication::Released { .. } => "released",
                Publication::Unchanged { .. } => "unchanged",
                Publication::Renewed { .. } => "renewed",
            };
            json!({"group": group, "release": done.release(), "what": what})
        });
        let publications: Vec<serde_json::Value> = publications.collect();
        let shown = json!({"groups": publications, "waited": waited.map(|(_, all)| all)});
        output::line(serde_json::to_string_pretty(&shown)?);
    }
    let Some((how, all)) = waited else {
        return Ok(Outcome::Done);
    };
    for waited in all {
        match format {
            Format::Text => output::line(waited.said()),
            Format::Json => output::note(waited.said()),
        }
    }
    match how {
        Waiting::Done => Ok(Outcome::Done),
        Waiting::Stopped => Ok(Outcome::Differs),
        Waiting::TimedOut => Err(anyhow::anyhow!(
            "everything was published, and there was no more time to wait for the nodes"
        )),
    }
}

/// Publishes what has changed of the groups and says it (to people: `format`); then removes what no release needs any more,
/// where `collect` says so.
pub(super) async fn publish_groups(
    context: &Context,
    groups: &[GroupName],
    choices: Choices,
    format: Format,
    collect: bool,
    patience: Option<Duration>,
) -> anyhow::Result<(Keyring, Vec<(GroupName, Publication)>)> {
    let plans = plan(context, groups, choices)
        .await
        .context("nothing was published")?;
    for made in &plans.made {
        output::note(format!("keyring: {made}"));
    }
    for warning in &plans.warnings {
        output::note(warning.to_string());
    }
    let mut all = Vec::new();
    for planned in plans.groups {
        let group = planned.group().clone();
        let gate = secure_first(context, &plans.keyring, &planned, patience).await;
        gate.with_context(|| format!("group {group} was not published"))?;
        let bar = output::progress(STEPS, group.as_str());
        let done = planned.publish(context, &plans.keyring, &bar).await;
        bar.finish_and_clear();
        let done = done.with_context(|| format!("group {group} was not published"))?;
        if format == Format::Text {
            output::line(said(group.as_str(), &done));
        }
        all.push((group.clone(), done.clone()));
        if matches!(done, Publication::Released { .. }) && collect {
            // It is published, whatever becomes of this.
            match collect_if_due(context, &plans.keyring, &group).await {
                Ok(done) => done
                    .iter()
                    .flat_map(|c| super::gc::said(c, false))
                    .for_each(output::note),
                Err(e) => output::note(format!("{group}: nothing was collected: {e:#}")),
            }
        }
    }
    Ok((plans.keyring, all))
}

/// A kubelet must not be newer than the API servers: one that a release brings to another group than secure waits until
/// every secure node has its own release. With patience the wait is ours.
async fn secure_first(
    context: &Context,
    keyring: &Keyring,
    planned: &Planned,
    patience: Option<Duration>,
) -> anyhow::Result<()> {
    let secure = GroupName::new(SECURE)?;
    if *planned.group() == secure {
        return Ok(());
    }
    let Some((has, brings)) = planned.other_kubelet() else {
        return Ok(());
    };
    let (status, _) = read_group_status(context, keyring, &secure).await?;
    let Some(release) = status.published else {
        return Ok(());
    };
    let mut view = status.rollout;
    if let Some(patience) = patience.filter(|_| view.verdict(release) == Verdict::Wait) {
        let groups = [(secure, release)];
        let (_, mut waited) = wait(context, keyring, &groups, patience).await?;
        view = waited.pop().map_or(view, |w| w.rollout);
    }
    match view.verdict(release) {
        Verdict::Done => Ok(()),
        _ => Err(anyhow::anyhow!(
            "it brings {brings} in the place of {has}, and a kubelet must not be newer than the API servers: release \
             {release} of group {SECURE} is on {} of {} nodes ({}). Publish again when it is on all; with --wait the publish \
             waits for it",
            view.done,
            view.nodes,
            view.state.to_string().replace('\n', "; ")
        )),
    }
}

/// Puts the agent that new machines install into the bucket. One that was asked for must be there; a publish by
/// somebody who has none is as good as any other.
async fn upload_agent(context: &Context, named: Option<PathBuf>) -> anyhow::Result<Option<String>> {
    let asked_for = named.is_some();
    let found = match find_agent(named) {
        Ok(path) => AgentBinary::read(&path).map_err(anyhow::Error::new),
        Err(e) => Err(mistake(format!("{e:#}"))),
    };
    let agent = match found {
        Ok(agent) => agent,
        Err(e) if asked_for => return Err(e.context("everything was published but the agent")),
        Err(e) => {
            tracing::debug!("no agent for new machines was put into the bucket: {e:#}");
            return Ok(None);
        }
    };
    if agent.upload_if_needed(context.store.as_ref()).await? {
        return Ok(Some(format!(
            "agent: put {} into the bucket, for new machines",
            agent.sha256.short()
        )));
    }
    Ok(None)
}

/// What a publication did, for a person.
pub(super) fn said(group: &str, done: &Publication) -> String {
    match done {
        Publication::Released {
            release,
            files,
            bytes,
        } => {
            format!("{group}: published release {release} ({files} files, {bytes} bytes encrypted)")
        }
        Publication::Unchanged { release } => {
            format!("{group}: nothing differs from release {release}; nothing was published")
        }
        Publication::Renewed { release, expires } => format!(
            "{group}: nothing differs from release {release}; its signatures were renewed and expire at {expires:.0}"
        ),
    }
}
