//! References to API objects, which kubelet refuses in static pods: they must run with no API server there.
//!
//! This looks at the raw document, so that a field of a newer Kubernetes can't slip by as unknown.

use serde_json::Value;

use super::manifest::Problems;

/// Fields of a pod's spec that name an API object, with the kind they name.
const SPEC_FIELDS: &[(&str, &str)] = &[
    ("serviceAccountName", "a service account"),
    ("serviceAccount", "a service account"),
    ("imagePullSecrets", "Secrets"),
    ("resourceClaims", "resource claims"),
];

/// Volume types that name an API object.
const VOLUME_FIELDS: &[(&str, &str)] = &[
    ("secret", "a Secret"),
    ("configMap", "a ConfigMap"),
    ("persistentVolumeClaim", "a persistent volume claim"),
    ("ephemeral", "a persistent volume claim"),
    ("csi", "a CSI driver"),
    ("azureFile", "a Secret"),
];

/// Sources of a projected volume that name an API object.
const PROJECTED_FIELDS: &[(&str, &str)] = &[
    ("secret", "a Secret"),
    ("configMap", "a ConfigMap"),
    ("serviceAccountToken", "a service account"),
    ("clusterTrustBundle", "a cluster trust bundle"),
    ("podCertificate", "a pod certificate"),
];

/// Sources of an environment variable, and of a whole set of them.
const ENV_FIELDS: &[(&str, &str)] = &[
    ("secretKeyRef", "a Secret"),
    ("configMapKeyRef", "a ConfigMap"),
    ("secretRef", "a Secret"),
    ("configMapRef", "a ConfigMap"),
];

/// Reports each reference in the pod.
pub(crate) fn check(pod: &Value, problems: &mut Problems) {
    let Some(spec) = pod.get("spec") else { return };
    refuse(spec, "spec", SPEC_FIELDS, problems);
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in items(spec, kind) {
            let path = format!("spec.{kind}[{i}]");
            for (j, variable) in items(container, "env") {
                if let Some(source) = variable.get("valueFrom") {
                    refuse(
                        source,
                        &format!("{path}.env[{j}].valueFrom"),
                        ENV_FIELDS,
                        problems,
                    );
                }
            }
            for (j, source) in items(container, "envFrom") {
                refuse(
                    source,
                    &format!("{path}.envFrom[{j}]"),
                    ENV_FIELDS,
                    problems,
                );
            }
        }
    }
    for (i, volume) in items(spec, "volumes") {
        let path = format!("spec.volumes[{i}]");
        refuse(volume, &path, VOLUME_FIELDS, problems);
        if let Some(projected) = volume.get("projected") {
            for (j, source) in items(projected, "sources") {
                refuse(
                    source,
                    &format!("{path}.projected.sources[{j}]"),
                    PROJECTED_FIELDS,
                    problems,
                );
            }
        }
        secret_refs(volume, &path, problems);
    }
}

/// `secretRef` of any storage driver, such as cephfs, iscsi or flexVolume.
fn secret_refs(volume: &Value, path: &str, problems: &mut Problems) {
    for (driver, settings) in volume.as_object().into_iter().flatten() {
        if settings.get("secretRef").is_some_and(is_set) {
            problems.at(
                format!("{path}.{driver}.secretRef"),
                "static pods may not refer to a Secret",
            );
        }
    }
}

fn refuse(object: &Value, path: &str, fields: &[(&str, &str)], problems: &mut Problems) {
    for (field, what) in fields {
        if object.get(field).is_some_and(is_set) {
            problems.at(
                format!("{path}.{field}"),
                format!("static pods may not refer to {what}; mount a hostPath"),
            );
        }
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

pub(crate) fn items<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    object
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
}
