//! etcd as the operator's side sees it: what releases tell agents about backups, and what the bucket holds.

mod backups;
mod files;
mod restore;
mod state;

pub use backups::{Backup, BackupView, list};
pub use files::{agent_files, runs_etcd};
pub use restore::{begin_anew, choose, finish, order, reform_obstacles, verify_parts};
pub use state::{BackupState, LATE_AFTER, state_of};
