//! `platformctl build`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use shared::durable::{self, Attributes};
use shared::names::GroupName;

use super::EnvironmentArg;
use crate::context::Workspace;
use crate::dev::nodes::find_agent;
use crate::exit::{Outcome, mistake};
use crate::output;
use crate::release::{prepare, render_input};
use crate::render::render;
use crate::userdata::{AgentBinary, Input, first_roots, template_for_working_dir, user_data};

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Where to; by default .platform/NAME/build below the directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The platform-agent that machines install at their first boot; by default the one beside platformctl or on the
    /// PATH.
    #[arg(long, value_name = "FILE", env = "PLATFORM_AGENT")]
    agent: Option<PathBuf>,
    /// No user data: nothing of the bucket, nor an agent, is needed.
    #[arg(long)]
    manifests_only: bool,
    /// Only these groups.
    groups: Vec<String>,
}

impl BuildArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let out = self
            .out
            .unwrap_or_else(|| workspace.state_directory().join("build"));
        let groups = workspace.select(&self.groups)?;
        for group in &groups {
            // The same checks as a publish: what is written here could be published.
            let (_, warnings) = prepare(&workspace, group, None, Timestamp::now())?;
            for warning in warnings {
                output::note(warning.to_string());
            }
            let input = render_input(&workspace, group, None, Timestamp::now())?;
            let rendered = render(&input)?;
            let target = out.join(group.as_str());
            clear(&target)?;
            for (path, bytes) in rendered.by_path() {
                let path = target.join(path);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)
                        .with_context(|| format!("cannot make {}", parent.display()))?;
                }
                durable::write_file(&path, bytes, Attributes::mode(0o644))?;
                output::line(format!("wrote {}", path.display()));
            }
        }
        if self.manifests_only {
            return Ok(Outcome::Done);
        }
        if !workspace.environment.on_aws() {
            output::note(format!(
                "environment {} has no machines of its own: no user data was rendered",
                workspace.name
            ));
            return Ok(Outcome::Done);
        }
        write_user_data(&workspace, &groups, self.agent, &out)
            .await
            .context("the manifests were written, the user data was not")?;
        Ok(Outcome::Done)
    }
}

/// Renders the user data of every group before the first is written.
async fn write_user_data(
    workspace: &Workspace,
    groups: &[GroupName],
    agent: Option<PathBuf>,
    out: &Path,
) -> anyhow::Result<()> {
    let template = template_for_working_dir(&workspace.directory)?;
    let path = find_agent(agent).map_err(|e| mistake(format!("{e:#}")))?;
    let agent = AgentBinary::read(&path)?;
    let roots = first_roots(workspace, groups).await?;
    let mut rendered = Vec::new();
    for (group, trusted_root) in &roots {
        let text = user_data(&Input {
            environment: &workspace.environment,
            group,
            trusted_root,
            agent: agent.sha256,
            template: &template,
        })?;
        rendered.push((out.join(group.as_str()).join("user-data"), text));
    }
    for (path, text) in rendered {
        durable::write_file(&path, text.as_bytes(), Attributes::mode(0o644))?;
        output::line(format!("wrote {} ({} bytes)", path.display(), text.len()));
    }
    Ok(())
}
/// The directories that a build writes for a group.
const PLACES: [&str; 3] = ["manifests", "secrets", "host"];

/// A file of an earlier build that no template makes any more must not stay.
fn clear(group: &Path) -> anyhow::Result<()> {
    for place in PLACES {
        let path = group.join(place);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot clear {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
