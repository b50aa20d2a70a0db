//! All that the agent does to a node's disk. Synchronous: callers run it on a blocking thread.
//!
//! [`Disk`] is the node's files under one lock. A release is first *checked* ([`CheckedRelease`]), then *planned* (a
//! plain [`Plan`], decided without touching anything), then *applied* step by step so that a crash between any two
//! steps is finished by [`Disk::recover`]. [`Disk::verify`] compares the disk with the ledger and [`Disk::repair`] puts
//! back what differs, from the verified copy, without the network.

mod apply;
mod check;
mod clean;
mod compare;
mod copy;
mod error;
mod held;
mod ledger;
mod lock;
mod observe;
mod paths;
mod plan;
mod pod_end;
mod recover;
mod repair;
mod verify;
mod work;
mod write;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use jiff::Timestamp;
use shared::bundle::{Release, Restart};
use shared::digest::Sha256Digest;
use shared::documents::GroupKey;
use shared::limits;
use shared::names::{EnvironmentName, GroupName, ReleaseNumber};
use shared::secret::SecretBytes;

pub use apply::{ApplyReport, FAIL_POINTS};
pub use check::{CheckError, CheckProblem, CheckedRelease};
pub use compare::DriftKind;
pub use error::{DiskError, Obstacle};
pub use ledger::{Committed, Ledger, OwnedFile};
pub(crate) use observe::read as read_bounded;
pub use paths::{InvalidOwnedPath, NodePaths, OwnedPath, OwnedPlace, SecretDirectory};
pub use plan::{Plan, TakeOver};
pub use pod_end::{HostPorts, PodEnd, PodEnded};
pub use recover::Recovery;
pub use repair::RepairReport;
pub use verify::{Drift, Verification, verify_offline};
pub use work::{FileOutcome, Outcome};
pub(crate) use write::create_directory;

/// A node's disk, held by this process alone.
pub struct Disk {
    paths: NodePaths,
    ledger: Ledger,
    /// Released when dropped.
    _lock: lock::Lock,
    /// Leftovers of a killed process that opening removed.
    swept: usize,
    fingerprints: Option<observe::Fingerprints>,
    /// How long what earlier releases left stays; none where nothing is left.
    leftovers_stay: Option<Duration>,
    pub(crate) pod_end: Box<dyn PodEnd>,
    at_step: AtStep,
}

/// More than a group key ever has, in bytes.
const GROUP_KEY_BYTES: u64 = 4096;

/// Called between any two changes of the disk; an error stops the work there, as a crash would.
type AtStep = Box<dyn Fn(&'static str) -> Result<(), DiskError> + Send + Sync>;

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("paths", &self.paths)
            .field("release", &self.release())
            .finish_non_exhaustive()
    }
}

// === impl Disk ===

impl Disk {
    /// Locks the state directory, removes the temporaries of a killed process, and reads the ledger (a new node gets an
    /// empty one). Directories that are missing are made: kubelet's must be there before kubelet starts.
    ///
    /// # Errors
    /// [`DiskError::Locked`] where another agent runs, [`DiskError::LedgerDamaged`] and [`DiskError::OtherNode`] for a
    /// ledger that can't be this node's.
    pub fn open(
        paths: NodePaths,
        environment: EnvironmentName,
        group: GroupName,
    ) -> Result<Self, DiskError> {
        write::create_directory(paths.state(), write::PRIVATE)?;
        let lock = lock::Lock::take(&paths.lock())?;
        write::create_directory(&paths.releases(), write::PRIVATE)?;
        let ledger = Ledger::load_or_create(&paths, environment, group)?;
        write::create_directory(&paths.manifests(), write::PUBLIC)?;
        write::create_directory(&paths.secrets(), write::PRIVATE)?;
        // Empty on most nodes, and there all the same: a directory that is missing cannot be watched.
        write::create_directory(&paths.host(), write::PRIVATE)?;
        write::create_directory(&paths.addons(), write::PUBLIC)?;
        let swept = recover::sweep(&paths)?;
        let leftovers_stay = clean::found(&paths, &ledger)?;
        Ok(Self {
            paths,
            ledger,
            _lock: lock,
            swept,
            fingerprints: None,
            leftovers_stay,
            pod_end: Box::new(HostPorts::system()),
            at_step: Box::new(apply::fail_point),
        })
    }

    /// The same disk, waiting for the end of pods in another way.
    #[must_use]
    pub fn with_pod_end(mut self, pod_end: Box<dyn PodEnd>) -> Self {
        self.pod_end = pod_end;
        self
    }

    /// Where everything lies.
    #[must_use]
    pub fn paths(&self) -> &NodePaths {
        &self.paths
    }

    /// What the agent owns here.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The release that is committed on this disk.
    #[must_use]
    pub fn release(&self) -> Option<ReleaseNumber> {
        Some(self.ledger.release.as_ref()?.release)
    }

    /// Digest of the committed release's encrypted bundle.
    #[must_use]
    pub fn bundle_digest(&self) -> Option<Sha256Digest> {
        Some(self.ledger.release.as_ref()?.bundle_sha256)
    }

    /// The bytes of an owned file, by its path in the index (a secret without its directory's digest), if they are still
    /// those of the ledger.
    ///
    /// # Errors
    /// [`DiskError::Io`] where it can't be read.
    pub fn owned_bytes(&self, entry: &str) -> Result<Option<SecretBytes>, DiskError> {
        owned_bytes(&self.paths, &self.ledger, entry)
    }

    /// When the first certificate in the files that the agent owns expires; none where there is none, or none can be read.
    #[must_use]
    pub fn earliest_certificate_expiry(&self) -> Option<Timestamp> {
        let of_file = |file: &OwnedFile| {
            let path = self.paths.resolve(&file.path);
            let bytes = observe::read(&path, limits::FILE_BYTES).ok().flatten()?;
            shared::check::certificate::earliest_expiry(bytes.expose())
        };
        self.ledger.files.iter().filter_map(of_file).min()
    }

    /// The unit restarts that the committed release asks for, from its verified copy; none where that can't be read.
    #[must_use]
    pub fn committed_restarts(&self) -> Vec<Restart> {
        let committed = self.ledger.release.as_ref();
        let release = committed.and_then(|c| copy::read(&self.paths, &self.ledger, c).ok());
        release.map_or_else(Vec::new, |r| r.index().restarts.clone())
    }

    /// The group's key; none before the first release.
    ///
    /// # Errors
    /// [`DiskError`] where it can't be read or is no key.
    pub fn group_key(&self) -> Result<Option<GroupKey>, DiskError> {
        read_group_key(&self.paths)
    }

    /// Checks everything in a release that can be wrong, before a byte of it is written.
    ///
    /// # Errors
    /// [`CheckError`] with every problem found.
    pub fn check(&self, release: Release, now: Timestamp) -> Result<CheckedRelease, CheckError> {
        check::check(release, &self.ledger, now)
    }

    /// What has to be done so that this disk holds the release. Reads only.
    ///
    /// # Errors
    /// [`DiskError::Foreign`] where a file of somebody else is in the way; [`DiskError::Io`] where reading failed.
    pub fn plan(&self, checked: &CheckedRelease) -> Result<Plan, DiskError> {
        let observed = self.observe(checked)?;
        plan::plan(&self.ledger, &observed, checked.wanted()).map_err(DiskError::Foreign)
    }

    /// Everything on the disk that the release or the ledger names.
    fn observe(&self, checked: &CheckedRelease) -> Result<observe::Observed, DiskError> {
        let wanted = checked.wanted();
        let new = wanted.files.iter().map(|file| &file.owned.path);
        let files: BTreeSet<&OwnedPath> = self
            .ledger
            .files
            .iter()
            .map(|f| &f.path)
            .chain(new)
            .collect();
        let directories = self.ledger.secret_directories.union(&wanted.directories);
        let (mut observed, _) = observe::observe(&self.paths, files, directories);
        observed.held = held::load(&self.paths)?;
        observed.pods = observe::observe_pods(&self.paths, &self.ledger);
        Ok(observed)
    }
}

/// As [`Disk::owned_bytes`], where the ledger was read without opening the disk.
///
/// # Errors
/// As [`Disk::owned_bytes`].
pub fn owned_bytes(
    paths: &NodePaths,
    ledger: &Ledger,
    entry: &str,
) -> Result<Option<SecretBytes>, DiskError> {
    let is_it = |file: &&OwnedFile| match file.path.place() {
        OwnedPlace::Secret { directory, name } => {
            entry == format!("secrets/{}/{name}", directory.pod)
        }
        _ => file.path.as_str() == entry,
    };
    let Some(file) = ledger.files.iter().find(is_it) else {
        return Ok(None);
    };
    let bytes = observe::read(&paths.resolve(&file.path), limits::FILE_BYTES)?;
    Ok(bytes.filter(|bytes| Sha256Digest::of(bytes.expose()) == file.sha256))
}

/// As [`Disk::group_key`], where the disk could not be opened.
///
/// # Errors
/// As [`Disk::group_key`].
pub fn read_group_key(paths: &NodePaths) -> Result<Option<GroupKey>, DiskError> {
    let path = paths.group_key();
    let Some(bytes) = observe::read(&path, GROUP_KEY_BYTES)? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(bytes.expose()).ok();
    match text.and_then(|text| GroupKey::from_str(text).ok()) {
        Some(key) => Ok(Some(key)),
        None => Err(DiskError::GroupKey { path }),
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
