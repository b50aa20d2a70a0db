//! What a publish would change. Manifests and rendered host files are shown line by line; of every other file only that it
//! differs, since it may be a secret and a digest of a short secret is as good as the secret: so the digests that manifests name in
//! their paths are not shown either.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, anyhow};
use shared::bundle::{Artifact, FileEntry, Origin, Release, open, unpack};
use shared::check::secret_dir::SECRETS_ROOT;
use shared::digest::Sha256Digest;
use shared::limits;
use shared::names::{EntryPath, Place, ReleaseNumber};
use shared::store::{Backoff, Fetched, keys, with_retries};
use shared::trust::{AgentTarget, ReleaseTarget};
use shared::wrap::WrapContext;
use similar::TextDiff;

use crate::context::Context;
use crate::release::Content;

/// Hexadecimal digits of a secret directory's name.
const DIGEST_LENGTH: usize = 64;

/// One file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    path: EntryPath,
    kind: Kind,
    /// A unified diff, for a file whose text is shown.
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Added,
    Removed,
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Added => "added",
            Kind::Removed => "removed",
            Kind::Changed => "changed",
        };
        write!(f, "  {kind} {}", self.path)?;
        for line in self.text.lines() {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// What differs beyond files, a line each: artifacts, unit restarts, the agent. None of it is secret.
#[must_use]
pub fn host_changes(
    current: Option<&Release>,
    agent: Option<&AgentTarget>,
    content: &Content,
) -> Vec<String> {
    let index = current.map(Release::index);
    let (old, old_restarts) = index.map_or((&[][..], &[][..]), |i| (&i.artifacts, &i.restarts));
    let mut lines = Vec::new();
    for new in content.artifacts() {
        match old.iter().find(|o| o.name == new.name) {
            None => lines.push(format!("  added artifact {} at {}", new.target, new.path)),
            Some(same) if same == new => {}
            Some(was) if was.target != new.target => lines.push(format!(
                "  changed artifact {} to {}",
                was.target, new.target
            )),
            Some(_) => lines.push(format!("  changed artifact {}", new.target)),
        }
    }
    let kept = |o: &&Artifact| !content.artifacts().iter().any(|n| n.name == o.name);
    let removed = old.iter().filter(kept);
    lines.extend(removed.map(|o| format!("  removed artifact {} from {}", o.target, o.path)));
    if old_restarts != content.restarts() {
        lines.push("  changed the units to restart".to_owned());
    }
    if agent != content.agent() {
        let version = |a: Option<&AgentTarget>| a.map_or("none", |a| &a.version).to_owned();
        lines.push(format!(
            "  changed the agent from {} to {}",
            version(agent),
            version(content.agent())
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
///
/// # Errors
/// Content that breaks a limit.
pub fn compare(published: Option<&Release>, content: &Content) -> anyhow::Result<Vec<Change>> {
    let any = ReleaseNumber::from(std::num::NonZeroU64::MIN);
    let next = content.number(any)?;
    let files = |r: &Release| -> BTreeMap<EntryPath, FileEntry> {
        r.index()
            .files
            .iter()
            .map(|f| (f.path.clone(), f.clone()))
            .collect()
    };
    let old = published.map(files).unwrap_or_default();
    let new = files(&next);
    let mut paths: Vec<&EntryPath> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let changes = paths.into_iter().filter_map(|path| {
        let kind = match (old.get(path), new.get(path)) {
            (Some(a), Some(b)) if a == b => return None,
            (Some(_), Some(_)) => Kind::Changed,
            (None, _) => Kind::Added,
            (_, None) => Kind::Removed,
        };
        let side = |r: Option<&Release>| text_of(r, path);
        let (before, after) = (side(published), side(Some(&next)));
        Some(Change {
            path: path.clone(),
            kind,
            text: shown(&before, &after),
        })
    });
    Ok(changes.collect())
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
