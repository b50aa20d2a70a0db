//! The authority that issues all of etcd's certificates is replaced under a running cluster.

use anyhow::{Context as _, ensure};
use platform_tests::node::eventually;
use platform_tests::workspace::group;
use shared::documents::{AuthorityName, Step};

use super::restores::platformctl;
use super::stage::{PATIENCE, Stage};
use super::updates::POLICY;
use super::writer::{Etcdctl, Writer};

const ROTATE: [&str; 5] = ["rotate", "ca", "etcd", "-e", "local"];

/// The next step, as soon as every node has the one before.
async fn step(stage: &Stage, wanted: Step) -> anyhow::Result<()> {
    eventually("the next step is taken", PATIENCE, async || {
        let (code, said) = platformctl(stage, &ROTATE).await?;
        ensure!(code == 0, "{code} {said}");
        Ok(())
    })
    .await?;
    let keyring = stage.scene.operator.keyring().await?;
    let pki = keyring.content.pki.context("a PKI")?;
    let now = pki.authorities[&AuthorityName::Etcd].step();
    ensure!(now == wanted, "{now:?} and not {wanted:?}");
    Ok(())
}

/// Publishes, and watches until every member has it and serves again; gives how many members were down at once at most.
async fn publish(stage: &Stage) -> anyhow::Result<usize> {
    let (code, said) = platformctl(stage, &["publish", "-e", "local"]).await?;
    ensure!(code == 0, "{code} {said}");
    let published = stage.scene.operator.published(&group("secure")).await?;
    let wanted = published.current().context("a release")?.release();
    let mut most_down = 0;
    let watch = || {
        let down = stage.machines.iter().filter(|m| !m.kubelet.runs()).count();
        most_down = most_down.max(down);
    };
    stage.until_release(wanted.get(), watch).await?;
    stage.until_members().await?;
    Ok(most_down)
}

#[tokio::test]
async fn etcds_authority_is_replaced_on_three_members_under_a_writing_client() -> anyhow::Result<()>
{
    let Some(mut stage) = Stage::set(3, "4s").await? else {
        return Ok(());
    };
    for n in 0..3 {
        stage.start(&format!("node-{n}"))?;
    }
    stage.until_members().await?;
    let Some(etcdctl) = Etcdctl::of(&stage)? else {
        return Ok(());
    };
    std::fs::write(
        stage.scene.operator.path("manifests/secure/rollout.yaml"),
        POLICY,
    )?;
    let urls: Vec<String> = stage
        .machines
        .iter()
        .map(|m| m.client_url.clone())
        .collect();
    let of_before = etcdctl.detached()?;
    let writer = Writer::start(etcdctl.clone(), urls.clone());
    let works = |etcdctl: &Etcdctl| -> anyhow::Result<bool> {
        let put = ["put", "/registry/who", "anybody"];
        Ok(etcdctl.run(&urls, &put)?.status.success())
    };

    // Trusted beside the old one; then issuing; then alone. Each member restarts for each, and never two at once.
    let mut most_down = 0;
    let mut written = 0;
    for wanted in [Step::Staged, Step::Promoted, Step::Steady] {
        step(&stage, wanted).await?;
        most_down = most_down.max(publish(&stage).await?);
        etcdctl.follow(&stage)?;
        ensure!(works(&etcdctl)?, "a client of now, {wanted:?}");
        eventually("the writer goes on", PATIENCE, async || {
            ensure!(writer.count() > written, "{}", writer.count());
            Ok(())
        })
        .await?;
        written = writer.count();
        ensure!(
            works(&of_before)? == (wanted == Step::Staged),
            "whoever trusts the old one alone, {wanted:?}"
        );
    }
    ensure!(most_down <= 1, "{most_down} members were down at once");
    stage.one_cluster().await?;
    ensure!(stage.voters(0).await?.len() == 3, "three voters");
    for machine in &stage.machines {
        ensure!(
            machine.kubelet.starts() == 4,
            "{} starts",
            machine.kubelet.starts()
        );
    }
    let written = writer.check()?;
    eprintln!("{written} writes were acknowledged, and all are there");
    Ok(())
}
