//! Removing what earlier releases left: never before the pods that have it mounted can have ended (§6.7).

use std::collections::BTreeSet;
use std::time::Duration;

use shared::durable;

use super::error::DiskError;
use super::ledger::Ledger;
use super::observe::{Observed, observe_pods};
use super::paths::{NodePaths, SecretDirectory};
use super::pod_end::LIST_PERIOD;
use super::work::remove_secret_directory;
use super::{Disk, copy};

/// What Kubernetes gives a pod to end in that asks for nothing else, in seconds: of pods that can't be looked at.
const DEFAULT_GRACE_SECONDS: u64 = 30;

impl Disk {
    /// How long what earlier releases left is to stay: kubelet may see a new manifest only at its next list, and the
    /// pod that it replaces then has its grace period. Counted from [`Disk::apply`] or [`Disk::recover`], or, for what
    /// an earlier process left, from [`Disk::open`]. None where nothing is left.
    #[must_use]
    pub fn leftovers_stay(&self) -> Option<Duration> {
        fail::fail_point!("disk::leftovers-stay", |_| Some(Duration::ZERO));
        self.leftovers_stay
    }

    /// Removes the secret directories that no manifest names, and the copies of other releases. What fails is to be
    /// tried again: the release is on the disk all the same.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn clean(&mut self) -> Result<Vec<SecretDirectory>, DiskError> {
        if self.ledger.applying.is_some() {
            return Ok(Vec::new());
        }
        (self.at_step)("clean::before")?;
        let unused = self.ledger.unused_directories();
        for directory in &unused {
            remove_secret_directory(&self.paths, directory)?;
            (self.at_step)("clean::directory")?;
        }
        // Gone for good before the ledger forgets them.
        let pods: BTreeSet<&str> = unused.iter().map(|d| d.pod.as_str()).collect();
        for pod in pods {
            let at = self.paths.secrets().join(pod);
            let at = if at.is_dir() {
                at
            } else {
                self.paths.secrets()
            };
            durable::sync_directory(&at)?;
        }
        if let Some(committed) = self.ledger.release {
            copy::remove_others(&self.paths, committed.release)?;
        }
        if !unused.is_empty() {
            let mut cleaned = self.ledger.clone();
            for gone in &unused {
                cleaned.secret_directories.remove(gone);
            }
            cleaned.save(&self.paths)?;
            self.ledger = cleaned;
        }
        self.leftovers_stay = None;
        (self.at_step)("clean::after")?;
        Ok(unused)
    }
}

/// How long the pods that are on the disk, and others that may just have been, need to be gone.
pub(crate) fn all_ended_within(pods: &Observed) -> Duration {
    let longest = pods.pods.values().map(|pod| pod.termination_grace_seconds);
    let grace = longest.fold(DEFAULT_GRACE_SECONDS, u64::max);
    LIST_PERIOD.saturating_add(Duration::from_secs(grace))
}

/// What an earlier process left on the disk is to stay so long; none where it left nothing.
pub(crate) fn found(paths: &NodePaths, ledger: &Ledger) -> Result<Option<Duration>, DiskError> {
    let Some(committed) = ledger.release else {
        return Ok(None);
    };
    if ledger.unused_directories().is_empty() && !copy::others_exist(paths, committed.release)? {
        return Ok(None);
    }
    let observed = Observed {
        pods: observe_pods(paths, ledger),
        ..Observed::default()
    };
    Ok(Some(all_ended_within(&observed)))
}
