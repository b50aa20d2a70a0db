//! Publishing: everything immutable first, `timestamp.json` last with compare-and-swap (§5).
//!
//! `plan` checks every group before the first write, `repository` reads and verifies what is published, `reads` makes
//! that cheap, `good` asks the nodes' status which release is good, and `upload` writes. A publish that crashes before the last write has published nothing;
//! the numbers it burned are skipped by the next one.

mod good;
mod memory_lock;
mod newest;
mod plan;
mod reads;
mod repository;
mod upload;

use std::collections::HashMap;

use anyhow::Context as _;
use indicatif::ProgressBar;
use jiff::Timestamp;
use shared::bundle::{new_identity, pack, seal};
use shared::digest::Sha256Digest;
use shared::names::{GroupName, ReleaseNumber};
use shared::trust::sign::{ListedTarget, METADATA_LIFE, is_due};
use shared::trust::{ArtifactTarget, BundleCustom, ReleaseTarget, bundle_name};
use shared::wrap::WrapContext;

use crate::artifact::join;
use crate::context::Context;
use crate::exit::mistake;
use crate::keyring::Keyring;
use crate::release::Content;

pub use plan::{Planned, Plans, plan};
pub use repository::{Published, RepositoryError, read_published};
pub use upload::{PublishRace, Uploader};

/// Steps of the progress bar of one group.
pub const STEPS: u64 = 3;

/// What publishing a group did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// A new release.
    Released {
        /// Its number.
        release: ReleaseNumber,
        /// How many files it holds.
        files: usize,
        /// The encrypted object's length.
        bytes: u64,
    },
    /// Nothing differed, and the signatures are young enough: nothing was written.
    Unchanged {
        /// The published release.
        release: ReleaseNumber,
    },
    /// Nothing differed, and the signatures were renewed.
    Renewed {
        /// The published release.
        release: ReleaseNumber,
        /// When the renewed signatures expire.
        expires: Timestamp,
    },
}

impl Publication {
    /// The release that is published now.
    #[must_use]
    pub fn release(&self) -> ReleaseNumber {
        match self {
            Self::Released { release, .. }
            | Self::Unchanged { release }
            | Self::Renewed { release, .. } => *release,
        }
    }
}

/// What an operator decides about a publish.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// Publish a release without a manifest over one that has some: every static pod of the group will stop.
    pub allow_empty: bool,
    /// Why the probes of the new releases are only to warn; none where they count.
    pub waiver: Option<String>,
}

/// Publishes a group's content: [`Planned::new`] and [`Planned::publish`] in one.
///
/// # Errors
/// As those two.
pub async fn publish(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    content: &Content,
    choices: Choices,
    bar: &ProgressBar,
) -> anyhow::Result<Publication> {
    let planned = Planned::new(context, keyring, group, content.clone(), choices).await?;
    planned.publish(context, keyring, bar).await
}

/// Renews a group's signatures, whatever their age when `force` is set; else only where they are due.
///
/// # Errors
/// As [`publish`]; a group without a release has nothing to renew.
pub async fn refresh(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    force: bool,
) -> anyhow::Result<Publication> {
    let published = read_published(context, keyring, group).await?;
    let current = published.current().ok_or_else(|| {
        mistake(format!(
            "group {group} has no release yet, so nothing to renew: publish first"
        ))
    })?;
    keyring.check_against(current)?;
    if force {
        renew(context, keyring, group, &published).await
    } else {
        renew_if_due(context, keyring, group, &published).await
    }
}

async fn renew_if_due(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    published: &Published,
) -> anyhow::Result<Publication> {
    let (Some(current), Some(expires)) = (published.current(), published.expires()) else {
        anyhow::bail!("group {group} has no release");
    };
    if !is_due(expires, Timestamp::now(), METADATA_LIFE) {
        return Ok(Publication::Unchanged {
            release: current.release(),
        });
    }
    renew(context, keyring, group, published).await
}

async fn renew(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    published: &Published,
) -> anyhow::Result<Publication> {
    let keys = keyring.group(group)?;
    let current = published.current().context("no release to renew")?;
    let mut listed = Vec::new();
    for release in published.releases() {
        listed.push(relist(release)?);
        listed.extend(relist_artifacts(release, published));
    }
    let listed = join(listed)?;
    let uploader = Uploader::new(context, keys, group, published);
    let mut number = published.next_number();
    loop {
        match uploader
            .upload(number, None, &listed, &mut async || Ok(()))
            .await?
        {
            upload::Uploaded::Done => {
                repository::remember(context, keyring, group).await;
                return Ok(Publication::Renewed {
                    release: current.release(),
                    expires: uploader.expires(),
                });
            }
            upload::Uploaded::Burned => {
                number = after_burned(context, keyring, group, number).await?.0;
            }
        }
    }
}

/// The release that was signed last for a group: the current one, or, where there is no timestamp to say which that is,
/// the one of the newest targets document.
///
/// # Errors
/// As [`read_published`] and a bucket that cannot be listed.
pub(crate) async fn last_signed(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
) -> anyhow::Result<Option<ReleaseTarget>> {
    let published = read_published(context, keyring, group).await?;
    match published.current() {
        Some(current) => Ok(Some(current.clone())),
        None => Ok(newest::newest(context, keyring, group)
            .await?
            .and_then(|newest| newest.release)),
    }
}

/// The number to go on with after `number` was taken, and the release of the newest document, whose keyring must not be
/// newer than ours.
async fn after_burned(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    number: ReleaseNumber,
) -> anyhow::Result<(ReleaseNumber, Option<ReleaseTarget>)> {
    match newest::newest(context, keyring, group).await? {
        None => Ok((following(number)?, None)),
        Some(newest) => {
            if let Some(release) = &newest.release {
                keyring.check_against(release)?;
            }
            Ok((following(number.max(newest.number))?, newest.release))
        }
    }
}

fn following(number: ReleaseNumber) -> anyhow::Result<ReleaseNumber> {
    number
        .get()
        .checked_add(1)
        .and_then(ReleaseNumber::new)
        .context("release numbers are used up")
}

fn relist(release: &ReleaseTarget) -> anyhow::Result<ListedTarget> {
    Ok(ListedTarget {
        name: release.name.clone(),
        length: release.length,
        sha256: release.sha256,
        custom: release.custom.to_custom()?,
    })
}

/// The artifacts of a published release, as they are listed with it.
fn relist_artifacts(release: &ReleaseTarget, published: &Published) -> Vec<ListedTarget> {
    let of_release = |t: &&ArtifactTarget| release.custom.artifacts.contains(&t.name);
    let listed = published.artifacts().iter().filter(of_release);
    listed
        .map(|t| ListedTarget {
            name: t.name.clone(),
            length: t.length,
            sha256: t.sha256,
            custom: HashMap::new(),
        })
        .collect()
}

/// The targets that a new release needs: its artifacts, and the agent that adopts it.
fn targets_of(content: &Content) -> Vec<ListedTarget> {
    let target = |name: &str, length, sha256| ListedTarget {
        name: name.to_owned(),
        length,
        sha256,
        custom: HashMap::new(),
    };
    let artifacts = content.artifacts().iter();
    let of_nodes = artifacts.map(|a| target(&a.target, a.bytes, a.sha256));
    let agent = content
        .agent()
        .map(|a| target(&a.target, a.bytes, a.sha256));
    of_nodes.chain(agent).collect()
}

struct SealedRelease {
    target: ListedTarget,
    object: upload::BundleObject,
}

/// Numbers, packs and encrypts the content, each time to a fresh identity (§5.1 to §5.3).
async fn seal_release(
    context: &Context,
    keyring: &Keyring,
    content: &Content,
    digest: &str,
    number: ReleaseNumber,
    replaces: Option<ReleaseNumber>,
) -> anyhow::Result<SealedRelease> {
    let release = content.number(number)?;
    let index = release.index();
    let packed = pack(&release).map_err(|e| mistake(format!("group {}: {e}", index.group)))?;
    let identity = new_identity();
    let sealed = seal(packed.expose(), &identity, &context.recovery_recipients())
        .context("cannot encrypt the bundle")?;
    let wrap_context = WrapContext {
        environment: index.environment.clone(),
        group: index.group.to_string(),
        release: number.get(),
    };
    let wrapped = context
        .wrap
        .wrap(&identity, &wrap_context)
        .await
        .with_context(|| format!("cannot wrap the identity of release {number}"))?;
    let custom = BundleCustom {
        environment: index.environment.clone(),
        group: index.group.clone(),
        release: number,
        identity: wrapped,
        content: digest.to_owned(),
        keyring: keyring.mark.clone(),
        published_at: Timestamp::now(),
        published_by: operator(),
        agent: content.agent().cloned(),
        artifacts: targets_of(content).into_iter().map(|t| t.name).collect(),
        replaces,
        brings_back: content.brings_back(),
        content_unwaived: content
            .is_waived()
            .then(|| {
                let recipients = &keyring.content.recovery_recipients;
                content
                    .unwaived()
                    .digest(keyring.group(&index.group)?, recipients)
            })
            .transpose()?,
    };
    let sha256 = Sha256Digest::of(&sealed);
    Ok(SealedRelease {
        target: ListedTarget {
            name: bundle_name(number),
            length: sealed.len() as u64,
            sha256,
            custom: custom.to_custom()?,
        },
        object: upload::BundleObject {
            name: bundle_name(number),
            sha256,
            bytes: sealed.into(),
        },
    })
}

/// Who publishes, as far as this machine knows: for people to read, not a proof.
#[must_use]
pub(crate) fn operator() -> String {
    let user = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| "unknown".to_owned());
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|h| h.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned());
    format!("{user}@{host}")
}
