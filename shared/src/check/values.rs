//! Values that are text or an open choice to a decoder, and of which kubelet's validation knows more: quantities, names
//! of variables and labels, and objects of which exactly one member may be set.
//!
//! Like the references, this looks at the raw document: `Pod` holds a quantity as any text.

use serde_json::Value;

use super::manifest::Problems;
use super::quantity::Quantity;
use super::references::items;

const PROBES: &[&str] = &["livenessProbe", "readinessProbe", "startupProbe"];
const PROBE_HANDLERS: &[&str] = &["exec", "grpc", "httpGet", "tcpSocket"];
const HOOKS: &[&str] = &["postStart", "preStop"];
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "sleep", "tcpSocket"];
const VARIABLE_SOURCES: &[&str] = &[
    "configMapKeyRef",
    "fieldRef",
    "fileKeyRef",
    "resourceFieldRef",
    "secretKeyRef",
];
/// Resources that need no domain before their name; pages of any size come on top.
const RESOURCES: &[&str] = &["cpu", "ephemeral-storage", "memory"];

/// Checks the pod's values.
pub(crate) fn check(pod: &Value, problems: &mut Problems) {
    labels(pod.pointer("/metadata/labels"), "metadata.labels", problems);
    let annotations = pod.pointer("/metadata/annotations");
    for key in members(annotations).map(|(key, _)| key) {
        if !is_qualified_name(key) {
            problems.at(
                "metadata.annotations",
                format!("{key:?} is no annotation key"),
            );
        }
    }
    let Some(spec) = pod.get("spec") else { return };
    labels(spec.get("nodeSelector"), "spec.nodeSelector", problems);
    resources(spec.get("resources"), "spec.resources", problems);
    quantities(spec.get("overhead"), "spec.overhead", problems);
    for kind in ["initContainers", "containers"] {
        for (i, container) in items(spec, kind) {
            let path = format!("spec.{kind}[{i}]");
            check_container(container, &path, problems);
            let stays = container.get("restartPolicy").and_then(Value::as_str) == Some("Always");
            if kind == "initContainers" && !stays {
                for field in PROBES.iter().chain(&["lifecycle"]) {
                    if set(container, field) {
                        problems.at(
                            format!("{path}.{field}"),
                            "is only for containers that keep running",
                        );
                    }
                }
            }
        }
    }
    for (i, volume) in items(spec, "volumes") {
        check_volume(volume, &format!("spec.volumes[{i}]"), problems);
    }
}

fn check_container(container: &Value, path: &str, problems: &mut Problems) {
    let all = container.get("resources");
    resources(all, &format!("{path}.resources"), problems);
    for probe in PROBES {
        if let Some(value) = container.get(probe) {
            exactly_one(value, PROBE_HANDLERS, &format!("{path}.{probe}"), problems);
        }
    }
    if let Some(lifecycle) = container.get("lifecycle") {
        for hook in HOOKS {
            if let Some(value) = lifecycle.get(hook) {
                let path = format!("{path}.lifecycle.{hook}");
                exactly_one(value, HOOK_HANDLERS, &path, problems);
            }
        }
    }
    for (i, variable) in items(container, "env") {
        let path = format!("{path}.env[{i}]");
        let name = variable.get("name").and_then(Value::as_str);
        // Since Kubernetes 1.34 every printable ASCII character but '='.
        let fits = |name: &str| {
            let printable = name.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=');
            !name.is_empty() && printable
        };
        if let Some(name) = name.filter(|name| !fits(name)) {
            problems.at(
                format!("{path}.name"),
                format!("{name:?} must be of printable ASCII characters, without '='"),
            );
        }
        let Some(source) = variable.get("valueFrom").filter(|v| !v.is_null()) else {
            continue;
        };
        let value = variable.get("value").and_then(Value::as_str);
        if value.is_some_and(|value| !value.is_empty()) {
            problems.at(format!("{path}.valueFrom"), "may not stand beside a value");
        }
        exactly_one(
            source,
            VARIABLE_SOURCES,
            &format!("{path}.valueFrom"),
            problems,
        );
        divisor(source, &format!("{path}.valueFrom"), problems);
    }
}

fn check_volume(volume: &Value, path: &str, problems: &mut Problems) {
    let sources: Vec<&str> = members(Some(volume))
        .filter(|(key, value)| *key != "name" && !value.is_null())
        .map(|(key, _)| key)
        .collect();
    // None is an emptyDir.
    if sources.len() > 1 {
        let sources = sources.join(" and ");
        problems.at(path, format!("has {sources}: a volume is of one type"));
    }
    if let Some(limit) = volume.pointer("/emptyDir/sizeLimit") {
        quantity(limit, &format!("{path}.emptyDir.sizeLimit"), problems);
    }
    if let Some(own) = volume.get("downwardAPI") {
        downward(own, &format!("{path}.downwardAPI"), problems);
    }
    for (i, source) in volume
        .get("projected")
        .into_iter()
        .flat_map(|projected| items(projected, "sources"))
    {
        let path = format!("{path}.projected.sources[{i}]");
        if members(Some(source)).filter(|(_, v)| !v.is_null()).count() > 1 {
            problems.at(&path, "has several sources: each stands by itself");
        }
        if let Some(own) = source.get("downwardAPI") {
            downward(own, &format!("{path}.downwardAPI"), problems);
        }
    }
}

fn downward(source: &Value, path: &str, problems: &mut Problems) {
    for (i, item) in items(source, "items") {
        let path = format!("{path}.items[{i}]");
        exactly_one(item, &["fieldRef", "resourceFieldRef"], &path, problems);
        divisor(item, &path, problems);
    }
}

fn divisor(holder: &Value, path: &str, problems: &mut Problems) {
    if let Some(value) = holder.pointer("/resourceFieldRef/divisor") {
        quantity(value, &format!("{path}.resourceFieldRef.divisor"), problems);
    }
}

fn resources(all: Option<&Value>, path: &str, problems: &mut Problems) {
    let Some(all) = all else { return };
    let read = |kind: &str, name: &str| {
        let text = all.get(kind)?.get(name)?.as_str()?;
        Some((text.to_owned(), Quantity::parse(text)?))
    };
    for kind in ["limits", "requests"] {
        quantities(all.get(kind), &format!("{path}.{kind}"), problems);
    }
    for (name, _) in members(all.get("requests")) {
        if let (Some((asked, request)), Some((most, limit))) =
            (read("requests", name), read("limits", name))
            && !request.is_negative
            && request > limit
        {
            problems.at(
                format!("{path}.requests.{name}"),
                format!("{asked} is more than the limit of {most}"),
            );
        }
    }
}

fn quantities(all: Option<&Value>, path: &str, problems: &mut Problems) {
    for (name, value) in members(all) {
        let is_known = RESOURCES.contains(&name) || name.starts_with("hugepages-");
        if !is_qualified_name(name) || !(is_known || name.contains('/')) {
            problems.at(path, format!("{name:?} is no resource"));
        }
        quantity(value, &format!("{path}.{name}"), problems);
    }
}

fn quantity(value: &Value, path: &str, problems: &mut Problems) {
    // Another type is refused by the decoder.
    let Some(text) = value.as_str() else { return };
    match Quantity::parse(text) {
        None => problems.at(
            path,
            format!("{text:?} is no quantity, such as 100m or 64Mi"),
        ),
        Some(read) if read.is_negative => problems.at(path, format!("{text:?} is below zero")),
        Some(_) => {}
    }
}

fn exactly_one(value: &Value, allowed: &[&str], path: &str, problems: &mut Problems) {
    if value.is_null() {
        return;
    }
    let count = allowed.iter().filter(|field| set(value, field)).count();
    if count != 1 {
        let found = if count == 0 { "none" } else { "several" };
        problems.at(
            path,
            format!(
                "needs exactly one of {}, and has {found}",
                allowed.join(", ")
            ),
        );
    }
}

fn labels(all: Option<&Value>, path: &str, problems: &mut Problems) {
    for (key, value) in members(all) {
        if !is_qualified_name(key) {
            problems.at(path, format!("{key:?} is no label key"));
        }
        let value = value.as_str().unwrap_or_default();
        if !value.is_empty() && !is_name_part(value) {
            problems.at(
                format!("{path}.{key}"),
                format!("{value:?} is no label value"),
            );
        }
    }
}

fn set(object: &Value, field: &str) -> bool {
    object.get(field).is_some_and(|value| !value.is_null())
}

fn members(object: Option<&Value>) -> impl Iterator<Item = (&str, &Value)> {
    object
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value))
}

/// `[DNS subdomain/]name`.
fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => super::manifest::is_dns_subdomain(domain) && is_name_part(name),
        None => is_name_part(text),
    }
}

/// At most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends.
fn is_name_part(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(inner)
        && edge(text.bytes().next())
        && edge(text.bytes().next_back())
}
