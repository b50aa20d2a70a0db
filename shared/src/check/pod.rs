//! The part of Kubernetes' Pod validation that static pods run into: containers, ports, volumes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

use super::manifest::{HostPath, PodSummary, Problems, is_dns_label};

/// What Kubernetes takes for `terminationGracePeriodSeconds` where none is given.
pub(crate) const DEFAULT_GRACE_SECONDS: u64 = 30;

/// The `hostPath.type` values of Kubernetes; the empty one means "do not look".
const HOST_PATH_TYPES: &[&str] = &[
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
];

/// Checks `spec` and fills in what the summary says about it.
pub(crate) fn check(spec: &PodSpec, summary: &mut PodSummary, problems: &mut Problems) {
    summary.host_network = spec.host_network.unwrap_or(false);
    if let Some(seconds) = spec.termination_grace_period_seconds {
        match u64::try_from(seconds) {
            Ok(seconds) => summary.termination_grace_seconds = seconds,
            Err(_) => problems.at("spec.terminationGracePeriodSeconds", "must not be negative"),
        }
    }
    one_of(
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
        "spec.restartPolicy",
        problems,
    );
    if spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        problems.at(
            "spec.ephemeralContainers",
            "can only be added to a running pod",
        );
    }
    if spec.containers.is_empty() {
        problems.at("spec.containers", "a pod needs at least one container");
    }
    let volumes = check_volumes(spec, summary, problems);
    let mut names = BTreeSet::new();
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = format!("spec.initContainers[{i}]");
        check_container(container, &path, &mut names, &volumes, problems);
        // Only one that keeps running beside the pod (a sidecar) keeps its ports.
        if container.restart_policy.as_deref() == Some("Always") {
            check_ports(container, &path, summary, problems);
        }
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{i}]");
        check_container(container, &path, &mut names, &volumes, problems);
        check_ports(container, &path, summary, problems);
    }
}

fn check_container(
    container: &Container,
    path: &str,
    names: &mut BTreeSet<String>,
    volumes: &BTreeSet<String>,
    problems: &mut Problems,
) {
    if !is_dns_label(&container.name) {
        problems.at(
            format!("{path}.name"),
            format!("{:?} is no DNS-1123 label", container.name),
        );
    } else if !names.insert(container.name.clone()) {
        problems.at(
            format!("{path}.name"),
            format!("two containers are named {:?}", container.name),
        );
    }
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() || image.chars().any(char::is_whitespace) {
        problems.at(
            format!("{path}.image"),
            "needs an image, without white space",
        );
    }
    let policies = &["Always", "IfNotPresent", "Never"];
    one_of(
        container.image_pull_policy.as_deref(),
        policies,
        &format!("{path}.imagePullPolicy"),
        problems,
    );
    let mut mount_paths = BTreeSet::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if !volumes.contains(&mount.name) {
            problems.at(
                format!("{path}.volumeMounts[{i}].name"),
                format!("there is no volume {:?}", mount.name),
            );
        }
        if mount.mount_path.is_empty() {
            problems.at(format!("{path}.volumeMounts[{i}].mountPath"), "is empty");
        } else if !mount_paths.insert(mount.mount_path.as_str()) {
            problems.at(
                format!("{path}.volumeMounts[{i}].mountPath"),
                format!("{:?} is mounted twice", mount.mount_path),
            );
        }
    }
}

fn check_ports(
    container: &Container,
    path: &str,
    summary: &mut PodSummary,
    problems: &mut Problems,
) {
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{i}]");
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        one_of(
            Some(protocol),
            &["TCP", "UDP", "SCTP"],
            &format!("{path}.protocol"),
            problems,
        );
        let Some(container_port) = port_number(port.container_port) else {
            problems.at(
                format!("{path}.containerPort"),
                "must be between 1 and 65535",
            );
            continue;
        };
        // 0 is how Kubernetes writes "none".
        let host_port = match port.host_port.filter(|number| *number != 0) {
            None if summary.host_network => container_port,
            None => continue,
            Some(number) => match port_number(number) {
                None => {
                    problems.at(format!("{path}.hostPort"), "must be between 1 and 65535");
                    continue;
                }
                Some(number) if summary.host_network && number != container_port => {
                    problems.at(
                        format!("{path}.hostPort"),
                        "must equal containerPort with hostNetwork",
                    );
                    continue;
                }
                Some(number) => number,
            },
        };
        if !summary.host_ports.insert((protocol.to_owned(), host_port)) {
            problems.at(
                path,
                format!("the pod takes host port {host_port}/{protocol} twice"),
            );
        }
    }
}

/// The names of the pod's volumes; host paths go into the summary.
fn check_volumes(
    spec: &PodSpec,
    summary: &mut PodSummary,
    problems: &mut Problems,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("spec.volumes[{i}]");
        if !is_dns_label(&volume.name) {
            problems.at(
                format!("{path}.name"),
                format!("{:?} is no DNS-1123 label", volume.name),
            );
        }
        if !names.insert(volume.name.clone()) {
            problems.at(
                format!("{path}.name"),
                format!("two volumes are named {:?}", volume.name),
            );
        }
        check_host_path(volume, &path, summary, problems);
    }
    names
}

fn check_host_path(volume: &Volume, path: &str, summary: &mut PodSummary, problems: &mut Problems) {
    let Some(source) = &volume.host_path else {
        return;
    };
    // Kubernetes allows a relative path; the runtime then fails on it.
    if !source.path.starts_with('/') || source.path.split('/').any(|part| part == "..") {
        problems.at(
            format!("{path}.hostPath.path"),
            format!("{:?} must be absolute and without '..'", source.path),
        );
    }
    one_of(
        source.type_.as_deref(),
        HOST_PATH_TYPES,
        &format!("{path}.hostPath.type"),
        problems,
    );
    summary.host_paths.push(HostPath {
        field: format!("{path}.hostPath"),
        volume: volume.name.clone(),
        path: source.path.clone(),
        kind: source.type_.clone().filter(|kind| !kind.is_empty()),
    });
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn one_of(value: Option<&str>, allowed: &[&str], path: &str, problems: &mut Problems) {
    if let Some(value) = value
        && !allowed.contains(&value)
    {
        let allowed: Vec<&str> = allowed
            .iter()
            .copied()
            .filter(|word| !word.is_empty())
            .collect();
        problems.at(path, format!("{value:?} is none of {}", allowed.join(", ")));
    }
}
