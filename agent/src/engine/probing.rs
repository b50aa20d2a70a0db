//! Probing a release that was applied, and going back (§6.11).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::future::join_all;
use shared::bundle::Probe;
use shared::documents::{Phase, ProbeReport, RevertReport, kept_line, kept_lines};
use shared::rollout::{ProbeRun, ProbeVerdict, Stage, Window};
use tokio::time::Instant;

use super::Agent;
use super::failure::{EngineError, Failure, Retry, Stop};
use super::state::State;
use super::wait::GaveUp;
use crate::disk::{Committed, DiskError};
use crate::rollout::{FailedHere, Prober, Sight, Slot};
use crate::trouble::{Source, chain};

/// The longest pause between two looks at the clock while probing.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Beyond the timeout of the probes themselves.
const SLACK: Duration = Duration::from_secs(5);

/// Failures of a probe of which it is told what they saw.
const FAILURES_TOLD: usize = 3;

/// What probing came to.
enum Probed {
    Healthy,
    Bad { why: String, lines: Vec<String> },
}

impl Agent {
    /// Tries these probes once, at the same time.
    pub(super) async fn try_probes(
        &mut self,
        prober: &Prober,
        probes: Vec<&Probe>,
    ) -> Result<Vec<(String, Sight)>, Stop> {
        let longest = probes.iter().map(|p| p.timeout.get()).max();
        let limit = longest.unwrap_or_default() + SLACK;
        let probes: Vec<Probe> = probes.into_iter().cloned().collect();
        let names: Vec<&str> = probes.iter().map(|probe| probe.name.as_str()).collect();
        let names = names.join(", ");
        let prober = prober.clone();
        let trying = async move {
            let tries = probes.iter().map(|probe| async {
                let sight = prober.try_once(probe).await;
                (probe.name.clone(), sight)
            });
            join_all(tries).await
        };
        self.network(
            Phase::Probe,
            move || format!("probing {names}"),
            limit,
            trying,
        )
        .await
    }

    /// A node's first release is never taken back: its probes are tried at each pass, and one that still fails when the
    /// deadline is over is a trouble until it succeeds.
    pub(super) async fn look_at_first_probes(&mut self) -> Result<(), Stop> {
        let Some((policy, prober, since)) = self.rollouts.first.take() else {
            return Ok(());
        };
        if self.release().is_none() || policy.probes.is_empty() {
            self.rollouts.first = self.release().is_none().then_some((policy, prober, since));
            return Ok(());
        }
        let tried = self
            .try_probes(&prober, policy.probes.iter().collect())
            .await;
        let sights = match tried {
            Ok(sights) => sights,
            Err(stop) => {
                self.rollouts.first = Some((policy, prober, since));
                return Err(stop);
            }
        };
        self.rollouts.report.probes = sights
            .iter()
            .map(|(name, sight)| probe_report(name, sight, true))
            .collect();
        let failing: Vec<&str> = sights
            .iter()
            .filter(|(_, sight)| !sight.ok)
            .map(|(name, _)| name.as_str())
            .collect();
        if failing.is_empty() {
            self.troubles.clear(Source::Probes);
            return Ok(());
        }
        if since.elapsed() >= policy.deadline.get() {
            let message = format!(
                "the first release of this node is not healthy: {}",
                failing.join(", ")
            );
            self.trouble(Source::Probes, Phase::Probe, "unhealthy", message);
        }
        self.rollouts.first = Some((policy, prober, since));
        Ok(())
    }

    /// The release is on the disk: whether it is healthy.
    pub(super) async fn probe(&mut self) -> Result<State, Stop> {
        let Some(slot) = self.rollouts.slot.clone() else {
            return Ok(State::Idle);
        };
        let slot = Slot {
            stage: Stage::Probing,
            tried: self.tried(&slot),
            ..slot
        };
        self.remember_slot(Some(slot.clone()))?;
        fail::fail_point!("rollout::probe");
        let end = slot.policy.deadline.get() * 3 / 4;
        let probed = self
            .probe_until(&slot, end, slot.policy.settle.get())
            .await?;
        // The machine may have been suspended between two looks.
        let probed = match probed {
            Probed::Healthy if self.window(&slot) == Window::Back => Probed::Bad {
                why: "it was healthy only after its time was over".to_owned(),
                lines: Vec::new(),
            },
            probed => probed,
        };
        let object = self.bundle_object(slot.release, slot.bundle);
        match probed {
            Probed::Healthy => {
                self.decided("probes", slot.release, slot.bundle, object, "healthy");
                self.reach(Stage::Committed)?;
                Ok(State::GiveBack)
            }
            Probed::Bad { why, lines } => {
                tracing::error!(release = %slot.release, why, ?lines, "the release is bad here: going back");
                self.decided("probes", slot.release, slot.bundle, object, &why);
                self.adopted = None;
                let slot = Slot {
                    stage: Stage::Reverting,
                    why: Some(why),
                    lines: kept_lines(&lines),
                    ..slot
                };
                self.remember_slot(Some(slot))?;
                Ok(State::Revert)
            }
        }
    }

    /// Goes back to the release before, and sees whether the node is healthy again. What fails is tried again at each pass,
    /// with the slot held.
    pub(super) async fn revert(&mut self) -> Result<State, Stop> {
        let Some(mut slot) = self.rollouts.slot.clone() else {
            return Ok(State::Idle);
        };
        if self.hold_file.in_force(self.clock.now()).is_some() {
            return Ok(State::Poll);
        }
        if slot.why.is_none() {
            let why = "there was no time left: the agent or the machine was stopped, or cut off";
            slot.why = Some(why.to_owned());
        }
        slot.stage = Stage::Reverting;
        slot.tried = self.tried(&slot);
        self.remember_slot(Some(slot.clone()))?;
        self.remember_failed(&slot);
        // Going back is what the time is for: a store that does not answer must not use it up.
        let patience = slot.policy.deadline.get() / 16;
        if !slot.noted
            && let Ok(noted) = tokio::time::timeout(patience, self.note_failure(&slot)).await
            && noted?
        {
            slot.noted = true;
            self.remember_slot(Some(slot.clone()))?;
        }
        fail::fail_point!("rollout::revert");
        let to = slot.previous.release;
        if let Err(failure) = self.go_back(&slot).await? {
            self.struggles(&slot, failure.kind, &chain(failure.error.as_ref()));
            return Ok(State::Poll);
        }
        self.disk_matches = true;
        self.finish_host().await;
        self.service_manager.ready();
        let end = slot.policy.deadline.get();
        let health = match self.probe_until(&slot, end, Duration::ZERO).await {
            Err(Stop::Failed(failure)) => {
                self.struggles(&slot, failure.kind, &chain(failure.error.as_ref()));
                return Ok(State::Poll);
            }
            seen => seen?,
        };
        let healthy = matches!(health, Probed::Healthy);
        self.rollouts.report.reverted = Some(RevertReport {
            release: slot.release,
            to,
            why: kept_line(slot.why.as_deref().unwrap_or_default(), 300),
            lines: slot.lines.clone(),
            healthy,
            at: self.clock.now(),
        });
        match health {
            Probed::Bad { why, .. } => {
                let why = format!("back on release {to}, but not healthy: {why}");
                self.struggles(&slot, "unhealthy", &why);
                Ok(State::Poll)
            }
            Probed::Healthy => {
                let digest = Some(slot.previous.bundle_sha256);
                let object = self.bundle_object(to, digest);
                self.decided("goes back", to, digest, object, "healthy again");
                self.reach(Stage::Reverted)?;
                self.handled = None;
                Ok(State::GiveBack)
            }
        }
    }

    /// The slot's release as it lies on this disk, or did: its probes may name files that the release before does not have.
    fn tried(&self, slot: &Slot) -> Option<Committed> {
        let (release, applying) = self.with_disk(|d| (d.ledger().release, d.ledger().applying));
        let mut known = [applying, release, slot.tried].into_iter().flatten();
        known.find(|committed| committed.release == slot.release)
    }

    /// What can't be remembered is forgotten with the document.
    fn remember_failed(&mut self, slot: &Slot) {
        let failed = FailedHere {
            release: slot.release,
            since: slot.since,
            why: kept_line(slot.why.as_deref().unwrap_or_default(), 300),
        };
        if let Err(error) = self.rollouts.remember_failed(failed) {
            let error = chain(&error);
            tracing::warn!(error, "that the release failed here is not remembered");
        }
    }

    fn struggles(&mut self, slot: &Slot, kind: &'static str, why: &str) {
        self.rollouts.struggles = true;
        let message = format!(
            "release {} failed here and release {} is not back in health, so the slot is kept: {why}",
            slot.release, slot.previous.release
        );
        self.trouble(Source::Rollout, Phase::Revert, kind, message);
    }

    async fn go_back(&mut self, slot: &Slot) -> Result<Result<(), Failure>, Stop> {
        let previous = slot.previous;
        if self.release() == Some(previous.release)
            && self.with_disk(|d| d.ledger().applying.is_none())
        {
            return Ok(Ok(()));
        }
        let kept = self.on_disk(move |disk| disk.kept(&previous)).await;
        if let Ok(Ok(kept)) = &kept {
            let refused = |why| Failure::new(Phase::Revert, "etcd", Retry::NextPoll, why);
            if let Some(why) = self.etcd_stays(kept.release()).await {
                return Ok(Err(refused(EngineError::Etcd(why))));
            }
            if let Err((_, why)) = self.prepare_etcd(kept.release()).await {
                return Ok(Err(refused(EngineError::Etcd(why))));
            }
        }
        let planned = self
            .on_disk(move |disk| {
                let checked = disk.kept(&previous)?;
                let plan = disk.plan(&checked)?;
                Ok::<_, DiskError>((checked, plan))
            })
            .await;
        let (checked, plan) = match planned {
            Ok(Ok(planned)) => planned,
            Ok(Err(error)) => return Ok(Err(Failure::disk(Phase::Revert, error))),
            Err(error) => return Ok(Err(Failure::task(Phase::Revert, error))),
        };
        let wanted = checked.release().index().artifacts.clone();
        // The files come first where the store does not answer: what is missing is put back by the care for artifacts.
        let patience = slot.policy.deadline.get() / 16;
        let fetched = tokio::time::timeout(patience, self.fetch_artifacts(&wanted)).await;
        let late = |_| {
            let what = format!("fetching the artifacts of release {}", previous.release);
            Err(Failure::deadline(Phase::Revert, what, patience).into())
        };
        match fetched.unwrap_or_else(late) {
            Ok(()) => {
                if let Err(failure) = self.prepare_host(&checked, &plan).await {
                    tracing::warn!(
                        error = chain(failure.error.as_ref()),
                        "artifacts are not back yet"
                    );
                }
            }
            Err(Stop::Failed(failure)) => {
                tracing::warn!(
                    error = chain(failure.error.as_ref()),
                    "artifacts are not back yet"
                );
            }
            Err(stop) => return Err(stop),
        }
        let back = self.on_disk(move |disk| disk.go_back(&previous)).await;
        Ok(match back {
            Ok(Ok(_)) => {
                tracing::warn!(release = %previous.release, "back on the release before");
                Ok(())
            }
            Ok(Err(error)) => Err(Failure::disk(Phase::Revert, error)),
            Err(error) => Err(Failure::task(Phase::Revert, error)),
        })
    }

    fn elapsed(&self, slot: &Slot) -> Duration {
        slot.elapsed(&self.clock.boot_time(), self.clock.now())
    }

    /// Probes until it is clear, or `end` of the slot's time has gone; as often, at least, as a success takes.
    async fn probe_until(
        &mut self,
        slot: &Slot,
        end: Duration,
        settle: Duration,
    ) -> Result<Probed, Stop> {
        let mut policy = slot.policy.clone();
        policy.settle = shared::bundle::TimeSpan::from_millis(
            u64::try_from(settle.as_millis()).unwrap_or(u64::MAX),
        );
        let mut run = ProbeRun::new(&policy, &slot.failed_before);
        let prober = match self
            .on_disk({
                let (probes, tried) = (policy.probes.clone(), slot.tried);
                move |disk| {
                    let committed = disk.ledger().release;
                    let checked = committed.map(|c| disk.kept(&c)).transpose()?;
                    let prober =
                        checked.map_or_else(Prober::default, |c| Prober::new(&probes, c.release()));
                    let tried = tried.filter(|tried| committed != Some(*tried));
                    Ok::<_, DiskError>(match tried.map(|tried| disk.kept(&tried)) {
                        Some(Ok(tried)) => prober.or_from(&probes, tried.release()),
                        // It was not written whole, and nothing of it can have been probed.
                        Some(Err(_)) | None => prober,
                    })
                }
            })
            .await
        {
            Ok(Ok(prober)) => prober,
            Ok(Err(error)) => return Err(Failure::disk(Phase::Probe, error).into()),
            Err(error) => return Err(Failure::task(Phase::Probe, error).into()),
        };
        let once = |p: &Probe| p.period.get() * p.success_threshold + p.timeout.get();
        let least = policy.probes.iter().map(once).max().unwrap_or_default();
        let began = Instant::now();
        let mut due: BTreeMap<String, Instant> = policy
            .probes
            .iter()
            .map(|probe| (probe.name.clone(), began))
            .collect();
        let mut last: BTreeMap<String, Sight> = BTreeMap::new();
        let mut failures: BTreeMap<String, VecDeque<Vec<String>>> = BTreeMap::new();
        loop {
            let now = Instant::now();
            let is_due = |p: &&Probe| due.get(&p.name).is_none_or(|at| *at <= now);
            let probes: Vec<&Probe> = policy.probes.iter().filter(is_due).collect();
            for (name, sight) in self.try_probes(&prober, probes.clone()).await? {
                run.saw(&name, sight.ok, began.elapsed());
                let told = failures.entry(name.clone()).or_default();
                if !sight.ok && told.back() != Some(&sight.lines) {
                    told.push_back(sight.lines.clone());
                    told.drain(..told.len().saturating_sub(FAILURES_TOLD));
                }
                last.insert(name, sight);
            }
            for probe in probes {
                due.insert(probe.name.clone(), Instant::now() + probe.period.get());
            }
            self.rollouts.report.probes = last
                .iter()
                .map(|(name, sight)| probe_report(name, sight, !run.counts(name)))
                .collect();
            // What it saw over its last failures that differ, the last one last.
            let saw = |name: &str| -> Vec<String> {
                failures
                    .get(name)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .cloned()
                    .collect()
            };
            match run.verdict(began.elapsed()) {
                ProbeVerdict::Healthy => return Ok(Probed::Healthy),
                ProbeVerdict::Bad(name) => {
                    let lines = saw(&name);
                    let first = last.get(&name).and_then(|s| s.lines.first());
                    let first = first.cloned().unwrap_or_default();
                    let why = format!("probe {name} failed: {first}");
                    return Ok(Probed::Bad { why, lines });
                }
                ProbeVerdict::Pending if self.elapsed(slot) >= end && began.elapsed() >= least => {
                    let failing = last.iter().find(|(name, s)| !s.ok && run.counts(name));
                    let why = match failing {
                        Some((name, _)) => format!("probe {name} did not succeed in time"),
                        None => "its probes did not settle in time".to_owned(),
                    };
                    let lines = failing.map(|(name, _)| saw(name)).unwrap_or_default();
                    return Ok(Probed::Bad { why, lines });
                }
                ProbeVerdict::Pending => {}
            }
            self.report().await;
            let next = due.values().min().copied().unwrap_or_else(Instant::now);
            let pause = next
                .saturating_duration_since(Instant::now())
                .clamp(Duration::from_millis(10), LONGEST_PAUSE);
            let sleep = self.clock.sleep(pause);
            match self.during(pause + SLACK, sleep).await {
                Ok(()) | Err(GaveUp::Deadline) => {}
                Err(GaveUp::Shutdown) => return Err(Stop::Shutdown),
            }
        }
    }
}

fn probe_report(name: &str, sight: &Sight, only_warns: bool) -> ProbeReport {
    ProbeReport {
        name: name.to_owned(),
        ok: sight.ok,
        only_warns,
        saw: kept_line(sight.lines.first().map_or("", String::as_str), 160),
    }
}
