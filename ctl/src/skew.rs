//! A kubelet is never newer than any API server: Kubernetes supports the other order only. What runs is what nodes report, and
//! what is published is where they are going; a release must suit both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Context as _;
use jiff::Timestamp;
use shared::bundle::Release;
use shared::names::{EntryPath, GroupName, Place, ReleaseNumber};
use shared::rollout::{GONE_AFTER, NodeSeen};

use crate::context::Context;
use crate::diff::published_release;
use crate::env::SECURE;
use crate::exit::mistake;
use crate::history::release_of;
use crate::keyring::Keyring;
use crate::publish::{Planned, read_published};
use crate::status::{GroupStatus, NodeReport, read_group_status};

/// A version of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KubeVersion(u64, u64, u64);

/// API servers that a kubelet must not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooOld(Vec<String>);

// === impl KubeVersion ===

impl KubeVersion {
    /// `1.36.3` or `v1.36.3`, whatever follows it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let core = text.split(['-', '+', '@', '_']).next()?;
        let mut parts = core.split('.').map(str::parse);
        let version = Self(
            parts.next()?.ok()?,
            parts.next()?.ok()?,
            parts.next()?.ok()?,
        );
        parts.next().is_none().then_some(version)
    }

    /// Of a target such as `kubelet-1.36.3`.
    #[must_use]
    pub fn of_kubelet<S: AsRef<str>>(targets: &[S]) -> Option<Self> {
        let mut named = targets.iter().map(AsRef::as_ref);
        named.find_map(|name| Self::parse(name.strip_prefix("kubelet-")?))
    }

    /// Of the oldest API server in these manifests, by the tag of its image.
    #[must_use]
    pub fn of_api_server<'a>(manifests: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let images = manifests.flat_map(|bytes| {
            let pod: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
            let containers = pod
                .pointer("/spec/containers")
                .and_then(serde_json::Value::as_array)
                .cloned();
            let images = containers.unwrap_or_default().into_iter();
            images.filter_map(|container| Some(container.get("image")?.as_str()?.to_owned()))
        });
        let version = |image: String| {
            let (_, name) = image.rsplit_once('/').unwrap_or(("", &image));
            Self::parse(name.strip_prefix("kube-apiserver:")?)
        };
        images.filter_map(version).min()
    }

    fn of_release(release: &Release) -> Option<Self> {
        let is_manifest = |path: &EntryPath| matches!(path.place(), Place::Manifest(_));
        let manifests = release
            .files()
            .filter(|(entry, _)| is_manifest(&entry.path))
            .map(|(_, bytes)| bytes.expose());
        Self::of_api_server(manifests)
    }
}

impl fmt::Display for KubeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl fmt::Display for TooOld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Whether a kubelet suits the API servers of these releases, each with who runs it.
///
/// # Errors
/// [`TooOld`].
pub fn suits(
    kubelet: KubeVersion,
    run: &BTreeMap<ReleaseNumber, Vec<String>>,
    api_servers: &BTreeMap<ReleaseNumber, Option<KubeVersion>>,
) -> Result<(), TooOld> {
    let mut objections = Vec::new();
    for (release, who) in run {
        let who = who.join(", ");
        match api_servers.get(release).copied().flatten() {
            Some(version) if version >= kubelet => {}
            Some(version) => {
                objections.push(format!("{who}: release {release}, kube-apiserver {version}"));
            }
            None => objections.push(format!(
                "{who}: release {release}, whose kube-apiserver has an image without a version as its tag"
            )),
        }
    }
    match objections.is_empty() {
        true => Ok(()),
        false => Err(TooOld(objections)),
    }
}

/// The releases that the nodes of a group run, and the published one, each with who has it. Nodes that have been silent for so
/// long that they are gone do not count; one whose report says nothing may run anything.
fn in_use(status: &GroupStatus, now: Timestamp) -> BTreeMap<ReleaseNumber, Vec<String>> {
    let mut run: BTreeMap<ReleaseNumber, Vec<String>> = BTreeMap::new();
    if let Some(published) = status.published {
        run.entry(published)
            .or_default()
            .push("published".to_owned());
    }
    for NodeReport { node, status, .. } in &status.nodes {
        let Ok(status) = status else {
            continue;
        };
        let is_gone = now.duration_since(NodeSeen::of(status).written_at) > GONE_AFTER;
        if let Some(release) = status.release.filter(|_| !is_gone) {
            run.entry(release).or_default().push(node.clone());
        }
    }
    run
}

/// Whether a publish of another group than secure may bring its kubelet: every secure node that reports runs an API server that
/// is as new, and the published release of secure has one. None where it brings no newer kubelet.
///
/// # Errors
/// What could not be read.
pub async fn objection(
    context: &Context,
    keyring: &Keyring,
    planned: &Planned,
) -> anyhow::Result<Option<TooOld>> {
    let secure = GroupName::new(SECURE)?;
    let Some((has, brings)) = planned.other_kubelet() else {
        return Ok(None);
    };
    let Some(kubelet) = KubeVersion::of_kubelet(&[brings]) else {
        return Ok(None);
    };
    if KubeVersion::of_kubelet(&[has]).is_some_and(|has| kubelet <= has) {
        return Ok(None);
    }
    let (status, _) = read_group_status(context, keyring, &secure).await?;
    let run = in_use(&status, context.store_now());
    let mut api_servers = BTreeMap::new();
    for number in run.keys() {
        let target = release_of(context, keyring, &secure, *number).await?;
        let release = published_release(context, &target).await.with_context(|| {
            format!("which kube-apiserver release {number} of group {secure} has cannot be read")
        })?;
        api_servers.insert(*number, KubeVersion::of_release(&release));
    }
    Ok(suits(kubelet, &run, &api_servers).err())
}

/// Refuses a release of secure whose API server is older than a kubelet that another group has, or is about to have.
///
/// # Errors
/// A [`crate::exit::Mistake`] that names them; what could not be read.
pub async fn keep_ahead_of_kubelets(
    context: &Context,
    keyring: &Keyring,
    planned: &Planned,
) -> anyhow::Result<()> {
    let secure = GroupName::new(SECURE)?;
    let Some(current) = planned
        .published
        .current()
        .filter(|_| *planned.group() == secure)
    else {
        return Ok(());
    };
    let Some(brings) = planned.api_server() else {
        return Ok(());
    };
    if planned.is_unchanged() {
        return Ok(());
    }
    // Only a step back can get behind a kubelet: whatever mends secure goes in without a look at the others. A bundle that cannot
    // be read is no reason to keep the one that replaces it back.
    let running = published_release(context, current).await.ok();
    let running = running.as_ref().and_then(KubeVersion::of_release);
    if running.is_some_and(|running| brings >= running) {
        return Ok(());
    }
    let mut objections = Vec::new();
    for group in context.workspace.select(&[])? {
        if group == secure {
            continue;
        }
        let published = read_published(context, keyring, &group).await?;
        let Some(of_group) = published.current() else {
            continue;
        };
        let (status, _) = read_group_status(context, keyring, &group).await?;
        let run = in_use(&status, context.store_now());
        let numbers: BTreeSet<ReleaseNumber> = run.keys().copied().collect();
        for number in numbers {
            let artifacts = match number == of_group.release() {
                true => of_group.custom.artifacts.clone(),
                false => {
                    let target = release_of(context, keyring, &group, number).await?;
                    target.custom.artifacts
                }
            };
            let newer = KubeVersion::of_kubelet(&artifacts).filter(|kubelet| *kubelet > brings);
            if let Some(kubelet) = newer {
                let who = run
                    .get(&number)
                    .map(|who| who.join(", "))
                    .unwrap_or_default();
                objections.push(format!(
                    "{group}: kubelet {kubelet} of release {number} ({who})"
                ));
            }
        }
    }
    match objections.is_empty() {
        true => Ok(()),
        false => Err(mistake(format!(
            "group {secure} would get kube-apiserver {brings}, and a kubelet must not be newer than it; roll these back first:\n  {}",
            objections.join("\n  ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> KubeVersion {
        KubeVersion::parse(text).unwrap()
    }

    fn number(n: u64) -> ReleaseNumber {
        ReleaseNumber::new(n).unwrap()
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version("1.36.10") > version("v1.36.9"));
        assert_eq!(version("1.36.3-rc.1"), version("v1.36.3@sha256:00"));
        for text in ["1.36", "latest", "", "1.36.3.4"] {
            assert_eq!(KubeVersion::parse(text), None, "{text}");
        }
        let names = ["cni-1.9.0", "kubelet-1.36.3"];
        assert_eq!(KubeVersion::of_kubelet(&names), Some(version("1.36.3")));
        let pod = br#"{"spec":{"containers":[{"image":"x"},{"image":"registry.k8s.io/kube-apiserver:v1.36.2"}]}}"#;
        let found = KubeVersion::of_api_server([&b"{}"[..], &pod[..]].into_iter());
        assert_eq!(found, Some(version("1.36.2")));
    }

    #[test]
    fn every_node_and_what_is_published_has_to_be_as_new() {
        let who = |name: &str| vec![name.to_owned()];
        let run = BTreeMap::from([(number(4), who("node-a")), (number(5), who("published"))]);
        let with = |four: &str, five: &str| {
            let servers = [(4, four), (5, five)];
            let known = servers.map(|(n, text)| (number(n), KubeVersion::parse(text)));
            suits(version("1.36.3"), &run, &BTreeMap::from(known))
        };
        assert_eq!(with("1.36.3", "1.36.4"), Ok(()));
        // A node that has not adopted the newer release yet, and a rollback that no node has adopted yet.
        for (four, five, says) in [
            (
                "1.36.2",
                "1.36.3",
                "node-a: release 4, kube-apiserver 1.36.2",
            ),
            (
                "1.36.3",
                "1.36.2",
                "published: release 5, kube-apiserver 1.36.2",
            ),
            ("1.36.3", "latest", "published: release 5, whose"),
        ] {
            let refused = with(four, five).unwrap_err().to_string();
            assert!(refused.starts_with(says), "{refused}");
        }
    }
}
