//! The embedded default as a person uses it: everything is a process, from `init` in an empty directory on.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use platform_tests::node::agent_binary;
use platform_tests::workspace::platformctl;
use tempfile::TempDir;

/// How long anything may take on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(90);
const NODES: usize = 5;

struct Desk {
    directory: TempDir,
}

/// `dev up`; its nodes end with it, also when a test fails.
struct Up {
    child: Child,
    log: PathBuf,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Desk {
    /// What `init` writes, on a port of its own and with a short poll.
    fn set() -> Self {
        let directory = TempDir::new().unwrap();
        let desk = Self { directory };
        desk.succeeds(&["init"]);
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let path = desk.path("environments/local.tfvars");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(":9191"), "{text}");
        let text = text.replace(":9191", &format!(":{port}"));
        fs::write(&path, format!("{text}poll_interval_seconds = 1\n")).unwrap();
        desk
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = platformctl(self.directory.path());
        command.args(arguments).stdin(Stdio::null());
        command.output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn up(&self, log: &str) -> Up {
        let log = self.path(log);
        let file = fs::File::create(&log).unwrap();
        let mut command = platformctl(self.directory.path());
        command
            .args(["dev", "up"])
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let up = Up {
            child: command.spawn().unwrap(),
            log,
        };
        until("it is up", || up.said().contains("Ctrl-C"));
        up
    }

    /// The agents that run on a node of this directory.
    fn agents(&self) -> Vec<u32> {
        let here = self.directory.path().to_str().unwrap();
        let is_ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("agent") && line.contains(" run ") && line.contains(here)
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|p| p.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).collect()
    }
}

impl Up {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not so: {what}");
        sleep(Duration::from_millis(100));
    }
}

fn agent_of(node: &Path) -> Child {
    let mut command = Command::new(agent_binary());
    command.arg("run").arg("--config").arg(node);
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().unwrap()
}

#[test]
fn from_an_empty_directory_to_five_nodes_and_back_to_nothing() {
    let desk = Desk::set();
    let mut up = desk.up("up.log");
    desk.succeeds(&["lint", "-e", "local"]);
    let said = desk.succeeds(&["publish", "-e", "local"]);
    assert!(said.contains("secure: published release 1"), "{said}");
    assert!(said.contains("compute: published release 1"), "{said}");
    let mut last = String::new();
    let began = Instant::now();
    loop {
        let output = desk.run(&["status", "-e", "local"]);
        last.clear();
        last.push_str(&String::from_utf8_lossy(&output.stdout));
        if output.status.code() == Some(0) {
            break;
        }
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(began.elapsed() < PATIENCE, "{last}");
        sleep(Duration::from_millis(200));
    }
    assert!(last.contains("3 of 3 nodes have release 1"), "{last}");
    assert!(last.contains("2 of 2 nodes have release 1"), "{last}");
    assert_eq!(desk.agents().len(), NODES);
    let said = desk.succeeds(&["diff", "-e", "local"]);
    assert!(said.contains("nothing differs from release 1"), "{said}");
    let said = desk.succeeds(&["completions", "bash"]);
    assert!(said.contains("platformctl"), "{said}");

    up.signal(Signal::SIGINT);
    let ended = up.child.wait().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", up.said());
    assert_eq!(desk.agents(), Vec::<u32>::new(), "no child is left");
    let output = desk.run(&["status", "-e", "local"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn agents_end_with_a_dev_up_that_was_killed_and_the_next_one_starts_them() {
    let desk = Desk::set();
    let mut up = desk.up("first.log");
    until("all agents run", || desk.agents().len() == NODES);
    let before = desk.agents();
    up.signal(Signal::SIGKILL);
    up.child.wait().unwrap();
    until("they ended with it", || desk.agents().is_empty());

    let up = desk.up("second.log");
    until("all agents run", || desk.agents().len() == NODES);
    assert!(desk.agents().iter().all(|pid| !before.contains(pid)));
    sleep(Duration::from_secs(3));
    assert_eq!(desk.agents().len(), NODES);
    assert!(!up.said().contains(" ended"), "{}", up.said());
}

#[test]
fn a_node_whose_directory_another_agent_has_is_given_up_with_a_word() {
    let desk = Desk::set();
    let mut up = desk.up("first.log");
    up.signal(Signal::SIGTERM);
    assert_eq!(up.child.wait().unwrap().code(), Some(0));
    let node = desk.path(".platform/local/nodes/secure-1");
    let mut other = agent_of(&node.join("agent.toml"));
    until("it has the lock", || {
        let lock = fs::read_to_string(node.join("state/lock")).unwrap_or_default();
        lock.trim() == other.id().to_string()
    });

    let up = desk.up("second.log");
    let told = "secure-1 ended, and is not started again";
    until("it is given up", || up.said().contains(told));
    sleep(Duration::from_secs(3));
    let said = up.said();
    assert_eq!(said.matches("secure-1 ended").count(), 1, "{said}");
    assert!(said.contains("is locked by"), "{said}");
    other.kill().unwrap();
    other.wait().unwrap();
}
