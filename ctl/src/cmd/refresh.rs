//! `platformctl refresh`.

use std::path::Path;

use clap::Args;

use shared::names::GroupName;

use super::EnvironmentArg;
use crate::context::Context;
use crate::exit::Outcome;
use crate::publish::{Publication, refresh};
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
        let keyring = keyring::read_required(&context).await?;
        // One group's failure must not let the signatures of the next expire.
        let mut failed = Vec::new();
        for group in context.workspace.select(&self.groups)? {
            match refresh(&context, &keyring, &group, self.force).await {
                Ok(done) => output::line(said(&group, &done)),
                Err(error) => failed.push(
                    error.context(format!("the signatures of group {group} were not renewed")),
                ),
            }
        }
        let Some(last) = failed.pop() else {
            return Ok(Outcome::Done);
        };
        for error in &failed {
            output::failure(error);
        }
        Err(last)
    }
}

/// What a renewal did; the directory's files were not looked at.
fn said(group: &GroupName, done: &Publication) -> String {
    match done {
        Publication::Renewed { release, expires } => format!(
            "{group}: the signatures of release {release} were renewed and expire at {expires:.0}"
        ),
        Publication::Unchanged { release } | Publication::Released { release, .. } => format!(
            "{group}: the signatures of release {release} are young enough; nothing was written"
        ),
    }
}
