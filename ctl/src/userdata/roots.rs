//! The first root of each group: from the keyring, or as it was seen last.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use shared::durable::{self, Attributes};
use shared::names::GroupName;

use crate::context::{Context, Workspace};
use crate::{keyring, output};

/// The first root of each group, as the text that was signed: the keyring's, or where that can't be had, the one that
/// this machine has seen last (it never changes while the keyring lives).
///
/// # Errors
/// A keyring that is not there yet or cannot be opened, where this machine has not seen it before.
pub async fn first_roots(
    workspace: &Workspace,
    groups: &[GroupName],
) -> anyhow::Result<BTreeMap<GroupName, String>> {
    match from_keyring(workspace, groups).await {
        Ok(roots) => {
            for (group, root) in &roots {
                remember(workspace, group, root)?;
            }
            Ok(roots)
        }
        Err(error) => {
            let remembered: BTreeMap<GroupName, String> = groups
                .iter()
                .filter_map(|g| {
                    Some((g.clone(), std::fs::read_to_string(path(workspace, g)).ok()?))
                })
                .collect();
            if remembered.len() < groups.len() {
                return Err(error);
            }
            output::note(format!(
                "the keyring could not be read ({error:#}); user data has the roots that this machine has seen before"
            ));
            Ok(remembered)
        }
    }
}

async fn from_keyring(
    workspace: &Workspace,
    groups: &[GroupName],
) -> anyhow::Result<BTreeMap<GroupName, String>> {
    let context = Context::of(workspace.clone()).await?;
    let keyring = keyring::read(&context).await?.with_context(|| {
        format!(
            "there is no keyring yet, and user data needs the root of its trust: `platformctl publish -e {}` makes it, \
             --manifests-only does without",
            workspace.name
        )
    })?;
    groups
        .iter()
        .map(|group| {
            let roots = &keyring.group(group)?.roots;
            let root = roots.first().context("the keyring has no root")?;
            Ok((group.clone(), root.clone()))
        })
        .collect()
}

fn path(workspace: &Workspace, group: &GroupName) -> PathBuf {
    let roots = workspace.state_directory().join("roots");
    roots.join(format!("{group}.json"))
}

fn remember(workspace: &Workspace, group: &GroupName, root: &str) -> anyhow::Result<()> {
    let path = path(workspace, group);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
    }
    durable::write_file(&path, root.as_bytes(), Attributes::mode(0o644))
        .with_context(|| format!("cannot write {}", path.display()))
}
