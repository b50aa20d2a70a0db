//! Machines that run and have never reported.

use std::time::Duration;

use jiff::Timestamp;

use super::snapshot::GroupStatus;
use crate::aws::Aws;
use crate::context::Context;
use crate::instances::{Instance, instance_of, read_instances};
use crate::output;

/// How long the machines are waited for.
const MACHINES_DEADLINE: Duration = Duration::from_secs(5);
/// How long a machine may take to boot and report.
const BOOT_SECONDS: i64 = 15 * 60;

/// Machines that EC2 runs and of which there is no report; or why EC2 could not be asked. One request.
pub(super) async fn silent_machines(
    context: &Context,
    groups: &[GroupStatus],
    now: Timestamp,
) -> Result<Vec<Instance>, String> {
    let environment = &context.workspace.environment;
    if !environment.on_aws() {
        return Ok(Vec::new());
    }
    let read = async {
        let aws = Aws::of(&context.workspace).await?;
        anyhow::Ok(read_instances(&aws, environment).await?)
    };
    let instances = match tokio::time::timeout(MACHINES_DEADLINE, read).await {
        Ok(Ok(instances)) => instances,
        Ok(Err(error)) => return Err(format!("{error:#}")),
        Err(_) => {
            return Err(format!(
                "EC2 did not answer within {} seconds",
                MACHINES_DEADLINE.as_secs()
            ));
        }
    };
    let reported = |instance: &Instance| {
        let mut nodes = groups.iter().flat_map(|g| &g.nodes);
        nodes.any(|n| instance_of(&n.node) == instance.id)
    };
    let shown = |instance: &Instance| groups.iter().any(|g| g.group.as_str() == instance.group);
    let mut silent: Vec<Instance> = instances
        .into_iter()
        .filter(|i| i.is_running() && shown(i) && !reported(i))
        .collect();
    silent.sort_by_key(|i| (!is_late(i, now), i.name.clone(), i.id.clone()));
    Ok(silent)
}

/// Whether a machine had the time to boot and report.
pub(super) fn is_late(machine: &Instance, now: Timestamp) -> bool {
    machine
        .launched
        .is_none_or(|at| now.duration_since(at).as_secs() > BOOT_SECONDS)
}

/// A line about one of them.
pub(super) fn line_of(machine: &Instance, now: Timestamp) -> String {
    let since = machine.launched.map_or_else(String::new, |at| {
        let seconds = now.duration_since(at).as_secs().max(0);
        format!(
            ", launched {} ago",
            output::age(Duration::from_secs(seconds.unsigned_abs()))
        )
    });
    let then = if is_late(machine, now) {
        format!(": platformctl console {}", machine.id)
    } else {
        String::new()
    };
    format!("{} has never reported{since}{then}", machine.label())
}
