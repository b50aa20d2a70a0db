//! A node under test: directories of its own, and the real platform-agent binary on them.
//!
//! The agent is started, killed and asked as systemd, an operator and Prometheus do: processes, signals, exit codes,
//! `/metrics`, `/healthz`, the log and the status object. Nothing here waits a fixed time: every wait looks again and
//! again until a deadline, and then says what there was instead.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// How long a wait looks before it fails, unless told otherwise: far longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// Time between two looks.
pub const GLANCE: Duration = Duration::from_millis(20);

/// How long one answer of the agent's own server may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What the agent of a node is configured with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The environment.
    pub environment: String,
    /// The node's group.
    pub group: String,
    /// The node's name.
    pub name: String,
    /// The bucket.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// Where the store is: the embedded one, or a proxy before it.
    pub endpoint_url: String,
    /// The file with the store's credentials, of which the node gets a copy.
    pub credentials_file: PathBuf,
    /// The TUF root that the machine comes with.
    pub trusted_root: String,
    /// What opens a release's identity.
    pub key_wrap: NodeKeyWrap,
    /// How often the agent asks.
    pub poll_interval_seconds: u64,
    /// More lines of the configuration file, keys before sections.
    pub more: String,
}

/// What opens a release's identity on a node.
#[derive(Debug, Clone)]
pub enum NodeKeyWrap {
    /// A key file.
    LocalFile(PathBuf),
    /// AWS KMS, at the endpoint of the settings.
    AwsKms(String),
}

/// A node and, while it runs, its agent. Dropping it kills the agent.
#[derive(Debug)]
pub struct Node {
    directory: PathBuf,
    settings: NodeSettings,
    binary: PathBuf,
    /// What starts it, where it is not started directly: a program and its arguments.
    through: Vec<String>,
    child: Option<Child>,
    /// Where in the log the running agent's part begins.
    log_begins: u64,
}

/// Everything that tells one state of a directory tree from another, down to a rewrite of the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces(BTreeMap<PathBuf, Trace>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Trace {
    inode: u64,
    mode: u32,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The platform-agent to test: `$PLATFORM_AGENT`, or the one beside the test executables, which the same cargo command
/// builds with fail points: `cargo build -p platform-tests -p agent --bins`.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn agent_binary() -> PathBuf {
    if let Some(named) = std::env::var_os("PLATFORM_AGENT") {
        return named.into();
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let beside = test
        .parent()
        .and_then(Path::parent)
        .expect("a test lies in target/PROFILE/deps");
    let binary = beside.join("platform-agent");
    assert!(
        binary.is_file(),
        "{} is not there: build it with `cargo build -p platform-tests -p agent --bins`",
        binary.display()
    );
    binary
}

/// Looks until `look` gives something; fails after `patience` with what it said instead.
///
/// # Errors
/// The last thing that `look` said was wrong.
pub async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if began.elapsed() >= patience => {
                return Err(error.context(format!(
                    "after {} s it is not so that {what}",
                    patience.as_secs()
                )));
            }
            Err(_) => sleep(GLANCE).await,
        }
    }
}

// === impl Node ===

impl Node {
    /// Lays out a node below `directory`; nothing is started.
    ///
    /// # Errors
    /// What could not be written.
    pub fn lay_out(directory: &Path, settings: NodeSettings) -> anyhow::Result<Self> {
        // What user data does on a machine; the agent makes the rest.
        fs::create_dir_all(directory.join("root/etc/kubernetes/manifests"))?;
        fs::create_dir_all(directory.join("state"))?;
        fs::write(directory.join("root.json"), &settings.trusted_root)?;
        let credentials = directory.join("credentials");
        fs::copy(&settings.credentials_file, &credentials)?;
        // The agent takes no credentials that others can read.
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600))?;
        let node = Self {
            directory: directory.to_owned(),
            settings,
            binary: agent_binary(),
            through: Vec::new(),
            child: None,
            log_begins: 0,
        };
        node.write_config()?;
        Ok(node)
    }

    /// A copy of this node with another name, as if the same things had happened to it.
    ///
    /// # Errors
    /// What could not be copied.
    pub fn copy_to(&self, directory: &Path, name: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)?;
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args(["root", "state", "root.json", "credentials"])
            .arg(directory)
            .current_dir(&self.directory)
            .status()?;
        anyhow::ensure!(copied.success(), "cp -a of {} failed", self.name());
        let node = Self {
            directory: directory.to_owned(),
            settings: NodeSettings {
                name: name.to_owned(),
                ..self.settings.clone()
            },
            binary: self.binary.clone(),
            through: Vec::new(),
            child: None,
            log_begins: 0,
        };
        node.write_config()?;
        Ok(node)
    }

    /// Points the agent's configuration at another store, from its next start on.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn set_endpoint(&mut self, endpoint_url: &str) -> anyhow::Result<()> {
        endpoint_url.clone_into(&mut self.settings.endpoint_url);
        self.write_config()
    }

    /// Puts more lines into the agent's configuration, from its next start on.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn configure(&mut self, more: &str) -> anyhow::Result<()> {
        more.clone_into(&mut self.settings.more);
        self.write_config()
    }

    /// Runs another binary than the one under test, from the next start on.
    pub fn run_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// Starts the agent by another program, which becomes it: `ip netns exec NAME`.
    pub fn run_through(&mut self, through: Vec<String>) {
        self.through = through;
    }

    fn write_config(&self) -> anyhow::Result<()> {
        let s = &self.settings;
        let text = |value: &dyn std::fmt::Display| Value::String(value.to_string()).to_string();
        let below = |part: &str| text(&self.directory.join(part).display());
        let mut config = String::new();
        for (key, value) in [
            ("environment", text(&s.environment)),
            ("group", text(&s.group)),
            ("node", text(&s.name)),
            ("bucket", text(&s.bucket)),
            ("region", text(&s.region)),
            ("endpoint_url", text(&s.endpoint_url)),
            ("root_directory", below("root")),
            ("state_directory", below("state")),
            ("trusted_root", below("root.json")),
            ("credentials_file", below("credentials")),
            ("metrics_listen", text(&"127.0.0.1:0")),
            ("poll_interval_seconds", s.poll_interval_seconds.to_string()),
        ] {
            config.push_str(&format!("{key} = {value}\n"));
        }
        config.push_str(&s.more);
        config.push_str(&match &s.key_wrap {
            NodeKeyWrap::LocalFile(path) => {
                let path = text(&path.display());
                format!("[key_wrap]\nmethod = \"local-file\"\npath = {path}\n")
            }
            NodeKeyWrap::AwsKms(key_id) => {
                let key_id = text(key_id);
                format!("[key_wrap]\nmethod = \"aws-kms\"\nkey_id = {key_id}\n")
            }
        });
        Ok(fs::write(self.config(), config)?)
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// The node's group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.settings.group
    }

    /// The agent's configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("agent.toml")
    }

    /// The node's root directory.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// The agent's state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The directory that kubelet watches.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.kubernetes().join("manifests")
    }

    /// The node's `/etc/kubernetes`.
    #[must_use]
    pub fn kubernetes(&self) -> PathBuf {
        self.root().join("etc/kubernetes")
    }

    /// The contents of the visible files in the manifest directory, by name.
    ///
    /// # Errors
    /// A directory or file that cannot be read.
    pub fn manifest_files(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.manifests())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                files.insert(name, fs::read(entry.path())?);
            }
        }
        Ok(files)
    }

    /// Everything below the node's root that the agent writes: path below `/etc/kubernetes` → content.
    ///
    /// # Errors
    /// A directory or file that cannot be read.
    pub fn kubernetes_files(&self) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
        let base = self.kubernetes();
        let mut files = BTreeMap::new();
        let mut pending = vec![base.clone()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    pending.push(path);
                } else {
                    files.insert(path.strip_prefix(&base)?.to_owned(), fs::read(&path)?);
                }
            }
        }
        Ok(files)
    }

    /// What lies in the agent's two trees, to be compared with a later look.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn traces(&self) -> anyhow::Result<Traces> {
        let mut traces = BTreeMap::new();
        let mut pending = vec![self.root(), self.state()];
        while let Some(path) = pending.pop() {
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                for entry in fs::read_dir(&path)? {
                    pending.push(entry?.path());
                }
            }
            let trace = Trace {
                inode: metadata.ino(),
                mode: metadata.mode(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            };
            traces.insert(path, trace);
        }
        Ok(Traces(traces))
    }

    // --- the process

    fn command(&self, verb: &str) -> Command {
        let mut command = match self.through.split_first() {
            None => Command::new(&self.binary),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.binary);
                command
            }
        };
        command
            .arg(verb)
            .arg("--config")
            .arg(self.config())
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts the daemon.
    ///
    /// # Errors
    /// A process that cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.start_with(&[])
    }

    /// Starts the daemon with more in its environment.
    ///
    /// # Errors
    /// A process that cannot be started, or one that runs already.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) -> anyhow::Result<()> {
        self.spawn("run", environment)
    }

    /// Starts `verb` in the background, its output in the log.
    ///
    /// # Errors
    /// A process that cannot be started, or one that runs already.
    pub fn spawn(&mut self, verb: &str, environment: &[(&str, &str)]) -> anyhow::Result<()> {
        anyhow::ensure!(self.child.is_none(), "{} runs already", self.name());
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        self.log_begins = log.metadata()?.len();
        let child = self
            .command(verb)
            .envs(environment.iter().copied())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start platform-agent")?;
        self.child = Some(child);
        Ok(())
    }

    /// Runs a verb beside whatever runs, to its end: `once`, `verify`, `hold`, a second `run`.
    ///
    /// # Errors
    /// A process that cannot be started, or that does not end.
    pub async fn run_verb(&self, verb: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let output = self.command(verb).args(arguments).output();
        timeout(PATIENCE, output)
            .await
            .with_context(|| format!("platform-agent {verb} does not end"))?
            .context("cannot start platform-agent")
    }

    /// The running agent's process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The most memory the running agent has had resident at a time, in bytes.
    ///
    /// # Errors
    /// An agent that does not run.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let pid = self.pid().context("the agent does not run")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|text| text.trim().strip_suffix(" kB"));
        Ok(kibibytes.context("no VmHWM")?.trim().parse::<u64>()? * 1024)
    }

    /// Kills the agent with SIGKILL and waits for its end. One that has ended already is fine.
    ///
    /// # Errors
    /// A process that cannot be waited for.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// An agent that does not end within [`PATIENCE`].
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        let pid = self.pid().context("the agent does not run")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        self.ended(PATIENCE).await
    }

    /// Waits for the agent to end by itself.
    ///
    /// # Errors
    /// An agent that goes on.
    pub async fn ended(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_mut().context("the agent does not run")?;
        let status = timeout(patience, child.wait()).await;
        let status = status
            .with_context(|| format!("after {} s the agent has not ended", patience.as_secs()))??;
        self.child = None;
        Ok(status)
    }

    /// Waits until the agent was killed by SIGKILL from within: it reached the fail point it was started with.
    ///
    /// # Errors
    /// An agent that goes on, or ends otherwise.
    pub async fn killed_itself(&mut self, patience: Duration) -> anyhow::Result<()> {
        let status = self.ended(patience).await?;
        if status.signal() == Some(Signal::SIGKILL as i32) {
            return Ok(());
        }
        bail!(
            "the agent ended by {status} instead of SIGKILL:\n{}",
            self.log()?
        )
    }

    /// Whether the agent runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    // --- what it says

    fn log_file(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    /// The log of all the node's agents.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.log_file())?).into_owned())
    }

    /// The log of the agent that runs, or ran last.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn last_log(&self) -> anyhow::Result<String> {
        let log = fs::read(self.log_file())?;
        let begins = usize::try_from(self.log_begins)?.min(log.len());
        Ok(String::from_utf8_lossy(&log[begins..]).into_owned())
    }

    /// The log's lines that are JSON objects with these values, of the agent that runs or ran last.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn log_lines(&self, wanted: &[(&str, &str)]) -> anyhow::Result<Vec<Value>> {
        let log = self.last_log()?;
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let matches = |line: &Value| {
            wanted
                .iter()
                .all(|(key, value)| line.get(key).and_then(Value::as_str) == Some(value))
        };
        Ok(lines.filter(matches).collect())
    }

    /// The address that the agent serves metrics on, once it says so: port 0 takes a free one, and the log has it.
    fn served_at(&self) -> anyhow::Result<String> {
        let lines = self.log_lines(&[("message", "serving metrics")])?;
        let address = lines.last().and_then(|line| line.get("address"));
        let address = address.and_then(Value::as_str);
        address
            .map(str::to_owned)
            .context("the log does not say where metrics are served")
    }

    /// The answer to one GET of the agent's own server: status line and body.
    async fn ask(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let address = self.served_at()?;
        let exchange = async {
            let mut stream = tokio::net::TcpStream::connect(&address).await?;
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            anyhow::Ok(text)
        };
        let text = timeout(ANSWER, exchange).await.context("no answer")??;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// The whole of `/metrics`.
    ///
    /// # Errors
    /// A server that does not answer 200.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let (status, body) = self.ask("/metrics").await?;
        anyhow::ensure!(status == 200, "/metrics answers {status}");
        Ok(body)
    }

    /// `/healthz`: status and text.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn health(&self) -> anyhow::Result<(u16, String)> {
        self.ask("/healthz").await
    }

    /// One metric, labels and all as they are served: `platform_agent_polls_total{result="unchanged"}`. Zero where it
    /// is not served: a counter of a family appears with its first event.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        Ok(metric_in(&self.metrics().await?, name))
    }

    /// How often a failure of this phase and kind was counted.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn errors(&self, phase: &str, kind: &str) -> anyhow::Result<f64> {
        let name = format!("platform_agent_errors_total{{phase=\"{phase}\",kind=\"{kind}\"}}");
        self.metric(&name).await
    }

    /// Waits until `release` is on the disk and the last poll was fine.
    ///
    /// # Errors
    /// What the metrics say instead.
    pub async fn until_release(&self, release: u64) -> anyhow::Result<()> {
        let what = format!("{} is on release {release}", self.name());
        let reached = eventually(&what, PATIENCE, async || {
            let metrics = self.metrics().await?;
            let found = metric_in(&metrics, "platform_agent_release_number");
            #[allow(clippy::cast_precision_loss, reason = "release numbers here are small")]
            let wanted = release as f64;
            anyhow::ensure!(found == wanted, "release {found}");
            let (status, why) = self.health().await?;
            anyhow::ensure!(status == 200, "unhealthy: {why}");
            Ok(())
        });
        let reached = reached.await;
        reached.with_context(|| format!("log:\n{}", self.last_log().unwrap_or_default()))
    }

    /// Waits until the agent has polled at least `more` times from now, whatever came of it.
    ///
    /// # Errors
    /// An agent that does not.
    pub async fn until_polled(&self, more: u32) -> anyhow::Result<()> {
        let before = eventually("the agent serves metrics", PATIENCE, async || {
            Ok(polls(&self.metrics().await?))
        });
        let before = before.await?;
        eventually("the agent polls", PATIENCE, async || {
            let now = polls(&self.metrics().await?);
            anyhow::ensure!(now >= before + f64::from(more), "{} polls", now - before);
            Ok(())
        })
        .await
    }
}

/// A sample's value in an exposition; zero where it is not there.
#[must_use]
pub fn metric_in(exposition: &str, name: &str) -> f64 {
    exposition
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0.0)
}

fn polls(exposition: &str) -> f64 {
    exposition
        .lines()
        .filter(|line| line.starts_with("platform_agent_polls_total{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

// === impl Traces ===

impl Traces {
    /// The paths that were made, removed, rewritten or given other attributes between this look and a later one.
    #[must_use]
    pub fn changed(&self, later: &Self) -> Vec<PathBuf> {
        let all: std::collections::BTreeSet<&PathBuf> =
            self.0.keys().chain(later.0.keys()).collect();
        all.into_iter()
            .filter(|path| self.0.get(*path) != later.0.get(*path))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_sample_by_its_whole_name() {
        let text = "# HELP a\nplatform_agent_hold 1\nplatform_agent_holder 7\nx{a=\"b\",c=\"d\"} 2.5\n# EOF\n";
        assert_eq!(metric_in(text, "platform_agent_hold"), 1.0);
        assert_eq!(metric_in(text, "x{a=\"b\",c=\"d\"}"), 2.5);
        assert_eq!(metric_in(text, "absent"), 0.0);
    }

    #[tokio::test]
    async fn an_endless_wait_says_what_there_was_instead() {
        let error = eventually(
            "it rains",
            Duration::ZERO,
            async || -> anyhow::Result<()> { bail!("the sun shines") },
        );
        let text = format!("{:#}", error.await.unwrap_err());
        assert!(
            text.contains("it rains") && text.contains("the sun shines"),
            "{text}"
        );
    }
}
