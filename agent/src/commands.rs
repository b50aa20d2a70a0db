//! The verbs of the command line; each says how the process ends.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use shared::documents::Hold;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{Command, EtcdArgs, EtcdVerb, HoldArgs};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, ConfigError};
use crate::disk::{DiskError, verify_offline};
use crate::engine::{Agent, Ended, Outcome};
use crate::etcd::{self, Material};
use crate::hold::HoldFile;
use crate::metrics::Metrics;
use crate::status::NodeIdentity;
use crate::systemd::ServiceManager;
use crate::{http, parts, starting};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Done,
    /// 1
    Failed,
    /// 2
    Usage,
    /// 3
    Differs,
}

/// Carries a verb out.
///
/// # Errors
/// Whatever went wrong; [`exit_of`] says how to end then.
pub async fn carry_out(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(args) => Box::pin(run(&Config::load(&args.config)?)).await,
        Command::Once(args) => Box::pin(once(&Config::load(&args.config)?)).await,
        Command::Verify(args) => verify(&Config::load(&args.config)?),
        Command::Hold(args) => hold(&args),
        Command::Etcd(args) => Box::pin(etcd(&args)).await,
    }
}

/// How to end after an error: a bad configuration and a second agent are the caller's mistakes.
#[must_use]
pub fn exit_of(error: &anyhow::Error) -> Exit {
    let second = matches!(
        error.downcast_ref::<DiskError>(),
        Some(DiskError::Locked { .. } | DiskError::OtherNode { .. })
    );
    if second || error.downcast_ref::<ConfigError>().is_some() {
        return Exit::Usage;
    }
    Exit::Failed
}

// === impl Exit ===

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Differs => 3,
        }
    }
}

async fn run(config: &Config) -> anyhow::Result<Exit> {
    let shutdown = on_signal().context("cannot listen for signals")?;
    // First of all: what keeps the agent from starting is to be seen there as well.
    let metrics = Metrics::new(config.poll_interval);
    let server = config.metrics_listen.map(|address| {
        let metrics = metrics.clone();
        tokio::spawn(async move {
            http::serve(address, metrics).await;
        })
    });
    let mut service_manager = ServiceManager::from_environment();
    let Some(facts) = parts::wait_for_facts(config, &mut service_manager, shutdown.clone()).await
    else {
        return Ok(Exit::Done);
    };
    let node = facts.id.clone();
    let mut parts = match parts::open(config, facts, metrics.clone()).await {
        Ok(parts) => parts,
        Err(error) => {
            // Who misused the machine reads standard error, and must not overwrite the status of the agent that runs.
            if exit_of(&error) == Exit::Failed {
                // Boxed: rarely needed, and large.
                Box::pin(starting::failed(config, node, &metrics, &error, shutdown)).await;
            }
            return Err(error);
        }
    };
    parts.service_manager = service_manager;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        environment = %config.environment,
        group = %config.group,
        node = %parts.identity.node,
        bucket = config.bucket,
        release = ?parts.disk.release(),
        "platform-agent"
    );
    let ended = Box::pin(Agent::new(parts).run(shutdown)).await;
    if let Some(server) = server {
        server.abort();
    }
    // systemd starts the agent again in any case (Restart=always).
    Ok(match ended {
        Ended::Stopped | Ended::Updated => Exit::Done,
        Ended::Unconfirmed => Exit::Failed,
    })
}

/// Becomes true at the first SIGTERM or SIGINT.
fn on_signal() -> std::io::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(true);
    });
    Ok(stopped)
}

async fn once(config: &Config) -> anyhow::Result<Exit> {
    let facts = parts::facts(config)?;
    let metrics = Metrics::new(config.poll_interval);
    let mut agent = Agent::new(parts::open(config, facts, metrics).await?);
    let outcome = agent.once().await;
    let (line, exit) = ended(&agent, outcome)?;
    say(&line)?;
    Ok(exit)
}

/// What a person is told of one pass, and how it ends: only a node that is well and has what is published is done.
pub(crate) fn ended(agent: &Agent, outcome: Outcome) -> anyhow::Result<(String, Exit)> {
    let release = match agent.release() {
        Some(n) => format!("release {n}"),
        None => "no release".to_owned(),
    };
    let error = agent.error();
    Ok(match (outcome, error, agent.waits_for()) {
        (Outcome::Updated, _, _) => ("updated this agent: run it again".to_owned(), Exit::Done),
        (Outcome::Held, _, _) => {
            let reason = agent.hold().map_or("", |h| h.reason.as_str());
            (format!("{release}, held: {reason}"), Exit::Differs)
        }
        (Outcome::Adopted(adopted), Some(error), _) => anyhow::bail!(
            "adopted release {adopted}, but {}: {}",
            error.phase,
            error.message
        ),
        (Outcome::Adopted(adopted), None, Some((published, why))) => (
            format!("adopted release {adopted}; release {published} is published and waits: {why}"),
            Exit::Differs,
        ),
        (Outcome::Adopted(adopted), None, None) => {
            (format!("adopted release {adopted}"), Exit::Done)
        }
        (_, Some(error), _) => {
            anyhow::bail!("{release} stays; {}: {}", error.phase, error.message)
        }
        (Outcome::Failed | Outcome::Interrupted, None, _) => {
            anyhow::bail!("{release} stays; interrupted")
        }
        (Outcome::Unchanged | Outcome::Waiting, None, Some((published, why))) => (
            format!("{release} stays; release {published} is published and waits: {why}"),
            Exit::Differs,
        ),
        (Outcome::Unchanged | Outcome::Waiting, None, None) if agent.release().is_none() => {
            ("nothing is published yet".to_owned(), Exit::Differs)
        }
        (Outcome::Unchanged | Outcome::Waiting, None, None) => {
            (format!("{release} is current"), Exit::Done)
        }
    })
}

fn verify(config: &Config) -> anyhow::Result<Exit> {
    let seen = verify_offline(&parts::paths(config))?;
    for drift in &seen.drift {
        say(&format!("{}: {}", drift.path, drift.kind))?;
    }
    for foreign in &seen.foreign {
        say(&format!(
            "manifests/{foreign}: not the agent's, and kubelet runs it: move it out of the manifest directory"
        ))?;
    }
    if let Some(release) = seen.applying {
        say(&format!("release {release} is half applied"))?;
    }
    let Some(release) = seen.release else {
        say("no release has been adopted yet")?;
        return Ok(Exit::Differs);
    };
    if !seen.copy_intact {
        say(&format!(
            "the verified copy of release {release} is damaged"
        ))?;
    }
    // No drift that the agent could repair, and yet the node runs what nobody published.
    if seen.is_clean() && seen.copy_intact && seen.foreign.is_empty() {
        say(&format!("{} files as in release {release}", seen.files))?;
        return Ok(Exit::Done);
    }
    Ok(Exit::Differs)
}

fn hold(args: &HoldArgs) -> anyhow::Result<Exit> {
    let config = Config::load(&args.config)?;
    let file = hold_file(&config.state_directory)?;
    let Some(reason) = args.reason.as_ref().filter(|_| !args.lift) else {
        file.lift()?;
        say("lifted: the agent repairs and adopts again from its next poll on")?;
        return Ok(Exit::Done);
    };
    let since = SystemClock.now();
    let until = args.time.map(|time| since.checked_add(time)).transpose();
    let hold = Hold {
        reason: reason.clone(),
        since,
        until: until.context("that is longer than time goes")?,
    };
    file.place(&hold)?;
    say(&match hold.until {
        Some(until) => format!("held until {}", seconds(until)),
        None => "held until lifted with `platform-agent hold --lift`".to_owned(),
    })?;
    Ok(Exit::Done)
}

async fn etcd(args: &EtcdArgs) -> anyhow::Result<Exit> {
    let config = Config::load(&args.config)?;
    let material = Material::of_paths(&parts::paths(&config)).map_err(anyhow::Error::msg)?;
    let (identity, client) = (material.etcd.clone(), material.client());
    let client = client.map_err(anyhow::Error::msg)?;
    match &args.verb {
        EtcdVerb::Members(args) => {
            let looks = etcd::look(&client, &identity).await?;
            if args.json {
                let views: Vec<_> = looks.iter().map(etcd::MemberLook::view).collect();
                say(&serde_json::to_string_pretty(&views)?)?;
            } else {
                looks.iter().try_for_each(|look| say(&look.line()))?;
            }
            // A member that does not answer, or says that something is wrong with it.
            let unwell =
                |l: &etcd::MemberLook| !l.status.as_ref().is_ok_and(|s| s.errors.is_empty());
            Ok(match looks.iter().any(unwell) {
                true => Exit::Differs,
                false => Exit::Done,
            })
        }
        EtcdVerb::Defrag => {
            let mut told = Ok(());
            let done = etcd::defragment(&client, &identity, |line| {
                told = say(&line);
            });
            done.await?;
            told?;
            Ok(Exit::Done)
        }
        EtcdVerb::Backup => {
            let node = parts::facts(&config)?.id;
            let identity = NodeIdentity {
                environment: config.environment.clone(),
                group: config.group.clone(),
                node,
            };
            let store = parts::store(&config).await?;
            let context = material.context(store, identity, Arc::new(SystemClock));
            let taken = context.map_err(anyhow::Error::msg)?.take().await?;
            say(&format!(
                "backup {} of generation {}: {} bytes",
                taken.name, taken.generation, taken.plain_bytes
            ))?;
            Ok(Exit::Done)
        }
    }
}

fn hold_file(state_directory: &Path) -> anyhow::Result<HoldFile> {
    if !state_directory.is_dir() {
        anyhow::bail!(
            "{} is no directory: no agent has run here",
            state_directory.display()
        );
    }
    Ok(HoldFile::in_directory(state_directory))
}

fn seconds(time: Timestamp) -> Timestamp {
    time.round(jiff::Unit::Second).unwrap_or(time)
}

/// What a person reads: one line on standard output.
fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
