//! Ordering a restore, or a reform: both begin another generation, in the keyring, and the next release tells the nodes.

use std::collections::BTreeSet;

use anyhow::Context as _;
use jiff::Timestamp;
use shared::backup::{BackupManifest, BackupName, PART_BYTES, RestoreOrder};
use shared::digest::Sha256Digest;
use shared::documents::{Pki, StepMark};
use shared::etcd::Generation;
use shared::store::{Backoff, Fetched, keys, with_retries};

use super::Backup;
use crate::context::Context;
use crate::exit::mistake;
use crate::keyring;
use crate::rotate::Subject;

/// The backup to restore: the one that was named, or else the newest that nothing speaks against.
///
/// # Errors
/// A [`crate::exit::Mistake`] where there is none, or the named one cannot be restored.
pub fn choose<'a>(
    backups: &'a [Backup],
    wanted: Option<&BackupName>,
) -> anyhow::Result<&'a BackupManifest> {
    let found = match wanted {
        Some(name) => backups.iter().find(|b| b.name == *name),
        // Within a generation the revision says which holds more, whatever the clock of the node that took it.
        None => backups
            .iter()
            .filter(|b| b.problem().is_none())
            .max_by_key(|b| (b.generation, b.name.revision(), b.name.at())),
    };
    let Some(found) = found else {
        return Err(mistake(match wanted {
            Some(name) => format!(
                "there is no backup {name} (`platformctl etcd list` names those that there are)"
            ),
            None => "there is no backup that could be restored (`platformctl etcd list` says why)"
                .to_owned(),
        }));
    };
    if let Some(problem) = found.problem() {
        return Err(mistake(format!(
            "backup {} cannot be restored: {problem}",
            found.name
        )));
    }
    found
        .manifest
        .as_ref()
        .map_err(|e| mistake(format!("backup {} cannot be restored: {e}", found.name)))
}

/// Reads every part of a backup and holds it against its digest. `read` is told of each.
///
/// # Errors
/// The part that was altered, or could not be read.
pub async fn verify_parts(
    context: &Context,
    backup: &BackupManifest,
    mut read: impl FnMut(usize),
) -> anyhow::Result<()> {
    for (part, digest) in backup.parts.iter().enumerate() {
        let key = keys::snapshot_part(backup.generation, &backup.name, part);
        let get = || context.store.get(&key, PART_BYTES, None);
        let fetched = with_retries(Backoff::INTERACTIVE, get).await;
        let fetched = fetched.with_context(|| format!("cannot read {key}"))?;
        let Fetched::Object { bytes, .. } = fetched else {
            anyhow::bail!("the store answered 304 to a plain read of {key}");
        };
        if Sha256Digest::of(&bytes) != *digest {
            return Err(mistake(format!(
                "backup {} cannot be restored: {key} was altered in the bucket. Restore another one, or bring the object's version \
                 of {} back",
                backup.name, backup.finished_at
            )));
        }
        read(part + 1);
    }
    Ok(())
}

/// Writes the order into the keyring: the next generation, from that backup. Gives the generation.
///
/// # Errors
/// [`keyring::modify`]'s.
pub async fn order(
    context: &Context,
    backup: &BackupManifest,
    by: &str,
    now: Timestamp,
) -> anyhow::Result<Generation> {
    let mut ordered: Option<RestoreOrder> = None;
    let keyring = keyring::modify_numbered(context, |content, version| {
        // A write that was not answered and has happened all the same: it is ordered once.
        if ordered.is_some() && content.etcd_restore == ordered {
            return Ok(false);
        }
        let latest = content.etcd_generation.get().max(backup.generation);
        let latest = Generation::new(latest).context("a generation is positive")?;
        let order = RestoreOrder {
            generation: latest.next().get(),
            backup: backup.clone(),
            by: by.to_owned(),
            at: now,
        };
        order.check(&context.workspace.name, &backup.group)?;
        content.etcd_generation = latest.next();
        content.etcd_restore = Some(order.clone());
        content.etcd_restoring = true;
        if let Some(pki) = &mut content.pki {
            read_backup(pki, backup, version, now);
        }
        ordered = Some(order);
        Ok(true)
    })
    .await?;
    Ok(keyring.content.etcd_generation)
}

/// The names of the keys of encryption at rest that the content of `backup` needs and the keyring has no more.
#[must_use]
pub fn lost_keys<'a>(pki: Option<&Pki>, backup: &'a BackupManifest) -> Vec<&'a str> {
    let older = pki.into_iter().flat_map(|p| &p.at_rest.older);
    let mut known: BTreeSet<&str> = older.map(|o| o.key.name.as_str()).collect();
    let keys = pki.into_iter().flat_map(Pki::encryption_keys);
    known.extend(keys.map(|key| key.name.as_str()));
    let needed = backup.encryption_keys.iter().map(String::as_str);
    needed.filter(|name| !known.contains(name)).collect()
}

/// What a backup brings back may be stored under a key that was retired since: the API server is given that one to read
/// with. And whatever was rewritten is so no more.
fn read_backup(pki: &mut Pki, backup: &BackupManifest, version: u64, now: Timestamp) {
    let mut reads = false;
    for older in &mut pki.at_rest.older {
        if backup.encryption_keys.contains(&older.key.name) {
            older.reads = true;
            older.retired = None;
            reads = true;
        }
    }
    let rewrote = pki.at_rest.rewrite.take().is_some();
    if reads || rewrote {
        let mark = StepMark {
            keyring: version,
            at: now,
            groups: BTreeSet::from([backup.group.clone()]),
        };
        let subject = Subject::Encryption.as_str().to_owned();
        pki.rotations.insert(subject, mark);
    }
}

/// Ends what is under way: from the next release on, nodes have no key to the backups any more, and releases are rolled out in
/// turns again. False where nothing was.
///
/// # Errors
/// [`keyring::modify`]'s.
pub async fn finish(context: &Context) -> anyhow::Result<bool> {
    let mut had = false;
    keyring::modify(context, |content| {
        let ended = std::mem::take(&mut content.etcd_restoring);
        had |= ended;
        Ok(ended)
    })
    .await?;
    Ok(had)
}

/// Begins another generation with nothing in it.
///
/// # Errors
/// [`keyring::modify`]'s.
pub async fn begin_anew(context: &Context, from: Generation) -> anyhow::Result<Generation> {
    let keyring = keyring::modify(context, |content| {
        // Somebody else's, or ours that was not answered.
        if content.etcd_generation != from {
            return Ok(false);
        }
        content.etcd_generation = from.next();
        content.etcd_restore = None;
        content.etcd_restoring = false;
        Ok(true)
    })
    .await?;
    Ok(keyring.content.etcd_generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(name: &str, missing: Option<&str>) -> Backup {
        let manifest = serde_json::from_value(serde_json::json!({
            "format": 1, "environment": "dev", "group": "secure", "generation": 1, "name": name,
            "finished_at": "2026-11-23T03:00:00Z", "node": "i-1", "member_id": "a", "cluster_id": "b",
            "etcd_version": "3.6.8", "plain_bytes": 9000, "plain_sha256": "00".repeat(32),
            "sealed_bytes": 9500, "parts": ["00".repeat(32)], "recipients": [],
        }));
        Backup {
            generation: 1,
            name: name.parse().unwrap(),
            manifest: Ok(manifest.unwrap()),
            missing: missing.map(str::to_owned),
        }
    }

    #[test]
    fn the_newest_that_nothing_speaks_against() {
        let (new, old) = ("20261123T024942Z-7", "20261122T024942Z-5");
        // A node whose clock was ahead, and that held less.
        let behind = backup("20261124T024942Z-4", None);
        let of_now = backup(old, None);
        assert_eq!(
            choose(&[behind, of_now], None).unwrap().name.to_string(),
            old
        );
        let all = [backup(new, Some("part 1 of 1 is gone")), backup(old, None)];
        assert_eq!(choose(&all, None).unwrap().name.to_string(), old);
        let named = choose(&all, Some(&new.parse().unwrap())).unwrap_err();
        assert!(named.to_string().contains("is gone"), "{named}");
        let absent = "20200101T000000Z-1".parse().unwrap();
        assert!(choose(&all, Some(&absent)).is_err());
        assert!(choose(&all[..1], None).is_err());
    }
}
