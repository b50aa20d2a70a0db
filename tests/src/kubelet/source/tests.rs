//! Kubelet's rules, one by one, without inotify and without time.

use std::path::Path;

use super::super::observation::SecretSet;
use super::*;

struct Node {
    root: tempfile::TempDir,
    source: FileSource,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let manifests = root.path().join("manifests");
        std::fs::create_dir(&manifests).unwrap();
        let source = FileSource::new(manifests, root.path().to_owned());
        Self { root, source }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.source.manifests.join(file)
    }

    fn put(&self, file: &str, content: &str) {
        // A new inode, as every correct writer makes it.
        let temporary = self.path(".temporary");
        std::fs::write(&temporary, content).unwrap();
        std::fs::rename(temporary, self.path(file)).unwrap();
    }

    fn secret(&self, path: &str, content: &str) {
        let place = self.root.path().join("etc/kubernetes/secrets").join(path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, content).unwrap();
    }

    fn pods(&self) -> Vec<(String, String)> {
        self.source
            .running()
            .into_iter()
            .map(|(pod, running)| (pod, running.file))
            .collect()
    }
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}\n"
    )
}

fn mounting(directory: &str) -> String {
    pod("a", "a:1").replace("spec: {", &format!("spec: {{volumes: [{{name: s, hostPath: {{path: /etc/kubernetes/secrets/{directory}}}}}], "))
}

fn started(findings: &[Finding]) -> Vec<&str> {
    findings
        .iter()
        .filter_map(|finding| {
            if let Finding::Started { pod, .. } = finding {
                Some(pod.as_str())
            } else {
                None
            }
        })
        .collect()
}

fn stopped(findings: &[Finding]) -> Vec<&str> {
    findings
        .iter()
        .filter_map(|finding| {
            if let Finding::Stopped { pod } = finding {
                Some(pod.as_str())
            } else {
                None
            }
        })
        .collect()
}

fn problem(findings: &[Finding], file: &str) -> Problem {
    let listed = findings.iter().find_map(|finding| match finding {
        Finding::Listed { files } => files.get(file),
        _ => None,
    });
    match listed {
        Some(FileState::Unusable(problem)) => problem.clone(),
        other => panic!("{file} is {other:?}"),
    }
}

fn own(file: (&str, &str)) -> (String, String) {
    (file.0.to_owned(), file.1.to_owned())
}

#[test]
fn every_name_without_a_leading_dot_is_a_manifest() {
    let mut node = Node::new();
    for (n, file) in [
        "a.yaml",
        "b.yaml~",
        "README",
        "c.yaml.tmp123",
        ".d.yaml",
        ".platformctl-e",
    ]
    .iter()
    .enumerate()
    {
        node.put(file, &pod(&format!("pod{n}"), "i:1"));
    }
    node.source.list();
    assert_eq!(
        node.pods(),
        [
            ("default/pod0", "a.yaml"),
            ("default/pod1", "b.yaml~"),
            ("default/pod2", "README"),
            ("default/pod3", "c.yaml.tmp123")
        ]
        .map(own)
    );
}

#[test]
fn what_is_no_regular_file_is_a_stray_and_is_never_opened() {
    let mut node = Node::new();
    std::fs::create_dir(node.path("directory")).unwrap();
    nix::unistd::mkfifo(&node.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("nowhere", node.path("link")).unwrap();
    let findings = node.source.list();
    assert_eq!(problem(&findings, "directory"), Problem::Stray("directory"));
    assert_eq!(problem(&findings, "fifo"), Problem::Stray("FIFO"));
    assert_eq!(
        problem(&findings, "link"),
        Problem::Stray("dangling symlink")
    );
    assert!(matches!(
        node.source.changed("fifo").as_slice(),
        [Finding::Read {
            state: FileState::Unusable(_),
            ..
        }]
    ));
}

#[test]
fn a_list_follows_symlinks() {
    let mut node = Node::new();
    std::fs::write(node.root.path().join("target"), pod("a", "a:1")).unwrap();
    std::os::unix::fs::symlink("../target", node.path("a.yaml")).unwrap();
    node.source.list();
    assert_eq!(node.pods(), [own(("default/a", "a.yaml"))]);
}

#[test]
fn a_manifest_over_10_mib_is_not_read() {
    let mut node = Node::new();
    node.put(
        "a.yaml",
        &format!(
            "{}# {}\n",
            pod("a", "a:1"),
            "x".repeat(MAX_MANIFEST_BYTES as usize)
        ),
    );
    assert!(matches!(
        problem(&node.source.list(), "a.yaml"),
        Problem::Unreadable(_)
    ));
}

#[test]
fn a_list_ends_the_pod_of_a_broken_file_and_an_event_only_logs_it() {
    let mut node = Node::new();
    node.put("a.yaml", &pod("a", "a:1"));
    node.put("b.yaml", &pod("b", "b:1"));
    node.source.list();
    node.put("a.yaml", "");
    let findings = node.source.changed("a.yaml");
    assert_eq!(
        findings,
        [Finding::Read {
            file: "a.yaml".to_owned(),
            state: FileState::Unusable(Problem::Empty)
        }]
    );
    assert_eq!(stopped(&node.source.list()), ["default/a"]);
    assert_eq!(node.pods(), [own(("default/b", "b.yaml"))]);
}

#[test]
fn of_two_files_with_one_pod_a_list_takes_the_last_and_an_event_the_one_it_names() {
    let mut node = Node::new();
    node.put("a.yaml", &pod("same", "a:1"));
    node.put("b.yaml", &pod("same", "b:1"));
    node.source.list();
    assert_eq!(node.pods(), [own(("default/same", "b.yaml"))]);
    node.source.changed("a.yaml");
    assert_eq!(node.pods(), [own(("default/same", "a.yaml"))]);
}

#[test]
fn removing_either_of_two_files_with_one_pod_ends_the_pod_until_the_next_list() {
    let mut node = Node::new();
    node.put("a.yaml", &pod("same", "a:1"));
    node.put("b.yaml", &pod("same", "b:1"));
    node.source.list();
    std::fs::remove_file(node.path("a.yaml")).unwrap();
    assert_eq!(stopped(&node.source.removed("a.yaml")), ["default/same"]);
    assert_eq!(started(&node.source.list()), ["default/same"]);
}

#[test]
fn a_missing_directory_is_an_empty_set_and_the_next_event_brings_the_stale_pods_back() {
    let mut node = Node::new();
    node.put("a.yaml", &pod("a", "a:1"));
    node.put("b.yaml", &pod("b", "b:1"));
    node.source.list();
    std::fs::remove_dir_all(&node.source.manifests).unwrap();
    let findings = node.source.list();
    assert!(findings.contains(&Finding::Set {
        pods: BTreeSet::new()
    }));
    assert_eq!(stopped(&findings), ["default/a", "default/b"]);
    std::fs::create_dir(&node.source.manifests).unwrap();
    node.put("b.yaml", &pod("b", "b:1"));
    assert_eq!(
        started(&node.source.changed("b.yaml")),
        ["default/a", "default/b"]
    );
    assert_eq!(stopped(&node.source.list()), ["default/a"]);
}

#[test]
fn another_directory_under_the_same_name_is_noticed_once() {
    let mut node = Node::new();
    assert!(!node.source.list().contains(&Finding::DirectoryReplaced));
    std::fs::rename(&node.source.manifests, node.root.path().join("old")).unwrap();
    std::fs::create_dir(&node.source.manifests).unwrap();
    assert!(node.source.list().contains(&Finding::DirectoryReplaced));
    assert!(!node.source.list().contains(&Finding::DirectoryReplaced));
}

#[test]
fn comments_restart_nothing_and_annotations_and_file_names_do() {
    let mut node = Node::new();
    node.put("a.yaml", &pod("a", "a:1"));
    node.source.list();
    node.put("a.yaml", &format!("# a comment\n{}", pod("a", "a:1")));
    let findings = node.source.list();
    assert!(
        matches!(findings.as_slice(), [Finding::Listed { .. }]),
        "{findings:?}"
    );
    assert_eq!(
        node.source.running()["default/a"].digest,
        Digest::of(&std::fs::read(node.path("a.yaml")).unwrap())
    );
    node.put("a.yaml", &pod("a, annotations: {k: v}", "a:1"));
    let findings = node.source.list();
    assert_eq!(
        (stopped(&findings), started(&findings)),
        (vec!["default/a"], vec!["default/a"])
    );
    std::fs::rename(node.path("a.yaml"), node.path("b.yaml")).unwrap();
    assert_eq!(started(&node.source.list()), ["default/a"]);
}

#[test]
fn an_unchanged_directory_adds_nothing_to_the_history() {
    let mut node = Node::new();
    node.put("a.yaml", &pod("a", "a:1"));
    node.source.list();
    assert_eq!(node.source.list(), []);
    node.put("a.yaml", &pod("a", "a:1"));
    assert_eq!(node.source.list(), []);
}

#[test]
fn a_pod_starts_with_the_secrets_that_are_there_at_that_moment() {
    let mut node = Node::new();
    node.secret("a/d1/ca.crt", "ca");
    node.put("a.yaml", &mounting("a/d1"));
    node.source.list();
    let expected = [(
        "/etc/kubernetes/secrets/a/d1/ca.crt".to_owned(),
        Digest::of(b"ca"),
    )];
    assert_eq!(
        node.source.running()["default/a"].secrets,
        SecretSet::from(expected)
    );
}

#[test]
fn secrets_that_change_under_a_running_pod_are_noticed_once() {
    let mut node = Node::new();
    node.secret("a/d1/ca.crt", "ca");
    node.put("a.yaml", &mounting("a/d1"));
    node.source.list();
    node.secret("a/d1/ca.crt", "other");
    assert!(matches!(
        node.source.list().as_slice(),
        [Finding::SecretsChanged { .. }]
    ));
    assert_eq!(node.source.list(), []);
}

#[test]
fn secrets_may_go_once_another_manifest_is_in_place() {
    let mut node = Node::new();
    node.secret("a/d1/ca.crt", "ca");
    node.secret("a/d2/ca.crt", "ca2");
    node.put("a.yaml", &mounting("a/d1"));
    node.source.list();
    // The model has not read the new manifest yet when it finds the old secrets gone.
    node.put("a.yaml", &mounting("a/d2"));
    std::fs::remove_dir_all(node.root.path().join("etc/kubernetes/secrets/a/d1")).unwrap();
    let mut findings = Vec::new();
    node.source.check_secrets(&mut findings);
    assert_eq!(findings, []);
    assert_eq!(started(&node.source.list()), ["default/a"]);
}

#[test]
fn a_start_says_when_its_manifest_was_replaced_meanwhile() {
    let mut node = Node::new();
    node.put("a.yaml", &mounting("a/d1"));
    let Some(Entry::Pod(candidate)) = node.source.read("a.yaml") else {
        panic!("no pod")
    };
    let mut starts = |replace: &dyn Fn(&Path)| {
        replace(&node.source.manifests);
        let mut findings = Vec::new();
        node.source.running.clear();
        node.source.publish(
            BTreeMap::from([("default/a".to_owned(), candidate.clone())]),
            &mut findings,
        );
        findings.into_iter().find_map(|finding| match finding {
            Finding::Started { superseded, .. } => Some(superseded),
            _ => None,
        })
    };
    assert_eq!(starts(&|_| {}), Some(false));
    assert_eq!(
        starts(&|manifests| std::fs::remove_file(manifests.join("a.yaml")).unwrap()),
        Some(true)
    );
}
