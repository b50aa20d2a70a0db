//! The engine at work on one environment: init, plan, apply.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use super::directory::{BACKEND, RunDirectory};
use super::lock::{HeldLock, read_held_lock};
use super::log::{self, Diagnostic, Event};
use super::plan::Plan;
use super::process::{Ended, Interrupted, follow};
use super::progress::Progress;
use super::variables::Variables;
use crate::context::Workspace;
use crate::dev::signals::StopSignals;
use crate::engine_version::Engine;
use crate::output;

/// The file of a plan, in the run directory.
const PLAN: &str = "plan.bin";

/// What a plan is to bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// What the environment says.
    AsDescribed,
    /// Nothing left.
    Destroyed,
}

/// The engine, initialised for an environment. No other run of this working directory is at work meanwhile.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    run: RunDirectory,
    environment: String,
    region: String,
    profile: Option<String>,
    signals: StopSignals,
}

/// A plan, kept in a file until it is applied.
#[derive(Debug)]
pub struct Planned {
    /// What it would do.
    pub plan: Plan,
}

/// What the configuration says of what it made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outputs(BTreeMap<String, Value>);

/// The engine failed.
#[derive(Debug, thiserror::Error)]
#[error("{engine} could not {what}:\n  {}", .problems.join("\n  "))]
struct EngineFailed {
    engine: String,
    what: &'static str,
    problems: Vec<String>,
}

/// Somebody else holds the lock of the state.
#[derive(Debug, thiserror::Error)]
#[error(
    "{lock}. Wait for that run. If it has died (ask {}), release its lock: `platformctl apply -e {environment} --release-lock {}` (or `destroy`, if that was being done)",
    lock.who, lock.id
)]
struct Locked {
    lock: HeldLock,
    environment: String,
}

#[derive(Deserialize)]
struct OutputValue {
    value: Value,
}

// === impl Outputs ===

impl Outputs {
    /// A text output.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A text within an output that is a map.
    #[must_use]
    pub fn entry(&self, name: &str, key: &str) -> Option<&str> {
        self.0.get(name)?.get(key)?.as_str()
    }
}

// === impl Session ===

impl Session {
    /// Lays the run directory out and initialises the engine with the remote state. `signals` were listened for before anything
    /// was begun: whatever came since counts.
    ///
    /// # Errors
    /// As [`RunDirectory::prepare`]; an init that fails; [`Interrupted`].
    pub(crate) async fn open(
        workspace: &Workspace,
        engine: Engine,
        variables: &Variables,
        mut signals: StopSignals,
    ) -> anyhow::Result<Self> {
        let environment = &workspace.environment;
        let mut session = Self {
            run: RunDirectory::prepare(workspace, variables, &mut signals).await?,
            engine,
            environment: environment.name.to_string(),
            region: environment.region.to_string(),
            profile: environment.profile.as_ref().map(ToString::to_string),
            signals,
        };
        let backend = format!("-backend-config={BACKEND}");
        let ended = session
            .run(
                "init",
                &[
                    "init",
                    "-input=false",
                    "-no-color",
                    "-reconfigure",
                    &backend,
                ],
                |_| {},
            )
            .await?;
        session.judge(&ended, "prepare its run", Vec::new())?;
        Ok(session)
    }

    /// Plans; nothing is changed.
    ///
    /// # Errors
    /// A state that is locked, with who holds it; mistakes that only the account shows; [`Interrupted`].
    pub async fn plan(&mut self, goal: Goal) -> anyhow::Result<Planned> {
        let out = format!("-out={PLAN}");
        let mut arguments = vec!["plan", "-json", "-input=false", out.as_str()];
        if goal == Goal::Destroyed {
            arguments.push("-destroy");
        }
        let mut diagnostics = Vec::new();
        let ended = self
            .run("plan", &arguments, |line| {
                if let Some(Event::Diagnostic(diagnostic)) = log::read(line) {
                    diagnostics.push(diagnostic);
                }
            })
            .await?;
        self.judge(&ended, "plan", diagnostics)?;
        let mut shown = String::new();
        let ended = self
            .run("show", &["show", "-json", PLAN], |line| {
                shown.push_str(line)
            })
            .await?;
        self.judge(&ended, "show its plan", Vec::new())?;
        let plan = Plan::read(shown.as_bytes(), &self.environment)?;
        Ok(Planned { plan })
    }

    /// Does what was planned, showing each resource.
    ///
    /// # Errors
    /// Each failure with its resource; [`Interrupted`] when what had begun is done. What was made is in the state in both cases.
    pub async fn apply(&mut self, planned: Planned) -> anyhow::Result<()> {
        let mut progress = Progress::new(planned.plan.changes.len());
        let mut diagnostics = Vec::new();
        let ended = self
            .run(
                "apply",
                &["apply", "-json", "-input=false", PLAN],
                |line| match log::read(line) {
                    Some(Event::Diagnostic(diagnostic)) => diagnostics.push(diagnostic),
                    Some(event) => progress.show(&event),
                    None => {}
                },
            )
            .await;
        progress.finish();
        self.judge(&ended?, "apply its plan", diagnostics)
    }

    /// What the configuration says of what is there.
    ///
    /// # Errors
    /// A state that cannot be read; [`Interrupted`].
    pub async fn outputs(&mut self) -> anyhow::Result<Outputs> {
        let mut text = String::new();
        let ended = self
            .run("output", &["output", "-json"], |line| text.push_str(line))
            .await?;
        self.judge(&ended, "read the state", Vec::new())?;
        let values: BTreeMap<String, OutputValue> =
            serde_json::from_str(&text).context("the outputs cannot be read")?;
        Ok(Outputs(
            values
                .into_iter()
                .map(|(name, output)| (name, output.value))
                .collect(),
        ))
    }

    /// Releases a lock whose holder has died.
    ///
    /// # Errors
    /// A lock with another id, or none.
    pub async fn release_lock(&mut self, id: &str) -> anyhow::Result<()> {
        let ended = self
            .run("unlock", &["force-unlock", "-force", id], |_| {})
            .await?;
        self.judge(&ended, "release the lock", Vec::new())
    }

    /// Ends it; the signals go on to whoever works next.
    pub(crate) fn into_signals(self) -> StopSignals {
        self.signals
    }

    /// Waits until the operator wants to stop.
    pub async fn asked_to_stop(&mut self) {
        self.signals.asked().await;
    }

    async fn run(
        &mut self,
        name: &str,
        arguments: &[&str],
        line: impl FnMut(&str),
    ) -> anyhow::Result<Ended> {
        let mut command = Command::new(&self.engine.program);
        command
            .args(arguments.iter().map(OsStr::new))
            .current_dir(self.run.path())
            .env("TF_IN_AUTOMATION", "1")
            .env("TF_INPUT", "0")
            .env("CHECKPOINT_DISABLE", "1")
            .env("AWS_REGION", &self.region)
            // Both would make it look for another state, or for this one at another place.
            .env_remove("TF_WORKSPACE")
            .env_remove("TF_DATA_DIR");
        // Arguments of the operator's own would make the plan another one than is shown.
        for verb in ["", "_plan", "_apply", "_show", "_output"] {
            command.env_remove(format!("TF_CLI_ARGS{verb}"));
        }
        if let Some(profile) = &self.profile {
            command.env("AWS_PROFILE", profile);
        }
        let lock = self.run.lock().context("cannot pass the run's lock on")?;
        let ended = follow(
            command,
            self.run.path(),
            name,
            lock,
            &mut self.signals,
            line,
        )
        .await;
        match ended {
            // No failure of the engine's.
            Err(error) if error.is::<Interrupted>() => Err(error),
            ended => {
                ended.with_context(|| format!("{} failed to {name}", self.engine.program.display()))
            }
        }
    }

    fn judge(
        &self,
        ended: &Ended,
        what: &'static str,
        diagnostics: Vec<Diagnostic>,
    ) -> anyhow::Result<()> {
        let (errors, warnings): (Vec<_>, Vec<_>) =
            diagnostics.into_iter().partition(Diagnostic::is_error);
        for warning in warnings {
            output::note(format!("warning: {}", warning.text()));
        }
        if ended.interrupted {
            for error in errors {
                output::note(format!("failed: {}", error.text()));
            }
            return Err(Interrupted.into());
        }
        if ended.status.success() {
            return Ok(());
        }
        let locked = errors
            .iter()
            .find_map(|e| read_held_lock(&e.summary, &e.detail));
        if let Some(lock) = locked {
            return Err(anyhow!(Locked {
                lock,
                environment: self.environment.clone(),
            }));
        }
        let mut problems: Vec<String> = errors.iter().map(Diagnostic::text).collect();
        if problems.is_empty() {
            problems.extend(ended.stderr.lines().map(str::to_owned));
        }
        if problems.is_empty() {
            problems.push(format!("it ended with {}", ended.status));
        }
        Err(anyhow!(EngineFailed {
            engine: self.engine.kind.to_string(),
            what,
            problems,
        }))
    }
}
