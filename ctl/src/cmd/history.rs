//! `platformctl history`.

use std::path::Path;

use clap::Args;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::Serialize;
use shared::documents::FailedAdoption;
use shared::names::{GroupName, ReleaseNumber};
use shared::trust::ReleaseTarget;

use super::EnvironmentArg;
use crate::context::Context;
use crate::diff::Difference;
use crate::exit::Outcome;
use crate::history::{Entry, Fate, changes, history};
use crate::keyring::{self, Keyring};
use crate::output::{self, Format};
use crate::publish::read_published;
use crate::rollouts::{self, RolloutView};
use crate::status::{printable, read_group};

/// Releases that are shown unless told otherwise.
const SHOWN: usize = 20;
/// Bundles that are compared at once.
const PARALLEL: usize = 4;
/// Files of a release that are named to people.
const NAMED: usize = 12;

/// Shows the releases of each group: when, by whom, what each changed, and what became of it.
///
/// Each is verified: its document by the signing keys of its time, its bundle by the digest in it. Secrets are named,
/// never shown.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups; by default all.
    groups: Vec<String>,
    /// Every release that the bucket still has.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// So many releases.
    #[arg(long, value_name = "N", default_value_t = SHOWN, value_parser = at_least_one)]
    limit: usize,
    /// Only what the signed facts say: no bundle is fetched, and no key asked for.
    #[arg(long)]
    no_changes: bool,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Serialize)]
struct OfGroup {
    group: GroupName,
    releases: Vec<Shown>,
    /// Documents in the bucket that are not believed.
    not_believed: Vec<String>,
    /// Whether older releases were left out.
    more: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    release: ReleaseNumber,
    published_at: Timestamp,
    published_by: String,
    fate: Fate,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<ReleaseNumber>,
    #[serde(skip_serializing_if = "Option::is_none")]
    brings_back: Option<ReleaseNumber>,
    /// Nodes on which it failed, as the rollout document remembers them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<FailedAdoption>,
    /// How its rollout goes; only of the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<RolloutView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Difference>,
    /// Why the changes are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes_unknown: Option<String>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 (`--all` shows every one)".to_owned()),
        Ok(limit) => Ok(limit),
        Err(_) => Err("a whole number, at least 1".to_owned()),
    }
}

impl HistoryArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let groups = context.workspace.select(&self.groups)?;
        let keyring = keyring::read_required(&context).await?;
        let limit = (!self.all).then_some(self.limit);
        let mut all = Vec::new();
        for group in groups {
            let published = read_published(&context, &keyring, &group).await?;
            let Some(found) = history(&context, &keyring, &group, &published, limit).await? else {
                all.push(OfGroup {
                    group,
                    releases: Vec::new(),
                    not_believed: Vec::new(),
                    more: false,
                });
                continue;
            };
            let keys = keyring.group(&group)?;
            let reports = read_group(&context, keys, &group).await?;
            let document = rollouts::read(&context, keys, &group).await;
            let document = document.map_err(|e| format!("{:#}", anyhow::Error::new(e)));
            let failed = document.as_ref().ok().and_then(Option::as_ref);
            let failed = failed.map_or_else(Vec::new, |d| d.failed.clone());
            let current = published.current().map(ReleaseTarget::release);
            let now = context.store_now();
            let read = document.as_ref().map(Option::as_ref).map_err(Clone::clone);
            let rollout = RolloutView::of(current, read, &reports, now);
            let shown = found
                .entries
                .iter()
                .map(|entry| self.shown((&context, &keyring), entry, &failed, &rollout));
            all.push(OfGroup {
                group,
                releases: stream::iter(shown).buffered(PARALLEL).collect().await,
                not_believed: found.refused,
                more: found.more,
            });
        }
        match self.output {
            Format::Json => output::line(serde_json::to_string_pretty(&all)?),
            Format::Text => all.iter().for_each(show),
        }
        Ok(Outcome::Done)
    }

    async fn shown(
        &self,
        (context, keyring): (&Context, &Keyring),
        entry: &Entry,
        failed: &[FailedAdoption],
        rollout: &RolloutView,
    ) -> Shown {
        let release = entry.target.release();
        let of_release = failed.iter().filter(|f| f.release == release);
        let custom = &entry.target.custom;
        let found = match self.no_changes {
            true => None,
            false => Some(changes(context, keyring, entry).await),
        };
        let (changes, changes_unknown) = match found {
            None => (None, None),
            Some(Ok(changes)) => (Some(changes), None),
            Some(Err(e)) => (None, Some(format!("{e:#}"))),
        };
        Shown {
            release,
            published_at: custom.published_at,
            published_by: custom.published_by.clone(),
            fate: entry.fate,
            replaced: custom.replaces,
            brings_back: custom.brings_back,
            failed: of_release.cloned().collect(),
            rollout: (entry.fate == Fate::Current).then(|| rollout.clone()),
            changes,
            changes_unknown,
        }
    }
}

fn show(of: &OfGroup) {
    let group = &of.group;
    if of.releases.is_empty() {
        output::line(format!("{group}: nothing is published yet"));
    } else {
        output::line(format!("{group}:"));
    }
    for release in &of.releases {
        show_release(release);
    }
    if of.more {
        output::line("  older releases: --all");
    }
    for refused in &of.not_believed {
        output::line(format!("  not believed: {refused}"));
    }
}

fn show_release(shown: &Shown) {
    let back = shown
        .brings_back
        .map_or_else(String::new, |n| format!(", brings release {n} back"));
    output::line(format!(
        "  release {} at {:.0} by {}: {}{back}",
        shown.release, shown.published_at, shown.published_by, shown.fate
    ));
    for line in shown.rollout.iter().flat_map(RolloutView::lines) {
        output::line(format!("    {line}"));
    }
    for failed in &shown.failed {
        output::line(format!(
            "    failed on {} at {:.0}: {}",
            failed.node,
            failed.at,
            printable(&failed.why)
        ));
    }
    if let Some(why) = &shown.changes_unknown {
        output::line(format!("    what it changed is not known: {why}"));
    }
    let Some(changes) = &shown.changes else {
        return;
    };
    match shown.replaced {
        None if changes
            .files
            .iter()
            .all(|f| f.kind == crate::diff::ChangeKind::Added) =>
        {
            output::line(format!("    the first: {} files", changes.files.len()));
        }
        _ if changes.is_empty() => output::line("    changed no file"),
        _ => {
            let lines: Vec<String> = changes.lines().collect();
            for line in lines.iter().take(NAMED) {
                output::line(format!("  {line}"));
            }
            if let Some(more) = lines.len().checked_sub(NAMED).filter(|n| *n > 0) {
                output::line(format!("    … and {more} more (--output json)"));
            }
        }
    }
}
