//! A store, a clock and nodes in virtual time: every schedule follows from its seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shared::bundle::{MaxUnavailable, RolloutPolicy, TimeSpan};
use shared::documents::{Forgotten, Nonce, RolloutDocument};
use shared::names::{NodeId, ReleaseNumber};
use shared::rollout::{GroupView, NodeSeen};

use crate::node::{Node, State};

/// Virtual milliseconds since the beginning.
pub(crate) type Time = u64;

/// How a schedule is made.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) nodes: u32,
    pub(crate) zones: u32,
    pub(crate) max_unavailable: u32,
    /// Nodes on which each published release is bad, after the first.
    pub(crate) releases: Vec<Bad>,
    /// From one publish to the next.
    pub(crate) between: Time,
    /// Until when things go wrong.
    pub(crate) faults_until: Time,
    pub(crate) deadline: TimeSpan,
    /// How long writing, and how long probing takes, at most.
    pub(crate) work: Time,
    /// Nodes may need longer than their deadline, so that one is cleared while it is still at it. It counts as unavailable from
    /// then on, which has to be enough for every other promise.
    pub(crate) slow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Nowhere,
    Everywhere,
    /// On every node but the first to try it would be rare; so on each node with this chance in percent.
    On(u32),
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Published,
    Document,
    View,
    Put(Box<RolloutDocument>, Option<u64>),
    Status(NodeSeen),
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Published(usize),
    Document(Option<RolloutDocument>, Option<u64>, Timestamp),
    View(GroupView),
    Done,
    Conflict,
    Timeout,
}

#[derive(Debug)]
pub(crate) enum Event {
    Tick(usize, u64),
    Effect(usize, u64, Op, Option<Time>),
    Answer(usize, u64, Answer),
    Crash(usize),
    Start(usize),
    Publish,
    FaultsEnd,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) rng: StdRng,
    pub(crate) setting: Setting,
    pub(crate) document: Option<RolloutDocument>,
    pub(crate) tag: u64,
    pub(crate) statuses: BTreeMap<NodeId, NodeSeen>,
    pub(crate) published: usize,
    pub(crate) nodes: Vec<Node>,
    pub(crate) requests: BTreeMap<&'static str, u64>,
    /// For each release, the nodes on which it was begun.
    pub(crate) reached: BTreeMap<u64, BTreeSet<usize>>,
    forgotten: BTreeSet<usize>,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    serial: u64,
}

pub(crate) fn date(now: Time) -> Timestamp {
    // Whole seconds, as in the header.
    Timestamp::from_second(1_800_000_000 + i64::try_from(now / 1000).unwrap()).unwrap()
}

pub(crate) fn number(n: u64) -> ReleaseNumber {
    ReleaseNumber::new(n).unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, setting: Setting) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes: Vec<Node> = (0..setting.nodes)
            .map(|n| {
                let zone = format!("zone-{}", n % setting.zones);
                Node::new(n, zone, rng.random_range(0.99..1.01))
            })
            .collect();
        let mut world = Self {
            now: 0,
            rng,
            setting,
            document: None,
            tag: 0,
            statuses: BTreeMap::new(),
            published: 0,
            nodes,
            requests: BTreeMap::new(),
            reached: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            serial: 0,
        };
        for n in 0..world.nodes.len() {
            world
                .statuses
                .insert(world.nodes[n].id.clone(), world.nodes[n].seen(0));
            let at = world.rng.random_range(0..10_000);
            world.at(at, Event::Tick(n, 0));
            world.plan_faults(n);
        }
        for n in 0..world.setting.releases.len() as u64 {
            world.at(20_000 + n * world.setting.between, Event::Publish);
        }
        let end = world.setting.faults_until;
        world.at(end, Event::FaultsEnd);
        world
    }

    fn plan_faults(&mut self, n: usize) {
        let until = self.setting.faults_until;
        let mut at = 0;
        loop {
            at += self.rng.random_range(60_000..600_000);
            if at >= until {
                break;
            }
            match self.rng.random_range(0..4) {
                0 => {
                    self.at(at, Event::Crash(n));
                    // One in eight stays away.
                    if self.rng.random_range(0..8) == 0 {
                        return;
                    }
                    at += self.rng.random_range(1_000..1_500_000);
                    self.at(at, Event::Start(n));
                }
                1 => {
                    let long = self.rng.random_range(5_000..1_500_000);
                    self.nodes[n].cut_off.push((at, (at + long).min(until)));
                    at += long;
                }
                _ => {}
            }
        }
    }

    pub(crate) fn at(&mut self, time: Time, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((time, self.serial)));
        self.events.insert(self.serial, event);
    }

    pub(crate) fn nonce(&mut self) -> Nonce {
        Nonce::of(self.rng.random())
    }

    pub(crate) fn policy(&self) -> RolloutPolicy {
        RolloutPolicy {
            max_unavailable: MaxUnavailable::Nodes(self.setting.max_unavailable),
            deadline: self.setting.deadline,
            settle: TimeSpan::from_millis(0),
            probes: Vec::new(),
            waiver: None,
        }
    }

    pub(crate) fn is_bad(&self, release: u64, node: usize) -> bool {
        match self
            .setting
            .releases
            .get(usize::try_from(release).unwrap().wrapping_sub(2))
        {
            None | Some(Bad::Nowhere) => false,
            Some(Bad::Everywhere) => true,
            Some(Bad::On(percent)) => {
                (node as u64 * 7919 + release * 104_729) % 100 < u64::from(*percent)
            }
        }
    }

    /// A request of a node: it has its effect a little later, and its answer comes a little after that, or not.
    pub(crate) fn request(&mut self, n: usize, op: Op) {
        let kind = match &op {
            Op::Published => "GET timestamp",
            Op::Document => "GET rollout",
            Op::View => "GET statuses",
            Op::Put(..) => "PUT rollout",
            Op::Status(_) => "PUT status",
        };
        *self.requests.entry(kind).or_default() += match &op {
            Op::View => 1 + self.statuses.len() as u64,
            _ => 1,
        };
        let epoch = self.nodes[n].epoch;
        let (there, back) = (self.rng.random_range(5..300), self.rng.random_range(5..300));
        let faulty = self.now < self.setting.faults_until;
        let cut = self.nodes[n]
            .cut_off
            .iter()
            .any(|(a, b)| (*a..*b).contains(&self.now));
        let dice = self.rng.random_range(0..100);
        let timeout = self.now + 5_000;
        if faulty && (cut || dice < 6) {
            self.at(timeout, Event::Answer(n, epoch, Answer::Timeout));
            match self.rng.random_range(0..3) {
                // Applied, the answer lost.
                0 if !cut || dice < 50 => {
                    self.at(self.now + there, Event::Effect(n, epoch, op, None))
                }
                // Applied late.
                1 if !cut => {
                    let late = self.now + self.rng.random_range(5_000..25_000);
                    self.at(late, Event::Effect(n, epoch, op, None));
                }
                _ => {}
            }
        } else if faulty && dice < 9 && matches!(op, Op::Put(..)) {
            self.at(
                self.now + there + back,
                Event::Answer(n, epoch, Answer::Conflict),
            );
        } else {
            self.at(
                self.now + there,
                Event::Effect(n, epoch, op, Some(self.now + there + back)),
            );
        }
    }

    fn effect(&mut self, op: Op) -> Result<Answer, String> {
        Ok(match op {
            Op::Published => Answer::Published(self.published),
            Op::Document => Answer::Document(
                self.document.clone(),
                self.document.is_some().then_some(self.tag),
                date(self.now),
            ),
            Op::View => Answer::View(GroupView {
                nodes: self.statuses.values().cloned().collect(),
                unread: Vec::new(),
            }),
            Op::Status(seen) => {
                self.statuses.insert(seen.node.clone(), seen);
                Answer::Done
            }
            Op::Put(document, tag) => {
                if tag != self.document.is_some().then_some(self.tag) {
                    return Ok(Answer::Conflict);
                }
                if !self.setting.slow {
                    self.check_clearing(&document)?;
                }
                self.document = Some(*document);
                self.tag += 1;
                Answer::Done
            }
        })
    }

    /// A slot is cleared only when its node, if it runs at all, has ended its transition.
    fn check_clearing(&self, next: &RolloutDocument) -> Result<(), String> {
        for cleared in &next.unavailable {
            let before = self.document.as_ref().and_then(|d| d.holder(&cleared.node));
            let Some(n) = self.nodes.iter().position(|n| n.id == cleared.node) else {
                continue;
            };
            if before.is_some() && self.nodes[n].up && self.nodes[n].is_in_transition() {
                return Err(format!("the slot of node {n} was cleared under its feet"));
            }
        }
        Ok(())
    }

    /// Runs until the rollout has ended.
    pub(crate) fn run(&mut self, limit: Time) -> Result<(), String> {
        while let Some(Reverse((time, serial))) = self.queue.pop() {
            self.now = time;
            if time > limit {
                return Err(format!("not ended by {limit}: {:#?}", self.document));
            }
            let Some(event) = self.events.remove(&serial) else {
                continue;
            };
            match event {
                Event::Tick(n, epoch) => self.wake(n, epoch, None),
                Event::Answer(n, epoch, answer) => self.wake(n, epoch, Some(answer)),
                Event::Effect(n, epoch, op, answer_at) => {
                    let answer = self.effect(op)?;
                    if let Some(at) = answer_at {
                        self.at(at, Event::Answer(n, epoch, answer));
                    }
                }
                Event::Crash(n) => {
                    let node = &mut self.nodes[n];
                    node.up = false;
                    node.epoch += 1;
                    node.state = State::Idle;
                }
                Event::Start(n) => self.start(n),
                Event::Publish => self.published += 1,
                Event::FaultsEnd => self.heal(),
            }
            self.check()?;
            if self.has_ended() {
                return Ok(());
            }
        }
        Err("nothing happens any more".to_owned())
    }

    fn start(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.up = true;
        node.epoch += 1;
        node.state = State::Idle;
        let epoch = node.epoch;
        self.at(self.now, Event::Tick(n, epoch));
    }

    /// The faults are over: whoever is away for good is forgotten.
    fn heal(&mut self) {
        for n in 0..self.nodes.len() {
            if !self.nodes[n].up {
                self.forgotten.insert(n);
                self.statuses.remove(&self.nodes[n].id);
                let gone = self.nodes[n].id.clone();
                if let Some(document) = &self.document {
                    let mut next = document.next(Nonce::of(n as u128), date(self.now));
                    next.holders.retain(|h| h.node != gone);
                    next.unavailable.retain(|u| u.node != gone);
                    next.forgotten.push(Forgotten {
                        node: gone,
                        by: "operator".to_owned(),
                        at: date(self.now),
                    });
                    self.document = Some(next);
                    self.tag += 1;
                }
            }
        }
    }

    fn wake(&mut self, n: usize, epoch: u64, answer: Option<Answer>) {
        if !self.nodes[n].up || self.nodes[n].epoch != epoch {
            return;
        }
        let mut node = self.nodes[n].clone();
        node.step(n, self, answer);
        self.nodes[n] = node;
    }

    fn check(&self) -> Result<(), String> {
        let most = self.setting.max_unavailable as usize;
        let moving: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].is_in_transition() && !self.forgotten.contains(n))
            .collect();
        if moving.len() > most {
            return Err(format!(
                "at {}: nodes {moving:?} are in transition, {most} may be",
                self.now
            ));
        }
        for (release, nodes) in &self.reached {
            let bad: Vec<&usize> = nodes
                .iter()
                .filter(|n| self.is_bad(*release, **n) && !self.forgotten.contains(n))
                .collect();
            if bad.len() > most {
                return Err(format!(
                    "at {}: bad release {release} reached {bad:?}",
                    self.now
                ));
            }
        }
        Ok(())
    }

    fn has_ended(&self) -> bool {
        let all_published = self.published == self.setting.releases.len();
        if !all_published || self.now < self.setting.faults_until {
            return false;
        }
        if self.forgotten.len() == self.nodes.len() {
            return true;
        }
        let newest = self.published as u64 + 1;
        let Some(document) = &self.document else {
            return false;
        };
        let mut alive = (0..self.nodes.len()).filter(|n| !self.forgotten.contains(n));
        let quiet = document.holders.is_empty()
            && document.unavailable.is_empty()
            && alive.clone().all(|n| self.nodes[n].slot.is_none());
        let halted = document.is_halted(number(newest));
        quiet
            && (halted
                || (alive.all(|n| self.nodes[n].on_disk == newest)
                    && document.good == Some(number(newest))))
    }

    pub(crate) fn pause(&mut self, from: Time, to: Time) -> Time {
        self.now + self.rng.random_range(from..to)
    }
}
