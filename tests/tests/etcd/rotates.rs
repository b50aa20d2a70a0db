//! The key of encryption at rest is replaced while Secrets are stored under it, and a backup brings the old one back.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use platform_tests::etcd::Certificates;
use platform_tests::node::eventually;
use platform_tests::secrets_api::{EtcdWriter, SecretsApi, stored};
use platform_tests::tools;
use platform_tests::workspace::group;
use serde_json::Value;
use shared::backup::BackupName;
use shared::documents::Pki;
use shared::rewrite::SECRETS_PREFIX;

use super::restores::{platformctl, until_members_of};
use super::stage::{PATIENCE, Stage};

const SECRETS: usize = 60;
/// Where a node's own API server is, by every order.
const API_PORT: u16 = 6443;
const ROTATE: [&str; 4] = ["rotate", "encryption", "-e", "local"];

async fn done(stage: &Stage, arguments: &[&str]) -> anyhow::Result<String> {
    let (code, said) = platformctl(stage, arguments).await?;
    ensure!(code == 0, "{arguments:?} ended with {code}: {said}");
    Ok(said)
}

async fn refused(stage: &Stage, arguments: &[&str], why: &str) -> anyhow::Result<String> {
    let before = stage.scene.operator.keyring().await?.mark;
    let (code, said) = platformctl(stage, arguments).await?;
    ensure!(
        code == 2 && said.contains(why),
        "{arguments:?}: {code} {said}"
    );
    ensure!(
        stage.scene.operator.keyring().await?.mark == before,
        "{said}"
    );
    Ok(said)
}

/// The step, as soon as what it waits for is so.
async fn step(stage: &Stage, says: &str) -> anyhow::Result<()> {
    let taken = eventually(says, PATIENCE, async || done(stage, &ROTATE).await).await;
    let said = taken.with_context(|| stage.machines[0].node.log().unwrap_or_default())?;
    ensure!(said.contains(says), "{said}");
    Ok(())
}

async fn publish(stage: &Stage) -> anyhow::Result<()> {
    done(stage, &["publish", "-e", "local"]).await?;
    let published = stage.scene.operator.published(&group("secure")).await?;
    let wanted = published.current().context("a release")?.release();
    eventually("it is on the node", PATIENCE, async || {
        let status = stage.status(0)?;
        ensure!(status.release == Some(wanted), "{:?}", status.release);
        Ok(())
    })
    .await
    .with_context(|| stage.machines[0].node.log().unwrap_or_default())
}

async fn pki(stage: &Stage) -> anyhow::Result<Pki> {
    let keyring = stage.scene.operator.keyring().await?;
    keyring.content.pki.context("a PKI")
}

/// The names of the keys that the node's API server is given, in order.
fn given(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let manifest = stage.machines[0]
        .node
        .kubernetes()
        .join("secrets/kube-apiserver");
    let mut newest = None;
    for directory in std::fs::read_dir(manifest)? {
        let path = directory?.path().join("encryption.yaml");
        let at = std::fs::metadata(&path)?.modified()?;
        if newest.as_ref().is_none_or(|(before, _)| at > *before) {
            newest = Some((at, path));
        }
    }
    let (_, path) = newest.context("a configuration")?;
    let read: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let keys = read["resources"][0]["providers"][0]["secretbox"]["keys"].as_array();
    let keys = keys.context("keys")?.iter();
    keys.map(|k| Ok(k["name"].as_str().context("a name")?.to_owned()))
        .collect()
}

/// What `rotate ca` shows of encryption at rest.
async fn row(stage: &Stage) -> anyhow::Result<Value> {
    let said = done(stage, &["rotate", "ca", "-e", "local", "--output", "json"]).await?;
    let all: Vec<Value> = serde_json::from_str(&said)?;
    let mut rows = all.into_iter();
    rows.find(|r| r["name"] == "encryption").context("a row")
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_at_rest_has_another_key_and_a_backup_its_own() -> anyhow::Result<()> {
    let Some(etcdutl) = tools::find("etcdutl") else {
        return Ok(());
    };
    let Some(mut stage) = Stage::set(1, "4s").await? else {
        return Ok(());
    };
    let beside = etcdutl
        .parent()
        .context("a directory")?
        .display()
        .to_string();
    let path = format!("{beside}:{}", std::env::var("PATH").unwrap_or_default());
    let at = stage.add("node-0")?;
    stage.machines[at].node.start_with(&[("PATH", &path)])?;
    stage.until_members().await?;
    let home = tempfile::TempDir::new()?;
    Certificates::of_node(&stage.machines[0].node.kubernetes(), home.path())?;
    let files = home.path().join("kube-apiserver");
    let client = stage.client(0)?;
    let writer = EtcdWriter::new(client.endpoint(), &files);
    let api = SecretsApi::start(API_PORT, &files, client.clone()).await?;

    let old = pki(&stage).await?.encryption.current.name;
    let secrets: Vec<_> = (0..SECRETS)
        .map(|n| {
            let key = format!("{SECRETS_PREFIX}default/secret-{n}");
            (key, stored(&old, &format!("payload-{n}")))
        })
        .collect();
    writer.put(&secrets).await?;
    let taken = stage.machines[0].node.run_verb("etcd", &["backup"]).await?;
    let said = String::from_utf8_lossy(&taken.stdout).into_owned();
    let name: BackupName = said.split_whitespace().nth(1).context("a name")?.parse()?;
    let name = name.to_string();

    // The new key second.
    step(&stage, "the API servers will read with").await?;
    refused(&stage, &ROTATE, "not published yet").await?;
    publish(&stage).await?;
    let new = pki(&stage)
        .await?
        .encryption
        .next
        .context("a successor")?
        .name;
    ensure!(given(&stage)? == [old.clone(), new.clone()]);
    refused(
        &stage,
        &["rotate", "encryption", "rewrite", "-e", "local"],
        "cannot be rewritten",
    )
    .await?;

    // The new key first.
    step(&stage, "encrypted with the new key").await?;
    refused(
        &stage,
        &["rotate", "encryption", "retire", "-e", "local"],
        "cannot be retired",
    )
    .await?;
    publish(&stage).await?;
    ensure!(given(&stage)? == [new.clone(), old.clone()]);
    api.with(|api| {
        api.writes = new.clone();
        api.reads = BTreeSet::from([new.clone(), old.clone()]);
        api.takes = Duration::from_millis(50);
        api.refused.insert("default/secret-7".to_owned());
    });

    // Rewriting, with an agent that is killed in the middle of it.
    step(&stage, "the leader of etcd is told").await?;
    refused(&stage, &ROTATE, "not published yet").await?;
    publish(&stage).await?;
    refused(&stage, &ROTATE, "under the new key").await?;
    eventually("rewriting is under way", PATIENCE, async || {
        ensure!(api.with(|api| api.updated.len()) > 10);
        Ok(())
    })
    .await
    .with_context(|| stage.machines[0].node.log().unwrap_or_default())?;
    stage.machines[0].node.kill().await?;
    ensure!(
        api.with(|api| api.updated.len()) < SECRETS - 1,
        "killed too late"
    );
    stage.machines[0].node.start_with(&[("PATH", &path)])?;
    let said = eventually("it says what is left", PATIENCE, async || {
        let row = row(&stage).await?.to_string();
        ensure!(row.contains("an admission plugin says no"), "{row}");
        Ok(row)
    })
    .await?;
    ensure!(
        said.contains("rewriting") && said.contains(&format!("1 under {old}")),
        "{said}"
    );
    refused(&stage, &ROTATE, "an admission plugin says no").await?;
    api.with(|api| api.refused.clear());
    step(&stage, "the keyring keeps it for backups").await?;
    let updated = api.with(|api| api.updated.clone());
    let once: BTreeSet<&String> = updated.iter().collect();
    ensure!(
        once.len() == SECRETS && updated.len() <= SECRETS + 1,
        "{updated:?}"
    );
    publish(&stage).await?;
    ensure!(given(&stage)? == std::slice::from_ref(&new));
    api.with(|api| api.reads.remove(&old));
    ensure!(
        !stage.machines[0]
            .node
            .state()
            .join("etcd-rewrite.json")
            .exists()
    );

    // A backup needs the old one.
    let drop = ["rotate", "encryption", "drop", "-e", "local"];
    let said = refused(&stage, &drop, &format!("backup {name} needs it")).await?;
    ensure!(
        said.contains(&old) && said.contains("is kept until"),
        "{said}"
    );

    // And brings it back, for reading.
    let restore = [
        "etcd",
        "restore",
        "-e",
        "local",
        "--backup",
        &name,
        "--confirm",
        "local",
    ];
    done(&stage, &restore).await?;
    until_members_of(&stage, 2).await?;
    eventually("the old key reads again", PATIENCE, async || {
        let after = given(&stage)?;
        ensure!(after == [new.clone(), old.clone()], "{after:?}");
        Ok(())
    })
    .await?;
    api.with(|api| api.reads.insert(old.clone()));
    let shown = row(&stage).await?;
    ensure!(
        shown["step"] == "promoted" && shown["next"] == "rewrite",
        "{shown}"
    );
    refused(&stage, &drop, "a restore has brought back").await?;
    done(&stage, &["etcd", "restore", "-e", "local", "--finish"]).await?;
    api.with(|api| api.updated.clear());
    step(&stage, "the leader of etcd is told").await?;
    publish(&stage).await?;
    step(&stage, "the keyring keeps it for backups").await?;
    ensure!(
        api.with(|api| api.updated.len()) == SECRETS,
        "all were under the old one again"
    );
    publish(&stage).await?;
    ensure!(given(&stage)? == std::slice::from_ref(&new));

    // With the last backup that names it, the key may go.
    refused(&stage, &drop, "needs it").await?;
    for generation in ["1", "2"] {
        let backups = stage
            .scene
            .bucket
            .object(&format!("etcd/{generation}/backups"));
        if backups.is_dir() {
            std::fs::remove_dir_all(backups)?;
        }
    }
    let said = done(&stage, &drop).await?;
    ensure!(said.contains(&old), "{said}");
    let left = pki(&stage).await?;
    ensure!(left.at_rest.older.is_empty() && left.encryption.current.name == new);
    Ok(())
}
