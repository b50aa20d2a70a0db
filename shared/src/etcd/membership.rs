//! Changes of a running cluster's membership: who goes, who comes, who gets a vote. Never a step after which no quorum
//! would be there.

use std::time::Duration;

use super::facts::MemberFacts;
use super::memory::InitialMember;
use super::restart::quorum;

/// A member as a linearizable list has it, and what is known of it besides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberSeen {
    /// Its number.
    pub id: u64,
    /// Its name; empty for one that has never started.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Whether it has no vote.
    pub learner: bool,
    /// Whether it answered this node, and has a leader.
    pub healthy: bool,
    /// Whether its machine has said nothing for longer than the limit, or somebody said that it is gone.
    pub gone: bool,
    /// Whether another member with a vote said of late that it reaches it.
    pub reached_by_peer: bool,
    /// How many of the other members with a vote said of late whom they reach, and did not name it. Who says nothing is not
    /// among them: silence is no proof.
    pub unreached_by: u32,
    /// Whether an earlier look, [`CONFIRM_AFTER`] ago at least, found it as dead, and none since found otherwise.
    pub confirmed: bool,
}

/// From the look that first finds a member dead to the one that may act on it: one look may fail by itself.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(10);

/// A cluster that answered with a quorum behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterView {
    /// Which cluster it is: an answer says it.
    pub cluster_id: u64,
    /// Its members.
    pub members: Vec<MemberSeen>,
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Membership {
    /// A member goes.
    Remove {
        /// Which.
        id: u64,
        /// Which, for people.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// This node comes, without a vote.
    AddLearner,
    /// This node, which has caught up, gets a vote. etcd refuses it until then.
    Promote {
        /// Its number.
        id: u64,
    },
}

/// A change that would leave no quorum, or none is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{healthy} of {voters} members with a vote would be healthy, and {} are needed", quorum(*.voters))]
pub struct NoQuorum {
    /// Healthy members with a vote afterwards.
    pub healthy: u32,
    /// Members with a vote afterwards.
    pub voters: u32,
}

/// Where a node stands in a cluster, and what is to be done next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// This change, under the slot.
    Change(Membership),
    /// It is listed as a learner that has never started: it begins so, with these members.
    Begin(Vec<InitialMember>),
    /// It has data of a cluster that does not list it any more.
    Evicted,
    /// It has a vote.
    Voter,
    /// It has a vote, and its etcd does not answer.
    Broken,
    /// It has none yet.
    Learner,
    /// There are members enough.
    Spare,
    /// Not now.
    Wait(String),
}

/// What a node knows of itself here.
#[derive(Clone, Copy, Debug)]
pub struct Standpoint<'a> {
    /// How it is reached.
    pub facts: &'a MemberFacts,
    /// Whether its data directory holds a member's data.
    pub has_data: bool,
    /// Whether its configuration is sealed: only then a loss of its data cannot go unnoticed, and it may get a vote.
    pub sealed: bool,
}

impl MemberSeen {
    fn is(&self, own: &MemberFacts) -> bool {
        self.name == own.name || self.peer_urls.contains(&own.peer_url)
    }

    fn shown(&self) -> String {
        match self.name.is_empty() {
            false => self.name.clone(),
            true => self.peer_urls.join(","),
        }
    }
}

impl ClusterView {
    fn voters(&self) -> u32 {
        count(&self.members, |m| !m.learner)
    }

    fn healthy(&self) -> u32 {
        count(&self.members, |m| !m.learner && m.healthy)
    }

    /// Whether nothing speaks for the life of a member, and as many others as make a quorum have looked for it in vain.
    #[must_use]
    pub fn looks_dead(&self, member: &MemberSeen) -> bool {
        let seen = member.healthy || member.reached_by_peer;
        !seen && member.gone && member.unreached_by >= quorum(self.voters())
    }

    /// Notes, for each member that looks dead, whether `known` has known it long enough.
    #[must_use]
    pub fn confirmed(mut self, known: impl Fn(u64) -> bool) -> Self {
        let dead: Vec<bool> = self.members.iter().map(|m| self.looks_dead(m)).collect();
        for (member, dead) in self.members.iter_mut().zip(dead) {
            member.confirmed = dead && known(member.id);
        }
        self
    }

    fn dead(&self) -> Option<&MemberSeen> {
        let mut members = self.members.iter();
        members.find(|m| self.looks_dead(m) && m.confirmed)
    }

    /// Whether the members with a vote make a quorum now, and will after `change` of that many members with a vote and
    /// that many healthy ones.
    fn keeps_quorum(&self, voters: u32, healthy: u32) -> Result<(), NoQuorum> {
        for (voters, healthy) in [(self.voters(), self.healthy()), (voters, healthy)] {
            if healthy < quorum(voters) || voters == 0 {
                return Err(NoQuorum { healthy, voters });
            }
        }
        Ok(())
    }

    fn without(&self, id: u64) -> Result<(), NoQuorum> {
        let stays = |m: &MemberSeen| !m.learner && m.id != id;
        let voters = count(&self.members, stays);
        self.keeps_quorum(voters, count(&self.members, |m| stays(m) && m.healthy))
    }

    fn initial(&self, own: &MemberFacts) -> Vec<InitialMember> {
        let named = |m: &MemberSeen| {
            let name = match (m.is(own), m.name.is_empty()) {
                (true, _) => own.name.clone(),
                (false, false) => m.name.clone(),
                (false, true) => format!("m{:x}", m.id),
            };
            let urls = m.peer_urls.iter();
            urls.map(move |peer_url| InitialMember {
                name: name.clone(),
                peer_url: peer_url.clone(),
            })
            .collect::<Vec<_>>()
        };
        self.members.iter().flat_map(named).collect()
    }
}

fn count(members: &[MemberSeen], is: impl Fn(&MemberSeen) -> bool) -> u32 {
    u32::try_from(members.iter().filter(|m| is(m)).count()).unwrap_or(u32::MAX)
}

fn wait(change: &str, no: NoQuorum) -> Standing {
    Standing::Wait(format!("{change} has to wait: {no}"))
}

fn remove(view: &ClusterView, member: &MemberSeen, why: &'static str) -> Standing {
    let name = member.shown();
    let id = member.id;
    match view.without(id) {
        Ok(()) => Standing::Change(Membership::Remove { id, name, why }),
        Err(no) => wait(&format!("the removal of {name}, {why},"), no),
    }
}

/// Decides what this node does about a cluster that is to have `voters` members.
#[must_use]
pub fn change_membership(own: Standpoint<'_>, view: &ClusterView, voters: u32) -> Standing {
    let mine = view.members.iter().find(|m| m.is(own.facts));
    match (own.has_data, mine) {
        (true, None) => Standing::Evicted,
        (true, Some(mine)) if !mine.learner && !mine.healthy => Standing::Broken,
        (true, Some(mine)) if !mine.learner => {
            shrink(view, mine, voters).unwrap_or(Standing::Voter)
        }
        (true, Some(mine)) => {
            if !own.sealed || !mine.healthy {
                return Standing::Learner;
            }
            // Once promoted it counts, and it is healthy.
            match view.keeps_quorum(view.voters() + 1, view.healthy() + 1) {
                Ok(()) => Standing::Change(Membership::Promote { id: mine.id }),
                Err(no) => wait("its vote", no),
            }
        }
        (false, Some(mine)) if mine.learner && mine.name.is_empty() => {
            Standing::Begin(view.initial(own.facts))
        }
        (false, Some(mine)) => remove(view, mine, "whose data is lost"),
        (false, None) => stranger(view, voters),
    }
}

/// Why a member goes of which there are too many.
pub const SURPLUS: &str = "of which there are too many";

/// Where there are more members with a vote than there are to be, nobody comes who would remove one: the first of the
/// healthy ones does it. A dead one goes first, then one that is not healthy, then the last.
fn shrink(view: &ClusterView, mine: &MemberSeen, voters: u32) -> Option<Standing> {
    let first = view.members.iter().filter(|m| !m.learner && m.healthy);
    let is_first = first.map(|m| m.id).min() == Some(mine.id);
    let joins = view.members.iter().any(|m| m.learner);
    if view.voters() <= voters || !is_first || joins {
        return None;
    }
    if let Some(dead) = view.dead() {
        return Some(remove(view, dead, "whose machine is gone"));
    }
    let others = view.members.iter().filter(|m| m.id != mine.id);
    let last = others.max_by_key(|m| (!m.healthy, m.id))?;
    Some(remove(view, last, SURPLUS))
}

/// A node that the cluster does not list.
fn stranger(view: &ClusterView, voters: u32) -> Standing {
    if let Some(dead) = view.dead() {
        return remove(view, dead, "whose machine is gone");
    }
    if let Some(dead) = view.members.iter().find(|m| view.looks_dead(m)) {
        return Standing::Wait(format!("it looks again whether {} is gone", dead.shown()));
    }
    if let Some(learner) = view.members.iter().find(|m| m.learner) {
        return Standing::Wait(format!("{} joins first", learner.shown()));
    }
    if view.voters() >= voters {
        return Standing::Spare;
    }
    match view.keeps_quorum(view.voters(), view.healthy()) {
        Ok(()) => Standing::Change(Membership::AddLearner),
        Err(no) => wait("joining", no),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::step::testing::member;
    use super::*;

    fn seen(n: u64) -> MemberSeen {
        let facts = member(n);
        MemberSeen {
            id: n,
            name: facts.name,
            peer_urls: vec![facts.peer_url],
            learner: false,
            healthy: true,
            gone: false,
            reached_by_peer: false,
            unreached_by: 0,
            confirmed: false,
        }
    }

    fn dead(n: u64) -> MemberSeen {
        MemberSeen {
            healthy: false,
            gone: true,
            unreached_by: 2,
            confirmed: true,
            ..seen(n)
        }
    }

    fn unstarted(n: u64) -> MemberSeen {
        MemberSeen {
            name: String::new(),
            learner: true,
            healthy: false,
            ..seen(n)
        }
    }

    fn decide(n: u64, has_data: bool, members: Vec<MemberSeen>) -> Standing {
        let facts = member(n);
        let own = Standpoint {
            facts: &facts,
            has_data,
            sealed: has_data,
        };
        change_membership(own, &view(members), 3)
    }

    fn view(members: Vec<MemberSeen>) -> ClusterView {
        ClusterView {
            cluster_id: 1,
            members,
        }
    }

    fn removes(standing: &Standing) -> Option<u64> {
        match standing {
            Standing::Change(Membership::Remove { id, .. }) => Some(*id),
            _ => None,
        }
    }

    #[test]
    fn a_replacement_goes_step_by_step() {
        let first = decide(4, false, vec![seen(1), seen(2), dead(3)]);
        assert_eq!(removes(&first), Some(3));
        let second = decide(4, false, vec![seen(1), seen(2)]);
        assert_eq!(second, Standing::Change(Membership::AddLearner));
        let third = decide(4, false, vec![seen(1), seen(2), unstarted(4)]);
        let Standing::Begin(initial) = third else {
            panic!("{third:?}");
        };
        assert_eq!(initial.last(), Some(&InitialMember::of(&member(4))));
        let learner = MemberSeen {
            learner: true,
            ..seen(4)
        };
        let fourth = decide(4, true, vec![seen(1), seen(2), learner]);
        assert_eq!(fourth, Standing::Change(Membership::Promote { id: 4 }));
        let fifth = decide(4, true, vec![seen(1), seen(2), seen(4)]);
        assert_eq!(fifth, Standing::Voter);
    }

    #[test]
    fn nobody_is_removed_whom_somebody_knows_alive() {
        for alive in [
            MemberSeen {
                healthy: true,
                ..dead(3)
            },
            MemberSeen {
                gone: false,
                ..dead(3)
            },
            MemberSeen {
                reached_by_peer: true,
                ..dead(3)
            },
        ] {
            assert_eq!(
                decide(4, false, vec![seen(1), seen(2), alive]),
                Standing::Spare
            );
        }
    }

    #[test]
    fn silence_is_no_proof_and_neither_is_one_look() {
        // Nobody said of late whom it reaches: the bucket may have been away from all.
        for unreached_by in [0, 1] {
            let silent = MemberSeen {
                unreached_by,
                ..dead(3)
            };
            let standing = decide(4, false, vec![seen(1), seen(2), silent]);
            assert_eq!(standing, Standing::Spare, "{unreached_by}");
        }
        let first = MemberSeen {
            confirmed: false,
            ..dead(3)
        };
        let members = vec![seen(1), seen(2), first];
        let standing = decide(4, false, members.clone());
        assert!(matches!(standing, Standing::Wait(_)), "{standing:?}");
        let known = view(members).confirmed(|id| id == 3);
        assert!(known.members[2].confirmed && !known.members[0].confirmed);
    }

    #[test]
    fn a_member_that_does_not_answer_says_so() {
        let broken = MemberSeen {
            healthy: false,
            ..seen(3)
        };
        let standing = decide(3, true, vec![seen(1), seen(2), broken]);
        assert_eq!(standing, Standing::Broken);
    }

    #[test]
    fn what_is_superfluous_goes_one_at_a_time_by_the_first_of_the_healthy() {
        let all = |fourth: MemberSeen| vec![seen(1), seen(2), seen(3), fourth, seen(5)];
        assert_eq!(removes(&decide(1, true, all(dead(4)))), Some(4));
        assert_eq!(decide(2, true, all(dead(4))), Standing::Voter);
        let away = MemberSeen {
            healthy: false,
            ..seen(4)
        };
        assert_eq!(removes(&decide(1, true, all(away))), Some(4));
        assert_eq!(removes(&decide(1, true, all(seen(4)))), Some(5));
        let joins = [all(seen(4)), vec![unstarted(6)]].concat();
        assert_eq!(decide(1, true, joins), Standing::Voter);
        // Enough, and no more: who is dead waits for its successor.
        let three = vec![seen(1), seen(2), dead(3)];
        assert_eq!(decide(1, true, three), Standing::Voter);
        // Two of four are dead already: there is no quorum to remove one.
        let four = vec![seen(1), seen(2), dead(3), dead(4)];
        let standing = decide(1, true, four);
        assert!(matches!(standing, Standing::Wait(_)), "{standing:?}");
    }

    #[test]
    fn without_quorum_nothing_is_made_worse() {
        let standing = decide(4, false, vec![seen(1), dead(2), dead(3)]);
        assert!(matches!(standing, Standing::Wait(_)), "{standing:?}");
        // Its own data is lost, and another member is away: it would be the last one to go.
        let away = MemberSeen {
            healthy: false,
            ..seen(2)
        };
        let lost = MemberSeen {
            healthy: false,
            ..seen(3)
        };
        let standing = decide(3, false, vec![seen(1), away, lost]);
        assert!(matches!(standing, Standing::Wait(_)), "{standing:?}");
        // A cluster of one that is lost is no matter for a replacement.
        let standing = decide(2, false, vec![dead(1)]);
        assert!(matches!(standing, Standing::Wait(_)), "{standing:?}");
    }

    #[test]
    fn who_lost_its_data_or_its_place_comes_back_as_a_learner() {
        let lost = MemberSeen {
            healthy: false,
            ..seen(3)
        };
        let standing = decide(3, false, vec![seen(1), seen(2), lost]);
        assert_eq!(removes(&standing), Some(3));
        // Another machine that has the address of a dead one.
        let mut other = dead(9);
        other.peer_urls = vec![member(3).peer_url];
        let standing = decide(3, false, vec![seen(1), seen(2), other]);
        assert_eq!(removes(&standing), Some(9));
        assert_eq!(
            decide(3, true, vec![seen(1), seen(2), seen(4)]),
            Standing::Evicted
        );
    }

    #[test]
    fn one_joins_at_a_time_and_a_dead_learner_goes() {
        let standing = decide(5, false, vec![seen(1), seen(2), unstarted(4)]);
        assert!(matches!(standing, Standing::Wait(_)), "{standing:?}");
        let gone = MemberSeen {
            gone: true,
            unreached_by: 2,
            confirmed: true,
            ..unstarted(4)
        };
        assert_eq!(
            removes(&decide(5, false, vec![seen(1), seen(2), gone])),
            Some(4)
        );
    }

    #[test]
    fn an_unsealed_learner_gets_no_vote() {
        let facts = member(4);
        let own = Standpoint {
            facts: &facts,
            has_data: true,
            sealed: false,
        };
        let learner = MemberSeen {
            learner: true,
            ..seen(4)
        };
        let members = vec![seen(1), seen(2), learner];
        assert_eq!(change_membership(own, &view(members), 3), Standing::Learner);
    }

    proptest! {
        #[test]
        fn no_change_leaves_less_than_a_quorum(
            flags in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), 1..7),
            own in 1_u64..9,
            has_data: bool,
            sealed: bool,
            wanted in 1_u32..8,
        ) {
            let members: Vec<MemberSeen> = flags.iter().zip(1..).map(|((learner, healthy, gone, reached), n)| MemberSeen {
                learner: *learner && n > 1, healthy: *healthy, gone: *gone, reached_by_peer: *reached,
                unreached_by: 8, confirmed: true, ..seen(n)
            }).collect();
            let facts = member(own);
            let view = view(members);
            let standing = change_membership(Standpoint { facts: &facts, has_data, sealed }, &view, wanted);
            let had = view.healthy() >= quorum(view.voters());
            let (voters, healthy) = match &standing {
                Standing::Change(Membership::Remove { id, .. }) => {
                    let left: Vec<_> = view.members.iter().filter(|m| m.id != *id).cloned().collect();
                    let left = ClusterView { cluster_id: 1, members: left };
                    (left.voters(), left.healthy())
                }
                Standing::Change(Membership::Promote { .. }) => (view.voters() + 1, view.healthy() + 1),
                Standing::Change(Membership::AddLearner) => {
                    prop_assert!(view.voters() < wanted);
                    (view.voters(), view.healthy())
                }
                _ => return Ok(()),
            };
            prop_assert!(had && healthy >= quorum(voters), "{standing:?} of {view:?}");
        }
    }
}
