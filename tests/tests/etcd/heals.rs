//! What a cluster survives, and what is left alone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use platform_tests::node::eventually;
use shared::etcd::EtcdRole;

use super::stage::{PATIENCE, Stage};
use super::writer::{Etcdctl, Writer};

async fn formed(spare: bool) -> anyhow::Result<Option<Stage>> {
    let Some(mut stage) = Stage::set(3, "4s").await? else {
        return Ok(None);
    };
    for n in 0..3 {
        stage.start(&format!("node-{n}"))?;
    }
    stage.until_members().await?;
    if spare {
        let at = stage.start("node-3")?;
        stage.until_role(at, EtcdRole::Spare).await?;
    }
    Ok(Some(stage))
}

fn endpoints(stage: &Stage) -> Vec<String> {
    stage
        .machines
        .iter()
        .map(|m| m.client_url.clone())
        .collect()
}

#[tokio::test]
async fn a_member_that_is_killed_just_starts_again() -> anyhow::Result<()> {
    let Some(stage) = formed(false).await? else {
        return Ok(());
    };
    let before = stage.client(1)?.status().await?.member_id;
    stage.machines[1].kubelet.kill_etcd();
    eventually("it is back", PATIENCE, async || {
        ensure!(stage.machines[1].kubelet.starts() == 2, "not started again");
        let status = stage.client(1)?.status().await?;
        ensure!(status.leader.is_some(), "{status:?}");
        ensure!(status.member_id == before, "{status:?}");
        Ok(())
    })
    .await?;
    ensure!(stage.voters(0).await?.len() == 3);
    Ok(())
}

#[tokio::test]
async fn a_member_that_lost_its_data_is_replaced_and_never_begins_anew() -> anyhow::Result<()> {
    let Some(stage) = formed(false).await? else {
        return Ok(());
    };
    let Some(etcdctl) = Etcdctl::of(&stage)? else {
        return Ok(());
    };
    let writer = Writer::start(etcdctl, endpoints(&stage));
    let before = stage.client(2)?.status().await?.member_id;
    stage.machines[2].kubelet.kill_etcd();
    std::fs::remove_dir_all(stage.data(2))?;
    let began = Instant::now();
    eventually(
        "it is a member under another number",
        PATIENCE,
        async || {
            let status = stage.client(2)?.status().await?;
            ensure!(
                status.member_id != before && !status.is_learner,
                "{status:?}"
            );
            Ok(())
        },
    )
    .await
    .with_context(|| stage.machines[2].node.log().unwrap_or_default())?;
    eprintln!("back after the loss of its data in {:?}", began.elapsed());
    stage.until_members().await?;
    stage.one_cluster().await?;
    ensure!(stage.voters(0).await?.len() == 3);
    let written = writer.check()?;
    eprintln!("{written} writes were acknowledged, and all are there");
    Ok(())
}

#[tokio::test]
async fn a_machine_that_is_gone_is_replaced_under_load() -> anyhow::Result<()> {
    let Some(mut stage) = formed(true).await? else {
        return Ok(());
    };
    let Some(etcdctl) = Etcdctl::of(&stage)? else {
        return Ok(());
    };
    let writer = Writer::start(etcdctl, endpoints(&stage));
    let gone = stage.destroy(1).await?;
    let began = Instant::now();
    writer.goes_to(endpoints(&stage));
    stage.until_role(2, EtcdRole::Member).await?;
    eprintln!(
        "replaced in {:?}, {} writes",
        began.elapsed(),
        writer.count()
    );
    let voters = stage.voters(0).await?;
    ensure!(voters.len() == 3 && !voters.contains(&gone), "{voters:?}");
    stage.one_cluster().await?;
    let written = writer.check()?;
    ensure!(written > 0, "nothing was written");
    eprintln!("{written} writes were acknowledged, and all are there");
    Ok(())
}

#[tokio::test]
async fn all_machines_are_replaced_one_after_another() -> anyhow::Result<()> {
    let Some(mut stage) = formed(false).await? else {
        return Ok(());
    };
    let Some(etcdctl) = Etcdctl::of(&stage)? else {
        return Ok(());
    };
    let writer = Writer::start(etcdctl, endpoints(&stage));
    for n in 3..6 {
        let gone = stage.destroy(0).await?;
        let at = stage.start(&format!("node-{n}"))?;
        stage.until_role(at, EtcdRole::Member).await?;
        writer.goes_to(endpoints(&stage));
        let voters = stage.voters(0).await?;
        ensure!(voters.len() == 3 && !voters.contains(&gone), "{voters:?}");
    }
    stage.until_members().await?;
    stage.one_cluster().await?;
    let written = writer.check()?;
    eprintln!("{written} writes were acknowledged, and all are there");
    Ok(())
}

#[tokio::test]
async fn without_quorum_nothing_is_made_worse() -> anyhow::Result<()> {
    let Some(mut stage) = formed(true).await? else {
        return Ok(());
    };
    let fence = stage.fence()?;
    let left = stage.client(0)?.status().await?.member_id;
    stage.destroy(2).await?;
    stage.destroy(1).await?;
    // The spare is at 1 now, and sees for a while that it can do nothing.
    eventually("the spare sees no quorum", PATIENCE, async || {
        let etcd = stage.status(1)?.etcd.context("no word of etcd")?;
        ensure!(etcd.role == EtcdRole::Waiting, "{etcd:?}");
        Ok(())
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    ensure!(stage.fence()? == fence, "the fence was written again");
    ensure!(
        stage.data(0).join("member/wal").is_dir(),
        "its data is gone"
    );
    ensure!(
        stage.machines[0].kubelet.runs(),
        "the last member was stopped"
    );
    ensure!(stage.client(0)?.status().await?.member_id == left);
    ensure!(
        stage.machines[1].kubelet.starts() == 0,
        "the spare started etcd"
    );
    ensure!(!stage.data(1).exists());
    Ok(())
}
