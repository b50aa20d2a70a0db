//! Nodes of the embedded default: real platform-agent processes, each with a root directory of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::durable::{self, Attributes};
use shared::names::GroupName;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::credentials::LocalCredentials;
use crate::context::Workspace;
use crate::env::KeyWrap;

/// What the agent's unit sets for the allocator, so that a node gives back what a large release took.
pub const ALLOCATOR: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=8192:glibc.malloc.trim_threshold=65536",
);

/// How long a node may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A node process and its directory.
#[derive(Debug)]
pub struct Node {
    /// Its group.
    pub group: GroupName,
    /// Its name, and its directory's.
    pub name: String,
    directory: PathBuf,
    agent: PathBuf,
    child: Option<Child>,
}

/// What all nodes of an environment are started with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The platform-agent binary.
    pub agent: PathBuf,
    /// The store's address.
    pub endpoint_url: String,
    /// How often a node asks.
    pub poll_interval: Duration,
}

/// The platform-agent binary: `$PLATFORM_AGENT`, or the one beside platformctl, or the one on the PATH.
///
/// # Errors
/// Where it was looked for.
pub fn find_agent(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|p| Some(p.parent()?.join("platform-agent")));
    let named = given.or_else(|| std::env::var_os("PLATFORM_AGENT").map(PathBuf::from));
    if let Some(path) = named {
        if path.is_file() {
            return Ok(std::path::absolute(path)?);
        }
        bail!(
            "there is no platform-agent at {}; `make agent` builds it",
            path.display()
        );
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = beside.into_iter().collect();
    places.extend(std::env::split_paths(&on_path).map(|d| d.join("platform-agent")));
    places
        .into_iter()
        .find(|p| p.is_file())
        .context(
            "platform-agent is neither beside platformctl nor on the PATH: build it with `make agent` and name it \
             with --agent",
        )
}

impl Node {
    /// Lays out a node's directory and starts its agent.
    ///
    /// # Errors
    /// What could not be written or started.
    pub fn start(
        workspace: &Workspace,
        settings: &NodeSettings,
        group: &GroupName,
        name: &str,
        trusted_root: &str,
    ) -> anyhow::Result<Self> {
        let state = std::path::absolute(workspace.state_directory())?;
        let directory = state.join("nodes").join(name);
        for part in ["root/etc/kubernetes/manifests", "state"] {
            let path = directory.join(part);
            std::fs::create_dir_all(&path)
                .with_context(|| format!("cannot make {}", path.display()))?;
        }
        let put = |file: &str, text: &str| {
            durable::write_file(
                &directory.join(file),
                text.as_bytes(),
                Attributes::mode(0o600),
            )
        };
        put("root.json", trusted_root)?;
        put(
            "agent.toml",
            &config(workspace, settings, group, name, &state, &directory)?,
        )?;
        let mut node = Self {
            group: group.clone(),
            name: name.to_owned(),
            directory,
            agent: settings.agent.clone(),
            child: None,
        };
        node.spawn()?;
        Ok(node)
    }

    /// Starts the agent's process.
    ///
    /// # Errors
    /// What could not be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .with_context(|| format!("cannot open {}", self.log().display()))?;
        let child = Command::new(&self.agent)
            .arg("run")
            .arg("--config")
            .arg(self.directory.join("agent.toml"))
            .env(ALLOCATOR.0, ALLOCATOR.1)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // The terminal's Ctrl-C is for platformctl, which ends its nodes itself.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.agent.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// The agent's log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    /// The node's `/etc/kubernetes`.
    #[must_use]
    pub fn kubernetes(&self) -> PathBuf {
        self.directory.join("root/etc/kubernetes")
    }

    /// Whether the agent runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Ends the agent: SIGTERM, and SIGKILL where that does not help.
    pub async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if timeout(GRACE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

fn config(
    workspace: &Workspace,
    settings: &NodeSettings,
    group: &GroupName,
    name: &str,
    state: &Path,
    directory: &Path,
) -> anyhow::Result<String> {
    let environment = &workspace.environment;
    let KeyWrap::LocalFile { path } = &environment.key_wrap else {
        bail!("environment {} has no local key file", workspace.name);
    };
    let key = std::path::absolute(workspace.directory.join(path))?;
    let text = |value: &dyn std::fmt::Display| serde_json::Value::String(value.to_string());
    let lines = [
        ("environment", text(&workspace.name)),
        ("group", text(group)),
        ("node", text(&name)),
        ("bucket", text(&environment.secrets_bucket)),
        ("region", text(&environment.region)),
        ("endpoint_url", text(&settings.endpoint_url)),
        ("root_directory", text(&directory.join("root").display())),
        ("state_directory", text(&directory.join("state").display())),
        ("trusted_root", text(&directory.join("root.json").display())),
        (
            "credentials_file",
            text(&LocalCredentials::path(state).display()),
        ),
        // Several nodes on one machine: each takes a free port.
        ("metrics_listen", text(&"127.0.0.1:0")),
        (
            "poll_interval_seconds",
            serde_json::Value::from(settings.poll_interval.as_secs()),
        ),
    ];
    let mut all: String = lines.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
    all.push_str("\n[key_wrap]\nmethod = \"local-file\"\n");
    all.push_str(&format!("path = {}\n", text(&key.display())));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_run_with_the_units_allocator_settings() {
        let unit = include_str!("../../../agent/dist/systemd/platform-agent.service");
        let line = format!("Environment={}={}", ALLOCATOR.0, ALLOCATOR.1);
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
}
