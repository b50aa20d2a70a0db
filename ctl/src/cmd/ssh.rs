//! `platformctl ssh`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;

use super::EnvironmentArg;
use crate::aws::Aws;
use crate::context::{Context, Workspace};
use crate::exit::{Outcome, mistake};
use crate::instances::{read_instances, select};
use crate::keyring;
use crate::output;
use crate::ssh::{arguments, home_directory, key_path, write_key};

#[derive(Debug, Args)]
pub(super) struct SshArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The machine: its name, id, address or DNS name.
    node: String,
    /// Go to its address in the VPC though it has a public one.
    #[arg(long)]
    private: bool,
    /// A command to run there instead of a shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl SshArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let home = home_directory()?;
        let aws = Aws::of(&workspace).await?;
        let instances = read_instances(&aws, &workspace.environment).await?;
        let instance = select(&instances, &self.node).map_err(|e| mistake(e.to_string()))?;
        let key = key_path(&workspace.environment, &home);
        if !key.exists() {
            let context = Context::of(workspace.clone()).await?;
            let keyring = keyring::read_required(&context).await?;
            let pki = keyring.content.pki.as_ref();
            let pki =
                pki.ok_or_else(|| mistake("the keyring holds no ssh key yet: publish first"))?;
            write_key(&workspace.environment, &pki.ssh, &home)?;
            output::note(format!("wrote {}", key.display()));
        }
        let arguments =
            arguments(instance, &key, self.private, &self.command).ok_or_else(|| {
                mistake(format!(
                    "{} has no address: it is {}",
                    instance.label(),
                    instance.state
                ))
            })?;
        // In our place: its terminal, its signals and its exit code are ssh's own.
        let error = Command::new("ssh").args(arguments).exec();
        if error.kind() == std::io::ErrorKind::NotFound {
            return Err(mistake(
                "there is no ssh on the PATH: install OpenSSH's client; the build container has it",
            ));
        }
        Err(error).context("ssh cannot be started")
    }
}
