//! What the secrets bucket holds: the keyring, when its certificates and the signatures run out, and backups.

use jiff::Timestamp;
use shared::backup::BackupName;
use shared::names::GroupName;

use super::Line;
use crate::context::Context;
use crate::env::SECURE;
use crate::etcd::{self, Backup, BackupState, state_of};
use crate::expiry::{Expiry, expiries};
use crate::keyring::{self, Keyring};
use crate::publish::read_published;

/// Where etcd's backups lie.
pub(super) const BACKUPS: &str = "etcd/";

pub(super) async fn check(context: &Context, now: Timestamp) -> Vec<Line> {
    let mut lines = Vec::new();
    match keyring::read_existing(context).await {
        Ok(None) => lines.push(Line::ok(
            "keyring",
            "there is none yet: the first publish makes it",
        )),
        Ok(Some(keyring)) => {
            lines.push(Line::ok(
                "keyring",
                format!("version {} opens", keyring.mark.version),
            ));
            match gather(context, &keyring).await {
                Ok(all) => lines.extend(judge_expiries(&all, now)),
                Err(error) => lines.push(Line::fail(
                    "expiries",
                    format!("the published metadata cannot be read: {error:#}"),
                    "see `platformctl status`",
                )),
            }
        }
        Err(error) => lines.push(Line::fail(
            "keyring",
            format!("{error:#}"),
            "nothing can be published without it: mend what it says, or bring an older version of operator/keyring.json back",
        )),
    }
    if let Some(line) = backups(context, now).await {
        lines.push(line);
    }
    lines
}

/// What is there to be relied on, where etcd runs. Without a keyring nothing was published, and nothing is believed.
async fn backups(context: &Context, now: Timestamp) -> Option<Line> {
    if !context.workspace.environment.on_aws() {
        return None;
    }
    let group: GroupName = SECURE.parse().ok()?;
    let keyring = keyring::read_existing(context).await.ok().flatten();
    let keys = keyring.as_ref().and_then(|k| k.content.groups.get(&group));
    let listed = match keys {
        Some(keys) => etcd::list(context, &group, &keys.group_key).await,
        None => Ok(Vec::new()),
    };
    Some(judge_backups(&listed.map_err(|e| e.to_string()), now))
}

async fn gather(context: &Context, keyring: &Keyring) -> anyhow::Result<Vec<Expiry>> {
    let mut published = Vec::new();
    for group in &context.workspace.groups {
        let found = read_published(context, keyring, group).await?;
        published.extend(found.expiry().map(|e| (group.clone(), e)));
    }
    Ok(expiries(&keyring.content, &published))
}

fn judge_expiries(all: &[Expiry], now: Timestamp) -> Vec<Line> {
    let soon: Vec<&Expiry> = all.iter().filter(|e| e.is_soon(now)).collect();
    if soon.is_empty() {
        return all
            .first()
            .map(|first| {
                Line::ok(
                    "expiries",
                    format!("the first: {}, at {:.0}", first.what, first.at),
                )
            })
            .into_iter()
            .collect();
    }
    let line = |expiry: &&Expiry| {
        let fix = match expiry.what.split(' ').next() {
            Some("certificate") => "`platformctl publish` makes it again",
            Some("authority") => "`platformctl rotate ca`",
            Some("root") => "`platformctl rotate signing`",
            _ => "`platformctl refresh`",
        };
        let line = if expiry.at < now {
            Line::fail(
                "expiries",
                format!("{} has expired at {:.0}", expiry.what, expiry.at),
                fix,
            )
        } else {
            Line::warn(
                "expiries",
                format!("{} expires soon, at {:.0}", expiry.what, expiry.at),
                fix,
            )
        };
        Line {
            expires: true,
            ..line
        }
    };
    soon.iter().map(line).collect()
}

fn judge_backups(listed: &Result<Vec<Backup>, String>, now: Timestamp) -> Line {
    let backups = match listed {
        Ok(backups) => backups,
        Err(error) => {
            return Line::warn(
                "backup",
                format!("backups cannot be listed: {error}"),
                "have s3:ListBucket allowed on the secrets bucket",
            );
        }
    };
    let good = backups.iter().find(|b| b.problem().is_none());
    let damaged = backups.iter().filter(|b| b.problem().is_some()).count();
    let name = good.map(|b| &b.name);
    let state = state_of(name.map(BackupName::at), now);
    match (state, damaged) {
        (BackupState::None, 0) => Line::warn(
            "backup",
            "no backup of etcd",
            "the secure machines take one an hour after the first publish; `platformctl etcd status` says what keeps them from it",
        ),
        (BackupState::Fresh, 0) => Line::ok("backup", state.says(name, now)),
        (_, 0) => Line::warn(
            "backup",
            state.says(name, now),
            "`platformctl etcd status` says what keeps the machines from taking one",
        ),
        (_, damaged) => Line::warn(
            "backup",
            format!("{}; {damaged} cannot be restored", state.says(name, now)),
            "`platformctl etcd list` says why: somebody may have written to the bucket",
        ),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use shared::backup::BackupManifest;

    use super::super::Verdict::{Fail, Ok as Well, Warn};
    use super::*;

    #[test]
    fn expiries() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let expiry = |days: i64, what: &str| Expiry {
            at: now + SignedDuration::from_hours(24 * days),
            what: what.to_owned(),
        };
        let lines = judge_expiries(
            &[
                expiry(31, "certificate admin"),
                expiry(40, "root of group secure"),
            ],
            now,
        );
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].verdict, lines[0].expires), (Well, false));
        let all = [
            expiry(-1, "signatures of group compute"),
            expiry(29, "authority dev etcd CA 1"),
            expiry(31, "certificate admin"),
        ];
        let lines = judge_expiries(&all, now);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].verdict, lines[0].expires), (Fail, true));
        assert_eq!(lines[0].fix.as_deref(), Some("`platformctl refresh`"));
        assert_eq!((lines[1].verdict, lines[1].expires), (Warn, true));
        assert!(judge_expiries(&[], now).is_empty());
    }

    #[test]
    fn backups() {
        let now: Timestamp = "2026-11-23T03:00:00Z".parse().unwrap();
        let backup = |name: &str, manifest| Backup {
            generation: 1,
            name: name.parse().unwrap(),
            manifest,
            missing: None,
        };
        let none = judge_backups(&Ok(Vec::new()), now);
        assert_eq!((none.verdict, &*none.says), (Warn, "no backup of etcd"));
        let forged = backup("20261123T024942Z-9", Err("forged".to_owned()));
        let line = judge_backups(&Ok(vec![forged]), now);
        assert_eq!(line.verdict, Warn);
        assert!(line.says.contains("1 cannot be restored"), "{}", line.says);
        let manifest: BackupManifest = serde_json::from_value(serde_json::json!({
            "format": 1, "environment": "dev", "group": "secure", "generation": 1,
            "name": "20261123T024942Z-7", "finished_at": now, "node": "i-1", "member_id": "a",
            "cluster_id": "b", "etcd_version": "3.6.8", "plain_bytes": 9000,
            "plain_sha256": "00".repeat(32), "sealed_bytes": 9500, "parts": ["00".repeat(32)],
            "recipients": [],
        }))
        .unwrap();
        let good = || vec![backup("20261123T024942Z-7", Ok(manifest.clone()))];
        assert_eq!(judge_backups(&Ok(good()), now).verdict, Well);
        let later = now + SignedDuration::from_hours(5);
        assert_eq!(judge_backups(&Ok(good()), later).verdict, Warn);
        let mut cut = good();
        cut[0].missing = Some("part 1 of 1 is gone".to_owned());
        assert_eq!(judge_backups(&Ok(cut), now).verdict, Warn);
        assert_eq!(judge_backups(&Err("no".to_owned()), now).verdict, Warn);
    }
}
