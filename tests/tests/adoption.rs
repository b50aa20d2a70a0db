//! The contract: what platformctl publishes, platform-agent adopts, through the real S3 protocol and with real
//! processes. Every node here is the platform-agent binary; every operator works as platformctl does.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use platform_tests::faulty_proxy::{FaultyProxy, LogEntry};
use platform_tests::kubelet::{Finding, Kubelet, KubeletConfig};
use platform_tests::node::{Node, PATIENCE, eventually};
use platform_tests::scene::{COMPUTE, Pod, SECURE, Scene, remove_pod, until, write_pod};
use platform_tests::workspace::group;
use shared::documents::Phase;

/// How long the agent may take to put a file back on a machine that runs many tests at once.
const REPAIR: Duration = Duration::from_secs(10);

/// How long it may take for the most part: it is told by inotify, and has to do with no poll.
const AIM: Duration = Duration::from_secs(1);

type Result = anyhow::Result<()>;

fn exit_code(output: &std::process::Output) -> Option<i32> {
    output.status.code()
}

/// The exit code of `platformctl status` in the operator's directory.
async fn platformctl_status(scene: &Scene) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = scene.operator.platformctl();
    command.args(["status", "-e", "local"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.code(), said))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_platformctl_publishes_is_on_every_disk_and_reported() -> Result {
    let scene = Scene::set().await?;
    let mut secure = scene.node(SECURE, "secure-1")?;
    let mut compute = scene.node(COMPUTE, "compute-1")?;
    secure.start()?;
    compute.start()?;
    secure.until_release(1).await?;
    compute.until_release(1).await?;
    scene.operator.expect_nodes(1, 1)?;

    let names: Vec<String> = secure.manifest_files()?.into_keys().collect();
    assert_eq!(
        names,
        [
            "addons.yaml",
            "etcd.yaml",
            "kube-apiserver.yaml",
            "kube-controller-manager.yaml",
            "kube-proxy.yaml",
            "kube-scheduler.yaml"
        ]
    );
    let names: Vec<String> = compute.manifest_files()?.into_keys().collect();
    assert_eq!(
        names,
        ["kube-proxy.yaml"],
        "a node gets its own group's files only"
    );
    // Each secret file is in exactly one directory, under its pod, with its mode.
    let secrets = scene.operator.render_input(&group(SECURE)).await?.secrets;
    for (pod, files) in &secrets {
        let directories: Vec<_> = fs::read_dir(secure.kubernetes().join("secrets").join(pod))?
            .collect::<std::io::Result<_>>()?;
        assert_eq!(directories.len(), 1, "{pod}");
        for (name, file) in files {
            let delivered = directories[0].path().join(name);
            assert_eq!(fs::read(&delivered)?, file.bytes.expose(), "{delivered:?}");
            let mode = |path: &Path| fs::metadata(path).map(|m| m.permissions().mode() & 0o777);
            assert_eq!(
                mode(&delivered)? & 0o077,
                0,
                "{delivered:?} is for root alone"
            );
        }
        // A further directory of a pod's is `POD_WHAT`.
        let owner = pod.split('_').next().context("a name")?;
        let manifest = fs::read_to_string(secure.manifests().join(format!("{owner}.yaml")))?;
        let digest = directories[0].file_name();
        assert!(
            manifest.contains(&*digest.to_string_lossy()),
            "the manifest names the directory"
        );
    }

    let status = scene
        .until_status(&secure, "it is on release 1", |s| {
            s.release.is_some_and(|r| r.get() == 1)
        })
        .await?;
    assert_eq!((status.phase, status.error), (Phase::Idle, None));
    assert_eq!(status.published.map(|r| r.get()), Some(1));
    assert!(status.foreign.is_empty() && status.hold.is_none());
    let verified = secure.run_verb("verify", &[]).await?;
    assert_eq!(exit_code(&verified), Some(0), "{verified:?}");
    scene
        .until_status(&compute, "it is on release 1", |s| {
            s.release.is_some_and(|r| r.get() == 1)
        })
        .await?;
    let (code, said) = platformctl_status(&scene).await?;
    assert_eq!(code, Some(0), "{said}");

    // The main job: an amended manifest is on the disk within one poll.
    scene
        .operator
        .amend("secure/kube-scheduler.yaml.j2", "cpu: 100m", "cpu: 150m")?;
    assert_eq!(scene.publish(SECURE).await?, 2);
    secure.until_release(2).await?;
    assert!(fs::read_to_string(secure.manifests().join("kube-scheduler.yaml"))?.contains("150m"));

    // A node that is away is not on the published release, and status says so by its exit code.
    let ended = secure.terminate().await?;
    assert_eq!(ended.code(), Some(0), "a signal is an orderly end");
    scene
        .operator
        .amend("secure/kube-scheduler.yaml.j2", "cpu: 150m", "cpu: 175m")?;
    assert_eq!(scene.publish(SECURE).await?, 3);
    let (code, said) = platformctl_status(&scene).await?;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("not on the published release"), "{said}");

    // One pass is enough to catch up.
    let once = secure.run_verb("once", &[]).await?;
    assert_eq!(exit_code(&once), Some(0), "{once:?}");
    assert!(
        String::from_utf8_lossy(&once.stdout).contains("adopted release 3"),
        "{once:?}"
    );
    let (code, said) = platformctl_status(&scene).await?;
    assert_eq!(code, Some(0), "{said}");

    // And a disk that is not as recorded is said by verify's.
    fs::write(secure.manifests().join("etcd.yaml"), "edited")?;
    let verified = secure.run_verb("verify", &[]).await?;
    assert_eq!(exit_code(&verified), Some(3), "{verified:?}");
    assert!(
        String::from_utf8_lossy(&verified.stdout).contains("manifests/etcd.yaml"),
        "{verified:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_at_rest_is_one_request_and_writes_nothing() -> Result {
    const POLLS: usize = 5;
    let scene = Scene::set().await?;
    let proxy = FaultyProxy::start(scene.bucket.store().addr()).await?;
    let mut node = scene.node_at(SECURE, "secure-1", &proxy.endpoint())?;
    node.start()?;
    node.until_release(1).await?;
    scene
        .until_status(&node, "it is on release 1", |s| {
            s.release.is_some() && s.error.is_none()
        })
        .await?;
    // A pass may still write after its 304 (what a first look at the probes saw, the end of the adoption): it is at rest
    // when a whole pass asked for nothing else.
    until("a pass at rest", PATIENCE, || at_rest(&proxy.log())).await?;

    let traces = node.traces()?;
    let (asked, stored) = (proxy.log().len(), scene.bucket.requests());
    until("it polls", PATIENCE, || proxy.log().len() >= asked + POLLS).await?;
    let log = proxy.log();
    let store = scene.bucket.requests().since(&stored);
    for entry in &log[asked..] {
        assert_eq!(entry.method, "GET");
        assert!(
            entry.path.contains("groups/secure/metadata/timestamp.json"),
            "{entry:?}"
        );
        assert_eq!(entry.status, Some(304), "{entry:?}");
    }
    assert_eq!(
        store.of("GetObject"),
        store.total,
        "the store saw nothing else: {store:?}"
    );
    assert_eq!(store.not_modified, store.total, "{store:?}");
    let changed = traces.changed(&node.traces()?);
    assert!(changed.is_empty(), "polls at rest touched {changed:?}");
    Ok(())
}

/// Whether three requests in a row were polls answered 304, so that at least one pass lies whole between them.
fn at_rest(log: &[LogEntry]) -> bool {
    let last: Vec<_> = log.iter().rev().take(3).collect();
    last.len() == 3 && last.iter().all(|e| e.status == Some(304))
}

/// Spoils one thing, and waits until the tree is as before.
async fn repaired(
    node: &Node,
    what: &str,
    spoil: impl FnOnce() -> Result,
) -> anyhow::Result<Duration> {
    let before = node.kubernetes_files()?;
    let modes = |node: &Node| -> anyhow::Result<Vec<u32>> {
        let files = node.kubernetes_files()?;
        let mode = |path: &std::path::PathBuf| -> anyhow::Result<u32> {
            Ok(fs::symlink_metadata(node.kubernetes().join(path))?
                .permissions()
                .mode())
        };
        files.keys().map(mode).collect()
    };
    let modes_before = modes(node)?;
    spoil()?;
    let repaired = format!("{what} is repaired");
    let took = until(&repaired, REPAIR, || {
        // A file may go while it is read: then it is not repaired yet.
        node.kubernetes_files().is_ok_and(|now| now == before)
            && modes(node).is_ok_and(|now| now == modes_before)
    });
    let took = took
        .await
        .with_context(|| node.last_log().unwrap_or_default())?;
    println!("{what}: repaired after {} ms", took.as_millis());
    Ok(took)
}

/// Each kind of drift in turn; how long each repair took.
async fn every_drift_is_repaired(node: &Node) -> anyhow::Result<Vec<Duration>> {
    let manifests = node.manifests();
    let pod = node.kubernetes().join("secrets/etcd");
    let directory = fs::read_dir(&pod)?
        .next()
        .context("a secret directory")??
        .path();
    let etcd = manifests.join("etcd.yaml");
    type Spoil<'a> = &'a dyn Fn() -> Result;
    let kinds: [(&str, Spoil<'_>); 8] = [
        ("an edited manifest", &|| {
            Ok(fs::write(&etcd, "# edited by hand\n")?)
        }),
        ("a deleted manifest", &|| Ok(fs::remove_file(&etcd)?)),
        ("a manifest with another mode", &|| {
            Ok(fs::set_permissions(
                &etcd,
                fs::Permissions::from_mode(0o666),
            )?)
        }),
        ("a manifest that became a link", &|| {
            fs::remove_file(&etcd)?;
            Ok(symlink("/etc/hostname", &etcd)?)
        }),
        ("every manifest deleted", &|| {
            for entry in fs::read_dir(&manifests)? {
                fs::remove_file(entry?.path())?;
            }
            Ok(())
        }),
        ("an edited secret", &|| {
            Ok(fs::write(directory.join("ca.crt"), "x")?)
        }),
        ("an extra file in a secret directory", &|| {
            Ok(fs::write(directory.join("extra.crt"), "x")?)
        }),
        ("a deleted secret directory", &|| {
            Ok(fs::remove_dir_all(&directory)?)
        }),
    ];
    let mut took = Vec::new();
    for (what, spoil) in kinds {
        took.push(repaired(node, what, spoil).await?);
    }
    Ok(took)
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_repaired_also_without_the_store() -> Result {
    let scene = Scene::set().await?;
    let mut settings = scene.settings(SECURE, "secure-1", &scene.bucket.endpoint())?;
    // So long that no poll helps.
    settings.poll_interval_seconds = 3600;
    let mut node = Node::lay_out(&scene.nodes_directory().join("secure-1"), settings)?;
    node.start()?;
    node.until_release(1).await?;
    let mut took = every_drift_is_repaired(&node).await?;
    let repaired = node.metric("platform_agent_drift_repaired_total").await?;
    assert!(
        repaired >= 11.0,
        "{repaired} files were counted as put back"
    );
    scene
        .until_status(&node, "drift was repaired", |s| {
            s.drift_repaired >= 11 && s.error.is_none()
        })
        .await?;

    // The store goes, and nothing changes.
    drop(scene.bucket);
    took.extend(every_drift_is_repaired(&node).await?);
    took.sort();
    let median = took[took.len() / 2];
    assert!(
        median < AIM,
        "half of the repairs took longer than {median:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_offline_with_what_it_has() -> Result {
    let scene = Scene::set().await?;
    let mut node = scene.node(SECURE, "secure-1")?;
    let once = node.run_verb("once", &[]).await?;
    assert_eq!(exit_code(&once), Some(0), "{once:?}");
    let before = node.kubernetes_files()?;
    let etcd = node.manifests().join("etcd.yaml");
    let scheduler = node.manifests().join("kube-scheduler.yaml");
    fs::write(&etcd, "torn by a crash")?;
    fs::remove_file(&scheduler)?;

    // A port nobody listens on: what a node without a network sees.
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    node.set_endpoint(&format!("http://{closed}"))?;
    node.start()?;
    until("the files are back", PATIENCE, || {
        node.kubernetes_files().is_ok_and(|now| now == before)
    })
    .await?;
    node.until_polled(2).await?;
    assert!(
        node.is_running(),
        "an agent must not end because the store is away"
    );
    let (status, why) = node.health().await?;
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("no poll has succeeded"), "{why}");
    assert_eq!(node.metric("platform_agent_release_number").await?, 1.0);
    assert!(
        node.errors("idle", "connection").await? >= 2.0,
        "{}",
        node.metrics().await?
    );
    let said = node.log_lines(&[("kind", "connection"), ("phase", "idle")])?;
    assert_eq!(
        said.len(),
        1,
        "loud when it is new, and then quiet: {said:?}"
    );
    node.terminate().await?;

    let once = node.run_verb("once", &[]).await?;
    assert_eq!(exit_code(&once), Some(1), "{once:?}");
    let verified = node.run_verb("verify", &[]).await?;
    assert_eq!(exit_code(&verified), Some(0), "{verified:?}");

    // The network is back.
    node.set_endpoint(&scene.bucket.endpoint())?;
    node.start()?;
    node.until_release(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_file_is_reported_and_never_touched() -> Result {
    let scene = Scene::set().await?;
    let mut node = scene.node(COMPUTE, "compute-1")?;
    node.start()?;
    node.until_release(1).await?;
    let mine = node.manifests().join("mine.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: mine}\nspec: {containers: [{name: m, image: m}]}\n";
    fs::write(&mine, text)?;
    scene
        .until_status(&node, "mine.yaml is foreign", |s| {
            s.foreign == ["mine.yaml"]
        })
        .await?;
    assert_eq!(node.metric("platform_agent_foreign_files").await?, 1.0);
    let verified = node.run_verb("verify", &[]).await?;
    let said = String::from_utf8_lossy(&verified.stdout);
    assert_eq!(verified.status.code(), Some(3), "{verified:?}");
    assert!(
        said.contains("manifests/mine.yaml: not the agent's, and kubelet runs it"),
        "{said}"
    );
    assert_eq!(
        node.metric("platform_agent_drift_repaired_total").await?,
        0.0
    );

    // A release that has nothing to do with it is adopted beside it.
    scene
        .operator
        .amend("compute/kube-proxy.yaml.j2", "cpu: 50m", "cpu: 60m")?;
    assert_eq!(scene.publish(COMPUTE).await?, 2);
    node.until_release(2).await?;
    assert_eq!(fs::read_to_string(&mine)?, text);

    // A release that wants its place is refused before the first byte.
    let theirs = Pod {
        file: "mine",
        name: "theirs",
        image: "registry.example/a:1",
        secrets: &[],
        host_port: None,
    };
    write_pod(&scene.operator, COMPUTE, &theirs)?;
    let before = node.kubernetes_files()?;
    assert_eq!(scene.publish(COMPUTE).await?, 3);
    let status = scene
        .until_status(&node, "a file is in the way", |s| {
            s.error.as_ref().is_some_and(|e| e.kind == "foreign_file")
        })
        .await?;
    assert!(
        status
            .error
            .is_some_and(|e| e.message.contains("mine.yaml"))
    );
    assert_eq!(status.release.map(|r| r.get()), Some(2));
    assert_eq!(node.kubernetes_files()?, before);

    // Moved away by a person, it is in nobody's way.
    fs::rename(&mine, node.root().join("mine.yaml"))?;
    node.until_release(3).await?;
    scene
        .until_status(&node, "all is well", |s| {
            s.error.is_none() && s.foreign.is_empty()
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_manifest_goes_with_its_secrets() -> Result {
    let pod = Pod {
        file: "web",
        name: "web",
        image: "registry.example/web:1",
        secrets: &[("token", "first")],
        host_port: None,
    };
    let scene = Scene::set_with(async |operator| write_pod(operator, COMPUTE, &pod)).await?;
    let mut node = scene.node(COMPUTE, "compute-1")?;
    // Nobody runs the pod: it need not be given time to end.
    node.start_with(&[(agent::failpoints::CLEAN_AT_ONCE_VARIABLE, "1")])?;
    node.until_release(1).await?;
    let secrets = node.kubernetes().join("secrets/web");
    assert!(node.manifests().join("web.yaml").is_file());
    assert_eq!(fs::read_dir(&secrets)?.count(), 1);

    remove_pod(&scene.operator, COMPUTE, "web")?;
    assert_eq!(scene.publish(COMPUTE).await?, 2);
    node.until_release(2).await?;
    node.until_polled(2).await?;
    assert!(!node.manifests().join("web.yaml").exists());
    let left = fs::read_dir(&secrets).map_or(0, Iterator::count);
    assert_eq!(left, 0, "a secret outlives its pod");
    let names: Vec<String> = node.manifest_files()?.into_keys().collect();
    assert_eq!(names, ["kube-proxy.yaml"]);
    let verified = node.run_verb("verify", &[]).await?;
    assert_eq!(exit_code(&verified), Some(0), "{verified:?}");
    Ok(())
}

/// Where in the history a file was first seen gone, and another first seen there.
async fn take_over(old: Pod<'_>, new: Pod<'_>, port: u16, held: TcpListener) -> Result {
    let scene = Scene::set_with(async |operator| write_pod(operator, COMPUTE, &old)).await?;
    let mut node = scene.node(COMPUTE, "compute-1")?;
    node.start()?;
    node.until_release(1).await?;
    let kubelet = Kubelet::start(KubeletConfig {
        manifests: node.manifests(),
        root: node.root(),
        tick: Duration::from_millis(2),
    })?;

    let (old_file, new_file) = (format!("{}.yaml", old.file), format!("{}.yaml", new.file));
    fs::remove_file(
        scene
            .operator
            .path(&format!("manifests/{COMPUTE}/{}.yaml.j2", old.file)),
    )?;
    write_pod(&scene.operator, COMPUTE, &new)?;
    assert_eq!(scene.publish(COMPUTE).await?, 2);
    let what = format!("{old_file} goes first");
    until(&what, PATIENCE, || {
        !node.manifests().join(&old_file).exists()
    })
    .await?;
    // The old pod still ends: its port is held by this process.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert!(
            !node.manifests().join(&new_file).exists(),
            "{new_file} came while port {port} was still held"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(held);
    node.until_release(2).await?;
    assert!(node.manifests().join(&new_file).is_file());

    let history = kubelet.stop();
    let at = |wanted: &dyn Fn(&Finding) -> bool| history.iter().position(|o| wanted(&o.finding));
    let gone = at(&|f| matches!(f, Finding::Removed { file } if *file == old_file));
    let there = at(&|f| matches!(f, Finding::Read { file, .. } if *file == new_file));
    let (gone, there) = (
        gone.context("never removed")?,
        there.context("never created")?,
    );
    assert!(
        gone < there,
        "kubelet sees the end of the old pod before the new one"
    );
    let listed_both = history.iter().any(|o| {
        matches!(&o.finding, Finding::Listed { files }
            if files.contains_key(&old_file) && files.contains_key(&new_file))
    });
    assert!(!listed_both, "no list may show both");
    let emptied = history
        .iter()
        .any(|o| matches!(&o.finding, Finding::Set { pods } if pods.is_empty()));
    assert!(!emptied, "the other pods stay");
    Ok(())
}

fn free_port() -> anyhow::Result<(u16, TcpListener)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok((listener.local_addr()?.port(), listener))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_file_waits_for_the_end_of_its_pod() -> Result {
    let (port, held) = free_port()?;
    let old = Pod {
        file: "web",
        name: "web",
        image: "registry.example/web:1",
        secrets: &[],
        host_port: Some(port),
    };
    let new = Pod {
        file: "front",
        ..old
    };
    take_over(old, new, port, held).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_takes_a_host_port_over_waits_for_it() -> Result {
    let (port, held) = free_port()?;
    let old = Pod {
        file: "web",
        name: "web",
        image: "registry.example/web:1",
        secrets: &[],
        host_port: Some(port),
    };
    let new = Pod {
        file: "front",
        name: "front",
        ..old
    };
    take_over(old, new, port, held).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_suspends_repair_and_adoption() -> Result {
    let scene = Scene::set().await?;
    let mut node = scene.node(COMPUTE, "compute-1")?;
    node.start()?;
    node.until_release(1).await?;
    let held = node
        .run_verb("hold", &["--for", "1h", "looking at kube-proxy"])
        .await?;
    assert_eq!(exit_code(&held), Some(0), "{held:?}");
    let status = scene
        .until_status(&node, "it is held", |s| s.hold.is_some())
        .await?;
    assert_eq!(status.phase, Phase::Held);
    assert!(
        status
            .hold
            .is_some_and(|h| h.reason == "looking at kube-proxy" && h.until.is_some())
    );
    assert_eq!(node.metric("platform_agent_hold").await?, 1.0);

    let manifest = node.manifests().join("kube-proxy.yaml");
    let genuine = fs::read(&manifest)?;
    fs::write(&manifest, "# under the knife\n")?;
    scene
        .operator
        .amend("compute/kube-proxy.yaml.j2", "cpu: 50m", "cpu: 60m")?;
    assert_eq!(scene.publish(COMPUTE).await?, 2);
    scene
        .until_status(&node, "release 2 is published", |s| {
            s.published.is_some_and(|r| r.get() == 2)
        })
        .await?;
    node.until_polled(3).await?;
    assert_eq!(
        fs::read_to_string(&manifest)?,
        "# under the knife\n",
        "a hold suspends repair"
    );
    assert_eq!(
        scene.status(&node)?.release.map(|r| r.get()),
        Some(1),
        "a hold suspends adoption"
    );
    let (code, said) = platformctl_status(&scene).await?;
    assert_eq!(code, Some(3), "a held node is not as it should be: {said}");

    let lifted = node.run_verb("hold", &["--lift"]).await?;
    assert_eq!(exit_code(&lifted), Some(0), "{lifted:?}");
    node.until_release(2).await?;
    let now = fs::read(&manifest)?;
    assert!(now != genuine && String::from_utf8_lossy(&now).contains("60m"));
    scene
        .until_status(&node, "it is free", |s| {
            s.hold.is_none() && s.error.is_none()
        })
        .await?;

    // A hold that ends by itself; one pass says that it is held.
    let held = node.run_verb("hold", &["--for", "2s", "a moment"]).await?;
    assert_eq!(exit_code(&held), Some(0), "{held:?}");
    fs::write(&manifest, "# again\n")?;
    until("it is put back when the hold has ended", PATIENCE, || {
        fs::read(&manifest).is_ok_and(|bytes| bytes == now)
    })
    .await?;
    node.terminate().await?;
    node.run_verb("hold", &["at rest"]).await?;
    let once = node.run_verb("once", &[]).await?;
    assert_eq!(exit_code(&once), Some(3), "{once:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_is_refused_and_names_the_first() -> Result {
    let scene = Scene::set().await?;
    let mut node = scene.node(COMPUTE, "compute-1")?;
    node.start()?;
    node.until_release(1).await?;
    let pid = node.pid().context("a process")?.to_string();
    for verb in ["run", "once"] {
        let second = node.run_verb(verb, &[]).await?;
        assert_eq!(exit_code(&second), Some(2), "{verb}: {second:?}");
        let said = String::from_utf8_lossy(&second.stderr);
        assert!(said.contains(&pid), "{verb} does not name {pid}: {said}");
    }
    // What only reads needs no lock.
    let verified = node.run_verb("verify", &[]).await?;
    assert_eq!(exit_code(&verified), Some(0), "{verified:?}");
    assert!(node.is_running(), "the first is none the worse");

    // The system gives the lock back however its holder ends.
    node.kill().await?;
    let next = node.run_verb("once", &[]).await?;
    assert_eq!(exit_code(&next), Some(0), "{next:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_leaves_a_node_that_the_next_one_takes_on() -> Result {
    let scene = Scene::set().await?;
    let mut node = scene.node(COMPUTE, "compute-1")?;
    node.start()?;
    node.until_release(1).await?;
    node.kill().await?;
    scene
        .operator
        .amend("compute/kube-proxy.yaml.j2", "cpu: 50m", "cpu: 60m")?;
    scene.publish(COMPUTE).await?;
    node.start()?;
    node.until_release(2).await?;
    eventually("healthz is 200", PATIENCE, async || {
        let (status, why) = node.health().await?;
        anyhow::ensure!(status == 200, "{why}");
        Ok(())
    })
    .await
}
