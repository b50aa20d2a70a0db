//! A lock on the state that somebody else holds: who, since when, and how to get on.

use std::fmt;

/// What the engine says of a lock that it did not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLock {
    /// The lock's id, which a release has to name.
    pub id: String,
    /// Whose run: `user@machine`.
    pub who: String,
    /// Since when, as the engine writes it.
    pub created: String,
    /// What it does: `OperationTypeApply`.
    pub operation: String,
}

/// Reads the lock out of a diagnostic; none where it is about something else. The engine prints it as lines of
/// `Name: value` under a heading of their own.
#[must_use]
pub fn read_held_lock(summary: &str, detail: &str) -> Option<HeldLock> {
    if !summary.contains("state lock") {
        return None;
    }
    let (_, info) = detail.split_once("Lock Info:")?;
    let field = |name: &str| {
        let value = info
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        value.map(|v| v.trim().to_owned()).unwrap_or_default()
    };
    let lock = HeldLock {
        id: field("ID"),
        who: field("Who"),
        created: field("Created"),
        operation: field("Operation"),
    };
    (!lock.id.is_empty()).then_some(lock)
}

// === impl HeldLock ===

impl HeldLock {
    /// What the holder does, in a word.
    #[must_use]
    pub fn doing(&self) -> String {
        let word = self.operation.trim_start_matches("OperationType");
        match word {
            "" => "a run".to_owned(),
            word => word.to_lowercase(),
        }
    }
}

impl fmt::Display for HeldLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the state is locked by {} ({}) since {}, lock {}",
            self.who,
            self.doing(),
            self.created,
            self.id
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DETAIL: &str = "Error message: operation error S3: PutObject, https response error StatusCode: 412, api error \
        PreconditionFailed: At least one of the pre-conditions you specified did not hold\nLock Info:\n  ID:        d2a2\n  \
        Path:      example-dev-terraform/us-east-1/dev/terraform.tfstate\n  Operation: OperationTypeApply\n  Who:       \
        alice@desk\n  Version:   1.11.4\n  Created:   2026-11-22 20:00:00 +0000 UTC\n  Info:      \n\n\nTerraform acquires a \
        state lock";

    #[test]
    fn who_holds_it_and_since_when() {
        let lock = read_held_lock("Error acquiring the state lock", DETAIL).unwrap();
        assert_eq!(
            lock.to_string(),
            "the state is locked by alice@desk (apply) since 2026-11-22 20:00:00 +0000 UTC, lock d2a2"
        );
        assert_eq!(
            read_held_lock("Error acquiring the state lock", "no connection"),
            None
        );
        assert_eq!(read_held_lock("Invalid value", DETAIL), None);
    }
}
