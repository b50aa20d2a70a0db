//! `platformctl build`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use shared::durable::{self, Attributes};

use super::EnvironmentArg;
use crate::context::Workspace;
use crate::exit::Outcome;
use crate::output;
use crate::release::{prepare, render_input};
use crate::render::render;

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Where to; by default .platform/NAME/build below the directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only these groups.
    groups: Vec<String>,
}

impl BuildArgs {
    pub(super) fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let out = self
            .out
            .unwrap_or_else(|| workspace.state_directory().join("build"));
        for group in workspace.select(&self.groups)? {
            // The same checks as a publish: what is written here could be published.
            let (_, warnings) = prepare(&workspace, &group, None, Timestamp::now())?;
            for warning in warnings {
                output::note(warning.to_string());
            }
            let input = render_input(&workspace, &group, None, Timestamp::now())?;
            let rendered = render(&input)?;
            let target = out.join(group.as_str()).join("manifests");
            clear(&target)?;
            for (name, bytes) in &rendered.manifests {
                let path = target.join(name);
                durable::write_file(&path, bytes, Attributes::mode(0o644))?;
                output::line(format!("wrote {}", path.display()));
            }
        }
        Ok(Outcome::Done)
    }
}

/// A file of an earlier build that no template makes any more must not stay.
fn clear(target: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    for entry in std::fs::read_dir(target)? {
        let path = entry?.path();
        if path.is_file() {
            durable::remove_file(&path)?;
        }
    }
    Ok(())
}
