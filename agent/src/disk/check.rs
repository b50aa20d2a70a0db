//! What a release must be before the first byte of it is written (§6.4).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use shared::backup::{BackupSettings, RestoreOrder, recipient_of};
use shared::bundle::Release;
use shared::check::certificate::{CertProblem, check_pem_files};
use shared::check::manifest::{ManifestProblem, PodSummary, check_manifest};
use shared::check::secret_dir::{
    Attributes, SecretMount, is_own_directory, secret_dir_digest, secret_mount,
};
use shared::check::set::{SetProblem, check_set};
use shared::digest::Sha256Digest;
use shared::documents::GroupKey;
use shared::names::{EntryPath, Place, ReleaseNumber};
use shared::rewrite::RewriteOrder;
use shared::secret::SecretText;

use super::ledger::{Ledger, OwnedFile};
use super::paths::{OwnedPath, OwnedPlace, SecretDirectory};

/// The group's key, which every release brings.
const GROUP_KEY: &str = "group.key";
/// What orders a restore of etcd, and what opens the backup.
const RESTORE: &str = "etcd-restore.json";
const RESTORE_IDENTITY: &str = "etcd-restore.key";
/// How etcd is backed up.
const BACKUP_SETTINGS: &str = "etcd-backup.json";

/// What orders that everything stored be encrypted anew.
const REWRITE: &str = "etcd-rewrite.json";

/// One reason why a release is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckProblem {
    /// Made for another environment or group.
    OtherNode {
        /// For what it was made, `environment/group`.
        found: String,
        /// What this node is.
        expected: String,
    },
    /// Older than what is on the disk.
    Older {
        /// The release on the disk.
        committed: ReleaseNumber,
    },
    /// A release without a manifest over one that has some: kubelet would end every pod of the node.
    NoManifests,
    /// Kubelet would refuse or misread a manifest.
    Manifest {
        /// The file.
        file: String,
        /// What is wrong.
        problem: ManifestProblem,
    },
    /// Manifests that can't lie beside each other.
    Set(SetProblem),
    /// A certificate or key.
    Certificate(CertProblem),
    /// A manifest mounts secrets that are not in this release.
    SecretPath {
        /// The manifest.
        file: String,
        /// The field in it.
        field: String,
        /// The path it names.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file for the agent that this agent does not know, or a group key that is none.
    AgentFile {
        /// The file.
        path: EntryPath,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A release that may not be written, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckError {
    /// The release.
    pub release: ReleaseNumber,
    /// At least one.
    pub problems: Vec<CheckProblem>,
}

/// A release whose content passed every check, with what there is to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedRelease {
    release: Release,
    wanted: Wanted,
}

/// What a node has to hold for a release: no contents, only what to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) release: ReleaseNumber,
    /// In the order of writing.
    pub(crate) files: Vec<WantedFile>,
    pub(crate) directories: BTreeSet<SecretDirectory>,
    /// Manifest file name → its pod.
    pub(crate) pods: BTreeMap<String, PodSummary>,
}

/// One file of a release: its entry in the bundle, and what it has to be on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedFile {
    pub(crate) entry: EntryPath,
    pub(crate) owned: OwnedFile,
}

/// Checks a release for a node with this ledger, at the time `now`.
pub(crate) fn check(
    release: Release,
    ledger: &Ledger,
    now: Timestamp,
) -> Result<CheckedRelease, CheckError> {
    let digests = directory_digests(&release);
    let mut problems = check_place(&release, ledger);
    let pods = check_manifests(&release, &digests, &mut problems);
    check_certificates(&release, now, &mut problems);
    check_agent_files(&release, &mut problems);
    if problems.is_empty() {
        Ok(CheckedRelease {
            wanted: wanted(&release, &digests, pods),
            release,
        })
    } else {
        Err(CheckError {
            release: release.index().release,
            problems,
        })
    }
}

fn check_place(release: &Release, ledger: &Ledger) -> Vec<CheckProblem> {
    let index = release.index();
    let mut problems = Vec::new();
    if index.environment != ledger.environment || index.group != ledger.group {
        problems.push(CheckProblem::OtherNode {
            found: format!("{}/{}", index.environment, index.group),
            expected: format!("{}/{}", ledger.environment, ledger.group),
        });
    }
    // §6.4: not older than what is on disk.
    if let Some(committed) = ledger.release.map(|c| c.release)
        && index.release < committed
    {
        problems.push(CheckProblem::Older { committed });
    }
    // §6.4: not without any manifest where there were some.
    let is_manifest = |path: &OwnedPath| matches!(path.place(), OwnedPlace::Manifest(_));
    let had = ledger.files.iter().any(|file| is_manifest(&file.path));
    let has = |entry: &EntryPath| matches!(entry.place(), Place::Manifest(_));
    if had && !index.files.iter().any(|file| has(&file.path)) {
        problems.push(CheckProblem::NoManifests);
    }
    problems
}

fn check_manifests(
    release: &Release,
    digests: &BTreeMap<String, Sha256Digest>,
    problems: &mut Vec<CheckProblem>,
) -> BTreeMap<String, PodSummary> {
    let mut pods = Vec::new();
    for (entry, bytes) in release.files() {
        let Place::Manifest(file) = entry.path.place() else {
            continue;
        };
        // §6.4: exactly one Pod that the kubelet accepts.
        match check_manifest(file, bytes.expose()) {
            Ok(pod) => pods.push((file.to_owned(), pod)),
            Err(found) => problems.extend(found.into_iter().map(|problem| {
                let file = file.to_owned();
                CheckProblem::Manifest { file, problem }
            })),
        }
    }
    // §6.4: no two of one name or host port.
    problems.extend(check_set(&pods).into_iter().map(CheckProblem::Set));
    for (file, pod) in &pods {
        for mount in &pod.host_paths {
            if let Some(why) = shows_wrong_secrets(&mount.path, pod, digests) {
                problems.push(CheckProblem::SecretPath {
                    file: file.clone(),
                    field: mount.field.clone(),
                    path: mount.path.clone(),
                    why,
                });
            }
        }
    }
    pods.into_iter().collect()
}

/// What is wrong with mounting a path: a pod sees its own secret directory of this release, and no other secrets (§6.4).
fn shows_wrong_secrets(
    path: &str,
    to: &PodSummary,
    digests: &BTreeMap<String, Sha256Digest>,
) -> Option<&'static str> {
    match secret_mount(path) {
        SecretMount::None => None,
        SecretMount::All => Some("is above the secrets of all pods"),
        SecretMount::Part => Some("is not a secret directory of this release"),
        SecretMount::Directory { pod, digest } => {
            let known = digests.get(pod);
            if known.is_none_or(|known| known.to_string() != digest) {
                Some("is not a secret directory of this release")
            } else if !is_own_directory(pod, &to.name) {
                Some("is the secret directory of another pod")
            } else {
                None
            }
        }
    }
}

fn check_certificates(release: &Release, now: Timestamp, problems: &mut Vec<CheckProblem>) {
    let mut directories: BTreeMap<String, BTreeMap<String, &[u8]>> = BTreeMap::new();
    for (entry, bytes) in release.files() {
        let Some((directory, name)) = entry.path.as_str().rsplit_once('/') else {
            continue;
        };
        if matches!(entry.path.place(), Place::Secret { .. } | Place::Host(_)) {
            let files = directories.entry(directory.to_owned()).or_default();
            files.insert(name.to_owned(), bytes.expose());
        }
    }
    // §6.4: certificates parse, match their keys and are valid now.
    for (directory, files) in &directories {
        let report = check_pem_files(directory, files, now);
        problems.extend(report.problems.into_iter().map(CheckProblem::Certificate));
    }
}

fn check_agent_files(release: &Release, problems: &mut Vec<CheckProblem>) {
    for (entry, bytes) in release.files() {
        let Place::Agent(name) = entry.path.place() else {
            continue;
        };
        let text = std::str::from_utf8(bytes.expose()).ok();
        let why = if entry.mode.bits() & 0o077 != 0 {
            Some("its mode lets others read it")
        } else {
            match name {
                GROUP_KEY => text
                    .is_none_or(|text| text.parse::<GroupKey>().is_err())
                    .then_some("it is not a group key"),
                BACKUP_SETTINGS => BackupSettings::from_file(bytes.expose())
                    .is_err()
                    .then_some("it does not say how etcd is backed up"),
                RESTORE => {
                    let index = release.index();
                    let order =
                        RestoreOrder::from_file(bytes.expose(), &index.environment, &index.group);
                    order.is_err().then_some("it orders no restore that can be")
                }
                RESTORE_IDENTITY => {
                    let text = text.map(|text| SecretText::new(text.trim().to_owned()));
                    text.is_none_or(|text| recipient_of(&text).is_err())
                        .then_some("it is no age identity")
                }
                REWRITE => RewriteOrder::from_file(bytes.expose())
                    .is_err()
                    .then_some("it does not say what to rewrite"),
                _ => Some("this agent does not know that file"),
            }
        };
        let Some(why) = why else {
            continue;
        };
        problems.push(CheckProblem::AgentFile {
            path: entry.path.clone(),
            why,
        });
    }
}

fn directory_digests(release: &Release) -> BTreeMap<String, Sha256Digest> {
    let digest = |files: BTreeMap<&str, (Attributes, &[u8])>| {
        let named: BTreeMap<String, (Attributes, &[u8])> = files
            .into_iter()
            .map(|(name, file)| (name.to_owned(), file))
            .collect();
        secret_dir_digest(&named).parse().ok()
    };
    release
        .secret_directories()
        .into_iter()
        .filter_map(|(pod, files)| Some((pod.to_owned(), digest(files)?)))
        .collect()
}

fn wanted(
    release: &Release,
    digests: &BTreeMap<String, Sha256Digest>,
    pods: BTreeMap<String, PodSummary>,
) -> Wanted {
    let index = release.index();
    let files = index.files.iter().filter_map(|file| {
        Some(WantedFile {
            entry: file.path.clone(),
            owned: OwnedFile {
                path: OwnedPath::of(&file.path, digests).ok()?,
                sha256: file.sha256,
                bytes: file.bytes,
                mode: file.mode,
                uid: file.uid,
                gid: file.gid,
            },
        })
    });
    let directories = digests.iter().map(|(pod, digest)| SecretDirectory {
        pod: pod.clone(),
        digest: *digest,
    });
    Wanted {
        release: index.release,
        files: files.collect(),
        directories: directories.collect(),
        pods,
    }
}

// === impl CheckedRelease ===

impl CheckedRelease {
    /// A release that was checked before it was kept on this node. What a newer agent or a later hour would say about
    /// it is no reason to leave the node without it.
    pub(crate) fn kept(release: Release) -> Self {
        let digests = directory_digests(&release);
        let pods = check_manifests(&release, &digests, &mut Vec::new());
        Self {
            wanted: wanted(&release, &digests, pods),
            release,
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> ReleaseNumber {
        self.wanted.release
    }

    /// The release itself.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Its pods: manifest file name → pod.
    #[must_use]
    pub fn pods(&self) -> &BTreeMap<String, PodSummary> {
        &self.wanted.pods
    }

    pub(crate) fn wanted(&self) -> &Wanted {
        &self.wanted
    }
}

// === impl CheckError ===

impl std::error::Error for CheckError {}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        write!(
            f,
            "release {} is refused: {}",
            self.release,
            list.join("; ")
        )
    }
}

impl fmt::Display for CheckProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherNode { found, expected } => {
                write!(f, "it was made for {found}, and this node is {expected}")
            }
            Self::Older { committed } => {
                write!(f, "release {committed} is already on this node")
            }
            Self::NoManifests => {
                f.write_str("it has no manifest, and would end every pod of this node")
            }
            Self::Manifest { file, problem } => write!(f, "manifests/{file}: {problem}"),
            Self::Set(problem) => problem.fmt(f),
            Self::Certificate(problem) => problem.fmt(f),
            Self::SecretPath {
                file,
                field,
                path,
                why,
            } => write!(f, "manifests/{file}: {field}: {path:?} {why}"),
            Self::AgentFile { path, why } => write!(f, "{path}: {why}"),
        }
    }
}
