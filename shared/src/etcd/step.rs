//! One step of a node, from nothing to a member.
//!
//! [`next_step`] says either what is to be looked at, or what is to be done; after either it is asked again. What it has
//! not been shown counts as unknown, and nothing is done on the ground of what is unknown.

use jiff::SignedDuration;

use super::documents::{ETCD_FORMAT, Fence, StartTicket, are_distinct};
use super::facts::{EtcdRole, Generation, MemberFacts};
use super::membership::{ClusterView, Membership, Standing, Standpoint, change_membership};
use super::memory::{Form, InitialMember, Memory};
use crate::documents::Nonce;
use crate::names::EnvironmentName;

/// How old the status of a node may be that is to form a cluster: who waits writes one every 15 seconds.
pub const FRESH_FOR: SignedDuration = SignedDuration::from_secs(90);

/// What the release says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The environment.
    pub environment: EnvironmentName,
    /// Which cluster.
    pub generation: Generation,
    /// Members with a vote.
    pub voters: u32,
}

/// The node itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Own {
    /// How it is reached.
    pub facts: MemberFacts,
    /// What its configuration file remembers.
    pub memory: Option<Memory>,
    /// Whether the data directory of the generation holds a member's data.
    pub has_data: bool,
}

/// The fence, as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum FenceSeen {
    /// Not looked at.
    #[default]
    Unknown,
    /// It is not there.
    Absent,
    /// It is there.
    There(Fence),
}

/// The node's start ticket, as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum TicketSeen {
    /// Not looked at.
    #[default]
    Unknown,
    /// It is not there.
    Absent,
    /// It is there.
    There(StartTicket),
}

/// A node as its status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registered {
    /// How it is reached.
    pub facts: MemberFacts,
    /// Whether its status is at most [`FRESH_FOR`] old and says that it waits for this generation.
    pub waits: bool,
    /// Whether it has ever said, however long ago, that it has data of this generation or a later one.
    pub had_data: bool,
}

/// Everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The fence.
    pub fence: FenceSeen,
    /// The node's ticket.
    pub ticket: TicketSeen,
    /// The group's other nodes.
    pub group: Option<Vec<Registered>>,
    /// The cluster, as a linearizable read has it; the inner one is none where nobody answered with a quorum behind it.
    #[allow(
        clippy::option_option,
        reason = "not asked, not answered and answered are three things"
    )]
    pub cluster: Option<Option<ClusterView>>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Read the fence.
    LookAtFence,
    /// Read the node's ticket.
    LookAtTicket,
    /// Read the group's status objects.
    LookAtGroup,
    /// Ask the members.
    LookAtCluster,
    /// Write the fence, create-only; whatever the answer, read it again.
    WriteFence(Fence),
    /// Write the ticket, create-only; whatever the answer, read it again.
    TakeTicket(StartTicket),
    /// Write the configuration file so. Where it is `new` or `join`, what lies in the data directory is put aside first: it
    /// is no member's data.
    Remember(Memory),
    /// Change the membership, under the group's slot.
    Change(Membership),
    /// Hold etcd back, put its data aside and forget the membership: the cluster does not list this node any more.
    StandDown,
    /// Nothing for now; what the node is, and why.
    Rest(EtcdRole, String),
}

/// Decides. `nonce` is a fresh one.
#[must_use]
pub fn next_step(settings: &Settings, own: &Own, seen: &Seen, nonce: &Nonce) -> Step {
    let generation = settings.generation;
    let memory = own.memory.as_ref();
    if let Some(newer) = memory.filter(|m| m.generation > generation) {
        let why = format!(
            "this node is of generation {}, and its release of generation {generation}",
            newer.generation
        );
        return Step::Rest(EtcdRole::Waiting, why);
    }
    match memory.filter(|m| m.generation == generation) {
        Some(memory) => match (&memory.form, own.has_data) {
            (Form::Sealed, _) => in_cluster(settings, own, seen),
            (Form::New { started: true, .. }, true) => seal(generation, own, Some(false)),
            // A cluster with a leader has added it.
            (Form::Join, true) => seal(generation, own, Some(true)),
            (Form::New { started: true, .. }, false) => {
                Step::Rest(EtcdRole::Joining, "etcd starts".to_owned())
            }
            (Form::New { nonce, .. }, _) => unstarted(own, memory, nonce, seen),
            (Form::Join, false) => joins(settings, own, seen),
        },
        // Its data says more than a file that is lost.
        None if own.has_data => seal(generation, own, None),
        None => stranger(settings, own, seen, nonce),
    }
}

fn seal(generation: Generation, own: &Own, led: Option<bool>) -> Step {
    Step::Remember(Memory::sealed(generation, &own.facts).led(led))
}

/// Nothing is known of this node here.
fn stranger(settings: &Settings, own: &Own, seen: &Seen, nonce: &Nonce) -> Step {
    match &seen.fence {
        FenceSeen::Unknown => Step::LookAtFence,
        FenceSeen::Absent => form(settings, own, seen),
        FenceSeen::There(fence) if fence.members.contains(&own.facts) => match &seen.ticket {
            TicketSeen::Unknown => Step::LookAtTicket,
            TicketSeen::Absent => Step::Remember(Memory {
                generation: settings.generation,
                form: Form::New {
                    nonce: nonce.clone(),
                    started: false,
                },
                initial: fence.members.iter().map(InitialMember::of).collect(),
                led: None,
            }),
            // It has begun once, and does not remember: what it had may be lost.
            TicketSeen::There(_) => in_cluster(settings, own, seen),
        },
        FenceSeen::There(_) => in_cluster(settings, own, seen),
    }
}

/// There is no cluster of this generation, and nobody has said who forms it.
fn form(settings: &Settings, own: &Own, seen: &Seen) -> Step {
    let Some(group) = &seen.group else {
        return Step::LookAtGroup;
    };
    if let Some(had) = group.iter().find(|r| r.had_data) {
        let why = format!(
            "{} has had data of generation {}, but the object that says who forms it is gone",
            had.facts.name, settings.generation
        );
        return Step::Rest(EtcdRole::Waiting, why);
    }
    let others = group
        .iter()
        .filter(|r| r.waits && r.facts.node != own.facts.node);
    let mut others: Vec<&MemberFacts> = others.map(|r| &r.facts).collect();
    others.sort();
    let mut members = vec![own.facts.clone()];
    for other in others {
        let with = [&members[..], std::slice::from_ref(other)].concat();
        if members.len() < settings.voters as usize && are_distinct(&with) {
            members = with;
        }
    }
    match members.len() == settings.voters as usize {
        true => {
            let environment = &settings.environment;
            Step::WriteFence(Fence::new(environment, settings.generation, members))
        }
        false => {
            let why = format!(
                "{} of {} nodes are there to form the cluster",
                members.len(),
                settings.voters
            );
            Step::Rest(EtcdRole::Waiting, why)
        }
    }
}

/// `new` is written, and etcd is held back until the ticket is known to be this node's.
fn unstarted(own: &Own, memory: &Memory, nonce: &Nonce, seen: &Seen) -> Step {
    match &seen.ticket {
        TicketSeen::Unknown => Step::LookAtTicket,
        TicketSeen::Absent => Step::TakeTicket(StartTicket {
            format: ETCD_FORMAT,
            node: own.facts.node.clone(),
            nonce: nonce.clone(),
        }),
        TicketSeen::There(ticket) if ticket.nonce == *nonce => Step::Remember(Memory {
            form: Form::New {
                nonce: nonce.clone(),
                started: true,
            },
            ..memory.clone()
        }),
        // An earlier life of this node has begun already.
        TicketSeen::There(_) => Step::StandDown,
    }
}

/// A learner that has no data yet: it may have been removed meanwhile.
fn joins(settings: &Settings, own: &Own, seen: &Seen) -> Step {
    match cluster(seen) {
        Cluster::Look(step) => step,
        Cluster::Silent(why) => Step::Rest(EtcdRole::Joining, why),
        Cluster::Answers(view) => match change_membership(standpoint(own), view, settings.voters) {
            Standing::Begin(initial) => {
                let memory = own.memory.as_ref();
                match memory.is_some_and(|m| m.initial == initial) {
                    true => Step::Rest(EtcdRole::Joining, "etcd starts".to_owned()),
                    false => join(settings, initial),
                }
            }
            // Its place was taken from it, or its data lost (it has a name, and what is there was looked at later). It forgets
            // first: while it asks for its removal, it must not begin again under the number that is to go.
            _ => Step::StandDown,
        },
    }
}

fn join(settings: &Settings, initial: Vec<InitialMember>) -> Step {
    Step::Remember(Memory {
        generation: settings.generation,
        form: Form::Join,
        initial,
        led: None,
    })
}

/// The cluster, as it was seen.
enum Cluster<'a> {
    /// Something is to be looked at first.
    Look(Step),
    /// Nobody answers, or nobody who belongs to this generation; why.
    Silent(String),
    /// It answers.
    Answers(&'a ClusterView),
}

/// An answer counts only where it is of the cluster that the fence's members form: whoever still runs an earlier generation
/// answers at the same addresses, with a quorum of its own.
fn cluster(seen: &Seen) -> Cluster<'_> {
    let fence = match &seen.fence {
        FenceSeen::Unknown => return Cluster::Look(Step::LookAtFence),
        FenceSeen::Absent => {
            let why = "the object that says who forms the generation is gone, so nobody can tell who belongs to it";
            return Cluster::Silent(why.to_owned());
        }
        FenceSeen::There(fence) => fence,
    };
    match &seen.cluster {
        None => Cluster::Look(Step::LookAtCluster),
        Some(Some(view)) if view.cluster_id == fence.cluster_id() => Cluster::Answers(view),
        Some(Some(_)) => Cluster::Silent("members of another generation answer".to_owned()),
        Some(None) => Cluster::Silent(no_quorum()),
    }
}

fn is_sealed(settings: &Settings, memory: &Memory) -> bool {
    memory.generation == settings.generation && memory.form == Form::Sealed
}

fn no_quorum() -> String {
    "no member answers with a quorum behind it".to_owned()
}

fn standpoint(own: &Own) -> Standpoint<'_> {
    let sealed = own.memory.as_ref().is_some_and(|m| m.form == Form::Sealed);
    Standpoint {
        facts: &own.facts,
        has_data: own.has_data,
        sealed,
    }
}

/// There is a cluster, or was one.
fn in_cluster(settings: &Settings, own: &Own, seen: &Seen) -> Step {
    let view = match cluster(seen) {
        Cluster::Answers(view) => view,
        Cluster::Look(step) => return step,
        Cluster::Silent(why) => {
            let role = match own.has_data {
                true => EtcdRole::Member,
                false => EtcdRole::Waiting,
            };
            return Step::Rest(role, why);
        }
    };
    // Who answers with a quorum behind it has a leader. A generation that had one may have taken writes.
    if let Some(memory) = own.memory.as_ref().filter(|m| is_sealed(settings, m))
        && memory.led != Some(true)
    {
        return Step::Remember(memory.clone().led(Some(true)));
    }
    match change_membership(standpoint(own), view, settings.voters) {
        Standing::Change(change) => Step::Change(change),
        Standing::Begin(initial) => join(settings, initial),
        Standing::Evicted => Step::StandDown,
        Standing::Voter => Step::Rest(EtcdRole::Member, String::new()),
        Standing::Broken => Step::Rest(EtcdRole::Member, "its etcd does not answer".to_owned()),
        Standing::Learner => Step::Rest(EtcdRole::Learner, "it catches up".to_owned()),
        Standing::Spare if own.memory.is_some() => Step::StandDown,
        Standing::Spare => Step::Rest(
            EtcdRole::Spare,
            format!("there are {} members", settings.voters),
        ),
        Standing::Wait(why) => Step::Rest(EtcdRole::Waiting, why),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(in crate::etcd) fn member(n: u64) -> MemberFacts {
        MemberFacts {
            node: format!("i-{n}").parse().unwrap(),
            name: format!("n{n}"),
            peer_url: format!("https://n{n}:2380"),
            client_url: format!("https://n{n}:2379"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::membership::MemberSeen;
    use super::testing::member;
    use super::*;

    fn settings() -> Settings {
        Settings {
            environment: "dev".parse().unwrap(),
            generation: Generation::FIRST,
            voters: 3,
        }
    }

    fn own(memory: Option<Memory>, has_data: bool) -> Own {
        Own {
            facts: member(1),
            memory,
            has_data,
        }
    }

    fn fence() -> Fence {
        let members = vec![member(1), member(2), member(3)];
        Fence::new(&settings().environment, Generation::FIRST, members)
    }

    fn step(own: &Own, seen: &Seen) -> Step {
        next_step(&settings(), own, seen, &Nonce::of(1))
    }

    fn waiting(n: u64) -> Registered {
        Registered {
            facts: member(n),
            waits: true,
            had_data: false,
        }
    }

    fn ticket(nonce: u128) -> TicketSeen {
        TicketSeen::There(StartTicket {
            format: ETCD_FORMAT,
            node: member(1).node,
            nonce: Nonce::of(nonce),
        })
    }

    #[test]
    fn a_fence_is_written_by_whoever_sees_enough_and_is_among_them() {
        let own = own(None, false);
        assert_eq!(step(&own, &Seen::default()), Step::LookAtFence);
        let mut seen = Seen {
            fence: FenceSeen::Absent,
            ..Seen::default()
        };
        assert_eq!(step(&own, &seen), Step::LookAtGroup);
        seen.group = Some(vec![waiting(2), waiting(1)]);
        assert!(matches!(
            step(&own, &seen),
            Step::Rest(EtcdRole::Waiting, _)
        ));
        seen.group = Some(vec![waiting(4), waiting(2), waiting(3)]);
        assert_eq!(step(&own, &seen), Step::WriteFence(fence()));
        // Stale ones, and two with one address, are not enough.
        let mut stale = waiting(3);
        stale.waits = false;
        let mut double = waiting(4);
        double.facts.peer_url = member(2).peer_url;
        seen.group = Some(vec![waiting(2), stale, double]);
        assert!(matches!(
            step(&own, &seen),
            Step::Rest(EtcdRole::Waiting, _)
        ));
    }

    #[test]
    fn a_fence_that_vanished_is_not_written_again() {
        let mut had = waiting(9);
        (had.waits, had.had_data) = (false, true);
        let seen = Seen {
            fence: FenceSeen::Absent,
            group: Some(vec![waiting(2), waiting(3), had]),
            ..Seen::default()
        };
        let rest = step(&own(None, false), &seen);
        assert!(matches!(rest, Step::Rest(EtcdRole::Waiting, _)), "{rest:?}");
    }

    #[test]
    fn a_member_of_the_fence_begins_once() {
        let mut seen = Seen {
            fence: FenceSeen::There(fence()),
            ..Seen::default()
        };
        let mut own = own(None, false);
        assert_eq!(step(&own, &seen), Step::LookAtTicket);
        seen.ticket = TicketSeen::Absent;
        let Step::Remember(memory) = step(&own, &seen) else {
            panic!();
        };
        assert!(
            !memory.lets_run(),
            "etcd is held back until the ticket is there"
        );
        own.memory = Some(memory);
        assert!(matches!(step(&own, &seen), Step::TakeTicket(_)));
        seen.ticket = ticket(2);
        assert_eq!(step(&own, &seen), Step::StandDown, "another life's");
        seen.ticket = ticket(1);
        let Step::Remember(memory) = step(&own, &seen) else {
            panic!();
        };
        assert!(memory.lets_run() && memory.state() == "new");
        own.memory = Some(memory);
        assert!(matches!(
            step(&own, &seen),
            Step::Rest(EtcdRole::Joining, _)
        ));
        own.has_data = true;
        let Step::Remember(memory) = step(&own, &seen) else {
            panic!();
        };
        let sealed = Memory::sealed(Generation::FIRST, &own.facts);
        assert_eq!(memory, sealed.clone().led(Some(false)));
        own.memory = Some(memory);
        assert_eq!(step(&own, &seen), Step::LookAtCluster);
        // What was seen of a leader is remembered, once.
        let alone = MemberSeen {
            id: 1,
            name: member(1).name,
            peer_urls: vec![member(1).peer_url],
            learner: false,
            healthy: true,
            gone: false,
            reached_by_peer: false,
            unreached_by: 0,
            confirmed: false,
        };
        seen.cluster = Some(Some(ClusterView {
            cluster_id: fence().cluster_id(),
            members: vec![alone],
        }));
        let led = sealed.led(Some(true));
        assert_eq!(step(&own, &seen), Step::Remember(led.clone()));
        own.memory = Some(led);
        assert!(matches!(step(&own, &seen), Step::Rest(EtcdRole::Member, why) if why.is_empty()));
    }

    #[test]
    fn another_generation_is_not_listened_to() {
        // It lists nobody whom this node knows: who took it for its own would put its data aside.
        let other = ClusterView {
            cluster_id: fence().cluster_id() + 1,
            members: Vec::new(),
        };
        let mut seen = Seen {
            fence: FenceSeen::There(fence()),
            ticket: ticket(2),
            cluster: Some(Some(other)),
            ..Seen::default()
        };
        let sealed = Memory::sealed(Generation::FIRST, &member(1));
        let member = own(Some(sealed), true);
        for own in [member.clone(), own(None, false)] {
            let rest = step(&own, &seen);
            assert!(
                matches!(&rest, Step::Rest(_, why) if why.contains("another generation")),
                "{rest:?}"
            );
        }
        seen.fence = FenceSeen::Absent;
        let rest = step(&member, &seen);
        assert!(
            matches!(&rest, Step::Rest(EtcdRole::Member, why) if why.contains("is gone")),
            "{rest:?}"
        );
    }

    #[test]
    fn whoever_lost_everything_does_not_begin_again() {
        let seen = Seen {
            fence: FenceSeen::There(fence()),
            ticket: ticket(2),
            ..Seen::default()
        };
        assert_eq!(step(&own(None, false), &seen), Step::LookAtCluster);
        let sealed = Memory::sealed(Generation::FIRST, &member(1));
        assert_eq!(step(&own(Some(sealed), false), &seen), Step::LookAtCluster);
    }

    #[test]
    fn an_older_generation_is_forgotten_and_a_newer_one_kept() {
        let old = Memory::sealed(Generation::FIRST, &member(1));
        let mut newer = settings();
        newer.generation = newer.generation.next();
        let own_old = own(Some(old.clone()), false);
        let step = next_step(&newer, &own_old, &Seen::default(), &Nonce::of(1));
        assert_eq!(step, Step::LookAtFence);
        let later = Memory {
            generation: newer.generation,
            ..old
        };
        let rest = next_step(
            &settings(),
            &own(Some(later), true),
            &Seen::default(),
            &Nonce::of(1),
        );
        assert!(matches!(rest, Step::Rest(EtcdRole::Waiting, _)));
    }

    #[test]
    fn data_without_a_memory_is_kept() {
        let step = step(&own(None, true), &Seen::default());
        let sealed = Memory::sealed(Generation::FIRST, &member(1));
        assert_eq!(step, Step::Remember(sealed));
    }
}
