//! `platformctl diff`.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use shared::names::{GroupName, ReleaseNumber};

use super::EnvironmentArg;
use crate::context::Context;
use crate::diff::{Difference, Side, published_release};
use crate::exit::{Outcome, mistake};
use crate::history::{ReleaseError, release_of};
use crate::keyring::{self, Keyring};
use crate::output::{self, Format};
use crate::publish::read_published;
use crate::release::prepare;

/// Shows what a publish would change, or, with two numbers, in what two published releases differ.
///
/// Manifests and rendered host files are shown line by line. Of every other file only its name is shown.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups, by default all; then two release numbers, to compare what was published under them.
    #[arg(value_name = "GROUP|N M")]
    what: Vec<String>,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Serialize)]
struct OfGroup {
    group: GroupName,
    /// The release that it is compared with; none where nothing is published.
    against: Option<ReleaseNumber>,
    /// The other release; none where it is the working directory.
    release: Option<ReleaseNumber>,
    #[serde(flatten)]
    difference: Difference,
}

impl DiffArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let (groups, numbers) = parse(&self.what)?;
        let selected = context.workspace.select(&groups)?;
        let all = match numbers {
            None => against_published(&context, &selected, self.output).await?,
            Some(pair) => between(&context, &selected, !groups.is_empty(), pair).await?,
        };
        match self.output {
            Format::Json => output::line(serde_json::to_string_pretty(&all)?),
            Format::Text => all.iter().for_each(show),
        }
        Ok(if all.iter().any(|g| !g.difference.is_empty()) {
            Outcome::Differs
        } else {
            Outcome::Done
        })
    }
}

/// An older and a newer release, or the other way round.
type Pair = (ReleaseNumber, ReleaseNumber);

/// The groups named, and the two numbers.
fn parse(what: &[String]) -> anyhow::Result<(Vec<String>, Option<Pair>)> {
    let is_number = |text: &&String| text.bytes().all(|b| b.is_ascii_digit());
    let (numbers, groups): (Vec<&String>, Vec<&String>) = what.iter().partition(is_number);
    let groups = groups.into_iter().cloned().collect();
    let number = |text: &str| text.parse().ok().and_then(ReleaseNumber::new);
    match numbers.as_slice() {
        [] => Ok((groups, None)),
        [old, new] => match (number(old), number(new)) {
            (Some(old), Some(new)) => Ok((groups, Some((old, new)))),
            _ => Err(mistake(format!(
                "{old} {new}: a release's number is at least 1"
            ))),
        },
        _ => Err(mistake(format!(
            "two release numbers are compared, and {} were given: `platformctl diff -e NAME GROUP 4 7`",
            numbers.len()
        ))),
    }
}

/// Two published releases. Without a group that was named, those that do not have both are passed over.
async fn between(
    context: &Context,
    groups: &[GroupName],
    named: bool,
    (old, new): Pair,
) -> anyhow::Result<Vec<OfGroup>> {
    let keyring = keyring::read_required(context).await?;
    let mut all = Vec::new();
    let mut passed_over = Vec::new();
    for group in groups {
        let of = async |number| {
            let target = release_of(context, &keyring, group, number).await?;
            let release = published_release(context, &target).await?;
            anyhow::Ok((target, release))
        };
        let read = match of(old).await {
            Ok(old) => of(new).await.map(|new| (old, new)),
            Err(e) => Err(e),
        };
        let ((old_target, before), (new_target, after)) = match read {
            Ok(both) => both,
            Err(e) if !named && e.is::<ReleaseError>() => {
                passed_over.push(e);
                continue;
            }
            Err(e) => return Err(e),
        };
        let side = |release, agent| Side { release, agent };
        let before = side(&before, old_target.custom.agent.as_ref());
        let after = side(&after, new_target.custom.agent.as_ref());
        all.push(OfGroup {
            group: group.clone(),
            against: Some(old),
            release: Some(new),
            difference: Difference::between(Some(before), after),
        });
    }
    for reason in &passed_over {
        output::note(format!("{reason:#}"));
    }
    match (all.is_empty(), passed_over.pop()) {
        (true, Some(reason)) => Err(reason),
        _ => Ok(all),
    }
}

/// The working directory against what is published. As a publish would have it; nothing is written.
async fn against_published(
    context: &Context,
    groups: &[GroupName],
    format: Format,
) -> anyhow::Result<Vec<OfGroup>> {
    let now = Timestamp::now();
    let draft = keyring::draft(context, now).await?;
    for change in draft.changes() {
        let text = format!("keyring: a publish will have {change}");
        match format {
            Format::Text => output::line(text),
            Format::Json => output::note(text),
        }
    }
    let mut all = Vec::new();
    for group in groups {
        let (content, _) = prepare(&context.workspace, group, Some(draft.content()), now)?;
        let target = published_target(context, draft.found(), group).await?;
        let current = match &target {
            Some(target) => Some(published_release(context, target).await?),
            None => None,
        };
        let next = content.number(ReleaseNumber::from(std::num::NonZeroU64::MIN))?;
        let old = current.as_ref().map(|release| Side {
            release,
            agent: target.as_ref().and_then(|t| t.custom.agent.as_ref()),
        });
        let new = Side {
            release: &next,
            agent: content.agent(),
        };
        all.push(OfGroup {
            group: group.clone(),
            against: target.as_ref().map(shared::trust::ReleaseTarget::release),
            release: None,
            difference: Difference::between(old, new),
        });
    }
    Ok(all)
}

async fn published_target(
    context: &Context,
    keyring: Option<&Keyring>,
    group: &GroupName,
) -> anyhow::Result<Option<shared::trust::ReleaseTarget>> {
    let Some(keyring) = keyring.filter(|k| k.content.groups.contains_key(group)) else {
        return Ok(None);
    };
    let published = read_published(context, keyring, group)
        .await
        .with_context(|| format!("what is published of group {group} cannot be used"))?;
    let current = published.current().cloned();
    if let Some(current) = &current {
        keyring.check_against(current)?;
    }
    Ok(current)
}

fn show(of: &OfGroup) {
    let group = &of.group;
    output::line(match (of.against, of.release) {
        (Some(old), Some(new)) if of.difference.is_empty() => {
            format!("{group}: release {new} does not differ from release {old}")
        }
        (Some(old), Some(new)) => format!("{group}: release {new} against release {old}"),
        (Some(old), None) if of.difference.is_empty() => {
            format!("{group}: nothing differs from release {old}")
        }
        (Some(old), None) => format!("{group}: against release {old}"),
        (None, _) => format!("{group}: nothing is published yet"),
    });
    of.difference.lines().for_each(output::line);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parsed = (Vec<String>, Option<(u64, u64)>);

    fn parsed(what: &[&str]) -> Result<Parsed, String> {
        let what: Vec<String> = what.iter().map(ToString::to_string).collect();
        let (groups, numbers) = parse(&what).map_err(|e| e.to_string())?;
        Ok((groups, numbers.map(|(a, b)| (a.get(), b.get()))))
    }

    #[test]
    fn groups_and_two_numbers() {
        assert_eq!(parsed(&[]).unwrap(), (vec![], None));
        let secure = vec!["secure".to_owned()];
        assert_eq!(parsed(&["secure"]).unwrap(), (secure.clone(), None));
        assert_eq!(
            parsed(&["secure", "4", "7"]).unwrap(),
            (secure, Some((4, 7)))
        );
        assert_eq!(parsed(&["7", "4"]).unwrap(), (vec![], Some((7, 4))));
        assert!(parsed(&["4"]).unwrap_err().contains("1 were given"));
        assert!(parsed(&["0", "4"]).unwrap_err().contains("at least 1"));
    }
}
