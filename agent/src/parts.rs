//! The engine's parts, made from the configuration.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use aws_credential_types::Credentials;
use shared::store::{ObjectStore, S3Store, SdkConfig, aws_config_loader};
use shared::trust::{TrustStore, TrustStoreError};
use shared::wrap::{KeyWrap, KmsWrap, LocalWrap};

use crate::clock::SystemClock;
use crate::config::{Config, KeyWrapConfig, StoreCredentials};
use crate::disk::{Disk, NodePaths};
use crate::drift::DriftWatch;
use crate::engine::Parts;
use crate::metrics::Metrics;
use crate::status::NodeIdentity;
use crate::systemd::ServiceManager;

/// The node's paths.
#[must_use]
pub fn paths(config: &Config) -> NodePaths {
    NodePaths::new(&config.root_directory, &config.state_directory)
}

/// Takes the disk's lock and makes everything else that an agent works with. Nothing is asked of the network.
///
/// # Errors
/// What cannot be opened or read, naming the file; a [`crate::disk::DiskError`] of the disk is in the chain.
pub async fn open(config: &Config, metrics: Metrics) -> anyhow::Result<Parts> {
    let disk = Disk::open(
        paths(config),
        config.environment.clone(),
        config.group.clone(),
    )?;
    let trust = trust(config, &disk.paths().trust())?;
    let sdk = sdk(config).await?;
    let store = Arc::new(S3Store::new(&sdk, &config.bucket));
    let key_wrap = key_wrap(config, &sdk)?;
    let watched = vec![
        disk.paths().manifests(),
        disk.paths().secrets(),
        disk.paths().host(),
        disk.paths().addons(),
    ];
    Ok(Parts {
        identity: NodeIdentity {
            environment: config.environment.clone(),
            group: config.group.clone(),
            node: config.node.clone(),
        },
        poll_interval: config.poll_interval,
        store,
        key_wrap,
        clock: Arc::new(SystemClock),
        disk,
        trust,
        drift: DriftWatch::new(watched),
        metrics,
        service_manager: ServiceManager::from_environment(),
    })
}

/// The metadata trusted so far. The root that came with the machine is looked at only where there is none yet: its file
/// may be gone since, and the newer root is the one to trust.
fn trust(config: &Config, directory: &Path) -> anyhow::Result<TrustStore> {
    match TrustStore::open_existing(directory) {
        Err(TrustStoreError::NoRoot(_)) => {}
        opened => return Ok(opened?),
    }
    let baked = std::fs::read(&config.trusted_root).with_context(|| {
        format!(
            "cannot read the trusted root {}",
            config.trusted_root.display()
        )
    })?;
    Ok(TrustStore::open(directory, &baked)?)
}

/// The bucket alone.
///
/// # Errors
/// Credentials that cannot be read.
pub async fn store(config: &Config) -> anyhow::Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(S3Store::new(&sdk(config).await?, &config.bucket)))
}

async fn sdk(config: &Config) -> anyhow::Result<SdkConfig> {
    let mut loader = aws_config_loader(&config.region, config.endpoint_url.as_deref());
    if let Some(path) = &config.credentials_file {
        let pair = StoreCredentials::load(path)?;
        let secret = pair.secret_key.expose();
        loader = loader.credentials_provider(Credentials::new(
            pair.access_key,
            secret,
            None,
            None,
            "credentials_file",
        ));
    }
    Ok(loader.load().await)
}

fn key_wrap(config: &Config, sdk: &SdkConfig) -> anyhow::Result<Arc<dyn KeyWrap>> {
    Ok(match &config.key_wrap {
        KeyWrapConfig::AwsKms { key_id } => {
            Arc::new(KmsWrap::new(aws_sdk_kms::Client::new(sdk), key_id.clone()))
        }
        KeyWrapConfig::LocalFile { path } => Arc::new(LocalWrap::from_file(path)?),
    })
}
