//! `platformctl doctor`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use url::Url;

use super::EnvironmentArg;
use crate::context::Workspace;
use crate::doctor::{ADDRESS_URL, Options, examine};
use crate::exit::Outcome;
use crate::output::{self, Format};

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all well or warnings alone, 2 usage or configuration, 3 something fails or expires within 30 days."
)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    #[command(flatten)]
    checks: CheckArgs,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

/// What the checks are told.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The address that this machine has on the internet, instead of asking for it.
    #[arg(long, value_name = "IP", env = "PLATFORM_PUBLIC_ADDRESS")]
    public_address: Option<Ipv4Addr>,
    /// What answers a GET with the caller's address.
    #[arg(long, value_name = "URL", env = "PLATFORM_ADDRESS_URL", default_value = ADDRESS_URL)]
    address_url: Url,
    /// The terraform or tofu to use; by default the one on the PATH.
    #[arg(long, value_name = "FILE", env = "PLATFORM_ENGINE")]
    engine: Option<PathBuf>,
}

impl CheckArgs {
    pub(super) fn options(self) -> Options {
        Options {
            public_address: self.public_address,
            address_url: self.address_url,
            engine: self.engine,
            path: std::env::var_os("PATH").unwrap_or_default(),
            now: Timestamp::now(),
        }
    }
}

impl DoctorArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let report = examine(&workspace, &self.checks.options()).await;
        match self.output {
            Format::Json => output::line(serde_json::to_string_pretty(&report)?),
            Format::Text => output::line(report.text()),
        }
        Ok(if report.differs() {
            Outcome::Differs
        } else {
            Outcome::Done
        })
    }
}
