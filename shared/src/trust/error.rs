//! Why metadata was not trusted.

use std::error::Error as StdError;

use super::store::TrustStoreError;
use super::target::TargetError;
use crate::durable::io_kind;
use crate::store::{StoreError, StoreErrorKind};

/// A refresh that did not end in trust; what was trusted before still is.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The metadata on this machine is damaged.
    #[error("the stored trust metadata cannot be used")]
    Store(#[source] TrustStoreError),
    /// The refresh failed.
    #[error("{}", describe(.0))]
    Refresh(#[source] Box<tough::error::Error>),
    /// A document is not signed by the keys that the newest verified root names.
    #[error("the {role} metadata is not signed by the trusted keys (those of root {root})")]
    Unsigned {
        /// Which document.
        role: String,
        /// The version of that root: under a later one than the document's signer knew, it may be a replay.
        root: u64,
        /// What tough said.
        #[source]
        source: Box<tough::error::Error>,
    },
    /// The metadata is genuine, but a target in it is not acceptable.
    #[error("the signed targets cannot be used")]
    Target(#[source] TargetError),
    /// A working directory for the refresh cannot be made.
    #[error("cannot make a working directory for the refresh in {directory}")]
    WorkingDirectory {
        /// Where.
        directory: std::path::PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}

/// The kind of refusal: a label for metrics, and what decides what a person is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrustErrorKind {
    /// The store could not be read; nothing is known.
    Store(StoreErrorKind),
    /// Older than what is trusted already.
    Rollback,
    /// Past its expiry.
    Expired,
    /// Signed by the wrong keys, or by too few.
    Signature,
    /// Not the bytes that the level above promised.
    Mismatch,
    /// Longer than allowed or promised.
    TooLarge,
    /// Not parsable.
    Malformed,
    /// Damaged on this machine.
    LocalState,
    /// This machine's disk is full: nothing is known.
    NoSpace,
    /// This machine's disk cannot be written: nothing is known.
    ReadOnly,
    /// Genuine, but not acceptable here.
    Target,
    /// Anything else.
    Other,
}

// === impl TrustErrorKind ===

impl TrustErrorKind {
    /// A word for metrics labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Store(kind) => kind.label(),
            Self::Rollback => "rollback",
            Self::Expired => "expired",
            Self::Signature => "signature",
            Self::Mismatch => "mismatch",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::LocalState => "local_state",
            Self::NoSpace => "no_space",
            Self::ReadOnly => "read_only",
            Self::Target => "target",
            Self::Other => "other",
        }
    }
}

// === impl TrustError ===

impl TrustError {
    /// What tough refused, under the root of this version.
    pub(super) fn of(error: tough::error::Error, root: Option<u64>) -> Self {
        let role = match &error {
            tough::error::Error::VerifyMetadata { role, .. } => Some(role.to_string()),
            _ => None,
        };
        let source = Box::new(error);
        match role.zip(root) {
            Some((role, root)) => Self::Unsigned { role, root, source },
            None => Self::Refresh(source),
        }
    }

    /// The kind of refusal.
    #[must_use]
    pub fn kind(&self) -> TrustErrorKind {
        match self {
            Self::Store(error) => disk_kind(error).unwrap_or(TrustErrorKind::LocalState),
            Self::WorkingDirectory { source, .. } => {
                disk_kind(source).unwrap_or(TrustErrorKind::LocalState)
            }
            Self::Target(_) => TrustErrorKind::Target,
            Self::Unsigned { .. } => TrustErrorKind::Signature,
            Self::Refresh(error) => kind_of(error),
        }
    }
}

/// What a disk that takes no writes says somewhere in a chain of causes: it is neither damage nor an attack.
fn disk_kind(error: &(dyn StdError + 'static)) -> Option<TrustErrorKind> {
    let mut next = Some(error);
    while let Some(cause) = next {
        match cause.downcast_ref::<std::io::Error>().map(io_kind) {
            Some("no_space") => return Some(TrustErrorKind::NoSpace),
            Some("read_only") => return Some(TrustErrorKind::ReadOnly),
            _ => next = cause.source(),
        }
    }
    None
}

fn kind_of(error: &tough::error::Error) -> TrustErrorKind {
    use tough::error::Error as E;
    match error {
        E::ExpiredMetadata { .. } => TrustErrorKind::Expired,
        E::OlderMetadata { .. }
        | E::OlderSnapshotInTimestamp { .. }
        | E::SnapshotRoleMissing { .. }
        | E::SnapshotRoleRollback { .. } => TrustErrorKind::Rollback,
        E::VerifyMetadata { .. } | E::VerifyRoleMetadata { .. } => TrustErrorKind::Signature,
        E::ParseTrustedMetadata { .. } | E::VerifyTrustedMetadata { .. } => {
            TrustErrorKind::LocalState
        }
        E::VersionMismatch { .. } | E::HashMismatch { .. } => TrustErrorKind::Mismatch,
        E::MaxSizeExceeded { .. } => TrustErrorKind::TooLarge,
        E::ParseMetadata { .. } | E::MetaMissing { .. } => TrustErrorKind::Malformed,
        E::Transport { source, .. } => transport_kind(source),
        // Its working copy among others.
        other => disk_kind(other).unwrap_or(TrustErrorKind::Other),
    }
}

/// tough wraps a limit, a digest and the store's own failure alike in a transport error: look for the cause.
fn transport_kind(error: &(dyn StdError + 'static)) -> TrustErrorKind {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(store) = cause.downcast_ref::<StoreError>() {
            return TrustErrorKind::Store(store.kind);
        }
        if let Some(inner) = cause.downcast_ref::<tough::error::Error>() {
            return kind_of(inner);
        }
        if let Some(transport) = cause.downcast_ref::<tough::TransportError>()
            && transport.kind() == tough::TransportErrorKind::FileNotFound
            && StdError::source(transport).is_none()
        {
            return TrustErrorKind::Store(StoreErrorKind::NotFound);
        }
        next = cause.source();
    }
    TrustErrorKind::Other
}

/// tough's own texts repeat their sources; this says once what happened and leaves the chain to the reader.
fn describe(error: &tough::error::Error) -> String {
    use tough::error::Error as E;
    match error {
        E::Transport { url, .. } => format!("cannot read {}", file_of(url)),
        E::ParseMetadata { role, .. } => format!("the {role} metadata does not parse"),
        E::VerifyMetadata { role, .. } => {
            format!("the {role} metadata is not signed by the trusted keys")
        }
        E::ExpiredMetadata { role, .. } => {
            format!("the {role} metadata has expired: sign it again with `platformctl refresh`")
        }
        E::OlderMetadata {
            role,
            current_version,
            new_version,
            ..
        } => format!(
            "the {role} metadata is version {new_version}, older than version {current_version} trusted already"
        ),
        other => other.to_string(),
    }
}

fn file_of(url: &url::Url) -> &str {
    url.path_segments()
        .and_then(Iterator::last)
        .unwrap_or_default()
}
