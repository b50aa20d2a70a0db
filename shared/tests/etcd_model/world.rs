//! The world around the decisions: machines, the bucket, and as much of etcd as matters here.

use std::collections::BTreeSet;

use shared::documents::Nonce;
use shared::etcd::{
    ClusterView, Fence, FenceSeen, Form, Generation, MemberFacts, MemberSeen, Membership, Memory,
    Own, Registered, SURPLUS, Seen, Settings, StartTicket, Step, TicketSeen, next_step,
};

/// What a machine's data directory holds: whose member's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Data {
    /// Which cluster: the members that it was formed with.
    pub(crate) cluster: u64,
    /// Which member.
    pub(crate) id: u64,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    pub(crate) memory: Option<Memory>,
    pub(crate) data: Option<Data>,
    /// etcd runs.
    pub(crate) runs: bool,
    /// The machine is there.
    pub(crate) lives: bool,
    /// Nobody reaches it, nor it the bucket.
    pub(crate) cut: bool,
    /// It was cut once: who comes back in the moment of its removal is removed.
    pub(crate) was_cut: bool,
    /// Nonces used.
    pub(crate) nonces: u8,
}

/// A request that was sent: it may arrive, arrive late, or never.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Request {
    Fence(Fence),
    Ticket(usize, StartTicket),
    Change(usize, Membership),
}

/// A member of the running cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) node: usize,
    pub(crate) learner: bool,
    pub(crate) started: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) machines: Vec<Machine>,
    pub(crate) fence: Option<Fence>,
    pub(crate) tickets: Vec<Option<StartTicket>>,
    pub(crate) requests: BTreeSet<Request>,
    /// The members of the cluster, once a quorum of those that form it has been there.
    pub(crate) cluster: Vec<Listed>,
    /// Every cluster that a member was ever begun for as `new`.
    pub(crate) begun: BTreeSet<u64>,
    /// Every member that ever had data.
    pub(crate) had_data: BTreeSet<u64>,
    /// A member with a vote began without the data that it had.
    pub(crate) amnesia: bool,
    /// A change was made after which no quorum was there.
    pub(crate) lost_quorum: bool,
    /// A member was taken out that was well.
    pub(crate) removed_healthy: bool,
    /// The bucket has shown nothing new for longer than the limit: every status is old, whoever lives.
    pub(crate) stale: bool,
    /// A member of the generation with its data in its place has put it aside, or one without data has joined another.
    pub(crate) strayed: bool,
    /// Faults that may still happen.
    pub(crate) faults: u8,
    pub(crate) replaced: bool,
    /// Numbers given to members that were added.
    pub(crate) added: u64,
}

/// What the world does wrong, so that the checker is seen to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Nothing.
    Nothing,
    /// A member with data keeps `new` in its configuration.
    NeverSealed,
    /// Whoever finds its ticket taken takes it for its own.
    TicketForAnyone,
    /// The fence is written over what is there.
    FenceOverwritten,
    /// Two machines are asked nothing: who is not heard of is taken to be dead.
    DeadByHearsay,
    /// etcd takes every change that a quorum agrees on (`strict-reconfig-check: false`).
    CarelessEtcd,
    /// Old statuses prove that a machine is gone, and nobody is asked whether it is reached.
    SilenceIsProof,
    /// An answer counts whatever cluster it is of.
    AnyCluster,
}

/// One world to check.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) settings: Settings,
    pub(crate) nodes: usize,
    pub(crate) faults: u8,
    /// Begin with a cluster of the first `voters` machines.
    pub(crate) formed: bool,
    /// An earlier generation still answers, with a quorum of its own, at the same addresses.
    pub(crate) earlier: bool,
    pub(crate) broken: Break,
}

/// Who answers a machine that looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// The cluster, all of it.
    All,
    /// The cluster, but that look at this one of its members fails, though nothing is wrong with it.
    AllBut(usize),
    /// Members of the generation before, among them the machine itself or not.
    Earlier { lists_it: bool },
}

pub(crate) fn facts(n: usize) -> MemberFacts {
    MemberFacts {
        node: format!("i-{n}").parse().unwrap(),
        name: format!("n{n}"),
        peer_url: format!("https://n{n}:2380"),
        client_url: format!("https://n{n}:2379"),
    }
}

fn cluster_of(memory: &Memory) -> u64 {
    let bit = |m: &shared::etcd::InitialMember| 1_u64 << m.name[1..].parse::<u64>().unwrap();
    memory.initial.iter().map(bit).sum()
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl Model {
    pub(crate) fn new(nodes: usize, voters: u32, faults: u8, formed: bool, broken: Break) -> Self {
        let settings = Settings {
            environment: "dev".parse().unwrap(),
            generation: Generation::FIRST,
            voters,
        };
        Self {
            settings,
            nodes,
            faults,
            formed,
            earlier: false,
            broken,
        }
    }

    pub(crate) fn with_an_earlier_generation(self) -> Self {
        Self {
            earlier: true,
            ..self
        }
    }

    pub(crate) fn first(&self) -> World {
        let machine = |n: usize| {
            let is_member = self.formed && n < self.settings.voters as usize;
            Machine {
                memory: is_member
                    .then(|| Memory::sealed(self.settings.generation, &facts(n)).led(Some(true))),
                data: is_member.then_some(Data {
                    cluster: 0,
                    id: n as u64 + 1,
                }),
                runs: is_member,
                lives: true,
                cut: false,
                was_cut: false,
                nonces: 0,
            }
        };
        let machines: Vec<Machine> = (0..self.nodes).map(machine).collect();
        let members: Vec<usize> = match self.formed {
            true => (0..self.settings.voters as usize).collect(),
            false => Vec::new(),
        };
        let ticket = |n: usize| StartTicket {
            format: 1,
            node: facts(n).node,
            nonce: Nonce::of(99),
        };
        let listed = |n: &usize| Listed {
            id: *n as u64 + 1,
            node: *n,
            learner: false,
            started: true,
        };
        World {
            fence: self.formed.then(|| {
                let members = members.iter().map(|n| facts(*n)).collect();
                Fence::new(
                    &self.settings.environment,
                    self.settings.generation,
                    members,
                )
            }),
            tickets: (0..self.nodes)
                .map(|n| members.contains(&n).then(|| ticket(n)))
                .collect(),
            machines,
            requests: BTreeSet::new(),
            had_data: members.iter().map(|n| *n as u64 + 1).collect(),
            cluster: members.iter().map(listed).collect(),
            begun: BTreeSet::new(),
            amnesia: false,
            lost_quorum: false,
            removed_healthy: false,
            stale: false,
            strayed: false,
            faults: self.faults,
            replaced: false,
            added: 0,
        }
    }

    /// What the agent of a machine does now: it looks at all that it asks for, in one moment. What it then asks of others
    /// arrives later, if at all; what it does to its own machine is done at once.
    pub(crate) fn decide(&self, world: &World, n: usize, answers: Answers) -> Step {
        let machine = &world.machines[n];
        let own = Own {
            facts: facts(n),
            memory: machine.memory.clone(),
            has_data: machine.data.is_some(),
        };
        let nonce = Nonce::of(n as u128 * 16 + u128::from(machine.nonces));
        let mut seen = Seen::default();
        for _ in 0..8 {
            let step = next_step(&self.settings, &own, &seen, &nonce);
            if !world.look(n, &step, self.broken, answers, &mut seen) {
                return step;
            }
        }
        panic!("it only looks");
    }
}

impl World {
    fn is_healthy(&self, member: &Listed) -> bool {
        let m = &self.machines[member.node];
        m.lives && m.runs && !m.cut && m.data.is_some_and(|d| d.id == member.id)
    }

    pub(crate) fn has_quorum(&self) -> bool {
        let voters = self.cluster.iter().filter(|m| !m.learner);
        let healthy = voters.clone().filter(|m| self.is_healthy(m)).count();
        let voters = voters.count();
        voters > 0 && healthy >= quorum(voters)
    }

    /// The cluster as machine `n` sees it.
    fn view(&self, n: usize, broken: Break, answers: Answers) -> Option<ClusterView> {
        if let Answers::Earlier { lists_it } = answers {
            let mut view = self.earlier(n, lists_it);
            if broken == Break::AnyCluster {
                view.cluster_id = self.fence.as_ref()?.cluster_id();
            }
            return Some(view);
        }
        if !self.has_quorum() || self.machines[n].cut {
            return None;
        }
        // Who says of late whom it reaches: the members with a vote that write their statuses.
        let says = |m: &&Listed| {
            let machine = &self.machines[m.node];
            !m.learner && machine.lives && !machine.cut && !self.stale
        };
        let seen = |m: &Listed| {
            let others = self.cluster.iter().filter(|o| o.id != m.id).filter(says);
            let others = u32::try_from(others.count()).unwrap();
            let reached = self.is_healthy(m) && others > 0;
            let healthy = self.is_healthy(m) && answers != Answers::AllBut(m.node);
            let machine = &self.machines[m.node];
            let hearsay = broken == Break::DeadByHearsay;
            MemberSeen {
                id: m.id,
                name: match m.started {
                    true => facts(m.node).name,
                    false => String::new(),
                },
                peer_urls: vec![facts(m.node).peer_url],
                learner: m.learner,
                healthy,
                gone: hearsay || self.stale || !machine.lives || machine.cut,
                reached_by_peer: reached && !hearsay,
                unreached_by: match (broken, reached) {
                    (Break::SilenceIsProof | Break::DeadByHearsay, _) => u32::MAX,
                    (_, true) => 0,
                    (_, false) => others,
                },
                // The look before was like this one.
                confirmed: true,
            }
        };
        Some(ClusterView {
            cluster_id: self.fence.as_ref()?.cluster_id(),
            members: self.cluster.iter().map(seen).collect(),
        })
    }

    /// What members of the generation before answer: all of them are well.
    fn earlier(&self, n: usize, lists_it: bool) -> ClusterView {
        let seen = |at: usize| MemberSeen {
            id: 1000 + at as u64,
            name: facts(at).name,
            peer_urls: vec![facts(at).peer_url],
            learner: false,
            healthy: true,
            gone: false,
            reached_by_peer: true,
            unreached_by: 0,
            confirmed: false,
        };
        let all = 0..self.machines.len();
        ClusterView {
            cluster_id: 4711,
            members: all.filter(|at| lists_it || *at != n).map(seen).collect(),
        }
    }

    /// Shows a machine what it asks for; false where it asks for nothing.
    fn look(
        &self,
        n: usize,
        step: &Step,
        broken: Break,
        answers: Answers,
        seen: &mut Seen,
    ) -> bool {
        match step {
            Step::LookAtFence => {
                let fence = self.fence.clone();
                seen.fence = fence.map_or(FenceSeen::Absent, FenceSeen::There);
            }
            Step::LookAtTicket => {
                let ticket = match broken {
                    Break::TicketForAnyone => self.anyones_ticket(n),
                    _ => self.tickets[n].clone(),
                };
                seen.ticket = ticket.map_or(TicketSeen::Absent, TicketSeen::There);
            }
            Step::LookAtGroup => {
                // The status of a machine that died is still there, and still looks fresh.
                let registered = |(n, m): (usize, &Machine)| Registered {
                    facts: facts(n),
                    waits: m.data.is_none() && m.memory.is_none(),
                    had_data: m.memory.as_ref().is_some_and(|m| m.form == Form::Sealed),
                };
                seen.group = Some(self.machines.iter().enumerate().map(registered).collect());
            }
            Step::LookAtCluster => {
                seen.cluster = Some(self.view(n, broken, answers));
            }
            _ => return false,
        }
        true
    }

    fn anyones_ticket(&self, n: usize) -> Option<StartTicket> {
        let memory = self.machines[n].memory.as_ref()?;
        let Form::New { nonce, .. } = &memory.form else {
            return None;
        };
        let ticket = self.tickets[n].clone()?;
        let nonce = nonce.clone();
        Some(StartTicket { nonce, ..ticket })
    }

    /// Carries out what a machine decided; what leaves the machine is only sent.
    pub(crate) fn act(&mut self, n: usize, step: Step, broken: Break) {
        let is_listed = self.cluster.iter().any(|m| m.node == n);
        let has_data = self.machines[n].data.is_some();
        if step == Step::StandDown && has_data && (is_listed || self.cluster.is_empty()) {
            self.strayed = true;
        }
        let machine = &mut self.machines[n];
        match step {
            Step::Remember(mut memory) => {
                if broken == Break::NeverSealed
                    && let (Form::Sealed, Some(old)) = (&memory.form, &machine.memory)
                {
                    memory = old.clone();
                }
                if let Form::New { started: false, .. } = memory.form {
                    machine.nonces += 1;
                }
                self.strayed |= memory.form == Form::Join && !is_listed;
                machine.memory = Some(memory);
            }
            Step::StandDown => {
                machine.memory = None;
                machine.data = None;
                machine.runs = false;
            }
            Step::WriteFence(fence) => drop(self.requests.insert(Request::Fence(fence))),
            Step::TakeTicket(ticket) => drop(self.requests.insert(Request::Ticket(n, ticket))),
            Step::Change(change) => drop(self.requests.insert(Request::Change(n, change))),
            _ => {}
        }
    }

    /// kubelet starts etcd.
    pub(crate) fn start(&mut self, n: usize) {
        let machine = &self.machines[n];
        let Some(memory) = machine.memory.clone() else {
            return;
        };
        if machine.data.is_some() {
            self.machines[n].runs = true;
            return;
        }
        match memory.form {
            // etcd asks the others whether it has been here before; where nobody answers, it begins all the same.
            Form::New { started: true, .. } => {
                let (cluster, id) = (cluster_of(&memory), n as u64 + 1);
                self.begun.insert(cluster);
                self.begin(n, Data { cluster, id });
                let formed = self.machines.iter().filter(|m| {
                    m.runs && m.data.is_some_and(|d| d.cluster == cluster && d.id < 10)
                });
                if self.cluster.is_empty() && formed.count() >= quorum(memory.initial.len()) {
                    let nodes = memory.initial.iter().map(|m| m.name[1..].parse::<usize>());
                    self.cluster = nodes
                        .map(|node| Listed {
                            id: node.clone().unwrap() as u64 + 1,
                            node: node.unwrap(),
                            learner: false,
                            started: true,
                        })
                        .collect();
                }
            }
            Form::Join => {
                let own = self.cluster.iter().position(|m| m.node == n);
                if let Some(own) = own.filter(|_| self.has_quorum() && !self.machines[n].cut) {
                    let id = self.cluster[own].id;
                    self.cluster[own].started = true;
                    self.begin(n, Data { cluster: 0, id });
                }
            }
            // It would have to ask other members, and none is named.
            Form::New { .. } | Form::Sealed => {}
        }
    }

    fn begin(&mut self, n: usize, data: Data) {
        let listed = self.cluster.iter().find(|m| m.id == data.id);
        let votes = listed.map_or(data.id < 10, |m| !m.learner);
        let key = data.id + data.cluster * 100;
        if self.had_data.contains(&key) && votes {
            self.amnesia = true;
        }
        self.had_data.insert(key);
        self.machines[n].data = Some(data);
        self.machines[n].runs = true;
    }

    /// A request arrives.
    pub(crate) fn deliver(&mut self, request: Request, broken: Break) {
        self.requests.remove(&request);
        match request {
            Request::Fence(fence) => {
                if self.fence.is_none() || broken == Break::FenceOverwritten {
                    self.fence = Some(fence);
                }
            }
            Request::Ticket(n, ticket) => {
                let place = &mut self.tickets[n];
                if place.is_none() {
                    *place = Some(ticket);
                }
            }
            Request::Change(n, change) => self.change(n, change, broken == Break::CarelessEtcd),
        }
    }

    /// etcd agrees with a quorum, and, unless it is careless, takes out none whose absence leaves less than one.
    fn change(&mut self, n: usize, change: Membership, careless: bool) {
        if !self.has_quorum() {
            return;
        }
        match change {
            Membership::Remove { id, why, .. } => {
                let Some(at) = self.cluster.iter().position(|m| m.id == id) else {
                    return;
                };
                let member = self.cluster[at];
                let voters = self.cluster.iter().filter(|m| !m.learner);
                let active = voters.clone().filter(|m| self.is_healthy(m)).count();
                let left = active - usize::from(!member.learner && self.is_healthy(&member));
                let needed = quorum(voters.count() - usize::from(!member.learner));
                if !careless && left < needed {
                    return;
                }
                let was_gone = self.machines[member.node].was_cut || why == SURPLUS;
                if self.is_healthy(&member) && member.started && !member.learner && !was_gone {
                    self.removed_healthy = true;
                }
                self.cluster.remove(at);
            }
            Membership::AddLearner => {
                let known = self.cluster.iter().any(|m| m.node == n || m.learner);
                if known {
                    return;
                }
                self.added += 1;
                let id = 10 + self.added;
                self.cluster.push(Listed {
                    id,
                    node: n,
                    learner: true,
                    started: false,
                });
            }
            Membership::Promote { id } => {
                let healthy = |m: &Listed| self.is_healthy(m);
                let Some(at) = self
                    .cluster
                    .iter()
                    .position(|m| m.id == id && m.learner && healthy(m))
                else {
                    return;
                };
                self.cluster[at].learner = false;
                self.replaced = true;
            }
        }
        self.lost_quorum |= !self.has_quorum();
    }
}
