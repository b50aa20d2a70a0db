//! Thousands of schedules of whole groups. The invariants are checked after every event (see [`World`]).

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shared::bundle::TimeSpan;

use crate::world::{Bad, Setting, World};

const HOUR: u64 = 3_600_000;

/// How long the work of nodes takes.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// As a deadline promises: going back has a quarter of it.
    InTime,
    /// As long as it takes, past the deadline too.
    Slow,
}

/// What a seed makes of a group of `nodes`.
fn setting(seed: u64, nodes: u32, pace: Pace) -> Setting {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let bad = |rng: &mut StdRng| match rng.random_range(0..4) {
        0 => Bad::Everywhere,
        1 => Bad::On(rng.random_range(10..60)),
        _ => Bad::Nowhere,
    };
    let releases = (0..rng.random_range(1..4)).map(|_| bad(&mut rng)).collect();
    let mut setting = Setting {
        nodes,
        zones: rng.random_range(1..4),
        max_unavailable: match nodes {
            0..=3 => 1,
            _ => rng.random_range(1..=nodes / 5 + 1),
        },
        releases,
        between: rng.random_range(1_000..1_200_000),
        faults_until: rng.random_range(0..2) * rng.random_range(600_000..2 * HOUR),
        deadline: TimeSpan::from_secs(rng.random_range(20..600)),
        work: rng.random_range(500..20_000),
        slow: false,
    };
    match pace {
        Pace::InTime => {
            let quarter = setting.deadline.get() / 4;
            setting.work = setting.work.min(quarter.as_millis().try_into().unwrap());
        }
        Pace::Slow => {
            setting.slow = true;
            // Up to three deadlines for writing and as much for probing, where slots are cleared after two.
            let deadline: u64 = setting.deadline.get().as_millis().try_into().unwrap();
            setting.work = rng.random_range(setting.work..3 * deadline);
        }
    }
    setting
}

fn run(seed: u64, nodes: u32, pace: Pace) -> Result<World, String> {
    let setting = setting(seed, nodes, pace);
    let limit = setting.faults_until + setting.between * 4 + 12 * HOUR;
    let mut world = World::new(seed, setting.clone());
    world
        .run(limit)
        .map_err(|e| format!("seed {seed}, {nodes} nodes, {pace:?}: {e}\n{setting:?}"))?;
    Ok(world)
}

/// Every seed of the range, each time.
fn schedules(nodes: u32, seeds: std::ops::Range<u64>, pace: Pace) {
    let failures: Vec<String> = seeds
        .filter_map(|seed| run(seed, nodes, pace).err())
        .collect();
    let first = failures.first();
    assert!(
        first.is_none(),
        "{} failed; {}",
        failures.len(),
        first.unwrap()
    );
}

#[test]
fn three_nodes() {
    schedules(3, 0..2000, Pace::InTime);
}

#[test]
fn five_nodes() {
    schedules(5, 0..800, Pace::InTime);
}

#[test]
fn fifty_nodes() {
    schedules(50, 0..30, Pace::InTime);
}

#[test]
fn nodes_slower_than_their_deadline() {
    schedules(3, 0..700, Pace::Slow);
    schedules(5, 0..300, Pace::Slow);
    schedules(50, 0..6, Pace::Slow);
}

/// Nodes, seed, pace: each showed a fault once, in the product or in the model, and is played for good whatever the ranges above are.
const ONCE_FAILED: [(u32, u64, Pace); 2] = [
    // A node that needs longer than twice its deadline: its slot is cleared while it is at it.
    (5, 473, Pace::Slow),
    (5, 473, Pace::InTime),
];

#[test]
fn seeds_that_failed_once() {
    let failures = ONCE_FAILED
        .iter()
        .filter_map(|&(nodes, seed, pace)| run(seed, nodes, pace).err());
    let failures: Vec<String> = failures.collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
