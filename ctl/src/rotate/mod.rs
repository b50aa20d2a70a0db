//! Replacing what the cluster trusts, step by step.
//!
//! `subject` says what rotates and how a step changes the keyring, `decide` which step may follow (pure), `evidence`
//! gathers what the nodes report, `steps` takes a step, `older` keeps the keys that backups need, and `signing` changes the keys that sign releases. All state is
//! in the keyring, changed by compare-and-swap; a rotation that was interrupted goes on where it was.

mod decide;
mod evidence;
mod older;
mod signing;
mod steps;
mod subject;

pub use decide::{
    Evidence, GroupEvidence, NodeEvidence, Obstacle, RolloutEvidence, Said, obstacles,
};
pub use evidence::gather;
pub use older::{OlderView, drop_older, needed_by, older_keys};
pub use signing::{Handover, rotate_signing};
pub use steps::{Choices, Taken, reissue, take};
pub use subject::{Action, Subject};
