//! `platformctl publish`.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;

use super::EnvironmentArg;
use crate::context::Context;
use crate::exit::Outcome;
use crate::output;
use crate::publish::{Choices, Publication, STEPS, plan};

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups; by default all, secure first.
    groups: Vec<String>,
    /// Publish even where a group would run nothing: its static pods will all stop.
    #[arg(long)]
    allow_empty: bool,
}

impl PublishArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let groups = context.workspace.select(&self.groups)?;
        let choices = Choices {
            allow_empty: self.allow_empty,
        };
        let plans = plan(&context, &groups, choices)
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
            let done = planned.publish(&context, &plans.keyring, &bar).await;
            bar.finish_and_clear();
            let done = done.with_context(|| format!("group {group} was not published"))?;
            output::line(said(group.as_str(), &done));
        }
        Ok(Outcome::Done)
    }
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
