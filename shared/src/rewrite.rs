//! Rewriting what the API server stores, so that all of it is under the key of encryption at rest that is in use (§11).
//!
//! The API server encrypts what it writes, and rewrites nothing by itself. An object that is sent to it unchanged is written
//! again if it was stored under another key than the first one. Under which key something is stored is told by the first bytes
//! of etcd's value, so whoever reads etcd knows what is left to do, and when nothing is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::secret::SecretText;

/// The file of a release that orders it.
pub const REWRITE_FILE: &str = "agent/etcd-rewrite.json";
/// Where the API server keeps Secrets in etcd.
pub const SECRETS_PREFIX: &str = "/registry/secrets/";
/// How what is under no key counts in [`StoredScan::others`]; no key has that name.
pub const NO_KEY: &str = "(none)";
/// How what is under something else counts there.
pub const UNKNOWN_KEY: &str = "(unknown)";
/// What the API server puts before all that it encrypts.
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// And before what is encrypted as the platform has it.
const SECRETBOX: &[u8] = b"k8s:enc:secretbox:v1:";

/// What the agents are to do: in the signed release, so nobody else can order it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewriteOrder {
    /// Tells it from every other order of the environment.
    pub number: u64,
    /// The generation of etcd that it is about.
    pub generation: u32,
    /// The name of the key under which all is to be.
    pub key: String,
    /// The API server's URL on the machine that runs it.
    pub server: String,
    /// Whom to believe to be the API server, PEM.
    pub authority: String,
    /// The client certificate to come with, PEM: it may read and update Secrets, and ends soon.
    pub certificate: String,
    /// Its key, PKCS#8 PEM.
    pub private_key: SecretText,
}

/// What a node says about an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewriteReport {
    /// Which order.
    pub number: u64,
    /// The generation of etcd.
    pub generation: u32,
    /// The key.
    pub key: String,
    /// How many objects it has had rewritten since it began.
    #[serde(default)]
    pub rewritten: u64,
    /// What it found in etcd when it last went through it to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<StoredScan>,
    /// Why its last attempt did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<RewriteFailed>,
}

/// Under which keys Secrets are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredScan {
    /// How many are under the key of the order.
    pub under_key: u64,
    /// How many are under each other key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, u64>,
    /// The revision of etcd when it began.
    pub revision: u64,
    /// When it ended, by the node's clock.
    pub at: Timestamp,
}

/// An attempt that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewriteFailed {
    /// A word that metrics use too.
    pub kind: String,
    /// The whole chain of causes.
    pub message: String,
    /// Since when it has been so.
    pub since: Timestamp,
}

/// Under what a value of etcd is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredUnder<'a> {
    /// Under the key of that name.
    Key(&'a str),
    /// It is not encrypted.
    Nothing,
    /// It is encrypted in a way that the platform does not have.
    Unknown,
}

// === impl StoredUnder ===

impl<'a> StoredUnder<'a> {
    /// By the first bytes of a value.
    #[must_use]
    pub fn of(value: &'a [u8]) -> Self {
        let Some(rest) = value.strip_prefix(SECRETBOX) else {
            return match value.starts_with(ENCRYPTED) {
                true => Self::Unknown,
                false => Self::Nothing,
            };
        };
        let mut parts = rest.split(|byte| *byte == b':');
        let name = parts
            .next()
            .and_then(|name| std::str::from_utf8(name).ok())
            .filter(|name| !name.is_empty());
        // Without another colon the name has no end.
        match (name, parts.next()) {
            (Some(name), Some(_)) => Self::Key(name),
            _ => Self::Unknown,
        }
    }

    /// How it counts.
    #[must_use]
    pub const fn label(self) -> &'a str {
        match self {
            Self::Key(name) => name,
            Self::Nothing => NO_KEY,
            Self::Unknown => UNKNOWN_KEY,
        }
    }
}

/// Namespace and name of the Secret that etcd keeps at `key`; none where that is no key of one.
#[must_use]
pub fn secret_at(key: &[u8]) -> Option<(&str, &str)> {
    let rest = key.strip_prefix(SECRETS_PREFIX.as_bytes())?;
    let (namespace, name) = std::str::from_utf8(rest).ok()?.split_once('/')?;
    // What Kubernetes takes as names needs no escapes in a path.
    let fits = |part: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
    };
    (fits(namespace) && fits(name)).then_some((namespace, name))
}

// === impl RewriteOrder ===

impl RewriteOrder {
    /// As the file of a release.
    ///
    /// # Errors
    /// serde's own, never for this type.
    pub fn to_file(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// From the file of a release.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn from_file(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    }
}

// === impl RewriteReport ===

impl RewriteReport {
    /// The beginning of an order.
    #[must_use]
    pub fn new(order: &RewriteOrder) -> Self {
        Self {
            number: order.number,
            generation: order.generation,
            key: order.key.clone(),
            rewritten: 0,
            scan: None,
            failed: None,
        }
    }

    /// Whether it is about that order.
    #[must_use]
    pub fn is_of(&self, number: u64, generation: u32, key: &str) -> bool {
        self.number == number && self.generation == generation && self.key == key
    }

    /// Whether nothing was left under another key.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.scan.as_ref().is_some_and(StoredScan::is_clean)
    }
}

// === impl StoredScan ===

impl StoredScan {
    /// Whether everything is under the key.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.others.is_empty()
    }

    /// Counts a value.
    pub fn count(&mut self, under: StoredUnder<'_>, key: &str) {
        if under == StoredUnder::Key(key) {
            self.under_key += 1;
        } else {
            *self.others.entry(under.label().to_owned()).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_key() {
        for (value, under) in [
            (
                &b"k8s:enc:secretbox:v1:key-1:\x00\xff:x"[..],
                StoredUnder::Key("key-1"),
            ),
            (b"k8s:enc:secretbox:v1:key-1", StoredUnder::Unknown),
            (b"k8s:enc:secretbox:v1::x", StoredUnder::Unknown),
            (b"k8s:enc:secretbox:v1:\xff:x", StoredUnder::Unknown),
            (b"k8s:enc:aescbc:v1:key-1:x", StoredUnder::Unknown),
            (b"k8s\x00\x0a", StoredUnder::Nothing),
            (b"{}", StoredUnder::Nothing),
            (b"", StoredUnder::Nothing),
        ] {
            assert_eq!(StoredUnder::of(value), under);
        }
    }

    #[test]
    fn a_scan_is_clean_when_all_is_under_the_key() {
        let mut scan = StoredScan::default();
        scan.count(StoredUnder::Key("key-2"), "key-2");
        assert!(scan.is_clean() && scan.under_key == 1);
        for (under, label) in [
            (StoredUnder::Key("key-1"), "key-1"),
            (StoredUnder::Nothing, NO_KEY),
            (StoredUnder::Unknown, UNKNOWN_KEY),
        ] {
            scan.count(under, "key-2");
            assert_eq!(scan.others.get(label), Some(&1));
        }
        assert!(!scan.is_clean());
    }

    #[test]
    fn only_what_kubernetes_names_becomes_a_path() {
        assert_eq!(
            secret_at(b"/registry/secrets/kube-system/a.b-1"),
            Some(("kube-system", "a.b-1"))
        );
        for strange in [
            &b"/registry/secrets/a"[..],
            b"/registry/secrets//a",
            b"/registry/secrets/a/",
            b"/registry/secrets/a/b/c",
            b"/registry/secrets/../b",
            b"/registry/secrets/a/b?x",
            b"/registry/configmaps/a/b",
            b"/registry/secrets/a/\xff",
        ] {
            assert_eq!(secret_at(strange), None);
        }
    }
}
