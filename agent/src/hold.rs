//! A person's hold on the node: while it lasts, nothing is repaired and nothing adopted.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use shared::documents::Hold;
use shared::durable::{self, Attributes, DurableError};

/// Longest reason, in characters.
const REASON_CHARACTERS: usize = 500;

/// The file that holds, in the state directory. `platform-agent hold` writes it; the daemon reads it before anything
/// that a hold forbids, so neither needs the other to run.
#[derive(Debug, Clone)]
pub struct HoldFile {
    path: PathBuf,
}

impl HoldFile {
    /// Kept in `state_directory`.
    #[must_use]
    pub fn in_directory(state_directory: &Path) -> Self {
        Self {
            path: state_directory.join("hold.json"),
        }
    }

    /// Puts a hold in place, over an earlier one.
    ///
    /// # Errors
    /// [`DurableError`].
    pub fn place(&self, hold: &Hold) -> Result<(), DurableError> {
        let hold = Hold {
            reason: hold.reason.chars().take(REASON_CHARACTERS).collect(),
            ..hold.clone()
        };
        // serde_json cannot fail on this type.
        let text = serde_json::to_vec(&hold).unwrap_or_default();
        durable::write_file(&self.path, &text, Attributes::mode(0o600))
    }

    /// Ends a hold; none is fine.
    ///
    /// # Errors
    /// [`DurableError`].
    pub fn lift(&self) -> Result<(), DurableError> {
        durable::remove_file(&self.path)
    }

    /// The hold that is in force at `now`. A file that cannot be read holds too: somebody meant to, and to go on
    /// would undo what they do.
    #[must_use]
    pub fn in_force(&self, now: Timestamp) -> Option<Hold> {
        let unreadable = |why: String| Hold {
            reason: format!("{} cannot be read: {why}", self.path.display()),
            since: self.placed_at().unwrap_or(now),
            until: None,
        };
        let hold = match std::fs::read(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => unreadable(e.to_string()),
            Ok(bytes) => {
                serde_json::from_slice::<Hold>(&bytes).unwrap_or_else(|e| unreadable(e.to_string()))
            }
        };
        match hold.until {
            Some(until) if until <= now => None,
            _ => Some(hold),
        }
    }
}

impl HoldFile {
    /// When the file was last written: a time that does not move between two looks.
    fn placed_at(&self) -> Option<Timestamp> {
        let modified = std::fs::metadata(&self.path).ok()?.modified().ok()?;
        Timestamp::try_from(modified).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn holds_until_its_end_or_until_lifted() {
        let dir = tempfile::tempdir().unwrap();
        let file = HoldFile::in_directory(dir.path());
        assert_eq!(file.in_force(at(1)), None);
        let hold = Hold {
            reason: "looking at etcd".into(),
            since: at(10),
            until: Some(at(20)),
        };
        file.place(&hold).unwrap();
        assert_eq!(file.in_force(at(19)), Some(hold.clone()));
        assert_eq!(file.in_force(at(20)), None);
        let endless = Hold {
            until: None,
            ..hold
        };
        file.place(&endless).unwrap();
        assert_eq!(file.in_force(at(99_999)), Some(endless));
        file.lift().unwrap();
        file.lift().unwrap();
        assert_eq!(file.in_force(at(15)), None);
    }

    #[test]
    fn a_damaged_file_holds() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hold.json"), "{").unwrap();
        let held = HoldFile::in_directory(dir.path()).in_force(at(1)).unwrap();
        assert!(held.reason.contains("cannot be read"), "{}", held.reason);
        let later = HoldFile::in_directory(dir.path()).in_force(at(99));
        assert_eq!(
            later,
            Some(held),
            "the same hold, however often it is looked at"
        );
    }
}
