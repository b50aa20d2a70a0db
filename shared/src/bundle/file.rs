//! One line of a bundle's table: a file, its digest, and what a node makes of it (§3.1).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::check::secret_dir::Attributes;
use crate::digest::Sha256Digest;
use crate::names::EntryPath;

/// Where a file came from: a rollback takes `template` files from then and `keyring` files from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Rendered from a template, or supplied by the operator beside one.
    Template,
    /// Made from what the keyring holds.
    Keyring,
}

/// Permission bits, written as octal text (`"0600"`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

/// One file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// The file's place.
    pub path: EntryPath,
    /// Digest of its bytes.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its permission bits on the node.
    pub mode: Mode,
    /// Its numeric owner on the node.
    pub uid: u32,
    /// Its numeric group on the node.
    pub gid: u32,
    /// Where it came from.
    pub origin: Origin,
}

// === impl Mode ===

impl Mode {
    /// From permission bits.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        Self(bits & 0o7777)
    }

    /// The permission bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let plain = text.len() == 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(&text, 8) {
            Ok(bits) if plain => Ok(Self(bits)),
            _ => Err(serde::de::Error::custom("a mode is four octal digits")),
        }
    }
}

// === impl FileEntry ===

impl FileEntry {
    /// The entry of `bytes` at `path`, owned by root.
    #[must_use]
    pub fn describe(path: EntryPath, bytes: &[u8], mode: Mode, origin: Origin) -> Self {
        Self {
            path,
            sha256: Sha256Digest::of(bytes),
            bytes: bytes.len() as u64,
            mode,
            uid: 0,
            gid: 0,
            origin,
        }
    }

    /// What a node makes of the file beside its content.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        Attributes {
            mode: self.mode.bits(),
            owner: (self.uid, self.gid),
        }
    }
}
