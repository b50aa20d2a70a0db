//! agent

pub mod disk;
