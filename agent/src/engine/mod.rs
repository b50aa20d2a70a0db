//! The loop: ask, verify, adopt, look after the disk, report.
//!
//! [`Agent`] takes all its I/O as arguments, so a thousand of them run in one process. [`Agent::run`] is the daemon,
//! [`Agent::once`] a single pass. A pass is the state machine of [`state`]; its steps are in [`pass`] and [`adopt`],
//! the only decisions that matter are in [`choose`] (which release), [`failure`] (what is retried when) and
//! [`crate::clock::judge`]. Whatever fails, the files on disk stay, and the next poll tries again.

mod adopt;
mod backup;
mod care;
mod choose;
mod clean;
mod etcd;
mod failure;
mod host;
mod pass;
mod probing;
mod report;
mod rewrite;
mod rollout;
mod state;
mod update;
mod wait;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use shared::documents::{Hold, StatusError};
use shared::names::{ReleaseNumber, UnitName};
use shared::store::{ETag, ObjectStore};
use shared::trust::{AgentTarget, TrustStore};
use shared::wrap::KeyWrap;
use tokio::sync::watch;
use tokio::time::Instant;

pub use choose::{Choice, ChoiceError, choose};
use etcd::Etcd;

use backup::Backups;
pub use host::Host;
use host::Patience;
use rewrite::Rewrites;
use rollout::Rollouts;
use state::State;

use crate::artifacts::Artifacts;
use crate::clock::{Clock, TimeMemory};
use crate::disk::Disk;
use crate::drift::DriftWatch;
use crate::hold::HoldFile;
use crate::kubelet::KubeletCertificate;
use crate::memory;
use crate::metrics::Metrics;
use crate::status::{NodeIdentity, Reporter};
use crate::systemd::ServiceManager;
use crate::trouble::Troubles;
use crate::units::{PendingRestarts, UnitManager};
use crate::update::Updater;

/// The steps of a pass at which a test can stop the process; those of [`crate::disk`] come on top.
pub const FAIL_POINTS: [&str; 7] = [
    "engine::verify",
    "engine::fetch",
    "engine::decrypt",
    "engine::check",
    "engine::plan",
    "engine::apply",
    "engine::commit",
];

/// Further steps, of a node that takes part in a rollout.
pub const ROLLOUT_FAIL_POINTS: [&str; 4] = [
    "rollout::write",
    "rollout::probe",
    "rollout::revert",
    "rollout::give-back",
];

/// Everything that an [`Agent`] works with.
#[derive(Debug)]
pub struct Parts {
    /// Which node it is.
    pub identity: NodeIdentity,
    /// How often to ask.
    pub poll_interval: Duration,
    /// The bucket.
    pub store: Arc<dyn ObjectStore>,
    /// What opens a release's identity.
    pub key_wrap: Arc<dyn KeyWrap>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The node's files.
    pub disk: Disk,
    /// The metadata trusted so far.
    pub trust: TrustStore,
    /// What wakes the loop when somebody touches the files.
    pub drift: DriftWatch,
    /// Where it counts.
    pub metrics: Metrics,
    /// Whom it tells that it is ready.
    pub service_manager: ServiceManager,
    /// What a release does to the host beyond its files.
    pub host: Host,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The published release is on the disk, as before.
    Unchanged,
    /// A newer release is published and not on the disk, and nothing failed: see [`Agent::waits_for`].
    Waiting,
    /// A release was adopted.
    Adopted(ReleaseNumber),
    /// A person holds the node.
    Held,
    /// Something failed; see [`Agent::error`].
    Failed,
    /// The process is to end.
    Interrupted,
    /// Another binary is in this one's place: the process is to end, and to be started again.
    Updated,
}

/// Why the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Another binary is in this one's place.
    Updated,
    /// This binary is new and has not confirmed a poll in its time.
    Unconfirmed,
}

/// A timestamp that was fully dealt with: the store need not send it again.
#[derive(Debug)]
struct Handled {
    etag: ETag,
    /// What was wrong with the release it brought, if it was refused for its content.
    refused: Option<StatusError>,
}

/// The agent of one node.
#[derive(Debug)]
pub struct Agent {
    identity: NodeIdentity,
    poll_interval: Duration,
    store: Arc<dyn ObjectStore>,
    key_wrap: Arc<dyn KeyWrap>,
    clock: Arc<dyn Clock>,
    /// Locked for one call at a time, on a blocking thread where it writes.
    disk: Arc<Mutex<Disk>>,
    trust: TrustStore,
    drift: DriftWatch,
    metrics: Metrics,
    service_manager: ServiceManager,
    artifacts: Arc<Mutex<Artifacts>>,
    units: Arc<dyn UnitManager>,
    restart_units: Vec<UnitName>,
    pending_restarts: PendingRestarts,
    kubelet: Option<KubeletCertificate>,
    updater: Option<Updater>,
    /// The agent that the current release names.
    wanted_agent: Option<AgentTarget>,
    /// When an update may be tried again, and how often it failed.
    update_patience: Patience,
    /// The same for artifacts that are to be put back.
    artifact_patience: Patience,
    time_memory: TimeMemory,
    hold_file: HoldFile,
    /// Directories that could not be watched at the last pass.
    unwatched: Vec<PathBuf>,
    shutdown: watch::Receiver<bool>,

    /// The disk was recovered and verified since the start.
    recovered: bool,
    disk_matches: bool,
    /// When the files were last compared with the ledger.
    looked_at: Option<Instant>,
    /// The verified copy can't be used: the release on the disk is to be adopted again.
    copy_is_lost: bool,
    handled: Option<Handled>,
    /// The tag of the timestamp that this pass deals with.
    handling: Option<ETag>,
    verified_at: Option<Instant>,
    published: Option<ReleaseNumber>,
    expires: Option<Timestamp>,
    /// When what earlier releases left may be removed; none where nothing is left.
    clean_at: Option<Instant>,
    /// A release waits for the end of a hold.
    held_back: bool,
    /// Where to go on with a release that failed half-way for a reason that may pass.
    resume: Option<State>,
    /// Failures in a row that may pass by themselves.
    transient_failures: u32,
    troubles: Troubles,
    hold: Option<Hold>,
    foreign: Vec<String>,
    repaired: u64,
    adopted: Option<ReleaseNumber>,
    /// More was done than to ask: some of what it took can be given back.
    worked: bool,
    /// The release whose certificates were looked at for the metric, and when the first of them ends.
    certificates_of: (Option<ReleaseNumber>, Option<Timestamp>),
    rollouts: Rollouts,
    backups: Backups,
    rewrites: Rewrites,
    etcd: Etcd,
    reporter: Reporter,
}

// === impl Agent ===

impl Agent {
    /// An agent of these parts; nothing is touched yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let state = parts.disk.paths().state().to_owned();
        let (_, never) = watch::channel(false);
        let leftovers_stay = parts.disk.leftovers_stay();
        Self {
            identity: parts.identity,
            poll_interval: parts.poll_interval,
            store: parts.store,
            key_wrap: parts.key_wrap,
            clock: parts.clock,
            disk: Arc::new(Mutex::new(parts.disk)),
            trust: parts.trust,
            drift: parts.drift,
            metrics: parts.metrics,
            service_manager: parts.service_manager,
            artifacts: Arc::new(Mutex::new(parts.host.artifacts)),
            units: parts.host.units,
            restart_units: parts.host.restart_units,
            pending_restarts: parts.host.pending,
            kubelet: parts.host.kubelet,
            updater: parts.host.updater,
            wanted_agent: None,
            update_patience: Patience::default(),
            artifact_patience: Patience::default(),
            time_memory: TimeMemory::in_directory(&state),
            hold_file: HoldFile::in_directory(&state),
            unwatched: Vec::new(),
            shutdown: never,
            recovered: false,
            disk_matches: false,
            looked_at: None,
            copy_is_lost: false,
            handled: None,
            handling: None,
            verified_at: None,
            published: None,
            expires: None,
            clean_at: leftovers_stay.map(|stay| Instant::now() + stay),
            held_back: false,
            resume: None,
            transient_failures: 0,
            troubles: Troubles::default(),
            hold: None,
            foreign: Vec::new(),
            repaired: 0,
            adopted: None,
            worked: false,
            certificates_of: (None, None),
            rollouts: Rollouts::in_directory(&state, parts.host.zone.clone()),
            backups: Backups::default(),
            rewrites: Rewrites::default(),
            etcd: Etcd::at(parts.host.etcd),
            reporter: Reporter::default(),
        }
    }

    /// Runs until `shutdown` becomes true, or until another binary is to run; a write that is under way is finished first.
    pub async fn run(mut self, shutdown: watch::Receiver<bool>) -> Ended {
        self.shutdown = shutdown;
        self.care_for_disk().await;
        let ended = loop {
            match self.pass().await {
                Outcome::Interrupted => break Ended::Stopped,
                Outcome::Updated => break Ended::Updated,
                _ => {}
            }
            self.report().await;
            if std::mem::take(&mut self.worked) {
                memory::give_back();
            }
            if self.updater.as_ref().is_some_and(Updater::has_failed) {
                tracing::error!("this binary is new and has not confirmed a poll in its time");
                break Ended::Unconfirmed;
            }
            let pause = self.pause();
            if !self.wait(pause).await {
                break Ended::Stopped;
            }
        };
        tracing::info!("stopping; the files stay as they are");
        self.service_manager.stopping();
        ended
    }

    /// One pass: looks after the disk, asks once, adopts what is new, reports.
    pub async fn once(&mut self) -> Outcome {
        self.care_for_disk().await;
        let outcome = self.pass().await;
        self.clean_if_due().await;
        self.report().await;
        outcome
    }

    /// What is wrong, if anything.
    #[must_use]
    pub fn error(&self) -> Option<&StatusError> {
        self.troubles.worst()
    }

    /// The hold that the last pass found.
    #[must_use]
    pub fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// The newer release that is published and not on the disk, and why the node does not begin with it.
    #[must_use]
    pub fn waits_for(&self) -> Option<(ReleaseNumber, String)> {
        let published = self.published.filter(|n| Some(*n) > self.release())?;
        let report = self.rollout_report();
        let waiting = report.waiting.filter(|w| w.release == published);
        let reverted = report.reverted.filter(|r| r.release == published);
        let why = match (waiting, &self.rollouts.slot, reverted) {
            (Some(waiting), _, _) => waiting.why,
            (None, Some(slot), _) => {
                format!(
                    "this node has not ended with its slot for release {}",
                    slot.release
                )
            }
            (None, None, Some(reverted)) => format!("it failed here: {}", reverted.why),
            (None, None, None) => "the next pass goes on with it".to_owned(),
        };
        Some((published, why))
    }

    /// The release on the disk.
    #[must_use]
    pub fn release(&self) -> Option<ReleaseNumber> {
        self.with_disk(|disk| disk.release())
    }
}

#[cfg(test)]
mod tests;
