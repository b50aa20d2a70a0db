//! Manifests that the release has and this node does not run (etcd.yaml before its configuration is there). They stay in
//! the ledger, and are not on the disk.
//!
//! What is held back is one small file in the state directory, so that after a crash nothing runs that is held back and
//! everything that is not.

use std::collections::BTreeSet;
use std::io;

use shared::bundle::Release;
use shared::check::manifest::PodSummary;
use shared::durable::{self, Attributes};

use super::Disk;
use super::copy;
use super::error::DiskError;
use super::observe;
use super::paths::{NodePaths, OwnedPath, OwnedPlace};
use super::pod_end::PodEnded;

/// Longer than the file ever is, in bytes.
const BYTES: u64 = 64 * 1024;

/// The names, in the manifest directory, of what is held back.
pub(crate) fn load(paths: &NodePaths) -> Result<BTreeSet<String>, DiskError> {
    let path = paths.held_back();
    let Some(bytes) = observe::read(&path, BYTES)? else {
        return Ok(BTreeSet::new());
    };
    serde_json::from_slice(bytes.expose())
        .map_err(|e| DiskError::io("parse", &path)(io::Error::new(io::ErrorKind::InvalidData, e)))
}

/// Whether a file is a manifest that is held back.
pub(crate) fn is_held(held: &BTreeSet<String>, path: &OwnedPath) -> bool {
    matches!(path.place(), OwnedPlace::Manifest(name) if held.contains(name))
}

impl Disk {
    /// What is held back.
    ///
    /// # Errors
    /// [`DiskError::Io`] where the file that says it cannot be read.
    pub fn held_back(&self) -> Result<BTreeSet<String>, DiskError> {
        load(&self.paths)
    }

    /// From now on these manifests are held back, and no others. The files follow with [`Disk::repair`], or with the
    /// release that is applied next. Whether that is a change.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn hold_back(&mut self, names: &BTreeSet<String>) -> Result<bool, DiskError> {
        if load(&self.paths)? == *names {
            return Ok(false);
        }
        let path = self.paths.held_back();
        self.fingerprints = None;
        if names.is_empty() {
            durable::remove_file(&path)?;
            return Ok(true);
        }
        let text = serde_json::to_vec(names).map_err(|e| {
            DiskError::io("encode", &path)(io::Error::new(io::ErrorKind::InvalidData, e))
        })?;
        durable::write_file(&path, &text, Attributes::mode(0o600))?;
        Ok(true)
    }

    /// Waits until nothing listens on these ports of the host any more, for as long as kubelet may take to see that a
    /// manifest was removed; whether that is so.
    #[must_use]
    pub fn are_free(&self, ports: &[u16]) -> bool {
        let ports = ports.iter().map(|port| ("TCP".to_owned(), *port));
        let pod = PodSummary {
            namespace: String::new(),
            name: String::new(),
            host_ports: ports.collect(),
            host_network: true,
            host_paths: Vec::new(),
            termination_grace_seconds: 0,
        };
        self.pod_end.wait(&pod) == PodEnded::Gone
    }

    /// The release on the disk, from its verified copy; none where there is none yet.
    ///
    /// # Errors
    /// [`DiskError::CopyDamaged`].
    pub fn committed(&self) -> Result<Option<Release>, DiskError> {
        let committed = self.ledger.release.as_ref();
        committed
            .map(|c| copy::read(&self.paths, &self.ledger, c))
            .transpose()
    }
}
