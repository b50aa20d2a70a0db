//! Wakes the loop when somebody touches the files of the node.

use std::collections::BTreeSet;
use std::fmt;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{EventKind, RemoveKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use shared::durable::TEMPORARY_PREFIX;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long events are gathered before the loop is woken.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How far apart two wakes are at least, so that somebody who writes in a loop does not get a loop of repairs; well
/// within the second in which an edit is to be undone.
const APART: Duration = Duration::from_millis(250);

/// What the watcher's thread tells the loop.
#[derive(Debug, Default)]
struct Signals {
    touched: Notify,
    /// Directories whose watch ended because they went away.
    lost: Mutex<BTreeSet<PathBuf>>,
}

/// Watches directories, recursively, with inotify. Without inotify (the machine is out of instances or watches) the
/// loop still looks at every poll.
pub struct DriftWatch {
    directories: Vec<PathBuf>,
    enabled: bool,
    signals: Arc<Signals>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    due: Option<Instant>,
    last: Option<Instant>,
}

/// A directory that is not watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}; drift in it is noticed at the next poll only")]
pub struct WatchError {
    /// Which directory.
    pub path: PathBuf,
    /// What the watcher said.
    #[source]
    pub source: notify::Error,
}

impl fmt::Debug for DriftWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriftWatch")
            .field("directories", &self.directories)
            .field("watched", &self.watched)
            .finish_non_exhaustive()
    }
}

impl DriftWatch {
    /// Will watch `directories` from the first [`DriftWatch::ensure`] on.
    #[must_use]
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            enabled: true,
            signals: Arc::default(),
            watcher: None,
            watched: BTreeSet::new(),
            due: None,
            last: None,
        }
    }

    /// Watches nothing: for many agents in one process, which would use up the inotify instances of the machine.
    #[must_use]
    pub fn disabled() -> Self {
        Self {
            enabled: false,
            ..Self::new(Vec::new())
        }
    }

    /// Watches what is not watched yet, or no more.
    ///
    /// # Errors
    /// One [`WatchError`] for each directory that still is not; the next call tries again.
    pub fn ensure(&mut self) -> Vec<WatchError> {
        if !self.enabled {
            return Vec::new();
        }
        let lost = std::mem::take(&mut *self.lost());
        for gone in lost {
            self.watched.remove(&gone);
            if let Some(watcher) = &mut self.watcher {
                // Its watch is gone with it; this only clears the watcher's own books.
                let _ = watcher.unwatch(&gone);
            }
        }
        let missing: Vec<PathBuf> = self
            .directories
            .iter()
            .filter(|d| !self.watched.contains(*d))
            .cloned()
            .collect();
        let mut errors = Vec::new();
        for path in missing {
            match self.watch(&path) {
                Ok(()) => drop(self.watched.insert(path)),
                Err(source) => errors.push(WatchError { path, source }),
            }
        }
        errors
    }

    /// Whether every directory is watched.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.enabled && self.watched.len() == self.directories.len()
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.signals
            .lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&mut self, path: &Path) -> Result<(), notify::Error> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            None => {
                let signals = Arc::clone(&self.signals);
                let roots = self.directories.clone();
                let handler = move |event: notify::Result<Event>| signals.take(event, &roots);
                self.watcher.insert(notify::recommended_watcher(handler)?)
            }
        };
        watcher.watch(path, RecursiveMode::Recursive)
    }

    /// Returns when something was touched, gathered over [`DEBOUNCE`]. Cancel-safe: a wait that is dropped loses
    /// nothing.
    pub async fn touched(&mut self) {
        if !self.enabled {
            return pending().await;
        }
        let due = match self.due {
            Some(due) => due,
            None => {
                self.signals.touched.notified().await;
                let soon = Instant::now() + DEBOUNCE;
                let due = self.last.map_or(soon, |last| soon.max(last + APART));
                *self.due.insert(due)
            }
        };
        tokio::time::sleep_until(due).await;
        self.due = None;
        self.last = Some(Instant::now());
    }
}

impl Signals {
    fn take(&self, event: notify::Result<Event>, roots: &[PathBuf]) {
        match event {
            Ok(event) => {
                for gone in lost_roots(&event, roots) {
                    self.lost
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(gone);
                }
                if matters(&event) {
                    self.touched.notify_one();
                }
            }
            // An overflow or a broken watch: look, rather than trust it.
            Err(_) => self.touched.notify_one(),
        }
    }
}

/// Whether an event can mean that a file is no more what it was: not a mere look at it, and not our own temporaries.
fn matters(event: &Event) -> bool {
    let changes = match event.kind {
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Other
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_) => true,
    };
    let ours = |p: &PathBuf| {
        p.file_name().is_some_and(|n| {
            n.as_encoded_bytes()
                .starts_with(TEMPORARY_PREFIX.as_bytes())
        })
    };
    changes && (event.paths.is_empty() || !event.paths.iter().all(ours))
}

fn lost_roots(event: &Event, roots: &[PathBuf]) -> Vec<PathBuf> {
    let moved = matches!(
        event.kind,
        EventKind::Remove(RemoveKind::Folder | RemoveKind::Any | RemoveKind::Other)
            | EventKind::Modify(notify::event::ModifyKind::Name(_))
    );
    if !moved {
        return Vec::new();
    }
    roots
        .iter()
        .filter(|r| event.paths.contains(r))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, CreateKind};

    fn event(kind: EventKind, paths: &[&str]) -> Event {
        paths
            .iter()
            .fold(Event::new(kind), |e, p| e.add_path(PathBuf::from(p)))
    }

    #[test]
    fn looks_and_temporaries_do_not_matter() {
        let create = EventKind::Create(CreateKind::File);
        assert!(matters(&event(create, &["/m/a.yaml"])));
        assert!(!matters(&event(create, &["/m/.platform-1-2-a.yaml"])));
        assert!(matters(&event(create, &["/m/.platform-1-a", "/m/a"])));
        let look = EventKind::Access(AccessKind::Any);
        assert!(!matters(&event(look, &["/m/a.yaml"])));
        assert!(matters(&event(EventKind::Other, &[])), "an overflow");
    }

    #[tokio::test]
    async fn wakes_for_an_edit_and_watches_again_what_went_away() {
        let dir = tempfile::tempdir().unwrap();
        let watched = dir.path().join("manifests");
        let mut drift = DriftWatch::new(vec![watched.clone()]);
        assert_eq!(drift.ensure().len(), 1, "there is nothing to watch yet");
        std::fs::create_dir(&watched).unwrap();
        let errors = drift.ensure();
        assert!(errors.is_empty(), "{errors:?}");
        assert!(drift.is_complete());

        std::fs::write(watched.join("a.yaml"), "x").unwrap();
        drift.touched().await;
        std::fs::remove_dir_all(&watched).unwrap();
        drift.touched().await;
        std::fs::create_dir(&watched).unwrap();
        assert!(drift.ensure().is_empty());
        std::fs::write(watched.join("b.yaml"), "x").unwrap();
        drift.touched().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_wait_loses_nothing() {
        let mut drift = DriftWatch::new(Vec::new());
        drift.signals.touched.notify_one();
        let short = tokio::time::timeout(Duration::from_millis(10), drift.touched()).await;
        assert!(short.is_err());
        let began = Instant::now();
        drift.touched().await;
        assert!(began.elapsed() <= DEBOUNCE);
        drift.signals.touched.notify_one();
        drift.touched().await;
        assert!(began.elapsed() >= APART, "two wakes are kept apart");
    }
}
