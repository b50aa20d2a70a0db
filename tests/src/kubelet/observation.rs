//! What the model of kubelet writes down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// SHA-256 of a content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Absolute path of a secret file as the manifest names it (`/etc/kubernetes/secrets/<pod>/<digest>/<file>`) → content.
pub type SecretSet = BTreeMap<String, Digest>;

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Since the model started.
    pub at: Duration,
    /// What made the model look.
    pub cause: Cause,
    /// What it saw.
    pub finding: Finding,
}

/// What made the model look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A full list of the directory.
    List,
    /// One inotify event.
    Event(Trigger),
}

/// The inotify events kubelet tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A file was made, or renamed to a visible name.
    Create,
    /// Bytes were written in place.
    Write,
    /// Mode, owner or times were changed.
    Chmod,
    /// A file was unlinked.
    Remove,
    /// A visible name was renamed away.
    RenameFrom,
}

/// What the model saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The visible entries of the directory, recorded when they differ from the list before.
    Listed {
        /// By file name. A missing directory is an empty list.
        files: BTreeMap<String, FileState>,
    },
    /// One file, read because of an event.
    Read {
        /// Its name in the directory.
        file: String,
        /// What it held.
        state: FileState,
    },
    /// An event named a visible file that was gone when it was to be read.
    Vanished {
        /// Its name in the directory.
        file: String,
    },
    /// An event said that a visible file is gone: kubelet drops its pod, even if the file is back by now.
    Removed {
        /// Its name in the directory.
        file: String,
    },
    /// The set of pods handed to kubelet's sync loop, recorded when it differs from the set before.
    Set {
        /// `namespace/name` of each.
        pods: BTreeSet<String>,
    },
    /// A pod is started.
    Started {
        /// `namespace/name`.
        pod: String,
        /// What it was started from.
        running: RunningPod,
        /// The manifest was replaced or removed while the secrets were read: they may rightly be gone by then.
        superseded: bool,
    },
    /// A pod is ended, before it is started anew or for good.
    Stopped {
        /// `namespace/name`.
        pod: String,
    },
    /// The secret files under a running pod are not those it was started with, though its manifest still names them.
    SecretsChanged {
        /// `namespace/name`.
        pod: String,
        /// The pod with the secrets as they are now.
        running: RunningPod,
    },
    /// The manifest directory is another inode than before; kubelet's watch stays on the old one.
    DirectoryReplaced,
}

/// What kubelet makes of one visible entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// One pod.
    Pod {
        /// Of the file's bytes.
        digest: Digest,
        /// Whose pod it is.
        identity: PodIdentity,
    },
    /// Nothing kubelet could run; a list leaves it out, and so ends the pod that ran from it.
    Unusable(Problem),
}

/// Who a pod is to kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    /// `namespace/name`; a missing namespace is `default`.
    pub key: String,
    /// Of the decoded object and the file's name: comments, key order and spacing don't change it. Another UID is a restart.
    pub uid: Digest,
}

/// Why an entry is no pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Not YAML, most likely cut off.
    Torn(String),
    /// No document at all: a truncated file.
    Empty,
    /// YAML, but no pod that kubelet would run.
    Invalid(String),
    /// It can't be read.
    Unreadable(String),
    /// No regular file; what it is.
    Stray(&'static str),
}

/// A pod that kubelet runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningPod {
    /// The manifest's name in the directory.
    pub file: String,
    /// Of the manifest's bytes.
    pub digest: Digest,
    /// Every file of every secret directory the manifest names. A directory that is missing adds nothing.
    pub secrets: SecretSet,
}

// === impl Digest ===

impl Digest {
    /// The digest of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    /// The first 12 digits tell a history's contents apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take(6)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

// === impl Problem and causes ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn(why) => write!(f, "torn ({why})"),
            Self::Empty => write!(f, "empty"),
            Self::Invalid(why) => write!(f, "no static pod ({why})"),
            Self::Unreadable(why) => write!(f, "unreadable ({why})"),
            Self::Stray(what) => write!(f, "a {what}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List => write!(f, "list"),
            Self::Event(trigger) => write!(f, "event {trigger:?}"),
        }
    }
}
