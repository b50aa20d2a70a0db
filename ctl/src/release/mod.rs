//! What a group's next release holds, before it has a number.

mod content;
mod etcd;
mod order;
mod safety;
mod sources;

use jiff::Timestamp;
use shared::backup::RESTORE_IDENTITY_FILE;
use shared::bundle::Origin;
use shared::check::secret_dir::SecretFile;
use shared::documents::KeyringContent;
use shared::names::{GroupName, ReleaseNumber};
use shared::secret::SecretBytes;

use crate::artifact::{self, ArtifactList};
use crate::context::Workspace;
use crate::lint::{Finding, Severity, lint};
use crate::render::{RenderErrors, RenderInput, render, rollout_problems};

pub use content::Content;
pub use order::write_order;
pub use safety::rollout_findings;
pub use sources::{Sources, gather};

use etcd::etcd_section;
use safety::quorum;

/// What lint found, where it keeps a release from being made.
#[derive(Debug, thiserror::Error)]
#[error("{} problem(s) in the files of group {group}:\n{}", .findings.len(), shown(.findings))]
pub struct LintFailed {
    group: GroupName,
    findings: Vec<Finding>,
}

fn shown(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(|f| format!("  {f}")).collect();
    lines.join("\n")
}

/// Everything that rendering and linting a group depends on; see [`gather`].
///
/// # Errors
/// As [`gather`].
pub fn render_input(
    workspace: &Workspace,
    group: &GroupName,
    keyring: Option<&KeyringContent>,
    now: Timestamp,
) -> anyhow::Result<RenderInput> {
    Ok(gather(workspace, group, keyring, now)?.input)
}

/// Renders and checks a group's files. Warnings are returned beside the content. Without a keyring, stand-ins are
/// rendered and checked in the place of what it would give, and the content cannot be published.
///
/// # Errors
/// Every problem at once, as [`LintFailed`] or one of the causes of [`render_input`].
pub fn prepare(
    workspace: &Workspace,
    group: &GroupName,
    keyring: Option<&KeyringContent>,
    now: Timestamp,
) -> anyhow::Result<(Content, Vec<Finding>)> {
    let sources = gather(workspace, group, keyring, now)?;
    let input = &sources.input;
    let mut findings = lint(input, now);
    if findings.iter().any(|f| f.severity == Severity::Error) {
        let failed = LintFailed {
            group: group.clone(),
            findings,
        };
        return Err(anyhow::Error::new(crate::exit::Mistake(failed.to_string())));
    }
    let rendered = render(input)?;
    let mut content = Content::empty(&workspace.name, group);
    content.stand_ins = input.stand_ins;
    for (pod, files) in input.secrets.iter().chain(&rendered.files) {
        for (name, file) in files {
            let of = (pod.clone(), name.clone());
            let origin = match sources.from_keyring.contains(&of) {
                true => Origin::Keyring,
                false => Origin::Template,
            };
            content.add_file(&format!("secrets/{pod}/{name}"), file, origin)?;
        }
    }
    for (path, file) in &sources.fixed {
        content.add_file(path, file, Origin::Keyring)?;
    }
    if let Some(keys) = keyring.and_then(|k| k.groups.get(group)) {
        content.add_file(
            "agent/group.key",
            &private(keys.group_key.to_file()),
            Origin::Keyring,
        )?;
    }
    if let Some(keyring) = keyring
        && crate::etcd::runs_etcd(content.entries.iter().map(|e| e.path.as_str()))
    {
        for (path, file) in crate::etcd::agent_files(group, keyring)? {
            content.add_file(&path, &file, Origin::Keyring)?;
        }
    }
    let restores = content
        .entries
        .iter()
        .any(|e| e.path.as_str() == RESTORE_IDENTITY_FILE);
    for (name, bytes) in &rendered.manifests {
        let file = private(SecretBytes::new(bytes.clone()));
        content.add_file(&format!("manifests/{name}"), &file, Origin::Template)?;
    }
    for (path, bytes) in &rendered.host {
        let file = private(SecretBytes::new(bytes.clone()));
        content.add_file(&format!("host/{path}"), &file, Origin::Template)?;
    }
    content.entries.sort_by_cached_key(|e| write_order(&e.path));
    let paths = content.entries.iter().map(|entry| &entry.path);
    content.restarts = rendered.node.restarts_for(paths).map_err(RenderErrors)?;
    if let Some(policy) = rendered.rollout.clone() {
        let file = format!("{group}/rollout.yaml");
        let paths = content.entries.iter().map(|entry| &entry.path);
        let problems = rollout_problems(&file, &policy, paths, quorum(workspace, group));
        if !problems.is_empty() {
            return Err(mistaken(RenderErrors(problems)));
        }
        let policy = match quorum(workspace, group) {
            Some((most, members)) => policy.with_share_of(most, members),
            None => policy,
        };
        // The members of a generation form it together, and what ran before has stopped: nobody waits for a turn.
        content.rollout = (!restores).then_some(policy);
    }
    findings.extend(rollout_findings(workspace, group, &rendered));
    if findings.iter().any(|f| f.severity == Severity::Error) {
        let failed = LintFailed {
            group: group.clone(),
            findings,
        };
        return Err(crate::exit::mistake(failed.to_string()));
    }
    let generation = keyring.map(|k| k.etcd_generation).unwrap_or_default();
    content.etcd = etcd_section(workspace, group, &rendered, generation)?;
    let list = ArtifactList::load(&workspace.directory)?;
    let resolved = artifact::resolve(group, &rendered.node.artifacts, &list)?;
    content.artifacts = resolved.artifacts;
    content.unlisted = resolved.unlisted;
    if !content.unlisted.is_empty() {
        findings.push(Finding {
            severity: Severity::Warning,
            file: format!("{group}/node.yaml"),
            line: None,
            path: Some("artifacts".to_owned()),
            message: format!("{} not in {}", content.unlisted.join(", "), artifact::FILE),
            help: Some("`platformctl artifacts add NAME SOURCE` lists one".to_owned()),
        });
    }
    content.agent = artifact::agent_of(&list);
    // Any number does to see whether the limits are kept.
    content.number(ReleaseNumber::from(std::num::NonZeroU64::MIN))?;
    Ok((content, findings))
}

fn mistaken(errors: RenderErrors) -> anyhow::Error {
    crate::exit::mistake(errors.to_string())
}

/// A file of root's alone.
fn private(bytes: SecretBytes) -> SecretFile {
    SecretFile {
        bytes,
        mode: 0o600,
        owner: (0, 0),
    }
}
