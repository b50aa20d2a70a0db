//! Machines with addresses of their own, known by DNS names that no reverse look-up gives: each agent and its etcd in a network
//! namespace.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use platform_tests::etcd::Certificates;
use platform_tests::netns::{Network, Space};
use platform_tests::node::eventually;
use platform_tests::tools;
use serde_json::Value;
use shared::etcd::EtcdRole;

use super::stage::{PATIENCE, Stage};

/// How long two look-ups, refused connections and elections may go on before it is said that nothing came of them.
const FUTILE: Duration = Duration::from_secs(15);

async fn laid() -> anyhow::Result<Option<(Network, Stage)>> {
    let Some(stage) = Stage::set(3, "4s").await? else {
        return Ok(None);
    };
    let endpoint = stage.scene.bucket.endpoint();
    let store = endpoint
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()?;
    let network = Network::lay(store).await?;
    Ok(network.map(|network| (network, stage)))
}

/// etcdctl in a machine, asking its own member.
fn etcdctl(
    space: &Space,
    certificates: &Certificates,
    arguments: &[&str],
) -> anyhow::Result<String> {
    let program = tools::find("etcdctl").context("etcdctl")?;
    let file = |name: &str| {
        certificates
            .file("kube-apiserver", name)
            .display()
            .to_string()
    };
    let output = space
        .command(&program)
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=https://{}:2379", space.host))
        .arg(format!("--cacert={}", file("etcd-ca.crt")))
        .arg(format!("--cert={}", file("etcd-client.crt")))
        .arg(format!("--key={}", file("etcd-client.key")))
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "etcdctl {arguments:?}: {said}{wrong}"
    );
    Ok(said)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_with_addresses_of_their_own_form_and_heal_without_reverse_names()
-> anyhow::Result<()> {
    if tools::find("etcdctl").is_none() {
        return Ok(());
    }
    // The network is dropped last: its machines' processes end before.
    let Some((mut network, mut stage)) = laid().await? else {
        return Ok(());
    };
    let spaces: Vec<Space> = (0..4).map(|_| network.space()).collect::<Result<_, _>>()?;
    let began = Instant::now();
    for (n, space) in spaces.iter().take(3).enumerate() {
        stage.start_in(&format!("node-{n}"), &network, space, None)?;
    }
    stage.until_members().await?;
    eprintln!("3 machines from nothing to quorum in {:?}", began.elapsed());
    let home = tempfile::TempDir::new()?;
    let certificates = Certificates::of_node(&stage.machines[0].node.kubernetes(), home.path())?;
    let members = etcdctl(&spaces[0], &certificates, &["member", "list"])?;
    for space in &spaces[..3] {
        let url = format!("https://{}:2380", space.host);
        ensure!(members.contains(&url), "{url} is not in\n{members}");
    }
    etcdctl(&spaces[2], &certificates, &["put", "/a", "kept"])?;

    let spare = stage.start_in("node-3", &network, &spaces[3], None)?;
    stage.until_role(spare, EtcdRole::Spare).await?;
    spaces[1].cut()?;
    let began = Instant::now();
    stage.until_role(spare, EtcdRole::Member).await?;
    eprintln!(
        "a machine that nobody reaches, replaced in {:?}",
        began.elapsed()
    );
    let members = etcdctl(&spaces[0], &certificates, &["member", "list"])?;
    ensure!(
        members.lines().count() == 3
            && members.contains(&spaces[3].host)
            && !members.contains(&spaces[1].host),
        "{members}"
    );
    let kept = etcdctl(&spaces[3], &certificates, &["get", "/a"])?;
    ensure!(kept.contains("kept"), "{kept}");

    // It comes back, finds that it is no member any more, and stands by.
    spaces[1].mend()?;
    stage.until_role(1, EtcdRole::Spare).await?;
    let members = etcdctl(&spaces[0], &certificates, &["member", "list"])?;
    ensure!(members.lines().count() == 3, "{members}");
    // Nothing hung on a name of an address.
    let asked = network.reverse_lookups();
    ensure!(asked == 0, "{asked} reverse look-ups");
    Ok(())
}

/// What a cluster would come to its peers with that had one certificate for both ways.
fn names_in_the_outgoing_certificate(config: &mut Value) {
    let peer = &mut config["peer-transport-security"];
    peer["client-cert-file"] = peer["cert-file"].clone();
    peer["client-key-file"] = peer["key-file"].clone();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outgoing_certificate_with_names_is_refused_where_addresses_have_none()
-> anyhow::Result<()> {
    let Some((mut network, mut stage)) = laid().await? else {
        return Ok(());
    };
    let spaces: Vec<Space> = (0..3).map(|_| network.space()).collect::<Result<_, _>>()?;
    for (n, space) in spaces.iter().enumerate() {
        let amend = Some(names_in_the_outgoing_certificate as fn(&mut Value));
        stage.start_in(&format!("node-{n}"), &network, space, amend)?;
    }
    eventually("etcd refuses its peers", PATIENCE, async || {
        let log = stage.machines[0].kubelet.log();
        ensure!(log.contains("does not match any of DNSNames"), "{log}");
        Ok(())
    })
    .await?;
    tokio::time::sleep(FUTILE).await;
    for at in 0..3 {
        let etcd = stage.status(at)?.etcd.context("no word of etcd")?;
        ensure!(etcd.leader.is_none(), "{etcd:?}");
    }
    ensure!(network.reverse_lookups() > 0, "no reverse look-up");
    Ok(())
}
