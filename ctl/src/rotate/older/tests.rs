use shared::documents::{EncryptionKey, StepMark};
use shared::secret::SecretBytes;

use super::*;
use crate::rotate::{GroupEvidence, NodeEvidence, Said};

fn older(reads: bool, retired: bool) -> OlderKey {
    let mark = StepMark {
        keyring: 5,
        at: Timestamp::UNIX_EPOCH,
        groups: [GroupName::new("secure").unwrap()].into(),
    };
    OlderKey {
        key: EncryptionKey {
            name: "key-old".to_owned(),
            secret: SecretBytes::new(vec![0; 32]),
        },
        reads,
        retired: retired.then_some(mark),
    }
}

fn evidence(on: u64) -> Evidence {
    let number = |n| shared::names::ReleaseNumber::new(n).unwrap();
    let group = GroupEvidence {
        releases: vec![(number(7), 4), (number(8), 5)],
        nodes: vec![NodeEvidence {
            node: "a".to_owned(),
            said: Said::Runs {
                release: Some(number(on)),
                age_seconds: 1,
            },
        }],
        ..GroupEvidence::default()
    };
    [(GroupName::new("secure").unwrap(), group)].into()
}

fn backup(name: &str, keys: &[&str]) -> Backup {
    let manifest = serde_json::from_value(serde_json::json!({
        "format": 1, "environment": "dev", "group": "secure", "generation": 1, "name": name,
        "finished_at": "2026-11-23T03:00:00Z", "node": "i-1", "member_id": "a", "cluster_id": "b",
        "etcd_version": "3.6.8", "plain_bytes": 9000, "plain_sha256": "00".repeat(32),
        "sealed_bytes": 9500, "parts": ["00".repeat(32)], "recipients": [], "encryption_keys": keys,
    }));
    Backup {
        generation: 1,
        name: name.parse().unwrap(),
        manifest: Ok(manifest.unwrap()),
        missing: None,
    }
}

#[test]
fn a_key_goes_when_no_backup_names_it_and_each_that_does_is_named_with_its_end() {
    let ask = |backups: &[Backup]| needed_by(&older(false, true), backups, None, &evidence(8));
    assert!(ask(&[]).is_empty());
    let newer = backup("20261125T024942Z-9", &["key-new"]);
    assert!(ask(std::slice::from_ref(&newer)).is_empty());

    let needs = backup("20261123T024942Z-7", &["key-new", "key-old"]);
    let mut unreadable = backup("20261124T024942Z-8", &[]);
    unreadable.manifest = Err("is not believed".to_owned());
    let last = backup("20261125T034942Z-9", &["key-old"]);
    let said = ask(&[last, newer, unreadable, needs]);
    assert_eq!(
        said,
        [
            "backup 20261125T034942Z-9 needs it, and is kept until there is a newer one",
            "backup 20261124T024942Z-8 may need it, and does not say (its manifest cannot be gone by), and is kept until \
             2026-12-24T02:49:42Z",
            "backup 20261123T024942Z-7 needs it, and is kept until 2026-12-23T02:49:42Z",
        ]
    );
}

#[test]
fn a_key_stays_while_a_node_may_name_it_or_a_restore_needs_it() {
    let behind = needed_by(&older(false, true), &[], None, &evidence(7));
    assert!(
        behind[0].contains("secure/a reports release 7"),
        "{behind:?}"
    );
    let unrecorded = needed_by(&older(false, false), &[], None, &evidence(8));
    assert_eq!(unrecorded.len(), 1);
    let reads = needed_by(&older(true, false), &[], None, &evidence(8));
    assert_eq!(reads.len(), 1);
    let order = |keys: &[&str]| RestoreOrder {
        generation: 2,
        backup: backup("20261123T024942Z-7", keys).manifest.unwrap(),
        by: "me".to_owned(),
        at: Timestamp::UNIX_EPOCH,
    };
    for (name, against) in [("key-old", 1), ("key-new", 0)] {
        let keys = [name];
        let order = order(&keys);
        let found = needed_by(&older(false, true), &[], Some(&order), &evidence(8));
        assert_eq!(found.len(), against, "{found:?}");
    }
}
