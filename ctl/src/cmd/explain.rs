//! `platformctl explain`.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use comfy_table::{Table, presets};
use serde_json::json;
use shared::digest::Sha256Digest;
use shared::documents::{NodeStatus, RolloutReport};

use super::EnvironmentArg;
use crate::context::Context;
use crate::exit::Outcome;
use crate::keyring;
use crate::output::{self, Format};
use crate::rollouts::word;
use crate::status::{find_node, printable};

/// Shows what a node decided last, and why: each decision with its object, its digest and its result.
///
/// It is what the node says of itself, and not a proof.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The node, as `status` names it; the part after the last colon is enough.
    node: String,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl ExplainArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let keyring = keyring::read_required(&context).await?;
        let report = find_node(&context, &keyring, &self.node).await?;
        let now = context.store_now();
        let age = report.age_seconds(now);
        let status = match report.status {
            Ok(status) => status,
            Err(e) => {
                let why = anyhow::Error::new(e);
                return Err(why.context(format!("the report of {} says nothing", report.node)));
            }
        };
        match self.output {
            Format::Json => output::line(serde_json::to_string_pretty(&json!({
                "node": report.node, "group": report.group, "age_seconds": age, "status": status,
            }))?),
            Format::Text => {
                let age = Duration::from_secs(age.unwrap_or(0).unsigned_abs());
                output::line(format!(
                    "{} of group {}, as it said {} ago:",
                    report.node,
                    report.group,
                    output::age(age)
                ));
                of_node(&status).iter().for_each(output::line);
                of_rollout(&status.rollout).iter().for_each(output::line);
            }
        }
        Ok(Outcome::Done)
    }
}

fn of_node(status: &NodeStatus) -> Vec<String> {
    let number = |release: Option<shared::names::ReleaseNumber>| {
        release.map_or_else(|| "none".to_owned(), |r| r.to_string())
    };
    let mut lines = vec![format!(
        "  release {} on its disk, {} verified as published, phase {}, agent {}",
        number(status.release),
        number(status.published),
        status.phase,
        printable(&status.agent_version)
    )];
    if let Some(error) = &status.error {
        lines.push(format!(
            "  error since {:.0}, in phase {} ({}): {}",
            error.since,
            error.phase,
            printable(&error.kind),
            printable(&error.message)
        ));
    }
    if let Some(hold) = &status.hold {
        lines.push(format!(
            "  held since {:.0}: {}",
            hold.since,
            printable(&hold.reason)
        ));
    }
    lines
}

fn of_rollout(rollout: &RolloutReport) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(slot) = &rollout.slot {
        lines.push(format!(
            "  has a slot for release {} since {:.0} ({} to do it): {}",
            slot.release,
            slot.since,
            slot.deadline,
            word(&slot.transition).unwrap_or_default()
        ));
    }
    if let Some(waiting) = &rollout.waiting {
        lines.push(format!(
            "  waits with release {} ({}): {}",
            waiting.release,
            printable(&waiting.kind),
            printable(&waiting.why)
        ));
    }
    for probe in &rollout.probes {
        let verdict = match (probe.ok, probe.only_warns) {
            (true, _) => "succeeds",
            (false, true) => "fails, as before the release",
            (false, false) => "FAILS",
        };
        let (name, saw) = (printable(&probe.name), printable(&probe.saw));
        lines.push(format!("  probe {name} {verdict}: {saw}"));
    }
    if let Some(reverted) = &rollout.reverted {
        let healthy = match reverted.healthy {
            true => "and is healthy again",
            false => "and is NOT HEALTHY there",
        };
        lines.push(format!(
            "  went back from release {} to {} at {:.0} {healthy}: {}",
            reverted.release,
            reverted.to,
            reverted.at,
            printable(&reverted.why)
        ));
        let seen = reverted.lines.iter();
        lines.extend(seen.map(|line| format!("    {}", printable(line))));
    }
    if rollout.decisions.is_empty() {
        lines.push("  it has told no decision".to_owned());
        return lines;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["  AT", "RELEASE", "DIGEST", "OBJECT", "DECIDED", "RESULT"]);
    for decision in &rollout.decisions {
        let none = || "-".to_owned();
        table.add_row([
            format!("  {:.0}", decision.at),
            decision.release.map_or_else(none, |r| r.to_string()),
            decision.digest.map_or_else(none, |d| d.short()),
            decision
                .object
                .as_deref()
                .map_or_else(none, |o| printable(&brief(o, decision.digest.as_ref()))),
            printable(&decision.what),
            printable(&decision.result),
        ]);
    }
    lines.extend(table.trim_fmt().lines().map(str::to_owned));
    lines
}

/// The object's key, in which the digest that has a column of its own is as short as there: the whole of it is in the JSON.
fn brief(object: &str, digest: Option<&Sha256Digest>) -> String {
    match digest {
        Some(digest) => object.replace(&digest.to_string(), &format!("{}…", digest.short())),
        None => object.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_in_a_key_is_short() {
        let digest = Sha256Digest::of(b"x");
        let key = format!("groups/secure/targets/{digest}.release-2.bundle");
        let told = format!("groups/secure/targets/{}….release-2.bundle", digest.short());
        assert_eq!(brief(&key, Some(&digest)), told);
        assert_eq!(brief(&key, None), key);
    }
}
