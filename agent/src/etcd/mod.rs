//! etcd as the agent sees it: its JSON gateway, and backups of it.

mod backup;
pub mod client;
mod client_error;
mod material;
mod operate;
mod restore;
mod snapshot;

pub use backup::{BackupContext, BackupError, is_absent, newest_backup};
pub use client::{EtcdClient, EtcdIdentity, Health, Member, MemberStatus};
pub use client_error::{EtcdError, EtcdErrorKind};
pub use material::Material;
pub use operate::{DefragmentError, MemberLook, MemberView, defragment, look};
pub use restore::{Restore, RestoreAs, RestoreError};
pub use snapshot::SnapshotStream;
