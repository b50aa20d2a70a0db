//! A file that lies about only as long as an editor has it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// A file of mode 0600 in a directory of mode 0700, in memory where the machine has a file system there. Both are wiped
/// when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    file: PathBuf,
    in_memory: bool,
    keep: bool,
}

impl Scratch {
    /// Writes `bytes` to a new file called `name`, below the first of `places` that is in memory, else below the last.
    ///
    /// # Errors
    /// No place that can be written.
    pub fn new(places: &[PathBuf], name: &str, bytes: &[u8]) -> anyhow::Result<Self> {
        let in_memory = |place: &&PathBuf| {
            statfs(place.as_path()).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
        };
        let volatile = places.iter().filter(in_memory).map(|place| (place, true));
        let last = places.last().map(|place| (place, false));
        let mut failure = None;
        for (place, in_memory) in volatile.chain(last) {
            match Self::below(place, name, bytes, in_memory) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => {
                    failure = Some((place, error));
                }
            }
        }
        let (place, error) = failure.context("there is no place for a file to edit")?;
        Err(error).with_context(|| format!("cannot make a file to edit in {}", place.display()))
    }

    /// Where an operator's machine has room for such files, best first.
    #[must_use]
    pub fn places() -> Vec<PathBuf> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        runtime
            .into_iter()
            .chain([PathBuf::from("/dev/shm"), std::env::temp_dir()])
            .collect()
    }

    fn below(place: &Path, name: &str, bytes: &[u8], in_memory: bool) -> io::Result<Self> {
        let random: [u8; 8] = rand::random();
        let directory = place.join(format!("platformctl-{:016x}", u64::from_be_bytes(random)));
        DirBuilder::new().mode(0o700).create(&directory)?;
        let scratch = Self {
            file: directory.join(name),
            directory,
            in_memory,
            keep: false,
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&scratch.file)?;
        file.write_all(bytes)?;
        Ok(scratch)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Whether it is on no disk.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Opens what the editor left: it may have put another file in the place of the first.
    ///
    /// # Errors
    /// The file is gone, or is not a regular one.
    pub fn open(&self) -> anyhow::Result<File> {
        let path = self.file.display();
        let regular = fs::symlink_metadata(&self.file)
            .with_context(|| format!("the editor left no {path}"))?
            .is_file();
        anyhow::ensure!(regular, "{path} is not a regular file any more");
        File::open(&self.file).with_context(|| format!("cannot read {path}"))
    }

    /// Leaves the file where it is, for the operator to take out of it what could not be stored.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.keep = true;
        self.file.clone()
    }

    /// Overwrites everything in the directory, the editor's own copies too, and removes it.
    fn wipe(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                overwrite(&entry.path())?;
            }
        }
        fs::remove_dir_all(&self.directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = self.wipe() {
            let path = self.directory.display();
            tracing::error!(%path, %error, "a secret that was edited could not be wiped: remove it");
        }
    }
}

/// On a disk that writes elsewhere each time this does not reach the old blocks; in memory, and on most disks, it does.
fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    file.rewind()?;
    io::copy(&mut io::Read::take(io::repeat(0), length), &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn private_while_it_is_there_and_gone_afterwards() {
        let place = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(&[place.path().to_owned()], "token", b"hunter2").unwrap();
        let path = scratch.path().to_owned();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        // An editor's backup, and a link that it follows nowhere.
        fs::write(path.with_file_name("token~"), "hunter2").unwrap();
        // A second name shows what is left of the bytes after the wipe.
        let second = place.path().join("second");
        fs::hard_link(&path, &second).unwrap();
        drop(scratch);
        assert_eq!(fs::read(&second).unwrap(), [0; 7]);
        fs::remove_file(second).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_is_kept_stays() {
        let place = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(&[place.path().to_owned()], "token", b"mine").unwrap();
        let kept = scratch.keep();
        assert_eq!(fs::read(kept).unwrap(), b"mine");
    }

    #[test]
    fn memory_is_preferred_and_the_last_place_does() {
        let shm = PathBuf::from("/dev/shm");
        let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let places = [PathBuf::from("/nonexistent"), disk.path().to_owned()];
        let scratch = Scratch::new(&places, "token", b"x").unwrap();
        assert!(scratch.path().starts_with(disk.path()) && !scratch.is_in_memory());
        if statfs(&shm).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC) {
            let scratch = Scratch::new(&[shm.clone(), disk.path().to_owned()], "token", b"x");
            let scratch = scratch.unwrap();
            assert!(scratch.path().starts_with(&shm) && scratch.is_in_memory());
        }
    }
}
