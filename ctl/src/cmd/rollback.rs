//! `platformctl rollback`.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use shared::names::{GroupName, ReleaseNumber};

use super::EnvironmentArg;
use super::publish::{said, secure_first};
use crate::context::Context;
use crate::exit::{Outcome, mistake};
use crate::output::{self, Confirmation, Format};
use crate::publish::STEPS;
use crate::rollback::{Rollback, rollback};

/// Publishes a new release with the templates' files of an older one and today's files of the keyring.
///
/// Certificates, tokens and keys stay those of now: old ones would lock the cluster out of its own data. Refused across a
/// minor of etcd. It may be done during a rollout, also while that is halted.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The group; may be left out where there is only one.
    group: Option<String>,
    /// The release to go back to: by default the good one, or, where that is current, the one before.
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl RollbackArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let group = the_group(&context, self.group.as_deref())?;
        let to = self
            .to
            .map(|n| {
                ReleaseNumber::new(n).ok_or_else(|| mistake("a release's number is at least 1"))
            })
            .transpose()?;
        let found = rollback(&context, &group, to, Timestamp::now()).await?;
        if found.difference.is_empty() {
            return self.nothing(&group, &found);
        }
        let show = match self.output {
            Format::Text => output::line,
            Format::Json => output::note,
        };
        show(format!(
            "{group}: release {} would be followed by the files of release {} (by {} at {:.0})",
            found.from,
            found.to.release(),
            found.to.custom.published_by,
            found.to.custom.published_at
        ));
        found.difference.lines().for_each(show);
        match output::confirm(&format!("Publish that to group {group}?"), self.yes) {
            Confirmation::Yes => {}
            Confirmation::No => {
                output::note("nothing was published");
                return Ok(Outcome::Differs);
            }
            Confirmation::NoTerminal => {
                return Err(mistake(
                    "nothing was published: there is no terminal to ask on; --yes goes ahead",
                ));
            }
        }
        secure_first(&context, &found.keyring, &found.planned, None)
            .await
            .with_context(|| format!("group {group} was not published"))?;
        let bar = output::progress(STEPS, group.as_str());
        let back = found.to.release();
        let done = found.planned.publish(&context, &found.keyring, &bar).await;
        bar.finish_and_clear();
        let done = done.with_context(|| format!("group {group} was not published"))?;
        match self.output {
            Format::Text => output::line(said(group.as_str(), &done)),
            Format::Json => {
                let release = done.release();
                let shown = json!({
                    "group": group, "release": release, "replaces": found.from, "brings_back": back,
                    "changes": found.difference,
                });
                output::line(serde_json::to_string_pretty(&shown)?);
            }
        }
        output::note(
            "the working directory is as it was: mend it before the next publish (`platformctl diff` shows what that would change)",
        );
        Ok(Outcome::Done)
    }

    fn nothing(&self, group: &GroupName, found: &Rollback) -> anyhow::Result<Outcome> {
        let back = found.to.release();
        match self.output {
            Format::Text => output::line(format!(
                "{group}: with today's keyring, release {back} does not differ from release {}; nothing was published",
                found.from
            )),
            Format::Json => output::line(serde_json::to_string_pretty(&json!({
                "group": group, "release": null, "replaces": found.from, "brings_back": back,
                "changes": found.difference,
            }))?),
        }
        Ok(Outcome::Done)
    }
}

/// The group named, or the only one: a rollback of all groups at once is never meant, since each has numbers of its own.
fn the_group(context: &Context, named: Option<&str>) -> anyhow::Result<GroupName> {
    let named: Vec<String> = named.into_iter().map(str::to_owned).collect();
    let groups = context.workspace.select(&named)?;
    match groups.as_slice() {
        [one] => Ok(one.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(GroupName::as_str).collect();
            Err(mistake(format!(
                "say which group to roll back: {}",
                names.join(" or ")
            )))
        }
    }
}
