//! `platformctl build`.

use std::collections::BTreeMap;
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
use crate::userdata::{
    AgentBinary, Input, first_roots, sent_bytes, template_for_working_dir, user_data,
};

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
        let out = self.out.unwrap_or_else(|| place(&workspace));
        let groups = workspace.select(&self.groups)?;
        let written = write_manifests(&workspace, &groups, &out)?;
        for path in written {
            output::line(format!("wrote {}", path.display()));
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
        let rendered = render_user_data(&workspace, &groups, self.agent)
            .await
            .context("the manifests were written, the user data was not")?;
        for (path, bytes, sent) in write_user_data(&rendered.texts, &out)? {
            let path = path.display();
            output::line(format!(
                "wrote {path} ({bytes} bytes, {sent} as it is sent)"
            ));
        }
        Ok(Outcome::Done)
    }
}

/// Where a build goes by default.
pub(super) fn place(workspace: &Workspace) -> PathBuf {
    workspace.state_directory().join("build")
}

/// Renders and checks the files of each group, and writes them; gives their paths.
pub(super) fn write_manifests(
    workspace: &Workspace,
    groups: &[GroupName],
    out: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for group in groups {
        // The same checks as a publish: what is written here could be published.
        let (_, warnings) = prepare(workspace, group, None, Timestamp::now())?;
        for warning in warnings {
            output::note(warning.to_string());
        }
        let input = render_input(workspace, group, None, Timestamp::now())?;
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
            written.push(path);
        }
    }
    Ok(written)
}

/// What machines boot with, and the agent that it names.
#[derive(Debug)]
pub(super) struct RenderedUserData {
    /// The user data of each group.
    pub(super) texts: BTreeMap<GroupName, String>,
    /// The agent that machines install at their first boot.
    pub(super) agent: AgentBinary,
}

/// Renders the user data of every group.
pub(super) async fn render_user_data(
    workspace: &Workspace,
    groups: &[GroupName],
    agent: Option<PathBuf>,
) -> anyhow::Result<RenderedUserData> {
    let template = template_for_working_dir(&workspace.directory)?;
    let path = find_agent(agent).map_err(|e| mistake(format!("{e:#}")))?;
    let agent = AgentBinary::read(&path)?;
    let mut texts = BTreeMap::new();
    for (group, trusted_root) in &first_roots(workspace, groups).await? {
        let text = user_data(&Input {
            environment: &workspace.environment,
            group,
            trusted_root,
            agent: agent.sha256,
            template: &template,
        })?;
        texts.insert(group.clone(), text);
    }
    Ok(RenderedUserData { texts, agent })
}

/// Writes it beside each group's files; gives each path with its size, and its size as it is sent.
pub(super) fn write_user_data(
    texts: &BTreeMap<GroupName, String>,
    out: &Path,
) -> anyhow::Result<Vec<(PathBuf, usize, usize)>> {
    let mut written = Vec::new();
    for (group, text) in texts {
        let path = out.join(group.as_str()).join("user-data");
        durable::write_file(&path, text.as_bytes(), Attributes::mode(0o644))?;
        written.push((path, text.len(), sent_bytes(text)));
    }
    Ok(written)
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
