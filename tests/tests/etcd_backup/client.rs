//! The client of the JSON gateway against real members.

use agent::etcd::{EtcdClient, EtcdErrorKind, EtcdIdentity};
use anyhow::{Context as _, ensure};
use platform_tests::etcd::{Certificates, MemberSpec, PATIENCE, free_ports};
use platform_tests::node::eventually;
use platform_tests::tools;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

#[tokio::test]
async fn members_are_added_promoted_and_removed() -> anyhow::Result<()> {
    let Some(etcd) = tools::find("etcd") else {
        return Ok(());
    };
    let home = TempDir::new()?;
    let certificates = Certificates::fresh(home.path())?;
    let spec = MemberSpec::new_cluster(home.path(), 1, "t-1")?.remove(0);
    let token = spec.token.clone();
    let first = spec.start(&etcd, &certificates)?;
    let client = first.serves(&certificates).await?;

    let members = client.member_list().await?;
    ensure!(members.len() == 1 && members[0].name == "m0", "{members:?}");
    let status = client.status().await?;
    ensure!(status.leader == Some(status.member_id), "{status:?}");
    ensure!(status.version.starts_with("3."), "{status:?}");
    ensure!(status.db_size > 0 && status.revision > 0, "{status:?}");
    ensure!(!status.is_learner && status.errors.is_empty(), "{status:?}");

    // Changes that cannot be.
    let unknown = client.member_remove(12).await.expect_err("no such member");
    ensure!(unknown.kind == EtcdErrorKind::MemberNotFound, "{unknown}");
    let voter = client.member_promote(status.member_id).await;
    let voter = voter.expect_err("no learner");
    ensure!(voter.kind == EtcdErrorKind::NotLearner, "{voter}");

    // A learner, which is not there yet.
    let ports = free_ports(2)?;
    let peer_url = format!("https://127.0.0.1:{}", ports[1]);
    let (learner, after) = client.member_add_learner(&peer_url).await?;
    ensure!(learner.is_learner && learner.name.is_empty(), "{learner:?}");
    ensure!(after.len() == 2, "{after:?}");
    let again = client.member_add_learner(&peer_url).await;
    let again = again.expect_err("it is there");
    ensure!(again.kind == EtcdErrorKind::AlreadyMember, "{again}");
    let other = client.member_add_learner("https://127.0.0.1:9").await;
    let other = other.expect_err("one at a time");
    ensure!(other.kind == EtcdErrorKind::TooManyLearners, "{other}");
    let early = client.member_promote(learner.id).await;
    let early = early.expect_err("it has not started");
    ensure!(early.kind == EtcdErrorKind::NotInSync, "{early}");

    // It starts, catches up and has its vote.
    let second = MemberSpec {
        name: "m1".to_owned(),
        data: home.path().join("m1"),
        client: ports[0],
        peer: ports[1],
        cluster: vec![
            format!("m0={}", first.spec.peer_url()),
            format!("m1={peer_url}"),
        ],
        state: "existing",
        token,
        flags: Vec::new(),
    };
    let second = second.start(&etcd, &certificates)?;
    let of_second = second.client(&certificates)?;
    eventually("the learner says that it is one", PATIENCE, async || {
        let status = of_second.status().await?;
        ensure!(status.is_learner, "{status:?}");
        Ok(())
    })
    .await?;
    eventually("the learner is promoted", PATIENCE, async || {
        client.member_promote(learner.id).await?;
        Ok(())
    })
    .await?;
    second.serves(&certificates).await?;
    let members = of_second.member_list().await?;
    ensure!(members.iter().all(|m| !m.is_learner), "{members:?}");

    // Without quorum: what needs none is answered, what needs it says that there is no leader.
    let leader = client.status().await?.leader.context("a leader")?;
    let (stays, goes) = match leader == learner.id {
        true => (of_second.clone(), first),
        false => (client.clone(), second),
    };
    let gone = goes.client(&certificates)?;
    let spec = goes.kill()?;
    eventually("the leader steps down", PATIENCE, async || {
        let status = stays.status().await?;
        ensure!(status.leader.is_none(), "{status:?}");
        Ok(())
    })
    .await?;
    ensure!(!stays.health().await?.healthy, "it can't serve");
    let asked = stays.member_list().await.expect_err("no quorum");
    ensure!(asked.kind == EtcdErrorKind::NoLeader, "{asked:?}");
    let asked = gone.status().await.expect_err("nobody there");
    ensure!(asked.kind == EtcdErrorKind::Unreachable, "{asked:?}");

    // With its data it just starts; then one can leave again.
    let back = spec.start(&etcd, &certificates)?;
    back.serves(&certificates).await?;
    let left = eventually("one is removed", PATIENCE, async || {
        let other = stays.status().await?.member_id;
        let members = stays.member_list().await?;
        let out = members.iter().find(|m| m.id != other).context("another")?;
        Ok(stays.member_remove(out.id).await?)
    })
    .await?;
    ensure!(left.len() == 1, "{left:?}");
    stays.defragment().await?;
    Ok(())
}

#[tokio::test]
async fn a_snapshot_is_whole_and_strangers_get_none() -> anyhow::Result<()> {
    let Some(etcd) = tools::find("etcd") else {
        return Ok(());
    };
    let home = TempDir::new()?;
    let certificates = Certificates::fresh(home.path())?;
    let member = MemberSpec::new_cluster(home.path(), 1, "t-1")?.remove(0);
    let member = member.start(&etcd, &certificates)?;
    let client = member.serves(&certificates).await?;
    // Through a name as well, held against the certificate.
    let url = format!("https://localhost:{}", member.spec.client);
    let named = EtcdClient::new(&certificates.identity()?, &url)?;
    ensure!(named.health().await?.healthy, "by its name");
    let url = format!(
        "https://a.eu-west-1.compute.internal:{}",
        member.spec.client
    );
    let loopback = std::net::Ipv4Addr::LOCALHOST.into();
    let machine = EtcdClient::new(&certificates.identity()?, &url)?.at(loopback);
    ensure!(machine.health().await?.healthy, "by a machine's name");
    let url = format!("https://a.example.com:{}", member.spec.client);
    let wrong = EtcdClient::new(&certificates.identity()?, &url)?.at(loopback);
    let wrong = wrong.health().await.expect_err("not its name");
    ensure!(wrong.kind == EtcdErrorKind::Untrusted, "{wrong:?}");

    let mut stream = client.snapshot().await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await? {
        bytes.extend_from_slice(&piece);
    }
    let (database, digest) = bytes.split_at(bytes.len() - 32);
    ensure!(Sha256::digest(database).as_slice() == digest, "its digest");
    ensure!(stream.next().await?.is_none(), "the end stays the end");

    // A client of another authority, and one that trusts another.
    let elsewhere = TempDir::new()?;
    let foreign = Certificates::fresh(elsewhere.path())?;
    let refused = member.client(&foreign)?.status().await;
    let refused = refused.expect_err("it trusts another authority");
    ensure!(refused.kind == EtcdErrorKind::Untrusted, "{refused:?}");
    let read = |of: &Certificates, name: &str| std::fs::read(of.file("kube-apiserver", name));
    let stranger = EtcdIdentity::from_pem(
        &read(&certificates, "etcd-ca.crt")?,
        &read(&foreign, "etcd-client.crt")?,
        &read(&foreign, "etcd-client.key")?,
    );
    let stranger = stranger.map_err(anyhow::Error::msg)?;
    let stranger = EtcdClient::new(&stranger, &member.spec.client_url())?;
    let refused = stranger.snapshot().await.expect_err("a stranger");
    ensure!(refused.kind == EtcdErrorKind::Untrusted, "{refused:?}");
    Ok(())
}
