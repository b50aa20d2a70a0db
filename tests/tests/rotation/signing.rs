//! The keys that sign releases.

use std::fs;

use anyhow::{Context as _, ensure};
use platform_tests::scene::{SECURE, Scene};
use platform_tests::workspace::{group, refresh_as_node};
use shared::documents::Phase;
use shared::trust::TrustErrorKind;

use super::{Result, adopted, ctl, done, killed_when, publish_and_adopt};

#[tokio::test(flavor = "multi_thread")]
async fn signing_keys_change_under_nodes_and_an_old_timestamp_is_refused() -> Result {
    let scene = Scene::set().await?;
    let operator = &scene.operator;
    let name = group(SECURE);
    let mut node = scene.node(SECURE, "secure-1")?;
    node.start()?;
    node.until_release(1).await?;
    adopted(&scene, &node).await?;
    let first_root = operator.root(&name).await?;
    let object = |name: &str| {
        scene
            .bucket
            .object(&format!("groups/secure/metadata/{name}"))
    };
    let timestamp = object("timestamp.json");
    let old = fs::read(&timestamp)?;
    let read_keyring =
        || fs::read(scene.bucket.object("operator/keyring.json")).unwrap_or_default();

    // Killed after each of its writes; nodes, also fresh ones with the first root, accept what is there each time.
    for round in 0..4_u64 {
        let (keyring, stamp) = (read_keyring(), fs::read(&timestamp)?);
        let joint = object(&format!("{}.root.json", 2 * round + 2));
        let alone = object(&format!("{}.root.json", 2 * round + 3));
        let arguments = ["rotate", "signing", SECURE];
        killed_when(operator, &arguments, || match round {
            0 => read_keyring() != keyring,
            1 => joint.exists(),
            2 => fs::read(&timestamp).is_ok_and(|now| now != stamp),
            _ => alone.exists(),
        })
        .await?;
        let fresh = tempfile::TempDir::new()?;
        refresh_as_node(&operator.context, &name, &first_root, fresh.path())
            .await
            .with_context(|| format!("after kill {round}"))?;
        let keys = operator.keyring().await?.group(&name)?.clone();
        println!(
            "kill {round}: {} roots, handover {}",
            keys.roots.len(),
            keys.handover
        );
        if keys.handover {
            // A colleague, who remembers nothing, goes on with it.
            let colleague = operator.colleague(&scene.bucket.endpoint()).await?;
            let said = done(&colleague, &arguments).await?;
            ensure!(said.contains("begun earlier"), "{said}");
        } else if keys.roots.len() as u64 == 2 * round + 1 {
            done(operator, &arguments).await?;
        }
        let keys = operator.keyring().await?.group(&name)?.clone();
        ensure!(!keys.handover && keys.roots.len() as u64 == 2 * round + 3);
        ensure!(fs::read(&alone)? == keys.roots.last().context("a root")?.as_bytes());
        node.until_polled(2).await?;
        adopted(&scene, &node).await?;
    }

    // Operators and nodes go on: with the memory of the old keys, and without any.
    operator.amend("secure/kube-scheduler.yaml.j2", "cpu: 100m", "cpu: 150m")?;
    publish_and_adopt(&scene, &[&node]).await?;
    ensure!(fs::read_to_string(node.manifests().join("kube-scheduler.yaml"))?.contains("150m"));
    let mut fresh_node = scene.node(SECURE, "secure-9")?;
    fresh_node.start()?;
    adopted(&scene, &fresh_node).await?;

    // The old timestamp is put back.
    let now = fs::read(&timestamp)?;
    fs::write(&timestamp, &old)?;
    let files = node.manifest_files()?;
    for node in [&node, &fresh_node] {
        let status = scene
            .until_status(node, "it refuses", |s| s.error.is_some())
            .await?;
        let error = status.error.context("an error")?;
        ensure!(error.phase == Phase::Verify, "{error:?}");
    }
    let fresh = tempfile::TempDir::new()?;
    let refused = refresh_as_node(&operator.context, &name, &first_root, fresh.path()).await;
    let kind = refused.err().context("it was accepted")?.kind();
    ensure!(kind == TrustErrorKind::Signature, "{kind:?}");
    let (code, said) = ctl(operator, &["publish"]).await?;
    ensure!(code == 1, "{said}");
    fs::write(&timestamp, now)?;
    adopted(&scene, &node).await?;
    ensure!(node.manifest_files()? == files);
    Ok(())
}
