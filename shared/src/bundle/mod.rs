//! A release as an index and files, and its one encrypted object: `tar` → `zstd` → `age`.
//!
//! [`Release`] is the checked value: its index and its bytes agree. [`pack`] and [`unpack`] turn it into the plain
//! `tar.zst` and back, strictly; [`seal`] and [`open`] add the encryption. Nothing else makes a [`Release`] from bytes.

mod etcd;
mod file;
mod host;
mod index;
mod pack;
mod release;
mod rollout;
mod seal;
mod unpack;

pub use etcd::{EtcdSection, LEAST_GONE_AFTER, MOST_VOTERS};
pub use file::{FileEntry, Mode, Origin};
pub use host::{Artifact, Restart, Unpack};
pub use index::{Index, IndexProblem};
pub use pack::{PackError, pack};
pub use release::Release;
pub use rollout::{
    InvalidMaxUnavailable, InvalidTimeSpan, MachineTimes, MaxUnavailable, Probe, ProbeCheck,
    RolloutPolicy, TimeSpan, Waiver,
};
pub use seal::{SealError, new_identity, open, seal};
pub(crate) use unpack::irregular;
pub use unpack::{UnpackError, unpack};

/// Name of the first entry of every bundle.
pub const INDEX_NAME: &str = "index.json";

#[cfg(test)]
mod tests;
