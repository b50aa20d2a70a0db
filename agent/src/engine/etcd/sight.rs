//! What statuses say of a member's machine, and what this node has seen of it before. A status that is old, or none at all, is
//! no proof that a machine is gone: the bucket may withhold it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use shared::documents::NodeStatus;
use shared::etcd::{CONFIRM_AFTER, ClusterView};
use shared::names::NodeId;
use shared::rollout::NodeSeen;
use tokio::time::Instant;

use crate::etcd::Member;

/// A status that is older says nothing about what its node reaches: an agent at rest writes one every five minutes, and at
/// once when it reaches others than before.
const SIGHT: SignedDuration = SignedDuration::from_secs(360);

/// The group's statuses, and who is gone by the word of others.
#[derive(Debug)]
pub(super) struct Sights {
    pub(super) statuses: Vec<NodeStatus>,
    pub(super) forgotten: Vec<(NodeId, Timestamp)>,
    pub(super) now: Timestamp,
    pub(super) gone_after: Duration,
}

/// What they say of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    pub(super) gone: bool,
    pub(super) reached_by_peer: bool,
    pub(super) unreached_by: u32,
}

/// What this node remembers of members from look to look, for as long as it runs.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Since when a member has looked dead, at each look.
    dead: BTreeMap<u64, Instant>,
    /// Since when a member has been there whose node has no status.
    unheard: BTreeMap<u64, Instant>,
}

impl Suspects {
    /// For how long a member has been there without any word of its node.
    pub(super) fn unheard(&self, id: u64) -> Duration {
        self.unheard
            .get(&id)
            .map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Takes a look in, and says of it what looks before say too.
    pub(super) fn look(
        &mut self,
        view: ClusterView,
        never_heard: impl Fn(&u64) -> bool,
    ) -> ClusterView {
        let now = Instant::now();
        let keep = |known: &mut BTreeMap<u64, Instant>, ids: Vec<u64>| {
            known.retain(|id, _| ids.contains(id));
            for id in ids {
                known.entry(id).or_insert(now);
            }
        };
        let ids = view.members.iter().map(|m| m.id).filter(never_heard);
        keep(&mut self.unheard, ids.collect());
        let dead = view.members.iter().filter(|m| view.looks_dead(m));
        keep(&mut self.dead, dead.map(|m| m.id).collect());
        let long = |id: u64| {
            self.dead
                .get(&id)
                .is_some_and(|at| now.duration_since(*at) >= CONFIRM_AFTER)
        };
        view.confirmed(long)
    }
}

impl Sights {
    /// The statuses of the node whose member it is.
    pub(super) fn statuses_of<'a>(
        &'a self,
        member: &'a Member,
    ) -> impl Iterator<Item = &'a NodeStatus> {
        self.statuses.iter().filter(|status| is_of(status, member))
    }

    fn age(&self, status: &NodeStatus) -> SignedDuration {
        self.now.duration_since(NodeSeen::of(status).written_at)
    }

    /// What they say of `member` of `list`, of whose node nothing was heard for `unheard`.
    pub(super) fn of(&self, member: &Member, list: &[Member], unheard: Duration) -> Sight {
        let limit = SignedDuration::try_from(self.gone_after).unwrap_or(SignedDuration::MAX);
        let is_gone = |status: &NodeStatus| {
            let written = NodeSeen::of(status).written_at;
            let mut forgotten = self.forgotten.iter();
            forgotten.any(|(n, at)| *n == status.node && *at >= written) || self.age(status) > limit
        };
        let mut own = self.statuses_of(member).peekable();
        let gone = match own.peek() {
            Some(_) => own.all(is_gone),
            None => unheard > self.gone_after,
        };
        // Only members with a vote are asked: who was taken out may still say what it last saw.
        let voters = list.iter().filter(|m| !m.is_learner && m.id != member.id);
        let says = voters.filter_map(|voter| {
            let fresh = self.statuses_of(voter).find(|s| self.age(s) <= SIGHT)?;
            Some(&fresh.etcd.as_ref()?.reaches)
        });
        let (mut reached_by_peer, mut unreached_by) = (false, 0_u32);
        for reaches in says {
            match reaches.contains(&member.name) {
                true => reached_by_peer = true,
                // Who reaches nobody, not even itself, has not looked.
                false if reaches.is_empty() => {}
                false => unreached_by = unreached_by.saturating_add(1),
            }
        }
        Sight {
            gone,
            reached_by_peer,
            unreached_by,
        }
    }
}

fn is_of(status: &NodeStatus, member: &Member) -> bool {
    let facts = status.etcd.as_ref().map(|e| &e.facts);
    facts.is_some_and(|f| f.name == member.name || member.peer_urls.contains(&f.peer_url))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn member(n: u64) -> Member {
        Member {
            id: n,
            name: format!("n{n}"),
            peer_urls: vec![format!("https://n{n}:2380")],
            client_urls: Vec::new(),
            is_learner: false,
        }
    }

    fn status(n: u64, age: i64, reaches: &[&str]) -> NodeStatus {
        let written = Timestamp::from_second(NOW - age).unwrap();
        serde_json::from_value(serde_json::json!({
            "format": 1, "environment": "dev", "group": "secure", "node": format!("i-{n}"), "agent_version": "1",
            "release": 1, "published": 1, "phase": "idle", "error": null, "hold": null, "drift_repaired": 0,
            "foreign": [], "clock_skew_seconds": null, "metadata_expires": null, "written_at": written,
            "etcd": {
                "generation": 1, "role": "member", "reaches": reaches,
                "facts": {
                    "node": format!("i-{n}"), "name": format!("n{n}"), "peer_url": format!("https://n{n}:2380"),
                    "client_url": format!("https://n{n}:2379"),
                },
            },
        }))
        .unwrap()
    }

    fn of(statuses: Vec<NodeStatus>, forgotten: &[u64], unheard: u64) -> Sight {
        let now = Timestamp::from_second(NOW).unwrap();
        let gone = |n: &u64| (format!("i-{n}").parse().unwrap(), now);
        let sights = Sights {
            statuses,
            forgotten: forgotten.iter().map(gone).collect(),
            now,
            gone_after: Duration::from_secs(660),
        };
        let list = [member(1), member(2), member(3)];
        sights.of(&list[2], &list, Duration::from_secs(unheard))
    }

    #[test]
    fn a_status_that_is_not_there_is_no_proof() {
        let peers = || vec![status(1, 10, &["n1", "n2"]), status(2, 10, &["n1", "n2"])];
        let withheld = of(peers(), &[], 0);
        assert_eq!((withheld.gone, withheld.unreached_by), (false, 2));
        assert!(of(peers(), &[], 661).gone, "seen for long without a word");
        let with = |age| [peers(), vec![status(3, age, &["n3"])]].concat();
        assert!(!of(with(600), &[], 0).gone);
        assert!(of(with(661), &[], 0).gone);
        assert!(of(with(10), &[3], 0).gone, "somebody said so");
    }

    #[test]
    fn only_members_that_spoke_of_late_say_whom_they_reach() {
        let of = |statuses| of(statuses, &[], 0);
        let stale = of(vec![
            status(1, 400, &["n1", "n2"]),
            status(2, 400, &["n1", "n3"]),
        ]);
        assert_eq!((stale.reached_by_peer, stale.unreached_by), (false, 0));
        let one = of(vec![
            status(1, 300, &["n1", "n2"]),
            status(2, 300, &["n2", "n3"]),
        ]);
        assert_eq!((one.reached_by_peer, one.unreached_by), (true, 1));
        let blind = of(vec![status(1, 10, &[]), status(2, 10, &["n2"])]);
        assert_eq!((blind.reached_by_peer, blind.unreached_by), (false, 1));
        let stranger = of(vec![status(9, 10, &["n3"])]);
        assert_eq!(
            (stranger.reached_by_peer, stranger.unreached_by),
            (false, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspicion_is_confirmed_by_a_later_look() {
        let view = |unreached_by| ClusterView {
            cluster_id: 1,
            members: [1, 2, 3]
                .map(|id| shared::etcd::MemberSeen {
                    id,
                    name: format!("n{id}"),
                    peer_urls: Vec::new(),
                    learner: false,
                    healthy: id < 3,
                    gone: id == 3,
                    reached_by_peer: id < 3,
                    unreached_by,
                    confirmed: false,
                })
                .to_vec(),
        };
        let mut suspects = Suspects::default();
        let mut look =
            |unreached_by| suspects.look(view(unreached_by), |_| false).members[2].confirmed;
        assert!(!look(2));
        tokio::time::advance(CONFIRM_AFTER / 2).await;
        assert!(!look(2));
        tokio::time::advance(CONFIRM_AFTER / 2).await;
        assert!(look(2));
        assert!(!look(1), "one of them may reach it");
        tokio::time::advance(CONFIRM_AFTER).await;
        assert!(!look(2), "and then it begins anew");
    }
}
