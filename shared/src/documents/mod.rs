//! The small JSON objects in the bucket.

mod keyring;
mod node_object;
mod own_files;
mod pki;
mod report;
mod rollout;
mod rotating;
mod rotation;
mod status;

pub use keyring::{
    GroupKeys, KeyringContent, KeyringError, MAX_PLAIN_BYTES, OPERATOR_GROUP, open_keyring,
    seal_keyring,
};
pub use node_object::{GroupKey, NodeObjectError, open_node_object, seal_node_object};
pub use own_files::{OwnFile, OwnFiles};
pub use pki::{
    AtRest, Authority, AuthorityName, BootstrapToken, Certified, EncryptionKey, KeyPair, OlderKey,
    Pki, RewriteMark, SshKey,
};
pub use report::{
    BackupFailed, BackupReport, DECISIONS_KEPT, Decision, LastBackup, ProbeReport, RevertReport,
    RolloutReport, SlotReport, Transition, Waiting,
};
pub use rollout::{
    ANSWER_LINES, FAILED_KEPT, FORGOTTEN_KEPT, FailedAdoption, Forgotten, Halt, Holder, HolderWork,
    InvalidNonce, Nonce, PROBE_LINE_CHARACTERS, PROBE_LINES, Pause, REASON_CHARACTERS,
    ROLLOUT_FORMAT, Retry, RolloutDocument, RolloutDocumentError, RolloutSealError, Unavailable,
    UnavailableWhy, kept_line, kept_lines,
};
pub use rotating::{OutOfStep, Rotating, Step};
pub use rotation::StepMark;
pub use status::{Hold, NodeStatus, Phase, STATUS_FORMAT, StatusError};
