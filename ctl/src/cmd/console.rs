//! `platformctl console`.

use std::path::Path;

use clap::Args;

use super::EnvironmentArg;
use crate::aws::Aws;
use crate::context::Workspace;
use crate::exit::{Outcome, mistake};
use crate::instances::{console, read_instances, select};
use crate::output;

#[derive(Debug, Args)]
pub(super) struct ConsoleArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The machine: its name, id, address or DNS name.
    node: String,
}

impl ConsoleArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let aws = Aws::of(&workspace).await?;
        let instances = read_instances(&aws, &workspace.environment).await?;
        let instance = select(&instances, &self.node).map_err(|e| mistake(e.to_string()))?;
        let text = console(&aws, instance).await?;
        if text.trim().is_empty() {
            output::note(format!(
                "EC2 has no console output of {} yet: it comes a few minutes after a boot, and of some instance types only \
                 then; the machine is {}",
                instance.label(),
                instance.state
            ));
        } else {
            output::line(text.trim_end());
        }
        Ok(Outcome::Done)
    }
}
