//! One command brings etcd back from a backup, on every member.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use platform_tests::node::eventually;
use platform_tests::tools;
use shared::backup::{BUMP_REVISION, BackupName};
use shared::etcd::EtcdRole;

use super::stage::{PATIENCE, Stage};
use super::writer::Etcdctl;

pub(crate) async fn platformctl(
    stage: &Stage,
    arguments: &[&str],
) -> anyhow::Result<(i32, String)> {
    let mut command = stage.scene.operator.platformctl();
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8(output.stdout)? + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().context("a code")?, text))
}

/// Waits until each machine is a member of `generation`.
pub(crate) async fn until_members_of(stage: &Stage, generation: u32) -> anyhow::Result<()> {
    for machine in &stage.machines {
        let what = format!(
            "{} is a member of generation {generation}",
            machine.node.name()
        );
        eventually(&what, PATIENCE, async || {
            let status = stage.scene.status(&machine.node)?;
            let etcd = status.etcd.clone().context("no word of etcd")?;
            ensure!(
                etcd.generation.get() == generation
                    && etcd.role == EtcdRole::Member
                    && etcd.why.is_empty(),
                "{etcd:?}, {:?}",
                status.error
            );
            Ok(())
        })
        .await
        .with_context(|| machine.node.log().unwrap_or_default())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_restore_is_one_command_and_survives_a_killed_agent() -> anyhow::Result<()> {
    let Some(etcdutl) = tools::find("etcdutl") else {
        return Ok(());
    };
    let Some(mut stage) = Stage::set(3, "4s").await? else {
        return Ok(());
    };
    let beside = etcdutl
        .parent()
        .context("a directory")?
        .display()
        .to_string();
    let path = format!("{beside}:{}", std::env::var("PATH").unwrap_or_default());
    for n in 0..3 {
        let at = stage.add(&format!("node-{n}"))?;
        stage.machines[at].node.start_with(&[("PATH", &path)])?;
    }
    stage.until_members().await?;
    let etcdctl = Etcdctl::of(&stage)?.context("etcdctl")?;
    let urls: Vec<String> = stage
        .machines
        .iter()
        .map(|m| m.client_url.clone())
        .collect();
    let run = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = etcdctl.run(&urls, arguments)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    };
    run(&["put", "/registry/a", "before"])?;
    run(&["put", "/registry/masterleases/10.0.0.1", "gone"])?;
    let taken = stage.machines[0].node.run_verb("etcd", &["backup"]).await?;
    let said = String::from_utf8_lossy(&taken.stdout).into_owned();
    ensure!(
        taken.status.success(),
        "{}",
        String::from_utf8_lossy(&taken.stderr)
    );
    let name: BackupName = said.split_whitespace().nth(1).context("a name")?.parse()?;
    run(&["put", "/registry/a", "after"])?;

    // A cluster that has members is not formed anew.
    let reform = ["etcd", "reform", "-e", "local", "--confirm", "local"];
    let (code, said) = platformctl(&stage, &reform).await?;
    ensure!(
        code == 2 && said.contains("is not formed anew"),
        "{code} {said}"
    );

    let name = name.to_string();
    let unsure = [
        "etcd",
        "restore",
        "-e",
        "local",
        "--backup",
        &name,
        "--confirm",
        "prod",
    ];
    let (code, said) = platformctl(&stage, &unsure).await?;
    ensure!(
        code == 2 && said.contains("not the environment's name"),
        "{code} {said}"
    );
    let sure = [
        "etcd",
        "restore",
        "-e",
        "local",
        "--backup",
        &name,
        "--confirm",
        "local",
    ];
    let (code, said) = platformctl(&stage, &sure).await?;
    ensure!(code == 0 && said.contains("generation 2"), "{code} {said}");
    // One agent is killed in the middle of it.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stage.machines[1].node.kill().await?;
    stage.machines[1].node.start_with(&[("PATH", &path)])?;

    until_members_of(&stage, 2).await?;
    // A node says that it is a member as soon as the cluster lists it with its data there; its etcd may still be starting.
    eventually("every member serves", PATIENCE, async || {
        stage.one_cluster().await?;
        ensure!(stage.voters(0).await?.len() == 3, "three voters");
        Ok(())
    })
    .await?;
    let revision = stage.client(0)?.status().await?.revision;
    ensure!(revision > BUMP_REVISION, "{revision}");
    let got = run(&["get", "/registry/a"])?;
    ensure!(got.contains("before") && !got.contains("after"), "{got}");
    eventually("the old leases are gone", PATIENCE, async || {
        let got = run(&["get", "--prefix", "/registry/masterleases/"])?;
        ensure!(got.is_empty(), "{got}");
        Ok(())
    })
    .await?;
    // Each has held what it made against what the others made, the one that was killed too.
    for machine in &stage.machines {
        eventually("it compared its data", PATIENCE, async || {
            let log = machine.node.log()?;
            let same = "the restored data is the same on every member that answers";
            ensure!(log.contains(same), "{log}");
            Ok(())
        })
        .await?;
    }
    for machine in &stage.machines {
        let old = machine.node.root().join("var/lib/etcd/1/member");
        ensure!(old.is_dir(), "the data of before stays");
    }

    // Asked again it is told again, and nothing changes; finished, nodes have no key any more and etcd is left alone.
    let starts: Vec<u32> = stage.machines.iter().map(|m| m.kubelet.starts()).collect();
    let (code, said) = platformctl(&stage, &["etcd", "restore", "-e", "local"]).await?;
    ensure!(
        code == 0 && said.contains("going on with it"),
        "{code} {said}"
    );
    let key = |at: usize| stage.machines[at].node.state().join("etcd-restore.key");
    ensure!(key(0).is_file(), "the key is there meanwhile");
    let (code, said) = platformctl(&stage, &["etcd", "restore", "-e", "local", "--finish"]).await?;
    ensure!(code == 0, "{said}");
    for at in 0..3 {
        eventually("the key is gone", PATIENCE, async || {
            ensure!(!key(at).exists(), "it is there");
            Ok(())
        })
        .await?;
    }
    until_members_of(&stage, 2).await?;
    let now: Vec<u32> = stage.machines.iter().map(|m| m.kubelet.starts()).collect();
    ensure!(starts == now, "{starts:?} {now:?}");
    Ok(())
}
