//! The verbs, one file each.

mod apply;
mod artifacts;
mod build;
mod completions;
mod console;
mod destroy;
mod dev;
mod diff;
mod doctor;
mod etcd;
mod etcd_guard;
mod etcd_restore;
mod explain;
mod gc;
mod history;
mod init;
mod instances;
mod kubeconfig;
mod lint;
mod plan;
mod provision;
mod publish;
mod refresh;
mod replace;
mod rollback;
mod rollouts;
mod rotate;
mod run;
mod scale;
mod secrets;
mod ssh;
mod status;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit::Outcome;

/// Self-managed Kubernetes on AWS whose control plane is rolled out without kubectl.
#[derive(Debug, Parser)]
#[command(name = "platformctl", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 it differs (diff, doctor, plan, status, publish --wait, and a rollback that was declined)."
)]
pub struct Cli {
    /// Where environments/, manifests/, cloudinit/ and secrets/ are looked for.
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// More of what happens, on standard error (RUST_LOG overrides).
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write out a working directory: the environments' sample, the templates of manifests and user data, and terraform/.
    Init(init::InitArgs),
    /// Check everything that the environment needs, and say what to do; nothing is changed.
    Doctor(doctor::DoctorArgs),
    /// Make an environment exist, from an empty account to two running groups; again, it changes what differs.
    Run(run::RunArgs),
    /// Show what an apply would change of the infrastructure.
    Plan(plan::PlanArgs),
    /// Bring the infrastructure to what the environment says.
    Apply(apply::ApplyArgs),
    /// Destroy the infrastructure of an environment; its buckets stay unless told.
    Destroy(destroy::DestroyArgs),
    /// Render an environment's manifests, and its groups' user data, into a directory.
    Build(build::BuildArgs),
    /// Check an environment's files offline, by kubelet's own rules.
    Lint(lint::LintArgs),
    /// Show what a publish would change, or in what two releases differ; secrets are named, never shown.
    Diff(diff::DiffArgs),
    /// Show each group's releases: when, by whom, what each changed, and what became of it.
    History(history::HistoryArgs),
    /// Sign, encrypt and upload what has changed; nodes adopt it at their next poll.
    Publish(publish::PublishArgs),
    /// Publish the templates' files of an older release again, with today's secrets.
    Rollback(rollback::RollbackArgs),
    /// Keep groups' nodes from adopting anything, for a while.
    Pause(rollouts::PauseArgs),
    /// Lift a pause.
    Resume(rollouts::ResumeArgs),
    /// Have a halted release tried again.
    Retry(rollouts::RetryArgs),
    /// Take a node for gone.
    Forget(rollouts::ForgetArgs),
    /// Show what a node decided last, and why.
    Explain(explain::ExplainArgs),
    /// Remove from the bucket what nobody needs any more.
    Gc(gc::GcArgs),
    /// Sign the published metadata again where a third of its life or less is left.
    Refresh(refresh::RefreshArgs),
    /// Replace certificates, authorities, tokens and signing keys, step by step.
    Rotate(rotate::RotateArgs),
    /// Show each node's release, phase, last error and the age of its report.
    Status(status::StatusArgs),
    /// Show the machines: addresses, state, zone, release and phase.
    Instances(instances::InstancesArgs),
    /// Open a shell on a machine, or run a command there.
    Ssh(ssh::SshArgs),
    /// Issue a short-lived kubeconfig for an administrator.
    Kubeconfig(kubeconfig::KubeconfigArgs),
    /// Show what a machine wrote to its console as it booted.
    Console(console::ConsoleArgs),
    /// Change how many machines the compute group has.
    Scale(scale::ScaleArgs),
    /// End a machine, so that its group launches another.
    Replace(replace::ReplaceArgs),
    /// Files of your own that a pod needs, encrypted in the keyring and delivered with the next release.
    Secrets(secrets::SecretsArgs),
    /// Large public files of the machines: kubelet, CNI plugins, platform-agent itself.
    Artifacts(artifacts::ArtifactsArgs),
    /// etcd: its members, its backups, and what is restored from them.
    Etcd(etcd::EtcdArgs),
    /// The embedded default: a store and nodes on this machine.
    Dev(dev::DevArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
}

/// The environment a verb works on.
#[derive(Debug, Clone, Args)]
struct EnvironmentArg {
    /// The environment: environments/NAME.tfvars.
    #[arg(
        short = 'e',
        long = "environment",
        value_name = "NAME",
        env = "PLATFORM_ENVIRONMENT"
    )]
    environment: String,
}

impl Cli {
    /// Whether more of what happens was asked for.
    #[must_use]
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Runs the verb.
    ///
    /// # Errors
    /// What the verb says; [`crate::exit::code_of`] knows the exit code.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let directory = self.directory;
        match self.verb {
            Verb::Init(args) => args.run(&directory),
            Verb::Doctor(args) => args.run(&directory).await,
            Verb::Run(args) => Box::pin(args.run(&directory)).await,
            Verb::Plan(args) => args.run(&directory).await,
            Verb::Apply(args) => Box::pin(args.run(&directory)).await,
            Verb::Destroy(args) => args.run(&directory).await,
            Verb::Build(args) => args.run(&directory).await,
            Verb::Lint(args) => args.run(&directory),
            Verb::Diff(args) => args.run(&directory).await,
            Verb::History(args) => args.run(&directory).await,
            // Waiting for the nodes makes it large.
            Verb::Publish(args) => Box::pin(args.run(&directory)).await,
            Verb::Rollback(args) => Box::pin(args.run(&directory)).await,
            Verb::Pause(args) => args.run(&directory).await,
            Verb::Resume(args) => args.run(&directory).await,
            Verb::Retry(args) => args.run(&directory).await,
            Verb::Forget(args) => args.run(&directory).await,
            Verb::Explain(args) => args.run(&directory).await,
            Verb::Gc(args) => args.run(&directory).await,
            Verb::Refresh(args) => args.run(&directory).await,
            Verb::Rotate(args) => args.run(&directory).await,
            Verb::Status(args) => args.run(&directory).await,
            Verb::Instances(args) => args.run(&directory).await,
            Verb::Ssh(args) => args.run(&directory).await,
            Verb::Kubeconfig(args) => args.run(&directory).await,
            Verb::Console(args) => args.run(&directory).await,
            Verb::Scale(args) => args.run(&directory).await,
            Verb::Replace(args) => args.run(&directory).await,
            Verb::Secrets(args) => args.run(&directory).await,
            Verb::Artifacts(args) => args.run(&directory).await,
            Verb::Etcd(args) => Box::pin(args.run(&directory)).await,
            Verb::Dev(args) => Box::pin(args.run(&directory)).await,
            Verb::Completions(args) => Ok(args.run()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
