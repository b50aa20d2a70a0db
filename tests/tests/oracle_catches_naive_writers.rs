//! The oracle is worth what it catches: every naive way to write a release must fail it, and the right way must pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use platform_tests::kubelet::{
    Allowed, Breach, Cause, DEFAULT_FILE_CHECK_FREQUENCY, Digest, Finding, Kubelet, KubeletConfig,
    Observation, Release, Violation, judge,
};
use platform_tests::writer::{Content, NaiveWriter, NodeTree, write_atomically};

/// Releases written before a naive writer counts as not caught.
const ROUNDS: usize = 1500;

/// Releases between two looks at the history.
const ROUNDS_PER_VERDICT: usize = 20;

const TICK: Duration = Duration::from_millis(2);

const PODS: [&str; 3] = ["etcd", "kube-apiserver", "kube-scheduler"];

/// Where a release puts its pods' secrets.
#[derive(Clone, Copy, PartialEq)]
enum SecretPlace {
    /// A directory of its own for each content, as the platform does.
    Immutable,
    /// One directory for ever.
    Fixed,
}

/// Release `n`: three pods, each with an annotation and secrets that no other release has.
fn content(n: usize, place: SecretPlace) -> Content {
    let mut content = Content::default();
    for pod in PODS {
        let directory = match place {
            SecretPlace::Immutable => format!("/etc/kubernetes/secrets/{pod}/{n:06}"),
            SecretPlace::Fixed => format!("/etc/kubernetes/secrets/{pod}/current"),
        };
        for file in ["ca.crt", "tls.crt", "tls.key"] {
            content.secrets.insert(
                format!("{directory}/{file}"),
                format!("{pod} {file} {n}\n").repeat(120).into_bytes(),
            );
        }
        let arguments: String = (0..60)
            .map(|i| format!("    - --option-{i}=value-{i}-of-{n}\n"))
            .collect();
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {pod}\n  namespace: kube-system\nspec:\n  hostNetwork: true\n  \
             containers:\n  - name: {pod}\n    image: registry.example/{pod}:{n}\n    args:\n{arguments}  \
             volumes:\n  - name: secrets\n    hostPath:\n      path: {directory}\n"
        );
        content
            .manifests
            .insert(format!("{pod}.yaml"), manifest.into_bytes());
    }
    content
}

struct Rig {
    tree: NodeTree,
    kubelet: Kubelet,
    releases: Vec<Release>,
    _root: tempfile::TempDir,
}

impl Rig {
    /// A node on `content`, written before kubelet starts.
    fn new(content: &Content) -> Self {
        let root = tempfile::tempdir().unwrap();
        let tree = NodeTree::create(root.path()).unwrap();
        write_atomically(&tree, content).unwrap();
        let config = KubeletConfig {
            manifests: tree.manifests.clone(),
            root: tree.root.clone(),
            tick: TICK,
        };
        let kubelet = Kubelet::start(config).unwrap();
        assert_eq!(
            kubelet.running().len(),
            PODS.len(),
            "kubelet sees the first release as soon as it has started"
        );
        Self {
            tree,
            kubelet,
            releases: vec![content.release()],
            _root: root,
        }
    }

    fn violations(&self, history: &[Observation]) -> Vec<Violation> {
        judge(history, &Allowed::releases(&self.releases))
    }
}

/// Lets `writer` write release after release until the oracle has caught it in what `expected` describes.
fn assert_caught(writer: NaiveWriter, place: SecretPlace, expected: impl Fn(&Breach) -> bool) {
    let mut rig = Rig::new(&content(0, place));
    for round in 1..=ROUNDS {
        let next = content(round, place);
        writer.write(&rig.tree, &next).unwrap();
        rig.releases.push(next.release());
        if round % ROUNDS_PER_VERDICT == 0
            && rig
                .violations(&rig.kubelet.history())
                .iter()
                .any(|violation| expected(&violation.breach))
        {
            println!("{writer:?} was caught within {round} releases");
            return;
        }
    }
    let found: BTreeSet<String> = rig
        .violations(&rig.kubelet.history())
        .iter()
        .map(ToString::to_string)
        .collect();
    panic!("{writer:?} was not caught in {ROUNDS} releases; seen: {found:#?}");
}

#[test]
fn truncating_in_place_is_caught() {
    // What kubelet's list would do with it: the file is left out, so the running pod is ended.
    assert_caught(
        NaiveWriter::TruncateInPlace,
        SecretPlace::Immutable,
        |breach| matches!(breach, Breach::Unusable { file, .. } if file == "etcd.yaml"),
    );
}

#[test]
fn half_a_manifest_can_be_another_valid_pod_and_is_caught() {
    assert_caught(
        NaiveWriter::TruncateInPlace,
        SecretPlace::Immutable,
        |breach| matches!(breach, Breach::UnknownContent { .. }),
    );
}

#[test]
fn a_visible_temporary_is_caught() {
    assert_caught(
        NaiveWriter::VisibleTemp,
        SecretPlace::Immutable,
        |breach| matches!(breach, Breach::StrayFile { file } if file == "etcd.yaml.tmp"),
    );
}

#[test]
fn deleting_before_creating_is_caught() {
    assert_caught(
        NaiveWriter::DeleteThenCreate,
        SecretPlace::Immutable,
        |breach| matches!(breach, Breach::MissingFile { file } if file == "etcd.yaml"),
    );
}

#[test]
fn swapping_the_directory_is_caught() {
    assert_caught(
        NaiveWriter::SwapDirectory,
        SecretPlace::Immutable,
        |breach| *breach == Breach::DirectorySwapped,
    );
}

#[test]
fn a_swapped_directory_is_an_outage_and_not_only_another_inode() {
    assert_caught(
        NaiveWriter::SwapDirectory,
        SecretPlace::Immutable,
        |breach| *breach == Breach::EmptySet,
    );
}

#[test]
fn a_manifest_before_its_secrets_is_caught() {
    assert_caught(
        NaiveWriter::ManifestBeforeSecrets,
        SecretPlace::Immutable,
        |breach| {
            matches!(
                breach,
                Breach::SecretsMissing { .. }
                    | Breach::SecretsHalfFilled { .. }
                    | Breach::SecretsUnknown { .. }
            )
        },
    );
}

#[test]
fn secrets_of_two_releases_under_one_pod_are_caught() {
    assert_caught(NaiveWriter::SecretsInPlace, SecretPlace::Fixed, |breach| {
        matches!(breach, Breach::SecretsMixed { .. })
    });
}

/// The same oracle at the same tick: as many releases, and not one violation.
#[test]
fn an_atomic_writer_passes() {
    const RELEASES: usize = 400;
    let mut rig = Rig::new(&content(0, SecretPlace::Immutable));
    for round in 1..=RELEASES {
        let next = content(round, SecretPlace::Immutable);
        write_atomically(&rig.tree, &next).unwrap();
        rig.releases.push(next.release());
    }
    let allowed = Allowed::releases(&rig.releases);
    assert_eq!(
        Release::read(&rig.tree.manifests, &rig.tree.root).unwrap(),
        *rig.releases.last().unwrap()
    );
    let last = content(RELEASES, SecretPlace::Immutable).manifests;
    let history = rig.kubelet.stop();

    let found: Vec<String> = judge(&history, &allowed)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(found.is_empty(), "{found:#?}");
    // A verdict on a history that saw nothing would be worth nothing.
    let started = |file: &str| -> Vec<Digest> {
        let pods = history
            .iter()
            .filter_map(|observation| match &observation.finding {
                Finding::Started { running, .. } if running.file == file => Some(running.digest),
                _ => None,
            });
        pods.collect()
    };
    for (file, manifest) in &last {
        let started = started(file);
        assert!(
            started.len() > RELEASES / 20,
            "{file} was seen to start only {} times",
            started.len()
        );
        assert_eq!(
            started.last(),
            Some(&Digest::of(manifest)),
            "{file} ends on the last release"
        );
    }
}

/// The crash tests have their writer in another process; so has this: a shell's redirection truncates in place.
#[test]
fn a_writer_in_another_process_is_caught() {
    let mut rig = Rig::new(&content(0, SecretPlace::Immutable));
    let spare = rig.tree.root.join("spare");
    std::fs::create_dir(&spare).unwrap();
    let manifests: BTreeMap<String, Vec<u8>> = content(0, SecretPlace::Immutable).manifests;
    let next = String::from_utf8(manifests["etcd.yaml"].clone())
        .unwrap()
        .replace("etcd:0", "etcd:1");
    std::fs::write(spare.join("etcd.yaml"), &next).unwrap();
    let mut release = content(0, SecretPlace::Immutable);
    release
        .manifests
        .insert("etcd.yaml".to_owned(), next.into_bytes());
    rig.releases.push(release.release());

    let script = "for n in 1 2 3 4 5 6 7 8 9 10; do cat \"$1\" > \"$2\"; done";
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(spare.join("etcd.yaml"))
        .arg(rig.tree.manifests.join("etcd.yaml"))
        .status();
    assert!(status.unwrap().success(), "the shell's writer failed");

    let allowed = Allowed::releases(&rig.releases);
    let violations = judge(&rig.kubelet.stop(), &allowed);
    assert!(
        violations
            .iter()
            .any(|violation| matches!(violation.breach, Breach::Unusable { .. })),
        "{violations:?}"
    );
}

/// Kubelet waits for a directory that is not there yet, and its watch works once it is.
#[test]
fn a_directory_that_appears_later_is_watched() {
    let root = tempfile::tempdir().unwrap();
    let manifests = root.path().join("etc/kubernetes/manifests");
    let config = KubeletConfig {
        manifests,
        root: root.path().to_owned(),
        tick: TICK,
    };
    let kubelet = Kubelet::start(config).unwrap();
    assert!(kubelet.running().is_empty());
    let first = content(0, SecretPlace::Immutable);
    write(root.path(), &first);
    let history = kubelet.stop();
    let started = history
        .iter()
        .filter(|observation| matches!(observation.finding, Finding::Started { .. }))
        .count();
    assert_eq!(started, PODS.len());
    assert_eq!(judge(&history, &Allowed::releases([&first.release()])), []);
}

fn write(root: &Path, content: &Content) {
    write_atomically(&NodeTree::create(root).unwrap(), content).unwrap();
}

/// With kubelet's slow tick only inotify is left, and it is enough: a rename is one Create.
#[test]
fn events_alone_carry_a_release() {
    let root = tempfile::tempdir().unwrap();
    let tree = NodeTree::create(root.path()).unwrap();
    let (first, second) = (
        content(0, SecretPlace::Immutable),
        content(1, SecretPlace::Immutable),
    );
    write_atomically(&tree, &first).unwrap();
    let tick = DEFAULT_FILE_CHECK_FREQUENCY;
    let kubelet = Kubelet::start(KubeletConfig {
        manifests: tree.manifests.clone(),
        root: tree.root.clone(),
        tick,
    })
    .unwrap();
    write_atomically(&tree, &second).unwrap();
    let history = kubelet.stop();
    assert_eq!(
        judge(
            &history,
            &Allowed::releases([&first.release(), &second.release()])
        ),
        []
    );
    let mut read = BTreeSet::new();
    for observation in history
        .iter()
        .filter(|observation| observation.cause != Cause::List)
    {
        match &observation.finding {
            Finding::Read { file, .. } => {
                read.insert(file.as_str());
            }
            gone @ (Finding::Vanished { .. } | Finding::Removed { .. }) => {
                panic!("a rename is one Create and nothing else, not {gone:?}")
            }
            _ => {}
        }
    }
    assert_eq!(
        read,
        BTreeSet::from(["etcd.yaml", "kube-apiserver.yaml", "kube-scheduler.yaml"])
    );
}
