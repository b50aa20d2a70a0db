//! The decisions of a rollout: by example, and in a simulation of whole groups.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::large_enum_variant,
    reason = "a simulation that is wrong is to end at once"
)]

mod decisions;
mod node;
mod simulation;
mod world;
