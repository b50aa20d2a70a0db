//! The single changes that applying and repairing are made of, with a fail point before and after each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use shared::check::manifest::PodSummary;
use shared::durable::{self, Staged, TEMPORARY_PREFIX};
use shared::names::EntryPath;

use super::AtStep;
use super::check::{CheckedRelease, WantedFile};
use super::compare::{DriftKind, by_directory, compare_directory, directory_attributes};
use super::error::DiskError;
use super::ledger::OwnedFile;
use super::observe::{self, DirectoryState};
use super::paths::{NodePaths, OwnedPath, OwnedPlace, SecretDirectory};
use super::plan::TakeOver;
use super::pod_end::{PodEnd, PodEnded};
use super::write::{PRIVATE, PUBLIC, attributes, create_directory, privileged};

/// What became of one file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written, or made.
    Written,
    /// Removed.
    Removed,
    /// Already right.
    Unchanged,
    /// Removed for its pod to end first; the pod did not end in time, and the work went on.
    PodStillThere,
}

/// One file's or directory's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOutcome {
    /// Relative to `/etc/kubernetes` (`agent/…` for the agent's own files).
    pub path: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// The fail points of writing files: once all are staged, before each, after each.
pub(crate) type Steps = [&'static str; 3];

pub(crate) const HOST_STEPS: Steps = [
    "apply::host.staged",
    "apply::host.before",
    "apply::host.after",
];
pub(crate) const MANIFEST_STEPS: Steps = [
    "apply::manifest.staged",
    "apply::manifest.before",
    "apply::manifest.after",
];

/// Changes the disk towards one release.
pub(crate) struct Work<'a> {
    paths: &'a NodePaths,
    checked: &'a CheckedRelease,
    /// The release's files by what names them: a release may have a thousand, and each is looked for.
    by_entry: BTreeMap<&'a EntryPath, &'a WantedFile>,
    by_directory: BTreeMap<SecretDirectory, Vec<(&'a str, &'a WantedFile)>>,
    pod_end: &'a dyn PodEnd,
    at_step: &'a AtStep,
    /// Whether there is time left to write forward.
    pub(crate) may_write: &'a dyn Fn() -> bool,
    pub(crate) outcomes: Vec<FileOutcome>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        paths: &'a NodePaths,
        checked: &'a CheckedRelease,
        pod_end: &'a dyn PodEnd,
        at_step: &'a AtStep,
    ) -> Self {
        let mut by_directory: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let files = &checked.wanted().files;
        for file in files {
            if let OwnedPlace::Secret { directory, name } = file.owned.path.place() {
                by_directory
                    .entry(directory)
                    .or_default()
                    .push((name, file));
            }
        }
        Self {
            paths,
            checked,
            by_entry: files.iter().map(|file| (&file.entry, file)).collect(),
            by_directory,
            pod_end,
            at_step,
            may_write: &|| true,
            outcomes: Vec::new(),
        }
    }

    pub(crate) fn step(&self, name: &'static str) -> Result<(), DiskError> {
        (self.at_step)(name)?;
        match (self.may_write)() {
            true => Ok(()),
            false => Err(DiskError::OutOfTime),
        }
    }

    pub(crate) fn report(&mut self, path: impl ToString, outcome: Outcome) {
        let path = path.to_string();
        self.outcomes.push(FileOutcome { path, outcome });
    }

    /// Makes secret directories, each whole and durable before it is seen; mends one that is there and wrong, file by
    /// file: its pod has the directory mounted, and would not see another in its place.
    pub(crate) fn secret_directories(
        &mut self,
        directories: &[SecretDirectory],
    ) -> Result<(), DiskError> {
        let mut built = Vec::new();
        let made = self.build_all(directories, &mut built);
        if made.is_err() && !matches!(made, Err(DiskError::Stopped(_))) {
            // Best effort: on a full disk the space is needed, and the first error is the one that matters.
            for (temporary, _) in &built {
                let _ = remove_tree(temporary);
            }
        }
        made
    }

    fn build_all<'d>(
        &mut self,
        directories: &'d [SecretDirectory],
        built: &mut Vec<(PathBuf, &'d SecretDirectory)>,
    ) -> Result<(), DiskError> {
        for directory in directories {
            self.step("apply::secret-directory.before")?;
            let at = self.paths.secret_directory(directory);
            if fs::symlink_metadata(&at).is_ok() {
                self.mend(directory, &at)?;
                self.report(format!("secrets/{directory}"), Outcome::Written);
                self.step("apply::secret-directory.after")?;
                continue;
            }
            let temporary = temporary(&at, "new", directory)?;
            create_directory(&self.paths.secrets().join(&directory.pod), PRIVATE)?;
            // Left by a failure earlier in this process's life.
            remove_tree(&temporary)?;
            built.push((temporary.clone(), directory));
            self.fill(directory, &temporary)?;
        }
        for (temporary, _) in &*built {
            durable::sync_tree(temporary)?;
        }
        let mut parents = BTreeSet::new();
        for (temporary, directory) in &*built {
            let at = self.paths.secret_directory(directory);
            durable::rename_directory(temporary, &at)?;
            parents.extend(at.parent().map(Path::to_owned));
            self.report(format!("secrets/{directory}"), Outcome::Written);
            self.step("apply::secret-directory.after")?;
        }
        sync_directories(&parents)
    }

    fn fill(&self, directory: &SecretDirectory, temporary: &Path) -> Result<(), DiskError> {
        let made = DirBuilder::new().mode(PRIVATE).create(temporary);
        made.map_err(DiskError::io("make directory", temporary))?;
        let files = self.files_of(directory);
        for (name, file) in files {
            let bytes = self.bytes_at(&file.entry)?;
            durable::write_new_file(&temporary.join(name), bytes, attributes(&file.owned))?;
        }
        set_attributes(temporary, files.iter().map(|(_, file)| &file.owned))?;
        self.step("apply::secret-directory.filled")
    }

    fn mend(&self, directory: &SecretDirectory, at: &Path) -> Result<(), DiskError> {
        let (observed, _) = observe::observe(self.paths, [], [directory]);
        let files = self.files_of(directory);
        let wanted = by_directory(files.iter().map(|(_, file)| &file.owned));
        let wanted = wanted.get(directory).cloned().unwrap_or_default();
        let found = observed.directories.get(directory);
        if let Some(DirectoryState::Unreadable) = found {
            // What is in it that does not belong there stays unknown, and so does what its pod sees.
            let listed =
                fs::read_dir(at).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
            listed.map_err(DiskError::io("list", at))?;
        }
        for (name, kind) in compare_directory(&wanted, found, observed.owners) {
            let Some(name) = name else {
                set_attributes(at, wanted.values().copied())?;
                continue;
            };
            let path = at.join(&name);
            match (kind, files.iter().find(|(own, _)| *own == name.as_str())) {
                // The directory is the agent's, and its name says all that is in it.
                (DriftKind::Extra, _) | (_, None) => {
                    tracing::warn!(directory = %directory, name, "removed what does not belong into a secret directory");
                    remove_tree_here(&path)?;
                }
                (kind, Some((_, file))) => {
                    if kind == DriftKind::Kind && path.is_dir() {
                        remove_tree_here(&path)?;
                    }
                    let bytes = self.bytes_at(&file.entry)?;
                    durable::write_file(&path, bytes, attributes(&file.owned))?;
                }
            }
        }
        Ok(durable::sync_directory(at)?)
    }

    /// Writes files (host files, addons and files of the agent's own, or manifests), in this order.
    pub(crate) fn files(&mut self, entries: &[EntryPath], steps: Steps) -> Result<(), DiskError> {
        let staged = self.stage(entries, steps)?;
        self.publish(staged, steps)
    }

    /// Puts files durably beside their places; what is dropped unpublished is gone again.
    pub(crate) fn stage(
        &self,
        entries: &[EntryPath],
        [is_staged, ..]: Steps,
    ) -> Result<Vec<(OwnedPath, Staged)>, DiskError> {
        let mut staged = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(file) = self.by_entry.get(entry) else {
                return Err(not_in_release(entry));
            };
            let at = self.paths.resolve(&file.owned.path);
            if let Some(parent) = at.parent() {
                create_directory(parent, PUBLIC)?;
            }
            let written = Staged::new(&at, self.bytes_at(entry)?, attributes(&file.owned))?;
            staged.push((file.owned.path.clone(), written));
        }
        for (_, file) in &staged {
            file.sync()?;
        }
        if !staged.is_empty() {
            self.step(is_staged)?;
        }
        Ok(staged)
    }

    /// Puts staged files into their places.
    pub(crate) fn publish(
        &mut self,
        staged: Vec<(OwnedPath, Staged)>,
        [_, before, after]: Steps,
    ) -> Result<(), DiskError> {
        let mut directories = BTreeSet::new();
        for (path, file) in staged {
            self.step(before)?;
            directories.insert(file.directory().to_owned());
            file.publish()?;
            self.report(path, Outcome::Written);
            self.step(after)?;
        }
        sync_directories(&directories)
    }

    /// Ends a pod whose name or host port another one takes.
    pub(crate) fn take_over(&mut self, take_over: &TakeOver) -> Result<(), DiskError> {
        self.step("apply::take-over.before")?;
        durable::remove_file(&self.paths.resolve(&take_over.path))?;
        self.step("apply::take-over.removed")?;
        self.pod_end.settle();
        let outcome = self.ended(&take_over.pod);
        self.report(&take_over.path, outcome);
        self.step("apply::take-over.after")
    }

    /// Waits until nothing holds what `pod`, which is not on the disk yet, takes over from a pod that a crash has left
    /// ending.
    pub(crate) fn await_end(&self, pod: &PodSummary) {
        self.ended(pod);
    }

    fn ended(&self, pod: &PodSummary) -> Outcome {
        match self.pod_end.wait(pod) {
            PodEnded::Gone => Outcome::Removed,
            PodEnded::StillThere => {
                tracing::warn!(pod = %pod.name, "the pod, or what held its ports, did not end in time");
                Outcome::PodStillThere
            }
        }
    }

    /// Removes owned files.
    pub(crate) fn remove(&mut self, paths: &[OwnedPath]) -> Result<(), DiskError> {
        for path in paths {
            self.step("apply::remove.before")?;
            durable::remove_file(&self.paths.resolve(path))?;
            self.report(path, Outcome::Removed);
            self.step("apply::remove.after")?;
        }
        Ok(())
    }

    fn bytes_at(&self, entry: &EntryPath) -> Result<&[u8], DiskError> {
        let bytes = self.checked.release().bytes(entry);
        bytes
            .map(|bytes| bytes.expose())
            .ok_or_else(|| not_in_release(entry))
    }

    fn files_of(&self, directory: &SecretDirectory) -> &[(&'a str, &'a WantedFile)] {
        let files = self.by_directory.get(directory);
        files.map(Vec::as_slice).unwrap_or_default()
    }
}

/// Removes a secret directory: out of sight first, so that no one sees a part of it. Nothing names it any more, and
/// what a crash leaves of it is swept, so nothing waits for the disk here.
pub(crate) fn remove_secret_directory(
    paths: &NodePaths,
    directory: &SecretDirectory,
) -> Result<(), DiskError> {
    let at = paths.secret_directory(directory);
    let temporary = temporary(&at, "old", directory)?;
    remove_tree(&temporary)?;
    if at.is_dir() {
        durable::rename_directory(&at, &temporary)?;
        remove_tree(&temporary)?;
    }
    // Only where it is empty; another directory of the pod's is the usual case.
    let _ = fs::remove_dir(paths.secrets().join(&directory.pod));
    Ok(())
}

fn sync_directories(directories: &BTreeSet<PathBuf>) -> Result<(), DiskError> {
    for directory in directories {
        durable::sync_directory(directory)?;
    }
    Ok(())
}

fn temporary(at: &Path, kind: &str, directory: &SecretDirectory) -> Result<PathBuf, DiskError> {
    let pod = at.parent().ok_or_else(|| {
        let no_parent = io::Error::from(io::ErrorKind::InvalidInput);
        DiskError::io("find the parent of", at)(no_parent)
    })?;
    Ok(pod.join(format!("{TEMPORARY_PREFIX}{kind}-{}", directory.digest)))
}

/// As [`remove_tree`], for what somebody else made: what is mounted there is another file system's, and stays.
fn remove_tree_here(path: &Path) -> Result<(), DiskError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let parent = path
        .parent()
        .and_then(|parent| fs::symlink_metadata(parent).ok());
    if parent.is_some_and(|parent| parent.dev() != metadata.dev()) {
        let mounted = io::Error::new(io::ErrorKind::CrossesDevices, "it is another file system");
        return Err(DiskError::io("remove", path)(mounted));
    }
    if metadata.is_dir() {
        let entries = fs::read_dir(path).map_err(DiskError::io("list", path))?;
        for entry in entries {
            remove_tree_here(&entry.map_err(DiskError::io("list", path))?.path())?;
        }
        return fs::remove_dir(path).map_err(DiskError::io("remove", path));
    }
    remove_tree(path)
}

fn remove_tree(path: &Path) -> Result<(), DiskError> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let removed = if is_directory {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DiskError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

fn set_attributes<'a>(
    directory: &Path,
    files: impl IntoIterator<Item = &'a OwnedFile>,
) -> Result<(), DiskError> {
    let (mode, (uid, gid)) = directory_attributes(files);
    let give_to = |uid, gid| {
        lchown(directory, Some(uid), Some(gid))
            .map_err(DiskError::io("set the owner of", directory))
    };
    if privileged() {
        // One that belongs to a pod's user is ours first: a process confined to CAP_CHOWN may change the mode of
        // nothing else.
        let metadata =
            fs::symlink_metadata(directory).map_err(DiskError::io("inspect", directory))?;
        if metadata.uid() != 0 {
            give_to(0, 0)?;
        }
    }
    fs::set_permissions(directory, Permissions::from_mode(mode))
        .map_err(DiskError::io("set the mode of", directory))?;
    if privileged() {
        give_to(uid, gid)?;
    }
    Ok(())
}

/// A plan and its release are made together, so this is a mistake of the caller's.
fn not_in_release(entry: &EntryPath) -> DiskError {
    let absent = io::Error::new(io::ErrorKind::NotFound, "it is not in the release");
    DiskError::io("find in the release", Path::new(entry.as_str()))(absent)
}
