//! Everything that a decision needs, read so that what it may delete was seen before what may protect it.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use futures::{StreamExt as _, stream};
use shared::documents::NodeObjectError;
use shared::names::{GroupName, ReleaseNumber};
use shared::store::{Backoff, keys, with_retries};

use super::Evidence;
use crate::artifact::ArtifactList;
use crate::context::Context;
use crate::history::{ReleaseError, document_numbers, read_document};
use crate::keyring::Keyring;
use crate::publish::read_published;
use crate::rollouts;
use crate::status::{ReportError, read_group};

/// Reads at once.
const PARALLEL: usize = 8;

/// Reads it.
///
/// # Errors
/// Anything that could not be read: what is not known may be needed. A group without a release has nothing to collect.
pub async fn gather(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
) -> anyhow::Result<Evidence> {
    let (metadata, targets) = (keys::metadata_prefix(group), keys::targets_prefix(group));
    let list = async |prefix: &str| {
        let listed =
            with_retries(Backoff::INTERACTIVE, || context.store.list_objects(prefix)).await;
        listed.with_context(|| format!("cannot list {prefix}"))
    };
    let targets = list(&targets).await?;
    let metadata_objects = list(&metadata).await?;
    // After the listings: a release that became current meanwhile is newer than what they say, and stays.
    let published = read_published(context, keyring, group).await?;
    let (Some(current), Some(version)) = (published.current(), published.version()) else {
        return Err(anyhow!(
            "group {group} has no release: there is nothing to collect"
        ));
    };
    keyring.check_against(current)?;
    let listed = metadata_objects.iter().map(|o| o.key.as_str());
    let numbers = document_numbers(&metadata, listed);
    let reads = stream::iter(&numbers).map(|number| async move {
        (
            *number,
            read_document(context, keyring, group, *number).await,
        )
    });
    let read: Vec<_> = reads.buffered(PARALLEL).collect().await;
    let (mut documents, mut newer) = (BTreeMap::new(), BTreeMap::new());
    for (number, document) in read {
        match document {
            Ok(document) if number > version => newer.insert(number, document),
            Ok(document) => documents.insert(number, document),
            // Not ours, or collected by somebody else meanwhile: it protects nothing, and stays.
            Err(e) if e.is::<ReleaseError>() => continue,
            Err(e) => return Err(e.context("nothing was deleted")),
        };
    }
    Ok(Evidence {
        group: group.clone(),
        in_use: in_use(context, keyring, group).await?,
        targets,
        metadata: metadata_objects,
        documents,
        newer,
        version,
        current: current.clone(),
        good: published.good().cloned(),
        listed: ArtifactList::load(&context.workspace.directory)?
            .iter()
            .map(|entry| entry.sha256)
            .collect(),
        // While keys change, the last root may not be in the bucket yet.
        roots: keyring.group(group)?.accepted_roots().len() as u64,
    })
}

/// The releases that nodes name, and their rollout.
async fn in_use(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
) -> anyhow::Result<BTreeMap<ReleaseNumber, String>> {
    let mut used = BTreeMap::new();
    for report in read_group(context, keyring.group(group)?, group).await? {
        let node = report.node;
        match report.status {
            Ok(status) => {
                let slot = status.rollout.slot.iter();
                let of_slot = slot.flat_map(|s| [Some(s.release), s.previous]).flatten();
                let named = status.release.into_iter().chain(status.published);
                let named = named.chain(of_slot);
                used.extend(named.map(|release| (release, node.clone())));
            }
            // It has no release yet.
            Err(ReportError::Object(NodeObjectError::Unauthenticated(_))) => {}
            Err(e) => {
                return Err(anyhow::Error::new(e).context(format!(
                    "nothing of group {group} was deleted: nobody knows which release {node} needs"
                )));
            }
        }
    }
    let rollout = rollouts::read(context, keyring.group(group)?, group).await;
    let rollout = rollout.with_context(|| format!("nothing of group {group} was deleted"))?;
    if let Some(rollout) = rollout {
        let held = rollout.holders.into_iter();
        used.extend(held.map(|h| (h.release, h.node.to_string())));
        // It may come back at any time and go on, or back, from there.
        let absent = rollout.unavailable.into_iter();
        used.extend(absent.filter_map(|u| Some((u.release?, u.node.to_string()))));
        let halted = rollout.halted.map(|h| h.release);
        let named = [rollout.release, rollout.good, halted];
        let named = named.into_iter().flatten();
        used.extend(named.map(|release| (release, "the rollout".to_owned())));
    }
    Ok(used)
}
