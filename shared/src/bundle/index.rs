//! The bundle's table of contents (§3.1).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::etcd::{EtcdSection, problems as etcd_problems};
use super::file::{FileEntry, Mode};
use super::host::{Artifact, Restart, problems as host_problems};
use super::rollout::{RolloutPolicy, problems as rollout_problems};
use crate::limits;
use crate::names::{EntryPath, EnvironmentName, GroupName, ReleaseNumber, UnitName};

/// The bundle's table. The order of `files` is the order in which a node writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Format of the index; see [`limits::INDEX_FORMAT`].
    pub format: u32,
    /// The environment it was made for.
    pub environment: EnvironmentName,
    /// The group it was made for.
    pub group: GroupName,
    /// Its number.
    pub release: ReleaseNumber,
    /// Its files, in the order of writing.
    pub files: Vec<FileEntry>,
    /// Units to restart when a host file changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<Restart>,
    /// Large public files that are installed before all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// How it is rolled out; without it, every node adopts it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutPolicy>,
    /// The etcd that its nodes run, where they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdSection>,
}

/// What is wrong with an index, or between an index and the files that came with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexProblem {
    /// A format this build does not know.
    #[error("index format {found} is not the known format {known}")]
    Format {
        /// The format found.
        found: u32,
        /// The one format known.
        known: u32,
    },
    /// Made for another environment.
    #[error("the bundle was made for environment {found}, not {expected}")]
    Environment {
        /// The environment in the index.
        found: EnvironmentName,
        /// The reader's own.
        expected: EnvironmentName,
    },
    /// Made for another group.
    #[error("the bundle was made for group {found}, not {expected}")]
    Group {
        /// The group in the index.
        found: GroupName,
        /// The reader's own.
        expected: GroupName,
    },
    /// Not the release that the signed metadata promised.
    #[error("the bundle carries release {found}, but its signed metadata says {expected}")]
    Release {
        /// The number in the index.
        found: ReleaseNumber,
        /// The number in the signed metadata.
        expected: ReleaseNumber,
    },
    /// More files than allowed.
    #[error("{found} files are more than the {} allowed", limits::FILES)]
    TooManyFiles {
        /// How many.
        found: usize,
    },
    /// A file that is larger than allowed.
    #[error(
        "{path} has {bytes} bytes, more than the {} allowed",
        limits::FILE_BYTES
    )]
    TooLarge {
        /// Which file.
        path: EntryPath,
        /// Its length.
        bytes: u64,
    },
    /// A path listed twice.
    #[error("{0} is listed twice")]
    Duplicate(EntryPath),
    /// A path that is a directory of another path.
    #[error("{0} is both a file and a directory")]
    FileAndDirectory(EntryPath),
    /// Permission bits that no delivered file may have.
    #[error("{path} has mode {mode}: set-id, sticky or world-writable bits are refused")]
    Mode {
        /// Which file.
        path: EntryPath,
        /// Its mode.
        mode: Mode,
    },
    /// Listed, but not there.
    #[error("{0} is listed but missing")]
    Missing(EntryPath),
    /// There, but not listed.
    #[error("{0} is not listed in the index")]
    Unlisted(EntryPath),
    /// A unit restart for a file that is no host file of this release.
    #[error("the restart of {unit} refers to {path}, which is no host file of this release")]
    RestartOn {
        /// The unit.
        unit: UnitName,
        /// The file.
        path: EntryPath,
    },
    /// More artifacts than allowed.
    #[error("{found} artifacts are more than the {} allowed", limits::ARTIFACTS)]
    TooManyArtifacts {
        /// How many.
        found: usize,
    },
    /// An artifact that breaks a rule.
    #[error("artifact {name}: {what}")]
    Artifact {
        /// Its name.
        name: String,
        /// The rule it breaks.
        what: &'static str,
    },
    /// A rollout policy that breaks a rule.
    #[error("rollout: {field} {what}")]
    Rollout {
        /// The field.
        field: String,
        /// The rule it breaks.
        what: String,
    },
    /// A section about etcd that breaks a rule.
    #[error("etcd: {field} {what}")]
    Etcd {
        /// The field.
        field: &'static str,
        /// The rule it breaks.
        what: String,
    },
    /// Bytes that are not those of the index.
    #[error("{0} does not have the digest of the index")]
    Digest(EntryPath),
}

// === impl Index ===

impl Index {
    /// Everything that is wrong with the table itself.
    #[must_use]
    pub fn problems(&self) -> Vec<IndexProblem> {
        let mut problems = Vec::new();
        if self.format != limits::INDEX_FORMAT {
            problems.push(IndexProblem::Format {
                found: self.format,
                known: limits::INDEX_FORMAT,
            });
        }
        if self.files.len() > limits::FILES {
            problems.push(IndexProblem::TooManyFiles {
                found: self.files.len(),
            });
        }
        let paths: BTreeSet<&str> = self.files.iter().map(|f| f.path.as_str()).collect();
        let mut seen = BTreeSet::new();
        for file in &self.files {
            let path = &file.path;
            if !seen.insert(path) {
                problems.push(IndexProblem::Duplicate(path.clone()));
            }
            let ancestors = path.as_str().match_indices('/').map(|(at, _)| at);
            if ancestors
                .filter_map(|at| path.as_str().get(..at))
                .any(|a| paths.contains(a))
            {
                problems.push(IndexProblem::FileAndDirectory(path.clone()));
            }
            if file.bytes > limits::FILE_BYTES {
                problems.push(IndexProblem::TooLarge {
                    path: path.clone(),
                    bytes: file.bytes,
                });
            }
            if file.mode.bits() & 0o7002 != 0 {
                problems.push(IndexProblem::Mode {
                    path: path.clone(),
                    mode: file.mode,
                });
            }
        }
        problems.extend(host_problems(&self.restarts, &self.artifacts, |path| {
            seen.contains(path)
        }));
        problems.extend(rollout_problems(self.rollout.as_ref(), |path| {
            seen.contains(path)
        }));
        problems.extend(etcd_problems(self.etcd.as_ref(), |path| {
            seen.contains(path)
        }));
        problems
    }

    /// What keeps this index from being the one that was expected (§6.3).
    #[must_use]
    pub fn mismatches(
        &self,
        environment: &EnvironmentName,
        group: &GroupName,
        release: ReleaseNumber,
    ) -> Vec<IndexProblem> {
        let mut problems = Vec::new();
        if self.environment != *environment {
            problems.push(IndexProblem::Environment {
                found: self.environment.clone(),
                expected: environment.clone(),
            });
        }
        if self.group != *group {
            problems.push(IndexProblem::Group {
                found: self.group.clone(),
                expected: group.clone(),
            });
        }
        if self.release != release {
            problems.push(IndexProblem::Release {
                found: self.release,
                expected: release,
            });
        }
        problems
    }

    /// The bytes over which two releases are compared: the table without its number.
    ///
    /// # Errors
    /// Never for an index made by this crate; serde's own error otherwise.
    pub fn content_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let content = (
            "content",
            self.format,
            &self.environment,
            &self.group,
            &self.files,
            &self.restarts,
            &self.artifacts,
        );
        match (&self.rollout, &self.etcd) {
            (None, None) => serde_json::to_vec(&content),
            (Some(policy), None) => serde_json::to_vec(&(content, policy)),
            (policy, Some(etcd)) => serde_json::to_vec(&(content, policy, etcd)),
        }
    }
}
