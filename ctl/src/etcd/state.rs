//! Whether the newest backup is young enough to rely on.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use shared::backup::BackupName;

use crate::output;

/// A backup is taken every hour; after three that did not come, somebody should look.
pub const LATE_AFTER: SignedDuration = SignedDuration::from_hours(4);

/// What there is to rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupState {
    /// The newest good backup is young.
    Fresh,
    /// It is not.
    Late,
    /// There is none.
    None,
}

/// Judges the newest good backup.
#[must_use]
pub fn state_of(newest: Option<Timestamp>, now: Timestamp) -> BackupState {
    match newest {
        None => BackupState::None,
        Some(at) if now.duration_since(at) > LATE_AFTER => BackupState::Late,
        Some(_) => BackupState::Fresh,
    }
}

// === impl BackupState ===

impl BackupState {
    /// Whether it can be relied on.
    #[must_use]
    pub fn is_fresh(self) -> bool {
        self == Self::Fresh
    }

    /// One line.
    #[must_use]
    pub fn says(self, newest: Option<&BackupName>, now: Timestamp) -> String {
        let Some(name) = newest else {
            return "no backup of etcd that could be restored".to_owned();
        };
        let seconds = now.duration_since(name.at()).as_secs().max(0);
        let age = output::age(Duration::from_secs(seconds.unsigned_abs()));
        match self {
            Self::Fresh => format!("the newest good one is {name}, {age} old"),
            _ => format!("the newest good one is {name}, {age} OLD"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_absent_are_told_apart() {
        let name: BackupName = "20261123T024942Z-7".parse().unwrap();
        let at = |hours: i64| name.at() + SignedDuration::from_hours(hours);
        assert_eq!(state_of(Some(name.at()), at(4)), BackupState::Fresh);
        assert_eq!(state_of(Some(name.at()), at(5)), BackupState::Late);
        assert_eq!(state_of(None, at(0)), BackupState::None);
        assert!(
            BackupState::Late
                .says(Some(&name), at(5))
                .contains("5h00m OLD")
        );
        assert!(!BackupState::Late.is_fresh() && !BackupState::None.is_fresh());
    }
}
