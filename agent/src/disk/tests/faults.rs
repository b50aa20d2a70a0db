//! What fails half-way, and what must not have happened by then.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;

use super::super::testing::{adopt_without_cleaning, judge};
use super::*;

fn full(name: &'static str) -> AtStep {
    Box::new(move |step| match step == name {
        true => Err(DiskError::Io {
            step: "write",
            path: "/x".into(),
            source: std::io::Error::from_raw_os_error(Errno::ENOSPC as i32),
        }),
        false => Ok(()),
    })
}

fn stopped_at(name: &'static str) -> AtStep {
    Box::new(move |step| match step == name {
        true => Err(DiskError::Stopped(name)),
        false => Ok(()),
    })
}

/// etcd's pod under another name, with the same port.
fn renamed(first: &Draft) -> Draft {
    let mut second = first.clone();
    second.number = 2;
    second.pod("etcd.yaml").name = "etcd-next".to_owned();
    second
}

#[test]
fn a_disk_that_is_full_for_a_manifest_ends_no_pod() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    disk.at_step = full("apply::manifest.staged");
    let second = renamed(&first);
    assert_eq!(adopt(&mut disk, &second).unwrap_err().kind(), "no_space");
    let manifests = |tree: super::super::testing::Tree| -> Vec<_> {
        let all = tree.into_iter();
        all.filter(|(path, _)| path.starts_with("manifests/"))
            .collect()
    };
    assert_eq!(manifests(node.tree()), manifests(first.tree()));
    disk.at_step = Box::new(apply::fail_point);
    adopt(&mut disk, &second).unwrap();
    node.holds_exactly(&second);
}

#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<(String, bool)>>>);

impl Recorded {
    fn ends(&self, node: &Node) -> Box<dyn PodEnd> {
        Box::new(Waiting(self.clone(), node.at("manifests/etcd.yaml")))
    }
}

/// Notes for which pod it waited, and whether the manifest was there then.
struct Waiting(Recorded, std::path::PathBuf);

impl PodEnd for Waiting {
    fn wait(&self, pod: &shared::check::manifest::PodSummary) -> PodEnded {
        let noted = (pod.name.clone(), self.1.exists());
        self.0.0.lock().unwrap().push(noted);
        PodEnded::Gone
    }
}

#[test]
fn an_heir_waits_for_the_old_pod_also_after_a_crash() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    let second = renamed(&first);
    disk.at_step = stopped_at("apply::take-over.removed");
    assert_eq!(adopt(&mut disk, &second).unwrap_err().kind(), "stopped");
    drop(disk);
    let recorded = Recorded::default();
    let mut disk = node.open().with_pod_end(recorded.ends(&node));
    disk.recover().unwrap();
    disk.clean().unwrap();
    node.holds_exactly(&second);
    let waited = recorded.0.lock().unwrap().clone();
    assert_eq!(waited, [("etcd-next".to_owned(), false)]);
    // And in peace nothing waits.
    let mut third = second.clone();
    third.number = 3;
    third.pod("etcd.yaml").revision = 1;
    adopt(&mut disk, &third).unwrap();
    assert_eq!(recorded.0.lock().unwrap().len(), 1);
}

#[test]
fn secrets_of_pods_that_may_still_end_stay_for_their_time() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    assert_eq!(disk.leftovers_stay(), None);
    let mut second = first.clone();
    second.number = 2;
    let token = b"another token".to_vec();
    second
        .pod("etcd.yaml")
        .secrets
        .insert("token".to_owned(), token);
    adopt_without_cleaning(&mut disk, &second).unwrap();
    judge(disk.paths(), &[&second]);
    // Kubelet's list period, and the grace period of a pod that asks for none.
    let stay = Some(Duration::from_secs(50));
    assert_eq!(disk.leftovers_stay(), stay);
    let old = first.tree();
    let old = old
        .keys()
        .find(|path| path.contains("secrets/etcd/"))
        .unwrap();
    assert!(node.at(old).exists(), "the old pod is reading it");
    drop(disk);
    // The next process knows of them, and reading the ledger is all that recovery has to do.
    let mut disk = node.open();
    assert_eq!(disk.leftovers_stay(), stay);
    disk.at_step = full("clean::before");
    disk.recover().unwrap();
    assert!(disk.verify().unwrap().is_clean());
    assert_eq!(disk.clean().unwrap_err().kind(), "no_space");
    assert_eq!(disk.leftovers_stay(), stay, "it is to be tried again");
    disk.at_step = Box::new(apply::fail_point);
    disk.clean().unwrap();
    assert_eq!(disk.leftovers_stay(), None);
    node.holds_exactly(&second);
}

#[test]
fn a_directory_of_a_pods_user_is_mended_without_the_right_to_change_others_modes() {
    const INSIDE: &str = "PLATFORM_TEST_WITHOUT_FOWNER";
    if !nix::unistd::geteuid().is_root() {
        eprintln!("!!! SKIPPED: only root may give files away");
        return;
    }
    if std::env::var_os(INSIDE).is_none() {
        // What the unit's CapabilityBoundingSet leaves: it takes effect with the next program.
        let this = std::env::current_exe().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let ran = std::process::Command::new("setpriv")
            .args(["--bounding-set", "-all,+chown,+dac_override"])
            .arg(this)
            .args(["--exact", &name, "--nocapture"])
            .env(INSIDE, "1")
            .output();
        match ran {
            Ok(ran) => assert!(
                ran.status.success(),
                "{}{}",
                String::from_utf8_lossy(&ran.stdout),
                String::from_utf8_lossy(&ran.stderr)
            ),
            Err(error) => eprintln!("!!! SKIPPED: setpriv: {error}"),
        }
        return;
    }
    let draft = Draft::usual(1);
    let (node, mut disk) = adopted(&draft);
    let tree = draft.tree();
    let secret = tree
        .keys()
        .find(|path| path.contains("secrets/etcd/"))
        .unwrap();
    let directory = node.at(secret).parent().unwrap().to_owned();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::lchown(&directory, Some(1234), Some(1234)).unwrap();
    disk.repair().unwrap();
    assert!(disk.verify().unwrap().is_clean());
}

/// Somebody mounts a file system in a secret directory: what is on it is not the agent's to remove.
#[test]
fn mending_does_not_go_into_what_is_mounted() {
    let draft = Draft::usual(1);
    let (node, mut disk) = adopted(&draft);
    let tree = draft.tree();
    let secret = tree
        .keys()
        .find(|path| path.contains("secrets/etcd/"))
        .unwrap();
    let directory = node.at(secret).parent().unwrap().to_owned();
    let mounted = directory.join("extra");
    fs::create_dir(&mounted).unwrap();
    let mount = |arguments: &[&str]| {
        let ran = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(&mounted)
            .output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "platform-test"]) {
        eprintln!("!!! SKIPPED: a tmpfs cannot be mounted");
        return;
    }
    fs::write(mounted.join("precious"), b"x").unwrap();
    let repaired = disk.repair();
    let is_there = mounted.join("precious").exists();
    assert!(mount(&["umount", "-l"]));
    assert!(is_there && repaired.is_err(), "{repaired:?}");
    disk.repair().unwrap();
    node.holds_exactly(&draft);
}

/// The drift that is seen, path and kind.
fn drift(disk: &Disk) -> Vec<(String, DriftKind)> {
    let seen = disk.verify().unwrap().drift.into_iter();
    seen.map(|drift| (drift.path, drift.kind)).collect()
}

#[test]
fn a_file_that_cannot_be_read_is_drift_and_keeps_nothing_else_from_its_repair() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    let bad = "manifests/etcd.yaml";
    observe::injected::spoil(&node.at(bad));
    std::fs::write(node.at("host/kubelet.yaml"), b"edited").unwrap();
    assert_eq!(
        drift(&disk),
        [
            ("host/kubelet.yaml".to_owned(), DriftKind::Content),
            (bad.to_owned(), DriftKind::Unreadable),
        ]
    );
    let repaired = disk.repair().unwrap();
    assert_eq!(repaired.restored, ["host/kubelet.yaml", bad]);
    assert_eq!(drift(&disk), []);
    node.holds_exactly(&first);
}

#[test]
fn a_file_that_cannot_be_read_keeps_no_release_from_being_adopted() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    let secret = format!("secrets/etcd/{}/token", first.pods["etcd.yaml"].digest());
    for path in [&secret, "manifests/etcd.yaml", "host/kubelet.yaml"] {
        observe::injected::spoil(&node.at(path));
    }
    assert_eq!(drift(&disk).len(), 3);
    let mut second = first.clone();
    second.number = 2;
    second.host.clear();
    adopt(&mut disk, &second).unwrap();
    assert_eq!(drift(&disk), []);
    node.holds_exactly(&second);
}

#[test]
fn a_foreign_file_that_cannot_be_read_is_named_and_left_alone() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    let mut second = first.clone();
    second.number = 2;
    second.host.insert("mine".to_owned(), b"ours".to_vec());
    std::fs::write(node.at("host/mine"), b"mine").unwrap();
    observe::injected::spoil(&node.at("host/mine"));
    let error = adopt(&mut disk, &second).unwrap_err();
    assert_eq!(error.kind(), "foreign_file");
    assert!(error.to_string().contains("host/mine"), "{error}");
    assert_eq!(std::fs::read(node.at("host/mine")).unwrap(), b"mine");
}
