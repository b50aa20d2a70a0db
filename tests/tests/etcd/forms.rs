//! From nothing to one cluster.

use std::time::Instant;

use anyhow::ensure;
use shared::etcd::EtcdRole;

use super::stage::Stage;

async fn forms(voters: u32) -> anyhow::Result<()> {
    let Some(mut stage) = Stage::set(voters, "4s").await? else {
        return Ok(());
    };
    let began = Instant::now();
    for n in 0..voters {
        stage.start(&format!("node-{n}"))?;
    }
    stage.until_members().await?;
    eprintln!("{voters} from nothing to quorum in {:?}", began.elapsed());
    stage.one_cluster().await?;
    let voted = stage.voters(0).await?;
    ensure!(voted.len() == voters as usize, "{voted:?}");
    for machine in &stage.machines {
        let file = machine.node.kubernetes().join("etcd/etcd.conf.yaml");
        let text = std::fs::read_to_string(file)?;
        ensure!(
            text.contains("\"sealed\"") && text.contains("\"existing\""),
            "{text}"
        );
        ensure!(machine.kubelet.starts() == 1, "{}", machine.kubelet.log());
    }
    Ok(())
}

#[tokio::test]
async fn one_member_forms_a_cluster() -> anyhow::Result<()> {
    forms(1).await
}

#[tokio::test]
async fn three_members_form_a_cluster() -> anyhow::Result<()> {
    forms(3).await
}

#[tokio::test]
async fn five_members_form_a_cluster() -> anyhow::Result<()> {
    forms(5).await
}

#[tokio::test]
async fn two_of_three_wait_and_a_fourth_is_a_spare() -> anyhow::Result<()> {
    let Some(mut stage) = Stage::set(3, "4s").await? else {
        return Ok(());
    };
    stage.start("node-0")?;
    stage.start("node-1")?;
    stage.until_role(0, EtcdRole::Waiting).await?;
    let status = stage.until_role(1, EtcdRole::Waiting).await?;
    let why = status.etcd.map(|e| e.why).unwrap_or_default();
    ensure!(why.contains("of 3 nodes"), "{why}");
    for machine in &stage.machines {
        let files = machine.node.manifest_files()?;
        ensure!(!files.contains_key("etcd.yaml"), "{:?}", files.keys());
        ensure!(
            !files.contains_key("kube-apiserver.yaml"),
            "{:?}",
            files.keys()
        );
        // What talks to the API server of its own node waits for it.
        ensure!(
            !files.contains_key("kube-scheduler.yaml"),
            "{:?}",
            files.keys()
        );
    }
    stage.start("node-2")?;
    stage.until_members().await?;
    let fence = stage.fence()?;

    let spare = stage.start("node-3")?;
    stage.until_role(spare, EtcdRole::Spare).await?;
    let files = stage.machines[spare].node.manifest_files()?;
    ensure!(!files.contains_key("etcd.yaml"), "{:?}", files.keys());
    ensure!(
        !files.contains_key("kube-apiserver.yaml"),
        "{:?}",
        files.keys()
    );
    ensure!(stage.machines[spare].kubelet.starts() == 0);
    let files = stage.machines[0].node.manifest_files()?;
    for name in ["etcd.yaml", "kube-apiserver.yaml", "kube-scheduler.yaml"] {
        ensure!(files.contains_key(name), "{name} of {:?}", files.keys());
    }
    ensure!(stage.fence()? == fence, "the fence was written again");
    Ok(())
}
