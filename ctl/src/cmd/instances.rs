//! `platformctl instances`.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;

use super::EnvironmentArg;
use crate::aws::Aws;
use crate::context::{Context, Workspace};
use crate::exit::Outcome;
use crate::instances::{as_json, read_fleet, read_reports, table};
use crate::output::{self, Format};
use crate::status::NodeReport;

#[derive(Debug, Args)]
#[command(
    after_help = "Columns: name, private address, public address, id, state, zone, and from the node's own report its release and phase."
)]
pub(super) struct InstancesArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl InstancesArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        show(&workspace, self.output).await?;
        Ok(Outcome::Done)
    }
}

/// Shows the machines of an environment.
pub(super) async fn show(workspace: &Workspace, format: Format) -> anyhow::Result<()> {
    let aws = Aws::of(workspace).await?;
    let (fleet, reports) =
        tokio::join!(read_fleet(&aws, &workspace.environment), reports(workspace));
    let fleet = fleet?;
    match format {
        Format::Json => output::line(serde_json::to_string_pretty(&as_json(
            &fleet.instances,
            &reports,
        ))?),
        Format::Text if fleet.instances.is_empty() => {
            output::note(format!("environment {} has no machines", workspace.name));
        }
        Format::Text => table(&fleet.instances, &reports)
            .iter()
            .for_each(output::line),
    }
    Ok(())
}

/// What the nodes report; the machines are worth showing without it.
async fn reports(workspace: &Workspace) -> BTreeMap<String, NodeReport> {
    let read = async {
        let context = Context::of(workspace.clone()).await?;
        read_reports(&context).await
    };
    match read.await {
        Ok(reports) => reports,
        Err(error) => {
            output::note(format!(
                "releases and phases are not shown: the nodes' reports cannot be read: {error:#}"
            ));
            BTreeMap::new()
        }
    }
}
