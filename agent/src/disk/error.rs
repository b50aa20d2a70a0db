//! What can go wrong on the disk, with the word that metrics use and what a person can do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use shared::bundle::PackError;
use shared::durable::{DurableError, io_kind};
use shared::names::{EnvironmentName, GroupName, ReleaseNumber};

/// Something that is in a release's way on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obstacle {
    /// Where, relative to `/etc/kubernetes`.
    pub path: String,
    /// What is there.
    pub what: &'static str,
}

/// Work on the disk that failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another agent works on this node.
    #[error("{path} is locked by {}: stop that agent, or leave the node to it", holder(.pid))]
    Locked {
        /// The lock.
        path: PathBuf,
        /// The other agent's process, where it could be read.
        pid: Option<i32>,
    },
    /// A call to the operating system failed.
    #[error("cannot {step} {path}{}", advice(.source))]
    Io {
        /// What was tried, as a verb.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The ledger is cut off, changed or gone. Without it the agent does not know which files are its own.
    #[error(
        "the ledger {path} {why}: the agent touches nothing without it. Restore it, or move it and the releases directory \
         beside it away: the agent then starts as on a new node, takes over files that are as the release has them, and \
         names the others"
    )]
    LedgerDamaged {
        /// The ledger.
        path: PathBuf,
        /// In which way.
        why: String,
    },
    /// The state directory belongs to a node of another environment or group.
    #[error(
        "{path} belongs to environment {environment}, group {group}: configure this agent so, or give it another state \
         directory"
    )]
    OtherNode {
        /// The ledger.
        path: PathBuf,
        /// The environment recorded.
        environment: EnvironmentName,
        /// The group recorded.
        group: GroupName,
    },
    /// Files that are not the agent's lie where the release needs its own.
    #[error("files that are not the agent's are in the way of the release: {}", obstacles(.0))]
    Foreign(Vec<Obstacle>),
    /// The verified copy is missing or not what the ledger says.
    #[error(
        "the verified copy {path} of release {release} {why}: nothing was changed. Adopting the release again from the \
         bucket, or a newer one, puts a new copy there"
    )]
    CopyDamaged {
        /// The copy.
        path: PathBuf,
        /// Of which release.
        release: ReleaseNumber,
        /// In which way.
        why: String,
    },
    /// The release can't be packed.
    #[error("cannot pack release {release}")]
    Pack {
        /// Which.
        release: ReleaseNumber,
        /// Why.
        #[source]
        source: PackError,
    },
    /// The release is already on this disk with another content: numbers are never given twice.
    #[error(
        "release {release} is already on this node with another bundle: a number is never used twice"
    )]
    Equivocation {
        /// The number.
        release: ReleaseNumber,
    },
    /// The plan was not made for this release.
    #[error("the plan is for release {plan}, not for {release}: make a new one")]
    StalePlan {
        /// The plan's release.
        plan: ReleaseNumber,
        /// The one to apply.
        release: ReleaseNumber,
    },
    /// The time within which a release may be written is over.
    #[error("there is no time left to write the release: the node goes back")]
    OutOfTime,
    /// The group key on this disk can't be read as one.
    #[error("{path} is not a group key: repair puts it back from the verified copy")]
    GroupKey {
        /// The file.
        path: PathBuf,
    },
    /// A test stopped the work at this fail point.
    #[error("stopped at {0}")]
    Stopped(&'static str),
}

fn holder(pid: &Option<i32>) -> String {
    match pid {
        Some(pid) => format!("the agent with process id {pid}"),
        None => "another agent".to_owned(),
    }
}

fn obstacles(list: &[Obstacle]) -> String {
    let shown: Vec<String> = list.iter().map(ToString::to_string).collect();
    format!(
        "{}. The agent touches only what it wrote; move each away",
        shown.join("; ")
    )
}

fn advice(error: &io::Error) -> &'static str {
    match io_kind(error) {
        "no_space" => ": free space on that file system",
        "read_only" => {
            ": the agent must be able to write there; look at the mount and the permissions"
        }
        _ => "",
    }
}

// === impl DiskError ===

impl DiskError {
    /// One word for metrics and status. `no_space` and `read_only` (which includes a missing permission) go away with
    /// their cause; everything but `io` and these needs a person or another release.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "locked",
            Self::Io { source, .. } => io_kind(source),
            Self::LedgerDamaged { .. } => "ledger_damaged",
            Self::OtherNode { .. } => "other_node",
            Self::Foreign(_) => "foreign_file",
            Self::CopyDamaged { .. } => "copy_damaged",
            Self::Pack { .. } => "pack",
            Self::Equivocation { .. } => "equivocation",
            Self::StalePlan { .. } => "stale_plan",
            Self::OutOfTime => "deadline",
            Self::GroupKey { .. } => "group_key",
            Self::Stopped(_) => "stopped",
        }
    }

    /// For `map_err`: `step` on `path` failed.
    pub(crate) fn io<'a>(
        step: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            step,
            path: path.to_owned(),
            source,
        }
    }
}

impl From<DurableError> for DiskError {
    fn from(error: DurableError) -> Self {
        Self::Io {
            step: error.step,
            path: error.path,
            source: error.source,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.path, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    fn io_error(errno: Errno) -> DiskError {
        DurableError {
            step: "write",
            path: PathBuf::from("/x"),
            source: io::Error::from_raw_os_error(errno as i32),
        }
        .into()
    }

    #[test]
    fn kinds_follow_the_operating_system() {
        assert_eq!(io_error(Errno::ENOSPC).kind(), "no_space");
        assert_eq!(io_error(Errno::EDQUOT).kind(), "no_space");
        assert_eq!(io_error(Errno::EROFS).kind(), "read_only");
        assert_eq!(io_error(Errno::EACCES).kind(), "read_only");
        assert_eq!(io_error(Errno::EIO).kind(), "io");
    }

    #[test]
    fn the_text_names_the_path_and_what_to_do_but_not_its_source() {
        let text = io_error(Errno::ENOSPC).to_string();
        assert_eq!(text, "cannot write /x: free space on that file system");
    }
}
