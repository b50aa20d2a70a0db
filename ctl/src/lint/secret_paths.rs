//! What manifests mount from secret directories, against the files there are.

use std::collections::BTreeSet;

use serde_json::Value;
use shared::check::manifest::{HostPath, PodSummary};
use shared::check::secret_dir::{SECRETS_ROOT, parse_secret_dir_path, secret_dir_path};

use super::flags::{containers, flags_of};
use super::{Finding, Severity};
use crate::render::{RenderInput, secret_dirs};

/// Checks the host paths of one pod; `used` collects the pods whose secrets it mounts.
pub(super) fn check_host_paths(
    pod: &PodSummary,
    input: &RenderInput,
    used: &mut BTreeSet<String>,
) -> Vec<Finding> {
    let digests = secret_dirs(input);
    let mut findings = Vec::new();
    let mut report = |severity, volume: &HostPath, message: String, help: &str| {
        let help = (!help.is_empty()).then(|| help.to_owned());
        let path = Some(volume.field.clone());
        findings.push(Finding {
            severity,
            file: String::new(),
            line: None,
            path,
            message,
            help,
        });
    };
    for volume in pod
        .host_paths
        .iter()
        .filter(|volume| is_under(&volume.path, SECRETS_ROOT))
    {
        let named = parse_secret_dir_path(&volume.path);
        let Some((owner, _)) = named
            .filter(|(owner, digest)| digests.get(*owner).is_some_and(|known| known == digest))
        else {
            let message = format!("there is no secret directory {}", volume.path);
            report(
                Severity::Error,
                volume,
                message,
                "write the path as {{ secret_dir(\"POD\") }}",
            );
            continue;
        };
        used.insert(owner.to_owned());
        if owner != pod.name {
            let message = format!(
                "pod {} mounts the secrets of {owner}; a pod should see only its own",
                pod.name
            );
            report(Severity::Warning, volume, message, "");
        }
        if matches!(volume.kind.as_deref(), Some(kind) if kind != "Directory") {
            let message = "a secret directory must be mounted with type Directory".to_owned();
            report(
                Severity::Error,
                volume,
                message,
                "an empty one that kubelet makes would stand where the secrets belong",
            );
        }
    }
    findings
}

/// Flags that name a file inside a mounted secret directory in which there is no such file.
pub(super) fn check_flag_files(pod: &Value, input: &RenderInput) -> Vec<Finding> {
    let digests = secret_dirs(input);
    let volumes = pod
        .pointer("/spec/volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    // Volume name and the pod whose secrets it holds.
    let secret_volumes: Vec<(&str, &String)> = volumes
        .filter_map(|volume| {
            let path = volume.pointer("/hostPath/path")?.as_str()?;
            let owner = digests.keys().find(|pod| {
                digests
                    .get(*pod)
                    .is_some_and(|digest| secret_dir_path(pod, digest) == path)
            })?;
            Some((volume.get("name")?.as_str()?, owner))
        })
        .collect();
    let mut findings = Vec::new();
    for (path, container) in containers(pod) {
        let mounts = container.get("volumeMounts").and_then(Value::as_array);
        for mount in mounts.into_iter().flatten() {
            let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
            let Some((_, owner)) = secret_volumes
                .iter()
                .find(|(name, _)| *name == text("name"))
            else {
                continue;
            };
            let prefix = format!("{}/", text("mountPath").trim_end_matches('/'));
            for flag in flags_of(&path, container) {
                let Some(file) = flag
                    .value
                    .as_deref()
                    .and_then(|value| value.strip_prefix(&prefix))
                else {
                    continue;
                };
                if !input
                    .secrets
                    .get(*owner)
                    .is_some_and(|files| files.contains_key(file))
                {
                    findings.push(Finding {
                        severity: Severity::Error,
                        file: String::new(),
                        line: None,
                        path: Some(flag.path.clone()),
                        message: format!(
                            "--{} names {prefix}{file}, and there is no such file",
                            flag.name
                        ),
                        help: Some(format!("put it into secrets/{}/{owner}/", input.group)),
                    });
                }
            }
        }
    }
    findings
}

/// Secret files that no manifest mounts: they would be shipped to every node for nothing.
pub(super) fn check_unused(input: &RenderInput, used: &BTreeSet<String>) -> Vec<Finding> {
    let unused = secret_dirs(input)
        .into_keys()
        .filter(|pod| !used.contains(pod));
    unused
        .map(|pod| Finding {
            severity: Severity::Warning,
            file: format!("secrets/{}/{pod}", input.group),
            line: None,
            path: None,
            message: "no manifest mounts these files".to_owned(),
            help: Some(format!(
                "a template mounts them as {{{{ secret_dir(\"{pod}\") }}}}"
            )),
        })
        .collect()
}

fn is_under(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
