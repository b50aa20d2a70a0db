//! Kubelet's inotify watch and what it makes of the events (`pkg/kubelet/config/file_linux.go`).

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use notify::event::{ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Wake;
use super::observation::Trigger;
use super::source::is_hidden;

/// Kubelet's inotify watch. Like kubelet's it is set once: a directory that is swapped leaves it on the old inode.
#[derive(Debug)]
pub(super) struct Watch {
    directory: PathBuf,
    watcher: RecommendedWatcher,
    established: bool,
}

impl Watch {
    pub(super) fn new(directory: PathBuf, wake: Sender<Wake>) -> Result<Self> {
        let watched = directory.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            for wakeup in event
                .as_ref()
                .map_or_else(|_| vec![Wake::Stirred], |event| wakes(&watched, event))
            {
                // The model has ended: nobody is left to tell.
                let _ = wake.send(wakeup);
            }
        })
        .context("failed to start inotify")?;
        Ok(Self {
            directory,
            watcher,
            established: false,
        })
    }

    /// Sets the watch unless it was set before. A missing directory leaves it for the next list, as in kubelet.
    pub(super) fn establish(&mut self) {
        if !self.established {
            self.established = self
                .watcher
                .watch(&self.directory, RecursiveMode::NonRecursive)
                .is_ok();
        }
    }
}

/// Kubelet's event map: create, write and chmod read the file; remove and renamed-from delete its pod.
fn wakes(directory: &Path, event: &notify::Event) -> Vec<Wake> {
    let (trigger, gone) = match event.kind {
        // Reading is no event for kubelet, and the model's own reads must not wake it.
        EventKind::Access(_) => return Vec::new(),
        // Says again what the From and the To before it said.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return Vec::new(),
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            (Trigger::Create, false)
        }
        EventKind::Modify(ModifyKind::Name(_)) => (Trigger::RenameFrom, true),
        EventKind::Modify(ModifyKind::Metadata(_)) => (Trigger::Chmod, false),
        EventKind::Modify(_) => (Trigger::Write, false),
        EventKind::Remove(_) => (Trigger::Remove, true),
        EventKind::Any | EventKind::Other => return vec![Wake::Stirred],
    };
    let wake = |path: &PathBuf| match path.file_name() {
        Some(name) if path.parent() == Some(directory) => {
            let name = name.to_string_lossy().into_owned();
            match (is_hidden(&name), gone) {
                (true, _) => Wake::Stirred,
                (false, true) => Wake::Removed(name, trigger),
                (false, false) => Wake::Changed(name, trigger),
            }
        }
        // The directory itself.
        _ => Wake::Stirred,
    };
    event.paths.iter().map(wake).collect()
}
