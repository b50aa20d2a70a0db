//! The binary: its help, its exit codes, and what it says when it refuses.

#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test; what it writes need not survive a power cut"
)]

use std::path::PathBuf;
use std::process::{Command, Output};

use agent::disk::{Disk, NodePaths};

struct Node {
    dir: tempfile::TempDir,
}

fn agent(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_platform-agent"))
        .args(args)
        .env_remove("NOTIFY_SOCKET")
        .env("PLATFORM_AGENT_LOG", "off")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

impl Node {
    /// A configuration whose store nobody answers at.
    fn new() -> Self {
        let node = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let path = |name: &str| node.path(name).display().to_string();
        let config = format!(
            r#"
environment = "dev"
group = "secure"
node = "node-1"
bucket = "secrets"
region = "eu-central-1"
endpoint_url = "http://127.0.0.1:1"
root_directory = "{}"
state_directory = "{}"
trusted_root = "{}"
credentials_file = "{}"
metrics_listen = ""

[key_wrap]
method = "local-file"
path = "{}"
"#,
            path("root"),
            path("state"),
            path("root.json"),
            path("credentials"),
            path("wrap.key"),
        );
        std::fs::write(node.path("agent.toml"), config).unwrap();
        std::fs::write(node.path("root.json"), "{}").unwrap();
        std::fs::create_dir(node.path("state")).unwrap();
        shared::wrap::LocalWrap::create_file_if_needed(&node.path("wrap.key")).unwrap();
        let credentials = b"access_key = \"a\"\nsecret_key = \"s\"\n";
        let private = shared::durable::Attributes::mode(0o600);
        shared::durable::write_file(&node.path("credentials"), credentials, private).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, verb: &str, more: &[&str]) -> Output {
        let config = self.path("agent.toml").display().to_string();
        agent(&[&[verb, "--config", config.as_str()], more].concat())
    }
}

#[test]
fn help_names_the_verbs_and_exit_codes() {
    let help = agent(&["--help"]);
    assert_eq!(code(&help), 0);
    for word in ["run", "once", "verify", "hold", "Exit codes"] {
        assert!(stdout(&help).contains(word), "{word}");
    }
    assert_eq!(code(&agent(&["--version"])), 0);
    assert_eq!(code(&agent(&["frobnicate"])), 2);
    assert_eq!(code(&agent(&[])), 2);
}

#[test]
fn a_bad_configuration_lists_every_mistake_and_exits_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, "environment = \"dev\"\ngroup = 3\nbukket = \"x\"\n").unwrap();
    let path = file.display().to_string();
    for verb in ["run", "once", "verify"] {
        let refused = agent(&[verb, "--config", &path]);
        assert_eq!(code(&refused), 2, "{verb}");
        let text = stderr(&refused);
        for part in [
            format!("{path}:2: group must be a text").as_str(),
            format!("{path}:3: bukket is unknown").as_str(),
            "bucket is missing",
            "key_wrap is missing",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
        assert_eq!(text.matches("bukket is unknown").count(), 1, "said once");
    }
    let missing = agent(&["run", "--config", "/nowhere/agent.toml"]);
    assert_eq!(code(&missing), 2);
    assert!(stderr(&missing).contains("/nowhere/agent.toml"));
}

#[test]
fn a_second_agent_is_refused_and_told_who_holds_the_lock() {
    let node = Node::new();
    let paths = NodePaths::new(&node.path("root"), &node.path("state"));
    let held = Disk::open(paths, "dev".parse().unwrap(), "secure".parse().unwrap()).unwrap();
    let own = std::process::id().to_string();
    for verb in ["run", "once"] {
        let refused = node.run(verb, &[]);
        assert_eq!(code(&refused), 2, "{verb}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(&own), "{}", stderr(&refused));
    }
    drop(held);
}

#[test]
fn a_hold_is_placed_and_lifted() {
    let node = Node::new();
    let placed = node.run("hold", &["--for", "1h", "looking at etcd"]);
    assert_eq!(code(&placed), 0, "{}", stderr(&placed));
    assert!(
        stdout(&placed).starts_with("held until 20"),
        "{}",
        stdout(&placed)
    );
    let file = node.path("state").join("hold.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("looking at etcd"), "{text}");
    assert_eq!(code(&node.run("hold", &["--lift"])), 0);
    assert!(!file.exists());
    assert_eq!(code(&node.run("hold", &[])), 2, "a reason is needed");
}

#[test]
fn without_a_store_once_fails_and_names_it() {
    let node = Node::new();
    let failed = node.run("once", &[]);
    assert_eq!(code(&failed), 1, "{}", stderr(&failed));
    let text = stderr(&failed);
    assert!(text.contains("timestamp.json"), "{text}");
    assert!(text.contains("no release stays"), "{text}");
    let verified = node.run("verify", &[]);
    assert_eq!(code(&verified), 3, "{}", stderr(&verified));
    assert!(stdout(&verified).contains("no release has been adopted yet"));
}

#[test]
fn the_daemon_tells_systemd_that_it_lives_and_that_it_stops() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let node = Node::new();
    let path = node.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let patience = std::time::Duration::from_secs(20);
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_platform-agent"))
        .args(["run", "--config"])
        .arg(node.path("agent.toml"))
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "900000")
        .env_remove("WATCHDOG_PID")
        .env("PLATFORM_AGENT_LOG", "off")
        .spawn()
        .unwrap();
    let mut told = String::new();
    let mut until = |part: &str| {
        let mut buffer = [0; 4096];
        while !told.contains(part) {
            let length = socket.recv(&mut buffer).unwrap();
            told.push_str(&String::from_utf8_lossy(&buffer[..length]));
            told.push('\n');
        }
        std::mem::take(&mut told)
    };
    let mut before = until("STATUS=no release yet, idle: ");
    // While it waits for its next poll, too: several feeds that nothing but time brings.
    for _ in 0..3 {
        before += &until("WATCHDOG=1");
    }
    assert!(
        !before.contains("READY"),
        "there is no verified release: {before}"
    );
    kill(
        Pid::from_raw(i32::try_from(daemon.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    until("STOPPING=1");
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}
