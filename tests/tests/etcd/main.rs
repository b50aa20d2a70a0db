//! etcd of real processes, formed, healed and left alone by real agents: an embedded bucket, the platform's certificates,
//! and the model of kubelet starting what the static pod names. Loopback, ports of its own for each node.
//!
//! The etcd is Debian's 3.5; the product ships 3.6.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a helper of tests may fail the test"
)]

mod authority;
mod forms;
mod heals;
mod reforms;
mod restores;
mod rotates;
mod spaces;
mod stage;
mod updates;
mod writer;
