//! `platformctl diff`.

use std::path::Path;

use clap::Args;
use jiff::Timestamp;

use super::EnvironmentArg;
use crate::context::Context;
use crate::diff::{compare, published_release};
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
            let current = match keyring {
                Some(keyring) if keyring.content.groups.contains_key(&group) => {
                    let published = read_published(&context, keyring, &group).await?;
                    match published.current() {
                        Some(target) => {
                            keyring.check_against(target)?;
                            Some(published_release(&context, target).await?)
                        }
                        None => None,
                    }
                }
                _ => None,
            };
            let changes = compare(current.as_ref(), &content)?;
            match &current {
                Some(release) if changes.is_empty() => output::line(format!(
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
            differs |= !changes.is_empty();
        }
        Ok(if differs {
            Outcome::Differs
        } else {
            Outcome::Done
        })
    }
}
