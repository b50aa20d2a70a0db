//! Kubelet's file source: lists, single events, and the store between them (`pkg/kubelet/config/file.go`).
//!
//! Nothing here waits or knows the time: a call looks at the disk once and returns what there is to record.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use super::observation::{Digest, FileState, Finding, PodIdentity, Problem, RunningPod};
use super::pod::{Decoded, MAX_MANIFEST_BYTES, decode};
use super::secrets;

/// Decoded contents kept, so that a fast tick costs a read and a digest but no decoding.
const REMEMBERED_CONTENTS: usize = 4096;

/// Kubelet lists `[^.]*` and skips the same names among the events: whatever does not begin with a dot is a manifest.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// A pod as a file holds it.
#[derive(Debug, Clone)]
struct Candidate {
    file: String,
    digest: Digest,
    identity: PodIdentity,
    secret_paths: Vec<String>,
    version: FileVersion,
}

/// Tells a file from its replacement, even one of the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    inode: u64,
    changed: (i64, i64),
}

/// One visible entry, read.
#[derive(Debug, Clone)]
enum Entry {
    Pod(Candidate),
    Unusable(Problem),
}

/// The source and what it has handed on.
#[derive(Debug)]
pub(crate) struct FileSource {
    manifests: PathBuf,
    root: PathBuf,
    /// Kubelet's store, by `namespace/name`.
    store: BTreeMap<String, Candidate>,
    /// Which pod a file last gave (`fileKeyMapping`): a remove event knows only the file.
    file_keys: HashMap<String, String>,
    /// The last SET and the secrets its pods were last seen with.
    running: BTreeMap<String, (Candidate, RunningPod)>,
    listed: Option<BTreeMap<String, FileState>>,
    directory: Option<(u64, u64)>,
    decoded: HashMap<Digest, Result<Decoded, Problem>>,
}

impl FileSource {
    /// A source that has seen nothing yet.
    pub(crate) fn new(manifests: PathBuf, root: PathBuf) -> Self {
        Self {
            manifests,
            root,
            store: BTreeMap::new(),
            file_keys: HashMap::new(),
            running: BTreeMap::new(),
            listed: None,
            directory: None,
            decoded: HashMap::new(),
        }
    }

    /// The pods of the last SET.
    pub(crate) fn running(&self) -> BTreeMap<String, RunningPod> {
        self.running
            .iter()
            .map(|(key, (_, running))| (key.clone(), running.clone()))
            .collect()
    }

    /// The full list: what can't be read or is no pod is left out, and the rest is the new SET.
    pub(crate) fn list(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.directory_was_replaced() {
            findings.push(Finding::DirectoryReplaced);
        }
        let mut files = BTreeMap::new();
        let mut store = BTreeMap::new();
        // In order of the names, so that of two files with one pod the last wins.
        for file in self.visible_names() {
            let Some(entry) = self.read(&file) else {
                continue;
            };
            files.insert(file, entry.state());
            if let Entry::Pod(candidate) = entry {
                store.insert(candidate.identity.key.clone(), candidate);
            }
        }
        if self.listed.as_ref() != Some(&files) {
            findings.push(Finding::Listed {
                files: files.clone(),
            });
            self.listed = Some(files);
        }
        if store.is_empty() {
            // Kubelet sends the empty SET past its store: the next event publishes the old pods once more.
            self.publish(BTreeMap::new(), &mut findings);
        } else {
            self.store.clone_from(&store);
            self.publish(store, &mut findings);
        }
        self.check_secrets(&mut findings);
        findings
    }

    /// A create, write or chmod event: that one file is read; what is no pod is only logged.
    pub(crate) fn changed(&mut self, file: &str) -> Vec<Finding> {
        let Some(entry) = self.read(file) else {
            return vec![Finding::Vanished {
                file: file.to_owned(),
            }];
        };
        let mut findings = vec![Finding::Read {
            file: file.to_owned(),
            state: entry.state(),
        }];
        if let Entry::Pod(candidate) = entry {
            self.store.insert(candidate.identity.key.clone(), candidate);
            self.publish(self.store.clone(), &mut findings);
        }
        findings
    }

    /// A remove or renamed-from event: the pod that file last gave is dropped, whatever is there by now.
    pub(crate) fn removed(&mut self, file: &str) -> Vec<Finding> {
        let mut findings = vec![Finding::Removed {
            file: file.to_owned(),
        }];
        if let Some(key) = self.file_keys.remove(file)
            && self.store.remove(&key).is_some()
        {
            self.publish(self.store.clone(), &mut findings);
        }
        findings
    }

    fn directory_was_replaced(&mut self) -> bool {
        let Ok(metadata) = std::fs::metadata(&self.manifests) else {
            return false;
        };
        let now = (metadata.dev(), metadata.ino());
        self.directory
            .replace(now)
            .is_some_and(|before| before != now)
    }

    fn visible_names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(&self.manifests)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !is_hidden(name))
            .collect()
    }

    /// Reads one entry; `None` when it is gone.
    fn read(&mut self, file: &str) -> Option<Entry> {
        let path = self.manifests.join(file);
        // Like kubelet's list this follows symlinks. Only regular files are opened: a FIFO would block.
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(_) if path.symlink_metadata().is_ok_and(|link| link.is_symlink()) => {
                return Some(Entry::Unusable(Problem::Stray("dangling symlink")));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(Entry::Unusable(Problem::Unreadable(error.to_string()))),
        };
        let kind = metadata.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() {
                "directory"
            } else if kind.is_fifo() {
                "FIFO"
            } else {
                "socket or device"
            };
            return Some(Entry::Unusable(Problem::Stray(what)));
        }
        let read = || -> io::Result<(Vec<u8>, FileVersion)> {
            let file = File::open(&path)?;
            let metadata = file.metadata()?;
            let mut content = Vec::new();
            file.take(MAX_MANIFEST_BYTES + 1)
                .read_to_end(&mut content)?;
            Ok((content, FileVersion::of(&metadata)))
        };
        let (content, version) = match read() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(Entry::Unusable(Problem::Unreadable(error.to_string()))),
        };
        if content.len() as u64 > MAX_MANIFEST_BYTES {
            return Some(Entry::Unusable(Problem::Unreadable(
                "over 10 MiB".to_owned(),
            )));
        }
        let digest = Digest::of(&content);
        if self.decoded.len() >= REMEMBERED_CONTENTS {
            self.decoded.clear();
        }
        let decoded = self
            .decoded
            .entry(digest)
            .or_insert_with(|| decode(&content))
            .clone();
        Some(match decoded {
            Err(problem) => Entry::Unusable(problem),
            Ok(Decoded {
                key,
                object,
                secret_paths,
            }) => {
                self.file_keys.insert(file.to_owned(), key.clone());
                let identity = PodIdentity {
                    key,
                    uid: Digest::of(format!("{object}file:{file}").as_bytes()),
                };
                Entry::Pod(Candidate {
                    file: file.to_owned(),
                    digest,
                    identity,
                    secret_paths,
                    version,
                })
            }
        })
    }

    /// Hands a SET on: pods it no longer has are ended, a pod of another UID is ended and started.
    fn publish(&mut self, set: BTreeMap<String, Candidate>, findings: &mut Vec<Finding>) {
        let uid_now = |key: &String| set.get(key).map(|candidate| candidate.identity.uid);
        let (kept, ended): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(|(key, (candidate, _))| uid_now(key) == Some(candidate.identity.uid));
        let starts = set.keys().any(|key| !kept.contains_key(key));
        self.running = kept;
        if !ended.is_empty() || starts {
            findings.push(Finding::Set {
                pods: set.keys().cloned().collect(),
            });
        }
        findings.extend(ended.into_keys().map(|pod| Finding::Stopped { pod }));
        for (pod, candidate) in set {
            let before = self
                .running
                .get(&pod)
                .map(|(_, running)| running.secrets.clone());
            let started = before.is_none();
            let secrets =
                before.unwrap_or_else(|| secrets::read(&self.root, &candidate.secret_paths));
            let running = RunningPod {
                file: candidate.file.clone(),
                digest: candidate.digest,
                secrets,
            };
            if started {
                let superseded = self.is_superseded(&candidate);
                findings.push(Finding::Started {
                    pod: pod.clone(),
                    running: running.clone(),
                    superseded,
                });
            }
            self.running.insert(pod, (candidate, running));
        }
    }

    /// Secret directories are immutable: under a running pod whose manifest still names them nothing may change.
    fn check_secrets(&mut self, findings: &mut Vec<Finding>) {
        let mut changed = Vec::new();
        for (pod, (candidate, running)) in &self.running {
            let secrets = secrets::read(&self.root, &candidate.secret_paths);
            if secrets != running.secrets && !self.is_superseded(candidate) {
                changed.push((
                    pod.clone(),
                    RunningPod {
                        secrets,
                        ..running.clone()
                    },
                ));
            }
        }
        for (pod, now) in changed {
            if let Some((_, running)) = self.running.get_mut(&pod) {
                running.clone_from(&now);
            }
            findings.push(Finding::SecretsChanged { pod, running: now });
        }
    }

    /// Whether the file a pod came from is another by now. Its writer may then have removed what only the old one named.
    fn is_superseded(&self, candidate: &Candidate) -> bool {
        let now = std::fs::metadata(self.manifests.join(&candidate.file));
        now.map_or(true, |metadata| {
            FileVersion::of(&metadata) != candidate.version
        })
    }
}

impl Entry {
    fn state(&self) -> FileState {
        match self {
            Self::Pod(candidate) => FileState::Pod {
                digest: candidate.digest,
                identity: candidate.identity.clone(),
            },
            Self::Unusable(problem) => FileState::Unusable(problem.clone()),
        }
    }
}

impl FileVersion {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests;
