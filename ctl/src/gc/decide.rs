//! What goes, from a listing and everything that is known to be needed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use shared::digest::Sha256Digest;
use shared::names::{GroupName, ReleaseNumber};
use shared::store::{ListedObject, keys};
use shared::trust::{LoneTargets, ReleaseTarget};

use super::Choices;
use crate::history::document_numbers;

/// An object that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deletion {
    /// Its key.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// Why nobody needs it.
    pub why: String,
}

/// All there is to know of a group.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The group.
    pub group: GroupName,
    /// The objects below its targets, listed *before* the metadata was: so whatever bundle is here, its document is there.
    pub targets: Vec<ListedObject>,
    /// The objects below its metadata.
    pub metadata: Vec<ListedObject>,
    /// The targets documents that are not newer than the current one and that our keys have signed, by version.
    pub documents: BTreeMap<ReleaseNumber, LoneTargets>,
    /// Documents that are newer than the current one: a publish under way, or one that was interrupted.
    pub newer: BTreeMap<ReleaseNumber, LoneTargets>,
    /// The version of the current documents.
    pub version: ReleaseNumber,
    /// The current release.
    pub current: ReleaseTarget,
    /// The good release.
    pub good: Option<ReleaseTarget>,
    /// Releases that a node has, or wants, or that its group's rollout names, each with who needs it.
    pub in_use: BTreeMap<ReleaseNumber, String>,
    /// The artifacts that the working directory lists, by the digests of their bytes: the next publish may name them.
    pub listed: BTreeSet<Sha256Digest>,
    /// How many roots are in force, and must be in the bucket.
    pub roots: u64,
}

/// Nothing is deleted: what was read cannot be all there is.
#[derive(Debug, thiserror::Error)]
#[error(
    "nothing of group {group} was deleted: the listing of the bucket lacks {missing}, which must be there; look at the \
     bucket, and try again"
)]
pub struct GcRefused {
    /// The group.
    pub group: GroupName,
    /// What was not listed.
    pub missing: String,
}

/// The objects that nobody needs, documents first.
///
/// # Errors
/// [`GcRefused`] for a listing that lacks what is known to be there.
pub fn decide(
    evidence: &Evidence,
    choices: Choices,
    now: Timestamp,
) -> Result<Vec<Deletion>, GcRefused> {
    whole(evidence)?;
    let kept = kept_releases(evidence, choices.keep.max(2));
    let names = Names::of(evidence, &kept);
    let is_old = |object: &ListedObject, youngest: Duration| {
        let age = object.written.map(|written| now.duration_since(written));
        age.is_some_and(|age| age.unsigned_abs() >= youngest && age.is_positive())
    };
    let prefix = keys::metadata_prefix(&evidence.group);
    let mut deletions = Vec::new();
    let documents = evidence.metadata.iter();
    for object in documents.filter(|o| is_old(o, choices.youngest)) {
        if let Some(why) = old_document(evidence, &kept, &prefix, &object.key) {
            deletions.push(deletion(object, why));
        }
    }
    let prefix = keys::targets_prefix(&evidence.group);
    for object in &evidence.targets {
        let Some(name) = object.key.strip_prefix(&prefix).filter(|n| is_target(n)) else {
            continue;
        };
        let (youngest, why) = match name.ends_with(".bundle") {
            true => (choices.youngest, "a bundle of no kept release"),
            false => (
                choices.youngest_artifact,
                "an artifact that no kept release names",
            ),
        };
        if is_old(object, youngest) && !names.0.contains(name) && !is_listed(evidence, name) {
            deletions.push(deletion(object, why.to_owned()));
        }
    }
    Ok(deletions)
}

fn deletion(object: &ListedObject, why: String) -> Deletion {
    Deletion {
        key: object.key.clone(),
        bytes: object.bytes,
        why,
    }
}

/// A listing that lacks what must be there may lack anything.
fn whole(evidence: &Evidence) -> Result<(), GcRefused> {
    let (group, version) = (&evidence.group, evidence.version);
    let metadata = keys::metadata_prefix(group);
    let mut wanted: Vec<String> = (1..=evidence.roots)
        .map(|root| format!("{metadata}{root}.root.json"))
        .collect();
    wanted.push(keys::timestamp(group));
    wanted.push(format!("{metadata}{version}.targets.json"));
    wanted.push(format!("{metadata}{version}.snapshot.json"));
    let current = [&evidence.current].into_iter().chain(&evidence.good);
    wanted.extend(current.map(|r| keys::target(group, &r.sha256, &r.name)));
    if let Some(document) = evidence.documents.get(&version) {
        let artifacts = document.artifacts.iter();
        wanted.extend(artifacts.map(|a| keys::target(group, &a.sha256, &a.name)));
    } else {
        wanted.push(format!(
            "{metadata}{version}.targets.json, as a document of ours"
        ));
    }
    let listed: BTreeSet<&str> = evidence
        .metadata
        .iter()
        .chain(&evidence.targets)
        .map(|o| o.key.as_str())
        .collect();
    match wanted
        .into_iter()
        .find(|key| !listed.contains(key.as_str()))
    {
        None => Ok(()),
        Some(missing) => Err(GcRefused {
            group: group.clone(),
            missing,
        }),
    }
}

/// The numbers of the releases that stay: the newest, and all that somebody needs.
fn kept_releases(evidence: &Evidence, keep: usize) -> BTreeSet<ReleaseNumber> {
    let brought = evidence.documents.iter().filter(|(version, document)| {
        document
            .current()
            .is_some_and(|current| current.release() == **version)
    });
    let newest = brought.map(|(version, _)| *version).rev().take(keep);
    let mut kept: BTreeSet<ReleaseNumber> = newest.collect();
    kept.insert(evidence.current.release());
    kept.extend(evidence.current.custom.replaces);
    kept.extend(evidence.current.custom.brings_back);
    kept.extend(evidence.good.as_ref().map(ReleaseTarget::release));
    kept.extend(evidence.in_use.keys());
    kept
}

/// Why a document goes; none where it stays. Newer ones than the current stay: their publish may be under way.
fn old_document(
    evidence: &Evidence,
    kept: &BTreeSet<ReleaseNumber>,
    prefix: &str,
    key: &str,
) -> Option<String> {
    let as_targets = key.replace(".snapshot.json", ".targets.json");
    let number = *document_numbers(prefix, [as_targets.as_str()]).first()?;
    if number >= evidence.version || kept.contains(&number) {
        return None;
    }
    let document = evidence.documents.get(&number)?;
    let current = document.current()?.release();
    Some(match current == number {
        true => format!("of release {number}, which is not kept"),
        false => "an older renewal of signatures".to_owned(),
    })
}

/// Whether the next publish from here may name it.
fn is_listed(evidence: &Evidence, name: &str) -> bool {
    let digest = name
        .split_once('.')
        .and_then(|(digest, _)| digest.parse().ok());
    digest.is_some_and(|digest: Sha256Digest| evidence.listed.contains(&digest))
}

/// `DIGEST.NAME`, as TUF has it.
fn is_target(name: &str) -> bool {
    let digest = name.split_once('.').map(|(digest, _)| digest);
    digest.is_some_and(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The objects below targets that are needed, by the names that they have there.
struct Names(BTreeSet<String>);

impl Names {
    fn of(evidence: &Evidence, kept: &BTreeSet<ReleaseNumber>) -> Self {
        let mut names = BTreeSet::new();
        let mut add = |document: &LoneTargets, releases: &dyn Fn(ReleaseNumber) -> bool| {
            for release in document.releases.iter().filter(|r| releases(r.release())) {
                names.insert(format!("{}.{}", release.sha256, release.name));
                let of_release = &release.custom.artifacts;
                let needed = document.artifacts.iter();
                for artifact in needed.filter(|a| of_release.contains(&a.name)) {
                    names.insert(format!("{}.{}", artifact.sha256, artifact.name));
                }
            }
        };
        for document in evidence.documents.values() {
            add(document, &|number| kept.contains(&number));
        }
        for document in evidence.newer.values() {
            add(document, &|_| true);
        }
        // What the current document lists is what nodes may ask for at this moment.
        if let Some(document) = evidence.documents.get(&evidence.version) {
            let artifacts = document.artifacts.iter();
            names.extend(artifacts.map(|a| format!("{}.{}", a.sha256, a.name)));
        }
        Self(names)
    }
}

#[cfg(test)]
mod tests;
