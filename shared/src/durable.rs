//! The one way a file is written where a crash, a full disk or a reader in the middle must not matter.
//!
//! A dot-named temporary in the same directory (kubelet ignores dot names), owner and mode set before the rename (a
//! later chmod would make kubelet read the file again), every byte written, fsync, rename, fsync of the directory.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Every temporary of ours begins so; what a crash left behind is recognised and swept by it.
pub const TEMPORARY_PREFIX: &str = ".platform-";

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// What a written file must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, as in `0o600`.
    pub mode: u32,
    /// Numeric owner and group; none leaves them to the process (static binaries must not look names up).
    pub owner: Option<(u32, u32)>,
}

impl Attributes {
    /// Permission bits and the process's own owner.
    #[must_use]
    pub const fn mode(mode: u32) -> Self {
        Self { mode, owner: None }
    }
}

/// A durable write that failed. Up to the rename the destination is as it was before; only where syncing the directory
/// failed is the new file there already, and perhaps not for good.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {path}")]
pub struct DurableError {
    /// What was tried, as a verb.
    pub step: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// One word for why the operating system refused: `no_space`, `read_only` (which includes a missing permission), both of
/// which go away with their cause, or `io`.
#[must_use]
pub fn io_kind(error: &io::Error) -> &'static str {
    // By kind, not by number: an error that a library has wrapped keeps only that.
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "no_space",
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => "read_only",
        _ => "io",
    }
}

fn failed<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DurableError + 'a {
    move |source| DurableError {
        step,
        path: path.to_owned(),
        source,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// A fresh dot-named sibling of `path`.
fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(TEMPORARY_PREFIX);
    name.push(format!(
        "{}-{}-",
        std::process::id(),
        SEQUENCE.fetch_add(1, Ordering::Relaxed)
    ));
    name.push(path.file_name().unwrap_or(OsStr::new("x")));
    parent(path).join(name)
}

/// Makes the directory's entries durable.
///
/// # Errors
/// [`DurableError`] naming the directory.
pub fn sync_directory(directory: &Path) -> Result<(), DurableError> {
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(failed("sync directory", directory))
}

/// Puts `bytes` at `path`: after a crash at any point the file holds either all of the old or all of the new bytes.
///
/// # Errors
/// [`DurableError`]; the old file is untouched and no temporary is left, unless the process itself died.
pub fn write_file(path: &Path, bytes: &[u8], attributes: Attributes) -> Result<(), DurableError> {
    let staged = Staged::new(path, bytes, attributes)?;
    staged.sync()?;
    staged.publish()?;
    sync_directory(parent(path))
}

/// A written temporary that waits for its rename. Several files become durable together at the price of about one:
/// stage all, sync all (the first takes the journal's commit, the others find it done), publish each, and sync their
/// directories once. What is dropped unpublished is removed.
#[derive(Debug)]
pub struct Staged {
    temporary: Option<PathBuf>,
    path: PathBuf,
}

impl Staged {
    /// Writes `bytes` beside `path`, not yet synced.
    ///
    /// # Errors
    /// [`DurableError`]; no temporary is left.
    pub fn new(path: &Path, bytes: &[u8], attributes: Attributes) -> Result<Self, DurableError> {
        let staged = Self {
            temporary: Some(temporary_beside(path)),
            path: path.to_owned(),
        };
        staged.with_temporary(|temporary| write_new_file(temporary, bytes, attributes))?;
        Ok(staged)
    }

    /// Makes the bytes durable.
    ///
    /// # Errors
    /// [`DurableError`].
    pub fn sync(&self) -> Result<(), DurableError> {
        self.with_temporary(sync_file)
    }

    /// The directory to sync once everything in it is published.
    #[must_use]
    pub fn directory(&self) -> &Path {
        parent(&self.path)
    }

    /// Renames the temporary into place.
    ///
    /// # Errors
    /// [`DurableError`]; the old file is untouched then.
    pub fn publish(mut self) -> Result<(), DurableError> {
        self.with_temporary(|temporary| rename(temporary, &self.path))?;
        self.temporary = None;
        Ok(())
    }

    fn with_temporary(
        &self,
        work: impl FnOnce(&Path) -> Result<(), DurableError>,
    ) -> Result<(), DurableError> {
        // The caller knows the file; the temporary has another name at each attempt, and a status that names it would
        // be another status.
        let of_the_file = |error: DurableError| DurableError {
            path: self.path.clone(),
            ..error
        };
        self.temporary
            .as_deref()
            .map_or(Ok(()), work)
            .map_err(of_the_file)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Best effort: a sweep at start removes what stays.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// A file that is too large for memory: written piece by piece under a dot name that nobody reads, and put into its place
/// with [`publish_file`] once it is whole. Dropping it before [`StagedFile::finish`] removes it.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    file: Option<File>,
}

impl StagedFile {
    /// Begins `.platform-NAME` in `directory`, over one that a failure left there.
    ///
    /// # Errors
    /// [`DurableError`] where it cannot be made.
    pub fn create(directory: &Path, name: &str) -> Result<Self, DurableError> {
        let path = directory.join(format!("{TEMPORARY_PREFIX}{name}"));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed("remove", &path)(e)),
            _ => {}
        }
        let file = create_new(&path)?;
        Ok(Self {
            path,
            file: Some(file),
        })
    }

    /// Adds bytes at its end.
    ///
    /// # Errors
    /// [`DurableError`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DurableError> {
        let Self { path, file } = self;
        match file {
            Some(file) => file.write_all(bytes).map_err(failed("write", path)),
            None => Ok(()),
        }
    }

    /// Makes it durable, with its final permission bits; gives its path.
    ///
    /// # Errors
    /// [`DurableError`]; it is removed then.
    pub fn finish(mut self, mode: u32) -> Result<PathBuf, DurableError> {
        if let Some(file) = &self.file {
            file.set_permissions(Permissions::from_mode(mode))
                .map_err(failed("set the mode of", &self.path))?;
            file.sync_all().map_err(failed("sync", &self.path))?;
        }
        self.file = None;
        Ok(std::mem::take(&mut self.path))
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Best effort: a sweep at start removes what stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Renames a finished file over `to`, in one step, and makes that durable.
///
/// # Errors
/// [`DurableError`]; what was at `to` stays then.
pub fn publish_file(from: &Path, to: &Path) -> Result<(), DurableError> {
    rename(from, to)?;
    sync_directory(parent(to))
}

fn create_new(path: &Path) -> Result<File, DurableError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(failed("create", path))
}

/// Puts `bytes` at `path` only where nothing is there yet, without making them durable: for a file inside a directory
/// that is not visible yet, and that [`sync_tree`] makes durable as a whole.
///
/// # Errors
/// [`DurableError`] where the file exists or cannot be written.
pub fn write_new_file(
    path: &Path,
    bytes: &[u8],
    attributes: Attributes,
) -> Result<(), DurableError> {
    let mut file = create_new(path)?;
    // Mode before owner: a process confined to CAP_CHOWN may not chmod what it has given away.
    file.set_permissions(Permissions::from_mode(attributes.mode))
        .map_err(failed("set the mode of", path))?;
    if let Some((uid, gid)) = attributes.owner {
        fchown(&file, Some(uid), Some(gid)).map_err(failed("set the owner of", path))?;
    }
    file.write_all(bytes).map_err(failed("write", path))
}

/// Makes the files directly in `directory` durable, and the directory itself.
///
/// # Errors
/// [`DurableError`] naming what could not be read or synced.
pub fn sync_tree(directory: &Path) -> Result<(), DurableError> {
    let entries = fs::read_dir(directory).map_err(failed("list", directory))?;
    for entry in entries {
        sync_file(&entry.map_err(failed("list", directory))?.path())?;
    }
    sync_directory(directory)
}

fn sync_file(path: &Path) -> Result<(), DurableError> {
    // A descriptor for reading syncs as well, and none is held for each of a thousand files.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path);
    opened
        .and_then(|file| file.sync_all())
        .map_err(failed("sync", path))
}

fn rename(from: &Path, to: &Path) -> Result<(), DurableError> {
    #[allow(clippy::disallowed_methods, reason = "this module is the one place")]
    fs::rename(from, to).map_err(failed("rename into place", to))
}

/// Puts `bytes` at `path` if nothing is there yet; says whether it did. Of two at once exactly one does.
///
/// # Errors
/// [`DurableError`]; what is there is untouched.
pub fn create_file(
    path: &Path,
    bytes: &[u8],
    attributes: Attributes,
) -> Result<bool, DurableError> {
    let staged = Staged::new(path, bytes, attributes)?;
    staged.sync()?;
    let mut created = true;
    staged.with_temporary(|temporary| match fs::hard_link(temporary, path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            created = false;
            Ok(())
        }
        linked => linked.map_err(failed("create", path)),
    })?;
    drop(staged);
    sync_directory(parent(path))?;
    Ok(created)
}

/// Renames a directory that is finished and synced, or on its way out, to another name in the same parent, which the
/// caller syncs. `to` must not exist.
///
/// # Errors
/// [`DurableError`] naming the destination.
pub fn rename_directory(from: &Path, to: &Path) -> Result<(), DurableError> {
    rename(from, to)
}

/// Removes a file and makes the removal durable; a file that is gone already is fine.
///
/// # Errors
/// [`DurableError`] naming the path.
pub fn remove_file(path: &Path) -> Result<(), DurableError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(parent(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("remove", path)(e)),
    }
}

/// Removes our own temporaries that a killed process left directly in `directory`; returns how many.
///
/// # Errors
/// [`DurableError`] naming what could not be read or removed. A missing directory is fine.
pub fn sweep_temporaries(directory: &Path) -> Result<usize, DurableError> {
    let entries = match fs::read_dir(directory) {
        Ok(e) => e,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(failed("list", directory)(e)),
    };
    let mut swept = 0;
    for entry in entries {
        let entry = entry.map_err(failed("list", directory))?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TEMPORARY_PREFIX.as_bytes())
        {
            continue;
        }
        let path = entry.path();
        let is_dir = entry
            .file_type()
            .map_err(failed("inspect", &path))?
            .is_dir();
        let removed = if is_dir {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(failed("remove", &path))?;
        swept += 1;
    }
    Ok(swept)
}

#[cfg(test)]
mod tests;
