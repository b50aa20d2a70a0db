//! The steps of the tour.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use shared::documents::{NodeStatus, Phase};
use shared::names::ReleaseNumber;
use shared::store::{ETag, Fetched, ObjectStore, PutCondition, ServerTime, StoreError, keys};

use super::stage::{POLL, Stage, manifests, put, secure_manifests};
use crate::context::Context;
use crate::env::{COMPUTE, SECURE};
use crate::output;
use crate::publish::Publication;

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    output::line(format!(
        "The tour: a store, 3 secure and 2 compute nodes (real platform-agent processes), asking every {} s",
        POLL.as_secs()
    ));
    first_release(stage).await?;
    amended_manifest(stage).await?;
    nothing_to_publish(stage).await?;
    corrupt_timestamp(stage).await?;
    corrupt_bundle(stage).await?;
    edited_on_a_node(stage).await?;
    store_gone(stage).await
}

fn step(text: &str) {
    output::line(format!("\n--> {text}"));
}

fn said(text: impl AsRef<str>) {
    output::line(format!("    {}", text.as_ref()));
}

async fn publish(stage: &Stage, context: &Context, group: &str) -> anyhow::Result<ReleaseNumber> {
    let name = stage.group(group)?;
    match stage.publish(context, &name).await? {
        Publication::Released {
            release,
            files,
            bytes,
        } => {
            said(format!(
                "published {group} release {release}: {files} files, {bytes} bytes encrypted"
            ));
            Ok(release)
        }
        other => bail!("publishing {group} gave {other:?} instead of a release"),
    }
}

async fn first_release(stage: &Stage) -> anyhow::Result<()> {
    step("publish: the control plane to the secure nodes, kube-proxy to the compute nodes");
    let began = Instant::now();
    let secure = publish(stage, &stage.context, SECURE).await?;
    let compute = publish(stage, &stage.context, COMPUTE).await?;
    stage.until_release(SECURE, secure).await?;
    stage.until_release(COMPUTE, compute).await?;
    for node in &stage.nodes {
        let names: Vec<String> = manifests(node)?.into_keys().collect();
        ensure!(!names.is_empty(), "{} has no manifest", node.name);
        said(format!("{:<10} runs {}", node.name, names.join(", ")));
    }
    said(format!(
        "all 5 nodes have it, verified, {:.1} s after publish began",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

async fn amended_manifest(stage: &Stage) -> anyhow::Result<()> {
    step("amend the scheduler's manifest, publish, and watch it arrive");
    stage.amend("secure/kube-scheduler.yaml.j2", "cpu: 100m", "cpu: 150m")?;
    let began = Instant::now();
    let release = publish(stage, &stage.context, SECURE).await?;
    let published = began.elapsed();
    for node in stage.nodes_of(SECURE) {
        let what = format!("{} has the amended manifest on disk", node.name);
        stage
            .wait(&what, || {
                manifests(node).is_ok_and(|m| {
                    m.get("kube-scheduler.yaml")
                        .is_some_and(|b| String::from_utf8_lossy(b).contains("150m"))
                })
            })
            .await?;
        said(format!(
            "{:<10} has it on disk {:.2} s after publish began",
            node.name,
            began.elapsed().as_secs_f64()
        ));
    }
    said(format!(
        "(signing, encrypting and uploading took {:.2} s of that)",
        published.as_secs_f64()
    ));
    stage.until_release(SECURE, release).await
}

async fn nothing_to_publish(stage: &Stage) -> anyhow::Result<()> {
    step("publish again without a change");
    match stage.publish(&stage.context, &stage.group(SECURE)?).await? {
        Publication::Unchanged { release } => {
            said(format!(
                "nothing differs from release {release}; nothing was published"
            ));
            Ok(())
        }
        other => bail!("a publish without a change gave {other:?}"),
    }
}

async fn corrupt_timestamp(stage: &Stage) -> anyhow::Result<()> {
    step("an attacker who can write the bucket changes one byte of timestamp.json");
    let before = secure_manifests(stage)?;
    let path = stage.object(&keys::timestamp(&stage.group(SECURE)?));
    let genuine = std::fs::read(&path)?;
    let text = String::from_utf8_lossy(&genuine);
    // A version far ahead is what an attacker would want nodes to believe.
    let forged = text.replacen("\"version\": ", "\"version\": 9", 1);
    ensure!(forged != text, "timestamp.json holds no version to forge");
    put(&path, forged.as_bytes())?;
    let what = "every secure node refuses the forged timestamp";
    refused_by_all(stage, what, Phase::Verify, &["signature", "malformed"]).await?;
    ensure!(
        secure_manifests(stage)? == before,
        "the forged timestamp changed a manifest"
    );
    put(&path, &genuine)?;
    let what = "every secure node recovers";
    stage.until(SECURE, what, |s| s.error.is_none()).await?;
    said("nothing on disk changed; with the genuine file back, all nodes are well again");
    Ok(())
}

async fn corrupt_bundle(stage: &Stage) -> anyhow::Result<()> {
    step("the next release's bundle is corrupted on its way");
    let before = secure_manifests(stage)?;
    stage.amend("secure/kube-scheduler.yaml.j2", "cpu: 150m", "cpu: 175m")?;
    let mut tampered = stage.context.clone();
    tampered.store = Arc::new(FlippedBundles(Arc::clone(&stage.context.store)));
    let release = publish(stage, &tampered, SECURE).await?;
    let what = "every secure node refuses the corrupted bundle";
    refused_by_all(stage, what, Phase::Fetch, &["mismatch"]).await?;
    ensure!(
        secure_manifests(stage)? == before,
        "the corrupted bundle changed a manifest"
    );
    stage.amend("secure/kube-scheduler.yaml.j2", "cpu: 175m", "cpu: 180m")?;
    let next = publish(stage, &stage.context, SECURE).await?;
    ensure!(next > release, "release numbers must grow");
    stage.until_release(SECURE, next).await?;
    said(format!(
        "nothing on disk changed; the next release, {next}, is on every node"
    ));
    Ok(())
}

async fn edited_on_a_node(stage: &Stage) -> anyhow::Result<()> {
    step("somebody edits a manifest on a node");
    let Some(node) = stage.nodes_of(SECURE).next() else {
        bail!("there is no secure node");
    };
    let path = node.kubernetes().join("manifests/etcd.yaml");
    let genuine = std::fs::read(&path)?;
    put(&path, b"# edited by hand\n")?;
    let began = Instant::now();
    let what = format!("{} has put etcd.yaml back", node.name);
    stage
        .wait(&what, || std::fs::read(&path).is_ok_and(|b| b == genuine))
        .await?;
    let took = began.elapsed();
    ensure!(
        took.as_secs_f64() < 1.0,
        "the repair took {:.1} s",
        took.as_secs_f64()
    );
    said(format!(
        "{:<10} put it back after {} ms",
        node.name,
        took.as_millis()
    ));
    Ok(())
}

async fn store_gone(stage: &mut Stage) -> anyhow::Result<()> {
    step("the store goes away");
    let before = secure_manifests(stage)?;
    stage.stop_store().await;
    tokio::time::sleep(POLL * 2).await;
    ensure!(
        stage.nodes.iter_mut().all(|n| n.is_running()),
        "an agent ended with the store"
    );
    if let Some(node) = stage.nodes.first_mut() {
        node.stop().await;
        node.spawn()?;
    }
    tokio::time::sleep(POLL).await;
    ensure!(
        stage.nodes.iter_mut().all(|n| n.is_running()),
        "an agent does not start offline"
    );
    ensure!(
        secure_manifests(stage)? == before,
        "a manifest changed while the store was away"
    );
    said("every node keeps the last good release, one of them restarted without network");
    stage.start_store().await?;
    // What the nodes said before the outage proves nothing: a release that did not exist then does.
    stage.amend("secure/kube-scheduler.yaml.j2", "cpu: 180m", "cpu: 190m")?;
    let release = publish(stage, &stage.context, SECURE).await?;
    stage.until_release(SECURE, release).await?;
    stage.amend("compute/kube-proxy.yaml.j2", "cpu: 50m", "cpu: 110m")?;
    let release = publish(stage, &stage.context, COMPUTE).await?;
    stage.until_release(COMPUTE, release).await?;
    said("the store is back, and every node has adopted the next release");
    Ok(())
}

/// Waits until each secure node refuses what it was offered, in this phase and for one of these kinds of reason.
async fn refused_by_all(
    stage: &Stage,
    what: &str,
    phase: Phase,
    kinds: &[&str],
) -> anyhow::Result<()> {
    let refuses = |s: &NodeStatus| {
        let error = s.error.as_ref();
        error.is_some_and(|e| e.phase == phase && kinds.contains(&e.kind.as_str()))
    };
    for status in stage.until(SECURE, what, refuses).await? {
        let error = status.error.as_ref().map_or("", |e| e.message.as_str());
        said(format!(
            "{:<10} refuses it: {}",
            status.node,
            first_line(error)
        ));
    }
    Ok(())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A store that changes one byte of every bundle it is given to keep.
#[derive(Debug)]
struct FlippedBundles(Arc<dyn ObjectStore>);

#[async_trait]
impl ObjectStore for FlippedBundles {
    async fn get(
        &self,
        key: &str,
        limit: u64,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        self.0.get(key, limit, unless).await
    }

    async fn put(&self, key: &str, bytes: Bytes, on: PutCondition) -> Result<ETag, StoreError> {
        if !key.contains("/targets/") {
            return self.0.put(key, bytes, on).await;
        }
        let mut changed = bytes.to_vec();
        let middle = changed.len() / 2;
        if let Some(byte) = changed.get_mut(middle) {
            *byte ^= 1;
        }
        self.0.put(key, changed.into(), on).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.0.list(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.0.delete(key).await
    }

    fn server_time(&self) -> Option<ServerTime> {
        self.0.server_time()
    }
}
