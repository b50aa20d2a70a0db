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
            let rendered = render(&render_input(&workspace, &group)?)?;
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
        Ok(Outcome::Done)
    }
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
