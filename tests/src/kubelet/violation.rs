//! What a history may not contain.

use std::fmt;
use std::time::Duration;

use super::observation::{Cause, Digest, Problem};

/// One thing a correct writer can't have caused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Since the model started.
    pub at: Duration,
    /// What made the model look.
    pub cause: Cause,
    /// What is wrong.
    pub breach: Breach,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breach {
    /// A file that kubelet can't run: torn, empty, invalid, unreadable, or no regular file.
    Unusable {
        /// The file's name.
        file: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A visible name of neither release.
    StrayFile {
        /// The file's name.
        file: String,
    },
    /// A good pod, but of neither release: half of one can be another valid pod.
    UnknownContent {
        /// The file's name.
        file: String,
        /// Of what it held.
        digest: Digest,
    },
    /// Two files with one pod: which of them runs depends on how kubelet looked.
    DuplicatePod {
        /// `namespace/name`.
        pod: String,
        /// Both files' names.
        files: [String; 2],
    },
    /// A file of both releases was seen and then was absent, or was taken away for a moment.
    MissingFile {
        /// The file's name.
        file: String,
    },
    /// Kubelet was handed no pod at all after it had some: it ends every static pod.
    EmptySet,
    /// The manifest directory itself was exchanged, which kubelet's watch doesn't follow.
    DirectorySwapped,
    /// A pod found none of the secrets it names.
    SecretsMissing {
        /// `namespace/name`.
        pod: String,
    },
    /// A pod found some of its release's secrets, and not all.
    SecretsHalfFilled {
        /// `namespace/name`.
        pod: String,
        /// The paths it lacks.
        missing: Vec<String>,
    },
    /// A pod found secrets of another release than its own, or of several.
    SecretsMixed {
        /// `namespace/name`.
        pod: String,
        /// The paths that are not of its own release.
        foreign: Vec<String>,
    },
    /// A pod found a secret that belongs to no release, such as a torn one.
    SecretsUnknown {
        /// `namespace/name`.
        pod: String,
        /// The paths.
        unknown: Vec<String>,
    },
    /// A pod was ended and started again from the same bytes.
    NeedlessRestart {
        /// `namespace/name`.
        pod: String,
        /// Of the manifest.
        digest: Digest,
    },
}

// === impl Display ===

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3} s ({}): {}",
            self.at.as_secs_f64(),
            self.cause,
            self.breach
        )
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable { file, problem } => write!(f, "{file} is {problem}"),
            Self::StrayFile { file } => write!(f, "{file} is of neither release"),
            Self::UnknownContent { file, digest } => {
                write!(f, "{file} holds {digest:?}, which is of neither release")
            }
            Self::DuplicatePod {
                pod,
                files: [first, second],
            } => write!(f, "{first} and {second} are both {pod}"),
            Self::MissingFile { file } => write!(f, "{file} was taken away"),
            Self::EmptySet => write!(f, "no pod is left"),
            Self::DirectorySwapped => write!(f, "the manifest directory was exchanged"),
            Self::SecretsMissing { pod } => write!(f, "{pod} found no secrets"),
            Self::SecretsHalfFilled { pod, missing } => {
                write!(f, "{pod} lacks {}", missing.join(", "))
            }
            Self::SecretsMixed { pod, foreign } => {
                write!(f, "{pod} sees another release's {}", foreign.join(", "))
            }
            Self::SecretsUnknown { pod, unknown } => {
                write!(f, "{pod} sees no release's {}", unknown.join(", "))
            }
            Self::NeedlessRestart { pod, digest } => {
                write!(f, "{pod} was restarted from the same {digest:?}")
            }
        }
    }
}
