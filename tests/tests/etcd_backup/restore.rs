//! A cluster of three that is made from a backup of another one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use agent::clock::SystemClock;
use agent::etcd::{BackupContext, EtcdClient, Restore, RestoreAs, RestoreError};
use agent::status::NodeIdentity;
use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use platform_tests::etcd::{Certificates, MemberSpec, RunningMember};
use platform_tests::tools;
use platform_tests::workspace::{Bucket, Operator};
use shared::backup::{BUMP_REVISION, BackupSettings, RestoreOrder, recipient_of};
use shared::bundle::new_identity;
use shared::documents::GroupKey;
use shared::secret::SecretText;
use shared::store::keys;
use tempfile::TempDir;

struct Stand {
    bucket: Bucket,
    operator: Operator,
    identity: SecretText,
    certificates: Certificates,
    home: TempDir,
}

async fn stand() -> anyhow::Result<Stand> {
    let bucket = Bucket::start().await?;
    let operator = Operator::new(&bucket.endpoint()).await?;
    let home = TempDir::new()?;
    Ok(Stand {
        identity: new_identity(),
        certificates: Certificates::fresh(home.path())?,
        bucket,
        operator,
        home,
    })
}

impl Stand {
    fn context(&self, client: EtcdClient) -> anyhow::Result<BackupContext> {
        let recipients = vec![recipient_of(&self.identity)?];
        Ok(BackupContext {
            store: self.operator.context.store.clone(),
            identity: NodeIdentity {
                environment: "local".parse()?,
                group: "secure".parse()?,
                node: "i-1".parse()?,
            },
            group_key: GroupKey::generate(),
            settings: BackupSettings::usual(1, recipients, Vec::new()),
            release: None,
            restores: None,
            client,
            clock: Arc::new(SystemClock),
        })
    }

    fn restore(&self, order: &RestoreOrder, of: &MemberSpec, all: &[MemberSpec]) -> Restore {
        let members = all.iter().map(|m| (m.name.clone(), m.peer_url()));
        Restore {
            store: self.operator.context.store.clone(),
            order: order.clone(),
            identity: self.identity.clone(),
            member: RestoreAs {
                name: of.name.clone(),
                peer_url: of.peer_url(),
                members: members.collect(),
                token: of.token.clone(),
            },
            data: of.data.clone(),
            etcdutl: tools::find("etcdutl"),
        }
    }

    fn ctl(&self, member: &RunningMember, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let etcdctl = tools::find("etcdctl").context("etcdctl")?;
        let own = |name: &str| self.certificates.file("kube-apiserver", name);
        let done = Command::new(etcdctl)
            .arg(format!("--endpoints={}", member.spec.client_url()))
            .arg(format!("--cacert={}", own("etcd-ca.crt").display()))
            .arg(format!("--cert={}", own("etcd-client.crt").display()))
            .arg(format!("--key={}", own("etcd-client.key").display()))
            .arg("--command-timeout=5s")
            .args(arguments)
            .output()?;
        let said = String::from_utf8(done.stdout)? + &String::from_utf8_lossy(&done.stderr);
        Ok((done.status.success(), said))
    }

    fn put(&self, member: &RunningMember, key: &str, value: &str) -> anyhow::Result<()> {
        let (done, said) = self.ctl(member, &["put", key, value])?;
        ensure!(done, "{said}");
        Ok(())
    }

    fn part(&self, order: &RestoreOrder) -> std::path::PathBuf {
        let backup = &order.backup;
        let key = keys::snapshot_part(backup.generation, &backup.name, 0);
        self.bucket.object(&key)
    }
}

async fn source(stand: &Stand, etcd: &Path) -> anyhow::Result<RunningMember> {
    let old = MemberSpec::new_cluster(stand.home.path(), 1, "local-1")?.remove(0);
    let old = MemberSpec {
        data: stand.home.path().join("old"),
        ..old
    };
    let old = old.start(etcd, &stand.certificates)?;
    old.serves(&stand.certificates).await?;
    Ok(old)
}

fn ordered(backup: shared::backup::BackupManifest) -> RestoreOrder {
    RestoreOrder {
        generation: 2,
        backup,
        by: "a test".to_owned(),
        at: Timestamp::now(),
    }
}

#[tokio::test]
async fn three_members_come_from_one_backup_and_the_past_stays_past() -> anyhow::Result<()> {
    let (Some(etcd), Some(_)) = (tools::find("etcd"), tools::find("etcdutl")) else {
        return Ok(());
    };
    let stand = stand().await?;
    let old = source(&stand, &etcd).await?;
    stand.put(&old, "/registry/configmaps/a", "before")?;
    stand.put(
        &old,
        "/registry/masterleases/10.0.0.1",
        "a lease of an API server that is gone",
    )?;
    let client = old.client(&stand.certificates)?;
    let manifest = stand.context(client.clone())?.take().await?;
    stand.put(&old, "/registry/configmaps/a", "after")?;
    let last = client.status().await?.revision;
    ensure!(last > manifest.name.revision(), "it went on");
    old.kill()?;

    let order = ordered(manifest);
    let specs = MemberSpec::new_cluster(stand.home.path(), 3, "local-2")?;
    // The first is interrupted after the snapshot was opened, and the bucket loses the part meanwhile.
    let first = stand.restore(&order, &specs[0], &specs);
    let broken = Restore {
        etcdutl: Some("/bin/false".into()),
        ..first.clone()
    };
    let failed = broken.run().await.expect_err("no tool");
    ensure!(matches!(failed, RestoreError::Tool { .. }), "{failed:?}");
    ensure!(!specs[0].data.exists(), "nothing is in place");
    let part = fs::read(stand.part(&order))?;
    fs::remove_file(stand.part(&order))?;
    let told = first.run().await?;
    ensure!(told.contains("is lost"), "{told}");
    fs::write(stand.part(&order), part)?;
    for spec in &specs[1..] {
        stand.restore(&order, spec, &specs).run().await?;
    }
    let left = fs::read_dir(stand.home.path())?;
    let left = left.filter(|e| {
        e.as_ref()
            .is_ok_and(|e| e.file_name().to_string_lossy().starts_with(".restore"))
    });
    ensure!(left.count() == 0, "nothing is left of the restores");
    // Asked again, it leaves the data alone.
    let marked = specs[0].data.join("mark");
    fs::write(&marked, "")?;
    first.run().await?;
    ensure!(marked.exists(), "it was left alone");
    fs::remove_file(marked)?;

    let members: Vec<RunningMember> = specs
        .into_iter()
        .map(|spec| spec.start(&etcd, &stand.certificates))
        .collect::<Result<_, _>>()?;
    for member in &members {
        member.serves(&stand.certificates).await?;
    }
    let client = members[0].client(&stand.certificates)?;
    let listed = client.member_list().await?;
    ensure!(
        listed.len() == 3 && listed.iter().all(|m| !m.is_learner),
        "{listed:?}"
    );
    let revision = client.status().await?.revision;
    ensure!(revision > BUMP_REVISION && revision > last, "{revision}");
    let (_, said) = stand.ctl(&members[1], &["get", "/registry/configmaps/a"])?;
    ensure!(said.contains("before") && !said.contains("after"), "{said}");
    // Whoever watches from what it has seen is told that this past is gone.
    let from = format!("--rev={last}");
    let (_, said) = stand.ctl(&members[2], &["watch", &from, "/registry/configmaps/a"])?;
    ensure!(said.contains("compacted"), "{said}");
    let (read, said) = stand.ctl(&members[2], &["get", &from, "/registry/configmaps/a"])?;
    ensure!(!read && said.contains("compacted"), "{said}");

    // Every member holds the same, and says so of itself.
    let mut digests = Vec::new();
    for member in &members {
        digests.push(member.client(&stand.certificates)?.digest(revision).await?);
    }
    ensure!(digests.windows(2).all(|d| d[0] == d[1]), "{digests:?}");

    let leases = "/registry/masterleases/";
    let until = order.backup.name.revision() + BUMP_REVISION;
    stand.put(&members[0], &format!("{leases}10.0.0.2"), "one that lives")?;
    ensure!(client.delete_older(leases, until).await? == 1, "one lease");
    ensure!(client.delete_older(leases, until).await? == 0, "once");
    let (_, said) = stand.ctl(&members[1], &["get", "--prefix", leases])?;
    ensure!(
        said.contains("10.0.0.2") && !said.contains("10.0.0.1"),
        "{said}"
    );
    let (_, said) = stand.ctl(&members[1], &["get", "/registry/configmaps/a"])?;
    ensure!(said.contains("before"), "nothing else went");
    Ok(())
}

/// etcd does not notice it: at the same revision, one cluster, its members tell different stories.
#[tokio::test]
async fn members_that_were_made_of_different_data_have_different_digests() -> anyhow::Result<()> {
    let (Some(etcd), Some(_)) = (tools::find("etcd"), tools::find("etcdutl")) else {
        return Ok(());
    };
    let stand = stand().await?;
    let specs = MemberSpec::new_cluster(stand.home.path(), 2, "local-2")?;
    for (spec, value) in specs.iter().zip(["one", "two"]) {
        let old = source(&stand, &etcd).await?;
        stand.put(&old, "/registry/configmaps/a", value)?;
        let client = old.client(&stand.certificates)?;
        let order = ordered(stand.context(client)?.take().await?);
        old.kill()?;
        fs::remove_dir_all(stand.home.path().join("old"))?;
        stand.restore(&order, spec, &specs).run().await?;
    }
    let members: Vec<RunningMember> = specs
        .into_iter()
        .map(|spec| spec.start(&etcd, &stand.certificates))
        .collect::<Result<_, _>>()?;
    let mut digests = Vec::new();
    for member in &members {
        let client = member.serves(&stand.certificates).await?;
        let revision = client.status().await?.revision;
        digests.push((revision, client.digest(revision).await?));
    }
    let [(at, one), (also_at, two)] = digests[..] else {
        anyhow::bail!("two digests");
    };
    ensure!(at == also_at && one.compact_revision == two.compact_revision);
    ensure!(one.hash != two.hash, "{one:?} {two:?}");
    Ok(())
}

#[tokio::test]
async fn an_altered_backup_makes_no_data() -> anyhow::Result<()> {
    let (Some(etcd), Some(_)) = (tools::find("etcd"), tools::find("etcdutl")) else {
        return Ok(());
    };
    let stand = stand().await?;
    let old = source(&stand, &etcd).await?;
    stand.put(&old, "/registry/configmaps/a", "before")?;
    let client = old.client(&stand.certificates)?;
    let order = ordered(stand.context(client)?.take().await?);
    let specs = MemberSpec::new_cluster(stand.home.path(), 1, "local-2")?;
    let restore = stand.restore(&order, &specs[0], &specs);

    // A byte of the part.
    let good = fs::read(stand.part(&order))?;
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(stand.part(&order), &bad)?;
    let refused = restore.run().await.expect_err("altered");
    ensure!(
        matches!(refused, RestoreError::Altered { .. }),
        "{refused:?}"
    );

    // Somebody who knows the recipient makes a backup of their own, well-formed and openable.
    let forged = {
        let mut sealer = shared::backup::Sealer::new(&[recipient_of(&stand.identity)?])?;
        sealer.write(&vec![0_u8; 100_000])?;
        sealer.finish()?.concat()
    };
    fs::write(stand.part(&order), &forged)?;
    let refused = restore.run().await.expect_err("forged");
    ensure!(
        matches!(refused, RestoreError::Altered { .. }),
        "{refused:?}"
    );

    // The right bytes, and a snapshot that the signed order does not mean.
    fs::write(stand.part(&order), &good)?;
    let mut other = order.clone();
    other.backup.plain_sha256 = shared::digest::Sha256Digest::of(b"another");
    let refused = stand.restore(&other, &specs[0], &specs).run().await;
    let refused = refused.expect_err("another snapshot");
    ensure!(
        matches!(refused, RestoreError::Altered { .. }),
        "{refused:?}"
    );

    // Without the identity.
    let stranger = Restore {
        identity: new_identity(),
        ..restore.clone()
    };
    let refused = stranger.run().await.expect_err("a stranger");
    ensure!(matches!(refused, RestoreError::Open { .. }), "{refused:?}");

    fs::remove_file(stand.part(&order))?;
    let mut gone = order.clone();
    gone.backup.name = "20200101T000000Z-1".parse()?;
    let refused = stand.restore(&gone, &specs[0], &specs).run().await;
    let refused = refused.expect_err("gone");
    ensure!(matches!(refused, RestoreError::Store { .. }), "{refused:?}");
    ensure!(!specs[0].data.exists(), "nothing is in place");
    Ok(())
}
