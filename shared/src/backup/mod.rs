//! Backups of etcd (§10): what is written about one, when one is due, which are kept, and how one is sealed.
//!
//! A backup is a snapshot that etcd made, encrypted with age to [`BackupSettings::recipients`], cut into parts of
//! [`PART_BYTES`], each a create-only object, and then a [`BackupManifest`]: what has no manifest is no backup. All parts
//! together are one age file.

mod manifest;
mod name;
mod read;
mod restore;
mod schedule;
mod seal;
mod settings;

pub use manifest::{BACKUP_FORMAT, BackupManifest, ManifestProblem, PART_BYTES, PARTS};
pub use name::{BackupName, InvalidBackupName};
pub use read::{ManifestError, read_manifest};
pub use restore::{
    BUMP_REVISION, OrderProblem, RESTORE_FILE, RESTORE_IDENTITY_FILE, RestoreOrder, RestoreSeen,
    RestoreStep, restore_step,
};
pub use schedule::{Due, Standing, due, kept, kept_until, superfluous};
pub use seal::{Opener, Sealer, open_file, recipient_of};
pub use settings::{BackupSettings, SETTINGS_FILE};
