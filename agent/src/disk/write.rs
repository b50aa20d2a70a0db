//! Directories, and the attributes that this process may give.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use shared::durable::{self, Attributes};

use super::error::DiskError;
use super::ledger::OwnedFile;

/// Mode of directories that only the agent (and a container runtime, as root) looks into.
pub(crate) const PRIVATE: u32 = 0o700;
/// Mode of directories that others may list, where the umask leaves them that: under the unit of `dist/`, whose umask is
/// 0077, everything that the agent makes is root's alone, and root runs kubelet.
pub(crate) const PUBLIC: u32 = 0o755;

/// Whether this process may give files to other owners. Only root may; others keep all files their own.
pub(crate) fn privileged() -> bool {
    nix::unistd::geteuid().is_root()
}

/// How a file has to be written.
pub(crate) fn attributes(file: &OwnedFile) -> Attributes {
    Attributes {
        mode: file.mode.bits(),
        owner: privileged().then_some((file.uid, file.gid)),
    }
}

/// Makes a directory and its missing parents, durably. One that is there is left as it is.
pub(crate) fn create_directory(path: &Path, mode: u32) -> Result<(), DiskError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_directory(parent, PUBLIC)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(e) => return Err(DiskError::io("make directory", path)(e)),
    }
    if let Some(parent) = parent {
        durable::sync_directory(parent)?;
    }
    Ok(())
}

/// Permission bits of what is at `path`, not following a link.
pub(crate) fn mode_of(metadata: &fs::Metadata) -> u32 {
    metadata.mode() & 0o7777
}
