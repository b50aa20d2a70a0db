//! A plan in short: what would be made, changed, replaced and destroyed, and why.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::env::SECURE;

/// Longest value that is shown beside its name.
const SHOWN: usize = 48;

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Plan {
    /// Each resource that would not stay as it is, in the engine's order.
    pub changes: Vec<Change>,
}

/// What would be done to a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its address in the configuration.
    pub address: String,
    /// What.
    pub kind: ChangeKind,
    /// The arguments that differ, or that force a replacement.
    pub arguments: Vec<String>,
    /// Why it is dangerous to the secure group, if it is.
    pub danger: Option<String>,
}

/// What is done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is made.
    Create,
    /// It is changed where it is.
    Update,
    /// It is destroyed and made anew.
    Replace,
    /// It is destroyed.
    Destroy,
    /// It stays, and is in the state no more.
    Forget,
}

/// The engine's description of a plan cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the engine's description of the plan cannot be read")]
pub struct PlanError(#[from] serde_json::Error);

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    resource_changes: Vec<ResourceChange>,
}

#[derive(Deserialize)]
struct ResourceChange {
    address: String,
    #[serde(default)]
    mode: String,
    #[serde(rename = "type", default)]
    kind: String,
    change: Difference,
    #[serde(default)]
    action_reason: Option<String>,
}

#[derive(Deserialize)]
struct Difference {
    actions: Vec<String>,
    before: Option<BTreeMap<String, Value>>,
    after: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    after_unknown: Value,
    #[serde(default)]
    before_sensitive: Value,
    #[serde(default)]
    after_sensitive: Value,
    #[serde(default)]
    replace_paths: Vec<Vec<Value>>,
}

// === impl Plan ===

impl Plan {
    /// Reads what `show -json` says of a plan of the environment.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn read(json: &[u8], environment: &str) -> Result<Self, PlanError> {
        let document: Document = serde_json::from_slice(json)?;
        let secure = format!("{environment}-{SECURE}");
        // Before there is a secure group, nothing that is replaced can cost it a machine.
        let exists = document
            .resource_changes
            .iter()
            .any(|resource| is_group(resource, &secure));
        let changes = document
            .resource_changes
            .into_iter()
            .filter(|resource| resource.mode != "data")
            .filter_map(|resource| change(resource, exists.then_some(secure.as_str())))
            .collect();
        Ok(Self { changes })
    }

    /// Whether nothing would be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many resources a kind of change is done to.
    #[must_use]
    pub fn count(&self, kind: ChangeKind) -> usize {
        self.changes.iter().filter(|c| c.kind == kind).count()
    }

    /// What would put the secure group at risk, a line each.
    #[must_use]
    pub fn dangers(&self) -> Vec<&str> {
        self.changes
            .iter()
            .filter_map(|c| c.danger.as_deref())
            .collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "  {change}")?;
        }
        if self.is_empty() {
            return f.write_str("nothing to do: the infrastructure is as the environment says");
        }
        write!(
            f,
            "{} to make, {} to change, {} to replace, {} to destroy",
            self.count(ChangeKind::Create),
            self.count(ChangeKind::Update),
            self.count(ChangeKind::Replace),
            self.count(ChangeKind::Destroy)
        )?;
        match self.count(ChangeKind::Forget) {
            0 => Ok(()),
            forgotten => write!(f, ", {forgotten} to forget"),
        }
    }
}

// === impl Change ===

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {}", self.kind, self.address)?;
        match (self.kind, self.arguments.is_empty()) {
            (_, true) => Ok(()),
            (ChangeKind::Replace, _) => write!(f, " (forced by {})", self.arguments.join(", ")),
            _ => write!(f, " ({})", self.arguments.join(", ")),
        }
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Create => "make",
            Self::Update => "change",
            Self::Replace => "replace",
            Self::Destroy => "destroy",
            Self::Forget => "forget",
        })
    }
}

fn change(resource: ResourceChange, secure: Option<&str>) -> Option<Change> {
    let actions: Vec<&str> = resource.change.actions.iter().map(String::as_str).collect();
    let kind = match actions.as_slice() {
        ["create"] => ChangeKind::Create,
        ["update"] => ChangeKind::Update,
        ["delete"] => ChangeKind::Destroy,
        ["delete", "create"] | ["create", "delete"] => ChangeKind::Replace,
        // Without its infrastructure: it stays, and nobody knows of it any more.
        ["forget"] | ["create", "forget"] | ["forget", "create"] => ChangeKind::Forget,
        _ => return None,
    };
    let arguments = match kind {
        ChangeKind::Create | ChangeKind::Destroy | ChangeKind::Forget => Vec::new(),
        ChangeKind::Replace => forced_by(&resource),
        ChangeKind::Update => differing(&resource.change),
    };
    Some(Change {
        danger: secure.and_then(|secure| danger(&resource, kind, secure)),
        address: resource.address,
        kind,
        arguments,
    })
}

fn forced_by(resource: &ResourceChange) -> Vec<String> {
    if resource.action_reason.as_deref() == Some("replace_because_tainted") {
        return vec!["a creation that did not end".to_owned()];
    }
    let path = |path: &Vec<Value>| {
        let parts = path.iter().map(|part| match part {
            Value::String(name) => name.clone(),
            other => other.to_string(),
        });
        parts.collect::<Vec<_>>().join(".")
    };
    resource.change.replace_paths.iter().map(path).collect()
}

/// The arguments that differ, short values with what they were and become. What is not known yet differs too, but follows
/// from something that is shown; it is named only where nothing else is.
fn differing(difference: &Difference) -> Vec<String> {
    let empty = BTreeMap::new();
    let before = difference.before.as_ref().unwrap_or(&empty);
    let after = difference.after.as_ref().unwrap_or(&empty);
    let unknown = |name: &str| !is_plain(&difference.after_unknown, name);
    let secret = |name: &str| {
        !is_plain(&difference.before_sensitive, name)
            || !is_plain(&difference.after_sensitive, name)
    };
    let mut known = Vec::new();
    let mut later = Vec::new();
    for (name, was) in before {
        let becomes = after.get(name).unwrap_or(&Value::Null);
        if unknown(name) {
            later.push(name.clone());
        } else if was != becomes && !(is_nothing(was) && is_nothing(becomes)) {
            known.push(match (short(was), short(becomes)) {
                (Some(was), Some(becomes)) if !secret(name) => format!("{name} {was} → {becomes}"),
                _ => name.clone(),
            });
        }
    }
    let new = after.iter().filter(|(name, value)| {
        !before.contains_key(*name) && !unknown(name) && !is_nothing(value)
    });
    known.extend(new.map(|(name, _)| name.clone()));
    if known.is_empty() { later } else { known }
}

/// Absent and empty are one to a reader.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The engine marks what is unknown or sensitive by `true` at its place, or by a structure that holds some `true`.
fn is_plain(marks: &Value, name: &str) -> bool {
    fn marked(value: &Value) -> bool {
        match value {
            Value::Bool(marked) => *marked,
            Value::Array(items) => items.iter().any(marked),
            Value::Object(fields) => fields.values().any(marked),
            _ => false,
        }
    }
    match marks {
        Value::Bool(all) => !all,
        marks => !marks.get(name).is_some_and(marked),
    }
}

fn short(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => "none".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(_) | Value::Object(_) => return None,
    };
    (text.chars().count() <= SHOWN && !text.contains('\n')).then_some(text)
}

/// A text of what a resource is before the change.
fn text_before<'a>(resource: &'a ResourceChange, name: &str) -> Option<&'a str> {
    resource.change.before.as_ref()?.get(name)?.as_str()
}

/// Whether the resource is the auto-scaling group of that name, and exists.
fn is_group(resource: &ResourceChange, name: &str) -> bool {
    resource.kind == "aws_autoscaling_group" && text_before(resource, "name") == Some(name)
}

/// Whether a change can cost etcd members: the secure auto-scaling group going away or becoming smaller, or the ground that
/// its machines stand on.
fn danger(resource: &ResourceChange, kind: ChangeKind, secure: &str) -> Option<String> {
    let goes = match kind {
        ChangeKind::Create => return None,
        ChangeKind::Update => return shrinks(resource, secure),
        ChangeKind::Replace => "replaced",
        ChangeKind::Destroy => "destroyed",
        ChangeKind::Forget => "forgotten",
    };
    let before = resource.change.before.as_ref()?;
    let tagged = before.get("tags").and_then(|tags| tags.get("Name"));
    match resource.kind.as_str() {
        _ if is_group(resource, secure) => Some(format!(
            "the secure group {secure} is {goes}, with every etcd member"
        )),
        "aws_subnet" if tagged.and_then(Value::as_str) == Some(secure) => Some(format!(
            "{} is {goes}: replace the secure machines in it first, for nothing moves them, and the apply cannot end before \
             they are gone",
            resource.address
        )),
        "aws_lb" => Some(format!(
            "{} is {goes}: the API server cannot be reached by it until the new one is there",
            resource.address
        )),
        "aws_vpc" => Some(format!(
            "{} is {goes}, and every machine with it",
            resource.address
        )),
        _ => None,
    }
}

fn shrinks(resource: &ResourceChange, secure: &str) -> Option<String> {
    if !is_group(resource, secure) {
        return None;
    }
    let (before, after) = (
        resource.change.before.as_ref()?,
        resource.change.after.as_ref()?,
    );
    let number = |values: &BTreeMap<String, Value>, name: &str| {
        values.get(name).and_then(Value::as_u64).unwrap_or(0)
    };
    let shrunk: Vec<String> = ["min_size", "max_size", "desired_capacity"]
        .into_iter()
        .map(|name| (name, number(before, name), number(after, name)))
        .filter(|(_, before, after)| after < before)
        .map(|(name, before, after)| format!("{name} {before} → {after}"))
        .collect();
    let how = shrunk.join(", ");
    (!shrunk.is_empty()).then(|| format!("the secure group {secure} becomes smaller ({how})"))
}

#[cfg(test)]
mod tests;
