//! The operators' own secret files in the keyring: a registry credential, an OIDC client, whatever a pod needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bundle::Mode;
use crate::names::GroupName;
use crate::secret::SecretBytes;

/// Operators' files by group, pod and name; each goes to `secrets/POD/NAME` of the group's releases.
pub type OwnFiles = BTreeMap<GroupName, BTreeMap<String, BTreeMap<String, OwnFile>>>;

/// One file of an operator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnFile {
    /// What it holds; base64 in the document.
    pub bytes: SecretBytes,
    /// Its permission bits on the node.
    pub mode: Mode,
    /// Its numeric owner on the node.
    pub uid: u32,
    /// Its numeric group on the node.
    pub gid: u32,
}
