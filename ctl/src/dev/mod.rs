//! The embedded default: a store in the process and agents as nodes, with no cloud account.

pub mod credentials;
pub mod demo;
pub mod nodes;
pub(crate) mod signals;
pub mod store;
pub mod up;
