//! Every interleaving of a few machines over the decisions that the agent runs: with crashes, machines that die, disks and
//! data directories that are lost, cuts, requests that are lost or arrive late, and create-only writes that somebody else
//! was faster with, statuses that are all old at once, looks that fail by themselves, and members of an earlier generation that
//! still answer. Never two clusters of a generation, never a member with a vote that began without the data that it had,
//! never a change of the membership after which no quorum is there.
//!
//! The group's slot is left out: what is safe must not depend on it. One loss is left out too: that of the data directory in the
//! moment between etcd's first start and the sealing of its configuration. What then protects is etcd's own question to its
//! peers, which an unreachable peer cannot answer (docs/adr/0019).
//!
//! Each [`Break`] takes one safeguard away, and the checker must find what comes of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a helper of tests may fail the test"
)]

mod world;

use stateright::{Checker as _, HasDiscoveries, Model as _, Property};

use shared::etcd::{Form, Step};
use world::{Answers, Break, Model, Request, World};

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Agent(usize, Step),
    Start(usize),
    Deliver(Request),
    Lose(Request),
    Crash(usize),
    Die(usize),
    Cut(usize),
    Mend(usize),
    LoseData(usize),
    LoseDisk(usize),
    /// One look fails: what the machine then decides without that answer.
    Blind(usize, Step),
    /// Nothing new gets into the bucket for longer than the limit.
    Outage,
    /// It does again, and everybody who lives writes at once.
    Served,
}

/// Requests that are under way at most.
const UNDER_WAY: usize = 2;

impl stateright::Model for Model {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.first()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for request in &world.requests {
            actions.push(Action::Deliver(request.clone()));
            actions.push(Action::Lose(request.clone()));
        }
        match world.stale {
            true => actions.push(Action::Served),
            false if world.faults > 0 && self.formed => actions.push(Action::Outage),
            false => {}
        }
        for (n, machine) in world.machines.iter().enumerate() {
            if !machine.lives {
                continue;
            }
            if !machine.cut {
                let may = |step: &Step| {
                    let sends = matches!(
                        step,
                        Step::WriteFence(_) | Step::TakeTicket(_) | Step::Change(_)
                    );
                    let waits = sends && world.requests.len() >= UNDER_WAY;
                    !waits && !matches!(step, Step::Rest(..))
                };
                let usual = self.decide(world, n, Answers::All);
                if self.earlier {
                    for lists_it in [false, true] {
                        let step = self.decide(world, n, Answers::Earlier { lists_it });
                        if step != usual && may(&step) {
                            actions.push(Action::Agent(n, step));
                        }
                    }
                }
                if world.faults > 0 && self.formed {
                    for m in (0..self.nodes).filter(|m| *m != n) {
                        let step = self.decide(world, n, Answers::AllBut(m));
                        if step != usual && may(&step) {
                            actions.push(Action::Blind(n, step));
                        }
                    }
                }
                if may(&usual) {
                    actions.push(Action::Agent(n, usual));
                }
            }
            let may_run = machine.memory.as_ref().is_some_and(|m| m.lets_run());
            if may_run && !machine.runs {
                actions.push(Action::Start(n));
            }
            if machine.cut {
                actions.push(Action::Mend(n));
            }
            if world.faults == 0 {
                continue;
            }
            actions.push(Action::Crash(n));
            actions.push(Action::Die(n));
            actions.push(Action::LoseDisk(n));
            if !machine.cut {
                actions.push(Action::Cut(n));
            }
            let begins = machine
                .memory
                .as_ref()
                .is_some_and(|m| matches!(m.form, Form::New { .. }));
            if machine.data.is_some() && (!begins || self.broken == Break::NeverSealed) {
                actions.push(Action::LoseData(n));
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        let fault = |next: &mut World| next.faults -= 1;
        match action {
            Action::Agent(n, step) => next.act(n, step, self.broken),
            Action::Blind(n, step) => {
                fault(&mut next);
                next.act(n, step, self.broken);
            }
            Action::Outage => {
                fault(&mut next);
                next.stale = true;
            }
            Action::Served => next.stale = false,
            Action::Start(n) => next.start(n),
            Action::Deliver(request) => next.deliver(request, self.broken),
            Action::Lose(request) => drop(next.requests.remove(&request)),
            Action::Crash(n) => {
                fault(&mut next);
                next.machines[n].runs = false;
            }
            Action::Die(n) => {
                fault(&mut next);
                next.machines[n].runs = false;
                next.machines[n].lives = false;
            }
            Action::Cut(n) => {
                fault(&mut next);
                next.machines[n].cut = true;
                next.machines[n].was_cut = true;
            }
            Action::Mend(n) => next.machines[n].cut = false,
            Action::LoseData(n) => {
                fault(&mut next);
                next.machines[n].data = None;
                next.machines[n].runs = false;
            }
            Action::LoseDisk(n) => {
                fault(&mut next);
                let machine = &mut next.machines[n];
                (machine.data, machine.memory, machine.runs) = (None, None, false);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("one cluster", |_, w: &World| w.begun.len() <= 1),
            Property::always("no amnesia", |_, w: &World| !w.amnesia),
            Property::always("quorum after a change", |_, w: &World| !w.lost_quorum),
            Property::always("the well stay", |_, w: &World| !w.removed_healthy),
            Property::always("nobody strays", |_, w: &World| !w.strayed),
        ];
        properties.push(match self.formed {
            true => Property::sometimes("replaced", |_, w: &World| w.replaced),
            false => Property::sometimes("formed", |_, w: &World| w.has_quorum()),
        });
        properties
    }
}

fn check(model: Model) {
    let began = std::time::Instant::now();
    let what = format!(
        "{} machines, {} members, {} faults, formed: {}",
        model.nodes, model.settings.voters, model.faults, model.formed
    );
    let checker = model.checker().threads(2).spawn_bfs().join();
    eprintln!(
        "{what}: {} states in {:?}",
        checker.unique_state_count(),
        began.elapsed()
    );
    checker.assert_properties();
}

/// The checker finds what a break does.
fn finds(model: Model, property: &'static str) {
    let broken = model.broken;
    let checker = model
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("{broken:?} was not found out"));
    eprintln!(
        "{broken:?}: found after {} steps",
        path.into_actions().len()
    );
}

#[test]
fn a_cluster_of_one_begins_once_among_three_machines() {
    check(Model::new(3, 1, 2, false, Break::Nothing));
}

#[test]
fn a_cluster_of_two_begins_once_among_three_machines() {
    check(Model::new(3, 2, 2, false, Break::Nothing));
}

#[test]
fn a_cluster_of_three_begins_once() {
    check(Model::new(3, 3, 2, false, Break::Nothing));
}

#[test]
fn five_members_are_replaced() {
    check(Model::new(6, 5, 1, true, Break::Nothing));
}

#[test]
fn members_are_replaced_without_losing_the_quorum() {
    check(Model::new(4, 3, 2, true, Break::Nothing));
}

#[test]
fn a_node_that_lost_its_data_comes_back_without_a_spare() {
    check(Model::new(3, 3, 2, true, Break::Nothing));
}

#[test]
fn what_is_never_sealed_forgets() {
    finds(Model::new(2, 1, 1, false, Break::NeverSealed), "no amnesia");
}

#[test]
fn without_a_ticket_a_new_disk_forgets() {
    finds(
        Model::new(2, 1, 1, false, Break::TicketForAnyone),
        "no amnesia",
    );
}

#[test]
fn a_fence_that_is_written_over_makes_two_clusters() {
    finds(
        Model::new(2, 1, 0, false, Break::FenceOverwritten),
        "one cluster",
    );
}

#[test]
fn late_requests_need_an_etcd_that_checks() {
    // Two removals on the ground of views that are old when they arrive: base.yaml says strict-reconfig-check.
    let careless = Model::new(4, 3, 2, true, Break::CarelessEtcd);
    finds(careless, "quorum after a change");
}

#[test]
fn a_generation_begins_beside_the_one_before() {
    for voters in [1, 2] {
        let model = Model::new(2, voters, 1, false, Break::Nothing);
        check(model.with_an_earlier_generation());
    }
}

#[test]
fn who_listens_to_another_generation_strays() {
    let model = Model::new(2, 2, 0, false, Break::AnyCluster);
    finds(model.with_an_earlier_generation(), "nobody strays");
}

#[test]
fn silence_is_no_proof_that_a_machine_is_gone() {
    // The bucket was away from all of them, and one look at a member that is well fails.
    finds(
        Model::new(4, 3, 2, true, Break::SilenceIsProof),
        "the well stay",
    );
}

#[test]
fn hearsay_is_no_ground_to_remove_the_well() {
    // A view that is old by the time of the deed: the member has come back meanwhile.
    finds(
        Model::new(4, 3, 1, true, Break::DeadByHearsay),
        "the well stay",
    );
}
