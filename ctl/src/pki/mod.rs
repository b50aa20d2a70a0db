//! The cluster's certificates and the secrets beside them: made once, kept in the keyring, made again when due.
//!
//! `names` says whom the certificates speak of, `authority` and `leaf` issue them (ECDSA P-256), `inspect` reads them
//! back to see whether they still are what is wanted, `material` makes what is no certificate, `complete` brings a
//! keyring up to date, `delivery` says which of it each pod and host of a group is given, and `kubeconfig` and
//! `configuration` write the files that hold more than one value.
//!
//! Nothing here looks at a clock: the time is an argument.

mod authority;
mod complete;
mod configuration;
mod delivery;
mod inspect;
mod kubeconfig;
mod leaf;
mod material;
mod names;
mod ssh;

use jiff::{SignedDuration, Timestamp};

pub use authority::{new_authority, next_generation};
pub use complete::complete;
pub use delivery::{Delivery, deliver};
pub use inspect::{CertificateFacts, Stale, inspect, stale};
pub use leaf::{LeafSpec, Usage, issue, issue_for, issue_rewriter, specs};
pub use material::{new_bootstrap_token, new_encryption_key, new_key_pair};
pub use names::{API_PORT, Names};
pub use ssh::new_ssh_key;

/// How long an authority's certificate is valid.
pub const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// How long a leaf is valid, at most: none outlives its authority.
pub const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// How long the certificate is valid with which what is stored is rewritten.
pub const REWRITER_LIFE: SignedDuration = SignedDuration::from_hours(24 * 7);
/// How far a certificate's beginning lies in the past, for nodes whose clocks are behind the operator's.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// Something of the PKI could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate or a key could not be made.
    #[error("cannot make {what}")]
    Make {
        /// Of what.
        what: String,
        /// What rcgen said.
        #[source]
        source: rcgen::Error,
    },
    /// The ssh key could not be made.
    #[error("cannot make the ssh key")]
    SshKey,
    /// A key in the keyring does not parse.
    #[error("the key of {0} in the keyring is damaged")]
    Key(String),
    /// The keyring lacks something: [`complete`] was not called.
    #[error("the keyring has no {0}")]
    Missing(String),
    /// A time that a certificate cannot hold.
    #[error("{0} lies outside of what a certificate can say")]
    Time(Timestamp),
}

fn making(what: impl Into<String>) -> impl FnOnce(rcgen::Error) -> PkiError {
    let what = what.into();
    move |source| PkiError::Make { what, source }
}
