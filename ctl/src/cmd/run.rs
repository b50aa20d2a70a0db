//! `platformctl run`: every step from an empty account to two running groups. Each step looks first and says what it did, or that
//! there was nothing to do; whatever interrupts it, the next run goes on.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use shared::documents::Pki;

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
        self.consent.require(&self.environment.environment)?;
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let options = self.checks.options();
        let mut signals = StopSignals::listen()?;
        // First: it tells everything that is wrong, and what follows would stop at the first of it.
        let looked = doctor(&workspace, &options);
        step("doctor", &mut signals, looked).await?;
        let engine = options.engine.as_ref();
        let found = buckets(&workspace, engine);
        let ground = step("buckets", &mut signals, found).await?;
        let context = Context::of(workspace.clone()).await?;
        step("keyring", &mut signals, keyring(&context)).await?;
        let built = build(&context, self.agent.agent);
        let (variables, rendered) = step("build", &mut signals, built).await?;
        step("publish", &mut signals, publish(&context, &rendered)).await?;
        let applied = apply(
            &context,
            ground,
            &variables,
            &rendered,
            &self.consent,
            signals,
        );
        let mut signals = Box::pin(applied).await?;
        step("ssh key", &mut signals, ssh_key(&context)).await?;
        step("kubeconfig", &mut signals, kubeconfig(&context)).await?;
        step("instances", &mut signals, show(&workspace, Format::Text)).await?;
        Ok(Outcome::Done)
    }
}

/// A step that may be left anywhere: what it writes is whole or not there. It is said when it begins, so that who interrupts knows what.
async fn step<T>(
    name: &str,
    signals: &mut StopSignals,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    // They hold every client of AWS, which is much for a stack.
    let work = Box::pin(work);
    output::line(format!("==> {name}"));
    tokio::select! {
        biased;
        () = signals.asked() => Err(Interrupted.into()),
        done = work => done,
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

async fn buckets(workspace: &Workspace, engine: Option<&PathBuf>) -> anyhow::Result<Ground> {
    let ground = ground(workspace, engine).await?;
    let done = ground
        .survey
        .mend(&ground.aws, &workspace.environment)
        .await?;
    said_each("buckets", done, "nothing to do, both are as they must be");
    Ok(ground)
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
    publish_groups(
        context,
        &context.workspace.groups,
        Choices::default(),
        Format::Text,
        true,
        None,
        &mut Vec::new(),
    )
    .await?;
    upload_agent(context, rendered).await
}

/// The engine must not be torn from its state: it hears the signals itself. Gives them back.
async fn apply(
    context: &Context,
    ground: Ground,
    variables: &Variables,
    rendered: &RenderedUserData,
    consent: &ConsentArgs,
    signals: StopSignals,
) -> anyhow::Result<StopSignals> {
    output::line("==> apply");
    let workspace = &context.workspace;
    let mut session = Session::open(workspace, ground.engine, variables, signals).await?;
    if converge(&mut session, context, rendered, consent).await? == Applied::Refused {
        return Err(mistake("the infrastructure was not changed"));
    }
    say(&session.outputs().await?);
    Ok(session.into_signals())
}

/// The certificates, and the ssh key among them.
async fn pki(context: &Context) -> anyhow::Result<Pki> {
    let keyring = keyring::read_required(context).await?;
    let pki = keyring.content.pki;
    pki.context("the keyring has no certificates")
}

/// The ssh key on this machine.
async fn ssh_key(context: &Context) -> anyhow::Result<()> {
    let environment = &context.workspace.environment;
    let pki = pki(context).await?;
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
    Ok(())
}

/// A kubeconfig on this machine.
async fn kubeconfig(context: &Context) -> anyhow::Result<()> {
    let pki = pki(context).await?;
    let names = Names::of(&context.workspace.environment);
    let issued = issue_admin(&pki, &names, DEFAULT_LIFETIME, Timestamp::now())?;
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

fn said(step: &str, what: impl AsRef<str>) {
    output::line(format!("{step}: {}", what.as_ref()));
}

fn said_each(step: &str, done: Vec<String>, nothing: &str) {
    if done.is_empty() {
        said(step, nothing);
    }
    for what in done {
        said(step, what);
    }
}
