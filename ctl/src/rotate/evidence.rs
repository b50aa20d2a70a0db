//! What the bucket and the nodes say, gathered for a decision.

use anyhow::Context as _;
use jiff::Timestamp;

use super::decide::{Evidence, GroupEvidence, NodeEvidence, RolloutEvidence, Said};
use crate::context::Context;
use crate::keyring::Keyring;
use crate::publish::read_published;
use crate::rollouts;
use crate::status::{NodeReport, read_group};

/// Reads what is published for each group of the keyring, and what its nodes report.
///
/// # Errors
/// Metadata that is not acceptable, or a store that fails.
pub async fn gather(
    context: &Context,
    keyring: &Keyring,
    now: Timestamp,
) -> anyhow::Result<Evidence> {
    let mut evidence = Evidence::new();
    for (group, keys) in &keyring.content.groups {
        let published = read_published(context, keyring, group).await?;
        let releases = published.releases();
        let releases = releases.map(|r| (r.release(), r.custom.keyring.version));
        let reports = read_group(context, keys, group)
            .await
            .with_context(|| format!("cannot list what the nodes of group {group} report"))?;
        let rollout = match rollouts::read(context, keys, group).await {
            Ok(document) => document.map(|d| RolloutEvidence {
                good: d.good.filter(|good| !d.is_halted(*good)),
            }),
            // Only what waits for a rollout need know.
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::warn!("no rollout of group {group} is taken to be complete: {error:#}");
                Some(RolloutEvidence { good: None })
            }
        };
        let rewrites = reports.iter().filter_map(|r| {
            let report = r.status.as_ref().ok()?.rewrite.clone()?;
            Some((r.node.clone(), report))
        });
        let of_group = GroupEvidence {
            releases: releases.collect(),
            nodes: reports.iter().map(|r| of_node(r, now)).collect(),
            rollout,
            rewrites: rewrites.collect(),
            generation: keyring.content.etcd_generation.get(),
        };
        evidence.insert(group.clone(), of_group);
    }
    Ok(evidence)
}

fn of_node(report: &NodeReport, now: Timestamp) -> NodeEvidence {
    let said = match &report.status {
        Ok(status) => Said::Runs {
            release: status.release,
            age_seconds: report.age_seconds(now).unwrap_or(i64::MAX),
        },
        Err(error) => Said::Unusable(error.to_string()),
    };
    NodeEvidence {
        node: report.node.clone(),
        said,
    }
}
