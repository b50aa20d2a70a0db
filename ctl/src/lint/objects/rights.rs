//! Whether the addons' user may apply an object, by the file that gives it its rights. The API server lets it hand out, in a
//! role or by a binding, only what it has itself, or may `escalate` or `bind`.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::kinds::Kind;
use crate::lint::{Finding, Severity};

/// What applying a set with server-side apply and deleting what left it takes.
const VERBS: [&str; 5] = ["get", "list", "create", "patch", "delete"];

/// The API group of roles and bindings.
const RBAC: &str = "rbac.authorization.k8s.io";

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
    /// For objects of these names only; of all where it is empty.
    names: Vec<String>,
    /// Paths that are no objects.
    urls: Vec<String>,
}

/// Kind and name of the addons' own roles.
pub(super) type Roles = BTreeSet<(String, String)>;

impl Rights {
    pub(super) fn of<'a>(objects: impl Iterator<Item = &'a Value>) -> Self {
        let mut rules = Vec::new();
        for object in objects {
            let kind = super::text(object, "/kind");
            let list = object.get("rules").and_then(Value::as_array);
            for rule in list.into_iter().flatten() {
                rules.push(Rule::of(rule, kind == "ClusterRole"));
            }
        }
        Self { rules }
    }

    /// What is missing for an object of that kind.
    pub(super) fn refusal(&self, kind: &Kind) -> Option<Finding> {
        let may = |verb: &&&str| self.may(!kind.namespaced, kind.group, kind.resource, verb, "");
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

    /// Whether one verb is had; with a name, for the object of that name at least.
    fn may(&self, everywhere: bool, group: &str, resource: &str, verb: &str, name: &str) -> bool {
        self.rules.iter().any(|rule| {
            (rule.cluster_wide || !everywhere)
                && covers(&rule.groups, group)
                && covers(&rule.resources, resource)
                && covers(&rule.verbs, verb)
                // A rule for objects of certain names says nothing of others.
                && (rule.names.is_empty() || rule.names.iter().any(|n| n == name))
        })
    }

    /// What an object hands out that the addons' user may not: the rules of a role, or the role of a binding.
    pub(super) fn overreach(&self, object: &Value, roles: &Roles) -> Vec<Finding> {
        if !super::text(object, "/apiVersion").starts_with("rbac.authorization.k8s.io/") {
            return Vec::new();
        }
        match super::text(object, "/kind") {
            "ClusterRole" => self.beyond(object, "clusterroles", true),
            "Role" => self.beyond(object, "roles", false),
            "ClusterRoleBinding" => self.unbound(object, true, roles),
            "RoleBinding" => self.unbound(object, false, roles),
            _ => Vec::new(),
        }
    }

    fn beyond(&self, role: &Value, resource: &str, everywhere: bool) -> Vec<Finding> {
        let name = super::text(role, "/metadata/name");
        if self.may(everywhere, RBAC, resource, "escalate", name) {
            return Vec::new();
        }
        let rules = role.get("rules").and_then(Value::as_array);
        let rules = rules.into_iter().flatten().enumerate();
        rules
            .filter_map(|(i, rule)| {
                let wanted = Rule::of(rule, everywhere);
                let lacks: Vec<String> = wanted
                    .single()
                    .filter(|one| !self.has(one, everywhere))
                    .map(|one| one.to_string())
                    .collect();
                (!lacks.is_empty()).then(|| {
                    let lacks: BTreeSet<String> = lacks.into_iter().collect();
                    let lacks: Vec<String> = lacks.into_iter().collect();
                    let message = format!(
                        "what applies the addons may not hand out what it has not: {}",
                        lacks.join(", ")
                    );
                    refused(&format!("rules[{i}]"), message, "that right")
                })
            })
            .collect()
    }

    fn has(&self, one: &Single<'_>, everywhere: bool) -> bool {
        match one {
            Single::Object {
                group,
                resource,
                verb,
                name,
            } => self.may(everywhere, group, resource, verb, name),
            Single::Url { url, verb } => self.rules.iter().any(|rule| {
                rule.cluster_wide && covers(&rule.urls, url) && covers(&rule.verbs, verb)
            }),
        }
    }

    /// A binding of a role of the addons is no more than the role, which was looked at.
    fn unbound(&self, binding: &Value, everywhere: bool, roles: &Roles) -> Vec<Finding> {
        let kind = super::text(binding, "/roleRef/kind");
        let name = super::text(binding, "/roleRef/name");
        let resource = match kind {
            "ClusterRole" => "clusterroles",
            _ => "roles",
        };
        if roles.contains(&(kind.to_owned(), name.to_owned()))
            || self.may(everywhere, RBAC, resource, "bind", name)
        {
            return Vec::new();
        }
        let message = format!("what applies the addons may not bind the {kind} {name}");
        let right = format!("`bind` for {resource} of that name");
        vec![refused("roleRef.name", message, &right)]
    }
}

fn refused(path: &str, message: String, right: &str) -> Finding {
    let help = format!("give platform:addons {right} in files/addons/rights.yaml.j2");
    Finding::in_field(Severity::Error, path, message, Some(help))
}

fn covers(list: &[String], wanted: &str) -> bool {
    list.iter().any(|w| w == wanted || w == "*")
}

// === impl Rule ===

impl Rule {
    fn of(rule: &Value, cluster_wide: bool) -> Self {
        Self {
            cluster_wide,
            groups: texts(rule, "apiGroups"),
            resources: texts(rule, "resources"),
            verbs: texts(rule, "verbs"),
            names: texts(rule, "resourceNames"),
            urls: texts(rule, "nonResourceURLs"),
        }
    }

    /// Each right that it gives by itself.
    fn single(&self) -> impl Iterator<Item = Single<'_>> {
        // No name stands for all of them.
        let names: Vec<&str> = match self.names.is_empty() {
            true => vec![""],
            false => self.names.iter().map(String::as_str).collect(),
        };
        let mut all = Vec::new();
        for verb in &self.verbs {
            for group in &self.groups {
                for resource in &self.resources {
                    all.extend(names.iter().map(|name| Single::Object {
                        group,
                        resource,
                        verb,
                        name,
                    }));
                }
            }
            all.extend(self.urls.iter().map(|url| Single::Url { url, verb }));
        }
        all.into_iter()
    }
}

/// One right.
enum Single<'a> {
    Object {
        group: &'a str,
        resource: &'a str,
        verb: &'a str,
        name: &'a str,
    },
    Url {
        url: &'a str,
        verb: &'a str,
    },
}

impl fmt::Display for Single<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object {
                group: "",
                resource,
                verb,
                ..
            } => write!(f, "{verb} {resource}"),
            Self::Object {
                group,
                resource,
                verb,
                ..
            } => write!(f, "{verb} {resource}.{group}"),
            Self::Url { url, verb } => write!(f, "{verb} {url}"),
        }
    }
}

fn texts(rule: &Value, key: &str) -> Vec<String> {
    let list = rule.get(key).and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(kind: &str, rules: Value) -> Value {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "own"}, "rules": rules})
    }

    fn binding(kind: &str, of: &str, name: &str) -> Value {
        let reference = json!({"kind": of, "name": name});
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "roleRef": reference})
    }

    fn has() -> Rights {
        let everywhere = role(
            "ClusterRole",
            json!([
                {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]},
                {"apiGroups": [RBAC], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["built-in"]},
                {"nonResourceURLs": ["/healthz"], "verbs": ["get"]},
            ]),
        );
        let here = role(
            "Role",
            json!([
                {"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]},
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["one"]},
                {"apiGroups": [RBAC], "resources": ["roles"], "verbs": ["bind"], "resourceNames": ["reader"]},
            ]),
        );
        Rights::of([everywhere, here].iter())
    }

    #[test]
    fn no_role_hands_out_what_the_addons_user_has_not() {
        let count = |kind: &str, rule: Value| {
            let object = role(kind, json!([rule]));
            has().overreach(&object, &Roles::new()).len()
        };
        let rule = |resource: &str, verb: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": [verb]});
        assert_eq!(count("ClusterRole", rule("nodes", "get")), 0);
        assert_eq!(
            count("Role", rule("nodes", "get")),
            0,
            "what it has everywhere it has here"
        );
        assert_eq!(count("ClusterRole", rule("nodes", "delete")), 1);
        assert_eq!(count("ClusterRole", rule("nodes", "*")), 1);
        assert_eq!(count("ClusterRole", rule("nodes/status", "get")), 1);
        assert_eq!(
            count("ClusterRole", rule("secrets", "get")),
            1,
            "it has that here only"
        );
        assert_eq!(count("Role", rule("secrets", "watch")), 0);
        assert_eq!(count("Role", rule("pods", "get")), 1, "of one name only");
        let named = |name: &str| json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": [name]});
        assert_eq!(count("Role", named("one")), 0);
        assert_eq!(count("Role", named("two")), 1);
        let url = |url: &str| json!({"nonResourceURLs": [url], "verbs": ["get"]});
        assert_eq!(count("ClusterRole", url("/healthz")), 0);
        assert_eq!(count("ClusterRole", url("/metrics")), 1);
        let other = json!({"apiGroups": ["apps"], "resources": ["nodes"], "verbs": ["get"]});
        let found = has().overreach(&role("ClusterRole", json!([other])), &Roles::new());
        assert!(
            found[0].to_string().contains("get nodes.apps"),
            "{}",
            found[0]
        );
        let may_escalate =
            json!([{"apiGroups": [RBAC], "resources": ["clusterroles"], "verbs": ["escalate"]}]);
        let may_escalate = Rights::of([role("ClusterRole", may_escalate)].iter());
        let object = role("ClusterRole", json!([rule("secrets", "*")]));
        assert!(may_escalate.overreach(&object, &Roles::new()).is_empty());
    }

    #[test]
    fn no_binding_is_of_a_role_that_is_neither_the_addons_own_nor_named() {
        let own = Roles::from([("ClusterRole".to_owned(), "own".to_owned())]);
        let count = |kind, of, name| has().overreach(&binding(kind, of, name), &own).len();
        assert_eq!(count("ClusterRoleBinding", "ClusterRole", "own"), 0);
        assert_eq!(count("ClusterRoleBinding", "ClusterRole", "built-in"), 0);
        assert_eq!(
            count("ClusterRoleBinding", "ClusterRole", "cluster-admin"),
            1
        );
        assert_eq!(count("RoleBinding", "ClusterRole", "built-in"), 0);
        assert_eq!(count("RoleBinding", "Role", "reader"), 0);
        assert_eq!(count("RoleBinding", "Role", "own"), 1);
    }
}
