//! A snapshot for people.

use std::time::Duration;

use comfy_table::{Table, presets};
use jiff::Timestamp;
use shared::backup::BackupName;
use shared::documents::NodeStatus;
use shared::names::ReleaseNumber;

use super::NodeReport;
use super::printable;
use super::silent::line_of;
use super::snapshot::{GroupStatus, Snapshot};
use crate::etcd::state_of;
use crate::expiry::Expiry;
use crate::output;
use crate::rollouts::word;

impl Snapshot {
    /// The lines to show.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for group in &self.groups {
            lines.extend(of_group(group, self.at));
        }
        let silent = self.never_reported.iter();
        lines.extend(silent.map(|machine| line_of(machine, self.at)));
        if let Some(why) = &self.machines_unknown {
            lines.push(format!(
                "whether machines run that have never reported is not known: {why}"
            ));
        }
        lines.extend(of_expiries(&self.expiries, self.at));
        lines
    }
}

/// The first, and every other that is soon.
fn of_expiries(expiries: &[Expiry], now: Timestamp) -> Vec<String> {
    let Some(first) = expiries.first() else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    if !first.is_soon(now) {
        lines.push(format!("expires first: {}, at {:.0}", first.what, first.at));
    }
    for soon in expiries.iter().filter(|e| e.is_soon(now)) {
        let verb = if soon.at < now {
            "HAS EXPIRED at"
        } else {
            "EXPIRES SOON, at"
        };
        lines.push(format!("{} {verb} {:.0}", soon.what, soon.at));
    }
    lines
}

fn number(release: Option<ReleaseNumber>) -> String {
    release.map_or_else(|| "-".to_owned(), |r| r.to_string())
}

fn of_group(group: &GroupStatus, now: Timestamp) -> Vec<String> {
    let expires = group.expires.map_or_else(String::new, |t| {
        let verb = if t < now {
            "HAVE EXPIRED since"
        } else {
            "expire"
        };
        format!(", signatures {verb} {t:.0}")
    });
    let mut lines = vec![format!(
        "{}: published release {}, good {}{expires}",
        group.group,
        number(group.published),
        number(group.good)
    )];
    if group.handover {
        lines.push(format!(
            "  its signing keys are half changed: platformctl rotate signing {}",
            group.group
        ));
    }
    if let Some(shortage) = group.shortage() {
        lines.push(format!("  MISSING NODES: {shortage}"));
    }
    if group.nodes.is_empty() && !group.rollout.needs_somebody() {
        lines.push("  no node has reported yet".to_owned());
        return lines;
    }
    let rollout = group.rollout.lines();
    lines.extend(rollout.into_iter().map(|line| format!("  {line}")));
    if group.nodes.is_empty() {
        lines.push("  no node has reported yet".to_owned());
        return lines;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "  NODE", "RELEASE", "PHASE", "SLOT", "PROBES", "AGE", "SAYS",
    ]);
    for node in &group.nodes {
        let unknown = || "?".to_owned();
        let (release, phase, slot, probes) = match &node.status {
            Ok(s) => (number(s.release), s.phase.to_string(), slot(s), probes(s)),
            Err(_) => (unknown(), unknown(), unknown(), unknown()),
        };
        let age = node.age_seconds(now).map_or_else(
            || "-".to_owned(),
            |s| output::age(Duration::from_secs(s.unsigned_abs())),
        );
        let says = node.objection(group.published, now).into_iter();
        let says: Vec<String> = says.chain(node.remark()).collect();
        let name = format!("  {}", node.node);
        table.add_row([name, release, phase, slot, probes, age, says.join("; ")]);
    }
    lines.extend(table.trim_fmt().lines().map(str::to_owned));
    lines.extend(etcd_line(&group.nodes).map(|line| format!("  {line}")));
    lines.extend(backups(group, now));
    lines
}

/// The newest backup of etcd that a node knows of, and who cannot take or find one.
fn backups(group: &GroupStatus, now: Timestamp) -> Vec<String> {
    let reports = || {
        let nodes = group.nodes.iter();
        nodes.filter_map(|n| Some((&n.node, n.status.as_ref().ok()?.backup.as_ref()?)))
    };
    if reports().next().is_none() {
        return Vec::new();
    }
    let newest = group.newest_backup();
    let state = state_of(newest.map(BackupName::at), now);
    let mut lines = vec![format!("  etcd's backups: {}", state.says(newest, now))];
    let failing = reports().filter_map(|(node, r)| Some((node, r.failed.as_ref()?)));
    lines.extend(failing.map(|(node, f)| format!("    {node}: {}", printable(&f.message))));
    lines
}

/// What the group's nodes are to etcd; nothing where none says so.
pub(crate) fn etcd_line(nodes: &[NodeReport]) -> Option<String> {
    let of_node = |status: &NodeStatus| {
        let report = status.etcd.as_ref()?;
        let name = &report.facts.name;
        let role = word(&report.role)?;
        let leads = nodes.iter().filter_map(|n| n.status.as_ref().ok());
        let mut leads = leads.filter_map(|s| s.etcd.as_ref()?.leader.as_ref());
        let leads = match leads.any(|leader| leader == name) {
            true => ", leads",
            false => "",
        };
        let why = match report.why.as_str() {
            "" => String::new(),
            why => format!(" ({})", printable(why)),
        };
        Some((
            report.generation,
            format!("{} {role}{leads}{why}", status.node),
        ))
    };
    let statuses = nodes.iter().filter_map(|n| n.status.as_ref().ok());
    let all: Vec<_> = statuses.filter_map(of_node).collect();
    let generation = all.iter().map(|(generation, _)| generation).max()?;
    let said = |(of, node): &(_, String)| match of == generation {
        true => node.clone(),
        false => format!("{node}, of generation {of} still"),
    };
    let nodes: Vec<String> = all.iter().map(said).collect();
    Some(format!(
        "etcd, generation {generation}: {}",
        nodes.join("; ")
    ))
}

/// Where a node with a slot stands.
fn slot(status: &NodeStatus) -> String {
    let slot = status.rollout.slot.as_ref();
    let transition = slot.and_then(|slot| word(&slot.transition));
    transition.unwrap_or_else(|| "-".to_owned())
}

/// The last results of a node's probes: how many succeed, and the first that does not.
fn probes(status: &NodeStatus) -> String {
    let probes = &status.rollout.probes;
    if probes.is_empty() {
        return "-".to_owned();
    }
    let good = probes.iter().filter(|p| p.ok).count();
    let failing = probes.iter().find(|p| !p.ok);
    let failing = failing.map_or_else(String::new, |p| format!(", not {}", printable(&p.name)));
    format!("{good}/{}{failing}", probes.len())
}
