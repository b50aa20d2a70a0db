//! A certificate authority in three publishes.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use platform_tests::node::{Node, PATIENCE};
use platform_tests::scene::{COMPUTE, SECURE, Scene, until};
use serde_json::Value;
use shared::documents::{AuthorityName, Rotating, Step};
use tokio::net::TcpListener;

use super::clients::{Client, SecretsOf, serve};
use super::{Result, adopted, done, killed_when, publish_and_adopt, refused};

fn cluster_step(pki: &shared::documents::Pki) -> Step {
    pki.authorities[&AuthorityName::Cluster].step()
}

/// What the addons' pods are annotated with: they read whom to trust at start only, so another value starts them anew.
fn told_to_addons(node: &Node) -> anyhow::Result<String> {
    let of_objects = SecretsOf::named(node, "addons", "addons_objects").directory()?;
    let mut told = BTreeSet::new();
    for name in [
        "coredns.yaml",
        "network.yaml",
        "cloud-controller-manager.yaml",
    ] {
        let list: Value = serde_json::from_slice(&fs::read(of_objects.join(name))?)?;
        let items = list["items"].as_array().context("a list")?.iter();
        let pods = items.filter(|item| item["kind"] == "Deployment" || item["kind"] == "DaemonSet");
        for pod in pods {
            let annotations = &pod["spec"]["template"]["metadata"]["annotations"];
            let digest = annotations["platform/cluster-authority"].as_str();
            told.insert(
                digest
                    .with_context(|| format!("{name}: not annotated"))?
                    .to_owned(),
            );
        }
    }
    ensure!(told.len() == 1, "{told:?}");
    told.pop_first().context("one digest")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_under_clients_that_keep_connecting() -> Result {
    let scene = Scene::set().await?;
    let operator = &scene.operator;
    let mut secure = scene.node(SECURE, "secure-1")?;
    let mut late = scene.node(SECURE, "secure-2")?;
    let mut compute = scene.node(COMPUTE, "compute-1")?;
    for node in [&mut secure, &mut late, &mut compute] {
        node.start()?;
        node.until_release(1).await?;
    }
    for node in [&secure, &late, &compute] {
        adopted(&scene, node).await?;
    }

    let told_first = told_to_addons(&secure)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let of_server = SecretsOf::new(&secure, "kube-apiserver");
    let server = tokio::spawn(serve(listener, move || of_server.directory()));

    // A client of the other group that uses what is on its node's disk. It never fails.
    let of_proxy = SecretsOf::new(&compute, "kube-proxy");
    let follower = move || -> anyhow::Result<Client> {
        Client::of_kubeconfig(&fs::read(of_proxy.directory()?.join("kubeconfig"))?)
    };
    let first = follower()?;
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let following = tokio::spawn({
        let (stop, count) = (stop.clone(), count.clone());
        async move {
            let mut client = follower()?;
            while !stop.load(Ordering::Relaxed) {
                client = follower().unwrap_or(client);
                client.connect(port).await.context("the follower failed")?;
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        }
    });
    until("the follower connects", PATIENCE, || {
        count.load(Ordering::Relaxed) > 3
    })
    .await?;

    let keyring = operator.keyring().await?.content;
    let cluster = |k: &shared::documents::KeyringContent| {
        let pki = k.pki.as_ref().context("a PKI")?;
        anyhow::Ok(pki.authorities[&AuthorityName::Cluster].clone())
    };
    let old = cluster(&keyring)?.current.certificate;
    let old_only = first.trusting(&old);
    old_only.connect(port).await?;

    // Stage: killed at once, in the middle, and late; each time it is either done or not begun.
    for pause in [1, 300, 900] {
        let begun = std::time::Instant::now();
        let over = || begun.elapsed() >= Duration::from_millis(pause);
        killed_when(operator, &["rotate", "ca", "cluster", "stage"], over).await?;
        let pki = operator.keyring().await?.content.pki.context("a PKI")?;
        let step = cluster_step(&pki);
        ensure!(matches!(step, Step::Steady | Step::Staged), "{step:?}");
        let recorded = pki.rotations.contains_key("cluster");
        ensure!(
            recorded == (step == Step::Staged),
            "the step and its record are one"
        );
        if step == Step::Staged {
            break;
        }
    }
    let pki = operator.keyring().await?.content.pki.context("a PKI")?;
    if cluster_step(&pki) == Step::Steady {
        let said = done(operator, &["rotate", "ca", "cluster"]).await?;
        ensure!(said.contains("publish -e local"), "{said}");
    }
    let said = refused(operator, &["rotate", "ca", "cluster"]).await?;
    ensure!(said.contains("not published yet"), "{said}");
    ensure!(
        said.contains("secure") && said.contains("compute"),
        "{said}"
    );
    let new = match cluster(&operator.keyring().await?.content)? {
        Rotating {
            next: Some(next), ..
        } => next.certificate,
        other => bail!("not staged: {other:?}"),
    };
    let new_only = first.trusting(&new);
    // Whoever has the old certificate and was told of both authorities.
    let old_client = first.trusting(&format!("{old}{new}"));

    // A node is away: the next step waits for it, by name.
    late.kill().await?;
    publish_and_adopt(&scene, &[&secure, &compute]).await?;
    ensure!(
        told_to_addons(&secure)? == told_first,
        "what is trusted besides restarts no addon: it could read the old bundle again"
    );
    let said = refused(operator, &["rotate", "ca", "cluster"]).await?;
    ensure!(said.contains("secure/secure-2 reports release 1"), "{said}");
    ensure!(
        !said.contains("secure-1") && !said.contains("compute-1"),
        "{said}"
    );
    let said = done(operator, &["rotate", "ca"]).await?;
    ensure!(
        said.contains("staged") && said.contains("secure-2"),
        "{said}"
    );
    for client in [&old_only, &old_client] {
        client.connect(port).await?;
    }
    ensure!(
        new_only.connect(port).await.is_err(),
        "nothing is issued by the new one yet"
    );
    late.start()?;
    adopted(&scene, &late).await?;

    // Promote; killed at once, in the middle, and late.
    let skipped = refused(operator, &["rotate", "ca", "cluster", "retire"]).await?;
    ensure!(skipped.contains("cannot be retired"), "{skipped}");
    for pause in [1, 300, 900] {
        let begun = std::time::Instant::now();
        let over = || begun.elapsed() >= Duration::from_millis(pause);
        killed_when(operator, &["rotate", "ca", "cluster", "promote"], over).await?;
        let pki = operator.keyring().await?.content.pki.context("a PKI")?;
        match cluster_step(&pki) {
            Step::Staged => {}
            Step::Promoted => break,
            step => bail!("{step:?} after a promotion that was killed"),
        }
    }
    let pki = operator.keyring().await?.content.pki.context("a PKI")?;
    if cluster_step(&pki) == Step::Staged {
        done(operator, &["rotate", "ca", "cluster"]).await?;
    }
    publish_and_adopt(&scene, &[&secure, &late, &compute]).await?;
    let told_second = told_to_addons(&secure)?;
    ensure!(
        told_second != told_first,
        "the addons start anew, and trust the new one"
    );
    new_only.connect(port).await?;
    old_client
        .connect(port)
        .await
        .context("the old certificate is good still")?;
    ensure!(
        old_only.connect(port).await.is_err(),
        "it serves with the new one now"
    );

    // Retire; the publish is killed before its end, and another one ends it.
    done(operator, &["rotate", "ca", "cluster"]).await?;
    let targets = scene.bucket.object("groups/secure/metadata/4.targets.json");
    killed_when(operator, &["publish"], || targets.exists()).await?;
    publish_and_adopt(&scene, &[&secure, &late, &compute]).await?;
    ensure!(
        old_client.connect(port).await.is_err(),
        "the old one is trusted no more"
    );
    ensure!(
        told_to_addons(&secure)? == told_second,
        "nothing new to trust"
    );
    let seen = count.load(Ordering::Relaxed);
    until("the follower connects", PATIENCE, || {
        count.load(Ordering::Relaxed) > seen + 3
    })
    .await?;
    let pki = operator.keyring().await?.content.pki.context("a PKI")?;
    ensure!(cluster_step(&pki) == Step::Steady && pki.rotations.is_empty());

    stop.store(true, Ordering::Relaxed);
    following.await??;
    server.abort();
    println!(
        "the follower connected {} times and never failed",
        count.load(Ordering::Relaxed)
    );
    Ok(())
}
