//! Backups that a real agent takes of a real member.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use platform_tests::etcd::{Certificates, MemberSpec, RunningMember};
use platform_tests::node::{Node, eventually};
use platform_tests::scene::Scene;
use platform_tests::tools;
use platform_tests::workspace::group;
use serde_json::Value;
use shared::backup::{BackupManifest, BackupName, open_file, read_manifest};
use shared::digest::Sha256Digest;
use shared::store::keys;
use tempfile::TempDir;

/// The first backup comes at once, later ones by the hour.
const PATIENCE: Duration = Duration::from_secs(60);

struct Stand {
    scene: Scene,
    node: Node,
    member: RunningMember,
    certificates: Certificates,
    _home: TempDir,
}

/// A node that has adopted a release of the platform's own templates, and the member that its kubelet would run.
async fn stand(etcd: &Path) -> anyhow::Result<Stand> {
    let scene = Scene::set().await?;
    let node = scene.node("secure", "i-1")?;
    let once = node.run_verb("once", &[]).await?;
    ensure!(
        once.status.success(),
        "{}",
        String::from_utf8_lossy(&once.stderr)
    );
    let home = TempDir::new()?;
    let certificates = Certificates::of_node(&node.kubernetes(), home.path())?;
    let spec = MemberSpec::new_cluster(home.path(), 1, "local-1")?.remove(0);
    let member = spec.start(etcd, &certificates)?;
    member.serves(&certificates).await?;
    let configuration = node.kubernetes().join("etcd");
    fs::create_dir_all(&configuration)?;
    fs::write(
        configuration.join("etcd.conf.yaml"),
        format!("listen-client-urls: {}\n", member.spec.client_url()),
    )?;
    Ok(Stand {
        scene,
        node,
        member,
        certificates,
        _home: home,
    })
}

/// What `platformctl` printed, and its exit code.
async fn platformctl(scene: &Scene, arguments: &[&str]) -> anyhow::Result<(i32, String)> {
    let mut command = scene.operator.platformctl();
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8(output.stdout)? + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().context("a code")?, text))
}

async fn listed(scene: &Scene) -> anyhow::Result<Vec<Value>> {
    let (code, said) =
        platformctl(scene, &["etcd", "list", "-e", "local", "--output", "json"]).await?;
    ensure!(code == 0, "{said}");
    Ok(serde_json::from_str(&said)?)
}

impl Stand {
    fn put(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let etcdctl = tools::find("etcdctl").context("etcdctl")?;
        let own = |name: &str| self.certificates.file("kube-apiserver", name);
        let done = Command::new(etcdctl)
            .arg(format!("--endpoints={}", self.member.spec.client_url()))
            .arg(format!("--cacert={}", own("etcd-ca.crt").display()))
            .arg(format!("--cert={}", own("etcd-client.crt").display()))
            .arg(format!("--key={}", own("etcd-client.key").display()))
            .args(["put", key, value])
            .output()?;
        ensure!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }

    async fn manifest(&self, name: &BackupName) -> anyhow::Result<BackupManifest> {
        let context = &self.scene.operator.context;
        let key = &self.scene.keyring().group(&group("secure"))?.group_key;
        let environment = &context.workspace.name;
        Ok(read_manifest(
            context.store.as_ref(),
            environment,
            &group("secure"),
            1,
            name,
            key,
        )
        .await?)
    }

    /// The plain snapshot of a backup, as somebody with the keyring opens it without the platform: all parts are one age file.
    fn opened(&self, manifest: &BackupManifest) -> anyhow::Result<Vec<u8>> {
        let part = |n| {
            fs::read(
                self.scene
                    .bucket
                    .object(&keys::snapshot_part(1, &manifest.name, n)),
            )
        };
        let parts: Vec<Vec<u8>> = (0..manifest.parts.len())
            .map(part)
            .collect::<Result<_, _>>()?;
        let keys = self.scene.keyring().group(&group("secure"))?;
        let identity = keys.backup_identity.as_ref().context("an identity")?;
        let mut plain = Vec::new();
        open_file(
            &parts.concat()[..],
            identity,
            &mut plain,
            manifest.plain_bytes,
        )?;
        Ok(plain)
    }

    fn seed(&self, name: &BackupName, with_manifest: bool) -> anyhow::Result<[String; 2]> {
        let keys = [
            keys::backup_manifest(1, name),
            keys::snapshot_part(1, name, 0),
        ];
        for key in keys.iter().skip(usize::from(!with_manifest)) {
            let file = self.scene.bucket.object(key);
            fs::create_dir_all(file.parent().context("a directory")?)?;
            fs::write(file, "anything")?;
        }
        Ok(keys)
    }
}

#[tokio::test]
async fn a_backup_is_taken_told_listed_and_opens() -> anyhow::Result<()> {
    let (Some(etcd), Some(etcdutl)) = (tools::find("etcd"), tools::find("etcdutl")) else {
        return Ok(());
    };
    let mut stand = stand(&etcd).await?;
    stand.put("/registry/secrets/a", "before")?;

    // What is old goes once there is a good one; what is young or without a manifest stays for its time.
    let old = |hours: i64| BackupName::new(Timestamp::now() - SignedDuration::from_hours(hours), 3);
    let ancient = stand.seed(&old(24 * 40), true)?;
    let orphan = stand.seed(&old(48), false)?;
    let young_orphan = stand.seed(&old(2), false)?;

    let (code, said) = platformctl(&stand.scene, &["etcd", "status", "-e", "local"]).await?;
    ensure!(code == 3 && said.contains("no backup"), "{code} {said}");
    stand.node.start()?;
    let status = stand
        .scene
        .until_status(&stand.node, "there is a backup", |s| {
            s.backup.as_ref().is_some_and(|b| b.last.is_some())
        })
        .await
        .with_context(|| stand.node.log().unwrap_or_default())?;
    let report = status.backup.context("a report")?;
    ensure!(report.failed.is_none(), "{report:?}");
    let last = report.last.context("a backup")?;
    eventually("the superfluous one is gone", PATIENCE, async || {
        let keys = stand.scene.bucket.keys();
        ensure!(!ancient.iter().any(|k| keys.contains(k)), "{keys:?}");
        ensure!(!keys.contains(&orphan[1]), "{keys:?}");
        ensure!(keys.contains(&young_orphan[1]), "{keys:?}");
        Ok(())
    })
    .await?;

    let at = stand
        .node
        .metric("platform_agent_etcd_backup_timestamp_seconds")
        .await?;
    ensure!((at - last.name.at().as_second() as f64).abs() < 1.0, "{at}");
    ensure!(
        stand
            .node
            .metric("platform_agent_etcd_backup_bytes")
            .await?
            > 0.0,
        "bytes"
    );
    ensure!(
        stand
            .node
            .metric("platform_agent_etcd_backup_failed")
            .await?
            == 0.0,
        "failed"
    );
    ensure!(
        stand
            .node
            .metric("platform_agent_etcd_backup_wanted")
            .await?
            == 1.0,
        "wanted"
    );

    let all = listed(&stand.scene).await?;
    ensure!(all.len() == 1, "{all:?}");
    ensure!(
        all[0]["name"] == last.name.to_string() && all[0]["problem"].is_null(),
        "{all:?}"
    );
    ensure!(all[0]["node"] == "i-1", "{all:?}");
    ensure!(
        all[0]["encryption_keys"]
            .as_array()
            .is_some_and(|k| k.len() == 1),
        "{all:?}"
    );
    let (code, said) = platformctl(&stand.scene, &["etcd", "status", "-e", "local"]).await?;
    ensure!(
        code == 0 && said.contains(&last.name.to_string()),
        "{code} {said}"
    );
    let (_, said) = platformctl(&stand.scene, &["status", "-e", "local", "secure"]).await?;
    ensure!(
        said.contains("etcd's backups: the newest good one"),
        "{said}"
    );

    // What etcd's own tool says of it, and what it holds.
    let manifest = stand.manifest(&last.name).await?;
    let plain = stand.opened(&manifest)?;
    ensure!(plain.len() as u64 == manifest.plain_bytes, "its length");
    ensure!(
        Sha256Digest::of(&plain) == manifest.plain_sha256,
        "its digest"
    );
    let home = TempDir::new()?;
    let file = home.path().join("snapshot.db");
    fs::write(&file, &plain)?;
    let restored = Command::new(&etcdutl)
        .args(["snapshot", "restore"])
        .arg(&file)
        .arg("--data-dir")
        .arg(home.path().join("restored"))
        .output()?;
    let said = String::from_utf8_lossy(&restored.stderr);
    ensure!(restored.status.success(), "{said}");

    // A person asks for more, beside the agent that runs.
    stand.put("/registry/secrets/a", "after")?;
    let asked = stand.node.run_verb("etcd", &["backup"]).await;
    let asked = asked?;
    ensure!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    ensure!(listed(&stand.scene).await?.len() == 2, "another one");
    let members = stand.node.run_verb("etcd", &["members", "--json"]).await?;
    let said = String::from_utf8_lossy(&members.stdout).into_owned();
    ensure!(
        members.status.success() && said.contains("\"leader\": true"),
        "{said}"
    );
    let defrag = stand.node.run_verb("etcd", &["defrag"]).await?;
    let said = String::from_utf8_lossy(&defrag.stdout).into_owned();
    ensure!(defrag.status.success() && said.contains("m0: "), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_was_altered_is_told_from_what_is_good() -> anyhow::Result<()> {
    let Some(etcd) = tools::find("etcd") else {
        return Ok(());
    };
    let mut stand = stand(&etcd).await?;
    let mut names = Vec::new();
    for value in ["1", "2", "3"] {
        stand.put("/registry/x", value)?;
        let taken = stand.node.run_verb("etcd", &["backup"]).await?;
        let said = String::from_utf8_lossy(&taken.stdout).into_owned();
        let name = said.split_whitespace().nth(1).context("a name")?;
        names.push(name.parse::<BackupName>()?);
    }
    ensure!(names.is_sorted(), "{names:?}");
    ensure!(
        listed(&stand.scene)
            .await?
            .iter()
            .all(|b| b["problem"].is_null()),
        "all good"
    );

    // The newest says another digest; the one before lost a part.
    let forged = stand
        .scene
        .bucket
        .object(&keys::backup_manifest(1, &names[2]));
    let text = fs::read_to_string(&forged)?;
    let digest = stand.manifest(&names[2]).await?.plain_sha256.to_string();
    fs::write(&forged, text.replace(&digest, &"0".repeat(64)))?;
    fs::remove_file(
        stand
            .scene
            .bucket
            .object(&keys::snapshot_part(1, &names[1], 0)),
    )?;
    // And one is another backup's manifest under a name of its own.
    let copied: BackupName = BackupName::new(Timestamp::now() + SignedDuration::from_mins(1), 99);
    let from = stand
        .scene
        .bucket
        .object(&keys::backup_manifest(1, &names[0]));
    fs::copy(
        from,
        stand
            .scene
            .bucket
            .object(&keys::backup_manifest(1, &copied)),
    )?;

    let all = listed(&stand.scene).await?;
    let problem = |name: &BackupName| {
        let found = all.iter().find(|b| b["name"] == name.to_string());
        found.map(|b| b["problem"].as_str().unwrap_or_default().to_owned())
    };
    ensure!(problem(&names[0]).as_deref() == Some(""), "{all:?}");
    ensure!(
        problem(&names[1]).is_some_and(|p| p.contains("gone")),
        "{all:?}"
    );
    ensure!(
        problem(&names[2]).is_some_and(|p| p.contains("not to be believed")),
        "{all:?}"
    );
    ensure!(
        problem(&copied).is_some_and(|p| p.contains("not to be believed")),
        "{all:?}"
    );
    let (code, said) = platformctl(&stand.scene, &["etcd", "status", "-e", "local"]).await?;
    ensure!(
        code == 0 && said.contains(&names[0].to_string()),
        "{code} {said}"
    );

    // The agent does not believe them either: for it the newest is one whose manifest it can believe.
    stand.node.start()?;
    let status = stand
        .scene
        .until_status(&stand.node, "there is a backup", |s| {
            s.backup.as_ref().is_some_and(|b| b.last.is_some())
        })
        .await?;
    let last = status.backup.and_then(|b| b.last).context("a backup")?;
    ensure!(last.name == names[1], "{last:?}");
    Ok(())
}
