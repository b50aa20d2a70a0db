//! etcd as the agent sees it: its JSON gateway, the member's place on the machine, backups, and data made from one.

mod answers;
mod backup;
pub mod client;
mod client_error;
mod identity;
mod material;
mod operate;
mod place;
mod range;
mod restore;
mod restored;
mod snapshot;
mod transport;

pub use answers::{Health, Member, MemberStatus};
pub use backup::{BackupContext, BackupError, is_absent, newest_backup};
pub use client::EtcdClient;
pub use client_error::{EtcdError, EtcdErrorKind};
pub use identity::EtcdIdentity;
pub use material::Material;
pub use operate::{DefragmentError, MemberLook, MemberView, defragment, look};
pub use place::{EtcdPlace, PlaceError, ToDo};
pub use range::{Entry, Page};
pub use restore::{Restore, RestoreAs, RestoreError};
pub use restored::KvDigest;
pub use snapshot::SnapshotStream;
