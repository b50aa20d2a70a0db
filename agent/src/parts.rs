//! The engine's parts, made from the configuration.

use std::sync::Arc;

use anyhow::Context as _;
use aws_credential_types::Credentials;
use shared::store::{ObjectStore, S3Store, aws_config_loader};
use shared::trust::TrustStore;
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
pub async fn open(config: &Config) -> anyhow::Result<Parts> {
    let disk = Disk::open(
        paths(config),
        config.environment.clone(),
        config.group.clone(),
    )?;
    let baked = std::fs::read(&config.trusted_root).with_context(|| {
        format!(
            "cannot read the trusted root {}",
            config.trusted_root.display()
        )
    })?;
    let trust = TrustStore::open(&disk.paths().trust(), &baked)?;
    let (store, key_wrap) = clients(config).await?;
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
        metrics: Metrics::new(config.poll_interval),
        service_manager: ServiceManager::from_environment(),
    })
}

async fn clients(config: &Config) -> anyhow::Result<(Arc<dyn ObjectStore>, Arc<dyn KeyWrap>)> {
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
    let sdk = loader.load().await;
    let key_wrap: Arc<dyn KeyWrap> = match &config.key_wrap {
        KeyWrapConfig::AwsKms { key_id } => {
            Arc::new(KmsWrap::new(aws_sdk_kms::Client::new(&sdk), key_id.clone()))
        }
        KeyWrapConfig::LocalFile { path } => Arc::new(LocalWrap::from_file(path)?),
    };
    Ok((Arc::new(S3Store::new(&sdk, &config.bucket)), key_wrap))
}
