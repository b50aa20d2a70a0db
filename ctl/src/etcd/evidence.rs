//! Reads what the guard looks at.

use anyhow::Context as _;
use shared::documents::{GroupKey, open_node_object};
use shared::etcd::Fence;
use shared::limits;
use shared::names::GroupName;
use shared::store::{Backoff, Fetched, StoreErrorKind, keys, with_retries};

use super::guard::{Evidence, FenceFound, Machine};
use super::{Backup, list};
use crate::context::Context;
use crate::env::SECURE;
use crate::instances::{Instance, instance_of};
use crate::keyring::{self, Keyring};
use crate::rollouts;
use crate::status::{NodeReport, read_group};

/// What was read, for as many questions as there are.
#[derive(Debug)]
pub struct Gathered {
    keyring: Keyring,
    reports: Vec<NodeReport>,
    backups: Vec<Backup>,
    fence: FenceFound,
    holders: Result<Vec<shared::documents::Holder>, String>,
    voters: u32,
    now: jiff::Timestamp,
}

// === impl Gathered ===

impl Gathered {
    /// Reads it; none where nothing was ever published, and so nothing formed.
    ///
    /// # Errors
    /// A store that fails, a keyring that cannot be opened.
    pub async fn read(context: &Context) -> anyhow::Result<Option<Self>> {
        let Some(keyring) = keyring::read_existing(context).await? else {
            return Ok(None);
        };
        let group: GroupName = SECURE.parse().context("the secure group has a name")?;
        let keys = keyring.group(&group)?;
        let fence = fence(context, &keyring, &keys.group_key).await?;
        let backups = list(context, &group, &keys.group_key).await;
        let document = rollouts::read(context, keys, &group).await;
        let sizes = &context.workspace.environment.groups;
        Ok(Some(Self {
            reports: read_group(context, keys, &group).await?,
            backups: backups.context("the backups of etcd cannot be listed")?,
            fence,
            holders: document
                .map(|d| d.map_or_else(Vec::new, |d| d.holders))
                .map_err(|e| format!("{:#}", anyhow::Error::new(e))),
            voters: sizes.get(SECURE).map_or(1, |size| size.min),
            now: context.store_now(),
            keyring,
        }))
    }

    /// All of it, with the machines that there are.
    #[must_use]
    pub fn evidence<'a>(&'a self, instances: &'a [Instance]) -> Evidence<'a> {
        let secure = instances.iter().filter(|i| i.group == SECURE);
        let machines = secure.map(|instance| Machine {
            id: &instance.id,
            label: instance.label(),
            report: self
                .reports
                .iter()
                .find(|r| instance_of(&r.node) == instance.id),
        });
        Evidence {
            generation: self.keyring.content.etcd_generation,
            voters: self.voters,
            machines: machines.collect(),
            reports: &self.reports,
            backups: &self.backups,
            fence: self.fence.clone(),
            holders: self.holders.clone(),
            now: self.now,
        }
    }
}

/// Who forms the keyring's generation.
async fn fence(
    context: &Context,
    keyring: &Keyring,
    group_key: &GroupKey,
) -> anyhow::Result<FenceFound> {
    let generation = keyring.content.etcd_generation;
    let key = keys::etcd_fence(generation);
    let get = || context.store.get(&key, limits::NODE_OBJECT_BYTES, None);
    let bytes = match with_retries(Backoff::INTERACTIVE, get).await {
        Ok(Fetched::Object { bytes, .. }) => bytes,
        Ok(Fetched::NotModified) => {
            anyhow::bail!("the store answered 304 to a plain read of {key}")
        }
        Err(e) if e.kind == StoreErrorKind::NotFound => return Ok(FenceFound::Absent),
        Err(e) => return Err(e).with_context(|| format!("cannot read {key}")),
    };
    let environment = &context.workspace.name;
    let bound = keys::bound_name(environment, &key);
    let opened: Result<Fence, _> = open_node_object(&bytes, &bound, group_key);
    Ok(match opened {
        Err(error) => FenceFound::Unreadable(error.to_string()),
        Ok(fence) => match fence.usable(environment, generation) {
            Ok(fence) => FenceFound::There(fence),
            Err(error) => FenceFound::Unreadable(error.to_string()),
        },
    })
}
