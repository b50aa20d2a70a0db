//! platform-agent: keeps a node's manifests and secrets at the published release.
//!
//! - [`engine`]: the loop, from the poll to the report, over I/O that it is given;
//! - [`disk`]: all that is done to the node's files: plan, apply, verify, repair, under one lock;
//! - [`artifacts`], [`units`], [`kubelet`]: what else a release brings to the host: binaries, unit restarts, a certificate;
//! - [`update`]: how the agent replaces itself;
//! - [`rollout`]: the slot that a node holds in a rollout, and its probes;
//! - [`etcd`]: etcd through its JSON gateway;
//! - [`config`], [`facts`], [`parts`]: the configuration file, and the engine's parts made from it;
//! - [`cli`], [`commands`]: the command line and its verbs;
//! - [`drift`], [`hold`], [`clock`]: what wakes, stops and dates the loop;
//! - [`status`], [`trouble`], [`metrics`], [`http`], [`systemd`]: what others are told.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "what a test writes need not survive a power cut"
    )
)]

pub mod artifacts;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod disk;
pub mod drift;
pub mod engine;
pub mod etcd;
pub mod facts;
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod hold;
pub mod http;
pub mod kubelet;
mod memory;
pub mod metrics;
pub mod parts;
pub mod rewrite;
pub mod rollout;
pub mod starting;
pub mod status;
pub mod systemd;
pub mod tls;
pub mod trouble;
pub mod units;
pub mod update;
