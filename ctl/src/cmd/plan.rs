//! `platformctl plan`.

use std::path::Path;

use clap::Args;

use super::EnvironmentArg;
use super::provision::{AgentArg, EngineArg, described, ground};
use crate::context::Context;
use crate::dev::signals::StopSignals;
use crate::exit::Outcome;
use crate::infra::{Goal, Session, for_destroy};
use crate::output::{self, Format};

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing to do, 1 failed, 2 usage or configuration, 3 an apply would change something."
)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    agent: AgentArg,
    /// What a destroy would do instead.
    #[arg(long)]
    destroy: bool,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl PlanArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let workspace = &context.workspace;
        let ground = ground(workspace, self.engine.engine.as_ref()).await?;
        ground.require_buckets(workspace)?;
        let (variables, goal) = if self.destroy {
            (for_destroy(workspace)?, Goal::Destroyed)
        } else {
            (
                described(&context, self.agent.agent).await?.0,
                Goal::AsDescribed,
            )
        };
        let mut session =
            Session::open(workspace, ground.engine, &variables, StopSignals::listen()?).await?;
        let planned = session.plan(goal).await?;
        match self.output {
            Format::Json => output::line(serde_json::to_string_pretty(&planned.plan)?),
            Format::Text => output::line(planned.plan.to_string()),
        }
        Ok(match planned.plan.is_empty() {
            true => Outcome::Done,
            false => Outcome::Differs,
        })
    }
}
