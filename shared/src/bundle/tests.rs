use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::limits;
use crate::names::{EntryPath, EnvironmentName, GroupName, ReleaseNumber};
use crate::secret::SecretBytes;

fn release_of(files: &BTreeMap<EntryPath, Vec<u8>>) -> Release {
    let entries = files
        .iter()
        .map(|(p, b)| FileEntry::describe(p.clone(), b, Mode::new(0o600), Origin::Template))
        .collect();
    let index = Index {
        format: limits::INDEX_FORMAT,
        environment: EnvironmentName::new("dev").unwrap(),
        group: GroupName::new("secure").unwrap(),
        release: ReleaseNumber::new(7).unwrap(),
        files: entries,
        restarts: Vec::new(),
        artifacts: Vec::new(),
        rollout: None,
        etcd: None,
    };
    let contents = files
        .iter()
        .map(|(p, b)| (p.clone(), SecretBytes::new(b.clone())))
        .collect();
    Release::new(index, contents).unwrap()
}

fn small() -> BTreeMap<EntryPath, Vec<u8>> {
    BTreeMap::from([
        (
            EntryPath::new("manifests/etcd.yaml").unwrap(),
            b"{}".to_vec(),
        ),
        (
            EntryPath::new("secrets/etcd/ca.crt").unwrap(),
            vec![7; 3000],
        ),
    ])
}

#[test]
fn packing_is_deterministic() {
    let release = release_of(&small());
    assert_eq!(pack(&release).unwrap(), pack(&release).unwrap());
}

#[test]
fn sealing_hides_and_opens() {
    let identity = new_identity();
    let sealed = seal(b"very secret", &identity, &[]).unwrap();
    assert!(!sealed.windows(6).any(|w| w == b"secret"));
    assert_eq!(
        open(&sealed, &identity, 100).unwrap().expose(),
        b"very secret"
    );
    assert!(matches!(
        open(&sealed, &new_identity(), 100),
        Err(SealError::Decrypt(_))
    ));
    assert!(matches!(
        open(&sealed, &identity, 5),
        Err(SealError::TooLarge(5))
    ));
    let mut flipped = sealed.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(
        open(&flipped, &identity, 100),
        Err(SealError::Stream(_))
    ));
}

#[test]
fn every_byte_counts() {
    let packed = pack(&release_of(&small())).unwrap();
    for at in 0..packed.len() {
        let mut changed = packed.expose().to_vec();
        changed[at] ^= 0x20;
        if let Ok(read) = unpack(&changed) {
            assert_eq!(
                read,
                release_of(&small()),
                "byte {at} changed the release unseen"
            );
        }
    }
    for cut in 0..packed.len() {
        assert!(unpack(&packed.expose()[..cut]).is_err(), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_packed_is_unpacked(
        files in prop::collection::btree_map("secrets/[a-z]{1,8}/[a-z]{1,12}", prop::collection::vec(any::<u8>(), 0..5000), 0..20)
    ) {
        let files: BTreeMap<EntryPath, Vec<u8>> =
            files.into_iter().map(|(p, b)| (EntryPath::new(p).unwrap(), b)).collect();
        let release = release_of(&files);
        prop_assert_eq!(unpack(pack(&release).unwrap().expose()).unwrap(), release);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(unpack(&bytes).is_err());
    }
}
