//! A generation that never had a leader is begun anew.

use anyhow::{Context as _, ensure};
use platform_tests::node::eventually;
use shared::etcd::Generation;
use shared::store::keys;

use super::restores::{platformctl, until_members_of};
use super::stage::{PATIENCE, Stage};

#[tokio::test]
async fn one_of_three_that_began_alone_is_formed_anew() -> anyhow::Result<()> {
    let Some(mut stage) = Stage::set(3, "4s").await? else {
        return Ok(());
    };
    stage.start("node-0")?;
    let mut dying = Vec::new();
    for name in ["node-1", "node-2"] {
        dying.push(stage.start_without_kubelet(name)?);
    }
    eventually("it has begun, alone", PATIENCE, async || {
        let etcd = stage.status(0)?.etcd.context("no word of etcd")?;
        ensure!(etcd.had_data && etcd.had_leader == Some(false), "{etcd:?}");
        ensure!(etcd.leader.is_none() && !etcd.why.is_empty(), "{etcd:?}");
        Ok(())
    })
    .await?;
    for node in &mut dying {
        node.kill().await?;
    }
    ensure!(stage.data(0).join("member/wal").is_dir());

    let reform = ["etcd", "reform", "-e", "local", "--confirm", "local"];
    let (code, said) = platformctl(&stage, &reform).await?;
    ensure!(
        code == 0 && said.contains("generation 2 begins empty"),
        "{code} {said}"
    );
    // The two are gone; two others come.
    stage.start("node-3")?;
    stage.start("node-4")?;
    until_members_of(&stage, 2).await?;
    stage.one_cluster().await?;
    ensure!(stage.voters(0).await?.len() == 3);
    let second = keys::etcd_fence(Generation::FIRST.next());
    ensure!(stage.scene.bucket.object(&second).exists());

    // This one had a leader.
    let (code, said) = platformctl(&stage, &reform).await?;
    ensure!(
        code == 2 && said.contains("has seen a leader"),
        "{code} {said}"
    );
    Ok(())
}
