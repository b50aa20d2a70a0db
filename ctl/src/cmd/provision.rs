//! What the verbs about the infrastructure share: their arguments, and the operator's consent.

use std::io::{IsTerminal as _, Write as _, stderr, stdin};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::build::{RenderedUserData, render_user_data};
use super::etcd_guard::{WaiverArgs, before_apply};
use crate::aws::Aws;
use crate::context::{Context, Workspace};
use crate::engine_version::{Engine, find_engine};
use crate::exit::mistake;
use crate::infra::buckets::{Survey, survey};
use crate::infra::{Goal, Interrupted, Outputs, Plan, Session, Variables, variables};
use crate::keyring;
use crate::output;

/// Which engine.
#[derive(Debug, Args)]
pub(super) struct EngineArg {
    /// The terraform or tofu to use; by default the one on the PATH.
    #[arg(long, value_name = "FILE", env = "PLATFORM_ENGINE")]
    pub(super) engine: Option<PathBuf>,
}

/// Which agent.
#[derive(Debug, Args)]
pub(super) struct AgentArg {
    /// The platform-agent that machines install at their first boot; by default the one beside platformctl or on the
    /// PATH.
    #[arg(long, value_name = "FILE", env = "PLATFORM_AGENT")]
    pub(super) agent: Option<PathBuf>,
}

/// What a script says beforehand.
#[derive(Debug, Args)]
pub(super) struct ConsentArgs {
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
    /// The environment's name: what is typed where the secure group would become smaller or go.
    #[arg(long, value_name = "NAME")]
    pub(super) confirm: Option<String>,
    #[command(flatten)]
    pub(super) waiver: WaiverArgs,
}

/// The account as the verbs need it: the right one, with both buckets looked at.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) engine: Engine,
    pub(super) aws: Aws,
    pub(super) survey: Survey,
}

/// Everything that can be wrong before anything is changed: the engine, the account, the buckets.
pub(super) async fn ground(
    workspace: &Workspace,
    named: Option<&PathBuf>,
) -> anyhow::Result<Ground> {
    let aws = Aws::of(workspace).await?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let engine = find_engine(named.map(PathBuf::as_path), &path)
        .await
        .map_err(|error| mistake(error.to_string()))?;
    let caller = aws.require_account(&workspace.environment).await?;
    let survey = survey(&aws, &workspace.environment, &caller.account).await?;
    Ok(Ground {
        engine,
        aws,
        survey,
    })
}

// === impl ConsentArgs ===

impl ConsentArgs {
    /// Refuses, before anything is begun, a wrong name, and to work where nobody could be asked.
    pub(super) fn require(&self, environment: &str) -> anyhow::Result<()> {
        if let Some(given) = &self.confirm
            && given != environment
        {
            return Err(mistake(format!(
                "--confirm {given:?} is not the name of this environment, which is {environment:?}; nothing was changed"
            )));
        }
        if self.yes || self.confirm.is_some() || stdin().is_terminal() {
            return Ok(());
        }
        Err(mistake(
            "nobody can be asked here (standard input is no terminal): say --yes; nothing was changed",
        ))
    }
}

// === impl Ground ===

impl Ground {
    /// Refuses to go on without the buckets.
    pub(super) fn require_buckets(&self, workspace: &Workspace) -> anyhow::Result<()> {
        let missing: Vec<&str> = self
            .survey
            .buckets
            .iter()
            .filter(|bucket| !bucket.exists)
            .map(|bucket| bucket.name.as_str())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(mistake(format!(
            "there is no bucket {} yet: `platformctl run -e {}` makes it",
            missing.join(", nor "),
            workspace.name
        )))
    }
}

/// What the environment says, with the keyring's ssh key and each group's user data.
pub(super) async fn described(
    context: &Context,
    agent: Option<PathBuf>,
) -> anyhow::Result<(Variables, RenderedUserData)> {
    let workspace = &context.workspace;
    let keyring = keyring::read_required(context).await?;
    let pki = keyring
        .content
        .pki
        .as_ref()
        .context("the keyring has no ssh key yet: `platformctl publish` makes it")?;
    let rendered = render_user_data(workspace, &workspace.groups, agent).await?;
    let variables = variables(workspace, &pki.ssh.public, &rendered.texts)?;
    Ok((variables, rendered))
}

/// How an attempt to apply ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applied {
    Nothing,
    Done,
    Refused,
}

/// Plans, shows, asks and applies. The agent that new machines install is uploaded once the operator has agreed.
pub(super) async fn converge(
    session: &mut Session,
    context: &Context,
    rendered: &RenderedUserData,
    consent: &ConsentArgs,
) -> anyhow::Result<Applied> {
    let workspace = &context.workspace;
    output::note("planning…");
    let planned = session.plan(Goal::AsDescribed).await?;
    output::line(planned.plan.to_string());
    if planned.plan.is_empty() {
        // An agent that is gone from the bucket is no change of the infrastructure, and machines could not start all the same.
        upload_agent(context, rendered).await?;
        return Ok(Applied::Nothing);
    }
    if !agreed(session, &planned.plan, workspace, consent).await? {
        return Ok(Applied::Refused);
    }
    upload_agent(context, rendered).await?;
    session.apply(planned).await?;
    Ok(Applied::Done)
}

/// Whether the operator agrees: with a yes, or where the secure group is at risk with the environment's name.
async fn agreed(
    session: &mut Session,
    plan: &Plan,
    workspace: &Workspace,
    consent: &ConsentArgs,
) -> anyhow::Result<bool> {
    let dangers = plan.dangers();
    if !dangers.is_empty() {
        Box::pin(before_apply(workspace, plan, &consent.waiver)).await?;
        let why = dangers.join("; ");
        return named(session, workspace, consent, &why).await;
    }
    if consent.yes {
        return Ok(true);
    }
    let answer = ask(session, "apply this? [y/N] ", "--yes").await?;
    Ok(matches!(answer.as_str(), "y" | "Y" | "yes"))
}

/// Whether the operator has named the environment; `why` says why the name is needed.
pub(super) async fn named(
    session: &mut Session,
    workspace: &Workspace,
    consent: &ConsentArgs,
    why: &str,
) -> anyhow::Result<bool> {
    let name = workspace.name.as_str();
    let answer = match &consent.confirm {
        Some(given) => given.clone(),
        None => {
            output::note(format!("{why}."));
            let flag = format!("--confirm {name}");
            ask(session, "the environment's name, to go on: ", &flag).await?
        }
    };
    if answer != name && consent.confirm.is_some() {
        return Err(mistake(format!(
            "--confirm {answer:?} is not the name of this environment, which is {name:?}; the infrastructure was not changed"
        )));
    }
    Ok(answer == name)
}

/// A line from the terminal.
async fn ask(session: &mut Session, question: &str, flag: &str) -> anyhow::Result<String> {
    if !stdin().is_terminal() {
        return Err(mistake(format!(
            "nobody can be asked here (standard input is no terminal): say {flag}; the infrastructure was not changed"
        )));
    }
    let _ = write!(stderr(), "{question}");
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        stdin().read_line(&mut line).map(|_| line)
    });
    tokio::select! {
        line = read => Ok(line?.context("the answer cannot be read")?.trim().to_owned()),
        () = session.asked_to_stop() => Err(Interrupted.into()),
    }
}

/// Puts the agent that new machines install where their user data says that it is.
pub(super) async fn upload_agent(
    context: &Context,
    rendered: &RenderedUserData,
) -> anyhow::Result<()> {
    let agent = &rendered.agent;
    if agent.upload_if_needed(context.store.as_ref()).await? {
        let digest = agent.sha256.short();
        output::line(format!(
            "agent: put {digest} into the bucket, for new machines"
        ));
    }
    Ok(())
}

/// Says where things are.
pub(super) fn say(outputs: &Outputs) {
    if let Some(endpoint) = outputs.text("api_endpoint") {
        output::line(format!("API server: {endpoint}"));
    }
    for group in ["secure", "compute"] {
        if let Some(name) = outputs.entry("asg_names", group) {
            output::line(format!("{group}: auto-scaling group {name}"));
        }
    }
}
