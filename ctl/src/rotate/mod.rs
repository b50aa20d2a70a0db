//! Replacing what the cluster trusts, step by step.
//!
//! `subject` says what rotates and how a step changes the keyring, `decide` which step may follow (pure), `evidence`
//! gathers what the nodes report, `steps` takes a step, and `signing` changes the keys that sign releases. All state is
//! in the keyring, changed by compare-and-swap; a rotation that was interrupted goes on where it was.

mod decide;
mod evidence;
mod signing;
mod steps;
mod subject;

pub use decide::{Evidence, GroupEvidence, NodeEvidence, Obstacle, Said, obstacles};
pub use evidence::gather;
pub use signing::{Handover, rotate_signing};
pub use steps::{Choices, Taken, reissue, take};
pub use subject::{Action, Subject};
