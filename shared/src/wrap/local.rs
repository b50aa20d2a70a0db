//! Wrapping with a local key file, for environments without AWS.

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{KeyWrap, WrapContext, WrapError, WrapMethod, WrappedIdentity, encoded, pinned};
use crate::bundle::{new_identity, open, seal};
use crate::durable::{self, Attributes, DurableError};
use crate::secret::SecretText;

/// Longest identity file, in bytes.
const IDENTITY_FILE_BYTES: u64 = 4096;

/// Wraps identities with an age key that is read from a file once.
pub struct LocalWrap {
    path: PathBuf,
    key: SecretText,
    recipient: String,
}

impl LocalWrap {
    /// Reads the age identity in `path`; comment lines are passed over, as `age` does.
    ///
    /// # Errors
    /// [`WrapError`] naming the file.
    pub fn from_file(path: &Path) -> Result<Self, WrapError> {
        let text = std::fs::read_to_string(path).map_err(|source| WrapError::KeyFile {
            path: path.to_owned(),
            source,
        })?;
        let text = SecretText::new(text);
        let line = text
            .expose()
            .lines()
            .map(str::trim)
            .find(|l| !l.is_empty() && !l.starts_with('#'))
            .ok_or_else(|| WrapError::NoIdentity(path.to_owned()))?;
        let recipient = line
            .parse::<age::x25519::Identity>()
            .map_err(|_| WrapError::NoIdentity(path.to_owned()))?
            .to_public()
            .to_string();
        Ok(Self {
            path: path.to_owned(),
            key: SecretText::new(line.to_owned()),
            recipient,
        })
    }

    /// Makes a key file (0600) where none is; an existing one is left as it is.
    ///
    /// # Errors
    /// [`DurableError`] naming the file.
    pub fn create_file_if_needed(path: &Path) -> Result<(), DurableError> {
        if path.exists() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|source| DurableError {
                step: "make the directory of",
                path: path.to_owned(),
                source,
            })?;
        }
        let key = new_identity();
        let text = SecretText::new(format!("# platform local wrap key\n{}\n", key.expose()));
        // Of two at once one makes it, and both go on with that one.
        durable::create_file(path, text.expose().as_bytes(), Attributes::mode(0o600)).map(drop)
    }
}

impl fmt::Debug for LocalWrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalWrap")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyWrap for LocalWrap {
    async fn wrap(
        &self,
        identity: &SecretText,
        context: &WrapContext,
    ) -> Result<WrappedIdentity, WrapError> {
        let file = context.identity_file(identity);
        let sealed = seal(file.expose().as_bytes(), &self.key, &[]).map_err(WrapError::Local)?;
        Ok(WrappedIdentity {
            method: WrapMethod::LocalFile,
            key: self.recipient.clone(),
            ciphertext: encoded(&sealed),
        })
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedIdentity,
        context: &WrapContext,
    ) -> Result<SecretText, WrapError> {
        let sealed = pinned(wrapped, WrapMethod::LocalFile, &self.recipient)?;
        let file = open(&sealed, &self.key, IDENTITY_FILE_BYTES).map_err(WrapError::Local)?;
        context.identity_in(file.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::EnvironmentName;

    fn context(group: &str, release: u64) -> WrapContext {
        WrapContext {
            environment: EnvironmentName::new("dev").unwrap(),
            group: group.to_owned(),
            release,
        }
    }

    #[tokio::test]
    async fn bound_to_its_context_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wrap.key");
        LocalWrap::create_file_if_needed(&path).unwrap();
        let wrap = LocalWrap::from_file(&path).unwrap();
        let identity = new_identity();
        let wrapped = wrap.wrap(&identity, &context("secure", 3)).await.unwrap();
        let back = wrap.unwrap(&wrapped, &context("secure", 3)).await.unwrap();
        assert_eq!(back, identity);
        for other in [context("compute", 3), context("secure", 4)] {
            let error = wrap.unwrap(&wrapped, &other).await.unwrap_err();
            assert!(matches!(error, WrapError::Context { .. }), "{error}");
        }
        let second = dir.path().join("other.key");
        LocalWrap::create_file_if_needed(&second).unwrap();
        let other = LocalWrap::from_file(&second).unwrap();
        let error = other
            .unwrap(&wrapped, &context("secure", 3))
            .await
            .unwrap_err();
        assert!(matches!(error, WrapError::Key { .. }), "{error}");
    }

    #[test]
    fn making_a_key_twice_keeps_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wrap.key");
        LocalWrap::create_file_if_needed(&path).unwrap();
        let first = std::fs::read(&path).unwrap();
        LocalWrap::create_file_if_needed(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
    }
}
