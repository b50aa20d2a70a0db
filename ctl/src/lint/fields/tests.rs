use serde_json::json;

use super::*;

fn found(file: Value) -> Vec<String> {
    check(&file).iter().map(ToString::to_string).collect()
}

fn kubelet(fields: Value) -> Vec<String> {
    let mut file = fields;
    file["apiVersion"] = json!("kubelet.config.k8s.io/v1beta1");
    file["kind"] = json!("KubeletConfiguration");
    found(file)
}

#[test]
fn the_lists_are_whole() {
    for (_, kind, list) in LISTS {
        let types = parse(list);
        assert!(types.contains_key(kind), "{kind}");
        for takes in types.values().flat_map(BTreeMap::values) {
            let of = takes.rsplit(" of ").next().unwrap();
            let known = ["any", "string", "bool", "int", "number", "duration"];
            assert!(
                known.contains(&of) || types.contains_key(of),
                "{kind}: {takes}"
            );
        }
    }
    assert_eq!(
        parse(include_str!("KubeletConfiguration.txt"))["KubeletConfiguration"].len(),
        125
    );
}

#[test]
fn a_field_that_kubelet_would_ignore_is_an_error() {
    let found = kubelet(json!({
        "staticPodPth": "/x",
        "authentication": {"x509": {"clientCaFile": "/x"}, "webhok": {}},
        "registerWithTaints": [{"key": "a"}, {"kee": "a"}],
        "featureGates": {"Any": true},
    }));
    assert_eq!(
        found,
        [
            "error: : authentication.webhok: KubeletAuthentication has no such field\n  help: did you mean webhook?",
            "error: : authentication.x509.clientCaFile: KubeletX509Authentication has no such field\n  help: did you mean clientCAFile?",
            "error: : registerWithTaints[1].kee: Taint has no such field\n  help: did you mean key?",
            "error: : staticPodPth: KubeletConfiguration has no such field\n  help: did you mean staticPodPath?",
        ]
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_an_error() {
    let found = kubelet(json!({
        "readOnlyPort": "0", "seccompDefault": "true", "clusterDNS": "10.0.0.10", "authentication": [],
        "syncFrequency": "1 minute", "featureGates": {"Any": "true"}, "maxPods": null,
    }));
    assert_eq!(found.len(), 6, "{found:#?}");
    assert!(
        found.contains(&"error: : readOnlyPort: takes int, not a string".to_owned()),
        "{found:#?}"
    );
}

#[test]
fn durations_are_those_of_go() {
    for good in ["0", "1s", "1h30m", "1.5h", "-1m", "100ms", "1m0s"] {
        assert!(is_duration(good), "{good}");
    }
    for bad in ["", "1", "s", "1 s", "1d", "1.2.3s", "1s1"] {
        assert!(!is_duration(bad), "{bad}");
    }
}

#[test]
fn another_kind_of_a_known_group_is_an_error_and_of_another_group_nothing() {
    let file = |version, kind| json!({"apiVersion": version, "kind": kind, "x": 1});
    let found_in = |version, kind| found(file(version, kind)).len();
    assert_eq!(found_in("audit.k8s.io/v1", "Polcy"), 1);
    assert_eq!(
        found_in("kubelet.config.k8s.io/v1", "KubeletConfiguration"),
        1
    );
    assert_eq!(found_in("example.com/v1", "Thing"), 0);
    assert_eq!(found(json!({"key": "value"})), [""; 0]);
}

#[test]
fn what_would_keep_the_api_server_from_starting_is_an_error() {
    let server = "apiserver.config.k8s.io/v1";
    let authentication = |anonymous: Value| {
        found(
            json!({"apiVersion": server, "kind": "AuthenticationConfiguration", "anonymous": anonymous}),
        )
    };
    let paths = |paths: &[&str]| {
        let conditions: Vec<Value> = paths.iter().map(|p| json!({"path": p})).collect();
        json!({"enabled": true, "conditions": conditions})
    };
    assert_eq!(authentication(paths(&["/livez", "/readyz"])), [""; 0]);
    assert_eq!(authentication(paths(&["/livez"])).len(), 1);
    assert_eq!(authentication(json!({"enabled": false})).len(), 2);
    assert_eq!(authentication(json!({"enabled": true})).len(), 1);
    let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": []});
    assert_eq!(found(policy).len(), 1);
    let encryption = json!({"apiVersion": server, "kind": "EncryptionConfiguration"});
    assert_eq!(found(encryption).len(), 1);
}
