//! Wrapping a release's age identity: one trait, two implementations (§3.3).
//!
//! The plaintext that is wrapped is an age identity file: comment lines that name the context, then the identity. So
//! `aws kms decrypt` or `age -d -i local.key` gives a file that `age -d -i` takes as it is (break glass without us),
//! and a wrapped identity moved to another environment, group or release is noticed even where the wrapping itself
//! has no notion of a context.

mod kms;
mod local;

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use kms::KmsWrap;
pub use local::LocalWrap;

use crate::names::EnvironmentName;
use crate::secret::SecretText;

/// What a wrapped identity is bound to; for KMS, the encryption context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrapContext {
    /// The environment.
    pub environment: EnvironmentName,
    /// The group's name, or `operator` for the keyring.
    pub group: String,
    /// The release's number, or the keyring's version.
    pub release: u64,
}

/// A wrapped identity as it rides in signed metadata or in the keyring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedIdentity {
    /// Which implementation wrapped it.
    pub method: WrapMethod,
    /// The KMS key's identifier, or the local key's recipient.
    pub key: String,
    /// The wrapped identity, base64.
    pub ciphertext: String,
}

/// How an identity was wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WrapMethod {
    /// AWS KMS Encrypt under an encryption context.
    AwsKms,
    /// age, to a local key file.
    LocalFile,
}

/// A failure to wrap or unwrap; nothing of the identity is in it.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// The key file cannot be read.
    #[error("cannot read the key file {path}")]
    KeyFile {
        /// Which file.
        path: std::path::PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The key file holds no age identity.
    #[error("the key file {0} holds no age identity")]
    NoIdentity(std::path::PathBuf),
    /// Wrapped by the other implementation.
    #[error("the identity was wrapped by {found}, but this side is set up for {expected}")]
    Method {
        /// How it was wrapped.
        found: WrapMethod,
        /// What this side can unwrap.
        expected: WrapMethod,
    },
    /// Wrapped by a key that this side does not use.
    #[error(
        "the identity was wrapped with key {found}, but this side is set up for key {expected}"
    )]
    Key {
        /// The key named beside the ciphertext.
        found: String,
        /// The pinned key.
        expected: String,
    },
    /// The ciphertext is not base64, or what it holds is not an identity file.
    #[error("the wrapped identity is damaged: {0}")]
    Damaged(&'static str),
    /// Made for something else.
    #[error("the wrapped identity belongs to {found}, not to {expected}")]
    Context {
        /// What it was made for.
        found: String,
        /// What it was presented for.
        expected: String,
    },
    /// age failed.
    #[error("the local key cannot open the wrapped identity")]
    Local(#[source] crate::bundle::SealError),
    /// KMS refused or could not be reached.
    #[error("KMS {operation} with key {key} failed")]
    Kms {
        /// Which call.
        operation: &'static str,
        /// With which key.
        key: String,
        /// Whether asking again may help.
        transient: bool,
        /// What the SDK said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Wraps and unwraps age identities.
#[async_trait]
pub trait KeyWrap: fmt::Debug + Send + Sync {
    /// Wraps `identity`, bound to `context`.
    ///
    /// # Errors
    /// [`WrapError`].
    async fn wrap(
        &self,
        identity: &SecretText,
        context: &WrapContext,
    ) -> Result<WrappedIdentity, WrapError>;

    /// Unwraps what was wrapped for the same `context`.
    ///
    /// # Errors
    /// [`WrapError`]; one wrapped for another context is refused.
    async fn unwrap(
        &self,
        wrapped: &WrappedIdentity,
        context: &WrapContext,
    ) -> Result<SecretText, WrapError>;
}

// === impl WrapMethod ===

impl fmt::Display for WrapMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AwsKms => "aws-kms",
            Self::LocalFile => "local-file",
        })
    }
}

// === impl WrapError ===

impl WrapError {
    /// Whether asking again later may help without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Kms {
                transient: true,
                ..
            }
        )
    }
}

// === impl WrapContext ===

impl fmt::Display for WrapContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.environment, self.group, self.release)
    }
}

impl WrapContext {
    /// The identity file that is wrapped.
    fn identity_file(&self, identity: &SecretText) -> SecretText {
        SecretText::new(format!("# {self}\n{}\n", identity.expose()))
    }

    /// Takes the identity out of an unwrapped file, if it was made for this context.
    fn identity_in(&self, file: &[u8]) -> Result<SecretText, WrapError> {
        let text = std::str::from_utf8(file).map_err(|_| WrapError::Damaged("it is not text"))?;
        let (first, rest) = text
            .split_once('\n')
            .ok_or(WrapError::Damaged("it has no context line"))?;
        let expected = self.to_string();
        match first.strip_prefix("# ") {
            Some(found) if found == expected => Ok(SecretText::new(rest.trim().to_owned())),
            Some(found) => Err(WrapError::Context {
                found: found.chars().take(200).collect(),
                expected,
            }),
            None => Err(WrapError::Damaged("it has no context line")),
        }
    }
}

/// Refuses what another implementation or another key has wrapped, before anybody is asked to open it.
fn pinned(wrapped: &WrappedIdentity, method: WrapMethod, key: &str) -> Result<Vec<u8>, WrapError> {
    use base64::Engine as _;
    if wrapped.method != method {
        return Err(WrapError::Method {
            found: wrapped.method,
            expected: method,
        });
    }
    if wrapped.key != key {
        return Err(WrapError::Key {
            found: wrapped.key.clone(),
            expected: key.to_owned(),
        });
    }
    base64::engine::general_purpose::STANDARD
        .decode(&wrapped.ciphertext)
        .map_err(|_| WrapError::Damaged("it is not base64"))
}

fn encoded(ciphertext: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(ciphertext)
}
