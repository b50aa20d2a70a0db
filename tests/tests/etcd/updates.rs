//! Releases over a running cluster.

use anyhow::ensure;
use platform_tests::node::eventually;
use platform_tests::scene::SECURE;

use super::stage::{PATIENCE, Stage};
use super::writer::{Etcdctl, Writer};

pub(crate) const POLICY: &str = "max_unavailable: 1\ndeadline: 60s\nsettle: 200ms\nprobes: []\n";

#[tokio::test]
async fn only_a_change_of_etcd_restarts_it_one_member_at_a_time_the_leader_last()
-> anyhow::Result<()> {
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

    let policy = stage.scene.operator.path("manifests/secure/rollout.yaml");
    std::fs::write(policy, POLICY)?;
    stage.scene.operator.amend(
        "secure/kube-scheduler.yaml.j2",
        "component: kube-scheduler",
        "component: kube-scheduler\n    changed: \"yes\"",
    )?;
    let release = stage.scene.publish(SECURE).await?;
    stage.until_release(release, || {}).await?;
    for machine in &stage.machines {
        ensure!(machine.kubelet.starts() == 1, "{}", machine.kubelet.log());
    }

    let urls: Vec<String> = stage
        .machines
        .iter()
        .map(|m| m.client_url.clone())
        .collect();
    let writer = Writer::start(etcdctl, urls);
    let leader = stage.client(0)?.status().await?.leader;
    let mut leads = 0;
    for at in 0..3 {
        if Some(stage.client(at)?.status().await?.member_id) == leader {
            leads = at;
        }
    }
    stage.scene.operator.amend(
        "secure/files/etcd/base.yaml.j2",
        "snapshot-count: 10000",
        "snapshot-count: 5000",
    )?;
    let release = stage.scene.publish(SECURE).await?;
    let mut most_down = 0;
    let mut others_first = true;
    let watch = || {
        let starts: Vec<u32> = stage.machines.iter().map(|m| m.kubelet.starts()).collect();
        let down = stage.machines.iter().filter(|m| !m.kubelet.runs()).count();
        most_down = most_down.max(down);
        if starts[leads] > 1 {
            others_first &= starts.iter().all(|n| *n > 1);
        }
    };
    stage.until_release(release, watch).await?;
    eventually("each was restarted", PATIENCE, async || {
        for machine in &stage.machines {
            ensure!(machine.kubelet.starts() == 2 && machine.kubelet.runs());
        }
        Ok(())
    })
    .await?;
    stage.until_members().await?;
    ensure!(most_down <= 1, "{most_down} members were down at once");
    ensure!(others_first, "the leader did not go last");
    let written = writer.check()?;
    ensure!(written > 0, "nothing was written");
    eprintln!("{written} writes were acknowledged, and all are there");
    Ok(())
}
