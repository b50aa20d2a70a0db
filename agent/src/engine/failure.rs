//! A step that failed: where, of what kind, and when it is worth another attempt.

use std::error::Error;

use shared::bundle::{IndexProblem, SealError, UnpackError};
use shared::documents::Phase;
use shared::store::StoreError;
use shared::trust::TrustError;
use shared::wrap::WrapError;

use super::choose::ChoiceError;
use super::state::State;
use crate::artifacts::ArtifactError;
use crate::clock::TimeMemoryError;
use crate::disk::{CheckError, DiskError};

/// When a failed step is worth another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// At the next poll, which comes early: it may have passed by then.
    Soon,
    /// At the next poll: somebody has to do something, and may at any time.
    NextPoll,
    /// When the published metadata changes, or at the hourly refresh: the same content would fail the same way.
    OnChange,
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) phase: Phase,
    pub(crate) kind: &'static str,
    pub(crate) retry: Retry,
    pub(crate) error: Box<dyn Error + Send + Sync>,
    /// Where the next attempt for the same release may go on: what was fetched, and what KMS opened, is kept.
    pub(crate) resume: Option<State>,
}

/// Why a pass ended before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    Failed(Box<Failure>),
    /// The process is to end.
    Shutdown,
    /// Another binary is in this one's place.
    Updated,
}

/// What no single call reports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("{what} took longer than {seconds} seconds")]
    Deadline { what: String, seconds: u64 },
    #[error("the bundle that the store gave is not the signed one: {why} ({key})")]
    NotTheSignedBundle { key: String, why: String },
    #[error("cannot refresh the metadata of group {group}")]
    Metadata {
        group: shared::names::GroupName,
        #[source]
        source: Box<TrustError>,
    },
    #[error("the bundle contradicts its signed metadata: {}", list(.0))]
    Contradiction(Vec<IndexProblem>),
    #[error("release {release} is refused: {}", problems.join("; "))]
    Host {
        release: shared::names::ReleaseNumber,
        problems: Vec<String>,
    },
    #[error(
        "agent {version} ({}) was tried and put back: publish another one, or see docs/operations.md",
        sha256.short()
    )]
    UpdateRejected {
        version: String,
        sha256: shared::digest::Sha256Digest,
    },
    #[error(
        "the clock says {now}, but a release was adopted at {remembered}, and the store does not confirm the clock: \
         nothing new is adopted until it is set right"
    )]
    ClockSteppedBack {
        now: jiff::Timestamp,
        remembered: jiff::Timestamp,
    },
    #[error("the published metadata expired at {0}: sign it again with `platformctl refresh`")]
    Expired(jiff::Timestamp),
    #[error("a task of the agent ended unexpectedly: this is a bug")]
    Task(#[source] tokio::task::JoinError),
    #[error("this node's member of etcd is in the way: {0}")]
    Etcd(String),
    #[error("an address of the repository does not parse: this is a bug")]
    Address(#[source] Box<dyn Error + Send + Sync>),
}

fn list(problems: &[IndexProblem]) -> String {
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    all.join("; ")
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(
        phase: Phase,
        kind: &'static str,
        retry: Retry,
        error: impl Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            phase,
            kind,
            retry,
            error: Box::new(error),
            resume: None,
        }
    }

    pub(crate) fn resume_at(mut self, state: State) -> Self {
        self.resume = Some(state);
        self
    }

    pub(crate) fn store(phase: Phase, error: StoreError) -> Self {
        let retry = if error.kind.is_transient() {
            Retry::Soon
        } else {
            Retry::NextPoll
        };
        Self::new(phase, error.kind.label(), retry, error)
    }

    pub(crate) fn trust(group: &shared::names::GroupName, error: TrustError) -> Self {
        let kind = error.kind();
        let transient = matches!(kind, shared::trust::TrustErrorKind::Store(k) if k.is_transient());
        let retry = if transient {
            Retry::Soon
        } else {
            Retry::NextPoll
        };
        let error = EngineError::Metadata {
            group: group.clone(),
            source: Box::new(error),
        };
        Self::new(Phase::Verify, kind.label(), retry, error)
    }

    pub(crate) fn choice(error: ChoiceError) -> Self {
        Self::new(Phase::Verify, error.kind(), Retry::OnChange, error)
    }

    /// KMS may answer otherwise at any time (a throttle passes, a policy is mended); a wrapped identity that is not
    /// for this node or is damaged stays so.
    pub(crate) fn unwrap(error: WrapError) -> Self {
        let (kind, retry) = match &error {
            WrapError::Kms { .. } if error.is_transient() => ("kms_unavailable", Retry::Soon),
            WrapError::Kms { .. } => ("kms", Retry::NextPoll),
            WrapError::KeyFile { .. } => ("key_file", Retry::NextPoll),
            WrapError::Method { .. } | WrapError::Key { .. } => ("wrong_key", Retry::OnChange),
            WrapError::Context { .. } => ("wrong_context", Retry::OnChange),
            WrapError::NoIdentity(_) | WrapError::Damaged(_) | WrapError::Local(_) => {
                ("unwrap", Retry::OnChange)
            }
        };
        Self::new(Phase::Decrypt, kind, retry, error)
    }

    pub(crate) fn open(error: SealError) -> Self {
        let kind = match error {
            SealError::TooLarge(_) => "too_large",
            _ => "decrypt",
        };
        Self::new(Phase::Decrypt, kind, Retry::OnChange, error)
    }

    pub(crate) fn unpack(error: UnpackError) -> Self {
        Self::new(Phase::Decrypt, "bundle", Retry::OnChange, error)
    }

    pub(crate) fn contradiction(problems: Vec<IndexProblem>) -> Self {
        let error = EngineError::Contradiction(problems);
        Self::new(Phase::Decrypt, "contradiction", Retry::OnChange, error)
    }

    pub(crate) fn check(error: CheckError) -> Self {
        Self::new(Phase::Check, "content", Retry::OnChange, error)
    }

    pub(crate) fn disk(phase: Phase, error: DiskError) -> Self {
        Self::new(phase, error.kind(), Retry::NextPoll, error)
    }

    /// A release that asks of the host what this agent's configuration does not allow.
    pub(crate) fn host(release: shared::names::ReleaseNumber, problems: Vec<String>) -> Self {
        let error = EngineError::Host { release, problems };
        Self::new(Phase::Check, "host", Retry::OnChange, error)
    }

    pub(crate) fn artifact(phase: Phase, error: ArtifactError) -> Self {
        let retry = match &error {
            e if e.is_transient() => Retry::Soon,
            e if e.is_final() => Retry::OnChange,
            _ => Retry::NextPoll,
        };
        Self::new(phase, error.kind(), retry, error)
    }

    pub(crate) fn time_memory(phase: Phase, error: TimeMemoryError) -> Self {
        Self::new(phase, error.kind(), Retry::NextPoll, error)
    }

    pub(crate) fn task(phase: Phase, error: tokio::task::JoinError) -> Self {
        Self::new(phase, "internal", Retry::NextPoll, EngineError::Task(error))
    }

    /// Work that has no object of its own: the phase says what it was.
    /// `what` names the object: "reading groups/secure/metadata/timestamp.json".
    pub(crate) fn deadline(phase: Phase, what: String, limit: std::time::Duration) -> Self {
        let seconds = limit.as_secs();
        let error = EngineError::Deadline { what, seconds };
        Self::new(phase, "timeout", Retry::Soon, error)
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        Self::artifact(Phase::Install, error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}
