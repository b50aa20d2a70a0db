//! Writers of a release: the one way that is right, and the ways that earlier systems had.
//!
//! They exist to prove the oracle: it must let the first pass and fail each of the others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::kubelet::{Digest, Release, SecretSet};

/// Bytes a naive writer hands over at a time, as they would come from a network.
const CHUNK: usize = 512;

/// A node's directories.
#[derive(Debug, Clone)]
pub struct NodeTree {
    /// The node's root directory.
    pub root: PathBuf,
    /// The manifest directory below it.
    pub manifests: PathBuf,
}

/// What a writer puts onto a node.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// File name → manifest.
    pub manifests: BTreeMap<String, Vec<u8>>,
    /// Absolute path, as the manifests name it → secret.
    pub secrets: BTreeMap<String, Vec<u8>>,
}

/// Ways to write a release that look right until kubelet looks at the wrong moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NaiveWriter {
    /// Opens the manifest with truncation and writes it as it comes.
    TruncateInPlace,
    /// Writes `foo.yaml.tmp` beside `foo.yaml` and renames it: atomic, but kubelet takes the temporary for a pod too.
    VisibleTemp,
    /// Removes the old manifest, then moves the new one in.
    DeleteThenCreate,
    /// Builds a whole new directory and puts it in the old one's place.
    SwapDirectory,
    /// Right for each manifest, but the secrets it names come after it.
    ManifestBeforeSecrets,
    /// Right for each manifest, but secrets are overwritten where a running pod has them mounted.
    SecretsInPlace,
}

// === impl NodeTree ===

impl NodeTree {
    /// Lays out an empty node below `root`.
    ///
    /// # Errors
    /// When the directories can't be made.
    pub fn create(root: &Path) -> io::Result<Self> {
        let tree = Self {
            root: root.to_owned(),
            manifests: root.join("etc/kubernetes/manifests"),
        };
        fs::create_dir_all(&tree.manifests)?;
        Ok(tree)
    }

    fn below(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }
}

// === impl Content ===

impl Content {
    /// This content as the oracle's release: each pod sees the secrets whose directory its manifest names.
    #[must_use]
    pub fn release(&self) -> Release {
        self.manifests
            .iter()
            .fold(Release::default(), |release, (file, manifest)| {
                let text = String::from_utf8_lossy(manifest);
                let named = |path: &str| {
                    path.rsplit_once('/')
                        .is_some_and(|(directory, _)| text.contains(directory))
                };
                let secrets: SecretSet = self
                    .secrets
                    .iter()
                    .filter(|(path, _)| named(path))
                    .map(digested)
                    .collect();
                release.with(file, manifest, secrets)
            })
    }
}

fn digested((path, secret): (&String, &Vec<u8>)) -> (String, Digest) {
    (path.clone(), Digest::of(secret))
}

// === writing ===

/// The right way: whole new secret directories, then each manifest by a dot-named temporary and one rename, then what
/// no manifest names any more. Crash safety (fsync) is left out: the oracle sees no disk behind the page cache.
///
/// # Errors
/// The first failing system call.
pub fn write_atomically(tree: &NodeTree, content: &Content) -> io::Result<()> {
    write_secrets(tree, content)?;
    write_manifests(tree, content, |file| format!(".{file}.new"))?;
    remove_what_is_no_longer_named(tree, content)
}

impl NaiveWriter {
    /// Each of them.
    pub const ALL: [Self; 6] = [
        Self::TruncateInPlace,
        Self::VisibleTemp,
        Self::DeleteThenCreate,
        Self::SwapDirectory,
        Self::ManifestBeforeSecrets,
        Self::SecretsInPlace,
    ];

    /// Writes `content` its own way.
    ///
    /// # Errors
    /// The first failing system call.
    pub fn write(self, tree: &NodeTree, content: &Content) -> io::Result<()> {
        if self == Self::ManifestBeforeSecrets {
            write_manifests(tree, content, |file| format!(".{file}.new"))?;
            write_secrets(tree, content)?;
            return remove_what_is_no_longer_named(tree, content);
        }
        write_secrets(tree, content)?;
        match self {
            Self::TruncateInPlace => {
                for (file, manifest) in &content.manifests {
                    write_in_chunks(&tree.manifests.join(file), manifest)?;
                }
            }
            Self::VisibleTemp => write_manifests(tree, content, |file| format!("{file}.tmp"))?,
            Self::DeleteThenCreate => {
                for (file, manifest) in &content.manifests {
                    let temporary = tree.manifests.join(format!(".{file}.new"));
                    fs::write(&temporary, manifest)?;
                    remove_if_there(&tree.manifests.join(file))?;
                    fs::rename(&temporary, tree.manifests.join(file))?;
                }
            }
            Self::SwapDirectory => swap_directory(tree, content)?,
            Self::SecretsInPlace | Self::ManifestBeforeSecrets => {
                write_manifests(tree, content, |file| format!(".{file}.new"))?;
            }
        }
        remove_what_is_no_longer_named(tree, content)
    }
}

fn write_manifests(
    tree: &NodeTree,
    content: &Content,
    temporary: impl Fn(&str) -> String,
) -> io::Result<()> {
    for (file, manifest) in &content.manifests {
        let temporary = tree.manifests.join(temporary(file));
        fs::write(&temporary, manifest)?;
        fs::rename(&temporary, tree.manifests.join(file))?;
    }
    Ok(())
}

/// Writes secrets where they belong; only a directory that is new to the node makes that safe.
fn write_secrets(tree: &NodeTree, content: &Content) -> io::Result<()> {
    for (path, secret) in &content.secrets {
        let place = tree.below(path);
        if let Some(directory) = place.parent() {
            fs::create_dir_all(directory)?;
        }
        write_in_chunks(&place, secret)?;
    }
    Ok(())
}

fn write_in_chunks(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    content
        .chunks(CHUNK)
        .try_for_each(|chunk| file.write_all(chunk))
}

fn swap_directory(tree: &NodeTree, content: &Content) -> io::Result<()> {
    let (new, old) = (
        tree.manifests.with_extension("new"),
        tree.manifests.with_extension("old"),
    );
    fs::create_dir_all(&new)?;
    for (file, manifest) in &content.manifests {
        fs::write(new.join(file), manifest)?;
    }
    fs::rename(&tree.manifests, &old)?;
    fs::rename(&new, &tree.manifests)?;
    fs::remove_dir_all(&old)
}

fn remove_what_is_no_longer_named(tree: &NodeTree, content: &Content) -> io::Result<()> {
    for entry in fs::read_dir(&tree.manifests)? {
        let entry = entry?;
        if !content
            .manifests
            .contains_key(&*entry.file_name().to_string_lossy())
        {
            remove_if_there(&entry.path())?;
        }
    }
    let mut kept = content
        .secrets
        .keys()
        .filter_map(|path| tree.below(path).parent().map(Path::to_owned));
    let kept: std::collections::BTreeSet<PathBuf> = kept.by_ref().collect();
    for pod in subdirectories(&tree.below("/etc/kubernetes/secrets"))? {
        for directory in subdirectories(&pod)? {
            if !kept.contains(&directory) {
                fs::remove_dir_all(&directory)?;
            }
        }
    }
    Ok(())
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
