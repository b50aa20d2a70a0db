//! One hand-made history a violation, and the clean one they all start from.

use std::time::Duration;

use super::super::allowed::Release;
use super::super::observation::{Cause, PodIdentity, Problem, Trigger};
use super::*;

const POD: &str = "kube-system/etcd";
const DIRECTORIES: [&str; 2] = [
    "/etc/kubernetes/secrets/etcd/d1",
    "/etc/kubernetes/secrets/etcd/d2",
];

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// The secrets of release 1 or 2.
fn secrets(release: usize) -> SecretSet {
    let file = |name: &str| {
        (
            format!("{}/{name}", DIRECTORIES[release - 1]),
            digest(&format!("{name} {release}")),
        )
    };
    SecretSet::from(["ca.crt", "tls.crt", "tls.key"].map(file))
}

fn manifest(release: usize) -> String {
    format!("etcd {release}")
}

/// Releases 1 and 2: etcd.yaml in both with secrets of its own, old.yaml only in 1, new.yaml only in 2.
fn allowed() -> Allowed {
    let release = |n: usize, extra: &str| {
        Release::default()
            .with("etcd.yaml", manifest(n).as_bytes(), secrets(n))
            .with("proxy.yaml", b"proxy", SecretSet::new())
            .with(extra, extra.as_bytes(), SecretSet::new())
    };
    Allowed::releases([&release(1, "old.yaml"), &release(2, "new.yaml")])
}

fn state(file: &str, content: &str) -> FileState {
    let pod = file.trim_end_matches(".yaml");
    let identity = PodIdentity {
        key: format!("kube-system/{pod}"),
        uid: digest(content),
    };
    FileState::Pod {
        digest: digest(content),
        identity,
    }
}

fn listed(files: &[(&str, &str)]) -> Finding {
    let files = files
        .iter()
        .map(|(file, content)| ((*file).to_owned(), state(file, content)))
        .collect();
    Finding::Listed { files }
}

fn set(pods: &[&str]) -> Finding {
    Finding::Set {
        pods: pods.iter().map(|pod| (*pod).to_owned()).collect(),
    }
}

fn running(release: usize, secrets: SecretSet) -> RunningPod {
    RunningPod {
        file: "etcd.yaml".to_owned(),
        digest: digest(&manifest(release)),
        secrets,
    }
}

fn started(release: usize, secrets: SecretSet) -> Finding {
    Finding::Started {
        pod: POD.to_owned(),
        running: running(release, secrets),
        superseded: false,
    }
}

fn removed(file: &str) -> Finding {
    Finding::Removed {
        file: file.to_owned(),
    }
}

/// A node on release 1.
fn on_release_1() -> Vec<Finding> {
    let files = [
        ("etcd.yaml", "etcd 1"),
        ("old.yaml", "old.yaml"),
        ("proxy.yaml", "proxy"),
    ];
    vec![listed(&files), set(&[POD]), started(1, secrets(1))]
}

/// What the judge says of `findings` after a node was seen on release 1.
fn breaches(findings: impl IntoIterator<Item = Finding>) -> Vec<Breach> {
    let history: Vec<Observation> = on_release_1()
        .into_iter()
        .chain(findings)
        .enumerate()
        .map(|(n, finding)| Observation {
            at: Duration::from_millis(n as u64),
            cause: Cause::List,
            finding,
        })
        .collect();
    judge(&history, &allowed())
        .into_iter()
        .map(|violation| violation.breach)
        .collect()
}

fn unusable(problem: Problem) -> Vec<Breach> {
    vec![Breach::Unusable {
        file: "etcd.yaml".to_owned(),
        problem,
    }]
}

#[test]
fn a_whole_adoption_is_clean() {
    let found = breaches([
        // File by file: a new one beside the old ones, then etcd, then the removal.
        listed(&[
            ("etcd.yaml", "etcd 1"),
            ("new.yaml", "new.yaml"),
            ("old.yaml", "old.yaml"),
            ("proxy.yaml", "proxy"),
        ]),
        Finding::Read {
            file: "etcd.yaml".to_owned(),
            state: state("etcd.yaml", "etcd 2"),
        },
        set(&[POD]),
        Finding::Stopped {
            pod: POD.to_owned(),
        },
        started(2, secrets(2)),
        removed("old.yaml"),
        listed(&[
            ("etcd.yaml", "etcd 2"),
            ("new.yaml", "new.yaml"),
            ("proxy.yaml", "proxy"),
        ]),
    ]);
    assert_eq!(found, []);
}

#[test]
fn a_revert_is_clean() {
    assert_eq!(
        breaches([started(2, secrets(2)), started(1, secrets(1))]),
        []
    );
}

#[test]
fn only_what_every_release_has_is_required() {
    assert_eq!(
        allowed().required,
        BTreeSet::from(["etcd.yaml", "proxy.yaml"].map(str::to_owned))
    );
}

#[test]
fn a_torn_empty_or_invalid_file_is_found_in_lists_and_in_events() {
    for problem in [
        Problem::Torn("cut".to_owned()),
        Problem::Empty,
        Problem::Invalid("no name".to_owned()),
        Problem::Unreadable("mode".to_owned()),
        Problem::Stray("FIFO"),
    ] {
        let state = FileState::Unusable(problem.clone());
        let read = Finding::Read {
            file: "etcd.yaml".to_owned(),
            state: state.clone(),
        };
        assert_eq!(breaches([read]), unusable(problem.clone()));
        let Finding::Listed { mut files } = listed(&[("proxy.yaml", "proxy")]) else {
            panic!("listed() makes a list")
        };
        files.insert("etcd.yaml".to_owned(), state);
        assert_eq!(breaches([Finding::Listed { files }]), unusable(problem));
    }
}

#[test]
fn a_file_of_neither_release_is_a_stray_however_it_was_noticed() {
    let stray = vec![Breach::StrayFile {
        file: "etcd.yaml.tmp".to_owned(),
    }];
    let file = || "etcd.yaml.tmp".to_owned();
    assert_eq!(
        breaches([Finding::Read {
            file: file(),
            state: state("etcd.yaml.tmp", "etcd 2")
        }]),
        stray
    );
    assert_eq!(breaches([Finding::Vanished { file: file() }]), stray);
    assert_eq!(breaches([removed("etcd.yaml.tmp")]), stray);
    let files = [
        ("etcd.yaml", "etcd 1"),
        ("etcd.yaml.tmp", "etcd 2"),
        ("proxy.yaml", "proxy"),
    ];
    assert_eq!(breaches([listed(&files)]), stray);
}

#[test]
fn a_content_of_neither_release_is_found() {
    let found = breaches([Finding::Read {
        file: "etcd.yaml".to_owned(),
        state: state("etcd.yaml", "etcd"),
    }]);
    assert_eq!(
        found,
        [Breach::UnknownContent {
            file: "etcd.yaml".to_owned(),
            digest: digest("etcd")
        }]
    );
}

#[test]
fn a_content_of_another_file_is_not_allowed_here() {
    let found = breaches([Finding::Read {
        file: "etcd.yaml".to_owned(),
        state: state("etcd.yaml", "proxy"),
    }]);
    assert_eq!(
        found,
        [Breach::UnknownContent {
            file: "etcd.yaml".to_owned(),
            digest: digest("proxy")
        }]
    );
}

#[test]
fn two_files_with_one_pod_are_found() {
    let Finding::Listed { mut files } = listed(&[("etcd.yaml", "etcd 1"), ("proxy.yaml", "proxy")])
    else {
        panic!("listed() makes a list")
    };
    let identity = PodIdentity {
        key: POD.to_owned(),
        uid: digest("other"),
    };
    files.insert(
        "new.yaml".to_owned(),
        FileState::Pod {
            digest: digest("new.yaml"),
            identity,
        },
    );
    let both = ["etcd.yaml", "new.yaml"].map(str::to_owned);
    assert_eq!(
        breaches([Finding::Listed { files }]),
        [Breach::DuplicatePod {
            pod: POD.to_owned(),
            files: both
        }]
    );
}

#[test]
fn a_required_file_may_not_be_absent_once_it_was_seen() {
    let missing = vec![Breach::MissingFile {
        file: "etcd.yaml".to_owned(),
    }];
    assert_eq!(breaches([listed(&[("proxy.yaml", "proxy")])]), missing);
    assert_eq!(breaches([removed("etcd.yaml")]), missing);
    assert_eq!(
        breaches([Finding::Vanished {
            file: "etcd.yaml".to_owned()
        }]),
        missing
    );
    // Before it was seen it is only not there yet.
    let first = Observation {
        at: Duration::ZERO,
        cause: Cause::List,
        finding: listed(&[("proxy.yaml", "proxy")]),
    };
    assert_eq!(judge(&[first], &allowed()), []);
}

#[test]
fn an_empty_set_is_found_only_after_a_populated_one() {
    assert_eq!(breaches([set(&[])]), [Breach::EmptySet]);
    let first = Observation {
        at: Duration::ZERO,
        cause: Cause::List,
        finding: set(&[]),
    };
    assert_eq!(judge(&[first], &allowed()), []);
}

#[test]
fn a_swapped_directory_is_found() {
    assert_eq!(
        breaches([Finding::DirectoryReplaced]),
        [Breach::DirectorySwapped]
    );
}

#[test]
fn a_pod_without_its_secrets_is_found() {
    assert_eq!(
        breaches([started(2, SecretSet::new())]),
        [Breach::SecretsMissing {
            pod: POD.to_owned()
        }]
    );
}

#[test]
fn a_pod_with_some_of_its_secrets_is_found() {
    let mut some = secrets(2);
    let (last, _) = some.pop_last().unwrap();
    let half = Breach::SecretsHalfFilled {
        pod: POD.to_owned(),
        missing: vec![last],
    };
    assert_eq!(breaches([started(2, some)]), [half]);
}

#[test]
fn a_pod_with_secrets_of_two_releases_is_found() {
    let (path, content) = secrets(1).pop_first().unwrap();
    let mut both = secrets(2);
    both.insert(path.clone(), content);
    let mixed = Breach::SecretsMixed {
        pod: POD.to_owned(),
        foreign: vec![path],
    };
    assert_eq!(breaches([started(2, both)]), [mixed]);
}

#[test]
fn a_pod_with_all_the_secrets_of_the_other_release_is_found() {
    let mixed = Breach::SecretsMixed {
        pod: POD.to_owned(),
        foreign: secrets(1).into_keys().collect(),
    };
    assert_eq!(breaches([started(2, secrets(1))]), [mixed]);
}

#[test]
fn a_pod_with_a_torn_secret_is_found_even_while_it_runs() {
    let mut torn = secrets(1);
    let path = format!("{}/tls.key", DIRECTORIES[0]);
    torn.insert(path.clone(), digest("tls"));
    let unknown = vec![Breach::SecretsUnknown {
        pod: POD.to_owned(),
        unknown: vec![path],
    }];
    assert_eq!(
        breaches([started(2, secrets(2)), started(1, torn.clone())]),
        unknown
    );
    assert_eq!(
        breaches([Finding::SecretsChanged {
            pod: POD.to_owned(),
            running: running(1, torn)
        }]),
        unknown
    );
}

#[test]
fn secrets_of_a_manifest_that_was_replaced_meanwhile_are_not_judged() {
    let running = running(2, SecretSet::new());
    assert_eq!(
        breaches([Finding::Started {
            pod: POD.to_owned(),
            running,
            superseded: true
        }]),
        []
    );
}

#[test]
fn a_restart_from_the_same_bytes_is_found() {
    let restart = Breach::NeedlessRestart {
        pod: POD.to_owned(),
        digest: digest("etcd 1"),
    };
    assert_eq!(breaches([started(1, secrets(1))]), [restart]);
}

#[test]
fn a_pod_that_one_release_lacks_may_come_back_as_it_was() {
    let old = || {
        let running = RunningPod {
            file: "old.yaml".to_owned(),
            digest: digest("old.yaml"),
            secrets: SecretSet::new(),
        };
        let pod = "kube-system/old".to_owned();
        Finding::Started {
            pod,
            running,
            superseded: false,
        }
    };
    assert_eq!(breaches([old(), removed("old.yaml"), old()]), []);
    let without = listed(&[("etcd.yaml", "etcd 1"), ("proxy.yaml", "proxy")]);
    assert_eq!(breaches([old(), without, old()]), []);
    let restart = Breach::NeedlessRestart {
        pod: "kube-system/old".to_owned(),
        digest: digest("old.yaml"),
    };
    assert_eq!(breaches([old(), old()]), [restart]);
}

#[test]
fn a_violation_says_when_how_and_what() {
    let violation = Violation {
        at: Duration::from_millis(1500),
        cause: Cause::Event(Trigger::Write),
        breach: Breach::Unusable {
            file: "etcd.yaml".to_owned(),
            problem: Problem::Empty,
        },
    };
    assert_eq!(
        violation.to_string(),
        "1.500 s (event Write): etcd.yaml is empty"
    );
}
