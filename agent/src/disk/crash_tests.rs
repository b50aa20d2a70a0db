//! A crash between any two steps, of the application and again of the recovery, and what kubelet sees all the while.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use shared::names::ReleaseNumber;

use super::testing::{Draft, Pod, adopt, adopted, judge};
use super::{Disk, DiskError};

fn pods() -> impl Strategy<Value = BTreeMap<String, Pod>> {
    let secrets = prop::collection::btree_map("[ab]", prop::collection::vec(0u8..3, 0..3), 0..3);
    let pod = (0u32..2, any::<bool>(), secrets);
    // The file's name gives the pod's: whether names move is drawn for a release as a whole.
    (
        prop::collection::btree_map(0usize..4, pod, 1..4),
        any::<bool>(),
    )
        .prop_map(|(pods, moved)| {
            pods.into_iter()
                .map(|(at, (revision, has_port, secrets))| {
                    let id = if moved { (at + 1) % 4 } else { at };
                    let pod = Pod {
                        name: format!("pod{id}"),
                        port: has_port.then_some(2000 + u16::try_from(id).unwrap()),
                        revision,
                        secrets,
                    };
                    (format!("file{at}.yaml"), pod)
                })
                .collect()
        })
}

fn draft(number: u64) -> impl Strategy<Value = Draft> {
    let host = prop::collection::btree_map("[ab](/c)?", prop::collection::vec(0u8..3, 0..3), 0..1);
    (pods(), host, any::<bool>()).prop_map(move |(pods, host, has_key)| Draft {
        number,
        pods,
        host,
        group_key: has_key.then(|| format!("{}\n", "ab".repeat(32)).into_bytes()),
    })
}

/// Lets `steps` fail points pass, judging the node at each, and stops at the next.
fn stop_after(disk: &mut Disk, steps: usize, drafts: [Draft; 2]) {
    let paths = disk.paths().clone();
    let passed = AtomicUsize::new(0);
    disk.at_step = Box::new(move |name| {
        judge(&paths, &[&drafts[0], &drafts[1]]);
        if passed.fetch_add(1, Ordering::Relaxed) < steps {
            Ok(())
        } else {
            Err(DiskError::Stopped(name))
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_crash_at_any_step_ends_with_exactly_the_new_release(
        old in draft(1), new in draft(2), crash in 0usize..40, second_crash in 0usize..40,
    ) {
        // A file may not become a directory from one release to the next; the plan names that.
        let clash = old.host.keys().any(|a| new.host.keys().any(|b| a != b && (a.starts_with(b) || b.starts_with(a))));
        prop_assume!(!clash);
        let (node, mut disk) = adopted(&old);
        node.holds_exactly(&old);
        let drafts = [old.clone(), new.clone()];
        stop_after(&mut disk, crash, drafts.clone());
        let first = adopt(&mut disk, &new);
        drop(disk);
        node.judge(&[&old, &new]);

        let mut disk = node.open();
        stop_after(&mut disk, second_crash, drafts);
        // Whether it got to its end does not matter: what it left has to be finished all the same.
        let _ = disk.recover().and_then(|_| disk.clean());
        drop(disk);
        node.judge(&[&old, &new]);

        let mut disk = node.open();
        disk.recover().unwrap();
        disk.clean().unwrap();
        if disk.release() == ReleaseNumber::new(1) {
            // It stopped before anything but the copy was written.
            prop_assert!(first.is_err());
            prop_assert_eq!(node.tree(), old.tree());
            adopt(&mut disk, &new).unwrap();
        }
        node.holds_exactly(&new);
        prop_assert!(disk.verify().unwrap().is_clean());
    }
}
