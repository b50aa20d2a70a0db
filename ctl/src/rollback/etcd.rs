//! etcd's data goes forward only: a member of an older minor refuses, or damages, what a newer one has written.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;
use shared::bundle::{EtcdSection, Release};
use shared::check::yaml::parse_document;

use super::compose::manifests;

/// The etcd that a release runs, as the tag of its image says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EtcdVersion {
    /// Major and minor.
    Minor(u64, u64),
    /// An image whose tag is no version.
    Image(String),
}

impl fmt::Display for EtcdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(major, minor) => write!(f, "etcd {major}.{minor}"),
            Self::Image(image) => f.write_str(image),
        }
    }
}

/// Why a release may not follow the one that runs, on account of etcd; none where it may.
#[must_use]
pub fn etcd_refusal(then: &Release, running: &Release) -> Option<String> {
    refusal(&versions(manifests(then)), &versions(manifests(running)))
}

/// Why a release may not be published after the one that is current, on account of etcd: its data goes forward only. None
/// where it may, or begins another generation, which has no data of this one.
#[must_use]
pub(crate) fn etcd_behind(
    next: Option<&EtcdSection>,
    current: Option<&EtcdSection>,
) -> Option<String> {
    let (next, current) = (next?, current?);
    let goes_back = shared::etcd::goes_back(&current.version, &next.version);
    (next.generation == current.generation && goes_back).then(|| {
        format!(
            "it runs etcd {}, and the current release {}: etcd's data goes forward only, never to an older minor",
            next.version, current.version
        )
    })
}

/// The tags of etcd's image in a manifest; none where it does not run etcd.
#[must_use]
pub(crate) fn etcd_tags(manifest: &[u8]) -> Vec<String> {
    let Ok(pod) = parse_document(manifest) else {
        return Vec::new();
    };
    let images = images_of(&pod).into_iter();
    images
        .filter_map(|image| Some(tag_of(&image)?.to_owned()))
        .collect()
}

fn refusal(then: &BTreeSet<EtcdVersion>, running: &BTreeSet<EtcdVersion>) -> Option<String> {
    if then.is_empty() || running.is_empty() || then == running {
        return None;
    }
    let shown = |all: &BTreeSet<EtcdVersion>| {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        all.join(" and ")
    };
    Some(format!(
        "it runs {}, and the current release {}: etcd's data is not readable by another minor (restore a backup of then, or \
         publish the old files with the etcd of now)",
        shown(then),
        shown(running)
    ))
}

fn versions(manifests: impl Iterator<Item = String>) -> BTreeSet<EtcdVersion> {
    let images = manifests.filter_map(|text| parse_document(text.as_bytes()).ok());
    images
        .flat_map(|pod| images_of(&pod))
        .filter_map(|image| version_of(&image))
        .collect()
}

fn images_of(pod: &Value) -> Vec<String> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let containers = containers.into_iter().flatten();
    containers
        .filter_map(|c| c.get("image")?.as_str().map(str::to_owned))
        .collect()
}

/// None where the image is not etcd's.
fn tag_of(image: &str) -> Option<&str> {
    let tagged = image.split('@').next().unwrap_or(image);
    let last = tagged.rsplit('/').next().unwrap_or(tagged);
    let (name, tag) = last.split_once(':').unwrap_or((last, ""));
    (name == "etcd").then_some(tag)
}

fn version_of(image: &str) -> Option<EtcdVersion> {
    let tag = tag_of(image)?;
    let mut parts = tag.trim_start_matches('v').split('.');
    let mut number = || parts.next().and_then(|part| part.parse().ok());
    Some(match (number(), number()) {
        (Some(major), Some(minor)) => EtcdVersion::Minor(major, minor),
        _ => EtcdVersion::Image(image.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(images: &[&str]) -> BTreeSet<EtcdVersion> {
        images
            .iter()
            .filter_map(|image| version_of(image))
            .collect()
    }

    #[test]
    fn a_minor_is_a_wall_and_a_patch_is_none() {
        let (old, new) = (
            "registry.k8s.io/etcd:3.5.30-0",
            "registry.k8s.io/etcd:3.6.8-0",
        );
        assert!(
            refusal(&of(&[old]), &of(&[new]))
                .unwrap()
                .contains("etcd 3.5")
        );
        assert!(refusal(&of(&[new]), &of(&[old])).is_some());
        let patch = "mirror:5000/x/etcd:v3.6.9";
        assert_eq!(refusal(&of(&[patch]), &of(&[new])), None);
        assert_eq!(refusal(&of(&[]), &of(&[new])), None);
    }

    #[test]
    fn a_publish_never_goes_back_a_minor() {
        let section = |version: &str, generation| EtcdSection {
            generation: shared::etcd::Generation::new(generation).unwrap(),
            voters: 3,
            version: version.to_owned(),
            base: "secrets/etcd/base.yaml".parse().unwrap(),
            hold_back: Vec::new(),
            gone_after: shared::bundle::TimeSpan::from_secs(660),
        };
        let behind = |next, current: EtcdSection| etcd_behind(Some(&next), Some(&current));
        let (old, new) = ("3.5.24-0", "3.6.8-0");
        assert!(behind(section(old, 1), section(new, 1)).is_some());
        assert_eq!(behind(section(new, 1), section(old, 1)), None);
        assert_eq!(behind(section("3.6.1-0", 1), section(new, 1)), None);
        assert_eq!(behind(section(old, 2), section(new, 1)), None);
        assert_eq!(etcd_behind(None, Some(&section(new, 1))), None);
    }

    #[test]
    fn what_cannot_be_told_must_be_the_same() {
        let (a, b) = ("etcd@sha256:aa", "etcd@sha256:bb");
        assert_eq!(refusal(&of(&[a]), &of(&[a])), None);
        assert!(refusal(&of(&[a]), &of(&[b])).is_some());
        assert!(of(&["registry.k8s.io/etcd-backup:3.5.1", "etcdctl:3"]).is_empty());
    }

    #[test]
    fn images_are_those_of_the_containers() {
        let pod = r#"{"spec":{"containers":[{"image":"r/etcd:3.6.1"},{"name":"x"}]}}"#;
        let found = versions([pod.to_owned(), "{".to_owned()].into_iter());
        assert_eq!(found, BTreeSet::from([EtcdVersion::Minor(3, 6)]));
    }
}
