//! `platformctl status`.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::EnvironmentArg;
use crate::context::Context;
use crate::exit::Outcome;
use crate::keyring;
use crate::output::{self, Format, Redraw};
use crate::status::Snapshot;

/// Shows each group's rollout, and each node's release, phase, slot, probes, age of report and last error.
///
/// Exit code 3 where a node is not on the published release and well, a group has fewer nodes than its GROUP_asg_min, a
/// rollout is halted or paused, or something runs out within 30 days; and where EC2 could not be asked which machines run,
/// unless every group has as many nodes as it can have.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups; by default all.
    groups: Vec<String>,
    /// Show it again and again, until interrupted: in place on a terminal, else one below the other (as JSON, one a line).
    #[arg(short, long)]
    watch: bool,
    /// Seconds from one look to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "watch", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl StatusArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let groups = context.workspace.select(&self.groups)?;
        let keyring = keyring::read_required(&context).await?;
        if !self.watch {
            let snapshot = Snapshot::take(&context, &keyring, &groups).await?;
            match self.output {
                Format::Json => output::line(serde_json::to_string_pretty(&snapshot.as_json())?),
                Format::Text => snapshot.lines().iter().for_each(output::line),
            }
            return Ok(match snapshot.differs() {
                true => Outcome::Differs,
                false => Outcome::Done,
            });
        }
        let mut screen = Redraw::new();
        loop {
            // A look that fails is shown and tried again: whoever watches may be watching an outage.
            let shown = match Snapshot::take(&context, &keyring, &groups).await {
                Ok(snapshot) if self.output == Format::Json => {
                    output::stream(snapshot.as_json().to_string())
                }
                Ok(snapshot) => {
                    let mut lines = vec![format!("{:.0}", snapshot.at)];
                    lines.extend(snapshot.lines());
                    screen.show(&lines)
                }
                Err(e) => {
                    output::note(format!("{e:#}"));
                    Ok(())
                }
            };
            // Nobody looks any more, as with `| head`.
            if shown.is_err() {
                return Ok(Outcome::Done);
            }
            tokio::time::sleep(Duration::from_secs(self.interval)).await;
        }
    }
}
