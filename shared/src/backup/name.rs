//! The name of a backup: when it was begun, and the revision that it holds at least.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::fmt::strtime;
use serde::{Deserialize, Serialize};

const TIME: &str = "%Y%m%dT%H%M%SZ";

/// `20261123T024942Z-4711`: sorted by name they are sorted by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupName {
    at: Timestamp,
    revision: u64,
}

/// Text that is no name of a backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a backup, which are like 20261123T024942Z-4711")]
pub struct InvalidBackupName(String);

// === impl BackupName ===

impl BackupName {
    /// Of a backup that is begun at `at`, when the member had applied `revision`.
    #[must_use]
    pub fn new(at: Timestamp, revision: u64) -> Self {
        Self {
            at: Timestamp::from_second(at.as_second()).unwrap_or(at),
            revision,
        }
    }

    /// When it was begun, in whole seconds.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The revision that it holds at least.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = strtime::format(TIME, self.at).map_err(|_| fmt::Error)?;
        write!(f, "{at}-{}", self.revision)
    }
}

impl FromStr for BackupName {
    type Err = InvalidBackupName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || InvalidBackupName(text.chars().take(80).collect());
        let (at, revision) = text.split_once('-').ok_or_else(bad)?;
        let parsed = strtime::parse(TIME, at).and_then(|t| t.to_datetime());
        let at = parsed.and_then(|t| t.to_zoned(jiff::tz::TimeZone::UTC));
        let name = Self {
            at: at.map_err(|_| bad())?.timestamp(),
            revision: revision.parse().map_err(|_| bad())?,
        };
        // One spelling only.
        match name.to_string() == text {
            true => Ok(name),
            false => Err(bad()),
        }
    }
}

impl TryFrom<String> for BackupName {
    type Error = InvalidBackupName;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BackupName> for String {
    fn from(name: BackupName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_that_sorts_by_time() {
        let at: Timestamp = "2026-11-23T02:49:42.75Z".parse().unwrap();
        let name = BackupName::new(at, 4711);
        assert_eq!(name.to_string(), "20261123T024942Z-4711");
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        let later: BackupName = "20261123T025000Z-3".parse().unwrap();
        assert!(name < later && name.to_string() < later.to_string());
        for bad in [
            "",
            "20261123T024942Z",
            "20261123T024942Z-",
            "20261123T024942Z-007",
            "20261123T024942Z-+7",
            "20261323T024942Z-7",
            "20261123t024942Z-7",
            "20261123T024942Z-7/../x",
            " 20261123T024942Z-7",
        ] {
            assert!(bad.parse::<BackupName>().is_err(), "{bad}");
        }
    }
}
