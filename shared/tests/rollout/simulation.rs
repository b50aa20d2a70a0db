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
    Setting {
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
    }
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

/// Seeds that once broke an invariant.
#[test]
fn seeds_that_once_failed() {
    for (seed, nodes) in FAILED_ONCE {
        run(seed, nodes).unwrap();
    }
}

const FAILED_ONCE: [(u64, u32); 0] = [];

/// The figures in docs/benchmarks.md: `cargo nextest run --workspace --test rollout --run-ignored only --no-capture`.
#[test]
#[ignore = "prints figures"]
#[allow(clippy::print_stdout)]
fn figures() {
    for (nodes, max_unavailable) in [(3, 1), (100, 10), (1000, 50)] {
        let setting = Setting {
            nodes,
            zones: 3,
            max_unavailable,
            releases: vec![Bad::Nowhere],
            between: 1000,
            faults_until: 0,
            deadline: TimeSpan::from_secs(600),
            work: 2_000,
        };
        let mut world = World::new(1, setting);
        world.run(48 * HOUR).unwrap();
        let seconds = (world.now - 20_000) / 1000;
        let each = |n: u64| n / u64::from(nodes);
        let per_node: Vec<String> = world
            .requests
            .iter()
            .map(|(kind, count)| format!("{kind} {}", each(*count)))
            .collect();
        println!(
            "{nodes} nodes, {max_unavailable} at once: {seconds} s; a node: {}",
            per_node.join(", ")
        );
    }
}
