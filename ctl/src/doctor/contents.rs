//! What the secrets bucket holds: the keyring, when its certificates and the signatures run out, and backups.

use jiff::Timestamp;
use shared::store::{Backoff, with_retries};

use super::Line;
use crate::context::Context;
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
            "nothing can be published without it: mend what it says",
        )),
    }
    if context.workspace.environment.on_aws() {
        let listed = with_retries(Backoff::INTERACTIVE, || context.store.list(BACKUPS)).await;
        lines.push(judge_backups(&listed.map_err(|e| e.to_string())));
    }
    lines
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

fn judge_backups(listed: &Result<Vec<String>, String>) -> Line {
    match listed {
        Ok(keys) => match keys.iter().rfind(|key| key.contains("backup")) {
            Some(newest) => Line::ok("backup", format!("the newest is {newest}")),
            None => Line::warn(
                "backup",
                "no backup of etcd",
                "what runs in the cluster is on its secure machines alone: keep its manifests elsewhere",
            ),
        },
        Err(error) => Line::warn(
            "backup",
            format!("backups cannot be listed: {error}"),
            "have s3:ListBucket allowed on the secrets bucket",
        ),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

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
        let keys = |keys: &[&str]| Ok(keys.iter().map(|k| (*k).to_owned()).collect());
        assert_eq!(judge_backups(&keys(&[])).verdict, Warn);
        assert_eq!(judge_backups(&keys(&["etcd/1/fence.json"])).verdict, Warn);
        let line = judge_backups(&keys(&["etcd/1/backups/1", "etcd/1/backups/2"]));
        assert_eq!(line.verdict, Well);
        assert!(line.says.ends_with("backups/2"));
        assert_eq!(judge_backups(&Err("no".to_owned())).verdict, Warn);
    }
}
