//! The kinds that addons are made of, and how each is decoded.

use std::any::TypeId;

use k8s_openapi::api::{
    admissionregistration, apps, autoscaling, batch, core, discovery, networking, policy, rbac,
    scheduling, storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
use k8s_openapi::{NamespaceResourceScope, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::check::yaml::join_key;

/// How alike (0 to 1) two names must be for "did you mean".
const LIKENESS: f64 = 0.85;

/// One kind of API object.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    pub(super) group: &'static str,
    /// What its rights are given for, such as `configmaps`.
    pub(super) resource: &'static str,
    pub(super) namespaced: bool,
    pub(super) decode: fn(&Value) -> Decoded,
}

/// What decoding an object found.
#[derive(Debug)]
pub(super) struct Decoded {
    /// Paths of fields that its type does not have.
    pub(super) unknown: Vec<String>,
    /// Why it is no object of its type.
    pub(super) result: Result<(), String>,
}

fn kind<T: Resource + DeserializeOwned>() -> Kind
where
    T::Scope: 'static,
{
    Kind {
        version: T::API_VERSION,
        kind: T::KIND,
        group: T::GROUP,
        resource: T::URL_PATH_SEGMENT,
        namespaced: TypeId::of::<T::Scope>() == TypeId::of::<NamespaceResourceScope>(),
        decode: decode::<T>,
    }
}

fn decode<T: DeserializeOwned>(object: &Value) -> Decoded {
    let mut unknown = Vec::new();
    let result: Result<T, _> =
        serde_ignored::deserialize(object, |path| unknown.push(field_path(&path)));
    let result = match result {
        Ok(_) => Ok(()),
        // The YAML reader names the field, the JSON value does not.
        Err(error) => Err(match serde_yaml::from_str::<T>(&object.to_string()) {
            Err(better) => without_place(&better.to_string()),
            Ok(_) => error.to_string(),
        }),
    };
    Decoded { unknown, result }
}

/// A line of the re-emitted object says nothing to the person who wrote the template.
fn without_place(message: &str) -> String {
    message
        .rsplit_once(" at line ")
        .map_or(message, |(message, _)| message)
        .to_owned()
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

macro_rules! kinds {
    ($($type:ty),* $(,)?) => {
        std::sync::LazyLock::new(|| vec![$(kind::<$type>()),*])
    };
}

static KINDS: std::sync::LazyLock<Vec<Kind>> = kinds![
    core::v1::ConfigMap,
    core::v1::LimitRange,
    core::v1::Namespace,
    core::v1::ResourceQuota,
    core::v1::Secret,
    core::v1::Service,
    core::v1::ServiceAccount,
    apps::v1::DaemonSet,
    apps::v1::Deployment,
    apps::v1::StatefulSet,
    batch::v1::CronJob,
    batch::v1::Job,
    autoscaling::v2::HorizontalPodAutoscaler,
    discovery::v1::EndpointSlice,
    networking::v1::Ingress,
    networking::v1::IngressClass,
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
    rbac::v1::ClusterRoleBinding,
    rbac::v1::Role,
    rbac::v1::RoleBinding,
    scheduling::v1::PriorityClass,
    storage::v1::CSIDriver,
    storage::v1::StorageClass,
    admissionregistration::v1::MutatingWebhookConfiguration,
    admissionregistration::v1::ValidatingAdmissionPolicy,
    admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    admissionregistration::v1::ValidatingWebhookConfiguration,
    apiextensions::v1::CustomResourceDefinition,
    apiregistration::v1::APIService,
];

/// The kind of that name and version.
pub(super) fn find(version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|known| (known.version, known.kind) == (version, kind))
}

/// A known kind that may have been meant.
pub(super) fn nearest(version: &str, kind: &str) -> Option<String> {
    let wanted = format!("{version} {kind}");
    let (_, best) = KINDS
        .iter()
        .map(|known| format!("{} {}", known.version, known.kind))
        .map(|known| (strsim::jaro_winkler(&known, &wanted), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!("did you mean {best}?"))
}
