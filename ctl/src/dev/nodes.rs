//! Nodes of the embedded default: real platform-agent processes, each with a root directory of its own.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};
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
/// What an agent exits with whose configuration is wrong, or whose state directory another agent has: trying again changes
/// neither.
const USAGE: i32 = 2;
/// How much of a log is looked at for its last line.
const TAIL: u64 = 4096;

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
    /// It ended for a reason that another start does not mend.
    given_up: bool,
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
            given_up: false,
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
        let mut command = Command::new(&self.agent);
        command
            .arg("run")
            .arg("--config")
            .arg(self.directory.join("agent.toml"))
            .env(ALLOCATOR.0, ALLOCATOR.1)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // The terminal's Ctrl-C is for platformctl, which ends its nodes itself.
            .process_group(0)
            .kill_on_drop(true);
        end_with_us(&mut command);
        let child = command
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

    /// How the agent ended; none while it runs, and for one that is not to be started again.
    #[must_use]
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.given_up {
            return None;
        }
        self.child.as_mut()?.try_wait().ok()?
    }

    /// Starts an agent that ended again; or gives it up where that mends nothing, and says why.
    ///
    /// # Errors
    /// What could not be started.
    pub fn start_again(&mut self, ended: ExitStatus) -> anyhow::Result<String> {
        if ended.code() != Some(USAGE) {
            self.spawn()?;
            return Ok(format!(
                "{} ended ({ended}); starting it again (its log says why)",
                self.name
            ));
        }
        self.given_up = true;
        let why = last_line(&self.log()).unwrap_or_else(|e| format!("its log cannot be read: {e}"));
        Ok(format!(
            "{} ended, and is not started again, since that would mend nothing: {why}",
            self.name
        ))
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

/// Has the kernel end the process when ours ends, however that was: an agent that is left behind keeps its state
/// directory, and the next `dev up` could start none in its place. SIGKILL, which an agent is made for, so that the
/// directory is free at once.
///
/// The kernel goes by the thread that started the process: nodes are started on the main thread, which ends last.
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec")]
fn end_with_us(command: &mut Command) {
    let us = getpid();
    let ask = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // We may have ended before the child asked.
        match getppid() == us {
            true => Ok(()),
            false => Err(io::Error::from(nix::errno::Errno::ESRCH)),
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing (an error made from a number holds the number), which
    // is what may be done in a child that was forked from a process with threads.
    unsafe {
        command.pre_exec(ask);
    }
}

fn last_line(log: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let last = tail.lines().rev().find(|line| !line.trim().is_empty());
    Ok(last.unwrap_or("it said nothing").to_owned())
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
