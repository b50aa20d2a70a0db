//! A faulty S3 proxy between each agent and the store: every kind of object, every kind of fault. The release on the
//! disk stays, the error is named in log, metrics and status, and the agent recovers by itself when the fault goes.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use platform_tests::faulty_proxy::{Fault, FaultyProxy};
use platform_tests::node::{Node, eventually};
use platform_tests::scene::{SECURE, Scene};
use platform_tests::workspace::group;
use shared::limits;
use shared::store::{Fetched, PutCondition, StoreErrorKind, keys};
use shared::trust::sign::sign_root;

/// Agents that work at a time. Most of a case is waiting for the agent's own deadlines, of 5 to 13 seconds.
const AT_ONCE: usize = 20;

/// How long an error, or the recovery from it, may take: two deadlines of the slowest object and a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an agent may take, in MiB, whatever it is sent: a build for tests is several times what a node gets, and a body
/// without an end is gigabytes within its deadline.
const MOST_MEMORY: u64 = 128;

/// A kind of object that an agent reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    Timestamp,
    NextRoot,
    Snapshot,
    Targets,
    Bundle,
    Status,
}

const OBJECTS: [Object; 6] = [
    Object::Timestamp,
    Object::NextRoot,
    Object::Snapshot,
    Object::Targets,
    Object::Bundle,
    Object::Status,
];

fn faults() -> Vec<Fault> {
    vec![
        Fault::Status(500, "InternalError"),
        Fault::Status(503, "SlowDown"),
        Fault::Status(403, "AccessDenied"),
        Fault::Reset,
        Fault::Timeout,
        Fault::TruncateBody(100),
        // Well within the signed part of every document, and of the ciphertext.
        Fault::FlipByte(300),
        Fault::EndlessBody,
        Fault::EndlessBodyWithLength,
        Fault::SlowBody {
            bytes_per_second: 1,
        },
        Fault::LostAnswer,
    ]
}

/// What is to come of a fault.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// The release is not adopted; an error of this phase and one of these kinds is named.
    Refused(&'static str, &'static [&'static str]),
    /// The release is adopted; writing the status fails with one of these kinds.
    StatusUnwritten(&'static [&'static str]),
    /// Nothing: what the fault says is true, or there is no body that it could break.
    Nothing,
}

impl Object {
    /// The part of its key that no other object's key has.
    const fn key(self) -> &'static str {
        match self {
            Self::Timestamp => "/metadata/timestamp.json",
            Self::NextRoot => "/metadata/2.root.json",
            Self::Snapshot => "/metadata/2.snapshot.json",
            Self::Targets => "/metadata/2.targets.json",
            Self::Bundle => "/targets/",
            Self::Status => "nodes/",
        }
    }

    /// What an error about it must say: its whole key. Where its bytes came, and are not those that were signed, its group
    /// and its role.
    fn named(self, fault: &Fault) -> &'static [&'static str] {
        match (self, fault) {
            (Self::Timestamp, Fault::FlipByte(_)) => &["metadata of group secure", "timestamp"],
            (Self::NextRoot, Fault::FlipByte(_)) => &["metadata of group secure", "root"],
            (Self::Snapshot, Fault::FlipByte(_)) => &["metadata of group secure", "snapshot"],
            (Self::Targets, Fault::FlipByte(_)) => &["metadata of group secure", "targets"],
            (Self::Timestamp, _) => &["groups/secure/metadata/timestamp.json"],
            (Self::NextRoot, _) => &["groups/secure/metadata/2.root.json"],
            (Self::Snapshot, _) => &["groups/secure/metadata/2.snapshot.json"],
            (Self::Targets, _) => &["groups/secure/metadata/2.targets.json"],
            (Self::Bundle, _) => &["groups/secure/targets/"],
            (Self::Status, _) => &["nodes/secure/"],
        }
    }

    const fn phase(self) -> &'static str {
        match self {
            Self::Timestamp => "idle",
            Self::NextRoot | Self::Snapshot | Self::Targets => "verify",
            Self::Bundle => "fetch",
            Self::Status => "status",
        }
    }
}

fn expected(object: Object, fault: &Fault) -> Expected {
    let kinds: &[&str] = match fault {
        Fault::Status(503, _) => &["throttled"],
        Fault::Status(403, _) => &["forbidden"],
        Fault::Status(..) => &["unavailable"],
        Fault::Reset | Fault::TruncateBody(_) | Fault::LostAnswer => &["connection"],
        Fault::Timeout | Fault::SlowBody { .. } => &["timeout"],
        Fault::EndlessBody | Fault::EndlessBodyWithLength => &["too_large"],
        Fault::FlipByte(_) => &["mismatch", "signature", "malformed"],
        Fault::DateSkew(_) => &[],
    };
    match (object, fault) {
        // S3 answers 403 for a key that is not there where the role may not list: there is no newer root.
        (Object::NextRoot, Fault::Status(403, _)) => Expected::Nothing,
        // The answer to a PUT has no body.
        (Object::Status, Fault::FlipByte(_) | Fault::TruncateBody(_) | Fault::SlowBody { .. }) => {
            Expected::Nothing
        }
        // The poll sees a whole body; who signed it is looked at next.
        (Object::Timestamp, Fault::FlipByte(_)) => Expected::Refused("verify", kinds),
        (Object::Status, _) => Expected::StatusUnwritten(kinds),
        _ => Expected::Refused(object.phase(), kinds),
    }
}

/// A node on release 1, and release 2 with a new root in the bucket.
struct Stage {
    scene: Scene,
    before: Node,
    n: BTreeMap<PathBuf, Vec<u8>>,
    n_plus_1: BTreeMap<PathBuf, Vec<u8>>,
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let scene = Scene::set().await?;
        let before = scene.node(SECURE, "before")?;
        let once = before.run_verb("once", &[]).await?;
        ensure!(once.status.success(), "{once:?}");
        let n = before.kubernetes_files()?;

        scene
            .operator
            .amend("secure/etcd.yaml.j2", "cpu: 100m", "cpu: 110m")?;
        let scheduler = "secure/kube-scheduler/scheduler.yaml";
        let text = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        scene.operator.write_secret(scheduler, text)?;
        ensure!(scene.publish(SECURE).await? == 2);
        put_next_root(&scene).await?;
        let after = before.copy_to(&scene.nodes_directory().join("after"), "after")?;
        let once = after.run_verb("once", &[]).await?;
        ensure!(once.status.success(), "{once:?}");
        let n_plus_1 = after.kubernetes_files()?;
        ensure!(n != n_plus_1);
        Ok(Self {
            scene,
            before,
            n,
            n_plus_1,
        })
    }
}

/// A second root with the same keys, as a rotation would put it there.
async fn put_next_root(scene: &Scene) -> anyhow::Result<()> {
    let name = group(SECURE);
    let repository = &scene.keyring().group(&name)?.repository;
    let two = NonZeroU64::MIN.saturating_add(1);
    let root = sign_root(repository, Some(repository), two, Timestamp::now()).await?;
    let key = format!("{}2.root.json", keys::metadata_prefix(&name));
    let store = &scene.operator.context.store;
    store.put(&key, root, PutCondition::Absent).await?;
    Ok(())
}

/// One object, one fault, one agent.
async fn played(stage: &Stage, object: Object, fault: Fault) -> anyhow::Result<()> {
    let name = format!("{object:?}-{fault:?}");
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect();
    let proxy = FaultyProxy::start(stage.scene.bucket.store().addr()).await?;
    proxy.set(object.key(), fault.clone());
    let mut node = stage
        .before
        .copy_to(&stage.scene.nodes_directory().join(&name), &name)?;
    node.set_endpoint(&proxy.endpoint())?;
    node.start()?;
    let played = act(stage, &proxy, &mut node, object, &fault).await;
    let ended = node.kill().await;
    played.with_context(|| format!("{name}; log:\n{}", node.log().unwrap_or_default()))?;
    ended
}

async fn act(
    stage: &Stage,
    proxy: &FaultyProxy,
    node: &mut Node,
    object: Object,
    fault: &Fault,
) -> anyhow::Result<()> {
    match expected(object, fault) {
        Expected::Refused(phase, kinds) => {
            let kind = until_counted(node, phase, kinds).await?;
            is_logged(node, "error", phase, kind)?;
            // The status itself can be written, and says it.
            let status = stage
                .scene
                .until_status(node, "it failed", |s| {
                    s.error
                        .as_ref()
                        .is_some_and(|e| e.phase.to_string() == phase)
                })
                .await?;
            let error = status.error.context("an error")?;
            ensure!(
                error.kind == kind,
                "the status says {error:?}, and the metric {kind}"
            );
            for part in object.named(fault) {
                ensure!(
                    error.message.contains(part),
                    "the error does not name {part}: {}",
                    error.message
                );
            }
            ensure!(
                status.release.map(|r| r.get()) == Some(1),
                "{:?}",
                status.release
            );
            // It tries again, and nothing comes of that either.
            eventually("it tries again", PATIENCE, async || {
                ensure!(node.errors(phase, kind).await? >= 2.0);
                Ok(())
            })
            .await?;
            ensure!(
                node.kubernetes_files()? == stage.n,
                "the release on the disk did not stay"
            );
        }
        Expected::StatusUnwritten(kinds) => {
            node.until_release(2).await?;
            let kind = until_counted(node, "status", kinds).await?;
            let said = node.log_lines(&[("phase", "status"), ("kind", kind)])?;
            ensure!(
                !said.is_empty(),
                "the log does not say that the status ({kind}) is not written"
            );
            let names_it = |line: &serde_json::Value| {
                let error = line.get("error").and_then(serde_json::Value::as_str);
                error.is_some_and(|e| e.contains("nodes/secure/"))
            };
            ensure!(
                said.iter().all(names_it),
                "the object is not named: {said:?}"
            );
            let written = stage.scene.status(node).is_ok();
            let applied = *fault == Fault::LostAnswer
                || matches!(fault, Fault::EndlessBody | Fault::EndlessBodyWithLength);
            ensure!(written == applied, "the status object is there: {written}");
        }
        Expected::Nothing => node.until_release(2).await?,
    }
    ensure!(node.is_running(), "the agent ended");
    eventually("the fault came to pass", PATIENCE, async || {
        ensure!(proxy.log().iter().any(|e| e.fault.is_some()));
        Ok(())
    })
    .await?;

    // The fault goes; nobody does anything.
    proxy.clear();
    node.until_release(2).await?;
    stage
        .scene
        .until_status(node, "it is on release 2, and well", |s| {
            s.release.is_some_and(|r| r.get() == 2) && s.error.is_none()
        })
        .await?;
    ensure!(node.kubernetes_files()? == stage.n_plus_1);
    let (status, why) = node.health().await?;
    ensure!(status == 200, "{why}");
    let peak = node.peak_memory()? / 1024 / 1024;
    ensure!(peak < MOST_MEMORY, "it took {peak} MiB of memory");
    Ok(())
}

/// Waits until a failure was counted; of which of the kinds.
async fn until_counted(
    node: &Node,
    phase: &str,
    kinds: &[&'static str],
) -> anyhow::Result<&'static str> {
    let what = format!("a failure of {phase}, {kinds:?} is counted");
    eventually(&what, PATIENCE, async || {
        for kind in kinds {
            if node.errors(phase, kind).await? > 0.0 {
                return Ok(*kind);
            }
        }
        let metrics = node.metrics().await?;
        let counted: Vec<&str> = metrics
            .lines()
            .filter(|line| line.starts_with("platform_agent_errors_total"))
            .collect();
        anyhow::bail!("counted: {counted:?}")
    })
    .await
}

fn is_logged(node: &Node, field: &str, phase: &str, kind: &str) -> anyhow::Result<()> {
    let said = node.log_lines(&[("level", "ERROR"), ("phase", phase), ("kind", kind)])?;
    let first = said
        .first()
        .with_context(|| format!("no error of {phase}, {kind} in the log"))?;
    let text = first
        .get(field)
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    ensure!(!text.is_empty(), "the error is not told: {first}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_every_object_passes() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let stage = &stage;
    let began = Instant::now();
    let cases = OBJECTS
        .into_iter()
        .flat_map(|object| faults().into_iter().map(move |fault| (object, fault)));
    // Those that only wait are begun first.
    let mut cases: Vec<(Object, Fault)> = cases.collect();
    cases.sort_by_key(|(_, fault)| !matches!(fault, Fault::Timeout | Fault::SlowBody { .. }));
    let count = cases.len();
    let played = stream::iter(cases)
        .map(|(object, fault)| played(stage, object, fault))
        .buffer_unordered(AT_ONCE);
    let failed: Vec<String> = played
        .filter_map(|done| async move { done.err().map(|error| format!("{error:#}")) })
        .collect()
        .await;
    println!("{count} faults in {:.1} s", began.elapsed().as_secs_f64());
    assert!(
        failed.is_empty(),
        "{} of {count} cases failed:\n\n{}",
        failed.len(),
        failed.join("\n\n")
    );
    Ok(())
}

/// The limits that end an answer without an end let the largest that are meant pass.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_objects_and_listings_pass() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let store = &scene.operator.context.store;
    let largest = bytes::Bytes::from(vec![b'x'; usize::try_from(limits::KEYRING_BYTES)?]);
    store
        .put("largest", largest.clone(), PutCondition::Absent)
        .await?;
    let Fetched::Object { bytes, .. } = store.get("largest", limits::KEYRING_BYTES, None).await?
    else {
        anyhow::bail!("an object was asked for");
    };
    ensure!(bytes == largest);
    let over = store.get("largest", limits::KEYRING_BYTES - 1, None).await;
    ensure!(over.is_err_and(|e| e.kind == StoreErrorKind::TooLarge));
    // Long keys, full of what XML escapes, and more than one page of them.
    let parts = ["&".repeat(240), "<".repeat(240), "'".repeat(240)].join("/");
    let directory = scene.bucket.object("many");
    std::fs::create_dir_all(directory.join(&parts))?;
    for n in 0..1_100 {
        std::fs::write(directory.join(&parts).join(n.to_string()), "x")?;
    }
    ensure!(store.list("many/").await?.len() == 1_100);
    Ok(())
}

/// Names of nobody's secrets, and no content, get into what the agent says while everything goes wrong.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_faults_holds_no_secret() -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let proxy = FaultyProxy::start(stage.scene.bucket.store().addr()).await?;
    let mut node = stage
        .before
        .copy_to(&stage.scene.nodes_directory().join("quiet"), "quiet")?;
    node.set_endpoint(&proxy.endpoint())?;
    proxy.set("/targets/", Fault::FlipByte(2000));
    node.start_with(&[("PLATFORM_AGENT_LOG", "agent=debug,shared=debug,info")])?;
    until_counted(&node, "fetch", &["mismatch"]).await?;
    proxy.clear();
    node.until_release(2).await?;
    let credentials = std::fs::read_to_string(
        stage
            .scene
            .operator
            .context
            .workspace
            .state_directory()
            .join("credentials"),
    )?;
    let secret_key = credentials.split('"').nth(3).context("a secret key")?;
    let group_key = stage
        .scene
        .keyring()
        .group(&group(SECURE))?
        .group_key
        .to_file();
    let group_key = String::from_utf8(group_key.expose().to_vec())?;
    let identity = "AGE-SECRET-KEY-";
    let said = format!("{}\n{}", node.log()?, node.metrics().await?);
    for secret in [
        secret_key,
        group_key.trim(),
        identity,
        "PRIVATE KEY",
        "BEGIN CERTIFICATE",
    ] {
        ensure!(!said.contains(secret), "{secret:?} was said");
    }
    let metrics = node.metrics().await?;
    for name in ["scheduler.yaml", "ca.crt", "apiserver.key"] {
        ensure!(!metrics.contains(name), "{name} is in the metrics");
    }
    Ok(())
}
