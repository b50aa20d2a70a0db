//! New keys for signing a group's releases, without new user data.
//!
//! A TUF client walks from the root it has to the newest, each root signed by the keys of the one before (the
//! specification, §5.3 and §6.1). One root would be enough for that, but between its upload and that of the timestamp
//! that the new keys have signed, every node would refuse what is there. So there are two: under the first, what the
//! old and what the new keys sign is acceptable; the second has the new keys alone.
//!
//! keyring with both roots and the new keys → first root → metadata signed by the new keys → second root → keyring says
//! that it is done. At each of these points nodes accept what is in the bucket, and whoever comes again goes on there.

use std::num::NonZeroU64;

use anyhow::Context as _;
use jiff::Timestamp;
use shared::documents::GroupKeys;
use shared::names::GroupName;
use shared::trust::sign::{RepositoryKeys, sign_joint_root, sign_root};

use crate::context::Context;
use crate::exit::mistake;
use crate::keyring;
use crate::publish::{read_published, refresh};

/// What a change of signing keys did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// Version of the newest root.
    pub root: u64,
    /// Whether it was begun earlier, and only ended now.
    pub resumed: bool,
}

/// Replaces the keys that sign a group's releases, or ends a replacement that was interrupted.
///
/// # Errors
/// A [`crate::exit::Mistake`] for a group without a release; else what failed, on which object: the same call goes on
/// from there.
pub async fn rotate_signing(
    context: &Context,
    group: &GroupName,
    now: Timestamp,
) -> anyhow::Result<Handover> {
    let found = keyring::read_required(context).await?;
    let before = found.group(group)?.clone();
    let published = read_published(context, &found, group).await?;
    let current = published.current().ok_or_else(|| {
        mistake(format!(
            "group {group} has no release yet: publish first, then its keys can change"
        ))
    })?;
    found.check_against(current)?;

    let during = if before.handover {
        before.clone()
    } else {
        begun(&before, now).await?
    };
    let replace = |from: GroupKeys, to: GroupKeys| {
        let group = group.clone();
        keyring::modify(context, move |content| {
            let keys = content.groups.get_mut(&group);
            let keys =
                keys.with_context(|| format!("the keyring has no keys for group {group}"))?;
            if *keys == to {
                return Ok(false);
            }
            if *keys != from {
                return Err(mistake(format!(
                    "somebody else changed the keys of group {group} at this moment; nothing was changed here: try again"
                )));
            }
            *keys = to.clone();
            Ok(true)
        })
    };
    let changed = replace(before.clone(), during.clone()).await?;
    refresh(context, &changed, group, true)
        .await
        .with_context(|| {
            format!("the keys of group {group} are half changed; nodes go on as before: run the same command again")
        })?;
    let done = GroupKeys {
        handover: false,
        ..during.clone()
    };
    replace(during.clone(), done).await?;
    Ok(Handover {
        root: during.roots.len() as u64,
        resumed: before.handover,
    })
}

/// The keys with their successors in place, and the two roots that lead to them.
async fn begun(before: &GroupKeys, now: Timestamp) -> anyhow::Result<GroupKeys> {
    let new = RepositoryKeys::generate()?;
    let last = before.roots.len() as u64;
    let version = |n: u64| NonZeroU64::new(last + n).context("a root's version is positive");
    let joint = sign_joint_root(&before.repository, &new, version(1)?, now).await?;
    let alone = sign_root(&new, None, version(2)?, now).await?;
    let mut roots = before.roots.clone();
    for root in [joint, alone] {
        roots.push(String::from_utf8(root.to_vec()).context("a root is text")?);
    }
    Ok(GroupKeys {
        repository: new,
        roots,
        group_key: before.group_key.clone(),
        backup_identity: before.backup_identity.clone(),
        handover: true,
    })
}
