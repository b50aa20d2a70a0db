//! What a release asks of the host beyond its files: unit restarts and artifacts (§3.1).

use serde::{Deserialize, Serialize};

use super::{IndexProblem, Mode};
use crate::digest::Sha256Digest;
use crate::limits;
use crate::names::{EntryPath, UnitName};

/// A unit to restart when one of these host files was written or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// The systemd unit. The agent's own configuration decides which units may be named here.
    pub unit: UnitName,
    /// The host files that the unit reads only at its start.
    pub on: Vec<EntryPath>,
}

/// How an artifact's bytes become files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unpack {
    /// The bytes are the file.
    None,
    /// A tar archive compressed with zstd, each of whose files goes into the directory `path`.
    TarZst,
}

/// A large public file of the node: content-addressed in the bucket, not encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// What it is, such as `kubelet`.
    pub name: String,
    /// The name of the signed target that carries it.
    pub target: String,
    /// Digest of the target's bytes.
    pub sha256: Sha256Digest,
    /// Their length.
    pub bytes: u64,
    /// Where it goes: an absolute path, of a file, or of a directory where it is unpacked.
    pub path: String,
    /// Permission bits of the file, or of each unpacked file.
    pub mode: Mode,
    /// How it becomes files.
    pub unpack: Unpack,
    /// The unit to restart when it was installed anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<UnitName>,
}

/// Everything that is wrong with the restarts and artifacts of an index whose files are `files`.
pub(super) fn problems<'a>(
    restarts: &[Restart],
    artifacts: &[Artifact],
    files: impl Fn(&EntryPath) -> bool + 'a,
) -> Vec<IndexProblem> {
    let mut problems = Vec::new();
    for restart in restarts {
        for path in &restart.on {
            if !path.as_str().starts_with("host/") || !files(path) {
                problems.push(IndexProblem::RestartOn {
                    unit: restart.unit.clone(),
                    path: path.clone(),
                });
            }
        }
    }
    if artifacts.len() > limits::ARTIFACTS {
        problems.push(IndexProblem::TooManyArtifacts {
            found: artifacts.len(),
        });
    }
    for (at, artifact) in artifacts.iter().enumerate() {
        let mut wrong = |what: &'static str| {
            problems.push(IndexProblem::Artifact {
                name: artifact.name.clone(),
                what,
            });
        };
        let earlier = artifacts.iter().take(at);
        if earlier.clone().any(|a| a.name == artifact.name) {
            wrong("its name is listed twice");
        }
        if earlier
            .filter(|a| a.unpack == Unpack::None && artifact.unpack == Unpack::None)
            .any(|a| a.path == artifact.path)
        {
            wrong("its path is another artifact's too");
        }
        if !is_plain_name(&artifact.name) || !is_plain_name(&artifact.target) {
            wrong(
                "its name and its target's are 1 to 100 of letters, digits and ._-, no leading dot",
            );
        }
        if !is_plain_absolute(&artifact.path) {
            wrong(
                "its path is absolute, of letters, digits and ._-, without a component that begins with a dot",
            );
        }
        if artifact.bytes == 0 || artifact.bytes > limits::ARTIFACT_BYTES {
            wrong("its length is 0 or more than 512 MiB");
        }
        if artifact.mode.bits() & 0o7022 != 0 {
            wrong("its mode has set-id, sticky, group-writable or world-writable bits");
        }
    }
    problems
}

fn is_plain_name(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty()
        && text.len() <= limits::PATH_BYTES
        && !text.starts_with('.')
        && text.bytes().all(ok)
}

fn is_plain_absolute(text: &str) -> bool {
    match text.strip_prefix('/') {
        Some(rest) => rest.split('/').all(is_plain_name),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(change: impl FnOnce(&mut Artifact)) -> Artifact {
        let mut artifact = Artifact {
            name: "kubelet".to_owned(),
            target: "kubelet-1.36.3".to_owned(),
            sha256: Sha256Digest::of(b"x"),
            bytes: 1,
            path: "/opt/bin/kubelet".to_owned(),
            mode: Mode::new(0o755),
            unpack: Unpack::None,
            restart: Some("kubelet.service".parse().unwrap()),
        };
        change(&mut artifact);
        artifact
    }

    fn count(artifacts: &[Artifact]) -> usize {
        problems(&[], artifacts, |_| true).len()
    }

    #[test]
    fn each_rule_of_an_artifact_is_kept() {
        assert_eq!(count(&[artifact(|_| ())]), 0);
        for change in [
            (|a: &mut Artifact| a.name = "../x".to_owned()) as fn(&mut Artifact),
            |a| a.target = String::new(),
            |a| a.path = "opt/bin/kubelet".to_owned(),
            |a| a.path = "/opt/../etc/passwd".to_owned(),
            |a| a.path = "/opt//kubelet".to_owned(),
            |a| a.path = "/".to_owned(),
            |a| a.bytes = 0,
            |a| a.bytes = limits::ARTIFACT_BYTES + 1,
            |a| a.mode = Mode::new(0o4755),
            |a| a.mode = Mode::new(0o775),
        ] {
            assert_eq!(count(&[artifact(change)]), 1, "{:?}", artifact(change));
        }
        // The same name, and the same path.
        assert_eq!(count(&[artifact(|_| ()), artifact(|_| ())]), 2);
        let other = artifact(|a| a.name = "other".to_owned());
        assert_eq!(count(&[artifact(|_| ()), other]), 1);
    }

    #[test]
    fn a_restart_names_host_files_of_the_release() {
        let on = |path: &str| Restart {
            unit: "kubelet.service".parse().unwrap(),
            on: vec![path.parse().unwrap()],
        };
        let known = |path: &EntryPath| path.as_str() != "host/gone";
        assert!(problems(&[on("host/kubelet/config.yaml")], &[], known).is_empty());
        assert_eq!(problems(&[on("host/gone")], &[], known).len(), 1);
        assert_eq!(problems(&[on("manifests/a.yaml")], &[], known).len(), 1);
    }
}
