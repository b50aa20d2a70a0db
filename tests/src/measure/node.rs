//! An agent's process with meters on it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ctl::dev::nodes::find_agent;
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// How long anything may take before a benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running `platform-agent run`, ended when it is dropped.
#[derive(Debug)]
pub struct AgentProcess {
    child: Child,
    pid: Pid,
    metrics: SocketAddr,
    log: PathBuf,
}

/// What the kernel says of a process's memory, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// Most that ever was resident.
    pub peak: u64,
}

/// The agent as it goes onto nodes: `$PLATFORM_AGENT`, or where `make agent` puts it.
///
/// # Errors
/// It is in neither place.
pub fn agent_binary() -> anyhow::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let built = target.join("x86_64-unknown-linux-gnu/dist/platform-agent");
    let given = std::env::var_os("PLATFORM_AGENT").is_none() && built.is_file();
    find_agent(given.then_some(built))
}

/// A loopback address that was free a moment ago.
///
/// # Errors
/// No port is free.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl AgentProcess {
    /// Starts the agent with a configuration that serves metrics on `metrics`.
    ///
    /// # Errors
    /// What could not be started.
    pub fn start(
        agent: &Path,
        config: &Path,
        metrics: SocketAddr,
        authority: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let log = config.with_file_name("agent.log");
        let file = fs::File::create(&log)?;
        let mut command = Command::new(agent);
        // As its unit starts it.
        let (name, value) = ctl::dev::nodes::ALLOCATOR;
        command.env(name, value);
        command.arg("run").arg("--config").arg(config);
        if let Some(authority) = authority {
            command.env("SSL_CERT_FILE", authority);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", agent.display()))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        Ok(Self {
            child,
            pid,
            metrics,
            log,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Processor time of all its threads so far, those that have ended included.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        Ok(clock_gettime(clock_getcpuclockid(self.pid)?)?.into())
    }

    /// Its memory.
    ///
    /// # Errors
    /// The process is gone.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        Ok(Memory {
            resident: figure(&text, "VmRSS:")?,
            peak: figure(&text, "VmHWM:")?,
        })
    }

    /// Bytes that it has caused to be written to a disk.
    ///
    /// # Errors
    /// The process is gone.
    pub fn disk_writes(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.pid))?;
        figure(&text, "write_bytes:")
    }

    /// A metric by its full name; none while it is not served.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = scrape(self.metrics).ok()?;
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    /// Waits until the agent has release `number` on disk.
    ///
    /// # Errors
    /// It has not after two minutes; the end of its log says why.
    pub async fn until_release(&self, number: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.metric("platform_agent_release_number") != Some(number as f64) {
            if began.elapsed() > PATIENCE {
                bail!(
                    "release {number} was not adopted; the agent's log ends so:\n{}",
                    self.last_words()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGTERM);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first number after `name` at the beginning of a line.
fn figure(text: &str, name: &str) -> anyhow::Result<u64> {
    let rest = text.lines().find_map(|l| l.strip_prefix(name));
    let number = rest.and_then(|r| r.split_whitespace().next());
    Ok(number.with_context(|| format!("no {name}"))?.parse()?)
}

fn scrape(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
