//! `platformctl apply`.

use std::path::Path;

use clap::Args;

use super::EnvironmentArg;
use super::provision::{
    AgentArg, Applied, ConsentArgs, EngineArg, converge, described, ground, say,
};
use crate::context::Context;
use crate::dev::signals::StopSignals;
use crate::exit::{Outcome, mistake};
use crate::infra::Session;
use crate::output;

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    agent: AgentArg,
    #[command(flatten)]
    consent: ConsentArgs,
    /// Before it plans, release the lock of this id, whose holder has died.
    #[arg(long, value_name = "ID")]
    release_lock: Option<String>,
}

impl ApplyArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        self.consent.require(&self.environment.environment)?;
        let context = Context::open(directory, &self.environment.environment).await?;
        let workspace = &context.workspace;
        let ground = ground(workspace, self.engine.engine.as_ref()).await?;
        ground.require_buckets(workspace)?;
        let (variables, rendered) = described(&context, self.agent.agent).await?;
        let signals = StopSignals::listen()?;
        let mut session = Session::open(workspace, ground.engine, &variables, signals).await?;
        if let Some(id) = &self.release_lock {
            session.release_lock(id).await?;
            output::line(format!("released the lock {id}"));
        }
        if converge(&mut session, &context, &rendered, &self.consent).await? == Applied::Refused {
            return Err(mistake("nothing was changed"));
        }
        say(&session.outputs().await?);
        Ok(Outcome::Done)
    }
}
