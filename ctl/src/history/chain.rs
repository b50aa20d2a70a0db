//! Which documents were ever current, and what became of their releases. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use shared::names::ReleaseNumber;
use shared::trust::{LoneTargets, ReleaseTarget};

use super::documents::{Documents, brought};

/// The releases of a group, newest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Them.
    pub entries: Vec<Entry>,
    /// Documents that are not believed, and why.
    pub refused: Vec<String>,
    /// Whether there are older ones.
    pub more: bool,
}

/// One release.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its signed facts.
    pub target: ReleaseTarget,
    /// What became of it.
    pub fate: Fate,
    /// The release that was current before it, where that is known.
    pub before: Option<ReleaseTarget>,
}

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is what the group should run.
    Current,
    /// A later release was published when this one was known to be good.
    Good,
    /// It was replaced before it was known to be good.
    Replaced,
    /// It never became current: its publish was interrupted, or lost a race.
    Unpublished,
    /// It is from before releases named the one that they replace, and no later document lists it.
    Unknown,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Current => "current",
            Self::Good => "good",
            Self::Replaced => "replaced before it was known to be good",
            Self::Unpublished => "never became current",
            Self::Unknown => "unknown",
        })
    }
}

impl History {
    /// The newest `limit` releases of `documents`, of which `current` is the one that is current.
    #[must_use]
    pub fn of(current: ReleaseNumber, documents: &Documents, limit: Option<usize>) -> Self {
        let releases: BTreeMap<ReleaseNumber, &ReleaseTarget> = documents
            .read
            .iter()
            .filter_map(|d| Some((d.version, brought(d)?)))
            .collect();
        let chain = Chain::of(current, &releases);
        let good = known_good(&documents.read);
        let listed = listed_later(&documents.read);
        let limit = limit.unwrap_or(usize::MAX);
        let entries = releases.iter().rev().take(limit).map(|(number, target)| {
            let is_later = listed.contains(number);
            let fate = match () {
                () if *number == current => Fate::Current,
                () if good.contains(number) => Fate::Good,
                () if chain.links.contains(number) || is_later => Fate::Replaced,
                () if chain.covers(*number) => Fate::Unpublished,
                () => Fate::Unknown,
            };
            let before = match target.custom.replaces {
                Some(before) => releases.get(&before),
                // What names none is the first, or from before they did: then the next older one is the best guess.
                None => releases.range(..*number).next_back().map(|(_, t)| t),
            };
            Entry {
                target: (*target).clone(),
                fate,
                before: before.map(|t| (*t).clone()),
            }
        });
        let entries: Vec<Entry> = entries.collect();
        Self {
            more: documents.more || entries.len() < releases.len(),
            entries,
            refused: documents.refused.clone(),
        }
    }
}

/// From the current release to the one it replaced, and so on: what was current, one after the other.
struct Chain {
    links: BTreeSet<ReleaseNumber>,
    /// Down to here all that was ever current is in `links`.
    complete_from: ReleaseNumber,
}

impl Chain {
    fn of(current: ReleaseNumber, releases: &BTreeMap<ReleaseNumber, &ReleaseTarget>) -> Self {
        let mut links = BTreeSet::from([current]);
        let mut at = current;
        while let Some(before) = releases.get(&at).and_then(|t| t.custom.replaces) {
            // A number that does not fall would never end.
            if before >= at {
                break;
            }
            links.insert(before);
            at = before;
        }
        Self {
            links,
            complete_from: at,
        }
    }

    fn covers(&self, number: ReleaseNumber) -> bool {
        number > self.complete_from
    }
}

/// The releases that a later release's document lists as good.
fn known_good(documents: &[LoneTargets]) -> BTreeSet<ReleaseNumber> {
    let good = documents.iter().filter_map(|d| {
        let (good, current) = (d.good()?.release(), d.current()?.release());
        (good != current).then_some(good)
    });
    good.collect()
}

/// The releases that a document after their own lists.
fn listed_later(documents: &[LoneTargets]) -> BTreeSet<ReleaseNumber> {
    let of = |d: &LoneTargets| {
        let version = d.version;
        let numbers: Vec<ReleaseNumber> = d.releases.iter().map(ReleaseTarget::release).collect();
        numbers.into_iter().filter(move |n| *n < version)
    };
    documents.iter().flat_map(of).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;
    use shared::digest::Sha256Digest;
    use shared::trust::{BundleCustom, KeyringMark, bundle_name};
    use shared::wrap::WrappedIdentity;

    use super::*;

    pub(crate) fn n(number: u64) -> ReleaseNumber {
        ReleaseNumber::new(number).unwrap()
    }

    pub(crate) fn target(number: u64, replaces: Option<u64>) -> ReleaseTarget {
        ReleaseTarget {
            name: bundle_name(n(number)),
            length: 1,
            sha256: Sha256Digest::of(&number.to_be_bytes()),
            custom: BundleCustom {
                environment: "dev".parse().unwrap(),
                group: "secure".parse().unwrap(),
                release: n(number),
                identity: WrappedIdentity {
                    method: shared::wrap::WrapMethod::LocalFile,
                    key: String::new(),
                    ciphertext: String::new(),
                },
                content: format!("content {number}"),
                keyring: KeyringMark {
                    version: 1,
                    sha256: Sha256Digest::of(b""),
                },
                published_at: Timestamp::UNIX_EPOCH,
                published_by: "ann".to_owned(),
                agent: None,
                artifacts: Vec::new(),
                replaces: replaces.map(n),
                brings_back: None,
                content_unwaived: None,
            },
        }
    }

    /// A document of `version` that lists these.
    pub(crate) fn document(version: u64, releases: Vec<ReleaseTarget>) -> LoneTargets {
        LoneTargets {
            version: n(version),
            newest_root: 1,
            releases,
            artifacts: Vec::new(),
            expires: Timestamp::UNIX_EPOCH,
        }
    }

    fn fates(current: u64, documents: Vec<LoneTargets>) -> Vec<(u64, Fate, Option<u64>)> {
        let documents = Documents {
            read: documents,
            ..Documents::default()
        };
        let history = History::of(n(current), &documents, None);
        let of = |e: &Entry| {
            let before = e.before.as_ref().map(|t| t.release().get());
            (e.target.release().get(), e.fate, before)
        };
        history.entries.iter().map(of).collect()
    }

    #[test]
    fn the_chain_tells_what_was_current() {
        let (one, two) = (target(1, None), target(2, Some(1)));
        let (four, five) = (target(4, Some(2)), target(5, Some(4)));
        let documents = vec![
            document(7, vec![two.clone(), five.clone()]),
            document(5, vec![two.clone(), five]),
            document(4, vec![two.clone(), four]),
            // Interrupted before its last write.
            document(3, vec![two.clone(), target(3, Some(2))]),
            document(2, vec![one.clone(), two]),
            document(1, vec![one]),
        ];
        assert_eq!(
            fates(5, documents),
            [
                (5, Fate::Current, Some(4)),
                (4, Fate::Replaced, Some(2)),
                (3, Fate::Unpublished, Some(2)),
                (2, Fate::Good, Some(1)),
                (1, Fate::Good, None),
            ]
        );
    }

    #[test]
    fn releases_from_before_the_chain_are_not_guessed() {
        let (one, three) = (target(1, None), target(3, None));
        let documents = vec![
            document(4, vec![three.clone(), target(4, Some(3))]),
            document(3, vec![one.clone(), three]),
            document(2, vec![one.clone(), target(2, None)]),
            document(1, vec![one]),
        ];
        assert_eq!(
            fates(4, documents),
            [
                (4, Fate::Current, Some(3)),
                (3, Fate::Good, Some(2)),
                (2, Fate::Unknown, Some(1)),
                (1, Fate::Good, None),
            ]
        );
    }

    #[test]
    fn a_renewed_signature_is_no_proof() {
        let one = target(1, None);
        let documents = vec![document(2, vec![one.clone()]), document(1, vec![one])];
        assert_eq!(fates(1, documents), [(1, Fate::Current, None)]);
    }

    #[test]
    fn a_number_that_does_not_fall_ends_the_chain() {
        let documents = vec![document(5, vec![target(5, Some(5))])];
        assert_eq!(fates(5, documents).len(), 1);
    }
}
