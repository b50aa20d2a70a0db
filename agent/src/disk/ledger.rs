//! What the agent remembers: which files it owns, with digests, for which release.

use std::collections::BTreeSet;
use std::fs;

use serde::{Deserialize, Serialize};
use shared::bundle::Mode;
use shared::digest::Sha256Digest;
use shared::durable::{self, Attributes};
use shared::names::{EnvironmentName, GroupName, ReleaseNumber};

use super::check::Wanted;
use super::error::DiskError;
use super::observe;
use super::paths::{NodePaths, OwnedPath, OwnedPlace, SecretDirectory};

/// Format number of the ledger that this build writes and the only one it reads.
pub(crate) const LEDGER_FORMAT: u32 = 1;

/// Largest ledger that is read, in bytes: two full releases are an eighth of it.
const LEDGER_BYTES: u64 = 8 * 1024 * 1024;

/// A release as the ledger names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Committed {
    /// Its number.
    pub release: ReleaseNumber,
    /// Digest of its encrypted bundle.
    pub bundle_sha256: Sha256Digest,
    /// Digest of its verified copy in the state directory.
    pub copy_sha256: Sha256Digest,
}

/// A file that the agent owns, as it has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnedFile {
    /// Its place.
    pub path: OwnedPath,
    /// Digest of its bytes.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its permission bits.
    pub mode: Mode,
    /// Its numeric owner; looked at only where the agent may set it.
    pub uid: u32,
    /// Its numeric group; likewise.
    pub gid: u32,
}

/// The ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// See `LEDGER_FORMAT`.
    pub format: u32,
    /// The node's environment.
    pub environment: EnvironmentName,
    /// The node's group.
    pub group: GroupName,
    /// The release that is on the disk.
    pub release: Option<Committed>,
    /// The release that is being applied: the disk holds files of both until it is done.
    pub applying: Option<Committed>,
    /// The files owned, in the order of writing. While a release is applied: its files, then what only the one before had.
    pub files: Vec<OwnedFile>,
    /// The secret directories owned.
    pub secret_directories: BTreeSet<SecretDirectory>,
}

/// The ledger as it lies on the disk: with a digest over itself, so that no damage passes for a memory.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    /// Over the compact JSON of `ledger`.
    sha256: Sha256Digest,
    ledger: Ledger,
}

// === impl Ledger ===

impl Ledger {
    /// The ledger of a node that has no release yet.
    #[must_use]
    pub fn empty(environment: EnvironmentName, group: GroupName) -> Self {
        Self {
            format: LEDGER_FORMAT,
            environment,
            group,
            release: None,
            applying: None,
            files: Vec::new(),
            secret_directories: BTreeSet::new(),
        }
    }

    /// Reads the node's ledger; none where there is none and never was.
    ///
    /// # Errors
    /// [`DiskError::LedgerDamaged`] where it is cut off or changed, or gone although copies of releases are there.
    pub fn load(paths: &NodePaths) -> Result<Option<Self>, DiskError> {
        let path = paths.ledger();
        let damaged = |why: String| DiskError::LedgerDamaged {
            path: path.clone(),
            why,
        };
        let Some(bytes) = observe::read(&path, LEDGER_BYTES)? else {
            if has_entries(paths)? {
                return Err(damaged("is gone although releases were applied".to_owned()));
            }
            return Ok(None);
        };
        let envelope: Envelope = serde_json::from_slice(bytes.expose())
            .map_err(|e| damaged(format!("is cut off or changed ({e})")))?;
        if envelope.ledger.format != LEDGER_FORMAT {
            let found = envelope.ledger.format;
            return Err(damaged(format!(
                "has format {found}, which this agent does not know"
            )));
        }
        let digest = digest(&envelope.ledger).map_err(|e| damaged(e.to_string()))?;
        if digest != envelope.sha256 {
            return Err(damaged("does not have its own digest".to_owned()));
        }
        Ok(Some(envelope.ledger))
    }

    /// Reads the ledger of this very node, or begins one.
    ///
    /// # Errors
    /// As [`Ledger::load`], and [`DiskError::OtherNode`].
    pub(crate) fn load_or_create(
        paths: &NodePaths,
        environment: EnvironmentName,
        group: GroupName,
    ) -> Result<Self, DiskError> {
        let Some(ledger) = Self::load(paths)? else {
            // Written before the first copy, so that copies without a ledger can only mean that it was lost.
            let ledger = Self::empty(environment, group);
            ledger.save(paths)?;
            return Ok(ledger);
        };
        if ledger.environment != environment || ledger.group != group {
            return Err(DiskError::OtherNode {
                path: paths.ledger(),
                environment: ledger.environment,
                group: ledger.group,
            });
        }
        Ok(ledger)
    }

    /// Puts the ledger on the disk, durably.
    ///
    /// # Errors
    /// [`DiskError::Io`]; the old ledger stays then, unless only syncing its directory failed.
    pub(crate) fn save(&self, paths: &NodePaths) -> Result<(), DiskError> {
        let path = paths.ledger();
        let encoded = digest(self).and_then(|sha256| {
            let ledger = self.clone();
            serde_json::to_vec_pretty(&Envelope { sha256, ledger })
        });
        let bytes = encoded.map_err(|e| DiskError::io("encode", &path)(e.into()))?;
        durable::write_file(&path, &bytes, Attributes::mode(0o600))?;
        Ok(())
    }

    /// This ledger while `to` is being applied: what either of the two owns is owned, so that a crash loses nothing.
    pub(crate) fn applying(&self, to: Committed, wanted: &Wanted) -> Self {
        let mut next = self.clone();
        next.applying = Some(to);
        next.files = wanted.files.iter().map(|file| file.owned.clone()).collect();
        let new: BTreeSet<&OwnedPath> = wanted.files.iter().map(|file| &file.owned.path).collect();
        let old = self.files.iter().filter(|file| !new.contains(&file.path));
        next.files.extend(old.cloned());
        next.secret_directories
            .extend(wanted.directories.iter().cloned());
        next
    }

    /// This ledger once `to` is on the disk. Secret directories stay owned until they are gone.
    pub(crate) fn committed(&self, to: Committed, wanted: &Wanted) -> Self {
        let mut next = self.clone();
        next.release = Some(to);
        next.applying = None;
        next.files = wanted.files.iter().map(|file| file.owned.clone()).collect();
        next.secret_directories
            .extend(wanted.directories.iter().cloned());
        next
    }

    /// The secret directories that no owned file is in: they are to be removed.
    pub(crate) fn unused_directories(&self) -> Vec<SecretDirectory> {
        let used: BTreeSet<SecretDirectory> = self
            .files
            .iter()
            .filter_map(|file| match file.path.place() {
                OwnedPlace::Secret { directory, .. } => Some(directory),
                _ => None,
            })
            .collect();
        let unused = self.secret_directories.difference(&used);
        unused.cloned().collect()
    }
}

fn digest(ledger: &Ledger) -> Result<Sha256Digest, serde_json::Error> {
    serde_json::to_vec(ledger).map(|bytes| Sha256Digest::of(&bytes))
}

fn has_entries(paths: &NodePaths) -> Result<bool, DiskError> {
    let releases = paths.releases();
    match fs::read_dir(&releases) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(DiskError::io("list", &releases)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &tempfile::TempDir) -> NodePaths {
        let paths = NodePaths::new(dir.path(), &dir.path().join("state"));
        fs::create_dir_all(paths.releases()).unwrap();
        paths
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::empty("dev".parse().unwrap(), "secure".parse().unwrap());
        let sha256 = Sha256Digest::of(b"x");
        ledger.release = Some(Committed {
            release: ReleaseNumber::new(3).unwrap(),
            bundle_sha256: sha256,
            copy_sha256: sha256,
        });
        ledger.files.push(OwnedFile {
            path: "manifests/a.yaml".parse().unwrap(),
            sha256,
            bytes: 1,
            mode: Mode::new(0o600),
            uid: 0,
            gid: 0,
        });
        ledger
            .secret_directories
            .insert(format!("a/{sha256}").parse().unwrap());
        ledger
    }

    #[test]
    fn comes_back_as_it_was_saved() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        assert_eq!(Ledger::load(&paths).unwrap(), None);
        ledger().save(&paths).unwrap();
        assert_eq!(Ledger::load(&paths).unwrap(), Some(ledger()));
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn every_cut_and_every_changed_digit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        ledger().save(&paths).unwrap();
        let whole = fs::read(paths.ledger()).unwrap();
        for cut in 0..whole.len() {
            fs::write(paths.ledger(), &whole[..cut]).unwrap();
            assert_eq!(
                Ledger::load(&paths).unwrap_err().kind(),
                "ledger_damaged",
                "{cut}"
            );
        }
        for at in 0..whole.len() {
            if !whole[at].is_ascii_digit() {
                continue;
            }
            let mut changed = whole.clone();
            changed[at] = if whole[at] == b'9' {
                b'0'
            } else {
                whole[at] + 1
            };
            fs::write(paths.ledger(), changed).unwrap();
            assert_eq!(
                Ledger::load(&paths).unwrap_err().kind(),
                "ledger_damaged",
                "{at}"
            );
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn a_lost_ledger_is_not_a_new_node() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        fs::write(paths.releases().join("3.tar.zst"), b"x").unwrap();
        let error = Ledger::load(&paths).unwrap_err();
        assert_eq!(error.kind(), "ledger_damaged");
        assert!(error.to_string().contains("is gone"), "{error}");
    }

    #[test]
    fn another_groups_ledger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        ledger().save(&paths).unwrap();
        let open = |e: &str, g: &str| {
            Ledger::load_or_create(&paths, e.parse().unwrap(), g.parse().unwrap())
        };
        assert!(open("dev", "secure").is_ok());
        assert_eq!(open("dev", "compute").unwrap_err().kind(), "other_node");
        assert_eq!(open("prod", "secure").unwrap_err().kind(), "other_node");
    }
}
