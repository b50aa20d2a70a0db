//! Which step may follow: decided from the keyring and what the nodes report, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use shared::documents::{Pki, Step};
use shared::names::{GroupName, ReleaseNumber};

use super::subject::{Action, Subject};
use crate::status::STALE_AFTER_SECONDS;

/// What is known of each group.
pub type Evidence = BTreeMap<GroupName, GroupEvidence>;

/// What is known of a group: signed facts, and what its nodes say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupEvidence {
    /// The releases that are listed, each with the version of the keyring that it was made with.
    pub releases: Vec<(ReleaseNumber, u64)>,
    /// The nodes that have ever reported and were not forgotten.
    pub nodes: Vec<NodeEvidence>,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvidence {
    /// Its name.
    pub node: String,
    /// What it says.
    pub said: Said,
}

/// A node's report: not a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It reports.
    Runs {
        /// The release that is on its disk.
        release: Option<ReleaseNumber>,
        /// How old the report is.
        age_seconds: i64,
    },
    /// Its report cannot be used, and why.
    Unusable(String),
}

/// Why a step may not be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The keyring does not say since when the rotation is where it is.
    Unrecorded,
    /// No listed release of the group was made with the step before.
    NotPublished(GroupName),
    /// No node of the group has ever reported.
    NoNode(GroupName),
    /// A node reports another release.
    Behind {
        /// Its group.
        group: GroupName,
        /// The node.
        node: String,
        /// What it reports.
        release: Option<ReleaseNumber>,
        /// What it must have at least.
        wanted: ReleaseNumber,
    },
    /// A node has not reported for too long.
    Unheard {
        /// Its group.
        group: GroupName,
        /// The node.
        node: String,
        /// The age of its report.
        age_seconds: i64,
    },
    /// A node's report cannot be used.
    Unusable {
        /// Its group.
        group: GroupName,
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// What the predecessor has issued may still be in use.
    TooSoon {
        /// Until when.
        until: Timestamp,
    },
}

/// Everything that stands against taking `action` now; none where it may be taken. Whether it follows the step before
/// it at all is [`shared::documents::Rotating`]'s affair.
///
/// A step waits for the one before it: each node of each group whose files that one changed must report a release that
/// was made with it. Versions of the keyring never fall from one release to the next, so every release from the first
/// listed one with the step on has it.
#[must_use]
pub fn obstacles(
    subject: Subject,
    action: Action,
    pki: &Pki,
    evidence: &Evidence,
    now: Timestamp,
) -> Vec<Obstacle> {
    if subject.step(pki) == Some(Step::Steady) {
        return Vec::new();
    }
    let Some(mark) = pki.rotations.get(subject.as_str()) else {
        return vec![Obstacle::Unrecorded];
    };
    let mut found = Vec::new();
    for group in &mark.groups {
        let known = evidence.get(group);
        let releases = known.into_iter().flat_map(|g| &g.releases);
        let with_it = releases.filter(|(_, keyring)| *keyring >= mark.keyring);
        let Some(wanted) = with_it.map(|(release, _)| *release).min() else {
            found.push(Obstacle::NotPublished(group.clone()));
            continue;
        };
        let nodes = known.map_or(&[][..], |g| &g.nodes);
        if nodes.is_empty() {
            found.push(Obstacle::NoNode(group.clone()));
        }
        found.extend(nodes.iter().filter_map(|n| of_node(group, n, wanted)));
    }
    let until = mark.at + subject.outlives();
    if action == Action::Retire && now < until {
        found.push(Obstacle::TooSoon { until });
    }
    found
}

fn of_node(group: &GroupName, evidence: &NodeEvidence, wanted: ReleaseNumber) -> Option<Obstacle> {
    let (group, node) = (group.clone(), evidence.node.clone());
    match &evidence.said {
        Said::Unusable(why) => Some(Obstacle::Unusable {
            group,
            node,
            why: why.clone(),
        }),
        Said::Runs { age_seconds, .. } if *age_seconds > STALE_AFTER_SECONDS => {
            Some(Obstacle::Unheard {
                group,
                node,
                age_seconds: *age_seconds,
            })
        }
        Said::Runs { release, .. } if release.is_none_or(|r| r < wanted) => {
            Some(Obstacle::Behind {
                group,
                node,
                release: *release,
                wanted,
            })
        }
        Said::Runs { .. } => None,
    }
}

impl Obstacle {
    /// Whether the operator has taken it upon themselves: a node, or a group without any, that was named.
    #[must_use]
    pub fn is_waived(&self, without: &BTreeSet<String>, without_waiting: bool) -> bool {
        match self {
            Self::Unrecorded | Self::NotPublished(_) => false,
            Self::NoNode(group) => without.contains(group.as_str()),
            Self::Behind { node, .. }
            | Self::Unheard { node, .. }
            | Self::Unusable { node, .. } => without.contains(node),
            Self::TooSoon { .. } => without_waiting,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unrecorded => f.write_str(
                "the keyring does not say when the step before was taken: it was not taken by platformctl rotate",
            ),
            Self::NotPublished(group) => write!(
                f,
                "group {group}: the step before is not published yet: `platformctl publish` first"
            ),
            Self::NoNode(group) => write!(
                f,
                "group {group}: no node has ever reported (if it has none: --without {group})"
            ),
            Self::Behind {
                group,
                node,
                release: Some(release),
                wanted,
            } => write!(
                f,
                "{group}/{node} reports release {release}, and the step before came with release {wanted}"
            ),
            Self::Behind { group, node, .. } => {
                write!(f, "{group}/{node} has adopted nothing yet")
            }
            Self::Unheard {
                group,
                node,
                age_seconds,
            } => write!(
                f,
                "{group}/{node} has not reported for {} minutes (if it is gone: --without {node})",
                age_seconds / 60
            ),
            Self::Unusable { group, node, why } => {
                write!(f, "{group}/{node}: its report {why}")
            }
            Self::TooSoon { until } => write!(
                f,
                "what the predecessor has issued may be in use until {until:.0} (if you know better: --without-waiting)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
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
            (group("secure"), GroupEvidence { releases, nodes }),
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
            (Subject::Authority(KubeletClient), 365),
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
}
