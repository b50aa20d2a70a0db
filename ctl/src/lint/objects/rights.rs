//! Whether the addons' user may apply an object, by the file that gives it its rights.

use serde_json::Value;

use super::kinds::Kind;
use crate::lint::{Finding, Severity};

/// What applying a set with server-side apply and deleting what left it takes.
const VERBS: [&str; 5] = ["get", "list", "create", "patch", "delete"];

/// The rules of all roles of the file.
#[derive(Debug)]
pub(super) struct Rights {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    cluster_wide: bool,
    groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

impl Rights {
    pub(super) fn of<'a>(objects: impl Iterator<Item = &'a Value>) -> Self {
        let mut rules = Vec::new();
        for object in objects {
            let kind = super::text(object, "/kind");
            let list = object.get("rules").and_then(Value::as_array);
            for rule in list.into_iter().flatten() {
                // A rule for objects of certain names says nothing of others.
                if rule.get("resourceNames").is_none() {
                    rules.push(Rule {
                        cluster_wide: kind == "ClusterRole",
                        groups: texts(rule, "apiGroups"),
                        resources: texts(rule, "resources"),
                        verbs: texts(rule, "verbs"),
                    });
                }
            }
        }
        Self { rules }
    }

    /// What is missing for an object of that kind.
    pub(super) fn refusal(&self, kind: &Kind) -> Option<Finding> {
        let covers = |list: &[String], wanted: &str| list.iter().any(|w| w == wanted || w == "*");
        let may = |verb: &&&str| {
            self.rules.iter().any(|rule| {
                (rule.cluster_wide || kind.namespaced)
                    && covers(&rule.groups, kind.group)
                    && covers(&rule.resources, kind.resource)
                    && covers(&rule.verbs, verb)
            })
        };
        let missing: Vec<&str> = VERBS.iter().filter(|verb| !may(verb)).copied().collect();
        (!missing.is_empty()).then(|| {
            let message = format!(
                "what applies the addons may not {} {}",
                missing.join(", "),
                kind.resource
            );
            let help = "give platform:addons that right in files/addons/rights.yaml.j2".to_owned();
            Finding::in_field(Severity::Error, "kind", message, Some(help))
        })
    }
}

fn texts(rule: &Value, key: &str) -> Vec<String> {
    let list = rule.get(key).and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}
