use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A pod that passes; `edit` breaks it.
fn edited(edit: impl FnOnce(&mut Value)) -> Result<PodSummary, Vec<ManifestProblem>> {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "etcd", "namespace": "kube-system"},
        "spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 45,
            "containers": [{
                "name": "etcd",
                "image": "etcd:1",
                "ports": [{"containerPort": 2379}],
                "volumeMounts": [{"name": "data", "mountPath": "/var/lib/etcd"}],
            }],
            "volumes": [{"name": "data", "hostPath": {"path": "/var/lib/etcd", "type": "Directory"}}],
        },
    });
    edit(&mut pod);
    check_manifest("etcd.yaml", pod.to_string().as_bytes())
}

fn broken(edit: impl FnOnce(&mut Value)) -> Vec<String> {
    edited(edit)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Replaces one value and says what is then reported.
fn with(pointer: &str, value: Value) -> Vec<String> {
    broken(|pod| {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value;
    })
}

#[test]
fn a_good_pod_is_summarised() {
    let summary = edited(|_| {}).unwrap();
    assert_eq!(
        (summary.namespace.as_str(), summary.name.as_str()),
        ("kube-system", "etcd")
    );
    assert_eq!(
        summary.host_ports,
        BTreeSet::from([("TCP".to_owned(), 2379)])
    );
    assert_eq!(summary.termination_grace_seconds, 45);
    assert_eq!(
        summary.host_paths,
        [HostPath {
            field: "spec.volumes[0].hostPath".to_owned(),
            volume: "data".to_owned(),
            path: "/var/lib/etcd".to_owned(),
            kind: Some("Directory".to_owned()),
        }]
    );
}

#[test]
fn an_empty_namespace_is_the_default_one_and_grace_is_30() {
    let summary = edited(|pod| {
        pod["metadata"].as_object_mut().unwrap().remove("namespace");
        pod["spec"]
            .as_object_mut()
            .unwrap()
            .remove("terminationGracePeriodSeconds");
        pod["spec"]["hostNetwork"] = json!(false);
    })
    .unwrap();
    assert_eq!(
        (
            summary.namespace.as_str(),
            summary.termination_grace_seconds
        ),
        ("default", 30)
    );
    assert!(summary.host_ports.is_empty());
}

#[test]
fn only_one_v1_pod_is_taken() {
    for text in [
        "",
        "[]",
        "a: 1",
        "apiVersion: v1\nkind: PodList\nitems: []",
        "apiVersion: apps/v1\nkind: Pod",
        "{",
        "a: 1\n---\nb: 1",
    ] {
        let found = check_manifest("a.yaml", text.as_bytes()).unwrap_err();
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
}

#[test]
fn another_kind_or_version_is_named() {
    for (version, kind) in [("v1", "PodList"), ("apps/v1", "Pod"), ("v1", "ConfigMap")] {
        let found = broken(|pod| {
            pod["apiVersion"] = json!(version);
            pod["kind"] = json!(kind);
        });
        let expected = format!("kubelet takes a v1 Pod from a file, not {version:?} {kind:?}");
        assert_eq!(found, [expected]);
    }
}

#[test]
fn a_manifest_over_10_mib_is_refused_unread() {
    let found = check_manifest("a.yaml", &vec![b'#'; MAX_MANIFEST_BYTES + 1]).unwrap_err();
    assert!(found[0].message.contains("10 MiB"));
}

#[test]
fn file_names_that_tools_make_are_refused() {
    for name in [
        ".etcd.yaml",
        "etcd.yaml~",
        "etcd.yaml.bak",
        "etcd",
        "Etcd.yaml",
        "a/b.yaml",
        ".yaml",
        "é.yaml",
        "",
    ] {
        let mut problems = Problems::default();
        check_file_name(name, &mut problems);
        assert_eq!(problems.0.len(), 1, "{name}");
    }
    let mut problems = Problems::default();
    check_file_name("kube-apiserver.yaml", &mut problems);
    assert!(problems.0.is_empty());
}

#[test]
fn every_reference_to_an_api_object_is_refused() {
    let volume = |kind: &str, value: Value| json!([{"name": "data", kind: value}]);
    let container = "/spec/containers/0";
    let cases = [
        (
            "/spec/serviceAccountName".to_owned(),
            json!("default"),
            "spec.serviceAccountName",
        ),
        (
            "/spec/imagePullSecrets".to_owned(),
            json!([{"name": "x"}]),
            "spec.imagePullSecrets",
        ),
        (
            "/spec/resourceClaims".to_owned(),
            json!([{"name": "x", "resourceClaimName": "y"}]),
            "spec.resourceClaims",
        ),
        (
            "/spec/volumes".to_owned(),
            volume("secret", json!({"secretName": "x"})),
            "spec.volumes[0].secret",
        ),
        (
            "/spec/volumes".to_owned(),
            volume("configMap", json!({"name": "x"})),
            "spec.volumes[0].configMap",
        ),
        (
            "/spec/volumes".to_owned(),
            volume("csi", json!({"driver": "x"})),
            "spec.volumes[0].csi",
        ),
        (
            "/spec/volumes".to_owned(),
            volume("persistentVolumeClaim", json!({"claimName": "x"})),
            "spec.volumes[0].persistentVolumeClaim",
        ),
        (
            "/spec/volumes".to_owned(),
            volume("ephemeral", json!({})),
            "spec.volumes[0].ephemeral",
        ),
        (
            "/spec/volumes".to_owned(),
            volume(
                "cephfs",
                json!({"monitors": [], "secretRef": {"name": "x"}}),
            ),
            "spec.volumes[0].cephfs.secretRef",
        ),
        (
            "/spec/volumes".to_owned(),
            volume(
                "projected",
                json!({"sources": [{"serviceAccountToken": {"path": "x"}}]}),
            ),
            "spec.volumes[0].projected.sources[0].serviceAccountToken",
        ),
        (
            "/spec/volumes".to_owned(),
            volume(
                "projected",
                json!({"sources": [{"clusterTrustBundle": {"path": "x"}}]}),
            ),
            "spec.volumes[0].projected.sources[0].clusterTrustBundle",
        ),
        (
            format!("{container}/env"),
            json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}]),
            "spec.containers[0].env[0].valueFrom.secretKeyRef",
        ),
        (
            format!("{container}/env"),
            json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}}]),
            "spec.containers[0].env[0].valueFrom.configMapKeyRef",
        ),
        (
            format!("{container}/envFrom"),
            json!([{"configMapRef": {"name": "x"}}, {"secretRef": {"name": "x"}}]),
            "spec.containers[0].envFrom[0].configMapRef",
        ),
    ];
    for (pointer, value, path) in cases {
        let found = with(&pointer, value);
        assert!(
            found
                .iter()
                .any(|p| p.starts_with(&format!("{path}: static pods may not refer"))),
            "{path}: {found:?}"
        );
    }
}

#[test]
fn the_downward_api_is_no_reference() {
    let node_name =
        json!([{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]);
    assert!(edited(|pod| pod["spec"]["containers"][0]["env"] = node_name).is_ok());
}

#[test]
fn unknown_fields_are_named_by_path_all_at_once() {
    let found = broken(|pod| {
        pod["spec"]["hostNetworks"] = json!(true);
        pod["spec"]["containers"][0]["ports"][0]["hostport"] = json!(1);
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .any(|p| p.starts_with("spec.hostNetworks: unknown field"))
    );
    assert!(
        found
            .iter()
            .any(|p| p.starts_with("spec.containers[0].ports[0].hostport: unknown field"))
    );
}

#[test]
fn a_wrong_type_is_named_by_path() {
    let found = with(
        "/spec/containers/0/ports",
        json!([{"containerPort": "http"}]),
    );
    let expected = "spec.containers[0].ports[0].containerPort: has the wrong type: expected i32";
    assert_eq!(found, [expected]);
    // The value may be anything, and the text is read by anybody.
    let found = with("/spec/containers/0/image", json!(12345));
    let expected = "spec.containers[0].image: has the wrong type: expected a string";
    assert_eq!(found, [expected]);
}

#[test]
fn each_rule_has_a_pod_that_breaks_it() {
    let cases = [
        ("/metadata/name", json!(""), "metadata.name"),
        ("/metadata/name", json!("Etcd_1"), "metadata.name"),
        ("/metadata/namespace", json!("a.b"), "metadata.namespace"),
        (
            "/metadata/annotations",
            json!({"kubernetes.io/config.mirror": "x"}),
            "metadata.annotations",
        ),
        ("/spec/containers", json!([]), "spec.containers"),
        ("/spec/restartPolicy", json!("always"), "spec.restartPolicy"),
        (
            "/spec/terminationGracePeriodSeconds",
            json!(-1),
            "spec.terminationGracePeriodSeconds",
        ),
        (
            "/spec/containers/0/image",
            json!(""),
            "spec.containers[0].image",
        ),
        (
            "/spec/containers/0/image",
            json!("a b"),
            "spec.containers[0].image",
        ),
        (
            "/spec/containers/0/name",
            json!("A"),
            "spec.containers[0].name",
        ),
        (
            "/spec/containers/0/imagePullPolicy",
            json!("Sometimes"),
            "spec.containers[0].imagePullPolicy",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 0}]),
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 70000}]),
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 1, "hostPort": 2}]),
            "spec.containers[0].ports[0].hostPort",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 1}, {"containerPort": 1}]),
            "spec.containers[0].ports[1]",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 1, "protocol": "tcp"}]),
            "spec.containers[0].ports[0].protocol",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "nope", "mountPath": "/x"}]),
            "spec.containers[0].volumeMounts[0].name",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "data", "mountPath": "/x"}, {"name": "data", "mountPath": "/x"}]),
            "spec.containers[0].volumeMounts[1].mountPath",
        ),
        (
            "/spec/volumes/0/hostPath",
            json!({"path": "relative"}),
            "spec.volumes[0].hostPath.path",
        ),
        (
            "/spec/volumes/0/hostPath",
            json!({"path": "/a/../b"}),
            "spec.volumes[0].hostPath.path",
        ),
        (
            "/spec/volumes/0/hostPath",
            json!({"path": "/a", "type": "Dir"}),
            "spec.volumes[0].hostPath.type",
        ),
        (
            "/spec/volumes/0/name",
            json!("Data"),
            "spec.volumes[0].name",
        ),
    ];
    for (pointer, value, path) in cases {
        let found = broken(|pod| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = pod.pointer_mut(parent).unwrap();
            parent[key] = value.clone();
        });
        assert!(
            found.iter().any(|p| p.starts_with(&format!("{path}: "))),
            "{pointer} {value}: {found:?}"
        );
    }
}

#[test]
fn values_that_only_kubelet_would_refuse_are_named() {
    let container = |key: &str, value: Value| with(&format!("/spec/containers/0/{key}"), value);
    let exec = json!({"command": ["true"]});
    for (found, path) in [
        (
            container("resources", json!({"limits": {"memory": "512MB"}})),
            "resources.limits.memory",
        ),
        (
            container("resources", json!({"requests": {"cpu": "100mm"}})),
            "resources.requests.cpu",
        ),
        (
            container("resources", json!({"requests": {"cpu": "-1"}})),
            "resources.requests.cpu",
        ),
        (
            container("resources", json!({"requests": {"mem": "1"}})),
            "resources.requests",
        ),
        (
            container(
                "resources",
                json!({"limits": {"memory": "1M"}, "requests": {"memory": "1Mi"}}),
            ),
            "resources.requests.memory",
        ),
        (container("env", json!([{"name": "A=B"}])), "env[0].name"),
        (container("env", json!([{"name": ""}])), "env[0].name"),
        (
            container("env", json!([{"name": "A", "valueFrom": {}}])),
            "env[0].valueFrom",
        ),
        (
            container(
                "env",
                json!([{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]),
            ),
            "env[0].valueFrom",
        ),
        (
            container(
                "env",
                json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1mm"}}}]),
            ),
            "env[0].valueFrom.resourceFieldRef.divisor",
        ),
        (
            container("livenessProbe", json!({"periodSeconds": 5})),
            "livenessProbe",
        ),
        (
            container(
                "readinessProbe",
                json!({"exec": exec, "tcpSocket": {"port": 1}}),
            ),
            "readinessProbe",
        ),
        (
            container("lifecycle", json!({"preStop": {}})),
            "lifecycle.preStop",
        ),
    ] {
        assert_eq!(found.len(), 1, "{path}: {found:?}");
        let wanted = format!("spec.containers[0].{path}: ");
        assert!(found[0].starts_with(&wanted), "{path}: {found:?}");
    }
    let probed = json!([{"name": "i", "image": "i:1", "startupProbe": {"exec": exec}}]);
    for (found, path) in [
        (
            with("/spec/initContainers", probed),
            "spec.initContainers[0].startupProbe",
        ),
        (
            with("/spec/volumes/0/emptyDir", json!({})),
            "spec.volumes[0]",
        ),
        (
            with(
                "/spec/volumes",
                json!([{"name": "data", "emptyDir": {"sizeLimit": "1GB"}}]),
            ),
            "spec.volumes[0].emptyDir.sizeLimit",
        ),
        (
            with("/metadata/labels", json!({"a": "b c"})),
            "metadata.labels.a",
        ),
        (
            with("/metadata/labels", json!({"a/b/c": "d"})),
            "metadata.labels",
        ),
        (
            with("/metadata/annotations", json!({"-a": "anything at all"})),
            "metadata.annotations",
        ),
        (
            with("/spec/nodeSelector", json!({"a": "b/c"})),
            "spec.nodeSelector.a",
        ),
    ] {
        assert_eq!(found.len(), 1, "{path}: {found:?}");
        assert!(
            found[0].starts_with(&format!("{path}: ")),
            "{path}: {found:?}"
        );
    }
}

#[test]
fn values_that_kubelet_takes_pass() {
    let exec = json!({"command": ["true"]});
    edited(|pod| {
        pod["metadata"]["labels"] = json!({"app.kubernetes.io/name": "etcd", "tier": "", "v": "v1.2_3"});
        pod["metadata"]["annotations"] = json!({"example.com/Note": "Anything at all!"});
        pod["spec"]["volumes"][0] = json!({"name": "data"});
        let container = &mut pod["spec"]["containers"][0];
        container["resources"] = json!({
            "limits": {"memory": "1Gi", "hugepages-2Mi": "4Mi", "example.com/card": "1"},
            "requests": {"memory": "1024Mi", "cpu": ".5"},
        });
        container["livenessProbe"] = json!({"exec": exec, "tcpSocket": null});
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 5}}});
        container["env"] = json!([
            {"name": "a.b-C 1"},
            {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        ]);
    })
    .unwrap();
}

#[test]
fn two_containers_of_one_name_are_refused() {
    let found = broken(|pod| {
        let one = pod["spec"]["containers"][0].clone();
        pod["spec"]["initContainers"] = json!([one]);
    });
    assert_eq!(
        found,
        ["spec.containers[0].name: two containers are named \"etcd\""]
    );
}

#[test]
fn a_sidecars_ports_count_and_an_init_containers_do_not() {
    let init = |policy: Value| {
        edited(|pod| {
            pod["spec"]["initContainers"] = json!([{"name": "i", "image": "i", "restartPolicy": policy, "ports": [{"containerPort": 1}]}]);
        })
        .unwrap()
        .host_ports
        .len()
    };
    assert_eq!((init(json!("Always")), init(Value::Null)), (2, 1));
}

#[test]
fn all_problems_come_at_once() {
    let found = broken(|pod| {
        pod["metadata"]["name"] = json!("A");
        pod["spec"]["serviceAccountName"] = json!("x");
        pod["spec"]["unknown"] = json!(1);
        pod["spec"]["containers"][0]["image"] = json!("");
    });
    assert_eq!(found.len(), 4, "{found:?}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(check_manifest("a.yaml", &bytes).is_err());
    }

    #[test]
    fn no_value_anywhere_makes_it_panic(
        pointer in "(/metadata|/metadata/name|/spec|/spec/containers|/spec/containers/0|/spec/containers/0/ports/0/containerPort|/spec/volumes|/spec/volumes/0/hostPath|/spec/hostNetwork)",
        value in prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), ".{0,10}".prop_map(Value::from), Just(json!([])), Just(json!([{}])), Just(json!({}))],
    ) {
        let _ = edited(|pod| *pod.pointer_mut(&pointer).unwrap() = value);
    }
}
