//! Artifacts: large public files of a group's machines.
//!
//! `artifacts.toml` in the working directory says which bytes each name stands for, and is reviewed like code; a group's
//! `node.yaml` says where they go. The bytes are kept by their digest, on this machine and below the targets of each group
//! (create-only); a publish signs those that the release uses, once it has seen that they are there.

mod convert;
mod list;
mod objects;
mod source;

use shared::bundle::{Artifact, Unpack};
use shared::names::GroupName;
use shared::trust::AgentTarget;
use shared::trust::sign::ListedTarget;

use crate::exit::mistake;
use crate::render::ArtifactPlace;

pub use convert::{Converted, convert};
pub use list::{AGENT, ArtifactEntry, ArtifactList, FILE};
pub use objects::{ensure, keep, upload_agent};
pub use source::{fetch, is_url};

/// The artifacts that a group's `node.yaml` asks for, with the bytes that the list has for them.
///
/// # Errors
/// A [`crate::exit::Mistake`] with every one that the list does not have, or has in another form.
pub fn resolve(
    group: &GroupName,
    places: &[ArtifactPlace],
    list: &ArtifactList,
) -> anyhow::Result<Vec<Artifact>> {
    let mut mistakes = Vec::new();
    let mut artifacts = Vec::new();
    for place in places {
        let name = &place.name;
        let Some(entry) = list.get(name) else {
            mistakes.push(format!(
                "manifests/{group}/node.yaml: artifact {name} is not in {FILE}: `platformctl artifacts add {name} SOURCE`"
            ));
            continue;
        };
        if entry.archive != (place.unpack == Unpack::TarZst) {
            let (is, wants) = match entry.archive {
                true => ("an archive", "unpack: tar-zst"),
                false => ("one file", "no unpack"),
            };
            mistakes.push(format!(
                "manifests/{group}/node.yaml: artifact {name} is {is} in {FILE}: it needs {wants}"
            ));
        }
        artifacts.push(Artifact {
            name: name.clone(),
            target: entry.target(),
            sha256: entry.sha256,
            bytes: entry.bytes,
            path: place.path.clone(),
            mode: place.mode,
            unpack: place.unpack,
            restart: place.restart.clone(),
        });
    }
    match mistakes.is_empty() {
        true => Ok(artifacts),
        false => Err(mistake(mistakes.join("\n"))),
    }
}

/// The agent that the list names, as a release's signed facts do.
#[must_use]
pub fn agent_of(list: &ArtifactList) -> Option<AgentTarget> {
    list.get(AGENT).map(|entry| AgentTarget {
        target: entry.target(),
        sha256: entry.sha256,
        bytes: entry.bytes,
        version: entry.version.clone(),
    })
}

/// Joins targets to list, each once.
///
/// # Errors
/// A [`crate::exit::Mistake`] where one name would stand for two contents.
pub fn join(all: impl IntoIterator<Item = ListedTarget>) -> anyhow::Result<Vec<ListedTarget>> {
    let mut listed: Vec<ListedTarget> = Vec::new();
    for target in all {
        match listed.iter().find(|t| t.name == target.name) {
            None => listed.push(target),
            Some(same) if same.sha256 == target.sha256 && same.length == target.length => {}
            Some(other) => {
                return Err(mistake(format!(
                    "artifact {} is published with the bytes {}, and {FILE} has {} under that name: give the new ones \
                     another version",
                    target.name,
                    other.sha256.short(),
                    target.sha256.short()
                )));
            }
        }
    }
    Ok(listed)
}
