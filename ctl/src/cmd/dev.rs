//! `platformctl dev`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::context::{LOCAL, Workspace};
use crate::dev::demo::demo;
use crate::dev::nodes::find_agent;
use crate::dev::up::{UpOptions, up};
use crate::exit::Outcome;

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    #[command(subcommand)]
    verb: DevVerb,
}

#[derive(Debug, Subcommand)]
enum DevVerb {
    /// Run a store and nodes on loopback, in the foreground; every other verb works against it with -e local.
    Up {
        /// The embedded environment.
        #[arg(short = 'e', long = "environment", value_name = "NAME", default_value = LOCAL)]
        environment: String,
        /// Nodes of the secure group [default: secure_asg_min].
        #[arg(long, value_name = "N")]
        secure: Option<u32>,
        /// Nodes of the compute group [default: compute_asg_min].
        #[arg(long, value_name = "N")]
        compute: Option<u32>,
        /// The platform-agent binary.
        #[arg(long, value_name = "FILE", env = "PLATFORM_AGENT")]
        agent: Option<PathBuf>,
    },
    /// Play the tour in a temporary directory: publish, amend, attack, repair, outage. Fails if any of it fails.
    Demo {
        /// The platform-agent binary.
        #[arg(long, value_name = "FILE", env = "PLATFORM_AGENT")]
        agent: Option<PathBuf>,
        /// Keep the directory and say where it is.
        #[arg(long)]
        keep: bool,
    },
}

impl DevArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        match self.verb {
            DevVerb::Up {
                environment,
                secure,
                compute,
                agent,
            } => {
                let options = UpOptions {
                    agent,
                    secure,
                    compute,
                };
                up(Workspace::open(directory, &environment)?, options).await?;
            }
            DevVerb::Demo { agent, keep } => Box::pin(demo(find_agent(agent)?, keep)).await?,
        }
        Ok(Outcome::Done)
    }
}
