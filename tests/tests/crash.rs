//! The agent is killed with SIGKILL at every step of the way from release N to N+1, and at sixty moments of chance, and
//! started again. A model of kubelet watches the manifest directory all the while: what it sees is always N's or N+1's
//! pod, file by file; never an empty set, a torn file or a stray one; and no pod sees secrets of two releases.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use platform_tests::kubelet::{
    Allowed, Finding, Kubelet, KubeletConfig, Observation, Release, judge,
};
use platform_tests::node::{Node, PATIENCE};
use platform_tests::scene::{Pod, SECURE, Scene, remove_pod, write_pod};
use platform_tests::workspace::Operator;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shared::durable::TEMPORARY_PREFIX;

/// Nodes that are worked on at a time: enough to fill the waits for fsync and start-up.
const AT_ONCE: usize = 3;

/// Between two lists of the model; it lists after each event anyway.
const TICK: Duration = Duration::from_millis(10);

/// No fail point is passed more often in one adoption: a bound for the search, not for the agent.
const MOST_PASSES: usize = 40;

const RANDOM_KILLS: usize = 60;

/// No pod of the model has a grace period: what it used is removed at once, so that this is a step like any other.
const CLEAN_AT_ONCE: (&str, &str) = (agent::failpoints::CLEAN_AT_ONCE_VARIABLE, "1");

const SEED: u64 = 20_260_822;

const WEB: Pod<'_> = Pod {
    file: "web",
    name: "web",
    image: "registry.example/web:1",
    secrets: &[("token", "web's first\n"), ("key", "web's key\n")],
    host_port: None,
};
const OLD: Pod<'_> = Pod {
    file: "old",
    name: "old",
    image: "registry.example/old:1",
    secrets: &[("token", "old's\n")],
    host_port: None,
};
const ADDED: Pod<'_> = Pod {
    file: "added",
    name: "added",
    image: "registry.example/added:1",
    secrets: &[("token", "added's\n")],
    host_port: None,
};
/// Renamed within its file: the old pod has to be gone before.
const RENAMED_BEFORE: Pod<'_> = Pod {
    file: "moved-before",
    name: "moved",
    image: "registry.example/moved:1",
    secrets: &[],
    host_port: None,
};
const RENAMED_AFTER: Pod<'_> = Pod {
    file: "moved-after",
    image: "registry.example/moved:2",
    ..RENAMED_BEFORE
};

/// Release N on one node, N+1 in the bucket, and what each looks like.
struct Stage {
    scene: Scene,
    /// A node that has nothing yet.
    fresh: Node,
    /// A node that is on N.
    before: Node,
    n: Release,
    n_plus_1: Release,
    /// How long adoptions take that nobody disturbs, as many at a time as here, from the start of the process to its end.
    takes: Duration,
}

fn amend_for_n_plus_1(operator: &Operator) -> anyhow::Result<()> {
    // A changed manifest, first in the order of writing.
    operator.amend("secure/etcd.yaml.j2", "cpu: 100m", "cpu: 110m")?;
    // A changed secret, whose pod's manifest changes with the directory it names; two of web's change together.
    operator.write_secret(
        "secure/kube-scheduler/scheduler.yaml",
        SCHEDULER_CONFIGURATION,
    )?;
    operator.write_secret("secure/web/token", "web's second\n")?;
    operator.write_secret("secure/web/key", "web's other key\n")?;
    remove_pod(operator, SECURE, OLD.name)?;
    write_pod(operator, SECURE, &ADDED)?;
    fs::remove_file(operator.path(&format!("manifests/secure/{}.yaml.j2", RENAMED_BEFORE.file)))?;
    write_pod(operator, SECURE, &RENAMED_AFTER)
}

/// An operator's own, in the place of the template's.
const SCHEDULER_CONFIGURATION: &str =
    "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let scene = Scene::set_with(async |operator| {
            for pod in [WEB, OLD, RENAMED_BEFORE] {
                write_pod(operator, SECURE, &pod)?;
            }
            Ok(())
        })
        .await?;
        let fresh = scene.node(SECURE, "fresh")?;
        let before = fresh.copy_to(&scene.nodes_directory().join("before"), "before")?;
        adopt(&before, "adopted release 1").await?;
        let n = Release::read(&before.manifests(), &before.root())?;
        amend_for_n_plus_1(&scene.operator)?;
        ensure!(scene.publish(SECURE).await? == 2);
        let mut after = Vec::new();
        for at in 0..AT_ONCE {
            let name = format!("after-{at}");
            after.push(before.copy_to(&scene.nodes_directory().join(&name), &name)?);
        }
        let began = Instant::now();
        for done in join_all(after.iter().map(|node| adopt(node, "adopted release 2"))).await {
            done?;
        }
        let takes = began.elapsed();
        let after = after.first().context("a node")?;
        let n_plus_1 = Release::read(&after.manifests(), &after.root())?;
        ensure!(n != n_plus_1);
        Ok(Self {
            scene,
            fresh,
            before,
            n,
            n_plus_1,
            takes,
        })
    }

    /// A node as it was before the adoption, under the eyes of kubelet.
    fn watched(&self, from: &Node, name: &str) -> anyhow::Result<(Node, Kubelet)> {
        let node = from.copy_to(&self.scene.nodes_directory().join(name), name)?;
        let kubelet = Kubelet::start(KubeletConfig {
            manifests: node.manifests(),
            root: node.root(),
            tick: TICK,
        })?;
        Ok((node, kubelet))
    }

    /// The verdict, and what must be so at the end whatever happened: N+1, whole, and no trace of the crash.
    async fn end_is_as_if_nothing_had_happened(
        &self,
        case: &str,
        node: &Node,
        kubelet: Kubelet,
        allowed: &Allowed,
    ) -> anyhow::Result<()> {
        let history = kubelet.stop();
        let violations: Vec<String> = judge(&history, allowed)
            .iter()
            .map(ToString::to_string)
            .collect();
        ensure!(
            violations.is_empty(),
            "{case}: kubelet saw what it must not:\n{}\nlog:\n{}",
            violations.join("\n"),
            node.log().unwrap_or_default()
        );
        ensure!(
            saw_a_start(&history),
            "{case}: the model saw nothing at all"
        );
        let now = Release::read(&node.manifests(), &node.root())?;
        ensure!(now == self.n_plus_1, "{case}: the node did not end on N+1");
        let left = temporaries(&node.root())?;
        ensure!(left.is_empty(), "{case}: left behind: {left:?}");
        let left = temporaries(&node.state())?;
        ensure!(left.is_empty(), "{case}: left behind: {left:?}");
        let secrets = secret_directories(node)?;
        ensure!(
            secrets == secret_directories_named(&self.n_plus_1, node)?,
            "{case}: the secret directories are {secrets:?}"
        );
        let verified = node.run_verb("verify", &[]).await?;
        ensure!(
            verified.status.code() == Some(0),
            "{case}: verify says {verified:?}"
        );
        fs::remove_dir_all(node.root())?;
        Ok(())
    }
}

fn saw_a_start(history: &[Observation]) -> bool {
    history
        .iter()
        .any(|o| matches!(o.finding, Finding::Started { .. }))
}

/// One undisturbed pass, which must say this.
async fn adopt(node: &Node, says: &str) -> anyhow::Result<()> {
    let once = node.run_verb("once", &[]).await?;
    let said = String::from_utf8_lossy(&once.stdout);
    ensure!(once.status.success() && said.contains(says), "{once:?}");
    Ok(())
}

/// One pass to its end.
async fn undisturbed(node: &mut Node) -> anyhow::Result<()> {
    node.spawn("once", &[CLEAN_AT_ONCE])?;
    let ended = node.ended(PATIENCE).await?;
    ensure!(ended.success(), "{}: {ended}\n{}", node.name(), node.log()?);
    Ok(())
}

fn temporaries(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(TEMPORARY_PREFIX) {
            found.push(entry.path().display().to_string());
        } else if entry.file_type()?.is_dir() {
            found.extend(temporaries(&entry.path())?);
        }
    }
    Ok(found)
}

/// `POD/DIGEST` of every secret directory on the node.
fn secret_directories(node: &Node) -> anyhow::Result<BTreeSet<String>> {
    let base = node.kubernetes().join("secrets");
    let mut found = BTreeSet::new();
    for pod in fs::read_dir(&base)? {
        let pod = pod?;
        for directory in fs::read_dir(pod.path())? {
            let path = directory?.path();
            found.insert(path.strip_prefix(&base)?.display().to_string());
        }
    }
    Ok(found)
}

/// The same as the manifests of the node name them, which are those of `release`.
fn secret_directories_named(release: &Release, node: &Node) -> anyhow::Result<BTreeSet<String>> {
    ensure!(*release == Release::read(&node.manifests(), &node.root())?);
    let mut named = BTreeSet::new();
    for content in node.manifest_files()?.into_values() {
        let text = String::from_utf8(content)?;
        for part in text.split("/etc/kubernetes/secrets/").skip(1) {
            let path: String = part
                .chars()
                .take_while(|c| !matches!(c, '"' | '\n'))
                .collect();
            if path.contains('/') {
                named.insert(path);
            }
        }
    }
    Ok(named)
}

fn fail_points() -> Vec<&'static str> {
    let engine = agent::engine::FAIL_POINTS.iter();
    engine.chain(agent::disk::FAIL_POINTS).copied().collect()
}

/// How far a killed agent had come, by its ledger.
fn left_at(node: &Node) -> anyhow::Result<&'static str> {
    let text = fs::read(node.state().join("ledger.json"))?;
    let ledger: serde_json::Value = serde_json::from_slice(&text)?;
    let ledger = &ledger["ledger"];
    Ok(
        match (
            ledger["applying"].is_null(),
            ledger["release"]["release"].as_u64(),
        ) {
            (false, _) => "between N and N+1",
            (true, Some(2)) => "after the commit",
            (true, _) => "before the first write",
        },
    )
}

/// Where an agent is to be killed, and from which state of the node.
#[derive(Debug, Clone)]
struct Case {
    point: &'static str,
    nth: usize,
    /// From a node that has nothing, rather than from N.
    first_adoption: bool,
}

impl Case {
    fn kill_at(&self) -> String {
        format!("{}:{}", self.point, self.nth)
    }

    fn name(&self) -> String {
        let from = if self.first_adoption { "nothing" } else { "n" };
        format!("{}-{}-from-{from}", self.point.replace("::", "-"), self.nth)
    }
}

/// Kills at one fail point; false where the adoption does not pass it so often.
async fn killed_at(stage: &Stage, case: &Case) -> anyhow::Result<bool> {
    let name = case.name();
    let from = if case.first_adoption {
        &stage.fresh
    } else {
        &stage.before
    };
    let (mut node, kubelet) = stage.watched(from, &name)?;
    let kill_at = case.kill_at();
    let environment = [
        (agent::failpoints::VARIABLE, kill_at.as_str()),
        CLEAN_AT_ONCE,
    ];
    node.spawn("once", &environment)?;
    let status = node.ended(PATIENCE).await?;
    let reached = std::os::unix::process::ExitStatusExt::signal(&status).is_some();
    ensure!(
        reached || status.success(),
        "{name}: {status}\n{}",
        node.log()?
    );
    if reached {
        // The next agent dies at the same place, where finishing passes it.
        node.spawn("once", &environment)?;
        node.ended(PATIENCE).await?;
        if case.nth == 1 {
            // The daemon, as systemd starts it again.
            node.start_with(&[CLEAN_AT_ONCE])?;
            node.until_release(2).await.with_context(|| name.clone())?;
            let ended = node.terminate().await?;
            ensure!(ended.code() == Some(0), "{name}: {ended}");
        }
        undisturbed(&mut node).await?;
    }
    let allowed = if case.first_adoption {
        Allowed::releases([&stage.n_plus_1])
    } else {
        Allowed::releases([&stage.n, &stage.n_plus_1])
    };
    stage
        .end_is_as_if_nothing_had_happened(&name, &node, kubelet, &allowed)
        .await?;
    Ok(reached)
}

/// Kills at each passage of one fail point in turn; how many there are.
async fn killed_at_each_passage(
    stage: &Stage,
    point: &'static str,
    first_adoption: bool,
) -> anyhow::Result<(&'static str, usize)> {
    for nth in 1..=MOST_PASSES {
        let case = Case {
            point,
            nth,
            first_adoption,
        };
        if !killed_at(stage, &case).await? {
            return Ok((point, nth - 1));
        }
        if first_adoption {
            // One is enough: each file is written as in the other case.
            return Ok((point, nth));
        }
    }
    anyhow::bail!("{point} is passed without an end")
}

async fn sweep(
    stage: &Stage,
    first_adoption: bool,
) -> anyhow::Result<BTreeMap<&'static str, usize>> {
    let cases = fail_points()
        .into_iter()
        .map(|point| killed_at_each_passage(stage, point, first_adoption));
    let done: Vec<_> = stream::iter(cases)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    done.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let began = Instant::now();
    let updates = sweep(&stage, false).await?;
    let first = sweep(&stage, true).await?;
    let kills: usize = updates.values().chain(first.values()).sum();
    println!("{kills} kills in {:.1} s", began.elapsed().as_secs_f64());
    // A fail point that nothing passes would be a step that nothing proves.
    let never: Vec<&str> = fail_points()
        .into_iter()
        .filter(|point| updates[point] == 0 && first[point] == 0)
        .collect();
    assert!(never.is_empty(), "never reached: {never:?}");
    // Each single file was a step of its own: etcd, scheduler, web, added, moved-after.
    assert!(updates["apply::manifest.before"] >= 5, "{updates:?}");
    assert!(
        updates["apply::secret-directory.filled"] >= 3,
        "{updates:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let mut random = StdRng::seed_from_u64(SEED);
    let moments: Vec<Duration> = (0..RANDOM_KILLS)
        .map(|_| stage.takes.mul_f64(random.random_range(0.0..1.1)))
        .collect();
    let stage = &stage;
    let kills = moments
        .into_iter()
        .enumerate()
        .map(|(at, moment)| async move {
            let name = format!("random-{at}");
            let (mut node, kubelet) = stage.watched(&stage.before, &name)?;
            node.spawn("once", &[CLEAN_AT_ONCE])?;
            tokio::time::sleep(moment).await;
            let in_time = node.is_running();
            node.kill().await?;
            let hit = if in_time {
                left_at(&node)?
            } else {
                "after the end"
            };
            undisturbed(&mut node)
                .await
                .with_context(|| format!("{name}, killed after {moment:?}"))?;
            let allowed = Allowed::releases([&stage.n, &stage.n_plus_1]);
            let case = format!("{name}, killed after {moment:?}");
            stage
                .end_is_as_if_nothing_had_happened(&case, &node, kubelet, &allowed)
                .await?;
            Ok(hit)
        });
    let done: Vec<anyhow::Result<&str>> = stream::iter(kills)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut hits: BTreeMap<&str, usize> = BTreeMap::new();
    for hit in done {
        *hits.entry(hit?).or_default() += 1;
    }
    println!("{RANDOM_KILLS} kills: {hits:?}");
    let in_time = RANDOM_KILLS - hits.get("after the end").copied().unwrap_or(0);
    assert!(
        in_time * 2 > RANDOM_KILLS,
        "most kills came too late: {hits:?}"
    );
    Ok(())
}
