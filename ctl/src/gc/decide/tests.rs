use std::time::Duration;

use shared::digest::Sha256Digest;
use shared::trust::ArtifactTarget;

use super::*;
use crate::history::testing::{document, n, target};

const DAY: i64 = 86_400;

fn choices(keep: usize) -> Choices {
    Choices {
        keep,
        youngest: Duration::from_secs(3600),
        youngest_artifact: Duration::from_secs(3600),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn object(key: String) -> ListedObject {
    ListedObject {
        key,
        bytes: 10,
        written: Some(at(0)),
    }
}

fn artifact(name: &str) -> ArtifactTarget {
    ArtifactTarget {
        name: name.to_owned(),
        length: 10,
        sha256: Sha256Digest::of(name.as_bytes()),
    }
}

/// Releases 1 to `last`, each with an artifact of its own, all good when the next was published.
fn evidence(last: u64) -> Evidence {
    let group: GroupName = "secure".parse().unwrap();
    let metadata = keys::metadata_prefix(&group);
    let mut found = Evidence {
        group: group.clone(),
        targets: Vec::new(),
        metadata: vec![
            object(keys::timestamp(&group)),
            object(format!("{metadata}1.root.json")),
            object(format!("{metadata}README")),
        ],
        documents: BTreeMap::new(),
        newer: BTreeMap::new(),
        version: n(last),
        current: release(last),
        good: Some(release(last.max(2) - 1)),
        in_use: BTreeMap::new(),
        listed: BTreeSet::new(),
        roots: 1,
    };
    for number in 1..=last {
        let of = release(number);
        found
            .targets
            .push(object(keys::target(&group, &of.sha256, &of.name)));
        let own = artifact(&format!("kubelet-{number}"));
        found
            .targets
            .push(object(keys::target(&group, &own.sha256, &own.name)));
        found
            .metadata
            .push(object(format!("{metadata}{number}.targets.json")));
        found
            .metadata
            .push(object(format!("{metadata}{number}.snapshot.json")));
        let before = (number > 1).then(|| release(number - 1));
        let mut listed = document(number, before.into_iter().chain([of]).collect());
        listed.artifacts = listed
            .releases
            .iter()
            .map(|r| artifact(&r.custom.artifacts[0]))
            .collect();
        found.documents.insert(n(number), listed);
    }
    found
}

fn release(number: u64) -> ReleaseTarget {
    let mut of = target(number, number.checked_sub(1).filter(|n| *n > 0));
    of.custom.artifacts = vec![format!("kubelet-{number}")];
    of
}

fn deleted(evidence: &Evidence, keep: usize) -> Vec<String> {
    let found = decide(evidence, choices(keep), at(DAY)).unwrap();
    found
        .into_iter()
        .map(|d| match d.key.rsplit_once('/').unwrap().1 {
            name if name.len() > 64 => name[65..].to_owned(),
            name => name.to_owned(),
        })
        .collect()
}

#[test]
fn the_newest_stay_and_documents_go_before_what_they_name() {
    assert_eq!(
        deleted(&evidence(5), 3),
        [
            "1.targets.json",
            "1.snapshot.json",
            "2.targets.json",
            "2.snapshot.json",
            "release-1.bundle",
            "kubelet-1",
            "release-2.bundle",
            "kubelet-2",
        ]
    );
    assert!(deleted(&evidence(5), 5).is_empty());
    // Fewer than two are never kept: the one before is what a rollback needs.
    assert_eq!(deleted(&evidence(3), 0), deleted(&evidence(3), 2));
}

#[test]
fn what_somebody_needs_stays_with_its_artifacts() {
    let mut all = evidence(9);
    all.in_use.insert(n(2), "i-1".to_owned());
    all.good = Some(release(4));
    all.current.custom.replaces = Some(n(5));
    all.current.custom.brings_back = Some(n(3));
    let gone = deleted(&all, 2);
    for kept in [2, 3, 4, 5, 8, 9] {
        for name in [format!("release-{kept}.bundle"), format!("kubelet-{kept}")] {
            assert!(!gone.contains(&name), "{name}");
        }
    }
    assert!(gone.contains(&"release-6.bundle".to_owned()), "{gone:?}");
    assert_eq!(gone.len(), 3 * 4);
}

#[test]
fn an_artifact_of_a_kept_release_stays_whoever_else_named_it() {
    let mut all = evidence(4);
    let first = all.documents.get(&n(1)).unwrap().artifacts.clone();
    // Release 4 needs the artifact of release 1 again.
    all.current.custom.artifacts = vec!["kubelet-1".to_owned()];
    let document = all.documents.get_mut(&n(4)).unwrap();
    document.artifacts = first;
    document.releases = vec![release(3), all.current.clone()];
    all.good = Some(release(3));
    let gone = deleted(&all, 2);
    assert!(!gone.contains(&"kubelet-1".to_owned()), "{gone:?}");
    assert!(gone.contains(&"release-1.bundle".to_owned()), "{gone:?}");
}

#[test]
fn a_publish_under_way_keeps_what_it_names() {
    let mut all = evidence(4);
    let mut next = document(5, vec![release(4), release(5)]);
    // Brought back while nothing else named it.
    next.releases[1].custom.artifacts = vec!["kubelet-1".to_owned()];
    next.artifacts = vec![artifact("kubelet-1")];
    let metadata = keys::metadata_prefix(&all.group);
    all.metadata
        .push(object(format!("{metadata}5.targets.json")));
    all.newer.insert(n(5), next);
    let gone = deleted(&all, 2);
    assert!(!gone.contains(&"kubelet-1".to_owned()), "{gone:?}");
    assert!(!gone.contains(&"5.targets.json".to_owned()), "{gone:?}");
}

#[test]
fn what_is_young_or_of_unknown_age_or_name_stays() {
    let mut all = evidence(4);
    let targets = keys::targets_prefix(&all.group);
    for (at_index, written) in [(0, Some(at(DAY - 60))), (1, None), (2, Some(at(3 * DAY)))] {
        all.targets[at_index].written = written;
    }
    all.targets.push(object(format!("{targets}notes.txt")));
    let gone = deleted(&all, 2);
    for kept in [
        "release-1.bundle",
        "kubelet-1",
        "release-2.bundle",
        "notes.txt",
        "README",
    ] {
        assert!(!gone.contains(&kept.to_owned()), "{kept}: {gone:?}");
    }
    assert!(gone.contains(&"kubelet-2".to_owned()), "{gone:?}");
}

#[test]
fn documents_of_others_and_renewals() {
    let mut all = evidence(4);
    // Nobody of ours signed it: it is not looked into, and not removed.
    all.documents.remove(&n(1));
    let renewed = document(2, vec![release(1)]);
    all.documents.insert(n(2), renewed);
    let gone = deleted(&all, 2);
    assert!(!gone.contains(&"1.targets.json".to_owned()), "{gone:?}");
    assert!(gone.contains(&"2.targets.json".to_owned()), "{gone:?}");
}

#[test]
fn a_listing_that_lacks_anything_it_must_have_deletes_nothing() {
    let all = evidence(5);
    let must = [
        keys::timestamp(&all.group),
        "groups/secure/metadata/1.root.json".to_owned(),
        "groups/secure/metadata/5.targets.json".to_owned(),
        "groups/secure/metadata/5.snapshot.json".to_owned(),
        keys::target(&all.group, &all.current.sha256, &all.current.name),
        keys::target(&all.group, &release(4).sha256, "release-4.bundle"),
        keys::target(&all.group, &artifact("kubelet-4").sha256, "kubelet-4"),
    ];
    for key in must {
        let mut faulty = all.clone();
        faulty.targets.retain(|o| o.key != key);
        faulty.metadata.retain(|o| o.key != key);
        let refused = decide(&faulty, choices(2), at(DAY)).unwrap_err();
        assert!(refused.missing.contains(&key), "{refused}");
    }
    let empty = Evidence {
        targets: Vec::new(),
        metadata: Vec::new(),
        ..all
    };
    assert!(decide(&empty, choices(2), at(DAY)).is_err());
}
