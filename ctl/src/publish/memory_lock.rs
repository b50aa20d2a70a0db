//! Two platformctl at once in one directory: each waits for the other's use of what this machine remembers.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// How long to wait: a look at a bucket behind a slow connection.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to try.
const GLANCE: Duration = Duration::from_millis(50);

/// Held as long as it lives; the kernel lifts it when the process ends.
#[derive(Debug)]
pub(super) struct MemoryLock {
    _file: Flock<File>,
}

impl MemoryLock {
    /// Waits for the directory to be free.
    ///
    /// # Errors
    /// A directory that cannot be used, or one that somebody else holds for a minute.
    pub(super) async fn wait(directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join("lock");
        let began = Instant::now();
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => return Ok(Self { _file: file }),
                Err((_, Errno::EWOULDBLOCK)) if began.elapsed() < PATIENCE => {
                    tokio::time::sleep(GLANCE).await;
                }
                Err((_, Errno::EWOULDBLOCK)) => bail!(
                    "another platformctl holds {} for over {} s: see what it waits for, or end it",
                    path.display(),
                    PATIENCE.as_secs()
                ),
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }
}
