//! What a history may contain.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail};

use super::observation::{Digest, FileState, Finding, SecretSet};
use super::source::FileSource;

/// The manifests of one release and the secrets each of its pods must see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    files: BTreeMap<String, (Digest, SecretSet)>,
}

/// What a history may contain: a node between release N and N+1 holds, file by file, one or the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// File name → content → the secret sets a pod of that content may see.
    pub files: BTreeMap<String, BTreeMap<Digest, BTreeSet<SecretSet>>>,
    /// Files that must never be absent once they were seen.
    pub required: BTreeSet<String>,
}

// === impl Release ===

impl Release {
    /// Reads a release from a settled directory: a node that has adopted it, or what a build wrote.
    ///
    /// # Errors
    /// When a visible entry of `manifests` is no pod; all of them are named.
    pub fn read(manifests: &Path, root: &Path) -> Result<Self> {
        let mut source = FileSource::new(manifests.to_owned(), root.to_owned());
        let mut broken = Vec::new();
        for finding in source.list() {
            if let Finding::Listed { files } = finding {
                broken.extend(files.into_iter().filter_map(|(file, state)| match state {
                    FileState::Unusable(problem) => Some(format!("{file}: {problem}")),
                    FileState::Pod { .. } => None,
                }));
            }
        }
        if !broken.is_empty() {
            bail!(
                "these files of {} can't be a release: {}",
                manifests.display(),
                broken.join("; ")
            );
        }
        let files = source
            .running()
            .into_values()
            .map(|pod| (pod.file, (pod.digest, pod.secrets)))
            .collect();
        Ok(Self { files })
    }

    /// Adds a manifest and the secrets its pod must see.
    #[must_use]
    pub fn with(mut self, file: &str, content: &[u8], secrets: SecretSet) -> Self {
        self.files
            .insert(file.to_owned(), (Digest::of(content), secrets));
        self
    }
}

// === impl Allowed ===

impl Allowed {
    /// Allows what any of `releases` holds, and requires the files that all of them have.
    #[must_use]
    pub fn releases<'a>(releases: impl IntoIterator<Item = &'a Release>) -> Self {
        let mut allowed = Self::default();
        for (n, release) in releases.into_iter().enumerate() {
            for (file, (digest, secrets)) in &release.files {
                let contents = allowed.files.entry(file.clone()).or_default();
                contents.entry(*digest).or_default().insert(secrets.clone());
            }
            let names: BTreeSet<String> = release.files.keys().cloned().collect();
            allowed.required = if n == 0 {
                names
            } else {
                &allowed.required & &names
            };
        }
        allowed
    }
}
