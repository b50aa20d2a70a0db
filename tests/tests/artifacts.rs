//! Artifacts, unit restarts and the agent's update of itself, from `platformctl artifacts add` to the node's disk, with
//! the real binaries, and a small model of systemd around the agent.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use platform_tests::node::{GLANCE, Node, PATIENCE, agent_binary};
use platform_tests::scene::{SECURE, Scene};
use shared::digest::{Sha256Digest, Sha256Writer};

type Result = anyhow::Result<()>;

const TEMPLATE: &str = "secure/host/kubelet/config.yaml.j2";

fn executable(path: &Path, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

async fn artifacts(scene: &Scene, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = scene.operator.platformctl();
    command
        .arg("artifacts")
        .args(arguments)
        .args(["-e", "local"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output.status.code(), said))
}

/// Adds a file of these bytes as an artifact.
async fn add(scene: &Scene, name: &str, version: &str, bytes: impl AsRef<[u8]>) -> Result {
    let path = scene.operator.path(&format!("{name}-{version}"));
    fs::write(&path, bytes)?;
    let path = path.display().to_string();
    let (code, said) = artifacts(scene, &["add", name, &path, "--version", version]).await?;
    ensure!(code == Some(0), "{said}");
    Ok(())
}

/// A node whose restarts are recorded; the file that has them.
fn recording(scene: &Scene, name: &str) -> anyhow::Result<(Node, PathBuf)> {
    let mut node = scene.node(SECURE, name)?;
    let directory = scene.nodes_directory().join(name);
    let calls = directory.join("calls");
    let script = directory.join("systemctl");
    executable(
        &script,
        format!("#!/bin/sh\necho \"$@\" >> '{}'\n", calls.display()),
    )?;
    node.configure(&format!("systemctl = \"{}\"\n", script.display()))?;
    Ok((node, calls))
}

fn calls(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let _ = fs::remove_file(path);
    text.lines().map(str::to_owned).collect()
}

fn write(scene: &Scene, path: &str, text: &str) -> Result {
    let path = scene.operator.path("manifests").join(path);
    fs::create_dir_all(path.parent().context("a directory")?)?;
    Ok(fs::write(path, text)?)
}

fn write_node_file(scene: &Scene, with_kubelet: bool) -> Result {
    let kubelet = match with_kubelet {
        true => {
            "  - name: kubelet\n    path: /opt/bin/kubelet\n    mode: \"0755\"\n    restart: kubelet.service\n"
        }
        false => "",
    };
    let text = format!(
        "restarts:\n  - unit: kubelet.service\n    on: [host/kubelet]\nartifacts:\n  - name: plugins\n    path: \
         /opt/cni/bin\n    mode: \"0755\"\n    unpack: tar-zst\n{kubelet}"
    );
    write(scene, "secure/node.yaml", &text)
}

fn plugins(files: &[&str]) -> anyhow::Result<Vec<u8>> {
    let file = |name: &&str| anyhow::Ok((name.parse()?, name.as_bytes().to_vec()));
    let files = files.iter().map(file).collect::<anyhow::Result<_>>()?;
    Ok(shared::artifact::write_archive(&files, Vec::new())?)
}

const RESTART: &str = "--no-block restart kubelet.service";

async fn stage(scene: &Scene) -> Result {
    add(scene, "kubelet", "v1", "kubelet one").await?;
    add(scene, "plugins", "v1", plugins(&["bridge", "loopback"])?).await?;
    write_node_file(scene, true)?;
    write(scene, TEMPLATE, "maxPods: 110\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_and_restarts_from_the_operator_to_the_node() -> Result {
    let scene = Scene::set().await?;
    stage(&scene).await?;
    assert_eq!(scene.publish(SECURE).await?, 2);

    let (mut node, recorded) = recording(&scene, "secure-1")?;
    node.start()?;
    node.until_release(2).await?;
    let at = |path: &str| node.root().join(path);
    assert_eq!(fs::read_to_string(at("opt/bin/kubelet"))?, "kubelet one");
    assert_eq!(fs::read_to_string(at("opt/cni/bin/bridge"))?, "bridge");
    let mode = fs::metadata(at("opt/bin/kubelet"))?.permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_eq!(
        calls(&recorded),
        [RESTART],
        "the binary and the file came together"
    );

    scene
        .operator
        .amend("secure/kube-scheduler.yaml.j2", "cpu: 100m", "cpu: 150m")?;
    assert_eq!(scene.publish(SECURE).await?, 3);
    node.until_release(3).await?;
    assert_eq!(calls(&recorded), [""; 0], "a manifest is no unit's affair");
    write(&scene, TEMPLATE, "maxPods: 111\n")?;
    assert_eq!(scene.publish(SECURE).await?, 4);
    node.until_release(4).await?;
    assert_eq!(calls(&recorded), [RESTART]);

    // Edited by hand: put back.
    fs::write(at("opt/bin/kubelet"), "evil")?;
    let put_back = || fs::read(at("opt/bin/kubelet")).is_ok_and(|b| b == b"kubelet one");
    platform_tests::scene::until("the kubelet is back", PATIENCE, put_back).await?;

    // Replaced, and one plugin less.
    add(&scene, "kubelet", "v2", "kubelet two").await?;
    add(&scene, "plugins", "v2", plugins(&["bridge"])?).await?;
    assert_eq!(scene.publish(SECURE).await?, 5);
    node.until_release(5).await?;
    assert_eq!(fs::read_to_string(at("opt/bin/kubelet"))?, "kubelet two");
    assert!(!at("opt/cni/bin/loopback").exists());
    assert_eq!(calls(&recorded), [RESTART]);

    let (code, said) = artifacts(&scene, &["rm", "kubelet"]).await?;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("node.yaml"), "{said}");
    let (code, said) = artifacts(&scene, &["list"]).await?;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("secure:/opt/bin/kubelet"), "{said}");
    write_node_file(&scene, false)?;
    // The built-in one has a kubelet too.
    write(&scene, "compute/node.yaml", "artifacts: []\n")?;
    let (code, said) = artifacts(&scene, &["rm", "kubelet"]).await?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.publish(SECURE).await?, 6);
    node.until_release(6).await?;
    assert!(
        !at("opt/bin/kubelet").exists(),
        "a signed absence removes it"
    );
    // A renewal of the signatures keeps what the release needs.
    let state = node.state();
    drop(node);
    let mut command = scene.operator.platformctl();
    command.args(["refresh", "--force", "-e", "local"]);
    let renewed = tokio::task::spawn_blocking(move || command.output()).await??;
    assert!(renewed.status.success(), "{renewed:?}");
    fs::remove_dir_all(&state)?;
    let mut fresh = scene.node(SECURE, "fresh")?;
    fresh.start()?;
    fresh.until_release(6).await?;
    assert!(fresh.root().join("opt/cni/bin/bridge").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_the_operator_are_refused_before_anything_is_listed() -> Result {
    let scene = Scene::set().await?;
    let file = scene.operator.path("file");
    fs::write(&file, "bytes")?;
    let file = file.display().to_string();
    let other = Sha256Digest::of(b"other").to_string();
    for (arguments, part) in [
        (vec!["add", "a", &file, "--sha256", &other], "not"),
        (
            vec!["add", "a", "https://127.0.0.1:1/x"],
            "--sha256 is missing",
        ),
        (vec!["add", "../a", &file], "letters, digits"),
        (vec!["add", "a", &file, "--member", "x"], "--member"),
        (vec!["rm", "a"], "no artifact a"),
    ] {
        let (code, said) = artifacts(&scene, &arguments).await?;
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert!(
            !scene.operator.path("artifacts.toml").exists(),
            "{arguments:?}"
        );
    }
    add(&scene, "a", "v1", "one").await?;
    fs::write(scene.operator.path("a-v1"), "two")?;
    let path = scene.operator.path("a-v1").display().to_string();
    let (code, said) = artifacts(&scene, &["add", "a", &path, "--version", "v1"]).await?;
    assert_eq!(code, Some(2), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_each_step_leaves_old_or_new_and_restarts_the_unit_in_the_end() -> Result {
    let scene = Scene::set().await?;
    stage(&scene).await?;
    assert_eq!(scene.publish(SECURE).await?, 2);
    let (before, recorded) = recording(&scene, "before")?;
    let once = before.run_verb("once", &[]).await?;
    ensure!(once.status.success(), "{once:?}");
    assert_eq!(calls(&recorded), [RESTART]);
    add(&scene, "kubelet", "v2", "kubelet two").await?;
    add(&scene, "plugins", "v2", plugins(&["bridge", "host-local"])?).await?;
    write(&scene, TEMPLATE, "maxPods: 111\n")?;
    assert_eq!(scene.publish(SECURE).await?, 3);

    let steps = agent::artifacts::FAIL_POINTS.iter().copied();
    let steps = steps.filter(|s| *s != "artifacts::settle.file");
    let more = [
        "artifacts::file.after:2",
        "apply::host.after",
        "apply::commit.after",
        "units::restart",
    ];
    for (at, step) in steps.chain(more).enumerate() {
        let name = format!("crash-{at}");
        let directory = scene.nodes_directory().join(&name);
        let mut node = before.copy_to(&directory, &name)?;
        let recorded = directory.join("calls");
        let script = directory.join("systemctl");
        executable(
            &script,
            format!("#!/bin/sh\necho \"$@\" >> '{}'\n", recorded.display()),
        )?;
        node.configure(&format!("systemctl = \"{}\"\n", script.display()))?;
        node.start_with(&[("PLATFORM_AGENT_KILL_AT", step)])?;
        node.killed_itself(PATIENCE)
            .await
            .with_context(|| step.to_owned())?;
        let text = fs::read_to_string(node.root().join("opt/bin/kubelet"))?;
        assert!(
            ["kubelet one", "kubelet two"].contains(&&*text),
            "{step}: {text}"
        );
        for plugin in ["bridge", "loopback", "host-local"] {
            if let Ok(text) = fs::read_to_string(node.root().join("opt/cni/bin").join(plugin)) {
                assert_eq!(text, plugin, "{step}");
            }
        }
        assert_eq!(
            calls(&recorded),
            [""; 0],
            "{step}: not before the release is on the disk"
        );
        node.start()?;
        node.until_release(3)
            .await
            .with_context(|| step.to_owned())?;
        let text = fs::read_to_string(node.root().join("opt/bin/kubelet"))?;
        assert_eq!(text, "kubelet two", "{step}");
        assert!(!node.root().join("opt/cni/bin/loopback").exists(), "{step}");
        assert!(
            node.root().join("opt/cni/bin/host-local").exists(),
            "{step}"
        );
        assert_eq!(calls(&recorded), [RESTART], "{step}: once");
        let left = fs::read_dir(node.root().join("opt/bin"))?.count();
        assert_eq!(left, 1, "{step}: no temporary is left");
        node.kill().await?;
    }
    Ok(())
}

// --- the agent's update of itself

/// A model of systemd with the agent's unit: the guard before each start, a restart after each end, and an end for
/// what says nothing for too long.
struct Service<'a> {
    node: &'a mut Node,
    socket: PathBuf,
    starts: usize,
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

async fn is_put_back(name: &str, bad: &str) -> Result {
    let scene = Scene::set().await?;
    let (mut node, binary) = machine(&scene, name)?;
    let good = digest(&binary);
    let wanted = Sha256Digest::of(bad.as_bytes());
    add(&scene, "platform-agent", "bad", bad).await?;
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
    is_put_back("ends", "#!/bin/sh\nexit 1\n").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_is_put_back() -> Result {
    is_put_back("hangs", "#!/bin/sh\nexec sleep 1000\n").await
}
