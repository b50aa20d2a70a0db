//! `platformctl diff`.

use std::path::Path;

use clap::Args;
use jiff::Timestamp;

use super::EnvironmentArg;
use crate::context::Context;
use crate::diff::{compare, host_changes, published_release};
use crate::exit::Outcome;
use crate::publish::read_published;
use crate::release::prepare;
use crate::{keyring, output};

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups; by default all.
    groups: Vec<String>,
}

impl DiffArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let now = Timestamp::now();
        // As a publish would have it; nothing is written.
        let draft = keyring::draft(&context, now).await?;
        let keyring = draft.found();
        for change in draft.changes() {
            output::line(format!("keyring: a publish will have {change}"));
        }
        let mut differs = false;
        for group in context.workspace.select(&self.groups)? {
            let (content, _) = prepare(&context.workspace, &group, Some(draft.content()), now)?;
            let target = match keyring {
                Some(keyring) if keyring.content.groups.contains_key(&group) => {
                    let published = read_published(&context, keyring, &group).await?;
                    let current = published.current().cloned();
                    if let Some(current) = &current {
                        keyring.check_against(current)?;
                    }
                    current
                }
                _ => None,
            };
            let current = match &target {
                Some(target) => Some(published_release(&context, target).await?),
                None => None,
            };
            let agent = target.as_ref().and_then(|t| t.custom.agent.as_ref());
            let host = host_changes(current.as_ref(), agent, &content);
            let changes = compare(current.as_ref(), &content)?;
            match &current {
                Some(release) if changes.is_empty() && host.is_empty() => output::line(format!(
                    "{group}: nothing differs from release {}",
                    release.index().release
                )),
                Some(release) => output::line(format!(
                    "{group}: against release {}",
                    release.index().release
                )),
                None => output::line(format!("{group}: nothing is published yet")),
            }
            for change in &changes {
                output::line(change.to_string());
            }
            for change in &host {
                output::line(change);
            }
            differs |= !changes.is_empty() || !host.is_empty();
        }
        Ok(if differs {
            Outcome::Differs
        } else {
            Outcome::Done
        })
    }
}
