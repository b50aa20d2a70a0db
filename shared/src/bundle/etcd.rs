//! The etcd that a release's nodes run (§3.8): which cluster, how many members, and what only the node can add to it.

use serde::{Deserialize, Serialize};

use super::IndexProblem;
use super::rollout::TimeSpan;
use crate::etcd::Generation;
use crate::names::EntryPath;

/// Most members with a vote: more make etcd slower, and nothing safer.
pub const MOST_VOTERS: u32 = 9;
/// The shortest time after which a machine that says nothing may be taken to be gone. Its members have to be unreachable
/// besides.
pub const LEAST_GONE_AFTER: TimeSpan = TimeSpan::from_secs(1);

/// What the nodes of a group that runs etcd go by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSection {
    /// Which cluster it is.
    pub generation: Generation,
    /// How many members have a vote.
    pub voters: u32,
    /// The version of etcd, as the tag of its image.
    pub version: String,
    /// The file, in the release, that the configuration is made from.
    pub base: EntryPath,
    /// Manifests that a node without a member's configuration does not run.
    pub hold_back: Vec<EntryPath>,
    /// A machine that has said nothing for this long, and whose member nobody reaches, is gone: another may take its place.
    pub gone_after: TimeSpan,
}

/// Everything that is wrong with the section of an index whose files are `files`.
pub(super) fn problems<'a>(
    section: Option<&EtcdSection>,
    files: impl Fn(&EntryPath) -> bool + 'a,
) -> Vec<IndexProblem> {
    let Some(section) = section else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    let mut wrong = |field, what: String| problems.push(IndexProblem::Etcd { field, what });
    if section.voters == 0 || section.voters > MOST_VOTERS {
        wrong("voters", format!("is not 1 to {MOST_VOTERS}"));
    }
    if section.gone_after < LEAST_GONE_AFTER {
        wrong("gone_after", format!("is less than {LEAST_GONE_AFTER}"));
    }
    if section.version.is_empty() || section.version.len() > 128 {
        wrong("version", "is not 1 to 128 characters".to_owned());
    }
    if !section.base.as_str().starts_with("secrets/") || !files(&section.base) {
        wrong(
            "base",
            format!("refers to {}, which is no file of a pod here", section.base),
        );
    }
    for path in &section.hold_back {
        if !path.as_str().starts_with("manifests/") || !files(path) {
            wrong(
                "hold_back",
                format!("refers to {path}, which is no manifest here"),
            );
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_kept() {
        let section = EtcdSection {
            generation: Generation::FIRST,
            voters: 3,
            version: "3.6.8-0".to_owned(),
            base: "secrets/etcd/base.yaml".parse().unwrap(),
            hold_back: vec!["manifests/etcd.yaml".parse().unwrap()],
            gone_after: TimeSpan::from_secs(660),
        };
        let count = |change: fn(&mut EtcdSection)| {
            let mut changed = section.clone();
            change(&mut changed);
            problems(Some(&changed), |path| !path.as_str().contains("absent")).len()
        };
        assert_eq!(count(|_| ()), 0);
        assert_eq!(problems(None, |_| false), []);
        for change in [
            (|s: &mut EtcdSection| s.voters = 0) as fn(&mut EtcdSection),
            |s| s.voters = 10,
            |s| s.version = String::new(),
            |s| s.gone_after = TimeSpan::from_secs(0),
            |s| s.base = "host/base.yaml".parse().unwrap(),
            |s| s.base = "secrets/etcd/absent".parse().unwrap(),
            |s| s.hold_back = vec!["secrets/etcd/base.yaml".parse().unwrap()],
            |s| s.hold_back = vec!["manifests/absent.yaml".parse().unwrap()],
        ] {
            assert_eq!(count(change), 1);
        }
    }
}
