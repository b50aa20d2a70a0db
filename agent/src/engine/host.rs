//! What a release does to the host beyond its files: artifacts, unit restarts, the kubelet's certificate.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shared::bundle::{Artifact, Index};
use shared::documents::Phase;
use shared::names::{ReleaseNumber, UnitName};
use shared::store::deadline_for;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::Agent;
use super::failure::{Failure, Stop};
use super::state::{Adoption, State};
use super::wait::DISK_PATIENCE;
use crate::artifacts::Artifacts;
use crate::disk::{CheckedRelease, DiskError, Plan};
use crate::etcd::EtcdPlace;
use crate::kubelet::{AUTHORITY, KubeletCertificate, KubeletError};
use crate::trouble::{Source, chain};
use crate::units::{NoUnits, PendingRestarts, UnitManager, due, forbidden};
use crate::update::Updater;

/// The longest time between two attempts at something that a release does not wait for.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3600);
/// Beyond the deadline of an artifact itself, for what is around it.
const SLACK: Duration = Duration::from_secs(30);

/// Everything that an agent needs for the host beyond files.
#[derive(Debug)]
pub struct Host {
    /// The artifacts.
    pub artifacts: Artifacts,
    /// What restarts units.
    pub units: Arc<dyn UnitManager>,
    /// Which units may be restarted.
    pub restart_units: Vec<UnitName>,
    /// Restarts that are still to be done.
    pub pending: PendingRestarts,
    /// What replaces the agent, where it may.
    pub updater: Option<Updater>,
    /// The kubelet's certificate, where it is wanted.
    pub kubelet: Option<KubeletCertificate>,
    /// The zone that the machine is in, where it knows one.
    pub zone: Option<String>,
    /// Where its member of etcd lives, where it may have one.
    pub etcd: Option<EtcdPlace>,
}

/// When something that failed may be tried again: later each time.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
    not_before: Option<Instant>,
}

// === impl Host ===

impl Host {
    /// A host that restarts no unit, replaces no agent and issues no certificate.
    ///
    /// # Errors
    /// As [`Artifacts::open`].
    pub fn plain(root: &Path, state: &Path, allowed: Vec<PathBuf>) -> Result<Self, DiskError> {
        Ok(Self {
            artifacts: Artifacts::open(root, state, allowed)?,
            units: Arc::new(NoUnits),
            restart_units: Vec::new(),
            pending: PendingRestarts::open(state)?,
            updater: None,
            kubelet: None,
            zone: None,
            etcd: None,
        })
    }
}

// === impl Patience ===

impl Patience {
    pub(super) fn is_over(&self) -> bool {
        self.not_before.is_none_or(|at| Instant::now() >= at)
    }

    pub(super) fn failed(&mut self, period: Duration) {
        let pause = period.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause.min(LONGEST_PATIENCE));
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Agent {
    fn with_artifacts<T>(&self, look: impl FnOnce(&mut Artifacts) -> T) -> T {
        let artifacts = self.artifacts.lock();
        look(&mut artifacts.unwrap_or_else(PoisonError::into_inner))
    }

    /// Work on the artifacts' files, on a blocking thread; it is always waited for.
    async fn on_artifacts<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Artifacts) -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        let artifacts = Arc::clone(&self.artifacts);
        let mut task = spawn_blocking(move || {
            work(&mut artifacts.lock().unwrap_or_else(PoisonError::into_inner))
        });
        let began = Instant::now();
        loop {
            let patient = began.elapsed() < DISK_PATIENCE;
            tokio::select! {
                biased;
                done = &mut task => {
                    self.service_manager.feed();
                    return done;
                }
                () = self.service_manager.hungry(), if patient => self.service_manager.feed(),
            }
        }
    }

    /// What a release asks of the host must be allowed here, and its artifacts must be signed targets (§6.4).
    pub(super) fn check_host(&self, adoption: &Adoption, index: &Index) -> Result<(), Stop> {
        let units = forbidden(&index.restarts, &index.artifacts, &self.restart_units);
        let allowed: Vec<&str> = self.restart_units.iter().map(UnitName::as_str).collect();
        let units = units.iter().map(|unit| {
            format!(
                "it restarts {unit}, which is not one of restart_units ({})",
                allowed.join(", ")
            )
        });
        let problems = self.with_artifacts(|a| a.problems(&index.artifacts, &adoption.artifacts));
        let all: Vec<String> = units
            .chain(problems.iter().map(ToString::to_string))
            .collect();
        match all.is_empty() {
            true => Ok(()),
            false => Err(Failure::host(index.release, all).into()),
        }
    }

    /// Fetches what is missing of a release's artifacts; nothing is in its place afterwards (§6.9).
    pub(super) async fn stage(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
    ) -> Result<State, Stop> {
        let wanted = checked.release().index().artifacts.clone();
        match self.fetch_artifacts(&wanted).await {
            Ok(()) => Ok(State::Baseline(adoption, checked)),
            Err(Stop::Failed(failure)) if failure.retry != super::failure::Retry::OnChange => {
                Err(failure.resume_at(State::Stage(adoption, checked)).into())
            }
            Err(stop) => Err(stop),
        }
    }

    pub(super) async fn fetch_artifacts(&mut self, wanted: &[Artifact]) -> Result<(), Stop> {
        let phase = Phase::Install;
        let stagings = self
            .with_artifacts(|a| {
                let missing = a.missing(wanted);
                a.to_stage(&missing)
            })
            .map_err(|e| Failure::disk(phase, e))?;
        for staging in stagings {
            let Artifact {
                name,
                target,
                bytes,
                ..
            } = staging.artifact.clone();
            tracing::info!(artifact = name, target, bytes, "fetching");
            let (store, group) = (self.store.clone(), self.identity.group.clone());
            let artifact = staging.artifact.clone();
            let fetch = async move { staging.fetch(store, &group).await };
            let what = || format!("reading artifact {name} (target {target})");
            let at = self
                .network(phase, what, deadline_for(bytes) + SLACK, fetch)
                .await?
                .map_err(|e| Failure::artifact(phase, e))?;
            self.on_artifacts(move |a| a.staged(artifact, at))
                .await
                .map_err(|e| Failure::task(phase, e))?
                .map_err(|e| Failure::artifact(phase, e))?;
        }
        fail::fail_point!("artifacts::staged");
        Ok(())
    }

    /// Before the first file of a release is written: notes which units will have to be restarted, and puts the artifacts
    /// into their places. False where an artifact is missing that was there a moment ago.
    pub(super) async fn prepare_host(
        &mut self,
        checked: &CheckedRelease,
        plan: &Plan,
    ) -> Result<bool, Failure> {
        let index = checked.release().index();
        let wanted = index.artifacts.clone();
        let release = index.release;
        let missing = self.with_artifacts(|a| a.missing(&wanted));
        let to_stage = self.with_artifacts(|a| a.to_stage(&missing));
        if !to_stage
            .map_err(|e| Failure::disk(Phase::Install, e))?
            .is_empty()
        {
            return Ok(false);
        }
        let written: BTreeSet<String> = plan.write_host.iter().map(ToString::to_string).collect();
        let host_file = |path: &String| path.starts_with("host/");
        let removed: BTreeSet<String> = plan
            .remove_files
            .iter()
            .map(ToString::to_string)
            .filter(host_file)
            .collect();
        let former = match removed.is_empty() {
            true => Vec::new(),
            false => self
                .on_disk(|disk| disk.committed_restarts())
                .await
                .map_err(|e| Failure::task(Phase::Apply, e))?,
        };
        let names: Vec<String> = missing.into_iter().map(|a| a.name).collect();
        let units = due(
            &index.restarts,
            &former,
            &wanted,
            &written,
            &removed,
            &names,
        );
        self.pending_restarts
            .add(release, units)
            .map_err(|e| Failure::disk(Phase::Apply, e))?;
        let placed = self
            .on_artifacts(move |a| a.place(Some((&wanted, release))))
            .await
            .map_err(|e| Failure::task(Phase::Apply, e))?
            .map_err(|e| Failure::artifact(Phase::Apply, e))?;
        if !placed.is_empty() {
            tracing::info!(artifacts = ?placed, "installed");
            self.metrics.artifacts_installed.inc_by(placed.len() as u64);
            self.troubles.clear(Source::Artifacts);
        }
        Ok(true)
    }

    /// What is left once a release is on the disk, also after a crash: artifacts that it does not list are removed, the
    /// kubelet has its certificate, units are restarted. What fails is tried again at each poll.
    pub(super) async fn finish_host(&mut self) {
        if self.hold.is_some() {
            return;
        }
        let Some(release) = self.release() else {
            return;
        };
        // A node in transition may go back, also with the store away: what the release before had stays until then.
        if !self.has_slot() && self.with_artifacts(|a| a.has_orphans(release)) {
            self.settle_artifacts(release).await;
        }
        self.care_for_certificate().await;
        self.restart_units(release).await;
    }

    async fn settle_artifacts(&mut self, release: ReleaseNumber) {
        match self.on_artifacts(move |a| a.settle(release)).await {
            Ok(Ok(gone)) => {
                tracing::info!(artifacts = ?gone, "removed: the release does not list them");
            }
            Ok(Err(error)) => self.host_trouble(Source::Artifacts, error.kind(), chain(&error)),
            Err(error) => self.host_trouble(Source::Artifacts, "internal", chain(&error)),
        }
    }

    fn host_trouble(&mut self, source: Source, kind: &'static str, message: String) {
        self.trouble(source, Phase::Install, kind, message);
    }

    async fn restart_units(&mut self, release: ReleaseNumber) {
        let due = self.pending_restarts.due(Some(release));
        if due.is_empty() {
            return;
        }
        // The configuration lists kubelet before the containerd that it needs: the last one first.
        let ordered: Vec<UnitName> = self.restart_units.iter().rev().cloned().collect();
        let mut units = due;
        units.sort_by_key(|unit| ordered.iter().position(|o| o == unit));
        for unit in units {
            fail::fail_point!("units::restart");
            if let Err(error) = self.units.restart(&unit).await {
                self.host_trouble(Source::Units, "unit", chain(&error));
                return;
            }
            self.metrics.unit_restarts.inc();
            tracing::info!(%unit, %release, "restart asked for");
            if let Err(error) = self.pending_restarts.done(&unit) {
                self.host_trouble(Source::Units, error.kind(), chain(&error));
                return;
            }
        }
        self.troubles.clear(Source::Units);
    }

    async fn care_for_certificate(&mut self) {
        let now = self.clock.now();
        let Some(mut kubelet) = self.kubelet.take_if(|k| k.is_worth_a_look(now)) else {
            return;
        };
        let done = self
            .on_disk(move |disk| {
                let [certificate, key] = AUTHORITY;
                let certificate = disk.owned_bytes(certificate);
                let pair = certificate.and_then(|c| Ok(c.zip(disk.owned_bytes(key)?)));
                let cared = pair
                    .map_err(KubeletError::from)
                    .and_then(|pair| kubelet.care(pair, now));
                (kubelet, cared)
            })
            .await;
        let (kubelet, cared) = match done {
            Ok(done) => done,
            Err(error) => {
                return self.host_trouble(Source::Certificate, "internal", chain(&error));
            }
        };
        self.kubelet = Some(kubelet);
        match cared {
            Ok(why) => {
                if let Some(why) = why {
                    tracing::info!(%why, "issued the kubelet's client certificate");
                }
                self.troubles.clear(Source::Certificate);
            }
            Err(error) => {
                let kind = match &error {
                    KubeletError::Disk(error) => error.kind(),
                    _ => "certificate",
                };
                self.host_trouble(Source::Certificate, kind, chain(&error));
            }
        }
    }

    /// At each pass: finishes what is left, and puts artifacts back that somebody changed. Those need the store, so an
    /// attempt that failed is repeated later each time.
    pub(super) async fn look_after_host(&mut self) {
        if self.hold.is_some() || !self.recovered {
            return;
        }
        self.finish_host().await;
        if self.with_artifacts(|a| a.count()) == 0 {
            return;
        }
        match self.on_artifacts(Artifacts::verify).await {
            Ok(Ok(false)) => {
                self.troubles.clear(Source::Artifacts);
                self.artifact_patience.reset();
            }
            Ok(Ok(true)) if self.artifact_patience.is_over() => self.repair_artifacts().await,
            Ok(Ok(true)) => {}
            Ok(Err(error)) => self.host_trouble(Source::Artifacts, error.kind(), chain(&error)),
            Err(error) => self.host_trouble(Source::Artifacts, "internal", chain(&error)),
        }
    }

    async fn repair_artifacts(&mut self) {
        let drifted = self.with_artifacts(|a| a.drifted());
        if drifted.is_empty() {
            return;
        }
        let fetched = self.fetch_artifacts(&drifted).await;
        let placed = match fetched {
            Ok(()) => match self.on_artifacts(|a| a.place(None)).await {
                Ok(placed) => placed.map_err(|e| (e.kind(), chain(&e))),
                Err(error) => Err(("internal", chain(&error))),
            },
            Err(Stop::Failed(failure)) => Err((failure.kind, chain(failure.error.as_ref()))),
            Err(_) => return,
        };
        match placed {
            Ok(names) => {
                tracing::warn!(artifacts = ?names, "put back artifacts that had been changed");
                self.metrics.artifacts_installed.inc_by(names.len() as u64);
                self.metrics.drift_repaired.inc_by(names.len() as u64);
                self.repaired += names.len() as u64;
                self.troubles.clear(Source::Artifacts);
                self.artifact_patience.reset();
            }
            Err((kind, message)) => {
                self.host_trouble(Source::Artifacts, kind, message);
                self.artifact_patience.failed(self.poll_interval);
            }
        }
    }
}
