//! A node of the simulation: what the agent does around the decisions, without files.

use std::time::Duration;

use jiff::Timestamp;
use shared::documents::{Nonce, RolloutDocument};
use shared::names::NodeId;
use shared::rollout::{
    Admission, Ending, GroupView, NodeFacts, NodeSeen, Resume, Stage, Stamp, Stock, Window, Wish,
    admit, conclude, give_back, needs_view, record_failure, resume,
};

use crate::world::{Answer, Event, Op, Time, World, date, number};

/// What it waits for.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Idle,
    /// For the published release.
    Polling,
    /// For the document, to ask for a slot; the local time when it was asked for.
    Asking(Duration),
    /// For the group, before the first slot of a rollout.
    TakingStock(Duration, Option<RolloutDocument>, Option<u64>, Timestamp),
    Taking,
    /// For a write whose outcome does not matter.
    Writing,
    Applying,
    Probing,
    /// For the document, to note the failure; then for that write.
    Noting,
    Noted,
    Reverting,
    /// Giving the slot back: the status, the document, the view, the write.
    Reporting,
    Returning,
    Viewing(Option<RolloutDocument>, Option<u64>, Timestamp),
    Returned,
    /// The hourly look.
    Looking,
    LookingAround(RolloutDocument, Option<u64>, Timestamp),
    Reported,
}

/// What survives the process.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) release: u64,
    pub(crate) previous: u64,
    pub(crate) nonce: Nonce,
    pub(crate) started: Duration,
    pub(crate) stage: Stage,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) zone: String,
    pub(crate) rate: f64,
    pub(crate) up: bool,
    pub(crate) epoch: u64,
    pub(crate) cut_off: Vec<(Time, Time)>,
    pub(crate) state: State,
    pub(crate) on_disk: u64,
    pub(crate) slot: Option<Slot>,
    wanted: u64,
    reported: (u64, Time),
    looked: Time,
}

impl Node {
    pub(crate) fn new(n: u32, zone: String, rate: f64) -> Self {
        Self {
            id: format!("i-{n}").parse().unwrap(),
            zone,
            rate,
            up: true,
            epoch: 0,
            cut_off: Vec::new(),
            state: State::Idle,
            on_disk: 1,
            slot: None,
            wanted: 1,
            reported: (1, 0),
            looked: 0,
        }
    }

    /// From the first forward write to the end of it.
    pub(crate) fn is_in_transition(&self) -> bool {
        let under_way = [Stage::Applying, Stage::Probing, Stage::Reverting];
        self.slot
            .as_ref()
            .is_some_and(|s| under_way.contains(&s.stage))
    }

    pub(crate) fn seen(&self, now: Time) -> NodeSeen {
        NodeSeen {
            node: self.id.clone(),
            zone: Some(self.zone.clone()),
            release: Some(number(self.on_disk)),
            written_at: date(now),
            held: false,
        }
    }

    fn facts(&self) -> NodeFacts<'_> {
        NodeFacts {
            node: &self.id,
            zone: Some(&self.zone),
            on_disk: Some(number(self.on_disk)),
        }
    }

    /// Its own clock, which runs at its own rate.
    fn clock(&self, now: Time) -> Duration {
        Duration::from_millis(now).mul_f64(self.rate)
    }

    fn again(&mut self, n: usize, world: &mut World, from: Time, to: Time) {
        self.state = State::Idle;
        let at = world.pause(from, to);
        world.at(at, Event::Tick(n, self.epoch));
    }

    fn work(&mut self, n: usize, world: &mut World, state: State) {
        self.state = state;
        let most = world.setting.work;
        let at = world.pause(most / 10, most);
        world.at(at, Event::Tick(n, self.epoch));
    }

    fn ask(&mut self, n: usize, world: &mut World, state: State, op: Op) {
        self.state = state;
        world.request(n, op);
    }

    pub(crate) fn step(&mut self, n: usize, world: &mut World, answer: Option<Answer>) {
        let state = std::mem::replace(&mut self.state, State::Idle);
        match (state, answer) {
            (State::Idle, _) => self.begin(n, world),
            (State::Polling, Some(Answer::Published(count))) => {
                self.wanted = count as u64 + 1;
                if self.wanted > self.on_disk {
                    return self.look(n, world);
                }
                if world.now - self.looked > 3_600_000 {
                    self.looked = world.now;
                    return self.ask(n, world, State::Looking, Op::Document);
                }
                self.again(n, world, 9_000, 11_000);
            }
            (State::Asking(asked), Some(Answer::Document(document, tag, now))) => {
                self.decide(n, world, asked, (document, tag, now), Stock::NotTaken);
            }
            (State::TakingStock(asked, document, tag, now), Some(Answer::View(view))) => {
                self.decide(n, world, asked, (document, tag, now), Stock::Seen(&view));
            }
            (State::Taking, Some(Answer::Done)) => {
                self.stage(Stage::Granted);
                self.begin(n, world);
            }
            (State::Taking, Some(Answer::Conflict)) => {
                self.slot = None;
                self.again(n, world, 100, 3_000);
            }
            (State::Applying, _) => {
                let Some(slot) = &self.slot else { return };
                self.on_disk = slot.release;
                self.stage(Stage::Probing);
                self.work(n, world, State::Probing);
            }
            (State::Probing, _) => self.probed(n, world),
            (State::Noting, Some(Answer::Document(Some(document), tag, now))) => {
                let stamp = Stamp {
                    nonce: world.nonce(),
                    now,
                };
                let release = number(self.on_disk);
                match record_failure(&document, self.facts(), release, "probe", &[], stamp) {
                    Some(next) => {
                        let put = Op::Put(Box::new(next), tag);
                        self.ask(n, world, State::Noted, put);
                    }
                    None => self.work(n, world, State::Reverting),
                }
            }
            (State::Noting | State::Noted, _) => self.work(n, world, State::Reverting),
            (State::Reverting, _) => {
                let Some(slot) = &self.slot else { return };
                self.on_disk = slot.previous;
                self.stage(Stage::Reverted);
                self.begin(n, world);
            }
            (State::Reporting, Some(Answer::Done)) => {
                self.reported = (self.on_disk, world.now);
                self.ask(n, world, State::Returning, Op::Document);
            }
            (State::Returning, Some(Answer::Document(Some(document), tag, now))) => {
                if needs_view(&document, &self.id) {
                    self.ask(n, world, State::Viewing(Some(document), tag, now), Op::View);
                } else {
                    self.returns(n, world, &document, tag, now, None);
                }
            }
            (State::Viewing(Some(document), tag, now), Some(Answer::View(view))) => {
                self.returns(n, world, &document, tag, now, Some(&view));
            }
            (State::Returned, Some(Answer::Done)) => {
                self.slot = None;
                self.again(n, world, 100, 1_000);
            }
            (State::Looking, Some(Answer::Document(Some(document), tag, now))) => {
                self.ask(n, world, State::LookingAround(document, tag, now), Op::View);
            }
            (State::LookingAround(document, tag, now), Some(Answer::View(view))) => {
                let stamp = Stamp {
                    nonce: world.nonce(),
                    now,
                };
                match conclude(&document, self.facts(), &view, stamp) {
                    Some(next) => self.ask(n, world, State::Writing, Op::Put(Box::new(next), tag)),
                    None => self.again(n, world, 9_000, 11_000),
                }
            }
            (State::Reported, answer) => {
                if matches!(answer, Some(Answer::Done)) {
                    self.reported = (self.on_disk, world.now);
                }
                self.ask(n, world, State::Polling, Op::Published);
            }
            (State::Writing, _) => self.again(n, world, 9_000, 11_000),
            // Anything else is a timeout or a refusal: again soon.
            _ => self.again(n, world, 500, 5_000),
        }
    }

    fn stage(&mut self, stage: Stage) {
        if let Some(slot) = &mut self.slot {
            slot.stage = stage;
        }
    }

    /// A new pass: the slot first.
    fn begin(&mut self, n: usize, world: &mut World) {
        let Some(slot) = self.slot.clone() else {
            let (release, at) = self.reported;
            if release != self.on_disk || world.now - at > 300_000 {
                let seen = self.seen(world.now);
                return self.ask(n, world, State::Reported, Op::Status(seen));
            }
            return self.ask(n, world, State::Polling, Op::Published);
        };
        let elapsed = self.clock(world.now).saturating_sub(slot.started);
        let window = Window::after(elapsed, world.setting.deadline);
        match resume(slot.stage, window) {
            Resume::Look => self.look(n, world),
            Resume::Adopt => {
                world.reached.entry(slot.release).or_default().insert(n);
                self.stage(Stage::Applying);
                self.work(n, world, State::Applying);
            }
            Resume::FinishAndProbe => self.work(n, world, State::Applying),
            Resume::Revert => {
                self.stage(Stage::Reverting);
                self.work(n, world, State::Reverting);
            }
            Resume::GiveBackUnused | Resume::GiveBack => {
                let seen = self.seen(world.now);
                self.ask(n, world, State::Reporting, Op::Status(seen));
            }
        }
    }

    fn look(&mut self, n: usize, world: &mut World) {
        let asked = self.clock(world.now);
        self.ask(n, world, State::Asking(asked), Op::Document);
    }

    fn decide(
        &mut self,
        n: usize,
        world: &mut World,
        asked: Duration,
        read: (Option<RolloutDocument>, Option<u64>, Timestamp),
        stock: Stock<'_>,
    ) {
        let (found, tag, now) = read;
        if self.wanted <= self.on_disk {
            // It asked before it was stopped, and has been told of nothing newer since.
            self.wanted = self.slot.as_ref().map_or(self.wanted, |s| s.release);
        }
        let document = found.clone().unwrap_or_else(RolloutDocument::empty);
        let policy = world.policy();
        let wish = Wish {
            release: number(self.wanted),
            policy: &policy,
        };
        let stamp = Stamp {
            nonce: world.nonce(),
            now,
        };
        let known = self.slot.as_ref().map(|s| s.nonce.clone());
        match admit(&document, self.facts(), wish, known.as_ref(), stock, stamp) {
            Admission::TakeStock => {
                let state = State::TakingStock(asked, found, tag, now);
                self.ask(n, world, state, Op::View);
            }
            Admission::Holds => {
                self.stage(Stage::Granted);
                self.begin(n, world);
            }
            Admission::Take(next) => {
                self.slot = Some(Slot {
                    release: self.wanted,
                    previous: self.on_disk,
                    nonce: next.nonce.clone(),
                    started: asked,
                    stage: Stage::Asking,
                });
                self.ask(n, world, State::Taking, Op::Put(next, tag));
            }
            Admission::Wait(_, next) => {
                self.slot = None;
                match next {
                    Some(next) => self.ask(n, world, State::Writing, Op::Put(next, tag)),
                    None => self.again(n, world, 9_000, 11_000),
                }
            }
        }
    }

    fn returns(
        &mut self,
        n: usize,
        world: &mut World,
        document: &RolloutDocument,
        tag: Option<u64>,
        now: Timestamp,
        view: Option<&GroupView>,
    ) {
        let Some(slot) = self.slot.clone() else {
            return;
        };
        let ending = match slot.stage {
            Stage::Committed => Ending::Committed,
            Stage::Reverted => Ending::Failed {
                why: "probe".to_owned(),
                lines: Vec::new(),
            },
            _ => Ending::Unused,
        };
        let stamp = Stamp {
            nonce: world.nonce(),
            now,
        };
        let release = number(slot.release);
        match give_back(document, self.facts(), release, &ending, view, stamp) {
            Some(next) => self.ask(n, world, State::Returned, Op::Put(Box::new(next), tag)),
            None => {
                self.slot = None;
                self.again(n, world, 100, 1_000);
            }
        }
    }

    fn probed(&mut self, n: usize, world: &mut World) {
        let Some(slot) = self.slot.clone() else {
            return;
        };
        let elapsed = self.clock(world.now).saturating_sub(slot.started);
        let window = Window::after(elapsed, world.setting.deadline);
        let bad = world.is_bad(slot.release, n);
        if !bad && window < Window::Back {
            self.stage(Stage::Committed);
            return self.begin(n, world);
        }
        self.stage(Stage::Reverting);
        match bad {
            true => self.ask(n, world, State::Noting, Op::Document),
            false => self.work(n, world, State::Reverting),
        }
    }
}
