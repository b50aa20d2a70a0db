//! What an operator changes in what the nodes agree on. Pure; the time of each change is that of the write.

use jiff::Timestamp;
use shared::documents::{Forgotten, Pause, REASON_CHARACTERS, Retry, RolloutDocument, kept_line};
use shared::names::{NodeId, ReleaseNumber};

/// Longest name of an operator, in characters.
const BY_CHARACTERS: usize = 100;

/// There is nothing to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no rollout of the group is halted")]
pub struct NothingHalted;

/// Pauses the group, in the place of an earlier pause: nobody begins to adopt anything.
pub fn pause(document: &mut RolloutDocument, by: &str, reason: &str, until: Option<Timestamp>) {
    document.paused = Some(Pause {
        by: kept_line(by, BY_CHARACTERS),
        reason: kept_line(reason, REASON_CHARACTERS),
        since: document.written_at,
        until,
    });
}

/// Lifts a pause; the one that there was. One whose time is over is none, and is cleared away all the same.
pub fn resume(document: &mut RolloutDocument) -> Option<Pause> {
    document.paused.take()
}

/// Has the halted release tried again, also by the nodes on which it failed.
///
/// # Errors
/// [`NothingHalted`].
pub fn retry(document: &mut RolloutDocument, by: &str) -> Result<ReleaseNumber, NothingHalted> {
    let halt = document.halted.take().ok_or(NothingHalted)?;
    document.failed.retain(|f| f.release != halt.release);
    document.retry = Some(Retry {
        release: halt.release,
        by: kept_line(by, BY_CHARACTERS),
        at: document.written_at,
    });
    Ok(halt.release)
}

/// Takes a node for gone: its slot is free, and it counts no more, until it reports again.
pub fn forget(document: &mut RolloutDocument, node: &NodeId, by: &str) {
    document.holders.retain(|h| h.node != *node);
    document.unavailable.retain(|u| u.node != *node);
    document.forgotten.retain(|f| f.node != *node);
    document.forgotten.push(Forgotten {
        node: node.clone(),
        by: kept_line(by, BY_CHARACTERS),
        at: document.written_at,
    });
}

#[cfg(test)]
mod tests {
    use shared::bundle::TimeSpan;
    use shared::documents::{
        FailedAdoption, Halt, Holder, HolderWork, Nonce, Unavailable, UnavailableWhy,
    };

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn n(number: u64) -> ReleaseNumber {
        ReleaseNumber::new(number).unwrap()
    }

    fn document() -> RolloutDocument {
        RolloutDocument {
            written_at: at(100),
            ..RolloutDocument::empty()
        }
    }

    #[test]
    fn a_pause_is_dated_by_the_write_and_lifted_once() {
        let mut all = document();
        let long = "x\n".repeat(500);
        pause(&mut all, "ann@desk", &long, Some(at(400)));
        let paused = all.pause_at(at(399)).unwrap();
        assert_eq!((paused.since, paused.by.as_str()), (at(100), "ann@desk"));
        assert!(paused.reason.chars().count() <= REASON_CHARACTERS);
        assert!(!paused.reason.contains('\n'));
        assert!(all.pause_at(at(400)).is_none());
        assert!(resume(&mut all).is_some());
        assert!(resume(&mut all).is_none());
    }

    #[test]
    fn a_retry_forgets_the_failures_of_that_release_only() {
        let mut all = document();
        assert_eq!(retry(&mut all, "ann"), Err(NothingHalted));
        let failed = |release| FailedAdoption {
            node: node("i-1"),
            release: n(release),
            why: "probe".to_owned(),
            lines: Vec::new(),
            at: at(1),
        };
        all.failed = vec![failed(5), failed(7)];
        all.halted = Some(Halt {
            release: n(7),
            by: node("i-1"),
            reason: "probe".to_owned(),
            at: at(1),
        });
        assert_eq!(retry(&mut all, "ann"), Ok(n(7)));
        assert!(all.failure(&node("i-1"), n(7)).is_none());
        assert!(all.failure(&node("i-1"), n(5)).is_some());
        assert_eq!(all.retry.as_ref().unwrap().at, at(100));
        assert!(all.halted.is_none());
    }

    #[test]
    fn a_forgotten_node_holds_nothing_up() {
        let mut all = document();
        for name in ["i-1", "i-2"] {
            all.holders.push(Holder {
                node: node(name),
                release: n(7),
                zone: None,
                nonce: Nonce::of(1),
                since: at(1),
                deadline: TimeSpan::from_secs(60),
                work: HolderWork::Release,
            });
            all.unavailable.push(Unavailable {
                node: node(name),
                why: UnavailableWhy::Cleared,
                release: None,
                since: at(1),
            });
        }
        forget(&mut all, &node("i-1"), "ann");
        forget(&mut all, &node("i-1"), "bob");
        assert_eq!(all.busy(), 1);
        assert_eq!(all.forgotten.len(), 1);
        assert_eq!(all.forgotten[0].by, "bob");
    }
}
