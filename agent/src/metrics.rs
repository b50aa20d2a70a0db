//! What is counted and measured, and whether the node is healthy. Names are `platform_agent_<thing>_<unit>`; no label
//! ever carries a file's content or the name of a secret.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use shared::documents::{BackupReport, RolloutReport, Transition};
use tokio::time::Instant;

/// Polls may fail for so many periods before the node counts as unhealthy.
const PERIODS_ALLOWED: u32 = 6;
/// Why a node may not adopt a release for now: the words of its status.
const WAITING: [&str; 9] = [
    "turn",
    "capacity",
    "canary",
    "halted",
    "paused",
    "failed_here",
    "superseded",
    "etcd",
    "unreadable",
];
/// Bounds of the adoption histogram, in seconds: the aim is 0.15 on loopback.
const ADOPTION_BUCKETS: [f64; 10] = [0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PollLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    phase: String,
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitingLabels {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    probe: String,
}

type FloatGauge = Gauge<f64, AtomicU64>;

/// The agent's metrics; a clone is the same metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    polls: Family<PollLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    waiting: Family<WaitingLabels, Gauge>,
    probes: Family<ProbeLabels, Gauge>,
    adoption: Histogram,
    /// Number of the release on disk, 0 for none.
    pub release_number: Gauge,
    /// Number of the newest release verified as published, 0 for none.
    pub published_release_number: Gauge,
    /// Files put back.
    pub drift_repaired: Counter,
    /// How far the clock is ahead of the store's, in seconds.
    pub clock_skew_seconds: Gauge,
    /// When the first of the trusted metadata expires, in Unix seconds; 0 while unknown.
    pub metadata_expiry: Gauge,
    /// When the first certificate in the release's files expires, in Unix seconds; 0 where there is none.
    pub certificate_expiry: Gauge,
    /// When a poll last succeeded, in Unix seconds.
    pub last_success: FloatGauge,
    /// 1 while a person holds the node.
    pub hold: Gauge,
    /// Files in the manifest directory that are not the agent's.
    pub foreign_files: Gauge,
    /// 1 while every directory is watched for drift.
    pub drift_watch: Gauge,
    /// 1 while the release names an agent that was tried and put back.
    pub update_rejected: Gauge,
    /// Artifacts installed, or put back.
    pub artifacts_installed: Counter,
    /// Unit restarts asked for.
    pub unit_restarts: Counter,
    /// When the newest good backup of etcd was begun, in Unix seconds; 0 where this node knows of none.
    pub backup_timestamp: Gauge,
    /// How long that backup is, in bytes.
    pub backup_bytes: Gauge,
    /// 1 where the node's last attempt to take or find a backup failed.
    pub backup_failed: Gauge,
    /// 1 where the release says how etcd is backed up.
    pub backup_wanted: Gauge,
    /// 1 while the node holds a slot of its group's rollout.
    pub slot: Gauge,
    /// 1 while the node cannot go back to the release before.
    pub revert_failed: Gauge,
    /// The release that the node went back from last, 0 for none.
    pub reverted_release_number: Gauge,
    health: Arc<Mutex<Health>>,
}

/// What makes a node healthy.
#[derive(Debug, Clone)]
struct Health {
    /// None where the files match a verified release; else why not.
    disk: Option<&'static str>,
    last_success: Option<Instant>,
    period: Duration,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of an agent that polls every `period`.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        let mut r = Registry::with_prefix("platform_agent");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The agent's version", build);
        let mut metrics = Self {
            registry: Arc::default(),
            polls: Family::default(),
            errors: Family::default(),
            waiting: Family::default(),
            probes: Family::default(),
            adoption: Histogram::new(ADOPTION_BUCKETS),
            release_number: Gauge::default(),
            published_release_number: Gauge::default(),
            drift_repaired: Counter::default(),
            clock_skew_seconds: Gauge::default(),
            metadata_expiry: Gauge::default(),
            certificate_expiry: Gauge::default(),
            last_success: FloatGauge::default(),
            hold: Gauge::default(),
            foreign_files: Gauge::default(),
            drift_watch: Gauge::default(),
            update_rejected: Gauge::default(),
            artifacts_installed: Counter::default(),
            unit_restarts: Counter::default(),
            backup_timestamp: Gauge::default(),
            backup_bytes: Gauge::default(),
            backup_failed: Gauge::default(),
            backup_wanted: Gauge::default(),
            slot: Gauge::default(),
            revert_failed: Gauge::default(),
            reverted_release_number: Gauge::default(),
            health: Arc::new(Mutex::new(Health {
                disk: Some("the agent is starting"),
                last_success: None,
                period,
            })),
        };
        let m = &metrics;
        r.register("polls", "Polls by their result", m.polls.clone());
        r.register("errors", "Failures by phase and kind", m.errors.clone());
        r.register(
            "rollout_waiting",
            "1 while a release is not adopted, for that reason",
            m.waiting.clone(),
        );
        r.register(
            "probe_success",
            "1 where the probe last succeeded",
            m.probes.clone(),
        );
        r.register(
            "adoption_seconds",
            "From a new timestamp seen to its release durable on disk",
            m.adoption.clone(),
        );
        r.register("drift_repaired", "Files put back", m.drift_repaired.clone());
        r.register(
            "artifacts_installed",
            "Artifacts installed, or put back",
            m.artifacts_installed.clone(),
        );
        r.register(
            "unit_restarts",
            "Unit restarts asked for",
            m.unit_restarts.clone(),
        );
        for (name, help, gauge) in [
            (
                "release_number",
                "Release on disk, 0 for none",
                &m.release_number,
            ),
            (
                "published_release_number",
                "Newest release verified as published, 0 for none",
                &m.published_release_number,
            ),
            (
                "clock_skew_seconds",
                "How far the clock is ahead of the store's",
                &m.clock_skew_seconds,
            ),
            (
                "metadata_expiry_timestamp_seconds",
                "When the first of the trusted metadata expires, 0 while unknown",
                &m.metadata_expiry,
            ),
            (
                "certificate_expiry_timestamp_seconds",
                "When the first certificate in the release's files, or the kubelet's that the agent issued, expires; 0 where there is none",
                &m.certificate_expiry,
            ),
            ("hold", "1 while a person holds the node", &m.hold),
            (
                "slot",
                "1 while the node holds a slot of its group's rollout",
                &m.slot,
            ),
            (
                "etcd_backup_timestamp_seconds",
                "When the newest good backup of etcd was begun, 0 for none",
                &m.backup_timestamp,
            ),
            (
                "etcd_backup_bytes",
                "Length of the newest good backup of etcd",
                &m.backup_bytes,
            ),
            (
                "etcd_backup_failed",
                "1 where the last attempt to back etcd up failed",
                &m.backup_failed,
            ),
            (
                "etcd_backup_wanted",
                "1 where the release says how etcd is backed up",
                &m.backup_wanted,
            ),
            (
                "revert_failed",
                "1 while the node cannot go back to the release before",
                &m.revert_failed,
            ),
            (
                "reverted_release_number",
                "Release that the node went back from last, 0 for none",
                &m.reverted_release_number,
            ),
            (
                "foreign_files",
                "Files in the manifest directory that are not the agent's",
                &m.foreign_files,
            ),
            (
                "drift_watch",
                "1 while every directory is watched for drift",
                &m.drift_watch,
            ),
            (
                "update_rejected",
                "1 while the release names an agent that was tried and put back",
                &m.update_rejected,
            ),
        ] {
            r.register(name, help, gauge.clone());
        }
        r.register(
            "last_success_timestamp_seconds",
            "When a poll last succeeded",
            m.last_success.clone(),
        );
        metrics.registry = Arc::new(r);
        metrics
    }

    /// Counts a poll.
    pub fn polled(&self, result: &'static str) {
        self.polls.get_or_create(&PollLabels { result }).inc();
    }

    /// Counts a failure.
    pub fn failed(&self, phase: &str, kind: &str) {
        self.errors
            .get_or_create(&ErrorLabels {
                phase: phase.to_owned(),
                kind: kind.to_owned(),
            })
            .inc();
    }

    /// Measures an adoption.
    pub fn adopted(&self, took: Duration) {
        self.adoption.observe(took.as_secs_f64());
    }

    /// What the node says about its part in a rollout.
    pub fn rollout(&self, report: &RolloutReport) {
        let is_waiting = report.waiting.as_ref().map(|w| w.kind.as_str());
        // What it waited for before is still served, as 0: a series that only vanished would be held for minutes.
        for reason in WAITING.into_iter().chain(is_waiting) {
            let labels = WaitingLabels {
                reason: reason.to_owned(),
            };
            let waits = is_waiting == Some(reason);
            self.waiting.get_or_create(&labels).set(i64::from(waits));
        }
        self.probes.clear();
        for probe in &report.probes {
            let labels = ProbeLabels {
                probe: probe.name.clone(),
            };
            self.probes.get_or_create(&labels).set(i64::from(probe.ok));
        }
        let transition = report.slot.as_ref().map(|slot| slot.transition);
        self.slot.set(i64::from(transition.is_some()));
        let failed = transition == Some(Transition::RevertFailed);
        self.revert_failed.set(i64::from(failed));
        let reverted = report.reverted.as_ref().map(|r| r.release.get());
        let reverted = reverted.and_then(|n| i64::try_from(n).ok());
        self.reverted_release_number.set(reverted.unwrap_or(0));
    }

    /// What the node knows about etcd's backups.
    pub fn backup(&self, report: Option<&BackupReport>) {
        let last = report.and_then(|r| r.last.as_ref());
        self.backup_wanted.set(i64::from(report.is_some()));
        self.backup_timestamp
            .set(last.map_or(0, |last| last.name.at().as_second()));
        let bytes = last.map_or(0, |last| i64::try_from(last.bytes).unwrap_or(i64::MAX));
        self.backup_bytes.set(bytes);
        let failed = report.is_some_and(|r| r.failed.is_some());
        self.backup_failed.set(i64::from(failed));
    }

    /// A poll has just succeeded, at `now` in Unix seconds.
    pub fn succeeded(&self, now: i64) {
        #[allow(clippy::cast_precision_loss, reason = "seconds fit a double for ages")]
        self.last_success.set(now as f64);
        self.health().last_success = Some(Instant::now());
    }

    /// Says whether the files on disk match a verified release: none, or why not.
    pub fn disk_is(&self, wrong: Option<&'static str>) {
        self.health().disk = wrong;
    }

    /// Whether the node is healthy.
    ///
    /// # Errors
    /// Why not, in one line.
    pub fn healthy(&self) -> Result<(), String> {
        let health = self.health().clone();
        if let Some(wrong) = health.disk {
            return Err(wrong.to_owned());
        }
        let Some(last) = health.last_success else {
            return Err("no poll has succeeded yet".to_owned());
        };
        let age = last.elapsed();
        if age > health.period * PERIODS_ALLOWED {
            return Err(format!(
                "the last successful poll was {} seconds ago",
                age.as_secs()
            ));
        }
        Ok(())
    }

    /// Everything, in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
