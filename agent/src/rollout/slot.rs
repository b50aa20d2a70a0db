//! The slot that a node holds, or may hold, in the state directory: a restarted agent goes on or goes back.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::bundle::RolloutPolicy;
use shared::digest::Sha256Digest;
use shared::documents::{Nonce, Transition};
use shared::durable::{self, Attributes, DurableError};
use shared::names::ReleaseNumber;
use shared::rollout::{Stage, Window};

use crate::disk::Committed;

/// A moment on the clock that counts suspended time, and that begins again at each boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootTime {
    /// Which boot; empty where the system does not say.
    pub boot: String,
    /// Milliseconds since then.
    pub milliseconds: u64,
}

/// A slot, from before the first write that asks for it to after the last one that gives it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The release that it is for.
    pub release: ReleaseNumber,
    /// The digest of its bundle.
    #[serde(default)]
    pub bundle: Option<Sha256Digest>,
    /// The release to go back to.
    pub previous: Committed,
    /// Of the write that takes it.
    pub nonce: Nonce,
    /// When it began, by the store's clock.
    pub since: Timestamp,
    /// The same, on the clock that counts suspended time.
    pub started: BootTime,
    /// The same, by the machine's time of day: all there is after a reboot.
    pub started_at: Timestamp,
    /// The policy of the release.
    pub policy: RolloutPolicy,
    /// How far it has come.
    pub stage: Stage,
    /// Probes that failed before anything was changed.
    #[serde(default)]
    pub failed_before: BTreeSet<String>,
    /// Why the node goes back.
    #[serde(default)]
    pub why: Option<String>,
    /// What the probe saw last.
    #[serde(default)]
    pub lines: Vec<String>,
    /// The release's own copy, once it was on the disk: the files that its probes name and the release before does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried: Option<Committed>,
    /// The failure is in the rollout document: said once, so that a retry is not undone.
    #[serde(default)]
    pub noted: bool,
    /// The slot of a release that this node could not go back from, until the one that may mend it is begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mends: Option<Box<Slot>>,
}

/// Where the slot is kept.
#[derive(Clone, Debug)]
pub struct SlotFile {
    path: PathBuf,
}

/// A release that failed on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedHere {
    /// Which.
    pub release: ReleaseNumber,
    /// When its slot began, by the store's clock: a retry that was ordered later is one.
    pub since: Timestamp,
    /// Why, in one line.
    pub why: String,
}

fn read_text(path: &Path) -> Result<Option<String>, SlotError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(SlotError::Memory {
            path: path.to_owned(),
        }),
        Err(source) => Err(SlotError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The slot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It is damaged: what the node was doing is not known.
    #[error("{path} is damaged: put the node out of service, then remove the file")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// What is remembered of rollouts is damaged.
    #[error(
        "{path} is damaged: look at `platformctl status` whether the group's rollout is as it should be, then remove the file"
    )]
    Memory {
        /// Which file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot remember the slot")]
    Write(#[source] DurableError),
}

// === impl Slot ===

impl Slot {
    /// How long it has been held. After a reboot, by the time of day; where that was set back, for ever.
    #[must_use]
    pub fn elapsed(&self, now: &BootTime, now_of_day: Timestamp) -> Duration {
        if now.boot == self.started.boot {
            let spent = now.milliseconds.saturating_sub(self.started.milliseconds);
            return Duration::from_millis(spent);
        }
        let spent = now_of_day.duration_since(self.started_at);
        Duration::try_from(spent).unwrap_or(Duration::MAX)
    }

    /// The part of its deadline that it is in.
    #[must_use]
    pub fn window(&self, now: &BootTime, now_of_day: Timestamp) -> Window {
        Window::after(self.elapsed(now, now_of_day), self.policy.deadline)
    }

    /// What the status says about it; nothing while it is not known to be held.
    #[must_use]
    pub fn transition(&self, struggles: bool) -> Option<Transition> {
        Some(match self.stage {
            Stage::Asking => return None,
            Stage::Granted => Transition::Granted,
            Stage::Applying => Transition::Applying,
            Stage::Probing => Transition::Probing,
            Stage::Committed => Transition::Committed,
            Stage::Reverting if struggles => Transition::RevertFailed,
            Stage::Reverting => Transition::Reverting,
            Stage::Reverted => Transition::Reverted,
        })
    }
}

// === impl SlotFile ===

impl SlotFile {
    /// Kept in `state_directory`.
    #[must_use]
    pub fn in_directory(state_directory: &Path) -> Self {
        Self {
            path: state_directory.join("slot.json"),
        }
    }

    /// The slot, if there is one.
    ///
    /// # Errors
    /// [`SlotError`]; a damaged slot is no absent one.
    pub fn load(&self) -> Result<Option<Slot>, SlotError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(SlotError::Read {
                    path: self.path.clone(),
                    source,
                });
            }
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| SlotError::Damaged {
                path: self.path.clone(),
                source,
            })
    }

    fn revision_path(&self) -> PathBuf {
        self.path.with_file_name("rollout-revision")
    }

    /// The newest revision of the rollout document that was remembered; 0 where there is none.
    ///
    /// # Errors
    /// [`SlotError::Read`], and [`SlotError::Memory`] for one that is damaged: an old document would pass for a new one.
    pub fn revision(&self) -> Result<u64, SlotError> {
        let path = self.revision_path();
        match read_text(&path)? {
            None => Ok(0),
            Some(text) => text.trim().parse().map_err(|_| SlotError::Memory { path }),
        }
    }

    fn failed_path(&self) -> PathBuf {
        self.path.with_file_name("rollout-failed.json")
    }

    /// The release that failed here last, also where the rollout document does not say so any more.
    ///
    /// # Errors
    /// [`SlotError::Read`]; [`SlotError::Memory`] for one that is damaged.
    pub fn failed(&self) -> Result<Option<FailedHere>, SlotError> {
        let path = self.failed_path();
        let Some(text) = read_text(&path)? else {
            return Ok(None);
        };
        let failed = serde_json::from_str(&text);
        failed.map(Some).map_err(|_| SlotError::Memory { path })
    }

    /// Remembers which release failed here.
    ///
    /// # Errors
    /// [`SlotError::Write`].
    pub fn remember_failed(&self, failed: &FailedHere) -> Result<(), SlotError> {
        let path = self.failed_path();
        let bytes = serde_json::to_vec(failed).map_err(|source| SlotError::Damaged {
            path: path.clone(),
            source,
        })?;
        durable::write_file(&path, &bytes, Attributes::mode(0o600)).map_err(SlotError::Write)
    }

    /// Remembers a revision.
    ///
    /// # Errors
    /// [`SlotError::Write`].
    pub fn remember_revision(&self, revision: u64) -> Result<(), SlotError> {
        let text = format!("{revision}\n");
        let path = self.revision_path();
        durable::write_file(&path, text.as_bytes(), Attributes::mode(0o600))
            .map_err(SlotError::Write)
    }

    /// Remembers it, or that there is none.
    ///
    /// # Errors
    /// [`SlotError::Write`].
    pub fn save(&self, slot: Option<&Slot>) -> Result<(), SlotError> {
        let Some(slot) = slot else {
            return durable::remove_file(&self.path).map_err(SlotError::Write);
        };
        let bytes = serde_json::to_vec_pretty(slot).map_err(|source| SlotError::Damaged {
            path: self.path.clone(),
            source,
        })?;
        durable::write_file(&self.path, &bytes, Attributes::mode(0o600)).map_err(SlotError::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::bundle::{MaxUnavailable, TimeSpan};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn boot(name: &str, seconds: u64) -> BootTime {
        BootTime {
            boot: name.to_owned(),
            milliseconds: seconds * 1000,
        }
    }

    fn slot() -> Slot {
        let sha256 = Sha256Digest::of(b"x");
        Slot {
            release: ReleaseNumber::new(2).unwrap(),
            bundle: Some(sha256),
            previous: Committed {
                release: ReleaseNumber::new(1).unwrap(),
                bundle_sha256: sha256,
                copy_sha256: sha256,
            },
            nonce: Nonce::of(1),
            since: at(0),
            started: boot("a", 100),
            started_at: at(0),
            policy: RolloutPolicy {
                max_unavailable: MaxUnavailable::Nodes(1),
                deadline: TimeSpan::from_secs(100),
                settle: TimeSpan::from_secs(0),
                probes: Vec::new(),
                waiver: None,
            },
            stage: Stage::Applying,
            failed_before: BTreeSet::new(),
            why: None,
            lines: Vec::new(),
            tried: None,
            noted: false,
            mends: None,
        }
    }

    #[test]
    fn time_goes_on_over_a_reboot() {
        let slot = slot();
        assert_eq!(slot.window(&boot("a", 149), at(9999)), Window::Forward);
        assert_eq!(slot.window(&boot("a", 150), at(0)), Window::Probe);
        assert_eq!(slot.window(&boot("b", 1), at(49)), Window::Forward);
        assert_eq!(slot.window(&boot("b", 1), at(75)), Window::Back);
        assert_eq!(
            slot.window(&boot("b", 1), at(-1)),
            Window::Back,
            "a clock set back"
        );
    }

    #[test]
    fn comes_back_and_notices_damage() {
        let dir = tempfile::tempdir().unwrap();
        let file = SlotFile::in_directory(dir.path());
        assert_eq!(file.load().unwrap(), None);
        file.save(Some(&slot())).unwrap();
        assert_eq!(file.load().unwrap(), Some(slot()));
        std::fs::write(dir.path().join("slot.json"), "{").unwrap();
        assert!(matches!(file.load(), Err(SlotError::Damaged { .. })));
        file.save(None).unwrap();
        assert_eq!(file.load().unwrap(), None);
    }

    #[test]
    fn a_damaged_memory_is_no_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = SlotFile::in_directory(dir.path());
        assert_eq!(
            (file.revision().unwrap(), file.failed().unwrap()),
            (0, None)
        );
        file.remember_revision(7).unwrap();
        let failed = FailedHere {
            release: ReleaseNumber::new(2).unwrap(),
            since: at(0),
            why: "503".to_owned(),
        };
        file.remember_failed(&failed).unwrap();
        assert_eq!(file.revision().unwrap(), 7);
        assert_eq!(file.failed().unwrap(), Some(failed));
        for (name, text) in [("rollout-revision", "7x\n"), ("rollout-failed.json", "{")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert!(matches!(file.revision(), Err(SlotError::Memory { .. })));
        assert!(matches!(file.failed(), Err(SlotError::Memory { .. })));
    }
}
