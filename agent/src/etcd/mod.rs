//! etcd as the agent sees it: its JSON gateway.

pub mod client;
mod client_error;
mod snapshot;

pub use client::{EtcdClient, EtcdIdentity, Health, Member, MemberStatus};
pub use client_error::{EtcdError, EtcdErrorKind};
pub use snapshot::SnapshotStream;
