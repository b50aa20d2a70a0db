//! One agent a node: a lock that the kernel drops with the process.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::DiskError;

/// The state directory's lock; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

impl Lock {
    /// Takes the lock, and writes this process's id into it for whoever finds it taken.
    pub(crate) fn take(path: &Path) -> Result<Self, DiskError> {
        // Not through a rename: the lock is on the inode, which must stay the same for every agent.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(path)
            .map_err(DiskError::io("open", path))?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                return Err(DiskError::Locked {
                    path: path.to_owned(),
                    pid: read.ok().and_then(|_| text.trim().parse().ok()),
                });
            }
            Err((_, errno)) => return Err(DiskError::io("lock", path)(errno.into())),
        };
        // Only for the other one's message: a full disk must not keep the agent from starting.
        let written = lock
            .set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "cannot write the process id into the lock");
        }
        Ok(Self(lock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take(&path).unwrap();
        let refused = Lock::take(&path).unwrap_err();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(refused, DiskError::Locked { pid: Some(pid), .. } if pid == own));
        assert_eq!(refused.kind(), "locked");
        drop(first);
        Lock::take(&path).unwrap();
    }
}
