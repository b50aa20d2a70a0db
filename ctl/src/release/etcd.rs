//! What a release says about etcd.

use shared::bundle::EtcdSection;
use shared::etcd::{Generation, base_problems};
use shared::names::GroupName;

use super::mistaken;
use crate::context::Workspace;
use crate::render::{RenderErrors, RenderFailure, Rendered};

/// What the release says about etcd, where `node.yaml` says that the machines run it.
pub(super) fn etcd_section(
    workspace: &Workspace,
    group: &GroupName,
    rendered: &Rendered,
    generation: Generation,
) -> anyhow::Result<Option<EtcdSection>> {
    let Some(rule) = &rendered.node.etcd else {
        return Ok(None);
    };
    let failure = |path: &str, message: String| RenderFailure {
        file: format!("{group}/node.yaml"),
        line: None,
        path: Some(path.to_owned()),
        message,
        help: None,
    };
    let files = rendered.by_path();
    let base = files.get(rule.base.as_str()).copied();
    let base = base.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let mut problems: Vec<RenderFailure> = match &base {
        None => vec![failure(
            "etcd.base",
            format!("no template makes {}", rule.base),
        )],
        Some(base) => base_problems(base)
            .into_iter()
            .map(|p| RenderFailure {
                file: rule.base.to_string(),
                ..failure("", p.to_string())
            })
            .collect(),
    };
    for path in &rule.hold_back {
        if !files.contains_key(path.as_str()) {
            problems.push(failure(
                "etcd.hold_back",
                format!("no template makes {path}"),
            ));
        }
    }
    let version = workspace.environment.versions.etcd.to_string();
    let of_etcd = rule.hold_back.iter().filter_map(|path| {
        let tags = crate::rollback::etcd_tags(files.get(path.as_str())?);
        (!tags.is_empty()).then_some((path, tags))
    });
    let of_etcd: Vec<_> = of_etcd.collect();
    if of_etcd.len() != 1 {
        let what = format!(
            "{} of these manifests run etcd: it must be one",
            of_etcd.len()
        );
        problems.push(failure("etcd.hold_back", what));
    }
    // What nodes are told must be what they run: by it they know whether their data goes back.
    for (path, tags) in &of_etcd {
        for tag in tags.iter().filter(|tag| **tag != version) {
            problems.push(RenderFailure {
                file: path.to_string(),
                ..failure(
                    "",
                    format!(
                        "it runs etcd {tag}, and etcd_version is {version}: they must be the same"
                    ),
                )
            });
        }
    }
    // Agents take the first for etcd's own.
    let own = of_etcd.first().map(|(path, _)| *path);
    let mut hold_back = rule.hold_back.clone();
    hold_back.sort_by_key(|path| Some(path) != own);
    let size = workspace.environment.groups.get(group.as_str());
    if size.is_none() {
        problems.push(failure("etcd", format!("group {group} has no size")));
    }
    match (problems.is_empty(), size) {
        (true, Some(size)) => Ok(Some(EtcdSection {
            generation,
            voters: size.min.max(1),
            version,
            base: rule.base.clone(),
            hold_back,
            gone_after: rule.gone_after,
        })),
        _ => Err(mistaken(RenderErrors(problems))),
    }
}
