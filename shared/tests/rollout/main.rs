//! The decisions of a rollout: by example, and in a simulation of whole groups.

mod decisions;
mod node;
mod simulation;
mod world;
