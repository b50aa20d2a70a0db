//! Keys of encryption at rest that were retired: kept for as long as a backup may hold what they encrypted.

use anyhow::Context as _;
use jiff::Timestamp;
use shared::backup::{BackupName, BackupSettings, RestoreOrder, kept_until};
use shared::documents::OlderKey;
use shared::names::GroupName;

use super::decide::{Evidence, not_adopted};
use super::evidence::gather;
use crate::context::Context;
use crate::env::SECURE;
use crate::etcd::{self, Backup};
use crate::exit::mistake;
use crate::keyring;

/// A retired key, and what needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OlderView {
    /// The key's name.
    pub name: String,
    /// What stands against dropping it, a line each.
    pub needed_by: Vec<String>,
}

/// What stands against dropping a retired key. What cannot be read counts as a yes: a key that is gone is gone for ever.
#[must_use]
pub fn needed_by(
    older: &OlderKey,
    backups: &[Backup],
    restoring: Option<&RestoreOrder>,
    evidence: &Evidence,
) -> Vec<String> {
    let name = &older.key.name;
    let mut found = Vec::new();
    if older.reads {
        found.push("the API server reads with it what a restore has brought back".to_owned());
    }
    match &older.retired {
        None if !older.reads => {
            found.push("the keyring does not say when it was retired".to_owned())
        }
        None => {}
        // Until then a node makes backups that name it.
        Some(mark) => found.extend(not_adopted(mark, evidence).iter().map(ToString::to_string)),
    }
    if let Some(order) = restoring
        && order.backup.encryption_keys.contains(name)
    {
        found.push(format!("backup {} is being restored", order.backup.name));
    }
    let names: Vec<BackupName> = backups.iter().map(|b| b.name.clone()).collect();
    found.extend(backups.iter().filter_map(|b| of_backup(name, b, &names)));
    found
}

fn of_backup(key: &str, backup: &Backup, all: &[BackupName]) -> Option<String> {
    let why = match &backup.manifest {
        Ok(manifest) if !manifest.encryption_keys.iter().any(|k| k == key) => return None,
        Ok(_) => "needs it",
        Err(_) => "may need it, and does not say (its manifest cannot be gone by)",
    };
    let settings = BackupSettings::usual(backup.generation, Vec::new(), Vec::new());
    let until = match kept_until(&settings, all, &backup.name) {
        Some(until) => format!("until {until:.0}"),
        None => "until there is a newer one".to_owned(),
    };
    Some(format!("backup {} {why}, and is kept {until}", backup.name))
}

/// The retired keys, each with what needs it.
///
/// # Errors
/// A store that fails.
pub async fn older_keys(context: &Context, now: Timestamp) -> anyhow::Result<Vec<OlderView>> {
    let found = keyring::read_required(context).await?;
    let Some(pki) = &found.content.pki else {
        return Ok(Vec::new());
    };
    if pki.at_rest.older.is_empty() {
        return Ok(Vec::new());
    }
    let group: GroupName = SECURE.parse().context("the secure group has a name")?;
    let key = &found.group(&group)?.group_key;
    let backups = etcd::list(context, &group, key)
        .await
        .context("the backups cannot be listed")?;
    let evidence = gather(context, &found, now).await?;
    let order = found.content.etcd_restore.as_ref();
    let order = order.filter(|_| found.content.etcd_restoring);
    let view = |older: &OlderKey| OlderView {
        name: older.key.name.clone(),
        needed_by: needed_by(older, &backups, order, &evidence),
    };
    Ok(pki.at_rest.older.iter().map(view).collect())
}

/// Drops the retired keys that nothing needs, or the one that is named, for ever. Gives their names.
///
/// # Errors
/// A [`crate::exit::Mistake`] where nothing can be dropped, or the named one cannot: with everything that needs it.
pub async fn drop_older(
    context: &Context,
    named: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<Vec<String>> {
    let views = older_keys(context, now).await?;
    let wanted: Vec<&OlderView> = views
        .iter()
        .filter(|v| named.is_none_or(|name| v.name == name))
        .collect();
    if wanted.is_empty() {
        return Err(mistake(match named {
            Some(name) => format!("the keyring has no retired key {name}; nothing is dropped"),
            None => "the keyring has no retired key of encryption at rest".to_owned(),
        }));
    }
    let (free, needed): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|v| v.needed_by.is_empty());
    if free.is_empty() {
        let mut text = "no key is dropped:".to_owned();
        for view in needed {
            for line in &view.needed_by {
                text.push_str(&format!("\n  {}: {line}", view.name));
            }
        }
        return Err(mistake(text));
    }
    let gone: Vec<String> = free.iter().map(|v| v.name.clone()).collect();
    keyring::modify(context, |content| {
        let Some(pki) = content.pki.as_mut() else {
            return Ok(false);
        };
        let before = pki.at_rest.older.len();
        // One that a restore took up again meanwhile stays.
        let goes = |o: &OlderKey| !o.reads && gone.contains(&o.key.name);
        pki.at_rest.older.retain(|o| !goes(o));
        Ok(pki.at_rest.older.len() != before)
    })
    .await?;
    Ok(gone)
}

#[cfg(test)]
mod tests;
