//! The contract on another implementation of S3, and with real KMS calls: platformctl and platform-agent as processes
//! against moto. moto holds a ciphertext to its encryption context as KMS does; it evaluates no policy.

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, ensure};
use platform_tests::faulty_proxy::FaultyProxy;
use platform_tests::moto::{ACCESS_KEY, Moto, REGION, SECRET_KEY};
use platform_tests::node::{Node, NodeKeyWrap, NodeSettings, PATIENCE};
use platform_tests::scene::until;
use platform_tests::workspace::{group, platformctl, write_manifests};
use tempfile::TempDir;

const BUCKET: &str = "example-dev-secrets";

/// The environment on AWS, every key filled in; moto takes AWS's place.
fn environment(endpoint: &str, key: &str) -> String {
    format!(
        r#"aws_account              = "123456789012"
aws_region               = "{REGION}"
aws_endpoint_url         = "{endpoint}"
compute_asg_grace_period = "10"
compute_asg_max          = "5"
compute_asg_min          = "1"
compute_flavor           = "t3.medium"
coreos_image             = "ami-0123456789abcdef0"
dns_zone_name            = "example.com"
environment              = "dev"
etcd_flavor              = "t3.medium"
kms_master_id            = "{key}"
kubeapi_access_list      = "192.0.2.0/24"
platform                 = "kube"
secrets_bucket_name      = "{BUCKET}"
secure_asg_max           = "4"
secure_asg_min           = "3"
ssh_access_list          = "192.0.2.10"
terraform_bucket_name    = "example-dev-terraform"
"#
    )
}

/// platformctl with AWS's own variables, and nothing of this machine's configuration.
async fn run(directory: &Path, verb: &str) -> anyhow::Result<Output> {
    let mut command = platformctl(directory);
    command
        .args([verb, "-e", "dev"])
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", directory.join("no-config"))
        .env(
            "AWS_SHARED_CREDENTIALS_FILE",
            directory.join("no-credentials"),
        )
        .env_remove("AWS_PROFILE");
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
    moto.s3()
        .await
        .create_bucket()
        .bucket(BUCKET)
        .send()
        .await?;
    let made = moto.kms().await.create_key().send().await?;
    let key = made.key_metadata.context("a key")?.key_id;
    let operator = TempDir::new()?;
    write_manifests(operator.path())?;
    fs::create_dir(operator.path().join("environments"))?;
    let text = environment(&moto.endpoint(), &key);
    fs::write(operator.path().join("environments/dev.tfvars"), text)?;
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
    ensure!(status.status.code() == Some(0), "{status:?}");

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
    let other = moto.kms().await.create_key().send().await?;
    let pinned = NodeSettings {
        name: "AROAEXAMPLE:i-00000000000000000".to_owned(),
        key_wrap: NodeKeyWrap::AwsKms(other.key_metadata.context("a key")?.key_id),
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
