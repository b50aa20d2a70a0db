//! Strict rendering: what a template does not know is an error with file and line, and all of them are reported.

use std::collections::BTreeMap;

use shared::check::secret_dir::digest_of;
use shared::check::yaml::parse_document;

use super::template::Template;
use super::templates::manifest_name;
use super::{RenderErrors, RenderFailure, RenderInput, Rendered, UNKNOWN_DIGEST, canonical};

/// Renders one group to canonical manifests.
///
/// # Errors
/// All failures of all its templates: syntax, undefined names, pods without secret files, and text that is not exactly
/// one YAML document with an equal reading in YAML 1.1 and 1.2.
pub fn render(input: &RenderInput) -> Result<Rendered, RenderErrors> {
    let (texts, mut failures) = render_texts(input);
    let mut manifests = BTreeMap::new();
    for (name, text) in texts {
        match parse_document(text.as_bytes()).and_then(|value| canonical(&value)) {
            Ok(bytes) => {
                manifests.insert(name, bytes);
            }
            Err(problems) => failures.extend(problems.into_iter().map(|problem| RenderFailure {
                file: format!("{}/{name}", input.group),
                line: problem.line,
                path: problem.path,
                message: problem.message,
                help: None,
            })),
        }
    }
    if failures.is_empty() {
        Ok(Rendered {
            manifests,
            secret_dirs: secret_dirs(input),
        })
    } else {
        Err(RenderErrors(failures))
    }
}

/// Renders one group's templates to text as they stand, by manifest name, with the failures beside them.
pub fn render_texts(input: &RenderInput) -> (BTreeMap<String, String>, Vec<RenderFailure>) {
    let mut texts = BTreeMap::new();
    let mut failures = Vec::new();
    let Some(templates) = input.templates.group(&input.group) else {
        let known: Vec<&str> = input.templates.groups().collect();
        failures.push(RenderFailure {
            file: format!("manifests/{}", input.group),
            line: None,
            path: None,
            message: "there is no such group".to_owned(),
            help: Some(format!("groups: {}", known.join(", "))),
        });
        return (texts, failures);
    };
    let digests = secret_dirs(input);
    for (name, source) in templates {
        match Template::new(input, &digests, name, source).render() {
            Ok(text) => {
                texts.insert(manifest_name(name), text);
            }
            Err(found) => failures.extend(found),
        }
    }
    (texts, failures)
}

/// The digest of each pod's secret directory; a pod without files has none.
pub fn secret_dirs(input: &RenderInput) -> BTreeMap<String, String> {
    let digest = |files| match input.stand_ins {
        true => UNKNOWN_DIGEST.to_owned(),
        false => digest_of(files),
    };
    let with_files = input.secrets.iter().filter(|(_, files)| !files.is_empty());
    with_files
        .map(|(pod, files)| (pod.clone(), digest(files)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use shared::check::secret_dir::{SecretBytes, SecretFile};

    use super::super::{Secrets, TemplateSet};
    use super::*;

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
            templates.add("secure", name, source);
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
            "service_cidr": "10.96.0.0/12", "pod_cidr": "10.244.0.0/16",
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
            "kube-scheduler",
        ];
        let secure = render(&embedded("secure", &pods)).unwrap();
        assert_eq!(secure.manifests.len(), 4);
        assert_eq!(secure.secret_dirs.len(), 4);
        let api = String::from_utf8(secure.manifests.get("kube-apiserver.yaml").unwrap().clone())
            .unwrap();
        assert!(api.contains("registry.k8s.io/kube-apiserver:v1.36.3"));
        assert!(api.contains(&format!(
            "/etc/kubernetes/secrets/kube-apiserver/{}",
            secure.secret_dirs["kube-apiserver"]
        )));

        assert_eq!(
            render(&embedded("compute", &["kube-proxy"]))
                .unwrap()
                .manifests
                .len(),
            1
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
}
