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
use crate::skew;
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
        let mut all = Vec::new();
        let ended = self
            .carry_out(&context, &groups, choices, timeout, &mut all)
            .await;
        match ended {
            Ok(waited) => self::show(self.output, &all, waited.as_ref()),
            Err(error) => {
                // What was published is published, whatever failed after it. People were told of each group as it was done.
                if self.output == Format::Json && !all.is_empty() {
                    let failed = format!("{error:#}");
                    output::line(serde_json::to_string_pretty(&document(
                        &all,
                        None,
                        Some(&failed),
                    ))?);
                }
                Err(error)
            }
        }
    }

    /// Publishes, and waits where that was asked for; `all` has the groups that are done, also after a failure.
    async fn carry_out(
        &self,
        context: &Context,
        groups: &[GroupName],
        choices: Choices,
        timeout: Option<Duration>,
        all: &mut Vec<(GroupName, Publication)>,
    ) -> anyhow::Result<Option<(Waiting, Vec<Waited>)>> {
        let collect = !self.no_gc;
        let keyring =
            publish_groups(context, groups, choices, self.output, collect, timeout, all).await?;
        if context.workspace.environment.on_aws() {
            let said = upload_agent(context, self.agent.clone()).await?;
            said.into_iter().for_each(match self.output {
                Format::Text => output::line,
                Format::Json => output::note,
            });
        }
        let Some(patience) = timeout else {
            return Ok(None);
        };
        let groups: Vec<(GroupName, ReleaseNumber)> = all
            .iter()
            .map(|(group, done)| (group.clone(), done.release()))
            .collect();
        Ok(Some(
            self::wait(context, &keyring, &groups, patience).await?,
        ))
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

/// What programs are told: the groups that are done, and why it ended there where it failed.
fn document(
    all: &[(GroupName, Publication)],
    waited: Option<&[Waited]>,
    failed: Option<&str>,
) -> serde_json::Value {
    let publications = all.iter().map(|(group, done)| {
        let what = match done {
            Publication::Released { .. } => "released",
            Publication::Unchanged { .. } => "unchanged",
            Publication::Renewed { .. } => "renewed",
        };
        json!({"group": group, "release": done.release(), "what": what})
    });
    let publications: Vec<serde_json::Value> = publications.collect();
    let mut shown = json!({"groups": publications, "waited": waited});
    if let (Some(failed), Some(shown)) = (failed, shown.as_object_mut()) {
        shown.insert("failed".to_owned(), failed.into());
    }
    shown
}

fn show(
    format: Format,
    all: &[(GroupName, Publication)],
    waited: Option<&(Waiting, Vec<Waited>)>,
) -> anyhow::Result<Outcome> {
    if format == Format::Json {
        let waited = waited.map(|(_, all)| all.as_slice());
        output::line(serde_json::to_string_pretty(&document(all, waited, None))?);
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
/// where `collect` says so. `all` takes each group as it is done: a failure leaves those before it published.
pub(super) async fn publish_groups(
    context: &Context,
    groups: &[GroupName],
    choices: Choices,
    format: Format,
    collect: bool,
    patience: Option<Duration>,
    all: &mut Vec<(GroupName, Publication)>,
) -> anyhow::Result<Keyring> {
    let plans = plan(context, groups, choices)
        .await
        .context("nothing was published")?;
    for made in &plans.made {
        output::note(format!("keyring: {made}"));
    }
    for warning in &plans.warnings {
        output::note(warning.to_string());
    }
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
    Ok(plans.keyring)
}

/// A kubelet must not be newer than the API servers: one that a release brings to another group than secure waits until they
/// are as new on every secure node. With patience the wait is ours. Nor may secure go back behind a kubelet.
pub(super) async fn secure_first(
    context: &Context,
    keyring: &Keyring,
    planned: &Planned,
    patience: Option<Duration>,
) -> anyhow::Result<()> {
    let secure = GroupName::new(SECURE)?;
    if *planned.group() == secure {
        return skew::keep_ahead_of_kubelets(context, keyring, planned).await;
    }
    let Some(mut too_old) = skew::objection(context, keyring, planned).await? else {
        return Ok(());
    };
    let (status, _) = read_group_status(context, keyring, &secure).await?;
    // Also where it is complete by now: the node that stood against it may have come up between the two looks.
    if let Some((patience, release)) = patience.zip(status.published)
        && !matches!(status.rollout.verdict(release), Verdict::Stopped(_))
    {
        let groups = [(secure, release)];
        wait(context, keyring, &groups, patience).await?;
        match skew::objection(context, keyring, planned).await? {
            None => return Ok(()),
            Some(still) => too_old = still,
        }
    }
    let (has, brings) = planned.other_kubelet().unwrap_or_default();
    Err(anyhow::anyhow!(
        "it brings {brings} in the place of {has}, and a kubelet must not be newer than the API servers of group {SECURE} \
         ({too_old}). Publish again when all of them are as new; with --wait the publish waits for a rollout that is under way"
    ))
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
