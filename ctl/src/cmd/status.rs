//! `platformctl status`.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::names::{GroupName, ReleaseNumber};

use super::EnvironmentArg;
use crate::aws::Aws;
use crate::context::Context;
use crate::exit::Outcome;
use crate::expiry::{Expiry, expiries};
use crate::instances::{Instance, instance_of, read_instances};
use crate::keyring;
use crate::output::{self, Format};
use crate::publish::read_published;
use crate::status::{NodeReport, read_group};

/// How long the machines are waited for.
const MACHINES_DEADLINE: Duration = Duration::from_secs(5);
/// How long a machine may take to boot and report.
const BOOT_SECONDS: i64 = 15 * 60;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups; by default all.
    groups: Vec<String>,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

struct GroupStatus {
    group: GroupName,
    published: Option<ReleaseNumber>,
    good: Option<ReleaseNumber>,
    expires: Option<Timestamp>,
    /// The signing keys are half changed.
    handover: bool,
    nodes: Vec<NodeReport>,
}

impl StatusArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let groups = context.workspace.select(&self.groups)?;
        let keyring = keyring::read_required(&context).await?;
        let mut all = Vec::new();
        let mut metadata = Vec::new();
        for group in groups {
            let published = read_published(&context, &keyring, &group).await?;
            if let Some(current) = published.current() {
                keyring.check_against(current)?;
            }
            metadata.extend(published.expiry().map(|e| (group.clone(), e)));
            all.push(GroupStatus {
                handover: keyring.group(&group)?.handover,
                nodes: read_group(&context, keyring.group(&group)?, &group).await?,
                published: published
                    .current()
                    .map(shared::trust::ReleaseTarget::release),
                good: published.good().map(shared::trust::ReleaseTarget::release),
                expires: published.expires(),
                group,
            });
        }
        let now = Timestamp::now();
        let expiries = expiries(&keyring.content, &metadata);
        let silent = silent_machines(&context, &all, now).await;
        match self.output {
            Format::Json => {
                output::line(serde_json::to_string_pretty(&as_json(
                    &all, &expiries, &silent, now,
                ))?);
            }
            Format::Text => {
                all.iter().for_each(|g| show(g, now));
                silent.iter().for_each(|machine| show_silent(machine, now));
                show_expiries(&expiries, now);
            }
        }
        let differs = all.iter().any(|g| {
            g.nodes
                .iter()
                .any(|n| n.objection(g.published, now).is_some())
        });
        let runs_out = expiries.iter().any(|e| e.is_soon(now));
        let lost = silent.iter().any(|machine| is_late(machine, now));
        Ok(if differs || runs_out || lost {
            Outcome::Differs
        } else {
            Outcome::Done
        })
    }
}

/// Machines that EC2 runs and of which there is no report. One request; without an answer, status is what it is.
async fn silent_machines(
    context: &Context,
    groups: &[GroupStatus],
    now: Timestamp,
) -> Vec<Instance> {
    let environment = &context.workspace.environment;
    if !environment.on_aws() {
        return Vec::new();
    }
    let read = async {
        let aws = Aws::of(&context.workspace).await?;
        anyhow::Ok(read_instances(&aws, environment).await?)
    };
    let instances = match tokio::time::timeout(MACHINES_DEADLINE, read).await {
        Ok(Ok(instances)) => instances,
        Ok(Err(error)) => {
            tracing::info!("machines that never reported are not shown: {error:#}");
            return Vec::new();
        }
        Err(_) => {
            tracing::info!(
                "machines that never reported are not shown: EC2 did not answer in time"
            );
            return Vec::new();
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
    silent
}

/// Whether a machine had the time to boot and report.
fn is_late(machine: &Instance, now: Timestamp) -> bool {
    machine
        .launched
        .is_none_or(|at| now.duration_since(at).as_secs() > BOOT_SECONDS)
}

fn show_silent(machine: &Instance, now: Timestamp) {
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
    output::line(format!(
        "{} has never reported{since}{then}",
        machine.label()
    ));
}

/// The first, and every other that is soon.
fn show_expiries(expiries: &[Expiry], now: Timestamp) {
    let Some(first) = expiries.first() else {
        return;
    };
    if !first.is_soon(now) {
        output::line(format!("expires first: {}, at {:.0}", first.what, first.at));
    }
    for soon in expiries.iter().filter(|e| e.is_soon(now)) {
        let verb = if soon.at < now {
            "HAS EXPIRED at"
        } else {
            "EXPIRES SOON, at"
        };
        output::line(format!("{} {verb} {:.0}", soon.what, soon.at));
    }
}

fn number(release: Option<ReleaseNumber>) -> String {
    release.map_or_else(|| "-".to_owned(), |r| r.to_string())
}

fn show(group: &GroupStatus, now: Timestamp) {
    let expires = group.expires.map_or_else(String::new, |t| {
        let verb = if t < now {
            "HAVE EXPIRED since"
        } else {
            "expire"
        };
        format!(", signatures {verb} {t:.0}")
    });
    output::line(format!(
        "{}: published release {}, good {}{expires}",
        group.group,
        number(group.published),
        number(group.good)
    ));
    if group.handover {
        output::line(format!(
            "  its signing keys are half changed: platformctl rotate signing {}",
            group.group
        ));
    }
    if group.nodes.is_empty() {
        output::line("  no node has reported yet");
        return;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["  NODE", "RELEASE", "PHASE", "AGE", "SAYS"]);
    for node in &group.nodes {
        let (release, phase) = match &node.status {
            Ok(s) => (number(s.release), s.phase.to_string()),
            Err(_) => ("?".to_owned(), "?".to_owned()),
        };
        let age = node.age_seconds(now).map_or_else(
            || "-".to_owned(),
            |s| output::age(Duration::from_secs(s.unsigned_abs())),
        );
        table.add_row([
            format!("  {}", node.node),
            release,
            phase,
            age,
            node.objection(group.published, now)
                .into_iter()
                .chain(node.remark())
                .collect::<Vec<_>>()
                .join("; "),
        ]);
    }
    output::line(table.trim_fmt());
}

fn as_json(
    groups: &[GroupStatus],
    expiries: &[Expiry],
    silent: &[Instance],
    now: Timestamp,
) -> Value {
    let group = |g: &GroupStatus| {
        let nodes: Vec<Value> = g
            .nodes
            .iter()
            .map(|n| {
                json!({
                    "node": n.node,
                    "status": n.status.as_ref().ok(),
                    "age_seconds": n.age_seconds(now),
                    "objection": n.objection(g.published, now),
                })
            })
            .collect();
        json!({
            "group": g.group,
            "published": g.published,
            "good": g.good,
            "metadata_expires": g.expires,
            "signing_keys_half_changed": g.handover,
            "nodes": nodes,
        })
    };
    let expiries: Vec<Value> = expiries
        .iter()
        .map(|e| json!({"what": e.what, "at": e.at, "soon": e.is_soon(now)}))
        .collect();
    let groups: Vec<Value> = groups.iter().map(group).collect();
    let silent: Vec<Value> = silent
        .iter()
        .map(|i| json!({"id": i.id, "name": i.name, "group": i.group, "launched": i.launched, "late": is_late(i, now)}))
        .collect();
    json!({"groups": groups, "expires": expiries, "never_reported": silent})
}
