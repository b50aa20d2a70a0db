//! What a release changed against the one before it. Both bundles are fetched for that, once: the answer never changes, and
//! is kept on this machine. It names files and holds nothing of them.

use std::path::PathBuf;

use anyhow::Context as _;
use shared::durable::{self, Attributes};
use shared::trust::ReleaseTarget;

use super::{Entry, release_of};
use crate::context::Context;
use crate::diff::{Difference, Side, published_release};
use crate::keyring::Keyring;

/// In what a release differs from the one before it, by name only.
///
/// # Errors
/// A bundle that is gone, cannot be opened, or is not as it was signed; the release before, where that is gone.
pub async fn changes(
    context: &Context,
    keyring: &Keyring,
    entry: &Entry,
) -> anyhow::Result<Difference> {
    let before = match (&entry.before, entry.target.custom.replaces) {
        (None, Some(number)) => {
            let group = &entry.target.custom.group;
            let before = release_of(context, keyring, group, number).await;
            Some(before.with_context(|| format!("it replaced release {number}"))?)
        }
        (before, _) => before.clone(),
    };
    let path = kept(context, &entry.target, before.as_ref());
    let read = std::fs::read(&path).ok();
    if let Some(known) = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(known);
    }
    let read = async |target: &ReleaseTarget| {
        let number = target.release();
        let release = published_release(context, target).await;
        release.with_context(|| format!("release {number} cannot be read"))
    };
    let before = match &before {
        Some(before) => Some((read(before).await?, before.custom.agent.as_ref())),
        None => None,
    };
    let release = read(&entry.target).await?;
    let old = before.as_ref().map(|(release, agent)| Side {
        release,
        agent: *agent,
    });
    let new = Side {
        release: &release,
        agent: entry.target.custom.agent.as_ref(),
    };
    let difference = Difference::between(old, new).named();
    keep(&path, &difference);
    Ok(difference)
}

/// Named by the digests of both bundles, so that it can be of no others.
fn kept(context: &Context, target: &ReleaseTarget, before: Option<&ReleaseTarget>) -> PathBuf {
    let before = before.map_or_else(|| "nothing".to_owned(), |b| b.sha256.to_string());
    let directory = context.workspace.state_directory().join("history");
    directory.join(format!("{}-{before}.json", target.sha256))
}

/// What can't be kept is worked out again next time.
fn keep(path: &std::path::Path, difference: &Difference) {
    let made = path
        .parent()
        .is_some_and(|p| std::fs::create_dir_all(p).is_ok());
    let bytes = serde_json::to_vec(difference).unwrap_or_default();
    if !made || durable::write_file(path, &bytes, Attributes::mode(0o600)).is_err() {
        tracing::debug!(path = %path.display(), "what a release changed was not kept");
    }
}
