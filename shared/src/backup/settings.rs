//! What a release says about backups.

use serde::{Deserialize, Serialize};

use crate::bundle::TimeSpan;

/// The file of a release that says it.
pub const SETTINGS_FILE: &str = "agent/etcd-backup.json";

/// How etcd is backed up: in the signed release, so a node can be told nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupSettings {
    /// The cluster's generation, under which its backups are.
    pub generation: u32,
    /// From one backup to the next.
    pub period: TimeSpan,
    /// Every backup is kept for so long.
    pub keep_all: TimeSpan,
    /// Of each day, the last one is kept for so long.
    pub keep_daily: TimeSpan,
    /// The age recipients: the group's own, and the operators' offline ones.
    pub recipients: Vec<String>,
    /// The names of the keys of encryption at rest, the one that writes first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encryption_keys: Vec<String>,
}

// === impl BackupSettings ===

impl BackupSettings {
    /// Every hour, for those recipients; every one of the last day is kept, and one a day for 30 days.
    #[must_use]
    pub fn usual(generation: u32, recipients: Vec<String>, encryption_keys: Vec<String>) -> Self {
        let hours = |hours: u64| TimeSpan::from_secs(hours * 3600);
        Self {
            generation,
            period: hours(1),
            keep_all: hours(24),
            keep_daily: hours(24 * 30),
            recipients,
            encryption_keys,
        }
    }

    /// As the file of a release.
    ///
    /// # Errors
    /// serde's own, never for this type.
    pub fn to_file(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// From the file of a release.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn from_file(bytes: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if read.recipients.is_empty() {
            return Err("it names nobody who could open a backup".to_owned());
        }
        if read.period.get().as_secs() == 0 {
            return Err("its period is shorter than a second".to_owned());
        }
        for recipient in &read.recipients {
            if recipient.parse::<age::x25519::Recipient>().is_err() {
                return Err(format!("{recipient:?} is no age recipient"));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_without_somebody_who_can_open_are_none() {
        let identity = crate::bundle::new_identity();
        let recipient = super::super::recipient_of(&identity).unwrap();
        let good = BackupSettings::usual(1, vec![recipient], vec!["k".to_owned()]);
        let read = BackupSettings::from_file(&good.to_file().unwrap());
        assert_eq!(read, Ok(good.clone()));
        for recipients in [vec![], vec!["age1nonsense".to_owned()]] {
            let bad = BackupSettings {
                recipients,
                ..good.clone()
            };
            assert!(BackupSettings::from_file(&bad.to_file().unwrap()).is_err());
        }
    }
}
