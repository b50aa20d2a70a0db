use proptest::prelude::*;
use shared::documents::StepMark;

use super::*;
use crate::pki::{Names, complete};

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn names() -> Names {
    Names {
        environment: "dev".to_owned(),
        zone: "example.com".to_owned(),
        region: "eu-west-1".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        service_ip: [10, 3, 0, 1].into(),
    }
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn number(n: u64) -> ReleaseNumber {
    ReleaseNumber::new(n).unwrap()
}

fn node(name: &str, release: u64, age_seconds: i64) -> NodeEvidence {
    let release = ReleaseNumber::new(release);
    NodeEvidence {
        node: name.to_owned(),
        said: Said::Runs {
            release,
            age_seconds,
        },
    }
}

/// A PKI in which `subject` took `actions`, the last with keyring version 5, for group secure.
fn after(subject: Subject, actions: &[Action]) -> Pki {
    let mut pki = None;
    complete(&mut pki, &names(), now()).unwrap();
    let mut pki = pki.unwrap();
    for action in actions {
        subject.advance(&mut pki, *action, &names(), now()).unwrap();
    }
    let mark = StepMark {
        keyring: 5,
        at: now(),
        groups: [group("secure")].into(),
    };
    pki.rotations.insert(subject.as_str().to_owned(), mark);
    pki
}

const ETCD: Subject = Subject::Authority(shared::documents::AuthorityName::Etcd);

fn secure(releases: &[(u64, u64)], nodes: Vec<NodeEvidence>) -> Evidence {
    let releases = releases.iter().map(|(r, k)| (number(*r), *k)).collect();
    // The other group has nothing, and nobody asks for it.
    [
        (
            group("secure"),
            GroupEvidence {
                releases,
                nodes,
                generation: 1,
                ..GroupEvidence::default()
            },
        ),
        (group("compute"), GroupEvidence::default()),
    ]
    .into()
}

#[test]
fn a_step_waits_for_each_node_and_names_those_it_waits_for() {
    let pki = after(ETCD, &[Action::Stage]);
    let ask = |e: &Evidence| obstacles(ETCD, Action::Promote, &pki, e, now());

    let all = secure(&[(7, 4), (8, 5)], vec![node("a", 8, 10), node("b", 9, 10)]);
    assert!(ask(&all).is_empty());
    let unpublished = secure(&[(6, 3), (7, 4)], vec![node("a", 7, 10)]);
    assert_eq!(ask(&unpublished), [Obstacle::NotPublished(group("secure"))]);
    let nobody = secure(&[(8, 5)], vec![]);
    assert_eq!(ask(&nobody), [Obstacle::NoNode(group("secure"))]);

    let mut mixed = vec![node("a", 8, 10), node("late", 7, 10), node("new", 0, 10)];
    mixed.push(node("gone", 8, STALE_AFTER_SECONDS + 1));
    mixed.push(NodeEvidence {
        node: "forged".to_owned(),
        said: Said::Unusable("is not believed".to_owned()),
    });
    let found = ask(&secure(&[(7, 4), (8, 5)], mixed));
    let said: Vec<String> = found.iter().map(ToString::to_string).collect();
    let named = ["late", "new", "gone", "forged"];
    assert_eq!(said.len(), named.len(), "{said:?}");
    for (line, name) in said.iter().zip(named) {
        assert!(line.contains(name), "{line}");
    }
    let without = named.map(str::to_owned).into();
    assert!(found.iter().all(|o| o.is_waived(&without, false)));
    assert!(!found.iter().any(|o| o.is_waived(&BTreeSet::new(), true)));
}

#[test]
fn a_node_on_a_release_between_the_listed_ones_has_what_the_older_has() {
    let pki = after(ETCD, &[Action::Stage]);
    let ask = |nodes| {
        let evidence = secure(&[(8, 5), (12, 6)], nodes);
        obstacles(ETCD, Action::Promote, &pki, &evidence, now()).len()
    };
    assert_eq!(ask(vec![node("a", 10, 1)]), 0);
    assert_eq!(ask(vec![node("a", 7, 1)]), 1);
}

#[test]
fn what_was_issued_has_its_time_before_its_issuer_is_retired() {
    use shared::documents::AuthorityName::KubeletClient;
    for (subject, days) in [
        (ETCD, 0),
        (Subject::ServiceAccounts, 2),
        (Subject::Authority(KubeletClient), 31),
    ] {
        let pki = after(subject, &[Action::Stage, Action::Promote]);
        let evidence = secure(&[(8, 5)], vec![node("a", 8, 1)]);
        let at = |hours| {
            let then = now() + jiff::SignedDuration::from_hours(hours);
            obstacles(subject, Action::Retire, &pki, &evidence, then)
        };
        assert!(at(days * 24).is_empty(), "{subject}");
        if days > 0 {
            let early = at(days * 24 - 1);
            assert!(matches!(early[..], [Obstacle::TooSoon { .. }]), "{early:?}");
            assert!(early[0].is_waived(&BTreeSet::new(), true));
        }
    }
}

#[test]
fn beginning_waits_for_nothing_and_a_step_without_a_record_for_ever() {
    let mut pki = after(ETCD, &[]);
    let none = Evidence::new();
    assert!(obstacles(ETCD, Action::Stage, &pki, &none, now()).is_empty());
    pki = after(ETCD, &[Action::Stage]);
    pki.rotations.clear();
    let found = obstacles(ETCD, Action::Promote, &pki, &none, now());
    assert_eq!(found, [Obstacle::Unrecorded]);
    assert!(!found[0].is_waived(&["secure".to_owned()].into(), true));
}

proptest! {
    /// Whatever the releases and reports, a step is free only if each node has a release that no listed release
    /// without the step is newer than.
    #[test]
    fn no_node_without_the_step_is_passed_over(
        versions in proptest::collection::vec(1_u64..9, 1..6),
        on in proptest::collection::vec(0_u64..8, 1..5),
    ) {
        let pki = after(ETCD, &[Action::Stage]);
        let mut versions = versions;
        versions.sort_unstable();
        // Release n was made with versions[n - 1]; only the newest two are listed.
        let all: Vec<(u64, u64)> = (1..).zip(versions.iter().copied()).collect();
        let listed = &all[all.len().saturating_sub(2)..];
        let nodes = on.iter().map(|r| node("n", *r, 1)).collect();
        let free = obstacles(ETCD, Action::Promote, &pki, &secure(listed, nodes), now()).is_empty();
        let has_it = |release: &u64| {
            *release > all.len() as u64 || all.iter().any(|(r, k)| r == release && *k >= 5)
        };
        let published = versions.last().is_some_and(|k| *k >= 5);
        prop_assert!(!free || (published && on.iter().all(has_it)));
    }
}

mod encryption {
    use shared::documents::{EncryptionKey, OlderKey};
    use shared::rewrite::{RewriteReport, StoredScan};
    use shared::secret::SecretBytes;

    use super::*;

    const IT: Subject = Subject::Encryption;
    const UNTIL_REWRITE: [Action; 3] = [Action::Stage, Action::Promote, Action::Rewrite];

    fn evidence(good: Option<u64>, reports: Vec<RewriteReport>) -> Evidence {
        let mut all = secure(&[(8, 5)], vec![node("a", 8, 1)]);
        let group = all.get_mut(&group("secure")).unwrap();
        group.rollout = Some(RolloutEvidence {
            good: good.and_then(ReleaseNumber::new),
        });
        group.rewrites = reports.into_iter().map(|r| ("a".to_owned(), r)).collect();
        all
    }

    fn report(pki: &Pki, others: &[(&str, u64)]) -> RewriteReport {
        let mut others: BTreeMap<String, u64> =
            others.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
        others.retain(|_, n| *n > 0);
        RewriteReport {
            number: pki.at_rest.rewrite.as_ref().unwrap().number,
            generation: 1,
            key: pki.encryption.current.name.clone(),
            rewritten: 3,
            scan: Some(StoredScan {
                others,
                ..StoredScan::default()
            }),
            failed: None,
        }
    }

    #[test]
    fn files_on_the_disk_are_not_enough_the_rollout_must_be_over() {
        let pki = after(IT, &[Action::Stage]);
        let ask = |e: &Evidence| obstacles(IT, Action::Promote, &pki, e, now());
        assert!(ask(&evidence(Some(8), vec![])).is_empty());
        assert!(ask(&evidence(Some(9), vec![])).is_empty());
        for behind in [Some(7), None] {
            let found = ask(&evidence(behind, vec![]));
            assert!(
                matches!(found[..], [Obstacle::NotComplete { .. }]),
                "{found:?}"
            );
            assert!(!found[0].is_waived(&["a".to_owned()].into(), true));
        }
        // Other subjects go by the reports alone, as ever.
        let ca = after(ETCD, &[Action::Stage]);
        let found = obstacles(ETCD, Action::Promote, &ca, &evidence(None, vec![]), now());
        assert!(found.is_empty());
    }

    #[test]
    fn the_old_key_is_retired_only_on_the_word_that_nothing_is_under_it() {
        let pki = after(IT, &UNTIL_REWRITE);
        let ask = |reports: Vec<RewriteReport>| {
            obstacles(IT, Action::Retire, &pki, &evidence(Some(8), reports), now())
        };
        let done = report(&pki, &[]);
        assert!(ask(vec![done.clone()]).is_empty());
        let unscanned = RewriteReport {
            scan: None,
            ..done.clone()
        };
        let left = report(&pki, &[("key-old", 2)]);
        // An earlier order, another generation of etcd, another key.
        let strangers = [
            (|r| r.number -= 1) as fn(&mut RewriteReport),
            |r| r.generation = 2,
            |r| r.key = "key-other".to_owned(),
        ];
        let strangers = strangers.map(|change| {
            let mut changed = done.clone();
            change(&mut changed);
            changed
        });
        let mut none = vec![vec![], vec![unscanned], vec![left.clone()]];
        none.extend(strangers.map(|s| vec![s]));
        for reports in none {
            let found = ask(reports.clone());
            assert!(
                matches!(found[..], [Obstacle::NotRewritten { .. }]),
                "{reports:?}"
            );
            assert!(!found[0].is_waived(&["a".to_owned(), "secure".to_owned()].into(), true));
        }
        let said = ask(vec![left.clone()])[0].to_string();
        assert!(
            said.contains("a: 3 rewritten") && said.contains("2 under key-old"),
            "{said}"
        );
        assert!(ask(vec![left, done]).is_empty());
    }

    #[test]
    fn its_steps_follow_each_other_and_a_retired_key_is_kept() {
        let mut pki = after(IT, &[]);
        let old = pki.encryption.current.clone();
        let step = |pki: &Pki| IT.step(pki).unwrap();
        let expected = [
            (Step::Steady, Action::Stage),
            (Step::Staged, Action::Promote),
            (Step::Promoted, Action::Rewrite),
            (Step::Rewriting, Action::Retire),
        ];
        let all = expected.map(|(_, action)| action);
        for (at, next) in expected {
            assert_eq!((step(&pki), IT.after(step(&pki))), (at, next));
            for other in all.into_iter().filter(|a| *a != next) {
                let again = at == Step::Rewriting && other == Action::Rewrite;
                let before = pki.clone();
                let taken = IT.advance(&mut pki, other, &names(), now());
                assert_eq!(taken.is_ok(), again, "{at:?} {other}");
                if again {
                    let number = |p: &Pki| p.at_rest.rewrite.as_ref().unwrap().number;
                    assert_eq!(number(&pki), number(&before) + 1);
                } else {
                    assert_eq!(pki, before);
                }
            }
            IT.advance(&mut pki, next, &names(), now()).unwrap();
        }
        assert_eq!(step(&pki), Step::Steady);
        assert!(pki.at_rest.rewrite.is_none() && pki.encryption.previous.is_none());
        let kept: Vec<&EncryptionKey> = pki.at_rest.older.iter().map(|o| &o.key).collect();
        assert_eq!(kept, [&old]);
        assert!(pki.encryption_keys().all(|key| *key != old));
    }

    #[test]
    fn what_a_restore_brings_back_is_read_and_rewritten_before_the_next_key() {
        let mut pki = after(IT, &[]);
        pki.at_rest.older.push(OlderKey {
            key: EncryptionKey {
                name: "key-old".to_owned(),
                secret: SecretBytes::new(vec![1; 32]),
            },
            reads: true,
            retired: None,
        });
        let given: Vec<&str> = pki.encryption_keys().map(|k| k.name.as_str()).collect();
        assert_eq!(given, [pki.encryption.current.name.as_str(), "key-old"]);
        assert_eq!(IT.step(&pki), Some(Step::Promoted));
        for action in [Action::Rewrite, Action::Retire] {
            IT.advance(&mut pki, action, &names(), now()).unwrap();
        }
        assert_eq!(IT.step(&pki), Some(Step::Steady));
        assert_eq!(pki.at_rest.older.len(), 1);
        assert_eq!(pki.encryption_keys().count(), 1);
    }
}
