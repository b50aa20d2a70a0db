//! Strict rendering: what a template does not know is an error with file and line, and all of them are reported.

use std::collections::BTreeMap;

use shared::check::secret_dir::{SecretBytes, SecretFile, digest_of};
use shared::check::yaml::{YamlProblem, parse_document};

use super::addons::{ADDONS_OBJECTS, ADDONS_POD, list_of};
use super::template::Template;
use super::{NodeFile, RenderErrors, RenderFailure, RenderInput, Rendered, Secrets, canonical};

/// Permission bits of every file that a template makes: whoever reads it is root.
const FILE_MODE: u32 = 0o600;

type Bytes = Result<Vec<u8>, Vec<YamlProblem>>;

/// One rendered template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The file that messages name: the template's path below `manifests/`, without `.j2`.
    pub file: String,
    /// What it rendered to.
    pub text: String,
}

/// All rendered templates of a group, by the name that each has on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// Static pods.
    pub pods: BTreeMap<String, Text>,
    /// Files of secret directories, by directory and name.
    pub files: BTreeMap<(String, String), Text>,
    /// Files of the host, by path below `host/`.
    pub host: BTreeMap<String, Text>,
    /// Files of API objects; empty in a group without the pod that applies them.
    pub addons: BTreeMap<String, Text>,
    /// What the group's machines need besides files.
    pub node: NodeFile,
    /// Every file of every secret directory, rendered or not.
    pub secrets: Secrets,
    /// The digest of each secret directory.
    pub secret_dirs: BTreeMap<String, String>,
}

/// Renders one group to the files of a release.
///
/// # Errors
/// All failures of all its templates: syntax, undefined names, pods without secret files, and text that is not exactly
/// one YAML document with an equal reading in YAML 1.1 and 1.2.
pub fn render(input: &RenderInput) -> Result<Rendered, RenderErrors> {
    let (texts, mut failures) = render_texts(input);
    let mut rendered = Rendered {
        manifests: BTreeMap::new(),
        secret_dirs: texts.secret_dirs.clone(),
        files: Secrets::new(),
        host: BTreeMap::new(),
        node: texts.node.clone(),
    };
    let mut take = |text: &Text, bytes: Bytes| match bytes {
        Ok(bytes) => Some(bytes),
        Err(problems) => {
            failures.extend(problems.into_iter().map(|problem| RenderFailure {
                file: text.file.clone(),
                line: problem.line,
                path: problem.path,
                message: problem.message,
                help: None,
            }));
            None
        }
    };
    for (name, text) in &texts.pods {
        let bytes = take(text, yaml_bytes(&text.text));
        rendered.manifests.extend(bytes.map(|b| (name.clone(), b)));
    }
    for (path, text) in &texts.host {
        let bytes = take(text, file_bytes(path, &text.text));
        rendered.host.extend(bytes.map(|b| (path.clone(), b)));
    }
    for (dir, name, text, bytes) in texts.secret_files() {
        if let Some(bytes) = take(text, bytes) {
            let files = rendered.files.entry(dir.to_owned()).or_default();
            files.insert(name.clone(), template_file(bytes));
        }
    }
    if failures.is_empty() {
        Ok(rendered)
    } else {
        Err(RenderErrors(failures))
    }
}

/// Renders one group's templates to text as they stand, with the failures beside them.
pub fn render_texts(input: &RenderInput) -> (Texts, Vec<RenderFailure>) {
    let mut texts = Texts::default();
    let mut failures = Vec::new();
    let group = &input.group;
    let Some(templates) = input.templates.group(group) else {
        let known: Vec<&str> = input.templates.groups().collect();
        failures.push(RenderFailure {
            file: format!("manifests/{group}"),
            line: None,
            path: None,
            message: "there is no such group".to_owned(),
            help: Some(format!("groups: {}", known.join(", "))),
        });
        texts.secrets = input.secrets.clone();
        return (texts, failures);
    };
    if let Some(text) = &templates.node {
        match NodeFile::parse(&format!("{group}/node.yaml"), text) {
            Ok(node) => texts.node = node,
            Err(found) => failures.extend(found),
        }
    }
    let mut text_of = |file: String, source: &str, digests: Option<&BTreeMap<String, String>>| {
        match Template::new(input, digests, &format!("{file}.j2"), source).render() {
            Ok(text) => Some(Text { file, text }),
            Err(found) => {
                failures.extend(found);
                None
            }
        }
    };
    for (path, source) in &templates.host {
        let text = text_of(format!("{group}/host/{path}"), source, None);
        texts.host.extend(text.map(|text| (path.clone(), text)));
    }
    for (place, source) in &templates.files {
        let (pod, name) = place;
        let text = text_of(format!("{group}/files/{pod}/{name}"), source, None);
        texts.files.extend(text.map(|text| (place.clone(), text)));
    }
    if templates.pods.contains_key(&format!("{ADDONS_POD}.yaml")) {
        for (name, source) in input.templates.addons() {
            let text = text_of(format!("addons/{name}"), source, None);
            texts.addons.extend(text.map(|text| (name.clone(), text)));
        }
    }
    let clashes = texts.merge_secrets(input);
    for (name, source) in &templates.pods {
        let text = text_of(format!("{group}/{name}"), source, Some(&texts.secret_dirs));
        texts.pods.extend(text.map(|text| (name.clone(), text)));
    }
    failures.extend(clashes);
    (texts, failures)
}

/// The digest of each secret directory; a pod without files has none.
pub fn secret_dirs(input: &RenderInput) -> BTreeMap<String, String> {
    render_texts(input).0.secret_dirs
}

impl Texts {
    /// What templates add to secret directories: directory, name, text, and the bytes that it becomes.
    fn secret_files(&self) -> impl Iterator<Item = (&str, &String, &Text, Bytes)> {
        let files = self.files.iter().map(|((dir, name), text)| {
            let bytes = file_bytes(name, &text.text);
            (dir.as_str(), name, text, bytes)
        });
        let addons = self.addons.iter().map(|(name, text)| {
            let bytes = list_of(&text.text).and_then(|list| canonical(&list));
            (ADDONS_OBJECTS, name, text, bytes)
        });
        files.chain(addons)
    }

    /// Brings what the templates made and what is secret together; a file can't be both.
    fn merge_secrets(&mut self, input: &RenderInput) -> Vec<RenderFailure> {
        let mut clashes = Vec::new();
        let mut secrets = input.secrets.clone();
        for (dir, name, text, bytes) in self.secret_files() {
            let files = secrets.entry(dir.to_owned()).or_default();
            if files.contains_key(name) {
                clashes.push(RenderFailure {
                    file: format!("{}.j2", text.file),
                    line: None,
                    path: None,
                    message: format!("{dir} already has a file {name}, which is a secret"),
                    help: Some(format!(
                        "remove one of them; an operator's own would be secrets/{}/{dir}/{name}",
                        input.group
                    )),
                });
                continue;
            }
            // Text that can't be emitted is told by whoever emits it; here any bytes do.
            let bytes = bytes.unwrap_or_else(|_| text.text.clone().into_bytes());
            files.insert(name.clone(), template_file(bytes));
        }
        self.secrets = secrets;
        let with_files = self.secrets.iter().filter(|(_, files)| !files.is_empty());
        self.secret_dirs = with_files
            .map(|(pod, files)| (pod.clone(), digest_of(files)))
            .collect();
        clashes
    }
}

fn template_file(bytes: Vec<u8>) -> SecretFile {
    SecretFile {
        bytes: SecretBytes::new(bytes),
        mode: FILE_MODE,
    }
}

/// A file's bytes: YAML in canonical form, anything else as it is.
fn file_bytes(name: &str, text: &str) -> Bytes {
    if is_yaml(name) {
        yaml_bytes(text)
    } else {
        Ok(text.as_bytes().to_vec())
    }
}

/// Whether a file's name says that it is YAML.
pub(crate) fn is_yaml(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}

fn yaml_bytes(text: &str) -> Bytes {
    canonical(&parse_document(text.as_bytes())?)
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
        }
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
