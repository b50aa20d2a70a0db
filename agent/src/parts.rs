//! The engine's parts, made from the configuration.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aws_credential_types::Credentials;
use shared::etcd::{Listen, MemberFacts};
use shared::store::{ObjectStore, S3Store, SdkConfig, node_sdk_config};
use shared::trust::{TrustStore, TrustStoreError};
use shared::wrap::{KeyWrap, KmsWrap, LocalWrap};
use tokio::sync::watch;

use crate::artifacts::Artifacts;
use crate::clock::SystemClock;
use crate::config::{Config, KeyWrapConfig, NodeSource, StoreCredentials};
use crate::disk::{Disk, NodePaths};
use crate::drift::DriftWatch;
use crate::engine::{Host, Parts};
use crate::etcd::EtcdPlace;
use crate::facts::{FactsError, NodeFacts};
use crate::kubelet::KubeletCertificate;
use crate::metrics::Metrics;
use crate::status::NodeIdentity;
use crate::systemd::ServiceManager;
use crate::trouble::chain;
use crate::units::{NoUnits, PendingRestarts, Systemctl, UnitManager};
use crate::update::Updater;

/// Time between two looks for the node's facts.
const FACTS_PAUSE: Duration = Duration::from_secs(1);
/// Every how many looks the log says that it waits.
const TELL_EVERY: u32 = 60;

/// The node's paths.
#[must_use]
pub fn paths(config: &Config) -> NodePaths {
    NodePaths::new(&config.root_directory, &config.state_directory)
}

/// Takes the disk's lock and makes everything else that an agent works with. Nothing is asked of the network.
///
/// # Errors
/// What cannot be opened or read, naming the file; a [`crate::disk::DiskError`] of the disk is in the chain.
pub async fn open(config: &Config, facts: NodeFacts, metrics: Metrics) -> anyhow::Result<Parts> {
    let disk = Disk::open(
        paths(config),
        config.environment.clone(),
        config.group.clone(),
    )?;
    let trust = trust(config, &disk.paths().trust())?;
    let sdk = sdk(config)?;
    let store = Arc::new(S3Store::new(&sdk, &config.bucket));
    let key_wrap = key_wrap(config, &sdk)?;
    let host = host(config, &facts)?;
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
            node: facts.id,
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
        host,
    })
}

/// Which node it is, by its configuration or by the file that says it.
///
/// # Errors
/// [`FactsError`].
pub fn facts(config: &Config) -> Result<NodeFacts, FactsError> {
    match &config.node {
        NodeSource::Name(id) => Ok(NodeFacts {
            id: id.clone(),
            name: None,
            ip: None,
            zone: None,
        }),
        NodeSource::Facts(path) => NodeFacts::load(path),
    }
}

/// As [`facts`], waiting until the boot unit has written them; none where the process is to end first. The agent is not
/// READY meanwhile, and kubelet, which needs the same file, waits with it.
pub async fn wait_for_facts(
    config: &Config,
    service_manager: &mut ServiceManager,
    mut shutdown: watch::Receiver<bool>,
) -> Option<NodeFacts> {
    let mut told = 0_u32;
    loop {
        let error = match facts(config) {
            Ok(facts) => return Some(facts),
            Err(error) => chain(&error),
        };
        service_manager.status(format!("waiting: {error}"));
        service_manager.feed();
        if told.is_multiple_of(TELL_EVERY) {
            tracing::warn!(error, "waiting for the node's facts");
        }
        told = told.wrapping_add(1);
        tokio::select! {
            () = tokio::time::sleep(FACTS_PAUSE) => {}
            _ = shutdown.wait_for(|stop| *stop) => return None,
        }
    }
}

fn host(config: &Config, facts: &NodeFacts) -> anyhow::Result<Host> {
    let (root, state) = (&config.root_directory, &config.state_directory);
    let units: Arc<dyn UnitManager> = match &config.systemctl {
        Some(program) => Arc::new(Systemctl::new(program.clone())),
        None => Arc::new(NoUnits),
    };
    let kubelet = match config.kubelet.client_certificate {
        false => None,
        true => {
            let name = config.kubelet.node_name.as_ref().or(facts.name.as_ref());
            let name = name.context(
                "NODE_NAME is missing in the node's facts, and [kubelet] client_certificate needs it",
            )?;
            Some(KubeletCertificate::new(state, name))
        }
    };
    Ok(Host {
        artifacts: Artifacts::open(root, state, config.artifact_directories.clone())?,
        units,
        restart_units: config.restart_units.clone(),
        pending: PendingRestarts::open(state)?,
        updater: Updater::open(state, config.update_confirm_within)?,
        kubelet,
        zone: facts.zone.clone(),
        etcd: etcd(config, facts)?,
    })
}

fn etcd(config: &Config, facts: &NodeFacts) -> anyhow::Result<Option<EtcdPlace>> {
    let Some(given) = config.etcd.clone() else {
        return Ok(None);
    };
    let missing = |fact: &str, key: &str| {
        format!("{fact} is missing in the node's facts, and [etcd] {key} is not given")
    };
    let name = |key: &str, port: u16| match &facts.name {
        Some(name) => Ok(format!("https://{name}:{port}")),
        None => Err(anyhow::Error::msg(missing("NODE_NAME", key))),
    };
    let ip = |key: &str, port: u16| match facts.ip {
        Some(ip) => Ok(format!("https://{}", SocketAddr::new(ip, port))),
        None => Err(anyhow::Error::msg(missing("NODE_IP", key))),
    };
    let own = facts.id.as_str();
    let member = MemberFacts {
        node: facts.id.clone(),
        name: given
            .name
            .unwrap_or_else(|| own.rsplit(':').next().unwrap_or(own).to_owned()),
        peer_url: given.peer_url.map_or_else(|| name("peer_url", 2380), Ok)?,
        client_url: given
            .client_url
            .map_or_else(|| name("client_url", 2379), Ok)?,
    };
    let client_urls = match given.listen_client_urls {
        urls if urls.is_empty() => vec![
            "https://127.0.0.1:2379".to_owned(),
            ip("listen_client_urls", 2379)?,
        ],
        urls => urls,
    };
    let listen = Listen {
        peer_url: given
            .listen_peer_url
            .map_or_else(|| ip("listen_peer_url", 2380), Ok)?,
        client_urls,
        metrics_url: given.metrics_url,
    };
    let problems: Vec<String> = member.problems().iter().map(ToString::to_string).collect();
    anyhow::ensure!(
        problems.is_empty(),
        "this node cannot be a member of etcd: {}",
        problems.join("; ")
    );
    Ok(Some(EtcdPlace::new(&config.root_directory, member, listen)))
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
    Ok(Arc::new(S3Store::new(&sdk(config)?, &config.bucket)))
}

fn sdk(config: &Config) -> anyhow::Result<SdkConfig> {
    let credentials = match &config.credentials_file {
        None => None,
        Some(path) => {
            let pair = StoreCredentials::load(path)?;
            let secret = pair.secret_key.expose();
            let name = "credentials_file";
            Some(Credentials::new(pair.access_key, secret, None, None, name))
        }
    };
    let endpoint = config.endpoint_url.as_deref();
    Ok(node_sdk_config(&config.region, endpoint, credentials))
}

fn key_wrap(config: &Config, sdk: &SdkConfig) -> anyhow::Result<Arc<dyn KeyWrap>> {
    Ok(match &config.key_wrap {
        KeyWrapConfig::AwsKms { key_id } => {
            Arc::new(KmsWrap::new(aws_sdk_kms::Client::new(sdk), key_id.clone()))
        }
        KeyWrapConfig::LocalFile { path } => Arc::new(LocalWrap::from_file(path)?),
    })
}
