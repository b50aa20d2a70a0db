//! What is wrong at the moment, by where it comes from, and how a chain of causes is told.

use std::collections::BTreeMap;
use std::error::Error;

use jiff::Timestamp;
use shared::documents::{Phase, StatusError};

/// Longest message that is kept, in characters: a status object has a limit.
const MESSAGE_CHARACTERS: usize = 2_000;

/// Where a trouble comes from. Each is cleared by its own success; the first in this order is the one reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The files on disk, or the ledger of them.
    Disk,
    /// What the node remembers of the slot that it holds.
    Slot,
    /// A release that it could not go back from.
    Rollout,
    /// Verifying, fetching or writing a release.
    Adoption,
    /// The node's part in etcd: the fence, the members, its configuration.
    Etcd,
    /// Installed artifacts that are not as they were installed.
    Artifacts,
    /// Units of the host that could not be restarted.
    Units,
    /// The kubelet's client certificate.
    Certificate,
    /// Probes of a node's first release that fail.
    Probes,
    /// Asking the store.
    Poll,
    /// The agent that the release names and that is not installed.
    Update,
    /// Metadata that has expired.
    Expiry,
    /// The group's key, with which the status is authenticated.
    GroupKey,
    /// Remembering when a release was adopted.
    TimeMemory,
    /// Looking for files in the manifest directory that are not the agent's.
    Foreign,
    /// Removing what earlier releases left.
    Leftovers,
}

/// The troubles there are.
#[derive(Debug, Default)]
pub struct Troubles {
    current: BTreeMap<Source, StatusError>,
}

impl Troubles {
    /// Notes a trouble; one of the same phase and kind keeps the time since when it is so. Returns whether it is new.
    pub fn note(
        &mut self,
        source: Source,
        phase: Phase,
        kind: &str,
        message: String,
        now: Timestamp,
    ) -> bool {
        let before = self
            .current
            .get(&source)
            .filter(|e| e.phase == phase && e.kind == kind);
        let is_new = before.is_none();
        let since = before.map_or(now, |e| e.since);
        let error = StatusError {
            phase,
            kind: kind.to_owned(),
            message: shortened(&message),
            since,
        };
        self.current.insert(source, error);
        is_new
    }

    /// That went right. Returns whether it had been wrong.
    pub fn clear(&mut self, source: Source) -> bool {
        self.current.remove(&source).is_some()
    }

    /// What to report: the first by source.
    #[must_use]
    pub fn worst(&self) -> Option<&StatusError> {
        self.current.values().next()
    }

    /// The trouble of one source.
    #[must_use]
    pub fn of(&self, source: Source) -> Option<&StatusError> {
        self.current.get(&source)
    }
}

/// A message, cut to what a status has room for.
#[must_use]
pub fn shortened(message: &str) -> String {
    message.chars().take(MESSAGE_CHARACTERS).collect()
}

/// An error and its causes, outermost first, on one line. A cause whose text the text before it repeats (not every
/// library keeps to our rule) is left out.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut last = told.clone();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !last.contains(&text) {
            told.push_str(": ");
            told.push_str(&text);
            last = text;
        }
        next = cause.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        #[source]
        source: Option<Box<Link>>,
    }

    fn link(text: &'static str, source: Option<Link>) -> Link {
        Link {
            text,
            source: source.map(Box::new),
        }
    }

    #[test]
    fn a_chain_is_told_once() {
        let inner = link("b broke", Some(link("c broke", None)));
        assert_eq!(
            chain(&link("a broke", Some(inner))),
            "a broke: b broke: c broke"
        );
        let repeated = link(
            "a broke: b broke",
            Some(link("b broke", Some(link("c", None)))),
        );
        assert_eq!(chain(&repeated), "a broke: b broke: c");
    }

    #[test]
    fn since_stays_while_it_is_the_same_trouble() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut t = Troubles::default();
        assert!(t.note(Source::Poll, Phase::Idle, "timeout", "a".into(), at(1)));
        assert!(!t.note(Source::Poll, Phase::Idle, "timeout", "b".into(), at(2)));
        assert_eq!(t.worst().unwrap().since, at(1));
        assert_eq!(t.worst().unwrap().message, "b");
        assert!(t.note(Source::Poll, Phase::Idle, "throttled", "c".into(), at(3)));
        assert_eq!(t.worst().unwrap().since, at(3));
        t.note(Source::Disk, Phase::Idle, "io", "d".into(), at(4));
        assert_eq!(t.worst().unwrap().kind, "io", "the disk matters most");
        assert!(t.clear(Source::Disk));
        assert!(!t.clear(Source::Disk));
        assert_eq!(t.worst().unwrap().kind, "throttled");
    }
}
