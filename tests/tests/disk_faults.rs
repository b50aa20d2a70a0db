//! A disk that is full or read-only, and a clock that steps: the last good release stays, the error is named, and the
//! agent goes on by itself when the cause is gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use platform_tests::faulty_proxy::{Fault, FaultyProxy};
use platform_tests::node::{Node, PATIENCE, eventually};
use platform_tests::scene::{COMPUTE, Pod, Scene, write_pod};
use platform_tests::tools;
use shared::documents::NodeStatus;

type Result = anyhow::Result<()>;

/// A mount that is undone when it is dropped.
struct Mount(PathBuf);

impl Mount {
    /// A tmpfs of `size` on `directory`; none where this user may not mount: a skip that is said, and a failure where tools
    /// are required.
    fn tmpfs(directory: &Path, size: &str) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(directory)?;
        let options = format!("size={size},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "platform-test"])
            .arg(directory)
            .output()?;
        if mounted.status.success() {
            return Ok(Some(Self(directory.to_owned())));
        }
        // Mounting is a privilege of the place that the tests run in: it fails there and not in the code under test.
        let said = String::from_utf8_lossy(&mounted.stderr);
        let refused = ["permission denied", "must be superuser", "not permitted"];
        let refused = refused.iter().any(|why| said.to_lowercase().contains(why));
        ensure!(refused, "a tmpfs cannot be mounted: {mounted:?}");
        tools::skip(&format!("the tests may not mount a tmpfs here: {said}"));
        Ok(None)
    }

    /// Makes everything below read-only until the answer is dropped, for whoever looks a path up. A second mount on top:
    /// the first cannot change while the agent holds its lock open for writing.
    fn read_only(&self) -> anyhow::Result<Self> {
        let mount = |arguments: &[&str]| -> Result {
            let mut command = Command::new("mount");
            let mounted = command.args(arguments).arg(&self.0).output()?;
            ensure!(mounted.status.success(), "{mounted:?}");
            Ok(())
        };
        let directory = self.0.to_str().context("a path is text")?;
        mount(&["--bind", directory])?;
        let top = Self(self.0.clone());
        mount(&["-o", "remount,bind,ro"])?;
        Ok(top)
    }

    /// Fills what is free, to the last byte.
    fn fill(&self) -> anyhow::Result<PathBuf> {
        use std::io::Write as _;
        let path = self.0.join("ballast");
        let mut file = fs::File::create(&path)?;
        for piece in [64 * 1024, 4096, 1] {
            let piece = vec![b'x'; piece];
            while file.write_all(&piece).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // An agent that was killed this moment may still hold it: detached, it goes with that.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A node that lies on a file system of its own.
struct Rig {
    // In this order: the agent first, then what it stands on.
    node: Node,
    mount: Mount,
    scene: Scene,
}

/// `part` of the node's directory is the mount's.
async fn rig(part: &str) -> anyhow::Result<Option<Rig>> {
    rig_on(Scene::set().await?, part).await
}

async fn rig_on(scene: Scene, part: &str) -> anyhow::Result<Option<Rig>> {
    let directory = scene.nodes_directory().join("compute-1");
    let Some(mount) = Mount::tmpfs(&directory.join(part), "2m")? else {
        return Ok(None);
    };
    let mut node = scene.node(COMPUTE, "compute-1")?;
    node.start()?;
    node.until_release(1).await?;
    Ok(Some(Rig { node, mount, scene }))
}

fn files(node: &Node) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = node.kubernetes_files()?;
    files.retain(|path, _| !path.ends_with("ballast"));
    Ok(files)
}

impl Rig {
    /// A release that cannot be written: refused with this kind, in all three places, and nothing changes.
    async fn cannot_adopt(&self, kind: &str) -> Result {
        let before = files(&self.node)?;
        self.scene
            .operator
            .amend("compute/kube-proxy.yaml.j2", "cpu: 50m", "cpu: 60m")?;
        ensure!(self.scene.publish(COMPUTE).await? == 2);
        self.is_refused(kind, &before).await
    }

    async fn is_refused(&self, kind: &str, before: &BTreeMap<PathBuf, Vec<u8>>) -> Result {
        let named = |status: &NodeStatus| status.error.as_ref().is_some_and(|e| e.kind == kind);
        let what = format!("its error is {kind}");
        let status = self.scene.until_status(&self.node, &what, named).await?;
        let error = status.error.context("an error")?;
        let phase = error.phase.to_string();
        ensure!(
            self.node.errors(&phase, kind).await? > 0.0,
            "{}",
            self.node.metrics().await?
        );
        let said = self
            .node
            .log_lines(&[("level", "ERROR"), ("phase", &phase), ("kind", kind)])?;
        ensure!(
            !said.is_empty(),
            "{phase}, {kind} is not in the log:\n{}",
            self.node.log()?
        );
        ensure!(status.release.map(|r| r.get()) == Some(1));
        self.node.until_polled(3).await?;
        ensure!(
            files(&self.node)? == *before,
            "the release on the disk did not stay"
        );
        Ok(())
    }

    async fn adopts_by_itself(&self) -> Result {
        self.node.until_release(2).await?;
        self.scene
            .until_status(&self.node, "all is well", |s| {
                s.error.is_none() && s.release.is_some_and(|r| r.get() == 2)
            })
            .await?;
        let manifest = fs::read_to_string(self.node.manifests().join("kube-proxy.yaml"))?;
        ensure!(manifest.contains("60m"));
        let verified = self.node.run_verb("verify", &[]).await?;
        ensure!(verified.status.code() == Some(0), "{verified:?}");
        Ok(())
    }
}

async fn a_full_disk(part: &str) -> Result {
    let Some(rig) = rig(part).await? else {
        return Ok(());
    };
    let ballast = rig.mount.fill()?;
    rig.cannot_adopt("no_space").await?;
    fs::remove_file(ballast)?;
    rig.adopts_by_itself().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_manifests() -> Result {
    a_full_disk("root/etc/kubernetes").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_state() -> Result {
    a_full_disk("state").await
}

const WEB: Pod<'_> = Pod {
    file: "web",
    name: "web",
    image: "registry.example/web:1",
    secrets: &[],
    host_port: None,
};

/// A pod under another name has to end before its heir is written: not while the heir has no room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_no_pod_that_is_renamed() -> Result {
    let scene = Scene::set_with(async |operator| write_pod(operator, COMPUTE, &WEB)).await?;
    let Some(rig) = rig_on(scene, "root/etc/kubernetes").await? else {
        return Ok(());
    };
    let before = files(&rig.node)?;
    let ballast = rig.mount.fill()?;
    let manifest = "compute/web.yaml.j2";
    rig.scene
        .operator
        .amend(manifest, "name: web\n", "name: web-next\n")?;
    ensure!(rig.scene.publish(COMPUTE).await? == 2);
    rig.is_refused("no_space", &before).await?;
    fs::remove_file(ballast)?;
    rig.node.until_release(2).await?;
    let manifest = fs::read_to_string(rig.node.manifests().join("web.yaml"))?;
    ensure!(manifest.contains("web-next"), "{manifest}");
    Ok(())
}

async fn a_read_only_disk(part: &str) -> Result {
    let Some(rig) = rig(part).await? else {
        return Ok(());
    };
    let read_only = rig.mount.read_only()?;
    rig.cannot_adopt("read_only").await?;
    drop(read_only);
    rig.adopts_by_itself().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_under_the_manifests() -> Result {
    a_read_only_disk("root/etc/kubernetes").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_under_the_state() -> Result {
    a_read_only_disk("state").await
}

/// Drift on a disk that is full is put back once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn drift_on_a_full_disk_is_repaired_when_there_is_room() -> Result {
    let Some(rig) = rig("root/etc/kubernetes").await? else {
        return Ok(());
    };
    let manifest = rig.node.manifests().join("kube-proxy.yaml");
    let genuine = fs::read(&manifest)?;
    let ballast = rig.mount.fill()?;
    fs::remove_file(&manifest)?;
    let filled_again = rig.mount.0.join("more");
    fs::write(&filled_again, vec![b'x'; 64 * 1024]).ok();
    rig.scene
        .until_status(&rig.node, "its disk is full", |s| {
            s.error.as_ref().is_some_and(|e| e.kind == "no_space")
        })
        .await
        .with_context(|| rig.node.log().unwrap_or_default())?;
    let (status, why) = rig.node.health().await?;
    ensure!(status == 503, "{why}");
    fs::remove_file(ballast)?;
    eventually("the manifest is back", PATIENCE, async || {
        ensure!(fs::read(&manifest)? == genuine);
        Ok(())
    })
    .await?;
    rig.scene
        .until_status(&rig.node, "all is well", |s| s.error.is_none())
        .await?;
    Ok(())
}

/// The file in which the agent keeps the latest time at which it adopted.
fn remember(node: &Node, time: jiff::Timestamp) -> Result {
    Ok(fs::write(
        node.state().join("latest-time.json"),
        format!("{{\"latest\":\"{time}\"}}\n"),
    )?)
}

/// To a process, a clock that stepped back is one that remembers a later time than it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_stepped_back_adopts_nothing_until_the_store_confirms_it() -> Result {
    let scene = Scene::set().await?;
    let proxy = FaultyProxy::start(scene.bucket.store().addr()).await?;
    let mut node = scene.node_at(COMPUTE, "compute-1", &proxy.endpoint())?;
    node.start()?;
    node.until_release(1).await?;
    let before = node.kubernetes_files()?;
    let timestamp = scene
        .bucket
        .object("groups/compute/metadata/timestamp.json");
    let old = fs::read(&timestamp)?;

    // The store's clock is ahead, as the node's was when it remembered: nobody confirms what it is now. Ten minutes are
    // more than the two may be apart, and less than that a signature would be refused for.
    let day = jiff::SignedDuration::from_hours(24);
    proxy.set("", Fault::DateSkew(600));
    remember(&node, jiff::Timestamp::now() + day)?;
    scene
        .operator
        .amend("compute/kube-proxy.yaml.j2", "cpu: 50m", "cpu: 60m")?;
    ensure!(scene.publish(COMPUTE).await? == 2);
    scene
        .until_status(&node, "its clock is wrong", |s| {
            s.error.as_ref().is_some_and(|e| e.kind == "clock")
        })
        .await
        .with_context(|| node.log().unwrap_or_default())?;
    ensure!(node.errors("verify", "clock").await? > 0.0);
    ensure!(
        !node
            .log_lines(&[("level", "ERROR"), ("kind", "clock")])?
            .is_empty()
    );
    let skew = node.metric("platform_agent_clock_skew_seconds").await?;
    ensure!((skew + 600.0).abs() < 60.0, "the skew is measured: {skew}");
    node.until_polled(2).await?;
    ensure!(node.kubernetes_files()? == before);

    // The store agrees with the clock after all: the memory was wrong. It is dropped, loudly, and versions stay enforced.
    proxy.clear();
    node.until_release(2).await?;
    ensure!(node.errors("verify", "clock_memory_dropped").await? >= 1.0);
    let dropped = node
        .log()?
        .contains("the store agrees with the clock: forgetting it");
    ensure!(dropped, "{}", node.log()?);
    scene
        .until_status(&node, "all is well", |s| {
            s.error.is_none() && s.clock_skew_seconds.is_some_and(|skew| skew.abs() < 60)
        })
        .await?;

    // What the clock says is no reason to take back what was adopted: an old timestamp is refused by its version.
    let newest = fs::read(&timestamp)?;
    fs::write(&timestamp, &old)?;
    scene
        .until_status(&node, "an old release was put back", |s| {
            s.error.as_ref().is_some_and(|e| e.kind == "rollback")
        })
        .await?;
    fs::write(&timestamp, &newest)?;
    scene
        .until_status(&node, "all is well", |s| s.error.is_none())
        .await?;

    // And forth: a memory of long ago says nothing.
    remember(&node, jiff::Timestamp::now() - day)?;
    scene
        .operator
        .amend("compute/kube-proxy.yaml.j2", "cpu: 60m", "cpu: 70m")?;
    ensure!(scene.publish(COMPUTE).await? == 3);
    node.until_release(3).await
}

/// A store whose clock jumps back and forth disturbs nothing, and is measured.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_clock_steps_disturbs_nothing() -> Result {
    let scene = Scene::set().await?;
    let proxy = FaultyProxy::start(scene.bucket.store().addr()).await?;
    let mut node = scene.node_at(COMPUTE, "compute-1", &proxy.endpoint())?;
    node.start()?;
    node.until_release(1).await?;
    for (release, skew) in [(2, 600), (3, -600), (4, 600)] {
        proxy.set("", Fault::DateSkew(i64::from(skew)));
        let cpu = |n: u64| format!("cpu: {}m", 48 + n);
        let (from, to) = (cpu(release), cpu(release + 1));
        scene
            .operator
            .amend("compute/kube-proxy.yaml.j2", &from, &to)?;
        ensure!(scene.publish(COMPUTE).await? == release);
        node.until_release(release)
            .await
            .with_context(|| format!("with a skew of {skew} s"))?;
        let wanted = f64::from(-skew);
        eventually("the skew is measured", PATIENCE, async || {
            let measured = node.metric("platform_agent_clock_skew_seconds").await?;
            ensure!((measured - wanted).abs() < 60.0, "{measured}, not {wanted}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The directory of a release half on a full disk is finished by an agent that was killed and started again in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_on_a_full_disk_loses_nothing() -> Result {
    let Some(mut rig) = rig("root/etc/kubernetes").await? else {
        return Ok(());
    };
    let ballast = rig.mount.fill()?;
    rig.cannot_adopt("no_space").await?;
    rig.node.kill().await?;
    let before = files(&rig.node)?;
    rig.node.start()?;
    rig.node.until_polled(2).await?;
    ensure!(files(&rig.node)? == before);
    fs::remove_file(ballast)?;
    rig.adopts_by_itself().await
}

/// What keeps an agent from starting is seen where every other failure is, and the process ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_is_seen_from_outside() -> Result {
    let scene = Scene::set().await?;
    let mut node = scene.node(COMPUTE, "compute-1")?;
    node.start()?;
    node.until_release(1).await?;
    node.terminate().await?;
    let ledger = node.state().join("ledger.json");
    let whole = fs::read(&ledger)?;
    let half = whole.get(..whole.len() / 2).context("half a ledger")?;
    fs::write(&ledger, half)?;
    let before = files(&node)?;
    node.start()?;
    let seen = eventually("the failure is counted", PATIENCE, async || {
        ensure!(node.errors("starting", "ledger_damaged").await? > 0.0);
        Ok(())
    });
    seen.await?;
    let named = |status: &NodeStatus| {
        let kind = status.error.as_ref().map(|error| error.kind.as_str());
        status.phase == shared::documents::Phase::Starting && kind == Some("ledger_damaged")
    };
    scene.until_status(&node, "it cannot start", named).await?;
    let ended = node.ended(PATIENCE).await?;
    ensure!(ended.code() == Some(1), "{ended}");
    ensure!(files(&node)? == before);

    // What came with the machine is not needed any more once a root is kept.
    fs::write(&ledger, whole)?;
    let baked = node.config().with_file_name("root.json");
    fs::remove_file(baked)?;
    node.start()?;
    node.until_polled(1).await?;
    scene
        .until_status(&node, "all is well", |s| s.error.is_none())
        .await?;
    Ok(())
}
