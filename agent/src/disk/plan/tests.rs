use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use shared::bundle::Mode;
use shared::digest::Sha256Digest;

use super::*;
use crate::disk::check::WantedFile;
use crate::disk::ledger::OwnedFile;
use crate::disk::observe::FileState;

/// A manifest in the model: which pod it is, which host port it wants, and which edition.
type Manifest = (u8, Option<u8>, u8);
/// The manifest directory in the model, by file.
type Directory = BTreeMap<u8, Manifest>;

fn name(file: u8) -> String {
    format!("f{file}.yaml")
}

fn path(file: u8) -> OwnedPath {
    format!("manifests/{}", name(file)).parse().unwrap()
}

fn pod((pod, port, _): Manifest) -> PodSummary {
    PodSummary {
        namespace: "kube-system".to_owned(),
        name: format!("pod{pod}"),
        host_ports: port
            .map(|port| ("TCP".to_owned(), u16::from(port)))
            .into_iter()
            .collect(),
        host_network: true,
        host_paths: Vec::new(),
        termination_grace_seconds: 1,
    }
}

fn owned(file: u8, manifest: Manifest) -> OwnedFile {
    let bytes = format!("{manifest:?}");
    OwnedFile {
        path: path(file),
        sha256: Sha256Digest::of(bytes.as_bytes()),
        bytes: bytes.len() as u64,
        mode: Mode::new(0o600),
        uid: 0,
        gid: 0,
    }
}

fn ledger(files: &BTreeSet<u8>) -> Ledger {
    let mut ledger = Ledger::empty("dev".parse().unwrap(), "secure".parse().unwrap());
    // What the ledger says about content plays no part in a plan.
    ledger.files = files
        .iter()
        .map(|file| owned(*file, (0, None, 0)))
        .collect();
    ledger
}

fn observed(disk: &Directory, ledger: &BTreeSet<u8>) -> Observed {
    let state = |file: u8, manifest: Manifest| {
        let file = owned(file, manifest);
        State::Regular(FileState {
            sha256: file.sha256,
            bytes: file.bytes,
            mode: 0o600,
            owner: (0, 0),
        })
    };
    Observed {
        owners: true,
        held: BTreeSet::new(),
        files: disk
            .iter()
            .map(|(f, m)| (path(*f), state(*f, *m)))
            .collect(),
        directories: BTreeMap::new(),
        pods: disk
            .iter()
            .filter(|(file, _)| ledger.contains(file))
            .map(|(file, manifest)| (path(*file), pod(*manifest)))
            .collect(),
    }
}

fn wanted(release: &Directory) -> Wanted {
    let file = |(file, manifest): (&u8, &Manifest)| WantedFile {
        entry: EntryPath::new(path(*file).as_str()).unwrap(),
        owned: owned(*file, *manifest),
    };
    Wanted {
        release: ReleaseNumber::new(2).unwrap(),
        files: release.iter().map(file).collect(),
        directories: BTreeSet::new(),
        pods: release.iter().map(|(f, m)| (name(*f), pod(*m))).collect(),
    }
}

fn number(path: &str) -> u8 {
    let digits = path
        .trim_start_matches("manifests/f")
        .trim_end_matches(".yaml");
    digits.parse().unwrap()
}

fn clashes(a: Manifest, b: Manifest) -> bool {
    a.0 == b.0 || (a.1.is_some() && a.1 == b.1)
}

/// Manifests of which no two clash, as the checks leave them.
fn directory(files: std::ops::Range<u8>) -> impl Strategy<Value = Directory> {
    let manifest = (0u8..5, prop::option::of(0u8..4), 0u8..2);
    prop::collection::btree_map(files, manifest, 0..5).prop_map(|drawn| {
        let mut kept = Directory::new();
        for (file, manifest) in drawn {
            if !kept.values().any(|other| clashes(*other, manifest)) {
                kept.insert(file, manifest);
            }
        }
        kept
    })
}

proptest! {
    #[test]
    fn carrying_a_plan_out_leads_to_the_release_and_touches_nothing_else(
        on_disk in directory(0..6), release in directory(0..6), foreign in prop::collection::btree_set(0u8..6, 0..3),
        lost in prop::collection::btree_set(0u8..6, 0..2),
    ) {
        // Owned are the files on the disk that are not foreign, and some that were deleted by hand.
        let mut ledger_files: BTreeSet<u8> = on_disk.keys().copied().collect();
        ledger_files.extend(&lost);
        ledger_files.retain(|file| !foreign.contains(file));
        let result = plan(&ledger(&ledger_files), &observed(&on_disk, &ledger_files), &wanted(&release));

        let in_the_way: BTreeSet<u8> = release
            .iter()
            .filter(|(file, manifest)| !ledger_files.contains(file) && on_disk.get(file).is_some_and(|m| m != *manifest))
            .map(|(file, _)| *file)
            .collect();
        let plan = match result {
            Ok(plan) => plan,
            Err(obstacles) => {
                let named: BTreeSet<u8> = obstacles.iter().map(|o| number(&o.path)).collect();
                prop_assert_eq!(named, in_the_way);
                return Ok(());
            }
        };
        prop_assert!(in_the_way.is_empty());

        let mut model = on_disk.clone();
        let mine = |model: &Directory| model.keys().filter(|f| ledger_files.contains(f)).count();
        let was_empty = mine(&on_disk) == 0;
        for taken in &plan.take_over {
            let file = number(taken.path.as_str());
            prop_assert!(ledger_files.contains(&file));
            prop_assert!(model.remove(&file).is_some());
            prop_assert!(mine(&model) > 0, "passed through an empty directory");
        }
        for entry in &plan.write_manifests {
            let file = number(entry.as_str());
            let next = release[&file];
            // Foreign pods are beyond the agent; of its own none may hold what this one takes, unless it was the last.
            let holder = model.iter().find(|(f, m)| **f != file && ledger_files.contains(f) && on_disk.get(f) == Some(*m) && clashes(**m, next));
            let renamed = model.get(&file).is_some_and(|m| ledger_files.contains(&file) && m.0 != next.0);
            let owned_left = mine(&on_disk) - plan.take_over.len();
            prop_assert!((holder.is_none() && !renamed) || owned_left == 1, "{:?} still holds what {} takes", holder, file);
            prop_assert!(model.get(&file) != Some(&next), "written without need");
            model.insert(file, next);
        }
        for gone in &plan.remove_files {
            let file = number(gone.as_str());
            prop_assert!(ledger_files.contains(&file) && !release.contains_key(&file));
            prop_assert!(model.remove(&file).is_some());
        }
        let mut expected = release.clone();
        expected.extend(on_disk.iter().filter(|(f, _)| !ledger_files.contains(f)).map(|(f, m)| (*f, *m)));
        prop_assert_eq!(&model, &expected);
        prop_assert!(was_empty || release.is_empty() || mine(&model) > 0 || release.keys().all(|f| !ledger_files.contains(f)));
    }

    #[test]
    fn a_disk_that_is_right_has_an_empty_plan(release in directory(0..6)) {
        let files = release.keys().copied().collect();
        let plan = plan(&ledger(&files), &observed(&release, &files), &wanted(&release)).unwrap();
        prop_assert!(plan.is_empty());
        prop_assert_eq!(plan.unchanged.len(), release.len());
    }

    #[test]
    fn a_new_node_gets_everything_in_the_order_of_the_index(release in directory(0..6)) {
        let plan = plan(&ledger(&BTreeSet::new()), &Observed::default(), &wanted(&release)).unwrap();
        let written: Vec<u8> = plan.write_manifests.iter().map(|e| number(e.as_str())).collect();
        prop_assert_eq!(written, release.keys().copied().collect::<Vec<_>>());
        prop_assert!(plan.remove_files.is_empty() && plan.take_over.is_empty());
    }
}

#[test]
fn a_port_that_moves_to_another_pod_is_free_before_it_is_taken() {
    let disk = Directory::from([(0, (0, Some(1), 0)), (1, (1, None, 0)), (2, (2, None, 0))]);
    let release = Directory::from([(0, (0, None, 0)), (1, (1, Some(1), 0)), (2, (2, None, 0))]);
    let files = disk.keys().copied().collect();
    let plan = plan(&ledger(&files), &observed(&disk, &files), &wanted(&release)).unwrap();
    let taken: Vec<&OwnedPath> = plan.take_over.iter().map(|t| &t.path).collect();
    assert_eq!(taken, [&path(0)]);
    assert_eq!(plan.write_manifests.len(), 2);
}

#[test]
fn the_only_manifest_of_a_node_is_never_removed_first() {
    let disk = Directory::from([(0, (0, None, 0))]);
    let release = Directory::from([(1, (0, None, 0))]);
    let files = disk.keys().copied().collect();
    let plan = plan(&ledger(&files), &observed(&disk, &files), &wanted(&release)).unwrap();
    assert!(plan.take_over.is_empty());
    assert_eq!(plan.remove_files, [path(0)]);
}
