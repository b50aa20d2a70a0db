//! What kubelet accepts as one static pod (`pkg/kubelet/config/common.go`), as far as it matters to a writer of manifests.
//!
//! Deliberately on its own: the platform's own check must not be what proves the platform right.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde::Deserialize as _;
use serde_json::Value;

use super::observation::{Digest, Problem};
use super::secrets::SECRETS;

/// Kubelet reads no more of a manifest (`maxConfigLength`).
pub(crate) const MAX_MANIFEST_BYTES: u64 = 10 * 1024 * 1024;

/// Fields that make a static pod refer to an object of the API, which kubelet refuses.
const API_REFERENCES: [&str; 10] = [
    "clusterTrustBundle",
    "configMap",
    "configMapKeyRef",
    "configMapRef",
    "imagePullSecrets",
    "persistentVolumeClaim",
    "resourceClaims",
    "secret",
    "secretKeyRef",
    "secretRef",
];

/// A decoded manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// `namespace/name`.
    pub(crate) key: String,
    /// Of the decoded object: fields kubelet doesn't know, comments and order are not in it.
    pub(crate) object: Digest,
    /// The hostPaths below the secrets directory.
    pub(crate) secret_paths: Vec<String>,
}

/// Decodes a manifest: JSON or YAML, of several documents only the first.
pub(crate) fn decode(content: &[u8]) -> Result<Decoded, Problem> {
    let mut value = parse(content)?;
    quote_quantities(&mut value);
    for (field, expected) in [("apiVersion", "v1"), ("kind", "Pod")] {
        match value.get(field).and_then(Value::as_str) {
            Some(found) if found == expected => {}
            found => return Err(invalid(format!("{field} is {found:?}, not {expected}"))),
        }
    }
    let references = api_references(value.get("spec").unwrap_or(&Value::Null));
    if let Some(reference) = references.first() {
        return Err(invalid(format!(
            "static pods may not reference {reference}"
        )));
    }
    let pod: Pod = serde_json::from_value(value).map_err(invalid)?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    if !is_dns_subdomain(&name) {
        return Err(invalid(format!(
            "metadata.name {name:?} is no DNS subdomain"
        )));
    }
    let spec = pod
        .spec
        .as_ref()
        .ok_or_else(|| invalid("spec is missing"))?;
    check_containers(spec)?;
    let namespace = pod
        .metadata
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty());
    let object = serde_json::to_vec(&pod).map_err(invalid)?;
    Ok(Decoded {
        key: format!("{}/{name}", namespace.as_deref().unwrap_or("default")),
        object: Digest::of(&object),
        secret_paths: secret_paths(spec),
    })
}

fn invalid(why: impl ToString) -> Problem {
    Problem::Invalid(why.to_string())
}

fn parse(content: &[u8]) -> Result<Value, Problem> {
    let torn = |error: &dyn std::fmt::Display| Problem::Torn(error.to_string());
    let text = content.trim_ascii();
    if text.is_empty() {
        return Err(Problem::Empty);
    }
    // As kubelet does: what starts like JSON is read as JSON.
    let value = if text.starts_with(b"{") {
        serde_json::from_slice(text).map_err(|error| torn(&error))?
    } else {
        let first = serde_yaml::Deserializer::from_slice(content)
            .next()
            .ok_or(Problem::Empty)?;
        let document = serde_yaml::Value::deserialize(first).map_err(|error| torn(&error))?;
        serde_json::to_value(document).map_err(invalid)?
    };
    if value.is_null() {
        Err(Problem::Empty)
    } else {
        Ok(value)
    }
}

/// Kubelet reads a quantity from a bare number as well; the typed pod here only from a string.
fn quote_quantities(value: &mut Value) {
    let quote = |quantity: &mut Value| {
        if let Value::Number(number) = quantity {
            *quantity = Value::String(number.to_string());
        }
    };
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("limits" | "requests", Value::Object(quantities)) => {
                        quantities.values_mut().for_each(quote)
                    }
                    ("sizeLimit" | "divisor", field) => quote(field),
                    (_, field) => quote_quantities(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quote_quantities),
        _ => {}
    }
}

fn api_references(spec: &Value) -> Vec<String> {
    match spec {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, field)| *name != "nodeSelector" && !field.is_null())
            .flat_map(|(name, field)| match (name.as_str(), field) {
                ("serviceAccountName" | "serviceAccount", Value::String(account))
                    if !account.is_empty() =>
                {
                    vec![name.clone()]
                }
                (name, _) if API_REFERENCES.contains(&name) => vec![name.to_owned()],
                (_, field) => api_references(field),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(api_references).collect(),
        _ => Vec::new(),
    }
}

fn is_dns_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn check_containers(spec: &PodSpec) -> Result<(), Problem> {
    if spec.containers.is_empty() {
        return Err(invalid("spec.containers is empty"));
    }
    for container in &spec.containers {
        if container.name.is_empty() || container.image.as_deref().unwrap_or_default().is_empty() {
            return Err(invalid(format!(
                "container {:?} lacks a name or an image",
                container.name
            )));
        }
    }
    Ok(())
}

fn secret_paths(spec: &PodSpec) -> Vec<String> {
    let inside = |path: &str| {
        path.strip_prefix(SECRETS)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|volume| volume.host_path.as_ref())
        .map(|host| host.path.clone())
        .filter(|path| inside(path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: etcd, namespace: kube-system}\nspec:\n  containers:\n  \
        - {name: etcd, image: 'etcd:1', resources: {limits: {cpu: 1}}}\n  volumes:\n  \
        - {name: pki, hostPath: {path: /etc/kubernetes/secrets/etcd/d1}}\n  - {name: data, hostPath: {path: /var/lib/etcd}}\n";

    #[test]
    fn a_pod_is_known_by_namespace_and_name_and_by_the_secrets_it_mounts() {
        let decoded = decode(POD.as_bytes()).unwrap();
        assert_eq!(decoded.key, "kube-system/etcd");
        assert_eq!(decoded.secret_paths, ["/etc/kubernetes/secrets/etcd/d1"]);
    }

    #[test]
    fn a_missing_namespace_is_default() {
        assert_eq!(
            decode(POD.replace(", namespace: kube-system", "").as_bytes())
                .unwrap()
                .key,
            "default/etcd"
        );
    }

    #[test]
    fn json_comments_spacing_and_later_documents_leave_the_object_alone() {
        let object = decode(POD.as_bytes()).unwrap().object;
        let json =
            serde_json::to_string_pretty(&serde_yaml::from_str::<Value>(POD).unwrap()).unwrap();
        for same in [
            format!("# a comment\n{POD}"),
            format!("{POD}---\nkind: [broken"),
            json.replace("  ", "\t"),
        ] {
            assert_eq!(decode(same.as_bytes()).unwrap().object, object, "{same}");
        }
        let annotated = POD.replace("name: etcd,", "name: etcd, annotations: {a: b},");
        assert_ne!(decode(annotated.as_bytes()).unwrap().object, object);
    }

    #[test]
    fn every_kind_of_broken_manifest_has_its_problem() {
        let torn = POD.find("d1}}").unwrap();
        assert!(matches!(
            decode(&POD.as_bytes()[..torn]),
            Err(Problem::Torn(_))
        ));
        assert!(matches!(
            decode(br#"{"apiVersion": "v1", "#),
            Err(Problem::Torn(_))
        ));
        for empty in ["", "\n\n", "# only a comment\n", "---\n"] {
            assert_eq!(decode(empty.as_bytes()), Err(Problem::Empty), "{empty:?}");
        }
        for (from, to) in [
            ("kind: Pod", "kind: PodList"),
            ("apiVersion: v1", "apiVersion: v2"),
            ("name: etcd, namespace", "namespace"),
            ("{name: etcd, namespace", "{name: Etcd_1, namespace"),
            ("image: 'etcd:1'", "image: ''"),
            ("spec:\n", "spec:\n  serviceAccountName: robot\n"),
            ("hostPath: {path: /var/lib/etcd}", "secret: {secretName: s}"),
            (POD, "apiVersion: v1\nkind: Pod\n"),
            (POD, "just text"),
        ] {
            let broken = POD.replace(from, to);
            assert!(
                matches!(decode(broken.as_bytes()), Err(Problem::Invalid(_))),
                "{broken}"
            );
        }
    }
}
