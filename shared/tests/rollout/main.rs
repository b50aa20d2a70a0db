//! The decisions of a rollout: by example, and in a simulation of whole groups.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::large_enum_variant,
    clippy::disallowed_methods,
    reason = "a helper of tests may fail the test"
)]

mod decisions;
mod node;
mod simulation;
mod world;
