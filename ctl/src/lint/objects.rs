//! The addons' API objects, as the API server would decode them, and whether what applies them may do so.

mod kinds;
mod rights;

use std::collections::BTreeMap;

use serde_json::Value;
use shared::check::yaml::join_key;

use super::{Document, Finding, Severity, flags};
use crate::render::{ADDONS_POD, Text, Texts, documents};
use kinds::Kind;
use rights::{Rights, Roles};

/// The one namespace of addons: kubectl applies a set in the namespace that it is told, and lists every kind of the set
/// in each namespace that the set ever had.
const NAMESPACE: &str = "kube-system";

/// The file that says what the addons' user may do.
const RIGHTS: &str = "rights.yaml";

/// An object's kind, namespace and name.
type Identity = (String, String, String);

/// Checks every object of every file.
pub(super) fn check(texts: &Texts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeMap::new();
    let mut rights = None;
    if let Some(text) = texts.files.get(&(ADDONS_POD.to_owned(), RIGHTS.to_owned())) {
        // Read already, as a file of its own: here only its objects count.
        let mut document = Document::new(&text.file, 0, &text.text);
        if let Ok(list) = shared::check::yaml::parse_document(text.text.as_bytes()) {
            let items = list.get("items").and_then(Value::as_array);
            for (i, item) in items.into_iter().flatten().enumerate() {
                let at = format!("items[{i}]");
                document.add(check_object(item, &at).1);
            }
            rights = Some(Rights::of(items.into_iter().flatten()));
        }
        findings.append(&mut document.findings);
    }
    let roles = roles_of(texts);
    for text in texts.addons.values() {
        let rights = rights.as_ref().map(|rights| (rights, &roles));
        findings.extend(check_file(text, rights, &mut seen));
    }
    findings
}

/// The roles that the addons bring themselves.
fn roles_of(texts: &Texts) -> Roles {
    let parts = texts.addons.values().flat_map(|t| documents(&t.text));
    let objects =
        parts.filter_map(|part| shared::check::yaml::parse_document(part.text.as_bytes()).ok());
    objects
        .map(|o| {
            (
                text(&o, "/kind").to_owned(),
                text(&o, "/metadata/name").to_owned(),
            )
        })
        .filter(|(kind, _)| kind == "ClusterRole" || kind == "Role")
        .collect()
}

fn check_file(
    text: &Text,
    rights: Option<(&Rights, &Roles)>,
    seen: &mut BTreeMap<Identity, String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let parts = documents(&text.text);
    if parts.is_empty() {
        findings.push(Finding {
            file: text.file.clone(),
            ..Finding::in_field(Severity::Warning, "", "holds no object".to_owned(), None)
        });
    }
    for part in parts {
        let mut document = Document::new(&text.file, part.lines_before, part.text);
        if let Some(object) = document.read(part.text) {
            let (kind, found) = check_object(&object, "");
            document.add(found);
            let template = object.pointer("/spec/template").map(flags::check);
            document.add(template.into_iter().flatten().map(below_template).collect());
            if let Some(kind) = kind {
                document.add(check_place(&object, kind));
                if let Some((rights, roles)) = rights {
                    document.add(rights.refusal(kind).into_iter().collect());
                    document.add(rights.overreach(&object, roles));
                }
            }
            let identity = identity(&object);
            let place = format!("{}:{}", text.file, document.line_of_name());
            if let Some(first) = seen.insert(identity.clone(), place) {
                let (kind, namespace, name) = identity;
                let message = format!("{kind} {namespace}/{name} is already in {first}");
                let found = Finding::in_field(Severity::Error, "metadata.name", message, None);
                document.add(vec![found]);
            }
        }
        findings.append(&mut document.findings);
    }
    findings
}

/// A finding in a workload's pod, by its place in the workload.
fn below_template(finding: Finding) -> Finding {
    Finding {
        path: finding.path.map(|path| join_key("spec.template", &path)),
        ..finding
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Two versions of a kind are one object, so only the group counts.
fn identity(object: &Value) -> Identity {
    let version = text(object, "/apiVersion");
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let kind = text(object, "/kind");
    let kind = match group {
        "" => kind.to_owned(),
        group => format!("{kind}.{group}"),
    };
    (
        kind,
        text(object, "/metadata/namespace").to_owned(),
        text(object, "/metadata/name").to_owned(),
    )
}

/// What the API server would say of one object; its kind, where that is known.
fn check_object(object: &Value, at: &str) -> (Option<&'static Kind>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut report = |severity, path: &str, message: String, help: Option<String>| {
        let path = match (at.is_empty(), path.is_empty()) {
            (true, _) => path.to_owned(),
            (false, true) => at.to_owned(),
            (false, false) => join_key(at, path),
        };
        findings.push(Finding::in_field(severity, &path, message, help));
    };
    let (version, name) = (text(object, "/apiVersion"), text(object, "/kind"));
    if text(object, "/metadata/name").is_empty() {
        let message = "an addon needs a name".to_owned();
        report(Severity::Error, "metadata", message, None);
    }
    let Some(kind) = kinds::find(version, name) else {
        let message =
            format!("platformctl does not know {version} {name}: its fields are not checked");
        report(
            Severity::Warning,
            "kind",
            message,
            kinds::nearest(version, name),
        );
        return (None, findings);
    };
    let decoded = (kind.decode)(object);
    for path in decoded.unknown {
        let message = format!("{name} has no such field; the API server would drop it");
        report(Severity::Error, &path, message, None);
    }
    if let Err(message) = decoded.result {
        report(Severity::Error, "", message, None);
    }
    (Some(kind), findings)
}

/// Whether the object stands where the addons' set can hold it.
fn check_place(object: &Value, kind: &Kind) -> Vec<Finding> {
    let namespace = text(object, "/metadata/namespace");
    let message = match (kind.namespaced, namespace) {
        (true, NAMESPACE) | (false, "") => return Vec::new(),
        (true, "") => format!("an addon's namespace is written out: {NAMESPACE}"),
        (true, _) => {
            format!("an addon's namespace is {NAMESPACE}: kubectl applies the set in that one")
        }
        (false, _) => format!("a {} has no namespace", kind.kind),
    };
    vec![Finding::in_field(
        Severity::Error,
        "metadata",
        message,
        None,
    )]
}
