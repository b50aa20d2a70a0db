//! Releases and nodes for the tests of this directory, and an oracle that knows nothing of the code it judges.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use shared::bundle::{FileEntry, Index, Mode, Origin, Release};
use shared::check::manifest::PodSummary;
use shared::check::secret_dir::{Attributes, secret_dir_digest};
use shared::digest::Sha256Digest;
use shared::documents::GroupKey;
use shared::limits;
use shared::names::{EntryPath, ReleaseNumber};
use shared::secret::SecretBytes;
use tempfile::TempDir;

use super::{ApplyReport, Disk, DiskError, NodePaths, PodEnd, PodEnded};

/// A pod of a draft.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
    /// Changes the manifest and nothing else.
    pub(crate) revision: u32,
    /// The pod's secrets, by name.
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
}

/// What a release is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) number: u64,
    /// By manifest file name.
    pub(crate) pods: BTreeMap<String, Pod>,
    /// By path below `host/`.
    pub(crate) host: BTreeMap<String, Vec<u8>>,
    pub(crate) group_key: Option<Vec<u8>>,
}

/// Path below `/etc/kubernetes` → bytes and mode.
pub(crate) type Tree = BTreeMap<String, (Vec<u8>, u32)>;

pub(crate) struct Node {
    _dir: TempDir,
    pub(crate) paths: NodePaths,
}

struct Ends;

impl PodEnd for Ends {
    fn wait(&self, _: &PodSummary) -> PodEnded {
        PodEnded::Gone
    }
}

// === impl Pod ===

impl Pod {
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn digest(&self) -> String {
        // As `release` below: a test that is not root's owns its files itself.
        let attributes = Attributes {
            mode: 0o600,
            owner: (
                nix::unistd::geteuid().as_raw(),
                nix::unistd::getegid().as_raw(),
            ),
        };
        let files: BTreeMap<String, (Attributes, &[u8])> = self
            .secrets
            .iter()
            .map(|(name, bytes)| (name.clone(), (attributes, bytes.as_slice())))
            .collect();
        secret_dir_digest(&files)
    }

    fn manifest(&self) -> Vec<u8> {
        let ports: Vec<_> = self
            .port
            .iter()
            .map(|port| serde_json::json!({ "containerPort": port }))
            .collect();
        let path = format!("/etc/kubernetes/secrets/{}/{}", self.name, self.digest());
        let volumes = if self.secrets.is_empty() {
            serde_json::json!([])
        } else {
            serde_json::json!([{ "name": "secrets", "hostPath": { "path": path, "type": "Directory" } }])
        };
        let pod = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": "kube-system",
                "annotations": { "revision": self.revision.to_string() },
            },
            "spec": {
                "hostNetwork": true,
                "containers": [{ "name": "main", "image": "registry.example/image:1", "ports": ports }],
                "volumes": volumes,
            },
        });
        serde_json::to_vec_pretty(&pod).unwrap()
    }
}

// === impl Draft ===

impl Draft {
    /// Two pods with secrets and ports, a host file, and a group key.
    pub(crate) fn usual(number: u64) -> Self {
        let mut draft = Self {
            number,
            ..Self::default()
        };
        for (file, port) in [("etcd", 2379), ("kube-apiserver", 6443)] {
            let mut pod = Pod::named(file);
            pod.port = Some(port);
            let secret = format!("token of {file}").into_bytes();
            pod.secrets.insert("token".to_owned(), secret);
            draft.pods.insert(format!("{file}.yaml"), pod);
        }
        draft
            .host
            .insert("kubelet.yaml".to_owned(), b"a: 1\n".to_vec());
        draft.group_key = Some(GroupKey::generate().to_file().expose().to_vec());
        draft
    }

    pub(crate) fn pod(&mut self, file: &str) -> &mut Pod {
        self.pods.get_mut(file).unwrap()
    }

    fn entries(&self) -> Vec<(String, Vec<u8>, u32)> {
        let mut entries = Vec::new();
        for pod in self.pods.values() {
            for (name, bytes) in &pod.secrets {
                entries.push((format!("secrets/{}/{name}", pod.name), bytes.clone(), 0o600));
            }
        }
        for (path, bytes) in &self.host {
            entries.push((format!("host/{path}"), bytes.clone(), 0o644));
        }
        if let Some(key) = &self.group_key {
            entries.push(("agent/group.key".to_owned(), key.clone(), 0o600));
        }
        for (file, pod) in &self.pods {
            entries.push((format!("manifests/{file}"), pod.manifest(), 0o600));
        }
        entries
    }

    pub(crate) fn release(&self) -> Release {
        let owner = nix::unistd::geteuid().as_raw();
        let group = nix::unistd::getegid().as_raw();
        let mut files = Vec::new();
        let mut contents = BTreeMap::new();
        for (path, bytes, mode) in self.entries() {
            let path = EntryPath::new(path).unwrap();
            let mut entry =
                FileEntry::describe(path.clone(), &bytes, Mode::new(mode), Origin::Template);
            (entry.uid, entry.gid) = (owner, group);
            files.push(entry);
            contents.insert(path, SecretBytes::new(bytes));
        }
        let index = Index {
            format: limits::INDEX_FORMAT,
            environment: "dev".parse().unwrap(),
            group: "secure".parse().unwrap(),
            release: ReleaseNumber::new(self.number).unwrap(),
            files,
            restarts: Vec::new(),
            artifacts: Vec::new(),
            rollout: None,
            etcd: None,
        };
        Release::new(index, contents).unwrap()
    }

    /// What the bundle's digest would be.
    pub(crate) fn bundle(&self) -> Sha256Digest {
        Sha256Digest::of(format!("bundle {}", self.number).as_bytes())
    }

    /// What has to lie below `/etc/kubernetes`, and nothing else.
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        for (file, pod) in &self.pods {
            tree.insert(format!("manifests/{file}"), (pod.manifest(), 0o600));
            for (name, bytes) in &pod.secrets {
                let path = format!("secrets/{}/{}/{name}", pod.name, pod.digest());
                tree.insert(path, (bytes.clone(), 0o600));
            }
        }
        for (path, bytes) in &self.host {
            tree.insert(format!("host/{path}"), (bytes.clone(), 0o644));
        }
        tree
    }
}

// === impl Node ===

impl Node {
    pub(crate) fn new() -> Self {
        // Syncing is free there, and these tests sync thousands of times.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.unwrap();
        let paths = NodePaths::new(&dir.path().join("root"), &dir.path().join("state"));
        Self { _dir: dir, paths }
    }

    pub(crate) fn try_open(&self) -> Result<Disk, DiskError> {
        let (environment, group) = ("dev".parse().unwrap(), "secure".parse().unwrap());
        let disk = Disk::open(self.paths.clone(), environment, group)?;
        Ok(disk.with_pod_end(Box::new(Ends)))
    }

    pub(crate) fn open(&self) -> Disk {
        self.try_open().unwrap()
    }

    /// A path below `/etc/kubernetes`.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.paths.kubernetes().join(path)
    }

    /// Every file below `/etc/kubernetes`.
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        collect(self.paths.kubernetes(), "", &mut tree);
        tree
    }

    /// Kubelet's view at any moment: some manifest, each of one of the drafts as a whole, with all of its secrets.
    pub(crate) fn judge(&self, drafts: &[&Draft]) {
        judge(&self.paths, drafts);
    }

    /// Nothing but this release, below `/etc/kubernetes` and in the state directory.
    pub(crate) fn holds_exactly(&self, draft: &Draft) {
        assert_eq!(self.tree(), draft.tree());
        let names = |path: &Path| -> BTreeSet<String> {
            let entries = fs::read_dir(path).unwrap();
            entries
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        let mut state = BTreeSet::from(["ledger.json", "lock", "releases"].map(str::to_owned));
        if let Some(key) = &draft.group_key {
            state.insert("group.key".to_owned());
            assert_eq!(fs::read(self.paths.group_key()).unwrap(), *key);
        }
        assert_eq!(names(self.paths.state()), state);
        let copy = format!("{}.tar.zst", draft.number);
        assert_eq!(names(&self.paths.releases()), BTreeSet::from([copy]));
        let pods: BTreeSet<String> = draft
            .pods
            .values()
            .filter(|pod| !pod.secrets.is_empty())
            .map(|pod| pod.name.clone())
            .collect();
        assert_eq!(names(&self.paths.secrets()), pods);
    }
}

pub(crate) fn judge(paths: &NodePaths, drafts: &[&Draft]) {
    let mut tree = Tree::new();
    collect(paths.kubernetes(), "", &mut tree);
    let mut manifests = 0;
    for (path, (bytes, _)) in &tree {
        let Some(file) = path.strip_prefix("manifests/") else {
            continue;
        };
        if file.starts_with('.') {
            continue;
        }
        manifests += 1;
        let pods = drafts.iter().filter_map(|draft| draft.pods.get(file));
        let pod = pods.into_iter().find(|pod| pod.manifest() == *bytes);
        let pod = pod.unwrap_or_else(|| panic!("{file} is of no release"));
        let seen: BTreeMap<&str, &[u8]> = tree
            .iter()
            .filter_map(|(path, (bytes, _))| {
                let directory = format!("secrets/{}/{}/", pod.name, pod.digest());
                Some((path.strip_prefix(&directory)?, bytes.as_slice()))
            })
            .collect();
        let wanted: BTreeMap<&str, &[u8]> = pod
            .secrets
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect();
        assert!(seen == wanted, "{file} does not see exactly its secrets");
    }
    assert!(manifests > 0, "the manifest directory is empty");
}

fn collect(directory: &Path, prefix: &str, tree: &mut Tree) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), &format!("{name}/"), tree);
        } else {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            tree.insert(name, (fs::read(entry.path()).unwrap_or_default(), mode));
        }
    }
}

/// Checks, plans and applies, and removes what is left as if every pod of before had ended meanwhile.
pub(crate) fn adopt(disk: &mut Disk, draft: &Draft) -> Result<ApplyReport, DiskError> {
    let report = adopt_without_cleaning(disk, draft)?;
    disk.clean()?;
    Ok(report)
}

pub(crate) fn adopt_without_cleaning(
    disk: &mut Disk,
    draft: &Draft,
) -> Result<ApplyReport, DiskError> {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let checked = disk.check(draft.release(), now).unwrap();
    let plan = disk.plan(&checked)?;
    disk.apply(&checked, draft.bundle(), &plan)
}

/// A node that has adopted its first release.
pub(crate) fn adopted(draft: &Draft) -> (Node, Disk) {
    let node = Node::new();
    let mut disk = node.open();
    adopt(&mut disk, draft).unwrap();
    (node, disk)
}
