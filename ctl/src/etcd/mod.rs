//! etcd as the operator's side sees it: what releases tell agents about backups, and what the bucket holds.

mod backups;
mod evidence;
mod files;
mod guard;
mod obstacles;
mod restore;
mod state;

pub use backups::{Backup, BackupView, list};
pub use evidence::Gathered;
pub use files::{agent_files, runs_etcd};
pub use guard::{BACKUP_LIMIT, Evidence, FenceFound, Leaving, Machine, once};
pub use obstacles::{Known, reform_obstacles, restore_obstacles, unfinished};
pub use restore::{begin_anew, choose, finish, lost_keys, order, verify_parts};
pub use state::{BackupState, LATE_AFTER, state_of};
