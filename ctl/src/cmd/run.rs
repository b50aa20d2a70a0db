//! `platformctl run`: every step from an empty account to two running groups. Each step looks first and says what it did, or that
//! there was nothing to do; whatever interrupts it, the next run goes on.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;

use super::EnvironmentArg;
use super::build::{RenderedUserData, place, write_manifests, write_user_data};
use super::doctor::CheckArgs;
use super::instances::show;
use super::provision::{
    AgentArg, Applied, ConsentArgs, Ground, converge, described, ground, say, upload_agent,
};
use super::publish::publish_groups;
use crate::context::{Context, Workspace};
use crate::dev::signals::StopSignals;
use crate::doctor::{Line, Options, Verdict, examine};
use crate::exit::{Outcome, mistake};
use crate::infra::{Interrupted, Session, Variables};
use crate::keyring;
use crate::kubeconfig::{DEFAULT_LIFETIME, issue_admin, write as write_kubeconfig};
use crate::output::{self, Format};
use crate::pki::Names;
use crate::publish::Choices;
use crate::ssh::{home_directory, install_key};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    #[command(flatten)]
    checks: CheckArgs,
    #[command(flatten)]
    agent: AgentArg,
    #[command(flatten)]
    consent: ConsentArgs,
}

impl RunArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let workspace = &context.workspace;
        let options = self.checks.options();
        let mut signals = StopSignals::listen()?;
        let ground = step(&mut signals, ground(workspace, options.engine.as_ref())).await?;
        step(&mut signals, doctor(workspace, &options)).await?;
        step(&mut signals, buckets(&ground, workspace)).await?;
        step(&mut signals, keyring(&context)).await?;
        let agent = self.agent.agent;
        let (variables, rendered) = step(&mut signals, build(&context, agent)).await?;
        step(&mut signals, publish(&context, &rendered)).await?;
        apply(workspace, ground, &variables, &self.consent).await?;
        step(&mut signals, access(&context)).await?;
        step(&mut signals, instances(workspace)).await?;
        Ok(Outcome::Done)
    }
}

/// A step that may be left anywhere: what it writes is whole or not there.
async fn step<T>(
    signals: &mut StopSignals,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    // They hold every client of AWS, which is much for a stack.
    let work = Box::pin(work);
    tokio::select! {
        done = work => done,
        () = signals.asked() => Err(Interrupted.into()),
    }
}

async fn doctor(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let report = examine(workspace, options).await;
    if report.has_failed() {
        output::line(report.text());
        return Err(mistake(
            "doctor: see above what to mend; nothing was changed",
        ));
    }
    let warns = |line: &&Line| line.verdict == Verdict::Warn;
    let warnings: Vec<&Line> = report.lines.iter().filter(warns).collect();
    for line in &warnings {
        let fix = line.fix.as_deref().unwrap_or_default();
        output::note(format!("doctor: {}: {} ({fix})", line.check, line.says));
    }
    said(
        "doctor",
        match warnings.len() {
            0 => "all is well".to_owned(),
            n => format!("nothing fails, {n} warning(s)"),
        },
    );
    Ok(())
}

async fn buckets(ground: &Ground, workspace: &Workspace) -> anyhow::Result<()> {
    let done = ground
        .survey
        .mend(&ground.aws, &workspace.environment)
        .await?;
    said_each("buckets", done, "nothing to do, both are as they must be");
    Ok(())
}

async fn keyring(context: &Context) -> anyhow::Result<()> {
    let changes = keyring::draft(context, Timestamp::now())
        .await?
        .changes()
        .to_vec();
    if !changes.is_empty() {
        keyring::read_or_create(context).await?;
    }
    said_each("keyring", changes, "nothing to do");
    Ok(())
}

async fn build(
    context: &Context,
    agent: Option<PathBuf>,
) -> anyhow::Result<(Variables, RenderedUserData)> {
    let workspace = &context.workspace;
    let out = place(workspace);
    let files = write_manifests(workspace, &workspace.groups, &out)?;
    let (variables, rendered) = described(context, agent).await?;
    write_user_data(&rendered.texts, &out)?;
    let number = files.len() + rendered.texts.len();
    said(
        "build",
        format!("wrote {number} files below {}", out.display()),
    );
    Ok((variables, rendered))
}

async fn publish(context: &Context, rendered: &RenderedUserData) -> anyhow::Result<()> {
    output::line("==> publish");
    publish_groups(
        context,
        &context.workspace.groups,
        Choices::default(),
        Format::Text,
        true,
        None,
    )
    .await?;
    upload_agent(context, rendered).await
}

async fn apply(
    workspace: &Workspace,
    ground: Ground,
    variables: &Variables,
    consent: &ConsentArgs,
) -> anyhow::Result<()> {
    output::line("==> apply");
    let mut session = Session::open(workspace, ground.engine, variables).await?;
    if converge(&mut session, workspace, consent).await? == Applied::Refused {
        return Err(mistake("the infrastructure was not changed"));
    }
    say(&session.outputs().await?);
    Ok(())
}

/// The ssh key and a kubeconfig on this machine.
async fn access(context: &Context) -> anyhow::Result<()> {
    let environment = &context.workspace.environment;
    let keyring = keyring::read_required(context).await?;
    let pki = keyring
        .content
        .pki
        .as_ref()
        .context("the keyring has no certificates")?;
    let installed = install_key(environment, &pki.ssh, &home_directory()?)?;
    let wrote = [
        (installed.wrote_key, &installed.key),
        (installed.wrote_config, &installed.config),
    ];
    let wrote = wrote.into_iter().filter(|(wrote, _)| *wrote);
    let wrote = wrote
        .map(|(_, path)| format!("wrote {}", path.display()))
        .collect();
    said_each("ssh key", wrote, "nothing to do");
    let names = Names::of(environment);
    let issued = issue_admin(pki, &names, DEFAULT_LIFETIME, Timestamp::now())?;
    let path = context.workspace.state_directory().join("kubeconfig");
    write_kubeconfig(&path, &issued, false)?;
    said(
        "kubeconfig",
        format!(
            "wrote {} for {}, until {:.0}",
            path.display(),
            issued.server,
            issued.ends
        ),
    );
    Ok(())
}

async fn instances(workspace: &Workspace) -> anyhow::Result<()> {
    output::line("==> instances");
    show(workspace, Format::Text).await
}

fn said(step: &str, what: impl AsRef<str>) {
    output::line(format!("==> {step}: {}", what.as_ref()));
}

fn said_each(step: &str, done: Vec<String>, nothing: &str) {
    if done.is_empty() {
        said(step, nothing);
    }
    for what in done {
        said(step, what);
    }
}
