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
        let keyring = keyring::read(&context).await?;
        let mut differs = false;
        for group in context.workspace.select(&self.groups)? {
            let keys = keyring.as_ref().and_then(|k| k.content.groups.get(&group));
            let (content, _) = prepare(&context.workspace, &group, keys, Timestamp::now())?;
            let target = match &keyring {
                Some(keyring) if keys.is_some() => {
                    let published = read_published(&context, keyring, &group).await?;
                    published.current().cloned()
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
