//! What is stored is encrypted anew through an API server, and what is left is read from etcd.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent::clock::SystemClock;
use agent::rewrite::{RewriteError, Rewriter};
use anyhow::{Context as _, ensure};
use ctl::pki::{complete, deliver, issue_rewriter};
use jiff::Timestamp;
use platform_tests::etcd::{Certificates, MemberSpec};
use platform_tests::secrets_api::{EtcdWriter, SecretsApi, stored};
use platform_tests::tools;
use platform_tests::workspace::group;
use shared::rewrite::{NO_KEY, RewriteOrder, SECRETS_PREFIX};
use tempfile::TempDir;

/// More than two pages.
const SECRETS: usize = 300;

fn key_of(n: usize) -> String {
    format!("{SECRETS_PREFIX}ns-{}/secret-{n:04}", n % 7)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_encrypted_anew_whatever_comes_between() -> anyhow::Result<()> {
    let Some(etcd) = tools::find("etcd") else {
        return Ok(());
    };
    let home = TempDir::new()?;
    let names = ctl::pki::Names {
        environment: "dev".to_owned(),
        zone: "example.com".to_owned(),
        region: "eu-west-1".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        service_ip: "10.101.0.1".parse()?,
    };
    let mut pki = None;
    complete(&mut pki, &names, Timestamp::now())?;
    let pki = pki.context("a PKI")?;
    let delivery = deliver(&group("secure"), &pki, &names)?;
    for pod in ["etcd", "kube-apiserver"] {
        let directory = home.path().join("secrets").join(pod).join("digest");
        std::fs::create_dir_all(&directory)?;
        for (name, file) in delivery.pods.get(pod).context("a pod")? {
            std::fs::write(directory.join(name), file.bytes.expose())?;
        }
    }
    let certificates = Certificates::of_node(home.path(), &home.path().join("copies"))?;
    let member = MemberSpec::new_cluster(home.path(), 1, "t-1")?.remove(0);
    let member = member.start(&etcd, &certificates)?;
    let client = member.serves(&certificates).await?;
    let files = home.path().join("secrets/kube-apiserver/digest");
    let api = SecretsApi::start(0, &files, client.clone()).await?;
    let writer = EtcdWriter::new(client.endpoint(), &files);

    // Under the old key, but for one that was never encrypted and some as large as etcd takes: an answer holds few of those.
    let all: Vec<(String, Vec<u8>)> = (0..SECRETS)
        .map(|n| {
            let value = match n {
                7 => b"plain".to_vec(),
                20..26 => stored("key-old", &"x".repeat(1_000_000)),
                n => stored("key-old", &format!("payload-{n}")),
            };
            (key_of(n), value)
        })
        .collect();
    for entry in all.iter().filter(|(_, value)| value.len() > 10_000) {
        writer.put(std::slice::from_ref(entry)).await?;
    }
    let small: Vec<_> = all
        .iter()
        .filter(|(_, v)| v.len() <= 10_000)
        .cloned()
        .collect();
    for some in small.chunks(100) {
        writer.put(some).await?;
    }
    let beside = (
        "/registry/secretsx/a/b".to_owned(),
        b"not a Secret".to_vec(),
    );
    writer.put(&[beside]).await?;

    let certified = issue_rewriter(&pki, Timestamp::now())?;
    let order = RewriteOrder {
        number: 1,
        generation: 1,
        key: "key-new".to_owned(),
        server: api.url.clone(),
        authority: pki.authorities[&shared::documents::AuthorityName::Cluster].trust_bundle(),
        certificate: certified.certificate,
        private_key: certified.key,
    };
    let rewritten = Arc::new(AtomicU64::new(0));
    let rewriter = |order: &RewriteOrder| Rewriter {
        etcd: client.clone(),
        order: order.clone(),
        rewritten: Arc::clone(&rewritten),
        clock: Arc::new(SystemClock),
    };
    api.with(|api| {
        api.writes = "key-new".to_owned();
        api.reads = BTreeSet::from(["key-new".to_owned(), "key-old".to_owned()]);
        api.conflicts.insert("ns-3/secret-0003".to_owned(), 2);
        api.conflicts.insert("ns-4/secret-0004".to_owned(), 99);
        api.gone.insert("ns-5/secret-0005".to_owned());
        api.refused.insert("ns-6/secret-0006".to_owned());
        api.takes = Duration::from_millis(5);
    });

    // Killed in the middle.
    let first = rewriter(&order);
    let task = tokio::spawn(async move { first.run().await });
    while api.with(|api| api.updated.len()) < 60 {
        ensure!(!task.is_finished(), "it ended early: {:?}", task.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    task.abort();
    let _ = task.await;
    let before = api.with(|api| api.updated.len());
    ensure!(before < 250, "it was killed too late: {before}");

    // Begun again: what is refused or in conflict still is left, and said.
    let (scan, done) = rewriter(&order).run().await;
    let scan = scan.context("a scan")?;
    let error = done.expect_err("one is refused");
    ensure!(
        matches!(error, RewriteError::Api { left: 1, .. }),
        "{error:?}"
    );
    let said = format!("{:#}", anyhow::Error::new(error));
    ensure!(
        said.contains("ns-6/secret-0006") && said.contains("an admission plugin says no"),
        "{said}"
    );
    ensure!(!scan.is_clean() && scan.others["key-old"] == 3, "{scan:?}");
    ensure!(scan.under_key == SECRETS as u64 - 3, "{scan:?}");

    // The reasons pass, and the next run does what is left, and nothing else.
    writer
        .put(&[(key_of(5), stored("key-new", "written by somebody"))])
        .await?;
    api.with(|api| {
        api.refused.clear();
        api.conflicts.clear();
        api.gone.clear();
    });
    let done_before = api.with(|api| api.updated.len());
    let (scan, done) = rewriter(&order).run().await;
    done?;
    let scan = scan.context("a scan")?;
    ensure!(
        scan.is_clean() && scan.under_key == SECRETS as u64,
        "{scan:?}"
    );
    ensure!(scan.revision > 0, "{scan:?}");
    let updated = api.with(|api| api.updated.clone());
    ensure!(
        updated.len() == done_before + 2,
        "{:?}",
        &updated[done_before..]
    );
    let once: BTreeSet<&String> = updated.iter().collect();
    // The one that was being written when the run was killed may have been written twice.
    ensure!(updated.len() - once.len() <= 1, "something was done twice");
    ensure!(
        rewritten.load(Ordering::Relaxed) >= SECRETS as u64 - 3,
        "it counts"
    );

    // An API server that writes with another key than that of the order does not make it look done.
    api.with(|api| api.writes = "key-old".to_owned());
    let other = RewriteOrder {
        key: "key-newest".to_owned(),
        ..order.clone()
    };
    writer.put(&[(key_of(7), b"plain".to_vec())]).await?;
    api.with(|api| api.refused.insert("ns-0/secret-0007".to_owned()));
    let (scan, _) = rewriter(&other).run().await;
    let scan = scan.context("a scan")?;
    ensure!(scan.under_key == 0 && !scan.is_clean(), "{scan:?}");
    ensure!(scan.others[NO_KEY] == 1, "{scan:?}");

    // Whom it does not trust it tells nothing.
    let mut stranger = None;
    complete(&mut stranger, &names, Timestamp::now())?;
    let stranger = stranger.context("a PKI")?;
    let foreign = issue_rewriter(&stranger, Timestamp::now())?;
    let refused = RewriteOrder {
        certificate: foreign.certificate,
        private_key: foreign.key,
        ..order.clone()
    };
    writer
        .put(&[(key_of(9), stored("key-old", "again"))])
        .await?;
    let (scan, done) = rewriter(&refused).run().await;
    let error = done.expect_err("not let in");
    ensure!(error.label() == "api_unreachable", "{error:?}");
    ensure!(
        scan.is_some_and(|scan| !scan.is_clean()),
        "the scan is etcd's word"
    );
    Ok(())
}
