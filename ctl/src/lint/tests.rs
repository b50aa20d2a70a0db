use serde_json::json;
use shared::check::secret_dir::{SecretBytes, SecretFile};

use super::*;
use crate::render::{Secrets, TemplateSet};

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn files(entries: &[(&str, &str)]) -> BTreeMap<String, SecretFile> {
    let file = |text: &str| SecretFile {
        bytes: SecretBytes::new(text.as_bytes().to_vec()),
        mode: 0o600,
        owner: (0, 0),
    };
    entries
        .iter()
        .map(|(name, text)| ((*name).to_owned(), file(text)))
        .collect()
}

fn pod(name: &str, lines: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n    - name: main\n      image: x\n{lines}"
    )
}

fn input(templates: &[(&str, String)], secrets: Secrets) -> RenderInput {
    let mut set = TemplateSet::default();
    for (name, source) in templates {
        set.add(&format!("secure/{name}"), source);
    }
    RenderInput {
        group: "secure".to_owned(),
        templates: set,
        values: json!({"environment": "dev"}),
        secrets,
        stand_ins: false,
    }
}

fn shown(input: &RenderInput) -> Vec<String> {
    lint(input, now()).iter().map(ToString::to_string).collect()
}

fn one(lines: &str) -> Vec<String> {
    shown(&input(&[("a.yaml.j2", pod("a", lines))], Secrets::new()))
}

fn issue(from: i32, to: i32) -> String {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 6, 15);
    params
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap()
        .pem()
}

#[test]
fn a_clean_pod_gives_nothing() {
    assert_eq!(one(""), [""; 0]);
}

#[test]
fn template_failures_come_first_and_do_not_hide_the_rest() {
    let found = shown(&input(
        &[
            ("a.yaml.j2", "a: {{ nope }}\n".to_owned()),
            ("b.yaml.j2", pod("b", "      imagee: q\n")),
        ],
        Secrets::new(),
    ));
    assert_eq!(
        found,
        [
            "error: secure/a.yaml.j2:1: `nope` is undefined",
            "error: secure/b.yaml:9: spec.containers[0].imagee: unknown field; kubelet would ignore it silently",
        ]
    );
}

#[test]
fn ambiguous_scalars_are_errors_with_their_line() {
    let found = one(
        "      env:\n        - {name: A, value: yes}\n        - {name: B, value: \"no\"}\n        - name: C\n          value: 017\n",
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with(
            "error: secure/a.yaml:10: spec.containers[0].env[0].value: unquoted `yes`"
        ),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with(
            "error: secure/a.yaml:13: spec.containers[0].env[2].value: unquoted `017`"
        ),
        "{found:#?}"
    );
}

#[test]
fn other_line_ends_are_errors() {
    let found = one("      workingDir: \"/a\u{2028}b\"\n");
    assert!(
        found[0].starts_with("error: secure/a.yaml:9: holds a character"),
        "{found:#?}"
    );
}

#[test]
fn every_duplicate_key_is_an_error_with_its_line_and_told_once() {
    let found = one("      image: q\n      image: z\n");
    assert_eq!(
        found,
        [
            "error: secure/a.yaml:9: spec.containers[0].image: the key is already on line 8",
            "error: secure/a.yaml:10: spec.containers[0].image: the key is already on line 8",
        ]
    );
}

#[test]
fn text_that_is_no_yaml_is_an_error_with_its_line() {
    let found = shown(&input(
        &[("a.yaml.j2", "a: [\n".to_owned())],
        Secrets::new(),
    ));
    assert!(
        found.len() == 1 && found[0].starts_with("error: secure/a.yaml:2"),
        "{found:#?}"
    );
}

#[test]
fn kubelets_rules_come_with_the_line_of_the_field() {
    let found = one("  serviceAccountName: x\n");
    assert!(
        found[0]
            .starts_with("error: secure/a.yaml:9: spec.serviceAccountName: static pods may not"),
        "{found:#?}"
    );
}

#[test]
fn unknown_and_deprecated_flags_are_found() {
    let found = one("      command: [kube-scheduler, --nope, --profiling=false]\n");
    assert!(found[0].starts_with("error: secure/a.yaml:9: spec.containers[0].command[1]: kube-scheduler has no flag --nope"), "{found:#?}");
    assert!(found[1].starts_with("warning: secure/a.yaml:9: spec.containers[0].command[2]: --profiling of kube-scheduler is deprecated"), "{found:#?}");
}

#[test]
fn pods_are_checked_against_each_other() {
    let found = shown(&input(
        &[("a.yaml.j2", pod("x", "")), ("b.yaml.j2", pod("x", ""))],
        Secrets::new(),
    ));
    assert_eq!(
        found,
        ["error: secure/b.yaml: pod default/x is in several files: a.yaml, b.yaml"]
    );
}

fn mounting(path: &str, kind: &str) -> String {
    format!(
        "      command: [kube-scheduler, --config=/s/config, --kubeconfig=/other/x]\n      volumeMounts:\n        - {{name: s, mountPath: /s}}\n  volumes:\n    - name: s\n      hostPath:\n        path: {path}\n        type: {kind}\n"
    )
}

fn with_secrets(lines: &str, pods: &[&str]) -> Vec<String> {
    let secrets = pods
        .iter()
        .map(|pod| ((*pod).to_owned(), files(&[("config", "x")])))
        .collect();
    let mut found = shown(&input(&[("a.yaml.j2", pod("a", lines))], secrets));
    found.retain(|finding| !finding.contains("deprecated"));
    found
}

#[test]
fn a_secret_directory_that_is_there_is_fine() {
    assert_eq!(
        with_secrets(&mounting("{{ secret_dir('a') }}", "Directory"), &["a"]),
        [""; 0]
    );
}

#[test]
fn a_secret_directory_that_is_not_there_is_an_error() {
    let path = format!("/etc/kubernetes/secrets/a/{}", "0".repeat(64));
    for path in [
        path.as_str(),
        "/etc/kubernetes/secrets/a",
        "/etc/kubernetes/secrets",
    ] {
        let mut found = with_secrets(&mounting(path, "Directory"), &["a"]);
        found.retain(|finding| !finding.contains("no manifest mounts"));
        assert!(
            found.len() == 1
                && found[0].contains("spec.volumes[0].hostPath: there is no secret directory"),
            "{path}: {found:#?}"
        );
        assert!(
            found[0].starts_with("error: secure/a.yaml:14"),
            "{found:#?}"
        );
    }
}

#[test]
fn a_secret_directory_must_not_be_made_by_kubelet() {
    let found = with_secrets(
        &mounting("{{ secret_dir('a') }}", "DirectoryOrCreate"),
        &["a"],
    );
    assert!(
        found.len() == 1 && found[0].contains("must be mounted with type Directory"),
        "{found:#?}"
    );
}

#[test]
fn another_pods_secrets_are_an_error_and_unused_ones_a_warning() {
    let found = with_secrets(&mounting("{{ secret_dir('b') }}", "Directory"), &["a", "b"]);
    assert!(
        found[0].starts_with("warning: secrets/secure/a: no manifest mounts these files"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with(
            "error: secure/a.yaml:14: spec.volumes[0].hostPath: pod a mounts the secrets of b"
        ),
        "{found:#?}"
    );
}

#[test]
fn what_is_above_all_secrets_is_not_mounted() {
    for path in ["/", "/etc", "/etc/kubernetes/"] {
        let found = with_secrets(&mounting(path, "Directory"), &[]);
        assert!(
            found.len() == 1 && found[0].contains("is above the secrets of all pods"),
            "{path}: {found:#?}"
        );
    }
}

#[test]
fn a_flag_that_names_a_missing_secret_file_is_an_error() {
    let lines = mounting("{{ secret_dir('a') }}", "Directory")
        .replace("--config=/s/config", "--config=/s/confg");
    let found = with_secrets(&lines, &["a"]);
    assert_eq!(
        found,
        [
            "error: secure/a.yaml:9: spec.containers[0].command[1]: --config names /s/confg, and there is no such file\n  help: put it into secrets/secure/a/"
        ]
    );
}

#[test]
fn certificates_are_checked_and_those_that_end_soon_warned_about() {
    let mount = mounting("{{ secret_dir('a') }}", "Directory").replace("--config=/s/config, ", "");
    let certificate = |text: String| {
        let secrets = Secrets::from([("a".to_owned(), files(&[("ca.crt", &text)]))]);
        let mut found = shown(&input(&[("a.yaml.j2", pod("a", &mount))], secrets));
        found.retain(|finding| !finding.contains("deprecated"));
        found
    };
    assert_eq!(certificate(issue(2026, 2027)), [""; 0]);
    assert_eq!(
        certificate(issue(2024, 2025)),
        ["error: secrets/secure/a/ca.crt: the certificate expired at 2025-06-15T00:00:00Z"]
    );
    assert_eq!(
        certificate(issue(2026, 2026)),
        ["warning: secrets/secure/a: a certificate expires soon, at 2026-06-15T00:00:00Z"]
    );
    assert_eq!(
        certificate(String::new()),
        ["error: secrets/secure/a/ca.crt: holds no PEM certificate"]
    );
}

/// The manifests that platformctl ships must pass their own lint, with the files that manifests/README.md names.
#[test]
fn the_embedded_manifests_are_clean() {
    let readme = crate::render::EMBEDDED
        .iter()
        .find(|(path, _)| *path == "README.md")
        .unwrap()
        .1;
    for group in ["secure", "compute"] {
        let mut secrets = Secrets::new();
        for row in readme
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("| `secrets/{group}/")))
        {
            let (pod, cells) = row.split_once("/` |").unwrap();
            let names = cells.split('`').skip(1).step_by(2);
            let is_certificate = |name: &str| name.ends_with(".crt");
            let text = |name: &str| {
                if is_certificate(name) {
                    issue(2026, 2027)
                } else {
                    "x".to_owned()
                }
            };
            let named: Vec<(String, String)> =
                names.map(|name| (name.to_owned(), text(name))).collect();
            secrets.insert(
                pod.to_owned(),
                files(
                    &named
                        .iter()
                        .map(|(n, t)| (n.as_str(), t.as_str()))
                        .collect::<Vec<_>>(),
                ),
            );
        }
        let values = json!({
            "environment": "dev", "kubernetes_version": "1.36.3",
            "service_cidr": "10.96.0.0/12", "pod_cidr": "10.244.0.0/16", "aws_region": "eu-west-1", "secure_asg_min": 3,
            "cluster_authority": "0123",
        });
        let input = RenderInput {
            group: group.to_owned(),
            templates: TemplateSet::embedded(),
            values,
            secrets,
            stand_ins: false,
        };
        assert_eq!(shown(&input), [""; 0], "{group}");
    }
}

/// A set of addons with the pod that applies them and the rights file that platformctl ships.
fn addons(objects: &[(&str, &str)]) -> Vec<String> {
    let mut input = input(&[("addons.yaml.j2", pod("addons", ""))], Secrets::new());
    let rights = crate::render::EMBEDDED.iter();
    let path = "secure/files/addons/rights.yaml.j2";
    for (path, text) in rights.filter(|(p, _)| *p == path).chain(objects) {
        input.templates.add(path, text);
    }
    let mut found = shown(&input);
    found.retain(|finding| !finding.contains("no manifest mounts these files"));
    found
}

const CONFIG: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: kube-system}\n";

#[test]
fn a_clean_addon_gives_nothing() {
    assert_eq!(addons(&[("addons/a.yaml.j2", CONFIG)]), [""; 0]);
}

#[test]
fn an_addon_is_decoded_as_its_kind_with_the_line_of_the_whole_file() {
    let text = format!(
        "{CONFIG}---\n{}dta: {{x: z}}\n",
        CONFIG.replace("name: a", "name: b")
    );
    assert_eq!(
        addons(&[("addons/a.yaml.j2", &text)]),
        ["error: addons/a.yaml:8: dta: ConfigMap has no such field; the API server would drop it"]
    );
    let text = format!("{CONFIG}data: {{x: [1]}}\n");
    let found = addons(&[("addons/a.yaml.j2", &text)]);
    assert!(
        found.len() == 1 && found[0].contains("data.x: invalid type"),
        "{found:#?}"
    );
}

#[test]
fn two_addons_of_one_identity_are_an_error_across_files() {
    let found = addons(&[("addons/a.yaml.j2", CONFIG), ("addons/b.yaml.j2", CONFIG)]);
    assert_eq!(
        found,
        [
            "error: addons/b.yaml:3: metadata.name: ConfigMap kube-system/a is already in addons/a.yaml:3"
        ]
    );
}

#[test]
fn an_addon_stands_where_its_set_can_hold_it() {
    for (from, to, part) in [
        (
            ", namespace: kube-system",
            "",
            "an addon's namespace is written out",
        ),
        (
            "kube-system",
            "default",
            "an addon's namespace is kube-system",
        ),
        ("name: a, ", "", "an addon needs a name"),
        ("ConfigMap", "ConfigMep", "does not know v1 ConfigMep"),
        (
            "ConfigMap",
            "LimitRange",
            "may not get, list, create, patch, delete limitranges",
        ),
    ] {
        let found = addons(&[("addons/a.yaml.j2", &CONFIG.replace(from, to))]);
        assert!(
            found.len() == 1 && found[0].contains(part),
            "{part}: {found:#?}"
        );
    }
    let text = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n\
                metadata: {name: a, namespace: kube-system}\n";
    let found = addons(&[("addons/a.yaml.j2", text)]);
    assert!(
        found.len() == 1 && found[0].contains("a ClusterRole has no namespace"),
        "{found:#?}"
    );
}

#[test]
fn fields_of_configuration_files_are_checked_where_they_stand() {
    let mut input = input(&[("a.yaml.j2", pod("a", ""))], Secrets::new());
    input.templates.add(
        "secure/host/kubelet/config.yaml.j2",
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nauthentication:\n  x509:\n    clientCaFile: /x\n",
    );
    assert_eq!(
        shown(&input),
        [
            "error: secure/host/kubelet/config.yaml:5: authentication.x509.clientCaFile: \
             KubeletX509Authentication has no such field\n  help: did you mean clientCAFile?"
        ]
    );
}

#[test]
fn fields_of_secret_configuration_are_checked_and_its_values_not_told() {
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
                - resources: [secrets]\n  providers:\n  - secretbox: {kyes: [{name: a, secret: hunter2}]}\n";
    let secrets = Secrets::from([("a".to_owned(), files(&[("encryption.yaml", text)]))]);
    let mount = mounting("{{ secret_dir('a') }}", "Directory").replace("--config=/s/config, ", "");
    let found = shown(&input(&[("a.yaml.j2", pod("a", &mount))], secrets));
    let error = "error: secrets/secure/a/encryption.yaml: resources[0].providers[0].secretbox.kyes: \
                 SecretboxConfiguration has no such field";
    assert!(found.iter().any(|f| f.starts_with(error)), "{found:#?}");
    assert!(!format!("{found:?}").contains("hunter2"));
}

#[test]
fn a_mistake_in_node_yaml_is_told_with_its_field() {
    let mut input = input(&[("a.yaml.j2", pod("a", ""))], Secrets::new());
    let text = "restarts:\n  - {unit: kubelt.service, on: [host/kubelet]}\n";
    input.templates.add("secure/node.yaml", text);
    assert_eq!(
        shown(&input),
        [
            "error: secure/node.yaml: restarts[0].unit: \"kubelt.service\" is no unit that an agent restarts\n  \
             help: did you mean kubelet.service?"
        ]
    );
}

#[test]
fn a_secret_in_the_place_of_a_templates_file_is_a_warning() {
    let secrets = Secrets::from([("a".to_owned(), files(&[("config", "x")]))]);
    let mut input = input(&[("a.yaml.j2", pod("a", ""))], secrets);
    input.templates.add("secure/files/a/config.j2", "y");
    let found = shown(&input);
    assert!(
        found[1].starts_with("warning: secrets/secure/a/config: takes the place"),
        "{found:#?}"
    );
}

#[test]
fn findings_have_no_secret_in_them() {
    let secrets = Secrets::from([(
        "a".to_owned(),
        files(&[
            ("ca.crt", "hunter2"),
            (
                "b.key",
                "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n",
            ),
        ]),
    )]);
    let found = format!("{:?}", lint(&input(&[], secrets), now()));
    assert!(
        found.contains("b.key") && !found.contains("hunter2") && !found.contains("aHVudGVy"),
        "{found}"
    );
}
