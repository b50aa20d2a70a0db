//! Looking after the disk: finishing what a crash interrupted, and putting back what somebody changed.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shared::documents::Phase;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Instant;

use super::Agent;
use super::rollout::ForwardLimit;
use super::wait::DISK_PATIENCE;
use crate::disk::{Committed, Disk, DiskError};
use crate::trouble::{Source, chain};

/// How often the files are looked at where nothing is told of them.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// What was done to the disk.
#[derive(Debug, Default)]
struct Mended {
    /// Files put back, relative to `/etc/kubernetes`.
    restored: Vec<String>,
    /// A release that had been half applied is now committed.
    finished: bool,
    /// The verified copy can't be used: the release is to be read from the store again.
    copy_lost: bool,
}

/// Finishes what was interrupted: forward, or, where there is no time left for that, back.
fn finish(
    disk: &mut Disk,
    back: Option<&Committed>,
    limit: &ForwardLimit,
) -> Result<bool, DiskError> {
    match back.filter(|_| disk.ledger().applying.is_some()) {
        Some(to) => Ok(disk.go_back(to)?.is_some()),
        None => match (disk.recover_while(&|| limit.may_write()), limit.previous()) {
            (Err(DiskError::OutOfTime), Some(to)) => Ok(disk.go_back(&to)?.is_some()),
            (recovered, _) => Ok(recovered?.finished.is_some()),
        },
    }
}

impl Agent {
    /// A short look at the disk, on this thread.
    pub(super) fn with_disk<T>(&self, look: impl FnOnce(&mut Disk) -> T) -> T {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut disk)
    }

    /// Work on the disk, on a blocking thread; it is always waited for.
    pub(super) async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Disk) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let disk = Arc::clone(&self.disk);
        let mut task =
            spawn_blocking(move || work(&mut disk.lock().unwrap_or_else(PoisonError::into_inner)));
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

    /// At the start, before any network: finishes what was interrupted, compares every file with the ledger, puts back
    /// what differs. Tried again at each poll until it succeeds.
    pub(super) async fn care_for_disk(&mut self) {
        let now = self.clock.now();
        self.hold = self.hold_file.in_force(now);
        if self.hold.is_some() {
            // Nothing is changed. Ready all the same: whoever holds the node answers for its files, and a reboot in
            // the meantime must not leave it without kubelet.
            self.disk_matches = self.with_disk(|d| d.verify().is_ok_and(|v| v.is_clean()));
            if self.release().is_some() {
                self.service_manager.ready();
            }
            return;
        }
        self.recall_slot();
        let (back, limit) = (self.overdue(), self.forward_limit());
        let done = self.on_disk(move |disk| {
            let finished = finish(disk, back.as_ref(), &limit)?;
            let seen = disk.verify()?;
            let restored = if seen.is_clean() {
                Vec::new()
            } else {
                disk.repair()?.restored
            };
            Ok(Mended {
                restored,
                finished,
                copy_lost: seen.release.is_some() && !seen.copy_intact,
            })
        });
        match done.await {
            Ok(Ok(mended)) => {
                self.recovered = true;
                self.finish_host().await;
                self.mended(mended);
                self.look_at_foreign_files();
            }
            Ok(Err(error)) => self.disk_failed(Phase::Starting, &error),
            Err(error) => self.trouble(Source::Disk, Phase::Starting, "internal", chain(&error)),
        }
    }

    /// Whether the files are to be looked at though nothing has woken the loop. Where every directory is watched that is the
    /// second line of defence, for what inotify does not tell, and a look costs a system call a file.
    pub(super) fn look_is_due(&self) -> bool {
        let quiet = self.disk_matches
            && self.drift.is_complete()
            && self.troubles.of(Source::Disk).is_none()
            && self.troubles.of(Source::Foreign).is_none();
        !quiet
            || self
                .looked_at
                .is_none_or(|at| at.elapsed() >= LOOK_INTERVAL)
    }

    /// Compares the disk with the ledger, cheaply, and puts back what differs, unless a person holds the node.
    pub(super) async fn look_after_disk(&mut self) {
        if !self.recovered {
            return;
        }
        self.looked_at = Some(Instant::now());
        self.hold = self.hold_file.in_force(self.clock.now());
        self.look_at_foreign_files();
        self.finish_up().await;
        match self.with_disk(Disk::verify_cheaply) {
            Ok(true) => {
                self.disk_matches = true;
                self.troubles.clear(Source::Disk);
            }
            Ok(false) => {
                self.disk_matches = false;
                if self.hold.is_none() {
                    self.repair().await;
                }
            }
            Err(error) => {
                self.disk_matches = false;
                self.disk_failed(Phase::Idle, &error);
            }
        }
    }

    async fn repair(&mut self) {
        let (back, limit) = (self.overdue(), self.forward_limit());
        let done = self.on_disk(move |disk| {
            let half_applied = disk.ledger().applying.is_some();
            let finished = half_applied && finish(disk, back.as_ref(), &limit)?;
            let repaired = disk.repair()?;
            Ok(Mended {
                restored: repaired.restored,
                finished,
                copy_lost: repaired.copy_lost,
            })
        });
        match done.await {
            Ok(Ok(mended)) => {
                self.finish_host().await;
                self.mended(mended);
            }
            Ok(Err(error)) => self.disk_failed(Phase::Idle, &error),
            Err(error) => self.trouble(Source::Disk, Phase::Idle, "internal", chain(&error)),
        }
    }

    fn mended(&mut self, mended: Mended) {
        self.disk_matches = true;
        self.troubles.clear(Source::Disk);
        let release = self.release();
        if mended.finished {
            tracing::warn!(?release, "finished a release that had been interrupted");
            self.resume = None;
            self.keep_leftovers();
        }
        if mended.copy_lost {
            self.copy_lost();
        }
        if !mended.restored.is_empty() {
            tracing::warn!(files = ?mended.restored, "put back files that had been changed");
            let count = mended.restored.len() as u64;
            self.repaired += count;
            self.metrics.drift_repaired.inc_by(count);
        }
        if release.is_some() {
            self.service_manager.ready();
        }
    }

    fn disk_failed(&mut self, phase: Phase, error: &DiskError) {
        if matches!(error, DiskError::CopyDamaged { .. }) {
            self.copy_lost();
        }
        self.trouble(Source::Disk, phase, error.kind(), chain(error));
    }

    /// The release on the disk is to be adopted again, so that drift can be repaired.
    fn copy_lost(&mut self) {
        if !std::mem::replace(&mut self.copy_is_lost, true) {
            tracing::warn!("the verified copy is lost: reading the release again");
            self.handled = None;
        }
    }

    pub(super) fn look_at_foreign_files(&mut self) {
        match self.with_disk(|disk| disk.foreign()) {
            Ok(foreign) => {
                if foreign != self.foreign && !foreign.is_empty() {
                    tracing::warn!(
                        files = ?crate::status::named(&foreign),
                        "files in the manifest directory that are not the agent's: kubelet runs them too"
                    );
                }
                self.foreign = foreign;
                self.troubles.clear(Source::Foreign);
            }
            Err(error) => self.trouble(Source::Foreign, Phase::Idle, error.kind(), chain(&error)),
        }
    }
}
