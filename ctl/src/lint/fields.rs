//! Fields of configuration files against the lists of the programs that will read them. Most of those programs ignore
//! a name that they do not know, so a typing error would leave a default in force.

use std::collections::BTreeMap;

use serde_json::Value;
use shared::check::yaml::join_key;

use super::{Finding, Severity};

/// How alike (0 to 1) two names must be for "did you mean".
const LIKENESS: f64 = 0.8;

/// `apiVersion`, `kind`, and the list: a type, then its fields with what each takes; the kind's own type comes first.
const LISTS: &[(&str, &str, &str)] = &[
    (
        "apiserver.config.k8s.io/v1",
        "AdmissionConfiguration",
        include_str!("fields/AdmissionConfiguration.txt"),
    ),
    (
        "apiserver.config.k8s.io/v1",
        "AuthenticationConfiguration",
        include_str!("fields/AuthenticationConfiguration.txt"),
    ),
    (
        "apiserver.config.k8s.io/v1",
        "AuthorizationConfiguration",
        include_str!("fields/AuthorizationConfiguration.txt"),
    ),
    (
        "apiserver.config.k8s.io/v1",
        "EncryptionConfiguration",
        include_str!("fields/EncryptionConfiguration.txt"),
    ),
    (
        "audit.k8s.io/v1",
        "Policy",
        include_str!("fields/Policy.txt"),
    ),
    (
        "kubelet.config.k8s.io/v1beta1",
        "KubeletConfiguration",
        include_str!("fields/KubeletConfiguration.txt"),
    ),
    (
        "kubeproxy.config.k8s.io/v1alpha1",
        "KubeProxyConfiguration",
        include_str!("fields/KubeProxyConfiguration.txt"),
    ),
    (
        "kubescheduler.config.k8s.io/v1",
        "KubeSchedulerConfiguration",
        include_str!("fields/KubeSchedulerConfiguration.txt"),
    ),
];

/// The fields of each type of a list, with what each takes.
type Types = BTreeMap<&'static str, BTreeMap<&'static str, &'static str>>;

/// Checks one configuration file; one of an API group without a list is left alone.
pub(super) fn check(file: &Value) -> Vec<Finding> {
    let text = |key: &str| file.get(key).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let Some((_, _, list)) = LISTS.iter().find(|(v, k, _)| (*v, *k) == (version, kind)) else {
        return unlisted(version, kind);
    };
    let mut check = Check {
        types: parse(list),
        findings: Vec::new(),
    };
    check.object(file, kind, "");
    check.findings.extend(rules(file, kind));
    check.findings
}

/// A version or kind that nobody knows, in a group that has lists.
fn unlisted(version: &str, kind: &str) -> Vec<Finding> {
    let group = version.split('/').next().unwrap_or_default();
    let of_group = || LISTS.iter().filter(|(v, _, _)| v.starts_with(group));
    if group.is_empty() || of_group().next().is_none() {
        return Vec::new();
    }
    let known: Vec<String> = of_group().map(|(v, k, _)| format!("{v} {k}")).collect();
    let message = format!("platformctl has no list of the fields of {version} {kind}");
    let help = format!("known of this group: {}", known.join(", "));
    vec![Finding::in_field(
        Severity::Error,
        "kind",
        message,
        Some(help),
    )]
}

/// What no list of fields says, and would keep the program from starting.
fn rules(file: &Value, kind: &str) -> Vec<Finding> {
    let error = |path: &str, message: &str, help: &str| {
        let (message, help) = (message.to_owned(), Some(help.to_owned()));
        Finding::in_field(Severity::Error, path, message, help)
    };
    let mut findings = Vec::new();
    let is_empty = |pointer: &str| {
        let list = file.pointer(pointer).and_then(Value::as_array);
        list.is_none_or(Vec::is_empty)
    };
    match kind {
        "Policy" if is_empty("/rules") => findings.push(error(
            "rules",
            "kube-apiserver does not start with a policy without rules",
            "the least is one rule with `level: Metadata`",
        )),
        "EncryptionConfiguration" if is_empty("/resources") => findings.push(error(
            "resources",
            "kube-apiserver does not start without resources to encrypt",
            "name `secrets` at least",
        )),
        "AuthenticationConfiguration" => {
            let conditions = file
                .pointer("/anonymous/conditions")
                .and_then(Value::as_array);
            let paths: Vec<&str> = conditions
                .into_iter()
                .flatten()
                .filter_map(|condition| condition.get("path")?.as_str())
                .collect();
            let enabled = file.pointer("/anonymous/enabled") == Some(&Value::Bool(true));
            for probe in ["/livez", "/readyz"] {
                if !enabled || !(conditions.is_none() || paths.contains(&probe)) {
                    findings.push(error(
                        "anonymous",
                        &format!("without credentials {probe} cannot be asked for"),
                        "the probes of kubelet and of the load balancers have none: kubelet would restart the API server",
                    ));
                }
            }
            if enabled && conditions.is_none() {
                findings.push(error(
                    "anonymous",
                    "everything can be asked for without credentials",
                    "list the paths /livez, /readyz and /healthz under `conditions`",
                ));
            }
        }
        _ => {}
    }
    findings
}

struct Check {
    types: Types,
    findings: Vec<Finding>,
}

impl Check {
    fn error(&mut self, path: &str, message: String, help: Option<String>) {
        self.findings
            .push(Finding::in_field(Severity::Error, path, message, help));
    }

    /// An object of a type of the list.
    fn object(&mut self, value: &Value, of: &str, path: &str) {
        let Some(object) = value.as_object() else {
            return self.wrong(value, of, path);
        };
        let Some(fields) = self.types.get(of).cloned() else {
            return;
        };
        for (key, value) in object {
            let path_here = join_key(path, key);
            let is_type_meta = path.is_empty() && (key == "apiVersion" || key == "kind");
            match fields.get(key.as_str()) {
                Some(takes) => self.value(value, takes, &path_here),
                None if is_type_meta => {}
                None => self.error(
                    &path_here,
                    format!("{of} has no such field"),
                    nearest(key, fields.keys().copied()),
                ),
            }
        }
    }

    fn value(&mut self, value: &Value, takes: &str, path: &str) {
        // Null is what an unset field is.
        if value.is_null() {
            return;
        }
        if let Some(inner) = takes.strip_prefix("list of ") {
            match value.as_array() {
                Some(items) => {
                    for (i, item) in items.iter().enumerate() {
                        self.value(item, inner, &format!("{path}[{i}]"));
                    }
                }
                None => self.wrong(value, takes, path),
            }
            return;
        }
        if let Some(inner) = takes.strip_prefix("map of ") {
            match value.as_object() {
                Some(entries) => {
                    for (key, item) in entries {
                        self.value(item, inner, &join_key(path, key));
                    }
                }
                None => self.wrong(value, takes, path),
            }
            return;
        }
        let fits = match takes {
            "any" => true,
            "string" => value.is_string(),
            "bool" => value.is_boolean(),
            "int" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "duration" => value.as_str().is_some_and(is_duration),
            of => return self.object(value, of, path),
        };
        if !fits {
            self.wrong(value, takes, path);
        }
    }

    fn wrong(&mut self, value: &Value, takes: &str, path: &str) {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "a bool",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        let help = (takes == "duration").then(|| "such as 30s, 5m or 1h30m".to_owned());
        self.error(path, format!("takes {takes}, not {found}"), help);
    }
}

/// As Go writes it: numbers with units, such as `1h30m`.
fn is_duration(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    if text == "0" {
        return true;
    }
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let letters = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, next) = behind.split_at(letters);
        if number.parse::<f64>().is_err() || !units.contains(&unit) {
            return false;
        }
        rest = next;
    }
    !text.is_empty()
}

pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let (_, best) = known
        .map(|candidate| (strsim::jaro_winkler(candidate, name), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!("did you mean {best}?"))
}

fn parse(list: &'static str) -> Types {
    let mut types = Types::new();
    let mut current = "";
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        match line
            .strip_prefix("  ")
            .and_then(|field| field.split_once(": "))
        {
            Some((field, takes)) => {
                types.entry(current).or_default().insert(field, takes);
            }
            None if !line.is_empty() => {
                current = line;
                types.entry(current).or_default();
            }
            None => {}
        }
    }
    types
}

#[cfg(test)]
mod tests;
