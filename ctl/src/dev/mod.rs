//! The embedded default: a store in the process and agents as nodes, with no cloud account.

pub mod store;
