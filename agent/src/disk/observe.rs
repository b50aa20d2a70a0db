//! Reading the disk: what is there, without changing or trusting it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use shared::check::manifest::{PodSummary, check_manifest};
use shared::digest::Sha256Digest;
use shared::limits;
use shared::secret::SecretBytes;

use super::error::DiskError;
use super::ledger::Ledger;
use super::paths::{NodePaths, OwnedPath, OwnedPlace, SecretDirectory};
use super::write::{mode_of, privileged};
use crate::trouble::chain;

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// A regular file.
    Regular(FileState),
    /// A directory.
    Directory,
    /// It lies below something that is no directory.
    BelowFile,
    /// A link, FIFO, socket or device.
    Special(&'static str),
    /// The operating system does not say what it is or holds. One bad block must not keep the rest from being looked
    /// at, and a file is written anew without being read.
    Unreadable,
}

/// A regular file, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileState {
    /// Of its bytes; of the first ones only where it is longer than any file of a release may be.
    pub(crate) sha256: Sha256Digest,
    pub(crate) bytes: u64,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

/// A secret directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DirectoryState {
    /// It is one.
    Directory {
        mode: u32,
        owner: (u32, u32),
        /// All that is in it, by name; names that are not text appear as text as far as possible.
        entries: BTreeMap<String, State>,
    },
    /// Something else is at its path.
    NotADirectory,
    /// The operating system does not say what is in it.
    Unreadable,
}

/// What is on the disk at all places that matter. What is absent here is absent there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Observed {
    /// Whether owners count: only where this process may set them.
    pub(crate) owners: bool,
    pub(crate) files: BTreeMap<OwnedPath, State>,
    pub(crate) directories: BTreeMap<SecretDirectory, DirectoryState>,
    /// The pods of the owned manifests on the disk, where they can be read as such.
    pub(crate) pods: BTreeMap<OwnedPath, PodSummary>,
    /// Manifests that this node does not run.
    pub(crate) held: BTreeSet<String>,
}

/// What changes when a file does, cheap to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    mode: u32,
    owner: (u32, u32),
}

/// Path → its fingerprint, none where it was absent.
pub(crate) type Fingerprints = BTreeMap<PathBuf, Option<Fingerprint>>;

/// Everything at the given places, with fingerprints taken before the bytes were read.
pub(crate) fn observe<'a>(
    paths: &NodePaths,
    files: impl IntoIterator<Item = &'a OwnedPath>,
    directories: impl IntoIterator<Item = &'a SecretDirectory>,
) -> (Observed, Fingerprints) {
    let mut observed = Observed {
        owners: privileged(),
        ..Observed::default()
    };
    let mut fingerprints = Fingerprints::new();
    for path in files {
        // The files of a secret directory are looked at with the directory.
        if matches!(path.place(), OwnedPlace::Secret { .. }) {
            continue;
        }
        if let Some(state) = look(&paths.resolve(path), &mut fingerprints) {
            observed.files.insert(path.clone(), state);
        }
    }
    for directory in directories {
        let at = paths.secret_directory(directory);
        if let Some(state) = look_into(&at, &mut fingerprints) {
            observed.directories.insert(directory.clone(), state);
        }
    }
    (observed, fingerprints)
}

/// The pods of the owned manifests, as they lie on the disk now.
pub(crate) fn observe_pods(paths: &NodePaths, ledger: &Ledger) -> BTreeMap<OwnedPath, PodSummary> {
    let mut pods = BTreeMap::new();
    for file in &ledger.files {
        let OwnedPlace::Manifest(name) = file.path.place() else {
            continue;
        };
        let at = paths.resolve(&file.path);
        // What can't be read as a manifest runs no pod.
        let bytes = match read(&at, limits::FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(path = %at.display(), %error, "not looked at as a manifest");
                None
            }
        };
        if let Some(pod) = bytes.and_then(|b| check_manifest(name, b.expose()).ok()) {
            pods.insert(file.path.clone(), pod);
        }
    }
    pods
}

/// Regular files, or what passes for one to kubelet, in the manifest directory that are not in `owned`.
pub(crate) fn foreign_manifests(
    paths: &NodePaths,
    owned: &BTreeSet<&str>,
) -> Result<Vec<String>, DiskError> {
    let directory = paths.manifests();
    let failed = || DiskError::io("list", &directory);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed()(e)),
    };
    let mut foreign = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Kubelet passes over dot names, and does not go into directories.
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !name.starts_with('.') && !is_directory && !owned.contains(name.as_str()) {
            foreign.push(name);
        }
    }
    foreign.sort();
    Ok(foreign)
}

/// The bytes of a regular file; none where there is none.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<SecretBytes>, DiskError> {
    let Some((bytes, metadata)) = open_and_read(path, limit)? else {
        return Ok(None);
    };
    if metadata.len() > limit || bytes.len() as u64 > limit {
        let too_large = io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {limit} bytes"),
        );
        return Err(DiskError::io("read", path)(too_large));
    }
    Ok(Some(bytes))
}

/// The fingerprint of what is at a path now.
pub(crate) fn fingerprint(path: &Path) -> Result<Option<Fingerprint>, DiskError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(Fingerprint::of(&metadata))),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(DiskError::io("inspect", path)(e)),
    }
}

fn look(path: &Path, fingerprints: &mut Fingerprints) -> Option<State> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fingerprints.insert(path.to_owned(), None);
            return None;
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Some(State::BelowFile),
        Err(e) => return Some(unreadable(&DiskError::io("inspect", path)(e))),
    };
    if !metadata.is_file() {
        return Some(kind(&metadata));
    }
    let (bytes, metadata) = match open_and_read(path, limits::FILE_BYTES) {
        Ok(read) => read?,
        Err(error) => return Some(unreadable(&error)),
    };
    fingerprints.insert(path.to_owned(), Some(Fingerprint::of(&metadata)));
    Some(State::Regular(FileState {
        sha256: Sha256Digest::of(bytes.expose()),
        bytes: metadata.len(),
        mode: mode_of(&metadata),
        owner: (metadata.uid(), metadata.gid()),
    }))
}

/// Says why: what becomes of it later tells only that it could not be read.
fn unreadable(error: &DiskError) -> State {
    tracing::warn!(error = chain(error), "cannot be read: it counts as changed");
    State::Unreadable
}

fn look_into(path: &Path, fingerprints: &mut Fingerprints) -> Option<DirectoryState> {
    let unreadable = |error: DiskError| {
        unreadable(&error);
        Some(DirectoryState::Unreadable)
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fingerprints.insert(path.to_owned(), None);
            return None;
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Some(DirectoryState::NotADirectory);
        }
        Err(e) => return unreadable(DiskError::io("inspect", path)(e)),
    };
    if !metadata.is_dir() {
        return Some(DirectoryState::NotADirectory);
    }
    let listed = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let listed = match listed {
        Ok(listed) => listed,
        Err(e) => return unreadable(DiskError::io("list", path)(e)),
    };
    fingerprints.insert(path.to_owned(), Some(Fingerprint::of(&metadata)));
    let mut entries = BTreeMap::new();
    for entry in listed {
        if let Some(state) = look(&entry.path(), fingerprints) {
            entries.insert(entry.file_name().to_string_lossy().into_owned(), state);
        }
    }
    Some(DirectoryState::Directory {
        mode: mode_of(&metadata),
        owner: (metadata.uid(), metadata.gid()),
        entries,
    })
}

/// Up to `limit + 1` bytes, and the metadata from before they were read. Never follows a link nor waits for a FIFO.
fn open_and_read(path: &Path, limit: u64) -> Result<Option<(SecretBytes, Metadata)>, DiskError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(DiskError::io("open", path)(e)),
    };
    let failed = || DiskError::io("read", path);
    let metadata = file.metadata().map_err(failed())?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(limit)).unwrap_or(0));
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    #[cfg(test)]
    let read = read.and_then(|length| injected::failure(path).map_or(Ok(length), Err));
    let bytes = SecretBytes::new(bytes);
    read.map_err(failed())?;
    Ok(Some((bytes, metadata)))
}

fn kind(metadata: &Metadata) -> State {
    let kind = metadata.file_type();
    if kind.is_dir() {
        State::Directory
    } else if kind.is_symlink() {
        State::Special("a symbolic link")
    } else if kind.is_fifo() {
        State::Special("a FIFO")
    } else if kind.is_socket() {
        State::Special("a socket")
    } else {
        State::Special("a device")
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
        }
    }
}

/// Reads that fail as those of a bad block do, on this thread.
#[cfg(test)]
pub(crate) mod injected {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::io;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::{Path, PathBuf};

    thread_local! {
        /// Path → the inode that cannot be read: what is renamed onto the path can be.
        static BAD: RefCell<BTreeMap<PathBuf, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// The file at `path`, as it is now, cannot be read any more.
    pub(crate) fn spoil(path: &Path) {
        let inode = std::fs::symlink_metadata(path).unwrap().ino();
        BAD.with_borrow_mut(|bad| bad.insert(path.to_owned(), inode));
    }

    pub(super) fn failure(path: &Path) -> Option<io::Error> {
        let inode = BAD.with_borrow(|bad| bad.get(path).copied())?;
        let now = std::fs::symlink_metadata(path).ok()?.ino();
        (now == inode).then(|| io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32))
    }
}
