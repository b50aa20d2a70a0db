//! etcd as the agent sees it: its JSON gateway, and the member's place on the machine.

pub mod client;
mod client_error;
mod place;
mod snapshot;

pub use client::{EtcdClient, EtcdIdentity, Health, Member, MemberStatus};
pub use client_error::{EtcdError, EtcdErrorKind};
pub use place::{EtcdPlace, PlaceError};
pub use snapshot::SnapshotStream;
