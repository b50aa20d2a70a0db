//! `platformctl lint`.

use std::path::Path;

use clap::Args;
use jiff::Timestamp;

use super::EnvironmentArg;
use crate::context::Workspace;
use crate::exit::{Outcome, mistake};
use crate::lint::{Severity, lint};
use crate::output;
use crate::release::{render_input, rollout_findings};
use crate::render::render;

#[derive(Debug, Args)]
pub(super) struct LintArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Only these groups.
    groups: Vec<String>,
}

impl LintArgs {
    pub(super) fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let now = Timestamp::now();
        let mut errors = 0;
        let mut warnings = 0;
        for group in workspace.select(&self.groups)? {
            let input = render_input(&workspace, &group, None, now)?;
            let mut findings = lint(&input, now);
            // What cannot be rendered is told by lint.
            if let Ok(rendered) = render(&input) {
                findings.extend(rollout_findings(&workspace, &group, &rendered));
            }
            for finding in findings {
                match finding.severity {
                    Severity::Error => errors += 1,
                    Severity::Warning => warnings += 1,
                }
                output::line(finding.to_string());
            }
        }
        if errors > 0 {
            return Err(mistake(format!("{errors} error(s), {warnings} warning(s)")));
        }
        output::line(format!("no errors, {warnings} warning(s)"));
        Ok(Outcome::Done)
    }
}
