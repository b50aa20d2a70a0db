//! The contract on another implementation of S3, and with real KMS calls: platformctl and platform-agent as processes
//! against moto. moto holds a ciphertext to its encryption context as KMS does; it evaluates no policy.

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::ensure;
use platform_tests::faulty_proxy::FaultyProxy;
use platform_tests::moto::{ACCESS_KEY, BUCKET, Moto, REGION, SECRET_KEY, with_credentials};
use platform_tests::node::{Node, NodeKeyWrap, NodeSettings, PATIENCE};
use platform_tests::scene::until;
use platform_tests::workspace::{group, platformctl};
use tempfile::TempDir;

/// platformctl with AWS's own variables, and nothing of this machine's configuration.
async fn run(directory: &Path, verb: &str) -> anyhow::Result<Output> {
    let mut command = platformctl(directory);
    with_credentials(command.args([verb, "-e", "dev"]), directory);
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

async fn publish(directory: &Path) -> anyhow::Result<()> {
    let published = run(directory, "publish").await?;
    ensure!(published.status.success(), "{published:?}");
    Ok(())
}

fn amend(directory: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let path = directory.join("manifests/secure/etcd.yaml.j2");
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(from));
    Ok(fs::write(&path, text.replacen(from, to, 1))?)
}

/// The first root of the secure group, as user data would bring it.
async fn trusted_root(moto: &Moto) -> anyhow::Result<String> {
    let key = "groups/secure/metadata/1.root.json";
    let read = moto.s3().await.get_object().bucket(BUCKET).key(key).send();
    let bytes = read.await?.body.collect().await?.into_bytes();
    Ok(String::from_utf8(bytes.to_vec())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_wrapped_by_kms_is_adopted_with_one_call_to_it() -> anyhow::Result<()> {
    let Some(moto) = Moto::start().await? else {
        return Ok(());
    };
    moto.create_bucket().await?;
    let key = moto.create_key().await?;
    let operator = moto.lay_out(&key)?;
    publish(operator.path()).await?;

    // The proxy breaks nothing: it counts.
    let proxy = FaultyProxy::start(moto.endpoint().trim_start_matches("http://").parse()?).await?;
    let directory = TempDir::new()?;
    let credentials = directory.path().join("given");
    let pair = format!("access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n");
    fs::write(&credentials, pair)?;
    let settings = NodeSettings {
        environment: "dev".to_owned(),
        group: group("secure").to_string(),
        name: "AROAEXAMPLE:i-0123456789abcdef0".to_owned(),
        bucket: BUCKET.to_owned(),
        region: REGION.to_owned(),
        endpoint_url: proxy.endpoint(),
        credentials_file: credentials,
        trusted_root: trusted_root(&moto).await?,
        key_wrap: NodeKeyWrap::AwsKms(key.clone()),
        poll_interval_seconds: 1,
        more: String::new(),
    };
    let mut node = Node::lay_out(&directory.path().join("node"), settings.clone())?;
    node.start()?;
    node.until_release(1).await?;
    // A KMS call is a POST to the service's root; everything else is S3's.
    let kms_calls = || {
        proxy
            .log()
            .iter()
            .filter(|e| e.method == "POST" && e.path == "/")
            .count()
    };
    ensure!(
        kms_calls() == 1,
        "{} calls to KMS for a release",
        kms_calls()
    );

    let rests = || {
        proxy
            .log()
            .iter()
            .rev()
            .take(3)
            .all(|e| e.status == Some(304))
    };
    until("three polls in a row are answered 304", PATIENCE, rests).await?;
    ensure!(kms_calls() == 1, "none at rest");
    let status = run(operator.path(), "status").await?;
    let said = String::from_utf8_lossy(&status.stdout);
    ensure!(status.status.code() == Some(3), "{status:?}");
    ensure!(said.contains("1 of 3 nodes have reported"), "{said}");

    amend(operator.path(), "cpu: 100m", "cpu: 110m")?;
    publish(operator.path()).await?;
    node.until_release(2).await?;
    ensure!(
        kms_calls() == 2,
        "one call more for one release more: {}",
        kms_calls()
    );
    let etcd = fs::read_to_string(node.manifests().join("etcd.yaml"))?;
    ensure!(etcd.contains("110m"));
    ensure!(node.terminate().await?.code() == Some(0));

    // A node that is pinned to another key opens nothing, and asks nobody to.
    let other = moto.create_key().await?;
    let pinned = NodeSettings {
        name: "AROAEXAMPLE:i-00000000000000000".to_owned(),
        key_wrap: NodeKeyWrap::AwsKms(other),
        ..settings
    };
    let node = Node::lay_out(&directory.path().join("pinned"), pinned)?;
    let asked = kms_calls();
    let once = node.run_verb("once", &[]).await?;
    ensure!(once.status.code() == Some(1), "{once:?}");
    ensure!(kms_calls() == asked);
    ensure!(node.manifest_files()?.is_empty());
    Ok(())
}
