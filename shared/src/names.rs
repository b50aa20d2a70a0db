//! Names as types: a value of one of these has been checked.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// A name or path that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?}: {rule}")]
pub struct InvalidName {
    /// What the text was meant to be.
    pub what: &'static str,
    /// The text, shortened.
    pub text: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self {
            what,
            text: text.chars().take(120).collect(),
            rule,
        }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` against the rule.
            ///
            /// # Errors
            /// [`InvalidName`] with the rule that the text breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(&text) {
                    Ok(()) => Ok(Self(text)),
                    Err(rule) => Err(InvalidName::new($what, &text, rule)),
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(s: String) -> Result<Self, Self::Error> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(n: $name) -> Self {
                n.0
            }
        }
    };
}

name_type!(
    /// An environment: the stem of `environments/NAME.tfvars`.
    EnvironmentName,
    "environment",
    label
);
name_type!(
    /// A group of nodes with one role, one trust repository and one key: `secure`, `compute`, or another.
    GroupName,
    "group",
    label
);
name_type!(
    /// A node as its IAM role session names it (`role id:instance id`); the last part of its status object's key.
    NodeId,
    "node",
    |s| {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'.' | b'_' | b'-');
        if s.is_empty() || s.len() > 128 || !s.bytes().all(ok) || s.starts_with('.') {
            return Err("1 to 128 of letters, digits and :._- and no leading dot");
        }
        Ok(())
    }
);
name_type!(
    /// The place of a file in a bundle: `manifests/NAME`, `secrets/POD/NAME`, `host/…`, `addons/…` or `agent/NAME`.
    EntryPath,
    "path",
    entry_path
);

name_type!(
    /// The path of a file in an artifact that is an archive: relative, plain, at most 100 bytes and four components.
    ArchivePath,
    "archive path",
    |s| {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let plain = |part: &str| {
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(ok)
        };
        let parts = s.split('/').count();
        if s.len() > crate::limits::PATH_BYTES || parts > 4 || !s.split('/').all(plain) {
            return Err(
                "must be relative, of letters, digits and ._-, at most four components and 100 bytes, none beginning \
                 with a dot",
            );
        }
        Ok(())
    }
);

name_type!(
    /// A systemd service, such as `kubelet.service`.
    UnitName,
    "unit",
    |s| {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
        let named = s.strip_suffix(".service").is_some_and(|n| !n.is_empty());
        if !named || s.len() > 100 || !s.bytes().all(ok) || s.starts_with(['-', '.']) {
            return Err("NAME.service, of letters, digits and ._-@, with no leading dash or dot");
        }
        Ok(())
    }
);

fn label(s: &str) -> Result<(), &'static str> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let first = s.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !first || s.len() > 40 || !s.bytes().all(ok) || s.ends_with('-') {
        return Err("1 to 40 of a-z, 0-9 and -, beginning with a letter and not ending with -");
    }
    Ok(())
}

fn entry_path(s: &str) -> Result<(), &'static str> {
    if s.is_empty() || s.len() > limits::PATH_BYTES {
        return Err("1 to 100 bytes");
    }
    if s.starts_with('/') {
        return Err("relative, so no leading slash");
    }
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    for part in s.split('/') {
        if part == ".." || part == "." {
            return Err("no '.' or '..' component");
        }
        if part.is_empty() {
            return Err("no empty component");
        }
        if part.starts_with('.') {
            return Err("no component begins with a dot");
        }
        if !part.bytes().all(ok) {
            return Err("letters, digits and ._- only");
        }
    }
    match s.split('/').collect::<Vec<_>>().as_slice() {
        ["manifests" | "agent", _] | ["secrets", _, _] | ["host" | "addons", _, ..] => Ok(()),
        _ => Err("one of manifests/NAME, secrets/POD/NAME, host/PATH, addons/PATH, agent/NAME"),
    }
}

/// Where an entry belongs on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place<'a> {
    /// A static pod manifest of this file name.
    Manifest(&'a str),
    /// A file in the pod's immutable secret directory.
    Secret {
        /// The pod that alone sees the file.
        pod: &'a str,
        /// The file's name.
        name: &'a str,
    },
    /// A file for the host itself, at a fixed path under `host/`.
    Host(&'a str),
    /// A file under `addons/`.
    Addon(&'a str),
    /// A file for the agent alone, kept in its state directory.
    Agent(&'a str),
}

impl EntryPath {
    /// The place this path names.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        let (head, tail) = self.0.split_once('/').unwrap_or(("", &self.0));
        match (head, tail.split_once('/')) {
            ("secrets", Some((pod, name))) => Place::Secret { pod, name },
            ("host", _) => Place::Host(tail),
            ("addons", _) => Place::Addon(tail),
            ("agent", _) => Place::Agent(tail),
            // `entry_path` lets nothing else through.
            _ => Place::Manifest(tail),
        }
    }
}

/// A release's number: at least 1, and only growing within a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseNumber(NonZeroU64);

impl ReleaseNumber {
    /// The release of this number; none for zero.
    #[must_use]
    pub fn new(n: u64) -> Option<Self> {
        NonZeroU64::new(n).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The TUF version of the same number: a release's number is the version of the targets document that brought it.
    #[must_use]
    pub fn version(self) -> NonZeroU64 {
        self.0
    }
}

impl From<NonZeroU64> for ReleaseNumber {
    fn from(n: NonZeroU64) -> Self {
        Self(n)
    }
}

impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entry_paths() {
        for good in [
            "manifests/etcd.yaml",
            "secrets/etcd/ca.crt",
            "host/kubelet.yaml",
            "host/pki/ca.crt",
            "addons/rbac/a.yaml",
            "agent/group.key",
        ] {
            assert!(EntryPath::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "manifests/../x",
            "manifests/.hidden",
            "manifests/a/b",
            "secrets/etcd",
            "secrets/a/b/c",
            "other/x",
            "manifests//x",
            "manifests/a b",
            "manifests/ä",
            "host",
            "host/",
        ] {
            assert!(EntryPath::new(bad).is_err(), "{bad}");
        }
        assert!(EntryPath::new(format!("host/{}", "a".repeat(100))).is_err());
    }

    #[test]
    fn places() {
        let p = |s: &str| EntryPath::new(s).unwrap();
        assert_eq!(p("manifests/a.yaml").place(), Place::Manifest("a.yaml"));
        assert_eq!(
            p("secrets/etcd/ca.crt").place(),
            Place::Secret {
                pod: "etcd",
                name: "ca.crt"
            }
        );
        assert_eq!(p("host/pki/ca.crt").place(), Place::Host("pki/ca.crt"));
    }

    proptest! {
        #[test]
        fn no_path_leaves_its_directory(s in "\\PC{0,120}") {
            if let Ok(p) = EntryPath::new(s) {
                prop_assert!(!p.as_str().starts_with('/'));
                prop_assert!(p.as_str().split('/').all(|c| c != ".." && !c.starts_with('.')));
            }
        }

        #[test]
        fn serde_applies_the_rule(s in "[a-zA-Z./-]{0,40}") {
            let json = serde_json::to_string(&s).unwrap();
            prop_assert_eq!(serde_json::from_str::<EntryPath>(&json).is_ok(), EntryPath::new(s).is_ok());
        }
    }
}
