//! What the keyring remembers of a rotation's last step, beside the secret itself (§2).

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::GroupName;

/// The last step of a rotation: what the next one waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepMark {
    /// The keyring's version with the step in it. A release that was made with this one or a later one delivers it.
    pub keyring: u64,
    /// When the step was taken.
    pub at: Timestamp,
    /// The groups whose files it changed.
    pub groups: BTreeSet<GroupName>,
}
