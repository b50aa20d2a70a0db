//! `platformctl publish`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use shared::names::GroupName;

use super::EnvironmentArg;
use crate::context::Context;
use crate::dev::nodes::find_agent;
use crate::exit::{Outcome, mistake};
use crate::output;
use crate::publish::{Choices, Publication, STEPS, plan};
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
    /// Also put this platform-agent where user data says that it is (`platformctl build --agent` with the same file).
    /// By default the one beside platformctl or on the PATH, if it is one for machines.
    #[arg(long, value_name = "FILE", env = "PLATFORM_AGENT")]
    agent: Option<PathBuf>,
}

impl PublishArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let groups = context.workspace.select(&self.groups)?;
        let choices = Choices {
            allow_empty: self.allow_empty,
        };
        publish_groups(&context, &groups, choices).await?;
        if context.workspace.environment.on_aws() {
            upload_agent(&context, self.agent).await?;
        }
        Ok(Outcome::Done)
    }
}

/// Publishes what has changed of the groups, and says it.
pub(super) async fn publish_groups(
    context: &Context,
    groups: &[GroupName],
    choices: Choices,
) -> anyhow::Result<()> {
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
        let bar = output::progress(STEPS, group.as_str());
        let done = planned.publish(context, &plans.keyring, &bar).await;
        bar.finish_and_clear();
        let done = done.with_context(|| format!("group {group} was not published"))?;
        output::line(said(group.as_str(), &done));
    }
    Ok(())
}

/// Puts the agent that new machines install into the bucket. One that was asked for must be there; a publish by
/// somebody who has none is as good as any other.
async fn upload_agent(context: &Context, named: Option<PathBuf>) -> anyhow::Result<()> {
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
            return Ok(());
        }
    };
    if agent.upload_if_needed(context.store.as_ref()).await? {
        output::line(format!(
            "agent: put {} into the bucket, for new machines",
            agent.sha256.short()
        ));
    }
    Ok(())
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
