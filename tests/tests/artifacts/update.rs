//! The agent's update of itself, under a small model of systemd.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use platform_tests::node::{GLANCE, Node, PATIENCE, agent_binary};
use platform_tests::scene::{SECURE, Scene};
use shared::digest::{Sha256Digest, Sha256Writer};

use super::{Result, add};

/// A model of systemd with the agent's unit: the guard before each start, a restart after each end, and an end for
/// what says nothing for too long.
struct Service<'a> {
    node: &'a mut Node,
    socket: PathBuf,
    starts: usize,
    /// What the machine is like before each start.
    before_start: Option<fn(&mut Node) -> Result>,
}

const SILENCE: Duration = Duration::from_secs(10);

impl Service<'_> {
    fn guard(&self) -> Result {
        let guard = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../agent/dist/libexec/platform-agent-guard");
        let run = std::process::Command::new("sh")
            .arg(guard)
            .arg(self.node.state())
            .output()?;
        ensure!(run.status.success(), "{run:?}");
        Ok(())
    }

    /// Serves until `done`.
    async fn until(&mut self, what: &str, done: impl Fn(&Node) -> bool) -> Result {
        let began = Instant::now();
        let _ = fs::remove_file(&self.socket);
        let socket = UnixDatagram::bind(&self.socket)?;
        socket.set_nonblocking(true)?;
        let address = self.socket.display().to_string();
        loop {
            if !self.node.is_running() {
                if self.node.pid().is_some() || self.starts > 0 {
                    let _ = self.node.kill().await;
                }
                self.guard()?;
                self.starts += 1;
                if let Some(prepare) = self.before_start {
                    prepare(self.node)?;
                }
                let environment = [("NOTIFY_SOCKET", &*address), ("WATCHDOG_USEC", "3000000")];
                self.node.start_with(&environment)?;
            }
            let mut heard = Instant::now();
            while self.node.is_running() {
                let mut buffer = [0_u8; 4096];
                while socket.recv(&mut buffer).is_ok() {
                    heard = Instant::now();
                }
                if done(self.node) {
                    return Ok(());
                }
                ensure!(
                    began.elapsed() < PATIENCE * 3,
                    "it is not so that {what}; {} starts:\n{}",
                    self.starts,
                    self.node.log()?
                );
                if heard.elapsed() > SILENCE {
                    self.node.kill().await?;
                    break;
                }
                tokio::time::sleep(GLANCE).await;
            }
        }
    }
}

/// The agent under test, without what debuggers need: a debug build has a hundred megabytes of it.
fn lean_agent(to: &Path) -> anyhow::Result<()> {
    let stripped = std::process::Command::new("strip")
        .arg("-o")
        .arg(to)
        .arg(agent_binary())
        .status();
    if !stripped.is_ok_and(|s| s.success()) {
        fs::copy(agent_binary(), to)?;
    }
    Ok(())
}

/// A node whose agent lies where a machine has it.
fn machine(scene: &Scene, name: &str) -> anyhow::Result<(Node, PathBuf)> {
    let mut node = scene.node(SECURE, name)?;
    let bin = node.state().join("bin");
    fs::create_dir_all(&bin)?;
    let binary = bin.join("platform-agent");
    lean_agent(&binary)?;
    node.run_binary(binary.clone());
    Ok((node, binary))
}

fn digest(path: &Path) -> Option<Sha256Digest> {
    // The quicker of the two: a debug build's other one takes seconds for a binary.
    let read = Sha256Writer::of_reader(fs::File::open(path).ok()?);
    read.ok().map(|(digest, _)| digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_updates_itself_and_keeps_the_old_one() -> Result {
    let scene = Scene::set().await?;
    let (mut node, binary) = machine(&scene, "secure-1")?;
    let former = digest(&binary);
    let mut newer = fs::read(&binary)?;
    newer.extend_from_slice(b"another build");
    let wanted = Sha256Digest::of(&newer);
    add(&scene, "platform-agent", "2", &newer).await?;
    // Nothing else has changed, and a release it is.
    assert_eq!(scene.publish(SECURE).await?, 2);
    let socket = scene.nodes_directory().join("notify");
    let attempt = node.state().join("update/attempt");
    let old = node.state().join("bin/platform-agent.old");
    let mut service = Service {
        node: &mut node,
        socket,
        starts: 0,
        before_start: None,
    };
    let confirmed = |_: &Node| old.exists() && !attempt.exists() && digest(&binary) == Some(wanted);
    service
        .until("the new agent has confirmed a poll", confirmed)
        .await?;
    assert_eq!(service.starts, 2, "the old one and the new one, once each");
    node.until_release(2).await?;
    let status = scene
        .until_status(&node, "the new agent runs", |s| {
            s.agent_sha256 == Some(wanted)
        })
        .await?;
    assert_eq!((status.error, status.update_rejected), (None, None));
    assert_eq!(digest(&old), former);
    let bootstrap = scene
        .bucket
        .object(&format!("bootstrap/{wanted}.platform-agent"));
    assert!(bootstrap.exists(), "new machines install the same");
    Ok(())
}

async fn is_put_back(
    scene: &Scene,
    (mut node, binary): (Node, PathBuf),
    bad: &[u8],
    before_start: Option<fn(&mut Node) -> Result>,
) -> Result {
    let good = digest(&binary);
    let wanted = Sha256Digest::of(bad);
    add(scene, "platform-agent", "bad", bad).await?;
    assert_eq!(scene.publish(SECURE).await?, 2);
    let socket = scene.nodes_directory().join("notify");
    let state = node.state();
    let rejected = move |_: &Node| {
        let text = fs::read_to_string(state.join("update/rejected")).unwrap_or_default();
        text.contains(&wanted.to_string()) && !state.join("update/rolled-back").exists()
    };
    let mut service = Service {
        node: &mut node,
        socket,
        starts: 0,
        before_start,
    };
    service
        .until("the old agent is back and has polled", rejected)
        .await?;
    assert_eq!(
        service.starts, 5,
        "the old one, three of the new one, the old one"
    );
    assert_eq!(digest(&binary), good);
    // The release itself is adopted by the old one, which says what happened and does not try again.
    node.until_release(2).await?;
    let status = scene
        .until_status(&node, "the update was rejected", |s| {
            s.update_rejected == Some(wanted)
        })
        .await?;
    assert_eq!(status.error.context("an error")?.kind, "update_rejected");
    assert_eq!(node.metric("platform_agent_update_rejected").await?, 1.0);
    node.until_polled(2).await?;
    assert_eq!(digest(&binary), good);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_at_its_start_is_put_back() -> Result {
    let scene = Scene::set().await?;
    let machine = machine(&scene, "ends")?;
    is_put_back(&scene, machine, b"#!/bin/sh\nexit 1\n", None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_is_put_back() -> Result {
    let scene = Scene::set().await?;
    let machine = machine(&scene, "hangs")?;
    is_put_back(&scene, machine, b"#!/bin/sh\nexec sleep 1000\n", None).await
}

/// What the newer agent's bytes end with, which tells the two apart.
const LAME: &[u8] = b"cannot poll";

/// The newer agent finds no store: it runs well, feeds the watchdog, and is of no use.
fn the_newer_one_finds_no_store(node: &mut Node) -> Result {
    let lame = fs::read(node.state().join("bin/platform-agent"))?.ends_with(LAME);
    let wrong = "http://127.0.0.1:1\"";
    let text = fs::read_to_string(node.config())?;
    let line = text
        .lines()
        .find(|l| l.starts_with("endpoint_url"))
        .context("an endpoint")?;
    let kept = node.state().join("../endpoint");
    if lame && !line.ends_with(wrong) {
        fs::write(&kept, line)?;
        let other = format!("endpoint_url = \"{wrong}");
        fs::write(node.config(), text.replace(line, &other))?;
    } else if !lame && line.ends_with(wrong) {
        let other = fs::read_to_string(&kept)?;
        fs::write(node.config(), text.replace(line, &other))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_runs_and_cannot_poll_is_put_back() -> Result {
    let scene = Scene::set().await?;
    let (mut node, binary) = machine(&scene, "lame")?;
    node.configure("update_confirm_within_seconds = 3\n")?;
    let mut bad = fs::read(&binary)?;
    bad.extend_from_slice(LAME);
    let prepare = the_newer_one_finds_no_store;
    is_put_back(&scene, (node, binary), &bad, Some(prepare)).await
}
