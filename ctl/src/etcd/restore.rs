//! Ordering a restore, or a reform: both begin another generation, in the keyring, and the next release tells the nodes.

use std::collections::BTreeSet;

use anyhow::Context as _;
use jiff::Timestamp;
use shared::backup::{BackupManifest, BackupName, PART_BYTES, RestoreOrder};
use shared::digest::Sha256Digest;
use shared::etcd::{EtcdRole, Generation};
use shared::names::GroupName;
use shared::store::{Backoff, Fetched, keys, with_retries};

use super::Backup;
use crate::context::Context;
use crate::exit::mistake;
use crate::keyring::{self, Keyring};
use crate::status::NodeReport;

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
        None => backups.iter().find(|b| b.problem().is_none()),
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
    let keyring = keyring::modify(context, |content| {
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
        ordered = Some(order);
        Ok(true)
    })
    .await?;
    Ok(keyring.content.etcd_generation)
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

/// What speaks against a reform, all of it: a cluster that had a leader may have taken writes, and its data would be left
/// behind. What a node does not say counts as a yes.
#[must_use]
pub fn reform_obstacles(
    keyring: &Keyring,
    group: &GroupName,
    nodes: &[NodeReport],
    backups: &[Backup],
) -> Vec<String> {
    let generation = keyring.content.etcd_generation;
    let mut found = Vec::new();
    let of_generation: BTreeSet<&BackupName> = backups
        .iter()
        .filter(|b| b.generation == generation.get())
        .map(|b| &b.name)
        .collect();
    if let Some(newest) = of_generation.last() {
        found.push(format!(
            "generation {generation} has been backed up ({newest}): restore that instead"
        ));
    }
    for node in nodes {
        let name = &node.node;
        match &node.status {
            Err(error) => found.push(format!("{group}/{name} cannot be asked: {error}")),
            Ok(status) => match &status.etcd {
                Some(etcd) if etcd.generation < generation => {}
                Some(etcd) if etcd.leader.is_some() => {
                    found.push(format!("{group}/{name} has seen a leader"));
                }
                Some(etcd) if matches!(etcd.role, EtcdRole::Member | EtcdRole::Learner) => {
                    found.push(format!("{group}/{name} is a member"));
                }
                _ => {}
            },
        }
    }
    found
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
        let all = [backup(new, Some("part 1 of 1 is gone")), backup(old, None)];
        assert_eq!(choose(&all, None).unwrap().name.to_string(), old);
        let named = choose(&all, Some(&new.parse().unwrap())).unwrap_err();
        assert!(named.to_string().contains("is gone"), "{named}");
        let absent = "20200101T000000Z-1".parse().unwrap();
        assert!(choose(&all, Some(&absent)).is_err());
        assert!(choose(&all[..1], None).is_err());
    }
}
