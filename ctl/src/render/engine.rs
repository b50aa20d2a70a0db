//! Strict rendering: what a template does not know is an error with file and line, and all of them are reported.

use std::collections::{BTreeMap, BTreeSet};

use shared::bundle::RolloutPolicy;
use shared::check::secret_dir::{SecretBytes, SecretFile, digest_of};
use shared::check::yaml::{YamlProblem, parse_document};

use super::addons::{ADDONS_OBJECTS, ADDONS_POD, list_of};
use super::template::Template;
use super::{
    NodeFile, RenderErrors, RenderFailure, RenderInput, Rendered, Secrets, UNKNOWN_DIGEST,
    canonical, parse_rollout,
};

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
    /// How a release of the group is rolled out.
    pub rollout: Option<RolloutPolicy>,
    /// Every file of every secret directory, rendered or not.
    pub secrets: Secrets,
    /// Templates' files in whose place a secret file of the same directory and name stands.
    pub replaced: BTreeSet<(String, String)>,
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
        rollout: texts.rollout.clone(),
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
        let is_replaced = texts.replaced.contains(&(dir.to_owned(), name.clone()));
        if let Some(bytes) = take(text, bytes).filter(|_| !is_replaced) {
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
    if let Some(text) = &templates.rollout {
        match parse_rollout(&format!("{group}/rollout.yaml"), text) {
            Ok(policy) => texts.rollout = policy,
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
    texts.merge_secrets(input);
    for (name, source) in &templates.pods {
        let text = text_of(format!("{group}/{name}"), source, Some(&texts.secret_dirs));
        texts.pods.extend(text.map(|text| (name.clone(), text)));
    }
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

    /// Brings what the templates made and what is secret together.
    fn merge_secrets(&mut self, input: &RenderInput) {
        let mut secrets = input.secrets.clone();
        let mut replaced = BTreeSet::new();
        for (dir, name, text, bytes) in self.secret_files() {
            let files = secrets.entry(dir.to_owned()).or_default();
            // An operator's own file takes the place of a template's.
            if files.contains_key(name) {
                replaced.insert((dir.to_owned(), name.clone()));
                continue;
            }
            // Text that can't be emitted is told by whoever emits it; here any bytes do.
            let bytes = bytes.unwrap_or_else(|_| text.text.clone().into_bytes());
            files.insert(name.clone(), template_file(bytes));
        }
        self.secrets = secrets;
        self.replaced = replaced;
        let with_files = self.secrets.iter().filter(|(_, files)| !files.is_empty());
        let digest = |files| match input.stand_ins {
            true => UNKNOWN_DIGEST.to_owned(),
            false => digest_of(files),
        };
        self.secret_dirs = with_files
            .map(|(pod, files)| (pod.clone(), digest(files)))
            .collect();
    }
}

fn template_file(bytes: Vec<u8>) -> SecretFile {
    SecretFile {
        bytes: SecretBytes::new(bytes),
        mode: FILE_MODE,
        owner: (0, 0),
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
mod tests;
