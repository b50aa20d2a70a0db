//! etcd as the agent sees it: its JSON gateway, the member's place on the machine, backups, and data made from one.

mod backup;
pub mod client;
mod client_error;
mod material;
mod operate;
mod place;
mod range;
mod restore;
mod snapshot;

pub use backup::{BackupContext, BackupError, is_absent, newest_backup};
pub use client::{EtcdClient, EtcdIdentity, Health, Member, MemberStatus};
pub use client_error::{EtcdError, EtcdErrorKind};
pub use material::Material;
pub use operate::{DefragmentError, MemberLook, MemberView, defragment, look};
pub use place::{EtcdPlace, PlaceError};
pub use range::{Entry, Page};
pub use restore::{Restore, RestoreAs, RestoreError};
pub use snapshot::SnapshotStream;
