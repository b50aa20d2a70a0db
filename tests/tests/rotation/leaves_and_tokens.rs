//! Certificates and bootstrap tokens, and what restarts by them.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, ensure};
use platform_tests::node::{PATIENCE, eventually};
use platform_tests::scene::{COMPUTE, SECURE, Scene};
use platform_tests::workspace::group;
use shared::documents::Step;
use shared::names::ReleaseNumber;

use super::{Result, adopted, ctl, done, publish_and_adopt, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_restarts_when_a_file_of_its_own_changed_and_tokens_have_a_successor() -> Result {
    let scene = Scene::set().await?;
    let operator = &scene.operator;
    let mut secure = scene.node(SECURE, "secure-1")?;
    let mut compute = scene.node(COMPUTE, "compute-1")?;
    for node in [&mut secure, &mut compute] {
        node.start()?;
        node.until_release(1).await?;
    }
    let both = [&secure, &compute];
    for node in both {
        adopted(&scene, node).await?;
    }
    let expiry = "platform_agent_certificate_expiry_timestamp_seconds";
    let first_expiry = eventually("the metric is there", PATIENCE, async || {
        let at = secure.metric(expiry).await?;
        ensure!(at > 0.0);
        Ok(at)
    })
    .await?;
    let year = jiff::SignedDuration::from_hours(24 * 365);
    let ideal = (jiff::Timestamp::now() + year).as_second();
    #[allow(clippy::cast_precision_loss, reason = "seconds fit a double")]
    let off = (first_expiry - ideal as f64).abs();
    ensure!(off < 3600.0, "the leaves live a year, not {first_expiry}");

    let changed_by = async |arguments: &[&str]| {
        let before = secure.manifest_files()?;
        done(operator, arguments).await?;
        publish_and_adopt(&scene, &[&secure]).await?;
        let after = secure.manifest_files()?;
        let changed = after
            .iter()
            .filter(|(name, bytes)| before.get(*name) != Some(bytes));
        anyhow::Ok(
            changed
                .map(|(name, _)| name.clone())
                .collect::<BTreeSet<_>>(),
        )
    };
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|n| format!("{n}.yaml"))
            .collect::<BTreeSet<_>>()
    };
    let changed = changed_by(&["rotate", "leaves", "front-proxy-client"]).await?;
    ensure!(changed == names(&["kube-apiserver"]), "{changed:?}");
    let changed = changed_by(&["rotate", "leaves", "etcd-server", "kube-scheduler"]).await?;
    ensure!(changed == names(&["etcd", "kube-scheduler"]), "{changed:?}");
    let said = refused(operator, &["rotate", "leaves", "admin", "nobody", "else"]).await?;
    ensure!(said.contains("nobody, else"), "{said}");

    // Staging an authority that only the secure group knows leaves the other one alone.
    let published = async |name: &str| {
        let published = operator.published(&group(name)).await?;
        Ok::<_, anyhow::Error>(
            published
                .current()
                .map(shared::trust::ReleaseTarget::release),
        )
    };
    let before: Option<ReleaseNumber> = published(COMPUTE).await?;
    done(operator, &["rotate", "ca", "front-proxy"]).await?;
    done(operator, &["publish"]).await?;
    ensure!(published(COMPUTE).await? == before);

    // Tokens.
    let token = || {
        fs::read_to_string(
            compute
                .kubernetes()
                .join("host/kubelet/bootstrap.kubeconfig"),
        )
    };
    let old = token()?;
    done(operator, &["rotate", "tokens"]).await?;
    let said = refused(operator, &["rotate", "tokens"]).await?;
    ensure!(said.contains("--retire"), "{said}");
    let said = refused(operator, &["rotate", "tokens", "--retire"]).await?;
    ensure!(said.contains("not published yet"), "{said}");
    publish_and_adopt(&scene, &[&secure, &compute]).await?;
    ensure!(token()? != old, "new machines come with the new one");
    done(operator, &["rotate", "tokens", "--retire"]).await?;
    publish_and_adopt(&scene, &[&secure, &compute]).await?;
    let pki = operator.keyring().await?.content.pki.context("a PKI")?;
    ensure!(pki.bootstrap.step() == Step::Steady);
    operator.expect_nodes(1, 1)?;
    let (code, said) = ctl(operator, &["status"]).await?;
    ensure!(code == 0 && said.contains("expires first: "), "{said}");
    Ok(())
}
