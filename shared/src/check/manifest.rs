//! Kubelet's own rules for one static-pod manifest, applied before kubelet can see it.
//!
//! A file that kubelet refuses is worse than no file: at its next list kubelet stops the pod that ran from it.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::json::parse_document;
use super::yaml::join_key;
use super::{pod, references, values};

/// The largest manifest kubelet reads.
pub const MAX_MANIFEST_BYTES: usize = 10 * 1024 * 1024;

/// Marks a pod as the API server's copy of a static pod; kubelet would never run one from a file.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// One reason why kubelet would refuse or misread a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestProblem {
    /// Path of the field, such as `spec.containers[0].image`; `None` when it is about the whole file.
    pub path: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ManifestProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{path}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// A transport protocol and a port of the host.
pub type HostPort = (String, u16);

/// A directory or file of the host that a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPath {
    /// Path of the field in the manifest, such as `spec.volumes[0].hostPath`.
    pub field: String,
    /// The volume's name in the pod.
    pub volume: String,
    /// The absolute path on the host.
    pub path: String,
    /// What kubelet expects or makes there, such as `Directory`; `None` when it does not look.
    pub kind: Option<String>,
}

/// What the agent and lint need to know about a pod that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSummary {
    /// The namespace; `default` where the manifest names none, as kubelet has it.
    pub namespace: String,
    /// `metadata.name`; kubelet appends the node's name.
    pub name: String,
    /// Ports of the host it listens on. With `host_network` all its container ports are.
    pub host_ports: BTreeSet<HostPort>,
    /// Whether it shares the host's network.
    pub host_network: bool,
    /// What it mounts from the host, in the manifest's order.
    pub host_paths: Vec<HostPath>,
    /// Seconds from the request to end until it is killed; 30 where the manifest says nothing.
    pub termination_grace_seconds: u64,
}

/// Collects problems, so that every rule can report and go on.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<ManifestProblem>);

impl Problems {
    pub(crate) fn at(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(ManifestProblem {
            path: Some(path.into()),
            message: message.into(),
        });
    }

    pub(crate) fn whole(&mut self, message: impl Into<String>) {
        self.0.push(ManifestProblem {
            path: None,
            message: message.into(),
        });
    }
}

/// Checks one manifest file, in the canonical form in which releases carry it, as kubelet would read it: JSON, which
/// every YAML reader takes for the same. Other YAML is refused, for what it means depends on the reader.
///
/// # Errors
/// Every problem found. Where the file is no JSON, or no v1 Pod, that alone: nothing else can be said about it.
pub fn check_manifest(file_name: &str, bytes: &[u8]) -> Result<PodSummary, Vec<ManifestProblem>> {
    let mut problems = Problems::default();
    check_file_name(file_name, &mut problems);
    if bytes.len() > MAX_MANIFEST_BYTES {
        problems.whole(format!(
            "{} bytes are more than the 10 MiB that kubelet reads",
            bytes.len()
        ));
        return Err(problems.0);
    }
    let value = match parse_document(bytes) {
        Ok(value) => value,
        Err(error) => {
            problems.whole(format!("no canonical manifest: {error}"));
            return Err(problems.0);
        }
    };
    if !check_kind(&value, &mut problems) {
        return Err(problems.0);
    }
    references::check(&value, &mut problems);
    values::check(&value, &mut problems);
    let summary = match decode(&value, &mut problems) {
        Some(pod) => summarise(&pod, &mut problems),
        None => return Err(problems.0),
    };
    if problems.0.is_empty() {
        Ok(summary)
    } else {
        Err(problems.0)
    }
}

/// Kubelet takes every name without a leading dot for a manifest, backups too; the platform writes only names that no
/// editor or tool makes by itself.
fn check_file_name(name: &str, problems: &mut Problems) {
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
    let stem = name.strip_suffix(".yaml").unwrap_or_default();
    if !plain || stem.is_empty() || name.starts_with('.') || name.len() > 128 {
        problems.whole(format!(
            "the file name {name:?} must be of lower-case letters, digits, '.', '-' and '_', not start with '.', and end with .yaml"
        ));
    }
}

fn check_kind(value: &Value, problems: &mut Problems) -> bool {
    if !value.is_object() {
        problems.whole("the file holds no object");
        return false;
    }
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if (version, kind) != ("v1", "Pod") {
        problems.whole(format!(
            "kubelet takes a v1 Pod from a file, not {version:?} {kind:?}"
        ));
        return false;
    }
    true
}

/// Decodes the Pod and reports each field that this Kubernetes does not know.
fn decode(value: &Value, problems: &mut Problems) -> Option<Pod> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let decoded = serde_ignored::deserialize(tracked, |path| unknown.push(field_path(&path)));
    for path in unknown {
        problems.at(path, "unknown field; kubelet would ignore it silently");
    }
    match decoded {
        Ok(pod) => Some(pod),
        Err(error) => {
            let message = without_value(&serde_json::Error::to_string(&error));
            match track.path().to_string() {
                path if path == "." => problems.whole(message),
                path => problems.at(path, message),
            }
            None
        }
    }
}

/// A decoder's error as what belongs there. The value itself stays out: on a node this text goes into a status that is
/// not encrypted.
fn without_value(told: &str) -> String {
    if told.starts_with("missing field ") {
        return told.to_owned();
    }
    match told.rsplit_once(", expected ") {
        Some((_, expected)) => format!("has the wrong type: expected {expected}"),
        None => "has the wrong type".to_owned(),
    }
}

fn field_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => join_key(&field_path(parent), key),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => field_path(parent),
    }
}

fn summarise(pod: &Pod, problems: &mut Problems) -> PodSummary {
    let metadata = &pod.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        problems.at("metadata.name", "a static pod needs a name");
    } else if !is_dns_subdomain(&name) {
        problems.at(
            "metadata.name",
            format!("{name:?} is no DNS-1123 name: lower-case letters, digits, '-' and '.'"),
        );
    }
    let namespace = metadata
        .namespace
        .clone()
        .filter(|ns| !ns.is_empty())
        .unwrap_or_else(|| "default".to_owned());
    if !is_dns_label(&namespace) {
        problems.at(
            "metadata.namespace",
            format!("{namespace:?} is no DNS-1123 label"),
        );
    }
    if metadata
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(MIRROR_ANNOTATION))
    {
        problems.at(
            "metadata.annotations",
            format!("{MIRROR_ANNOTATION} is for the API server's copies of static pods"),
        );
    }
    let mut summary = PodSummary {
        namespace,
        name,
        host_ports: BTreeSet::new(),
        host_network: false,
        host_paths: Vec::new(),
        termination_grace_seconds: pod::DEFAULT_GRACE_SECONDS,
    };
    match &pod.spec {
        Some(spec) => pod::check(spec, &mut summary, problems),
        None => problems.at("spec", "is missing"),
    }
    summary
}

/// A DNS-1123 label: at most 63 lower-case letters, digits and inner hyphens.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let edges_fit = !text.starts_with('-') && !text.ends_with('-');
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !text.is_empty() && text.len() <= 63 && plain && edges_fit
}

/// A DNS-1123 subdomain: labels (here of any length) between dots, at most 253 characters.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    let label = |part: &str| {
        let plain = part
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !part.is_empty() && plain && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests;
