//! What the benchmarks share: a place to publish from, a node process with meters on it, TLS in front of the store.

pub mod node;
pub mod report;
pub mod stand;
pub mod tls_front;

use std::env;
use std::str::FromStr;

/// A knob of a benchmark: the environment variable `name`, or `default` where it is not set or makes no sense.
#[must_use]
pub fn knob<T: FromStr>(name: &str, default: T) -> T {
    env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}
