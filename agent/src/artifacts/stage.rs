//! Fetching: from the store to a temporary beside the destination, with a running digest.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt as _;
use shared::artifact::read_archive;
use shared::bundle::{Artifact, Unpack};
use shared::digest::{Sha256Digest, Sha256Writer};
use shared::durable::StagedFile;
use shared::names::GroupName;
use shared::store::{ObjectStore, deadline_for, keys};
use tokio::time::timeout;

use super::ledger::{InstalledFile, below};
use super::{ArtifactError, Artifacts, Staged};
use crate::disk::{DiskError, Obstacle};

/// What is to be fetched, and where to.
#[derive(Debug, Clone)]
pub struct Staging {
    /// The artifact.
    pub artifact: Artifact,
    pub(super) directory: PathBuf,
}

impl Staging {
    /// Streams the artifact to a temporary; gives its path. Nothing but the signed bytes is left there.
    ///
    /// # Errors
    /// [`ArtifactError`]; the temporary is gone then.
    pub async fn fetch(
        &self,
        store: Arc<dyn ObjectStore>,
        group: &GroupName,
    ) -> Result<PathBuf, ArtifactError> {
        let Artifact {
            name,
            target,
            sha256,
            bytes,
            mode,
            ..
        } = &self.artifact;
        let key = keys::target(group, sha256, target);
        let mut file = StagedFile::create(&self.directory, &format!("artifact-{sha256}"))?;
        let limit = deadline_for(*bytes);
        let fetching = stream_to(&mut file, store.as_ref(), &key, name, *bytes);
        let (digest, length) = match timeout(limit, fetching).await {
            Ok(done) => done?,
            Err(_) => {
                return Err(ArtifactError::Deadline {
                    name: name.clone(),
                    seconds: limit.as_secs(),
                });
            }
        };
        is_signed(name, (*sha256, *bytes), (digest, length))?;
        let mode = mode.bits();
        let finished = tokio::task::spawn_blocking(move || file.finish(mode));
        match finished.await {
            Ok(done) => Ok(done?),
            Err(e) => Err(DiskError::io("sync", &self.directory)(std::io::Error::other(e)).into()),
        }
    }
}

/// Streams an object of at most `length` bytes into a file; gives digest and length of what came.
///
/// # Errors
/// [`ArtifactError`].
pub(crate) async fn stream_to(
    file: &mut StagedFile,
    store: &dyn ObjectStore,
    key: &str,
    name: &str,
    length: u64,
) -> Result<(Sha256Digest, u64), ArtifactError> {
    let failed = |source| ArtifactError::Store {
        name: name.to_owned(),
        source,
    };
    let mut stream = store.get_stream(key, length).await.map_err(failed)?;
    let mut hash = Sha256Writer::default();
    let mut read = 0;
    while let Some(chunk) = stream.try_next().await.map_err(failed)? {
        file.write(&chunk)?;
        hash.update(&chunk);
        read += chunk.len() as u64;
    }
    Ok((hash.finish(), read))
}

/// Whether digest and length are those that were signed.
pub(crate) fn is_signed(
    name: &str,
    signed: (Sha256Digest, u64),
    found: (Sha256Digest, u64),
) -> Result<(), ArtifactError> {
    let what = if found.1 != signed.1 {
        format!("{} of {} bytes", found.1, signed.1)
    } else if found.0 != signed.0 {
        format!(
            "its digest is {}, not {}",
            found.0.short(),
            signed.0.short()
        )
    } else {
        return Ok(());
    };
    Err(ArtifactError::NotTheSigned {
        name: name.to_owned(),
        what,
    })
}

impl Artifacts {
    /// What of `missing` still has to be fetched. Directories that are missing are made.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub fn to_stage(&mut self, missing: &[Artifact]) -> Result<Vec<Staging>, DiskError> {
        for old in std::mem::take(&mut self.staged) {
            if !missing.contains(&old.artifact) {
                // What an earlier release wanted only takes room.
                let _ = shared::durable::remove_file(&old.at);
            } else if old.at.is_file() {
                self.staged.push(old);
            }
        }
        let mut stagings = Vec::new();
        for artifact in missing {
            if self.staged.iter().any(|s| s.artifact == *artifact) {
                continue;
            }
            let directory = self.directory_of(artifact);
            crate::disk::create_directory(&directory, 0o755)?;
            stagings.push(Staging {
                artifact: artifact.clone(),
                directory,
            });
        }
        Ok(stagings)
    }

    /// Takes a fetched artifact in: looks at what it would write, all of it, before anything is written.
    ///
    /// # Errors
    /// [`ArtifactError`]: an archive that is refused, a file of somebody else in the way.
    pub fn staged(&mut self, artifact: Artifact, at: PathBuf) -> Result<(), ArtifactError> {
        let files = match self.look(&artifact, &at) {
            Ok(files) => files,
            Err(error) => {
                // Best effort: it is swept at the next start.
                let _ = shared::durable::remove_file(&at);
                return Err(error);
            }
        };
        self.staged.push(Staged {
            artifact,
            at,
            files,
        });
        Ok(())
    }

    fn look(
        &self,
        artifact: &Artifact,
        at: &std::path::Path,
    ) -> Result<Vec<InstalledFile>, ArtifactError> {
        let files = match artifact.unpack {
            Unpack::None => vec![InstalledFile {
                path: artifact.path.clone(),
                sha256: artifact.sha256,
                bytes: artifact.bytes,
            }],
            Unpack::TarZst => contents(artifact, at)?,
        };
        for file in &files {
            let others = self
                .staged
                .iter()
                .filter(|s| s.artifact.name != artifact.name);
            let staged = others
                .filter(|s| s.files.iter().any(|f| f.path == file.path))
                .map(|s| &s.artifact.name);
            let owner = self.ledger.owner(&file.path);
            let live = owner
                .filter(|i| i.name != artifact.name && i.complete && i.orphaned_by.is_none())
                .map(|i| &i.name);
            if let Some(other) = staged.chain(live).next() {
                return Err(ArtifactError::Shared {
                    name: artifact.name.clone(),
                    other: other.clone(),
                    path: file.path.clone(),
                });
            }
            if owner.is_none() {
                self.is_free(file)?;
            }
        }
        Ok(files)
    }

    /// What somebody else put there is not overwritten, unless it is the very same.
    fn is_free(&self, file: &InstalledFile) -> Result<(), DiskError> {
        let at = below(&self.root, &file.path);
        let what = match std::fs::symlink_metadata(&at) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(DiskError::io("look at", &at)(e)),
            Ok(m) if !m.is_file() => "no regular file",
            Ok(_) => {
                let found = File::open(&at).and_then(Sha256Writer::of_reader);
                if found.map_err(DiskError::io("read", &at))? == (file.sha256, file.bytes) {
                    return Ok(());
                }
                "a file of somebody else's"
            }
        };
        Err(DiskError::Foreign(vec![Obstacle {
            path: file.path.clone(),
            what,
        }]))
    }
}

/// What an archive holds, by reading all of it once.
fn contents(
    artifact: &Artifact,
    at: &std::path::Path,
) -> Result<Vec<InstalledFile>, ArtifactError> {
    let file = File::open(at).map_err(DiskError::io("read", at))?;
    let mut files = Vec::new();
    read_archive(BufReader::new(file), |path, size, bytes| {
        let (sha256, length) = Sha256Writer::of_reader(bytes.take(size))?;
        files.push(InstalledFile {
            path: format!("{}/{path}", artifact.path),
            sha256,
            bytes: length,
        });
        Ok(())
    })
    .map_err(|source| ArtifactError::Archive {
        name: artifact.name.clone(),
        source,
    })?;
    Ok(files)
}
