//! The small JSON objects in the bucket.

mod keyring;
mod node_object;
mod own_files;
mod pki;
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
    Authority, AuthorityName, BootstrapToken, Certified, EncryptionKey, KeyPair, Pki, SshKey,
};
pub use rotating::{OutOfStep, Rotating, Step};
pub use rotation::StepMark;
pub use status::{Hold, NodeStatus, Phase, STATUS_FORMAT, StatusError};
