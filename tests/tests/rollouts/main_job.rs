//! The main job as it is shipped: an amended manifest of each group, published, reaches every node as the group's own
//! rollout.yaml says: the first node at its next poll, the others one after another.
//!
//! The policy is the embedded one. Changed in it are the time to settle (30 s a node) and the ports, which are those of
//! this test's server; what it cannot serve is the API server over TLS, whose probe fails before too and so only warns.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use platform_tests::node::{Node, eventually};
use platform_tests::scene::{COMPUTE, SECURE, Scene};
use platform_tests::workspace::group;
use shared::documents::{RolloutDocument, open_node_object};
use shared::names::ReleaseNumber;
use shared::store::keys;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::Result;
use crate::stage::TEST_PATIENCE;

const POLICIES: [(&str, &str); 2] = [
    (
        SECURE,
        include_str!("../../../manifests/secure/rollout.yaml"),
    ),
    (
        COMPUTE,
        include_str!("../../../manifests/compute/rollout.yaml"),
    ),
];
const PORTS: [&str; 6] = ["10248", "2381", "10257", "10259", "10256", "6443"];

/// The first node has it at its next poll, a second later here; the rest is a machine that runs many tests at once.
const FIRST_NODE: Duration = Duration::from_secs(30);

/// Everything that is asked is well.
async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            let _ = stream.write_all(answer).await;
        });
    }
}

fn document(scene: &Scene, group_name: &str) -> anyhow::Result<RolloutDocument> {
    let name = group(group_name);
    let key = keys::rollout(&name);
    let bytes = std::fs::read(scene.bucket.object(&key)).context("no document")?;
    let bound = keys::bound_name(&scene.operator.context.workspace.name, &key);
    let group_key = &scene.keyring().group(&name)?.group_key;
    Ok(open_node_object(&bytes, &bound, group_key)?)
}

fn releases(scene: &Scene, nodes: &[Node]) -> anyhow::Result<Vec<Option<u64>>> {
    let of = |node| anyhow::Ok(scene.status(node)?.release.map(ReleaseNumber::get));
    nodes.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amended_manifest_reaches_every_node_as_the_shipped_policy_says() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port().to_string();
    tokio::spawn(serve(listener));
    let scene = Scene::set_with(async |operator| {
        for (name, shipped) in POLICIES {
            let mut policy = shipped.replace("settle: 30s", "settle: 500ms");
            ensure!(
                policy != shipped,
                "{name}: the shipped policy settles otherwise"
            );
            for own in PORTS {
                policy = policy.replace(own, "PORT");
            }
            let policy = policy.replace("PORT", &port);
            std::fs::write(
                operator.path(&format!("manifests/{name}/rollout.yaml")),
                policy,
            )?;
        }
        Ok(())
    })
    .await?;
    for (name, template, count) in [
        (SECURE, "secure/kube-scheduler.yaml.j2", 3),
        (COMPUTE, "compute/kube-proxy.yaml.j2", 2),
    ] {
        let mut nodes = Vec::new();
        for n in 0..count {
            let mut node = scene.node(name, &format!("{name}-{n}"))?;
            node.start()?;
            node.until_release(1).await?;
            nodes.push(node);
        }
        let text = std::fs::read_to_string(scene.operator.path(&format!("manifests/{template}")))?;
        let before = text.lines().find(|line| line.contains("cpu: "));
        let before = before.context("a CPU request")?.trim();
        scene.operator.amend(template, before, "cpu: 77m")?;
        let began = Instant::now();
        let release = scene.publish(name).await?;
        let has_it = |releases: &[Option<u64>]| {
            let with = releases.iter().filter(|r| **r == Some(release));
            with.count()
        };
        let mut first = None;
        let mut most = 0;
        eventually("every node has it", TEST_PATIENCE, async || {
            if let Ok(document) = document(&scene, name) {
                most = most.max(document.holders.len());
            }
            let now = releases(&scene, &nodes)?;
            if has_it(&now) > 0 && first.is_none() {
                first = Some((began.elapsed(), has_it(&now)));
            }
            ensure!(has_it(&now) == count, "{now:?}");
            Ok(())
        })
        .await?;
        let (took, with) = first.context("a first node")?;
        println!(
            "{name}: the first node after {took:?}, all {count} after {:?}",
            began.elapsed()
        );
        ensure!(took < FIRST_NODE, "{name}: the first node took {took:?}");
        ensure!(with == 1, "{name}: {with} nodes had it at once");
        ensure!(most == 1, "{name}: {most} nodes were in transition at once");
        for node in &nodes {
            let verified = node.run_verb("verify", &[]).await?;
            ensure!(verified.status.success(), "{verified:?}");
            let amended = node.manifest_files()?.into_values();
            let amended = amended.filter_map(|bytes| String::from_utf8(bytes).ok());
            ensure!(
                amended.into_iter().any(|m| m.contains("77m")),
                "not amended"
            );
        }
    }
    Ok(())
}
