//! What manifests mount from secret directories, against the files there are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use shared::check::manifest::PodSummary;
use shared::check::secret_dir::{
    SecretMount, is_own_directory, parse_secret_dir_path, secret_mount,
};

use super::flags::{containers, flags_of};
use super::{Finding, Severity};
use crate::render::Texts;

/// A group's secret directories, and which of them were seen mounted.
pub(super) struct SecretPaths<'a> {
    group: &'a str,
    /// Whether the keyring was not read: then what is not here may be there.
    stand_ins: bool,
    texts: &'a Texts,
    mounted: BTreeSet<String>,
}

impl<'a> SecretPaths<'a> {
    pub(super) fn new(group: &'a str, stand_ins: bool, texts: &'a Texts) -> Self {
        Self {
            group,
            stand_ins,
            texts,
            mounted: BTreeSet::new(),
        }
    }

    /// The pod whose secret directory `path` is; `None` when there is no such directory.
    fn owner<'p>(&self, path: &'p str) -> Option<&'p str> {
        let (pod, digest) = parse_secret_dir_path(path)?;
        self.texts
            .secret_dirs
            .get(pod)
            .filter(|known| *known == digest)?;
        Some(pod)
    }

    /// Checks what one pod mounts from the host.
    pub(super) fn check_mounts(&mut self, pod: &PodSummary) -> Vec<Finding> {
        let mut findings = Vec::new();
        for volume in &pod.host_paths {
            let shows = secret_mount(&volume.path);
            if shows == SecretMount::None {
                continue;
            }
            let mut report = |severity, message: String, help: Option<&str>| {
                findings.push(Finding::in_field(
                    severity,
                    &volume.field,
                    message,
                    help.map(str::to_owned),
                ));
            };
            if shows == SecretMount::All {
                let message = format!("{} is above the secrets of all pods", volume.path);
                let help = "a pod should see only its own: mount what it needs, such as /etc/ssl";
                report(Severity::Error, message, Some(help));
                continue;
            }
            let Some(owner) = self.owner(&volume.path) else {
                let named = parse_secret_dir_path(&volume.path);
                if let Some((pod, _)) = named.filter(|_| self.stand_ins) {
                    report(
                        Severity::Warning,
                        format!("pod {pod} has no secret files here"),
                        Some(
                            "unless the keyring holds some (`platformctl secrets`), a publish fails",
                        ),
                    );
                    continue;
                }
                let message = format!("there is no secret directory {}", volume.path);
                report(
                    Severity::Error,
                    message,
                    Some("write the path as {{ secret_dir(\"POD\") }}"),
                );
                continue;
            };
            self.mounted.insert(owner.to_owned());
            if !is_own_directory(owner, &pod.name) {
                let message = format!(
                    "pod {} mounts the secrets of {owner}; a pod should see only its own",
                    pod.name
                );
                report(Severity::Error, message, None);
            }
            if volume
                .kind
                .as_deref()
                .is_some_and(|kind| kind != "Directory")
            {
                let message = "a secret directory must be mounted with type Directory".to_owned();
                let help = "what kubelet makes there would stand where the secrets belong";
                report(Severity::Error, message, Some(help));
            }
        }
        findings
    }

    /// Flags that name a file inside a mounted secret directory in which there is no such file.
    pub(super) fn check_flag_files(&self, pod: &Value) -> Vec<Finding> {
        let volumes = pod
            .pointer("/spec/volumes")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let owners: BTreeMap<&str, &str> = volumes
            .filter_map(|volume| {
                let owner = self.owner(volume.pointer("/hostPath/path")?.as_str()?)?;
                Some((volume.get("name")?.as_str()?, owner))
            })
            .collect();
        let mut findings = Vec::new();
        for (path, container) in containers(pod) {
            let mounts = container.get("volumeMounts").and_then(Value::as_array);
            for mount in mounts.into_iter().flatten() {
                let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
                let Some(owner) = owners.get(text("name")) else {
                    continue;
                };
                let files = self.texts.secrets.get(*owner);
                let prefix = format!("{}/", text("mountPath").trim_end_matches('/'));
                for flag in flags_of(&path, container) {
                    let Some(file) = flag
                        .value
                        .as_deref()
                        .and_then(|value| value.strip_prefix(&prefix))
                    else {
                        continue;
                    };
                    if !files.is_some_and(|files| files.contains_key(file)) {
                        let message = format!(
                            "--{} names {prefix}{file}, and there is no such file",
                            flag.name
                        );
                        let mut help = format!("put it into secrets/{}/{owner}/", self.group);
                        let severity = match self.stand_ins {
                            true => Severity::Warning,
                            false => Severity::Error,
                        };
                        if self.stand_ins {
                            help.push_str(", unless the keyring holds it (`platformctl secrets`)");
                        }
                        findings.push(Finding::in_field(severity, &flag.path, message, Some(help)));
                    }
                }
            }
        }
        findings
    }

    /// Secret files that no manifest mounts: they would be shipped to every node for nothing.
    pub(super) fn check_unused(&self) -> Vec<Finding> {
        let unused = self
            .texts
            .secret_dirs
            .keys()
            .filter(|pod| !self.mounted.contains(*pod));
        unused
            .map(|pod| Finding {
                severity: Severity::Warning,
                file: format!("secrets/{}/{pod}", self.group),
                line: None,
                path: None,
                message: "no manifest mounts these files".to_owned(),
                help: Some(format!(
                    "a template mounts them as {{{{ secret_dir(\"{pod}\") }}}}"
                )),
            })
            .collect()
    }
}
