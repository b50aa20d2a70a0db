//! Binaries and unit restarts on their way to a node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use platform_tests::node::{Node, PATIENCE};
use platform_tests::scene::{SECURE, Scene};
use shared::digest::Sha256Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Result, add, artifacts};

const TEMPLATE: &str = "secure/host/kubelet/config.yaml.j2";

fn executable(path: &Path, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
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

/// Answers each request for `/good` with bytes, for `/moved` with a redirect to it, and for all else with 404.
async fn serve(listener: TcpListener, bytes: &'static [u8]) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0_u8; 4096];
        let Ok(length) = stream.read(&mut request).await else {
            continue;
        };
        let asked = String::from_utf8_lossy(&request[..length]).into_owned();
        let head = |status: &str, length: usize| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n")
        };
        let mut answer = Vec::new();
        if asked.starts_with("GET /good ") {
            answer.extend_from_slice(head("200 OK", bytes.len()).as_bytes());
            answer.extend_from_slice(b"\r\n");
            answer.extend_from_slice(bytes);
        } else if asked.starts_with("GET /moved ") {
            let moved = head("302 Found", 0) + "Location: /good\r\n\r\n";
            answer.extend_from_slice(moved.as_bytes());
        } else {
            answer.extend_from_slice((head("404 Not Found", 0) + "\r\n").as_bytes());
        }
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_comes_from_a_server_when_its_digest_is_the_pinned_one() -> Result {
    const BYTES: &[u8] = b"crictl one";
    let scene = Scene::set().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(serve(listener, BYTES));
    let digest = Sha256Digest::of(BYTES).to_string();
    let other = Sha256Digest::of(b"other").to_string();
    let list = scene.operator.path("artifacts.toml");

    for (path, pinned, part) in [("gone", &digest, "404"), ("good", &other, &*other)] {
        let url = format!("{base}/{path}");
        let (code, said) = artifacts(&scene, &["add", "crictl", &url, "--sha256", pinned]).await?;
        ensure!(code != Some(0) && said.contains(part), "{path}: {said}");
        ensure!(
            said.contains(&url),
            "{path}: it names what it asked for: {said}"
        );
        ensure!(!list.exists(), "{path}: nothing is listed");
    }
    let url = format!("{base}/moved");
    let arguments = [
        "add",
        "crictl",
        &*url,
        "--sha256",
        &*digest,
        "--version",
        "v1",
    ];
    let (code, said) = artifacts(&scene, &arguments).await?;
    ensure!(code == Some(0), "{said}");
    server.abort();

    let text = "artifacts:\n  - name: crictl\n    path: /opt/bin/crictl\n    mode: \"0755\"\n";
    write(&scene, "secure/node.yaml", text)?;
    scene.publish(SECURE).await?;
    let mut node = scene.node(SECURE, "secure-1")?;
    node.start()?;
    node.until_release(2).await?;
    let installed = fs::read(node.root().join("opt/bin/crictl"))?;
    ensure!(installed == BYTES);
    Ok(())
}
