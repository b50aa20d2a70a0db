//! Everything secret that only operators hold: one encrypted object (§2).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::GroupKey;
use super::own_files::OwnFiles;
use super::pki::Pki;
use crate::backup::RestoreOrder;
use crate::bundle::{SealError, new_identity, open, seal};
use crate::etcd::Generation;
use crate::limits;
use crate::names::{EnvironmentName, GroupName};
use crate::secret::{SecretBytes, SecretText};
use crate::trust::sign::RepositoryKeys;
use crate::wrap::{KeyWrap, WrapContext, WrapError, WrappedIdentity};

/// The group name in the keyring's wrap context.
pub const OPERATOR_GROUP: &str = "operator";
const FORMAT: u32 = 1;
/// Largest payload before encryption, in bytes. Base64 makes four bytes of three, and age and the object's other members
/// need a little; so what was written can be read again within [`limits::KEYRING_BYTES`].
pub const MAX_PLAIN_BYTES: u64 = limits::KEYRING_BYTES / 4 * 3 - 64 * 1024;

/// What the keyring holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyringContent {
    /// The environment whose secrets these are.
    pub environment: EnvironmentName,
    /// The keys of each group.
    pub groups: BTreeMap<GroupName, GroupKeys>,
    /// Offline age recipients who can open the keyring and the bundles too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovery_recipients: Vec<String>,
    /// The cluster's certificates and the secrets beside them; none in a keyring from before there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pki: Option<Pki>,
    /// The operators' own secret files.
    #[serde(default, skip_serializing_if = "OwnFiles::is_empty")]
    pub files: OwnFiles,
    /// Which cluster of etcd it is: raised only by a restore or a reform.
    #[serde(default, skip_serializing_if = "is_first")]
    pub etcd_generation: Generation,
    /// The backup that this generation begins with, where it begins with one. It stays as long as the generation does: a member
    /// that began without it would be another cluster under the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_restore: Option<RestoreOrder>,
    /// Nodes are given what opens that backup.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub etcd_restoring: bool,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_first(generation: &Generation) -> bool {
    *generation == Generation::FIRST
}

impl KeyringContent {
    /// A keyring of an environment with nothing in it yet.
    #[must_use]
    pub fn new(environment: EnvironmentName) -> Self {
        Self {
            environment,
            groups: BTreeMap::new(),
            pki: None,
            files: OwnFiles::new(),
            etcd_generation: Generation::FIRST,
            etcd_restore: None,
            etcd_restoring: false,
            recovery_recipients: Vec::new(),
        }
    }
}

/// The keys of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupKeys {
    /// Signs the group's repository.
    pub repository: RepositoryKeys,
    /// Every root so far, oldest first, as the text that was signed; the first is what user data carries.
    pub roots: Vec<String>,
    /// Authenticates what the group's nodes write.
    pub group_key: GroupKey,
    /// The age identity that opens the group's backups: nodes have only what encrypts to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_identity: Option<SecretText>,
    /// While the signing keys change: the last root has the new keys alone, the one before it has both, and what is in
    /// the bucket may have been signed by either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handover: bool,
}

impl GroupKeys {
    /// The roots under which published metadata is acceptable, oldest first; the newest of them decides.
    ///
    /// While keys change, the last root is left out: until the metadata was signed anew, nothing in the bucket would be
    /// acceptable under it.
    #[must_use]
    pub fn accepted_roots(&self) -> &[String] {
        match self.roots.split_last() {
            Some((_, before)) if self.handover && !before.is_empty() => before,
            _ => &self.roots,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyringObject {
    format: u32,
    version: u64,
    environment: EnvironmentName,
    identity: WrappedIdentity,
    payload: String,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// A keyring object that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// It does not parse.
    #[error("the keyring object does not parse")]
    Malformed(#[source] serde_json::Error),
    /// A format this build does not know.
    #[error("the keyring has format {0}, and this platformctl knows format {FORMAT}")]
    Format(u32),
    /// It belongs to another environment.
    #[error("the keyring belongs to environment {found}, not {expected}")]
    Environment {
        /// The environment it names.
        found: EnvironmentName,
        /// The one asked for.
        expected: EnvironmentName,
    },
    /// Its identity cannot be wrapped or unwrapped.
    #[error("the keyring's identity cannot be wrapped or unwrapped")]
    Wrap(#[source] WrapError),
    /// It cannot be encrypted or decrypted.
    #[error("the keyring cannot be encrypted or decrypted")]
    Seal(#[source] SealError),
    /// It is not base64.
    #[error("the keyring's payload is not base64")]
    Encoding,
    /// More than fits into the object.
    #[error(
        "the keyring would hold {0} bytes, more than the {MAX_PLAIN_BYTES} allowed: remove operators' files that are \
         not needed any more (`platformctl secrets list`, `secrets rm`)"
    )]
    TooLarge(usize),
    /// It cannot be written as JSON.
    #[error("the keyring cannot be encoded")]
    Encode(#[source] serde_json::Error),
}

fn context(environment: &EnvironmentName, version: u64) -> WrapContext {
    WrapContext {
        environment: environment.clone(),
        group: OPERATOR_GROUP.to_owned(),
        release: version,
    }
}

/// Encrypts the keyring as `version`, to a fresh identity and the recovery recipients.
///
/// # Errors
/// [`KeyringError`].
pub async fn seal_keyring(
    content: &KeyringContent,
    version: u64,
    wrap: &dyn KeyWrap,
    recovery_recipients: &[String],
) -> Result<Vec<u8>, KeyringError> {
    let plain = SecretBytes::new(serde_json::to_vec(content).map_err(KeyringError::Encode)?);
    if plain.len() as u64 > MAX_PLAIN_BYTES {
        return Err(KeyringError::TooLarge(plain.len()));
    }
    let identity = new_identity();
    let sealed =
        seal(plain.expose(), &identity, recovery_recipients).map_err(KeyringError::Seal)?;
    let wrapped = wrap
        .wrap(&identity, &context(&content.environment, version))
        .await
        .map_err(KeyringError::Wrap)?;
    let object = KeyringObject {
        format: FORMAT,
        version,
        environment: content.environment.clone(),
        identity: wrapped,
        payload: STANDARD.encode(sealed),
    };
    serde_json::to_vec_pretty(&object).map_err(KeyringError::Encode)
}

/// Decrypts a keyring object of `environment`; gives its version too.
///
/// # Errors
/// [`KeyringError`].
pub async fn open_keyring(
    bytes: &[u8],
    environment: &EnvironmentName,
    wrap: &dyn KeyWrap,
) -> Result<(KeyringContent, u64), KeyringError> {
    // Told apart first: a later format may have other members.
    let Format { format } = serde_json::from_slice(bytes).map_err(KeyringError::Malformed)?;
    if format != FORMAT {
        return Err(KeyringError::Format(format));
    }
    let object: KeyringObject = serde_json::from_slice(bytes).map_err(KeyringError::Malformed)?;
    let foreign = |found: EnvironmentName| KeyringError::Environment {
        found,
        expected: environment.clone(),
    };
    if object.environment != *environment {
        return Err(foreign(object.environment));
    }
    let identity = wrap
        .unwrap(&object.identity, &context(environment, object.version))
        .await
        .map_err(KeyringError::Wrap)?;
    let sealed = STANDARD
        .decode(&object.payload)
        .map_err(|_| KeyringError::Encoding)?;
    let plain = open(&sealed, &identity, limits::KEYRING_BYTES).map_err(KeyringError::Seal)?;
    let content: KeyringContent =
        serde_json::from_slice(plain.expose()).map_err(KeyringError::Malformed)?;
    if content.environment != *environment {
        return Err(foreign(content.environment));
    }
    Ok((content, object.version))
}
