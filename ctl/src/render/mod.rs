//! From templates to the files of a release.
//!
//! `templates` finds them (embedded, or a working directory's own), `secrets` reads what the operator supplies,
//! `engine` renders strictly, `addons` and `node_file` know the two kinds that are no pod and no plain file, and
//! `canonical` emits the one form that every YAML reader reads alike.
//! The same input always gives the same bytes: nothing here looks at the clock, the environment or the network.

mod addons;
mod canonical;
mod embedded;
mod engine;
#[cfg(test)]
mod golden;
mod node_file;
mod rollout_file;
mod secrets;
mod template;
mod templates;

use std::collections::BTreeMap;
use std::fmt;

use shared::bundle::RolloutPolicy;

pub use addons::{ADDONS_OBJECTS, ADDONS_POD, Document, documents, list_of};
pub use canonical::canonical;
pub use embedded::EMBEDDED;
pub(crate) use engine::is_yaml;
pub use engine::{Text, Texts, render, render_texts, secret_dirs};
pub use node_file::{ArtifactPlace, EtcdRule, NodeFile, RESTARTABLE_UNITS, RestartRule};
pub use rollout_file::{parse_rollout, rollout_problems, timing_problems};
pub use secrets::{MAX_SECRET_FILE_BYTES, Secrets, SecretsError, read_secrets};
pub use templates::{GroupTemplates, TemplateSet, TemplatesError};

/// All that rendering one group depends on.
#[derive(Clone, Debug)]
pub struct RenderInput {
    /// The group, such as `secure`.
    pub group: String,
    /// The templates of all groups.
    pub templates: TemplateSet,
    /// The environment's facts, an object; `group` is added. Never a secret: rendered text is shown to people.
    pub values: serde_json::Value,
    /// Secret files by directory and name, that no template makes: the operators' own and those of the keyring.
    pub secrets: Secrets,
    /// Whether the files made from the keyring are stand-ins, because the keyring was not read. Then no digest of a
    /// secret directory is known, and [`UNKNOWN_DIGEST`] stands in each path.
    pub stand_ins: bool,
}

/// What is rendered in the place of a digest that only a keyring could tell.
pub const UNKNOWN_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What rendering one group gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Manifests in canonical form, by the file name they have on a node, such as `kube-apiserver.yaml`.
    pub manifests: BTreeMap<String, Vec<u8>>,
    /// The digest that names each pod's secret directory; a pod without files has none.
    pub secret_dirs: BTreeMap<String, String>,
    /// What the templates add to secret directories, by directory and name. None of it is secret.
    pub files: Secrets,
    /// Files of the host, by path below `host/`.
    pub host: BTreeMap<String, Vec<u8>>,
    /// What the group's machines need besides files.
    pub node: NodeFile,
    /// How a release of the group is rolled out; none means at once.
    pub rollout: Option<RolloutPolicy>,
}

impl Rendered {
    /// Every file by its path in a release. None holds a secret.
    pub fn by_path(&self) -> BTreeMap<String, &[u8]> {
        let mut all = BTreeMap::new();
        for (name, bytes) in &self.manifests {
            all.insert(format!("manifests/{name}"), bytes.as_slice());
        }
        for (dir, files) in &self.files {
            for (name, file) in files {
                all.insert(format!("secrets/{dir}/{name}"), file.bytes.expose());
            }
        }
        for (path, bytes) in &self.host {
            all.insert(format!("host/{path}"), bytes.as_slice());
        }
        all
    }
}

/// One thing that is wrong with a template or with what it rendered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderFailure {
    /// The template, such as `secure/etcd.yaml.j2`; or, when it rendered and the text is at fault, `secure/etcd.yaml`.
    pub file: String,
    /// Line in that file, from 1.
    pub line: Option<usize>,
    /// Path of the field, when the text rendered but can't be emitted.
    pub path: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that can be said.
    pub help: Option<String>,
}

impl fmt::Display for RenderFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(path) = &self.path {
            write!(f, ": {path}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// All failures of one rendering, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderErrors(pub Vec<RenderFailure>);

impl fmt::Display for RenderErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} problem(s) in the templates", self.0.len())?;
        self.0
            .iter()
            .try_for_each(|failure| write!(f, "\n  {failure}"))
    }
}

impl std::error::Error for RenderErrors {}
