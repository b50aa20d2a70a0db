//! Installing, replacing, refusing, putting back and removing, on a disk of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use shared::artifact::write_archive;
use shared::bundle::Mode;
use shared::digest::Sha256Digest;
use shared::names::ReleaseNumber;
use tempfile::TempDir;

use super::*;

struct Node {
    dir: TempDir,
    artifacts: Artifacts,
}

fn number(n: u64) -> ReleaseNumber {
    ReleaseNumber::new(n).unwrap()
}

fn artifact(name: &str, path: &str, bytes: &[u8], unpack: Unpack) -> Artifact {
    Artifact {
        name: name.to_owned(),
        target: format!("{name}-1"),
        sha256: Sha256Digest::of(bytes),
        bytes: bytes.len() as u64,
        path: path.to_owned(),
        mode: Mode::new(0o755),
        unpack,
        restart: None,
    }
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let file = |(n, b): &(&str, &str)| (n.parse().unwrap(), b.as_bytes().to_vec());
    let files: BTreeMap<_, _> = files.iter().map(file).collect();
    write_archive(&files, Vec::new()).unwrap()
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Self::open(&dir);
        Self { dir, artifacts }
    }

    fn open(dir: &TempDir) -> Artifacts {
        let directories = DEFAULT_DIRECTORIES.iter().map(Into::into).collect();
        let state = dir.path().join("state");
        fs::create_dir_all(&state).unwrap();
        Artifacts::open(&dir.path().join("root"), &state, directories).unwrap()
    }

    fn again(&mut self) {
        self.artifacts = Self::open(&self.dir);
    }

    /// What the store would have given is there already.
    fn stage(&mut self, wanted: &[(Artifact, Vec<u8>)]) -> Result<(), ArtifactError> {
        let all: Vec<Artifact> = wanted.iter().map(|(a, _)| a.clone()).collect();
        let missing = self.artifacts.missing(&all);
        for staging in self.artifacts.to_stage(&missing).unwrap() {
            let (artifact, bytes) = wanted.iter().find(|(a, _)| *a == staging.artifact).unwrap();
            let name = format!("artifact-{}", artifact.sha256);
            let mut file = durable::StagedFile::create(&staging.directory, &name).unwrap();
            file.write(bytes).unwrap();
            let at = file.finish(artifact.mode.bits()).unwrap();
            self.artifacts.staged(artifact.clone(), at)?;
        }
        Ok(())
    }

    fn install(
        &mut self,
        release: u64,
        wanted: &[(Artifact, Vec<u8>)],
    ) -> Result<Vec<String>, ArtifactError> {
        self.stage(wanted)?;
        let all: Vec<Artifact> = wanted.iter().map(|(a, _)| a.clone()).collect();
        self.artifacts.place(Some((&all, number(release))))
    }

    fn at(&self, path: &str) -> PathBuf {
        ledger::below(&self.dir.path().join("root"), path)
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.at(path)).ok()
    }

    /// Every file below the root, by name.
    fn files(&self) -> Vec<String> {
        fn walk(dir: &Path, all: &mut Vec<String>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                match path.is_dir() {
                    true => walk(&path, all),
                    false => all.push(path.to_string_lossy().into_owned()),
                }
            }
        }
        let root = self.dir.path().join("root");
        let mut all = Vec::new();
        walk(&root, &mut all);
        let below = |p: String| p.strip_prefix(&*root.to_string_lossy()).unwrap().to_owned();
        let mut all: Vec<String> = all.into_iter().map(below).collect();
        all.sort();
        all
    }
}

fn kubelet(bytes: &str) -> (Artifact, Vec<u8>) {
    let path = "/opt/bin/kubelet";
    let artifact = artifact("kubelet", path, bytes.as_bytes(), Unpack::None);
    (artifact, bytes.as_bytes().to_vec())
}

fn plugins(files: &[(&str, &str)]) -> (Artifact, Vec<u8>) {
    let bytes = archive(files);
    let artifact = artifact("cni", "/opt/cni/bin", &bytes, Unpack::TarZst);
    (artifact, bytes)
}

#[test]
fn installs_replaces_and_removes_exactly_what_is_its_own() {
    let mut node = Node::new();
    let one = [
        kubelet("one"),
        plugins(&[("bridge", "b1"), ("loopback", "l1")]),
    ];
    assert_eq!(node.install(1, &one).unwrap(), ["kubelet", "cni"]);
    assert_eq!(node.text("/opt/bin/kubelet").unwrap(), "one");
    let mode = fs::metadata(node.at("/opt/cni/bin/bridge"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    // Somebody else's plugin is none of ours.
    fs::write(node.at("/opt/cni/bin/flannel"), "f").unwrap();
    node.again();
    assert!(!node.artifacts.verify().unwrap());
    assert!(
        node.install(2, &one).unwrap().is_empty(),
        "nothing is fetched twice"
    );

    let two = [
        kubelet("two"),
        plugins(&[("bridge", "b2"), ("host-local", "h2")]),
    ];
    assert_eq!(node.install(3, &two).unwrap().len(), 2);
    assert_eq!(
        node.files(),
        [
            "/opt/bin/kubelet",
            "/opt/cni/bin/bridge",
            "/opt/cni/bin/flannel",
            "/opt/cni/bin/host-local"
        ],
        "loopback is gone with its archive, and no temporary is left"
    );
    assert_eq!(node.text("/opt/cni/bin/bridge").unwrap(), "b2");

    // What release 4 does not list stays until release 4 is on the disk, also over a restart.
    node.install(4, &two[..1]).unwrap();
    node.again();
    assert!(!node.artifacts.has_orphans(number(3)));
    assert!(node.text("/opt/cni/bin/bridge").is_some());
    assert_eq!(node.artifacts.settle(number(4)).unwrap(), ["cni"]);
    assert_eq!(node.files(), ["/opt/bin/kubelet", "/opt/cni/bin/flannel"]);
}

#[test]
fn an_artifact_that_is_listed_again_in_time_stays() {
    let mut node = Node::new();
    let one = [kubelet("one")];
    node.install(1, &one).unwrap();
    node.install(2, &[]).unwrap();
    // Release 2 was never on the disk; release 3 lists it again.
    node.install(3, &one).unwrap();
    assert!(!node.artifacts.has_orphans(number(9)));
    assert_eq!(node.text("/opt/bin/kubelet").unwrap(), "one");
}

#[test]
fn a_file_of_somebody_else_is_named_and_left_alone() {
    let mut node = Node::new();
    fs::create_dir_all(node.at("/opt/bin")).unwrap();
    fs::write(node.at("/opt/bin/kubelet"), "theirs").unwrap();
    let refused = node.install(1, &[kubelet("ours")]).unwrap_err();
    assert_eq!(refused.kind(), "foreign_file", "{refused}");
    assert_eq!(node.text("/opt/bin/kubelet").unwrap(), "theirs");
    assert_eq!(node.files(), ["/opt/bin/kubelet"]);
    // The very same bytes are taken over.
    fs::write(node.at("/opt/bin/kubelet"), "ours").unwrap();
    node.install(1, &[kubelet("ours")]).unwrap();
    assert_eq!(node.install(2, &[kubelet("newer")]).unwrap(), ["kubelet"]);
}

#[test]
fn nothing_of_an_archive_that_is_refused_is_written() {
    let mut node = Node::new();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind) in [
        ("good", tar::EntryType::Regular),
        ("link", tar::EntryType::Symlink),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_link_name("/etc/shadow").unwrap();
        header.set_cksum();
        archive.append(&header, &[][..]).unwrap();
    }
    let bytes = zstd::encode_all(&archive.into_inner().unwrap()[..], 1).unwrap();
    let cni = artifact("cni", "/opt/cni/bin", &bytes, Unpack::TarZst);
    let refused = node.install(1, &[(cni, bytes)]).unwrap_err();
    assert!(
        refused.is_final() && refused.kind() == "artifact",
        "{refused}"
    );
    assert!(node.files().is_empty(), "{:?}", node.files());
}

#[test]
fn two_artifacts_do_not_share_a_file() {
    let mut node = Node::new();
    let bytes = archive(&[("kubelet", "x")]);
    let other = artifact("other", "/opt/bin", &bytes, Unpack::TarZst);
    let refused = node
        .install(1, &[kubelet("one"), (other, bytes)])
        .unwrap_err();
    assert!(matches!(refused, ArtifactError::Shared { .. }), "{refused}");
}

#[test]
fn drift_is_seen_by_a_cheap_look_and_at_the_start() {
    let mut node = Node::new();
    let wanted = [kubelet("one"), plugins(&[("bridge", "b")])];
    node.install(1, &wanted).unwrap();
    assert!(!node.artifacts.verify().unwrap());
    let change: [fn(&Node); 4] = [
        |n| fs::write(n.at("/opt/bin/kubelet"), "two").unwrap(),
        |n| fs::remove_file(n.at("/opt/bin/kubelet")).unwrap(),
        |n| {
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(n.at("/opt/bin/kubelet"), mode).unwrap();
        },
        |n| {
            fs::remove_file(n.at("/opt/bin/kubelet")).unwrap();
            std::os::unix::fs::symlink("/bin/sh", n.at("/opt/bin/kubelet")).unwrap();
        },
    ];
    for (at, change) in change.into_iter().enumerate() {
        change(&node);
        assert!(node.artifacts.verify().unwrap(), "{at}");
        let drifted = node.artifacts.drifted();
        assert_eq!(drifted.len(), 1, "{at}");
        let missing = [(drifted[0].clone(), b"one".to_vec())];
        node.stage(&missing).unwrap();
        assert_eq!(node.artifacts.place(None).unwrap(), ["kubelet"]);
        assert!(!node.artifacts.verify().unwrap(), "{at}");
        assert_eq!(node.text("/opt/bin/kubelet").unwrap(), "one");
    }
    fs::write(node.at("/opt/bin/kubelet"), "two").unwrap();
    node.again();
    assert!(
        node.artifacts.verify().unwrap(),
        "by its digest, after a start"
    );
}

#[test]
fn only_signed_artifacts_in_allowed_directories() {
    let node = Node::new();
    let (good, _) = kubelet("one");
    let signed = |a: &Artifact| ArtifactTarget {
        name: a.target.clone(),
        length: a.bytes,
        sha256: a.sha256,
    };
    let count = |a: &Artifact, s: &[ArtifactTarget]| {
        node.artifacts.problems(std::slice::from_ref(a), s).len()
    };
    assert_eq!(count(&good, &[signed(&good)]), 0);
    assert_eq!(count(&good, &[]), 1, "not listed");
    for change in [
        (|t| t.length += 1) as fn(&mut ArtifactTarget),
        |t| t.sha256 = Sha256Digest::of(b"other"),
        |t| t.name.push('x'),
    ] {
        let mut other = signed(&good);
        change(&mut other);
        assert_eq!(count(&good, &[other]), 1);
    }
    for (path, unpack, allowed) in [
        ("/usr/bin/kubelet", Unpack::None, false),
        ("/opt/binary/kubelet", Unpack::None, false),
        ("/opt/bin", Unpack::None, false),
        ("/opt/bin", Unpack::TarZst, true),
        ("/opt", Unpack::TarZst, false),
        ("/opt/cni/bin/x/y", Unpack::None, true),
    ] {
        let a = artifact("a", path, b"x", unpack);
        assert_eq!(count(&a, &[signed(&a)]) == 0, allowed, "{path}");
    }
}

#[test]
fn a_damaged_ledger_stops_the_agent() {
    let mut node = Node::new();
    node.install(1, &[kubelet("one")]).unwrap();
    let path = node.dir.path().join("state/artifacts.json");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("kubelet-1", "kubelet-2");
    fs::write(&path, text).unwrap();
    let opened = Artifacts::open(Path::new("/r"), &node.dir.path().join("state"), Vec::new());
    assert_eq!(opened.unwrap_err().kind(), "ledger_damaged");
}
