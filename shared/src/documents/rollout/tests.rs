use super::*;
use crate::documents::{GroupKey, open_node_object};
use crate::limits;
use crate::store::keys;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn number(n: u64) -> ReleaseNumber {
    ReleaseNumber::new(n).unwrap()
}

fn node(n: u32) -> NodeId {
    format!("AROAEXAMPLEROLE000000:i-0123456789abc{n:04}")
        .parse()
        .unwrap()
}

/// As large as a document gets.
fn full() -> RolloutDocument {
    let long = "\u{1}".repeat(500);
    let reason = kept_line(&long, REASON_CHARACTERS);
    RolloutDocument {
        release: Some(number(7)),
        began_at: Some(at(0)),
        committed: 9,
        size: 1000,
        zone: Some("eu-central-1a".to_owned()),
        holders: (0..limits::ROLLOUT_HOLDERS)
            .map(|n| Holder {
                node: node(n),
                release: number(7),
                zone: Some("eu-central-1a".to_owned()),
                nonce: Nonce::of(n.into()),
                since: at(1),
                deadline: TimeSpan::from_secs(900),
                work: HolderWork::Release,
            })
            .collect(),
        unavailable: (0..limits::ROLLOUT_HOLDERS)
            .map(|n| Unavailable {
                node: node(n),
                why: UnavailableWhy::Cleared,
                release: Some(number(7)),
                since: at(1),
            })
            .collect(),
        forgotten: (0..60)
            .map(|n| Forgotten {
                node: node(n),
                by: "ec2".to_owned(),
                at: at(n.into()),
            })
            .collect(),
        failed: (0..30)
            .map(|n| FailedAdoption {
                node: node(n),
                release: number(7),
                why: reason.clone(),
                lines: kept_lines(&vec![long.clone(); 9]),
                at: at(n.into()),
            })
            .collect(),
        halted: Some(Halt {
            release: number(7),
            by: node(1),
            reason: reason.clone(),
            at: at(3),
        }),
        paused: Some(Pause {
            by: "ada@desk".to_owned(),
            reason: reason.clone(),
            since: at(4),
            until: Some(at(10)),
        }),
        retry: Some(Retry {
            release: number(6),
            by: "ada@desk".to_owned(),
            at: at(2),
        }),
        good: Some(number(5)),
        ..RolloutDocument::empty()
    }
}

#[test]
fn comes_back_as_it_was_sealed_and_fits() {
    let key = GroupKey::generate();
    let name = keys::bound_name(
        &"dev".parse().unwrap(),
        &keys::rollout(&"secure".parse().unwrap()),
    );
    assert_eq!(name, "dev/rollouts/secure.json");
    let mut written = full().next(Nonce::of(5), at(9));
    assert_eq!(written.failed.len(), FAILED_KEPT);
    assert_eq!(written.failed[0].at, at(10), "the oldest go first");
    assert_eq!(written.forgotten.len(), FORGOTTEN_KEPT);
    let sealed = written.seal(&name, &key).unwrap();
    let with_lines = |d: &RolloutDocument| d.failed.iter().filter(|f| !f.lines.is_empty()).count();
    assert!(
        with_lines(&written) >= FAILED_KEPT - 2,
        "few must go for the rest to fit"
    );
    let back: RolloutDocument = open_node_object(&sealed, &name, &key).unwrap();
    assert_eq!(back, written);
    let elsewhere = keys::bound_name(&"dev".parse().unwrap(), "rollouts/compute.json");
    assert!(open_node_object::<RolloutDocument>(&sealed, &elsewhere, &key).is_err());
}

#[test]
fn only_the_known_format_and_nothing_older_is_usable() {
    let next = RolloutDocument::empty().next(Nonce::of(1), at(1));
    let revision = next.revision;
    assert!(next.clone().usable(revision).is_ok());
    let older = next.clone().usable(revision + 1).unwrap_err();
    assert!(older.to_string().contains("put an old one back"), "{older}");
    let format = RolloutDocument { format: 2, ..next };
    assert!(format.usable(0).is_err());
}

#[test]
fn what_the_probes_saw_is_left_out_oldest_first_and_never_a_node() {
    let key = GroupKey::generate();
    let mut document = full();
    document.failed.truncate(FAILED_KEPT);
    let reason = "x".repeat(3_000);
    for n in 0..2 {
        document.failed[n].why.clone_from(&reason);
    }
    let before = document.clone();
    let sealed = document.seal("x", &key).unwrap();
    assert!(sealed.len() as u64 <= limits::NODE_OBJECT_BYTES);
    let without: Vec<bool> = document.failed.iter().map(|f| f.lines.is_empty()).collect();
    let dropped = without.iter().take_while(|w| **w).count();
    assert!(
        dropped > 0 && !without[dropped..].contains(&true),
        "{without:?}"
    );
    for failure in &mut document.failed {
        failure.lines.clear();
    }
    let mut bare = before;
    for failure in &mut bare.failed {
        failure.lines.clear();
    }
    assert_eq!(document, bare);

    // There is nothing else that may go.
    for failure in &mut document.failed {
        failure.why.clone_from(&reason);
    }
    let error = document.seal("x", &key).unwrap_err().to_string();
    assert!(
        error.contains("x would grow to") && error.contains("forget"),
        "{error}"
    );
}

#[test]
fn counts_names_and_dates() {
    let document = full();
    assert_eq!(
        document.busy(),
        limits::ROLLOUT_HOLDERS,
        "a node counts once"
    );
    assert!(document.holder(&node(3)).is_some());
    assert!(document.is_halted(number(7)) && !document.is_halted(number(8)));
    assert!(document.pause_at(at(9)).is_some());
    assert!(document.pause_at(at(10)).is_none(), "its time is over");
    assert!(document.failure(&node(2), number(7)).is_some());
    assert!(document.failure(&node(2), number(8)).is_none());
}

#[test]
fn a_nonce_is_its_text() {
    let nonce = Nonce::random();
    assert_eq!(nonce.to_string().parse::<Nonce>().unwrap(), nonce);
    assert!("xyz".parse::<Nonce>().is_err());
    assert!("1".repeat(32).parse::<Nonce>().is_ok());
    assert!("A".repeat(32).parse::<Nonce>().is_err());
}
