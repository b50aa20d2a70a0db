//! The small JSON objects in the bucket.

mod keyring;
mod node_object;
mod status;

pub use keyring::{
    GroupKeys, KeyringContent, KeyringError, OPERATOR_GROUP, open_keyring, seal_keyring,
};
pub use node_object::{GroupKey, NodeObjectError, open_node_object, seal_node_object};
pub use status::{Hold, NodeStatus, Phase, STATUS_FORMAT, StatusError};
