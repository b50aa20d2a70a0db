use proptest::prelude::*;
use serde_json::{Value, json};
use shared::check::secret_dir::{SecretBytes, SecretFile};

use super::*;
use crate::render::{Secrets, TemplateSet};

fn secrets(pods: &[&str]) -> Secrets {
    let file = SecretFile {
        bytes: SecretBytes::new(b"secret".to_vec()),
        mode: 0o600,
        owner: (0, 0),
    };
    pods.iter()
        .map(|pod| {
            (
                (*pod).to_owned(),
                BTreeMap::from([("key".to_owned(), file.clone())]),
            )
        })
        .collect()
}

fn input(sources: &[(&str, &str)], values: Value, pods: &[&str]) -> RenderInput {
    let mut templates = TemplateSet::default();
    for (name, source) in sources {
        templates.add(&format!("secure/{name}"), source);
    }
    RenderInput {
        group: "secure".to_owned(),
        templates,
        values,
        secrets: secrets(pods),
        stand_ins: false,
    }
}

fn failures(input: &RenderInput) -> Vec<String> {
    render(input)
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn embedded(group: &str, pods: &[&str]) -> RenderInput {
    let values = json!({
        "environment": "dev", "kubernetes_version": "1.36.3",
        "service_cidr": "10.96.0.0/12", "pod_cidr": "10.244.0.0/16", "aws_region": "eu-west-1", "secure_asg_min": 3,
        "cluster_authority": "0123",
    });
    RenderInput {
        group: group.to_owned(),
        templates: TemplateSet::embedded(),
        values,
        secrets: secrets(pods),
        stand_ins: false,
    }
}

#[test]
fn without_the_keyring_no_digest_is_told_and_no_pod_is_missing() {
    let sources = [(
        "a.yaml.j2",
        "a: {{ secret_dir('a') }}\nb: {{ secret_dir('b') }}\n",
    )];
    let mut input = input(&sources, json!({}), &["a"]);
    input.stand_ins = true;
    let rendered = render(&input).unwrap();
    let text = String::from_utf8(rendered.manifests["a.yaml"].clone()).unwrap();
    for pod in ["a", "b"] {
        let path = format!("/etc/kubernetes/secrets/{pod}/{UNKNOWN_DIGEST}");
        assert!(text.contains(&path), "{text}");
    }
    assert_eq!(rendered.secret_dirs["a"], UNKNOWN_DIGEST);
    input.stand_ins = false;
    assert_eq!(failures(&input).len(), 1);
}

#[test]
fn the_embedded_templates_render_from_the_documented_values() {
    let pods = [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "addons",
    ];
    let secure = render(&embedded("secure", &pods)).unwrap();
    assert_eq!(secure.manifests.len(), 6);
    // Each pod's own, and the addons' objects.
    assert_eq!(secure.secret_dirs.len(), 7);
    let paths: Vec<String> = secure.by_path().into_keys().collect();
    for path in [
        "host/kubelet/config.yaml",
        "secrets/addons_objects/coredns.yaml",
        "secrets/kube-apiserver/audit-policy.yaml",
    ] {
        assert!(
            paths.iter().any(|p| p == path),
            "{path} is not in {paths:?}"
        );
    }
    let api =
        String::from_utf8(secure.manifests.get("kube-apiserver.yaml").unwrap().clone()).unwrap();
    assert!(api.contains("registry.k8s.io/kube-apiserver:v1.36.3"));
    assert!(api.contains(&format!(
        "/etc/kubernetes/secrets/kube-apiserver/{}",
        secure.secret_dirs["kube-apiserver"]
    )));

    let compute = render(&embedded("compute", &["kube-proxy"])).unwrap();
    assert_eq!(compute.manifests.len(), 1);
    assert!(
        !compute.files.contains_key(ADDONS_OBJECTS),
        "no pod applies them here"
    );
}

#[test]
fn every_failure_of_every_template_is_reported_with_its_line() {
    let sources = [
        (
            "a.yaml.j2",
            "a: {{ nope }}\nb: {{ environmet }}\nc: {{ secret_dir('x') }}\nd: {{ secret_dir('y') }}\n",
        ),
        ("b.yaml.j2", "a: 1\nb: {{ 1 +\n"),
        ("c.yaml.j2", "a: {{ environment.nope }}\n"),
        ("d.yaml.j2", "a: {{ list }}\n"),
        ("e.yaml.j2", "a: 1\n\n\na: 2\n"),
    ];
    let found = failures(&input(
        &sources,
        json!({"environment": "dev", "list": [1]}),
        &[],
    ));
    let expected = [
        "secure/a.yaml.j2:1: `nope` is undefined",
        "secure/a.yaml.j2:2: `environmet` is undefined (did you mean `environment`?)",
        "secure/a.yaml.j2:3: pod `x` has no secret files",
        "secure/a.yaml.j2:4: pod `y` has no secret files",
        "secure/b.yaml.j2:2: syntax error",
        "secure/c.yaml.j2:1: undefined value",
        "secure/d.yaml.j2:1: invalid operation",
        "secure/e.yaml:",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(expected),
            "{found}\n  does not start with\n{expected}"
        );
    }
}

#[test]
fn a_default_is_no_undefined_value() {
    let rendered = render(&input(
        &[("a.yaml.j2", "a: {{ x | default('y') }}\n")],
        json!({}),
        &[],
    ))
    .unwrap();
    assert_eq!(rendered.manifests["a.yaml"], b"{\n  \"a\": \"y\"\n}\n");
}

#[test]
fn a_changed_secret_changes_that_pods_manifest_only() {
    let sources = [
        ("a.yaml.j2", "p: {{ secret_dir('a') }}\n"),
        ("b.yaml.j2", "p: {{ secret_dir('b') }}\n"),
    ];
    let mut input = input(&sources, json!({}), &["a", "b"]);
    let before = render(&input).unwrap();
    input
        .secrets
        .get_mut("a")
        .unwrap()
        .get_mut("key")
        .unwrap()
        .mode = 0o400;
    let after = render(&input).unwrap();
    assert_ne!(before.manifests["a.yaml"], after.manifests["a.yaml"]);
    assert_eq!(before.manifests["b.yaml"], after.manifests["b.yaml"]);
}

/// One template in each place, of which one at a time is broken.
#[test]
fn a_mistake_in_any_kind_of_template_is_told_with_its_file_and_line() {
    let places = [
        ("addons/dns.yaml.j2", "a: {{ envronment }}\n"),
        ("secure/a.yaml.j2", "a: {{ envronment }}\n"),
        ("secure/addons.yaml.j2", "a: {{ envronment }}\n"),
        ("secure/files/a/config.yaml.j2", "a: {{ envronment }}\n"),
        (
            "secure/host/kubelet/config.yaml.j2",
            "a: {{ envronment }}\n",
        ),
    ];
    for (broken, bad) in places {
        let mut templates = TemplateSet::default();
        for (path, _) in places {
            templates.add(path, if path == broken { bad } else { "a: 1\n" });
        }
        let mut input = input(&[], json!({"environment": "dev"}), &[]);
        input.templates = templates;
        assert_eq!(
            failures(&input),
            [format!(
                "{broken}:1: `envronment` is undefined (did you mean `environment`?)"
            )]
        );
    }
}

#[test]
fn what_renders_and_is_no_yaml_is_told_for_every_kind() {
    let mut input = input(&[("addons.yaml.j2", "a: 1\n")], json!({}), &[]);
    for path in [
        "addons/dns.yaml.j2",
        "secure/files/a/config.yaml.j2",
        "secure/host/kubelet/config.yaml.j2",
    ] {
        input.templates.add(path, "a: 1\nb: [\n");
    }
    input.templates.add("secure/host/plain.conf.j2", "b: [\n");
    let found = failures(&input);
    let files: Vec<&str> = found.iter().filter_map(|f| f.split(':').next()).collect();
    let expected = [
        "secure/host/kubelet/config.yaml",
        "secure/files/a/config.yaml",
        "addons/dns.yaml",
    ];
    assert_eq!(files, expected, "{found:#?}");
}

#[test]
fn an_operators_file_takes_the_place_of_a_templates() {
    let mut input = input(&[("a.yaml.j2", "a: 1\n")], json!({}), &["a"]);
    input
        .templates
        .add("secure/files/a/key.j2", "from the template");
    input
        .templates
        .add("secure/files/a/other.j2", "from the template");
    let (texts, _) = render_texts(&input);
    assert_eq!(texts.secrets["a"]["key"].bytes.expose(), b"secret");
    let rendered = render(&input).unwrap();
    let own: Vec<&String> = rendered.files["a"].keys().collect();
    assert_eq!(own, ["other"]);
}

#[test]
fn a_changed_file_of_a_pod_changes_that_pods_manifest_only() {
    let sources = [
        ("a.yaml.j2", "p: {{ secret_dir('a') }}\n"),
        ("b.yaml.j2", "p: {{ secret_dir('b') }}\n"),
    ];
    let mut input = input(&sources, json!({}), &["b"]);
    input
        .templates
        .add("secure/files/a/config.yaml.j2", "x: 1\n");
    let before = render(&input).unwrap();
    // Neither a comment nor white space is a change.
    input
        .templates
        .add("secure/files/a/config.yaml.j2", "# why\nx:  1\n");
    assert_eq!(before, render(&input).unwrap());
    input
        .templates
        .add("secure/files/a/config.yaml.j2", "x: 2\n");
    let after = render(&input).unwrap();
    assert_ne!(before.manifests["a.yaml"], after.manifests["a.yaml"]);
    assert_eq!(before.manifests["b.yaml"], after.manifests["b.yaml"]);
}

#[test]
fn a_changed_addon_changes_the_pod_that_applies_them_only() {
    let sources = [
        ("addons.yaml.j2", "p: {{ secret_dir('addons_objects') }}\n"),
        ("b.yaml.j2", "p: {{ secret_dir('b') }}\n"),
    ];
    let mut input = input(&sources, json!({}), &["b"]);
    input
        .templates
        .add("addons/dns.yaml.j2", "kind: A\n---\nkind: B\n");
    let before = render(&input).unwrap();
    let dns = before.files[ADDONS_OBJECTS]["dns.yaml"]
        .bytes
        .expose()
        .to_vec();
    let list: Value = serde_json::from_slice(&dns).unwrap();
    assert_eq!(list["items"], json!([{"kind": "A"}, {"kind": "B"}]));
    input.templates.add("addons/dns.yaml.j2", "kind: A\n");
    let after = render(&input).unwrap();
    assert_ne!(
        before.manifests["addons.yaml"],
        after.manifests["addons.yaml"]
    );
    assert_eq!(before.manifests["b.yaml"], after.manifests["b.yaml"]);
}

#[test]
fn addresses_are_counted_from_the_networks_own() {
    let sources = [("a.yaml.j2", "a: {{ address('10.0.0.0/24', 10) }}\n")];
    let rendered = render(&input(&sources, json!({}), &[])).unwrap();
    assert_eq!(
        rendered.manifests["a.yaml"],
        b"{\n  \"a\": \"10.0.0.10\"\n}\n"
    );
    for bad in [
        "address('10.0.0.0/30', 10)",
        "address('10.0.0.1/24', 1)",
        "address('x', 1)",
    ] {
        let source = format!("a: {{{{ {bad} }}}}\n");
        let found = failures(&input(&[("a.yaml.j2", &source)], json!({}), &[]));
        assert!(
            found.len() == 1 && found[0].starts_with("secure/a.yaml.j2:1: `"),
            "{found:?}"
        );
    }
}

#[test]
fn an_unknown_group_names_the_known_ones() {
    let found = failures(&embedded("worker", &[]));
    assert_eq!(
        found,
        ["manifests/worker: there is no such group (groups: compute, secure)"]
    );
}

proptest! {
    #[test]
    fn rendering_is_deterministic(
        values in proptest::collection::btree_map("[a-z]{1,6}", "[a-z0-9]{0,8}", 0..6),
        source in "(a: \\{\\{ [a-f] \\}\\}\n|b: 'x'\n|\\{% for k in \\[1,2\\] %\\}c\\{\\{ k \\}\\}: 1\n\\{% endfor %\\}){0,4}",
    ) {
        let input = input(&[("a.yaml.j2", &source)], json!(values), &["p"]);
        prop_assert_eq!(render(&input), render(&input.clone()));
    }

    #[test]
    fn no_template_makes_it_panic(source in "[-a-c{}%#|.:()'\"\\[\\]0-9+ \n]{0,80}") {
        let _ = render(&input(&[("a.yaml.j2", &source)], json!({"a": 1, "b": [1]}), &[]));
    }
}

/// A pod of the cluster that talks to the API server reads whom to trust at start only.
#[test]
fn every_addon_that_talks_to_the_api_server_starts_anew_with_another_authority() {
    let of = |authority: &str| {
        let mut input = embedded("secure", &["addons"]);
        input.values["cluster_authority"] = json!(authority);
        let (texts, _) = render_texts(&input);
        let texts = texts.addons.into_values();
        let lists = texts.map(|text| super::super::list_of(&text.text).unwrap());
        lists
            .flat_map(|list| list["items"].as_array().unwrap().clone())
            .filter(|item| !item["spec"]["template"]["spec"]["serviceAccountName"].is_null())
            .collect::<Vec<Value>>()
    };
    let (one, other) = (of("aa"), of("bb"));
    assert_eq!(one.len(), 3);
    for (one, other) in one.iter().zip(&other) {
        let template = |item: &Value| item["spec"]["template"].clone();
        assert_ne!(
            template(one),
            template(other),
            "{}",
            one["metadata"]["name"]
        );
    }
}
