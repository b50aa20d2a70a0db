//! Bringing an older release back as a new one: its templates' files with today's files of the keyring, since old
//! authorities, tokens and encryption keys would lock the cluster out of its own data.
//!
//! `target` chooses the release, `compose` (pure) puts the files together, `etcd` knows which releases etcd's data does
//! not survive, `check` holds the result against what the agent checks. What comes of it is published like any other content.

mod check;
mod compose;
mod etcd;
mod target;

use anyhow::Context as _;
use jiff::Timestamp;
use shared::bundle::Release;
use shared::names::{GroupName, ReleaseNumber};
use shared::trust::ReleaseTarget;

use crate::context::Context;
use crate::diff::{Difference, Side, published_release};
use crate::exit::mistake;
use crate::history::{ReleaseError, release_of};
use crate::keyring::{self, Keyring};
use crate::publish::{Choices, Planned, read_published};
use crate::release::Content;

pub use compose::{FromKeyring, compose};
pub use etcd::{EtcdVersion, etcd_refusal};
pub(crate) use etcd::{etcd_behind, etcd_tags};

/// A rollback that was checked and not begun.
#[derive(Debug)]
pub struct Rollback {
    /// The release that is current.
    pub from: ReleaseNumber,
    /// The release whose templates' files come back.
    pub to: ReleaseTarget,
    /// What it will change.
    pub difference: Difference,
    /// The publish that does it.
    pub planned: Planned,
    /// The keyring that it is published with.
    pub keyring: Keyring,
}

/// Works a rollback out; nothing is written.
///
/// # Errors
/// A [`crate::exit::Mistake`] for a release that cannot be gone back to, with every reason; else what failed, on which
/// object.
pub async fn rollback(
    context: &Context,
    group: &GroupName,
    to: Option<ReleaseNumber>,
    now: Timestamp,
) -> anyhow::Result<Rollback> {
    let keyring = keyring::read_required(context).await?;
    let published = read_published(context, &keyring, group).await?;
    let current = published.current().ok_or_else(|| {
        mistake(format!(
            "group {group} has no release yet, so nothing to go back to"
        ))
    })?;
    keyring.check_against(current)?;
    let number = target::choose(current, published.good(), to)?;
    let to = release_of(context, &keyring, group, number).await?;
    if to.release() > current.release() {
        let group = group.clone();
        return Err(ReleaseError::NoSuch { group, number }.into());
    }
    let (then, running) = tokio::try_join!(
        read(context, &to, "is needed for a rollback"),
        read(context, current, "is current"),
    )?;
    let mut refusals: Vec<String> = etcd_refusal(&then, &running).into_iter().collect();
    let from_keyring = FromKeyring::gather(context, group, &keyring.content)?;
    // The agent stays: it has a guard of its own, and an older one may not know what today's releases hold.
    let composed = compose(&then, from_keyring, current.custom.agent.clone());
    let content = match composed {
        Ok(mut content) => {
            content.set_etcd_generation(keyring.content.etcd_generation);
            if group.as_str() == crate::env::SECURE {
                content.set_rollout_if_none(running.index().rollout.as_ref());
            }
            content
        }
        Err(found) => {
            refusals.extend(found);
            return Err(refused(group, number, &refusals));
        }
    };
    let release = content.number(current.release())?;
    refusals.extend(check::problems(&release, now));
    if !refusals.is_empty() {
        return Err(refused(group, number, &refusals));
    }
    let side = |release, agent| Side { release, agent };
    let difference = Difference::between(
        Some(side(&running, current.custom.agent.as_ref())),
        side(&release, content.agent()),
    );
    let from = current.release();
    let planned = Planned::new(context, &keyring, group, content, Choices::default())
        .await
        .with_context(|| format!("release {number} of group {group} cannot be brought back"))?;
    // What was compared and what a publish would replace must be one and the same.
    let replaced = planned.published.current().map(ReleaseTarget::release);
    if replaced != Some(from) {
        let newest =
            replaced.map_or_else(|| "another release".to_owned(), |r| format!("release {r}"));
        anyhow::bail!(
            "{newest} of group {group} was published while the way back from release {from} was worked out; nothing was \
             published: look at it, and try again"
        );
    }
    Ok(Rollback {
        from,
        to,
        difference,
        planned,
        keyring,
    })
}

async fn read(context: &Context, target: &ReleaseTarget, why: &str) -> anyhow::Result<Release> {
    let (group, number) = (&target.custom.group, target.release());
    let release = published_release(context, target).await;
    release
        .with_context(|| format!("release {number} of group {group}, which {why}, cannot be read"))
}

fn refused(group: &GroupName, number: ReleaseNumber, why: &[String]) -> anyhow::Error {
    mistake(format!(
        "group {group} cannot go back to release {number}; nothing was published:\n  {}",
        why.join("\n  ")
    ))
}

impl Content {
    /// Whether a publish of it would bring another release back.
    #[must_use]
    pub fn is_rollback(&self) -> bool {
        self.brings_back().is_some()
    }
}
