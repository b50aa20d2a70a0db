//! Comparing the disk with the ledger.

use std::collections::BTreeSet;

use shared::names::ReleaseNumber;

use super::Disk;
use super::compare::{DriftKind, by_directory, compare_directory, compare_file};
use super::copy;
use super::error::DiskError;
use super::held::{self, is_held};
use super::ledger::Ledger;
use super::observe::{self, Fingerprints};
use super::paths::{NodePaths, OwnedPlace};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Relative to `/etc/kubernetes` (`agent/…` for the agent's own files).
    pub path: String,
    /// In which way it differs.
    pub kind: DriftKind,
}

/// The disk beside the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The committed release.
    pub release: Option<ReleaseNumber>,
    /// A release that is being applied: files of both may be there.
    pub applying: Option<ReleaseNumber>,
    /// How many files are owned.
    pub files: usize,
    /// Everything that differs.
    pub drift: Vec<Drift>,
    /// Whether the verified copy is there and whole, so that drift can be repaired without the network.
    pub copy_intact: bool,
    /// Files in the manifest directory that are not the agent's: kubelet runs them too.
    pub foreign: Vec<String>,
}

impl Verification {
    /// Whether every owned file is as the ledger has it, and no release is half applied.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.drift.is_empty() && self.applying.is_none()
    }
}

impl Disk {
    /// Compares every owned file with the ledger: bytes, mode and owner.
    ///
    /// # Errors
    /// [`DiskError::Io`] where reading failed.
    pub fn verify(&self) -> Result<Verification, DiskError> {
        Ok(examine(&self.paths, &self.ledger)?.0)
    }

    /// Whether all is as recorded, by inode, size, times, mode and owner of each file only, once a full comparison was
    /// clean. Writes nothing.
    ///
    /// # Errors
    /// As [`Disk::verify`].
    pub fn verify_cheaply(&mut self) -> Result<bool, DiskError> {
        if let Some(known) = &self.fingerprints {
            // What cannot be looked at is no longer known; the full comparison says what it is.
            let same = known.iter().all(|(path, known)| {
                let now: Result<_, DiskError> = observe::fingerprint(path);
                now.is_ok_and(|now| now == *known)
            });
            if same {
                return Ok(true);
            }
        }
        let (verification, fingerprints) = examine(&self.paths, &self.ledger)?;
        let is_clean = verification.is_clean() && verification.copy_intact;
        self.fingerprints = is_clean.then_some(fingerprints);
        Ok(is_clean)
    }

    /// Files in the manifest directory that are not the agent's.
    ///
    /// # Errors
    /// [`DiskError::Io`] where the directory can't be listed.
    pub fn foreign(&self) -> Result<Vec<String>, DiskError> {
        foreign(&self.paths, &self.ledger)
    }
}

/// As [`Disk::verify`], without the lock: for a person beside a running agent.
///
/// # Errors
/// [`DiskError::LedgerDamaged`], or [`DiskError::Io`] where reading failed.
pub fn verify_offline(paths: &NodePaths) -> Result<Verification, DiskError> {
    let Some(ledger) = Ledger::load(paths)? else {
        return Ok(Verification {
            release: None,
            applying: None,
            files: 0,
            drift: Vec::new(),
            copy_intact: true,
            foreign: observe::foreign_manifests(paths, &BTreeSet::new())?,
        });
    };
    Ok(examine(paths, &ledger)?.0)
}

fn foreign(paths: &NodePaths, ledger: &Ledger) -> Result<Vec<String>, DiskError> {
    let owned = ledger
        .files
        .iter()
        .filter_map(|file| match file.path.place() {
            OwnedPlace::Manifest(name) => Some(name),
            _ => None,
        });
    observe::foreign_manifests(paths, &owned.collect())
}

fn examine(paths: &NodePaths, ledger: &Ledger) -> Result<(Verification, Fingerprints), DiskError> {
    let directories = by_directory(&ledger.files);
    let files = ledger.files.iter().map(|file| &file.path);
    let (observed, mut fingerprints) = observe::observe(paths, files, directories.keys());
    let held = held::load(paths)?;
    let mut drift = Vec::new();
    for file in &ledger.files {
        if matches!(file.path.place(), OwnedPlace::Secret { .. }) {
            continue;
        }
        let found = observed.files.get(&file.path);
        if is_held(&held, &file.path) {
            if found.is_some() {
                let path = file.path.to_string();
                let kind = DriftKind::Held;
                drift.push(Drift { path, kind });
            }
            continue;
        }
        if let Some(kind) = compare_file(file, found, observed.owners) {
            let path = file.path.to_string();
            drift.push(Drift { path, kind });
        }
    }
    for (directory, files) in &directories {
        let found = observed.directories.get(directory);
        for (name, kind) in compare_directory(files, found, observed.owners) {
            let path = match name {
                Some(name) => format!("secrets/{directory}/{name}"),
                None => format!("secrets/{directory}"),
            };
            drift.push(Drift { path, kind });
        }
    }
    let mut copy_intact = true;
    if let Some(committed) = &ledger.release {
        let copy = paths.copy(committed.release);
        // One that cannot be looked at is not intact either, and then no fingerprint counts.
        let fingerprint = observe::fingerprint(&copy).ok().flatten();
        fingerprints.insert(copy, fingerprint);
        copy_intact = copy::is_intact(paths, committed);
    }
    let verification = Verification {
        release: ledger.release.map(|committed| committed.release),
        applying: ledger.applying.map(|applying| applying.release),
        files: ledger.files.len(),
        drift,
        copy_intact,
        foreign: foreign(paths, ledger)?,
    };
    Ok((verification, fingerprints))
}
