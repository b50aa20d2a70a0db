//! Whether a rollout puts machines at risk.

use std::time::Duration;

use shared::check::manifest::check_manifest;
use shared::names::GroupName;

use crate::context::Workspace;
use crate::lint::{Finding, Severity};
use crate::render::{RenderFailure, Rendered, timing_problems};

/// What of a group's rollout would put machines at risk. Nodes of the embedded default only play machines, where no pod has to
/// end or to start: there it is a warning.
#[must_use]
pub fn rollout_findings(
    workspace: &Workspace,
    group: &GroupName,
    rendered: &Rendered,
) -> Vec<Finding> {
    let severity = match workspace.environment.on_aws() {
        true => Severity::Error,
        false => Severity::Warning,
    };
    let finding = |failure: RenderFailure| Finding {
        severity,
        file: failure.file,
        line: failure.line,
        path: failure.path,
        message: failure.message,
        help: failure.help,
    };
    let unsafe_rollout = unsafe_rollout(group, rendered).into_iter();
    unsafe_rollout.map(finding).collect()
}

fn unsafe_rollout(group: &GroupName, rendered: &Rendered) -> Vec<RenderFailure> {
    let file = format!("{group}/rollout.yaml");
    let Some(policy) = &rendered.rollout else {
        let needed = group.as_str() == crate::env::SECURE;
        let what = "is missing or empty: without a policy every node would adopt a release at the same time, and the API \
                    servers and etcd would restart together";
        return Vec::from_iter(needed.then(|| RenderFailure {
            file,
            line: None,
            path: None,
            message: what.to_owned(),
            help: Some("`platformctl init` writes one out".to_owned()),
        }));
    };
    let pods = rendered.manifests.iter();
    let grace = pods.filter_map(|(name, bytes)| check_manifest(name, bytes).ok());
    let longest = grace.map(|pod| pod.termination_grace_seconds).max();
    timing_problems(
        &file,
        policy,
        Duration::from_secs(longest.unwrap_or_default()),
    )
}

/// How many of how many etcd members may be away at once, in the group that runs them. A group of one has to bear it.
pub(super) fn quorum(workspace: &Workspace, group: &GroupName) -> Option<(u32, u32)> {
    let size = workspace.environment.groups.get(group.as_str())?;
    let runs_etcd = group.as_str() == crate::env::SECURE;
    runs_etcd.then(|| (((size.min.max(1) - 1) / 2).max(1), size.min))
}
