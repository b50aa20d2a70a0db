//! `platformctl refresh`.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;

use super::EnvironmentArg;
use crate::context::Context;
use crate::exit::{Outcome, mistake};
use crate::publish::refresh;
use crate::{keyring, output};

#[derive(Debug, Args)]
pub(super) struct RefreshArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups; by default all.
    groups: Vec<String>,
    /// Sign again even where it is not due.
    #[arg(long)]
    force: bool,
}

impl RefreshArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let keyring = keyring::read(&context).await?.ok_or_else(|| {
            mistake("there is no keyring, so nothing is published yet: `platformctl publish` first")
        })?;
        for group in context.workspace.select(&self.groups)? {
            let done = refresh(&context, &keyring, &group, self.force)
                .await
                .with_context(|| format!("the signatures of group {group} were not renewed"))?;
            output::line(super::publish::said(group.as_str(), &done));
        }
        Ok(Outcome::Done)
    }
}
