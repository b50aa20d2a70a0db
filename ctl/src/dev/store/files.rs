//! Objects as files: staged beside the buckets, then renamed into place, and read with the ETag of exactly those bytes.
//!
//! An object is one plain file at `BUCKET/KEY` that only ever changes by a rename, so a reader has a whole object
//! however the writer ends. Its ETag is the MD5 of its bytes, as S3's is for a plain upload, and is computed from the
//! file itself, so it is the same after a restart and follows a file that a person edited.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use s3s::crypto::{Checksum, Md5};
use s3s::dto::ETag;
use tempfile::NamedTempFile;
use tokio::sync::OwnedMutexGuard;

/// Where uploads are written before they become objects; not a bucket, as a bucket's name can't start with a dot.
const STAGING: &str = ".staging";

/// Bytes that are read at once when an ETag is computed.
const READ_CHUNK: usize = 256 * 1024;

/// The longest file name that Linux file systems take, in bytes: the limit for one part of a key between slashes.
const NAME_MAX: usize = 255;

/// What tells one version of a file from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// An object that is open for reading: it stays as it is while others replace it.
#[derive(Debug)]
pub(super) struct OpenObject {
    pub(super) file: File,
    pub(super) metadata: Metadata,
    pub(super) etag: ETag,
}

/// The files of all objects, and what is remembered about them.
#[derive(Debug)]
pub(super) struct ObjectFiles {
    root: PathBuf,
    staging: PathBuf,
    etags: Mutex<HashMap<PathBuf, (Identity, ETag)>>,
    locks: Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>,
}

impl ObjectFiles {
    /// Takes over `root`, which exists, and drops uploads that an earlier run did not finish.
    ///
    /// # Errors
    /// Returns the failure to make or to clear the staging directory.
    pub(super) fn new(root: PathBuf) -> io::Result<Self> {
        let staging = root.join(STAGING);
        match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir(&staging)?,
        }
        Ok(Self {
            root,
            staging,
            etags: Mutex::default(),
            locks: Mutex::default(),
        })
    }

    /// The directory of a bucket, which need not exist.
    pub(super) fn bucket(&self, bucket: &str) -> PathBuf {
        self.root.join(bucket)
    }

    /// The file of an object, or nothing for a key that has no file of its own: one with an empty, `.` or `..` part
    /// would be another key's file, one with a part over 255 bytes no file name.
    pub(super) fn object(&self, bucket: &str, key: &str) -> Option<PathBuf> {
        is_storable(key).then(|| self.bucket(bucket).join(key))
    }

    /// Waits until this is the only writer of the object at `path`.
    pub(super) async fn lock(&self, path: &Path) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            let known = locks.get(path).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                // A lock lives as long as someone holds or awaits it: what is left of the others goes here.
                locks.retain(|_, lock| lock.strong_count() > 0);
                let lock = Arc::default();
                locks.insert(path.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// A new file for an upload, removed when it is dropped. Blocks.
    pub(super) fn stage(&self) -> io::Result<NamedTempFile> {
        NamedTempFile::new_in(&self.staging)
    }

    /// Opens the object at `path`, or nothing when there is none. Blocks; reads the file when its ETag is not known.
    pub(super) fn open(&self, path: &Path) -> io::Result<Option<OpenObject>> {
        let file = match File::open(path) {
            Ok(file) => file,
            // A part of the key is an object: there is no object below it.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let identity = Identity::of(&metadata);
        let known = {
            let etags = self.etags.lock().unwrap_or_else(PoisonError::into_inner);
            etags
                .get(path)
                .filter(|(of, _)| *of == identity)
                .map(|(_, etag)| etag.clone())
        };
        let etag = match known {
            Some(etag) => etag,
            None => {
                let etag = compute_etag(&file)?;
                // The file is still open here, so its inode can't be another's yet: a slow reader can put back only
                // an identity that no newer object has.
                self.remember(path, identity, etag.clone());
                etag
            }
        };
        Ok(Some(OpenObject {
            file,
            metadata,
            etag,
        }))
    }

    /// Makes the staged file the object at `path`, in one rename. The caller holds the object's lock. Blocks.
    pub(super) fn commit(&self, staged: NamedTempFile, path: &Path, etag: &ETag) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "a power cut may lose the newest put of the embedded store, never tear one"
        )]
        let file = staged.persist(path).map_err(|failed| failed.error)?;
        self.remember(path, Identity::of(&file.metadata()?), etag.clone());
        Ok(())
    }

    /// Forgets what was remembered about an object that is gone.
    pub(super) fn forget(&self, path: &Path) {
        self.etags
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(path);
    }

    fn remember(&self, path: &Path, identity: Identity, etag: ETag) {
        let mut etags = self.etags.lock().unwrap_or_else(PoisonError::into_inner);
        etags.insert(path.to_owned(), (identity, etag));
    }

    /// Writes a small file beside the objects, whole or not at all. Blocks.
    #[allow(
        clippy::disallowed_methods,
        reason = "a power cut may lose the newest put of the embedded store, never tear one"
    )]
    pub(super) fn write_whole(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut staged = self.stage()?;
        staged.write_all(content)?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        staged
            .persist(path)
            .map(drop)
            .map_err(|failed| failed.error)
    }
}

fn is_storable(key: &str) -> bool {
    !key.contains('\0')
        && key
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && part.len() <= NAME_MAX)
}

fn compute_etag(file: &File) -> io::Result<ETag> {
    let mut md5 = Md5::new();
    let mut buffer = vec![0; READ_CHUNK];
    let mut offset = 0;
    loop {
        let read = match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(etag_of(md5.finalize())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        md5.update(buffer.get(..read).unwrap_or_default());
        offset += read as u64;
    }
}

/// The ETag of the bytes that have this MD5.
pub(super) fn etag_of(md5: [u8; 16]) -> ETag {
    ETag::Strong(md5.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(files: &ObjectFiles, path: &Path, content: &[u8]) {
        let mut staged = files.stage().unwrap();
        staged.write_all(content).unwrap();
        files
            .commit(staged, path, &etag_of(Md5::checksum(content)))
            .unwrap();
    }

    #[test]
    fn the_etag_is_the_md5_of_the_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let files = ObjectFiles::new(directory.path().to_owned()).unwrap();
        let path = files.object("bucket", "a/b").unwrap();
        put(&files, &path, b"hello");
        assert_eq!(
            files.open(&path).unwrap().unwrap().etag.value(),
            "5d41402abc4b2a76b9719d911017c592"
        );
        let again = ObjectFiles::new(directory.path().to_owned()).unwrap();
        assert_eq!(
            again.open(&path).unwrap().unwrap().etag.value(),
            "5d41402abc4b2a76b9719d911017c592"
        );
    }

    #[test]
    fn the_etag_follows_a_file_that_was_edited_behind_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let files = ObjectFiles::new(directory.path().to_owned()).unwrap();
        let path = files.object("bucket", "a").unwrap();
        put(&files, &path, b"hello");
        std::fs::write(&path, b"hello, edited").unwrap();
        let edited = files.open(&path).unwrap().unwrap();
        assert_eq!(edited.etag, compute_etag(&edited.file).unwrap());
    }

    #[test]
    fn an_open_object_stays_as_it_is_while_it_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let files = ObjectFiles::new(directory.path().to_owned()).unwrap();
        let path = files.object("bucket", "a").unwrap();
        put(&files, &path, b"old");
        let open = files.open(&path).unwrap().unwrap();
        put(&files, &path, b"new");
        assert_eq!(open.etag, compute_etag(&open.file).unwrap());
        assert_ne!(open.etag, files.open(&path).unwrap().unwrap().etag);
    }

    #[test]
    fn unfinished_uploads_do_not_outlive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let files = ObjectFiles::new(directory.path().to_owned()).unwrap();
        let left = files.stage().unwrap().keep().unwrap().1;
        assert!(left.exists());
        ObjectFiles::new(directory.path().to_owned()).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn keys_that_would_be_another_keys_file_have_none() {
        for key in ["", "/a", "a/", "a//b", ".", "a/./b", "../a", "a/..", "a\0b"] {
            assert!(!is_storable(key), "{key:?}");
        }
        assert!(!is_storable(&"k".repeat(256)));
        for key in ["a", "a/b.c", "..a", ".hidden", "AROAEXAMPLE:i-0abc.json"] {
            assert!(is_storable(key), "{key:?}");
        }
    }

    #[tokio::test]
    async fn locks_that_nobody_holds_are_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let files = ObjectFiles::new(directory.path().to_owned()).unwrap();
        for n in 0..100 {
            drop(files.lock(Path::new(&n.to_string())).await);
        }
        assert!(files.locks.lock().unwrap().len() <= 1);
    }
}
