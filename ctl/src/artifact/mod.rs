//! Artifacts: large public files of a group's machines.
//!
//! `artifacts.toml` in the working directory says which bytes each name stands for, and is reviewed like code; a group's
//! `node.yaml` says where they go. The bytes are kept by their digest, on this machine and below the targets of each group
//! (create-only); a publish puts there what the release uses and is not there yet, and signs it then.

mod convert;
mod known;
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
pub use known::{Follows, SAMPLE, missing, sample};
pub use list::{AGENT, ArtifactEntry, ArtifactList, FILE};
pub use objects::{ensure, keep, upload_agent};
pub use source::{fetch, is_url};

/// What a group's `node.yaml` asks for, as far as the list has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// With the bytes that the list has for them.
    pub artifacts: Vec<Artifact>,
    /// The names that are not in the list: nodes that only play machines do without them, machines cannot.
    pub unlisted: Vec<String>,
}

/// Looks the artifacts of a group's `node.yaml` up.
///
/// # Errors
/// A [`crate::exit::Mistake`] with every one that the list has in another form.
pub fn resolve(
    group: &GroupName,
    places: &[ArtifactPlace],
    list: &ArtifactList,
) -> anyhow::Result<Resolved> {
    let mut mistakes = Vec::new();
    let mut resolved = Resolved::default();
    for place in places {
        let name = &place.name;
        let Some(entry) = list.get(name) else {
            resolved.unlisted.push(name.clone());
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
        resolved.artifacts.push(Artifact {
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
        true => Ok(resolved),
        false => Err(mistake(mistakes.join("\n"))),
    }
}

/// What is wrong with a release of `group` without these artifacts, and what to do.
#[must_use]
pub fn unlisted(group: &GroupName, names: &[String]) -> String {
    let lines = names.iter().map(|name| {
        format!(
            "manifests/{group}/node.yaml: artifact {name} is not in {FILE}: `platformctl doctor` says the command that lists it"
        )
    });
    lines.collect::<Vec<_>>().join("\n")
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

#[cfg(test)]
mod tests {
    use super::*;
    use shared::bundle::Mode;
    use shared::digest::Sha256Digest;

    #[test]
    fn an_artifact_has_the_bytes_of_the_list_and_the_place_of_the_node_file() {
        let mut list = ArtifactList::default();
        let entry = ArtifactEntry {
            name: "plugins".into(),
            version: "v1".into(),
            source: "plugins.tgz".into(),
            source_sha256: Sha256Digest::of(b"tgz"),
            member: None,
            archive: true,
            sha256: Sha256Digest::of(b"zst"),
            bytes: 3,
        };
        list.put(entry).unwrap();
        let group = "secure".parse().unwrap();
        let mut place = ArtifactPlace {
            name: "plugins".into(),
            path: "/opt/cni/bin".into(),
            mode: Mode::new(0o755),
            unpack: Unpack::TarZst,
            restart: None,
        };
        let other = ArtifactPlace {
            name: "kubelet".into(),
            ..place.clone()
        };
        let found = resolve(&group, &[place.clone(), other], &list).unwrap();
        assert_eq!(found.unlisted, ["kubelet"]);
        let one = &found.artifacts[0];
        assert_eq!((one.target.as_str(), one.bytes), ("plugins-v1", 3));
        assert_eq!(one.path, "/opt/cni/bin");
        place.unpack = Unpack::None;
        assert!(resolve(&group, &[place], &list).is_err());
    }

    #[test]
    fn one_name_does_not_stand_for_two_contents() {
        let target = |bytes: &[u8]| ListedTarget {
            name: "kubelet-v1".into(),
            length: bytes.len() as u64,
            sha256: Sha256Digest::of(bytes),
            custom: std::collections::HashMap::new(),
        };
        assert_eq!(join([target(b"a"), target(b"a")]).unwrap().len(), 1);
        assert!(join([target(b"a"), target(b"b")]).is_err());
    }
}
