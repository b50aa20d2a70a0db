//! Trust is TUF: one repository a group, Ed25519, verified and signed with `tough`.
//!
//! [`refresh`] is the one way metadata becomes trusted, in the agent, in platformctl and in the example client; it
//! gives a [`Trusted`], whose targets may be used ([`refresh_with`] is for the signer, who must be able to renew what
//! has expired). [`TrustStore`] keeps what was verified, byte for byte. [`sign`] is
//! the other side: it makes the documents that `refresh` accepts.

mod error;
mod lone;
mod refresh;
mod role_keys;
pub mod sign;
mod store;
mod target;
mod transport;

pub use error::{TrustError, TrustErrorKind};
pub use lone::{LoneTargets, LoneTargetsError, release_of_lone_targets};
pub use refresh::{Expiration, Expiry, Trusted, refresh, refresh_with};
pub use store::{TrustStore, TrustStoreError};
pub use target::{
    AgentTarget, ArtifactTarget, BundleCustom, KeyringMark, ReleaseTarget, TargetError, bundle_name,
};
pub use transport::{Recorder, StoreTransport, metadata_url, targets_url};

#[cfg(test)]
mod tests;
