//! Objects that nodes write: their bytes, and an HMAC over them, their name and their environment (§7).
//!
//! A node of a group can lie about itself; nobody outside the group can speak for it, and an object can't be moved to
//! another name.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits;
use crate::secret::SecretBytes;

/// The key that a group's nodes share, 32 bytes; it rides in the group's bundle and never lies under /etc/kubernetes.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupKey(SecretBytes);

/// A node-written object that is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum NodeObjectError {
    /// It does not parse.
    #[error("{name} does not parse")]
    Malformed {
        /// The object.
        name: String,
        /// What serde said.
        #[source]
        source: serde_json::Error,
    },
    /// It carries no HMAC: its node has no release yet, and so no key, or cannot read the one it has.
    #[error("{0} is not authenticated: its node has no release yet, or cannot read its group key")]
    Unauthenticated(String),
    /// Its HMAC is not that of its bytes, name and environment.
    #[error("{0} was not written by a node of its group, or was moved or changed")]
    Forged(String),
    /// It is too long.
    #[error(
        "{name} has {bytes} bytes, more than the {} allowed",
        limits::NODE_OBJECT_BYTES
    )]
    TooLarge {
        /// The object.
        name: String,
        /// Its length.
        bytes: usize,
    },
    /// The group key is not 64 hex digits.
    #[error("a group key is 64 hex digits")]
    Key,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    /// The document, as text: what was authenticated are exactly these bytes.
    body: String,
    /// Hex; absent from a node that has no key yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hmac: Option<String>,
}

// === impl GroupKey ===

impl GroupKey {
    /// A fresh key.
    #[must_use]
    pub fn generate() -> Self {
        Self(SecretBytes::new(rand::random::<[u8; 32]>().to_vec()))
    }

    /// The key as it rides in the bundle: hex and a newline.
    #[must_use]
    pub fn to_file(&self) -> SecretBytes {
        SecretBytes::new(format!("{}\n", hex::encode(self.0.expose())).into_bytes())
    }

    /// The HMAC-SHA256 of `parts`, each preceded by its length, as hex.
    #[must_use]
    pub fn authenticate(&self, parts: &[&[u8]]) -> String {
        hex::encode(hmac::sign(&self.key(), &framed(parts)).as_ref())
    }

    /// Whether `tag` is [`GroupKey::authenticate`] of `parts`; in constant time.
    #[must_use]
    pub fn verifies(&self, parts: &[&[u8]], tag: &str) -> bool {
        hex::decode(tag).is_ok_and(|raw| hmac::verify(&self.key(), &framed(parts), &raw).is_ok())
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.expose())
    }
}

fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    }
    all
}

impl FromStr for GroupKey {
    type Err = NodeObjectError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let raw = hex::decode(s.trim()).map_err(|_| NodeObjectError::Key)?;
        if raw.len() != 32 {
            return Err(NodeObjectError::Key);
        }
        Ok(Self(SecretBytes::new(raw)))
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[group key]")
    }
}

impl Serialize for GroupKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(self.0.expose()))
    }
}

impl<'de> Deserialize<'de> for GroupKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The bytes of a node-written object. `name` is [`crate::store::keys::bound_name`]. Without a key (before the first
/// release) the object is not authenticated, and readers say so.
///
/// # Errors
/// serde's own, never for this crate's documents.
pub fn seal_node_object<T: Serialize>(
    document: &T,
    name: &str,
    key: Option<&GroupKey>,
) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_string(document)?;
    let hmac = key.map(|k| k.authenticate(&[name.as_bytes(), body.as_bytes()]));
    serde_json::to_vec(&Envelope { body, hmac })
}

/// Reads a node-written object that must be authentic.
///
/// # Errors
/// [`NodeObjectError`]; the document of one that is not authenticated is not parsed at all.
pub fn open_node_object<T: DeserializeOwned>(
    bytes: &[u8],
    name: &str,
    key: &GroupKey,
) -> Result<T, NodeObjectError> {
    if bytes.len() as u64 > limits::NODE_OBJECT_BYTES {
        return Err(NodeObjectError::TooLarge {
            name: name.to_owned(),
            bytes: bytes.len(),
        });
    }
    let malformed = |source| NodeObjectError::Malformed {
        name: name.to_owned(),
        source,
    };
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(malformed)?;
    let Some(tag) = envelope.hmac else {
        return Err(NodeObjectError::Unauthenticated(name.to_owned()));
    };
    if !key.verifies(&[name.as_bytes(), envelope.body.as_bytes()], &tag) {
        return Err(NodeObjectError::Forged(name.to_owned()));
    }
    serde_json::from_str(&envelope.body).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_to_bytes_name_and_key() {
        let key = GroupKey::generate();
        let sealed = seal_node_object(&"hello", "dev/nodes/secure/a.json", Some(&key)).unwrap();
        let open =
            |bytes: &[u8], name: &str, key: &GroupKey| open_node_object::<String>(bytes, name, key);
        assert_eq!(
            open(&sealed, "dev/nodes/secure/a.json", &key).unwrap(),
            "hello"
        );
        let moved = open(&sealed, "dev/nodes/secure/b.json", &key);
        assert!(matches!(moved, Err(NodeObjectError::Forged(_))));
        let foreign = open(&sealed, "dev/nodes/secure/a.json", &GroupKey::generate());
        assert!(matches!(foreign, Err(NodeObjectError::Forged(_))));
        let text = String::from_utf8(sealed).unwrap().replace("hello", "hellO");
        let changed = open(text.as_bytes(), "dev/nodes/secure/a.json", &key);
        assert!(matches!(changed, Err(NodeObjectError::Forged(_))));
        let bare = seal_node_object(&"hello", "dev/nodes/secure/a.json", None).unwrap();
        let bare = open(&bare, "dev/nodes/secure/a.json", &key);
        assert!(matches!(bare, Err(NodeObjectError::Unauthenticated(_))));
    }

    #[test]
    fn key_file_round_trip_and_no_print() {
        let key = GroupKey::generate();
        let file = key.to_file();
        let back: GroupKey = std::str::from_utf8(file.expose()).unwrap().parse().unwrap();
        assert_eq!(back, key);
        assert_eq!(format!("{key:?}"), "[group key]");
        assert!("00".repeat(31).parse::<GroupKey>().is_err());
    }
}
