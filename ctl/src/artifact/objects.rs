//! An artifact's bytes: kept by their digest on this machine, and below the targets of each group in the bucket.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use shared::digest::Sha256Digest;
use shared::durable::{self, Attributes};
use shared::names::GroupName;
use shared::store::{Backoff, Fetched, StoreErrorKind, keys, put_immutable, with_retries};

use super::{ArtifactEntry, convert, fetch, is_url};
use crate::context::Context;

fn kept(directory: &Path, digest: &Sha256Digest) -> PathBuf {
    let kept = directory.join(".platform").join("artifacts");
    kept.join(digest.to_string())
}

/// Keeps bytes on this machine.
///
/// # Errors
/// What could not be written.
pub fn keep(directory: &Path, digest: &Sha256Digest, bytes: &[u8]) -> anyhow::Result<()> {
    let path = kept(directory, digest);
    let parent = path.parent().context("a kept file has a directory")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    durable::write_file(&path, bytes, Attributes::mode(0o600))?;
    Ok(())
}

/// Sees to it that an artifact's bytes lie below the targets of each of `groups`. They are taken from this machine, from
/// another group, or from their source, whichever has them.
///
/// # Errors
/// Bytes that nobody has, or that a store does not take.
pub async fn ensure(
    context: &Context,
    groups: &[GroupName],
    entry: &ArtifactEntry,
) -> anyhow::Result<()> {
    let store = context.store.as_ref();
    let mut missing = Vec::new();
    for group in groups {
        let key = keys::target(group, &entry.sha256, &entry.target());
        let there = with_retries(Backoff::INTERACTIVE, || store.list(&key)).await?;
        if !there.contains(&key) {
            missing.push(key);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let bytes = find(context, entry).await?;
    for key in missing {
        put_immutable(store, Backoff::INTERACTIVE, &key, &bytes)
            .await
            .with_context(|| format!("cannot upload artifact {}", entry.name))?;
    }
    Ok(())
}

/// Puts the agent where new machines install it from.
///
/// # Errors
/// As [`ensure`].
pub async fn upload_agent(context: &Context, entry: &ArtifactEntry) -> anyhow::Result<()> {
    let bytes = find(context, entry).await?;
    let key = keys::bootstrap_agent(&entry.sha256);
    let store = context.store.as_ref();
    Ok(put_immutable(store, Backoff::INTERACTIVE, &key, &bytes).await?)
}

async fn find(context: &Context, entry: &ArtifactEntry) -> anyhow::Result<Bytes> {
    let directory = &context.workspace.directory;
    let is_it = |bytes: &[u8]| Sha256Digest::of(bytes) == entry.sha256;
    let local = std::fs::read(kept(directory, &entry.sha256)).ok();
    if let Some(bytes) = local.filter(|bytes| is_it(bytes)) {
        return Ok(bytes.into());
    }
    for group in &context.workspace.groups {
        let key = keys::target(group, &entry.sha256, &entry.target());
        let get = || context.store.get(&key, entry.bytes, None);
        match with_retries(Backoff::INTERACTIVE, get).await {
            Ok(Fetched::Object { bytes, .. }) if is_it(&bytes) => return Ok(bytes),
            Ok(_) => {}
            Err(e) if e.kind == StoreErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    let nowhere = || {
        format!(
            "the bytes of artifact {} {} ({}) are neither on this machine nor in the bucket: add it again from {}",
            entry.name,
            entry.version,
            entry.sha256.short(),
            entry.source
        )
    };
    if !is_url(&entry.source) {
        bail!(nowhere());
    }
    let read = fetch(&entry.source).await.with_context(nowhere)?;
    if Sha256Digest::of(&read) != entry.source_sha256 {
        bail!("{}: it has other bytes now", nowhere());
    }
    let converted = convert(read, entry.member.as_deref())?;
    if !is_it(&converted.bytes) {
        bail!("{}: this platformctl packs it otherwise", nowhere());
    }
    keep(directory, &entry.sha256, &converted.bytes)?;
    Ok(converted.bytes.into())
}
