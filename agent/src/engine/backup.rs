//! Backups of etcd, beside everything else: a task looks whether one is due and takes it, and the loop only asks what came
//! of it. Neither a halt, a pause nor a hold stops it, and what fails in it stops nothing.

use std::sync::Arc;
use std::time::Duration;

use shared::backup::{BackupManifest, Due, SETTINGS_FILE, Standing, due};
use shared::documents::{BackupFailed, BackupReport, LastBackup};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Agent;
use crate::etcd::{BackupContext, BackupError, Material, is_absent};
use crate::trouble::{chain, shortened};

/// The longest time until a look that failed is repeated.
const AGAIN: Duration = Duration::from_secs(300);

/// A word and a line about what went wrong.
type Wrong = (&'static str, String);

/// What a look found.
#[derive(Debug)]
struct Looked {
    /// The newest backup there is now; none where that could not be found out.
    last: Option<Option<LastBackup>>,
    /// What went wrong.
    wrong: Option<Wrong>,
    /// Until the next look.
    pause: Duration,
}

/// The look that is under way, and what is known.
#[derive(Debug, Default)]
pub(super) struct Backups {
    running: Option<JoinHandle<Looked>>,
    look_at: Option<Instant>,
    report: Option<BackupReport>,
}

impl Backups {
    /// For the node's status.
    pub(super) fn report(&self) -> Option<BackupReport> {
        self.report.clone()
    }
}

impl Drop for Backups {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

impl Agent {
    /// Takes in what a look found, and begins the next one when its time has come.
    pub(super) async fn look_after_backups(&mut self) {
        if let Some(running) = self.backups.running.take_if(|r| r.is_finished()) {
            match running.await {
                Ok(looked) => self.looked(looked),
                Err(error) => {
                    self.backups.look_at = Some(Instant::now() + AGAIN);
                    self.backup_failed(Some(("internal", chain(&error))));
                }
            }
            self.worked = true;
        }
        let is_time = self.backups.look_at.is_none_or(|at| at <= Instant::now());
        if !self.recovered || self.backups.running.is_some() || !is_time {
            return;
        }
        let found = self.with_disk(|disk| {
            let settings = disk.owned_bytes(SETTINGS_FILE).ok().flatten();
            settings.map(|_| Material::of_disk(disk))
        });
        let Some(found) = found else {
            // This release is of machines that run no etcd.
            self.backups.report = None;
            return;
        };
        self.backups.report.get_or_insert_default();
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let identity = self.identity.clone();
        match found.and_then(|material| material.context(store, identity, clock)) {
            Ok(material) => {
                self.backups.running = Some(tokio::spawn(look(material)));
            }
            Err(error) => {
                self.backups.look_at = Some(Instant::now() + AGAIN);
                self.backup_failed(Some(("settings", error)));
            }
        }
    }

    fn looked(&mut self, looked: Looked) {
        self.backups.look_at = Some(Instant::now() + looked.pause);
        let report = self.backups.report.get_or_insert_default();
        if let Some(last) = looked.last {
            report.last = last;
        }
        self.backup_failed(looked.wrong);
    }

    fn backup_failed(&mut self, wrong: Option<Wrong>) {
        let now = self.clock.now();
        let report = self.backups.report.get_or_insert_default();
        let before = report.failed.take();
        let Some((kind, message)) = wrong else {
            return;
        };
        self.metrics.failed("backup", kind);
        let same = before.filter(|b| b.kind == kind);
        if same.is_none() {
            tracing::error!(kind, error = message, "etcd is not backed up");
        }
        report.failed = Some(BackupFailed {
            kind: kind.to_owned(),
            message: shortened(&message),
            since: same.map_or(now, |b| b.since),
        });
    }
}

fn last_of(manifest: &BackupManifest) -> LastBackup {
    LastBackup {
        generation: manifest.generation,
        name: manifest.name.clone(),
        bytes: manifest.plain_bytes,
        node: manifest.node.clone(),
    }
}

async fn look(context: BackupContext) -> Looked {
    let period = context.settings.period.get();
    let wrong = |kind: &'static str, message: String| Looked {
        last: None,
        wrong: Some((kind, message)),
        pause: (period / 4).min(AGAIN),
    };
    let newest = match context.newest().await {
        Ok(newest) => newest,
        Err(error) => return wrong(error.kind.label(), chain(&error)),
    };
    let last = newest.as_ref().map(last_of);
    let begun = newest.as_ref().map(|m| m.name.at());
    let wait = |at: jiff::Timestamp| {
        let left = Duration::try_from(at.duration_since(context.now())).unwrap_or_default();
        left.clamp(Duration::from_secs(1), period.max(Duration::from_secs(1)))
    };
    let quiet = |pause| Looked {
        last: Some(last.clone()),
        wrong: None,
        pause,
    };
    // No member's turn comes before the leader's.
    if let Due::At(at) = due(&context.settings, Standing::Leader, begun, context.now()) {
        return quiet(wait(at));
    }
    let standing = match context.standing().await {
        Ok(standing) => standing,
        // A machine without a member has nothing to back up; a member that is down is told by its probes.
        Err(_) => return quiet((period / 4).min(AGAIN)),
    };
    match due(&context.settings, standing, begun, context.now()) {
        Due::At(at) => return quiet(wait(at)),
        Due::Never => return quiet((period / 4).min(AGAIN)),
        Due::Now => {}
    }
    let taken = match context.take().await {
        Ok(taken) => taken,
        Err(error) if is_absent(&error) => return quiet((period / 4).min(AGAIN)),
        Err(error) => {
            return Looked {
                last: Some(last),
                ..wrong(BackupError::kind(&error), chain(&error))
            };
        }
    };
    let pruned = context.prune(&taken.name).await;
    Looked {
        last: Some(Some(last_of(&taken))),
        wrong: pruned.err().map(|e| {
            (
                "retention",
                format!("superfluous backups stay: {}", chain(&e)),
            )
        }),
        pause: period,
    }
}
