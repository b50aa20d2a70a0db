//! `platformctl destroy`.

use std::path::Path;

use clap::Args;

use super::EnvironmentArg;
use super::etcd_guard::before_destroy;
use super::provision::{ConsentArgs, EngineArg, Ground, ground, named};
use crate::context::Workspace;
use crate::dev::signals::StopSignals;
use crate::exit::{Outcome, mistake};
use crate::infra::buckets::remove;
use crate::infra::{Goal, Session, for_destroy};
use crate::output;

#[derive(Debug, Args)]
pub(super) struct DestroyArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    consent: ConsentArgs,
    /// Remove the buckets too, with every release, the keyring and etcd's backups in them.
    #[arg(long)]
    buckets: bool,
    /// Before anything else, release the lock of this id, whose holder has died.
    #[arg(long, value_name = "ID")]
    release_lock: Option<String>,
}

impl DestroyArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let Ground {
            engine,
            aws,
            survey,
        } = ground(&workspace, self.engine.engine.as_ref()).await?;
        let state = survey.buckets.iter().any(|bucket| {
            let named = workspace.environment.terraform_bucket.as_ref();
            bucket.exists && named.is_some_and(|name| name.as_str() == bucket.name)
        });
        if state {
            let variables = for_destroy(&workspace)?;
            let signals = StopSignals::listen()?;
            let mut session = Session::open(&workspace, engine, &variables, signals).await?;
            if let Some(id) = &self.release_lock {
                session.release_lock(id).await?;
                output::line(format!("released the lock {id}"));
            }
            output::note("planning…");
            let planned = session.plan(Goal::Destroyed).await?;
            output::line(planned.plan.to_string());
            Box::pin(before_destroy(
                &workspace,
                &survey,
                self.buckets,
                &self.consent.waiver,
            ))
            .await?;
            let why = match self.buckets {
                true => {
                    "everything above is destroyed, and both buckets with the keyring and every backup"
                }
                false => "everything above is destroyed; the buckets stay",
            };
            let nothing = planned.plan.is_empty() && !self.buckets;
            if !nothing && !named(&mut session, &workspace, &self.consent, why).await? {
                return Err(mistake("nothing was destroyed"));
            }
            if !planned.plan.is_empty() {
                session.apply(planned).await?;
                output::line(format!(
                    "destroyed the infrastructure of {}",
                    workspace.name
                ));
            }
        } else {
            output::line("nothing to destroy: there is no state");
        }
        if self.buckets {
            if self.consent.confirm.as_deref() != Some(workspace.name.as_str()) && !state {
                return Err(mistake(format!(
                    "the buckets go only with --confirm {}",
                    workspace.name
                )));
            }
            for done in remove(&aws, &workspace.environment, &survey).await? {
                output::line(done);
            }
        }
        Ok(Outcome::Done)
    }
}
