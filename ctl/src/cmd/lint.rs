//! `platformctl lint`.

use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use shared::names::GroupName;

use super::EnvironmentArg;
use crate::artifact::{ArtifactList, FILE, Follows, missing};
use crate::context::Workspace;
use crate::exit::{Outcome, mistake};
use crate::lint::{Finding, Severity, lint};
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
        let mut show = |finding: &Finding| {
            match finding.severity {
                Severity::Error => errors += 1,
                Severity::Warning => warnings += 1,
            }
            output::line(finding.to_string());
        };
        let groups = workspace.select(&self.groups)?;
        for group in &groups {
            let input = render_input(&workspace, group, None, now)?;
            let mut findings = lint(&input, now);
            // What cannot be rendered is told by lint.
            if let Ok(rendered) = render(&input) {
                findings.extend(rollout_findings(&workspace, group, &rendered));
            }
            findings.iter().for_each(&mut show);
        }
        artifact_findings(&workspace, &groups)
            .iter()
            .for_each(&mut show);
        if errors > 0 {
            return Err(mistake(format!("{errors} error(s), {warnings} warning(s)")));
        }
        output::line(format!("no errors, {warnings} warning(s)"));
        Ok(Outcome::Done)
    }
}

/// What real machines of these groups need and the list of artifacts does not have: a publish would be refused.
fn artifact_findings(workspace: &Workspace, groups: &[GroupName]) -> Vec<Finding> {
    let finding = |message: String, help: Option<String>| Finding {
        severity: Severity::Error,
        file: FILE.to_owned(),
        line: None,
        path: None,
        message,
        help,
    };
    if let Err(error) = ArtifactList::load(&workspace.directory) {
        return vec![finding(format!("{error:#}"), None)];
    }
    if !workspace.environment.on_aws() {
        return Vec::new();
    }
    let follows = Follows::of(workspace);
    // A node.yaml that cannot be read was told with its group.
    let unlisted = missing(workspace).unwrap_or_default().into_iter();
    let of_these = unlisted.filter_map(|(name, needed)| {
        let by: Vec<&str> = needed
            .iter()
            .filter(|group| groups.contains(group))
            .map(GroupName::as_str)
            .collect();
        let help = follows.command(&name, workspace.name.as_str());
        (!by.is_empty()).then(|| {
            finding(
                format!(
                    "{name} is not listed; machines of {} need it",
                    by.join(" and ")
                ),
                Some(help),
            )
        })
    });
    of_these.collect()
}
