//! `platformctl gc`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::EnvironmentArg;
use crate::context::Context;
use crate::exit::{Outcome, mistake};
use crate::gc::{Choices, Collection, KEEP, YOUNGEST, YOUNGEST_ARTIFACT, collect, plan};
use crate::keyring;
use crate::output::{self, Format};

/// Removes from the bucket what nobody needs: bundles and documents of old releases, and artifacts that no kept release names.
///
/// Kept are the newest releases, and any that is current or good, was replaced or brought back by the current one, or is
/// named by a node or by the rollout. A publish does the same by itself once enough has gathered.
#[derive(Debug, Args)]
pub(super) struct GcArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups; by default all.
    groups: Vec<String>,
    /// Only say what would be deleted.
    #[arg(long)]
    dry_run: bool,
    /// Releases to keep for history and rollback; at least 2.
    #[arg(long, value_name = "N", default_value_t = KEEP)]
    keep: usize,
    /// Keep whatever is younger: `90m`, `36h`, `7d`. A publish that is under way must not be longer. By default 24h, and
    /// 30d for artifacts: one may be listed, and in review, before a release names it.
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl GcArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        if self.keep < 2 {
            return Err(mistake(
                "--keep: at least 2, so that the release before the current one can be brought back",
            ));
        }
        let age = self.older_than.as_deref();
        let age = age.map(|text| duration("--older-than", text)).transpose()?;
        let choices = Choices {
            keep: self.keep,
            youngest: age.unwrap_or(YOUNGEST),
            youngest_artifact: age.unwrap_or(YOUNGEST_ARTIFACT),
        };
        let context = Context::open(directory, &self.environment.environment).await?;
        let groups = context.workspace.select(&self.groups)?;
        let keyring = keyring::read_required(&context).await?;
        let mut all = Vec::new();
        let mut ended = Ok(Outcome::Done);
        for group in groups {
            let done = match self.dry_run {
                true => plan(&context, &keyring, &group, choices).await,
                false => collect(&context, &keyring, &group, choices).await,
            };
            match done.with_context(|| format!("group {group} was not collected")) {
                Ok(done) => all.push(done),
                Err(e) => {
                    // What was deleted of the groups before it is told first.
                    ended = Err(e);
                    break;
                }
            }
        }
        match self.output {
            Format::Text => all
                .iter()
                .flat_map(|c| said(c, self.dry_run))
                .for_each(output::line),
            Format::Json => {
                let shown = json!({"dry_run": self.dry_run, "groups": all});
                output::line(serde_json::to_string_pretty(&shown)?);
            }
        }
        ended
    }
}

/// What a collection did, a line each.
pub(super) fn said(done: &Collection, dry_run: bool) -> Vec<String> {
    let verb = if dry_run { "would delete" } else { "deleted" };
    let (group, count) = (&done.group, done.deleted.len());
    if count == 0 {
        return vec![format!("{group}: nothing to delete")];
    }
    let head = format!("{group}: {verb} {count} objects, {} bytes", done.bytes);
    let each = done.deleted.iter();
    let each = each.map(|d| format!("  {} ({} bytes): {}", d.key, d.bytes, d.why));
    std::iter::once(head).chain(each).collect()
}

/// A number with `s`, `m`, `h` or `d`.
pub(super) fn duration(option: &str, text: &str) -> anyhow::Result<Duration> {
    let wrong = || {
        mistake(format!(
            "{option}: {text:?} is no duration: a whole number with s, m, h or d, such as 36h"
        ))
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let digits = text.strip_suffix(unit).unwrap_or_default();
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let of = |text| duration("--for", text).map(|d| d.as_secs());
        assert_eq!(of("90m").unwrap(), 5_400);
        assert_eq!((of("36h").unwrap(), of("2d").unwrap()), (129_600, 172_800));
        for bad in [
            "",
            "h",
            "1",
            "1.5h",
            "-1h",
            "1w",
            "é",
            "99999999999999999999d",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
