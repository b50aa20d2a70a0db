//! What a publish would change. Manifests and rendered host files are shown line by line; of every other file only that it
//! differs, since it may be a secret and a digest of a short secret is as good as the secret: so the digests that manifests name in
//! their paths are not shown either.

mod policy;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use shared::bundle::{Artifact, FileEntry, Index, Origin, Release, open, unpack};
use shared::check::secret_dir::SECRETS_ROOT;
use shared::digest::Sha256Digest;
use shared::limits;
use shared::names::{EntryPath, Place};
use shared::store::{Backoff, Fetched, keys, with_retries};
use shared::trust::{AgentTarget, ReleaseTarget};
use shared::wrap::WrapContext;
use similar::TextDiff;

use crate::context::Context;

/// Hexadecimal digits of a secret directory's name.
const DIGEST_LENGTH: usize = 64;

/// One file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which file.
    pub path: EntryPath,
    /// How.
    pub kind: ChangeKind,
    /// A unified diff, for a file whose text is shown; empty for every other.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// How a file differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its content, mode, owner or origin is another.
    Changed,
}

/// All in which two releases differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The files, by path.
    pub files: Vec<Change>,
    /// What differs beyond files, a line each: artifacts, unit restarts, the agent. None of it is secret.
    pub host: Vec<String>,
}

/// A release with the agent that adopts it: one side of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The release.
    pub release: &'a Release,
    /// The agent that its signed facts name.
    pub agent: Option<&'a AgentTarget>,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path)?;
        for line in self.text.lines() {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl Difference {
    /// In what `new` differs from `old`, or from nothing.
    #[must_use]
    pub fn between(old: Option<Side<'_>>, new: Side<'_>) -> Self {
        Self {
            files: compare(old.map(|o| o.release), new.release),
            host: host_changes(old, new),
        }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.host.is_empty()
    }

    /// The same without the files' texts: what is kept, and shown in lists.
    #[must_use]
    pub fn named(mut self) -> Self {
        self.files.iter_mut().for_each(|file| file.text.clear());
        self
    }

    /// For people, indented by two, a line for each thing and below it the text that is shown.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let files = self.files.iter().map(ToString::to_string);
        let all = files.chain(self.host.iter().cloned());
        all.map(|text| format!("  {}", text.replace('\n', "\n  ")))
    }
}

/// What differs beyond files.
fn host_changes(old: Option<Side<'_>>, new: Side<'_>) -> Vec<String> {
    let (index, content) = (old.map(|o| o.release.index()), new.release.index());
    let none = (&[][..], &[][..]);
    let (old_artifacts, old_restarts) =
        index.map_or(none, |i: &Index| (&i.artifacts[..], &i.restarts[..]));
    let mut lines = Vec::new();
    for new in &content.artifacts {
        match old_artifacts.iter().find(|o| o.name == new.name) {
            None => lines.push(format!("added artifact {} at {}", new.target, new.path)),
            Some(same) if same == new => {}
            Some(was) if was.target != new.target => {
                lines.push(format!("changed artifact {} to {}", was.target, new.target))
            }
            Some(_) => lines.push(format!("changed artifact {}", new.target)),
        }
    }
    let kept = |o: &&Artifact| !content.artifacts.iter().any(|n| n.name == o.name);
    let removed = old_artifacts.iter().filter(kept);
    lines.extend(removed.map(|o| format!("removed artifact {} from {}", o.target, o.path)));
    if old_restarts != content.restarts {
        lines.push("changed the units to restart".to_owned());
    }
    lines.extend(policy::changes(
        index.and_then(|i| i.rollout.as_ref()),
        content.rollout.as_ref(),
    ));
    let agent = old.and_then(|o| o.agent);
    if agent != new.agent {
        let version = |a: Option<&AgentTarget>| a.map_or("none", |a| &a.version).to_owned();
        lines.push(format!(
            "changed the agent from {} to {}",
            version(agent),
            version(new.agent)
        ));
    }
    lines
}

/// Fetches and opens a published release, with every check that a node makes of it.
///
/// # Errors
/// What could not be read, or what is not as it was signed.
pub async fn published_release(
    context: &Context,
    target: &ReleaseTarget,
) -> anyhow::Result<Release> {
    let group = &target.custom.group;
    let key = keys::target(group, &target.sha256, &target.name);
    let fetch = || context.store.get(&key, target.length, None);
    let Fetched::Object { bytes, .. } = with_retries(Backoff::INTERACTIVE, fetch).await? else {
        return Err(anyhow!("the store answered 304 to a plain read of {key}"));
    };
    if Sha256Digest::of(&bytes) != target.sha256 {
        return Err(anyhow!("{key} does not have the digest that was signed"));
    }
    let wrap_context = WrapContext {
        environment: target.custom.environment.clone(),
        group: group.to_string(),
        release: target.release().get(),
    };
    let identity = context
        .wrap
        .unwrap(&target.custom.identity, &wrap_context)
        .await?;
    let packed = open(&bytes, &identity, limits::BUNDLE_BYTES)?;
    let release = unpack(packed.expose()).with_context(|| format!("{key} is not a release"))?;
    let name = &context.workspace.name;
    let mismatches = release.index().mismatches(name, group, target.release());
    match mismatches.first() {
        Some(problem) => Err(anyhow!("{key}: {problem}")),
        None => Ok(release),
    }
}

/// The files in which the two differ, by path.
fn compare(published: Option<&Release>, next: &Release) -> Vec<Change> {
    let files = |r: &Release| -> BTreeMap<EntryPath, FileEntry> {
        r.index()
            .files
            .iter()
            .map(|f| (f.path.clone(), f.clone()))
            .collect()
    };
    let old = published.map(files).unwrap_or_default();
    let new = files(next);
    let mut paths: Vec<&EntryPath> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let changes = paths.into_iter().filter_map(|path| {
        let kind = match (old.get(path), new.get(path)) {
            (Some(a), Some(b)) if a == b => return None,
            (Some(_), Some(_)) => ChangeKind::Changed,
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Removed,
        };
        let side = |r: Option<&Release>| text_of(r, path);
        let (before, after) = (side(published), side(Some(next)));
        Some(Change {
            path: path.clone(),
            kind,
            text: shown(&before, &after),
        })
    });
    changes.collect()
}

/// The text of a manifest or of a host file that a template made; nothing for any other file.
fn text_of(release: Option<&Release>, path: &EntryPath) -> String {
    let is_shown = match path.place() {
        Place::Manifest(_) => true,
        Place::Host(_) => release.is_some_and(|r| {
            let entry = r.index().files.iter().find(|entry| entry.path == *path);
            entry.is_some_and(|entry| entry.origin == Origin::Template)
        }),
        _ => false,
    };
    if !is_shown {
        return String::new();
    }
    release
        .and_then(|r| r.bytes(path))
        .map(|b| String::from_utf8_lossy(b.expose()).into_owned())
        .unwrap_or_default()
}

fn shown(old: &str, new: &str) -> String {
    // A whole new or removed manifest is named, not poured out.
    if old.is_empty() || new.is_empty() {
        return String::new();
    }
    if old == new {
        return "(only its mode, owner or origin)".to_owned();
    }
    let (old, new) = (redacted(old), redacted(new));
    if old == new {
        return "(only its secrets: the pod restarts with the new ones)".to_owned();
    }
    TextDiff::from_lines(&old, &new)
        .unified_diff()
        .context_radius(2)
        .to_string()
}

/// The text without the digests of secret directories.
fn redacted(text: &str) -> String {
    let mut parts = text.split(SECRETS_ROOT);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str(SECRETS_ROOT);
        let pod_ends = part
            .get(1..)
            .and_then(|rest| rest.find('/'))
            .map(|at| at + 2);
        let (pod, rest) = part.split_at(pod_ends.unwrap_or(0));
        let digest = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        shown.push_str(pod);
        if digest == DIGEST_LENGTH {
            shown.push_str("<digest>");
            shown.push_str(rest.get(digest..).unwrap_or_default());
        } else {
            shown.push_str(rest);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_secrets_are_not_shown() {
        let manifest = |digest: &str, image: &str| {
            let path = format!("{SECRETS_ROOT}/etcd/{digest}");
            format!(
                "image: {image}\npath: \"{path}\"\nmount: {SECRETS_ROOT}\nkey: {SECRETS_ROOT}/tls.key\n"
            )
        };
        let (a, b) = ("0a".repeat(32), "1b".repeat(32));
        let text = shown(&manifest(&a, "one"), &manifest(&b, "two"));
        assert!(
            text.contains("-image: one") && text.contains("+image: two"),
            "{text}"
        );
        assert!(text.contains("/etcd/<digest>\""), "{text}");
        assert!(!text.contains(&a) && !text.contains(&b), "{text}");
        let text = shown(&manifest(&a, "one"), &manifest(&b, "one"));
        assert!(text.contains("only its secrets"), "{text}");
        let text = shown(&manifest(&a, "one"), &manifest(&a, "one"));
        assert!(text.contains("only its mode"), "{text}");
        assert_eq!(redacted(&manifest("latest", "é")), manifest("latest", "é"));
    }
}
