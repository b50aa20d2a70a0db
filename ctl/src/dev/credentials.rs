//! The key pair of the embedded store, in the file that the agents read too (`credentials_file`).

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use shared::durable::{self, Attributes};
use shared::secret::SecretText;

/// A key pair of the embedded store.
#[derive(Debug, Clone)]
pub struct LocalCredentials {
    /// The access key id.
    pub access_key: String,
    /// The secret access key.
    pub secret_key: SecretText,
}

impl LocalCredentials {
    /// Where the key pair lies below an environment's state directory.
    #[must_use]
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join("credentials")
    }

    /// Reads the key pair.
    ///
    /// # Errors
    /// A file that cannot be read or lacks one of the two.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let text = SecretText::new(text);
        let value = |key: &str| {
            text.expose().lines().find_map(|l| {
                let (k, v) = l.split_once('=')?;
                (k.trim() == key).then(|| v.trim().trim_matches('"').to_owned())
            })
        };
        match (value("access_key"), value("secret_key")) {
            (Some(access_key), Some(secret)) => Ok(Self {
                access_key,
                secret_key: SecretText::new(secret),
            }),
            _ => anyhow::bail!("{} does not hold a key pair", path.display()),
        }
    }

    /// Reads the key pair, made first where there is none.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn read_or_create(path: &Path) -> anyhow::Result<Self> {
        if path.exists() {
            return Self::read(path);
        }
        let random = |bytes: usize| {
            let raw: Vec<u8> = (0..bytes).map(|_| rand::random()).collect();
            hex(&raw)
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let made = Self {
            access_key: format!("PLATFORM{}", random(6).to_uppercase()),
            secret_key: SecretText::new(random(20)),
        };
        let text = SecretText::new(format!(
            "access_key = \"{}\"\nsecret_key = \"{}\"\n",
            made.access_key,
            made.secret_key.expose()
        ));
        durable::write_file(path, text.expose().as_bytes(), Attributes::mode(0o600))?;
        Ok(made)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let made = LocalCredentials::read_or_create(&path).unwrap();
        let read = LocalCredentials::read_or_create(&path).unwrap();
        assert_eq!(made.access_key, read.access_key);
        assert_eq!(made.secret_key, read.secret_key);
        assert!(!format!("{read:?}").contains(read.secret_key.expose()));
    }
}
