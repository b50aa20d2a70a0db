//! How long a rollout takes in virtual time, and how many requests it costs a node: the simulation of the tests, without
//! faults.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::large_enum_variant,
    clippy::disallowed_methods,
    dead_code,
    reason = "shares the world of the tests, and uses a part of it"
)]

#[path = "../tests/rollout/node.rs"]
mod node;
#[path = "../tests/rollout/world.rs"]
mod world;

use shared::bundle::TimeSpan;

use world::{Bad, Setting, World};

/// When the release is published, in virtual milliseconds.
const PUBLISHED: u64 = 20_000;
const TWO_DAYS: u64 = 48 * 3_600_000;

fn main() {
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
            slow: false,
        };
        let mut world = World::new(1, setting);
        world.run(TWO_DAYS).unwrap();
        let seconds = (world.now - PUBLISHED) / 1000;
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
