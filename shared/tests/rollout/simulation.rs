//! Thousands of schedules of whole groups. The invariants are checked after every event (see [`World`]).

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shared::bundle::TimeSpan;

use crate::world::{Bad, Setting, World};

const HOUR: u64 = 3_600_000;

/// What a seed makes of a group of `nodes`.
fn setting(seed: u64, nodes: u32) -> Setting {
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
    };
    // Going back has a quarter of the deadline. A node that needs more is cleared meanwhile, and counts as unavailable.
    let quarter = setting.deadline.get() / 4;
    setting.work = setting.work.min(quarter.as_millis().try_into().unwrap());
    setting
}

fn run(seed: u64, nodes: u32) -> Result<World, String> {
    let setting = setting(seed, nodes);
    let limit = setting.faults_until + setting.between * 4 + 12 * HOUR;
    let mut world = World::new(seed, setting.clone());
    world
        .run(limit)
        .map_err(|e| format!("seed {seed}, {nodes} nodes: {e}\n{setting:?}"))?;
    Ok(world)
}

/// Every seed of the range, each time: one that failed once stays in it for good.
fn schedules(nodes: u32, seeds: std::ops::Range<u64>) {
    let failures: Vec<String> = seeds.filter_map(|seed| run(seed, nodes).err()).collect();
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
    schedules(3, 0..2000);
}

#[test]
fn five_nodes() {
    schedules(5, 0..800);
}

#[test]
fn fifty_nodes() {
    schedules(50, 0..30);
}
