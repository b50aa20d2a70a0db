//! Putting what was staged into its place, and taking away what no release lists any more.

use std::fs::File;
use std::io::{self, BufReader, Read as _};

use shared::artifact::read_archive;
use shared::bundle::{Artifact, Unpack};
use shared::digest::Sha256Writer;
use shared::durable::{self, StagedFile};
use shared::names::ReleaseNumber;

use super::ledger::{Installed, InstalledFile, below};
use super::{ArtifactError, Artifacts, Staged};
use crate::disk::DiskError;

impl Artifacts {
    /// Puts everything staged into place, and notes which artifacts `release` does not list (`None`: putting drifted
    /// ones back, which changes no list). Gives the names of those installed anew.
    ///
    /// # Errors
    /// [`ArtifactError`]; what was placed stays and is owned, and the next attempt goes on.
    pub fn place(
        &mut self,
        wanted: Option<(&[Artifact], ReleaseNumber)>,
    ) -> Result<Vec<String>, ArtifactError> {
        let staged = std::mem::take(&mut self.staged);
        let before = self.ledger.clone();
        let mut next = before.clone();
        if let Some((wanted, release)) = wanted {
            for installed in next.installed.values_mut() {
                let listed = wanted.iter().any(|a| a.name == installed.name);
                installed.orphaned_by = match (listed, installed.orphaned_by) {
                    (true, _) => None,
                    (false, by) => Some(by.unwrap_or(release)),
                };
            }
        }
        for staged in &staged {
            let installed = installing(&staged.artifact, &staged.files, &next);
            next.installed.insert(installed.name.clone(), installed);
        }
        if next != before {
            fail::fail_point!("artifacts::ledger.before");
            next.save(&self.ledger_path)?;
            self.ledger = next;
        }
        let mut names = Vec::new();
        for staged in &staged {
            self.place_one(staged)?;
            names.push(staged.artifact.name.clone());
        }
        if !names.is_empty() {
            fail::fail_point!("artifacts::complete.before");
            let mut complete = self.ledger.clone();
            for staged in &staged {
                if let Some(installed) = complete.installed.get_mut(&staged.artifact.name) {
                    installed.complete = true;
                    installed.files.clone_from(&staged.files);
                }
            }
            complete.save(&self.ledger_path)?;
            self.ledger = complete;
            fail::fail_point!("artifacts::complete.after");
            for name in &names {
                self.drifted.remove(name);
                self.remember(name);
            }
        }
        Ok(names)
    }

    fn place_one(&self, staged: &Staged) -> Result<(), ArtifactError> {
        match staged.artifact.unpack {
            Unpack::None => {
                fail::fail_point!("artifacts::file.before");
                let to = below(&self.root, &staged.artifact.path);
                durable::publish_file(&staged.at, &to)?;
                fail::fail_point!("artifacts::file.after");
            }
            Unpack::TarZst => {
                self.unpack(staged)?;
                durable::remove_file(&staged.at)?;
            }
        }
        // What the artifact had and has no more.
        let Some(installed) = self.ledger.installed.get(&staged.artifact.name) else {
            return Ok(());
        };
        for old in &installed.files {
            let is_new = staged.files.iter().any(|f| f.path == old.path);
            if !is_new {
                durable::remove_file(&below(&self.root, &old.path))?;
            }
        }
        Ok(())
    }

    fn unpack(&self, staged: &Staged) -> Result<(), ArtifactError> {
        let directory = below(&self.root, &staged.artifact.path);
        let mode = staged.artifact.mode.bits();
        let packed = File::open(&staged.at).map_err(DiskError::io("read", &staged.at))?;
        let mut failure = None;
        let done = read_archive(BufReader::new(packed), |path, size, bytes| {
            let placed = self.unpack_one(&directory.join(path.as_str()), mode, bytes, size, || {
                let path = format!("{}/{path}", staged.artifact.path);
                staged.files.iter().find(|f| f.path == path)
            });
            placed.map_err(|error| {
                failure = Some(error);
                io::Error::other("see above")
            })
        });
        match (done, failure) {
            (_, Some(error)) => Err(error),
            (Ok(()), None) => Ok(()),
            (Err(source), None) => Err(ArtifactError::Archive {
                name: staged.artifact.name.clone(),
                source,
            }),
        }
    }

    fn unpack_one<'a>(
        &self,
        to: &std::path::Path,
        mode: u32,
        bytes: &mut dyn io::Read,
        size: u64,
        seen: impl FnOnce() -> Option<&'a InstalledFile>,
    ) -> Result<(), ArtifactError> {
        fail::fail_point!("artifacts::file.before");
        let parent = to.parent().unwrap_or(&self.root);
        crate::disk::create_directory(parent, 0o755)?;
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let mut file = StagedFile::create(parent, &format!("unpack-{name}"))?;
        let mut hash = Sha256Writer::default();
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut bytes = bytes.take(size);
        loop {
            let n = bytes
                .read(&mut buffer)
                .map_err(DiskError::io("unpack", to))?;
            if n == 0 {
                break;
            }
            let chunk = buffer.get(..n).unwrap_or_default();
            hash.update(chunk);
            file.write(chunk)?;
        }
        // The archive was looked at before: whoever changed it since does not get its bytes into place.
        if seen().is_none_or(|f| f.sha256 != hash.finish()) {
            return Err(ArtifactError::NotTheSigned {
                name: to.display().to_string(),
                what: "it changed while it was unpacked".to_owned(),
            });
        }
        let finished = file.finish(mode)?;
        durable::publish_file(&finished, to)?;
        fail::fail_point!("artifacts::file.after");
        Ok(())
    }

    /// Whether [`Artifacts::settle`] has anything to do.
    #[must_use]
    pub fn has_orphans(&self, release: ReleaseNumber) -> bool {
        let mut installed = self.ledger.installed.values();
        installed.any(|i| i.orphaned_by.is_some_and(|by| by <= release))
    }

    /// Removes what `release`, which is on the disk, does not list. Gives the names.
    ///
    /// # Errors
    /// A file that cannot be removed; the rest is tried again at the next call.
    pub fn settle(&mut self, release: ReleaseNumber) -> Result<Vec<String>, DiskError> {
        let gone = |i: &&Installed| i.orphaned_by.is_some_and(|by| by <= release);
        let names: Vec<String> = self
            .ledger
            .installed
            .values()
            .filter(gone)
            .map(|i| i.name.clone())
            .collect();
        if names.is_empty() {
            return Ok(names);
        }
        let mut next = self.ledger.clone();
        next.installed.retain(|name, _| !names.contains(name));
        for name in &names {
            let files = self.ledger.installed.get(name).map(|i| &i.files);
            for file in files.into_iter().flatten() {
                if next.owner(&file.path).is_none() {
                    fail::fail_point!("artifacts::settle.file");
                    durable::remove_file(&below(&self.root, &file.path))?;
                    self.fingerprints.remove(&file.path);
                }
            }
        }
        next.save(&self.ledger_path)?;
        self.ledger = next;
        Ok(names)
    }
}

/// The record of an artifact while it is being placed: what it had and what it will have is owned.
fn installing(
    artifact: &Artifact,
    files: &[InstalledFile],
    ledger: &super::ArtifactLedger,
) -> Installed {
    let mut all = files.to_vec();
    let before = ledger.installed.get(&artifact.name);
    let old = before.map_or(&[][..], |i| &i.files);
    let kept = old
        .iter()
        .filter(|o| !files.iter().any(|f| f.path == o.path));
    all.extend(kept.cloned());
    Installed {
        name: artifact.name.clone(),
        target: artifact.target.clone(),
        sha256: artifact.sha256,
        bytes: artifact.bytes,
        path: artifact.path.clone(),
        mode: artifact.mode,
        unpack: artifact.unpack,
        complete: false,
        orphaned_by: None,
        files: all,
    }
}
