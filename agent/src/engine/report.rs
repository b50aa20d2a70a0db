//! What the node says about itself: status object, metrics, systemd.

use std::time::Duration;

use shared::documents::{NodeStatus, Phase, STATUS_FORMAT, Transition};
use shared::store::PutCondition;

use super::Agent;
use super::wait::GaveUp;
use crate::kubelet::KubeletCertificate;
use crate::status::{IDLE_INTERVAL, SLOT_INTERVAL, named};
use crate::trouble::{Source, chain};
use crate::update::Updater;

/// How long writing the status may take.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

impl Agent {
    /// Publishes what is so now. A status that can't be written is tried again at the next report and stops nothing.
    pub(super) async fn report(&mut self) {
        let status = self.status();
        self.measure(&status);
        self.measure_certificates(&status);
        self.service_manager.status(line(&status));
        let lacks_key = self.troubles.of(Source::GroupKey).is_some();
        if !lacks_key && !self.reporter.is_due(&status) {
            return;
        }
        let key = match self.with_disk(|disk| disk.group_key()) {
            Ok(key) => {
                self.troubles.clear(Source::GroupKey);
                key
            }
            Err(error) => {
                self.trouble(Source::GroupKey, Phase::Idle, error.kind(), chain(&error));
                None
            }
        };
        // With what was found out about the key: nobody can authenticate it then, and it says why all the same.
        let status = self.status();
        if !self.reporter.is_due(&status) {
            return;
        }
        let sealed = match self.identity.seal(&status, key.as_ref()) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!(%error, "cannot encode the status: this is a bug");
                return;
            }
        };
        let store = self.store.clone();
        let name = self.identity.status_key();
        let key = name.clone();
        let put = async move { store.put(&key, sealed, PutCondition::Always).await };
        match self.during(STATUS_DEADLINE, put).await {
            Ok(Ok(_)) => self.reporter.written(status),
            Ok(Err(error)) => self.unwritten(error.kind.label(), &chain(&error)),
            Err(GaveUp::Deadline) => {
                let seconds = STATUS_DEADLINE.as_secs();
                self.unwritten(
                    "timeout",
                    &format!("writing {name} took longer than {seconds} seconds"),
                );
            }
            // It is written when the agent runs again.
            Err(GaveUp::Shutdown) => {}
        }
    }

    /// Counts a status that was not written, and logs it (loudly when it is new).
    fn unwritten(&mut self, kind: &'static str, error: &str) {
        self.metrics.failed("status", kind);
        if self.reporter.unwritten(kind) {
            tracing::warn!(phase = "status", kind, error, "cannot write the status");
        } else {
            tracing::debug!(
                phase = "status",
                kind,
                error,
                "still cannot write the status"
            );
        }
    }

    pub(super) fn status(&mut self) -> NodeStatus {
        let now = self.clock.now();
        self.hold = self.hold_file.in_force(now);
        let release = self.release();
        let measured = self.store.server_time().map(|t| t.skew_seconds());
        let transition = self.rollouts.slot.as_ref();
        let transition = transition.and_then(|s| s.transition(self.rollouts.struggles));
        self.reporter
            .every(match transition.is_some() || self.etcd.is_under_way() {
                true => SLOT_INTERVAL,
                false => IDLE_INTERVAL,
            });
        let phase = if self.hold.is_some() {
            Phase::Held
        } else if self.troubles.worst().is_some() {
            Phase::Failed
        } else if let Some(transition) = transition {
            phase_of(transition)
        } else if release.is_none() {
            Phase::Starting
        } else {
            Phase::Idle
        };
        NodeStatus {
            format: STATUS_FORMAT,
            environment: self.identity.environment.clone(),
            group: self.identity.group.clone(),
            node: self.identity.node.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_sha256: self.updater.as_ref().map(Updater::own),
            update_rejected: self.rejected_update(),
            release,
            published: self.published,
            phase,
            error: self.troubles.worst().cloned(),
            hold: self.hold.clone(),
            drift_repaired: self.repaired,
            foreign: named(&self.foreign),
            clock_skew_seconds: self.reporter.steady_skew(measured),
            etcd: self.etcd.report.clone(),
            metadata_expires: self.expires,
            rollout: self.rollout_report(),
            backup: self.backups.report(),
            rewrite: self.rewrites.report(),
            written_at: now,
        }
    }

    /// The files are read once for each release that is on the disk as it should be.
    fn measure_certificates(&mut self, status: &NodeStatus) {
        if self.disk_matches && self.certificates_of.0 != status.release {
            let earliest = self.with_disk(|disk| disk.earliest_certificate_expiry());
            self.certificates_of = (status.release, earliest);
        }
        // The agent issues this one itself, at any time.
        let kubelet = self.kubelet.as_ref().and_then(KubeletCertificate::expires);
        let earliest = self.certificates_of.1.into_iter().chain(kubelet).min();
        self.metrics
            .certificate_expiry
            .set(earliest.map_or(0, |t| t.as_second()));
    }

    fn measure(&self, status: &NodeStatus) {
        let number = |n: Option<shared::names::ReleaseNumber>| {
            n.and_then(|n| i64::try_from(n.get()).ok()).unwrap_or(0)
        };
        let m = &self.metrics;
        m.release_number.set(number(status.release));
        m.published_release_number.set(number(status.published));
        m.hold.set(i64::from(status.hold.is_some()));
        m.rollout(&status.rollout);
        m.clock_skew_seconds
            .set(status.clock_skew_seconds.unwrap_or(0));
        m.metadata_expiry
            .set(status.metadata_expires.map_or(0, |t| t.as_second()));
        m.foreign_files
            .set(i64::try_from(self.foreign.len()).unwrap_or(i64::MAX));
        m.update_rejected
            .set(i64::from(status.update_rejected.is_some()));
        m.backup(status.backup.as_ref());
        m.drift_watch.set(i64::from(self.drift.is_complete()));
        m.disk_is(match (self.disk_matches, status.release) {
            (_, None) => Some("no release has been adopted yet"),
            (false, Some(_)) => Some("the files on disk differ from the release"),
            (true, Some(_)) => None,
        });
    }
}

fn phase_of(transition: Transition) -> Phase {
    match transition {
        Transition::Granted | Transition::Committed | Transition::Reverted => Phase::Slot,
        Transition::Applying => Phase::Apply,
        Transition::Probing => Phase::Probe,
        Transition::Reverting | Transition::RevertFailed => Phase::Revert,
    }
}

/// One line for `systemctl status`.
fn line(status: &NodeStatus) -> String {
    let release = match status.release {
        Some(n) => format!("release {n}"),
        None => "no release yet".to_owned(),
    };
    if let Some(hold) = &status.hold {
        return format!("{release}, held: {}", hold.reason);
    }
    match &status.error {
        Some(error) => format!("{release}, {}: {}", error.phase, error.message),
        None => release,
    }
}
