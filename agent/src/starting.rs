//! A start that fails: seen from outside as any other failure is, although there is no loop yet that would report it.

use std::time::Duration;

use jiff::Timestamp;
use shared::documents::{NodeStatus, Phase, RolloutReport, STATUS_FORMAT, StatusError};
use shared::names::NodeId;
use shared::store::PutCondition;
use shared::trust::TrustStoreError;
use tokio::sync::watch;

use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::disk::{DiskError, read_group_key};
use crate::metrics::Metrics;
use crate::parts;
use crate::status::NodeIdentity;
use crate::trouble::{chain, shortened};

/// How long writing the status may take.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// Counts the failure and says it in the node's status, then stays for a poll period, for metrics to be read; the caller
/// ends the process, which systemd starts again. READY is never said; that the process ends lets kubelet's start go on.
pub async fn failed(
    config: &Config,
    node: NodeId,
    metrics: &Metrics,
    error: &anyhow::Error,
    mut shutdown: watch::Receiver<bool>,
) {
    let kind = kind(error);
    let message = chain(error.as_ref());
    metrics.failed(&Phase::Starting.to_string(), kind);
    tracing::error!(phase = %Phase::Starting, kind, error = message, "cannot start; the files on disk stay as they are");
    let linger = tokio::time::sleep(config.poll_interval);
    let report = tokio::time::timeout(STATUS_DEADLINE, report(config, node, kind, &message));
    tokio::select! {
        () = async { let _ = tokio::join!(linger, report); } => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

fn kind(error: &anyhow::Error) -> &'static str {
    if let Some(disk) = error.downcast_ref::<DiskError>() {
        disk.kind()
    } else if error.downcast_ref::<TrustStoreError>().is_some() {
        "trust_store"
    } else {
        "start"
    }
}

async fn report(config: &Config, node: NodeId, kind: &str, message: &str) {
    let store = match parts::store(config).await {
        Ok(store) => store,
        Err(error) => {
            tracing::warn!(error = chain(error.as_ref()), "no status can be written");
            return;
        }
    };
    let identity = NodeIdentity {
        environment: config.environment.clone(),
        group: config.group.clone(),
        node,
    };
    let key = read_group_key(&parts::paths(config)).ok().flatten();
    let status = status(&identity, kind, message, SystemClock.now());
    let Ok(sealed) = identity.seal(&status, key.as_ref()) else {
        return;
    };
    let name = identity.status_key();
    if let Err(error) = store.put(&name, sealed, PutCondition::Always).await {
        tracing::warn!(error = chain(&error), "cannot write the status");
    }
}

fn status(identity: &NodeIdentity, kind: &str, message: &str, now: Timestamp) -> NodeStatus {
    NodeStatus {
        format: STATUS_FORMAT,
        environment: identity.environment.clone(),
        group: identity.group.clone(),
        node: identity.node.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        agent_sha256: None,
        update_rejected: None,
        release: None,
        published: None,
        phase: Phase::Starting,
        error: Some(StatusError {
            phase: Phase::Starting,
            kind: kind.to_owned(),
            message: shortened(message),
            since: now,
        }),
        hold: None,
        drift_repaired: 0,
        foreign: Vec::new(),
        clock_skew_seconds: None,
        etcd: None,
        metadata_expires: None,
        rollout: RolloutReport::default(),
        backup: None,
        rewrite: None,
        written_at: now,
    }
}
