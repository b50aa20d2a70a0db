//! Credentials from a file, for a store that is not AWS.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shared::secret::SecretText;

/// An access key and its secret.
#[derive(Debug, Clone)]
pub struct StoreCredentials {
    /// The access key, which is no secret.
    pub access_key: String,
    /// The secret key.
    pub secret_key: SecretText,
}

/// A credentials file that cannot be used; nothing of its content is in it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("cannot read the credentials file {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// Others than its owner can read it.
    #[error(
        "the credentials file {path} has mode {mode:04o}: only its owner may read it (chmod 600)"
    )]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not what it should be. The parser's own text would show its lines, so it is not here.
    #[error(
        "the credentials file {0} must have access_key = \"…\" and secret_key = \"…\", and nothing else"
    )]
    Malformed(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    access_key: String,
    secret_key: String,
}

impl StoreCredentials {
    /// Reads a file that only its owner can read.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let failed = |source| CredentialsError::Read {
            path: path.to_owned(),
            source,
        };
        let mode = std::fs::metadata(path)
            .map_err(failed)?
            .permissions()
            .mode()
            & 0o7777;
        if mode & 0o077 != 0 {
            return Err(CredentialsError::Mode {
                path: path.to_owned(),
                mode,
            });
        }
        let text = SecretText::new(std::fs::read_to_string(path).map_err(failed)?);
        let raw: Raw = toml::from_str(text.expose())
            .map_err(|_| CredentialsError::Malformed(path.to_owned()))?;
        Ok(Self {
            access_key: raw.access_key,
            secret_key: SecretText::new(raw.secret_key),
        })
    }
}
