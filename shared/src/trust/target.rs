//! What the signed targets say of a bundle (§3.4).

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tough::schema::Target;

use crate::digest::Sha256Digest;
use crate::limits;
use crate::names::{EnvironmentName, GroupName, ReleaseNumber};
use crate::wrap::WrappedIdentity;

/// The member of a target's `custom` that makes it a bundle.
const CUSTOM_MEMBER: &str = "bundle";

/// Which keyring a release was made with; an older one put back is noticed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyringMark {
    /// The keyring's version.
    pub version: u64,
    /// Digest of the keyring object.
    pub sha256: Sha256Digest,
}

/// The agent that a group's nodes should run, as a release's signed facts name it: read before the bundle is opened,
/// so that a bundle of a format that the running agent does not know is opened by one that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentTarget {
    /// The signed target that carries it.
    pub target: String,
    /// Digest of the binary.
    pub sha256: Sha256Digest,
    /// Its length.
    pub bytes: u64,
    /// Its version, for people.
    pub version: String,
}

/// A target that is no bundle: an artifact's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactTarget {
    /// The target's name.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its digest.
    pub sha256: Sha256Digest,
}

/// The signed facts about a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleCustom {
    /// The environment it was made for.
    pub environment: EnvironmentName,
    /// The group it was made for.
    pub group: GroupName,
    /// Its number.
    pub release: ReleaseNumber,
    /// The wrapped age identity that opens it.
    pub identity: WrappedIdentity,
    /// HMAC, with the group's key, of the index without its number: equal for equal content, and it tells a reader
    /// of the bucket nothing about the content.
    pub content: String,
    /// The keyring it was made with.
    pub keyring: KeyringMark,
    /// When it was published.
    pub published_at: Timestamp,
    /// Who published it, as far as the operator's machine knew.
    pub published_by: String,
    /// The agent that adopts it; none leaves every node the agent it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentTarget>,
    /// The names of the targets that the release's artifacts are; its publisher keeps them listed as long as the release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// The release that was current until this one was published: its publisher replaced exactly that. None in the first
    /// of a group, and in those from before this was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<ReleaseNumber>,
    /// The release whose templates' files it brings back, where it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brings_back: Option<ReleaseNumber>,
    /// Where its probes are waived: `content` as it would be if they were not. The same files without a waiver are then no
    /// new release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_unwaived: Option<String>,
}

/// A bundle in the signed targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseTarget {
    /// The target's name.
    pub name: String,
    /// The encrypted object's length in bytes.
    pub length: u64,
    /// The encrypted object's digest.
    pub sha256: Sha256Digest,
    /// The signed facts.
    pub custom: BundleCustom,
}

/// A signed target that claims to be a bundle and is none that we accept.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The custom member does not parse.
    #[error("target {name} has bundle facts that do not parse")]
    Custom {
        /// The target.
        name: String,
        /// What serde said.
        #[source]
        source: serde_json::Error,
    },
    /// It is longer than a bundle may be.
    #[error(
        "target {name} has {length} bytes, more than the {} allowed",
        limits::BUNDLE_BYTES
    )]
    TooLarge {
        /// The target.
        name: String,
        /// Its length.
        length: u64,
    },
    /// It was made for something else.
    #[error("target {name} belongs to {found}, not to {expected}")]
    Foreign {
        /// The target.
        name: String,
        /// `environment/group` in the target.
        found: String,
        /// `environment/group` of the reader.
        expected: String,
    },
    /// Two targets carry one number.
    #[error("the signed targets list release {0} twice")]
    Twice(ReleaseNumber),
}

/// The target name of a release's bundle.
#[must_use]
pub fn bundle_name(release: ReleaseNumber) -> String {
    format!("release-{release}.bundle")
}

impl BundleCustom {
    /// The `custom` of a target.
    ///
    /// # Errors
    /// Never for a value of this crate; serde's own error otherwise.
    pub fn to_custom(&self) -> Result<HashMap<String, Value>, serde_json::Error> {
        Ok(HashMap::from([(
            CUSTOM_MEMBER.to_owned(),
            serde_json::to_value(self)?,
        )]))
    }
}

fn digest_of(target: &Target) -> Sha256Digest {
    let mut raw = [0_u8; 32];
    let digest: &[u8] = &target.hashes.sha256;
    if digest.len() == raw.len() {
        raw.copy_from_slice(digest);
    }
    Sha256Digest::from_bytes(raw)
}

impl ArtifactTarget {
    /// Reads one target that is no bundle.
    pub(super) fn read(name: &str, target: &Target) -> Self {
        Self {
            name: name.to_owned(),
            length: target.length,
            sha256: digest_of(target),
        }
    }
}

impl ReleaseTarget {
    /// Reads one target; none where it is not a bundle (an artifact).
    pub(super) fn read(name: &str, target: &Target) -> Result<Option<Self>, TargetError> {
        let Some(value) = target.custom.get(CUSTOM_MEMBER) else {
            return Ok(None);
        };
        let custom: BundleCustom =
            serde_json::from_value(value.clone()).map_err(|source| TargetError::Custom {
                name: name.to_owned(),
                source,
            })?;
        if target.length > limits::BUNDLE_BYTES {
            return Err(TargetError::TooLarge {
                name: name.to_owned(),
                length: target.length,
            });
        }
        Ok(Some(Self {
            name: name.to_owned(),
            length: target.length,
            sha256: digest_of(target),
            custom,
        }))
    }

    /// Whether the signed facts are for this environment and group (§4.6).
    ///
    /// # Errors
    /// [`TargetError::Foreign`].
    pub fn belongs_to(
        &self,
        environment: &EnvironmentName,
        group: &GroupName,
    ) -> Result<(), TargetError> {
        if self.custom.environment == *environment && self.custom.group == *group {
            return Ok(());
        }
        Err(TargetError::Foreign {
            name: self.name.clone(),
            found: format!("{}/{}", self.custom.environment, self.custom.group),
            expected: format!("{environment}/{group}"),
        })
    }

    /// The release's number.
    #[must_use]
    pub fn release(&self) -> ReleaseNumber {
        self.custom.release
    }
}
