//! One template, rendered strictly, with all that it lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use shared::check::secret_dir::secret_dir_path;

use super::{RenderFailure, RenderInput, UNKNOWN_DIGEST};
use crate::env::{Cidr, CidrError};

/// After so many failures in one template the rest is left for the next run.
const MAX_FAILURES: usize = 50;

/// How alike (0 to 1) two names must be for "did you mean".
const LIKENESS: f64 = 0.8;

/// One template being rendered, perhaps several times: after a failure with stand-ins for what was missing, so that
/// the next failure shows too.
pub(super) struct Template<'a> {
    /// Its name in messages, such as `secure/etcd.yaml.j2`.
    file: String,
    source: &'a str,
    values: BTreeMap<String, Value>,
    environment: Environment<'a>,
    missing_pods: MissingPods,
}

/// Pods that `secret_dir` was asked for in vain; it answers the second call with a stand-in.
type MissingPods = Arc<Mutex<BTreeSet<String>>>;

impl<'a> Template<'a> {
    /// `file` is its path below `manifests/`. `digests` are those of the group's secret directories: only the template
    /// of a pod may name one.
    pub(super) fn new(
        input: &RenderInput,
        digests: Option<&BTreeMap<String, String>>,
        file: &str,
        source: &'a str,
    ) -> Self {
        let mut values: BTreeMap<String, Value> = BTreeMap::new();
        if let Some(object) = input.values.as_object() {
            values.extend(
                object
                    .iter()
                    .map(|(key, value)| (key.clone(), Value::from(Serde(value)))),
            );
        }
        values.insert("group".to_owned(), Value::from(input.group.clone()));

        let missing_pods = MissingPods::default();
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_syntax(
            SyntaxConfig::builder()
                .keep_trailing_newline(true)
                .build()
                .unwrap_or_default(),
        );
        environment.set_formatter(|out, state, value| match value.kind() {
            ValueKind::String | ValueKind::Number | ValueKind::Bool => {
                minijinja::escape_formatter(out, state, value)
            }
            kind => Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("a {kind} can't be printed"),
            )),
        });
        if let Some(digests) = digests {
            environment.add_function(
                "secret_dir",
                secret_dir_function(input, digests, missing_pods.clone()),
            );
        }
        environment.add_function("address", address);
        Self {
            file: file.to_owned(),
            source,
            values,
            environment,
            missing_pods,
        }
    }

    /// The text, or every failure.
    pub(super) fn render(mut self) -> Result<String, Vec<RenderFailure>> {
        if let Err(error) = self
            .environment
            .add_template_owned(self.file.clone(), self.source)
        {
            return Err(vec![self.failure(&error)]);
        }
        let mut failures = Vec::new();
        loop {
            let pods_before = self.missing_pod_count();
            let template = self.environment.get_template(&self.file);
            let error = match template
                .and_then(|template| template.render(Value::from_pairs(self.values.clone())))
            {
                Ok(text) if failures.is_empty() => return Ok(text),
                Ok(_) => return Err(failures),
                Err(error) => error,
            };
            let undefined = self.undefined_names_at(&error);
            if undefined.is_empty() {
                failures.push(self.failure(&error));
            }
            for name in &undefined {
                failures.push(self.undefined(&error, name));
            }
            self.values.extend(
                undefined
                    .iter()
                    .map(|name| (name.clone(), Value::from("undefined"))),
            );
            // Each round must have found something that it can now stand in for, or the next would fail alike.
            let progress = !undefined.is_empty() || self.missing_pod_count() > pods_before;
            if !progress || failures.len() >= MAX_FAILURES {
                return Err(failures);
            }
        }
    }

    fn missing_pod_count(&self) -> usize {
        self.missing_pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// The names without a value on the line where rendering stopped, in order; empty when that was no undefined name.
    fn undefined_names_at(&self, error: &Error) -> Vec<String> {
        if error.kind() != ErrorKind::UndefinedError {
            return Vec::new();
        }
        let line = error
            .line()
            .and_then(|n| self.source.lines().nth(n.saturating_sub(1)))
            .unwrap_or_default();
        let undeclared = match self.environment.get_template(&self.file) {
            Ok(template) => template.undeclared_variables(false),
            Err(_) => return Vec::new(),
        };
        let mut names = Vec::new();
        for word in line.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
            let is_undefined = undeclared.contains(word)
                && !self.values.contains_key(word)
                && !self.is_function(word);
            if is_undefined && !names.iter().any(|name| name == word) {
                names.push(word.to_owned());
            }
        }
        names
    }

    fn is_function(&self, name: &str) -> bool {
        self.environment.globals().any(|(global, _)| global == name)
    }

    fn failure(&self, error: &Error) -> RenderFailure {
        let mut message = match (error.kind(), error.detail()) {
            // The detail is the whole message of `secret_dir`.
            (ErrorKind::NonKey, Some(detail)) => detail.to_owned(),
            (kind, Some(detail)) => format!("{kind}: {detail}"),
            (kind, None) => kind.to_string(),
        };
        if error.kind() == ErrorKind::UndefinedError
            && let Some(line) = error
                .line()
                .and_then(|n| self.source.lines().nth(n.saturating_sub(1)))
        {
            message.push_str(&format!(" in `{}`", line.trim()));
        }
        RenderFailure {
            file: self.file.clone(),
            line: error.line(),
            path: None,
            message,
            help: None,
        }
    }

    fn undefined(&self, error: &Error, name: &str) -> RenderFailure {
        let known = self
            .values
            .iter()
            .filter(|(_, value)| value.as_str() != Some("undefined"))
            .map(|(key, _)| key);
        let nearest = known
            .map(|key| (strsim::jaro_winkler(key, name), key))
            .filter(|(likeness, _)| *likeness >= LIKENESS)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        RenderFailure {
            file: self.file.clone(),
            line: error.line(),
            path: None,
            message: format!("`{name}` is undefined"),
            help: nearest.map(|(_, key)| format!("did you mean `{key}`?")),
        }
    }
}

/// `address(cidr, n)`: the `n`th address of a network, counted from its own.
fn address(cidr: String, n: u32) -> Result<String, Error> {
    let refused = |why: String| Error::new(ErrorKind::NonKey, format!("`{cidr}` {why}"));
    let network: Cidr = cidr
        .parse()
        .map_err(|e: CidrError| refused(e.to_string()))?;
    network
        .nth(n)
        .map(|address| address.to_string())
        .ok_or_else(|| refused(format!("has no address of the number {n}")))
}

/// `secret_dir(pod)`: the path of the pod's secret directory on a node.
fn secret_dir_function(
    input: &RenderInput,
    digests: &BTreeMap<String, String>,
    missing: MissingPods,
) -> impl Fn(String) -> Result<String, Error> + Send + Sync + 'static {
    let group = input.group.clone();
    let stand_ins = input.stand_ins;
    let digests = digests.clone();
    move |pod: String| {
        if let Some(digest) = digests.get(&pod) {
            return Ok(secret_dir_path(&pod, digest));
        }
        // The keyring, which was not read, may hold files of this pod.
        if stand_ins {
            return Ok(secret_dir_path(&pod, UNKNOWN_DIGEST));
        }
        let first_time = missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pod.clone());
        if first_time {
            let message = format!(
                "pod `{pod}` has no secret files; put them into secrets/{group}/{pod}/ or the keyring"
            );
            return Err(Error::new(ErrorKind::NonKey, message));
        }
        Ok(secret_dir_path(&pod, UNKNOWN_DIGEST))
    }
}
