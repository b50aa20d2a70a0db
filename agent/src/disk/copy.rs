//! The verified copies: a release's plain content in the state directory, for repair and recovery without the network.

use std::fs;
use std::path::PathBuf;

use shared::bundle::{Release, pack, unpack};
use shared::digest::Sha256Digest;
use shared::durable::{self, Attributes};
use shared::limits;
use shared::names::ReleaseNumber;

use super::error::DiskError;
use super::ledger::{Committed, Ledger};
use super::observe;
use super::paths::NodePaths;

/// Keeps a release; gives the digest of the copy.
pub(crate) fn write(paths: &NodePaths, release: &Release) -> Result<Sha256Digest, DiskError> {
    let number = release.index().release;
    let packed = pack(release).map_err(|source| DiskError::Pack {
        release: number,
        source,
    })?;
    let digest = Sha256Digest::of(packed.expose());
    let path = paths.copy(number);
    let kept = observe::read(&path, limits::BUNDLE_BYTES).ok().flatten();
    if kept.is_none_or(|kept| kept != packed) {
        durable::write_file(&path, packed.expose(), Attributes::mode(0o600))?;
    }
    Ok(digest)
}

/// Reads a copy back, strictly.
///
/// # Errors
/// [`DiskError::CopyDamaged`] unless it is whole and of this node.
pub(crate) fn read(
    paths: &NodePaths,
    ledger: &Ledger,
    committed: &Committed,
) -> Result<Release, DiskError> {
    let path = paths.copy(committed.release);
    let damaged = |why: &str| DiskError::CopyDamaged {
        path: path.clone(),
        release: committed.release,
        why: why.to_owned(),
    };
    let bytes = observe::read(&path, limits::BUNDLE_BYTES)?.ok_or_else(|| damaged("is missing"))?;
    if Sha256Digest::of(bytes.expose()) != committed.copy_sha256 {
        return Err(damaged("does not have the digest of the ledger"));
    }
    let release = unpack(bytes.expose()).map_err(|e| damaged(&format!("can't be read ({e})")))?;
    let (environment, group) = (&ledger.environment, &ledger.group);
    let mismatches = release
        .index()
        .mismatches(environment, group, committed.release);
    match mismatches.first() {
        None => Ok(release),
        Some(problem) => Err(damaged(&format!("is another's ({problem})"))),
    }
}

/// Whether the copy is what the ledger says.
pub(crate) fn is_intact(paths: &NodePaths, committed: &Committed) -> bool {
    match observe::read(&paths.copy(committed.release), limits::BUNDLE_BYTES) {
        Ok(Some(bytes)) => Sha256Digest::of(bytes.expose()) == committed.copy_sha256,
        Ok(None) | Err(_) => false,
    }
}

/// Removes every copy but one.
pub(crate) fn remove_others(paths: &NodePaths, keep: ReleaseNumber) -> Result<(), DiskError> {
    for path in others(paths, keep)? {
        durable::remove_file(&path)?;
    }
    Ok(())
}

/// Whether there is another copy than this.
pub(crate) fn others_exist(paths: &NodePaths, keep: ReleaseNumber) -> Result<bool, DiskError> {
    Ok(!others(paths, keep)?.is_empty())
}

fn others(paths: &NodePaths, keep: ReleaseNumber) -> Result<Vec<PathBuf>, DiskError> {
    let mut others = Vec::new();
    let directory = paths.releases();
    let failed = || DiskError::io("list", &directory);
    for entry in fs::read_dir(&directory).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name
            .and_then(|name| name.strip_suffix(".tar.zst"))
            .and_then(|stem| stem.parse().ok())
            .and_then(ReleaseNumber::new);
        if number.is_some_and(|number| number != keep) {
            others.push(path);
        }
    }
    Ok(others)
}
