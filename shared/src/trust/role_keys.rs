//! The keys that sign, held in memory alone (§3.5).

use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tough::key_source::KeySource;
use tough::schema::RoleType;
use tough::sign::Sign;

use super::sign::SignError;
use crate::secret::SecretBytes;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An Ed25519 signing key (PKCS#8), which no print shows.
#[derive(Clone, PartialEq, Eq)]
pub struct RoleKey(SecretBytes);

/// The keys of one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryKeys {
    /// Signs roots.
    pub root: RoleKey,
    /// Signs targets.
    pub targets: RoleKey,
    /// Signs snapshots.
    pub snapshot: RoleKey,
    /// Signs timestamps.
    pub timestamp: RoleKey,
}

// === impl RoleKey ===

impl RoleKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`SignError::Generate`] where the system has no randomness.
    pub fn generate() -> Result<Self, SignError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| SignError::Generate)?;
        Ok(Self(SecretBytes::new(document.as_ref().to_vec())))
    }

    pub(super) fn key_pair(&self) -> Result<Ed25519KeyPair, SignError> {
        Ed25519KeyPair::from_pkcs8(self.0.expose()).map_err(|_| SignError::Key)
    }

    pub(super) fn source(&self) -> Box<dyn KeySource> {
        Box::new(self.clone())
    }
}

impl fmt::Debug for RoleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[signing key]")
    }
}

impl Serialize for RoleKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(self.0.expose()))
    }
}

impl<'de> Deserialize<'de> for RoleKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let bytes = STANDARD
            .decode(text)
            .map_err(|_| serde::de::Error::custom("a signing key is base64"))?;
        Ok(Self(SecretBytes::new(bytes)))
    }
}

#[async_trait]
impl KeySource for RoleKey {
    async fn as_sign(&self) -> Result<Box<dyn Sign>, BoxError> {
        Ok(Box::new(self.key_pair()?))
    }

    async fn write(&self, _: &str, _: &str) -> Result<(), BoxError> {
        Err("a signing key of the keyring is not written back by tough".into())
    }
}

// === impl RepositoryKeys ===

impl RepositoryKeys {
    /// Fresh keys.
    ///
    /// # Errors
    /// [`SignError::Generate`].
    pub fn generate() -> Result<Self, SignError> {
        Ok(Self {
            root: RoleKey::generate()?,
            targets: RoleKey::generate()?,
            snapshot: RoleKey::generate()?,
            timestamp: RoleKey::generate()?,
        })
    }

    pub(super) fn role(&self, role: RoleType) -> Option<&RoleKey> {
        match role {
            RoleType::Root => Some(&self.root),
            RoleType::Targets => Some(&self.targets),
            RoleType::Snapshot => Some(&self.snapshot),
            RoleType::Timestamp => Some(&self.timestamp),
            _ => None,
        }
    }
}
