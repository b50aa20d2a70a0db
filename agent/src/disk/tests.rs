use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use super::testing::{Draft, Node, Pod, adopt, adopted};
use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn refused(disk: &Disk, draft: &Draft) -> String {
    disk.check(draft.release(), NOW).unwrap_err().to_string()
}

#[test]
fn a_new_node_holds_exactly_its_first_release() {
    let draft = Draft::usual(1);
    let (node, disk) = adopted(&draft);
    node.holds_exactly(&draft);
    assert_eq!(disk.release(), ReleaseNumber::new(1));
    assert_eq!(disk.bundle_digest(), Some(draft.bundle()));
    assert!(disk.group_key().unwrap().is_some());
    assert!(disk.verify().unwrap().is_clean());
    let secret = node.at("secrets/etcd");
    let mode = fs::metadata(secret).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700);
}

#[test]
fn a_change_touches_only_what_it_changes() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    let untouched = fs::metadata(node.at("manifests/kube-apiserver.yaml")).unwrap();
    let mut second = first.clone();
    second.number = 2;
    second.pod("etcd.yaml").revision = 1;
    let report = adopt(&mut disk, &second).unwrap();
    node.holds_exactly(&second);
    let written: Vec<&str> = report
        .files
        .iter()
        .filter(|file| file.outcome == Outcome::Written)
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(written, ["manifests/etcd.yaml"]);
    let still = fs::metadata(node.at("manifests/kube-apiserver.yaml")).unwrap();
    assert_eq!(untouched.modified().unwrap(), still.modified().unwrap());
}

#[test]
fn the_same_content_under_a_new_number_changes_only_the_ledger() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    let second = Draft { number: 2, ..first };
    let checked = disk.check(second.release(), NOW).unwrap();
    let plan = disk.plan(&checked).unwrap();
    assert!(plan.is_empty(), "{plan:?}");
    disk.apply(&checked, second.bundle(), &plan).unwrap();
    disk.clean().unwrap();
    node.holds_exactly(&second);
    assert_eq!(disk.release(), ReleaseNumber::new(2));
}

#[test]
fn what_the_agent_does_not_own_is_left_alone() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    fs::write(node.at("manifests/mine.yaml"), b"mine").unwrap();
    fs::write(node.at("manifests/.hidden"), b"mine").unwrap();
    fs::write(node.at("secrets/etcd/notes"), b"mine").unwrap();
    let mut second = first.clone();
    second.number = 2;
    second.pods.remove("etcd.yaml");
    adopt(&mut disk, &second).unwrap();
    assert_eq!(disk.foreign().unwrap(), ["mine.yaml"]);
    assert_eq!(disk.verify().unwrap().foreign, ["mine.yaml"]);
    assert!(node.at("manifests/.hidden").exists());
    assert!(node.at("secrets/etcd/notes").exists());
    assert!(!node.at("manifests/etcd.yaml").exists());
}

#[test]
fn what_is_held_back_is_not_on_the_disk_and_no_drift() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    let manifest = node.at("manifests/etcd.yaml");
    let held = std::collections::BTreeSet::from(["etcd.yaml".to_owned()]);
    assert!(disk.hold_back(&held).unwrap());
    assert!(!disk.hold_back(&held).unwrap(), "no change");
    let drift = disk.verify().unwrap().drift;
    assert_eq!(drift.len(), 1, "{drift:?}");
    assert_eq!(drift[0].kind, DriftKind::Held);
    disk.repair().unwrap();
    assert!(!manifest.exists());
    assert!(disk.verify().unwrap().is_clean());
    assert!(disk.verify_cheaply().unwrap());

    // Somebody puts it there, and a release brings it again: neither runs it.
    fs::write(&manifest, b"mine").unwrap();
    assert!(!disk.verify_cheaply().unwrap());
    disk.repair().unwrap();
    assert!(!manifest.exists());
    let mut second = first.clone();
    second.number = 2;
    adopt(&mut disk, &second).unwrap();
    assert!(!manifest.exists());
    assert!(disk.verify().unwrap().is_clean());

    // After a restart it is still held back, and comes when it is not any more.
    drop(disk);
    let mut disk = node.open();
    assert_eq!(disk.held_back().unwrap(), held);
    assert!(disk.hold_back(&Default::default()).unwrap());
    disk.repair().unwrap();
    node.holds_exactly(&second);
}

#[test]
fn a_foreign_file_in_the_way_refuses_the_release_before_the_first_write() {
    let draft = Draft::usual(1);
    let node = Node::new();
    let mut disk = node.open();
    fs::write(node.at("manifests/etcd.yaml"), b"another's").unwrap();
    let before = node.tree();
    let error = adopt(&mut disk, &draft).unwrap_err();
    assert_eq!(error.kind(), "foreign_file");
    let text = error.to_string();
    assert!(
        text.contains("manifests/etcd.yaml") && text.contains("move"),
        "{text}"
    );
    assert_eq!(node.tree(), before);

    let same = draft.tree()["manifests/etcd.yaml"].0.clone();
    fs::write(node.at("manifests/etcd.yaml"), same).unwrap();
    adopt(&mut disk, &draft).unwrap();
    node.holds_exactly(&draft);
}

#[test]
fn drift_of_every_kind_is_found_and_put_back() {
    let draft = Draft::usual(1);
    let (node, mut disk) = adopted(&draft);
    assert!(disk.verify_cheaply().unwrap());
    let tree = draft.tree();
    let secret = tree.keys().find(|p| p.contains("secrets/etcd/")).unwrap();
    let secret = node.at(secret);
    let manifest = node.at("manifests/etcd.yaml");
    type Damage = Box<dyn Fn()>;
    let damages: Vec<(DriftKind, Damage)> = vec![
        (
            DriftKind::Content,
            Box::new({
                let at = manifest.clone();
                move || fs::write(&at, b"edited").unwrap()
            }),
        ),
        (
            DriftKind::Missing,
            Box::new({
                let at = manifest.clone();
                move || fs::remove_file(&at).unwrap()
            }),
        ),
        (
            DriftKind::Mode,
            Box::new({
                let at = manifest.clone();
                move || fs::set_permissions(&at, fs::Permissions::from_mode(0o666)).unwrap()
            }),
        ),
        (
            DriftKind::Kind,
            Box::new({
                let at = manifest.clone();
                move || {
                    fs::remove_file(&at).unwrap();
                    std::os::unix::fs::symlink("/nowhere", &at).unwrap();
                }
            }),
        ),
        (
            DriftKind::Kind,
            Box::new({
                let at = manifest.clone();
                move || {
                    fs::remove_file(&at).unwrap();
                    nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRUSR).unwrap();
                }
            }),
        ),
        (
            DriftKind::Content,
            Box::new({
                let at = secret.clone();
                move || fs::write(&at, b"edited").unwrap()
            }),
        ),
        (
            DriftKind::Extra,
            Box::new({
                let at = secret.with_file_name("extra");
                move || fs::write(&at, b"x").unwrap()
            }),
        ),
        (
            DriftKind::Missing,
            Box::new({
                let at = secret.parent().unwrap().to_owned();
                move || fs::remove_dir_all(&at).unwrap()
            }),
        ),
        (
            DriftKind::Content,
            Box::new({
                let at = node.paths.group_key();
                move || fs::write(&at, b"no key").unwrap()
            }),
        ),
    ];
    for (kind, damage) in damages {
        damage();
        assert!(!disk.verify_cheaply().unwrap());
        let found = disk.verify().unwrap().drift;
        assert_eq!(
            found.iter().map(|d| d.kind).collect::<Vec<_>>(),
            [kind],
            "{found:?}"
        );
        assert_eq!(verify_offline(&node.paths).unwrap().drift, found);
        assert_eq!(disk.repair().unwrap().restored.len(), 1);
        node.holds_exactly(&draft);
        assert!(disk.verify_cheaply().unwrap());
    }
    assert_eq!(disk.repair().unwrap(), RepairReport::default());
}

#[test]
fn a_directory_in_a_files_place_is_named_and_the_rest_is_repaired() {
    let draft = Draft::usual(1);
    let (node, mut disk) = adopted(&draft);
    fs::remove_file(node.at("manifests/etcd.yaml")).unwrap();
    fs::create_dir(node.at("manifests/etcd.yaml")).unwrap();
    fs::remove_file(node.at("host/kubelet.yaml")).unwrap();
    let error = disk.repair().unwrap_err();
    assert!(error.to_string().contains("manifests/etcd.yaml"), "{error}");
    assert!(node.at("host/kubelet.yaml").exists());
    fs::remove_dir(node.at("manifests/etcd.yaml")).unwrap();
    disk.repair().unwrap();
    node.holds_exactly(&draft);
}

#[test]
fn without_its_copy_nothing_is_repaired_and_adopting_again_mends_it() {
    let draft = Draft::usual(1);
    let (node, mut disk) = adopted(&draft);
    let copy = node.paths.copy(ReleaseNumber::new(1).unwrap());
    let whole = fs::read(&copy).unwrap();
    fs::write(&copy, &whole[..whole.len() / 2]).unwrap();
    let verification = disk.verify().unwrap();
    assert!(verification.is_clean() && !verification.copy_intact);
    assert!(!disk.verify_cheaply().unwrap());
    fs::remove_file(node.at("manifests/etcd.yaml")).unwrap();
    let before = node.tree();
    assert_eq!(disk.repair().unwrap_err().kind(), "copy_damaged");
    assert_eq!(node.tree(), before);
    adopt(&mut disk, &draft).unwrap();
    node.holds_exactly(&draft);
    assert!(disk.verify_cheaply().unwrap());
}

#[test]
fn a_damaged_copy_of_a_half_applied_release_keeps_everything() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    let mut second = first.clone();
    second.number = 2;
    second.pod("etcd.yaml").revision = 9;
    disk.at_step = Box::new(|name| match name {
        "apply::manifest.before" => Err(DiskError::Stopped(name)),
        _ => Ok(()),
    });
    adopt(&mut disk, &second).unwrap_err();
    drop(disk);
    fs::write(node.paths.copy(ReleaseNumber::new(2).unwrap()), b"cut").unwrap();
    let before = node.tree();
    let mut disk = node.open();
    assert_eq!(disk.recover().unwrap_err().kind(), "copy_damaged");
    assert_eq!(node.tree(), before);
    assert_eq!(disk.verify().unwrap().applying, ReleaseNumber::new(2));
    // The bucket has it still.
    adopt(&mut disk, &second).unwrap();
    node.holds_exactly(&second);
}

#[test]
fn a_newer_release_supersedes_one_that_failed_half_way() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    let mut second = first.clone();
    second.number = 2;
    second.pods.insert("new.yaml".to_owned(), Pod::named("new"));
    disk.at_step = Box::new(|name| match name {
        "apply::remove.before" | "apply::commit.before" => Err(DiskError::Stopped(name)),
        _ => Ok(()),
    });
    adopt(&mut disk, &second).unwrap_err();
    disk.at_step = Box::new(apply::fail_point);
    let third = Draft { number: 3, ..first };
    adopt(&mut disk, &third).unwrap();
    node.holds_exactly(&third);
}

#[test]
fn all_that_is_wrong_is_reported_at_once() {
    let first = Draft::usual(5);
    let (_node, disk) = adopted(&first);
    let mut bad = first.clone();
    bad.number = 4;
    bad.group_key = Some(b"short".to_vec());
    bad.pod("etcd.yaml").name = "Kein Name".to_owned();
    bad.pod("etcd.yaml").secrets.clear();
    bad.pod("kube-apiserver.yaml")
        .secrets
        .insert("x.crt".to_owned(), b"no certificate".to_vec());
    let text = refused(&disk, &bad);
    for part in [
        "release 5 is already on this node",
        "agent/group.key: it is not a group key",
        "manifests/etcd.yaml: metadata.name",
        "secrets/kube-apiserver/x.crt: holds no PEM certificate",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    let mut empty = first.clone();
    empty.number = 6;
    empty.pods.clear();
    assert!(refused(&disk, &empty).contains("would end every pod"));
}

#[test]
fn a_manifest_sees_only_secrets_of_its_release() {
    let node = Node::new();
    let disk = node.open();
    let mut draft = Draft::usual(1);
    // The manifest names a directory whose files another entry list does not bring.
    let release = draft.release();
    let manifest = draft.tree()["manifests/etcd.yaml"].0.clone();
    draft
        .pod("etcd.yaml")
        .secrets
        .insert("token".into(), b"other".to_vec());
    let changed = draft.release();
    let mut index = changed.index().clone();
    let mut contents = std::collections::BTreeMap::new();
    for (entry, bytes) in changed.files() {
        let is_manifest = entry.path.as_str() == "manifests/etcd.yaml";
        let bytes = if is_manifest {
            manifest.clone()
        } else {
            bytes.expose().to_vec()
        };
        contents.insert(entry.path.clone(), bytes.into());
    }
    for file in &mut index.files {
        if file.path.as_str() == "manifests/etcd.yaml" {
            *file = release
                .index()
                .files
                .iter()
                .find(|f| f.path == file.path)
                .unwrap()
                .clone();
        }
    }
    let mixed = Release::new(index, contents).unwrap();
    let error = disk.check(mixed, NOW).unwrap_err();
    assert!(
        matches!(error.problems.as_slice(), [CheckProblem::SecretPath { file, .. }] if file == "etcd.yaml"),
        "{error}"
    );
}

#[test]
fn one_number_is_one_bundle_and_one_plan_is_one_release() {
    let draft = Draft::usual(1);
    let (_node, mut disk) = adopted(&draft);
    let checked = disk.check(draft.release(), NOW).unwrap();
    let plan = disk.plan(&checked).unwrap();
    let other = Sha256Digest::of(b"another bundle");
    let error = disk.apply(&checked, other, &plan).unwrap_err();
    assert_eq!(error.kind(), "equivocation");
    let next = Draft { number: 2, ..draft };
    let checked = disk.check(next.release(), NOW).unwrap();
    let error = disk.apply(&checked, next.bundle(), &plan).unwrap_err();
    assert_eq!(error.kind(), "stale_plan");
}

#[test]
fn a_second_agent_is_refused_and_offline_verification_is_not() {
    let draft = Draft::usual(1);
    let (node, disk) = adopted(&draft);
    assert_eq!(node.try_open().unwrap_err().kind(), "locked");
    assert!(verify_offline(&node.paths).unwrap().is_clean());
    drop(disk);
    node.open();
}

#[test]
fn opening_sweeps_the_temporaries_of_a_killed_process() {
    let draft = Draft::usual(1);
    let (node, disk) = adopted(&draft);
    drop(disk);
    for directory in ["manifests", "host", "secrets/etcd"] {
        fs::write(node.at(directory).join(".platform-9-9-x"), b"half").unwrap();
    }
    fs::create_dir(node.at("secrets/etcd/.platform-new-x")).unwrap();
    fs::write(node.paths.state().join(".platform-9-9-ledger"), b"half").unwrap();
    let mut disk = node.open();
    assert_eq!(disk.recover().unwrap().swept, 5);
    node.holds_exactly(&draft);
}

#[test]
fn a_failed_write_has_a_kind_and_the_release_before_stays() {
    let first = Draft::usual(1);
    let (node, mut disk) = adopted(&first);
    disk.at_step = Box::new(|name| match name {
        // What a full disk says, before the first file that anyone reads.
        "apply::secret-directory.filled" => Err(DiskError::Io {
            step: "write",
            path: "/x".into(),
            source: std::io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32),
        }),
        _ => Ok(()),
    });
    let mut second = first.clone();
    second.number = 2;
    second
        .pod("etcd.yaml")
        .secrets
        .insert("new".into(), b"x".to_vec());
    let error = adopt(&mut disk, &second).unwrap_err();
    assert_eq!(error.kind(), "no_space");
    assert_eq!(node.tree(), first.tree());
    assert_eq!(disk.release(), ReleaseNumber::new(1));
    disk.at_step = Box::new(apply::fail_point);
    disk.recover().unwrap();
    disk.clean().unwrap();
    node.holds_exactly(&second);
}

#[test]
fn every_fail_point_is_passed_and_listed() {
    let passed = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let first = Draft::usual(1);
    let node = Node::new();
    let mut disk = node.open();
    disk.at_step = Box::new({
        let passed = Arc::clone(&passed);
        move |name| {
            passed.lock().unwrap().insert(name);
            Ok(())
        }
    });
    adopt(&mut disk, &first).unwrap();
    let mut second = Draft::usual(2);
    second.pods.remove("etcd.yaml");
    second.host.clear();
    let mut heir = Pod::named("heir");
    heir.port = Some(2379);
    second.pods.insert("heir.yaml".to_owned(), heir);
    adopt(&mut disk, &second).unwrap();
    let listed: BTreeSet<&str> = FAIL_POINTS.iter().copied().collect();
    assert_eq!(*passed.lock().unwrap(), listed);
}

mod faults;
mod mounts;
