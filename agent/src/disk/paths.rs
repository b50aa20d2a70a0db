//! Where everything lies on a node, and the names of what the agent owns there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::names::{EntryPath, Place, ReleaseNumber};

/// The directories and files of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePaths {
    kubernetes: PathBuf,
    state: PathBuf,
}

/// A pod's immutable secret directory: `secrets/<pod>/<digest>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretDirectory {
    /// The pod that alone sees it.
    pub pod: String,
    /// The digest of all that is in it; the directory's name.
    pub digest: Sha256Digest,
}

/// A file that the agent owns, as the ledger names it: an [`EntryPath`], except that a secret's path has the digest of
/// its directory in it, `secrets/<pod>/<digest>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OwnedPath(String);

/// A path that the agent can't own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the path of a file that the agent can own")]
pub struct InvalidOwnedPath(String);

/// What kind of file an [`OwnedPath`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedPlace<'a> {
    /// A static pod manifest of this file name.
    Manifest(&'a str),
    /// A file in a secret directory.
    Secret {
        /// The directory.
        directory: SecretDirectory,
        /// The file's name in it.
        name: &'a str,
    },
    /// A file under `host/` or `addons/`.
    Host,
    /// A file of this name in the agent's state directory.
    Agent(&'a str),
}

// === impl NodePaths ===

impl NodePaths {
    /// The paths of a node whose file system begins at `root_directory` (`/`, or a prefix in development) and whose
    /// agent remembers in `state_directory`.
    #[must_use]
    pub fn new(root_directory: &Path, state_directory: &Path) -> Self {
        Self {
            kubernetes: root_directory.join("etc/kubernetes"),
            state: state_directory.to_owned(),
        }
    }

    /// `<root>/etc/kubernetes`.
    #[must_use]
    pub fn kubernetes(&self) -> &Path {
        &self.kubernetes
    }

    /// The directory that kubelet watches.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.kubernetes.join("manifests")
    }

    /// The pods' secret directories: `<pod>/<digest>/` below it.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.kubernetes.join("secrets")
    }

    /// Files for the host itself.
    #[must_use]
    pub fn host(&self) -> PathBuf {
        self.kubernetes.join("host")
    }

    /// Addon manifests.
    #[must_use]
    pub fn addons(&self) -> PathBuf {
        self.kubernetes.join("addons")
    }

    /// What the agent remembers.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The file that a running agent holds locked.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.state.join("ledger.json")
    }

    /// The TUF trust store.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.state.join("trust")
    }

    /// The verified copies.
    #[must_use]
    pub fn releases(&self) -> PathBuf {
        self.state.join("releases")
    }

    /// The verified copy of one release.
    #[must_use]
    pub fn copy(&self, release: ReleaseNumber) -> PathBuf {
        self.releases().join(format!("{release}.tar.zst"))
    }

    /// The group's key.
    #[must_use]
    pub fn group_key(&self) -> PathBuf {
        self.state.join("group.key")
    }

    /// Which manifests the node does not run.
    #[must_use]
    pub fn held_back(&self) -> PathBuf {
        self.state.join("held-back.json")
    }

    /// Why and for how long a person holds the node.
    #[must_use]
    pub fn hold(&self) -> PathBuf {
        self.state.join("hold.json")
    }

    /// Where a secret directory lies.
    #[must_use]
    pub fn secret_directory(&self, directory: &SecretDirectory) -> PathBuf {
        self.secrets()
            .join(&directory.pod)
            .join(directory.digest.to_string())
    }

    /// Where an owned file lies.
    #[must_use]
    pub fn resolve(&self, path: &OwnedPath) -> PathBuf {
        match path.place() {
            OwnedPlace::Agent(name) => self.state.join(name),
            _ => self.kubernetes.join(path.as_str()),
        }
    }
}

// === impl SecretDirectory ===

impl fmt::Display for SecretDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pod, self.digest)
    }
}

impl FromStr for SecretDirectory {
    type Err = InvalidOwnedPath;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidOwnedPath(s.to_owned());
        let (pod, digest) = s.split_once('/').ok_or_else(invalid)?;
        // The rule for a pod's name is that of an entry path's component.
        EntryPath::new(format!("secrets/{pod}/x")).map_err(|_| invalid())?;
        Ok(Self {
            pod: pod.to_owned(),
            digest: digest.parse().map_err(|_| invalid())?,
        })
    }
}

impl TryFrom<String> for SecretDirectory {
    type Error = InvalidOwnedPath;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<SecretDirectory> for String {
    fn from(d: SecretDirectory) -> Self {
        d.to_string()
    }
}

// === impl OwnedPath ===

impl OwnedPath {
    /// The path of a release's entry; `digests` has the digest of each pod's secret directory.
    ///
    /// # Errors
    /// [`InvalidOwnedPath`] for a secret of a pod without a digest.
    pub fn of(
        entry: &EntryPath,
        digests: &BTreeMap<String, Sha256Digest>,
    ) -> Result<Self, InvalidOwnedPath> {
        let Place::Secret { pod, name } = entry.place() else {
            return Ok(Self(entry.as_str().to_owned()));
        };
        match digests.get(pod) {
            Some(digest) => Ok(Self(format!("secrets/{pod}/{digest}/{name}"))),
            None => Err(InvalidOwnedPath(entry.as_str().to_owned())),
        }
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of file it is.
    #[must_use]
    pub fn place(&self) -> OwnedPlace<'_> {
        let (head, tail) = self.0.split_once('/').unwrap_or(("", &self.0));
        match head {
            "manifests" => OwnedPlace::Manifest(tail),
            "agent" => OwnedPlace::Agent(tail),
            "secrets" => match secret(tail) {
                Some((directory, name)) => OwnedPlace::Secret { directory, name },
                // No value of this type is like that.
                None => OwnedPlace::Host,
            },
            _ => OwnedPlace::Host,
        }
    }
}

fn secret(tail: &str) -> Option<(SecretDirectory, &str)> {
    let (directory, name) = tail.rsplit_once('/')?;
    Some((directory.parse().ok()?, name))
}

impl FromStr for OwnedPath {
    type Err = InvalidOwnedPath;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let fits = match s.strip_prefix("secrets/") {
            Some(tail) => secret(tail).is_some_and(|(directory, name)| {
                EntryPath::new(format!("secrets/{}/{name}", directory.pod)).is_ok()
            }),
            None => EntryPath::new(s).is_ok(),
        };
        if fits {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidOwnedPath(s.to_owned()))
        }
    }
}

impl TryFrom<String> for OwnedPath {
    type Error = InvalidOwnedPath;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<OwnedPath> for String {
    fn from(p: OwnedPath) -> Self {
        p.0
    }
}

impl fmt::Display for OwnedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn owned_paths_stay_in_their_directories() {
        let paths = NodePaths::new(Path::new("/r"), Path::new("/s"));
        let at = |s: &str| paths.resolve(&s.parse().unwrap());
        assert_eq!(
            at("manifests/a.yaml"),
            Path::new("/r/etc/kubernetes/manifests/a.yaml")
        );
        assert_eq!(
            at("host/pki/ca.crt"),
            Path::new("/r/etc/kubernetes/host/pki/ca.crt")
        );
        assert_eq!(at("agent/group.key"), paths.group_key());
        let secret = format!("secrets/etcd/{DIGEST}/ca.crt");
        assert_eq!(at(&secret), Path::new("/r/etc/kubernetes").join(&secret));
        for bad in [
            "manifests/../../passwd",
            "/etc/passwd",
            "secrets/etcd/ca.crt",
            "secrets/etcd/nodigest/ca.crt",
            &format!("secrets/../{DIGEST}/x"),
            &format!("secrets/etcd/{DIGEST}/../x"),
            &format!("secrets/a/b/{DIGEST}/x"),
            "manifests/.x",
            "",
        ] {
            assert!(bad.parse::<OwnedPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_path_knows_its_directory() {
        let path: OwnedPath = format!("secrets/etcd/{DIGEST}/ca.crt").parse().unwrap();
        let OwnedPlace::Secret { directory, name } = path.place() else {
            panic!("no secret")
        };
        assert_eq!((directory.pod.as_str(), name), ("etcd", "ca.crt"));
        assert_eq!(directory.to_string(), format!("etcd/{DIGEST}"));
    }
}
